//! The story: alice publishes, juliet hears of it at once, the web shows it, a hub's subscriber gets it pushed.

use std::time::Duration;

use minidom::Element;

use crate::support::client::{
    ATOM, Client, MICROBLOG, entry, event_items, item_ids, items, publish, retract, subscribe,
};
use crate::support::rookery::{ACCT, PUBLIC, Rookery};
use crate::support::servers::{SOCIAL, Server, at_social};
use crate::support::web::{self, Intent, Subscriber};

pub async fn the_first_post_makes_the_account_and_a_subscriber_hears_of_the_next_at_once(server: Server) {
    let rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    let mut juliet = server.login("juliet").await;
    let hers = at_social("alice");

    // There is no alice here yet, and a stranger's question does not make one.
    let none = juliet.get(&hers, &items(MICROBLOG)).await.unwrap_err();
    assert_eq!(none.refusal().map(|r| r.condition.as_str()), Some("item-not-found"), "{none}");
    // Nor may juliet make it: the name belongs to the Jabber account of the same local part.
    let stolen = juliet.set(&hers, &publish(MICROBLOG, "x", &entry("Mine!", "x"))).await.unwrap_err();
    assert!(stolen.refusal().is_some(), "{stolen}");

    // alice's first write makes the account.
    alice.set(&hers, &publish(MICROBLOG, "first", &entry("Good morrow", "first"))).await.unwrap();
    let (status, accounts) = rookery.command(&["account", "list"]);
    assert!(status.success() && accounts.contains("alice"), "{accounts}");

    // juliet subscribes with her bare JID and no presence.
    let subscribed = juliet.set(&hers, &subscribe(MICROBLOG, "juliet@montague.test")).await.unwrap();
    assert!(String::from(&subscribed).contains("subscribed"), "{}", String::from(&subscribed));

    // alice publishes; juliet has it with its payload, completed.
    alice.set(&hers, &publish(MICROBLOG, "second", &entry("The lark & the nightingale", "second"))).await.unwrap();
    let event = juliet.event(&hers, MICROBLOG, "second").await.unwrap();
    let item = event_items(&event, MICROBLOG)[0];
    assert_eq!(item.attr("publisher").map(bare), Some(hers.as_str()), "the author is who published");
    let entry = item.get_child("entry", ATOM).expect("the payload is delivered");
    assert_eq!(text(entry, "title"), "The lark & the nightingale");
    assert!(text(entry, "id").starts_with("tag:social.montague.test,"), "{}", text(entry, "id"));
    assert!(!text(entry, "published").is_empty() && !text(entry, "updated").is_empty());
    let author = entry.get_child("author", ATOM).expect("the author is completed");
    assert_eq!(text(author, "uri"), format!("xmpp:{hers}"));
    assert!(link(entry, "alternate", "http").starts_with(PUBLIC));
    assert!(link(entry, "alternate", "xmpp:").contains(&hers));
    assert!(link(entry, "replies", "xmpp:").contains("comments"));

    let stored = juliet.get(&hers, &items(MICROBLOG)).await.unwrap();
    assert_eq!(item_ids(&stored), ["first", "second"]);

    // alice takes it back; juliet is told, and it is gone.
    alice.set(&hers, &retract(MICROBLOG, "second")).await.unwrap();
    let gone = juliet.expect("the retraction", |stanza| {
        event_items(stanza, MICROBLOG).iter().any(|it| it.name() == "retract" && it.attr("id") == Some("second"))
    });
    gone.await.unwrap();
    let stored = juliet.get(&hers, &items(MICROBLOG)).await.unwrap();
    assert_eq!(item_ids(&stored), ["first"]);

    // An unsubscribed juliet hears nothing more.
    let leave = format!(
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><unsubscribe node='{MICROBLOG}' jid='juliet@montague.test'/></pubsub>"
    );
    juliet.set(&hers, &leave).await.unwrap();
    alice.set(&hers, &publish(MICROBLOG, "third", &self::entry("Are you there?", "third"))).await.unwrap();
    let heard = juliet.listen(Duration::from_millis(500), |stanza| {
        event_items(stanza, MICROBLOG).iter().any(|it| it.attr("id") == Some("third"))
    });
    assert!(heard.await.is_none());
}

