//! The plan of an Event, made durable: the deliveries it comes to, in the Change that ends the Event's own row. A big
//! audience is planned in pieces.

use std::collections::BTreeMap;

use super::worker::Woken;
use super::{Parts, count};
use crate::base::clock::Timestamp;
use crate::domain::delivery::Delivery;
use crate::domain::event::Event;
use crate::network::Plan;
use crate::store::tables::{HELD, HeldHosts, State};
use crate::store::{KvError, Lane, StoreError, Tx};

/// Destinations asked of a network at a time.
pub(super) const PAGE: usize = 150;
/// Rows that planning one destination may take, with some to spare for the Event itself.
const ROWS_EACH: usize = 4;
/// A destination with this many deliveries waiting gets no more: what it misses is counted and logged.
const WAITING_MOST: u64 = 10_000;

/// What came of planning some Events.
#[derive(Default)]
pub(super) struct Plans {
    /// Destinations that have something to do now.
    pub woken: Vec<Woken>,
    /// Events of which nothing is left to plan.
    pub over: Vec<u64>,
}

/// Asks for the plan of `seqs` to be made durable. Events that have ended meanwhile are passed over.
pub(super) fn plan(parts: &Parts, seqs: &[u64]) -> impl Future<Output = Result<Plans, StoreError>> + use<> {
    let (networks, stats, now) = (parts.networks.clone(), parts.stats.clone(), parts.clock.now());
    let seqs = seqs.to_vec();
    let answer = parts.store.commit(Lane::Background, move |tx| {
        let mut woken = BTreeMap::new();
        let mut over = Vec::with_capacity(seqs.len());
        let (mut events, mut deliveries, mut dropped) = (0, 0, Vec::new());
        let held = tx.read().held_hosts()?;
        for seq in &seqs {
            if tx.room() < PAGE * ROWS_EACH + 8 {
                break;
            }
            let Some(event) = tx.read().unplanned(*seq)? else {
                over.push(*seq);
                continue;
            };
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
                    match write(tx, *seq, &event, plan, &held, now)? {
                        true => more += 1,
                        false => dropped.push(plan.destination.clone()),
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
            if next.is_none() {
                events += 1;
                over.push(*seq);
            }
            deliveries += more;
            tx.plan_event(*seq, &event, more, next)?;
        }
        Ok(Ok::<_, ()>((woken, over, events, deliveries, dropped)))
    });
    async move {
        let Ok((woken, over, events, deliveries, dropped)) = answer.await? else { return Ok(Plans::default()) };
        count(&stats.events, events);
        count(&stats.planned, deliveries);
        count(&stats.overflowed, dropped.len() as u64);
        if let Some(first) = dropped.first() {
            tracing::warn!(
                ?first,
                destinations = dropped.len(),
                "with {WAITING_MOST} deliveries waiting they are given no more: see `rookery queue show`"
            );
        }
        Ok(Plans { woken: woken.into_values().collect(), over })
    }
}

/// Writes one delivery; whether the destination took it.
fn write(
    tx: &mut Tx<'_>,
    seq: u64,
    event: &Event,
    plan: &Plan,
    held: &HeldHosts,
    now: Timestamp,
) -> Result<bool, KvError> {
    let before = tx.read().destination(&plan.destination)?;
    let mut state = before.clone().unwrap_or_else(|| State::new(plan.destination.clone(), plan.host.clone()));
    if state.waiting >= WAITING_MOST && plan.host.is_some() {
        return Ok(false);
    }
    tx.put_delivery(&plan.destination, &Delivery { event: seq, at: event.at, cursor: Vec::new() })?;
    state.last_planned = seq;
    state.waiting += 1;
    state.host = plan.host.clone();
    if held.holds(plan.host.as_deref()) {
        // Its row says so from now on: the worker asks that, and need not know of hosts.
        (state.held, state.due) = (true, Some(HELD));
    } else if state.due.is_none() && !state.held {
        state.due = Some(now.max(state.health.not_before));
    }
    tx.put_destination(before.as_ref(), &state)?;
    Ok(true)
}
