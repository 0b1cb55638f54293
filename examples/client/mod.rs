//! A very small XMPP client for examples and tests: RFC 6120 over plain TCP (SASL PLAIN, resource binding), or a bare
//! XEP-0114 component. It writes raw bytes and reads whole stanzas, and is meant for servers on this machine only.

// Each example and each test uses the part it needs.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minidom::Element;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

pub mod framer;
pub mod websub;

use framer::{Frame, Framer};

pub const CLIENT: &str = "jabber:client";
pub const COMPONENT: &str = "jabber:component:accept";
pub const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
pub const EVENT: &str = "http://jabber.org/protocol/pubsub#event";
pub const OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
pub const ATOM: &str = "http://www.w3.org/2005/Atom";
pub const MICROBLOG: &str = "urn:xmpp:microblog:0";

const STREAM: &str = "http://etherx.jabber.org/streams";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// How long an answer may take before it counts as missing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the stream has ended{}", .0.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    Closed(Option<String>),
    #[error("nothing came in {0:?}: {1}")]
    Late(Duration, String),
    #[error("login refused: {0}")]
    Login(String),
    #[error("refused: {0}")]
    Refused(Refusal),
}

impl Failure {
    /// The stanza error, if it was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Failure::Refused(refusal) = self { Some(refusal) } else { None }
    }
}

/// A stanza error (RFC 6120 §8.3), with the application's own condition beside it (XEP-0060's `#errors`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// `auth`, `cancel`, `continue`, `modify` or `wait`.
    pub kind: String,
    /// The defined condition, such as `item-not-found`.
    pub condition: String,
    /// The application condition, such as `closed-node`; empty if there is none.
    pub specific: String,
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.condition)?;
        for more in [&self.specific, &self.text] {
            if !more.is_empty() {
                write!(f, " ({more})")?;
            }
        }
        Ok(())
    }
}

/// One stream to a server. What comes is kept in order until somebody asks for it.
pub struct Client {
    /// The full JID we were given; for a component its domain.
    pub jid: String,
    writer: OwnedWriteHalf,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    /// Came, but was not what was being waited for.
    kept: VecDeque<Element>,
    /// Why the stream ended, once it has.
    ended: Option<Option<String>>,
    /// The beginnings of elements that are no stanzas to us; who looks at them takes them out.
    pub unreadable: Vec<String>,
    next_id: u64,
    reader: tokio::task::JoinHandle<()>,
}

enum Incoming {
    Stanza(Element),
    Unreadable(String),
    End(Option<String>),
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Logs in as `jid` (bare: `juliet@example.org`) at `server` (`host:port`) and binds `resource`. Sends no presence.
    pub async fn login(server: &str, jid: &str, password: &str, resource: &str) -> Result<Client, Failure> {
        let (user, domain) = jid.split_once('@').ok_or_else(|| Failure::Login(format!("not a bare JID: {jid}")))?;
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.into_split();
        let mut framer = Framer::default();

        let header = format!(
            "<?xml version='1.0'?><stream:stream to='{}' version='1.0' xmlns='{CLIENT}' xmlns:stream='{STREAM}'>",
            escape(domain)
        );
        writer.write_all(header.as_bytes()).await?;
        first(&mut reader, &mut framer, CLIENT).await?;

        let plain = BASE64.encode(format!("\0{user}\0{password}"));
        writer.write_all(format!("<auth xmlns='{SASL}' mechanism='PLAIN'>{plain}</auth>").as_bytes()).await?;
        let answer = first(&mut reader, &mut framer, CLIENT).await?;
        if !answer.is("success", SASL) {
            return Err(Failure::Login(String::from(&answer)));
        }

        // RFC 6120 §6.4.6: a new stream on the same connection.
        framer = Framer::default();
        writer.write_all(header.as_bytes()).await?;
        first(&mut reader, &mut framer, CLIENT).await?;

        let mut client = Client::new(jid.to_owned(), CLIENT, reader, writer, framer);
        let bind = format!("<bind xmlns='{BIND}'><resource>{}</resource></bind>", escape(resource));
        let bound = client.ask("set", None, &bind).await?;
        if let Some(jid) = bound.get_child("bind", BIND).and_then(|bind| bind.get_child("jid", BIND)) {
            client.jid = jid.text();
        }
        Ok(client)
    }

