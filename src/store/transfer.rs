//! The whole store as one file, and back: from one engine to another, or to another machine.
//!
//! The format is our own, since rows are bytes that no text format carries as they are, and since a file that was cut
//! short or changed must be known as such before anything relies on it:
//!
//! ```text
//! rookery export 1\n            what this is, and the version of this format
//! {…}\n                         a line of JSON: see `Head`
//! block*                        the rows in the order of their keys
//!   u32 n, n bytes of rows, 8 bytes of their SHA-256
//!   a row: u8 kind (0 as it stands in the store, 1 without its secret), u32 length and key, u32 length and value
//! u32 0, u64 rows, 32 bytes     the end: how many rows, and the SHA-256 of the bytes of all of them
//! ```
//!
//! Numbers are big-endian. Rows are of the schema that the head names; whatever kinds of rows there are go along.
//!
//! Without secrets, sealed keys are left out, and a subscription that is signed goes without its secret. At the import it
//! **ends**, with all its deliveries: a push that is not signed would be refused by an honest subscriber, and proves
//! nothing to a careless one. Its subscriber comes back by itself when it renews.

use std::io::{self, BufRead, Read as _, Write};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::kv::{Kv, KvError, MAX_KEY, MAX_VALUE, Read, Row, Write as Put};
use super::tables::{self, Counters, IMPORT_KEY, SCHEMA, SCHEMA_KEY};
use super::tx::{self, Durable, Overlay, Tx};
use crate::base::progress::Progress;
use crate::domain::delivery::Destination;
use crate::domain::event::{Event, What};
use crate::domain::hub::HubSubscription;

const MAGIC: &str = "rookery export 1\n";
/// Rows of a block: so many, or as soon as they have so many bytes.
const BLOCK_ROWS: usize = 256;
const BLOCK_BYTES: usize = 1 << 20;
/// No block is longer: the last row may go over.
const BLOCK_MOST: usize = BLOCK_BYTES + MAX_KEY + MAX_VALUE + 64;
/// Rows read at a time: each may have a mebibyte.
const PIECE: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error("the file cannot be read or written: {0}")]
    File(#[from] io::Error),
    #[error("this is no export of rookery")]
    Foreign,
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    #[error(
        "the file has layout {found}, this program knows {SCHEMA}: use the rookery that it was made for, or a newer one"
    )]
    Schema { found: u64 },
    #[error("the store is not empty: an import needs one of its own")]
    NotEmpty,
    #[error("what was written does not read back as it was: the disk or the engine is at fault")]
    Unequal,
}

type Result<T> = std::result::Result<T, TransferError>;

/// What a file says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The layout of the rows.
    pub schema: u64,
    /// The component whose rows these are: addresses and ids in them are of it for ever.
    pub component: String,
    /// The version of the program that wrote it, and when (RFC 3339).
    pub program: String,
    pub made: String,
    /// Whether sealed keys and the secrets of subscribers are in it.
    pub secrets: bool,
}

/// What went over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    pub rows: u64,
    /// Callbacks whose subscription has a secret that is not in the file: it ends at the import.
    pub ended: Vec<String>,
    /// Callbacks that asked, with a secret, and were not verified yet: nobody asks them any more.
    pub unverified: Vec<String>,
    /// Sealed keys that are not in the file.
    pub keys: u64,
    /// Rows that are not in the file: they cannot be read, so nobody knows whether there are secrets in them.
    pub unreadable: u64,
}

/// Writes every row of a store at rest.
pub fn export(r: &dyn Read, head: &Head, out: &mut dyn Write, progress: &Progress) -> Result<Moved> {
    let mut moved = Moved::default();
    out.write_all(MAGIC.as_bytes())?;
    let line = serde_json::to_string(head).map_err(io::Error::other)?;
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    let (mut block, mut rows, mut sum) = (Vec::new(), 0, Context::new(&SHA256));
    let mut flush = |block: &mut Vec<u8>| -> Result<()> {
        out.write_all(&(block.len() as u32).to_be_bytes())?;
        out.write_all(block)?;
        out.write_all(&short(block))?;
        block.clear();
        Ok(())
    };
    each(r, |key, value| {
        let row = match head.secrets {
            true => Some((0, value.clone())),
            false => redacted(key, value, &mut moved)?,
        };
        let Some((kind, value)) = row else { return Ok(()) };
        let begin = block.len();
        block.push(kind);
        for part in [key, &value] {
            block.extend_from_slice(&(part.len() as u32).to_be_bytes());
            block.extend_from_slice(part);
        }
        sum.update(block.get(begin..).unwrap_or_default());
        progress.step(moved.rows, moved.rows + 1, "rows written");
        moved.rows += 1;
        rows += 1;
        if rows == BLOCK_ROWS || block.len() >= BLOCK_BYTES {
            rows = 0;
            flush(&mut block)?;
        }
        Ok(())
    })?;
    if !block.is_empty() {
        flush(&mut block)?;
    }
    out.write_all(&0u32.to_be_bytes())?;
    out.write_all(&moved.rows.to_be_bytes())?;
    out.write_all(sum.finish().as_ref())?;
    out.flush()?;
    Ok(moved)
}

