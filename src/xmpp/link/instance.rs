//! Whether another process is attached under our name: stanzas sent to ourselves come back to us only if we are alone.
//!
//! Prosody refuses a second connection; ejabberd accepts it and shares our stanzas between the two, by chance or by
//! the addresses (`domain_balancing`). So several stanzas go out at once, each to another resource; a stanza of the
//! other process that comes to us tells as much.

use std::sync::{Mutex, MutexGuard};

use super::{Instance, LinkState, Shared};
use crate::xmpp::envelope::{Envelope, Kind, Stanza, XmlWriter};

const NAMESPACE: &str = "urn:rookery:instance:0";
/// With two connections and an even chance, all of these come to the sender in one case out of 256.
const PROBES: u32 = 8;

pub(super) struct Probe {
    /// Unique to this process; nobody can guess it.
    process: String,
    found: Mutex<Found>,
}

#[derive(Clone, Copy, Default)]
struct Found {
    session: u64,
    /// A bit for each probe that came back.
    back: u32,
    foreign: bool,
}

impl Probe {
    pub fn new(process: String) -> Self {
        Probe { process, found: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What is known when the waiting is over.
    fn verdict(&self) -> Instance {
        let found = *self.lock();
        match found.back.count_ones() {
            _ if found.foreign => Instance::Shared,
            PROBES => Instance::Alone,
            0 => Instance::Unknown,
            _ => Instance::Shared,
        }
    }
}

/// Sends the probes of a new session and concludes after [`super::LinkConfig::instance_wait`].
pub(super) async fn watch(shared: &Shared, session: u64) {
    *shared.probe.lock() = Found { session, ..Found::default() };
    let own = &shared.config.jid;
    for number in 0..PROBES {
        let id = format!("{}.{session}.{number}", shared.probe.process);
        let body = XmlWriter::new().open("instance", NAMESPACE).finish();
        let Ok(to) = own.with_resource_str(&id) else { return };
        // A headline: should it go astray, no server keeps it or sends an error back (RFC 6121 §5.2.2).
        if shared.answer(Stanza::message(own, &to, Some("headline"), Some(&id), body)).is_err() {
            return;
        }
    }
    shared.clock.sleep(shared.config.instance_wait).await;
    conclude(shared, shared.probe.verdict());
}

/// Whether `envelope` is one of the probes, ours or another process's; if so, it is dealt with.
pub(super) fn heard(shared: &Shared, envelope: &Envelope) -> bool {
    let head = &envelope.head;
    // Only the component itself has this address: the server lets nobody else use it.
    if head.kind != Kind::Message || head.from.jid().is_none_or(|from| *from != shared.config.jid) {
        return false;
    }
    if envelope.child("instance", NAMESPACE).is_none() {
        return false;
    }
    let ours = head.id.as_deref().and_then(|id| id.strip_prefix(&shared.probe.process)?.strip_prefix('.'));
    let mut found = shared.probe.lock();
    match ours.and_then(|rest| rest.split_once('.')) {
        Some((session, number)) => {
            // Late ones of an earlier session say nothing.
            if session.parse() == Ok(found.session)
                && let Ok(number @ 0..PROBES) = number.parse::<u32>()
            {
                found.back |= 1 << number;
            }
        }
        None => {
            found.foreign = true;
            drop(found);
            conclude(shared, Instance::Shared);
        }
    }
    true
}

fn conclude(shared: &Shared, verdict: Instance) {
    let changed = shared.state.send_if_modified(|state| match state {
        LinkState::Online { instance, .. } if *instance != verdict => {
            *instance = verdict;
            true
        }
        _ => false,
    });
    if !changed {
        return;
    }
    let jid = &shared.config.jid;
    match verdict {
        Instance::Shared => tracing::error!(
            "another process is attached to the server as {jid} too, and the server shares our stanzas between the two: \
             requests and subscriptions get lost. Stop one of them; each component needs a name of its own"
        ),
        Instance::Unknown => tracing::warn!(
            "the server did not bring back what {jid} sent to itself: whether another process is attached under this \
             name cannot be told; make sure that there is none"
        ),
        Instance::Alone => tracing::info!("no other process is attached as {jid}"),
        Instance::Checking => {}
    }
}
