//! The XMPP server of the crash test: it listens for the component (XEP-0114), outlives its deaths, lets it in again
//! each time, answers its pings, and keeps the ledger of all that passes. All people live in it.
//!
//! A notification counts as heard when it was cut out of the stream and read, never before: what lay in a socket's
//! buffer when the server hung up was not heard by anybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use minidom::Element;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::ledger::{Act, Fate, Heard, Ledger, What, Wish};
// The client's framer, not the component's: a test should not trust the code it tries.
use crate::support::client::framer::{Frame, Framer};
use crate::support::client::{ATOM, COMPONENT, EVENT, escape, refusal};
use crate::support::servers::SOCIAL;

/// Nothing here takes as long as this, unless it will never come.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub address: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// How many times the component was let in.
    sessions: watch::Sender<u64>,
    /// Notifications to be read before the server hangs up; negative: it never does.
    until_hang_up: AtomicI64,
    /// While true nothing is read and nothing is written, and the connection stands.
    silent: watch::Sender<bool>,
    /// Grows with every connection that is to be reset.
    resets: watch::Sender<u64>,
    answered: AtomicU64,
    constrained: AtomicU64,
    heard: AtomicU64,
    trap: Mutex<Option<(u64, Trap)>>,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    /// The way to the component that is attached now.
    line: Option<mpsc::UnboundedSender<String>>,
    waiting: HashMap<String, Waiting>,
    /// Who waits for what the component says to their words, by address.
    listening: HashMap<String, oneshot::Sender<String>>,
    requests: u64,
}

struct Waiting {
    about: About,
    answer: oneshot::Sender<Result<Element, Fate>>,
}

/// The entry of the ledger that an answer belongs to.
#[derive(Clone, Copy)]
enum About {
    Act(usize),
    Wish(usize),
    /// Asked by the test itself.
    Nothing,
}

/// A request under way. `Err` holds how it ended if not well.
pub type Answer = oneshot::Receiver<Result<Element, Fate>>;

