//! `rookery queue …`: what waits to be delivered, in words, and what a person does about it.

use std::fmt::Write as _;
use std::time::Duration;

use url::Host;

use super::{Desk, Selection};
use crate::base::clock::Timestamp;
use crate::base::jid::read_bare_jid;
use crate::base::progress::Progress;
use crate::domain::delivery::Destination;
use crate::domain::event::{Event, What};
use crate::domain::hub::Mode;
use crate::domain::node::{NodeId, NodeName};
use crate::service::Service;
use crate::service::deliveries::{Act, Shown, Tally, Which, Whither, is_host};
use crate::store::StoreError;
use crate::store::tables::HELD;

/// A list has at most this many destinations at a time.
const LIST_MOST: usize = 10_000;
/// Events put aside that are dealt with at a time.
const PIECE: usize = 100;

type Lines = Result<Vec<String>, String>;

/// What a person means: destinations, or Events put aside.
enum Meant {
    Deliveries(Which),
    Parked(Option<u64>),
}

pub(super) async fn list(service: &Service, what: Selection, limit: usize, after: Option<String>) -> Lines {
    let which = match meant(service, what).await? {
        Meant::Deliveries(which) => which,
        Meant::Parked(_) => return parked(service, limit).await,
    };
    let now = service.clock.now();
    if let Which::These(these) = which {
        let mut lines = Vec::new();
        for destination in these {
            match service.queue_of(destination.clone()).await.map_err(words)? {
                Some(shown) => lines.extend(describe(&shown, now, true)),
                None => lines.push(format!("{}: nothing waits, and nothing was delivered yet", name(&destination))),
            }
        }
        return Ok(lines);
    }
    let cursor = after.as_deref().map(from_hex).unwrap_or(Some(Vec::new()));
    let cursor = cursor.ok_or("--after takes what the end of an earlier list says")?;
    let first = cursor.is_empty();
    let page = service.queue_page(which.clone(), cursor, limit.clamp(1, LIST_MOST)).await;
    let (shown, next) = page.map_err(words)?;
    let mut lines = match first {
        true => held_hosts(service, &which).await?,
        false => Vec::new(),
    };
    lines.extend(shown.iter().flat_map(|shown| describe(shown, now, false)));
    if shown.is_empty() {
        lines.push("nothing waits to be delivered".to_owned());
    }
    if let Some(next) = next {
        lines.push(format!("there are more: go on with --after {}", hex(&next)));
    }
    if first && which == Which::All {
        let parked = service.parked(0, 1).await.map_err(words)?.len();
        if parked > 0 {
            lines.push("events are put aside since they could not be planned: see `rookery queue parked`".to_owned());
        }
    }
    Ok(lines)
}

/// The hosts that are held as such, as far as they are meant.
async fn held_hosts(service: &Service, which: &Which) -> Lines {
    let held = service.held_hosts().await.map_err(words)?;
    let meant = held.iter().filter(|host| match which {
        Which::Host(wanted) => is_host(host, wanted) || is_host(wanted, host),
        Which::All | Which::These(_) => true,
    });
    Ok(meant.map(host_held).collect())
}

fn host_held(host: &str) -> String {
    format!("the host {host} is held, also for what comes, until `rookery queue release --host {host}`")
}

pub(super) async fn parked(service: &Service, limit: usize) -> Lines {
    let limit = limit.clamp(1, LIST_MOST);
    let found = service.parked(0, limit + 1).await.map_err(words)?;
    let mut lines: Vec<String> = found
        .iter()
        .take(limit)
        .map(|(seq, event)| match event {
            Some(event) => format!("event:{seq}  {}  {}", event.at.rfc3339(), told_of(event)),
            None => format!("event:{seq}  cannot be read, so it cannot be tried again; it is kept as it is"),
        })
        .collect();
    if found.len() > limit {
        lines.push("there are more: see them with a larger --limit".to_owned());
    }
    match lines.is_empty() {
        true => lines.push("no event is put aside".to_owned()),
        false => lines.push("nobody was told of them; `rookery queue retry event:N` or `rookery queue drop event:N`, or --parked for all".to_owned()),
    }
    Ok(lines)
}

