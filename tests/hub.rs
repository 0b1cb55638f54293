//! The hub, with the real queue, and subscribers on loopback: the list of websub.rocks (hub 100 to 106, publisher P1 to
//! P6), the older PubSubHubbub, and what must not happen.

#[path = "support/house.rs"]
mod house;

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{self, Algorithm};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use house::{House, PUBLIC, microblog};
use rookery::base::id::Ids;
use rookery::base::shutdown::{self, Phase, Trigger};
use rookery::base::turn::Turn;
use rookery::domain::event::{Event, NodeRef, What};
use rookery::domain::hub::{HubSubscription, Intent, Mode};
use rookery::format::atom;
use rookery::format::canonical::{Canonical, Limits};
use rookery::http::client::resolve::{Lookup, Resolver};
use rookery::http::client::{Client, Options};
use rookery::network::Network;
use rookery::network::ostatus::OStatus;
use rookery::queue::Queue;
use rookery::service::{HubQuota, Quota, Rules, hub};
use rookery::store::tables::HubTally;
use rookery::store::{Lane, Read};
use tokio::net::TcpListener;

const TOPIC: &str = "https://social.example.org/@alice.atom";

type Form<'a> = &'a [(&'a str, &'a str)];

// ---- the subscriber ----

/// How a callback behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Confirms, and takes what comes.
    Good,
    /// Confirms with something else.
    WrongChallenge,
    /// Confirms with the challenge and a line's end.
    ChallengeAndMore,
    /// Answers questions and pushes with this status.
    Status(u16),
    /// Confirms, and answers pushes with this status.
    PushStatus(u16),
    /// Confirms; sends pushes to `/elsewhere`.
    Redirects,
    RedirectsQuestion,
    /// Confirms; answers pushes with 503 and a time.
    Busy,
    /// Confirms; answers pushes with this status and no time at all.
    Hasty(u16),
    /// Answers questions with 503 and a time.
    BusyQuestion,
}

#[derive(Clone, Debug)]
struct Got {
    path: String,
    method: Method,
    query: HashMap<String, String>,
    raw_query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    fn titles(&self) -> Vec<String> {
        let document = Canonical::new(&self.body, &[], &Limits::DOCUMENT).unwrap();
        let (_, entries) = atom::read_feed(&document, 100).unwrap();
        entries.iter().map(|entry| atom::read_entry(entry).unwrap().title.unwrap()).collect()
    }
}

#[derive(Clone, Default)]
struct Log {
    got: Arc<Mutex<Vec<Got>>>,
    manners: Arc<Mutex<HashMap<String, Manner>>>,
}

struct Site {
    address: SocketAddr,
    log: Log,
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let app = Router::new().fallback(answer).with_state(log.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Site { address, log }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn set(&self, path: &str, manner: Manner) {
        self.log.manners.lock().unwrap().insert(path.to_owned(), manner);
    }

    fn all(&self, path: &str, method: Method) -> Vec<Got> {
        let got = self.log.got.lock().unwrap();
        got.iter().filter(|got| got.path == path && got.method == method).cloned().collect()
    }

    fn questions(&self, path: &str) -> Vec<Got> {
        self.all(path, Method::GET)
    }

    fn pushes(&self, path: &str) -> Vec<Got> {
        self.all(path, Method::POST)
    }

    async fn questions_come(&self, count: usize) {
        until("the questions", async || self.questions("/cb").len() >= count).await;
    }
}

async fn answer(State(log): State<Log>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let raw_query = uri.query().unwrap_or_default().to_owned();
    let query: HashMap<_, _> = url::form_urlencoded::parse(raw_query.as_bytes()).into_owned().collect();
    let challenge = query.get("hub.challenge").cloned().unwrap_or_default();
    let path = uri.path().to_owned();
    let manner = log.manners.lock().unwrap().get(&path).copied().unwrap_or(Manner::Good);
    let asks = method == Method::GET;
    log.got.lock().unwrap().push(Got { path, method, query, raw_query, headers, body });
    let status = |status| StatusCode::from_u16(status).unwrap().into_response();
    let redirect = || (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response();
    match (manner, asks) {
        (Manner::Status(n), _) | (Manner::PushStatus(n), false) => status(n),
        (Manner::Busy, false) | (Manner::BusyQuestion, true) => {
            (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "100")]).into_response()
        }
        (Manner::Hasty(status), false) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", "0")]).into_response()
        }
        (Manner::WrongChallenge, true) => "WRONG".into_response(),
        (Manner::ChallengeAndMore, true) => format!("{challenge}\n").into_response(),
        (Manner::RedirectsQuestion, true) | (Manner::Redirects, false) => redirect(),
        (_, true) => challenge.into_response(),
        (_, false) => status(204),
    }
}

// ---- the world ----

struct World {
    house: House,
    site: Site,
    queue: Option<Queue>,
    trigger: Trigger,
}

impl World {
    async fn new() -> Self {
        let house = House::new();
        house.publish("zero", "Before anybody listened").await;
        let (queue, trigger) = start_queue(&house);
        World { house, site: Site::start().await, queue: Some(queue), trigger }
    }

    async fn ask(&self, mode: &str, callback: &str, more: &[(&str, &str)]) -> house::Answer {
        let callback = self.site.url(callback);
        let base = [("hub.mode", mode), ("hub.topic", TOPIC), ("hub.callback", &callback)];
        self.house.post("/hub", &[base.as_slice(), more].concat()).await
    }

