//! The sweep: removes, in bounded pieces, what nobody can see any more: items of purged and rows of deleted nodes, the
//! nodes of accounts that have ended, and HTTP subscriptions whose lease is over.

use std::time::{Duration, Instant};

use super::{Parts, count};
use crate::base::clock::Timestamp;
use crate::base::complaint::Complaint;
use crate::base::shutdown::Phase;
use crate::domain::hub::HubSubscription;
use crate::domain::node::{Node, NodeId};
use crate::service::{contact, node, publish};
use crate::store::{KvError, Lane, StoreError, Tx};

/// Rows removed with one Change; an item takes up to ten more along, with what was said about it.
const PIECE: usize = 80;
/// Nodes looked at in one round.
const NODES: usize = 100;
const PAUSE: Duration = Duration::from_secs(2);
/// The longest rest between two pieces.
const REST_MOST: Duration = Duration::from_millis(250);
/// How often leases are looked at; a delivery to one that is over ends it as well.
const LEASES: Duration = Duration::from_secs(3600);

pub(super) async fn run(parts: Parts) {
    let (mut looked, mut behind, mut unswept) = (None, NodeId(0), Complaint::default());
    while parts.pause(PAUSE).await {
        let now = parts.clock.now();
        let mut swept = end_accounts(&parts, &mut unswept).await;
        if swept.is_ok() {
            swept = round(&parts, &mut behind, &mut unswept).await;
        }
        let moment = parts.clock.moment();
        if swept.is_ok() && looked.is_none_or(|at| moment.since(at) >= LEASES) {
            swept = end_leases(&parts).await;
            looked = Some(moment);
        }
        if let Err(error) = swept
            && unswept.is_due(now)
        {
            tracing::warn!(%error, "the sweep was interrupted; it goes on later");
        }
    }
}

/// Looks at a few nodes behind the last one of the round before, and after the last of all at the first again: however
/// many must wait for their subscribers, they hide no others.
async fn round(parts: &Parts, behind: &mut NodeId, unswept: &mut Complaint) -> Result<(), StoreError> {
    let from = *behind;
    let nodes = parts.store.read(move |r| r.sweeps(from, NODES)).await?;
    *behind = nodes.last().filter(|_| nodes.len() == NODES).map_or(NodeId(0), |(nid, _)| *nid);
    for (nid, event) in nodes {
        // Nothing goes before everybody was told.
        let mut at = At::Items(0);
        loop {
            let (now, began) = (parts.clock.now(), Instant::now());
            let swept = match piece(parts, nid, event, at, now).await {
                Ok(swept) => swept,
                // One node must not keep the sweep from all others.
                Err(error) => {
                    if unswept.is_due(now) {
                        tracing::warn!(%error, ?nid, "a node could not be swept; it is tried again later");
                    }
                    break;
                }
            };
            if parts.shutdown.phase() >= Phase::Stopped {
                return Ok(());
            }
            count(&parts.stats.swept_rows, swept.rows as u64);
            let Some(next) = swept.next else { break };
            at = next;
            // Half of the time is for others: a database that has to keep up with a million removals makes everybody wait.
            tokio::time::sleep(began.elapsed().min(REST_MOST)).await;
        }
    }
    Ok(())
}

