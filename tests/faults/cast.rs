//! Who plays beside the people of the crash test: authors whose feeds are pushed to the callbacks, a keeper who purges
//! and configures, an ender who deletes nodes, a crier whom a crowd listens to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use minidom::Element;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::callbacks::{Callback, Manner, Sites};
use crate::crash::ledger::{Fate, Place, What, Writers};
use crate::crash::people;
use crate::crash::server::{PATIENCE, Server, entry};
use crate::support::client::{self, MICROBLOG, OWNER, PUBSUB};
use crate::support::rookery::Rookery;
use crate::support::servers::{HOST, SOCIAL, at_social};
use crate::support::web;

/// Authors whose feeds have callbacks.
pub const FEEDS: usize = 4;
const ALL: usize = 1_000_000;
/// The longest lease that is given, and one that a jump of the clock ends.
const LEASE: u64 = 30 * 24 * 3600;
pub const SHORT_LEASE: u64 = 300;

fn author(n: usize) -> String {
    format!("h{n}@{HOST}")
}

pub fn feed(n: usize) -> Place {
    (at_social(&format!("h{n}")), MICROBLOG.to_owned())
}

fn vault() -> Place {
    (SOCIAL.to_owned(), "vault".to_owned())
}

pub fn plaza() -> Place {
    (SOCIAL.to_owned(), "plaza".to_owned())
}

/// A node that is made to be deleted.
fn passing(n: usize) -> Place {
    (SOCIAL.to_owned(), format!("passing {n}"))
}

/// Every node that stays, and what is asked of it.
pub fn places() -> Vec<(Place, Writers)> {
    let ours = (0..FEEDS).map(feed).chain([vault(), plaza()]).map(|place| (place, Writers::One(ALL)));
    people::places().into_iter().chain(ours).collect()
}

/// Makes nodes and accounts, and subscribes the crowd: all of it acknowledged.
pub async fn settle_in(server: &Arc<Server>, crowd: usize) {
    people::settle_in(server).await;
    let by = format!("crier@{HOST}/desk");
    people::create(server, &by, &plaza().1, &[]).await;
    let by = format!("keeper@{HOST}/desk");
    people::create(server, &by, &vault().1, &[("pubsub#notify_config", "1")]).await;
    for n in 0..FEEDS {
        publish(server, &author(n), &feed(n), "first", &format!("first of h{n}"), 200).await;
    }
    for place in (0..FEEDS).map(feed).chain([vault(), plaza()]) {
        people::subscribe(server, &format!("faithful0@{HOST}"), &place).await;
    }
    let mut all = JoinSet::new();
    for part in 0..16 {
        let server = server.clone();
        all.spawn(async move {
            for n in (part..crowd).step_by(16) {
                people::subscribe(&server, &format!("s{n:04}@{HOST}"), &plaza()).await;
            }
        });
    }
    while let Some(subscribed) = all.join_next().await {
        subscribed.expect("everybody may subscribe");
    }
}

/// Subscribes some callbacks to their feeds (WebSub §5.1) and waits until all their intents are verified.
pub async fn subscribe_sites(rookery: &Rookery, sites: &Sites, which: impl Fn(&Callback) -> bool) {
    let mut feeds = Vec::new();
    for n in 0..FEEDS {
        let document: Element = rookery.get(&format!("/@h{n}.atom")).await.body.parse().expect("a feed");
        feeds.push((rookery.served(&people::link(&document, "hub")), people::link(&document, "self")));
    }
    let wanted: Vec<_> = sites.callbacks.iter().filter(|callback| which(callback)).collect();
    for callback in &wanted {
        let (hub, topic) = &feeds[callback.feed];
        callback.expect_topic(topic);
        let lease = if callback.manner == Manner::Lapsing { SHORT_LEASE } else { LEASE }.to_string();
        let form = [
            ("hub.mode", "subscribe"),
            ("hub.topic", topic),
            ("hub.callback", &callback.url()),
            ("hub.secret", &callback.secret),
            ("hub.lease_seconds", &lease),
        ];
        assert_eq!(web::post(hub, &form).await.expect("the hub answers").status, 202);
    }
    let all = || wanted.iter().all(|callback| callback.is_verified());
    assert!(crate::support::until(PATIENCE, all).await, "not every intent was verified");
}

/// Everybody at once, until `end`.
pub async fn live(server: Arc<Server>, seed: u64, end: Arc<AtomicBool>) {
    let mut all = JoinSet::new();
    all.spawn(people::live(server.clone(), seed, end.clone()));
    all.spawn(keep(server.clone(), StdRng::seed_from_u64(seed + 200), end.clone()));
    all.spawn(end_nodes(server.clone(), StdRng::seed_from_u64(seed + 202), end.clone()));
    all.spawn(cry(server.clone(), StdRng::seed_from_u64(seed + 201), end.clone()));
    for n in 0..FEEDS {
        all.spawn(blog(server.clone(), n, StdRng::seed_from_u64(seed + 300 + n as u64), end.clone()));
    }
    while let Some(ended) = all.join_next().await {
        ended.expect("nobody panics");
    }
}

/// The last word of every author; gives when it is acknowledged.
pub async fn say_goodbye(server: &Server) {
    static WORDS: AtomicUsize = AtomicUsize::new(0);
    let count = WORDS.fetch_add(1, Ordering::SeqCst);
    for n in 0..FEEDS {
        let item = format!("h{n}-farewell{count}");
        let title = format!("{item} edition 1");
        assert_eq!(publish(server, &author(n), &feed(n), &item, &title, 200).await, Fate::Acknowledged(0));
    }
}

