//! The layout of schema 1: every kind of row, as it was written first, is read by today's code and written the same.
//!
//! `tests/schema/1.rows` holds the rows of one small store: key and value in hex, then what it is. A change that alters it
//! is a change of the schema: fields are appended with defaults, variants keep their names, or `SCHEMA` and a migration
//! come along. To add a new kind of row, add it below and run with `ROOKERY_WRITE_SCHEMA=1`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jid::{BareJid, Jid};
use rookery::base::clock::Timestamp;
use rookery::domain::address::LocalName;
use rookery::domain::delivery::{Attempt, Delivery, Destination, Health};
use rookery::domain::event::{Event, NodeRef, What};
use rookery::domain::hub::{Digest, HubSubscription, Intent, Mode};
use rookery::domain::item::{Audience, Item, ItemId, Version};
use rookery::domain::node::{Node, NodeId, NodeKind, NodeName, NodeState};
use rookery::domain::node_config::{AccessModel, NodeConfig, NotificationType, PublishModel, SendLast};
use rookery::domain::subscription::{Affiliation, Contact, Subscription, SubscriptionState};
use rookery::store::Read;
use rookery::store::tables::State;
use rookery::store::{Account, Counter, Kv, KvError, Lane, MemoryKv, Store, Tx};

const ROWS: &str = include_str!("schema/1.rows");

fn at(n: i64) -> Timestamp {
    Timestamp(1_795_000_000_000_000 + n)
}
fn bare(jid: &str) -> BareJid {
    BareJid::new(jid).unwrap()
}
fn full(jid: &str) -> Jid {
    Jid::new(jid).unwrap()
}
fn id(id: &str) -> ItemId {
    ItemId::parse(id).unwrap()
}

fn account(name: &str, removed: Option<Timestamp>) -> Account {
    Account {
        name: LocalName::parse(name).unwrap(),
        owner: bare("alice@example.org"),
        created: at(1),
        removed,
        acct: format!("acct:{name}@social.example.org"),
        profile_url: format!("https://social.example.org/@{name}"),
        feed_url: format!("https://social.example.org/@{name}.atom"),
    }
}

fn nodes() -> Vec<Node> {
    let node = |n, name: NodeName, kind, config| Node {
        id: NodeId(n),
        service: bare("alice@social.example.org"),
        name,
        kind,
        creator: bare("alice@example.org"),
        created: at(2),
        config,
        posts: None,
    };
    let varied = |access_model, publish_model, send_last, notification_type| NodeConfig {
        title: "Title".into(),
        description: "Description".into(),
        language: "de".into(),
        access_model,
        publish_model,
        max_items: None,
        send_last,
        notification_type,
        ..NodeConfig::default_for(NodeKind::Leaf)
    };
    use {AccessModel as A, NotificationType as N, PublishModel as P, SendLast as S};
    vec![
        node(1, NodeName::microblog(), NodeKind::Microblog, NodeConfig::default_for(NodeKind::Microblog)),
        node(2, NodeName::comments(&id("one")), NodeKind::Comments, NodeConfig::default_for(NodeKind::Comments)),
        node(3, NodeName::parse("a").unwrap(), NodeKind::Leaf, varied(A::Presence, P::Open, S::Never, N::Normal)),
        node(
            4,
            NodeName::parse("b").unwrap(),
            NodeKind::Leaf,
            varied(A::Authorize, P::Subscribers, S::OnSub, N::Headline),
        ),
        node(
            5,
            NodeName::parse("c").unwrap(),
            NodeKind::Leaf,
            varied(A::Whitelist, P::Publishers, S::OnSubAndPresence, N::Normal),
        ),
    ]
}

fn items() -> Vec<Item> {
    let item = |name, place, audience, atom_id: Option<&str>, alias: Option<&str>| Item {
        id: id(name),
        place,
        version: Version(place),
        event: place,
        published: at(3),
        updated: at(4),
        publisher: bare("alice@example.org"),
        author: bare("alice@social.example.org"),
        atom_id: atom_id.map(str::to_owned),
        alias: alias.map(str::to_owned),
        audience,
        size: 7,
        title: "Grüße".into(),
    };
    vec![
        item("one", 1, Audience::Node, Some("tag:social.example.org,2026-11-22:one"), Some("urn:uuid:1")),
        item("two", 2, Audience::Owner, None, None),
    ]
}

