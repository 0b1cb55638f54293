//! What an administrator sees of the deliveries, and does with them: retry, hold, release, drop. In pieces, each durable
//! by itself: work that is broken off can be begun again.

use jid::BareJid;

use super::Service;
use crate::base::clock::Timestamp;
use crate::base::progress::Progress;
use crate::domain::delivery::Destination;
use crate::domain::event::{Event, What};
use crate::domain::hub::Mode;
use crate::domain::node::{NodeId, NodeName};
use crate::store::tables::{HELD, HeldHosts, State, if_readable};
use crate::store::{KvError, Lane, Read, StoreError, Tx, kv};

/// Destinations read, and rows changed, at a time.
const PIECE: usize = 100;
/// What the figures look at, at most.
const LOOK: usize = 10_000;

/// Which destinations are meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    These(Vec<Destination>),
    /// All at this host; without a port, at any of its ports.
    Host(String),
    All,
}

impl Which {
    fn is(&self, state: &State) -> bool {
        match self {
            Which::These(these) => these.contains(&state.destination),
            Which::Host(host) => state.host.as_deref().is_some_and(|of| is_host(of, host)),
            Which::All => true,
        }
    }
}

/// What is to be done with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// What waits is tried at once, whatever failed before.
    Retry,
    /// Nothing is sent until it is released; what comes meanwhile waits.
    Hold,
    Release,
    /// What waits is never sent.
    Drop,
}

/// Who hears of destinations that were changed, each with its host.
pub type Told<'a> = dyn Fn(Vec<(Destination, Option<String>)>) + Send + Sync + 'a;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub destinations: u64,
    /// Deliveries that wait there; for [`Act::Drop`] those that were dropped.
    pub deliveries: u64,
    /// Destinations left as they are, since they, or their host, are held.
    pub held: u64,
    /// Hosts that were held as such, or are so no more.
    pub hosts: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.destinations += other.destinations;
        self.deliveries += other.deliveries;
        self.held += other.held;
        self.hosts += other.hosts;
    }
}

/// A destination, for a person.
#[derive(Clone, PartialEq, Debug)]
pub struct Shown {
    pub state: State,
    pub whither: Whither,
    /// When the oldest promise that waits was made.
    pub oldest: Option<Timestamp>,
}

/// What is behind a [`Destination`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whither {
    /// The XMPP subscribers of a node, `None` once it is gone.
    Subscribers(Option<(BareJid, NodeName)>),
    Jid(String),
    /// An HTTP subscriber, `None` once it is gone.
    Callback(Option<Callback>),
    /// A callback that is asked for its intent.
    Intent(Option<(Mode, Callback)>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Callback {
    pub url: String,
    pub topic: String,
}

/// The queue at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct QueueFigures {
    /// Destinations that wait, fail, or are held.
    pub waiting: u64,
    pub failing: u64,
    pub held: u64,
    /// Hosts with a destination that fails.
    pub hosts_failing: u64,
    /// Deliveries that wait.
    pub deliveries: u64,
    /// The age of the oldest of them, in seconds.
    pub oldest_seconds: f64,
    /// Events put aside.
    pub parked: u64,
}

impl Service {
    /// Destinations with something to do, the longest due first, behind `cursor` (which this gave, or empty), and where
    /// to go on if there are more.
    pub async fn queue_page(
        &self,
        which: Which,
        cursor: Vec<u8>,
        limit: usize,
    ) -> Result<(Vec<Shown>, Option<Vec<u8>>), StoreError> {
        self.store
            .read(move |r| {
                // `at`: what was looked at. A page of which nothing is meant must not be looked at for ever.
                let (mut shown, mut at) = (Vec::new(), cursor);
                loop {
                    let page = r.due(&at, PIECE)?;
                    if page.is_empty() {
                        return Ok((shown, None));
                    }
                    for (key, due) in page {
                        if let Some(state) =
                            if_readable(r.destination(&due.destination))?.filter(|state| which.is(state))
                        {
                            if shown.len() == limit {
                                return Ok((shown, Some(at)));
                            }
                            shown.push(show(r, state)?);
                        }
                        at = key;
                    }
                }
            })
            .await
    }

    /// One destination, also if nothing waits for it.
    pub async fn queue_of(&self, destination: Destination) -> Result<Option<Shown>, StoreError> {
        self.store.read(move |r| r.destination(&destination)?.map(|state| show(r, state)).transpose()).await
    }

