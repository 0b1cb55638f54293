//! The public side of HTTP: WebFinger, host-meta, feeds, pages, and the administrator's listener.

#[path = "support/house.rs"]
mod house;

use axum::body::Body;
use axum::http::Request;
use house::{ALICE, House, PUBLIC};
use rookery::base::id::Ids;
use rookery::base::shutdown;
use rookery::domain::entry::{Entry, Feed};
use rookery::format::canonical::{Canonical, Limits};
use rookery::format::{atom, jrd, xrd};
use rookery::queue::Queue;
use rookery::service::publish::Payload;
use rookery::store::Store;
use rookery::store::kv::{self, Kv, KvError};
use rookery::web::health::{self, Figure, Health};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

const WEBFINGER: &str = "/.well-known/webfinger";

/// A document as a peer reads it.
fn read(text: &str) -> (Feed, Vec<Entry>) {
    let document = Canonical::new(text.as_bytes(), &[], &Limits::DOCUMENT).expect(text);
    let (feed, entries) = atom::read_feed(&document, 1000).expect("an Atom feed");
    (feed, entries.iter().map(|entry| atom::read_entry(entry).expect("an entry")).collect())
}

fn href<'a>(feed: &'a Feed, rel: &str) -> Option<&'a str> {
    feed.link(rel).map(|link| link.href.as_str())
}

// ---- WebFinger, host-meta ----

#[tokio::test]
async fn webfinger_finds_an_account_under_each_of_its_addresses_rfc_7033() {
    let house = House::new();
    house.publish("one", "Hello").await;
    for resource in [
        "acct:alice@example.org",
        "acct%3Aalice%40example.org",
        "ACCT:Alice@Example.org",
        "alice@example.org",
        "@alice@example.org",
        "acct:alice@social.example.org",
        "https://social.example.org/@alice",
        "https://social.example.org/@alice/",
        "https://SOCIAL.example.org:443/%40alice",
        "https://social.example.org/@alice.atom",
        "xmpp:alice@social.example.org",
    ] {
        let answer = house.get(&format!("{WEBFINGER}?resource={resource}")).await;
        assert_eq!(answer.status, 200, "{resource}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/jrd+json");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        let found = jrd::read(answer.body.as_bytes()).unwrap();
        // The identity is at acct_domain, everything that can be fetched at the public host.
        assert_eq!(found.subject.as_deref(), Some("acct:alice@example.org"));
        assert_eq!(found.aliases, [format!("{PUBLIC}/@alice"), "xmpp:alice@social.example.org".into()]);
        let link = |rel| found.link(rel).and_then(|link| link.href.clone()).unwrap_or_default();
        assert_eq!(link("http://webfinger.net/rel/profile-page"), format!("{PUBLIC}/@alice"));
        assert_eq!(link("http://schemas.google.com/g/2010#updates-from"), format!("{PUBLIC}/@alice.atom"));
        assert_eq!(link("hub"), format!("{PUBLIC}/hub"));
        assert_eq!(link("alternate"), "xmpp:alice@social.example.org?;node=urn:xmpp:microblog:0");
    }
}