/// Reads what a file says of itself; rows follow.
pub fn read_head(file: &mut dyn BufRead) -> Result<Head> {
    let mut magic = vec![0; MAGIC.len()];
    file.read_exact(&mut magic).map_err(|_| TransferError::Foreign)?;
    if magic != MAGIC.as_bytes() {
        return Err(TransferError::Foreign);
    }
    let mut line = Vec::new();
    file.take(64 << 10).read_until(b'\n', &mut line)?;
    let head: Head = serde_json::from_slice(&line).map_err(|_| TransferError::Damaged("its head is no JSON"))?;
    match head.schema == SCHEMA {
        true => Ok(head),
        false => Err(TransferError::Schema { found: head.schema }),
    }
}

/// Writes the rows that follow a head into an empty database, proves that they are there, and ends what cannot go on
/// without its secret. Durable when it returns. Broken off at any time, the database is known as one that is not
/// complete, nobody can open it, and a new import begins from the start.
pub fn import(kv: Arc<dyn Kv>, file: &mut dyn BufRead, progress: &Progress) -> Result<Moved> {
    begin(&*kv, progress)?;
    let mut moved = Moved::default();
    // Written last: before, this is no store.
    let mut schema = None;
    let mut without_secret = Vec::new();
    let mut sum = Context::new(&SHA256);
    loop {
        let block = match read_block(file)? {
            Block::Rows(block) => block,
            Block::End { rows, digest } => {
                if rows != moved.rows || digest != sum.clone().finish().as_ref() {
                    return Err(TransferError::Damaged("its rows are not those that it says it has"));
                }
                break;
            }
        };
        sum.update(&block);
        let mut batch: Vec<Put> = Vec::new();
        let mut rest = block.as_slice();
        while !rest.is_empty() {
            let (kind, key, value) = take_row(&mut rest).ok_or(TransferError::Damaged("a row ends too early"))?;
            moved.rows += 1;
            if kind == 1 {
                without_secret.push((key.to_vec(), Bytes::copy_from_slice(value)));
            }
            match key == SCHEMA_KEY {
                true => schema = Some(Bytes::copy_from_slice(value)),
                false => batch.push((key.to_vec(), Some(Bytes::copy_from_slice(value)))),
            }
        }
        if !batch.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(TransferError::Damaged("its rows are not in order"));
        }
        progress.step(moved.rows - batch.len() as u64, moved.rows, "rows written");
        kv.apply(&batch)?;
    }
    if schema.as_deref() != Some(&*tables::encode(&SCHEMA)) {
        return Err(TransferError::Damaged("the row that says its layout is missing or another"));
    }
    progress.say("reading back what was written");
    prove(&*kv, &without_secret, schema.as_ref(), moved.rows, sum)?;
    end_without_secret(&kv, &without_secret, &mut moved)?;
    kv.apply(&[(IMPORT_KEY.to_vec(), None), (SCHEMA_KEY.to_vec(), schema)])?;
    Ok(moved)
}

