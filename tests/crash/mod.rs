//! The checker: a ledger of what was acknowledged, promised and heard, the server that keeps it, the people in it.

// tests/crash.rs and tests/faults.rs use the part they need.
#![allow(dead_code)]

pub mod ledger;
pub mod moment;
pub mod people;
pub mod server;
