//! What the people of the crash test know, each from their own side of the wire, and the third party that compares.
//!
//! Writers know what they sent and what was acknowledged, subscribers what they heard. Every entry carries a number of
//! one common clock, counted and not measured: "before" is then a fact and not a matter of milliseconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Instant;

/// Where an item stands: service and node.
pub type Place = (String, String);

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No answer yet.
    Open,
    Acknowledged(u64),
    Refused(u64, String),
    /// The stream ended first: done whole, or not at all.
    Unknown,
}

/// One publish (`title` is what the entry says, unique among all), retract, purge or change of configuration.
#[derive(Clone, Debug)]
pub struct Act {
    pub place: Place,
    pub item: String,
    pub what: What,
    pub sent: u64,
    pub fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    Published(String),
    Retracted,
    /// These two say nothing by which they could be told apart: they are counted. The item is empty.
    Purged,
    Configured,
    /// The whole node, once. The item is empty.
    Deleted,
}

/// A subscribe (`on`) or unsubscribe.
#[derive(Clone, Debug)]
pub struct Wish {
    pub who: String,
    pub place: Place,
    pub on: bool,
    pub sent: u64,
    pub fate: Fate,
}

/// A notification as it came.
#[derive(Clone, Debug)]
pub struct Heard {
    pub who: String,
    pub place: Place,
    pub item: String,
    pub what: What,
    /// The message's id, by which a receiver knows a repetition.
    pub id: String,
    /// In which session of the component, and when.
    pub session: u64,
    pub at: Instant,
}

#[derive(Default)]
pub struct Ledger {
    clock: u64,
    pub acts: Vec<Act>,
    pub wishes: Vec<Wish>,
    pub heard: Vec<Heard>,
    /// Entries whose text came without its end, wherever they were seen.
    pub torn: Vec<String>,
    /// What is counted apart: all that was sent from a number of the clock on belongs to a row of the verdict.
    pub windows: Vec<(u64, usize)>,
}

impl Ledger {
    /// From now on what is sent belongs to `row`.
    pub fn begin(&mut self, row: usize) {
        let now = self.tick();
        self.windows.push((now, row));
    }

    /// The row of what was sent at `sent`.
    pub fn row(&self, sent: u64) -> usize {
        let after = self.windows.partition_point(|(begin, _)| *begin <= sent);
        after.checked_sub(1).map_or(0, |at| self.windows[at].1)
    }

    /// A deletion that was not answered is asked for again; now it is known to be done.
    pub fn is_deleted(&mut self, place: &Place) {
        let now = self.tick();
        for act in self.acts.iter_mut().filter(|act| act.place == *place && act.what == What::Deleted) {
            act.fate = Fate::Acknowledged(now);
        }
    }

    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// What stands in the nodes when all is quiet: the items with their titles, in the order of the node.
pub type Stock = BTreeMap<Place, Vec<(String, String)>>;

/// What is asked of a node beside the subscribers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// One writer; the node keeps this many items. Its order is that of the requests.
    One(usize),
    /// Several, who only publish: its order is what `items` shows.
    Many,
}

/// What is counted.
#[derive(Clone, Copy, Default)]
pub struct Row {
    pub acknowledged: usize,
    /// Pairs of what happened and who was subscribed before.
    pub promised: usize,
    pub received: usize,
    /// Notifications that came once more, as the wire brought them.
    pub repeated: usize,
    /// Those of them that a receiver does not know for repetitions: they came under another id.
    pub repeated_after: usize,
}

#[derive(Default)]
pub struct Verdict {
    rows: Vec<Row>,
    pub lost: Vec<String>,
    /// Told in the wrong order, to somebody who was not subscribed, or never sent by anybody.
    pub wrong: Vec<String>,
}

impl Row {
    pub fn plus(mut self, other: &Row) -> Row {
        self.acknowledged += other.acknowledged;
        self.promised += other.promised;
        self.received += other.received;
        self.repeated += other.repeated;
        self.repeated_after += other.repeated_after;
        self
    }

    /// Of what was promised.
    pub fn percent_repeated(&self) -> f64 {
        100.0 * self.repeated as f64 / (self.received.max(1)) as f64
    }
}

