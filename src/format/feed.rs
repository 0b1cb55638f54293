//! Writing Atom for the web (RFC 4287): feeds of whole pages (RFC 5005 §3) and single entry documents, with what OStatus peers look for.
//!
//! A stored entry is spliced in as it is, but for three things that belong to XMPP: the plain twin of its content (Atom allows one
//! content, RFC 4287 §4.1.2), the author named by an `xmpp:` address, and the notation of rich content.

use super::atom::{push_link, push_person};
use super::canonical::{Canonical, CanonicalError, Limits, splice};
use super::cursor::{Cursor, Ns, Token};
use super::{ns, xml};
use crate::domain::entry::{Feed, Person};

pub const MEDIA_TYPE: &str = "application/atom+xml";

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const GENERATOR: &str = concat!("<generator version=\"", env!("CARGO_PKG_VERSION"), "\">Rookery</generator>");

/// Writes a feed, newest entry first as `entries` come. RFC 4287 §4.1.1 wants `id`, `title` and `updated`: what `feed` lacks is
/// written empty, so give them. Mastodon 2 takes an account for OStatus only if there are `author` with `uri` and a link `hub`.
///
/// `own`: the `xmpp:` address of the feed's author. Entries by it are written without author, so the feed's counts (RFC 4287
/// §4.2.1), whose `uri` is the address on the web; GNU social would not find a profile behind an `xmpp:` one.
pub fn write(feed: &Feed, own: Option<&str>, entries: &[Canonical]) -> String {
    let size: usize = entries.iter().map(|e| e.as_str().len()).sum();
    let mut out = String::with_capacity(size + 4096);
    out.push_str(DECLARATION);
    out.push_str("<feed xmlns=\"http://www.w3.org/2005/Atom\">\n");
    out.push_str(GENERATOR);
    for (name, text) in [("id", &feed.id), ("title", &feed.title)] {
        xml::push_element(&mut out, name, text.as_deref().unwrap_or_default());
    }
    for (name, text) in [("subtitle", &feed.subtitle), ("logo", &feed.logo)] {
        if let Some(text) = text {
            xml::push_element(&mut out, name, text);
        }
    }
    xml::push_element(&mut out, "updated", &feed.updated.unwrap_or_default().rfc3339());
    if let Some(author) = &feed.author {
        push_person(&mut out, "author", author);
    }
    if let Some(subject) = &feed.subject {
        push_person(&mut out, &format!("activity:subject xmlns:activity=\"{}\"", ns::ACTIVITY), subject);
    }
    for link in &feed.links {
        push_link(&mut out, link);
    }
    out.push('\n');
    for entry in entries {
        let author = feed.author.as_ref().and(own).map_or(Authors::Kept, Authors::Without);
        // An entry that cannot be written was not stored by us; it must not take the feed with it.
        if let Ok(entry) = for_web(entry, author) {
            out.push_str(&entry);
            out.push('\n');
        }
    }
    out.push_str("</feed>\n");
    out
}

/// Writes one entry as a document of its own. `own` and `author` as in a feed: an author named `own` becomes `author`.
pub fn write_entry(entry: &Canonical, own: Option<&str>, author: Option<&Person>) -> Result<String, CanonicalError> {
    let authors = match (own, author) {
        (Some(own), Some(author)) => Authors::Replaced(own, author),
        _ => Authors::Kept,
    };
    Ok(format!("{DECLARATION}{}\n", for_web(entry, authors)?))
}

#[derive(Clone, Copy)]
enum Authors<'a> {
    Kept,
    /// The one with this address is left out.
    Without(&'a str),
    /// The one with this address becomes another.
    Replaced(&'a str, &'a Person),
}

