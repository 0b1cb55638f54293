//! Publish (XEP-0060 §7.1): the one end of all ways in for a post.

use bytes::Bytes;
use jid::{BareJid, Jid};

use super::entries::{Draft, Prepared, Writer};
use super::places::{Place, visible};
use super::{Decided, Inner, Service, bare, node};
use crate::base::clock::Timestamp;
use crate::base::turn::Turn;
use crate::domain::error::{Over, Refusal};
use crate::domain::event::What;
use crate::domain::item::{Audience, Item, ItemId, Version};
use crate::domain::node::{Node, NodeAddress, NodeId, NodeKind, NodeState};
use crate::domain::node_config::{FieldError, Fields, ITEMS_MAX};
use crate::domain::policy::{Verb, may};
use crate::domain::subscription::Affiliation;
use crate::store::{Counter, Read, Tx, kv};

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

/// Which item is kept, and whose it is.
#[derive(Clone, Copy)]
struct Post<'a> {
    id: &'a ItemId,
    by: &'a BareJid,
    author: &'a BareJid,
}

/// What completing an entry depends on.
struct Known {
    writer: Writer,
    /// The item that the publish replaces.
    edits: Option<Item>,
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
            Some(payload) => Some(Draft::read(payload, kind).map_err(|refusal| match refusal {
                // The limit that it will have to keep is told, not the wider one of what is read at all.
                Refusal::PayloadTooBig(Over { size, most }) => {
                    Refusal::PayloadTooBig(Over { size, most: most.min(self.rules().max_payload) })
                }
                refusal => refusal,
            })?),
            None => None,
        };
        // What an earlier request of the same sender does to their account is seen only where it is decided.
        let hurried = turn.others_open();
        let at_account = publish.at.service != self.addresses.component;
        let known = match at_account {
            // The component's own nodes name the publisher.
            false => Known { writer: Writer::plain(&by), edits: None },
            true => {
                let (inner, at, id, by) = (self.clone(), publish.at.clone(), id.clone(), by.clone());
                self.glance(move |r| {
                    let node = r.node_named(&at.service, &at.name)?;
                    let edits = node.map(|node| visible(r, &node, &id)).transpose()?.flatten();
                    inner.known(r, &at.service, &by, edits)
                })
                .await?
            }
        };
        let complete = {
            let (inner, at, id) = (self.clone(), publish.at.clone(), id.clone());
            move |draft: &Draft, known: &Known| {
                inner.prepare(draft, &at.service, &at.name, &id, &known.writer, known.edits.as_ref())
            }
        };
        let prepared = draft.as_ref().map(|draft| complete(draft, &known)).transpose()?;
        self.decide(turn, move |tx| {
            let place = inner.place_for_write(tx, &publish.at.service, &by)?;
            let node = inner.node_for_publish(tx, &place, &publish, &by)?;
            let existing = visible(tx.read(), &node, &id)?;
            if let Some(item) = &existing
                && item.publisher != by
                && inner.standing(tx.read(), &node, &by)?.affiliation != Affiliation::Owner
            {
                return Err(Refusal::OverwriteForbidden.into());
            }
            let (Some(prepared), Some(draft)) = (&prepared, &draft) else {
                // XEP-0060 §7.1.3.5: what is kept, or told with its payload, needs one.
                return match node.config.persist_items || node.config.deliver_payloads {
                    true => Err(Refusal::PayloadRequired.into()),
                    false => {
                        let post = Post { id: &id, by: &by, author: &known.writer.jid };
                        inner.keep(tx, &node, post, None, &Prepared::empty())
                    }
                };
            };
            // Completed once more if somebody came between: an edit keeps the identity, the date and the author of what
            // it replaces.
            let same = |item: &Option<Item>| item.as_ref().map(|item| item.version);
            let changed = same(&existing) != same(&known.edits);
            let now = match at_account && (changed || hurried) {
                true => Some(inner.known(tx.read(), &publish.at.service, &by, existing.clone())?),
                false => None,
            };
            let now = now.filter(|now| changed || now.writer != known.writer);
            let again = now.as_ref().map(|now| complete(draft, now)).transpose()?;
            let (prepared, writer) =
                (again.as_ref().unwrap_or(prepared), now.as_ref().map_or(&known.writer, |now| &now.writer));
            let most = inner.rules().max_payload.min(node.config.max_payload_size as usize);
            if prepared.payload.len() > most {
                return Err(Refusal::PayloadTooBig(Over { size: prepared.payload.len(), most }).into());
            }
            inner.keep(tx, &node, Post { id: &id, by: &by, author: &writer.jid }, existing, prepared)
        })
        .await
    }
}

