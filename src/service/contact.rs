//! Presence subscriptions to virtual JIDs: approved and kept (RFC 6121 §3.1), so that access model `presence` works.

use jid::BareJid;

use super::Service;
use crate::base::clock::Timestamp;
use crate::base::turn::Turn;
use crate::domain::error::Refusal;
use crate::domain::event::{Event, NodeRef, What};
use crate::domain::node::{NodeId, NodeKind, NodeName};
use crate::domain::subscription::Contact;
use crate::store::{Tx, kv};

/// Ends at most `limit` of the contacts, behind `behind`, of an account that is over, with two rows each, and promises to
/// tell them; the last of them, if there may be more.
pub fn end_some(
    tx: &mut Tx<'_>,
    account: &BareJid,
    behind: Option<&BareJid>,
    now: Timestamp,
    limit: usize,
) -> kv::Result<Option<BareJid>> {
    let mut contacts = tx.read().contacts(account, behind, limit)?;
    for jid in &contacts {
        tx.delete_contact(account, jid)?;
        let (name, kind) = (NodeName::microblog(), NodeKind::Microblog);
        let node = NodeRef { id: NodeId(0), service: account.clone(), name, kind };
        tx.emit(&Event { at: now, node, node_seq: 0, what: What::ContactEnded { jid: jid.clone() } })?;
    }
    let is_full = contacts.len() >= limit;
    Ok(contacts.pop().filter(|_| is_full))
}

impl Service {
    /// Approves `jid` as a contact of the virtual JID `account`. Doing it twice changes nothing.
    pub async fn add_contact(&self, turn: Turn, account: BareJid, jid: BareJid) -> Result<(), Refusal> {
        let inner = self.clone();
        self.decide(turn, move |tx| {
            inner.place_for_write(tx, &account, &jid)?;
            if tx.read().contact(&account, &jid)?.is_none() {
                tx.put_contact(&account, &jid, &Contact { since: inner.clock.now() })?;
            }
            Ok(())
        })
        .await
    }

    pub async fn remove_contact(&self, turn: Turn, account: BareJid, jid: BareJid) -> Result<(), Refusal> {
        self.decide(turn, move |tx| Ok(tx.delete_contact(&account, &jid)?)).await
    }

    /// Whether `jid` is an approved contact of `account`.
    pub async fn is_contact(&self, turn: Turn, account: BareJid, jid: BareJid) -> Result<bool, Refusal> {
        self.look(turn, move |r| Ok(r.contact(&account, &jid)?.is_some())).await
    }
}
