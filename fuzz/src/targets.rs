//! What each target does with its bytes. `tests/corpus.rs` of Rookery plays the corpora through the same functions.
//!
//! A new target is a function here and a line in [`ALL`], a file in `fuzz/src/bin`, and a folder of its name in `fuzz/corpus`.

use quick_xml::events::Event;

use super::base::clock::Timestamp;
use super::format::atom::{self, Author, Completion};
use super::format::canonical::{Canonical, Limits};
use super::format::{feed, html, jrd, uri, xrd};
use super::xmpp::framer::{Frame, Framer, Limits as FrameLimits, StreamFault};

/// A name, which is also that of the corpus, and what is done with each input.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: &[Target] = &[
    ("canonical", canonical),
    ("entry", entry),
    ("framer", framer),
    ("html", markup),
    ("jrd", json),
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
    assert_eq!(once.entry.authors.len(), 1);
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