/// Makes sure that the database is empty, or becomes so if it is what an earlier import left.
fn begin(kv: &dyn Kv, progress: &Progress) -> Result<()> {
    let unfinished = kv.get(IMPORT_KEY)?.is_some();
    // A store that was opened once, and nothing more, says only its layout.
    let rows = kv.range(&[1], &[u8::MAX; 64], 2, false)?;
    if !unfinished && rows.iter().any(|(key, _)| key != SCHEMA_KEY) {
        return Err(TransferError::NotEmpty);
    }
    kv.apply(&[(IMPORT_KEY.to_vec(), Some(tables::encode(&())))])?;
    if unfinished {
        progress.say("an earlier import was broken off: its rows are removed first");
    }
    loop {
        let rows = kv.range(&[1], &[u8::MAX; 64], PIECE * 4, false)?;
        let gone: Vec<Put> =
            rows.into_iter().filter(|(key, _)| key != IMPORT_KEY).map(|(key, _)| (key, None)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        kv.apply(&gone)?;
    }
}

enum Block {
    Rows(Vec<u8>),
    End { rows: u64, digest: [u8; 32] },
}

fn read_block(file: &mut dyn BufRead) -> Result<Block> {
    const SHORT: TransferError = TransferError::Damaged("it was cut short");
    let mut n = [0; 4];
    file.read_exact(&mut n).map_err(|_| SHORT)?;
    let n = u32::from_be_bytes(n) as usize;
    if n == 0 {
        let (mut rows, mut digest) = ([0; 8], [0; 32]);
        file.read_exact(&mut rows).map_err(|_| SHORT)?;
        file.read_exact(&mut digest).map_err(|_| SHORT)?;
        if !file.fill_buf()?.is_empty() {
            return Err(TransferError::Damaged("something stands behind its end"));
        }
        return Ok(Block::End { rows: u64::from_be_bytes(rows), digest });
    }
    if n > BLOCK_MOST {
        return Err(TransferError::Damaged("a block is too long"));
    }
    let (mut block, mut sum) = (vec![0; n], [0; 8]);
    file.read_exact(&mut block).map_err(|_| SHORT)?;
    file.read_exact(&mut sum).map_err(|_| SHORT)?;
    match sum == short(&block) {
        true => Ok(Block::Rows(block)),
        false => Err(TransferError::Damaged("a checksum is wrong")),
    }
}

fn take_row<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let (kind, tail) = rest.split_first()?;
    *rest = tail;
    let mut part = || {
        let (n, tail) = rest.split_at_checked(4)?;
        let (part, tail) = tail.split_at_checked(u32::from_be_bytes(n.try_into().ok()?) as usize)?;
        *rest = tail;
        Some(part)
    };
    Some((*kind, part()?, part()?))
}

/// The first bytes of the SHA-256 of a block.
fn short(block: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.iter_mut().zip(digest(&SHA256, block).as_ref()).for_each(|(to, from)| *to = *from);
    short
}

/// Visits every row in the order of keys, all but the mark of an import.
fn each(r: &dyn Read, mut visit: impl FnMut(&[u8], &Bytes) -> Result<()>) -> Result<()> {
    let mut from = vec![1];
    loop {
        let page: Vec<Row> = r.range(&from, &[u8::MAX; 64], PIECE, false)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = tables::next_key(last);
        for (key, value) in page.iter().filter(|(key, _)| key != IMPORT_KEY) {
            visit(key, value)?;
        }
    }
}

/// Reads everything back and compares it with the file.
fn prove(kv: &dyn Kv, without: &[Row], schema: Option<&Bytes>, rows: u64, expected: Context) -> Result<()> {
    let (mut read, mut sum) = (0, Context::new(&SHA256));
    let mut take = |key: &[u8], value: &[u8]| {
        let kind = u8::from(without.binary_search_by(|(k, _)| k.as_slice().cmp(key)).is_ok());
        sum.update(&[kind]);
        for part in [key, value] {
            sum.update(&(part.len() as u32).to_be_bytes());
            sum.update(part);
        }
        read += 1;
    };
    let mut held_back = schema.map(|value| (SCHEMA_KEY, value));
    let mut from = vec![1];
    loop {
        let page = kv.range(&from, &[u8::MAX; 64], PIECE, false)?;
        let Some((last, _)) = page.last() else { break };
        from = tables::next_key(last);
        for (key, value) in page.iter().filter(|(key, _)| key != IMPORT_KEY) {
            if let Some((schema, value)) = held_back.take_if(|(schema, _)| *schema < key.as_slice()) {
                take(schema, value);
            }
            take(key, value);
        }
    }
    if let Some((schema, value)) = held_back {
        take(schema, value);
    }
    match read == rows && sum.finish().as_ref() == expected.finish().as_ref() {
        true => Ok(()),
        false => Err(TransferError::Unequal),
    }
}

