//! The owner's hand: subscriptions (XEP-0060 §8.8) and affiliations (§8.9) of a node.

use jid::{BareJid, Jid};

use super::{Service, bare};
use crate::base::turn::Turn;
use crate::domain::error::Refusal;
use crate::domain::node::NodeAddress;
use crate::domain::policy::{Verb, may};
use crate::domain::subscription::{Affiliation, Subscription, SubscriptionState};
use crate::store::tables::RESOURCES_MOST;

/// One request changes at most this many entries, and lists at most [`LIST_MOST`].
const CHANGE_MOST: usize = 100;
const LIST_MOST: usize = 2000;
/// Rows that one change may take: an affiliation, and the subscriptions of an outcast with what is told of them.
const ROWS_EACH: usize = 8 + 5 * (RESOURCES_MOST + 1);

impl Service {
    /// All subscriptions of a node, pending ones included.
    pub async fn subscriptions(&self, turn: Turn, by: Jid, at: NodeAddress) -> Result<Vec<Subscription>, Refusal> {
        let inner = self.clone();
        self.look_through(turn, move |r| {
            let node = inner.find(r, &at, &bare(&by))?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(r, &node, &bare(&by))?, Verb::Manage, &node).map_err(|_| Refusal::ManageForbidden)?;
            Ok(r.subscriptions(node.id, &[], LIST_MOST)?.into_iter().map(|(_, s)| s).collect())
        })
        .await
    }

    /// Sets subscriptions: `None` ends one (XEP-0060 §8.8.2). All of them, or none.
    pub async fn set_subscriptions(
        &self,
        turn: Turn,
        by: Jid,
        at: NodeAddress,
        changes: Vec<(Jid, Option<SubscriptionState>)>,
    ) -> Result<(), Refusal> {
        let inner = self.clone();
        let subids: Vec<String> = changes.iter().map(|_| self.ids.token(12)).collect();
        if changes.len() > CHANGE_MOST {
            return Err(Refusal::TooManyChanges);
        }
        self.decide(turn, move |tx| {
            let by = bare(&by);
            let node = inner.find(tx.read(), &at, &by)?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(tx.read(), &node, &by)?, Verb::Manage, &node)?;
            let node = inner.materialise(tx, node)?;
            for ((jid, state), subid) in changes.iter().zip(&subids) {
                if tx.room() < ROWS_EACH {
                    return Err(Refusal::TooManyChanges.into());
                }
                match tx.read().subscription(node.id, jid)? {
                    Some(there) if Some(there.state) == *state => {}
                    Some(there) => inner.settle(tx, &node, &there, *state)?,
                    None => {
                        let Some(state) = state else { continue };
                        inner.may_have_one_more(tx.read(), node.id, jid, &by)?;
                        tx.give_subscription(node.id, jid, &by)?;
                        let now = Subscription {
                            jid: jid.clone(),
                            subid: subid.clone(),
                            state: SubscriptionState::Pending,
                            born: tx.read().node_state(node.id)?.seq,
                            since: inner.clock.now(),
                        };
                        inner.settle(tx, &node, &now, Some(*state))?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// All affiliations of a node.
    pub async fn affiliations(
        &self,
        turn: Turn,
        by: Jid,
        at: NodeAddress,
    ) -> Result<Vec<(BareJid, Affiliation)>, Refusal> {
        let inner = self.clone();
        self.look_through(turn, move |r| {
            let node = inner.find(r, &at, &bare(&by))?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(r, &node, &bare(&by))?, Verb::Manage, &node)?;
            if node.id.0 == 0 {
                return Ok(vec![(node.creator, Affiliation::Owner)]);
            }
            Ok(r.affiliations(node.id, LIST_MOST)?)
        })
        .await
    }

    /// Sets affiliations (XEP-0060 §8.9.2): all of them, or none. A node keeps at least one owner; an account's node
    /// keeps the account's; it has at most [`LIST_MOST`] affiliations. Who becomes an outcast loses the subscription.
    pub async fn set_affiliations(
        &self,
        turn: Turn,
        by: Jid,
        at: NodeAddress,
        changes: Vec<(BareJid, Affiliation)>,
    ) -> Result<(), Refusal> {
        let inner = self.clone();
        if changes.len() > CHANGE_MOST {
            return Err(Refusal::TooManyChanges);
        }
        self.decide(turn, move |tx| {
            let node = inner.find(tx.read(), &at, &bare(&by))?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(tx.read(), &node, &bare(&by))?, Verb::Manage, &node)?;
            let node = inner.materialise(tx, node)?;
            let mut grows = false;
            for (jid, affiliation) in &changes {
                if tx.room() < ROWS_EACH {
                    return Err(Refusal::TooManyChanges.into());
                }
                grows |= tx.read().affiliation(node.id, jid)? == Affiliation::None;
                tx.put_affiliation(node.id, jid, *affiliation)?;
                if *affiliation == Affiliation::Outcast {
                    for there in tx.read().subscriptions_at(node.id, jid)? {
                        inner.settle(tx, &node, &there, None)?;
                    }
                }
            }
            let at_account = node.service != inner.addresses.component;
            let kept = match at_account {
                true => tx.read().affiliation(node.id, &node.creator)? == Affiliation::Owner,
                // Most often it is who asks.
                false => {
                    tx.read().affiliation(node.id, &bare(&by))? == Affiliation::Owner
                        || !tx.read().owners(node.id, 1)?.is_empty()
                }
            };
            if !kept {
                return Err(Refusal::InvalidAffiliation.into());
            }
            // An owner sees as many as there may be.
            if grows && tx.read().affiliations(node.id, LIST_MOST + 1)?.len() > LIST_MOST {
                return Err(Refusal::TooManyAffiliations.into());
            }
            Ok(())
        })
        .await
    }
}