    /// Subscribes `callback` and waits until it is confirmed.
    async fn subscribe(&self, callback: &str, more: &[(&str, &str)]) {
        let answer = self.ask("subscribe", callback, more).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (202, ""));
        until("a confirmed subscription", async || self.subscription(callback).await.is_some()).await;
    }

    async fn subscription(&self, callback: &str) -> Option<HubSubscription> {
        let callback = self.site.url(callback);
        let read = self.house.store.read(move |r| {
            let at = microblog("alice");
            let node = r.node_named(&at.service, &at.name)?.unwrap();
            r.hub_subscription(node.id, &callback)
        });
        read.await.unwrap()
    }

    async fn pushes(&self, callback: &str, count: usize) -> Vec<Got> {
        until("a push", async || self.site.pushes(callback).len() >= count).await;
        self.site.pushes(callback)
    }

    async fn questions(&self, callback: &str, count: usize) -> Vec<Got> {
        until("a question", async || self.site.questions(callback).len() >= count).await;
        self.site.questions(callback)
    }

    /// The reason of the denial that comes as the second question to a callback.
    async fn denied(&self, callback: &str) -> String {
        let query = self.questions(callback, 2).await.remove(1).query;
        assert_eq!((query["hub.mode"].as_str(), query["hub.topic"].as_str()), ("denied", TOPIC));
        assert!(!query.contains_key("hub.challenge"));
        query["hub.reason"].clone()
    }

    /// Until the queue has nothing left to do at this time.
    async fn quiet(&self) {
        until("a quiet queue", async || {
            // Events first: what leaves them between the two reads stands at a destination then.
            let left = self.house.store.read(|r| {
                let events = !r.events(0, 1)?.is_empty();
                Ok(events || r.destinations(&[], 1000)?.iter().any(|(_, d)| d.waiting > 0))
            });
            !left.await.unwrap()
        })
        .await;
    }
}

fn start_queue(house: &House) -> (Queue, Trigger) {
    let (trigger, shutdown) = shutdown::channel();
    let networks: Vec<Arc<dyn Network>> = vec![Arc::new(house.ostatus.clone())];
    (Queue::start(house.store.clone(), networks, house.clock.clone(), Ids::seeded(9), shutdown), trigger)
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come within 30 s");
}

/// HMAC by its definition (RFC 2104), with nothing of the house's own.
fn hmac(algorithm: &'static Algorithm, key: &[u8], body: &[u8]) -> String {
    assert!(key.len() <= 64);
    let pad = |byte: u8| (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ byte).collect::<Vec<u8>>();
    let inner = digest::digest(algorithm, &[pad(0x36), body.to_vec()].concat());
    let outer = digest::digest(algorithm, &[pad(0x5c), inner.as_ref().to_vec()].concat());
    outer.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

// ---- publisher P1 to P6, hub 100 to 106 ----

#[tokio::test]
async fn publisher_p1_to_p6_and_hub_100_the_topic_names_its_hub_and_is_pushed_byte_for_byte() {
    let world = World::new().await;
    let topic = world.house.get("/@alice.atom").await;
    let links = topic.header("link").to_owned();
    assert_eq!(links, format!("<{PUBLIC}/hub>; rel=\"hub\", <{TOPIC}>; rel=\"self\""), "P1, P2");
    world.subscribe("/cb", &[]).await;
    let question = world.questions("/cb", 1).await.remove(0);
    let query = &question.query;
    assert_eq!((query["hub.mode"].as_str(), query["hub.topic"].as_str()), ("subscribe", TOPIC), "P5");
    assert_eq!(query["hub.lease_seconds"], "864000");
    assert!(query["hub.challenge"].len() >= 32 && query["hub.challenge"].bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(!query.contains_key("hub.verify_token"));

    world.house.publish("one", "Now somebody listens").await;
    let push = world.pushes("/cb", 1).await.remove(0);
    let topic = world.house.get("/@alice.atom").await;
    assert_eq!(push.body, topic.body.as_bytes(), "WebSub §7: the whole topic");
    assert_eq!(push.header("content-type"), topic.header("content-type"), "P6: the topic's own type");
    assert_eq!(push.header("content-type"), "application/atom+xml");
    assert_eq!(push.header("link"), links);
    assert_eq!(push.header("x-hub-signature"), "", "without a secret there is no signature");
    assert_eq!(push.titles(), ["Now somebody listens", "Before anybody listened"]);
}

#[tokio::test]
async fn hub_101_and_102_a_secret_signs_by_sha256_and_unknown_parameters_are_passed_over() {
    let world = World::new().await;
    world.subscribe("/cb", &[("hub.secret", "a rose"), ("hub.foo", "bar")]).await;
    world.house.publish("one", "Signed").await;
    let push = world.pushes("/cb", 1).await.remove(0);
    let expected = format!("sha256={}", hmac(&digest::SHA256, b"a rose", &push.body));
    assert_eq!(push.header("x-hub-signature"), expected);
}

#[tokio::test]
async fn hub_103_a_renewal_changes_the_subscription_and_keeps_exactly_one_delivery() {
    let world = World::new().await;
    world.subscribe("/cb", &[("hub.secret", "old")]).await;
    let first = world.subscription("/cb").await.unwrap();
    world.house.advance(1000);
    world.ask("subscribe", "/cb", &[("hub.secret", "new"), ("hub.lease_seconds", "86400")]).await;
    until("the renewal", async || world.subscription("/cb").await.unwrap().secret.as_deref() == Some("new")).await;
    let second = world.subscription("/cb").await.unwrap();
    assert_eq!((second.id, second.born), (first.id, first.born));
    assert_eq!(second.until, world.house.clock.now().plus(Duration::from_secs(86_400)));
    world.house.publish("one", "Once").await;
    let push = world.pushes("/cb", 1).await.remove(0);
    assert_eq!(push.header("x-hub-signature"), format!("sha256={}", hmac(&digest::SHA256, b"new", &push.body)));
    world.quiet().await;
    assert_eq!(world.site.pushes("/cb").len(), 1);
}

#[tokio::test]
async fn an_older_intent_that_is_verified_late_does_not_undo_a_newer_one() {
    let world = World::new().await;
    world.subscribe("/cb", &[("hub.secret", "newest")]).await;
    let there = world.subscription("/cb").await.unwrap();
    assert!(there.intent > 1);
    let verified = async |mode, secret: &str, seq| {
        let (callback, topic, digest) = (there.callback.clone(), there.topic.clone(), there.digest);
        let (secret, lease_seconds, now) = (Some(secret.to_owned()), 300, world.house.clock.now());
        let (challenge, verify_token) = (String::new(), None);
        let intent = Intent { mode, topic, callback, secret, lease_seconds, challenge, verify_token, digest };
        let confirm = world.house.store.commit(Lane::Background, move |tx| {
            let at = microblog("alice");
            let node = tx.read().node_named(&at.service, &at.name)?.unwrap();
            let node = NodeRef { id: node.id, service: node.service, name: node.name, kind: node.kind };
            Ok(Ok::<(), ()>(hub::confirm(tx, &node, &intent, seq, now)?))
        });
        confirm.await.unwrap().unwrap();
        world.subscription("/cb").await
    };
    for mode in [Mode::Subscribe, Mode::Unsubscribe] {
        assert_eq!(verified(mode, "older", there.intent - 1).await.as_ref(), Some(&there), "{mode:?}");
    }
    // Twice the same is not older.
    let again = verified(Mode::Subscribe, "newest", there.intent).await.unwrap();
    assert_eq!((again.intent, again.secret), (there.intent, there.secret.clone()));
    assert_eq!(verified(Mode::Unsubscribe, "", there.intent + 1).await, None);
}

#[tokio::test]
async fn hub_104_who_unsubscribes_is_asked_and_then_left_alone() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    assert_eq!(world.ask("unsubscribe", "/cb", &[]).await.status, 202);
    until("the end", async || world.subscription("/cb").await.is_none()).await;
    let question = world.questions("/cb", 2).await.remove(1);
    assert_eq!(question.query["hub.mode"], "unsubscribe");
    assert!(!question.query.contains_key("hub.lease_seconds"));
    world.house.publish("one", "To nobody").await;
    world.quiet().await;
    assert!(world.site.pushes("/cb").is_empty());
}

#[tokio::test]
async fn an_unsubscribe_that_the_callback_did_not_mean_changes_nothing() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.site.set("/cb", Manner::WrongChallenge);
    world.ask("unsubscribe", "/cb", &[]).await;
    world.questions("/cb", 2).await;
    world.quiet().await;
    assert!(world.subscription("/cb").await.is_some());
}

