//! The tables: the layout of every key in one place, and typed reads and writes over it.
//!
//! A key begins with one letter for its table; numbers are big-endian; texts that others follow end in a zero byte,
//! which no name, JID or id of ours contains. A row is MessagePack as an array: a later version appends fields with
//! defaults, and reads what an earlier one wrote.
//!
//! ```text
//! m<name>                     a counter, or the schema's version
//! n<service>0<name>           NodeId              N<nid>            Node             c<nid>   NodeState
//! i<nid><item id>             Item                t<nid><place>     ItemId           v<version>   payload
//! V<version>                  Pins: Events that need the payload beside the one that published it
//! u<atom id>                  (NodeId, ItemId)    U<author>0<id>    (NodeId, ItemId): an author's own ids
//! s<nid><jid>                 Subscription        b<bare>0<nid><jid>   who gave it, if it is not its own
//! a<nid><bare>                Affiliation         A<bare>0<nid>     ()
//! r<virtual>0<bare>           Contact             j<bare>           Tally
//! p<name>                     Account             o<owner>0<name>   ()
//! e<seq>                      Event, to be planned                  h<seq>           Planned
//! z<seq>                      Event, put aside
//! d<len><dest><seq>           Delivery            q<due><dest>      Due              D<dest>  State
//! H<host>                     (): a person holds what goes to this host
//! w<nid><callback>            HubSubscription     W<id>             (NodeId, callback)
//! y<host>                     HubTally; without a host, of all      Y<nid>           HTTP subscribers, counted
//! x<nid>                      the Event after which the sweep looks at the node
//! X<virtual>                  (): an account that has ended, whose nodes the sweep takes away
//! k<name>                     sealed keys of an account (made lazily)
//! ```

mod accounts;
mod audit;
mod counters;
mod hub;
mod nodes;
mod queue;
mod subscriptions;
mod tally;

use bytes::Bytes;
use jid::{BareJid, Jid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kv::{KvError, Read, Result};
use super::tx::Tx;
use crate::base::clock::Timestamp;
use crate::base::jid::read_bare_jid;
use crate::domain::address::LocalName;
use crate::domain::delivery::Destination;
use crate::domain::item::{ItemId, Version};
use crate::domain::node::{NodeId, NodeName};

pub use accounts::Account;
pub use audit::{Audit, audit};
use counters::last_number;
pub use counters::{Counter, Counters};
pub use hub::HubTally;
pub use queue::{Due, HELD, HeldHosts, Pins, Planned, State};
pub use subscriptions::RESOURCES_MOST;
pub use tally::Tally;

/// The version of this layout.
pub const SCHEMA: u64 = 1;
/// Where it stands in a store.
pub(super) const SCHEMA_KEY: &[u8] = b"mschema";
/// There while an import is under way, or after one that was broken off.
pub(super) const IMPORT_KEY: &[u8] = b"mimport";

/// A row's bytes.
pub fn encode<T: Serialize>(row: &T) -> Bytes {
    // Our own rows have no maps with odd keys and no failing serialisers: this cannot fail.
    rmp_serde::to_vec(row).unwrap_or_default().into()
}

/// A row of bytes we wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes)
        .map_err(|e| KvError::Damaged(format!("a row is not a {}: {e}", std::any::type_name::<T>())))
}

// ---- keys ----

/// A key in the making.
struct Key(Vec<u8>);

impl Key {
    fn new(table: u8) -> Self {
        let mut key = Vec::with_capacity(48);
        key.push(table);
        Key(key)
    }
    fn num(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }
    /// A text that something follows.
    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }
    fn bytes(mut self, text: &[u8]) -> Self {
        self.0.extend_from_slice(text);
        self.0.push(0);
        self
    }
    fn end(mut self, tail: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(tail);
        self.0
    }
    fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The first key behind every key that begins with `prefix`.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 64]
}

