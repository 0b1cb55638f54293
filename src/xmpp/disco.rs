//! Service discovery (XEP-0030, XEP-0128): what the component, an account, a node is and can; answered to anybody,
//! a node's metadata to who may read it or ask to. Only what works is listed. XEP-0115 makes a hash of it for presence.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jid::BareJid;
use minidom::Element;
use xmpp_parsers::disco::{DiscoInfoResult, Identity};

use super::dispatch::{Answer, Request};
use super::envelope::{Xml, XmlWriter};
use super::{forms, ns, rsm};
use crate::domain::address::Addresses;
use crate::domain::error::Refusal;
use crate::domain::item::Page;
use crate::domain::node::{MICROBLOG, NodeAddress, NodeKind, NodeName};
use crate::domain::node_config::{Field, NodeConfig};
use crate::service::Service;
use crate::service::retrieve::{Entity, Items, Metadata, NodeInfo, Which};

/// What can be done with nodes anywhere: names behind `http://jabber.org/protocol/pubsub#` (XEP-0060 §10).
const PUBSUB_FEATURES: &[&str] = &[
    "access-authorize",
    "access-open",
    "access-presence",
    "access-whitelist",
    "auto-create",
    "config-node",
    "config-node-max",
    "create-and-configure",
    "create-nodes",
    "delete-items",
    "delete-nodes",
    "instant-nodes",
    "item-ids",
    "manage-subscriptions",
    "member-affiliation",
    "meta-data",
    "modify-affiliations",
    "multi-items",
    "outcast-affiliation",
    "persistent-items",
    "publish",
    "publish-only-affiliation",
    "publish-options",
    "publisher-affiliation",
    "purge-nodes",
    "retract-items",
    "retrieve-affiliations",
    "retrieve-default",
    "retrieve-items",
    "retrieve-subscriptions",
    "rsm",
    "subscribe",
    "subscription-notifications",
];

const EVERYWHERE: &[&str] =
    &[ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PUBSUB, ns::RSM, ns::PING, ns::VERSION, ns::TIME, ns::FORM];

/// Nodes listed in one answer, where the asker names no number.
const NODES_MOST: usize = 200;

/// Identities: category and type (XEP-0030 §3.1).
const COMPONENT: &[(&str, &str)] = &[("pubsub", "service"), ("component", "generic")];
const ACCOUNT: &[(&str, &str)] = &[("account", "registered"), ("pubsub", "pep")];

fn describe(identities: &[(&str, &str)], features: &[&str]) -> DiscoInfoResult {
    let pubsub = PUBSUB_FEATURES.iter().map(|name| format!("{}#{name}", ns::PUBSUB));
    let others = EVERYWHERE.iter().chain(features).map(|name| (*name).to_owned());
    DiscoInfoResult {
        node: None,
        identities: identities.iter().map(|(c, t)| Identity::new(*c, *t, "en", "Rookery")).collect(),
        features: pubsub.chain(others).collect::<BTreeSet<_>>(),
        extensions: Vec::new(),
    }
}

fn component() -> DiscoInfoResult {
    describe(COMPONENT, &[ns::REGISTER])
}

fn account() -> DiscoInfoResult {
    let on_a_jid = format!("{}#pubsub-on-a-jid", ns::PUBSUB);
    describe(ACCOUNT, &[&on_a_jid, MICROBLOG, ns::SOCIAL_FEED])
}

/// What our presences say of us (XEP-0115): made once, the same for all accounts.
pub(super) struct Caps {
    node: String,
    component: String,
    account: String,
}

impl Caps {
    pub fn new(addresses: &Addresses) -> Self {
        Caps { node: addresses.public_url.clone(), component: ver(&component()), account: ver(&account()) }
    }

    /// `<c/>` for a presence of an account, or of the component.
    pub fn presence(&self, of_account: bool) -> Xml {
        let mut w = XmlWriter::new();
        w.open("c", ns::CAPS).attr("hash", "sha-1").attr("node", &self.node).attr("ver", self.ver(of_account));
        w.finish()
    }

    fn ver(&self, of_account: bool) -> &str {
        if of_account { &self.account } else { &self.component }
    }

    /// Whether `node` is what our presence announced.
    fn announced(&self, node: &str, of_account: bool) -> bool {
        node.strip_prefix(&self.node).and_then(|rest| rest.strip_prefix('#')) == Some(self.ver(of_account))
    }
}

