//! Cuts the bytes of an XMPP stream (RFC 6120 §4, §11) into stanzas, with every limit kept before any tree is built.
//!
//! The framer knows only as much XML as it needs to find the end of a stanza: tags, quotes, CDATA. It checks no names
//! and no namespaces; `envelope` does. What is over a limit is read past without being kept, so that a stranger's
//! stanza costs neither memory nor the stream.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};
use quick_xml::XmlVersion;
use quick_xml::events::BytesStart;

/// What one stanza may be. Sizes in bytes, as they stand on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The whole stanza.
    pub stanza_bytes: usize,
    /// Elements open at once, the stanza's own counted.
    pub depth: usize,
    /// One tag, from `<` to `>`; the stream header keeps this limit too.
    pub tag_bytes: usize,
    /// Attributes of one tag, namespace declarations counted.
    pub attributes: usize,
    /// The name of an element or attribute, prefix counted.
    pub name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { stanza_bytes: 10_000_000, depth: 256, tag_bytes: 65_536, attributes: 128, name_bytes: 1_024 }
    }
}

/// One thing read from the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Open(StreamHeader),
    /// A whole stanza, or another first-level child such as `stream:error` or `handshake`: from its `<` to its last `>`.
    Stanza(Bytes),
    /// A stanza that was read past.
    Skipped(Skipped),
    /// The other side's `</stream:stream>`. Nothing follows.
    Close,
}

/// What is left of a stanza that was not kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its start tag, as far as [`Limits::tag_bytes`] goes.
    pub head: Bytes,
    pub why: Excess,
    /// How long it was.
    pub bytes: u64,
}

/// Why a stanza was not kept: the first reason in the order of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    #[error("stanza too big")]
    StanzaBytes,
    #[error("elements nested too deep")]
    Depth,
    #[error("tag too long")]
    TagBytes,
    #[error("too many attributes")]
    Attributes,
    #[error("name too long")]
    NameBytes,
    /// RFC 6120 §11.1: comments, processing instructions and DTDs have no place in a stream.
    #[error("comment, processing instruction or document type")]
    RestrictedXml,
    #[error("not well-formed")]
    NotWellFormed,
}

impl Excess {
    /// The same with figures: the limit, and where it is known what came.
    pub fn told(self, limits: &Limits, bytes: u64) -> String {
        match self {
            Excess::StanzaBytes => format!("{self}: {bytes} bytes, at most {} are taken", limits.stanza_bytes),
            Excess::Depth => format!("{self}: at most {} inside one another", limits.depth),
            Excess::TagBytes => format!("{self}: at most {} bytes", limits.tag_bytes),
            Excess::Attributes => format!("{self}: at most {} on one element", limits.attributes),
            Excess::NameBytes => format!("{self}: at most {} bytes", limits.name_bytes),
            Excess::RestrictedXml | Excess::NotWellFormed => self.to_string(),
        }
    }
}

/// Something between the stanzas that only the server itself can have sent: the stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    #[error("comment, processing instruction or document type between stanzas")]
    RestrictedXml,
    #[error("text between stanzas")]
    StrayText,
    #[error("stream header too long or not readable")]
    Header,
    #[error("end tag without a start, or a tag without a name")]
    NotWellFormed,
}

/// The server's `<stream:stream …>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamHeader {
    /// All attributes in order, names as written, values unescaped.
    pub attributes: Vec<(String, String)>,
}

impl StreamHeader {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The namespaces that hold for every stanza: prefix (empty for the default) and name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().filter_map(|(name, value)| match name.strip_prefix("xmlns") {
            Some("") => Some(("", value.as_str())),
            Some(rest) => Some((rest.strip_prefix(':')?, value.as_str())),
            None => None,
        })
    }

    fn read(tag: &[u8]) -> Option<Self> {
        let tag = std::str::from_utf8(tag).ok()?;
        let inner = tag.strip_prefix('<')?.strip_suffix('>')?;
        if inner.ends_with('/') {
            return None;
        }
        let name_len = inner.find([' ', '\t', '\r', '\n']).unwrap_or(inner.len());
        let mut attributes = Vec::new();
        for a in BytesStart::from_content(inner, name_len).attributes() {
            let a = a.ok()?;
            attributes.push((a.key.0.to_owned(), a.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned()));
        }
        Some(StreamHeader { attributes })
    }
}

