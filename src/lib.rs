//! `chroma_exporter`: says in Prometheus' words whether the data of a `ChromaDB` on this host is safe.
//!
//! The rooms and the arrows between them are drawn in `ARCHITECTURE.md`.
#![forbid(unsafe_code)]

pub mod alert;
pub mod cli;
pub mod collectors;
pub mod config;
pub mod deliver;
pub mod discover;
pub mod findings;
pub mod firsts;
pub mod fleet;
pub mod format;
mod hidden;
pub mod history;
pub mod host;
pub mod http;
mod human;
pub mod logging;
pub mod metrics;
pub mod publish;
pub mod runbooks;
pub mod sample;
pub mod scheduler;
mod status;
pub mod store;
mod tls;
#[cfg(test)]
#[path = "../tests/support/wait.rs"]
mod wait;
pub mod watch;

pub use sqlite_live::{clock, progress};

/// The release of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git revision that it was built from, as `build.rs` found it; `unknown` in debug builds and without git.
pub const REVISION: &str = match option_env!("CHROMA_EXPORTER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
