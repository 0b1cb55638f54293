//! Scenarios that a person can read, in `tests/scenarios/*.scn`; how they are written stands in `runner.rs` there.
//! And rules over any input: the edge never panics, and a request is answered exactly once.

#[path = "scenarios/runner.rs"]
mod runner;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use rookery::domain::error::Refusal;
use rookery::service::Quota;
use rookery::xmpp::envelope::{Envelope, Kind, Refused, Scope};
use rookery::xmpp::limits::{Limits, Rate};

use runner::{Setup, World};

/// Name and text of every scenario.
fn scenarios() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "scn"));
    files.sort();
    assert!(files.len() >= 10, "scenarios are missing");
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_goes_as_written() {
    for (name, script) in scenarios() {
        let mut world = World::new(Setup::default());
        world.play(&name, &script).await;
        let rest = world.rest().await;
        assert!(rest.is_empty(), "{name}: nobody expected\n{}", rest.join("\n"));
    }
}

/// An answer of all items would be 600 KB, and Prosody ends the stream at 512 KiB: what fits comes, with a way on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_do_not_fit_into_one_stanza_come_by_pages() {
    let world = World::new(Setup::default());
    let items = |inner: &str, set: &str| {
        let set = format!("<set xmlns='http://jabber.org/protocol/rsm'>{set}</set>");
        let set = if inner.is_empty() { String::new() } else { set };
        format!(
            "<iq type='get' id='q' to='social.example.org'><pubsub xmlns='http://jabber.org/protocol/pubsub'>\
             <items node='n'/>{set}</pubsub></iq>"
        )
    };
    for n in 1..=6 {
        let text = "x".repeat(100_000);
        let publish = format!(
            "<iq type='set' id='p' to='social.example.org'><pubsub xmlns='http://jabber.org/protocol/pubsub'>\
             <publish node='n'><item id='{n}'><x xmlns='urn:x'>{text}</x></item></publish></pubsub></iq>"
        );
        world.sends("juliet", &publish);
        let answer = world.answer("juliet@example.org/balcony", "p").await.unwrap();
        assert_eq!(answer.attr("type"), Some("result"));
    }
    let mut seen = Vec::new();
    let mut ask = items("", "");
    for _ in 0..6 {
        world.sends("romeo", &ask);
        let answer = world.answer("romeo@example.org/orchard", "q").await.unwrap();
        let pubsub = answer.children().next().unwrap();
        let page: Vec<_> =
            pubsub.children().next().unwrap().children().map(|i| i.attr("id").unwrap().to_owned()).collect();
        if page.is_empty() {
            break;
        }
        let first = pubsub.get_child("set", "http://jabber.org/protocol/rsm").unwrap().children().next().unwrap();
        assert_eq!(first.text(), page[0], "without a request for pages too, the answer says where it begins");
        ask = items("page", &format!("<before>{}</before>", first.text()));
        seen.splice(0..0, page);
    }
    assert_eq!(seen, ["1", "2", "3", "4", "5", "6"]);
}

/// Whoever has nodes could else keep others from subscribing anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_owner_gives_counts_in_the_owners_quota_and_not_in_that_of_who_gets_it() {
    let quota = Quota { subscriptions: 3, nodes: 9, ..Quota::default() };
    let world = World::new(Setup { quota, ..Setup::default() });
    let (juliet, romeo) = ("juliet@example.org/balcony", "romeo@example.org/orchard");
    let pubsub =
        |more: &str, inner: &str| format!("<pubsub xmlns='http://jabber.org/protocol/pubsub{more}'>{inner}</pubsub>");
    let asked = AtomicUsize::new(0);
    let ask = async |who: &str, jid: &str, payload: String| {
        // No request is taken for a repeated one.
        let id = format!("q{}", asked.fetch_add(1, Ordering::Relaxed));
        world.sends(who, &format!("<iq type='set' id='{id}' to='social.example.org'>{payload}</iq>"));
        world.answer(jid, &id).await.unwrap().attr("type").unwrap().to_owned()
    };
    let give = async |node: &str, state: &str| {
        let subscription = format!("<subscription jid='romeo@example.org' subscription='{state}'/>");
        let inner = format!("<subscriptions node='{node}'>{subscription}</subscriptions>");
        ask("juliet", juliet, pubsub("#owner", &inner)).await
    };
    let subscribe = async |node: &str| {
        ask("romeo", romeo, pubsub("", &format!("<subscribe node='{node}' jid='romeo@example.org'/>"))).await
    };
    for node in ["a", "b", "c", "d", "e", "f", "g"] {
        assert_eq!(ask("juliet", juliet, pubsub("", &format!("<create node='{node}'/>"))).await, "result");
    }
    for node in ["a", "b", "c"] {
        assert_eq!(give(node, "subscribed").await, "result");
    }
    assert_eq!(give("d", "subscribed").await, "error", "her own quota");
    for node in ["e", "f", "g"] {
        assert_eq!(subscribe(node).await, "result", "he has his own for {node}");
    }
    assert_eq!(subscribe("d").await, "error");
    // What was given and is ended, by whomever, is given back to who gave it.
    let leave = pubsub("", "<unsubscribe node='a' jid='romeo@example.org'/>");
    assert_eq!(ask("romeo", romeo, leave).await, "result");
    assert_eq!(subscribe("d").await, "error");
    assert_eq!(give("d", "subscribed").await, "result");
    assert_eq!(give("a", "subscribed").await, "error");
    assert_eq!(give("b", "none").await, "result");
    assert_eq!(give("a", "subscribed").await, "result");
}

