//! Kill it anywhere, at any time: what was acknowledged is there, what was promised is delivered, in order.
//!
//! Three parties, none of which trusts another: writers note what the wire acknowledged, subscribers note what the wire
//! brought them, and `ledger::compare` knows nothing but these notes and what the nodes show in the end.
//!
//! `ROOKERY_CRASH_SEED` repeats the decisions of an earlier run (not its times: those belong to the machine),
//! `ROOKERY_CRASH_KILLS` sets another number of kills.

mod support;

#[path = "crash/mod.rs"]
mod crash;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Mutex;

use crash::ledger::{Fate, Place, Stock, Verdict, What, Writers, compare};
use crash::moment::Moment;
use crash::people;
use crash::server::{PATIENCE, Server, entry};
use support::client;
use support::rookery::{Rookery, Settings};
use support::servers::{HOST, SECRET, SOCIAL};
use support::web::Subscriber;

/// How long it may take, after the last kill, until all that is promised has come.
const QUIET: Duration = Duration::from_secs(45);
/// Writers whose feeds have a WebSub subscriber.
const SITES: usize = 2;

/// One after the other: they load the machine, and their figures are shown.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_loses_nothing_whenever_the_process_is_killed() {
    kill_again_and_again("sled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fjall_loses_nothing_whenever_the_process_is_killed() {
    kill_again_and_again("fjall").await;
}

async fn kill_again_and_again(backend: &str) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let kills = number("ROOKERY_CRASH_KILLS").unwrap_or(40);
    let seed = number("ROOKERY_CRASH_SEED").unwrap_or_else(rand::random);
    println!("{backend}: ROOKERY_CRASH_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let begun = Instant::now();

    let server = Arc::new(Server::start().await);
    let mut rookery = attach(&server, backend);
    rookery.ready().await;
    people::settle_in(&server).await;
    let site = Subscriber::start().await;
    for n in 0..SITES {
        people::subscribe_site(&rookery, &site, n).await;
    }
    let end = Arc::new(AtomicBool::new(false));
    let life = tokio::spawn(people::live(server.clone(), seed, end.clone()));
    for kill in 1..=kills {
        let session = server.sessions();
        // The first time it runs already.
        if kill > 1 {
            rookery.begin_again();
        }
        Moment::choose(&mut rng).come(&mut rookery, &server, session - u64::from(kill == 1)).await;
        rookery.kill();
    }
    let killed_for = begun.elapsed();
    end.store(true, Ordering::SeqCst);
    rookery.start_again().await;
    life.await.expect("nobody panics");
    let (verdict, took) = judge(&server, &site).await;
    rookery.drain().await;
    let (status, text) = rookery.command(&["check"]);
    assert!(status.success(), "{backend}, ROOKERY_CRASH_SEED={seed}: {text}");
    println!("{}", table(backend, kills, &verdict));
    println!("{kills} kills in {killed_for:.1?}, quiet {took:.1?} after the last start");
    if let Some(complaints) = verdict.complaints() {
        panic!("{backend}, ROOKERY_CRASH_SEED={seed}: {complaints}");
    }
    assert!(verdict.all().promised > 1000, "too little happened to prove anything");
}

