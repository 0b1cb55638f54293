//! The relay: sees every Event and has it told. The component's own subscribers are told at once, from memory; the plan,
//! which asks every network whom the Event concerns, is made durable besides.
//!
//! The Event itself is the promise until then, so an end in between repeats a notification and loses none. Where one
//! delivery over the component's own link is all that an Event comes to, the plan waits a moment: most often that
//! delivery has ended by then, and nothing but the Event is left to remove.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::express::{Told, express};
use super::plan::{Plans, plan};
use super::worker::{Note, UNWELL, Woken};
use super::{Parts, count};
use crate::base::clock::Timestamp;
use crate::base::complaint::Complaint;
use crate::base::shutdown::Phase;
use crate::domain::delivery::Destination;
use crate::store::{KvError, Lane, StoreError};

/// Events read, and planned, at a time.
const EVENTS: usize = 64;
/// So long an Event may end without a plan.
const HOLD: Duration = Duration::from_millis(250);
/// More Events than this do not wait for their end.
const HELD: usize = 4096;
/// An Event is put aside after this many failures, a second apart.
const TRIES: u32 = 3;
/// Or this many where the disk fails: that is hardly the Event's fault. For ten minutes what is behind it waits.
const IO_TRIES: u32 = 600;

pub(super) async fn run(parts: Parts, notes: mpsc::UnboundedSender<Note>, asked: mpsc::UnboundedReceiver<Asked>) {
    let mut events = parts.store.events();
    let mut relay = Relay {
        parts,
        notes,
        asked,
        next: 0,
        owed: BTreeMap::new(),
        first: None,
        planning: None,
        failures: HashMap::new(),
        unplanned: Complaint::default(),
    };
    loop {
        let newest = *events.borrow_and_update();
        match relay.step().await {
            // An end does not wait until all is planned.
            Ok(true) if relay.parts.shutdown.phase() >= Phase::Stopped => return,
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => match relay.comes_to_itself(&error).await {
                true => continue,
                false => return,
            },
        }
        let now = relay.parts.clock.now();
        // While one plan is made durable, the next one waits for that, not for its time.
        let due = relay.first.filter(|_| relay.planning.is_none());
        // Nothing is meant to wait longer, whatever somebody does to the clock.
        let wait = due.map_or(Duration::from_secs(3600), |due| due.since(now).min(HOLD));
        let (clock, shutdown) = (relay.parts.clock.clone(), relay.parts.shutdown.clone());
        tokio::select! {
            goes_on = async { events.wait_for(|now| *now > newest).await.is_ok() } => if !goes_on { return },
            planned = planned(&mut relay.planning) => if let Err(error) = relay.planned(planned).await
                && !relay.comes_to_itself(&error).await
            {
                return;
            },
            Some(asked) = relay.asked.recv() => relay.hasten(asked),
            () = clock.sleep(wait) => {}
            () = shutdown.reached(Phase::Stopped) => return,
        }
    }
}

