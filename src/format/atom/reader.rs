//! The one reader of Atom (RFC 4287) with the dialects of Movim, Converse, monocles, Libervia, GNU social, StatusNet and Mastodon.
//!
//! Only direct children count: a verb, an author or an id inside `activity:object` is never taken for the entry's own
//! (otherwise whoever wraps an entry could speak for another). Links whose scheme may run something are not read.

use crate::base::clock::Timestamp;
use crate::domain::entry::{
    Category, Content, Entry, Feed, Geo, InReplyTo, Link, Object, Person, Source, Verb, resolve,
};
use crate::format::canonical::Canonical;
use crate::format::cursor::{Cursor, Ns, Open, Token};
use crate::format::{html, ns};

/// Links, categories, authors and replies of one entry that are read; more are passed over.
const MAX_EACH: usize = 128;
/// Objects inside objects: a share holds an activity that holds a note.
const MAX_OBJECTS: usize = 3;

/// What an Atom payload is.
#[derive(Clone, PartialEq, Debug)]
pub enum Document {
    Entry(Box<Entry>),
    /// A node's metadata, as XEP-0277 keeps it in the item `0`: never to be shown or federated as a post.
    Feed(Box<Feed>),
}

/// Reads an entry or a feed's metadata; `None` for any other element.
pub fn read(payload: &Canonical) -> Option<Document> {
    let mut cursor = Cursor::new(payload.as_str());
    match cursor.next() {
        Some(Token::Open(open)) if open.is(Ns::Atom, "entry") => {
            Some(Document::Entry(Box::new(entry(&mut cursor, &open))))
        }
        Some(Token::Open(open)) if open.is(Ns::Atom, "feed") => Some(Document::Feed(Box::new(feed(&mut cursor)))),
        _ => None,
    }
}

/// Reads an entry; `None` if it is something else, a feed included.
pub fn read_entry(payload: &Canonical) -> Option<Entry> {
    match read(payload)? {
        Document::Entry(entry) => Some(*entry),
        Document::Feed(_) => None,
    }
}

/// Reads a feed and cuts its first `most` entries out, each standing alone; `None` if it is no Atom feed.
pub fn read_feed(document: &Canonical, most: usize) -> Option<(Feed, Vec<Canonical>)> {
    match read(document)? {
        Document::Feed(feed) => Some((*feed, document.children(|ns, local| ns == ns::ATOM && local == "entry", most))),
        Document::Entry(_) => None,
    }
}

fn entry(cursor: &mut Cursor<'_>, root: &Open<'_>) -> Entry {
    let mut entry = Entry::default();
    let mut verb = None;
    let mut content = Contents::default();
    let mut child_lang = None;
    cursor.children(|cursor, open| {
        if child_lang.is_none() && matches!(open.local(), "title" | "content") {
            child_lang = open.attr("xml:lang");
        }
        match (&open.ns, open.local()) {
            (Ns::Atom, "id") => set(&mut entry.id, text(cursor)),
            (Ns::Atom, "published") => set(&mut entry.published, date(cursor)),
            (Ns::Atom, "updated") => set(&mut entry.updated, date(cursor)),
            (Ns::Atom, "title") => set(&mut entry.title, line(cursor, open)),
            (Ns::Atom, "summary") => set(&mut entry.summary, construct(cursor, open)),
            (Ns::Atom, "content") => content.read(cursor, open),
            (Ns::Atom, "author") => push(&mut entry.authors, Some(person(cursor))),
            (Ns::Activity, "actor") => set(&mut entry.actor, Some(person(cursor))),
            (Ns::Activity, "verb") => set(&mut verb, text(cursor).map(|v| Verb::resolve(&v))),
            (Ns::Activity, "object-type") => set(&mut entry.object_type, text(cursor).map(|t| resolve(&t))),
            (Ns::Activity, "object") => set(&mut entry.object, Some(Box::new(object(cursor, 1)))),
            (Ns::Activity, "target") => set(&mut entry.target, Some(Box::new(object(cursor, 1)))),
            (Ns::Atom, "category") => push(&mut entry.categories, category(cursor, open)),
            (Ns::Atom, "link") => push(&mut entry.links, link(cursor, open)),
            (Ns::Thread, "in-reply-to") => push(&mut entry.in_reply_to, in_reply_to(cursor, open)),
            (Ns::Ostatus, "conversation") => {
                let named = open.attr("ref").filter(|r| !r.is_empty());
                let said = text(cursor);
                set(&mut entry.conversation, named.or(said).or_else(|| open.attr("href")));
            }
            (Ns::Geoloc, "geoloc") => set(&mut entry.geo, geoloc(cursor)),
            (Ns::Georss, "point") => set(&mut entry.geo, text(cursor).and_then(|t| point(&t))),
            (Ns::Atom, "source") => set(&mut entry.source, Some(source(cursor))),
            _ => cursor.skip(),
        }
    });
    entry.verb = verb.unwrap_or_else(Verb::post);
    entry.content = content.finish();
    entry.lang = root.attr("xml:lang").or(child_lang).filter(|l| !l.is_empty() && l.len() <= 64);
    if entry.conversation.is_none() {
        entry.conversation = entry.link("ostatus:conversation").map(|l| l.href.clone());
    }
    entry
}

