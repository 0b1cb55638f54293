//! What every stanza says of itself (RFC 6120 §8): kind, addresses, id, type and the names of its children.
//!
//! One pass over the bytes proves them well-formed and finds the children; no tree is built. A room that needs a
//! tree asks for one ([`Envelope::element`]); one that does not works on the byte slices.

mod read;
mod write;

pub use write::{OutHead, Stanza, StanzaError, Xml, XmlWriter};

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use jid::Jid;
use minidom::Element;
use quick_xml::XmlVersion;
use quick_xml::name::{DEFAULT_MAX_NAMESPACE_BINDINGS, PrefixDeclaration};
pub(super) use read::tree;
use read::{Read, attribute_value, read, renamed, start_tag};

use super::errors::stanza_error;
use super::framer::StreamHeader;
use crate::base::jid::read_jid;
use crate::domain::error::Refusal;

/// The stanzas' namespace as the rest of the house knows it. On the wire it is [`ns::COMPONENT`]; servers may write
/// `jabber:client` or `jabber:server` too. All three read as this one.
pub const STANZAS: &str = ns::CLIENT;

/// Namespaces of the stream itself.
pub mod ns {
    pub const CLIENT: &str = "jabber:client";
    pub const SERVER: &str = "jabber:server";
    pub const COMPONENT: &str = "jabber:component:accept";
    pub const STREAMS: &str = "http://etherx.jabber.org/streams";
    pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
    pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
    pub const PING: &str = "urn:xmpp:ping";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Iq,
    Message,
    Presence,
    /// No stanza: `stream:error`, `handshake`, or what nobody knows.
    Other,
}

/// A `from` or `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Address {
    #[default]
    Absent,
    /// Not a JID (RFC 7622); the text as it came. Nothing can be sent there.
    Invalid(String),
    Valid(Jid),
}

impl Address {
    pub fn jid(&self) -> Option<&Jid> {
        match self {
            Address::Valid(jid) => Some(jid),
            Address::Absent | Address::Invalid(_) => None,
        }
    }
}

/// The `type` attribute of any stanza; which ones fit which kind is the reader's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StanzaType {
    #[default]
    Absent,
    Get,
    Set,
    Result,
    Error,
    Chat,
    Groupchat,
    Headline,
    Normal,
    Unavailable,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Probe,
    Unknown(String),
}

/// Type and spelling, once.
const TYPES: [(&str, StanzaType); 14] = [
    ("get", StanzaType::Get),
    ("set", StanzaType::Set),
    ("result", StanzaType::Result),
    ("error", StanzaType::Error),
    ("chat", StanzaType::Chat),
    ("groupchat", StanzaType::Groupchat),
    ("headline", StanzaType::Headline),
    ("normal", StanzaType::Normal),
    ("unavailable", StanzaType::Unavailable),
    ("subscribe", StanzaType::Subscribe),
    ("subscribed", StanzaType::Subscribed),
    ("unsubscribe", StanzaType::Unsubscribe),
    ("unsubscribed", StanzaType::Unsubscribed),
    ("probe", StanzaType::Probe),
];

impl From<&str> for StanzaType {
    fn from(text: &str) -> Self {
        match TYPES.iter().find(|(name, _)| *name == text) {
            Some((_, known)) => known.clone(),
            None => StanzaType::Unknown(text.to_owned()),
        }
    }
}

/// A stanza's start tag. Also what can be said of a stanza that could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    pub from: Address,
    pub to: Address,
    pub id: Option<String>,
    pub type_: StanzaType,
    /// `xml:lang`.
    pub lang: Option<String>,
}

/// One first-level child of a stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// [`STANZAS`] for `body`, `show` and the like.
    pub ns: String,
    pub name: String,
    range: Range<usize>,
}

/// More children than this are not listed; [`Envelope::children_total`] still counts them.
pub const CHILDREN_LISTED: usize = 64;

