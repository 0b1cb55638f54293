//! How much the edge takes on: token buckets per sender and host, and a bound on the requests in work. All of it is
//! decided from a stanza's head and size, before anything in it is parsed.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};

use jid::BareJid;

use crate::base::clock::{Clock, Moment};

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
    /// Refusals to one bare JID that is over its rate, and to all users of a host: who floods us is not answered stanza
    /// for stanza, which would double the flood.
    pub told_jid: Rate,
    pub told_host: Rate,
    /// Answers to the chat words of one bare JID: two bots that talk to one another come to an end.
    pub chat: Rate,
    /// Hosts whose users have no rate, only a bound on what is in work.
    pub trusted_hosts: Vec<String>,
    /// Requests in work, of everybody and of one bare JID. Who has few is let in beyond the first by a tenth: a crowd that
    /// fills it keeps nobody else out.
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
            told_jid: Rate { per_second: 1.0, burst: 100.0 },
            told_host: Rate { per_second: 10.0, burst: 1_000.0 },
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

/// Buckets of one kind that are kept at once. Beyond it, all who come new share one until others have filled up again.
const REMEMBERED: usize = 100_000;

/// A sender who has less than this in work has few.
const FEW: usize = 16;

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
    /// Begins as [`Limits::trusted_hosts`].
    trusted: Vec<String>,
    jids: Buckets,
    hosts: Buckets,
    told_jids: Buckets,
    told_hosts: Buckets,
    chats: Buckets,
    work: Work,
    of_one: HashMap<BareJid, Work>,
    shut: bool,
    turned_away: TurnedAway,
}

/// What was not taken on, since the start.
#[derive(Clone, Copy, Default, Debug)]
pub struct TurnedAway {
    /// Stanzas of who was over their rate, or whose host was.
    pub over_rate: u64,
    /// Stanzas for which there was no room.
    pub no_room: u64,
}

#[derive(Clone, Copy, Default)]
struct Work {
    requests: usize,
    bytes: usize,
}

impl Gate {
    pub fn new(limits: Limits, clock: Clock) -> Self {
        let state = Mutex::new(State { trusted: limits.trusted_hosts.clone(), ..State::default() });
        Gate(Arc::new(Inner { limits, clock, state }))
    }

