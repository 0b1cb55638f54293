//! A thousand HTTP subscribers (WebSub §5, §7), each a host of its own on the loopback. A tenth of them fail, in every
//! way there is. Written on bare sockets: a library would not let us answer by halves.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use minidom::Element;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::crash::ledger::Row;
use crate::support::client::ATOM;
use crate::support::client::websub::signature_fits;

/// What a callback does, when it does not do well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Manner {
    Well,
    /// Nobody listens, or the connection is reset at once.
    Refused,
    /// Takes longer than anybody waits.
    Slow,
    Broken,
    /// 429, or 503, with Retry-After.
    TooMany,
    /// The connection ends in the middle of the answer's head.
    Half,
    Redirect,
    /// Takes some pushes, then says 410 for ever.
    Gone,
    /// Its lease is short: see [`Sites::lapse`].
    Lapsing,
}

impl Manner {
    const BAD: [Manner; 7] =
        [Manner::Refused, Manner::Slow, Manner::Broken, Manner::TooMany, Manner::Half, Manner::Redirect, Manner::Gone];
}

pub struct Callback {
    pub number: usize,
    /// Which feed it follows.
    pub feed: usize,
    pub manner: Manner,
    /// Fails every time, to the end; else every second time, and never in the end.
    pub always: bool,
    address: SocketAddr,
    pub secret: String,
    topic: Mutex<String>,
    verified: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: usize,
    /// The documents that it took, by number, and in which row each counts.
    taken: Vec<(usize, usize)>,
    /// Its subscription has ended: it said 410, or its lease is over for certain.
    over: bool,
    after: usize,
    bad: Vec<String>,
}

/// A document as all callbacks of a feed get it: titles and atom:ids with their updated, newest first.
struct Document {
    posts: Vec<(usize, String)>,
}

#[derive(Default)]
struct Documents {
    by_digest: HashMap<Vec<u8>, usize>,
    all: Vec<Document>,
    titles: HashMap<String, usize>,
}

pub struct Sites {
    pub callbacks: Vec<Arc<Callback>>,
    shared: Arc<Shared>,
    tasks: Mutex<Vec<Option<JoinHandle<()>>>>,
}

/// A push as a callback took it.
pub struct Push {
    pub callback: usize,
    pub at: Instant,
    pub body: Vec<u8>,
}

struct Shared {
    documents: Mutex<Documents>,
    /// Who keeps account of the pushes in our stead.
    listener: Mutex<Option<mpsc::UnboundedSender<Push>>>,
    failing: AtomicBool,
    calm: AtomicBool,
    pushes: AtomicUsize,
    /// Where what comes now counts.
    row: AtomicUsize,
}

impl Sites {
    /// `count` callbacks spread over `feeds` feeds; `lapsing` of them with a short lease.
    pub async fn start(count: usize, feeds: usize, lapsing: usize) -> Sites {
        let shared = Arc::new(Shared {
            documents: Mutex::default(),
            listener: Mutex::default(),
            failing: AtomicBool::new(false),
            calm: AtomicBool::new(false),
            pushes: AtomicUsize::new(0),
            row: AtomicUsize::new(0),
        });
        let (mut callbacks, mut tasks) = (Vec::new(), Vec::new());
        for number in 0..count {
            let ip = Ipv4Addr::new(127, 20, (number / 250) as u8, (number % 250 + 1) as u8);
            let listener = TcpListener::bind((ip, 0)).await.expect("the loopback has many addresses");
            let bad = number % 10 == 9;
            let manner = match bad {
                true => Manner::BAD[number / 10 % Manner::BAD.len()],
                false if number < lapsing * 10 && number % 10 == 8 => Manner::Lapsing,
                false => Manner::Well,
            };
            let callback = Arc::new(Callback {
                number,
                feed: number % feeds,
                manner,
                always: manner == Manner::Gone || number / 10 / Manner::BAD.len() % 2 == 1,
                address: listener.local_addr().expect("a bound socket has an address"),
                secret: format!("secret of {number}"),
                topic: Mutex::default(),
                verified: AtomicBool::new(false),
                seen: Mutex::default(),
            });
            tasks.push(Some(tokio::spawn(listen(listener, callback.clone(), shared.clone()))));
            callbacks.push(callback);
        }
        Sites { callbacks, shared, tasks: Mutex::new(tasks) }
    }

