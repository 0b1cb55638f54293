//! Notifications (XEP-0060 §7.1.2.1, §7.2.2.1, §8): what an Event looks like on the wire. Pure functions; who is sent
//! what, and when, is decided elsewhere.

use bytes::Bytes;
use jid::Jid;

use super::envelope::{Xml, XmlWriter};
use super::{forms, ns};
use crate::domain::event::{Event, What};
use crate::domain::node_config::{NodeConfig, NotificationType};

/// The children of the message that tells of `event`: the part that all recipients share. `config`: of the node as it
/// is now; `payload`: what the Event pins, canonical XML.
///
/// `None` where XMPP subscribers are told nothing: the node's configuration says so, or it concerns HTTP alone.
pub fn event_body(event: &Event, config: &NodeConfig, payload: Option<&Bytes>) -> Option<Xml> {
    let node = event.node.name.as_str();
    let payload = payload.filter(|_| config.deliver_payloads);
    let mut w = XmlWriter::new();
    match &event.what {
        What::Published { item, publisher, .. } => {
            if !config.deliver_notifications {
                return None;
            }
            items(&mut w, node, item.as_str(), publisher.as_str(), payload);
        }
        What::LastItem { item, publisher, published, .. } => {
            items(&mut w, node, item.as_str(), publisher.as_str(), payload);
            // §6.1.7: an old item says how old it is (XEP-0203).
            w.open("delay", ns::DELAY).attr("from", event.node.service.as_str());
            w.attr("stamp", &published.rfc3339()).close();
        }
        What::Retracted { item, .. } => {
            w.open("event", ns::EVENT).open("items", "").attr("node", node);
            w.open("retract", "").attr("id", item.as_str());
        }
        What::Purged => {
            w.open("event", ns::EVENT).open("purge", "").attr("node", node);
        }
        What::Deleted => {
            if !config.notify_delete {
                return None;
            }
            w.open("event", ns::EVENT).open("delete", "").attr("node", node);
        }
        What::Configured => {
            if !config.notify_config {
                return None;
            }
            w.open("event", ns::EVENT).open("configuration", "").attr("node", node);
            // §8.2.5: the whole configuration goes where payloads go.
            if config.deliver_payloads {
                forms::configured(&mut w, config);
            }
        }
        What::Subscription { jid, subid, state } => {
            w.open("event", ns::EVENT).open("subscription", "").attr("node", node).attr("jid", jid.as_str());
            w.attr("subid", subid).attr("subscription", state.map_or("none", |state| state.as_str()));
        }
        What::Requested { jid, subid } => requested(&mut w, node, jid, subid),
        // The last one is told by a presence.
        What::Verify(_) | What::Closed | What::ContactEnded { .. } => return None,
    }
    Some(w.finish())
}

/// The `type` of that message: as the node is configured, but what a person must decide or know is never a headline,
/// which no server keeps for who is away.
pub fn message_type(event: &Event, config: &NodeConfig) -> &'static str {
    match (&event.what, config.notification_type) {
        (What::Requested { .. } | What::Subscription { .. }, _) | (_, NotificationType::Normal) => "normal",
        (_, NotificationType::Headline) => "headline",
    }
}

/// All subscriptions of one recipient that an Event is sent for (XEP-0060 §12.19, XEP-0131); goes behind the body.
pub fn subids(subids: &[&str]) -> Xml {
    let mut w = XmlWriter::new();
    if !subids.is_empty() {
        w.open("headers", ns::SHIM);
        for subid in subids {
            w.open("header", "").attr("name", "SubID").text(subid).close();
        }
    }
    w.finish()
}

fn items(w: &mut XmlWriter, node: &str, item: &str, publisher: &str, payload: Option<&Bytes>) {
    w.open("event", ns::EVENT).open("items", "").attr("node", node);
    w.open("item", "").attr("id", item).attr("publisher", publisher);
    if let Some(payload) = payload {
        w.xml(&Xml::canonical(payload.clone()));
    }
    w.close().close().close();
}

