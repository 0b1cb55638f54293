//! Nodes: where items are published and subscribers are kept (XEP-0060 §4).

use jid::BareJid;
use serde::{Deserialize, Serialize};

use super::item::ItemId;
use super::node_config::{AccessModel, NodeConfig};
use crate::base::clock::Timestamp;

/// The microblog of an account (XEP-0277 §2, XEP-0472).
pub const MICROBLOG: &str = "urn:xmpp:microblog:0";
/// What the names of comments nodes begin with (XEP-0277 §3); the item id follows.
pub const COMMENTS: &str = "urn:xmpp:microblog:0:comments/";

/// The name of a node at its service: 1 to 1,023 bytes without control characters (XEP-0060 §4.6, "NodeID").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node's name has 1 to 1023 bytes, none of them control characters")]
pub struct NodeNameError;

impl NodeName {
    pub fn parse(text: &str) -> Result<Self, NodeNameError> {
        let fits = (1..=1023).contains(&text.len()) && !text.chars().any(char::is_control);
        fits.then(|| NodeName(text.to_owned())).ok_or(NodeNameError)
    }

    pub fn microblog() -> Self {
        NodeName(MICROBLOG.to_owned())
    }

    pub fn comments(item: &ItemId) -> Self {
        NodeName(format!("{COMMENTS}{}", item.as_str()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The item that this node's items comment on, if it is named as a comments node.
    pub fn commented_item(&self) -> Option<ItemId> {
        self.0.strip_prefix(COMMENTS).and_then(|id| ItemId::parse(id).ok())
    }
}

/// Where a node is found: XEP-0060 §4.6, "JID+NodeID".
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeAddress {
    /// `C`, or the virtual JID of an account.
    pub service: BareJid,
    pub name: NodeName,
}

/// The internal id of a node. Never used again: a node deleted and made anew under the same name is another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// What a node is for; decides what a payload must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NodeKind {
    /// `urn:xmpp:microblog:0` of an account: completed Atom entries, served over HTTP.
    Microblog,
    /// Comments on one item: completed Atom entries.
    Comments,
    /// Any other node: payloads as they came, made canonical.
    Leaf,
}

impl NodeKind {
    /// The kind of a node called `name` at an account (`at_account`) or at the component.
    pub fn of(name: &NodeName, at_account: bool) -> Self {
        match (at_account, name.as_str()) {
            (true, MICROBLOG) => NodeKind::Microblog,
            (true, other) if other.starts_with(COMMENTS) => NodeKind::Comments,
            _ => NodeKind::Leaf,
        }
    }

    /// Whether items are completed Atom entries.
    pub fn holds_entries(self) -> bool {
        !matches!(self, NodeKind::Leaf)
    }
}

/// A leaf node. Changes of configuration replace this row; what changes with each publish is in [`NodeState`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    /// Where it stands: `C`, or the virtual JID of an account.
    pub service: BareJid,
    pub name: NodeName,
    pub kind: NodeKind,
    /// Who made it. Further owners are affiliations.
    pub creator: BareJid,
    pub created: Timestamp,
    pub config: NodeConfig,
    /// The access model of the posts that a comments node belongs to: lent where the node is read, never stored.
    #[serde(skip)]
    pub posts: Option<AccessModel>,
}

impl Node {
    /// Who may read it: a comments node without a model of its own follows the posts it belongs to.
    pub fn access(&self) -> AccessModel {
        match (self.config.access_model, self.posts) {
            (AccessModel::Open, Some(posts)) => posts,
            (own, _) => own,
        }
    }
}

/// The figures of a node that each publish moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodeState {
    /// Grows by one with each change a subscriber is told of.
    pub seq: u64,
    pub items: u64,
    /// Bytes of all payloads kept.
    pub bytes: u64,
    /// Subscriptions in state `subscribed`.
    pub subscribers: u64,
    /// Items with a place up to this were purged or trimmed: nobody sees them; a sweep removes what is left of them.
    #[serde(default)]
    pub floor: u64,
    /// When what a reader of the node sees changed last: also by what leaves no trace in the items, as a retraction.
    #[serde(default)]
    pub changed: Timestamp,
}
