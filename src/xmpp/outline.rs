//! The outline of a PubSub request (XEP-0060): its own elements with their attributes, and where everything foreign
//! in it (payloads, forms, result sets) stands in the bytes. No tree is made of a payload.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use minidom::Element;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, PrefixDeclaration, ResolveResult};
use quick_xml::reader::NsReader;

use super::envelope::{Child, Envelope, tree};
use crate::domain::error::Refusal;

/// A request has at most this many elements of its own; payloads are not counted.
const PARTS_MOST: usize = 1_000;

/// Prefix (empty: default) and namespace, outermost first.
pub type Bindings = Vec<(String, String)>;

/// One element of a request.
#[derive(Debug, Default)]
pub struct Part {
    /// Those of one name share it, as they do their scope.
    pub ns: Arc<str>,
    pub name: String,
    attrs: Vec<(String, String)>,
    /// Elements in it; none are listed of what is foreign.
    pub children: Vec<Part>,
    /// Whether it holds text of its own other than white space.
    pub text: bool,
    range: Range<usize>,
    /// The bindings in scope where it stands; of foreign parts only. Parts that stand in one place share them: they are
    /// many times what came, if each of a thousand has its own.
    scope: Arc<Bindings>,
}

impl Part {
    /// The value of an attribute without a prefix.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn child(&self, name: &str, ns: &str) -> Option<&Part> {
        self.children.iter().find(|c| c.name == name && *c.ns == *ns)
    }

    /// Children in the same namespace as this part itself.
    pub fn own(&self) -> impl Iterator<Item = &Part> {
        self.children.iter().filter(|c| c.ns == self.ns)
    }
}

/// A request's payload, e.g. `<pubsub/>`, read once.
#[derive(Debug)]
pub struct Outline {
    raw: Bytes,
    pub root: Part,
}

impl Outline {
    /// Reads `child` of `envelope`; `BadRequest` if it has more elements of its own than any request needs.
    pub fn read(envelope: &Envelope, child: &Child) -> Result<Outline, Refusal> {
        let raw = envelope.slice(child);
        let outer: Bindings = envelope.namespaces().into_iter().collect();
        let root = walk(&raw, outer, &child.ns).ok_or(Refusal::BadRequest)?;
        Ok(Outline { raw, root })
    }

    /// A foreign part as it stands, with the bindings it needs.
    pub fn cut(&self, part: &Part) -> (Bytes, Bindings) {
        (self.raw.slice(part.range.clone()), part.scope.to_vec())
    }

    /// A foreign part as a tree: for forms and result sets.
    pub fn element(&self, part: &Part) -> Result<Element, Refusal> {
        let raw = self.raw.get(part.range.clone()).unwrap_or_default();
        tree(raw, part.scope.iter().cloned().collect()).map_err(|_| Refusal::BadRequest)
    }
}

