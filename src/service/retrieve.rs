//! Reading: items (XEP-0060 §6.5), nodes and their metadata (§5), one's own subscriptions and affiliations (§5.6, §5.7),
//! and what the web sees. Every path asks `policy`: whether one may read the node at all (`may`; of its metadata, or ask
//! to), and of each item whether one may see it (`may_see`).

use bytes::Bytes;
use jid::{BareJid, Jid};

use super::places::{Place, in_step, knows, visible};
use super::{Decided, Inner, Service, Stop, bare};
use crate::base::clock::Timestamp;
use crate::base::turn::Turn;
use crate::domain::address::LocalName;
use crate::domain::error::Refusal;
use crate::domain::item::{Item, ItemId, Page};
use crate::domain::node::{Node, NodeAddress, NodeId, NodeName};
use crate::domain::node_config::{AccessModel, NodeConfig};
use crate::domain::policy::{Standing, Verb, Viewer, may, may_see};
use crate::domain::subscription::{Affiliation, Subscription, SubscriptionState};
use crate::store::{Account, Read};

/// Which items are asked for.
#[derive(Clone, Debug)]
pub enum Which {
    /// By id (XEP-0060 §6.5.6); ids that are not there are passed over.
    Ids(Vec<ItemId>),
    /// The newest `n` (§6.5.7), all that fit if `None`.
    Newest(Option<usize>),
    /// A page (XEP-0059), in the order of the node: oldest first.
    Page(Page),
}

impl Which {
    /// At most so many are asked for.
    fn most(&self) -> usize {
        match self {
            Which::Ids(ids) => ids.len(),
            Which::Newest(n) => n.unwrap_or(ITEMS_MOST),
            Which::Page(page) => page.max.unwrap_or(ITEMS_MOST),
        }
    }
}

/// Items with their payloads, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Items {
    pub items: Vec<(Item, Bytes)>,
    /// Whether this is the whole answer.
    pub complete: bool,
    /// All items of the node.
    pub total: u64,
    /// The index of the first one (XEP-0059 §2.6), where it is known exactly.
    pub first_index: Option<u64>,
}

/// An answer holds at most this many items …
pub const ITEMS_MOST: usize = 200;
/// … and this many bytes of payload: what Prosody takes from a component in one stanza is 512 KiB.
pub const BYTES_MOST: usize = 300_000;

/// An answer of so many items is read in a moment.
const FEW: usize = 25;

/// Versions of one item that are looked for while it is overwritten again and again.
const VERSIONS: usize = 8;

/// Pages of nodes that are looked through for those that may be shown.
const HIDDEN_PAGES: usize = 50;
/// Of one's own subscriptions and affiliations so many are listed.
const OWN_MOST: usize = 10_000;
/// With so many bytes of payloads a page of a feed ends, however few posts these are.
const PAGE_BYTES: usize = 256 * 1024;

/// What one may know of a node.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub name: NodeName,
    /// How to come in: whoever is refused would learn as much.
    pub access: AccessModel,
    /// `None`: the node is closed to who asks.
    pub metadata: Option<Metadata>,
}

/// What those may know of a node who may read it or ask to (XEP-0060 §5.4).
#[derive(Clone, Debug)]
pub struct Metadata {
    pub config: NodeConfig,
    pub creator: BareJid,
    pub created: Timestamp,
    pub subscribers: u64,
}

/// What stands at an address, for disco.
#[derive(Clone, Debug)]
pub enum Entity {
    Component,
    Account(Account),
}

/// A page of an account's public feed, newest first.
#[derive(Clone, Debug)]
pub struct FeedPage {
    pub account: Account,
    pub config: NodeConfig,
    pub items: Vec<(Item, Bytes)>,
    /// The place to go on from, if there are older ones.
    pub older: Option<u64>,
    /// When the newest change of this page was made; the account's creation for an empty one.
    pub updated: Timestamp,
    /// When the feed changed last, on whatever page, also by what left no trace: a retraction, a new title.
    pub changed: Timestamp,
}

