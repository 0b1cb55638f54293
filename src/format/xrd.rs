//! XRD 1.0: WebFinger answers of the older kind, and host-meta (RFC 6415 §3).

use super::canonical::{Canonical, Limits};
use super::cursor::{Cursor, Ns, Open, Token};
use super::resource::{Link, MAX_BYTES, MAX_EACH, Resource, ResourceError};
use super::{ns, xml};

pub const MEDIA_TYPE: &str = "application/xrd+xml";

/// Writes a document with its XML declaration.
pub fn write(resource: &Resource) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<XRD xmlns=\"http://docs.oasis-open.org/ns/xri/xrd-1.0\"",
    );
    let nil = |properties: &[(String, Option<String>)]| properties.iter().any(|(_, value)| value.is_none());
    if nil(&resource.properties) || resource.links.iter().any(|l| nil(&l.properties)) {
        xml::push_attribute(&mut out, "xmlns:xsi", ns::XSI);
    }
    out.push_str(">\n");
    if let Some(subject) = &resource.subject {
        xml::push_element(&mut out, "Subject", subject);
        out.push('\n');
    }
    for alias in &resource.aliases {
        xml::push_element(&mut out, "Alias", alias);
        out.push('\n');
    }
    push_properties(&mut out, &resource.properties);
    for link in &resource.links {
        push_link(&mut out, link);
    }
    out.push_str("</XRD>\n");
    out
}

/// Reads a document: direct children only, elements it does not know are passed over. Signatures are not looked at.
pub fn read(bytes: &[u8]) -> Result<Resource, ResourceError> {
    if bytes.len() > MAX_BYTES {
        return Err(ResourceError::TooLong);
    }
    let limits = Limits { depth: 16, ..Limits::DOCUMENT };
    let document = Canonical::new(bytes, &[], &limits).map_err(|e| ResourceError::Xml(e.to_string()))?;
    let mut cursor = Cursor::new(document.as_str());
    match cursor.next() {
        Some(Token::Open(open)) if open.is(Ns::Xrd, "XRD") => {}
        _ => return Err(ResourceError::Xml("another element".to_owned())),
    }
    let mut resource = Resource::default();
    cursor.children(|cursor, open| match local(open) {
        "Subject" if resource.subject.is_none() => resource.subject = Some(cursor.text().trim().to_owned()),
        "Alias" => push(&mut resource.aliases, Some(cursor.text().trim().to_owned())),
        "Property" => push(&mut resource.properties, property(cursor, open)),
        "Link" => push(&mut resource.links, link(cursor, open)),
        _ => cursor.skip(),
    });
    Ok(resource)
}

fn push_properties(out: &mut String, properties: &[(String, Option<String>)]) {
    for (name, value) in properties {
        out.push_str("<Property");
        xml::push_attribute(out, "type", name);
        match value {
            Some(value) => {
                out.push('>');
                xml::push_text(out, value);
                out.push_str("</Property>\n");
            }
            None => out.push_str(" xsi:nil=\"true\"/>\n"),
        }
    }
}

fn push_link(out: &mut String, link: &Link) {
    out.push_str("<Link");
    for (name, value) in [
        ("rel", Some(&link.rel)),
        ("type", link.media_type.as_ref()),
        ("href", link.href.as_ref()),
        ("template", link.template.as_ref()),
    ] {
        if let Some(value) = value {
            xml::push_attribute(out, name, value);
        }
    }
    if link.titles.is_empty() && link.properties.is_empty() {
        out.push_str("/>\n");
        return;
    }
    out.push_str(">\n");
    for (lang, title) in &link.titles {
        out.push_str("<Title");
        xml::push_attribute(out, "xml:lang", lang);
        out.push('>');
        xml::push_text(out, title);
        out.push_str("</Title>\n");
    }
    push_properties(out, &link.properties);
    out.push_str("</Link>\n");
}

fn link(cursor: &mut Cursor<'_>, open: &Open<'_>) -> Option<Link> {
    let attr = |name| open.attr(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
    let mut link = Link {
        rel: attr("rel").unwrap_or_default(),
        media_type: attr("type"),
        href: attr("href"),
        template: attr("template"),
        ..Link::default()
    };
    cursor.children(|cursor, open| match local(open) {
        "Title" => {
            let lang = open.attr("xml:lang").unwrap_or_else(|| "und".to_owned());
            push(&mut link.titles, Some((lang, cursor.text().trim().to_owned())));
        }
        "Property" => push(&mut link.properties, property(cursor, open)),
        _ => cursor.skip(),
    });
    (!link.rel.is_empty()).then_some(link)
}

fn property(cursor: &mut Cursor<'_>, open: &Open<'_>) -> Option<(String, Option<String>)> {
    let nil = cursor.attr_in(open, Ns::Xsi, "nil").is_some_and(|nil| nil == "true" || nil == "1");
    let value = cursor.text().trim().to_owned();
    Some((open.attr("type")?, (!nil).then_some(value)))
}

/// The name of an element of XRD; nothing for another namespace's, such as `hm:Host` of early host-meta.
fn local<'o>(open: &'o Open<'_>) -> &'o str {
    if open.ns == Ns::Xrd { open.local() } else { "" }
}

fn push<T>(list: &mut Vec<T>, value: Option<T>) {
    if list.len() < MAX_EACH {
        list.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::resource::testing;
    use proptest::prelude::*;

    #[test]
    fn a_host_meta_of_the_early_kind_is_read() {
        let text = "<?xml version='1.0'?><!-- x --><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0' \
                    xmlns:hm='http://host-meta.net/xrd/1.0'><hm:Host>gs.example</hm:Host>\
                    <Link rel='lrdd' template='https://gs.example/xrd?uri={uri}'><Title>Resource Descriptor</Title></Link></XRD>";
        let read = read(text.as_bytes()).unwrap();
        assert_eq!(read.subject, None);
        assert_eq!(read.links[0].template.as_deref(), Some("https://gs.example/xrd?uri={uri}"));
        assert_eq!(read.links[0].titles, [("und".to_owned(), "Resource Descriptor".to_owned())]);
    }

    #[test]
    fn entities_and_deep_documents_are_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>&a;</XRD>";
        let deep = format!("<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>{}", "<a>".repeat(60_000));
        for bad in [bomb, &deep, "<XRD/>", "", "{}"] {
            assert!(matches!(read(bad.as_bytes()), Err(ResourceError::Xml(_))), "{}", &bad[..bad.len().min(40)]);
        }
        assert_eq!(read(&vec![b' '; MAX_BYTES + 1]), Err(ResourceError::TooLong));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(resource in testing::resource()) {
            prop_assert_eq!(read(write(&resource).as_bytes()), Ok(resource));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(text in "[<>/= \"'&;a-zXRD:!\\[\\]-]{0,200}") {
            let _ = read(text.as_bytes());
            let _ = read(format!("<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>{text}</XRD>").as_bytes());
        }
    }
}
