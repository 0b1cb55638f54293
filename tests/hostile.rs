//! Hostile input, made from a seed: stanzas through Debian's Prosody and ejabberd, requests at both HTTP listeners.
//! What is found once becomes a case of its own: in `tests/interop/hostile.rs`, `tests/scenarios/hostile.scn`,
//! `fuzz/corpus`. `docs/hostile.md` says what is sent and asked, and what came of it.
//!
//! `ROOKERY_HOSTILE_MINUTES`: how long each part goes on (without it 15 s). `ROOKERY_HOSTILE_SEED`: the seed that a
//! complaint names; it repeats what is sent, not the machine's times. `ROOKERY_HOSTILE_PAUSE`: milliseconds of rest
//! after each round of some hundred stanzas, and of each worker after a request.

mod support;

mod hostile {
    pub mod grammar;
    pub mod http;
    pub mod siege;
    pub mod tree;
    pub mod watch;
}

use std::time::Duration;

use hostile::siege::Siege;
use support::rookery::Rookery;
use support::servers::{HOST, Kind};

/// The seed of the short run: the same at every machine.
const SEED: u64 = 20_261_122;

mod prosody {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_that_users_send_hurts_the_component_or_goes_unanswered() {
        super::through(super::Kind::Prosody).await;
    }
}

mod ejabberd {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_that_users_send_hurts_the_component_or_goes_unanswered() {
        super::through(super::Kind::Ejabberd).await;
    }
}

async fn through(kind: Kind) {
    let Some(server) = kind.start().await else { return };
    let mut rookery = Rookery::start(&server).await;
    let (seed, span) = (seed(), span());
    println!("{kind:?}: ROOKERY_HOSTILE_SEED={seed}");
    if minutes().is_some() {
        // Among users without a rate, the rate is not all that is seen; the crowd is of another host, and has one.
        let trusted = format!("ROOKERY_LIMITS__TRUSTED_HOSTS={HOST}");
        rookery.launch_by(&["env".to_owned(), trusted]);
        rookery.start_again().await;
    }
    let mut siege = Siege::begin(&server, &rookery, seed, pause(5)).await;
    let flood_every = minutes().map(|_| Duration::from_secs(600));
    siege.hold(span, flood_every).await;
    println!("{kind:?}, {} s: {}", span.as_secs(), siege.line());
    for (kind, count) in &siege.report.kinds {
        println!("  {count:8} {kind}");
    }
    let found = &siege.report.findings;
    assert!(found.is_empty(), "with ROOKERY_HOSTILE_SEED={seed} on {kind:?}:\n{}", found.join("\n"));
    assert!(siege.report.results > 0 && siege.report.errors > 0 && siege.report.honest > 0, "nothing was tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_hurts_the_http_side_or_its_honest_readers() {
    let Some(server) = Kind::Prosody.start().await else { return };
    let rookery = Rookery::start(&server).await;
    let seed = seed();
    println!("HTTP: ROOKERY_HOSTILE_SEED={seed}");
    let report = hostile::http::probe(&server, &rookery, seed, span(), pause(2)).await;
    println!("HTTP, {} s: {}", span().as_secs(), report.line());
    for ((status, route), count) in &report.answers {
        println!("  {count:8} {status} {route}");
    }
    assert!(report.findings.is_empty(), "with ROOKERY_HOSTILE_SEED={seed}:\n{}", report.findings.join("\n"));
}

fn seed() -> u64 {
    variable("SEED").unwrap_or(SEED)
}

fn minutes() -> Option<u64> {
    variable("MINUTES")
}

fn span() -> Duration {
    minutes().map_or(Duration::from_secs(15), |minutes| Duration::from_secs(minutes * 60))
}

fn pause(usual: u64) -> Duration {
    Duration::from_millis(variable("PAUSE").unwrap_or(usual))
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(format!("ROOKERY_HOSTILE_{name}")).ok()?.parse().ok()
}
