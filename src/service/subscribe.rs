//! Subscribe and unsubscribe (XEP-0060 §6.1, §6.2), and the owner's yes or no to who asked (§8.6).

use jid::{BareJid, Jid};

use super::{Decided, Inner, Service, bare};
use crate::base::turn::Turn;
use crate::domain::error::Refusal;
use crate::domain::event::What;
use crate::domain::node::{Node, NodeAddress, NodeId};
use crate::domain::node_config::{AccessModel, SendLast};
use crate::domain::policy::{Verb, may};
use crate::domain::subscription::{Affiliation, Subscription, SubscriptionState};
use crate::store::tables::RESOURCES_MOST;
use crate::store::{Read, Tx};

impl Service {
    /// Subscribes `jid`, the sender's own address, bare or full. A second request gets the first subscription again, or is
    /// told that it still waits for an owner's answer (XEP-0060 §6.1.3.7).
    pub async fn subscribe(&self, turn: Turn, by: Jid, jid: Jid, at: NodeAddress) -> Result<Subscription, Refusal> {
        let inner = self.clone();
        let subid = self.ids.token(12);
        if bare(&jid) != bare(&by) {
            return Err(Refusal::SubscriberNotSender);
        }
        self.decide(turn, move |tx| {
            let by = bare(&by);
            let node = inner.find(tx.read(), &at, &by)?.ok_or(Refusal::NodeNotFound)?;
            let standing = inner.standing(tx.read(), &node, &by)?;
            may(standing, Verb::Subscribe, &node)?;
            let asks = node.access() == AccessModel::Authorize
                && !matches!(standing.affiliation, Affiliation::Owner | Affiliation::Publisher | Affiliation::Member)
                && standing.subscription != Some(SubscriptionState::Subscribed);
            if let Some(there) = tx.read().subscription(node.id, &jid)? {
                return match there.state {
                    SubscriptionState::Subscribed => Ok(there),
                    SubscriptionState::Pending if asks => Err(Refusal::PendingSubscription.into()),
                    // Nobody has to be asked any more.
                    SubscriptionState::Pending => {
                        inner.settle(tx, &node, &there, Some(SubscriptionState::Subscribed))?;
                        Ok(Subscription { state: SubscriptionState::Subscribed, ..there })
                    }
                };
            }
            inner.may_have_one_more(tx.read(), node.id, &jid, &by)?;
            let node = inner.materialise(tx, node)?;
            let mut state = tx.read().node_state(node.id)?;
            let subscription = Subscription {
                jid: jid.clone(),
                subid: subid.clone(),
                state: if asks { SubscriptionState::Pending } else { SubscriptionState::Subscribed },
                born: state.seq,
                since: inner.clock.now(),
            };
            tx.put_subscription(node.id, &subscription)?;
            if asks {
                let what = What::Requested { jid: jid.clone(), subid: subid.clone() };
                tx.emit(&inner.event(&node, state.seq, what))?;
            } else {
                state.subscribers += 1;
                tx.put_node_state(node.id, &state)?;
                inner.send_last(tx, &node, &subscription)?;
            }
            Ok(subscription)
        })
        .await
    }

    /// Ends a subscription. With a `subid`, only that one (XEP-0060 §6.2.3.5).
    pub async fn unsubscribe(
        &self,
        turn: Turn,
        by: Jid,
        jid: Jid,
        at: NodeAddress,
        subid: Option<String>,
    ) -> Result<(), Refusal> {
        let inner = self.clone();
        if bare(&jid) != bare(&by) {
            return Err(Refusal::InsufficientPrivileges);
        }
        self.decide(turn, move |tx| {
            let node = inner.find(tx.read(), &at, &bare(&by))?.ok_or(Refusal::NodeNotFound)?;
            let there = tx.read().subscription(node.id, &jid)?.ok_or(Refusal::NotSubscribed)?;
            if subid.as_ref().is_some_and(|subid| *subid != there.subid) {
                return Err(Refusal::InvalidSubid.into());
            }
            end(tx, &node, &there)
        })
        .await
    }