    /// Attaches as the component `name` (XEP-0114).
    pub async fn attach(server: &str, name: &str, secret: &str) -> Result<Client, Failure> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.into_split();
        let mut framer = Framer::default();
        let header = format!("<stream:stream to='{}' xmlns='{COMPONENT}' xmlns:stream='{STREAM}'>", escape(name));
        writer.write_all(header.as_bytes()).await?;
        let id = loop {
            match next_frame(&mut reader, &mut framer, COMPONENT).await? {
                Frame::Header(attributes) => {
                    break attributes.into_iter().find(|(name, _)| name == "id").map(|(_, id)| id).unwrap_or_default();
                }
                Frame::Stanza(stanza) => return Err(Failure::Login(String::from(&stanza))),
                Frame::End => return Err(Failure::Closed(None)),
                Frame::Unreadable(_) => {}
            }
        };
        // XEP-0114 §3: the SHA-1 of stream id and secret, in lower-case hexadecimal.
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{id}{secret}").as_bytes());
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        writer.write_all(format!("<handshake>{digest}</handshake>").as_bytes()).await?;
        let answer = first(&mut reader, &mut framer, COMPONENT).await?;
        if !answer.is("handshake", COMPONENT) {
            return Err(Failure::Login(String::from(&answer)));
        }
        Ok(Client::new(name.to_owned(), COMPONENT, reader, writer, framer))
    }

    fn new(jid: String, ns: &'static str, reader: OwnedReadHalf, writer: OwnedWriteHalf, framer: Framer) -> Client {
        let (sender, incoming) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_on(reader, framer, ns, sender));
        Client { jid, writer, incoming, kept: VecDeque::new(), ended: None, unreadable: Vec::new(), next_id: 1, reader }
    }

    /// The JID without its resource.
    pub fn bare(&self) -> &str {
        self.jid.split('/').next().unwrap_or_default()
    }

    /// Writes bytes as they are: nothing is checked or escaped.
    pub async fn send_raw(&mut self, xml: &str) -> Result<(), Failure> {
        Ok(self.writer.write_all(xml.as_bytes()).await?)
    }

    /// Says that we are there, so that messages to the bare JID come to this session.
    pub async fn available(&mut self) -> Result<(), Failure> {
        self.send_raw("<presence/>").await
    }

    /// Sends a chat message.
    pub async fn say(&mut self, to: &str, body: &str) -> Result<(), Failure> {
        let id = self.id();
        let (to, body) = (escape(to), escape(body));
        self.send_raw(&format!("<message type='chat' to='{to}' id='{id}'><body>{body}</body></message>")).await
    }

    /// An IQ id not used before on this stream.
    pub fn id(&mut self) -> String {
        self.next_id += 1;
        format!("c{}", self.next_id)
    }

    /// Sends an IQ of `kind` (`get` or `set`) with `payload` (XML with its own namespaces) and gives the result stanza.
    pub async fn ask(&mut self, kind: &str, to: Option<&str>, payload: &str) -> Result<Element, Failure> {
        let id = self.post(kind, to, payload).await?;
        self.answer(&id).await
    }

    pub async fn get(&mut self, to: &str, payload: &str) -> Result<Element, Failure> {
        self.ask("get", Some(to), payload).await
    }

    pub async fn set(&mut self, to: &str, payload: &str) -> Result<Element, Failure> {
        self.ask("set", Some(to), payload).await
    }

    /// Sends an IQ and does not wait; gives its id for [`Client::answer`].
    pub async fn post(&mut self, kind: &str, to: Option<&str>, payload: &str) -> Result<String, Failure> {
        let id = self.id();
        let to = to.map(|to| format!(" to='{}'", escape(to))).unwrap_or_default();
        self.send_raw(&format!("<iq type='{kind}'{to} id='{id}'>{payload}</iq>")).await?;
        Ok(id)
    }

    /// Waits for the answer to the IQ `id`.
    pub async fn answer(&mut self, id: &str) -> Result<Element, Failure> {
        let stanza = self
            .expect(&format!("the answer to iq {id}"), |stanza| {
                stanza.name() == "iq"
                    && stanza.attr("id") == Some(id)
                    && matches!(stanza.attr("type"), Some("result" | "error"))
            })
            .await?;
        if stanza.attr("type") == Some("error") { Err(Failure::Refused(refusal(&stanza))) } else { Ok(stanza) }
    }

    /// The first stanza, among those that came and were not asked for yet, that is wanted. Waits for [`PATIENCE`].
    /// `what` says what is waited for, in words for the person who reads the failure.
    pub async fn expect(&mut self, what: &str, wanted: impl Fn(&Element) -> bool) -> Result<Element, Failure> {
        self.expect_within(PATIENCE, what, wanted).await
    }

    pub async fn expect_within(
        &mut self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&Element) -> bool,
    ) -> Result<Element, Failure> {
        if let Some(stanza) = self.kept.iter().position(&wanted).and_then(|at| self.kept.remove(at)) {
            return Ok(stanza);
        }
        let deadline = Instant::now() + patience;
        loop {
            match timeout_at(deadline, self.next()).await {
                Ok(Ok(stanza)) if wanted(&stanza) => return Ok(stanza),
                Ok(Ok(stanza)) => self.kept.push_back(stanza),
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Err(Failure::Late(patience, what.to_owned())),
            }
        }
    }

    /// Listens for `span` and gives what came that is `unwanted`: a test of silence wants `None`.
    pub async fn listen(&mut self, span: Duration, unwanted: impl Fn(&Element) -> bool) -> Option<Element> {
        self.expect_within(span, "nothing", unwanted).await.ok()
    }

    /// The notification (XEP-0060 §7.1.2.1) of the item `item` from `node` at `service`.
    pub async fn event(&mut self, service: &str, node: &str, item: &str) -> Result<Element, Failure> {
        self.expect(&format!("the event of item {item} in {node} at {service}"), |stanza| {
            stanza.attr("from") == Some(service)
                && event_items(stanza, node).iter().any(|it| it.attr("id") == Some(item))
        })
        .await
    }

    /// The next stanza from the wire, whatever it is. Pings of the server are answered on the way.
    pub async fn next(&mut self) -> Result<Element, Failure> {
        loop {
            if let Some(why) = &self.ended {
                return Err(Failure::Closed(why.clone()));
            }
            match self.incoming.recv().await {
                Some(Incoming::Stanza(stanza)) if is_ping(&stanza) => self.pong(&stanza).await?,
                Some(Incoming::Stanza(stanza)) => return Ok(stanza),
                Some(Incoming::Unreadable(text)) => self.unreadable.push(text),
                Some(Incoming::End(why)) => self.ended = Some(why),
                None => self.ended = Some(None),
            }
        }
    }

    async fn pong(&mut self, ping: &Element) -> Result<(), Failure> {
        let side =
            |name: &str, value: Option<&str>| value.map(|v| format!(" {name}='{}'", escape(v))).unwrap_or_default();
        let (to, from) = (side("to", ping.attr("from")), side("from", ping.attr("to")));
        let id = side("id", ping.attr("id"));
        self.send_raw(&format!("<iq type='result'{to}{from}{id}/>")).await
    }
}