fn for_web(entry: &Canonical, authors: Authors<'_>) -> Result<String, CanonicalError> {
    // Bound to Atom without prefix, so that children can be moved into a feed or replaced by ours.
    let mut text = String::with_capacity(entry.as_str().len() + 512);
    let mut cursor = Cursor::new(entry.as_str());
    let Some(Token::Open(root)) = cursor.next() else { return Err(CanonicalError::NotOneElement) };
    if !root.is(Ns::Atom, "entry") {
        return Err(CanonicalError::NotOneElement);
    }
    let scope = cursor.scope();
    let scope: Vec<(&str, &str)> = scope.iter().map(|(p, u)| (*p, u.as_str())).collect();
    let plain = scope.contains(&("", ns::ATOM));
    text.push_str("<entry xmlns=\"http://www.w3.org/2005/Atom\"");
    for (prefix, uri) in scope.iter().filter(|(prefix, _)| !prefix.is_empty()) {
        xml::push_attribute(&mut text, &format!("xmlns:{prefix}"), uri);
    }
    for (name, value) in root.raw_attrs().filter(|(name, _)| *name != "xmlns" && !name.starts_with("xmlns:")) {
        text.push_str(&format!(" {name}=\"{value}\""));
    }
    text.push('>');
    let content = Chosen::of(entry);
    let mut nth = 0;
    let mut failed = Ok(());
    cursor.children(|cursor, open| {
        nth += 1;
        match content {
            Chosen::Rich(chosen) if open.is(Ns::Atom, "content") => {
                if chosen == nth {
                    push_html(&mut text, cursor);
                } else {
                    cursor.skip();
                }
                return;
            }
            Chosen::Plain(chosen) if open.is(Ns::Atom, "content") && chosen != nth => return cursor.skip(),
            _ => {}
        }
        let raw = cursor.element(open);
        match authors {
            Authors::Without(own) | Authors::Replaced(own, _) if open.is(Ns::Atom, "author") && names(raw, own) => {
                if let Authors::Replaced(_, author) = authors {
                    push_person(&mut text, "author", author);
                }
            }
            _ if plain => text.push_str(raw),
            _ => {
                if let Err(error) = splice(&mut text, raw, &scope, &[("", ns::ATOM)], &Limits::DOCUMENT) {
                    failed = Err(error);
                }
            }
        }
    });
    failed?;
    if !cursor.is_at_end() {
        // A row that somebody wrote by hand: half of it would take the feed with it.
        return Err(CanonicalError::NotOneElement);
    }
    if let Chosen::None = content {
        // Mastodon shows nothing but content; XEP-0277 has posts that are only a title.
        if let Some(title) = entry.text_of(ns::ATOM, "title") {
            xml::push_element(&mut text, "content type=\"text\"", &title);
        }
    }
    text.push_str("</entry>");
    Ok(text)
}

/// The content that goes to the web, as the number of the child.
#[derive(Clone, Copy)]
enum Chosen {
    None,
    Plain(usize),
    Rich(usize),
}

impl Chosen {
    fn of(entry: &Canonical) -> Self {
        let (mut nth, mut chosen) = (0, Chosen::None);
        let mut cursor = Cursor::new(entry.as_str());
        cursor.next();
        cursor.children(|cursor, open| {
            nth += 1;
            if open.is(Ns::Atom, "content") {
                let rich = open.attr("type").is_some_and(|t| t == "xhtml");
                chosen = match chosen {
                    Chosen::None | Chosen::Plain(_) if rich => Chosen::Rich(nth),
                    Chosen::None => Chosen::Plain(nth),
                    chosen => chosen,
                };
            }
            cursor.skip();
        });
        chosen
    }
}

/// COMPAT: Mastodon 2 takes the text of the content element and loses the markup of `xhtml`; everybody reads `html`.
fn push_html(out: &mut String, cursor: &mut Cursor<'_>) {
    let content = super::html::from_xhtml(cursor);
    xml::push_element(out, "content type=\"html\"", &content.xhtml);
}

