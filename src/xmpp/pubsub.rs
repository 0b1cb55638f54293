//! What anybody may ask of a node (XEP-0060 §5.6, §5.7, §6, §7, and §8.1): requests read, answers written.

use jid::Jid;

use super::dispatch::{Answer, Request};
use super::envelope::{Xml, XmlWriter};
use super::forms::Form;
use super::outline::{Outline, Part};
use super::{ns, rsm};
use crate::base::jid::read_jid;
use crate::base::turn::Turn;
use crate::domain::error::{Over, Refusal};
use crate::domain::item::{ItemId, Page};
use crate::domain::node::{NodeAddress, NodeName};
use crate::domain::node_config::Fields;
use crate::service::publish::{Payload, Publish};
use crate::service::retract::RETRACT_MOST;
use crate::service::retrieve::{ITEMS_MOST, Items, Which};

pub(super) async fn get(r: Request) -> Answer {
    let o = r.outline()?;
    let verb = only(&o, &["items", "subscriptions", "affiliations", "options", "default"])?;
    match verb.name.as_str() {
        "items" => items(r, &o, verb).await,
        "subscriptions" => subscriptions(r, verb).await,
        "affiliations" => affiliations(r, verb).await,
        "options" => Err(Refusal::SubscriptionOptionsUnsupported),
        _ => Err(Refusal::DefaultOptionsUnsupported),
    }
}

pub(super) async fn set(r: Request) -> Answer {
    let o = r.outline()?;
    let verbs = ["publish", "retract", "create", "subscribe", "unsubscribe"];
    // `options` beside `subscribe` goes with it (§6.3.7); alone it is a verb.
    let verb = match only(&o, &verbs) {
        Err(Refusal::Unsupported) if o.root.child("options", ns::PUBSUB).is_some() => {
            return Err(Refusal::SubscriptionOptionsUnsupported);
        }
        verb => verb?,
    };
    match verb.name.as_str() {
        "publish" => {
            let publish = read_publish(&r, &o, verb)?;
            r.once(|r| do_publish(r, publish)).await
        }
        "retract" => {
            let (at, ids) = (address(&r, verb)?, ids(verb, RETRACT_MOST)?.ok_or(Refusal::RetractItemRequired)?);
            let notify = matches!(verb.attr("notify"), Some("1" | "true"));
            r.once(|r| async move {
                r.service().retract(r.turn, r.from, at, ids, notify).await?;
                Ok(Xml::default())
            })
            .await
        }
        "create" => {
            let (name, fields) = read_create(&o, verb)?;
            r.once(|r| do_create(r, name, fields)).await
        }
        "subscribe" => subscribe(r, &o, verb).await,
        _ => unsubscribe(r, verb).await,
    }
}

/// The one verb of a request, of those there are; `Unsupported` for another, `BadRequest` for several.
pub(super) fn only<'a>(o: &'a Outline, verbs: &[&str]) -> Result<&'a Part, Refusal> {
    let mut found = o.root.own().filter(|part| verbs.contains(&part.name.as_str()));
    match (found.next(), found.next()) {
        (Some(verb), None) => Ok(verb),
        (Some(_), Some(_)) => Err(Refusal::BadRequest),
        (None, _) if o.root.children.is_empty() => Err(Refusal::BadRequest),
        (None, _) => Err(Refusal::Unsupported),
    }
}

/// The node that a verb names; an empty name is none.
pub(super) fn node_of(verb: &Part) -> Result<Option<NodeName>, Refusal> {
    match verb.attr("node") {
        None | Some("") => Ok(None),
        Some(name) => NodeName::parse(name).map(Some).map_err(|_| Refusal::NodeNotFound),
    }
}

/// The address of the node that a verb must name.
fn address(r: &Request, verb: &Part) -> Result<NodeAddress, Refusal> {
    let name = node_of(verb)?.ok_or(Refusal::NodeIdRequired)?;
    Ok(NodeAddress { service: r.to.clone(), name })
}

