//! Our process dies or is told to end: nothing that was acknowledged is gone, what was promised is delivered.

use crate::support::client::{MICROBLOG, entry, item_ids, items, publish, subscribe};
use crate::support::rookery::Rookery;
use crate::support::servers::{Server, at_social};
use crate::support::web::{self, Subscriber};

use super::story::{link, parse, post};

pub async fn what_was_acknowledged_is_there_after_kill_9_and_what_was_promised_arrives(server: Server) {
    let mut rookery = Rookery::start(&server).await;
    let site = Subscriber::start().await;
    let mut alice = server.login("alice").await;
    let mut juliet = server.login("juliet").await;
    let hers = at_social("alice");
    post(&mut alice, "first", "Good morrow").await;
    juliet.set(&hers, &subscribe(MICROBLOG, "juliet@montague.test")).await.unwrap();
    let feed = parse(&rookery.get("/@alice.atom").await.body);
    let (hub, topic) = (link(&feed, "hub", "http"), link(&feed, "self", "http"));
    let wish = [("hub.mode", "subscribe"), ("hub.topic", &*topic), ("hub.callback", &*site.callback("reader"))];
    assert_eq!(web::post(&rookery.served(&hub), &wish).await.unwrap().status, 202);
    site.verified("reader").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;

    let mut acknowledged = vec!["first".to_owned()];
    for round in 0..3 {
        // Ten requests in flight; as soon as the last is acknowledged the process is gone.
        let names: Vec<String> = (0..10).map(|n| format!("r{round}-{n}")).collect();
        let mut waiting = Vec::new();
        for name in &names {
            let title = format!("Round {round}, {name}");
            waiting
                .push(alice.post("set", Some(&hers), &publish(MICROBLOG, name, &entry(&title, name))).await.unwrap());
        }
        for id in &waiting {
            alice.answer(id).await.unwrap();
        }
        rookery.kill();
        acknowledged.extend(names.clone());
        rookery.start_again().await;

        let stored = alice.get(&hers, &items(MICROBLOG)).await.unwrap();
        assert_eq!(item_ids(&stored), acknowledged, "round {round}");
        for name in &names {
            juliet.event(&hers, MICROBLOG, name).await.unwrap_or_else(|failure| panic!("round {round}: {failure}"));
        }
        site.push_with("reader", &format!("Round {round}, r{round}-9")).await;
    }
    println!("{:?}: 3 kills, {} acknowledged, all there, all heard and pushed", server.kind, acknowledged.len());
}

pub async fn a_drain_ends_in_order(server: Server) {
    let mut rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    post(&mut alice, "first", "Good morrow").await;
    let status = rookery.drain().await.expect("it ends within 30 s of SIGTERM");
    assert!(status.success(), "{status}");
    assert!(server.attached().is_empty(), "the component has left");
    rookery.start_again().await;
    let stored = alice.get(&at_social("alice"), &items(MICROBLOG)).await.unwrap();
    assert_eq!(item_ids(&stored), ["first"]);
}
