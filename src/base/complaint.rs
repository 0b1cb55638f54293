//! What goes on being wrong is said at once, and then less and less often.

use std::time::Duration;

use super::clock::Timestamp;

/// It is said again after this long, and then after twice as long each time, up to [`MOST`].
const FIRST: Duration = Duration::from_secs(60);
const MOST: Duration = Duration::from_secs(3600);
/// What was well for so long is a new trouble.
const OVER: Duration = Duration::from_secs(300);

/// One trouble.
#[derive(Default)]
pub struct Complaint(Option<State>);

struct State {
    /// When it was so last.
    last: Timestamp,
    said: Timestamp,
    pause: Duration,
}

impl Complaint {
    /// It is so again: whether to say it.
    pub fn is_due(&mut self, now: Timestamp) -> bool {
        // A time behind the clock's is of before the clock was set back.
        let goes_on = |state: &&mut State| state.last <= now && now.since(state.last) < OVER;
        let Some(state) = self.0.as_mut().filter(goes_on) else {
            self.0 = Some(State { last: now, said: now, pause: FIRST });
            return true;
        };
        state.last = now;
        let due = now.since(state.said) >= state.pause;
        if due {
            (state.said, state.pause) = (now, (state.pause * 2).min(MOST));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_less_and_less_often_and_a_new_trouble_at_once() {
        let mut complaint = Complaint::default();
        let mut is_due = |at: i64| complaint.is_due(Timestamp::from_secs(at));
        let said: Vec<i64> = (0..20_000).filter(|at| is_due(*at)).collect();
        assert_eq!(said, [0, 60, 180, 420, 900, 1_860, 3_780, 7_380, 10_980, 14_580, 18_180]);
        assert!(!is_due(20_298));
        assert!(is_due(20_598));
        assert!(is_due(7), "the clock was set back");
        assert!(!is_due(8));
    }
}
