//! Tables that are gone: each is made again as its migration makes it, and filled with what other tables still say. What that is not
//! is told. Without the tables that name records and collections nothing is made: they would be there and belong to nobody.

pub(super) mod metadata;

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    Effect, Failure, LostRecord, Part, index, lost, rows,
    schema::{self, Counts},
    settings,
};
use crate::{
    format::{pickle, schema::Family, uuid::parse_uuid},
    repair::{
        dump::catalogue::{self, Asker},
        records::has,
        steps::Steps,
    },
    store::{DATABASE_FILE, position},
};

/// Makes the tables that are gone. Errs without a change when they cannot be, or when it is not certain which release made them.
pub(super) fn put_back(dir: &Path, steps: &Steps) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let (recorded, unknown) = schema::recorded(&connection)?;
    let found = schema::tables(&connection)?;
    let counts = schema::made_by(&found, recorded)?.filter(|_| !unknown);
    let Some(counts) = counts.filter(|counts| *counts == recorded) else {
        return Err(Failure::Damaged(UNCERTAIN.to_owned()));
    };
    let transaction = connection.transaction()?;
    let mut effect = Effect::default();
    let mut made = Vec::new();
    let missing = missing(&found, counts)?;
    let lacks = |name: &str| missing.iter().any(|table| table == name);
    for table in &missing {
        // What segments belong to is enough to make collections of, with names of their own.
        if table == "collections" && !lacks("segments") {
            continue;
        }
        if let Some((_, what)) = NAMES.iter().find(|(name, _)| name == table) {
            return Err(Failure::Damaged(format!(
                "The table {table} is gone, and with it {what}. Restore a backup."
            )));
        }
    }
    create(&transaction, counts, &missing)?;
    for table in &missing {
        effect.gone.rows |= table == "collections";
        let filled = fill(dir, &transaction, table, &mut effect)?;
        made.push(match filled {
            Some(with) => format!("the table {table} was made anew with {with}"),
            None => format!("the table {table} was made anew"),
        });
    }
    transaction.commit()?;
    if missing.iter().any(|table| table == "embeddings_queue") {
        made.push(without_queue(dir, &connection, &mut effect, steps)?);
    }
    connection.close().map_err(|(_, error)| error)?;
    effect.what = made.join("; ");
    Ok(effect)
}

/// What the queue alone had: vectors that no index has taken in yet are named, and what it deleted goes out of the indexes.
/// Errs when SQLite or the disk does.
fn without_queue(
    dir: &Path,
    connection: &Connection,
    effect: &mut Effect,
    steps: &Steps,
) -> Result<String, Failure> {
    let mut segments = BTreeSet::new();
    for collection in catalogue::read(connection)?.iter().filter(|one| one.records > 0) {
        let segment = collection.vectors_segment.as_ref();
        segments.extend(segment.and_then(|id| parse_uuid(id.as_bytes())));
        let (ids, of_folder) = index::ids_of(dir, collection)?;
        let applied = collection.vectors_position.or(of_folder).unwrap_or(0);
        let sql =
            "SELECT id, embedding_id, seq_id FROM embeddings WHERE segment_id = ?1 ORDER BY id";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([&collection.records_segment])?;
        let mut asker = Asker::new(connection)?;
        while let Some(row) = rows.next()? {
            let id = row.get_ref(1)?.as_bytes().unwrap_or_default();
            let newer = position(row.get_ref(2)?).is_none_or(|at| at > applied);
            // Whether the operation brought a vector is not known any more.
            if newer && ids.contains(&pickle::hash(id)) {
                let record = asker.record(row.get(0)?)?;
                effect.lost_records.push(LostRecord {
                    collection: collection.name.clone(),
                    id: String::from_utf8_lossy(id).into_owned(),
                    part: Part::NewestVector,
                    document: record.document,
                    metadata: record.metadata,
                });
            }
        }
    }
    let more = index::rebuild(dir, &segments, &BTreeSet::new(), None, steps)?;
    effect.losses.extend(more.losses);
    effect.of_tables.extend(more.of_tables);
    lost::add_once(&mut effect.lost_records, more.lost_records);
    Ok(more.what)
}

fn missing(found: &schema::Tables, counts: Counts) -> Result<Vec<String>, Failure> {
    let all = schema::tables(&schema::model(counts)?)?;
    Ok(all.into_keys().filter(|name| !found.contains_key(name)).collect())
}

/// Makes tables with their indexes. Errs when SQLite does.
fn create(
    transaction: &Transaction<'_>,
    counts: Counts,
    missing: &[String],
) -> Result<(), Failure> {
    let model = schema::model(counts)?;
    let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 AND sql IS NOT NULL ORDER BY type = 'index'";
    let mut statement = model.prepare(sql)?;
    for table in missing {
        let texts = statement.query_map([table], |row| row.get::<_, String>(0))?;
        for text in texts {
            transaction.execute_batch(&text?)?;
        }
    }
    Ok(())
}

