//! Plays scripts a person can read ("juliet sends …", "juliet receives …") against the edge: in-memory store, a clock
//! the script moves, seeded ids, no socket.
//!
//! A script is made of blocks that end at an empty line:
//! ```text
//! # a comment
//! juliet sends            (or: juliet sends 16 times; {n} counts from 1)
//! <iq type='set' …>…</iq>
//!
//! juliet receives         (likewise)
//! <iq type='result' id='1'/>
//!
//! romeo receives nothing
//! 301 seconds pass
//! ```
//! What is expected names only what matters: other attributes and children may be there. `*` stands for any value,
//! `*text*` for one that contains it, `!` for none; `{name}` keeps a value, or compares it with the one kept, and puts
//! it in what is sent. `children='2'` counts, `<x absent=''/>` must not be there. Nothing may come unexpected.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jid::BareJid;
use minidom::Element;
use rookery::base::clock::{Clock, Timestamp};
use rookery::base::id::Ids;
use rookery::domain::address::Addresses;
use rookery::service::{Quota, Registration, Rules, Service};
use rookery::store::{Kv, MemoryKv, Store};
use rookery::xmpp::envelope::{Envelope, Incoming, STANZAS, Scope, Stanza};
use rookery::xmpp::limits::Limits;
use rookery::xmpp::{Edge, Out};

pub const PEOPLE: [(&str, &str); 4] = [
    ("juliet", "juliet@example.org/balcony"),
    ("romeo", "romeo@example.org/orchard"),
    ("nurse", "nurse@elsewhere.example/kitchen"),
    ("admin", "admin@example.org/desk"),
];

/// What differs from the ordinary world.
pub struct Setup {
    pub kv: Arc<dyn Kv>,
    pub limits: Limits,
    pub registration: Registration,
    pub quota: Quota,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            kv: Arc::new(MemoryKv::default()),
            limits: Limits::default(),
            registration: Registration::Hosts,
            quota: Quota::default(),
        }
    }
}

