//! Notifications over a link that comes and goes: their order, what is asked again when they are sent, and the end.

#[allow(dead_code)]
#[path = "support/fake_server.rs"]
mod fake_server;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fake_server::{COMPONENT, FakeServer, HOST, Peer, SECRET};
use jid::{BareJid, Jid};
use rookery::app;
use rookery::base::clock::{Clock, Timestamp};
use rookery::base::id::Ids;
use rookery::base::shutdown::{self, Trigger};
use rookery::base::turn::Turn;
use rookery::config::Config;
use rookery::domain::address::Addresses;
use rookery::domain::delivery::{Destination, Outcome};
use rookery::domain::error::Refusal;
use rookery::domain::event::{Event, What};
use rookery::domain::item::ItemId;
use rookery::domain::node::{NodeAddress, NodeName};
use rookery::domain::subscription::{Affiliation, SubscriptionState};
use rookery::network::{Network, Report, Said, Task};
use rookery::service::node::remove_comments;
use rookery::service::publish::{Payload, Publish};
use rookery::service::{Quota, Registration, Rules, Service};
use rookery::store::{Kv, MemoryKv, Store, kv};
use rookery::xmpp::envelope::{Envelope, Kind, Stanza, StanzaType, Xml};
use rookery::xmpp::link::{self, LinkConfig, LinkHandle, LinkState};
use rookery::xmpp::notify::Notifier;
use tokio::sync::mpsc;

const DONE: Said = Said::Ended(Outcome::Done);

/// A database that holds up who reads subscriptions, when it is told to.
#[derive(Default)]
struct Gate {
    kv: MemoryKv,
    /// Reads that pass before the others wait; `None`: all pass.
    passes: Mutex<Option<usize>>,
    moved: Condvar,
}

impl Gate {
    fn set(&self, passes: Option<usize>) {
        *self.passes.lock().unwrap() = passes;
        self.moved.notify_all();
    }
}

