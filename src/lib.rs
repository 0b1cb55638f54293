//! Rookery: an XMPP server component (XEP-0114) that makes every Jabber account a citizen of the social web.
//!
//! # The map of the house
//!
//! A message goes **in at an edge, down to the store, and stops**; what must leave starts **from the store and goes
//! out at an edge**. A line imports downwards only; `tests/layers.rs` holds it.
//!
//! ```text
//!  8  main -> app, check                   the wiring: may import everything
//!  7  xmpp   web   network/ostatus  control     edges: never one another
//!  6  queue                                relay, worker, sweep; knows the networks only through the trait
//!  5  network                              the trait
//!  4  http                                 listener, what handlers share, the one client with its guards
//!  3  service                              use cases: one file per verb family
//!  2  store                                Kv, tables, the committer, backends
//! 1b  format                               pure codecs: bytes <-> domain
//! 1a  domain                               pure types and rules
//!  0  base, config
//! ```
//!
//! ## The way of one post
//!
//! `xmpp/link` reads the stanza (`framer`: limits before any tree; `envelope`: head and slices) and hands it to
//! `xmpp/dispatch`, which takes the sender's turn and finds the verb. `xmpp/pubsub` makes it a `service::publish::Publish`.
//! `service/publish` parses and completes the payload side by side with others (`format/canonical`, `format/atom`), then
//! asks the committer for a decision in its turn: `domain/policy` says yes, and **one Change** carries item, payload and
//! Event. When the group is durable the answer leaves. That is the end of the request.
//!
//! `queue/relay` sees the Event. What concerns the component's own subscribers is told at once, from memory
//! (`queue/express`); the deliveries that the networks plan are made durable (`queue/plan`), unless one that was told from
//! memory was all and has ended by then. `queue/worker` has a lane for each destination (`queue/lane`), waits for its place among the others (`queue/slots`) and hands over to `xmpp/notify` (one
//! fan-out with a cursor, proved by barriers) and `network/ostatus/send` (the topic to each callback); `queue/outcomes`
//! makes durable what came of it. No step looks back.
//!
//! ## Architecture invariants
//!
//! 1. `domain` and `format` do no I/O, read no clock, log nothing: time, randomness and ids are arguments.
//! 2. Only `store` names a database. Only `http::client` and `xmpp` open sockets outward.
//! 3. A `service` function returns when its change is **durably** committed. It never sends and never awaits a socket.
//! 4. *Stored* and *will be delivered* are one act: a Change carries its writes **and** its Event; only `service` and
//!    `queue` make one.
//! 5. An edge translates and delegates: parse, command, service, answer. No PubSub rule lives in an edge.
//! 6. No network folder imports another. Adding a network is one folder and one line in `app.rs`.
//! 7. `deliver` may be called twice for one promise; the receiver can tell (same item id, same `atom:id`).
//! 8. Input is bounded before it is read (bytes, depth, attributes), never panics, and is made canonical once.
//!    Only our writer's output leaves; addresses are spliced in only as an escaped type.
//! 9. Nothing global: everything is given by `app.rs`. Shutdown is a value; a drain is orderly.
//! 10. One place checks every outgoing stanza's `from` and size: `xmpp::link::LinkHandle::check`.
//! 11. Every read path asks `domain::policy::may_see`; an item's audience is in the schema from the first version.
//!
//! ## Where experience differs from the plan
//!
//! * **tokio-xmpp stays out.** Its `Component` takes a stanza that it cannot read, or a minute of silence, for the end of
//!   the stream; ours is `xmpp/framer` and `xmpp/link`, and the client of tests and examples is a file of its own.
//!   xmpp-parsers and minidom serve for the payloads that they get right.
//! * **fjall is the default store**, not sled: `docs/decisions/store.md`.
//! * **Under registration by `hosts` a name belongs to the Jabber account of the same name**, and XEP-0077 gives no other:
//!   names are never given back, so a free choice would let anybody take a colleague's for good. Administrators give others.
//! * **Due rows carry no lease yet.** One process holds the store's lock, so a lane in memory is the lease; a backend that
//!   several processes share needs the lease in the row.

pub mod app;
pub mod base;
pub mod check;
pub mod config;
pub mod control;
pub mod domain;
pub mod format;
pub mod http;
pub mod network;
pub mod queue;
pub mod service;
pub mod store;
pub mod web;
pub mod xmpp;
