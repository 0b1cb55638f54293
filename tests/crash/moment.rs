//! When a process is killed.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::server::{Server, Trap};
use crate::support;
use crate::support::rookery::Rookery;

/// How long a moment is waited for, should the process have nothing more to say.
const ENOUGH: Duration = Duration::from_secs(2);

/// When the next kill comes.
#[derive(Debug)]
pub enum Moment {
    /// So long after the start of the process, whether or not it has come to anything.
    Starting(Duration),
    /// So long after it was let in by the server.
    Running(Duration),
    /// At the n-th answer, or about the n-th notification, after that.
    Answered(u64),
    Heard(u64),
}

impl Moment {
    pub fn choose(rng: &mut StdRng) -> Moment {
        match rng.random_range(0..10) {
            0 => Moment::Starting(Duration::from_millis(rng.random_range(0..200))),
            1..4 => Moment::Running(Duration::from_millis(rng.random_range(1..800))),
            4..8 => Moment::Answered(rng.random_range(1..150)),
            _ => Moment::Heard(rng.random_range(1..900)),
        }
    }

    /// Waits until it has come for `rookery`, which was begun when the server had let in as many as `session`.
    pub async fn come(&self, rookery: &mut Rookery, server: &Server, session: u64) {
        if let Moment::Starting(after) = self {
            return tokio::time::sleep(*after).await;
        }
        server.let_in_again(session).await;
        let heard = server.heard();
        match self {
            Moment::Starting(_) => {}
            Moment::Running(after) => tokio::time::sleep(*after).await,
            Moment::Answered(n) => {
                server.kill_at_answer(*n, Trap::set(rookery.pid().expect("it runs")));
                support::until(ENOUGH, || rookery.ended().is_some()).await;
                server.disarm();
            }
            Moment::Heard(n) => drop(support::until(ENOUGH, || server.heard() >= heard + n).await),
        }
    }
}
