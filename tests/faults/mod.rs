//! What tests/faults.rs has beside the checker of tests/crash.rs.

// tests/faults.rs and tests/soak.rs use the part they need.
#![allow(dead_code)]

pub mod callbacks;
pub mod cast;
pub mod machine;
pub mod power;
pub mod real;
pub mod repeats;
