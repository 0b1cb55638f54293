//! Arguments, configuration, and what they start; nothing else.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rookery::app;
use rookery::app::Reload;
use rookery::base::progress::Progress;
use rookery::check::{self, Also};
use rookery::config::{Config, ConfigError, LogLevel};
use rookery::control::{Command, Reply, Selection};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

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
    /// Check the configuration, the store, the ports and the names, and say what to do; a service that runs is asked how
    /// it stands.
    Check {
        #[command(flatten)]
        file: File,
        /// Log in at the XMPP server as well, if the service does not run.
        #[arg(long)]
        attach: bool,
    },
    /// Accounts of this service.
    Account {
        #[command(flatten)]
        file: File,
        #[command(subcommand)]
        what: Account,
    },
    /// Write the whole store to a file that any engine can read again; rookery must not run.
    Export {
        #[command(flatten)]
        file: File,
        /// Where to; it must not be there yet. - is standard output.
        #[arg(value_name = "FILE")]
        to: PathBuf,
        /// Sealed keys and the secrets of subscribers as well: the file is then a secret itself.
        #[arg(long)]
        with_secrets: bool,
    },
    /// Read an export into the configured store, which must be empty.
    Import {
        #[command(flatten)]
        file: File,
        /// Where from; - is standard input.
        #[arg(value_name = "FILE")]
        from: PathBuf,
    },
    /// What waits to be delivered.
    Queue {
        #[command(flatten)]
        file: File,
        #[command(subcommand)]
        what: Queue,
    },
}

#[derive(clap::Args)]
struct File {
    /// The configuration file; without it rookery.toml in this folder, or else /etc/rookery/rookery.toml.
    #[arg(long, short, global = true, env = "ROOKERY_CONFIG")]
    config: Option<PathBuf>,
}

impl File {
    fn path(&self) -> PathBuf {
        let here = PathBuf::from("rookery.toml");
        let system = PathBuf::from("/etc/rookery/rookery.toml");
        self.config
            .clone()
            .unwrap_or_else(|| if here.exists() || !system.try_exists().unwrap_or(true) { here } else { system })
    }
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

#[derive(Subcommand)]
enum Queue {
    /// What waits, the longest due first; with a destination, how it has fared.
    Show {
        #[command(flatten)]
        what: Named,
        /// As lists name it (hub:12), or a callback, a Jabber address, a node.
        #[arg(long, value_name = "D", conflicts_with_all = ["host", "named"])]
        destination: Option<String>,
        /// So many at most.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// Where an earlier list ended.
        #[arg(long)]
        after: Option<String>,
    },
    /// Events that were put aside since they could not be planned: nobody was told of them.
    Parked {
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Try at once what waits, whatever failed before.
    Retry {
        #[command(flatten)]
        what: Named,
        /// Everything that waits.
        #[arg(long, conflicts_with_all = ["named", "host", "parked"])]
        all: bool,
        /// Every event that was put aside.
        #[arg(long, conflicts_with_all = ["named", "host"])]
        parked: bool,
    },
    /// Send nothing there until it is released; what comes meanwhile waits.
    Hold {
        #[command(flatten)]
        what: Named,
    },
    /// End a hold.
    Release {
        #[command(flatten)]
        what: Named,
        /// Everything that is held.
        #[arg(long, conflicts_with_all = ["named", "host"])]
        all: bool,
    },
    /// Never make the deliveries that wait there. Says how many, and asks for --yes.
    Drop {
        #[command(flatten)]
        what: Named,
        /// Every event that was put aside.
        #[arg(long, conflicts_with_all = ["named", "host"])]
        parked: bool,
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
struct Named {
    /// As lists name it (hub:12, event:7), or a callback, a Jabber address, a node.
    #[arg(value_name = "DESTINATION")]
    named: Option<String>,
    /// Every callback at this host, `reader.example` or `reader.example:8080`; held, also those to come.
    #[arg(long, value_name = "H", conflicts_with = "named")]
    host: Option<String>,
}

impl Named {
    /// What is meant, if anything was named.
    fn selection(self) -> Option<Selection> {
        self.named.map(Selection::Destination).or(self.host.map(Selection::Host))
    }
}

impl Queue {
    /// Errors: nothing was named.
    fn command(self) -> Result<Command, &'static str> {
        const WHICH: &str = "say which: a destination as `rookery queue show` lists it, or --host";
        let named = |what: Named| what.selection().ok_or(WHICH);
        let or = |yes: bool, all: Selection, what: Named| if yes { Ok(all) } else { what.selection().ok_or(WHICH) };
        Ok(match self {
            Queue::Show { what, destination, limit, after } => {
                let what = destination.map(Selection::Destination).or(what.selection()).unwrap_or(Selection::All);
                Command::QueueShow { what, limit, after }
            }
            Queue::Parked { limit } => Command::QueueParked { limit },
            Queue::Retry { what, parked: true, .. } => Command::QueueRetry { what: or(true, Selection::Parked, what)? },
            Queue::Retry { what, all, .. } => Command::QueueRetry { what: or(all, Selection::All, what)? },
            Queue::Hold { what } => Command::QueueHold { what: named(what)? },
            Queue::Release { what, all } => Command::QueueRelease { what: or(all, Selection::All, what)? },
            Queue::Drop { what, parked, yes } => Command::QueueDrop { what: or(parked, Selection::Parked, what)?, yes },
        })
    }
}

fn main() -> ExitCode {
    // Before there is a runtime, whose threads allocate.
    keep_pages_small();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let (What::Run(file)
    | What::Export { file, .. }
    | What::Import { file, .. }
    | What::Check { file, .. }
    | What::Account { file, .. }
    | What::Queue { file, .. }) = &arguments.what;
    let path = file.path();
    let config = match Config::load(&path) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match arguments.what {
        What::Run(_) => {
            let set_log_level = log(config.log.level);
            open_many_files();
            let reload = Reload { news: hangups(path), set_log_level };
            match app::run(config, reload, stop()).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(%error, "rookery cannot run");
                    ExitCode::FAILURE
                }
            }
        }
        What::Check { attach, .. } => check::check(&config, &path, Also { attach }, &progress()).await,
        What::Account { what, .. } => {
            let command = match what {
                Account::List => Command::AccountList,
                Account::Add { name, owner } => Command::AccountAdd { name, owner },
                Account::Remove { name } => Command::AccountRemove { name },
                Account::Show { name } => Command::AccountShow { name },
            };
            carry_out(&config, command).await
        }
        What::Queue { what, .. } => match what.command() {
            Ok(command) => carry_out(&config, command).await,
            Err(words) => {
                eprintln!("{words}");
                ExitCode::from(2)
            }
        },
        What::Export { to, with_secrets, .. } => {
            let done = app::transfer::export(&config, &to, with_secrets, &progress()).await;
            // What is for a person does not go where the rows go.
            said(done, to.as_os_str() == "-")
        }
        What::Import { from, .. } => said(app::transfer::import(&config, &from, &progress()).await, false),
    }
}

/// The kernel may back the allocator's memory with pages of 2 MiB, of which a little here and there is used: that made
/// twice as much memory of ours as we have, fresh and with 100,000 subscriptions, and nothing faster.
fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("the kernel goes on using huge pages ({error}); that costs memory and nothing else");
    }
}

