//! Rows of the queue that Chroma cannot apply: each is mended by what the store proves of it, or becomes an update that changes nothing.
//! What it said and nothing proves goes to the report.

mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
};

use rusqlite::{Connection, OptionalExtension, params, types::Value as Cell};
use serde_json::Value;

use self::verdict::{Case, Lost, Mended, Vector, Verdict};
use super::{Effect, Failure, LostRecord, LostRow, Part, index, rows};
use crate::{
    format::{pickle, queue::Row, schema::Family},
    human,
    repair::dump::{
        catalogue::{self, Asker, Collection},
        record::Record,
        tail::{Kind, Operation, Tail},
    },
    store::{DATABASE_FILE, position},
};

/// A row as it stands there.
struct Faulty {
    seq_id: i64,
    collection: usize,
    id: Vec<u8>,
    operation: Option<i64>,
    vector: Vector,
    /// Whether Chroma reads how its vector is written.
    encoded: bool,
    metadata: Option<String>,
    metadata_reads: bool,
    fault: &'static str,
}

/// Mends the queue of the copy `dir`. Errs without a change.
pub(super) fn mend(dir: &Path) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let family = rows::known_family(&connection, "queue is")?;
    let transaction = connection.transaction()?;
    let collections = catalogue::read(&transaction)?;
    let mut of: BTreeMap<usize, Vec<Faulty>> = BTreeMap::new();
    for row in faulty(&transaction, &collections, family)? {
        of.entry(row.collection).or_default().push(row);
    }
    let mut effect = Effect::default();
    let mut words = Vec::new();
    for (at, faulty) in of {
        let topic = Topic::read(dir, &transaction, &collections[at], family)?;
        topic.mend(faulty, &mut effect, &mut words)?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    effect.what = describe(&words);
    Ok(effect)
}

fn describe(words: &[String]) -> String {
    let mut what = format!("{} rows of the queue were mended: ", human::count(words.len() as f64));
    what.push_str(&words[..words.len().min(NAMED_MAX)].join("; "));
    if words.len() > NAMED_MAX {
        what.push_str("; …");
    }
    what
}

/// The rows that Chroma cannot apply, in their order. Errs when SQLite does.
fn faulty(
    connection: &Connection,
    collections: &[Collection],
    family: Family,
) -> Result<Vec<Faulty>, Failure> {
    let places: BTreeMap<&str, usize> =
        collections.iter().enumerate().map(|(at, one)| (one.id.as_str(), at)).collect();
    let sql = "SELECT count(DISTINCT encoding) = 1 AND max(encoding) = 'FLOAT32' FROM embeddings_queue \
               WHERE vector IS NOT NULL AND encoding IN ('FLOAT32', 'INT32')";
    let all_floats = connection.query_row(sql, [], |row| row.get::<_, Option<bool>>(0))?;
    let mut out = Vec::new();
    let mut statement = connection.prepare(
        "SELECT seq_id, topic, id, operation, CASE WHEN vector IS NOT NULL THEN octet_length(vector) END, encoding, metadata \
         FROM embeddings_queue ORDER BY seq_id",
    )?;
    let mut blob = connection
        .prepare("SELECT CAST(vector AS BLOB) FROM embeddings_queue WHERE seq_id = ?1")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let topic = row.get_ref(1)?.as_str().unwrap_or_default();
        let Some(at) = topic.rsplit('/').next().and_then(|id| places.get(id)).copied() else {
            continue;
        };
        let text = |at| -> rusqlite::Result<Option<String>> {
            let bytes = row.get_ref(at)?.as_bytes_or_null().ok().flatten();
            Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
        };
        let (encoding, metadata) = (text(5)?, text(6)?);
        let seen = Row {
            operation: row.get_ref(3)?.as_i64().ok(),
            vector_bytes: row.get::<_, Option<i64>>(4)?.and_then(|n| u64::try_from(n).ok()),
            encoding: encoding.as_deref(),
            metadata: metadata.as_deref(),
        };
        let wanted = collections[at].dimension.filter(|wanted| *wanted > 0);
        let fits =
            seen.dimension().is_some_and(|n| n > 0 && wanted.is_none_or(|wanted| wanted == n));
        let odd = seen.vector_bytes.is_some() && !fits && wanted.is_some();
        let reason = seen.fault(family);
        let Some(fault) = reason.or(odd.then_some("its vector has another number of dimensions"))
        else {
            continue;
        };
        let seq_id = row.get(0)?;
        let encoded = encoding.as_deref().is_some_and(|name| ["FLOAT32", "INT32"].contains(&name));
        let vector = match seen.vector_bytes {
            None => Vector::None,
            Some(_) if !fits => Vector::Bad,
            Some(_) if encoded => Vector::Good,
            // All others are numbers of one kind, and it has as many of them as it must.
            Some(_) if all_floats == Some(true) && wanted.is_some() => {
                let bytes: Vec<u8> = blob.query_row([seq_id], |row| row.get(0))?;
                let numbers = numbers(&bytes);
                if numbers.iter().all(|n| n.is_finite()) { Vector::Good } else { Vector::Bad }
            }
            Some(_) => Vector::Bad,
        };
        let alone = Row { operation: Some(1), vector_bytes: None, encoding: None, ..seen };
        out.push(Faulty {
            seq_id,
            collection: at,
            id: row.get_ref(2)?.as_bytes_or_null().ok().flatten().unwrap_or_default().to_vec(),
            operation: seen.operation,
            vector,
            encoded,
            metadata_reads: alone.fault(family).is_none(),
            metadata,
            fault,
        });
    }
    Ok(out)
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// What the store knows of the records of one collection.
struct Topic<'a> {
    connection: &'a Connection,
    collection: &'a Collection,
    operations: BTreeMap<Vec<u8>, Vec<Operation>>,
    /// Hashes of the ids that the folder has.
    indexed: HashSet<u64>,
    /// How far the queue is in the index, as far as that is known.
    position: i64,
}

