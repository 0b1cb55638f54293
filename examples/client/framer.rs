//! Cuts the bytes of an XML stream (RFC 6120 §4) into its header and its whole first-level elements.
//! Kept apart from the component's own framer on purpose: a test should not trust the code it tries.

use std::collections::BTreeMap;

use minidom::Element;

/// What the bytes so far have given.
#[derive(Debug)]
pub enum Frame {
    /// The stream's opening tag with its attributes, values as written.
    Header(Vec<(String, String)>),
    Stanza(Element),
    /// A whole element that no tree was made of: too deep, or not well-formed to the parser. Its first bytes.
    Unreadable(String),
    /// The closing tag of the stream.
    End,
}

/// Above this a tree is not built: the tree's code is recursive.
const DEPTH: usize = 4_000;

#[derive(Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Read up to here; everything before belongs to the element begun at `start`.
    at: usize,
    start: usize,
    depth: usize,
    deepest: usize,
    opened: bool,
}

impl Framer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or `None` until more bytes have come. `ns` is the default namespace of the stream.
    pub fn next(&mut self, ns: &str) -> Option<Frame> {
        loop {
            let rest = self.buffer.get(self.at..)?;
            let open = rest.iter().position(|b| *b == b'<')?;
            let markup = rest.get(open..)?;
            let length = markup_length(markup)?;
            let kind = Kind::of(markup.get(..length)?);
            let begins = self.at + open;
            let ends = begins + length;
            self.at = ends;
            match kind {
                Kind::Other => {}
                Kind::Open | Kind::Empty if !self.opened => {
                    self.opened = true;
                    let header = attributes(&String::from_utf8_lossy(self.buffer.get(begins..ends)?));
                    self.drop_until(ends);
                    return Some(Frame::Header(header));
                }
                Kind::Open | Kind::Empty => {
                    if self.depth == 0 {
                        self.start = begins;
                        self.deepest = 0;
                    }
                    self.depth += 1;
                    self.deepest = self.deepest.max(self.depth);
                    if matches!(kind, Kind::Empty) {
                        self.depth -= 1;
                    }
                    if self.depth == 0 {
                        return Some(self.cut(ends, ns));
                    }
                }
                Kind::Close if self.depth == 0 => {
                    self.drop_until(ends);
                    return Some(Frame::End);
                }
                Kind::Close => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(self.cut(ends, ns));
                    }
                }
            }
        }
    }

    fn cut(&mut self, ends: usize, ns: &str) -> Frame {
        let bytes = self.buffer.get(self.start..ends).unwrap_or_default();
        let prefixes = BTreeMap::from([
            (None, ns.to_owned()),
            (Some("stream".to_owned()), "http://etherx.jabber.org/streams".to_owned()),
        ]);
        let tree = (self.deepest <= DEPTH).then(|| Element::from_reader_with_prefixes(bytes, prefixes));
        let frame = match tree {
            Some(Ok(element)) => Frame::Stanza(element),
            _ => Frame::Unreadable(String::from_utf8_lossy(bytes).chars().take(4_000).collect()),
        };
        self.drop_until(ends);
        frame
    }

    fn drop_until(&mut self, ends: usize) {
        self.buffer.drain(..ends);
        self.at = 0;
        self.start = 0;
    }
}

enum Kind {
    Open,
    Empty,
    Close,
    /// A declaration, a comment, character data.
    Other,
}

impl Kind {
    fn of(markup: &[u8]) -> Kind {
        match markup {
            [b'<', b'/', ..] => Kind::Close,
            [b'<', b'?' | b'!', ..] => Kind::Other,
            [.., b'/', b'>'] => Kind::Empty,
            _ => Kind::Open,
        }
    }
}

/// The length of the markup at the beginning of `bytes`, or `None` if its end has not come yet.
fn markup_length(bytes: &[u8]) -> Option<usize> {
    let until = |end: &[u8]| bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len());
    if bytes.len() < 9 && b"<![CDATA[".starts_with(bytes) {
        return None;
    }
    if bytes.starts_with(b"<![CDATA[") {
        return until(b"]]>");
    }
    if bytes.starts_with(b"<!--") {
        return until(b"-->");
    }
    let mut quote = None;
    for (at, byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

/// The attributes of a tag, without resolving references: enough for a stream header.
fn attributes(tag: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = tag.split_once(char::is_whitespace).map(|(_, rest)| rest).unwrap_or_default();
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let Some(quote) = after.chars().next().filter(|c| matches!(c, '\'' | '"')) else { break };
        let Some((value, more)) = after[1..].split_once(quote) else { break };
        found.push((name.trim().to_owned(), value.to_owned()));
        rest = more;
    }
    found
}