impl Kv for Gate {
    fn get(&self, key: &[u8]) -> kv::Result<Option<Bytes>> {
        self.kv.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> kv::Result<Vec<kv::Row>> {
        if from.first() == Some(&b's') {
            let mut passes = self.moved.wait_while(self.passes.lock().unwrap(), |p| *p == Some(0)).unwrap();
            *passes = passes.map(|n| n - 1);
        }
        self.kv.range(from, to, limit, reverse)
    }

    fn apply(&self, batch: &[kv::Write]) -> kv::Result<()> {
        self.kv.apply(batch)
    }

    fn moment(&self) -> Option<Box<dyn kv::Read + '_>> {
        None
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// Alice publishes at the component's node `news`, Romeo is subscribed; the test is the queue.
struct Rig {
    gate: Arc<Gate>,
    store: Store,
    service: Service,
    link: LinkHandle,
    notifier: Notifier,
    said: mpsc::UnboundedReceiver<(u64, Said)>,
    report: Report,
    _trigger: Trigger,
}

fn alice() -> Jid {
    Jid::new("alice@example.org/orchard").unwrap()
}

fn romeo() -> Jid {
    Jid::new("romeo@example.org").unwrap()
}

fn news() -> NodeAddress {
    NodeAddress { service: BareJid::new(COMPONENT).unwrap(), name: NodeName::parse("news").unwrap() }
}

fn item(id: &str) -> ItemId {
    ItemId::parse(id).unwrap()
}

impl Rig {
    async fn up(server: &FakeServer) -> (Rig, Peer) {
        let jid = BareJid::new(COMPONENT).unwrap();
        let gate = Arc::new(Gate::default());
        let store = Store::open(gate.clone()).unwrap();
        let hosts = vec!["example.org".to_owned()];
        let rules = Rules {
            registration: Registration::Hosts,
            auto_register_hosts: hosts.clone(),
            admins: Vec::new(),
            create_nodes_hosts: hosts,
            max_payload: 200_000,
            quota: Quota::default(),
        };
        let addresses =
            Addresses::new(jid.clone(), &url::Url::parse("https://c.example.org").unwrap(), "c.example.org");
        let service = Service::new(store.clone(), addresses, rules, Clock::system(), Ids::seeded(1));
        let mut config = LinkConfig::new(jid, server.address(), SECRET.to_owned(), BareJid::new(HOST).unwrap());
        config.backoff = Duration::from_millis(10);
        let (trigger, shutdown) = shutdown::channel();
        let (link, run) = link::new(config, Clock::system(), Ids::seeded(2), shutdown, Arc::new(|_| {}));
        tokio::spawn(run);
        let peer = server.login().await;
        let (tx, said) = mpsc::unbounded_channel();
        let notifier = Notifier::new(store.clone(), link.clone());
        let rig = Rig { gate, store, service, link, notifier, said, report: Report::new(tx), _trigger: trigger };
        rig.session(1).await;
        (rig, peer)
    }

    async fn session(&self, wanted: u64) {
        let mut state = self.link.state();
        let there = state.wait_for(|s| matches!(s, LinkState::Online { session, .. } if *session == wanted));
        tokio::time::timeout(Duration::from_secs(20), there).await.expect("the link comes up").unwrap();
    }

    async fn publish(&self, id: &str) {
        let publish = Publish {
            by: alice(),
            at: news(),
            item: Some(item(id)),
            payload: Some(Payload::Xml { raw: format!("<note xmlns='urn:x'>{id}</note>").into(), scope: Vec::new() }),
            options: Vec::new(),
        };
        self.service.publish(Turn::free(), publish).await.unwrap();
    }

    async fn subscribe(&self) {
        self.service.subscribe(Turn::free(), romeo(), romeo(), news()).await.unwrap();
    }

    async fn configure(&self, field: &str, value: &str) {
        let fields = vec![(field.to_owned(), vec![value.to_owned()])];
        self.service.configure(Turn::free(), alice(), news(), fields).await.unwrap();
    }

    /// What is owed for the newest Events, one each.
    async fn tasks(&self, newest: usize) -> Vec<Task> {
        let read = self.store.read(|r| {
            let tasks = r.events(0, 1000)?.into_iter().map(|(seq, event)| {
                let event = event.unwrap();
                let payload = event.what.version().map(|version| r.payload(version)).transpose()?.flatten();
                Ok(Task { seq, at: event.at, event, payload, cursor: Vec::new(), alone: false })
            });
            tasks.collect::<kv::Result<Vec<_>>>()
        });
        let mut tasks = read.await.unwrap();
        tasks.split_off(tasks.len() - newest)
    }

    /// Hands a batch over; returns when the next may come.
    fn deliver(&self, tasks: &[Task]) -> impl Future<Output = ()> + Send + use<> {
        let destination = match &tasks[0].event.what {
            What::LastItem { jid, .. } => Destination::Jid(jid.to_bare().to_string()),
            _ => Destination::Subscribers(tasks[0].event.node.id),
        };
        self.notifier.deliver(destination, tasks.to_vec(), self.report.clone())
    }

    /// The next `n` outcomes, by the number of the Event.
    async fn outcomes(&mut self, n: usize) -> Vec<(u64, Said)> {
        let mut outcomes = Vec::new();
        for _ in 0..n {
            let next = tokio::time::timeout(Duration::from_secs(20), self.said.recv());
            outcomes.push(next.await.expect("an outcome").unwrap());
        }
        outcomes.sort_by_key(|(seq, _)| *seq);
        outcomes
    }
}

/// The items that the next `n` notifications tell; pings in between are answered if `proved`.
async fn told(peer: &mut Peer, n: usize, proved: bool) -> Vec<String> {
    let mut items = Vec::new();
    while items.len() < n {
        let envelope = peer.expect("a notification").await;
        match envelope.head.kind {
            Kind::Message => items.push(said(&envelope)),
            _ if proved => peer.answer(&envelope).await,
            _ => {}
        }
    }
    items
}

/// The item that a notification tells; its own id if it is none.
fn said(envelope: &Envelope) -> String {
    let text = String::from_utf8_lossy(envelope.raw()).into_owned();
    let item = text.split_once("<item id='").and_then(|(_, rest)| rest.split_once('\''));
    item.map(|(id, _)| id.to_owned()).or_else(|| envelope.head.id.clone()).unwrap_or_default()
}

/// What the component sends before a message of our own.
async fn before_marker(rig: &Rig, peer: &mut Peer) -> Vec<String> {
    // Answers go before fan-out: what waits to be written is written first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let marker = Stanza::message(&Jid::new(COMPONENT).unwrap(), &romeo(), None, Some("marker"), Xml::default());
    rig.link.answer(marker).unwrap();
    let mut seen = Vec::new();
    loop {
        match told(peer, 1, true).await.remove(0) {
            id if id == "marker" => return seen,
            id => seen.push(id),
        }
    }
}

fn is_end(event: Option<&Event>) -> bool {
    event.is_some_and(|event| event.what == What::Deleted)
}

fn is_retry(said: &Said) -> bool {
    matches!(said, Said::Ended(Outcome::Retry { .. }))
}

#[tokio::test]
async fn a_batch_handed_over_before_a_loss_was_heard_of_overtakes_nothing_that_was_lost() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    rig.publish("0").await;
    rig.subscribe().await;
    for id in ["1", "2", "3"] {
        rig.publish(id).await;
    }
    let tasks = rig.tasks(3).await;
    rig.deliver(&tasks[..1]).await;
    assert_eq!(told(&mut peer, 1, false).await, ["1"]);
    // Written, and never known to be read.
    drop(peer);
    let mut peer = server.login().await;
    rig.session(2).await;
    let lost = rig.outcomes(1).await;
    assert!(lost[0].0 == tasks[0].seq && is_retry(&lost[0].1), "{lost:?}");
    rig.deliver(&tasks[1..]).await;
    assert_eq!(before_marker(&rig, &mut peer).await, Vec::<String>::new(), "sent before what was lost");
    let refused = rig.outcomes(1).await;
    assert!(refused[0].0 == tasks[1].seq && is_retry(&refused[0].1), "{refused:?}");
    rig.deliver(&tasks).await;
    assert_eq!(told(&mut peer, 3, true).await, ["1", "2", "3"]);
    assert_eq!(before_marker(&rig, &mut peer).await, Vec::<String>::new());
    assert!(rig.outcomes(3).await.iter().all(|(_, said)| *said == DONE));
}

#[tokio::test]
async fn a_batch_that_was_begun_in_one_session_does_not_go_on_in_the_next() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    rig.publish("0").await;
    rig.subscribe().await;
    for id in ["1", "2"] {
        rig.publish(id).await;
    }
    let tasks = rig.tasks(2).await;
    rig.gate.set(Some(1));
    let delivering = tokio::spawn(rig.deliver(&tasks));
    assert_eq!(told(&mut peer, 1, false).await, ["1"]);
    drop(peer);
    let mut peer = server.login().await;
    rig.session(2).await;
    rig.gate.set(None);
    delivering.await.unwrap();
    assert_eq!(before_marker(&rig, &mut peer).await, Vec::<String>::new(), "sent before what was lost");
    let outcomes = rig.outcomes(2).await;
    assert!(outcomes.iter().all(|(_, said)| is_retry(said)), "{outcomes:?}");
    rig.deliver(&tasks).await;
    assert_eq!(told(&mut peer, 2, true).await, ["1", "2"]);
}