    /// From now on the users of these hosts, and of no others, have no rate.
    pub fn trust(&self, hosts: Vec<String>) {
        self.lock().trusted = hosts;
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Counts one stanza of `from`, whatever it is.
    pub fn count(&self, from: &BareJid) -> Counted {
        let limits = &self.0.limits;
        let host = from.domain().as_str();
        let now = self.0.clock.moment();
        let mut state = self.lock();
        let state = &mut *state;
        if state.trusted.iter().any(|trusted| trusted == host) {
            return Counted::Within;
        }
        // The sender's bucket first: one who is over it takes nothing from the others of that host.
        if state.jids.take(from, limits.per_jid, now) && state.hosts.take(host, limits.per_host, now) {
            return Counted::Within;
        }
        state.turned_away.over_rate += 1;
        let tell =
            state.told_jids.take(from, limits.told_jid, now) && state.told_hosts.take(host, limits.told_host, now);
        Counted::Over { tell }
    }

    /// Takes on the work of one stanza, until the permit is dropped. `None`: too much at the moment.
    pub fn admit(&self, from: &BareJid, bytes: usize) -> Option<Permit> {
        let limits = &self.0.limits;
        let mut state = self.lock();
        let state = &mut *state;
        if state.shut {
            return None;
        }
        let fits = |work: Work, requests: usize, most: usize| {
            work.requests == 0 || (work.requests < requests && work.bytes.saturating_add(bytes) <= most)
        };
        let one = state.of_one.get(from).copied().unwrap_or_default();
        let kept = |most: usize| if one.requests < FEW { most / 10 } else { 0 };
        let (requests, most) = (limits.in_work, limits.bytes_in_work);
        if !fits(state.work, requests + kept(requests), most + kept(most))
            || !fits(one, limits.in_work_of_one, limits.bytes_in_work_of_one)
        {
            state.turned_away.no_room += 1;
            return None;
        }
        state.work.add(bytes);
        state.of_one.entry(from.clone()).or_default().add(bytes);
        Some(Permit { gate: self.clone(), from: from.clone(), bytes })
    }

    /// Whether the chat words of `from` are answered once more.
    pub fn chat(&self, from: &BareJid) -> bool {
        let now = self.0.clock.moment();
        self.lock().chats.take(from, self.0.limits.chat, now)
    }

    /// Lets nobody in from now on.
    pub fn shut(&self) {
        self.lock().shut = true;
    }

    pub fn turned_away(&self) -> TurnedAway {
        self.lock().turned_away
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

/// What a stanza came to, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    Within,
    /// Its sender, or their host, sends too much. `tell`: whether they are told once more.
    Over {
        tell: bool,
    },
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

/// The buckets of one kind, by a hash of whose they are: strangers choose how long their addresses are.
#[derive(Default)]
struct Buckets {
    all: HashMap<u64, Bucket>,
    hasher: RandomState,
    /// Of all those who have none of their own.
    shared: Option<Bucket>,
    swept: Moment,
}

struct Bucket {
    tokens: f64,
    at: Moment,
}

impl Buckets {
    fn take(&mut self, key: impl Hash, rate: Rate, now: Moment) -> bool {
        let key = self.hasher.hash_one(key);
        if self.all.len() >= REMEMBERED && !self.all.contains_key(&key) && now.since(self.swept).as_secs() >= 1 {
            // A full bucket says no more than none.
            self.all.retain(|_, bucket| bucket.filled(rate, now) < rate.burst);
            self.swept = now;
        }
        let full = || Bucket { tokens: rate.burst, at: now };
        let bucket = match self.all.len() < REMEMBERED || self.all.contains_key(&key) {
            true => self.all.entry(key).or_insert_with(full),
            false => self.shared.get_or_insert_with(full),
        };
        bucket.tokens = bucket.filled(rate, now);
        bucket.at = now;
        let there = bucket.tokens >= 1.0;
        if there {
            bucket.tokens -= 1.0;
        }
        there
    }
}

impl Bucket {
    fn filled(&self, rate: Rate, now: Moment) -> f64 {
        (self.tokens + now.since(self.at).as_secs_f64() * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
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
        let taken = |who: &BareJid| (0..10).filter(|_| gate.count(who) == Counted::Within).count();
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
        let within = |user: BareJid| gate.count(&user) == Counted::Within;
        let come = |host: &str| (0..5).filter(|n| within(jid(&format!("u{n}@{host}")))).count();
        assert_eq!((come("away.example"), come("home.example")), (2, 5));
        gate.trust(vec!["away.example".into()]);
        assert_eq!((come("away.example"), come("home.example")), (5, 2), "an administrator thought again");
    }

    #[test]
    fn who_is_over_the_rate_is_told_so_only_so_often() {
        let none = Rate { per_second: 0.0, burst: 0.0 };
        let told_jid = Rate { per_second: 1.0, burst: 3.0 };
        let told_host = Rate { per_second: 0.0, burst: 5.0 };
        let (gate, clock) = gate(Limits { per_jid: none, told_jid, told_host, ..Limits::default() });
        let told = |who: &str| (0..10).filter(|_| gate.count(&jid(who)) == Counted::Over { tell: true }).count();
        assert_eq!(told("juliet@example.org"), 3);
        clock.advance(Duration::from_secs(1));
        assert_eq!(told("juliet@example.org"), 1);
        assert_eq!((told("romeo@example.org"), told("nurse@elsewhere.example")), (1, 3), "five for the host");
    }

    #[test]
    fn a_crowd_that_fills_the_room_keeps_out_nobody_who_has_few_in_work() {
        let (gate, _) = gate(Limits { in_work: 100, ..Limits::default() });
        let crowd: Vec<Permit> =
            (0..200).filter_map(|n| gate.admit(&jid(&format!("c{}@example.org", n % 4)), 1)).collect();
        assert_eq!((crowd.len(), gate.turned_away().no_room), (100, 100));
        let late: Vec<Permit> = (0..20).filter_map(|_| gate.admit(&jid("juliet@example.org"), 1)).collect();
        assert_eq!(late.len(), 10);
    }

    #[test]
    fn beyond_the_buckets_that_are_kept_strangers_share_one() {
        let rate = Rate { per_second: 1.0, burst: 2.0 };
        let mut buckets = Buckets::default();
        let now = Moment(1_000_000_000);
        assert_eq!((0..REMEMBERED).filter(|n| buckets.take(n, rate, now)).count(), REMEMBERED);
        let taken = |buckets: &mut Buckets, now| (0..10).filter(|n| buckets.take(REMEMBERED + n, rate, now)).count();
        assert_eq!(taken(&mut buckets, now), 2, "all together");
        assert_eq!(buckets.all.len(), REMEMBERED);
        // Filled up again, the old ones make room: each new one has their own.
        assert_eq!(taken(&mut buckets, now.plus(Duration::from_secs(1))), 10);
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
