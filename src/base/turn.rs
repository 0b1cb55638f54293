//! A sender's order. Each request takes a [`Turn`] when it is read; requests are prepared side by side,
//! but what they ask of the store is asked in the order of their turns.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

/// The queues of all senders. A sender without open turns costs nothing.
#[derive(Clone)]
pub struct Turns<K>(Arc<Mutex<Queues<K>>>);

struct Queues<K> {
    all: HashMap<K, Last>,
    /// With so many, who has nothing open is forgotten.
    sweep_at: usize,
}

/// Fewer are not worth looking through.
const SWEEP: usize = 1024;

struct Last {
    /// Fires when the newest turn has passed.
    passed: oneshot::Receiver<()>,
    open: Arc<AtomicUsize>,
}

/// One request's place. Dropping it passes it on, so nobody waits for a request that ended early.
pub struct Turn {
    before: Option<oneshot::Receiver<()>>,
    pass: Option<oneshot::Sender<()>>,
    /// Requests of this sender that were read and not yet answered, this one included.
    open: Arc<AtomicUsize>,
}

impl<K: Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Turns(Arc::new(Mutex::new(Queues { all: HashMap::new(), sweep_at: SWEEP })))
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Takes the next place in `sender`'s order. Call it in the order in which requests are read.
    pub fn take(&self, sender: K) -> Turn {
        let (pass, passed) = oneshot::channel();
        let mut queues = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let Queues { all, sweep_at } = &mut *queues;
        if all.len() >= *sweep_at {
            all.retain(|_, last| last.open.load(Ordering::Acquire) > 0);
            // Looked through again once twice as many have come: each turn pays for a look or two, however many are open.
            *sweep_at = SWEEP.max(2 * all.len());
        }
        match all.get_mut(&sender) {
            Some(last) => {
                last.open.fetch_add(1, Ordering::AcqRel);
                let before = std::mem::replace(&mut last.passed, passed);
                Turn { before: Some(before), pass: Some(pass), open: last.open.clone() }
            }
            None => {
                let open = Arc::new(AtomicUsize::new(1));
                all.insert(sender, Last { passed, open: open.clone() });
                Turn { before: None, pass: Some(pass), open }
            }
        }
    }
}

impl Turn {
    /// A turn of nobody's queue: for requests whose order does not matter (HTTP, the command line).
    pub fn free() -> Self {
        Turn { before: None, pass: None, open: Arc::new(AtomicUsize::new(1)) }
    }

    /// Waits until every earlier request of this sender has asked the store for what it wants.
    pub async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // An error means the earlier turn was dropped: it has passed as well.
            let _ = before.await;
        }
    }

    /// Lets the next request go on. Call it once the store was asked, before its answer is awaited.
    pub fn pass(&mut self) {
        if let Some(pass) = self.pass.take() {
            let _ = pass.send(());
        }
    }

    /// Whether an earlier request of this sender may still be waiting for the store.
    pub fn others_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 1
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        let Some(pass) = self.pass.take() else { return };
        match self.before.take() {
            None => drop(pass.send(())),
            // Dropped before its time came: the next one still waits for the ones before this.
            Some(mut before) => match before.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    if let Ok(rt) = tokio::runtime::Handle::try_current() {
                        rt.spawn(async move {
                            let _ = before.await;
                            let _ = pass.send(());
                        });
                    }
                }
                _ => drop(pass.send(())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_even_if_one_is_dropped() {
        let turns = Turns::default();
        let (mut a, b, mut c) = (turns.take("juliet"), turns.take("juliet"), turns.take("juliet"));
        let mut other = turns.take("romeo");
        other.come().await;
        a.come().await;
        drop(b);
        let waiting = tokio::spawn(async move {
            c.come().await;
            c.others_open()
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        a.pass();
        drop(a);
        assert!(!waiting.await.unwrap());
    }

    #[tokio::test]
    async fn senders_are_forgotten_but_a_crowd_with_open_turns_is_not_looked_through_each_time() {
        let turns = Turns::default();
        let open: Vec<Turn> = (0..3 * SWEEP).map(|n| turns.take(n)).collect();
        // All are open: the next look is due only when there are twice as many.
        let (all, sweep_at) = {
            let queues = turns.0.lock().unwrap();
            (queues.all.len(), queues.sweep_at)
        };
        assert_eq!((all, sweep_at), (3 * SWEEP, 4 * SWEEP));
        drop(open);
        for n in 0..20 * SWEEP {
            drop(turns.take(100_000 + n));
            assert!(turns.0.lock().unwrap().all.len() <= 4 * SWEEP);
        }
        assert_eq!(turns.0.lock().unwrap().sweep_at, SWEEP, "the crowd has gone");
    }
}