/// Should what was lost be given up, those behind it must not wait for it for ever.
#[tokio::test]
async fn what_stands_behind_something_lost_lets_it_pass_once() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    rig.publish("0").await;
    rig.subscribe().await;
    for id in ["1", "2"] {
        rig.publish(id).await;
    }
    let tasks = rig.tasks(2).await;
    rig.deliver(&tasks[..1]).await;
    told(&mut peer, 1, false).await;
    drop(peer);
    let mut peer = server.login().await;
    rig.session(2).await;
    for _ in 0..2 {
        rig.deliver(&tasks[1..]).await;
    }
    assert_eq!(told(&mut peer, 1, true).await, ["2"]);
    assert_eq!(before_marker(&rig, &mut peer).await, Vec::<String>::new());
    let outcomes = rig.outcomes(3).await;
    assert_eq!(outcomes.iter().filter(|(_, said)| is_retry(said)).count(), 2, "{outcomes:?}");
    assert!(outcomes.contains(&(tasks[1].seq, DONE)), "{outcomes:?}");
}

#[tokio::test]
async fn a_last_item_is_sent_only_if_it_is_still_due() {
    for (change, due) in [
        ("nothing", true),
        ("unsubscribed", false),
        ("closed", false),
        ("retracted", false),
        ("edited", false),
        ("followed", false),
    ] {
        let server = FakeServer::start().await;
        let (mut rig, mut peer) = Rig::up(&server).await;
        rig.publish("last").await;
        rig.configure("pubsub#send_last_published_item", "on_sub").await;
        rig.subscribe().await;
        let tasks = rig.tasks(1).await;
        assert!(matches!(tasks[0].event.what, What::LastItem { .. }), "{tasks:?}");
        match change {
            "unsubscribed" => rig.service.unsubscribe(Turn::free(), romeo(), romeo(), news(), None).await.unwrap(),
            "closed" => rig.configure("pubsub#access_model", "whitelist").await,
            "retracted" => rig.service.retract(Turn::free(), alice(), news(), vec![item("last")], false).await.unwrap(),
            "edited" => rig.publish("last").await,
            "followed" => rig.publish("newer").await,
            _ => {}
        }
        rig.deliver(&tasks).await;
        let sent = before_marker(&rig, &mut peer).await;
        assert_eq!(sent.len(), usize::from(due), "{change}: {sent:?}");
        assert_eq!(rig.outcomes(1).await, [(tasks[0].seq, DONE)], "{change}");
    }
}

