//! What a publish costs as the store grows: in a node of up to a million items and beyond its edge, among up to 100,000
//! nodes, while the node of a million items is deleted, and to start again on all of it. `scripts/growth` makes the long
//! run.
//!
//! Costs are printed, never asserted: they belong to the machine. What is asserted is that all stands that was answered.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `ROOKERY_GROWTH_ITEMS`, `ROOKERY_GROWTH_NODES` | up to how many; 1,000 and 100 |
//! | `ROOKERY_GROWTH_CROWD`, `ROOKERY_GROWTH_CALLBACKS` | subscribers of one node, and callbacks that never answer; 500 and 20 |
//! | `ROOKERY_GROWTH_SECONDS` | how long a flood lasts; 1 |
//! | `ROOKERY_GROWTH_BACKEND` | the store's engine; fjall |

mod support;

#[path = "growth/bounds.rs"]
mod bounds;
#[path = "crash/mod.rs"]
mod crash;
#[allow(dead_code)]
#[path = "soak/gauge.rs"]
mod gauge;

use std::collections::VecDeque;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use minidom::Element;

use crash::ledger::Place;
use crash::people;
use crash::server::{Answer, PATIENCE, Server, entry};
use gauge::{Latencies, Process};
use support::client::{self, MICROBLOG, OWNER, PUBSUB};
use support::rookery::{Rookery, Settings};
use support::servers::{HOST, SECRET, SOCIAL, at_social};

const RSM: &str = "http://jabber.org/protocol/rsm";
/// Publishes under way at one time.
const WINDOW: usize = 16;
/// Bytes of text in a post.
const BYTES: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_is_stored_however_much_there_is() {
    let (items, nodes) = (number("ITEMS").unwrap_or(1_000), number("NODES").unwrap_or(100));
    let mut house = House::open().await;

    println!("\n| items in the node {} |", House::COLUMNS);
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    people::create(&house.server, &house.by(0), NODE, &[("pubsub#max_items", &items.to_string())]).await;
    let mut stands = 0;
    for step in steps(items) {
        house.grow(&step, |n| Post { by: 0, place: node(), item: format!("i{n}") }).await;
        stands = step.end;
        assert_eq!(house.count().await, stands, "all that was answered stands");
    }
    // Beyond the edge each publish removes the oldest.
    let beyond = stands..stands + sample(items);
    house.named("and each removes the oldest", &beyond, |n| Post { by: 0, place: node(), item: format!("i{n}") }).await;
    assert_eq!(house.count().await, items, "no more than the node keeps");

    println!("\n| nodes {} |", House::COLUMNS);
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for step in steps(nodes) {
        // Each publish makes an account with its node.
        house.grow(&step, |n| Post { by: n, place: account(n), item: "first".to_owned() }).await;
    }
    // In an order in which neighbours lie far apart.
    let anywhere = |n: usize| n * 7_919 % nodes;
    let posts = |n| Post { by: anywhere(n), place: account(anywhere(n)), item: format!("i{n}") };
    house.named("one more post in each of some", &(0..sample(nodes)), posts).await;
    for n in [0, nodes / 2, nodes - 1] {
        let found = house.server.ask("get", &house.by(n), &account(n).0, &client::items(MICROBLOG)).await;
        let found = found.unwrap_or_else(|why| panic!("account {n} may read its own node: {why:?}"));
        assert!(client::item_ids(&found).contains(&"first".to_owned()), "the first post of account {n} stands");
    }

    house.delete(items, nodes).await;
    house.restarts().await;
    house.rookery.drain().await;
    let (status, said) = house.rookery.command(&["check"]);
    assert!(status.success(), "{said}");
}

const NODE: &str = "growing";

fn node() -> Place {
    (SOCIAL.to_owned(), NODE.to_owned())
}

fn account(n: usize) -> Place {
    (at_social(&format!("p{n}")), MICROBLOG.to_owned())
}

/// What is to be published: an item by the n-th person.
struct Post {
    by: usize,
    place: Place,
    item: String,
}

/// The component, its server, and who publishes.
struct House {
    server: Server,
    rookery: Rookery,
}

impl House {
    const COLUMNS: &'static str = "| publishes/s, 16 in flight | CPU ms each | one in flight, p50 and p99 ms | newest 20, \
                                   p50 ms | resident MiB | store MiB";

