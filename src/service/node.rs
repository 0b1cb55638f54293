//! Nodes: create, configure, delete, purge (XEP-0060 §8.1 to §8.5).

use jid::{BareJid, Jid};

use super::places::{Place, node_ref};
use super::{Decided, Inner, Service, bare, of_hosts};
use crate::base::clock::Timestamp;
use crate::base::turn::Turn;
use crate::domain::error::Refusal;
use crate::domain::event::{Event, What};
use crate::domain::item::ItemId;
use crate::domain::node::{Node, NodeAddress, NodeId, NodeKind, NodeName};
use crate::domain::node_config::{AccessModel, FieldError, Fields, NodeConfig};
use crate::domain::policy::{Verb, may};
use crate::domain::subscription::Affiliation;
use crate::store::{Read, Tx, kv};

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::AccessModel => Refusal::UnsupportedAccessModel,
            FieldError::Unknown | FieldError::Value => Refusal::InvalidOptions,
        }
    }
}

/// Sets the fields of a form; the first that cannot be used refuses all.
fn set_fields(config: &mut NodeConfig, fields: &Fields) -> Result<(), Refusal> {
    for (var, values) in fields {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        config.set(var, &values)?;
    }
    Ok(())
}

impl Inner {
    /// A node that is not there yet, if `by` may create it; without rows still.
    pub(super) fn new_node(
        &self,
        r: &dyn Read,
        place: &Place,
        service: &BareJid,
        name: NodeName,
        by: &BareJid,
        fields: &Fields,
    ) -> Decided<Node> {
        let allowed = match place {
            Place::Component => {
                let rules = self.rules();
                rules.admins.contains(by) || (of_hosts(by, &rules.create_nodes_hosts) && !speaks_for_service(&name))
            }
            Place::Account(account) => account.owner == *by,
        };
        if !allowed {
            return Err(Refusal::CreateForbidden.into());
        }
        let kind = NodeKind::of(&name, matches!(place, Place::Account(_)));
        if kind == NodeKind::Leaf && r.tally(by)?.nodes >= self.rules().quota.nodes && !self.rules().admins.contains(by)
        {
            return Err(Refusal::TooManyNodes.into());
        }
        let mut config = NodeConfig::default_for(kind);
        set_fields(&mut config, fields)?;
        let created = self.clock.now();
        Ok(Node {
            id: NodeId(0),
            service: service.clone(),
            name,
            kind,
            creator: by.clone(),
            created,
            config,
            posts: None,
        })
    }
}

/// Whether a node of this name at the component would be taken for the service's own word: its posts, its looks, its
/// full stream. Only administrators create those.
fn speaks_for_service(name: &NodeName) -> bool {
    const OWN: &[&str] = &["urn:xmpp:", "http://jabber.org/protocol/", "timeline", "firehose"];
    OWN.iter().any(|own| name.as_str().starts_with(own))
}

/// How a node changes its state by one: the number that its Event carries.
fn advance(tx: &mut Tx<'_>, nid: NodeId, now: Timestamp) -> kv::Result<u64> {
    let mut state = tx.read().node_state(nid)?;
    state.seq += 1;
    state.changed = now;
    tx.put_node_state(nid, &state)?;
    Ok(state.seq)
}

/// Takes a node away: nobody finds it from now on, its subscribers are told, its rows are swept after. Five rows.
pub(super) fn remove(tx: &mut Tx<'_>, node: &Node, now: Timestamp) -> kv::Result<()> {
    let node_seq = advance(tx, node.id, now)?;
    tx.unname_node(node)?;
    let event = tx.emit(&Event { at: now, node: node_ref(node), node_seq, what: What::Deleted })?;
    tx.mark_for_sweep(node.id, event)
}

/// Takes the comments on an item away with it, if it is one of the posts of `posts`: no later item of the same id
/// inherits them. Five rows at most.
pub fn remove_comments(tx: &mut Tx<'_>, posts: &Node, item: &ItemId, now: Timestamp) -> kv::Result<()> {
    if posts.kind != NodeKind::Microblog {
        return Ok(());
    }
    let Some(comments) = tx.read().node_named(&posts.service, &NodeName::comments(item))? else { return Ok(()) };
    // A microblog that was made anew has posts and comments of its own.
    let of_later =
        tx.read().node_named(&posts.service, &posts.name)?.is_some_and(|now| posts.id < now.id && now.id < comments.id);
    if of_later { Ok(()) } else { remove(tx, &comments, now) }
}

/// Takes away at most `limit` of the nodes at `service` behind `behind`, with about six rows each; the last of them, if
/// there may be more.
pub fn remove_some(
    tx: &mut Tx<'_>,
    service: &BareJid,
    behind: Option<&NodeName>,
    now: Timestamp,
    limit: usize,
) -> kv::Result<Option<NodeName>> {
    let mut nodes = tx.read().nodes_of(service, behind, limit)?;
    for node in &nodes {
        remove(tx, node, now)?;
    }
    let is_full = nodes.len() >= limit;
    Ok(nodes.pop().filter(|_| is_full).map(|last| last.name))
}

