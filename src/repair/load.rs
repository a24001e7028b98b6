//! Lines of `dump` into a running server of Chroma. Records go in batches that the server takes, by `upsert`: the same lines once more
//! change nothing, so a load that was cut off is simply run again. What was sent is asked for afterwards: the number, and a sample.

mod ahead;
mod batch;
mod loading;
mod proof;
mod server;
mod settings;
mod state;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use reqwest::{Url, header::HeaderMap};
use serde::{Deserialize, Serialize};

pub use self::server::Patience;
use self::{
    loading::{Ended, Loading},
    server::{NoAnswer, Place, Server},
    state::Resumed,
};
use super::{
    lines::{Collection, Line, Lines},
    steps::Steps,
};
use crate::human::plain;

/// What is to be loaded, and where.
#[derive(Debug)]
pub struct Wish {
    /// A file; `None` for standard input.
    pub from: Option<PathBuf>,
    /// The server: scheme, host, port, and a path when it stands behind a proxy.
    pub to: Url,
    /// What says who we are.
    pub headers: HeaderMap,
    /// Other names for collections.
    pub rename: Vec<(String, String)>,
    /// Names of collections as the lines have them; all of them when it is empty.
    pub collections: Vec<String>,
    /// Whether records may go into collections that are there.
    pub merge: bool,
    /// Whether the server is only asked, and nothing changed.
    pub dry_run: bool,
    /// Where it is kept how far the load is.
    pub resume: Option<PathBuf>,
    /// How long a server that does not answer is asked again.
    pub patience: Patience,
}

/// What came of one collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Its tenant.
    pub tenant: String,
    /// Its database.
    pub database: String,
    /// Its name on the server.
    pub name: String,
    /// Whether it was made, or would be.
    pub made: bool,
    /// Records that the server took, or would be given.
    pub records: u64,
    /// Records of these lines that are not on the server.
    pub lost: u64,
    /// Records that it had before.
    pub before: u64,
    /// Records that it has now; `None` when nobody could ask.
    pub after: Option<u64>,
    /// Records that were read back and are as they were sent.
    pub compared: u64,
}

/// What was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// Each collection, in the order of the lines.
    pub collections: Vec<Collected>,
    /// Lines that were not loaded, or not in full.
    pub lost: u64,
    /// What was not loaded and why, a sentence each with the number of its line; the first thousand.
    pub losses: Vec<String>,
    /// What the server has and was not sent so.
    pub differing: Vec<String>,
    /// What nobody could ask for afterwards.
    pub unproven: Vec<String>,
    /// What else is good to know.
    pub notes: Vec<String>,
    /// Why it did not come to its end.
    pub broken_off: Option<String>,
    /// Whether anything was changed.
    pub dry_run: bool,
}

impl Loaded {
    /// Counts a line that was not loaded as it is, and tells it as long as there is room.
    fn lose(&mut self, line: u64, id: Option<&str>, why: &dyn fmt::Display) {
        self.lost += 1;
        if self.losses.len() < LOSSES_MAX {
            let id = id.map(|id| format!(" (record {})", plain(id))).unwrap_or_default();
            self.losses.push(format!("line {line}{id}: {why}"));
        }
    }
}

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The lines cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The server gives no answer that helps.
    #[error("{to}: {why}")]
    Server {
        /// Where it is.
        to: String,
        /// What came of it.
        why: String,
    },
    /// These are there already.
    #[error("the server has these collections already: {}", .0.join(", "))]
    There(Vec<String>),
    /// Two collections of the lines would become one.
    #[error("two collections would both be {0}")]
    Twice(String),
    /// The file that says how far it is cannot be used.
    #[error("cannot go on from {}: {why}", .path.display())]
    Resume {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl LoadError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::There(_) => Some(
                "give --merge to put the records into them (also to go on after a load that was cut off), or --rename A=B",
            ),
            Self::Twice(_) => {
                Some("give one of them another name with --rename A=B, or give --merge")
            }
            Self::Resume { .. } => {
                Some("delete that file to begin anew; --merge goes on without it")
            }
            Self::Read { .. } | Self::Server { .. } => None,
        }
    }
}

