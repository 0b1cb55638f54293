//! A stanza in the making: a tree that can be changed at any place and is always written as well-formed XML, in one of
//! the many ways in which the same tree can be written (prefixes, quotes, references, character data sections).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::client::CLIENT;

#[derive(Clone, Debug, PartialEq)]
pub struct El {
    pub ns: String,
    pub name: String,
    /// A name with a prefix needs its declaration beside it; of two with one name the first is written.
    pub attrs: Vec<(String, String)>,
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    El(El),
    Text(String),
}

pub fn el(name: &str, ns: &str) -> El {
    El { ns: ns.to_owned(), name: name.to_owned(), attrs: Vec::new(), parts: Vec::new() }
}

impl El {
    pub fn attr(mut self, name: &str, value: impl Into<String>) -> El {
        self.attrs.push((name.to_owned(), value.into()));
        self
    }

    pub fn with(mut self, child: El) -> El {
        self.parts.push(Part::El(child));
        self
    }

    pub fn with_all(mut self, children: impl IntoIterator<Item = El>) -> El {
        self.parts.extend(children.into_iter().map(Part::El));
        self
    }

    pub fn text(mut self, text: impl Into<String>) -> El {
        self.parts.push(Part::Text(text.into()));
        self
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.attrs.retain(|(n, _)| n != name);
        self.attrs.push((name.to_owned(), value.into()));
    }

    pub fn children(&self) -> impl Iterator<Item = &El> {
        self.parts.iter().filter_map(|part| if let Part::El(el) = part { Some(el) } else { None })
    }

    pub fn depth(&self) -> usize {
        1 + self.children().map(El::depth).max().unwrap_or(0)
    }

    /// Elements in it, itself among them.
    pub fn size(&self) -> usize {
        1 + self.children().map(El::size).sum::<usize>()
    }

    /// The element at this place in the order of the document; 0 is the element itself.
    pub fn at(&mut self, place: usize) -> Option<&mut El> {
        if place == 0 {
            return Some(self);
        }
        let mut left = place - 1;
        for part in &mut self.parts {
            let Part::El(child) = part else { continue };
            let size = child.size();
            if left < size {
                return child.at(left);
            }
            left -= size;
        }
        None
    }

    /// Every tree that is this one without a part, without an attribute, or with a shorter text.
    pub fn smaller(&self) -> Vec<El> {
        let mut all = Vec::new();
        for place in 0..self.size().min(200) {
            let mut probe = self.clone();
            let Some(el) = probe.at(place) else { break };
            let (parts, attrs) = (el.parts.len(), el.attrs.len());
            let lengths: Vec<usize> = el.attrs.iter().map(|(_, value)| value.len()).collect();
            let mut change = |how: &dyn Fn(&mut El)| {
                let mut next = self.clone();
                if let Some(el) = next.at(place) {
                    how(el);
                }
                all.push(next);
            };
            if parts > 2 {
                change(&|el| drop(el.parts.drain(parts / 2..)));
                change(&|el| drop(el.parts.drain(..parts / 2)));
            }
            for n in 0..parts.min(40) {
                change(&|el| drop(el.parts.remove(n)));
                change(&|el| match &mut el.parts[n] {
                    Part::Text(text) => *text = half(text),
                    // In the place of a child, what is in it.
                    Part::El(child) => {
                        let inner = std::mem::take(&mut child.parts);
                        drop(el.parts.splice(n..=n, inner));
                    }
                });
            }
            for (n, length) in lengths.iter().enumerate().take(attrs.min(40)) {
                let kept = place == 0 && matches!(self.attrs[n].0.as_str(), "id" | "to" | "type");
                if !kept {
                    change(&|el| drop(el.attrs.remove(n)));
                }
                if *length > 8 && !kept {
                    change(&|el| el.attrs[n].1 = half(&el.attrs[n].1));
                }
            }
        }
        all.retain(|tree| tree != self);
        all
    }
}

