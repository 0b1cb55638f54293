//! The backend that keeps nothing: a sorted map, for tests and trials.

use std::collections::BTreeMap;
use std::sync::RwLock;

use bytes::Bytes;

use super::kv::{Kv, Read, Result, Row, Write, check_batch};

#[derive(Default)]
pub struct MemoryKv(RwLock<BTreeMap<Vec<u8>, Bytes>>);

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.read().unwrap_or_else(|e| e.into_inner()).get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let map = self.0.read().unwrap_or_else(|e| e.into_inner());
        let rows = map.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)));
        let copy = |(k, v): (&Vec<u8>, &Bytes)| (k.clone(), v.clone());
        Ok(if reverse { rows.rev().take(limit).map(copy).collect() } else { rows.take(limit).map(copy).collect() })
    }

    fn apply(&self, batch: &[Write]) -> Result<()> {
        check_batch(batch)?;
        let mut map = self.0.write().unwrap_or_else(|e| e.into_inner());
        for (key, value) in batch {
            match value {
                Some(value) => drop(map.insert(key.clone(), value.clone())),
                None => drop(map.remove(key)),
            }
        }
        Ok(())
    }

    fn moment(&self) -> Option<Box<dyn Read + '_>> {
        None
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
