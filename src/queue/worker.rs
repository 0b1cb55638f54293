//! The worker: one lane per destination that has something to do. Lanes keep their order; a failing one waits by
//! itself, a failing host holds back all of its lanes but one probe ([`Slots`]); outcomes become durable in groups.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::lane::{self, BATCH, LANE_BYTES, Lane, Loaded, Open, Work, cost};
use super::outcomes::{self, Ended, Settled};
use super::relay::Asked;
use super::slots::{Class, Slots};
use super::{Parts, count};
use crate::base::clock::Timestamp;
use crate::base::complaint::Complaint;
use crate::base::shutdown::Phase;
use crate::domain::delivery::{Destination, Outcome, Scope, back_off};
use crate::network::{Network, Report, Said, Task};
use crate::store::tables::if_readable;
use crate::store::{StoreError, kv};

/// Bytes of tasks that all lanes hold together, waiting or handed over; one task each is always taken.
const MEMORY: usize = 64 << 20;
/// Outcomes made durable with one Change.
const SETTLED: usize = 60;

/// What to do about a store that refuses.
pub(super) const UNWELL: &str = "Make room if the disk is full; if this goes on, stop rookery, keep a copy of its store \
                                 and run `rookery check`";

/// A destination that has something to do.
pub(super) struct Woken {
    pub destination: Destination,
    pub host: Option<String>,
    /// The newest Event planned for it.
    pub newest: u64,
}

/// What the worker is told.
pub(super) enum Note {
    /// Deliveries that need no durable plan to begin.
    Express(Vec<(Destination, Task)>),
    /// Destinations with new deliveries in the store.
    Woken(Vec<Woken>),
    /// A person changed what the store says of these; with their hosts.
    Changed {
        destinations: Vec<(Destination, Option<String>)>,
        at_once: bool,
    },
    Loaded {
        destination: Destination,
        generation: u64,
        /// The bytes that were set aside for it.
        granted: usize,
        loaded: Result<Loaded, StoreError>,
    },
    Said {
        destination: Destination,
        generation: u64,
        seq: u64,
        said: Said,
        took: Duration,
    },
    /// The network is ready for the destination's next batch.
    Handed {
        destination: Destination,
    },
    /// The network let go of a batch; tasks without an outcome are to be tried again.
    Over {
        destination: Destination,
        generation: u64,
        seqs: Vec<u64>,
    },
    Settled {
        batch: Vec<Ended>,
        result: Result<Settled, StoreError>,
    },
    Resume,
    /// Outcomes that came before their plan are tried again.
    Again,
}

struct Worker {
    parts: Parts,
    notes: mpsc::UnboundedSender<Note>,
    relay: mpsc::UnboundedSender<Asked>,
    lanes: HashMap<Destination, Lane>,
    slots: Slots,
    /// Lanes that may be able to go on, each once.
    ready: VecDeque<Destination>,
    /// Lanes to look at again, by time, each once.
    later: BTreeSet<(Timestamp, Destination)>,
    /// What the clock showed last.
    seen: Timestamp,
    /// Bytes of the tasks of all lanes, and of what they are reading.
    memory: usize,
    /// Outcomes that are not durable yet.
    pending: VecDeque<Ended>,
    /// Those of them that came before their plan.
    early: Vec<Ended>,
    settling: bool,
    /// How many of them go into the next Change; fewer after a failure.
    most: usize,
    /// That outcomes cannot be noted, and that deliveries cannot be read.
    unnoted: Complaint,
    unread: Complaint,
}

