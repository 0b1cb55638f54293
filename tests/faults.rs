//! Every fault there is, at random: what was acknowledged is there, what was promised is delivered, in order, and nobody
//! is shown anything twice. The ledger is that of tests/crash.rs; `scripts/faults` runs this for hours.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `ROOKERY_FAULTS_KILLS` | kills of the component in all, for each engine; 10 |
//! | `ROOKERY_FAULTS_ROUND` | kills in a round, each on an empty store; 50 |
//! | `ROOKERY_FAULTS_OTHERS` | of each other fault in a round; 2, or a fifth of the kills |
//! | `ROOKERY_FAULTS_MINUTES` | no round begins after so many; no limit |
//! | `ROOKERY_FAULTS_SEED` | repeats the decisions of an earlier run, not its times: those belong to the machine |
//! | `ROOKERY_FAULTS_CALLBACKS`, `ROOKERY_FAULTS_CROWD` | HTTP callbacks, 200; subscribers of the largest node, 400 |

mod support;

#[path = "crash/mod.rs"]
mod crash;
#[path = "faults/mod.rs"]
mod faults;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::Mutex;

use crash::ledger::{Act, Fate, Ledger, Place, Row, Stock, What, Writers, compare};
use crash::moment::Moment;
use crash::people;
use crash::server::Server;
use faults::callbacks::{Manner, Sites, Told};
use faults::cast::{self, FEEDS, SHORT_LEASE};
use faults::machine::{FakeClock, NOTICED, SmallDisk, launch_with_short_files};
use faults::power;
use faults::real;
use faults::repeats::Ages;
use support::rookery::{Rookery, Settings};
use support::servers::{Kind, SECRET, SOCIAL};

