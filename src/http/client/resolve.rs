//! Host names to addresses, under the guard. What this hands out is what is connected to: nobody asks DNS a second time
//! between the check and the connection, so an answer that changes (rebinding) gains nothing.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::guard::{Guard, Refusal};

pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Looks host names up. Never asked for IP literals.
pub trait Resolver: Send + Sync + 'static {
    fn lookup(&self, name: &str) -> Lookup;
}

/// The operating system's resolver.
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn lookup(&self, name: &str) -> Lookup {
        let name = name.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|at| at.ip()).collect()) })
    }
}

/// Look-ups under way at one time, for connections and for whoever else asks. Each has a thread, also when nobody waits
/// for it any more: a name server that does not answer keeps it for half a minute. Strangers have us look up what they
/// like; that must not keep connections from coming about.
const FOR_CONNECTIONS: usize = 192;
const FOR_OTHERS: usize = 64;
/// So long a look-up waits for its turn; one for a connection has to come about within the time for connecting.
const TURN_OF_CONNECTION: Duration = Duration::from_secs(4);
const TURN: Duration = Duration::from_secs(20);

/// The hook in the HTTP client; cheap to clone.
#[derive(Clone)]
pub(super) struct Guarded {
    resolver: Arc<dyn Resolver>,
    guard: Arc<Guard>,
    pins: Pins,
    connections: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

type Pins = Arc<Mutex<HashMap<String, Pinned>>>;

/// The addresses that a name leads to while somebody has it [`Held`]: the newest, and how many do.
struct Pinned {
    addresses: Vec<IpAddr>,
    holders: usize,
}

/// While it is held, a name leads to certain addresses.
pub struct Held {
    name: String,
    pins: Pins,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pinned) = pins.get_mut(&self.name) {
            pinned.holders -= 1;
            if pinned.holders == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] io::Error),
    /// Nothing was looked up.
    #[error("too many names are being looked up")]
    Busy,
}

impl Guarded {
    pub fn new(resolver: Arc<dyn Resolver>, guard: Arc<Guard>) -> Self {
        let permits = |most| Arc::new(Semaphore::new(most));
        Guarded {
            resolver,
            guard,
            pins: Arc::default(),
            connections: permits(FOR_CONNECTIONS),
            others: permits(FOR_OTHERS),
        }
    }

    /// Has requests to `name` go to these addresses, which [`Guarded::look_up`] gave: who counts by address would else be
    /// shown one, and led to another.
    pub fn pin(&self, name: &str, addresses: Vec<IpAddr>) -> Held {
        let mut pins = self.pins.lock().unwrap_or_else(|e| e.into_inner());
        let pinned = pins.entry(name.to_owned()).or_insert(Pinned { addresses: Vec::new(), holders: 0 });
        pinned.addresses = addresses;
        pinned.holders += 1;
        Held { name: name.to_owned(), pins: self.pins.clone() }
    }

    /// The addresses of `name` that may be asked, at least one. `longest`: of the look-up itself.
    pub async fn look_up(&self, name: &str, longest: Duration) -> Result<Vec<IpAddr>, LookupError> {
        self.look_up_with(&self.others, TURN, name, longest).await
    }

    async fn look_up_with(
        &self,
        permits: &Arc<Semaphore>,
        turn: Duration,
        name: &str,
        longest: Duration,
    ) -> Result<Vec<IpAddr>, LookupError> {
        let Ok(Ok(permit)) = timeout(turn, permits.clone().acquire_owned()).await else {
            return Err(LookupError::Busy);
        };
        let looking = self.resolver.lookup(name);
        let looking = tokio::spawn(async move {
            let found = looking.await;
            drop(permit);
            found
        });
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the name server did not answer in time");
        let found = timeout(longest, looking).await.map_err(late)?.map_err(io::Error::other)??;
        let addresses = self.guard.filter(name, found)?;
        match addresses.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into()),
            false => Ok(addresses),
        }
    }

    /// The client ends this when its time for connecting is over.
    async fn look_up_for_connection(&self, name: &str) -> Result<Vec<IpAddr>, Box<dyn Error + Send + Sync>> {
        let found = self.look_up_with(&self.connections, TURN_OF_CONNECTION, name, Duration::MAX).await;
        found.map_err(|error| match error {
            // As they are: the client finds them again in its own error.
            LookupError::Refused(refusal) => refusal.into(),
            LookupError::Busy => LookupError::Busy.into(),
            LookupError::Failed(error) => error.into(),
        })
    }

    fn pinned(&self, name: &str) -> Option<Vec<IpAddr>> {
        let pins = self.pins.lock().unwrap_or_else(|e| e.into_inner());
        pins.get(name).map(|pinned| pinned.addresses.clone())
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let addresses = match this.pinned(name.as_str()) {
                Some(addresses) => addresses,
                None => this.look_up_for_connection(name.as_str()).await?,
            };
            // Port 0: the client puts the URL's port, or its scheme's, in.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
