//! HTTP subscribers of our feeds.

use super::*;
use crate::domain::hub::HubSubscription;

impl dyn Read + '_ {
    pub fn hub_subscription(&self, nid: NodeId, callback: &str) -> Result<Option<HubSubscription>> {
        row(self, &hub_key(nid, callback))
    }

    pub fn hub_subscription_by_id(&self, id: u64) -> Result<Option<(NodeId, HubSubscription)>> {
        let Some((nid, callback)) = row::<(NodeId, String)>(self, &hub_id_key(id))? else { return Ok(None) };
        Ok(self.hub_subscription(nid, &callback)?.filter(|s| s.id == id).map(|s| (nid, s)))
    }

    /// HTTP subscriptions of all nodes behind `cursor` (a key that this gave, or empty), with keys and nodes.
    pub fn all_hub_subscriptions(
        &self,
        cursor: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, NodeId, HubSubscription)>> {
        let from = if cursor.is_empty() { Vec::new() } else { next_key(cursor) };
        let found = rows(self, b"w", &from, limit)?;
        found.into_iter().map(|(key, subscription)| Ok((key.clone(), NodeId(number(&key, 1)?), subscription))).collect()
    }

    /// A node's HTTP subscribers behind `cursor` (a key that this gave, or empty), with keys.
    pub fn hub_subscriptions(
        &self,
        nid: NodeId,
        cursor: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, HubSubscription)>> {
        let from = if cursor.is_empty() { Vec::new() } else { next_key(cursor) };
        rows(self, &Key::new(b'w').num(nid.0).done(), &from, limit)
    }
}

impl Tx<'_> {
    pub fn put_hub_subscription(&mut self, nid: NodeId, subscription: &HubSubscription) -> Result<()> {
        self.put(hub_id_key(subscription.id), encode(&(nid, &subscription.callback)))?;
        self.put(hub_key(nid, &subscription.callback), encode(subscription))
    }

    /// Ends a subscription. What is known of how it fared goes along, once nothing waits for it any more.
    pub fn delete_hub_subscription(&mut self, nid: NodeId, subscription: &HubSubscription) -> Result<()> {
        let destination = self.read().destination(&Destination::Hub(subscription.id))?;
        if let Some(state) = destination.filter(|state| state.waiting == 0) {
            self.delete_destination(&state)?;
        }
        self.delete(hub_id_key(subscription.id))?;
        self.delete(hub_key(nid, &subscription.callback))
    }
}