/// Stanzas up to this size are copied out of the read buffer: a kept one then holds no more memory than its own
/// bytes, and the buffer is used again in place. Larger ones are cut out without a copy.
const COPY_UP_TO: usize = 16 * 1024;

/// Takes bytes in any portions, gives frames. See the module's head.
pub struct Framer {
    limits: Limits,
    /// Bytes not yet given out. Within a stanza it begins at the stanza's `<`, unless that is being skipped.
    buf: BytesMut,
    scan: Scan,
    skip: Option<Skip>,
    closed: bool,
}

/// A stanza that is being read past.
struct Skip {
    head: BytesMut,
    /// Whether its start tag goes on: servers write attributes in any order, so who sent it may stand at the end.
    open: bool,
    why: Excess,
    bytes: u64,
}

impl Skip {
    /// Takes what was seen of the start tag. `head_end`: where it ends in `seen`, 0 if it does not.
    fn take(&mut self, seen: &[u8], head_end: usize, limits: &Limits) {
        self.bytes += seen.len() as u64;
        if self.open {
            self.open = head_end == 0;
            let tag = seen.get(..head_end).filter(|tag| !tag.is_empty()).unwrap_or(seen);
            let room = limits.tag_bytes.saturating_sub(self.head.len());
            self.head.extend_from_slice(&tag[..tag.len().min(room)]);
        }
    }
}

impl Framer {
    pub fn new(limits: Limits) -> Self {
        Framer { limits, buf: BytesMut::new(), scan: Scan::default(), skip: None, closed: false }
    }

    /// Where to read to. Only append; call [`Framer::next`] until it gives `None` after each read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// The next frame, or `None` if more bytes are needed. After an error or `Close` there is nothing more to read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Frame>, StreamFault> {
        if self.closed {
            self.buf.clear();
            return Ok(None);
        }
        loop {
            if self.scan.is_between() && !self.skip_space()? {
                return Ok(None);
            }
            match self.scan.run(&self.buf, &self.limits, self.skip.is_some())? {
                Step::More => {
                    if let Some(skip) = &mut self.skip {
                        skip.take(&self.buf, self.scan.head_end, &self.limits);
                        self.buf.clear();
                        self.scan.at = 0;
                    }
                    return Ok(None);
                }
                Step::Over(why) => self.begin_skip(why),
                Step::Declaration => self.buf.advance(self.scan.take()),
                Step::Header => {
                    let tag = self.buf.split_to(self.scan.take());
                    return StreamHeader::read(&tag).map(|h| Some(Frame::Open(h))).ok_or(StreamFault::Header);
                }
                Step::Stanza => return Ok(Some(self.give())),
                Step::Close => {
                    self.closed = true;
                    return Ok(Some(Frame::Close));
                }
            }
        }
    }

    /// Drops the white space between stanzas. False if nothing else is there yet.
    fn skip_space(&mut self) -> Result<bool, StreamFault> {
        let space = self.buf.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.buf.advance(space);
        match self.buf.first() {
            None => Ok(false),
            Some(b'<') => Ok(true),
            Some(_) => Err(StreamFault::StrayText),
        }
    }

    fn begin_skip(&mut self, why: Excess) {
        let seen = self.scan.take();
        // While the first tag is still open, what was seen of it is the head.
        let open = self.scan.head_end == 0;
        let head = if open { seen } else { self.scan.head_end };
        let head = BytesMut::from(&self.buf[..head.min(seen)]);
        self.buf.advance(seen);
        self.skip = Some(Skip { head, open, why, bytes: seen as u64 });
    }

    fn give(&mut self) -> Frame {
        let end = self.scan.take();
        if let Some(mut skip) = self.skip.take() {
            skip.take(&self.buf[..end], self.scan.head_end, &self.limits);
            self.buf.advance(end);
            return Frame::Skipped(Skipped { head: skip.head.freeze(), why: skip.why, bytes: skip.bytes });
        }
        if end > COPY_UP_TO {
            return Frame::Stanza(self.buf.split_to(end).freeze());
        }
        let stanza = Bytes::copy_from_slice(&self.buf[..end]);
        self.buf.advance(end);
        Frame::Stanza(stanza)
    }
}

