//! How collections and records are written: one JSON object per line, with keys in a fixed order.

use std::io;

use serde::Serialize;

use super::{Metadata, catalogue::Collection, record::Record};

#[derive(Serialize)]
struct CollectionLine<'a> {
    collection: &'a str,
    tenant: &'a str,
    database: &'a str,
    space: Option<&'a str>,
    dimension: Option<u64>,
    metadata: Option<&'a Metadata>,
    configuration: &'a Option<serde_json::Value>,
}

/// Begins a collection: the records that follow are its own. Errs when it cannot be written as JSON.
pub(super) fn collection(collection: &Collection) -> io::Result<Vec<u8>> {
    let line = CollectionLine {
        collection: &collection.name,
        tenant: &collection.tenant,
        database: &collection.database,
        space: collection.space.as_deref(),
        dimension: collection.dimension,
        metadata: Some(&collection.metadata).filter(|metadata| !metadata.is_empty()),
        configuration: &collection.configuration,
    };
    let mut out = serde_json::to_vec(&line)?;
    out.push(b'\n');
    Ok(out)
}

/// The vector of a record.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(super) enum Embedding<'a> {
    /// Nobody asked for vectors.
    Unwanted,
    /// There is none that can be read.
    Lost,
    Is(&'a [f32]),
}

impl Embedding<'_> {
    const fn is_unwanted(&self) -> bool {
        matches!(self, Self::Unwanted)
    }
}

/// One record.
pub(super) struct Line<'a> {
    pub(super) id: &'a str,
    pub(super) record: &'a Record,
    pub(super) embedding: Embedding<'a>,
}

#[derive(Serialize)]
struct RecordLine<'a> {
    id: &'a str,
    document: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<&'a str>,
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Embedding::is_unwanted")]
    embedding: Embedding<'a>,
}

impl Line<'_> {
    /// Appends it, with its end. Errs when it cannot be written as JSON.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let line = RecordLine {
            id: self.id,
            document: self.record.document.as_deref(),
            uri: self.record.uri.as_deref(),
            metadata: Some(&self.record.metadata).filter(|metadata| !metadata.is_empty()),
            embedding: self.embedding,
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.push(b'\n');
        Ok(())
    }
}
