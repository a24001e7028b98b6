//! Rows of `segments`: each collection has one for its records and one for its vectors. One that is lost is put back where what hangs
//! on it proves its id: rows of the queue that its records are from, and the ids in its folder. A segment of another collection, as
//! a deleted one leaves it, is never taken for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use rusqlite::{Transaction, params};

use super::{Effect, Failure, index, rows};
use crate::{
    format::{
        pickle,
        schema::Family,
        uuid::{parse_uuid, uuid_text},
    },
    repair::{
        dump::{
            catalogue::{self, Collection},
            tail::{Tail, Where, vector_of},
        },
        records::has,
    },
    store::{DATABASE_FILE, position},
};

/// Puts the rows right. Errs without a change when it is not certain which segment is whose.
pub(super) fn put_right(dir: &Path) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let family = rows::known_family(&connection, "segments are")?;
    let transaction = connection.transaction()?;
    let mut work = Work { dir, transaction: &transaction, family, words: Vec::new() };
    work.name_kinds()?;
    let collections = catalogue::read(&transaction)?;
    for scope in [Scope::Metadata, Scope::Vector] {
        for collection in &collections {
            work.remove_empty(collection, scope)?;
        }
        // Those of the records come first: they tell whose vectors are whose.
        let collections = catalogue::read(&transaction)?;
        let lacking: Vec<&Collection> =
            collections.iter().filter(|one| scope.of(one).is_none()).collect();
        let mut taken = BTreeSet::new();
        for collection in &lacking {
            work.add(collection, scope, &collections, &mut taken)?;
        }
    }
    let what = work.words.join("; ");
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(Effect { what, ..Effect::default() })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Metadata,
    Vector,
}

impl Scope {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "METADATA",
            Self::Vector => "VECTOR",
        }
    }

    /// The one kind of a store on a disk.
    const fn kind(self) -> &'static str {
        match self {
            Self::Metadata => "urn:chroma:segment/metadata/sqlite",
            Self::Vector => "urn:chroma:segment/vector/hnsw-local-persisted",
        }
    }

    const fn holds(self) -> &'static str {
        match self {
            Self::Metadata => "records",
            Self::Vector => "vectors",
        }
    }

    fn of(self, collection: &Collection) -> Option<&str> {
        match self {
            Self::Metadata => Some(&*collection.records_segment).filter(|id| !id.is_empty()),
            Self::Vector => collection.vectors_segment.as_deref(),
        }
    }
}

struct Work<'a> {
    dir: &'a Path,
    transaction: &'a Transaction<'a>,
    family: Family,
    words: Vec<String>,
}

