//! Stanzas that a user can send and that have ended other components' streams. After each, ours must answer a ping on
//! the same connection. Nothing here is nested deeper than 3,000: real servers stand in between.

use std::time::Duration;

use crate::support::client::{Client, MICROBLOG, refusal};
use crate::support::rookery::Rookery;
use crate::support::servers::{SOCIAL, Server, at_social};

use super::story::post;

pub async fn no_stanza_of_a_user_ends_the_component_s_stream(server: Server) {
    let rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    post(&mut alice, "first", "Good morrow").await;
    let mut nurse = server.login("nurse").await;
    nurse.get(SOCIAL, "<ping xmlns='urn:xmpp:ping'/>").await.unwrap();
    let connection = server.attached();
    assert_eq!(connection.len(), 1);

    println!("| stanza | what {:?} let juliet see | component |", server.kind);
    println!("| --- | --- | --- |");
    let mut dead = Vec::new();
    for (number, (what, xml)) in cases().into_iter().enumerate() {
        // A session of her own for each: the server may end it, which is the server's affair.
        let mut juliet = server.login_as("juliet", &format!("h{number}")).await;
        let xml = xml
            .replace("NUMBER", &format!("h{number}"))
            .replace("ALICE", &at_social("alice"))
            .replace("SERVICE", SOCIAL);
        let seen = match juliet.send_raw(&xml).await {
            Ok(()) => outcome(&mut juliet, &format!("h{number}")).await,
            Err(_) => "the server closes her stream".to_owned(),
        };
        let pong = nurse.get(SOCIAL, "<ping xmlns='urn:xmpp:ping'/>").await;
        let component = match (&pong, server.attached() == connection) {
            (Ok(_), true) => "answers on the same stream",
            (Ok(_), false) => "came back on ANOTHER stream",
            (Err(_), _) => "DEAD",
        };
        println!("| {what} | {seen} | {component} |");
        if component != "answers on the same stream" {
            dead.push(what);
            if pong.is_err() {
                break;
            }
        }
    }
    assert!(dead.is_empty(), "these hurt the component: {dead:?}\n{}", rookery.log());
}

/// What juliet sees of her stanza within a moment.
async fn outcome(juliet: &mut Client, id: &str) -> String {
    let answer = juliet.expect_within(Duration::from_millis(400), "an answer", |stanza| stanza.attr("id") == Some(id));
    match answer.await {
        Ok(stanza) if stanza.attr("type") == Some("error") => format!("error {}", refusal(&stanza)),
        Ok(stanza) => format!("{} {}", stanza.name(), stanza.attr("type").unwrap_or_default()),
        Err(crate::support::client::Failure::Late(..)) => "nothing".to_owned(),
        Err(_) => "the server closes her stream".to_owned(),
    }
}