impl Verdict {
    pub fn row(&mut self, at: usize) -> &mut Row {
        if self.rows.len() <= at {
            self.rows.resize(at + 1, Row::default());
        }
        &mut self.rows[at]
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn all(&self) -> Row {
        self.rows.iter().fold(Row::default(), |all, row| all.plus(row))
    }

    /// Everything that is wrong, some of it by name.
    pub fn complaints(&self) -> Option<String> {
        if self.lost.is_empty() && self.wrong.is_empty() {
            return None;
        }
        let mut text = format!("{} lost, {} wrong", self.lost.len(), self.wrong.len());
        for (what, all) in [("lost", &self.lost), ("wrong", &self.wrong)] {
            for one in all.iter().take(12) {
                text.push_str(&format!("\n  {what}: {one}"));
            }
        }
        Some(text)
    }
}

/// Compares what was acknowledged with what is there and with what was heard.
///
/// An unanswered request counts as done if anybody saw its effect; then all of it must have been done.
pub fn compare(ledger: &Ledger, writers: &BTreeMap<Place, Writers>, stock: &Stock) -> Verdict {
    let mut verdict = Verdict { wrong: ledger.torn.clone(), ..Verdict::default() };
    let mut heard: HashMap<&Place, HeardBy> = HashMap::new();
    for h in &ledger.heard {
        heard.entry(&h.place).or_default().entry(&h.who).or_default().push(((&h.item, &h.what), &h.id));
    }
    for act in ledger.acts.iter().filter(|act| matches!(act.fate, Fate::Acknowledged(_))) {
        verdict.row(ledger.row(act.sent)).acknowledged += 1;
    }
    for (place, kind) in writers {
        let none = BTreeMap::new();
        let mut wishes: BTreeMap<&str, Vec<&Wish>> = BTreeMap::new();
        for wish in ledger.wishes.iter().filter(|wish| wish.place == *place) {
            wishes.entry(&wish.who).or_default().push(wish);
        }
        let node = Node {
            ledger,
            name: format!("{} at {}", place.1, place.0),
            acts: ledger.acts.iter().filter(|act| act.place == *place).collect(),
            wishes,
            heard: heard.get(place).unwrap_or(&none),
            stock: stock.get(place).map(Vec::as_slice).unwrap_or_default(),
        };
        node.compare(*kind, &mut verdict);
    }
    verdict
}

/// What names an act in its node.
type Key<'a> = (&'a str, &'a What);

/// What each subscriber of a node heard, in order, with repeats and with the messages' ids.
type HeardBy<'a> = BTreeMap<&'a str, Vec<(Key<'a>, &'a str)>>;

struct Node<'a> {
    ledger: &'a Ledger,
    name: String,
    acts: Vec<&'a Act>,
    wishes: BTreeMap<&'a str, Vec<&'a Wish>>,
    heard: &'a HeardBy<'a>,
    stock: &'a [(String, String)],
}

