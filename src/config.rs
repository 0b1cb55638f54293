//! The configuration: one TOML file and the environment, made into types and checked whole before anything starts.
//!
//! The keys are stable: other tools rely on them, and `config/rookery.toml` explains each to an administrator.
//! Every default is written once, here. Host names come out normalised (lower case, as the `jid` crate or the URL
//! standard has them), so that the rest of the house compares bytes.

mod read;

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use jid::BareJid;
use serde::Deserialize;
use url::Url;

use self::read::{Key, Reader, read_bounded};
use crate::base::jid::read_bare_jid;

/// The store's engine when the file names none; why this one: docs/decisions/store.md.
pub const DEFAULT_BACKEND: Backend = Backend::Fjall;

/// Every key there is: (table, keys). What is not here is an error that names the nearest of these.
pub const KEYS: &[(&str, &[&str])] = &[
    ("component", &["jid", "server", "secret", "secret_file", "server_host", "allow_plaintext"]),
    ("http", &["listen", "admin_listen", "public_url", "acct_domain"]),
    ("store", &["backend", "path"]),
    ("accounts", &["registration", "auto_register_hosts", "admins"]),
    ("pubsub", &["create_nodes_hosts"]),
    ("federation", &["allow_private_addresses"]),
    (
        "limits",
        &[
            "max_stanza_bytes",
            "max_payload_bytes",
            "max_nodes",
            "max_subscriptions",
            "max_hub_requests",
            "max_hub_requests_per_host",
            "max_hub_subscriptions_per_feed",
            "max_hub_subscriptions_per_host",
            "trusted_hosts",
        ],
    ),
    ("log", &["level"]),
];

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub component: Component,
    pub http: Http,
    pub store: Store,
    pub accounts: Accounts,
    pub pubsub: Pubsub,
    pub federation: Federation,
    pub limits: Limits,
    pub log: Log,
}

/// The link to the XMPP server (XEP-0114).
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// The component's own address: a domain, without a local part.
    pub jid: BareJid,
    pub server: Server,
    /// The XMPP host whose answers prove that the server has read what we wrote.
    pub server_host: String,
    pub secret: Secret,
    /// The administrator vouches for the network between us and `server`: XEP-0114 has no encryption.
    pub allow_plaintext: bool,
}

/// Where the XMPP server listens for components: a host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name, or an IP literal; an IPv6 one without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    pub listen: SocketAddr,
    /// Health and metrics; never the public address.
    pub admin_listen: SocketAddr,
    /// The root of everything we publish, with the closing slash: `https://social.example.org/`.
    pub public_url: Url,
    /// The domain of web identities, `acct:alice@<acct_domain>`; ASCII.
    pub acct_domain: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub backend: Backend,
    /// The folder of the database and of the control socket; absent only with [`Backend::Memory`].
    pub path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    Sled,
    Fjall,
    /// Forgets everything at the end: for trials and tests.
    Memory,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Accounts {
    pub registration: Registration,
    /// Jabber hosts whose accounts may have an account here without being asked for it.
    pub auto_register_hosts: Vec<String>,
    pub admins: Vec<BareJid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Accounts of the listed Jabber hosts.
    Hosts,
    /// Only the administrator makes accounts.
    Closed,
    /// Any Jabber account may register.
    Open,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pubsub {
    /// Jabber hosts whose accounts may create nodes at the component's own address.
    pub create_nodes_hosts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Federation {
    /// Lets callbacks and look-ups go to loopback and private addresses: for tests and demos only.
    pub allow_private_addresses: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The longest stanza we send, in bytes. Prosody ends the whole stream at 512 KiB.
    pub max_stanza_bytes: usize,
    /// The longest payload of an item we accept, in bytes, as it is stored; 200,000 at most.
    pub max_payload_bytes: usize,
    pub quota: Quota,
    /// Hosts whose users may ask as fast as they like; what is in work at one time stays bounded.
    pub trusted_hosts: Vec<String>,
}

/// How much one Jabber account may have here; administrators have no bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Nodes that it has made; microblog and comments nodes are not counted.
    pub nodes: u64,
    /// Subscriptions that it made: for itself, and as an owner of nodes for others.
    pub subscriptions: u64,
    pub hub: HubQuota,
}

/// How much the hub keeps for those who ask it over HTTP: anybody, in anybody's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HubQuota {
    /// Requests that wait for the answer of their callback, in all and for callbacks at one host name.
    pub requests: u64,
    pub requests_per_host: u64,
    /// Subscriptions to one feed, and of callbacks at one host name.
    pub subscriptions_per_feed: u64,
    pub subscriptions_per_host: u64,
}

