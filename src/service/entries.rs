//! What becomes of a payload before it is kept: made canonical, and in microblog and comments nodes completed as an
//! ActivityStreams Atom entry whose author is who published.

use bytes::Bytes;
use jid::BareJid;

use super::Inner;
use super::publish::Payload;
use crate::domain::address::Whom;
use crate::domain::error::Refusal;
use crate::domain::item::{Item, ItemId};
use crate::domain::node::{NodeKind, NodeName};
use crate::format::canonical::{Canonical, CanonicalError, Limits};

/// A payload that was read and found good; not yet completed.
#[derive(Clone)]
pub(super) enum Draft {
    /// Any element, for a leaf node.
    Element(Canonical),
    /// For a node that holds entries.
    Entry(Canonical),
    Text(String),
}

/// What is to be stored.
pub(super) struct Prepared {
    pub payload: Bytes,
    pub atom_id: Option<String>,
    pub alias: Option<String>,
    pub title: String,
}

impl Prepared {
    /// For an item that carries nothing: a pure notification (XEP-0060 §4.3).
    pub fn empty() -> Self {
        Prepared { payload: Bytes::new(), atom_id: None, alias: None, title: String::new() }
    }
}
