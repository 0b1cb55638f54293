//! What an owner may ask of a node (XEP-0060 §8.2 to §8.5, §8.8, §8.9), and the owner's yes or no to a subscriber (§8.6).

use jid::{BareJid, Jid};

use super::dispatch::{Answer, Request};
use super::envelope::{Xml, XmlWriter};
use super::forms::{self, Form};
use super::ns;
use super::outline::{Outline, Part};
use super::pubsub::{fields, node_of, only};
use crate::base::jid::read_jid;
use crate::domain::error::Refusal;
use crate::domain::node::{NodeAddress, NodeKind, NodeName};
use crate::domain::node_config::NodeConfig;
use crate::domain::subscription::{Affiliation, SubscriptionState};

pub(super) async fn get(r: Request) -> Answer {
    let o = r.outline()?;
    let verb = only(&o, &["configure", "default", "subscriptions", "affiliations"])?;
    match verb.name.as_str() {
        "configure" => configuration(r, verb).await,
        "default" => default(r).await,
        "subscriptions" => subscriptions(r, verb).await,
        _ => affiliations(r, verb).await,
    }
}

pub(super) async fn set(r: Request) -> Answer {
    let o = r.outline()?;
    let verb = only(&o, &["configure", "delete", "purge", "subscriptions", "affiliations"])?;
    let done = Ok(Xml::default());
    match verb.name.as_str() {
        "configure" => configure(r, &o, verb).await,
        "delete" => {
            let at = address(&r, verb)?;
            r.once(|r| async move { r.service().delete(r.turn, r.from, at).await.and(done) }).await
        }
        "purge" => {
            let at = address(&r, verb)?;
            r.once(|r| async move { r.service().purge(r.turn, r.from, at).await.and(done) }).await
        }
        "subscriptions" => {
            let (at, changes) = (address(&r, verb)?, subscription_changes(verb)?);
            r.service().set_subscriptions(r.turn, r.from, at, changes).await.and(done)
        }
        _ => {
            let (at, changes) = (address(&r, verb)?, affiliation_changes(verb)?);
            r.service().set_affiliations(r.turn, r.from, at, changes).await.and(done)
        }
    }
}

/// An owner's answer to a pending request, as it came in a message.
pub(super) struct Decision {
    node: NodeName,
    subscriber: Jid,
    subid: Option<String>,
    allow: bool,
}

impl Decision {
    /// `None`: a form of another kind.
    pub fn read(form: &Form) -> Option<Result<Decision, Refusal>> {
        if form.form_type.as_deref() != Some(ns::AUTHORIZATION) {
            return None;
        }
        let node = form.value("pubsub#node").and_then(|node| NodeName::parse(node).ok());
        let subscriber = form.value("pubsub#subscriber_jid").and_then(read_jid);
        // To cancel the form is to say no to nothing: the request stays pending.
        let allow = match (form.cancel, form.value("pubsub#allow")) {
            (false, Some("1" | "true")) => Some(true),
            (false, Some("0" | "false")) => Some(false),
            _ => None,
        };
        let (Some(node), Some(subscriber), Some(allow)) = (node, subscriber, allow) else {
            return Some(Err(Refusal::BadRequest));
        };
        Some(Ok(Decision { node, subscriber, subid: form.value("pubsub#subid").map(str::to_owned), allow }))
    }
}

/// Does as the owner decided.
pub(super) async fn decide(r: Request, d: Decision) -> Result<(), Refusal> {
    let at = NodeAddress { service: r.to.clone(), name: d.node };
    r.service().approve(r.turn, r.from, d.subscriber, at, d.subid, d.allow).await
}

fn address(r: &Request, verb: &Part) -> Result<NodeAddress, Refusal> {
    let name = node_of(verb).map_err(|_| Refusal::OwnerNodeNotFound)?;
    let missing = match verb.name.as_str() {
        "configure" => Refusal::ConfigureNodeIdRequired,
        _ => Refusal::NodeIdRequired,
    };
    Ok(NodeAddress { service: r.to.clone(), name: name.ok_or(missing)? })
}

