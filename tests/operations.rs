//! What an administrator does: the queue, export and import, check, SIGHUP; with our own binary as it runs, and as it
//! does not.

mod support;

// The server of the crash test serves here as well.
#[allow(dead_code)]
mod crash {
    pub mod ledger;
    pub mod server;
}

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crash::server::{Server, entry};
use jid::BareJid;
use rookery::base::progress::Progress;
use rookery::domain::event::{Event, NodeRef, What};
use rookery::domain::item::Item;
use rookery::domain::node::NodeName;
use rookery::store::tables::audit;
use rookery::store::{self, Backend, Durable, Kv, Lane, MemoryKv, Store};
use support::client::{self, MICROBLOG};
use support::rookery::{PUBLIC, Rookery, Settings};
use support::servers::{HOST, SECRET, SOCIAL, at_social};
use support::until;
use support::web::{self, Reception, Subscriber};

const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    server: Server,
    rookery: Rookery,
    site: Subscriber,
}

impl Scene {
    async fn begin(backend: &str) -> Scene {
        let server = Server::start().await;
        let mut rookery = Rookery::begin(&Settings {
            jid: SOCIAL.to_owned(),
            server: server.address.clone(),
            secret: SECRET.to_owned(),
            backend: backend.to_owned(),
        });
        rookery.ready().await;
        Scene { server, rookery, site: Subscriber::start().await }
    }

    async fn post(&self, item: &str) {
        let by = format!("alice@{HOST}/desk");
        let payload = client::publish(MICROBLOG, item, &entry(item, 20));
        self.server.ask("set", &by, &at_social("alice"), &payload).await.expect("alice may post");
    }

    async fn subscribe(&self, who: &str) {
        let payload = client::subscribe(MICROBLOG, who);
        self.server.ask("set", who, &at_social("alice"), &payload).await.expect("everybody may subscribe");
    }

    /// Has the callback `name` subscribed to alice's feed.
    async fn subscribe_site(&self, name: &str, secret: Option<&str>) {
        let (topic, callback) = (format!("{PUBLIC}/@alice.atom"), self.site.callback(name));
        let mut form = vec![("hub.mode", "subscribe"), ("hub.topic", &*topic), ("hub.callback", &*callback)];
        form.extend(secret.map(|secret| ("hub.secret", secret)));
        assert_eq!(web::post(&self.rookery.served("/hub"), &form).await.expect("the hub answers").status, 202);
        self.site.verified(name).await;
        // The intent is noted a moment after it was confirmed.
        self.shown(&["--destination", &callback], "nothing was delivered yet").await;
    }

    /// What subscribers over XMPP heard: who and which item.
    fn heard(&self, who: &str) -> Vec<String> {
        self.server.ledger(|ledger| {
            ledger.heard.iter().filter(|heard| heard.who == who).map(|heard| heard.item.clone()).collect()
        })
    }

    fn store_path(&self) -> PathBuf {
        self.rookery.config_path().with_file_name("store")
    }

    /// Changes the configuration's file.
    fn rewrite(&self, change: impl FnOnce(&str) -> String) {
        let text = std::fs::read_to_string(self.rookery.config_path()).unwrap();
        std::fs::write(self.rookery.config_path(), change(&text)).unwrap();
    }

    fn hang_up(&self) {
        let pid = self.rookery.pid().expect("rookery runs").to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// Runs a command that must succeed.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let (status, text) = self.rookery.command(arguments);
        println!("$ rookery {}\n{text}", arguments.join(" "));
        assert!(status.success(), "{arguments:?}: {text}");
        text
    }

