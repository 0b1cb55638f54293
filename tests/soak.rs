//! A long steady life with kills: nothing that was acknowledged or promised is lost, and memory, store and latency are
//! measured all the while. `scripts/soak` makes the long run and draws it.
//!
//! Kills come about once a minute in the first and in the last third. The middle third is one life of the component:
//! what climbs shows there. Every five minutes or so the link is reset.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `ROOKERY_SOAK_MINUTES` | how long; without it some 20 s, with fewer people |
//! | `ROOKERY_SOAK_PROGRAM` | the binary; the one that cargo has built |
//! | `ROOKERY_SOAK_OUT` | the folder for `samples.csv`, `restarts.csv` and `summary.md`; a temporary one |
//! | `ROOKERY_SOAK_BACKEND` | the store's engine; fjall |
//! | `ROOKERY_SOAK_SEED` | repeats the decisions of an earlier run, not its times |

mod support;

#[path = "crash/mod.rs"]
mod crash;
#[allow(dead_code)]
#[path = "faults"]
mod faults {
    pub mod callbacks;
    pub mod cast;
}
#[path = "soak/mod.rs"]
mod soak;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crash::ledger::Row;
use crash::moment::Moment;
use crash::server::Server;
use soak::gauge::{self, Latencies, Process, Table};
use soak::life::{Scale, Scene};
use support::rookery::{Rookery, Settings};
use support::servers::{SECRET, SOCIAL};

/// How long it may take, in the end, until all that is promised has come.
const QUIET: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_life_with_kills_loses_nothing_and_is_measured() {
    let plan = Plan::make();
    let program = text("PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_rookery").to_owned());
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let out = text("OUT").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&out).expect("the folder can be made");

    let server = Arc::new(Server::start().await);
    let mut rookery = Rookery::begin(&Settings {
        jid: SOCIAL.to_owned(),
        server: server.address.clone(),
        secret: SECRET.to_owned(),
        backend: text("BACKEND").unwrap_or_else(|| "fjall".to_owned()),
    });
    rookery.kill();
    // In the place of the binary that cargo has built.
    rookery.launch_by(&["sh", "-c", "shift; exec \"$0\" \"$@\"", &program].map(str::to_owned));
    rookery.start_again().await;
    let begun = Instant::now();
    let scene = Scene::settle_in(server, &rookery, plan.scale).await;
    println!("all have settled in after {:.1?}", begun.elapsed());
    scene.sites.begin_failing();
    let listening = tokio::spawn(scene.clone().listen(scene.sites.listen()));
    let mut people = scene.live(plan.seed);

    let mut run = Run::begin(scene.clone(), rookery, &plan, &out);
    for (at, deed) in &plan.deeds {
        tokio::time::sleep_until((run.begun + *at).into()).await;
        run.play(deed).await;
    }
    run.be_up().await;
    run.note_restarts();
    let mut rookery = run.rookery;
    scene.end();
    while let Some(ended) = people.join_next().await {
        // Told with everything else that was found.
        if let Err(why) = ended {
            scene.book().complain(format!("somebody gave up: {why}"));
        }
    }
    scene.sites.calm_down();
    let ended = Instant::now();
    support::until(QUIET, || scene.book().owed(false) == (0, 0)).await;
    println!("quiet {:.0?} after the last word", ended.elapsed());
    scene.look_at_all().await;
    scene.book().complaints.extend(scene.sites.complaints());
    listening.abort();
    rookery.drain().await;
    let checked = Command::new(&program).arg("check").arg("--config").arg(rookery.config_path()).output();
    let checked = checked.expect("the binary can be run");
    let summary = summary(&scene, &run.figures);
    println!("{summary}");
    std::fs::write(out.join("summary.md"), summary).expect("the folder can be written");

    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&said));
    let book = scene.book();
    assert_eq!((book.owed(false), book.lost), ((0, 0), 0), "lost: {:#?}", book.debts());
    assert_eq!(book.complaints, Vec::<String>::new());
    assert!(book.xmpp.promised > 300 && book.http.promised > 10, "too little happened to prove anything");
    assert_eq!(book.restarts.len(), run.figures.kills, "somebody was told after each start");
    assert!(whole_columns(&out.join("samples.csv"), Run::COLUMNS.len()), "every column has a figure");
    assert!(whole_columns(&out.join("restarts.csv"), 2), "every column has a figure");
}

