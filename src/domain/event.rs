//! Events: changes in the state of a node or of a relation, which somebody will be told of (XEP-0060 §2, "event").

use jid::{BareJid, Jid};
use serde::{Deserialize, Serialize};

use super::hub::Intent;
use super::item::{ItemId, Version};
use super::node::{NodeId, NodeKind, NodeName};
use super::subscription::SubscriptionState;
use crate::base::clock::Timestamp;

/// A promise to tell. It is stored in the same Change as what it tells of, and ends when its last delivery has ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    pub node: NodeRef,
    /// The node's sequence after the change: subscriptions born at or after it are not told.
    pub node_seq: u64,
    pub what: What,
}

/// A node as an Event names it: still right after the node is gone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeRef {
    pub id: NodeId,
    pub service: BareJid,
    pub name: NodeName,
    pub kind: NodeKind,
}

/// What happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum What {
    /// XEP-0060 §7.1.2. The payload is pinned: it is told as it was, whatever came after.
    Published { item: ItemId, version: Version, publisher: BareJid },
    /// XEP-0060 §7.2.2. What it tells is in it: no payload is kept for it.
    Retracted { item: ItemId, atom_id: Option<String> },
    /// XEP-0060 §8.5.2.
    Purged,
    /// XEP-0060 §8.4.2. The subscribers' rows stay until they are told; a sweep removes them after.
    Deleted,
    /// XEP-0060 §8.2.5.
    Configured,
    /// To one subscriber: the state of the subscription (XEP-0060 §8.6, §8.8.4); `None` means that it ended.
    Subscription { jid: Jid, subid: String, state: Option<SubscriptionState> },
    /// To one subscriber: the last published item (XEP-0060 §6.1.7).
    LastItem { jid: Jid, subid: String, item: ItemId, version: Version, published: Timestamp, publisher: BareJid },
    /// To the owners: somebody asks to be approved (XEP-0060 §8.6).
    Requested { jid: Jid, subid: String },
    /// To one HTTP subscriber: the hub asks for its intent (WebSub §5.3).
    Verify(Intent),
    /// To the HTTP subscribers: the feed is not public any more, and their subscriptions end (WebSub §5.2).
    Closed,
    /// To a contact of an account that is over: its presence subscription is too (RFC 6121 §3.2). The Event is of no node:
    /// it names the microblog, by the number 0.
    ContactEnded { jid: BareJid },
}

impl What {
    /// The payload that this Event pins.
    pub fn version(&self) -> Option<Version> {
        match self {
            What::Published { version, .. } | What::LastItem { version, .. } => Some(*version),
            _ => None,
        }
    }
}
