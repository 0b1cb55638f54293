//! What systemd is told of a service of `Type=notify`: that it is ready, how it stands, that it stops (sd_notify(3)).
//!
//! Ready is who listens and has its store open, not who is attached: an XMPP server that starts later, or is away for a
//! while, is no reason to fail; its absence is said by the status and by `/readyz`. No watchdog: a disk that is slow for a
//! minute would be answered by a kill.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::base::shutdown::{Phase, Shutdown};
use crate::xmpp::link::LinkHandle;

/// The way to systemd; says nothing where the service was not started by it.
#[derive(Clone)]
pub(super) struct Systemd(Option<SocketAddr>);

impl Systemd {
    pub(super) fn from_env() -> Self {
        let name = std::env::var("NOTIFY_SOCKET").ok();
        Systemd(name.and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(&name).ok(),
        }))
    }

    pub(super) fn ready(&self) {
        self.say("READY=1");
    }

    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping: what is under way is finished first");
    }

    /// Keeps the status as the link stands, until the service stops.
    pub(super) async fn follow(self, link: LinkHandle, shutdown: Shutdown) {
        let mut state = link.state();
        loop {
            let words = super::words(&state.borrow_and_update());
            self.say(&format!("STATUS={}", words.replace('\n', " ")));
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = shutdown.reached(Phase::Draining) => return,
            }
        }
    }

    fn say(&self, text: &str) {
        if let Some(address) = &self.0
            && let Err(error) = UnixDatagram::unbound().and_then(|s| s.send_to_addr(text.as_bytes(), address))
        {
            tracing::warn!(%error, "systemd could not be told: {}", text.lines().next().unwrap_or_default());
        }
    }
}
