//! Reads a live SQLite database so that its writers do not notice, and checks it faster than SQLite's own pragmas.
//!
//! - [`database`]: one connection at a time with read locks of a bounded length; a descriptor is never closed while SQLite has a
//!   lock on its file (POSIX would drop it).
//! - [`view`]: a consistent copy of a database beside any writer, proven by the journals of the transactions meanwhile.
//! - [`verdict`]: what `quick_check` and `integrity_check` would say, in a fraction of their time.
//! - [`priority`], [`pagecache`]: to be last at processor and disk, and to leave the page cache as it was.
//! - [`lease`]: whether anybody has a file open for writing, and nobody opens it for writing as long as the lease is held.
//! - [`links`]: paths in another mount namespace, where no link leads out of its root.
//!
//! Nothing is ever written in the directory of the database. Linux only.

pub mod clock;
pub mod database;
mod file_id;
pub mod holes;
pub mod kernel;
pub mod lease;
pub mod links;
pub mod pagecache;
pub mod priority;
pub mod progress;
pub mod space;
pub mod verdict;
pub mod view;
#[cfg(test)]
#[path = "../../../tests/support/wait.rs"]
mod wait;

pub use file_id::FileId;
