//! Where repetitions come from: how long a notification had been out when its process was killed, and whether the next
//! process sent it again. It did unless the outcome had become durable by then.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use crate::crash::ledger::{Heard, Ledger};

/// Upper ends of the ages counted together, in milliseconds.
const AGES: [u128; 9] = [2, 5, 10, 20, 50, 100, 200, 500, 1_000];

/// By age at the kill: notifications, and those of them that came again.
#[derive(Default)]
pub struct Ages {
    counts: [(usize, usize); AGES.len() + 1],
}

impl Ages {
    /// `deaths`: the session in which each kill fell, and when.
    pub fn take(&mut self, ledger: &Ledger, deaths: &[(u64, Instant)]) {
        let mut killed: HashMap<u64, Instant> = HashMap::new();
        for (session, at) in deaths {
            // Killed again before it was let in again: the same session ended only once.
            killed.entry(*session).or_insert(*at);
        }
        // Who heard what, in which session last.
        let key = |heard: &Heard| (heard.who.clone(), heard.id.clone());
        let mut last: HashMap<(String, String), u64> = HashMap::new();
        for heard in &ledger.heard {
            let session = last.entry(key(heard)).or_default();
            *session = heard.session.max(*session);
        }
        let mut counted = HashSet::new();
        for heard in &ledger.heard {
            let Some(death) = killed.get(&heard.session) else { continue };
            // What was read after the kill was written before it.
            let age = death.checked_duration_since(heard.at).unwrap_or(Duration::ZERO).as_millis();
            if !counted.insert((key(heard), heard.session)) {
                continue;
            }
            let at = AGES.iter().position(|most| age < *most).unwrap_or(AGES.len());
            self.counts[at].0 += 1;
            self.counts[at].1 += usize::from(last.get(&key(heard)).is_some_and(|last| *last > heard.session));
        }
    }
}

impl fmt::Display for Ages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| out for, when the component was killed | notifications | sent again after it |")?;
        writeln!(f, "| --- | --- | --- |")?;
        for (at, (all, again)) in self.counts.iter().enumerate() {
            let name = match AGES.get(at) {
                Some(most) => format!("less than {most} ms"),
                None => "longer".to_owned(),
            };
            writeln!(f, "| {name} | {all} | {again} ({:.1} %) |", 100.0 * *again as f64 / (*all).max(1) as f64)?;
        }
        Ok(())
    }
}