/// The smallest key behind `key`.
pub fn next_key(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

pub fn event_key(seq: u64) -> Vec<u8> {
    Key::new(b'e').num(seq).done()
}
fn planned_key(seq: u64) -> Vec<u8> {
    Key::new(b'h').num(seq).done()
}
fn parked_key(seq: u64) -> Vec<u8> {
    Key::new(b'z').num(seq).done()
}
fn node_name_key(service: &BareJid, name: &NodeName) -> Vec<u8> {
    Key::new(b'n').text(service.as_str()).end(name.as_str().as_bytes())
}
fn node_key(nid: NodeId) -> Vec<u8> {
    Key::new(b'N').num(nid.0).done()
}
fn state_key(nid: NodeId) -> Vec<u8> {
    Key::new(b'c').num(nid.0).done()
}
fn item_key(nid: NodeId, id: &ItemId) -> Vec<u8> {
    Key::new(b'i').num(nid.0).end(id.as_str().as_bytes())
}
fn place_key(nid: NodeId, place: u64) -> Vec<u8> {
    Key::new(b't').num(nid.0).num(place).done()
}
fn version_key(version: Version) -> Vec<u8> {
    Key::new(b'v').num(version.0).done()
}
/// Ids longer than this many bytes are not found by: keys are bounded, and a cut one would be another's.
const MAX_ID: usize = 1024;

fn atom_key(atom_id: &str) -> Option<Vec<u8>> {
    (atom_id.len() <= MAX_ID).then(|| Key::new(b'u').end(atom_id.as_bytes()))
}
fn alias_key(author: &BareJid, alias: &str) -> Option<Vec<u8>> {
    (alias.len() <= MAX_ID).then(|| Key::new(b'U').text(author.as_str()).end(alias.as_bytes()))
}
fn pins_key(version: Version) -> Vec<u8> {
    Key::new(b'V').num(version.0).done()
}
fn subscription_key(nid: NodeId, jid: &Jid) -> Vec<u8> {
    Key::new(b's').num(nid.0).end(jid.as_str().as_bytes())
}
fn subscribed_key(nid: NodeId, jid: &[u8]) -> Vec<u8> {
    Key::new(b'b').bytes(bare_of(jid)).num(nid.0).end(jid)
}
/// The bytes of an address without its resource: no slash stands before it.
fn bare_of(jid: &[u8]) -> &[u8] {
    jid.split(|byte| *byte == b'/').next().unwrap_or_default()
}
fn affiliation_key(nid: NodeId, jid: &BareJid) -> Vec<u8> {
    Key::new(b'a').num(nid.0).end(jid.as_str().as_bytes())
}
fn affiliated_key(nid: NodeId, jid: &BareJid) -> Vec<u8> {
    affiliated_bytes(nid, jid.as_str().as_bytes())
}
fn affiliated_bytes(nid: NodeId, jid: &[u8]) -> Vec<u8> {
    Key::new(b'A').bytes(jid).num(nid.0).done()
}
fn contact_key(account: &BareJid, jid: &BareJid) -> Vec<u8> {
    Key::new(b'r').text(account.as_str()).end(jid.as_str().as_bytes())
}
fn tally_key(jid: &[u8]) -> Vec<u8> {
    Key::new(b'j').end(jid)
}
fn account_key(name: &LocalName) -> Vec<u8> {
    Key::new(b'p').end(name.as_str().as_bytes())
}
fn owned_key(owner: &BareJid, name: &LocalName) -> Vec<u8> {
    Key::new(b'o').text(owner.as_str()).end(name.as_str().as_bytes())
}
fn delivery_key(destination: &Destination, seq: u64) -> Vec<u8> {
    // The length stands before the destination, so that none is the beginning of another's keys.
    let dest = destination.key();
    let mut key = vec![b'd'];
    key.extend_from_slice(&(dest.len() as u16).to_be_bytes());
    key.extend_from_slice(&dest);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}
fn due_key(due: Timestamp, destination: &Destination) -> Vec<u8> {
    Key::new(b'q').num(due.0.max(0) as u64).end(&destination.key())
}
fn destination_key(destination: &Destination) -> Vec<u8> {
    Key::new(b'D').end(&destination.key())
}
fn held_key(host: &str) -> Vec<u8> {
    Key::new(b'H').end(host.as_bytes())
}
fn hub_key(nid: NodeId, callback: &str) -> Vec<u8> {
    Key::new(b'w').num(nid.0).end(callback.as_bytes())
}
fn hub_id_key(id: u64) -> Vec<u8> {
    Key::new(b'W').num(id).done()
}
fn hub_tally_key(host: &str) -> Vec<u8> {
    Key::new(b'y').end(host.as_bytes())
}
fn hub_audience_key(nid: NodeId) -> Vec<u8> {
    Key::new(b'Y').num(nid.0).done()
}
fn ended_key(service: &BareJid) -> Vec<u8> {
    Key::new(b'X').end(service.as_str().as_bytes())
}
fn sweep_key(nid: NodeId) -> Vec<u8> {
    Key::new(b'x').num(nid.0).done()
}

/// The number of the Event in a key of `e`, `h` or `z`.
pub fn event_number(key: &[u8]) -> Result<u64> {
    number(key, 1)
}

// ---- reading and writing rows ----

/// The row under `key`.
fn row<T: DeserializeOwned>(r: &dyn Read, key: &[u8]) -> Result<Option<T>> {
    r.get(key)?.map(|bytes| decode_at(key, &bytes)).transpose()
}

/// The rows under `prefix`, from `from` (a key, or empty for the first), at most `limit`, and fewer only at the end; with
/// their keys. One that cannot be read is passed over: it must not hide those behind it.
fn rows<T: DeserializeOwned>(r: &dyn Read, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, T)>> {
    rows_between(r, if from > prefix { from } else { prefix }, &after(prefix), limit)
}

/// At most `limit` rows with `from <= key < to` that can be read.
fn rows_between<T: DeserializeOwned>(r: &dyn Read, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, T)>> {
    let (mut from, mut found) = (from.to_vec(), Vec::new());
    loop {
        let wanted = limit - found.len();
        let page = r.range(&from, to, wanted, false)?;
        let more = page.len() == wanted;
        let last = page.last().map(|(key, _)| next_key(key));
        for (key, value) in page {
            if let Some(row) = if_readable(decode_at(&key, &value).map(Some))? {
                found.push((key, row));
            }
        }
        match last {
            Some(next) if more && found.len() < limit => from = next,
            _ => return Ok(found),
        }
    }
}

/// For who looks at many rows: one that cannot be read counts as not there, and hides no others. `rookery check` tells of
/// it.
pub fn if_readable<T>(found: Result<Option<T>>) -> Result<Option<T>> {
    match found {
        Err(KvError::Damaged(words)) => {
            tracing::error!(words, "something stored cannot be read and is passed over: see `rookery check`");
            Ok(None)
        }
        found => found,
    }
}

fn decode_at<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T> {
    decode(bytes).map_err(|error| match error {
        KvError::Damaged(words) => KvError::Damaged(format!("{}: {words}", shown(key))),
        error => error,
    })
}

/// A key for a person: its letter, then what can be printed of it.
fn shown(key: &[u8]) -> String {
    format!("the row {}", key.escape_ascii())
}

/// The bare JID that ends a key of ours.
fn bare_at(key: &[u8], at: usize) -> Option<BareJid> {
    read_bare_jid(std::str::from_utf8(key.get(at..)?).ok()?)
}

/// The eight bytes at `at` in a key of ours.
fn number(key: &[u8], at: usize) -> Result<u64> {
    let bytes = key.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| KvError::Damaged("a key is too short".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_of_it_and_nothing_else() {
        assert_eq!(after(b"a"), b"b");
        assert_eq!(after(b"a\xff"), b"b");
        assert!(after(b"\xff\xff").as_slice() > b"\xff\xff\xff".as_slice());
    }

    #[test]
    fn a_delivery_or_a_destination_that_cannot_be_read_holds_up_no_other() {
        use crate::store::kv::Kv;
        let kv = crate::store::MemoryKv::default();
        let romeo = Destination::Jid("romeo@example.org".into());
        let damaged = Bytes::from_static(b"\xc1");
        let delivery = |event: u64| {
            let row = crate::domain::delivery::Delivery { event, at: Timestamp::from_secs(1), cursor: Vec::new() };
            (delivery_key(&romeo, event), Some(if event == 2 { damaged.clone() } else { encode(&row) }))
        };
        let mut batch = vec![(destination_key(&romeo), Some(damaged.clone()))];
        batch.extend((1..=3).map(delivery));
        batch.sort();
        kv.apply(&batch).unwrap();
        let read = crate::store::tx::Durable(std::sync::Arc::new(kv));
        let read: &dyn Read = &read;
        let events = |behind, limit| {
            let found = read.deliveries(&romeo, behind, limit).unwrap();
            found.into_iter().map(|delivery| delivery.event).collect::<Vec<_>>()
        };
        assert_eq!([events(0, 9), events(0, 2), events(1, 1)], [vec![1, 3], vec![1, 3], vec![3]]);
        assert!(read.destination(&romeo).unwrap().is_none(), "it is written anew");
    }

    #[test]
    fn a_row_that_cannot_be_read_hides_none_behind_it() {
        use crate::store::kv::Kv;
        let kv = crate::store::MemoryKv::default();
        let value = |n: u8| if (3..8).contains(&n) { Bytes::from_static(b"\xc1") } else { encode(&n) };
        kv.apply(&(0..10).map(|n| (vec![b'?', n], Some(value(n)))).collect::<Vec<_>>()).unwrap();
        let read = crate::store::tx::Durable(std::sync::Arc::new(kv));
        let found = |from: &[u8], limit| {
            let rows = rows::<u8>(&read, b"?", from, limit).unwrap();
            rows.into_iter().map(|(_, n)| n).collect::<Vec<_>>()
        };
        assert_eq!([found(&[], 4), found(&[b'?', 4], 1)], [vec![0, 1, 2, 8], vec![8]]);
        assert_eq!([found(&[], 9), found(&[], 0)], [vec![0, 1, 2, 8, 9], vec![]]);
    }

    #[test]
    fn a_row_of_an_earlier_version_reads_with_defaults() {
        #[derive(serde::Deserialize, PartialEq, Debug)]
        struct Now {
            a: u64,
            #[serde(default)]
            b: Option<String>,
        }
        assert_eq!(decode::<Now>(&encode(&(7u64,))).unwrap(), Now { a: 7, b: None });
    }
}