pub(super) async fn retry(desk: &Desk, what: Selection, progress: &Progress) -> Lines {
    let which = match meant(&desk.service, what).await? {
        Meant::Deliveries(which) => which,
        Meant::Parked(one) => {
            let done = each_parked(desk, one, Act::Retry, progress);
            let (done, left) = done.await?;
            let mut lines = vec![format!("{} promised anew; if it fails again it is put aside again", events(done))];
            if left > 0 {
                lines.push(format!("{} left as they are: they cannot be read, only dropped", events(left)));
            }
            return Ok(lines);
        }
    };
    let done = act(desk, which, Act::Retry, progress).await?;
    let mut lines = Vec::new();
    match (done.destinations, done.held) {
        (0, 0) => lines.push("nothing waits there".to_owned()),
        (0, _) => {}
        _ => lines.push(format!(
            "{} to {} {}",
            deliveries(done.deliveries),
            destinations(done.destinations),
            if desk.queue.is_some() { "are tried now" } else { "are tried when rookery starts" }
        )),
    }
    if done.held > 0 {
        lines.push(format!("{} held: release them first", destinations(done.held)));
    }
    Ok(lines)
}

pub(super) async fn hold(desk: &Desk, what: Selection, progress: &Progress) -> Lines {
    let which = deliveries_meant(&desk.service, what, "held").await?;
    let mut lines = match &which {
        Which::Host(host) => vec![host_held(host)],
        Which::All | Which::These(_) => Vec::new(),
    };
    let done = act(desk, which, Act::Hold, progress).await?;
    if lines.is_empty() || done.destinations > 0 {
        lines.push(format!(
            "{} held: {} for them, and what comes, until `rookery queue release`",
            destinations(done.destinations),
            waits(done.deliveries)
        ));
    }
    Ok(lines)
}

pub(super) async fn release(desk: &Desk, what: Selection, progress: &Progress) -> Lines {
    let which = deliveries_meant(&desk.service, what, "released").await?;
    let done = act(desk, which, Act::Release, progress).await?;
    let mut lines = Vec::new();
    if done.hosts > 0 {
        lines.push(format!("{} released", counted(done.hosts, "host", "hosts")));
    }
    if done.destinations > 0 {
        lines.push(format!("{} released; {} for them", destinations(done.destinations), waits(done.deliveries)));
    }
    if done.held > 0 {
        lines.push(format!("{} left as before, since the host is held: release that", destinations(done.held)));
    }
    if lines.is_empty() {
        lines.push("nothing is held there".to_owned());
    }
    Ok(lines)
}

pub(super) async fn discard(desk: &Desk, what: Selection, yes: bool, progress: &Progress) -> Lines {
    let which = match meant(&desk.service, what).await? {
        Meant::Deliveries(which) => which,
        Meant::Parked(one) if yes => {
            let done = each_parked(desk, one, Act::Drop, progress);
            return Ok(vec![format!("{} dropped: nobody will be told", events(done.await?.0))]);
        }
        Meant::Parked(one) => {
            let found = desk.service.parked(0, LIST_MOST).await.map_err(words)?;
            let n = found.iter().filter(|(seq, _)| one.is_none_or(|one| one == *seq)).count();
            return Err(match n {
                0 => "no such event is put aside".to_owned(),
                n => format!("{} would be dropped, and nobody told: say so with --yes", events(n as u64)),
            });
        }
    };
    if !yes {
        let tally = desk.service.queue_tally(which).await.map_err(words)?;
        return Err(match tally.deliveries {
            0 => "nothing waits there".to_owned(),
            n => format!(
                "{} to {} would be dropped and never made: say so with --yes",
                deliveries(n),
                destinations(tally.destinations)
            ),
        });
    }
    let done = act(desk, which, Act::Drop, progress).await?;
    Ok(vec![match done.deliveries {
        0 => "nothing waits there".to_owned(),
        n => format!("{} to {} dropped: they will never be made", deliveries(n), destinations(done.destinations)),
    }])
}

async fn act(desk: &Desk, which: Which, act: Act, progress: &Progress) -> Result<Tally, String> {
    let told = |changed| {
        if let Some(queue) = &desk.queue {
            queue.changed(changed, act == Act::Retry);
        }
    };
    desk.service.queue_act(which, act, &told, progress).await.map_err(words)
}

