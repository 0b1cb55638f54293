//! Our own binary as a child of a test: configured in a temporary folder, started, killed, drained, its log read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::servers::{HOST, SECRET, SOCIAL, Server};
use super::witness::Witness;
use super::{free_port, read, show_log, signal, until, web};

/// The public address that pages, feeds and ids carry; nothing listens there: a reverse proxy would.
pub const PUBLIC: &str = "https://social.montague.test";
/// The domain of the identities, `acct:alice@montague.test`.
pub const ACCT: &str = HOST;

pub struct Rookery {
    /// Where HTTP is served, `http://127.0.0.1:port`.
    pub http: String,
    /// Where `/readyz` and `/metrics` are.
    pub admin: String,
    dir: TempDir,
    child: Option<Child>,
    /// What starts the binary, if it is not started by itself: a program and its arguments.
    launcher: Vec<String>,
}

/// What a test may want to be different from the usual.
pub struct Settings {
    pub jid: String,
    pub server: String,
    pub secret: String,
    pub backend: String,
}

impl Settings {
    pub fn attached_to(server: &Server) -> Settings {
        Settings {
            jid: SOCIAL.to_owned(),
            server: server.component_address(),
            secret: SECRET.to_owned(),
            backend: std::env::var("ROOKERY_TEST_BACKEND").unwrap_or_else(|_| "fjall".to_owned()),
        }
    }
}

impl Rookery {
    /// Starts and waits until it is attached to the server and ready.
    pub async fn start(server: &Server) -> Rookery {
        let mut rookery = Rookery::begin(&Settings::attached_to(server));
        rookery.ready().await;
        rookery
    }

    /// The same behind a witness, who sees what the server has read.
    pub async fn start_behind(witness: &Witness, server: &Server) -> Rookery {
        let mut rookery =
            Rookery::begin(&Settings { server: witness.address.clone(), ..Settings::attached_to(server) });
        rookery.ready().await;
        rookery
    }

    /// Starts and does not wait: for tests in which it cannot become ready.
    pub fn begin(settings: &Settings) -> Rookery {
        let (listen, admin) = (free_port(), free_port());
        let dir = tempfile::Builder::new().prefix("rookery-").tempdir().expect("a temporary folder");
        let Settings { jid, server, secret, backend } = settings;
        let store = dir.path().join("store");
        let text = format!(
            r#"[component]
jid = "{jid}"
server = "{server}"
secret = "{secret}"
server_host = "{HOST}"
[http]
listen = "127.0.0.1:{listen}"
admin_listen = "127.0.0.1:{admin}"
public_url = "{PUBLIC}"
acct_domain = "{ACCT}"
[store]
backend = "{backend}"
path = "{}"
[accounts]
registration = "hosts"
auto_register_hosts = ["{HOST}"]
admins = ["admin@{HOST}"]
[pubsub]
create_nodes_hosts = ["{HOST}"]
[federation]
allow_private_addresses = true
"#,
            store.display()
        );
        let file = dir.path().join("rookery.toml");
        fs::write(&file, text).expect("a temporary folder can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("our own file");
        let mut rookery = Rookery {
            http: format!("http://127.0.0.1:{listen}"),
            admin: format!("http://127.0.0.1:{admin}"),
            dir,
            child: None,
            launcher: Vec::new(),
        };
        rookery.run();
        rookery
    }

    /// Waits for `/readyz`, which says that the component is attached and the store open.
    pub async fn ready(&mut self) {
        let url = format!("{}/readyz", self.admin);
        for _ in 0..600 {
            if web::get(&url).await.is_ok_and(|page| page.status == 200) {
                return;
            }
            if let Some(status) = self.ended() {
                panic!("rookery ended with {status} before it was ready");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("rookery is not ready after 30 s");
    }

    /// Ends it at once and without warning: `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same store and ports.
    pub async fn start_again(&mut self) {
        self.begin_again();
        self.ready().await;
    }

    /// The same, without waiting until it is ready.
    pub fn begin_again(&mut self) {
        self.kill();
        self.run();
    }

    /// Asks for an orderly end (SIGTERM) and waits for it.
    pub async fn drain(&mut self) -> Option<ExitStatus> {
        signal(self.child.as_ref()?, "TERM");
        let mut status = None;
        until(Duration::from_secs(30), || {
            status = self.ended();
            status.is_some()
        })
        .await;
        status
    }

    /// Holds the process still until [`Rookery::go_on`].
    pub fn pause(&self) {
        signal(self.child.as_ref().expect("rookery runs"), "STOP");
    }

    pub fn go_on(&self) {
        signal(self.child.as_ref().expect("rookery runs"), "CONT");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Everything it has logged, over all its starts.
    pub fn log(&self) -> String {
        read(&self.log_path())
    }

    /// Waits for a line of the log that has all `words` in it, in any case of letters, and gives it.
    pub async fn log_line(&self, words: &[&str]) -> String {
        let mut found = None;
        until(Duration::from_secs(20), || {
            let has = |line: &&str| words.iter().all(|word| line.to_lowercase().contains(&word.to_lowercase()));
            found = self.log().lines().find(has).map(str::to_owned);
            found.is_some()
        })
        .await;
        found.unwrap_or_else(|| panic!("no line of the log has the words {words:?}"))
    }

    /// GET of a path or of a public address, at the place where it is served in truth.
    pub async fn get(&self, address: &str) -> web::Page {
        let url = self.served(address);
        web::get(&url).await.unwrap_or_else(|error| panic!("GET {url}: {error}"))
    }

    /// The local URL of a path or of a public address.
    pub fn served(&self, address: &str) -> String {
        format!("{}{}", self.http, address.strip_prefix(PUBLIC).unwrap_or(address))
    }

    /// Runs another command of the binary with this configuration and gives its exit status and what it printed.
    pub fn command(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_rookery"))
            .args(arguments)
            .arg("--config")
            .arg(self.config_path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary can be run");
        let text = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&text).into_owned())
    }

    /// From the next start on the binary is started by `launcher`, which must become it (`exec`); empty: by itself.
    pub fn launch_by(&mut self, launcher: &[String]) {
        self.launcher = launcher.to_vec();
    }

    /// The folder of the store, the configuration and the log.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("rookery.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("rookery.log")
    }

    fn run(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log file");
        let errors = log.try_clone().expect("a file may be had twice");
        let binary = env!("CARGO_BIN_EXE_rookery");
        let mut command = match self.launcher.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        self.child = Some(child.expect("the binary can be run"));
    }
}

impl Drop for Rookery {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            show_log("rookery", &self.log_path());
        }
    }
}