    async fn open() -> House {
        let server = Server::start().await;
        let mut rookery = Rookery::begin(&Settings {
            jid: SOCIAL.to_owned(),
            server: server.address.clone(),
            secret: SECRET.to_owned(),
            backend: std::env::var("ROOKERY_GROWTH_BACKEND").unwrap_or_else(|_| "fjall".to_owned()),
        });
        rookery.kill();
        let config = support::read(&rookery.config_path()) + &format!("[limits]\ntrusted_hosts = [\"{HOST}\"]\n");
        fs::write(rookery.config_path(), config).expect("our own file can be written");
        rookery.start_again().await;
        House { server, rookery }
    }

    fn by(&self, n: usize) -> String {
        format!("p{n}@{HOST}/desk")
    }

    /// Publishes a whole step, measures the end of it, and prints a row.
    async fn grow(&mut self, step: &Range<usize>, post: impl Fn(usize) -> Post) {
        let measured = sample(step.len());
        self.publish(step.start..step.end - measured, &post).await;
        self.named(&thousands(step.end), &(step.end - measured..step.end), post).await;
    }

    /// Publishes and measures: half of them with sixteen in flight, then some one after the other.
    async fn named(&mut self, name: &str, span: &Range<usize>, post: impl Fn(usize) -> Post) {
        let (from, half) = (span.start, span.start + span.len() / 2);
        let (worked, began) = (self.look().worked, Instant::now());
        self.publish(from..half, &post).await;
        let (rate, worked) = (
            (half - from) as f64 / began.elapsed().as_secs_f64(),
            (self.look().worked - worked) / (half - from) as f64,
        );
        let mut single = Latencies::default();
        let singles = span.len().min(span.len() / 4 + 200).min(span.end - half);
        self.publish(half..span.end - singles, &post).await;
        for n in span.end - singles..span.end {
            let began = Instant::now();
            done(self.send(&post(n)).await).await;
            single.add(began.elapsed());
        }
        let last = post(span.end - 1);
        let mut reading = Latencies::default();
        for _ in 0..50 {
            let newest = format!("<pubsub xmlns='{PUBSUB}'><items node='{}' max_items='20'/></pubsub>", last.place.1);
            let began = Instant::now();
            let found = self.server.ask("get", &self.by(last.by), &last.place.0, &newest).await;
            reading.add(began.elapsed());
            assert!(
                found.is_ok_and(|found| String::from(&found).contains(&last.item)),
                "the newest is among the newest"
            );
        }
        let now = self.look();
        let store = gauge::on_disk(&self.rookery.folder().join("store")) / 1024;
        let [p50, p99] = [0.5, 0.99].map(|share| single.quantile(share).unwrap_or(0.0));
        println!(
            "| {name} | {rate:.0} | {:.3} | {p50:.2}, {p99:.1} | {:.1} | {} | {store} |",
            worked * 1_000.0,
            reading.quantile(0.5).unwrap_or(0.0),
            now.resident / 1024
        );
    }

    async fn publish(&self, span: Range<usize>, post: &impl Fn(usize) -> Post) {
        let mut under_way = VecDeque::new();
        for n in span {
            if under_way.len() == WINDOW {
                done(under_way.pop_front().expect("some are under way")).await;
            }
            under_way.push_back(self.send(&post(n)).await);
        }
        for answer in under_way {
            done(answer).await;
        }
    }

    async fn send(&self, post: &Post) -> Answer {
        let payload = client::publish(&post.place.1, &post.item, &entry(&post.item, BYTES));
        self.server.request(&self.by(post.by), &post.place.0, &payload, || ()).await
    }

    /// Items in the growing node, as it says itself.
    async fn count(&self) -> usize {
        let one =
            format!("<pubsub xmlns='{PUBSUB}'><items node='{NODE}'/><set xmlns='{RSM}'><max>1</max></set></pubsub>");
        let found = self.server.ask("get", &self.by(0), SOCIAL, &one).await.expect("who made it may read it");
        let set = |of: &Element| of.get_child("set", RSM)?.get_child("count", RSM)?.text().parse().ok();
        found.get_child("pubsub", PUBSUB).and_then(set).expect("a page tells how many there are")
    }

