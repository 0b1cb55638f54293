//! What each target does with its bytes. `tests/corpus.rs` of Rookery plays the corpora through the same functions.
//!
//! A new target is a function here and a line in [`ALL`], a file in `fuzz/src/bin`, and a folder of its name in `fuzz/corpus`.

use std::path::Path;
use std::sync::Arc;

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Response};
use bytes::Bytes;
use jid::BareJid;
use minidom::Element;
use quick_xml::events::Event;
use url::Url;

use super::base::clock::Timestamp;
use super::base::progress::Progress;
use super::config::Config;
use super::domain::address::{Addresses, LocalName, Whom};
use super::domain::error::Refusal;
use super::domain::node::{NodeKind, NodeName};
use super::domain::node_config::NodeConfig;
use super::format::atom::{self, Author, Completion};
use super::format::canonical::{Canonical, Limits};
use super::format::{feed, html, jrd, uri, xrd};
use super::http::conditional::{ETag, Validators, parse_retry_after};
use super::http::{accept, path};
use super::network::ostatus::wish::Wish;
use super::store::{Durable, Kv, MemoryKv, Read, tables, transfer};
use super::web::asked::{Asked, account_of};
use super::xmpp::envelope::{Envelope, Head, Scope, Stanza, StanzaType, XmlWriter};
use super::xmpp::errors::stanza_error;
use super::xmpp::forms::{self, Form};
use super::xmpp::framer::{Frame, Framer, Limits as FrameLimits, StreamFault};
use super::xmpp::outline::{Outline, Part};
use super::xmpp::rsm;

/// A name, which is also that of the corpus, and what is done with each input.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: &[Target] = &[
    ("canonical", canonical),
    ("config", configuration),
    ("entry", entry),
    ("form", form),
    ("framer", framer),
    ("headers", headers),
    ("html", markup),
    ("hub", hub),
    ("import", import),
    ("jrd", json),
    ("rows", rows),
    ("stanza", stanza),
    ("webfinger", webfinger),
    ("xrd", descriptor),
];

/// Canonical XML: the second time changes nothing, and children stand alone.
pub fn canonical(data: &[u8]) {
    let Ok(once) = Canonical::new(data, &[("", "urn:a"), ("p", "urn:b")], &Limits::ENTRY) else { return };
    assert_eq!(Canonical::new(once.as_bytes(), &[], &Limits::ENTRY).as_ref(), Ok(&once));
    for child in once.children(|_, _| true, 8) {
        assert_eq!(Canonical::new(child.as_bytes(), &[], &Limits::DOCUMENT).as_ref(), Ok(&child));
    }
}

/// Entries and feeds: read, completed twice, written for the web.
pub fn entry(data: &[u8]) {
    let Ok(payload) = Canonical::new(data, &[], &Limits::ENTRY) else { return };
    let _ = atom::read_feed(&payload, 16);
    let ctx = Completion {
        id: "tag:social.example,2026-11-22:alice/one",
        published: Timestamp::from_secs(1_795_320_124),
        updated: Timestamp::from_secs(1_795_320_200),
        author: Author { name: "Alice", jid: "alice@social.example", acct: None, page: None },
        permalink: Some("https://social.example/@alice/one"),
        service: "alice@social.example",
        node: "urn:xmpp:microblog:0",
        item: "one",
        comments: Some(("alice@social.example", "urn:xmpp:microblog:0:comments/one")),
    };
    let Ok(once) = atom::complete(&payload, &ctx) else { return };
    let shown = atom::read_entry(&once.payload).expect("what was completed is an entry");
    assert_eq!((shown.authors.len(), shown.title.as_ref()), (1, Some(&once.title)));
    // An entry just below the limit may pass it the second time.
    if let Ok(twice) = atom::complete(&once.payload, &ctx) {
        assert_eq!(twice.payload, once.payload);
    }
    let web = feed::write(&Default::default(), Some("xmpp:alice@social.example"), &[once.payload]);
    assert!(Canonical::new(web.as_bytes(), &[], &Limits::DOCUMENT).is_ok());
}

/// The component's stream: however it is cut into pieces, the same frames come out. The first byte chooses the pieces.
pub fn framer(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let piece = usize::from(*first % 37) + 1;
    assert_eq!(frames(stream, piece), frames(stream, stream.len().max(1)));
}

