//! Opening a store by the name of its backend: the folder, the lock, and what the folder already holds.
//!
//! ```text
//! <path>/          0700, made if it is not there; so what stands in it needs no mode of its own
//! <path>/lock      held by an advisory lock while the store is open; holds the number of the process
//! <path>/backend   the name of the backend whose data this is
//! <path>/data/     the engine's files
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use super::fjall::FjallKv;
use super::kv::{self, Kv, KvError, Row, Write};
use super::memory::MemoryKv;
use super::sled::SledKv;

/// The databases that can hold a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    Sled,
    /// The default, on the evidence in `docs/decisions/store.md`.
    #[default]
    Fjall,
    /// Keeps nothing: for tests and trials.
    Memory,
}

impl Backend {
    pub const ALL: [Backend; 3] = [Backend::Sled, Backend::Fjall, Backend::Memory];

    /// Its name in the configuration and in the folder.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Sled => "sled",
            Backend::Fjall => "fjall",
            Backend::Memory => "memory",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }
}

/// Why a store could not be opened, in words for an administrator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `pid` is unknown if the other one is just starting.
    #[error(
        "another rookery ({}) holds the store at {}: stop it, or give this one a store.path of its own",
        pid.map_or("pid unknown".to_owned(), |pid| format!("pid {pid}")), path.display()
    )]
    Locked { pid: Option<u32>, path: PathBuf },
    #[error(
        "the store at {} was made by the backend {found:?}, not {wanted:?}: set store.backend = {found:?}, or move its \
         content with rookery export and rookery import", path.display()
    )]
    OtherBackend { found: String, wanted: &'static str, path: PathBuf },
    #[error("the folder of the store, {}, cannot be used: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the store at {} does not open: {source}", path.display())]
    Engine { path: PathBuf, source: KvError },
}

/// Opens the store at `path`, or makes one there, and starts its committer. `path` is not used by [`Backend::Memory`].
///
/// Blocks, for seconds where much has to be recovered. The lock is released when the last clone is dropped
/// and the committer has ended; [`Store::close`] waits for that.
pub fn open(backend: Backend, path: &Path) -> Result<Store, OpenError> {
    Store::open(open_kv(backend, path)?).map_err(|source| OpenError::Engine { path: path.to_owned(), source })
}

/// Opens only the database; the lock is released when it is dropped.
pub fn open_kv(backend: Backend, path: &Path) -> Result<Arc<dyn Kv>, OpenError> {
    if backend == Backend::Memory {
        return Ok(Arc::new(MemoryKv::default()));
    }
    let folder = |source| OpenError::Folder { path: path.to_owned(), source };
    let lock = lock(path)?;
    claim(backend, path)?;
    let data = path.join("data");
    if backend == Backend::Fjall && was_never_made(&data).map_err(folder)? {
        fs::remove_dir_all(&data).map_err(folder)?;
    }
    make_folder(&data).map_err(folder)?;
    let engine = |source| OpenError::Engine { path: path.to_owned(), source };
    let kv: Arc<dyn Kv> = match backend {
        Backend::Fjall => Arc::new(OnDisk::new(FjallKv::open(&data).map_err(engine)?, data.clone(), lock)),
        _ => Arc::new(OnDisk::new(SledKv::open(&data).map_err(engine)?, data.clone(), lock)),
    };
    // What the engine made while it opened: from here on each batch syncs what it touches.
    sync_tree(&data).map_err(folder)?;
    Ok(kv)
}

/// Bytes of fjall's marker, which it writes in two writes.
const MARKER: u64 = 4;

