//! Deliveries: promises to destinations, their outcomes, and the arithmetic of trying again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::node::NodeId;
use crate::base::clock::Timestamp;

/// A delivery is given up, and reported, after this long.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Whoever asked to be verified does not wait longer than this.
const MAX_AGE_INTENT: Duration = Duration::from_secs(6 * 3600);

/// Where deliveries go, in order per destination.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Destination {
    /// The XMPP subscribers of a node: one delivery with a cursor over them.
    Subscribers(NodeId),
    /// One JID, for what concerns only it; bare, so that all its resources keep one order.
    Jid(String),
    /// A verified HTTP subscriber, by the number of its subscription.
    Hub(u64),
    /// A callback whose intent is being verified, by the number of the Event that asks.
    Intent(u64),
}

impl Destination {
    /// How old a delivery to it may become.
    pub fn max_age(&self) -> Duration {
        match self {
            Destination::Intent(_) => MAX_AGE_INTENT,
            _ => MAX_AGE,
        }
    }

    /// Whether its row outlives its deliveries, so that people can see how it fared.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Destination::Hub(_))
    }

    /// A key that orders by kind; the inverse is not needed, since rows carry the destination.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Destination::Subscribers(nid) => [b"n".as_slice(), &nid.0.to_be_bytes()].concat(),
            Destination::Jid(jid) => [b"j".as_slice(), jid.as_bytes()].concat(),
            Destination::Hub(id) => [b"h".as_slice(), &id.to_be_bytes()].concat(),
            Destination::Intent(id) => [b"i".as_slice(), &id.to_be_bytes()].concat(),
        }
    }
}

/// One promise: an Event to a destination.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// The number of the Event.
    pub event: u64,
    pub at: Timestamp,
    /// How far a fan-out is proved handed over: the key of the last subscriber behind a barrier.
    #[serde(default, with = "serde_bytes")]
    pub cursor: Vec<u8>,
}

/// How a delivery went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Handed over.
    Done,
    /// Not now. `after`: what the other side asked for (Retry-After), else the schedule decides.
    Retry { why: String, after: Option<Duration>, scope: Scope },
    /// The destination does not want to hear from us again: its subscription ends.
    Gone(String),
    /// This one will never be accepted; the next may be.
    Refused(String),
}

/// Whose trouble a failure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Of the whole host (DNS, connect, TLS, 429, 503): one probe gates all its destinations.
    Host,
    /// Of this destination alone: its host answered.
    Destination,
    /// Of this delivery alone; it says nothing of the host, good or bad.
    Task,
}

/// How a destination or host has fared; kept while it has something due, or failed lately.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// Failures since the last success.
    pub failures: u32,
    /// Not before this.
    pub not_before: Timestamp,
    /// The newest results, newest last; at most [`Health::KEPT`].
    pub results: Vec<Attempt>,
}

/// One attempt, for people to read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attempt {
    pub at: Timestamp,
    pub took_ms: u64,
    pub ok: bool,
    pub words: String,
}

impl Health {
    pub const KEPT: usize = 5;

    /// Until when to wait, seen at `now`: not at all if the clock was set back since the last attempt, or the wait would
    /// be longer than it was meant to be.
    pub fn waits_until(&self, now: Timestamp) -> Timestamp {
        match self.results.last() {
            Some(last) if last.at > now => now,
            _ => self.not_before,
        }
    }

    pub fn note(&mut self, attempt: Attempt) {
        if attempt.ok {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        if self.results.len() >= Self::KEPT {
            self.results.remove(0);
        }
        self.results.push(attempt);
    }
}

/// How long to wait after `failures` failures in a row: 5 s, doubling, at most 6 h, and up to a quarter more
/// (`jitter`: 0 up to 1) so that a crowd that fell together does not rise together.
pub fn back_off(failures: u32, jitter: f64) -> Duration {
    let base = 5u64.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(6 * 3600);
    Duration::from_secs(base).mul_f64(1.0 + 0.25 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_from_five_seconds_to_six_hours() {
        assert_eq!(back_off(0, 0.0), Duration::from_secs(5));
        assert_eq!(back_off(1, 0.0), Duration::from_secs(5));
        assert_eq!(back_off(2, 0.0), Duration::from_secs(10));
        assert_eq!(back_off(4, 0.0), Duration::from_secs(40));
        assert_eq!(back_off(u32::MAX, 0.0), Duration::from_secs(6 * 3600));
        assert_eq!(back_off(1, 1.0), Duration::from_millis(6250));
    }

    #[test]
    fn health_keeps_the_newest_results_and_forgets_failures_at_a_success() {
        let mut health = Health::default();
        for i in 0..7 {
            health.note(Attempt { at: Timestamp(i), took_ms: 1, ok: i == 6, words: String::new() });
            assert_eq!(health.failures, if i == 6 { 0 } else { i as u32 + 1 });
        }
        assert_eq!(health.results.first().map(|a| a.at), Some(Timestamp(2)));
    }
}
