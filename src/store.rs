//! What the collectors of one store share: its configuration, its host, whether its filesystem answers, and the
//! discipline over descriptors of its database.

pub mod database;
pub mod device;
pub mod pagecache;
pub mod view;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    collectors::CollectError,
    config::{CollectorName, Config, Store},
    host::{
        Host,
        processes::{FileId, Held},
    },
    progress::Progress,
};

/// Everything a collector is built from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The configuration as a whole.
    pub config: Arc<Config>,
    /// The store.
    pub store: Arc<Store>,
    /// The host: processes, state directory.
    pub host: Arc<Host>,
    /// Whether the filesystem of the store answers.
    pub device: Arc<device::Device>,
    /// How its database may be opened.
    pub database: Arc<database::Database>,
    /// How far the long work of each collector is.
    pub(crate) progress: Arc<BTreeMap<CollectorName, Progress>>,
}

impl Context {
    /// The shared parts of `store`. Touches nothing yet.
    #[must_use]
    pub fn new(config: &Arc<Config>, store: &Arc<Store>, host: &Arc<Host>) -> Self {
        Self {
            config: Arc::clone(config),
            store: Arc::clone(store),
            host: Arc::clone(host),
            device: Arc::new(device::Device::new(store.seen_path.clone())),
            database: Arc::new(database::Database::new(store.seen_path.join(DATABASE_FILE))),
            progress: Arc::new(
                CollectorName::ALL.into_iter().map(|name| (name, Progress::default())).collect(),
            ),
        }
    }

    /// Whether any process but this one holds the database, the file `file`, so that it may write to it; where not everybody can
    /// be seen, the kernel may still know that nobody does.
    pub fn held(&self, file: FileId, max_age: Duration) -> Result<Held, CollectError> {
        Ok(match self.host.processes.held(file, max_age)? {
            Held::Unknown if matches!(self.database.writers(), Ok(Some(false))) => Held::No,
            held => held,
        })
    }

    /// How far the long work of `collector` is. Whoever works tells it, whoever shows it asks.
    #[must_use]
    pub fn progress(&self, collector: CollectorName) -> &Progress {
        // The constructor puts all of them in.
        &self.progress[&collector]
    }
}

/// Chroma's one SQLite file.
pub const DATABASE_FILE: &str = "chroma.sqlite3";
