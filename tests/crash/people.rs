//! The people of the crash test: writers who do not wait for answers, subscribers who come and go, sites that are pushed to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minidom::Element;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ledger::{Fate, Place, Stock, What, Writers};
use super::server::{PATIENCE, Server, entry, title};
use crate::support::client::{self, ATOM, MICROBLOG, PUBSUB};
use crate::support::rookery::Rookery;
use crate::support::servers::{HOST, SOCIAL, at_social};
use crate::support::web::{self, Subscriber};

pub const WRITERS: usize = 4;
/// Subscribed to everything from the beginning.
const FAITHFUL: usize = 4;
/// Subscribe and unsubscribe all the time.
const FICKLE: usize = 2;
/// A writer's requests that wait for an answer at one time.
const WINDOW: usize = 24;
/// Items that a leaf node keeps.
const KEPT: usize = 25;
/// What `max_items` is to a node that has no limit of its own.
const ALL: usize = 1_000_000;
/// The node that all may write to.
const AGORA: &str = "agora";

pub fn writer(n: usize) -> String {
    format!("w{n}@{HOST}")
}

pub fn microblog(n: usize) -> Place {
    (at_social(&format!("w{n}")), MICROBLOG.to_owned())
}

fn leaf(n: usize) -> Place {
    (SOCIAL.to_owned(), format!("leaf {n}"))
}

fn agora() -> Place {
    (SOCIAL.to_owned(), AGORA.to_owned())
}

/// Every node of the test, and what is asked of it.
pub fn places() -> Vec<(Place, Writers)> {
    let own = (0..WRITERS).flat_map(|n| [(microblog(n), Writers::One(ALL)), (leaf(n), Writers::One(KEPT))]);
    own.chain([(agora(), Writers::Many)]).collect()
}

/// Makes the nodes and the accounts, and subscribes who is faithful: all of it acknowledged.
pub async fn settle_in(server: &Server) {
    for n in 0..WRITERS {
        let by = format!("{}/desk", writer(n));
        create(server, &by, &leaf(n).1, &[("pubsub#max_items", &KEPT.to_string())]).await;
        let first = format!("first of w{n}");
        let payload = client::publish(MICROBLOG, "first", &entry(&first, 20));
        let answer = server.act(&by, &microblog(n), "first", What::Published(first), &payload).await;
        tokio::time::timeout(PATIENCE, answer)
            .await
            .expect("in time")
            .expect("an answer")
            .expect("the account is made");
    }
    create(server, &format!("{}/desk", writer(0)), AGORA, &[("pubsub#publish_model", "open")]).await;
    for n in 0..FAITHFUL {
        for (place, _) in places() {
            subscribe(server, &format!("faithful{n}@{HOST}"), &place).await;
        }
    }
}

pub async fn create(server: &Server, by: &str, node: &str, fields: &[(&str, &str)]) {
    let fields: String =
        fields.iter().map(|(var, value)| format!("<field var='{var}'><value>{value}</value></field>")).collect();
    let payload = format!(
        "<pubsub xmlns='{PUBSUB}'><create node='{node}'/><configure><x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#node_config</value></field>{fields}\
         </x></configure></pubsub>"
    );
    server.ask("set", by, SOCIAL, &payload).await.unwrap_or_else(|fate| panic!("{node} is not made: {fate:?}"));
}

/// Asks until it is acknowledged.
pub async fn subscribe(server: &Server, who: &str, place: &Place) {
    while wish(server, who, place, true).await == Fate::Unknown {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One subscribe or unsubscribe, and what came of it.
pub async fn wish(server: &Server, who: &str, place: &Place, on: bool) -> Fate {
    let payload = match on {
        true => client::subscribe(&place.1, who),
        false => format!("<pubsub xmlns='{PUBSUB}'><unsubscribe node='{}' jid='{who}'/></pubsub>", place.1),
    };
    let answer = server.wish(who, place, on, &payload).await;
    match tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes in time") {
        Ok(Ok(_)) => Fate::Acknowledged(0),
        Ok(Err(Fate::Refused(_, why))) if on => panic!("{who} may not subscribe to {place:?}: {why}"),
        Ok(Err(fate)) => fate,
        Err(_) => Fate::Unknown,
    }
}

/// Everybody at once, until `end`.
pub async fn live(server: Arc<Server>, seed: u64, end: Arc<AtomicBool>) {
    let mut all = JoinSet::new();
    for n in 0..WRITERS {
        all.spawn(write(server.clone(), n, StdRng::seed_from_u64(seed + n as u64), end.clone()));
    }
    for n in 0..FICKLE {
        all.spawn(waver(server.clone(), n, StdRng::seed_from_u64(seed + 100 + n as u64), end.clone()));
    }
    while let Some(ended) = all.join_next().await {
        ended.expect("nobody panics");
    }
}

/// Publishes, edits and retracts in bursts, a window of requests under way.
async fn write(server: Arc<Server>, n: usize, mut rng: StdRng, end: Arc<AtomicBool>) {
    let by = format!("{}/desk", writer(n));
    let window = Arc::new(Semaphore::new(WINDOW));
    let nodes = [microblog(n), leaf(n), agora()];
    // The own items of each node that may still be edited or retracted, with the number of their last edition.
    let mut own: [Vec<(String, usize)>; 3] = Default::default();
    let mut count = 0;
    while !end.load(Ordering::SeqCst) {
        for _ in 0..rng.random_range(1..12) {
            let permit = window.clone().acquire_owned().await.expect("never closed");
            let at = rng.random_range(0..nodes.len());
            let (place, items) = (&nodes[at], &mut own[at]);
            let chosen = if items.is_empty() { 0 } else { rng.random_range(0..items.len()) };
            let fate = match rng.random_range(0..10) {
                0 if place.1 != AGORA && !items.is_empty() => {
                    let (item, _) = items.remove(chosen);
                    let payload = client::retract(&place.1, &item);
                    server.act(&by, place, &item, What::Retracted, &payload).await
                }
                dice => {
                    let edit = dice < 3 && place.1 != AGORA && !items.is_empty();
                    let (item, edition) = match edit {
                        true => {
                            items[chosen].1 += 1;
                            items[chosen].clone()
                        }
                        false => {
                            count += 1;
                            items.push((format!("w{n}-{count}"), 1));
                            // What was trimmed away may not be edited: it would be a new item.
                            if items.len() > 10 {
                                items.remove(0);
                            }
                            (format!("w{n}-{count}"), 1)
                        }
                    };
                    let title = format!("{item} edition {edition}");
                    // Some of a size that databases keep in another way than small ones.
                    let bytes = match rng.random_range(0..400) {
                        0 => rng.random_range(100_000..190_000),
                        dice if dice % 20 == 0 => rng.random_range(16_000..40_000),
                        dice if dice % 20 < 3 => rng.random_range(3_000..9_000),
                        _ => rng.random_range(30..400),
                    };
                    let payload = client::publish(&place.1, &item, &entry(&title, bytes));
                    server.act(&by, place, &item, What::Published(title), &payload).await
                }
            };
            tokio::spawn(async move {
                let _ = fate.await;
                drop(permit);
            });
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..60))).await;
    }
    let _ = tokio::time::timeout(PATIENCE, window.acquire_many(WINDOW as u32)).await.expect("every request ends");
}

