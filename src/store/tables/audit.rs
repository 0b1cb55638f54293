//! Whether the tables agree with one another: every row leads where it should and back, every payload is needed, every
//! count is what is counted. For a store at rest: rows are read in pieces, not of one moment.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::base::progress::Progress;
use crate::domain::delivery::Delivery;
use crate::domain::event::{Event, What};
use crate::domain::hub::{HubSubscription, host_of};
use crate::domain::item::Item;
use crate::domain::node::{Node, NodeKind, NodeState};
use crate::domain::subscription::{Affiliation, Contact, Subscription, SubscriptionState};

/// Rows read at a time: each may have a mebibyte.
const PIECE: usize = 64;
/// Findings that are kept in words.
const KEPT: usize = 50;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub rows: u64,
    pub accounts: u64,
    pub nodes: u64,
    pub items: u64,
    pub subscriptions: u64,
    pub hub_subscriptions: u64,
    pub deliveries: u64,
    /// What is wrong, in words; at most [`KEPT`] of it.
    pub findings: Vec<String>,
    /// How many findings there were beyond.
    pub more: u64,
}

/// Walks all tables.
pub fn audit(r: &dyn Read, progress: &Progress) -> Result<Audit> {
    let mut auditor = Auditor { r, progress, audit: Audit::default(), seen: Seen::default() };
    auditor.known_tables()?;
    auditor.accounts()?;
    auditor.nodes()?;
    auditor.items()?;
    auditor.subscriptions()?;
    auditor.hub()?;
    auditor.events()?;
    auditor.hub_tallies()?;
    auditor.deliveries()?;
    auditor.destinations()?;
    auditor.payloads()?;
    auditor.counters()?;
    Ok(auditor.audit)
}

struct Auditor<'a> {
    r: &'a dyn Read,
    progress: &'a Progress,
    audit: Audit,
    seen: Seen,
}

/// What is remembered from one table for another.
#[derive(Default)]
struct Seen {
    /// Payloads that items show or Events tell; sorted before use.
    versions: Vec<u64>,
    /// Events that tell the last item to one subscriber, per payload.
    pins: BTreeMap<u64, u64>,
    /// Deliveries counted per Event.
    deliveries: HashMap<u64, u64>,
    /// What each Jabber account has, counted.
    tallies: HashMap<String, Tally>,
    /// What the hub has for each host and in all, and for each node, counted.
    hub: HashMap<String, HubTally>,
    audiences: HashMap<u64, u64>,
    /// The highest numbers, in the order of [`Counter`].
    highest: [u64; 4],
}

