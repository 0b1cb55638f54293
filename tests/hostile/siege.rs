//! A component under siege: two users and a whole foreign component send what the grammar makes, through a real server.
//! Beside them alice posts and the nurse reads, and must not notice.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use minidom::Element;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::grammar::Grammar;
use super::tree::Stanza;
use super::watch::Watch;
use crate::support::client::{Client, Failure, MICROBLOG, entry, items, publish, refusal, subscribe};
use crate::support::rookery::Rookery;
use crate::support::servers::{CROWD, HOST, SOCIAL, Server, at_social};

/// Stanzas of one sender before all of its answers are waited for. The crowd is thirty people.
const BATCH: usize = 24;
const BATCH_OF_CROWD: usize = 60;
/// Rounds between two posts of alice's.
const POSTS: u64 = 5;
/// An answer that takes longer counts as missing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Findings after which there is no use in going on.
const ENOUGH: usize = 20;

/// What was done and found.
#[derive(Default)]
pub struct Report {
    pub stanzas: u64,
    pub bytes: u64,
    pub requests: u64,
    pub results: u64,
    pub errors: u64,
    pub unanswered_with_stream: u64,
    pub streams_ended: u64,
    pub unreadable: u64,
    pub floods: u64,
    pub flood_stanzas: u64,
    pub flood_answers: u64,
    pub honest: u64,
    pub kinds: BTreeMap<String, u64>,
    pub findings: Vec<String>,
}

struct Sender {
    name: &'static str,
    client: Client,
    grammar: Grammar,
    /// Ids that had their answer.
    done: HashSet<String>,
    /// Ids under which something went that may be answered or not.
    loose: HashSet<String>,
    logins: u32,
}

pub struct Siege<'a> {
    server: &'a Server,
    rookery: &'a Rookery,
    senders: Vec<Sender>,
    alice: Client,
    nurse: Client,
    keepsake: String,
    posts: u64,
    watch: Watch,
    rng: StdRng,
    pause: Duration,
    pub report: Report,
}

