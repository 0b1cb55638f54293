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

use tokio::time::Instant;

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

/// The hook in the HTTP client; cheap to clone.
#[derive(Clone)]
pub(super) struct Guarded {
    resolver: Arc<dyn Resolver>,
    guard: Arc<Guard>,
    pins: Arc<Mutex<HashMap<String, Pinned>>>,
}

/// The addresses that somebody was told of: for a while they are those that are connected to.
struct Pinned {
    addresses: Vec<IpAddr>,
    until: Instant,
}

/// Longer than the longest request.
const PINNED: Duration = Duration::from_secs(60);
const PINS: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl Guarded {
    pub fn new(resolver: Arc<dyn Resolver>, guard: Arc<Guard>) -> Self {
        Guarded { resolver, guard, pins: Arc::default() }
    }

    /// The addresses of `name` that may be asked, at least one. Until [`PINNED`] is over, requests go to these: who
    /// counts by address would else be shown one, and led to another.
    pub async fn pin(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let addresses = self.look_up(name).await?;
        let now = Instant::now();
        let mut pins = self.pins.lock().unwrap_or_else(|e| e.into_inner());
        if pins.len() >= PINS {
            pins.retain(|_, pin| pin.until > now);
        }
        if pins.len() >= PINS && !pins.contains_key(name) {
            return Err(io::Error::other("too many names are being looked up").into());
        }
        pins.insert(name.to_owned(), Pinned { addresses: addresses.clone(), until: now + PINNED });
        Ok(addresses)
    }

    /// The addresses of `name` that may be asked, at least one.
    pub async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let addresses = self.guard.filter(name, self.resolver.lookup(name).await?)?;
        match addresses.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into()),
            false => Ok(addresses),
        }
    }

    fn pinned(&self, name: &str) -> Option<Vec<IpAddr>> {
        let pins = self.pins.lock().unwrap_or_else(|e| e.into_inner());
        pins.get(name).filter(|pin| pin.until > Instant::now()).map(|pin| pin.addresses.clone())
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let addresses = match this.pinned(name.as_str()) {
                Some(addresses) => addresses,
                None => this.look_up(name.as_str()).await.map_err(|error| -> Box<dyn Error + Send + Sync> {
                    match error {
                        // As it is: the client finds it again in its own error.
                        LookupError::Refused(refusal) => refusal.into(),
                        LookupError::Failed(error) => error.into(),
                    }
                })?,
            };
            // Port 0: the client puts the URL's port, or its scheme's, in.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