impl Service {
    /// Items of a node as `by` may see them.
    pub async fn items(&self, turn: Turn, by: Jid, at: NodeAddress, which: Which) -> Result<Items, Refusal> {
        let inner = self.clone();
        let few = which.most() <= FEW;
        let look = move |r: &dyn Read| {
            let by = bare(&by);
            let node = inner.find(r, &at, &by)?.ok_or(Refusal::NodeNotFound)?;
            let standing = inner.standing(r, &node, &by)?;
            may(standing, Verb::Retrieve, &node)?;
            if node.id == NodeId(0) {
                return Ok(Items { complete: true, ..Items::default() });
            }
            let viewer = Viewer::Jid { jid: &by, standing };
            select(r, &node, viewer, &which)
        };
        match few {
            true => self.look(turn, look).await,
            false => self.look_through(turn, look).await,
        }
    }

    /// What is at `service`: the component, or an account.
    pub async fn entity(&self, turn: Turn, service: BareJid) -> Result<Entity, Refusal> {
        let inner = self.clone();
        self.look(turn, move |r| {
            Ok(match inner.place(r, &service)? {
                Place::Component => Entity::Component,
                Place::Account(account) => Entity::Account(account),
            })
        })
        .await
    }

    /// The nodes at `service` in the order of their names, behind `behind`; at most `limit`. Fewer at the
    /// end, or where so many closed ones stand together that no more are looked through.
    /// Closed nodes are listed for nobody but those who may read them or ask to; an account's microblog also while it
    /// only exists by itself.
    pub async fn nodes(
        &self,
        turn: Turn,
        by: BareJid,
        service: BareJid,
        behind: Option<NodeName>,
        limit: usize,
    ) -> Result<Vec<Node>, Refusal> {
        let inner = self.clone();
        self.look_at_length(turn, move |r| {
            let place = inner.place(r, &service)?;
            let microblog = NodeName::microblog();
            let by_itself = matches!(place, Place::Account(_)) && r.node_named(&service, &microblog)?.is_none();
            let mut unborn = match by_itself && behind.as_ref().is_none_or(|behind| *behind < microblog) {
                true => inner.find_at(r, &place, &service, &microblog)?,
                false => None,
            };
            let mut seen = Vec::new();
            let mut behind = behind;
            for _ in 0..HIDDEN_PAGES {
                let page = r.nodes_of(&service, behind.as_ref(), limit)?;
                let last = page.len() < limit;
                behind = page.last().map(|node| node.name.clone());
                for node in page {
                    if unborn.as_ref().is_some_and(|unborn| unborn.name < node.name) {
                        seen.extend(unborn.take());
                    }
                    let node = in_step(r, node)?;
                    let standing = inner.standing(r, &node, &by)?;
                    if open_to(standing, &node) && knows(r, &node, &by)? {
                        seen.push(node);
                    }
                }
                if last {
                    seen.extend(unborn.take());
                }
                if last || seen.len() >= limit {
                    break;
                }
            }
            seen.truncate(limit);
            Ok(seen)
        })
        .await
    }

    /// A node, with its metadata as far as `by` may have them.
    pub async fn node_info(&self, turn: Turn, by: BareJid, at: NodeAddress) -> Result<NodeInfo, Refusal> {
        let inner = self.clone();
        self.look(turn, move |r| {
            let node = inner.find(r, &at, &by)?.ok_or(Refusal::NodeNotFound)?;
            let subscribers = r.node_state(node.id)?.subscribers;
            let access = node.access();
            let open = open_to(inner.standing(r, &node, &by)?, &node);
            let Node { name, config, creator, created, .. } = node;
            let metadata = open.then_some(Metadata { config, creator, created, subscribers });
            Ok(NodeInfo { name, access, metadata })
        })
        .await
    }

    /// One's own subscriptions at `service`, to all nodes or one (XEP-0060 §5.6).
    pub async fn own_subscriptions(
        &self,
        turn: Turn,
        by: Jid,
        service: BareJid,
        name: Option<NodeName>,
    ) -> Result<Vec<(NodeName, Subscription)>, Refusal> {
        let inner = self.clone();
        if let Some(name) = name {
            return self
                .look(turn, move |r| {
                    inner.place(r, &service)?;
                    let Some(node) = r.node_named(&service, &name)? else { return Ok(Vec::new()) };
                    let own = r.subscriptions_at(node.id, &bare(&by))?;
                    Ok(own.into_iter().map(|subscription| (node.name.clone(), subscription)).collect())
                })
                .await;
        }
        self.look_at_length(turn, move |r| {
            inner.place(r, &service)?;
            let mut found = Vec::new();
            for (nid, subscription) in r.subscriptions_of(&bare(&by), OWN_MOST)? {
                let node = live(r, nid)?.filter(|node| node.service == service);
                found.extend(node.map(|node| (node.name, subscription)));
            }
            Ok(found)
        })
        .await
    }

