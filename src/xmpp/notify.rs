//! Notifications over the component's link (XEP-0060 §7.1.2, §12): the XMPP side as a network of the queue.
//!
//! An Event is one delivery with a cursor over the node's subscribers. Its body is written once and shared; the cursor
//! becomes durable only behind a barrier, since XEP-0114 acknowledges nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use jid::{BareJid, Jid};

use super::envelope::{Stanza, Xml};
use super::event;
use super::link::{LinkHandle, Position, SendError};
use super::presence;
use crate::base::jid::read_bare_jid;
use crate::domain::delivery::{Destination, Outcome, Scope};
use crate::domain::event::{Event, NodeRef, What};
use crate::domain::item::Item;
use crate::domain::node::{Node, NodeId, NodeKind};
use crate::domain::node_config::{AccessModel, NodeConfig};
use crate::domain::policy::{Standing, Verb, Viewer, may, may_see};
use crate::domain::subscription::{Affiliation, Subscription, SubscriptionState};
use crate::network::{Network, Plan, PlanPage, Report, Task};
use crate::service::places::{in_step, standing};
use crate::store::tables::if_readable;
use crate::store::{Read, Store, StoreError, kv};

/// Subscribers read at a time.
const PAGE: usize = 500;
/// Recipients read for the first tasks of a batch.
const FIRST: usize = 100;
/// Stanzas after which the way so far is proved by a barrier.
const PROVE: usize = 1000;
/// Stanzas after which the Events that ended meanwhile are proved.
const PROVE_SOON: usize = 250;
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
            What::Requested { .. } => view.owners(event.node.id, OWNERS)?.iter().map(|owner| to(one(owner))).collect(),
            What::ContactEnded { jid } => vec![to(one(jid))],
            What::Verify(_) | What::Closed => Vec::new(),
        };
        Ok(PlanPage { plans, next: None })
    }

    fn deliver(&self, destination: Destination, tasks: Vec<Task>, report: Report) -> BoxFuture<'static, ()> {
        let inner = self.0.clone();
        Box::pin(async move {
            let Some(first) = tasks.first().map(|task| task.seq) else { return };
            // One session for a batch and what before it is not proved: nothing overtakes what must be repeated.
            let last = match inner.go_on(&destination, first).await {
                Ok(last) => last,
                Err(outcome) => return report.ended(first, outcome),
            };
            let mut batch = Batch { destination, report, last, since_proof: 0, unproved: Vec::new() };
            let failed = inner.hand_over_all(tasks, &mut batch).await.err();
            inner.prove(&mut batch);
            if let Some((seq, outcome)) = failed {
                batch.report.ended(seq, outcome);
            }
        })
    }
}

fn one(jid: &BareJid) -> Destination {
    Destination::Jid(jid.to_string())
}

/// What a page of a fan-out needs to know of its node.
struct Audience {
    node: Arc<Node>,
    /// What was published, if it is still there as it was: it may be for some of them only.
    item: Option<Item>,
    /// `None`: too many; each subscriber's is asked for.
    affiliations: Option<Arc<HashMap<BareJid, Affiliation>>>,
}

/// A task, and the first of those who are to be told.
struct Ready {
    audience: Audience,
    to: Vec<Jid>,
    /// Where to go on.
    next: Option<Vec<u8>>,
}

impl Ready {
    /// What is still told of a node that was swept away: that a subscription has ended. It was promised, and says nothing
    /// of the node but its name.
    fn without_node(event: &Event) -> Option<Ready> {
        let What::Subscription { jid, state: None, .. } = &event.what else { return None };
        let NodeRef { id, service, name, kind } = event.node.clone();
        let (creator, config) = (service.clone(), NodeConfig::default_for(kind));
        let node = Node { id, service, name, kind, creator, created: event.at, config, posts: None };
        let audience = Audience { node: Arc::new(node), item: None, affiliations: None };
        Some(Ready { audience, to: vec![jid.clone()], next: None })
    }
}

/// What was sent of a batch.
struct Batch {
    destination: Destination,
    report: Report,
    /// The last stanza, of this batch or before it.
    last: Option<Position>,
    since_proof: usize,
    /// Events whose last stanza is sent and waits for a proof.
    unproved: Vec<u64>,
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

