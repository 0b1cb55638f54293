//! What waits to be written: answers before fan-out, both counted in bytes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jid::BareJid;
use tokio::sync::Notify;

use super::barrier::{Barrier, GATHER};
use super::{LinkConfig, LinkLost, SendError, ping};
use crate::base::clock::{Clock, Moment};
use crate::xmpp::envelope::Stanza;

/// The place of a fan-out stanza among those of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub session: u64,
    pub number: u64,
}

/// Longer answers are refused when a quarter of what may wait does so already: those who ask for much are told to come
/// again, before nobody is told anything.
const LONG_ANSWER: usize = 4 << 10;
/// Answers go first, but may be no more than so many bytes ahead of three times the fan-out that waits beside them: who
/// asks for much and again must not keep others from being told.
const AHEAD_MOST: usize = 192 << 10;
/// Answers older than this are not worth sending when the link comes back: who asked has given up.
const ANSWERS_KEPT: Duration = Duration::from_secs(60);

pub(super) struct Lanes {
    inner: Mutex<Inner>,
    /// There is something to write, or nothing more will come.
    work: Notify,
    /// There is room in the fan-out lane, or no lane any more.
    room: Notify,
    /// The answers are over their limit.
    overflow: Notify,
    answers_max: usize,
    fanout_max: usize,
    jid: BareJid,
    server_host: BareJid,
    /// Begins the ids of our pings; nobody else can guess it.
    nonce: String,
}

#[derive(Default)]
struct Inner {
    online: bool,
    /// The session at hand, or the last one.
    session: u64,
    lost_at: Moment,
    answers: VecDeque<Stanza>,
    answers_bytes: usize,
    fanout: VecDeque<Stanza>,
    fanout_bytes: usize,
    /// Fan-out stanzas taken in this session.
    number: u64,
    barrier: Barrier,
    /// Bytes of answers that went ahead of waiting fan-out; see [`AHEAD_MOST`].
    ahead: usize,
    closing: bool,
    overflowed: bool,
}

/// What [`Lanes::take`] found.
pub(super) enum Taken {
    Stanzas(usize),
    Nothing,
    /// Nothing, and nothing more will come.
    End,
    /// This session is over: what waits is another's.
    Over,
}