pub(super) async fn run(
    parts: Parts,
    notes: mpsc::UnboundedSender<Note>,
    mut inbox: mpsc::UnboundedReceiver<Note>,
    relay: mpsc::UnboundedSender<Asked>,
) {
    let mut worker = Worker {
        parts,
        notes,
        relay,
        lanes: HashMap::new(),
        slots: Slots::default(),
        ready: VecDeque::new(),
        later: BTreeSet::new(),
        seen: Timestamp::default(),
        memory: 0,
        pending: VecDeque::new(),
        early: Vec::new(),
        settling: false,
        most: SETTLED,
        unnoted: Complaint::default(),
        unread: Complaint::default(),
    };
    worker.wake_all().await;
    loop {
        worker.start_ready();
        worker.settle();
        let wait = worker.next_wait();
        let clock = worker.parts.clock.clone();
        let shutdown = worker.parts.shutdown.clone();
        tokio::select! {
            note = inbox.recv() => match note {
                Some(note) => {
                    worker.take(note);
                    // What is there already is taken in one go, so that outcomes settle together.
                    for _ in 0..1024 {
                        let Ok(note) = inbox.try_recv() else { break };
                        worker.take(note);
                    }
                }
                None => return,
            },
            () = clock.sleep(wait) => {}
            () = shutdown.reached(Phase::Stopped) => break,
        }
        worker.look_at_the_clock();
        worker.wake_due();
    }
    // The end: what was handed over and proved is kept, so that the next start repeats as little as possible.
    while let Ok(note) = inbox.try_recv() {
        worker.take(note);
    }
    worker.pending.extend(worker.early.drain(..));
    for batch in worker.pending.make_contiguous().chunks(SETTLED) {
        if outcomes::settle(&worker.parts, batch).await.is_err() {
            for ended in batch {
                let _ = outcomes::settle(&worker.parts, std::slice::from_ref(ended)).await;
            }
        }
    }
}

