//! HTTP subscribers of our feeds, and how many there are: bounds are asked with one row instead of thousands.

use serde::{Deserialize, Serialize};

use super::*;
use crate::domain::event::{Event, What};
use crate::domain::hub::{HubSubscription, host_of};

/// What the hub has for the callbacks at one host name, or at all. The row exists while one of them is not zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HubTally {
    /// Requests whose callback has not answered.
    pub requests: u64,
    pub subscriptions: u64,
}

impl dyn Read + '_ {
    pub fn hub_subscription(&self, nid: NodeId, callback: &str) -> Result<Option<HubSubscription>> {
        row(self, &hub_key(nid, callback))
    }

    pub fn hub_subscription_by_id(&self, id: u64) -> Result<Option<(NodeId, HubSubscription)>> {
        let Some((nid, callback)) = row::<(NodeId, String)>(self, &hub_id_key(id))? else { return Ok(None) };
        Ok(self.hub_subscription(nid, &callback)?.filter(|s| s.id == id).map(|s| (nid, s)))
    }

    /// What the hub has for callbacks at `host`; `None`: for all.
    pub fn hub_tally(&self, host: Option<&str>) -> Result<HubTally> {
        Ok(row(self, &hub_tally_key(host.unwrap_or_default()))?.unwrap_or_default())
    }

    /// How many HTTP subscribers a node has.
    pub fn hub_audience(&self, nid: NodeId) -> Result<u64> {
        Ok(row(self, &hub_audience_key(nid))?.unwrap_or_default())
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
        if self.read().get(&hub_key(nid, &subscription.callback))?.is_none() {
            self.count_hub_subscription(nid, &subscription.callback, true)?;
        }
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
        if self.read().get(&hub_key(nid, &subscription.callback))?.is_some() {
            self.count_hub_subscription(nid, &subscription.callback, false)?;
        }
        self.delete(hub_key(nid, &subscription.callback))
    }

    fn count_hub_subscription(&mut self, nid: NodeId, callback: &str, more: bool) -> Result<()> {
        let audience = tally::counted(self.read().hub_audience(nid)?, more);
        match audience {
            0 => self.delete(hub_audience_key(nid))?,
            n => self.put(hub_audience_key(nid), encode(&n))?,
        }
        self.count_hub(callback, |tally| tally.subscriptions = tally::counted(tally.subscriptions, more))
    }

    /// Counts a request to the hub while its Event is there; other Events are not counted.
    pub(super) fn count_hub_request(&mut self, event: &Event, more: bool) -> Result<()> {
        let What::Verify(intent) = &event.what else { return Ok(()) };
        self.count_hub(&intent.callback, |tally| tally.requests = tally::counted(tally.requests, more))
    }

    fn count_hub(&mut self, callback: &str, count: impl Fn(&mut HubTally)) -> Result<()> {
        for host in [host_of(callback).as_str(), ""] {
            let mut tally = self.read().hub_tally(Some(host))?;
            count(&mut tally);
            match tally == HubTally::default() {
                true => self.delete(hub_tally_key(host))?,
                false => self.put(hub_tally_key(host), encode(&tally))?,
            }
        }
        Ok(())
    }
}