/// Compares until nothing is missing, or until it is clear that it will not come.
async fn judge(server: &Server, site: &Subscriber) -> (Verdict, Duration) {
    let writers: BTreeMap<Place, Writers> = people::places().into_iter().collect();
    let begun = Instant::now();
    loop {
        let mut torn = Vec::new();
        let stock = people::stock(server, writers.keys(), &mut torn).await;
        let mut verdict = server.ledger(|ledger| compare(ledger, &writers, &stock));
        verdict.wrong.append(&mut torn);
        for n in 0..SITES {
            let pushes: String = site.pushes(&people::site_name(n)).iter().map(|push| push.text()).collect();
            unpushed(&stock, n, &pushes, &mut verdict.lost);
        }
        if verdict.lost.is_empty() || begun.elapsed() > QUIET {
            return (verdict, begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What stands in the microblog of writer `n` and was in no push to its WebSub subscriber.
fn unpushed(stock: &Stock, n: usize, pushes: &str, lost: &mut Vec<String>) {
    let pushed: BTreeSet<&str> =
        pushes.split("<title").filter_map(|rest| rest.split_once('>')?.1.split('<').next()).collect();
    // The first post came before the subscription.
    let posts = stock.get(&people::microblog(n)).into_iter().flatten().filter(|(id, _)| id != "first");
    lost.extend(
        posts
            .filter(|(_, title)| !pushed.contains(title.as_str()))
            .map(|(_, title)| format!("{title:?} of w{n} was in no push")),
    );
}

const CROWD: usize = 2_000;

/// XEP-0114 acknowledges nothing: only the barrier tells what the server has read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_amid_fan_outs_to_2000_loses_nobody() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let seed = number("ROOKERY_CRASH_SEED").unwrap_or_else(rand::random);
    println!("ROOKERY_CRASH_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let server = Arc::new(Server::start().await);
    let mut rookery = attach(&server, "sled");
    rookery.ready().await;
    let (by, place) = (format!("{}/desk", people::writer(0)), people::microblog(0));
    let post = async |item: &str| {
        let payload = client::publish(&place.1, item, &entry(item, 200));
        let answer = server.act(&by, &place, item, What::Published(item.to_owned()), &payload).await;
        tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer")
    };
    post("first").await.expect("the account is made");
    let mut crowd = tokio::task::JoinSet::new();
    for part in 0..16 {
        let (server, place) = (server.clone(), place.clone());
        crowd.spawn(async move {
            for n in (part..CROWD).step_by(16) {
                people::subscribe(&server, &format!("s{n:04}@{HOST}"), &place).await;
            }
        });
    }
    while let Some(subscribed) = crowd.join_next().await {
        subscribed.expect("everybody may subscribe");
    }

    let deaths = 5;
    server.hang_up_after(rng.random_range(100..1_500));
    for item in ["second", "third", "fourth"] {
        match post(item).await {
            Ok(_) | Err(Fate::Unknown) => {}
            Err(fate) => panic!("{item}: {fate:?}"),
        }
    }
    let mut died = 0;
    while died < deaths && support::until(QUIET, || !server.is_to_hang_up()).await {
        died += 1;
        if died < deaths {
            server.hang_up_after(rng.random_range(50..1_500));
        }
    }
    let writers = BTreeMap::from([(place.clone(), Writers::One(1_000_000))]);
    let all = CROWD * 3;
    let begun = Instant::now();
    let verdict = loop {
        let mut torn = Vec::new();
        let stock = people::items(&server, &place, &mut torn).await;
        let stock = Stock::from([(place.clone(), stock)]);
        let verdict = server.ledger(|ledger| compare(ledger, &writers, &stock));
        assert!(torn.is_empty(), "{torn:?}");
        if verdict.all().received >= all || begun.elapsed() > QUIET {
            break verdict;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("{}", table("the server dies", died, &verdict));
    if let Some(complaints) = verdict.complaints() {
        panic!("ROOKERY_CRASH_SEED={seed}: {complaints}");
    }
    assert_eq!(died, deaths, "the fan-out was over too soon to prove anything");
}

fn attach(server: &Server, backend: &str) -> Rookery {
    Rookery::begin(&Settings {
        jid: SOCIAL.to_owned(),
        server: server.address.clone(),
        secret: SECRET.to_owned(),
        backend: backend.to_owned(),
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn table(name: &str, kills: u64, v: &Verdict) -> String {
    let all = v.all();
    format!(
        "| {:15} | kills | acknowledged | promised | received | lost | repeated |\n\
         | {name:15} | {kills:5} | {:12} | {:8} | {:8} | {:4} | {:8} ({:.1} %) |",
        "",
        all.acknowledged,
        all.promised,
        all.received,
        v.lost.len(),
        all.repeated,
        all.percent_repeated()
    )
}
