//! The only way out: stanzas are put together here, and all that comes from outside goes through one escaping writer.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use jid::Jid;
use minidom::Element;

use super::read::is_xml_char;
use super::{Kind, STANZAS, ns};
use crate::domain::error::ErrorType;

/// A piece of well-formed XML: any number of elements, each declaring its own namespaces. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xml(Bytes);

impl Xml {
    /// Takes bytes that our own writers made (canonical XML out of the store, a format's output) without a copy.
    /// Never for what came from outside: what stands here goes onto the stream as it is.
    pub fn canonical(bytes: impl Into<Bytes>) -> Xml {
        Xml(bytes.into())
    }

    /// An element as a stanza's child. In [`STANZAS`] it takes the stream's namespace, as `body` does.
    pub fn element(element: &Element) -> Result<Xml, minidom::Error> {
        let mut out = Vec::new();
        element.write_to(&mut out)?;
        if element.ns() == STANZAS {
            for quote in ['"', '\''] {
                let declared = format!(" xmlns={quote}{STANZAS}{quote}");
                let tag_end = memchr::memchr(b'>', &out).unwrap_or(out.len());
                if let Some(at) = memchr::memmem::find(&out[..tag_end], declared.as_bytes()) {
                    out.drain(at..at + declared.len());
                }
            }
        }
        Ok(Xml(out.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Writes XML. Names are ours; values and texts may be anything: they are escaped, and characters that XML 1.0 does
/// not allow become U+FFFD.
#[derive(Default)]
pub struct XmlWriter {
    out: String,
    open: Vec<&'static str>,
    in_tag: bool,
}

impl XmlWriter {
    pub fn new() -> Self {
        XmlWriter::default()
    }

    /// Begins an element; `ns` is declared on it unless it is empty (then it is the parent's).
    pub fn open(&mut self, name: &'static str, ns: &str) -> &mut Self {
        self.end_tag_head();
        self.out.push('<');
        self.out.push_str(name);
        self.open.push(name);
        self.in_tag = true;
        if !ns.is_empty() {
            self.attr("xmlns", ns);
        }
        self
    }

    /// An attribute of the element just opened; does nothing once it has content.
    pub fn attr(&mut self, name: &'static str, value: &str) -> &mut Self {
        if self.in_tag {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("='");
            escape(&mut self.out, value, true);
            self.out.push('\'');
        }
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.end_tag_head();
        escape(&mut self.out, text, false);
        self
    }

    pub fn xml(&mut self, xml: &Xml) -> &mut Self {
        self.end_tag_head();
        // Whoever made it wrote text; should it not be, nothing of it leaves.
        self.out.push_str(std::str::from_utf8(&xml.0).unwrap_or_default());
        self
    }

    /// Ends the element opened last.
    pub fn close(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            if self.in_tag {
                self.out.push_str("/>");
                self.in_tag = false;
            } else {
                self.out.push_str("</");
                self.out.push_str(name);
                self.out.push('>');
            }
        }
        self
    }

    /// `<name>text</name>`.
    pub fn leaf(&mut self, name: &'static str, ns: &str, text: &str) -> &mut Self {
        self.open(name, ns).text(text).close()
    }

    /// Closes what is open and gives what was written.
    pub fn finish(&mut self) -> Xml {
        while !self.open.is_empty() {
            self.close();
        }
        Xml(std::mem::take(&mut self.out).into())
    }

    fn end_tag_head(&mut self) {
        if self.in_tag {
            self.out.push('>');
            self.in_tag = false;
        }
    }
}

fn escape(out: &mut String, text: &str, attribute: bool) {
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let replacement = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\'' => "&apos;",
            '"' => "&quot;",
            // A reader turns plain white space in attributes into spaces, and \r everywhere (XML 1.0 §2.11, §3.3.3).
            '\r' => "&#13;",
            '\n' if attribute => "&#10;",
            '\t' if attribute => "&#9;",
            c if !is_xml_char(c) => "\u{FFFD}",
            _ => continue,
        };
        out.push_str(&text[plain..at]);
        out.push_str(replacement);
        plain = at + c.len_utf8();
    }
    out.push_str(&text[plain..]);
}

/// The start tag of an outgoing stanza.
#[derive(Clone, Copy, Debug)]
pub struct OutHead<'a> {
    pub kind: Kind,
    pub from: &'a Jid,
    pub to: &'a Jid,
    pub id: Option<&'a str>,
    pub type_: Option<&'a str>,
}