/// What happens when.
struct Plan {
    seed: u64,
    scale: Scale,
    length: Duration,
    deeds: Vec<(Duration, Deed)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Sample,
    Kill,
    Cut,
}

impl Plan {
    fn make() -> Plan {
        let seed = text("SEED").and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::random::<u32>().into());
        println!("ROOKERY_SOAK_SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let minutes: Option<u64> = text("MINUTES").and_then(|minutes| minutes.parse().ok());
        let Some(minutes) = minutes else {
            let seconds = Duration::from_secs;
            let mut deeds: Vec<_> = (1..=10).map(|n| (seconds(2 * n), Deed::Sample)).collect();
            deeds.extend([(seconds(5), Deed::Kill), (seconds(9), Deed::Cut), (seconds(15), Deed::Kill)]);
            deeds.sort();
            let scale = Scale { accounts: 24, crowd: 300, callbacks: 12 };
            return Plan { seed, scale, length: seconds(20), deeds };
        };
        let length = Duration::from_secs(60 * minutes);
        let mut deeds: Vec<_> = (1..=6 * minutes).map(|n| (Duration::from_secs(10 * n), Deed::Sample)).collect();
        for (deed, span) in [(Deed::Kill, 40_000..80_000), (Deed::Cut, 240_000..360_000)] {
            let mut at = Duration::ZERO;
            loop {
                at += Duration::from_millis(rng.random_range(span.clone()));
                // None so late that nothing could be seen of what comes after it.
                if at + Duration::from_secs(10) > length {
                    break;
                }
                if deed == Deed::Cut || at < length / 3 || at > length * 2 / 3 {
                    deeds.push((at, deed));
                }
            }
        }
        deeds.sort();
        Plan { seed, scale: Scale { accounts: 480, crowd: 2_000, callbacks: 100 }, length, deeds }
    }
}

/// A run as it goes on.
struct Run {
    scene: Arc<Scene>,
    rookery: Rookery,
    rng: StdRng,
    begun: Instant,
    length: Duration,
    samples: Table,
    restarts: Table,
    /// Rows of that.
    noted: usize,
    last: Last,
    figures: Figures,
}

/// What the last sample saw.
struct Last {
    at: Instant,
    pid: Option<u32>,
    worked: f64,
    acknowledged: usize,
    heard: u64,
    pushes: usize,
    reads: usize,
}

/// What is told in the end.
#[derive(Default)]
struct Figures {
    kills: usize,
    cuts: usize,
    /// In MiB: resident at each sample.
    resident: Vec<f64>,
    peak: f64,
    disk: Vec<f64>,
    loads: Vec<f64>,
    work: Vec<f64>,
    /// Answers, notifications, pushes: in all, and in the middle third.
    all: [Latencies; 3],
    calm: [Latencies; 3],
}

impl Run {
    const COLUMNS: [&str; 26] = [
        "minute",
        "rss_mib",
        "anon_mib",
        "store_mib",
        "answer_p50_ms",
        "answer_p99_ms",
        "notified_p50_ms",
        "notified_p99_ms",
        "pushed_p50_ms",
        "pushed_p99_ms",
        "changes_per_s",
        "notifications_per_s",
        "pushes_per_s",
        "reads_per_s",
        "waiting",
        "cpu",
        "load",
        "kills",
        "cuts",
        "acknowledged",
        "promised",
        "promised_http",
        "lost",
        "late",
        "repeated",
        "repeated_http",
    ];

