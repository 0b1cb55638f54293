//! The sweep: removes, in bounded pieces, what nobody can see any more: items of purged and rows of deleted nodes,
//! and HTTP subscriptions whose lease is over.

use std::time::Duration;

use super::{Parts, count};
use crate::base::shutdown::Phase;
use crate::domain::hub::HubSubscription;
use crate::domain::node::{Node, NodeId};
use crate::store::{KvError, Lane, StoreError, Tx};

/// Rows removed with one Change; each may take a few more along.
const PIECE: usize = 100;
/// Nodes looked at in one round.
const NODES: usize = 100;
const PAUSE: Duration = Duration::from_secs(2);
/// How often leases are looked at; a delivery to one that is over ends it as well.
const LEASES: Duration = Duration::from_secs(3600);

pub(super) async fn run(parts: Parts) {
    let (mut looked, mut behind) = (None, NodeId(0));
    while parts.pause(PAUSE).await {
        let now = parts.clock.now();
        let mut swept = round(&parts, &mut behind).await;
        if swept.is_ok() && looked.is_none_or(|at| now.since(at) >= LEASES) {
            swept = end_leases(&parts).await;
            looked = Some(now);
        }
        if let Err(error) = swept {
            tracing::warn!(%error, "the sweep was interrupted; it goes on later");
        }
    }
}

/// Looks at a few nodes behind the last one of the round before, and after the last of all at the first again: however
/// many must wait for their subscribers, they hide no others.
async fn round(parts: &Parts, behind: &mut NodeId) -> Result<(), StoreError> {
    let from = *behind;
    let nodes = parts.store.read(move |r| r.sweeps(from, NODES)).await?;
    *behind = nodes.last().filter(|_| nodes.len() == NODES).map_or(NodeId(0), |(nid, _)| *nid);
    for (nid, event) in nodes {
        // Nothing goes before everybody was told; while `removed` comes back full, there is more.
        loop {
            let piece = parts.store.commit(Lane::Background, move |tx| Ok(Ok::<_, ()>(sweep(tx, nid, event)?)));
            let removed = match piece.await {
                Ok(removed) => removed.unwrap_or(0),
                // One node must not keep the sweep from all others.
                Err(error) => {
                    tracing::warn!(%error, ?nid, "a node could not be swept; it is tried again later");
                    break;
                }
            };
            if parts.shutdown.phase() >= Phase::Stopped {
                return Ok(());
            }
            count(&parts.stats.swept_rows, removed as u64);
            if removed < PIECE {
                break;
            }
        }
    }
    Ok(())
}

/// Ends HTTP subscriptions whose lease is over (WebSub §5.1), also of feeds that never change.
async fn end_leases(parts: &Parts) -> Result<(), StoreError> {
    let mut cursor = Vec::new();
    loop {
        let (from, now) = (cursor.clone(), parts.clock.now());
        let page = parts.store.read(move |r| r.all_hub_subscriptions(&from, PIECE)).await?;
        let Some((last, ..)) = page.last().filter(|_| parts.shutdown.phase() < Phase::Stopped) else { return Ok(()) };
        cursor = last.clone();
        let over: Vec<(NodeId, HubSubscription)> =
            page.into_iter().filter(|(_, _, s)| s.until <= now).map(|(_, nid, s)| (nid, s)).collect();
        if over.is_empty() {
            continue;
        }
        let ended = parts.store.commit(Lane::Background, move |tx| {
            for (nid, subscription) in &over {
                // Asked again where it is decided: it may have been renewed meanwhile.
                if let Some(now_there) = tx.read().hub_subscription(*nid, &subscription.callback)?
                    && now_there.until <= now
                {
                    tx.delete_hub_subscription(*nid, &now_there)?;
                }
            }
            Ok(Ok::<(), ()>(()))
        });
        let _ = ended.await?;
    }
}

/// Removes one piece of a node's rows; how many.
fn sweep(tx: &mut Tx<'_>, nid: NodeId, event: u64) -> Result<usize, KvError> {
    if tx.read().event_alive(event)? {
        return Ok(0);
    }
    let Some(node) = tx.read().node(nid)? else {
        tx.forget_node(nid)?;
        return Ok(0);
    };
    match tx.read().node_named(&node.service, &node.name)?.is_some_and(|now| now.id == nid) {
        true => purge(tx, &node),
        false => remove(tx, nid),
    }
}

fn purge(tx: &mut Tx<'_>, node: &Node) -> Result<usize, KvError> {
    let floor = tx.read().node_state(node.id)?.floor;
    // What stands in a later place was published anew, and stays.
    let mut items = tx.read().items(node.id, 0, floor + 1, PIECE, false)?;
    items.retain(|item| item.place <= floor);
    for item in &items {
        tx.delete_item(node.id, item)?;
        tx.release_payload(item.version, item.event)?;
    }
    if items.len() < PIECE {
        tx.unmark_for_sweep(node.id)?;
    }
    Ok(items.len())
}

fn remove(tx: &mut Tx<'_>, nid: NodeId) -> Result<usize, KvError> {
    let rows = tx.read().rows_of_node(nid, PIECE)?;
    for (key, value) in &rows {
        tx.sweep_row(nid, key, value)?;
    }
    if rows.len() < PIECE {
        tx.forget_node(nid)?;
    }
    Ok(rows.len())
}