    /// The destinations of a callback: the subscriptions that it has, and its intents that are being verified.
    pub async fn destinations_of_callback(&self, url: String) -> Result<Vec<Destination>, StoreError> {
        self.store
            .read(move |r| {
                let (mut found, mut cursor) = (Vec::new(), Vec::new());
                loop {
                    let page = r.all_hub_subscriptions(&cursor, 1000)?;
                    let Some((last, ..)) = page.last() else { break };
                    cursor = last.clone();
                    found.extend(
                        page.iter().filter(|(_, _, s)| s.callback == url).map(|(_, _, s)| Destination::Hub(s.id)),
                    );
                }
                each_state(r, |state| {
                    if let Destination::Intent(seq) = state.destination
                        && let Some(What::Verify(intent)) = r.event(seq)?.map(|event| event.what)
                        && intent.callback == url
                    {
                        found.push(state.destination.clone());
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// The destination of a node's XMPP subscribers.
    pub async fn destination_of_node(&self, at: BareJid, name: NodeName) -> Result<Option<Destination>, StoreError> {
        self.store.read(move |r| Ok(r.node_named(&at, &name)?.map(|node| Destination::Subscribers(node.id)))).await
    }

    /// How much is meant by `which`, without doing anything.
    pub async fn queue_tally(&self, which: Which) -> Result<Tally, StoreError> {
        self.store
            .read(move |r| {
                let mut tally = Tally::default();
                each_state(r, |state| {
                    if which.is(state) && state.waiting > 0 {
                        tally.destinations += 1;
                        tally.deliveries += state.waiting;
                        tally.held += u64::from(state.held);
                    }
                    Ok(())
                })?;
                Ok(tally)
            })
            .await
    }

    /// Does `act` with every destination meant. `told` hears of what was changed, as soon as it is durable: the running
    /// worker has to know.
    pub async fn queue_act(
        &self,
        which: Which,
        act: Act,
        told: &Told<'_>,
        progress: &Progress,
    ) -> Result<Tally, StoreError> {
        if let Which::These(these) = which {
            let mut tally = Tally::default();
            for piece in these.chunks(PIECE) {
                tally += self.act_on(piece.to_vec(), act, told, progress).await?;
            }
            return Ok(tally);
        }
        // First of all: what is planned from then on is held as well, or is not.
        let hosts = match act {
            Act::Hold | Act::Release => self.hold_hosts(which.clone(), act == Act::Hold).await?,
            Act::Retry | Act::Drop => 0,
        };
        let (mut tally, mut cursor, mut seen) = (Tally { hosts, ..Tally::default() }, Vec::new(), 0);
        loop {
            let from = cursor.clone();
            let page = self.store.read(move |r| r.destinations(&from, PIECE)).await?;
            let Some((last, _)) = page.last() else { return Ok(tally) };
            cursor = last.clone();
            progress.step(seen, seen + page.len() as u64, "destinations looked at");
            seen += page.len() as u64;
            let meant = page.into_iter().map(|(_, state)| state).filter(|state| which.is(state));
            tally += self.act_on(meant.map(|state| state.destination).collect(), act, told, progress).await?;
        }
    }

    /// Holds the host that is meant, also for destinations to come, or releases those that are; how many.
    async fn hold_hosts(&self, which: Which, hold: bool) -> Result<u64, StoreError> {
        let answer = self.store.commit(Lane::Asked, move |tx| {
            let held = tx.read().held_hosts()?;
            let hosts: Vec<&str> = match &which {
                Which::Host(host) if hold => vec![host],
                Which::Host(host) => held.iter().filter(|held| is_host(held, host)).collect(),
                Which::All if !hold => held.iter().collect(),
                Which::All | Which::These(_) => Vec::new(),
            };
            for host in &hosts {
                tx.hold_host(host, hold)?;
            }
            Ok(Ok::<_, ()>(hosts.len() as u64))
        });
        Ok(answer.await?.unwrap_or_default())
    }

    /// The hosts that are held, each as `name:port`, or as `name` whatever the port.
    pub async fn held_hosts(&self) -> Result<HeldHosts, StoreError> {
        self.store.read(|r| r.held_hosts()).await
    }

    /// Does `act` with at most a piece of destinations.
    async fn act_on(
        &self,
        meant: Vec<Destination>,
        act: Act,
        told: &Told<'_>,
        progress: &Progress,
    ) -> Result<Tally, StoreError> {
        if act != Act::Drop {
            return self.change(meant, act, told).await;
        }
        let mut tally = Tally::default();
        for destination in meant {
            let of = destination.clone();
            let Some(state) = self.store.read(move |r| r.destination(&of)).await? else { continue };
            let dropped = self.drop_of(&state, progress).await?;
            tally += Tally { destinations: u64::from(dropped > 0), deliveries: dropped, ..Tally::default() };
            told(vec![(destination, state.host)]);
        }
        Ok(tally)
    }

    /// Retries, holds or releases destinations, as one Change.
    async fn change(&self, destinations: Vec<Destination>, act: Act, told: &Told<'_>) -> Result<Tally, StoreError> {
        let now = self.clock.now();
        let answer = self.store.commit(Lane::Asked, move |tx| {
            let (mut tally, mut changed) = (Tally::default(), Vec::new());
            let held = tx.read().held_hosts()?;
            for destination in &destinations {
                let before = tx.read().destination(destination)?;
                if act == Act::Release && before.as_ref().is_some_and(|state| held.holds(state.host.as_deref())) {
                    tally.held += 1;
                    continue;
                }
                let Some(state) = changed_state(before.as_ref(), destination, act, now, &mut tally) else { continue };
                tally.destinations += 1;
                tally.deliveries += state.waiting;
                tx.put_destination(before.as_ref(), &state)?;
                if act == Act::Release {
                    close_if_drained(tx, destination)?;
                }
                changed.push((destination.clone(), state.host));
            }
            Ok(Ok::<_, ()>((tally, changed)))
        });
        let Ok((tally, changed)) = answer.await? else { return Ok(Tally::default()) };
        if !changed.is_empty() {
            told(changed);
        }
        Ok(tally)
    }

    /// Drops what waits for a destination now, and says how much; what is planned meanwhile stays.
    async fn drop_of(&self, state: &State, progress: &Progress) -> Result<u64, StoreError> {
        let (mut behind, mut dropped) = (0, 0);
        loop {
            let (of, newest) = (state.destination.clone(), state.last_planned);
            let answer =
                self.store.commit(Lane::Asked, move |tx| Ok(Ok::<_, ()>(drop_piece(tx, &of, behind, newest)?)));
            let (piece, next) = answer.await?.unwrap_or_default();
            progress.step(dropped, dropped + piece, "deliveries dropped");
            dropped += piece;
            match next {
                Some(last) => behind = last,
                None => return Ok(dropped),
            }
        }
    }

    /// Events put aside, with their numbers, the oldest first, from `from` on; `None` for one that cannot be read.
    pub async fn parked(&self, from: u64, limit: usize) -> Result<Vec<(u64, Option<Event>)>, StoreError> {
        self.store.read(move |r| r.parked(from, limit)).await
    }

    /// Promises an Event that was put aside anew: its new number.
    pub async fn retry_parked(&self, seq: u64) -> Result<Option<u64>, StoreError> {
        let answer = self.store.commit(Lane::Asked, move |tx| Ok(Ok::<_, ()>(tx.unpark_event(seq)?)));
        Ok(answer.await?.unwrap_or_default())
    }

    /// Forgets an Event that was put aside; whether there was one.
    pub async fn drop_parked(&self, seq: u64) -> Result<bool, StoreError> {
        let answer = self.store.commit(Lane::Asked, move |tx| Ok(Ok::<_, ()>(tx.drop_parked(seq)?)));
        Ok(answer.await?.unwrap_or_default())
    }

    /// How the queue stands. Looks at no more than ten thousand destinations.
    pub async fn queue_figures(&self) -> Result<QueueFigures, StoreError> {
        let now = self.clock.now();
        self.store
            .read(move |r| {
                let mut figures = QueueFigures { parked: r.parked(0, 1000)?.len() as u64, ..QueueFigures::default() };
                let mut hosts = std::collections::BTreeSet::new();
                let mut oldest: Option<Timestamp> = None;
                for (_, due) in r.due(&[], LOOK)? {
                    let Some(state) = if_readable(r.destination(&due.destination))? else { continue };
                    figures.waiting += u64::from(state.waiting > 0);
                    figures.held += u64::from(state.held);
                    figures.deliveries += state.waiting;
                    if state.health.failures > 0 {
                        figures.failing += 1;
                        hosts.extend(state.host);
                    }
                    let first = r.deliveries(&due.destination, 0, 1)?.pop().map(|delivery| delivery.at);
                    oldest = [oldest, first].into_iter().flatten().min();
                }
                figures.hosts_failing = hosts.len() as u64;
                figures.oldest_seconds = oldest.map_or(0.0, |at| now.since(at).as_secs_f64());
                Ok(figures)
            })
            .await
    }
}

/// Whether `of` (`name:port`) is at `wanted`: the same, or its name.
pub fn is_host(of: &str, wanted: &str) -> bool {
    of == wanted || of.rsplit_once(':').is_some_and(|(name, _)| name == wanted)
}

fn each_state(r: &dyn Read, mut look: impl FnMut(&State) -> kv::Result<()>) -> kv::Result<()> {
    let mut cursor = Vec::new();
    loop {
        let page = r.destinations(&cursor, 1000)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        cursor = last.clone();
        for (_, state) in &page {
            look(state)?;
        }
    }
}

/// What becomes of a destination's row; `None` if nothing does.
fn changed_state(
    before: Option<&State>,
    destination: &Destination,
    act: Act,
    now: Timestamp,
    tally: &mut Tally,
) -> Option<State> {
    let state = match (before, act) {
        (Some(state), _) => state.clone(),
        (None, Act::Hold) => State::new(destination.clone(), None),
        (None, _) => return None,
    };
    match act {
        Act::Hold => Some(State { held: true, due: Some(HELD), ..state }),
        Act::Release if state.held => {
            let due = (state.waiting > 0).then(|| now.max(state.health.not_before));
            Some(State { held: false, due, ..state })
        }
        Act::Retry if state.held => {
            tally.held += u64::from(state.waiting > 0);
            None
        }
        Act::Retry if state.waiting > 0 => {
            let mut state = State { due: Some(now), ..state };
            state.health.not_before = Timestamp::default();
            Some(state)
        }
        Act::Retry | Act::Release | Act::Drop => None,
    }
}

/// Drops deliveries behind Event `behind` and up to `newest`: how many, and where to go on.
fn drop_piece(
    tx: &mut Tx<'_>,
    destination: &Destination,
    behind: u64,
    newest: u64,
) -> Result<(u64, Option<u64>), KvError> {
    let found = tx.read().deliveries(destination, behind, PIECE)?;
    let last = found.last().filter(|last| found.len() == PIECE && last.event < newest).map(|last| last.event);
    let mut dropped = 0;
    for delivery in found.iter().filter(|delivery| delivery.event <= newest) {
        tx.end_delivery(destination, delivery.event)?;
        dropped += 1;
    }
    if let Some(before) = tx.read().destination(destination)? {
        let waiting = before.waiting.saturating_sub(dropped);
        tx.put_destination(Some(&before), &State { waiting, ..before.clone() })?;
    }
    close_if_drained(tx, destination)?;
    Ok((dropped, last))
}

/// Takes a destination out of the due index once nothing waits for it; whether something does. Part of the Change that
/// ends deliveries.
pub fn close_if_drained(tx: &mut Tx<'_>, destination: &Destination) -> Result<bool, KvError> {
    // Read in the same Change in which it is written: what was planned meanwhile is counted. The count serves, since a
    // look for rows would step over all that were delivered lately.
    let Some(state) = tx.read().destination(destination)? else { return Ok(false) };
    if state.waiting > 0 {
        return Ok(true);
    }
    let subscribed = match destination {
        Destination::Hub(id) => tx.read().hub_subscription_by_id(*id)?.is_some(),
        _ => false,
    };
    match (state.held, subscribed && destination.is_lasting()) {
        // What a person said stays said, also for what is still to come; to an intent nothing is.
        (true, _) if !matches!(destination, Destination::Intent(_)) => {}
        (_, true) => tx.put_destination(Some(&state), &State { due: None, ..state.clone() })?,
        (_, false) => tx.delete_destination(&state)?,
    }
    Ok(false)
}

fn show(r: &dyn Read, state: State) -> kv::Result<Shown> {
    let oldest = r.deliveries(&state.destination, 0, 1)?.pop().map(|delivery| delivery.at);
    Ok(Shown { whither: whither(r, &state.destination)?, oldest, state })
}

fn whither(r: &dyn Read, destination: &Destination) -> kv::Result<Whither> {
    Ok(match destination {
        Destination::Subscribers(nid) => Whither::Subscribers(address(r, *nid)?),
        Destination::Jid(jid) => Whither::Jid(jid.clone()),
        Destination::Hub(id) => {
            Whither::Callback(r.hub_subscription_by_id(*id)?.map(|(_, s)| Callback { url: s.callback, topic: s.topic }))
        }
        Destination::Intent(seq) => Whither::Intent(match if_readable(r.event(*seq))?.map(|event| event.what) {
            Some(What::Verify(intent)) => Some((intent.mode, Callback { url: intent.callback, topic: intent.topic })),
            _ => None,
        }),
    })
}

fn address(r: &dyn Read, nid: NodeId) -> kv::Result<Option<(BareJid, NodeName)>> {
    Ok(r.node(nid)?.map(|node| (node.service, node.name)))
}
