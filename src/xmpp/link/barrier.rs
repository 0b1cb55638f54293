//! Which of the stanzas written are known to be read: pings between them, and who waits for which.
//!
//! A server reads a stream in order, so the answer to a ping proves that all before the ping was read. This is the
//! bookkeeping alone; the lanes put the pings in their place.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::base::clock::Moment;

/// Pings that may be under way at once.
const PINGS_MAX: usize = 4;
/// And with their repetitions: a server that has much to read answers the first of them long after the last was sent.
const REPEATED_MAX: usize = 128;
/// While one ping is under way, the next waits for so many stanzas more (or for the first to return).
const PING_EVERY: u64 = 256;
/// For so long a ping waits for more to prove: else each notification costs the server a ping, and the store a write.
pub(super) const GATHER: Duration = Duration::from_millis(10);

/// One session's barrier. Positions count its fan-out stanzas from 1.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    /// Number of the ping, the position up to which it proves, and when it was queued.
    pings: VecDeque<(u64, u64, Moment)>,
    last_ping: u64,
    /// Up to here a queued or answered ping proves.
    covered: u64,
    confirmed: u64,
    /// Somebody who is not covered has waited for [`GATHER`].
    due: bool,
    waiters: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Barrier {
    /// `None` if `position` is confirmed already.
    pub fn wait(&mut self, position: u64) -> Option<oneshot::Receiver<()>> {
        if position <= self.confirmed {
            return None;
        }
        let (tx, rx) = oneshot::channel();
        self.waiters.entry(position).or_default().push(tx);
        Some(rx)
    }

    /// Who waits for `position` has done so for [`GATHER`].
    pub fn gathered(&mut self, position: u64) {
        self.due |= position > self.covered;
    }

    /// The number of a ping to be queued now, behind everything up to `written`; `None` if those under way will do.
    pub fn ping_due(&mut self, written: u64, now: Moment) -> Option<u64> {
        let uncovered = self.waiters.last_key_value().is_some_and(|(position, _)| *position > self.covered);
        let soon = (self.due && self.pings.is_empty()) || written.saturating_sub(self.covered) >= PING_EVERY;
        if !uncovered || !soon || self.pings.len() >= PINGS_MAX {
            return None;
        }
        Some(self.ping(written, now))
    }

    /// The number of a ping to be queued because an earlier one has had no answer for `patience`: where
    /// two processes share our name, the other one may have got it.
    pub fn repeat(&mut self, written: u64, patience: Duration, now: Moment) -> Option<u64> {
        // The newest counts: a repetition is itself repeated only after the same time.
        if self.pings.back().is_none_or(|(.., at)| now.since(*at) < patience) {
            return None;
        }
        if self.pings.len() >= REPEATED_MAX {
            // A later ping proves as much as the oldest did.
            self.pings.pop_front();
        }
        Some(self.ping(written, now))
    }

    fn ping(&mut self, written: u64, now: Moment) -> u64 {
        self.last_ping += 1;
        self.covered = written;
        self.due = false;
        self.pings.push_back((self.last_ping, written, now));
        self.last_ping
    }

    /// The answer to a ping, whatever it says. False if no such ping is under way.
    pub fn pong(&mut self, number: u64) -> bool {
        let Some(at) = self.pings.iter().position(|(n, ..)| *n == number) else { return false };
        // Answers come in order; should one be missing, a later one proves as much.
        for (_, covers, _) in self.pings.drain(..=at) {
            self.confirmed = self.confirmed.max(covers);
        }
        let still = self.waiters.split_off(&(self.confirmed + 1));
        for waiter in std::mem::replace(&mut self.waiters, still).into_values().flatten() {
            let _ = waiter.send(());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(0);
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_pong_confirms_what_was_before_its_ping_and_no_more() {
        let mut b = Barrier::default();
        let (mut one, mut two) = (b.wait(1).unwrap(), b.wait(2).unwrap());
        assert_eq!(b.ping_due(1, NOW), None, "more may come to be proved with it");
        b.gathered(1);
        assert_eq!(b.ping_due(1, NOW), Some(1));
        b.gathered(2);
        assert_eq!(b.ping_due(2, NOW), None, "one ping at a time for few stanzas");
        assert!(!b.pong(7));
        assert!(b.pong(1));
        assert!(!b.pong(1), "an answer counts once");
        assert_eq!(one.try_recv(), Ok(()));
        assert!(two.try_recv().is_err());
        assert_eq!(b.ping_due(2, NOW), Some(2));
        assert!(b.pong(2));
        assert_eq!(two.try_recv(), Ok(()));
        assert!(b.wait(2).is_none());
        b.gathered(2);
        assert_eq!(b.ping_due(9, NOW), None, "nobody waits");
    }

    #[test]
    fn a_ping_without_an_answer_is_repeated_and_either_answer_will_do() {
        let mut b = Barrier::default();
        let mut one = b.wait(1).unwrap();
        assert_eq!(b.repeat(1, PATIENCE, NOW), None, "nothing was asked");
        b.gathered(1);
        assert_eq!(b.ping_due(1, NOW), Some(1));
        let mut now = Moment(1);
        assert_eq!(b.repeat(1, PATIENCE, now), None, "its time has not come");
        for n in 2..200 {
            now = now.plus(PATIENCE);
            assert_eq!(b.repeat(1, PATIENCE, now), Some(n));
            assert!(b.pings.len() <= REPEATED_MAX);
        }
        // Of a server that is half an hour behind each answer counts all the same.
        assert!(b.pong(130));
        assert_eq!(one.try_recv(), Ok(()));
    }

    #[test]
    fn pings_are_pipelined_but_bounded() {
        let mut b = Barrier::default();
        let mut sent = 0;
        for written in (1..100).map(|n| n * PING_EVERY) {
            let _waiting = b.wait(written);
            sent += u64::from(b.ping_due(written, NOW).is_some());
        }
        assert_eq!(sent, PINGS_MAX as u64);
        assert!(b.pong(3), "a later answer stands for the earlier ones");
        assert_eq!(b.pings.len(), 1);
    }
}
