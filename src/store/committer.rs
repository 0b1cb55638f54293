//! The committer: one thread on which every decision is taken, in order, and made durable in groups.
//!
//! Two lanes: what somebody waits for goes first, background work after; the background's share grows with the age
//! of its oldest job, so neither can starve the other.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::kv::{Kv, KvError};
use super::tables::{self, Counters};
use super::tx::{self, Overlay, Tx};

/// Who waits for a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Somebody waits for the answer.
    Asked,
    /// Fan-out, outcomes, sweeps.
    Background,
}

/// Why there is no answer. Nothing of the decision was kept (or, after `Closed`, it may have been).
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error("the store is busy")]
    Busy,
    #[error("the store is closed")]
    Closed,
    #[error("a decision failed")]
    Panicked,
}

/// A group takes at most this many decisions …
const GROUP_JOBS: usize = 256;
/// … or stops growing beyond this many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// Background decisions in a group while somebody waits; one more for every [`AGE_STEP`] that the oldest has waited.
const BACKGROUND_SHARE: usize = 8;
const AGE_STEP: Duration = Duration::from_millis(10);
/// More waiting decisions than this are refused as [`StoreError::Busy`].
const MAX_ASKED: usize = 20_000;

trait Job: Send {
    /// Whether its writes are to be kept.
    fn decide(&mut self, tx: &mut Tx<'_>) -> bool;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Decision<F, T> {
    decide: F,
    decided: Option<T>,
    failed: Option<StoreError>,
    tx: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T, E> Job for Decision<F, Result<T, E>>
where
    F: FnMut(&mut Tx<'_>) -> Result<Result<T, E>, KvError> + Send,
    T: Send,
    E: Send,
{
    fn decide(&mut self, tx: &mut Tx<'_>) -> bool {
        // A panic in one decision is one request's misfortune, never the thread's.
        match catch_unwind(AssertUnwindSafe(|| (self.decide)(tx))) {
            Ok(Ok(decided)) => {
                if decided.is_err() {
                    self.decided = Some(decided);
                    return false;
                }
                // A Change over its bounds is not kept, even if the decision took no notice.
                match tx.within_bounds() {
                    Ok(()) => self.decided = Some(decided),
                    Err(e) => self.failed = Some(e.into()),
                }
                self.failed.is_none()
            }
            Ok(Err(e)) => {
                self.failed = Some(e.into());
                false
            }
            Err(_) => {
                self.failed = Some(StoreError::Panicked);
                false
            }
        }
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.failed, self.decided) {
            (Err(e), _, _) | (Ok(()), Some(e), _) => Err(e),
            (Ok(()), None, Some(decided)) => Ok(decided),
            (Ok(()), None, None) => Err(StoreError::Closed),
        };
        let _ = self.tx.send(answer);
    }
}

#[derive(Default)]
struct Queues {
    asked: VecDeque<Box<dyn Job>>,
    background: VecDeque<(Instant, Box<dyn Job>)>,
    closed: bool,
}

/// Figures of the committer; read by the metrics page.
#[derive(Default)]
pub struct CommitStats {
    pub groups: AtomicU64,
    pub changes: AtomicU64,
    pub bytes: AtomicU64,
    pub failures: AtomicU64,
    pub sync_micros: AtomicU64,
}

struct Shared {
    queues: Mutex<Queues>,
    wake: Condvar,
    stats: CommitStats,
}

/// The way in to the committer; cheap to clone. When the last clone is dropped, it is closed.
#[derive(Clone)]
pub struct Committer {
    shared: Arc<Shared>,
    _closes: Arc<Closes>,
    /// The number of the newest durable Event.
    events: watch::Receiver<u64>,
}

impl Committer {
    /// Starts the thread. It ends when [`Committer::close`] was called and everything asked for is answered.
    pub fn start(kv: Arc<dyn Kv>, counters: Counters) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let shared = Arc::new(Shared { queues: Mutex::default(), wake: Condvar::new(), stats: CommitStats::default() });
        let (told, events) = watch::channel(counters.last_event());
        let run = shared.clone();
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || Thread { kv, counters, shared: run, told }.run())?;
        let closes = Arc::new(Closes(shared.clone()));
        Ok((Committer { shared, _closes: closes, events }, thread))
    }

    /// Asks for a decision, at once and without waiting; the order of calls is the order of decisions.
    ///
    /// `decide` runs on the committer's thread against the state including earlier decisions of its group; it may be
    /// called again. `Ok(Ok(_))` keeps what it wrote; a refusal `Ok(Err(_))` or a failure `Err(_)` keeps nothing.
    /// The answer comes when the whole group is durable.
    pub fn ask<T, E, F>(
        &self,
        lane: Lane,
        decide: F,
    ) -> impl Future<Output = Result<Result<T, E>, StoreError>> + use<T, E, F>
    where
        F: FnMut(&mut Tx<'_>) -> Result<Result<T, E>, KvError> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let job = Box::new(Decision { decide, decided: None, failed: None, tx });
        let refused = {
            let mut q = lock(&self.shared.queues);
            if q.closed {
                Some(StoreError::Closed)
            } else if lane == Lane::Asked && q.asked.len() >= MAX_ASKED {
                Some(StoreError::Busy)
            } else {
                match lane {
                    Lane::Asked => q.asked.push_back(job),
                    Lane::Background => q.background.push_back((Instant::now(), job)),
                }
                None
            }
        };
        self.shared.wake.notify_one();
        async move {
            match refused {
                Some(e) => Err(e),
                None => rx.await.unwrap_or(Err(StoreError::Closed)),
            }
        }
    }