// ---- intent ----

#[tokio::test]
async fn a_callback_that_does_not_answer_with_the_challenge_is_never_pushed_to() {
    let world = World::new().await;
    let liars = [
        ("/wrong", Manner::WrongChallenge),
        ("/more", Manner::ChallengeAndMore),
        ("/404", Manner::Status(404)),
        ("/204", Manner::Status(204)),
        ("/redirects", Manner::RedirectsQuestion),
    ];
    for (path, manner) in liars {
        world.site.set(path, manner);
        assert_eq!(world.ask("subscribe", path, &[]).await.status, 202);
        world.questions(path, 1).await;
    }
    world.quiet().await;
    world.house.publish("one", "Not for you").await;
    world.quiet().await;
    for (path, _) in liars {
        assert!(world.subscription(path).await.is_none(), "{path}");
        assert!(world.site.pushes(path).is_empty(), "{path}");
        assert_eq!(world.site.questions(path).len(), 1, "{path}: asked once");
    }
    assert!(world.site.all("/elsewhere", Method::GET).is_empty(), "a redirect is not followed");
}

#[tokio::test]
async fn a_callback_in_trouble_is_asked_again_later() {
    let world = World::new().await;
    world.site.set("/cb", Manner::Status(500));
    world.ask("subscribe", "/cb", &[]).await;
    world.questions("/cb", 1).await;
    world.site.set("/cb", Manner::Good);
    until("a second question", async || {
        world.house.advance(1);
        world.site.questions("/cb").len() >= 2
    })
    .await;
    until("a subscription", async || world.subscription("/cb").await.is_some()).await;
}

#[tokio::test]
async fn a_callbacks_own_query_stays_and_a_verify_token_is_echoed_push_0_3() {
    let world = World::new().await;
    let callback = world.site.url("/cb?id=7&x=%C3%A9");
    let form = [
        ("hub.mode", "subscribe"),
        ("hub.topic", TOPIC),
        ("hub.callback", &callback),
        ("hub.verify", "async"),
        ("hub.verify", "sync"),
        ("hub.verify_token", "tok&en"),
        ("hub.secret", "s3"),
        ("hub.lease_seconds", ""),
    ];
    assert_eq!(world.house.post("/hub", &form).await.status, 202);
    let question = world.questions("/cb", 1).await.remove(0);
    assert!(question.raw_query.starts_with("id=7&x=%C3%A9&hub.mode=subscribe&"), "{}", question.raw_query);
    assert_eq!(question.query["hub.verify_token"], "tok&en");
    world.quiet().await;
    world.house.publish("one", "For an older peer").await;
    let push = world.pushes("/cb", 1).await.remove(0);
    let expected = format!("sha1={}", hmac(&digest::SHA1_FOR_LEGACY_USE_ONLY, b"s3", &push.body));
    assert_eq!(push.header("x-hub-signature"), expected, "PuSH 0.3 and 0.4 know only sha1");
    assert_eq!(push.raw_query, "id=7&x=%C3%A9");
}

