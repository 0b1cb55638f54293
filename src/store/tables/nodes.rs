//! Nodes, items and payloads.

use bytes::Bytes;
use jid::BareJid;

use super::*;
use crate::domain::hub::HubSubscription;
use crate::domain::item::Item;
use crate::domain::node::{Node, NodeState};

impl dyn Read + '_ {
    pub fn node_named(&self, service: &BareJid, name: &NodeName) -> Result<Option<Node>> {
        match row::<NodeId>(self, &node_name_key(service, name))? {
            Some(nid) => self.node(nid),
            None => Ok(None),
        }
    }

    pub fn node(&self, nid: NodeId) -> Result<Option<Node>> {
        row(self, &node_key(nid))
    }

    pub fn node_state(&self, nid: NodeId) -> Result<NodeState> {
        Ok(row(self, &state_key(nid))?.unwrap_or_default())
    }

    /// The nodes of `service` in the order of their names, behind `behind` if given.
    pub fn nodes_of(&self, service: &BareJid, behind: Option<&NodeName>, limit: usize) -> Result<Vec<Node>> {
        let prefix = Key::new(b'n').text(service.as_str()).done();
        let from = behind.map(|name| next_key(&node_name_key(service, name))).unwrap_or_default();
        let mut nodes = Vec::new();
        for (_, nid) in rows::<NodeId>(self, &prefix, &from, limit)? {
            nodes.extend(if_readable(self.node(nid))?);
        }
        Ok(nodes)
    }

    pub fn item(&self, nid: NodeId, id: &ItemId) -> Result<Option<Item>> {
        row(self, &item_key(nid, id))
    }

    /// Items in their order, oldest first: those with a place in `from..to`, at most `limit`; the newest ones of them
    /// first if `newest_first`.
    pub fn items(&self, nid: NodeId, from: u64, to: u64, limit: usize, newest_first: bool) -> Result<Vec<Item>> {
        let (mut from, mut to) = (place_key(nid, from), place_key(nid, to));
        let mut items = Vec::new();
        loop {
            let wanted = limit - items.len();
            let ids = self.range(&from, &to, wanted, newest_first)?;
            let more = ids.len() == wanted;
            let last = ids.last().map(|(key, _)| key.clone());
            for (key, id) in ids {
                let item = decode_at::<ItemId>(&key, &id).and_then(|id| self.item(nid, &id));
                items.extend(if_readable(item)?);
            }
            match last {
                Some(last) if more && items.len() < limit && newest_first => to = last,
                Some(last) if more && items.len() < limit => from = next_key(&last),
                _ => return Ok(items),
            }
        }
    }

    /// The item at this place.
    pub fn item_at(&self, nid: NodeId, place: u64) -> Result<Option<Item>> {
        match row::<ItemId>(self, &place_key(nid, place))? {
            Some(id) => self.item(nid, &id),
            None => Ok(None),
        }
    }

    /// The canonical bytes of a payload.
    pub fn payload(&self, version: Version) -> Result<Option<Bytes>> {
        self.get(&version_key(version))
    }

    /// The item with this `atom:id`.
    pub fn item_of_atom_id(&self, atom_id: &str) -> Result<Option<(NodeId, ItemId)>> {
        let Some(key) = atom_key(atom_id) else { return Ok(None) };
        row(self, &key)
    }

    /// The newest item that `author` called by this id: what one author writes says nothing about another's items.
    pub fn item_of_alias(&self, author: &BareJid, alias: &str) -> Result<Option<(NodeId, ItemId)>> {
        let Some(key) = alias_key(author, alias) else { return Ok(None) };
        row(self, &key)
    }

    /// Nodes with rows that are still to be removed, behind `behind`, each with the Event that must have been told before.
    pub fn sweeps(&self, behind: NodeId, limit: usize) -> Result<Vec<(NodeId, u64)>> {
        rows::<u64>(self, b"x", &next_key(&sweep_key(behind)), limit)?
            .into_iter()
            .map(|(key, event)| Ok((NodeId(number(&key, 1)?), event)))
            .collect()
    }

    /// The Event after which the sweep looks at a node, if it is to.
    pub fn sweep_of(&self, nid: NodeId) -> Result<Option<u64>> {
        row(self, &sweep_key(nid))
    }

    /// Rows of a deleted node behind `cursor` (a key that this gave, or empty), at most `limit`: what a sweep removes next.
    /// Payloads are not among them.
    pub fn rows_of_node(&self, nid: NodeId, cursor: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let mut found = Vec::new();
        let behind = if cursor.is_empty() { Vec::new() } else { next_key(cursor) };
        for table in [b'a', b'i', b's', b't', b'w'] {
            let prefix = Key::new(table).num(nid.0).done();
            let from = if behind > prefix { &behind } else { &prefix };
            found.extend(self.range(from, &after(&prefix), limit - found.len(), false)?);
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }
}