fn feed(cursor: &mut Cursor<'_>) -> Feed {
    let mut feed = Feed::default();
    cursor.children(|cursor, open| match (&open.ns, open.local()) {
        (Ns::Atom, "id") => set(&mut feed.id, text(cursor)),
        (Ns::Atom, "title") => set(&mut feed.title, line(cursor, open)),
        (Ns::Atom, "subtitle") => set(&mut feed.subtitle, construct(cursor, open)),
        (Ns::Atom, "logo") => set(&mut feed.logo, text(cursor).filter(|l| html::is_safe_link(l))),
        (Ns::Atom, "updated") => set(&mut feed.updated, date(cursor)),
        (Ns::Atom, "author") => set(&mut feed.author, Some(person(cursor))),
        (Ns::Activity, "subject") => set(&mut feed.subject, Some(person(cursor))),
        (Ns::Atom, "link") => push(&mut feed.links, link(cursor, open)),
        _ => cursor.skip(),
    });
    feed
}

/// An author, `activity:actor` or `activity:subject`: the words of both are read in each.
fn person(cursor: &mut Cursor<'_>) -> Person {
    let mut person = Person::default();
    let mut title = None;
    cursor.children(|cursor, open| match (&open.ns, open.local()) {
        (Ns::Atom, "name") => set(&mut person.name, line(cursor, open)),
        (Ns::Atom, "uri") => set(&mut person.uri, text(cursor)),
        (Ns::Atom, "email") => set(&mut person.email, text(cursor)),
        (Ns::Atom, "id") => set(&mut person.id, text(cursor)),
        (Ns::Atom, "title") => set(&mut title, line(cursor, open)),
        (Ns::Atom, "link") => push(&mut person.links, link(cursor, open)),
        (Ns::Activity, "object-type") => set(&mut person.object_type, text(cursor).map(|t| resolve(&t))),
        (Ns::Poco, "preferredUsername") => set(&mut person.username, text(cursor)),
        (Ns::Poco, "displayName") => set(&mut person.display_name, line(cursor, open)),
        (Ns::Poco, "note") => set(&mut person.note, text(cursor)),
        (Ns::Poco, "address") => cursor.children(|cursor, open| match open.is(Ns::Poco, "formatted") {
            true => set(&mut person.location, text(cursor)),
            false => cursor.skip(),
        }),
        (Ns::Poco, "urls") => cursor.children(|cursor, open| match open.is(Ns::Poco, "value") {
            true => set(&mut person.homepage, text(cursor).filter(|h| html::is_safe_link(h))),
            false => cursor.skip(),
        }),
        _ => cursor.skip(),
    });
    person.name = person.name.or(title);
    person
}

