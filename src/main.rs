//! Arguments, configuration, and what they start; nothing else.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rookery::config::Config;
use rookery::control::{Command, Reply};
use rookery::{app, check};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An XMPP component that makes every Jabber account a citizen of the social web.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run the service; SIGTERM and SIGINT stop it in order.
    Run(File),
    /// Check the configuration, the store, the link to the XMPP server and the ports, and say what to do.
    Check(File),
    /// Accounts of this service.
    Account {
        #[command(flatten)]
        file: File,
        #[command(subcommand)]
        what: Account,
    },
}

#[derive(clap::Args)]
struct File {
    /// The configuration file.
    #[arg(long, short, global = true, env = "ROOKERY_CONFIG", default_value = "rookery.toml")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Account {
    /// All accounts, with their owners.
    List,
    /// Make an account for a Jabber address, whatever the rules of registration say.
    Add { name: String, owner: String },
    /// End an account; its name is not given again.
    Remove { name: String },
    /// The addresses of one account.
    Show { name: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (What::Run(file) | What::Check(file) | What::Account { file, .. }) = &arguments.what;
    let config = match Config::load(&file.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match arguments.what {
        What::Run(_) => {
            log();
            match app::run(config, stop()).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(%error, "rookery cannot run");
                    ExitCode::FAILURE
                }
            }
        }
        What::Check(_) => check::check(&config).await,
        What::Account { what, .. } => {
            let command = match what {
                Account::List => Command::AccountList,
                Account::Add { name, owner } => Command::AccountAdd { name, owner },
                Account::Remove { name } => Command::AccountRemove { name },
                Account::Show { name } => Command::AccountShow { name },
            };
            match app::command(&config, command).await {
                Ok(Reply::Done(lines)) => {
                    println!("{}", lines.join("\n"));
                    ExitCode::SUCCESS
                }
                Ok(Reply::Failed(words)) => {
                    eprintln!("{words}");
                    ExitCode::FAILURE
                }
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Log lines go to standard error; `RUST_LOG` chooses what. The engines' own notes are for who asks for them.
fn log() {
    let usual = "info,fjall=warn,lsm_tree=warn,sled=warn";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    format.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
}

/// Returns when the service is asked to stop.
async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    // The default of SIGHUP would end us without a drain.
    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: the configuration is read at the start only; restart rookery to apply changes");
            }
        });
    }
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
