//! Small things that everything may use: time, randomness, addresses, complaints, an orderly end, a sender's order.

pub mod clock;
pub mod complaint;
pub mod id;
pub mod jid;
pub mod progress;
pub mod shutdown;
pub mod turn;