impl<'a> Node<'a> {
    fn compare(&self, kind: Writers, verdict: &mut Verdict) {
        let done = self.done();
        match kind {
            Writers::One(most) => self.compare_stock(&expected(&done, most), &done, verdict),
            Writers::Many => {
                let mut all: Vec<_> =
                    done.iter().filter_map(|act| Some((act.item.clone(), act.title()?.to_owned()))).collect();
                let mut there = self.stock.to_vec();
                all.sort();
                there.sort();
                self.compare_stock_lists(&all, &there, &done, verdict);
            }
        }
        let order: HashMap<Key, usize> = match kind {
            Writers::One(_) => {
                let told_apart = done.iter().enumerate().filter(|(_, act)| !is_counted(&act.what));
                told_apart.map(|(n, act)| (act.key(), n)).collect()
            }
            Writers::Many => {
                let at: HashMap<&str, usize> =
                    self.stock.iter().enumerate().map(|(n, (id, _))| (id.as_str(), n)).collect();
                done.iter().filter_map(|act| Some((act.key(), *at.get(act.item.as_str())?))).collect()
            }
        };
        let sent: HashMap<Key, &Act> = self.acts.iter().map(|act| (act.key(), *act)).collect();
        let everybody: BTreeSet<&str> = self.wishes.keys().chain(self.heard.keys()).copied().collect();
        for who in everybody {
            let heard = self.heard.get(who).map(Vec::as_slice).unwrap_or_default();
            let mut first: Vec<Key> = Vec::new();
            let mut seen: BTreeMap<Key, BTreeSet<&str>> = BTreeMap::new();
            let mut newest = 0;
            let row = |key: &Key| sent.get(key).map_or(0, |act| self.ledger.row(act.sent));
            for (key, id) in heard {
                let ids = seen.entry(*key).or_default();
                if !ids.insert(id) {
                    verdict.row(row(key)).repeated += 1;
                    continue;
                }
                // Events are numbered, and those of a node are told in its order.
                let number = event_number(id);
                if number < newest {
                    verdict.wrong.push(format!("{who} heard of {} after event {newest}, its id is {id}", show(*key)));
                }
                newest = newest.max(number);
                if ids.len() == 1 || is_counted(key.1) {
                    first.push(*key);
                } else {
                    verdict.row(row(key)).repeated += 1;
                    verdict.row(row(key)).repeated_after += 1;
                    verdict.wrong.push(format!("{who} heard of {} under several ids: {ids:?}", show(*key)));
                }
            }
            for act in done.iter().filter(|act| !is_counted(&act.what) && self.is_promised(who, act)) {
                let row = verdict.row(self.ledger.row(act.sent));
                row.promised += 1;
                match seen.contains_key(&act.key()) {
                    true => row.received += 1,
                    false => verdict.lost.push(format!("{who} never heard of {act} in {}", self.name)),
                }
            }
            for what in [What::Purged, What::Configured] {
                let mut promised = 0;
                let came = seen.get(&("", &what)).map_or(0, BTreeSet::len);
                let most = self.acts.iter().filter(|act| act.what == what && act.may_be_done()).count();
                for act in done.iter().filter(|act| act.what == what && self.is_promised(who, act)) {
                    let row = verdict.row(self.ledger.row(act.sent));
                    row.promised += 1;
                    row.received += usize::from(promised < came);
                    promised += 1;
                }
                if came < promised {
                    verdict.lost.push(format!("{who} heard {came} times of {promised} x {what:?} in {}", self.name));
                }
                if came > most {
                    verdict.wrong.push(format!("{who} heard {came} times of {most} x {what:?} in {}", self.name));
                }
            }
            for key in first.iter().filter(|key| !is_counted(key.1)) {
                let why = match sent.get(key) {
                    None => "which nobody sent",
                    Some(act) if matches!(act.fate, Fate::Refused(..)) => "which was refused",
                    Some(act) if !self.is_allowed(who, act) => "and was not subscribed",
                    Some(_) => continue,
                };
                verdict.wrong.push(format!("{who} heard of {} in {}, {why}", show(*key), self.name));
            }
            for pair in first.windows(2) {
                if let (Some(a), Some(b)) = (order.get(&pair[0]), order.get(&pair[1]))
                    && a > b
                {
                    let (a, b) = (show(pair[0]), show(pair[1]));
                    verdict.wrong.push(format!("{who} heard of {a} before {b} in {}", self.name));
                }
            }
        }
    }