    /// Hands tasks over in order, as far as they go; else which one cannot be, and why.
    async fn hand_over_all(self: &Arc<Self>, tasks: Vec<Task>, batch: &mut Batch) -> Result<(), (u64, Outcome)> {
        let mut tasks = VecDeque::from(tasks);
        while let Some(seq) = tasks.front().map(|task| task.seq) {
            let destination = batch.destination.clone();
            let read = move |r: &dyn Read| {
                let ready = ready(r, &destination, &tasks)?;
                Ok((tasks, ready))
            };
            let (left, ready) = self.store.glance(read).await.map_err(|error| (seq, unread(&error)))?;
            tasks = left;
            for ready in ready {
                let Some(task) = tasks.pop_front() else { break };
                let seq = task.seq;
                if let What::ContactEnded { jid } = &task.event.what {
                    for stanza in presence::ended(&task.event.node.service, jid) {
                        self.send(stanza, batch).await.map_err(|outcome| (seq, outcome))?;
                    }
                    batch.unproved.push(seq);
                    continue;
                }
                match ready {
                    Some(ready) => self.hand_over(task, ready, batch).await.map_err(|outcome| (seq, outcome))?,
                    // Swept away already: nobody is left to be told.
                    None => batch.report.ended(seq, Outcome::Done),
                }
            }
        }
        Ok(())
    }

    /// Hands one task over. `Ok`: its outcome was, or will be, reported; the next may follow.
    async fn hand_over(self: &Arc<Self>, task: Task, ready: Ready, batch: &mut Batch) -> Result<(), Outcome> {
        let config = &ready.audience.node.config;
        let told = config.deliver_notifications || matches!(batch.destination, Destination::Jid(_));
        let body = match told && !(ready.to.is_empty() && ready.next.is_none()) {
            true => event::event_body(&task.event, config, task.payload.as_ref()),
            false => None,
        };
        let Some(body) = body else {
            batch.report.ended(task.seq, Outcome::Done);
            return Ok(());
        };
        let sending = Sending {
            from: Jid::from(task.event.node.service.clone()),
            id: format!("e{}", task.seq),
            kind: event::message_type(&task.event, config),
            body,
        };
        let (mut to, mut next, audience) = (ready.to, ready.next, Arc::new(ready.audience));
        let mut sent = false;
        loop {
            for to in &to {
                sent |= self.send(sending.stanza(to), batch).await?;
            }
            let Some(cursor) = next else { break };
            if batch.since_proof >= PROVE {
                self.prove(batch);
                self.prove_progress(&task, cursor.clone(), batch);
            }
            let (begun, event) = (audience.clone(), task.event.clone());
            let read = move |r: &dyn Read| {
                let rows = r.subscriptions(event.node.id, &cursor, PAGE)?;
                // Read after them, and for each page: a long fan-out must not tell who lost access meanwhile.
                page(r, &begun.renewed(r, &event)?, &event, &rows, PAGE)
            };
            (to, next) = self.store.read(read).await.map_err(|error| unread(&error))?;
        }
        match sent {
            true => batch.unproved.push(task.seq),
            false => batch.report.ended(task.seq, Outcome::Done),
        }
        if batch.since_proof >= PROVE_SOON {
            self.prove(batch);
        }
        Ok(())
    }

    async fn send(&self, stanza: Stanza, batch: &mut Batch) -> Result<bool, Outcome> {
        match self.link.fanout(stanza, batch.last).await {
            Ok(position) => {
                batch.last = Some(position);
                batch.since_proof += 1;
                Ok(true)
            }
            // Ours to mend, and no use to repeat.
            Err(error @ (SendError::ForeignFrom(_) | SendError::TooBig { .. })) => {
                tracing::error!(%error, destination = ?batch.destination, "a notification cannot be sent");
                Ok(false)
            }
            Err(SendError::LinkDown) => Err(closed()),
            Err(error) => Err(again(&error.to_string())),
        }
    }

    /// Reports Events done once the server has read what was sent so far.
    fn prove(self: &Arc<Self>, batch: &mut Batch) {
        batch.since_proof = 0;
        let seqs = std::mem::take(&mut batch.unproved);
        let Some(position) = batch.last.filter(|_| !seqs.is_empty()) else { return };
        {
            let mut all = self.unproved();
            let unproved = all.entry(batch.destination.clone()).or_insert_with(|| Unproved::new(position));
            if unproved.position.session != position.session {
                *unproved = Unproved::new(position);
            }
            unproved.position = position;
            unproved.seqs.extend(&seqs);
        }
        let (inner, destination, report) = (self.clone(), batch.destination.clone(), batch.report.clone());
        tokio::spawn(async move {
            match inner.link.barrier(position).await {
                Ok(()) => {
                    inner.proved(&destination, position, &seqs);
                    seqs.iter().for_each(|seq| report.ended(*seq, Outcome::Done));
                }
                // They stay among what is not proved until the next batch has seen them there.
                Err(lost) => seqs.iter().for_each(|seq| report.ended(*seq, again(&lost.to_string()))),
            }
        });
    }

