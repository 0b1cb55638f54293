//! Atom entries that speak ActivityStreams (RFC 4287, RFC 4685, XEP-0277, XEP-0472, OStatus): one tolerant reader, one writer, and
//! the completion of what a person publishes.

mod complete;
mod reader;
mod writer;

pub use complete::{Author, CompletedEntry, Completion, EntryError, complete, from_text, title_from};
pub use reader::{Document, read, read_entry, read_feed};
pub use writer::write;
pub(crate) use writer::{push_link, push_person};

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::format::canonical::{Canonical, Limits};

    pub(crate) fn context() -> Completion<'static> {
        Completion {
            id: "tag:social.example,2026-11-22:alice/one",
            published: Timestamp::from_secs(1_795_320_124),
            updated: Timestamp::from_secs(1_795_320_200),
            author: Author {
                name: "Alice",
                jid: "alice@social.example",
                acct: Some("alice@social.example"),
                page: Some("https://social.example/@alice"),
            },
            permalink: Some("https://social.example/@alice/one"),
            service: "alice@social.example",
            node: "urn:xmpp:microblog:0",
            item: "one",
            comments: Some(("alice@social.example", "urn:xmpp:microblog:0:comments/one")),
        }
    }

    /// An entry with these children.
    pub(crate) fn entry(children: &str) -> Canonical {
        let text = format!("<entry xmlns='http://www.w3.org/2005/Atom'>{children}</entry>");
        Canonical::new(text.as_bytes(), &[], &Limits::ENTRY).unwrap()
    }
}
