//! Records that no table has any more, and that the index of their collection still names: id and vector are there, and they are
//! put back with these. An index does not know what was deleted since its last flush; the queue does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::Path,
};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Failure, Found, complete::first_position};
use crate::{
    format::{
        parts::INDEX_FILES,
        pickle::{self, Limits},
    },
    human,
    repair::{
        dump::{Pieces, tail::Kind},
        recover::{Effect, LostRecord, Part},
    },
    store::database::open_if_there,
};

/// Puts back what the indexes beside the database in `store` name, and says so in `effect`. Where rows of the queue are lost as well,
/// such a record may have been deleted: it is named, and not put back. Errs when SQLite does, or a folder cannot be read.
pub(super) fn put_back(
    connection: &Connection,
    store: &Path,
    effect: &mut Effect,
    all: &[Found<'_>],
) -> Result<(), Failure> {
    let found = |name: &str| all.iter().find(|found| found.table.name == name);
    let lacks = |found: &Found<'_>| !found.is_whole() && !found.indexes_hold;
    if !found("embeddings").is_some_and(lacks) {
        return Ok(());
    }
    let certain = found("embeddings_queue").is_some_and(Found::is_whole);
    let sql = "SELECT c.id, c.name, v.id, m.id FROM main.collections AS c \
         JOIN main.segments AS v ON v.collection = c.id AND v.scope = 'VECTOR' \
         JOIN main.segments AS m ON m.collection = c.id AND m.scope = 'METADATA' ORDER BY c.id";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?;
    let rows: Vec<(String, String, String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    for (collection, name, vectors, records) in rows {
        let folder = store.join(&vectors);
        let named = named(connection, &folder, &records)?;
        let mut lost = Vec::new();
        for id in named {
            if is_deleted(connection, &collection, &id)? {
                continue;
            }
            if certain {
                insert(connection, &records, &id)?;
            }
            let part = if certain { Part::AllMetadata } else { Part::Record };
            let (collection, metadata) = (name.clone(), BTreeMap::new());
            lost.push(LostRecord { collection, id, part, document: None, metadata });
        }
        if lost.is_empty() {
            continue;
        }
        let count = human::count(lost.len() as f64);
        let (table, words) = if certain {
            let words = format!(
                "collection {name}: document and metadata of {count} records, of which only the index has id and vector: they were put back with these"
            );
            ("embedding_metadata", words)
        } else {
            let words = format!(
                "collection {name}: {count} records that only the index names; whether they were deleted is not known, because rows of the queue are lost too: they were not put back"
            );
            ("embeddings", words)
        };
        effect.lose(table, words);
        effect.lost_records.extend(lost);
    }
    Ok(())
}

/// The ids that the index in `folder` has, and the segment of records has not, in their order. A folder that cannot be read to its
/// end names none, and neither does one without any record of the segment: it may be another collection's. Errs when SQLite or the disk does.
fn named(connection: &Connection, folder: &Path, records: &str) -> Result<Vec<String>, Failure> {
    let open = || Ok::<_, io::Error>(open_if_there(&folder.join(INDEX_FILES[4]))?.map(Pieces));
    let Some(source) = open()? else { return Ok(Vec::new()) };
    let mut hashes = HashSet::new();
    let mut take = |hash, _| {
        hashes.insert(hash);
    };
    if pickle::read(source, Limits::default(), &mut take).is_err() {
        return Ok(Vec::new());
    }
    let sql = "SELECT embedding_id FROM main.embeddings WHERE segment_id = ?1";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([records])?;
    let mut is_own = false;
    while let Some(row) = rows.next()? {
        is_own |= hashes.remove(&pickle::hash(row.get_ref(0)?.as_bytes().unwrap_or_default()));
    }
    let Some(source) = open()?.filter(|_| is_own && !hashes.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut names = HashMap::new();
    let mut take = |hash, text: &[u8]| {
        if hashes.contains(&hash) {
            let name = || String::from_utf8_lossy(text).into_owned();
            names.entry(hash).or_insert_with(name);
        }
    };
    if pickle::read_naming(source, Limits::default(), &mut take).is_err() {
        return Ok(Vec::new());
    }
    let mut names: Vec<String> = names.into_values().collect();
    names.sort_unstable();
    Ok(names)
}

/// Whether the queue still has a deletion as the last that was done to a record. Errs when SQLite does.
fn is_deleted(connection: &Connection, collection: &str, id: &str) -> Result<bool, Failure> {
    let sql = "SELECT operation FROM main.embeddings_queue WHERE id = ?2 AND topic LIKE '%' || ?1 ORDER BY seq_id DESC LIMIT 1";
    let mut statement = connection.prepare(sql)?;
    let last: Option<i64> = statement.query_row([collection, id], |row| row.get(0)).optional()?;
    Ok(last.and_then(Kind::of) == Some(Kind::Delete))
}

/// Under a number that nothing has: metadata that is left of lost records must not become this one's. Errs when SQLite does.
fn insert(connection: &Connection, segment: &str, id: &str) -> Result<(), Failure> {
    let sql = "INSERT OR IGNORE INTO main.embeddings(id, segment_id, embedding_id, seq_id, created_at) \
         SELECT 1 + max(coalesce((SELECT max(id) FROM main.embeddings), 0), coalesce((SELECT max(id) FROM main.embedding_metadata), 0)), \
         ?1, ?2, ?3, '1970-01-01 00:00:00'";
    let mut statement = connection.prepare(sql)?;
    statement.execute(params![segment, id, first_position(connection)?])?;
    Ok(())
}
