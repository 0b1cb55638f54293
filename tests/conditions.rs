//! Every row of the table of refusals (XEP-0060's and ours) comes over the wire exactly as the table says.

#[allow(dead_code, reason = "the other half serves tests/scenarios.rs")]
#[path = "scenarios/runner.rs"]
mod runner;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minidom::Element;
use rookery::domain::error::{Refusal, Row, TABLE};
use rookery::service::{Quota, Registration};
use rookery::store::MemoryKv;
use rookery::store::kv::{self, Kv, KvError};
use rookery::xmpp::envelope::{Head, Refused};
use rookery::xmpp::framer::{self, Frame, Framer};
use rookery::xmpp::limits::{Limits, Rate};
use rookery::xmpp::ns;

use runner::{PEOPLE, Setup, World};

/// What happens before: a node of juliet's with a configuration.
fn node(fields: &[(&str, &str)]) -> String {
    let fields: String =
        fields.iter().map(|(var, value)| format!("<field var='pubsub#{var}'><value>{value}</value></field>")).collect();
    format!(
        "juliet sends\n<iq type='set' id='c' to='social.example.org'><pubsub xmlns='{}'><create node='n'/>\
         <configure><x xmlns='jabber:x:data' type='submit'>{fields}</x></configure></pubsub></iq>\n\n\
         juliet receives\n<iq type='result' id='c'/>\n\n",
        ns::PUBSUB
    )
}

/// Somebody's request that is granted.
fn granted(who: &str, type_: &str, to: &str, child: &str) -> String {
    format!("{}\n{who} receives\n<iq type='result' id='q'/>\n\n", asks(who, type_, to, child))
}

/// Somebody's request.
fn asks(who: &str, type_: &str, to: &str, child: &str) -> String {
    format!("{who} sends\n<iq type='{type_}' id='q' to='{to}'>{child}</iq>\n")
}

fn pubsub(inner: &str) -> String {
    format!("<pubsub xmlns='{}'>{inner}</pubsub>", ns::PUBSUB)
}

fn owner(inner: &str) -> String {
    format!("<pubsub xmlns='{}'>{inner}</pubsub>", ns::OWNER)
}

const C: &str = "social.example.org";
const JULIET: &str = "juliet@example.org/balcony";
const ITEM: &str = "<publish node='n'><item id='i'><x xmlns='y'/></item></publish>";
const ROMEO: &str = "jid='romeo@example.org'";

