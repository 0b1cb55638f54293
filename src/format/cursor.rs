//! Walking through canonical XML without a tree: opened, text, closed. Only [`Canonical`](super::canonical::Canonical) text goes in,
//! so what is not well-formed cannot come; if it did, the walk just ends.

use std::borrow::Cow;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{PrefixDeclaration, ResolveResult};
use quick_xml::reader::NsReader;

use super::{ns, xml};

pub(crate) struct Cursor<'a> {
    text: &'a str,
    reader: NsReader<&'a [u8]>,
    /// Where the last token began, in bytes.
    began: usize,
}

pub(crate) enum Token<'a> {
    Open(Open<'a>),
    /// A piece of text; a reference is a piece of its own.
    Text(Cow<'a, str>),
    Close,
}

pub(crate) struct Open<'a> {
    pub(crate) ns: Ns,
    tag: BytesStart<'a>,
    began: usize,
}

/// A namespace: the ones we know are not copied.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Ns {
    Known(&'static str),
    Other(String),
}

const KNOWN: [&str; 11] = [
    ns::ATOM,
    ns::XHTML,
    ns::ACTIVITY,
    ns::THREAD,
    ns::POCO,
    ns::OSTATUS,
    ns::MEDIA,
    ns::GEOLOC,
    ns::GEORSS,
    ns::XRD,
    ns::DC,
];

impl Ns {
    fn new(resolved: ResolveResult<'_>) -> Self {
        match resolved {
            ResolveResult::Bound(found) => match KNOWN.iter().find(|known| **known == found.into_inner()) {
                Some(known) => Ns::Known(known),
                None => Ns::Other(unescape(found.into_inner())),
            },
            _ => Ns::Known(""),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Ns::Known(known) => known,
            Ns::Other(other) => other,
        }
    }
}

impl std::fmt::Display for Ns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let mut reader = NsReader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Cursor { text, reader, began: 0 }
    }

    /// The next token; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Token<'a>> {
        loop {
            self.began = self.position();
            let (resolved, event) = self.reader.read_resolved_event().ok()?;
            return Some(match event {
                Event::Start(tag) => Token::Open(Open { ns: Ns::new(resolved), tag, began: self.began }),
                Event::End(_) => Token::Close,
                Event::Text(text) => Token::Text(text.into_inner()),
                Event::GeneralRef(name) => Token::Text(Cow::Owned(xml::reference(&name)?.to_string())),
                Event::Eof => return None,
                _ => continue,
            });
        }
    }

    fn position(&self) -> usize {
        usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX)
    }

    /// After [`Token::Open`]: passes over the element, its end included.
    pub(crate) fn skip(&mut self) {
        let mut depth = 0usize;
        loop {
            match self.next() {
                Some(Token::Open(_)) => depth += 1,
                Some(Token::Close) if depth == 0 => return,
                Some(Token::Close) => depth -= 1,
                Some(Token::Text(_)) => {}
                None => return,
            }
        }
    }

    /// After [`Token::Open`]: all text inside, at every depth; passes over the element.
    pub(crate) fn text(&mut self) -> String {
        let mut text = String::new();
        let mut depth = 0usize;
        loop {
            match self.next() {
                Some(Token::Open(_)) => depth += 1,
                Some(Token::Close) if depth == 0 => return text,
                Some(Token::Close) => depth -= 1,
                Some(Token::Text(piece)) => text.push_str(&piece),
                None => return text,
            }
        }
    }

    /// After [`Token::Open`]: calls `child` for every direct child and passes over the element's end. `child` must pass over the
    /// whole of what it is given.
    pub(crate) fn children(&mut self, mut child: impl FnMut(&mut Self, &Open<'a>)) {
        loop {
            match self.next() {
                Some(Token::Open(open)) => child(self, &open),
                Some(Token::Text(_)) => {}
                Some(Token::Close) | None => return,
            }
        }
    }

    /// After [`Token::Open`]: passes over the element and gives its bytes, tags included.
    pub(crate) fn element(&mut self, open: &Open<'a>) -> &'a str {
        self.skip();
        self.since(open)
    }

    /// The bytes from `open` up to here.
    pub(crate) fn since(&self, open: &Open<'a>) -> &'a str {
        self.text.get(open.began..self.position()).unwrap_or_default()
    }

    /// The namespace bindings in force, outermost first.
    pub(crate) fn scope(&self) -> Vec<(String, String)> {
        let mut scope: Vec<(String, String)> = Vec::new();
        for (prefix, uri) in self.reader.resolver().bindings() {
            let prefix = match prefix {
                PrefixDeclaration::Default => "",
                PrefixDeclaration::Named("xml" | "xmlns") => continue,
                PrefixDeclaration::Named(name) => name,
            };
            scope.push((prefix.to_owned(), unescape(uri.into_inner())));
        }
        scope
    }

    /// The attribute of this namespace on the element just opened.
    pub(crate) fn attr_in(&self, open: &Open<'a>, ns: &str, local: &str) -> Option<String> {
        open.tag.attributes().with_checks(false).flatten().find_map(|attribute| {
            let (resolved, name) = self.reader.resolver().resolve_attribute(attribute.key);
            let found = name.into_inner() == local
                && matches!(resolved, ResolveResult::Bound(bound) if bound.into_inner() == ns);
            found.then(|| value(&attribute)).flatten()
        })
    }
}

impl Open<'_> {
    pub(crate) fn local(&self) -> &str {
        let name = self.tag.name().into_inner();
        name.rsplit_once(':').map_or(name, |(_, local)| local)
    }

    pub(crate) fn is(&self, ns: &str, local: &str) -> bool {
        self.ns.as_str() == ns && self.local() == local
    }

    /// The attribute without a prefix, its value as text.
    pub(crate) fn attr(&self, name: &str) -> Option<String> {
        self.tag.attributes().with_checks(false).flatten().find(|a| a.key.into_inner() == name).and_then(|a| value(&a))
    }

    /// All attributes without a prefix, and `xml:lang` as `lang`.
    pub(crate) fn attrs(&self) -> impl Iterator<Item = (&str, String)> {
        let mut attributes = self.tag.attributes();
        attributes.with_checks(false);
        attributes.flatten().filter_map(|attribute| {
            let name = match attribute.key.into_inner() {
                "xml:lang" => "lang",
                name if name == "xmlns" || name.contains(':') => return None,
                name => name,
            };
            Some((name, value(&attribute)?))
        })
    }

    /// Name, prefix included, and value as they stand in the canonical text: escaped, to be copied between double quotes.
    pub(crate) fn raw_attrs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut attributes = self.tag.attributes();
        attributes.with_checks(false);
        attributes.flatten().filter_map(|attribute| match attribute.value {
            Cow::Borrowed(value) => Some((attribute.key.into_inner(), value)),
            Cow::Owned(_) => None,
        })
    }
}

/// The resolver of quick-xml keeps namespace names as they were written.
fn unescape(uri: &str) -> String {
    quick_xml::escape::unescape(uri).map_or_else(|_| uri.to_owned(), Cow::into_owned)
}

fn value(attribute: &quick_xml::events::attributes::Attribute<'_>) -> Option<String> {
    attribute.normalized_value(XmlVersion::Implicit1_0).ok().map(Cow::into_owned)
}
