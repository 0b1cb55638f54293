//! The reader: it never stops, whatever comes. What is a stanza goes to the handler, sound or not: one place counts and
//! answers.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

use super::{Handler, Shared, Trouble, count, instance};
use crate::base::clock::Moment;
use crate::domain::error::Refusal;
use crate::xmpp::envelope::{Envelope, Head, Incoming, Kind, Refused, Scope, StanzaType};
use crate::xmpp::framer::{Excess, Frame, Framer};

const READ: usize = 64 * 1024;

pub(super) struct Reader<'a> {
    pub shared: &'a Shared,
    pub handler: &'a Handler,
    pub scope: Scope,
    /// When the last byte came, as in [`Moment`].
    pub heard: &'a AtomicU64,
}

impl Reader<'_> {
    /// Reads until the stream ends; why it did.
    pub async fn read(&self, mut socket: OwnedReadHalf, mut framer: Framer) -> Trouble {
        loop {
            match self.frames(&mut framer) {
                Ok(()) => {}
                Err(trouble) => return trouble,
            }
            // What was read is under way by now: the kernel's part of this costs as much as reading a stanza does.
            acknowledge(&socket);
            framer.buffer().reserve(READ);
            match socket.read_buf(framer.buffer()).await {
                Ok(0) => return Trouble::Closed,
                Ok(n) => count(&self.shared.stats.bytes_in, n),
                Err(e) => return Trouble::Broken { why: e.to_string() },
            }
            self.heard.store(self.shared.clock.moment().0, Ordering::Relaxed);
        }
    }

    fn frames(&self, framer: &mut Framer) -> Result<(), Trouble> {
        while let Some(frame) = framer.next()? {
            count(&self.shared.stats.stanzas_in, 1);
            match frame {
                Frame::Stanza(bytes) => match Envelope::parse(bytes, &self.scope) {
                    Ok(envelope) => self.stanza(envelope)?,
                    Err(broken) => {
                        count(&self.shared.stats.broken, 1);
                        self.refuse(*broken.head, Refusal::BadRequest, broken.fault.to_string());
                    }
                },
                Frame::Skipped(skipped) => {
                    count(&self.shared.stats.skipped, 1);
                    let refusal = match skipped.why {
                        Excess::RestrictedXml | Excess::NotWellFormed => Refusal::BadRequest,
                        _ => Refusal::StanzaTooBig,
                    };
                    let why = skipped.why.told(&self.shared.config.limits, skipped.bytes);
                    self.refuse(Head::salvage(&skipped.head), refusal, why);
                }
                Frame::Close => return Err(Trouble::Closed),
                Frame::Open(_) => {}
            }
        }
        Ok(())
    }

    fn stanza(&self, envelope: Envelope) -> Result<(), Trouble> {
        let shared = self.shared;
        let envelope = match envelope.head.kind {
            Kind::Iq if matches!(envelope.head.type_, StanzaType::Result | StanzaType::Error) => {
                if envelope.head.id.as_deref().is_some_and(|id| shared.lanes.pong(id, shared.clock.moment())) {
                    return Ok(());
                }
                match shared.iqs.answered(envelope) {
                    None => return Ok(()),
                    Some(envelope) => envelope,
                }
            }
            Kind::Message if instance::heard(shared, &envelope) => return Ok(()),
            Kind::Iq if !is_request(&envelope) => {
                // RFC 6120 §8.2.3: an iq has one of four types, a request an id and exactly one child.
                self.refuse(envelope.head, Refusal::BadRequest, "no proper iq".to_owned());
                return Ok(());
            }
            Kind::Other => {
                return match Trouble::of_stream(&envelope, shared.config.jid.as_str()) {
                    Some(trouble) => Err(trouble),
                    None => Ok(()),
                };
            }
            _ => envelope,
        };
        (self.handler)(envelope.into());
        Ok(())
    }

    fn refuse(&self, head: Head, refusal: Refusal, why: String) {
        tracing::debug!(?head, "stanza refused: {why}");
        (self.handler)(Incoming::Refused(Refused { head, refusal, why }));
    }
}

/// Has the kernel acknowledge what came at once. Prosody's socket collects small writes while one is not acknowledged
/// (Nagle); to that a kernel that waits 40 ms for an answer to ride on adds 40 ms for each stanza behind a ping's answer.
fn acknowledge(socket: &OwnedReadHalf) {
    // It does so for a while only, so it is told again; where it cannot be told, the stanza comes 40 ms later.
    #[cfg(target_os = "linux")]
    let _ = rustix::net::sockopt::set_tcp_quickack(socket.as_ref(), true);
}

fn is_request(envelope: &Envelope) -> bool {
    let head = &envelope.head;
    matches!(head.type_, StanzaType::Get | StanzaType::Set) && head.id.is_some() && envelope.children_total == 1
}

/// Watches over the server's answers. Returns when it has been silent too long, although pinged.
pub(super) async fn keepalive(shared: &Shared, heard: &AtomicU64) -> Trouble {
    let (idle, grace) = (shared.config.keepalive, shared.config.grace);
    let mut unanswered = 0;
    loop {
        let silent = shared.clock.moment().since(Moment(heard.load(Ordering::Relaxed)));
        if silent >= idle + grace {
            return Trouble::Silent { seconds: silent.as_secs() };
        }
        if silent >= idle {
            shared.lanes.keepalive();
            shared.clock.sleep(grace.min(idle)).await;
        } else {
            shared.clock.sleep(idle - silent).await;
        }
        if shared.lanes.repeat_ping(idle, shared.clock.moment()) {
            unanswered += 1;
            if unanswered == 2 {
                tracing::warn!(
                    "{} does not answer our pings, so nothing sent can be confirmed: set component.server_host to a \
                     host of the XMPP server",
                    shared.config.server_host
                );
            }
        }
    }
}