impl Lanes {
    pub fn new(config: &LinkConfig, nonce: String) -> Self {
        Lanes {
            inner: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
            overflow: Notify::new(),
            answers_max: config.answers_max,
            fanout_max: config.fanout_max,
            jid: config.jid.clone(),
            server_host: config.server_host.clone(),
            nonce,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A new session begins.
    pub fn open(&self, session: u64, now: Moment) {
        let mut inner = self.lock();
        if now.since(inner.lost_at) > ANSWERS_KEPT {
            inner.drop_answers();
        }
        (inner.online, inner.session, inner.number, inner.barrier) = (true, session, 0, Barrier::default());
        inner.overflowed = false;
    }

    /// The session is over: its fan-out is lost, its waiters hear of it. Answers stay.
    pub fn lose(&self, now: Moment) {
        let mut inner = self.lock();
        inner.online = false;
        inner.lost_at = now;
        inner.fanout.clear();
        inner.fanout_bytes = 0;
        inner.barrier = Barrier::default();
        drop(inner);
        self.room.notify_waiters();
    }

    /// From now on nothing is taken in; what is there is written.
    pub fn finish(&self) {
        self.lock().closing = true;
        self.room.notify_waiters();
        self.work.notify_one();
    }

    pub fn answer(&self, stanza: Stanza) -> Result<(), SendError> {
        let mut inner = self.lock();
        if inner.closing {
            return Err(SendError::LinkDown);
        }
        let waiting = inner.answers_bytes + stanza.len();
        if stanza.len() > LONG_ANSWER && waiting > self.answers_max / 4 {
            return Err(SendError::Crowded);
        }
        if waiting > self.answers_max {
            if inner.online {
                // The server asks and does not read: nothing that it is told has a use.
                inner.drop_answers();
                inner.overflowed = true;
                self.overflow.notify_one();
            }
            return Err(SendError::Full);
        }
        inner.answers_bytes += stanza.len();
        inner.answers.push_back(stanza);
        drop(inner);
        self.work.notify_one();
        Ok(())
    }

    pub async fn fanout(&self, stanza: Stanza, after: Option<Position>) -> Result<Position, SendError> {
        let mut stanza = Some(stanza);
        if let Some(done) = self.try_fanout(&mut stanza, after) {
            return done;
        }
        loop {
            // Listen before looking again, or the room made between would go unnoticed.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if let Some(done) = self.try_fanout(&mut stanza, after) {
                return done;
            }
            room.await;
        }
    }

    /// `None` if there is no room.
    fn try_fanout(&self, stanza: &mut Option<Stanza>, after: Option<Position>) -> Option<Result<Position, SendError>> {
        let mut inner = self.lock();
        match after {
            Some(p) if p.session != inner.session || !inner.online => return Some(Err(SendError::Lost(LinkLost))),
            _ if !inner.online || inner.closing => return Some(Err(SendError::LinkDown)),
            _ if inner.fanout_bytes >= self.fanout_max => return None,
            _ => {}
        }
        let stanza = stanza.take()?;
        inner.push_fanout(stanza);
        inner.number += 1;
        let position = Position { session: inner.session, number: inner.number };
        drop(inner);
        self.work.notify_one();
        Some(Ok(position))
    }

    /// The position of the last one of this session.
    pub fn newest(&self) -> Option<Position> {
        let inner = self.lock();
        inner.online.then_some(Position { session: inner.session, number: inner.number })
    }

    pub async fn barrier(&self, upto: Position, clock: &Clock) -> Result<(), LinkLost> {
        let mut waiting = {
            let mut inner = self.lock();
            if !inner.online || inner.session != upto.session {
                return Err(LinkLost);
            }
            let Some(waiting) = inner.barrier.wait(upto.number) else { return Ok(()) };
            self.ping_if_due(&mut inner, clock.moment());
            waiting
        };
        tokio::select! {
            proved = &mut waiting => return proved.map_err(|_| LinkLost),
            () = clock.sleep(GATHER) => {}
        }
        {
            let mut inner = self.lock();
            if inner.session == upto.session {
                inner.barrier.gathered(upto.number);
                self.ping_if_due(&mut inner, clock.moment());
            }
        }
        waiting.await.map_err(|_| LinkLost)
    }

    /// Queues a ping behind all fan-out so far, if a waiter needs one.
    fn ping_if_due(&self, inner: &mut Inner, now: Moment) {
        let written = inner.number;
        if let Some(number) = inner.barrier.ping_due(written, now) {
            self.push_ping(inner, number);
        }
    }

    /// Queues another ping if the newest has had no answer for `patience`; whether it did.
    pub fn repeat_ping(&self, patience: Duration, now: Moment) -> bool {
        let mut inner = self.lock();
        let written = inner.number;
        let number = inner.barrier.repeat(written, patience, now);
        if let Some(number) = number {
            self.push_ping(&mut inner, number);
        }
        number.is_some()
    }

    /// A ping needs no room: few are under way at once.
    fn push_ping(&self, inner: &mut Inner, number: u64) {
        let id = format!("{}.{}.{number}", self.nonce, inner.session);
        if let Some(stanza) = ping(&self.jid, &self.server_host, &id) {
            inner.push_fanout(stanza);
            self.work.notify_one();
        }
    }

    /// Whether `id` answers one of our pings; if so, it is dealt with.
    pub fn pong(&self, id: &str, now: Moment) -> bool {
        let Some(rest) = id.strip_prefix(self.nonce.as_str()).and_then(|r| r.strip_prefix('.')) else { return false };
        let mut inner = self.lock();
        if let Some((session, number)) = rest.split_once('.')
            && session.parse() == Ok(inner.session)
            && let Ok(number) = number.parse()
            && inner.barrier.pong(number)
        {
            self.ping_if_due(&mut inner, now);
        }
        true
    }

    /// A ping that proves nothing but life: it goes before all fan-out.
    pub fn keepalive(&self) {
        if let Some(stanza) = ping(&self.jid, &self.server_host, &format!("{}.alive", self.nonce)) {
            let _ = self.answer(stanza);
        }
    }

    /// Moves about `bytes` into `out`, answers first. For the writer of `session`: one that was told to end may still be
    /// about to write when the next session has begun, and what it took then would be lost and taken for read.
    pub fn take(&self, session: u64, out: &mut Vec<u8>, bytes: usize) -> Taken {
        let mut inner = self.lock();
        if !inner.online || inner.session != session {
            // The call that woke this writer may have been for that of the next session.
            self.work.notify_one();
            return Taken::Over;
        }
        let mut taken = 0;
        while out.len() < bytes {
            let Some(stanza) = inner.next() else { break };
            stanza.write_to(out);
            taken += 1;
        }
        // Woken only when half is free, who waits can send many at once.
        let room = inner.fanout_bytes <= self.fanout_max / 2;
        let closing = inner.closing;
        drop(inner);
        match taken {
            0 if closing => Taken::End,
            0 => Taken::Nothing,
            _ => {
                if room {
                    self.room.notify_waiters();
                }
                Taken::Stanzas(taken)
            }
        }
    }

    pub async fn work(&self) {
        self.work.notified().await;
    }

    /// Returns once this session's answers are over their limit.
    pub async fn overflow(&self) {
        // A wake-up may be left over from the session before.
        while !self.lock().overflowed {
            self.overflow.notified().await;
        }
    }

    pub fn waiting(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.answers_bytes, inner.fanout_bytes)
    }
}

