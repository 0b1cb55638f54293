//! What each Jabber account has here, counted: bounds are asked with one row instead of thousands.

use serde::{Deserialize, Serialize};

use super::*;
use crate::domain::node::{Node, NodeKind};

/// The figures of one bare JID. The row exists while one of them is not zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Subscriptions of it and its resources, pending ones too, to nodes whose rows are still there; those that an owner
    /// gave are the owner's.
    pub subscriptions: u64,
    /// Nodes that it has made and that were not deleted; microblog and comments nodes are not counted.
    pub nodes: u64,
}

impl dyn Read + '_ {
    pub fn tally(&self, jid: &BareJid) -> Result<Tally> {
        self.tally_of(jid.as_str().as_bytes())
    }

    fn tally_of(&self, jid: &[u8]) -> Result<Tally> {
        Ok(row(self, &tally_key(jid))?.unwrap_or_default())
    }
}

impl Tx<'_> {
    pub(super) fn count_subscription(&mut self, jid: &[u8], more: bool) -> Result<()> {
        let tally = self.read().tally_of(jid)?;
        self.put_tally(jid, Tally { subscriptions: counted(tally.subscriptions, more), ..tally })
    }

    pub(super) fn count_node(&mut self, node: &Node, more: bool) -> Result<()> {
        if node.kind != NodeKind::Leaf {
            return Ok(());
        }
        let jid = node.creator.as_str().as_bytes();
        let tally = self.read().tally_of(jid)?;
        self.put_tally(jid, Tally { nodes: counted(tally.nodes, more), ..tally })
    }

    fn put_tally(&mut self, jid: &[u8], tally: Tally) -> Result<()> {
        match tally == Tally::default() {
            true => self.delete(tally_key(jid)),
            false => self.put(tally_key(jid), encode(&tally)),
        }
    }
}

pub(super) fn counted(n: u64, more: bool) -> u64 {
    if more { n + 1 } else { n.saturating_sub(1) }
}
