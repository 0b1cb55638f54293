//! What is sent: every request that the component knows or nearly knows, messages and presence of all kinds, and then
//! changes to them that no client would make. Everything is well-formed, not over 200 levels deep and not over 240 KB:
//! real servers stand in between, and their affairs are not ours.

use rand::Rng;
use rand::rngs::StdRng;

use super::tree::{El, Part, Stanza, el};
use crate::support::client::{ATOM, CLIENT, EVENT, MICROBLOG, OWNER, PUBSUB};
use crate::support::servers::{CROWD, HOST, SOCIAL, at_social};

pub const DEEPEST: usize = 150;
pub const LONGEST: usize = 240_000;

const FORM: &str = "jabber:x:data";
const RSM: &str = "http://jabber.org/protocol/rsm";
const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
const ERRORS: &str = "http://jabber.org/protocol/pubsub#errors";
const XHTML: &str = "http://www.w3.org/1999/xhtml";

/// Makes stanzas as one sender may.
pub struct Grammar {
    rng: StdRng,
    /// The sender's bare address, and the account that may be theirs.
    own: String,
    local: String,
    /// Begins each id, so that an answer is known by it.
    mark: String,
    made: usize,
    /// Whether the sender gives its own `from`, as components do.
    pub from_crowd: bool,
    /// Whether the sender may end its own account: it never comes back.
    pub may_leave: bool,
}

/// Node names that somebody may have made.
const LEAVES: [&str; 6] = ["leaf-0", "leaf-1", "leaf-2", "leaf-3", "Blätter & <Blüten>", "princely_musings"];

/// Texts that a reader may stumble over. XML allows every character in them.
const ODD: &[&str] = &[
    "",
    " ",
    "\t",
    "\n",
    "a\nb",
    "\r",
    "0",
    "-1",
    "+1",
    "1.5",
    "1e9",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "true",
    "1",
    "false",
    "maybe",
    "null",
    "*",
    "%",
    "%00",
    "%zz",
    "..",
    "/",
    "//",
    "../../etc/passwd",
    "'",
    "\"",
    "''--",
    "<b>x</b>",
    "&amp;",
    "&#0;",
    "]]>",
    "<!--",
    "<?xml?>",
    "${x}",
    "{{x}}",
    "\\",
    "\\40",
    "a\\40b",
    "~",
    "a~b",
    "feed~x",
    "@",
    "a@",
    "@b",
    "a@b@c",
    "a/b",
    "a@b/",
    "\u{7f}",
    "\u{80}",
    "\u{85}",
    "\u{a0}",
    "\u{ad}",
    "\u{200b}",
    "\u{200d}",
    "\u{200e}",
    "\u{202e}abc",
    "\u{2028}",
    "\u{2066}",
    "\u{feff}",
    "\u{fffd}",
    "\u{e000}",
    "\u{10fffd}",
    "\u{1f469}\u{200d}\u{1f4bb}",
    "e\u{301}",
    "\u{301}",
    "ﬁ",
    "ſ",
    "İ",
    "ı",
    "ß",
    "Σς",
    "ａ",
    "ⅷ",
    "\u{1d504}",
    "ﷺ",
    "𝒳",
    "नमस्ते",
    "שלום",
    "ÅA\u{30a}",
    "K",
    "javascript:alert(1)",
    "data:text/html,x",
    "xmpp:",
    "http://",
    "http://[",
    "urn:",
    "tag:",
    "acct:",
    "file:///etc/passwd",
    "0000-00-00T00:00:00Z",
    "2026-13-40T99:99:99Z",
    "9999-12-31T23:59:60Z",
    "-0001-01-01T00:00:00Z",
    "2026-11-22T04:02:04.999999999999Z",
];

const NAMES: &[&str] = &[
    "x", "a.b-c", "_", "é", "名前", "Item", "ITEM", "item", "items", "publish", "pubsub", "entry", "error", "query",
    "iq", "message", "set", "field", "value", "body", "xml-a",
];

