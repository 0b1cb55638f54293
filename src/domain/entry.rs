//! What we read of an Atom entry (RFC 4287) that speaks ActivityStreams 1 (Atom Activity Streams 1.0), and of its feed.
//!
//! These are facts read out of a payload for our own use. The payload itself is kept whole beside them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;

/// Where relative verbs and object types live (Atom Activity Streams 1.0 §3.1: a verb without a base means this one).
pub const SCHEMA: &str = "http://activitystrea.ms/schema/1.0/";

/// An ActivityStreams verb as an absolute IRI.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Verb(String);

impl Verb {
    /// `post`, what an entry without a verb means.
    pub fn post() -> Self {
        Verb::resolve("post")
    }

    /// An absolute IRI stays; a bare word, as GNU social writes `delete`, is resolved against [`SCHEMA`].
    pub fn resolve(text: &str) -> Self {
        Verb(resolve(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last word of the IRI: `post`, `share`, `favorite`, `update-profile`. Two vocabularies may share a word; those in
    /// use on the social web mean the same by it.
    pub fn word(&self) -> &str {
        self.0.rsplit(['/', '#']).next().unwrap_or_default()
    }

    /// Whether this verb changes relations or things elsewhere instead of showing something. A person's post must not carry it:
    /// such an act has its own door (follow, retract), where rights are asked.
    pub fn is_control(&self) -> bool {
        matches!(
            self.word(),
            "delete"
                | "follow"
                | "unfollow"
                | "stop-following"
                | "request-friend"
                | "make-friend"
                | "remove-friend"
                | "authorize"
                | "reject"
                | "join"
                | "leave"
                | "block"
                | "unblock"
                | "update-profile"
                | "tag"
                | "untag"
                | "unfavorite"
                | "unlike"
                | "unshare"
        )
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a verb or object type absolute: what has no scheme is a word of [`SCHEMA`].
pub fn resolve(text: &str) -> String {
    let text = text.trim();
    let absolute = text.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains('/'));
    if absolute { text.to_owned() } else { format!("{SCHEMA}{}", text.trim_start_matches(['/', '.'])) }
}

/// An entry as read: every field may be absent but the verb, which then is `post`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// `atom:id`, as written; Movim writes its item id here, which is no IRI.
    pub id: Option<String>,
    pub published: Option<Timestamp>,
    pub updated: Option<Timestamp>,
    /// Plain text, white space collapsed, never the empty string.
    pub title: Option<String>,
    /// Plain text; a content warning where the network has such.
    pub summary: Option<String>,
    pub content: Option<Content>,
    pub authors: Vec<Person>,
    /// `activity:actor` of StatusNet 0.9 and the like: who acted, said beside a poor author.
    pub actor: Option<Person>,
    pub verb: Verb,
    /// Absolute IRI; `None` means a note if the verb is `post`, else an activity.
    pub object_type: Option<String>,
    /// `activity:object`: what was shared, liked, followed.
    pub object: Option<Box<Object>>,
    /// `activity:target`: where to.
    pub target: Option<Box<Object>>,
    pub categories: Vec<Category>,
    pub links: Vec<Link>,
    pub in_reply_to: Vec<InReplyTo>,
    /// `ostatus:conversation`, element or link.
    pub conversation: Option<String>,
    pub geo: Option<Geo>,
    /// `atom:source`: the feed this entry was copied from.
    pub source: Option<Source>,
    /// `xml:lang` of the entry.
    pub lang: Option<String>,
}

impl Default for Entry {
    fn default() -> Self {
        Entry {
            id: None,
            published: None,
            updated: None,
            title: None,
            summary: None,
            content: None,
            authors: Vec::new(),
            actor: None,
            verb: Verb::post(),
            object_type: None,
            object: None,
            target: None,
            categories: Vec::new(),
            links: Vec::new(),
            in_reply_to: Vec::new(),
            conversation: None,
            geo: None,
            source: None,
            lang: None,
        }
    }
}

impl Entry {
    /// The first link with this `rel`.
    pub fn link(&self, rel: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.rel == rel)
    }

    pub fn enclosures(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|l| l.rel == "enclosure")
    }

    /// The node with the comments on this entry: `rel='replies'` that says `comments`, else any replies link to an `xmpp:` URI.
    pub fn comments(&self) -> Option<&Link> {
        let replies = || self.links.iter().filter(|l| l.rel == "replies" && l.href.starts_with("xmpp:"));
        replies().find(|l| l.title.as_deref() == Some("comments")).or_else(|| replies().next())
    }

    /// The readable page of this entry.
    pub fn permalink(&self) -> Option<&str> {
        let pages = || self.links.iter().filter(|l| l.rel == "alternate" && l.href.starts_with("http"));
        pages()
            .find(|l| l.media_type.as_deref() == Some("text/html"))
            .or_else(|| pages().next())
            .map(|l| l.href.as_str())
    }

    /// The text a plain client shows: content, else title, else summary.
    pub fn text(&self) -> &str {
        let content = self.content.as_ref().map(|c| c.text.as_str()).filter(|t| !t.is_empty());
        content.or(self.title.as_deref()).or(self.summary.as_deref()).unwrap_or_default()
    }

    /// A like as Movim, Converse and monocles write it: a comment whose whole text is U+2665.
    pub fn is_heart(&self) -> bool {
        let plain = |text: &str| text.trim().trim_end_matches('\u{fe0f}') == "\u{2665}";
        plain(self.text()) && self.title.as_deref().is_none_or(plain)
    }
}

/// Rich text with its plain twin.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Content {
    pub text: String,
    /// Sanitised markup that is well-formed XML and HTML alike, without the wrapping `div`: safe to put into a page.
    pub xhtml: String,
}

