//! What in the catalogue contradicts itself, or cannot be used by Chroma.

use std::collections::BTreeMap;

use super::{Catalogue, Collection, DEFAULT_DATABASE_ID, Scope, Segment};
use crate::{
    collectors::contents::{
        ask::Cell,
        tally::{Cases, Tally},
    },
    findings::{Code, Finding, Severity},
    format::schema::Family,
};

impl Catalogue {
    /// Everything wrong with it.
    pub(in crate::collectors::contents) fn findings(&self) -> Vec<Finding> {
        let mut tally = Tally::default();
        if let Err(reason) = &self.queue_config {
            let words =
                || format!("config_json_str: {reason}; Chroma 1.x does not open the database");
            tally.add(Code::CollectionConfigInvalid, "embeddings_queue_config", words);
        }
        let segments = self.segments_of();
        for (key, collection) in &self.collections {
            self.judge_config(&mut tally, key, collection);
            let own = segments.get(key.as_str()).map(Vec::as_slice).unwrap_or_default();
            if self.tables.contains("segments") && !self.cut {
                self.judge_segments(&mut tally, collection, own);
            }
            self.judge_home(&mut tally, collection);
        }
        self.judge_databases(&mut tally);
        if self.tables.contains("collections") && !self.cut {
            self.judge_strays(&mut tally, &segments);
        }
        tally.into_findings()
    }

    /// Segments without a collection. Chroma leaves the rows when a database is deleted, and before 1.0.15 their records too.
    fn judge_strays(&self, tally: &mut Tally, segments: &BTreeMap<&str, Vec<&Segment>>) {
        for (collection, own) in segments {
            if self.collections.contains_key(*collection) {
                continue;
            }
            let (severity, what) = if own.iter().any(|segment| segment.holds) {
                (
                    Severity::Warning,
                    "its name is lost, or Chroma before 1.0.15 deleted its database; its records may be there",
                )
            } else {
                (
                    Severity::Info,
                    "no record is left of it, as when Chroma deletes a database with its collections",
                )
            };
            let (first, count) = (&own[0].id, own.len());
            let words = || {
                format!(
                    "{count} segments (first {first}) belong to a collection that is not there: {what}"
                )
            };
            let mut about = Cases::default();
            for segment in own {
                about.add(|| segment.id.clone());
            }
            tally.add_about(Code::OrphanRows, severity, "segments", words, about);
        }
    }

    /// Whether a collection has no segment with its records: records without a segment may be its own.
    pub(in crate::collectors::contents) fn lacks_records_segment(&self) -> bool {
        let segments = self.segments_of();
        let has = |key: &String| {
            segments
                .get(key.as_str())
                .is_some_and(|own| own.iter().any(|segment| segment.scope == Some(Scope::Metadata)))
        };
        self.cut || !self.collections.iter().all(|(key, one)| one.never_filled() || has(key))
    }

    fn judge_config(&self, tally: &mut Tally, key: &str, collection: &Collection) {
        let name = &collection.name;
        if !is_uuid(key) {
            let words =
                || format!("\"{name}\": its id is no UUID: the collections cannot be listed");
            tally.add(Code::CollectionConfigInvalid, "collections", words);
        }
        if let Err((column, reason)) = &collection.config {
            let words = || format!("\"{name}\": {column}: {reason}");
            tally.add(Code::CollectionConfigInvalid, "collections", words);
        }
        let reason = match &collection.dimension {
            Cell::Null if collection.records_without_dimension => {
                "it has records and no dimension: queries give nothing, without an error".to_owned()
            }
            Cell::Null | Cell::Integer(1..) => return,
            // Chroma below 1.0 takes 0 for none.
            Cell::Integer(0) if matches!(self.family, Family::Oldest | Family::Python) => return,
            Cell::Integer(dimension) => format!("its dimension is {dimension}"),
            other => format!("its dimension is {} instead of an integer", other.kind()),
        };
        let words = || format!("\"{name}\": {reason}");
        tally.add(Code::CollectionDimensionMismatch, "collections", words);
    }