/// An outgoing stanza: a head of its own, a body that many may share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stanza {
    head: Bytes,
    body: Xml,
    tail: &'static str,
    /// Where in `head` the domain of `from` stands, for the check at the door.
    domain: Range<usize>,
}

impl Stanza {
    /// `body`: the stanza's children. `None` for [`Kind::Other`]: the stream's own elements are the link's business.
    pub fn new(head: &OutHead<'_>, body: Xml) -> Option<Stanza> {
        let (open, tail) = match head.kind {
            Kind::Iq => ("<iq from='", "</iq>"),
            Kind::Message => ("<message from='", "</message>"),
            Kind::Presence => ("<presence from='", "</presence>"),
            Kind::Other => return None,
        };
        Some(Self::build(open, tail, head, body))
    }

    pub fn message(from: &Jid, to: &Jid, type_: Option<&str>, id: Option<&str>, body: Xml) -> Stanza {
        let head = OutHead { kind: Kind::Message, from, to, id, type_ };
        Self::build("<message from='", "</message>", &head, body)
    }

    pub fn presence(from: &Jid, to: &Jid, type_: Option<&str>, id: Option<&str>, body: Xml) -> Stanza {
        let head = OutHead { kind: Kind::Presence, from, to, id, type_ };
        Self::build("<presence from='", "</presence>", &head, body)
    }

    fn build(open: &str, tail: &'static str, head: &OutHead<'_>, body: Xml) -> Stanza {
        let from = head.from.as_str();
        let mut out = String::with_capacity(64 + from.len() + head.to.as_str().len() + head.id.map_or(0, str::len));
        out.push_str(open);
        if let Some(node) = head.from.node() {
            escape(&mut out, node.as_str(), true);
            out.push('@');
        }
        let begins = out.len();
        escape(&mut out, head.from.domain().as_str(), true);
        let domain = begins..out.len();
        if let Some(resource) = head.from.resource() {
            out.push('/');
            escape(&mut out, resource.as_str(), true);
        }
        out.push_str("' to='");
        escape(&mut out, head.to.as_str(), true);
        for (name, value) in [("' id='", head.id), ("' type='", head.type_)] {
            if let Some(value) = value {
                out.push_str(name);
                escape(&mut out, value, true);
            }
        }
        out.push_str(if body.is_empty() { "'/>" } else { "'>" });
        let tail = if body.is_empty() { "" } else { tail };
        Stanza { head: out.into(), body, tail, domain }
    }

    /// Bytes on the wire.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len() + self.tail.len()
    }

    /// The domain of `from`, as written.
    pub fn from_domain(&self) -> &[u8] {
        self.head.get(self.domain.clone()).unwrap_or_default()
    }

    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.body.0);
        out.extend_from_slice(self.tail.as_bytes());
    }
}

/// An error as a stanza carries it (RFC 6120 §8.3.2).
#[derive(Clone, Debug)]
pub struct StanzaError {
    pub kind: ErrorType,
    /// Element name in `urn:ietf:params:xml:ns:xmpp-stanzas` (§8.3.3).
    pub condition: &'static str,
    /// For people; in English.
    pub text: Option<Cow<'static, str>>,
    /// An application's own condition, such as those of XEP-0060.
    pub detail: Option<Xml>,
}

impl StanzaError {
    /// Which type and condition go with what is said in one place, [`crate::domain::error::TABLE`].
    pub fn new(kind: ErrorType, condition: &'static str) -> Self {
        StanzaError { kind, condition, text: None, detail: None }
    }

    pub fn text(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.text = Some(text.into());
        self
    }

    pub fn detail(mut self, detail: Xml) -> Self {
        self.detail = Some(detail);
        self
    }

    pub fn to_xml(&self) -> Xml {
        let mut w = XmlWriter::new();
        w.open("error", "").attr("type", self.kind.as_str());
        w.open(self.condition, ns::STANZA_ERRORS).close();
        if let Some(text) = &self.text {
            w.open("text", ns::STANZA_ERRORS).attr("xml:lang", "en").text(text).close();
        }
        if let Some(detail) = &self.detail {
            w.xml(detail);
        }
        w.finish()
    }
}