/// The script whose last request, of the person named, is refused so.
fn script(refusal: Refusal) -> (&'static str, String) {
    let romeo_is = |what: &str| {
        let child =
            owner(&format!("<affiliations node='n'><affiliation {ROMEO} affiliation='{what}'/></affiliations>"));
        granted("juliet", "set", C, &child)
    };
    let set = |inner: &str| asks("juliet", "set", C, &pubsub(inner));
    let own = |inner: &str| asks("juliet", "set", C, &owner(inner));
    let get = |inner: &str| asks("juliet", "get", C, &pubsub(inner));
    let romeo_sets = |inner: &str| asks("romeo", "set", C, &pubsub(inner));
    let romeo_owns = |inner: &str| asks("romeo", "set", C, &owner(inner));
    let subscribe = format!("<subscribe node='n' {ROMEO}/>");
    let configure = |field: &str, value: &str| {
        format!(
            "<configure node='n'><x xmlns='jabber:x:data' type='submit'><field var='{field}'><value>{value}</value>\
             </field></x></configure>"
        )
    };
    let published = || node(&[("publish_model", "open")]) + &granted("juliet", "set", C, &pubsub(ITEM));
    let register = |name: &str| format!("<query xmlns='jabber:iq:register'><username>{name}</username></query>");
    let juliet = |script: String| ("juliet", script);
    let romeo = |script: String| ("romeo", script);
    use Refusal::*;
    match refusal {
        SubscriberNotSender => juliet(node(&[]) + &set("<subscribe node='n' jid='romeo@example.org'/>")),
        PresenceRequired => romeo(node(&[("access_model", "presence")]) + &romeo_sets(&subscribe)),
        ClosedNode => romeo(node(&[("access_model", "whitelist")]) + &romeo_sets(&subscribe)),
        PendingSubscription => romeo(
            node(&[("access_model", "authorize")])
                + &granted("romeo", "set", C, &pubsub(&subscribe))
                + &romeo_sets(&subscribe),
        ),
        RetrieveUnsubscribed => romeo(
            node(&[("access_model", "authorize")])
                + &granted("romeo", "set", C, &pubsub(&subscribe))
                + &asks("romeo", "get", C, &pubsub("<items node='n'/>")),
        ),
        Outcast => romeo(node(&[]) + &romeo_is("outcast") + &romeo_sets(&subscribe)),
        TooManySubscriptions => {
            let to = |node: &str| pubsub(&format!("<subscribe node='{node}' {ROMEO}/>"));
            romeo(
                node(&[])
                    + &granted("juliet", "set", C, &pubsub("<create node='m'/>"))
                    + &granted("romeo", "set", C, &to("n"))
                    + &asks("romeo", "set", C, &to("m")),
            )
        }
        SubscribeOff => romeo(node(&[("subscribe", "0")]) + &romeo_sets(&subscribe)),
        NodeNotFound => juliet(get("<items node='nowhere'/>")),
        NotSubscribed => romeo(node(&[]) + &romeo_sets(&format!("<unsubscribe node='n' {ROMEO}/>"))),
        InsufficientPrivileges => juliet(node(&[]) + &set(&format!("<unsubscribe node='n' {ROMEO}/>"))),
        InvalidSubid => romeo(
            node(&[])
                + &granted("romeo", "set", C, &pubsub(&subscribe))
                + &romeo_sets(&format!("<unsubscribe node='n' subid='other' {ROMEO}/>")),
        ),
        SubscriptionOptionsUnsupported => {
            romeo(node(&[]) + &asks("romeo", "get", C, &pubsub(&format!("<options node='n' {ROMEO}/>"))))
        }
        DefaultOptionsUnsupported => juliet(get("<default node='n'/>")),
        RetrieveForbidden => {
            romeo(node(&[]) + &romeo_is("outcast") + &asks("romeo", "get", C, &pubsub("<items node='n'/>")))
        }
        PublishForbidden => romeo(node(&[]) + &romeo_sets(ITEM)),
        PublishNodeNotFound => ("nurse", asks("nurse", "set", C, &pubsub(ITEM))),
        PayloadTooBig(_) => juliet(node(&[("max_payload_size", "5")]) + &set(ITEM)),
        InvalidPayload => {
            juliet(node(&[]) + &set("<publish node='n'><item><x xmlns='y'/><x xmlns='y'/></item></publish>"))
        }
        PayloadRequired => juliet(node(&[]) + &set("<publish node='n'><item id='i'/></publish>")),
        ItemRequired => juliet(node(&[]) + &set("<publish node='n'/>")),
        InvalidItemId => {
            juliet(node(&[]) + &set("<publish node='n'><item id='a&#10;b'><x xmlns='y'/></item></publish>"))
        }
        ItemIdTooLong(_) => juliet(
            node(&[])
                + &set(&format!("<publish node='n'><item id='{}'><x xmlns='y'/></item></publish>", "a".repeat(257))),
        ),
        PreconditionNotMet => juliet(
            node(&[])
                + &set(&format!(
                    "{ITEM}<publish-options><x xmlns='jabber:x:data' type='submit'><field var='pubsub#access_model'>\
                     <value>whitelist</value></field></x></publish-options>"
                )),
        ),
        OverwriteForbidden => romeo(published() + &romeo_sets(ITEM)),
        RetractForbidden => romeo(published() + &romeo_sets("<retract node='n'><item id='i'/></retract>")),
        ItemNotFound => juliet(
            node(&[])
                + &granted("juliet", "set", C, &pubsub(ITEM))
                + &set("<retract node='n'><item id='j'/></retract>"),
        ),
        NodeIdRequired => juliet(set("<retract><item id='i'/></retract>")),
        RetractItemRequired => juliet(node(&[]) + &set("<retract node='n'/>")),
        TooManyItems(_) => {
            let items: String = (0..51).map(|n| format!("<item id='{n}'/>")).collect();
            juliet(published() + &set(&format!("<retract node='n'>{items}</retract>")))
        }
        PersistentItemsOff => {
            juliet(node(&[("persist_items", "0")]) + &set("<retract node='n'><item id='i'/></retract>"))
        }
        CreateForbidden => ("nurse", asks("nurse", "set", C, &pubsub("<create node='m'/>"))),
        NodeExists => juliet(node(&[]) + &set("<create node='n'/>")),
        TooManyNodes => juliet(node(&[]) + &set("<create node='m'/>")),
        InvalidNodeName => juliet(set("<create node='a&#9;b'/>")),
        UnsupportedAccessModel => juliet(node(&[]) + &own(&configure("pubsub#access_model", "roster"))),
        CollectionsUnsupported => juliet(node(&[]) + &own(&configure("pubsub#node_type", "collection"))),
        ConfigureForbidden => romeo(node(&[]) + &romeo_owns(&configure("pubsub#title", "t"))),
        ConfigureNodeIdRequired => juliet(own("<configure><x xmlns='jabber:x:data' type='submit'/></configure>")),
        InvalidOptions => juliet(node(&[]) + &own(&configure("pubsub#max_items", "few"))),
        OwnerNodeNotFound => juliet(own("<delete node='nowhere'/>")),
        DeleteForbidden => romeo(node(&[]) + &romeo_owns("<delete node='n'/>")),
        PurgeForbidden => romeo(node(&[]) + &romeo_owns("<purge node='n'/>")),
        PurgePersistentItemsOff => juliet(node(&[("persist_items", "0")]) + &own("<purge node='n'/>")),
        ManageForbidden => romeo(
            node(&[])
                + &romeo_owns(&format!(
                    "<affiliations node='n'><affiliation {ROMEO} affiliation='owner'/></affiliations>"
                )),
        ),
        InvalidSubscriptionState => juliet(
            node(&[])
                + &own(&format!(
                    "<subscriptions node='n'><subscription {ROMEO} subscription='unconfigured'/></subscriptions>"
                )),
        ),
        InvalidAffiliation => juliet(
            node(&[])
                + &own(
                    "<affiliations node='n'><affiliation jid='juliet@example.org' affiliation='none'/></affiliations>",
                ),
        ),
        TooManyAffiliations => {
            let members = |from: usize, to: usize| {
                let all: String =
                    (from..to).map(|n| format!("<affiliation jid='a{n}@example.org' affiliation='member'/>")).collect();
                owner(&format!("<affiliations node='n'>{all}</affiliations>"))
            };
            // With its owner two thousand.
            let full: String =
                (0..20).map(|n| granted("juliet", "set", C, &members(n * 100, (n * 100 + 100).min(1999)))).collect();
            juliet(node(&[]) + &full + &asks("juliet", "set", C, &members(1999, 2000)))
        }
        TooManyChanges => {
            let many: String =
                (0..101).map(|n| format!("<affiliation jid='a{n}@example.org' affiliation='member'/>")).collect();
            juliet(node(&[]) + &own(&format!("<affiliations node='n'>{many}</affiliations>")))
        }
        RegistrationRequired => juliet(asks("juliet", "set", C, "<query xmlns='jabber:iq:register'><remove/></query>")),
        NameTaken => {
            romeo(granted("juliet", "set", C, &register("rose")) + &asks("romeo", "set", C, &register("rose")))
        }
        NotYourName => romeo(asks("romeo", "set", C, &register("juliet"))),
        TooManyNames => {
            let ten: String = (0..10).map(|n| granted("juliet", "set", C, &register(&format!("rose{n}")))).collect();
            juliet(ten + &asks("juliet", "set", C, &register("rose10")))
        }
        NameReserved => juliet(asks("juliet", "set", C, &register("postmaster"))),
        RegistrationClosed => juliet(asks("juliet", "set", C, &register("juliet"))),
        NoSuchAccount => romeo(asks("romeo", "get", "juliet@social.example.org", &pubsub("<items node='n'/>"))),
        BadRequest => juliet(asks("juliet", "get", C, "<a xmlns='b'/><a xmlns='b'/>")),
        Unsupported => juliet(
            node(&[]) + &get("<items node='n'/><set xmlns='http://jabber.org/protocol/rsm'><index>1</index></set>"),
        ),
        UnknownRequest => juliet(asks("juliet", "get", C, "<a xmlns='b'/>")),
        Busy => juliet(
            granted("juliet", "get", C, "<ping xmlns='urn:xmpp:ping'/>")
                + &asks("juliet", "get", C, "<ping xmlns='urn:xmpp:ping'/>"),
        ),
        // Brought by the framer's limit: see `play_big`.
        StanzaTooBig => juliet(String::new()),
        TooManyFields(_) => {
            let fields = "<field var='pubsub#title'><value/></field>".repeat(201);
            let form = format!("<configure node='n'><x xmlns='jabber:x:data' type='submit'>{fields}</x></configure>");
            juliet(node(&[]) + &own(&form))
        }
        AnswerTooBig(_) => juliet(asks("juliet", "get", C, &owner("<default/>"))),
        Failed => juliet(get("<items node='unlucky!'/>")),
        StoreFailed => juliet(set("<create node='n'/>")),
    }
}