/// §8.6: the form that an owner says yes or no with, and the same in words for clients that show no forms.
fn requested(w: &mut XmlWriter, node: &str, jid: &Jid, subid: &str) {
    w.leaf("body", "", &format!("{jid} asks to be subscribed to {node}."));
    forms::open(w, "form", ns::AUTHORIZATION);
    w.leaf("title", "", "A request to subscribe").leaf(
        "instructions",
        "",
        "Choose whether this address may subscribe to your node.",
    );
    forms::field(w, "pubsub#subid", Some("hidden"), None, &[subid]);
    forms::field(w, "pubsub#node", Some("text-single"), Some("The node"), &[node]);
    forms::field(w, "pubsub#subscriber_jid", Some("jid-single"), Some("Who asks"), &[jid.as_str()]);
    forms::field(w, "pubsub#allow", Some("boolean"), Some("May this address subscribe?"), &["0"]);
    w.close();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::domain::event::NodeRef;
    use crate::domain::item::{ItemId, Version};
    use crate::domain::node::{NodeId, NodeKind, NodeName};
    use crate::domain::subscription::SubscriptionState;
    use jid::BareJid;

    fn event(what: What) -> Event {
        let node = NodeRef {
            id: NodeId(1),
            service: BareJid::new("alice@c.example").unwrap(),
            name: NodeName::parse("n & m").unwrap(),
            kind: NodeKind::Leaf,
        };
        Event { at: Timestamp::from_secs(1_000), node, node_seq: 1, what }
    }

    fn body(what: What, config: &NodeConfig) -> Option<String> {
        let payload = Bytes::from_static(b"<x xmlns=\"y\"/>");
        let body = event_body(&event(what), config, Some(&payload))?;
        Some(String::from_utf8(body.as_bytes().to_vec()).unwrap())
    }

    fn published() -> What {
        let publisher = BareJid::new("alice@c.example").unwrap();
        What::Published { item: ItemId::parse("i'1").unwrap(), version: Version(1), publisher }
    }

    const OPEN: &str = "<event xmlns='http://jabber.org/protocol/pubsub#event'>";

    #[test]
    fn a_publication_is_told_with_its_publisher_and_its_payload_if_the_node_delivers_payloads() {
        let config = NodeConfig::default_for(NodeKind::Leaf);
        let items = |inside: &str| Some(format!("{OPEN}<items node='n &amp; m'>{inside}</items></event>"));
        assert_eq!(
            body(published(), &config),
            items("<item id='i&apos;1' publisher='alice@c.example'><x xmlns=\"y\"/></item>")
        );
        let light = NodeConfig { deliver_payloads: false, ..config.clone() };
        assert_eq!(body(published(), &light), items("<item id='i&apos;1' publisher='alice@c.example'/>"));
        let silent = NodeConfig { deliver_notifications: false, ..config };
        assert_eq!(body(published(), &silent), None);
    }

    #[test]
    fn a_last_item_says_when_it_was_published() {
        let told = body(
            What::LastItem {
                jid: Jid::new("romeo@example.org").unwrap(),
                subid: "s".into(),
                item: ItemId::parse("1").unwrap(),
                version: Version(1),
                published: Timestamp::from_secs(0),
                publisher: BareJid::new("alice@c.example").unwrap(),
            },
            &NodeConfig::default_for(NodeKind::Leaf),
        );
        let delay = "<delay xmlns='urn:xmpp:delay' from='alice@c.example' stamp='1970-01-01T00:00:00Z'/>";
        assert!(told.is_some_and(|told| told.ends_with(delay)));
    }

    #[test]
    fn every_other_kind_of_event_has_the_form_of_its_section() {
        let config = NodeConfig { notify_config: true, ..NodeConfig::default_for(NodeKind::Leaf) };
        let (jid, subid) = (Jid::new("romeo@example.org").unwrap(), "s1".to_owned());
        let retracted = What::Retracted { item: ItemId::parse("1").unwrap(), atom_id: None };
        let approved =
            What::Subscription { jid: jid.clone(), subid: subid.clone(), state: Some(SubscriptionState::Subscribed) };
        let ended = What::Subscription { jid: jid.clone(), subid: subid.clone(), state: None };
        for (what, inside) in [
            (retracted, "<items node='n &amp; m'><retract id='1'/></items>"),
            (What::Purged, "<purge node='n &amp; m'/>"),
            (What::Deleted, "<delete node='n &amp; m'/>"),
            (approved, "<subscription node='n &amp; m' jid='romeo@example.org' subid='s1' subscription='subscribed'/>"),
            (ended, "<subscription node='n &amp; m' jid='romeo@example.org' subid='s1' subscription='none'/>"),
        ] {
            assert_eq!(body(what, &config), Some(format!("{OPEN}{inside}</event>")));
        }
        let told = body(What::Configured, &config).unwrap();
        assert!(told.contains("<configuration node='n &amp; m'><x xmlns='jabber:x:data' type='result'>"), "{told}");
        let asked = body(What::Requested { jid, subid }, &config).unwrap();
        assert!(asked.contains("<field var='pubsub#allow' type='boolean'"), "{asked}");
        assert_eq!(body(What::Configured, &NodeConfig::default_for(NodeKind::Leaf)), None);
    }

    #[test]
    fn a_persons_decision_is_never_asked_for_in_a_headline() {
        let config = NodeConfig::default_for(NodeKind::Leaf);
        let asked = What::Requested { jid: Jid::new("romeo@example.org").unwrap(), subid: "s".into() };
        assert_eq!(message_type(&event(asked), &config), "normal");
        assert_eq!(message_type(&event(published()), &config), "headline");
        let normal = NodeConfig { notification_type: NotificationType::Normal, ..config };
        assert_eq!(message_type(&event(published()), &normal), "normal");
    }

    #[test]
    fn the_shared_body_and_a_recipients_subids_make_one_message() {
        let headers = subids(&["a", "b"]);
        let text = std::str::from_utf8(headers.as_bytes()).unwrap();
        assert_eq!(
            text,
            "<headers xmlns='http://jabber.org/protocol/shim'><header name='SubID'>a</header>\
             <header name='SubID'>b</header></headers>"
        );
        assert!(subids(&[]).is_empty());
    }
}