pub async fn the_same_post_stands_on_the_web(server: Server) {
    let rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    post(&mut alice, "lark", "It was the lark <herald> of the morn").await;

    let feed = rookery.get("/@alice.atom").await;
    assert_eq!((feed.status, media_type(&feed)), (200, "application/atom+xml".to_owned()));
    let tree = parse(&feed.body);
    let first = tree.get_child("entry", ATOM).expect("the feed has an entry");
    assert_eq!(text(first, "title"), "It was the lark <herald> of the morn");
    assert!(first.get_child("verb", "http://activitystrea.ms/spec/1.0/").is_some_and(|v| v.text().ends_with("post")));
    assert_eq!(link(&tree, "self", "https"), format!("{PUBLIC}/@alice.atom"));

    // What has not changed is not sent again.
    let tag = feed.header("etag");
    let again = web::get_with(&rookery.served("/@alice.atom"), &[("if-none-match", &tag)]).await.unwrap();
    assert_eq!((again.status, again.body.as_str()), (304, ""), "etag {tag:?}");

    // The permalink is a page for people: text shown, never interpreted.
    let permalink = link(first, "alternate", "http");
    let page = rookery.get(&permalink).await;
    assert_eq!((page.status, media_type(&page)), (200, "text/html".to_owned()), "{permalink}");
    let shown = ["It was the lark &lt;herald&gt; of the morn", "It was the lark &#60;herald&#62; of the morn"];
    assert!(shown.iter().any(|text| page.body.contains(text)), "{}", page.body);
    assert!(page.header("content-security-policy").contains("default-src"), "{:?}", page.headers);
    assert_eq!(rookery.get("/@alice").await.status, 200);
    assert_eq!(rookery.get("/@nobody.atom").await.status, 404);

    // WebFinger finds the account (RFC 7033), in JSON and in XML.
    let finger = format!("/.well-known/webfinger?resource=acct:alice@{ACCT}");
    let found = rookery.get(&finger).await;
    assert_eq!((found.status, media_type(&found)), (200, "application/jrd+json".to_owned()));
    let jrd: serde_json::Value = serde_json::from_str(&found.body).unwrap();
    assert_eq!(jrd["subject"], format!("acct:alice@{ACCT}"));
    let rels: Vec<_> = jrd["links"].as_array().into_iter().flatten().map(|link| link["rel"].clone()).collect();
    assert!(rels.contains(&"http://schemas.google.com/g/2010#updates-from".into()), "{rels:?}");
    let xrd = web::get_with(&rookery.served(&finger), &[("accept", "application/xrd+xml")]).await.unwrap();
    assert_eq!((xrd.status, media_type(&xrd)), (200, "application/xrd+xml".to_owned()));
    let unknown = rookery.get(&format!("/.well-known/webfinger?resource=acct:nobody@{ACCT}")).await;
    assert_eq!(unknown.status, 404);
    let host_meta = rookery.get("/.well-known/host-meta").await;
    assert!(host_meta.status == 200 && host_meta.body.contains("webfinger?resource={uri}"), "{host_meta:?}");
}