#[tokio::test]
async fn webfinger_refuses_a_malformed_resource_with_400_and_an_unknown_one_with_404_rfc_7033_section_4_2() {
    let house = House::new();
    house.publish("one", "Hello").await;
    for (query, status) in [
        ("", 400),
        ("?rel=hub", 400),
        ("?resource=", 400),
        ("?resource=alice", 400),
        ("?resource=acct:alice", 400),
        ("?resource=acct:alice@example.org&resource=acct:alice@example.org", 400),
        ("?resource=%00@example.org", 400),
        ("?resource=acct:bob@example.org", 404),
        ("?resource=acct:alice@elsewhere.example", 404),
        ("?resource=acct:admin@example.org", 404),
        ("?resource=https://social.example.org/@bob", 404),
        ("?resource=https://social.example.org.evil.example/@alice", 404),
        ("?resource=https://social.example.org@evil.example/@alice", 404),
        ("?resource=xmpp:alice@example.org", 404),
    ] {
        let answer = house.get(&format!("{WEBFINGER}{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(!answer.body.contains("example"), "it repeats nothing that was asked: {}", answer.body);
    }
    let long = house.get(&format!("{WEBFINGER}?resource=acct:{}@example.org", "a".repeat(4000))).await;
    assert_eq!(long.status, 400);
}

#[tokio::test]
async fn webfinger_filters_by_rel_and_offers_xrd() {
    let house = House::new();
    house.publish("one", "Hello").await;
    let path = format!("{WEBFINGER}?resource=acct:alice@example.org");
    let filtered = house.get(&format!("{path}&rel=hub&rel=nothing")).await;
    let found = jrd::read(filtered.body.as_bytes()).unwrap();
    assert_eq!(found.links.iter().map(|l| l.rel.as_str()).collect::<Vec<_>>(), ["hub"]);
    assert_eq!(found.aliases.len(), 2, "RFC 7033 §4.3: the filter is for links alone");

    let whole = jrd::read(house.get(&path).await.body.as_bytes()).unwrap();
    let old = house.get_with(&path, &[("accept", "application/xrd+xml")]).await;
    assert_eq!(old.header("content-type"), "application/xrd+xml");
    assert_eq!(old.header("vary"), "accept");
    assert_eq!(xrd::read(old.body.as_bytes()).unwrap(), whole);
    // RFC 7033 §4.2: a wish that we do not know is passed over.
    let odd = house.get_with(&path, &[("accept", "text/turtle")]).await;
    assert_eq!((odd.status.as_u16(), odd.header("content-type")), (200, "application/jrd+json"));
    let etag = odd.header("etag").to_owned();
    assert_eq!(house.get_with(&path, &[("if-none-match", &etag)]).await.status, 304);
}

#[tokio::test]
async fn host_meta_leads_to_webfinger_at_the_public_host_rfc_6415() {
    let house = House::new();
    let lrdd = format!("{PUBLIC}/.well-known/webfinger?resource={{uri}}");
    let xml = house.get("/.well-known/host-meta").await;
    assert_eq!((xml.status.as_u16(), xml.header("content-type")), (200, "application/xrd+xml"));
    let json = house.get_with("/.well-known/host-meta.json", &[("accept", "text/html")]).await;
    assert_eq!((json.status.as_u16(), json.header("content-type")), (200, "application/json"));
    let wished = house.get_with("/.well-known/host-meta", &[("accept", "application/json")]).await;
    assert_eq!(wished.header("content-type"), "application/jrd+json");
    let found = xrd::read(xml.body.as_bytes()).unwrap();
    assert_eq!(found, jrd::read(json.body.as_bytes()).unwrap());
    assert_eq!(found, jrd::read(wished.body.as_bytes()).unwrap());
    for media_type in ["application/jrd+json", "application/json", "application/xrd+xml"] {
        assert_eq!(found.link_of_type("lrdd", media_type).unwrap().template.as_deref(), Some(&*lrdd));
    }
}

// ---- feeds ----

#[tokio::test]
async fn a_feed_is_a_topic_that_peers_can_read() {
    let house = House::new();
    house.publish("one", "It was the nightingale").await;
    house.advance(60);
    house
        .publish_xml(
            "two",
            "<entry xmlns='http://www.w3.org/2005/Atom'><title>It was the lark</title>\
             <content type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'><p>the <b>herald</b></p></div></content></entry>",
        )
        .await;
    let answer = house.get("/@alice.atom").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/atom+xml");
    assert_eq!(
        answer.header("link"),
        format!("<{PUBLIC}/hub>; rel=\"hub\", <{PUBLIC}/@alice.atom>; rel=\"self\""),
        "WebSub §4"
    );
    let (feed, entries) = read(&answer.body);
    assert_eq!(feed.id.as_deref(), Some("https://social.example.org/@alice.atom"));
    assert_eq!(href(&feed, "self"), Some("https://social.example.org/@alice.atom"));
    assert_eq!(href(&feed, "hub"), Some("https://social.example.org/hub"));
    assert_eq!((href(&feed, "next"), href(&feed, "first")), (None, None));
    assert_eq!(feed.updated, Some(house.clock.now()));
    let author = feed.author.unwrap();
    assert_eq!(author.uri.as_deref(), Some("https://social.example.org/@alice"));
    assert_eq!(author.email.as_deref(), Some("alice@example.org"));
    let titles: Vec<_> = entries.iter().map(|entry| entry.title.as_deref().unwrap()).collect();
    assert_eq!(titles, ["It was the lark", "It was the nightingale"], "newest first");
    assert_eq!(entries[0].content.as_ref().unwrap().xhtml, "<p>the <b>herald</b></p>");
    assert_eq!(entries[0].permalink(), Some("https://social.example.org/@alice/two"));
    assert!(entries.iter().all(|entry| entry.id.as_deref().unwrap().starts_with("tag:social.example.org,2026-")));
}

#[tokio::test]
async fn addresses_come_from_the_configuration_whatever_host_is_asked() {
    let house = House::new();
    house.publish("one", "Hello").await;
    let plain = house.get("/@alice.atom").await;
    let forged = [("host", "evil.example"), ("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example")];
    let asked = house.get_with("/@alice.atom", &forged).await;
    assert_eq!(asked.body, plain.body);
    assert_eq!(asked.headers, plain.headers);
    for path in ["/@alice", "/@alice/one", "/", "/.well-known/host-meta", "/nothing"] {
        let answer = house.get_with(path, &forged).await;
        assert!(!answer.body.contains("evil") && !format!("{:?}", answer.headers).contains("evil"), "{path}");
    }
}

#[tokio::test]
async fn paging_walks_every_post_exactly_once_while_posts_are_added_rfc_5005() {
    let house = House::new();
    for n in 0..47 {
        house.publish(&format!("p{n}"), &format!("post {n}")).await;
    }
    let mut seen = Vec::new();
    let mut next = Some("/@alice.atom".to_owned());
    let mut pages = 0;
    while let Some(path) = next {
        let answer = house.get(&path).await;
        let (feed, entries) = read(&answer.body);
        assert_eq!(href(&feed, "self"), Some(format!("{PUBLIC}{path}").as_str()));
        assert_eq!(href(&feed, "hub").is_some(), pages == 0, "only the first page is a topic");
        assert_eq!(href(&feed, "first").is_some(), pages > 0);
        assert!(entries.len() <= 20);
        seen.extend(entries.into_iter().map(|entry| entry.title.unwrap()));
        next = href(&feed, "next").map(|url| url.strip_prefix(PUBLIC).unwrap().to_owned());
        pages += 1;
        for more in 0..3 {
            house.publish(&format!("new{pages}-{more}"), "in between").await;
        }
        // A page that was read keeps its bytes, whatever is added in front of it.
        if pages > 1 {
            assert_eq!(house.get(&path).await.header("etag"), answer.header("etag"));
        }
    }
    assert_eq!(pages, 3);
    let all: Vec<String> = (0..47).rev().map(|n| format!("post {n}")).collect();
    assert_eq!(seen, all);
    for bad in ["?before=", "?before=x", "?before=-1", "?before=1&before=2"] {
        assert_eq!(house.get(&format!("/@alice.atom{bad}")).await.status, 400, "{bad}");
    }
    let (_, none) = read(&house.get("/@alice.atom?before=0").await.body);
    assert!(none.is_empty());
}

#[tokio::test]
async fn conditional_requests_are_answered_304_until_something_changes_rfc_9110_section_13() {
    let house = House::new();
    house.publish("one", "Hello").await;
    let young = house.get("/@alice.atom").await;
    assert_eq!(young.header("last-modified"), "", "in the second of a change its date tells nothing yet");
    house.advance(10);
    let first = house.get("/@alice.atom").await;
    let (etag, date) = (first.header("etag").to_owned(), first.header("last-modified").to_owned());
    assert!(etag.starts_with('"') && date.ends_with("GMT"), "{etag} {date}");
    assert_eq!(first.header("cache-control"), "public, no-cache");
    for condition in [("if-none-match", etag.as_str()), ("if-modified-since", &date)] {
        let again = house.get_with("/@alice.atom", &[condition]).await;
        assert_eq!((again.status.as_u16(), again.body.as_str()), (304, ""), "{condition:?}");
        assert_eq!((again.header("etag"), again.header("last-modified")), (etag.as_str(), date.as_str()));
    }
    house.publish("two", "Hello again").await;
    house.advance(10);
    assert_changed(&house, &etag, &date).await;
    let second = house.get("/@alice.atom").await;
    // A retraction leaves no newer post behind, and still is a change.
    house.retract("two").await;
    house.advance(10);
    assert_changed(&house, second.header("etag"), second.header("last-modified")).await;
    let third = house.get("/@alice.atom").await;
    house.configure("pubsub#title", "Alice's diary").await;
    house.advance(10);
    assert_changed(&house, third.header("etag"), third.header("last-modified")).await;
    assert!(house.get("/@alice.atom").await.body.contains("Alice's diary"));
}

#[tokio::test]
async fn a_feed_shows_what_the_sweep_has_left_and_its_validators_change() {
    let house = House::new();
    for item in ["one", "two", "three", "four"] {
        house.publish(item, item).await;
    }
    house.configure("pubsub#max_items", "2").await;
    house.advance(10);
    let full = house.get("/@alice.atom").await;
    assert_eq!(read(&full.body).1.len(), 4, "what is over the edge goes by and by");
    let (_trigger, shutdown) = shutdown::channel();
    let _queue = Queue::start(house.store.clone(), Vec::new(), house.clock.clone(), Ids::seeded(9), shutdown);
    for _ in 0..3000 {
        if house.store.read(|r| Ok(r.range(b"t", b"u", 9, false)?.len())).await.unwrap() == 2 {
            break;
        }
        house.advance(1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    house.advance(10);
    assert_changed(&house, full.header("etag"), full.header("last-modified")).await;
    assert_eq!(read(&house.get("/@alice.atom").await.body).1.len(), 2);
}

async fn assert_changed(house: &House, etag: &str, date: &str) {
    for condition in [("if-none-match", etag), ("if-modified-since", date)] {
        assert_eq!(house.get_with("/@alice.atom", &[condition]).await.status, 200, "{condition:?}");
    }
}

#[tokio::test]
async fn pages_are_answered_304_until_something_changes() {
    let house = House::new();
    house.publish("one", "Hello").await;
    house.advance(10);
    for path in ["/@alice", "/@alice/one"] {
        let first = house.get(path).await;
        let (etag, date) = (first.header("etag").to_owned(), first.header("last-modified").to_owned());
        for condition in [("if-none-match", etag.as_str()), ("if-modified-since", &date)] {
            assert_eq!(house.get_with(path, &[condition]).await.status, 304, "{path} {condition:?}");
        }
        house.configure("pubsub#title", &format!("New title for {path}")).await;
        house.advance(10);
        for condition in [("if-none-match", etag.as_str()), ("if-modified-since", &date)] {
            assert_eq!(house.get_with(path, &[condition]).await.status, 200, "{path} {condition:?}");
        }
    }
}

#[tokio::test]
async fn a_head_has_the_headers_of_a_get() {
    let house = House::new();
    house.publish("one", "Hello").await;
    for path in ["/@alice.atom", "/@alice", "/@alice/one", "/"] {
        let get = house.get(path).await;
        let head = house.ask(Request::head(path).body(Body::empty()).unwrap()).await;
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        assert_eq!((head.header("etag"), head.header("link")), (get.header("etag"), get.header("link")));
        let post = house.ask(Request::post(path).body(Body::empty()).unwrap()).await;
        assert_eq!(post.status, 405, "{path}");
    }
}

#[tokio::test]
async fn a_version_is_rendered_once_however_many_ask_at_once() {
    let house = House::new();
    house.publish("one", "Hello").await;
    let before = house.topics.renderings();
    let asked = (0..200).map(|_| house.get("/@alice.atom"));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert_eq!(house.topics.renderings() - before, 1);
}

#[tokio::test]
async fn a_closed_feed_looks_like_none_and_an_ended_account_is_410() {
    let house = House::new();
    house.publish("one", "A secret").await;
    assert_eq!(house.get("/@alice.atom").await.status, 200);
    house.configure("pubsub#access_model", "whitelist").await;
    for path in ["/@alice.atom", "/@alice", "/@alice/one", "/@Alice"] {
        let closed = house.get(path).await;
        let never = house.get(&path.replace("lice", "nn")).await;
        assert_eq!((closed.status.as_u16(), closed.body), (404, never.body), "{path}");
    }
    let finger = house.get(&format!("{WEBFINGER}?resource=acct:alice@example.org")).await;
    assert!(!finger.body.contains("/@alice"), "{}", finger.body);
    house.configure("pubsub#access_model", "open").await;
    assert_eq!(house.get("/@alice.atom").await.status, 200);
    house.remove_account().await;
    for path in ["/@alice.atom", "/@alice", "/@alice/one"] {
        assert_eq!(house.get(path).await.status, 410, "{path}");
    }
    assert_eq!(house.get(&format!("{WEBFINGER}?resource=acct:alice@example.org")).await.status, 404);
}

// ---- pages ----

#[tokio::test]
async fn a_permalink_is_a_page_or_the_entry_as_the_client_wishes() {
    let house = House::new();
    house.publish("one", "It was the lark, <i>the herald</i> of the morn").await;
    let page = house.get("/@alice/one").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.body.contains("the lark, &lt;i&gt;the herald"), "{}", page.body);
    assert_eq!(page.header("vary"), "accept");
    let entry = house.get_with("/@alice/one", &[("accept", "application/atom+xml")]).await;
    assert_eq!(entry.header("content-type"), "application/atom+xml");
    assert_eq!(entry.header("vary"), "accept");
    assert_ne!(entry.header("etag"), page.header("etag"));
    let read = Canonical::new(entry.body.as_bytes(), &[], &Limits::DOCUMENT).unwrap();
    let read = atom::read_entry(&read).unwrap();
    assert_eq!(read.authors[0].uri.as_deref(), Some("https://social.example.org/@alice"));
    assert_eq!(read.permalink(), Some("https://social.example.org/@alice/one"));
    // The same identity as in the feed.
    let (_, entries) = self::read(&house.get("/@alice.atom").await.body);
    assert_eq!(entries[0].id, read.id);
    let etag = page.header("etag").to_owned();
    assert_eq!(house.get_with("/@alice/one", &[("if-none-match", &etag)]).await.status, 304);
    assert_eq!(house.get("/@alice/another").await.status, 404);
    house.retract("one").await;
    assert_eq!(house.get("/@alice/one").await.status, 404);
}

#[tokio::test]
async fn pages_run_nothing_and_show_strangers_words_as_words() {
    let house = House::new();
    let evil = "<entry xmlns='http://www.w3.org/2005/Atom'><title>&lt;script>alert(1)&lt;/script></title>\
        <content type='html'>&lt;p onclick='x()'>hi&lt;script>alert(2)&lt;/script>&lt;a href='javascript:x()'>a&lt;/a>\
        &lt;style>*{}&lt;/style>&lt;/p></content><category term='\"&gt;&lt;script&gt;'/>\
        <link rel='enclosure' type='image/svg+xml' href='https://e.example/x.svg'/>\
        <link rel='enclosure' type='image/png' title='\" onerror=\"x()' href='https://e.example/x.png'/></entry>";
    house.publish_xml("evil", evil).await;
    house.configure("pubsub#title", "</title><script>alert(3)</script>").await;
    for path in ["/@alice", "/@alice/evil"] {
        let page = house.get(path).await;
        assert_eq!(page.status, 200);
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert!(!page.body.contains("<script") && !page.body.contains("javascript:"), "{}", page.body);
        assert!(!page.body.contains("onclick=") && !page.body.contains("\" onerror"), "{}", page.body);
        assert_eq!(page.body.matches("<style").count(), 1);
        assert!(!page.body.contains("<img src=\"https://e.example/x.svg\""));
        assert!(page.body.contains("<img src=\"https://e.example/x.png\""));
    }
}

#[tokio::test]
async fn a_profile_page_shows_the_posts_and_the_ways_to_follow() {
    let house = House::new();
    for n in 0..25 {
        house.publish(&format!("p{n}"), &format!("post number {n}.")).await;
    }
    let page = house.get("/@alice").await;
    assert_eq!(page.body.matches("<article").count(), 20);
    assert!(page.body.contains("post number 24.") && !page.body.contains("post number 4."));
    assert!(
        page.body.contains("href=\"xmpp:alice@social.example.org?pubsub;action=subscribe;node=urn:xmpp:microblog:0\"")
    );
    assert!(page.body.contains("follow alice@social.example.org"));
    assert!(page.header("link").contains(&format!("<{PUBLIC}/@alice.atom>; rel=\"alternate\"")));
    let older = page.body.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    let older = house.get(older.strip_prefix(PUBLIC).unwrap()).await;
    assert_eq!(older.body.matches("<article").count(), 5);
    assert!(older.body.contains("post number 0.") && !older.body.contains("rel=\"next\""));
    for (path, to) in [("/@alice/", "/@alice"), ("/@ALICE", "/@alice")] {
        let moved = house.get(path).await;
        assert_eq!(
            (moved.status.as_u16(), moved.header("location")),
            (301, format!("{PUBLIC}{to}").as_str()),
            "{path}"
        );
    }
    let home = house.get("/").await;
    assert!(home.status == 200 && home.body.contains("follow name@social.example.org"), "{}", home.body);
    assert!(!home.body.contains("alice"), "who lives here is not listed");
}

#[tokio::test]
async fn odd_paths_are_nothing() {
    let house = House::new();
    house.publish("a/b?c#d%", "Odd").await;
    // An item id with reserved characters has a permalink that works.
    let (_, entries) = read(&house.get("/@alice.atom").await.body);
    let permalink = entries[0].permalink().unwrap().strip_prefix(PUBLIC).unwrap().to_owned();
    assert_eq!(permalink, "/@alice/a%2Fb%3Fc%23d%25");
    assert_eq!(house.get(&permalink).await.status, 200);
    let long = format!("/@alice/{}", "x".repeat(8000));
    let names = format!("/@{}", "x".repeat(8000));
    for path in [
        "/@alice/../../etc/passwd",
        "/@alice/%2e%2e/%2e%2e/etc/passwd",
        "/@alice/..%2f..%2fetc%2fpasswd",
        "/@alice%2Fone",
        "/@alice/%00",
        "/@alice/one%00.atom",
        "/@alice/%zz",
        "/@alice/%ff%fe",
        "/@alice/one/two",
        "/@alice.atom/",
        "/@alice.atom.atom",
        "/@",
        "/@@alice",
        "/@admin",
        "/.well-known/other",
        "/.env",
        "//",
        "/@alice//",
        &long,
        &names,
    ] {
        let answer = house.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        let page = house.get_with(path, &[("accept", "text/html")]).await;
        assert!(page.status == 404 && page.body.starts_with("<!DOCTYPE html>"), "{path}");
        assert!(page.header("content-security-policy").contains("default-src 'none'"), "{path}");
    }
}

#[tokio::test]
async fn a_feeds_own_metadata_is_never_shown_as_a_post_xep_0277_section_2_3() {
    let house = House::new();
    house.publish("one", "Hello").await;
    let metadata = "<feed xmlns='http://www.w3.org/2005/Atom'><title>my feed</title></feed>";
    house.publish_as(ALICE, "0", Payload::Xml { raw: metadata.into(), scope: vec![] }).await.unwrap();
    let (_, entries) = read(&house.get("/@alice.atom").await.body);
    assert_eq!(entries.len(), 1);
    assert_eq!(house.get("/@alice/0").await.status, 404);
    assert_eq!(house.get("/@alice").await.body.matches("<article").count(), 1);
}

#[tokio::test]
async fn a_page_of_long_posts_ends_early_and_leads_on_to_the_rest() {
    let house = House::new();
    for n in 0..6 {
        house.publish(&format!("p{n}"), &format!("post {n}\n{}", "long ".repeat(18_000))).await;
    }
    let (mut path, mut seen, mut pages) = ("/@alice.atom".to_owned(), Vec::new(), 0);
    loop {
        let document = house.get(&path).await.body;
        assert!(document.len() < 1_000_000);
        let (feed, entries) = read(&document);
        seen.extend(entries.iter().filter_map(|entry| entry.title.clone()));
        pages += 1;
        let Some(next) = href(&feed, "next") else { break };
        path = next.strip_prefix(PUBLIC).unwrap().to_owned();
    }
    assert_eq!((pages, seen), (3, (0..6).rev().map(|n| format!("post {n}")).collect()));
    assert_eq!(house.get("/@alice").await.body.matches("<article").count(), 2);
}

// ---- health ----

/// A disk without room.
struct Full;

impl Kv for Full {
    fn get(&self, _: &[u8]) -> kv::Result<Option<bytes::Bytes>> {
        Ok(None)
    }
    fn range(&self, _: &[u8], _: &[u8], _: usize, _: bool) -> kv::Result<Vec<kv::Row>> {
        Ok(Vec::new())
    }
    fn apply(&self, _: &[kv::Write]) -> kv::Result<()> {
        Ok(())
    }
    fn moment(&self) -> Option<Box<dyn kv::Read + '_>> {
        None
    }
    fn takes_writes(&self) -> kv::Result<()> {
        Err(KvError::Full("3 MiB are free".to_owned()))
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn with_a_full_disk_nobody_is_told_that_the_service_is_ready() {
    let health = Health { store: Store::open(Arc::new(Full)).unwrap(), checks: Vec::new(), sources: Vec::new() };
    let asked = Request::get("/readyz").body(Body::empty()).unwrap();
    let response = health::router(health).oneshot(asked).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.starts_with("nothing can be stored: ") && body.contains("3 MiB are free"), "{body}");
}

#[tokio::test]
async fn readiness_tells_in_words_what_is_missing_and_metrics_come_from_their_sources() {
    let house = House::new();
    let link = Arc::new(std::sync::Mutex::new(Err("the component link is down: wrong secret".to_owned())));
    let seen = link.clone();
    let health = || Health {
        store: house.store.clone(),
        checks: vec![Arc::new({
            let seen = seen.clone();
            move || seen.lock().unwrap().clone()
        })],
        sources: vec![Arc::new(|| vec![Figure::counter("queue_done", "Deliveries made", 3)])],
    };
    let admin = health::router(health());
    let get = async |path: &str| {
        let response = admin.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(get("/healthz").await, (200, "alive\n".into()));
    assert_eq!(get("/readyz").await, (503, "the component link is down: wrong secret\n".into()));
    *link.lock().unwrap() = Ok(());
    assert_eq!(get("/readyz").await, (200, "ready\n".into()));
    let (status, metrics) = get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("rookery_queue_done_total 3.0\n") && metrics.ends_with("# EOF\n"), "{metrics}");
}
