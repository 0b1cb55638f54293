//! Who may be at work: so many lanes of each class, and so many at each host. Who finds no place stands in line and is
//! called when one becomes free; nobody asks again and again. A host in trouble rests, and one lane tries it first.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::domain::delivery::{Destination, back_off};

/// Lanes of a class that are at work at one time, and those of them at one host.
const RUNNING: usize = 128;
const RUNNING_PER_HOST: usize = 4;
/// Lanes that are at work at callbacks at one time, of all classes: who asks there needs room for as many requests.
pub const AT_CALLBACKS: usize = (CLASSES.len() - 1) * RUNNING;
/// The longest that a host rests because one of its callbacks asked for it: others there may know nothing of it.
const REST_MOST: Duration = Duration::from_secs(900);

/// Who keeps a place for so long is slow.
const SLOW: Duration = Duration::from_secs(2);
/// The slow that are remembered. Were there more, they would be found out anew.
const SLOW_MOST: usize = 65_536;

/// Kinds of work, none of which waits for another: slow callbacks hold up neither the component's own link, nor those
/// who ask to be verified, nor callbacks that are quick; and whoever has many callbacks verified holds up no subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Over the component's own link.
    Own,
    /// To subscribers elsewhere.
    Push,
    /// To those of them who kept their last place for long.
    Slow,
    /// To who asks to become one.
    Verify,
}

const CLASSES: [Class; 4] = [Class::Own, Class::Push, Class::Slow, Class::Verify];

#[derive(Default)]
pub(super) struct Slots {
    classes: [Line; CLASSES.len()],
    hosts: HashMap<String, Host>,
    /// Hosts at which a place may have become free.
    freed: VecDeque<String>,
    /// Hosts to look at when their rest is over.
    resting: BTreeSet<(Timestamp, String)>,
    slow: HashSet<Destination>,
}

#[derive(Default)]
struct Line {
    running: usize,
    waiting: VecDeque<Destination>,
}

#[derive(Default)]
struct Host {
    lines: [Line; CLASSES.len()],
    /// Lanes that there are.
    lanes: usize,
    /// Failures in a row.
    failures: u32,
    /// The class that had a place last: while there is but one place for all, the others come first.
    last: usize,
    not_before: Timestamp,
    /// Its row in [`Slots::resting`].
    rests: Option<Timestamp>,
}

impl Host {
    fn running(&self) -> usize {
        self.lines.iter().map(|line| line.running).sum()
    }

    fn has_room(&self, class: Class, now: Timestamp) -> bool {
        self.not_before <= now
            && match self.failures {
                0 => self.lines[class as usize].running < RUNNING_PER_HOST,
                // A host in trouble is asked by one lane at a time.
                _ => self.running() == 0,
            }
    }

    fn has_waiting(&self) -> bool {
        self.lines.iter().any(|line| !line.waiting.is_empty())
    }
}

impl Slots {
    /// A lane to `host` came into being.
    pub fn opened(&mut self, host: Option<&str>) {
        if let Some(host) = host {
            self.hosts.entry(host.to_owned()).or_default().lanes += 1;
        }
    }

    /// A lane to `host` is no more.
    pub fn closed(&mut self, host: Option<&str>, now: Timestamp) {
        let Some(name) = host else { return };
        if let Some(host) = self.hosts.get_mut(name) {
            host.lanes = host.lanes.saturating_sub(1);
        }
        self.forget_if_idle(name, now);
    }

    /// Takes a place for a lane, and says of which class. `None`: there is none, the lane stands in line and comes out of
    /// [`Slots::next`].
    pub fn take(
        &mut self,
        class: Class,
        host: Option<&str>,
        destination: &Destination,
        now: Timestamp,
    ) -> Option<Class> {
        let class = match class {
            Class::Push if self.slow.contains(destination) => Class::Slow,
            class => class,
        };
        let line = &mut self.classes[class as usize];
        if line.running >= RUNNING {
            line.waiting.push_back(destination.clone());
            return None;
        }
        if let Some(name) = host {
            let host = self.hosts.entry(name.to_owned()).or_default();
            if !host.has_room(class, now) {
                host.lines[class as usize].waiting.push_back(destination.clone());
                if host.not_before > now {
                    rest(&mut self.resting, name, host);
                }
                return None;
            }
            host.lines[class as usize].running += 1;
            host.last = class as usize;
        }
        self.classes[class as usize].running += 1;
        Some(class)
    }

