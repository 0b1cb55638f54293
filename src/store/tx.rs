//! What a decision sees and what it writes: the state, the earlier Changes of its group, and its own.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::kv::{self, Kv, KvError, Read, Result, Row, Write};
use super::tables::{self, Counter};
use crate::domain::event::Event;

/// The durable state of a database that nobody writes to meanwhile.
pub struct Durable(pub Arc<dyn Kv>);

impl Durable {
    /// Reads the state of one moment, whoever writes.
    pub(super) fn at_once<T>(kv: Arc<dyn Kv>, read: impl FnOnce(&dyn Read) -> T) -> T {
        match kv.moment() {
            Some(moment) => read(&*moment),
            None => read(&Durable(kv.clone())),
        }
    }
}

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
    /// Why this can be no Change. It is refused alone, before it could take its group along.
    refused: Option<KvError>,
    counters: &'a mut tables::Counters,
}

impl<'a> Tx<'a> {
    pub(super) fn new(kv: &'a dyn Kv, group: &'a Overlay, counters: &'a mut tables::Counters) -> Self {
        Tx { kv, group, own: Overlay::new(), bytes: 0, refused: None, counters }
    }

    /// Writes a row. Refused when the Change grows over its bounds, or for a key that no row can have; then nothing of
    /// the Change is kept, whatever the decision returns.
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

    /// Promises that `event` will be told to whom it concerns; part of the same Change. The payload it names is kept until
    /// then. Gives its number.
    pub fn emit(&mut self, event: &Event) -> Result<u64> {
        let seq = self.counters.next(Counter::Event);
        self.put(tables::event_key(seq), tables::encode(event))?;
        self.pin(event)?;
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
        self.acceptable()?;
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        if let Err(e) = kv::check_key(&key) {
            self.refused = Some(e);
        }
        self.own.insert(key, value);
        if self.own.len() > MAX_ROWS || self.bytes > MAX_BYTES {
            self.refused = Some(KvError::Unfit(format!("a change of over {MAX_ROWS} rows or {MAX_BYTES} bytes")));
        }
        self.acceptable()
    }

    /// Fails for good once a write was refused, also if the decision took no notice.
    pub(super) fn acceptable(&self) -> Result<()> {
        self.refused.clone().map_or(Ok(()), Err)
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

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::store::MemoryKv;

    fn overlay() -> impl Strategy<Value = Overlay> {
        btree_map(key(), option::of(any::<u8>().prop_map(|v| Bytes::from(vec![v]))), 0..12)
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(1..4u8, 1..4)
    }

    proptest! {
        #[test]
        fn a_decision_sees_its_own_writes_over_its_groups_over_the_durable_state(
            below in btree_map(key(), any::<u8>().prop_map(|v| Bytes::from(vec![v])), 0..20),
            group in overlay(), own in overlay(), from in key(), to in key(), limit in 0..6usize, reverse: bool,
        ) {
            let kv = MemoryKv::default();
            kv.apply(&below.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect::<Vec<_>>()).unwrap();
            let mut expected = below;
            for (key, value) in group.iter().chain(&own) {
                match value {
                    Some(value) => drop(expected.insert(key.clone(), value.clone())),
                    None => drop(expected.remove(key)),
                }
            }
            let mut counters = tables::Counters::default();
            let mut tx = Tx::new(&kv, &group, &mut counters);
            for (key, value) in own {
                match value {
                    Some(value) => tx.put(key, value).unwrap(),
                    None => tx.delete(key).unwrap(),
                }
            }
            let found = tx.get(&from).unwrap();
            prop_assert_eq!(found.as_ref(), expected.get(&from));
            let mut rows: Vec<Row> = expected.into_iter().filter(|(key, _)| *key >= from && *key < to).collect();
            if reverse {
                rows.reverse();
            }
            rows.truncate(limit);
            prop_assert_eq!(tx.range(&from, &to, limit, reverse).unwrap(), rows);
        }
    }
}
