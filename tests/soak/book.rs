//! The ledger of a long run: what that of tests/crash.rs asks at the end is asked here as it goes, and what is settled is
//! forgotten, so that ninety minutes take no more room than five.
//!
//! Each node has one writer, who waits for each answer. So what must stand in it is known at any time, and a request whose
//! answer was lost with the stream was done if, and only if, its effect stands when the writer looks.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::crash::ledger::{Fate, Heard, Place, Row, What};
use crate::soak::gauge::Latencies;

/// What is promised over the link and over HTTP and has not come after so long is late.
const LATE: Duration = Duration::from_secs(120);
const LATE_HTTP: Duration = Duration::from_secs(900);
/// So long what is settled is remembered: what comes again is known by it.
const REMEMBERED: Duration = Duration::from_secs(180);
/// Complaints that are kept.
const COMPLAINTS: usize = 1_000;

#[derive(Default)]
pub struct Book {
    nodes: HashMap<Place, Node>,
    next: u64,
    /// Over the link; `acknowledged` counts all publishes and retractions.
    pub xmpp: Row,
    pub http: Row,
    /// Acknowledged and not there.
    pub lost: usize,
    pub refused: usize,
    pub complaints: Vec<String>,
    /// From sending to the answer, to the first notification, to each callback that does well.
    answers: Latencies,
    notified: Latencies,
    pushed: Latencies,
    /// The component was started at this time, and nobody has yet heard of anything that was sent since.
    started: Option<Instant>,
    /// The first notification after each start took so long.
    pub restarts: Vec<Duration>,
}

/// A node with one writer.
struct Node {
    /// `max_items`.
    kept: usize,
    /// What must stand in it, in its order: items and titles.
    stock: Vec<(String, String)>,
    /// What is not settled, or was not long ago, in the order of sending.
    deeds: Vec<Deed>,
    subscribers: HashMap<String, Subscriber>,
    /// HTTP callbacks of the feed that do well in the end.
    callbacks: HashSet<usize>,
    /// The highest event that was forgotten.
    forgotten: u64,
}

/// A publish or retraction.
struct Deed {
    number: u64,
    item: String,
    what: What,
    sent: Instant,
    answered: Option<Instant>,
    done: bool,
    /// 0 until somebody has heard of it.
    event: u64,
    heard: HashSet<String>,
    over_xmpp: Promise<String>,
    over_http: Promise<usize>,
}

/// Who is to be told, and who of them has not heard of it.
struct Promise<T> {
    count: usize,
    owed: HashSet<T>,
}

#[derive(Default)]
struct Subscriber {
    /// From the request to the end that was acknowledged, if there was one.
    spans: Vec<(Instant, Option<Instant>)>,
    /// Subscribed for certain.
    sure: bool,
    /// The highest event that it has heard of.
    newest: u64,
}

impl Book {
    pub fn open(&mut self, place: &Place, kept: usize) {
        let node = Node {
            kept,
            stock: Vec::new(),
            deeds: Vec::new(),
            subscribers: HashMap::new(),
            callbacks: HashSet::new(),
            forgotten: 0,
        };
        self.nodes.insert(place.clone(), node);
    }

    pub fn add_callback(&mut self, place: &Place, callback: usize) {
        self.node(place).callbacks.insert(callback);
    }

    pub fn places(&self) -> Vec<Place> {
        self.nodes.keys().cloned().collect()
    }

