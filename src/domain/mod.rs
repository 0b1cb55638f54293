//! Pure types and rules: no I/O, no clock, no log. Time, randomness and ids are arguments.

pub mod entry;