    fn begin(scene: Arc<Scene>, rookery: Rookery, plan: &Plan, out: &Path) -> Run {
        let begun = Instant::now();
        let last = Last {
            at: begun,
            pid: None,
            worked: 0.0,
            acknowledged: scene.book().xmpp.acknowledged,
            heard: scene.server.heard(),
            pushes: 0,
            reads: 0,
        };
        // The preparations are not measured.
        scene.book().take_latencies();
        Run {
            scene,
            rookery,
            rng: StdRng::seed_from_u64(plan.seed ^ 1),
            begun,
            length: plan.length,
            samples: Table::create(&out.join("samples.csv"), &Run::COLUMNS),
            restarts: Table::create(&out.join("restarts.csv"), &["minute", "told_ms"]),
            noted: 0,
            last,
            figures: Figures::default(),
        }
    }

    async fn play(&mut self, deed: &Deed) {
        match deed {
            Deed::Sample => self.sample().await,
            Deed::Kill => self.kill().await,
            Deed::Cut => {
                self.scene.server.reset();
                self.figures.cuts += 1;
            }
        }
    }

    /// Waits until the component is attached and somebody was told of something since.
    async fn be_up(&self) {
        let up = || self.scene.server.is_attached() && !self.scene.book().is_starting();
        assert!(
            support::until(QUIET, up).await,
            "the component did not come back; its last words: {}",
            self.rookery.log().lines().rev().take(5).collect::<Vec<_>>().join("\n")
        );
    }

    async fn kill(&mut self) {
        self.be_up().await;
        let server = self.scene.server.clone();
        Moment::choose(&mut self.rng).come(&mut self.rookery, &server, server.sessions() - 1).await;
        self.rookery.kill();
        self.scene.book().started();
        self.rookery.begin_again();
        self.figures.kills += 1;
    }

    /// A row for each start of which somebody has heard since this was asked last.
    fn note_restarts(&mut self) {
        let minute = self.begun.elapsed().as_secs_f64() / 60.0;
        let new = self.scene.book().restarts[self.noted..].to_vec();
        for told in &new {
            self.restarts.row(&[Some(minute), Some(told.as_secs_f64() * 1_000.0)]);
        }
        self.noted += new.len();
    }

    async fn sample(&mut self) {
        self.note_restarts();
        let now = Instant::now();
        let (since_begin, span) = (now - self.begun, (now - self.last.at).as_secs_f64());
        let minute = since_begin.as_secs_f64() / 60.0;
        let pid = self.rookery.pid();
        let process = pid.and_then(Process::look);
        let metrics = support::web::get(&format!("{}/metrics", self.rookery.admin)).await;
        let waiting = metrics.ok().and_then(|page| gauge::figure(&page.body, "rookery_queue_waiting_deliveries"));
        let disk = gauge::on_disk(&self.rookery.folder().join("store")) as f64 / 1024.0;
        // Of a process that was started meanwhile nothing is known for the whole span.
        let before = if pid == self.last.pid { Some(self.last.worked) } else { None };
        let work = process.as_ref().zip(before).map(|(process, before)| (process.worked - before) / span);
        let mib = |kib: u64| kib as f64 / 1024.0;

        let (times, xmpp, http, lost, late) = {
            let mut book = self.scene.book();
            book.forget();
            let (late, late_http) = book.owed(true);
            (book.take_latencies(), book.xmpp, book.http, book.lost, late + late_http)
        };
        let heard = self.scene.server.heard();
        let (pushes, reads) = (count(&self.scene.pushes), count(&self.scene.reads));
        let rate = |now: usize, before: usize| Some((now - before) as f64 / span);
        let mut row = vec![
            Some(minute),
            process.as_ref().map(|process| mib(process.resident)),
            process.as_ref().map(|process| mib(process.anonymous)),
            Some(disk),
        ];
        row.extend(times.iter().flat_map(|times| [times.quantile(0.5), times.quantile(0.99)]));
        row.extend([
            rate(xmpp.acknowledged, self.last.acknowledged),
            rate(heard as usize, self.last.heard as usize),
            rate(pushes, self.last.pushes),
            rate(reads, self.last.reads),
            waiting,
            work,
            gauge::load(),
        ]);
        let counts = [
            self.figures.kills,
            self.figures.cuts,
            xmpp.acknowledged,
            xmpp.promised,
            http.promised,
            lost,
            late,
            xmpp.repeated,
            http.repeated,
        ];
        row.extend(counts.map(|count| Some(count as f64)));
        self.samples.row(&row);

        let figures = &mut self.figures;
        figures.resident.extend(process.as_ref().map(|process| mib(process.resident)));
        figures.peak = process.as_ref().map_or(0.0, |process| mib(process.peak)).max(figures.peak);
        figures.disk.push(disk);
        figures.loads.extend(gauge::load());
        figures.work.extend(work);
        figures.all.iter_mut().zip(&times).for_each(|(sum, times)| sum.add_all(times));
        if since_begin > self.length / 3 && since_begin < self.length * 2 / 3 {
            figures.calm.iter_mut().zip(&times).for_each(|(sum, times)| sum.add_all(times));
        }
        self.last = Last {
            at: now,
            pid,
            worked: process.map_or(0.0, |process| process.worked),
            acknowledged: xmpp.acknowledged,
            heard,
            pushes,
            reads,
        };
    }
}

