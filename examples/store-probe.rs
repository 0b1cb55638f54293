//! Looks at a store's backend from outside: what it costs, and (under `scripts/strace-durability`) what it syncs.
//!
//! ```text
//! store-probe write BACKEND FOLDER SIZE COUNT [GROUP]   COUNT batches of GROUP items; prints "ack N" after each,
//!                                                       ends without closing anything
//! store-probe read  BACKEND FOLDER                      checks what `write` wrote; prints how many batches are there
//! store-probe rate  BACKEND FOLDER PUBLISHERS SECONDS   items of 1.5 KB through the committer
//! store-probe grow  BACKEND FOLDER ITEMS [SIZE]         items of 1.5 KB, then size on disk, memory, reopening
//! ```

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rookery::store::Read as _;
use rookery::store::{Backend, Kv, KvError, Lane, open, open_kv};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let backend = |name: &str| Backend::named(name).ok_or("the backends are sled, fjall and memory");
    match args.as_slice() {
        ["write", b, folder, size, count] => write(backend(b)?, folder, size.parse()?, count.parse()?, 1),
        ["write", b, folder, size, count, group] => {
            write(backend(b)?, folder, size.parse()?, count.parse()?, group.parse()?)
        }
        ["read", b, folder] => read(backend(b)?, folder),
        ["rate", b, folder, publishers, seconds] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(rate(backend(b)?, folder, publishers.parse()?, seconds.parse()?))
        }
        ["grow", b, folder, items] => grow(backend(b)?, folder, items.parse()?, 1500),
        ["grow", b, folder, items, size] => grow(backend(b)?, folder, items.parse()?, size.parse()?),
        _ => Err("see the head of examples/store-probe.rs".into()),
    }
}

/// Batch `n`: `group` items of `size` bytes, a row that says how many, and the overwriting and deletion of older rows.
fn batch(n: u64, size: usize, group: u64) -> Vec<(Vec<u8>, Option<Bytes>)> {
    let mut rows: Vec<_> = (0..group).map(|i| (item_key(n, i), Some(text(n * group + i, size)))).collect();
    if let Some(gone) = n.checked_sub(30) {
        rows.extend((0..group).map(|i| (item_key(gone, i), None)));
    }
    rows.push((b"last".to_vec(), Some(head(n, size, group).into())));
    rows.push((vec![b's', (n % 5) as u8 + 1], Some(text(n, size))));
    rows.sort();
    rows
}

fn head(n: u64, size: usize, group: u64) -> Vec<u8> {
    [n, size as u64, group].iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Items of many nodes: their keys are spread over the tree.
fn item_key(n: u64, i: u64) -> Vec<u8> {
    let node = (n * 31 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    [b"i".as_slice(), &node.to_be_bytes(), &n.to_be_bytes(), &i.to_be_bytes()].concat()
}

/// Text that compresses as Atom does: to about a third.
fn text(seed: u64, length: usize) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 40);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(format!("<p>{x:x}</p><span class='h-card'>").as_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

fn write(backend: Backend, folder: &str, size: usize, count: u64, group: u64) -> Result<(), Failure> {
    let kv = open_kv(backend, Path::new(folder))?;
    let first = last(&*kv)?.map_or(1, |(n, ..)| n + 1);
    let mut out = std::io::stdout();
    for n in first..first + count {
        kv.apply(&batch(n, size, group))?;
        out.write_all(format!("ack {n}\n").as_bytes())?;
    }
    // As if killed: nothing is closed.
    std::process::exit(0)
}

fn last(kv: &dyn Kv) -> Result<Option<(u64, usize, u64)>, KvError> {
    let number =
        |bytes: &[u8], at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let Some(row) = kv.get(b"last")? else { return Ok(None) };
    match (number(&row, 0), number(&row, 8), number(&row, 16)) {
        (Some(n), Some(size), Some(group)) => Ok(Some((n, size as usize, group))),
        _ => Err(KvError::Damaged("the row \"last\"".into())),
    }
}

fn read(backend: Backend, folder: &str) -> Result<(), Failure> {
    let kv = open_kv(backend, Path::new(folder))?;
    let Some((last, size, group)) = last(&*kv)? else {
        println!("batches 0");
        return Ok(());
    };
    let mut expected = std::collections::BTreeMap::new();
    for n in last.saturating_sub(31).max(1)..=last {
        for (key, value) in batch(n, size, group) {
            expected.insert(key, value);
        }
    }
    let expected: Vec<_> = expected.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    for (key, _) in &expected {
        // Said by row: which batch it was of tells whether it was ever acknowledged.
        kv.get(key).map_err(|e| format!("damaged: after batch {last} the row {}: {e}", key.escape_ascii()))?;
    }
    let mut found = kv.range(&[1], &[255; 64], usize::MAX, false)?;
    found.retain(|(key, _)| expected.binary_search_by(|(k, _)| k.cmp(key)).is_ok() || key.first() == Some(&b'i'));
    if found != expected {
        return Err(format!("damaged: after batch {last} {} rows instead of {}", found.len(), expected.len()).into());
    }
    println!("batches {last}");
    Ok(())
}

/// Publishers that each wait for the answer before the next item; the rows are about those of a publish.
async fn rate(backend: Backend, folder: &str, publishers: u64, seconds: u64) -> Result<(), Failure> {
    let store = open(backend, Path::new(folder))?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..publishers)
        .map(|publisher| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < until {
                    let start = Instant::now();
                    let n = took.len() as u64;
                    let _ = publish(&store, publisher, n).await?;
                    took.push(start.elapsed());
                }
                Ok::<_, rookery::store::StoreError>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    took.sort();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).map_or(0, |t| t.as_micros());
    let stats = store.stats();
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "{} {publishers} publishers: {} decisions/s, p50 {} us, p99 {} us, {:.1} in a group, apply {} us",
        backend.name(),
        took.len() as u64 / seconds,
        at(0.5),
        at(0.99),
        get(&stats.changes) as f64 / get(&stats.groups) as f64,
        get(&stats.sync_micros) / get(&stats.groups),
    );
    store.close();
    Ok(())
}