    /// The component was started just now.
    pub fn started(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Whether nobody has yet heard of anything that was sent since the last start.
    pub fn is_starting(&self) -> bool {
        self.started.is_some()
    }

    /// A publish or retraction goes out; gives its number.
    pub fn sent(&mut self, place: &Place, item: &str, what: What) -> u64 {
        self.next += 1;
        let number = self.next;
        let node = self.node(place);
        let sure = node.subscribers.iter().filter(|(_, s)| s.sure).map(|(who, _)| who.clone());
        let over_xmpp = Promise::to(sure.collect());
        let over_http = match what {
            What::Published(_) => Promise::to(node.callbacks.clone()),
            _ => Promise::to(HashSet::new()),
        };
        node.deeds.push(Deed {
            number,
            item: item.to_owned(),
            what,
            sent: Instant::now(),
            answered: None,
            done: false,
            event: 0,
            heard: HashSet::new(),
            over_xmpp,
            over_http,
        });
        number
    }

    /// What came of it. `Fate::Unknown`: the writer looks, and tells by [`Book::stands`].
    pub fn answered(&mut self, place: &Place, number: u64, fate: &Fate) {
        let now = Instant::now();
        match fate {
            Fate::Acknowledged(_) => {
                let sent = self.deed(place, number).sent;
                self.answers.add(now - sent);
                self.xmpp.acknowledged += 1;
                self.done(place, number);
            }
            Fate::Refused(_, why) => {
                self.node(place).deeds.retain(|deed| deed.number != number);
                self.refused += 1;
                self.complain(format!("refused in {place:?}: {why}"));
            }
            Fate::Open | Fate::Unknown => {}
        }
    }

    /// What the only writer of a node, who waits for no answer, finds in it; whether a request without an answer was done.
    pub fn stands(&mut self, place: &Place, found: &[(String, String)]) -> bool {
        let node = self.node(place);
        let open: Vec<u64> = node.deeds.iter().filter(|deed| !deed.done).map(|deed| deed.number).collect();
        let (mut stock, mut done) = (node.stock.clone(), false);
        if let [number] = open[..] {
            let deed = self.deed(place, number);
            let (item, what) = (deed.item.clone(), deed.what.clone());
            let kept = self.node(place).kept;
            let mut with = stock.clone();
            change(&mut with, kept, &item, &what);
            if with == found {
                self.done(place, number);
                (stock, done) = (with, true);
            } else {
                self.node(place).deeds.retain(|deed| deed.number != number);
            }
        }
        if stock != found {
            self.lost += stock.iter().filter(|item| !found.contains(item)).count();
            let missing: Vec<_> = stock.iter().filter(|item| !found.contains(item)).collect();
            let foreign: Vec<_> = found.iter().filter(|item| !stock.contains(item)).collect();
            let what = format!("not what must stand in {place:?}: missing {missing:?}, not expected {foreign:?}");
            self.complain(what);
            // Said once.
            self.node(place).stock = found.to_vec();
        }
        done
    }

    /// Somebody asks for a subscription, or for its end.
    pub fn wishes(&mut self, place: &Place, who: &str, on: bool) {
        let Book { nodes, xmpp, .. } = self;
        let Some(node) = nodes.get_mut(place) else { return };
        let subscriber = node.subscribers.entry(who.to_owned()).or_default();
        match on {
            true if subscriber.spans.last().is_none_or(|(_, end)| end.is_some()) => {
                subscriber.spans.push((Instant::now(), None));
            }
            true => {}
            false => {
                // Nobody is owed what may fall behind the end.
                subscriber.sure = false;
                for deed in &mut node.deeds {
                    deed.over_xmpp.excuse(who, deed.done, xmpp);
                }
            }
        }
    }

    /// The wish was granted.
    pub fn granted(&mut self, place: &Place, who: &str, on: bool) {
        let Some(subscriber) = self.node(place).subscribers.get_mut(who) else { return };
        subscriber.sure = on;
        if let (false, Some((_, end))) = (on, subscriber.spans.last_mut()) {
            end.get_or_insert(Instant::now());
        }
    }

    /// Somebody is told of something.
    pub fn heard(&mut self, heard: &Heard) {
        let event: u64 = heard.id.strip_prefix('e').and_then(|number| number.parse().ok()).unwrap_or(0);
        let Book { nodes, xmpp, notified, started, restarts, .. } = self;
        let wrong = 'found: {
            let Some(node) = nodes.get_mut(&heard.place) else { break 'found Some("of a node that nobody made") };
            let deed = node.deeds.iter_mut().rev().find(|deed| deed.item == heard.item && deed.what == heard.what);
            let Some(deed) = deed else {
                if event <= node.forgotten {
                    xmpp.repeated += 1;
                    break 'found None;
                }
                break 'found Some("which nobody sent, or which is not there");
            };
            let Some(subscriber) = node.subscribers.get_mut(&heard.who) else { break 'found Some("never subscribed") };
            if !deed.heard.insert(heard.who.clone()) {
                xmpp.repeated += 1;
                let other = event != deed.event;
                xmpp.repeated_after += usize::from(other);
                break 'found other.then_some("again, under another id");
            }
            if deed.event == 0 {
                deed.event = event;
                notified.add(heard.at - deed.sent);
            }
            if let Some(at) = started.take_if(|at| *at < deed.sent) {
                restarts.push(heard.at - at);
            }
            deed.over_xmpp.keep(&heard.who, deed.done, xmpp);
            let during = |(from, end): &(Instant, Option<Instant>)| {
                deed.answered.is_none_or(|at| *from < at) && end.is_none_or(|end| end > deed.sent)
            };
            if !subscriber.spans.iter().any(during) {
                break 'found Some("and was not subscribed");
            }
            let newest = subscriber.newest;
            subscriber.newest = newest.max(event);
            (event < newest).then_some("too late: a later event came before")
        };
        if let Some(wrong) = wrong {
            self.complain(format!("{} heard of {} ({:?}), {wrong}", heard.who, heard.item, heard.what));
        }
    }

    /// A callback took a document with these titles. `measured`: it does well, so that its time says something.
    pub fn pushed(&mut self, place: &Place, callback: usize, titles: &[String], at: Instant, measured: bool) {
        let Book { nodes, http, pushed, .. } = self;
        let Some(node) = nodes.get_mut(place) else { return };
        for title in titles {
            let Some((item, edition)) = edition(title) else { continue };
            for deed in node.deeds.iter_mut().filter(|deed| deed.item == item) {
                let What::Published(own) = &deed.what else { continue };
                // A later edition says what an earlier one said.
                if own.rsplit(' ').next().and_then(|own| own.parse().ok()).is_none_or(|own: u64| own > edition) {
                    continue;
                }
                if deed.over_http.keep(&callback, deed.done, http) && measured && own == title {
                    pushed.add(at - deed.sent);
                }
            }
        }
    }

    /// Forgets what is settled.
    pub fn forget(&mut self) {
        let now = Instant::now();
        let old = |at: Instant| now - at > REMEMBERED;
        for node in self.nodes.values_mut() {
            let forgotten = &mut node.forgotten;
            node.deeds.retain(|deed| {
                let settled = deed.done && deed.over_xmpp.owed.is_empty() && deed.over_http.owed.is_empty();
                let keep = !settled || !old(deed.sent);
                if !keep {
                    *forgotten = deed.event.max(*forgotten);
                }
                keep
            });
            for subscriber in node.subscribers.values_mut() {
                subscriber.spans.retain(|(_, end)| end.is_none_or(|end| !old(end)));
            }
        }
    }

    /// Promises that are not kept yet, over the link and over HTTP; with `late` only those that should be by now.
    pub fn owed(&self, late: bool) -> (usize, usize) {
        let now = Instant::now();
        let deeds = || self.nodes.values().flat_map(|node| &node.deeds).filter(|deed| deed.done);
        let due = |deed: &&Deed, limit: Duration| !late || deed.answered.is_some_and(|at| now - at > limit);
        let xmpp = deeds().filter(|deed| due(deed, LATE)).map(|deed| deed.over_xmpp.owed.len()).sum();
        (xmpp, deeds().filter(|deed| due(deed, LATE_HTTP)).map(|deed| deed.over_http.owed.len()).sum())
    }

    /// Some of what is owed, by name.
    pub fn debts(&self) -> Vec<String> {
        let deeds = self.nodes.iter().flat_map(|(place, node)| node.deeds.iter().map(move |deed| (place, deed)));
        let name = |(place, deed): (&Place, &Deed)| {
            let mut who: Vec<String> = deed.over_xmpp.owed.iter().take(3).cloned().collect();
            who.extend(deed.over_http.owed.iter().take(3).map(|number| format!("callback {number}")));
            let all = deed.over_xmpp.owed.len() + deed.over_http.owed.len();
            let (item, what) = (&deed.item, &deed.what);
            (all > 0).then(|| format!("{all} were not told of {item} ({what:?}) in {place:?}: {who:?}"))
        };
        deeds.filter(|(_, deed)| deed.done).filter_map(name).take(20).collect()
    }

    /// The times since this was asked last: of answers, first notifications, pushes.
    pub fn take_latencies(&mut self) -> [Latencies; 3] {
        [&mut self.answers, &mut self.notified, &mut self.pushed].map(std::mem::take)
    }

    pub fn complain(&mut self, what: String) {
        println!("COMPLAINT: {what}");
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(what);
        }
    }

    fn done(&mut self, place: &Place, number: u64) {
        let Book { nodes, xmpp, http, .. } = self;
        let Some(node) = nodes.get_mut(place) else { return };
        let Some(deed) = node.deeds.iter_mut().find(|deed| deed.number == number) else { return };
        deed.answered = Some(Instant::now());
        deed.done = true;
        deed.over_xmpp.count_in(xmpp);
        deed.over_http.count_in(http);
        let gone = change(&mut node.stock, node.kept, &deed.item, &deed.what);
        for deed in node.deeds.iter_mut().filter(|deed| Some(&deed.item) == gone.as_ref()) {
            // A feed shows what stands.
            for callback in deed.over_http.owed.clone() {
                deed.over_http.excuse(&callback, deed.done, http);
            }
        }
    }

    fn node(&mut self, place: &Place) -> &mut Node {
        self.nodes.get_mut(place).unwrap_or_else(|| panic!("nobody made {place:?}"))
    }

    fn deed(&mut self, place: &Place, number: u64) -> &mut Deed {
        let deed = self.node(place).deeds.iter_mut().find(|deed| deed.number == number);
        deed.unwrap_or_else(|| panic!("{number} was never sent"))
    }
}

impl<T: std::hash::Hash + Eq> Promise<T> {
    fn to(owed: HashSet<T>) -> Promise<T> {
        Promise { count: owed.len(), owed }
    }

