//! What is looked at from outside while the component is under attack: the same process, the same session, memory
//! within bounds, no panic in its log.

use std::fs;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::rookery::Rookery;

/// Resident memory of the process, in kilobytes. Requests in work may hold 128 MiB, what waits for the link and for
/// the disk has bounds of its own, and the store's caches come to that.
const MEMORY_KB: u64 = 768 * 1024;

pub struct Watch {
    pid: Option<u32>,
    attached: Vec<u16>,
    memory: u64,
    most_memory: u64,
    /// Bytes of the log that were looked at.
    read: usize,
    refused: f64,
    pub skipped: f64,
    pub broken: f64,
    bad_memory: bool,
}

impl Watch {
    pub async fn begin(rookery: &Rookery, attached: Vec<u16>) -> Watch {
        Watch {
            pid: rookery.pid(),
            attached,
            memory: 0,
            most_memory: 0,
            read: 0,
            refused: 0.0,
            skipped: 0.0,
            broken: 0.0,
            bad_memory: false,
        }
    }

    /// These connections stand to the server's component port from now on: one of the test's own is another.
    pub fn attached(&mut self, ports: Vec<u16>) {
        let common = ports.iter().filter(|port| self.attached.contains(port)).count();
        // Only one may have changed.
        if common + 1 >= self.attached.len() {
            self.attached = ports;
        }
    }

    pub fn line(&self) -> String {
        format!(
            "memory {} MB, at most {} MB; {} stanzas over a limit, {} broken",
            self.memory / 1024,
            self.most_memory / 1024,
            self.skipped,
            self.broken
        )
    }

    /// Everything that is not as it should be.
    pub async fn look(&mut self, rookery: &Rookery, attached: &[u16]) -> Vec<String> {
        let mut wrong = self.process(rookery).await;
        if attached != self.attached {
            wrong.push(format!("the component's connection is another: {:?}, now {attached:?}", self.attached));
            self.attached = attached.to_vec();
        }
        let Some(metrics) = metrics(rookery).await else {
            wrong.push("there are no metrics".to_owned());
            return wrong;
        };
        let figure = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or(-1.0)
        };
        if figure("rookery_link_sessions_total") != 1.0 || figure("rookery_link_lost_total") != 0.0 {
            wrong.push("the link was lost".to_owned());
        }
        let refused = figure("rookery_link_refused_total");
        if refused > self.refused {
            wrong.push(format!("{} stanzas of our own were stopped at the link", refused - self.refused));
            self.refused = refused;
        }
        self.skipped = figure("rookery_link_skipped_total");
        self.broken = figure("rookery_link_broken_total");
        wrong
    }

    /// What can be seen without its link.
    pub async fn process(&mut self, rookery: &Rookery) -> Vec<String> {
        let mut wrong = Vec::new();
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid.unwrap_or_default())).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        match resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()) {
            Some(kb) => self.memory = kb,
            None => wrong.push("the process is gone".to_owned()),
        }
        self.most_memory = self.most_memory.max(self.memory);
        if self.memory > MEMORY_KB && !self.bad_memory {
            self.bad_memory = true;
            wrong.push(format!("{} MB of memory", self.memory / 1024));
        }
        let log = rookery.log();
        let new = log.get(self.read..).unwrap_or_default();
        for line in new.lines().filter(|line| line.contains("panic") || line.contains(" ERROR ")) {
            wrong.push(format!("the log says: {line}"));
        }
        self.read = log.len();
        wrong
    }
}

/// The text of `/metrics`.
async fn metrics(rookery: &Rookery) -> Option<String> {
    let address = rookery.admin.strip_prefix("http://")?;
    let ask = async {
        let mut socket = TcpStream::connect(address).await.ok()?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    };
    timeout(Duration::from_secs(20), ask).await.ok().flatten()
}