/// The ids of a verb's items, at most so many; `None` if it has no item. Every item needs an id here.
fn ids(verb: &Part, most: usize) -> Result<Option<Vec<ItemId>>, Refusal> {
    let size = verb.own().filter(|part| part.name == "item").count();
    if size > most {
        return Err(Refusal::TooManyItems(Over { size, most }));
    }
    let mut ids = Vec::new();
    for item in verb.own().filter(|part| part.name == "item") {
        let id = item.attr("id").ok_or(Refusal::RetractItemRequired)?;
        // What can be no id names no item.
        ids.push(ItemId::parse(id).map_err(|_| Refusal::ItemNotFound)?);
    }
    Ok(Some(ids).filter(|ids| !ids.is_empty()))
}

/// The fields of the form in `parent`; none if there is no form. A FORM_TYPE may be missing, but not another's.
pub(super) fn fields(o: &Outline, parent: Option<&Part>, form_type: &[&str]) -> Result<Fields, Refusal> {
    let Some(part) = parent.and_then(|p| p.child("x", ns::FORM)) else { return Ok(Fields::new()) };
    let form = Form::read(&o.element(part)?)?;
    if form.form_type.as_deref().is_some_and(|given| !form_type.contains(&given)) {
        return Err(Refusal::InvalidOptions);
    }
    // XEP-0248 nodes are not made here, whichever way they are asked for.
    if form.value("pubsub#node_type").is_some_and(|type_| type_ != "leaf") {
        return Err(Refusal::CollectionsUnsupported);
    }
    Ok(form.fields)
}

// --- Items, §6.5

async fn items(r: Request, o: &Outline, verb: &Part) -> Answer {
    let at = address(&r, verb)?;
    let which = which(o, verb)?;
    let (service, node) = (r.service(), at.name.clone());
    let mut turn = r.turn;
    if let Some(subid) = verb.attr("subid") {
        let turn = std::mem::replace(&mut turn, Turn::free());
        let own = service.own_subscriptions(turn, r.from.clone(), r.to, Some(node.clone())).await?;
        if !own.iter().any(|(_, subscription)| subscription.subid == subid) {
            return Err(Refusal::InvalidSubid);
        }
    }
    let page = matches!(which, Which::Page(_));
    let from_the_end = match &which {
        Which::Newest(_) => true,
        Which::Page(page) => page.after.is_none() && page.before.is_some(),
        Which::Ids(_) => false,
    };
    let by_id = matches!(which, Which::Ids(_));
    let mut found = service.items(turn, r.from, at, which).await?;
    fit(&mut found, r.edge.gate().limits().answer_bytes.saturating_sub(8_192), from_the_end);
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::PUBSUB).open("items", "").attr("node", node.as_str());
    for (item, payload) in &found.items {
        w.open("item", "").attr("id", item.id.as_str()).attr("publisher", item.author.as_str());
        // The store's own canonical bytes, which declare all they need.
        w.xml(&Xml::canonical(payload.clone())).close();
    }
    w.close();
    // §6.5.4: an answer that is not the whole of what was asked for says so, so that the client can go on.
    if page || (!found.complete && !by_id) {
        let end = |item: Option<&(crate::domain::item::Item, bytes::Bytes)>| item.map(|(item, _)| item.id.clone());
        let (first, last) = (end(found.items.first()), end(found.items.last()));
        let given = rsm::Given {
            first: first.as_ref().map(ItemId::as_str),
            index: found.first_index,
            last: last.as_ref().map(ItemId::as_str),
            count: Some(found.total),
        };
        rsm::write(&mut w, given);
    }
    Ok(w.finish())
}

