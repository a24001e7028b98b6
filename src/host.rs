//! What all stores of this host share: the process table and the state directory.

pub mod processes;
pub mod state;
pub mod walk;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::config::Config;

/// One per program.
#[derive(Debug)]
pub struct Host {
    /// Who holds which file.
    pub processes: processes::ProcessTable,
    /// What must survive a restart.
    pub state: state::StateDir,
    /// Whole-file checks take turns: two at once would only make both slower and the host's neighbours with them.
    pub heavy: Mutex<()>,
    /// Stores whose file events are (not) being received.
    watched: Mutex<BTreeMap<Arc<str>, bool>>,
}

impl Host {
    /// The host as `config` sees it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::with_state(config, state::StateDir::open(config.state_dir.clone()))
    }

    /// The host for a program that runs beside an exporter: it knows what that one keeps, and writes nothing.
    #[must_use]
    pub fn read_only(config: &Config) -> Self {
        Self::with_state(config, state::StateDir::read_only(config.state_dir.clone()))
    }

    fn with_state(config: &Config, state: state::StateDir) -> Self {
        Self {
            processes: processes::ProcessTable::new(config.procfs.clone()),
            state,
            heavy: Mutex::new(()),
            watched: Mutex::default(),
        }
    }

    /// Notes whether file events of `store` are being received.
    pub fn note_watch(&self, store: &Arc<str>, works: bool) {
        self.watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(Arc::clone(store), works);
    }

    /// Forgets a store that is no longer watched.
    pub fn forget_watch(&self, store: &str) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(store);
    }

    /// Whether file events of each store are being received.
    #[must_use]
    pub fn watched(&self) -> BTreeMap<Arc<str>, bool> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
