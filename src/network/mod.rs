//! What a network must be able to do so that the queue can keep our promises to it. The queue knows networks only
//! through [`Network`]; adding one is a folder and a line in `app.rs`.

pub mod ostatus;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::base::clock::Timestamp;
use crate::domain::delivery::{Destination, Outcome};
use crate::domain::event::Event;
use crate::store::{Read, kv};

/// Where one Event must go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub destination: Destination,
    /// The host whose health gates the destination: `host:port` of a callback. `None` for the component's own link.
    pub host: Option<String>,
}

/// A part of a plan: big audiences are planned in pages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlanPage {
    pub plans: Vec<Plan>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// One delivery to be made.
#[derive(Clone, Debug)]
pub struct Task {
    /// The number of the Event: names the delivery in a [`Report`].
    pub seq: u64,
    pub event: Event,
    /// The payload that the Event pins, canonical XML; only for a network that [`needs_payloads`](Network::needs_payloads).
    pub payload: Option<Bytes>,
    /// When the promise was made.
    pub at: Timestamp,
    /// How far an earlier attempt is proved to have come; empty at the beginning.
    pub cursor: Vec<u8>,
    /// Whether this delivery is all that its Event comes to, and has no plan yet.
    pub alone: bool,
}

/// What a network says of its deliveries, to the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// The delivery has come, provably, as far as `cursor`.
    Progress { cursor: Vec<u8> },
    /// The delivery ended, or must be tried again.
    Ended(Outcome),
}

/// The way back from a network to the queue; cheap to clone.
#[derive(Clone)]
pub struct Report(mpsc::UnboundedSender<(u64, Said)>);

impl Report {
    pub fn new(tx: mpsc::UnboundedSender<(u64, Said)>) -> Self {
        Report(tx)
    }

    pub fn progress(&self, seq: u64, cursor: Vec<u8>) {
        let _ = self.0.send((seq, Said::Progress { cursor }));
    }

    /// Each task gets exactly one outcome; one that gets none before every copy of its report is gone counts as
    /// `Retry`.
    pub fn ended(&self, seq: u64, outcome: Outcome) {
        let _ = self.0.send((seq, Said::Ended(outcome)));
    }
}

/// A network: how it is planned for and delivered to.
pub trait Network: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Whether what it plans may be handed over before the plan is durable: for the component's own link, where a
    /// delivery costs nothing to repeat. Such a network plans an Event in one page.
    fn is_express(&self) -> bool {
        false
    }

    /// Whether it sends what an Event pins. Tasks of others come without: a payload takes memory as long as they wait.
    fn needs_payloads(&self) -> bool {
        false
    }

    /// Whom of this network the Event `seq` concerns, at most `limit` from `cursor` on (empty at the beginning).
    /// Called on the committer: it reads only `view`, and the same call gives the same page.
    fn plan(&self, seq: u64, event: &Event, view: &dyn Read, cursor: &[u8], limit: usize) -> kv::Result<PlanPage>;

    /// Whether `destination` is one that this network plans.
    fn owns(&self, destination: &Destination) -> bool;

    /// Hands `tasks` over, in order. May be called again for one that was handed over before: the receiver can tell,
    /// by the item's id and `atom:id`. Calls for one destination do not overlap: the next comes when the future has
    /// resolved, which may be before the last outcome was reported. After an outcome that is `Retry`, the tasks behind
    /// it must not have been handed over.
    fn deliver(&self, destination: Destination, tasks: Vec<Task>, report: Report) -> BoxFuture<'static, ()>;
}