    /// Every push that is taken goes to whom this gives; nothing of it is kept here, and [`Sites::compare`] knows nothing.
    pub fn listen(&self) -> mpsc::UnboundedReceiver<Push> {
        let (tx, rx) = mpsc::unbounded_channel();
        *lock(&self.shared.listener) = Some(tx);
        rx
    }

    /// From now on who is to fail fails. Until then all do well, so that their intents are verified.
    pub fn begin_failing(&self) {
        self.shared.failing.store(true, Ordering::SeqCst);
        for callback in self.callbacks.iter().filter(|c| c.manner == Manner::Refused && c.always) {
            self.kill(callback.number);
        }
    }

    /// From now on only those fail that always do.
    pub fn calm_down(&self) {
        self.shared.calm.store(true, Ordering::SeqCst);
    }

    /// As `kill -9` of the server there: the connections are reset, nobody listens.
    pub fn kill(&self, number: usize) {
        if let Some(task) = lock(&self.tasks)[number].take() {
            task.abort();
        }
    }

    /// Starts it again at the same address.
    pub async fn raise(&self, number: usize) {
        let callback = self.callbacks[number].clone();
        if callback.manner == Manner::Refused && callback.always {
            return;
        }
        for _ in 0..200 {
            if let Ok(listener) = TcpListener::bind(callback.address).await {
                let task = tokio::spawn(listen(listener, callback, self.shared.clone()));
                lock(&self.tasks)[number] = Some(task);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("callback {number} cannot have its address again");
    }

    /// Forgets that these were verified: they ask again.
    pub fn be_verified_anew(&self, which: Manner) {
        for callback in self.callbacks.iter().filter(|c| c.manner == which) {
            callback.verified.store(false, Ordering::SeqCst);
        }
    }

    /// How many pushes each of these took.
    pub fn taken(&self, which: Manner) -> Vec<usize> {
        self.callbacks.iter().filter(|c| c.manner == which).map(|c| lock(&c.seen).taken.len()).collect()
    }

    /// The short leases are over: whatever comes there from now on is wrong.
    pub fn lapse(&self) {
        for callback in self.callbacks.iter().filter(|c| c.manner == Manner::Lapsing) {
            lock(&callback.seen).over = true;
        }
    }

    /// From now on what comes counts in `row`.
    pub fn begin(&self, row: usize) {
        self.shared.row.store(row, Ordering::SeqCst);
    }

    /// Pushes that came, well received or not.
    pub fn pushes(&self) -> usize {
        self.shared.pushes.load(Ordering::SeqCst)
    }

    /// Pushes to callbacks whose subscription has ended, per callback that got any; counted anew from here.
    pub fn pushed_after_the_end(&self, why: Manner) -> Vec<usize> {
        let of_it = self.callbacks.iter().filter(|c| c.manner == why);
        of_it.map(|c| std::mem::take(&mut lock(&c.seen).after)).filter(|after| *after > 0).collect()
    }

    pub fn complaints(&self) -> Vec<String> {
        self.callbacks.iter().flat_map(|c| lock(&c.seen).bad.clone()).collect()
    }

    /// What the callbacks of `feed` that are healthy in the end have missed of `posts` (titles in their order, with the
    /// row that each is counted in), and what came twice, in the row of the time when it came again.
    pub fn compare(&self, feed: usize, posts: &[(String, usize)], tell: &mut Told) {
        let documents = lock(&self.shared.documents);
        let number = |title: &String| documents.titles.get(title).copied();
        let wanted: Vec<(Option<usize>, &(String, usize))> = posts.iter().map(|post| (number(&post.0), post)).collect();
        let place: HashMap<usize, usize> =
            wanted.iter().enumerate().filter_map(|(at, (title, _))| Some(((*title)?, at))).collect();
        for callback in self.callbacks.iter().filter(|c| c.feed == feed && c.is_healthy()) {
            let seen = lock(&callback.seen);
            let (mut known, mut order, mut distinct) = (HashSet::new(), Vec::new(), HashSet::new());
            for (document, row) in &seen.taken {
                if !distinct.insert(*document) {
                    tell.row(*row).repeated += 1;
                }
                for (title, _) in documents.all[*document].posts.iter().rev() {
                    if known.insert(*title)
                        && let Some(at) = place.get(title)
                    {
                        order.push(*at);
                    }
                }
            }
            for (title, (words, row)) in &wanted {
                tell.row(*row).promised += 1;
                match title.is_some_and(|title| known.contains(&title)) {
                    true => tell.row(*row).received += 1,
                    false => tell.lost.push(format!("{words:?} was in no push to callback {}", callback.number)),
                }
            }
            // An edited post is first seen by its newest title when that is pushed: its place tells nothing then.
            let mut newest = 0;
            for at in order.into_iter().filter(|at| posts[*at].0.ends_with(" edition 1")) {
                if at < newest {
                    tell.wrong.push(format!("callback {} was told of {:?} too late", callback.number, posts[at].0));
                }
                newest = newest.max(at);
            }
        }
    }

    /// Posts that a receiver would show twice, since they came under several atom:ids or times.
    pub fn doubles(&self) -> usize {
        let documents = lock(&self.shared.documents);
        let mut ids: HashMap<usize, BTreeSet<&str>> = HashMap::new();
        for (title, id) in documents.all.iter().flat_map(|document| &document.posts) {
            ids.entry(*title).or_default().insert(id);
        }
        ids.values().map(|ids| ids.len() - 1).sum()
    }
}

/// What [`Sites::compare`] found.
#[derive(Default)]
pub struct Told {
    pub rows: Vec<Row>,
    pub lost: Vec<String>,
    pub wrong: Vec<String>,
}

impl Told {
    fn row(&mut self, at: usize) -> &mut Row {
        if self.rows.len() <= at {
            self.rows.resize(at + 1, Row::default());
        }
        &mut self.rows[at]
    }
}

impl Callback {
    pub fn url(&self) -> String {
        format!("http://{}/callback/{}", self.address, self.number)
    }

    pub fn expect_topic(&self, topic: &str) {
        *lock(&self.topic) = topic.to_owned();
    }

    pub fn is_verified(&self) -> bool {
        self.verified.load(Ordering::SeqCst)
    }

    pub fn is_healthy(&self) -> bool {
        match self.manner {
            Manner::Well => true,
            Manner::Gone | Manner::Lapsing => false,
            _ => !self.always,
        }
    }

    fn verify(&self, target: &str) -> Deed {
        let query = target.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let get = |name: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        if get("hub.mode") != "subscribe" || get("hub.topic") != *lock(&self.topic) {
            return Deed::Say("404 Not Found", "", String::new());
        }
        self.verified.store(true, Ordering::SeqCst);
        Deed::Say("200 OK", "", get("hub.challenge"))
    }

    fn take(&self, headers: &HashMap<String, String>, body: &[u8], shared: &Shared) -> Deed {
        shared.pushes.fetch_add(1, Ordering::SeqCst);
        // Before `seen` is locked: who compares locks the documents first.
        let number = shared.number(body);
        let mut seen = lock(&self.seen);
        seen.requests += 1;
        if seen.over {
            seen.after += 1;
        }
        let calm = shared.calm.load(Ordering::SeqCst) && !self.always;
        let fails = shared.failing.load(Ordering::SeqCst) && !calm && (self.always || seen.requests % 2 == 1);
        match self.manner {
            Manner::Gone if seen.taken.len() >= 3 => {
                seen.over = true;
                return Deed::Say("410 Gone", "", String::new());
            }
            Manner::Well | Manner::Lapsing | Manner::Gone => {}
            _ if !fails => {}
            Manner::Refused => return Deed::Leave(""),
            Manner::Slow => return Deed::Sleep(Duration::from_secs(45)),
            Manner::Broken => return Deed::Say("500 Internal Server Error", "", "no".into()),
            Manner::TooMany if seen.requests % 4 < 2 => {
                return Deed::Say("429 Too Many Requests", "Retry-After: 1\r\n", String::new());
            }
            Manner::TooMany => return Deed::Say("503 Service Unavailable", "Retry-After: 12\r\n", String::new()),
            Manner::Half => return Deed::Leave("HTTP/1.1 200 OK\r\nContent-Le"),
            Manner::Redirect => {
                return Deed::Say("307 Temporary Redirect", "Location: http://127.0.0.1:9/\r\n", String::new());
            }
        }
        let signature = headers.get("x-hub-signature").map(String::as_str).unwrap_or_default();
        if !signature_fits(signature, body, &self.secret) {
            seen.bad.push(format!("a push to callback {} is signed wrongly: {signature:?}", self.number));
        }
        if let Some(listener) = lock(&shared.listener).as_ref() {
            let _ = listener.send(Push { callback: self.number, at: Instant::now(), body: body.to_vec() });
        }
        match number {
            Ok(number) => seen.taken.push((number, shared.row.load(Ordering::SeqCst))),
            Err(why) => seen.bad.push(format!("a push to callback {}: {why}", self.number)),
        }
        Deed::Say("200 OK", "", String::new())
    }
}

impl Shared {
    /// The number of a document; 0 if somebody else keeps account.
    fn number(&self, body: &[u8]) -> Result<usize, String> {
        match lock(&self.listener).is_some() {
            true => Ok(0),
            false => lock(&self.documents).number(body),
        }
    }
}

impl Documents {
    fn number(&mut self, body: &[u8]) -> Result<usize, String> {
        let digest = digest::digest(&digest::SHA256, body).as_ref().to_vec();
        if let Some(known) = self.by_digest.get(&digest) {
            return Ok(*known);
        }
        let feed: Element = String::from_utf8_lossy(body).parse().map_err(|error| format!("no feed: {error}"))?;
        let mut posts = Vec::new();
        for entry in feed.children().filter(|child| child.is("entry", ATOM)) {
            let text = |name: &str| entry.get_child(name, ATOM).map(Element::text).unwrap_or_default();
            let next = self.titles.len();
            let title = *self.titles.entry(text("title")).or_insert(next);
            posts.push((title, format!("{} {}", text("id"), text("updated"))));
        }
        self.by_digest.insert(digest, self.all.len());
        self.all.push(Document { posts });
        Ok(self.all.len() - 1)
    }
}

/// What a callback does with a request.
enum Deed {
    /// Status, further header fields, body.
    Say(&'static str, &'static str, String),
    /// Says so much and resets the connection.
    Leave(&'static str),
    Sleep(Duration),
}

async fn listen(listener: TcpListener, callback: Arc<Callback>, shared: Arc<Shared>) {
    // Dropped with this task: then its connections end with it.
    let mut guests = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        while guests.try_join_next().is_some() {}
        let (callback, shared) = (callback.clone(), shared.clone());
        guests.spawn(async move {
            let _ = socket.set_zero_linger();
            let _ = converse(socket, &callback, &shared).await;
        });
    }
}

async fn converse(mut socket: TcpStream, callback: &Callback, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let mut lines = text.split("\r\n");
        let request = lines.next().unwrap_or_default().to_owned();
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        buffer.drain(..head + 4);
        while buffer.len() < length {
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        let mut words = request.split(' ');
        let deed = match (words.next(), words.next()) {
            (Some("GET"), Some(target)) => callback.verify(target),
            _ => callback.take(&headers, &body, shared),
        };
        match deed {
            Deed::Say(status, fields, body) => {
                let answer = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
                socket.write_all(answer.as_bytes()).await?;
            }
            Deed::Leave(words) => {
                socket.write_all(words.as_bytes()).await?;
                // So that it arrives before the reset does.
                tokio::time::sleep(Duration::from_millis(2)).await;
                return Ok(());
            }
            Deed::Sleep(span) => {
                tokio::time::sleep(span).await;
                return Ok(());
            }
        }
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        for task in lock(&self.tasks).iter().flatten() {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
