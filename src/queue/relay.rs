//! The relay: asks every network whom an Event concerns, and writes the deliveries; one Change for many Events.
//!
//! The component's own subscribers are told at once, from memory, while the plan becomes durable: until then the Event
//! itself is the promise, so an end in between repeats the notification and loses none.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::mpsc;

use super::worker::{Note, Woken};
use super::{Networks, Parts, count};
use crate::base::clock::Timestamp;
use crate::base::shutdown::Phase;
use crate::domain::delivery::{Delivery, Destination};
use crate::domain::event::Event;
use crate::network::{Plan, Task};
use crate::store::tables::State;
use crate::store::{KvError, Lane, Read, StoreError, Tx};

/// What a plan gave destinations to do.
type Planned = BTreeMap<Destination, Woken>;

/// Events read at a time.
const EVENTS: usize = 64;
/// Destinations asked of a network at a time.
const PAGE: usize = 150;
/// Bytes of payloads told from memory with one batch of Events.
const EXPRESS_BYTES: usize = 4 << 20;
/// Rows that planning one destination may take, with some to spare for the Event itself.
const ROWS_EACH: usize = 4;
/// A destination with this many deliveries waiting gets no more: what it misses is counted and logged.
const WAITING_MOST: u64 = 10_000;
/// An Event is put aside after this many failures.
const TRIES: u32 = 3;

pub(super) async fn run(parts: Parts, notes: mpsc::UnboundedSender<Note>) {
    let mut events = parts.store.events();
    let mut failures: HashMap<u64, u32> = HashMap::new();
    let mut at = At::default();
    loop {
        let newest = *events.borrow_and_update();
        match step(&parts, &notes, &mut at, &mut failures).await {
            // An end does not wait until all is planned.
            Ok(true) if parts.shutdown.phase() >= Phase::Stopped => return,
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the relay could not plan; it tries again in a second");
                if !parts.pause(Duration::from_secs(1)).await {
                    return;
                }
                continue;
            }
        }
        tokio::select! {
            changed = events.wait_for(|now| *now > newest) => if changed.is_err() { return },
            () = parts.shutdown.reached(Phase::Stopped) => return,
        }
    }
}

/// How far the relay has come in this run; the store says what is left.
#[derive(Default)]
struct At {
    /// The first Event that was not yet told from memory.
    unseen: u64,
    /// Where the last batch began: nothing before it is left. Reading from there on spares the way over all rows that
    /// were planned and removed before.
    begin: u64,
    /// Up to here some were not told from memory. Until they are planned none is: it would overtake them.
    gap: u64,
}

/// Plans one batch of Events; whether there may be more.
async fn step(
    parts: &Parts,
    notes: &mpsc::UnboundedSender<Note>,
    at: &mut At,
    failures: &mut HashMap<u64, u32>,
) -> Result<bool, StoreError> {
    let networks = parts.networks.clone();
    let (begin, unseen, gap) = (at.begin, at.unseen, at.gap);
    let read = parts.store.read(move |r| {
        let events = r.events(begin, EVENTS)?;
        let mut tasks = Vec::new();
        let all = events.first().is_some_and(|(first, _)| *first > gap)
            && express(r, &networks, events.iter().filter(|(seq, _)| *seq >= unseen), &mut tasks);
        Ok((events, tasks, all))
    });
    let (events, express, all) = read.await?;
    let (Some((first, _)), Some((last, _))) = (events.first(), events.last()) else { return Ok(false) };
    at.begin = *first;
    at.unseen = at.unseen.max(last + 1);
    if !all {
        at.gap = *last;
    }
    let seqs: Vec<u64> = events.iter().map(|(seq, _)| *seq).collect();
    // Asked for before the express leaves: an outcome is then decided after the plan that it ends.
    let planned = plan(parts, &seqs);
    if !express.is_empty() {
        let _ = notes.send(Note::Express(express));
    }
    match planned.await {
        Ok(woken) => {
            let _ = notes.send(Note::Woken(woken));
            Ok(true)
        }
        Err(error) if seqs.len() == 1 && !matches!(error, StoreError::Closed) => {
            blame(parts, seqs[0], failures, error).await?;
            Ok(true)
        }
        Err(StoreError::Closed) => Err(StoreError::Closed),
        // One of them is the cause: find out which.
        Err(_) => {
            for seq in seqs {
                match plan(parts, &[seq]).await {
                    Ok(woken) => drop(notes.send(Note::Woken(woken))),
                    Err(error) => blame(parts, seq, failures, error).await?,
                }
            }
            Ok(true)
        }
    }
}

