//! The codecs of Rookery, compiled from their sources without the rest of the house: they import only what stands here, so a
//! fuzzing build takes a minute instead of many. Another codec is one more module.
#![allow(dead_code, unused_imports)]

#[path = "../../src/base"]
pub mod base {
    pub mod clock;
    pub mod jid;
    pub mod progress;
}
#[path = "../../src"]
mod top {
    pub mod config;
}
pub use top::config;

#[path = "../../src/domain/mod.rs"]
pub mod domain;
#[path = "../../src/format/mod.rs"]
pub mod format;
#[path = "../../src/http"]
pub mod http {
    pub mod accept;
    pub mod conditional;
    pub mod forwarded;
    pub mod path;
    pub mod problem;
}
#[path = "../../src/network"]
pub mod network {
    pub mod ostatus {
        pub mod wish;
    }
}
#[path = "../../src/store"]
pub mod store {
    pub mod kv;
    mod memory;
    pub mod tables;
    pub mod transfer;
    pub mod tx;

    pub use kv::{Kv, KvError, Read};
    pub use memory::MemoryKv;
    pub use tables::{Account, Counter};
    pub use tx::{Durable, Tx};
}
#[path = "../../src/web"]
pub mod web {
    pub mod asked;
}
#[path = "../../src/xmpp"]
pub mod xmpp {
    pub mod envelope;
    pub mod errors;
    pub mod forms;
    pub mod framer;
    pub mod ns;
    pub mod outline;
    pub mod rsm;
}

pub mod targets;
