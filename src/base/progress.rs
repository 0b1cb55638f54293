//! Progress of long work, told to a person who waits for it.

use std::fmt;
use std::sync::Arc;

/// Where words of progress go; cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(String) + Send + Sync>);

/// Work is worth a word after so many steps.
const STEPS: u64 = 10_000;

impl Progress {
    pub fn new(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Progress(Arc::new(tell))
    }

    /// For who does not wait.
    pub fn silent() -> Self {
        Progress::new(drop)
    }

    pub fn say(&self, words: impl fmt::Display) {
        (self.0)(words.to_string());
    }

    /// Tells how far the work has come, once in ten thousand steps: `before` and `now` count them.
    pub fn step(&self, before: u64, now: u64, what: &str) {
        if before / STEPS != now / STEPS {
            self.say(format_args!("{now} {what} so far"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_word_comes_once_in_ten_thousand_steps() {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ear = heard.clone();
        let progress = Progress::new(move |words| ear.lock().unwrap().push(words));
        for n in (0..30_000).step_by(1_500) {
            progress.step(n, n + 1_500, "rows");
        }
        assert_eq!(*heard.lock().unwrap(), ["10500 rows so far", "21000 rows so far", "30000 rows so far"]);
    }
}