    /// A lane is done with its place, which it kept for `kept`.
    pub fn give_back(
        &mut self,
        class: Class,
        host: Option<&str>,
        destination: &Destination,
        kept: Duration,
        now: Timestamp,
    ) {
        match class {
            Class::Push if kept >= SLOW => {
                if self.slow.len() >= SLOW_MOST {
                    self.slow.clear();
                }
                self.slow.insert(destination.clone());
            }
            Class::Slow if kept < SLOW => drop(self.slow.remove(destination)),
            _ => {}
        }
        let line = &mut self.classes[class as usize];
        line.running = line.running.saturating_sub(1);
        let Some(name) = host else { return };
        if let Some(host) = self.hosts.get_mut(name) {
            let line = &mut host.lines[class as usize];
            line.running = line.running.saturating_sub(1);
            if host.has_waiting() {
                self.freed.push_back(name.to_owned());
            }
        }
        self.forget_if_idle(name, now);
    }

    /// Somebody in line for whom there may be a place now: they try again by [`Slots::take`].
    pub fn next(&mut self, now: Timestamp) -> Option<Destination> {
        for line in self.classes.iter_mut().filter(|line| line.running < RUNNING) {
            if let Some(destination) = line.waiting.pop_front() {
                return Some(destination);
            }
        }
        while let Some(name) = self.freed.front() {
            if let Some(host) = self.hosts.get_mut(name) {
                let free =
                    |class: &Class| host.has_room(*class, now) && !host.lines[*class as usize].waiting.is_empty();
                let from = if host.failures > 0 { host.last + 1 } else { 0 };
                if let Some(class) = CLASSES.into_iter().cycle().skip(from).take(CLASSES.len()).find(free) {
                    return host.lines[class as usize].waiting.pop_front();
                }
                if host.not_before > now && host.has_waiting() {
                    rest(&mut self.resting, name, host);
                }
            }
            self.freed.pop_front();
        }
        None
    }

    /// The host failed; how long whoever saw it waits. `after`: what it asked for; the host rests no longer than
    /// [`REST_MOST`]. Those that fail while it rests were begun before, and are no further failure.
    pub fn failed(&mut self, host: &str, after: Option<Duration>, jitter: f64, now: Timestamp) -> Duration {
        let host = self.hosts.entry(host.to_owned()).or_default();
        let rest = host.not_before.since(now);
        if rest.is_zero() {
            host.failures = host.failures.saturating_add(1);
        }
        let wait = match after {
            Some(after) => after.max(rest),
            None if rest.is_zero() => back_off(host.failures, jitter),
            None => rest,
        };
        let rests = after.map_or(wait, |after| after.min(REST_MOST).max(rest));
        host.not_before = now.plus(rests);
        wait
    }

    /// A person wants the host tried now: its rest is over, and one lane tries it first.
    pub fn lift(&mut self, name: &str) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.not_before = Timestamp::default();
            self.freed.push_back(name.to_owned());
        }
    }

    /// The host answered. While it rests, that is the end of something begun before, and says nothing.
    pub fn answered(&mut self, name: &str, now: Timestamp) {
        if let Some(host) = self.hosts.get_mut(name)
            && host.failures > 0
            && host.not_before <= now
        {
            (host.failures, host.not_before) = (0, Timestamp::default());
            self.freed.push_back(name.to_owned());
        }
    }

    /// When a host's rest is over next.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.resting.first().map(|(at, _)| *at)
    }

    /// Has those looked at whose rest is over.
    pub fn wake_due(&mut self, now: Timestamp) {
        while self.next_at().is_some_and(|at| at <= now)
            && let Some((_, name)) = self.resting.pop_first()
        {
            if let Some(host) = self.hosts.get_mut(&name) {
                host.rests = None;
            }
            self.forget_if_idle(&name, now);
            self.freed.push_back(name);
        }
    }

    /// The clock was set back: nobody rests for longer than was meant.
    pub fn set_back(&mut self, now: Timestamp) {
        self.resting.clear();
        for (name, host) in &mut self.hosts {
            host.rests = None;
            host.not_before = host.not_before.min(now);
            self.freed.push_back(name.clone());
        }
    }

    /// What is remembered of a host goes when nobody has to do with it, one in trouble after its rest.
    fn forget_if_idle(&mut self, name: &str, now: Timestamp) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        if host.lanes > 0 || host.running() > 0 || host.has_waiting() {
            return;
        }
        if host.not_before > now {
            rest(&mut self.resting, name, host);
            return;
        }
        if let Some(at) = host.rests {
            self.resting.remove(&(at, name.to_owned()));
        }
        self.hosts.remove(name);
    }
}

