//! A write that comes twice. XEP-0114 acknowledges nothing, so clients and servers repeat what they had no answer to:
//! a repeated *successful* write gets its first answer again and is not done twice.
//!
//! Errors are never remembered: Converse repeats a refused publish under the same IQ id after mending the node. Nor is
//! what is the same when done twice (subscribe, configure): that is simply done again.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Mutex;
use std::time::Duration;

use jid::{BareJid, Jid};

use super::envelope::Xml;
use crate::base::clock::Timestamp;

/// How long an answer is remembered, how many are, and how large one may be.
const KEPT: Duration = Duration::from_secs(300);
const MOST: usize = 20_000;
const ANSWER_MOST: usize = 8_192;

/// What makes two writes the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    from: Jid,
    to: BareJid,
    id: String,
    payload: u64,
}

impl Key {
    pub fn new(from: &Jid, to: &BareJid, id: &str, payload: &[u8]) -> Self {
        // Who finds two payloads of the same hash has deceived nobody but themselves: the sender is in the key.
        let mut hasher = DefaultHasher::new();
        hasher.write(payload);
        Key { from: from.clone(), to: to.clone(), id: id.to_owned(), payload: hasher.finish() }
    }
}

#[derive(Default)]
pub struct Memory(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    answers: HashMap<Key, (Timestamp, Xml)>,
    order: VecDeque<(Timestamp, Key)>,
}

impl Memory {
    /// The answer that the same write had.
    pub fn recall(&self, key: &Key, now: Timestamp) -> Option<Xml> {
        let kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let (at, answer) = kept.answers.get(key)?;
        (now.since(*at) < KEPT).then(|| answer.clone())
    }

    pub fn keep(&self, key: Key, answer: &Xml, now: Timestamp) {
        if answer.len() > ANSWER_MOST {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let Kept { answers, order } = &mut *kept;
        answers.insert(key.clone(), (now, answer.clone()));
        order.push_back((now, key));
        while order.len() > MOST || order.front().is_some_and(|(at, _)| now.since(*at) >= KEPT) {
            let Some((at, key)) = order.pop_front() else { break };
            if answers.get(&key).is_some_and(|(kept, _)| *kept == at) {
                answers.remove(&key);
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
        let (then, answer) = (Timestamp::from_secs(1_000), Xml::canonical("<a/>"));
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
}