impl Server {
    pub async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            sessions: watch::Sender::new(0),
            until_hang_up: AtomicI64::new(-1),
            silent: watch::Sender::new(false),
            resets: watch::Sender::new(0),
            answered: AtomicU64::new(0),
            constrained: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            trap: Mutex::default(),
        });
        let task = tokio::spawn(listen(listener, shared.clone()));
        Server { address, shared, task }
    }

    /// Sends a publish or retract of `from`; the ledger has it before the wire.
    pub async fn act(&self, from: &str, place: &(String, String), item: &str, what: What, payload: &str) -> Answer {
        let act =
            |sent| Act { place: place.clone(), item: item.to_owned(), what: what.clone(), sent, fate: Fate::Open };
        self.send("set", from, &place.0, payload, |ledger, sent| {
            ledger.acts.push(act(sent));
            About::Act(ledger.acts.len() - 1)
        })
        .await
    }

    /// Sends a subscribe or unsubscribe of `who`.
    pub async fn wish(&self, who: &str, place: &(String, String), on: bool, payload: &str) -> Answer {
        let wish = |sent| Wish { who: who.to_owned(), place: place.clone(), on, sent, fate: Fate::Open };
        self.send("set", who, &place.0, payload, |ledger, sent| {
            ledger.wishes.push(wish(sent));
            About::Wish(ledger.wishes.len() - 1)
        })
        .await
    }

    /// Sends a request that somebody else keeps account of; `sent` is called just before it goes out.
    pub async fn request(&self, from: &str, to: &str, payload: &str, sent: impl Fn()) -> Answer {
        let enter = |_: &mut Ledger, _| {
            sent();
            About::Nothing
        };
        self.send("set", from, to, payload, enter).await
    }

    /// Says words in a chat; gives what is said to that, unless the stream ends first.
    pub fn say(&self, from: &str, to: &str, words: &str) -> oneshot::Receiver<String> {
        let (tx, rx) = oneshot::channel();
        let mut state = self.shared.lock();
        if let Some(line) = state.line.clone() {
            state.listening.insert(from.to_owned(), tx);
            let (from, to, words) = (escape(from), escape(to), escape(words));
            let _ = line.send(format!("<message type='chat' from='{from}' to='{to}'><body>{words}</body></message>"));
        }
        rx
    }

    /// Asks until there is an answer that is not lost with a stream.
    pub async fn ask(&self, kind: &str, from: &str, to: &str, payload: &str) -> Result<Element, Fate> {
        loop {
            let answer = self.send(kind, from, to, payload, |_, _| About::Nothing).await;
            match tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes in time") {
                Ok(Err(Fate::Unknown)) | Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(answer) => return answer,
            }
        }
    }

    async fn send(
        &self,
        kind: &str,
        from: &str,
        to: &str,
        payload: &str,
        enter: impl Fn(&mut Ledger, u64) -> About,
    ) -> Answer {
        let mut sessions = self.shared.sessions.subscribe();
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(line) = state.line.clone() {
                    state.requests += 1;
                    let id = format!("q{}", state.requests);
                    let (tx, rx) = oneshot::channel();
                    let sent = state.ledger.tick();
                    let about = enter(&mut state.ledger, sent);
                    state.waiting.insert(id.clone(), Waiting { about, answer: tx });
                    let (from, to) = (escape(from), escape(to));
                    let _ = line.send(format!("<iq type='{kind}' from='{from}' to='{to}' id='{id}'>{payload}</iq>"));
                    return rx;
                }
                sessions.mark_unchanged();
            }
            tokio::time::timeout(PATIENCE, sessions.changed()).await.expect("the component comes").expect("we live");
        }
    }

    /// How many times the component was let in.
    pub fn sessions(&self) -> u64 {
        *self.shared.sessions.borrow()
    }

    /// Waits until it was let in more than `before` times.
    pub async fn let_in_again(&self, before: u64) {
        let mut sessions = self.shared.sessions.subscribe();
        let came = tokio::time::timeout(PATIENCE, sessions.wait_for(|n| *n > before)).await;
        came.expect("the component comes").expect("we live");
    }

    /// From now on reads so many notifications more, then hangs up without reading what else was written.
    pub fn hang_up_after(&self, notifications: u64) {
        self.shared.until_hang_up.store(notifications as i64, Ordering::SeqCst);
    }

    /// The connection as it is now is reset: what is under way in either direction is gone.
    pub fn reset(&self) {
        self.shared.resets.send_modify(|n| *n += 1);
    }

    /// Neither reads nor writes any more, or does so again.
    pub fn be_silent(&self, silent: bool) {
        self.shared.silent.send_replace(silent);
    }

    pub fn never_hang_up(&self) {
        self.shared.until_hang_up.store(-1, Ordering::SeqCst);
    }

    pub fn is_to_hang_up(&self) -> bool {
        self.shared.until_hang_up.load(Ordering::SeqCst) >= 0
    }

    /// Kills a process at the n-th answer from now: in the very moment in which it is read.
    pub fn kill_at_answer(&self, n: u64, trap: Trap) {
        let mut armed = self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner);
        *armed = Some((self.answered() + n, trap));
    }

    /// Takes the trap away; afterwards it kills nobody.
    pub fn disarm(&self) {
        let trap = self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(trap);
    }

    /// Answers that came so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Answers that said to come again later.
    pub fn constrained(&self) -> u64 {
        self.shared.constrained.load(Ordering::SeqCst)
    }

    /// Notifications that came so far.
    pub fn heard(&self) -> u64 {
        self.shared.heard.load(Ordering::SeqCst)
    }

    /// Whether a component is attached now.
    pub fn is_attached(&self) -> bool {
        self.shared.lock().line.is_some()
    }

    /// Writes into the ledger.
    pub fn enter(&self, write: impl FnOnce(&mut Ledger)) {
        write(&mut self.shared.lock().ledger);
    }

    /// Looks into the ledger.
    pub fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.shared.lock().ledger)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn speaks(&self) {
        let _ = self.silent.subscribe().wait_for(|silent| !*silent).await;
    }

    /// The stream has ended: nobody will answer what was asked on it.
    fn hang_up(&self) {
        let mut state = self.lock();
        state.line = None;
        let State { ledger, waiting, listening, .. } = &mut *state;
        listening.clear();
        for (_, waiting) in waiting.drain() {
            settle(ledger, waiting.about, Fate::Unknown);
            let _ = waiting.answer.send(Err(Fate::Unknown));
        }
    }
}

