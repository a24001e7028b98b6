use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::*;

const PAGE: usize = 4096;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Rows of each table by their numbers, the full text apart; in each row, the columns that users get something of.
type Rows = BTreeMap<String, BTreeMap<i64, String>>;

/// Columns that only Chroma itself uses, and that are made when they are lost.
const MADE: [(&str, &str); 5] = [
    ("embeddings", "seq_id"),
    ("embeddings", "created_at"),
    ("max_seq_id", "seq_id"),
    ("collections", "config_json_str"),
    ("collections", "schema_str"),
];

fn rows(connection: &Connection) -> Rows {
    let list = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let tables = list("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0");
    let kept = tables.into_iter().filter(|name| !fulltext::is_part(name));
    kept.map(|table| {
        let columns = list(&format!("SELECT name FROM pragma_table_info('{table}')"));
        let kept = columns.iter().filter(|column| !MADE.contains(&(&table, column)));
        let row =
            kept.map(|column| format!("quote(\"{column}\")")).collect::<Vec<_>>().join("||','||");
        let sql = format!("SELECT rowid, {row} FROM \"{table}\" NOT INDEXED");
        let mut statement = connection.prepare(&sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let rows = rows.map(Result::unwrap).collect();
        (table, rows)
    })
    .collect()
}

/// What each page of a database is for, and how many rows it has: `(table, kind, cells)`.
fn purposes(connection: &Connection) -> BTreeMap<u32, (String, String, i64)> {
    let sql = "SELECT pageno, name, pagetype, ncell FROM dbstat WHERE aggregate = FALSE";
    let mut statement = connection.prepare(sql).unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))));
    rows.unwrap().map(Result::unwrap).collect()
}

/// A database of these bytes.
fn copied(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("chroma.sqlite3");
    fs::write(&path, bytes).unwrap();
    (scratch, path)
}

/// A database that SQLite calls whole, and whose full text agrees with its documents.
fn open(scratch: &tempfile::TempDir, what: &str) -> Connection {
    let connection = Connection::open(scratch.path().join("chroma.sqlite3")).unwrap();
    let said: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok", "{what}");
    connection
}

#[test]
fn a_healthy_database_is_written_anew_as_it_was() {
    for name in [
        "chroma-0.4.24",
        "chroma-0.5.5",
        "chroma-0.6.3",
        "chroma-1.1.1",
        "chroma-1.5.9",
        "chroma-1.5.9-deleted",
        "chroma-1.5.9-empty",
    ] {
        let healthy = fs::read(fixture(name).join("chroma.sqlite3")).unwrap();
        let (scratch, path) = copied(&healthy);
        let effect = salvage(&path, &Steps::default()).unwrap();
        assert!(effect.losses.is_empty() && effect.lost_rows.is_empty(), "{name}: {effect:?}");
        assert!(effect.what.ends_with("with the full text as it was"), "{name}: {effect:?}");
        let (kept, _) = copied(&healthy);
        let (made, truth) = (open(&scratch, name), open(&kept, name));
        let all = |connection: &Connection, sql: &str| -> BTreeSet<String> {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        assert!(rows(&made) == rows(&truth), "{name}");
        for sql in [
            "SELECT type||name||tbl_name||coalesce(sql,'') FROM sqlite_schema",
            "SELECT id||quote(seq_id)||created_at FROM embeddings",
            "SELECT segment_id||quote(seq_id) FROM max_seq_id",
        ] {
            assert_eq!(all(&made, sql), all(&truth, sql), "{name}: {sql}");
        }
    }
}

/// Bytes that repeat never, and the same each time.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(next).collect()
}

/// How many rows on a leaf of a table may be lost, when nothing else is damaged.
fn most_lost(table: &str, healthy: &Connection, cells: i64) -> i64 {
    let indexed =
        "SELECT count(*) FROM sqlite_schema WHERE name = 'embedding_metadata_string_value'";
    let indexed: i64 = healthy.query_row(indexed, [], |row| row.get(0)).unwrap();
    match table {
        "tenants" | "databases" | "embeddings" | "collections" | "max_seq_id" => 0,
        // Of five values of a record, one is true or false. Without indexes of values, the document is left.
        "embedding_metadata" | "embedding_metadata_array" if indexed > 0 => cells / 4 + 1,
        "embedding_metadata" => cells * 9 / 10,
        _ => cells,
    }
}

