//! The backend on sled 0.34: one tree, made durable by our own syncs, large values in pieces.
//!
//! What sled does not do, and is done here:
//! * Its `flush` ends in `sync_file_range`, which reaches neither the disk's cache nor the file's metadata. After each
//!   flush the log file `db` is synced through a descriptor of ours: same inode, same pages.
//! * A log record over a quarter of a segment (128 KiB) goes to a file of its own in `blobs/`, which nobody syncs. A
//!   record is a whole leaf of up to 17 rows, so rows over [`PIECE`] bytes are cut into rows of that size: then no
//!   leaf gets there. Should one all the same, by very long keys, its file and the folder are synced like the log.
//! * It takes a snapshot that it was interrupted in writing for the newest one and finds the store corrupted. Such a file
//!   is removed before opening: the snapshot before it and the log still stand.
//! * A batch is visible to readers as soon as it is in memory. While one is on its way to the disk, the values it
//!   replaces are kept in `pending` and readers are shown those, so nobody waits for a sync and nobody sees what may
//!   still be lost.
//!
//! What cannot be done here: after a cut of power sled may take a torn last group for a whole one, and then not open, or
//! lack rows (`docs/decisions/store.md`). That is why it is not the default.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use sled::IVec;

use super::kv::{Kv, KvError, Read, Result, Row, Write, check_batch, io_error};

/// Values of more bytes are kept in pieces of this many. 17 of them and their keys stay well below 128 KiB.
const PIECE: usize = 4096;
/// Pages of the tree kept in memory.
const CACHE_BYTES: u64 = 64 << 20;

/// The first byte of a row: the value follows, or its length in bytes (u32) and its pieces elsewhere.
const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

pub struct SledKv {
    db: sled::Db,
    /// The log file, for `fdatasync`.
    log: File,
    blobs: Mutex<Blobs>,
    /// What the batch under way replaces: the state as it is durable. Empty when none is under way.
    pending: RwLock<BTreeMap<Vec<u8>, Option<Bytes>>>,
    /// Held by the one writer; true once a write or sync failed.
    stopped: Mutex<bool>,
}

impl SledKv {
    /// Opens the database in the folder `path`, or makes one there. The caller syncs the folder.
    pub fn open(path: &Path) -> Result<Self> {
        remove_unfinished_snapshots(path).map_err(io_error)?;
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().map_err(failure)?;
        let log = File::open(path.join("db")).map_err(io_error)?;
        let kv = SledKv {
            db,
            log,
            blobs: Mutex::new(Blobs { folder: path.join("blobs"), looked: None, synced: HashSet::new() }),
            pending: RwLock::default(),
            stopped: Mutex::new(false),
        };
        kv.sync()?;
        Ok(kv)
    }