/// The direct children `item` and `retract` of the event of `node` that a message carries.
pub fn event_items<'a>(message: &'a Element, node: &str) -> Vec<&'a Element> {
    let items = message.get_child("event", EVENT).and_then(|event| event.get_child("items", EVENT));
    items.filter(|items| items.attr("node") == Some(node)).map(|items| items.children().collect()).unwrap_or_default()
}

/// What an error stanza says.
pub fn refusal(stanza: &Element) -> Refusal {
    let mut refusal = Refusal::default();
    let Some(error) = stanza.children().find(|child| child.name() == "error") else { return refusal };
    refusal.kind = error.attr("type").unwrap_or_default().to_owned();
    for child in error.children() {
        match (child.ns() == STANZAS, child.name()) {
            (true, "text") => refusal.text = child.text(),
            (true, condition) => refusal.condition = condition.to_owned(),
            (false, specific) => refusal.specific = specific.to_owned(),
        }
    }
    refusal
}

/// Text made fit for an attribute or an element.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
        out
    })
}

/// An Atom entry (RFC 4287, XEP-0277 §2.2) as a client writes it: title, id, time.
pub fn entry(title: &str, id: &str) -> String {
    format!(
        "<entry xmlns='{ATOM}'><title>{}</title><id>{}</id><updated>2026-11-22T04:02:04Z</updated></entry>",
        escape(title),
        escape(id)
    )
}

