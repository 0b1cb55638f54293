//! What can go wrong with the link, in words that say what to do next.

use std::io;

use crate::xmpp::envelope::{Envelope, ns};
use crate::xmpp::framer::StreamFault;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error(
        "nothing listens at {server} (connection refused): start the XMPP server, or set component.server to its \
         component port (Prosody: component_ports, usually 5347, opened by a restart after the Component was added; \
         ejabberd: a listener with module ejabberd_service)"
    )]
    Refused { server: String },
    #[error("{server} cannot be reached: {why}: check component.server, name resolution and firewalls")]
    Unreachable { server: String, why: String },
    #[error("{server} did not answer in time: check that it is the XMPP server's component port")]
    Slow { server: String },
    #[error(
        "what answers at {server} is no component port ({why}): set component.server to the port for components \
         (XEP-0114), not the one for clients, servers or the web"
    )]
    NotAComponentPort { server: String, why: String },
    #[error(
        "the server refused our secret for {jid}: component.secret must be the same as the server's (Prosody: \
         component_secret below Component \"{jid}\"; ejabberd: hosts/{jid}/password of the ejabberd_service listener, \
         which gives the same answer if it does not know {jid} at all)"
    )]
    WrongSecret { jid: String },
    #[error(
        "the server closed the connection at the handshake for {jid} without a word: most likely component.secret \
         differs from the server's; its log says more"
    )]
    ClosedAtHandshake { jid: String },
    #[error(
        "the server does not know the component {jid}: add it there (Prosody: Component \"{jid}\"; ejabberd: below \
         hosts of the ejabberd_service listener), restart Prosody or reload ejabberd, or correct component.jid"
    )]
    HostUnknown { jid: String },
    #[error(
        "another connection is already attached to the server as {jid}: stop the other process; if there is none, the \
         server has not yet noticed that an old connection is dead, and we try again until it has"
    )]
    Conflict { jid: String },
    #[error("the server is shutting down; we attach again once it is back")]
    Shutdown,
    #[error(
        "the server ended the stream because of a stanza from a foreign address (invalid-from): this is a mistake in \
         Rookery, please report it with the log"
    )]
    InvalidFrom,
    #[error(
        "the server ended the stream: {condition}{}: its log says more; if this repeats, look at the limits that it \
         sets for components (Prosody: component_stanza_size_limit; ejabberd: max_stanza_size, shaper)",
        said(.text)
    )]
    Policy { condition: String, text: String },
    #[error("the server ended the stream: {condition}{}", said(.text))]
    Stream { condition: String, text: String },
    #[error("the server closed the connection; its log says why")]
    Closed,
    #[error("the connection broke: {why}")]
    Broken { why: String },
    #[error("the server sent what is no XMPP stream: {0}")]
    Framing(#[from] StreamFault),
    #[error("the server has been silent for {seconds} seconds, although we asked: the connection is dead")]
    Silent { seconds: u64 },
    #[error(
        "the server does not read what we write: it hangs, or is limited by a shaper (ejabberd: shaper_rule: none)"
    )]
    NotReading,
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

impl Trouble {
    pub(super) fn connecting(server: &str, e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::ConnectionRefused => Trouble::Refused { server: server.to_owned() },
            _ => Trouble::Unreachable { server: server.to_owned(), why: e.to_string() },
        }
    }

    /// A `stream:error` (RFC 6120 §4.9), if `envelope` is one.
    pub(super) fn of_stream(envelope: &Envelope, jid: &str) -> Option<Self> {
        if envelope.name != "error" || envelope.ns != ns::STREAMS {
            return None;
        }
        let named =
            |c: &&_| -> bool { matches!(c, crate::xmpp::envelope::Child { ns, .. } if ns == ns::STREAM_ERRORS) };
        let text = envelope.child("text", ns::STREAM_ERRORS).and_then(|c| envelope.child_element(c).ok());
        // What the server says is a text for people, and bounded before it comes into a log.
        let text = text.map(|t| t.text().chars().take(200).collect()).unwrap_or_default();
        let condition = envelope.children.iter().filter(named).find(|c| c.name != "text");
        let condition = condition.map_or("undefined-condition", |c| &c.name);
        let jid = jid.to_owned();
        Some(match condition {
            "not-authorized" => Trouble::WrongSecret { jid },
            "host-unknown" | "host-gone" => Trouble::HostUnknown { jid },
            "conflict" => Trouble::Conflict { jid },
            "system-shutdown" => Trouble::Shutdown,
            "invalid-from" => Trouble::InvalidFrom,
            "policy-violation" | "resource-constraint" => Trouble::Policy { condition: condition.to_owned(), text },
            _ => Trouble::Stream { condition: condition.to_owned(), text },
        })
    }

    /// Whether only an administrator can end it: then there is no hurry to try again.
    pub(super) fn needs_hands(&self) -> bool {
        matches!(
            self,
            Trouble::WrongSecret { .. }
                | Trouble::ClosedAtHandshake { .. }
                | Trouble::HostUnknown { .. }
                | Trouble::NotAComponentPort { .. }
        )
    }
}
