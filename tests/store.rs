//! One suite for every backend: a store is a sorted map that is whole after each batch, through reopening and kill.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rookery::store::{Backend, Kv, KvError, open_kv};

const ON_DISK: [Backend; 2] = [Backend::Sled, Backend::Fjall];

type Model = BTreeMap<Vec<u8>, Bytes>;
type Batch = Vec<(Vec<u8>, Option<Bytes>)>;

/// `length` bytes that differ with `seed` and with their place.
fn value(seed: u64, length: usize) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

fn check(kv: &dyn Kv, model: &Model, probe: (&[u8], &[u8], usize)) {
    let (from, to, limit) = probe;
    for (key, value) in model {
        assert!(kv.get(key).unwrap().as_ref() == Some(value), "the value under {key:?}");
    }
    for reverse in [false, true] {
        let all = kv.range(&[1], &[255; 20], usize::MAX, reverse).unwrap();
        let mut expected: Vec<_> = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        if reverse {
            expected.reverse();
        }
        assert!(all == expected, "all rows: {} instead of {}", all.len(), expected.len());
        expected.retain(|(key, _)| key.as_slice() >= from && key.as_slice() < to);
        expected.truncate(limit);
        assert!(kv.range(from, to, limit, reverse).unwrap() == expected, "rows {from:?}..{to:?}, {limit}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Per key: the length of its new value, or its deletion.
    Apply(BTreeMap<Vec<u8>, Option<usize>>),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few and alike, so that they are overwritten, deleted, and stand in one another's way.
    prop_oneof![
        8 => vec(prop_oneof![Just(1u8), Just(b'a'), Just(b'b'), Just(255)], 1..4),
        2 => (vec(Just(b'k'), 1..3), vec(Just(0u8), 0..6), any::<u8>())
            .prop_map(|(a, b, c)| [a, b, vec![c]].concat()),
        1 => (1..1500usize).prop_map(|length| vec![b'l'; length]),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        10 => 0..3000usize,
        3 => prop_oneof![Just(4095usize), Just(4096), Just(4097), Just(8192), Just(8193)],
        2 => 3000..20_000usize,
        1 => 20_000..200_000usize,
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let batch = btree_map(key(), proptest::option::weighted(0.7, length()), 1..12);
    vec(prop_oneof![6 => batch.prop_map(Step::Apply), 1 => Just(Step::Reopen)], 1..16)
}

fn behaves_as_a_map(backend: Backend, steps: &[Step], probe: (&[u8], &[u8], usize)) {
    let folder = tempfile::tempdir().unwrap();
    let mut kv = open_kv(backend, folder.path()).unwrap();
    let mut model = Model::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Apply(batch) => {
                let seed = |key: &[u8]| (number as u64) << 32 | key.len() as u64;
                let batch: Batch =
                    batch.iter().map(|(k, length)| (k.clone(), length.map(|l| value(seed(k), l)))).collect();
                kv.apply(&batch).unwrap();
                for (key, value) in batch {
                    match value {
                        Some(value) => drop(model.insert(key, value)),
                        None => drop(model.remove(&key)),
                    }
                }
            }
            Step::Reopen if backend != Backend::Memory => {
                drop(kv);
                kv = reopen(backend, folder.path());
            }
            Step::Reopen => {}
        }
        check(&*kv, &model, probe);
    }
}

/// Opens a store that was just closed. A process that another test begins meanwhile holds our lock, and that of sled's own
/// file, until it is another program.
fn reopen(backend: Backend, folder: &Path) -> Arc<dyn Kv> {
    for _ in 0..100 {
        match open_kv(backend, folder) {
            Err(rookery::store::OpenError::Locked { .. }) => {}
            Err(error) if error.to_string().contains("could not acquire lock") => {}
            opened => return opened.unwrap(),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the store stays locked")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_backend_behaves_as_a_sorted_map(steps in steps(), from in key(), to in key(), limit in 0..9usize) {
        for backend in Backend::ALL {
            behaves_as_a_map(backend, &steps, (&from, &to, limit));
        }
    }
}

#[test]
fn a_batch_that_no_backend_takes_is_refused_whole() {
    for backend in Backend::ALL {
        let folder = tempfile::tempdir().unwrap();
        let kv = open_kv(backend, folder.path()).unwrap();
        let put = |key: &[u8], length| (key.to_vec(), Some(value(1, length)));
        for (why, batch) in [
            ("an empty key", vec![put(b"", 1), put(b"a", 1)]),
            ("a zero byte first", vec![put(b"\0a", 1), put(b"a", 1)]),
            ("a key too long", vec![put(b"a", 1), put(&[b'b'; 8193], 1)]),
            ("a value too long", vec![put(b"a", 1), put(b"b", (1 << 20) + 1)]),
            ("a key twice", vec![put(b"a", 1), put(b"a", 2)]),
            ("keys out of order", vec![put(b"b", 1), put(b"a", 1)]),
        ] {
            assert!(matches!(kv.apply(&batch), Err(KvError::Unfit(_))), "{backend:?}: {why}");
            assert!(kv.get(b"a").unwrap().is_none(), "{backend:?}: {why}");
        }
        kv.apply(&[put(&[b'b'; 8192], 1 << 20)]).unwrap();
        assert_eq!(kv.get(&[b'b'; 8192]).unwrap(), Some(value(1, 1 << 20)), "{backend:?}: the largest row fits");
    }
}

#[test]
fn a_range_never_shows_a_part_of_a_batch() {
    for backend in Backend::ALL {
        let folder = tempfile::tempdir().unwrap();
        let kv = open_kv(backend, folder.path()).unwrap();
        // Every batch writes its number into all rows, and moves one row along; some values are in pieces.
        let batch = |n: u64| -> Batch {
            let mut rows: BTreeMap<Vec<u8>, Option<Bytes>> =
                (0..40u8).map(|i| (vec![b'r', i], Some(number(n, if i % 10 == 0 { 10_000 } else { 100 })))).collect();
            rows.insert(vec![b'r', 100 + (n % 100) as u8], Some(number(n, 100)));
            rows.insert(vec![b'r', 100 + (n.wrapping_sub(1) % 100) as u8], None);
            rows.into_iter().collect()
        };
        kv.apply(&batch(1)).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let rows = kv.range(b"r", b"s", 1000, false).unwrap();
                        let seen: std::collections::BTreeSet<u64> = rows.iter().map(|(_, v)| number_in(v)).collect();
                        assert_eq!(rows.len(), 41, "{backend:?}: a row too many or too few");
                        assert_eq!(seen.len(), 1, "{backend:?}: rows of several batches: {seen:?}");
                        assert!(seen.first() >= Some(&last), "{backend:?}: back in time");
                        last = *seen.first().unwrap();
                    }
                });
            }
            for n in 2..150 {
                kv.apply(&batch(n)).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}