const SPACES: &[&str] = &[
    PUBSUB,
    OWNER,
    EVENT,
    ERRORS,
    CLIENT,
    "jabber:server",
    "jabber:component:accept",
    "http://etherx.jabber.org/streams",
    ATOM,
    XHTML,
    FORM,
    RSM,
    STANZAS,
    "jabber:iq:register",
    "urn:xmpp:ping",
    "u:x",
    "u:&<>'\"",
    "http://activitystrea.ms/spec/1.0/",
    "http://www.w3.org/XML/1998/namespace#",
    "urn:x:\u{202e}",
];

const DISCO: [&str; 2] = ["http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items"];

impl Grammar {
    pub fn new(rng: StdRng, local: &str, host: &str, mark: &str) -> Grammar {
        let own = format!("{local}@{host}");
        let (local, mark) = (local.to_owned(), mark.to_owned());
        Grammar { rng, own, local, mark, made: 0, from_crowd: false, may_leave: false }
    }

    /// One stanza, as it should not be three times of four.
    pub fn stanza(&mut self) -> Stanza {
        loop {
            if self.from_crowd {
                self.local = format!("s{}", self.rng.random_range(0..30));
                self.own = format!("{}@{CROWD}", self.local);
            }
            let mut tree = match self.rng.random_range(0..100) {
                0..70 => self.iq(),
                70..88 => self.message(),
                _ => self.presence(),
            };
            if self.from_crowd {
                let resource =
                    if self.one_in(3) { format!("/{}", self.pick(&["a", "ß", "x y", "&"])) } else { String::new() };
                tree.set("from", format!("{}{resource}", self.own));
            }
            if !self.one_in(4) {
                for _ in 0..self.rng.random_range(1..=4) {
                    self.change(&mut tree);
                }
            }
            if tree.depth() > DEEPEST {
                continue;
            }
            let stanza = Stanza::new(tree, self.rng.random());
            if stanza.xml.len() <= LONGEST {
                return stanza;
            }
        }
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    pub fn number(&mut self, range: std::ops::Range<usize>) -> usize {
        self.rng.random_range(range)
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.rng.random_range(0..all.len())]
    }

    // --- Values

    fn id(&mut self) -> String {
        // Now and then the one before again.
        if !self.one_in(40) {
            self.made += 1;
        }
        let id = format!("{}-{}", self.mark, self.made);
        match self.rng.random_range(0..60) {
            0 => format!("{id}-{}", self.pick(ODD)),
            1 => format!("{id}-{}", "x".repeat(self.rng.random_range(1..3_000))),
            _ => id,
        }
    }

    /// Where it goes.
    fn to(&mut self) -> String {
        match self.rng.random_range(0..100) {
            0..25 => SOCIAL.to_owned(),
            25..50 => at_social(&self.local),
            50..68 => at_social("alice"),
            68..72 => at_social("romeo"),
            72..75 => format!("{SOCIAL}/{}", self.pick(&["rookery", "x", "ß", "a b", "\u{1f469}"])),
            75..79 => format!("{}/{}", at_social("alice"), self.pick(&["rookery", "x", "\u{202e}"])),
            79..83 => at_social(self.pick(&[
                "admin",
                "root",
                "postmaster",
                "hub",
                "timeline",
                "firehose",
                "rookery",
                "nobody",
            ])),
            83..87 => {
                at_social(self.pick(&["mercutio", "nobody-here", "a", "0", "x".repeat(64).as_str(), "a.b", "a..b"]))
            }
            87..91 => at_social(self.pick(&[
                "bob\\40gs.example",
                "bob\\40",
                "\\40gs.example",
                "a\\20b",
                "a\\5c40b",
                "a\\40b\\40c",
            ])),
            91..95 => at_social(self.pick(&["feed~gs.example-1", "tw~12", "guest~0", "~", "feed~", "a~~~b", "x~y"])),
            _ => at_social(self.pick(&[
                "Alice",
                "ALICE",
                "älice",
                "аlice",
                "alice.",
                "-alice",
                "ﬁ",
                "名",
                "\u{1f469}",
                "a%b",
                "a+b",
                "x".repeat(900).as_str(),
            ])),
        }
    }

