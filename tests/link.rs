//! The link to the XMPP server (XEP-0114) against a server that the test plays.

#[path = "support/fake_server.rs"]
mod fake_server;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fake_server::{COMPONENT, FakeServer, HOST, Peer, SECRET};
use jid::{BareJid, Jid};
use rookery::base::clock::{Clock, Timestamp};
use rookery::base::id::Ids;
use rookery::base::shutdown::{self, Phase, Trigger};
use rookery::xmpp::envelope::{Envelope, Incoming, Kind, Stanza, StanzaType, Xml, XmlWriter};
use rookery::xmpp::link::{
    self, Instance, IqError, IqType, LinkConfig, LinkHandle, LinkLost, LinkState, Position, SendError, Trouble,
};
use tokio::task::JoinHandle;

/// A link that answers every iq get with an empty result.
struct Rig {
    link: LinkHandle,
    run: JoinHandle<()>,
    trigger: Trigger,
}

fn config(server: &FakeServer) -> LinkConfig {
    let jid = BareJid::new(COMPONENT).unwrap();
    let mut config = LinkConfig::new(jid, server.address(), SECRET.to_owned(), BareJid::new(HOST).unwrap());
    config.backoff = Duration::from_millis(10);
    config.backoff_max = Duration::from_millis(50);
    config
}

fn start(config: LinkConfig, clock: Clock) -> Rig {
    let (trigger, shutdown) = shutdown::channel();
    let handle: Arc<std::sync::OnceLock<LinkHandle>> = Arc::default();
    let for_handler = handle.clone();
    let handler = Arc::new(move |incoming: Incoming| {
        let answer = match incoming {
            Incoming::Stanza(stanza) => stanza.head.result(Xml::default()),
            Incoming::Refused(refused) => refused.answer(),
        };
        if let Some(answer) = answer {
            let _ = for_handler.get().expect("set before the link runs").answer(answer);
        }
    });
    let (link, run) = link::new(config, clock, Ids::seeded(1), shutdown, handler);
    let _ = handle.set(link.clone());
    Rig { link, run: tokio::spawn(run), trigger }
}

async fn up(server: &FakeServer) -> (Rig, Peer) {
    up_with(server, config(server), Clock::system()).await
}

async fn up_with(server: &FakeServer, config: LinkConfig, clock: Clock) -> (Rig, Peer) {
    let rig = start(config, clock);
    let peer = server.login().await;
    rig.link.online().await.expect("the link comes up");
    (rig, peer)
}

async fn reaches(rig: &Rig, what: &str, is: impl Fn(&LinkState) -> bool) -> LinkState {
    let mut state = rig.link.state();
    let found = tokio::time::timeout(Duration::from_secs(20), state.wait_for(|s| is(s))).await;
    found.unwrap_or_else(|_| panic!("{what}: {:?}", rig.link.state().borrow())).expect("the link lives").clone()
}

/// A message of about `bytes` to Romeo.
fn message(id: &str, bytes: usize) -> Stanza {
    let body = XmlWriter::new().leaf("body", "", &"x".repeat(bytes)).finish();
    Stanza::message(&Jid::new(COMPONENT).unwrap(), &Jid::new("romeo@example.org").unwrap(), None, Some(id), body)
}

fn id(envelope: &Envelope) -> &str {
    envelope.head.id.as_deref().unwrap_or_default()
}

fn is_ping(envelope: &Envelope) -> bool {
    envelope.child("ping", "urn:xmpp:ping").is_some()
}

/// The ping that the component sends next, whatever comes before it.
async fn next_ping(peer: &mut Peer) -> Envelope {
    loop {
        let envelope = peer.expect("a ping").await;
        if is_ping(&envelope) {
            return envelope;
        }
    }
}