/// A stanza that is well-formed and namespace-well-formed.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub head: Head,
    /// The namespace and local name of the stanza's element itself.
    pub ns: String,
    pub name: String,
    /// In order, the first [`CHILDREN_LISTED`].
    pub children: Vec<Child>,
    pub children_total: usize,
    raw: Bytes,
    scope: Scope,
}

/// What the link reads and does not deal with itself.
#[derive(Debug)]
pub enum Incoming {
    Stanza(Envelope),
    Refused(Refused),
}

impl From<Envelope> for Incoming {
    fn from(envelope: Envelope) -> Self {
        Incoming::Stanza(envelope)
    }
}

impl From<Refused> for Incoming {
    fn from(refused: Refused) -> Self {
        Incoming::Refused(refused)
    }
}

/// A stanza that the link does not read to its end: no XML, or over a limit.
#[derive(Debug)]
pub struct Refused {
    /// What could be read of it.
    pub head: Head,
    pub refusal: Refusal,
    /// Which rule it breaks, for who sent it.
    pub why: String,
}

impl Refused {
    /// The error that is due to who sent it. `None` if none is, or nobody to answer.
    pub fn answer(&self) -> Option<Stanza> {
        self.head.error(&stanza_error(self.refusal).text(self.why.clone()))
    }
}

/// A stanza that cannot be read, with what of its head could.
#[derive(Debug)]
pub struct Broken {
    pub head: Box<Head>,
    pub fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("not UTF-8")]
    Utf8,
    #[error("a character that XML does not allow")]
    Character,
    #[error("not well-formed: {0}")]
    Xml(String),
    #[error("undeclared prefix {0}")]
    Prefix(String),
    #[error("unknown entity {0}")]
    Entity(String),
    #[error("more than {NAMESPACES_MOST} namespace declarations, or {NAMESPACE_BYTES} bytes of them, in force at once")]
    Namespaces,
    #[error("comment, processing instruction or document type")]
    RestrictedXml,
}

/// So many namespace declarations may be in force anywhere in a stanza: a name's is looked for among all of them.
const NAMESPACES_MOST: usize = DEFAULT_MAX_NAMESPACE_BINDINGS;
/// And so many bytes of prefixes and namespaces: whoever keeps a part of a stanza keeps them too.
const NAMESPACE_BYTES: usize = 16 << 10;

/// Elements and attributes of what a tree is made of (forms and the like, never payloads), and the bytes of all their
/// namespaces together.
const TREE_NAMES: usize = 10_000;
const TREE_NAMESPACES: usize = 1 << 20;

/// Why no tree is made.
#[derive(Debug, thiserror::Error)]
pub enum NoTree {
    #[error("more than {TREE_NAMES} elements and attributes, or {TREE_NAMESPACES} bytes of their namespaces")]
    TooLarge,
    #[error(transparent)]
    Xml(#[from] minidom::Error),
}

/// The namespaces that the stream header declares for every stanza; cheap to clone.
#[derive(Clone, Debug)]
pub struct Scope(Arc<[(String, String)]>);

impl Default for Scope {
    /// What every component stream declares (XEP-0114 §3).
    fn default() -> Self {
        Scope(Arc::new([("".to_owned(), ns::COMPONENT.to_owned()), ("stream".to_owned(), ns::STREAMS.to_owned())]))
    }
}

impl From<&StreamHeader> for Scope {
    fn from(header: &StreamHeader) -> Self {
        Scope(header.namespaces().map(|(p, n)| (p.to_owned(), n.to_owned())).collect())
    }
}

impl Envelope {
    /// Reads one first-level child of a stream. `scope`: what the stream's header declares.
    pub fn parse(raw: Bytes, scope: &Scope) -> Result<Envelope, Broken> {
        match read(&raw, scope) {
            Ok(Read { head, ns, name, children, children_total }) => {
                Ok(Envelope { head, ns, name, children, children_total, raw, scope: scope.clone() })
            }
            Err(fault) => Err(Broken { head: Box::new(Head::salvage(&raw)), fault }),
        }
    }

