//! Debian's Prosody and ejabberd as children of a test: on the loopback, on free ports, in a folder of their own.
//! They can be killed and started again on the same data and ports, and end with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::client::{Client, Failure};
use super::{free_port, read, show_log, until};

/// The domain of the users. With a dot in it: some clients refuse a domain without one.
pub const HOST: &str = "montague.test";
/// The component under test.
pub const SOCIAL: &str = "social.montague.test";
/// A second component, played by the test: a crowd of subscribers.
pub const CROWD: &str = "crowd.montague.test";
pub const SECRET: &str = "wherefore";
pub const USERS: [&str; 5] = ["alice", "juliet", "romeo", "nurse", "admin"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Prosody,
    Ejabberd,
}

pub struct Server {
    pub kind: Kind,
    pub c2s: u16,
    pub component: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl Kind {
    /// Starts the server; `None`, said in words, where it is not installed. `ROOKERY_REQUIRE_SERVERS` makes that a failure.
    pub async fn start(self) -> Option<Server> {
        if !self.installed() {
            let missing = format!("{self:?} is not installed (Debian: apt-get install {})", self.package());
            assert!(std::env::var_os("ROOKERY_REQUIRE_SERVERS").is_none_or(|v| v.is_empty()), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        }
        // Between our asking for a free port and the server's taking it another process may be quicker.
        for _ in 0..5 {
            let mut server = Server {
                kind: self,
                c2s: free_port(),
                component: free_port(),
                dir: tempfile::Builder::new().prefix("rookery-").tempdir().expect("a temporary folder"),
                child: None,
            };
            server.configure();
            if server.run().await {
                return Some(server);
            }
            show_log(&format!("{self:?}"), &server.log_path());
            show_log(&format!("{self:?} (output)"), &server.output_path());
        }
        panic!("{self:?} did not start");
    }

    fn package(self) -> &'static str {
        match self {
            Kind::Prosody => "prosody",
            Kind::Ejabberd => "ejabberd",
        }
    }

    /// Each insists on the ending of its own language.
    fn config_name(self) -> &'static str {
        match self {
            Kind::Prosody => "server.cfg.lua",
            Kind::Ejabberd => "server.yml",
        }
    }

    fn installed(self) -> bool {
        match self {
            Kind::Prosody => Path::new("/usr/bin/prosody").exists(),
            Kind::Ejabberd => ejabberd_libraries().is_some() && Path::new("/usr/bin/erl").exists(),
        }
    }
}

impl Server {
    pub fn c2s_address(&self) -> String {
        format!("127.0.0.1:{}", self.c2s)
    }

    pub fn component_address(&self) -> String {
        format!("127.0.0.1:{}", self.component)
    }

    /// A session of one of [`USERS`], with initial presence sent.
    pub async fn login(&self, user: &str) -> Client {
        self.login_as(user, "test").await
    }

    pub async fn login_as(&self, user: &str, resource: &str) -> Client {
        let mut client = Client::login(&self.c2s_address(), &format!("{user}@{HOST}"), &password(user), resource)
            .await
            .unwrap_or_else(|failure| panic!("{user} cannot log in at {:?}: {failure}", self.kind));
        client.available().await.expect("presence is sent");
        client
    }