impl<'a> Topic<'a> {
    fn read(
        dir: &Path,
        connection: &'a Connection,
        collection: &'a Collection,
        family: Family,
    ) -> Result<Self, Failure> {
        let (indexed, of_folder) = index::ids_of(dir, collection)?;
        let position = match family {
            Family::Oldest => of_folder,
            _ => collection.vectors_position,
        };
        let mut tail = Tail::read(connection, &collection.id, (i64::MIN, i64::MIN))?;
        Ok(Self {
            connection,
            collection,
            operations: tail.rest().collect(),
            indexed,
            position: position.unwrap_or(i64::MIN),
        })
    }

    /// Mends the rows, the newest first: what a later one is decides about an earlier one. Errs when SQLite does.
    fn mend(
        mut self,
        faulty: Vec<Faulty>,
        effect: &mut Effect,
        words: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let all: BTreeSet<i64> = faulty.iter().map(|row| row.seq_id).collect();
        for operations in self.operations.values_mut() {
            operations.retain(|one| !all.contains(&one.seq_id));
        }
        for row in faulty.into_iter().rev() {
            let record = self.record(&row.id)?;
            let none = Vec::new();
            let case = Case {
                seq_id: row.seq_id,
                kind: row.operation.and_then(Kind::of),
                vector: row.vector,
                metadata_reads: row.metadata_reads,
                in_tables: row.seq_id <= self.collection.records_position,
                in_index: row.seq_id <= self.position,
                record: record.map(|(_, written_by)| written_by),
                indexed: self.indexed.contains(&pickle::hash(&row.id)),
                others: self.operations.get(&row.id).unwrap_or(&none),
            };
            let verdict = case.judge();
            let id = String::from_utf8_lossy(&row.id).into_owned();
            if let Some(lost) = verdict.lost {
                self.tell(&row, &id, lost, record.map(|(rowid, _)| rowid), effect)?;
            }
            words.push(format!("row {} ({id}): {}", row.seq_id, row.fault));
            self.write(&row, verdict)?;
            let has_vector = match verdict.vector {
                Mended::Kept => row.vector == Vector::Good,
                Mended::Of(_) => true,
                Mended::Dropped => false,
            };
            let now = Operation { seq_id: row.seq_id, kind: verdict.kind, vector: has_vector };
            let operations = self.operations.entry(row.id).or_default();
            let place = operations.partition_point(|one| one.seq_id < now.seq_id);
            operations.insert(place, now);
        }
        Ok(())
    }

    /// Number of a record in the tables, and the row of the queue that they have it from. Errs when SQLite does.
    fn record(&self, id: &[u8]) -> Result<Option<(i64, i64)>, Failure> {
        let sql = "SELECT id, seq_id FROM embeddings WHERE segment_id = ?1 AND embedding_id = CAST(?2 AS TEXT)";
        let mut statement = self.connection.prepare(sql)?;
        let found = statement.query_row(params![self.collection.records_segment, id], |row| {
            // One whose number cannot be read is from no row that is known.
            Ok((row.get(0)?, position(row.get_ref(1)?).unwrap_or(i64::MAX)))
        });
        Ok(found.optional()?)
    }

