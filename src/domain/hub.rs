//! The hub's side of WebSub and PubSubHubbub 0.3/0.4: HTTP subscribers of our feeds.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::base::clock::Timestamp;

/// Leases in seconds: what is granted if nothing is asked, and the bounds of what may be.
pub const LEASE_DEFAULT: u64 = 10 * 24 * 3600;
pub const LEASE_LEAST: u64 = 300;
pub const LEASE_MOST: u64 = 30 * 24 * 3600;

/// What a subscriber asked the hub for, waiting for the verification of its intent (WebSub §5.1, §5.3).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    pub mode: Mode,
    /// The URL of the topic, our own feed, as the subscriber wrote it: it compares ours with its own.
    pub topic: String,
    pub callback: String,
    /// What the subscription will be signed with; fewer than 200 bytes (WebSub §5.1).
    pub secret: Option<String>,
    /// Granted, in seconds.
    pub lease_seconds: u64,
    /// Sent back to the callback, compared with its answer: never stored by the subscriber before.
    pub challenge: String,
    /// COMPAT: PubSubHubbub 0.3; Friendica and Hubzilla refuse a verification that does not echo it.
    pub verify_token: Option<String>,
    /// Which digest the subscriber is taken to understand.
    pub digest: Digest,
}

/// The host name of a callback, by which requests and subscriptions are counted.
pub fn host_of(callback: &str) -> String {
    let url = Url::parse(callback).ok();
    url.as_ref().and_then(Url::host_str).unwrap_or("?").to_owned()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    Subscribe,
    Unsubscribe,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Subscribe => "subscribe",
            Mode::Unsubscribe => "unsubscribe",
        }
    }
}

/// The digest of `X-Hub-Signature` (WebSub §7.1). No negotiation exists: PuSH 0.3/0.4 knows only sha1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Digest {
    Sha1,
    Sha256,
}

/// A verified HTTP subscriber of one topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HubSubscription {
    /// Ours, never given twice: the name of its destination.
    pub id: u64,
    pub topic: String,
    pub callback: String,
    pub secret: Option<String>,
    pub digest: Digest,
    /// When the lease ends.
    pub until: Timestamp,
    /// The node's sequence at its birth.
    pub born: u64,
    /// The number of the Event of the newest intent that was verified: an older one, verified late, changes nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub intent: u64,
}

/// A row of an earlier version, which knew no intents, is written as it was.
fn is_zero(n: &u64) -> bool {
    *n == 0
}
