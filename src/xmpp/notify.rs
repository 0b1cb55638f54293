//! Notifications over the component's link (XEP-0060 §7.1.2, §12): the XMPP side as a network of the queue.
//!
//! An Event is one delivery with a cursor over the node's subscribers. Its body is written once and shared; the cursor
//! becomes durable only behind a barrier, since XEP-0114 acknowledges nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use jid::{BareJid, Jid};

use super::envelope::{Stanza, Xml};
use super::event;
use super::link::{LinkHandle, Position, SendError};
use crate::domain::delivery::{Destination, Outcome, Scope};
use crate::domain::event::{Event, What};
use crate::domain::item::Item;
use crate::domain::node::{Node, NodeKind};
use crate::domain::node_config::AccessModel;
use crate::domain::policy::{Standing, Verb, Viewer, may, may_see};
use crate::domain::subscription::{Affiliation, Subscription, SubscriptionState};
use crate::network::{Network, Plan, PlanPage, Report, Task};
use crate::service::places::{in_step, standing};
use crate::store::{Read, Store, StoreError, kv};

/// Subscribers read at a time.
const PAGE: usize = 500;
/// Stanzas after which the way so far is proved by a barrier.
const PROVE: usize = 1000;
/// Owners who are asked about a pending subscription.
const OWNERS: usize = 20;
/// Affiliations that are read once per fan-out; a node with more is asked for each subscriber.
const AFFILIATIONS: usize = 1000;

#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    store: Store,
    link: LinkHandle,
    unproved: Mutex<HashMap<Destination, Unproved>>,
}

/// What was sent to a destination and is not proved read: a later batch must follow in the same session, or it would
/// overtake what is repeated.
struct Unproved {
    /// The last stanza of it.
    position: Position,
    /// Its Events.
    seqs: BTreeSet<u64>,
}

impl Notifier {
    pub fn new(store: Store, link: LinkHandle) -> Self {
        Notifier(Arc::new(Inner { store, link, unproved: Mutex::default() }))
    }
}

impl Network for Notifier {
    fn name(&self) -> &'static str {
        "xmpp"
    }

    fn is_express(&self) -> bool {
        true
    }

    fn needs_payloads(&self) -> bool {
        true
    }

    fn owns(&self, destination: &Destination) -> bool {
        matches!(destination, Destination::Subscribers(_) | Destination::Jid(_))
    }

    fn plan(&self, _seq: u64, event: &Event, view: &dyn Read, _cursor: &[u8], _limit: usize) -> kv::Result<PlanPage> {
        let to = |destination| Plan { destination, host: None };
        let plans = match &event.what {
            What::Published { .. } | What::Retracted { .. } | What::Purged | What::Configured | What::Deleted => {
                match view.node_state(event.node.id)?.subscribers {
                    0 => Vec::new(),
                    _ => vec![to(Destination::Subscribers(event.node.id))],
                }
            }
            What::Subscription { jid, .. } | What::LastItem { jid, .. } => vec![to(one(&jid.to_bare()))],
            What::Requested { .. } => owners(view, event)?.iter().map(|owner| to(one(owner))).collect(),
            What::Verify(_) => Vec::new(),
        };
        Ok(PlanPage { plans, next: None })
    }

    fn deliver(&self, destination: Destination, tasks: Vec<Task>, report: Report) -> BoxFuture<'static, ()> {
        let inner = self.0.clone();
        Box::pin(async move {
            let Some(first) = tasks.first().map(|task| task.seq) else { return };
            // One session for a batch and what before it is not proved: nothing overtakes what must be repeated.
            let mut last = match inner.go_on(&destination, first).await {
                Ok(last) => last,
                Err(outcome) => return report.ended(first, outcome),
            };
            for task in tasks {
                let seq = task.seq;
                if let Err(outcome) = inner.clone().hand_over(&destination, task, &report, &mut last).await {
                    report.ended(seq, outcome);
                    return;
                }
            }
        })
    }
}