/// A login shell allows 1,024 open files, and the public listener alone takes as many connections: without one the store
/// could not open its own. What the administrator allows at most is taken.
fn open_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < ENOUGH_FILES) {
        tracing::warn!(
            "only {} files may be open, which is too few when many connect at once: allow {ENOUGH_FILES} (ulimit -n; systemd: \
             LimitNOFILE=)",
            limit.maximum.unwrap_or_default()
        );
    }
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("no more files than usual may be opened ({error})");
    }
}

/// 1,088 connections at the listeners, some hundreds to callbacks, the link, the store's files.
const ENOUGH_FILES: u64 = 4096;

/// Prints what came of a command, on standard error if `aside`.
fn said(done: Result<Vec<String>, String>, aside: bool) -> ExitCode {
    match done {
        Ok(lines) if aside => eprintln!("{}", lines.join("\n")),
        Ok(lines) => println!("{}", lines.join("\n")),
        Err(words) => {
            eprintln!("{words}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Has a command carried out and prints what came of it.
async fn carry_out(config: &Config, command: Command) -> ExitCode {
    let done = match app::command(config, command, &progress()).await {
        Ok(Reply::Done(lines)) => Ok(lines),
        Ok(Reply::Failed(words) | Reply::Progress(words)) => Err(words),
        Err(error) => Err(error.to_string()),
    };
    said(done, false)
}

/// Progress goes to standard error, so that what is printed can be read by programs.
fn progress() -> Progress {
    Progress::new(|words| eprintln!("{words}"))
}

/// Log lines go to standard error; `RUST_LOG` chooses what, or else the configuration. The engines' own notes are for who
/// asks for them. Gives the way to set another level: it says whether that could be done.
fn log(level: LogLevel) -> Box<dyn Fn(LogLevel) -> bool + Send + Sync> {
    let chosen = EnvFilter::try_from_default_env();
    let fixed = chosen.is_ok();
    let (filter, handle) = reload::Layer::new(chosen.unwrap_or_else(|_| usual(level)));
    let format = tracing_subscriber::fmt::layer().with_target(false);
    let format = format.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(format).init();
    Box::new(move |level| !fixed && handle.reload(usual(level)).is_ok())
}

fn usual(level: LogLevel) -> EnvFilter {
    // What others in the process have to say is of little use to who wants to know more about us.
    let (ours, others) = (level.as_str(), level.min(LogLevel::Info).as_str());
    let engines = level.min(LogLevel::Warn).as_str();
    EnvFilter::new(format!("{others},rookery={ours},fjall={engines},lsm_tree={engines},sled={engines}"))
}

/// The configuration as it is read again at each SIGHUP.
fn hangups(path: PathBuf) -> mpsc::Receiver<Result<Config, ConfigError>> {
    let (news, reads) = mpsc::channel(1);
    // From here on SIGHUP does not end us; its default would, without a drain.
    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
        tokio::spawn(
            async move { while hangup.recv().await.is_some() && news.send(Config::load(&path)).await.is_ok() {} },
        );
    }
    reads
}

/// Returns when the service is asked to stop.
async fn stop() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
