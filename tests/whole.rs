//! The whole service in this process, as `app` wires it, attached to a server that the test plays.

#[allow(dead_code, reason = "the other half serves tests/link.rs")]
#[path = "support/fake_server.rs"]
mod fake_server;

use std::path::Path;
use std::time::{Duration, Instant};

use fake_server::{COMPONENT, FakeServer, HOST, Peer, SECRET};
use rookery::app::{self, Reload, RunError};
use rookery::config::Config;
use rookery::xmpp::envelope::{Envelope, StanzaType};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// A running service; it ends when `stop` is dropped or used.
struct Whole {
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), RunError>>,
}

/// Starts the service; `more`: further lines of its configuration.
fn start(server: &FakeServer, more: &str) -> Whole {
    start_with(config(server, more), Reload::never())
}

fn start_with(config: Config, reload: Reload) -> Whole {
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(app::run(config, reload, async move { drop(stopped.await) }));
    Whole { stop, running }
}

fn config(server: &FakeServer, more: &str) -> Config {
    let text = format!(
        "[component]\njid = '{COMPONENT}'\nserver = '{}'\nsecret = '{SECRET}'\nserver_host = '{HOST}'\n\
         [http]\npublic_url = 'https://{COMPONENT}'\nlisten = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\n\
         [store]\nbackend = 'memory'\n{more}",
        server.address()
    );
    Config::parse(&text, Path::new(""), []).unwrap()
}

/// What comes in answer to an iq of juliet's with this child, sent to `to`.
async fn ask(peer: &mut Peer, to: &str, type_: &str, id: &str, child: &str) -> Envelope {
    peer.send(&format!("<iq type='{type_}' id='{id}' from='juliet@{HOST}/a' to='{to}'>{child}</iq>")).await;
    loop {
        let stanza = peer.expect(&format!("the answer to {id}")).await;
        if stanza.head.id.as_deref() == Some(id) {
            return stanza;
        }
    }
}

fn pubsub(inner: &str) -> String {
    format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{inner}</pubsub>")
}

#[tokio::test]
async fn every_request_is_answered_whatever_size_of_stanzas_the_server_takes() {
    // The most that goes out, the payload of one item, and how many there are.
    for (most, payload, items) in [(262_144, 95_000, 3), (26_384, 10_000, 4)] {
        let server = FakeServer::start().await;
        let whole = start(&server, &format!("[limits]\nmax_stanza_bytes = {most}\n"));
        let mut peer = server.login().await;
        let payload = format!("<x xmlns='urn:x'>{}</x>", "x".repeat(payload - 100));
        for n in 0..items {
            let publish = pubsub(&format!("<publish node='n'><item id='{n}'>{payload}</item></publish>"));
            let published = ask(&mut peer, COMPONENT, "set", &format!("p{n}"), &publish).await;
            assert_eq!(published.head.type_, StanzaType::Result, "{:?}", published.raw());
        }
        // By pages, everything can be had.
        let (mut seen, mut before) = (0, String::new());
        while seen < items {
            let page = format!("<items node='n'/><set xmlns='http://jabber.org/protocol/rsm'>{before}</set>");
            let answer = ask(&mut peer, COMPONENT, "get", &format!("i{seen}"), &pubsub(&page)).await;
            let text = String::from_utf8_lossy(answer.raw()).into_owned();
            assert!(answer.raw().len() <= most && answer.head.type_ == StanzaType::Result, "{text:.300}");
            let here = text.matches("<item ").count();
            assert!(here > 0 && here < items, "{here} items with at most {most} bytes");
            seen += here;
            before = format!("<after>{}</after>", seen - 1);
        }
        // What a client asks for without knowing of pages.
        let all = ask(&mut peer, COMPONENT, "get", "all", &pubsub("<items node='n'/>")).await;
        assert!(all.raw().len() <= most && all.head.type_ == StanzaType::Result);
        drop(whole.stop);
        drop(peer);
        whole.running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_part_that_panics_ends_the_service_with_an_error() {
    let server = FakeServer::start().await;
    let (tell, news) = mpsc::channel(1);
    let reload = Reload { news, set_log_level: Box::new(|_| panic!("on purpose")) };
    let whole = start_with(config(&server, ""), reload);
    let mut peer = server.login().await;
    tell.send(Ok(config(&server, "[log]\nlevel = 'warn'\n"))).await.unwrap();
    // It still closes its stream.
    while peer.next().await.is_some() {}
    drop(peer);
    let ended = tokio::time::timeout(Duration::from_secs(30), whole.running).await.expect("it lives on").unwrap();
    assert!(matches!(&ended, Err(RunError::Broken(why)) if why.contains("on purpose")), "{ended:?}");
    drop(whole.stop);
}

/// More than anybody's rate from one; others wait for nothing, and who flooded may ask again later.
#[tokio::test]
async fn a_flood_over_the_rate_is_neither_answered_nor_kept_and_holds_up_nobody() {
    let server = FakeServer::start().await;
    let whole = start(&server, "");
    let mut peer = server.login().await;
    let (began, ping) = (Instant::now(), "<ping xmlns='urn:xmpp:ping'/>");
    let romeos = |id: &str| format!("<iq type='get' id='{id}' from='romeo@{HOST}/a' to='{COMPONENT}'>{ping}</iq>");
    let (mut done, mut told, sent) = (0, 0, 60_000);
    for round in 0..sent / 2_000 {
        let flood: String = (0..2_000).map(|n| romeos(&format!("f{round}-{n}"))).collect();
        peer.send(&flood).await;
        let (juliets, mut answered) = (format!("j{round}"), false);
        peer.send(&format!("<iq type='get' id='{juliets}' from='juliet@{HOST}/a' to='{COMPONENT}'>{ping}</iq>")).await;
        while !answered {
            let stanza = peer.expect("juliet's answer").await;
            match (stanza.head.id.as_deref(), &stanza.head.type_) {
                (Some(id), StanzaType::Result) if id == juliets => answered = true,
                (Some(id), StanzaType::Result) if id.starts_with('f') => done += 1,
                (Some(id), StanzaType::Error) if id.starts_with('f') => {
                    assert!(String::from_utf8_lossy(stanza.raw()).contains("<resource-constraint"));
                    told += 1;
                }
                _ => panic!("{:?}", String::from_utf8_lossy(stanza.raw())),
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64() + 1.0;
    println!("of {sent} in {seconds:.1} s {done} were answered, and {told} times it was said that they are too many");
    // Within the rate each has a word: done, or that too many of theirs are in work. Beyond it hardly any has one.
    let within = 10_000 + (2_000.0 * seconds) as usize;
    assert!((10_000..=within + 100 + seconds as usize).contains(&(done + told)), "{done} and {told} in {seconds} s");
    assert!(done > 0, "some were answered");
    // A second later there is room for some again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    peer.send(&romeos("later")).await;
    while peer.expect("romeo's answer").await.head.id.as_deref() != Some("later") {}
    drop(whole.stop);
    drop(peer);
    whole.running.await.unwrap().unwrap();
}