fn one(jid: &BareJid) -> Destination {
    Destination::Jid(jid.to_string())
}

fn owners(view: &dyn Read, event: &Event) -> kv::Result<Vec<BareJid>> {
    let all = view.affiliations(event.node.id, AFFILIATIONS)?;
    Ok(all.into_iter().filter(|(_, a)| *a == Affiliation::Owner).map(|(jid, _)| jid).take(OWNERS).collect())
}

/// What a fan-out needs to know of its node, read once.
struct Audience {
    node: Node,
    /// What was published, if it is still there as it was: it may be for some of them only.
    item: Option<Item>,
    /// `None`: too many; each subscriber's is asked for.
    affiliations: Option<HashMap<BareJid, Affiliation>>,
}

impl Inner {
    /// Behind which stanza a batch that begins with Event `first` is sent. `Err`: it may not be sent yet.
    async fn go_on(&self, destination: &Destination, first: u64) -> Result<Option<Position>, Outcome> {
        let Some(session) = self.link.online().await else { return Err(closed()) };
        let mut all = self.unproved();
        let Some(unproved) = all.get(destination) else { return Ok(None) };
        if unproved.position.session == session {
            return Ok(Some(unproved.position));
        }
        // That was lost. Who repeats it begins anew; who comes behind it lets it pass, once: should it have been given
        // up meanwhile, nobody waits for it.
        let lost = unproved.seqs.first().is_some_and(|lowest| first > *lowest);
        all.remove(destination);
        if lost { Err(again("what came before it was lost with the link")) } else { Ok(None) }
    }

    /// Hands one task over. `Ok`: its outcome was, or will be, reported; the next may follow.
    async fn hand_over(
        self: Arc<Self>,
        destination: &Destination,
        task: Task,
        report: &Report,
        last: &mut Option<Position>,
    ) -> Result<(), Outcome> {
        if self.link.online().await.is_none() {
            return Err(closed());
        }
        let event = task.event.clone();
        let audience = self.read(move |r| audience(r, &event)).await?;
        let Some(audience) = audience else {
            // Swept away already: nobody is left to be told.
            report.ended(task.seq, Outcome::Done);
            return Ok(());
        };
        let config = &audience.node.config;
        let body = match config.deliver_notifications || matches!(destination, Destination::Jid(_)) {
            true => event::event_body(&task.event, config, task.payload.as_ref()),
            false => None,
        };
        let Some(body) = body else {
            report.ended(task.seq, Outcome::Done);
            return Ok(());
        };
        let sending = Sending {
            from: Jid::from(task.event.node.service.clone()),
            id: format!("e{}", task.seq),
            kind: event::message_type(&task.event, config),
            body,
        };
        let sent = match destination {
            Destination::Jid(jid) => self.to_one(&sending, jid, &task, last).await?,
            _ => self.to_all(&sending, Arc::new(audience), &task, report, last).await?,
        };
        match (sent, *last) {
            (true, Some(position)) => self.prove(destination.clone(), position, task.seq, report.clone()),
            _ => report.ended(task.seq, Outcome::Done),
        }
        Ok(())
    }

    /// To the one JID that an Event concerns, or to an owner.
    async fn to_one(
        &self,
        sending: &Sending,
        owner: &str,
        task: &Task,
        last: &mut Option<Position>,
    ) -> Result<bool, Outcome> {
        let event = task.event.clone();
        if !self.read(move |r| still_due(r, &event)).await? {
            return Ok(false);
        }
        let to = match &task.event.what {
            What::Subscription { jid, .. } | What::LastItem { jid, .. } => Some(jid.clone()),
            _ => Jid::new(owner).ok(),
        };
        let Some(to) = to else { return Ok(false) };
        self.send(sending, &to, last).await
    }