/// One pass over `raw`, which the envelope has proved well-formed. `None`: too many parts.
fn walk(raw: &[u8], outer: Bindings, own: &str) -> Option<Part> {
    let mut reader = NsReader::from_str(std::str::from_utf8(raw).ok()?);
    for (prefix, ns) in &outer {
        let prefix = if prefix.is_empty() { PrefixDeclaration::Default } else { PrefixDeclaration::Named(prefix) };
        reader.resolver_mut().add(prefix, Namespace(ns)).ok()?;
    }
    // Parts still open, each with what it declares; of foreign ones only the outermost, and how deep we are in it.
    let mut open: Vec<(Part, Bindings)> = Vec::new();
    // What is in scope in the innermost of them, as soon as a foreign part needs it.
    let mut scope: Option<Arc<Bindings>> = None;
    let mut foreign = 0usize;
    let mut parts = 0usize;
    let mut names = BTreeSet::new();
    loop {
        let begins = usize::try_from(reader.buffer_position()).ok()?;
        let event = reader.read_event().ok()?;
        let ends = usize::try_from(reader.buffer_position()).ok()?;
        let ended = match event {
            Event::Start(_) if foreign > 0 => {
                foreign += 1;
                false
            }
            Event::End(_) if foreign > 1 => {
                foreign -= 1;
                false
            }
            _ if foreign > 0 && !matches!(event, Event::End(_)) => false,
            Event::Start(ref tag) | Event::Empty(ref tag) => {
                parts += 1;
                let (mut part, declared) = part(&reader, tag, &mut names);
                part.range = begins..ends;
                if *part.ns != *own {
                    let here = || outer.iter().chain(open.iter().flat_map(|(_, d)| d)).cloned().collect();
                    part.scope = scope.get_or_insert_with(|| Arc::new(here())).clone();
                    foreign = usize::from(matches!(event, Event::Start(_)));
                } else if !declared.is_empty() {
                    scope = None;
                }
                open.push((part, declared));
                matches!(event, Event::Empty(_))
            }
            Event::End(_) => {
                foreign = 0;
                true
            }
            Event::Text(ref text) => {
                mark_text(&mut open, !text.as_bytes().trim_ascii().is_empty());
                false
            }
            Event::CData(_) | Event::GeneralRef(_) => {
                mark_text(&mut open, true);
                false
            }
            Event::Eof => return None,
            _ => false,
        };
        if parts > PARTS_MOST {
            return None;
        }
        if ended {
            let (mut part, declared) = open.pop()?;
            part.range.end = ends;
            if *part.ns == *own && !declared.is_empty() {
                scope = None;
            }
            match open.last_mut() {
                Some((parent, _)) => parent.children.push(part),
                None => return Some(part),
            }
        }
    }
}

fn mark_text(open: &mut [(Part, Bindings)], there: bool) {
    if let Some((part, _)) = open.last_mut() {
        part.text |= there;
    }
}