    /// One's own affiliations at `service`, to all nodes or one (XEP-0060 §5.7).
    pub async fn own_affiliations(
        &self,
        turn: Turn,
        by: Jid,
        service: BareJid,
        name: Option<NodeName>,
    ) -> Result<Vec<(NodeName, Affiliation)>, Refusal> {
        let inner = self.clone();
        if let Some(name) = name {
            return self
                .look(turn, move |r| {
                    inner.place(r, &service)?;
                    let Some(node) = r.node_named(&service, &name)? else { return Ok(Vec::new()) };
                    let own = Some(r.affiliation(node.id, &bare(&by))?).filter(|own| *own != Affiliation::None);
                    Ok(own.map(|affiliation| (node.name, affiliation)).into_iter().collect())
                })
                .await;
        }
        self.look_at_length(turn, move |r| {
            inner.place(r, &service)?;
            let mut found = Vec::new();
            for (nid, affiliation) in r.affiliations_of(&bare(&by), OWN_MOST)? {
                let node = live(r, nid)?.filter(|node| node.service == service);
                found.extend(node.map(|node| (node.name, affiliation)));
            }
            Ok(found)
        })
        .await
    }

    /// All subscriptions of a Jabber account, with the address of each node: for the chat word `list`.
    pub async fn following(
        &self,
        turn: Turn,
        by: BareJid,
    ) -> Result<Vec<(BareJid, NodeName, SubscriptionState)>, Refusal> {
        self.look_at_length(turn, move |r| {
            let mut found = Vec::new();
            for (nid, subscription) in r.subscriptions_of(&by, 1000)? {
                if let Some(node) = live(r, nid)? {
                    found.push((node.service, node.name, subscription.state));
                }
            }
            Ok(found)
        })
        .await
    }

    /// A page of an account's public posts: those before place `before`, newest first. Refused unless the microblog is
    /// open to everybody.
    pub async fn feed(&self, name: LocalName, before: Option<u64>, limit: usize) -> Result<FeedPage, Refusal> {
        let inner = self.clone();
        self.look_through(Turn::free(), move |r| {
            let (account, node) = inner.public_microblog(r, &name)?;
            feed_page(r, account, node, before, limit)
        })
        .await
    }

    /// One public post.
    pub async fn post(&self, name: LocalName, id: ItemId) -> Result<(Account, Item, Bytes), Refusal> {
        let inner = self.clone();
        self.look(Turn::free(), move |r| {
            let (account, node) = inner.public_microblog(r, &name)?;
            let item = visible(r, &node, &id)?.filter(|item| item.atom_id.is_some()).ok_or(Refusal::ItemNotFound)?;
            let (item, payload) = shown(r, &node, Viewer::Public, item)?.ok_or(Refusal::ItemNotFound)?;
            Ok((account, item, payload))
        })
        .await
    }
}

impl Inner {
    /// The account and its microblog, if everybody may read it.
    pub(super) fn public_microblog(&self, r: &dyn Read, name: &LocalName) -> Decided<(Account, Node)> {
        let service = self.addresses.virtual_jid(name);
        let Place::Account(account) = self.place(r, &service)? else { return Err(Refusal::NoSuchAccount.into()) };
        let place = Place::Account(account.clone());
        let node = self.find_at(r, &place, &service, &NodeName::microblog())?.ok_or(Refusal::NodeNotFound)?;
        if node.access() != AccessModel::Open {
            return Err(Refusal::RetrieveForbidden.into());
        }
        Ok((account, node))
    }
}

/// A page of a microblog that [`Inner::public_microblog`] gave.
pub(super) fn feed_page(
    r: &dyn Read,
    account: Account,
    node: Node,
    before: Option<u64>,
    limit: usize,
) -> Decided<FeedPage> {
    let state = r.node_state(node.id)?;
    let mut items: Vec<(Item, Bytes)> = Vec::new();
    let rows = r.items(node.id, state.floor + 1, before.unwrap_or(u64::MAX), limit + 1, true)?;
    let (mut bytes, mut last, mut older) = (0, None, None);
    for (at, item) in rows.into_iter().enumerate() {
        if at == limit || bytes >= PAGE_BYTES {
            older = last;
            break;
        }
        last = Some(item.place);
        // What has no atom:id is no post: the feed's own metadata (XEP-0277 §2.3).
        if item.atom_id.is_some()
            && let Some((item, payload)) = listed(r, &node, Viewer::Public, item)?
        {
            bytes += payload.len();
            items.push((item, payload));
        }
    }
    let updated = items.iter().map(|(item, _)| item.updated).max().unwrap_or(account.created);
    let changed = state.changed.max(account.created);
    Ok(FeedPage { account, config: node.config, items, older, updated, changed })
}

