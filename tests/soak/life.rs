//! The people of a long run. Nobody is in a hurry: some tens of changes a second in all, told to some hundreds.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use minidom::Element;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::book::Book;
use crate::crash::ledger::{Fate, Place, What};
use crate::crash::people;
use crate::crash::server::{PATIENCE, Server, entry};
use crate::faults::callbacks::{Manner, Push, Sites};
use crate::faults::cast::{self, FEEDS};
use crate::support::client::{self, ATOM, MICROBLOG, OWNER, PUBSUB};
use crate::support::rookery::{ACCT, Rookery};
use crate::support::servers::{HOST, SOCIAL, at_social};

/// Items that a node keeps.
const KEPT: usize = 25;
/// Who follows the accounts: each account has five of them.
const FOLLOWERS: usize = 50;
/// Subscribe and unsubscribe all the time.
const FICKLE: usize = 4;
/// Speak with the component in words.
const TALKERS: usize = 5;
/// Read pages, feeds, nodes and WebFinger.
const READERS: usize = 8;

/// How much of everything there is.
#[derive(Clone, Copy)]
pub struct Scale {
    pub accounts: usize,
    pub crowd: usize,
    pub callbacks: usize,
}

/// Where it all happens.
pub struct Scene {
    pub server: Arc<Server>,
    pub sites: Sites,
    pub scale: Scale,
    pub reads: AtomicUsize,
    pub failed_reads: AtomicUsize,
    pub words: AtomicUsize,
    pub unanswered_words: AtomicUsize,
    pub pushes: AtomicUsize,
    book: Mutex<Book>,
    /// Where HTTP is served.
    http: String,
    web: reqwest::Client,
    end: AtomicBool,
}

impl Scene {
    /// Makes accounts, nodes and subscriptions: all of it acknowledged.
    pub async fn settle_in(server: Arc<Server>, rookery: &Rookery, scale: Scale) -> Arc<Scene> {
        let scene = Arc::new(Scene {
            server,
            sites: Sites::start(scale.callbacks, FEEDS, 0).await,
            scale,
            reads: AtomicUsize::new(0),
            failed_reads: AtomicUsize::new(0),
            words: AtomicUsize::new(0),
            unanswered_words: AtomicUsize::new(0),
            pushes: AtomicUsize::new(0),
            book: Mutex::default(),
            http: rookery.http.clone(),
            web: reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client"),
            end: AtomicBool::new(false),
        });
        let mut all = JoinSet::new();
        for n in 0..scale.accounts {
            let scene = scene.clone();
            all.spawn(async move {
                scene.make(&account(n), &format!("a{n}"), MICROBLOG).await;
                for follower in (n..n + 5).map(|n| n % FOLLOWERS) {
                    scene.wish(&format!("f{follower}@{HOST}"), &account(n), true).await;
                }
            });
        }
        for n in 0..FEEDS {
            let scene = scene.clone();
            all.spawn(async move {
                scene.make(&cast::feed(n), &format!("h{n}"), MICROBLOG).await;
                scene.wish(&format!("f{n}@{HOST}"), &cast::feed(n), true).await;
            });
        }
        while let Some(made) = all.join_next().await {
            made.expect("everybody may have an account");
        }
        people::create(&scene.server, &format!("crier@{HOST}/desk"), &cast::plaza().1, &[]).await;
        scene.make(&cast::plaza(), "crier", &cast::plaza().1).await;
        for part in 0..8 {
            let scene = scene.clone();
            all.spawn(async move {
                for n in (part..scale.crowd).step_by(8) {
                    scene.wish(&format!("s{n:04}@{HOST}"), &cast::plaza(), true).await;
                }
            });
        }
        while let Some(subscribed) = all.join_next().await {
            subscribed.expect("everybody may subscribe");
        }
        cast::subscribe_sites(rookery, &scene.sites, |_| true).await;
        for callback in scene.sites.callbacks.iter().filter(|callback| callback.is_healthy()) {
            scene.book().add_callback(&cast::feed(callback.feed), callback.number);
        }
        scene
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody at once, until [`Scene::end`].
    pub fn live(self: &Arc<Scene>, seed: u64) -> JoinSet<()> {
        let mut all = JoinSet::new();
        let mut next = seed;
        let mut rng = || {
            next += 1;
            StdRng::seed_from_u64(next)
        };
        for n in 0..self.scale.accounts {
            all.spawn(self.clone().write(account(n), format!("a{n}"), 1_500..5_000, rng()));
        }
        for n in 0..FEEDS {
            all.spawn(self.clone().write(cast::feed(n), format!("h{n}"), 1_000..3_000, rng()));
        }
        all.spawn(self.clone().write(cast::plaza(), "crier".to_owned(), 4_000..6_000, rng()));
        for n in 0..FICKLE {
            all.spawn(self.clone().waver(n, rng()));
        }
        for n in 0..TALKERS {
            all.spawn(self.clone().talk(n, rng()));
        }
        for _ in 0..READERS {
            all.spawn(self.clone().read(rng()));
        }
        all
    }

    pub fn end(&self) {
        self.end.store(true, Ordering::SeqCst);
    }

    /// Brings what was heard and pushed into the book, for as long as it is polled.
    pub async fn listen(self: Arc<Scene>, mut pushes: mpsc::UnboundedReceiver<Push>) {
        let mut documents = Documents::default();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let (mut heard, mut torn) = (Vec::new(), Vec::new());
            self.server.enter(|ledger| {
                heard = std::mem::take(&mut ledger.heard);
                torn = std::mem::take(&mut ledger.torn);
            });
            for torn in torn {
                self.book().complain(torn);
            }
            // Whom talkers follow is between them and the component: nobody keeps account of it.
            for heard in heard.iter().filter(|heard| !heard.who.starts_with("talker")) {
                self.book().heard(heard);
            }
            while let Ok(push) = pushes.try_recv() {
                self.pushes.fetch_add(1, Ordering::SeqCst);
                let callback = &self.sites.callbacks[push.callback];
                let again = documents.read(&push);
                let mut book = self.book();
                match again {
                    Ok((titles, repeated)) => {
                        book.http.repeated += usize::from(repeated);
                        let measured = callback.manner == Manner::Well;
                        book.pushed(&cast::feed(callback.feed), push.callback, titles, push.at, measured);
                    }
                    Err(why) => book.complain(format!("callback {} got {why}", push.callback)),
                }
            }
        }
    }