fn which(o: &Outline, verb: &Part) -> Result<Which, Refusal> {
    let max_items = match verb.attr("max_items") {
        Some(n) => Some(n.parse::<usize>().map_err(|_| Refusal::BadRequest)?),
        None => None,
    };
    if let Some(ids) = ids(verb, ITEMS_MOST)? {
        return Ok(Which::Ids(ids));
    }
    let Some(set) = o.root.child("set", ns::RSM) else { return Ok(Which::Newest(max_items)) };
    let page = rsm::read(&o.element(set)?)?;
    let max = match (page.max, max_items) {
        (Some(page), Some(items)) => Some(page.min(items)),
        (page, items) => page.or(items),
    };
    Ok(Which::Page(Page { max, ..page }))
}

/// Leaves out what would make the answer too big for the link, at the end where the client can go on. One item stays:
/// should even that be too big, the asker is told so, and does not take the node for an empty one.
fn fit(found: &mut Items, most: usize, from_the_end: bool) {
    // Escaped, a character of an id or address takes up to six.
    let sizes: Vec<usize> = found
        .items
        .iter()
        .map(|(item, payload)| payload.len() + 64 + 6 * (item.id.as_str().len() + item.author.as_str().len()))
        .collect();
    let mut total = 0usize;
    let mut fits = |size: &&usize| {
        total += **size;
        total <= most
    };
    let kept = match from_the_end {
        true => sizes.iter().rev().take_while(&mut fits).count(),
        false => sizes.iter().take_while(&mut fits).count(),
    };
    let kept = kept.max(1);
    if kept < found.items.len() {
        found.complete = false;
        match from_the_end {
            true => drop(found.items.drain(..found.items.len() - kept)),
            false => found.items.truncate(kept),
        }
    }
}

// --- One's own relations, §5.6 and §5.7

async fn subscriptions(r: Request, verb: &Part) -> Answer {
    let node = node_of(verb)?;
    let service = r.service();
    let found = service.own_subscriptions(r.turn, r.from, r.to, node.clone()).await?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::PUBSUB).open("subscriptions", "");
    if let Some(node) = &node {
        w.attr("node", node.as_str());
    }
    for (name, s) in &found {
        w.open("subscription", "").attr("node", name.as_str()).attr("jid", s.jid.as_str());
        w.attr("subscription", s.state.as_str()).attr("subid", &s.subid).close();
    }
    Ok(w.finish())
}

async fn affiliations(r: Request, verb: &Part) -> Answer {
    let node = node_of(verb)?;
    let service = r.service();
    let found = service.own_affiliations(r.turn, r.from, r.to, node.clone()).await?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::PUBSUB).open("affiliations", "");
    if let Some(node) = &node {
        w.attr("node", node.as_str());
    }
    for (name, affiliation) in &found {
        w.open("affiliation", "").attr("node", name.as_str()).attr("affiliation", affiliation.as_str()).close();
    }
    Ok(w.finish())
}

// --- Publish, §7.1

fn read_publish(r: &Request, o: &Outline, verb: &Part) -> Result<Publish, Refusal> {
    let name = node_of(verb).map_err(|_| Refusal::PublishNodeNotFound)?.ok_or(Refusal::NodeIdRequired)?;
    let at = NodeAddress { service: r.to.clone(), name };
    let mut items = verb.own().filter(|part| part.name == "item");
    let (item, more) = (items.next(), items.next());
    if more.is_some() {
        return Err(Refusal::ItemRequired);
    }
    let id = match item.and_then(|item| item.attr("id")) {
        None | Some("") => None,
        Some(id) if id.len() > ItemId::BYTES_MOST => {
            return Err(Refusal::ItemIdTooLong(Over { size: id.len(), most: ItemId::BYTES_MOST }));
        }
        Some(id) => Some(ItemId::parse(id).map_err(|_| Refusal::InvalidItemId)?),
    };
    // §7.1.3.6: an item has one payload element, and nothing beside it.
    let payload = match item.map(|item| (item, item.children.as_slice())) {
        None => None,
        Some((item, _)) if item.text => return Err(Refusal::InvalidPayload),
        Some((_, [])) => None,
        // An element that does not say whose it is would become ours wherever it is spliced in.
        Some((_, [payload])) if payload.ns.is_empty() || *payload.ns == *ns::PUBSUB => {
            return Err(Refusal::InvalidPayload);
        }
        Some((_, [payload])) => {
            let (raw, scope) = o.cut(payload);
            Some(Payload::Xml { raw, scope })
        }
        Some(_) => return Err(Refusal::InvalidPayload),
    };
    let form_types = [ns::PUBLISH_OPTIONS, ns::NODE_CONFIG];
    let options = fields(o, o.root.child("publish-options", ns::PUBSUB), &form_types)?;
    Ok(Publish { by: r.from.clone(), at, item: id, payload, options })
}