/// Requests, words, presences, nonsense and what is no XML take from one bucket; who is over it is told now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stanza_counts_whatever_it_is_and_a_flood_is_not_answered_stanza_for_stanza() {
    let romeo = "from='romeo@example.org/orchard' to='social.example.org'";
    let kinds = [
        format!("<iq {romeo} type='get' id='{{n}}'><ping xmlns='urn:xmpp:ping'/></iq>"),
        format!("<iq {romeo} type='get' id='{{n}}'><nobody xmlns='urn:knows'/></iq>"),
        format!("<iq {romeo} type='get' id='{{n}}'/>"),
        format!("<iq {romeo} type='odd' id='{{n}}'><ping xmlns='urn:xmpp:ping'/></iq>"),
        format!("<iq {romeo} type='result' id='{{n}}'/>"),
        "<iq from='romeo@example.org/orchard' to='nobody~1@social.example.org' type='get' id='{n}'><a xmlns='b'/></iq>"
            .to_owned(),
        format!("<message {romeo}/>"),
        format!("<message {romeo} type='error'/>"),
        format!("<presence {romeo}/>"),
    ];
    let three = Rate { per_second: 0.0, burst: 3.0 };
    let limits = Limits { per_jid: three, told_jid: three, ..Limits::default() };
    for kind in &kinds {
        let world = World::new(Setup { limits: limits.clone(), ..Setup::default() });
        for n in 0..3 {
            let stanza = kind.replace("{n}", &n.to_string());
            world.brings(Envelope::parse(stanza.into(), &Scope::default()).unwrap());
        }
        world.rest().await;
        let before = world.rest().await.len();
        for n in 0..50 {
            let id = format!("over{n}");
            world.sends("romeo", &format!("<iq type='get' id='{id}' to='social.example.org'><a xmlns='b'/></iq>"));
        }
        let told = world.rest().await.split_off(before);
        assert_eq!(told.len(), 3, "{kind}: {told:?}");
        assert!(told.iter().all(|t| t.contains("type=\"wait\"") || t.contains("type='wait'")), "{told:?}");
        assert!(told.iter().all(|t| t.contains("<resource-constraint")), "{told:?}");
        world.sends("juliet", "<iq type='get' id='j' to='social.example.org'><ping xmlns='urn:xmpp:ping'/></iq>");
        let other = world.answer("juliet@example.org/balcony", "j").await.expect("others are not kept waiting");
        assert_eq!(other.attr("type"), Some("result"));
    }
    // What the link did not read to its end counts as well.
    let world = World::new(Setup { limits, ..Setup::default() });
    for n in 0..50 {
        let broken = format!("<iq {romeo} type='get' id='{n}'><a xmlns='b'></iq>");
        let broken = Envelope::parse(broken.into(), &Scope::default()).unwrap_err();
        world.brings(Refused { head: *broken.head, refusal: Refusal::BadRequest, why: broken.fault.to_string() });
    }
    let told = world.rest().await;
    let of = |condition: &str| told.iter().filter(|t| t.contains(condition)).count();
    assert_eq!((of("<bad-request"), of("<resource-constraint"), told.len()), (3, 3, 6));
}

/// Everything that anybody sends in any scenario.
fn corpus() -> Vec<String> {
    let mut found = Vec::new();
    for (_, script) in scenarios() {
        let mut lines = script.lines();
        while let Some(line) = lines.next() {
            if line.contains(" sends") {
                found.push(lines.by_ref().take_while(|l| !l.trim().is_empty()).collect::<Vec<_>>().join("\n"));
            }
        }
    }
    found
}

const WORDS: &[&str] = &[
    "",
    " ",
    "get",
    "set",
    "result",
    "error",
    "n",
    "0",
    "-1",
    "99999999999999999999",
    "max",
    "&#9;",
    "&lt;",
    "é\u{1F426}",
    "@",
    "/",
    "juliet@social.example.org",
    "social.example.org",
    "tw~1@social.example.org",
    "elsewhere.example",
    "http://jabber.org/protocol/pubsub",
    "http://jabber.org/protocol/pubsub#owner",
    "jabber:x:data",
    "jabber:client",
    "http://jabber.org/protocol/rsm",
    "<item/>",
    "<x xmlns='jabber:x:data'/>",
    "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max></set>",
    "<publish node='n'/>",
    "<![CDATA[<]]>",
    "text",
];

