//! Walking through canonical XML without a tree: opened, text, closed. Only the text of a [`Canonical`](super::canonical::Canonical)
//! goes in, or a piece of one, so nothing else can come; if it did, the walk would end there.
//!
//! Our own, since every post is walked through before it is stored and whenever it is shown, and a reader of any XML finds
//! out anew what is known here: one way to quote, no comments, no instructions, no CDATA, all names and references good.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::canonical::bound;
use super::{ns, xml};

pub(crate) struct Cursor<'a> {
    text: &'a str,
    /// The bytes from here on were not read yet.
    at: usize,
    /// Bindings in force, innermost last, and how many there were outside each element that is open.
    bindings: Vec<(&'a str, Ns<'a>)>,
    frames: Vec<usize>,
    /// The last tag was an empty element's: its end comes next.
    empty: bool,
    /// Something came that is not canonical.
    is_broken: bool,
}

pub(crate) enum Token<'a> {
    Open(Open<'a>),
    /// A piece of text; a reference is a piece of its own.
    Text(Cow<'a, str>),
    Close,
}

pub(crate) struct Open<'a> {
    pub(crate) ns: Ns<'a>,
    name: &'a str,
    /// What stands in the tag behind the name.
    attributes: &'a str,
    began: usize,
}

/// A namespace. Those we know are told from others once, where they are declared, and compared without looking at letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ns<'a> {
    None,
    Atom,
    Xhtml,
    Activity,
    Thread,
    Poco,
    Ostatus,
    Media,
    Geoloc,
    Georss,
    Xrd,
    Xsi,
    Dc,
    Xml,
    /// As it is written: there is but one way to escape a name.
    Other(&'a str),
}

impl<'a> Ns<'a> {
    fn new(written: &'a str) -> Self {
        match value(written).as_ref() {
            "" => Ns::None,
            ns::ATOM => Ns::Atom,
            ns::XHTML => Ns::Xhtml,
            ns::ACTIVITY => Ns::Activity,
            ns::THREAD => Ns::Thread,
            ns::POCO => Ns::Poco,
            ns::OSTATUS => Ns::Ostatus,
            ns::MEDIA => Ns::Media,
            ns::GEOLOC => Ns::Geoloc,
            ns::GEORSS => Ns::Georss,
            ns::XRD => Ns::Xrd,
            ns::XSI => Ns::Xsi,
            ns::DC => Ns::Dc,
            ns::XML => Ns::Xml,
            _ => Ns::Other(written),
        }
    }

    pub(crate) fn name(self) -> Cow<'a, str> {
        Cow::Borrowed(match self {
            Ns::None => "",
            Ns::Atom => ns::ATOM,
            Ns::Xhtml => ns::XHTML,
            Ns::Activity => ns::ACTIVITY,
            Ns::Thread => ns::THREAD,
            Ns::Poco => ns::POCO,
            Ns::Ostatus => ns::OSTATUS,
            Ns::Media => ns::MEDIA,
            Ns::Geoloc => ns::GEOLOC,
            Ns::Georss => ns::GEORSS,
            Ns::Xrd => ns::XRD,
            Ns::Xsi => ns::XSI,
            Ns::Dc => ns::DC,
            Ns::Xml => ns::XML,
            Ns::Other(other) => return value(other),
        })
    }
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Cursor { text, at: 0, bindings: Vec::new(), frames: Vec::new(), empty: false, is_broken: false }
    }

    /// The next token; `None` at the end, and from then on.
    pub(crate) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.token();
        if token.is_none() && !self.is_at_end() {
            // Not canonical: what follows is not to be taken for anything.
            (self.text, self.at, self.empty) = ("", 0, false);
            self.frames.clear();
            self.is_broken = true;
        }
        token
    }

    /// Whether all of it was walked through.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.text.len() && self.frames.is_empty() && !self.is_broken
    }

    fn token(&mut self) -> Option<Token<'a>> {
        if std::mem::take(&mut self.empty) {
            return self.close();
        }
        let rest = self.text.get(self.at..)?;
        match rest.as_bytes() {
            [] => None,
            [b'<', b'/', ..] => {
                self.at += memchr(b'>', rest.as_bytes())? + 1;
                self.close()
            }
            [b'<', ..] => self.open(rest),
            [b'&', ..] => {
                let name = rest.get(1..memchr(b';', rest.as_bytes())?)?;
                self.at += name.len() + 2;
                Some(Token::Text(Cow::Owned(xml::reference(name)?.to_string())))
            }
            bytes => {
                let text = rest.get(..memchr2(b'<', b'&', bytes).unwrap_or(bytes.len()))?;
                self.at += text.len();
                Some(Token::Text(Cow::Borrowed(text)))
            }
        }
    }

    fn open(&mut self, rest: &'a str) -> Option<Token<'a>> {
        let name = rest.get(1..1 + rest.bytes().skip(1).position(|b| matches!(b, b' ' | b'>' | b'/'))?)?;
        self.frames.push(self.bindings.len());
        let behind = rest.get(1 + name.len()..)?;
        let mut attributes = Attributes { rest: behind };
        // A `>` may stand in a value: the tag ends where no attribute follows.
        for (name, value) in &mut attributes {
            let prefix = if name == "xmlns" { Some("") } else { name.strip_prefix("xmlns:") };
            self.bindings.extend(prefix.map(|prefix| (prefix, Ns::new(value))));
        }
        let end = attributes.rest;
        let attributes = behind.get(..behind.len() - end.len())?;
        self.empty = end.starts_with("/>");
        if name.starts_with(['!', '?']) || !(self.empty || end.starts_with('>')) {
            return None;
        }
        let began = self.at;
        self.at += rest.len() - end.len() + if self.empty { 2 } else { 1 };
        let prefix = name.split_once(':').map_or("", |(prefix, _)| prefix);
        Some(Token::Open(Open { ns: self.resolve(prefix), name, attributes, began }))
    }

    fn close(&mut self) -> Option<Token<'a>> {
        self.bindings.truncate(self.frames.pop()?);
        Some(Token::Close)
    }

    /// What a prefix means here.
    pub(crate) fn resolve(&self, prefix: &str) -> Ns<'a> {
        let bound = bound(&self.bindings, prefix);
        // Namespaces in XML 1.0 §3: `xml` is bound without being declared.
        bound.map_or(if prefix == "xml" { Ns::Xml } else { Ns::None }, |ns| *ns)
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
        self.text.get(open.began..self.at).unwrap_or_default()
    }

    /// The namespace bindings in force, outermost first.
    pub(crate) fn scope(&self) -> Vec<(&'a str, String)> {
        self.bindings.iter().map(|(prefix, ns)| (*prefix, ns.name().into_owned())).collect()
    }

    /// The attribute of this namespace on the element just opened.
    pub(crate) fn attr_in(&self, open: &Open<'a>, ns: Ns<'_>, local: &str) -> Option<String> {
        open.raw_attrs().find_map(|(name, raw)| {
            let (prefix, found) = name.split_once(':')?;
            (found == local && self.resolve(prefix) == ns).then(|| value(raw).into_owned())
        })
    }
}

