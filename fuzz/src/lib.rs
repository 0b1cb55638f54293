//! The pure layers of Rookery, compiled from their sources without the rest of the house: they import nothing above them, so a
//! fuzzing build takes a minute instead of many.
#![allow(dead_code, unused_imports)]

#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/domain/mod.rs"]
pub mod domain;
#[path = "../../src/format/mod.rs"]
pub mod format;

pub mod targets;
