//! The completion of a published entry on its way in: what a client leaves out or must not say itself (XEP-0277 "Publishing a
//! Post" and "Receiving a Post", XEP-0472, RFC 4287 §4.1.2), so that every known client can show it.
//!
//! The author is who published. Authors, actors and creators in the payload are taken out; only on a repeat (`rel='via'`) the first
//! author stays, as a `contributor`. Elements we do not know stay as they are. Completing twice with one context changes nothing.

use crate::base::clock::Timestamp;
use crate::domain::entry::{Content, Entry, Link, Person, Verb};
use crate::format::canonical::{Canonical, CanonicalError, Limits, splice};
use crate::format::cursor::{Cursor, Open, Token};
use crate::format::{html, ns, uri, xml};

use super::{reader, writer};

/// Characters of a title made from a text.
const TITLE: usize = 80;
/// Characters of a title that a client wrote.
const MAX_TITLE: usize = 500;
/// Bytes of the twin that we make where a client sent only one form: the entry must not double by our doing.
const MAX_TWIN: usize = 32 * 1024;
/// Bytes of a client's own id that we remember as an alias.
const MAX_ALIAS: usize = 1024;

/// Who publishes.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// For people; never empty.
    pub name: &'a str,
    /// Bare virtual JID: also the item's `publisher`.
    pub jid: &'a str,
    /// `alice@social.example`, without the scheme.
    pub acct: Option<&'a str>,
    /// The readable page of the author.
    pub page: Option<&'a str>,
}

/// What the completion is told; nothing of it is taken from the payload.
#[derive(Clone, Copy, Debug)]
pub struct Completion<'a> {
    /// `atom:id`, minted once for this item and the same on every edit.
    pub id: &'a str,
    /// The first publication.
    pub published: Timestamp,
    /// This one.
    pub updated: Timestamp,
    pub author: Author<'a>,
    /// The page of this entry; `None` on nodes that have no pages.
    pub permalink: Option<&'a str>,
    /// Where the item stands: JID of the service, node, item id.
    pub service: &'a str,
    pub node: &'a str,
    pub item: &'a str,
    /// JID and node for comments if the entry brings no place of its own.
    pub comments: Option<(&'a str, &'a str)>,
}

/// A completed entry and what we read in it.
#[derive(Clone, Debug)]
pub struct CompletedEntry {
    pub payload: Canonical,
    pub entry: Entry,
    /// The id the client wrote, if it is another one: an alias within its account, nothing more.
    pub alias: Option<String>,
}

/// Why an entry is refused. None is temporary.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntryError {
    #[error("not an Atom entry")]
    NotAnEntry,
    #[error("a feed's metadata, not an entry")]
    IsFeed,
    #[error("the verb {0} is not for posts")]
    Verb(Verb),
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

/// Completes what a client published.
pub fn complete(payload: &Canonical, ctx: &Completion) -> Result<CompletedEntry, EntryError> {
    let read = match reader::read(payload) {
        Some(reader::Document::Entry(entry)) => *entry,
        Some(reader::Document::Feed(_)) => return Err(EntryError::IsFeed),
        None => return Err(EntryError::NotAnEntry),
    };
    if read.verb.is_control() {
        return Err(EntryError::Verb(read.verb));
    }
    let alias = read.id.clone().filter(|id| id != ctx.id && id.len() <= MAX_ALIAS);
    let content = bounded_content(payload, &read);
    let entry = Entry {
        id: Some(ctx.id.to_owned()),
        published: Some(ctx.published),
        updated: Some(ctx.updated),
        title: Some(title(&read, ctx)),
        content,
        authors: vec![author(&ctx.author)],
        object_type: Some(read.object_type.clone().unwrap_or_else(|| default_type(&read))),
        links: links(&read, ctx),
        summary: read.summary.clone(),
        verb: read.verb.clone(),
        lang: read.lang.clone(),
        ..Entry::default()
    };
    let (attributes, children) = kept(payload, &read, ctx)?;
    let payload = writer::write_with(&entry, &attributes, &children)?;
    let entry = reader::read_entry(&payload).ok_or(EntryError::NotAnEntry)?;
    Ok(CompletedEntry { payload, entry, alias })
}

