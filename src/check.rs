//! `rookery check`: the file (already read), its secrets, the store, the link, the addresses; each with what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::app;
use crate::base::clock::Clock;
use crate::base::progress::Progress;
use crate::config::{Backend, Config};
use crate::control::{Command, Reply};
use crate::http::client::{Client, Limits, Options, Overlong, Redirects, Request};
use crate::http::listener;
use crate::store::tables::{Audit, audit};
use crate::xmpp::link;

/// How long DNS and our own public address may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// XEP-0114 components are reached by other servers at this port, unless DNS says another (RFC 6120 §3.2.2).
const SERVER_PORT: u16 = 5269;

/// What is checked beside the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Also {
    /// Log in at the XMPP server, if the service does not run.
    pub attach: bool,
}

/// Checks what was read from `file` and prints a line for each thing; fails if one of them is wrong. Warnings are what
/// cannot be judged from here, or may be so on purpose.
pub async fn check(config: &Config, file: &Path, also: Also, progress: &Progress) -> ExitCode {
    ok("configuration", &format!("{} at {}", config.component.jid, config.http.public_url));
    let secret = secret(file);
    let asked = app::ask_running(config, &Command::Status, &Progress::silent()).await;
    let is_running = matches!(asked, Ok(Some(_)));
    let good = match asked {
        Ok(Some(reply)) => running(&reply),
        Ok(None) => stopped(config, also, progress).await,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            wrong("store", "its folder belongs to another user: run this as the user that runs the service")
        }
        Err(error) => wrong("service", &format!("its control socket does not answer: {error}")),
    };
    names(config, is_running).await;
    if secret & good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ok(what: &str, words: &str) -> bool {
    println!("ok    {what}: {words}");
    true
}

fn wrong(what: &str, words: &str) -> bool {
    println!("WRONG {what}: {words}");
    false
}

fn warn(what: &str, words: &str) {
    println!("warn  {what}: {words}");
}

/// A secret in the configuration's file is for its readers; one in a file of its own was looked at when it was read.
fn secret(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let has_secret = text
        .parse::<toml::Table>()
        .is_ok_and(|table| table.get("component").and_then(|component| component.get("secret")).is_some());
    let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode() & 0o7777);
    if has_secret && mode & 0o007 != 0 {
        let words = format!(
            "everybody on this machine can read component.secret in {} (mode {mode:04o}): run chmod o= {}, or use \
             secret_file",
            file.display(),
            file.display()
        );
        return wrong("secret", &words);
    }
    ok("secret", if has_secret { "only its owner and group read the file" } else { "not in the configuration's file" })
}

/// The running service holds the store and the link: it is asked.
fn running(reply: &Reply) -> bool {
    match reply {
        Reply::Done(lines) if lines.iter().any(|line| line == "connected") => {
            ok("service", "it runs, and is connected; the store's tables are checked when it does not run")
        }
        Reply::Done(lines) => wrong("service", &format!("it runs; {}", lines.join("; "))),
        Reply::Failed(words) | Reply::Progress(words) => wrong("service", words),
    }
}

async fn stopped(config: &Config, also: Also, progress: &Progress) -> bool {
    let store = store(config, progress).await;
    let attached = match app::link_config(config) {
        Ok(_) if !also.attach => {
            println!("      not looked at: the login at the XMPP server; --attach tries it");
            true
        }
        Ok(attach) => match link::check_login(&attach, &Clock::system()).await {
            Ok(()) => ok("component", "the XMPP server accepts the login"),
            Err(trouble) => wrong("component", &trouble.to_string()),
        },
        Err(error) => wrong("component", &error.to_string()),
    };
    let mut free = true;
    for (what, address) in [("http.listen", config.http.listen), ("http.admin_listen", config.http.admin_listen)] {
        free &= match listener::bind(address).await {
            Ok(_) => ok(what, &format!("{address} is free")),
            Err(error) => wrong(what, &error.to_string()),
        };
    }
    store & attached & free
}