impl Inner {
    fn known(&self, r: &dyn Read, service: &BareJid, by: &BareJid, edits: Option<Item>) -> Decided<Known> {
        let publisher = edits.as_ref().map_or(by, |item| &item.publisher);
        Ok(Known { writer: self.writer(r, service, publisher)?, edits })
    }

    /// The node to publish to, with rows; made now if that is due.
    fn node_for_publish(&self, tx: &mut Tx<'_>, place: &Place, publish: &Publish, by: &BareJid) -> Decided<Node> {
        let Some(node) = self.find_for(tx.read(), place, &publish.at, by)? else {
            // Auto-create (XEP-0060 §7.1.4): for who could create it; others learn only that it is not there.
            let missing = |_| Refusal::PublishNodeNotFound;
            if NodeKind::of(&publish.at.name, matches!(place, Place::Account(_))) == NodeKind::Comments {
                return Err(Refusal::PublishNodeNotFound.into());
            }
            let node = match self.new_node(
                tx.read(),
                place,
                &publish.at.service,
                publish.at.name.clone(),
                by,
                &publish.options,
            ) {
                Err(super::Stop::Refused(refusal @ Refusal::CreateForbidden)) => return Err(missing(refusal).into()),
                other => other?,
            };
            return self.materialise(tx, node);
        };
        may(self.standing(tx.read(), &node, by)?, Verb::Publish, &node)?;
        let mut node = node;
        if node.id == NodeId(0) && node.creator == *by {
            // The first publish of its owner configures a node that existed only by itself.
            node.config = self
                .new_node(tx.read(), place, &publish.at.service, publish.at.name.clone(), by, &publish.options)?
                .config;
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
                node::remove_comments(tx, node, id, now)?;
            }
            tx.put_item(node.id, &item)?;
            trim(tx, node, &mut state, now, TRIM)?;
        }
        tx.put_node_state(node.id, &state)?;
        Ok(id.clone())
    }
}

/// Removes the oldest items beyond `max_items`, at most `at_once` of them; how many. They go untold: a retraction for
/// each would be a storm. Ten rows each at most, and the state is the caller's to write.
pub fn trim(tx: &mut Tx<'_>, node: &Node, state: &mut NodeState, now: Timestamp, at_once: usize) -> kv::Result<usize> {
    let most = u64::from(node.config.max_items.unwrap_or(ITEMS_MAX));
    let over = usize::try_from(state.items.saturating_sub(most)).unwrap_or(at_once).min(at_once);
    // Most often the oldest stands right behind the one that was trimmed last: a look there is cheaper than a range.
    let next = if over == 1 { tx.read().item_at(node.id, state.floor + 1)? } else { None };
    let oldest = match next {
        Some(next) => vec![next],
        None => tx.read().items(node.id, state.floor + 1, u64::MAX, over, false)?,
    };
    for old in &oldest {
        tx.delete_item(node.id, old)?;
        tx.release_payload(old.version, old.event)?;
        node::remove_comments(tx, node, &old.id, now)?;
        state.items -= 1;
        state.bytes = state.bytes.saturating_sub(u64::from(old.size));
        // The next trim begins here: a database would step over every row that was ever removed below.
        state.floor = old.place;
    }
    Ok(oldest.len())
}