#[tokio::test]
async fn whatever_a_user_sends_the_link_lives_and_answers_only_where_an_answer_is_due() {
    let server = FakeServer::start().await;
    let (_rig, mut peer) = up(&server).await;
    let iq = |inner: &str| {
        format!("<iq from='mallory@example.org/x' to='{COMPONENT}' id='evil' type='set'>{inner}</iq>").into_bytes()
    };
    let message = |attributes: &str, inner: &str| {
        format!("<message from='mallory@example.org/x' to='{COMPONENT}' {attributes}>{inner}</message>").into_bytes()
    };
    let presence = |inner: &str| {
        format!("<presence from='mallory@example.org/x' to='{COMPONENT}'>{inner}</presence>").into_bytes()
    };
    let raw = |text: &str| text.as_bytes().to_vec();
    let deep = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
    let (bad, policy) = (Some("bad-request"), Some("policy-violation"));
    let query = "<q xmlns='urn:q'/>";
    // The error that is due; `Some("")`: a result.
    let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("message of bogus type", message("type='bogus'", "<body>b</body>"), None),
        ("presence with a bogus show", presence("<show>bogus</show>"), None),
        ("presence of priority 999", presence("<priority>999</priority>"), None),
        ("two threads", message("", "<thread>1</thread><thread>2</thread>"), None),
        ("text in a message", message("", "text"), None),
        ("iq without a child", iq(""), bad),
        ("iq with two children", iq("<q xmlns='urn:q'/><q xmlns='urn:q'/>"), bad),
        ("iq error without an error", raw("<iq from='m@example.org' to='c.example.org' id='e' type='error'/>"), None),
        (
            "iq result that nobody awaits",
            raw("<iq from='m@example.org' to='c.example.org' id='e' type='result'/>"),
            None,
        ),
        (
            "iq error of unknown condition and type",
            raw(
                "<iq from='m@example.org' to='c.example.org' id='e' type='error'><error type='odd'><odd/></error></iq>",
            ),
            None,
        ),
        ("attribute of 9 KB", iq(&format!("<q xmlns='urn:q' a='{}'/>", "y".repeat(9_000))), Some("")),
        ("namespace of 9 KB", iq(&format!("<q xmlns='urn:{}'/>", "y".repeat(9_000))), Some("")),
        ("attribute of 10 MB", iq(&format!("<q xmlns='urn:q' a='{}'/>", "y".repeat(10 << 20))), policy),
        ("text of 11 MB", iq(&format!("<q xmlns='urn:q'>{}</q>", "y".repeat(11 << 20))), policy),
        ("255 deep", iq(&format!("<q xmlns='urn:q'>{}</q>", deep(254))), Some("")),
        ("20,000 deep", iq(&deep(20_000)), policy),
        ("1,000,000 deep", iq(&deep(1_000_000)), policy),
        ("a message 1,000,000 deep", message("type='headline'", &deep(1_000_000)), None),
        (
            "10,000 attributes",
            iq(&format!("<q {}/>", (0..10_000).map(|n| format!("a{n}='' ")).collect::<String>())),
            policy,
        ),
        (
            "1,000 namespaces",
            iq(&format!("<q {}/>", (0..1_000).map(|n| format!("xmlns:a{n}='u' ")).collect::<String>())),
            policy,
        ),
        ("a name of 2 KB", iq(&format!("<{}/>", "n".repeat(2_048))), policy),
        ("100,000 children", message("", &"<x/>".repeat(100_000)), None),
        ("CDATA", message("", "<body><![CDATA[</message>]]></body>"), None),
        (
            "bytes that are no UTF-8",
            [iq(query), b"".to_vec()].concat().iter().map(|&b| if b == b'q' { 0xFF } else { b }).collect(),
            None,
        ),
        (
            "bytes in text that are no UTF-8",
            {
                let mut b = iq("<q xmlns='urn:q'>#</q>");
                let at = b.iter().position(|c| *c == b'#').unwrap();
                b[at] = 0xFE;
                b
            },
            bad,
        ),
        ("NUL", iq("<q xmlns='urn:q'>\0</q>"), bad),
        ("a character reference to NUL", iq("<q xmlns='urn:q'>&#0;</q>"), bad),
        ("an attribute twice", iq("<q xmlns='urn:q' a='1' a='2'/>"), bad),
        ("an undeclared prefix", iq("<p:q/>"), bad),
        ("an undeclared attribute prefix", iq("<q xmlns='urn:q' p:a='1'/>"), bad),
        ("an entity bomb", iq("<!DOCTYPE q [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><q xmlns='urn:q'>&b;</q>"), bad),
        ("an unknown entity", iq("<q xmlns='urn:q'>&nbsp;</q>"), bad),
        ("]]> in text", iq("<q xmlns='urn:q'>]]></q>"), bad),
        ("a comment", iq("<!-- --><q xmlns='urn:q'/>"), bad),
        ("a processing instruction", iq("<?php x ?><q xmlns='urn:q'/>"), bad),
        ("end tags crossed", iq("<q xmlns='urn:q'><a></b></q>"), bad),
        ("< in an attribute", iq("<q xmlns='urn:q' a='<'/>"), bad),
        ("no from", raw("<iq to='c.example.org' id='e' type='get'><q xmlns='urn:q'/></iq>"), None),
        ("from that is no JID", raw("<iq from='@@' to='c.example.org' id='e' type='bogus'/>"), None),
        ("to not ours", raw("<iq from='m@example.org' to='elsewhere.example' id='e' type='bogus'/>"), None),
        ("to that is no JID", raw("<iq from='m@example.org' to='@' id='e' type='bogus'/>"), None),
        ("no type", raw("<iq from='m@example.org' to='c.example.org' id='e'><q xmlns='urn:q'/></iq>"), bad),
        (
            "type bogus",
            raw("<iq from='m@example.org' to='c.example.org' id='e' type='bogus'><q xmlns='urn:q'/></iq>"),
            bad,
        ),
        ("no id", raw("<iq from='m@example.org' to='c.example.org' type='get'><q xmlns='urn:q'/></iq>"), bad),
        (
            "another namespace",
            raw("<iq xmlns='urn:other' from='m@example.org' to='c.example.org' id='e' type='get'/>"),
            None,
        ),
        ("a broken message", message("", "&x;"), bad),
        ("a broken message error", message("type='error'", "&x;"), None),
        ("broken presence", presence("&x;"), None),
        ("an unknown element", raw("<hello/>"), None),
    ];
    for (n, (name, bytes, due)) in cases.iter().enumerate() {
        peer.send_bytes(bytes).await;
        peer.send(&format!(
            "<iq from='{HOST}' to='{COMPONENT}' id='p{n}' type='get'><ping xmlns='urn:xmpp:ping'/></iq>"
        ))
        .await;
        let mut found = None;
        loop {
            let answer = peer.expect(name).await;
            if id(&answer) == format!("p{n}") {
                assert_eq!(answer.head.type_, StanzaType::Result, "{name}");
                break;
            }
            assert_eq!(found, None, "{name}: two answers");
            let error = answer.element().unwrap();
            let error = error.children().next().and_then(|e| e.children().next());
            found = Some(error.map_or(String::new(), |e| e.name().to_owned()));
        }
        assert_eq!(found.as_deref(), *due, "{name}");
    }
}