    /// What it is about was done: it holds.
    fn count_in(&self, row: &mut Row) {
        row.promised += self.count;
        row.received += self.count - self.owed.len();
    }

    fn keep<Q: std::hash::Hash + Eq + ?Sized>(&mut self, who: &Q, done: bool, row: &mut Row) -> bool
    where
        T: std::borrow::Borrow<Q>,
    {
        let kept = self.owed.remove(who);
        row.received += usize::from(kept && done);
        kept
    }

    fn excuse<Q: std::hash::Hash + Eq + ?Sized>(&mut self, who: &Q, done: bool, row: &mut Row)
    where
        T: std::borrow::Borrow<Q>,
    {
        let excused = usize::from(self.owed.remove(who));
        self.count -= excused;
        row.promised -= if done { excused } else { 0 };
    }
}

/// What a publish or retraction makes of a node (XEP-0060 §7.1.3.3 keeps an edited item in its place); the item that is
/// there no more.
fn change(stock: &mut Vec<(String, String)>, kept: usize, item: &str, what: &What) -> Option<String> {
    let at = stock.iter().position(|(id, _)| id == item);
    match (at, what) {
        (Some(at), What::Published(title)) => stock[at].1 = title.clone(),
        (Some(at), _) => return Some(stock.remove(at).0),
        (None, What::Published(title)) => stock.push((item.to_owned(), title.clone())),
        (None, _) => {}
    }
    (stock.len() > kept).then(|| stock.remove(0).0)
}

/// Item and edition of a title.
fn edition(title: &str) -> Option<(&str, u64)> {
    let (item, edition) = title.split_once(" edition ")?;
    Some((item, edition.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: Fate = Fate::Acknowledged(0);

    /// A node that keeps two items, with romeo subscribed and callback 7.
    fn book() -> (Book, Place) {
        let (mut book, place) = (Book::default(), ("s".to_owned(), "n".to_owned()));
        book.open(&place, 2);
        book.add_callback(&place, 7);
        book.wishes(&place, "romeo", true);
        book.granted(&place, "romeo", true);
        (book, place)
    }

    fn title(item: &str, edition: u32) -> String {
        format!("{item} edition {edition}")
    }

    fn publish(book: &mut Book, place: &Place, item: &str, edition: u32, fate: &Fate) {
        let number = book.sent(place, item, What::Published(title(item, edition)));
        book.answered(place, number, fate);
    }

    fn tell(book: &mut Book, place: &Place, item: &str, edition: u32, id: &str) {
        let (who, what, at) = ("romeo".to_owned(), What::Published(title(item, edition)), Instant::now());
        book.heard(&Heard { who, place: place.clone(), item: item.into(), what, id: id.into(), session: 1, at });
    }

    fn stock(items: &[&str]) -> Vec<(String, String)> {
        items.iter().map(|item| ((*item).to_owned(), title(item, 1))).collect()
    }

    #[test]
    fn what_is_promised_is_owed_until_it_is_heard_over_each_way() {
        let (mut book, place) = book();
        publish(&mut book, &place, "a", 1, &YES);
        assert_eq!(book.owed(false), (1, 1));
        tell(&mut book, &place, "a", 1, "e1");
        assert_eq!(book.owed(false), (0, 1));
        book.pushed(&place, 7, &[title("a", 1)], Instant::now(), true);
        assert_eq!((book.owed(false), book.complaints.len()), ((0, 0), 0));
        assert_eq!((book.xmpp.promised, book.xmpp.received, book.http.promised, book.http.received), (1, 1, 1, 1));
    }

    #[test]
    fn what_was_acknowledged_and_does_not_stand_is_lost_and_what_was_not_may_be_there_or_not() {
        let (mut book, place) = book();
        publish(&mut book, &place, "a", 1, &YES);
        publish(&mut book, &place, "b", 1, &Fate::Unknown);
        assert!(!book.stands(&place, &stock(&["a"])));
        assert_eq!((book.lost, book.xmpp.promised), (0, 1));
        publish(&mut book, &place, "b", 1, &Fate::Unknown);
        assert!(book.stands(&place, &stock(&["a", "b"])));
        assert_eq!((book.lost, book.xmpp.promised), (0, 2), "what was done is promised");
        book.stands(&place, &stock(&["b"]));
        assert_eq!((book.lost, book.complaints.len()), (1, 1));
    }

    #[test]
    fn a_feed_owes_what_stands_and_a_later_edition_speaks_for_an_earlier_one() {
        let (mut book, place) = book();
        for item in ["a", "b", "c"] {
            publish(&mut book, &place, item, 1, &YES);
        }
        assert_eq!((book.owed(false).1, book.http.promised), (2, 2), "the third has pushed the first out");
        publish(&mut book, &place, "b", 2, &YES);
        book.pushed(&place, 7, &[title("b", 2)], Instant::now(), true);
        assert_eq!((book.owed(false).1, book.http.received), (1, 2));
    }

    #[test]
    fn repetitions_are_known_by_their_id_also_when_the_deed_is_forgotten_and_ghosts_are_wrong() {
        let (mut book, place) = book();
        publish(&mut book, &place, "a", 1, &YES);
        tell(&mut book, &place, "a", 1, "e5");
        tell(&mut book, &place, "a", 1, "e5");
        assert_eq!((book.xmpp.repeated, book.xmpp.repeated_after, book.complaints.len()), (1, 0, 0));
        tell(&mut book, &place, "a", 1, "e6");
        assert_eq!((book.xmpp.repeated, book.xmpp.repeated_after, book.complaints.len()), (2, 1, 1));
        book.node(&place).forgotten = 9;
        tell(&mut book, &place, "z", 1, "e9");
        assert_eq!((book.xmpp.repeated, book.complaints.len()), (3, 1));
        tell(&mut book, &place, "z", 1, "e10");
        assert_eq!(book.complaints.len(), 2);
    }

    #[test]
    fn who_leaves_is_owed_nothing_and_must_not_hear_of_what_comes_after() {
        let (mut book, place) = book();
        publish(&mut book, &place, "a", 1, &YES);
        book.wishes(&place, "romeo", false);
        assert_eq!((book.owed(false).0, book.xmpp.promised), (0, 0));
        tell(&mut book, &place, "a", 1, "e1");
        assert_eq!(book.complaints.len(), 0, "it may have been under way");
        book.granted(&place, "romeo", false);
        publish(&mut book, &place, "b", 1, &YES);
        tell(&mut book, &place, "b", 1, "e2");
        assert_eq!(book.complaints.len(), 1);
    }
}
