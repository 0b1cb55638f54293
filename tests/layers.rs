//! The directions of imports (the map in `src/lib.rs`): a line imports downwards only, never sideways between edges.
//!
//! Paths are read as text, through `crate::`, `super::`, `self::` and re-exports at the roots of rooms; a planted
//! violation fails, which the tests below show.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A room and its layer. Rooms of one layer do not see one another, except where the name is the same.
const LAYERS: &[(&str, u32)] = &[
    ("base", 0),
    ("config", 0),
    ("domain", 10),
    ("format", 15),
    ("store", 20),
    ("service", 30),
    ("http", 40),
    ("network", 50),
    ("queue", 60),
    ("network/ostatus", 70),
    ("xmpp", 70),
    ("web", 70),
    ("control", 70),
    ("app", 80),
    ("check", 85),
    ("main", 90),
];

/// What a room may not name at all, beside other rooms: crates and words.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "domain",
        &["std::fs", "std::net", "tokio", "tracing", "SystemTime", "Instant::now"],
        "domain does no I/O, reads no clock, logs nothing",
    ),
    (
        "format",
        &["std::fs", "std::net", "tokio", "tracing", "SystemTime", "Instant::now"],
        "format does no I/O, reads no clock, logs nothing",
    ),
    ("service", &["TcpStream", "reqwest", "tokio::net"], "a service opens no socket"),
];

/// Words that belong into some rooms only.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("sled::", &["store"], "only store names a database"),
    ("fjall::", &["store"], "only store names a database"),
    ("reqwest::", &["http"], "only the HTTP client opens connections outward"),
    ("TcpStream::connect", &["xmpp"], "only xmpp and the HTTP client open sockets outward"),
    (".commit(", &["store", "service", "queue"], "only service and queue make a Change"),
    ("Jid::new(", &["base"], "addresses come in by base::jid, which refuses those that would not be read again"),
];

#[test]
fn every_import_goes_downwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    read(&root, &root, &mut files);
    assert!(files.len() > 50, "only {} files were found", files.len());
    let found = violations(&files);
    assert!(found.is_empty(), "{} imports go the wrong way:\n{}", found.len(), found.join("\n"));
}

fn read(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        if path.is_dir() {
            read(root, &path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is text");
            files.insert(path.strip_prefix(root).expect("it is below src").to_owned(), text);
        }
    }
}

/// The module path of a file: `store/tables/mod.rs` is `["store", "tables"]`.
fn module(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The room that a module belongs to: the longest name in the table.
fn room(module: &[String]) -> Option<(&'static str, u32)> {
    let path = module.join("/");
    let fits = |name: &str| path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
    LAYERS.iter().filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len()).copied()
}

fn violations(files: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in files {
        let here = module(file);
        if here.is_empty() {
            // lib.rs: the list of rooms; it re-exports nothing, or the test would not see through it.
            for (number, line) in lines(text) {
                if line.contains("use ") {
                    found.push(format!("src/{}:{number}: the crate root re-exports nothing: {line}", file.display()));
                }
            }
            continue;
        }
        let Some((name, layer)) = room(&here) else {
            found.push(format!("src/{}: this file is in no room of the table", file.display()));
            continue;
        };
        for path in paths(text, &here) {
            let Some((other, above)) = room(&path.segments) else { continue };
            let wrong = above > layer || (above == layer && other != name && layer != 0);
            if wrong {
                found.push(format!(
                    "src/{}:{}: {name} must not see {other}: {}",
                    file.display(),
                    path.line,
                    path.segments.join("::")
                ));
            }
        }
        for (number, line) in lines(text) {
            for (of, words, rule) in FORBIDDEN {
                if name == *of
                    && let Some(word) = words.iter().find(|word| line.contains(**word))
                {
                    found.push(format!("src/{}:{number}: {word}: {rule}", file.display()));
                }
            }
            for (word, rooms, rule) in ONLY_IN {
                if line.contains(word) && !rooms.contains(&name) {
                    found.push(format!("src/{}:{number}: {word}: {rule}", file.display()));
                }
            }
        }
    }
    found
}

/// Lines of code: without comments, up to the unit tests at the foot.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    code.map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default()))
        .filter(|(_, line)| !line.trim().is_empty())
}

