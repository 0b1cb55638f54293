//! The store: typed reads, and one way to write: `commit` a decision, taken in order and durable when answered.
//!
//! Only this folder names a database.

pub mod committer;
mod fjall;
pub mod kv;
mod memory;
mod open;
mod readers;
mod sled;
pub mod tables;
pub mod transfer;
pub mod tx;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, watch};

use self::readers::Readers;
use self::tables::{IMPORT_KEY, SCHEMA_KEY};

pub use committer::{CommitStats, Lane, StoreError};
pub use kv::{Kv, KvError, Read};
pub use memory::MemoryKv;
pub use open::{Backend, OpenError, open, open_kv};
pub use tables::{Account, Counter};
pub use tx::{Durable, Tx};

/// Of so many threads of the executor one at a time may read a few rows by itself.
const THREADS_PER_GLANCE: usize = 2;

/// The open store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    kv: Arc<dyn Kv>,
    committer: committer::Committer,
    readers: Arc<Readers>,
    /// In which its reads stand.
    lane: Lane,
    glances: Arc<OnceLock<Semaphore>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Store {
    /// Opens the tables over a database that nobody else has open. Refuses a schema newer than this program's.
    pub fn open(kv: Arc<dyn Kv>) -> Result<Self, KvError> {
        migrate(&*kv)?;
        let counters = committer::load_counters(&*kv)?;
        let (committer, thread) =
            committer::Committer::start(kv.clone(), counters).map_err(|e| KvError::Io(e.to_string()))?;
        let readers = Readers::start().map_err(|e| KvError::Io(e.to_string()))?;
        Ok(Store {
            kv,
            committer,
            readers: Arc::new(readers),
            lane: Lane::Asked,
            glances: Arc::default(),
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// A store that keeps nothing, for tests and trials.
    pub fn in_memory() -> Self {
        Self::open(Arc::new(MemoryKv::default())).expect("an empty map opens")
    }

    /// The same store for who works for nobody who waits: its reads take turns with those that are asked for.
    pub fn in_background(&self) -> Self {
        Store { lane: Lane::Background, ..self.clone() }
    }

    /// Reads the durable state on a thread for it.
    pub async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        F: FnOnce(&dyn Read) -> kv::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let kv = self.kv.clone();
        Ok(self.readers.run(self.lane, move || Durable::at_once(kv, read)).await??)
    }

    /// Reads a few rows of the durable state: here and now if another thread is left to the executor, since to hand work
    /// to another thread costs more than most such reads, else there.
    pub async fn glance<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        F: FnOnce(&dyn Read) -> kv::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let glances = self.glances.get_or_init(|| {
            let threads = tokio::runtime::Handle::current().metrics().num_workers();
            Semaphore::new(threads / THREADS_PER_GLANCE)
        });
        let Ok(_permit) = glances.try_acquire() else { return self.read(read).await };
        match catch_unwind(AssertUnwindSafe(|| Durable::at_once(self.kv.clone(), read))) {
            Ok(out) => Ok(out?),
            Err(_) => Err(StoreError::Panicked),
        }
    }

    /// Reads on this thread, for as long as it takes: for commands that have the store for themselves.
    pub fn at_rest<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        Durable::at_once(self.kv.clone(), read)
    }

    /// Asks for a decision; see [`committer::Committer::ask`]. Asking is immediate, in the order of calls; the future
    /// is the answer, which comes when the decision is durable.
    ///
    /// Architecture Invariant: only `service` and `queue` call this.
    pub fn commit<T, E, F>(
        &self,
        lane: Lane,
        decide: F,
    ) -> impl Future<Output = Result<Result<T, E>, StoreError>> + use<T, E, F>
    where
        F: FnMut(&mut Tx<'_>) -> Result<Result<T, E>, KvError> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.committer.ask(lane, decide)
    }

    /// Returns when nothing can be written any more: the database has stopped or panicked, or this was closed.
    pub async fn ended(&self) {
        let mut events = self.events();
        while events.changed().await.is_ok() {}
    }

    /// A watch on the number of the newest durable Event.
    pub fn events(&self) -> watch::Receiver<u64> {
        self.committer.events()
    }

    pub fn stats(&self) -> &CommitStats {
        self.committer.stats()
    }

    /// Decisions waiting: (asked for, background).
    pub fn waiting(&self) -> (usize, usize) {
        self.committer.waiting()
    }

    /// Errors: why nothing can be stored just now. One look at the disk; blocks.
    pub fn takes_writes(&self) -> Result<(), KvError> {
        self.kv.takes_writes()
    }

    pub fn disk_bytes(&self) -> u64 {
        self.kv.disk_bytes()
    }

    /// Answers what was asked for, then ends the committer; later decisions are refused as [`StoreError::Closed`], reads
    /// go on. Blocks; call it from the end of `run`. Without it the committer ends when the last clone is dropped.
    pub fn close(&self) {
        self.committer.close();
        if let Some(thread) = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let _ = thread.join();
        }
    }
}

