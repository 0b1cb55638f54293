//! What a long run measures: times in coarse classes, a process's memory and work, the size of a store, and tables.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Times, in classes that are 2 % wide: as many as come take the same room.
#[derive(Clone)]
pub struct Latencies {
    classes: Vec<u32>,
    pub count: usize,
}

/// The shortest time that is told apart, in milliseconds, and how many times 2 % there are to ten minutes.
const SHORTEST: f64 = 0.01;
const CLASSES: usize = 910;

impl Default for Latencies {
    fn default() -> Self {
        Latencies { classes: vec![0; CLASSES], count: 0 }
    }
}

impl Latencies {
    pub fn add(&mut self, time: Duration) {
        let ratio = time.as_secs_f64() * 1_000.0 / SHORTEST;
        let class = (ratio.max(1.0).ln() / 1.02_f64.ln()) as usize;
        self.classes[class.min(CLASSES - 1)] += 1;
        self.count += 1;
    }

    pub fn add_all(&mut self, other: &Latencies) {
        self.classes.iter_mut().zip(&other.classes).for_each(|(sum, more)| *sum += more);
        self.count += other.count;
    }

    /// The time within which `share` of all lie, in milliseconds.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = ((self.count as f64 * share).ceil() as usize).max(1);
        let mut seen = 0;
        let class = self.classes.iter().position(|count| {
            seen += *count as usize;
            seen >= wanted
        })?;
        Some(SHORTEST * 1.02_f64.powf(class as f64 + 0.5))
    }
}

/// A process at this moment.
pub struct Process {
    /// Resident, the part of it that is no file's, and the most that was ever resident, in KiB.
    pub resident: u64,
    pub anonymous: u64,
    pub peak: u64,
    /// CPU time since its start, in seconds.
    pub worked: f64,
}

impl Process {
    /// `None` if there is none of this number, or if it has only been begun.
    pub fn look(pid: u32) -> Option<Process> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything; user and system time are the 12th and 13th field behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        // Less than a MiB has only what is to become the program and is not yet.
        let resident = kib("VmRSS").filter(|kib| *kib > 1024)?;
        Some(Process {
            resident,
            anonymous: kib("RssAnon")?,
            peak: kib("VmHWM")?,
            worked: (ticks(11)? + ticks(12)?) / 100.0,
        })
    }
}

/// What a folder takes on the disk, in KiB.
pub fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => on_disk(&entry.path()),
        Ok(data) => data.blocks() / 2,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// The load of the machine in the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// A gauge of `/metrics`.
pub fn figure(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// A file of comma-separated values, whole after each row.
pub struct Table(fs::File);

impl Table {
    pub fn create(path: &Path, columns: &[&str]) -> Table {
        let mut table = Table(fs::File::create(path).expect("the folder can be written"));
        table.write(columns.join(","));
        table
    }

    /// A cell that is not known stays empty.
    pub fn row(&mut self, cells: &[Option<f64>]) {
        let cell = |cell: &Option<f64>| cell.map(|value| format!("{}", (value * 1_000.0).round() / 1_000.0));
        self.write(cells.iter().map(|value| cell(value).unwrap_or_default()).collect::<Vec<_>>().join(","));
    }

    fn write(&mut self, line: String) {
        writeln!(self.0, "{line}").expect("the disk has room for a line");
    }
}