    /// To all subscribers behind the task's cursor; whether anything was sent.
    async fn to_all(
        self: &Arc<Self>,
        sending: &Sending,
        audience: Arc<Audience>,
        task: &Task,
        report: &Report,
        last: &mut Option<Position>,
    ) -> Result<bool, Outcome> {
        let mut cursor = task.cursor.clone();
        let mut since_proof = 0;
        let mut sent = false;
        loop {
            let (from, about, event) = (cursor.clone(), audience.clone(), task.event.clone());
            let (page, next) = self.read(move |r| subscribers(r, &about, &event, &from)).await?;
            for to in &page {
                sent |= self.send(sending, to, last).await?;
                since_proof += 1;
            }
            let Some(next) = next else { return Ok(sent) };
            cursor = next;
            if since_proof >= PROVE {
                since_proof = 0;
                if let Some(position) = *last {
                    let (inner, report, seq, cursor) = (self.clone(), report.clone(), task.seq, cursor.clone());
                    tokio::spawn(async move {
                        if inner.link.barrier(position).await.is_ok() {
                            report.progress(seq, cursor);
                        }
                    });
                }
            }
        }
    }

    async fn send(&self, sending: &Sending, to: &Jid, last: &mut Option<Position>) -> Result<bool, Outcome> {
        let stanza = Stanza::message(&sending.from, to, Some(sending.kind), Some(&sending.id), sending.body.clone());
        match self.link.fanout(stanza, *last).await {
            Ok(position) => {
                *last = Some(position);
                Ok(true)
            }
            // Ours to mend, and no use to repeat.
            Err(error @ (SendError::ForeignFrom(_) | SendError::TooBig { .. })) => {
                tracing::error!(%error, %to, "a notification cannot be sent");
                Ok(false)
            }
            Err(SendError::LinkDown) => Err(closed()),
            Err(error) => Err(again(&error.to_string())),
        }
    }

    /// Reports that it is done once the server has read what was sent up to `position`.
    fn prove(self: &Arc<Self>, destination: Destination, position: Position, seq: u64, report: Report) {
        {
            let mut all = self.unproved();
            let unproved = all.entry(destination.clone()).or_insert_with(|| Unproved::new(position));
            if unproved.position.session != position.session {
                *unproved = Unproved::new(position);
            }
            unproved.position = position;
            unproved.seqs.insert(seq);
        }
        let inner = self.clone();
        tokio::spawn(async move {
            match inner.link.barrier(position).await {
                Ok(()) => {
                    inner.proved(&destination, position, seq);
                    report.ended(seq, Outcome::Done);
                }
                // It stays among what is not proved until the next batch has seen it there.
                Err(lost) => report.ended(seq, again(&lost.to_string())),
            }
        });
    }

    fn proved(&self, destination: &Destination, position: Position, seq: u64) {
        let mut all = self.unproved();
        let Some(unproved) = all.get_mut(destination).filter(|u| u.position.session == position.session) else {
            return;
        };
        unproved.seqs.remove(&seq);
        if unproved.seqs.is_empty() {
            all.remove(destination);
        }
    }

    async fn read<T, F>(&self, read: F) -> Result<T, Outcome>
    where
        F: FnOnce(&dyn Read) -> kv::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.store.read(read).await.map_err(|error: StoreError| Outcome::Retry {
            why: error.to_string(),
            after: None,
            scope: Scope::Destination,
        })
    }

    fn unproved(&self) -> std::sync::MutexGuard<'_, HashMap<Destination, Unproved>> {
        self.unproved.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Unproved {
    fn new(position: Position) -> Self {
        Unproved { position, seqs: BTreeSet::new() }
    }
}

/// What all recipients of an Event share.
struct Sending {
    from: Jid,
    /// The same for each recipient and each repetition.
    id: String,
    kind: &'static str,
    body: Xml,
}

/// A lost link is waited for, not backed off from.
fn again(why: &str) -> Outcome {
    Outcome::Retry { why: why.to_owned(), after: Some(Duration::ZERO), scope: Scope::Destination }
}

