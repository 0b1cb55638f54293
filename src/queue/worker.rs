//! The worker: one lane per destination that has something to do. Lanes keep their order; a failing one waits by
//! itself, a failing host holds back all of its lanes but one probe; outcomes become durable in groups.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::outcomes::{self, Ended, Settled};
use super::{Parts, count};
use crate::base::clock::Timestamp;
use crate::base::shutdown::Phase;
use crate::domain::delivery::{Destination, Outcome, Scope, back_off};
use crate::network::{Network, Report, Said, Task};
use crate::store::{Read, StoreError, kv};

/// Tasks read and handed over at a time.
const BATCH: usize = 64;
/// Tasks that wait in memory for one destination; more stay in the store.
const QUEUED: usize = 256;
/// Lanes at work at one time, and at one host.
const RUNNING: usize = 128;
const RUNNING_PER_HOST: usize = 4;
/// Outcomes made durable with one Change.
const SETTLED: usize = 60;

/// What the worker is told.
pub(super) enum Note {
    /// Deliveries that need no durable plan to begin.
    Express(Vec<(Destination, Task)>),
    /// Destinations with new deliveries in the store, and the newest Event of each.
    Woken(Vec<(Destination, u64)>),
    Loaded {
        destination: Destination,
        generation: u64,
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
        host: Option<String>,
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
}

/// What the store has for a lane.
pub(super) struct Loaded {
    tasks: Vec<Task>,
    more: bool,
    held: bool,
    host: Option<String>,
    not_before: Timestamp,
}

struct Lane {
    network: Arc<dyn Network>,
    host: Option<String>,
    /// Grows with each fresh start after a failure: what is said of an earlier one ends tasks, but fails nothing.
    generation: u64,
    queue: VecDeque<Task>,
    /// The newest Event queued or handed over.
    known: u64,
    /// Handed over, no outcome yet: each with the generation in which it was.
    open: BTreeMap<u64, u64>,
    /// Outcomes that are not durable yet. Until they are, the lane stays and knows what it has handed over: the store
    /// would show it as still to be delivered.
    unsettled: usize,
    /// Whether the store may have more behind `known`.
    more: bool,
    loading: bool,
    busy: bool,
    not_before: Timestamp,
    held: bool,
    /// Failures of this destination in a row.
    failures: u32,
}

#[derive(Default)]
struct Host {
    running: usize,
    failures: u32,
    not_before: Timestamp,
}

struct Worker {
    parts: Parts,
    notes: mpsc::UnboundedSender<Note>,
    lanes: HashMap<Destination, Lane>,
    hosts: HashMap<String, Host>,
    /// Lanes that may be able to go on.
    ready: VecDeque<Destination>,
    /// Lanes to look at again, by time.
    later: BTreeSet<(Timestamp, Destination)>,
    /// Lanes at work: towards hosts, and over the component's own link. The one never waits for the other.
    running: [usize; 2],
    /// Outcomes that are not durable yet.
    pending: Vec<Ended>,
    settling: bool,
    /// How many of them go into the next Change; fewer after a failure.
    most: usize,
}

pub(super) async fn run(parts: Parts, notes: mpsc::UnboundedSender<Note>, mut inbox: mpsc::UnboundedReceiver<Note>) {
    let mut worker = Worker {
        parts,
        notes,
        lanes: HashMap::new(),
        hosts: HashMap::new(),
        ready: VecDeque::new(),
        later: BTreeSet::new(),
        running: [0, 0],
        pending: Vec::new(),
        settling: false,
        most: SETTLED,
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
        worker.wake_due();
    }
    // The end: what was handed over and proved is kept, so that the next start repeats as little as possible.
    while let Ok(note) = inbox.try_recv() {
        worker.take(note);
    }
    for batch in worker.pending.chunks(SETTLED) {
        let _ = outcomes::settle(&worker.parts, batch).await;
    }
}

impl Worker {
    /// Opens a lane for every destination that an earlier run has left something for.
    async fn wake_all(&mut self) {
        let mut cursor = Vec::new();
        loop {
            let from = cursor.clone();
            let page = match self.parts.store.read(move |r| r.due(&from, 1000)).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "the queue could not read what is left to deliver; it tries again");
                    if !self.parts.pause(Duration::from_secs(1)).await {
                        return;
                    }
                    continue;
                }
            };
            let Some((last, _)) = page.last() else { return };
            cursor = last.clone();
            for (_, due) in page {
                self.wake(due.destination, u64::MAX);
            }
        }
    }

    /// The lane of a destination; a new one knows nothing of the store.
    fn lane(&mut self, destination: &Destination) -> Option<&mut Lane> {
        if !self.lanes.contains_key(destination) {
            let network = self.parts.network_of(destination)?.clone();
            self.lanes.insert(
                destination.clone(),
                Lane {
                    network,
                    host: None,
                    generation: 0,
                    queue: VecDeque::new(),
                    known: 0,
                    open: BTreeMap::new(),
                    unsettled: 0,
                    more: false,
                    loading: false,
                    busy: false,
                    not_before: Timestamp::default(),
                    held: false,
                    failures: 0,
                },
            );
        }
        self.lanes.get_mut(destination)
    }

    fn wake(&mut self, destination: Destination, newest: u64) {
        let Some(lane) = self.lane(&destination) else { return };
        if newest > lane.known {
            lane.more = true;
        }
        if newest == u64::MAX {
            lane.held = false;
        }
        self.ready.push_back(destination);
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Express(tasks) => {
                for (destination, task) in tasks {
                    let Some(lane) = self.lane(&destination) else { continue };
                    if lane.more || lane.loading || lane.held || task.seq <= lane.known || lane.queue.len() >= QUEUED {
                        // It comes by the store, in its place.
                        lane.more |= task.seq > lane.known;
                        continue;
                    }
                    lane.known = task.seq;
                    lane.queue.push_back(task);
                    self.ready.push_back(destination);
                }
            }
            Note::Woken(woken) => {
                for (destination, newest) in woken {
                    self.wake(destination, newest);
                }
            }
            Note::Loaded { destination, generation, loaded } => self.loaded(destination, generation, loaded),
            Note::Said { destination, generation, seq, said, took } => {
                self.said(destination, generation, seq, said, took)
            }
            Note::Handed { destination, host } => {
                self.running[usize::from(host.is_none())] -= 1;
                if let Some(host) = host.and_then(|host| self.hosts.get_mut(&host)) {
                    host.running = host.running.saturating_sub(1);
                }
                if let Some(lane) = self.lanes.get_mut(&destination) {
                    lane.busy = false;
                }

                self.ready.push_back(destination);
            }
            Note::Over { destination, generation, seqs } => {
                let open = self.lanes.get(&destination).map(|lane| &lane.open);
                let lost = open.and_then(|open| seqs.into_iter().find(|seq| open.get(seq) == Some(&generation)));
                if let Some(seq) = lost {
                    let why = "the delivery ended without an outcome".to_owned();
                    let said = Said::Ended(Outcome::Retry { why, after: None, scope: Scope::Destination });
                    self.said(destination, generation, seq, said, Duration::ZERO);
                }
            }
            Note::Settled { batch, result } => self.settled(batch, result),
            Note::Resume => self.settling = false,
        }
    }

    fn loaded(&mut self, destination: Destination, generation: u64, loaded: Result<Loaded, StoreError>) {
        let now = self.parts.clock.now();
        let Some(lane) = self.lanes.get_mut(&destination).filter(|lane| lane.generation == generation) else { return };
        lane.loading = false;
        match loaded {
            Ok(loaded) => {
                // Woken while it was read: there may be more than was seen.
                lane.more |= loaded.more;
                lane.held = loaded.held;
                lane.host = loaded.host;
                lane.not_before = lane.not_before.max(loaded.not_before);
                for task in loaded.tasks {
                    if task.seq > lane.known {
                        lane.known = task.seq;
                        lane.queue.push_back(task);
                    }
                }
                if lane.is_empty() {
                    self.lanes.remove(&destination);
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the queue could not read deliveries; it tries again");
                lane.not_before = now.plus(Duration::from_secs(1));
                lane.more = true;
            }
        }
        self.ready.push_back(destination);
    }

    fn said(&mut self, destination: Destination, generation: u64, seq: u64, said: Said, took: Duration) {
        let now = self.parts.clock.now();
        let jitter = self.parts.ids.fraction();
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        let mut not_before = None;
        if let Said::Ended(outcome) = &said {
            // An outcome of an earlier hand-over ends its task; only a failure of the newest one counts.
            let newest = lane.open.get(&seq) == Some(&generation);
            if newest || !matches!(outcome, Outcome::Retry { .. }) {
                lane.open.remove(&seq);
            }
            let host = lane.host.as_ref().map(|host| self.hosts.entry(host.clone()).or_default());
            match outcome {
                Outcome::Retry { .. } if !newest => return,
                Outcome::Retry { after, scope, .. } => {
                    let failures = match (host, scope) {
                        (Some(host), Scope::Host) => {
                            host.failures = host.failures.saturating_add(1);
                            let wait = after.unwrap_or_else(|| back_off(host.failures, jitter));
                            host.not_before = host.not_before.max(now.plus(wait));
                            host.failures
                        }
                        _ => {
                            lane.failures = lane.failures.saturating_add(1);
                            lane.failures
                        }
                    };
                    // A fresh start at this task: what was handed over behind it counts as not handed over.
                    lane.generation += 1;
                    lane.queue.clear();
                    lane.open.split_off(&seq);
                    lane.known = seq.saturating_sub(1);
                    lane.more = true;
                    lane.loading = true;
                    let wait = after.unwrap_or_else(|| back_off(failures, jitter));
                    not_before = Some(now.plus(wait));
                    count(&self.parts.stats.retried, 1);
                }
                Outcome::Done => {
                    lane.failures = 0;
                    if let Some(host) = host {
                        host.failures = 0;
                        host.not_before = Timestamp::default();
                    }
                    count(&self.parts.stats.done, 1);
                }
                Outcome::Gone(_) => count(&self.parts.stats.gone, 1),
                Outcome::Refused(_) => count(&self.parts.stats.refused, 1),
            }
            lane.unsettled += 1;
        }
        self.pending.push(Ended { destination, seq, said, at: now, took, not_before });
    }

    /// Hands lanes that can go on to their networks, as far as there is room.
    fn start_ready(&mut self) {
        let draining = self.parts.shutdown.phase() >= Phase::Draining;
        for _ in 0..self.ready.len() {
            let Some(destination) = self.ready.pop_front() else { return };
            let own = self.lanes.get(&destination).is_some_and(|lane| lane.host.is_none());
            if self.running[usize::from(own)] >= RUNNING {
                self.ready.push_back(destination);
                continue;
            }
            self.start(destination, draining);
        }
    }

    fn start(&mut self, destination: Destination, draining: bool) {
        let now = self.parts.clock.now();
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        if lane.busy || lane.held {
            return;
        }
        if lane.not_before > now {
            self.later.insert((lane.not_before, destination));
            return;
        }
        if lane.queue.len() < BATCH && lane.more && !lane.loading {
            lane.loading = true;
            lane.more = false;
            self.load(destination.clone());
        }
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        if lane.queue.is_empty() || (draining && lane.host.is_some()) {
            return;
        }
        if let Some(name) = &lane.host {
            let host = self.hosts.entry(name.clone()).or_default();
            // A host in trouble is asked by one lane at a time.
            let most = if host.failures > 0 { 1 } else { RUNNING_PER_HOST };
            if host.not_before > now {
                self.later.insert((host.not_before, destination));
                return;
            }
            if host.running >= most {
                self.later.insert((now.plus(Duration::from_millis(50)), destination));
                return;
            }
            host.running += 1;
        }
        let most = lane.queue.len().min(BATCH);
        let (tasks, old): (Vec<Task>, Vec<Task>) =
            lane.queue.drain(..most).partition(|task| now.since(task.at) <= destination.max_age());
        lane.open.extend(tasks.iter().map(|task| (task.seq, lane.generation)));
        lane.busy = true;
        self.running[usize::from(lane.host.is_none())] += 1;
        let generation = lane.generation;
        lane.unsettled += old.len();
        let (network, host) = (lane.network.clone(), lane.host.clone());
        for task in old {
            count(&self.parts.stats.too_old, 1);
            let said = Said::Ended(Outcome::Refused("too old to be delivered".into()));
            self.pending.push(Ended {
                destination: destination.clone(),
                seq: task.seq,
                said,
                at: now,
                took: Duration::ZERO,
                not_before: None,
            });
        }
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let handed = Note::Handed { destination: destination.clone(), host };
            hand_over(network, destination, generation, tasks, handed, notes).await;
        });
    }

    /// Reads what the store has behind what the lane knows.
    fn load(&mut self, destination: Destination) {
        let Some(lane) = self.lanes.get(&destination) else { return };
        let (generation, known, notes) = (lane.generation, lane.known, self.notes.clone());
        let wanted = destination.clone();
        let store = self.parts.store.clone();
        tokio::spawn(async move {
            let loaded = store.read(move |r| load(r, &wanted, known)).await;
            let _ = notes.send(Note::Loaded { destination, generation, loaded });
        });
    }

    /// Makes pending outcomes durable, one group at a time.
    fn settle(&mut self) {
        if self.settling || self.pending.is_empty() {
            return;
        }
        self.settling = true;
        let rest = self.pending.split_off(self.pending.len().min(self.most));
        let batch = std::mem::replace(&mut self.pending, rest);
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
                tracing::error!(%error, "what was delivered could not be noted; it is noted later, or delivered again");
                // One of them may be the cause: smaller groups find it, and one that fails alone goes behind the others.
                self.most = (batch.len() / 2).max(1);
                match batch.len() {
                    1 => self.pending.extend(batch),
                    _ => drop(self.pending.splice(0..0, batch)),
                }
                return self.resume_after(Duration::from_secs(1));
            }
        };
        for ended in batch.iter().filter(|ended| matches!(ended.said, Said::Ended(_))) {
            let early = settled.early.contains(&(ended.destination.clone(), ended.seq));
            if let Some(lane) = self.lanes.get_mut(&ended.destination).filter(|_| !early) {
                lane.unsettled = lane.unsettled.saturating_sub(1);
            }
        }
        self.most = (self.most * 2).min(SETTLED);
        // Told before its plan was written: noted as soon as it is.
        let early = !settled.early.is_empty();
        self.pending.splice(
            0..0,
            batch.into_iter().filter(|ended| settled.early.contains(&(ended.destination.clone(), ended.seq))),
        );
        for (destination, left) in settled.lanes {
            let Some(lane) = self.lanes.get_mut(&destination) else { continue };
            if let Some(not_before) = left.not_before {
                // The failure is noted: the lane may begin anew when its time comes.
                lane.loading = false;
                lane.not_before = not_before;
            }
            if !left.any {
                if lane.is_empty() {
                    self.lanes.remove(&destination);
                }
                continue;
            }
            if lane.is_idle() {
                // Every outcome is durable: the store shows exactly what is left.
                lane.known = 0;
                lane.more = true;
                self.ready.push_back(destination);
            }
        }
        match early {
            true => self.resume_after(Duration::from_millis(20)),
            false => self.settling = false,
        }
    }

    fn resume_after(&self, d: Duration) {
        let (clock, notes) = (self.parts.clock.clone(), self.notes.clone());
        tokio::spawn(async move {
            clock.sleep(d).await;
            let _ = notes.send(Note::Resume);
        });
    }

    fn next_wait(&self) -> Duration {
        let now = self.parts.clock.now();
        self.later.first().map_or(Duration::from_secs(3600), |(at, _)| at.since(now))
    }

    fn wake_due(&mut self) {
        let now = self.parts.clock.now();
        while let Some((at, _)) = self.later.first() {
            if *at > now {
                return;
            }
            if let Some((_, destination)) = self.later.pop_first() {
                self.ready.push_back(destination);
            }
        }
    }
}

