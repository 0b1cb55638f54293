//! The link to the XMPP server (XEP-0114): kept up by itself, read without pause, written in two lanes.
//!
//! *Answers* never wait: they are bounded in bytes, and a server that asks without reading what it is answered loses
//! the connection. *Fan-out* waits for room. One place, [`LinkHandle::check`], looks at every stanza before it may
//! enter a lane: a foreign `from` or too many bytes would cost the whole stream.
//!
//! XEP-0114 acknowledges nothing. What was written is known to be read only once a [barrier](LinkHandle::barrier)
//! says so; whatever a lost link did not confirm counts as lost.

mod barrier;
mod connect;
mod instance;
mod iq;
mod lanes;
mod reader;
mod run;
mod trouble;
mod writer;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jid::{BareJid, Jid};
use tokio::sync::watch;

use super::envelope::{Envelope, Incoming, Kind, OutHead, Stanza, Xml};
use super::framer::Limits;
use crate::base::clock::Clock;
use crate::base::id::Ids;
use crate::base::shutdown::Shutdown;

pub use iq::IqError;
pub use lanes::Position;
pub use trouble::Trouble;

use instance::Probe;
use iq::IqTable;
use lanes::Lanes;

/// How the link is made and bounded. Begin with [`LinkConfig::new`] and change what differs.
#[derive(Clone)]
pub struct LinkConfig {
    /// The component's own address: a domain.
    pub jid: BareJid,
    /// `host:port` of the server's component port.
    pub server: String,
    pub secret: String,
    /// A host of the server that answers pings.
    pub server_host: BareJid,
    /// What may come in.
    pub limits: Limits,
    /// The largest stanza that may go out, in bytes. Prosody ends the stream above 512 KiB.
    pub stanza_max: usize,
    /// Bytes of answers that may wait to be written.
    pub answers_max: usize,
    /// Bytes of fan-out that may wait; one stanza may go beyond.
    pub fanout_max: usize,
    /// Open requests of our own.
    pub iq_max: usize,
    pub iq_timeout: Duration,
    pub connect_timeout: Duration,
    /// After so long without a byte from the server, it is pinged.
    pub keepalive: Duration,
    /// So long it may then stay silent, or not read what we write, before the link counts as dead.
    pub grace: Duration,
    /// The pause before the second attempt to connect; doubled up to `backoff_max`, and shortened by up to a half. Short:
    /// a machine that starts brings up its XMPP server with us, or a moment later.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// How long stanzas to ourselves may take before we conclude from what came back.
    pub instance_wait: Duration,
    /// How long closing may take.
    pub drain: Duration,
}

impl LinkConfig {
    pub fn new(jid: BareJid, server: String, secret: String, server_host: BareJid) -> Self {
        LinkConfig {
            jid,
            server,
            secret,
            server_host,
            limits: Limits::default(),
            stanza_max: 500_000,
            answers_max: 64 << 20,
            fanout_max: 4 << 20,
            iq_max: 10_000,
            iq_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(30),
            grace: Duration::from_secs(60),
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(30),
            instance_wait: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for LinkConfig {
    /// Everything that may be printed: not the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LinkConfig { jid, server, server_host, .. } = self;
        write!(f, "LinkConfig {{ jid: {jid}, server: {server}, server_host: {server_host}, .. }}")
    }
}

/// How the link stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not connected. `why`: what ended the last attempt or session, in words for an administrator.
    Connecting { why: Option<Trouble>, attempts: u32 },
    /// `session` counts the connections of this process, from 1.
    Online { session: u64, instance: Instance },
    /// Closed for good.
    Closed,
}

/// Whether somebody else is connected under our name (ejabberd allows it, and shares our stanzas out).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    Checking,
    /// Every stanza that we sent to ourselves came back to us.
    Alone,
    /// Some did not, or somebody else's came to us.
    Shared,
    /// None came back: this server tells nothing.
    Unknown,
}

/// What the link has done since the process began. Sizes in bytes.
#[derive(Debug, Default)]
pub struct LinkStats {
    pub stanzas_in: AtomicU64,
    pub bytes_in: AtomicU64,
    pub stanzas_out: AtomicU64,
    pub bytes_out: AtomicU64,
    /// Incoming stanzas over a limit.
    pub skipped: AtomicU64,
    /// Incoming stanzas that are no XML.
    pub broken: AtomicU64,
    /// Outgoing stanzas that the check at the door refused.
    pub refused: AtomicU64,
    /// Sessions that ended otherwise than by our own closing.
    pub lost: AtomicU64,
    /// Logins that succeeded.
    pub sessions: AtomicU64,
}

fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// Takes each stanza that is not the link's own business, in the order of the stream, also one that was not read to its
/// end, and answers it. Called from the reader: it must not block. Over its limits it answers `resource-constraint`.
pub type Handler = dyn Fn(Incoming) + Send + Sync;

/// Why a stanza did not go out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A mistake of ours: sent, it would have ended the stream for everybody.
    #[error("from an address outside of {0}")]
    ForeignFrom(String),
    #[error("{bytes} bytes, at most {max} may be sent")]
    TooBig { bytes: usize, max: usize },
    /// A long answer, where a quarter of what may wait does so already. A short one would have room.
    #[error("too many answers wait for the server to read them")]
    Crowded,
    #[error("the server does not read its answers")]
    Full,
    #[error("not connected to the server")]
    LinkDown,
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

