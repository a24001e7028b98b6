//! Rows of `collections` that are gone. The segments of such a collection are there, and with them its records and vectors: it gets a
//! row again, under a name that is made of its id. What its index proves of its settings is put back too.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Effect, Failure, Gone, rows,
    salvage::complete::dimensions,
    settings::{self, space},
};
use crate::{
    format::{hnsw::Metric, schema::Family, uuid::parse_uuid},
    repair::{
        dump::catalogue::{self, Collection},
        records::has,
        steps::Steps,
    },
    store::DATABASE_FILE,
};

/// Puts back what is gone: rows when these are, and settings of the collections that `gone` names. Errs without a change.
pub(super) fn put_back(dir: &Path, gone: &Gone, steps: &Steps) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let family = rows::known_family(&connection, "collections are")?;
    let transaction = connection.transaction()?;
    let mut effect = Effect::default();
    let mut words = Vec::new();
    let mut without_settings = gone.settings.clone();
    if gone.rows {
        for id in orphans(&transaction)? {
            let name = insert(&transaction, &id)?;
            let lost = format!("the name of the collection {id}: it is called {name} now");
            effect.losses.push(lost.clone());
            effect.remade.push((id.clone(), lost));
            words.push(format!("the collection {id} has a row again, and the name {name}"));
            without_settings.insert(id);
        }
        dimensions(&transaction, dir)?;
    }
    for collection in catalogue::read(&transaction)? {
        if !without_settings.contains(&collection.id) {
            continue;
        }
        let name = &collection.name;
        let lost = match put_settings(dir, &transaction, &collection, family, steps)? {
            Source::Nothing => {
                "Chroma takes the default distance and parameters, or those of its metadata"
            }
            Source::Metadata => "all but its distance, which its metadata say",
            Source::Index => {
                words.push(format!("the distance of collection {name} was taken from its index"));
                "all but its distance, which its index proves"
            }
        };
        let lost = format!("the settings of the collection {name}: {lost}");
        effect.losses.push(lost.clone());
        effect.remade.push((collection.id.clone(), lost));
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    effect.what = words.join("; ");
    if effect.what.is_empty() {
        "no collection is missing".clone_into(&mut effect.what);
    }
    Ok(effect)
}

/// Ids of collections that have no row, and of which a segment has records or the queue has rows. Errs when SQLite does.
fn orphans(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT DISTINCT s.collection, EXISTS (SELECT 1 FROM embeddings AS e WHERE e.segment_id = s.id) FROM segments AS s \
         WHERE typeof(s.collection) = 'text' AND NOT EXISTS (SELECT 1 FROM collections AS c WHERE c.id = s.collection)";
    let mut statement = connection.prepare(sql)?;
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: Vec<(String, bool)> = found.collect::<rusqlite::Result<_>>()?;
    let mut queued = BTreeSet::new();
    if found.iter().any(|(_, records)| !records) {
        let mut statement = connection.prepare("SELECT DISTINCT topic FROM embeddings_queue")?;
        let mut topics = statement.query([])?;
        while let Some(topic) = topics.next()? {
            let topic = topic.get_ref(0)?.as_str().unwrap_or_default();
            queued.extend(topic.rsplit('/').next().map(str::to_owned));
        }
    }
    let kept = found.into_iter().filter(|(id, records)| *records || queued.contains(id));
    Ok(kept.map(|(id, _)| id).filter(|id| parse_uuid(id.as_bytes()).is_some()).collect())
}

/// Makes the row of a collection. Says its name. Errs when there is no database that it could be in, and when SQLite does.
fn insert(connection: &Connection, id: &str) -> Result<String, Failure> {
    let of = "SELECT id FROM databases ORDER BY name = 'default_database' AND tenant_id = 'default_tenant' DESC, rowid LIMIT 1";
    let database: Option<String> = connection.query_row(of, [], |row| row.get(0)).optional()?;
    let Some(database) = database else {
        return Err(Failure::Damaged(
            "There is no database that the collections could be in. Restore a backup.".to_owned(),
        ));
    };
    let taken = "SELECT 1 FROM collections WHERE name = ?1 AND database_id = ?2";
    let short = format!("{UNNAMED}{}", id.get(..8).unwrap_or(id));
    let is_taken =
        connection.query_row(taken, [&short, &database], |_| Ok(())).optional()?.is_some();
    let name = if is_taken { format!("{UNNAMED}{id}") } else { short };
    if has(connection, "collections", "topic")? {
        let sql = "INSERT INTO collections(id, name, database_id, topic) VALUES(?1, ?2, ?3, 'persistent://default/default/' || ?1)";
        connection.execute(sql, params![id, name, database])?;
    } else {
        let sql = "INSERT INTO collections(id, name, database_id) VALUES(?1, ?2, ?3)";
        connection.execute(sql, params![id, name, database])?;
    }
    Ok(name)
}

/// Where the distance of a collection is from.
enum Source {
    Nothing,
    Metadata,
    Index,
}

/// Puts the settings that the index of a collection proves where its Chroma looks for them. Errs when SQLite or the disk does.
fn put_settings(
    dir: &Path,
    connection: &Connection,
    collection: &Collection,
    family: Family,
    steps: &Steps,
) -> Result<Source, Failure> {
    if collection.metadata.contains_key("hnsw:space") {
        return Ok(Source::Metadata);
    }
    if family == Family::Rust {
        let Some(text) = settings::of_index(dir, collection, steps)? else {
            return Ok(Source::Nothing);
        };
        let sql = "UPDATE collections SET config_json_str = ?2 WHERE id = ?1";
        connection.execute(sql, (&collection.id, text))?;
        return Ok(Source::Index);
    }
    match space::proven(dir, collection, steps)? {
        None => Ok(Source::Nothing),
        // What Chroma takes by itself.
        Some(Metric::L2) => Ok(Source::Index),
        Some(metric) => {
            let sql = "INSERT INTO collection_metadata(collection_id, key, str_value) VALUES(?1, 'hnsw:space', ?2)";
            connection.execute(sql, (&collection.id, space::name(metric)))?;
            Ok(Source::Index)
        }
    }
}

/// What the name of a collection begins with whose own name is lost.
pub(super) const UNNAMED: &str = "recovered-";
