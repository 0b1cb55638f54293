//! Publish (XEP-0060 §7.1): the one end of all ways in for a post.

use bytes::Bytes;
use jid::{BareJid, Jid};

use super::entries::{Draft, Prepared, Writer};
use super::node::Fields;
use super::places::{Place, visible};
use super::{Decided, Inner, Service, bare};
use crate::base::turn::Turn;
use crate::domain::error::Refusal;
use crate::domain::event::What;
use crate::domain::item::{Audience, Item, ItemId, Version};
use crate::domain::node::{Node, NodeAddress, NodeId, NodeKind, NodeState};
use crate::domain::node_config::{FieldError, ITEMS_MAX};
use crate::domain::policy::{Verb, may};
use crate::store::{Counter, Tx};

/// What somebody wants published.
#[derive(Clone, Debug)]
pub struct Publish {
    pub by: Jid,
    pub at: NodeAddress,
    /// The client's id, or `None` for one of ours (XEP-0060 §7.1.2, "ItemID").
    pub item: Option<ItemId>,
    pub payload: Option<Payload>,
    /// publish-options (XEP-0060 §7.1.5): preconditions, or the configuration of a node that this publish creates.
    pub options: Fields,
}

/// A payload as it stood in its stanza.
#[derive(Clone, Debug)]
pub enum Payload {
    /// One element, and the namespace bindings in scope where it stood, outermost first (the default with prefix `""`).
    Xml { raw: Bytes, scope: Vec<(String, String)> },
    /// A post typed as text.
    Text(String),
}

/// One publish, as far as it is decided beforehand.
#[derive(Clone, Copy)]
struct Post<'a> {
    id: &'a ItemId,
    by: &'a BareJid,
    author: &'a BareJid,
}

/// A trim removes at most this many items with one publish; what is left goes with the next ones.
const TRIM: usize = 16;

impl Service {
    /// Publishes one item and promises to tell; gives the item's id. The item, what it replaces, what it pushes over
    /// the edge of `max_items`, and the Event are one act.
    pub async fn publish(&self, turn: Turn, publish: Publish) -> Result<ItemId, Refusal> {
        let inner = self.clone();
        let kind = NodeKind::of(&publish.at.name, self.addresses.component != publish.at.service);
        let id = match &publish.item {
            Some(id) => id.clone(),
            None => ItemId::parse(&self.ids.token(16)).map_err(|_| Refusal::InvalidItemId)?,
        };
        let by = bare(&publish.by);
        // Parsing and sanitising happen here, side by side; only the decision below is taken in turn.
        let draft = match &publish.payload {
            Some(payload) => Some(Draft::read(payload, kind)?),
            None => None,
        };
        // At an account people are shown under their address there; the component's own nodes name the publisher.
        let writer = match publish.at.service != self.addresses.component {
            true => {
                let (inner, service, by) = (self.clone(), publish.at.service.clone(), by.clone());
                self.peek(move |r| inner.writer(r, &service, &by)).await?
            }
            false => Writer::plain(&by),
        };
        let prepared = match &draft {
            Some(draft) => Some(self.prepare(draft, &publish.at.service, &publish.at.name, &id, &writer, None)?),
            None => None,
        };
        self.decide(turn, move |tx| {
            let post = Post { id: &id, by: &by, author: &writer.jid };
            let place = inner.place_for_write(tx, &publish.at.service, &by)?;
            let node = inner.node_for_publish(tx, &place, &publish, &by)?;
            let existing = visible(tx.read(), &node, &id)?;
            if let Some(item) = &existing
                && item.publisher != by
                && inner.standing(tx.read(), &node, &by)?.affiliation != crate::domain::subscription::Affiliation::Owner
            {
                return Err(Refusal::OverwriteForbidden.into());
            }
            let Some(prepared) = &prepared else {
                // XEP-0060 §7.1.3.5: what is kept, or told with its payload, needs one.
                return match node.config.persist_items || node.config.deliver_payloads {
                    true => Err(Refusal::PayloadRequired.into()),
                    false => inner.keep(tx, &node, post, None, &Prepared::empty()),
                };
            };
            // An edit keeps the identity, the date and the author of what it replaces: written anew with those.
            let edited = match (&existing, &draft) {
                (Some(item), Some(draft)) if node.kind.holds_entries() => {
                    let writer = inner.writer(tx.read(), &publish.at.service, &item.publisher)?;
                    Some(inner.prepare(draft, &publish.at.service, &publish.at.name, &id, &writer, Some(item))?)
                }
                _ => None,
            };
            let prepared = edited.as_ref().unwrap_or(prepared);
            let most = inner.rules.max_payload.min(node.config.max_payload_size as usize);
            if prepared.payload.len() > most {
                return Err(Refusal::PayloadTooBig.into());
            }
            inner.keep(tx, &node, post, existing, prepared)
        })
        .await
    }
}

