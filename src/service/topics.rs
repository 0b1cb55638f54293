//! Public feeds as documents: ActivityStreams Atom (RFC 4287), paged (RFC 5005 §3). The web serves them and the hub
//! sends them, so there is one place that makes them, and each version is rendered once however many ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use bytes::Bytes;

use super::places::visible;
use super::retrieve::{FeedPage, feed_page};
use super::{Decided, Inner, Service};
use crate::base::clock::Timestamp;
use crate::domain::address::{Addresses, LocalName};
use crate::domain::entry::{Feed, Link, Person, resolve};
use crate::domain::error::Refusal;
use crate::domain::item::ItemId;
use crate::domain::node::{NodeId, NodeName};
use crate::domain::node_config::NodeConfig;
use crate::domain::policy::{Viewer, may_see};
use crate::format::canonical::Canonical;
use crate::format::{feed, uri};
use crate::store::{Account, Read};

/// Posts on one page.
pub const PAGE: usize = 20;
/// Bytes of rendered documents that are kept; the longest unused go first.
const KEPT_BYTES: usize = 32 << 20;
/// Documents that are kept, whatever their size.
const KEPT: usize = 2048;

/// What part of a feed a document shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Window {
    /// The newest posts: the topic itself.
    Newest,
    /// The page of those before a place (RFC 5005 §3), an address of its own.
    Before(u64),
    /// As the topic was when the post at this place was its newest: what a subscriber who lags behind is sent.
    UpTo(u64),
}

/// A rendered document.
#[derive(Debug)]
pub struct Topic {
    pub account: Account,
    /// An Atom document, UTF-8.
    pub body: Bytes,
    /// Of the body: the same only for the same bytes.
    pub digest: String,
    /// When the feed changed last.
    pub changed: Timestamp,
    /// The places of its posts, newest first.
    pub places: Vec<u64>,
    /// Where to go on, if there are older posts.
    pub older: Option<u64>,
    version: Version,
}

/// What a rendering depends on, beside its window.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Version {
    node: NodeId,
    seq: u64,
    /// The sweep trims without a new sequence.
    floor: u64,
    config: NodeConfig,
}

/// The documents; cheap to clone.
#[derive(Clone)]
pub struct Topics {
    service: Service,
    kept: Arc<Mutex<Kept>>,
}

/// Held while a document is looked up or rendered: whoever asks for the same meanwhile gets the same.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Topic>>>>;

#[derive(Default)]
struct Kept {
    slots: HashMap<(LocalName, Window), Shelf>,
    bytes: usize,
    /// Counts uses.
    turn: u64,
    renderings: u64,
}

#[derive(Default)]
struct Shelf {
    slot: Slot,
    bytes: usize,
    used: u64,
}

impl Topic {
    /// The value of `Link` (WebSub §4, §7): a topic, and each push of it, names its hub and itself.
    pub fn links(&self, addresses: &Addresses) -> String {
        format!("<{}>; rel=\"hub\", <{}>; rel=\"self\"", addresses.hub_url(), self.account.feed_url)
    }
}

impl Topics {
    pub fn new(service: Service) -> Self {
        Topics { service, kept: Arc::default() }
    }

    /// Documents rendered since the start, for metrics.
    pub fn renderings(&self) -> u64 {
        self.lock().renderings
    }