impl Work<'_> {
    /// Scope and kind say the same: of one that no Chroma knows, the other one is the proof. Errs when SQLite does.
    fn name_kinds(&mut self) -> Result<(), Failure> {
        let known = "type IN ('urn:chroma:segment/vector/hnsw-local-persisted', 'urn:chroma:segment/vector/hnsw-local-memory', 'urn:chroma:segment/metadata/sqlite')";
        for scope in [Scope::Metadata, Scope::Vector] {
            let (name, kind) = (scope.as_str(), scope.kind());
            let kinds = self.transaction.execute(
                &format!("UPDATE segments SET type = ?1 WHERE scope = ?2 AND NOT ({known})"),
                [kind, name],
            )?;
            let scopes = self.transaction.execute(
                "UPDATE segments SET scope = ?2 WHERE scope NOT IN ('METADATA', 'VECTOR') AND type = ?1",
                [kind, name],
            )?;
            if kinds + scopes > 0 {
                let words = format!(
                    "the kind of {} segments of {} was put right",
                    kinds + scopes,
                    scope.holds()
                );
                self.words.push(words);
            }
        }
        Ok(())
    }

    /// Of several segments of one scope, those that hold nothing go when exactly one holds something.
    /// Errs when several hold something, and when SQLite does.
    fn remove_empty(&mut self, collection: &Collection, scope: Scope) -> Result<(), Failure> {
        let sql = "SELECT id FROM segments WHERE collection = ?1 AND scope = ?2 ORDER BY rowid";
        let ids = self.list(sql, &[&collection.id, scope.as_str()])?;
        if ids.len() < 2 {
            return Ok(());
        }
        let mut holding = Vec::new();
        for id in &ids {
            if self.holds(id, scope)? {
                holding.push(id);
            }
        }
        let keep = match holding[..] {
            [] => &ids[0],
            [one] => one,
            _ => {
                return Err(Failure::Damaged(format!(
                    "Collection {} has several segments of {}, and more than one holds some: reads and writes went now to one, now to another. Restore a backup.",
                    collection.name,
                    scope.holds()
                )));
            }
        };
        for id in ids.iter().filter(|id| *id != keep) {
            self.transaction.execute("DELETE FROM segments WHERE id = ?1", [id])?;
            self.transaction.execute("DELETE FROM segment_metadata WHERE segment_id = ?1", [id])?;
        }
        self.words.push(format!(
            "of {} segments of {} of collection {}, the one that holds them was kept",
            ids.len(),
            scope.holds(),
            collection.name
        ));
        Ok(())
    }

    fn holds(&self, id: &str, scope: Scope) -> Result<bool, Failure> {
        let sql = "SELECT EXISTS(SELECT 1 FROM max_seq_id WHERE segment_id = ?1) OR EXISTS(SELECT 1 FROM embeddings WHERE segment_id = ?1)";
        let in_tables: bool = self.transaction.query_row(sql, [id], |row| row.get(0))?;
        Ok(in_tables || scope == Scope::Vector && self.dir.join(id).is_dir())
    }

    /// Puts the row back that a collection lacks. Errs when SQLite does.
    fn add(
        &mut self,
        collection: &Collection,
        scope: Scope,
        all: &[Collection],
        taken: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let id = match scope {
            Scope::Metadata => self.records_of(collection, all)?,
            Scope::Vector => self.vectors_of(collection)?,
        };
        let id = id.unwrap_or_else(|| fresh(&format!("{} {}", collection.id, scope.as_str())));
        if !taken.insert(id.clone()) {
            return Err(doubtful(collection, scope));
        }
        let with_topic = has(self.transaction, "segments", "topic")?;
        let columns = if with_topic { ", topic" } else { "" };
        let value = if with_topic {
            ", coalesce((SELECT topic FROM collections WHERE id = ?4), 'persistent://default/default/' || ?4)"
        } else {
            ""
        };
        let sql = format!(
            "INSERT INTO segments(id, type, scope, collection{columns}) VALUES(?1, ?2, ?3, ?4{value})"
        );
        self.transaction.execute(&sql, params![id, scope.kind(), scope.as_str(), collection.id])?;
        if scope == Scope::Vector && self.family != Family::Rust {
            self.settings_of(&id, &collection.id)?;
        }
        self.words.push(format!(
            "the row of the segment with the {} of collection {} was put back",
            scope.holds(),
            collection.name
        ));
        Ok(())
    }

    /// Before 1.0 an index has its settings from the metadata of its collection, copied when it was made. Errs when SQLite does.
    fn settings_of(&self, segment: &str, collection: &str) -> Result<(), Failure> {
        let mut columns = "key, str_value, int_value, float_value".to_owned();
        if has(self.transaction, "segment_metadata", "bool_value")? {
            columns.push_str(", bool_value");
        }
        let sql = format!(
            "INSERT OR IGNORE INTO segment_metadata(segment_id, {columns}) SELECT ?1, {columns} FROM collection_metadata \
             WHERE collection_id = ?2 AND key LIKE 'hnsw:%' AND NOT EXISTS (SELECT 1 FROM segment_metadata WHERE segment_id = ?1)"
        );
        self.transaction.execute(&sql, [segment, collection])?;
        Ok(())
    }

    /// The segment that has the records of a collection; `None` when it never had any. Errs when SQLite or the disk does.
    fn records_of(
        &self,
        collection: &Collection,
        all: &[Collection],
    ) -> Result<Option<String>, Failure> {
        let sql = "SELECT DISTINCT segment_id FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments) ORDER BY 1";
        let candidates = self.list(sql, &[])?;
        let mut proven = Vec::new();
        for id in candidates {
            let mut made = self.made_by(&id)?;
            // Records that are from rows of another topic are another collection's.
            let own = made.remove(&collection.id).unwrap_or(0);
            let by_queue = own > 0 && made.is_empty();
            if by_queue || made.is_empty() && self.are_in_folder(collection, &id, all)? {
                proven.push(id);
            }
        }
        match &proven[..] {
            [one] => Ok(Some(one.clone())),
            [] if !self.was_filled(collection)? => Ok(None),
            _ => Err(doubtful(collection, Scope::Metadata)),
        }
    }

    /// By collection, how many records of a segment are from rows of its queue that are still there. Errs when SQLite does.
    fn made_by(&self, segment: &str) -> Result<BTreeMap<String, u64>, Failure> {
        let mut records = BTreeMap::new();
        let sql = "SELECT embedding_id, seq_id FROM embeddings WHERE segment_id = ?1";
        let mut statement = self.transaction.prepare(sql)?;
        let mut rows = statement.query([segment])?;
        while let Some(row) = rows.next()? {
            if let (Ok(id), Some(at)) = (row.get_ref(0)?.as_bytes(), position(row.get_ref(1)?)) {
                records.insert(at, id.to_vec());
            }
        }
        let mut out = BTreeMap::new();
        let mut statement =
            self.transaction.prepare("SELECT seq_id, id, topic FROM embeddings_queue")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let made = records.get(&row.get::<_, i64>(0)?).map(Vec::as_slice);
            if made.is_some() && made == row.get_ref(1)?.as_bytes().ok() {
                let topic = row.get_ref(2)?.as_str().unwrap_or_default();
                let collection = topic.rsplit('/').next().unwrap_or_default();
                *out.entry(collection.to_owned()).or_default() += 1;
            }
        }
        Ok(out)
    }

    /// Whether nearly all vectors in the folder of a collection are of records of this segment, and those of no other folder are.
    /// Errs when SQLite or the disk does.
    fn are_in_folder(
        &self,
        collection: &Collection,
        segment: &str,
        all: &[Collection],
    ) -> Result<bool, Failure> {
        let ids = self.ids_of(segment)?;
        let fits = |one: &Collection| -> Result<bool, Failure> {
            let (folder, _) = index::ids_of(self.dir, one)?;
            Ok(nearly_all(&folder, &ids))
        };
        let mut others = false;
        for other in all.iter().filter(|other| other.id != collection.id) {
            others |= fits(other)?;
        }
        Ok(!others && fits(collection)?)
    }

    /// Hashes of the ids of the records of a segment. Errs when SQLite does.
    fn ids_of(&self, segment: &str) -> Result<HashSet<u64>, Failure> {
        let mut out = HashSet::new();
        let sql = "SELECT embedding_id FROM embeddings WHERE segment_id = ?1";
        let mut statement = self.transaction.prepare(sql)?;
        let mut rows = statement.query([segment])?;
        while let Some(row) = rows.next()? {
            out.extend(row.get_ref(0)?.as_bytes().ok().map(pickle::hash));
        }
        Ok(out)
    }

    fn was_filled(&self, collection: &Collection) -> Result<bool, Failure> {
        let sql =
            "SELECT EXISTS(SELECT 1 FROM embeddings_queue WHERE substr(topic, -length(?1)) = ?1)";
        let queued: bool = self.transaction.query_row(sql, [&collection.id], |row| row.get(0))?;
        Ok(queued || collection.dimension.is_some())
    }

    /// The segment that has the vectors of a collection; `None` when there is none, and all of them are in the queue.
    /// Errs when SQLite or the disk does.
    fn vectors_of(&self, collection: &Collection) -> Result<Option<String>, Failure> {
        let known: HashSet<String> =
            self.list("SELECT id FROM segments", &[])?.into_iter().collect();
        let folders: Vec<(String, PathBuf)> = index::folders(self.dir)?
            .into_iter()
            .map(|(id, path)| (uuid_text(id), path))
            .filter(|(id, _)| !known.contains(id))
            .collect();
        let records = self.ids_of(&collection.records_segment)?;
        let mut fitting = Vec::new();
        for (id, path) in folders {
            let ids = index::ids_in(&path, collection)?;
            if nearly_all(&ids, &records) {
                fitting.push(id);
            }
        }
        let placed = "SELECT segment_id FROM max_seq_id WHERE segment_id NOT IN (SELECT id FROM segments) \
                      AND segment_id NOT IN (SELECT segment_id FROM embeddings)";
        let placed = self.list(placed, &[])?;
        if fitting.len() > 1 {
            // A collection that is deleted takes its positions with it.
            fitting.retain(|id| placed.contains(id));
        }
        match &fitting[..] {
            [one] => return Ok(Some(one.clone())),
            [_, _, ..] => return Err(doubtful(collection, Scope::Vector)),
            [] => {}
        }
        let mut tail = Tail::read(self.transaction, &collection.id, (i64::MIN, i64::MIN))?;
        let mut queued = HashSet::new();
        for (id, operations) in tail.rest() {
            if let Where::Queue(_) = vector_of(false, &operations, i64::MIN) {
                queued.insert(pickle::hash(&id));
            }
        }
        if records.is_subset(&queued) {
            return Ok(None);
        }
        Err(doubtful(collection, Scope::Vector))
    }

    fn list(&self, sql: &str, values: &[&str]) -> Result<Vec<String>, Failure> {
        let mut statement = self.transaction.prepare(sql)?;
        let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
            Ok(row.get_ref(0)?.as_str().unwrap_or_default().to_owned())
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// Whether nearly all ids of a folder are of these records. Those of the end of the queue may be deleted by now.
fn nearly_all(folder: &HashSet<u64>, records: &HashSet<u64>) -> bool {
    let common = folder.intersection(records).count();
    common > 0 && common * 10 >= folder.len() * 9
}

fn doubtful(collection: &Collection, scope: Scope) -> Failure {
    Failure::Damaged(format!(
        "Nothing proves which segment has the {} of collection {}. Restore a backup.",
        scope.holds(),
        collection.name
    ))
}

/// An id for a row that has none: the same for the same words.
fn fresh(words: &str) -> String {
    let half = |more: &str| u128::from(pickle::hash(format!("{words} {more}").as_bytes()));
    let bits = half("a") << 64 | half("b");
    // Version 4, as Chroma's own are.
    let version = bits & !(0xf << 76) | 4 << 76;
    let text = uuid_text(version & !(0b11 << 62) | 0b10 << 62);
    debug_assert!(parse_uuid(text.as_bytes()).is_some(), "{text}");
    text
}

#[cfg(test)]
mod tests;