// --- Configuration, §8.2 and §8.3

async fn configuration(r: Request, verb: &Part) -> Answer {
    let at = address(&r, verb)?;
    let node = at.name.clone();
    let config = r.service().configuration(r.turn, r.from, at).await?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::OWNER).open("configure", "").attr("node", node.as_str());
    forms::configuration(&mut w, &config);
    Ok(w.finish())
}

/// The defaults of the nodes that people make: leaf nodes.
async fn default(r: Request) -> Answer {
    r.service().entity(r.turn, r.to).await?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::OWNER).open("default", "");
    forms::configuration(&mut w, &NodeConfig::default_for(NodeKind::Leaf));
    Ok(w.finish())
}

async fn configure(r: Request, o: &Outline, verb: &Part) -> Answer {
    let at = address(&r, verb)?;
    let form = verb.child("x", ns::FORM).ok_or(Refusal::BadRequest)?;
    // §8.2.3: a cancelled form leaves everything as it is.
    if Form::read(&o.element(form)?)?.cancel {
        return Ok(Xml::default());
    }
    let fields = fields(o, Some(verb), &[ns::NODE_CONFIG])?;
    r.service().configure(r.turn, r.from, at, fields).await?;
    Ok(Xml::default())
}

// --- Subscriptions, §8.8

async fn subscriptions(r: Request, verb: &Part) -> Answer {
    let at = address(&r, verb)?;
    let node = at.name.clone();
    let found = r.service().subscriptions(r.turn, r.from, at).await?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::OWNER).open("subscriptions", "").attr("node", node.as_str());
    for s in &found {
        w.open("subscription", "").attr("jid", s.jid.as_str());
        w.attr("subscription", s.state.as_str()).attr("subid", &s.subid).close();
    }
    Ok(w.finish())
}

fn subscription_changes(verb: &Part) -> Result<Vec<(Jid, Option<SubscriptionState>)>, Refusal> {
    entries(verb, "subscription", |entry| {
        let state = match entry.attr("subscription")? {
            "none" => None,
            "pending" => Some(SubscriptionState::Pending),
            "subscribed" => Some(SubscriptionState::Subscribed),
            // `unconfigured` among them: no node here asks for configuration.
            _ => return None,
        };
        Some((read_jid(entry.attr("jid")?)?, state))
    })?
    .ok_or(Refusal::InvalidSubscriptionState)
}

// --- Affiliations, §8.9

async fn affiliations(r: Request, verb: &Part) -> Answer {
    let at = address(&r, verb)?;
    let node = at.name.clone();
    let found = r.service().affiliations(r.turn, r.from, at).await?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::OWNER).open("affiliations", "").attr("node", node.as_str());
    for (jid, affiliation) in &found {
        w.open("affiliation", "").attr("jid", jid.as_str()).attr("affiliation", affiliation.as_str()).close();
    }
    Ok(w.finish())
}

fn affiliation_changes(verb: &Part) -> Result<Vec<(BareJid, Affiliation)>, Refusal> {
    entries(verb, "affiliation", |entry| {
        let jid = read_jid(entry.attr("jid")?)?.to_bare();
        Some((jid, Affiliation::parse(entry.attr("affiliation")?)?))
    })?
    .ok_or(Refusal::InvalidAffiliation)
}

/// Reads the entries called `name`: `BadRequest` if there is none, `Ok(None)` if one cannot be used.
fn entries<T>(verb: &Part, name: &str, read: impl Fn(&Part) -> Option<T>) -> Result<Option<Vec<T>>, Refusal> {
    let mut entries = verb.own().filter(|part| part.name == name).peekable();
    if entries.peek().is_none() {
        return Err(Refusal::BadRequest);
    }
    Ok(entries.map(read).collect())
}
