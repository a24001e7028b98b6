//! The shell: loops, sockets, signals, events, and what the page and the document of a running exporter show.

pub(crate) mod backups;
pub mod discover;
pub mod fleet;
pub mod history;
pub mod http;
pub mod logging;
pub mod publish;
pub mod scheduler;
pub(crate) mod status;
pub(crate) mod systemd;
pub(crate) mod trials;
pub mod watch;
mod work;