#[test]
fn whichever_page_is_damaged_everything_else_is_there_and_what_is_lost_is_told() {
    let mut wrong = Vec::new();
    for name in
        ["chroma-0.4.24", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9", "chroma-1.5.9-deleted"]
    {
        let healthy = fs::read(fixture(name).join("chroma.sqlite3")).unwrap();
        let (original, _) = copied(&healthy);
        let original = open(&original, name);
        let (truth, purposes) = (rows(&original), purposes(&original));
        for page in 1..=u32::try_from(healthy.len() / PAGE).unwrap() {
            for (kind, bytes) in [("zeroes", vec![0; PAGE]), ("noise", noise(page, PAGE))] {
                let used = purposes.get(&page).cloned().unwrap_or_default();
                let what = format!("{name}, page {page} ({used:?}), {kind}");
                let mut damaged = healthy.clone();
                let at = (page as usize - 1) * PAGE;
                damaged[at..at + PAGE].copy_from_slice(&bytes);
                if let Err(reported) = judge(&damaged, &truth, &used, &original) {
                    wrong.push(format!("{what}: {reported}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Tables with rows of the same form.
const ALIKE: [&[&str]; 2] = [
    &["segment_metadata", "collection_metadata", "databases"],
    &["embedding_metadata", "embedding_metadata_array"],
];

#[test]
fn pages_that_stand_in_each_others_place_are_no_rows_of_another_table() {
    let mut wrong = Vec::new();
    for name in ["chroma-0.4.24", "chroma-1.5.9"] {
        let healthy = fs::read(fixture(name).join("chroma.sqlite3")).unwrap();
        let (original, _) = copied(&healthy);
        let original = open(&original, name);
        let (truth, purposes) = (rows(&original), purposes(&original));
        let of_table = |(table, kind, cells): &(String, String, i64)| {
            kind == "leaf" && *cells > 0 && truth.contains_key(table)
        };
        let leaves = purposes.iter().filter(|(page, of)| **page > 1 && of_table(of));
        let leaves: Vec<(usize, &str)> =
            leaves.map(|(page, of)| (*page as usize, &*of.0)).collect();
        for (nth, (one, table)) in leaves.iter().enumerate() {
            // One of each other table, unless rows of the two cannot be told apart.
            let mut seen = BTreeSet::from([table]);
            seen.extend(
                ALIKE.iter().filter(|alike| alike.contains(table)).flat_map(|alike| *alike),
            );
            for (two, other) in leaves[nth + 1..].iter().filter(|(_, other)| seen.insert(other)) {
                let mut damaged = healthy.clone();
                let (low, high) = damaged.split_at_mut((two - 1) * PAGE);
                low[(one - 1) * PAGE..one * PAGE].swap_with_slice(&mut high[..PAGE]);
                let (scratch, path) = copied(&damaged);
                let effect = salvage(&path, &Steps::default()).unwrap();
                let found = rows(&open(&scratch, name));
                let same = |(table, is): (&String, &BTreeMap<i64, String>)| {
                    found[table]
                        .iter()
                        .all(|(number, row)| is.get(number) == Some(row) || row.contains("'lost'"))
                };
                let whole = truth.iter().all(same);
                let missing = truth.iter().any(|(table, is)| found[table].len() < is.len());
                if !whole || missing && effect.losses.is_empty() {
                    wrong.push(format!("{name}, pages {one} and {two} of {table} and {other}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Salvages a database of which one page, that is `used` so, is damaged. Says what is not as it should be.
fn judge(
    damaged: &[u8],
    truth: &Rows,
    used: &(String, String, i64),
    original: &Connection,
) -> Result<(), String> {
    let (table, kind, cells) = used;
    let (scratch, path) = copied(damaged);
    let effect = salvage(&path, &Steps::default()).map_err(|failure| failure.to_string())?;
    let found = rows(&open(&scratch, table));
    let mut lost = 0;
    for (name, is) in truth {
        let got = found.get(name).ok_or_else(|| format!("no {name}"))?;
        let (holds_the_number, got): (Vec<_>, Vec<_>) =
            got.iter().partition(|(_, row)| name == "embeddings_queue" && row.contains("'lost'"));
        assert!(holds_the_number.len() <= 1);
        for (number, row) in &got {
            if is.get(number) != Some(*row) {
                return Err(format!("{name} {number} is {row}, was {:?}", is.get(number)));
            }
        }
        let missing = is.len() - got.len();
        let most = match (name == table, &**kind) {
            (true, "overflow") => 1,
            (true, "leaf") => most_lost(name, original, *cells),
            // What deleted records left: that their records are not lost is not certain any more.
            _ if table == "sqlite_schema" && name.starts_with("embedding_metadata") => {
                let sql = format!(
                    "SELECT count(*) FROM {name} WHERE id NOT IN (SELECT id FROM embeddings)"
                );
                original.query_row(&sql, [], |row| row.get(0)).unwrap()
            }
            _ => 0,
        };
        if i64::try_from(missing).unwrap() > most {
            return Err(format!("{missing} rows of {name} are lost: {effect:#?}"));
        }
        // No index names these.
        if !["embeddings_queue", "embeddings_queue_config", "acquire_write"].contains(&&**name) {
            lost += missing;
        }
        let reported = name != "embeddings_queue" || missing == 0 || !effect.losses.is_empty();
        if !reported && applied_before(original) < *is.keys().max().unwrap() {
            return Err(format!("{missing} rows of the queue are lost: {effect:#?}"));
        }
    }
    if effect.lost_rows.len() != lost {
        return Err(format!("{lost} rows are lost: {effect:#?}"));
    }
    let settings = table == "collections" && kind == "leaf" && *cells > 0 && has_settings(original);
    if lost > 0 && effect.losses.is_empty() || settings && effect.gone.settings.is_empty() {
        return Err(format!("no loss is told: {effect:#?}"));
    }
    Ok(())
}

/// Whether collections have settings of their own: from 0.5.4 on.
fn has_settings(original: &Connection) -> bool {
    let sql =
        "SELECT count(*) FROM pragma_table_info('collections') WHERE name = 'config_json_str'";
    original.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() > 0
}

/// Up to where all segments have applied the queue.
fn applied_before(original: &Connection) -> i64 {
    lost::applied(original).unwrap()
}
