//! The harness itself: before we blame our component, what it stands on must work without it.

use std::time::Duration;

use crate::support::client::{MICROBLOG, entry, item_ids, items, publish};
use crate::support::servers::{CROWD, HOST, Server};

pub async fn a_message_and_an_own_pep_item_pass_through_the_server(server: Server) {
    let mut juliet = server.login("juliet").await;
    let mut romeo = server.login("romeo").await;

    // romeo speaks, juliet hears.
    romeo.say(&format!("juliet@{HOST}"), "Call me but love & <I'll> be new baptised").await.unwrap();
    let heard = juliet.expect("romeo's message", |stanza| stanza.has_child("body", "jabber:client")).await.unwrap();
    assert_eq!(heard.attr("from"), Some(romeo.jid.as_str()));
    assert_eq!(
        heard.get_child("body", "jabber:client").map(|body| body.text()).as_deref(),
        Some("Call me but love & <I'll> be new baptised")
    );

    // juliet publishes into her own PEP at home and finds it there.
    let own = juliet.bare().to_owned();
    juliet.set(&own, &publish(MICROBLOG, "balcony", &entry("Ay me!", "balcony"))).await.unwrap();
    let found = juliet.get(&own, &items(MICROBLOG)).await.unwrap();
    assert_eq!(item_ids(&found), ["balcony"]);

    // A refusal comes back as one, not as silence.
    let refused = romeo.get(&format!("nobody@{HOST}"), "<query xmlns='jabber:iq:version'/>").await.unwrap_err();
    assert_eq!(refused.refusal().map(|r| r.condition.as_str()), Some("service-unavailable"), "{refused}");

    // A component of the test's own gets what is sent to any of its addresses, and may answer as any of them.
    let mut crowd = server.crowd().await;
    romeo.say(&format!("s0001@{CROWD}"), "Who are you?").await.unwrap();
    crowd.expect("romeo's question", |stanza| stanza.attr("to") == Some(&format!("s0001@{CROWD}"))).await.unwrap();
    let answer = format!("<message from='s0001@{CROWD}' to='{}'><body>A face</body></message>", romeo.bare());
    crowd.send_raw(&answer).await.unwrap();
    romeo.expect("the answer", |stanza| stanza.attr("from") == Some(&format!("s0001@{CROWD}"))).await.unwrap();
    let overheard = juliet.listen(Duration::from_millis(200), |stanza| stanza.has_child("body", "jabber:client")).await;
    assert!(overheard.is_none(), "{overheard:?}");
}

pub async fn a_killed_server_comes_back_with_its_accounts(mut server: Server) {
    let mut juliet = server.login("juliet").await;
    let crowd = server.crowd().await;
    assert_eq!(server.attached().len(), 1, "one component is attached");
    server.kill();
    let end = juliet.expect("the end of the stream", |_| false).await.unwrap_err();
    assert!(end.refusal().is_none(), "{end}");
    drop(crowd);

    server.start_again().await;
    let mut juliet = server.login("juliet").await;
    let mut romeo = server.login("romeo").await;
    romeo.say(juliet.bare(), "I am here again").await.unwrap();
    juliet.expect("romeo's message", |stanza| stanza.name() == "message").await.unwrap();
    server.crowd().await;
}