/// What a run over the buffer came to; `Scan::at` is just behind it.
enum Step {
    More,
    Over(Excess),
    /// The XML declaration before the header.
    Declaration,
    Header,
    Stanza,
    Close,
}

/// Where in the grammar the scan stands, between two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lex {
    #[default]
    Text,
    /// Behind `<`.
    Markup,
    /// In a start tag; `slash`: the last byte was `/`.
    Tag {
        slash: bool,
    },
    Quote(u8),
    EndTag,
    /// Behind `<!`.
    Bang,
    /// Behind `<!-`.
    BangDash,
    /// Behind `<![` and so many bytes of `CDATA[`.
    BangCdata(u8),
    /// In CDATA, behind so many `]`.
    Cdata(u8),
    /// In a comment, behind so many `-`.
    Comment(u8),
    /// In a processing instruction or the XML declaration; behind a `?` or not.
    Pi(bool),
    /// In `<!` anything else; in so many brackets; in a quote, or 0.
    Doctype {
        brackets: u32,
        quote: u8,
    },
}

#[derive(Debug, Default)]
struct Scan {
    lex: Lex,
    /// Offset in the buffer of the next byte to look at.
    at: usize,
    /// Open elements, the stream's own included.
    depth: usize,
    /// Of the tag at hand: bytes, attributes, and the length of the name being read.
    tag: usize,
    attributes: usize,
    name: usize,
    /// Where the stanza's start tag ends; 0 while it is being read.
    head_end: usize,
}

impl Scan {
    /// Before the header or between two stanzas.
    fn is_between(&self) -> bool {
        self.depth <= 1 && self.lex == Lex::Text && self.at == 0
    }

    /// How many bytes were seen; from now on they no longer count.
    fn take(&mut self) -> usize {
        std::mem::take(&mut self.at)
    }

    /// Goes on over `buf`. With `skipping`, nothing is counted against `limits`.
    ///
    /// What is found depends only on the bytes, never on how they were portioned: every limit strikes at one byte.
    fn run(&mut self, buf: &[u8], limits: &Limits, skipping: bool) -> Result<Step, StreamFault> {
        let all = buf;
        let buf = if skipping { all } else { &all[..all.len().min(limits.stanza_bytes)] };
        while self.at < buf.len() {
            let step = match self.lex {
                Lex::Text => {
                    match memchr(b'<', &buf[self.at..]) {
                        Some(n) => {
                            self.at += n + 1;
                            self.lex = Lex::Markup;
                            self.tag = 1;
                        }
                        None => self.at = buf.len(),
                    }
                    None
                }
                Lex::Markup => self.markup(buf[self.at])?,
                Lex::Tag { slash } => self.tag(buf, slash, limits, skipping),
                Lex::Quote(quote) => self.quoted(buf, quote, limits, skipping),
                Lex::EndTag => self.end_tag(buf, limits, skipping)?,
                _ => self.aside(buf),
            };
            match step {
                Some(Step::Over(_)) if self.depth == 0 => return Err(StreamFault::Header),
                Some(Step::Over(_)) if skipping => {}
                Some(step) => return Ok(step),
                None => {}
            }
        }
        if !skipping && all.len() >= limits.stanza_bytes {
            return if self.depth == 0 { Err(StreamFault::Header) } else { Ok(Step::Over(Excess::StanzaBytes)) };
        }
        Ok(Step::More)
    }