/// `names`: the namespaces met so far.
fn part(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>, names: &mut BTreeSet<Arc<str>>) -> (Part, Bindings) {
    let ns = match reader.resolver().resolve_element(tag.name()).0 {
        ResolveResult::Bound(Namespace(ns)) => quick_xml::escape::unescape(ns).unwrap_or_default(),
        _ => "".into(),
    };
    let ns = names.get(&*ns).cloned().unwrap_or_else(|| {
        let ns: Arc<str> = ns.into();
        names.insert(ns.clone());
        ns
    });
    let mut part = Part { ns, name: tag.local_name().into_inner().to_owned(), ..Part::default() };
    let mut declared = Bindings::new();
    for a in tag.attributes().flatten() {
        let value = a.normalized_value(XmlVersion::Implicit1_0).unwrap_or_default().into_owned();
        match a.key.as_namespace_binding() {
            Some(PrefixDeclaration::Default) => declared.push((String::new(), value)),
            Some(PrefixDeclaration::Named(prefix)) => declared.push((prefix.to_owned(), value)),
            None => part.attrs.push((a.key.0.to_owned(), value)),
        }
    }
    (part, declared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::envelope::Scope;

    fn outline(iq: &str) -> Result<Outline, Refusal> {
        let envelope = Envelope::parse(Bytes::copy_from_slice(iq.as_bytes()), &Scope::default()).unwrap();
        Outline::read(&envelope, envelope.payload().unwrap())
    }

    #[test]
    fn what_is_small_on_the_wire_is_small_in_memory() {
        let long = "n".repeat(8_000);
        let empty = "<a/>".repeat(60_000);
        for inner in [
            format!("<y xmlns='{long}'>{empty}</y>"),
            format!("<y xmlns='' xmlns:p='{long}'>{}</y>", "<a p:b=''/>".repeat(9_000)),
        ] {
            let o = outline(&format!(
                "<iq type='set'><pubsub xmlns='u'><options><x xmlns='jabber:x:data'>{inner}</x></options></pubsub></iq>"
            ));
            let o = o.unwrap();
            let form = &o.root.children[0].children[0];
            assert_eq!(o.element(form).unwrap_err(), Refusal::BadRequest);
            let message = format!("<message><x xmlns='jabber:x:data'>{inner}</x></message>");
            let envelope = Envelope::parse(message.into(), &Scope::default()).unwrap();
            assert!(envelope.child_element(envelope.payload().unwrap()).is_err() && envelope.element().is_err());
        }
        // Bound to what is XML's own, and written so that it is not seen at once.
        let message = format!(
            "<message xmlns:p='http://www.w3.org/XML/1998/n&#97;mespace'><x xmlns='jabber:x:data'>\
             <y xmlns='{long}'>{empty}</y></x></message>"
        );
        let envelope = Envelope::parse(message.into(), &Scope::default()).unwrap();
        assert!(envelope.child_element(envelope.payload().unwrap()).is_err());
        let o = outline(&format!(
            "<iq type='set'><pubsub xmlns='u' xmlns:p='{long}'>{}</pubsub></iq>",
            "<p:a/><b/>".repeat(400)
        ));
        let parts = o.unwrap().root.children;
        let first = parts[0].ns.as_ptr();
        assert!(parts.iter().filter(|part| part.ns.as_ptr() == first).count() == 400, "one copy of a name for all");
    }

    #[test]
    fn a_payload_is_cut_out_with_the_bindings_around_it() {
        let o = outline(
            "<iq type='set' xmlns:a='urn:a'><p:pubsub xmlns:p='http://jabber.org/protocol/pubsub' xmlns:b='urn:b'>\
             <p:publish node='n &amp; m'><p:item id='1' xmlns='urn:c'> <a:x><b:y/><z>t</z></a:x> </p:item></p:publish>\
             </p:pubsub></iq>",
        )
        .unwrap();
        let publish = o.root.own().next().unwrap();
        assert_eq!((publish.name.as_str(), publish.attr("node")), ("publish", Some("n & m")));
        let item = publish.own().next().unwrap();
        assert!(!item.text);
        let (raw, scope) = o.cut(&item.children[0]);
        assert_eq!(&raw[..], b"<a:x><b:y/><z>t</z></a:x>");
        let last = |prefix: &str| scope.iter().rev().find(|(p, _)| p == prefix).map(|(_, ns)| ns.as_str());
        assert_eq!((last("a"), last("b"), last("")), (Some("urn:a"), Some("urn:b"), Some("urn:c")));
        assert_eq!(o.element(&item.children[0]).unwrap().ns(), "urn:a");
    }

    #[test]
    fn foreign_parts_in_one_place_share_what_is_in_scope() {
        let o = outline(
            "<iq><pubsub xmlns='u' xmlns:a='urn:a'><x xmlns:b='urn:b'><f xmlns='f'/><g xmlns='f' xmlns:c='urn:c'/></x>\
             <h xmlns='f'/></pubsub></iq>",
        )
        .unwrap();
        let x = &o.root.children[0];
        assert!(Arc::ptr_eq(&x.children[0].scope, &x.children[1].scope));
        let prefixes = |part: &Part| part.scope.iter().map(|(p, _)| p.clone()).collect::<Vec<_>>();
        assert_eq!(prefixes(&x.children[1])[2..], ["", "a", "b"], "its own declaration stands in its bytes");
        assert_eq!(prefixes(&o.root.children[1])[2..], ["", "a"]);
    }

    #[test]
    fn text_beside_elements_is_seen_and_empty_elements_end() {
        let o = outline(
            "<iq><pubsub xmlns='u'><items node='n'/><set xmlns='r'/><b>t</b><c><![CDATA[x]]></c></pubsub></iq>",
        )
        .unwrap();
        let names: Vec<_> = o.root.children.iter().map(|c| (c.name.as_str(), &*c.ns, c.text)).collect();
        assert_eq!(names, [("items", "u", false), ("set", "r", false), ("b", "u", true), ("c", "u", true)]);
        assert_eq!(o.root.own().count(), 3);
    }

    #[test]
    fn a_request_has_a_bounded_number_of_parts() {
        let many = |n: usize, ns: &str| format!("<iq><pubsub xmlns='u'><x{ns}>{}</x></pubsub></iq>", "<a/>".repeat(n));
        assert!(outline(&many(900, "")).is_ok());
        assert_eq!(outline(&many(1_100, "")).err(), Some(Refusal::BadRequest));
        assert!(outline(&many(1_100, " xmlns='foreign'")).is_ok());
    }
}