async fn do_publish(r: Request, publish: Publish) -> Answer {
    let nothing = publish.item.is_none() && publish.payload.is_none();
    let node = publish.at.name.clone();
    let id = r.service().publish(r.turn, publish).await.map_err(|refusal| match refusal {
        // §7.1.3.6: no item at all is another mistake than an item without a payload.
        Refusal::PayloadRequired if nothing => Refusal::ItemRequired,
        other => other,
    })?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::PUBSUB).open("publish", "").attr("node", node.as_str());
    w.open("item", "").attr("id", id.as_str());
    Ok(w.finish())
}

// --- Create, §8.1

fn read_create(o: &Outline, verb: &Part) -> Result<(Option<NodeName>, Fields), Refusal> {
    if verb.attr("type").is_some_and(|type_| type_ != "leaf") {
        return Err(Refusal::CollectionsUnsupported);
    }
    let name = node_of(verb).map_err(|_| Refusal::InvalidNodeName)?;
    Ok((name, fields(o, o.root.child("configure", ns::PUBSUB), &[ns::NODE_CONFIG])?))
}

async fn do_create(r: Request, name: Option<NodeName>, fields: Fields) -> Answer {
    let name = r.service().create(r.turn, r.from, r.to, name, fields).await?;
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::PUBSUB).open("create", "").attr("node", name.as_str());
    Ok(w.finish())
}

// --- Subscribe and unsubscribe, §6.1 and §6.2

async fn subscribe(r: Request, o: &Outline, verb: &Part) -> Answer {
    let at = address(&r, verb)?;
    let jid = subscriber(verb).ok_or(Refusal::SubscriberNotSender)?;
    // §6.3.7: options that nobody would keep to are refused before they are relied on.
    let options = o.root.child("options", ns::PUBSUB);
    let wanted = match options.and_then(|options| options.child("x", ns::FORM)) {
        Some(form) => Form::read(&o.element(form)?)?.fields,
        None => Fields::new(),
    };
    if !wanted.is_empty() {
        return Err(Refusal::SubscriptionOptionsUnsupported);
    }
    let node = at.name.clone();
    let s = r.service().subscribe(r.turn, r.from, jid, at).await?;
    Ok(subscription(&node, &s.jid, Some(&s.subid), s.state.as_str()))
}

async fn unsubscribe(r: Request, verb: &Part) -> Answer {
    let at = address(&r, verb)?;
    let jid = subscriber(verb).ok_or(Refusal::SubscriberNotSender)?;
    let subid = verb.attr("subid").map(str::to_owned);
    let node = at.name.clone();
    r.service().unsubscribe(r.turn, r.from, jid.clone(), at, subid.clone()).await?;
    Ok(subscription(&node, &jid, subid.as_deref(), "none"))
}

fn subscriber(verb: &Part) -> Option<Jid> {
    verb.attr("jid").and_then(read_jid)
}

fn subscription(node: &NodeName, jid: &Jid, subid: Option<&str>, state: &str) -> Xml {
    let mut w = XmlWriter::new();
    w.open("pubsub", ns::PUBSUB).open("subscription", "").attr("node", node.as_str()).attr("jid", jid.as_str());
    if let Some(subid) = subid {
        w.attr("subid", subid);
    }
    w.attr("subscription", state);
    w.finish()
}