impl Lane {
    /// Nothing queued, handed over or known to be in the store.
    fn is_empty(&self) -> bool {
        self.is_idle() && !self.more && !self.held
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.open.is_empty() && self.unsettled == 0 && !self.busy && !self.loading
    }
}

/// The deliveries of a destination behind Event `known`, with what they tell.
fn load(r: &dyn Read, destination: &Destination, known: u64) -> kv::Result<Loaded> {
    let state = r.destination(destination)?;
    let deliveries = r.deliveries(destination, known, BATCH)?;
    let more = deliveries.len() == BATCH;
    let mut tasks = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let Some(event) = r.event(delivery.event)? else { continue };
        let payload = event.what.version().map(|version| r.payload(version)).transpose()?.flatten();
        tasks.push(Task { seq: delivery.event, event, payload, at: delivery.at, cursor: delivery.cursor });
    }
    Ok(Loaded {
        tasks,
        more,
        held: state.as_ref().is_some_and(|s| s.held),
        host: state.as_ref().and_then(|s| s.host.clone()),
        not_before: state.map(|s| s.health.not_before).unwrap_or_default(),
    })
}

/// Runs one batch at its network and passes on what it says.
async fn hand_over(
    network: Arc<dyn Network>,
    destination: Destination,
    generation: u64,
    tasks: Vec<Task>,
    handed: Note,
    notes: mpsc::UnboundedSender<Note>,
) {
    let start = Instant::now();
    let seqs: Vec<u64> = tasks.iter().map(|task| task.seq).collect();
    let (tx, mut said) = mpsc::unbounded_channel();
    // A task of its own: a panic in a driver ends its batch, and nothing else.
    let work = tokio::spawn(network.deliver(destination.clone(), tasks, Report::new(tx)));
    let handed = {
        let notes = notes.clone();
        tokio::spawn(async move {
            let _ = work.await;
            let _ = notes.send(handed);
        })
    };
    while let Some((seq, said)) = said.recv().await {
        let _ =
            notes.send(Note::Said { destination: destination.clone(), generation, seq, said, took: start.elapsed() });
    }
    let _ = handed.await;
    let _ = notes.send(Note::Over { destination, generation, seqs });
}
