//! Collections that a backup has and the store has not. Chroma deletes the rows of a collection that somebody deletes, and damage can take the
//! same rows: nothing tells the two apart. So they are named, and come back when that is asked for.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, params, types::Value};
use serde::Serialize;

use super::{
    super::{Failure, collections::UNNAMED, positions, rows},
    Backup,
};
use crate::{
    clock::Timestamp,
    format::manifest::{Collection, Manifest},
    repair::{backup, dump::catalogue, records::has},
    store::DATABASE_FILE,
};

/// A collection that only a backup has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GoneCollection {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its tenant.
    pub tenant: String,
    /// Its database.
    pub database: String,
    /// How many records it had.
    pub records: u64,
    /// The backup that has it.
    pub backup: PathBuf,
    /// Of what moment that is.
    pub moment: Option<String>,
    /// Whether it is there again.
    pub is_back: bool,
    /// Why not, although it was asked for.
    pub why_not: Option<String>,
}

impl GoneCollection {
    /// One that is not back. `place` is its tenant and its database.
    fn new(
        (id, name): (&str, &str),
        (tenant, database): (&str, &str),
        records: u64,
        backup: &Path,
        moment: Option<Timestamp>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            tenant: tenant.to_owned(),
            database: database.to_owned(),
            records,
            backup: backup.to_owned(),
            moment: moment.map(|moment| moment.to_string()),
            is_back: false,
            why_not: None,
        }
    }
}

/// What the first of the backups has that has anything of which `ours` have nothing.
pub(in super::super) fn named(
    backups: &[PathBuf],
    store: &Path,
    ours: &[Collection],
) -> Vec<GoneCollection> {
    let mut each = backups.iter().map(|backup| in_manifest(backup, store, ours));
    each.find(|gone| !gone.is_empty()).unwrap_or_default()
}

/// What the manifest of a proven backup of `store` has, and `ours` have not. None when it has no manifest, or is of another store.
fn in_manifest(backup: &Path, store: &Path, ours: &[Collection]) -> Vec<GoneCollection> {
    let Some(manifest) = backup::manifest(backup).filter(Manifest::is_proven) else {
        return Vec::new();
    };
    let there: BTreeSet<&str> = ours.iter().map(|one| &*one.id).collect();
    let is_shared = manifest.collections.iter().any(|one| there.contains(&*one.id));
    if !is_shared && Path::new(&manifest.store) != store {
        return Vec::new();
    }
    let gone = manifest.collections.iter().filter(|one| !there.contains(&*one.id));
    let of = |one: &Collection| {
        let (of, place) = ((&*one.id, &*one.name), (&*one.tenant, &*one.database));
        GoneCollection::new(of, place, one.records, backup, Some(manifest.moment))
    };
    gone.map(of).collect()
}

/// What the backup at `path` has, and `ours`, the collections of `connection`, have not, and of each why it cannot come back, if so. None
/// when nothing says that the two are of one store. Errs when SQLite does.
pub(super) fn among<'b>(
    connection: &Connection,
    ours: &[catalogue::Collection],
    backup: &'b Backup,
    moment: Option<Timestamp>,
    path: &Path,
) -> Result<Vec<(GoneCollection, &'b catalogue::Collection)>, Failure> {
    let known: BTreeSet<&str> = ours.iter().map(|one| &*one.id).collect();
    if !backup.collections.iter().any(|one| known.contains(&*one.id)) {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for one in backup.collections.iter().filter(|one| !known.contains(&*one.id)) {
        let (of, place) = ((&*one.id, &*one.name), (&*one.tenant, &*one.database));
        let mut gone = GoneCollection::new(of, place, one.records, path, moment);
        gone.why_not = refused(connection, &backup.connection, &one.id)?;
        out.push((gone, one));
    }
    Ok(out)
}

/// Why a collection cannot come back beside what there is. Errs when SQLite does.
fn refused(to: &Connection, from: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT c.name, d.id, d.tenant_id, d.name FROM collections AS c JOIN databases AS d ON d.id = c.database_id WHERE c.id = ?1";
    let found: Option<[String; 4]> = from
        .query_row(sql, [id], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))
        .optional()?;
    let Some([name, database, tenant, database_name]) = found else {
        return Ok(Some("the backup does not say in which database it was".to_owned()));
    };
    let sql = "SELECT id FROM collections WHERE name = ?1 AND database_id = ?2";
    let taken: Option<String> =
        to.query_row(sql, [&name, &database], |row| row.get(0)).optional()?;
    if let Some(taken) = taken {
        return Ok(Some(format!("the collection {taken} has its name now")));
    }
    let sql = "SELECT 1 FROM databases WHERE tenant_id = ?1 AND name = ?2 AND id <> ?3";
    let is_other =
        to.query_row(sql, [&tenant, &database_name, &database], |_| Ok(())).optional()?.is_some();
    Ok(is_other.then(|| format!("the database {database_name} is another one now")))
}