/// How long it may take, after the last fault, until all that is promised over XMPP has come, and over HTTP: there a
/// callback that failed some times in a row is left alone for a while.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_HTTP: Duration = Duration::from_secs(90);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_keeps_its_promises_through_every_fault() {
    rounds("sled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fjall_keeps_its_promises_through_every_fault() {
    rounds("fjall").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prosody_may_be_killed_while_a_crowd_is_told() {
    behind(Kind::Prosody).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ejabberd_may_be_killed_while_a_crowd_is_told() {
    behind(Kind::Ejabberd).await;
}

async fn behind(kind: Kind) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(server) = kind.start().await else { return };
    let seed = number("SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let (mut verdict, row, in_server) = real::kill_the_server(server, seed).await;
    println!(
        "| {kind:?} | count | acknowledged | promised | lost | repeated at the wire | after dedupe |\n{row}\nin the server: {in_server}"
    );
    // What the server had read, and so proved to us, and not passed on when it was killed: XEP-0114 lets nobody see further.
    if verdict.lost.len() == in_server {
        verdict.lost.clear();
    }
    if let Some(complaints) = verdict.complaints() {
        panic!("{kind:?}, ROOKERY_FAULTS_SEED={seed}: {complaints}");
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The component gets SIGKILL.
    Killed,
    /// The XMPP server dies with what it has not read.
    ServerDies,
    /// The link is reset while stanzas are under way in both directions.
    LinkCut,
    /// The server neither reads nor writes, and comes back or dies.
    LinkSilent,
    /// A tenth of the callbacks' servers dies.
    CallbacksDie,
    /// No room on the disk of the store.
    DiskFull,
    /// A write of the engine fails half way.
    WriteFails,
    /// The wall clock jumps by up to a day.
    ClockJumps,
}

impl Fault {
    const ALL: [(Fault, &'static str); 8] = [
        (Fault::Killed, "component killed"),
        (Fault::ServerDies, "XMPP server dies"),
        (Fault::LinkCut, "link reset"),
        (Fault::LinkSilent, "link silent"),
        (Fault::CallbacksDie, "callbacks die"),
        (Fault::DiskFull, "disk full"),
        (Fault::WriteFails, "write fails"),
        (Fault::ClockJumps, "clock jumps"),
    ];
}

/// What all rounds found: by fault, over XMPP and over HTTP.
#[derive(Default)]
struct Sums {
    counts: [usize; Fault::ALL.len()],
    xmpp: [Row; Fault::ALL.len()],
    http: [Row; Fault::ALL.len()],
    ages: Ages,
    pushes: usize,
    after_gone: usize,
    bad: Vec<String>,
}

async fn rounds(backend: &str) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let kills = number("KILLS").unwrap_or(10) as usize;
    let most = number("ROUND").unwrap_or(50) as usize;
    let seed = number("SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let limit = number("MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let begun = Instant::now();
    let mut sums = Sums::default();
    let (mut left, mut round) = (kills, 0);
    while left > 0 && limit.is_none_or(|limit| begun.elapsed() < limit) {
        let now = left.min(most);
        let seed = seed + round;
        println!("{backend}, round {round}: {now} kills, ROOKERY_FAULTS_SEED={seed} repeats it");
        let before = sums.bad.len();
        play(backend, seed, now, &mut sums).await;
        for complaint in &sums.bad[before..] {
            println!("  ROOKERY_FAULTS_SEED={seed}: {complaint}");
        }
        println!("{}\n{}", sums.table(backend), sums.ages);
        left -= now;
        round += 1;
    }
    println!("{backend}: {round} rounds in {:.0?}", begun.elapsed());
    assert!(sums.bad.is_empty(), "{backend}: {} complaints, the first: {}", sums.bad.len(), sums.bad[0]);
    assert!(sums.xmpp.iter().map(|row| row.promised).sum::<usize>() > 1000, "too little happened to prove anything");
}

/// What a round is played with.
struct Stage {
    server: Arc<Server>,
    rookery: Rookery,
    sites: Arc<Sites>,
    disk: Option<SmallDisk>,
    clock: Option<FakeClock>,
    rng: StdRng,
}

/// One round, on an empty store.
async fn play(backend: &str, seed: u64, kills: usize, sums: &mut Sums) {
    let mut rng = StdRng::seed_from_u64(seed);
    let server = Arc::new(Server::start().await);
    let settings = Settings {
        jid: SOCIAL.to_owned(),
        server: server.address.clone(),
        secret: SECRET.to_owned(),
        backend: backend.to_owned(),
    };
    let mut rookery = Rookery::begin(&settings);
    rookery.kill();
    // A round on the small disk has no real syncs; every other one has.
    let disk = match seed % 2 {
        0 => SmallDisk::under(&rookery),
        _ => None,
    };
    let clock = FakeClock::beside(&rookery);
    if let Some(clock) = &clock {
        clock.give(&mut rookery);
    }
    rookery.start_again().await;
    let callbacks = number("CALLBACKS").unwrap_or(200) as usize;
    let lapsing = if clock.is_some() { 20 } else { 0 };
    let sites = Arc::new(Sites::start(callbacks, FEEDS, lapsing).await);
    cast::settle_in(&server, number("CROWD").unwrap_or(400) as usize).await;
    cast::subscribe_sites(&rookery, &sites, |callback| callback.manner != Manner::Lapsing).await;
    sites.begin_failing();

    let others = number("OTHERS").map_or((kills / 5).max(2), |n| n as usize);
    let mut plan: Vec<usize> = vec![0; kills];
    for (row, (fault, _)) in Fault::ALL.iter().enumerate().skip(1) {
        let possible = match fault {
            Fault::DiskFull => disk.is_some(),
            Fault::ClockJumps => clock.is_some(),
            _ => true,
        };
        plan.extend(vec![row; if possible { others } else { 0 }]);
    }
    plan.shuffle(&mut rng);
    let end = Arc::new(AtomicBool::new(false));
    let life = tokio::spawn(cast::live(server.clone(), seed, end.clone()));
    let mut stage = Stage { server, rookery, sites, disk, clock, rng };
    let mut deaths = Vec::new();
    for row in plan {
        stage.server.enter(|ledger| ledger.begin(row));
        stage.sites.begin(row);
        stage.suffer(Fault::ALL[row].0, &mut deaths).await;
        sums.counts[row] += 1;
    }
    stage.end(&end, life, sums).await;
    stage.server.ledger(|ledger| sums.ages.take(ledger, &deaths));
    sums.pushes += stage.sites.pushes();
}

impl Stage {
    /// Waits until the component is let in, should it not be.
    async fn up(&mut self) {
        let server = self.server.clone();
        assert!(
            support::until(QUIET, || server.is_attached()).await,
            "the component did not come back; its last words: {}",
            self.rookery.log().lines().rev().take(5).collect::<Vec<_>>().join("\n")
        );
    }

    async fn some_time(&mut self, span: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(span))).await;
    }

    /// One fault, from the life before it to the moment from which on all could be well.
    async fn suffer(&mut self, fault: Fault, deaths: &mut Vec<(u64, Instant)>) {
        let server = self.server.clone();
        let moment = Moment::choose(&mut self.rng);
        if fault == Fault::Killed {
            let session = server.sessions() - u64::from(server.is_attached());
            moment.come(&mut self.rookery, &server, session).await;
            self.kill(deaths);
            return self.rookery.begin_again();
        }
        self.up().await;
        self.some_time(50..700).await;
        match fault {
            Fault::Killed => {}
            Fault::ServerDies => {
                server.hang_up_after(self.rng.random_range(1..800));
                support::until(Duration::from_secs(3), || !server.is_to_hang_up()).await;
                server.never_hang_up();
            }
            Fault::LinkCut => server.reset(),
            Fault::LinkSilent => {
                server.be_silent(true);
                self.some_time(100..2_500).await;
                if self.rng.random_bool(0.5) {
                    server.reset();
                }
                server.be_silent(false);
            }
            Fault::CallbacksDie => {
                let all = self.sites.callbacks.len();
                let from = self.rng.random_range(0..all);
                let fallen: Vec<usize> = (from..from + all / 10).map(|number| number % all).collect();
                fallen.iter().for_each(|number| self.sites.kill(*number));
                self.some_time(200..2_000).await;
                for number in fallen {
                    self.sites.raise(number).await;
                }
            }
            Fault::DiskFull => {
                if let Some(disk) = &self.disk {
                    disk.fill(self.rng.random_range(1..70 << 20));
                }
                self.some_time(200..1_500).await;
                if self.rng.random_bool(0.3) {
                    self.kill(deaths);
                    self.rookery.begin_again();
                    self.some_time(0..500).await;
                }
                if let Some(disk) = &self.disk {
                    disk.fill(0);
                }
                // Should the store have stopped for good, or not opened at all.
                self.kill(deaths);
                self.rookery.begin_again();
            }
            Fault::WriteFails => {
                self.kill(deaths);
                launch_with_short_files(&mut self.rookery, self.rng.random_range(0..400_000), self.clock.as_ref());
                self.rookery.begin_again();
                self.some_time(500..2_500).await;
                self.kill(deaths);
                self.launch_as_usual();
                self.rookery.begin_again();
            }
            Fault::ClockJumps => {
                // From seconds to the better part of a day.
                let most = 4_i64.pow(self.rng.random_range(2..9));
                let seconds = self.rng.random_range(1..=most);
                if let Some(clock) = &mut self.clock {
                    clock.jump(if self.rng.random_bool(0.5) { seconds } else { -seconds });
                }
                self.some_time(900..1_500).await;
            }
        }
    }

    fn kill(&mut self, deaths: &mut Vec<(u64, Instant)>) {
        self.rookery.kill();
        deaths.push((self.server.sessions(), Instant::now()));
    }

    fn launch_as_usual(&mut self) {
        match &self.clock {
            Some(clock) => clock.give(&mut self.rookery),
            None => self.rookery.launch_by(&[]),
        }
    }

    /// Lets everything come to rest, and compares.
    async fn end(&mut self, end: &AtomicBool, life: tokio::task::JoinHandle<()>, sums: &mut Sums) {
        end.store(true, Ordering::SeqCst);
        self.up().await;
        life.await.expect("nobody panics");
        self.sites.calm_down();
        // The clock is ahead of all it ever said: no retry lies in the future.
        if let Some(clock) = &mut self.clock {
            clock.jump_ahead(1);
            // Or a lease that is given below would be over as it is given.
            tokio::time::sleep(NOTICED).await;
        }
        let begun = Instant::now();
        let mut found = self.judge().await;
        println!("  {} and {} still to come", found.verdict.lost.len(), found.told.lost.len());
        while found.is_lacking() && begun.elapsed() < if found.told.lost.is_empty() { QUIET } else { QUIET_HTTP } {
            tokio::time::sleep(Duration::from_secs(1)).await;
            found = self.judge().await;
        }
        println!("  quiet {:.0?} after the last fault", begun.elapsed());
        let missing = found.verdict.lost.iter().chain(&found.told.lost);
        missing.take(5).for_each(|what| println!("  still missing: {what}"));
        sums.after_gone += self.sites.pushed_after_the_end(Manner::Gone).len();
        self.let_leases_end(sums).await;
        // What has ended hears no more: the next word is for the others.
        cast::say_goodbye(&self.server).await;
        let begun = Instant::now();
        found = self.judge().await;
        while found.is_lacking() && begun.elapsed() < QUIET_HTTP {
            tokio::time::sleep(Duration::from_secs(1)).await;
            found = self.judge().await;
        }
        for why in [Manner::Gone, Manner::Lapsing] {
            let pushed = self.sites.pushed_after_the_end(why);
            if !pushed.is_empty() {
                sums.bad.push(format!("{} callbacks ({why:?}) were pushed to after their end", pushed.len()));
            }
        }
        sums.bad.extend(self.sites.complaints());
        sums.add(found, self.sites.doubles());
    }

    /// Short leases are granted, used, and ended by the clock alone: the sweep that ends them looks but once an hour.
    async fn let_leases_end(&mut self, sums: &mut Sums) {
        let Some(clock) = &mut self.clock else { return };
        self.sites.be_verified_anew(Manner::Lapsing);
        cast::subscribe_sites(&self.rookery, &self.sites, |callback| callback.manner == Manner::Lapsing).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = self.sites.taken(Manner::Lapsing);
        cast::say_goodbye(&self.server).await;
        let all = || self.sites.taken(Manner::Lapsing).iter().zip(&before).all(|(now, before)| now > before);
        if !support::until(QUIET, all).await {
            sums.bad.push("lost: callbacks were pushed nothing within their lease".to_owned());
        }
        clock.jump(2 * SHORT_LEASE as i64);
        tokio::time::sleep(NOTICED).await;
        self.sites.lapse();
    }

    async fn judge(&self) -> Found {
        let mut places: BTreeMap<Place, Writers> = cast::places().into_iter().collect();
        let mut torn = Vec::new();
        let stock = people::stock(&self.server, places.keys(), &mut torn).await;
        // Nothing stands in what is deleted; who was subscribed is owed all the same.
        let is_gone = |act: &&Act| act.what == What::Deleted && matches!(act.fate, Fate::Acknowledged(_));
        places.extend(self.server.ledger(|ledger| {
            let gone = ledger.acts.iter().filter(is_gone);
            gone.map(|act| (act.place.clone(), Writers::One(usize::MAX))).collect::<Vec<_>>()
        }));
        let mut verdict = self.server.ledger(|ledger| compare(ledger, &places, &stock));
        verdict.wrong.append(&mut torn);
        let mut told = Told::default();
        for feed in 0..FEEDS {
            let posts = self.server.ledger(|ledger| posts(ledger, feed, &stock));
            self.sites.compare(feed, &posts, &mut told);
        }
        Found { verdict, told }
    }
}

/// What stands in a feed, and in which row each post counts. The first post came before the subscriptions.
fn posts(ledger: &Ledger, feed: usize, stock: &Stock) -> Vec<(String, usize)> {
    let place = cast::feed(feed);
    let title = |act: &Act| match &act.what {
        What::Published(title) => Some(title.clone()),
        _ => None,
    };
    let acts = ledger.acts.iter().filter(|act| act.place == place);
    let rows: BTreeMap<String, usize> = acts.filter_map(|act| Some((title(act)?, ledger.row(act.sent)))).collect();
    let stands = stock.get(&place).into_iter().flatten().filter(|(id, _)| id != "first");
    stands.map(|(_, title)| (title.clone(), rows.get(title).copied().unwrap_or(0))).collect()
}

struct Found {
    verdict: crash::ledger::Verdict,
    told: Told,
}

impl Found {
    fn is_lacking(&self) -> bool {
        !self.verdict.lost.is_empty() || !self.told.lost.is_empty()
    }
}

impl Sums {
    fn add(&mut self, found: Found, doubles: usize) {
        for (sum, row) in self.xmpp.iter_mut().zip(found.verdict.rows()) {
            *sum = sum.plus(row);
        }
        for (sum, row) in self.http.iter_mut().zip(&found.told.rows) {
            *sum = sum.plus(row);
        }
        self.http[0].repeated_after += doubles;
        if doubles > 0 {
            self.bad.push(format!("{doubles} posts were pushed under several atom:ids or times"));
        }
        self.bad.extend(found.verdict.lost.iter().map(|what| format!("lost: {what}")));
        self.bad.extend(found.verdict.wrong.iter().map(|what| format!("wrong: {what}")));
        self.bad.extend(found.told.lost.iter().map(|what| format!("lost: {what}")));
        self.bad.extend(found.told.wrong.iter().map(|what| format!("wrong: {what}")));
    }

    fn table(&self, backend: &str) -> String {
        let mut text = format!(
            "| {backend} | count | acknowledged | promised: XMPP, HTTP | lost | repeated at the wire: XMPP, HTTP | after dedupe |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n"
        );
        let mut all = (0, Row::default(), Row::default());
        let line = |text: &mut String, name: &str, count: usize, xmpp: &Row, http: &Row| {
            let lost = xmpp.promised - xmpp.received + http.promised - http.received;
            let _ = writeln!(
                text,
                "| {name} | {count} | {} | {}, {} | {lost} | {}, {} | {}, {} |",
                xmpp.acknowledged,
                xmpp.promised,
                http.promised,
                xmpp.repeated,
                http.repeated,
                xmpp.repeated_after,
                http.repeated_after
            );
        };
        for (at, (_, name)) in Fault::ALL.iter().enumerate() {
            line(&mut text, name, self.counts[at], &self.xmpp[at], &self.http[at]);
            all = (all.0 + self.counts[at], all.1.plus(&self.xmpp[at]), all.2.plus(&self.http[at]));
        }
        line(&mut text, "all", all.0, &all.1, &all.2);
        let (pushes, gone) = (self.pushes, self.after_gone);
        let _ = writeln!(
            text,
            "{pushes} pushes; {gone} callbacks were asked once more after 410, before a kill's memory ended"
        );
        text
    }
}

/// What `scripts/mutants` takes out is still there: the words that each patch removes or stands between are in its file.
#[test]
fn every_safeguard_can_still_be_taken_out() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::fs::read_dir(root.join("tests/faults/without")).expect("there are patches");
    let patches: Vec<_> = folder.map(|file| file.expect("it can be read").path()).collect();
    assert!(patches.len() >= 5, "{patches:?}");
    for patch in patches {
        let text = std::fs::read_to_string(&patch).expect("it can be read");
        let (head, hunks) = text.split_once("\n@@ ").expect("a unified diff");
        let (_, name) = head.split_once("\n+++ b/").expect("of one file");
        let file = std::fs::read_to_string(root.join(name)).expect("which there is");
        for hunk in hunks.split("\n@@ ") {
            let before = hunk.lines().skip(1).filter(|line| line.starts_with([' ', '-']));
            let before: Vec<_> = before.map(|line| &line[1..]).collect();
            assert!(before.len() > 3 && file.contains(&before.join("\n")), "{}: {before:#?}", patch.display());
        }
    }
}

/// Not a test of its own: what `scripts/faults` runs under strace; see [`faults::power`]. `backend trace seconds [inject]`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_record() {
    let Ok(what) = std::env::var("ROOKERY_FAULTS_RECORD") else { return };
    let words: Vec<&str> = what.split(' ').collect();
    let [backend, trace, seconds, rest @ ..] = words.as_slice() else { panic!("{what:?} is not what to record") };
    let inject = rest.first().map(|inject| (*inject).to_owned());
    let seconds = seconds.parse().expect("a number of seconds");
    println!("recorded {}", power::record(backend, trace.as_ref(), seconds, inject).await);
}

/// Not a test of its own either: `backend folder`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_show() {
    let Ok(what) = std::env::var("ROOKERY_FAULTS_SHOW") else { return };
    let (backend, folder) = what.split_once(' ').expect("a backend and a folder");
    power::show(backend, folder.as_ref()).await.expect("the store can be read");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(format!("ROOKERY_FAULTS_{variable}")).ok()?.parse().ok()
}
