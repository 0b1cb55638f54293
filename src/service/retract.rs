//! Retract (XEP-0060 §7.2).

use jid::Jid;

use super::places::{knows, visible};
use super::{Service, Stop, bare, node};
use crate::base::turn::Turn;
use crate::domain::error::Refusal;
use crate::domain::event::What;
use crate::domain::item::ItemId;
use crate::domain::node::{NodeAddress, NodeId};
use crate::domain::subscription::Affiliation;

/// One retract request names at most this many items.
pub const RETRACT_MOST: usize = 50;

impl Service {
    /// Retracts items: all of them, or none. Subscribers are told if the node tells retractions or the request asks
    /// for it (`notify`, XEP-0060 §7.2.2.1).
    pub async fn retract(
        &self,
        turn: Turn,
        by: Jid,
        at: NodeAddress,
        items: Vec<ItemId>,
        notify: bool,
    ) -> Result<(), Refusal> {
        let inner = self.clone();
        if items.is_empty() || items.len() > RETRACT_MOST {
            return Err(Refusal::RetractItemRequired);
        }
        self.decide(turn, move |tx| {
            let by = bare(&by);
            let place = inner.place(tx.read(), &at.service)?;
            let node = inner.find_at(tx.read(), &place, &at.service, &at.name)?.ok_or(Refusal::NodeNotFound)?;
            // Whoever said something may take it back, also where they may not look any more; others learn nothing.
            let refused = match knows(tx.read(), &node, &by)? {
                true => |refusal| Stop::Refused(refusal),
                false => |_| Stop::Refused(Refusal::NodeNotFound),
            };
            let mut state = tx.read().node_state(node.id)?;
            // Items from before a node stopped keeping them can still be retracted.
            if !node.config.persist_items && state.items == 0 {
                return Err(refused(Refusal::PersistentItemsOff));
            }
            if node.id == NodeId(0) {
                return Err(refused(Refusal::ItemNotFound));
            }
            let standing = inner.standing(tx.read(), &node, &by)?;
            for id in &items {
                let item = visible(tx.read(), &node, id)?;
                let owner = standing.affiliation == Affiliation::Owner;
                // Who may not retract learns nothing about what is there.
                let allowed = owner
                    || item
                        .as_ref()
                        .is_some_and(|item| item.publisher == by && standing.affiliation != Affiliation::Outcast);
                if !allowed {
                    let publisher = matches!(standing.affiliation, Affiliation::Publisher);
                    return Err(refused(match item.is_none() && publisher {
                        true => Refusal::ItemNotFound,
                        false => Refusal::RetractForbidden,
                    }));
                }
                let item = item.ok_or(Refusal::ItemNotFound)?;
                tx.delete_item(node.id, &item)?;
                tx.release_payload(item.version, item.event)?;
                node::remove_comments(tx, &node, id, inner.clock.now())?;
                state.seq += 1;
                state.changed = inner.clock.now();
                state.items = state.items.saturating_sub(1);
                state.bytes = state.bytes.saturating_sub(u64::from(item.size));
                if node.config.notify_retract || notify {
                    let what = What::Retracted { item: item.id.clone(), atom_id: item.atom_id.clone() };
                    tx.emit(&inner.event(&node, state.seq, what))?;
                }
            }
            tx.put_node_state(node.id, &state)?;
            Ok(())
        })
        .await
    }
}
