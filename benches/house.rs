//! What the rooms cost by themselves, measured by criterion: `cargo bench`. Ratios between two states of the tree on one
//! machine mean something; `scripts/bench` measures the whole beside its peers.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jid::{BareJid, Jid};
use rookery::base::clock::{Clock, Timestamp};
use rookery::base::id::Ids;
use rookery::base::turn::Turn;
use rookery::domain::address::Addresses;
use rookery::domain::hub::Digest;
use rookery::domain::item::ItemId;
use rookery::domain::node::{NodeAddress, NodeName};
use rookery::format::atom::{self, Author, Completion};
use rookery::format::canonical::{Canonical, Limits};
use rookery::format::signature;
use rookery::service::publish::{Payload, Publish};
use rookery::service::{Quota, Registration, Rules, Service};
use rookery::store::{self, Backend, MemoryKv, Store};
use rookery::xmpp::envelope::{Envelope, Scope, Stanza, Xml};
use rookery::xmpp::framer::{self, Framer};

const ENTRY: &str = include_str!("../tests/specimens/movim-post.xml");

/// A publish as a server hands it to a component.
fn publish_stanza() -> String {
    format!(
        "<iq xmlns='jabber:component:accept' type='set' id='p1' from='alice@example.org/orchard' \
         to='alice@social.example.org'><pubsub xmlns='http://jabber.org/protocol/pubsub'>\
         <publish node='urn:xmpp:microblog:0'><item id='one'>{}</item></publish></pubsub></iq>",
        ENTRY.trim()
    )
}

fn framing(c: &mut Criterion) {
    let stanza = publish_stanza();
    let header =
        "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='s'>";
    let stream = format!("{header}{}", stanza.repeat(100));
    let mut group = c.benchmark_group("framer");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("100 publishes in one read", |b| {
        b.iter_batched(
            || {
                let mut framer = Framer::new(framer::Limits::default());
                framer.buffer().extend_from_slice(stream.as_bytes());
                framer
            },
            |mut framer| {
                let mut frames = 0;
                while let Ok(Some(frame)) = framer.next() {
                    black_box(frame);
                    frames += 1;
                }
                assert_eq!(frames, 101);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
    let raw = Bytes::from(stanza);
    let scope = Scope::default();
    c.bench_function("envelope of a publish", |b| b.iter(|| Envelope::parse(black_box(raw.clone()), &scope).unwrap()));
}

fn entry(c: &mut Criterion) {
    let ctx = Completion {
        id: "tag:social.example.org,2026-11-22:post:abc",
        published: Timestamp::from_secs(1_795_000_000),
        updated: Timestamp::from_secs(1_795_000_000),
        author: Author {
            name: "alice",
            jid: "alice@social.example.org",
            acct: Some("alice@social.example.org"),
            page: Some("https://social.example.org/@alice"),
        },
        permalink: Some("https://social.example.org/@alice/one"),
        service: "alice@social.example.org",
        node: "urn:xmpp:microblog:0",
        item: "one",
        comments: Some(("alice@social.example.org", "urn:xmpp:microblog:0:comments/one")),
    };
    c.bench_function("entry made canonical", |b| {
        b.iter(|| Canonical::new(black_box(ENTRY.trim().as_bytes()), &[], &Limits::ENTRY).unwrap());
    });
    let read = Canonical::new(ENTRY.trim().as_bytes(), &[], &Limits::ENTRY).unwrap();
    c.bench_function("entry completed", |b| b.iter(|| atom::complete(black_box(&read), &ctx).unwrap()));
}

fn service(store: Store) -> Service {
    let component = BareJid::new("social.example.org").unwrap();
    let url = url::Url::parse("https://social.example.org").unwrap();
    let rules = Rules {
        registration: Registration::Hosts,
        auto_register_hosts: vec!["example.org".into()],
        admins: Vec::new(),
        create_nodes_hosts: Vec::new(),
        max_payload: 200_000,
        quota: Quota::default(),
    };
    Service::new(store, Addresses::new(component, &url, "social.example.org"), rules, Clock::system(), Ids::system())
}

fn publish(n: usize) -> Publish {
    Publish {
        by: Jid::new("alice@example.org/orchard").unwrap(),
        at: NodeAddress { service: BareJid::new("alice@social.example.org").unwrap(), name: NodeName::microblog() },
        item: Some(ItemId::parse(&format!("i{n}")).unwrap()),
        payload: Some(Payload::Xml { raw: Bytes::from_static(ENTRY.trim().as_bytes()), scope: Vec::new() }),
        options: vec![("pubsub#max_items".into(), vec!["20".into()])],
    }
}

/// From the request to the durable answer, `at_once` in flight.
fn commit(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("publish");
    for (name, store) in [
        ("memory", Store::open(Arc::new(MemoryKv::default())).unwrap()),
        ("fjall", store::open(Backend::Fjall, &folder.path().join("fjall")).unwrap()),
        ("sled", store::open(Backend::Sled, &folder.path().join("sled")).unwrap()),
    ] {
        let service = service(store.clone());
        let mut n = 0;
        for at_once in [1, 16] {
            group.throughput(Throughput::Elements(at_once as u64));
            group.bench_function(format!("{name}, {at_once} in flight"), |b| {
                b.iter(|| {
                    let some: Vec<_> = (0..at_once)
                        .map(|i| {
                            runtime.spawn({
                                let service = service.clone();
                                let publish = publish(n + i);
                                async move { service.publish(Turn::free(), publish).await.unwrap() }
                            })
                        })
                        .collect();
                    n += at_once;
                    runtime.block_on(futures::future::join_all(some));
                });
            });
        }
        drop(service);
        store.close();
    }
    group.finish();
}

fn fan_out(c: &mut Criterion) {
    let body = Xml::canonical(ENTRY.trim());
    let from = Jid::new("alice@social.example.org").unwrap();
    let readers: Vec<Jid> = (0..1000).map(|n| Jid::new(&format!("reader{n}@example.net/phone")).unwrap()).collect();
    let mut group = c.benchmark_group("fan-out");
    group.throughput(Throughput::Elements(readers.len() as u64));
    group.bench_function("1000 notifications written", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            for to in &readers {
                Stanza::message(&from, to, Some("headline"), Some("e1"), body.clone()).write_to(&mut out);
            }
            black_box(out.len())
        });
    });
    group.finish();
}

fn signatures(c: &mut Criterion) {
    let topic = "x".repeat(40_000);
    let mut group = c.benchmark_group("signature");
    group.throughput(Throughput::Bytes(topic.len() as u64));
    for (name, digest) in [("sha256", Digest::Sha256), ("sha1", Digest::Sha1)] {
        group.bench_function(name, |b| b.iter(|| signature::sign(digest, "secret", black_box(topic.as_bytes()))));
    }
    group.finish();
}

criterion_group!(house, framing, entry, commit, fan_out, signatures);
criterion_main!(house);