async fn publish(server: &Server, by: &str, place: &Place, item: &str, title: &str, bytes: usize) -> Fate {
    let payload = client::publish(&place.1, item, &entry(title, bytes));
    settled(server.act(&format!("{by}/desk"), place, item, What::Published(title.to_owned()), &payload).await).await
}

async fn settled(answer: crate::crash::server::Answer) -> Fate {
    match tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes in time") {
        Ok(Ok(_)) => Fate::Acknowledged(0),
        Ok(Err(fate)) => fate,
        Err(_) => Fate::Unknown,
    }
}

/// Posts, and now and then edits or retracts.
async fn blog(server: Arc<Server>, n: usize, mut rng: StdRng, end: Arc<AtomicBool>) {
    let mut own: Vec<(String, usize)> = Vec::new();
    let mut count = 0;
    while pause(&mut rng, 1_000..5_000, &end).await {
        let (item, edition) = match rng.random_range(0..10) {
            0 if !own.is_empty() => {
                let (item, _) = own.remove(rng.random_range(0..own.len()));
                let payload = client::retract(MICROBLOG, &item);
                let by = format!("{}/desk", author(n));
                settled(server.act(&by, &feed(n), &item, What::Retracted, &payload).await).await;
                continue;
            }
            1 if !own.is_empty() => {
                let at = rng.random_range(0..own.len());
                own[at].1 += 1;
                own[at].clone()
            }
            _ => {
                count += 1;
                own.push((format!("h{n}-{count}"), 1));
                (format!("h{n}-{count}"), 1)
            }
        };
        if own.len() > 5 {
            own.remove(0);
        }
        let bytes = if rng.random_range(0..20) == 0 { 20_000 } else { rng.random_range(200..2_000) };
        publish(&server, &author(n), &feed(n), &item, &format!("{item} edition {edition}"), bytes).await;
    }
}

/// Fills the vault, gives it new titles and empties it. One request after the other: what was done is then certain.
async fn keep(server: Arc<Server>, mut rng: StdRng, end: Arc<AtomicBool>) {
    let (by, place) = (format!("keeper@{HOST}"), vault());
    let mut count = 0;
    while pause(&mut rng, 20..400, &end).await {
        count += 1;
        let dice = rng.random_range(0..10);
        if dice > 1 {
            publish(&server, &by, &place, &format!("v-{count}"), &format!("v-{count} edition 1"), 100 * dice).await;
            continue;
        }
        let from = format!("{by}/desk");
        // Who is told nothing asks again.
        for again in 0.. {
            let (what, payload) = match dice {
                0 => (What::Purged, format!("<pubsub xmlns='{OWNER}'><purge node='{}'/></pubsub>", place.1)),
                _ => (What::Configured, configure(&place.1, &format!("the vault, {count}, {again}"))),
            };
            if settled(server.act(&from, &place, "", what, &payload).await).await != Fate::Unknown {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Makes a node, publishes there and deletes it: its subscribers are told of all that, the end included.
async fn end_nodes(server: Arc<Server>, mut rng: StdRng, end: Arc<AtomicBool>) {
    let by = format!("ender@{HOST}");
    let desk = format!("{by}/desk");
    for n in 1.. {
        if !pause(&mut rng, 100..1_500, &end).await {
            return;
        }
        let place = passing(n);
        // Asked until there is an answer. A refusal says that it was done before.
        let create = format!("<pubsub xmlns='{PUBSUB}'><create node='{}'/></pubsub>", place.1);
        let _ = server.ask("set", &desk, SOCIAL, &create).await;
        for who in 0..3 {
            people::subscribe(&server, &format!("faithful{who}@{HOST}"), &place).await;
        }
        for item in 0..rng.random_range(0..6) {
            let item = format!("p{n}-{item}");
            publish(&server, &by, &place, &item, &format!("{item} edition 1"), 200).await;
        }
        let payload = format!("<pubsub xmlns='{OWNER}'><delete node='{}'/></pubsub>", place.1);
        if settled(server.act(&desk, &place, "", What::Deleted, &payload).await).await == Fate::Unknown {
            let _ = server.ask("set", &desk, SOCIAL, &payload).await;
            server.enter(|ledger| ledger.is_deleted(&place));
        }
    }
}

fn configure(node: &str, title: &str) -> String {
    format!(
        "<pubsub xmlns='{OWNER}'><configure node='{node}'><x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#node_config</value></field>\
         <field var='pubsub#title'><value>{title}</value></field></x></configure></pubsub>"
    )
}

async fn cry(server: Arc<Server>, mut rng: StdRng, end: Arc<AtomicBool>) {
    let mut count = 0;
    while pause(&mut rng, 2_000..6_000, &end).await {
        count += 1;
        let item = format!("c-{count}");
        publish(&server, &format!("crier@{HOST}"), &plaza(), &item, &format!("{item} edition 1"), 300).await;
    }
}

/// Waits some milliseconds; false if it is the end.
async fn pause(rng: &mut StdRng, span: std::ops::Range<u64>, end: &AtomicBool) -> bool {
    let until = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(span));
    while tokio::time::Instant::now() < until && !end.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    !end.load(Ordering::SeqCst)
}