fn publish(
    store: &rookery::store::Store,
    publisher: u64,
    n: u64,
) -> impl Future<Output = Result<Result<(), ()>, rookery::store::StoreError>> + use<> {
    store.commit(Lane::Asked, move |tx| {
        let version = tx.next(rookery::store::Counter::Version);
        let event = tx.next(rookery::store::Counter::Event);
        let state = [b"c".as_slice(), &publisher.to_be_bytes()].concat();
        let seq = tx.get(&state)?.map_or(0, |bytes| bytes.len() as u64) + n;
        let id = format!("{n:016x}-{publisher}");
        tx.put([b"i", publisher.to_be_bytes().as_slice(), id.as_bytes()].concat(), text(n, 150))?;
        tx.put([b"t", publisher.to_be_bytes().as_slice(), &seq.to_be_bytes()].concat(), id.into_bytes())?;
        tx.put([b"v".as_slice(), &version.to_be_bytes()].concat(), text(version, 1500))?;
        tx.put([b"e".as_slice(), &event.to_be_bytes()].concat(), text(event, 120))?;
        tx.put(state, seq.to_be_bytes().to_vec())?;
        Ok(Ok(()))
    })
}

fn grow(backend: Backend, folder: &str, items: u64, size: usize) -> Result<(), Failure> {
    let folder = Path::new(folder);
    println!("{}: memory before opening {}", backend.name(), memory()?);
    let kv = open_kv(backend, folder)?;
    println!("opened: memory {}, disk {} KB", memory()?, kv.disk_bytes() / 1000);
    let start = Instant::now();
    for n in 0..items / 64 {
        let mut rows: Vec<_> = (0..64).map(|i| (item_key(n, i), Some(text(n * 64 + i, size)))).collect();
        rows.sort();
        kv.apply(&rows)?;
    }
    let took = start.elapsed().as_secs_f64();
    let bytes = kv.disk_bytes() / 1_000_000;
    println!(
        "{items} items in groups of 64: {:.0} items/s, memory {}, disk {bytes} MB",
        items as f64 / took,
        memory()?
    );
    let start = Instant::now();
    let some = kv.range(b"i", b"j", 1000, false)?.len();
    println!("{some} of them read in {:?}", start.elapsed());
    drop(kv);
    let start = Instant::now();
    let kv = open_kv(backend, folder)?;
    println!("reopened in {:?}, memory {}, disk {} MB", start.elapsed(), memory()?, kv.disk_bytes() / 1_000_000);
    Ok(())
}

/// Resident memory, and that part of it that is not files.
fn memory() -> Result<String, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) as f64 / 1000.0
    };
    Ok(format!("{:.1} MB ({:.1} anonymous)", of("VmRSS:"), of("RssAnon:")))
}