#[tokio::test]
async fn a_lost_link_comes_back_and_ends_what_waited_on_it() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    let (from, to) = (Jid::new(COMPONENT).unwrap(), Jid::new(HOST).unwrap());
    let link = rig.link.clone();
    let asking = tokio::spawn(async move { link.iq(&from, &to, IqType::Get, Xml::default()).await });
    let request = peer.expect("our request").await;
    assert_eq!((request.head.kind, &request.head.type_), (Kind::Iq, &StanzaType::Get));
    drop(peer);
    assert_eq!(asking.await.unwrap().unwrap_err(), IqError::Send(SendError::Lost(LinkLost)));
    let mut peer = server.login().await;
    reaches(&rig, "second session", |s| matches!(s, LinkState::Online { session: 2, .. })).await;
    rig.link.answer(message("again", 1)).unwrap();
    assert_eq!(id(&peer.expect("a message").await), "again");
    assert_eq!(rig.link.stats().lost.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn answers_that_wait_for_the_link_go_out_when_it_is_back() {
    let server = FakeServer::start().await;
    let (rig, peer) = up(&server).await;
    drop(peer);
    reaches(&rig, "lost", |s| matches!(s, LinkState::Connecting { .. })).await;
    rig.link.answer(message("late", 1)).unwrap();
    let mut peer = server.login().await;
    assert_eq!(id(&peer.expect("the late answer").await), "late");
}

#[tokio::test]
async fn every_refused_login_says_in_words_what_to_do() {
    let server = FakeServer::start().await;
    let clock = Clock::system();
    let mut config = config(&server);
    let say = async |error: Option<&str>, handshake: bool| {
        let (said, ()) = tokio::join!(link::check_login(&config, &clock), async {
            let mut peer = server.accept().await;
            peer.send_header().await;
            if handshake {
                assert!(peer.take_handshake().await);
            }
            if let Some(error) = error {
                peer.send_stream_error(error, "").await;
            }
        });
        said.unwrap_err()
    };
    assert!(matches!(say(Some("not-authorized"), true).await, Trouble::WrongSecret { .. }));
    assert!(matches!(say(Some("conflict"), true).await, Trouble::Conflict { .. }));
    assert!(matches!(say(Some("host-unknown"), false).await, Trouble::HostUnknown { .. }));
    assert!(matches!(say(Some("policy-violation"), true).await, Trouble::Policy { .. }));
    let silent = say(None, true).await;
    assert!(matches!(silent, Trouble::ClosedAtHandshake { .. }));
    assert!(silent.to_string().contains("component.secret"), "{silent}");

    let (said, ()) = tokio::join!(link::check_login(&config, &clock), async {
        let mut peer = server.accept().await;
        peer.send("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='1'>").await;
    });
    assert!(matches!(said, Err(Trouble::NotAComponentPort { .. })), "{said:?}");
    let (said, ()) = tokio::join!(link::check_login(&config, &clock), async {
        server.accept().await.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    assert!(matches!(said, Err(Trouble::NotAComponentPort { .. })), "{said:?}");
    config.connect_timeout = Duration::from_millis(100);
    let (said, _peer) = tokio::join!(link::check_login(&config, &clock), server.accept());
    assert!(matches!(said, Err(Trouble::Slow { .. })), "{said:?}");
    drop(server);
    let refused = link::check_login(&config, &clock).await.unwrap_err();
    assert!(refused.to_string().contains("connection refused"), "{refused}");
}

#[tokio::test]
async fn a_wrong_secret_makes_no_right_handshake() {
    let server = FakeServer::start().await;
    let mut config = config(&server);
    config.secret = "wrong".to_owned();
    let rig = start(config, Clock::system());
    let mut peer = server.accept().await;
    peer.send_header().await;
    assert!(!peer.take_handshake().await);
    peer.send_stream_error("not-authorized", "").await;
    let wrong = |s: &LinkState| matches!(s, LinkState::Connecting { why: Some(Trouble::WrongSecret { .. }), .. });
    reaches(&rig, "wrong secret", wrong).await;
}

#[tokio::test]
async fn a_conflict_is_retried_until_the_old_connection_is_gone() {
    let server = FakeServer::start().await;
    let rig = start(config(&server), Clock::system());
    for attempt in 1..4 {
        let mut peer = server.accept().await;
        peer.send_header().await;
        peer.take_handshake().await;
        peer.send_stream_error("conflict", "Component already connected").await;
        drop(peer);
        let conflict = |s: &LinkState| matches!(s, LinkState::Connecting { why: Some(Trouble::Conflict { .. }), attempts } if *attempts == attempt);
        reaches(&rig, "conflict", conflict).await;
    }
    let _peer = server.login().await;
    reaches(&rig, "online", |s| matches!(s, LinkState::Online { session: 1, .. })).await;
}

#[tokio::test]
async fn the_end_that_the_server_gives_is_told_in_words() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    for (error, words) in [
        ("system-shutdown", "shutting down"),
        ("invalid-from", "foreign address"),
        ("policy-violation", "limits that it"),
        ("odd", "odd (because)"),
    ] {
        peer.send_stream_error(error, "because").await;
        let told = reaches(&rig, error, |s| match s {
            LinkState::Connecting { why: Some(why), .. } => why.to_string().contains(words),
            _ => false,
        });
        told.await;
        peer = server.login().await;
        reaches(&rig, "back", |s| matches!(s, LinkState::Online { .. })).await;
    }
}

#[tokio::test]
async fn fanout_waits_for_a_server_that_does_not_read_and_memory_stays_bounded() {
    let server = FakeServer::start().await;
    let mut config = config(&server);
    config.fanout_max = 200_000;
    let (rig, mut peer) = up_with(&server, config, Clock::system()).await;
    let link = rig.link.clone();
    let sending = tokio::spawn(async move {
        let mut last = None;
        for n in 0..20_000 {
            last = Some(link.fanout(message(&n.to_string(), 2_000), last).await.unwrap());
        }
        last
    });
    // What fits goes out into the buffers of both kernels; then it stands still.
    let mut before = u64::MAX;
    loop {
        let now = rig.link.stats().bytes_out.load(Ordering::Relaxed);
        if now == before && now > 0 {
            break;
        }
        before = now;
        assert!(rig.link.waiting().1 <= 200_000 + 3_000, "{:?}", rig.link.waiting());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!sending.is_finished(), "40 MB do not fit into any buffer");
    // An answer overtakes all fan-out that is not yet written.
    rig.link.answer(message("answer", 1)).unwrap();
    let mut seen = 0;
    loop {
        let envelope = peer.expect("fan-out").await;
        if id(&envelope) == "answer" {
            break;
        }
        assert_eq!(id(&envelope), seen.to_string(), "fan-out keeps its order");
        seen += 1;
    }
    assert!(seen < 19_000, "the answer came after {seen}");
    while seen < 20_000 {
        assert_eq!(id(&peer.expect("fan-out").await), seen.to_string());
        seen += 1;
    }
    assert_eq!(sending.await.unwrap(), Some(Position { session: 1, number: 20_000 }));
}

#[tokio::test]
async fn a_server_that_asks_without_reading_loses_the_link_not_our_memory() {
    let server = FakeServer::start().await;
    let mut config = config(&server);
    config.answers_max = 1_000_000;
    let (rig, _peer) = up_with(&server, config, Clock::system()).await;
    for (bytes, most, refusal) in [(10_000, 250_000, SendError::Crowded), (3_000, 1_000_000, SendError::Full)] {
        let refused = loop {
            if let Err(e) = rig.link.answer(message("a", bytes)) {
                break e;
            }
            assert!(rig.link.waiting().0 <= most);
            tokio::task::yield_now().await;
        };
        assert_eq!(refused, refusal);
    }
    let not_reading = |s: &LinkState| matches!(s, LinkState::Connecting { why: Some(Trouble::NotReading), .. });
    reaches(&rig, "not reading", not_reading).await;
    assert_eq!(rig.link.waiting().0, 0);
}

#[tokio::test]
async fn a_barrier_is_passed_when_a_later_ping_is_answered_even_with_an_error() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    for answer in ["result", "error"] {
        let mut last = None;
        for n in 0..10 {
            last = Some(rig.link.fanout(message(&n.to_string(), 100), last).await.unwrap());
        }
        let (link, upto) = (rig.link.clone(), last.unwrap());
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let link = link.clone();
                tokio::spawn(async move { link.barrier(upto).await })
            })
            .collect();
        for n in 0..10 {
            assert_eq!(id(&peer.expect("fan-out before its ping").await), n.to_string());
        }
        let ping = peer.expect("the ping").await;
        assert!(is_ping(&ping));
        assert_eq!(ping.head.to.jid().unwrap().as_str(), HOST);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(waiting.iter().all(|w| !w.is_finished()), "nothing is confirmed before the pong");
        let id = id(&ping);
        peer.send(&format!("<iq from='{HOST}' to='{COMPONENT}' id='{id}' type='{answer}'/>")).await;
        for w in waiting {
            assert_eq!(w.await.unwrap(), Ok(()));
        }
        assert_eq!(rig.link.barrier(upto).await, Ok(()), "it stays confirmed");
    }
}

