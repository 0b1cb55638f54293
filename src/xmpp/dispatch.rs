//! From stanza to use case and back: who asks, whom, what; one table of requests (RFC 6120 §8, RFC 6121 §8).
//!
//! Nothing here blocks: a stanza takes its sender's turn in the order of reading, the work goes on elsewhere.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use jid::{BareJid, Jid};

use super::envelope::{Address, Child, Envelope, Head, Incoming, Kind, Refused, Stanza, StanzaType, Xml, XmlWriter};
use super::limits::{Counted, Gate, Limits, Permit, TurnedAway};
use super::outline::Outline;
use super::repeat::{Key, Memory};
use super::{chat, disco, errors, ns, owner, presence, pubsub, register};
use crate::base::complaint::Complaint;
use crate::base::turn::{Turn, Turns};
use crate::domain::address::Whom;
use crate::domain::error::{Over, Refusal};
use crate::service::Service;

/// Where answers go: into the link's lane that waits for nobody. False: this one is long, and too much waits already that
/// the server has not read; it is for the caller to say something short.
pub type Out = Arc<dyn Fn(Stanza) -> bool + Send + Sync>;

/// The XMPP edge; cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    service: Service,
    gate: Gate,
    turns: Turns<BareJid>,
    memory: Memory,
    caps: disco::Caps,
    /// That somebody is over their rate.
    flood: Mutex<Complaint>,
}

/// The result of a request: what stands in the `result`.
pub(super) type Answer = Result<Xml, Refusal>;

/// One request of a table.
struct Route {
    type_: StanzaType,
    ns: &'static str,
    name: &'static str,
    /// Whether only the component itself offers it.
    component_only: bool,
    run: fn(Request) -> BoxFuture<'static, Answer>,
}

/// Every request there is an answer to.
const ROUTES: &[Route] = &[
    route(StanzaType::Get, ns::PUBSUB, "pubsub", |r| Box::pin(pubsub::get(r))),
    route(StanzaType::Set, ns::PUBSUB, "pubsub", |r| Box::pin(pubsub::set(r))),
    route(StanzaType::Get, ns::OWNER, "pubsub", |r| Box::pin(owner::get(r))),
    route(StanzaType::Set, ns::OWNER, "pubsub", |r| Box::pin(owner::set(r))),
    route(StanzaType::Get, ns::DISCO_INFO, "query", |r| Box::pin(disco::info(r))),
    route(StanzaType::Get, ns::DISCO_ITEMS, "query", |r| Box::pin(disco::items(r))),
    component_only(StanzaType::Get, ns::REGISTER, "query", |r| Box::pin(register::get(r))),
    component_only(StanzaType::Set, ns::REGISTER, "query", |r| Box::pin(register::set(r))),
    route(StanzaType::Get, ns::PING, "ping", |r| Box::pin(ping(r))),
    route(StanzaType::Get, ns::VERSION, "query", |r| Box::pin(version(r))),
    route(StanzaType::Get, ns::TIME, "time", |r| Box::pin(time(r))),
];

const fn route(
    type_: StanzaType,
    ns: &'static str,
    name: &'static str,
    run: fn(Request) -> BoxFuture<'static, Answer>,
) -> Route {
    Route { type_, ns, name, component_only: false, run }
}

const fn component_only(
    type_: StanzaType,
    ns: &'static str,
    name: &'static str,
    run: fn(Request) -> BoxFuture<'static, Answer>,
) -> Route {
    Route { type_, ns, name, component_only: true, run }
}

impl Edge {
    pub fn new(service: Service, limits: Limits) -> Self {
        let gate = Gate::new(limits, service.clock.clone());
        let caps = disco::Caps::new(&service.addresses);
        let (turns, memory, flood) = (Turns::default(), Memory::default(), Mutex::default());
        Edge(Arc::new(Inner { service, gate, turns, memory, caps, flood }))
    }