    fn write(&self, row: &Faulty, verdict: Verdict) -> Result<(), Failure> {
        let run = |sql: &str| self.connection.execute(sql, [row.seq_id]);
        match verdict.vector {
            Mended::Kept if row.vector == Vector::Good && !row.encoded => {
                run("UPDATE embeddings_queue SET encoding = 'FLOAT32' WHERE seq_id = ?1")?;
            }
            Mended::Kept => {}
            Mended::Dropped => {
                run(
                    "UPDATE embeddings_queue SET vector = NULL, encoding = NULL WHERE seq_id = ?1",
                )?;
            }
            Mended::Of(later) => {
                let sql = "UPDATE embeddings_queue SET (vector, encoding) = \
                           (SELECT vector, encoding FROM embeddings_queue WHERE seq_id = ?2) WHERE seq_id = ?1";
                self.connection.execute(sql, [row.seq_id, later])?;
            }
        }
        if !verdict.keeps_metadata {
            run("UPDATE embeddings_queue SET metadata = NULL WHERE seq_id = ?1")?;
        }
        let sql = "UPDATE embeddings_queue SET operation = ?2 WHERE seq_id = ?1";
        self.connection.execute(sql, [row.seq_id, verdict.kind.number()])?;
        Ok(())
    }

    /// Names what is lost, with all that the row says. Errs when SQLite does.
    fn tell(
        &self,
        row: &Faulty,
        id: &str,
        lost: Lost,
        rowid: Option<i64>,
        effect: &mut Effect,
    ) -> Result<(), Failure> {
        let name = &self.collection.name;
        let (part, what) = match lost {
            Lost::Operation => (
                Part::Operation,
                format!(
                    "what row {} of the queue did to record {id} is not known any more",
                    row.seq_id
                ),
            ),
            Lost::Record => (
                Part::Record,
                format!("record {id} is lost, which row {} of the queue made", row.seq_id),
            ),
            Lost::Vector => (
                Part::Vector,
                format!(
                    "the vector of record {id} is lost: row {} of the queue has none that can be read",
                    row.seq_id
                ),
            ),
            Lost::NewestVector => (
                Part::NewestVector,
                format!(
                    "the newest vector of record {id} is lost: row {} of the queue has none that can be read, and the record keeps an older one",
                    row.seq_id
                ),
            ),
            Lost::Metadata => (
                Part::Metadata,
                format!(
                    "document and metadata that row {} of the queue gave record {id} are lost",
                    row.seq_id
                ),
            ),
        };
        effect.losses.push(format!("collection {name}: {what}"));
        let record = match rowid {
            Some(rowid) => Asker::new(self.connection)?.record(rowid)?,
            None => Record::default(),
        };
        let (mut document, mut metadata) = (record.document, record.metadata);
        if rowid.is_none()
            && let Some(Value::Object(map)) =
                row.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok())
        {
            let (documents, others) =
                map.into_iter().partition::<Vec<_>, _>(|(key, _)| key == "chroma:document");
            document =
                documents.into_iter().find_map(|(_, value)| value.as_str().map(str::to_owned));
            metadata = others.into_iter().collect();
        }
        let collection = name.clone();
        effect.lost_records.push(LostRecord {
            collection: collection.clone(),
            id: id.to_owned(),
            part,
            document,
            metadata,
        });
        effect.lost_rows.push(LostRow {
            table: "embeddings_queue".to_owned(),
            row: row.seq_id,
            collection: Some(collection),
            id: Some(id.to_owned()),
            what: self.content(row)?,
        });
        Ok(())
    }

    /// All that a row says, in words. Errs when SQLite does.
    fn content(&self, row: &Faulty) -> Result<String, Failure> {
        let sql = "SELECT created_at, operation, encoding, metadata, vector FROM embeddings_queue WHERE seq_id = ?1";
        let cells = self.connection.query_row(sql, [row.seq_id], |row| {
            (0..5).map(|at| row.get::<_, Cell>(at)).collect::<Result<Vec<_>, _>>()
        })?;
        let names = ["created_at", "operation", "encoding", "metadata", "vector"];
        let mut parts = Vec::new();
        for (name, cell) in names.iter().zip(cells) {
            let value = match cell {
                Cell::Null => continue,
                Cell::Integer(number) => number.to_string(),
                Cell::Real(number) => number.to_string(),
                Cell::Text(text) => text,
                Cell::Blob(bytes) if bytes.len().is_multiple_of(4) => {
                    serde_json::to_string(&numbers(&bytes)).unwrap_or_default()
                }
                Cell::Blob(bytes) => {
                    let digits: Vec<String> =
                        bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    format!("0x{}", digits.concat())
                }
            };
            parts.push(format!("{name} {value}"));
        }
        Ok(parts.join(", "))
    }
}

/// Rows that are named in the words about the work; those that lost something are all in the report.
const NAMED_MAX: usize = 3;

#[cfg(test)]
mod tests;
