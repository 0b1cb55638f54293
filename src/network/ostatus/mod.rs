//! OStatus: our feeds for HTTP subscribers (PubSubHubbub 0.3 and 0.4, WebSub). `hub` takes their requests, `send` asks
//! for their intent and brings them the topic.

pub mod hub;
mod send;
pub mod wish;

use std::sync::Arc;

use axum::Router;
use futures::FutureExt;
use futures::future::BoxFuture;
use url::Url;

use super::{Network, Plan, PlanPage, Report, Task};
use crate::domain::address::{LocalName, Whom};
use crate::domain::delivery::{Destination, Outcome};
use crate::domain::event::{Event, What};
use crate::domain::node::NodeKind;
use crate::http::client::Client;
use crate::service::Service;
use crate::service::topics::Topics;
use crate::store::{Read, kv};

/// The driver; cheap to clone.
#[derive(Clone)]
pub struct OStatus(Arc<Inner>);

struct Inner {
    service: Service,
    topics: Topics,
    client: Client,
    bounds: hub::Bounds,
}

impl OStatus {
    /// `topics` are those that the web serves: what is pushed is what stands there, byte for byte.
    pub fn new(service: Service, topics: Topics, client: Client) -> Self {
        OStatus(Arc::new(Inner { service, topics, client, bounds: hub::Bounds::default() }))
    }

    /// What it receives over HTTP: `POST /hub`.
    pub fn routes(&self) -> Router {
        hub::routes(self.clone())
    }
}

impl Inner {
    /// The account whose node an Event is of.
    fn account_of(&self, event: &Event) -> Option<LocalName> {
        match self.service.addresses.whom(&event.node.service)? {
            Whom::Local(name) => Some(name),
            _ => None,
        }
    }
}

impl Network for OStatus {
    fn name(&self) -> &'static str {
        "ostatus"
    }

    /// One delivery for each subscriber, of whatever changes the topic: WebSub sends its new state, so also after a
    /// retraction. Access and lease are asked when it is sent; a lease found over then ends the subscription.
    fn plan(&self, seq: u64, event: &Event, view: &dyn Read, cursor: &[u8], limit: usize) -> kv::Result<PlanPage> {
        if let What::Verify(intent) = &event.what {
            let plan = Plan { destination: Destination::Intent(seq), host: host_of(&intent.callback) };
            return Ok(PlanPage { plans: vec![plan], next: None });
        }
        if event.node.kind != NodeKind::Microblog || !changes_topic(event, view)? {
            return Ok(PlanPage::default());
        }
        let rows = view.hub_subscriptions(event.node.id, cursor, limit)?;
        let next = (rows.len() >= limit).then(|| rows.last().map(|(key, _)| key.clone())).flatten();
        let plans = rows
            .into_iter()
            .filter(|(_, subscription)| event.node_seq > subscription.born)
            .map(|(_, subscription)| Plan {
                destination: Destination::Hub(subscription.id),
                host: host_of(&subscription.callback),
            })
            .collect();
        Ok(PlanPage { plans, next })
    }

    fn owns(&self, destination: &Destination) -> bool {
        matches!(destination, Destination::Hub(_) | Destination::Intent(_))
    }

    fn deliver(&self, destination: Destination, tasks: Vec<Task>, report: Report) -> BoxFuture<'static, ()> {
        let inner = self.0.clone();
        async move {
            match destination {
                Destination::Hub(id) => send::distribute(&inner, id, &tasks, &report).await,
                Destination::Intent(_) => {
                    for task in &tasks {
                        report.ended(task.seq, send::verify(&inner, task).await);
                    }
                }
                Destination::Subscribers(_) | Destination::Jid(_) => {
                    for task in &tasks {
                        report.ended(task.seq, Outcome::Refused("not a destination of this network".to_owned()));
                    }
                }
            }
        }
        .boxed()
    }
}

fn changes_topic(event: &Event, view: &dyn Read) -> kv::Result<bool> {
    Ok(match &event.what {
        // What has no atom:id is the feed's own metadata, which is never shown (XEP-0277 §2.3).
        What::Published { item, .. } => view.item(event.node.id, item)?.is_none_or(|item| item.atom_id.is_some()),
        // What is deleted or closed ends the subscription, and that is told.
        What::Retracted { .. } | What::Purged | What::Deleted | What::Closed => true,
        _ => false,
    })
}

/// `host:port`, whose health gates all callbacks there.
fn host_of(callback: &str) -> Option<String> {
    let url = Url::parse(callback).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}
