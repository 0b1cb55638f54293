//! Plain text: the twin that grows beside the markup, and text in which addresses become links.

use super::{BLOCKS, xml};

/// The plain twin while it grows.
#[derive(Default)]
pub(super) struct Plain {
    pub(super) out: String,
    /// `pre` elements that are open.
    pub(super) pre: usize,
}

impl Plain {
    pub(super) fn push(&mut self, text: &str, kept: bool) {
        if kept {
            self.out.push_str(text);
            return;
        }
        for c in text.chars() {
            match c {
                ' ' | '\t' | '\n' | '\r' => {
                    if !self.out.ends_with([' ', '\n']) && !self.out.is_empty() {
                        self.out.push(' ');
                    }
                }
                c => self.out.push(c),
            }
        }
    }

    /// The rim of an element: a block begins and ends a line, a paragraph leaves one free.
    pub(super) fn boundary(&mut self, name: &str) {
        let lines = match name {
            "br" => {
                self.trim_line();
                self.out.push('\n');
                return;
            }
            "td" | "th" => {
                self.push(" ", false);
                return;
            }
            "p" | "blockquote" | "pre" | "ul" | "ol" | "dl" | "table" | "figure" | "hr" => 2,
            name if name.starts_with('h') || BLOCKS.contains(&name) => 1,
            _ => return,
        };
        self.trim_line();
        if self.out.is_empty() {
            return;
        }
        let have = self.out.bytes().rev().take(lines).take_while(|b| *b == b'\n').count();
        for _ in have..lines {
            self.out.push('\n');
        }
    }

    fn trim_line(&mut self) {
        while self.out.ends_with(' ') {
            self.out.pop();
        }
    }

    pub(super) fn link(&mut self, href: &str, from: usize) {
        let bare = |text: &str| {
            let text = text.trim().trim_end_matches(['/', '…']);
            text.trim_start_matches("https://").trim_start_matches("http://").trim_start_matches("mailto:").to_owned()
        };
        let shown = bare(self.out.get(from.min(self.out.len())..).unwrap_or_default());
        if shown.is_empty() || !bare(href).starts_with(&shown) {
            self.trim_line();
            if !shown.is_empty() {
                self.out.push(' ');
            }
            self.out.push('<');
            self.out.push_str(href);
            self.out.push('>');
        }
    }
}

/// At most one empty line in a row, no spaces at the end of lines, nothing at both ends, only characters of XML.
pub(super) fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut empty = 0;
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if empty > 0 { "\n\n" } else { "\n" });
        }
        empty = 0;
        out.extend(line.chars().filter(|c| xml::is_char(*c)));
    }
    out.trim().to_owned()
}

/// Appends one line of plain text; addresses in it become links.
pub(super) fn push_linked(out: &mut String, line: &str) {
    let mut rest = line;
    while let Some(at) = address_at(rest) {
        let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
        let (address, after) = from.split_at_checked(address_len(from)).unwrap_or((from, ""));
        xml::push_text(out, before);
        out.push_str("<a");
        xml::push_attribute(out, "href", address);
        out.push('>');
        xml::push_text(out, address);
        out.push_str("</a>");
        rest = after;
    }
    xml::push_text(out, rest);
}

/// Where the first address begins: `http://` or `https://` not inside a word, with something behind it.
fn address_at(text: &str) -> Option<usize> {
    text.match_indices("http").map(|(at, _)| at).find(|at| {
        let (before, from) = text.split_at_checked(*at).unwrap_or((text, ""));
        let body = from.strip_prefix("https://").or_else(|| from.strip_prefix("http://"));
        !before.ends_with(char::is_alphanumeric)
            && body.is_some_and(|b| b.starts_with(char::is_alphanumeric) || b.starts_with('['))
    })
}

/// How far the address goes, in bytes: to white space or a quote, without the punctuation of the sentence around it.
pub(super) fn address_len(from: &str) -> usize {
    let end = from.find(|c: char| {
        c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | '`' | '“' | '”' | '«' | '»')
    });
    let mut address = from.get(..end.unwrap_or(from.len())).unwrap_or(from);
    // How many more are closed than opened; counted once, or text of nothing but brackets would be counted through for each.
    let over = |open: char, close: char| address.matches(close).count().saturating_sub(address.matches(open).count());
    let (mut round, mut square) = (over('(', ')'), over('[', ']'));
    while let Some(last) = address.chars().next_back() {
        let cut = match last {
            ')' => take_one(&mut round),
            ']' => take_one(&mut square),
            last => ['.', ',', ';', ':', '!', '?', '\'', '*', '…'].contains(&last),
        };
        if !cut {
            break;
        }
        address = address.get(..address.len() - last.len_utf8()).unwrap_or_default();
    }
    address.len()
}

/// Whether there was one left, which is taken.
fn take_one(left: &mut usize) -> bool {
    let was = *left;
    *left = was.saturating_sub(1);
    was > 0
}