#[tokio::test]
async fn all_that_was_sent_is_proved_before_the_end() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    // Nothing was sent: nothing is to be proved.
    rig.link.proved().await;
    let mut last = None;
    for n in 0..3 {
        last = Some(rig.link.fanout(message(&n.to_string(), 100), last).await.unwrap());
    }
    let link = rig.link.clone();
    let proved = tokio::spawn(async move { link.proved().await });
    for n in 0..3 {
        assert_eq!(id(&peer.expect("fan-out before its ping").await), n.to_string());
    }
    let ping = peer.expect("the ping").await;
    assert!(is_ping(&ping) && !proved.is_finished());
    peer.answer(&ping).await;
    proved.await.unwrap();
}

#[tokio::test]
async fn what_a_killed_server_did_not_confirm_is_reported_lost() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    let first = rig.link.fanout(message("1", 100), None).await.unwrap();
    let link = rig.link.clone();
    let confirmed = tokio::spawn(async move { link.barrier(first).await });
    let ping = next_ping(&mut peer).await;
    peer.answer(&ping).await;
    assert_eq!(confirmed.await.unwrap(), Ok(()));
    let second = rig.link.fanout(message("2", 100), Some(first)).await.unwrap();
    let link = rig.link.clone();
    let lost = tokio::spawn(async move { link.barrier(second).await });
    next_ping(&mut peer).await;
    drop(peer);
    assert_eq!(lost.await.unwrap(), Err(LinkLost));
    let _peer = server.login().await;
    reaches(&rig, "back", |s| matches!(s, LinkState::Online { session: 2, .. })).await;
    assert_eq!(rig.link.barrier(second).await, Err(LinkLost), "an old position is never confirmed by a new session");
    let after = rig.link.fanout(message("3", 100), Some(second)).await;
    assert_eq!(after, Err(SendError::Lost(LinkLost)), "a batch does not go on over a lost link");
    assert_eq!(rig.link.fanout(message("3", 100), None).await, Ok(Position { session: 2, number: 1 }));
}

