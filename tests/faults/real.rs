//! The same ledger behind real servers: Prosody and ejabberd get SIGKILL while a crowd is being told, and come back.
//!
//! The promise is "handed to the server": what the server had read and not passed on when it died is its own loss.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use minidom::Element;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::crash::ledger::{Act, Fate, Heard, Ledger, Place, Stock, Verdict, What, Wish, Writers, compare};
use crate::crash::server::entry;
use crate::support::client::{Client, MICROBLOG, event_items, items, publish, subscribe};
use crate::support::rookery::Rookery;
use crate::support::servers::{CROWD, Server, at_social};
use crate::support::witness::{Told, Witness};

/// Kills of a server, subscribers, and posts under way at each.
const KILLS: usize = 2;
const SUBSCRIBERS: usize = 200;
const POSTS: usize = 12;

/// Kills `server` again and again while posts are under way, and gives what was found with the words for its row.
pub async fn kill_the_server(mut server: Server, seed: u64) -> (Verdict, String, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let witness = Witness::before(server.component_address(), MICROBLOG).await;
    let mut rookery = Rookery::start_behind(&witness, &server).await;
    let place: Place = (at_social("alice"), MICROBLOG.to_owned());
    let mut ledger = Ledger::default();
    let (mut alice, mut crowd) = (server.login("alice").await, server.crowd().await);
    alice.set(&place.0, &publish(MICROBLOG, "first", &entry("first", 50))).await.expect("the account is made");
    for n in 0..SUBSCRIBERS {
        let (who, id) = (format!("s{n:03}@{CROWD}"), crowd.id());
        let (to, wish, sent) = (&place.0, subscribe(MICROBLOG, &who), ledger.tick());
        crowd.send_raw(&format!("<iq type='set' from='{who}' to='{to}' id='{id}'>{wish}</iq>")).await.expect("sent");
        crowd.answer(&id).await.expect("everybody may subscribe");
        let fate = Fate::Acknowledged(ledger.tick());
        ledger.wishes.push(Wish { who, place: place.clone(), on: true, sent, fate });
    }
    let mut proved = BTreeSet::new();
    for kill in 0..KILLS {
        let mut asked = Vec::new();
        for n in 0..POSTS {
            let item = format!("k{kill}-{n}");
            let payload = publish(MICROBLOG, &item, &entry(&item, 300));
            let id = alice.post("set", Some(&place.0), &payload).await.expect("sent");
            let (sent, what) = (ledger.tick(), What::Published(item.clone()));
            asked.push((id, ledger.acts.len()));
            ledger.acts.push(Act { place: place.clone(), item, what, sent, fate: Fate::Unknown });
        }
        let (told, latest) = (ledger.heard.len(), Instant::now() + Duration::from_secs(10));
        let moment = told + rng.random_range(1..SUBSCRIBERS * POSTS * 4 / 5);
        while ledger.heard.len() < moment && hear(&mut crowd, latest, &mut ledger).await {}
        server.kill();
        for (id, at) in asked {
            if alice.answer(&id).await.is_ok() {
                ledger.acts[at].fate = Fate::Acknowledged(ledger.tick());
            }
        }
        // What the server wrote before it died is still on its way to us.
        while hear(&mut crowd, Instant::now() + Duration::from_millis(200), &mut ledger).await {}
        proved.extend(witness.proved());
        // The crowd must stand there again before the component speaks on: to a component that is away nothing is kept.
        rookery.pause();
        server.start_again().await;
        crowd = server.crowd().await;
        alice = server.login("alice").await;
        rookery.go_on();
    }
    let begun = Instant::now();
    let verdict = loop {
        while hear(&mut crowd, Instant::now() + Duration::from_secs(2), &mut ledger).await {}
        rookery.ready().await;
        let stock = Stock::from([(place.clone(), stock(&mut alice, &place).await)]);
        let verdict = compare(&ledger, &BTreeMap::from([(place.clone(), Writers::One(1_000_000))]), &stock);
        if verdict.lost.is_empty() || begun.elapsed() > Duration::from_secs(60) {
            break verdict;
        }
    };
    let all = verdict.all();
    let row = format!(
        "| {:?} killed | {KILLS} | {} | {} | {} | {} | {} |",
        server.kind,
        all.acknowledged,
        all.promised,
        verdict.lost.len(),
        all.repeated,
        all.repeated_after
    );
    (verdict, row, lost_in_the_server(&ledger, &proved))
}

/// How much was lost inside the server: what it had proved to have read before it was killed, and nobody ever heard.
fn lost_in_the_server(ledger: &Ledger, proved: &BTreeSet<Told>) -> usize {
    let heard: BTreeSet<(&str, &str)> = ledger.heard.iter().map(|h| (h.who.as_str(), h.item.as_str())).collect();
    let acknowledged: BTreeSet<&str> = ledger
        .acts
        .iter()
        .filter(|act| matches!(act.fate, Fate::Acknowledged(_)))
        .map(|act| act.item.as_str())
        .collect();
    let is_lost = |(who, item): &&Told| acknowledged.contains(item.as_str()) && !heard.contains(&(who, item));
    proved.iter().filter(is_lost).count()
}

/// Takes one notification, if one comes before `until`.
async fn hear(crowd: &mut Client, until: Instant, ledger: &mut Ledger) -> bool {
    let patience = until.saturating_duration_since(Instant::now());
    let news = |stanza: &Element| !event_items(stanza, MICROBLOG).is_empty();
    let Ok(message) = crowd.expect_within(patience, "a notification", news).await else { return false };
    let attr = |name: &str| message.attr(name).unwrap_or_default().to_owned();
    for item in event_items(&message, MICROBLOG) {
        let item = item.attr("id").unwrap_or_default().to_owned();
        ledger.heard.push(Heard {
            who: attr("to"),
            place: (attr("from"), MICROBLOG.to_owned()),
            what: What::Published(item.clone()),
            item,
            id: attr("id"),
            session: 0,
            at: Instant::now(),
        });
    }
    true
}

async fn stock(alice: &mut Client, place: &Place) -> Vec<(String, String)> {
    let found = alice.get(&place.0, &items(MICROBLOG)).await.expect("alice may read her own");
    let ids = crate::support::client::item_ids(&found).into_iter();
    ids.filter(|id| id != "first").map(|id| (id.clone(), id)).collect()
}
