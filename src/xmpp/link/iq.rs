//! Our own requests: which answer belongs to whom.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use jid::Jid;
use tokio::sync::oneshot;

use super::{IqType, LinkLost, LinkState, SendError, Shared};
use crate::xmpp::envelope::{Envelope, Kind, OutHead, Stanza, Xml};

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IqError {
    #[error("no answer in time")]
    Timeout,
    #[error("too many requests are open")]
    TooMany,
    #[error(transparent)]
    Send(#[from] SendError),
}

#[derive(Default)]
pub(super) struct IqTable {
    waiting: Mutex<HashMap<String, Waiting>>,
    last: AtomicU64,
}

struct Waiting {
    asked: Jid,
    answer: oneshot::Sender<Envelope>,
}

impl IqTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives an answer to who waits for it; back if nobody does, or if it is not from whom we asked.
    pub fn answered(&self, envelope: Envelope) -> Option<Envelope> {
        let (Some(id), Some(from)) = (&envelope.head.id, envelope.head.from.jid()) else { return Some(envelope) };
        let mut waiting = self.lock();
        if waiting.get(id).is_none_or(|w| w.asked != *from) {
            return Some(envelope);
        }
        let found = waiting.remove(id);
        drop(waiting);
        // Nobody may listen any more; then the answer has no use.
        found.map(|w| w.answer.send(envelope).ok());
        None
    }

    /// The link is lost: no answer will come.
    pub fn lose(&self) {
        self.lock().clear();
    }
}

/// Forgets the request however its waiting ends.
struct Open<'a>(&'a IqTable, &'a str);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(self.1);
    }
}

pub(super) async fn ask(
    shared: &Shared,
    from: &Jid,
    to: &Jid,
    type_: IqType,
    payload: Xml,
) -> Result<Envelope, IqError> {
    let table = &shared.iqs;
    // A number alone could be guessed by who wants to answer in another's place.
    let id = format!("{}{}", shared.ids.token(12), table.last.fetch_add(1, Ordering::Relaxed));
    let type_ = match type_ {
        IqType::Get => "get",
        IqType::Set => "set",
    };
    let head = OutHead { kind: Kind::Iq, from, to, id: Some(&id), type_: Some(type_) };
    let stanza = Stanza::new(&head, payload).ok_or(SendError::LinkDown)?;
    let (answer, answered) = oneshot::channel();
    {
        let mut waiting = table.lock();
        if waiting.len() >= shared.config.iq_max {
            return Err(IqError::TooMany);
        }
        // Looked at under the lock that the loss of the link takes too, so no request slips in behind it.
        if !matches!(*shared.state.borrow(), LinkState::Online { .. }) {
            return Err(SendError::LinkDown.into());
        }
        waiting.insert(id.clone(), Waiting { asked: to.clone(), answer });
    }
    let _open = Open(table, &id);
    shared.answer(stanza)?;
    tokio::select! {
        answer = answered => answer.map_err(|_| SendError::Lost(LinkLost).into()),
        () = shared.clock.sleep(shared.config.iq_timeout) => Err(IqError::Timeout),
    }
}