/// Has `host` looked at when its rest is over.
fn rest(resting: &mut BTreeSet<(Timestamp, String)>, name: &str, host: &mut Host) {
    if host.rests == Some(host.not_before) {
        return;
    }
    if let Some(before) = host.rests.replace(host.not_before) {
        resting.remove(&(before, name.to_owned()));
    }
    resting.insert((host.not_before, name.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn hub(n: u64) -> Destination {
        Destination::Hub(n)
    }

    /// Gives back a place that was kept for a moment.
    fn give_back(slots: &mut Slots, class: Class, host: Option<&str>, n: u64) {
        slots.give_back(class, host, &hub(n), Duration::from_millis(20), NOW);
    }

    /// Takes a place for each of `range` at `host`; how many got one.
    fn take(slots: &mut Slots, class: Class, host: &str, range: std::ops::Range<u64>) -> usize {
        range
            .filter(|n| {
                slots.opened(Some(host));
                slots.take(class, Some(host), &hub(*n), NOW).is_some()
            })
            .count()
    }

    #[test]
    fn of_ten_thousand_lanes_of_a_host_each_place_that_becomes_free_calls_the_next_and_only_that() {
        let mut slots = Slots::default();
        assert_eq!(take(&mut slots, Class::Push, "a", 0..10_000), RUNNING_PER_HOST);
        assert_eq!(slots.next(NOW), None);
        for n in 4..10_000 {
            give_back(&mut slots, Class::Push, Some("a"), n - 4);
            let called = slots.next(NOW).unwrap();
            assert_eq!(called, hub(n));
            assert!(slots.take(Class::Push, Some("a"), &called, NOW).is_some());
            assert_eq!(slots.next(NOW), None);
        }
    }

    #[test]
    fn who_was_called_and_has_nothing_to_do_any_more_does_not_keep_the_place_from_the_next() {
        let mut slots = Slots::default();
        take(&mut slots, Class::Push, "a", 0..7);
        give_back(&mut slots, Class::Push, Some("a"), 0);
        assert_eq!([slots.next(NOW), slots.next(NOW)], [Some(hub(4)), Some(hub(5))]);
        for n in 0..200 {
            assert_eq!(slots.take(Class::Own, None, &hub(n), NOW).is_some(), n < 128);
        }
        give_back(&mut slots, Class::Own, None, 0);
        assert_eq!([slots.next(NOW), slots.next(NOW)], [Some(hub(128)), Some(hub(129))]);
    }

    #[test]
    fn no_class_waits_for_another_neither_in_all_nor_at_a_host() {
        let mut slots = Slots::default();
        for class in CLASSES {
            assert_eq!((0..200).map(|n| take(&mut slots, class, &format!("{n}"), n..n + 1)).sum::<usize>(), RUNNING);
        }
        let mut slots = Slots::default();
        for class in CLASSES {
            assert_eq!(take(&mut slots, class, "a", 0..200), RUNNING_PER_HOST);
        }
    }

    #[test]
    fn who_keeps_a_place_for_long_takes_none_of_those_who_are_quick_the_next_time() {
        let mut slots = Slots::default();
        let each = |slots: &mut Slots, range: std::ops::Range<u64>| -> Vec<Class> {
            range.filter_map(|n| slots.take(Class::Push, Some(&format!("{n}")), &hub(n), NOW)).collect()
        };
        assert_eq!(each(&mut slots, 0..128), [Class::Push; 128]);
        for n in 0..128 {
            slots.give_back(Class::Push, Some(&format!("{n}")), &hub(n), SLOW, NOW);
        }
        assert_eq!(each(&mut slots, 0..128), [Class::Slow; 128]);
        assert_eq!(each(&mut slots, 200..400), [Class::Push; 128]);
        give_back(&mut slots, Class::Slow, Some("5"), 5);
        give_back(&mut slots, Class::Push, Some("200"), 200);
        assert_eq!(each(&mut slots, 5..6), [Class::Push], "it was quick");
    }

    #[test]
    fn who_asks_for_a_day_waits_a_day_and_its_host_a_quarter_of_an_hour() {
        let mut slots = Slots::default();
        take(&mut slots, Class::Push, "a", 0..1);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(slots.failed("a", Some(day), 0.0, NOW), day);
        give_back(&mut slots, Class::Push, Some("a"), 0);
        let before = NOW.plus(REST_MOST - Duration::from_secs(1));
        assert!(slots.take(Class::Push, Some("a"), &hub(1), before).is_none());
        assert!(slots.take(Class::Push, Some("a"), &hub(2), NOW.plus(REST_MOST)).is_some());
    }

    #[test]
    fn a_host_in_trouble_rests_and_is_then_asked_by_one_until_it_answers() {
        let mut slots = Slots::default();
        take(&mut slots, Class::Push, "a", 0..20);
        // What was begun before the trouble says nothing more of it, and nothing against it.
        for _ in 0..3 {
            assert_eq!(slots.failed("a", None, 0.0, NOW), Duration::from_secs(5));
        }
        slots.answered("a", NOW);
        (0..4).for_each(|n| give_back(&mut slots, Class::Push, Some("a"), n));
        assert_eq!((slots.next(NOW), slots.next_at()), (None, Some(NOW.plus(Duration::from_secs(5)))));
        let later = NOW.plus(Duration::from_secs(5));
        slots.wake_due(later);
        assert_eq!(slots.next(later), Some(hub(4)));
        assert!(slots.take(Class::Push, Some("a"), &hub(4), later).is_some());
        assert!(slots.take(Class::Verify, Some("a"), &hub(100), later).is_none());
        assert_eq!(slots.hosts["a"].failures, 1);
        assert_eq!(slots.next(later), None);
        slots.answered("a", later);
        for n in 5..8 {
            assert_eq!(slots.next(later), Some(hub(n)));
            assert!(slots.take(Class::Push, Some("a"), &hub(n), later).is_some());
        }
        assert_eq!(slots.next(later), Some(hub(100)));
    }

    #[test]
    fn at_a_host_in_trouble_each_class_has_its_turn() {
        let mut slots = Slots::default();
        take(&mut slots, Class::Push, "a", 0..6);
        take(&mut slots, Class::Verify, "a", 10..15);
        (0..4).for_each(|n| give_back(&mut slots, Class::Push, Some("a"), n));
        (10..14).for_each(|n| give_back(&mut slots, Class::Verify, Some("a"), n));
        let (mut now, mut tried) = (NOW, Vec::new());
        for _ in 0..3 {
            now = now.plus(slots.failed("a", None, 0.0, now));
            slots.wake_due(now);
            let called = slots.next(now).unwrap();
            let class = if called == hub(14) { Class::Verify } else { Class::Push };
            assert!(slots.take(class, Some("a"), &called, now).is_some());
            tried.push(called.clone());
            // Who pushes comes again each time.
            slots.failed("a", None, 0.0, now);
            slots.give_back(class, Some("a"), &called, Duration::from_millis(20), now);
            if class == Class::Push {
                assert!(slots.take(class, Some("a"), &called, now).is_none());
            }
        }
        assert!(tried.contains(&hub(14)), "{tried:?}");
    }

    #[test]
    fn a_host_is_forgotten_with_its_last_lane_and_after_its_rest() {
        let mut slots = Slots::default();
        for name in ["well", "ill"] {
            take(&mut slots, Class::Push, name, 0..1);
        }
        slots.failed("ill", None, 0.0, NOW);
        for name in ["well", "ill"] {
            give_back(&mut slots, Class::Push, Some(name), 0);
            assert!(slots.hosts.contains_key(name), "its lane may have more");
            slots.closed(Some(name), NOW);
        }
        assert_eq!(slots.hosts.keys().collect::<Vec<_>>(), ["ill"]);
        slots.wake_due(NOW.plus(Duration::from_secs(5)));
        assert!(slots.hosts.is_empty() && slots.resting.is_empty());
    }
}
