//! Pure types and rules, in the field's words: no I/O, no clock, no XML, no log.

pub mod address;
pub mod delivery;
pub mod entry;
pub mod error;
pub mod event;
pub mod hub;
pub mod item;
pub mod node;
pub mod node_config;
pub mod policy;
pub mod subscription;