pub async fn an_http_subscriber_gets_a_signed_push(server: Server) {
    let rookery = Rookery::start(&server).await;
    let site = Subscriber::start().await;
    site.answer_intent("liar", Intent::WrongChallenge);
    let mut alice = server.login("alice").await;
    post(&mut alice, "first", "Before anybody listened").await;

    let feed = parse(&rookery.get("/@alice.atom").await.body);
    let (hub, topic) = (link(&feed, "hub", "http"), link(&feed, "self", "http"));
    for name in ["reader", "liar"] {
        let wish = [
            ("hub.mode", "subscribe"),
            ("hub.topic", &topic),
            ("hub.callback", &site.callback(name)),
            ("hub.secret", "a rose by any other name"),
            ("hub.lease_seconds", "86400"),
        ];
        let answer = web::post(&rookery.served(&hub), &wish).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    // WebSub §5.3: the hub asks whether the subscriber meant it.
    let asked = site.verified("reader").await;
    assert_eq!(asked.get("hub.mode").map(String::as_str), Some("subscribe"));
    assert_eq!(asked.get("hub.topic"), Some(&topic));
    assert!(asked.get("hub.lease_seconds").and_then(|lease| lease.parse::<u64>().ok()).is_some_and(|lease| lease > 0));
    site.verified("liar").await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    post(&mut alice, "second", "Now somebody listens").await;
    let push = site.push_with("reader", "Now somebody listens").await;
    assert!(push.signed_with("a rose by any other name"), "{:?}", push.headers);
    assert!(!push.signed_with("another secret"));
    assert_eq!(push.header("content-type"), "application/atom+xml");
    // WebSub §7: the push names hub and topic.
    let links = push.header("link");
    assert!(links.contains(&format!("<{hub}>")) && links.contains(&format!("<{topic}>")), "{links}");
    assert_eq!(parse(&push.text()).name(), "feed");

    // Who did not echo the challenge never wanted it.
    assert!(site.pushes("liar").is_empty(), "pushed to a callback that did not confirm");
}

pub async fn any_client_can_post_by_chat(server: Server) {
    let rookery = Rookery::start(&server).await;
    let mut romeo = server.login("romeo").await;

    romeo.say(SOCIAL, "help").await.unwrap();
    let help = said(&mut romeo).await;
    for word in ["post", "follow", "unfollow", "list"] {
        assert!(help.contains(word), "the help does not name {word}: {help}");
    }

    romeo.say(SOCIAL, "post But soft, what light through yonder window breaks?").await.unwrap();
    let answer = said(&mut romeo).await;
    assert!(answer.contains(PUBLIC), "the answer gives the post's address: {answer}");
    let found = romeo.get(&at_social("romeo"), &items(MICROBLOG)).await.unwrap();
    assert_eq!(item_ids(&found).len(), 1);
    assert!(rookery.get("/@romeo.atom").await.body.contains("what light through yonder window"));

    // juliet follows by chat and hears the next one.
    let mut juliet = server.login("juliet").await;
    juliet.say(SOCIAL, &format!("follow {}", at_social("romeo"))).await.unwrap();
    said(&mut juliet).await;
    romeo.say(SOCIAL, "post It is the east").await.unwrap();
    juliet
        .expect("romeo's second post", |stanza| {
            stanza.attr("from") == Some(&at_social("romeo")) && String::from(stanza).contains("It is the east")
        })
        .await
        .unwrap();
}

/// alice publishes an item to her microblog and has the answer.
pub async fn post(alice: &mut Client, item: &str, title: &str) {
    let answer = alice.set(&at_social("alice"), &publish(MICROBLOG, item, &entry(title, item))).await;
    answer.unwrap_or_else(|failure| panic!("the publish of {item} has no result: {failure}"));
}

/// The body of the next chat message from the component.
async fn said(client: &mut Client) -> String {
    let message = client
        .expect("an answer by chat", |stanza| {
            stanza.attr("from").map(bare).is_some_and(|from| from.ends_with(SOCIAL))
                && stanza.get_child("body", "jabber:client").is_some()
                && stanza.attr("type") != Some("headline")
        })
        .await
        .unwrap();
    message.get_child("body", "jabber:client").map(Element::text).unwrap_or_default()
}

fn bare(jid: &str) -> &str {
    jid.split('/').next().unwrap_or_default()
}

/// The text of a child in the Atom namespace; empty if it is not there.
fn text(element: &Element, child: &str) -> String {
    element.get_child(child, ATOM).map(Element::text).unwrap_or_default()
}

/// The address of the first link of that relation whose address begins with `scheme`; empty if there is none.
pub fn link(element: &Element, rel: &str, scheme: &str) -> String {
    let links = element.children().filter(|child| child.is("link", ATOM) && child.attr("rel") == Some(rel));
    links.filter_map(|link| link.attr("href")).find(|href| href.starts_with(scheme)).unwrap_or_default().to_owned()
}

pub fn parse(xml: &str) -> Element {
    Element::from_reader(xml.as_bytes()).unwrap_or_else(|error| panic!("not well-formed: {error}\n{xml}"))
}

/// The content type without its parameters.
fn media_type(page: &web::Page) -> String {
    page.header("content-type").split(';').next().unwrap_or_default().trim().to_owned()
}