/// An item that `viewer` may see, and its payload. A row and its payload are two reads: another version may have come
/// between them, and taken the payload along that the row led to; then it is shown as it is now. `None` if it went.
fn shown(r: &dyn Read, node: &Node, viewer: Viewer<'_>, mut item: Item) -> Decided<Option<(Item, Bytes)>> {
    for _ in 0..VERSIONS {
        may_see(viewer, node, &item)?;
        if let Some(payload) = r.payload(item.version)? {
            return Ok(Some((item, payload)));
        }
        match visible(r, node, &item.id)? {
            Some(now) if now.version != item.version => item = now,
            _ => break,
        }
    }
    Ok(None)
}

/// As [`shown`], for a list: what may not be seen is left out, and what stands in another place by now.
fn listed(r: &dyn Read, node: &Node, viewer: Viewer<'_>, item: Item) -> Decided<Option<(Item, Bytes)>> {
    let place = item.place;
    match shown(r, node, viewer, item) {
        Ok(found) => Ok(found.filter(|(now, _)| now.place == place)),
        Err(Stop::Refused(_)) => Ok(None),
        Err(failed) => Err(failed),
    }
}

/// Whether who stands so to the node may read it, or ask to.
fn open_to(standing: Standing, node: &Node) -> bool {
    may(standing, Verb::Retrieve, node).is_ok() || may(standing, Verb::Subscribe, node).is_ok()
}

/// The node, if it was not deleted.
fn live(r: &dyn Read, nid: NodeId) -> Decided<Option<Node>> {
    let Some(node) = r.node(nid)? else { return Ok(None) };
    Ok(r.node_named(&node.service, &node.name)?.filter(|now| now.id == nid))
}