    /// A watch on the number of the newest durable Event.
    pub fn events(&self) -> watch::Receiver<u64> {
        self.events.clone()
    }

    pub fn stats(&self) -> &CommitStats {
        &self.shared.stats
    }

    /// Decisions waiting: (asked for, background).
    pub fn waiting(&self) -> (usize, usize) {
        let q = lock(&self.shared.queues);
        (q.asked.len(), q.background.len())
    }

    /// Refuses what comes from now on; what was asked before is still answered.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        lock(&self.queues).closed = true;
        self.wake.notify_all();
    }
}

/// Closes the committer with its last handle: a thread that nobody can ask anything would hold the database for ever.
struct Closes(Arc<Shared>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Ends the asking with the thread. Should the database panic, whoever waits is told [`StoreError::Closed`] (by the
/// dropping of the jobs), and so is whoever asks later; nobody waits for a thread that is not there.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        let jobs = {
            let mut q = lock(&self.0.queues);
            q.closed = true;
            (std::mem::take(&mut q.asked), std::mem::take(&mut q.background))
        };
        drop(jobs);
    }
}

struct Thread {
    kv: Arc<dyn Kv>,
    counters: Counters,
    shared: Arc<Shared>,
    told: watch::Sender<u64>,
}

impl Thread {
    fn run(mut self) {
        let _ends = Ends(self.shared.clone());
        while let Some(jobs) = self.next_group() {
            self.commit(jobs);
        }
    }

    /// Waits for work; `None` when closed and empty.
    fn next_group(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut q = lock(&self.shared.queues);
        while q.asked.is_empty() && q.background.is_empty() {
            if q.closed {
                return None;
            }
            q = self.shared.wake.wait(q).unwrap_or_else(|e| e.into_inner());
        }
        let share = match (q.asked.is_empty(), q.background.front()) {
            (true, _) => GROUP_JOBS,
            (false, Some((since, _))) => {
                BACKGROUND_SHARE + (since.elapsed().as_millis() / AGE_STEP.as_millis()).min(GROUP_JOBS as u128) as usize
            }
            (false, None) => 0,
        };
        let asked = q.asked.len().min(GROUP_JOBS);
        let background = q.background.len().min(share);
        let mut jobs: Vec<_> = q.asked.drain(..asked).collect();
        jobs.extend(q.background.drain(..background).map(|(_, job)| job));
        Some(jobs)
    }

    fn commit(&mut self, jobs: Vec<Box<dyn Job>>) {
        let mut jobs = VecDeque::from(jobs);
        while !jobs.is_empty() {
            let mut group = Overlay::new();
            let mut bytes = 0;
            let mut changes = 0;
            let mut decided = Vec::with_capacity(jobs.len());
            while bytes < GROUP_BYTES {
                let Some(mut job) = jobs.pop_front() else { break };
                let mut tx = Tx::new(&*self.kv, &group, &mut self.counters);
                if job.decide(&mut tx) {
                    let (writes, size) = tx.into_writes();
                    group.extend(writes);
                    bytes += size;
                    changes += 1;
                }
                decided.push(job);
            }
            let outcome = self.make_durable(group, bytes, changes);
            for job in decided {
                job.answer(outcome.clone());
            }
        }
    }

    fn make_durable(&mut self, mut group: Overlay, bytes: usize, changes: u64) -> Result<(), StoreError> {
        let stats = &self.shared.stats;
        if group.is_empty() {
            return Ok(());
        }
        // Numbers given to refused decisions are only skipped: whatever counter moved is written with the group.
        let counters = self.counters.clone();
        group.extend(counters.changed_rows().map(|(k, v)| (k, Some(v))));
        let start = Instant::now();
        match self.kv.apply(&tx::batch(group)) {
            Ok(()) => {
                self.counters.mark_saved();
                stats.groups.fetch_add(1, Ordering::Relaxed);
                stats.changes.fetch_add(changes, Ordering::Relaxed);
                stats.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                stats.sync_micros.fetch_add(start.elapsed().as_micros() as u64, Ordering::Relaxed);
                let last = self.counters.last_event();
                self.told.send_if_modified(|told| std::mem::replace(told, last) != last);
                Ok(())
            }
            Err(e) => {
                stats.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(error = %e, "could not store a group of {changes} changes; everybody who asked was told so");
                Err(e.into())
            }
        }
    }
}

fn lock(q: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    q.lock().unwrap_or_else(|e| e.into_inner())
}

/// The counters as the store has them.
pub(super) fn load_counters(kv: &dyn Kv) -> Result<Counters, KvError> {
    tables::Counters::load(kv)
}