/// The service at social.example.org, and everybody around it.
pub struct World {
    edge: Edge,
    clock: Clock,
    out: Out,
    inbox: Arc<Mutex<Vec<Element>>>,
    kept: HashMap<String, String>,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let component = BareJid::new("social.example.org").unwrap();
        let url = url::Url::parse("https://social.example.org/").unwrap();
        let rules = Rules {
            registration: setup.registration,
            auto_register_hosts: vec!["example.org".into()],
            admins: vec![BareJid::new("admin@example.org").unwrap()],
            create_nodes_hosts: vec!["example.org".into()],
            max_payload: 200_000,
            quota: setup.quota,
        };
        let clock = Clock::manual(Timestamp::from_secs(1_795_320_124));
        let store = Store::open(setup.kv).unwrap();
        let addresses = Addresses::new(component, &url, "social.example.org");
        let service = Service::new(store, addresses, rules, clock.clone(), Ids::seeded(7));
        let inbox: Arc<Mutex<Vec<Element>>> = Arc::default();
        let into = inbox.clone();
        let out: Out = Arc::new(move |stanza: Stanza| {
            let mut bytes = Vec::new();
            stanza.write_to(&mut bytes);
            assert_eq!(stanza.from_domain(), b"social.example.org", "a foreign from ends the stream");
            assert!(bytes.len() <= 500_000, "{} bytes end the stream", bytes.len());
            let written = Envelope::parse(bytes.into(), &Scope::default()).expect("only well-formed stanzas leave");
            into.lock().unwrap().push(written.element().unwrap());
            true
        });
        World { edge: Edge::new(service, setup.limits), clock, out, inbox, kept: HashMap::new() }
    }

    /// Plays a script; panics with the line of what went wrong.
    pub async fn play(&mut self, name: &str, script: &str) {
        let lines: Vec<&str> = script.lines().collect();
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            let place = format!("{name}:{}", at + 1);
            at += 1;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                [seconds, "seconds", "pass"] => self.clock.advance(Duration::from_secs(seconds.parse().unwrap())),
                [who, "receives", "nothing"] => self.nothing(who, &place).await,
                [who, what @ ("sends" | "receives"), rest @ ..] => {
                    let times = match rest {
                        [] => 1,
                        [n, "times"] => n.parse().unwrap(),
                        _ => panic!("{place}: {line}"),
                    };
                    let block = lines[at..].iter().take_while(|l| !l.trim().is_empty());
                    let (count, xml) = block.fold((0, String::new()), |(n, xml), l| (n + 1, xml + l.trim() + "\n"));
                    at += count;
                    for n in 1..=times {
                        let xml = xml.trim().replace("{n}", &n.to_string());
                        match *what {
                            "sends" => self.sends(who, &xml),
                            _ => self.receives(who, &xml, &place).await,
                        }
                    }
                }
                _ => panic!("{place}: not understood: {line}"),
            }
        }
    }

    /// Sends one stanza as it stands, `from` put in if it is missing.
    pub fn sends(&self, who: &str, xml: &str) {
        let mut xml = xml.to_owned();
        for (name, value) in &self.kept {
            xml = xml.replace(&format!("{{{name}}}"), value);
        }
        if !xml.contains(" from=") {
            let jid = PEOPLE.iter().find(|(name, _)| *name == who).expect("a person of the play").1;
            let name = xml.find([' ', '>', '/']).unwrap_or(xml.len());
            xml.insert_str(name, &format!(" from='{jid}'"));
        }
        let envelope = Envelope::parse(Bytes::from(xml.clone()), &Scope::default())
            .unwrap_or_else(|e| panic!("the link would refuse this: {e:?}\n{xml}"));
        self.brings(envelope);
    }

    /// A stanza comes, as the link has read it.
    pub fn brings(&self, incoming: impl Into<Incoming>) {
        self.edge.receive(incoming, &self.out);
    }

    /// The answer to the iq `id` of `jid`.
    pub async fn answer(&self, jid: &str, id: &str) -> Option<Element> {
        let is_it = |s: &Element| s.name() == "iq" && s.attr("to") == Some(jid) && s.attr("id") == Some(id);
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Some(found) = self.take(is_it) {
                return Some(found);
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        None
    }

    /// What came and was not expected.
    pub async fn rest(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.inbox.lock().unwrap().iter().map(String::from).collect()
    }

    async fn receives(&mut self, who: &str, xml: &str, place: &str) {
        let expected = element(xml).unwrap_or_else(|e| panic!("{place}: {e}\n{xml}"));
        let until = Instant::now() + Duration::from_secs(10);
        let mut kept = self.kept.clone();
        let mut last = false;
        loop {
            let mut bound = kept.clone();
            let found = self.take(|stanza| {
                bound = kept.clone();
                is_to(stanza, who) && fits(&expected, stanza, &mut bound)
            });
            if found.is_some() {
                kept = bound;
                break;
            }
            if Instant::now() > until || last {
                panic!("{place}: {who} expected\n{xml}\nand received\n{}", self.came(who).join("\n"));
            }
            // It may have come just now: looked at once more.
            last = !self.came(who).is_empty() && self.quiet().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.kept = kept;
    }

    /// Whether nothing comes for a while.
    async fn quiet(&self) -> bool {
        let before = self.inbox.lock().unwrap().len();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        before == self.inbox.lock().unwrap().len()
    }

    async fn nothing(&self, who: &str, place: &str) {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let came = self.came(who);
        assert!(came.is_empty(), "{place}: {who} received\n{}", came.join("\n"));
    }

    fn came(&self, who: &str) -> Vec<String> {
        self.inbox.lock().unwrap().iter().filter(|s| is_to(s, who)).map(String::from).collect()
    }

    fn take(&self, mut which: impl FnMut(&Element) -> bool) -> Option<Element> {
        let mut inbox = self.inbox.lock().unwrap();
        let at = inbox.iter().position(&mut which)?;
        Some(inbox.remove(at))
    }
}

fn is_to(stanza: &Element, who: &str) -> bool {
    let jid = PEOPLE.iter().find(|(name, _)| *name == who).expect("a person of the play").1;
    stanza.attr("to").is_some_and(|to| to.split('/').next() == jid.split('/').next())
}

fn element(xml: &str) -> Result<Element, minidom::Error> {
    let scope: BTreeMap<Option<String>, String> = [(None, STANZAS.to_owned())].into();
    Element::from_reader_with_prefixes(xml.as_bytes(), scope)
}

/// Whether `actual` is as `expected` says; what is kept may be changed even if it is not.
fn fits(expected: &Element, actual: &Element, kept: &mut HashMap<String, String>) -> bool {
    if expected.name() != actual.name() || expected.ns() != actual.ns() {
        return false;
    }
    for ((_, name), value) in expected.attrs() {
        let name = name.as_str();
        if name == "children" {
            if actual.children().count().to_string() != *value {
                return false;
            }
        } else if name != "absent" && !is_value(value, actual.attr(name), kept) {
            return false;
        }
    }
    let text = expected.text();
    if !text.trim().is_empty() && !is_value(text.trim(), Some(actual.text().trim()), kept) {
        return false;
    }
    let mut rest = actual.children();
    expected.children().all(|child| match child.attr("absent") {
        Some(_) => !actual.children().any(|c| c.name() == child.name() && c.ns() == child.ns()),
        None => rest.any(|c| fits(child, c, kept)),
    })
}

fn is_value(expected: &str, actual: Option<&str>, kept: &mut HashMap<String, String>) -> bool {
    let Some(actual) = actual else { return expected == "!" };
    if let Some(name) = expected.strip_prefix('{').and_then(|e| e.strip_suffix('}')) {
        return *kept.entry(name.to_owned()).or_insert_with(|| actual.to_owned()) == actual;
    }
    match (expected.strip_prefix('*'), expected) {
        (_, "*") => true,
        (_, "!") => false,
        (Some(inner), _) if inner.ends_with('*') => actual.contains(inner.trim_end_matches('*')),
        _ => {
            let mut expected = expected.to_owned();
            for (name, value) in kept.iter() {
                expected = expected.replace(&format!("{{{name}}}"), value);
            }
            expected == actual
        }
    }
}
