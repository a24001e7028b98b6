//! `chroma_exporter`: says in Prometheus' words whether the data of a `ChromaDB` on this host is safe.
//!
//! The rooms and the arrows between them are drawn in `ARCHITECTURE.md`.

pub mod clock;
pub mod collectors;
pub mod config;
pub mod findings;
pub mod format;
pub mod host;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod publish;
pub mod sample;
pub mod scheduler;
pub mod store;
pub mod watch;