fn object(cursor: &mut Cursor<'_>, level: usize) -> Object {
    let mut object = Object::default();
    let mut content = Contents::default();
    cursor.children(|cursor, open| match (&open.ns, open.local()) {
        (Ns::Atom, "id") => set(&mut object.id, text(cursor)),
        (Ns::Activity, "object-type") => set(&mut object.object_type, text(cursor).map(|t| resolve(&t))),
        (Ns::Activity, "verb") => set(&mut object.verb, text(cursor).map(|v| Verb::resolve(&v))),
        (Ns::Atom, "title") => set(&mut object.title, line(cursor, open)),
        (Ns::Atom, "summary") => set(&mut object.summary, construct(cursor, open)),
        (Ns::Atom, "content") => content.read(cursor, open),
        (Ns::Atom, "published") => set(&mut object.published, date(cursor)),
        (Ns::Atom, "updated") => set(&mut object.updated, date(cursor)),
        (Ns::Atom, "author") => set(&mut object.author, Some(person(cursor))),
        (Ns::Atom, "link") => push(&mut object.links, link(cursor, open)),
        (Ns::Activity, "object") if level < MAX_OBJECTS => {
            set(&mut object.object, Some(Box::new(self::object(cursor, level + 1))));
        }
        _ => cursor.skip(),
    });
    object.content = content.finish();
    object
}

fn source(cursor: &mut Cursor<'_>) -> Source {
    let mut source = Source::default();
    cursor.children(|cursor, open| match (&open.ns, open.local()) {
        (Ns::Atom, "id") => set(&mut source.id, text(cursor)),
        (Ns::Atom, "title") => set(&mut source.title, line(cursor, open)),
        (Ns::Atom, "link") => push(&mut source.links, link(cursor, open)),
        _ => cursor.skip(),
    });
    source
}

/// How a text is written (RFC 4287 §3.1.1, §4.1.3.1): text, html, xhtml, or a media type; Converse reads text/html, so it may
/// write it.
pub(super) enum TextType {
    Text,
    Html,
    Xhtml,
    Other,
}

impl TextType {
    pub(super) fn of(open: &Open<'_>) -> Self {
        match open.attr("type").unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "text" | "text/plain" => TextType::Text,
            "html" | "text/html" => TextType::Html,
            "xhtml" | "application/xhtml+xml" => TextType::Xhtml,
            _ => TextType::Other,
        }
    }
}

/// The content elements of one entry: XEP-0277 has a plain one beside the rich one.
#[derive(Default)]
struct Contents {
    text: Option<String>,
    rich: Option<Content>,
}

impl Contents {
    fn read(&mut self, cursor: &mut Cursor<'_>, open: &Open<'_>) {
        match TextType::of(open) {
            TextType::Text => {
                let plain = cursor.text();
                set(&mut self.text, Some(plain.trim().to_owned()).filter(|t| !t.is_empty()));
            }
            TextType::Xhtml => {
                let rich = html::from_xhtml(cursor);
                set(&mut self.rich, Some(rich).filter(has_something));
            }
            TextType::Html => {
                let rich = html::from_html(&cursor.text());
                set(&mut self.rich, Some(rich).filter(has_something));
            }
            TextType::Other => cursor.skip(),
        }
    }

    fn finish(self) -> Option<Content> {
        match (self.text, self.rich) {
            (Some(text), Some(rich)) => Some(Content { text, xhtml: rich.xhtml }),
            (None, Some(rich)) => Some(rich),
            (Some(text), None) => Some(Content { xhtml: html::from_text(&text).xhtml, text }),
            (None, None) => None,
        }
    }
}

fn has_something(content: &Content) -> bool {
    !content.text.is_empty() || content.xhtml.contains("<img")
}

/// The first one wins.
fn set<T>(field: &mut Option<T>, value: Option<T>) {
    if field.is_none() {
        *field = value;
    }
}

fn push<T>(list: &mut Vec<T>, value: Option<T>) {
    if list.len() < MAX_EACH {
        list.extend(value);
    }
}

