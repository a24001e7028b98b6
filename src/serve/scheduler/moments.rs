//! Since when findings are there, kept over restarts.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Board, Workers};
use crate::{
    firsts::{self, Firsts},
    store::Context,
};

/// Keeps over restarts since when the findings of a store are there. A state directory that hangs holds up this task alone.
pub(super) async fn keep_firsts(
    context: Context,
    board: Board,
    workers: Workers,
    stop: CancellationToken,
) {
    let (store, path) = (Arc::clone(&context.store.name), context.store.path.clone());
    let load = {
        let (host, path) = (Arc::clone(&context.host), path.clone());
        move || host.state.load(firsts::KIND, &path).unwrap_or_default()
    };
    let Some(Some(kept)) = stop.run_until_cancelled(workers.run(load)).await else { return };
    let mut saved = Arc::new(kept);
    let Some((mut known, changed)) = board.resume(&store, Firsts::clone(&saved)) else { return };
    let save = |known: Arc<Firsts>| {
        let (host, path) = (Arc::clone(&context.host), path.clone());
        workers.run(move || host.state.save(firsts::KIND, &path, &*known))
    };
    while !stop.is_cancelled() {
        if known != saved {
            let written = save(Arc::clone(&known));
            if stop.run_until_cancelled(written).await.is_some() {
                saved = Arc::clone(&known);
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = changed.notified() => {}
        }
        // What changes in a burst is written once.
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(FIRSTS_PAUSE) => {}
        }
        let Some(now) = board.firsts(&store) else { break };
        known = now;
    }
    if known != saved {
        // What is not written in time is younger after the restart than it is.
        drop(timeout(FIRSTS_LAST_WRITE, save(known)).await);
    }
}

/// Moments of findings are written down at most so often, and at the end for so long.
const FIRSTS_PAUSE: Duration = Duration::from_secs(1);
const FIRSTS_LAST_WRITE: Duration = Duration::from_secs(2);