    /// What was done, in the order of sending: acknowledged, or unanswered and seen by somebody.
    fn done(&self) -> Vec<&'a Act> {
        let seen: BTreeSet<Key> = self.heard.values().flatten().map(|(key, _)| *key).collect();
        let there: BTreeSet<&str> = self.stock.iter().map(|(_, title)| title.as_str()).collect();
        let was_done = |act: &&&Act| match &act.fate {
            Fate::Acknowledged(_) => true,
            Fate::Refused(..) => false,
            // A purge or a configuration shows nowhere for certain; who is told nothing sends another.
            Fate::Open | Fate::Unknown if is_counted(&act.what) => false,
            Fate::Open | Fate::Unknown => {
                seen.contains(&act.key()) || act.title().is_some_and(|title| there.contains(title))
            }
        };
        self.acts.iter().filter(was_done).copied().collect()
    }

    fn compare_stock(&self, expected: &[(String, String)], done: &[&Act], verdict: &mut Verdict) {
        let ids = |list: &[(String, String)]| -> Vec<String> { list.iter().map(|(id, _)| id.clone()).collect() };
        self.compare_stock_lists(expected, self.stock, done, verdict);
        let same = ids(expected).into_iter().collect::<BTreeSet<_>>() == ids(self.stock).into_iter().collect();
        if same && ids(expected) != ids(self.stock) {
            verdict.wrong.push(format!("the items of {} stand in the wrong order", self.name));
        }
    }

    fn compare_stock_lists(
        &self,
        expected: &[(String, String)],
        there: &[(String, String)],
        done: &[&Act],
        verdict: &mut Verdict,
    ) {
        let there: HashMap<&str, &str> = there.iter().map(|(id, title)| (id.as_str(), title.as_str())).collect();
        let wanted: HashMap<&str, &str> = expected.iter().map(|(id, title)| (id.as_str(), title.as_str())).collect();
        let fate = |title: &str| done.iter().find(|act| act.title() == Some(title)).map_or("?", |act| act.fate.word());
        for (id, title) in &wanted {
            match there.get(id) {
                Some(found) if found == title => {}
                Some(found) => {
                    verdict.lost.push(format!("{title:?} ({}) of {}: there is {found:?}", fate(title), self.name))
                }
                None => verdict.lost.push(format!("{title:?} ({}) is not in {}", fate(title), self.name)),
            }
        }
        for id in there.keys().filter(|id| !wanted.contains_key(*id)) {
            verdict.wrong.push(format!("item {id} is still in {}, though retracted, trimmed or never sent", self.name));
        }
    }

    /// Subscribed, acknowledged, before it was sent, and never unsubscribed since.
    fn is_promised(&self, who: &str, act: &Act) -> bool {
        let mine = || self.wishes.get(who).into_iter().flatten();
        let last_off = mine().filter(|wish| !wish.on).map(|wish| wish.sent).max().unwrap_or(0);
        mine()
            .any(|wish| wish.on && wish.sent > last_off && matches!(wish.fate, Fate::Acknowledged(at) if at < act.sent))
    }

    /// Whether a subscription may have been there when it happened.
    fn is_allowed(&self, who: &str, act: &Act) -> bool {
        let over = match act.fate {
            Fate::Acknowledged(at) => at,
            _ => u64::MAX,
        };
        let mine = || self.wishes.get(who).into_iter().flatten();
        mine().filter(|wish| wish.on && wish.sent < over).any(|wish| {
            let ended = mine().filter(|off| !off.on && off.sent > wish.sent).find_map(|off| match off.fate {
                // Who is told that there is no subscription has none.
                Fate::Acknowledged(at) | Fate::Refused(at, _) => Some(at),
                _ => None,
            });
            ended.is_none_or(|at| at > act.sent)
        })
    }
}

impl Act {
    fn key(&self) -> Key<'_> {
        (&self.item, &self.what)
    }

    fn title(&self) -> Option<&str> {
        match &self.what {
            What::Published(title) => Some(title),
            _ => None,
        }
    }

    fn may_be_done(&self) -> bool {
        !matches!(self.fate, Fate::Refused(..))
    }
}

/// Whether nothing tells one of its kind from another.
fn is_counted(what: &What) -> bool {
    matches!(what, What::Purged | What::Configured)
}

/// The number in `e17`; 0 if it is none of ours.
fn event_number(id: &str) -> u64 {
    id.strip_prefix('e').and_then(|number| number.parse().ok()).unwrap_or(0)
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", show(self.key()), self.fate.word())
    }
}

impl Fate {
    fn word(&self) -> &'static str {
        match self {
            Fate::Open | Fate::Unknown => "not acknowledged, but seen",
            Fate::Acknowledged(_) => "acknowledged",
            Fate::Refused(..) => "refused",
        }
    }
}

fn show((item, what): Key<'_>) -> String {
    match what {
        What::Published(title) => format!("item {item}, {title:?}"),
        What::Retracted => format!("the retraction of {item}"),
        What::Purged | What::Configured | What::Deleted => format!("{what:?}"),
    }
}

