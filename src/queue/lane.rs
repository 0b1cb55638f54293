//! A lane: what the worker knows of one destination that has something to do, and what it reads for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::slots::Class;
use crate::base::clock::{Moment, Timestamp};
use crate::domain::delivery::Destination;
use crate::network::{Network, Task};
use crate::store::tables::if_readable;
use crate::store::{Read, kv};

/// Tasks read and handed over at a time.
pub(super) const BATCH: usize = 64;
/// Tasks that wait in memory for one destination; more stay in the store.
const QUEUED: usize = 256;
/// Tasks handed over whose outcome has not come, and as many outcomes that are not durable; before more, there must be fewer.
const OPEN: usize = 1024;
/// Bytes of tasks that one lane holds, waiting or handed over. A single task is always taken.
pub(super) const LANE_BYTES: usize = 4 << 20;
/// About what a task takes beside its payload.
const TASK_BYTES: usize = 512;

/// What the store has for a lane.
pub(super) struct Loaded {
    pub tasks: Vec<Task>,
    /// Everything up to here was read.
    pub known: u64,
    pub more: bool,
    pub held: bool,
    pub not_before: Timestamp,
}

/// What a lane does with its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// It has none.
    Rest,
    /// It reads from the store.
    Reads,
    /// Its network has a batch; the bytes of that.
    Hands(usize),
}

/// A task that was handed over.
#[derive(Clone, Copy)]
pub(super) struct Open {
    /// The lane's, when it was.
    pub generation: u64,
    /// [`Task::alone`].
    pub alone: bool,
}

pub(super) struct Lane {
    pub network: Arc<dyn Network>,
    pub class: Class,
    /// The class of its place, and since when its network is at work there.
    pub place: Option<(Class, Moment)>,
    pub host: Option<String>,
    /// Grows with each fresh start after a failure: what is said of an earlier one ends tasks, but fails nothing.
    pub generation: u64,
    pub queue: VecDeque<Task>,
    /// Bytes of the queue.
    pub bytes: usize,
    /// The newest Event queued or handed over.
    pub known: u64,
    /// The newest Event that was not taken from memory and is not known to be in the store yet. Until it is, no later one
    /// is taken: it would overtake it.
    pub awaited: Option<u64>,
    /// Handed over, no outcome yet.
    pub open: BTreeMap<u64, Open>,
    /// Outcomes that are not durable yet. Until they are, the lane stays and knows what it has handed over: the store
    /// would show it as still to be delivered.
    pub unsettled: usize,
    /// Whether the store may have more behind `known`.
    pub more: bool,
    /// A failure is not durable yet; nothing is begun before it is.
    pub blocked: bool,
    pub work: Work,
    /// Whether it is among those to be started, or in a line for a place.
    pub queued: bool,
    pub not_before: Timestamp,
    /// When it is to be looked at again: its row among the worker's.
    pub later: Option<Timestamp>,
    pub held: bool,
    /// Failures of this destination in a row.
    pub failures: u32,
}

impl Lane {
    /// A lane that knows nothing of the store.
    pub fn new(network: Arc<dyn Network>, destination: &Destination, host: Option<String>) -> Self {
        let class = match destination {
            _ if network.is_express() => Class::Own,
            Destination::Intent(_) => Class::Verify,
            _ => Class::Push,
        };
        Lane {
            network,
            class,
            place: None,
            host,
            generation: 0,
            queue: VecDeque::new(),
            bytes: 0,
            known: 0,
            awaited: None,
            open: BTreeMap::new(),
            unsettled: 0,
            more: false,
            blocked: false,
            work: Work::Rest,
            queued: false,
            not_before: Timestamp::default(),
            later: None,
            held: false,
            failures: 0,
        }
    }

    /// Nothing queued, handed over or known to be in the store: what is not noted here is told anew.
    pub fn is_empty(&self) -> bool {
        self.is_idle() && !self.more && !self.held && self.awaited.is_none()
    }

    /// Nothing is under way, and every outcome is durable: the store shows exactly what is left.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.open.is_empty() && self.unsettled == 0 && !self.blocked && self.work == Work::Rest
    }

    /// Whether something is handed over or read for it only later: when it has its place back, when a failure is noted,
    /// when outcomes have come or are durable, or when a person says so. Each of these has it looked at again.
    pub fn waits(&self) -> bool {
        self.work != Work::Rest || self.blocked || self.held || self.open.len() >= OPEN || self.unsettled >= OPEN
    }

    /// Whether `task` may be taken from memory. If not, it comes by the store, in its place.
    pub fn takes_express(&self, task: &Task) -> bool {
        let held = match self.work {
            Work::Hands(bytes) => self.bytes + bytes,
            Work::Rest | Work::Reads => self.bytes,
        };
        !self.more
            && self.awaited.is_none()
            && !self.held
            && !self.blocked
            && self.work != Work::Reads
            && task.seq > self.known
            && self.queue.len() < QUEUED
            && (held == 0 || held + cost(task) <= LANE_BYTES)
    }

    pub fn push(&mut self, task: Task) {
        self.known = task.seq;
        self.bytes += cost(&task);
        self.queue.push_back(task);
    }
}

/// About the memory that a task takes.
pub(super) fn cost(task: &Task) -> usize {
    TASK_BYTES + task.payload.as_ref().map_or(0, bytes::Bytes::len)
}

/// The deliveries of a destination behind Event `known`, with what they tell, in about `most` bytes.
pub(super) fn load(
    r: &dyn Read,
    destination: &Destination,
    known: u64,
    payloads: bool,
    most: usize,
    now: Timestamp,
) -> kv::Result<Loaded> {
    let state = r.destination(destination)?;
    let deliveries = r.deliveries(destination, known, BATCH)?;
    let mut loaded = Loaded {
        tasks: Vec::with_capacity(deliveries.len()),
        known,
        more: deliveries.len() == BATCH,
        held: state.as_ref().is_some_and(|s| s.held),
        not_before: state.map(|s| s.health.waits_until(now)).unwrap_or_default(),
    };
    let mut bytes = 0;
    for delivery in deliveries {
        if let Some(event) = if_readable(r.event(delivery.event))? {
            let version = event.what.version().filter(|_| payloads);
            let payload = version.map(|version| r.payload(version)).transpose()?.flatten();
            let task =
                Task { seq: delivery.event, event, payload, at: delivery.at, cursor: delivery.cursor, alone: false };
            bytes += cost(&task);
            if bytes > most && !loaded.tasks.is_empty() {
                loaded.more = true;
                break;
            }
            loaded.tasks.push(task);
        }
        loaded.known = delivery.event;
    }
    Ok(loaded)
}
