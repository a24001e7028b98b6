//! Ctrl-C and SIGTERM for commands that leave nothing half done.

use std::{process, thread};

use tokio::signal::unix::{SignalKind, signal};

use super::to_stderr;
use crate::repair::steps::Steps;

/// From now on the first of these signals stops the job, and the second ends the program where it is.
pub(super) fn stops(steps: &Steps) {
    let steps = steps.clone();
    let wait = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            for times in 0..2 {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if times == 0 {
                    steps.stop();
                    to_stderr("stopping; once more ends it at once\n");
                }
            }
            process::exit(130);
        });
    };
    if let Err(error) = thread::Builder::new().name("signals".to_owned()).spawn(wait) {
        tracing::debug!(%error, "Signals end the program at once.");
    }
}