/// A link that is closed, or about to be, does not come back at once; nor does this process without a new start.
fn closed() -> Outcome {
    let why = "the link is closed".to_owned();
    Outcome::Retry { why, after: Some(Duration::from_secs(1)), scope: Scope::Destination }
}

fn audience(r: &dyn Read, event: &Event) -> kv::Result<Option<Audience>> {
    let Some(node) = r.node(event.node.id)? else { return Ok(None) };
    let node = in_step(r, node)?;
    let affiliations = r.affiliations(node.id, AFFILIATIONS)?;
    let all = affiliations.len() < AFFILIATIONS;
    let item = match &event.what {
        What::Published { item, version, .. } => r.item(node.id, item)?.filter(|item| item.version == *version),
        _ => None,
    };
    Ok(Some(Audience { node, item, affiliations: all.then(|| affiliations.into_iter().collect()) }))
}

/// A page of those who are to be told, and where to go on.
fn subscribers(
    r: &dyn Read,
    audience: &Audience,
    event: &Event,
    cursor: &[u8],
) -> kv::Result<(Vec<Jid>, Option<Vec<u8>>)> {
    let rows = r.subscriptions(audience.node.id, cursor, PAGE)?;
    let next = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
    let mut page = Vec::with_capacity(rows.len());
    for (_, subscription) in rows {
        if is_told(r, audience, event, &subscription)? {
            page.push(subscription.jid);
        }
    }
    Ok((page, next))
}

/// Whether a subscriber is told: subscribed before the event, allowed to read now, and not told under another address.
fn is_told(r: &dyn Read, audience: &Audience, event: &Event, subscription: &Subscription) -> kv::Result<bool> {
    let node = &audience.node;
    if subscription.state != SubscriptionState::Subscribed || subscription.born >= event.node_seq {
        return Ok(false);
    }
    let bare = subscription.jid.to_bare();
    // Who subscribed a resource and the account too gets it at the account, once.
    if subscription.jid.resource().is_some()
        && r.subscription(node.id, &Jid::from(bare.clone()))?.is_some_and(|s| s.state == SubscriptionState::Subscribed)
    {
        return Ok(false);
    }
    let affiliation = match &audience.affiliations {
        Some(all) => all.get(&bare).copied().unwrap_or_default(),
        None => r.affiliation(node.id, &bare)?,
    };
    let contact = match node.access() {
        AccessModel::Presence => r.contact(&node.service, &bare)?.is_some(),
        _ => false,
    };
    let standing = match node.kind {
        // Whose posts these comments belong to has a say in it.
        NodeKind::Comments => standing(r, node, &bare)?,
        _ => Standing { affiliation, subscription: Some(subscription.state), contact },
    };
    Ok(match &audience.item {
        Some(item) => may_see(Viewer::Jid { jid: &bare, standing }, node, item).is_ok(),
        None => may(standing, Verb::Retrieve, node).is_ok(),
    })
}

/// Whether a last item may still be sent: the subscription, the item and the right to see it are as they were. Other
/// news of one JID concern only that JID.
fn still_due(r: &dyn Read, event: &Event) -> kv::Result<bool> {
    let What::LastItem { jid, subid, item, version, .. } = &event.what else { return Ok(true) };
    let Some(node) = r.node(event.node.id)? else { return Ok(false) };
    let (node, bare, floor) = (in_step(r, node)?, jid.to_bare(), r.node_state(event.node.id)?.floor);
    let subscribed =
        r.subscription(node.id, jid)?.is_some_and(|s| s.subid == *subid && s.state == SubscriptionState::Subscribed);
    let item = r.item(node.id, item)?.filter(|item| subscribed && item.version == *version && item.place > floor);
    let Some(item) = item else { return Ok(false) };
    let standing = standing(r, &node, &bare)?;
    Ok(may_see(Viewer::Jid { jid: &bare, standing }, &node, &item).is_ok())
}