fn half(text: &str) -> String {
    text.chars().take(text.chars().count() / 2).collect()
}

/// A tree, and how it is written.
#[derive(Clone, Debug)]
pub struct Stanza {
    pub tree: El,
    pub xml: String,
    /// The seed of the way of writing.
    pub style: u64,
}

impl Stanza {
    pub fn new(tree: El, style: u64) -> Stanza {
        let mut w = Writer { rng: StdRng::seed_from_u64(style), out: String::new(), prefixes: 0 };
        w.element(&tree, CLIENT);
        Stanza { tree, xml: w.out, style }
    }
}

/// Texts that are longer are written plainly: a hundred thousand dice take their time.
const LONG: usize = 2_000;

struct Writer {
    rng: StdRng,
    out: String,
    prefixes: usize,
}

impl Writer {
    /// `default`: the namespace of names without a prefix where this stands.
    fn element(&mut self, el: &El, default: &str) {
        let (mut tag, mut declared, mut inner) = (el.name.clone(), None, default.to_owned());
        if el.ns != default {
            if self.rng.random_ratio(1, 6) && !el.ns.is_empty() {
                self.prefixes += 1;
                let prefix = format!("p{}", self.prefixes);
                tag = format!("{prefix}:{}", el.name);
                declared = Some((format!("xmlns:{prefix}"), el.ns.clone()));
            } else {
                declared = Some(("xmlns".to_owned(), el.ns.clone()));
                inner = el.ns.clone();
            }
        }
        let _ = write!(self.out, "<{tag}");
        let mut written = BTreeSet::new();
        let front = self.rng.random_ratio(1, 2);
        let declared: Vec<(String, String)> = declared.into_iter().collect();
        let (first, last) = if front { (&declared, &el.attrs) } else { (&el.attrs, &declared) };
        for (name, value) in first.iter().chain(last) {
            if written.insert(name.clone()) {
                self.attribute(name, value);
            }
        }
        if el.parts.is_empty() && self.rng.random_ratio(4, 5) {
            self.out.push_str("/>");
            return;
        }
        self.out.push('>');
        for part in &el.parts {
            match part {
                Part::El(child) => self.element(child, &inner),
                Part::Text(text) => self.text(text),
            }
        }
        let _ = write!(self.out, "</{tag}>");
    }

    fn attribute(&mut self, name: &str, value: &str) {
        let quote = if self.rng.random_ratio(1, 2) { '\'' } else { '"' };
        let _ = write!(self.out, " {name}={quote}");
        let plain = value.len() > LONG;
        for c in value.chars() {
            match c {
                '\'' | '"' if c != quote => self.out.push(c),
                '\t' | '\n' | '\r' | '\'' | '"' => self.reference(c),
                c => self.character(c, plain),
            }
        }
        self.out.push(quote);
    }

    fn text(&mut self, text: &str) {
        if self.rng.random_ratio(1, 12) && !text.contains("]]>") && !text.contains('\r') {
            let _ = write!(self.out, "<![CDATA[{text}]]>");
            return;
        }
        let plain = text.len() > LONG;
        for c in text.chars() {
            match c {
                '\r' => self.reference(c),
                c => self.character(c, plain),
            }
        }
    }

    /// `plain`: written as it is, if that can be.
    fn character(&mut self, c: char, plain: bool) {
        match c {
            '&' => self.out.push_str("&amp;"),
            '<' => self.out.push_str("&lt;"),
            '>' => self.out.push_str("&gt;"),
            c if !plain && self.rng.random_ratio(1, 60) => self.reference(c),
            c => self.out.push(c),
        }
    }

    fn reference(&mut self, c: char) {
        let code = u32::from(c);
        let _ = match self.rng.random_ratio(1, 2) {
            true => write!(self.out, "&#{code};"),
            false => write!(self.out, "&#x{code:x};"),
        };
    }
}
