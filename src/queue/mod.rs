//! What was promised gets done: the relay turns Events into deliveries, the worker hands them over and keeps what
//! came of it, the sweep removes what nobody needs. The queue knows networks only through their trait.

mod express;
mod lane;
mod outcomes;
mod plan;
mod relay;
mod slots;
mod sweep;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::base::clock::Clock;
use crate::base::id::Ids;
use crate::base::shutdown::{Phase, Shutdown};
use crate::domain::delivery::Destination;
use crate::network::Network;
use crate::store::Store;

pub use slots::AT_CALLBACKS;

/// The networks that deliveries go out by, in the order in which they are asked to plan.
pub type Networks = Arc<[Arc<dyn Network>]>;

/// Figures of the queue, since the start.
#[derive(Default)]
pub struct QueueStats {
    pub events: AtomicU64,
    pub planned: AtomicU64,
    pub done: AtomicU64,
    pub retried: AtomicU64,
    pub refused: AtomicU64,
    pub gone: AtomicU64,
    pub too_old: AtomicU64,
    pub overflowed: AtomicU64,
    pub parked: AtomicU64,
    pub swept_rows: AtomicU64,
}

impl QueueStats {
    /// Name and value of each figure.
    pub fn figures(&self) -> [(&'static str, u64); 10] {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        [
            ("events", get(&self.events)),
            ("planned", get(&self.planned)),
            ("done", get(&self.done)),
            ("retried", get(&self.retried)),
            ("refused", get(&self.refused)),
            ("gone", get(&self.gone)),
            ("too_old", get(&self.too_old)),
            ("overflowed", get(&self.overflowed)),
            ("parked", get(&self.parked)),
            ("swept_rows", get(&self.swept_rows)),
        ]
    }
}

fn count(figure: &AtomicU64, n: u64) {
    figure.fetch_add(n, Ordering::Relaxed);
}

/// What the parts of the queue share.
#[derive(Clone)]
struct Parts {
    store: Store,
    networks: Networks,
    clock: Clock,
    ids: Ids,
    shutdown: Shutdown,
    stats: Arc<QueueStats>,
}

/// The running queue.
pub struct Queue {
    tasks: JoinSet<()>,
    stats: Arc<QueueStats>,
    handle: Handle,
}

/// The way to the running worker for what a person does to deliveries in the store; cheap to clone.
#[derive(Clone)]
pub struct Handle(mpsc::UnboundedSender<worker::Note>);

impl Handle {
    /// What the store says of `destinations`, each with its host, was changed by a person: the worker reads it anew.
    /// `at_once`: what held back the hosts counts no more.
    pub fn changed(&self, destinations: Vec<(Destination, Option<String>)>, at_once: bool) {
        let _ = self.0.send(worker::Note::Changed { destinations, at_once });
    }
}

impl Queue {
    /// Starts planning and delivering, first what an earlier run has left.
    pub fn start(store: Store, networks: Vec<Arc<dyn Network>>, clock: Clock, ids: Ids, shutdown: Shutdown) -> Self {
        let stats = Arc::new(QueueStats::default());
        let parts = Parts { store, networks: networks.into(), clock, ids, shutdown, stats: stats.clone() };
        let (notes, inbox) = mpsc::unbounded_channel();
        let (ask, asked) = mpsc::unbounded_channel();
        let handle = Handle(notes.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(relay::run(parts.clone(), notes.clone(), asked));
        tasks.spawn(worker::run(parts.clone(), notes, inbox, ask));
        tasks.spawn(sweep::run(parts));
        Queue { tasks, stats, handle }
    }

    pub fn stats(&self) -> Arc<QueueStats> {
        self.stats.clone()
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for the parts to end, after [`Phase::Stopped`].
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// The parts, which end after [`Phase::Stopped`]; one that ends before has panicked, and the others are of no use.
    pub fn parts(&mut self) -> &mut JoinSet<()> {
        &mut self.tasks
    }
}

impl Parts {
    /// Sleeps by the clock, or less if the end has come; whether to go on.
    async fn pause(&self, d: std::time::Duration) -> bool {
        tokio::select! {
            () = self.clock.sleep(d) => true,
            () = self.shutdown.reached(Phase::Stopped) => false,
        }
    }

    fn network_of(&self, destination: &Destination) -> Option<&Arc<dyn Network>> {
        self.networks.iter().find(|network| network.owns(destination))
    }
}
