//! The only wiring: builds the store, the use cases, the link, the queue and the listeners, and takes them down in
//! order. Nothing in the house is global: everything is given from here.

mod reload;
mod sample;
mod systemd;
pub mod transfer;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};

use crate::base::clock::Clock;
use crate::base::id::Ids;
use crate::base::jid::read_bare_jid;
use crate::base::progress::Progress;
use crate::base::shutdown::{self, Phase, Shutdown, Trigger};
use crate::config::{self, Config};
use crate::control::{self, Command, Desk, Reply, socket};
use crate::domain::address::Addresses;
use crate::http::client::{BuildError, Client, Options};
use crate::http::listener;
use crate::network::Network;
use crate::network::ostatus::OStatus;
use crate::queue::{AT_CALLBACKS, Queue};
use crate::service::topics::Topics;
use crate::service::{Registration, Rules, Service};
use crate::store::{self, OpenError, Store};
use crate::web;
use crate::web::health::{Check, Figure, Health, Source};
use crate::xmpp::envelope::Incoming;
use crate::xmpp::limits::Limits;
use crate::xmpp::link::{self, Instance, LinkConfig, LinkHandle, LinkState, SendError};
use crate::xmpp::notify::Notifier;
use crate::xmpp::{Edge, Out};

pub use reload::Reload;
use sample::Sample;
use systemd::Systemd;

/// How long requests that were read may take to their answer at the end.
const ANSWERS: Duration = Duration::from_secs(2);
/// And how long the server may take to say that it has read what it was told.
const PROOF: Duration = Duration::from_secs(1);
/// How long an orderly end may take before what is left waits for the next start.
const DRAIN: Duration = Duration::from_secs(8);

/// Why the service could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
    #[error("the HTTP client could not be made: {0}")]
    Client(#[from] BuildError),
    #[error("component.server_host {0:?} is no address")]
    ServerHost(String),
    /// What was acknowledged is stored; the next start goes on from there.
    #[error("a part of the service has broken, please report it: {0}")]
    Broken(String),
    /// Likewise.
    #[error("the store takes nothing more after a failed write: the log says why; mend that, if this start did not")]
    StoreEnded,
    #[error("the store at {} belongs to the user number {uid}: run this as that user, e.g. sudo -u '#{uid}' …", path.display())]
    OtherUser { path: PathBuf, uid: u32 },
}

/// Runs the service until `stop` says so, a part of it panics, or the store takes nothing more, then drains it. A service
/// without one of its parts would look alive and do half of its work: it ends with an error, so that who watches over it
/// starts it again.
pub async fn run(config: Config, reload: Reload, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let (trigger, shutdown) = shutdown::channel();
    let (clock, ids) = (Clock::system(), Ids::system());
    // At once: the client reads the system's certificate authorities, some hundred files.
    let (store, client) = tokio::join!(open(&config), client(&config));
    let (store, client) = (store?, client?);
    let service = service(&config, store.clone(), &clock, &ids);
    // Bound before anything is told to be up, so that a wrong address is an error at the start.
    let public = listener::bind(config.http.listen).await?;
    let admin = listener::bind(config.http.admin_listen).await?;
    let control = match &config.store.path {
        Some(path) if config.store.backend != config::Backend::Memory => Some(socket::bind(&socket::path(path))?),
        _ => None,
    };

    let mut tasks = JoinSet::new();
    let (edge, link, running) = attach(&config, &service, &clock, &ids, shutdown.clone())?;
    tasks.spawn(running);
    tasks.spawn(reload::serve(config.clone(), reload, service.clone(), edge.clone(), shutdown.clone()));
    let topics = Topics::new(service.clone());
    let ostatus = OStatus::new(service.clone(), topics.clone(), client);
    let notifier = Notifier::new(store.in_background(), link.clone());
    let networks: Vec<Arc<dyn Network>> = vec![Arc::new(notifier), Arc::new(ostatus.clone())];
    let mut queue = Queue::start(store.in_background(), networks, clock.clone(), ids, shutdown.clone());

    let pages = web::router(service.clone(), topics).merge(ostatus.routes());
    tasks.spawn(listener::serve(public, pages, listener::Limits::PUBLIC, shutdown.clone()));
    let sample = Sample::default();
    tasks.spawn(sample.clone().keep(service.clone(), shutdown.clone()));
    let health = web::health::router(health(&store, &link, &edge, &queue, &sample));
    tasks.spawn(listener::serve(admin, health, listener::Limits::ADMIN, shutdown.clone()));
    if let Some(control) = control {
        let (desk, link) = (Desk { service: service.clone(), queue: Some(queue.handle()) }, link.clone());
        let execute = move |command, progress| {
            let (desk, link) = (desk.clone(), link.clone());
            async move { execute(&desk, &link, command, &progress).await }
        };
        tasks.spawn(socket::serve(control, shutdown.clone(), execute));
    }
    tracing::info!(
        jid = %config.component.jid, http = %config.http.listen, admin = %config.http.admin_listen,
        store = ?config.store.backend, "rookery {} is up", env!("CARGO_PKG_VERSION")
    );

    let systemd = Systemd::from_env();
    systemd.ready();
    tasks.spawn(systemd.clone().follow(link.clone(), shutdown));
    let broken = tokio::select! {
        () = stop => None,
        why = panic_in(&mut tasks) => Some(RunError::Broken(why.to_string())),
        why = panic_in(queue.parts()) => Some(RunError::Broken(why.to_string())),
        () = store.ended() => Some(RunError::StoreEnded),
    };
    if let Some(why) = &broken {
        tracing::error!("{why}");
    }
    systemd.stopping();
    drain(trigger, edge, link, queue, tasks, store).await;
    broken.map_or(Ok(()), Err)
}

