//! What a repair could not bring back, by name.

use std::collections::BTreeMap;

use serde::Serialize;

/// A document that only the full text had, which is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostDocument {
    /// Name of the collection.
    pub collection: String,
    /// Id of the record that has no document.
    pub id: String,
    /// The text that the full text had for it.
    pub document: String,
}

/// A record that has lost a part: with that, it can be given to Chroma's `upsert`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LostRecord {
    /// Name of the collection.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// What is lost.
    pub part: Part,
    /// Its document, when it has one.
    pub document: Option<String>,
    /// Its metadata.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// A part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Its vector is nowhere any more: no search by vector finds it.
    Vector,
    /// Its newest vector: it keeps an older one.
    NewestVector,
    /// Document and metadata that a row of the queue brought.
    Metadata,
    /// Document and all metadata, if it had any.
    AllMetadata,
    /// All of it: it was only in a row of the queue that cannot be read.
    Record,
    /// What a row of the queue did to it is not known any more.
    Operation,
    /// The length of its vector, which only matters when Chroma gives the vector back: with cosine an index holds it beside the
    /// direction.
    Length,
}

/// A row that is lost, by what an index still says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRow {
    /// Its table.
    pub table: String,
    /// Its number in the table.
    pub row: i64,
    /// Name of the collection, where it is known.
    pub collection: Option<String>,
    /// Id of the record that it belongs to.
    pub id: Option<String>,
    /// What else is known of it: columns and their values.
    pub what: String,
}