/// Sweeps a piece of a node.
async fn piece(parts: &Parts, nid: NodeId, event: u64, at: At, now: Timestamp) -> Result<Swept, StoreError> {
    let rows = match &at {
        At::Items(_) => Vec::new(),
        // Found outside of the Change: a database steps over all the items that were removed, and nobody is to wait for
        // that. Nothing comes to a node that is deleted.
        At::Rows(key) => {
            let key = key.clone();
            parts
                .store
                .read(move |r| Ok(r.rows_of_node(nid, &key, PIECE)?.into_iter().map(|(key, _)| key).collect()))
                .await?
        }
    };
    let swept =
        parts.store.commit(Lane::Background, move |tx| Ok(Ok::<_, ()>(sweep(tx, nid, event, &at, &rows, now)?)));
    Ok(swept.await?.unwrap_or_default())
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

/// Takes away the nodes and contacts of accounts that have ended.
async fn end_accounts(parts: &Parts, unswept: &mut Complaint) -> Result<(), StoreError> {
    for service in parts.store.read(|r| r.ended_accounts(NODES)).await? {
        // How far the nodes, and the contacts, were taken away. Each piece begins behind the one before, as with a node.
        let (mut nodes, mut contacts) = (None, None);
        while parts.shutdown.phase() < Phase::Stopped {
            let (service, now, began) = (service.clone(), parts.clock.now(), Instant::now());
            let behind = (nodes.clone(), contacts.clone());
            let piece = parts.store.commit(Lane::Background, move |tx| {
                let nodes = node::remove_some(tx, &service, behind.0.as_ref(), now, PIECE)?;
                let contacts = contact::end_some(tx, &service, behind.1.as_ref(), now, PIECE)?;
                if nodes.is_none() && contacts.is_none() {
                    tx.unmark_ended(&service)?;
                }
                Ok(Ok::<_, ()>((nodes, contacts)))
            });
            let ended = match piece.await {
                Ok(ended) => ended.unwrap_or_default(),
                // One account must not keep the sweep from all others.
                Err(error) => {
                    if unswept.is_due(now) {
                        tracing::warn!(%error, "an account's nodes could not be taken away; it is tried again later");
                    }
                    break;
                }
            };
            if ended == (None, None) {
                break;
            }
            (nodes, contacts) = (ended.0.or(nodes), ended.1.or(contacts));
            tokio::time::sleep(began.elapsed().min(REST_MOST)).await;
        }
    }
    Ok(())
}

/// What one piece of a sweep came to.
#[derive(Default)]
struct Swept {
    rows: usize,
    /// Where the next one begins, if there is more.
    next: Option<At>,
}

/// How far the sweep of a node has come. Each piece begins behind the one before: a database would step over every row
/// that was removed, again for each piece.
#[derive(Clone)]
enum At {
    /// Items up to this place are gone.
    Items(u64),
    /// All items are gone, and other rows up to this key.
    Rows(Vec<u8>),
}

/// Removes one piece of what a node has to lose; `rows`: the next ones, once its items are gone.
fn sweep(
    tx: &mut Tx<'_>,
    nid: NodeId,
    event: u64,
    at: &At,
    rows: &[Vec<u8>],
    now: Timestamp,
) -> Result<Swept, KvError> {
    // What was listed may be over: since then the node may have been purged again, or deleted, and that is to be told first.
    if tx.read().sweep_of(nid)? != Some(event) || tx.read().event_alive(event)? {
        return Ok(Swept::default());
    }
    let Some(node) = tx.read().node(nid)? else {
        tx.forget_node(nid)?;
        return Ok(Swept::default());
    };
    match (tx.read().node_named(&node.service, &node.name)?.is_some_and(|now| now.id == nid), at) {
        (true, At::Items(place)) => purge(tx, &node, *place, now),
        // A deleted node does not come back; its name may be another node's by now.
        (true, At::Rows(_)) => Ok(Swept::default()),
        (false, At::Items(place)) => {
            let swept = remove_items(tx, &node, *place, u64::MAX, now)?;
            Ok(Swept { next: Some(swept.next.unwrap_or(At::Rows(Vec::new()))), ..swept })
        }
        (false, At::Rows(_)) => remove_rows(tx, &node, rows),
    }
}

/// Of a node that goes on: what was purged, and what is over the edge of a smaller `max_items`.
fn purge(tx: &mut Tx<'_>, node: &Node, place: u64, now: Timestamp) -> Result<Swept, KvError> {
    let mut state = tx.read().node_state(node.id)?;
    let swept = remove_items(tx, node, place, state.floor, now)?;
    if swept.next.is_some() {
        return Ok(swept);
    }
    let trimmed = publish::trim(tx, node, &mut state, now, PIECE - swept.rows)?;
    if trimmed > 0 {
        // Who has seen the feed with what went is to get it anew.
        state.changed = now;
        tx.put_node_state(node.id, &state)?;
        return Ok(Swept { rows: swept.rows + trimmed, next: Some(At::Items(place)) });
    }
    tx.unmark_for_sweep(node.id)?;
    Ok(swept)
}

/// Of a node that was deleted: what is left beside its items, and in the end the node.
fn remove_rows(tx: &mut Tx<'_>, node: &Node, rows: &[Vec<u8>]) -> Result<Swept, KvError> {
    for key in rows {
        if let Some(value) = tx.read().get(key)? {
            tx.sweep_row(node.id, key, &value)?;
        }
    }
    let next = rows.last().filter(|_| rows.len() == PIECE).map(|key| At::Rows(key.clone()));
    if next.is_none() {
        tx.forget_node(node.id)?;
    }
    Ok(Swept { rows: rows.len(), next })
}

/// Removes a piece of the items up to place `to`, and what is said about them.
fn remove_items(tx: &mut Tx<'_>, node: &Node, behind: u64, to: u64, now: Timestamp) -> Result<Swept, KvError> {
    // What stands in a later place was published anew, and stays.
    let mut items = tx.read().items(node.id, behind.saturating_add(1), to.saturating_add(1), PIECE, false)?;
    items.retain(|item| item.place <= to);
    for item in &items {
        tx.delete_item(node.id, item)?;
        tx.release_payload(item.version, item.event)?;
        node::remove_comments(tx, node, &item.id, now)?;
    }
    let next = items.last().filter(|_| items.len() == PIECE).map(|item| At::Items(item.place));
    Ok(Swept { rows: items.len(), next })
}