#[tokio::test]
async fn a_foreign_from_or_too_big_a_stanza_never_reaches_the_wire() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    let to = Jid::new("romeo@example.org").unwrap();
    for foreign in ["example.org", "c.example.org.evil.example", "juliet@example.org", "x@sub.c.example.org"] {
        let stanza = Stanza::presence(&Jid::new(foreign).unwrap(), &to, None, None, Xml::default());
        assert!(matches!(rig.link.answer(stanza.clone()), Err(SendError::ForeignFrom(_))), "{foreign}");
        assert!(matches!(rig.link.fanout(stanza, None).await, Err(SendError::ForeignFrom(_))), "{foreign}");
    }
    assert!(matches!(rig.link.answer(message("big", 500_000)), Err(SendError::TooBig { .. })));
    assert!(matches!(rig.link.fanout(message("big", 500_000), None).await, Err(SendError::TooBig { .. })));
    assert_eq!(rig.link.stats().refused.load(Ordering::Relaxed), 10);
    let own =
        Stanza::presence(&Jid::new("bob\\40gs.example@c.example.org/x").unwrap(), &to, None, None, Xml::default());
    rig.link.answer(own).unwrap();
    assert_eq!(peer.expect("only the good one").await.head.kind, Kind::Presence);
}

#[tokio::test]
async fn an_answer_counts_only_from_whom_we_asked_and_in_time() {
    let server = FakeServer::start().await;
    let clock = Clock::manual(Timestamp::from_secs(1_000));
    let (rig, mut peer) = up_with(&server, config(&server), clock.clone()).await;
    let (from, to) = (Jid::new(COMPONENT).unwrap(), Jid::new("romeo@example.org").unwrap());
    let ask = || {
        let (link, from, to) = (rig.link.clone(), from.clone(), to.clone());
        tokio::spawn(async move { link.iq(&from, &to, IqType::Get, Xml::default()).await })
    };
    let asking = ask();
    let request = peer.expect("our request").await;
    let id = id(&request).to_owned();
    peer.send(&format!("<iq from='mallory@example.org' to='{COMPONENT}' id='{id}' type='error'/>")).await;
    peer.send(&format!("<iq from='{to}' to='{COMPONENT}' id='{id}' type='result'><q xmlns='urn:q'/></iq>")).await;
    let answer = asking.await.unwrap().unwrap();
    assert_eq!((answer.head.type_, answer.children.len()), (StanzaType::Result, 1));

    let asking = ask();
    peer.expect("our request").await;
    while !asking.is_finished() {
        clock.advance(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(asking.await.unwrap().unwrap_err(), IqError::Timeout);
}

#[tokio::test]
async fn a_silent_server_is_pinged_and_then_given_up() {
    let server = FakeServer::start().await;
    let clock = Clock::manual(Timestamp::from_secs(1_000));
    let (rig, mut peer) = up_with(&server, config(&server), clock.clone()).await;
    peer.echoes = 0;
    tokio::time::sleep(Duration::from_millis(50)).await;
    clock.advance(Duration::from_secs(31));
    let ping = next_ping(&mut peer).await;
    // A sign of life, and all is well again.
    peer.answer(&ping).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    clock.advance(Duration::from_secs(61));
    next_ping(&mut peer).await;
    assert!(matches!(*rig.link.state().borrow(), LinkState::Online { session: 1, .. }));
    tokio::time::sleep(Duration::from_millis(50)).await;
    clock.advance(Duration::from_secs(60));
    reaches(&rig, "silent", |s| matches!(s, LinkState::Connecting { why: Some(Trouble::Silent { .. }), .. })).await;
}

/// The link is up, its reader at work, and what is sent now is read.
async fn in_touch(peer: &mut Peer) {
    peer.send(&format!("<iq from='{HOST}' to='{COMPONENT}' id='touch' type='get'><q xmlns='urn:q'/></iq>")).await;
    while id(&peer.expect("an answer").await) != "touch" {}
}

#[tokio::test]
async fn who_sets_the_clock_neither_ends_a_healthy_link_nor_keeps_it_from_being_watched() {
    let server = FakeServer::start().await;
    let clock = Clock::manual(Timestamp::from_secs(100_000));
    let (rig, mut peer) = up_with(&server, config(&server), clock.clone()).await;
    peer.echoes = 0;
    in_touch(&mut peer).await;
    clock.set_forward(Duration::from_secs(3_600));
    clock.advance(Duration::from_secs(31));
    next_ping(&mut peer).await;
    in_touch(&mut peer).await;
    assert!(matches!(*rig.link.state().borrow(), LinkState::Online { session: 1, .. }));
    clock.set_back(Duration::from_secs(7_200));
    clock.advance(Duration::from_secs(61));
    next_ping(&mut peer).await;
    assert!(matches!(*rig.link.state().borrow(), LinkState::Online { session: 1, .. }));
}

#[tokio::test]
async fn stanzas_to_ourselves_tell_whether_another_process_is_attached() {
    for (echoes, verdict) in [(8, Instance::Alone), (5, Instance::Shared), (0, Instance::Unknown)] {
        let server = FakeServer::start().await;
        let clock = Clock::manual(Timestamp::from_secs(1_000));
        let (rig, mut peer) = up_with(&server, config(&server), clock.clone()).await;
        peer.echoes = echoes;
        // The echoes are brought back before this ping is answered; and it is sent after all probes were.
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.link.answer(message("behind the probes", 1)).unwrap();
        peer.expect("a message").await;
        peer.send(&format!("<iq from='{HOST}' to='{COMPONENT}' id='p' type='get'><q xmlns='urn:q'/></iq>")).await;
        peer.expect("an answer").await;
        clock.advance(Duration::from_secs(6));
        let found = move |s: &LinkState| matches!(s, LinkState::Online { instance, .. } if *instance == verdict);
        reaches(&rig, &format!("{verdict:?}"), found).await;
    }
}

#[tokio::test]
async fn a_stanza_of_the_other_process_tells_of_it_at_once() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up_with(&server, config(&server), Clock::manual(Timestamp::from_secs(1_000))).await;
    let probe = "<instance xmlns='urn:rookery:instance:0'/>";
    peer.send(&format!("<message from='mallory@example.org' to='{COMPONENT}' id='x.1.1'>{probe}</message>")).await;
    peer.send(&format!("<iq from='{HOST}' to='{COMPONENT}' id='p' type='get'><q xmlns='urn:q'/></iq>")).await;
    peer.expect("an answer").await;
    let checking = LinkState::Online { session: 1, instance: Instance::Checking };
    assert_eq!(*rig.link.state().borrow(), checking, "only the component itself speaks for it");
    peer.send(&format!("<message from='{COMPONENT}' to='{COMPONENT}/x' id='x.1.1'>{probe}</message>")).await;
    reaches(&rig, "shared", |s| matches!(s, LinkState::Online { instance: Instance::Shared, .. })).await;
}

#[tokio::test]
async fn closing_writes_what_is_queued_ends_the_stream_and_waits_for_the_server() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    let mut last = None;
    for n in 0..500 {
        last = Some(rig.link.fanout(message(&n.to_string(), 2_000), last).await.unwrap());
    }
    rig.link.answer(message("answer", 1)).unwrap();
    let link = rig.link.clone();
    let closing = tokio::spawn(async move { link.close().await });
    let mut seen = 0;
    while let Some(envelope) = peer.next().await {
        seen += 1;
        if seen == 1 {
            assert!(matches!(id(&envelope), "0" | "answer"));
        }
    }
    assert_eq!((seen, peer.closed), (501, true));
    assert!(!closing.is_finished());
    peer.send("</stream:stream>").await;
    closing.await.unwrap();
    rig.run.await.unwrap();
    assert_eq!(rig.link.answer(message("late", 1)), Err(SendError::LinkDown));
    assert_eq!(rig.link.fanout(message("late", 1), None).await, Err(SendError::LinkDown));
    assert_eq!(rig.link.online().await, None);
}