#[tokio::test]
async fn a_lease_that_has_ended_is_not_served() {
    let world = World::new().await;
    world.subscribe("/cb", &[("hub.lease_seconds", "300")]).await;
    world.house.advance(299);
    world.house.publish("one", "In time").await;
    world.pushes("/cb", 1).await;
    world.quiet().await;
    world.house.advance(1);
    world.house.publish("two", "Too late").await;
    world.quiet().await;
    assert_eq!(world.site.pushes("/cb").len(), 1);
    assert!(world.subscription("/cb").await.is_none(), "WebSub §5.1: it ends with its lease");
}

#[tokio::test]
async fn planning_takes_big_audiences_in_pages_and_leaves_out_who_came_later() {
    let world = World::new().await;
    for n in 0..5 {
        world.subscribe(&format!("/cb{n}"), &[]).await;
    }
    let born = world.subscription("/cb0").await.unwrap().born;
    let network = world.house.ostatus.clone();
    let plan = |node_seq: u64| {
        let (network, store) = (network.clone(), world.house.store.clone());
        let read = move |r: &dyn Read| {
            let at = microblog("alice");
            let node = r.node_named(&at.service, &at.name)?.unwrap();
            let event = Event {
                at: node.created,
                node: NodeRef { id: node.id, service: node.service, name: node.name, kind: node.kind },
                node_seq,
                what: What::Purged,
            };
            let (mut found, mut cursor) = (Vec::new(), Vec::new());
            for pages in 1.. {
                let page = network.plan(1, &event, r, &cursor, 2)?;
                found.extend(page.plans.into_iter().map(|plan| (plan.destination, plan.host.unwrap())));
                match page.next {
                    Some(next) => cursor = next,
                    None => return Ok((found, pages)),
                }
            }
            unreachable!()
        };
        async move { store.read(read).await.unwrap() }
    };
    let (found, pages) = plan(born + 1).await;
    assert_eq!((found.iter().collect::<BTreeSet<_>>().len(), pages), (5, 3));
    assert!(found.iter().all(|(_, host)| *host == world.site.address.to_string()));
    // What was before a subscription is not sent to it.
    assert!(plan(born).await.0.is_empty());
}

// ---- requests that are refused ----