    fn judge_segments(&self, tally: &mut Tally, collection: &Collection, own: &[&Segment]) {
        let name = &collection.name;
        // Below 1.0 the row is there before its settings are judged.
        if own.is_empty() && collection.never_filled() {
            let words = || {
                format!(
                    "\"{name}\" has no segment and never had a record: its creation failed; delete it and create it again"
                )
            };
            let code = Code::CollectionWithoutSegments;
            return tally.add_with(code, Severity::Warning, "segments", words);
        }
        let mut add = |reason: String| {
            tally.add(Code::CollectionWithoutSegments, "segments", || {
                format!("\"{name}\" {reason}")
            });
        };
        for scope in Scope::ALL {
            let of_scope = || own.iter().filter(|segment| segment.scope == Some(scope));
            match of_scope().count() {
                0 => add(format!("has no {} segment", scope.as_str())),
                1 => {}
                n => add(format!(
                    "has {n} {} segments: reads and writes go now to one, now to another",
                    scope.as_str()
                )),
            }
        }
        for segment in own {
            if !is_uuid(&segment.id) {
                add("has a segment whose id is no UUID".to_owned());
            } else if self.family != Family::Unknown
                && segment.scope.is_some()
                && !KINDS.contains(&segment.kind.as_str())
            {
                add("has a segment of a kind that no Chroma knows".to_owned());
            }
        }
    }

    /// A collection whose database is gone is in no list, and no name opens it.
    fn judge_home(&self, tally: &mut Tally, collection: &Collection) {
        let (Some(databases), Some(database)) = (&self.databases, &collection.database) else {
            return;
        };
        // Its absence is a finding of its own.
        let explained = database == DEFAULT_DATABASE_ID;
        if !databases.contains_key(database) && !explained {
            let words = || {
                format!(
                    "\"{}\" belongs to no database: it is hidden, and its data is still there",
                    collection.name
                )
            };
            tally.add_with(Code::OrphanRows, Severity::Critical, "collections", words);
        }
    }

    fn judge_databases(&self, tally: &mut Tally) {
        let (Some(tenants), Some(databases)) = (&self.tenants, &self.databases) else { return };
        for (key, database) in databases {
            if tenants.contains(&database.tenant) || database.tenant == "default_tenant" {
                continue;
            }
            let held =
                self.collections.values().filter(|c| c.database.as_ref() == Some(key)).count();
            let severity = if held > 0 { Severity::Critical } else { Severity::Warning };
            let words = || {
                format!(
                    "database \"{}\" belongs to no tenant: it is hidden, with {held} collections",
                    database.name
                )
            };
            tally.add_with(Code::OrphanRows, severity, "databases", words);
        }
    }
}

/// `8-4-4-4-12` hexadecimal digits, or 32 without the dashes: what Chroma's parsers take.
fn is_uuid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    digits == 32
        && digits + dashes.len() == text.len()
        && (dashes.is_empty() || dashes == [8, 13, 18, 23])
}

/// Kinds of segments that Chroma on one host makes.
const KINDS: [&str; 3] = [
    "urn:chroma:segment/vector/hnsw-local-persisted",
    "urn:chroma:segment/vector/hnsw-local-memory",
    "urn:chroma:segment/metadata/sqlite",
];
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_chroma_does() {
        for (text, want) in [
            ("743d99e4-4df0-475d-bdfd-21be0584c221", true),
            ("743d99e44df0475dbdfd21be0584c221", true),
            ("743d99e4-4df0-475d-bdfd-21be0584c22", false),
            ("743d99e44df0-475d-bdfd-21be0584-c221", false),
            ("banana", false),
            ("", false),
        ] {
            assert_eq!(is_uuid(text), want, "{text}");
        }
    }
}