    /// The byte behind `<`.
    fn markup(&mut self, byte: u8) -> Result<Option<Step>, StreamFault> {
        self.at += 1;
        self.tag = 2;
        let between = self.depth <= 1;
        match byte {
            b'/' => self.lex = Lex::EndTag,
            b'?' if self.depth == 0 => self.lex = Lex::Pi(false),
            b'!' | b'?' if between => return Err(StreamFault::RestrictedXml),
            b'!' => self.lex = Lex::Bang,
            b'?' => {
                self.lex = Lex::Pi(false);
                return Ok(Some(Step::Over(Excess::RestrictedXml)));
            }
            b'>' | b'<' | b'=' | b'"' | b'\'' | b' ' | b'\t' | b'\r' | b'\n' => {
                if between {
                    return Err(StreamFault::NotWellFormed);
                }
                // No tag, then; what follows is read as text until the next one.
                self.lex = if byte == b'<' { Lex::Markup } else { Lex::Text };
                return Ok(Some(Step::Over(Excess::NotWellFormed)));
            }
            _ => {
                (self.lex, self.attributes, self.name) = (Lex::Tag { slash: false }, 0, 1);
                if self.depth == 1 {
                    self.head_end = 0;
                }
            }
        }
        Ok(None)
    }

    /// In a start tag, outside of quotes.
    fn tag(&mut self, buf: &[u8], mut slash: bool, limits: &Limits, skipping: bool) -> Option<Step> {
        while let Some(&byte) = buf.get(self.at) {
            if self.tag >= limits.tag_bytes && !skipping {
                self.lex = Lex::Tag { slash };
                return Some(Step::Over(Excess::TagBytes));
            }
            self.at += 1;
            self.tag += 1;
            match byte {
                b'>' => return self.tag_ends(slash, limits),
                b'"' | b'\'' => {
                    self.lex = Lex::Quote(byte);
                    self.attributes += 1;
                    self.name = 0;
                    let over = !skipping && self.attributes > limits.attributes;
                    return over.then_some(Step::Over(Excess::Attributes));
                }
                b'<' => {
                    self.lex = Lex::Tag { slash: false };
                    if !skipping {
                        return Some(Step::Over(Excess::NotWellFormed));
                    }
                    slash = false;
                    continue;
                }
                b' ' | b'\t' | b'\r' | b'\n' | b'=' | b'/' => self.name = 0,
                _ => self.name += 1,
            }
            slash = byte == b'/';
            if self.name > limits.name_bytes && !skipping {
                self.lex = Lex::Tag { slash };
                return Some(Step::Over(Excess::NameBytes));
            }
        }
        self.lex = Lex::Tag { slash };
        None
    }

    fn tag_ends(&mut self, slash: bool, limits: &Limits) -> Option<Step> {
        self.lex = Lex::Text;
        if self.depth == 0 {
            self.depth = 1;
            return Some(Step::Header);
        }
        if self.depth == 1 {
            self.head_end = self.at;
        }
        if slash {
            return match self.depth {
                1 => Some(Step::Stanza),
                depth => (depth > limits.depth).then_some(Step::Over(Excess::Depth)),
            };
        }
        self.depth += 1;
        (self.depth - 1 > limits.depth).then_some(Step::Over(Excess::Depth))
    }

    /// In an attribute's value.
    fn quoted(&mut self, buf: &[u8], quote: u8, limits: &Limits, skipping: bool) -> Option<Step> {
        let room = if skipping { usize::MAX } else { limits.tag_bytes.saturating_sub(self.tag) };
        let rest = &buf[self.at..];
        let window = &rest[..rest.len().min(room)];
        match memchr2(quote, b'<', window) {
            Some(n) => {
                self.at += n + 1;
                self.tag += n + 1;
                if window[n] == quote {
                    self.lex = Lex::Tag { slash: false };
                    None
                } else {
                    Some(Step::Over(Excess::NotWellFormed))
                }
            }
            None => {
                self.at += window.len();
                self.tag += window.len();
                (window.len() == room).then_some(Step::Over(Excess::TagBytes))
            }
        }
    }

