use std::path::Path;

use rusqlite::params;

use super::{super::random::Random, *};

/// Builds a table as Chroma has it, with leaves of `leaf_bytes`, deleted and changed rows, and a merge under way.
fn build(path: &Path, leaf_bytes: u32, rows: i64) {
    let connection = Connection::open(path).unwrap();
    let run = |sql: &str| connection.execute_batch(sql).unwrap();
    run("PRAGMA synchronous=OFF; CREATE VIRTUAL TABLE text USING fts5(string_value, tokenize='trigram');
         CREATE TABLE other(x PRIMARY KEY);");
    run(&format!("INSERT INTO text(text, rank) VALUES('pgsz', {leaf_bytes})"));
    for round in 0..6 {
        run("BEGIN");
        for row in 0..rows {
            let id = round * rows + row + 1;
            let long = "ab".repeat(if row % 19 == 4 { 400 } else { 3 });
            let text = format!("row {row} of {round}: Ünïcödé {long} 全文検索");
            connection
                .execute("INSERT INTO text(rowid, string_value) VALUES(?1, ?2)", params![id, text])
                .unwrap();
            connection.execute("INSERT INTO other VALUES(?1)", [text]).unwrap();
        }
        run("COMMIT");
        run(
            "DELETE FROM text WHERE rowid%7=3; UPDATE text SET string_value='changed' WHERE rowid%11=5",
        );
    }
    run(
        "INSERT INTO text(text, rank) VALUES('merge', -2); DELETE FROM text_config WHERE k<>'version'",
    );
}

/// Whether the full text is whole, by us and by SQLite. SQLite looks at it by a connection of its own, as it caches what
/// it has read of an index.
fn ours(path: &Path) -> bool {
    let connection = Connection::open(path).unwrap();
    let Ok(Text::Known(known)) = table(&connection) else { return false };
    let share = Share { progress: &Progress::default(), bytes: 0 };
    let parts = Parts::of(&connection, &known).unwrap();
    let documents = std::thread::scope(|scope| {
        let half = || of_documents(&Connection::open(path).unwrap(), &known, &parts, &share);
        [(); 2].map(|()| scope.spawn(half)).map(|half| half.join().unwrap())
    });
    let index = of_index(&connection, &known, &share);
    matches!((documents, index), ([Ok(one), Ok(rest)], Ok(index)) if one.and(rest) == Some(index))
}

fn sqlites(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    let said = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    said.unwrap_or_else(|error| error.to_string())
}

#[test]
fn whatever_is_done_to_the_tables_nothing_that_sqlite_reports_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut reported, mut unusual) = (0, 0);
    for (nth, leaf_bytes) in (0_u64..).zip([48, 200, 4050]) {
        let (whole, path) = (dir.path().join("whole"), dir.path().join("broken"));
        drop(std::fs::remove_file(&whole));
        build(&whole, leaf_bytes, 12);
        assert_eq!((sqlites(&whole).as_str(), ours(&whole)), ("ok", true), "{leaf_bytes}");
        let mut random = Random(nth + 5);
        for case in 0..CASES {
            std::fs::copy(&whole, &path).unwrap();
            let what = damage(&path, case, &mut random);
            let (sqlite, whole) = (sqlites(&path), ours(&path));
            if sqlite != "ok" {
                reported += 1;
                assert!(!whole, "leaves of {leaf_bytes}, case {case}, {what}: {sqlite}");
            } else if !whole {
                unusual += 1;
            }
        }
    }
    // Otherwise the test proves nothing.
    assert!(reported > CASES, "{reported} of {} were damaged, {unusual} more unusual", 3 * CASES);
}

