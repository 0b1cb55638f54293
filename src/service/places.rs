//! Finding what an address means: the account or the component, and the node there, also one that exists by itself.

use jid::BareJid;

use super::{Decided, Inner, Stop, account, node};
use crate::domain::address::Whom;
use crate::domain::error::Refusal;
use crate::domain::event::{Event, NodeRef, What};
use crate::domain::node::{MICROBLOG, Node, NodeAddress, NodeId, NodeKind, NodeName, NodeState};
use crate::domain::node_config::{AccessModel, NodeConfig};
use crate::domain::policy::{Standing, Verb, Viewer, may, may_see};
use crate::domain::subscription::Affiliation;
use crate::store::{Account, Counter, Read, Tx};

/// A service that holds nodes.
pub enum Place {
    /// The component itself.
    Component,
    Account(Account),
}

impl Inner {
    /// The place that `service` names, if it is there to be read.
    pub(super) fn place(&self, r: &dyn Read, service: &BareJid) -> Decided<Place> {
        match self.addresses.whom(service) {
            Some(Whom::Service) => Ok(Place::Component),
            Some(Whom::Local(name)) => match r.account(&name)? {
                Some(account) if account.is_active() => Ok(Place::Account(account)),
                _ => Err(Refusal::NoSuchAccount.into()),
            },
            _ => Err(Refusal::NoSuchAccount.into()),
        }
    }

    /// The place that `by` writes to: a listed owner's account comes into being with the first write to it.
    pub(super) fn place_for_write(&self, tx: &mut Tx<'_>, service: &BareJid, by: &BareJid) -> Decided<Place> {
        match self.place(tx.read(), service) {
            Err(Stop::Refused(Refusal::NoSuchAccount)) => {
                let Some(Whom::Local(name)) = self.addresses.whom(service) else {
                    return Err(Refusal::NoSuchAccount.into());
                };
                if !self.is_namesake(&name, by) {
                    return Err(Refusal::NoSuchAccount.into());
                }
                account::register(self, tx, &name, by).map(Place::Account)
            }
            place => place,
        }
    }

    /// The node at an address as far as `by` may know of it; see [`Inner::find_for`].
    pub(super) fn find(&self, r: &dyn Read, at: &NodeAddress, by: &BareJid) -> Decided<Option<Node>> {
        let place = self.place(r, &at.service)?;
        self.find_for(r, &place, at, by)
    }

    /// The node at an address. The comments on a post that `by` may not see are, for `by`, not there: else anybody could
    /// try out what a closed microblog holds.
    pub(super) fn find_for(
        &self,
        r: &dyn Read,
        place: &Place,
        at: &NodeAddress,
        by: &BareJid,
    ) -> Decided<Option<Node>> {
        let there = self.find_at(r, place, &at.service, &at.name)?;
        Ok(match there {
            Some(node) if !knows(r, &node, by)? => None,
            there => there,
        })
    }

    /// The node `name` at `service`, whoever asks. Microblog and comments nodes of an account exist by themselves: one
    /// without rows yet comes with the id 0, and [`Inner::materialise`] gives it some.
    pub(super) fn find_at(
        &self,
        r: &dyn Read,
        place: &Place,
        service: &BareJid,
        name: &NodeName,
    ) -> Decided<Option<Node>> {
        let there = r.node_named(service, name)?;
        let Place::Account(account) = place else { return Ok(there) };
        let posts = match name.commented_item() {
            None if name.as_str() == MICROBLOG || there.is_some() => None,
            None => return Ok(None),
            // Comments live and die with their post.
            Some(item) => match r.node_named(service, &NodeName::microblog())? {
                Some(posts) if visible(r, &posts, &item)?.is_some() => Some(posts),
                _ => return Ok(None),
            },
        };
        let lent = posts.as_ref().and_then(closed);
        // One that is older than the posts belongs to a microblog that was deleted: its time is over.
        if let Some(node) = there.filter(|node| posts.as_ref().is_none_or(|posts| posts.id < node.id)) {
            return Ok(Some(Node { posts: lent, ..node }));
        }
        let kind = NodeKind::of(name, true);
        Ok(Some(Node {
            id: NodeId(0),
            service: service.clone(),
            name: name.clone(),
            kind,
            creator: account.owner.clone(),
            created: account.created,
            config: NodeConfig::default_for(kind),
            posts: lent,
        }))
    }