/// Makes an entry of what was typed into a chat: the first line is the title, addresses become links.
pub fn from_text(text: &str, ctx: &Completion) -> Result<CompletedEntry, EntryError> {
    let content = Some(html::from_text(text)).filter(|c| !c.text.is_empty());
    let title = content.as_ref().map(|c| title_from(&c.text));
    complete(&writer::write(&Entry { title, content, ..Entry::default() })?, ctx)
}

/// The first line that says something, cut at a word to 80 characters; empty if there is none.
pub fn title_from(text: &str) -> String {
    let line = text.lines().map(html::one_line).find(|line| !line.is_empty()).unwrap_or_default();
    cut(&line, TITLE)
}

fn cut(line: &str, most: usize) -> String {
    let Some((end, _)) = line.char_indices().nth(most) else { return line.to_owned() };
    let room = line.char_indices().nth(most - 1).map_or(end, |(at, _)| at);
    let head = line.get(..room).unwrap_or_default();
    let words = match head.rfind(' ') {
        Some(space) if space * 2 > head.len() => head.get(..space).unwrap_or(head),
        _ => head,
    };
    format!("{}…", words.trim_end_matches([' ', ',', ';', ':', '-']))
}

/// RFC 4287 §4.1.2 wants a title, Movim one that is not empty.
fn title(read: &Entry, ctx: &Completion) -> String {
    if let Some(title) = &read.title {
        // A long title alone is the whole post (XEP-0277 writes short ones there): its text moves into the content.
        return cut(title, if read.content.is_none() && title.chars().count() > MAX_TITLE { TITLE } else { MAX_TITLE });
    }
    let texts = [read.content.as_ref().map(|c| c.text.as_str()), read.summary.as_deref()];
    let named = read.enclosures().find_map(|e| e.title.as_deref());
    let place = read.geo.as_ref().and_then(|g| g.name.as_deref());
    let object = read.object.as_ref().and_then(|o| o.title.as_deref());
    let found = texts.into_iter().chain([named, place, object]).flatten().map(title_from).find(|t| !t.is_empty());
    found.unwrap_or_else(|| {
        let kind = default_type(read);
        let kind = read.object_type.as_deref().unwrap_or(&kind);
        let word = kind.rsplit('/').next().unwrap_or("note");
        html::one_line(&format!("New {word} by {}", ctx.author.name))
    })
}

fn default_type(read: &Entry) -> String {
    let word = match read.verb.word() {
        "post" if read.in_reply_to.is_empty() => "note",
        "post" => "comment",
        _ => "activity",
    };
    crate::domain::entry::resolve(word)
}

/// The content in both forms, as far as the form that we make ourselves is short enough.
fn bounded_content(payload: &Canonical, read: &Entry) -> Option<Content> {
    let Some(content) = &read.content else {
        let title = read.title.as_ref().filter(|t| t.chars().count() > MAX_TITLE)?;
        return Some(html::from_text(title));
    };
    let mut content = content.clone();
    let (plain, rich) = forms(payload);
    if !rich && content.text.len() > MAX_TWIN {
        content.xhtml.clear();
    }
    if !plain && content.text.len() > MAX_TWIN {
        let mut end = MAX_TWIN;
        while !content.text.is_char_boundary(end) {
            end -= 1;
        }
        content.text.truncate(end);
        content.text.push('…');
    }
    Some(content)
}

/// Whether the payload has plain content, and whether it has rich content.
fn forms(payload: &Canonical) -> (bool, bool) {
    let (mut plain, mut rich) = (false, false);
    let mut cursor = Cursor::new(payload.as_str());
    cursor.next();
    cursor.children(|cursor, open| {
        if open.is(ns::ATOM, "content") {
            let typed = open.attr("type").unwrap_or_default().to_ascii_lowercase();
            match typed.as_str() {
                "" | "text" | "text/plain" => plain = true,
                _ => rich = true,
            }
        }
        cursor.skip();
    });
    (plain, rich)
}