/// Fills a new table. Says with what. Errs when names are gone that stand nowhere else, and when SQLite does.
fn fill(
    dir: &Path,
    transaction: &Transaction<'_>,
    table: &str,
    effect: &mut Effect,
) -> Result<Option<String>, Failure> {
    let family = rows::family(transaction)?;
    let reported = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    Ok(match table {
        "embeddings_queue" => {
            keep_the_last_number(transaction)?;
            effect.lose("embeddings_queue", QUEUE_LOST.to_owned());
            None
        }
        "embeddings_queue_config" => {
            let purges = settings::purges(transaction)?;
            let sql = "INSERT INTO embeddings_queue_config(id, config_json_str) VALUES(1, ?1)";
            transaction.execute(sql, [settings::queue_config(purges, family)])?;
            None
        }
        "max_seq_id" => reported(positions(dir, transaction, family)?, "positions"),
        "segment_metadata" => {
            let columns = value_columns(transaction, "segment_metadata")?;
            let sql = format!(
                "INSERT INTO segment_metadata(segment_id, {columns}) SELECT s.id, {columns} FROM segments AS s \
                 JOIN collection_metadata AS c ON c.collection_id = s.collection WHERE s.scope = 'VECTOR' AND c.key LIKE 'hnsw:%'"
            );
            reported(transaction.execute(&sql, [])?, "settings of indexes")
        }
        "collection_metadata" => {
            let columns = value_columns(transaction, "collection_metadata")?;
            let sql = format!(
                "INSERT OR IGNORE INTO collection_metadata(collection_id, {columns}) SELECT s.collection, {columns} FROM segments AS s \
                 JOIN segment_metadata AS m ON m.segment_id = s.id WHERE s.scope = 'VECTOR' AND m.key LIKE 'hnsw:%'"
            );
            effect.losses.push(
                "metadata that the collections themselves had are lost; their records are not touched".to_owned(),
            );
            reported(transaction.execute(&sql, [])?, "settings of indexes")
        }
        "tenants" => {
            let sql = "INSERT OR IGNORE INTO tenants(id) SELECT DISTINCT tenant_id FROM databases";
            let sql =
                if has(transaction, "databases", "tenant_id")? { sql } else { return Ok(None) };
            reported(transaction.execute(sql, [])?, "tenants")
        }
        "databases" => {
            // The default one is put back by its own id. The name of another one is in no file.
            let sql = "SELECT count(*) FROM collections WHERE database_id <> '00000000-0000-0000-0000-000000000000'";
            let others: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
            if others > 0 {
                return Err(Failure::Damaged(format!(
                    "The table databases is gone, and with it the names of the databases of {others} collections. Restore a backup."
                )));
            }
            None
        }
        "embedding_metadata" => Some(metadata::put_back(transaction, family, effect)?),
        "embedding_metadata_array" => {
            let lists = metadata::put_back_lists(transaction, effect)?;
            reported(lists, "values")
        }
        _ => None,
    })
}

fn value_columns(transaction: &Transaction<'_>, table: &str) -> Result<String, Failure> {
    let truths = if has(transaction, table, "bool_value")? { ", bool_value" } else { "" };
    Ok(format!("key, str_value, int_value, float_value{truths}"))
}

/// A queue that begins again gives numbers that every segment has passed over: a row of no collection keeps the newest one.
/// Errs when SQLite does.
fn keep_the_last_number(transaction: &Transaction<'_>) -> Result<(), Failure> {
    let mut newest = 0;
    for sql in ["SELECT seq_id FROM max_seq_id", "SELECT seq_id FROM embeddings"] {
        let mut statement = transaction.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            newest = newest.max(position(row.get_ref(0)?).unwrap_or(0));
        }
    }
    let sql = "INSERT INTO embeddings_queue(seq_id, operation, topic, id) \
               SELECT ?1, 3, 'persistent://default/default/00000000-0000-0000-0000-000000000000', 'lost' WHERE ?1 > 0";
    transaction.execute(sql, [newest])?;
    Ok(())
}

/// Positions that are not ahead of what was applied: Chroma then applies the rest once more, which changes nothing. From 1.0 on none is
/// needed for that. Errs when SQLite or the disk does.
fn positions(dir: &Path, transaction: &Transaction<'_>, family: Family) -> Result<usize, Failure> {
    if !matches!(family, Family::Oldest | Family::Python) {
        return Ok(0);
    }
    let mut written = 0;
    let mut put = |segment: &str, at: i64| -> Result<(), Failure> {
        let bytes = at.unsigned_abs().to_be_bytes().to_vec();
        let sql = "INSERT INTO max_seq_id(segment_id, seq_id) VALUES(?1, ?2)";
        written += transaction.execute(sql, params![segment, bytes])?;
        Ok(())
    };
    for collection in catalogue::read(transaction)? {
        let mut newest = None;
        let mut statement =
            transaction.prepare("SELECT seq_id FROM embeddings WHERE segment_id = ?1")?;
        let mut rows = statement.query([&collection.records_segment])?;
        while let Some(row) = rows.next()? {
            newest = newest.max(position(row.get_ref(0)?));
        }
        if let Some(newest) = newest {
            put(&collection.records_segment, newest)?;
        }
        // Before 0.5.7 the folder itself knows it.
        let (ids, _) = index::ids_of(dir, &collection)?;
        if let (Family::Python, Some(segment), false) =
            (family, &collection.vectors_segment, ids.is_empty())
        {
            // Purging leaves the last row that both have applied.
            let sql =
                "SELECT min(seq_id) FROM embeddings_queue WHERE substr(topic, -length(?1)) = ?1";
            let oldest = transaction
                .query_row(sql, [&collection.id], |row| row.get::<_, Option<i64>>(0))
                .optional()?;
            let at = oldest.flatten().or(newest).unwrap_or(0);
            put(segment, at)?;
        }
    }
    Ok(written)
}

const UNCERTAIN: &str = "It is not certain which tables this store had: its migrations do not say so. A migration may have been cut off; then the finding has the command that takes it back. Otherwise restore a backup.";
const QUEUE_LOST: &str = "the queue is lost: what was written last and is in no index yet has no vector any more, and what was written since the tables took it in is gone";
/// Tables without which nobody knows whose the rest is.
const NAMES: [(&str, &str); 2] =
    [("collections", "which collections there were"), ("embeddings", "the ids of the records")];

#[cfg(test)]
mod tests;