struct Seen {
    line: usize,
    segments: Vec<String>,
}

/// Every path of the crate that the text names, made absolute; braces of a `use` are multiplied out.
fn paths(text: &str, here: &[String]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let code: String = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .map(|line| format!("{}\n", line.split("//").next().unwrap_or_default()))
        .collect();
    for start in ["crate::", "super::", "self::"] {
        let mut from = 0;
        while let Some(at) = code[from..].find(start).map(|i| i + from) {
            from = at + start.len();
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            for parts in expand(&code[at..]) {
                if let Some(segments) = absolute(&parts, here) {
                    seen.push(Seen { line, segments });
                }
            }
        }
    }
    seen
}

/// `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(code: &str) -> Vec<Vec<String>> {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = code;
    loop {
        rest = rest.trim_start();
        if let Some(inner) = rest.strip_prefix('{') {
            let mut all = Vec::new();
            for item in split(inner) {
                for tail in expand(item) {
                    all.push(parts.iter().cloned().chain(tail).collect());
                }
            }
            return all;
        }
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end == 0 {
            return vec![parts];
        }
        parts.push(rest[..end].to_owned());
        match rest[end..].strip_prefix("::") {
            Some(more) => rest = more,
            None => return vec![parts],
        }
    }
}

/// The items between braces, up to the matching one.
fn split(inner: &str) -> Vec<&str> {
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (i, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(inner[from..i].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(inner[from..i].trim());
                from = i + 1;
            }
            _ => {}
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

fn absolute(parts: &[String], here: &[String]) -> Option<Vec<String>> {
    let mut at = here.to_vec();
    let mut parts = parts.iter();
    match parts.next()?.as_str() {
        "crate" => at.clear(),
        "super" => drop(at.pop()),
        _ => {}
    }
    for part in parts {
        match part.as_str() {
            "super" => drop(at.pop()),
            "self" => {}
            name => at.push(name.to_owned()),
        }
    }
    Some(at)
}

fn one(file: &str, text: &str) -> Vec<String> {
    violations(&BTreeMap::from([(PathBuf::from(file), text.to_owned())]))
}

#[test]
fn a_planted_violation_is_found() {
    for (file, text, words) in [
        ("domain/node.rs", "use crate::store::Store;", "domain must not see store"),
        ("store/mod.rs", "use super::service::Service;", "store must not see service"),
        ("store/tables/nodes.rs", "use super::super::super::queue::Queue;", "store must not see queue"),
        ("xmpp/dispatch.rs", "use crate::{base::id::Ids, web::pages};", "xmpp must not see web"),
        ("web/pages.rs", "fn f() { crate::xmpp::link::new() }", "web must not see xmpp"),
        ("network/ostatus/send.rs", "use crate::xmpp::link;", "network/ostatus must not see xmpp"),
        ("network/mod.rs", "pub use self::ostatus::OStatus;", "network must not see network/ostatus"),
        ("queue/worker.rs", "use crate::network::ostatus::OStatus;", "queue must not see network/ostatus"),
        ("lib.rs", "pub use crate::store::Store;", "re-exports nothing"),
        ("odd/mod.rs", "", "in no room"),
        ("service/publish.rs", "use sled::Db;", "only store names a database"),
        ("xmpp/pubsub.rs", "store.commit(|tx| ())", "only service and queue make a Change"),
        ("xmpp/owner.rs", "let jid = BareJid::new(text);", "addresses come in by base::jid"),
        ("domain/item.rs", "use tokio::sync::mpsc;", "domain does no I/O"),
    ] {
        let found = one(file, text);
        assert!(found.iter().any(|line| line.contains(words)), "{file}: {text}: {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    for (file, text) in [
        ("queue/worker.rs", "use crate::network::{Network, Task};\nuse super::outcomes;"),
        ("network/ostatus/send.rs", "use crate::network::Network;\nuse super::hub;"),
        ("xmpp/dispatch.rs", "use crate::service::Service; // like crate::web"),
        ("store/mod.rs", "#[cfg(test)]\nmod tests { use crate::service::Service; }"),
    ] {
        assert_eq!(one(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
