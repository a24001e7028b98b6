//! The history over restarts: one small document in the state directory, written every few minutes and at the end. A state
//! directory that hangs or is full delays nothing: each write has a thread of its own, and there is one at a time.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use crate::{
    clock::{self, Ticks, Timestamp},
    history::{History, Row},
    host::Host,
};

/// The history and where it is kept.
#[derive(Debug)]
pub(super) struct Past {
    history: History,
    host: Arc<Host>,
    written: Ticks,
    writing: Option<JoinHandle<()>>,
}

impl Past {
    /// Goes on with what the last run of the program left.
    pub(super) fn resume(host: Arc<Host>, now: Timestamp) -> Self {
        let kept = host.state.load(KIND, Path::new(SUBJECT)).unwrap_or_default();
        let history = History::resume(kept, now);
        Self { history, host, written: clock::ticks(), writing: None }
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// Takes in what is known now, and writes it down when that is due. Called on a thread of the runtime.
    pub(super) fn note<'a>(
        &mut self,
        now: Timestamp,
        stores: impl IntoIterator<Item = (&'a Arc<str>, Row)>,
    ) {
        self.history.note(now, stores);
        if self.written.elapsed() >= WRITE_PAUSE {
            self.write();
        }
    }

    /// Writes it down a last time; waits a moment for it.
    pub(super) async fn end(mut self) {
        self.write();
        if let Some(writing) = self.writing.take() {
            // What was not written in time is a gap in a picture.
            drop(tokio::time::timeout(LAST_WRITE, writing).await);
        }
    }

    fn write(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.written = clock::ticks();
        let (kept, host) = (self.history.keep(), Arc::clone(&self.host));
        self.writing =
            Some(runtime.spawn_blocking(move || host.state.save(KIND, Path::new(SUBJECT), &kept)));
    }
}

/// Name of the document.
const KIND: &str = "history";
const SUBJECT: &str = "all stores";

/// Time between two writes.
const WRITE_PAUSE: Duration = Duration::from_mins(5);

/// How long the end of the program waits for the last one.
const LAST_WRITE: Duration = Duration::from_secs(2);