    /// Looks at every node, as its writer does; nobody may write any more.
    pub async fn look_at_all(&self) {
        let places = self.book().places();
        for place in places {
            self.look(&place).await;
        }
    }

    /// The first post of a node, which makes the account, and its bound.
    async fn make(&self, place: &Place, name: &str, node: &str) {
        self.book().open(place, KEPT);
        let (by, item) = (format!("{name}@{HOST}/desk"), format!("{name}-first"));
        assert!(self.publish(&by, place, &item, 1, 100).await, "the first post of {name} is not acknowledged");
        let payload = bound(node);
        self.server.ask("set", &by, &place.0, &payload).await.unwrap_or_else(|fate| panic!("{name}: {fate:?}"));
    }

    async fn publish(&self, by: &str, place: &Place, item: &str, edition: u64, bytes: usize) -> bool {
        let title = format!("{item} edition {edition}");
        let payload = client::publish(&place.1, item, &entry(&title, bytes));
        self.act(by, place, item, What::Published(title), &payload).await
    }

    /// Sends a change and waits for its answer; whose answer is lost looks what stands. Whether it was done.
    async fn act(&self, by: &str, place: &Place, item: &str, what: What, payload: &str) -> bool {
        let number = AtomicU64::new(0);
        let sent = || number.store(self.book().sent(place, item, what.clone()), Ordering::SeqCst);
        let answer = self.server.request(by, &place.0, payload, sent).await;
        let fate = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(_))) => Fate::Acknowledged(0),
            Ok(Ok(Err(fate))) => fate,
            Ok(Err(_)) => Fate::Unknown,
            Err(_) => panic!("nothing came of {item} in {place:?}"),
        };
        self.book().answered(place, number.into_inner(), &fate);
        if fate == Fate::Unknown {
            // A write of the same sender comes behind what may still be in work, should only the link have been cut.
            let again = self.server.ask("set", by, &place.0, &bound(&place.1)).await;
            again.unwrap_or_else(|fate| panic!("{by} may not configure {place:?}: {fate:?}"));
            return self.look(place).await;
        }
        matches!(fate, Fate::Acknowledged(_))
    }

    /// What stands in a node, asked by its writer; whether a request without an answer was done.
    async fn look(&self, place: &Place) -> bool {
        let mut torn = Vec::new();
        let found = people::items(&self.server, place, &mut torn).await;
        let mut book = self.book();
        torn.into_iter().for_each(|torn| book.complain(torn));
        book.stands(place, &found)
    }

    /// Asks for a subscription or its end until it is granted.
    async fn wish(&self, who: &str, place: &Place, on: bool) {
        let payload = match on {
            true => client::subscribe(&place.1, who),
            false => format!("<pubsub xmlns='{PUBSUB}'><unsubscribe node='{}' jid='{who}'/></pubsub>", place.1),
        };
        loop {
            let answer = self.server.request(who, &place.0, &payload, || self.book().wishes(place, who, on)).await;
            match tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes in time") {
                Ok(Ok(_)) => break,
                // Who is told that there is no subscription has none.
                Ok(Err(Fate::Refused(..))) if !on => break,
                Ok(Err(Fate::Refused(_, why))) => panic!("{who} may not subscribe to {place:?}: {why}"),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        self.book().granted(place, who, on);
    }

    /// Publishes, edits, retracts and looks, one request after the other.
    async fn write(self: Arc<Scene>, place: Place, name: String, span: std::ops::Range<u64>, mut rng: StdRng) {
        let by = format!("{name}@{HOST}/desk");
        // The newest own items, with their editions.
        let mut own: Vec<(String, u64)> = Vec::new();
        let mut count = 0;
        while self.pause(&mut rng, span.clone()).await {
            let chosen = if own.is_empty() { 0 } else { rng.random_range(0..own.len()) };
            match rng.random_range(0..20) {
                0 => {
                    self.look(&place).await;
                }
                1 | 2 if !own.is_empty() => {
                    let (item, _) = own[chosen].clone();
                    let payload = client::retract(&place.1, &item);
                    if self.act(&by, &place, &item, What::Retracted, &payload).await {
                        own.remove(chosen);
                    }
                }
                3..6 if !own.is_empty() => {
                    own[chosen].1 += 1;
                    let (item, edition) = own[chosen].clone();
                    self.publish(&by, &place, &item, edition, size(&mut rng)).await;
                }
                _ => {
                    count += 1;
                    let item = format!("{name}-{count}");
                    if self.publish(&by, &place, &item, 1, size(&mut rng)).await {
                        own.push((item, 1));
                    }
                    // Well within what the node keeps: what was trimmed away would be a new item.
                    if own.len() > 10 {
                        own.remove(0);
                    }
                }
            }
        }
    }

    /// Subscribes and unsubscribes.
    async fn waver(self: Arc<Scene>, n: usize, mut rng: StdRng) {
        let who = format!("fickle{n}@{HOST}");
        while self.pause(&mut rng, 300..1_500).await {
            let place = account(rng.random_range(0..self.scale.accounts));
            let on = rng.random_bool(0.6);
            self.wish(&who, &place, on).await;
        }
    }

    /// Says every word there is.
    async fn talk(self: Arc<Scene>, n: usize, mut rng: StdRng) {
        let (name, mut count) = (format!("talker{n}"), 0);
        let by = format!("{name}@{HOST}/desk");
        let place = (at_social(&name), MICROBLOG.to_owned());
        let mut bounded = false;
        while self.pause(&mut rng, 4_000..9_000).await {
            let whom = format!("a{}", rng.random_range(0..self.scale.accounts));
            count += 1;
            let post = format!("{name} has said {count} things");
            let (words, expected) = match rng.random_range(0..6) {
                0 => ("help".to_owned(), "You can say"),
                1 => ("list".to_owned(), ""),
                2 => (format!("follow {whom}"), "You follow"),
                3 => (format!("unfollow {whom}"), whom.as_str()),
                _ => (format!("post {post}"), "Posted"),
            };
            self.words.fetch_add(1, Ordering::SeqCst);
            let answer = tokio::time::timeout(Duration::from_secs(10), self.server.say(&by, SOCIAL, &words)).await;
            let Ok(Ok(answer)) = answer else {
                // The component was killed, or the link cut: words are lost with it.
                self.unanswered_words.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            if !answer.contains(expected) {
                self.book().complain(format!("{name} said {words:?} and was told {answer:?}"));
                continue;
            }
            if expected != "Posted" {
                continue;
            }
            if !bounded {
                bounded = self.server.ask("set", &by, &place.0, &bound(MICROBLOG)).await.is_ok();
            }
            let found = self.server.ask("get", &by, &place.0, &client::items(MICROBLOG)).await;
            if !found.as_ref().is_ok_and(|found| String::from(found).contains(&post)) {
                let mut book = self.book();
                book.lost += 1;
                book.complain(format!("{post:?} was posted and is not there"));
            }
        }
    }

    /// Reads what everybody may read.
    async fn read(self: Arc<Scene>, mut rng: StdRng) {
        while self.pause(&mut rng, 200..800).await {
            let n = rng.random_range(0..self.scale.accounts);
            let path = match rng.random_range(0..4) {
                0 => format!("/.well-known/webfinger?resource=acct:a{n}@{ACCT}"),
                1 => format!("/@a{n}.atom"),
                2 => format!("/@a{n}"),
                _ => {
                    let (who, place) = (format!("f{}@{HOST}", n % FOLLOWERS), account(n));
                    match self.server.ask("get", &who, &place.0, &client::items(&place.1)).await {
                        Ok(_) => self.note_read(),
                        Err(fate) => self.book().complain(format!("{who} may not read {place:?}: {fate:?}")),
                    }
                    continue;
                }
            };
            let answer = async {
                let response = self.web.get(format!("{}{path}", self.http)).send().await?;
                let status = response.status();
                response.bytes().await.map(|body| (status, body))
            };
            match answer.await {
                Ok((status, body)) if status == 200 && !body.is_empty() => self.note_read(),
                Ok((status, _)) => self.book().complain(format!("GET {path}: {status}")),
                // Nobody listens while it is down.
                Err(_) => {
                    self.failed_reads.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    fn note_read(&self) {
        self.reads.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits some milliseconds; false if it is the end.
    async fn pause(&self, rng: &mut StdRng, span: std::ops::Range<u64>) -> bool {
        let until = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(span));
        while tokio::time::Instant::now() < until && !self.end.load(Ordering::SeqCst) {
            let rest = until.saturating_duration_since(tokio::time::Instant::now());
            tokio::time::sleep(rest.min(Duration::from_millis(500))).await;
        }
        !self.end.load(Ordering::SeqCst)
    }
}

fn account(n: usize) -> Place {
    (at_social(&format!("a{n}")), MICROBLOG.to_owned())
}

/// The size of an entry: most are small, some of a size that databases keep in another way.
fn size(rng: &mut StdRng) -> usize {
    match rng.random_range(0..400) {
        0 => rng.random_range(100_000..190_000),
        1..8 => rng.random_range(16_000..40_000),
        8..40 => rng.random_range(3_000..9_000),
        _ => rng.random_range(30..600),
    }
}

fn bound(node: &str) -> String {
    format!(
        "<pubsub xmlns='{OWNER}'><configure node='{node}'><x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#node_config</value></field>\
         <field var='pubsub#max_items'><value>{KEPT}</value></field></x></configure></pubsub>"
    )
}

/// The last documents that were pushed: most come to many.
#[derive(Default)]
struct Documents {
    last: Vec<Document>,
}

struct Document {
    digest: Vec<u8>,
    titles: Vec<String>,
    taken_by: Vec<usize>,
}

impl Documents {
    /// The titles of what was pushed, and whether this callback took the very same before.
    fn read(&mut self, push: &Push) -> Result<(&[String], bool), String> {
        let digest = digest::digest(&digest::SHA256, &push.body).as_ref().to_vec();
        let at = match self.last.iter().position(|document| document.digest == digest) {
            Some(at) => at,
            None => {
                let feed: Element = String::from_utf8_lossy(&push.body).parse().map_err(|error| format!("{error}"))?;
                let entries = feed.children().filter(|child| child.is("entry", ATOM));
                let title = |entry: &Element| entry.get_child("title", ATOM).map(Element::text).unwrap_or_default();
                let titles = entries.map(title).collect();
                if self.last.len() >= 100 {
                    self.last.remove(0);
                }
                self.last.push(Document { digest, titles, taken_by: Vec::new() });
                self.last.len() - 1
            }
        };
        let document = &mut self.last[at];
        let repeated = document.taken_by.contains(&push.callback);
        document.taken_by.push(push.callback);
        Ok((&document.titles, repeated))
    }
}
