//! The backend on fjall 3: one keyspace, each batch in its journal and synced before it is in memory.
//!
//! fjall writes a batch to the journal, syncs it (`PersistMode::SyncData` is an `fdatasync`) and only then puts it where
//! readers look: nothing is visible before it is durable. Tables, and the folder in which a new journal stands, it syncs
//! itself before an old journal goes. After a failed write or sync it refuses all further ones.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::kv::{Kv, KvError, Read, Result, Row, Write, check_batch, io_error};

/// Blocks of tables kept in memory.
const CACHE_BYTES: u64 = 16 << 20;
/// Rows collected in memory before they become a table. Up to four such may wait for the disk.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The size of a table; the first level has four times as much. With fjall's own 64 MiB the store of a million items took
/// 552 MiB instead of 305.
const TABLE_BYTES: u64 = 16 << 20;
/// Threads that write tables and merge them. Its first one merges nothing and passes such work on, again and again while no
/// other is free: with two of them it would spin for as long as the other merges.
const WORKERS: usize = 3;

pub struct FjallKv {
    db: Database,
    rows: Keyspace,
    /// The state after the last batch, for readers. A batch goes into memory row by row, and a snapshot that was opened
    /// meanwhile may see it in part: a flush or a merge that ends just then moves on what is visible.
    latest: RwLock<Arc<Snapshot>>,
}

impl FjallKv {
    /// Opens the database in the folder `path`, or makes one there.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Database::builder(path).cache_size(CACHE_BYTES).worker_threads(WORKERS).open().map_err(failure)?;
        // The index and the filter of a table in pieces that are read as they are needed, in the upper levels too: a whole one
        // is up to a megabyte, which a store of some hundred megabytes would push out of the cache and read again with
        // each publish.
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)))
                .index_block_partitioning_policy(PartitioningPolicy::all(true))
                .filter_block_partitioning_policy(PartitioningPolicy::all(true))
        };
        let rows = db.keyspace("rows", options).map_err(failure)?;
        let latest = RwLock::new(Arc::new(db.snapshot()));
        Ok(FjallKv { db, rows, latest })
    }

    fn at_once(&self) -> Moment<'_> {
        let snapshot = self.latest.read().unwrap_or_else(PoisonError::into_inner).clone();
        Moment { snapshot, rows: &self.rows }
    }
}

/// What readers see, until they are done.
struct Moment<'a> {
    snapshot: Arc<Snapshot>,
    rows: &'a Keyspace,
}

impl Read for Moment<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.snapshot.get(self.rows, key).map_err(failure)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let mut rows = self.snapshot.range(self.rows, from..to);
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(row) = (if reverse { rows.next_back() } else { rows.next() }) else { break };
            let (key, value) = row.into_inner().map_err(failure)?;
            found.push((key.to_vec(), Bytes::copy_from_slice(&value)));
        }
        Ok(found)
    }
}

impl Kv for FjallKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.get(key).map_err(failure)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>> {
        self.at_once().range(from, to, limit, reverse)
    }

    fn apply(&self, batch: &[Write]) -> Result<()> {
        check_batch(batch)?;
        let mut rows = self.db.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in batch {
            match value {
                Some(value) => rows.insert(&self.rows, key.as_slice(), value.as_ref()),
                None => rows.remove(&self.rows, key.as_slice()),
            }
        }
        rows.commit().map_err(failure)?;
        let after = Arc::new(self.db.snapshot());
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = after;
        Ok(())
    }

    fn moment(&self) -> Option<Box<dyn Read + '_>> {
        Some(Box::new(self.at_once()))
    }

    fn disk_bytes(&self) -> u64 {
        self.db.disk_space().unwrap_or(0)
    }
}

fn failure(e: fjall::Error) -> KvError {
    match e {
        fjall::Error::Io(e) => io_error(e),
        fjall::Error::Storage(fjall::LsmError::Io(e)) => io_error(e),
        fjall::Error::Storage(e) => KvError::Damaged(e.to_string()),
        fjall::Error::Poisoned => KvError::Stopped,
        e => KvError::Io(e.to_string()),
    }
}
