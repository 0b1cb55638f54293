//! Shutdown is a value: who holds a [`Shutdown`] can wait for it, who holds the [`Trigger`] can pull it.

use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Everything runs.
    Running,
    /// Nothing new is accepted; what was accepted is finished.
    Draining,
    /// Stop now.
    Stopped,
}

pub struct Trigger(watch::Sender<Phase>);

#[derive(Clone)]
pub struct Shutdown(watch::Receiver<Phase>);

pub fn channel() -> (Trigger, Shutdown) {
    let (tx, rx) = watch::channel(Phase::Running);
    (Trigger(tx), Shutdown(rx))
}

impl Trigger {
    /// Moves on to `phase`; never back.
    pub fn set(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }
}

impl Shutdown {
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Returns once `phase` or a later one is reached. A dropped trigger counts as `Stopped`.
    pub async fn reached(&self, phase: Phase) {
        let _ = self.0.clone().wait_for(|now| *now >= phase).await;
    }
}