/// Changes the tables behind the full text in one of many ways, and says how.
fn damage(path: &Path, case: u64, random: &mut Random) -> String {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF").unwrap();
    let row_of = |table: &str, key: &str, random: &mut Random| -> i64 {
        let count: i64 = connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap();
        let skip = random.below(count.cast_unsigned().max(1));
        let sql = format!("SELECT {key} FROM {table} LIMIT 1 OFFSET {skip}");
        connection.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let mut any = |table, key| row_of(table, key, random);
    let [record, other, source] = [(); 3].map(|()| any("text_data", "id"));
    let (row, size) = (any("text_content", "id"), any("text_docsize", "id"));
    let split = any("text_idx", "segid<<32|pgno");
    let split = format!("segid={} AND pgno={}", split >> 32, split & 0xffff_ffff);
    let byte = random.below(256);
    let record = match case % 20 {
        0..=4 => record,
        5 | 6 => fts5::STRUCTURE_ID,
        7 => fts5::TOTALS_ID,
        _ => 0,
    };
    let sql = match case % 20 {
        0..=7 => {
            let sql = "SELECT block FROM text_data WHERE id=?1";
            let mut block: Vec<u8> = connection.query_row(sql, [record], |row| row.get(0)).unwrap();
            let at = random.below((block.len() as u64).max(1));
            let at = usize::try_from(at).unwrap();
            match case / 20 % 5 {
                0 => block[at] ^= 1 << random.below(8),
                1 => block[at] = u8::try_from(byte).unwrap(),
                2 => block.truncate(at),
                3 => block.insert(at, 1),
                // In the head of a leaf, its footer, or the length of what stands first.
                _ => {
                    let len = block.len();
                    let at = [0, 1, 2, 3, 4, 5, len - 1, len - 2]
                        [usize::try_from(random.below(8)).unwrap()];
                    if let Some(place) = block.get_mut(at) {
                        *place = place.wrapping_add(if byte < 128 { 1 } else { 255 });
                    }
                }
            }
            let sql = "UPDATE text_data SET block=?2 WHERE id=?1";
            connection.execute(sql, params![record, block]).unwrap();
            return format!("record {record}, way {}, at {at}", case / 20 % 5);
        }
        8 => format!("DELETE FROM text_data WHERE id={other}"),
        9 => format!(
            "UPDATE text_data SET block=(SELECT block FROM text_data WHERE id={source}) WHERE id={other}"
        ),
        10 => format!(
            "UPDATE text_data SET block={} WHERE id={other}",
            ["NULL", "7", "CAST(block AS TEXT)", "zeroblob(20)"]
                [usize::try_from(byte % 4).unwrap()]
        ),
        11 => format!(
            "UPDATE text_idx SET pgno=pgno+{} WHERE {split}",
            [1, 2, -1, -2][usize::try_from(byte % 4).unwrap()]
        ),
        12 => format!(
            "UPDATE text_idx SET term=term||CAST('{}' AS BLOB) WHERE {split}",
            char::from(b'0' + u8::try_from(byte % 70).unwrap())
        ),
        13 => format!("DELETE FROM text_idx WHERE {split}"),
        14 => format!(
            "INSERT OR IGNORE INTO text_idx SELECT segid, CAST(term||'z' AS BLOB), pgno+{} FROM text_idx WHERE {split}",
            byte % 6
        ),
        15 => format!("UPDATE text_docsize SET sz=x'{byte:02x}' WHERE id={size}"),
        16 => format!(
            "DELETE FROM text_docsize WHERE id={size}; INSERT INTO text_docsize VALUES({}, x'05')",
            size + i64::try_from(byte).unwrap() % 3 - 1
        ),
        17 => format!(
            "UPDATE text_content SET c0={} WHERE id={row}",
            ["NULL", "7", "upper(c0)", "substr(c0, 2)||substr(c0, 1, 1)", "CAST(c0 AS BLOB)"]
                [usize::try_from(byte % 5).unwrap()]
        ),
        18 => format!("UPDATE text_content SET id=id+{} WHERE id={row}", 1000 + byte),
        _ => match byte % 4 {
            0 => format!("DELETE FROM text_content WHERE id={row}"),
            1 => "UPDATE text_config SET v=v+1".to_owned(),
            2 => "INSERT INTO text_config VALUES('pgsz', 'x'), ('automerge', 99)".to_owned(),
            _ => format!(
                "DELETE FROM text_content WHERE id={row}; DELETE FROM text_docsize WHERE id={row}"
            ),
        },
    };
    // An update may hit a key that is taken, which changes nothing.
    drop(connection.execute_batch(&sql));
    sql
}

#[test]
fn what_an_older_sqlite_left_out_behind_a_nul_is_no_damage_and_hides_none() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (dir.path().join("whole"), dir.path().join("broken"));
    build(&whole, 4050, 3);
    // The index as SQLite 3.46 makes it: of what stands before the first U+0000.
    let cut = "UPDATE text SET string_value='before' WHERE rowid=2;
        UPDATE text_content SET c0='before'||char(0)||' and behind'||char(0) WHERE id=2;";
    for (more, want) in [
        ("", true),
        // Nothing stands before it.
        (
            "UPDATE text SET string_value='' WHERE rowid=4; UPDATE text_content SET c0=char(0)||'all of it' WHERE id=4",
            true,
        ),
        // One that this SQLite wrote.
        ("UPDATE text SET string_value='one'||char(0)||'two' WHERE rowid=4", true),
        ("UPDATE text_content SET c0='befora'||char(0)||' and behind' WHERE id=2", false),
        ("UPDATE text_docsize SET sz=x'0e' WHERE id=2", false),
        ("UPDATE text_content SET c0='changed!' WHERE id=4", false),
        ("DELETE FROM text_data WHERE id>10", false),
    ] {
        std::fs::copy(&whole, &path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(cut).unwrap();
        connection.execute_batch(more).unwrap();
        assert!(has_nul(&connection, "text").unwrap(), "{more}");
        drop(connection);
        assert_ne!(sqlites(&path), "ok", "the bundled SQLite no longer goes on behind U+0000");
        assert_eq!(ours(&path), want, "{more}");
    }
    let connection = Connection::open(&whole).unwrap();
    assert!(!has_nul(&connection, "text").unwrap());
    assert!(!has_nul(&connection, "not \"there").unwrap());
}

#[test]
fn parts_are_all_ids_there_can_be_and_about_equal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whole");
    build(&path, 4050, 100);
    let connection = Connection::open(&path).unwrap();
    let Ok(Text::Known(known)) = table(&connection) else { panic!("a table that is not known") };
    let parts = Parts::of(&connection, &known).unwrap();
    let count = |[first, last]: [i64; 2]| -> i64 {
        let sql = "SELECT count(*) FROM text_content WHERE id BETWEEN ?1 AND ?2";
        connection.query_row(sql, [first, last], |row| row.get(0)).unwrap()
    };
    let all: Vec<[i64; 2]> = std::iter::from_fn(|| parts.take()).collect();
    assert_eq!((all[0][0], all[all.len() - 1][1]), (i64::MIN, i64::MAX));
    assert!(all.windows(2).all(|two| two[0][1] + 1 == two[1][0]), "{all:?}");
    let most = all.iter().map(|part| count(*part)).max().unwrap();
    assert!(most <= count([i64::MIN, i64::MAX]) / 32, "{most} in one of {}", all.len());
    let whole = Parts::default();
    assert_eq!([whole.take(), whole.take()], [Some([i64::MIN, i64::MAX]), None]);
}

#[test]
fn what_is_not_known_is_left_to_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    build(&path, 4050, 3);
    let connection = Connection::open(&path).unwrap();
    assert!(matches!(table(&connection).unwrap(), Text::Known(_)));
    connection
        .execute_batch("CREATE VIRTUAL TABLE second USING fts5(x, tokenize='trigram')")
        .unwrap();
    assert!(matches!(table(&connection).unwrap(), Text::Other));
}

/// For each size of leaves.
const CASES: u64 = 300;