async fn store(config: &Config, progress: &Progress) -> bool {
    let path = match &config.store.path {
        Some(path) if config.store.backend != Backend::Memory => path,
        _ => return ok("store", "kept in memory: everything is lost at the end"),
    };
    if !path.exists() {
        let words = "will be made at {} by the first start: start as the user who is to own it";
        return ok("store", &words.replace("{}", &path.display().to_string()));
    }
    let mode = std::fs::metadata(path).map_or(0o700, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        warn("store", &format!("others can enter {}: run chmod 700 {}", path.display(), path.display()));
    }
    let store = match app::open_as_owner(config).await {
        Ok(store) => store,
        Err(error) => return wrong("store", &error.to_string()),
    };
    let bytes = store.disk_bytes();
    let walk = progress.clone();
    let audited = store.read(move |r| audit(r, &walk)).await;
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    match audited {
        Ok(audit) => judge(&audit, bytes, path),
        Err(error) => wrong("store", &format!("it opens, but cannot be read to its end: {error}")),
    }
}

fn judge(audit: &Audit, bytes: u64, path: &Path) -> bool {
    if audit.findings.is_empty() {
        let Audit { rows, accounts, nodes, items, subscriptions, hub_subscriptions, deliveries, .. } = audit;
        let words = format!(
            "{rows} rows in {bytes} bytes, and they agree: {accounts} accounts, {nodes} nodes, {items} items, \
             {subscriptions} subscriptions over XMPP and {hub_subscriptions} over HTTP, {deliveries} deliveries under way"
        );
        return ok("store", &words);
    }
    for finding in &audit.findings {
        wrong("store", finding);
    }
    if audit.more > 0 {
        wrong("store", &format!("and {} more of that kind", audit.more));
    }
    println!(
        "      keep a copy of {} before anything else; rookery runs on it, but this is a fault to report",
        path.display()
    );
    false
}

/// Whether the world finds us by name, as far as that can be seen from here.
async fn names(config: &Config, is_running: bool) {
    let jid = config.component.jid.as_str();
    match resolve(jid, SERVER_PORT).await {
        Ok(addresses) => drop(ok("component.jid", &format!("{jid} has the address {addresses}"))),
        Err(error) => warn(
            "component.jid",
            &format!(
                "{jid} has no address from here ({error}): people at other XMPP servers reach it only if DNS has one, or \
                 an SRV record _xmpp-server._tcp.{jid}"
            ),
        ),
    }
    let url = &config.http.public_url;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    match resolve(host, port).await {
        Ok(addresses) => drop(ok("http.public_url", &format!("{host} has the address {addresses}"))),
        Err(error) => {
            return warn(
                "http.public_url",
                &format!("{host} has no address from here ({error}): other sites need one"),
            );
        }
    }
    if !is_running {
        println!("      not looked at: what {url} answers, since rookery does not run");
        return;
    }
    // Our own address may be private as seen from here.
    let client = Client::new(Options::new(url.clone(), true));
    let wanted = url.join(".well-known/host-meta");
    let (Ok(client), Ok(wanted)) = (client, wanted) else { return };
    let request = Request {
        redirects: Redirects::None,
        limits: Limits { body: 64 << 10, overlong: Overlong::Cut, total: PATIENCE },
        ..Request::get(wanted.clone())
    };
    match client.fetch(request).await {
        Ok(answer) if answer.status.is_success() => drop(ok("http.public_url", "it leads to rookery")),
        Ok(answer) => warn(
            "http.public_url",
            &format!(
                "{wanted} answers {}: does the web server pass requests on to {}?",
                answer.status.as_u16(),
                config.http.listen
            ),
        ),
        Err(error) => warn("http.public_url", &format!("{wanted} does not answer from here: {error}")),
    }
}

/// The first address of a name.
async fn resolve(host: &str, port: u16) -> Result<String, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(mut found)) => match found.next() {
            Some(address) => Ok(address.ip().to_string()),
            None => Err("the name is known, but has none".to_owned()),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("DNS does not answer".to_owned()),
    }
}
