//! Foreign markup made safe: HTML or XHTML in, a small well-formed XHTML out, with a plain text twin (XEP-0277 "Publishing a Post
//! with Rich Content"; XEP-0071's subset and a little more).
//!
//! Everything ends in one [`Sink`] with one table of what may stay. HTML, whose reading is an art, is first read and cleaned by
//! ammonia; XHTML inside canonical XML can be read in only one way and goes straight there. No element whose content HTML reads
//! as raw text, and no foreign content (SVG, MathML), is in the table, so the output means the same to every parser.

mod plain;

use std::sync::LazyLock;

use plain::{Plain, push_linked, tidy};

use super::cursor::{Cursor, Ns, Token};
use super::xml;
use crate::domain::entry::Content;

/// Bytes of HTML or text that are read; what is longer is cut at the end of a character. HTML's tokenizer looks for an attribute among
/// all earlier ones of the same tag: this bounds that, too (43,000 attributes, tenths of a second).
pub const MAX_BYTES: usize = 128 * 1024;
/// Tags of one HTML text that its parser is asked to balance: its work can grow with the square of this.
const MAX_TAGS: usize = 8 * 1024;
/// Elements inside one another that are kept; deeper ones lose their tags, not their text.
const MAX_DEPTH: usize = 32;

/// What may stay, and its attributes beside `lang`, `dir` and `title`. Sorted.
const ELEMENTS: &[(&str, &[&str])] = &[
    ("a", &["class", "href", "rel"]),
    ("abbr", &[]),
    ("b", &[]),
    ("bdi", &[]),
    ("bdo", &[]),
    ("blockquote", &["cite"]),
    ("br", &[]),
    ("caption", &[]),
    ("cite", &[]),
    ("code", &[]),
    ("dd", &[]),
    ("del", &["datetime"]),
    ("dfn", &[]),
    ("div", &[]),
    ("dl", &[]),
    ("dt", &[]),
    ("em", &[]),
    ("figcaption", &[]),
    ("figure", &[]),
    ("h1", &[]),
    ("h2", &[]),
    ("h3", &[]),
    ("h4", &[]),
    ("h5", &[]),
    ("h6", &[]),
    ("hr", &[]),
    ("i", &[]),
    ("img", &["alt", "height", "src", "width"]),
    ("ins", &["datetime"]),
    ("kbd", &[]),
    ("li", &["value"]),
    ("mark", &[]),
    ("ol", &["start"]),
    ("p", &[]),
    ("pre", &[]),
    ("q", &["cite"]),
    ("rp", &[]),
    ("rt", &[]),
    ("ruby", &[]),
    ("s", &[]),
    ("samp", &[]),
    ("small", &[]),
    ("span", &["class"]),
    ("strong", &[]),
    ("sub", &[]),
    ("sup", &[]),
    ("table", &[]),
    ("tbody", &[]),
    ("td", &["colspan", "rowspan"]),
    ("tfoot", &[]),
    ("th", &["colspan", "rowspan"]),
    ("thead", &[]),
    ("time", &["datetime"]),
    ("tr", &[]),
    ("u", &[]),
    ("ul", &[]),
    ("var", &[]),
    ("wbr", &[]),
];
const EVERYWHERE: &[&str] = &["lang", "dir", "title"];
/// Classes that other social software gives a meaning (microformats and Mastodon's link dress).
const CLASSES: &[&str] =
    &["ellipsis", "group", "h-card", "hashtag", "invisible", "mention", "p-category", "tag", "u-url"];
