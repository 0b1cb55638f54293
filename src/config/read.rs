//! Takes single values out of a TOML table and the environment, and remembers everything that was wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde::de::value::{Error as WordError, StrDeserializer};
use toml::{Table, Value};

use super::{ConfigError, KEYS, Problem};

/// (table, key).
pub(super) type Key = (&'static str, &'static str);

const ENV_PREFIX: &str = "ROOKERY_";

pub(super) struct Reader {
    file: Table,
    env: BTreeMap<Key, String>,
    /// How the keys read so far are written as variables.
    as_variable: BTreeMap<Key, &'static str>,
    problems: Vec<Problem>,
}

/// A value that a key can have.
pub(super) trait Plain: DeserializeOwned {
    /// What is wanted, for the sentence "… is wanted".
    const WANTED: &'static str;
    /// The same for a variable of the environment, as it stands behind `=`, for somebody who has never written one.
    const AS_VARIABLE: &'static str;
    /// The value from the environment, where everything is text.
    fn from_env(text: &str) -> Option<Self>;
}

impl Plain for String {
    const WANTED: &'static str = "a text in quotes";
    const AS_VARIABLE: &'static str = "the text itself, without quotes";
    fn from_env(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Plain for bool {
    const WANTED: &'static str = "true or false";
    const AS_VARIABLE: &'static str = "true or false";
    fn from_env(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Plain for u64 {
    const WANTED: &'static str = "a whole number that is not negative";
    const AS_VARIABLE: &'static str = "digits only";
    fn from_env(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Plain for Vec<String> {
    const WANTED: &'static str = r#"a list of texts, ["…", "…"]"#;
    const AS_VARIABLE: &'static str = r#"one or more separated by commas, or a list as in the file, ["…", "…"]"#;
    /// Separated by commas, or as the file has it; the empty text is the empty list.
    fn from_env(text: &str) -> Option<Self> {
        if text.trim_start().starts_with('[') {
            return format!("list = {text}").parse::<Table>().ok()?.remove("list")?.try_into().ok();
        }
        Some(text.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect())
    }
}

impl Reader {
    /// Errors: the text is not TOML. Unknown keys, in the file and in the environment, become problems at once.
    pub(super) fn new(
        text: &str,
        env: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<Self, ConfigError> {
        let file = text.parse::<Table>().map_err(|e| ConfigError::Problems { problems: vec![not_toml(text, &e)] })?;
        let mut r = Reader { file, env: BTreeMap::new(), as_variable: BTreeMap::new(), problems: Vec::new() };
        r.find_unknown();
        for (name, value) in env {
            r.take_variable(&name, value);
        }
        Ok(r)
    }

    /// The value of `key`, the environment's before the file's; `None` if there is none or it is of another kind,
    /// which is then a problem. The value itself is never repeated: it may be the secret.
    pub(super) fn get<T: Plain>(&mut self, key: Key) -> Option<T> {
        self.as_variable.insert(key, T::AS_VARIABLE);
        let wrong = match (self.env.get(&key), self.file.get(key.0).and_then(|t| t.get(key.1))) {
            (Some(text), _) => match T::from_env(text) {
                Some(value) => return Some(value),
                None => format!("{} is wanted", T::AS_VARIABLE),
            },
            (None, Some(value)) => match value.clone().try_into() {
                Ok(value) => return Some(value),
                Err(_) => format!("{} is wanted, not this {}", T::WANTED, value.type_str()),
            },
            (None, None) => return None,
        };
        self.problem(key, wrong, format!("write {} = {}", key.1, T::WANTED));
        None
    }

    pub(super) fn is_from_env(&self, key: Key) -> bool {
        self.env.contains_key(&key)
    }

    /// Passes `text`, the value of `key`, through `parse`; what that says against it becomes a problem.
    pub(super) fn check<T>(
        &mut self,
        key: Key,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
        write: &str,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.problem(key, format!("{text:?}: {wrong}"), write);
                None
            }
        }
    }

    /// One word out of those that the enum `T` has.
    pub(super) fn word<T: DeserializeOwned>(&mut self, key: Key, text: &str, write: &str) -> Option<T> {
        let parse = |text: &str| T::deserialize(StrDeserializer::<WordError>::new(text)).map_err(|_| "unknown word");
        self.check(key, text, parse, write)
    }

    pub(super) fn number(&mut self, key: Key, range: RangeInclusive<u64>, default: u64) -> u64 {
        match self.get::<u64>(key) {
            None => default,
            Some(n) if range.contains(&n) => n,
            Some(n) => {
                let write = format!("write a number from {} to {}", range.start(), range.end());
                self.problem(key, format!("{n} is out of bounds"), write);
                default
            }
        }
    }

    pub(super) fn missing<T>(&mut self, key: Key, write: &str) -> Option<T> {
        // A value of the wrong kind has been reported already.
        if !self.env.contains_key(&key) && self.file.get(key.0).and_then(|t| t.get(key.1)).is_none() {
            self.problem(key, "it is missing", write);
        }
        None
    }

    pub(super) fn problem(&mut self, key: Key, wrong: impl Into<String>, write: impl Into<String>) {
        let (wrong, mut write) = (wrong.into(), write.into());
        let name = match self.is_from_env(key) {
            true => {
                // The advice shows the file's syntax, which is another.
                let syntax = self.as_variable.get(&key).unwrap_or(&String::AS_VARIABLE);
                write.push_str(&format!("; here, in the environment: {syntax}"));
                variable(key)
            }
            false => format!("{}.{}", key.0, key.1),
        };
        self.problems.push(Problem { key: name, wrong, write });
    }

    /// What a person looks for where `key` was written: the variable, or the key.
    pub(super) fn name(&self, key: Key) -> String {
        match self.is_from_env(key) {
            true => variable(key),
            false => key.1.to_owned(),
        }
    }

    /// All problems, in the order of [`KEYS`]; those of no known table first.
    pub(super) fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.sort_by_key(|p| {
            KEYS.iter().position(|(table, _)| p.key.split('.').next() == Some(table)).map_or(0, |at| at + 1)
        });
        problems
    }

    fn find_unknown(&mut self) {
        let mut problems = Vec::new();
        for (table, value) in &self.file {
            let known = KEYS.iter().find(|(name, _)| name == table);
            let mut add = |key: String, wrong: &str, write: String| {
                problems.push(Problem { key, wrong: wrong.to_owned(), write });
            };
            match (known, value) {
                (Some((_, keys)), Value::Table(inside)) => {
                    for key in inside.keys().filter(|key| !keys.contains(&key.as_str())) {
                        add(format!("{table}.{key}"), "unknown key", nearest_key(table, key));
                    }
                }
                (Some(_), _) => {
                    add(table.clone(), "it must be a table", format!("write [{table}] on a line of its own"))
                }
                (None, Value::Table(_)) => {
                    let near = nearest(table, KEYS.iter().map(|(name, _)| *name)).unwrap_or_default();
                    add(format!("[{table}]"), "unknown table", format!("the nearest known one is [{near}]"));
                }
                (None, _) => add(table.clone(), "this key stands outside of any table", nearest_key("", table)),
            }
        }
        self.problems.append(&mut problems);
    }

    /// Takes `ROOKERY_<TABLE>__<KEY>`. A value that is no text has come as `None`. Other names, also those of ours without two underscores, are not ours to judge.
    fn take_variable(&mut self, name: &str, value: Option<String>) {
        let Some((table, key)) = name.strip_prefix(ENV_PREFIX).and_then(|rest| rest.split_once("__")) else { return };
        let (table, key) = (table.to_ascii_lowercase(), key.to_ascii_lowercase());
        match all_keys().find(|known| known.0 == table && known.1 == key) {
            Some(known) => match value {
                Some(value) => drop(self.env.insert(known, value)),
                None => {
                    let (key, wrong) = (variable(known), "its value is not UTF-8".to_owned());
                    self.problems.push(Problem { key, wrong, write: "write it in UTF-8".to_owned() });
                }
            },
            None => {
                let near = nearest(name, all_keys().map(variable)).unwrap_or_default();
                let wrong = "unknown environment variable".to_owned();
                let write = format!("the nearest known one is {near}");
                self.problems.push(Problem { key: name.to_owned(), wrong, write });
            }
        }
    }
}

/// The file's text, if it is UTF-8 and has at most `max` bytes.
pub(super) fn read_bounded(file: File, max: u64) -> io::Result<String> {
    let mut text = String::new();
    file.take(max + 1).read_to_string(&mut text)?;
    match text.len() as u64 > max {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {max} bytes"))),
        false => Ok(text),
    }
}

/// The parser's own display would repeat the line, and with it perhaps the secret.
fn not_toml(text: &str, error: &toml::de::Error) -> Problem {
    let line = error.span().and_then(|at| text.get(..at.start)).map_or(1, |before| before.matches('\n').count() + 1);
    let wrong = error.message().lines().next().unwrap_or("it cannot be read").to_owned();
    Problem { key: format!("line {line}"), wrong, write: "write TOML: [table], then key = \"value\" lines".to_owned() }
}

fn all_keys() -> impl Iterator<Item = Key> {
    KEYS.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)))
}

fn variable((table, key): Key) -> String {
    format!("{ENV_PREFIX}{}__{}", table.to_ascii_uppercase(), key.to_ascii_uppercase())
}

/// Names the known key that `key` of `table` most likely means: the same name elsewhere, else the fewest changes, at
/// equal number one of the same table.
fn nearest_key(table: &str, key: &str) -> String {
    let best = all_keys().min_by_key(|known| {
        let distance = strsim::damerau_levenshtein(known.1, key);
        (distance, known.0 != table)
    });
    match best {
        Some((place, name)) => format!("the nearest known one is `{name}` in [{place}]"),
        None => String::new(),
    }
}

fn nearest<S: AsRef<str>>(name: &str, known: impl Iterator<Item = S>) -> Option<S> {
    known.min_by_key(|k| strsim::damerau_levenshtein(k.as_ref(), name))
}