/// What is said of it, and the bytes. `SERVICE` stands for the component, `ALICE` for alice's address there, `NUMBER` for the id.
fn cases() -> Vec<(&'static str, String)> {
    let pubsub = |inner: &str| {
        format!(
            "<iq type='set' to='ALICE' id='NUMBER'><pubsub xmlns='http://jabber.org/protocol/pubsub'>{inner}</pubsub></iq>"
        )
    };
    let deep = |levels: usize| format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels));
    let simple = |text: &str| text.to_owned();
    vec![
        (
            "message of an unknown type",
            simple("<message type='bogus' to='SERVICE' id='NUMBER'><body>x</body></message>"),
        ),
        ("presence with an unknown show", simple("<presence to='SERVICE' id='NUMBER'><show>bogus</show></presence>")),
        ("presence of an unknown type", simple("<presence type='bogus' to='SERVICE' id='NUMBER'/>")),
        (
            "presence with priority 999",
            simple("<presence to='SERVICE' id='NUMBER'><priority>999</priority></presence>"),
        ),
        (
            "presence whose priority is no number",
            simple("<presence to='SERVICE' id='NUMBER'><priority>high</priority></presence>"),
        ),
        (
            "two threads in a message",
            simple("<message to='SERVICE' id='NUMBER'><thread>a</thread><thread>b</thread><body>x</body></message>"),
        ),
        ("two bodies in a message", simple("<message to='SERVICE' id='NUMBER'><body>x</body><body>y</body></message>")),
        ("text directly in a message", simple("<message to='SERVICE' id='NUMBER'>text<body>x</body></message>")),
        ("iq get without a child", simple("<iq type='get' to='SERVICE' id='NUMBER'/>")),
        (
            "iq set with two children",
            simple("<iq type='set' to='SERVICE' id='NUMBER'><a xmlns='u:a'/><b xmlns='u:b'/></iq>"),
        ),
        ("iq of an unknown type", simple("<iq type='bogus' to='SERVICE' id='NUMBER'><a xmlns='u:a'/></iq>")),
        ("iq without a type", simple("<iq to='SERVICE' id='NUMBER'><a xmlns='u:a'/></iq>")),
        ("iq without an id", simple("<iq type='get' to='SERVICE'><ping xmlns='urn:xmpp:ping'/></iq>")),
        ("iq error without an error", simple("<iq type='error' to='SERVICE' id='NUMBER'/>")),
        (
            "iq error with an unknown condition",
            simple(
                "<iq type='error' to='SERVICE' id='NUMBER'><error type='cancel'>\
                 <bogus xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
            ),
        ),
        (
            "iq error of an unknown type",
            simple(
                "<iq type='error' to='SERVICE' id='NUMBER'><error type='bogus'>\
                 <gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
            ),
        ),
        ("a result nobody waits for", simple("<iq type='result' to='SERVICE' id='NUMBER'/>")),
        (
            "an attribute of 9 KiB",
            format!("<message to='SERVICE' id='NUMBER' x='{}'><body>x</body></message>", "x".repeat(9_216)),
        ),
        (
            "a namespace of 9 KiB",
            format!("<message to='SERVICE' id='NUMBER'><x xmlns='u:{}'/></message>", "x".repeat(9_216)),
        ),
        (
            "an element name of 2 KB",
            format!("<message to='SERVICE' id='NUMBER'><{0} xmlns='u:x'/></message>", "x".repeat(2_000)),
        ),
        (
            "an id of 5,000 characters",
            format!("<iq type='get' to='SERVICE' id='NUMBER{}'><ping xmlns='urn:xmpp:ping'/></iq>", "x".repeat(5_000)),
        ),
        ("1,000 attributes", {
            let attributes: String = (0..1_000).map(|n| format!(" a{n}='x'")).collect();
            format!("<message to='SERVICE' id='NUMBER'><x xmlns='u:x'{attributes}/></message>")
        }),
        ("200 attributes on the iq itself", {
            let attributes: String = (0..200).map(|n| format!(" a{n}='x'")).collect();
            format!("<iq type='get'{attributes} to='ALICE' id='NUMBER'><ping xmlns='urn:xmpp:ping'/></iq>")
        }),
        ("200 attributes in an iq to a resource that is none", {
            let attributes: String = (0..200).map(|n| format!(" a{n}='x'")).collect();
            format!("<iq type='get' to='SERVICE/\u{1f469}' id='NUMBER'><x xmlns='u:x'{attributes}/></iq>")
        }),
        (
            "5,000 children",
            format!("<message to='SERVICE' id='NUMBER'><x xmlns='u:x'>{}</x></message>", "<y/>".repeat(5_000)),
        ),
        (
            "3,000 levels in a message",
            format!("<message to='SERVICE' id='NUMBER'><x xmlns='u:x'>{}</x></message>", deep(2_990)),
        ),
        (
            "3,000 levels in an iq",
            format!("<iq type='set' to='SERVICE' id='NUMBER'><x xmlns='u:x'>{}</x></iq>", deep(2_990)),
        ),
        (
            "3,000 levels in a published entry",
            pubsub(&format!("<publish node='{MICROBLOG}'><item id='deep'>{}</item></publish>", deep(2_980))),
        ),
        (
            "character data sections",
            simple("<message to='SERVICE' id='NUMBER'><body><![CDATA[a<b>&c]]></body></message>"),
        ),
        (
            "a body of 200 KB",
            format!("<message to='SERVICE' id='NUMBER'><body>{}</body></message>", "x".repeat(200_000)),
        ),
        (
            "a body in another namespace",
            simple("<message to='SERVICE' id='NUMBER'><body xmlns='u:x'>x</body></message>"),
        ),
        ("an undeclared prefix", simple("<message to='SERVICE' id='NUMBER'><u:x/></message>")),
        ("an undefined entity", simple("<message to='SERVICE' id='NUMBER'><body>&bogus;</body></message>")),
        ("a control character", simple("<message to='SERVICE' id='NUMBER'><body>&#1;</body></message>")),
        ("a comment", simple("<message to='SERVICE' id='NUMBER'><!-- x --><body>x</body></message>")),
        ("an element of no kind we know", simple("<bogus to='SERVICE' id='NUMBER'/>")),
        ("pubsub with nothing in it", pubsub("")),
        ("pubsub with two verbs", pubsub("<create node='a'/><delete node='b'/>")),
        ("publish without a node", pubsub("<publish><item/></publish>")),
        ("publish of two payloads", pubsub(&format!("<publish node='{MICROBLOG}'><item><a/><b/></item></publish>"))),
        (
            "an item id of 5,000 characters",
            pubsub(&format!("<publish node='{MICROBLOG}'><item id='{}'/></publish>", "x".repeat(5_000))),
        ),
        ("subscribe of what is no JID", pubsub(&format!("<subscribe node='{MICROBLOG}' jid='@@//@'/>"))),
        (
            "to a local part nobody can have",
            simple("<iq type='get' to='a~~~\\20@SERVICE' id='NUMBER'><ping xmlns='urn:xmpp:ping'/></iq>"),
        ),
        (
            "a message error to an account",
            simple("<message type='error' to='ALICE' id='NUMBER'><error type='wait'/></message>"),
        ),
        (
            "a form with no FORM_TYPE",
            simple("<message to='SERVICE' id='NUMBER'><x xmlns='jabber:x:data' type='submit'/></message>"),
        ),
    ]
}