/// Copies the rows that make a collection, without its records. Chroma before 1.0 leaves those of a deleted collection: they stay. These are as they were at row `newest` of the queue.
/// Errs when SQLite does.
pub(super) fn insert(
    to: &Connection,
    from: &Connection,
    id: &str,
    newest: i64,
) -> Result<(), Failure> {
    // Chroma takes the rows of a deleted collection out of the queue, and counts on from the newest one that is left: what lies ahead of
    // that would not see the next writes.
    let sql = "SELECT max(seq_id) FROM embeddings_queue";
    let last: Option<i64> = to.query_row(sql, [], |row| row.get(0))?;
    let position = match last {
        Some(last) => last.min(newest),
        None => positions::newest(to)?.min(newest),
    };
    let of = "id IN (SELECT database_id FROM collections WHERE id = ?1)";
    let tenant = "id IN (SELECT tenant_id FROM databases WHERE id IN (SELECT database_id FROM collections WHERE id = ?1))";
    copy(to, from, "tenants", tenant, id)?;
    copy(to, from, "databases", of, id)?;
    copy(to, from, "collections", "id = ?1", id)?;
    copy(to, from, "collection_metadata", "collection_id = ?1", id)?;
    copy(to, from, "segments", "collection = ?1", id)?;
    let of = "segment_id IN (SELECT id FROM segments WHERE collection = ?1)";
    copy(to, from, "segment_metadata", of, id)?;
    let value = positions::value(to, position)?;
    to.execute(&format!("DELETE FROM max_seq_id WHERE {of}"), [id])?;
    let sql = "INSERT INTO max_seq_id(segment_id, seq_id) SELECT id, ?2 FROM segments WHERE collection = ?1";
    to.execute(sql, params![id, value])?;
    Ok(())
}

/// A collection whose row was put together, and that has the name and the settings of the backup now.
pub(super) struct Named {
    pub(super) id: String,
    pub(super) before: String,
    pub(super) now: String,
}

/// Gives the collections `remade` the settings that the backup has, and the name to those without one. Errs without a change.
pub(super) fn name<'a>(
    dir: &Path,
    backup: &Backup,
    remade: impl Iterator<Item = &'a String>,
) -> Result<Vec<Named>, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let (to, from) = (connection.transaction()?, &backup.connection);
    let mut out = Vec::new();
    for id in remade {
        let sql = "SELECT name FROM collections WHERE id = ?1";
        let of = |connection: &Connection| -> rusqlite::Result<Option<String>> {
            connection.query_row(sql, [id], |row| row.get(0)).optional()
        };
        let (Some(before), Some(was)) = (of(&to)?, of(from)?) else { continue };
        let taken = "SELECT 1 FROM collections AS o JOIN collections AS c ON c.database_id = o.database_id WHERE c.id = ?1 AND o.id <> ?1 AND o.name = ?2";
        let is_taken = to.query_row(taken, [id, &was], |_| Ok(())).optional()?.is_some();
        // A name that the store still has may be newer.
        let now = if before.starts_with(UNNAMED) && !is_taken { was } else { before.clone() };
        to.execute("UPDATE collections SET name = ?2 WHERE id = ?1", [id, &now])?;
        for column in ["config_json_str", "schema_str"] {
            if has(&to, "collections", column)? && has(from, "collections", column)? {
                let sql = format!("SELECT {column} FROM collections WHERE id = ?1");
                let value: Value = from.query_row(&sql, [id], |row| row.get(0))?;
                let sql = format!("UPDATE collections SET {column} = ?2 WHERE id = ?1");
                to.execute(&sql, params![id, value])?;
            }
        }
        to.execute("DELETE FROM collection_metadata WHERE collection_id = ?1", [id])?;
        copy(&to, from, "collection_metadata", "collection_id = ?1", id)?;
        out.push(Named { id: id.clone(), before, now });
    }
    to.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(out)
}

/// Copies the rows of a table for which `filter` is true of `key`, where both have it, column by column; those that are there stay.
/// Errs when SQLite does.
fn copy(
    to: &Connection,
    from: &Connection,
    table: &str,
    filter: &str,
    key: &str,
) -> rusqlite::Result<()> {
    let columns = |connection: &Connection| -> rusqlite::Result<BTreeSet<String>> {
        let sql = "SELECT name FROM pragma_table_info(?1)";
        let mut statement = connection.prepare(sql)?;
        statement.query_map([table], |row| row.get(0))?.collect()
    };
    let shared: Vec<String> = columns(from)?.intersection(&columns(to)?).cloned().collect();
    if shared.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = shared.iter().map(|name| format!("\"{name}\"")).collect();
    let places: Vec<String> = (1..=shared.len()).map(|at| format!("?{at}")).collect();
    let (list, places) = (list.join(", "), places.join(", "));
    let mut read = from.prepare(&format!("SELECT {list} FROM {table} WHERE {filter}"))?;
    let sql = format!("INSERT OR IGNORE INTO {table}({list}) VALUES({places})");
    let mut write = to.prepare(&sql)?;
    let mut rows = read.query([key])?;
    while let Some(row) = rows.next()? {
        let values: Vec<Value> =
            (0..shared.len()).map(|at| row.get(at)).collect::<rusqlite::Result<_>>()?;
        write.execute(rusqlite::params_from_iter(values))?;
    }
    Ok(())
}