    /// Gives a node that exists by itself, or is being created, its rows; its creator becomes the owner.
    pub(super) fn materialise(&self, tx: &mut Tx<'_>, mut node: Node) -> Decided<Node> {
        if node.id == NodeId(0) {
            if let Some(over) = tx.read().node_named(&node.service, &node.name)? {
                node::remove(tx, &over, self.clock.now())?;
            }
            node.id = NodeId(tx.next(Counter::Node));
            tx.add_node(&node)?;
            tx.put_node_state(node.id, &NodeState::default())?;
            tx.put_affiliation(node.id, &node.creator, Affiliation::Owner)?;
        }
        Ok(node)
    }

    /// What `jid` is to `node`, which may be without rows.
    pub(super) fn standing(&self, r: &dyn Read, node: &Node, jid: &BareJid) -> Decided<Standing> {
        Ok(standing(r, node, jid)?)
    }

    /// An Event of `node`, after its state moved to `seq`.
    pub(super) fn event(&self, node: &Node, seq: u64, what: What) -> Event {
        Event { at: self.clock.now(), node: node_ref(node), node_seq: seq, what }
    }
}

pub(super) fn node_ref(node: &Node) -> NodeRef {
    NodeRef { id: node.id, service: node.service.clone(), name: node.name.clone(), kind: node.kind }
}

/// What `jid` is to `node`, which may be without rows. At a comments node, who may read guarded posts is a member, and
/// who may not read the posts, or is barred from them, is barred from what is said about them.
pub fn standing(r: &dyn Read, node: &Node, jid: &BareJid) -> crate::store::kv::Result<Standing> {
    if node.creator == *jid && node.id == NodeId(0) {
        return Ok(Standing { affiliation: Affiliation::Owner, ..Standing::default() });
    }
    let mut standing = r.standing(node.id, &node.service, jid)?;
    if node.kind == NodeKind::Comments
        && standing.affiliation == Affiliation::None
        && let Some(posts) = r.node_named(&node.service, &NodeName::microblog())?
    {
        let there = r.standing(posts.id, &node.service, jid)?;
        let follows = node.config.access_model == AccessModel::Open;
        let guarded = posts.config.access_model != AccessModel::Open;
        standing.affiliation = match may(there, Verb::Retrieve, &posts) {
            _ if there.affiliation == Affiliation::Outcast => Affiliation::Outcast,
            Ok(()) if guarded && follows => Affiliation::Member,
            // With an access model of its own, or by a subscription to the comments that needed no approval, the node
            // would let in whom the posts do not.
            Err(_) if !follows || posts.config.access_model == AccessModel::Authorize => Affiliation::Outcast,
            _ => Affiliation::None,
        };
    }
    Ok(standing)
}

/// Whether `jid` may know that there is this node. Only of comments can it be that they may not: who neither sees the
/// post nor belongs to its comments.
pub(super) fn knows(r: &dyn Read, node: &Node, jid: &BareJid) -> crate::store::kv::Result<bool> {
    let item = match node.name.commented_item() {
        Some(item) if node.kind == NodeKind::Comments => item,
        _ => return Ok(true),
    };
    let own = r.standing(node.id, &node.service, jid)?;
    if own.subscription.is_some() || !matches!(own.affiliation, Affiliation::None | Affiliation::Outcast) {
        return Ok(true);
    }
    let Some(posts) = r.node_named(&node.service, &NodeName::microblog())? else { return Ok(node.creator == *jid) };
    let standing = r.standing(posts.id, &posts.service, jid)?;
    let Some(post) = visible(r, &posts, &item)? else { return Ok(false) };
    let sees =
        may(standing, Verb::Retrieve, &posts).and_then(|()| may_see(Viewer::Jid { jid, standing }, &posts, &post));
    Ok(sees.is_ok())
}

/// A node as whoever decides about access or sends notifications looks at it: a comments node is never more open than
/// the posts it belongs to.
pub fn in_step(r: &dyn Read, node: Node) -> crate::store::kv::Result<Node> {
    if node.kind != NodeKind::Comments {
        return Ok(node);
    }
    let posts = match r.node_named(&node.service, &NodeName::microblog())? {
        Some(posts) => closed(&posts),
        None => Some(AccessModel::Whitelist),
    };
    Ok(Node { posts, ..node })
}

/// What the posts lend to their comments, if not everybody may read them.
fn closed(posts: &Node) -> Option<AccessModel> {
    Some(posts.config.access_model).filter(|model| *model != AccessModel::Open)
}

/// An item that was not purged.
pub(super) fn visible(
    r: &dyn Read,
    node: &Node,
    id: &crate::domain::item::ItemId,
) -> crate::store::kv::Result<Option<crate::domain::item::Item>> {
    let floor = r.node_state(node.id)?.floor;
    Ok(r.item(node.id, id)?.filter(|item| item.place > floor))
}