/// Gone with all that is inside.
const DROPPED: &[&str] = &[
    "applet",
    "audio",
    "button",
    "canvas",
    "embed",
    "frame",
    "frameset",
    "head",
    "iframe",
    "input",
    "math",
    "noembed",
    "noframes",
    "noscript",
    "object",
    "option",
    "param",
    "plaintext",
    "script",
    "select",
    "source",
    "style",
    "svg",
    "template",
    "textarea",
    "title",
    "track",
    "video",
    "xmp",
];
const VOID: &[&str] = &["br", "hr", "img", "wbr"];
const BLOCKS: &[&str] = &[
    "blockquote",
    "caption",
    "dd",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "table",
    "tr",
    "ul",
];
/// Schemes a link may have. Nothing here runs anything or carries its content with it.
const SCHEMES: &[&str] = &[
    "acct", "ftp", "gemini", "geo", "gopher", "http", "https", "irc", "ircs", "magnet", "mailto", "sip", "sips", "sms",
    "tag", "tel", "urn", "xmpp",
];

/// HTML of any kind, as a fragment, cleaned.
pub fn from_html(html: &str) -> Content {
    let html = bounded(html);
    let mut sink = Sink::default();
    if html.bytes().filter(|b| *b == b'<').count() > MAX_TAGS || attribute_heavy(html) {
        // Not worth its parser's time: what is between the tags, as text.
        for (n, piece) in html.split('<').enumerate() {
            sink.text(if n == 0 { piece } else { piece.split_once('>').map_or("", |(_, text)| text) });
        }
        return sink.finish();
    }
    static CLEANER: LazyLock<ammonia::Builder<'static>> = LazyLock::new(cleaner);
    feed(&mut sink, &CLEANER.clean(html).to_string());
    sink.finish()
}

/// Plain text of an HTML fragment.
pub fn html_to_text(html: &str) -> String {
    if html.contains(['<', '&']) { from_html(html).text } else { tidy(html) }
}

/// Plain text: paragraphs at empty lines, line breaks kept, http and https addresses become links. The twin is the text itself.
pub fn from_text(text: &str) -> Content {
    let text = bounded(text).replace("\r\n", "\n").replace('\r', "\n");
    let text: String = text.chars().filter(|c| xml::is_char(*c)).collect();
    let mut xhtml = String::with_capacity(text.len() + text.len() / 4 + 16);
    for paragraph in text.split("\n\n").map(|p| p.trim_matches('\n')).filter(|p| !p.trim().is_empty()) {
        xhtml.push_str("<p>");
        for (n, line) in paragraph.split('\n').enumerate() {
            if n > 0 {
                xhtml.push_str("<br/>");
            }
            push_linked(&mut xhtml, line);
        }
        xhtml.push_str("</p>");
    }
    Content { text: text.trim().to_owned(), xhtml }
}

/// The content of an XHTML element, up to its end: `cursor` stands behind its [`Token::Open`]. One `div` around it all, as
/// RFC 4287 §3.1.1.3 wants it, is taken off.
pub(crate) fn from_xhtml(cursor: &mut Cursor<'_>) -> Content {
    let mut sink = Sink::default();
    let mut depth = 0usize;
    let mut wrapped = false;
    let mut bytes = 0usize;
    loop {
        match cursor.next() {
            Some(Token::Open(open)) => {
                depth += 1;
                if depth == 1 && !wrapped && open.is(Ns::Xhtml, "div") {
                    wrapped = true;
                    continue;
                }
                let local = open.local();
                if !matches!(open.ns, Ns::Xhtml | Ns::None | Ns::Atom) {
                    // Foreign content means nothing without its own language.
                    cursor.skip();
                    depth -= 1;
                    continue;
                }
                let attrs: Vec<(&str, String)> = open.attrs().collect();
                sink.open(local, &attrs);
            }
            Some(Token::Text(text)) => {
                bytes += text.len();
                if bytes <= MAX_BYTES {
                    sink.text(&text);
                }
            }
            Some(Token::Close) if depth == 0 => break,
            Some(Token::Close) => {
                depth -= 1;
                if !(depth == 0 && wrapped) {
                    sink.close();
                }
            }
            None => break,
        }
    }
    sink.finish()
}

/// Whether a link may lead there: an absolute address with a scheme of the list.
pub fn is_safe_link(href: &str) -> bool {
    has_scheme(href, SCHEMES)
}