    /// The document of `name`'s public feed as it is now. Refused as [`Service::feed`].
    pub async fn get(&self, name: &LocalName, window: Window) -> Result<Arc<Topic>, Refusal> {
        let key = (name.clone(), window);
        let slot = self.slot(&key);
        let mut slot = slot.lock().await;
        let (known, service, wanted) = (slot.clone(), self.service.clone(), name.clone());
        // On the bounded pool: a page of long posts takes milliseconds.
        let topic = self.service.peek(move |r| current(&service, r, &wanted, window, known)).await?;
        if slot.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &topic)) {
            self.keep(key, topic.body.len());
            *slot = Some(topic.clone());
        }
        Ok(topic)
    }

    fn slot(&self, key: &(LocalName, Window)) -> Slot {
        let mut kept = self.lock();
        kept.turn += 1;
        let turn = kept.turn;
        let shelf = kept.slots.entry(key.clone()).or_default();
        shelf.used = turn;
        let slot = shelf.slot.clone();
        // Names that nobody has take a place too.
        kept.trim();
        slot
    }

    /// Notes a new rendering, and lets go of the longest unused ones.
    fn keep(&self, key: (LocalName, Window), bytes: usize) {
        let mut kept = self.lock();
        kept.renderings += 1;
        if let Some(shelf) = kept.slots.get_mut(&key) {
            let before = std::mem::replace(&mut shelf.bytes, bytes);
            kept.bytes = kept.bytes - before + bytes;
        }
        kept.trim();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Kept {
    fn trim(&mut self) {
        while self.bytes > KEPT_BYTES || self.slots.len() > KEPT {
            let oldest = self.slots.iter().min_by_key(|(_, shelf)| shelf.used).map(|(key, _)| key.clone());
            let Some(gone) = oldest.and_then(|key| self.slots.remove(&key)) else { return };
            self.bytes -= gone.bytes;
        }
    }
}

impl Service {
    /// The places of these items among `name`'s public posts; `None` for one that is no public post (any more).
    pub async fn post_places(&self, name: LocalName, items: Vec<ItemId>) -> Result<Vec<Option<u64>>, Refusal> {
        let inner = self.clone();
        self.peek(move |r| {
            let (_, node) = inner.public_microblog(r, &name)?;
            let mut places = Vec::with_capacity(items.len());
            for id in &items {
                let item = visible(r, &node, id)?.filter(|item| item.atom_id.is_some());
                let seen = item.filter(|item| may_see(Viewer::Public, &node, item).is_ok());
                places.push(seen.map(|item| item.place));
            }
            Ok(places)
        })
        .await
    }
}

/// The document as it is now: `known` again if nothing has changed.
fn current(
    inner: &Inner,
    r: &dyn Read,
    name: &LocalName,
    window: Window,
    known: Option<Arc<Topic>>,
) -> Decided<Arc<Topic>> {
    // Asked each time: access may have changed, and the account may be gone.
    let (account, node) = inner.public_microblog(r, name)?;
    let state = r.node_state(node.id)?;
    // Read before the items: they are at least as new as this says.
    let version = Version { node: node.id, seq: state.seq, floor: state.floor, config: node.config.clone() };
    if let Some(known) = known.filter(|known| known.version == version) {
        return Ok(known);
    }
    let before = match window {
        Window::Newest => None,
        Window::Before(place) => Some(place),
        Window::UpTo(place) => Some(place.saturating_add(1)),
    };
    let page = feed_page(r, account, node, before, PAGE)?;
    Ok(Arc::new(render(inner, page, window, version)))
}

fn render(inner: &Inner, page: FeedPage, window: Window, version: Version) -> Topic {
    let service = inner.addresses.virtual_jid(&page.account.name);
    let described = describe(inner, &page, window);
    let entries: Vec<Canonical> = page
        .items
        .iter()
        .filter_map(|(_, payload)| Some(Canonical::stored(String::from_utf8(payload.to_vec()).ok()?)))
        .collect();
    let body = feed::write(&described, Some(&uri::xmpp(service.as_str())), &entries);
    let digest = digest::digest(&digest::SHA256, body.as_bytes());
    let digest = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Topic {
        body: body.into(),
        digest,
        changed: page.changed,
        places: page.items.iter().map(|(item, _)| item.place).collect(),
        older: page.older,
        account: page.account,
        version,
    }
}

/// What the feed says of itself.
fn describe(inner: &Inner, page: &FeedPage, window: Window) -> Feed {
    let account = &page.account;
    let service = inner.addresses.virtual_jid(&account.name);
    let node = uri::xmpp_node(service.as_str(), NodeName::microblog().as_str());
    let atom = |rel, href: String| Link::typed(rel, feed::MEDIA_TYPE, href);
    let at = |place| page_url(account, place);
    let mut links = vec![
        Link::typed("alternate", "text/html", account.profile_url.clone()),
        // XEP-0277 §2: where the same feed stands as a node.
        Link::new("alternate", node),
    ];
    match window {
        // The hub's link makes a document a topic (WebSub §4); a page of older posts is none.
        Window::Before(place) => {
            links.push(atom("self", at(place)));
            links.push(atom("first", account.feed_url.clone()));
        }
        Window::Newest | Window::UpTo(_) => {
            links.push(Link::new("hub", inner.addresses.hub_url()));
            links.push(atom("self", account.feed_url.clone()));
        }
    }
    links.extend(page.older.map(|place| atom("next", at(place))));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Feed {
        id: Some(account.feed_url.clone()),
        title: text(&page.config.title).or_else(|| Some(account.name.to_string())),
        subtitle: text(&page.config.description),
        // A page of older posts keeps its bytes when newer ones come.
        updated: Some(if window == Window::Newest { page.changed } else { page.updated }),
        author: Some(author(account)),
        links,
        ..Feed::default()
    }
}

/// The author as OStatus peers look for one: `uri` is the page, `email` the `acct:` address (Mastodon 2 prefers it).
pub fn author(account: &Account) -> Person {
    let acct = account.acct.strip_prefix("acct:").unwrap_or(&account.acct);
    Person {
        name: Some(account.name.to_string()),
        uri: Some(account.profile_url.clone()),
        email: Some(acct.to_owned()),
        object_type: Some(resolve("person")),
        username: Some(account.name.to_string()),
        display_name: Some(account.name.to_string()),
        links: vec![Link::typed("alternate", "text/html", account.profile_url.clone())],
        ..Person::default()
    }
}

/// The address of the page of posts before `place`.
pub fn page_url(account: &Account, place: u64) -> String {
    format!("{}?before={place}", account.feed_url)
}