/// Subscribes to a node and unsubscribes again, and stays subscribed to all in the end.
async fn waver(server: Arc<Server>, n: usize, mut rng: StdRng, end: Arc<AtomicBool>) {
    let who = format!("fickle{n}@{HOST}");
    let places = places();
    while !end.load(Ordering::SeqCst) {
        let (place, _) = &places[rng.random_range(0..places.len())];
        let on = rng.random_bool(0.7);
        // A request that nobody answered is made again, as a client does.
        while wish(&server, &who, place, on).await == Fate::Unknown {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..100))).await;
    }
}

/// What these nodes hold.
pub async fn stock(server: &Server, places: impl Iterator<Item = &Place>, torn: &mut Vec<String>) -> Stock {
    let mut stock = Stock::new();
    for place in places {
        let items = items(server, place, torn).await;
        stock.insert(place.clone(), items);
    }
    stock
}

/// What a node holds, asked page by page as anybody may (XEP-0059): ids and titles in its order.
pub async fn items(server: &Server, place: &Place, torn: &mut Vec<String>) -> Vec<(String, String)> {
    let mut items = Vec::new();
    let mut after = String::new();
    loop {
        let payload = format!(
            "<pubsub xmlns='{PUBSUB}'><items node='{}'/><set xmlns='http://jabber.org/protocol/rsm'>\
             <max>100</max>{after}</set></pubsub>",
            place.1
        );
        let asked = server.ask("get", &format!("faithful0@{HOST}"), &place.0, &payload).await;
        let result = asked.unwrap_or_else(|fate| panic!("the items of {place:?}: {fate:?}"));
        let page = result.get_child("pubsub", PUBSUB).and_then(|pubsub| pubsub.get_child("items", PUBSUB));
        let page: Vec<&Element> = page.map(|items| items.children().collect()).unwrap_or_default();
        let Some(last) = page.last().and_then(|item| item.attr("id")) else { return items };
        after = format!("<after>{last}</after>");
        for item in page {
            let id = item.attr("id").unwrap_or_default().to_owned();
            match title(item) {
                Ok(title) => items.push((id, title)),
                Err(why) => torn.push(format!("item {id} of {place:?}: {why}")),
            }
        }
    }
}

/// Subscribes a site to the feed of writer `n` (WebSub §5.1) and waits until its intent is verified.
pub async fn subscribe_site(rookery: &Rookery, site: &Subscriber, n: usize) {
    let feed: Element = rookery.get(&format!("/@w{n}.atom")).await.body.parse().expect("a feed");
    let (hub, topic, name) = (link(&feed, "hub"), link(&feed, "self"), site_name(n));
    let form = [("hub.mode", "subscribe"), ("hub.topic", &*topic), ("hub.callback", &*site.callback(&name))];
    assert_eq!(web::post(&rookery.served(&hub), &form).await.expect("the hub answers").status, 202);
    site.verified(&name).await;
}

/// The first address that a feed gives for `rel`.
pub fn link(feed: &Element, rel: &str) -> String {
    let links = feed.children().filter(|child| child.is("link", ATOM) && child.attr("rel") == Some(rel));
    let mut http = links.filter_map(|link| link.attr("href")).filter(|href| href.starts_with("http"));
    http.next().unwrap_or_else(|| panic!("the feed has no link {rel}")).to_owned()
}

pub fn site_name(n: usize) -> String {
    format!("reader-of-w{n}")
}