impl Worker {
    /// Opens a lane for every destination that an earlier run has left something for.
    async fn wake_all(&mut self) {
        let mut cursor = Vec::new();
        loop {
            let from = cursor.clone();
            let page = self.parts.store.read(move |r| {
                let due = r.due(&from, 1000)?;
                let last = due.last().map(|(key, _)| key.clone());
                let states = due
                    .into_iter()
                    .map(|(_, due)| Ok((if_readable(r.destination(&due.destination))?, due.destination)));
                Ok((last, states.collect::<kv::Result<Vec<_>>>()?))
            });
            let (last, page) = match page.await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "the queue could not read what is left to deliver; it tries again");
                    if !self.parts.pause(Duration::from_secs(1)).await {
                        return;
                    }
                    continue;
                }
            };
            let Some(last) = last else { return };
            cursor = last;
            let now = self.parts.clock.now();
            for (state, destination) in page {
                let not_before = state.as_ref().map(|s| s.health.waits_until(now)).unwrap_or_default();
                let woken = Woken { destination, host: state.and_then(|s| s.host), newest: u64::MAX };
                if let Some(lane) = self.wake(woken) {
                    lane.not_before = not_before;
                }
            }
        }
    }

    /// The lane of a destination, a new one if there is none.
    fn lane(&mut self, destination: &Destination, host: Option<&str>) -> Option<&mut Lane> {
        if !self.lanes.contains_key(destination) {
            let network = self.parts.network_of(destination)?.clone();
            self.slots.opened(host);
            self.lanes.insert(destination.clone(), Lane::new(network, destination, host.map(str::to_owned)));
        }
        self.lanes.get_mut(destination)
    }

    /// Ends a lane that has nothing to do and nothing to remember.
    fn drop_if_empty(&mut self, destination: &Destination) {
        if self.lanes.get(destination).is_some_and(Lane::is_empty)
            && let Some(lane) = self.lanes.remove(destination)
        {
            self.slots.closed(lane.host.as_deref(), self.parts.clock.now());
            if let Some(at) = lane.later {
                self.later.remove(&(at, destination.clone()));
            }
        }
    }

    /// Has a lane looked at, once, however often it is called for.
    fn call(&mut self, destination: &Destination) {
        if let Some(lane) = self.lanes.get_mut(destination).filter(|lane| !lane.queued) {
            lane.queued = true;
            self.ready.push_back(destination.clone());
        }
    }

    fn wake(&mut self, woken: Woken) -> Option<&mut Lane> {
        let lane = self.lane(&woken.destination, woken.host.as_deref())?;
        lane.more |= woken.newest > lane.known;
        if lane.awaited.is_some_and(|awaited| awaited <= woken.newest) {
            lane.awaited = None;
            lane.more = true;
        }
        self.call(&woken.destination);
        self.lanes.get_mut(&woken.destination)
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Express(tasks) => {
                for (destination, task) in tasks {
                    let room = self.memory < MEMORY;
                    let Some(lane) = self.lane(&destination, None) else { continue };
                    let bytes = cost(&task);
                    if room && lane.takes_express(&task) {
                        lane.push(task);
                        self.memory += bytes;
                        self.call(&destination);
                    } else if task.seq > lane.known {
                        // It comes by the store, in its place.
                        lane.awaited = Some(task.seq);
                        let _ = self.relay.send((destination, task.seq));
                    }
                }
            }
            Note::Woken(woken) => {
                for woken in woken {
                    self.wake(woken);
                }
            }
            Note::Changed { destinations, at_once } => {
                for (destination, host) in destinations {
                    self.begin_anew(&destination, host.as_deref(), at_once);
                }
            }
            Note::Loaded { destination, generation, granted, loaded } => {
                self.memory -= granted;
                self.loaded(destination, generation, loaded);
            }
            Note::Said { destination, generation, seq, said, took } => {
                self.said(destination, generation, seq, said, took)
            }
            Note::Handed { destination } => self.rest(&destination),
            Note::Over { destination, generation, seqs } => {
                let open = self.lanes.get(&destination).map(|lane| &lane.open);
                let lost = open.and_then(|open| {
                    seqs.into_iter().find(|seq| open.get(seq).is_some_and(|open| open.generation == generation))
                });
                if let Some(seq) = lost {
                    let why = "the delivery ended without an outcome".to_owned();
                    let said = Said::Ended(Outcome::Retry { why, after: None, scope: Scope::Destination });
                    self.said(destination, generation, seq, said, Duration::ZERO);
                }
            }
            Note::Settled { batch, result } => self.settled(batch, result),
            Note::Resume => self.settling = false,
            Note::Again => self.pending.extend(self.early.drain(..)),
        }
    }

    /// A lane gives back its place, and is looked at again.
    fn rest(&mut self, destination: &Destination) {
        let now = self.parts.clock.now();
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        if let Work::Hands(bytes) = std::mem::replace(&mut lane.work, Work::Rest) {
            self.memory -= bytes;
        }
        if let Some((class, since)) = lane.place.take() {
            let kept = self.parts.clock.moment().since(since);
            self.slots.give_back(class, lane.host.as_deref(), destination, kept, now);
        }
        self.call(destination);
    }

    /// Reads again what waits for a destination, whether it is held, and when it may go on.
    fn begin_anew(&mut self, destination: &Destination, host: Option<&str>, at_once: bool) {
        let Some(lane) = self.lane(destination, host) else { return };
        lane.generation += 1;
        if lane.class == Class::Own {
            // Of what was told from memory the store may know nothing yet.
            lane.awaited = lane.awaited.max(Some(lane.known));
        }
        let (awaited, bytes) = (lane.awaited, std::mem::take(&mut lane.bytes));
        // What was handed over stays so; what was only read counts as not read.
        if let Some(task) = lane.queue.front() {
            lane.known = task.seq.saturating_sub(1);
        }
        lane.queue.clear();
        lane.more = true;
        lane.held = false;
        lane.not_before = Timestamp::default();
        let host = lane.host.clone().filter(|_| at_once);
        self.memory -= bytes;
        if let Some(seq) = awaited {
            let _ = self.relay.send((destination.clone(), seq));
        }
        if let Some(host) = host {
            self.slots.lift(&host);
        }
        self.call(destination);
    }

    fn loaded(&mut self, destination: Destination, generation: u64, loaded: Result<Loaded, StoreError>) {
        let now = self.parts.clock.now();
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        match loaded {
            // A failure came in between: it is read again, from there on.
            _ if lane.generation != generation => {}
            Ok(loaded) => {
                lane.held = loaded.held;
                lane.not_before = lane.not_before.max(loaded.not_before);
                if lane.held || lane.not_before > now {
                    lane.more = true;
                } else {
                    // Woken while it was read: there may be more than was seen.
                    lane.more |= loaded.more;
                    for task in loaded.tasks {
                        self.memory += cost(&task);
                        lane.push(task);
                    }
                    lane.known = lane.known.max(loaded.known);
                }
            }
            Err(error) => {
                if self.unread.is_due(now) {
                    tracing::error!(%error, "the queue could not read deliveries; it tries again. {UNWELL}");
                }
                lane.not_before = lane.not_before.max(now.plus(Duration::from_secs(1)));
                lane.more = true;
            }
        }
        match lane.queue.is_empty() {
            true => self.rest(&destination),
            false => self.hand_over(destination),
        }
    }

    fn said(&mut self, destination: Destination, generation: u64, seq: u64, said: Said, took: Duration) {
        let now = self.parts.clock.now();
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        let (mut not_before, mut alone) = (None, false);
        if let Said::Ended(outcome) = &said {
            // An outcome of an earlier hand-over ends its task; only a failure of the newest one counts.
            let open = lane.open.get(&seq).copied();
            let newest = open.is_some_and(|open| open.generation == generation);
            alone = open.is_some_and(|open| open.alone);
            if newest || !matches!(outcome, Outcome::Retry { .. }) {
                lane.open.remove(&seq);
            }
            if let Some(host) = &lane.host
                && !matches!(outcome, Outcome::Retry { scope: Scope::Host | Scope::Task, .. })
            {
                self.slots.answered(host, now);
            }
            match outcome {
                Outcome::Retry { .. } if !newest => return,
                Outcome::Retry { after, scope, .. } => {
                    let jitter = self.parts.ids.fraction();
                    let wait = match (&lane.host, scope) {
                        (Some(host), Scope::Host) => self.slots.failed(host, *after, jitter, now),
                        _ => {
                            lane.failures = lane.failures.saturating_add(1);
                            after.unwrap_or_else(|| back_off(lane.failures, jitter))
                        }
                    };
                    // A fresh start at this task: what was handed over behind it counts as not handed over.
                    lane.generation += 1;
                    lane.queue.clear();
                    self.memory -= std::mem::take(&mut lane.bytes);
                    lane.open.split_off(&seq);
                    if lane.class == Class::Own {
                        // Of what was handed over from memory the store may know nothing yet.
                        lane.awaited = lane.awaited.max(Some(lane.known));
                        let _ = self.relay.send((destination.clone(), lane.known));
                    }
                    lane.known = seq.saturating_sub(1);
                    lane.more = true;
                    lane.blocked = true;
                    not_before = Some(now.plus(wait));
                    count(&self.parts.stats.retried, 1);
                }
                Outcome::Done => {
                    lane.failures = 0;
                    count(&self.parts.stats.done, 1);
                }
                Outcome::Gone(_) => count(&self.parts.stats.gone, 1),
                Outcome::Refused(_) => count(&self.parts.stats.refused, 1),
            }
            lane.unsettled += 1;
        }
        self.pending.push_back(Ended { destination, seq, said, at: now, took, not_before, alone });
    }

    /// Sets to work those who can go on, and those in line for whom a place became free.
    fn start_ready(&mut self) {
        let now = self.parts.clock.now();
        // Who stands in line comes first, or who was at work just now would take the place again and again.
        while let Some(destination) = self.slots.next(now).or_else(|| self.ready.pop_front()) {
            self.start(destination);
        }
    }

    fn start(&mut self, destination: Destination) {
        let now = self.parts.clock.now();
        let draining = self.parts.shutdown.phase() >= Phase::Draining;
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        lane.queued = false;
        if lane.waits() || (draining && lane.class != Class::Own) {
            return;
        }
        if lane.queue.is_empty() && !lane.more {
            return self.drop_if_empty(&destination);
        }
        if lane.not_before > now {
            if let Some(before) = lane.later.replace(lane.not_before) {
                self.later.remove(&(before, destination.clone()));
            }
            self.later.insert((lane.not_before, destination));
            return;
        }
        let place = self.slots.take(lane.class, lane.host.as_deref(), &destination, now);
        lane.place = place.map(|class| (class, self.parts.clock.moment()));
        if lane.place.is_none() {
            lane.queued = true;
            return;
        }
        // Read only with a place: those in line hold no more than they were told from memory.
        match lane.queue.is_empty() {
            true => self.load(destination),
            false => self.hand_over(destination),
        }
    }

    /// Reads what the store has behind what the lane knows.
    fn load(&mut self, destination: Destination) {
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        let granted = LANE_BYTES.min(MEMORY.saturating_sub(self.memory));
        self.memory += granted;
        lane.work = Work::Reads;
        lane.more = false;
        let (generation, known, notes) = (lane.generation, lane.known, self.notes.clone());
        let (wanted, payloads) = (destination.clone(), lane.network.needs_payloads());
        let (store, now) = (self.parts.store.clone(), self.parts.clock.now());
        tokio::spawn(async move {
            let loaded = store.read(move |r| lane::load(r, &wanted, known, payloads, granted, now)).await;
            let _ = notes.send(Note::Loaded { destination, generation, granted, loaded });
        });
    }

    /// Gives a batch to the lane's network; the lane has a place.
    fn hand_over(&mut self, destination: Destination) {
        let now = self.parts.clock.now();
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        let most = lane.queue.len().min(BATCH);
        let batch: Vec<Task> = lane.queue.drain(..most).collect();
        let bytes = batch.iter().map(cost).sum();
        lane.bytes -= bytes;
        lane.work = Work::Hands(bytes);
        // What we read for it is not its own slowness.
        lane.place = lane.place.map(|(class, _)| (class, self.parts.clock.moment()));
        let (tasks, old): (Vec<Task>, Vec<Task>) =
            batch.into_iter().partition(|task| self.parts.clock.lived_since(task.at) <= destination.max_age());
        let generation = lane.generation;
        lane.open.extend(tasks.iter().map(|task| (task.seq, Open { generation, alone: task.alone })));
        lane.unsettled += old.len();
        let (network, generation, notes) = (lane.network.clone(), lane.generation, self.notes.clone());
        for task in old {
            count(&self.parts.stats.too_old, 1);
            let said = Said::Ended(Outcome::Refused("too old to be delivered".into()));
            self.pending.push_back(Ended {
                destination: destination.clone(),
                seq: task.seq,
                said,
                at: now,
                took: Duration::ZERO,
                not_before: None,
                alone: task.alone,
            });
        }
        match tasks.is_empty() {
            true => self.rest(&destination),
            false => drop(tokio::spawn(hand_over(network, destination, generation, tasks, notes))),
        }
    }

    /// Makes pending outcomes durable, one group at a time.
    fn settle(&mut self) {
        if self.settling || self.pending.is_empty() {
            return;
        }
        self.settling = true;
        let batch: Vec<Ended> = self.pending.drain(..self.pending.len().min(self.most)).collect();
        let (parts, notes) = (self.parts.clone(), self.notes.clone());
        tokio::spawn(async move {
            let result = outcomes::settle(&parts, &batch).await;
            let _ = notes.send(Note::Settled { batch, result });
        });
    }

    fn settled(&mut self, batch: Vec<Ended>, result: Result<Settled, StoreError>) {
        let settled = match result {
            Ok(settled) => settled,
            Err(error) => {
                if self.unnoted.is_due(self.parts.clock.now()) {
                    let first = batch.first().map(|ended| &ended.destination);
                    tracing::error!(
                        %error, outcomes = batch.len(), ?first,
                        "what was delivered could not be noted; it is tried again each second, and delivered again if \
                         rookery is started anew before. {UNWELL}"
                    );
                }
                // One of them may be the cause: smaller groups find it, and one that fails alone goes behind the others.
                self.most = (batch.len() / 2).max(1);
                match batch.len() {
                    1 => self.pending.extend(batch),
                    _ => batch.into_iter().rev().for_each(|ended| self.pending.push_front(ended)),
                }
                return self.say_after(Duration::from_secs(1), Note::Resume);
            }
        };
        for ended in batch.iter().filter(|ended| matches!(ended.said, Said::Ended(_))) {
            let early = settled.early.contains(&(ended.destination.clone(), ended.seq));
            if let Some(lane) = self.lanes.get_mut(&ended.destination).filter(|_| !early) {
                lane.unsettled = lane.unsettled.saturating_sub(1);
            }
        }
        self.most = (self.most * 2).min(SETTLED);
        let newest = batch.iter().map(|ended| ended.at).max();
        let set_back = |now: Timestamp| newest.is_some_and(|newest| newest > now);
        // Told before its plan was written: noted as soon as it is. Others do not wait for it.
        if !settled.early.is_empty() && self.early.is_empty() {
            self.say_after(Duration::from_millis(20), Note::Again);
        }
        let early = batch.into_iter().filter(|ended| settled.early.contains(&(ended.destination.clone(), ended.seq)));
        self.early.extend(early);
        settled.early.iter().for_each(|early| drop(self.relay.send(early.clone())));
        let now = self.parts.clock.now();
        for (destination, left) in settled.lanes {
            let Some(lane) = self.lanes.get_mut(&destination) else { continue };
            if let Some(not_before) = left.not_before {
                // The failure is noted: the lane may begin anew when its time comes.
                lane.blocked = false;
                lane.not_before = if set_back(now) { now } else { not_before };
            }
            if left.any && lane.is_idle() {
                lane.known = 0;
                lane.more = true;
            }
            self.call(&destination);
        }
        self.settling = false;
    }

    fn say_after(&self, d: Duration, note: Note) {
        let (clock, notes) = (self.parts.clock.clone(), self.notes.clone());
        tokio::spawn(async move {
            clock.sleep(d).await;
            let _ = notes.send(note);
        });
    }

    /// Somebody set the clock back: what waits for a time of before would wait longer than was meant, and is looked at
    /// now.
    fn look_at_the_clock(&mut self) {
        let now = self.parts.clock.now();
        if now.plus(Duration::from_secs(1)) < self.seen {
            tracing::warn!("the clock was set back by {:?}: what waits is tried now", self.seen.since(now));
            let waiting: Vec<Destination> = std::mem::take(&mut self.later).into_iter().map(|(_, d)| d).collect();
            for lane in self.lanes.values_mut() {
                lane.later = None;
                lane.not_before = lane.not_before.min(now);
            }
            waiting.iter().for_each(|destination| self.call(destination));
            self.slots.set_back(now);
        }
        self.seen = now;
    }

    fn next_wait(&self) -> Duration {
        let now = self.parts.clock.now();
        let next = self.later.first().map(|(at, _)| *at).into_iter().chain(self.slots.next_at()).min();
        next.map_or(Duration::from_secs(3600), |at| at.since(now))
    }

    fn wake_due(&mut self) {
        let now = self.parts.clock.now();
        while self.later.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, destination)) = self.later.pop_first()
        {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.later = None;
            }
            self.call(&destination);
        }
        self.slots.wake_due(now);
    }
}