/// Loads what is wished. Errs when it cannot begin, and then nothing was changed; what broke off is told in the result.
pub fn run(wish: &Wish, steps: &Steps) -> Result<Loaded, LoadError> {
    let no_server =
        |error: NoAnswer| LoadError::Server { to: wish.to.to_string(), why: error.to_string() };
    let resumed = state::read(wish)?;
    steps.begin("asking the server", None);
    let server =
        Server::find(&wish.to, wish.headers.clone(), wish.patience, steps).map_err(no_server)?;
    if let Some(path) = &wish.from {
        steps.begin("looking for collections", size(path));
        look_ahead(path, wish, &server, resumed.as_ref(), steps)?;
    }
    steps.begin("loading", wish.from.as_deref().and_then(size));
    let read = |source| LoadError::Read { path: shown(wish), source };
    let lines = match &wish.from {
        Some(path) => Lines::open(path, steps),
        None => Lines::new(io::stdin()),
    };
    let lines = lines.map_err(read)?;
    let mut loading = Loading::new(wish, server, resumed, steps);
    let ended = loading.all(lines);
    loading.end(ended)
}

fn size(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|facts| facts.len()).filter(|size| *size > 0)
}

fn shown(wish: &Wish) -> PathBuf {
    wish.from.clone().unwrap_or_else(|| "standard input".into())
}

/// Reads the lines that begin collections, so that one which is there is refused before anything was changed.
/// Errs when the file cannot be read, the server gives no answer, or a collection is there already.
fn look_ahead(
    path: &Path,
    wish: &Wish,
    server: &Server,
    resumed: Option<&Resumed>,
    steps: &Steps,
) -> Result<(), LoadError> {
    let read = |source| LoadError::Read { path: path.to_owned(), source };
    let mut lines = Lines::open(path, steps).map_err(read)?;
    let (mut seen, mut there) = (BTreeSet::new(), Vec::new());
    while let Some((_, text)) = lines.next_raw().map_err(read)? {
        // A line with an id is a record or none. Within a text the quotes would be escaped.
        if text.starts_with(b"{\"id\"") || !contains(text, b"\"collection\"") {
            continue;
        }
        let Ok(Line::Collection(collection)) = Lines::parsed(text) else { continue };
        let Some(target) = Target::of(wish, &collection) else { continue };
        if !seen.insert(target.clone()) && !wish.merge {
            return Err(LoadError::Twice(target.to_string()));
        }
        if wish.merge || resumed.is_some_and(|resumed| resumed.own(&target).is_some()) {
            continue;
        }
        match server.collection(target.place(), &target.name) {
            Ok(None) => {}
            Ok(Some(_)) => there.push(target.to_string()),
            Err(error) => {
                let (to, why) = (wish.to.to_string(), format!("{target}: {error}"));
                return Err(LoadError::Server { to, why });
            }
        }
    }
    if there.is_empty() { Ok(()) } else { Err(LoadError::There(there)) }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

/// Where the records of a collection go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    tenant: String,
    database: String,
    name: String,
}

impl Target {
    /// `None` when it is not wanted.
    fn of(wish: &Wish, collection: &Collection) -> Option<Self> {
        let Collection { name, tenant, database, .. } = collection;
        if !wish.collections.is_empty() && !wish.collections.contains(name) {
            return None;
        }
        let renamed = wish.rename.iter().find(|(from, _)| from == name).map(|(_, to)| to);
        let name = renamed.unwrap_or(name).clone();
        Some(Self { tenant: tenant.clone(), database: database.clone(), name })
    }

    fn place(&self) -> Place<'_> {
        Place { tenant: &self.tenant, database: &self.database }
    }
}

/// `articles`, or `tenant/database/articles` where those are not the ones that everybody has.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, database, name } = self;
        if tenant != "default_tenant" || database != "default_database" {
            write!(f, "{}/{}/", plain(tenant), plain(database))?;
        }
        f.write_str(&plain(name))
    }
}

/// What is told one by one; all of it is counted.
const LOSSES_MAX: usize = 1_000;
