//! The threads that read. Few and always the same: each keeps what its allocator has ever needed, and what it has read is
//! freed elsewhere; the executor's pool has a thread for whoever comes, and looks up names besides.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use tokio::sync::oneshot;

use super::committer::{Lane, StoreError};

/// Reads that run at one time; more wait their turn, and the executor is never blocked by a cold disk.
pub(super) const READERS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// They end when this is dropped.
pub(super) struct Readers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    asked: VecDeque<Job>,
    background: VecDeque<Job>,
    /// Whose turn it is where both wait: whoever asks for much and again keeps nobody from being told.
    background_next: bool,
    closed: bool,
}

impl Queue {
    fn next(&mut self) -> Option<Job> {
        let (first, second) = match self.background_next {
            true => (&mut self.background, &mut self.asked),
            false => (&mut self.asked, &mut self.background),
        };
        self.background_next = !self.background_next;
        first.pop_front().or_else(|| second.pop_front())
    }
}

impl Readers {
    pub fn start() -> io::Result<Self> {
        let readers = Readers(Arc::default());
        for _ in 0..READERS {
            let shared = readers.0.clone();
            thread::Builder::new().name("reader".into()).spawn(move || shared.work())?;
        }
        Ok(readers)
    }

    /// Does a read when its turn in its lane has come. Who does not wait for it any more is passed over.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (tx, rx) = oneshot::channel();
        let job = move || {
            if !tx.is_closed() {
                let _ = tx.send(catch_unwind(AssertUnwindSafe(read)));
            }
        };
        {
            let mut queue = self.0.lock();
            let jobs = match lane {
                Lane::Asked => &mut queue.asked,
                Lane::Background => &mut queue.background,
            };
            jobs.push_back(Box::new(job));
        }
        self.0.wake.notify_one();
        match rx.await {
            Ok(Ok(out)) => Ok(out),
            Ok(Err(_)) => Err(StoreError::Panicked),
            Err(_) => Err(StoreError::Closed),
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    /// The next read; `None` when nobody is left to ask for one.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.next() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
