//! Connecting and the handshake (XEP-0114 §3).

use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{LinkConfig, Trouble};
use crate::base::clock::Clock;
use crate::xmpp::envelope::{Envelope, Scope, XmlWriter, ns};
use crate::xmpp::framer::{Frame, Framer, StreamHeader};

/// An open stream. Stanzas may already wait in the framer.
pub(super) struct Session {
    pub stream: TcpStream,
    pub framer: Framer,
    pub scope: Scope,
}

pub(super) async fn login(config: &LinkConfig, clock: &Clock) -> Result<Session, Trouble> {
    tokio::select! {
        done = connect_and_shake(config) => done,
        () = clock.sleep(config.connect_timeout) => Err(Trouble::Slow { server: config.server.clone() }),
    }
}

async fn connect_and_shake(config: &LinkConfig) -> Result<Session, Trouble> {
    let connecting = |e: std::io::Error| Trouble::connecting(&config.server, &e);
    let stream = TcpStream::connect(&config.server).await.map_err(connecting)?;
    stream.set_nodelay(true).map_err(connecting)?;
    let jid = config.jid.as_str();
    let mut session = Session { stream, framer: Framer::new(config.limits), scope: Scope::default() };

    session.write(&open_stream(jid)).await?;
    let header = match session.frame().await {
        Ok(Some(Frame::Open(header))) => header,
        Ok(None) => return Err(not_a_component_port(config, "it closed the connection")),
        Ok(Some(_)) | Err(Trouble::Framing(_)) => return Err(not_a_component_port(config, "it speaks no XMPP")),
        Err(other) => return Err(other),
    };
    // A stream to clients or servers begins alike, and would refuse the handshake with less clear words.
    let default = header.get("xmlns").unwrap_or_default();
    if default != ns::COMPONENT {
        return Err(not_a_component_port(config, &format!("its stream is one of {default:.60}")));
    }
    session.scope = Scope::from(&header);
    let Some(id) = stream_id(&header) else {
        // An error may follow a header without an id.
        return Err(session.refusal(jid).await.unwrap_or_else(|| not_a_component_port(config, "no stream id")));
    };
    session.write(&handshake(id, &config.secret)).await?;
    match session.refusal(jid).await {
        None => Ok(session),
        Some(trouble) => Err(trouble),
    }
}

fn not_a_component_port(config: &LinkConfig, why: &str) -> Trouble {
    Trouble::NotAComponentPort { server: config.server.clone(), why: why.to_owned() }
}

fn stream_id(header: &StreamHeader) -> Option<&str> {
    header.get("id").filter(|id| !id.is_empty())
}

/// The XML declaration and our stream header: a start tag, which the writer would close.
fn open_stream(jid: &str) -> Bytes {
    let mut w = XmlWriter::new();
    w.open("stream:stream", ns::COMPONENT).attr("xmlns:stream", ns::STREAMS).attr("to", jid);
    let tag = w.finish();
    let open = tag.as_bytes().strip_suffix(b"/>").unwrap_or(tag.as_bytes());
    [b"<?xml version='1.0'?>", open, b">"].concat().into()
}

/// XEP-0114 §3: the SHA-1 of stream id and secret, in lower-case hexadecimal. The protocol allows no other hash.
fn handshake(stream_id: &str, secret: &str) -> Bytes {
    let text = [stream_id.as_bytes(), secret.as_bytes()].concat();
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("<handshake>{hex}</handshake>").into()
}

impl Session {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        // If the server has already closed, what it said before is worth more than this error.
        match self.stream.write_all(bytes).await {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(e) => Err(Trouble::Broken { why: e.to_string() }),
        }
    }

    /// The next frame; `None` at the end of the connection.
    async fn frame(&mut self) -> Result<Option<Frame>, Trouble> {
        loop {
            if let Some(frame) = self.framer.next()? {
                return Ok(Some(frame));
            }
            match self.stream.read_buf(self.framer.buffer()).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(Trouble::Broken { why: e.to_string() }),
            }
        }
    }

    /// Waits for the server's verdict on the handshake: `None` if it took it.
    async fn refusal(&mut self, jid: &str) -> Option<Trouble> {
        loop {
            let bytes = match self.frame().await {
                Ok(Some(Frame::Stanza(bytes))) => bytes,
                Ok(Some(Frame::Close) | None) => return Some(Trouble::ClosedAtHandshake { jid: jid.to_owned() }),
                Ok(Some(Frame::Open(_) | Frame::Skipped(_))) => continue,
                Err(trouble) => return Some(trouble),
            };
            let Ok(envelope) = Envelope::parse(bytes, &self.scope) else { continue };
            if envelope.name == "handshake" {
                return None;
            }
            if let Some(trouble) = Trouble::of_stream(&envelope, jid) {
                return Some(trouble);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_the_one_of_the_specification() {
        // Computed with sha1sum; the hash in the XEP's example belongs to no stated secret.
        assert_eq!(
            &handshake("3BF96D32", "secret")[..],
            b"<handshake>b09ea9b3b7f586be8a08d0a3dd7466f110aeb136</handshake>"
        );
    }

    #[test]
    fn the_stream_header_escapes_the_name() {
        let header = open_stream("a'b");
        assert!(header.starts_with(b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' "));
        assert!(header.ends_with(b" to='a&apos;b'>"));
    }
}
