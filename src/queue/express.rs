//! What is told from memory, before a plan is durable: deliveries over the component's own link.

use std::collections::HashSet;

use bytes::Bytes;

use super::Networks;
use super::plan::PAGE;
use crate::domain::delivery::Destination;
use crate::domain::event::Event;
use crate::network::Task;
use crate::store::{Read, kv};

/// Bytes of payloads told from memory with one batch of Events.
const EXPRESS_BYTES: usize = 4 << 20;

/// One Event, as far as it is told from memory.
pub(super) struct Told {
    /// Its destinations over the component's own link.
    pub to: Vec<Destination>,
    pub tasks: Vec<(Destination, Task)>,
    /// Those of them who are not told from memory.
    pub untold: Vec<Destination>,
    /// Whether one task of these is all that the Event comes to.
    pub alone: bool,
}

/// Reads whom `events` concern, in order. One that cannot be planned now, or too many bytes, end it, so that no later one
/// overtakes an earlier one: what is missing at the end is told by its plan. So is all if they are `blocked`.
/// `untold`: destinations that an earlier one was not told, which is not planned yet.
pub(super) fn express(
    r: &dyn Read,
    networks: &Networks,
    events: &[(u64, Event)],
    blocked: bool,
    mut untold: HashSet<Destination>,
) -> Vec<Told> {
    let mut all = Vec::with_capacity(events.len());
    let mut bytes = 0;
    if blocked {
        return all;
    }
    for (seq, event) in events {
        match tell(r, networks, *seq, event, &untold) {
            Ok(Some(told)) => {
                untold.extend(told.untold.iter().cloned());
                bytes += told.tasks.first().and_then(|(_, task)| task.payload.as_ref()).map_or(0, Bytes::len);
                if bytes > EXPRESS_BYTES {
                    break;
                }
                all.push(told);
            }
            Ok(None) | Err(_) => break,
        }
    }
    all
}

fn tell(
    r: &dyn Read,
    networks: &Networks,
    seq: u64,
    event: &Event,
    behind: &HashSet<Destination>,
) -> kv::Result<Option<Told>> {
    let (mut to, mut tasks, mut untold, mut others) = (Vec::new(), Vec::new(), Vec::new(), false);
    for network in networks.iter() {
        if !network.is_express() {
            let page = network.plan(seq, event, r, &[], 1)?;
            others |= !page.plans.is_empty() || page.next.is_some();
            continue;
        }
        let page = network.plan(seq, event, r, &[], PAGE)?;
        if page.next.is_some() {
            return Ok(None);
        }
        let version = event.what.version().filter(|_| network.needs_payloads() && !page.plans.is_empty());
        let payload = version.map(|version| r.payload(version)).transpose()?.flatten();
        for plan in page.plans {
            to.push(plan.destination.clone());
            // What a person holds back comes by the store, when they say so, and what stands behind it.
            let held = r.destination(&plan.destination)?.is_some_and(|state| state.held);
            if held || behind.contains(&plan.destination) {
                untold.push(plan.destination);
            } else {
                let (event, payload) = (event.clone(), payload.clone());
                let task = Task { seq, at: event.at, event, payload, cursor: Vec::new(), alone: false };
                tasks.push((plan.destination, task));
            }
        }
    }
    let alone = !others && to.len() == 1 && tasks.len() == 1;
    tasks.iter_mut().for_each(|(_, task)| task.alone = alone);
    Ok(Some(Told { to, tasks, untold, alone }))
}