/// Whether this author element has the address `own`.
fn names(author: &str, own: &str) -> bool {
    let mut cursor = Cursor::new(author);
    let mut found = false;
    cursor.next();
    cursor.children(|cursor, open| match open.local() {
        "uri" => found |= cursor.text().trim() == own,
        _ => cursor.skip(),
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::domain::entry::Link;
    use crate::format::atom;
    use crate::format::atom::testing::{context, entry};

    fn feed() -> Feed {
        Feed {
            id: Some("https://social.example/@alice.atom".into()),
            title: Some("alice & <friends>".into()),
            updated: Some(Timestamp::from_secs(1_795_320_124)),
            author: Some(Person {
                uri: Some("https://social.example/@alice".into()),
                name: Some("alice".into()),
                email: Some("alice@social.example".into()),
                username: Some("alice".into()),
                links: vec![Link {
                    width: Some(96),
                    height: Some(96),
                    ..Link::typed("avatar", "image/png", "https://social.example/a.png")
                }],
                ..Person::default()
            }),
            links: vec![
                Link::new("hub", "https://social.example/hub"),
                Link::typed("self", MEDIA_TYPE, "https://social.example/@alice.atom"),
                Link::typed("next", MEDIA_TYPE, "https://social.example/@alice.atom?before=3"),
            ],
            ..Feed::default()
        }
    }

    fn read(text: &str) -> (Feed, Vec<Canonical>) {
        let document = Canonical::new(text.as_bytes(), &[], &Limits::DOCUMENT).unwrap();
        atom::read_feed(&document, 100).unwrap()
    }

    #[test]
    fn a_row_that_is_not_canonical_does_not_take_the_feed_with_it() {
        let good =
            Canonical::new(b"<entry xmlns='http://www.w3.org/2005/Atom'><id>i</id></entry>", &[], &Limits::ENTRY);
        let bad = "<entry xmlns=\"http://www.w3.org/2005/Atom\"><id>bad</id><x><y a='1'/></x></entry>";
        let text = write(&feed(), None, &[Canonical::stored(bad.to_owned()), good.unwrap()]);
        let read = Canonical::new(text.as_bytes(), &[], &Limits::DOCUMENT).unwrap();
        let (_, entries) = crate::format::atom::read_feed(&read, 9).unwrap();
        assert_eq!(entries.iter().map(|e| e.text_of(ns::ATOM, "id").unwrap()).collect::<Vec<_>>(), ["i"]);
    }

    #[test]
    fn a_feed_reads_back_and_its_entries_have_one_content_and_the_feeds_author() {
        let done = atom::complete(
            &entry("<content type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'><p>a <b>bold</b> word</p></div></content>"),
            &context(),
        )
        .unwrap();
        let text = write(&feed(), Some("xmpp:alice@social.example"), &[done.payload.clone(), done.payload]);
        let (read, entries) = read(&text);
        assert_eq!(read, feed());
        assert_eq!(entries.len(), 2);
        for entry in &entries {
            assert_eq!(entry.as_str().matches("<content").count(), 1);
            assert!(entry.as_str().contains("<content type=\"html\">&lt;p&gt;a &lt;b&gt;bold"), "{entry:?}");
            let entry = atom::read_entry(entry).unwrap();
            assert!(entry.authors.is_empty());
            assert_eq!(entry.content.unwrap().text, "a bold word");
        }
    }

    #[test]
    fn another_author_stays_in_the_feed_and_a_title_alone_becomes_the_content() {
        let done = atom::complete(&entry("<title>just this</title>"), &context()).unwrap();
        let text = write(&feed(), Some("xmpp:bob@social.example"), &[done.payload]);
        let (_, entries) = read(&text);
        let entry = atom::read_entry(&entries[0]).unwrap();
        assert_eq!(entry.authors[0].uri.as_deref(), Some("xmpp:alice@social.example"));
        assert_eq!(entry.content.unwrap().text, "just this");
    }

    #[test]
    fn an_entry_with_prefixes_of_its_own_keeps_its_names_inside_a_feed() {
        let odd = "<a:entry xmlns:a='http://www.w3.org/2005/Atom' xmlns:x='urn:x' x:k='v'><a:id>i</a:id><bare>b</bare></a:entry>";
        let odd = Canonical::new(odd.as_bytes(), &[], &Limits::ENTRY).unwrap();
        let (_, entries) = read(&write(&feed(), None, &[odd]));
        assert_eq!(entries[0].text_of("", "bare").as_deref(), Some("b"));
        assert_eq!(entries[0].text_of(ns::ATOM, "id").as_deref(), Some("i"));
        assert!(entries[0].as_str().contains("x:k=\"v\""));
    }

    #[test]
    fn an_entry_document_has_the_author_of_the_web() {
        let done = atom::complete(&entry("<title>t</title>"), &context()).unwrap();
        let text = write_entry(&done.payload, Some("xmpp:alice@social.example"), feed().author.as_ref()).unwrap();
        let entry = Canonical::new(text.as_bytes(), &[], &Limits::DOCUMENT).unwrap();
        assert_eq!(atom::read_entry(&entry).unwrap().authors, [feed().author.unwrap()]);
    }
}
