//! One pass over a stanza's bytes: it proves them well-formed, and finds the head and the children.

use std::borrow::Cow;
use std::collections::BTreeMap;

use minidom::Element;
use quick_xml::XmlVersion;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, NamespaceError, PrefixDeclaration, QName, ResolveResult};
use quick_xml::reader::NsReader;

use super::{
    CHILDREN_LISTED, Child, Fault, Head, Kind, NAMESPACE_BYTES, NoTree, STANZAS, Scope, TREE_NAMES, TREE_NAMESPACES,
    is_stanza_ns, kind,
};

/// What one pass finds.
pub(super) struct Read {
    pub(super) head: Head,
    pub(super) ns: String,
    pub(super) name: String,
    pub(super) children: Vec<Child>,
    pub(super) children_total: usize,
}

pub(super) fn read(raw: &[u8], scope: &Scope) -> Result<Read, Fault> {
    let text = std::str::from_utf8(raw).map_err(|_| Fault::Utf8)?;
    check_characters(raw)?;
    let mut reader = NsReader::from_str(text);
    for (prefix, ns) in scope.0.iter() {
        let prefix = if prefix.is_empty() { PrefixDeclaration::Default } else { PrefixDeclaration::Named(prefix) };
        reader.resolver_mut().add(prefix, Namespace(ns)).map_err(|e| Fault::Xml(e.to_string()))?;
    }
    let mut found: Option<Read> = None;
    let mut depth = 0usize;
    // Open elements that declare something: their depth, and the bytes in force in them.
    let mut declared: Vec<(usize, usize)> = Vec::new();
    loop {
        let begins = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let event = reader.read_event().map_err(xml_fault)?;
        let ends = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        match &event {
            Event::Start(tag) | Event::Empty(tag) => {
                let empty = matches!(event, Event::Empty(_));
                let (ns, bytes) = check_tag(&reader, tag, depth < 2)?;
                if bytes > 0 {
                    let bytes = bytes + declared.last().map_or(0, |(_, bytes)| *bytes);
                    if bytes > NAMESPACE_BYTES {
                        return Err(Fault::Namespaces);
                    }
                    if !empty {
                        declared.push((depth, bytes));
                    }
                }
                let name = tag.local_name().into_inner();
                match (&mut found, depth) {
                    (None, _) => found = Some(read_root(tag, name, ns)?),
                    (Some(_), 0) => return Err(Fault::Xml("two elements".to_owned())),
                    (Some(found), 1) => {
                        found.children_total += 1;
                        if found.children.len() < CHILDREN_LISTED {
                            found.children.push(Child { ns, name: name.to_owned(), range: begins..ends });
                        }
                    }
                    _ => {}
                }
                depth += usize::from(!empty);
            }
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                declared.pop_if(|(at, _)| *at == depth);
                // The last listed child ends here, unless it is one of those that are only counted.
                if let (1, Some(found)) = (depth, &mut found)
                    && found.children_total <= CHILDREN_LISTED
                    && let Some(child) = found.children.last_mut()
                {
                    child.range.end = ends;
                }
            }
            Event::Text(text) => {
                if memchr::memmem::find(text.as_bytes(), b"]]>").is_some() {
                    return Err(Fault::Xml("]]> in text".to_owned()));
                }
            }
            Event::GeneralRef(entity) => check_entity(entity)?,
            Event::CData(_) => {}
            Event::Comment(_) | Event::PI(_) | Event::DocType(_) | Event::Decl(_) => {
                return Err(Fault::RestrictedXml);
            }
            Event::Eof => break,
        }
    }
    if depth != 0 {
        return Err(Fault::Xml("not closed".to_owned()));
    }
    found.ok_or_else(|| Fault::Xml("no element".to_owned()))
}

fn read_root(tag: &BytesStart<'_>, name: &str, ns: String) -> Result<Read, Fault> {
    let mut head = Head::new(if ns == STANZAS { kind(name) } else { Kind::Other });
    for a in tag.attributes() {
        let a = a.map_err(|e| Fault::Xml(e.to_string()))?;
        head.take(a.key.0, attribute_value(&a.value)?);
    }
    Ok(Read { head, ns, name: name.to_owned(), children: Vec::new(), children_total: 0 })
}