#[tokio::test]
async fn stopping_closes_the_link_also_while_it_is_down() {
    let server = FakeServer::start().await;
    let (rig, mut peer) = up(&server).await;
    rig.trigger.set(Phase::Stopped);
    while peer.next().await.is_some() {}
    assert!(peer.closed);
    drop(peer);
    rig.run.await.unwrap();

    let mut config = config(&server);
    config.backoff_max = Duration::from_secs(600);
    drop(server);
    let rig = start(config, Clock::system());
    reaches(&rig, "refused", |s| matches!(s, LinkState::Connecting { attempts: 1.., .. })).await;
    rig.link.close().await;
    rig.run.await.unwrap();
}

#[tokio::test]
async fn bytes_that_come_one_by_one_make_the_same_stream() {
    let server = FakeServer::start().await;
    let rig = start(config(&server), Clock::system());
    let mut peer = server.accept().await;
    peer.send_header().await;
    peer.take_handshake().await;
    let text = Bytes::from(format!(
        "<handshake/><iq from='{HOST}' to='{COMPONENT}' id='p' type='get'><ping xmlns='urn:xmpp:ping'/></iq> \n"
    ));
    for byte in text.chunks(1) {
        peer.send_bytes(byte).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(id(&peer.expect("the pong").await), "p");
    drop(rig);
}

#[tokio::test]
async fn a_ping_whose_answer_went_astray_is_asked_again() {
    let server = FakeServer::start().await;
    let clock = Clock::manual(Timestamp::from_secs(1_000));
    let (rig, mut peer) = up_with(&server, config(&server), clock.clone()).await;
    let upto = rig.link.fanout(message("1", 100), None).await.unwrap();
    let link = rig.link.clone();
    let waiting = tokio::spawn(async move { link.barrier(upto).await });
    // It waits a moment for more to prove.
    let first = loop {
        tokio::select! {
            ping = next_ping(&mut peer) => break ping,
            () = tokio::time::sleep(Duration::from_millis(20)) => clock.advance(Duration::from_millis(10)),
        }
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    clock.advance(Duration::from_secs(31));
    // A keep-alive ping leaves at the same time; it proves nothing about the fan-out.
    let alive = next_ping(&mut peer).await;
    peer.answer(&alive).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    clock.advance(Duration::from_secs(31));
    let again = next_ping(&mut peer).await;
    assert_ne!(id(&again), id(&first));
    peer.answer(&again).await;
    assert_eq!(waiting.await.unwrap(), Ok(()));
}
