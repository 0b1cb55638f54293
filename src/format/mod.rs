//! Pure codecs between bytes and `domain`: no I/O, no clock, no log. Every reader is bounded, and no input makes one panic.
//!
//! A payload is made canonical once ([`canonical`]); every reader of XML here reads only what passed through there.

pub mod atom;
pub mod canonical;
pub(crate) mod cursor;
pub mod feed;
pub mod html;
pub mod jrd;
pub mod ns;
pub mod resource;
pub mod signature;
pub mod uri;
pub(crate) mod xml;
pub mod xrd;