impl<'a> Open<'a> {
    pub(crate) fn local(&self) -> &'a str {
        self.name.split_once(':').map_or(self.name, |(_, local)| local)
    }

    pub(crate) fn is(&self, ns: Ns<'_>, local: &str) -> bool {
        self.ns == ns && self.local() == local
    }

    /// The attribute without a prefix, its value as text.
    pub(crate) fn attr(&self, name: &str) -> Option<String> {
        self.raw_attrs().find(|(found, _)| *found == name).map(|(_, raw)| value(raw).into_owned())
    }

    /// All attributes without a prefix, and `xml:lang` as `lang`.
    pub(crate) fn attrs(&self) -> impl Iterator<Item = (&'a str, String)> {
        self.raw_attrs().filter_map(|(name, raw)| {
            let name = match name {
                "xml:lang" => "lang",
                name if name == "xmlns" || name.contains(':') => return None,
                name => name,
            };
            Some((name, value(raw).into_owned()))
        })
    }

    /// Name, prefix included, and value as they stand in the canonical text: escaped, to be copied between double quotes.
    pub(crate) fn raw_attrs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        Attributes { rest: self.attributes }
    }
}

/// ` name="value"`, any number of them; what else comes then is left in `rest`.
struct Attributes<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let attribute = self.rest.strip_prefix(' ')?;
        let (name, rest) = attribute.split_at_checked(memchr(b'=', attribute.as_bytes())?)?;
        let rest = rest.strip_prefix("=\"")?;
        let value = rest.get(..memchr(b'"', rest.as_bytes())?)?;
        self.rest = rest.get(value.len() + 1..)?;
        Some((name, value))
    }
}

/// What an escaped value means.
fn value(raw: &str) -> Cow<'_, str> {
    quick_xml::escape::unescape(raw).unwrap_or(Cow::Borrowed(raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(text: &str) -> Vec<String> {
        let mut cursor = Cursor::new(text);
        let mut seen = Vec::new();
        while let Some(token) = cursor.next() {
            seen.push(match token {
                Token::Open(open) => format!("<{} {}", open.ns.name(), open.local()),
                Token::Text(text) => text.into_owned(),
                Token::Close => ">".to_owned(),
            });
        }
        seen
    }

    #[test]
    fn an_element_ends_where_its_tag_does_whatever_stands_in_a_value() {
        let text = "<a xmlns=\"u\" b=\"/>\"><p:c xmlns:p=\"v&amp;w\" k=\"<\" p:k=\"é\"/>t&amp;&#13;</a>";
        assert_eq!(walk(text), ["<u a", "<v&w c", ">", "t", "&", "\r", ">"]);
        let mut cursor = Cursor::new(text);
        cursor.next();
        let Some(Token::Open(open)) = cursor.next() else { panic!("an element is opened") };
        assert_eq!(open.attr("k").as_deref(), Some("<"));
        assert_eq!(cursor.attr_in(&open, Ns::Other("v&amp;w"), "k").as_deref(), Some("é"));
        assert_eq!(cursor.element(&open), "<p:c xmlns:p=\"v&amp;w\" k=\"<\" p:k=\"é\"/>");
        assert_eq!(cursor.scope(), [("", "u".to_owned())]);
    }

    #[test]
    fn at_what_is_not_canonical_the_walk_ends() {
        for text in
            ["<a b='c'/>", "<!-- a -->", "<?a?>", "<![CDATA[x]]>", "<a b=\"c\"é>", "<a", "<", "&nbsp;", "&", "<!a/>"]
        {
            assert_eq!(walk(&format!("<r>t{text}</r>"))[..2], ["< r", "t"], "{text}");
            let text = format!("<r>t{text}x</r>");
            assert!(!walk(&text).contains(&"x".to_owned()), "{text}");
            let mut cursor = Cursor::new(&text);
            while cursor.next().is_some() {}
            assert!((0..9).all(|_| cursor.next().is_none()) && !cursor.is_at_end(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_stand_still(text in "([<>/=\"&;:!? éx]|xmlns|=\"|/>|&#1|</){0,40}") {
            prop_assert!(walk(&text).len() <= 2 * text.len());
        }
    }
}