/// Collapses white space to single spaces and cuts it at both ends: text constructs that are one line.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

fn has_scheme(href: &str, schemes: &[&str]) -> bool {
    let Some((scheme, rest)) = href.split_once(':') else { return false };
    // No trimming: what a browser would forgive (a tab inside the scheme) is not on the list as written.
    !rest.is_empty() && schemes.iter().any(|s| s.eq_ignore_ascii_case(scheme)) && !href.contains(char::is_control)
}

fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Whether some stretch without `<` or `>` may hold so many attributes that looking for doubles among them takes long.
fn attribute_heavy(html: &str) -> bool {
    let separators = |stretch: &str| {
        stretch.bytes().filter(|b| matches!(b, b' ' | b'\t' | b'\n' | 0x0c | b'\r' | b'/' | b'"' | b'\'')).count()
    };
    html.split('<').skip(1).any(|tag| {
        let tag = tag.split_once('>').map_or(tag, |(tag, _)| tag);
        tag.len() > 4096 && separators(tag) > 512
    })
}

fn cleaner() -> ammonia::Builder<'static> {
    let mut cleaner = ammonia::Builder::empty();
    cleaner
        .tags(ELEMENTS.iter().map(|(name, _)| *name).collect())
        .tag_attributes(ELEMENTS.iter().map(|(name, attrs)| (*name, attrs.iter().copied().collect())).collect())
        .generic_attributes(EVERYWHERE.iter().copied().collect())
        .clean_content_tags(DROPPED.iter().copied().collect())
        .url_schemes(SCHEMES.iter().copied().collect())
        .url_relative(ammonia::UrlRelative::Deny)
        .link_rel(None)
        .strip_comments(true);
    cleaner
}

/// Feeds the sink with what ammonia wrote: quoted attributes, balanced tags, and no entity but the few of its serialiser.
fn feed(sink: &mut Sink, html: &str) {
    let mut rest = html;
    while let Some((text, tag)) = rest.split_once('<') {
        sink.text(&unescape(text));
        let end = end_of_tag(tag);
        let (tag, after) = (tag.get(..end).unwrap_or(tag), tag.get(end + 1..).unwrap_or_default());
        rest = after;
        if tag.starts_with('/') {
            sink.close();
            continue;
        }
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attrs = Vec::new();
        while let Some((name, value)) = attributes.split_once("=\"") {
            let (value, after) = value.split_once('"').unwrap_or((value, ""));
            attrs.push((name.trim(), unescape(value)));
            attributes = after;
        }
        sink.open(name, &attrs);
        if VOID.contains(&name) {
            sink.close();
        }
    }
    sink.text(&unescape(rest));
}

/// Where the `>` stands that ends this tag: not one inside quotes.
fn end_of_tag(tag: &str) -> usize {
    let mut quoted = false;
    for (at, b) in tag.bytes().enumerate() {
        match b {
            b'"' => quoted = !quoted,
            b'>' if !quoted => return at,
            _ => {}
        }
    }
    tag.len()
}

fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    text.replace("&nbsp;", "\u{a0}")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

/// Takes tags and text in order and writes what may stay, balanced, in two forms.
#[derive(Default)]
struct Sink {
    xhtml: String,
    text: Plain,
    /// What each open element of the input became.
    open: Vec<Kept>,
    /// How many of them were written.
    depth: usize,
    /// How many of them are inside something dropped with its content.
    dropped: usize,
}

enum Kept {
    /// Written, with this end tag to come; a link with its address and where its text began.
    Written(&'static str, Option<(String, usize)>),
    /// Written as an empty element.
    Void,
    /// Only what is inside stays.
    Unwrapped,
    Dropped,
}

impl Sink {
    fn open(&mut self, name: &str, attrs: &[(&str, String)]) {
        let kept = self.keep(name, attrs);
        self.open.push(kept);
    }

