//! Stands on the link between the component and its server, passes all on, and sees what the server has proved to have
//! read: the notifications in front of a ping that it answered. What such a server loses is its own loss; everything else
//! has to come again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use minidom::Element;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::client::framer::{Frame, Framer};
use super::client::{COMPONENT, event_items};

const PING: &str = "urn:xmpp:ping";

/// A receiver, and the item that it is told of.
pub type Told = (String, String);

pub struct Witness {
    /// Where the component is to attach.
    pub address: String,
    proved: Arc<Mutex<BTreeSet<Told>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Witness {
    /// In front of the server at `address`, for notifications of `node`.
    pub async fn before(server: String, node: &'static str) -> Witness {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let proved = Arc::new(Mutex::default());
        let task = tokio::spawn({
            let proved = proved.clone();
            async move {
                while let Ok((component, _)) = listener.accept().await {
                    // While the server is away, so are we.
                    let Ok(server) = TcpStream::connect(&server).await else { continue };
                    tokio::spawn(watch(component, server, node, proved.clone()));
                }
            }
        });
        Witness { address, proved, task }
    }

    /// What the server has read, by its own word.
    pub fn proved(&self) -> BTreeSet<Told> {
        self.proved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One stream of the component, in its order.
#[derive(Default)]
struct Stream {
    told: Vec<Told>,
    /// Pings, and how many were told before each.
    pings: Vec<(String, usize)>,
}

/// Passes on what both say until one has ended.
async fn watch(component: TcpStream, server: TcpStream, node: &'static str, proved: Arc<Mutex<BTreeSet<Told>>>) {
    let stream = Mutex::new(Stream::default());
    let lock = || stream.lock().unwrap_or_else(PoisonError::into_inner);
    let attr = |stanza: &Element, name: &str| stanza.attr(name).unwrap_or_default().to_owned();
    let said = |stanza: &Element| {
        let mut stream = lock();
        if stanza.has_child("ping", PING) {
            let before = stream.told.len();
            stream.pings.push((attr(stanza, "id"), before));
        }
        let items = event_items(stanza, node).into_iter().map(|item| (attr(stanza, "to"), attr(item, "id")));
        stream.told.extend(items);
    };
    let answered = |stanza: &Element| {
        let (stream, id) = (lock(), stanza.attr("id"));
        let is_answer = stanza.name() == "iq" && matches!(stanza.attr("type"), Some("result" | "error"));
        let ping = stream.pings.iter().find(|(ping, _)| is_answer && Some(ping.as_str()) == id);
        if let Some((_, before)) = ping {
            let read = stream.told.iter().take(*before).cloned();
            proved.lock().unwrap_or_else(PoisonError::into_inner).extend(read);
        }
    };
    let (from_component, to_component) = component.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_component, to_server, said) => {}
        () = pass(from_server, to_component, answered) => {}
    }
}

/// Every stanza is noted before it is passed on.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, note: impl Fn(&Element)) {
    let (mut framer, mut buffer) = (Framer::default(), [0; 4096]);
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..n).unwrap_or_default();
        framer.push(bytes);
        while let Some(frame) = framer.next(COMPONENT) {
            if let Frame::Stanza(stanza) = frame {
                note(&stanza);
            }
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
