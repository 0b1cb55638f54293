//! What came of deliveries, made durable: the ends, the cursors, and how destinations fare.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Parts, count};
use crate::base::clock::Timestamp;
use crate::domain::delivery::{Attempt, Destination, Outcome};
use crate::domain::event::What;
use crate::network::Said;
use crate::service::deliveries::close_if_drained;
use crate::service::hub;
use crate::store::tables::{HELD, State};
use crate::store::{KvError, Lane, StoreError, Tx};

/// What was said of one delivery.
#[derive(Clone)]
pub(super) struct Ended {
    pub destination: Destination,
    pub seq: u64,
    pub said: Said,
    pub at: Timestamp,
    pub took: Duration,
    /// After a failure: when to try again.
    pub not_before: Option<Timestamp>,
    /// [`Task::alone`](crate::network::Task::alone): if it has no plan, its end is the Event's.
    pub alone: bool,
}

/// What a destination has left.
#[derive(Clone, Copy, Default)]
pub(super) struct Left {
    pub any: bool,
    pub not_before: Option<Timestamp>,
}

#[derive(Default)]
pub(super) struct Settled {
    /// What is left of the lanes that it concerned.
    pub lanes: BTreeMap<Destination, Left>,
    /// Outcomes of deliveries that are not written yet: to be settled again.
    pub early: BTreeSet<(Destination, u64)>,
    /// Events that ended without a plan.
    pub alone: u64,
}

/// Writes a group of outcomes as one Change.
pub(super) async fn settle(parts: &Parts, batch: &[Ended]) -> Result<Settled, StoreError> {
    let batch = batch.to_vec();
    let answer = parts.store.commit(Lane::Background, move |tx| {
        let mut settled = Settled::default();
        for ended in &batch {
            settle_one(tx, ended, &mut settled)?;
        }
        for (destination, left) in &mut settled.lanes {
            left.any = close_if_drained(tx, destination)?;
        }
        Ok(Ok::<_, ()>(settled))
    });
    let settled = answer.await?.unwrap_or_default();
    count(&parts.stats.events, settled.alone);
    count(&parts.stats.planned, settled.alone);
    Ok(settled)
}

fn settle_one(tx: &mut Tx<'_>, ended: &Ended, settled: &mut Settled) -> Result<(), KvError> {
    let Ended { destination, seq, said, .. } = ended;
    let Some(mut delivery) = tx.read().delivery(destination, *seq)? else {
        match (tx.read().unplanned(*seq)?, said) {
            (Some(event), Said::Ended(Outcome::Done | Outcome::Gone(_) | Outcome::Refused(_))) if ended.alone => {
                settled.alone += 1;
                settled.lanes.entry(destination.clone()).or_default();
                return tx.plan_event(*seq, &event, 0, None);
            }
            (Some(_), _) => drop(settled.early.insert((destination.clone(), *seq))),
            (None, _) => {
                let left = settled.lanes.entry(destination.clone()).or_default();
                left.not_before = left.not_before.max(ended.not_before);
            }
        }
        return Ok(());
    };
    let outcome = match said {
        Said::Progress { cursor } => {
            delivery.cursor.clone_from(cursor);
            return tx.put_delivery(destination, &delivery);
        }
        Said::Ended(outcome) => outcome,
    };
    let before = tx.read().destination(destination)?;
    let mut state = before.clone().unwrap_or_else(|| State::new(destination.clone(), None));
    let left = settled.lanes.entry(destination.clone()).or_default();
    match outcome {
        Outcome::Retry { why, .. } => {
            let not_before = ended.not_before.unwrap_or(ended.at);
            note(&mut state, ended, false, why);
            state.health.not_before = not_before;
            state.due = Some(if state.held { HELD } else { not_before });
            left.not_before = Some(not_before);
        }
        Outcome::Done | Outcome::Gone(_) | Outcome::Refused(_) => {
            match outcome {
                Outcome::Gone(why) => {
                    note(&mut state, ended, false, why);
                    end_subscription(tx, destination, why)?;
                }
                Outcome::Refused(why) => {
                    tracing::warn!(?destination, why, "a delivery was refused and will not be made");
                    note(&mut state, ended, false, why);
                }
                _ => {
                    note(&mut state, ended, true, "");
                    confirm_intent(tx, *seq, ended.at)?;
                }
            }
            state.health.not_before = Timestamp::default();
            state.waiting = state.waiting.saturating_sub(1);
            tx.end_delivery(destination, *seq)?;
        }
    }
    tx.put_destination(before.as_ref(), &state)
}

/// Remembers an attempt where people will want to see it.
fn note(state: &mut State, ended: &Ended, ok: bool, words: &str) {
    if state.destination.is_lasting() || !ok {
        let took_ms = u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX);
        let words = words.chars().take(200).collect();
        state.health.note(Attempt { at: ended.at, took_ms, ok, words });
    }
}

/// A verified intent becomes what it asked for, in the Change that ends its delivery.
fn confirm_intent(tx: &mut Tx<'_>, seq: u64, now: Timestamp) -> Result<(), KvError> {
    match tx.read().event(seq)? {
        Some(event) => match &event.what {
            What::Verify(intent) => hub::confirm(tx, &event.node, intent, seq, now),
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

/// A destination that is gone has no subscription any more.
fn end_subscription(tx: &mut Tx<'_>, destination: &Destination, why: &str) -> Result<(), KvError> {
    let Destination::Hub(id) = destination else { return Ok(()) };
    if let Some((nid, subscription)) = tx.read().hub_subscription_by_id(*id)? {
        tracing::info!(callback = subscription.callback, topic = subscription.topic, why, "an HTTP subscription ended");
        tx.delete_hub_subscription(nid, &subscription)?;
    }
    Ok(())
}