impl<'a> Siege<'a> {
    /// `pause`: of each round, so that others of this machine have their share.
    pub async fn begin(server: &'a Server, rookery: &'a Rookery, seed: u64, pause: Duration) -> Siege<'a> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut alice = server.login("alice").await;
        let mut nurse = server.login("nurse").await;
        let hers = at_social("alice");
        let keepsake = entry("A ring & a <chain> \u{1f48d}", "keepsake");
        alice.set(&hers, &publish(MICROBLOG, "keepsake", &keepsake)).await.expect("alice may post");
        nurse.set(&hers, &subscribe(MICROBLOG, &format!("nurse@{HOST}"))).await.expect("the nurse may subscribe");
        let mut senders = Vec::new();
        for (n, name) in ["romeo", "juliet", "crowd"].into_iter().enumerate() {
            let mark = format!("h{n}");
            let rng = StdRng::seed_from_u64(rng.random());
            let (client, mut grammar) = match name {
                "crowd" => (server.crowd().await, Grammar::new(rng, "s1", CROWD, &mark)),
                name => (server.login_as(name, "fuzz").await, Grammar::new(rng, name, HOST, &mark)),
            };
            grammar.from_crowd = name == "crowd";
            grammar.may_leave = name == "juliet";
            senders.push(Sender { name, client, grammar, done: HashSet::new(), loose: HashSet::new(), logins: 0 });
        }
        let watch = Watch::begin(rookery, server.attached()).await;
        let mut siege = Siege {
            server,
            rookery,
            senders,
            alice,
            nurse,
            keepsake: String::new(),
            posts: 0,
            watch,
            rng,
            pause,
            report: Report::default(),
        };
        siege.keepsake = siege.kept().await.expect("alice's post can be read");
        siege
    }

    /// Goes on for `span`, or until there is enough found.
    pub async fn hold(&mut self, span: Duration, flood_every: Option<Duration>) {
        let begun = Instant::now();
        let (mut flooded, mut told) = (begun, begun);
        let mut round = 0u64;
        while begun.elapsed() < span && self.report.findings.len() < ENOUGH {
            round += 1;
            let batches: Vec<Vec<Stanza>> = self
                .senders
                .iter_mut()
                .map(|sender| (0..batch_of(sender)).map(|_| sender.grammar.stanza()).collect())
                .collect();
            for (n, batch) in batches.iter().enumerate() {
                self.send(n, batch).await;
            }
            for (n, batch) in batches.iter().enumerate() {
                self.collect(n, batch).await;
            }
            if !self.stands(&batches).await {
                return;
            }
            if round.is_multiple_of(POSTS) {
                self.honest().await;
            }
            if flood_every.is_some_and(|every| flooded.elapsed() > every) {
                self.flood().await;
                flooded = Instant::now();
            }
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                println!("{:?} {:4} s: {}", self.server.kind, begun.elapsed().as_secs(), self.line());
            }
            tokio::time::sleep(self.pause).await;
        }
        self.honest().await;
    }

    /// One line of figures.
    pub fn line(&self) -> String {
        let r = &self.report;
        format!(
            "{} stanzas ({} MB), {} requests: {} results, {} errors, {} lost with {} streams that the server ended; \
             {} honest posts; {} floods of {} stanzas, {} answered; {} answers unreadable to the client; {}; {} findings",
            r.stanzas,
            r.bytes / 1_000_000,
            r.requests,
            r.results,
            r.errors,
            r.unanswered_with_stream,
            r.streams_ended,
            r.honest,
            r.floods,
            r.flood_stanzas,
            r.flood_answers,
            r.unreadable,
            self.watch.line(),
            r.findings.len()
        )
    }

    fn found(&mut self, what: String) {
        println!("FOUND ({:?}): {what}", self.server.kind);
        self.report.findings.push(what);
    }

    async fn send(&mut self, n: usize, batch: &[Stanza]) {
        for stanza in batch {
            let xml = &stanza.xml;
            self.report.stanzas += 1;
            self.report.bytes += xml.len() as u64;
            let sender = &mut self.senders[n];
            // Where the server has ended the stream, the rest of the batch is lost; `collect` sees it.
            if tokio::time::timeout(PATIENCE, sender.client.send_raw(xml)).await.is_err() {
                self.found(format!("the server took nothing of {} for {PATIENCE:?}", self.senders[n].name));
                return;
            }
        }
    }

    /// Waits until every request has its one answer.
    async fn collect(&mut self, n: usize, batch: &[Stanza]) {
        let mut due: BTreeMap<String, usize> = BTreeMap::new();
        let others = batch.iter().filter(|stanza| request(stanza).is_none());
        let loose = others.filter_map(|stanza| stanza.tree.get("id")).map(|id| mark(id).to_owned());
        self.senders[n].loose.extend(loose);
        for stanza in batch {
            if let Some(id) = request(stanza).filter(|id| !self.senders[n].loose.contains(*id)) {
                *due.entry(id.to_owned()).or_default() += 1;
                self.report.requests += 1;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while !due.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let sender = &mut self.senders[n];
            let came = tokio::time::timeout(left.min(Duration::from_millis(250)), sender.client.next()).await;
            for text in std::mem::take(&mut sender.client.unreadable) {
                self.report.unreadable += 1;
                // What the server itself echoes may be no XML to us; it is an answer all the same.
                let echoed =
                    due.keys().find(|id| ["'", "\"", "-"].iter().any(|end| text.contains(&format!("{id}{end}"))));
                if let Some(id) = echoed.cloned() {
                    settle(&mut due, &id);
                }
            }
            match came {
                Ok(Ok(stanza)) => self.hear(n, batch, &stanza, &mut due),
                Ok(Err(_)) => {
                    self.report.streams_ended += 1;
                    self.report.unanswered_with_stream += due.values().sum::<usize>() as u64;
                    self.again(n).await;
                    return;
                }
                Err(_) if left.is_zero() => break,
                Err(_) => {}
            }
        }
        for id in due.into_keys() {
            let Some(stanza) = batch.iter().find(|stanza| request(stanza) == Some(id.as_str())).cloned() else {
                continue;
            };
            let small = self.smaller(n, stanza.clone(), "no answer").await;
            self.found(format!("no answer to {}\nwhich was {}", small.xml, stanza.xml));
        }
    }

    /// Takes one stanza that came.
    fn hear(&mut self, n: usize, batch: &[Stanza], stanza: &Element, due: &mut BTreeMap<String, usize>) {
        let (id, type_) = (mark(stanza.attr("id").unwrap_or_default()), stanza.attr("type").unwrap_or_default());
        if stanza.name() != "iq" || !matches!(type_, "result" | "error") {
            return;
        }
        if !due.contains_key(id) {
            if self.senders[n].done.contains(id) && !self.senders[n].loose.contains(id) {
                let asked: Vec<String> =
                    batch.iter().map(|sent| sent.xml.clone()).filter(|xml| xml.contains(id)).collect();
                self.found(format!("a second answer to {id}: {}\n{}", String::from(stanza), asked.join("\n")));
            }
            return;
        }
        settle(due, id);
        if !due.contains_key(id) {
            self.senders[n].done.insert(id.to_owned());
        }
        let asked = batch.iter().find(|asked| request(asked) == Some(id));
        let condition = match type_ {
            "result" => {
                self.report.results += 1;
                "result".to_owned()
            }
            _ => {
                self.report.errors += 1;
                let refusal = refusal(stanza);
                format!("{} {}", refusal.condition, refusal.specific).trim_end().to_owned()
            }
        };
        if condition.starts_with("internal-server-error") {
            let xml = asked.map(|asked| asked.xml.clone()).unwrap_or_default();
            self.found(format!("internal-server-error ({}) to {xml}", refusal(stanza).text));
        }
        // Where it is written as it is kept, an answer comes from where the question went.
        let plain = |to: &str| to.bytes().all(|b| b.is_ascii_lowercase() || b"@.".contains(&b));
        let went: Vec<&str> =
            batch.iter().filter(|asked| request(asked) == Some(id)).filter_map(|asked| asked.tree.get("to")).collect();
        if went.iter().all(|to| plain(to)) && !went.iter().any(|to| stanza.attr("from") == Some(to)) {
            self.found(format!("asked {went:?}, answered by {:?}: {}", stanza.attr("from"), String::from(stanza)));
        }
        *self.report.kinds.entry(condition).or_default() += 1;
    }

    /// A new stream for a sender whose stream the server has ended.
    async fn again(&mut self, n: usize) {
        let sender = &mut self.senders[n];
        sender.logins += 1;
        sender.client = match sender.name {
            "crowd" => {
                let crowd = self.server.crowd().await;
                self.watch.attached(self.server.attached());
                crowd
            }
            name => self.server.login_as(name, &format!("fuzz{}", sender.logins)).await,
        };
    }

    /// Whether the component is there as it was, on the same stream.
    async fn stands(&mut self, batches: &[Vec<Stanza>]) -> bool {
        let asked = self.nurse.get(SOCIAL, "<query xmlns='http://jabber.org/protocol/disco#info'/>").await;
        let mut wrong = self.watch.look(self.rookery, &self.server.attached()).await;
        let answered = asked.is_ok();
        if let Err(failure) = asked {
            wrong.push(format!("the component does not answer the nurse: {failure}"));
        }
        if !wrong.is_empty() {
            let sent: Vec<&str> = batches.iter().flatten().map(|stanza| clipped(&stanza.xml)).collect();
            for what in wrong {
                self.found(format!("{what}\nafter these:\n{}", sent.join("\n")));
            }
        }
        answered
    }

    /// An honest post arrives, and what stood there stands there.
    async fn honest(&mut self) {
        self.posts += 1;
        // The same few again and again: a microblog keeps them all.
        let (item, hers) = (format!("honest-{}", self.posts % 40), at_social("alice"));
        let title = format!("Good morrow, {}", self.posts);
        if let Err(failure) = self.alice.set(&hers, &publish(MICROBLOG, &item, &entry(&title, &item))).await {
            self.found(format!("alice cannot post: {failure}"));
            return;
        }
        let heard = self.nurse.expect("alice's post", |stanza| {
            stanza.attr("from") == Some(&hers) && String::from(stanza).contains(&format!("{title}<"))
        });
        if let Err(failure) = heard.await {
            self.found(format!("the nurse does not hear of alice's post {}: {failure}", self.posts));
        }
        match self.kept().await {
            Ok(now) if now == self.keepsake => {}
            Ok(now) => self.found(format!("alice's post was\n{}\nand is\n{now}", self.keepsake)),
            Err(failure) => self.found(format!("alice's post cannot be read: {failure}")),
        }
        self.report.honest += 1;
    }

    /// The post that nobody but alice may touch, as it is stored.
    async fn kept(&mut self) -> Result<String, Failure> {
        let inner = "<item id='keepsake'/></items>";
        let asked = items(MICROBLOG).replacen("/></pubsub>", &format!(">{inner}</pubsub>"), 1);
        let found = self.alice.get(&at_social("alice"), &asked).await?;
        Ok(found.children().map(String::from).collect())
    }

    /// More than anybody may send, from one of the crowd; the others are served meanwhile, and nothing is answered twice.
    async fn flood(&mut self) {
        const STANZAS: usize = 16_000;
        let Some(n) = self.senders.iter().position(|sender| sender.name == "crowd") else { return };
        let flood = self.rng.random::<u32>();
        for k in 0..STANZAS {
            let xml = format!(
                "<iq type='get' from='flood@{CROWD}' to='{SOCIAL}' id='f{flood}-{k}'><ping xmlns='urn:xmpp:ping'/></iq>"
            );
            if self.senders[n].client.send_raw(&xml).await.is_err() {
                break;
            }
        }
        let begun = Instant::now();
        if let Err(failure) = self.nurse.get(SOCIAL, "<ping xmlns='urn:xmpp:ping'/>").await {
            self.found(format!("in a flood of another, the nurse is not answered: {failure}"));
        }
        println!("{:?}: the nurse waited {:?} behind a flood", self.server.kind, begun.elapsed());
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        let quiet = Duration::from_secs(3);
        while let Ok(Ok(stanza)) = tokio::time::timeout(quiet, self.senders[n].client.next()).await {
            let id = stanza.attr("id").unwrap_or_default();
            if id.starts_with(&format!("f{flood}-")) {
                *answers.entry(id.to_owned()).or_default() += 1;
            }
        }
        if let Some((id, times)) = answers.iter().find(|(_, times)| **times > 1) {
            self.found(format!("in a flood, {id} was answered {times} times"));
        }
        self.report.floods += 1;
        self.report.flood_stanzas += STANZAS as u64;
        self.report.flood_answers += answers.len() as u64;
    }

    /// The smallest stanza found that has the same trouble when it is sent alone; the stanza itself if it has none then.
    async fn smaller(&mut self, n: usize, stanza: Stanza, trouble: &str) -> Stanza {
        if !self.troubles(n, &stanza).await {
            println!("{trouble}: not again when it is sent alone");
            return stanza;
        }
        let mut best = stanza;
        let mut tries = 0;
        'again: loop {
            for tree in best.tree.smaller() {
                tries += 1;
                if tries > 150 {
                    return best;
                }
                let next = Stanza::new(tree, best.style);
                if request(&next).is_some() && self.troubles(n, &next).await {
                    best = next;
                    continue 'again;
                }
            }
            return best;
        }
    }

    /// Whether this request alone has no answer within two seconds.
    async fn troubles(&mut self, n: usize, stanza: &Stanza) -> bool {
        let mut tree = stanza.tree.clone();
        let id = format!("again-{}", self.rng.random::<u32>());
        tree.set("id", id.clone());
        let probe = Stanza::new(tree, stanza.style);
        if self.senders[n].client.send_raw(&probe.xml).await.is_err() {
            self.again(n).await;
            return false;
        }
        let answer = self.senders[n]
            .client
            .expect_within(Duration::from_secs(2), "an answer", |stanza| stanza.attr("id") == Some(id.as_str()));
        match answer.await {
            Ok(_) => false,
            Err(Failure::Late(..)) => true,
            Err(_) => {
                self.again(n).await;
                false
            }
        }
    }
}

