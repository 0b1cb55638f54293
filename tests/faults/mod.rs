//! What tests/faults.rs has beside the checker of tests/crash.rs.

pub mod callbacks;
pub mod cast;
pub mod machine;
pub mod power;
pub mod real;
pub mod repeats;
