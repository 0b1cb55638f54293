//! Events, deliveries, who is due, and how destinations fare.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::*;
use crate::domain::delivery::{Delivery, Health};
use crate::domain::event::{Event, What};
use crate::domain::item::Item;

/// An Event that was planned: it lives until its planning is over and `left` deliveries have ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Planned {
    pub event: Event,
    pub left: u64,
    /// Where planning goes on: the network's name and its cursor. `None` when it is over.
    #[serde(default)]
    pub planning: Option<(String, serde_bytes::ByteBuf)>,
}

/// The Events that pin a payload beside the one that published it: those that tell it to a new subscriber, and what is
/// left of one that was promised anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pins {
    pub events: u64,
    pub published_by: u64,
}

impl Pins {
    /// Whether Event `seq`, one that tells of a publish, is among `events`: what was planned of it before it was put aside
    /// and promised anew under another number.
    pub(super) fn counts(self, seq: u64) -> bool {
        self.events > 0 && self.published_by != 0 && self.published_by != seq
    }
}

/// A destination that has something to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Due {
    pub destination: Destination,
}

/// What a destination's row says. It exists while the destination has deliveries, or results worth showing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    pub destination: Destination,
    /// The host it belongs to, if any; its health stands with the host.
    pub host: Option<String>,
    /// When its row in the due index says.
    pub due: Option<Timestamp>,
    /// The number of the newest delivery planned: a due row is removed only if this is as it was read.
    pub last_planned: u64,
    /// Deliveries and bytes of payload waiting.
    pub waiting: u64,
    /// Set by a person: nothing is sent until they say so.
    pub held: bool,
    pub health: Health,
}

/// When a held destination is due: never by itself. In the due index all the same, since there a start finds it, and
/// knows that nothing may go past what waits.
pub const HELD: Timestamp = Timestamp(i64::MAX);

impl State {
    pub fn new(destination: Destination, host: Option<String>) -> Self {
        State { destination, host, due: None, last_planned: 0, waiting: 0, held: false, health: Health::default() }
    }
}

/// The hosts that a person holds, each as `name:port`, or as `name` whatever the port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeldHosts(BTreeSet<String>);