    /// Reports how far an Event has come once the server has read what was sent so far.
    fn prove_progress(self: &Arc<Self>, task: &Task, cursor: Vec<u8>, batch: &Batch) {
        let Some(position) = batch.last else { return };
        let (inner, report, seq) = (self.clone(), batch.report.clone(), task.seq);
        tokio::spawn(async move {
            if inner.link.barrier(position).await.is_ok() {
                report.progress(seq, cursor);
            }
        });
    }

    fn proved(&self, destination: &Destination, position: Position, seqs: &[u64]) {
        let mut all = self.unproved();
        let Some(unproved) = all.get_mut(destination).filter(|u| u.position.session == position.session) else {
            return;
        };
        for seq in seqs {
            unproved.seqs.remove(seq);
        }
        if unproved.seqs.is_empty() {
            all.remove(destination);
        }
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

impl Sending {
    fn stanza(&self, to: &Jid) -> Stanza {
        Stanza::message(&self.from, to, Some(self.kind), Some(&self.id), self.body.clone())
    }
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

/// A store that could not be read.
fn unread(error: &StoreError) -> Outcome {
    Outcome::Retry { why: error.to_string(), after: None, scope: Scope::Destination }
}

/// Reads what the first tasks need, about [`FIRST`] recipients together; `None` for a node that is no more. What the
/// tasks of one node have in common is read once.
fn ready(r: &dyn Read, destination: &Destination, tasks: &VecDeque<Task>) -> kv::Result<Vec<Option<Ready>>> {
    let mut all = Vec::with_capacity(tasks.len());
    let mut shared: Option<Shared> = None;
    let mut recipients = 0;
    for task in tasks {
        if recipients >= FIRST {
            break;
        }
        let event = &task.event;
        if shared.as_ref().is_none_or(|shared| shared.own.id != event.node.id) {
            shared = Shared::read(r, event.node.id)?;
        }
        let Some(shared) = &mut shared else {
            all.push(Ready::without_node(event));
            continue;
        };
        let item = match &event.what {
            What::Published { item, version, .. } => {
                r.item(event.node.id, item)?.filter(|item| item.version == *version)
            }
            _ => None,
        };
        let audience = shared.audience(event, item);
        let (to, next) = match destination {
            Destination::Jid(owner) => (only(r, event, owner)?, None),
            _ if task.cursor.is_empty() => {
                if shared.first.is_none() {
                    shared.first = Some(r.subscriptions(event.node.id, &[], FIRST)?);
                }
                page(r, &audience, event, shared.first.as_deref().unwrap_or_default(), FIRST)?
            }
            _ => page(r, &audience, event, &r.subscriptions(event.node.id, &task.cursor, FIRST)?, FIRST)?,
        };
        recipients += to.len().max(1);
        all.push(Some(Ready { audience, to, next }));
    }
    Ok(all)
}

/// What Events of one node have in common.
struct Shared {
    /// The node as it is, and as it is seen beside the posts it belongs to.
    own: Arc<Node>,
    node: Arc<Node>,
    affiliations: Option<Arc<HashMap<BareJid, Affiliation>>>,
    /// The first subscriptions, once they were needed.
    first: Option<Vec<(Vec<u8>, Subscription)>>,
}

impl Shared {
    fn read(r: &dyn Read, nid: NodeId) -> kv::Result<Option<Self>> {
        let Some(own) = r.node(nid)?.map(Arc::new) else { return Ok(None) };
        let node = match own.kind {
            NodeKind::Comments => Arc::new(in_step(r, (*own).clone())?),
            _ => own.clone(),
        };
        let affiliations = r.affiliations(nid, AFFILIATIONS)?;
        let affiliations = (affiliations.len() < AFFILIATIONS).then(|| Arc::new(affiliations.into_iter().collect()));
        Ok(Some(Shared { own, node, affiliations, first: None }))
    }

    fn audience(&self, event: &Event, item: Option<Item>) -> Audience {
        let node = match event.what {
            // Its end is told to all who could read it, also where the posts that it belonged to went before.
            What::Deleted => self.own.clone(),
            _ => self.node.clone(),
        };
        Audience { node, item, affiliations: self.affiliations.clone() }
    }
}

impl Audience {
    /// The same as it is now. The item stays the one that is told.
    fn renewed(&self, r: &dyn Read, event: &Event) -> kv::Result<Audience> {
        let (item, node, affiliations) = (self.item.clone(), self.node.clone(), self.affiliations.clone());
        Ok(match Shared::read(r, event.node.id)? {
            Some(shared) => shared.audience(event, item),
            None => Audience { node, item, affiliations },
        })
    }
}

/// The one JID that an Event concerns, or an owner, if it is still to be told.
fn only(r: &dyn Read, event: &Event, owner: &str) -> kv::Result<Vec<Jid>> {
    let to = match &event.what {
        // It concerns only that JID.
        What::Subscription { jid, .. } => Some(jid.clone()),
        What::LastItem { jid, .. } => still_due(r, event)?.then(|| jid.clone()),
        What::Requested { jid, subid } => match read_bare_jid(owner) {
            Some(owner) if asks_still(r, event, jid, subid, &owner)? => Some(owner.into()),
            _ => None,
        },
        _ => None,
    };
    Ok(to.into_iter().collect())
}

/// Whether a request still waits for an answer, and `owner` is still one who gives it: who asks is nobody else's business.
fn asks_still(r: &dyn Read, event: &Event, jid: &Jid, subid: &str, owner: &BareJid) -> kv::Result<bool> {
    let node = &event.node;
    let is_live = r.node_named(&node.service, &node.name)?.is_some_and(|now| now.id == node.id);
    let asks = r.subscription(node.id, jid)?.is_some_and(|s| s.subid == subid && s.state == SubscriptionState::Pending);
    Ok(is_live && asks && r.affiliation(node.id, owner)? == Affiliation::Owner)
}

/// Those of `rows` who are to be told, and where to go on; `most`: of so many there would be more.
fn page(
    r: &dyn Read,
    audience: &Audience,
    event: &Event,
    rows: &[(Vec<u8>, Subscription)],
    most: usize,
) -> kv::Result<(Vec<Jid>, Option<Vec<u8>>)> {
    let next = rows.last().filter(|_| rows.len() == most).map(|(key, _)| key.clone());
    let mut page = Vec::with_capacity(rows.len());
    for (_, subscription) in rows {
        // What is stored about one of them and cannot be read keeps the others from nothing.
        if if_readable(is_told(r, audience, event, subscription).map(Some))?.unwrap_or(false) {
            page.push(subscription.jid.clone());
        }
    }
    Ok((page, next))
}

/// Whether a subscriber is told: subscribed before the event, allowed to read now, and not told under another address.
fn is_told(r: &dyn Read, audience: &Audience, event: &Event, subscription: &Subscription) -> kv::Result<bool> {
    let node = &audience.node;
    let is_owed = |s: &Subscription| s.state == SubscriptionState::Subscribed && s.born < event.node_seq;
    if !is_owed(subscription) {
        return Ok(false);
    }
    let bare = subscription.jid.to_bare();
    // Who subscribed a resource and the account too gets it at the account, once: if that was in time as well.
    if subscription.jid.resource().is_some()
        && r.subscription(node.id, &Jid::from(bare.clone()))?.is_some_and(|s| is_owed(&s))
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
        NodeKind::Comments if event.what != What::Deleted => standing(r, node, &bare)?,
        _ => Standing { affiliation, subscription: Some(subscription.state), contact },
    };
    Ok(match &audience.item {
        Some(item) => may_see(Viewer::Jid { jid: &bare, standing }, node, item).is_ok(),
        None => may(standing, Verb::Retrieve, node).is_ok(),
    })
}

/// Whether a last item may still be sent: the subscription, the item and the right to see it are as they were, and it is
/// still the last.
fn still_due(r: &dyn Read, event: &Event) -> kv::Result<bool> {
    let What::LastItem { jid, subid, item, version, .. } = &event.what else { return Ok(true) };
    let Some(node) = r.node(event.node.id)? else { return Ok(false) };
    let (node, bare, floor) = (in_step(r, node)?, jid.to_bare(), r.node_state(event.node.id)?.floor);
    let subscribed =
        r.subscription(node.id, jid)?.is_some_and(|s| s.subid == *subid && s.state == SubscriptionState::Subscribed);
    let item = r.item(node.id, item)?.filter(|item| subscribed && item.version == *version && item.place > floor);
    let Some(item) = item else { return Ok(false) };
    let standing = standing(r, &node, &bare)?;
    let sees = |item: &Item| may_see(Viewer::Jid { jid: &bare, standing }, &node, item).is_ok();
    // Of a newer one its own Event tells, on another way: the older must not come behind it.
    let newest = r.items(node.id, item.place.saturating_add(1), u64::MAX, 1, true)?;
    Ok(sees(&item) && !newest.iter().any(sees))
}
