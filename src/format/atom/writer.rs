//! The one writer of Atom entries (RFC 4287), canonical XML, for XMPP: rich content has its plain twin beside it (XEP-0277).
//! Every namespace is declared where it is used, so a reader of any one element finds all it needs.

use crate::domain::entry::{Content, Entry, Geo, InReplyTo, Link, Object, Person};
use crate::format::canonical::{Canonical, CanonicalError, Limits};
use crate::format::{ns, xml};

/// Writes an entry. Errors only if it is longer than an entry may be.
pub fn write(entry: &Entry) -> Result<Canonical, CanonicalError> {
    write_with(entry, "", "")
}

/// Writes an entry with more attributes on its root and more children at its end. Both are XML that is bound by itself.
pub(super) fn write_with(entry: &Entry, attributes: &str, children: &str) -> Result<Canonical, CanonicalError> {
    let mut out = String::with_capacity(2048 + children.len());
    out.push_str("<entry xmlns=\"http://www.w3.org/2005/Atom\"");
    if let Some(lang) = &entry.lang {
        xml::push_attribute(&mut out, "xml:lang", lang);
    }
    out.push_str(attributes);
    out.push('>');
    element(&mut out, "id", entry.id.as_deref());
    element(&mut out, "title", entry.title.as_deref());
    element(&mut out, "summary", entry.summary.as_deref());
    push_content(&mut out, entry.content.as_ref());
    element(&mut out, "published", entry.published.map(|t| t.rfc3339()).as_deref());
    element(&mut out, "updated", entry.updated.map(|t| t.rfc3339()).as_deref());
    for author in &entry.authors {
        push_person(&mut out, "author", author);
    }
    if let Some(actor) = &entry.actor {
        push_person(&mut out, &format!("activity:actor xmlns:activity=\"{}\"", ns::ACTIVITY), actor);
    }
    activity(&mut out, "verb", Some(entry.verb.as_str()));
    activity(&mut out, "object-type", entry.object_type.as_deref());
    for link in &entry.links {
        push_link(&mut out, link);
    }
    for category in &entry.categories {
        out.push_str("<category");
        xml::push_attribute(&mut out, "term", &category.term);
        attribute(&mut out, "scheme", category.scheme.as_deref());
        attribute(&mut out, "label", category.label.as_deref());
        out.push_str("/>");
    }
    for reply in &entry.in_reply_to {
        push_reply(&mut out, reply);
    }
    if let Some(conversation) = &entry.conversation {
        out.push_str("<ostatus:conversation xmlns:ostatus=\"http://ostatus.org/schema/1.0\"");
        xml::push_attribute(&mut out, "ref", conversation);
        out.push('>');
        xml::push_text(&mut out, conversation);
        out.push_str("</ostatus:conversation>");
    }
    if let Some(geo) = &entry.geo {
        push_geo(&mut out, geo);
    }
    push_object(&mut out, "object", entry.object.as_deref());
    push_object(&mut out, "target", entry.target.as_deref());
    if let Some(source) = &entry.source {
        out.push_str("<source>");
        element(&mut out, "id", source.id.as_deref());
        element(&mut out, "title", source.title.as_deref());
        for link in &source.links {
            push_link(&mut out, link);
        }
        out.push_str("</source>");
    }
    out.push_str(children);
    out.push_str("</entry>");
    Canonical::new(out.as_bytes(), &[], &Limits::ENTRY)
}

/// Appends `<link …/>`.
pub(crate) fn push_link(out: &mut String, link: &Link) {
    out.push_str("<link");
    xml::push_attribute(out, "rel", &link.rel);
    attribute(out, "type", link.media_type.as_deref());
    attribute(out, "title", link.title.as_deref());
    attribute(out, "length", link.length.map(|l| l.to_string()).as_deref());
    if link.width.is_some() || link.height.is_some() {
        xml::push_attribute(out, "xmlns:media", ns::MEDIA);
        attribute(out, "media:width", link.width.map(|w| w.to_string()).as_deref());
        attribute(out, "media:height", link.height.map(|h| h.to_string()).as_deref());
    }
    if let Some(object_type) = &link.object_type {
        xml::push_attribute(out, "xmlns:ostatus", ns::OSTATUS);
        xml::push_attribute(out, "ostatus:object-type", object_type);
    }
    attribute(out, "ref", link.reference.as_deref());
    xml::push_attribute(out, "href", &link.href);
    out.push_str("/>");
}

