//! Settings that Chroma cannot read: of the queue, and of collections. They are put right from what says the same once more: schema
//! and configuration of a collection, its metadata, and its index, which proves neighbours and distance. What nothing says any more
//! is told.

pub(super) mod space;

use std::{collections::BTreeMap, path::Path};

use rusqlite::{Transaction, types::ValueRef};
use serde_json::json;

use super::{Effect, Failure, index, rows};
use crate::{
    format::{
        config::{judge_config, judge_queue_config, judge_schema},
        hnsw::{Header, Metric},
        parts::INDEX_FILES,
        schema::Family,
        uuid::parse_uuid,
    },
    repair::{
        dump::catalogue::{self, Collection},
        records::has,
        steps::Steps,
    },
    store::DATABASE_FILE,
};

/// Puts them right. Errs without a change when nothing proves what belongs there.
pub(super) fn put_right(dir: &Path, steps: &Steps) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let transaction = connection.transaction()?;
    let family = rows::family(&transaction)?;
    let mut effect = Effect::default();
    let mut words = Vec::new();
    words.extend(of_queue(&transaction, family)?);
    for collection in catalogue::read(&transaction)? {
        let name = &collection.name;
        if parse_uuid(collection.id.as_bytes()).is_none() {
            return Err(Failure::Damaged(format!(
                "The id of collection {name} is no UUID, and nothing says what it was. Restore a backup."
            )));
        }
        let found = Texts::read(&transaction, &collection, family)?;
        let choice = found.choose(family);
        let text = match choice {
            Choice::Right => continue,
            Choice::FromMetadata | Choice::FromConfiguration => None,
            Choice::FromSchema => Some("{}".to_owned()),
            Choice::FromIndex => {
                let Some(text) = of_index(dir, &collection, steps)? else {
                    return Err(Failure::Damaged(format!(
                        "The settings of collection {name} are lost, and its index does not prove which distance it was made with. Restore a backup."
                    )));
                };
                Some(text)
            }
        };
        if choice != Choice::FromConfiguration {
            let sql = "UPDATE collections SET config_json_str = ?2 WHERE id = ?1";
            transaction.execute(sql, (&collection.id, text))?;
        }
        if found.schema == Text::Bad {
            let sql = "UPDATE collections SET schema_str = NULL WHERE id = ?1";
            transaction.execute(sql, [&collection.id])?;
        }
        words.push(format!(
            "the settings of collection {name} were written anew {}",
            choice.source()
        ));
        let lost = match choice {
            Choice::FromIndex => true,
            Choice::FromMetadata => family == Family::Rust,
            _ => false,
        };
        if lost {
            effect.losses.push(format!(
                "collection {name}: the name of its embedding function, and settings of its searches and flushes, are Chroma's own again"
            ));
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    effect.what = words.join("; ");
    Ok(effect)
}

/// The settings of a collection that its index proves, as Chroma since 1.0 writes them; `None` when it does not prove them.
/// Errs when the files cannot be read, or the steps were stopped.
pub(super) fn of_index(
    dir: &Path,
    collection: &Collection,
    steps: &Steps,
) -> Result<Option<String>, Failure> {
    let Some(metric) = space::proven(dir, collection, steps)? else { return Ok(None) };
    let header = index::folder_of(dir, collection)?
        .and_then(|folder| std::fs::read(folder.join(INDEX_FILES[0])).ok());
    let parsed = header.as_deref().and_then(|bytes| Header::parse(bytes).ok());
    Ok(parsed
        .zip(header)
        .map(|(parsed, bytes)| configuration(metric, parsed.neighbours, ef_construction(&bytes))))
}

/// What stands in one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// Nothing, or nothing that says anything.
    None,
    Good,
    Bad,
}

/// What is known of the settings of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Texts {
    schema: Text,
    configuration: Text,
    /// Whether its metadata say the distance, as Chroma below 1.0 keeps it.
    metadata: bool,
}

/// Where the settings are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Right,
    FromSchema,
    FromConfiguration,
    FromMetadata,
    FromIndex,
}

impl Choice {
    const fn source(self) -> &'static str {
        match self {
            Self::Right => "",
            Self::FromSchema => "from its schema",
            Self::FromConfiguration => "from its configuration",
            Self::FromMetadata => "from its metadata",
            Self::FromIndex => "from what its index proves",
        }
    }
}

