//! Readers of the files that `ChromaDB` keeps: bytes in, facts out. No file, no clock, no socket: the crate has no `std`. No panic
//! and no allocation beyond what each function states, whatever the bytes; a pickle is read and never executed. One index folder is
//! also written: its graph ([`hnsw::Builder`]), its files ([`hnsw::Graph`]) and its metadata ([`pickle::write`]).
//!
//! | What | Where |
//! |---|---|
//! | SQLite: header, b-tree pages, records, rollback journal, write-ahead log | [`sqlite`], [`btree`], [`record`], [`journal`], [`wal`] |
//! | FTS5's index with the tokenizer `trigram` | [`fts5`] |
//! | hnswlib's `header.bin`, `data_level0.bin`, `length.bin`, `link_lists.bin` | [`hnsw`] |
//! | `index_metadata.pickle` of all releases | [`pickle`] |
//! | Chroma's schema and migrations, rows of its queue, configuration of collections | [`schema`], [`queue`], [`config`] |
//! | answers of its HTTP API, lines of its log | [`api`], [`log`] |
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_std)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

extern crate alloc;

pub mod api;
pub mod btree;
pub mod config;
pub mod fts5;
pub mod hash;
pub mod hnsw;
pub mod journal;
pub mod lfs;
pub mod log;
pub mod pickle;
mod pieces;
pub mod queue;
pub mod record;
pub mod schema;
pub mod sqlite;
pub mod unrecognised;
pub mod uuid;
pub mod wal;