/// Whether fjall was ended while it made its first files: it would take them neither for a database nor for none. Its
/// marker comes after its journal and before anything that can hold a row.
fn was_never_made(data: &Path) -> io::Result<bool> {
    let length = |file: &str| match fs::metadata(data.join(file)) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    if length("0.jnl")?.is_none() || length("version")?.is_some_and(|bytes| bytes >= MARKER) {
        return Ok(false);
    }
    match fs::read_dir(data.join("keyspaces")) {
        Ok(mut inside) => Ok(inside.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let folder = |source| OpenError::Folder { path: path.to_owned(), source };
    make_folder(path).map_err(folder)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path.join("lock")).map_err(folder)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(20).read_to_string(&mut pid);
            return Err(OpenError::Locked { pid: pid.trim().parse().ok(), path: path.to_owned() });
        }
        Err(TryLockError::Error(e)) => return Err(folder(e)),
    }
    let pid = std::process::id();
    file.set_len(0).and_then(|()| writeln!(file, "{pid}")).and_then(|()| file.sync_all()).map_err(folder)?;
    Ok(file)
}

/// Checks that the folder holds this backend's data, or nothing, and writes down whose it is before there is any.
fn claim(backend: Backend, path: &Path) -> Result<(), OpenError> {
    let folder = |source| OpenError::Folder { path: path.to_owned(), source };
    let file = path.join("backend");
    match fs::read_to_string(&file) {
        Ok(found) if found.trim() == backend.name() => return Ok(()),
        Ok(found) => {
            let (found, wanted) = (found.trim().to_owned(), backend.name());
            return Err(OpenError::OtherBackend { found, wanted, path: path.to_owned() });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(folder(e)),
    }
    if path.join("data").exists() {
        let why = "it has data, but the file \"backend\" that says whose is missing";
        return Err(folder(io::Error::other(why)));
    }
    let write = || {
        let new = path.join("backend.new");
        let mut options = OpenOptions::new();
        let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(out, "{}", backend.name())?;
        out.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(path)?.sync_all()
    };
    write().map_err(folder)
}

/// Makes a folder that is ours alone, and syncs the one it stands in. One that exists is left as it is.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Syncs every file and folder under `path`.
fn sync_tree(path: &Path) -> io::Result<()> {
    walk(path, &mut |entry, _| match File::open(entry) {
        Ok(file) => file.sync_all(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    })
}

fn walk(path: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // An engine removes files at any time.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), visit)?;
        }
    }
    visit(path, &metadata)
}

/// An engine with what every one on a disk needs: the lock, and a disk that is never quite full.
struct OnDisk<K> {
    // Dropped before the lock: the engine closes its files first.
    kv: K,
    data: PathBuf,
    room: fn(&Path) -> io::Result<u64>,
    _lock: File,
}

/// Kept free on the disk. No engine goes on after a write that failed half way: it is refused before, and works again
/// as soon as there is room. An engine needs some beyond the batch, for compaction and for what it makes ahead.
const RESERVE_BYTES: u64 = 64 << 20;

impl<K: Kv> OnDisk<K> {
    fn new(kv: K, data: PathBuf, lock: File) -> Self {
        OnDisk { kv, data, room, _lock: lock }
    }
}

impl<K: Kv> Kv for OnDisk<K> {
    fn get(&self, key: &[u8]) -> kv::Result<Option<Bytes>> {
        self.kv.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> kv::Result<Vec<Row>> {
        self.kv.range(from, to, limit, reverse)
    }

    fn apply(&self, batch: &[Write]) -> kv::Result<()> {
        self.takes_writes()?;
        self.kv.apply(batch)
    }

    fn takes_writes(&self) -> kv::Result<()> {
        let room = (self.room)(&self.data).map_err(kv::io_error)?;
        if room < RESERVE_BYTES {
            return Err(KvError::Full(format!(
                "{} MiB are free at {}, {} MiB are kept in reserve",
                room >> 20,
                self.data.display(),
                RESERVE_BYTES >> 20
            )));
        }
        self.kv.takes_writes()
    }

    fn moment(&self) -> Option<Box<dyn kv::Read + '_>> {
        self.kv.moment()
    }

    fn disk_bytes(&self) -> u64 {
        let mut blocks = 0;
        let counted = walk(&self.data, &mut |_, metadata| {
            blocks += metadata.blocks();
            Ok(())
        });
        counted.map_or(0, |()| blocks * 512)
    }
}