    fn end_tag(&mut self, buf: &[u8], limits: &Limits, skipping: bool) -> Result<Option<Step>, StreamFault> {
        let room = if skipping { usize::MAX } else { limits.tag_bytes.saturating_sub(self.tag) };
        let rest = &buf[self.at..];
        let window = &rest[..rest.len().min(room)];
        let Some(n) = memchr(b'>', window) else {
            self.at += window.len();
            self.tag += window.len();
            return Ok((window.len() == room).then_some(Step::Over(Excess::TagBytes)));
        };
        self.at += n + 1;
        self.lex = Lex::Text;
        match self.depth {
            0 => Err(StreamFault::NotWellFormed),
            1 => Ok(Some(Step::Close)),
            _ => {
                self.depth -= 1;
                Ok((self.depth == 1).then_some(Step::Stanza))
            }
        }
    }

    /// In what begins with `<!` or `<?`.
    fn aside(&mut self, buf: &[u8]) -> Option<Step> {
        let byte = buf[self.at];
        self.at += 1;
        let restricted = Some(Step::Over(Excess::RestrictedXml));
        self.lex = match (self.lex, byte) {
            (Lex::Bang, b'-') => Lex::BangDash,
            (Lex::Bang, b'[') => Lex::BangCdata(0),
            (Lex::BangDash, b'-') => {
                self.lex = Lex::Comment(0);
                return restricted;
            }
            (Lex::BangCdata(5), b'[') => Lex::Cdata(0),
            (Lex::BangCdata(n), b) if b"CDATA[".get(usize::from(n)) == Some(&b) => Lex::BangCdata(n + 1),
            (Lex::Bang | Lex::BangDash | Lex::BangCdata(_), _) => {
                self.at -= 1;
                self.lex = Lex::Doctype { brackets: 0, quote: 0 };
                return restricted;
            }
            (Lex::Cdata(n), b']') => Lex::Cdata(2.min(n + 1)),
            (Lex::Cdata(2), b'>') | (Lex::Comment(2), b'>') => Lex::Text,
            (Lex::Cdata(_), _) => {
                self.at += memchr(b']', &buf[self.at..]).unwrap_or(buf.len() - self.at);
                Lex::Cdata(0)
            }
            (Lex::Comment(n), b'-') => Lex::Comment(2.min(n + 1)),
            (Lex::Comment(_), _) => Lex::Comment(0),
            (Lex::Pi(true), b'>') => {
                self.lex = Lex::Text;
                return (self.depth == 0).then_some(Step::Declaration);
            }
            (Lex::Pi(_), b) => Lex::Pi(b == b'?'),
            (Lex::Doctype { brackets, quote: 0 }, b) => match b {
                b'>' if brackets == 0 => Lex::Text,
                b'[' => Lex::Doctype { brackets: brackets.saturating_add(1), quote: 0 },
                b']' => Lex::Doctype { brackets: brackets.saturating_sub(1), quote: 0 },
                b'"' | b'\'' => Lex::Doctype { brackets, quote: b },
                _ => Lex::Doctype { brackets, quote: 0 },
            },
            (Lex::Doctype { brackets, quote }, b) => {
                Lex::Doctype { brackets, quote: if b == quote { 0 } else { quote } }
            }
            (other, _) => other,
        };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                          xmlns:stream='http://etherx.jabber.org/streams' id='a&amp;b' from=\"c\">";

    /// Feeds the portions to an open framer; the frames, and the fault that ended it.
    fn feed(framer: &mut Framer, portions: &[&[u8]]) -> (Vec<Frame>, Option<StreamFault>) {
        let mut all = Vec::new();
        for portion in portions {
            framer.buffer().extend_from_slice(portion);
            loop {
                match framer.next() {
                    Ok(Some(frame)) => all.push(frame),
                    Ok(None) => break,
                    Err(fault) => return (all, Some(fault)),
                }
            }
        }
        (all, None)
    }

    fn frames(limits: Limits, portions: &[&[u8]]) -> (Vec<Frame>, Option<StreamFault>) {
        feed(&mut Framer::new(limits), portions)
    }

    /// Small limits, with the stream open: its header is longer than they allow.
    fn small() -> Framer {
        let mut framer = Framer::new(Limits::default());
        framer.buffer().extend_from_slice(HEADER.as_bytes());
        assert!(matches!(framer.next(), Ok(Some(Frame::Open(_)))));
        framer.limits = Limits { stanza_bytes: 400, depth: 4, tag_bytes: 120, attributes: 3, name_bytes: 20 };
        framer
    }

    /// The one frame that `stanza` gives; the stream has to go on behind it.
    fn one(stanza: &str) -> Frame {
        let (mut all, fault) = feed(&mut small(), &[stanza.as_bytes(), b"<after/>"]);
        assert_eq!((all.len(), fault), (2, None), "{stanza}: {all:?}");
        assert_eq!(all.pop(), Some(Frame::Stanza(Bytes::from_static(b"<after/>"))));
        all.remove(0)
    }

    #[test]
    fn the_header_gives_its_attributes_and_namespaces() {
        let (all, _) = frames(Limits::default(), &[HEADER.as_bytes()]);
        let [Frame::Open(header)] = &all[..] else { panic!("{all:?}") };
        assert_eq!(header.get("id"), Some("a&b"));
        let namespaces: Vec<_> = header.namespaces().collect();
        assert_eq!(namespaces, [("", "jabber:component:accept"), ("stream", "http://etherx.jabber.org/streams")]);
    }

    #[test]
    fn a_stanza_ends_where_its_element_ends_and_exact_limits_are_kept() {
        let full = format!("<a>{}</a>", "x".repeat(400 - 7));
        for stanza in [
            "<a/>",
            "<a></a >",
            "<a x='>' y=\"/>'\"/>",
            "<a><![CDATA[</a>]]]><b>]] ></b></a>",
            "<a>]]&gt;<b><c/></b></a>",
            "<a\n/>",
            "<a x='/'>t</a>",
            "<a><b><c><d/></c></b></a>",
            "<a a='' b='' c=''/>",
            "<aaaaaaaaaaaaaaaaaaaa/>",
            &full,
        ] {
            assert_eq!(one(stanza), Frame::Stanza(Bytes::copy_from_slice(stanza.as_bytes())));
        }
    }

    #[test]
    fn what_is_over_a_limit_is_skipped_with_its_head_and_the_stream_goes_on() {
        let body = format!("<a id='1'>{}</a>", "x".repeat(400));
        let tag = format!("<a id='1' x='{}'/>", "y".repeat(200));
        let cases = [
            (body.as_str(), Excess::StanzaBytes, "<a id='1'>"),
            ("<a id='1'><b><c><d><e></e></d></c></b></a>", Excess::Depth, "<a id='1'>"),
            ("<a id='1'><b><c><d><e/></d></c></b></a>", Excess::Depth, "<a id='1'>"),
            ("<a id='1'><b a='' b='' c='' d=''/></a>", Excess::Attributes, "<a id='1'>"),
            ("<a id='1' b='' c='' d=''/>", Excess::Attributes, "<a id='1' b='' c='' d=''/>"),
            ("<a id='1'><bbbbbbbbbbbbbbbbbbbbb/></a>", Excess::NameBytes, "<a id='1'>"),
            ("<a id='1'><!-- </a> --></a>", Excess::RestrictedXml, "<a id='1'>"),
            ("<a id='1'><?x </a>?></a>", Excess::RestrictedXml, "<a id='1'>"),
            ("<a id='1'><!DOCTYPE a [<!ENTITY b '</a>]>'>]></a>", Excess::RestrictedXml, "<a id='1'>"),
            ("<a id='1'>< b></a>", Excess::NotWellFormed, "<a id='1'>"),
            ("<a id='1'><b x='<'/></a>", Excess::NotWellFormed, "<a id='1'>"),
            (&tag, Excess::TagBytes, &tag[..120]),
        ];
        for (stanza, why, head) in cases {
            let Frame::Skipped(skipped) = one(stanza) else { panic!("{stanza} was kept") };
            assert_eq!((skipped.why, skipped.bytes), (why, stanza.len() as u64), "{stanza}");
            assert_eq!(skipped.head, head.as_bytes(), "{stanza}");
        }
    }

    #[test]
    fn a_tag_of_too_many_attributes_says_whose_it_is_also_at_its_end() {
        let opened = || Framer { limits: Limits::default(), ..small() };
        let many: String = (0..200).map(|n| format!(" a{n}='x'")).collect();
        let tag = format!("<iq type='get'{many} id='1' from='a@b' to='c'");
        for (tail, portion) in [("/>", 7), ("><x/></iq>", 7), ("/>", 100_000), ("><x/></iq>", 100_000)] {
            let stanza = format!("{tag}{tail}");
            let portions: Vec<&[u8]> = stanza.as_bytes().chunks(portion).collect();
            let (all, _) = feed(&mut opened(), &portions);
            let [Frame::Skipped(skipped)] = &all[..] else { panic!("{tail}: {all:?}") };
            let head = format!("{tag}{}", if tail == "/>" { "/>" } else { ">" });
            assert_eq!((skipped.why, &skipped.head[..]), (Excess::Attributes, head.as_bytes()));
            assert_eq!(skipped.bytes, stanza.len() as u64);
        }
        // Not without end.
        let endless = format!("<iq type='get'{many} x='{}'/>", "y".repeat(1_000_000));
        let (all, _) = feed(&mut opened(), &[endless.as_bytes()]);
        let [Frame::Skipped(skipped)] = &all[..] else { panic!("it was kept") };
        assert_eq!(skipped.head.len(), Limits::default().tag_bytes);
    }

    #[test]
    fn only_the_server_can_break_the_stream_between_stanzas() {
        for (text, fault) in [
            ("text", StreamFault::StrayText),
            ("<!-- -->", StreamFault::RestrictedXml),
            ("<?x?>", StreamFault::RestrictedXml),
            ("<![CDATA[x]]>", StreamFault::RestrictedXml),
            ("<>", StreamFault::NotWellFormed),
        ] {
            assert_eq!(feed(&mut small(), &[text.as_bytes()]).1, Some(fault), "{text}");
        }
        for text in ["<!DOCTYPE a>", "</a>", "<stream:stream/>", "<a b='<'>"] {
            assert!(frames(Limits::default(), &[text.as_bytes()]).1.is_some(), "{text}");
        }
        let endless = format!("<stream:stream x='{}", "y".repeat(70_000));
        assert_eq!(frames(Limits::default(), &[endless.as_bytes()]).1, Some(StreamFault::Header));
    }

    #[test]
    fn the_end_of_the_stream_is_the_last_frame() {
        let (all, fault) = feed(&mut small(), &[b" <a/> </stream:stream> <b/>", b"<c/>"]);
        assert_eq!((all.len(), all.last(), fault), (2, Some(&Frame::Close), None));
    }

    #[test]
    fn a_million_deep_stanza_is_skipped_without_being_kept() {
        let deep = format!("<iq id='1'>{}{}</iq>", "<a>".repeat(1_000_000), "</a>".repeat(1_000_000));
        let mut framer = small();
        let (mut kept, mut found) = (0, None);
        for portion in deep.as_bytes().chunks(65_536) {
            framer.buffer().extend_from_slice(portion);
            found = framer.next().unwrap();
            kept = kept.max(framer.buffer().len());
        }
        let Some(Frame::Skipped(skipped)) = found else { panic!("not skipped") };
        assert_eq!((skipped.why, &skipped.head[..]), (Excess::Depth, &b"<iq id='1'>"[..]));
        assert!(kept <= 65_536, "{kept} bytes kept");
    }

    /// A random element as text, with what a naive count says of it.
    #[derive(Clone, Debug)]
    struct Sample {
        text: String,
        depth: usize,
        tag: usize,
        attributes: usize,
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let value = prop_oneof![
            "[a-z/> \"]{0,12}".prop_map(|v| format!("'{v}'")),
            "[a-z/>' ]{0,60}".prop_map(|v| format!("\"{v}\"")),
        ];
        let tag = ("[a-z]{1,6}", prop::collection::vec(("[a-z]{1,8}", value), 0..5));
        let tag = tag.prop_map(|(name, attributes)| {
            let list: String = attributes.iter().map(|(n, v)| format!(" {n}={v}")).collect();
            (format!("<{name}{list}"), name, attributes.len())
        });
        let leaf = tag.clone().prop_map(|(open, _, attributes)| Sample {
            tag: open.len() + 2,
            text: open + "/>",
            depth: 1,
            attributes,
        });
        let text = prop_oneof![
            "[a-z> ]{0,9}",
            "[a-z\\]<> ]{0,9}"
                .prop_filter("ends CDATA", |t| !t.contains("]]>"))
                .prop_map(|t| format!("<![CDATA[{t}]]>")),
        ];
        leaf.prop_recursive(6, 20, 4, move |inner| {
            let content = prop::collection::vec((inner, text.clone()), 0..4);
            (tag.clone(), content).prop_map(|((open, name, attributes), content)| {
                let most = |f: fn(&Sample) -> usize| content.iter().map(|(c, _)| f(c)).max().unwrap_or(0);
                let inside: String = content.iter().map(|(c, t)| format!("{}{t}", c.text)).collect();
                Sample {
                    depth: 1 + most(|c| c.depth),
                    tag: (open.len() + 1).max(most(|c| c.tag)),
                    attributes: attributes.max(most(|c| c.attributes)),
                    text: format!("{open}>{inside}</{name}>"),
                }
            })
        })
    }

    fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
    }