    /// Attaches the crowd as soon as the server lets it in.
    pub async fn crowd(&self) -> Client {
        let mut last = String::new();
        for _ in 0..2_000 {
            match Client::attach(&self.component_address(), CROWD, SECRET).await {
                Ok(client) => return client,
                Err(failure) => last = failure.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{CROWD} cannot attach to {:?}: {last}", self.kind);
    }

    /// Ends the server at once, as `kill -9` or a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with the same data on the same ports.
    pub async fn start_again(&mut self) {
        self.kill();
        for _ in 0..20 {
            if self.run().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{:?} did not start again", self.kind);
    }

    /// The local ports of the connections that stand to the component port now: who reconnects gets another.
    pub fn attached(&self) -> Vec<u16> {
        let wanted = format!("0100007F:{:04X}", self.component);
        let mut ports: Vec<u16> = read(Path::new("/proc/net/tcp"))
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace().skip(1);
                let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
                // State 01 is ESTABLISHED (proc(5)).
                let port = local.split_once(':')?.1;
                (remote == wanted && state == "01").then(|| u16::from_str_radix(port, 16).ok()).flatten()
            })
            .collect();
        ports.sort_unstable();
        ports
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    fn output_path(&self) -> PathBuf {
        self.dir.path().join("output.log")
    }

    fn configure(&self) {
        let dir = self.dir.path();
        let text = match self.kind {
            Kind::Prosody => {
                let snippet = include_str!("../../config/prosody.cfg.lua");
                let components = [SOCIAL, CROWD].map(|name| fill_snippet(snippet, name, self.component)).join("\n");
                include_str!("../../scripts/lib/prosody.cfg.lua.in").replace("@COMPONENTS@", &components)
            }
            Kind::Ejabberd => {
                let snippet = include_str!("../../config/ejabberd.yml");
                let listener = snippet.split_once("listen:\n").map(|(_, listener)| listener).unwrap_or_default();
                let listener = fill_snippet(listener, SOCIAL, self.component);
                let crowd = format!("      \"{CROWD}\":\n        password: \"{SECRET}\"\n");
                let components = format!("{listener}{crowd}");
                include_str!("../../scripts/lib/ejabberd.yml.in").replace("@COMPONENTS@", &components)
            }
        };
        let text = text
            .replace("@DIR@", &dir.to_string_lossy())
            .replace("@HOST@", HOST)
            .replace("@C2S@", &self.c2s.to_string())
            .replace("@COMPONENT@", &self.component.to_string());
        write(&dir.join(self.kind.config_name()), &text);
        if self.kind == Kind::Prosody {
            for user in USERS {
                // What `prosodyctl register` would write (storage "internal", authentication "internal_plain").
                let account = format!("return {{ [\"password\"] = \"{}\"; }};\n", password(user));
                write(&dir.join("data/montague%2etest/accounts").join(format!("{user}.dat")), &account);
            }
        }
    }

    /// Starts the process and waits until it serves clients and components; false if it ended or cannot have its ports.
    async fn run(&mut self) -> bool {
        let (log, output_path) = (self.log_path(), self.output_path());
        let _ = fs::remove_file(&log);
        let mut command = match self.kind {
            Kind::Prosody => self.prosody(),
            Kind::Ejabberd => self.ejabberd(),
        };
        let output = fs::File::create(&output_path).expect("a file for the server's output");
        let errors = output.try_clone().expect("a file may be had twice");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{:?} cannot be started: {error}", self.kind)));

        let (c2s, component) = (self.c2s, self.component);
        let mut ended = false;
        let ready = until(Duration::from_secs(60), || {
            ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            let log = read(&log);
            ended = ended || log.contains("Failed to open") || log.contains("in use");
            ended || self.kind.serves(&log, &read(&output_path), c2s, component)
        })
        .await;
        if !ready || ended {
            self.kill();
        }
        ready && !ended
    }

    fn prosody(&self) -> Command {
        let mut command = Command::new("/usr/bin/prosody");
        command.arg("-F").arg("--config").arg(self.dir.path().join(self.kind.config_name()));
        command
    }

    /// Erlang without `ejabberdctl`, `epmd` and a node name, so that several can run on one machine.
    fn ejabberd(&self) -> Command {
        let dir = self.dir.path();
        let register: String = USERS
            .iter()
            .map(|user| {
                format!("ejabberd_auth:try_register(<<\"{user}\">>,<<\"{HOST}\">>,<<\"{}\">>),", password(user))
            })
            .collect();
        let mut command = Command::new("/usr/bin/erl");
        command
            .current_dir(dir)
            .env("ERL_LIBS", ejabberd_libraries().unwrap_or_default())
            .env("EJABBERD_CONFIG_PATH", dir.join(self.kind.config_name()))
            .env("EJABBERD_LOG_PATH", self.log_path())
            .env("SPOOL_DIR", dir.join("spool"))
            .env("HOME", dir)
            .env("ERL_CRASH_DUMP", "/dev/null")
            .args(["-noinput", "-mnesia", "dir"])
            .arg(format!("\"{}\"", dir.join("spool").display()))
            .args(["-ejabberd", "quiet", "true", "-s", "ejabberd", "-eval"])
            .arg(format!("{register}io:format(\"accounts are there~n\")."));
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            show_log(&format!("{:?}", self.kind), &self.log_path());
        }
    }
}

impl Kind {
    /// Whether the log says that both doors are open.
    fn serves(self, log: &str, output: &str, c2s: u16, component: u16) -> bool {
        match self {
            Kind::Prosody => {
                let open = |service: &str, port: u16| {
                    log.lines().any(|line| {
                        line.contains(&format!("Activated service '{service}'"))
                            && line.contains(&format!("[127.0.0.1]:{port}"))
                    })
                };
                open("c2s", c2s) && open("component", component)
            }
            Kind::Ejabberd => {
                let open = |port: u16| log.contains(&format!("Start accepting TCP connections at 127.0.0.1:{port} "));
                open(c2s) && open(component) && output.contains("accounts are there")
            }
        }
    }
}

/// The virtual JID that belongs to a user's account: `alice@social.montague.test`.
pub fn at_social(user: &str) -> String {
    format!("{user}@{SOCIAL}")
}

pub fn password(user: &str) -> String {
    format!("{user}-pw")
}

fn fill_snippet(snippet: &str, name: &str, port: u16) -> String {
    snippet.replace("social.example.org", name).replace("change-me", SECRET).replace("5347", &port.to_string())
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("a file stands in a folder");
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).expect("a temporary folder can be written");
}

/// The folder that has Debian's ejabberd among its libraries.
fn ejabberd_libraries() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(|folder| Some(folder.ok()?.path()));
    folders.filter(|folder| folder.is_dir()).find(|folder| {
        let mut inside = fs::read_dir(folder).into_iter().flatten().filter_map(|library| library.ok());
        inside.any(|library| library.file_name().to_string_lossy().starts_with("ejabberd-"))
    })
}
