//! Small things that everything may use: time, randomness, addresses, an orderly end, a sender's order.

pub mod clock;
pub mod id;
pub mod jid;
pub mod progress;
pub mod shutdown;
pub mod turn;