/// Retries or drops one Event put aside, or all that are now; how many, and how many can only be dropped.
async fn each_parked(desk: &Desk, one: Option<u64>, act: Act, progress: &Progress) -> Result<(u64, u64), String> {
    if let Some(seq) = one {
        let found = desk.service.parked(seq, 1).await.map_err(words)?.pop().filter(|(found, _)| *found == seq);
        return match found {
            None => Err(format!("no event:{seq} is put aside: see `rookery queue parked`")),
            Some((_, None)) if act != Act::Drop => {
                Err(format!("event:{seq} cannot be read: a newer version may, else drop it"))
            }
            Some(_) => act_on_parked(desk, seq, act).await.map(|done| (u64::from(done), 0)),
        };
    }
    // One that is put aside again meanwhile has a higher number, and its turn another time.
    let newest = desk.service.parked(0, usize::MAX).await.map_err(words)?.last().map_or(0, |(seq, _)| *seq);
    let (mut done, mut left, mut from) = (0, 0, 0);
    loop {
        let piece = desk.service.parked(from, PIECE).await.map_err(words)?;
        let Some((last, _)) = piece.last().filter(|_| from <= newest) else { return Ok((done, left)) };
        from = last.saturating_add(1);
        for (seq, event) in piece.into_iter().filter(|(seq, _)| *seq <= newest) {
            if event.is_none() && act != Act::Drop {
                left += 1;
                continue;
            }
            act_on_parked(desk, seq, act).await?;
            done += 1;
            progress.step(done - 1, done, "events");
        }
    }
}

/// Whether there was such an Event.
async fn act_on_parked(desk: &Desk, seq: u64, act: Act) -> Result<bool, String> {
    let done = match act {
        Act::Drop => desk.service.drop_parked(seq).await,
        _ => desk.service.retry_parked(seq).await.map(|anew| anew.is_some()),
    };
    done.map_err(words)
}

async fn deliveries_meant(service: &Service, what: Selection, how: &str) -> Result<Which, String> {
    match meant(service, what).await? {
        Meant::Deliveries(which) => Ok(which),
        Meant::Parked(_) => Err(format!("events put aside cannot be {how}: retry or drop them")),
    }
}

async fn meant(service: &Service, what: Selection) -> Result<Meant, String> {
    let text = match what {
        Selection::All => return Ok(Meant::Deliveries(Which::All)),
        Selection::Host(text) => return Ok(Meant::Deliveries(Which::Host(host_named(&text)?))),
        Selection::Parked => return Ok(Meant::Parked(None)),
        Selection::Destination(text) => text,
    };
    if let Some((kind, rest)) = text.split_once(':') {
        let one = |destination| Ok(Meant::Deliveries(Which::These(vec![destination])));
        match (kind, rest.parse::<u64>()) {
            ("event", Ok(seq)) => return Ok(Meant::Parked(Some(seq))),
            ("hub", Ok(id)) => return one(Destination::Hub(id)),
            ("node", Ok(id)) => return one(Destination::Subscribers(NodeId(id))),
            ("intent", Ok(seq)) => return one(Destination::Intent(seq)),
            ("jid", _) => return one(Destination::Jid(rest.to_owned())),
            ("http" | "https", _) => {
                let found = service.destinations_of_callback(text.clone()).await.map_err(words)?;
                return match found.is_empty() {
                    true => Err(format!("no subscription has the callback {text}")),
                    false => Ok(Meant::Deliveries(Which::These(found))),
                };
            }
            _ => {}
        }
    }
    // A node as people write it, alice@social.example.org/urn:xmpp:microblog:0; else an address.
    if let Some((at, node)) = text.split_once('/')
        && let (Some(at), Ok(node)) = (read_bare_jid(at), NodeName::parse(node))
    {
        let found = service.destination_of_node(at, node).await.map_err(words)?;
        return found.map(|d| Meant::Deliveries(Which::These(vec![d]))).ok_or(format!("there is no node {text}"));
    }
    match read_bare_jid(&text) {
        Some(jid) => Ok(Meant::Deliveries(Which::These(vec![Destination::Jid(jid.to_string())]))),
        None => Err(format!(
            "{text:?} is no destination: write it as `rookery queue show` does (hub:12, node:3, jid:romeo@example.net), \
             or a callback's URL, a Jabber address, or a node as alice@social.example.org/urn:xmpp:microblog:0"
        )),
    }
}

/// A host as destinations have it, with its port if one was written.
fn host_named(text: &str) -> Result<String, String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, Some(port)),
        _ => (text, None),
    };
    let host = Host::parse(name).map_err(|_| {
        format!("{text:?} is no host: write reader.example, reader.example:8080, 192.0.2.7 or [2001:db8::7]")
    })?;
    Ok(port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}")))
}