#[tokio::test]
async fn who_asks_is_told_to_those_who_own_the_node_while_it_waits_for_them() {
    for (change, told) in
        [("nothing", true), ("approved", false), ("withdrawn", false), ("given up", false), ("deleted", false)]
    {
        let server = FakeServer::start().await;
        let (mut rig, mut peer) = Rig::up(&server).await;
        rig.publish("0").await;
        rig.configure("pubsub#access_model", "authorize").await;
        let owners = [(romeo().to_bare(), Affiliation::Owner)].to_vec();
        rig.service.set_affiliations(Turn::free(), alice(), news(), owners).await.unwrap();
        let nurse = Jid::new("nurse@elsewhere.example").unwrap();
        rig.service.subscribe(Turn::free(), nurse.clone(), nurse.clone(), news()).await.unwrap();
        let tasks = rig.tasks(1).await;
        assert!(matches!(tasks[0].event.what, What::Requested { .. }), "{tasks:?}");
        match change {
            "approved" => rig.service.approve(Turn::free(), alice(), nurse, news(), None, true).await.unwrap(),
            "withdrawn" => rig.service.unsubscribe(Turn::free(), nurse.clone(), nurse, news(), None).await.unwrap(),
            "given up" => {
                let none = [(romeo().to_bare(), Affiliation::None)].to_vec();
                rig.service.set_affiliations(Turn::free(), romeo(), news(), none).await.unwrap();
            }
            "deleted" => rig.service.delete(Turn::free(), alice(), news()).await.unwrap(),
            _ => {}
        }
        let owner = Destination::Jid(romeo().to_bare().to_string());
        rig.notifier.deliver(owner, tasks.clone(), rig.report.clone()).await;
        let sent = before_marker(&rig, &mut peer).await;
        assert_eq!(sent.len(), usize::from(told), "{change}: {sent:?}");
        assert_eq!(rig.outcomes(1).await, [(tasks[0].seq, DONE)], "{change}");
    }
}

#[tokio::test]
async fn the_end_of_a_subscription_is_told_although_the_node_is_gone() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    rig.publish("0").await;
    rig.subscribe().await;
    for state in [SubscriptionState::Pending, SubscriptionState::Subscribed] {
        rig.service.set_subscriptions(Turn::free(), alice(), news(), vec![(romeo(), Some(state))]).await.unwrap();
    }
    rig.service.set_subscriptions(Turn::free(), alice(), news(), vec![(romeo(), None)]).await.unwrap();
    let tasks = rig.tasks(3).await;
    rig.service.delete(Turn::free(), alice(), news()).await.unwrap();
    let nid = tasks[0].event.node.id;
    // What the sweep does at last.
    let forget = rig.store.commit(rookery::store::Lane::Background, move |tx| Ok(Ok::<(), ()>(tx.forget_node(nid)?)));
    forget.await.unwrap().unwrap();
    rig.notifier.deliver(Destination::Jid(romeo().to_string()), tasks.clone(), rig.report.clone()).await;
    // That it began is not true any more.
    assert_eq!(before_marker(&rig, &mut peer).await, [format!("e{}", tasks[2].seq)]);
    assert!(rig.outcomes(3).await.iter().all(|(_, said)| *said == DONE));
}

