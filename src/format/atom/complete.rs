//! The completion of a published entry on its way in: what a client leaves out or must not say itself (XEP-0277 "Publishing a
//! Post" and "Receiving a Post", XEP-0472, RFC 4287 §4.1.2), so that every known client can show it.
//!
//! The author is who published. Authors, actors and creators in the payload are taken out; only on a repeat (`rel='via'`) the first
//! author stays, as a `contributor`. Elements we do not know stay as they are. Completing twice with one context changes nothing.

use crate::base::clock::Timestamp;
use crate::domain::entry::{Content, Entry, Link, Person, Verb};
use crate::format::canonical::{Canonical, CanonicalError, Limits, splice};
use crate::format::cursor::{Cursor, Ns, Open, Token};
use crate::format::{html, ns, uri, xml};

use super::reader::TextType;
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

/// A completed entry, and what of it is kept beside it.
#[derive(Clone, Debug)]
pub struct CompletedEntry {
    pub payload: Canonical,
    /// One line, never empty.
    pub title: String,
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
    let title = title(&read, ctx);
    let kept = kept(payload, &read, ctx)?;
    let entry = Entry {
        id: Some(ctx.id.to_owned()),
        published: Some(ctx.published),
        updated: Some(ctx.updated),
        title: Some(title.clone()),
        content: bounded_content(&read, &kept),
        authors: vec![author(&ctx.author)],
        object_type: Some(read.object_type.clone().unwrap_or_else(|| default_type(&read))),
        links: links(&read, ctx),
        summary: read.summary.clone(),
        verb: read.verb.clone(),
        lang: read.lang.clone(),
        ..Entry::default()
    };
    let payload = writer::write_with(&entry, &kept.attributes, &kept.children)?;
    Ok(CompletedEntry { payload, title, alias })
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
        cut(&html::one_line(&format!("New {word} by {}", ctx.author.name)), TITLE)
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
fn bounded_content(read: &Entry, kept: &Kept) -> Option<Content> {
    let Some(content) = &read.content else {
        let title = read.title.as_ref().filter(|t| t.chars().count() > MAX_TITLE)?;
        return Some(html::from_text(title));
    };
    let mut content = content.clone();
    if !kept.rich && content.text.len() > MAX_TWIN {
        content.xhtml.clear();
    }
    if !kept.plain && content.text.len() > MAX_TWIN {
        let mut end = MAX_TWIN;
        while !content.text.is_char_boundary(end) {
            end -= 1;
        }
        content.text.truncate(end);
        content.text.push('…');
    }
    Some(content)
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

/// What stays as the client wrote it.
struct Kept {
    /// Of the root, with the bindings they need.
    attributes: String,
    /// Those that we do not write ourselves.
    children: String,
    /// Whether there is plain content, and whether there is rich content.
    plain: bool,
    rich: bool,
}

fn kept(payload: &Canonical, read: &Entry, ctx: &Completion) -> Result<Kept, EntryError> {
    let (mut attributes, mut children) = (String::new(), String::new());
    let (mut plain, mut rich) = (false, false);
    let mut replies: Vec<(bool, String)> = Vec::new();
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
            if open.is(Ns::Atom, "content") {
                match TextType::of(open) {
                    TextType::Text => plain = true,
                    _ => rich = true,
                }
            }
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
    // They stand last, behind the links that are ours, so that a second completion finds everything in its place.
    for (_, reply) in replies {
        children.push_str(&reply);
    }
    Ok(Kept { attributes, children, plain, rich })
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
    match (&open.ns, open.local()) {
        (Ns::Atom, "author") if repeat => Fate::Contributor,
        (Ns::Atom, "id" | "title" | "summary" | "content" | "published" | "updated" | "author") => Fate::Ours,
        (Ns::Activity, "verb" | "object-type" | "actor" | "subject") | (Ns::Dc, "creator") => Fate::Ours,
        (Ns::Atom, "rights") => Fate::PlainText,
        (Ns::Atom, "link") => {
            let href = open.attr("href").map(|h| reader::address(&h)).unwrap_or_default();
            let rel = open.attr("rel").unwrap_or_default();
            let rel = rel.strip_prefix("http://www.iana.org/assignments/relation/").unwrap_or(&rel);
            // Where to push to, to edit at or to answer to is for the service to say, not for an entry.
            let kept = html::is_safe_link(&href) && !is_own(&href, ctx) && !is_service_link(rel);
            if kept { Fate::Kept } else { Fate::Ours }
        }
        (Ns::Thread, "in-reply-to") => match open.attr("href").map(|h| reader::address(&h)) {
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
    let scope: Vec<(&str, &str)> = scope.iter().map(|(p, u)| (*p, u.as_str())).collect();
    root(&open, &scope);
    cursor.children(|cursor, open| child(cursor, open, &scope));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::atom::testing::{context, entry};
    use proptest::prelude::*;

    fn done(children: &str) -> CompletedEntry {
        complete(&entry(children), &context()).unwrap()
    }

    /// What everybody reads in it.
    fn shown(made: &CompletedEntry) -> Entry {
        reader::read_entry(&made.payload).unwrap()
    }

    #[test]
    fn a_post_of_converse_gets_everything_it_leaves_out() {
        // Converse 15: content in two forms, neither title nor author.
        let made = done(
            "<id>tag:example.org,2026-11-22:posts-1</id><content type='text'>Good morning\n\nto you</content>\
             <content type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'><p>Good <b>morning</b></p></div></content>\
             <published>2001-01-01T00:00:00Z</published>",
        );
        assert_eq!(
            made.payload.as_str(),
            "<entry xmlns=\"http://www.w3.org/2005/Atom\"><id>tag:social.example,2026-11-22:alice/one</id>\
             <title>Good morning</title><content type=\"text\">Good morning\n\nto you</content>\
             <content type=\"xhtml\"><div xmlns=\"http://www.w3.org/1999/xhtml\"><p>Good <b>morning</b></p></div></content>\
             <published>2026-11-22T04:02:04Z</published><updated>2026-11-22T04:03:20Z</updated>\
             <author><activity:object-type xmlns:activity=\"http://activitystrea.ms/spec/1.0/\">http://activitystrea.ms/schema/1.0/person</activity:object-type>\
             <uri>xmpp:alice@social.example</uri><name>Alice</name><email>alice@social.example</email>\
             <link rel=\"alternate\" type=\"text/html\" href=\"https://social.example/@alice\"/></author>\
             <activity:verb xmlns:activity=\"http://activitystrea.ms/spec/1.0/\">http://activitystrea.ms/schema/1.0/post</activity:verb>\
             <activity:object-type xmlns:activity=\"http://activitystrea.ms/spec/1.0/\">http://activitystrea.ms/schema/1.0/note</activity:object-type>\
             <link rel=\"alternate\" type=\"text/html\" href=\"https://social.example/@alice/one\"/>\
             <link rel=\"alternate\" href=\"xmpp:alice@social.example?;node=urn:xmpp:microblog:0;item=one\"/>\
             <link rel=\"replies\" title=\"comments\" href=\"xmpp:alice@social.example?;node=urn:xmpp:microblog:0:comments/one\"/></entry>"
        );
        assert_eq!(made.alias.as_deref(), Some("tag:example.org,2026-11-22:posts-1"));
        assert_eq!(shown(&made).permalink(), context().permalink);
    }

    #[test]
    fn nobody_can_publish_in_the_name_of_another() {
        let made = done(
            "<title>t</title><author><name>Mallory</name><uri>xmpp:bob@social.example</uri></author>\
             <author><uri>https://bank.example</uri></author>\
             <x:creator xmlns:x='http://purl.org/dc/elements/1.1/'>Bob</x:creator>\
             <a:actor xmlns:a='http://activitystrea.ms/spec/1.0/'><id>https://bank.example</id></a:actor>\
             <a:subject xmlns:a='http://activitystrea.ms/spec/1.0/'><id>https://bank.example</id></a:subject>\
             <link rel='salmon' href='https://evil.example/'/><link rel='hub' href='https://evil.example/'/>\
             <link rel='http://salmon-protocol.org/ns/salmon-replies' href='https://evil.example/'/>\
             <link rel='http://www.iana.org/assignments/relation/self' href='https://evil.example/'/>\
             <link rel='edit' href='https://evil.example/'/>\
             <published>1999-01-01T00:00:00Z</published><updated>2999-01-01T00:00:00Z</updated>",
        );
        let text = made.payload.as_str();
        for word in ["Mallory", "bob@", "bank", "Bob", "evil", "1999", "2999"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
        assert_eq!(shown(&made).authors.len(), 1);
        assert_eq!(shown(&made).authors[0].uri.as_deref(), Some("xmpp:alice@social.example"));
        assert_eq!(shown(&made).published, Some(context().published));
    }

    #[test]
    fn a_repeat_keeps_the_first_author_as_contributor_and_its_comments() {
        let made = done(
            "<author><name>Romeo</name><uri>xmpp:romeo@montague.lit</uri><email>no@no</email></author><title>t</title>\
             <link rel='via' ref='tag:montague.lit,2008:1' href='xmpp:romeo@montague.lit?;node=urn%3Axmpp%3Amicroblog%3A0;item=1'/>\
             <link rel='replies' title='comments' href='xmpp:montague.lit?;node=c'/>",
        );
        let text = made.payload.as_str();
        let kept = "<contributor><uri>xmpp:romeo@montague.lit</uri><name>Romeo</name></contributor>";
        assert!(text.contains(kept), "{text}");
        assert_eq!(shown(&made).comments().map(|l| l.href.as_str()), Some("xmpp:montague.lit?;node=c"));
        assert_eq!(shown(&made).link("via").and_then(|l| l.reference.as_deref()), Some("tag:montague.lit,2008:1"));
        assert_eq!(text.matches("rel=\"replies\"").count(), 1);
    }

    #[test]
    fn what_we_do_not_know_survives_unchanged() {
        let kept = [
            "<category term=\"cafe\" x:k=\"v\" xmlns:x=\"urn:x\"/>",
            "<link rel=\"enclosure\" type=\"image/png\" length=\"7\" href=\"https://up.example/a.png\"/>",
            "<geoloc xmlns=\"http://jabber.org/protocol/geoloc\"><lat>1</lat><lon>2</lon></geoloc>",
            "<x:deep xmlns:x=\"urn:x\">t<y xmlns=\"\"><x:z x:k=\"&quot;\"/></y></x:deep>",
            "<generator uri=\"https://c.example\">C</generator>",
            "<activity:object xmlns:activity=\"http://activitystrea.ms/spec/1.0/\"><id>o</id><author><name>N</name></author></activity:object>",
            "<source><id>s</id></source>",
            "<unknown>of atom</unknown>",
        ];
        let made = done(&format!("<title>t</title>{}", kept.concat()));
        // Declarations may move before the attribute that uses them; nothing else may change.
        for kept in kept.iter().map(|k| {
            k.replace("term=\"cafe\" x:k=\"v\" xmlns:x=\"urn:x\"", "xmlns:x=\"urn:x\" term=\"cafe\" x:k=\"v\"")
        }) {
            assert!(made.payload.as_str().contains(&kept), "{kept}\n{:?}", made.payload);
        }
        let root = "<a:entry xmlns:a='http://www.w3.org/2005/Atom' xmlns:x='urn:x' x:k='v' xml:lang='de'><a:title>t</a:title><none>n</none><x:y/></a:entry>";
        let root = Canonical::new(root.as_bytes(), &[], &Limits::ENTRY).unwrap();
        let made = complete(&root, &context()).unwrap().payload;
        assert!(
            made.as_str().starts_with(
                "<entry xmlns=\"http://www.w3.org/2005/Atom\" xmlns:x=\"urn:x\" xml:lang=\"de\" x:k=\"v\">"
            ),
            "{made:?}"
        );
        assert!(made.as_str().contains("<none xmlns=\"\">n</none><x:y/>"), "{made:?}");
    }

    #[test]
    fn an_answer_points_first_where_movim_looks() {
        let made = done(
            "<title>t</title><thr:in-reply-to xmlns:thr='http://purl.org/syndication/thread/1.0' ref='tag:a' href='http://a.example/1'/>\
             <thr:in-reply-to xmlns:thr='http://purl.org/syndication/thread/1.0' ref='tag:a' href='javascript:alert(1)'/>\
             <thr:in-reply-to xmlns:thr='http://purl.org/syndication/thread/1.0' ref='tag:a' href='xmpp:a@b?;node=c;item=d'/>",
        );
        let entry = shown(&made);
        let hrefs: Vec<_> = entry.in_reply_to.iter().filter_map(|r| r.href.as_deref()).collect();
        assert_eq!(hrefs, ["xmpp:a@b?;node=c;item=d", "http://a.example/1"]);
        assert!(!made.payload.as_str().contains("javascript"));
        assert_eq!(shown(&made).object_type.as_deref(), Some("http://activitystrea.ms/schema/1.0/comment"));
    }

    #[test]
    fn a_link_of_ones_own_becomes_related_and_one_that_runs_is_gone() {
        let made = done(
            "<title>t</title><link href='https://blog.example/1' title='blog'/><link rel='related' href='javascript:alert(1)'/>\
             <link rel='enclosure' href='data:text/html,x'/><link rel='alternate' href='xmpp:x@y?;node=z'/>",
        );
        let entry = shown(&made);
        let related = entry.link("related").unwrap();
        assert_eq!((related.href.as_str(), related.title.as_deref()), ("https://blog.example/1", Some("blog")));
        assert_eq!(shown(&made).links.len(), 4, "{:?}", made.payload);
    }

    #[test]
    fn a_title_is_never_empty() {
        let long = "word ".repeat(40);
        let cases: &[(&str, &str)] = &[
            ("", "New note by Alice"),
            ("<title> \n </title><content>first\nsecond</content>", "first"),
            ("<title type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'><p>a <b>b</b></p></div></title>", "a b"),
            ("<title type='html'>a &amp;lt; &lt;b&gt;b&lt;/b&gt;</title>", "a < b"),
            ("<summary>said</summary>", "said"),
            ("<link rel='enclosure' title='cat.png' href='https://a.example/'/>", "cat.png"),
            ("<content type='html'>&lt;img src='https://a.example/' alt='a cat'&gt;</content>", "a cat"),
            ("<content type='html'>&lt;img src='https://a.example/'&gt;</content>", "New note by Alice"),
            // XEP-0277 prints its examples escaped twice; that is what was said, and it stays.
            ("<title>Caf&amp;#233;</title>", "Caf&#233;"),
            ("<title>\u{2665}</title>", "\u{2665}"),
        ];
        for (children, title) in cases {
            assert_eq!(shown(&done(children)).title.as_deref(), Some(*title), "{children}");
        }
        let made = shown(&done(&format!("<content>{long}</content>"))).title.unwrap();
        assert!(made.ends_with("word…") && made.chars().count() <= TITLE, "{made}");
        let words = title_from(&"x".repeat(200));
        assert_eq!(words.chars().count(), TITLE);
        // A whole post in the title: its text is not lost.
        let made = shown(&done(&format!("<title>{}</title>", "word ".repeat(400))));
        assert!(made.title.unwrap().chars().count() <= TITLE);
        assert_eq!(made.content.unwrap().text.split(' ').count(), 400);
    }

    #[test]
    fn what_is_no_post_is_refused() {
        let ctx = context();
        let feed = Canonical::new(b"<feed xmlns='http://www.w3.org/2005/Atom'/>", &[], &Limits::ENTRY).unwrap();
        assert_eq!(complete(&feed, &ctx).unwrap_err(), EntryError::IsFeed);
        let other = Canonical::new(b"<tune xmlns='http://jabber.org/protocol/tune'/>", &[], &Limits::ENTRY).unwrap();
        assert_eq!(complete(&other, &ctx).unwrap_err(), EntryError::NotAnEntry);
        let verb = entry("<title>t</title><verb xmlns='http://activitystrea.ms/spec/1.0/'>delete</verb>");
        assert_eq!(complete(&verb, &ctx).unwrap_err(), EntryError::Verb(Verb::resolve("delete")));
        let shared = shown(&done("<title>t</title><verb xmlns='http://activitystrea.ms/spec/1.0/'>share</verb>"));
        assert_eq!(shared.verb, Verb::resolve("share"));
        assert_eq!(shared.object_type.as_deref(), Some("http://activitystrea.ms/schema/1.0/activity"));
    }

    #[test]
    fn an_entry_does_not_double_by_our_doing() {
        let long = "long ".repeat(20_000);
        let made = done(&format!("<title>t</title><content>{long}</content>"));
        assert!(made.payload.as_str().len() < long.len() + 4096);
        assert_eq!(shown(&made).content.unwrap().text, long.trim());
        let made = done(&format!(
            "<title>t</title><content type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'>{long}</div></content>"
        ));
        assert!(made.payload.as_str().len() < long.len() + MAX_TWIN + 4096);
    }

    #[test]
    fn a_typed_text_becomes_a_post_with_links() {
        let made = from_text("Look here:\nhttps://x.example/?a&b\n\n<script>", &context()).unwrap();
        assert_eq!(shown(&made).title.as_deref(), Some("Look here:"));
        let content = shown(&made).content.unwrap();
        assert_eq!(content.text, "Look here:\nhttps://x.example/?a&b\n\n<script>");
        assert_eq!(
            content.xhtml,
            "<p>Look here:<br/><a href=\"https://x.example/?a&amp;b\">https://x.example/?a&amp;b</a></p><p>&lt;script&gt;</p>"
        );
        assert_eq!(made.alias, None);
        assert!(made.payload.as_str().contains("<p>&lt;script&gt;</p>"));
        assert_eq!(shown(&from_text(" \n", &context()).unwrap()).title.as_deref(), Some("New note by Alice"));
    }

    /// Entries with any of the children clients write, in any order.
    fn payload() -> impl Strategy<Value = Canonical> {
        let text = "[ -%'-;=?-~é\\n]{0,12}";
        let child = prop_oneof![
            text.prop_map(|t| format!("<title>{t}</title>")),
            text.prop_map(|t| format!("<id>{t}</id>")),
            text.prop_map(|t| format!("<summary type='html'>{t}</summary>")),
            text.prop_map(|t| format!("<content>{t}</content>")),
            text.prop_map(|t| format!("<content type='html'>&lt;p>{t}&lt;br>&lt;a href='http://x.example'>{t}&lt;/a></content>")),
            text.prop_map(|t| format!("<content type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'>{t}<p/><script>{t}</script><q>{t}</q></div></content>")),
            text.prop_map(|t| format!("<author><name>{t}</name><uri>xmpp:x@y</uri></author>")),
            text.prop_map(|t| format!("<rights type='html'>{t}</rights>")),
            "[a-z]{1,9}|a{501}".prop_map(|t| format!("<object-type xmlns='{}'>{t}</object-type>", ns::ACTIVITY)),
            "(alternate|via|replies|related|enclosure|self)".prop_map(|r| format!("<link rel='{r}' href='https://x.example/{r}'/>")),
            "(alternate|via|replies)".prop_map(|r| format!("<link rel='{r}' title='comments' href='xmpp:a@b?;node={r}'/>")),
            "(http://x|xmpp:x@y|javascript:x)".prop_map(|h| format!("<r:in-reply-to xmlns:r='{}' ref='x' href='{h}'/>", ns::THREAD)),
            "(share|post|favorite|play)".prop_map(|v| format!("<verb xmlns='{}'>{v}</verb>", ns::ACTIVITY)),
            text.prop_map(|t| format!("<x xmlns='urn:x' k='{}'>{t}<y/></x>", t.replace('\'', ""))),
            text.prop_map(|t| format!("<q:x xmlns:q='urn:x'>{t}<none xmlns=''/></q:x>")),
        ];
        proptest::collection::vec(child, 0..8).prop_map(|children| entry(&children.concat()))
    }

    proptest! {
        #[test]
        fn completing_twice_changes_nothing_and_the_output_is_canonical(payload in payload()) {
            let once = complete(&payload, &context()).unwrap();
            let twice = complete(&once.payload, &context()).unwrap();
            prop_assert_eq!(twice.payload.as_str(), once.payload.as_str());
            prop_assert_eq!(&twice.title, &once.title);
            prop_assert_eq!(shown(&once).title, Some(once.title.clone()));
            prop_assert_eq!(twice.alias, None);
            let again = Canonical::new(once.payload.as_bytes(), &[], &Limits::ENTRY);
            prop_assert_eq!(again.as_ref(), Ok(&once.payload));
            prop_assert_eq!(shown(&once).authors.len(), 1);
            prop_assert!(!once.title.is_empty());
            // An edit moves only the date of it.
            let later = Completion { updated: Timestamp::from_secs(1_800_000_000), ..context() };
            let edited = complete(&once.payload, &later).unwrap();
            let moved = |text: &str, at: Timestamp| text.replace(&at.rfc3339(), "");
            prop_assert_eq!(
                moved(edited.payload.as_str(), later.updated),
                moved(once.payload.as_str(), context().updated)
            );
        }

        #[test]
        fn any_typed_text_is_a_post(text in "\\PC{0,60}[\\n ]{0,3}\\PC{0,20}") {
            let made = from_text(&text, &context()).unwrap();
            let again = complete(&made.payload, &context()).unwrap();
            prop_assert_eq!(again.payload, made.payload);
        }
    }
}