fn settle(ledger: &mut Ledger, about: About, fate: Fate) {
    match about {
        About::Act(n) => ledger.acts[n].fate = fate,
        About::Wish(n) => ledger.wishes[n].fate = fate,
        About::Nothing => {}
    }
}

/// One session after the other.
async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let _ = socket.set_nodelay(true);
        let ended = serve(socket, &shared).await;
        shared.hang_up();
        if let Err(error) = ended {
            eprintln!("the stream ended: {error}");
        }
    }
}

async fn serve(socket: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    let mut resets = shared.resets.subscribe();
    let (mut reader, mut writer) = socket.into_split();
    let mut framer = Framer::default();
    let Some(Frame::Header(_)) = next(&mut reader, &mut framer).await? else { return Ok(()) };
    let header = format!(
        "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='{COMPONENT}' \
         from='{SOCIAL}' id='3BF96D32'>"
    );
    writer.write_all(header.as_bytes()).await?;
    // Whether the secret is right is another test's question.
    let Some(Frame::Stanza(_)) = next(&mut reader, &mut framer).await? else { return Ok(()) };
    writer.write_all(b"<handshake/>").await?;

    let (line, mut lines) = mpsc::unbounded_channel::<String>();
    shared.lock().line = Some(line.clone());
    shared.sessions.send_modify(|n| *n += 1);
    let write = async {
        while let Some(text) = lines.recv().await {
            shared.speaks().await;
            writer.write_all(text.as_bytes()).await?;
        }
        Ok(())
    };
    let read = async {
        while let Some(frame) = next(&mut reader, &mut framer).await? {
            shared.speaks().await;
            match frame {
                Frame::Stanza(stanza) if !hear(&stanza, shared, &line) => return Ok(()),
                Frame::Stanza(_) => {}
                Frame::End => return Ok(()),
                frame => panic!("the component sent {frame:?}"),
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = read => ended,
        ended = write => ended,
        _ = resets.changed() => Err(std::io::Error::other("reset by the test")),
    };
    if resets.has_changed().unwrap_or_default() || ended.is_err() {
        // Without this the kernel would see to it that what was written is still read.
        writer.as_ref().set_zero_linger()?;
    }
    ended
}

async fn next(reader: &mut OwnedReadHalf, framer: &mut Framer) -> std::io::Result<Option<Frame>> {
    // Small portions: what the server has read when it dies should be little more than what it understood.
    let mut buffer = [0; 4096];
    loop {
        if let Some(frame) = framer.next(COMPONENT) {
            return Ok(Some(frame));
        }
        match reader.read(&mut buffer).await? {
            0 => return Ok(None),
            n => framer.push(&buffer[..n]),
        }
    }
}

/// Takes one stanza of the component; false: the server dies now.
fn hear(stanza: &Element, shared: &Shared, line: &mpsc::UnboundedSender<String>) -> bool {
    let attr = |name: &'static str| stanza.attr(name).unwrap_or_default();
    let (to, id) = (attr("to"), attr("id"));
    if to.split('/').next() == Some(SOCIAL) {
        // What it says to itself comes back to it.
        let _ = line.send(String::from(stanza));
        return true;
    }
    match (stanza.name(), attr("type")) {
        ("iq", "result" | "error") => answered(stanza, shared),
        ("iq", _) => {
            // Nobody here understands anything, pings included: any answer proves that it was read.
            let from = attr("from");
            let _ = line.send(format!(
                "<iq type='error' from='{}' to='{}' id='{}'><error type='cancel'>\
                 <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
                escape(to),
                escape(from),
                escape(id)
            ));
        }
        ("message", _) => {
            if shared.until_hang_up.fetch_sub(1, Ordering::SeqCst) == 0 {
                return false;
            }
            notified(stanza, shared);
        }
        _ => {}
    }
    true
}

fn answered(stanza: &Element, shared: &Shared) {
    let mut state = shared.lock();
    let Some(waiting) = state.waiting.remove(stanza.attr("id").unwrap_or_default()) else { return };
    let at = state.ledger.tick();
    let (fate, answer) = match stanza.attr("type") {
        Some("result") => (Fate::Acknowledged(at), Ok(stanza.clone())),
        _ => {
            let refusal = refusal(stanza);
            let fate = match refusal.condition.as_str() {
                // A write that failed half way may be there after the next start.
                "internal-server-error" => Fate::Unknown,
                // It is about to end, or has too much to do: who asks comes again.
                "resource-constraint" => {
                    shared.constrained.fetch_add(1, Ordering::SeqCst);
                    Fate::Unknown
                }
                _ => Fate::Refused(at, refusal.to_string()),
            };
            (fate.clone(), Err(fate))
        }
    };
    settle(&mut state.ledger, waiting.about, fate);
    let _ = waiting.answer.send(answer);
    let answered = shared.answered.fetch_add(1, Ordering::SeqCst) + 1;
    let mut trap = shared.trap.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, trap)) = trap.take_if(|(at, _)| answered >= *at) {
        trap.spring();
    }
}