#[tokio::test]
async fn an_owner_is_asked_wherever_they_stand_among_the_affiliations() {
    let server = FakeServer::start().await;
    let (rig, _peer) = Rig::up(&server).await;
    rig.publish("0").await;
    rig.configure("pubsub#access_model", "authorize").await;
    for hundred in 0..11 {
        let member = |n: i32| (BareJid::new(&format!("a{hundred:02}{n:02}@example.org")).unwrap(), Affiliation::Member);
        let members = (0..100).map(member).collect();
        rig.service.set_affiliations(Turn::free(), alice(), news(), members).await.unwrap();
    }
    let nurse = Jid::new("nurse@elsewhere.example").unwrap();
    rig.service.subscribe(Turn::free(), nurse.clone(), nurse, news()).await.unwrap();
    let (task, notifier) = (rig.tasks(1).await.remove(0), rig.notifier.clone());
    let page = rig.store.read(move |r| notifier.plan(task.seq, &task.event, r, &[], 9)).await.unwrap();
    let asked: Vec<_> = page.plans.into_iter().map(|plan| plan.destination).collect();
    assert_eq!(asked, [Destination::Jid(alice().to_bare().to_string())]);
}

#[tokio::test]
async fn who_asked_while_the_node_was_guarded_is_let_in_when_nobody_has_to_be_asked_any_more() {
    let server = FakeServer::start().await;
    let (rig, _peer) = Rig::up(&server).await;
    rig.publish("0").await;
    rig.configure("pubsub#access_model", "authorize").await;
    let subscribe = || rig.service.subscribe(Turn::free(), romeo(), romeo(), news());
    assert_eq!(subscribe().await.unwrap().state, SubscriptionState::Pending);
    assert_eq!(subscribe().await, Err(Refusal::PendingSubscription));
    rig.configure("pubsub#access_model", "open").await;
    assert_eq!(subscribe().await.unwrap().state, SubscriptionState::Subscribed);
    assert_eq!(subscribe().await.unwrap().state, SubscriptionState::Subscribed);
}

#[tokio::test]
async fn who_loses_access_while_a_fan_out_is_under_way_is_told_no_more() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    rig.publish("0").await;
    for n in 0..120 {
        let jid = Jid::new(&format!("{n:03}@example.org")).unwrap();
        rig.service.subscribe(Turn::free(), jid.clone(), jid, news()).await.unwrap();
    }
    for (id, closes, rest) in [("1", false, 18), ("2", true, 0)] {
        rig.publish(id).await;
        let tasks = rig.tasks(1).await;
        rig.gate.set(Some(1));
        let delivering = tokio::spawn(rig.deliver(&tasks));
        // The first who are read.
        assert_eq!(told(&mut peer, 100, false).await, vec![id; 100]);
        match closes {
            true => rig.configure("pubsub#access_model", "whitelist").await,
            false => {
                let members = ["110", "111"].map(|n| BareJid::new(&format!("{n}@example.org")).unwrap());
                let barred = members.map(|jid| (jid, Affiliation::PublishOnly)).to_vec();
                rig.service.set_affiliations(Turn::free(), alice(), news(), barred).await.unwrap();
            }
        }
        rig.gate.set(None);
        delivering.await.unwrap();
        assert_eq!(before_marker(&rig, &mut peer).await.len(), rest, "{id}");
        assert_eq!(rig.outcomes(1).await, [(tasks[0].seq, DONE)]);
    }
}

