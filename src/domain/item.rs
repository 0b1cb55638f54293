//! Items: what a node holds (XEP-0060 §4.3), and who may see them.

use jid::BareJid;
use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;

/// The id of an item, unique in its node: 1 to 256 bytes without control characters, chosen by the client or by us.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an item id has 1 to 256 bytes, none of them control characters, and no white space at its ends")]
pub struct ItemIdError;

impl ItemId {
    pub const BYTES_MOST: usize = 256;

    pub fn parse(text: &str) -> Result<Self, ItemIdError> {
        // "." and ".." would be resolved away in a permalink.
        let fits = (1..=Self::BYTES_MOST).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.chars().any(char::is_control)
            && text.trim() == text;
        fits.then(|| ItemId(text.to_owned())).ok_or(ItemIdError)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A stored payload, immutable: what an Event pins and an item shows. Numbers are never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// Who may see an item, beside what the node's access model says. In the schema from the first version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Audience {
    /// Whoever may read the node.
    #[default]
    Node,
    /// Only the owner of the account and the publisher.
    Owner,
}

/// An item without its payload, which stands under `version`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Item {
    pub id: ItemId,
    /// The node's sequence when the item was first published: its place in the order. An edit keeps its place, as
    /// XEP-0413 §2 orders by creation.
    pub place: u64,
    pub version: Version,
    /// The Event that told of `version`.
    pub event: u64,
    pub published: Timestamp,
    pub updated: Timestamp,
    /// Who published it, bare: the Jabber account that may replace and retract it.
    pub publisher: BareJid,
    /// As whom it is shown: the virtual JID of the publisher's account, or the same address.
    pub author: BareJid,
    /// The `atom:id`, minted once; `None` where the payload is no Atom entry.
    pub atom_id: Option<String>,
    /// The id the client wrote, if another: an alias within its account.
    pub alias: Option<String>,
    pub audience: Audience,
    /// Bytes of the payload.
    pub size: u32,
    /// The verb's and title's text for lists, at most 80 characters.
    pub title: String,
}

/// A page of a result set (XEP-0059 §2).
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub max: Option<usize>,
    /// Behind this item.
    pub after: Option<String>,
    /// Before this item; `Some("")` is the last page (§2.5).
    pub before: Option<String>,
}