impl Inner {
    /// The node to publish to, with rows; made now if that is due.
    fn node_for_publish(&self, tx: &mut Tx<'_>, place: &Place, publish: &Publish, by: &BareJid) -> Decided<Node> {
        let Some(node) = self.find_at(tx.read(), place, &publish.at.service, &publish.at.name)? else {
            // Auto-create (XEP-0060 §7.1.4): for who could create it; others learn only that it is not there.
            let missing = |_| Refusal::PublishNodeNotFound;
            if publish.at.name.commented_item().is_some() && matches!(place, Place::Account(_)) {
                return Err(Refusal::PublishNodeNotFound.into());
            }
            let node = match self.new_node(place, &publish.at.service, publish.at.name.clone(), by, &publish.options) {
                Err(super::Stop::Refused(refusal @ Refusal::CreateForbidden)) => return Err(missing(refusal).into()),
                other => other?,
            };
            return self.materialise(tx, node);
        };
        may(self.standing(tx.read(), &node, by)?, Verb::Publish, &node)?;
        let mut node = node;
        if node.id == NodeId(0) && node.creator == *by {
            // The first publish of its owner configures a node that existed only by itself.
            node.config =
                self.new_node(place, &publish.at.service, publish.at.name.clone(), by, &publish.options)?.config;
        }
        for (var, values) in &publish.options {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            match node.config.meets(var, &values) {
                Ok(true) => {}
                Ok(false) | Err(FieldError::Unknown | FieldError::Value | FieldError::AccessModel) => {
                    return Err(Refusal::PreconditionNotMet.into());
                }
            }
        }
        self.materialise(tx, node)
    }

    /// Writes the item and its payload, trims, and promises to tell.
    fn keep(
        &self,
        tx: &mut Tx<'_>,
        node: &Node,
        post: Post<'_>,
        existing: Option<Item>,
        prepared: &Prepared,
    ) -> Decided<ItemId> {
        let Post { id, by, author } = post;
        let now = self.clock.now();
        let version = Version(tx.next(Counter::Version));
        let mut state = tx.read().node_state(node.id)?;
        state.seq += 1;
        state.changed = now;
        let publisher = existing.as_ref().map_or(by, |item| &item.publisher).clone();
        tx.put_payload(version, prepared.payload.clone())?;
        let author = existing.as_ref().map_or(author, |item| &item.author).clone();
        let told = What::Published { item: id.clone(), version, publisher: author.clone() };
        let event = tx.emit(&self.event(node, state.seq, told))?;
        if node.config.persist_items {
            let item = Item {
                id: id.clone(),
                place: existing.as_ref().map_or(state.seq, |item| item.place),
                version,
                event,
                published: existing.as_ref().map_or(now, |item| item.published),
                updated: now,
                publisher,
                author,
                atom_id: prepared.atom_id.clone(),
                alias: prepared.alias.clone(),
                audience: existing.as_ref().map_or(Audience::Node, |item| item.audience),
                size: prepared.payload.len() as u32,
                title: prepared.title.clone(),
            };
            match &existing {
                Some(old) => {
                    tx.release_payload(old.version, old.event)?;
                    state.bytes = state.bytes.saturating_sub(u64::from(old.size));
                }
                None => state.items += 1,
            }
            state.bytes += u64::from(item.size);
            // A purged item of this id whose rows the sweep has not reached: its place must not lead to the new one.
            if existing.is_none()
                && let Some(purged) = tx.read().item(node.id, id)?
            {
                tx.delete_item(node.id, &purged)?;
                tx.release_payload(purged.version, purged.event)?;
            }
            tx.put_item(node.id, &item)?;
            trim(tx, node, &mut state)?;
        }
        tx.put_node_state(node.id, &state)?;
        Ok(id.clone())
    }
}

/// Removes the oldest items beyond `max_items`, untold: a retraction for each would be a storm.
fn trim(tx: &mut Tx<'_>, node: &Node, state: &mut NodeState) -> Decided<()> {
    let most = u64::from(node.config.max_items.unwrap_or(ITEMS_MAX));
    if state.items <= most {
        return Ok(());
    }
    let over = usize::try_from(state.items - most).unwrap_or(TRIM).min(TRIM);
    for old in tx.read().items(node.id, state.floor + 1, u64::MAX, over, false)? {
        tx.delete_item(node.id, &old)?;
        tx.release_payload(old.version, old.event)?;
        state.items -= 1;
        state.bytes = state.bytes.saturating_sub(u64::from(old.size));
        // The next trim begins here: a database would step over every row that was ever removed below.
        state.floor = old.place;
    }
    Ok(())
}
