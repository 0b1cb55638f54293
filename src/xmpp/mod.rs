//! The edge to the XMPP server: the component's stream (XEP-0114), its stanzas, and what is done with them.

mod chat;
mod disco;
mod dispatch;
pub mod envelope;
pub mod errors;
pub mod event;
pub mod forms;
pub mod framer;
pub mod limits;
pub mod link;
pub mod notify;
pub mod ns;
pub mod outline;
mod owner;
mod presence;
mod pubsub;
mod register;
mod repeat;
pub mod rsm;

pub use dispatch::{Edge, Out};
