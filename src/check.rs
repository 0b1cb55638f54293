//! `rookery check`: the file (already read), the store, the link, the addresses; each with what to do.

use std::process::ExitCode;

use crate::app;
use crate::base::clock::Clock;
use crate::base::progress::Progress;
use crate::config::{Backend, Config};
use crate::control::{Command, Reply};
use crate::http::listener;
use crate::xmpp::link;

/// Checks what is configured and prints a line for each thing; fails if one of them is wrong.
pub async fn check(config: &Config) -> ExitCode {
    println!("ok    configuration: {} at {}", config.component.jid, config.http.public_url);
    let good = match app::ask_running(config, &Command::Status, &Progress::silent()).await {
        Ok(Some(reply)) => running(&reply),
        Ok(None) => stopped(config).await,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            wrong("store", "its folder belongs to another user: run this as the user that runs the service")
        }
        Err(error) => wrong("service", &format!("its control socket does not answer: {error}")),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ok(what: &str, words: &str) -> bool {
    println!("ok    {what}: {words}");
    true
}

fn wrong(what: &str, words: &str) -> bool {
    println!("WRONG {what}: {words}");
    false
}

/// The running service holds the store and the link: it is asked.
fn running(reply: &Reply) -> bool {
    match reply {
        Reply::Done(lines) if lines.iter().any(|line| line == "connected") => {
            ok("service", "it runs, and is connected")
        }
        Reply::Done(lines) => wrong("service", &format!("it runs; {}", lines.join("; "))),
        Reply::Failed(words) | Reply::Progress(words) => wrong("service", words),
    }
}

async fn stopped(config: &Config) -> bool {
    let store = match config.store.backend {
        Backend::Memory => ok("store", "kept in memory: everything is lost at the end"),
        _ if config.store.path.as_ref().is_some_and(|path| !path.exists()) => {
            let path = config.store.path.clone().unwrap_or_default();
            ok(
                "store",
                &format!("will be made at {} by the first start: start as the user who is to own it", path.display()),
            )
        }
        _ => match app::open(config).await {
            Ok(store) => {
                let bytes = store.disk_bytes();
                let _ = tokio::task::spawn_blocking(move || store.close()).await;
                ok("store", &format!("opens, {bytes} bytes on the disk"))
            }
            Err(error) => wrong("store", &error.to_string()),
        },
    };
    let attached = match app::link_config(config) {
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
    println!("      not looked at: the public address; start rookery and open {}", config.http.public_url);
    store & attached & free
}