#[tokio::test]
async fn what_cannot_be_had_is_refused_in_words() {
    let world = World::new().await;
    let good = world.site.url("/cb");
    let long = "s".repeat(200);
    let cases: &[(Form<'_>, u16, &str)] = &[
        (&[("hub.topic", TOPIC), ("hub.callback", &good)], 400, "hub.mode is missing"),
        (&[("hub.mode", "subscribe"), ("hub.topic", TOPIC)], 400, "hub.callback is missing"),
        (&[("hub.mode", "subscribe"), ("hub.callback", &good)], 400, "hub.topic is missing"),
        (
            &[("hub.mode", "subscribe"), ("hub.topic", TOPIC), ("hub.callback", &good), ("hub.secret", &long)],
            400,
            "200 bytes",
        ),
        (
            &[
                ("hub.mode", "subscribe"),
                ("hub.topic", "https://social.example.org/@bob.atom"),
                ("hub.callback", &good),
            ],
            404,
            "hub.topic",
        ),
        (
            &[("hub.mode", "subscribe"), ("hub.topic", "https://elsewhere.example/feed"), ("hub.callback", &good)],
            404,
            "hub.topic",
        ),
        (
            &[("hub.mode", "subscribe"), ("hub.topic", TOPIC), ("hub.callback", "http://a:b@c.example/")],
            400,
            "credentials",
        ),
        (&[("hub.mode", "subscribe"), ("hub.topic", TOPIC), ("hub.callback", "http://c.example:22/")], 400, "port"),
    ];
    for (form, status, words) in cases {
        let answer = world.house.post("/hub", form).await;
        assert_eq!(answer.status, *status, "{form:?}: {}", answer.body);
        assert!(answer.body.contains(words), "{form:?}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
    let json = axum::http::Request::post("/hub").header("content-type", "application/json");
    assert_eq!(world.house.ask(json.body("{}".into()).unwrap()).await.status, 415);
    let huge = "x".repeat(20_000);
    assert_eq!(world.house.post("/hub", &[("hub.mode", &huge)]).await.status, 413);
    assert_eq!(world.house.get("/hub").await.status, 405);
    world.quiet().await;
    assert!(world.site.log.got.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_callback_in_our_own_network_is_refused_unless_the_administrator_allows_it() {
    let house = House::with(false);
    house.publish("zero", "Hello").await;
    for callback in [
        "http://127.0.0.1/cb",
        "http://localhost/cb",
        "http://2130706433/cb",
        "http://[::1]/cb",
        "http://[::ffff:10.0.0.1]/cb",
        "http://192.168.1.1/cb",
        "http://169.254.169.254/latest/meta-data/",
        "http://intranet/cb",
    ] {
        let form = [("hub.mode", "subscribe"), ("hub.topic", TOPIC), ("hub.callback", callback)];
        let answer = house.post("/hub", &form).await;
        assert_eq!(answer.status, 400, "{callback}: {}", answer.body);
        assert!(answer.body.contains("hub.callback cannot be used"), "{callback}: {}", answer.body);
    }
}

#[tokio::test]
async fn requests_for_one_host_are_bounded_and_told_when_to_come_back() {
    let world = World::new().await;
    world.subscribe("/known", &[]).await;
    let mut taken = 0;
    let refused = loop {
        let answer = world.ask("subscribe", &format!("/cb{taken}"), &[]).await;
        if answer.status != 202 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "no bound");
    };
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "1"));
    // Who is subscribed renews all the same, though not without end: anybody may ask in its name.
    for status in [202, 202, 202, 202, 202, 429] {
        assert_eq!(world.ask("subscribe", "/known", &[]).await.status, status);
    }
    // A bound is one of time, and not of what the machine's clock is set to.
    world.house.clock.set_forward(Duration::from_secs(86_400));
    assert_eq!(world.ask("subscribe", "/again", &[]).await.status, 429);
    world.house.clock.set_back(Duration::from_secs(2 * 86_400));
    world.house.advance(1);
    assert_eq!(world.ask("subscribe", "/again", &[]).await.status, 202);
}

/// Answers each look-up with what `answer` makes of the name's number (`n7.reader.example`) and how often it was asked.
struct Dns {
    asked: Mutex<HashMap<String, usize>>,
    answer: fn(u16, usize) -> Ipv4Addr,
}

impl Resolver for Dns {
    fn lookup(&self, name: &str) -> Lookup {
        let mut asked = self.asked.lock().unwrap();
        let times = asked.entry(name.to_owned()).or_default();
        *times += 1;
        let number = name.trim_start_matches('n').split('.').next().unwrap().parse::<u16>().unwrap();
        let address = (self.answer)(number, *times);
        // A name that leads nowhere.
        if address.is_unspecified() {
            return Box::pin(async { Err(std::io::Error::other("no such name")) });
        }
        Box::pin(async move { Ok(vec![address.into()]) })
    }
}

/// A hub whose callbacks' names are looked up so, and the queue behind it.
fn hub_with(house: &House, answer: fn(u16, usize) -> Ipv4Addr) -> (Router, Queue, Trigger) {
    let dns = Arc::new(Dns { asked: Mutex::default(), answer });
    let options = Options { resolver: dns, ..Options::new(PUBLIC.parse().unwrap(), true) };
    let ostatus = OStatus::new(house.service.clone(), house.topics.clone(), Client::new(options).unwrap());
    let (trigger, shutdown) = shutdown::channel();
    let networks: Vec<Arc<dyn Network>> = vec![Arc::new(ostatus.clone())];
    let queue = Queue::start(house.store.clone(), networks, house.clock.clone(), Ids::seeded(9), shutdown);
    (ostatus.routes(), queue, trigger)
}

/// Asks for a subscription of `names` names that lead to the port of `site`; the answers' status, and the last one.
async fn ask_by_names(house: &mut House, hub: Router, site: &Site, names: u16) -> (Vec<u16>, house::Answer) {
    house.web = hub;
    let (mut status, mut last) = (Vec::new(), None);
    for n in 0..names {
        let callback = format!("http://n{n}.reader.example:{}/cb", site.address.port());
        let form = [("hub.mode", "subscribe"), ("hub.topic", TOPIC), ("hub.callback", callback.as_str())];
        let answer = house.post("/hub", &form).await;
        status.push(answer.status.as_u16());
        last = Some(answer);
    }
    (status, last.unwrap())
}

#[tokio::test]
async fn many_names_for_one_address_are_bounded_together_and_told_when_to_come_back() {
    let (mut house, site) = (House::new(), Site::start().await);
    house.publish("zero", "Something").await;
    let (hub, ..) = hub_with(&house, |_, _| Ipv4Addr::new(127, 0, 5, 1));
    let (status, last) = ask_by_names(&mut house, hub, &site, 250).await;
    assert_eq!((status.iter().filter(|s| **s == 202).count(), last.status.as_u16()), (240, 503), "{status:?}");
    assert_eq!(
        (last.header("retry-after"), last.body.as_str()),
        ("1", "too many requests for callbacks in this network\n")
    );
}

#[tokio::test]
async fn who_finds_their_network_asked_too_often_comes_back_later_each_time_not_every_second() {
    let (mut house, site) = (House::new(), Site::start().await);
    house.publish("zero", "Something").await;
    // At the door each is in a network of its own, and when it is to be asked all are in one.
    let answer = |n: u16, times| Ipv4Addr::new(127, 0, if times == 1 { n as u8 + 1 } else { 0 }, 1);
    let (hub, _queue, _trigger) = hub_with(&house, answer);
    let (status, _) = ask_by_names(&mut house, hub, &site, 250).await;
    assert!(status.iter().all(|status| *status == 202), "{status:?}");
    let failures = async || {
        let states = house.store.read(|r| r.destinations(&[], 999)).await.unwrap();
        states.iter().map(|(_, state)| state.health.failures).filter(|n| *n > 0).collect::<Vec<_>>()
    };
    until("240 asked, and ten refused", async || failures().await.len() == 10).await;
    for _ in 0..4 {
        house.advance(1);
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(failures().await, [1; 10], "nobody comes back within four seconds");
    }
}

fn bound(house: &House, hub: HubQuota) {
    let rules = Rules::clone(&house.service.rules());
    let quota = Quota { hub, ..rules.quota };
    house.service.set_rules(Rules { quota, ..rules });
}

const FEW: HubQuota =
    HubQuota { requests: 3, requests_per_host: 2, subscriptions_per_feed: 9, subscriptions_per_host: 9 };

#[tokio::test]
async fn requests_that_wait_for_their_callback_are_bounded_and_told_when_to_come_back() {
    let house = House::new();
    house.publish("zero", "Something").await;
    bound(&house, FEW);
    let ask = async |mode: &str, callback: &str| {
        let answer = house.post("/hub", &[("hub.mode", mode), ("hub.topic", TOPIC), ("hub.callback", callback)]).await;
        (answer.status.as_u16(), answer.header("retry-after").to_owned())
    };
    let (taken, full) = ((202, String::new()), (503, "60".to_owned()));
    // The queue does not run: nobody is asked.
    assert_eq!(ask("subscribe", "http://127.0.0.1:8001/a").await, taken);
    assert_eq!(ask("unsubscribe", "http://127.0.0.1:8002/b").await, taken);
    assert_eq!(ask("subscribe", "http://127.0.0.1:8003/c").await, full, "of this host");
    assert_eq!(ask("subscribe", "http://127.0.0.2:8001/a").await, taken);
    assert_eq!(ask("unsubscribe", "http://127.0.0.3:8001/a").await, full, "in all");
}

#[tokio::test]
async fn who_is_subscribed_renews_however_many_strangers_wait() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.quiet().await;
    bound(&world.house, FEW);
    let strange = async |callback: &str| {
        let form = [("hub.mode", "subscribe"), ("hub.topic", TOPIC), ("hub.callback", callback)];
        world.house.post("/hub", &form).await.status.as_u16()
    };
    // Nobody listens there: they are asked again and again.
    for callback in ["http://127.0.0.2:8001/a", "http://127.0.0.2:8001/b", "http://127.0.0.3:8001/a"] {
        assert_eq!(strange(callback).await, 202);
    }
    assert_eq!(strange("http://127.0.0.4:8001/a").await, 503, "no room for one more");
    assert_eq!(world.ask("subscribe", "/cb", &[("hub.secret", "new")]).await.status, 202);
    until("the renewal", async || world.subscription("/cb").await.unwrap().secret.is_some()).await;
}

#[tokio::test]
async fn subscriptions_are_bounded_by_feed_and_host_and_counted_until_they_end() {
    for hub in [HubQuota { subscriptions_per_feed: 1, ..FEW }, HubQuota { subscriptions_per_host: 1, ..FEW }] {
        let world = World::new().await;
        let tally = async || {
            let tally = world.house.store.read(|r| Ok((r.hub_tally(None)?, r.hub_tally(Some("127.0.0.1"))?)));
            tally.await.unwrap()
        };
        bound(&world.house, hub);
        world.subscribe("/cb", &[]).await;
        world.quiet().await;
        let one = HubTally { requests: 0, subscriptions: 1 };
        assert_eq!(tally().await, (one, one));
        let refused = world.ask("subscribe", "/other", &[]).await;
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "3600"));
        // Who is there renews, and goes.
        assert_eq!(world.ask("subscribe", "/cb", &[("hub.secret", "new")]).await.status, 202);
        until("the renewal", async || world.subscription("/cb").await.unwrap().secret.is_some()).await;
        assert_eq!(world.ask("unsubscribe", "/cb", &[]).await.status, 202);
        until("the end", async || world.subscription("/cb").await.is_none()).await;
        world.quiet().await;
        assert_eq!(tally().await, (HubTally::default(), HubTally::default()));
        world.subscribe("/other", &[]).await;
    }
}