/// The keys under which an item is found by its ids.
fn id_keys(item: &Item) -> Vec<Vec<u8>> {
    let atom = item.atom_id.as_deref().and_then(atom_key);
    let alias = item.alias.as_deref().and_then(|alias| alias_key(&item.author, alias));
    atom.into_iter().chain(alias).collect()
}

impl Tx<'_> {
    /// Writes a new node under its name.
    pub fn add_node(&mut self, node: &Node) -> Result<()> {
        self.put(node_name_key(&node.service, &node.name), encode(&node.id))?;
        self.count_node(node, true)?;
        self.put_node(node)
    }

    /// Writes a node as it is now.
    pub fn put_node(&mut self, node: &Node) -> Result<()> {
        self.put(node_key(node.id), encode(node))
    }

    /// Frees the node's name; its rows stay readable by its id until they are swept.
    pub fn unname_node(&mut self, node: &Node) -> Result<()> {
        self.count_node(node, false)?;
        self.delete(node_name_key(&node.service, &node.name))
    }

    /// Has the sweep look at a node once `event` was told: purged items, or all of it if its name is gone.
    pub fn mark_for_sweep(&mut self, nid: NodeId, event: u64) -> Result<()> {
        self.put(sweep_key(nid), encode(&event))
    }

    /// Has the sweep look at a node when it comes by, unless it waits for an Event of this node already.
    pub fn sweep_soon(&mut self, nid: NodeId) -> Result<()> {
        match self.read().get(&sweep_key(nid))? {
            Some(_) => Ok(()),
            None => self.mark_for_sweep(nid, 0),
        }
    }

    /// The sweep is done with a node that goes on.
    pub fn unmark_for_sweep(&mut self, nid: NodeId) -> Result<()> {
        self.delete(sweep_key(nid))
    }

    /// Removes the last rows of a swept node.
    pub fn forget_node(&mut self, nid: NodeId) -> Result<()> {
        self.delete(node_key(nid))?;
        self.delete(state_key(nid))?;
        self.delete(sweep_key(nid))
    }

    pub fn put_node_state(&mut self, nid: NodeId, state: &NodeState) -> Result<()> {
        self.put(state_key(nid), encode(state))
    }

    /// Writes an item, its place and its ids. The payload is written by [`Tx::put_payload`].
    pub fn put_item(&mut self, nid: NodeId, item: &Item) -> Result<()> {
        if let Some(old) = self.read().item(nid, &item.id)? {
            self.delete_ids(nid, &old)?;
        }
        self.put(item_key(nid, &item.id), encode(item))?;
        self.put(place_key(nid, item.place), encode(&item.id))?;
        for key in id_keys(item) {
            self.put(key, encode(&(nid, &item.id)))?;
        }
        Ok(())
    }

    /// Removes an item's rows; its payload stays for [`Tx::release_payload`].
    pub fn delete_item(&mut self, nid: NodeId, item: &Item) -> Result<()> {
        self.delete(item_key(nid, &item.id))?;
        self.delete(place_key(nid, item.place))?;
        self.delete_ids(nid, item)
    }

    /// Removes the rows of an item's ids that are still its own.
    fn delete_ids(&mut self, nid: NodeId, item: &Item) -> Result<()> {
        for key in id_keys(item) {
            if row::<(NodeId, ItemId)>(self, &key)?.is_some_and(|(of, id)| of == nid && id == item.id) {
                self.delete(key)?;
            }
        }
        Ok(())
    }

    pub fn put_payload(&mut self, version: Version, payload: Bytes) -> Result<()> {
        self.put(version_key(version), payload)
    }

    /// Ends an item's hold on a payload: it goes, unless the Event that told of it, or one that tells it to a new
    /// subscriber, is still under way; then it goes with the last of those.
    pub fn release_payload(&mut self, version: Version, event: u64) -> Result<()> {
        let pinned = self.read().event_alive(event)? || self.read().pins(version)?.events > 0;
        if pinned { Ok(()) } else { self.delete(version_key(version)) }
    }

    /// Removes the row under `key`, one of [`rows_of_node`](trait.Read.html); the reverse index goes along.
    pub fn sweep_row(&mut self, nid: NodeId, key: &[u8], value: &[u8]) -> Result<()> {
        match key.first() {
            Some(b'i') => {
                if let Some(item) = if_readable(decode_at::<Item>(key, value).map(Some))? {
                    self.delete_ids(nid, &item)?;
                    self.release_payload(item.version, item.event)?;
                }
            }
            // What the key says is enough: it goes whether the row, or the address, can be read or not.
            Some(b's') => self.uncount_subscription(nid, key.get(9..).unwrap_or_default())?,
            Some(b'a') => self.delete(affiliated_bytes(nid, key.get(9..).unwrap_or_default()))?,
            Some(b'w') => {
                if let Some(subscription) = if_readable(decode_at::<HubSubscription>(key, value).map(Some))? {
                    self.delete_hub_subscription(nid, &subscription)?;
                }
            }
            _ => {}
        }
        self.delete(key.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::domain::delivery::Delivery;
    use crate::domain::event::{Event, NodeRef, What};
    use crate::domain::item::Audience;
    use crate::domain::node::NodeKind;
    use crate::store::kv::Kv;
    use crate::store::tables::Counters;
    use crate::store::tx::{self, Overlay};
    use crate::store::{Counter, MemoryKv};

    const NODE: NodeId = NodeId(1);

    /// Does `change` as a decision of its own.
    fn commit<T>(kv: &MemoryKv, counters: &mut Counters, change: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> T {
        let group = Overlay::new();
        let mut tx = Tx::new(kv, &group, counters);
        let out = change(&mut tx).unwrap();
        kv.apply(&tx::batch(tx.into_writes().0)).unwrap();
        out
    }

    fn jid(text: &str) -> BareJid {
        BareJid::new(text).unwrap()
    }

    fn item(id: &str, version: u64, event: u64, alias: &str) -> Item {
        Item {
            id: ItemId::parse(id).unwrap(),
            place: 1,
            version: Version(version),
            event,
            published: Timestamp(1),
            updated: Timestamp(1),
            publisher: jid("alice@example.org"),
            author: jid("alice@c.example"),
            atom_id: Some(format!("tag:{id}")),
            alias: Some(alias.to_owned()),
            audience: Audience::Node,
            size: 1,
            title: String::new(),
        }
    }

    fn event(what: What) -> Event {
        let name = NodeName::microblog();
        let node = NodeRef { id: NODE, service: jid("alice@c.example"), name, kind: NodeKind::Microblog };
        Event { at: Timestamp(1), node, node_seq: 1, what }
    }

    fn publish(tx: &mut Tx<'_>) -> Result<Item> {
        let version = Version(tx.next(Counter::Version));
        let id = ItemId::parse("one").unwrap();
        tx.put_payload(version, Bytes::from_static(b"<entry/>"))?;
        let seq = tx.emit(&event(What::Published { item: id, version, publisher: jid("alice@c.example") }))?;
        let item = item("one", version.0, seq, "mine");
        tx.put_item(NODE, &item)?;
        Ok(item)
    }

    fn show_to_new_subscriber(tx: &mut Tx<'_>, item: &Item) -> Result<u64> {
        tx.emit(&event(What::LastItem {
            jid: "romeo@example.net".parse().unwrap(),
            subid: "s".into(),
            item: item.id.clone(),
            version: item.version,
            published: item.published,
            publisher: item.author.clone(),
        }))
    }

    fn end(tx: &mut Tx<'_>, seq: u64) -> Result<()> {
        let event = tx.read().event(seq)?.unwrap();
        tx.plan_event(seq, &event, 0, None)
    }

    fn retract(tx: &mut Tx<'_>, item: &Item) -> Result<()> {
        tx.delete_item(NODE, item)?;
        tx.release_payload(item.version, item.event)
    }

    #[test]
    fn a_payload_stays_until_the_item_and_every_event_that_tells_it_are_gone_in_whatever_order_they_go() {
        // 0: the publishing Event, 1 and 2: Events to new subscribers, 3: the item.
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0], [3, 0, 2, 1], [0, 3, 1, 2], [1, 3, 0, 2], [2, 0, 3, 1]]
        {
            let (kv, mut counters) = (MemoryKv::default(), Counters::default());
            let item = commit(&kv, &mut counters, publish);
            let shown = [(); 2].map(|()| commit(&kv, &mut counters, |tx| show_to_new_subscriber(tx, &item)));
            for (n, what) in order.into_iter().enumerate() {
                let there = kv.get(&version_key(item.version)).unwrap().is_some();
                assert!(there, "gone after {:?} of {order:?}", &order[..n]);
                commit(&kv, &mut counters, |tx| match what {
                    0 => end(tx, item.event),
                    3 => retract(tx, &item),
                    n => end(tx, shown[n - 1]),
                });
            }
            assert_eq!(kv.range(&[1], &[255], 9, false).unwrap(), [], "{order:?}");
        }
    }

    #[test]
    fn a_payload_that_is_told_under_an_old_and_a_new_number_stays_until_both_are_over() {
        // 0: what was planned before the Event was put aside, 1: the Event promised anew, 2: the item.
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (kv, mut counters) = (MemoryKv::default(), Counters::default());
            let mut change = |change: &mut dyn FnMut(&mut Tx<'_>) -> Result<u64>| commit(&kv, &mut counters, change);
            let destination = Destination::Hub(1);
            let mut item = None;
            let anew = change(&mut |tx| {
                let published = publish(tx)?;
                let (seq, at) = (published.event, Timestamp(1));
                let told = tx.read().event(seq)?.unwrap();
                tx.put_delivery(&destination, &Delivery { event: seq, at, cursor: Vec::new() })?;
                tx.plan_event(seq, &told, 1, Some(("ostatus".into(), Vec::new())))?;
                tx.park_event(seq)?;
                item = Some(published);
                Ok(tx.unpark_event(seq)?.unwrap())
            });
            let item = item.unwrap();
            for (n, what) in order.into_iter().enumerate() {
                let there = kv.get(&version_key(item.version)).unwrap().is_some();
                assert!(there, "gone after {:?} of {order:?}", &order[..n]);
                change(&mut |tx| {
                    match what {
                        0 => tx.end_delivery(&destination, item.event)?,
                        1 => end(tx, anew)?,
                        _ => {
                            let now = tx.read().item(NODE, &item.id)?.unwrap();
                            retract(tx, &now)?;
                        }
                    }
                    Ok(0)
                });
            }
            assert_eq!(kv.range(&[1], &[255], 9, false).unwrap(), [], "{order:?}");
        }
    }

    #[test]
    fn an_item_that_cannot_be_read_hides_none_of_the_others_whichever_way_they_are_read() {
        let (kv, mut counters) = (MemoryKv::default(), Counters::default());
        for place in 1..=9 {
            let item = Item { place, ..item(&format!("i{place}"), place, place, "mine") };
            commit(&kv, &mut counters, |tx| tx.put_item(NODE, &item));
            if (3..=7).contains(&place) {
                commit(&kv, &mut counters, |tx| tx.put(item_key(NODE, &item.id), b"rubbish".to_vec()));
            }
        }
        let places = |limit, newest_first| {
            let (overlay, mut counters) = (Overlay::new(), Counters::default());
            let found =
                Tx::new(&kv, &overlay, &mut counters).read().items(NODE, 1, u64::MAX, limit, newest_first).unwrap();
            found.iter().map(|item| item.place).collect::<Vec<_>>()
        };
        assert_eq!([places(3, false), places(3, true)], [[1, 2, 8], [9, 8, 2]]);
        assert_eq!([places(9, false), places(4, true)], [[1, 2, 8, 9], [9, 8, 2, 1]]);
    }

    #[test]
    fn an_overwritten_items_ids_are_found_no_more_and_an_authors_ids_are_not_anothers() {
        let (kv, mut counters) = (MemoryKv::default(), Counters::default());
        let find = |author: &str, alias: &str| {
            let overlay = Overlay::new();
            let mut counters = Counters::default();
            Tx::new(&kv, &overlay, &mut counters).read().item_of_alias(&jid(author), alias).unwrap()
        };
        let mut put = |item: &Item| commit(&kv, &mut counters, |tx| tx.put_item(NODE, item));
        put(&item("one", 1, 1, "first"));
        put(&item("one", 2, 2, "second"));
        assert_eq!(find("alice@c.example", "first"), None);
        assert_eq!(find("alice@c.example", "second"), Some((NODE, ItemId::parse("one").unwrap())));
        assert_eq!(find("mallory@c.example", "second"), None);
        // A second item of the same name buries the first for its own author only; ending the first leaves it.
        put(&item("two", 3, 3, "second"));
        commit(&kv, &mut counters, |tx| tx.delete_item(NODE, &item("one", 2, 2, "second")));
        assert_eq!(find("alice@c.example", "second"), Some((NODE, ItemId::parse("two").unwrap())));
    }

    #[test]
    fn an_id_too_long_for_a_key_is_stored_but_not_found_by() {
        let (kv, mut counters) = (MemoryKv::default(), Counters::default());
        let long = "a".repeat(MAX_ID + 1);
        let item = Item { atom_id: Some(long.clone()), ..item("one", 1, 1, &long) };
        let found = commit(&kv, &mut counters, |tx| {
            tx.put_item(NODE, &item)?;
            Ok((tx.read().item(NODE, &item.id)?, tx.read().item_of_atom_id(&long)?))
        });
        assert_eq!(found, (Some(item.clone()), None));
    }
}