impl Texts {
    fn read(
        transaction: &Transaction<'_>,
        collection: &Collection,
        family: Family,
    ) -> Result<Self, Failure> {
        let read = |column: &str, judge: &dyn Fn(&str) -> bool| -> Result<Text, Failure> {
            if !has(transaction, "collections", column)? {
                return Ok(Text::None);
            }
            let sql = format!("SELECT {column} FROM collections WHERE id = ?1");
            Ok(transaction.query_row(&sql, [&collection.id], |row| {
                Ok(match row.get_ref(0)? {
                    ValueRef::Null => Text::None,
                    ValueRef::Text(text) => match std::str::from_utf8(text) {
                        Ok(text) if judge(text) => match text.trim() {
                            "" | "{}" | "null" => Text::None,
                            _ => Text::Good,
                        },
                        _ => Text::Bad,
                    },
                    _ => Text::Bad,
                })
            })?)
        };
        Ok(Self {
            schema: read("schema_str", &|text| judge_schema(text).is_ok())?,
            configuration: read("config_json_str", &|text| judge_config(text, family).is_ok())?,
            metadata: collection.metadata.contains_key("hnsw:space"),
        })
    }

    fn choose(self, family: Family) -> Choice {
        if self.schema != Text::Bad && self.configuration != Text::Bad {
            return Choice::Right;
        }
        match (self.schema, self.configuration) {
            // Chroma below 1.0 takes all its settings from the metadata, and the distance l2 when they say none.
            _ if family != Family::Rust => Choice::FromMetadata,
            (Text::Good, _) => Choice::FromSchema,
            (_, Text::Good) => Choice::FromConfiguration,
            _ if self.metadata => Choice::FromMetadata,
            _ => Choice::FromIndex,
        }
    }
}

/// As Chroma 1.0 to 1.2 write it, and every later one reads it.
fn configuration(metric: Metric, neighbours: u64, ef_construction: u64) -> String {
    let space = space::name(metric);
    json!({"vector_index": {"hnsw": {
        "space": space,
        "ef_construction": ef_construction,
        "ef_search": 100,
        "max_neighbors": neighbours,
        "resize_factor": 1.2,
        "sync_threshold": 1000,
    }}})
    .to_string()
}

/// How thoroughly an index is built, which its header ends with.
fn ef_construction(header: &[u8]) -> u64 {
    let stated =
        header.get(EF_AT..).and_then(|rest| rest.first_chunk()).map(|n| u64::from_le_bytes(*n));
    stated.filter(|stated| (1..=10_000).contains(stated)).unwrap_or(100)
}

const EF_AT: usize = 92;

/// Puts the settings of the queue right. Says what was done. Errs when SQLite does.
fn of_queue(transaction: &Transaction<'_>, family: Family) -> Result<Option<String>, Failure> {
    if !has(transaction, "embeddings_queue_config", "config_json_str")? {
        return Ok(None);
    }
    let sql = "SELECT id, config_json_str FROM embeddings_queue_config";
    let mut statement = transaction.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut bad = Vec::new();
    while let Some(row) = rows.next()? {
        let text = row.get_ref(1)?.as_str().ok();
        if text.is_none_or(|text| judge_queue_config(text).is_err()) {
            bad.push(row.get::<_, i64>(0)?);
        }
    }
    if bad.is_empty() {
        return Ok(None);
    }
    let purges = purges(transaction)?;
    for id in bad {
        let sql = "UPDATE embeddings_queue_config SET config_json_str = ?2 WHERE id = ?1";
        transaction.execute(sql, (id, queue_config(purges, family)))?;
    }
    let is =
        if purges { "on, as what is left in it shows" } else { "off, as what it still has shows" };
    Ok(Some(format!("the settings of the queue were written anew: purging is {is}")))
}

/// As Chroma writes it.
pub(super) fn queue_config(purges: bool, family: Family) -> String {
    if family != Family::Rust {
        return format!(
            "{{\"automatically_purge\": {purges}, \"_type\": \"EmbeddingsQueueConfigurationInternal\"}}"
        );
    }
    format!(
        "{{\"automatically_purge\":{purges},\"_type\":\"EmbeddingsQueueConfigurationInternal\"}}"
    )
}

/// Whether the queue is purged by itself, by whether rows are left in it that every segment has applied. Errs when SQLite does.
pub(super) fn purges(transaction: &Transaction<'_>) -> Result<bool, Failure> {
    let collections = catalogue::read(transaction)?;
    let positions: BTreeMap<&str, i64> = collections
        .iter()
        .filter_map(|one| Some((one.id.as_str(), one.vectors_position?.min(one.records_position))))
        .collect();
    let mut statement =
        transaction.prepare("SELECT topic, min(seq_id) FROM embeddings_queue GROUP BY topic")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let topic = row.get_ref(0)?.as_str().unwrap_or_default();
        let position = topic.rsplit('/').next().and_then(|id| positions.get(id));
        // Purging leaves the last row that all have applied.
        if position.is_some_and(|position| row.get::<_, i64>(1).is_ok_and(|at| at < *position)) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