    /// The whole stanza as it came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The first child element: what an iq is about.
    pub fn payload(&self) -> Option<&Child> {
        self.children.first()
    }

    pub fn child(&self, name: &str, ns: &str) -> Option<&Child> {
        self.children.iter().find(|c| c.name == name && c.ns == ns)
    }

    /// A child's bytes, from `<` to `>`. Its prefixes may be declared outside of it: see [`Envelope::namespaces`].
    pub fn slice(&self, child: &Child) -> Bytes {
        self.raw.slice(child.range.clone())
    }

    /// What is declared where the children begin, by stream header and stanza: prefix (empty: default) to namespace.
    pub fn namespaces(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<_, _> = self.scope.0.iter().cloned().collect();
        if let Some(tag) = start_tag(&self.raw) {
            for a in tag.attributes().flatten() {
                let value = a.normalized_value(XmlVersion::Implicit1_0).unwrap_or_default().into_owned();
                match a.key.as_namespace_binding() {
                    Some(PrefixDeclaration::Default) => all.insert(String::new(), value),
                    Some(PrefixDeclaration::Named(p)) => all.insert(p.to_owned(), value),
                    None => None,
                };
            }
        }
        if let Some(default) = all.get_mut("").filter(|ns| is_stanza_ns(ns)) {
            *default = STANZAS.to_owned();
        }
        all
    }

    /// The stanza as a tree, its own namespace read as [`STANZAS`]. Its depth is bounded by the framer's limit.
    pub fn element(&self) -> Result<Element, NoTree> {
        let mut scope: BTreeMap<_, _> = self.scope.0.iter().cloned().collect();
        if let Some(default) = scope.get_mut("").filter(|ns| is_stanza_ns(ns)) {
            *default = STANZAS.to_owned();
        }
        tree(&self.raw, scope).map(renamed)
    }

    /// One child as a tree; namespaces as in [`Envelope::element`].
    pub fn child_element(&self, child: &Child) -> Result<Element, NoTree> {
        tree(&self.raw[child.range.clone()], self.namespaces()).map(renamed)
    }
}

impl Head {
    fn new(kind: Kind) -> Self {
        Head { kind, from: Address::Absent, to: Address::Absent, id: None, type_: StanzaType::Absent, lang: None }
    }

    /// What can be read of a start tag that may be cut short, ill-formed or not even text.
    pub fn salvage(tag: &[u8]) -> Head {
        // A cut in the middle of a character must not cost the attributes before it.
        let text = String::from_utf8_lossy(tag);
        let Some(tag) = start_tag(text.as_bytes()) else { return Head::new(Kind::Other) };
        let mut head = Head::new(kind(tag.local_name().into_inner()));
        for a in tag.attributes().with_checks(false) {
            let Ok(a) = a else { break };
            let Ok(value) = attribute_value(&a.value) else { continue };
            head.take(a.key.0, value);
        }
        head
    }

    fn take(&mut self, name: &str, value: Cow<'_, str>) {
        match name {
            "from" => self.from = address(value),
            "to" => self.to = address(value),
            "id" => self.id = Some(value.into_owned()),
            "type" => self.type_ = StanzaType::from(&*value),
            "xml:lang" => self.lang = Some(value.into_owned()),
            _ => {}
        }
    }

    /// Whether an error may be sent back at all (RFC 6120 §8.3.1: never to an error or a result).
    ///
    /// An iq of no known type counts as a request: RFC 6120 §8.2.3 wants `bad-request` for it. Presence is never
    /// answered, nor a message that nobody waits on (headline, groupchat: RFC 6121 §5.2.2).
    pub fn error_due(&self) -> bool {
        match self.kind {
            Kind::Iq => !matches!(self.type_, StanzaType::Result | StanzaType::Error),
            Kind::Message => !matches!(self.type_, StanzaType::Error | StanzaType::Headline | StanzaType::Groupchat),
            Kind::Presence | Kind::Other => false,
        }
    }