/// A shell that waits for a word to `kill -9`: what began only then would come late by milliseconds, and an answer
/// that runs ahead of what it says would have caught up.
pub struct Trap {
    shell: std::process::Child,
}

impl Trap {
    pub fn set(pid: u32) -> Trap {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("read word && kill -9 {pid}")]).stdin(std::process::Stdio::piped());
        Trap { shell: shell.spawn().expect("there is a shell") }
    }

    fn spring(mut self) {
        if let Some(mut word) = self.shell.stdin.take() {
            let _ = std::io::Write::write_all(&mut word, b"now\n");
        }
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn notified(stanza: &Element, shared: &Shared) {
    let Some(about) = stanza.get_child("event", EVENT).and_then(|event| event.children().next()) else {
        return answered_in_words(stanza, shared);
    };
    let attr = |name: &str| stanza.attr(name).unwrap_or_default().to_owned();
    let place = (attr("from"), about.attr("node").unwrap_or_default().to_owned());
    let (session, at) = (*shared.sessions.borrow(), Instant::now());
    let mut state = shared.lock();
    let heard = |item, what| Heard { who: attr("to"), place: place.clone(), item, what, id: attr("id"), session, at };
    match about.name() {
        "purge" => state.ledger.heard.push(heard(String::new(), What::Purged)),
        "configuration" => state.ledger.heard.push(heard(String::new(), What::Configured)),
        "delete" => state.ledger.heard.push(heard(String::new(), What::Deleted)),
        _ => {}
    }
    for child in about.children().filter(|_| about.name() == "items") {
        let item = child.attr("id").unwrap_or_default().to_owned();
        let what = match child.name() {
            "retract" => What::Retracted,
            _ => match title(child) {
                Ok(title) => What::Published(title),
                Err(torn) => {
                    state.ledger.torn.push(format!("item {item} came to {}: {torn}", attr("to")));
                    continue;
                }
            },
        };
        state.ledger.heard.push(heard(item, what));
    }
    shared.heard.fetch_add(1, Ordering::SeqCst);
}

fn answered_in_words(stanza: &Element, shared: &Shared) {
    let listener = shared.lock().listening.remove(stanza.attr("to").unwrap_or_default());
    if let (Some(listener), Some(body)) = (listener, stanza.get_child("body", COMPONENT)) {
        let _ = listener.send(body.text());
    }
}

/// The title of the entry in an item, which must be there with its whole content (see [`entry`]).
pub fn title(item: &Element) -> Result<String, String> {
    let entry = item.get_child("entry", ATOM).ok_or("no entry in it")?;
    let text = |name: &str| entry.get_child(name, ATOM).map(Element::text).unwrap_or_default();
    let (title, content) = (text("title"), text("content"));
    match content.starts_with(&format!("{title}: ")) && content.ends_with(" the end") {
        true => Ok(title),
        false => Err(format!("{title:?} is not whole: {} bytes of content", content.len())),
    }
}

/// An entry with a content of about `bytes` that shows whether it is whole.
pub fn entry(title: &str, bytes: usize) -> String {
    let title = escape(title);
    let filler = "buckle my shoe ".repeat(bytes / 15);
    format!(
        "<entry xmlns='{ATOM}'><title>{title}</title><content type='text'>{title}: {filler} the end</content></entry>"
    )
}
