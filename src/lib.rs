//! `chroma_exporter`: says in Prometheus' words whether the data of a `ChromaDB` on this host is safe.
//!
//! The rooms and the arrows between them are drawn in `ARCHITECTURE.md`.
#![forbid(unsafe_code)]

pub mod alert;
pub mod cli;
pub mod collectors;
pub mod config;
pub mod deliver;
pub mod facts;
pub mod format;
pub mod host;
pub mod keys;
pub mod metrics;
pub mod repair;
pub mod serve;
pub mod store;
mod tls;
#[cfg(test)]
#[path = "../tests/support/wait.rs"]
mod wait;

pub use facts::{findings, firsts, runbooks, sample};
pub(crate) use facts::{hidden, human};
pub(crate) use serve::status;
pub use serve::{discover, fleet, history, http, logging, publish, scheduler, watch};
pub use sqlite_live::{clock, progress};

/// The release of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git revision that it was built from, as `build.rs` found it; `unknown` in debug builds and without git.
pub const REVISION: &str = match option_env!("CHROMA_EXPORTER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