fn batch_of(sender: &Sender) -> usize {
    if sender.grammar.from_crowd { BATCH_OF_CROWD } else { BATCH }
}

/// The id of a request that we must answer; `None` if it is none, or is not for us.
fn request(stanza: &Stanza) -> Option<&str> {
    let tree = &stanza.tree;
    let to = tree.get("to")?;
    let bare = to.split('/').next().unwrap_or_default();
    let ours = bare == SOCIAL || bare.strip_suffix(SOCIAL).is_some_and(|rest| rest.ends_with('@'));
    // With no child, or several, it is no request (RFC 6120 §8.2.3), and servers have their own ways with it.
    let asks = tree.name == "iq" && matches!(tree.get("type"), Some("get" | "set")) && tree.children().count() == 1;
    tree.get("id").filter(|id| ours && asks && !id.is_empty()).map(mark)
}

/// What an id begins with, which no server and no parser writes in another way.
fn mark(id: &str) -> &str {
    id.match_indices('-').nth(1).map_or(id, |(at, _)| &id[..at])
}

fn settle(due: &mut BTreeMap<String, usize>, id: &str) {
    if let Some(count) = due.get_mut(id) {
        *count -= 1;
        if *count == 0 {
            due.remove(id);
        }
    }
}

fn clipped(xml: &str) -> &str {
    xml.char_indices().nth(2_000).map_or(xml, |(at, _)| &xml[..at])
}