/// The verification string (XEP-0115 §5.1): identities, then features, each sorted and then ended by `<`.
///
/// xmpp-parsers 0.23 sorts with the `<` in place, which puts `pubsub#…` before `pubsub`: nobody could verify that.
fn ver(info: &DiscoInfoResult) -> String {
    let mut identities: Vec<_> = info
        .identities
        .iter()
        .map(|i| {
            let (lang, name) = (i.lang.as_deref().unwrap_or_default(), i.name.as_deref().unwrap_or_default());
            format!("{}/{}/{lang}/{name}", i.category, i.type_)
        })
        .collect();
    identities.sort();
    let mut text = String::new();
    for piece in identities.iter().chain(&info.features) {
        text.push_str(piece);
        text.push('<');
    }
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

pub(super) async fn info(r: Request) -> Answer {
    let query = r.envelope.child_element(r.payload()?).map_err(|_| Refusal::BadRequest)?;
    let node = query.attr("node").filter(|node| !node.is_empty());
    let of_account = r.to.node().is_some();
    let yet = Unborn::of(&r);
    if let Some(name) = node.filter(|node| !r.edge.caps().announced(node, of_account)) {
        let name = NodeName::parse(name).map_err(|_| Refusal::NodeNotFound)?;
        let at = NodeAddress { service: r.to.clone(), name };
        let found = r.service().node_info(r.turn, r.from.to_bare(), at.clone()).await;
        let info = yet.or(found, || (at.name == NodeName::microblog()).then(|| yet.microblog())).await?;
        return Ok(node_info(&info, r.to.as_str(), of_account));
    }
    let found = r.service().entity(r.turn, r.to).await.map(|entity| match entity {
        Entity::Component => component(),
        Entity::Account(_) => account(),
    });
    let mut info = yet.or(found, || Some(account())).await?;
    // XEP-0115 §6.2: the answer names the node that was asked for.
    info.node = node.map(str::to_owned);
    Xml::element(&Element::from(info)).map_err(|_| Refusal::Failed)
}

/// The account that its owner asks about before the first write, which will make it: shown to them, and to nobody else,
/// as the empty one that it will be, so that a client finds where to publish.
struct Unborn {
    service: Service,
    jid: BareJid,
    by: BareJid,
}

impl Unborn {
    fn of(r: &Request) -> Self {
        Unborn { service: r.service(), jid: r.to.clone(), by: r.from.to_bare() }
    }

    /// `found`, or what `empty` gives if there is no account yet; `None`: not even then.
    async fn or<T>(&self, found: Result<T, Refusal>, empty: impl FnOnce() -> Option<T>) -> Result<T, Refusal> {
        match found {
            Err(Refusal::NoSuchAccount) if self.service.awaits(self.jid.clone(), self.by.clone()).await? => {
                empty().ok_or(Refusal::NodeNotFound)
            }
            found => found,
        }
    }

    /// Its microblog.
    fn microblog(&self) -> NodeInfo {
        let config = NodeConfig::default_for(NodeKind::Microblog);
        let access = config.access_model;
        let (creator, created) = (self.by.clone(), self.service.clock.now());
        let metadata = Some(Metadata { config, creator, created, subscribers: 0 });
        NodeInfo { name: NodeName::microblog(), access, metadata }
    }
}

/// A node's identity and metadata (XEP-0060 §5.3, §5.4); of one that is closed to who asks, only what it is and how to
/// come in.
fn node_info(info: &NodeInfo, service: &str, of_account: bool) -> Xml {
    let mut w = XmlWriter::new();
    w.open("query", ns::DISCO_INFO).attr("node", info.name.as_str());
    w.open("identity", "").attr("category", "pubsub").attr("type", "leaf");
    let title = info.metadata.as_ref().map(|metadata| metadata.config.title.as_str()).unwrap_or_default();
    if !title.is_empty() {
        w.attr("name", title);
    }
    w.close();
    for feature in [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PUBSUB] {
        w.open("feature", "").attr("var", feature).close();
    }
    forms::open(&mut w, "result", ns::META_DATA);
    let Some(Metadata { config, creator, created, subscribers }) = &info.metadata else {
        forms::field(&mut w, "pubsub#access_model", None, None, &[info.access.as_str()]);
        return w.finish();
    };
    // §16.4.3: of the configuration, what concerns who looks for something to read.
    const SHOWN: [&str; 7] = [
        "pubsub#type",
        "pubsub#title",
        "pubsub#description",
        "pubsub#language",
        "pubsub#access_model",
        "pubsub#publish_model",
        "pubsub#max_items",
    ];
    for Field { var, value, .. } in config.fields() {
        if SHOWN.contains(&var) && !value.is_empty() {
            forms::field(&mut w, var, None, None, &[&value]);
        }
    }
    // An account's node belongs, for everybody else, to the account: whose Jabber address that is, is their business.
    let owner = if of_account { service } else { creator.as_str() };
    forms::field(&mut w, "pubsub#creator", Some("jid-single"), None, &[owner]);
    forms::field(&mut w, "pubsub#owner", Some("jid-multi"), None, &[owner]);
    forms::field(&mut w, "pubsub#creation_date", None, None, &[&created.rfc3339()]);
    forms::field(&mut w, "pubsub#num_subscribers", None, None, &[&subscribers.to_string()]);
    w.finish()
}

pub(super) async fn items(r: Request) -> Answer {
    let query = r.envelope.child_element(r.payload()?).map_err(|_| Refusal::BadRequest)?;
    let page = query.get_child("set", ns::RSM).map(rsm::read).transpose()?;
    let of_account = r.to.node().is_some();
    match query.attr("node").filter(|node| !node.is_empty() && !r.edge.caps().announced(node, of_account)) {
        None => nodes(r, page).await,
        Some(name) => {
            let name = NodeName::parse(name).map_err(|_| Refusal::NodeNotFound)?;
            node_items(r, name, page).await
        }
    }
}

/// The nodes of the component or of an account (XEP-0060 §5.2), forward by pages.
async fn nodes(r: Request, page: Option<Page>) -> Answer {
    let asked = page.is_some();
    let Page { max, after, before } = page.unwrap_or_default();
    if before.is_some() {
        return Err(Refusal::Unsupported);
    }
    let behind = match after {
        Some(name) => Some(NodeName::parse(&name).map_err(|_| Refusal::NodeNotFound)?),
        None => None,
    };
    let most = max.unwrap_or(NODES_MOST).min(NODES_MOST);
    let (service, jid, yet) = (r.service(), r.to.clone(), Unborn::of(&r));
    let microblog = NodeName::microblog();
    let unborn = match behind.as_ref().is_none_or(|behind| *behind < microblog) {
        true => vec![(microblog, String::new())],
        false => Vec::new(),
    };
    let found = service.nodes(r.turn, r.from.to_bare(), r.to, behind, most + 1).await;
    let found = found.map(|nodes| nodes.into_iter().map(|node| (node.name, node.config.title)).collect());
    let mut found = yet.or(found, || Some(unborn)).await?;
    let more = found.len() > most;
    found.truncate(most);
    let mut w = XmlWriter::new();
    w.open("query", ns::DISCO_ITEMS);
    for (name, title) in &found {
        w.open("item", "").attr("jid", jid.as_str()).attr("node", name.as_str());
        if !title.is_empty() {
            w.attr("name", title);
        }
        w.close();
    }
    if asked || more {
        // Only who sees every node could count them.
        let given = rsm::Given {
            first: found.first().map(|(name, _)| name.as_str()),
            last: found.last().map(|(name, _)| name.as_str()),
            ..rsm::Given::default()
        };
        rsm::write(&mut w, given);
    }
    Ok(w.finish())
}

/// The items of a node (XEP-0060 §5.5): their ids, as names.
async fn node_items(r: Request, name: NodeName, page: Option<Page>) -> Answer {
    let asked = page.is_some();
    let (service, jid, yet) = (r.service(), r.to.clone(), Unborn::of(&r));
    let at = NodeAddress { service: r.to, name: name.clone() };
    let which = page.map_or(Which::Newest(None), Which::Page);
    let found = service.items(r.turn, r.from, at, which).await;
    let nothing = || (name == NodeName::microblog()).then(|| Items { complete: true, ..Items::default() });
    let found = yet.or(found, nothing).await?;
    let mut w = XmlWriter::new();
    w.open("query", ns::DISCO_ITEMS).attr("node", name.as_str());
    for (item, _) in &found.items {
        w.open("item", "").attr("jid", jid.as_str()).attr("name", item.id.as_str()).close();
    }
    if asked || !found.complete {
        let given = rsm::Given {
            first: found.items.first().map(|(item, _)| item.id.as_str()),
            index: found.first_index,
            last: found.items.last().map(|(item, _)| item.id.as_str()),
            count: Some(found.total),
        };
        rsm::write(&mut w, given);
    }
    Ok(w.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_specifications_example() {
        let features = ["caps", "disco#info", "disco#items", "muc"];
        let exodus = DiscoInfoResult {
            node: None,
            identities: vec![Identity { lang: None, ..Identity::new("client", "pc", "", "Exodus 0.9.1") }],
            features: features.map(|f| format!("http://jabber.org/protocol/{f}")).into(),
            extensions: Vec::new(),
        };
        assert_eq!(ver(&exodus), "QgayPKawpkPSDYmwT/WM94uAlu0=");
    }

    #[test]
    fn a_feature_is_hashed_before_the_longer_ones_that_begin_like_it() {
        let names = ["u", "u#a"];
        let info = |names: &[&str]| DiscoInfoResult {
            node: None,
            identities: Vec::new(),
            features: names.iter().map(|name| (*name).to_owned()).collect(),
            extensions: Vec::new(),
        };
        assert_eq!(ver(&info(&names)), STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, b"u<u#a<")));
    }

    #[test]
    fn what_presence_announces_is_known_again_and_nothing_else_is() {
        let url = url::Url::parse("https://c.example/").unwrap();
        let addresses = Addresses::new(jid::BareJid::new("c.example").unwrap(), &url, "c.example");
        let caps = Caps::new(&addresses);
        assert_ne!(caps.account, caps.component);
        for of_account in [false, true] {
            assert!(caps.announced(&format!("https://c.example#{}", caps.ver(of_account)), of_account));
            assert!(!caps.announced(&format!("https://c.example#{}", caps.ver(!of_account)), of_account));
        }
    }
}