/// Proves a start tag sound; gives its namespace if it is `wanted`, and how many bytes of namespaces it declares.
fn check_tag(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>, wanted: bool) -> Result<(String, usize), Fault> {
    let resolver = reader.resolver();
    let ns = match resolver.resolve_element(tag.name()).0 {
        ResolveResult::Unknown(prefix) => return Err(Fault::Prefix(prefix)),
        ResolveResult::Bound(Namespace(ns)) if wanted => {
            let ns = attribute_value(ns)?;
            if is_stanza_ns(&ns) { STANZAS.to_owned() } else { ns.into_owned() }
        }
        ResolveResult::Bound(_) | ResolveResult::Unbound => String::new(),
    };
    let mut declared = 0;
    for a in tag.attributes() {
        let a = a.map_err(|e| Fault::Xml(e.to_string()))?;
        if a.key.0.contains(':') {
            check_prefix(reader, a.key)?;
        }
        if a.key.as_namespace_binding().is_some() {
            declared += a.key.0.len() + a.value.len();
        }
        if memchr::memchr2(b'&', b'<', a.value.as_bytes()).is_some() {
            attribute_value(&a.value)?;
        }
    }
    Ok((ns, declared))
}

fn check_prefix(reader: &NsReader<&[u8]>, name: QName<'_>) -> Result<(), Fault> {
    match reader.resolver().resolve_attribute(name).0 {
        ResolveResult::Unknown(prefix) if name.as_namespace_binding().is_none() => Err(Fault::Prefix(prefix)),
        _ => Ok(()),
    }
}

/// An attribute's value, references replaced; only the five entities of XML and legal characters are known.
pub(super) fn attribute_value(raw: &str) -> Result<Cow<'_, str>, Fault> {
    if raw.contains('<') {
        return Err(Fault::Xml("< in an attribute".to_owned()));
    }
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        let (entity, after) =
            rest[at + 1..].split_once(';').ok_or_else(|| Fault::Entity(rest[at..].chars().take(16).collect()))?;
        check_entity(entity)?;
        rest = after;
    }
    let attribute = Attribute { key: QName(""), value: Cow::Borrowed(raw) };
    attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|e| Fault::Xml(e.to_string()))
}

fn check_entity(entity: &str) -> Result<(), Fault> {
    let unknown = || Fault::Entity(entity.chars().take(16).collect());
    let Some(number) = entity.strip_prefix('#') else {
        return quick_xml::escape::resolve_predefined_entity(entity).map(|_| ()).ok_or_else(unknown);
    };
    let (digits, radix) = match number.strip_prefix('x') {
        Some(hex) => (hex, 16),
        None => (number, 10),
    };
    // `from_str_radix` would take a sign.
    let code = if digits.starts_with(['+', '-']) { None } else { u32::from_str_radix(digits, radix).ok() };
    match code.and_then(char::from_u32) {
        Some(c) if is_xml_char(c) => Ok(()),
        _ => Err(unknown()),
    }
}

/// XML 1.0 §2.2, `Char`.
pub(super) fn is_xml_char(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => true,
        '\u{FFFE}' | '\u{FFFF}' => false,
        c => c >= ' ',
    }
}

/// The same over valid UTF-8, without decoding it.
fn check_characters(utf8: &[u8]) -> Result<(), Fault> {
    // Folded without a branch, so that it runs many bytes at a time.
    let control = utf8.iter().fold(false, |found, &b| found | ((b < 0x20) & (b != 9) & (b != 10) & (b != 13)));
    let non_characters = || {
        memchr::memmem::find(utf8, b"\xEF\xBF\xBE").is_some() || memchr::memmem::find(utf8, b"\xEF\xBF\xBF").is_some()
    };
    if control || non_characters() { Err(Fault::Character) } else { Ok(()) }
}