    /// The result of an iq (RFC 6120 §8.2.3). `None` if this is no request, or nobody to answer.
    pub fn result(&self, body: Xml) -> Option<Stanza> {
        if self.kind != Kind::Iq || !matches!(self.type_, StanzaType::Get | StanzaType::Set) {
            return None;
        }
        self.reply("result", body)
    }

    /// The error answer (RFC 6120 §8.3). `None` if none is due ([`Head::error_due`]), or nobody to answer.
    pub fn error(&self, error: &StanzaError) -> Option<Stanza> {
        if !self.error_due() {
            return None;
        }
        self.reply("error", error.to_xml())
    }

    fn reply(&self, type_: &'static str, body: Xml) -> Option<Stanza> {
        let (from, to) = (self.to.jid()?, self.from.jid()?);
        let head = OutHead { kind: self.kind, from, to, id: self.id.as_deref(), type_: Some(type_) };
        Stanza::new(&head, body)
    }
}

fn kind(local: &str) -> Kind {
    match local {
        "iq" => Kind::Iq,
        "message" => Kind::Message,
        "presence" => Kind::Presence,
        _ => Kind::Other,
    }
}

fn is_stanza_ns(ns: &str) -> bool {
    matches!(ns, ns::COMPONENT | ns::CLIENT | ns::SERVER)
}

fn address(text: Cow<'_, str>) -> Address {
    match read_jid(&text) {
        Some(jid) => Address::Valid(jid),
        None => Address::Invalid(text.into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::read::is_xml_char;
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Envelope, Broken> {
        Envelope::parse(Bytes::copy_from_slice(text.as_bytes()), &Scope::default())
    }

    fn written(stanza: &Stanza) -> Bytes {
        let mut out = Vec::new();
        stanza.write_to(&mut out);
        assert_eq!(out.len(), stanza.len());
        out.into()
    }

    #[test]
    fn namespaces_in_force_at_once_are_bounded_in_number_and_size() {
        let nested = |levels: usize, each: usize| {
            let open = format!("<x xmlns:a='{}'>", "n".repeat(each));
            parse(&format!("<iq>{}{}</iq>", open.repeat(levels), "</x>".repeat(levels))).map_err(|b| b.fault)
        };
        let beside = "<x xmlns:a='".to_owned() + &"n".repeat(15 << 10) + "'/>";
        assert!(parse(&format!("<iq>{}</iq>", beside.repeat(3))).is_ok(), "one after the other");
        assert!(nested(3, 5 << 10).is_ok());
        assert_eq!(nested(4, 5 << 10).err(), Some(Fault::Namespaces));
        assert!(nested(120, 1).is_ok());
        assert_eq!(nested(130, 1).err(), Some(Fault::Namespaces));
    }

    #[test]
    fn a_head_gives_kind_addresses_id_type_and_the_payloads_name() {
        let e = parse(
            "<iq from='juliet@example.org/balcony' to='c.example.org' id='a&amp;b' type='set' xml:lang='en'>\
             <p:pubsub xmlns:p='http://jabber.org/protocol/pubsub'><p:publish node='n'/></p:pubsub><x xmlns='y'>1</x></iq>",
        )
        .unwrap();
        assert_eq!(e.head.kind, Kind::Iq);
        assert_eq!(e.head.from.jid().unwrap().as_str(), "juliet@example.org/balcony");
        assert_eq!(e.head.to.jid().unwrap().as_str(), "c.example.org");
        assert_eq!((e.head.id.as_deref(), e.head.lang.as_deref()), (Some("a&b"), Some("en")));
        assert_eq!(e.head.type_, StanzaType::Set);
        let payload = e.payload().unwrap();
        assert_eq!((payload.name.as_str(), payload.ns.as_str()), ("pubsub", "http://jabber.org/protocol/pubsub"));
        assert!(e.slice(payload).starts_with(b"<p:pubsub ") && e.slice(payload).ends_with(b"</p:pubsub>"));
        assert_eq!(&e.slice(&e.children[1])[..], b"<x xmlns='y'>1</x>");
        assert_eq!(e.children_total, 2);
    }

    #[test]
    fn the_stanzas_namespace_is_one_whichever_the_server_writes() {
        for declared in ["", " xmlns='jabber:component:accept'", " xmlns='jabber:client'", " xmlns='jabber:server'"] {
            let e = parse(&format!("<message{declared}><body>hi</body></message>")).unwrap();
            assert_eq!(e.head.kind, Kind::Message, "{declared}");
            let body = e.child("body", STANZAS).expect("a body");
            assert_eq!(e.child_element(body).unwrap().ns(), STANZAS);
            assert_eq!(e.element().unwrap().get_child("body", STANZAS).unwrap().text(), "hi");
        }
        assert_eq!(parse("<message xmlns='other'/>").unwrap().head.kind, Kind::Other);
    }

    #[test]
    fn a_prefix_of_the_stanza_or_the_header_holds_for_its_children() {
        let declared = [("", ns::COMPONENT), ("db", "dialback")];
        let scope = Scope(declared.iter().map(|(p, n)| ((*p).to_owned(), (*n).to_owned())).collect());
        let text = "<iq xmlns:a='http://www.w3.org/2005/Atom'><a:entry><db:x/></a:entry></iq>";
        let e = Envelope::parse(Bytes::from_static(text.as_bytes()), &scope).unwrap();
        assert_eq!(e.payload().unwrap().ns, "http://www.w3.org/2005/Atom");
        assert_eq!(e.namespaces()["a"], "http://www.w3.org/2005/Atom");
        let tree = e.child_element(e.payload().unwrap()).unwrap();
        assert!(tree.get_child("x", "dialback").is_some());
        assert!(matches!(parse(text).unwrap_err().fault, Fault::Prefix(p) if p == "db"));
    }

    #[test]
    fn what_is_not_xml_is_refused_and_keeps_its_head() {
        type Expected = fn(&Fault) -> bool;
        let xml: Expected = |f| matches!(f, Fault::Xml(_));
        let prefix: Expected = |f| matches!(f, Fault::Prefix(_));
        let entity: Expected = |f| matches!(f, Fault::Entity(_));
        let character: Expected = |f| matches!(f, Fault::Character);
        let restricted: Expected = |f| matches!(f, Fault::RestrictedXml);
        let cases = [
            ("<a x='1' x='2'/>", xml),
            ("<p:a/>", prefix),
            ("<a p:b='1'/>", prefix),
            ("&bomb;", entity),
            ("<a b='&bomb;'/>", entity),
            ("&#0;", entity),
            ("&#x1F;", entity),
            ("&#xD800;", entity),
            ("&#+65;", entity),
            ("<a b='& '/>", entity),
            ("& ", xml),
            ("]]>", xml),
            ("<a></b>", xml),
            ("<a>", xml),
            ("\0", character),
            ("\u{1f}", character),
            ("\u{FFFF}", character),
            ("<!-- c -->", restricted),
            ("<?pi?>", restricted),
        ];
        for (inner, expected) in cases {
            let text = format!("<iq from='juliet@example.org' to='c.example.org' id='7' type='get'>{inner}</iq>");
            let broken = parse(&text).expect_err(inner);
            assert!(expected(&broken.fault), "{inner}: {:?}", broken.fault);
            assert_eq!(broken.head.id.as_deref(), Some("7"), "{inner}");
            let answer = broken.head.error(&stanza_error(Refusal::BadRequest)).expect("an error is due");
            assert_eq!(answer.from_domain(), b"c.example.org");
        }
        let bytes = Bytes::from_static(b"<iq from='juliet@example.org' id='7' type='get'>\xff\xfe</iq>");
        let broken = Envelope::parse(bytes, &Scope::default()).unwrap_err();
        assert_eq!((broken.fault, broken.head.id.as_deref()), (Fault::Utf8, Some("7")));
    }

    #[test]
    fn an_error_is_never_answered_with_an_error() {
        let due = |text: &str| Head::salvage(text.as_bytes()).error_due();
        for yes in
            ["<iq type='get'>", "<iq type='set'>", "<iq>", "<iq type='bogus'>", "<message>", "<message type='chat'>"]
        {
            assert!(due(yes), "{yes}");
        }
        for no in [
            "<iq type='result'>",
            "<iq type='error'>",
            "<message type='error'>",
            "<message type='headline'>",
            "<message type='groupchat'>",
            "<presence>",
            "<presence type='error'>",
            "<handshake>",
        ] {
            assert!(!due(no), "{no}");
        }
    }

    #[test]
    fn a_head_cut_anywhere_is_still_read_as_far_as_it_goes() {
        let whole = "<iq from='juliet@example.org' to='c' id='7' type='get' \u{e9}='";
        for cut in 0..whole.len() {
            let head = Head::salvage(&whole.as_bytes()[..cut]);
            if cut >= whole.find(" to=").unwrap() {
                assert_eq!(head.from.jid().unwrap().as_str(), "juliet@example.org");
            }
        }
        assert_eq!(Head::salvage(b"").kind, Kind::Other);
    }

    #[test]
    fn an_address_that_is_no_jid_is_known_as_such_and_not_answered() {
        let e = parse("<iq from='@' to='c' id='1' type='get'/>").unwrap();
        assert_eq!(e.head.from, Address::Invalid("@".to_owned()));
        assert!(e.head.error(&stanza_error(Refusal::BadRequest)).is_none());
    }

    #[test]
    fn every_reply_is_one_well_formed_stanza_whatever_was_asked() {
        let e = parse("<iq from='juliet@example.org/a&lt;b&apos;&amp;' to='x@c' id='&lt;&apos;&#10;' type='get'/>");
        let e = e.unwrap();
        let error = stanza_error(Refusal::ItemNotFound).text("no <such> \u{1} & thing");
        for stanza in [e.head.result(Xml::default()), e.head.error(&error)] {
            let back = Envelope::parse(written(&stanza.unwrap()), &Scope::default()).unwrap();
            assert_eq!((&back.head.to, &back.head.from), (&e.head.from, &e.head.to));
            assert_eq!(back.head.id.as_deref(), Some("<'\n"));
        }
    }

    #[test]
    fn a_child_of_the_stanzas_namespace_leaves_without_declaring_it() {
        let body = Element::builder("body", STANZAS).append("hi").build();
        assert_eq!(Xml::element(&body).unwrap().as_bytes(), b"<body>hi</body>");
        let x = Xml::element(&Element::builder("x", "urn:x").build()).unwrap();
        assert!(memchr::memmem::find(x.as_bytes(), b"urn:x").is_some());
    }

    #[test]
    fn more_children_than_are_listed_are_counted() {
        let many = "<x xmlns='y'>t</x>".repeat(CHILDREN_LISTED + 5);
        let e = parse(&format!("<message>{many}</message>")).unwrap();
        assert_eq!((e.children.len(), e.children_total), (CHILDREN_LISTED, CHILDREN_LISTED + 5));
        assert_eq!(&e.slice(&e.children[CHILDREN_LISTED - 1])[..], b"<x xmlns='y'>t</x>");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Head::salvage(&bytes);
            let _ = Envelope::parse(bytes.into(), &Scope::default());
        }

        #[test]
        fn what_the_writer_escapes_the_reader_gives_back(text in "\\PC*", id in "[ -~]*") {
            let (from, to) = (Jid::new("c").unwrap(), Jid::new("juliet@example.org").unwrap());
            let body = XmlWriter::new().leaf("body", "", &text).finish();
            let stanza = Stanza::message(&from, &to, Some("chat"), Some(&id), body);
            let back = Envelope::parse(written(&stanza), &Scope::default()).unwrap();
            prop_assert_eq!(back.head.id.as_deref(), Some(id.as_str()));
            let text: String = text.chars().map(|c| if is_xml_char(c) { c } else { '\u{FFFD}' }).collect();
            prop_assert_eq!(back.element().unwrap().get_child("body", STANZAS).unwrap().text(), text);
        }
    }
}