    /// Deletes the growing node, and publishes elsewhere until nothing of its items is left.
    async fn delete(&self, items: usize, nodes: usize) {
        let before = gauge::on_disk(&self.rookery.folder().join("store")) / 1024;
        let over = AtomicBool::new(false);
        let began = Instant::now();
        let delete = format!("<pubsub xmlns='{OWNER}'><delete node='{NODE}'/></pubsub>");
        let answered = async {
            self.server.ask("set", &self.by(0), SOCIAL, &delete).await.expect("who made it may delete it");
            let answered = began.elapsed();
            // Its rows go bit by bit; all are gone when no more go.
            let (mut swept, mut gone, mut still) = (0.0, began.elapsed(), 0);
            while swept == 0.0 || still < 4 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let now = self.swept().await;
                still = if now == swept { still + 1 } else { 0 };
                if still == 0 {
                    (swept, gone) = (now, began.elapsed());
                }
            }
            over.store(true, Ordering::SeqCst);
            (answered, gone, swept)
        };
        let elsewhere = async {
            let mut times = Latencies::default();
            let mut n = 0;
            while !over.load(Ordering::SeqCst) || n < 100 {
                let post = Post { by: n % nodes, place: account(n % nodes), item: format!("meanwhile{n}") };
                let began = Instant::now();
                done(self.send(&post).await).await;
                times.add(began.elapsed());
                n += 1;
            }
            times
        };
        let ((answered, gone, swept), times) = tokio::join!(answered, elsewhere);
        assert!(swept >= items as f64, "only {swept} rows of {items} items were removed");
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| times.quantile(share).unwrap_or(0.0));
        let store = gauge::on_disk(&self.rookery.folder().join("store")) / 1024;
        println!(
            "\nthe growing node deleted: answered after {answered:.1?}, its {swept:.0} rows gone after {gone:.1?}; {} publishes \
             elsewhere meanwhile, one in flight: p50 {p50:.2}, p99 {p99:.1}, most {most:.1} ms; store {before} MiB before, \
             {store} after; load of the machine {:.1}",
            times.count,
            gauge::load().unwrap_or(0.0)
        );
    }

    /// Kills it and starts it on all of this, some times: until it is let in, and until somebody is told of what is published
    /// then.
    async fn restarts(&mut self) {
        let reader = format!("reader@{HOST}");
        people::subscribe(&self.server, &reader, &account(0)).await;
        let (mut let_in, mut told) = (Latencies::default(), Latencies::default());
        for n in 0..9 {
            self.rookery.kill();
            let (before, began) = (self.server.sessions(), Instant::now());
            self.rookery.begin_again();
            self.server.let_in_again(before).await;
            let_in.add(began.elapsed());
            let post = Post { by: 0, place: account(0), item: format!("again{n}") };
            let answer = self.send(&post).await;
            let heard = || {
                self.server
                    .ledger(|ledger| ledger.heard.iter().find(|heard| heard.item == post.item).map(|heard| heard.at))
            };
            assert!(support::until(PATIENCE, || heard().is_some()).await, "nobody was told after start {n}");
            told.add(heard().map(|at| at - began).unwrap_or_default());
            done(answer).await;
        }
        let [let_in, told] = [let_in, told].map(|times| [0.5, 1.0].map(|share| times.quantile(share).unwrap_or(0.0)));
        println!(
            "\nkilled and started again: let in after p50 {:.0}, most {:.0} ms; the first told of what was published then \
             after p50 {:.0}, most {:.0} ms",
            let_in[0], let_in[1], told[0], told[1]
        );
    }

    /// Rows that were removed since the start, of what nobody can see any more.
    async fn swept(&self) -> f64 {
        let page = support::web::get(&format!("{}/metrics", self.rookery.admin)).await.expect("metrics are served");
        gauge::figure(&page.body, "rookery_queue_swept_rows_total").unwrap_or_default()
    }

    fn look(&self) -> Process {
        self.rookery.pid().and_then(Process::look).expect("the component lives")
    }
}

async fn done(answer: Answer) {
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes in time");
    answer.expect("the stream stays").unwrap_or_else(|why| panic!("a publish was refused: {why:?}"));
}

/// From one power of ten to the next, up to `most`.
fn steps(most: usize) -> Vec<Range<usize>> {
    let mut steps = Vec::new();
    let (mut from, mut to) = (0, (most / 1_000).clamp(100, 1_000));
    while from < most {
        steps.push(from..to.min(most));
        (from, to) = (to, to * 10);
    }
    steps
}

/// How many of a step are measured.
fn sample(of: usize) -> usize {
    (of / 2).min(20_000)
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| std::str::from_utf8(part).ok()).collect();
    parts.join(",")
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(format!("ROOKERY_GROWTH_{variable}")).ok()?.parse().ok()
}
