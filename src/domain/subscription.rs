//! Affiliations (XEP-0060 §4.1) and subscriptions (§4.2).

use jid::Jid;
use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;

/// What a bare JID is to a node (XEP-0060 §4.1, table 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub enum Affiliation {
    Owner,
    Publisher,
    PublishOnly,
    Member,
    #[default]
    None,
    Outcast,
}

impl Affiliation {
    pub const ALL: [Affiliation; 6] = [
        Affiliation::Owner,
        Affiliation::Publisher,
        Affiliation::PublishOnly,
        Affiliation::Member,
        Affiliation::None,
        Affiliation::Outcast,
    ];

    /// The word of XEP-0060's `affiliation` attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Affiliation::Owner => "owner",
            Affiliation::Publisher => "publisher",
            Affiliation::PublishOnly => "publish-only",
            Affiliation::Member => "member",
            Affiliation::None => "none",
            Affiliation::Outcast => "outcast",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == word)
    }
}

/// The state of a subscription (XEP-0060 §4.2, table 2). `none` is the absence of one; `unconfigured` never occurs,
/// since no node requires configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SubscriptionState {
    Pending,
    Subscribed,
}

impl SubscriptionState {
    pub fn as_str(self) -> &'static str {
        match self {
            SubscriptionState::Pending => "pending",
            SubscriptionState::Subscribed => "subscribed",
        }
    }
}

/// One subscription of one JID to one node. One per JID and node: a second request gets the first again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// As it asked: bare or full.
    pub jid: Jid,
    pub subid: String,
    pub state: SubscriptionState,
    /// The node's sequence at its birth: nothing that happened before is sent to it.
    pub born: u64,
    pub since: Timestamp,
}

/// A contact of a virtual JID, approved and kept: what access model `presence` asks for (XEP-0060 §4.5).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Contact {
    pub since: Timestamp,
}
