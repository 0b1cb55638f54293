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
use crate::base::clock::Clock;
use crate::base::complaint::Complaint;

/// Who waits for a decision, or a read.
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
/// Who was just answered often asks again at once: before a group smaller than the last one we wait this long for them.
/// (64 publishers on two cores: 61 of them in a group instead of 39, so a third fewer syncs. A lone one never waits.)
const BREATH: Duration = Duration::from_micros(20);
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
                // A Change that cannot be one is not kept, even if the decision took no notice.
                match tx.acceptable() {
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
            .spawn(move || Thread { kv, counters, shared: run, told, asked: 0, failing: Complaint::default() }.run())?;
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

/// Ends the asking with the thread. Should the database panic, or stop for good, whoever waits is told
/// [`StoreError::Closed`] (by the dropping of the jobs), and so is whoever asks later; nobody waits for a thread that is not
/// there.
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
    /// How many of the last group somebody waited for.
    asked: usize,
    failing: Complaint,
}

impl Thread {
    fn run(mut self) {
        let _ends = Ends(self.shared.clone());
        while let Some(jobs) = self.next_group() {
            // A database that has stopped takes nothing more until it is opened again.
            if !self.commit(jobs) {
                return;
            }
        }
    }

    /// Waits for work; `None` when closed and empty.
    fn next_group(&mut self) -> Option<Vec<Box<dyn Job>>> {
        let mut q = lock(&self.shared.queues);
        if self.asked > 1 && q.asked.len() < self.asked {
            drop(q);
            std::thread::sleep(BREATH);
            q = lock(&self.shared.queues);
        }
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
        self.asked = asked;
        let background = q.background.len().min(share);
        let mut jobs: Vec<_> = q.asked.drain(..asked).collect();
        jobs.extend(q.background.drain(..background).map(|(_, job)| job));
        Some(jobs)
    }