fn author(author: &Author) -> Person {
    let mut person = Person {
        name: Some(html::one_line(author.name)).filter(|n| !n.is_empty()).or_else(|| Some(author.jid.to_owned())),
        // Movim and Converse hold this against the item's publisher: `xmpp:` and the same bare JID.
        uri: Some(uri::xmpp(author.jid)),
        // Mastodon prefers the address it finds here.
        email: author.acct.map(str::to_owned),
        object_type: Some(crate::domain::entry::resolve("person")),
        ..Person::default()
    };
    person.links.extend(author.page.map(|page| Link::typed("alternate", "text/html", page)));
    person
}

/// The links that are ours to give.
fn links(read: &Entry, ctx: &Completion) -> Vec<Link> {
    let mut links = Vec::new();
    links.extend(ctx.permalink.map(|page| Link::typed("alternate", "text/html", page)));
    links.push(Link::new("alternate", own_uri(ctx)));
    for link in &read.links {
        if link.rel == "alternate" && !is_own(&link.href, ctx) && !link.href.starts_with("xmpp:") {
            // RFC 4287 §4.1.1: no two alternates of one type. Where else it may stand is related.
            links.push(Link { rel: "related".to_owned(), ..link.clone() });
        }
    }
    if let Some((jid, node)) = ctx.comments
        && read.comments().is_none()
    {
        let href = uri::xmpp_node(jid, node);
        links.push(Link { title: Some("comments".to_owned()), ..Link::new("replies", href) });
    }
    links
}

fn own_uri(ctx: &Completion) -> String {
    uri::xmpp_item(ctx.service, ctx.node, ctx.item)
}

fn is_own(href: &str, ctx: &Completion) -> bool {
    ctx.permalink == Some(href) || own_uri(ctx) == href
}

/// What stays as the client wrote it: attributes of the root with the bindings they need, and children we do not write ourselves.
fn kept(payload: &Canonical, read: &Entry, ctx: &Completion) -> Result<(String, String), EntryError> {
    let mut children = String::new();
    let mut replies: Vec<(bool, String)> = Vec::new();
    let mut attributes = String::new();
    let mut failed = Ok(());
    let repeat = read.link("via").is_some();
    let walked = each_child(
        payload,
        |root, scope| {
            for (prefix, uri) in scope.iter().filter(|(prefix, _)| !prefix.is_empty()) {
                xml::push_attribute(&mut attributes, &format!("xmlns:{prefix}"), uri);
            }
            for (name, value) in root.raw_attrs().filter(|(name, _)| is_kept_attribute(name)) {
                attributes.push_str(&format!(" {name}=\"{value}\""));
            }
        },
        |cursor, open, scope| {
            let fate = fate(open, repeat, ctx);
            let mut out = String::new();
            match fate {
                Fate::Ours => return cursor.skip(),
                Fate::Contributor => {
                    let raw = cursor.element(open);
                    if let Some(person) = contributor(raw, scope, ctx) {
                        writer::push_person(&mut children, "contributor", &person);
                    }
                    return;
                }
                Fate::PlainText => {
                    xml::push_element(&mut children, "rights", &html::html_to_text(&cursor.text()));
                    return;
                }
                Fate::Kept | Fate::Reply { .. } => {
                    let raw = cursor.element(open);
                    if let Err(error) = splice(&mut out, raw, scope, &[("", ns::ATOM)], &Limits::ENTRY) {
                        failed = Err(error);
                    }
                }
            }
            match fate {
                Fate::Reply { xmpp } => replies.push((!xmpp, out)),
                _ => children.push_str(&out),
            }
        },
    );
    walked?;
    failed?;
    // Movim looks at the first one only, and knows only xmpp: addresses. The sort is stable.
    replies.sort_by_key(|(other, _)| *other);
    let mut all = String::with_capacity(children.len());
    for (_, reply) in replies {
        all.push_str(&reply);
    }
    all.push_str(&children);
    Ok((attributes, all))
}

