//! The hub of our feeds (WebSub, PubSubHubbub 0.3/0.4): requests, verified intents, leases. The queue asks the
//! callbacks; here is decided what that means.

use super::{Decided, Inner, Service};
use crate::base::clock::Timestamp;
use crate::base::turn::Turn;
use crate::domain::address::LocalName;
use crate::domain::error::Refusal;
use crate::domain::event::{NodeRef, What};
use crate::domain::hub::{HubSubscription, Intent, Mode, host_of};
use crate::domain::node::Node;
use crate::store::{Counter, Read, Tx, kv};

impl Service {
    /// Takes a subscriber's request (WebSub §5.1): stored, and its verification promised, when this returns. The topic
    /// must be a public feed of ours. Refused as busy where too many requests wait already, and as too many where there
    /// are as many subscriptions as there may be.
    pub async fn hub_request(&self, name: LocalName, intent: Intent) -> Result<(), Refusal> {
        let inner = self.clone();
        self.decide(Turn::free(), move |tx| {
            let (_, node) = inner.public_microblog(tx.read(), &name)?;
            inner.has_room(tx.read(), &node, &intent)?;
            let node = inner.materialise(tx, node)?;
            let seq = tx.read().node_state(node.id)?.seq;
            tx.emit(&inner.event(&node, seq, What::Verify(intent.clone())))?;
            Ok(())
        })
        .await
    }

    /// Whether this callback is subscribed to the feed of `name`; false where that cannot be read.
    pub async fn is_subscribed(&self, name: LocalName, callback: String) -> bool {
        let inner = self.clone();
        let known = self.glance(move |r| {
            let (_, node) = inner.public_microblog(r, &name)?;
            Ok(r.hub_subscription(node.id, &callback)?.is_some())
        });
        known.await.unwrap_or(false)
    }

    /// Refused unless `name` has a public feed now.
    pub async fn hub_topic(&self, name: LocalName) -> Result<(), Refusal> {
        let inner = self.clone();
        self.glance(move |r| inner.public_microblog(r, &name).map(drop)).await
    }
}

impl Inner {
    /// Whether the hub takes one more request. What is asked for and not yet answered counts as if it were granted.
    fn has_room(&self, r: &dyn Read, node: &Node, intent: &Intent) -> Decided<()> {
        let most = self.rules().quota.hub;
        let (host, all) = (r.hub_tally(Some(&host_of(&intent.callback)))?, r.hub_tally(None)?);
        // Anybody may ask in anybody's name: who is there already has room of its own, whatever strangers ask for.
        let is_known = r.hub_subscription(node.id, &intent.callback)?.is_some();
        let times = if is_known { 2 } else { 1 };
        if all.requests >= times * most.requests || host.requests >= times * most.requests_per_host {
            return Err(Refusal::Busy.into());
        }
        // It renews, or ends it.
        if intent.mode == Mode::Unsubscribe || is_known {
            return Ok(());
        }
        let is_full = r.hub_audience(node.id)? >= most.subscriptions_per_feed
            || host.subscriptions + host.requests >= most.subscriptions_per_host;
        if is_full { Err(Refusal::TooManySubscriptions.into()) } else { Ok(()) }
    }
}

/// Writes what a verified intent means (WebSub §5.3): part of the Change that ends its delivery. Verifying the same
/// intent twice changes only the lease's start.
/// `seq`: the number of the Event that asked. Intents of one callback are verified side by side, and one that was asked
/// for earlier may be answered later: it does not undo what came after it.
pub fn confirm(tx: &mut Tx<'_>, node: &NodeRef, intent: &Intent, seq: u64, now: Timestamp) -> kv::Result<()> {
    let there = tx.read().hub_subscription(node.id, &intent.callback)?;
    if there.as_ref().is_some_and(|there| there.intent > seq) {
        return Ok(());
    }
    match intent.mode {
        Mode::Unsubscribe => match there {
            Some(subscription) => tx.delete_hub_subscription(node.id, &subscription),
            None => Ok(()),
        },
        Mode::Subscribe => {
            // A node that went meanwhile has no subscribers.
            let Some(current) = tx.read().node_named(&node.service, &node.name)?.filter(|n| n.id == node.id) else {
                return Ok(());
            };
            let born = match &there {
                Some(subscription) => subscription.born,
                None => tx.read().node_state(current.id)?.seq,
            };
            // WebSub §5.1: a new request overrides the old one, and no delivery is doubled: the number stays.
            let id = there.map_or_else(|| tx.next(Counter::Hub), |subscription| subscription.id);
            tx.put_hub_subscription(
                node.id,
                &HubSubscription {
                    id,
                    topic: intent.topic.clone(),
                    callback: intent.callback.clone(),
                    secret: intent.secret.clone(),
                    digest: intent.digest,
                    until: now.plus(std::time::Duration::from_secs(intent.lease_seconds)),
                    born,
                    intent: seq,
                },
            )
        }
    }
}