fn select(r: &dyn Read, node: &Node, viewer: Viewer<'_>, which: &Which) -> Decided<Items> {
    let state = r.node_state(node.id)?;
    let (from, end) = (state.floor + 1, u64::MAX);
    let (rows, newest_first, asked) = match which {
        Which::Ids(ids) => {
            let mut rows = Vec::new();
            for id in ids.iter().take(ITEMS_MOST) {
                rows.extend(visible(r, node, id)?);
            }
            (rows, false, ids.len())
        }
        Which::Newest(n) => {
            let n = n.unwrap_or(usize::MAX);
            (r.items(node.id, from, end, n.min(ITEMS_MOST + 1), true)?, true, n)
        }
        Which::Page(page) => {
            let max = page.max.unwrap_or(ITEMS_MOST).min(ITEMS_MOST);
            if max == 0 {
                // XEP-0059 §2.7: only the count is asked for.
                return Ok(Items { total: state.items, ..Items::default() });
            }
            // XEP-0059 §2.4: a cursor that is not there is item-not-found.
            let place = |id: &str| -> Decided<u64> {
                let id = ItemId::parse(id).map_err(|_| Refusal::ItemNotFound)?;
                Ok(visible(r, node, &id)?.ok_or(Refusal::ItemNotFound)?.place)
            };
            match (&page.after, &page.before) {
                (Some(after), _) => (r.items(node.id, place(after)? + 1, end, max + 1, false)?, false, max),
                (None, Some(before)) => {
                    let to = if before.is_empty() { end } else { place(before)? };
                    (r.items(node.id, from, to, max + 1, true)?, true, max)
                }
                (None, None) => (r.items(node.id, from, end, max + 1, false)?, false, max),
            }
        }
    };
    let found = rows.len();
    let mut items = Vec::new();
    let mut bytes = 0;
    for item in rows {
        if items.len() >= asked.min(ITEMS_MOST) {
            break;
        }
        let Some((item, payload)) = listed(r, node, viewer, item)? else { continue };
        bytes += payload.len() + 200;
        if bytes > BYTES_MOST && !items.is_empty() {
            break;
        }
        items.push((item, payload));
    }
    let complete = found <= items.len();
    if newest_first {
        items.reverse();
    }
    let first_index = match which {
        Which::Page(Page { after: None, before: None, .. }) => Some(0),
        Which::Page(Page { after: None, before: Some(before), .. }) if before.is_empty() => {
            Some(state.items.saturating_sub(items.len() as u64))
        }
        _ => None,
    };
    Ok(Items { items, complete, total: state.items, first_index })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::base::clock::Clock;
    use crate::base::id::Ids;
    use crate::domain::address::Addresses;
    use crate::service::publish::{Payload, Publish};
    use crate::service::{Quota, Registration, Rules};
    use crate::store::kv::{self, Kv, Row, Write};
    use crate::store::{MemoryKv, Store};

    /// A database that shows who reads an item its row as it was a moment ago, once.
    #[derive(Default)]
    struct Late {
        kv: MemoryKv,
        before: Mutex<Option<Row>>,
    }

    impl Kv for Late {
        fn get(&self, key: &[u8]) -> kv::Result<Option<Bytes>> {
            match self.before.lock().unwrap().take_if(|(before, _)| before == key) {
                Some((_, row)) => Ok(Some(row)),
                None => self.kv.get(key),
            }
        }
        fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> kv::Result<Vec<Row>> {
            self.kv.range(from, to, limit, reverse)
        }
        fn apply(&self, batch: &[Write]) -> kv::Result<()> {
            self.kv.apply(batch)
        }
        fn moment(&self) -> Option<Box<dyn kv::Read + '_>> {
            None
        }

        fn disk_bytes(&self) -> u64 {
            0
        }
    }

    #[tokio::test]
    async fn an_item_that_is_overwritten_while_it_is_read_is_shown_as_it_is_now() {
        let late = Arc::new(Late::default());
        let url = url::Url::parse("https://social.example.org").unwrap();
        let addresses = Addresses::new(BareJid::new("social.example.org").unwrap(), &url, "example.org");
        let rules = Rules {
            registration: Registration::Hosts,
            auto_register_hosts: vec!["example.org".into()],
            admins: Vec::new(),
            create_nodes_hosts: Vec::new(),
            max_payload: 200_000,
            quota: Quota::default(),
        };
        let store = Store::open(late.clone()).unwrap();
        let clock = Clock::manual(Timestamp::from_secs(1_000_000));
        let service = Service::new(store, addresses, rules, clock, Ids::seeded(1));
        let alice = Jid::new("alice@example.org").unwrap();
        let at =
            NodeAddress { service: BareJid::new("alice@social.example.org").unwrap(), name: NodeName::microblog() };
        let (name, id) = (LocalName::parse("alice").unwrap(), ItemId::parse("post").unwrap());
        let publish = async |text: &str| {
            let (by, at, payload) = (alice.clone(), at.clone(), Some(Payload::Text(text.into())));
            let publish = Publish { by, at, item: Some(id.clone()), payload, options: Vec::new() };
            service.publish(Turn::free(), publish).await.unwrap();
        };
        let row = |table: &[u8]| late.kv.range(table, &[table[0] + 1], 1, false).unwrap().pop().unwrap();
        publish("first").await;
        let (item, (payload, _)) = (row(b"i"), row(b"v"));
        publish("second").await;
        // Nobody is to be told of the first version any more.
        late.kv.apply(&[(payload, None)]).unwrap();
        let late_now = || *late.before.lock().unwrap() = Some(item.clone());
        let text = |payload: &Bytes| String::from_utf8(payload.to_vec()).unwrap();

        for which in [Which::Newest(None), Which::Ids(vec![id.clone()]), Which::Page(Page::default())] {
            late_now();
            let found = service.items(Turn::free(), alice.clone(), at.clone(), which.clone()).await.unwrap().items;
            assert!(found.len() == 1 && text(&found[0].1).contains("second"), "{which:?}: {found:?}");
        }
        late_now();
        let (_, _, payload) = service.post(name.clone(), id.clone()).await.unwrap();
        assert!(text(&payload).contains("second"));
        late_now();
        let feed = service.feed(name.clone(), None, 20).await.unwrap().items;
        assert!(feed.len() == 1 && text(&feed[0].1).contains("second"), "{feed:?}");

        // One whose payload is gone for good is left out.
        late.kv.apply(&[(row(b"v").0, None)]).unwrap();
        let found = service.items(Turn::free(), alice.clone(), at.clone(), Which::Newest(None)).await.unwrap();
        assert_eq!((found.items, found.complete), (Vec::new(), false));
        assert_eq!(service.post(name, id).await.err(), Some(Refusal::ItemNotFound));
    }
}