    fn keep(&mut self, name: &str, attrs: &[(&str, String)]) -> Kept {
        if self.dropped > 0 || DROPPED.contains(&name) {
            self.dropped += 1;
            return Kept::Dropped;
        }
        let name = match name {
            "strike" => "s",
            "tt" => "code",
            "acronym" => "abbr",
            name => name,
        };
        let Ok(row) = ELEMENTS.binary_search_by(|(n, _)| (*n).cmp(name)) else { return Kept::Unwrapped };
        let Some((name, allowed)) = ELEMENTS.get(row).copied() else { return Kept::Unwrapped };
        if self.depth >= MAX_DEPTH {
            return Kept::Unwrapped;
        }
        let attrs: Vec<(&str, String)> = attrs
            .iter()
            .filter(|(n, _)| allowed.contains(n) || EVERYWHERE.contains(n))
            .filter_map(|(n, value)| Some((*n, attribute(n, value)?)))
            .collect();
        let find = |wanted: &str| attrs.iter().find(|(n, _)| *n == wanted).map(|(_, v)| v.as_str());
        if name == "img" {
            if let Some(alt) = find("alt") {
                self.text.push(alt, false);
            }
            if find("src").is_none() {
                return Kept::Unwrapped;
            }
        }
        self.text.boundary(name);
        self.xhtml.push('<');
        self.xhtml.push_str(name);
        for (n, value) in &attrs {
            xml::push_attribute(&mut self.xhtml, n, value);
        }
        if VOID.contains(&name) {
            self.xhtml.push_str("/>");
            return Kept::Void;
        }
        self.xhtml.push('>');
        self.depth += 1;
        if name == "pre" {
            self.text.pre += 1;
        }
        // A mention or a tag says itself what it is; another link's address must not be lost to who reads the text.
        let silent = find("class").is_some() || find("rel").is_some();
        let target = (name == "a" && !silent).then(|| find("href")).flatten();
        Kept::Written(name, target.map(|href| (href.to_owned(), self.text.out.len())))
    }

