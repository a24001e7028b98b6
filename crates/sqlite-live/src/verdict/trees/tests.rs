use std::path::Path;

use rusqlite::params;

use super::{super::random::Random, *};

/// Tables of the forms that Chroma and FTS5 have, with rows that were deleted and changed, long values and free pages.
fn build(path: &Path, page_bytes: u32, rows: i64, random: &mut Random) {
    let connection = Connection::open(path).unwrap();
    let run = |sql: &str| connection.execute_batch(sql).unwrap();
    run(&format!("PRAGMA page_size={page_bytes}; PRAGMA synchronous=OFF;"));
    run("CREATE TABLE metadata(id INTEGER, key TEXT NOT NULL, string_value TEXT, int_value INTEGER, float_value REAL,
             PRIMARY KEY(id, key));
         CREATE INDEX int_value ON metadata(key, int_value) WHERE int_value IS NOT NULL;
         CREATE INDEX float_value ON metadata(key, float_value) WHERE float_value IS NOT NULL;
         CREATE INDEX string_value ON metadata(key, string_value) WHERE string_value IS NOT NULL;
         CREATE TABLE embeddings(id INTEGER PRIMARY KEY, embedding_id TEXT NOT NULL, seq_id BLOB NOT NULL,
             created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, UNIQUE(embedding_id, seq_id));
         CREATE INDEX loose ON embeddings(seq_id);
         CREATE TABLE data(id INTEGER PRIMARY KEY, block BLOB);
         CREATE TABLE idx(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID;
         CREATE TABLE dropped(x);
         ALTER TABLE metadata ADD COLUMN bool_value INTEGER;");
    run("BEGIN");
    for id in 0..rows {
        let long = "long ".repeat(random.place(if id % 9 == 4 { 900 } else { 4 }));
        let number = i64::try_from(random.below(1 << (id % 40))).unwrap() - 7;
        let real = [number as f64, number as f64 / 3.0, 1e300, -0.5][random.place(4)];
        for (key, text, int, float) in [
            ("text", Some(format!("{long}{id}")), None, None),
            ("number", None, Some(number), None),
            ("real", None, None, Some(real)),
        ] {
            connection
                .execute(
                    "INSERT INTO metadata(id, key, string_value, int_value, float_value) VALUES(?1, ?2, ?3, ?4, ?5)",
                    params![id, key, text, int, float],
                )
                .unwrap();
        }
        connection
            .execute(
                "INSERT INTO embeddings(embedding_id, seq_id) VALUES(?1, ?2)",
                params![format!("id {id} {long}"), number],
            )
            .unwrap();
        let blob = vec![random.byte(); random.place(3000)];
        connection.execute("INSERT INTO data VALUES(?1, ?2)", params![id * 3 - 5, blob]).unwrap();
        connection
            .execute("INSERT INTO idx VALUES(?1, ?2, ?3)", params![id % 5, blob.get(..40), id])
            .unwrap_or_default();
    }
    run("INSERT INTO dropped SELECT zeroblob(900) FROM metadata; COMMIT");
    run("DELETE FROM embeddings WHERE id%7=3; UPDATE metadata SET int_value=id WHERE id%5=1 AND key='number';
         UPDATE metadata SET string_value='changed' WHERE id%11=2 AND key='text';
         DELETE FROM metadata WHERE id%6=5; DROP TABLE dropped");
}

/// Whether all is well, by us; `None` when the schema is not known.
fn ours(path: &Path) -> Option<Result<u32, Doubt>> {
    let connection = Connection::open(path).unwrap();
    let shape = shape(&connection).ok()??;
    connection.execute_batch("BEGIN").unwrap();
    Some(read(&connection, &File::open(path).unwrap(), &shape, true, &Progress::default()))
}

fn sqlites(path: &Path, pragma: &str) -> String {
    let connection = Connection::open(path).unwrap();
    let said = connection
        .execute_batch("PRAGMA cell_size_check=ON")
        .and_then(|()| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)));
    said.unwrap_or_else(|error| error.to_string())
}

