//! How much the edge takes on: token buckets per sender and host, and a bound on the requests in work. All of it is
//! decided from a stanza's head and size, before anything in it is parsed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use jid::BareJid;

use crate::base::clock::{Clock, Timestamp};

/// A token bucket: so many a second on the long run, so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

/// What the edge takes on. Sizes in bytes of whole stanzas.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Stanzas of one bare JID.
    pub per_jid: Rate,
    /// Stanzas of all users of one host.
    pub per_host: Rate,
    /// Answers to the chat words of one bare JID: two bots that talk to one another come to an end.
    pub chat: Rate,
    /// Hosts whose users have no rate, only a bound on what is in work.
    pub trusted_hosts: Vec<String>,
    /// Requests in work, of everybody and of one bare JID.
    pub in_work: usize,
    pub in_work_of_one: usize,
    /// Their bytes; a single request is always taken.
    pub bytes_in_work: usize,
    pub bytes_in_work_of_one: usize,
    /// The largest answer; Prosody ends the stream above 512 KiB.
    pub answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            per_jid: Rate { per_second: 2_000.0, burst: 10_000.0 },
            per_host: Rate { per_second: 20_000.0, burst: 50_000.0 },
            chat: Rate { per_second: 0.5, burst: 20.0 },
            trusted_hosts: Vec::new(),
            in_work: 10_000,
            in_work_of_one: 2_000,
            bytes_in_work: 128 << 20,
            bytes_in_work_of_one: 32 << 20,
            answer_bytes: 480_000,
        }
    }
}

/// Senders and hosts that are remembered at once. Beyond it, who comes new has no bucket of their own for a moment;
/// the host's bucket and the bounds on what is in work hold all the same.
const REMEMBERED: usize = 100_000;

/// The door of the edge; cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    limits: Limits,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    jids: Buckets<BareJid>,
    hosts: Buckets<String>,
    chats: Buckets<BareJid>,
    work: Work,
    of_one: HashMap<BareJid, Work>,
}

#[derive(Clone, Copy, Default)]
struct Work {
    requests: usize,
    bytes: usize,
}