fn setup(refusal: Refusal) -> Setup {
    let ordinary = Setup::default();
    match refusal {
        Refusal::Busy => {
            let one = Rate { per_second: 0.0, burst: 1.0 };
            Setup { limits: Limits { per_jid: one, ..Limits::default() }, ..ordinary }
        }
        Refusal::AnswerTooBig(_) => Setup { limits: Limits { answer_bytes: 1_000, ..Limits::default() }, ..ordinary },
        Refusal::StoreFailed => Setup { kv: Arc::new(FullDisk::default()), ..ordinary },
        Refusal::TooManySubscriptions => Setup { quota: Quota { subscriptions: 1, ..Quota::default() }, ..ordinary },
        Refusal::TooManyNodes => Setup { quota: Quota { nodes: 1, ..Quota::default() }, ..ordinary },
        Refusal::Failed => Setup { kv: Arc::new(Panicky::default()), ..ordinary },
        Refusal::NameTaken | Refusal::TooManyNames => Setup { registration: Registration::Open, ..ordinary },
        Refusal::RegistrationClosed => Setup { registration: Registration::Closed, ..ordinary },
        _ => ordinary,
    }
}

/// A disk on which nothing can be written after the store was opened.
#[derive(Default)]
struct FullDisk {
    kv: MemoryKv,
    opened: AtomicBool,
}

