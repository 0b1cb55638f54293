//! The sweep: removes, in bounded pieces, what nobody can see any more: items of purged and rows of deleted nodes,
//! and HTTP subscriptions whose lease is over.

use std::time::Duration;

use super::{Parts, count};
use crate::domain::node::{Node, NodeId};
use crate::store::{KvError, Lane, StoreError, Tx};

/// Rows removed with one Change; each may take a few more along.
const PIECE: usize = 200;
const PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn run(parts: Parts) {
    while parts.pause(PAUSE).await {
        if let Err(error) = round(&parts).await {
            tracing::warn!(%error, "the sweep was interrupted; it goes on later");
        }
    }
}

async fn round(parts: &Parts) -> Result<(), StoreError> {
    // A few nodes at a time: one that must wait for its subscribers does not hide the others for long.
    for (nid, event) in parts.store.read(|r| r.sweeps(100)).await? {
        // Nothing goes before everybody was told; while `removed` comes back full, there is more.
        loop {
            let piece = parts.store.commit(Lane::Background, move |tx| Ok(Ok::<_, ()>(sweep(tx, nid, event)?)));
            let removed = piece.await?.unwrap_or(0);
            count(&parts.stats.swept_rows, removed as u64);
            if removed < PIECE {
                break;
            }
        }
    }
    Ok(())
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
    let items = tx.read().items(node.id, 0, floor + 1, PIECE, false)?;
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