fn events() -> Vec<Event> {
    let (jid, subid, item) = (full("romeo@example.net/orchard"), "s1".to_owned(), id("one"));
    let publisher = bare("alice@social.example.org");
    let intent = |mode, digest, secret: Option<&str>| Intent {
        mode,
        topic: "https://social.example.org/@alice.atom".into(),
        callback: "https://reader.example/cb".into(),
        secret: secret.map(str::to_owned),
        lease_seconds: 864_000,
        challenge: "c".into(),
        verify_token: secret.map(str::to_owned),
        digest,
    };
    let subscription = |state| What::Subscription { jid: jid.clone(), subid: subid.clone(), state };
    [
        What::Published { item: item.clone(), version: Version(1), publisher: publisher.clone() },
        What::Retracted { item: item.clone(), atom_id: Some("tag:x".into()) },
        What::Purged,
        What::Deleted,
        What::Configured,
        subscription(None),
        subscription(Some(SubscriptionState::Pending)),
        subscription(Some(SubscriptionState::Subscribed)),
        What::LastItem {
            jid: jid.clone(),
            subid: subid.clone(),
            item,
            version: Version(1),
            published: at(5),
            publisher,
        },
        What::Requested { jid, subid },
        What::Verify(intent(Mode::Subscribe, Digest::Sha256, Some("secret"))),
        What::Verify(intent(Mode::Unsubscribe, Digest::Sha1, None)),
        What::Closed,
        What::ContactEnded { jid: bare("romeo@example.net") },
    ]
    .into_iter()
    .map(|what| {
        let node = &nodes()[0];
        let node = NodeRef { id: node.id, service: node.service.clone(), name: node.name.clone(), kind: node.kind };
        Event { at: at(6), node, node_seq: 9, what }
    })
    .collect()
}

fn states() -> Vec<State> {
    let health = Health {
        failures: 2,
        not_before: at(60),
        results: vec![Attempt { at: at(7), took_ms: 12, ok: false, words: "503".into() }],
    };
    let destinations = [
        Destination::Subscribers(NodeId(1)),
        Destination::Jid("romeo@example.net".into()),
        Destination::Hub(1),
        Destination::Intent(11),
    ];
    let rest = State { last_planned: 3, waiting: 1, held: true, health, ..State::new(destinations[0].clone(), None) };
    let state = |(n, destination)| State {
        destination,
        host: (n == 2).then(|| "reader.example".into()),
        due: (n > 0).then(|| at(100)),
        ..rest.clone()
    };
    destinations.into_iter().enumerate().map(state).collect()
}

fn delivery() -> Delivery {
    Delivery { event: 1, at: at(8), cursor: b"cursor\xff".to_vec() }
}

fn subscriptions() -> Vec<Subscription> {
    use SubscriptionState::{Pending, Subscribed};
    [("romeo@example.net/orchard", Pending), ("romeo@example.net", Subscribed), ("nurse@example.net", Subscribed)]
        .map(|(jid, state)| Subscription { jid: full(jid), subid: "s1".into(), state, born: 4, since: at(9) })
        .into()
}

fn hub_subscription() -> HubSubscription {
    HubSubscription {
        id: 1,
        topic: "https://social.example.org/@alice.atom".into(),
        callback: "https://reader.example/cb".into(),
        secret: Some("secret".into()),
        digest: Digest::Sha256,
        until: at(10),
        born: 5,
        intent: 0,
    }
}

const STATE: NodeState =
    NodeState { seq: 9, items: 2, bytes: 14, subscribers: 1, floor: 1, changed: Timestamp(1_795_000_000_000_007) };
const AFFILIATIONS: [Affiliation; 5] =
    [Affiliation::Owner, Affiliation::Publisher, Affiliation::PublishOnly, Affiliation::Member, Affiliation::Outcast];

fn write(tx: &mut Tx<'_>) -> Result<(), KvError> {
    tx.put_account(&account("alice", None))?;
    tx.put_account(&account("gone", Some(at(11))))?;
    for node in nodes() {
        tx.next(Counter::Node);
        tx.add_node(&node)?;
    }
    tx.put_node_state(NodeId(1), &STATE)?;
    tx.mark_for_sweep(NodeId(5), 4)?;
    for item in items() {
        tx.next(Counter::Version);
        tx.put_item(NodeId(1), &item)?;
        tx.put_payload(item.version, Bytes::from_static(b"<entry/>"))?;
    }
    for event in events() {
        tx.emit(&event)?;
    }
    tx.plan_event(2, &events()[1], 1, None)?;
    tx.plan_event(3, &events()[2], 1, Some(("ostatus".into(), b"cursor\xff".to_vec())))?;
    tx.park_event(4)?;
    for state in states() {
        tx.put_delivery(&state.destination, &delivery())?;
        tx.put_destination(None, &state)?;
    }
    tx.give_subscription(NodeId(1), &full("nurse@example.net"), &bare("alice@example.org"))?;
    for subscription in subscriptions() {
        tx.put_subscription(NodeId(1), &subscription)?;
    }
    for (n, affiliation) in AFFILIATIONS.into_iter().enumerate() {
        tx.put_affiliation(NodeId(1), &bare(&format!("{n}@example.net")), affiliation)?;
    }
    tx.put_contact(&bare("alice@social.example.org"), &bare("romeo@example.net"), &Contact { since: at(12) })?;
    tx.hold_host("reader.example", true)?;
    tx.next(Counter::Hub);
    tx.put_hub_subscription(NodeId(1), &hub_subscription())
}

