//! Requests in flight together: decided in the order they were sent.

use crate::support::client::{
    ATOM, MICROBLOG, PUBSUB, entry, event_items, item_ids, items, publish, retract, subscribe,
};
use crate::support::rookery::Rookery;
use crate::support::servers::{SOCIAL, Server, at_social};

use super::nodes::create;
use super::story::post;

pub async fn a_retract_sent_behind_its_publish_finds_the_item(server: Server) {
    let _rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    let mut juliet = server.login("juliet").await;
    let hers = at_social("alice");
    post(&mut alice, "first", "Good morrow").await;
    juliet.set(&hers, &subscribe(MICROBLOG, "juliet@montague.test")).await.unwrap();

    for round in 0..10 {
        let item = format!("rash-{round}");
        let put = alice.post("set", Some(&hers), &publish(MICROBLOG, &item, &entry("Too rash", &item))).await.unwrap();
        let take = alice.post("set", Some(&hers), &retract(MICROBLOG, &item)).await.unwrap();
        alice.answer(&put).await.unwrap();
        alice.answer(&take).await.unwrap_or_else(|failure| panic!("round {round}: {failure}"));
        // juliet hears of it and then of its end, never the other way round.
        let seen = juliet.event(&hers, MICROBLOG, &item).await.unwrap();
        assert_eq!(event_items(&seen, MICROBLOG)[0].name(), "item", "round {round}");
        let seen = juliet.event(&hers, MICROBLOG, &item).await.unwrap();
        assert_eq!(event_items(&seen, MICROBLOG)[0].name(), "retract", "round {round}");
    }
    let left = juliet.get(&hers, &items(MICROBLOG)).await.unwrap();
    assert_eq!(item_ids(&left), ["first"]);
}

pub async fn sixteen_in_flight_keep_their_order_and_the_node_its_bound(server: Server) {
    let _rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    let mut juliet = server.login("juliet").await;
    alice.set(SOCIAL, &create("full", &[("pubsub#max_items", "10")])).await.unwrap();
    juliet.set(SOCIAL, &subscribe("full", "juliet@montague.test")).await.unwrap();
    for filler in 0..10 {
        let item = format!("old-{filler}");
        alice.set(SOCIAL, &publish("full", &item, &entry("Old", &item))).await.unwrap();
    }

    let names: Vec<String> = (0..16).map(|n| format!("new-{n:02}")).collect();
    let mut waiting = Vec::new();
    for name in &names {
        waiting.push(alice.post("set", Some(SOCIAL), &publish("full", name, &entry(name, name))).await.unwrap());
    }
    for (id, name) in waiting.iter().zip(&names) {
        alice.answer(id).await.unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
    let kept = alice.get(SOCIAL, &items("full")).await.unwrap();
    assert_eq!(item_ids(&kept), names[6..], "the newest ten, oldest first");

    let mut heard = Vec::new();
    while heard.len() < names.len() {
        let message = juliet.expect("the next event", |stanza| !event_items(stanza, "full").is_empty()).await.unwrap();
        let new = event_items(&message, "full").into_iter().filter(|it| it.name() == "item");
        heard.extend(new.filter_map(|it| it.attr("id")).filter(|id| id.starts_with("new-")).map(str::to_owned));
    }
    assert_eq!(heard, names, "in the order of publication");
}

pub async fn a_prefix_declared_on_the_iq_survives(server: Server) {
    let _rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    let mut juliet = server.login("juliet").await;
    let hers = at_social("alice");
    post(&mut alice, "first", "Good morrow").await;
    juliet.set(&hers, &subscribe(MICROBLOG, "juliet@montague.test")).await.unwrap();

    // The payload uses prefixes that only the iq declares, one of them in an extension that we do not know.
    let iq = format!(
        "<iq type='set' id='far' to='{hers}' xmlns:a='{ATOM}' xmlns:geo='http://www.georss.org/georss' xmlns:p='{PUBSUB}'>\
         <p:pubsub><p:publish node='{MICROBLOG}'><p:item id='verona'>\
         <a:entry><a:title>In fair Verona</a:title><a:id>verona</a:id><a:updated>2026-11-22T04:02:04Z</a:updated>\
         <geo:point>45.44 10.99</geo:point></a:entry></p:item></p:publish></p:pubsub></iq>"
    );
    alice.send_raw(&iq).await.unwrap();
    alice.answer("far").await.unwrap();
    let event = juliet.event(&hers, MICROBLOG, "verona").await.unwrap();
    let payload = event_items(&event, MICROBLOG)[0].get_child("entry", ATOM).expect("an entry in Atom's namespace");
    assert_eq!(payload.get_child("title", ATOM).map(|title| title.text()).as_deref(), Some("In fair Verona"));
    let point = payload.get_child("point", "http://www.georss.org/georss").map(|point| point.text());
    assert_eq!(point.as_deref(), Some("45.44 10.99"), "unknown elements survive");
}
