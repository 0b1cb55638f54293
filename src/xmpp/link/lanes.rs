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
    closing: bool,
    overflowed: bool,
}

/// What [`Lanes::take`] found.
pub(super) enum Taken {
    Stanzas(usize),
    Nothing,
    /// Nothing, and nothing more will come.
    End,
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
        if inner.answers_bytes + stanza.len() > self.answers_max {
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

    /// Moves about `bytes` into `out`, answers first.
    pub fn take(&self, out: &mut Vec<u8>, bytes: usize) -> Taken {
        let mut inner = self.lock();
        let mut taken = 0;
        while out.len() < bytes {
            if let Some(stanza) = inner.answers.pop_front() {
                inner.answers_bytes -= stanza.len();
                stanza.write_to(out);
            } else if let Some(stanza) = inner.fanout.pop_front() {
                inner.fanout_bytes -= stanza.len();
                stanza.write_to(out);
            } else {
                break;
            }
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
    fn push_fanout(&mut self, stanza: Stanza) {
        self.fanout_bytes += stanza.len();
        self.fanout.push_back(stanza);
    }

    fn drop_answers(&mut self) {
        self.answers.clear();
        self.answers_bytes = 0;
    }
}
