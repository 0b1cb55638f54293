//! A Rookery without its component link: the use cases on the in-memory store, a clock that the test moves, and the
//! public side of HTTP, asked without a socket.
#![allow(dead_code)]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use jid::{BareJid, Jid};
use rookery::base::clock::{Clock, Timestamp};
use rookery::base::id::Ids;
use rookery::base::turn::Turn;
use rookery::domain::address::{Addresses, LocalName};
use rookery::domain::error::Refusal;
use rookery::domain::item::ItemId;
use rookery::domain::node::{NodeAddress, NodeName};
use rookery::http::client::{Client, Options};
use rookery::network::ostatus::OStatus;
use rookery::service::publish::{Payload, Publish};
use rookery::service::topics::Topics;
use rookery::service::{Quota, Registration, Rules, Service};
use rookery::store::Store;
use tower::ServiceExt;
use url::Url;

/// The public host; identities are at `example.org`, Jabber accounts too.
pub const PUBLIC: &str = "https://social.example.org";
pub const ALICE: &str = "alice@example.org";

pub struct House {
    pub service: Service,
    pub topics: Topics,
    pub ostatus: OStatus,
    pub clock: Clock,
    pub store: Store,
    pub web: Router,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

impl House {
    pub fn new() -> Self {
        Self::with(true)
    }

    /// `private`: whether callbacks may lead to this machine, as they must in tests of the hub.
    pub fn with(private: bool) -> Self {
        let clock = Clock::manual(Timestamp::from_secs(1_795_320_124));
        let store = Store::in_memory();
        let public = Url::parse(PUBLIC).unwrap();
        let addresses = Addresses::new(BareJid::new("social.example.org").unwrap(), &public, "example.org");
        let rules = Rules {
            registration: Registration::Hosts,
            auto_register_hosts: vec!["example.org".into()],
            admins: vec![],
            create_nodes_hosts: vec![],
            max_payload: 200_000,
            quota: Quota::default(),
        };
        let service = Service::new(store.clone(), addresses, rules, clock.clone(), Ids::seeded(7));
        let topics = Topics::new(service.clone());
        let client = Client::new(Options::new(public, private)).unwrap();
        let ostatus = OStatus::new(service.clone(), topics.clone(), client);
        let web = rookery::web::router(service.clone(), topics.clone()).merge(ostatus.routes());
        House { service, topics, ostatus, clock, store, web }
    }

    pub async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.web.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
        Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    /// Posts a form.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        self.ask(request.body(Body::from(body)).unwrap()).await
    }

    /// Publishes a text in alice's microblog.
    pub async fn publish(&self, item: &str, text: &str) {
        self.publish_as(ALICE, item, Payload::Text(text.to_owned())).await.unwrap();
    }

    pub async fn publish_xml(&self, item: &str, entry: &str) {
        let payload = Payload::Xml { raw: entry.to_owned().into(), scope: vec![] };
        self.publish_as(ALICE, item, payload).await.unwrap();
    }

    pub async fn publish_as(&self, owner: &str, item: &str, payload: Payload) -> Result<ItemId, Refusal> {
        let by = Jid::new(owner).unwrap();
        let name = by.node().unwrap().to_string();
        let publish = Publish {
            at: microblog(&name),
            by,
            item: Some(ItemId::parse(item).unwrap()),
            payload: Some(payload),
            options: vec![],
        };
        self.service.publish(Turn::free(), publish).await
    }

    pub async fn retract(&self, item: &str) {
        let items = vec![ItemId::parse(item).unwrap()];
        let by = Jid::new(ALICE).unwrap();
        self.service.retract(Turn::free(), by, microblog("alice"), items, true).await.unwrap();
    }

    pub async fn configure(&self, field: &str, value: &str) {
        let fields = vec![(field.to_owned(), vec![value.to_owned()])];
        self.service.configure(Turn::free(), Jid::new(ALICE).unwrap(), microblog("alice"), fields).await.unwrap();
    }

    pub async fn remove_account(&self) {
        self.service.remove_account(Turn::free(), LocalName::parse("alice").unwrap(), None).await.unwrap();
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

pub fn microblog(name: &str) -> NodeAddress {
    let service = BareJid::new(&format!("{name}@social.example.org")).unwrap();
    NodeAddress { service, name: NodeName::microblog() }
}