#[test]
fn what_is_whole_is_whole_whatever_the_size_of_its_pages() {
    let dir = tempfile::tempdir().unwrap();
    for (nth, page_bytes) in (1_u64..).zip([512, 1024, 4096, 65_536]) {
        let path = dir.path().join(page_bytes.to_string());
        build(&path, page_bytes, 300, &mut Random(nth));
        assert_eq!(sqlites(&path, "integrity_check"), "ok");
        let connection = Connection::open(&path).unwrap();
        for sql in ["", "VACUUM", "CREATE TABLE empty(x UNIQUE)", "DELETE FROM data"] {
            connection.execute_batch(sql).unwrap();
            let pages: u32 =
                connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
            let said = ours(&path).expect("a known schema");
            assert_eq!(said.map_err(|doubt| doubt.to_string()), Ok(pages), "{page_bytes} {sql}");
        }
    }
}

#[test]
fn what_real_chroma_wrote_is_known_and_whole() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    for name in [
        "0.4.24",
        "0.5.5",
        "0.6.3",
        "1.1.1",
        "1.5.9",
        "1.5.9-deleted",
        "1.5.9-empty",
        "1.5.9-fresh",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        std::fs::copy(fixtures.join(format!("chroma-{name}/chroma.sqlite3")), &path).unwrap();
        let said = ours(&path).unwrap_or_else(|| panic!("{name}: a schema that is not known"));
        assert!(said.is_ok(), "{name}: {said:?}");
    }
}

#[test]
fn whatever_is_done_to_the_bytes_nothing_that_sqlite_reports_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut reported, mut harmless, mut unusual) = (0, 0, 0);
    for (nth, page_bytes) in (1_u64..).zip([512, 4096]) {
        let (whole, path) = (dir.path().join("whole"), dir.path().join("broken"));
        drop(std::fs::remove_file(&whole));
        let mut random = Random(nth);
        build(&whole, page_bytes, 60, &mut random);
        let bytes = std::fs::read(&whole).unwrap();
        for case in 0..CASES {
            let mut bytes = bytes.clone();
            let what = damage(&mut bytes, page_bytes as usize, &mut random);
            std::fs::write(&path, &bytes).unwrap();
            let sqlite = sqlites(&path, "integrity_check");
            match (sqlite.as_str(), ours(&path)) {
                ("ok", Some(Ok(_))) => harmless += 1,
                ("ok", _) => unusual += 1,
                (said, Some(Ok(_))) => panic!("pages of {page_bytes}, case {case}, {what}: {said}"),
                _ => reported += 1,
            }
        }
    }
    println!("{reported} reported, {harmless} harmless, {unusual} more unusual");
    assert!(
        reported > CASES / 2 && harmless > CASES / 2,
        "{reported} reported, {harmless} harmless"
    );
}

/// Breaks some bytes, and says how. The header of the file stays: another check looks at it.
fn damage(bytes: &mut [u8], page_bytes: usize, random: &mut Random) -> String {
    let pages = bytes.len() / page_bytes;
    let page = random.place(pages);
    let start = if page == 0 { 100 } else { page * page_bytes };
    let end = (page + 1) * page_bytes;
    match random.below(7) {
        0 => {
            let at = start + random.place(end - start);
            bytes[at] ^= 1 << random.below(8);
            format!("a bit of byte {at}")
        }
        // Header and pointers.
        1 | 2 => {
            let at = start + random.place(40);
            bytes[at] = random.byte();
            format!("byte {at}")
        }
        3 => {
            let at = start + random.place(end - start - 4);
            let number = u32::try_from(random.place(pages + 2)).unwrap();
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
            format!("the number {number} at {at}")
        }
        4 => {
            let other = 1 + random.place(pages - 1);
            bytes.copy_within(
                other * page_bytes + start % page_bytes..(other + 1) * page_bytes,
                start,
            );
            format!("page {other} over page {page} (from 0)")
        }
        5 => {
            bytes[start..end].fill(0);
            format!("page {page} (from 0) zero")
        }
        _ => {
            // First free page and how many there are.
            let at = 35 + 4 * random.place(2);
            bytes[at] = bytes[at].wrapping_add(1);
            format!("header byte {at}")
        }
    }
}

