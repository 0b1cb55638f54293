//! What a database must offer to keep our tables: ordered keys, ranges, and one atomic, durable batch.

use bytes::Bytes;

/// Why the database could not do what was asked. Always taken as temporary.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KvError {
    #[error("the disk is full: {0}")]
    Full(String),
    #[error("the store failed: {0}")]
    Io(String),
    /// What no store takes, however often it is tried.
    #[error("the store does not take this: {0}")]
    Unfit(String),
    /// A row that cannot be what we wrote.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Rows that this program is not made for.
    #[error("the store cannot be read: {0}")]
    Layout(String),
    /// A write failed before this one, and what of it reached the disk is not known. Nothing is written any more;
    /// what was durable before can still be read.
    #[error("the store stopped after a failed write: see the log and mend the cause; the next start goes on")]
    Stopped,
}

pub type Result<T> = std::result::Result<T, KvError>;

/// One row of a batch: a key, and its new value or `None` to delete it.
pub type Write = (Vec<u8>, Option<Bytes>);

/// A row as it is read.
pub type Row = (Vec<u8>, Bytes);

/// Keys have 1 to this many bytes, and the first of them is not zero.
pub const MAX_KEY: usize = 8 << 10;
/// Values have at most this many bytes: as many as a whole Change.
pub const MAX_VALUE: usize = super::tx::MAX_BYTES;

/// What can be read in key order: a database, or a decision's view of it.
pub trait Read {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// At most `limit` rows with `from <= key < to`, ascending, or descending if `reverse`.
    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>>;
}

/// An ordered map of byte strings on a disk, within [`MAX_KEY`] and [`MAX_VALUE`].
///
/// All methods block; callers on the executor go through [`super::Store::read`] or the committer.
pub trait Kv: Send + Sync + 'static {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// At most `limit` rows with `from <= key < to`, in ascending order of keys, or descending if `reverse`. All of them
    /// are of one moment: no batch is seen in part.
    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>>;

    /// Writes all of `batch` or nothing of it. Its keys ascend, each occurs once.
    ///
    /// Returns when **every file that holds the change is synced** (on a disk). Nothing of it is visible to `get`
    /// and `range` before that. After an error nothing of it is visible until the store is opened again; then too,
    /// unless the engine cannot know how far it came: such an engine refuses every later batch as
    /// [`KvError::Stopped`], so that nothing is built on what may be gone.
    fn apply(&self, batch: &[Write]) -> Result<()>;

    /// The state of one moment, for reads that belong together: where a batch that is being put into memory can be seen in
    /// part by one read beside another. `None`: every read sees it whole, and a later one sees no older state.
    fn moment(&self) -> Option<Box<dyn Read + '_>>;

    /// Errors: why a batch would not be taken just now, as [`KvError::Full`].
    fn takes_writes(&self) -> Result<()> {
        Ok(())
    }

    /// Bytes on the disk, for metrics; 0 where there is none.
    fn disk_bytes(&self) -> u64;
}

/// Refuses a batch that no backend takes.
pub(super) fn check_batch(batch: &[Write]) -> Result<()> {
    let refuse = |why: &str| Err(KvError::Unfit(format!("a batch with {why}")));
    if !batch.is_sorted_by(|(a, _), (b, _)| a < b) {
        return refuse("keys out of order");
    }
    for (key, value) in batch {
        check_key(key)?;
        if value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
            return refuse("a value that is too long");
        }
    }
    Ok(())
}

pub(super) fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > MAX_KEY || key.first().is_none_or(|first| *first == 0) {
        return Err(KvError::Unfit("a key that is empty, too long, or begins with a zero byte".into()));
    }
    Ok(())
}

pub(super) fn io_error(e: std::io::Error) -> KvError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match e.kind() {
        StorageFull | QuotaExceeded => KvError::Full(e.to_string()),
        _ => KvError::Io(e.to_string()),
    }
}