fn frames(stream: &[u8], piece: usize) -> (Vec<Frame>, Option<StreamFault>) {
    let mut framer = Framer::new(FrameLimits::default());
    let mut frames = Vec::new();
    for piece in stream.chunks(piece) {
        framer.buffer().extend_from_slice(piece);
        loop {
            match framer.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(fault) => return (frames, Some(fault)),
            }
        }
    }
    (frames, None)
}

/// HTML: what comes out is well-formed and holds nothing that runs.
pub fn markup(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for content in [html::from_html(text), html::from_text(text)] {
        let document = format!("<div xmlns='http://www.w3.org/1999/xhtml'>{}</div>", content.xhtml);
        assert!(Canonical::new(document.as_bytes(), &[], &Limits::DOCUMENT).is_ok(), "{document}");
        assert_nothing_runs(&document);
    }
    let _ = uri::XmppUri::parse(text);
    let _ = uri::authority(text);
}

/// No element and no attribute that a browser would act on.
fn assert_nothing_runs(document: &str) {
    let mut reader = quick_xml::Reader::from_str(document);
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(tag) | Event::Empty(tag) => {
                let name = tag.name().into_inner();
                assert!(!["script", "style", "svg", "math", "iframe", "object", "form"].contains(&name), "{document}");
                for attribute in tag.attributes().flatten() {
                    let (name, value) = (attribute.key.into_inner(), attribute.value.to_ascii_lowercase());
                    assert!(!name.starts_with("on") && name != "style", "{document}");
                    let runs = value.starts_with("javascript:") || value.starts_with("data:");
                    assert!(!(runs && matches!(name, "href" | "src" | "cite")), "{document}");
                }
            }
            Event::Eof => return,
            _ => {}
        }
    }
}

/// WebFinger in JSON: what was read is written and read again.
pub fn json(data: &[u8]) {
    if let Ok(resource) = jrd::read(data) {
        assert_eq!(jrd::read(jrd::write(&resource).as_bytes()).as_ref(), Ok(&resource));
    }
}

/// WebFinger and host-meta in XML: likewise.
pub fn descriptor(data: &[u8]) {
    if let Ok(resource) = xrd::read(data) {
        assert_eq!(xrd::read(xrd::write(&resource).as_bytes()).as_ref(), Ok(&resource));
    }
}

/// Stanzas from the bytes of a stream to what a request is made of. Whatever one is, an answer to it can be read again.
pub fn stanza(data: &[u8]) {
    let mut framer = Framer::new(FrameLimits::default());
    framer.buffer().extend_from_slice(
        b"<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'>",
    );
    framer.buffer().extend_from_slice(data);
    while let Ok(Some(frame)) = framer.next() {
        match frame {
            Frame::Stanza(raw) => envelope(raw),
            Frame::Skipped(skipped) => answer(&Head::salvage(&skipped.head)),
            _ => {}
        }
    }
}

fn envelope(raw: Bytes) {
    let envelope = match Envelope::parse(raw, &Scope::default()) {
        Ok(envelope) => envelope,
        Err(broken) => return answer(&broken.head),
    };
    answer(&envelope.head);
    let mut body = XmlWriter::new();
    body.open("x", "urn:x").attr("id", envelope.head.id.as_deref().unwrap_or_default());
    if let Some(answer) = envelope.head.result(body.finish()) {
        assert_answers(&envelope.head, &answer, StanzaType::Result);
    }
    let _ = envelope.element();
    for child in &envelope.children {
        let _ = envelope.child_element(child);
        assert!(!envelope.slice(child).is_empty());
        if let Ok(outline) = Outline::read(&envelope, child) {
            part(&outline, &outline.root);
        }
    }
}

fn answer(head: &Head) {
    let error = stanza_error(Refusal::BadRequest).text(format!("{:?}", head.to));
    if let Some(answer) = head.error(&error) {
        assert_answers(head, &answer, StanzaType::Error);
    }
}

/// What was asked is answered to who asked it, under the same id.
fn assert_answers(asked: &Head, answer: &Stanza, type_: StanzaType) {
    let mut bytes = Vec::new();
    answer.write_to(&mut bytes);
    let read = Envelope::parse(bytes.into(), &Scope::default()).expect("what is written can be read");
    assert_eq!((&read.head.to, &read.head.from), (&asked.from, &asked.to));
    // What XML has no place for cannot go back as it came.
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    let back = |id: &String| id.chars().map(|c| if allowed(c) { c } else { '\u{fffd}' }).collect();
    assert_eq!((read.head.id, read.head.type_), (asked.id.as_ref().map(back), type_));
}