/// Lets an index miss what `sql` does.
fn behind_the_back(path: &Path, index: &str, sql: &str) {
    let open = || Connection::open(path).unwrap();
    let (first, row) = (open(), format!("FROM sqlite_schema WHERE name='{index}'"));
    let (of, root, text): (String, u32, String) = first
        .query_row(&format!("SELECT tbl_name, rootpage, sql {row}"), [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    first.execute_batch(&format!("PRAGMA writable_schema=ON; DELETE {row}")).unwrap();
    open().execute_batch(sql).unwrap();
    let last = open();
    last.execute_batch("PRAGMA writable_schema=ON").unwrap();
    last.execute(
        "INSERT INTO sqlite_schema VALUES('index', ?1, ?2, ?3, ?4)",
        params![index, of, root, text],
    )
    .unwrap();
}

#[test]
fn an_index_that_is_not_that_of_its_table_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    build(&whole, 4096, 60, &mut Random(9));
    for (index, sql) in [
        // SQLite looks up each row in the index, and not each entry in the table.
        ("int_value", "DELETE FROM metadata WHERE id=7 AND key='number'"),
        ("int_value", "UPDATE metadata SET int_value=NULL WHERE id=7 AND key='number'"),
        ("int_value", "UPDATE metadata SET int_value=int_value+1 WHERE id=7"),
        ("float_value", "UPDATE metadata SET float_value=float_value*1.5 WHERE id=8"),
        ("string_value", "UPDATE metadata SET string_value=string_value||' ' WHERE id=7"),
        ("string_value", "INSERT INTO metadata(id, key, string_value) VALUES(900, 'text', 'more')"),
        ("loose", "UPDATE embeddings SET seq_id=CAST(seq_id AS TEXT) WHERE id=9"),
        ("loose", "UPDATE embeddings SET id=999 WHERE id=9"),
    ] {
        let path = dir.path().join("broken");
        std::fs::copy(&whole, &path).unwrap();
        behind_the_back(&path, index, sql);
        let said = ours(&path).expect("a known schema");
        assert!(
            matches!(said, Err(Doubt::Unrecognised(root, _)) if root > 1),
            "{index}, {sql}: {said:?}"
        );
    }
}

#[test]
fn values_that_their_columns_do_not_take_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let column = "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql=";
    for (sql, change) in [
        ("x, y", "'CREATE TABLE t(x, y NOT NULL)'"),
        ("x, y", "'CREATE TABLE t(x TEXT, y)'"),
        ("y, x", "'CREATE TABLE t(y, x INTEGER)'"),
        ("y, x", "'CREATE TABLE t(y)'"),
    ] {
        let path = dir.path().join("t");
        drop(std::fs::remove_file(&path));
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(&format!(
                "CREATE TABLE t({sql}); INSERT INTO t(x, y) VALUES('text', 1), ('12', 2), (7, NULL)"
            ))
            .unwrap();
        assert_eq!(ours(&path).unwrap().map_err(|doubt| doubt.to_string()), Ok(2));
        connection.execute_batch(&format!("{column}{change} WHERE name='t'")).unwrap();
        assert!(matches!(ours(&path), Some(Err(Doubt::Unrecognised(2, _)))), "{change}");
    }
}

#[test]
fn what_has_other_rules_is_left_to_sqlite() {
    for sql in [
        "CREATE TABLE t(x CHECK(x > 1))",
        "CREATE TABLE t(x TEXT) STRICT",
        "CREATE TABLE t(x, y AS (x + 1))",
        "CREATE TABLE t(x, y); CREATE INDEX i ON t(x + 1)",
        "CREATE TABLE t(x, y); CREATE INDEX i ON t(x DESC)",
        "CREATE TABLE t(x, y); CREATE INDEX i ON t(x COLLATE NOCASE)",
        "CREATE TABLE t(x COLLATE NOCASE UNIQUE)",
        "CREATE TABLE t(x, y); CREATE INDEX i ON t(x) WHERE x > 1",
        "CREATE TABLE t(x, y); CREATE INDEX i ON t(x) WHERE x > 1 AND y IS NOT NULL",
        "CREATE TABLE t(x PRIMARY KEY, y UNIQUE) WITHOUT ROWID",
        "CREATE TABLE t(x INTEGER PRIMARY KEY); CREATE INDEX i ON t(x)",
    ] {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        assert!(shape(&connection).unwrap().is_none(), "{sql}");
    }
}

const CASES: u64 = 600;

/// Found by fuzzing against SQLite: it tells of such a header, and opens the database all the same.
#[test]
fn a_header_that_only_the_pragma_complains_of_is_left_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    build(&path, 1024, 20, &mut Random(3));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[64..68].copy_from_slice(&1_u32.to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    let said = sqlites(&path, "integrity_check");
    assert!(said.contains("incremental_vacuum enabled with a max rootpage of zero"), "{said}");
    assert!(ours(&path).expect("a known schema").is_err());
}
