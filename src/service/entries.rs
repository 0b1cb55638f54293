//! What becomes of a payload before it is kept: made canonical, and in microblog and comments nodes completed as an
//! ActivityStreams Atom entry whose author is who published.

use bytes::Bytes;
use jid::BareJid;

use super::publish::Payload;
use super::{Decided, Inner, Registration, of_hosts};
use crate::domain::address::{LocalName, Whom};
use crate::domain::error::{Over, Refusal};
use crate::domain::item::{Item, ItemId};
use crate::domain::node::{NodeKind, NodeName};
use crate::format::atom::{self, Author, CompletedEntry, Completion, EntryError};
use crate::format::canonical::{Canonical, CanonicalError, Limits};
use crate::store::Read;

/// A payload that was read and found good; not yet completed.
#[derive(Clone)]
pub(super) enum Draft {
    /// Kept as it is.
    Element(Canonical),
    /// To be completed.
    Entry(Canonical),
    /// A post typed as text.
    Text(String),
}

/// Who is shown as the author of a post.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Writer {
    /// The virtual JID of an account, or the publisher's own address.
    pub jid: BareJid,
    /// The account, if it is one of ours.
    name: Option<LocalName>,
}

impl Writer {
    /// The publisher's own address.
    pub fn plain(by: &BareJid) -> Self {
        Writer { jid: by.clone(), name: None }
    }
}

/// What is to be stored.
pub(super) struct Prepared {
    pub payload: Bytes,
    pub atom_id: Option<String>,
    pub alias: Option<String>,
    pub title: String,
}

impl Prepared {
    /// For an item that carries nothing: a pure notification (XEP-0060 §4.3).
    pub fn empty() -> Self {
        Prepared { payload: Bytes::new(), atom_id: None, alias: None, title: String::new() }
    }
}

impl Draft {
    pub fn read(payload: &Payload, kind: NodeKind) -> Result<Self, Refusal> {
        match payload {
            Payload::Text(text) => Ok(Draft::Text(text.clone())),
            Payload::Xml { raw, scope } => {
                let scope: Vec<(&str, &str)> = scope.iter().map(|(p, ns)| (p.as_str(), ns.as_str())).collect();
                let element = Canonical::new(raw, &scope, &Limits::ENTRY).map_err(|error| match error.into() {
                    // It was not read to its end, but as it came its length is known.
                    Refusal::PayloadTooBig(Over { size, most }) => {
                        Refusal::PayloadTooBig(Over { size: raw.len().max(size), most })
                    }
                    refusal => refusal,
                })?;
                Ok(if kind.holds_entries() { Draft::Entry(element) } else { Draft::Element(element) })
            }
        }
    }
}

impl From<CanonicalError> for Refusal {
    fn from(error: CanonicalError) -> Self {
        match error {
            CanonicalError::TooLong(most) => Refusal::PayloadTooBig(Over { size: most.saturating_add(1), most }),
            _ => Refusal::InvalidPayload,
        }
    }
}

impl From<EntryError> for Refusal {
    fn from(error: EntryError) -> Self {
        match error {
            EntryError::Canonical(error) => error.into(),
            _ => Refusal::InvalidPayload,
        }
    }
}

impl Inner {
    /// As whom `by` writes at `service`: the account there if it is theirs or about to be, else one of their own, else
    /// the Jabber address.
    pub(super) fn writer(&self, r: &dyn Read, service: &BareJid, by: &BareJid) -> Decided<Writer> {
        let of = |name: &LocalName| Writer { jid: self.addresses.virtual_jid(name), name: Some(name.clone()) };
        if let Some(Whom::Local(name)) = self.addresses.whom(service) {
            match r.account(&name)? {
                Some(account) if account.owner == *by && account.is_active() => return Ok(of(&name)),
                None if self.is_namesake(&name, by) => return Ok(of(&name)),
                _ => {}
            }
        }
        Ok(match r.accounts_of(by)?.iter().find(|account| account.is_active()) {
            Some(account) => of(&account.name),
            None => Writer::plain(by),
        })
    }

    /// Whether a first write of `by` makes the account `name`.
    pub(super) fn is_namesake(&self, name: &LocalName, by: &BareJid) -> bool {
        let rules = self.rules();
        rules.registration != Registration::Closed
            && of_hosts(by, &rules.auto_register_hosts)
            && name.can_be_given()
            && by.node().is_some_and(|local| local.as_str() == name.as_str())
    }

    /// Makes of a draft what is stored as item `id`; `edited`: the item it replaces, whose identity and date stay.
    pub(super) fn prepare(
        &self,
        draft: &Draft,
        service: &BareJid,
        node: &NodeName,
        id: &ItemId,
        writer: &Writer,
        edited: Option<&Item>,
    ) -> Result<Prepared, Refusal> {
        if let Draft::Element(element) = draft {
            return Ok(Prepared { payload: Bytes::copy_from_slice(element.as_bytes()), ..Prepared::empty() });
        }
        let now = self.clock.now();
        let published = edited.map_or(now, |item| item.published);
        let kind = NodeKind::of(node, true);
        let atom_id = match edited.and_then(|item| item.atom_id.clone()) {
            Some(atom_id) => atom_id,
            None => {
                let class = if kind == NodeKind::Comments { "comment" } else { "post" };
                self.addresses.tag(&published.day(), class, &self.ids.token(16))
            }
        };
        let comments = NodeName::comments(id);
        let account = writer.name.as_ref();
        let acct = account.map(|name| format!("{name}@{}", self.addresses.acct_domain));
        let page = account.map(|name| self.addresses.profile_url(name));
        let permalink = match (self.addresses.whom(service), kind) {
            (Some(Whom::Local(name)), NodeKind::Microblog) => Some(self.addresses.permalink(&name, id.as_str())),
            _ => None,
        };
        let ctx = Completion {
            id: &atom_id,
            published,
            updated: now,
            author: Author {
                name: account.map_or_else(
                    || writer.jid.node().map_or(writer.jid.domain().as_str(), |local| local.as_str()),
                    LocalName::as_str,
                ),
                jid: writer.jid.as_str(),
                acct: acct.as_deref(),
                page: page.as_deref(),
            },
            permalink: permalink.as_deref(),
            service: service.as_str(),
            node: node.as_str(),
            item: id.as_str(),
            comments: (kind == NodeKind::Microblog).then_some((service.as_str(), comments.as_str())),
        };
        let completed = match draft {
            Draft::Text(text) => atom::from_text(text, &ctx)?,
            Draft::Entry(element) => match atom::complete(element, &ctx) {
                // XEP-0277 §2.3: item "0" of a microblog may be the feed's metadata. It is kept, and never shown as a post.
                Err(EntryError::IsFeed) if kind == NodeKind::Microblog => {
                    return Ok(Prepared { payload: Bytes::copy_from_slice(element.as_bytes()), ..Prepared::empty() });
                }
                completed => completed?,
            },
            Draft::Element(_) => return Err(Refusal::InvalidPayload),
        };
        let CompletedEntry { payload, title, alias } = completed;
        let title = title.chars().take(80).collect();
        Ok(Prepared { payload: payload.into_string().into(), atom_id: Some(atom_id), alias, title })
    }
}