#[tokio::test]
async fn a_callback_whose_name_leads_nowhere_is_asked_for_minutes_not_hours() {
    let (mut house, site) = (House::new(), Site::start().await);
    house.publish("zero", "Something").await;
    let (hub, _queue, _trigger) = hub_with(&house, |_, _| Ipv4Addr::UNSPECIFIED);
    // Two at one host: the second waits until the first was refused.
    let (status, _) = ask_by_names(&mut house, hub.clone(), &site, 1).await;
    let (again, _) = ask_by_names(&mut house, hub, &site, 1).await;
    assert_eq!([status, again], [[202], [202]]);
    let (began, limit) = (house.clock.now(), Duration::from_secs(1800));
    until("the end of the requests", async || {
        let states = house.store.read(|r| r.destinations(&[], 9)).await.unwrap();
        assert!(house.clock.now().since(began) < limit, "they wait still: {states:?}");
        tokio::time::sleep(Duration::from_millis(30)).await;
        house.advance(20);
        house.store.read(|r| r.hub_tally(None)).await.unwrap() == HubTally::default()
    })
    .await;
    assert!(house.clock.now().since(began) >= Duration::from_secs(600));
}

/// A name may lead elsewhere when its callback is asked than when the request came.
#[tokio::test]
async fn names_that_lead_elsewhere_later_do_not_turn_us_against_an_address() {
    let (mut house, site) = (House::new(), Site::start().await);
    house.publish("zero", "Something").await;
    let (hub, queue, trigger) = hub_with(&house, |n, times| match times {
        1 => Ipv4Addr::new(127, 1 + (n / 250) as u8, (n % 250) as u8, 1),
        _ => Ipv4Addr::LOCALHOST,
    });
    let (status, _) = ask_by_names(&mut house, hub, &site, 300).await;
    assert!(status.iter().all(|status| *status == 202), "{status:?}");
    site.questions_come(240).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(site.questions("/cb").len(), 240, "the rest waits");
    house.advance(30);
    site.questions_come(300).await;
    trigger.set(Phase::Stopped);
    queue.ended().await;
}