    fn sync(&self) -> Result<()> {
        self.db.flush().map_err(failure)?;
        self.log.sync_data().map_err(io_error)?;
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).sync().map_err(io_error)
    }

    /// The value whose row is `row`. Called while nothing can change it: by the writer, or under `pending`'s lock.
    fn value(&self, key: &[u8], row: &IVec) -> Result<Bytes> {
        match row.split_first() {
            Some((&WHOLE, value)) => Ok(Bytes::copy_from_slice(value)),
            Some((&IN_PIECES, length)) => {
                let length = length_in(length).ok_or_else(damaged)?;
                let mut value = BytesMut::with_capacity(length);
                for number in 0..pieces(length) {
                    value.put_slice(&self.db.get(piece_key(key, number)).map_err(failure)?.ok_or_else(damaged)?);
                }
                if value.len() == length { Ok(value.freeze()) } else { Err(damaged()) }
            }
            _ => Err(damaged()),
        }
    }
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        if key.first() == Some(&0) {
            return Ok(None);
        }
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = pending.get(key) {
            return Ok(before.clone());
        }
        self.db.get(key).map_err(failure)?.map(|row| self.value(key, &row)).transpose()
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>> {
        // The pieces, under keys that begin with a zero byte, are nobody's business.
        let from = from.max([1].as_slice());
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        // Held to the end: the writer neither begins nor finishes meanwhile, so this is one state.
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        let mut rows = self.db.range::<&[u8], _>(from..to);
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(row) = (if reverse { rows.next_back() } else { rows.next() }) else { break };
            let (key, row) = row.map_err(failure)?;
            if !pending.contains_key(key.as_ref()) {
                let value = self.value(&key, &row)?;
                found.push((key.to_vec(), value));
            }
        }
        let before = pending.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let found_below = found.len();
        found.extend(before.filter_map(|(key, value)| Some((key.clone(), value.clone()?))));
        if found.len() > found_below {
            found.sort_unstable_by(|(a, _), (b, _)| if reverse { b.cmp(a) } else { a.cmp(b) });
            found.truncate(limit);
        }
        Ok(found)
    }

    fn apply(&self, batch: &[Write]) -> Result<()> {
        check_batch(batch)?;
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if *stopped {
            return Err(KvError::Stopped);
        }
        let mut rows = sled::Batch::default();
        let mut pending = BTreeMap::new();
        for (key, value) in batch {
            let old = self.db.get(key).map_err(failure)?;
            let mut stale = 0;
            if let Some(row) = &old
                && row.first() == Some(&IN_PIECES)
            {
                stale = pieces(length_in(&row[1..]).ok_or_else(damaged)?);
            }
            pending.insert(key.clone(), old.map(|row| self.value(key, &row)).transpose()?);
            let kept = match value {
                Some(value) => insert(&mut rows, key, value),
                None => {
                    rows.remove(key.as_slice());
                    0
                }
            };
            for number in kept..stale {
                rows.remove(piece_key(key, number));
            }
        }
        *self.pending.write().unwrap_or_else(PoisonError::into_inner) = pending;
        // From here to the end of the sync a failure, or a panic, leaves us without knowledge of the disk; `pending`
        // stays then, and with it the view of what was durable.
        *stopped = true;
        self.db.apply_batch(rows).map_err(failure)?;
        self.sync()?;
        *stopped = false;
        self.pending.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn moment(&self) -> Option<Box<dyn Read + '_>> {
        None
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

/// sled writes `snap.<lsn>.generating` and renames it when it is synced, but reads whatever begins with `snap.`.
fn remove_unfinished_snapshots(path: &Path) -> std::io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Puts a value's rows into the batch; gives the number of its pieces.
fn insert(rows: &mut sled::Batch, key: &[u8], value: &Bytes) -> usize {
    if value.len() <= PIECE {
        rows.insert(key, [&[WHOLE], value.as_ref()].concat());
        return 0;
    }
    rows.insert(key, [&[IN_PIECES], (value.len() as u32).to_be_bytes().as_slice()].concat());
    for (number, piece) in value.chunks(PIECE).enumerate() {
        rows.insert(piece_key(key, number), piece);
    }
    pieces(value.len())
}

fn pieces(length: usize) -> usize {
    if length <= PIECE { 0 } else { length.div_ceil(PIECE) }
}

fn length_in(bytes: &[u8]) -> Option<usize> {
    bytes.try_into().ok().map(|bytes| u32::from_be_bytes(bytes) as usize)
}

/// Zero, the length of the key, the key, the piece's number: no key of one value begins another's.
fn piece_key(key: &[u8], number: usize) -> Vec<u8> {
    [&[0], (key.len() as u16).to_be_bytes().as_slice(), key, (number as u32).to_be_bytes().as_slice()].concat()
}

fn damaged() -> KvError {
    KvError::Damaged("a value in pieces is not whole".into())
}

fn failure(e: sled::Error) -> KvError {
    match e {
        sled::Error::Io(e) => io_error(e),
        sled::Error::Corruption { .. } => KvError::Damaged(e.to_string()),
        e => KvError::Io(e.to_string()),
    }
}

/// The folder of sled's oversized records.
struct Blobs {
    folder: PathBuf,
    /// The folder's time of change when its files were last synced.
    looked: Option<SystemTime>,
    synced: HashSet<std::ffi::OsString>,
}

impl Blobs {
    /// Syncs the files that are new. A file there is written once, when it is made.
    fn sync(&mut self) -> std::io::Result<()> {
        let changed = match std::fs::metadata(&self.folder) {
            Ok(folder) => folder.modified()?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        // The clock of files ticks in milliseconds: a folder that changed just now may change again within the tick.
        let settled = changed.elapsed().is_ok_and(|age| age.as_millis() > 100);
        if self.looked == Some(changed) && settled {
            return Ok(());
        }
        let mut present = HashSet::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !self.synced.contains(&name) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_data()?,
                    // Removed meanwhile by sled: its content is in the log again, or deleted.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                }
            }
            present.insert(name);
        }
        if present != self.synced || self.looked != Some(changed) {
            File::open(&self.folder)?.sync_all()?;
        }
        self.synced = present;
        self.looked = Some(changed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, length: usize) -> Write {
        (key.as_bytes().to_vec(), Some(vec![b'v'; length].into()))
    }

    #[test]
    fn a_snapshot_that_was_not_finished_does_not_keep_the_store_shut() {
        let folder = tempfile::tempdir().unwrap();
        SledKv::open(folder.path()).unwrap().apply(&[put("a", 1)]).unwrap();
        for unfinished in ["", "garbage longer than the twelve bytes at its end"] {
            std::fs::write(folder.path().join("snap.00000FFFFFFFFFFF.generating"), unfinished).unwrap();
            let kv = SledKv::open(folder.path()).unwrap();
            assert!(kv.get(b"a").unwrap().is_some());
        }
    }

    #[test]
    fn large_values_make_no_files_beside_the_log_and_leave_no_pieces_behind() {
        let folder = tempfile::tempdir().unwrap();
        let kv = SledKv::open(folder.path()).unwrap();
        for round in 0..10 {
            let batch: Vec<Write> = (b'a'..=b'p').map(|k| put(&(k as char).to_string().repeat(900), 60_000)).collect();
            kv.apply(&batch).unwrap();
            kv.apply(&[put("a", 8192 - round), put("b", 200_000), put("c", 3)]).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path().join("blobs")).unwrap().count(), 0);
        let keys: Vec<Vec<u8>> = kv.range(&[1], &[255], 100, false).unwrap().into_iter().map(|(key, _)| key).collect();
        let gone: Vec<Write> = keys.into_iter().map(|key| (key, None)).collect();
        kv.apply(&gone).unwrap();
        assert_eq!(kv.db.iter().count(), 0, "rows of pieces stayed");
    }

    #[test]
    fn an_oversized_record_is_found_and_synced_where_it_is() {
        // Keys this long fill a leaf beyond a quarter of a segment whatever the values are.
        let folder = tempfile::tempdir().unwrap();
        let kv = SledKv::open(folder.path()).unwrap();
        let long = |k: u8| [vec![1 + k], vec![b'k'; 8000]].concat();
        let files = || std::fs::read_dir(folder.path().join("blobs")).unwrap().count();
        // When sled makes one depends on when it writes its segments.
        let mut n = 0u32;
        while n < 400 || files() == 0 {
            assert!(n < 20_000, "the case that is meant");
            kv.apply(&[(long((n * 37 % 101) as u8), Some(vec![1; 4000].into()))]).unwrap();
            n += 1;
        }
        let files = files();
        assert_eq!(kv.blobs.lock().unwrap().synced.len(), files);
        drop(kv);
        let kv = SledKv::open(folder.path()).unwrap();
        assert_eq!(kv.range(&[1], &[255], 200, false).unwrap().len(), 101);
    }

    #[test]
    fn after_a_failed_write_what_was_durable_is_read_and_nothing_more_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let kv = SledKv::open(folder.path()).unwrap();
        kv.apply(&[put("a", 5000), put("b", 1)]).unwrap();
        // The folder of oversized records turned into a file: reading it fails as a sync would.
        std::fs::remove_dir(folder.path().join("blobs")).unwrap();
        std::fs::write(folder.path().join("blobs"), "").unwrap();
        assert!(matches!(kv.apply(&[put("a", 7), (b"b".to_vec(), None), put("c", 1)]), Err(KvError::Io(_))));
        assert_eq!(kv.get(b"a").unwrap().map(|value| value.len()), Some(5000));
        assert_eq!(kv.range(b"a", b"z", 9, false).unwrap().len(), 2);
        std::fs::remove_file(folder.path().join("blobs")).unwrap();
        std::fs::create_dir(folder.path().join("blobs")).unwrap();
        assert!(matches!(kv.apply(&[put("c", 1)]), Err(KvError::Stopped)));
    }
}