    pub(super) fn service(&self) -> &Service {
        &self.0.service
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    pub(super) fn caps(&self) -> &disco::Caps {
        &self.0.caps
    }

    /// Takes no more: from now on every request is told to come again later. Then [`Edge::in_work`] only shrinks.
    pub fn close(&self) {
        self.gate().shut();
    }

    /// Requests, messages and presences that were taken and have no answer yet: none left, a drain is over.
    pub fn in_work(&self) -> usize {
        self.gate().in_work()
    }

    /// From now on the users of these hosts, and of no others, may ask as fast as they like.
    pub fn trust(&self, hosts: Vec<String>) {
        self.gate().trust(hosts);
    }

    /// Takes one stanza in the order of the stream and returns at once. A request is answered through `out`, from any
    /// thread, exactly once, unless its sender is over their rate and was told so often enough; so is what presence and
    /// words ask for.
    ///
    /// Must be called within the runtime.
    pub fn receive(&self, incoming: impl Into<Incoming>, out: &Out) {
        let incoming = incoming.into();
        let head = match &incoming {
            Incoming::Stanza(envelope) => &envelope.head,
            Incoming::Refused(refused) => &refused.head,
        };
        let Some(from) = head.from.jid().cloned() else {
            tracing::debug!(?head, "a stanza from nobody");
            return;
        };
        // Everything counts, also what is no request of ours and what cannot be read.
        match (self.gate().count(&from.to_bare()), incoming) {
            (Counted::Within, Incoming::Stanza(envelope)) => self.stanza(envelope, from, out),
            (Counted::Within, Incoming::Refused(Refused { head, refusal, why })) => {
                if let Some(answer) = (Refused { head: self.in_our_name(head), refusal, why }).answer() {
                    out(answer);
                }
            }
            (Counted::Over { tell: false }, _) => {}
            (Counted::Over { tell: true }, Incoming::Stanza(Envelope { head, .. }))
            | (Counted::Over { tell: true }, Incoming::Refused(Refused { head, .. })) => {
                self.complain_of(&from);
                if let Some(answer) = self.in_our_name(head).error(&errors::stanza_error(Refusal::Busy)) {
                    out(answer);
                }
            }
        }
    }

    fn complain_of(&self, from: &Jid) {
        let mut flood = self.0.flood.lock().unwrap_or_else(PoisonError::into_inner);
        if flood.is_due(self.service().clock.now()) {
            tracing::warn!(
                %from,
                "more comes of this sender, or their host, than is taken; the rest is refused. If that is as it should be, \
                 name the host in limits.trusted_hosts"
            );
        }
    }

    /// What was not taken on, since the start.
    pub fn turned_away(&self) -> TurnedAway {
        self.gate().turned_away()
    }

    /// A head that can be answered: what went to no address of ours is answered by the component itself.
    fn in_our_name(&self, mut head: Head) -> Head {
        let addresses = &self.service().addresses;
        if head.to.jid().is_none_or(|to| addresses.whom(&to.to_bare()).is_none()) {
            head.to = Address::Valid(addresses.component.clone().into());
        }
        head
    }

    fn stanza(&self, envelope: Envelope, from: Jid, out: &Out) {
        let own = &self.service().addresses.component;
        let to = envelope.head.to.jid().map(Jid::to_bare);
        // What has no address was meant for the component. What has a foreign one we may not answer in its name.
        let whom = match (&envelope.head.to, &to) {
            (Address::Valid(_), Some(to)) => self.service().addresses.whom(to),
            (Address::Absent, _) => Some(Whom::Service),
            _ => None,
        };
        let head = self.in_our_name(envelope.head.clone());
        let reply = Reply { head, out: out.clone(), most: self.gate().limits().answer_bytes };
        let to = to.filter(|_| whom.is_some()).unwrap_or_else(|| own.clone());
        match (envelope.head.kind, whom) {
            (Kind::Iq, whom) => self.iq(envelope, from, to, whom, reply),
            (Kind::Message | Kind::Presence, Some(whom)) => {
                // Our own addresses come back only by mistake: nothing is said to oneself.
                if from.domain() == own.domain() || matches!(envelope.head.type_, StanzaType::Error) {
                    return;
                }
                match envelope.head.kind {
                    Kind::Message => self.message(envelope, from, to, whom, reply),
                    _ => self.presence(envelope, from, to, whom, reply),
                }
            }
            _ => {}
        }
    }

    fn iq(&self, envelope: Envelope, from: Jid, to: BareJid, whom: Option<Whom>, reply: Reply) {
        let head = &envelope.head;
        // RFC 6120 §8.2.3: four types, an id, exactly one child. Answers that nobody waits for end here: `Reply` sends
        // nothing to a result or an error.
        let sound = matches!(head.type_, StanzaType::Get | StanzaType::Set) && head.id.is_some();
        let (Some(payload), true, 1) = (envelope.payload(), sound, envelope.children_total) else {
            return reply.send(Err(Refusal::BadRequest));
        };
        let whom = match whom {
            Some(whom @ (Whom::Service | Whom::Local(_))) => whom,
            // A well-formed address that resolves to nothing yet, or is not ours at all.
            Some(Whom::Remote { .. } | Whom::Made { .. }) | None => return reply.send(Err(Refusal::NoSuchAccount)),
            Some(Whom::Nobody) => return reply.send(Err(Refusal::UnknownRequest)),
        };
        let found = ROUTES.iter().find(|r| r.type_ == head.type_ && r.ns == payload.ns && r.name == payload.name);
        let Some(route) = found.filter(|r| !r.component_only || whom == Whom::Service) else {
            return reply.send(Err(Refusal::UnknownRequest));
        };
        let sender = from.to_bare();
        let Some(permit) = self.gate().admit(&sender, envelope.raw().len()) else {
            return reply.send(Err(Refusal::Busy));
        };
        let turn = self.0.turns.take(sender);
        let request = Request { edge: self.clone(), envelope, from, to, whom, turn };
        work(permit, reply, (route.run)(request));
    }

    fn message(&self, envelope: Envelope, from: Jid, to: BareJid, whom: Whom, reply: Reply) {
        if !chat::may_be_for_us(&envelope) {
            return;
        }
        let sender = from.to_bare();
        let Some(permit) = self.gate().admit(&sender, envelope.raw().len()) else {
            return reply.send(Err(Refusal::Busy));
        };
        // The first turn is for looking at what the sender has; the second keeps their order until all is done.
        let (look, turn) = (self.0.turns.take(sender.clone()), self.0.turns.take(sender));
        let request = Request { edge: self.clone(), envelope, from, to, whom, turn };
        tokio::spawn(async move {
            let heard = AssertUnwindSafe(chat::hear(request, look, &reply)).catch_unwind().await;
            match heard {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => reply.send(Err(refusal)),
                Err(_) => reply.send(Err(panicked(&reply.head))),
            }
            drop(permit);
        });
    }

    fn presence(&self, envelope: Envelope, from: Jid, to: BareJid, whom: Whom, reply: Reply) {
        let Some(asked) = presence::Asked::read(&envelope.head) else { return };
        let sender = from.to_bare();
        let Some(permit) = self.gate().admit(&sender, envelope.raw().len()) else { return };
        let turn = self.0.turns.take(sender);
        let request = Request { edge: self.clone(), envelope, from, to, whom, turn };
        tokio::spawn(async move {
            if AssertUnwindSafe(presence::come(request, asked, &reply.out)).catch_unwind().await.is_err() {
                panicked(&reply.head);
            }
            drop(permit);
        });
    }
}

/// Does a request's work and answers it, come what may.
fn work(permit: Permit, reply: Reply, run: BoxFuture<'static, Answer>) {
    tokio::spawn(async move {
        let answer = AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| Err(panicked(&reply.head)));
        reply.send(answer);
        // Only now: who drains closes the link when no permit is out.
        drop(permit);
    });
}