/// What can be told from memory before the plan is durable, into `tasks`: deliveries over the component's own link. An
/// Event that cannot be planned, or too many bytes, end it, so that no later one overtakes an earlier one to the same
/// destination; whether all are told.
fn express<'a>(
    r: &dyn Read,
    networks: &Networks,
    events: impl Iterator<Item = &'a (u64, Event)>,
    tasks: &mut Vec<(Destination, Task)>,
) -> bool {
    let mut bytes = 0;
    for (seq, event) in events {
        for network in networks.iter().filter(|network| network.is_express()) {
            let Ok(page) = network.plan(*seq, event, r, &[], PAGE) else { return false };
            if page.plans.is_empty() {
                continue;
            }
            let version = event.what.version().filter(|_| network.needs_payloads());
            let Ok(payload) = version.map(|version| r.payload(version)).transpose() else { return false };
            let payload = payload.flatten();
            bytes += payload.as_ref().map_or(0, bytes::Bytes::len);
            if bytes > EXPRESS_BYTES || page.next.is_some() {
                return false;
            }
            for plan in page.plans {
                let (event, payload) = (event.clone(), payload.clone());
                tasks.push((plan.destination, Task { seq: *seq, at: event.at, event, payload, cursor: Vec::new() }));
            }
        }
    }
    true
}

/// Counts a failure of planning; the third puts the Event aside.
async fn blame(parts: &Parts, seq: u64, failures: &mut HashMap<u64, u32>, error: StoreError) -> Result<(), StoreError> {
    let tries = failures.entry(seq).or_default();
    *tries += 1;
    if *tries < TRIES || matches!(error, StoreError::Kv(KvError::Full(_))) {
        return Err(error);
    }
    failures.remove(&seq);
    tracing::error!(event = seq, %error, "an event could not be planned and was put aside; nobody was told of it");
    count(&parts.stats.parked, 1);
    let park = parts.store.commit(Lane::Background, move |tx| {
        if let Some(event) = tx.read().event(seq)? {
            tx.park_event(seq, &event)?;
        }
        Ok(Ok::<(), ()>(()))
    });
    park.await.map(|_| ())
}

/// Asks for the plan of `seqs` to be made durable; gives the destinations that have something to do now.
fn plan(parts: &Parts, seqs: &[u64]) -> impl Future<Output = Result<Vec<Woken>, StoreError>> + use<> {
    let (networks, stats, now) = (parts.networks.clone(), parts.stats.clone(), parts.clock.now());
    let seqs = seqs.to_vec();
    let answer = parts.store.commit(Lane::Background, move |tx| {
        let mut woken = Planned::new();
        let (mut events, mut deliveries, mut dropped) = (0, 0, 0);
        for seq in &seqs {
            if tx.room() < PAGE * ROWS_EACH + 8 {
                break;
            }
            let Some(event) = tx.read().unplanned(*seq)? else { continue };
            let begun = tx.read().planned(*seq)?.and_then(|p| p.planning);
            let (mut at, mut cursor) = match begun {
                Some((name, cursor)) => {
                    (networks.iter().position(|n| n.name() == name).unwrap_or(networks.len()), cursor.into_vec())
                }
                None => (0, Vec::new()),
            };
            let mut more = 0;
            let next = loop {
                let Some(network) = networks.get(at) else { break None };
                let room = tx.room().saturating_sub(8) / ROWS_EACH;
                if room < 8 {
                    break Some((network.name().to_owned(), cursor));
                }
                let page = network.plan(*seq, &event, tx.read(), &cursor, room.min(PAGE))?;
                for plan in &page.plans {
                    match write(tx, *seq, &event, plan, now)? {
                        true => more += 1,
                        false => dropped += 1,
                    }
                    let Plan { destination, host } = plan.clone();
                    woken.insert(destination.clone(), Woken { destination, host, newest: *seq });
                }
                match page.next {
                    Some(next) => cursor = next,
                    None => {
                        at += 1;
                        cursor = Vec::new();
                    }
                }
            };
            events += u64::from(next.is_none());
            deliveries += more;
            tx.plan_event(*seq, &event, more, next)?;
        }
        Ok(Ok::<_, ()>((woken, events, deliveries, dropped)))
    });
    async move {
        let Ok((woken, events, deliveries, dropped)) = answer.await? else { return Ok(Vec::new()) };
        count(&stats.events, events);
        count(&stats.planned, deliveries);
        count(&stats.overflowed, dropped);
        if dropped > 0 {
            tracing::warn!(dropped, "destinations with {WAITING_MOST} deliveries waiting were given no more");
        }
        Ok(woken.into_values().collect())
    }
}

/// Writes one delivery; whether the destination took it.
fn write(tx: &mut Tx<'_>, seq: u64, event: &Event, plan: &Plan, now: Timestamp) -> Result<bool, KvError> {
    let before = tx.read().destination(&plan.destination)?;
    let mut state = before.clone().unwrap_or_else(|| State::new(plan.destination.clone(), plan.host.clone()));
    if state.waiting >= WAITING_MOST && plan.host.is_some() {
        return Ok(false);
    }
    tx.put_delivery(&plan.destination, &Delivery { event: seq, at: event.at, cursor: Vec::new() })?;
    state.last_planned = seq;
    state.waiting += 1;
    state.host = plan.host.clone();
    if state.due.is_none() && !state.held {
        state.due = Some(now.max(state.health.not_before));
    }
    tx.put_destination(before.as_ref(), &state)?;
    Ok(true)
}
