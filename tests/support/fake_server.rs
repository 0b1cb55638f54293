//! The server's side of a component link (XEP-0114), played by a test: it says and reads what the test tells it to.

use std::time::Duration;

use aws_lc_rs::digest;
use rookery::xmpp::envelope::{Envelope, Scope};
use rookery::xmpp::framer::{Frame, Framer, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const COMPONENT: &str = "c.example.org";
pub const HOST: &str = "example.org";
pub const SECRET: &str = "open sesame";
const STREAM_ID: &str = "3BF96D32";
/// Nothing here takes as long as this, unless it will never come.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct FakeServer {
    listener: TcpListener,
}

/// One component's connection.
pub struct Peer {
    socket: TcpStream,
    framer: Framer,
    /// How many of the component's stanzas to itself are brought back to it.
    pub echoes: u32,
    /// The other side has ended its stream.
    pub closed: bool,
}

impl FakeServer {
    pub async fn start() -> Self {
        FakeServer { listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port") }
    }

    pub fn address(&self) -> String {
        self.listener.local_addr().expect("an address").to_string()
    }

    /// Takes a connection and reads its stream header; nothing is said yet.
    pub async fn accept(&self) -> Peer {
        let (socket, _) = patient(self.listener.accept()).await.expect("a connection");
        let limits = Limits { stanza_bytes: 100_000_000, ..Limits::default() };
        let mut peer = Peer { socket, framer: Framer::new(limits), echoes: u32::MAX, closed: false };
        match peer.frame().await {
            Some(Frame::Open(header)) => assert_eq!(header.get("to"), Some(COMPONENT)),
            other => panic!("no stream header: {other:?}"),
        }
        peer
    }

    /// The whole login, with the right secret.
    pub async fn login(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.send_header().await;
        peer.take_handshake().await;
        peer.send("<handshake/>").await;
        peer
    }
}

async fn patient<T>(f: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, f).await.expect("it did not come in time")
}

impl Peer {
    pub async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        patient(self.socket.write_all(bytes)).await.expect("the component reads");
    }

    pub async fn send_header(&mut self) {
        let header = format!(
            "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' \
             xmlns='jabber:component:accept' from='{COMPONENT}' id='{STREAM_ID}'>"
        );
        self.send(&header).await;
    }

    /// Reads the handshake; whether the secret was right.
    pub async fn take_handshake(&mut self) -> bool {
        let text = [STREAM_ID, SECRET].concat();
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        match self.frame().await {
            Some(Frame::Stanza(bytes)) => bytes == format!("<handshake>{hex}</handshake>"),
            other => panic!("no handshake: {other:?}"),
        }
    }

    pub async fn send_stream_error(&mut self, condition: &str, text: &str) {
        let error = format!(
            "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{text}</text></stream:error></stream:stream>"
        );
        self.send(&error).await;
    }

    /// The next stanza that the component sends to others; what it sends to itself is brought back to it. `None` at
    /// the end of its stream or connection.
    pub async fn next(&mut self) -> Option<Envelope> {
        loop {
            let bytes = match self.frame().await? {
                Frame::Stanza(bytes) => bytes,
                Frame::Close => {
                    self.closed = true;
                    return None;
                }
                other => panic!("the component sent {other:?}"),
            };
            let envelope = Envelope::parse(bytes, &Scope::default()).expect("the component sends XML");
            let to = envelope.head.to.jid().expect("every stanza has a to");
            assert_eq!(envelope.head.from.jid().map(|f| f.domain().as_str()), Some(COMPONENT));
            if to.domain().as_str() != COMPONENT {
                return Some(envelope);
            }
            if self.echoes > 0 {
                self.echoes -= 1;
                let raw = envelope.raw().clone();
                self.send_bytes(&raw).await;
            }
        }
    }

    /// As [`Peer::next`], with a name for what is awaited.
    pub async fn expect(&mut self, what: &str) -> Envelope {
        self.next().await.unwrap_or_else(|| panic!("the stream ended instead of: {what}"))
    }

    /// Answers an iq with an empty result.
    pub async fn answer(&mut self, iq: &Envelope) {
        let (from, to) = (iq.head.to.jid().expect("a to"), iq.head.from.jid().expect("a from"));
        let id = iq.head.id.as_deref().expect("an id");
        self.send(&format!("<iq from='{from}' to='{to}' id='{id}' type='result'/>")).await;
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.framer.next().expect("the component sends a proper stream") {
                return Some(frame);
            }
            match patient(self.socket.read_buf(self.framer.buffer())).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