/// An author, actor or subject: atom:person with what OStatus adds (Portable Contacts, avatars).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Person {
    pub name: Option<String>,
    pub uri: Option<String>,
    pub email: Option<String>,
    /// `id` as Mastodon and StatusNet write it; `uri` where there is none.
    pub id: Option<String>,
    /// Absolute IRI; nothing means a person.
    pub object_type: Option<String>,
    /// `poco:preferredUsername`: the nickname.
    pub username: Option<String>,
    /// `poco:displayName`.
    pub display_name: Option<String>,
    /// `poco:note`: plain text.
    pub note: Option<String>,
    /// `poco:address/poco:formatted`.
    pub location: Option<String>,
    /// `poco:urls/poco:value` of the primary one.
    pub homepage: Option<String>,
    /// `alternate`, `avatar`, `header`.
    pub links: Vec<Link>,
}

impl Person {
    /// What names this person: `uri`, else `id`.
    pub fn iri(&self) -> Option<&str> {
        self.uri.as_deref().or(self.id.as_deref())
    }
}

/// `atom:link` (RFC 4287 §4.2.7), with the size of a picture where it is one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Link {
    /// `alternate` where none was written.
    pub rel: String,
    pub href: String,
    pub media_type: Option<String>,
    pub title: Option<String>,
    /// Bytes.
    pub length: Option<u64>,
    /// `media:width`, `media:height` in pixels.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// `ostatus:object-type` of a mentioned one: absolute IRI.
    pub object_type: Option<String>,
    /// `ref` as XEP-0277 writes it on `rel='via'`: the `atom:id` of what is linked.
    pub reference: Option<String>,
}

impl Link {
    pub fn new(rel: &str, href: impl Into<String>) -> Self {
        Link { rel: rel.to_owned(), href: href.into(), ..Link::default() }
    }

    pub fn typed(rel: &str, media_type: &str, href: impl Into<String>) -> Self {
        Link { media_type: Some(media_type.to_owned()), ..Link::new(rel, href) }
    }
}

/// `atom:category`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Category {
    pub term: String,
    pub scheme: Option<String>,
    pub label: Option<String>,
}

/// `thr:in-reply-to` (RFC 4685 §3).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InReplyTo {
    /// `ref`: the `atom:id` replied to.
    pub reference: Option<String>,
    /// `href`: where it can be had.
    pub href: Option<String>,
    pub media_type: Option<String>,
}

/// A place in degrees (WGS 84), from XEP-0080 or GeoRSS.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Geo {
    pub lat: f64,
    pub lon: f64,
    /// A name for people, if one was given.
    pub name: Option<String>,
}

/// `atom:source`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Source {
    pub id: Option<String>,
    pub title: Option<String>,
    pub links: Vec<Link>,
}

/// `activity:object` or `activity:target`: direct children only, at most three deep; its author is a claim, never proof.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Object {
    pub id: Option<String>,
    pub object_type: Option<String>,
    pub verb: Option<Verb>,
    pub title: Option<String>,
    pub summary: Option<String>,
    pub content: Option<Content>,
    pub published: Option<Timestamp>,
    pub updated: Option<Timestamp>,
    pub author: Option<Person>,
    pub links: Vec<Link>,
    pub object: Option<Box<Object>>,
}

impl Object {
    /// The first link with this `rel`.
    pub fn link(&self, rel: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.rel == rel)
    }
}

/// What a feed says about itself (RFC 4287 §4.1.1). Its entries are elsewhere.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Feed {
    pub id: Option<String>,
    /// Plain text.
    pub title: Option<String>,
    pub subtitle: Option<String>,
    pub logo: Option<String>,
    pub updated: Option<Timestamp>,
    pub author: Option<Person>,
    /// `activity:subject` of StatusNet 0.9: whose feed it is.
    pub subject: Option<Person>,
    /// `self`, `alternate`, `hub`, `salmon`, and `first`, `next`, `previous`, `last` of a paged feed (RFC 5005 §3).
    pub links: Vec<Link>,
}

impl Feed {
    /// The first link with this `rel`.
    pub fn link(&self, rel: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.rel == rel)
    }

    /// Whose feed it is: the author, or the subject where the author says nothing that names him.
    pub fn owner(&self) -> Option<&Person> {
        self.author.as_ref().filter(|a| a.iri().is_some()).or(self.subject.as_ref()).or(self.author.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_verb_is_a_word_of_the_schema() {
        assert_eq!(Verb::resolve("delete").as_str(), "http://activitystrea.ms/schema/1.0/delete");
        assert_eq!(Verb::resolve(" post "), Verb::post());
        let foreign = Verb::resolve("http://ostatus.org/schema/1.0/unfollow");
        assert_eq!(foreign.word(), "unfollow");
        assert!(foreign.is_control());
        assert!(!Verb::resolve("http://activitystrea.ms/schema/1.0/share").is_control());
    }

    #[test]
    fn a_heart_is_a_like_only_if_it_is_the_whole_text() {
        let titled = |text: &str| Entry { title: Some(text.to_owned()), ..Entry::default() };
        assert!(titled("\u{2665}").is_heart());
        assert!(titled("\u{2665}\u{fe0f}").is_heart());
        assert!(!titled("\u{2665} you").is_heart());
        let content = Some(Content { text: "\u{2665}".into(), xhtml: String::new() });
        assert!(!Entry { content, ..titled("about hearts") }.is_heart());
    }
}