#[tokio::test]
async fn who_was_owed_a_post_at_a_resource_gets_it_there_although_the_account_subscribes_meanwhile() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    rig.publish("0").await;
    let at_home = Jid::new("romeo@example.org/home").unwrap();
    rig.service.subscribe(Turn::free(), romeo(), at_home, news()).await.unwrap();
    rig.publish("1").await;
    let tasks = rig.tasks(1).await;
    rig.subscribe().await;
    rig.deliver(&tasks).await;
    assert_eq!(told(&mut peer, 1, true).await, ["1"]);
    // What comes now is told once, to the account.
    rig.publish("2").await;
    rig.deliver(&rig.tasks(1).await).await;
    assert_eq!(before_marker(&rig, &mut peer).await, ["2"]);
    rig.outcomes(2).await;
}

#[tokio::test]
async fn the_end_of_comments_is_told_although_the_post_is_gone() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    let alices = BareJid::new(&format!("alice@{COMPONENT}")).unwrap();
    let at = |node: &str| NodeAddress { service: alices.clone(), name: NodeName::parse(node).unwrap() };
    let microblog = at("urn:xmpp:microblog:0");
    let post = Publish {
        by: alice(),
        at: microblog.clone(),
        item: Some(item("post")),
        payload: Some(Payload::Text("text".into())),
        options: Vec::new(),
    };
    rig.service.publish(Turn::free(), post).await.unwrap();
    let comments = at("urn:xmpp:microblog:0:comments/post");
    rig.service.subscribe(Turn::free(), romeo(), romeo(), comments).await.unwrap();
    rig.service.delete(Turn::free(), alice(), microblog.clone()).await.unwrap();
    let closed = vec![("pubsub#access_model".to_owned(), vec!["whitelist".to_owned()])];
    rig.service.create(Turn::free(), alice(), alices.clone(), Some(microblog.name), closed).await.unwrap();
    // What the sweep does when it comes to the posts.
    let commit = rig.store.commit(rookery::store::Lane::Background, move |tx| {
        let (_, event) = tx.read().events(0, 1000)?.into_iter().rfind(|(_, e)| is_end(e.as_ref())).unwrap();
        let event = event.unwrap();
        let posts = tx.read().node(event.node.id)?.unwrap();
        Ok(Ok::<(), ()>(remove_comments(tx, &posts, &item("post"), Timestamp::default())?))
    });
    commit.await.unwrap().unwrap();
    let tasks = rig.tasks(1).await;
    assert_eq!(tasks[0].event.what, What::Deleted);
    rig.deliver(&tasks).await;
    assert_eq!(before_marker(&rig, &mut peer).await.len(), 1);
    assert_eq!(rig.outcomes(1).await, [(tasks[0].seq, DONE)]);
}

#[tokio::test]
async fn a_link_that_is_closing_or_closed_is_not_asked_again_at_once() {
    let server = FakeServer::start().await;
    let (mut rig, mut peer) = Rig::up(&server).await;
    rig.publish("0").await;
    rig.subscribe().await;
    rig.publish("1").await;
    let tasks = rig.tasks(1).await;
    let link = rig.link.clone();
    let closing = tokio::spawn(async move { link.close().await });
    while peer.next().await.is_some() {}
    for closed in [false, true] {
        if closed {
            peer.send("</stream:stream>").await;
            rig.link.state().wait_for(|s| *s == LinkState::Closed).await.unwrap();
        }
        rig.deliver(&tasks).await;
        match &rig.outcomes(1).await[0].1 {
            Said::Ended(Outcome::Retry { after: Some(after), .. }) if *after >= Duration::from_secs(1) => {}
            said => panic!("closed: {closed}, {said:?}"),
        }
    }
    closing.await.unwrap();
}

/// The configuration of a whole service in `folder`, attached to `server`.
fn config(server: &FakeServer, folder: &Path) -> Config {
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "[component]\njid = \"{COMPONENT}\"\nsecret = \"{SECRET}\"\nserver = \"{}\"\nserver_host = \"{HOST}\"\n\
         [http]\nlisten = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\npublic_url = \"https://{COMPONENT}\"\n\
         [store]\nbackend = \"fjall\"\npath = \"store\"\n[pubsub]\ncreate_nodes_hosts = [\"{HOST}\"]\n",
        server.address(),
        port(),
        port(),
    );
    Config::parse(&text, folder, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
}

