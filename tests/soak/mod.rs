//! What tests/soak.rs has beside the checkers of tests/crash.rs and tests/faults.rs.

pub mod book;
pub mod gauge;
pub mod life;