impl Kv for FullDisk {
    fn get(&self, key: &[u8]) -> kv::Result<Option<bytes::Bytes>> {
        self.kv.get(key)
    }
    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> kv::Result<Vec<kv::Row>> {
        self.kv.range(from, to, limit, reverse)
    }
    fn apply(&self, batch: &[kv::Write]) -> kv::Result<()> {
        match self.opened.swap(true, Ordering::Relaxed) {
            false => self.kv.apply(batch),
            true => Err(KvError::Full("no room".into())),
        }
    }
    fn moment(&self) -> Option<Box<dyn kv::Read + '_>> {
        None
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// A database with a bug: it panics where it is asked for a node of a certain name.
#[derive(Default)]
struct Panicky(MemoryKv);

impl Kv for Panicky {
    fn get(&self, key: &[u8]) -> kv::Result<Option<bytes::Bytes>> {
        assert!(!key.windows(8).any(|part| part == b"unlucky!"), "on purpose");
        self.0.get(key)
    }
    fn range(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> kv::Result<Vec<kv::Row>> {
        self.0.range(from, to, limit, reverse)
    }
    fn apply(&self, batch: &[kv::Write]) -> kv::Result<()> {
        self.0.apply(batch)
    }
    fn moment(&self) -> Option<Box<dyn kv::Read + '_>> {
        None
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// A stanza over the link's limits comes as the link has read it.
fn play_big(world: &World) {
    let limits = framer::Limits { stanza_bytes: 10_000, ..framer::Limits::default() };
    let mut framer = Framer::new(limits);
    let stanza = format!("<iq type='get' id='q' from='{JULIET}' to='{C}'><x xmlns='y'>{}</x></iq>", "x".repeat(20_000));
    let bytes = format!("<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>{stanza}");
    framer.buffer().extend_from_slice(bytes.as_bytes());
    while let Some(frame) = framer.next().unwrap() {
        if let Frame::Skipped(skipped) = frame {
            let why = skipped.why.told(&limits, skipped.bytes);
            assert_eq!(why, format!("stanza too big: {} bytes, at most 10000 are taken", stanza.len()));
            let head = Head::salvage(&skipped.head);
            world.brings(Refused { head, refusal: Refusal::StanzaTooBig, why: Refusal::StanzaTooBig.to_string() });
        }
    }
}

/// Holds the rule: type, condition, PubSub condition and feature are those of the row, and nothing else.
fn check(row: &Row, answer: &Element) {
    let name = format!("{:?}: {}", row.refusal, String::from(answer));
    assert_eq!(answer.attr("type"), Some("error"), "{name}");
    let error = answer.children().find(|c| c.name() == "error").expect(&name);
    assert_eq!(error.attr("type"), Some(row.kind.as_str()), "{name}");
    let stanzas = "urn:ietf:params:xml:ns:xmpp-stanzas";
    let conditions: Vec<_> = error.children().filter(|c| c.ns() == stanzas && c.name() != "text").collect();
    assert_eq!(conditions.iter().map(|c| c.name()).collect::<Vec<_>>(), [row.condition], "{name}");
    let own: Vec<_> = error.children().filter(|c| c.ns() == ns::PUBSUB_ERRORS).collect();
    assert_eq!(own.iter().map(|c| c.name()).collect::<Vec<_>>(), row.pubsub.into_iter().collect::<Vec<_>>(), "{name}");
    assert_eq!(own.first().and_then(|c| c.attr("feature")), row.feature, "{name}");
    // Rows that look alike are told apart by what a person reads.
    let text = error.get_child("text", stanzas).expect(&name).text();
    match row.unit {
        None => assert_eq!(text, row.text, "{name}"),
        Some(unit) => {
            // What came and what is taken, in figures.
            let figures = text.strip_prefix(row.text).and_then(|rest| rest.strip_prefix(": ")).expect(&name);
            let words: Vec<&str> = figures.split([' ', ',']).filter(|word| !word.is_empty()).collect();
            let [size, unit_told, "at", "most", most, "are", "taken"] = words[..] else { panic!("{name}") };
            let (size, most): (usize, usize) = (size.parse().expect(&name), most.parse().expect(&name));
            assert!(unit_told == unit && size > most && most > 0, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_a_limit_is_answered_whatever_it_was_addressed_to() {
    for to in [" to='@@'", " to='social.example.org/\u{1f469}'", " to='elsewhere.example'", ""] {
        let world = World::new(Setup::default());
        let head = Head::salvage(format!("<iq type='get' id='q' from='{JULIET}'{to}>").as_bytes());
        let why = Refusal::StanzaTooBig.to_string();
        world.brings(Refused { head, refusal: Refusal::StanzaTooBig, why });
        let answer = world.answer(JULIET, "q").await.unwrap_or_else(|| panic!("{to}: no answer"));
        assert_eq!((answer.attr("type"), answer.attr("from")), (Some("error"), Some(C)), "{to}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_told_as_its_row_says() {
    for row in TABLE {
        let (who, script) = script(row.refusal);
        let mut world = World::new(setup(row.refusal));
        world.play(&format!("{:?}", row.refusal), &script).await;
        if row.refusal == Refusal::StanzaTooBig {
            play_big(&world);
        }
        let jid = PEOPLE.iter().find(|(name, _)| *name == who).unwrap().1;
        let answer = world.answer(jid, "q").await.unwrap_or_else(|| panic!("{:?}: no answer", row.refusal));
        check(row, &answer);
        assert!(world.rest().await.is_empty(), "{:?}: more than one answer", row.refusal);
    }
    println!("{} rows, each brought about and told as it stands", TABLE.len());
}
