//! What a machine does to a process: a disk that is full, a file that grows no more, a clock that jumps. Nothing of it
//! is known to the binary: it comes by the file system, by a resource limit, by Debian's libfaketime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::largest_file;
use crate::support::rookery::Rookery;

/// A small file system under a store. It needs the right to mount; without it there is none.
pub struct SmallDisk {
    at: PathBuf,
}

/// The component keeps 64 MiB free; so much more there is for it.
const SIZE_MIB: u64 = 64 + 320;

impl SmallDisk {
    /// Puts an empty one under the store of a component that does not run.
    pub fn under(rookery: &Rookery) -> Option<SmallDisk> {
        let at = rookery.folder().join("store");
        // It may have been killed before it made one.
        let _ = fs::remove_dir_all(&at);
        fs::create_dir(&at).expect("the folder is ours");
        let size = format!("size={SIZE_MIB}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "rookery-faults"]).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk { at })
    }

    /// Leaves only so many bytes free, or, with 0, frees all again.
    pub fn fill(&self, leave: u64) {
        let ballast = self.at.join("ballast");
        let _ = fs::remove_file(&ballast);
        // The component writes meanwhile: what was free a moment ago may be so no more.
        for _ in 0..20 {
            let free = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(&self.at).output().expect("there is stat");
            let text = String::from_utf8_lossy(&free.stdout).into_owned();
            let free: u64 = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).product();
            let size = free.saturating_sub(leave).to_string();
            let filled = || Command::new("fallocate").args(["-l", &size]).arg(&ballast).stderr(Stdio::null()).status();
            if leave == 0 || size == "0" || filled().is_ok_and(|status| status.success()) {
                return;
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Lets no file of the next start grow by more than `bytes` beyond the largest in the store: a write fails half way.
pub fn launch_with_short_files(rookery: &mut Rookery, bytes: u64, clock: Option<&FakeClock>) {
    let largest = largest_file(&rookery.folder().join("store/data")) + bytes;
    let limit = format!("--fsize={largest}");
    let mut words = clock.map(FakeClock::words).unwrap_or_default();
    // Who is not told by a signal is told by an error.
    words.extend(["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh", "prlimit", &limit].map(str::to_owned));
    rookery.launch_by(&words);
}

/// When everybody goes by a clock that jumped: its file is read again when two more seconds have begun, not one.
pub const NOTICED: Duration = Duration::from_millis(2_100);

/// A wall clock that the test moves. The monotonic clock goes on as it is.
pub struct FakeClock {
    file: PathBuf,
    library: PathBuf,
    offset: i64,
    /// The furthest it was ahead.
    furthest: i64,
}

/// Two days: a delivery is given up when it is seven days old.
const MOST: i64 = 2 * 24 * 3600;

impl FakeClock {
    /// `None` where libfaketime is not installed (Debian: `faketime`).
    pub fn beside(rookery: &Rookery) -> Option<FakeClock> {
        let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|arch| format!("/usr/lib/{arch}/faketime"));
        let mut libraries = libraries.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
        let library = libraries.find(|library| library.exists())?;
        let clock = FakeClock { file: rookery.folder().join("clock"), library, offset: 0, furthest: 0 };
        clock.write();
        Some(clock)
    }

    /// Lets the next starts go by it.
    pub fn give(&self, rookery: &mut Rookery) {
        rookery.launch_by(&self.words());
    }

    fn words(&self) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "FAKETIME_DISABLE_SHM=1".to_owned(),
        ]
    }

    /// So many seconds onward or back, noticed within [`NOTICED`].
    pub fn jump(&mut self, seconds: i64) {
        self.offset = (self.offset + seconds).clamp(-MOST, MOST);
        self.furthest = self.furthest.max(self.offset);
        self.write();
    }

    /// So many seconds onward from the furthest that it ever was.
    pub fn jump_ahead(&mut self, seconds: i64) {
        self.offset = self.furthest + seconds;
        self.write();
    }

    fn write(&self) {
        // Moved into place: a clock that is read half written would be another fault.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}\n", self.offset))
            .and_then(|()| fs::rename(&new, &self.file))
            .expect("it is ours");
    }
}