    const PIECES: [&str; 22] = [
        "<",
        ">",
        "/",
        "a",
        "'",
        "\"",
        "=",
        " ",
        "<a",
        "</a>",
        "<b x='",
        "!",
        "--",
        "[CDATA[",
        "]]>",
        "?",
        "[",
        "]",
        "-->",
        "?>",
        "\u{e9}",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ];

    proptest! {
        #[test]
        fn the_framer_keeps_and_skips_what_a_naive_count_would(
            samples in prop::collection::vec(sample(), 0..6),
            cuts in prop::collection::vec(any::<Index>(), 0..20),
        ) {
            let mut framer = small();
            let limits = framer.limits;
            let text: String = samples.iter().map(|s| s.text.clone() + "\n ").collect();
            let text = text + "</stream:stream>";
            let (mut all, fault) = feed(&mut framer, &cut(text.as_bytes(), &cuts));
            prop_assert_eq!((all.pop(), fault), (Some(Frame::Close), None));
            prop_assert_eq!(all.len(), samples.len());
            for (frame, sample) in all.into_iter().zip(samples) {
                let fits = sample.text.len() <= limits.stanza_bytes
                    && sample.depth <= limits.depth
                    && sample.tag <= limits.tag_bytes
                    && sample.attributes <= limits.attributes;
                match frame {
                    Frame::Stanza(bytes) => prop_assert!(fits && bytes == sample.text.as_bytes()),
                    Frame::Skipped(s) => prop_assert!(!fits && s.bytes == sample.text.len() as u64, "{:?}", s),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }

        #[test]
        fn any_bytes_give_the_same_frames_however_they_are_portioned(
            pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60),
            cuts in prop::collection::vec(any::<Index>(), 0..30),
        ) {
            let limits = Limits { stanza_bytes: 160, depth: 3, tag_bytes: 150, attributes: 2, name_bytes: 30 };
            let text = format!("<s>{}", pieces.concat()).into_bytes();
            prop_assert_eq!(frames(limits, &cut(&text, &cuts)), frames(limits, &[&text]));
        }
    }
}
