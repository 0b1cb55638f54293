//! More than it can do: a flood of publishes, a crowd of subscribers, a server that hardly reads, callbacks that never
//! answer. Each prints a row: what came of it, how much memory it took, and how long somebody else waited meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::crash::ledger::Place;
use super::crash::people;
use super::crash::server::{PATIENCE, entry};
use super::gauge::Latencies;
use super::support::client;
use super::support::servers::{HOST, SOCIAL};
use super::{BYTES, House, Post, account, done, number, support};

/// What the component may take at most, whatever comes.
const MOST_MIB: u64 = 400;
/// Publishes a second that are sent in a flood, by so many people.
const OFFERED: u64 = 20_000;
const FLOODERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_memory_is_bounded_and_others_are_served() {
    let crowd = number("CROWD").unwrap_or(500);
    let callbacks = number("CALLBACKS").unwrap_or(20);
    let seconds = number("SECONDS").unwrap_or(1) as u64;
    let house = House::open().await;
    println!(
        "\n| load | what came of it | resident MiB: before, most | others' publishes until they are stored: p50, p99, most ms; asked again |"
    );
    println!("| --- | --- | --- | --- |");

    let rest = async {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        String::new()
    };
    house.under("nothing", rest).await;
    let name = format!("{OFFERED} publishes a second, offered for {seconds} s by {FLOODERS} people");
    house.under(&name, house.flood(seconds)).await;

    let hall = (SOCIAL.to_owned(), "hall".to_owned());
    people::create(&house.server, &house.by(0), &hall.1, &[]).await;
    house.under(&format!("{crowd} subscribe to one node"), house.fill(&hall, crowd)).await;
    house.under(&format!("3 publishes to its {crowd} subscribers"), house.cry(&hall, "loud", crowd)).await;
    let slow = async {
        let over = AtomicBool::new(false);
        let (words, ()) = tokio::join!(
            async {
                let words = house.cry(&hall, "slow", crowd).await;
                over.store(true, Ordering::SeqCst);
                words
            },
            house.hardly_read(&over)
        );
        words
    };
    house.under("the same, to a server that reads a tenth of the time", slow).await;
    let name = format!("{} publishes to a feed with {callbacks} callbacks that never answer", 50 * seconds);
    house.under(&name, house.to_the_deaf(callbacks, 50 * seconds as usize)).await;
}

impl House {
    /// What `load` costs, and somebody who publishes beside it: each 20 ms, or when the last one was answered.
    async fn under(&self, name: &str, load: impl Future<Output = String>) {
        let over = AtomicBool::new(false);
        let before = self.look().resident / 1024;
        let load = async {
            let words = load.await;
            over.store(true, Ordering::SeqCst);
            words
        };
        let beside = async {
            let (mut times, mut most, mut n, mut again) = (Latencies::default(), 0, 0, 0);
            while !over.load(Ordering::SeqCst) || n < 20 {
                let post = Post { by: 9_999_999, place: account(9_999_999), item: format!("{before}-{n}") };
                let began = Instant::now();
                while self.send(&post).await.await.expect("the stream stays").is_err() {
                    again += 1;
                }
                times.add(began.elapsed());
                most = self.look().resident.max(most);
                n += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (times, most / 1024, again)
        };
        let (words, (times, most, again)) = tokio::join!(load, beside);
        let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|share| times.quantile(share).unwrap_or(0.0));
        println!("| {name} | {words} | {before}, {most} | {p50:.1}, {p99:.1}, {longest:.0}; {again} |");
        assert!(most <= MOST_MIB, "{name}: {most} MiB");
    }

