//! The *server* dies in the middle of a fan-out. XEP-0114 acknowledges nothing: only the barrier tells what was read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::support::client::{Client, MICROBLOG, entry, event_items, publish, subscribe};
use crate::support::rookery::Rookery;
use crate::support::servers::{CROWD, Server, at_social};
use crate::support::witness::Witness;

use super::story::post;

const SUBSCRIBERS: usize = 2_000;

pub async fn a_server_killed_amid_a_fan_out_to_2000_loses_nobody(mut server: Server) {
    let witness = Witness::before(server.component_address(), MICROBLOG).await;
    let rookery = Rookery::start_behind(&witness, &server).await;
    let mut alice = server.login("alice").await;
    post(&mut alice, "first", "Good morrow").await;
    let mut crowd = server.crowd().await;
    subscribe_all(&mut crowd).await;

    alice.set(&at_social("alice"), &publish(MICROBLOG, "news", &entry("A plague on both", "news"))).await.unwrap();
    let mut heard = HashMap::new();
    while heard.len() < SUBSCRIBERS / 10 {
        hear(&mut crowd, Duration::from_secs(20), &mut heard).await;
    }
    server.kill();
    // What the server wrote before it died is still on its way to us.
    while hear(&mut crowd, Duration::from_millis(200), &mut heard).await {}
    let before = heard.len();
    assert!(before < SUBSCRIBERS, "the server died too late to prove anything");

    // What it had proved to have read, and not passed on, is its loss: XEP-0114 lets nobody know of it.
    let proved = witness.proved();
    let is_proved = |who: &String| proved.contains(&(who.clone(), "news".to_owned()));

    // The crowd must stand there again before the component speaks on: a message to a component that is away comes
    // back as an error, which is another story.
    rookery.pause();
    server.start_again().await;
    let mut crowd = server.crowd().await;
    rookery.go_on();

    let deadline = Instant::now() + Duration::from_secs(60);
    let is_told =
        |heard: &HashMap<_, _>| (0..SUBSCRIBERS).map(subscriber).all(|who| heard.contains_key(&who) || is_proved(&who));
    while !is_told(&heard) && Instant::now() < deadline {
        hear(&mut crowd, Duration::from_secs(1), &mut heard).await;
    }
    while hear(&mut crowd, Duration::from_secs(1), &mut heard).await {}
    let repeated: usize = heard.values().map(|count| count - 1).sum();
    let missing = (0..SUBSCRIBERS).map(subscriber).filter(|who| !heard.contains_key(who));
    let (theirs, ours): (Vec<_>, Vec<_>) = missing.partition(is_proved);
    println!(
        "{:?}: {SUBSCRIBERS} promised, {before} heard before the kill, {repeated} repeated, {} lost, {} lost by the server",
        server.kind,
        ours.len(),
        theirs.len()
    );
    assert_eq!(ours.first(), None);
}

fn subscriber(n: usize) -> String {
    format!("s{n:04}@{CROWD}")
}

/// Takes one notification of the item, if one comes in `patience`; counts it for its receiver.
async fn hear(crowd: &mut Client, patience: Duration, heard: &mut HashMap<String, usize>) -> bool {
    let news =
        |stanza: &minidom::Element| event_items(stanza, MICROBLOG).iter().any(|it| it.attr("id") == Some("news"));
    match crowd.expect_within(patience, "a notification", news).await {
        Ok(message) => {
            *heard.entry(message.attr("to").unwrap_or_default().to_owned()).or_default() += 1;
            true
        }
        Err(_) => false,
    }
}

/// Subscribes all of them, a bounded number of requests in flight; who is told to wait asks again.
async fn subscribe_all(crowd: &mut Client) {
    let mut left: Vec<usize> = (0..SUBSCRIBERS).rev().collect();
    let mut waiting: HashMap<String, usize> = HashMap::new();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !(left.is_empty() && waiting.is_empty()) {
        while waiting.len() < 64
            && let Some(n) = left.pop()
        {
            let (jid, id) = (subscriber(n), crowd.id());
            let wish = subscribe(MICROBLOG, &jid);
            let to = at_social("alice");
            crowd.send_raw(&format!("<iq type='set' from='{jid}' to='{to}' id='{id}'>{wish}</iq>")).await.unwrap();
            waiting.insert(id, n);
        }
        let answer = crowd.expect("a subscription's answer", |stanza| stanza.name() == "iq").await.unwrap();
        let Some(n) = answer.attr("id").and_then(|id| waiting.remove(id)) else { continue };
        if answer.attr("type") == Some("error") {
            let refusal = crate::support::client::refusal(&answer);
            assert!(refusal.kind == "wait" && Instant::now() < deadline, "s{n:04} may not subscribe: {refusal}");
            left.push(n);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
