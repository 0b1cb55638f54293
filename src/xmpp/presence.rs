//! Presence at virtual JIDs (RFC 6121 §3, §4.3): whoever asks is approved and kept, and sees the account online.

use jid::{BareJid, Jid};

use super::dispatch::{Out, Request};
use super::envelope::{Head, Stanza, StanzaType, Xml};
use crate::domain::address::Whom;

/// The resource that is always there: presence comes from a full JID only.
const RESOURCE: &str = "rookery";

/// What a presence asks of us; what it does not ask is passed over.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    Subscribe,
    Unsubscribe,
    Probe,
}

impl Asked {
    pub fn read(head: &Head) -> Option<Asked> {
        match head.type_ {
            StanzaType::Subscribe => Some(Asked::Subscribe),
            StanzaType::Unsubscribe => Some(Asked::Unsubscribe),
            StanzaType::Probe => Some(Asked::Probe),
            _ => None,
        }
    }
}

pub(super) async fn come(r: Request, asked: Asked, out: &Out) {
    let (service, contact) = (r.service(), r.from.to_bare());
    let answers = Answers { own: r.to.clone(), contact: contact.clone(), out };
    if !matches!(r.whom, Whom::Service | Whom::Local(_)) {
        // Nobody there: no, in the way that presence has for it.
        if !matches!(asked, Asked::Unsubscribe) {
            answers.send(false, Some("unsubscribed"), Xml::default());
        }
        return;
    }
    let caps = r.edge.caps().presence(r.to.node().is_some());
    match asked {
        Asked::Subscribe => match service.add_contact(r.turn, r.to, contact).await {
            Ok(()) => {
                answers.send(false, Some("subscribed"), Xml::default());
                answers.send(true, None, caps);
            }
            Err(refusal) if is_passing(refusal) => {}
            Err(_) => answers.send(false, Some("unsubscribed"), Xml::default()),
        },
        Asked::Unsubscribe => {
            // RFC 6121 §3.3.3: it is told, and sees us go. If it could not be done now, it asks again.
            if service.remove_contact(r.turn, r.to, contact).await.is_ok() {
                for stanza in ended(&answers.own, &answers.contact) {
                    out(stanza);
                }
            }
        }
        Asked::Probe => match service.is_contact(r.turn, r.to, contact).await {
            Ok(true) => answers.send(true, None, caps),
            // RFC 6121 §4.3.2: who is no contact is told so.
            Ok(false) => answers.send(false, Some("unsubscribed"), Xml::default()),
            Err(_) => {}
        },
    }
}

/// Whether trying again may help: then nothing is said that would end the asking.
fn is_passing(refusal: crate::domain::error::Refusal) -> bool {
    refusal.row().kind == crate::domain::error::ErrorType::Wait
}

/// What a contact is told whose presence subscription is over (RFC 6121 §3.2.2): that it is, and that nobody is there.
pub(super) fn ended(own: &BareJid, contact: &BareJid) -> [Stanza; 2] {
    [(false, "unsubscribed"), (true, "unavailable")]
        .map(|(full, type_)| stanza(own, contact, full, Some(type_), Xml::default()))
}

fn stanza(own: &BareJid, contact: &BareJid, full: bool, type_: Option<&str>, body: Xml) -> Stanza {
    let own = match full {
        true => own.with_resource_str(RESOURCE).map_or_else(|_| own.clone().into(), Jid::from),
        false => Jid::from(own.clone()),
    };
    Stanza::presence(&own, &contact.clone().into(), type_, None, body)
}

struct Answers<'a> {
    own: BareJid,
    contact: BareJid,
    out: &'a Out,
}

impl Answers<'_> {
    fn send(&self, full: bool, type_: Option<&str>, body: Xml) {
        (self.out)(stanza(&self.own, &self.contact, full, type_, body));
    }
}
