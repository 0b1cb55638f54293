//! A write that comes twice. XEP-0114 acknowledges nothing, so clients and servers repeat what they had no answer to:
//! a repeated *successful* write gets its first answer again and is not done twice.
//!
//! Errors are never remembered: Converse repeats a refused publish under the same IQ id after mending the node. Nor is
//! what is the same when done twice (subscribe, configure): that is simply done again.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use jid::{BareJid, Jid};

use super::envelope::Xml;
use crate::base::clock::Moment;

/// How long an answer is remembered, how many are, how large one may be, and all together with what keeps them.
const KEPT: Duration = Duration::from_secs(300);
const MOST: usize = 20_000;
const ANSWER_MOST: usize = 8_192;
const BYTES_MOST: usize = 16 << 20;
/// What an answer takes beside its own bytes: its key, twice, and its places in both lists.
const ROW: usize = 200;

/// What makes two writes the same: their hash, since strangers choose how long ids and addresses are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key([u8; SHA256_OUTPUT_LEN]);

impl Key {
    pub fn new(from: &Jid, to: &BareJid, id: &str, payload: &[u8]) -> Self {
        let mut hash = Context::new(&SHA256);
        for part in [from.as_str().as_bytes(), to.as_str().as_bytes(), id.as_bytes(), payload] {
            // With its length, so that no part can pass for the end of the one before.
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut key = [0; SHA256_OUTPUT_LEN];
        key.copy_from_slice(hash.finish().as_ref());
        Key(key)
    }
}

#[derive(Default)]
pub struct Memory(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    answers: HashMap<Key, (Moment, Xml)>,
    order: VecDeque<(Moment, Key)>,
    /// Of the answers.
    bytes: usize,
}

impl Memory {
    /// The answer that the same write had.
    pub fn recall(&self, key: &Key, now: Moment) -> Option<Xml> {
        let kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let (at, answer) = kept.answers.get(key)?;
        (now.since(*at) < KEPT).then(|| answer.clone())
    }

    pub fn keep(&self, key: Key, answer: &Xml, now: Moment) {
        if answer.len() > ANSWER_MOST {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let Kept { answers, order, bytes } = &mut *kept;
        *bytes += answer.len();
        if let Some((_, before)) = answers.insert(key, (now, answer.clone())) {
            *bytes -= before.len();
        }
        order.push_back((now, key));
        while order.len() > MOST
            || *bytes + order.len() * ROW > BYTES_MOST
            || order.front().is_some_and(|(at, _)| now.since(*at) >= KEPT)
        {
            let Some((at, key)) = order.pop_front() else { break };
            if answers.get(&key).is_some_and(|(kept, _)| *kept == at)
                && let Some((_, old)) = answers.remove(&key)
            {
                *bytes -= old.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_a_while_and_only_for_the_very_same_write() {
        let memory = Memory::default();
        let (juliet, service) = (Jid::new("juliet@example.org/a").unwrap(), BareJid::new("c.example").unwrap());
        let key = |id: &str, payload: &[u8]| Key::new(&juliet, &service, id, payload);
        let (then, answer) = (Moment(1_000_000_000), Xml::canonical("<a/>"));
        memory.keep(key("1", b"x"), &answer, then);
        assert_eq!(memory.recall(&key("1", b"x"), then), Some(answer.clone()));
        assert_eq!(memory.recall(&key("2", b"x"), then), None);
        assert_eq!(memory.recall(&key("1", b"y"), then), None);
        assert_eq!(memory.recall(&key("1", b"x"), then.plus(KEPT)), None);
        for n in 0..MOST + 5 {
            memory.keep(key(&n.to_string(), b"z"), &answer, then);
        }
        assert_eq!(memory.0.lock().unwrap().answers.len(), MOST);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes_however_long_ids_and_answers_are() {
        let memory = Memory::default();
        let (juliet, service) = (Jid::new("juliet@example.org/a").unwrap(), BareJid::new("c.example").unwrap());
        let then = Moment(1_000_000_000);
        let long = Xml::canonical("x".repeat(ANSWER_MOST));
        for n in 0..5_000 {
            let id = format!("{n}{}", "i".repeat(60_000));
            memory.keep(Key::new(&juliet, &service, &id, b"x"), &long, then);
        }
        assert!(std::mem::size_of::<(Moment, Key)>() <= 64, "a key is as long as its parts");
        let kept = memory.0.lock().unwrap();
        let bytes: usize = kept.answers.values().map(|(_, answer)| answer.len()).sum();
        assert!(bytes <= BYTES_MOST && bytes > BYTES_MOST / 2 && kept.bytes == bytes, "{bytes} bytes");
    }

    #[test]
    fn the_same_write_remembered_twice_counts_once() {
        let memory = Memory::default();
        let (juliet, service) = (Jid::new("juliet@example.org/a").unwrap(), BareJid::new("c.example").unwrap());
        let key = Key::new(&juliet, &service, "1", b"x");
        let then = Moment(1_000_000_000);
        for n in 0..3 {
            memory.keep(key, &Xml::canonical("<a/>"), then.plus(Duration::from_secs(n)));
        }
        assert_eq!(memory.0.lock().unwrap().bytes, 4);
        let later = Key::new(&juliet, &service, "2", b"x");
        memory.keep(later, &Xml::canonical("<b/>"), then.plus(KEPT + Duration::from_secs(9)));
        let kept = memory.0.lock().unwrap();
        assert_eq!((kept.bytes, kept.answers.len(), kept.order.len()), (4, 1, 1));
    }
}
