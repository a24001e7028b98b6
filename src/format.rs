//! Parsers of foreign bytes: pure functions from bytes to facts. No file, no clock, no panic whatever the bytes. What Chroma
//! itself writes is read by the crate `chroma-format`, where the compiler holds it to that.

pub use chroma_format::{
    api, btree, config, fts5, hash, hnsw, journal, lfs, log, pickle, queue, record, schema, sqlite,
    unrecognised, uuid, wal,
};

pub mod access;
pub mod accounts;
pub mod archive;
pub mod backup_name;
pub mod manifest;
pub mod parts;
pub mod proc;
pub mod programs;
pub mod python;
pub mod tar;
pub(crate) mod words;
pub mod zip;
