//! The namespaces this house reads and writes.

pub const ATOM: &str = "http://www.w3.org/2005/Atom";
pub const XHTML: &str = "http://www.w3.org/1999/xhtml";
/// RFC 4685.
pub const THREAD: &str = "http://purl.org/syndication/thread/1.0";
/// Atom Activity Streams 1.0.
pub const ACTIVITY: &str = "http://activitystrea.ms/spec/1.0/";
/// Portable Contacts.
pub const POCO: &str = "http://portablecontacts.net/spec/1.0";
pub const MEDIA: &str = "http://purl.org/syndication/atommedia";
pub const OSTATUS: &str = "http://ostatus.org/schema/1.0";
pub const GEORSS: &str = "http://www.georss.org/georss";
/// XEP-0080.
pub const GEOLOC: &str = "http://jabber.org/protocol/geoloc";
/// XRD 1.0.
pub const XRD: &str = "http://docs.oasis-open.org/ns/xri/xrd-1.0";
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
pub const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
/// Dublin Core: its `creator` is an author by another name.
pub const DC: &str = "http://purl.org/dc/elements/1.1/";