/// A plan that is being made durable, and of which Events.
type Planning = (Vec<u64>, BoxFuture<'static, Result<Plans, StoreError>>);

/// The end of a plan under way; never, if there is none.
async fn planned(planning: &mut Option<Planning>) -> Result<Plans, StoreError> {
    match planning {
        Some((_, plan)) => plan.await,
        None => std::future::pending().await,
    }
}

/// What the worker asks for: that the store shows this destination its deliveries up to this Event. It is told when that
/// is so.
pub(super) type Asked = (Destination, u64);

struct Relay {
    parts: Parts,
    notes: mpsc::UnboundedSender<Note>,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// The first Event that was not seen yet.
    next: u64,
    /// Those that were seen and are not known to be planned or over.
    owed: BTreeMap<u64, Owed>,
    /// When the first of them is due.
    first: Option<Timestamp>,
    /// New Events are seen, and told from memory, while it goes on; there is one at a time, so plans keep their order.
    planning: Option<Planning>,
    /// Failures to plan an Event: by itself, and by the disk.
    failures: HashMap<u64, (u32, u32)>,
    /// That something cannot be planned.
    unplanned: Complaint,
}

struct Owed {
    /// When it is planned.
    due: Timestamp,
    /// Whom it was told, or would have been, from memory; `None`: not known.
    to: Option<Vec<Destination>>,
    /// Who of them was not told: they are held. Until this is planned no later one is told them from memory, should the
    /// hold end meanwhile.
    untold: Vec<Destination>,
    /// Who waits for its plan.
    asked: Vec<Destination>,
}

impl Relay {
    /// Sees new Events, and begins to plan what is due; whether there may be more to see.
    async fn step(&mut self) -> Result<bool, StoreError> {
        while let Ok(asked) = self.asked.try_recv() {
            self.hasten(asked);
        }
        let (seen, tasks) = self.see().await?;
        if self.planning.is_none() {
            let due = self.due();
            if !due.is_empty() {
                // Asked for before the express leaves: an outcome is then decided after the plan that it ends.
                let plan = plan(&self.parts, &due).boxed();
                self.planning = Some((due, plan));
            }
        }
        if !tasks.is_empty() {
            let _ = self.notes.send(Note::Express(tasks));
        }
        Ok(seen == EVENTS)
    }

    /// Waits a second after a failure; whether to go on then.
    async fn comes_to_itself(&mut self, error: &StoreError) -> bool {
        if self.unplanned.is_due(self.parts.clock.now()) {
            tracing::error!(%error, "what is to be told could not be planned; it is tried again each second. {UNWELL}");
        }
        self.parts.pause(Duration::from_secs(1)).await
    }

    /// Takes over what came of the plan under way.
    async fn planned(&mut self, planned: Result<Plans, StoreError>) -> Result<(), StoreError> {
        let Some((seqs, _)) = self.planning.take() else { return Ok(()) };
        match planned {
            Ok(plans) => self.take(plans),
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            // One of them is the cause: find out which.
            Err(_) => {
                for seq in seqs {
                    match plan(&self.parts, &[seq]).await {
                        Ok(plans) => {
                            let is_over = plans.over.contains(&seq);
                            self.take(plans);
                            // What is planned in part goes before what stands behind it, also to those not reached yet.
                            if !is_over {
                                break;
                            }
                        }
                        Err(error) => self.blame(seq, error).await?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads Events that were not seen yet; how many, and what of them is told from memory.
    async fn see(&mut self) -> Result<(usize, Vec<(Destination, crate::network::Task)>), StoreError> {
        if self.owed.len() >= HELD {
            return Ok((0, Vec::new()));
        }
        let (next, networks) = (self.next, self.parts.networks.clone());
        // While some were not told from memory, no later one is: it would overtake them.
        let blocked = self.owed.values().any(|owed| owed.to.is_none());
        let untold: HashSet<Destination> = self.owed.values().flat_map(|owed| owed.untold.iter().cloned()).collect();
        let read = self.parts.store.glance(move |r| {
            let found = r.events(next, EVENTS)?;
            let numbers: Vec<(u64, bool)> = found.iter().map(|(seq, event)| (*seq, event.is_some())).collect();
            let events: Vec<_> = found.into_iter().filter_map(|(seq, event)| Some((seq, event?))).collect();
            let told = express(r, &networks, &events, blocked, untold);
            Ok((numbers, told))
        });
        let (numbers, told) = read.await?;
        let now = self.parts.clock.now();
        let mut tasks = Vec::new();
        let mut told = told.into_iter();
        for (seq, is_readable) in &numbers {
            self.next = seq + 1;
            if !is_readable {
                self.put_aside_unread(*seq).await;
                continue;
            }
            let (due, to, untold) = match told.next() {
                Some(Told { to, alone, tasks: of_it, untold }) => {
                    tasks.extend(of_it);
                    (if alone { now.plus(HOLD) } else { now }, Some(to), untold)
                }
                None => (now, None, Vec::new()),
            };
            self.owed.insert(*seq, Owed { due, to, untold, asked: Vec::new() });
            self.first = Some(self.first.map_or(due, |first| first.min(due)));
        }
        Ok((numbers.len(), tasks))
    }

    /// Plans at the next occasion what the worker asks for.
    fn hasten(&mut self, (destination, seq): Asked) {
        match self.owed.get_mut(&seq) {
            Some(owed) => {
                owed.due = Timestamp::default();
                if !owed.asked.contains(&destination) {
                    owed.asked.push(destination);
                }
                self.first = Some(owed.due);
            }
            None => drop(self.notes.send(Note::Woken(vec![Woken { destination, host: None, newest: seq }]))),
        }
    }

    /// Events to be planned now, in order: those that are due, those that are so soon, and before each of them all that
    /// concern one of the same destinations: there the store must show them in order, whenever this process ends.
    fn due(&self) -> Vec<u64> {
        let now = self.parts.clock.now();
        // What is due later than anything is held was seen before the clock was set back.
        let is = |due: Timestamp, soon: Timestamp| due <= soon || due > now.plus(HOLD);
        if self.owed.len() < HELD && self.first.is_none_or(|first| !is(first, now)) {
            return Vec::new();
        }
        let soon = now.plus(HOLD / 2);
        let (mut all, mut destinations) = (self.owed.len() >= HELD, HashSet::new());
        let mut due = Vec::new();
        for (seq, owed) in self.owed.iter().rev() {
            let to = owed.to.as_deref();
            if all || is(owed.due, soon) || to.is_some_and(|to| to.iter().any(|d| destinations.contains(d))) {
                all |= to.is_none();
                destinations.extend(to.into_iter().flatten());
                due.push(*seq);
            }
        }
        due.reverse();
        due.truncate(EVENTS);
        due
    }

    /// Takes over what was planned: the worker is told of it.
    fn take(&mut self, mut plans: Plans) {
        for seq in plans.over {
            self.failures.remove(&seq);
            let asked = self.owed.remove(&seq).map(|owed| owed.asked).unwrap_or_default();
            // Also whom the plan has nothing for.
            plans.woken.extend(asked.into_iter().map(|destination| Woken { destination, host: None, newest: seq }));
        }
        self.first = self.owed.values().map(|owed| owed.due).min();
        let _ = self.notes.send(Note::Woken(plans.woken));
    }

    /// Counts a failure of planning; one too many puts the Event aside.
    async fn blame(&mut self, seq: u64, error: StoreError) -> Result<(), StoreError> {
        let (tries, of_disk) = self.failures.entry(seq).or_default();
        let is_over = match error {
            StoreError::Closed | StoreError::Kv(KvError::Full(_) | KvError::Stopped) => false,
            StoreError::Kv(KvError::Io(_)) => {
                *of_disk += 1;
                *of_disk >= IO_TRIES
            }
            _ => {
                *tries += 1;
                *tries >= TRIES
            }
        };
        if !is_over {
            return Err(error);
        }
        tracing::error!(event = seq, %error, "an event could not be planned and was put aside; nobody was told of it");
        self.put_aside(seq).await?;
        self.take(Plans { woken: Vec::new(), over: vec![seq] });
        Ok(())
    }

    /// Puts aside an Event whose row is there and makes no sense. If that fails it is passed over, until the next start.
    async fn put_aside_unread(&mut self, seq: u64) {
        match self.put_aside(seq).await {
            Ok(()) => tracing::error!(
                event = seq,
                "an event cannot be read and was put aside; nobody was told of it: see `rookery queue parked`"
            ),
            Err(error) => {
                tracing::error!(event = seq, %error, "an event cannot be read, nor put aside; it is passed over")
            }
        }
    }

    async fn put_aside(&mut self, seq: u64) -> Result<(), StoreError> {
        count(&self.parts.stats.parked, 1);
        let park = self.parts.store.commit(Lane::Background, move |tx| Ok(Ok::<(), ()>(tx.park_event(seq)?)));
        park.await.map(drop)
    }
}