/// The store of a service that has ended, as soon as the last of its tasks has let go of it.
async fn reopened(config: &Config) -> Store {
    for _ in 0..1500 {
        match app::open(config).await {
            Err(rookery::store::OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the store stays locked")
}

/// RFC 6121 §3.2: as when a server's own account goes. Told anew if it is not known to be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_had_a_presence_subscription_to_an_account_that_ends_is_told_so() {
    let server = FakeServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app::run(config(&server, folder.path()), app::Reload::never(), async move {
        let _ = stopped.await;
    }));
    let mut peer = server.login().await;
    let register = |inner: &str| {
        format!(
            "<iq type='set' id='r' from='alice@{HOST}/a' to='{COMPONENT}'><query xmlns='jabber:iq:register'>{inner}\
             </query></iq>"
        )
    };
    peer.send(&register("<username>alice</username>")).await;
    assert_eq!(peer.expect("the registration").await.head.type_, StanzaType::Result);
    peer.send(&format!("<presence type='subscribe' from='romeo@{HOST}' to='alice@{COMPONENT}'/>")).await;
    assert_eq!(peer.expect("the approval").await.head.type_, StanzaType::Subscribed);
    peer.expect("the first presence").await;
    peer.send(&register("<remove/>")).await;
    assert_eq!(peer.expect("the end").await.head.type_, StanzaType::Result);
    for round in 0..2 {
        let ended = peer.expect("the end of the subscription").await;
        assert_eq!(ended.head.type_, StanzaType::Unsubscribed, "{round}");
        assert_eq!(ended.head.from.jid().unwrap().to_string(), format!("alice@{COMPONENT}"));
        assert_eq!(ended.head.to.jid().unwrap().to_string(), format!("romeo@{HOST}"));
        assert_eq!(peer.expect("nobody is there").await.head.type_, StanzaType::Unavailable, "{round}");
        if round == 0 {
            // Written, and never known to be read.
            drop(peer);
            peer = server.login().await;
        }
    }
    let _ = stop.send(());
    while let Some(envelope) = peer.next().await {
        assert_eq!(envelope.head.kind, Kind::Iq, "a ping, and nothing that was told already");
        peer.answer(&envelope).await;
    }
    peer.send("</stream:stream>").await;
    running.await.unwrap().unwrap();
    let store = reopened(&config(&server, folder.path())).await;
    for table in b"rX" {
        let rows = store.read(|r| Ok(r.range(&[*table], &[*table + 1], 10, false)?.len())).await.unwrap();
        assert_eq!(rows, 0, "rows of {}", char::from(*table));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_before_the_end_was_answered() {
    let server = FakeServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app::run(config(&server, folder.path()), app::Reload::never(), async move {
        let _ = stopped.await;
    }));
    let mut peer = server.login().await;
    let publish = |n: usize| {
        format!(
            "<iq type='set' id='p{n}' from='alice{}@example.org/a' to='{COMPONENT}'>\
             <pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='n{}'><item id='i{n}'>\
             <note xmlns='urn:x'/></item></publish></pubsub></iq>",
            n % 10,
            n % 10
        )
    };
    peer.send(&(0..1000).map(publish).collect::<String>()).await;
    let (mut done, mut later, mut stop) = (0, 0, Some(stop));
    while let Some(envelope) = peer.next().await {
        match envelope.head.type_ {
            StanzaType::Result => done += 1,
            StanzaType::Error => later += 1,
            // A ping of the component.
            _ => peer.answer(&envelope).await,
        }
        if done == 50
            && let Some(stop) = stop.take()
        {
            let _ = stop.send(());
        }
    }
    peer.send("</stream:stream>").await;
    running.await.unwrap().unwrap();
    let store = reopened(&config(&server, folder.path())).await;
    let stored = store.read(|r| Ok(r.range(b"i", b"j", 10_000, false)?.len())).await.unwrap();
    assert_eq!(stored, done, "stored and answered; {later} were told to come again");
    assert!(done > 50, "nothing was in work at the end");
}