impl Inner {
    /// What is to be written next.
    fn next(&mut self) -> Option<Stanza> {
        if self.fanout.is_empty() {
            self.ahead = 0;
        }
        if self.answers.is_empty() || self.ahead > AHEAD_MOST {
            let stanza = self.fanout.pop_front()?;
            self.fanout_bytes -= stanza.len();
            self.ahead = self.ahead.saturating_sub(3 * stanza.len());
            return Some(stanza);
        }
        let stanza = self.answers.pop_front()?;
        self.answers_bytes -= stanza.len();
        self.ahead += stanza.len();
        Some(stanza)
    }

    fn push_fanout(&mut self, stanza: Stanza) {
        self.fanout_bytes += stanza.len();
        self.fanout.push_back(stanza);
    }

    fn drop_answers(&mut self) {
        self.answers.clear();
        self.answers_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::envelope::XmlWriter;
    use jid::Jid;

    fn lanes() -> Lanes {
        let name = |name: &str| BareJid::new(name).unwrap();
        let config = LinkConfig::new(name("c.example"), String::new(), String::new(), name("example.org"));
        let lanes = Lanes::new(&config, "n".into());
        lanes.open(1, Moment::default());
        lanes
    }

    fn stanza(bytes: usize) -> Stanza {
        let body = XmlWriter::new().leaf("body", "", &"x".repeat(bytes)).finish();
        let jid = |jid: &str| Jid::new(jid).unwrap();
        Stanza::message(&jid("c.example"), &jid("romeo@example.org"), None, Some("1"), body)
    }

    fn fan_out(lanes: &Lanes, bytes: usize) {
        assert!(matches!(lanes.try_fanout(&mut Some(stanza(bytes)), None), Some(Ok(_))));
    }

    #[test]
    fn a_writer_whose_session_is_over_takes_nothing() {
        let lanes = lanes();
        lanes.lose(Moment::default());
        assert!(matches!(lanes.take(1, &mut Vec::new(), 1), Taken::Over), "nobody is there to read");
        lanes.open(2, Moment::default());
        fan_out(&lanes, 100);
        let mut out = Vec::new();
        assert!(matches!(lanes.take(1, &mut out, 1_000), Taken::Over));
        assert!(out.is_empty());
        assert!(matches!(lanes.take(2, &mut out, 1_000), Taken::Stanzas(1)));
    }

    #[test]
    fn fan_out_has_its_share_however_many_answers_wait() {
        for bytes in [100, 4_000, 300_000] {
            let lanes = lanes();
            for _ in 0..2_000 {
                fan_out(&lanes, 1_000);
            }
            let (mut all, mut out) = (0, Vec::new());
            while all < 6 << 20 {
                while lanes.waiting().0 < 1 << 20 {
                    lanes.answer(stanza(bytes)).unwrap();
                }
                out.clear();
                lanes.take(1, &mut out, 64 << 10);
                all += out.len();
            }
            let told = 2_000 - lanes.waiting().1 / stanza(1_000).len();
            assert!((1_000..1_600).contains(&told), "{told} of 1 KB beside answers of {bytes} bytes");
        }
        // One that comes alone waits for none of them.
        let lanes = lanes();
        for _ in 0..100 {
            fan_out(&lanes, 1_000);
        }
        lanes.answer(stanza(10)).unwrap();
        let mut out = Vec::new();
        lanes.take(1, &mut out, 1);
        assert!(out.len() < 500, "the answer goes first");
    }

    #[test]
    fn long_answers_are_refused_before_short_ones() {
        let lanes = lanes();
        let mut taken = 0;
        while lanes.answer(stanza(300_000)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, (16 << 20) / stanza(300_000).len());
        assert_eq!(lanes.answer(stanza(300_000)).unwrap_err(), SendError::Crowded);
        for _ in 0..10_000 {
            lanes.answer(stanza(3_000)).unwrap();
        }
    }
}
