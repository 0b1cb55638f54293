//! SIGHUP: the configuration is read again. What can change while the service runs does; the rest is named in the log.

use tokio::sync::mpsc;

use super::rules;
use crate::base::shutdown::{Phase, Shutdown};
use crate::config::{Config, ConfigError, Limits, LogLevel};
use crate::service::Service;
use crate::xmpp::Edge;

/// What comes from outside of the service: the file as it was read again, and the way to set the log's level.
pub struct Reload {
    pub news: mpsc::Receiver<Result<Config, ConfigError>>,
    /// Whether it could be set: the environment wins over the file.
    pub set_log_level: Box<dyn Fn(LogLevel) -> bool + Send + Sync>,
}

impl Reload {
    /// For who never changes their mind.
    pub fn never() -> Self {
        Reload { news: mpsc::channel(1).1, set_log_level: Box::new(|_| false) }
    }
}

/// Keys whose change takes effect at once; every other needs a restart.
pub const LIVE: &[&str] = &[
    "accounts.registration",
    "accounts.auto_register_hosts",
    "accounts.admins",
    "pubsub.create_nodes_hosts",
    "limits.max_payload_bytes",
    "limits.max_nodes",
    "limits.max_subscriptions",
    "limits.max_hub_requests",
    "limits.max_hub_requests_per_host",
    "limits.max_hub_subscriptions_per_feed",
    "limits.max_hub_subscriptions_per_host",
    "limits.trusted_hosts",
    "log.level",
];

/// Applies what is read again, until the service stops.
pub(super) async fn serve(mut running: Config, reload: Reload, service: Service, edge: Edge, shutdown: Shutdown) {
    let Reload { mut news, set_log_level } = reload;
    loop {
        let read = tokio::select! {
            read = news.recv() => read,
            () = shutdown.reached(Phase::Draining) => return,
        };
        match read {
            None => return,
            Some(Err(error)) => tracing::error!("SIGHUP: everything stays as it was, since {error}"),
            Some(Ok(new)) => running = apply(running, new, &service, &edge, &*set_log_level),
        }
    }
}

/// Makes `new` hold as far as that goes; what holds now.
fn apply(
    running: Config,
    new: Config,
    service: &Service,
    edge: &Edge,
    set_log_level: &(dyn Fn(LogLevel) -> bool + Send + Sync),
) -> Config {
    let (now, later) = sorted(running.differences(&new));
    // What would silence the words below comes after them.
    let quieter = new.log.level < running.log.level;
    let mut set = true;
    if !quieter {
        set = set_log_level(new.log.level);
    }
    match (now.is_empty(), later.is_empty()) {
        (true, true) => tracing::info!("SIGHUP: nothing has changed in the configuration"),
        _ => {
            if !now.is_empty() {
                tracing::info!("SIGHUP: from now on as the file says: {}", now.join(", "));
            }
            if !later.is_empty() {
                tracing::warn!("SIGHUP: changed in the file, but needs a restart of rookery: {}", later.join(", "));
            }
        }
    }
    if quieter {
        set = set_log_level(new.log.level);
    }
    if !set && now.contains(&"log.level") {
        tracing::warn!("SIGHUP: log.level has no effect while the environment variable RUST_LOG is set");
    }
    let (running, new) = match later.contains(&"limits.max_payload_bytes") {
        true => {
            let limits = Limits { max_payload_bytes: running.limits.max_payload_bytes, ..new.limits.clone() };
            (running, Config { limits, ..new })
        }
        false => (running, new),
    };
    service.set_rules(rules(&new));
    edge.trust(new.limits.trusted_hosts.clone());
    let limits = Limits { max_stanza_bytes: running.limits.max_stanza_bytes, ..new.limits };
    Config { accounts: new.accounts, pubsub: new.pubsub, log: new.log, limits, ..running }
}

/// What takes effect at once, and what needs a restart.
fn sorted(changed: Vec<&'static str>) -> (Vec<&'static str>, Vec<&'static str>) {
    // A payload must fit into a stanza, and the link keeps the old limit of those.
    let stanza = changed.contains(&"limits.max_stanza_bytes");
    changed.into_iter().partition(|key| LIVE.contains(key) && !(stanza && *key == "limits.max_payload_bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_payload_waits_for_the_larger_stanza_that_it_needs() {
        let both = sorted(vec!["limits.max_stanza_bytes", "limits.max_payload_bytes", "log.level"]);
        assert_eq!(both, (vec!["log.level"], vec!["limits.max_stanza_bytes", "limits.max_payload_bytes"]));
        assert_eq!(sorted(vec!["limits.max_payload_bytes"]), (vec!["limits.max_payload_bytes"], vec![]));
    }
}
