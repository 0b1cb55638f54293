//! What a database must offer to keep our tables: ordered keys, ranges, and one atomic, durable batch.

use bytes::Bytes;

/// Why the database could not do what was asked. Always taken as temporary: nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KvError {
    #[error("the disk is full: {0}")]
    Full(String),
    #[error("the store failed: {0}")]
    Io(String),
    /// A row that cannot be what we wrote.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

pub type Result<T> = std::result::Result<T, KvError>;

/// One row of a batch: a key, and its new value or `None` to delete it.
pub type Write = (Vec<u8>, Option<Bytes>);

/// A row as it is read.
pub type Row = (Vec<u8>, Bytes);

/// An ordered map of byte strings on a disk. Keys have 1 byte to 8 KiB, values at most 1 MiB.
///
/// All methods block; callers on the executor go through [`super::Store::read`] or the committer.
pub trait Kv: Send + Sync + 'static {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// At most `limit` rows with `from <= key < to`, in ascending order of keys, or descending if `reverse`.
    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>>;

    /// Writes all of `batch` or nothing of it. Each key occurs at most once.
    ///
    /// Returns when **every file that holds the change is synced** (on a disk). Nothing of it is visible to `get`
    /// and `range` before that. After an error nothing of it is ever visible, also not after the next start,
    /// or, where the engine cannot know, every later call fails until the store is opened again.
    fn apply(&self, batch: &[Write]) -> Result<()>;

    /// Bytes on the disk, for metrics; 0 where there is none.
    fn disk_bytes(&self) -> u64;
}