/// The name of a destination in lists and commands.
fn name(destination: &Destination) -> String {
    match destination {
        Destination::Subscribers(nid) => format!("node:{}", nid.0),
        Destination::Jid(jid) => format!("jid:{jid}"),
        Destination::Hub(id) => format!("hub:{id}"),
        Destination::Intent(seq) => format!("intent:{seq}"),
    }
}

fn describe(shown: &Shown, now: Timestamp, in_full: bool) -> Vec<String> {
    let state = &shown.state;
    let mut lines = vec![format!("{}  {}", name(&state.destination), whither(&shown.whither))];
    let mut line = format!("    {}", waits(state.waiting));
    if let Some(oldest) = shown.oldest {
        let _ = write!(line, ", the oldest for {}", span(now.since(oldest)));
    }
    if state.health.failures > 0 {
        let _ = write!(line, "; failed {} in a row", times(u64::from(state.health.failures)));
    }
    match state.due {
        _ if state.held => line.push_str("; held"),
        Some(due) if due > now && due != HELD => {
            let _ = write!(line, "; next attempt in {} ({})", span(due.since(now)), due.rfc3339());
        }
        Some(_) if state.waiting > 0 => line.push_str("; next attempt now"),
        _ => {}
    }
    lines.push(line);
    let results = state.health.results.iter().rev().take(if in_full { usize::MAX } else { 1 });
    lines.extend(results.map(|attempt| {
        let how = match (attempt.ok, attempt.words.as_str()) {
            (true, "") => "delivered",
            (true, words) | (false, words) => words,
        };
        format!("    {}  {how} (after {} ms)", attempt.at.rfc3339(), attempt.took_ms)
    }));
    lines
}

fn whither(whither: &Whither) -> String {
    match whither {
        Whither::Subscribers(Some((service, node))) => format!("the XMPP subscribers of {service}/{}", node.as_str()),
        Whither::Subscribers(None) => "the XMPP subscribers of a node that is gone".to_owned(),
        Whither::Jid(jid) => format!("{jid}, over XMPP"),
        Whither::Callback(Some(callback)) => format!("the callback {} for {}", callback.url, callback.topic),
        Whither::Callback(None) => "a callback whose subscription has ended".to_owned(),
        Whither::Intent(Some((mode, callback))) => {
            let asks = match mode {
                Mode::Subscribe => "to subscribe to",
                Mode::Unsubscribe => "to unsubscribe from",
            };
            format!("the callback {}, asked whether it wants {asks} {}", callback.url, callback.topic)
        }
        Whither::Intent(None) => "a callback whose intent is settled".to_owned(),
    }
}

/// What an Event tells of.
fn told_of(event: &Event) -> String {
    let node = format!("{}/{}", event.node.service, event.node.name.as_str());
    match &event.what {
        What::Published { item, .. } => format!("item {:?} was published at {node}", item.as_str()),
        What::Retracted { item, .. } => format!("item {:?} was retracted at {node}", item.as_str()),
        What::Purged => format!("{node} was purged"),
        What::Deleted => format!("{node} was deleted"),
        What::Configured => format!("{node} was configured"),
        What::Subscription { jid, .. } => format!("the subscription of {jid} to {node} changed"),
        What::LastItem { jid, item, .. } => format!("the last item {:?} of {node}, for {jid}", item.as_str()),
        What::Requested { jid, .. } => format!("{jid} asks to subscribe to {node}"),
        What::Verify(intent) => format!("{} asks for {}", intent.callback, intent.topic),
        What::Closed => format!("{node} is not public any more"),
        What::ContactEnded { jid } => format!("{jid} is no contact of {} any more", event.node.service),
    }
}

fn waits(n: u64) -> String {
    match n {
        0 => "nothing waits".to_owned(),
        1 => "1 delivery waits".to_owned(),
        n => format!("{n} deliveries wait"),
    }
}

fn deliveries(n: u64) -> String {
    counted(n, "delivery", "deliveries")
}

fn destinations(n: u64) -> String {
    counted(n, "destination", "destinations")
}

fn events(n: u64) -> String {
    counted(n, "event", "events")
}

fn times(n: u64) -> String {
    counted(n, "time", "times")
}

fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A span for a person, in its two largest units.
fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

fn words(error: StoreError) -> String {
    error.to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| (0..text.len()).step_by(2).filter_map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect())
}
