//! What a decision sees and what it writes: the state, the earlier Changes of its group, and its own.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::kv::{Kv, KvError, Result, Row, Write};
use super::tables::{self, Counter};
use crate::domain::event::Event;

/// Anything that can be read in key order: a database, or a decision's view of it.
pub trait Read {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// At most `limit` rows with `from <= key < to`, ascending, or descending if `reverse`.
    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>>;
}

/// The durable state, as readers outside of the committer see it.
pub struct Durable(pub Arc<dyn Kv>);

impl Read for Durable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.get(key)
    }
    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>> {
        self.0.range(from, to, limit, reverse)
    }
}

/// Rows written but not yet durable; `None` is a deletion.
pub type Overlay = BTreeMap<Vec<u8>, Option<Bytes>>;

/// One Change has at most this many rows …
pub const MAX_ROWS: usize = 1000;
/// … and this many bytes; what is longer goes on at a cursor, in Changes of its own.
pub const MAX_BYTES: usize = 1 << 20;

/// One decision's view and its **Change** in the making: the writes and the Events that make one act.
///
/// Only `service` and `queue` get to see one (through [`super::Store::commit`]).
pub struct Tx<'a> {
    kv: &'a dyn Kv,
    group: &'a Overlay,
    own: Overlay,
    /// Of all writes, those that were overwritten too.
    bytes: usize,
    counters: &'a mut tables::Counters,
}

impl<'a> Tx<'a> {
    pub(super) fn new(kv: &'a dyn Kv, group: &'a Overlay, counters: &'a mut tables::Counters) -> Self {
        Tx { kv, group, own: Overlay::new(), bytes: 0, counters }
    }

    /// Writes a row. Refused when the Change grows over its bounds: that is a mistake of ours, never of a user.
    pub fn put(&mut self, key: Vec<u8>, value: impl Into<Bytes>) -> Result<()> {
        self.write(key, Some(value.into()))
    }

    pub fn delete(&mut self, key: Vec<u8>) -> Result<()> {
        self.write(key, None)
    }

    /// The next number of `counter`; never given twice, also not when this decision is refused.
    pub fn next(&mut self, counter: Counter) -> u64 {
        self.counters.next(counter)
    }

    /// Promises that `event` will be told to whom it concerns; part of the same Change. Gives its number.
    pub fn emit(&mut self, event: &Event) -> Result<u64> {
        let seq = self.counters.next(Counter::Event);
        self.put(tables::event_key(seq), tables::encode(event))?;
        Ok(seq)
    }

    /// The same view, for functions that only read.
    pub fn read(&self) -> &dyn Read {
        self
    }

    /// How many more rows this Change may hold.
    pub fn room(&self) -> usize {
        MAX_ROWS.saturating_sub(self.own.len())
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Bytes>) -> Result<()> {
        self.within_bounds()?;
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.own.insert(key, value);
        self.within_bounds()
    }

    /// Fails for good once the Change grew over its bounds.
    pub(super) fn within_bounds(&self) -> Result<()> {
        if self.own.len() > MAX_ROWS || self.bytes > MAX_BYTES {
            return Err(KvError::Io(format!("a change of over {MAX_ROWS} rows or {MAX_BYTES} bytes")));
        }
        Ok(())
    }

    pub(super) fn into_writes(self) -> (Overlay, usize) {
        (self.own, self.bytes)
    }
}

impl Read for Tx<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.own.get(key).or_else(|| self.group.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.kv.get(key),
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut over: BTreeMap<&[u8], Option<&Bytes>> =
            self.group.range::<[u8], _>(bounds).map(|(k, v)| (k.as_slice(), v.as_ref())).collect();
        over.extend(self.own.range::<[u8], _>(bounds).map(|(k, v)| (k.as_slice(), v.as_ref())));
        if over.is_empty() {
            return self.kv.range(from, to, limit, reverse);
        }
        // Deletions hide rows below: ask for as many more.
        let hidden = over.values().filter(|v| v.is_none()).count();
        let below = self.kv.range(from, to, limit.saturating_add(hidden), reverse)?;
        let mut merged: BTreeMap<Vec<u8>, Bytes> =
            below.into_iter().filter(|(k, _)| !over.contains_key(k.as_slice())).collect();
        merged.extend(over.into_iter().filter_map(|(k, v)| Some((k.to_vec(), v?.clone()))));
        Ok(if reverse {
            merged.into_iter().rev().take(limit).collect()
        } else {
            merged.into_iter().take(limit).collect()
        })
    }
}

/// The rows of an overlay as a batch.
pub(super) fn batch(overlay: Overlay) -> Vec<Write> {
    overlay.into_iter().collect()
}