fn read(r: &dyn Read) -> Result<(), KvError> {
    assert_eq!(r.accounts(None, 9)?, [account("alice", None), account("gone", Some(at(11)))]);
    let owned = r.accounts_of(&bare("alice@example.org"))?;
    assert_eq!(owned, [account("alice", None), account("gone", Some(at(11)))]);
    for node in nodes() {
        assert_eq!(r.node_named(&node.service, &node.name)?, Some(node));
    }
    assert_eq!(r.node_state(NodeId(1))?, STATE);
    assert_eq!(r.sweeps(NodeId(0), 9)?, [(NodeId(5), 4)]);
    assert_eq!(r.items(NodeId(1), 0, 9, 9, false)?, items());
    assert_eq!(r.item_of_atom_id("tag:social.example.org,2026-11-22:one")?, Some((NodeId(1), id("one"))));
    assert_eq!(r.item_of_alias(&bare("alice@social.example.org"), "urn:uuid:1")?, Some((NodeId(1), id("one"))));
    assert_eq!(r.payload(Version(2))?, Some(Bytes::from_static(b"<entry/>")));
    for (seq, event) in (1..).zip(events()) {
        match seq {
            4 => assert_eq!(r.parked(0, 9)?, [(4, Some(event))]),
            _ => assert_eq!(r.event(seq)?, Some(event)),
        }
    }
    assert_eq!(r.planned(2)?.map(|p| (p.left, p.planning)), Some((1, None)));
    let planning = r.planned(3)?.and_then(|p| p.planning).map(|(network, cursor)| (network, cursor.into_vec()));
    assert_eq!(planning, Some(("ostatus".into(), b"cursor\xff".to_vec())));
    assert_eq!(r.pins(Version(1))?.events, 1);
    for state in states() {
        assert_eq!(r.deliveries(&state.destination, 0, 9)?, [delivery()]);
        assert_eq!(r.destination(&state.destination)?, Some(state));
    }
    assert_eq!(r.due(&[], 9)?.len(), 3);
    assert!(r.held_hosts()?.holds(Some("reader.example:8080")));
    for subscription in subscriptions() {
        assert_eq!(r.subscription(NodeId(1), &subscription.jid)?, Some(subscription));
    }
    assert_eq!(r.subscriptions_of(&bare("romeo@example.net"), 9)?.len(), 2);
    assert_eq!(r.affiliations(NodeId(1), 9)?.into_iter().map(|(_, a)| a).collect::<Vec<_>>(), AFFILIATIONS);
    let contact = r.contact(&bare("alice@social.example.org"), &bare("romeo@example.net"))?;
    assert_eq!(contact, Some(Contact { since: at(12) }));
    assert_eq!(r.hub_subscription_by_id(1)?, Some((NodeId(1), hub_subscription())));
    Ok(())
}

async fn today() -> BTreeMap<String, String> {
    let kv = Arc::new(MemoryKv::default());
    let store = Store::open(kv.clone()).unwrap();
    store.commit(Lane::Asked, |tx| write(tx).map(Ok::<_, ()>)).await.unwrap().unwrap();
    store.read(read).await.unwrap();
    let rows = kv.range(&[1], &[255; 9], usize::MAX, false).unwrap();
    rows.iter().map(|(key, value)| (hex(key), hex(value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn golden() -> BTreeMap<String, String> {
    let rows = ROWS.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| line.split_once(' ').unwrap()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn rows_of_schema_1_are_read_by_todays_code() {
    let kv = MemoryKv::default();
    kv.apply(&golden().iter().map(|(k, v)| (bytes(k), Some(bytes(v).into()))).collect::<Vec<_>>()).unwrap();
    let store = Store::open(Arc::new(kv)).unwrap();
    store.read(read).await.unwrap();
    let next = store.commit(Lane::Asked, |tx| {
        Ok(Ok::<_, ()>([Counter::Node, Counter::Version, Counter::Event, Counter::Hub].map(|counter| tx.next(counter))))
    });
    assert_eq!(next.await.unwrap(), Ok([6, 3, 15, 2]), "the counters go on");
}

#[tokio::test]
async fn todays_code_writes_rows_of_schema_1() {
    let today = today().await;
    if std::env::var_os("ROOKERY_WRITE_SCHEMA").is_some() {
        let rows: String = today.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
        std::fs::write("tests/schema/1.rows", format!("# Rows of schema 1; see tests/schema.rs\n{rows}")).unwrap();
        return;
    }
    let text = |hex: &str| String::from_utf8_lossy(&bytes(hex)).into_owned();
    for (key, value) in &golden() {
        assert_eq!(today.get(key), Some(value), "the row {:?} was {:?}", text(key), text(value));
    }
    for key in today.keys() {
        assert!(golden().contains_key(key), "a new row {:?}: see the head of this file", text(key));
    }
}
