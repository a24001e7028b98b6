//! What a command reads records out of: a store, a backup, or the lines of a dump. A store and a backup are read from a copy.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::check;
use crate::{
    config::{Config, Store},
    facts::error::CollectError,
    host::Host,
    human::plain,
    repair::{
        dump::{Copied, CopyError, Wanted},
        lines::{self, Stream, StreamError},
        steps::Steps,
        unpack,
    },
    store::{Context, DATABASE_FILE},
};

/// A store or a backup.
pub(super) enum Source {
    Store(Arc<Store>),
    Backup(PathBuf),
}

/// Why it is not known what to read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("cannot look for stores")]
    Discovery(#[from] CollectError),
    #[error("there is no store")]
    None,
    #[error("this works on one store at a time, and there are {0}")]
    Several(String),
}

/// What is named, or else the one store that there is. Errs when there is no store, or there are several.
pub(super) fn of(config: &Arc<Config>, from: Option<&Path>) -> Result<Source, SourceError> {
    if let Some(from) = from {
        return Ok(Source::named(from));
    }
    let stores = check::stores(config)?;
    match &stores[..] {
        [store] => Ok(Source::Store(Arc::clone(store))),
        [] => Err(SourceError::None),
        several => {
            let names: Vec<&str> = several.iter().map(|store| &*store.name).collect();
            Err(SourceError::Several(names.join(", ")))
        }
    }
}

impl Source {
    /// A directory with a database is a store, anything else a backup.
    pub(super) fn named(from: &Path) -> Self {
        if from.join(DATABASE_FILE).exists() {
            let dir = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
            Self::Store(Arc::new(Store::new("dump", dir)))
        } else {
            Self::Backup(from.to_owned())
        }
    }

    /// A copy of it, below `scratch` or where there is room. Errs when it cannot be opened or copied, or the steps were stopped.
    pub(super) fn copied(
        &self,
        config: &Arc<Config>,
        scratch: Option<&Path>,
        steps: &Steps,
    ) -> Result<Copied, CopyError> {
        let fallback = config.state_dir.as_ref().map(|dir| dir.join("tmp"));
        match self {
            Self::Store(store) => {
                let host = Arc::new(Host::read_only(config));
                let place = scratch.map(Path::to_owned);
                // Never beside the store: its directory belongs to somebody else.
                let state = fallback.filter(|dir| fs::create_dir_all(dir).is_ok());
                let place = place.or(state).unwrap_or_else(std::env::temp_dir);
                Copied::of_store(&Context::new(config, store, &host), &place, steps)
            }
            Self::Backup(backup) => {
                let real = |store: &Arc<Store>| store.seen_path.canonicalize().ok();
                let how = unpack::Options {
                    scratch: scratch.map(Path::to_owned),
                    fallback,
                    stores: config.stores.iter().filter_map(real).collect(),
                    ..unpack::Options::default()
                };
                Copied::of_backup(backup, &how, steps)
            }
        }
    }
}

/// Why there are no records to read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("cannot read {}", .path.display())]
    Copy { path: PathBuf, source: CopyError },
    #[error(transparent)]
    Lines(Box<StreamError>),
}

/// The records of a store, of a backup, or of the lines of a dump, with what is to be noted of its copy.
/// Errs when what is named cannot be opened, copied or read.
pub(super) fn lines(
    config: &Arc<Config>,
    from: &Path,
    scratch: Option<&Path>,
    wanted: &Wanted,
    steps: &Steps,
) -> Result<(Stream, Vec<String>), Unreadable> {
    let reported = |error| Unreadable::Lines(Box::new(error));
    if from.as_os_str() == "-" {
        return Ok((
            Stream::of_file(None, &wanted.collections, steps).map_err(reported)?,
            Vec::new(),
        ));
    }
    // What cannot be opened is told by whoever opens it as a backup.
    if lines::is_dump(from).unwrap_or_default() {
        return Ok((
            Stream::of_file(Some(from), &wanted.collections, steps).map_err(reported)?,
            Vec::new(),
        ));
    }
    let copied = Source::named(from)
        .copied(config, scratch, steps)
        .map_err(|source| Unreadable::Copy { path: from.to_owned(), source })?;
    let notes = copied.notes.clone();
    Ok((Stream::of_copy(from, copied, wanted, steps).map_err(reported)?, notes))
}

/// `articles`, or `tenant/database/articles` where those are not the ones that everybody has.
pub(super) fn called(tenant: &str, database: &str, name: &str) -> String {
    if tenant == "default_tenant" && database == "default_database" {
        return plain(name);
    }
    format!("{}/{}/{}", plain(tenant), plain(database), plain(name))
}