fn number(n: u64, length: usize) -> Bytes {
    [n.to_be_bytes().as_slice(), &vec![n as u8; length]].concat().into()
}

fn number_in(value: &[u8]) -> u64 {
    let (n, rest) = value.split_at(8);
    let n = u64::from_be_bytes(n.try_into().unwrap());
    assert!(rest.iter().all(|byte| *byte == n as u8), "a value of several batches");
    n
}

// ---- kill ----

/// The rows of batch `n`: new ones of several sizes, one that every batch overwrites, one of seven that it shares, and
/// the deletion of what batch `n - 20` wrote.
fn crash_batch(n: u64) -> Batch {
    let mut rows = BTreeMap::new();
    for (i, length) in crash_rows(n) {
        rows.insert(crash_key(n, i), Some(value(n * 100 + i, length)));
    }
    rows.insert(b"last".to_vec(), Some(Bytes::from(n.to_be_bytes().to_vec())));
    rows.insert(vec![b's', (n % 7) as u8], Some(value(n, if n % 14 < 7 { 6000 } else { 60 })));
    if let Some(gone) = n.checked_sub(20) {
        rows.extend(crash_rows(gone).map(|(i, _)| (crash_key(gone, i), None)));
    }
    rows.into_iter().collect()
}

fn crash_rows(n: u64) -> impl Iterator<Item = (u64, usize)> {
    let large = match n % 8 {
        3 => 16_000,
        7 => 200_000,
        _ => 1_000,
    };
    [60, 1_500, large, 0].into_iter().enumerate().map(|(i, length)| (i as u64, length))
}

fn crash_key(n: u64, i: u64) -> Vec<u8> {
    // Not in the order of time, so that they land all over the tree.
    [b"c".as_slice(), &value(n, 4), &n.to_be_bytes(), &[i as u8]].concat()
}

const CHILD: &str = "ROOKERY_STORE_CRASH_CHILD";

/// Not a test of its own: what the crash tests start and kill. Applies numbered batches, says each number when it is
/// answered.
#[test]
fn crash_child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (backend, path) = what.split_once(' ').unwrap();
    let kv = reopen(Backend::named(backend).unwrap(), Path::new(path));
    let mut out = std::io::stdout();
    for n in last_batch(&*kv) + 1.. {
        kv.apply(&crash_batch(n)).unwrap();
        writeln!(out, "\nacknowledged {n}").unwrap();
        out.flush().unwrap();
    }
}