enum Fate {
    /// Written anew from what was read, or not wanted.
    Ours,
    Kept,
    Reply {
        xmpp: bool,
    },
    /// The author of what is repeated.
    Contributor,
    /// Its markup is not ours to pass on unread.
    PlainText,
}

fn fate(open: &Open<'_>, repeat: bool, ctx: &Completion) -> Fate {
    match (open.ns.as_str(), open.local()) {
        (ns::ATOM, "author") if repeat => Fate::Contributor,
        (ns::ATOM, "id" | "title" | "summary" | "content" | "published" | "updated" | "author") => Fate::Ours,
        (ns::ACTIVITY, "verb" | "object-type" | "actor" | "subject") | (ns::DC, "creator") => Fate::Ours,
        (ns::ATOM, "rights") => Fate::PlainText,
        (ns::ATOM, "link") => {
            let href = open.attr("href").map(|h| reader::address(&h)).unwrap_or_default();
            let rel = open.attr("rel").unwrap_or_default();
            let rel = rel.strip_prefix("http://www.iana.org/assignments/relation/").unwrap_or(&rel);
            // Where to push to, to edit at or to answer to is for the service to say, not for an entry.
            let kept = html::is_safe_link(&href) && !is_own(&href, ctx) && !is_service_link(rel);
            if kept { Fate::Kept } else { Fate::Ours }
        }
        (ns::THREAD, "in-reply-to") => match open.attr("href").map(|h| reader::address(&h)) {
            Some(href) if !html::is_safe_link(&href) => Fate::Ours,
            href => Fate::Reply { xmpp: href.is_some_and(|h| h.starts_with("xmpp:")) },
        },
        _ => Fate::Kept,
    }
}

fn is_service_link(rel: &str) -> bool {
    matches!(
        rel,
        "" | "alternate"
            | "self"
            | "edit"
            | "edit-media"
            | "hub"
            | "salmon"
            | "first"
            | "next"
            | "previous"
            | "prev"
            | "last"
    ) || rel.starts_with("http://salmon-protocol.org/")
}

/// `xml:lang` is written from what was read; `xml:base` would bend links that are all absolute.
fn is_kept_attribute(name: &str) -> bool {
    !matches!(name, "xmlns" | "xml:lang" | "xml:base") && !name.starts_with("xmlns:")
}

fn contributor(raw: &str, scope: &[(&str, &str)], ctx: &Completion) -> Option<Person> {
    let mut wrapped = String::from("<entry xmlns=\"http://www.w3.org/2005/Atom\">");
    splice(&mut wrapped, raw, scope, &[("", ns::ATOM)], &Limits::ENTRY).ok()?;
    wrapped.push_str("</entry>");
    let wrapped = Canonical::new(wrapped.as_bytes(), &[], &Limits::ENTRY).ok()?;
    let person = reader::read_entry(&wrapped)?.authors.into_iter().next()?;
    let own = uri::xmpp(ctx.author.jid);
    (person.uri.as_deref() != Some(&own)).then_some(Person {
        name: person.name.or_else(|| person.uri.clone()),
        uri: person.uri.filter(|u| html::is_safe_link(u)),
        ..Person::default()
    })
}

/// Walks over the root and its direct children, telling the bindings in force inside the root.
fn each_child<'a>(
    payload: &'a Canonical,
    mut root: impl FnMut(&Open<'a>, &[(&str, &str)]),
    mut child: impl FnMut(&mut Cursor<'a>, &Open<'a>, &[(&str, &str)]),
) -> Result<(), EntryError> {
    let mut cursor = Cursor::new(payload.as_str());
    let Some(Token::Open(open)) = cursor.next() else { return Err(EntryError::NotAnEntry) };
    let scope = cursor.scope();
    let scope: Vec<(&str, &str)> = scope.iter().map(|(p, u)| (p.as_str(), u.as_str())).collect();
    root(&open, &scope);
    cursor.children(|cursor, open| child(cursor, open, &scope));
    Ok(())
}