impl Default for Quota {
    fn default() -> Self {
        let hub = HubQuota {
            requests: 10_000,
            requests_per_host: 1_000,
            subscriptions_per_feed: 100_000,
            subscriptions_per_host: 100_000,
        };
        Quota { nodes: 1_000, subscriptions: 10_000, hub }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least important lines that are written.
    pub level: LogLevel,
}

/// How important a log line is, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something is lost or does not work, and a person has to act.
    Error,
    /// Something went wrong, and is dealt with.
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// What a stanza needs beside the payload: addresses, the event's own elements, a list of SubIDs.
const ENVELOPE_BYTES: u64 = 16 * 1024;

/// No node takes a larger payload, whatever its owner configures; a test holds it equal to the nodes' own bound.
const PAYLOAD_MOST: u64 = 200_000;

/// The shared secret of the component link. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the handshake only (XEP-0114 §3).
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Server {
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => is_localhost(&self.host),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// One thing that is wrong, in words for an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `component.server`, `line 3`, or the name of an environment variable.
    pub key: String,
    pub wrong: String,
    /// What to do about it.
    pub write: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.wrong, self.write)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Everything that is wrong, in the order of the tables.
    #[error("the configuration has {} problem(s):{}", problems.len(), listed(problems))]
    Problems { problems: Vec<Problem> },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

impl Config {
    /// Reads the file and this process's environment.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = File::open(path)
            .and_then(|file| read_bounded(file, 1024 * 1024))
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())));
        Config::read(&text, path.parent().unwrap_or(Path::new("")), env)
    }

    /// Reads `text`; relative paths in it are taken from `folder`. A variable `ROOKERY_<TABLE>__<KEY>` of `env` wins
    /// over the file. Nothing but a named `secret_file` is opened.
    pub fn parse(
        text: &str,
        folder: &Path,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        Config::read(text, folder, env.into_iter().map(|(name, value)| (name, Some(value))))
    }

    /// The same; a variable whose value is no text comes as `None`.
    fn read(
        text: &str,
        folder: &Path,
        env: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<Config, ConfigError> {
        let mut r = Reader::new(text, env)?;
        let federation = federation(&mut r);
        let component = component(&mut r, folder);
        let http = http(&mut r, federation.allow_private_addresses);
        let store = store(&mut r, folder);
        let own_host = component.as_ref().map(|c| c.server_host.clone());
        let accounts = accounts(&mut r, own_host.clone());
        let pubsub = pubsub(&mut r, own_host);
        let limits = limits(&mut r);
        let log = log(&mut r);
        match (component, http, r.finish()) {
            (Some(component), Some(http), problems) if problems.is_empty() => {
                Ok(Config { component, http, store, accounts, pubsub, federation, limits, log })
            }
            (_, _, problems) => Err(ConfigError::Problems { problems }),
        }
    }

    /// The keys whose values are others in `other`, in the order of [`KEYS`]. A secret counts as `component.secret`,
    /// wherever it is written.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
        let Config { component, http, store, accounts, pubsub, federation, limits, log } = self;
        let (hub, other_hub) = (&limits.quota.hub, &other.limits.quota.hub);
        let compared = [
            ("component.jid", component.jid != other.component.jid),
            ("component.server", component.server != other.component.server),
            ("component.secret", component.secret != other.component.secret),
            ("component.server_host", component.server_host != other.component.server_host),
            ("component.allow_plaintext", component.allow_plaintext != other.component.allow_plaintext),
            ("http.listen", http.listen != other.http.listen),
            ("http.admin_listen", http.admin_listen != other.http.admin_listen),
            ("http.public_url", http.public_url != other.http.public_url),
            ("http.acct_domain", http.acct_domain != other.http.acct_domain),
            ("store.backend", store.backend != other.store.backend),
            ("store.path", store.path != other.store.path),
            ("accounts.registration", accounts.registration != other.accounts.registration),
            ("accounts.auto_register_hosts", accounts.auto_register_hosts != other.accounts.auto_register_hosts),
            ("accounts.admins", accounts.admins != other.accounts.admins),
            ("pubsub.create_nodes_hosts", pubsub.create_nodes_hosts != other.pubsub.create_nodes_hosts),
            (
                "federation.allow_private_addresses",
                federation.allow_private_addresses != other.federation.allow_private_addresses,
            ),
            ("limits.max_stanza_bytes", limits.max_stanza_bytes != other.limits.max_stanza_bytes),
            ("limits.max_payload_bytes", limits.max_payload_bytes != other.limits.max_payload_bytes),
            ("limits.max_nodes", limits.quota.nodes != other.limits.quota.nodes),
            ("limits.max_subscriptions", limits.quota.subscriptions != other.limits.quota.subscriptions),
            ("limits.max_hub_requests", hub.requests != other_hub.requests),
            ("limits.max_hub_requests_per_host", hub.requests_per_host != other_hub.requests_per_host),
            ("limits.max_hub_subscriptions_per_feed", hub.subscriptions_per_feed != other_hub.subscriptions_per_feed),
            ("limits.max_hub_subscriptions_per_host", hub.subscriptions_per_host != other_hub.subscriptions_per_host),
            ("limits.trusted_hosts", limits.trusted_hosts != other.limits.trusted_hosts),
            ("log.level", log.level != other.log.level),
        ];
        compared.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

fn component(r: &mut Reader, folder: &Path) -> Option<Component> {
    const JID: Key = ("component", "jid");
    const SERVER_HOST: Key = ("component", "server_host");
    let jid = match r.get::<String>(JID) {
        None => r.missing(
            JID,
            r#"write the address that the XMPP server gives the component, e.g. jid = "social.example.org""#,
        ),
        Some(text) => r.check(JID, &text, host_jid, r#"write a domain, e.g. jid = "social.example.org""#),
    };
    let server_host = match r.get::<String>(SERVER_HOST) {
        Some(text) => {
            r.check(SERVER_HOST, &text, host, r#"write the server's XMPP host, e.g. server_host = "example.org""#)
        }
        None => jid.as_ref().and_then(|jid| match jid.as_str().split_once('.') {
            Some((_, parent)) => Some(parent.to_owned()),
            None => {
                let jid = r.name(JID);
                r.missing(SERVER_HOST, &format!("{jid} has only one label, so write the server's XMPP host here"))
            }
        }),
    };
    let server = server(r);
    let secret = secret(r, folder);
    let allow_plaintext = r.get(("component", "allow_plaintext")).unwrap_or(false);
    if let Some(server) = &server
        && !server.is_loopback()
        && !allow_plaintext
    {
        r.problem(
            ("component", "server"),
            format!("{server} is not on this machine, and the component protocol (XEP-0114) is not encrypted"),
            r#"write server = "127.0.0.1:5347", or allow_plaintext = true in [component] if you trust the network between"#,
        );
    }
    Some(Component { jid: jid?, server: server?, server_host: server_host?, secret: secret?, allow_plaintext })
}

fn server(r: &mut Reader) -> Option<Server> {
    const SERVER: Key = ("component", "server");
    let Some(text) = r.get::<String>(SERVER) else {
        return Some(Server { host: Ipv4Addr::LOCALHOST.to_string(), port: 5347 });
    };
    let parse = |text: &str| {
        let (host, port) = text.rsplit_once(':').ok_or("there is no port in it")?;
        let port = port.parse().ok().filter(|p| *p != 0).ok_or("the port is not a number from 1 to 65535")?;
        let host = match url::Host::parse(host).map_err(|_| "that is not a host name or IP address")? {
            url::Host::Domain(name) => name,
            url::Host::Ipv4(ip) => ip.to_string(),
            url::Host::Ipv6(ip) => ip.to_string(),
        };
        Ok::<_, &str>(Server { host, port })
    };
    r.check(
        SERVER,
        &text,
        parse,
        r#"write host and port of the server's component listener, e.g. server = "127.0.0.1:5347""#,
    )
}

/// The environment's secret wins over everything, then a `secret_file` of the environment, then what the file says.
fn secret(r: &mut Reader, folder: &Path) -> Option<Secret> {
    const SECRET: Key = ("component", "secret");
    const FILE: Key = ("component", "secret_file");
    const WRITE: &str = "write the secret that the XMPP server has for this component";
    let (inline, file) = (r.get::<String>(SECRET), r.get::<String>(FILE));
    match (inline, file) {
        (Some(_), Some(_)) if !r.is_from_env(SECRET) && !r.is_from_env(FILE) => {
            r.problem(FILE, "secret is written as well", "keep one of secret and secret_file");
            None
        }
        (Some(text), file) if r.is_from_env(SECRET) || file.is_none() => {
            if text.is_empty() {
                r.problem(SECRET, "it is empty", WRITE);
                return None;
            }
            Some(Secret(text))
        }
        (_, Some(file)) => {
            let path = folder.join(file);
            match secret_of_file(&path) {
                Ok(secret) => Some(secret),
                Err((wrong, write)) => {
                    r.problem(FILE, format!("{}: {wrong}", path.display()), write);
                    None
                }
            }
        }
        _ => r.missing(SECRET, "write secret = \"…\" or secret_file = \"…\", or set ROOKERY_COMPONENT__SECRET"),
    }
}

/// The text of a secret's file without its last line end. Errors: what is wrong, what to do.
fn secret_of_file(path: &Path) -> Result<Secret, (String, String)> {
    let readable = "write the path of a file that this user can read".to_owned();
    let file = File::open(path).map_err(|e| (e.to_string(), readable.clone()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(|e| (e.to_string(), readable.clone()))?.permissions().mode();
        if mode & 0o007 != 0 {
            let wrong = format!("everybody on this machine can use it (mode {:04o})", mode & 0o7777);
            return Err((wrong, format!("run: chmod 600 {}", path.display())));
        }
    }
    let text = read_bounded(file, 4096).map_err(|e| (e.to_string(), readable))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(("it is empty".to_owned(), "put the secret into it, on one line".to_owned()));
    }
    if text.contains('\n') {
        return Err(("it has more than one line".to_owned(), "put only the secret into it, on one line".to_owned()));
    }
    Ok(Secret(text.to_owned()))
}

fn http(r: &mut Reader, allow_private: bool) -> Option<Http> {
    const LISTEN: Key = ("http", "listen");
    const ADMIN: Key = ("http", "admin_listen");
    const PUBLIC: Key = ("http", "public_url");
    const ACCT: Key = ("http", "acct_domain");
    let address = |text: &str| text.parse::<SocketAddr>().map_err(|_| "that is not an IP address with a port");

    let listen = match r.get::<String>(LISTEN) {
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
        Some(text) => r.check(LISTEN, &text, address, r#"write e.g. listen = "127.0.0.1:8080""#),
    };
    let admin_listen = match (r.get::<String>(ADMIN), listen) {
        (Some(text), _) => r.check(ADMIN, &text, address, r#"write e.g. admin_listen = "127.0.0.1:8081""#),
        (None, None) => None,
        // Port 0 asks the kernel for any port, here as well.
        (None, Some(listen)) if listen.port() == 0 => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        (None, Some(listen)) => match listen.port().checked_add(1) {
            Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            None => {
                let write = format!(
                    "there is no port above that of {}, so write an address for health and metrics",
                    r.name(LISTEN)
                );
                r.missing(ADMIN, &write)
            }
        },
    };
    if let (Some(listen), Some(admin)) = (listen, admin_listen)
        && listen == admin
        && listen.port() != 0
    {
        r.problem(
            ADMIN,
            format!("it is the same as {}", r.name(LISTEN)),
            "health and metrics need an address of their own: write another port",
        );
    }
    let example =
        r#"write the address under which the world sees this service, e.g. public_url = "https://social.example.org""#;
    let public_url = match r.get::<String>(PUBLIC) {
        None => r.missing(PUBLIC, example),
        Some(text) => r.check(PUBLIC, &text, |text| public_url(text, allow_private), example),
    };
    let acct_domain = match r.get::<String>(ACCT) {
        None => public_url.as_ref().and_then(|url| url.host_str()).map(str::to_owned),
        Some(text) => {
            let domain =
                |text: &str| url::Host::parse(text).map(|h| h.to_string()).map_err(|_| "that is not a host name");
            r.check(
                ACCT,
                &text,
                domain,
                r#"write the part after the @ of web identities, e.g. acct_domain = "example.org""#,
            )
        }
    };
    Some(Http { listen: listen?, admin_listen: admin_listen?, public_url: public_url?, acct_domain: acct_domain? })
}

fn public_url(text: &str, allow_private: bool) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "that is not a URL")?;
    let loopback = match url.host() {
        None => return Err("there is no host in it"),
        Some(url::Host::Domain(name)) => is_localhost(name),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip == Ipv6Addr::LOCALHOST,
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback || allow_private => {}
        "http" => return Err("other servers look for us only at https"),
        _ => return Err("its scheme is not https"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("there are credentials in it");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        // RFC 8615 §3: well-known locations are at the root of the host.
        return Err("it must be the root of its host, because WebFinger asks there");
    }
    Ok(url)
}

fn store(r: &mut Reader, folder: &Path) -> Store {
    const BACKEND: Key = ("store", "backend");
    const CHOICE: &str = r#"write backend = "fjall" or "sled", or "memory" for trials"#;
    let backend = match r.get::<String>(BACKEND) {
        None => None,
        Some(text) if text == "postgres" => {
            r.problem(BACKEND, "postgres is not there yet", CHOICE);
            None
        }
        Some(text) => r.word(BACKEND, &text, CHOICE),
    };
    let backend = backend.unwrap_or(DEFAULT_BACKEND);
    let path = match r.get::<String>(("store", "path")) {
        Some(text) if text.is_empty() => {
            r.problem(("store", "path"), "it is empty", r#"write a folder, e.g. path = "/var/lib/rookery""#);
            None
        }
        Some(text) => Some(folder.join(text)),
        None if backend == Backend::Memory => None,
        None => Some(PathBuf::from("/var/lib/rookery")),
    };
    Store { backend, path }
}

fn accounts(r: &mut Reader, own_host: Option<String>) -> Accounts {
    const REGISTRATION: Key = ("accounts", "registration");
    const ADMINS: Key = ("accounts", "admins");
    let registration = r
        .get::<String>(REGISTRATION)
        .and_then(|text| r.word(REGISTRATION, &text, r#"write registration = "hosts", "closed" or "open""#))
        .unwrap_or(Registration::Hosts);
    let auto_register_hosts = hosts(r, ("accounts", "auto_register_hosts"), own_host);
    let admins = r.get::<Vec<String>>(ADMINS).unwrap_or_default();
    let admins = admins
        .iter()
        .filter_map(|text| {
            r.check(ADMINS, text, account_jid, r#"write Jabber accounts, e.g. admins = ["admin@example.org"]"#)
        })
        .collect();
    Accounts { registration, auto_register_hosts, admins }
}

fn pubsub(r: &mut Reader, own_host: Option<String>) -> Pubsub {
    Pubsub { create_nodes_hosts: hosts(r, ("pubsub", "create_nodes_hosts"), own_host) }
}

fn federation(r: &mut Reader) -> Federation {
    Federation { allow_private_addresses: r.get(("federation", "allow_private_addresses")).unwrap_or(false) }
}

fn limits(r: &mut Reader) -> Limits {
    const STANZA: Key = ("limits", "max_stanza_bytes");
    const PAYLOAD: Key = ("limits", "max_payload_bytes");
    // RFC 6120 §13.12: a server takes stanzas of at least 10,000 bytes.
    let stanza = r.number(STANZA, 10_000 + ENVELOPE_BYTES..=100_000_000, 500_000);
    let payload_most = PAYLOAD_MOST.min(stanza - ENVELOPE_BYTES);
    let payload = r.number(PAYLOAD, 1_000..=payload_most, payload_most);
    let Quota { nodes, subscriptions, hub } = Quota::default();
    let mut bound = |key, default| r.number(("limits", key), 1..=100_000_000, default);
    let hub = HubQuota {
        requests: bound("max_hub_requests", hub.requests),
        requests_per_host: bound("max_hub_requests_per_host", hub.requests_per_host),
        subscriptions_per_feed: bound("max_hub_subscriptions_per_feed", hub.subscriptions_per_feed),
        subscriptions_per_host: bound("max_hub_subscriptions_per_host", hub.subscriptions_per_host),
    };
    let subscriptions = bound("max_subscriptions", subscriptions);
    let quota = Quota { nodes: r.number(("limits", "max_nodes"), 0..=100_000_000, nodes), subscriptions, hub };
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let trusted_hosts = hosts(r, ("limits", "trusted_hosts"), None);
    Limits { max_stanza_bytes: size(stanza), max_payload_bytes: size(payload), quota, trusted_hosts }
}

fn log(r: &mut Reader) -> Log {
    const LEVEL: Key = ("log", "level");
    let level = r.get::<String>(LEVEL);
    let level =
        level.and_then(|text| r.word(LEVEL, &text, r#"write level = "info", or "error", "warn", "debug", "trace""#));
    Log { level: level.unwrap_or(LogLevel::Info) }
}

/// A list of Jabber hosts; by default the server's own.
fn hosts(r: &mut Reader, key: Key, own_host: Option<String>) -> Vec<String> {
    match r.get::<Vec<String>>(key) {
        None => own_host.into_iter().collect(),
        Some(names) => {
            let write = format!(r#"write Jabber hosts, e.g. {} = ["example.org"]"#, key.1);
            names.iter().filter_map(|name| r.check(key, name, host, &write)).collect()
        }
    }
}

fn host(text: &str) -> Result<String, &'static str> {
    host_jid(text).map(|jid| jid.as_str().to_owned())
}

fn host_jid(text: &str) -> Result<BareJid, &'static str> {
    let jid = bare_jid(text)?;
    match jid.node() {
        None => Ok(jid),
        Some(_) => Err("there is an @ in it, but a host is wanted"),
    }
}

fn account_jid(text: &str) -> Result<BareJid, &'static str> {
    let jid = bare_jid(text)?;
    match jid.node() {
        Some(_) => Ok(jid),
        None => Err("that is a host, but an account is wanted"),
    }
}

fn bare_jid(text: &str) -> Result<BareJid, &'static str> {
    read_bare_jid(text).ok_or("that is not a Jabber address")
}

/// RFC 6761 §6.3: `localhost` and all names below it are this machine.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}
