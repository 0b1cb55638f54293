//! HTTP plumbing: the one outgoing client with its guards, the listener, and what handlers share (RFC 9110).
//!
//! Nothing here knows a network or a page. `client` is the only place outside of the component link that opens a
//! socket outward.

pub mod accept;
pub mod client;
pub mod conditional;
pub mod forwarded;
pub mod listener;
pub mod path;
pub mod problem;