/// Bytes that we may still write at `path`.
fn room(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u8) -> Vec<Write> {
        vec![(vec![b'k', n], Some(Bytes::from_static(b"v")))]
    }

    #[test]
    fn a_second_opening_is_refused_with_the_number_of_the_first_process() {
        for backend in [Backend::Sled, Backend::Fjall] {
            let folder = tempfile::tempdir().unwrap();
            let first = open_kv(backend, folder.path()).unwrap();
            let words = open_kv(backend, folder.path()).err().unwrap().to_string();
            assert!(
                words.contains(&format!("another rookery (pid {}) holds the store", std::process::id())),
                "{words}"
            );
            drop(first);
            open_kv(backend, folder.path()).unwrap();
        }
    }

    #[test]
    fn a_folder_of_another_backend_is_refused_in_words_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        open_kv(Backend::Sled, folder.path()).unwrap().apply(&row(1)).unwrap();
        let words = open_kv(Backend::Fjall, folder.path()).err().unwrap().to_string();
        assert!(words.contains("made by the backend \"sled\", not \"fjall\""), "{words}");
        assert!(open_kv(Backend::Sled, folder.path()).unwrap().get(b"k\x01").unwrap().is_some());
    }

    #[test]
    fn data_without_a_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open_kv(Backend::Fjall, folder.path()).unwrap());
        fs::remove_file(folder.path().join("backend")).unwrap();
        let words = open_kv(Backend::Fjall, folder.path()).err().unwrap().to_string();
        assert!(words.contains("\"backend\" that says whose is missing"), "{words}");
    }

    #[test]
    fn the_folder_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("var/rookery");
        drop(open_kv(Backend::Sled, &path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("data")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("lock")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let words = open_kv(Backend::Sled, &path).err().unwrap().to_string();
        assert!(words.contains(&path.display().to_string()), "{words}");
    }

    #[test]
    fn a_first_start_that_was_broken_off_anywhere_is_begun_anew_and_nothing_else_is() {
        for broken in [&["0.jnl"][..], &["0.jnl", "version"], &["0.jnl", "keyspaces/"]] {
            let folder = tempfile::tempdir().unwrap();
            drop(open_kv(Backend::Fjall, folder.path()).unwrap());
            let data = folder.path().join("data");
            fs::remove_dir_all(&data).unwrap();
            fs::create_dir(&data).unwrap();
            for file in broken {
                match file.strip_suffix('/') {
                    Some(inside) => fs::create_dir(data.join(inside)).unwrap(),
                    None => fs::write(data.join(file), "FJL").unwrap(),
                }
            }
            let kv = open_kv(Backend::Fjall, folder.path()).unwrap();
            kv.apply(&row(1)).unwrap();
            drop(kv);
            // What has a row stays, whatever it lacks.
            fs::write(data.join("version"), "").unwrap();
            assert!(open_kv(Backend::Fjall, folder.path()).is_err());
            assert!(data.join("keyspaces").exists());
        }
    }

    #[test]
    fn a_full_disk_refuses_writes_before_the_engine_is_harmed_and_takes_them_again_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock(folder.path()).unwrap();
        let engine = SledKv::open(&folder.path().join("data")).unwrap();
        let mut kv = OnDisk::new(engine, folder.path().join("data"), lock);
        kv.apply(&row(1)).unwrap();
        kv.room = |_| Ok(RESERVE_BYTES - 1);
        assert!(matches!(kv.apply(&row(2)), Err(KvError::Full(_))));
        assert!(matches!(kv.takes_writes(), Err(KvError::Full(_))));
        assert!(kv.get(b"k\x01").unwrap().is_some());
        assert!(kv.get(b"k\x02").unwrap().is_none());
        kv.room = room;
        assert!(kv.takes_writes().is_ok());
        kv.apply(&row(2)).unwrap();
        assert!(kv.disk_bytes() > 0);
    }
}