pub(super) fn xml_fault(e: quick_xml::Error) -> Fault {
    match e {
        quick_xml::Error::Namespace(NamespaceError::TooManyBindings(_)) => Fault::Namespaces,
        e => Fault::Xml(e.to_string()),
    }
}

/// The first start tag in `raw`, to its end or as far as it goes.
pub(super) fn start_tag(raw: &[u8]) -> Option<BytesStart<'_>> {
    let inner = std::str::from_utf8(raw.strip_prefix(b"<")?).ok()?;
    let mut quote = None;
    let end = inner.bytes().position(|b| match (quote, b) {
        (None, b'>') => true,
        (None, b'"' | b'\'') => {
            quote = Some(b);
            false
        }
        (Some(q), b) => {
            if q == b {
                quote = None;
            }
            false
        }
        _ => false,
    });
    let tag = &inner[..end.unwrap_or(inner.len())];
    let tag = if end.is_some() { tag.strip_suffix('/').unwrap_or(tag) } else { tag };
    let name = tag.find([' ', '\t', '\r', '\n']).unwrap_or(tag.len());
    Some(BytesStart::from_content(tag, name))
}

/// Makes a tree of one element. `scope`: the bindings where it stood, the default with the prefix `""`.
pub(in crate::xmpp) fn tree(raw: &[u8], scope: BTreeMap<String, String>) -> Result<Element, NoTree> {
    check_cost(raw, &scope)?;
    let scope: BTreeMap<Option<String>, String> =
        scope.into_iter().map(|(p, ns)| (Some(p).filter(|p| !p.is_empty()), ns)).collect();
    Ok(Element::from_reader_with_prefixes(raw, scope)?)
}

/// A tree has a copy of its namespace in each of its names: of 60,000 elements of four bytes, in a namespace of 8,000, it
/// would make half a gigabyte.
fn check_cost(raw: &[u8], scope: &BTreeMap<String, String>) -> Result<(), NoTree> {
    let Ok(text) = std::str::from_utf8(raw) else { return Ok(()) };
    let mut reader = NsReader::from_str(text);
    for (prefix, ns) in scope {
        let prefix = if prefix.is_empty() { PrefixDeclaration::Default } else { PrefixDeclaration::Named(prefix) };
        if reader.resolver_mut().add(prefix, Namespace(ns)).is_err() {
            // Bound to what XML keeps for itself: nobody has that, and it cannot be counted.
            return Err(NoTree::TooLarge);
        }
    }
    let (mut names, mut bytes) = (0, 0);
    let length = |resolved: ResolveResult<'_>| match resolved {
        ResolveResult::Bound(Namespace(ns)) => ns.len(),
        _ => 0,
    };
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag) | Event::Empty(tag)) => {
                names += 1;
                bytes += length(reader.resolver().resolve_element(tag.name()).0);
                for attribute in tag.attributes().with_checks(false).flatten() {
                    names += 1;
                    if attribute.key.0.contains(':') {
                        bytes += length(reader.resolver().resolve_attribute(attribute.key).0);
                    }
                }
                if names > TREE_NAMES || bytes > TREE_NAMESPACES {
                    return Err(NoTree::TooLarge);
                }
            }
            // What is not well-formed is for who makes the tree to say.
            Ok(Event::Eof) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}

/// Brings a tree whose root declares the stream's namespace itself into [`STANZAS`].
pub(super) fn renamed(element: Element) -> Element {
    let ns = element.ns();
    if ns != STANZAS && is_stanza_ns(&ns) { rename(element, &ns) } else { element }
}

fn rename(mut element: Element, ns: &str) -> Element {
    if element.ns() != ns {
        return element;
    }
    let mut new = Element::bare(element.name(), STANZAS);
    *new.attrs_mut() = std::mem::take(element.attrs_mut());
    for node in element.take_nodes() {
        new.append_node(match node {
            minidom::Node::Element(child) => minidom::Node::Element(rename(child, ns)),
            text => text,
        });
    }
    new
}
