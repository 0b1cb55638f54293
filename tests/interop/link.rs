//! The component's connection, when something is wrong with it: said in words that an administrator understands.

use std::time::Duration;

use crate::support::rookery::{Rookery, Settings};
use crate::support::servers::{Kind, SOCIAL, Server};
use crate::support::{until, web};

pub async fn a_wrong_secret_is_said_in_words(server: Server) {
    let rookery = Rookery::begin(&Settings { secret: "montague".to_owned(), ..Settings::attached_to(&server) });
    let line = rookery.log_line(&["secret", SOCIAL]).await;
    println!("{:?}, wrong secret: {line}", server.kind);
    assert!(!rookery.log().contains("montague\""), "the secret itself is not for the log");
}

pub async fn a_name_the_server_does_not_know_is_said_in_words(server: Server) {
    let stranger = "stranger.capulet.test";
    let rookery = Rookery::begin(&Settings { jid: stranger.to_owned(), ..Settings::attached_to(&server) });
    let line = rookery.log_line(&["does not know", stranger]).await;
    println!("{:?}, unknown name: {line}", server.kind);
}

pub async fn a_second_instance_is_said_in_words(server: Server) {
    let first = Rookery::start(&server).await;
    let second = Rookery::begin(&Settings::attached_to(&server));
    let line = match server.kind {
        // Prosody keeps the first and refuses the newcomer.
        Kind::Prosody => second.log_line(&["already attached", SOCIAL]).await,
        // ejabberd lets both in and shares the stanzas out between them; the nonce we send ourselves tells.
        Kind::Ejabberd => second.log_line(&["another process", SOCIAL]).await,
    };
    println!("{:?}, second instance: {line}", server.kind);
    drop(first);
}

pub async fn a_server_that_comes_back_is_found_again(mut server: Server) {
    let mut rookery = Rookery::start(&server).await;
    let url = format!("{}/readyz", rookery.admin);
    server.kill();
    let mut unready = false;
    for _ in 0..100 {
        unready = web::get(&url).await.is_ok_and(|page| page.status == 503);
        if unready {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(unready, "not ready while there is no server");
    assert!(rookery.ended().is_none(), "a server that is away is no reason to end");

    server.start_again().await;
    rookery.ready().await;
    let mut nurse = server.login("nurse").await;
    nurse.get(SOCIAL, "<ping xmlns='urn:xmpp:ping'/>").await.unwrap();
    assert!(until(Duration::from_secs(5), || server.attached().len() == 1).await, "one connection, not more");
}
