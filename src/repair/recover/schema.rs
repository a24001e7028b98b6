//! What the schema of every release is: made in memory by Chroma's own migrations, and compared with that of a database.

use std::collections::{BTreeMap, BTreeSet};

use chroma_format::schema::{self, Dir, shipped};
use rusqlite::Connection;

use super::{Failure, fulltext};

/// How many migrations of each directory, in the order of [`Dir::ALL`].
pub(super) type Counts = [u32; 3];

/// Columns of each table, with their declared types in capitals; the full text left out.
pub(super) type Tables = BTreeMap<String, BTreeSet<(String, String)>>;

/// An empty database, as these migrations make it. Errs when SQLite does.
pub(super) fn model(counts: Counts) -> Result<Connection, Failure> {
    let model = Connection::open_in_memory()?;
    model.execute_batch("PRAGMA foreign_keys=OFF")?;
    model.execute_batch(MIGRATIONS)?;
    for one in shipped().filter(|one| is_within(one.dir, one.version, counts)) {
        model.execute_batch(one.sql)?;
    }
    // From 1.0 on; it is made again at each start.
    if counts[1] >= 5 {
        model.execute_batch(ACQUIRE_WRITE)?;
    }
    Ok(model)
}

/// Whether a migration is one of so many.
pub(super) fn is_within(dir: Dir, version: i64, counts: Counts) -> bool {
    let of = Dir::ALL.iter().position(|one| *one == dir).map_or(0, |at| counts[at]);
    version <= i64::from(of)
}

/// The tables of a database, with names and types of their columns. Errs when SQLite does.
pub(super) fn tables(connection: &Connection) -> rusqlite::Result<Tables> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut columns = connection.prepare("SELECT name, upper(type) FROM pragma_table_info(?1)")?;
    let mut out = Tables::new();
    for name in names {
        let name = name?;
        if name != FULL_TEXT_BEFORE && !fulltext::is_part(&name) {
            let found = columns.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?;
            out.insert(name, found.collect::<rusqlite::Result<_>>()?);
        }
    }
    Ok(out)
}

/// Which migrations made the tables of a database, of which some may be gone. `recorded` are the highest ones that it says itself, 0
/// where it says nothing. `None` when no release has such tables, or several do. Errs when SQLite does.
pub(super) fn made_by(found: &Tables, recorded: Counts) -> Result<Option<Counts>, Failure> {
    let all = tables(&model(schema::newest_known().1)?)?;
    let mut best: Option<(usize, Counts)> = None;
    let mut doubtful = false;
    for counts in schema::known_counts() {
        if counts.iter().zip(recorded).any(|(has, recorded)| *has < recorded) {
            continue;
        }
        let model = tables(&model(counts)?)?;
        let fits = found.iter().all(|(name, columns)| match model.get(name) {
            Some(wanted) => wanted == columns,
            // One of a later release, or nothing of Chroma's.
            None => !all.contains_key(name),
        });
        if fits && counts == recorded {
            return Ok(Some(counts));
        }
        let missing = model.keys().filter(|name| !found.contains_key(*name)).count();
        match best.as_mut() {
            _ if !fits => {}
            Some((least, _)) if missing > *least => {}
            Some((least, _)) if missing == *least => doubtful = true,
            _ => (best, doubtful) = (Some((missing, counts)), false),
        }
    }
    Ok(best.map(|(_, counts)| counts).filter(|_| !doubtful))
}

/// The highest migrations that are recorded, and whether rows of directories or with numbers are there that are not known.
/// Errs when SQLite does.
pub(super) fn recorded(connection: &Connection) -> Result<(Counts, bool), Failure> {
    if !tables(connection)?.contains_key("migrations") {
        return Ok(([0; 3], false));
    }
    let mut counts = [0; 3];
    let mut unknown = false;
    let known = schema::newest_known().1;
    let mut statement = connection.prepare("SELECT dir, version FROM migrations")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let dir = row.get_ref(0)?.as_str().unwrap_or_default();
        let at = Dir::ALL.iter().position(|one| one.as_str() == dir);
        let version = row.get_ref(1)?.as_i64().ok().and_then(|number| u32::try_from(number).ok());
        match at.zip(version) {
            Some((at, version)) if version <= known[at] => counts[at] = version.max(counts[at]),
            _ => unknown = true,
        }
    }
    Ok((counts, unknown))
}

/// As Chroma makes the tables that no migration makes.
pub(super) const MIGRATIONS: &str = "CREATE TABLE migrations (
                dir TEXT NOT NULL,
                version INTEGER NOT NULL,
                filename TEXT NOT NULL,
                sql TEXT NOT NULL,
                hash TEXT NOT NULL,
                PRIMARY KEY (dir, version)
            )";
const ACQUIRE_WRITE: &str = "CREATE TABLE acquire_write (
                id INTEGER PRIMARY KEY,
                lock_status INTEGER NOT NULL
            )";
/// The full text of the first releases.
const FULL_TEXT_BEFORE: &str = "embedding_fulltext";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::recover::tests::Stand;

    #[test]
    fn the_migrations_make_what_every_release_has() {
        for (name, want) in [
            ("chroma-0.4.24", [4, 3, 1]),
            ("chroma-0.5.5", [7, 3, 1]),
            ("chroma-0.6.3", [9, 4, 2]),
            ("chroma-1.1.1", [9, 5, 2]),
            ("chroma-1.5.9", [10, 6, 2]),
        ] {
            let connection = Connection::open(Stand::new(name).database()).unwrap();
            let mut found = tables(&connection).unwrap();
            assert_eq!(recorded(&connection).unwrap(), (want, false), "{name}");
            assert_eq!(found, tables(&model(want).unwrap()).unwrap(), "{name}");
            assert_eq!(made_by(&found, [0; 3]).unwrap(), Some(want), "{name}");
            found.remove("migrations");
            found.remove("max_seq_id");
            found.insert("theirs".to_owned(), BTreeSet::new());
            assert_eq!(made_by(&found, want).unwrap(), Some(want), "{name}");
            found.get_mut("collections").unwrap().pop_first();
            assert_eq!(made_by(&found, want).unwrap(), None, "{name}: half a migration");
        }
        let few = ["embeddings", "tenants"];
        let newest = tables(&model([10, 6, 2]).unwrap()).unwrap();
        let few = newest.into_iter().filter(|(name, _)| few.contains(&&**name)).collect();
        assert_eq!(made_by(&few, [9, 5, 2]).unwrap(), Some([9, 5, 2]), "as recorded");
    }
}