impl Gate {
    pub fn new(limits: Limits, clock: Clock) -> Self {
        Gate(Arc::new(Inner { limits, clock, state: Mutex::default() }))
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Lets in one stanza of `from`, until the permit is dropped. `None`: too much at the moment.
    pub fn admit(&self, from: &BareJid, bytes: usize) -> Option<Permit> {
        let limits = &self.0.limits;
        let now = self.0.clock.now();
        let mut state = self.lock();
        let state = &mut *state;
        let host = from.domain().as_str();
        if !limits.trusted_hosts.iter().any(|trusted| trusted == host) {
            // The sender's bucket first: one who is over it takes nothing from the others of that host.
            if !state.jids.take(from, limits.per_jid, now) || !state.hosts.take(host, limits.per_host, now) {
                return None;
            }
        }
        let fits = |work: Work, requests: usize, most: usize| {
            work.requests == 0 || (work.requests < requests && work.bytes.saturating_add(bytes) <= most)
        };
        let one = state.of_one.get(from).copied().unwrap_or_default();
        if !fits(state.work, limits.in_work, limits.bytes_in_work)
            || !fits(one, limits.in_work_of_one, limits.bytes_in_work_of_one)
        {
            return None;
        }
        state.work.add(bytes);
        state.of_one.entry(from.clone()).or_default().add(bytes);
        Some(Permit { gate: self.clone(), from: from.clone(), bytes })
    }

    /// Whether the chat words of `from` are answered once more.
    pub fn chat(&self, from: &BareJid) -> bool {
        let now = self.0.clock.now();
        self.lock().chats.take(from, self.0.limits.chat, now)
    }

    /// Permits that are out.
    pub fn in_work(&self) -> usize {
        self.lock().work.requests
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Work {
    fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// A request in work. Dropping it makes room.
pub struct Permit {
    gate: Gate,
    from: BareJid,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.work.remove(self.bytes);
        if let Some(one) = state.of_one.get_mut(&self.from) {
            one.remove(self.bytes);
            if one.requests == 0 {
                state.of_one.remove(&self.from);
            }
        }
    }
}

struct Buckets<K> {
    all: HashMap<K, Bucket>,
    swept: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Buckets { all: HashMap::new(), swept: Timestamp::default() }
    }
}

impl<K: Eq + Hash> Buckets<K> {
    fn take<Q>(&mut self, key: &Q, rate: Rate, now: Timestamp) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(bucket) = self.all.get_mut(key) {
            bucket.tokens = bucket.filled(rate, now);
            bucket.at = now;
            let there = bucket.tokens >= 1.0;
            if there {
                bucket.tokens -= 1.0;
            }
            return there;
        }
        if self.all.len() >= REMEMBERED && now.since(self.swept).as_secs() >= 1 {
            // A full bucket says no more than none.
            self.all.retain(|_, bucket| bucket.filled(rate, now) < rate.burst);
            self.swept = now;
        }
        if self.all.len() < REMEMBERED {
            self.all.insert(key.to_owned(), Bucket { tokens: rate.burst - 1.0, at: now });
        }
        rate.burst >= 1.0
    }
}

impl Bucket {
    fn filled(&self, rate: Rate, now: Timestamp) -> f64 {
        (self.tokens + now.since(self.at).as_secs_f64() * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn gate(limits: Limits) -> (Gate, Clock) {
        let clock = Clock::manual(Timestamp::from_secs(1_000));
        (Gate::new(limits, clock.clone()), clock)
    }

    fn jid(text: &str) -> BareJid {
        BareJid::new(text).unwrap()
    }

    #[test]
    fn a_bucket_empties_fills_again_and_is_each_senders_own() {
        let rate = Rate { per_second: 2.0, burst: 3.0 };
        let (gate, clock) = gate(Limits { per_jid: rate, ..Limits::default() });
        let (juliet, romeo) = (jid("juliet@example.org"), jid("romeo@example.org"));
        let taken = |who: &BareJid| (0..10).filter(|_| gate.admit(who, 1).is_some()).count();
        assert_eq!((taken(&juliet), taken(&romeo)), (3, 3));
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(&juliet), 2);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(taken(&juliet), 3);
    }

    #[test]
    fn users_of_one_host_share_its_bucket_unless_it_is_trusted() {
        let per_host = Rate { per_second: 1.0, burst: 2.0 };
        let limits = Limits { per_host, trusted_hosts: vec!["home.example".into()], ..Limits::default() };
        let (gate, _) = gate(limits);
        let come = |host: &str| (0..5).filter(|n| gate.admit(&jid(&format!("u{n}@{host}")), 1).is_some()).count();
        assert_eq!((come("away.example"), come("home.example")), (2, 5));
    }

    #[test]
    fn what_is_in_work_is_bounded_by_number_and_bytes_and_makes_room_when_done() {
        let limits = Limits { in_work: 3, in_work_of_one: 2, bytes_in_work_of_one: 100, ..Limits::default() };
        let (gate, _) = gate(limits);
        let (juliet, romeo) = (jid("juliet@example.org"), jid("romeo@example.org"));
        let big = gate.admit(&juliet, 1_000).expect("a single one is always taken");
        assert!(gate.admit(&juliet, 1).is_none());
        drop(big);
        let (a, b) = (gate.admit(&juliet, 1).unwrap(), gate.admit(&juliet, 1).unwrap());
        assert!(gate.admit(&juliet, 1).is_none());
        let c = gate.admit(&romeo, 1).unwrap();
        assert!(gate.admit(&romeo, 1).is_none(), "three in all");
        drop((a, b, c));
        assert!(gate.in_work() == 0 && gate.lock().of_one.is_empty());
        assert!(gate.admit(&romeo, 1).is_some());
    }
}