fn panicked(head: &Head) -> Refusal {
    tracing::error!(?head, "a request ended in a panic; please report it, with the lines before");
    Refusal::Failed
}

/// A request on its way to a use case.
pub(super) struct Request {
    pub edge: Edge,
    pub envelope: Envelope,
    /// Who asks.
    pub from: Jid,
    /// Which of our addresses was asked.
    pub to: BareJid,
    pub whom: Whom,
    pub turn: Turn,
}

impl Request {
    pub fn service(&self) -> Service {
        self.edge.service().clone()
    }

    /// What the request is about.
    pub fn payload(&self) -> Result<&Child, Refusal> {
        self.envelope.payload().ok_or(Refusal::BadRequest)
    }

    pub fn outline(&self) -> Result<Outline, Refusal> {
        Outline::read(&self.envelope, self.payload()?)
    }

    /// Does a write that must not be done twice (see [`super::repeat`]).
    pub async fn once<F>(self, write: impl FnOnce(Request) -> F) -> Answer
    where
        F: Future<Output = Answer>,
    {
        let edge = self.edge.clone();
        let id = self.envelope.head.id.as_deref().unwrap_or_default();
        let key = Key::new(&self.from, &self.to, id, &self.envelope.slice(self.payload()?));
        if let Some(answer) = edge.0.memory.recall(&key, edge.service().clock.moment()) {
            return Ok(answer);
        }
        let answer = write(self).await?;
        edge.0.memory.keep(key, &answer, edge.service().clock.moment());
        Ok(answer)
    }
}