/// `<pubsub/>` that publishes one item. `payload` is XML.
pub fn publish(node: &str, item: &str, payload: &str) -> String {
    let (node, item) = (escape(node), escape(item));
    format!("<pubsub xmlns='{PUBSUB}'><publish node='{node}'><item id='{item}'>{payload}</item></publish></pubsub>")
}

/// `<pubsub/>` that retracts one item and asks that subscribers be told.
pub fn retract(node: &str, item: &str) -> String {
    let (node, item) = (escape(node), escape(item));
    format!("<pubsub xmlns='{PUBSUB}'><retract node='{node}' notify='true'><item id='{item}'/></retract></pubsub>")
}

pub fn subscribe(node: &str, jid: &str) -> String {
    format!("<pubsub xmlns='{PUBSUB}'><subscribe node='{}' jid='{}'/></pubsub>", escape(node), escape(jid))
}

pub fn items(node: &str) -> String {
    format!("<pubsub xmlns='{PUBSUB}'><items node='{}'/></pubsub>", escape(node))
}

/// The item ids of an answer to [`items`], in its order.
pub fn item_ids(result: &Element) -> Vec<String> {
    let items = result.get_child("pubsub", PUBSUB).and_then(|pubsub| pubsub.get_child("items", PUBSUB));
    let ids = |items: &Element| items.children().filter_map(|item| item.attr("id").map(str::to_owned)).collect();
    items.map(ids).unwrap_or_default()
}

fn is_ping(stanza: &Element) -> bool {
    stanza.name() == "iq" && stanza.attr("type") == Some("get") && stanza.has_child("ping", "urn:xmpp:ping")
}

/// The first whole element inside the stream, while logging in.
async fn first(reader: &mut OwnedReadHalf, framer: &mut Framer, ns: &str) -> Result<Element, Failure> {
    loop {
        match next_frame(reader, framer, ns).await? {
            Frame::Stanza(stanza) => return Ok(stanza),
            Frame::End => return Err(Failure::Closed(None)),
            Frame::Header(_) | Frame::Unreadable(_) => {}
        }
    }
}

async fn next_frame(reader: &mut OwnedReadHalf, framer: &mut Framer, ns: &str) -> Result<Frame, Failure> {
    let wait = async {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(frame) = framer.next(ns) {
                return Ok(frame);
            }
            match reader.read(&mut buffer).await? {
                0 => return Ok(Frame::End),
                n => framer.push(&buffer[..n]),
            }
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err(Failure::Late(PATIENCE, "the login".to_owned())))
}

/// Reads to the end of the stream; never stops for a reader that is slow.
async fn read_on(mut reader: OwnedReadHalf, mut framer: Framer, ns: &str, sender: mpsc::UnboundedSender<Incoming>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut why = None;
    loop {
        while let Some(frame) = framer.next(ns) {
            let incoming = match frame {
                Frame::Stanza(stanza) if stanza.is("error", STREAM) => {
                    why = Some(String::from(&stanza));
                    continue;
                }
                Frame::Stanza(stanza) => Incoming::Stanza(stanza),
                Frame::End => Incoming::End(why.clone()),
                Frame::Unreadable(what) => {
                    let short: String = what.chars().take(200).collect();
                    eprintln!("client: passed over what is no stanza to us: {short}");
                    Incoming::Unreadable(what)
                }
                Frame::Header(_) => continue,
            };
            if sender.send(incoming).is_err() {
                return;
            }
        }
        match reader.read(&mut buffer).await {
            Ok(n) if n > 0 => framer.push(&buffer[..n]),
            Ok(_) => break,
            Err(error) => {
                why.get_or_insert_with(|| error.to_string());
                break;
            }
        }
    }
    let _ = sender.send(Incoming::End(why));
}