/// Brings an older layout up to this one, step by step; each step is one or more durable batches that may be repeated.
fn migrate(kv: &dyn Kv) -> Result<(), KvError> {
    if kv.get(IMPORT_KEY)?.is_some() {
        return Err(KvError::Layout("an import into it was broken off: run rookery import again".into()));
    }
    let found = kv.get(SCHEMA_KEY)?.map(|bytes| tables::decode::<u64>(&bytes)).transpose()?;
    match found {
        Some(tables::SCHEMA) => Ok(()),
        Some(newer) if newer > tables::SCHEMA => Err(KvError::Layout(format!(
            "its layout is version {newer}, this program knows up to {}: run a newer rookery",
            tables::SCHEMA
        ))),
        // There is no older layout than 1 yet: a step `n -> n + 1` is written here when one comes.
        Some(older) => Err(KvError::Layout(format!("its layout is version {older}, which never existed"))),
        None if !kv.range(&[1], &[u8::MAX], 1, false)?.is_empty() => {
            Err(KvError::Layout("it has rows, but not the one that says their layout".into()))
        }
        None => kv.apply(&[(SCHEMA_KEY.to_vec(), Some(tables::encode(&tables::SCHEMA)))]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use super::readers::READERS;
    use super::*;

    #[test]
    fn a_newer_layout_is_refused_in_words() {
        let kv = MemoryKv::default();
        kv.apply(&[(SCHEMA_KEY.to_vec(), Some(tables::encode(&(tables::SCHEMA + 1))))]).unwrap();
        let words = Store::open(Arc::new(kv)).err().unwrap().to_string();
        assert_eq!(
            words,
            "the store cannot be read: its layout is version 2, this program knows up to 1: run a newer rookery"
        );
    }

    #[test]
    fn rows_of_no_known_layout_are_refused() {
        let kv = MemoryKv::default();
        kv.apply(&[(b"other".to_vec(), Some(Bytes::new()))]).unwrap();
        let words = Store::open(Arc::new(kv)).err().unwrap().to_string();
        assert!(words.contains("not the one that says their layout"), "{words}");
    }

    #[tokio::test]
    async fn reads_wait_their_turn_and_who_left_is_passed_over() {
        let store = Store::in_memory();
        let (blocked, open) = (Arc::new(Barrier::new(READERS + 1)), Arc::new(Barrier::new(READERS + 1)));
        let busy: Vec<_> = (0..READERS)
            .map(|_| {
                let (store, blocked, open) = (store.clone(), blocked.clone(), open.clone());
                tokio::spawn(async move {
                    store
                        .read(move |r| {
                            blocked.wait();
                            open.wait();
                            r.get(SCHEMA_KEY)
                        })
                        .await
                })
            })
            .collect();
        tokio::task::spawn_blocking(move || blocked.wait()).await.unwrap();
        // All are at work. Of those who come now each lane has every second turn.
        let ran = Arc::new(AtomicUsize::new(0));
        let count = |ran: &Arc<AtomicUsize>| {
            let ran = ran.clone();
            store.read(move |_| Ok(ran.fetch_add(1, Ordering::SeqCst)))
        };
        let mut left = Box::pin(count(&ran));
        assert!(futures::poll!(&mut left).is_pending());
        let mut waits = Box::pin(count(&ran));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(left);
        let mut many: Vec<_> = (0..1_000).map(|_| Box::pin(count(&ran))).collect();
        for read in &mut many {
            assert!(futures::poll!(read).is_pending());
        }
        let (of_queue, seen) = (store.in_background(), ran.clone());
        let mut told = Box::pin(of_queue.read(move |_| Ok(seen.load(Ordering::SeqCst))));
        assert!(futures::poll!(&mut told).is_pending());
        tokio::task::spawn_blocking(move || open.wait()).await.unwrap();
        // The readers take them in order, and are at them side by side.
        assert!(waits.await.unwrap() < READERS, "it was the first in its lane");
        assert!(told.await.unwrap() < 50, "it did not wait for all that was asked before");
        futures::future::join_all(many).await;
        assert_eq!(ran.load(Ordering::SeqCst), 1 + 1_000, "who left was not read for");
        for read in busy {
            assert!(read.await.unwrap().unwrap().is_some());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_read_that_panics_is_one_readers_misfortune() {
        let store = Store::in_memory();
        for _ in 0..READERS + 1 {
            let panicked = store.read(|_| -> kv::Result<()> { panic!("a reader's") }).await;
            assert!(matches!(panicked, Err(StoreError::Panicked)));
            let panicked = store.glance(|_| -> kv::Result<()> { panic!("a reader's") }).await;
            assert!(matches!(panicked, Err(StoreError::Panicked)));
        }
        assert!(store.read(|r| r.get(SCHEMA_KEY)).await.unwrap().is_some());
    }
}