/// The figures, as a table for a person.
fn summary(scene: &Scene, figures: &Figures) -> String {
    let book = scene.book();
    let Row { acknowledged, promised, repeated, repeated_after, .. } = book.xmpp;
    let (owed, owed_http) = book.owed(false);
    let lost = book.lost;
    let ends = |values: &[f64]| {
        let (first, last) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(0.0));
        format!("first {first:.1}, last {last:.1}")
    };
    let middle = |values: &[f64], share: f64| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values.get((values.len() as f64 * share) as usize).or(values.last()).copied().unwrap_or(0.0)
    };
    let times = |of: &[Latencies; 3], at: usize| {
        let [p50, p99] = [0.5, 0.99].map(|share| of[at].quantile(share).unwrap_or(0.0));
        format!("{p50:.1} and {p99:.1}")
    };
    let restarts: Vec<f64> = book.restarts.iter().map(|told| told.as_secs_f64() * 1_000.0).collect();
    let mut lines = vec![
        format!("kills, link resets | {}, {}", figures.kills, figures.cuts),
        format!("acknowledged | {acknowledged}; {lost} of them lost, {} requests refused", book.refused),
        format!("promised over XMPP | {promised}; {owed} lost"),
        format!("promised over HTTP | {}; {owed_http} lost", book.http.promised),
        format!("repeated over XMPP, HTTP | {repeated}, {}; after dedupe {repeated_after}", book.http.repeated),
        format!("complaints | {}", book.complaints.len()),
        format!("reads; while it was down | {}; {}", count(&scene.reads), count(&scene.failed_reads)),
        format!("chat words; unanswered | {}; {}", count(&scene.words), count(&scene.unanswered_words)),
        format!("resident, MiB | {}, peak {:.0}", ends(&figures.resident), figures.peak),
        format!("store, MiB | {}, most {:.0}", ends(&figures.disk), middle(&figures.disk, 1.0)),
        format!("restart to first told, ms: p50, most | {:.0}, {:.0}", middle(&restarts, 0.5), middle(&restarts, 1.0)),
        format!("CPU of the component, cores | {:.2}", middle(&figures.work, 0.5)),
        format!(
            "load of the machine: p50, most | {:.1}, {:.1}",
            middle(&figures.loads, 0.5),
            middle(&figures.loads, 1.0)
        ),
    ];
    for (at, name) in ["answer", "first notification", "push"].iter().enumerate() {
        let (all, calm) = (times(&figures.all, at), times(&figures.calm, at));
        lines.push(format!("publish to {name}, ms: p50 and p99 | {all}; in the middle third {calm}"));
    }
    let rows: Vec<String> = lines.iter().map(|line| format!("| {line} |\n")).collect();
    format!("| what | figure |\n| --- | --- |\n{}", rows.concat())
}

/// Whether a table has as many columns, each with a figure in some row.
fn whole_columns(path: &Path, columns: usize) -> bool {
    let text = support::read(path);
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    (0..columns).all(|at| rows.iter().any(|row| row.get(at).is_some_and(|cell| cell.parse::<f64>().is_ok())))
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

fn text(variable: &str) -> Option<String> {
    std::env::var(format!("ROOKERY_SOAK_{variable}")).ok()
}