fn part(outline: &Outline, part_: &Part) {
    let (raw, scope) = outline.cut(part_);
    if part_.ns != outline.root.ns {
        let scope: Vec<(&str, &str)> = scope.iter().map(|(prefix, ns)| (prefix.as_str(), ns.as_str())).collect();
        let _ = Canonical::new(&raw, &scope, &Limits::ENTRY);
        if let Ok(tree) = outline.element(part_) {
            let _ = Form::read(&tree);
            let _ = rsm::read(&tree);
        }
    }
    let _ = part_.attr("node").map(NodeName::parse);
    part_.children.iter().for_each(|child| part(outline, child));
}

/// How deep elements may be inside one another at most.
fn nesting(data: &[u8]) -> usize {
    data.windows(2).filter(|pair| pair[0] == b'<' && pair[1] != b'/').count()
}

/// A data form, and the configuration that it makes of a node's: what is written of that says the same again.
pub fn form(data: &[u8]) {
    if nesting(data) > FrameLimits::default().depth {
        return;
    }
    let Ok(tree) = Element::from_reader(data) else { return };
    let _ = rsm::read(&tree);
    let Ok(form) = Form::read(&tree) else { return };
    for kind in [NodeKind::Microblog, NodeKind::Comments, NodeKind::Leaf] {
        let mut config = NodeConfig::default_for(kind);
        for (var, values) in &form.fields {
            let _ = config.set(var, &values.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let mut w = XmlWriter::new();
        forms::configuration(&mut w, &config);
        let written = Element::from_reader(w.finish().as_bytes()).expect("what is written can be read");
        let mut copy = NodeConfig::default_for(kind);
        for (var, values) in Form::read(&written).expect("it is a form").fields {
            let set = copy.set(&var, &values.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(set.is_ok(), "{var}");
        }
        assert_eq!(copy, config);
    }
}

fn addresses() -> Addresses {
    let public = Url::parse("https://social.example.org/").expect("a URL");
    Addresses::new(BareJid::new("social.example.org").expect("a JID"), &public, "example.org")
}

/// A request to the hub: what is taken stays within the bounds. The first line is the User-Agent.
pub fn hub(data: &[u8]) {
    let line = data.iter().position(|b| *b == b'\n');
    let (agent, body) = line.map_or((&[][..], data), |at| (&data[..at], &data[at + 1..]));
    let agent = HeaderValue::from_bytes(agent).ok();
    let Ok(wish) = Wish::read(body, agent.as_ref(), &addresses()) else { return };
    let Wish::Ask { name, intent, callback } = wish else { return };
    assert!(matches!(callback.scheme(), "http" | "https") && callback.fragment().is_none());
    assert!(callback.as_str().len() <= 2_048 && callback.as_str() == intent.callback);
    // The topic stands as the subscriber wrote it, in whatever spelling of the URL.
    let topic = Url::parse(&intent.topic).expect("a URL");
    assert_eq!(addresses().account_of(topic.as_str()), Some(name));
    assert!((300..=30 * 24 * 3600).contains(&intent.lease_seconds));
    assert!(intent.secret.is_none_or(|secret| !secret.is_empty() && secret.len() < 200));
}

/// A WebFinger query, and each line as an address of any kind.
pub fn webfinger(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let addresses = addresses();
    if let Ok(asked) = Asked::read(text) {
        assert!(asked.resource.len() <= 2_048 && asked.rels.len() <= 100);
        let _ = account_of(&addresses, &asked.resource);
    }
    for line in text.lines() {
        if let Some(name) = account_of(&addresses, line) {
            assert_eq!(addresses.account_of(&addresses.acct(&name)), Some(name.clone()));
            assert_eq!(LocalName::parse(name.as_str()).as_ref(), Ok(&name));
        }
        if let Ok(jid) = BareJid::new(line)
            && let Some(Whom::Local(name)) = addresses.whom(&jid)
        {
            assert_eq!(addresses.whom(&addresses.virtual_jid(&name)), Some(Whom::Local(name)));
        }
    }
}

/// Headers that a request is answered by, one a line, and the first line as a path.
pub fn headers(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    if let Some(Ok(first)) = lines.next().map(std::str::from_utf8)
        && let Some(segments) = path::segments(first)
    {
        let again: String = segments.iter().map(|segment| format!("/{}", path::encode_segment(segment))).collect();
        assert_eq!(path::segments(&again), Some(segments));
    }
    let names = [
        header::ACCEPT,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
    ];
    let mut map = HeaderMap::new();
    for line in lines {
        let Some((first, rest)) = line.split_first() else { continue };
        let name: &HeaderName = &names[usize::from(*first) % names.len()];
        if let Ok(value) = HeaderValue::from_bytes(rest) {
            map.append(name, value);
        }
        if let Ok(text) = std::str::from_utf8(rest) {
            let _ = parse_retry_after(text, Timestamp::from_secs(1_795_320_124));
        }
    }
    let offers = ["application/jrd+json", "application/xrd+xml", "text/html; charset=utf-8"];
    assert!(accept::negotiate(&map, &offers).is_none_or(|offer| offers.contains(&offer)));
    let last_modified = Some(Timestamp::from_secs(1_795_320_124));
    for etag in [None, Some(ETag::strong("abc")), Some(ETag::weak("abc"))] {
        let validators = Validators { etag, last_modified };
        for method in [Method::GET, Method::HEAD, Method::POST] {
            let _ = validators.evaluate(&method, &map);
            let answer = validators.answer(&method, &map, Response::new("x".into()));
            assert!([200, 304, 412].contains(&answer.status().as_u16()));
        }
    }
}

/// A configuration: what is said against it never repeats the secret. Files that it names are left alone.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The lines behind the first empty one are variables of the environment.
    let (file, env) = text.split_once("\n\n\n").unwrap_or((text, ""));
    if text.to_ascii_lowercase().contains("secret_file") {
        return;
    }
    let env = env.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()));
    match Config::parse(file, Path::new("/nowhere"), env) {
        Ok(config) => assert_eq!(config.differences(&config), Vec::<&str>::new()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A file to be imported. What is taken can be exported, and is the same then.
pub fn import(data: &[u8]) {
    let mut rest = data;
    let Ok(head) = transfer::read_head(&mut rest) else { return };
    let kv = Arc::new(MemoryKv::default());
    if transfer::import(kv.clone(), &mut rest, &Progress::silent()).is_ok() {
        check(kv, &head);
    }
}

/// Rows of a store as they should not be, walked over, taken out and put in again. A row is a byte for the length of the
/// key, two for that of the value, and both.
pub fn rows(data: &[u8]) {
    let kv = Arc::new(MemoryKv::default());
    let mut rest = data;
    while let [key, high, low, tail @ ..] = rest {
        let (key, value) = (usize::from(*key), usize::from(*high) << 8 | usize::from(*low));
        let Some((key, tail)) = tail.split_at_checked(key) else { break };
        let Some((value, tail)) = tail.split_at_checked(value.min(tail.len())) else { break };
        rest = tail;
        let _ = kv.apply(&[(key.to_vec(), Some(Bytes::copy_from_slice(value)))]);
    }
    let schema = (b"mschema".to_vec(), Some(tables::encode(&tables::SCHEMA)));
    kv.apply(&[(b"mimport".to_vec(), None), schema]).expect("memory takes it");
    let head = transfer::Head {
        schema: tables::SCHEMA,
        component: "social.example.org".to_owned(),
        program: "fuzz".to_owned(),
        made: String::new(),
        secrets: false,
    };
    check(kv, &head);
}

/// What can be done with any store at rest; damage is said, not stumbled over.
fn check(kv: Arc<MemoryKv>, head: &transfer::Head) {
    let store = Durable(kv.clone());
    let _ = tables::audit(&store, &Progress::silent());
    for secrets in [true, false] {
        let head = transfer::Head { secrets, ..head.clone() };
        let mut file = Vec::new();
        let Ok(moved) = transfer::export(&store, &head, &mut file, &Progress::silent()) else { continue };
        let mut rest = file.as_slice();
        assert_eq!(transfer::read_head(&mut rest).expect("it is ours"), head);
        let copy = Arc::new(MemoryKv::default());
        match transfer::import(copy.clone(), &mut rest, &Progress::silent()) {
            Ok(again) if secrets => {
                assert_eq!(again.rows, moved.rows);
                let all = |r: &dyn Read| r.range(&[1], &[u8::MAX; 64], usize::MAX, false).expect("memory gives it");
                assert_eq!(all(&Durable(copy)), all(&store));
            }
            Ok(_) => {}
            // Without secrets a damaged row is found when its subscription is to end.
            Err(error) => assert!(!secrets, "what was exported cannot be imported: {error}"),
        }
    }
}