fn last_batch(kv: &dyn Kv) -> u64 {
    kv.get(b"last").unwrap().map_or(0, |bytes| u64::from_be_bytes(bytes.as_ref().try_into().unwrap()))
}

/// Runs the child until `after` the first answer, kills it, and gives the last number it said.
fn run_and_kill(backend: Backend, path: &Path, after: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["crash_child", "--exact", "--nocapture"])
        .env(CHILD, format!("{} {}", backend.name(), path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = |line: std::io::Result<String>| line.ok()?.strip_prefix("acknowledged ")?.parse::<u64>().ok();
    let first = lines.by_ref().find_map(said).expect("the child answers at least once");
    let last = std::thread::scope(|scope| {
        // Reads all the while, so that the pipe never holds the child up.
        let reader = scope.spawn(|| lines.filter_map(said).fold(first, |_, n| n));
        std::thread::sleep(after);
        child.kill().unwrap();
        reader.join().unwrap()
    });
    child.wait().unwrap();
    last
}

/// Every batch up to the last is whole, nothing of a later one is there.
fn check_after_crash(kv: &dyn Kv, acknowledged: u64) -> u64 {
    let last = last_batch(kv);
    assert!(last >= acknowledged, "batch {acknowledged} was acknowledged, the store ends at {last}");
    assert!(last <= acknowledged + 1, "batch {last} was written before {} was answered", acknowledged + 1);
    let mut model = Model::new();
    for n in last.saturating_sub(21).max(1)..=last {
        for (key, value) in crash_batch(n) {
            match value {
                Some(value) => drop(model.insert(key, value)),
                None => drop(model.remove(&key)),
            }
        }
    }
    check(kv, &model, (b"c", b"d", 5));
    last
}

fn survives_kills(backend: Backend) {
    let folder = tempfile::tempdir().unwrap();
    let kills: u64 = std::env::var("ROOKERY_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(40);
    let (mut acknowledged, mut unanswered) = (0, 0);
    for kill in 0..kills {
        let after = Duration::from_micros(u64::from(value(kill, 2)[0]) * 300);
        let said = run_and_kill(backend, folder.path(), after);
        assert!(said > acknowledged, "the child goes on where the last one ended");
        let kv = reopen(backend, folder.path());
        acknowledged = check_after_crash(&*kv, said);
        unanswered += acknowledged - said;
    }
    println!(
        "{}: {kills} kills, {acknowledged} batches, lost 0, torn 0, kept though unanswered {unanswered}",
        backend.name()
    );
}

#[test]
fn sled_keeps_what_it_acknowledged_through_kills() {
    survives_kills(ON_DISK[0]);
}

#[test]
fn fjall_keeps_what_it_acknowledged_through_kills() {
    survives_kills(ON_DISK[1]);
}

/// A batch goes into memory row by row, in the order of its keys: who reads its first row and then its last must not see
/// the one as new and the other as old.
#[test]
fn reads_of_one_moment_see_no_batch_in_part() {
    for backend in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        let kv: Arc<dyn Kv> = open_kv(backend, folder.path()).unwrap();
        let batch = |n: u64| {
            let fillers = (0..500_u16).map(|k| [b"m".as_slice(), &k.to_be_bytes()].concat());
            let keys = [b"a".to_vec()].into_iter().chain(fillers).chain([b"z".to_vec()]);
            keys.map(|key| (key, Some(Bytes::copy_from_slice(&n.to_be_bytes())))).collect::<Batch>()
        };
        kv.apply(&batch(0)).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (kv, done) = (kv.clone(), done.clone());
            move || {
                let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
                let (mut looks, mut newest) = (0, 0);
                while !done.load(Ordering::SeqCst) {
                    let moment = kv.moment();
                    let get = |key: &[u8]| moment.as_ref().map_or_else(|| kv.get(key), |moment| moment.get(key));
                    let range = |from: &[u8], to: &[u8]| match &moment {
                        Some(moment) => moment.range(from, to, 1, false),
                        None => kv.range(from, to, 1, false),
                    };
                    let first = number(&get(b"a").unwrap().unwrap());
                    let last = number(&range(b"z", b"zz").unwrap()[0].1);
                    assert!(first <= last, "{backend:?}: the first row is of batch {first}, the last of {last}");
                    assert!(newest <= first, "{backend:?}: batch {newest} was there already, and now {first}");
                    (looks, newest) = (looks + 1, first);
                }
                looks
            }
        });
        for n in 1..300 {
            kv.apply(&batch(n)).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        let looks: u64 = reader.join().unwrap();
        assert!(looks > 100, "only {looks} looks");
    }
}