    fn node(&mut self) -> String {
        match self.rng.random_range(0..100) {
            0..45 => MICROBLOG.to_owned(),
            45..55 => format!("{MICROBLOG}:comments/{}", self.pick(&["keepsake", "i0", "i1", ""])),
            55..85 => self.pick(&LEAVES).to_owned(),
            85..88 => self
                .pick(&[
                    "urn:xmpp:microblog:1",
                    "http://jabber.org/protocol/nick",
                    "urn:xmpp:avatar:data",
                    "timeline",
                    "firehose",
                ])
                .to_owned(),
            _ => self.odd(),
        }
    }

    fn item(&mut self) -> String {
        match self.rng.random_range(0..20) {
            0..15 => format!("i{}", self.rng.random_range(0..20)),
            15 => "keepsake".to_owned(),
            _ => self.odd(),
        }
    }

    /// Domains only that lead nowhere.
    fn jid(&mut self) -> String {
        match self.rng.random_range(0..20) {
            0..9 => self.own.clone(),
            9 => format!("{}/fuzz", self.own),
            10 => {
                let resource = self.pick(&["ß", "x y", "\u{1f469}", "\u{202e}", "x".repeat(1_000).as_str()]).to_owned();
                format!("{}/{resource}", self.own)
            }
            11 => self.own.to_uppercase(),
            12 => format!("alice@{HOST}"),
            13 => at_social("alice"),
            14 => format!("nobody@{HOST}"),
            15 => format!("s{}@{CROWD}", self.rng.random_range(0..9)),
            16 => self
                .pick(&["@", "@/", "a@/b", "", " ", "a b@montague.test", "@montague.test", "montague.test/", "@@//@"])
                .to_owned(),
            17 => self
                .pick(&["a@nowhere.invalid", "nowhere.invalid", "a@[::1]", "a@127.0.0.1", "é@montague.test"])
                .to_owned(),
            _ => SOCIAL.to_owned(),
        }
    }

    /// A text of any kind, mostly short.
    fn odd(&mut self) -> String {
        match self.rng.random_range(0..40) {
            0..30 => self.pick(ODD).to_owned(),
            30..34 => format!("{}{}", self.pick(ODD), self.pick(ODD)),
            34 => self.pick(ODD).repeat(self.rng.random_range(1..300)),
            35 => "x".repeat(self.rng.random_range(1..5_000)),
            36 => "\u{10fffd}".repeat(self.rng.random_range(200..400)),
            37 => "x".repeat(
                *[255, 256, 257, 1_022, 1_023, 1_024, 3_071, 3_072, 8_191, 8_192, 8_193]
                    .get(self.number(0..11))
                    .unwrap_or(&1),
            ),
            38 => (0..self.rng.random_range(1..40)).map(|_| self.character()).collect(),
            _ => self.rng.random::<u64>().to_string(),
        }
    }