    fn close(&mut self) {
        match self.open.pop() {
            Some(Kept::Written(name, link)) => {
                if let Some((href, from)) = link {
                    self.text.link(&href, from);
                }
                self.xhtml.push_str("</");
                self.xhtml.push_str(name);
                self.xhtml.push('>');
                self.depth -= 1;
                if name == "pre" {
                    self.text.pre -= 1;
                }
                self.text.boundary(name);
            }
            Some(Kept::Dropped) => self.dropped -= 1,
            Some(Kept::Void | Kept::Unwrapped) | None => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.dropped == 0 && !text.is_empty() {
            xml::push_text(&mut self.xhtml, text);
            self.text.push(text, self.text.pre > 0);
        }
    }

    fn finish(mut self) -> Content {
        while !self.open.is_empty() {
            self.close();
        }
        Content { text: tidy(&self.text.out), xhtml: self.xhtml.trim().to_owned() }
    }
}

/// The value an attribute may keep, if any.
fn attribute(name: &str, value: &str) -> Option<String> {
    let value = value.trim();
    match name {
        "href" | "cite" => is_safe_link(value).then(|| value.to_owned()),
        "src" => has_scheme(value, &["http", "https"]).then(|| value.to_owned()),
        "class" => {
            let kept: Vec<&str> = value.split_ascii_whitespace().filter(|c| CLASSES.contains(c)).collect();
            (!kept.is_empty()).then(|| kept.join(" "))
        }
        "rel" => value.split_ascii_whitespace().any(|r| r == "tag").then(|| "tag".to_owned()),
        "dir" => ["ltr", "rtl", "auto"].contains(&value).then(|| value.to_owned()),
        "height" | "width" | "start" | "value" | "colspan" | "rowspan" => {
            (value.len() <= 5 && !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()))
                .then(|| value.to_owned())
        }
        _ => (value.len() <= 1024).then(|| value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::plain::address_len;
    use super::*;
    use crate::format::canonical::{Canonical, Limits};
    use proptest::prelude::*;

    /// The classics: script by element, attribute and address, other languages inside, and mutation (mXSS) by parsers that differ.
    const ATTACKS: &[&str] = &[
        "<script>alert(1)</script>",
        "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
        "<scr<script>ipt>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<img src='javascript:alert(1)'>",
        "<img src=\"data:text/html,<script>alert(1)</script>\">",
        "<a href='javascript:alert(1)'>x</a>",
        "<a href='JaVaScRiPt:alert(1)'>x</a>",
        "<a href=' java\tscript:alert(1)'>x</a>",
        "<a href='&#106;avascript&colon;alert(1)'>x</a>",
        "<a href='\u{1}javascript:alert(1)'>x</a>",
        "<a href='vbscript:x'>x</a>",
        "<a href='data:text/html;base64,PHNjcmlwdD4='>x</a>",
        "<a href='http://x\" onmouseover=alert(1) \"'>x</a>",
        "<svg onload=alert(1)>",
        "<svg><script>alert(1)</script></svg>",
        "<svg><style><img src=x onerror=alert(1)></style></svg>",
        "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=alert(1)&gt;\">",
        "<math><mi><mglyph></p><style><a title=\"</style><img src onerror=alert(1)>\">",
        "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
        "<style>@import 'http://evil.example'</style>",
        "<p style='background:url(javascript:alert(1))' onclick=alert(1)>x</p>",
        "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
        "<object data='data:text/html,x'></object><embed src=x>",
        "<form action=javascript:alert(1)><input type=submit formaction=javascript:alert(1)></form>",
        "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
        "<base href='javascript:/a/'><a href='b'>x</a>",
        "<link rel=stylesheet href=javascript:alert(1)>",
        "<textarea><img title=\"</textarea><img src=x onerror=alert(1)>\"></textarea>",
        "<title><img src=x onerror=alert(1)></title>",
        "<xmp><img src=x onerror=alert(1)></xmp>",
        "<plaintext><img src=x onerror=alert(1)>",
        "<!--[if gte IE 4]><script>alert(1)</script><![endif]-->",
        "<!-- --!><img src=x onerror=alert(1)> -->",
        "<![CDATA[<img src=x onerror=alert(1)>]]>",
        "<?php echo 1 ?><?xml-stylesheet href='javascript:alert(1)'?>",
        "<template><script>alert(1)</script></template>",
        "<div class='mention evil' id=x data-x=y>x</div>",
        "<a href=\"xmpp:a@b?;node=x\" target=_blank ping=//evil.example>x</a>",
        "<table><td><svg><desc><table><thead><script>alert(1)</script>",
        "<video><source onerror=alert(1)></video><audio src=x onerror=alert(1)>",
        "<details open ontoggle=alert(1)>x</details><marquee onstart=alert(1)>x</marquee>",
        "\u{0}<\u{0}script>alert(1)</script>",
        "<a\u{c}href='javascript:alert(1)'>x</a><a/href='javascript:alert(1)'>x",
    ];

    /// Holds the rules of the output: well-formed, only what the table has, no address that runs something.
    fn assert_clean(xhtml: &str) {
        let document = format!("<div xmlns='http://www.w3.org/1999/xhtml'>{xhtml}</div>");
        let document = Canonical::new(document.as_bytes(), &[], &Limits::DOCUMENT);
        let document = document.unwrap_or_else(|e| panic!("{e}: {xhtml}"));
        let mut cursor = Cursor::new(document.as_str());
        cursor.next();
        while let Some(token) = cursor.next() {
            let Token::Open(open) = token else { continue };
            let (_, allowed) =
                ELEMENTS.iter().find(|(name, _)| *name == open.local()).unwrap_or_else(|| panic!("{xhtml}"));
            for (name, value) in open.attrs() {
                assert!(allowed.contains(&name) || EVERYWHERE.contains(&name), "{name} in {xhtml}");
                assert!(!matches!(name, "href" | "src" | "cite") || is_safe_link(&value), "{value} in {xhtml}");
            }
        }
    }

    fn xhtml(inner: &str) -> Option<Content> {
        let document = format!("<content xmlns='http://www.w3.org/2005/Atom'>{inner}</content>");
        let document = Canonical::new(document.as_bytes(), &[], &Limits::ENTRY).ok()?;
        let mut cursor = Cursor::new(document.as_str());
        cursor.next();
        Some(from_xhtml(&mut cursor))
    }

    #[test]
    fn the_table_is_sorted_and_apart_from_what_is_dropped() {
        assert!(ELEMENTS.is_sorted_by_key(|(name, _)| name));
        assert!(ELEMENTS.iter().all(|(name, _)| !DROPPED.contains(name)));
    }

    #[test]
    fn nothing_that_runs_comes_through_as_html_or_as_xhtml() {
        for attack in ATTACKS {
            for content in [Some(from_html(attack)), xhtml(attack), Some(from_text(attack))].into_iter().flatten() {
                assert_clean(&content.xhtml);
                // Read once more by an HTML parser, as a browser will: it finds nothing to take away.
                let again = from_html(&content.xhtml);
                assert_eq!(again.xhtml, from_html(&again.xhtml).xhtml);
                assert_clean(&again.xhtml);
                for word in ["onerror=\"", "onload=\"", "<script", "<svg", "<img src=\"x"] {
                    assert!(!content.xhtml.contains(word), "{attack}\n{}", content.xhtml);
                }
            }
        }
        assert_eq!(from_html("<script>a</script>b<style>c</style>").xhtml, "b");
    }

    #[test]
    fn markup_becomes_xhtml_and_text() {
        let cases = [
            ("a<br>b &amp; c&nbsp;d", "a<br/>b &amp; c\u{a0}d", "a\nb & c\u{a0}d"),
            ("<p>one<p>two", "<p>one</p><p>two</p>", "one\n\ntwo"),
            ("<ul><li>x<li>y</ul>z", "<ul><li>x</li><li>y</li></ul>z", "x\ny\n\nz"),
            ("<b><i>x</b></i>", "<b><i>x</i></b>", "x"),
            ("<font color=red>x</font>", "x", "x"),
            (
                "<a href='https://x.example/a?b&amp;c'>here</a>",
                "<a href=\"https://x.example/a?b&amp;c\">here</a>",
                "here <https://x.example/a?b&c>",
            ),
            ("<a href='https://x.example/'>x.example</a>", "<a href=\"https://x.example/\">x.example</a>", "x.example"),
            (
                "#<span class=\"tag x\"><a href=\"http://g.example/t/a\" rel=\"tag\">a</a></span>",
                "#<span class=\"tag\"><a href=\"http://g.example/t/a\" rel=\"tag\">a</a></span>",
                "#a",
            ),
            (
                "<img src='https://x.example/i.png' alt='a cat'>",
                "<img src=\"https://x.example/i.png\" alt=\"a cat\"/>",
                "a cat",
            ),
            ("<img src='i.png' alt='a cat'>", "", "a cat"),
            ("<pre>a\n  b</pre>", "<pre>a\n  b</pre>", "a\n  b"),
            ("1 < 2 & 3 > 2", "1 &lt; 2 &amp; 3 &gt; 2", "1 < 2 & 3 > 2"),
        ];
        for (html, xhtml, text) in cases {
            let made = from_html(html);
            assert_eq!((made.xhtml.as_str(), made.text.as_str()), (xhtml, text), "{html}");
        }
    }

    #[test]
    fn xhtml_loses_its_wrapper_its_prefix_and_what_is_foreign() {
        let made = xhtml(
            "<h:div xmlns:h='http://www.w3.org/1999/xhtml' h:x=''><h:p>a<h:br/><x xmlns='urn:x'>b</x>c</h:p><h:tt>d</h:tt></h:div>",
        );
        assert_eq!(made.unwrap().xhtml, "<p>a<br/>c</p><code>d</code>");
        // COMPAT: early ActivityStreams examples put bare text under type='xhtml', and some clients forget the namespace.
        assert_eq!(xhtml("just text").unwrap().text, "just text");
        assert_eq!(xhtml("<p>x</p>").unwrap().xhtml, "<p>x</p>");
    }

    #[test]
    fn plain_text_gets_paragraphs_and_links() {
        let made = from_text(
            "see (https://x.example/a_(b)), or\nhttp://y.example/?q=1&r=2.\n\n<b> nohttp://z http:// https://ü.example…",
        );
        assert_eq!(
            made.xhtml,
            "<p>see (<a href=\"https://x.example/a_(b)\">https://x.example/a_(b)</a>), or<br/>\
             <a href=\"http://y.example/?q=1&amp;r=2\">http://y.example/?q=1&amp;r=2</a>.</p>\
             <p>&lt;b&gt; nohttp://z http:// <a href=\"https://ü.example\">https://ü.example</a>…</p>"
        );
        assert_eq!(from_text("a\r\nb\u{0}").text, "a\nb");
    }

    #[test]
    fn work_stays_in_bounds_whatever_is_nested_or_repeated() {
        // A parser whose work grew with the square of these would not end before the test runner gives up.
        for hostile in [
            "<div>".repeat(60_000),
            "<b>".repeat(8_000),
            "<b><p>".repeat(4_000),
            "<a><b><i>".repeat(2_600),
            "<table><td>".repeat(4_000),
            format!("<a {}>x", (0..40_000).map(|n| format!("a{n}=1 ")).collect::<String>()),
            format!("<a {}>x", (0..9_000).map(|n| format!("a{n}=\">\"")).collect::<String>()),
            format!("<a title='{}'>x</a>", "y".repeat(1_000_000)),
            "&amp".repeat(10_000),
            "</p>".repeat(60_000),
        ] {
            let made = from_html(&hostile);
            assert!(made.xhtml.len() <= 3 * MAX_BYTES);
            assert_clean(&made.xhtml);
        }
        // By themselves, and longer than any text that is let in: hours, if each cut or each edge counted all before it.
        assert_eq!(address_len(&format!("http://a{}", ")].".repeat(1_000_000))), "http://a".len());
        let mut plain = Plain { out: "\n".repeat(1_000_000), pre: 0 };
        (0..1_000_000).for_each(|_| plain.boundary("p"));
        assert_eq!(plain.out.len(), 1_000_000);
    }

    fn markup() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "</?(p|b|a|div|table|td|tr|li|ul|svg|math|style|script|img|br|pre|span|title|textarea|select|h1|q)( (href|src|class|title|onclick|rel)=\"[a-z:<>&/ ]{0,8}\")?/?>",
            "[ -~é\n]{0,8}",
            "&(amp|lt|nbsp|#60|#x3c|quot)?;?",
            "<!--|-->|<!\\[CDATA\\[|\\]\\]>|<\\?",
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_markup_becomes_clean_and_stays_as_it_is(html in markup()) {
            let once = from_html(&html);
            assert_clean(&once.xhtml);
            // Through the other door nothing changes any more: that is the form in which it is stored.
            let again = xhtml(&format!("<div xmlns='http://www.w3.org/1999/xhtml'>{}</div>", once.xhtml)).unwrap();
            prop_assert_eq!(&again.xhtml, &once.xhtml);
            prop_assert_eq!(&again.text, &once.text);
        }

        #[test]
        fn any_text_becomes_clean_and_keeps_its_words(text in "\\PC{0,40}(https?://[!-~]{0,20})?[ -~\n]{0,20}") {
            let made = from_text(&text);
            assert_clean(&made.xhtml);
            let squeeze = |t: &str| t.split_whitespace().collect::<String>();
            let read = xhtml(&format!("<div xmlns='http://www.w3.org/1999/xhtml'>{}</div>", made.xhtml)).unwrap();
            prop_assert_eq!(&read.xhtml, &made.xhtml.trim());
            prop_assert_eq!(squeeze(&read.text), squeeze(&made.text));
        }
    }
}
