//! Numbers that are never given twice.

use bytes::Bytes;

use super::{Read, decode, encode};
use crate::store::kv::{Kv, Result};

/// What is numbered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    Node = 0,
    Version = 1,
    Event = 2,
    Hub = 3,
}

const NAMES: [&[u8]; 4] = [b"mnode", b"mversion", b"mevent", b"mhub"];

/// The number of `counter` that was given last, as it is saved.
pub(super) fn last_number(r: &dyn Read, counter: Counter) -> Result<u64> {
    Ok(r.get(NAMES[counter as usize])?.map(|bytes| decode(&bytes)).transpose()?.unwrap_or(0))
}

/// The numbers given last. Owned by the committer; written with the group that used them.
#[derive(Clone, Default, Debug)]
pub struct Counters {
    last: [u64; 4],
    saved: [u64; 4],
}

impl Counters {
    pub fn load(kv: &dyn Kv) -> Result<Self> {
        let mut last = [0; 4];
        for (number, name) in last.iter_mut().zip(NAMES) {
            *number = kv.get(name)?.map(|bytes| decode(&bytes)).transpose()?.unwrap_or(0);
        }
        Ok(Counters { last, saved: last })
    }

    pub fn next(&mut self, counter: Counter) -> u64 {
        let number = &mut self.last[counter as usize];
        *number += 1;
        *number
    }

    pub fn last_event(&self) -> u64 {
        self.last[Counter::Event as usize]
    }

    /// The rows of the counters that moved since they were saved.
    pub fn changed_rows(&self) -> impl Iterator<Item = (Vec<u8>, Bytes)> {
        let rows = self.last.iter().zip(&self.saved).zip(NAMES);
        rows.filter(|((last, saved), _)| last != saved).map(|((last, _), name)| (name.to_vec(), encode(last)))
    }

    pub fn mark_saved(&mut self) {
        self.saved = self.last;
    }
}
