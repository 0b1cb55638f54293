//! Real wire data: every Atom document among the specimens is read without panic, and says who did what.
//!
//! Our own specimens stand in `tests/specimens`. Others' captured traffic is not ours to ship: `ROOKERY_FIXTURES` names a folder that
//! holds it (its `http` sub-folder is read); unset, those tests say so and count what they skip.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rookery::base::clock::Timestamp;
use rookery::domain::entry::Entry;
use rookery::format::atom::{self, Author, Completion};
use rookery::format::canonical::{Canonical, Limits};
use rookery::format::{jrd, ns, xrd};

/// Base64url as the magic envelopes of all peers have it: padded or not.
const ENVELOPE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn fixtures() -> Option<PathBuf> {
    let folder = std::env::var_os("ROOKERY_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: all foreign specimens, ROOKERY_FIXTURES is not set");
    }
    folder.map(|folder| folder.join("http"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The XML in a file: the file, the body of a recorded HTTP message, or what a magic envelope carries.
fn xml(bytes: &[u8]) -> Option<Vec<u8>> {
    let body = match bytes.starts_with(b"HTTP/") || bytes.starts_with(b"POST ") || bytes.starts_with(b"GET ") {
        true => {
            let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
            let head = head.or_else(|| bytes.windows(2).position(|w| w == b"\n\n").map(|at| at + 2))?;
            &bytes[head..]
        }
        false => bytes,
    };
    let text = String::from_utf8_lossy(body);
    if let Some((_, rest)) = text.split_once("<me:data") {
        let data = rest.split_once('>')?.1.split_once("</me:data>")?.0;
        let data: String = data.split_whitespace().collect();
        return ENVELOPE.decode(data).ok();
    }
    let start = body.iter().position(|b| !b.is_ascii_whitespace())?;
    (body[start] == b'<' || body[start..].starts_with(b"\xef\xbb\xbf<")).then(|| body[start..].to_vec())
}

#[derive(Default, Debug)]
struct Counts {
    feeds: usize,
    entries: usize,
    with_id: usize,
    with_author: usize,
    with_content: usize,
    verbs: std::collections::BTreeMap<String, usize>,
    other: usize,
    refused: Vec<String>,
}

impl Counts {
    fn entry(&mut self, name: &str, payload: &Canonical, feed_has_owner: bool) {
        let entry = atom::read_entry(payload).unwrap_or_else(|| panic!("{name}: an entry is read"));
        self.entries += 1;
        self.with_id += usize::from(entry.id.is_some());
        self.with_author += usize::from(author_named(&entry) || feed_has_owner);
        self.with_content += usize::from(!entry.text().is_empty());
        *self.verbs.entry(entry.verb.word().to_owned()).or_default() += 1;
        assert!(entry.verb.as_str().contains(':'), "{name}: verbs are absolute");
        let again = Canonical::new(payload.as_bytes(), &[], &Limits::ENTRY);
        assert_eq!(again.as_ref(), Ok(payload), "{name}: canonical once is canonical for ever");
        if !entry.verb.is_control() {
            let done = atom::complete(payload, &context()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let twice = atom::complete(&done.payload, &context()).unwrap();
            assert_eq!(twice.payload, done.payload, "{name}: completing twice changes nothing");
            let shown = atom::read_entry(&done.payload).expect("an entry");
            assert_eq!((shown.authors.len(), shown.title.as_ref()), (1, Some(&done.title)), "{name}");
            assert!(!done.title.is_empty());
        }
    }
}

fn author_named(entry: &Entry) -> bool {
    entry.authors.iter().chain(&entry.actor).any(|p| p.iri().is_some() || p.name.is_some())
}

fn context() -> Completion<'static> {
    Completion {
        id: "tag:social.example,2026-11-22:alice/one",
        published: Timestamp::from_secs(1_795_320_124),
        updated: Timestamp::from_secs(1_795_320_124),
        author: Author { name: "Alice", jid: "alice@social.example", acct: None, page: None },
        permalink: Some("https://social.example/@alice/one"),
        service: "alice@social.example",
        node: "urn:xmpp:microblog:0",
        item: "one",
        comments: None,
    }
}

#[test]
fn every_atom_specimen_is_read_and_says_who_did_what() {
    let Some(folder) = fixtures() else { return };
    let mut all = Vec::new();
    files(&folder, &mut all);
    let mut counts = Counts::default();
    for path in &all {
        let name = path.strip_prefix(&folder).unwrap().display().to_string();
        let Some(text) = xml(&fs::read(path).unwrap()) else { continue };
        let document = match Canonical::new(&text, &[], &Limits::DOCUMENT) {
            Ok(document) => document,
            Err(error) => {
                counts.refused.push(format!("{name}: {error}"));
                continue;
            }
        };
        if let Some((feed, entries)) = atom::read_feed(&document, 1000) {
            counts.feeds += 1;
            let owner = feed.owner().is_some_and(|o| o.iri().is_some() || o.name.is_some());
            for entry in &entries {
                counts.entry(&name, entry, owner);
            }
        } else if document.is(ns::ATOM, "entry") {
            counts.entry(&name, &document, false);
        } else {
            counts.other += 1;
        }
    }
    println!("{} files: {counts:#?}", all.len());
    assert!(counts.feeds >= 20 && counts.entries >= 60, "the folder holds what its list says");
    assert_eq!(counts.with_id, counts.entries);
    // Two examples of ActivityStreams name nobody, and two activities have no words.
    assert!(counts.entries - counts.with_author <= 2 && counts.entries - counts.with_content <= 2);
    // Pages of HTML, and three answers that are not UTF-8.
    assert!(counts.refused.len() <= 7, "{:#?}", counts.refused);
    for verb in ["post", "share", "favorite", "follow", "delete", "join", "leave", "unfavorite"] {
        assert!(counts.verbs.contains_key(verb), "{verb}");
    }
}

#[test]
fn every_descriptor_is_read_and_says_the_same_in_both_notations() {
    let Some(folder) = fixtures() else { return };
    let mut all = Vec::new();
    files(&folder, &mut all);
    let mut read = 0;
    for path in &all {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(path).unwrap();
        let resource = if name.starts_with("webfinger") && name.ends_with(".json") {
            match jrd::read(&bytes) {
                Ok(resource) => resource,
                // GNU social answers for a group with a page of HTML.
                Err(error) if bytes.starts_with(b"<!DOCTYPE html") => {
                    println!("not a descriptor: {name}: {error}");
                    continue;
                }
                Err(error) => panic!("{name}: {error}"),
            }
        } else if name == "host-meta" || name.ends_with(".xrd") {
            xrd::read(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"))
        } else if name.contains("host-meta") || name.contains("webfinger") || name.contains("hostmeta") {
            let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else { continue };
            match xrd::read(&bytes[head..]).ok().or_else(|| jrd::read(&bytes[head..]).ok()) {
                Some(resource) => resource,
                None => {
                    println!("not a descriptor: {name}");
                    continue;
                }
            }
        } else {
            continue;
        };
        assert!(!resource.links.is_empty(), "{name}");
        assert_eq!(xrd::read(xrd::write(&resource).as_bytes()).as_ref(), Ok(&resource), "{name}");
        assert_eq!(jrd::read(jrd::write(&resource).as_bytes()).as_ref(), Ok(&resource), "{name}");
        read += 1;
    }
    println!("{read} descriptors");
    assert!(read >= 8);
}

/// Our own specimens: the shapes of the clients in use, written by us after what those clients send.
#[test]
fn the_shapes_of_each_client_are_completed_for_all_of_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specimens");
    let mut all = Vec::new();
    files(&folder, &mut all);
    let mut counts = Counts::default();
    for path in all.iter().filter(|p| p.extension().is_some_and(|e| e == "xml")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let payload =
            Canonical::new(&fs::read(path).unwrap(), &[], &Limits::ENTRY).unwrap_or_else(|e| panic!("{name}: {e}"));
        if name == "feed-item-zero.xml" {
            assert!(atom::complete(&payload, &context()).is_err(), "a feed's metadata is no post");
            continue;
        }
        counts.entry(&name, &payload, true);
        let done = atom::complete(&payload, &context()).unwrap();
        let text = done.payload.as_str();
        for gone in ["javascript:", "<script", "onclick", "mallory"] {
            assert!(!text.contains(gone), "{name}: {gone}");
        }
        assert!(text.contains("keep-me") == fs::read_to_string(path).unwrap().contains("keep-me"), "{name}");
        let shown = atom::read_entry(&done.payload).expect("an entry");
        assert_eq!(shown.permalink(), context().permalink, "{name}");
    }
    println!("{counts:#?}");
    assert!(counts.entries >= 7);
}