impl Auditor<'_> {
    fn wrong(&mut self, words: String) {
        match self.audit.findings.len() < KEPT {
            true => self.audit.findings.push(words),
            false => self.audit.more += 1,
        }
    }

    fn expect(&mut self, good: bool, words: impl FnOnce() -> String) {
        if !good {
            self.wrong(words());
        }
    }

    /// Visits the rows of a table that can be read as a `T`.
    fn each<T: DeserializeOwned>(
        &mut self,
        table: u8,
        mut visit: impl FnMut(&mut Self, &[u8], T) -> Result<()>,
    ) -> Result<()> {
        self.each_raw(&[table], |this, key, value| match decode::<T>(value) {
            Ok(row) => visit(this, key, row),
            Err(error) => {
                this.wrong(format!("{} cannot be read: {error}", shown(key)));
                Ok(())
            }
        })
    }

    fn each_raw(&mut self, prefix: &[u8], mut visit: impl FnMut(&mut Self, &[u8], &Bytes) -> Result<()>) -> Result<()> {
        let mut from = prefix.to_vec();
        loop {
            let page = self.r.range(&from, &after(prefix), PIECE, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = next_key(last);
            self.progress.step(self.audit.rows, self.audit.rows + page.len() as u64, "rows checked");
            self.audit.rows += page.len() as u64;
            for (key, value) in &page {
                let visited = visit(self, key, value);
                self.tolerate(key, visited)?;
            }
        }
    }

    /// A row that cannot be read is a finding, and the walk goes on.
    fn tolerate(&mut self, key: &[u8], visited: Result<()>) -> Result<()> {
        match visited {
            Err(KvError::Damaged(words)) => {
                self.wrong(format!("what {} leads to cannot be read: {words}", shown(key)));
                Ok(())
            }
            visited => visited,
        }
    }

    fn has(&self, key: &[u8]) -> Result<bool> {
        Ok(self.r.get(key)?.is_some())
    }

    fn higher(&mut self, counter: Counter, n: u64) {
        let highest = &mut self.seen.highest[counter as usize];
        *highest = n.max(*highest);
    }

    fn known_tables(&mut self) -> Result<()> {
        const KNOWN: &[u8] = b"mnNcitvVuUsbaArjpoXehzdqDHwWxkyY";
        let mut from = vec![1];
        while let Some((key, _)) = self.r.range(&from, &[u8::MAX; 64], 1, false)?.pop() {
            let table = key.first().copied().unwrap_or_default();
            self.expect(KNOWN.contains(&table), || format!("rows of an unknown kind, from {} on", shown(&key)));
            from = after(&[table]);
        }
        Ok(())
    }

    fn accounts(&mut self) -> Result<()> {
        self.each::<Account>(b'p', |this, key, account| {
            this.audit.accounts += u64::from(account.is_active());
            this.expect(key == account_key(&account.name), || {
                format!("{} is the account {}", shown(key), account.name)
            });
            let owned = this.has(&owned_key(&account.owner, &account.name))?;
            this.expect(owned, || format!("the account {} is not found by its owner {}", account.name, account.owner));
            Ok(())
        })?;
        self.each_raw(b"X", |this, key, _| {
            this.expect(bare_at(key, 1).is_some(), || format!("{} is no account", shown(key)));
            Ok(())
        })?;
        self.each_raw(b"o", |this, key, _| {
            let account = split(key).map(|(_, name)| [b"p", name].concat());
            let account = account.map(|key| row::<Account>(this.r, &key)).transpose()?.flatten();
            let leads = account.is_some_and(|account| key == owned_key(&account.owner, &account.name));
            this.expect(leads, || format!("{} leads to no account", shown(key)));
            Ok(())
        })
    }

    fn nodes(&mut self) -> Result<()> {
        self.each::<NodeId>(b'n', |this, key, nid| {
            let node = this.r.node(nid)?.is_some_and(|node| key == node_name_key(&node.service, &node.name));
            this.expect(node, || format!("{} leads to no node", shown(key)));
            Ok(())
        })?;
        self.each::<Node>(b'N', |this, key, node| {
            this.audit.nodes += 1;
            this.higher(Counter::Node, node.id.0);
            let name = format!("the node {}/{}", node.service, node.name.as_str());
            this.expect(key == node_key(node.id), || format!("{} is {name}", shown(key)));
            let named = row::<NodeId>(this.r, &node_name_key(&node.service, &node.name))? == Some(node.id);
            let swept = this.has(&sweep_key(node.id))?;
            this.expect(named || swept, || format!("{name} was deleted, and its rows are left for ever"));
            if !named {
                return Ok(());
            }
            if node.kind == NodeKind::Leaf {
                this.seen.tallies.entry(node.creator.to_string()).or_default().nodes += 1;
            }
            this.counts(&node, &name, swept)
        })?;
        self.each::<NodeState>(b'c', |this, key, _| this.of_a_node(key))?;
        self.each::<u64>(b'x', |_, _, _| Ok(()))
    }

    /// The figures of a node, counted anew.
    fn counts(&mut self, node: &Node, name: &str, swept: bool) -> Result<()> {
        let state = self.r.node_state(node.id)?;
        let (mut items, mut bytes, mut below, mut subscribers) = (0, 0, 0, 0);
        let (mut from, mut more) = (0, true);
        while more {
            let places = self.r.range(&place_key(node.id, from), &place_key(node.id, u64::MAX), 1000, false)?;
            more = places.len() == 1000;
            for (key, id) in places {
                let place = number(&key, 9)?;
                from = place.saturating_add(1);
                let item = decode::<ItemId>(&id).ok().map(|id| self.r.item(node.id, &id)).transpose()?.flatten();
                if place > state.floor {
                    items += 1;
                    bytes += item.map_or(0, |item| u64::from(item.size));
                } else {
                    below += 1;
                }
            }
        }
        let mut cursor = Vec::new();
        loop {
            let page = self.r.subscriptions(node.id, &cursor, 1000)?;
            let Some((last, _)) = page.last() else { break };
            cursor = last.clone();
            subscribers += page.iter().filter(|(_, s)| s.state == SubscriptionState::Subscribed).count() as u64;
        }
        self.expect(below == 0 || swept, || format!("{name} has {below} items that nobody sees and no sweep removes"));
        for (what, says, counted) in [
            ("items", state.items, items),
            ("bytes", state.bytes, bytes),
            ("subscribers", state.subscribers, subscribers),
        ] {
            self.expect(says == counted, || format!("{name} says it has {says} {what}, and has {counted}"));
        }
        Ok(())
    }

    /// Whether the node whose number stands at the beginning of `key` has a row.
    fn of_a_node(&mut self, key: &[u8]) -> Result<()> {
        let there = match number(key, 1) {
            Ok(nid) => self.has(&node_key(NodeId(nid)))?,
            Err(_) => false,
        };
        self.expect(there, || format!("{} is of no node", shown(key)));
        Ok(())
    }

    fn items(&mut self) -> Result<()> {
        self.each::<Item>(b'i', |this, key, item| {
            this.of_a_node(key)?;
            this.audit.items += 1;
            let nid = NodeId(number(key, 1)?);
            let name = format!("the item {:?} of node {}", item.id.as_str(), nid.0);
            this.expect(key == item_key(nid, &item.id), || format!("{} is {name}", shown(key)));
            let place = row::<ItemId>(this.r, &place_key(nid, item.place))?;
            this.expect(place.as_ref() == Some(&item.id), || format!("{name} is not at its place {}", item.place));
            match this.r.payload(item.version)? {
                Some(payload) => this.expect(payload.len() == item.size as usize, || {
                    format!("{name} says it has {} bytes, and has {}", item.size, payload.len())
                }),
                None => this.wrong(format!("{name} has no payload")),
            }
            this.seen.versions.push(item.version.0);
            this.higher(Counter::Version, item.version.0);
            this.higher(Counter::Event, item.event);
            if let Some(key) = item.atom_id.as_deref().and_then(atom_key) {
                let found = row::<(NodeId, ItemId)>(this.r, &key)?.is_some();
                this.expect(found, || format!("{name} is not found by its atom:id"));
            }
            Ok(())
        })?;
        self.each::<ItemId>(b't', |this, key, id| {
            let (nid, place) = (NodeId(number(key, 1)?), number(key, 9)?);
            let leads = this.r.item(nid, &id)?.is_some_and(|item| item.place == place);
            this.expect(leads, || format!("{} leads to no item", shown(key)));
            Ok(())
        })?;
        for table in [b'u', b'U'] {
            self.each::<(NodeId, ItemId)>(table, |this, key, (nid, id)| {
                let item = this.r.item(nid, &id)?;
                let found_by = item.map(|item| {
                    let atom = item.atom_id.as_deref().and_then(atom_key);
                    [atom, item.alias.as_deref().and_then(|alias| alias_key(&item.author, alias))]
                });
                let leads = found_by.is_some_and(|keys| keys.iter().flatten().any(|of| of == key));
                this.expect(leads, || format!("{} leads to no item of this id", shown(key)));
                Ok(())
            })?;
        }
        Ok(())
    }

    fn subscriptions(&mut self) -> Result<()> {
        self.each::<Subscription>(b's', |this, key, subscription| {
            this.of_a_node(key)?;
            this.audit.subscriptions += 1;
            let (nid, jid) = (NodeId(number(key, 1)?), &subscription.jid);
            this.expect(key == subscription_key(nid, jid), || format!("{} is the subscription of {jid}", shown(key)));
            let found = this.has(&subscribed_key(nid, jid.as_str().as_bytes()))?;
            this.expect(found, || format!("the subscription of {jid} to node {} is not found by its JID", nid.0));
            Ok(())
        })?;
        self.each::<Affiliation>(b'a', |this, key, _| {
            this.of_a_node(key)?;
            let jid = key.get(9..).unwrap_or_default();
            let found = this.has(&[b"A", jid, &[0], &number(key, 1)?.to_be_bytes()].concat())?;
            this.expect(found, || format!("{} is not found by its JID", shown(key)));
            Ok(())
        })?;
        self.each::<Option<String>>(b'b', |this, key, by| {
            let leads = match split(key) {
                Some((_, rest)) => this.has(&[b"s", rest].concat())?,
                None => false,
            };
            this.expect(leads, || format!("{} leads to no subscription", shown(key)));
            let own = || split(key).and_then(|(bare, _)| String::from_utf8(bare.to_vec()).ok());
            if let Some(bare) = by.or_else(own) {
                this.seen.tallies.entry(bare).or_default().subscriptions += 1;
            }
            Ok(())
        })?;
        self.each::<Tally>(b'j', |this, key, tally| {
            let jid = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
            let counted = this.seen.tallies.remove(&jid).unwrap_or_default();
            this.expect(tally == counted, || format!("{jid} says it has {tally:?}, and has {counted:?}"));
            Ok(())
        })?;
        for (jid, counted) in std::mem::take(&mut self.seen.tallies) {
            self.wrong(format!("{jid} does not say that it has {counted:?}"));
        }
        self.each_raw(b"A", |this, key, _| {
            let leads = match split(key) {
                Some((jid, nid)) => this.has(&[b"a", nid, jid].concat())?,
                None => false,
            };
            this.expect(leads, || format!("{} leads to no affiliation", shown(key)));
            Ok(())
        })?;
        self.each::<Contact>(b'r', |_, _, _| Ok(()))
    }

    fn hub(&mut self) -> Result<()> {
        self.each::<HubSubscription>(b'w', |this, key, subscription| {
            this.of_a_node(key)?;
            this.audit.hub_subscriptions += 1;
            this.higher(Counter::Hub, subscription.id);
            for host in [host_of(&subscription.callback), String::new()] {
                this.seen.hub.entry(host).or_default().subscriptions += 1;
            }
            *this.seen.audiences.entry(number(key, 1)?).or_default() += 1;
            let found = this.r.hub_subscription_by_id(subscription.id)?;
            let found = found.is_some_and(|(nid, s)| hub_key(nid, &s.callback) == key);
            this.expect(found, || {
                format!("the subscription {} of {} is not found by its number", subscription.id, subscription.callback)
            });
            Ok(())
        })?;
        self.each::<(NodeId, String)>(b'W', |this, key, (nid, callback)| {
            let id = number(key, 1)?;
            let leads = this.r.hub_subscription(nid, &callback)?.is_some_and(|s| s.id == id);
            this.expect(leads, || format!("{} leads to no HTTP subscription", shown(key)));
            Ok(())
        })
    }

    fn events(&mut self) -> Result<()> {
        self.each::<Event>(b'e', |this, key, event| this.event(number(key, 1)?, &event))?;
        self.each_raw(b"z", |this, key, value| {
            let seq = number(key, 1)?;
            match decode::<Event>(value) {
                // One that was planned in part before it was put aside has another row.
                Ok(_) if this.has(&planned_key(seq))? => Ok(()),
                Ok(event) => this.event(seq, &event),
                Err(error) => {
                    this.higher(Counter::Event, seq);
                    this.wrong(format!(
                        "the event {seq} was put aside since it cannot be read, and nobody is told of it; `rookery queue \
                         drop event:{seq}` forgets it: {error}"
                    ));
                    Ok(())
                }
            }
        })?;
        self.each::<Planned>(b'h', |this, key, planned| {
            let seq = number(key, 1)?;
            let open = this.has(&event_key(seq))? || this.has(&parked_key(seq))?;
            this.expect(open == planned.planning.is_some(), || {
                format!("the event {seq} does not say rightly whether its planning is over")
            });
            this.expect(planned.left > 0 || open, || format!("the event {seq} has nothing left, and is still there"));
            // While it is planned it has two rows; it is one Event.
            if this.has(&event_key(seq))? { Ok(()) } else { this.event(seq, &planned.event) }
        })
    }

    fn hub_tallies(&mut self) -> Result<()> {
        self.each::<HubTally>(b'y', |this, key, tally| {
            let host = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
            let counted = this.seen.hub.remove(&host).unwrap_or_default();
            this.expect(tally == counted, || {
                format!("the hub says it has {tally:?} for {host:?}, and has {counted:?}")
            });
            Ok(())
        })?;
        self.each::<u64>(b'Y', |this, key, says| {
            let nid = number(key, 1)?;
            let counted = this.seen.audiences.remove(&nid).unwrap_or_default();
            this.expect(says == counted, || {
                format!("node {nid} says it has {says} HTTP subscribers, and has {counted}")
            });
            Ok(())
        })?;
        for (host, counted) in std::mem::take(&mut self.seen.hub) {
            self.wrong(format!("the hub does not say that it has {counted:?} for {host:?}"));
        }
        for (nid, counted) in std::mem::take(&mut self.seen.audiences) {
            self.wrong(format!("node {nid} does not say that it has {counted} HTTP subscribers"));
        }
        Ok(())
    }

    fn event(&mut self, seq: u64, event: &Event) -> Result<()> {
        self.higher(Counter::Event, seq);
        if let What::Verify(intent) = &event.what {
            for host in [host_of(&intent.callback), String::new()] {
                self.seen.hub.entry(host).or_default().requests += 1;
            }
        }
        if let Some(version) = event.what.version() {
            self.seen.versions.push(version.0);
            self.higher(Counter::Version, version.0);
            let there = self.r.payload(version)?.is_some();
            self.expect(there, || format!("the event {seq} has lost its payload"));
        }
        let is_pin = match &event.what {
            What::Published { version, .. } => self.r.pins(*version)?.counts(seq),
            what => matches!(what, What::LastItem { .. }),
        };
        if let Some(version) = event.what.version().filter(|_| is_pin) {
            *self.seen.pins.entry(version.0).or_default() += 1;
        }
        Ok(())
    }

    fn deliveries(&mut self) -> Result<()> {
        // Those of a destination stand together.
        let mut group: Option<(Vec<u8>, u64)> = None;
        self.each::<Delivery>(b'd', |this, key, delivery| {
            this.audit.deliveries += 1;
            let (prefix, seq) = key.split_at(key.len().saturating_sub(8));
            this.expect(seq == delivery.event.to_be_bytes(), || {
                format!("{} is of event {}", shown(key), delivery.event)
            });
            let alive = this.r.planned(delivery.event)?.is_some();
            this.expect(alive, || format!("{} delivers an event that is not there", shown(key)));
            *this.seen.deliveries.entry(delivery.event).or_default() += 1;
            match &mut group {
                Some((of, count)) if of == prefix => *count += 1,
                _ => {
                    let ended = group.replace((prefix.to_vec(), 1));
                    this.waiting(ended)?;
                }
            }
            Ok(())
        })?;
        let last = self.waiting(group);
        self.tolerate(b"d", last)?;
        self.each::<Planned>(b'h', |this, key, planned| {
            // Counted above already.
            this.audit.rows -= 1;
            let seq = number(key, 1)?;
            let counted = this.seen.deliveries.get(&seq).copied().unwrap_or(0);
            this.expect(planned.left == counted, || {
                format!("the event {seq} says that {} deliveries are left, and {counted} are", planned.left)
            });
            Ok(())
        })
    }

    /// Compares what was counted for one destination with what its row says.
    fn waiting(&mut self, group: Option<(Vec<u8>, u64)>) -> Result<()> {
        let Some((prefix, counted)) = group else { return Ok(()) };
        let key = [b"D", prefix.get(3..).unwrap_or_default()].concat();
        let says = row::<State>(self.r, &key)?.map_or(0, |state| state.waiting);
        self.expect(says == counted, || format!("{} says that {says} deliveries wait, and {counted} do", shown(&key)));
        Ok(())
    }

    fn destinations(&mut self) -> Result<()> {
        self.each_raw(b"H", |_, _, _| Ok(()))?;
        self.each::<State>(b'D', |this, key, state| {
            this.expect(key == destination_key(&state.destination), || format!("{} is another", shown(key)));
            if state.waiting > 0 {
                let first = !this.r.deliveries(&state.destination, 0, 1)?.is_empty();
                this.expect(first, || format!("{} says that deliveries wait, and none does", shown(key)));
                this.expect(state.due.is_some(), || format!("{} has deliveries, and is never due", shown(key)));
            }
            if let Some(due) = state.due {
                let found = this.has(&due_key(due, &state.destination))?;
                this.expect(found, || format!("{} is due, and not found by its time", shown(key)));
            }
            Ok(())
        })?;
        self.each::<Due>(b'q', |this, key, due| {
            let state = this.r.destination(&due.destination)?;
            let leads = state.is_some_and(|s| s.due.is_some_and(|at| due_key(at, &due.destination) == key));
            this.expect(leads, || format!("{} leads to no destination that is due then", shown(key)));
            Ok(())
        })
    }

    fn payloads(&mut self) -> Result<()> {
        self.seen.versions.sort_unstable();
        self.seen.versions.dedup();
        self.each_raw(b"v", |this, key, _| {
            let version = number(key, 1)?;
            this.higher(Counter::Version, version);
            let needed = this.seen.versions.binary_search(&version).is_ok();
            this.expect(needed, || format!("the payload {version} is kept, and nothing shows or tells it"));
            Ok(())
        })?;
        self.each::<Pins>(b'V', |this, key, pins| {
            let version = number(key, 1)?;
            let counted = this.seen.pins.remove(&version).unwrap_or(0);
            this.expect(pins.events == counted, || {
                format!("the payload {version} says that {} events need it, and {counted} do", pins.events)
            });
            Ok(())
        })?;
        for (version, events) in std::mem::take(&mut self.seen.pins) {
            self.wrong(format!("the payload {version} does not know of the {events} events that need it"));
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<()> {
        self.each_raw(b"m", |_, _, _| Ok(()))?;
        self.each_raw(b"k", |_, _, _| Ok(()))?;
        for (counter, what) in [
            (Counter::Node, "node"),
            (Counter::Version, "payload"),
            (Counter::Event, "event"),
            (Counter::Hub, "HTTP subscription"),
        ] {
            let highest = self.seen.highest[counter as usize];
            let last = match last_number(self.r, counter) {
                Err(KvError::Damaged(_)) => 0,
                last => last?,
            };
            self.expect(highest <= last, || format!("the number of {what} {highest} would be given again"));
        }
        Ok(())
    }
}

/// What stands before and behind the first zero byte of a key, without its letter.
fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let key = key.get(1..)?;
    let at = key.iter().position(|b| *b == 0)?;
    Some((key.get(..at)?, key.get(at + 1..)?))
}