/// The way back to who asked.
pub(super) struct Reply {
    head: Head,
    out: Out,
    /// Bytes of the largest stanza that the link would send.
    most: usize,
}

impl Reply {
    /// Answers a request; nothing where no answer is due (RFC 6120 §8.3.1).
    fn send(&self, answer: Answer) {
        match answer {
            Ok(body) => {
                if let Some(stanza) = self.head.result(body) {
                    self.say(stanza);
                }
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Says `stanza`, or that it would be too big: over the limit, the server would end the stream for everybody.
    pub fn say(&self, stanza: Stanza) {
        match stanza.len() > self.most {
            true => self.refuse(Refusal::AnswerTooBig(Over { size: stanza.len(), most: self.most })),
            false if (self.out)(stanza) => {}
            false => self.refuse(Refusal::Busy),
        }
    }

    fn refuse(&self, refusal: Refusal) {
        if let Some(stanza) = self.head.error(&errors::stanza_error(refusal)) {
            (self.out)(stanza);
        }
    }
}

/// XEP-0199.
async fn ping(r: Request) -> Answer {
    r.service().entity(r.turn, r.to).await?;
    Ok(Xml::default())
}

/// XEP-0092; the operating system is nobody's business.
async fn version(r: Request) -> Answer {
    r.service().entity(r.turn, r.to).await?;
    let mut w = XmlWriter::new();
    w.open("query", ns::VERSION).leaf("name", "", "Rookery").leaf("version", "", env!("CARGO_PKG_VERSION"));
    Ok(w.finish())
}

/// XEP-0202.
async fn time(r: Request) -> Answer {
    let service = r.service();
    service.entity(r.turn, r.to).await?;
    let mut w = XmlWriter::new();
    w.open("time", ns::TIME).leaf("tzo", "", "+00:00").leaf("utc", "", &service.clock.now().rfc3339());
    Ok(w.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::xmpp::envelope::Scope;
    use std::sync::Mutex;

    #[tokio::test]
    async fn a_panic_is_one_requests_misfortune_and_is_answered() {
        let (said, told) = (Arc::new(Mutex::new(Vec::new())), Arc::new(tokio::sync::Notify::new()));
        let (into, tell) = (said.clone(), told.clone());
        let out: Out = Arc::new(move |stanza: Stanza| {
            stanza.write_to(&mut into.lock().unwrap());
            tell.notify_one();
            true
        });
        let iq = "<iq type='get' id='1' from='juliet@example.org' to='c.example'><a xmlns='b'/></iq>";
        let envelope = Envelope::parse(iq.into(), &Scope::default()).unwrap();
        let gate = Gate::new(Limits { in_work: 1, ..Limits::default() }, Clock::system());
        let juliet = BareJid::new("juliet@example.org").unwrap();
        let permit = gate.admit(&juliet, 1).unwrap();
        work(permit, Reply { head: envelope.head, out, most: 1_000 }, Box::pin(async { panic!("on purpose") }));
        told.notified().await;
        let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
        assert!(said.contains("type='error'") && said.contains("<internal-server-error"), "{said}");
        assert!(gate.admit(&juliet, 1).is_some(), "its place is free again");
    }
}