/// Appends a person under this tag, which is ours and may bring its own declarations: what Atom has and what OStatus adds.
pub(crate) fn push_person(out: &mut String, tag: &str, person: &Person) {
    out.push('<');
    out.push_str(tag);
    out.push('>');
    activity(out, "object-type", person.object_type.as_deref());
    element(out, "id", person.id.as_deref());
    element(out, "uri", person.uri.as_deref());
    element(out, "name", person.name.as_deref());
    element(out, "email", person.email.as_deref());
    for link in &person.links {
        push_link(out, link);
    }
    poco(out, "preferredUsername", person.username.as_deref());
    poco(out, "displayName", person.display_name.as_deref());
    poco(out, "note", person.note.as_deref());
    if let Some(location) = &person.location {
        out.push_str("<poco:address xmlns:poco=\"http://portablecontacts.net/spec/1.0\">");
        xml::push_element(out, "poco:formatted", location);
        out.push_str("</poco:address>");
    }
    if let Some(homepage) = &person.homepage {
        out.push_str("<poco:urls xmlns:poco=\"http://portablecontacts.net/spec/1.0\"><poco:type>homepage</poco:type>");
        xml::push_element(out, "poco:value", homepage);
        out.push_str("<poco:primary>true</poco:primary></poco:urls>");
    }
    out.push_str("</");
    out.push_str(tag.split(' ').next().unwrap_or(tag));
    out.push('>');
}

pub(super) fn push_content(out: &mut String, content: Option<&Content>) {
    let Some(content) = content else { return };
    if !content.text.is_empty() {
        xml::push_element(out, "content type=\"text\"", &content.text);
    }
    if !content.xhtml.is_empty() {
        out.push_str("<content type=\"xhtml\"><div xmlns=\"http://www.w3.org/1999/xhtml\">");
        out.push_str(&content.xhtml);
        out.push_str("</div></content>");
    }
}

fn push_reply(out: &mut String, reply: &InReplyTo) {
    out.push_str("<thr:in-reply-to xmlns:thr=\"http://purl.org/syndication/thread/1.0\"");
    attribute(out, "ref", reply.reference.as_deref());
    attribute(out, "type", reply.media_type.as_deref());
    attribute(out, "href", reply.href.as_deref());
    out.push_str("/>");
}

fn push_geo(out: &mut String, geo: &Geo) {
    out.push_str("<geoloc xmlns=\"http://jabber.org/protocol/geoloc\">");
    element(out, "lat", Some(&geo.lat.to_string()));
    element(out, "lon", Some(&geo.lon.to_string()));
    element(out, "text", geo.name.as_deref());
    out.push_str("</geoloc>");
}

/// Objects inside objects come from our own types, three deep at most when they were read.
fn push_object(out: &mut String, name: &str, object: Option<&Object>) {
    let Some(object) = object else { return };
    out.push_str(&format!("<activity:{name} xmlns:activity=\"{}\">", ns::ACTIVITY));
    activity(out, "object-type", object.object_type.as_deref());
    activity(out, "verb", object.verb.as_ref().map(|v| v.as_str()));
    element(out, "id", object.id.as_deref());
    element(out, "title", object.title.as_deref());
    element(out, "summary", object.summary.as_deref());
    push_content(out, object.content.as_ref());
    element(out, "published", object.published.map(|t| t.rfc3339()).as_deref());
    element(out, "updated", object.updated.map(|t| t.rfc3339()).as_deref());
    if let Some(author) = &object.author {
        push_person(out, "author", author);
    }
    for link in &object.links {
        push_link(out, link);
    }
    push_object(out, "object", object.object.as_deref());
    out.push_str(&format!("</activity:{name}>"));
}

fn element(out: &mut String, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        xml::push_element(out, name, text);
    }
}

fn attribute(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        xml::push_attribute(out, name, value);
    }
}

fn activity(out: &mut String, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        xml::push_element(out, &format!("activity:{name} xmlns:activity=\"{}\"", ns::ACTIVITY), text);
    }
}

fn poco(out: &mut String, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        xml::push_element(out, &format!("poco:{name} xmlns:poco=\"{}\"", ns::POCO), text);
    }
}