    /// Any character of XML 1.0 (production 2).
    fn character(&mut self) -> char {
        loop {
            let code = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(0x20..0x80),
                1 => self.rng.random_range(0x80..0x3000),
                2 => self.rng.random_range(0x3000..0x1_0000),
                _ => self.rng.random_range(0x1_0000..0x11_0000),
            };
            match char::from_u32(code) {
                Some('\u{fffe}' | '\u{ffff}') | None => {}
                Some(c) => return c,
            }
        }
    }

    fn number_text(&mut self) -> String {
        match self.one_in(3) {
            true => self.odd(),
            false => self.rng.random_range(0..300).to_string(),
        }
    }

    // --- Requests

    fn iq(&mut self) -> El {
        let (type_, payload) = match self.rng.random_range(0..100) {
            0..22 => ("set", self.publish()),
            22..36 => ("get", self.pubsub_get()),
            36..56 => ("set", self.pubsub_set()),
            56..72 => self.owner(),
            72..82 => ("get", self.disco()),
            82..88 => self.register(),
            _ => self.other_request(),
        };
        let (id, to) = (self.id(), self.to());
        el("iq", CLIENT).attr("type", type_).attr("id", id).attr("to", to).with(payload)
    }

    fn publish(&mut self) -> El {
        let mut item = el("item", PUBSUB);
        if !self.one_in(4) {
            item = item.attr("id", self.item());
        }
        if !self.one_in(12) {
            let payload = self.payload();
            item = item.with(payload);
        }
        let verb = el("publish", PUBSUB).attr("node", self.node()).with(item);
        let mut request = pubsub(verb);
        if self.one_in(4) {
            let form = self.form("http://jabber.org/protocol/pubsub#publish-options");
            request = request.with(el("publish-options", PUBSUB).with(form));
        }
        request
    }

    fn payload(&mut self) -> El {
        match self.rng.random_range(0..10) {
            0..8 => self.entry(),
            8 => el("x", "u:x").with(el("y", "u:y").attr("a", self.odd())).text(self.odd()),
            _ => {
                let (name, ns) = (self.pick(NAMES), self.pick(SPACES));
                el(name, ns).text(self.odd())
            }
        }
    }

    /// An Atom entry with all that it may have, and what it should not have.
    fn entry(&mut self) -> El {
        const THREAD: &str = "http://purl.org/syndication/thread/1.0";
        const ACTIVITY: &str = "http://activitystrea.ms/spec/1.0/";
        let mut entry = el("entry", ATOM);
        for _ in 0..self.rng.random_range(0..9) {
            let part = match self.rng.random_range(0..14) {
                0..3 => {
                    el("title", ATOM).attr("type", self.pick(&["text", "html", "xhtml", "bogus"])).text(self.words())
                }
                3 => el("id", ATOM).text(self.odd()),
                4 => el("updated", ATOM).text(if self.one_in(2) {
                    "2026-11-22T04:02:04Z".to_owned()
                } else {
                    self.odd()
                }),
                5 => el("published", ATOM).text(self.odd()),
                6 => el("author", ATOM).with(el("name", ATOM).text(self.odd())).with(el("uri", ATOM).text(self.jid())),
                7 => el("link", ATOM)
                    .attr(
                        "rel",
                        self.pick(&["alternate", "replies", "related", "enclosure", "self", "mentioned", "via"]),
                    )
                    .attr("href", self.odd())
                    .attr("type", self.odd()),
                8 => el("content", ATOM).attr("type", self.pick(&["text", "html", "text/html"])).text(self.words()),
                9 => el("content", ATOM).attr("type", "xhtml").with(self.xhtml()),
                10 => el("summary", ATOM).attr("type", "html").text(self.words()),
                11 => el("category", ATOM).attr("term", self.odd()),
                12 => el("in-reply-to", THREAD).attr("ref", self.odd()).attr("href", self.odd()),
                _ => el("object", ACTIVITY)
                    .with(el("object-type", ACTIVITY).text(self.odd()))
                    .with(el("id", ATOM).text(self.odd())),
            };
            entry = entry.with(part);
        }
        entry
    }

    /// Markup as it comes, with what must not go on.
    fn words(&mut self) -> String {
        let pieces = [
            "Good morrow",
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "<a href='javascript:alert(1)'>x</a>",
            "<b><i></b></i>",
            "<svg/onload=alert(1)>",
            "<style>*{x:expression(1)}</style>",
            "<!--",
            "]]>",
            "&lt;script&gt;",
            "&#x0;",
            "<p",
            "</div></div>",
            "http://x.test/?a=1&b=2",
            "@alice",
            "#tag",
            "xmpp:alice@social.montague.test?;node=x",
            "\u{202e}",
            "<math><mi xlink:href='data:x'>",
            "<iframe srcdoc='<script>'>",
            "\n\n",
            "<td>",
        ];
        let n = self.rng.random_range(0..6);
        (0..n)
            .map(|_| if self.one_in(5) { self.odd() } else { self.pick(&pieces).to_owned() })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn xhtml(&mut self) -> El {
        let mut div = el("div", XHTML);
        for _ in 0..self.rng.random_range(0..5) {
            let name =
                self.pick(&["p", "script", "a", "img", "style", "iframe", "table", "td", "b", "form", "object", "x"]);
            let attr = self.pick(&["href", "src", "onclick", "style", "class", "id", "srcset", "action"]);
            div = div.with(el(name, XHTML).attr(attr, self.odd()).text(self.words()));
        }
        div
    }

    fn form(&mut self, form_type: &str) -> El {
        const FIELDS: &[&str] = &[
            "pubsub#access_model",
            "pubsub#publish_model",
            "pubsub#max_items",
            "pubsub#persist_items",
            "pubsub#title",
            "pubsub#description",
            "pubsub#notify_retract",
            "pubsub#notify_delete",
            "pubsub#deliver_payloads",
            "pubsub#send_last_published_item",
            "pubsub#item_expire",
            "pubsub#notification_type",
            "pubsub#type",
            "pubsub#language",
            "pubsub#node_type",
            "pubsub#node",
            "pubsub#subscriber_jid",
            "pubsub#allow",
            "pubsub#subid",
            "pubsub#roster_groups_allowed",
            "pubsub#collection",
            "username",
            "bogus",
            "",
        ];
        const VALUES: &[&str] = &[
            "open",
            "whitelist",
            "authorize",
            "presence",
            "roster",
            "publishers",
            "subscribers",
            "1",
            "0",
            "true",
            "false",
            "10",
            "max",
            "never",
            "on_sub",
            "on_sub_and_presence",
            "headline",
            "normal",
            "leaf",
            "collection",
        ];
        let type_ = self.pick(&["submit", "submit", "submit", "submit", "cancel", "form", "result", "bogus"]);
        let mut form = el("x", FORM).attr("type", type_);
        if !self.one_in(8) {
            let given = if self.one_in(10) { self.odd() } else { form_type.to_owned() };
            form = form.with(
                el("field", FORM).attr("var", "FORM_TYPE").attr("type", "hidden").with(el("value", FORM).text(given)),
            );
        }
        let many = if self.one_in(30) { 400 } else { 6 };
        for _ in 0..self.rng.random_range(0..many) {
            let var = self.pick(FIELDS);
            let mut field = el("field", FORM).attr("var", var);
            for _ in 0..self.rng.random_range(0..3) {
                let value = match self.rng.random_range(0..4) {
                    0 => self.odd(),
                    1 => self.jid(),
                    _ => self.pick(VALUES).to_owned(),
                };
                field = field.with(el("value", FORM).text(value));
            }
            form = form.with(field);
        }
        if self.one_in(20) {
            let inner = self.form("nested");
            form = form.with(inner);
        }
        form
    }

    fn rsm(&mut self) -> El {
        let mut set = el("set", RSM);
        for name in ["max", "after", "before", "index"] {
            if self.one_in(3) {
                let value = if name == "max" { self.number_text() } else { self.item() };
                set = set.with(el(name, RSM).text(value));
            }
        }
        set
    }

    fn pubsub_get(&mut self) -> El {
        let name = self.pick(&["items", "items", "items", "subscriptions", "affiliations", "options", "default"]);
        let mut verb = el(name, PUBSUB);
        if !self.one_in(6) {
            verb = verb.attr("node", self.node());
        }
        if name == "items" {
            if self.one_in(4) {
                verb = verb.attr("max_items", self.number_text());
            }
            if self.one_in(8) {
                verb = verb.attr("subid", self.odd());
            }
            if self.one_in(3) {
                let many = if self.one_in(20) { 300 } else { 4 };
                for _ in 0..self.rng.random_range(1..many) {
                    verb = verb.with(el("item", PUBSUB).attr("id", self.item()));
                }
            }
        }
        let mut request = pubsub(verb);
        if self.one_in(3) {
            let set = self.rsm();
            request = request.with(set);
        }
        request
    }

    fn pubsub_set(&mut self) -> El {
        let node = self.node();
        match self.rng.random_range(0..6) {
            0 => {
                let mut verb =
                    el("retract", PUBSUB).attr("node", node).attr("notify", self.pick(&["true", "1", "0", "maybe"]));
                for _ in 0..self.rng.random_range(0..4) {
                    verb = verb.with(el("item", PUBSUB).attr("id", self.item()));
                }
                pubsub(verb)
            }
            1 => {
                let verb = if self.one_in(5) { el("create", PUBSUB) } else { el("create", PUBSUB).attr("node", node) };
                match self.one_in(2) {
                    true => pubsub(verb)
                        .with(el("configure", PUBSUB).with(self.form("http://jabber.org/protocol/pubsub#node_config"))),
                    false => pubsub(verb),
                }
            }
            2 | 3 => {
                let verb = el("subscribe", PUBSUB).attr("node", node).attr("jid", self.jid());
                match self.one_in(5) {
                    true => pubsub(verb).with(
                        el("options", PUBSUB).with(self.form("http://jabber.org/protocol/pubsub#subscribe_options")),
                    ),
                    false => pubsub(verb),
                }
            }
            4 => {
                let verb = el("unsubscribe", PUBSUB).attr("node", node).attr("jid", self.jid());
                let verb = if self.one_in(4) { verb.attr("subid", self.odd()) } else { verb };
                pubsub(verb)
            }
            _ => {
                let form = self.form("http://jabber.org/protocol/pubsub#subscribe_options");
                pubsub(el("options", PUBSUB).attr("node", node).attr("jid", self.jid()).with(form))
            }
        }
    }

    fn owner(&mut self) -> (&'static str, El) {
        let node = self.node();
        let verb = |name: &str| el(name, OWNER).attr("node", node.clone());
        let (type_, verb) = match self.rng.random_range(0..12) {
            0 => ("get", verb("configure")),
            1 => ("get", el("default", OWNER)),
            2 => ("get", verb("subscriptions")),
            3 => ("get", verb("affiliations")),
            4..7 => ("set", verb("configure").with(self.form("http://jabber.org/protocol/pubsub#node_config"))),
            7 => ("set", verb("delete")),
            8 => ("set", verb("purge")),
            9 => {
                let states = ["none", "subscribed", "pending", "unconfigured", "bogus"];
                let entry =
                    |g: &mut Self| el("subscription", OWNER).attr("jid", g.jid()).attr("subscription", g.pick(&states));
                let n = self.rng.random_range(0..4);
                ("set", verb("subscriptions").with_all((0..n).map(|_| entry(self)).collect::<Vec<_>>()))
            }
            _ => {
                let kinds = ["none", "owner", "publisher", "publish-only", "member", "outcast", "bogus"];
                let entry =
                    |g: &mut Self| el("affiliation", OWNER).attr("jid", g.jid()).attr("affiliation", g.pick(&kinds));
                let n = self.rng.random_range(0..4);
                ("set", verb("affiliations").with_all((0..n).map(|_| entry(self)).collect::<Vec<_>>()))
            }
        };
        (type_, el("pubsub", OWNER).with(verb))
    }

    fn disco(&mut self) -> El {
        let mut query = el("query", self.pick(&DISCO));
        if self.one_in(2) {
            let node = if self.one_in(5) { format!("https://{SOCIAL}#{}", self.odd()) } else { self.node() };
            query = query.attr("node", node);
        }
        if self.one_in(4) {
            let set = self.rsm();
            query = query.with(set);
        }
        query
    }

    fn register(&mut self) -> (&'static str, El) {
        const REGISTER: &str = "jabber:iq:register";
        let query = el("query", REGISTER);
        match self.rng.random_range(0..30) {
            0..10 => ("get", query),
            10..18 => ("set", query.with(el("username", REGISTER).text(self.local.clone()))),
            18..26 => (
                "set",
                query.with(el("username", REGISTER).text(self.odd())).with(el("password", REGISTER).text(self.odd())),
            ),
            26 if self.may_leave && self.one_in(20) => ("set", query.with(el("remove", REGISTER))),
            _ => ("set", query.with(self.form(REGISTER))),
        }
    }

    /// Small requests, and such that are not served here.
    fn other_request(&mut self) -> (&'static str, El) {
        let (name, ns) = [
            ("ping", "urn:xmpp:ping"),
            ("query", "jabber:iq:version"),
            ("time", "urn:xmpp:time"),
            ("query", "jabber:iq:last"),
            ("query", "jabber:iq:roster"),
            ("query", "jabber:iq:private"),
            ("vCard", "vcard-temp"),
            ("command", "http://jabber.org/protocol/commands"),
            ("query", "urn:xmpp:mam:2"),
            ("block", "urn:xmpp:blocking"),
            ("request", "urn:xmpp:http:upload:0"),
            ("query", "jabber:iq:search"),
            ("x", "u:x"),
        ][self.number(0..13)];
        let payload = el(name, ns);
        let payload = match self.rng.random_range(0..3) {
            0 => payload.attr("node", self.node()).attr("action", self.odd()),
            1 => payload.with(self.form(ns)),
            _ => payload,
        };
        (if self.one_in(3) { "set" } else { "get" }, payload)
    }

    // --- Messages and presence

    fn message(&mut self) -> El {
        let type_ = self.pick(&["chat", "chat", "chat", "normal", "headline", "groupchat", "error", "bogus", ""]);
        let (id, to) = (self.id(), self.to());
        let mut message = el("message", CLIENT).attr("id", id).attr("to", to);
        if !self.one_in(4) {
            message = message.attr("type", type_);
        }
        for _ in 0..self.rng.random_range(1..3) {
            let part = match self.rng.random_range(0..12) {
                0..6 => {
                    let word = self.pick(&[
                        "help",
                        "post",
                        "follow",
                        "unfollow",
                        "list",
                        "POST",
                        "hélp",
                        "post\u{a0}x",
                        "dance",
                        "",
                    ]);
                    let rest = match self.rng.random_range(0..4) {
                        0 => self.jid(),
                        1 => self.odd(),
                        2 => self.words(),
                        _ => "alice".to_owned(),
                    };
                    el("body", CLIENT).text(format!("{word} {rest}"))
                }
                6 => self.form("http://jabber.org/protocol/pubsub#subscribe_authorization"),
                7 => {
                    let items = el("items", EVENT)
                        .attr("node", self.node())
                        .with(el("item", EVENT).attr("id", self.item()).with(self.payload()));
                    el("event", EVENT).with(items)
                }
                8 => self.error(),
                9 => el("thread", CLIENT).text(self.odd()),
                10 => el(
                    self.pick(&["delay", "sent", "received", "request", "active", "encrypted", "html", "replace"]),
                    self.pick(&[
                        "urn:xmpp:delay",
                        "urn:xmpp:carbons:2",
                        "urn:xmpp:receipts",
                        "http://jabber.org/protocol/xhtml-im",
                        "u:x",
                    ]),
                )
                .attr("stamp", self.odd()),
                _ => el("subject", CLIENT)
                    .attr("xml:lang", self.pick(&["en", "x-klingon", "", "zz-ZZ-zz"]))
                    .text(self.odd()),
            };
            message = message.with(part);
        }
        message
    }

    fn error(&mut self) -> El {
        let condition = self.pick(&[
            "gone",
            "item-not-found",
            "service-unavailable",
            "remote-server-timeout",
            "policy-violation",
            "bogus",
        ]);
        el("error", CLIENT)
            .attr("type", self.pick(&["cancel", "wait", "auth", "modify", "bogus", ""]))
            .with(el(condition, STANZAS).text(self.odd()))
            .with(el("text", STANZAS).text(self.odd()))
    }

    fn presence(&mut self) -> El {
        let types =
            ["subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe", "unavailable", "error", "bogus"];
        let (id, to) = (self.id(), self.to());
        let mut presence = el("presence", CLIENT).attr("id", id).attr("to", to);
        if !self.one_in(4) {
            presence = presence.attr("type", self.pick(&types));
        }
        if self.one_in(3) {
            presence = presence.with(el("show", CLIENT).text(self.pick(&["away", "dnd", "bogus", ""])));
        }
        if self.one_in(3) {
            presence = presence.with(el("priority", CLIENT).text(self.number_text()));
        }
        if self.one_in(3) {
            let caps = el("c", "http://jabber.org/protocol/caps");
            presence = presence.with(
                caps.attr("hash", self.pick(&["sha-1", "md5", ""])).attr("node", self.odd()).attr("ver", self.odd()),
            );
        }
        if self.one_in(6) {
            presence =
                presence.with(el("x", "vcard-temp:x:update").with(el("photo", "vcard-temp:x:update").text(self.odd())));
        }
        presence
    }

    // --- Changes

    fn change(&mut self, tree: &mut El) {
        let size = tree.size();
        let place = self.number(0..size);
        // The stanza itself stays one, and goes to us: what a server does with others is its own affair.
        let root = place == 0;
        let what = self.rng.random_range(0..100);
        let (odd, name, ns) = (self.odd(), self.pick(NAMES), self.pick(SPACES));
        let attr = self.pick(&[
            "node",
            "id",
            "jid",
            "type",
            "xml:lang",
            "subid",
            "x",
            "xmlns:q",
            "notify",
            "label",
            "var",
            "publisher",
            "é",
        ]);
        let other = self.other_request().1;
        let extra = self.payload();
        let (huge, many, levels) =
            (self.rng.random_range(1_000..60_000), self.rng.random_range(2..200), self.rng.random_range(1..100));
        let huge = if self.one_in(8) { huge * 3 } else { huge };
        let thousands = if self.one_in(6) { many * 15 } else { many };
        let pick = self.rng.random::<u32>() as usize;
        let Some(el_) = tree.at(place) else { return };
        let (attrs, parts) = (el_.attrs.len(), el_.parts.len());
        match what {
            0..12 if attrs > 0 => {
                let kept = root
                    && ["to", "id", "from"].contains(&el_.attrs[pick % attrs].0.as_str())
                    && !pick.is_multiple_of(8);
                if !kept {
                    el_.attrs.remove(pick % attrs);
                }
            }
            12..30 if attrs > 0 => {
                let at = pick % attrs;
                let name = el_.attrs[at].0.as_str();
                // A namespace that is bound to nothing, or to what XML keeps for itself, is not well-formed.
                if !(root && ["to", "id", "from"].contains(&name)) && name != "xmlns:q" {
                    el_.attrs[at].1 = odd;
                }
            }
            30..36 if !(root && attr == "id") => {
                el_.set(attr, if attr == "xmlns:q" { "u:q".to_owned() } else { odd });
            }
            36..42 if !root => el_.name = name.to_owned(),
            42..50 if !root => el_.ns = ns.to_owned(),
            50..56 if parts > 0 => {
                let copy = el_.parts[pick % parts].clone();
                el_.parts.push(copy);
            }
            56..63 if parts > 0 => drop(el_.parts.remove(pick % parts)),
            63..66 => el_.parts.reverse(),
            66..72 => el_.parts.insert(pick % (parts + 1), Part::Text(odd)),
            72..78 => el_.parts.insert(pick % (parts + 1), Part::El(extra)),
            78..82 => el_.parts.insert(pick % (parts + 1), Part::El(other)),
            82..86 if !root => {
                let mut inner = el_.clone();
                for _ in 0..levels {
                    inner = el(&el_.name, &el_.ns).with(inner);
                }
                *el_ = inner;
            }
            86..89 => el_.parts.push(Part::Text(odd.chars().cycle().take(huge / odd.len().max(1) + 1).collect())),
            89..92 => el_.parts.push(Part::Text("x".repeat(huge))),
            92..94 => {
                let copy = if parts > 0 { el_.parts[pick % parts].clone() } else { Part::El(el(name, ns)) };
                let fits = 200_000 / weight(&copy).max(1);
                el_.parts.extend(std::iter::repeat_n(copy, thousands.min(fits)));
            }
            94 => {
                // What costs a few bytes each on the wire, and may cost a copy of the namespace each in memory.
                let long = "n".repeat(8_000);
                let mut wide = el("y", &long);
                wide.parts.extend(std::iter::repeat_n(Part::El(el("a", &long)), 100 * many));
                el_.parts.push(Part::El(wide));
            }
            95..97 => {
                for n in 0..many {
                    el_.set(&format!("a{n}"), "x");
                }
            }
            97 if attrs > 0 && !root => {
                let at = pick % attrs;
                if el_.attrs[at].0 != "xmlns:q" {
                    el_.attrs[at].1 = "x".repeat(huge / 2);
                }
            }
            98 if root => el_.set("type", self.pick(&["get", "set", "result", "error", "bogus", "chat", "subscribe"])),
            _ => {
                let copy = el_.clone();
                if !root {
                    el_.parts.push(Part::El(copy));
                }
            }
        }
    }
}

fn pubsub(verb: El) -> El {
    el("pubsub", PUBSUB).with(verb)
}

/// About the bytes of a part.
fn weight(part: &Part) -> usize {
    match part {
        Part::Text(text) => text.len(),
        Part::El(el) => {
            let attrs: usize = el.attrs.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
            2 * el.name.len() + el.ns.len() + 14 + attrs + el.parts.iter().map(weight).sum::<usize>()
        }
    }
}