/// A row as it may leave without secrets, and its kind; `None` if it may not at all.
fn redacted(key: &[u8], value: &Bytes, moved: &mut Moved) -> Result<Option<(u8, Bytes)>> {
    match without_secrets(key, value, moved) {
        Err(TransferError::Kv(KvError::Damaged(_))) => {
            moved.unreadable += 1;
            Ok(None)
        }
        row => row,
    }
}

fn without_secrets(key: &[u8], value: &Bytes, moved: &mut Moved) -> Result<Option<(u8, Bytes)>> {
    Ok(match key.first() {
        Some(b'k') => {
            moved.keys += 1;
            None
        }
        Some(b'w') => {
            let subscription: HubSubscription = tables::decode(value)?;
            match subscription.secret {
                None => Some((0, value.clone())),
                Some(_) => {
                    moved.ended.push(subscription.callback.clone());
                    Some((1, tables::encode(&HubSubscription { secret: None, ..subscription })))
                }
            }
        }
        Some(b'e' | b'z') => {
            let event: Event = tables::decode(value)?;
            match silent(&event, Some(&mut moved.unverified)) {
                Some(event) => Some((1, tables::encode(&event))),
                None => Some((0, value.clone())),
            }
        }
        Some(b'h') => {
            let planned: tables::Planned = tables::decode(value)?;
            match silent(&planned.event, planned.planning.is_none().then_some(&mut moved.unverified)) {
                Some(event) => Some((1, tables::encode(&tables::Planned { event, ..planned }))),
                None => Some((0, value.clone())),
            }
        }
        _ => Some((0, value.clone())),
    })
}

/// An Event without the secret that is in it; `None` if there is none.
fn silent(event: &Event, heard: Option<&mut Vec<String>>) -> Option<Event> {
    let What::Verify(intent) = &event.what else { return None };
    if intent.secret.is_none() && intent.verify_token.is_none() {
        return None;
    }
    if let Some(heard) = heard {
        heard.push(intent.callback.clone());
    }
    let mut intent = intent.clone();
    (intent.secret, intent.verify_token) = (None, None);
    Some(Event { what: What::Verify(intent), ..event.clone() })
}

/// Ends the subscriptions and intents that came without their secrets, with their deliveries.
fn end_without_secret(kv: &Arc<dyn Kv>, rows: &[Row], moved: &mut Moved) -> Result<()> {
    for (key, value) in rows {
        match key.first() {
            Some(b'w') => {
                let subscription: HubSubscription = tables::decode(value)?;
                drop_deliveries(kv, &Destination::Hub(subscription.id))?;
                change(kv, |tx| match tx.read().hub_subscription_by_id(subscription.id)? {
                    Some((nid, found)) => tx.delete_hub_subscription(nid, &found),
                    None => Ok(()),
                })?;
                moved.ended.push(subscription.callback);
            }
            Some(b'e' | b'h' | b'z') => {
                let seq = tables::event_number(key)?;
                drop_deliveries(kv, &Destination::Intent(seq))?;
                let event = Durable(kv.clone());
                let event = (&event as &dyn Read).event(seq)?.or((&event as &dyn Read).parked_event(seq)?);
                if let Some(What::Verify(intent)) = event.map(|event| event.what) {
                    moved.unverified.push(intent.callback);
                }
                change(kv, |tx| tx.forget_event(seq))?;
            }
            _ => return Err(TransferError::Damaged("a row without a secret is none that has one")),
        }
    }
    Ok(())
}

fn drop_deliveries(kv: &Arc<dyn Kv>, destination: &Destination) -> Result<()> {
    loop {
        let more = change(kv, |tx| {
            let found = tx.read().deliveries(destination, 0, 100)?;
            for delivery in &found {
                tx.end_delivery(destination, delivery.event)?;
            }
            match tx.read().destination(destination)? {
                Some(state) if found.len() < 100 => tx.delete_destination(&state)?,
                _ => {}
            }
            Ok(found.len() == 100)
        })?;
        if !more {
            return Ok(());
        }
    }
}

/// Makes one Change in a database that nobody else has open.
fn change<T>(kv: &Arc<dyn Kv>, change: impl FnOnce(&mut Tx<'_>) -> super::kv::Result<T>) -> Result<T> {
    let (group, mut counters) = (Overlay::new(), Counters::load(&**kv)?);
    let mut tx = Tx::new(&**kv, &group, &mut counters);
    let out = change(&mut tx)?;
    tx.acceptable()?;
    kv.apply(&tx::batch(tx.into_writes().0))?;
    Ok(out)
}
