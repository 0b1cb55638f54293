//! Use cases: load, decide, commit. One file per verb family.
//!
//! A function here returns when its change is **durably** committed. It never sends and never awaits a socket: what
//! must be told leaves from the queue.

pub mod account;
pub mod contact;
pub mod deliveries;
mod entries;
pub mod hub;
pub mod manage;
pub mod node;
pub mod places;
pub mod publish;
pub mod retract;
pub mod retrieve;
pub mod subscribe;
pub mod topics;

use std::sync::{Arc, Mutex, RwLock};

use jid::{BareJid, Jid};

use crate::base::clock::Clock;
use crate::base::complaint::Complaint;
use crate::base::id::Ids;
use crate::base::turn::Turn;
pub use crate::config::{HubQuota, Quota};
use crate::domain::address::Addresses;
use crate::domain::error::Refusal;
use crate::store::{self, KvError, Lane, Store, StoreError, Tx, kv};

/// Who may have an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registration {
    /// Only by the command line.
    Closed,
    /// Whoever has a Jabber account at one of the listed hosts.
    Hosts,
    /// Anybody.
    Open,
}

/// What an administrator decides, as the use cases need it.
#[derive(Clone, Debug)]
pub struct Rules {
    pub registration: Registration,
    pub auto_register_hosts: Vec<String>,
    pub admins: Vec<BareJid>,
    /// Whose users may create nodes at the component's own JID.
    pub create_nodes_hosts: Vec<String>,
    /// Bytes of one payload as it is stored; a node may allow less.
    pub max_payload: usize,
    pub quota: Quota,
}

/// The use cases; cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

pub struct Inner {
    pub store: Store,
    pub addresses: Addresses,
    /// Replaced as a whole when an administrator changes their mind; see [`Inner::rules`].
    rules: RwLock<Arc<Rules>>,
    pub clock: Clock,
    pub ids: Ids,
    failing: Mutex<Complaint>,
}

impl std::ops::Deref for Service {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    /// The rules as they are now; a decision asks once, so that it is of one mind.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// A store's failure as it is told to who asked; the log has the words, though not of each.
    fn failed(&self, error: StoreError) -> Refusal {
        match error {
            StoreError::Busy => Refusal::Busy,
            // A Change has a bound in bytes as well.
            StoreError::Kv(KvError::Unfit(why)) => {
                tracing::warn!(why, "a request was refused: it changes more than one Change holds");
                Refusal::TooManyChanges
            }
            StoreError::Panicked => {
                tracing::error!("a request ended in a panic; please report it");
                Refusal::Failed
            }
            error => {
                let mut failing = self.failing.lock().unwrap_or_else(|e| e.into_inner());
                if failing.is_due(self.clock.now()) {
                    tracing::error!(%error, "a request failed in the store");
                }
                Refusal::StoreFailed
            }
        }
    }
}

impl Service {
    pub fn new(store: Store, addresses: Addresses, rules: Rules, clock: Clock, ids: Ids) -> Self {
        let rules = RwLock::new(Arc::new(rules));
        let failing = Mutex::default();
        Service(Arc::new(Inner { store, addresses, rules, clock, ids, failing }))
    }

    /// What an administrator decided anew: holds for what is decided from now on.
    pub fn set_rules(&self, rules: Rules) {
        *self.0.rules.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(rules);
    }

    /// A decision that somebody waits for, asked for in its turn.
    async fn decide<T, F>(&self, mut turn: Turn, decide: F) -> Result<T, Refusal>
    where
        F: FnMut(&mut Tx<'_>) -> Decided<T> + Send + 'static,
        T: Send + 'static,
    {
        turn.come().await;
        let mut decide = decide;
        let answer = self.store.commit(Lane::Asked, move |tx| answered(decide(tx)));
        turn.pass();
        answer.await.map_err(|error| self.failed(error))?
    }

    /// A read of a few rows that waits for what the same sender asked for before.
    async fn look<T, F>(&self, turn: Turn, look: F) -> Result<T, Refusal>
    where
        F: FnOnce(&dyn store::Read) -> Decided<T> + Send + 'static,
        T: Send + 'static,
    {
        self.settled(turn).await?;
        self.glance(look).await
    }

    /// A read of who knows how many rows that waits for what the same sender asked for before.
    async fn look_through<T, F>(&self, turn: Turn, look: F) -> Result<T, Refusal>
    where
        F: FnOnce(&dyn store::Read) -> Decided<T> + Send + 'static,
        T: Send + 'static,
    {
        self.settled(turn).await?;
        self.peek(look).await
    }

    /// The same for reads that are long: the sender's next request waits for it, so that nobody has more than one of them
    /// before everybody else's reads.
    async fn look_at_length<T, F>(&self, mut turn: Turn, look: F) -> Result<T, Refusal>
    where
        F: FnOnce(&dyn store::Read) -> Decided<T> + Send + 'static,
        T: Send + 'static,
    {
        turn.come().await;
        self.caught_up(&turn).await?;
        let found = self.peek(look).await;
        turn.pass();
        found
    }

    /// Returns when what the same sender asked for before is durable.
    async fn settled(&self, mut turn: Turn) -> Result<(), Refusal> {
        turn.come().await;
        self.caught_up(&turn).await?;
        turn.pass();
        Ok(())
    }

    async fn caught_up(&self, turn: &Turn) -> Result<(), Refusal> {
        if turn.others_open() {
            // An empty decision is answered when all before it is durable.
            self.store.commit(Lane::Asked, |_| Ok(Ok::<(), ()>(()))).await.map_err(|error| self.failed(error))?.ok();
        }
        Ok(())
    }

    /// A read of a few rows that waits for nobody.
    async fn glance<T, F>(&self, look: F) -> Result<T, Refusal>
    where
        F: FnOnce(&dyn store::Read) -> Decided<T> + Send + 'static,
        T: Send + 'static,
    {
        self.store.glance(move |r| answered(look(r))).await.map_err(|error| self.failed(error))?
    }

    /// A read of the durable state that waits for nobody.
    async fn peek<T, F>(&self, look: F) -> Result<T, Refusal>
    where
        F: FnOnce(&dyn store::Read) -> Decided<T> + Send + 'static,
        T: Send + 'static,
    {
        self.store.read(move |r| answered(look(r))).await.map_err(|error| self.failed(error))?
    }
}

/// Why a decision or a look ends early.
pub enum Stop {
    Refused(Refusal),
    Failed(KvError),
}

/// What a decision comes to.
pub type Decided<T> = Result<T, Stop>;

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

impl From<KvError> for Stop {
    fn from(error: KvError) -> Self {
        Stop::Failed(error)
    }
}

/// As the store takes it: a refusal is an answer, a failure is its own.
fn answered<T>(decided: Decided<T>) -> kv::Result<Result<T, Refusal>> {
    match decided {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Whether the domain of `jid` is one of `hosts`.
fn of_hosts(jid: &BareJid, hosts: &[String]) -> bool {
    hosts.iter().any(|host| host == jid.domain().as_str())
}

/// The bare JID of who asks.
fn bare(jid: &Jid) -> BareJid {
    jid.to_bare()
}
