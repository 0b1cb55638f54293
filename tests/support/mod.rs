//! What several test programs share: real servers, a real client, our own binary as a child, an HTTP peer.

// Each test program uses the part it needs.
#![allow(dead_code, unused_imports)]

#[path = "../../examples/client/mod.rs"]
pub mod client;
pub mod rookery;
pub mod servers;
pub mod web;
pub mod witness;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// A port of 127.0.0.1 that is free now; the kernel chooses it. Who uses it must be ready to find it taken.
pub fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    socket.local_addr().expect("a bound socket has an address").port()
}

/// Sends a signal (`TERM`, `STOP`, `CONT`) to one process that we started.
pub fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {} failed", child.id());
}

/// Looks again and again until `done`, for at most `patience`; says whether it came to that.
pub async fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Shows the end of a log on standard error: what a person needs who looks at a failed test.
pub fn show_log(name: &str, path: &Path) {
    let text = read(path);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
    eprintln!("--- the end of {name}'s log ({} lines in all) ---\n{}\n---", lines.len(), tail.join("\n"));
}

/// A file's text, empty if there is none; bytes that are no UTF-8 are shown as such.
pub fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The bytes of the largest file below a folder, as they are when it is written on.
pub fn largest_file(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => largest_file(&entry.path()),
        // fjall makes its journal of 64 MiB at once, and cuts it to what is written when it is opened again.
        Ok(data) if entry.path().extension().is_some_and(|ext| ext == "jnl") => data.blocks() * 512,
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.map(size).max().unwrap_or(0)
}