    /// Runs a command that must fail.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let (status, text) = self.rookery.command(arguments);
        println!("$ rookery {}\n{text}", arguments.join(" "));
        assert!(!status.success(), "{arguments:?}: {text}");
        text
    }

    /// Lists the queue until `words` are in it.
    async fn shown(&self, arguments: &[&str], words: &str) -> String {
        let arguments = [&["queue", "show"], arguments].concat();
        let begun = Instant::now();
        loop {
            let (_, text) = self.rookery.command(&arguments);
            if text.contains(words) {
                println!("$ rookery {}\n{text}", arguments.join(" "));
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{words:?} never came: {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// A write that fails half way leaves a database that takes no other: a service that went on would only refuse.
#[tokio::test]
async fn a_service_whose_store_has_stopped_ends_and_the_next_start_goes_on() {
    for backend in ["fjall", "sled"] {
        let mut scene = Scene::begin(backend).await;
        scene.post("before").await;
        // No file may grow further than this.
        let most = support::largest_file(&scene.rookery.folder().join("store/data")) + 600_000;
        let short = format!("trap '' XFSZ; exec prlimit --fsize={most} \"$@\"");
        scene.rookery.launch_by(&["sh", "-c", &short, "sh"].map(str::to_owned));
        scene.rookery.start_again().await;
        let by = format!("alice@{HOST}/desk");
        let payload = client::publish(MICROBLOG, "big", &entry("big", 100_000));
        let mut ended = None;
        let began = Instant::now();
        while ended.is_none() && began.elapsed() < PATIENCE {
            // Refused, or lost with the stream: it was not acknowledged in either case.
            let asked = async { scene.server.request(&by, &at_social("alice"), &payload, || ()).await.await };
            let _ = tokio::time::timeout(Duration::from_secs(1), asked).await;
            ended = scene.rookery.ended();
        }
        let ended = ended.unwrap_or_else(|| panic!("{backend}: it goes on without a store"));
        assert_eq!(ended.code(), Some(1), "{backend}");
        assert!(scene.rookery.log().contains("the store takes nothing more"), "{backend}");
        scene.rookery.launch_by(&[]);
        scene.rookery.start_again().await;
        scene.post("after").await;
        let found = scene.server.ask("get", &by, &at_social("alice"), &client::items(MICROBLOG)).await.unwrap();
        let found = client::item_ids(&found);
        assert!(["before", "after"].iter().all(|id| found.contains(&(*id).to_owned())), "{backend}: {found:?}");
    }
}

#[tokio::test]
async fn as_many_files_may_be_open_as_the_administrator_allows() {
    let mut scene = Scene::begin("fjall").await;
    let limits = |rookery: &Rookery| {
        let limits = support::read(&PathBuf::from(format!("/proc/{}/limits", rookery.pid().expect("it runs"))));
        let line =
            limits.lines().find(|line| line.starts_with("Max open files")).expect("there is such a limit").to_owned();
        let words: Vec<String> = line.split_whitespace().skip(3).take(2).map(str::to_owned).collect();
        words
    };
    for (shell, warned) in [("ulimit -Sn 200; ulimit -Hn 5000", false), ("ulimit -n 300", true)] {
        scene.rookery.launch_by(&["sh", "-c", &format!("{shell}; exec \"$@\""), "sh"].map(str::to_owned));
        scene.rookery.start_again().await;
        let found = limits(&scene.rookery);
        assert_eq!(found[0], found[1], "after {shell:?}");
        assert_eq!(scene.rookery.log().contains("too few when many connect"), warned, "after {shell:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_callback_is_shown_held_released_and_tried_at_once_when_a_person_says_so() {
    let mut scene = Scene::begin("fjall").await;
    scene.post("first").await;
    scene.subscribe_site("reader", None).await;
    let callback = scene.site.callback("reader");
    let host = callback.split('/').nth(2).unwrap().to_owned();
    scene.site.answer_push("reader", Reception::Status(500));
    scene.post("second").await;
    let text = scene.shown(&[], "failed 1 time in a row").await;
    has(&text, &["hub:1", &callback, "@alice.atom", "1 delivery waits, the oldest for", "next attempt in", "500"]);
    assert_eq!(scene.site.pushes("reader").len(), 1);
    // The same by host, with and without port; of another host there is nothing.
    has(&scene.done(&["queue", "show", "--host", &host]), &["hub:1"]);
    has(&scene.done(&["queue", "show", "--host", "127.0.0.1"]), &["hub:1"]);
    has(&scene.done(&["queue", "show", "--host", "other.example"]), &["nothing waits to be delivered"]);

    has(&scene.done(&["queue", "hold", &callback]), &["1 destination held: 1 delivery waits"]);
    scene.site.answer_push("reader", Reception::Status(200));
    scene.post("third").await;
    scene.shown(&["--destination", "hub:1"], "2 deliveries wait").await;
    has(&scene.done(&["queue", "retry", &callback]), &["1 destination held: release them first"]);
    // A hold outlives the process.
    assert!(scene.rookery.drain().await.unwrap().success());
    has(&scene.done(&["queue", "show"]), &["2 deliveries wait", "; held"]);
    scene.rookery.start_again().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.site.pushes("reader").len(), 1, "nothing is sent to who is held");

    has(&scene.done(&["queue", "release", "--host", &host]), &["1 destination released; 2 deliveries wait"]);
    has(&scene.done(&["queue", "retry", "hub:1"]), &["2 deliveries to 1 destination are tried now"]);
    scene.site.push_with("reader", "third").await;
    scene.shown(&[], "nothing waits to be delivered").await;
    has(&scene.done(&["queue", "show", "--destination", &callback]), &["nothing waits", "delivered (after"]);
    has(&scene.done(&["queue", "retry", "--all"]), &["nothing waits there"]);
    has(&scene.refused(&["queue", "retry"]), &["say which"]);
    has(&scene.refused(&["queue", "retry", "what is this"]), &["is no destination"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_host_gets_nothing_that_comes_either_until_it_is_released() {
    let mut scene = Scene::begin("fjall").await;
    scene.post("first").await;
    scene.subscribe_site("reader", None).await;
    let callback = scene.site.callback("reader");
    let host = callback.split('/').nth(2).unwrap().to_owned();
    // Nothing was ever to be sent there but the question.
    has(&scene.done(&["queue", "hold", "--host", "127.0.0.1"]), &["the host 127.0.0.1 is held"]);
    scene.post("second").await;
    has(&scene.shown(&[], "; held").await, &["the host 127.0.0.1 is held", "hub:1", "1 delivery waits"]);
    // Nobody there is asked for an intent either.
    let (topic, late) = (format!("{PUBLIC}/@alice.atom"), scene.site.callback("late"));
    let form = [("hub.mode", "subscribe"), ("hub.topic", &*topic), ("hub.callback", &*late)];
    assert_eq!(web::post(&scene.rookery.served("/hub"), &form).await.expect("the hub answers").status, 202);
    scene.shown(&["--host", &host], "asked whether it wants to subscribe").await;
    // It outlives the process, and can be made without it.
    assert!(scene.rookery.drain().await.unwrap().success());
    has(&scene.done(&["queue", "show"]), &["the host 127.0.0.1 is held", "1 delivery waits", "; held"]);
    has(&scene.done(&["queue", "hold", "--host", "Reader.Example:8080"]), &["the host reader.example:8080 is held"]);
    scene.rookery.start_again().await;
    scene.post("third").await;
    scene.shown(&["--destination", "hub:1"], "2 deliveries wait").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((scene.site.pushes("reader").len(), scene.site.verifications("late").len()), (0, 0));

    let shown = scene.done(&["queue", "show", "--host", &host]);
    assert!(!shown.contains("reader.example"), "{shown}");
    for part in ["hub:1", &format!("--host={host}")] {
        has(&scene.done(&["queue", "release", part]), &["left as before, since the host is held"]);
    }
    has(&scene.refused(&["queue", "hold", "--host", "https://reader.example/"]), &["is no host"]);
    has(&scene.done(&["queue", "release", "--host", "127.0.0.1"]), &["1 host released", "2 destinations released"]);
    scene.site.push_with("reader", "third").await;
    scene.site.verified("late").await;
    has(&scene.shown(&[], "nothing waits to be delivered").await, &["the host reader.example:8080 is held"]);
    has(&scene.done(&["queue", "release", "--all"]), &["1 host released"]);
    has(&scene.done(&["queue", "release", "--all"]), &["nothing is held there"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_on_a_stopped_service_counts_when_it_starts() {
    let mut scene = Scene::begin("sled").await;
    scene.post("first").await;
    scene.subscribe_site("reader", None).await;
    scene.site.answer_push("reader", Reception::Status(503));
    scene.post("second").await;
    scene.shown(&[], "failed 1 time in a row").await;
    let (status, _) = scene.rookery.command(&["queue", "retry", "--all"]);
    assert!(status.success());
    scene.shown(&[], "failed 2 times in a row").await;
    scene.done(&["queue", "retry", "--host", "127.0.0.1"]);
    scene.shown(&[], "failed 3 times in a row").await;
    // The next attempt would come after twenty seconds.
    assert!(scene.rookery.drain().await.unwrap().success());
    has(&scene.done(&["queue", "retry", "--all"]), &["1 delivery to 1 destination are tried when rookery starts"]);
    scene.site.answer_push("reader", Reception::Status(200));
    let begun = Instant::now();
    scene.rookery.start_again().await;
    scene.site.push_with("reader", "second").await;
    scene.shown(&[], "nothing waits to be delivered").await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_dropped_only_with_yes_and_then_never_sent() {
    let mut scene = Scene::begin("fjall").await;
    scene.post("first").await;
    scene.subscribe_site("reader", None).await;
    scene.site.answer_push("reader", Reception::Status(500));
    scene.post("second").await;
    scene.shown(&[], "failed 1 time").await;
    has(&scene.refused(&["queue", "drop", "hub:1"]), &["1 delivery to 1 destination would be dropped", "--yes"]);
    scene.shown(&[], "1 delivery waits").await;
    has(&scene.done(&["queue", "drop", "hub:1", "--yes"]), &["1 delivery to 1 destination dropped"]);
    scene.site.answer_push("reader", Reception::Status(200));
    // What comes later is delivered; the feed shows the second post too, but in one push, not two.
    scene.post("third").await;
    scene.site.push_with("reader", "third").await;
    assert_eq!(scene.site.pushes("reader").len(), 2);

    scene.site.answer_push("reader", Reception::Status(500));
    scene.post("fourth").await;
    scene.shown(&[], "failed 1 time").await;
    assert!(scene.rookery.drain().await.unwrap().success());
    has(&scene.refused(&["queue", "drop", "--host", "127.0.0.1"]), &["1 delivery to 1 destination"]);
    has(&scene.done(&["queue", "drop", "--host", "127.0.0.1", "--yes"]), &["1 delivery to 1 destination dropped"]);
    has(&scene.done(&["queue", "show"]), &["nothing waits"]);
    scene.site.answer_push("reader", Reception::Status(200));
    scene.rookery.start_again().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(scene.site.pushes("reader").len() == 3, "two that were answered, and one that failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_subscribers_over_xmpp_hear_nothing_until_released_and_then_everything_in_order() {
    let mut scene = Scene::begin("fjall").await;
    scene.post("first").await;
    let juliet = format!("juliet@{HOST}");
    scene.subscribe(&juliet).await;
    scene.post("second").await;
    assert!(until(PATIENCE, || scene.heard(&juliet).ends_with(&["second".to_owned()])).await);
    scene.shown(&[], "nothing waits to be delivered").await;
    let before = scene.heard(&juliet).len();
    let node = format!("{}/{MICROBLOG}", at_social("alice"));
    has(&scene.done(&["queue", "hold", &node]), &["1 destination held: nothing waits for them"]);
    scene.post("third").await;
    // Also after a start: what is told from memory must not pass by what waits.
    let sessions = scene.server.sessions();
    scene.rookery.start_again().await;
    scene.server.let_in_again(sessions).await;
    scene.post("fourth").await;
    scene.shown(&[], "2 deliveries wait").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.heard(&juliet).len(), before, "{:?}", scene.heard(&juliet));
    has(&scene.done(&["queue", "show"]), &["the XMPP subscribers of alice@social.montague.test/urn:xmpp:microblog:0"]);
    has(&scene.done(&["queue", "release", "--all"]), &["1 destination released; 2 deliveries wait"]);
    assert!(until(PATIENCE, || scene.heard(&juliet).len() == before + 2).await, "{:?}", scene.heard(&juliet));
    assert_eq!(scene.heard(&juliet)[before..], ["third", "fourth"]);
}

/// Puts an Event that tells of alice's newest post aside, as the relay does with one that it cannot plan; its number.
async fn put_aside(scene: &Scene) -> u64 {
    let store = Store::open(kv_at(Backend::Fjall, &scene.store_path())).expect("it has our layout");
    let parked = store.commit(Lane::Asked, |tx| {
        let service = BareJid::new(&at_social("alice")).unwrap();
        let node = tx.read().node_named(&service, &NodeName::microblog())?.unwrap();
        let item = tx.read().items(node.id, 0, u64::MAX, 1, true)?.pop().unwrap();
        let seq = tx.read().node_state(node.id)?.seq;
        let what = What::Published { item: item.id.clone(), version: item.version, publisher: item.author.clone() };
        let node = NodeRef { id: node.id, service: node.service, name: node.name, kind: node.kind };
        let event = Event { at: item.updated, node, node_seq: seq, what };
        let number = tx.emit(&event)?;
        tx.put_item(event.node.id, &Item { event: number, ..item })?;
        tx.park_event(number)?;
        Ok(Ok::<_, ()>(number))
    });
    let number = parked.await.unwrap().unwrap();
    store.close();
    number
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_put_aside_is_seen_and_told_or_forgotten_as_a_person_says() {
    let mut scene = Scene::begin("fjall").await;
    scene.post("first").await;
    let juliet = format!("juliet@{HOST}");
    scene.subscribe(&juliet).await;
    scene.post("second").await;
    assert!(until(PATIENCE, || scene.heard(&juliet).contains(&"second".to_owned())).await);
    let second = |scene: &Scene| scene.heard(&juliet).iter().filter(|item| *item == "second").count();
    assert!(scene.rookery.drain().await.unwrap().success());
    has(&scene.done(&["queue", "parked"]), &["no event is put aside"]);
    let (one, other) = (put_aside(&scene).await, put_aside(&scene).await);
    let text = scene.done(&["queue", "parked"]);
    has(&text, &[&format!("event:{one}"), &format!("event:{other}"), "item \"second\" was published at alice@"]);
    has(&scene.done(&["queue", "show"]), &["nothing waits", "rookery queue parked"]);
    has(&scene.refused(&["queue", "drop", &format!("event:{other}")]), &["1 event would be dropped", "--yes"]);
    has(&scene.done(&["queue", "drop", &format!("event:{other}"), "--yes"]), &["nobody will be told"]);

    scene.rookery.start_again().await;
    let before = second(&scene);
    // While it runs: the relay is beyond that number, and must be told of it all the same.
    has(&scene.done(&["queue", "retry", &format!("event:{one}")]), &["1 event promised anew"]);
    assert!(until(PATIENCE, || second(&scene) == before + 1).await);
    has(&scene.refused(&["queue", "retry", &format!("event:{one}")]), &["see `rookery queue parked`"]);
    has(&scene.done(&["queue", "retry", "--parked"]), &["0 events"]);
    // The post outlives what was told of it.
    assert!(scene.rookery.get("/@alice.atom").await.body.contains("second"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sighup_applies_what_it_can_and_names_what_needs_a_restart_or_is_wrong() {
    let scene = Scene::begin("fjall").await;
    let refused = scene.refused(&["account", "show", "carol"]);
    has(&refused, &["no account carol"]);
    let carol = format!("carol@{HOST}");
    let register = "<query xmlns='jabber:iq:register'><username>carol</username></query>";
    scene.rewrite(|text| text.replace("registration = \"hosts\"", "registration = \"closed\""));
    scene.hang_up();
    let line = scene.rookery.log_line(&["SIGHUP", "from now on"]).await;
    has(&line, &["INFO", "accounts.registration"]);
    assert!(!line.contains("limits"), "{line}");
    scene.server.ask("set", &carol, SOCIAL, register).await.expect_err("registration is closed now");

    scene.rewrite(|text| text.replace("public_url = \"https://social", "public_url = \"https://other"));
    scene.rewrite(|text| text.replace("\"closed\"", "\"hosts\"") + "[log]\nlevel = \"debug\"\n");
    scene.hang_up();
    let line = scene.rookery.log_line(&["needs a restart"]).await;
    has(&line, &["WARN", "http.public_url"]);
    has(&scene.rookery.log_line(&["from now on", "log.level"]).await, &["accounts.registration, log.level"]);
    scene.server.ask("set", &carol, SOCIAL, register).await.expect("registration is open to the host again");
    has(&scene.done(&["account", "show", "carol"]), &[&format!("{PUBLIC}/@carol")]);

    scene.rewrite(|text| text.replace("admins = [", "admin = ["));
    scene.hang_up();
    let line = scene.rookery.log_line(&["everything stays as it was"]).await;
    has(&line, &["ERROR"]);
    has(&scene.rookery.log_line(&["accounts.admin:", "unknown key"]).await, &["`admins`"]);
    scene.rewrite(|text| text.replace("admin = [", "admins = ["));
    scene.hang_up();
    // What needs a restart is said each time, as long as it is so.
    assert!(until(PATIENCE, || scene.rookery.log().matches("needs a restart").count() == 2).await);
    scene.rewrite(|text| text.replace("public_url = \"https://other", "public_url = \"https://social"));
    scene.hang_up();
    scene.rookery.log_line(&["nothing has changed"]).await;
}

impl Scene {
    /// A stopped service with something of everything: accounts, nodes, items, subscribers of both kinds, deliveries
    /// under way, an Event put aside.
    async fn lived_in(backend: &str) -> Scene {
        let mut scene = Scene::begin(backend).await;
        scene.post("first").await;
        scene.subscribe(&format!("juliet@{HOST}")).await;
        scene.subscribe_site("open", None).await;
        scene.subscribe_site("signed", Some("a secret between us")).await;
        scene.site.answer_push("open", Reception::Status(500));
        scene.site.answer_push("signed", Reception::Status(500));
        for item in ["second", "third", "fourth"] {
            scene.post(item).await;
        }
        let by = format!("alice@{HOST}/desk");
        // One with an id that the client has chosen.
        let payload = client::publish(MICROBLOG, "fifth", &client::entry("fifth", "urn:uuid:5"));
        scene.server.ask("set", &by, &at_social("alice"), &payload).await.expect("alice may post");
        let retract = client::retract(MICROBLOG, "third");
        scene.server.ask("set", &by, &at_social("alice"), &retract).await.expect("alice may retract");
        scene.shown(&["--destination", "hub:1"], "failed 1 time").await;
        scene.shown(&["--destination", "hub:2"], "failed 1 time").await;
        scene.shown(&["--destination", "hub:2"], "5 deliveries wait").await;
        let juliet = format!("juliet@{HOST}");
        assert!(until(PATIENCE, || scene.heard(&juliet).ends_with(&["third".to_owned()])).await);
        assert!(scene.rookery.drain().await.unwrap().success());
        scene
    }

    /// Every row of a stopped service's store.
    fn rows(&self, backend: Backend) -> Vec<(Vec<u8>, Bytes)> {
        rows_at(backend, &self.store_path())
    }
}

fn audited(rows: &[(Vec<u8>, Bytes)]) -> Vec<String> {
    let kv = MemoryKv::default();
    kv.apply(&rows.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect::<Vec<_>>()).unwrap();
    audit(&Durable(Arc::new(kv)), &Progress::silent()).unwrap().findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_every_row_that_is_missing_too_many_or_wrong() {
    let scene = Scene::lived_in("fjall").await;
    put_aside(&scene).await;
    let rows = scene.rows(Backend::Fjall);
    assert_eq!(audited(&rows), Vec::<String>::new(), "a store that was used as it should be");
    let tables: BTreeSet<char> = rows.iter().map(|(key, _)| char::from(key[0])).collect();
    assert_eq!(tables.iter().collect::<String>(), "ADNUWYabcdhijmnopqstuvwyz", "something of everything");

    for (table, words) in [
        (b'p', "leads to no account"),
        (b'o', "is not found by its owner"),
        (b'n', "its rows are left for ever"),
        (b'N', "leads to no node"),
        (b'c', "says it has 0 items"),
        (b'i', "leads to no item"),
        (b't', "is not at its place"),
        (b'v', "payload"),
        (b'u', "is not found by its atom:id"),
        (b'U', ""),
        (b's', "leads to no subscription"),
        (b'b', "is not found by its JID"),
        (b'j', "does not say that it has"),
        (b'a', "leads to no affiliation"),
        (b'A', "is not found by its JID"),
        (b'w', "leads to no HTTP subscription"),
        (b'W', "is not found by its number"),
        (b'y', "the hub does not say that it has"),
        (b'Y', "HTTP subscribers"),
        (b'd', "deliveries are left"),
        (b'h', "delivers an event that is not there"),
        (b'D', "says that 0 deliveries wait"),
        (b'q', "not found by its time"),
        (b'm', "would be given again"),
    ] {
        // The last row of the table: of the counters that of versions, of payloads one that an item shows.
        let at = rows.iter().rposition(|(key, _)| key[0] == table && key != b"mschema").unwrap();
        let mut damaged = rows.clone();
        damaged.remove(at);
        let found = audited(&damaged).join("\n");
        assert!(
            found.contains(words),
            "{:?} gone: {words:?} is not in {found:?}",
            rows[at].0.escape_ascii().to_string()
        );
        let mut damaged = rows.clone();
        damaged[at].1 = Bytes::from_static(b"\xc1");
        if !matches!(table, b'v' | b'o' | b'b' | b'A' | b'm') {
            let found = audited(&damaged).join("\n");
            assert!(found.contains("cannot be read"), "{}: {found}", char::from(table));
        }
    }
    for (key, words) in [
        (b"v\0\0\0\0\0\xff\0\0".to_vec(), "nothing shows or tells it"),
        (b"Q".to_vec(), "rows of an unknown kind"),
        (b"V\0\0\0\0\0\0\0\x01".to_vec(), "says that 3 events need it, and 0 do"),
    ] {
        let mut damaged = rows.clone();
        damaged.push((key, Bytes::from_static(b"\x92\x03\x01")));
        damaged.sort();
        let found = audited(&damaged).join("\n");
        assert!(found.contains(words), "{words:?} is not in {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_of_each_thing_how_it_stands_and_fails_if_one_is_wrong() {
    let mut scene = Scene::lived_in("sled").await;
    let file = scene.rookery.config_path();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    has(&scene.refused(&["check"]), &["WRONG secret: everybody on this machine can read", "mode 0644", "chmod o="]);
    std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let text = scene.done(&["check"]);
    has(&text, &["ok    configuration", "ok    secret", "rows in", "and they agree: 1 accounts, 1 nodes, 4 items"]);
    has(&text, &["1 subscriptions over XMPP and 2 over HTTP, 10 deliveries under way", "--attach tries it"]);
    has(&text, &["ok    http.listen: 127.0.0.1", "warn  component.jid"]);
    let sessions = scene.server.sessions();
    assert!(!text.contains("accepts the login"));
    has(&scene.done(&["check", "--attach"]), &["ok    component: the XMPP server accepts the login"]);
    assert!(until(PATIENCE, || scene.server.sessions() == sessions + 1).await);

    scene.rookery.start_again().await;
    has(&scene.done(&["check"]), &["ok    service: it runs, and is connected"]);
    assert!(scene.rookery.drain().await.unwrap().success());

    let kv = kv_at(Backend::Sled, &scene.store_path());
    let place = kv.range(b"t", b"u", 1, false).unwrap().pop().unwrap();
    kv.apply(&[(place.0, None)]).unwrap();
    drop(kv);
    has(&scene.refused(&["check"]), &["WRONG store: the item \"first\" of node 1 is not at its place", "keep a copy"]);
}

impl Scene {
    /// From now on the configuration names another store.
    fn move_to(&self, backend: &str, folder: &str) -> PathBuf {
        let path = self.rookery.config_path().with_file_name(folder);
        self.rewrite(|text| {
            let line = |line: &str| match line.split(" = ").next() {
                Some("backend") => format!("backend = \"{backend}\"\n"),
                Some("path") => format!("path = \"{}\"\n", path.display()),
                _ => format!("{line}\n"),
            };
            text.lines().map(line).collect()
        });
        path
    }

    fn file(&self, name: &str) -> String {
        self.rookery.config_path().with_file_name(name).display().to_string()
    }
}

/// Opens the store of a stopped service. Another test that starts a child at this moment has the file of the lock as well,
/// until its child is another program.
fn kv_at(backend: Backend, path: &Path) -> Arc<dyn Kv> {
    let begun = Instant::now();
    loop {
        match store::open_kv(backend, path) {
            Ok(kv) => return kv,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn rows_at(backend: Backend, path: &Path) -> Vec<(Vec<u8>, Bytes)> {
    kv_at(backend, path).range(&[1], &[255; 64], usize::MAX, false).expect("its rows can be read")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_with_secrets_is_the_same_store_on_another_engine_and_what_was_promised_is_delivered_there() {
    let mut scene = Scene::lived_in("fjall").await;
    let before = scene.rows(Backend::Fjall);
    let file = scene.file("whole.export");
    let text = scene.done(&["export", &file, "--with-secrets"]);
    has(&text, &[&format!("{} rows are in {file}", before.len())]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    has(&scene.refused(&["export", &file]), &["is there already"]);
    has(&scene.refused(&["import", &file]), &["the store is not empty"]);

    let sled = scene.move_to("sled", "sled");
    has(&scene.done(&["import", &file]), &["read back as they were", &format!("{} rows", before.len())]);
    assert_eq!(rows_at(Backend::Sled, &sled), before);
    has(&scene.done(&["check"]), &["and they agree", "10 deliveries under way"]);
    for name in ["open", "signed"] {
        scene.site.answer_push(name, Reception::Status(200));
    }
    scene.rookery.start_again().await;
    has(&scene.refused(&["export", &scene.file("other.export")]), &["rookery is running"]);
    scene.site.push_with("open", "fifth").await;
    let push = scene.site.push_with("signed", "fifth").await;
    assert!(push.signed_with("a secret between us"));
    scene.shown(&[], "nothing waits to be delivered").await;
    // Numbers go on: a post after the move is another's.
    scene.post("sixth").await;
    scene.site.push_with("signed", "sixth").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_secrets_a_signed_subscription_ends_and_is_never_pushed_to_unsigned() {
    let mut scene = Scene::lived_in("sled").await;
    let (file, signed) = (scene.file("store.export"), scene.site.callback("signed"));
    let text = scene.done(&["export", &file]);
    has(&text, &[&format!("the subscription of {signed} will end at the import"), "--with-secrets"]);
    let bytes = std::fs::read(&file).unwrap();
    let secret = b"a secret between us";
    assert!(!bytes.windows(secret.len()).any(|part| part == secret), "the secret is in the file");

    scene.move_to("fjall", "fjall");
    has(&scene.done(&["import", &file]), &[&format!("the subscription of {signed} has ended")]);
    has(&scene.done(&["check"]), &["and they agree", "1 over HTTP, 5 deliveries under way"]);
    for name in ["open", "signed"] {
        scene.site.answer_push(name, Reception::Status(200));
    }
    let before = scene.site.pushes("signed").len();
    scene.rookery.start_again().await;
    scene.site.push_with("open", "fifth").await;
    scene.post("sixth").await;
    scene.site.push_with("open", "sixth").await;
    assert_eq!(scene.site.pushes("signed").len(), before);
    // The site comes back as it does when it renews.
    scene.subscribe_site("signed", Some("another secret")).await;
    scene.post("seventh").await;
    assert!(scene.site.push_with("signed", "seventh").await.signed_with("another secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_not_whole_is_no_store_until_it_is_done_again() {
    let mut scene = Scene::lived_in("fjall").await;
    let before = scene.rows(Backend::Fjall);
    let (file, other) = (scene.file("whole.export"), scene.file("damaged.export"));
    scene.done(&["export", &file, "--with-secrets"]);
    let bytes = std::fs::read(&file).unwrap();
    let path = scene.move_to("fjall", "imported");
    let broken_off = ["an import into it was broken off", "run rookery import again"];
    for (name, damaged, words) in [
        ("cut", bytes[..bytes.len() - 50].to_vec(), "cut short"),
        ("short", bytes[..bytes.len() - 1].to_vec(), "cut short"),
        ("longer", [&bytes[..], b"x"].concat(), "something stands behind its end"),
        (
            "other",
            {
                let mut b = bytes.clone();
                b[bytes.len() / 2] ^= 1;
                b
            },
            "a checksum is wrong",
        ),
        (
            "count",
            {
                let mut b = bytes.clone();
                b[bytes.len() - 33] ^= 1;
                b
            },
            "not those that it says it has",
        ),
        (
            "sum",
            {
                let mut b = bytes.clone();
                b[bytes.len() - 1] ^= 1;
                b
            },
            "not those that it says it has",
        ),
    ] {
        std::fs::write(&other, damaged).unwrap();
        has(&scene.refused(&["import", &other]), &[words, "run rookery import again"]);
        has(&scene.refused(&["check"]), &broken_off);
        println!("{name}: refused");
    }
    std::fs::write(&other, [&b"rookery export 2"[..], &bytes[16..]].concat()).unwrap();
    has(&scene.refused(&["import", &other]), &["no export of rookery"]);

    // Killed when all rows are written and the end has not come.
    let mut child = Command::new(env!("CARGO_BIN_EXE_rookery"));
    child.arg("import").arg("-").arg("--config").arg(scene.rookery.config_path()).stdin(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, &bytes[..bytes.len() - 20]).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(rows_at(Backend::Fjall, &path).len() > before.len() / 2, "it had come some way");
    has(&scene.refused(&["check"]), &broken_off);
    scene.rookery.begin_again();
    has(&scene.rookery.log_line(&["rookery cannot run"]).await, &broken_off);
    let text = scene.done(&["import", &file]);
    has(&text, &["an earlier import was broken off", "read back as they were"]);
    assert_eq!(rows_at(Backend::Fjall, &path), before);
    has(&scene.done(&["check"]), &["and they agree"]);
    // Nor does a store that is in use become an import.
    has(&scene.refused(&["import", &file]), &["the store is not empty"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_when_it_is_ready_how_the_link_stands_and_that_it_stops() {
    let scene = Scene::begin("fjall").await;
    // A second process with a store and ports of its own.
    let config = scene.rookery.config_path().with_file_name("second.toml");
    let text = std::fs::read_to_string(scene.rookery.config_path()).unwrap();
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("admin_listen"))
        .map(|line| match line.split(" = ").next() {
            Some("listen") => "listen = \"127.0.0.1:0\"\n".to_owned(),
            Some("path") => "path = \"second\"\n".to_owned(),
            Some("server") => "server = \"127.0.0.1:1\"\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&config, text).unwrap();
    let address = config.with_file_name("notify");
    let socket = UnixDatagram::bind(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).expect("systemd is told");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_rookery"))
        .args(["run", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", &address)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(next(), "READY=1", "nobody need be attached for that");
    // First that it connects, then why it could not.
    let says_why = |text: String| text.starts_with("STATUS=") && text.contains("127.0.0.1:1");
    assert!((0..5).any(|_| says_why(next())));
    support::signal(&child, "TERM");
    while !next().starts_with("STOPPING=1") {}
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_in_the_metrics() {
    let mut scene = Scene::lived_in("fjall").await;
    scene.rookery.start_again().await;
    let url = format!("{}/metrics", scene.rookery.admin);
    let begun = Instant::now();
    let text = loop {
        let text = web::get(&url).await.unwrap().body;
        if text.contains("rookery_queue_waiting_deliveries 10.0") {
            break text;
        }
        assert!(begun.elapsed() < PATIENCE, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    has(&text, &["queue_waiting_destinations 2.0", "queue_failing_destinations 2.0", "queue_failing_hosts 1.0"]);
    has(&text, &["queue_parked_events 0.0", "queue_held_destinations 0.0", "queue_oldest_seconds "]);
    assert!(!text.contains("queue_oldest_seconds 0.0"), "{text}");
}

/// Every metric that the dashboard, the rules and the table name is one that the service has, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_of_the_documents_are_those_of_the_service() {
    let scene = Scene::begin("fjall").await;
    let text = web::get(&format!("{}/metrics", scene.rookery.admin)).await.unwrap().body;
    let names = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'))
            .filter(|word| word.starts_with("rookery_"))
            .map(|word| word.trim_end_matches("_total").to_owned())
            .collect()
    };
    let has = names(&text);
    assert!(has.len() > 30, "{has:?}");
    let table = include_str!("../docs/operations.md");
    for words in [include_str!("../docs/dashboard.json"), include_str!("../docs/alerts.yml"), table] {
        let unknown: Vec<String> = names(words).difference(&has).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
    let unexplained: Vec<String> = has.difference(&names(table)).cloned().collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}