    /// False: no write will ever come about any more.
    fn commit(&mut self, jobs: Vec<Box<dyn Job>>) -> bool {
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
            let is_durable = changes > 0 && outcome.is_ok();
            let stopped = matches!(outcome, Err(StoreError::Kv(KvError::Stopped)));
            // Who asked is woken first: they wait for nothing else, and the relay finds its Events in the store whenever.
            for job in decided {
                job.answer(outcome.clone());
            }
            if is_durable {
                let last = self.counters.last_event();
                self.told.send_if_modified(|told| std::mem::replace(told, last) != last);
            }
            if stopped {
                return false;
            }
        }
        true
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
                Ok(())
            }
            Err(e) => {
                stats.failures.fetch_add(1, Ordering::Relaxed);
                if self.failing.is_due(Clock::system().now()) {
                    tracing::error!(error = %e, "could not store a group of {changes} changes; everybody who asked was told so");
                }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use bytes::Bytes;

    use super::*;
    use crate::store::kv::{Read, Result, Row, Write};
    use crate::store::tables::Counter;
    use crate::store::tx::{MAX_BYTES, MAX_ROWS};
    use crate::store::{MemoryKv, Store};

    /// A database whose batches can be held up, refused, or end in a panic; it knows what was applied.
    #[derive(Default)]
    struct Shim {
        kv: MemoryKv,
        gate: Mutex<bool>,
        moved: Condvar,
        held: AtomicBool,
        full: AtomicBool,
        panics: AtomicBool,
        batches: AtomicU64,
    }

    impl Shim {
        fn hold(&self, shut: bool) {
            *self.gate.lock().unwrap() = shut;
            self.moved.notify_all();
        }
    }

    impl Kv for Shim {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
            self.kv.get(key)
        }
        fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>> {
            self.kv.range(from, to, limit, reverse)
        }
        fn apply(&self, batch: &[Write]) -> Result<()> {
            let mut shut = self.gate.lock().unwrap();
            while *shut {
                self.held.store(true, Ordering::SeqCst);
                shut = self.moved.wait(shut).unwrap();
            }
            self.held.store(false, Ordering::SeqCst);
            assert!(!self.panics.load(Ordering::SeqCst), "this database panics");
            if self.full.load(Ordering::SeqCst) {
                return Err(KvError::Full("by a test".into()));
            }
            self.batches.fetch_add(1, Ordering::SeqCst);
            self.kv.apply(batch)
        }
        fn moment(&self) -> Option<Box<dyn Read + '_>> {
            None
        }

        fn disk_bytes(&self) -> u64 {
            0
        }
    }

    fn store() -> (Arc<Shim>, Store) {
        let shim = Arc::new(Shim::default());
        (shim.clone(), Store::open(shim).unwrap())
    }

    type Answer<T> = std::result::Result<std::result::Result<T, &'static str>, StoreError>;

    /// Asks for a row with the next number of a counter; the answer is that number.
    fn numbered(store: &Store, key: &str) -> impl Future<Output = Answer<u64>> + use<> {
        let key = key.as_bytes().to_vec();
        store.commit(Lane::Asked, move |tx| {
            let n = tx.next(Counter::Version);
            tx.put(key.clone(), n.to_be_bytes().to_vec())?;
            Ok(Ok(n))
        })
    }

    /// Holds the committer inside a first group, so that what is asked now comes together in the next.
    async fn hold(shim: &Shim, store: &Store) -> impl Future<Output = Answer<u64>> + use<> {
        shim.hold(true);
        let first = numbered(store, "first");
        while !shim.held.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        first
    }

    fn value(kv: &dyn Kv, key: &str) -> Option<u64> {
        Some(u64::from_be_bytes(kv.get(key.as_bytes()).unwrap()?.as_ref().try_into().unwrap()))
    }

    #[tokio::test]
    async fn decisions_are_taken_in_the_order_of_asking_and_see_the_earlier_ones_of_their_group() {
        let (shim, store) = store();
        let first = hold(&shim, &store).await;
        let before = shim.batches.load(Ordering::SeqCst);
        let asked: Vec<_> = (0..100u8)
            .map(|n| {
                store.commit(Lane::Asked, move |tx| {
                    let mut so_far = tx.get(b"list")?.unwrap_or_default().to_vec();
                    so_far.push(n);
                    tx.put(b"list".to_vec(), so_far.clone())?;
                    Ok(Ok::<_, ()>(so_far.len()))
                })
            })
            .collect();
        shim.hold(false);
        first.await.unwrap().unwrap();
        for (n, answer) in asked.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), Ok(n + 1));
        }
        assert_eq!(shim.get(b"list").unwrap().unwrap(), (0..100).collect::<Vec<u8>>());
        assert_eq!(shim.batches.load(Ordering::SeqCst), before + 2, "the first alone, the hundred in one group");
    }

    #[tokio::test]
    async fn a_refusal_a_failure_and_a_panic_keep_nothing_and_harm_nobody_else() {
        let (shim, store) = store();
        let first = hold(&shim, &store).await;
        let put = |tx: &mut Tx<'_>, key: &str| tx.put(key.as_bytes().to_vec(), vec![1]);
        let before = numbered(&store, "before");
        let refused = store.commit(Lane::Asked, move |tx| put(tx, "refused").map(|()| Err::<(), _>("no")));
        let failed = store.commit(Lane::Asked, move |tx| {
            put(tx, "failed")?;
            Err::<std::result::Result<(), ()>, _>(KvError::Damaged("a row".into()))
        });
        let panicked = store.commit(Lane::Asked, move |tx| -> Result<std::result::Result<(), ()>> {
            put(tx, "panicked")?;
            panic!("one request's misfortune")
        });
        let after = numbered(&store, "after");
        shim.hold(false);
        assert_eq!(refused.await.unwrap(), Err("no"));
        assert!(matches!(failed.await, Err(StoreError::Kv(KvError::Damaged(_)))));
        assert!(matches!(panicked.await, Err(StoreError::Panicked)));
        let numbers = [first.await, before.await, after.await].map(|n| n.unwrap().unwrap());
        assert!(numbers[0] < numbers[1] && numbers[1] < numbers[2]);
        for gone in ["refused", "failed", "panicked"] {
            assert_eq!(shim.get(gone.as_bytes()).unwrap(), None, "{gone}");
        }
        assert_eq!(value(&*shim, "after"), Some(numbers[2]));
    }

    #[tokio::test]
    async fn when_a_group_cannot_be_stored_all_of_it_is_told_and_nothing_of_it_is_left_behind() {
        let (shim, store) = store();
        let events = store.events();
        let kept = numbered(&store, "kept").await.unwrap().unwrap();
        let first = hold(&shim, &store).await;
        shim.full.store(true, Ordering::SeqCst);
        let given = Arc::new(Mutex::new(Vec::new()));
        let lost: Vec<_> = (0..10)
            .map(|_| {
                let given = given.clone();
                store.commit(Lane::Asked, move |tx| {
                    given.lock().unwrap().push(tx.next(Counter::Version));
                    tx.next(Counter::Event);
                    tx.put(b"lost".to_vec(), vec![0; 8])?;
                    Ok(Ok::<_, ()>(()))
                })
            })
            .collect();
        // Its refusal rests on a row that was never kept: it must not be told so.
        let misled = store
            .commit(Lane::Asked, |tx| Ok(if tx.get(b"lost")?.is_some() { Err("it is there already") } else { Ok(()) }));
        shim.hold(false);
        for answer in lost {
            assert!(matches!(answer.await, Err(StoreError::Kv(KvError::Full(_)))));
        }
        assert!(matches!(first.await, Err(StoreError::Kv(KvError::Full(_)))));
        assert!(matches!(misled.await, Err(StoreError::Kv(KvError::Full(_)))));
        assert_eq!(*events.borrow(), 0, "no event became durable");

        shim.full.store(false, Ordering::SeqCst);
        let absent =
            store.commit(Lane::Asked, |tx| Ok(Ok::<_, ()>(tx.get(b"lost")?.is_none() && tx.get(b"first")?.is_none())));
        assert_eq!(absent.await.unwrap(), Ok(true), "the group's rows are not seen by later decisions");
        let next = numbered(&store, "next").await.unwrap().unwrap();
        let given = given.lock().unwrap().clone();
        assert!(given.iter().all(|n| *n > kept && *n < next), "no number twice: {kept}, {given:?}, {next}");
        assert_eq!(value(&*shim, "next"), Some(next));
        store.close();
        let again = Store::open(shim.clone()).unwrap();
        assert!(numbered(&again, "again").await.unwrap().unwrap() > next, "the counter's row went with the group");
    }

    #[tokio::test]
    async fn what_somebody_waits_for_goes_first_and_background_work_goes_on_all_the_same() {
        let (shim, store) = store();
        let first = hold(&shim, &store).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |lane| {
            let order = order.clone();
            store.commit(lane, move |_| {
                order.lock().unwrap().push(lane);
                Ok(Ok::<_, ()>(()))
            })
        };
        let background: Vec<_> = (0..2000).map(|_| ask(Lane::Background)).collect();
        let asked: Vec<_> = (0..1000).map(|_| ask(Lane::Asked)).collect();
        shim.hold(false);
        first.await.unwrap().unwrap();
        for answer in asked.into_iter().chain(background) {
            answer.await.unwrap().unwrap();
        }
        let order = order.lock().unwrap();
        assert!(order[..GROUP_JOBS].iter().all(|lane| *lane == Lane::Asked), "the asked ones head the group");
        let last_asked = order.iter().rposition(|lane| *lane == Lane::Asked).unwrap();
        let meanwhile = order[..last_asked].iter().filter(|lane| **lane == Lane::Background).count();
        assert!(meanwhile >= 3 * BACKGROUND_SHARE, "{meanwhile} of the background while somebody waited");
        assert!(meanwhile < 1000, "{meanwhile} of the background while somebody waited");
    }

    #[test]
    fn the_share_of_background_work_grows_with_its_age() {
        let (shim, store) = store();
        drop(store);
        let job = || -> Box<dyn Job> {
            let decide = |_: &mut Tx<'_>| Ok(Ok::<_, ()>(()));
            Box::new(Decision { decide, decided: None, failed: None, tx: oneshot::channel().0 })
        };
        let share_at = |age: Duration| {
            let shared =
                Arc::new(Shared { queues: Mutex::default(), wake: Condvar::new(), stats: CommitStats::default() });
            let since = Instant::now().checked_sub(age).unwrap();
            {
                let mut q = lock(&shared.queues);
                q.asked.extend((0..1000).map(|_| job()));
                q.background.extend((0..1000).map(|_| (since, job())));
            }
            let told = watch::channel(0).0;
            let failing = Complaint::default();
            let mut thread =
                Thread { kv: shim.clone(), counters: Counters::default(), shared, told, asked: 0, failing };
            thread.next_group().unwrap().len() - GROUP_JOBS
        };
        assert!((BACKGROUND_SHARE..BACKGROUND_SHARE + 5).contains(&share_at(Duration::ZERO)));
        assert!((BACKGROUND_SHARE + 50..BACKGROUND_SHARE + 55).contains(&share_at(50 * AGE_STEP)));
        assert_eq!(share_at(Duration::from_secs(3600)), BACKGROUND_SHARE + GROUP_JOBS);
    }

    #[tokio::test]
    async fn more_than_can_wait_is_refused_as_busy() {
        let (shim, store) = store();
        let first = hold(&shim, &store).await;
        let waiting: Vec<_> = (0..MAX_ASKED).map(|_| store.commit(Lane::Asked, |_| Ok(Ok::<_, ()>(())))).collect();
        assert_eq!(store.waiting(), (MAX_ASKED, 0));
        assert!(matches!(numbered(&store, "busy").await, Err(StoreError::Busy)));
        let background = store.commit(Lane::Background, |_| Ok(Ok::<_, ()>(())));
        shim.hold(false);
        first.await.unwrap().unwrap();
        for answer in waiting {
            answer.await.unwrap().unwrap();
        }
        background.await.unwrap().unwrap();
        numbered(&store, "free").await.unwrap().unwrap();
        assert_eq!(value(&*shim, "busy"), None);
    }

    #[tokio::test]
    async fn closing_answers_what_was_asked_and_refuses_what_comes_later() {
        let (shim, store) = store();
        let first = hold(&shim, &store).await;
        let asked: Vec<_> = (0..500).map(|n| numbered(&store, &format!("asked{n}"))).collect();
        let background = store.commit(Lane::Background, |_| Ok(Ok::<_, ()>(())));
        let closing = std::thread::spawn({
            let store = store.clone();
            move || store.close()
        });
        while !lock(&store.committer.shared.queues).closed {
            tokio::task::yield_now().await;
        }
        assert!(matches!(numbered(&store, "late").await, Err(StoreError::Closed)));
        shim.hold(false);
        closing.join().unwrap();
        for answer in asked {
            answer.await.unwrap().unwrap();
        }
        first.await.unwrap().unwrap();
        background.await.unwrap().unwrap();
        assert_eq!(value(&*shim, "late"), None);
        assert!(value(&*shim, "asked499").is_some());
        store.read(|r| r.get(b"asked499")).await.unwrap().expect("reads go on");
    }

    #[tokio::test]
    async fn a_change_over_its_bounds_is_not_kept_even_if_the_decision_takes_no_notice() {
        let (shim, store) = store();
        let first = hold(&shim, &store).await;
        let rows = store.commit(Lane::Asked, |tx| {
            for n in 0..=MAX_ROWS as u64 {
                let _ = tx.put([b"row".as_slice(), &n.to_be_bytes()].concat(), vec![]);
            }
            Ok(Ok::<_, ()>(()))
        });
        let bytes = store.commit(Lane::Asked, |tx| {
            let _ = tx.put(b"big".to_vec(), vec![0; MAX_BYTES]);
            Ok(Ok::<_, ()>(()))
        });
        let key = store.commit(Lane::Asked, |tx| {
            let _ = tx.put(vec![b'k'; 9000], vec![]);
            Ok(Ok::<_, ()>(()))
        });
        let most = store.commit(Lane::Asked, |tx| {
            for n in 0..MAX_ROWS as u64 {
                tx.put([b"most".as_slice(), &n.to_be_bytes()].concat(), vec![])?;
            }
            Ok(Ok::<_, ()>(tx.room()))
        });
        shim.hold(false);
        first.await.unwrap().unwrap();
        for answer in [rows.await, bytes.await, key.await] {
            assert!(matches!(answer, Err(StoreError::Kv(KvError::Unfit(_)))));
        }
        assert_eq!(most.await.unwrap(), Ok(0));
        assert!(shim.range(b"row", b"row~", 1, false).unwrap().is_empty());
        assert_eq!(shim.range(b"most", b"most~", 2000, false).unwrap().len(), MAX_ROWS);
    }

    #[tokio::test]
    async fn a_database_that_panics_leaves_nobody_waiting() {
        let (shim, store) = store();
        let first = hold(&shim, &store).await;
        let second = numbered(&store, "second");
        shim.panics.store(true, Ordering::SeqCst);
        shim.hold(false);
        assert!(matches!(first.await, Err(StoreError::Closed)));
        assert!(matches!(second.await, Err(StoreError::Closed)));
        assert!(matches!(numbered(&store, "third").await, Err(StoreError::Closed)));
        store.close();
    }

    #[tokio::test]
    async fn the_thread_and_its_hold_on_the_database_end_with_the_last_handle() {
        let (shim, store) = store();
        let clone = store.clone();
        let answer = numbered(&store, "kept");
        drop((store, clone));
        answer.await.unwrap().unwrap();
        while Arc::strong_count(&shim) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_number_of_the_newest_event_is_told_when_it_is_durable() {
        let (shim, store) = store();
        let mut events = store.events();
        shim.hold(true);
        let answer = store.commit(Lane::Asked, |tx| {
            let seq = tx.next(Counter::Event);
            tx.put(b"e".to_vec(), vec![])?;
            Ok(Ok::<_, ()>(seq))
        });
        while !shim.held.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        assert_eq!(*events.borrow_and_update(), 0);
        shim.hold(false);
        events.changed().await.unwrap();
        assert_eq!(*events.borrow(), 1);
        assert_eq!(answer.await.unwrap(), Ok(1));
    }
}