/// The items that a node with one writer holds after these acts (XEP-0060 §7.1.3.3 keeps an edited item in its place).
fn expected(done: &[&Act], most: usize) -> Vec<(String, String)> {
    let mut items: Vec<(String, String)> = Vec::new();
    for act in done {
        let at = items.iter().position(|(id, _)| *id == act.item);
        match (at, act.title()) {
            (Some(at), Some(title)) => items[at].1 = title.to_owned(),
            _ if matches!(act.what, What::Purged | What::Deleted) => items.clear(),
            (Some(at), None) => drop(items.remove(at)),
            (None, Some(title)) => {
                items.push((act.item.clone(), title.to_owned()));
                if items.len() > most {
                    items.remove(0);
                }
            }
            (None, None) => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with one writer and one subscriber from the beginning; `heard` and `stock` by number of the act.
    fn verdict(fates: &[Fate], heard: &[usize], stock: &[usize]) -> Verdict {
        let place: Place = ("s".into(), "n".into());
        let title = |n: usize| format!("t{n}");
        let item = |n: usize| format!("i{n}");
        let mut ledger = Ledger::default();
        ledger.wishes.push(Wish {
            who: "romeo".into(),
            place: place.clone(),
            on: true,
            sent: 1,
            fate: Fate::Acknowledged(2),
        });
        for (n, fate) in fates.iter().enumerate() {
            let what = What::Published(title(n));
            ledger.acts.push(Act {
                place: place.clone(),
                item: item(n),
                what,
                sent: 10 + n as u64,
                fate: fate.clone(),
            });
        }
        for n in heard {
            let what = What::Published(title(*n));
            ledger.heard.push(heard_of(&place, &item(*n), what, &format!("e{n}")));
        }
        let stock = BTreeMap::from([(place.clone(), stock.iter().map(|n| (item(*n), title(*n))).collect())]);
        compare(&ledger, &BTreeMap::from([(place, Writers::One(3))]), &stock)
    }

    fn heard_of(place: &Place, item: &str, what: What, id: &str) -> Heard {
        let (who, item, id) = ("romeo".into(), item.into(), id.into());
        Heard { who, place: place.clone(), item, what, id, session: 1, at: Instant::now() }
    }

    const YES: Fate = Fate::Acknowledged(99);

    #[test]
    fn all_heard_in_order_with_repeats_is_well() {
        let v = verdict(&[YES, YES, Fate::Unknown, YES], &[0, 1, 0, 1, 3], &[0, 1, 3]);
        assert_eq!(v.complaints(), None);
        assert_eq!((v.all().acknowledged, v.all().promised, v.all().received, v.all().repeated), (3, 3, 3, 2));
    }

    #[test]
    fn an_acknowledged_item_that_is_not_there_is_lost() {
        let v = verdict(&[YES, YES], &[0, 1], &[0]);
        assert_eq!((v.lost.len(), v.wrong.len()), (1, 0), "{:?}", v.complaints());
    }

    #[test]
    fn what_a_subscriber_never_heard_is_lost_also_if_only_its_item_tells_of_it() {
        for fate in [YES, Fate::Unknown] {
            let v = verdict(&[YES, fate], &[0], &[0, 1]);
            assert_eq!((v.lost.len(), v.wrong.len()), (1, 0), "{:?}", v.complaints());
        }
    }

    #[test]
    fn what_was_heard_but_is_not_there_is_lost() {
        assert_eq!(verdict(&[YES, Fate::Unknown], &[0, 1], &[0]).lost.len(), 1);
    }

    #[test]
    fn the_wrong_order_a_ghost_and_what_outlives_the_limit_are_wrong() {
        let order = verdict(&[YES, YES], &[1, 0], &[0, 1]);
        assert_eq!(order.wrong.len(), 2, "by the events' numbers and by the requests: {:?}", order.wrong);
        let no = Fate::Refused(20, "no".into());
        assert_eq!(verdict(&[YES, no], &[0, 1], &[0]).wrong.len(), 1);
        assert_eq!(verdict(&[YES, YES, YES, YES], &[0, 1, 2, 3], &[0, 1, 2, 3]).wrong.len(), 1);
    }

    #[test]
    fn what_comes_again_is_a_repetition_only_under_the_same_message_id() {
        let place: Place = ("s".into(), "n".into());
        let what = What::Published("t".into());
        let act = Act { place: place.clone(), item: "i".into(), what: what.clone(), sent: 10, fate: YES };
        let wish = Wish { who: "romeo".into(), place: place.clone(), on: true, sent: 1, fate: Fate::Acknowledged(2) };
        let ask = |second: &str| {
            let heard = vec![heard_of(&place, "i", what.clone(), "e1"), heard_of(&place, "i", what.clone(), second)];
            let ledger = Ledger { acts: vec![act.clone()], wishes: vec![wish.clone()], heard, ..Ledger::default() };
            let stock = BTreeMap::from([(place.clone(), vec![("i".to_owned(), "t".to_owned())])]);
            let v = compare(&ledger, &BTreeMap::from([(place.clone(), Writers::One(9))]), &stock);
            (v.all().repeated, v.all().repeated_after, v.wrong.len())
        };
        assert_eq!(ask("e1"), (1, 0, 0));
        assert_eq!(ask("e2"), (1, 1, 1));
    }

    #[test]
    fn a_purge_empties_the_node_and_is_owed_to_each_as_often_as_it_was_acknowledged() {
        let place: Place = ("s".into(), "n".into());
        let wish = Wish { who: "romeo".into(), place: place.clone(), on: true, sent: 1, fate: Fate::Acknowledged(2) };
        let act = |item: &str, what: What, sent| Act { place: place.clone(), item: item.into(), what, sent, fate: YES };
        let (t, u) = (What::Published("t".into()), What::Published("u".into()));
        let mut acts = vec![act("i", t.clone(), 10), act("", What::Purged, 11), act("j", u.clone(), 12)];
        let purged = |id| heard_of(&place, "", What::Purged, id);
        let all = [heard_of(&place, "i", t, "e1"), purged("e2"), heard_of(&place, "j", u, "e3"), purged("e4")];
        let ask = |acts: &[Act], heard: &[usize], stock: &[(&str, &str)]| {
            let heard = heard.iter().map(|n| all[*n].clone()).collect();
            let ledger = Ledger { acts: acts.to_vec(), wishes: vec![wish.clone()], heard, ..Ledger::default() };
            let stock = stock.iter().map(|(id, title)| ((*id).to_owned(), (*title).to_owned())).collect();
            let stock = BTreeMap::from([(place.clone(), stock)]);
            let v = compare(&ledger, &BTreeMap::from([(place.clone(), Writers::One(9))]), &stock);
            (v.all().promised, v.lost.len(), v.wrong.len())
        };
        assert_eq!(ask(&acts, &[0, 1, 1, 2], &[("j", "u")]), (3, 0, 0));
        assert_eq!(ask(&acts, &[0, 2], &[("j", "u")]), (3, 1, 0), "nobody told of the purge");
        assert_eq!(ask(&acts, &[0, 1, 2], &[("i", "t"), ("j", "u")]), (3, 0, 1), "it did not empty the node");
        assert_eq!(ask(&acts, &[0, 2, 1], &[("j", "u")]), (3, 0, 1), "told in another order than numbered");
        acts.push(act("", What::Purged, 13));
        assert_eq!(ask(&acts, &[0, 1, 2, 3], &[]), (4, 0, 0), "one purge is not taken for another");
        assert_eq!(ask(&acts, &[0, 1, 2], &[]), (4, 1, 0));
    }

    #[test]
    fn who_left_is_owed_nothing_and_must_not_be_told_of_what_comes_after() {
        let place: Place = ("s".into(), "n".into());
        let wish =
            |on, sent, at| Wish { who: "romeo".into(), place: place.clone(), on, sent, fate: Fate::Acknowledged(at) };
        let what = What::Published("t".into());
        let act =
            Act { place: place.clone(), item: "i".into(), what: what.clone(), sent: 10, fate: Fate::Acknowledged(12) };
        let heard = heard_of(&place, "i", what, "e1");
        let stock = BTreeMap::from([(place.clone(), vec![("i".to_owned(), "t".to_owned())])]);
        let writers = BTreeMap::from([(place.clone(), Writers::One(9))]);
        let ask = |wishes: &[Wish], heard: &[Heard]| {
            let ledger =
                Ledger { acts: vec![act.clone()], wishes: wishes.to_vec(), heard: heard.to_vec(), ..Ledger::default() };
            let v = compare(&ledger, &writers, &stock);
            (v.all().promised, v.lost.len(), v.wrong.len())
        };
        let heard = [heard];
        assert_eq!(ask(&[wish(true, 1, 2)], &heard), (1, 0, 0));
        assert_eq!(ask(&[wish(true, 1, 2)], &[]), (1, 1, 0));
        assert_eq!(ask(&[wish(true, 1, 2), wish(false, 3, 4)], &heard), (0, 0, 1));
        assert_eq!(ask(&[wish(true, 1, 2), wish(false, 3, 11)], &heard), (0, 0, 0), "it left while it happened");
        assert_eq!(
            ask(&[wish(true, 1, 2), wish(false, 3, 4), wish(true, 5, 6)], &[]),
            (1, 1, 0),
            "it came back before"
        );
        assert_eq!(ask(&[wish(true, 13, 14)], &heard), (0, 0, 1), "it came too late");
    }
}
