//! The places for runs: a small number for those that are quick, and as many for those that take long.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinHandle},
    time::timeout,
};

/// The places for the runs of all stores. Whoever asks first is first. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Workers {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

/// A place; given back when dropped.
pub(super) struct Place {
    _held: Option<OwnedSemaphorePermit>,
}

impl Default for Workers {
    fn default() -> Self {
        Self { quick: Arc::new(Semaphore::new(WORKERS)), slow: Arc::new(Semaphore::new(SLOW)) }
    }
}

impl Workers {
    pub(super) async fn place(&self) -> Place {
        // Errs when the semaphore is closed, which nobody does.
        Place { _held: Arc::clone(&self.quick).acquire_owned().await.ok() }
    }

    /// Runs something else on a thread, at a place, however long it takes; `None` when the runtime is shutting down.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let mut place = Some(self.place().await);
        let mut job = tokio::task::spawn_blocking(work);
        self.wait(&mut place, Duration::MAX, &mut job).await?.ok()
    }

    /// Waits for a run for at most `patience`. What takes long keeps its thread, but not its place among the others, so that no
    /// number of stores that hang holds them up.
    pub(super) async fn wait<T>(
        &self,
        place: &mut Option<Place>,
        patience: Duration,
        run: &mut JoinHandle<T>,
    ) -> Option<Result<T, JoinError>> {
        if place.is_none() {
            return timeout(patience, run).await.ok();
        }
        let mut waited = Duration::ZERO;
        for (until, last) in [(PLACE_FOR, false), (PLACE_FOR_MAX, true)] {
            let piece = until.min(patience).saturating_sub(waited);
            if let Ok(ended) = timeout(piece, &mut *run).await {
                return Some(ended);
            }
            waited += piece;
            let slow = Arc::clone(&self.slow).try_acquire_owned().ok();
            if slow.is_some() || last {
                *place = slow.map(|held| Place { _held: Some(held) });
                break;
            }
        }
        timeout(patience.saturating_sub(waited), run).await.ok()
    }
}

/// Runs that run at the same time.
pub(super) const WORKERS: usize = 10;

/// Runs that take long: they wait for the walk over all processes, or look a second time at a file that is being written.
pub(super) const SLOW: usize = 10;

/// A run that lasts longer is a slow one.
const PLACE_FOR: Duration = Duration::from_millis(250);

/// Where there is no room for another slow one, a run keeps its place for this long. Then it counts as one that never ends: it
/// has a thread and no place.
const PLACE_FOR_MAX: Duration = Duration::from_secs(1);
