//! Nodes, items and payloads.

use bytes::Bytes;
use jid::BareJid;

use super::*;
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
            nodes.extend(self.node(nid)?);
        }
        Ok(nodes)
    }

    pub fn item(&self, nid: NodeId, id: &ItemId) -> Result<Option<Item>> {
        row(self, &item_key(nid, id))
    }

    /// Items in their order, oldest first: those with a place in `from..to`, at most `limit`; the newest ones of them
    /// first if `newest_first`.
    pub fn items(&self, nid: NodeId, from: u64, to: u64, limit: usize, newest_first: bool) -> Result<Vec<Item>> {
        let ids = self.range(&place_key(nid, from), &place_key(nid, to), limit, newest_first)?;
        let mut items = Vec::with_capacity(ids.len());
        for (_, id) in ids {
            items.extend(self.item(nid, &decode::<ItemId>(&id)?)?);
        }
        Ok(items)
    }

    /// The canonical bytes of a payload.
    pub fn payload(&self, version: Version) -> Result<Option<Bytes>> {
        self.get(&version_key(version))
    }

    /// The item with this `atom:id`.
    pub fn item_of_atom_id(&self, atom_id: &str) -> Result<Option<(NodeId, ItemId)>> {
        row(self, &atom_key(atom_id))
    }

    /// Nodes with rows that are still to be removed, each with the Event that must have been told before.
    pub fn sweeps(&self, limit: usize) -> Result<Vec<(NodeId, u64)>> {
        rows::<u64>(self, b"x", &[], limit)?
            .into_iter()
            .map(|(key, event)| Ok((NodeId(number(&key, 1)?), event)))
            .collect()
    }

    /// Keys of rows of a deleted node, at most `limit`: what a sweep removes next. Payloads are not among them.
    pub fn rows_of_node(&self, nid: NodeId, limit: usize) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let mut found = Vec::new();
        for table in [b't', b'i', b'a', b's', b'w'] {
            let prefix = Key::new(table).num(nid.0).done();
            found.extend(self.range(&prefix, &after(&prefix), limit - found.len(), false)?);
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }
}

impl Tx<'_> {
    /// Writes a node under its name.
    pub fn put_node(&mut self, node: &Node) -> Result<()> {
        self.put(node_name_key(&node.service, &node.name), encode(&node.id))?;
        self.put(node_key(node.id), encode(node))
    }

    /// Frees the node's name; its rows stay readable by its id until they are swept.
    pub fn unname_node(&mut self, node: &Node) -> Result<()> {
        self.delete(node_name_key(&node.service, &node.name))
    }

    /// Has the sweep look at a node once `event` was told: purged items, or all of it if its name is gone.
    pub fn mark_for_sweep(&mut self, nid: NodeId, event: u64) -> Result<()> {
        self.put(sweep_key(nid), encode(&event))
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

    /// Writes an item, its place and its `atom:id`. The payload is written by [`Tx::put_payload`].
    pub fn put_item(&mut self, nid: NodeId, item: &Item) -> Result<()> {
        self.put(item_key(nid, &item.id), encode(item))?;
        self.put(place_key(nid, item.place), encode(&item.id))?;
        match &item.atom_id {
            Some(atom_id) => self.put(atom_key(atom_id), encode(&(nid, &item.id))),
            None => Ok(()),
        }
    }

    /// Removes an item's rows; its payload stays for [`Tx::release_payload`].
    pub fn delete_item(&mut self, nid: NodeId, item: &Item) -> Result<()> {
        self.delete(item_key(nid, &item.id))?;
        self.delete(place_key(nid, item.place))?;
        match &item.atom_id {
            Some(atom_id) => self.delete(atom_key(atom_id)),
            None => Ok(()),
        }
    }

    pub fn put_payload(&mut self, version: Version, payload: Bytes) -> Result<()> {
        self.put(version_key(version), payload)
    }

    /// Ends an item's hold on a payload: it goes, unless the Event that tells of it is still under way; then it goes
    /// with the Event (see [`Tx::end_event`]).
    pub fn release_payload(&mut self, version: Version, event: u64) -> Result<()> {
        match self.read().event_alive(event)? {
            true => Ok(()),
            false => self.delete(version_key(version)),
        }
    }

    /// Removes the row under `key`, one of [`rows_of_node`](trait.Read.html); the reverse index goes along.
    pub fn sweep_row(&mut self, nid: NodeId, key: &[u8], value: &[u8]) -> Result<()> {
        match key.first() {
            Some(b'i') => {
                let item: Item = decode(value)?;
                if let Some(atom_id) = &item.atom_id {
                    self.delete(atom_key(atom_id))?;
                }
                self.release_payload(item.version, item.event)?;
            }
            Some(b's') => {
                let subscription: crate::domain::subscription::Subscription = decode(value)?;
                self.delete(subscribed_key(nid, &subscription.jid))?;
            }
            Some(b'a') => {
                if let Some(jid) =
                    key.get(9..).and_then(|j| std::str::from_utf8(j).ok()).and_then(|j| BareJid::new(j).ok())
                {
                    self.delete(affiliated_key(nid, &jid))?;
                }
            }
            Some(b'w') => {
                let subscription: crate::domain::hub::HubSubscription = decode(value)?;
                self.delete(hub_id_key(subscription.id))?;
            }
            _ => {}
        }
        self.delete(key.to_vec())
    }
}