/// Nor between the look-up that is counted and the connection.
#[tokio::test]
async fn what_is_counted_is_where_the_question_goes() {
    let (mut house, site) = (House::new(), Site::start().await);
    house.publish("zero", "Something").await;
    let (hub, queue, trigger) = hub_with(&house, |n, times| match times {
        1 | 2 => Ipv4Addr::new(127, 1, n as u8, 1),
        _ => Ipv4Addr::LOCALHOST,
    });
    let (status, _) = ask_by_names(&mut house, hub, &site, 20).await;
    assert!(status.iter().all(|status| *status == 202), "{status:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(site.questions("/cb").len(), 0);
    trigger.set(Phase::Stopped);
    queue.ended().await;
}

/// WebSub §5.2: who is subscribed is told when the hub ends it.
#[tokio::test]
async fn a_deleted_feed_ends_its_subscriptions_and_says_so() {
    let world = World::new().await;
    world.subscribe("/cb?x=1", &[]).await;
    world.subscribe("/rude", &[]).await;
    world.site.set("/rude", Manner::Status(404));
    let delete = world.house.service.delete(Turn::free(), house::ALICE.parse().unwrap(), microblog("alice"));
    delete.await.unwrap();
    let told = world.questions("/cb", 2).await.remove(1);
    let query = |name: &str| told.query.get(name).map(String::as_str);
    assert_eq!((query("x"), query("hub.mode"), query("hub.topic")), (Some("1"), Some("denied"), Some(TOPIC)));
    assert_eq!((query("hub.reason"), query("hub.challenge")), (Some("the feed was deleted"), None));
    assert_eq!(world.questions("/rude", 2).await.remove(1).query["hub.mode"], "denied");
    world.quiet().await;
    let left = world.house.store.read(|r| r.all_hub_subscriptions(&[], 10)).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(world.site.pushes("/cb").is_empty(), "there is nothing to push");
}

#[tokio::test]
async fn a_publishers_ping_is_answered_and_changes_nothing() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    for form in [&[("hub.mode", "publish"), ("hub.topic", TOPIC)], &[("hub.mode", "publish"), ("hub.url", TOPIC)]] {
        assert_eq!(world.house.post("/hub", form).await.status, 204);
    }
    world.quiet().await;
    assert!(world.site.pushes("/cb").is_empty());
}

#[tokio::test]
async fn a_closed_feed_takes_no_subscribers_and_is_not_pushed() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.house.configure("pubsub#access_model", "whitelist").await;
    assert_eq!(world.ask("subscribe", "/other", &[]).await.status, 404);
    world.house.publish("one", "A secret").await;
    world.quiet().await;
    assert!(world.site.pushes("/cb").is_empty());
    world.house.configure("pubsub#access_model", "open").await;
    world.subscribe("/cb", &[]).await;
    world.house.publish("two", "In the open").await;
    assert_eq!(world.pushes("/cb", 1).await[0].titles()[0], "In the open");
}

/// WebSub §5.2, at once: nobody has to post something before.
#[tokio::test]
async fn a_feed_that_is_closed_ends_its_subscriptions_and_says_so() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.house.configure("pubsub#title", "Alice").await;
    world.house.configure("pubsub#access_model", "whitelist").await;
    assert_eq!(world.denied("/cb").await, "the feed is not public any more");
    until("the end", async || world.subscription("/cb").await.is_none()).await;
    world.quiet().await;
    assert!(world.site.pushes("/cb").is_empty());
}

#[tokio::test]
async fn who_asked_for_a_feed_that_was_closed_meanwhile_is_told_so() {
    let world = World::new().await;
    world.site.set("/cb", Manner::Status(500));
    world.ask("subscribe", "/cb", &[]).await;
    world.questions("/cb", 1).await;
    world.house.configure("pubsub#access_model", "whitelist").await;
    until("a second question", async || {
        world.house.advance(1);
        world.site.questions("/cb").len() >= 2
    })
    .await;
    assert_eq!(world.denied("/cb").await, "the feed is not public any more");
    world.quiet().await;
    assert!(world.subscription("/cb").await.is_none());
}

#[tokio::test]
async fn a_feed_that_is_opened_again_before_that_was_told_goes_on() {
    let mut world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.trigger.set(Phase::Stopped);
    world.queue.take().unwrap().ended().await;
    world.house.configure("pubsub#access_model", "whitelist").await;
    world.house.publish("one", "Meanwhile").await;
    world.house.configure("pubsub#access_model", "open").await;
    let (_queue, _trigger) = start_queue(&world.house);
    assert_eq!(world.pushes("/cb", 1).await[0].titles()[0], "Meanwhile");
    world.quiet().await;
    assert!(world.subscription("/cb").await.is_some() && world.site.questions("/cb").len() == 1);
}

#[tokio::test]
async fn an_account_that_ends_ends_its_subscriptions_and_says_so() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.house.remove_account().await;
    // Its nodes are taken away by and by.
    until("the sweep", async || {
        world.house.advance(1);
        world.site.questions("/cb").len() >= 2
    })
    .await;
    assert_eq!(world.denied("/cb").await, "the feed was deleted");
    world.quiet().await;
    let left = world.house.store.read(|r| r.all_hub_subscriptions(&[], 10)).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// Also who is to get a post at the time.
#[tokio::test]
async fn who_waits_for_a_post_of_an_account_that_has_ended_is_told_that() {
    let mut world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.trigger.set(Phase::Stopped);
    world.queue.take().unwrap().ended().await;
    world.house.publish("one", "Too late").await;
    world.house.remove_account().await;
    let (_queue, _trigger) = start_queue(&world.house);
    assert_eq!(world.denied("/cb").await, "the account has ended");
    assert!(world.site.pushes("/cb").is_empty());
}

// ---- distribution ----

#[tokio::test]
async fn a_410_ends_the_subscription() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.site.set("/cb", Manner::PushStatus(410));
    world.house.publish("one", "Anybody there?").await;
    world.pushes("/cb", 1).await;
    until("the end", async || world.subscription("/cb").await.is_none()).await;
    world.house.publish("two", "Nobody").await;
    world.quiet().await;
    assert_eq!(world.site.pushes("/cb").len(), 1);
}

