//! The codecs of Rookery, compiled from their sources without the rest of the house: they import only what stands here, so a
//! fuzzing build takes a minute instead of many. Another codec is one more module.
#![allow(dead_code, unused_imports)]

#[path = "../../src/base"]
pub mod base {
    pub mod clock;
}
#[path = "../../src/domain"]
pub mod domain {
    pub mod entry;
}
#[path = "../../src/format/mod.rs"]
pub mod format;
#[path = "../../src/xmpp"]
pub mod xmpp {
    pub mod framer;
}

pub mod targets;
