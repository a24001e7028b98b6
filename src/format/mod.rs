//! Parsers of foreign bytes: pure functions from bytes to facts. No file, no clock, no panic whatever the bytes.

pub mod access;
pub mod accounts;
pub mod api;
pub mod archive;
pub mod backup_name;
pub mod btree;
pub mod config;
pub mod duration;
pub mod fts5;
pub(crate) mod hash;
pub mod hnsw;
pub mod journal;
pub mod lfs;
pub mod log;
pub mod odd;
pub mod pickle;
pub mod proc;
pub mod python;
pub mod queue;
pub mod record;
pub mod schema;
pub mod sqlite;
pub mod tar;
pub(crate) mod uuid;
pub mod window;
pub(crate) mod words;
