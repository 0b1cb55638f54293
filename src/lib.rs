//! The map of the house.
//!
//! A message goes **in at an edge, down to the store, and stops**; what must leave starts **from the store and goes
//! out at an edge**. A line imports downwards only (`tests/layers.rs` holds it).

pub mod base;
pub mod config;
pub mod control;
pub mod domain;
pub mod format;
pub mod http;
pub mod network;
pub mod queue;
pub mod service;
pub mod store;
pub mod xmpp;