/// Returns when one of `tasks` has panicked. Some end by themselves, having done what they were for.
async fn panic_in(tasks: &mut JoinSet<()>) -> JoinError {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Err(error) if error.is_panic() => return error,
            _ => {}
        }
    }
    std::future::pending().await
}

/// The orderly end: nothing new comes in, what is under way is finished, then everything stops.
async fn drain(trigger: Trigger, edge: Edge, link: LinkHandle, queue: Queue, mut tasks: JoinSet<()>, store: Store) {
    tracing::info!("stopping: what is under way is finished first");
    trigger.set(Phase::Draining);
    // What was begun gets its answer as long as there is a link for it; what comes now is told to come again.
    edge.close();
    let answered = async {
        while edge.in_work() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(ANSWERS, answered).await.is_err() {
        tracing::warn!(requests = edge.in_work(), "stopping without an answer to some requests");
    }
    // What was told and not proved would be told again after the next start.
    let _ = tokio::time::timeout(PROOF, link.proved()).await;
    if tokio::time::timeout(DRAIN, link.close()).await.is_err() {
        tracing::warn!("the server did not close the link in time");
    }
    trigger.set(Phase::Stopped);
    let _ = tokio::time::timeout(DRAIN, queue.ended()).await;
    let _ = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    tracing::info!("stopped; what is still owed is delivered after the next start");
}

/// Opens the configured store.
pub async fn open(config: &Config) -> Result<Store, OpenError> {
    let backend = backend(config);
    let path = config.store.path.clone().unwrap_or_default();
    let opened = tokio::task::spawn_blocking(move || store::open(backend, &path));
    // The blocking pool runs as long as we do; a panic in an engine is one here.
    opened.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

fn backend(config: &Config) -> store::Backend {
    match config.store.backend {
        config::Backend::Sled => store::Backend::Sled,
        config::Backend::Fjall => store::Backend::Fjall,
        config::Backend::Memory => store::Backend::Memory,
    }
}

/// Opens the store for a command, unless it belongs to another user: what an engine writes while it is open, that user's
/// service could not open any more.
pub async fn open_as_owner(config: &Config) -> Result<Store, RunError> {
    owned(config)?;
    Ok(open(config).await?)
}

fn owned(config: &Config) -> Result<(), RunError> {
    let Some(path) = &config.store.path else { return Ok(()) };
    let (Ok(store), Ok(process)) = (std::fs::metadata(path), std::fs::metadata("/proc/self")) else { return Ok(()) };
    match store.uid() == process.uid() {
        true => Ok(()),
        false => Err(RunError::OtherUser { path: path.clone(), uid: store.uid() }),
    }
}

/// Makes the client of outgoing HTTP.
async fn client(config: &Config) -> Result<Client, BuildError> {
    let options = Options {
        // Nobody who has a place in the queue waits for one here.
        concurrent: AT_CALLBACKS,
        ..Options::new(config.http.public_url.clone(), config.federation.allow_private_addresses)
    };
    let made = tokio::task::spawn_blocking(|| Client::new(options));
    made.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

/// The use cases as configured.
pub fn service(config: &Config, store: Store, clock: &Clock, ids: &Ids) -> Service {
    let addresses = Addresses::new(config.component.jid.clone(), &config.http.public_url, &config.http.acct_domain);
    Service::new(store, addresses, rules(config), clock.clone(), ids.clone())
}

/// What the administrator decides, as the use cases need it.
fn rules(config: &Config) -> Rules {
    Rules {
        registration: match config.accounts.registration {
            config::Registration::Closed => Registration::Closed,
            config::Registration::Hosts => Registration::Hosts,
            config::Registration::Open => Registration::Open,
        },
        auto_register_hosts: config.accounts.auto_register_hosts.clone(),
        admins: config.accounts.admins.clone(),
        create_nodes_hosts: config.pubsub.create_nodes_hosts.clone(),
        max_payload: config.limits.max_payload_bytes,
        quota: config.limits.quota,
    }
}

/// The configuration of the component's link.
pub fn link_config(config: &Config) -> Result<LinkConfig, RunError> {
    let component = &config.component;
    let host =
        read_bare_jid(&component.server_host).ok_or_else(|| RunError::ServerHost(component.server_host.clone()))?;
    let (server, secret) = (component.server.to_string(), component.secret.expose().to_owned());
    let mut link = LinkConfig::new(component.jid.clone(), server, secret, host);
    link.stanza_max = config.limits.max_stanza_bytes;
    Ok(link)
}

/// What the edge takes on, and how much it answers at once: never more than the link would send.
fn edge_limits(config: &Config) -> Limits {
    let limits = Limits::default();
    let answer_bytes = limits.answer_bytes.min(config.limits.max_stanza_bytes);
    Limits { trusted_hosts: config.limits.trusted_hosts.clone(), answer_bytes, ..limits }
}

/// Makes the link, with the edge behind it.
fn attach(
    config: &Config,
    service: &Service,
    clock: &Clock,
    ids: &Ids,
    shutdown: Shutdown,
) -> Result<(Edge, LinkHandle, impl Future<Output = ()> + Send + use<>), RunError> {
    let edge = Edge::new(service.clone(), edge_limits(config));
    // The edge answers over the link that hands it its stanzas: the handle comes once both exist.
    let handle: Arc<OnceLock<LinkHandle>> = Arc::default();
    let out: Out = {
        let handle = handle.clone();
        Arc::new(move |stanza| match handle.get().map(|link| link.answer(stanza)) {
            Some(Err(SendError::Crowded)) => false,
            Some(Err(error)) => {
                tracing::warn!(%error, "an answer could not be sent");
                true
            }
            Some(Ok(())) | None => true,
        })
    };
    let handler = {
        let edge = edge.clone();
        Arc::new(move |incoming: Incoming| edge.receive(incoming, &out))
    };
    let (link, running) = link::new(link_config(config)?, clock.clone(), ids.clone(), shutdown, handler);
    let _ = handle.set(link.clone());
    Ok((edge, link, running))
}

/// What health and metrics are made of.
fn health(store: &Store, link: &LinkHandle, edge: &Edge, queue: &Queue, sample: &Sample) -> Health {
    let ready = link.clone();
    let online: Check = Arc::new(move || match &*ready.state().borrow() {
        LinkState::Online { .. } => Ok(()),
        state => Err(format!("the component link is down: {}", words(state))),
    });
    Health {
        store: store.clone(),
        checks: vec![online],
        sources: vec![
            link_figures(link.clone()),
            edge_figures(edge.clone()),
            store_figures(store.clone()),
            queue_figures(queue),
            sample.source(),
        ],
    }
}

fn link_figures(link: LinkHandle) -> Arc<dyn Source> {
    Arc::new(move || {
        let stats = link.stats();
        let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (answers, fanout) = link.waiting();
        let online = matches!(*link.state().borrow(), LinkState::Online { .. });
        vec![
            Figure::gauge(
                "link_online",
                "Whether the component is connected to its server",
                f64::from(u8::from(online)),
            ),
            Figure::counter("link_sessions", "Logins at the server", get(&stats.sessions)),
            Figure::counter("link_lost", "Sessions that ended unasked", get(&stats.lost)),
            Figure::counter("link_stanzas_in", "Stanzas read", get(&stats.stanzas_in)),
            Figure::counter("link_stanzas_out", "Stanzas written", get(&stats.stanzas_out)),
            Figure::counter("link_in_bytes", "Bytes read", get(&stats.bytes_in)),
            Figure::counter("link_out_bytes", "Bytes written", get(&stats.bytes_out)),
            Figure::counter("link_skipped", "Incoming stanzas over a limit", get(&stats.skipped)),
            Figure::counter("link_broken", "Incoming stanzas that are no XML", get(&stats.broken)),
            Figure::counter("link_refused", "Outgoing stanzas stopped at the door", get(&stats.refused)),
            Figure::gauge("link_waiting_bytes", "Bytes waiting to be written", answers as f64).label("lane", "answers"),
            Figure::gauge("link_waiting_bytes", "Bytes waiting to be written", fanout as f64).label("lane", "fanout"),
        ]
    })
}

fn edge_figures(edge: Edge) -> Arc<dyn Source> {
    Arc::new(move || {
        let turned_away = edge.turned_away();
        let help = "Stanzas that were not taken on";
        vec![
            Figure::counter("edge_turned_away", help, turned_away.over_rate).label("why", "rate"),
            Figure::counter("edge_turned_away", help, turned_away.no_room).label("why", "room"),
        ]
    })
}

fn store_figures(store: Store) -> Arc<dyn Source> {
    Arc::new(move || {
        let stats = store.stats();
        let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (asked, background) = store.waiting();
        vec![
            Figure::counter("store_groups", "Durable flushes", get(&stats.groups)),
            Figure::counter("store_changes", "Changes made durable", get(&stats.changes)),
            Figure::counter("store_written_bytes", "Bytes of the changes", get(&stats.bytes)),
            Figure::counter("store_failures", "Groups that could not be stored", get(&stats.failures)),
            Figure::counter("store_sync_microseconds", "Time spent making groups durable", get(&stats.sync_micros)),
            Figure::gauge("store_disk_bytes", "Size on the disk", store.disk_bytes() as f64),
            Figure::gauge("store_waiting", "Decisions waiting", asked as f64).label("lane", "asked"),
            Figure::gauge("store_waiting", "Decisions waiting", background as f64).label("lane", "background"),
        ]
    })
}

fn queue_figures(queue: &Queue) -> Arc<dyn Source> {
    let stats = queue.stats();
    Arc::new(move || {
        let counted =
            |(name, value): (&str, u64)| Figure::counter(format!("queue_{name}"), "What the queue has done", value);
        stats.figures().into_iter().map(counted).collect()
    })
}

/// A command over the control socket.
async fn execute(desk: &Desk, link: &LinkHandle, command: Command, progress: &Progress) -> Reply {
    match command {
        Command::Status => Reply::Done(vec![words(&link.state().borrow())]),
        command => control::execute(desk, command, progress).await,
    }
}

/// How the link stands, for a person.
fn words(state: &LinkState) -> String {
    match state {
        LinkState::Connecting { why: None, .. } => "connecting to the server".to_owned(),
        LinkState::Connecting { why: Some(why), attempts } => format!("not connected (attempt {attempts}): {why}"),
        LinkState::Online { instance: Instance::Shared, .. } => {
            "connected, but another instance shares our stanzas: stop one of the two".to_owned()
        }
        LinkState::Online { .. } => "connected".to_owned(),
        LinkState::Closed => "closed".to_owned(),
    }
}

/// Carries out an administrator's command: by the running service if there is one, else on the store itself.
pub async fn command(config: &Config, command: Command, progress: &Progress) -> Result<Reply, RunError> {
    if let Some(reply) = ask_running(config, &command, progress).await? {
        return Ok(reply);
    }
    let store = open_as_owner(config).await?;
    let service = service(config, store.clone(), &Clock::system(), &Ids::system());
    let desk = Desk { service, queue: None };
    let reply = control::execute(&desk, command, progress).await;
    drop(desk);
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    Ok(reply)
}

/// Asks the running service; `None` if there is none.
pub async fn ask_running(
    config: &Config,
    command: &Command,
    progress: &Progress,
) -> Result<Option<Reply>, std::io::Error> {
    let path: Option<&Path> = config.store.path.as_deref();
    match path {
        Some(path) => socket::ask(&socket::path(path), command, progress).await,
        None => Ok(None),
    }
}