#[tokio::test]
async fn a_callback_that_asks_for_time_gets_it() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.site.set("/cb", Manner::Busy);
    world.house.publish("one", "Later, please").await;
    world.pushes("/cb", 1).await;
    world.site.set("/cb", Manner::Good);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..9 {
        world.house.advance(10);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.site.pushes("/cb").len(), 1, "Retry-After: 100");
    until("the second push", async || {
        world.house.advance(10);
        world.site.pushes("/cb").len() >= 2
    })
    .await;
}

#[tokio::test]
async fn a_callback_that_wants_to_be_asked_again_at_once_is_asked_after_five_seconds() {
    for status in [503, 500] {
        let world = World::new().await;
        world.subscribe("/cb", &[]).await;
        world.site.set("/cb", Manner::Hasty(status));
        world.house.publish("one", "At once, please").await;
        world.pushes("/cb", 1).await;
        world.house.advance(4);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.site.pushes("/cb").len(), 1, "{status}");
        until("the second push", async || {
            world.house.advance(1);
            world.site.pushes("/cb").len() >= 2
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_strangers_callback_answers_holds_up_no_subscriber_at_its_host() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.site.set("/stranger", Manner::BusyQuestion);
    assert_eq!(world.ask("subscribe", "/stranger", &[]).await.status, 202);
    until("its answer noted", async || {
        let states = world.house.store.read(|r| r.destinations(&[], 9)).await.unwrap();
        states.iter().any(|(_, state)| state.health.failures > 0)
    })
    .await;
    world.house.publish("one", "For who is subscribed").await;
    world.pushes("/cb", 1).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_tried_again_later() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.site.set("/cb", Manner::Redirects);
    world.house.publish("one", "Where to?").await;
    world.pushes("/cb", 1).await;
    world.site.set("/cb", Manner::Good);
    until("a second push", async || {
        world.house.advance(1);
        world.site.pushes("/cb").len() >= 2
    })
    .await;
    assert!(world.site.pushes("/elsewhere").is_empty());
}

#[tokio::test]
async fn a_retraction_is_pushed_as_the_topic_without_the_post() {
    let world = World::new().await;
    world.house.publish("one", "A mistake").await;
    world.quiet().await;
    world.subscribe("/cb", &[]).await;
    world.house.retract("one").await;
    let push = world.pushes("/cb", 1).await.remove(0);
    assert_eq!(push.titles(), ["Before anybody listened"]);
}

#[tokio::test]
async fn after_a_long_silence_every_post_comes_once_at_least_and_in_order() {
    let world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.site.set("/cb", Manner::Status(500));
    for n in 0..50 {
        world.house.publish(&format!("p{n}"), &format!("post {n}")).await;
    }
    world.pushes("/cb", 1).await;
    let refused = world.site.pushes("/cb").len();
    world.site.set("/cb", Manner::Good);
    until("the last post", async || {
        world.house.advance(60);
        world.site.pushes("/cb").iter().skip(refused).any(|push| push.titles()[0] == "post 49")
    })
    .await;
    world.quiet().await;
    let pushes = world.site.pushes("/cb");
    let mut first_seen = Vec::new();
    for push in &pushes[refused..] {
        assert_eq!(push.header("link"), format!("<{PUBLIC}/hub>; rel=\"hub\", <{TOPIC}>; rel=\"self\""));
        for title in push.titles().into_iter().rev() {
            if title.starts_with("post") && !first_seen.contains(&title) {
                first_seen.push(title);
            }
        }
    }
    let all: Vec<String> = (0..50).map(|n| format!("post {n}")).collect();
    assert_eq!(first_seen, all);
    assert!(pushes.len() - refused <= 6, "{} pushes for 50 posts", pushes.len() - refused);
}

#[tokio::test]
async fn an_edit_of_an_old_post_is_pushed_though_the_topic_does_not_show_it() {
    let world = World::new().await;
    for n in 0..30 {
        world.house.publish(&format!("p{n}"), &format!("post {n}")).await;
    }
    world.quiet().await;
    world.subscribe("/cb", &[]).await;
    world.house.publish("p3", "post 3, edited").await;
    let push = world.pushes("/cb", 1).await.remove(0);
    assert_eq!(push.titles()[0], "post 3, edited");
}

#[tokio::test]
async fn a_thousand_callbacks_cost_one_rendering() {
    let world = World::new().await;
    for n in 0..1000 {
        // The bound on requests by host is for others.
        world.house.advance(1);
        assert_eq!(world.ask("subscribe", &format!("/cb{n}"), &[]).await.status, 202);
    }
    until("every confirmation", async || {
        world.house.advance(1);
        let left = world.house.store.read(|r| {
            let events = !r.events(0, 1)?.is_empty();
            Ok(events || r.destinations(&[], 2000)?.iter().any(|(_, d)| d.waiting > 0))
        });
        !left.await.unwrap()
    })
    .await;
    let before = world.house.topics.renderings();
    world.house.publish("one", "To all").await;
    until("every push", async || {
        world.house.advance(1);
        let got = world.site.log.got.lock().unwrap();
        got.iter().filter(|got| got.method == Method::POST).count() >= 1000
    })
    .await;
    assert_eq!(world.house.topics.renderings() - before, 1);
}

#[tokio::test]
async fn what_was_promised_is_delivered_by_the_next_run() {
    let mut world = World::new().await;
    world.subscribe("/cb", &[]).await;
    world.trigger.set(Phase::Stopped);
    world.queue.take().unwrap().ended().await;
    world.house.publish("one", "While nobody worked").await;
    assert!(world.site.pushes("/cb").is_empty());
    let (_queue, _trigger) = start_queue(&world.house);
    assert_eq!(world.pushes("/cb", 1).await[0].titles()[0], "While nobody worked");
}