impl Service {
    /// Creates a node (XEP-0060 §8.1.1, §8.1.3), named by us if `name` is `None` (§8.1.2, "instant").
    pub async fn create(
        &self,
        turn: Turn,
        by: Jid,
        service: BareJid,
        name: Option<NodeName>,
        fields: Fields,
    ) -> Result<NodeName, Refusal> {
        let inner = self.clone();
        let instant = NodeName::parse(&self.ids.token(20)).map_err(|_| Refusal::InvalidNodeName)?;
        self.decide(turn, move |tx| {
            let by = bare(&by);
            let place = inner.place_for_write(tx, &service, &by)?;
            let name = name.clone().unwrap_or_else(|| instant.clone());
            let at = NodeAddress { service: service.clone(), name: name.clone() };
            if let Some(node) = inner.find_for(tx.read(), &place, &at, &by)? {
                // A node that exists by itself may be "created" by its owner, with a configuration, as clients do.
                if node.id != NodeId(0) || node.creator != by {
                    return Err(Refusal::NodeExists.into());
                }
            } else if NodeKind::of(&name, matches!(place, Place::Account(_))) == NodeKind::Comments {
                // Comments nodes exist by themselves, or their post is not there.
                return Err(Refusal::NodeNotFound.into());
            }
            let node = inner.new_node(tx.read(), &place, &service, name, &by, &fields)?;
            Ok(inner.materialise(tx, node)?.name)
        })
        .await
    }

    /// The configuration of a node, for an owner's form (XEP-0060 §8.2.1).
    pub async fn configuration(&self, turn: Turn, by: Jid, at: NodeAddress) -> Result<NodeConfig, Refusal> {
        let inner = self.clone();
        self.look(turn, move |r| {
            let node = inner.find(r, &at, &bare(&by))?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(r, &node, &bare(&by))?, Verb::Configure, &node)?;
            Ok(node.config)
        })
        .await
    }

    /// Sets fields of a node's configuration (XEP-0060 §8.2.4); those not named stay as they are.
    pub async fn configure(&self, turn: Turn, by: Jid, at: NodeAddress, fields: Fields) -> Result<(), Refusal> {
        let inner = self.clone();
        self.decide(turn, move |tx| {
            let by = bare(&by);
            let place = inner.place_for_write(tx, &at.service, &by)?;
            let node = inner.find_for(tx.read(), &place, &at, &by)?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(tx.read(), &node, &by)?, Verb::Configure, &node)?;
            let mut node = inner.materialise(tx, node)?;
            let before = node.config.clone();
            set_fields(&mut node.config, &fields)?;
            if node.config == before {
                return Ok(());
            }
            tx.put_node(&node)?;
            let items = tx.read().node_state(node.id)?.items;
            if node.config.max_items.is_some_and(|most| u64::from(most) < items) {
                // What is over the new edge goes by and by.
                tx.sweep_soon(node.id)?;
            }
            let seq = advance(tx, node.id, inner.clock.now())?;
            if node.config.notify_config {
                tx.emit(&inner.event(&node, seq, What::Configured))?;
            }
            if before.access_model == AccessModel::Open && node.config.access_model != AccessModel::Open {
                tx.emit(&inner.event(&node, seq, What::Closed))?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes a node (XEP-0060 §8.4.1). Its subscribers are told; its rows are swept away after.
    pub async fn delete(&self, turn: Turn, by: Jid, at: NodeAddress) -> Result<(), Refusal> {
        let inner = self.clone();
        self.decide(turn, move |tx| {
            let node = inner.find(tx.read(), &at, &bare(&by))?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(tx.read(), &node, &bare(&by))?, Verb::Delete, &node)?;
            if node.id == NodeId(0) {
                return Ok(());
            }
            Ok(remove(tx, &node, inner.clock.now())?)
        })
        .await
    }

    /// Removes all items of a node (XEP-0060 §8.5.1). Nobody sees them from now on; a sweep frees their rows.
    pub async fn purge(&self, turn: Turn, by: Jid, at: NodeAddress) -> Result<(), Refusal> {
        let inner = self.clone();
        self.decide(turn, move |tx| {
            let node = inner.find(tx.read(), &at, &bare(&by))?.ok_or(Refusal::OwnerNodeNotFound)?;
            may(inner.standing(tx.read(), &node, &bare(&by))?, Verb::Purge, &node)?;
            let mut state = tx.read().node_state(node.id)?;
            // Items from before a node stopped keeping them can still be removed.
            if !node.config.persist_items && state.items == 0 {
                return Err(Refusal::PurgePersistentItemsOff.into());
            }
            if node.id == NodeId(0) {
                return Ok(());
            }
            state.seq += 1;
            state.floor = state.seq;
            state.changed = inner.clock.now();
            state.items = 0;
            state.bytes = 0;
            tx.put_node_state(node.id, &state)?;
            let event = tx.emit(&inner.event(&node, state.seq, What::Purged))?;
            tx.mark_for_sweep(node.id, event)?;
            Ok(())
        })
        .await
    }

    /// Whether `jid` owns the node: for the edge, which asks owners and nobody else.
    pub async fn affiliation(&self, turn: Turn, jid: BareJid, at: NodeAddress) -> Result<Affiliation, Refusal> {
        let inner = self.clone();
        self.look(turn, move |r| {
            let node = inner.find(r, &at, &jid)?.ok_or(Refusal::NodeNotFound)?;
            Ok(inner.standing(r, &node, &jid)?.affiliation)
        })
        .await
    }
}
