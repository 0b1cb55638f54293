//! The edge to the XMPP server: the component's stream (XEP-0114), its stanzas, and what is done with them.

pub mod envelope;
pub mod framer;
pub mod link;