fn text(cursor: &mut Cursor<'_>) -> Option<String> {
    let text = cursor.text();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A text construct (RFC 4287 §3.1) as plain text.
fn construct(cursor: &mut Cursor<'_>, open: &Open<'_>) -> Option<String> {
    let text = match TextType::of(open) {
        TextType::Html => html::html_to_text(&cursor.text()),
        TextType::Xhtml => html::from_xhtml(cursor).text,
        TextType::Text | TextType::Other => cursor.text().trim().to_owned(),
    };
    (!text.is_empty()).then_some(text)
}

fn line(cursor: &mut Cursor<'_>, open: &Open<'_>) -> Option<String> {
    construct(cursor, open).map(|text| html::one_line(&text)).filter(|line| !line.is_empty())
}

/// A date (RFC 4287 §3.3). Early StatusNet tools write no zone: then it is UTC. Nothing before 1970 is a date of a post.
fn date(cursor: &mut Cursor<'_>) -> Option<Timestamp> {
    let text = text(cursor)?;
    Timestamp::parse_rfc3339(&text)
        .or_else(|| Timestamp::parse_rfc3339(&format!("{text}Z")))
        .filter(|date| *date >= Timestamp(0))
}

fn category(cursor: &mut Cursor<'_>, open: &Open<'_>) -> Option<Category> {
    cursor.skip();
    let term = open.attr("term").map(|t| html::one_line(&t)).filter(|t| !t.is_empty())?;
    Some(Category { term, scheme: open.attr("scheme"), label: open.attr("label") })
}

fn link(cursor: &mut Cursor<'_>, open: &Open<'_>) -> Option<Link> {
    let width = cursor.attr_in(open, Ns::Media, "width");
    let height = cursor.attr_in(open, Ns::Media, "height");
    let object_type = cursor.attr_in(open, Ns::Ostatus, "object-type");
    cursor.skip();
    let href = open.attr("href").map(|h| address(&h)).filter(|h| html::is_safe_link(h))?;
    let rel = open.attr("rel").filter(|r| !r.is_empty()).unwrap_or_else(|| "alternate".to_owned());
    Some(Link {
        // RFC 4287 §4.2.7.2: a registered relation may be written as its IRI.
        rel: rel.strip_prefix("http://www.iana.org/assignments/relation/").unwrap_or(&rel).to_owned(),
        href,
        media_type: open.attr("type").filter(|t| !t.is_empty()),
        title: open.attr("title").filter(|t| !t.is_empty()),
        length: open.attr("length").and_then(|l| l.trim().parse().ok()),
        width: width.and_then(|w| w.parse().ok()),
        height: height.and_then(|h| h.parse().ok()),
        object_type: object_type.map(|t| resolve(&t)),
        reference: open.attr("ref").filter(|r| !r.is_empty()),
    })
}

fn in_reply_to(cursor: &mut Cursor<'_>, open: &Open<'_>) -> Option<InReplyTo> {
    cursor.skip();
    let reply = InReplyTo {
        reference: open.attr("ref").map(|r| r.trim().to_owned()).filter(|r| !r.is_empty()),
        href: open.attr("href").map(|h| address(&h)).filter(|h| html::is_safe_link(h)),
        media_type: open.attr("type").filter(|t| !t.is_empty()),
    };
    (reply.reference.is_some() || reply.href.is_some()).then_some(reply)
}

/// An address out of an attribute. XEP-0277 prints its `xmpp:` URIs over several lines, and so some wrote them.
pub(super) fn address(href: &str) -> String {
    if href.trim_start().starts_with("xmpp:") { href.split_whitespace().collect() } else { href.trim().to_owned() }
}

fn geoloc(cursor: &mut Cursor<'_>) -> Option<Geo> {
    let (mut lat, mut lon, mut name) = (None, None, None);
    cursor.children(|cursor, open| match (&open.ns, open.local()) {
        (Ns::Geoloc, "lat") => set(&mut lat, text(cursor).and_then(|t| t.parse().ok())),
        (Ns::Geoloc, "lon") => set(&mut lon, text(cursor).and_then(|t| t.parse().ok())),
        (Ns::Geoloc, "text" | "description" | "locality") => set(&mut name, text(cursor)),
        _ => cursor.skip(),
    });
    place(lat?, lon?, name)
}

fn point(text: &str) -> Option<Geo> {
    let mut numbers = text.split([' ', ',', '\n', '\t']).filter(|n| !n.is_empty()).map(str::parse);
    place(numbers.next()?.ok()?, numbers.next()?.ok()?, None)
}

fn place(lat: f64, lon: f64, name: Option<String>) -> Option<Geo> {
    (lat.abs() <= 90.0 && lon.abs() <= 180.0).then_some(Geo { lat, lon, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::atom::testing::entry as make;
    use crate::format::canonical::Limits;
    use proptest::prelude::*;

    fn read(children: &str) -> Entry {
        read_entry(&make(children)).unwrap()
    }

    #[test]
    fn only_direct_children_speak_for_the_entry() {
        let wrapped = "<source><id>s</id><author><name>S</name></author></source>\
            <object xmlns='http://activitystrea.ms/spec/1.0/'><verb>delete</verb><object-type>person</object-type>\
            <a:id xmlns:a='http://www.w3.org/2005/Atom'>o</a:id><a:author xmlns:a='http://www.w3.org/2005/Atom'><a:uri>acct:o@x</a:uri></a:author></object>\
            <x xmlns='urn:x'><verb xmlns='http://activitystrea.ms/spec/1.0/'>follow</verb><id xmlns='http://www.w3.org/2005/Atom'>x</id></x>\
            <id>mine</id><author><uri>acct:me@x</uri></author>";
        let entry = read(wrapped);
        assert_eq!(entry.verb, Verb::post());
        assert_eq!(entry.id.as_deref(), Some("mine"));
        assert_eq!(entry.authors.len(), 1);
        assert_eq!(entry.authors[0].iri(), Some("acct:me@x"));
        assert_eq!(entry.object_type, None);
        let object = entry.object.unwrap();
        assert_eq!((object.id.as_deref(), object.verb), (Some("o"), Some(Verb::resolve("delete"))));
    }

    #[test]
    fn verbs_may_be_relative_and_the_first_one_counts() {
        let verbs = "<verb xmlns='http://activitystrea.ms/spec/1.0/'> delete </verb><verb xmlns='http://activitystrea.ms/spec/1.0/'>post</verb>";
        assert_eq!(read(verbs).verb.as_str(), "http://activitystrea.ms/schema/1.0/delete");
    }

    #[test]
    fn a_share_is_read_down_to_the_note_and_no_deeper() {
        let nested = |inner: &str| {
            format!(
                "<object xmlns='http://activitystrea.ms/spec/1.0/'><a:id xmlns:a='http://www.w3.org/2005/Atom'>i</a:id>{inner}</object>"
            )
        };
        let entry = read(&nested(&nested(&nested(&nested("")))));
        let note = entry.object.unwrap().object.unwrap().object.unwrap();
        assert_eq!(note.id.as_deref(), Some("i"));
        assert_eq!(note.object, None);
    }

    #[test]
    fn each_form_of_content_gives_both() {
        let cases = [
            ("<content>a &lt; b</content>", "a < b", "<p>a &lt; b</p>"),
            ("<content type='html'>&lt;p&gt;a&lt;script&gt;x&lt;/script&gt;</content>", "a", "<p>a</p>"),
            ("<content type='text/html'>&lt;b&gt;a&lt;/b&gt;</content>", "a", "<b>a</b>"),
            (
                "<content type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'><b>a</b></div></content>",
                "a",
                "<b>a</b>",
            ),
            (
                "<content type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'><b>a</b></div></content><content>plain</content>",
                "plain",
                "<b>a</b>",
            ),
        ];
        for (children, text, xhtml) in cases {
            let content = read(children).content.unwrap();
            assert_eq!((content.text.as_str(), content.xhtml.as_str()), (text, xhtml), "{children}");
        }
        assert_eq!(read("<content type='image/png'>aGFsbG8=</content><content src='http://x'/>").content, None);
    }

    #[test]
    fn an_item_zero_is_a_feed_and_other_payloads_are_neither() {
        let feed =
            Canonical::new(b"<feed xmlns='http://www.w3.org/2005/Atom'><title>x</title></feed>", &[], &Limits::ENTRY)
                .unwrap();
        assert!(matches!(super::read(&feed), Some(Document::Feed(f)) if f.title.as_deref() == Some("x")));
        assert_eq!(read_entry(&feed), None);
        let other = Canonical::new(b"<entry xmlns='urn:x'/>", &[], &Limits::ENTRY).unwrap();
        assert_eq!(super::read(&other), None);
    }

    #[test]
    fn places_dates_and_links_are_read_or_left_but_never_made_up() {
        let entry = read(
            "<point xmlns='http://www.georss.org/georss'>45.4 10.9</point><published>2010-02-24T00:53:06</published><updated>soon</updated>\
             <link href=' https://x.example/ '/><link rel='http://www.iana.org/assignments/relation/via' href='xmpp:a@b?;\n node=c'/>\
             <link rel='enclosure' length='x' href='/relative'/><link/><category/><category term='#a  b'/>",
        );
        assert_eq!(entry.geo.map(|g| (g.lat, g.lon)), Some((45.4, 10.9)));
        assert_eq!(entry.published.map(|t| t.rfc3339()).as_deref(), Some("2010-02-24T00:53:06Z"));
        assert_eq!(entry.updated, None);
        assert_eq!(entry.links, [Link::new("alternate", "https://x.example/"), Link::new("via", "xmpp:a@b?;node=c")]);
        assert_eq!(entry.categories.len(), 1);
        let far = read("<geoloc xmlns='http://jabber.org/protocol/geoloc'><lat>NaN</lat><lon>500</lon></geoloc>");
        assert_eq!(far.geo, None);
    }

    fn person() -> impl Strategy<Value = Person> {
        let word = || proptest::option::of("[a-zé&<]{1,6}");
        (word(), word(), word(), word(), word()).prop_map(|(name, uri, username, note, location)| Person {
            name,
            uri,
            username,
            note,
            location,
            object_type: Some(resolve("person")),
            ..Person::default()
        })
    }

    proptest! {
        #[test]
        fn what_the_writer_writes_is_read_back(
            id in proptest::option::of("[!-~]{1,12}"),
            title in proptest::option::of("[a-z<&é]{1,9}( [a-z\"']{1,9}){0,3}"),
            text in proptest::option::of("[a-z<&é]{1,9}(\n{1,3}[a-z\"']{1,9}){0,3}"),
            authors in proptest::collection::vec(person(), 0..3),
            verb in "(post|share|favorite|http://x\\.example/verb)",
            terms in proptest::collection::vec("[a-z<&\"é]{1,8}", 0..3),
            replies in proptest::collection::vec("[a-z<&\"é]{1,8}", 0..3),
            place in proptest::option::of((-90.0f64..90.0, -180.0f64..180.0)),
            secs in 0i64..4_000_000_000,
        ) {
            let entry = Entry {
                id,
                title,
                content: text.map(|t| html::from_text(&t)),
                authors,
                verb: Verb::resolve(&verb),
                published: Some(Timestamp::from_secs(secs)),
                categories: terms.into_iter().map(|term| Category { term, ..Category::default() }).collect(),
                in_reply_to: replies.into_iter().map(|r| InReplyTo { reference: Some(r), href: Some("xmpp:a@b".into()), media_type: None }).collect(),
                geo: place.map(|(lat, lon)| Geo { lat, lon, name: None }),
                links: vec![Link { length: Some(7), width: Some(1), object_type: Some("urn:t".into()), ..Link::typed("enclosure", "image/png", "https://x.example/?a&b") }],
                object: Some(Box::new(Object { id: Some("o".into()), verb: Some(Verb::post()), ..Object::default() })),
                conversation: Some("tag:c".into()),
                lang: Some("de".into()),
                ..Entry::default()
            };
            let written = crate::format::atom::write(&entry).unwrap();
            prop_assert_eq!(read_entry(&written), Some(entry));
        }
    }
}