    /// An owner's answer to a pending request (XEP-0060 §8.6): the subscriber is told either way. `Ok` also if the
    /// request is no longer pending.
    pub async fn approve(
        &self,
        turn: Turn,
        by: Jid,
        jid: Jid,
        at: NodeAddress,
        subid: Option<String>,
        allow: bool,
    ) -> Result<(), Refusal> {
        let inner = self.clone();
        self.decide(turn, move |tx| {
            let node = inner.find(tx.read(), &at, &bare(&by))?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(tx.read(), &node, &bare(&by))?, Verb::Manage, &node)?;
            let Some(there) = tx.read().subscription(node.id, &jid)? else { return Ok(()) };
            let other = subid.as_ref().is_some_and(|subid| *subid != there.subid);
            if other || there.state != SubscriptionState::Pending {
                return Ok(());
            }
            let state = allow.then_some(SubscriptionState::Subscribed);
            inner.settle(tx, &node, &there, state)
        })
        .await
    }
}

impl Inner {
    /// Whether there is room for a new subscription of `jid`, made by `by`.
    pub(super) fn may_have_one_more(&self, r: &dyn Read, nid: NodeId, jid: &Jid, by: &BareJid) -> Decided<()> {
        let resources = r.subscriptions_at(nid, &bare(jid))?;
        let resources = resources.iter().filter(|there| there.jid.resource().is_some()).count();
        let rules = self.rules();
        let much = r.tally(by)?.subscriptions >= rules.quota.subscriptions && !rules.admins.contains(by);
        match much || (jid.resource().is_some() && resources >= RESOURCES_MOST) {
            true => Err(Refusal::TooManySubscriptions.into()),
            false => Ok(()),
        }
    }

    /// Moves a subscription to `state`, or ends it, and tells the subscriber.
    pub(super) fn settle(
        &self,
        tx: &mut Tx<'_>,
        node: &Node,
        there: &Subscription,
        state: Option<SubscriptionState>,
    ) -> Decided<()> {
        match state {
            None => end(tx, node, there)?,
            Some(state) => {
                let mut figures = tx.read().node_state(node.id)?;
                match (there.state, state) {
                    (SubscriptionState::Pending, SubscriptionState::Subscribed) => figures.subscribers += 1,
                    (SubscriptionState::Subscribed, SubscriptionState::Pending) => {
                        figures.subscribers = figures.subscribers.saturating_sub(1);
                    }
                    _ => {}
                }
                let born = figures.seq;
                tx.put_node_state(node.id, &figures)?;
                let settled = Subscription { state, born, ..there.clone() };
                tx.put_subscription(node.id, &settled)?;
                if state == SubscriptionState::Subscribed {
                    self.send_last(tx, node, &settled)?;
                }
            }
        }
        let seq = tx.read().node_state(node.id)?.seq;
        let what = What::Subscription { jid: there.jid.clone(), subid: there.subid.clone(), state };
        tx.emit(&self.event(node, seq, what))?;
        Ok(())
    }

    /// Promises the last published item to a new subscriber, if the node does so (XEP-0060 §6.1.7).
    fn send_last(&self, tx: &mut Tx<'_>, node: &Node, subscription: &Subscription) -> Decided<()> {
        if node.config.send_last == SendLast::Never || node.id == NodeId(0) {
            return Ok(());
        }
        let state = tx.read().node_state(node.id)?;
        let Some(item) = tx.read().items(node.id, state.floor + 1, u64::MAX, 1, true)?.pop() else { return Ok(()) };
        let what = What::LastItem {
            jid: subscription.jid.clone(),
            subid: subscription.subid.clone(),
            item: item.id,
            version: item.version,
            published: item.published,
            publisher: item.author,
        };
        tx.emit(&self.event(node, state.seq, what))?;
        Ok(())
    }
}

/// Removes a subscription.
pub(super) fn end(tx: &mut Tx<'_>, node: &Node, there: &Subscription) -> Decided<()> {
    tx.delete_subscription(node.id, &there.jid)?;
    if there.state == SubscriptionState::Subscribed {
        let mut state = tx.read().node_state(node.id)?;
        state.subscribers = state.subscribers.saturating_sub(1);
        tx.put_node_state(node.id, &state)?;
    }
    Ok(())
}