/// Changes one thing: an attribute's value or the whole attribute, an empty element, or some characters.
fn change(stanza: &mut String, how: u8, place: Index, word: Index) {
    let word = WORDS[word.index(WORDS.len())];
    let spans = |open: &str, close: &str| -> Vec<(usize, usize)> {
        let found = stanza.match_indices(open).map(|(at, _)| at);
        found
            .filter_map(|at| Some((at, at + open.len() + stanza[at + open.len()..].find(close)? + close.len())))
            .collect()
    };
    let pick = |spans: Vec<(usize, usize)>| (!spans.is_empty()).then(|| spans[place.index(spans.len())]);
    match how {
        0 | 1 => {
            if let Some((from, to)) = pick(spans("='", "'")) {
                stanza.replace_range(from + 2..to - 1, word);
            }
        }
        2 => {
            if let Some((from, to)) = pick(spans("='", "'")) {
                let name = stanza[..from].rfind(' ').unwrap_or(from);
                stanza.replace_range(name..to, "");
            }
        }
        3 => {
            if let Some((from, to)) = pick(spans("<", "/>")).filter(|(from, to)| !stanza[from + 1..*to].contains('<')) {
                let element = stanza[from..to].to_owned();
                stanza.replace_range(
                    from..to,
                    &if word.len().is_multiple_of(2) { String::new() } else { element.repeat(2) },
                );
            }
        }
        4 => {
            if let Some((_, to)) = pick(spans("<", ">")) {
                stanza.insert_str(to, word);
            }
        }
        _ => {
            let chars: Vec<_> = stanza.char_indices().map(|(at, c)| (at, at + c.len_utf8())).collect();
            if let Some((from, to)) = pick(chars) {
                stanza.replace_range(from..to, word);
            }
        }
    }
}

#[test]
fn no_stanza_makes_the_edge_panic_or_leaves_a_request_without_its_one_answer() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() == Some("edge") {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        before(info);
    }));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("edge").enable_all().build().unwrap();
    let _within = runtime.enter();
    let any = Rate { per_second: 0.0, burst: f64::INFINITY };
    let limits = Limits { per_jid: any, per_host: any, ..Limits::default() };
    let world = World::new(Setup { limits, ..Setup::default() });
    let corpus = corpus();
    assert!(corpus.len() > 100);
    let changes = prop::collection::vec((0..6u8, any_index(), any_index()), 0..5);
    let (mut requests, mut read) = (0, 0);
    let mut runner = TestRunner::new(Config { cases: 3_000, failure_persistence: None, ..Config::default() });
    let counted = std::cell::RefCell::new((&mut requests, &mut read));
    let outcome = runner.run(&(any_index(), changes), |(which, changes)| {
        let mut stanza = corpus[which.index(corpus.len())].replace("{n}", "1");
        if !stanza.contains(" from=") {
            stanza = stanza.replacen(' ', " from='romeo@example.org/orchard' ", 1);
        }
        for (how, place, word) in changes {
            change(&mut stanza, how, place, word);
        }
        // What is no XML never comes this far: the link answers it.
        let Ok(envelope) = Envelope::parse(Bytes::from(stanza.clone()), &Scope::default()) else { return Ok(()) };
        let mut counted = counted.borrow_mut();
        *counted.1 += 1;
        let head = envelope.head.clone();
        world.brings(envelope);
        // An iq of no known type is answered too (RFC 6120 §8.2.3).
        let request = head.kind == Kind::Iq && head.error_due();
        if let (true, Some(id), Some(from)) = (request, &head.id, head.from.jid()) {
            *counted.0 += 1;
            let answer = runtime.block_on(world.answer(from.as_str(), id));
            prop_assert!(answer.is_some(), "no answer to {}", stanza);
        }
        prop_assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{}", stanza);
        Ok(())
    });
    println!("{read} stanzas read, {requests} requests answered");
    outcome.unwrap();
    assert!(requests > 500, "{requests}");
    let twice: Vec<_> = runtime.block_on(world.rest());
    let twice: Vec<_> = twice.iter().filter(|s| s.starts_with("<iq") && s.contains(" id=")).collect();
    assert!(twice.is_empty(), "answered twice: {twice:?}");
}

fn any_index() -> impl Strategy<Value = Index> {
    any::<Index>()
}

/// What it costs to read a message is its sender's affair: done where it was let in, and not where all stanzas come in.
#[tokio::test]
async fn a_message_is_read_only_after_it_was_let_in() {
    let fields = "<field var='a'/>".repeat(10_000);
    let message = format!(
        "<message from='romeo@example.org/orchard' to='social.example.org'>\
         <x xmlns='jabber:x:data' type='submit'>{fields}</x></message>"
    );
    let world = World::new(Setup::default());
    let least = |mut what: Box<dyn FnMut() + '_>| {
        let once = |_| {
            let begun = std::time::Instant::now();
            what();
            begun.elapsed()
        };
        (0..5).map(once).min().unwrap()
    };
    let parse = || Envelope::parse(message.clone().into(), &Scope::default()).unwrap();
    let parsed = least(Box::new(|| drop(parse())));
    let mut messages: Vec<_> = (0..5).map(|_| parse()).collect();
    let received = least(Box::new(|| world.brings(messages.pop().unwrap())));
    assert!(received * 4 < parsed, "taken in {received:?}, and the one pass over its bytes takes {parsed:?}");
}