/// Runs one batch at its network and passes on what it says.
async fn hand_over(
    network: Arc<dyn Network>,
    destination: Destination,
    generation: u64,
    tasks: Vec<Task>,
    notes: mpsc::UnboundedSender<Note>,
) {
    let start = Instant::now();
    let seqs: Vec<u64> = tasks.iter().map(|task| task.seq).collect();
    let (tx, mut said) = mpsc::unbounded_channel();
    let pass_on = |(seq, said)| {
        let took = start.elapsed();
        let _ = notes.send(Note::Said { destination: destination.clone(), generation, seq, said, took });
    };
    // A task of its own: a panic in a driver ends its batch, and nothing else.
    let mut work = tokio::spawn(network.deliver(destination.clone(), tasks, Report::new(tx)));
    loop {
        tokio::select! {
            biased;
            Some(one) = said.recv() => pass_on(one),
            _ = &mut work => break,
        }
    }
    // What it said before it was ready comes before its place is free: a failure must stop who waits for that.
    while let Ok(one) = said.try_recv() {
        pass_on(one);
    }
    let _ = notes.send(Note::Handed { destination: destination.clone() });
    while let Some(one) = said.recv().await {
        pass_on(one);
    }
    let _ = notes.send(Note::Over { destination, generation, seqs });
}