/// The session ended before what was written in it was known to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link was lost")]
pub struct LinkLost;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IqType {
    Get,
    Set,
}

/// Makes a link. Nothing happens until the future is run; it ends once the link is closed: by [`LinkHandle::close`],
/// at `Stopped`, or at the latest [`LinkConfig::drain`] after `Draining`.
pub fn new(
    config: LinkConfig,
    clock: Clock,
    ids: Ids,
    shutdown: Shutdown,
    handler: Arc<Handler>,
) -> (LinkHandle, impl Future<Output = ()> + Send) {
    let process = ids.token(16);
    let shared = Arc::new(Shared {
        lanes: Lanes::new(&config, ids.token(16)),
        iqs: IqTable::default(),
        probe: Probe::new(process),
        state: watch::Sender::new(LinkState::Connecting { why: None, attempts: 0 }),
        closing: watch::Sender::new(false),
        stats: LinkStats::default(),
        config,
        clock,
        ids,
    });
    (LinkHandle(shared.clone()), run::run(shared, shutdown, handler))
}

/// Tries to log in once and leaves again: for `rookery check`. Not while the service runs, whose link it would meet.
pub async fn check_login(config: &LinkConfig, clock: &Clock) -> Result<(), Trouble> {
    connect::login(config, clock).await.map(drop)
}

struct Shared {
    config: LinkConfig,
    clock: Clock,
    ids: Ids,
    lanes: Lanes,
    iqs: IqTable,
    probe: Probe,
    state: watch::Sender<LinkState>,
    closing: watch::Sender<bool>,
    stats: LinkStats,
}

/// What everybody else has of the link; cheap to clone.
#[derive(Clone)]
pub struct LinkHandle(Arc<Shared>);

impl LinkHandle {
    /// Sends something that must not wait: an answer, a presence, a request. Before any fan-out.
    /// What is queued when the link is lost goes out on the next one, unless that takes over a minute.
    pub fn answer(&self, stanza: Stanza) -> Result<(), SendError> {
        self.0.answer(stanza)
    }

    /// Sends one of many, once there is room. `after`: the position of the one sent before in the same batch; if the
    /// link was lost since, nothing is sent, so that a batch's last position stands for all of it.
    pub async fn fanout(&self, stanza: Stanza, after: Option<Position>) -> Result<Position, SendError> {
        self.0.check(&stanza)?;
        self.0.lanes.fanout(stanza, after).await
    }

    /// Returns once the server has read what was sent up to `upto` in that session: it answered a ping that was
    /// written later. Any number may wait at once; few pings serve them all.
    pub async fn barrier(&self, upto: Position) -> Result<(), LinkLost> {
        self.0.lanes.barrier(upto, &self.0.clock).await
    }

    /// Returns once the server has read all that was sent so far of many, or the link is lost.
    pub async fn proved(&self) {
        if let Some(newest) = self.0.lanes.newest() {
            let _ = self.barrier(newest).await;
        }
    }

    /// Asks, and waits for the result or error. `from` must be ours. Errors: [`IqError`].
    pub async fn iq(&self, from: &Jid, to: &Jid, type_: IqType, payload: Xml) -> Result<Envelope, IqError> {
        iq::ask(&self.0, from, to, type_, payload).await
    }

    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }

    /// Waits until the link is up; its session. `None` once it is closed for good.
    pub async fn online(&self) -> Option<u64> {
        let mut state = self.state();
        let now = state.wait_for(|s| !matches!(s, LinkState::Connecting { .. })).await.ok()?;
        match *now {
            LinkState::Online { session, .. } => Some(session),
            _ => None,
        }
    }

    pub fn stats(&self) -> &LinkStats {
        &self.0.stats
    }

    /// Bytes waiting in the lanes: answers, fan-out.
    pub fn waiting(&self) -> (usize, usize) {
        self.0.lanes.waiting()
    }

    /// The one check of what leaves: `from` is ours, the size is what the server takes. Every way in calls it.
    pub fn check(&self, stanza: &Stanza) -> Result<(), SendError> {
        self.0.check(stanza)
    }

    /// Takes nothing new, writes what is queued, ends the stream, and returns when the link is closed.
    pub async fn close(&self) {
        self.0.closing.send_replace(true);
        let _ = self.state().wait_for(|s| *s == LinkState::Closed).await;
    }
}

impl Shared {
    fn answer(&self, stanza: Stanza) -> Result<(), SendError> {
        self.check(&stanza)?;
        self.lanes.answer(stanza)
    }

    fn check(&self, stanza: &Stanza) -> Result<(), SendError> {
        let own = self.config.jid.domain().as_str();
        let refused = if stanza.from_domain() != own.as_bytes() {
            SendError::ForeignFrom(own.to_owned())
        } else if stanza.len() > self.config.stanza_max {
            SendError::TooBig { bytes: stanza.len(), max: self.config.stanza_max }
        } else {
            return Ok(());
        };
        count(&self.stats.refused, 1);
        tracing::error!(from = %String::from_utf8_lossy(stanza.from_domain()), "a stanza was not sent: {refused}");
        Err(refused)
    }
}

/// `<iq type='get'><ping/></iq>` (XEP-0199) from the component.
fn ping(from: &BareJid, to: &BareJid, id: &str) -> Option<Stanza> {
    let body = super::envelope::XmlWriter::new().open("ping", super::envelope::ns::PING).finish();
    Stanza::new(&OutHead { kind: Kind::Iq, from, to, id: Some(id), type_: Some("get") }, body)
}
