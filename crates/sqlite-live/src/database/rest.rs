//! How long to keep away from the database between two questions. A writer that meets a reader waits for longer than the reader
//! stays, since SQLite sleeps between its tries; locks of up to 5 ms in each 50 ms cost it nothing that can be measured.

use std::time::Duration;

use super::Stamp;
use crate::clock::Ticks;

/// Whether somebody writes, as far as the questions so far could see.
#[derive(Debug, Default)]
pub(super) struct Rest {
    seen: Option<Stamp>,
    /// When the file was last seen to have changed.
    changed: Option<Ticks>,
}

impl Rest {
    /// The time to keep away at `now`, after a question that held the lock for `held`: none where nobody writes. `stamp` is the
    /// state of the file; where that cannot be told somebody may write.
    pub(super) fn after(&mut self, held: Duration, stamp: Option<Stamp>, now: Ticks) -> Duration {
        let before = std::mem::replace(&mut self.seen, stamp);
        if stamp.is_none() || before.is_some_and(|before| Some(before) != stamp) {
            self.changed = Some(now);
        }
        let written = self.changed.is_some_and(|at| now.since(at) < WRITTEN_LATELY);
        if written { (held * REST_RATIO).min(REST_MAX) } else { Duration::ZERO }
    }
}

/// A tenth of the time is for questions.
const REST_RATIO: u32 = 9;
/// What took longer than its limits allow was beside nobody who waited.
const REST_MAX: Duration = Duration::from_millis(100);
/// Chroma's commits come in bursts, with requests between them.
const WRITTEN_LATELY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FileId,
        clock::{self, Timestamp},
    };

    #[test]
    fn questions_keep_away_from_who_writes_and_from_nobody_else() {
        let stamp = |second| {
            let at = Timestamp::from_secs(second);
            let id = FileId { device: 1, inode: 2 };
            Some(Stamp { id, size_bytes: 4096, modified: at, changed: at })
        };
        let began = clock::ticks();
        let mut rest = Rest::default();
        for (ms, held_ms, state, want_ms) in [
            (0, 5, stamp(1), 0),
            (10, 5, stamp(1), 0),
            (20, 5, stamp(2), 45),
            (500, 2, stamp(2), 18),
            (900, 50, stamp(2), 100),
            (1021, 5, stamp(2), 0),
            (1030, 5, None, 45),
            (3000, 5, stamp(2), 0),
        ] {
            let now = began.plus(Duration::from_millis(ms));
            let pause = rest.after(Duration::from_millis(held_ms), state, now);
            assert_eq!(pause, Duration::from_millis(want_ms), "at {ms} ms");
        }
    }
}