impl HeldHosts {
    /// Whether nothing is to be sent to a destination at `host` (`name:port`).
    pub fn holds(&self, host: Option<&str>) -> bool {
        let name = |host: &str| host.rsplit_once(':').is_some_and(|(name, _)| self.0.contains(name));
        host.is_some_and(|host| self.0.contains(host) || name(host))
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl dyn Read + '_ {
    /// Events to be planned, in order, from `from` on; `None` for one that cannot be read.
    pub fn events(&self, from: u64, limit: usize) -> Result<Vec<(u64, Option<Event>)>> {
        self.events_in(b"e", &event_key(from), limit)
    }

    fn events_in(&self, table: &[u8], from: &[u8], limit: usize) -> Result<Vec<(u64, Option<Event>)>> {
        let rows = self.range(from, &after(table), limit, false)?;
        rows.iter().map(|(key, value)| Ok((number(key, 1)?, decode(value).ok()))).collect()
    }

    pub fn event(&self, seq: u64) -> Result<Option<Event>> {
        match row(self, &event_key(seq))? {
            Some(event) => Ok(Some(event)),
            None => Ok(self.planned(seq)?.map(|p| p.event)),
        }
    }

    /// An Event whose planning is not over.
    pub fn unplanned(&self, seq: u64) -> Result<Option<Event>> {
        row(self, &event_key(seq))
    }

    pub fn planned(&self, seq: u64) -> Result<Option<Planned>> {
        row(self, &planned_key(seq))
    }

    /// Events put aside because their planning failed, from `from` on; `None` for one that cannot be read.
    pub fn parked(&self, from: u64, limit: usize) -> Result<Vec<(u64, Option<Event>)>> {
        self.events_in(b"z", &parked_key(from), limit)
    }

    pub fn pins(&self, version: Version) -> Result<Pins> {
        Ok(row(self, &pins_key(version))?.unwrap_or_default())
    }

    pub fn parked_event(&self, seq: u64) -> Result<Option<Event>> {
        row(self, &parked_key(seq))
    }

    /// Whether an Event still has something to tell, also if it was put aside until a person looks at it.
    pub fn event_alive(&self, seq: u64) -> Result<bool> {
        for key in [event_key(seq), planned_key(seq), parked_key(seq)] {
            if self.get(&key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The deliveries of a destination in order, behind the one of Event `behind`.
    pub fn deliveries(&self, destination: &Destination, behind: u64, limit: usize) -> Result<Vec<Delivery>> {
        let (from, to) = (delivery_key(destination, behind.saturating_add(1)), delivery_key(destination, u64::MAX));
        Ok(rows_between(self, &from, &to, limit)?.into_iter().map(|(_, delivery)| delivery).collect())
    }

    pub fn delivery(&self, destination: &Destination, event: u64) -> Result<Option<Delivery>> {
        row(self, &delivery_key(destination, event))
    }

    /// Who has something due, the longest due first, behind `cursor` (a key that this gave, or empty), with keys.
    pub fn due(&self, cursor: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Due)>> {
        let from = if cursor.is_empty() { Vec::new() } else { next_key(cursor) };
        rows(self, b"q", &from, limit)
    }

    pub fn held_hosts(&self) -> Result<HeldHosts> {
        let rows = self.range(b"H", &after(b"H"), usize::MAX, false)?;
        let host = |key: &[u8]| String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        Ok(HeldHosts(rows.iter().map(|(key, _)| host(key)).collect()))
    }

    /// One that cannot be read counts as not there: it holds up neither what waits nor what else an Event plans.
    pub fn destination(&self, destination: &Destination) -> Result<Option<State>> {
        if_readable(row(self, &destination_key(destination)))
    }

    /// Every destination with a row, behind `cursor` (a key that this gave, or empty), with keys.
    pub fn destinations(&self, cursor: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, State)>> {
        let from = if cursor.is_empty() { Vec::new() } else { next_key(cursor) };
        rows(self, b"D", &from, limit)
    }
}

impl Tx<'_> {
    /// Notes how far the planning of an Event has come (its deliveries are written by [`Tx::put_delivery`]): `more`
    /// deliveries with this step, and where to go on, if there is more. The last step with nothing left ends it.
    pub fn plan_event(&mut self, seq: u64, event: &Event, more: u64, next: Option<(String, Vec<u8>)>) -> Result<()> {
        let planned = self.read().planned(seq)?;
        let left = planned.as_ref().map_or(0, |p| p.left) + more;
        if next.is_none() {
            self.delete(event_key(seq))?;
            if left == 0 {
                // Most Events end without a plan: a row that was never there leaves no trace of its removal.
                if planned.is_some() {
                    self.delete(planned_key(seq))?;
                }
                return self.end_event(seq, event);
            }
        }
        let planning = next.map(|(network, cursor)| (network, serde_bytes::ByteBuf::from(cursor)));
        self.put(planned_key(seq), encode(&Planned { event: event.clone(), left, planning }))
    }

    /// Puts aside an Event that cannot be planned, or not even read, for a person to look at; it blocks nobody. Its bytes
    /// stay as they are.
    pub fn park_event(&mut self, seq: u64) -> Result<()> {
        let Some(event) = self.read().get(&event_key(seq))? else { return Ok(()) };
        self.delete(event_key(seq))?;
        self.put(parked_key(seq), event)
    }

    /// Promises an Event that was put aside anew, under a new number: its old one is behind what was planned since.
    /// `None` if there is no such Event. What it pins goes over to the new number.
    pub fn unpark_event(&mut self, seq: u64) -> Result<Option<u64>> {
        let Some(event) = self.read().parked_event(seq)? else { return Ok(None) };
        self.delete(parked_key(seq))?;
        self.stop_planning(seq)?;
        let anew = self.next(Counter::Event);
        self.put(event_key(anew), encode(&event))?;
        if let What::Published { item, version, .. } = &event.what {
            let shown = self.read().item(event.node.id, item)?.filter(|item| item.version == *version);
            if let Some(item) = shown {
                self.put_item(event.node.id, &Item { event: anew, ..item })?;
            }
        }
        if let Some(version) = event.what.version() {
            let mut pins = self.read().pins(version)?;
            if matches!(event.what, What::Published { .. }) {
                pins.published_by = anew;
            }
            // What was planned of it before goes on under the old number, and tells the same payload.
            pins.events += u64::from(self.read().planned(seq)?.is_some());
            if pins.events > 0 {
                self.put(pins_key(version), encode(&pins))?;
            }
        }
        if self.read().planned(seq)?.is_some() {
            self.count_hub_request(&event, true)?;
        }
        if self.read().sweep_of(event.node.id)? == Some(seq) {
            self.mark_for_sweep(event.node.id, anew)?;
        }
        Ok(Some(anew))
    }

    /// Forgets an Event that was put aside: nobody will be told of it. Whether there was one.
    pub fn drop_parked(&mut self, seq: u64) -> Result<bool> {
        let Some(event) = self.read().get(&parked_key(seq))? else { return Ok(false) };
        self.delete(parked_key(seq))?;
        self.stop_planning(seq)?;
        // What pins a payload and cannot be read leaves the payload behind.
        if self.read().planned(seq)?.is_none()
            && let Ok(event) = decode(&event)
        {
            self.end_event(seq, &event)?;
        }
        Ok(true)
    }

    /// Removes an Event that has no deliveries left, wherever it stands.
    pub fn forget_event(&mut self, seq: u64) -> Result<()> {
        if let Some(event) = self.read().event(seq)?.or(self.read().parked_event(seq)?) {
            self.count_hub_request(&event, false)?;
        }
        self.delete(event_key(seq))?;
        self.delete(planned_key(seq))?;
        self.delete(parked_key(seq))
    }

    /// Whom an Event was planned for before it was put aside is told; nobody else is.
    fn stop_planning(&mut self, seq: u64) -> Result<()> {
        match self.read().planned(seq)? {
            Some(planned) if planned.left > 0 => {
                self.put(planned_key(seq), encode(&Planned { planning: None, ..planned }))
            }
            Some(_) => self.delete(planned_key(seq)),
            None => Ok(()),
        }
    }

    /// Ends what an Event holds, whose last delivery ended and whose rows are removed: its payload, unless an item shows it
    /// or another Event pins it.
    fn end_event(&mut self, seq: u64, event: &Event) -> Result<()> {
        self.count_hub_request(event, false)?;
        let (What::Published { item, version, .. } | What::LastItem { item, version, .. }) = &event.what else {
            return Ok(());
        };
        let shown = self.read().item(event.node.id, item)?.is_some_and(|item| item.version == *version);
        let pins = self.read().pins(*version)?;
        let others = match event.what {
            What::Published { .. } if !pins.counts(seq) => pins.events > 0,
            _ => self.unpin(*version, pins)?,
        };
        if shown || others { Ok(()) } else { self.delete(version_key(*version)) }
    }

    /// Notes what a new Event holds: a payload, where it tells it to a new subscriber beside the one that published it,
    /// or a place among the requests to the hub.
    pub(in crate::store) fn pin(&mut self, event: &Event) -> Result<()> {
        self.count_hub_request(event, true)?;
        let What::LastItem { item, version, .. } = &event.what else { return Ok(()) };
        let published_by = self.read().item(event.node.id, item)?.map_or(0, |item| item.event);
        let events = self.read().pins(*version)?.events + 1;
        self.put(pins_key(*version), encode(&Pins { events, published_by }))
    }

    /// Ends one such hold; whether another Event still needs the payload.
    fn unpin(&mut self, version: Version, pins: Pins) -> Result<bool> {
        if pins.events > 1 {
            self.put(pins_key(version), encode(&Pins { events: pins.events - 1, ..pins }))?;
            return Ok(true);
        }
        self.delete(pins_key(version))?;
        self.read().event_alive(pins.published_by)
    }

    pub fn put_delivery(&mut self, destination: &Destination, delivery: &Delivery) -> Result<()> {
        self.put(delivery_key(destination, delivery.event), encode(delivery))
    }

    /// Ends one delivery, and its Event with the last of them. Doing it twice changes nothing.
    pub fn end_delivery(&mut self, destination: &Destination, event: u64) -> Result<()> {
        let key = delivery_key(destination, event);
        if self.read().get(&key)?.is_none() {
            return Ok(());
        }
        self.delete(key)?;
        match self.read().planned(event)? {
            Some(planned) if planned.left <= 1 && planned.planning.is_none() => {
                self.delete(planned_key(event))?;
                self.end_event(event, &planned.event)
            }
            Some(planned) => {
                let left = planned.left.saturating_sub(1);
                self.put(planned_key(event), encode(&Planned { left, ..planned }))
            }
            None => Ok(()),
        }
    }

    /// Writes a destination's row and moves its row in the due index along; `before`: the row as it was read.
    pub fn put_destination(&mut self, before: Option<&State>, state: &State) -> Result<()> {
        let old = before.and_then(|s| s.due);
        if old != state.due {
            if let Some(due) = old {
                self.delete(due_key(due, &state.destination))?;
            }
            if let Some(due) = state.due {
                self.put(due_key(due, &state.destination), encode(&Due { destination: state.destination.clone() }))?;
            }
        }
        self.put(destination_key(&state.destination), encode(state))
    }

    /// Notes that a person holds a host, or does so no more. Destinations there have rows of their own, which say so too.
    pub fn hold_host(&mut self, host: &str, held: bool) -> Result<()> {
        match held {
            true => self.put(held_key(host), encode(&())),
            false => self.delete(held_key(host)),
        }
    }

    /// Forgets a destination without deliveries.
    pub fn delete_destination(&mut self, state: &State) -> Result<()> {
        if let Some(due) = state.due {
            self.delete(due_key(due, &state.destination))?;
        }
        self.delete(destination_key(&state.destination))
    }
}
