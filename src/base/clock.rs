//! Time as a value that is given, never read in passing: the system's clock, or one that a test moves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Microseconds since 1970-01-01T00:00:00Z. Orders like time; never negative in what we store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const fn from_secs(secs: i64) -> Self {
        Timestamp(secs * 1_000_000)
    }

    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// RFC 3339, UTC, whole seconds: `2026-11-22T04:02:04Z`.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_second(self.secs()) {
            Ok(t) => t.to_string(),
            Err(_) => "1970-01-01T00:00:00Z".to_owned(),
        }
    }

    /// The day in UTC, `2026-11-22`: what a tag: URI carries (RFC 4151 §2.1).
    pub fn day(self) -> String {
        self.rfc3339()[..10].to_owned()
    }

    /// An IMF-fixdate (RFC 9110 §5.6.7): `Sun, 22 Nov 2026 04:02:04 GMT`.
    pub fn http_date(self) -> String {
        let at = jiff::Timestamp::from_second(self.secs()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&at)
            .unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
    }

    /// Reads an RFC 3339 / XEP-0082 date and time with any offset; `None` if it is not one.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at: jiff::Timestamp = text.trim().parse().ok()?;
        Some(Timestamp(at.as_microsecond()))
    }

    pub fn plus(self, d: Duration) -> Self {
        Timestamp(self.0.saturating_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to this; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Microseconds since the clock was made: what intervals are measured by. Unlike a [`Timestamp`] it never jumps, whoever
/// sets the machine's clock; of another clock, or another process, it says nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Moment(pub u64);

impl Moment {
    pub fn plus(self, d: Duration) -> Self {
        Moment(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` to this; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A handle on the clock in use; cheap to clone.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    System { made: Instant, at: Timestamp },
    Manual(Arc<Mutex<Manual>>),
}

struct Manual {
    made: Timestamp,
    now: Timestamp,
    moment: Moment,
    next: u64,
    sleepers: BTreeMap<(Moment, u64), oneshot::Sender<()>>,
}

impl Clock {
    pub fn system() -> Self {
        Clock(Kind::System { made: Instant::now(), at: system_now() })
    }

    /// A clock that stands still until [`Clock::advance`].
    pub fn manual(now: Timestamp) -> Self {
        let manual = Manual { made: now, now, moment: Moment::default(), next: 0, sleepers: BTreeMap::new() };
        Clock(Kind::Manual(Arc::new(Mutex::new(manual))))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System { .. } => system_now(),
            Kind::Manual(m) => lock(m).now,
        }
    }

    /// The same time as [`Clock::sleep`] takes.
    pub fn moment(&self) -> Moment {
        match &self.0 {
            Kind::System { made, .. } => Moment::default().plus(made.elapsed()),
            Kind::Manual(m) => lock(m).moment,
        }
    }

    /// How long ago `at` was, but for what this clock was set forward by since then (or the machine slept), as far as that
    /// can be known: for what must not be given up without a try because somebody mended the clock.
    pub fn lived_since(&self, at: Timestamp) -> Duration {
        let made = match &self.0 {
            Kind::System { at, .. } => *at,
            Kind::Manual(m) => lock(m).made,
        };
        // What this clock would show now, had nobody set it.
        let unset = made.plus(self.moment().since(Moment::default()));
        // What is later than that was written after the clock was set.
        if at > unset { self.now().since(at) } else { self.now().min(unset).since(at) }
    }

    /// Sleeps by this clock: real time, or until a test has moved the clock that far.
    pub async fn sleep(&self, d: Duration) {
        match &self.0 {
            Kind::System { .. } => tokio::time::sleep(d).await,
            Kind::Manual(m) => {
                let woken = {
                    let mut m = lock(m);
                    if d.is_zero() {
                        return;
                    }
                    let (tx, rx) = oneshot::channel();
                    let key = (m.moment.plus(d), m.next);
                    m.next += 1;
                    m.sleepers.insert(key, tx);
                    rx
                };
                let _ = woken.await;
            }
        }
    }

    /// Sets a manual clock back, as an administrator does; who sleeps, sleeps as long as was meant. Does nothing to the
    /// system's clock.
    pub fn set_back(&self, d: Duration) {
        if let Kind::Manual(m) = &self.0 {
            let mut m = lock(m);
            m.now = Timestamp(m.now.0.saturating_sub(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)));
        }
    }

    /// Sets a manual clock forward; likewise.
    pub fn set_forward(&self, d: Duration) {
        if let Kind::Manual(m) = &self.0 {
            let mut m = lock(m);
            m.now = m.now.plus(d);
        }
    }

    /// Lets time pass by a manual clock, and wakes who slept until then. Does nothing to the system's clock.
    pub fn advance(&self, d: Duration) {
        if let Kind::Manual(m) = &self.0 {
            let mut m = lock(m);
            (m.now, m.moment) = (m.now.plus(d), m.moment.plus(d));
            let later = {
                let now = m.moment;
                m.sleepers.split_off(&(Moment(now.0.saturating_add(1)), 0))
            };
            for (_, tx) in std::mem::replace(&mut m.sleepers, later) {
                let _ = tx.send(());
            }
        }
    }
}

fn system_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn lock(m: &Mutex<Manual>) -> std::sync::MutexGuard<'_, Manual> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_what_it_writes() {
        let t = Timestamp::from_secs(1_795_320_124);
        assert_eq!(Timestamp::parse_rfc3339(&t.rfc3339()), Some(t));
        assert_eq!(
            Timestamp::parse_rfc3339("2026-11-22T05:02:04+01:00"),
            Timestamp::parse_rfc3339("2026-11-22T04:02:04Z")
        );
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        assert_eq!(Timestamp::from_secs(784_111_777).http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(Timestamp::from_secs(784_111_777).day(), "1994-11-06");
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_only_whose_time_has_come() {
        let clock = Clock::manual(Timestamp::from_secs(10));
        let (short, long) = (clock.clone(), clock.clone());
        let short = tokio::spawn(async move { short.sleep(Duration::from_secs(1)).await });
        let long = tokio::spawn(async move { long.sleep(Duration::from_secs(5)).await });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(1));
        short.await.unwrap();
        assert!(!long.is_finished());
        clock.advance(Duration::from_secs(4));
        long.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_sets_the_clock_moves_no_moment_and_no_sleeper() {
        let clock = Clock::manual(Timestamp::from_secs(10_000));
        let sleeper = clock.clone();
        let asleep = tokio::spawn(async move { sleeper.sleep(Duration::from_secs(5)).await });
        tokio::task::yield_now().await;
        let begun = clock.moment();
        clock.set_back(Duration::from_secs(3_600));
        clock.set_forward(Duration::from_secs(7_200));
        assert_eq!((clock.now(), clock.moment()), (Timestamp::from_secs(13_600), begun));
        assert_eq!(clock.lived_since(Timestamp::from_secs(10_000)), Duration::ZERO);
        assert_eq!(clock.lived_since(Timestamp::from_secs(9_000)), Duration::from_secs(1_000));
        assert_eq!(clock.lived_since(Timestamp::from_secs(13_000)), Duration::from_secs(600), "after it was set");
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!asleep.is_finished());
        clock.advance(Duration::from_secs(1));
        asleep.await.unwrap();
        assert_eq!(clock.moment().since(begun), Duration::from_secs(5));
        let system = Clock::system();
        let before = system.moment();
        assert!(before < Moment::default().plus(Duration::from_secs(3_600)));
        assert!(system.clone().moment() >= before);
    }
}