    /// Publishes far more than it can store; every one is answered: done, or to come again.
    async fn flood(&self, seconds: u64) -> String {
        let (began, constrained, all) = (Instant::now(), self.server.constrained(), OFFERED * seconds);
        let mut answers = JoinSet::new();
        let mut sent = 0;
        while sent < all {
            let due = (began.elapsed().as_secs_f64() * OFFERED as f64) as u64;
            while sent < due.min(all) {
                let by = 1_000_000 + sent as usize % FLOODERS;
                let post = Post { by, place: account(by), item: format!("f{}", sent % 5_000) };
                let answer = self.send(&post).await;
                answers.spawn(tokio::time::timeout(PATIENCE, answer));
                sent += 1;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut stored = 0;
        while let Some(answer) = answers.join_next().await {
            let answer = answer.expect("nobody ends it").expect("an answer comes in time").expect("the stream stays");
            stored += u64::from(answer.is_ok());
        }
        let later = self.server.constrained() - constrained;
        assert!(stored + later >= all, "{} were answered with something else", all - stored - later);
        format!("{stored} stored, {} resource-constraint, all answered after {:.1?}", all - stored, began.elapsed())
    }

    /// Subscribes a crowd, sixteen at a time.
    async fn fill(&self, place: &Place, crowd: usize) -> String {
        let mut rates = Vec::new();
        for part in 0..10 {
            let began = Instant::now();
            let span = crowd * part / 10..crowd * (part + 1) / 10;
            let some = |first: usize| {
                let span = span.clone();
                async move {
                    for n in span.skip(first).step_by(16) {
                        people::subscribe(&self.server, &format!("c{n}@{HOST}"), place).await;
                    }
                }
            };
            futures::future::join_all((0..16).map(some)).await;
            rates.push(span.len() as f64 / began.elapsed().as_secs_f64());
        }
        format!("{:.0} a second in the first tenth, {:.0} in the last", rates[0], rates[9])
    }

    /// Publishes three times, and waits until all of `crowd` were told of each.
    async fn cry(&self, place: &Place, word: &str, crowd: usize) -> String {
        let (heard, began) = (self.server.heard(), Instant::now());
        for n in 0..3 {
            let item = format!("{word}{n}");
            let payload = client::publish(&place.1, &item, &entry(&item, BYTES));
            self.server.ask("set", &self.by(0), &place.0, &payload).await.expect("who made it may publish");
        }
        let all = || self.server.heard() >= heard + 3 * crowd as u64;
        assert!(support::until(10 * PATIENCE, all).await, "{} heard", self.server.heard() - heard);
        let took = began.elapsed();
        format!("{} told in {took:.1?}, {:.0} a second", 3 * crowd, 3.0 * crowd as f64 / took.as_secs_f64())
    }

    async fn hardly_read(&self, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            self.server.be_silent(true);
            tokio::time::sleep(Duration::from_millis(180)).await;
            self.server.be_silent(false);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has callbacks that confirm and then never answer a push follow a feed, and changes the feed again and again.
    async fn to_the_deaf(&self, callbacks: usize, posts: usize) -> String {
        let author = 5_000_000;
        let post = |n: usize| Post { by: author, place: account(author), item: format!("d{n}") };
        done(self.send(&post(0)).await).await;
        let feed = self.rookery.get(&format!("/@p{author}.atom")).await.body;
        let document: minidom::Element = feed.parse().expect("a feed");
        let (hub, topic) = (self.rookery.served(&people::link(&document, "hub")), people::link(&document, "self"));
        let (confirmed, pushed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut deaf = JoinSet::new();
        for n in 0..callbacks {
            // Each in a network of its own: the hub bounds what comes for one.
            let address = std::net::Ipv4Addr::new(127, 30 + (n / 250) as u8, (n % 250) as u8, 1);
            let listener = TcpListener::bind((address, 0)).await.expect("the loopback has many addresses");
            let callback = format!("http://{}/cb", listener.local_addr().expect("a bound socket has an address"));
            deaf.spawn(listen(listener, confirmed.clone(), pushed.clone()));
            let form = [("hub.mode", "subscribe"), ("hub.topic", &topic), ("hub.callback", &callback)];
            assert_eq!(support::web::post(&hub, &form).await.expect("the hub answers").status, 202);
            // And what comes in all.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let all = || confirmed.load(Ordering::SeqCst) == callbacks as u64;
        assert!(support::until(PATIENCE, all).await, "not every intent was verified");
        for n in 0..posts {
            done(self.send(&post(n)).await).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(support::until(PATIENCE, || pushed.load(Ordering::SeqCst) > 0).await, "somebody is pushed to");
        format!("{} pushes begun, none answered", pushed.load(Ordering::SeqCst))
    }
}

/// A callback that confirms what it is asked, and never answers anything else.
async fn listen(listener: TcpListener, confirmed: Arc<AtomicU64>, pushed: Arc<AtomicU64>) {
    let mut all = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        all.spawn(hear(socket, confirmed.clone(), pushed.clone()));
    }
}

async fn hear(mut socket: TcpStream, confirmed: Arc<AtomicU64>, pushed: Arc<AtomicU64>) -> Option<()> {
    let mut head = [0; 4096];
    let read = socket.read(&mut head).await.ok()?;
    let text = String::from_utf8_lossy(&head[..read]).into_owned();
    match text.strip_prefix("GET ") {
        Some(asked) => {
            let path = asked.split(' ').next()?;
            let url = url::Url::parse("http://deaf.example").ok()?.join(path).ok()?;
            let challenge = url.query_pairs().find(|(name, _)| name == "hub.challenge")?.1.into_owned();
            let length = challenge.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{challenge}");
            socket.write_all(answer.as_bytes()).await.ok()?;
            confirmed.fetch_add(1, Ordering::SeqCst);
        }
        None => {
            pushed.fetch_add(1, Ordering::SeqCst);
            // Reads what comes, until the other side has enough of it.
            while socket.read(&mut head).await.ok()? > 0 {}
        }
    }
    Some(())
}
