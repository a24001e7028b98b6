use std::collections::BTreeMap;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;

/// The records of an index, as SQLite wrote them.
#[derive(Debug, Clone, Default)]
struct Stored {
    records: BTreeMap<i64, Vec<u8>>,
    splits: Vec<(u16, Split)>,
}

/// The records of one segment.
struct Part<'a> {
    stored: &'a Stored,
    segment: u16,
    splits: std::slice::Iter<'a, (u16, Split)>,
}

impl Part<'_> {
    fn put(&self, id: i64, into: &mut Vec<u8>) -> Result<(), Unrecognised> {
        into.clone_from(self.stored.records.get(&id).ok_or(Unrecognised("missing"))?);
        Ok(())
    }
}

impl Source for Part<'_> {
    type Error = Unrecognised;

    fn leaf(&mut self, page: u32, leaf: &mut Vec<u8>) -> Result<(), Unrecognised> {
        self.put(leaf_id(self.segment, page), leaf)
    }

    fn split(&mut self, first: u32, split: &mut Split) -> Result<bool, Unrecognised> {
        let mut of_ours = self
            .splits
            .by_ref()
            .filter(|(segment, split)| *segment == self.segment && split.page >= first);
        let found = of_ours.next();
        split.clone_from(found.map_or(&Split::default(), |(_, split)| split));
        Ok(found.is_some())
    }

    fn doclist_index(
        &mut self,
        level: u8,
        page: u32,
        record: &mut Vec<u8>,
    ) -> Result<(), Unrecognised> {
        self.put(doclist_index_id(self.segment, level, page), record)
    }
}

impl Stored {
    fn of(connection: &Connection) -> Self {
        let mut stored = Self::default();
        let mut statement = connection.prepare("SELECT id, block FROM t_data").unwrap();
        let records = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        stored.records.extend(records.map(Result::unwrap));
        let sql = "SELECT segid, term, pgno>>1, pgno&1 FROM t_idx ORDER BY segid, term";
        let mut statement = connection.prepare(sql).unwrap();
        let splits = statement.query_map([], |row| {
            let split = Split { term: row.get(1)?, page: row.get(2)?, indexed: row.get(3)? };
            Ok((row.get(0)?, split))
        });
        stored.splits.extend(splits.unwrap().map(Result::unwrap));
        stored
    }

    fn structure(&self) -> Result<Structure, Unrecognised> {
        Structure::parse(self.records.get(&STRUCTURE_ID).ok_or(Unrecognised("missing"))?)
    }

    fn sum(&self) -> Result<Sum, Unrecognised> {
        let part = |extent: &Extent| {
            let splits = self.splits.iter();
            let part = Part { stored: self, segment: extent.id, splits };
            Segment::new(part, extent.first, extent.last)
        };
        sum_of_index(self.structure()?.segments.iter().map(part).collect())
    }
}

/// A table with leaves of `leaf_bytes`, from these rounds of texts; of each round but the last some rows are deleted
/// and some changed.
fn table(leaf_bytes: u32, rounds: &[Vec<String>]) -> (Connection, Stored) {
    let connection = Connection::open_in_memory().unwrap();
    let run = |sql: &str| connection.execute_batch(sql).unwrap();
    run("CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram')");
    run(&format!("INSERT INTO t(t, rank) VALUES('pgsz', {leaf_bytes})"));
    for (nth, texts) in rounds.iter().enumerate() {
        run("BEGIN");
        for text in texts {
            connection.execute("INSERT INTO t(x) VALUES(?1)", [text]).unwrap();
        }
        run("COMMIT");
        if nth + 1 < rounds.len() {
            run("DELETE FROM t WHERE rowid%7=3; UPDATE t SET x=x||' more' WHERE rowid%11=5");
        }
    }
    let stored = Stored::of(&connection);
    (connection, stored)
}

/// What the texts of the table say.
fn expected(connection: &Connection) -> Sum {
    let mut sum = Sum::default();
    let mut statement = connection.prepare("SELECT id, c0 FROM t_content").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let text = row.get_ref(1).unwrap().as_str().unwrap();
        Trigrams { folds: true }.add(row.get(0).unwrap(), text.as_bytes(), &mut sum).unwrap();
    }
    sum
}

/// Rounds of short and long texts in several scripts, with words that stand in all of them.
fn texts(rounds: usize, rows: usize) -> Vec<Vec<String>> {
    let text = |round: usize, row: usize| {
        let filler = "Ünïcödé ТЕКСТ 全文検索 𝔘𐐀 ".repeat(row % 3);
        let long = "ab".repeat(if row % 19 == 4 { 700 } else { row % 5 });
        format!("the row {row} of {round} {filler}{long}")
    };
    (0..rounds).map(|round| (0..rows).map(|row| text(round, row)).collect()).collect()
}

#[test]
fn an_index_says_what_its_texts_say() {
    for (leaf_bytes, rounds, rows) in [(40, 3, 60), (64, 12, 30), (4050, 3, 300), (4050, 0, 0)] {
        let (connection, stored) = table(leaf_bytes, &texts(rounds, rows));
        let sum = stored.sum().unwrap();
        assert_eq!(sum, expected(&connection), "leaves of {leaf_bytes} bytes");
        let totals = Totals::parse(&stored.records[&TOTALS_ID]).unwrap();
        assert_eq!(totals.tokens, sum.positions);
        if leaf_bytes < 100 {
            let structure = stored.structure().unwrap();
            assert!(stored.splits.iter().any(|(_, split)| split.indexed), "{leaf_bytes}");
            assert!(structure.segments.len() > 1, "{structure:?}");
        }
    }
}

#[test]
fn a_merge_that_is_not_at_its_end_is_understood() {
    let (connection, _) = table(64, &texts(9, 30));
    let mut trimmed = 0;
    for _ in 0..60 {
        connection.execute_batch("INSERT INTO t(t, rank) VALUES('merge', -3)").unwrap();
        let stored = Stored::of(&connection);
        assert_eq!(stored.sum(), Ok(expected(&connection)));
        trimmed += usize::from(stored.structure().unwrap().segments.iter().any(|s| s.first > 1));
    }
    assert!(trimmed > 0, "no segment was merged in part");
}

#[test]
fn every_character_folds_as_in_sqlite() {
    // Each between others that fold to themselves, in rows of a thousand.
    let all: Vec<char> = (1..=0x10_ffff).filter_map(char::from_u32).collect();
    let rows = all.chunks(1000).map(|row| {
        row.iter().fold(String::new(), |mut text, character| {
            text.extend(['0', '1', *character]);
            text
        })
    });
    let (connection, stored) = table(4050, &[rows.collect()]);
    assert_eq!(stored.sum(), Ok(expected(&connection)));
}

#[test]
fn bytes_that_are_no_text_are_read_as_sqlite_reads_them() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram')").unwrap();
    let texts: [&[u8]; 12] = [
        b"",
        b"ab",
        b"a\0b\0c\0d\0",
        b"\0\0\0",
        b"ab\xff\xfe\xfdcd",
        b"ab\xc1\x81cd",
        b"ab\xe0\x80\x80cd\xe0\x82\x80ef",
        b"ab\xed\xa0\x80cd",
        b"ab\xef\xbf\xbe\xef\xbf\xbfcd",
        b"ab\x80\xbfcd",
        b"abc\xf0\x9f\x98",
        b"abc\xe4\xb8",
    ];
    for (id, text) in (0_i64..).zip(texts) {
        let sql = "INSERT INTO t(rowid, x) VALUES(?1, CAST(?2 AS TEXT))";
        connection.execute(sql, rusqlite::params![id, text]).unwrap();
    }
    let mut sum = Sum::default();
    for (id, text) in (0_i64..).zip(texts) {
        Trigrams { folds: true }.add(id, text, &mut sum).unwrap();
    }
    assert_eq!(Stored::of(&connection).sum(), Ok(sum));
    let beyond = Trigrams { folds: true }.add(1, b"ab\xf7\xbf\xbf\xbf", &mut sum);
    assert!(beyond.is_err(), "{beyond:?}");
}

#[test]
fn a_record_that_is_cut_or_missing_is_never_taken_for_whole() {
    let (_, stored) = table(64, &texts(2, 5));
    let whole = stored.sum().unwrap();
    let ids: Vec<i64> = stored.records.keys().copied().filter(|id| *id != TOTALS_ID).collect();
    for id in ids {
        let mut broken = stored.clone();
        for len in (0..stored.records[&id].len()).rev() {
            broken.records.get_mut(&id).unwrap().truncate(len);
            assert_ne!(broken.sum(), Ok(whole), "record {id} cut to {len}");
        }
        broken.records.remove(&id);
        assert_ne!(broken.sum(), Ok(whole), "record {id}");
    }
    for nth in 0..stored.splits.len() {
        let mut broken = stored.clone();
        broken.splits.remove(nth);
        assert_ne!(broken.sum(), Ok(whole), "split {nth}");
    }
}

#[test]
fn tables_of_another_form_are_not_known() {
    let parse = Declaration::parse;
    for sql in [
        "CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram')",
        "create virtual table \"embedding_fulltext_search\" using FTS5 ( x , tokenize = \"trigram case_sensitive 0\" ) ",
    ] {
        let known = parse(sql).unwrap();
        assert_eq!(known.table, "embedding_fulltext_search");
        assert!(known.tokenizer.folds);
    }
    let sensitive = "CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram case_sensitive 1')";
    assert!(!parse(sensitive).unwrap().tokenizer.folds);
    for sql in [
        "",
        "CREATE TABLE t(x)",
        "CREATE VIRTUAL TABLE t USING fts5(x)",
        "CREATE VIRTUAL TABLE t USING fts4(x, tokenize='trigram')",
        "CREATE VIRTUAL TABLE t USING fts5(x, y, tokenize='trigram')",
        "CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram', detail=none)",
        "CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram', content='')",
        "CREATE VIRTUAL TABLE t USING fts5(x UNINDEXED, tokenize='trigram')",
        "CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram remove_diacritics 1')",
        "CREATE VIRTUAL TABLE t USING fts5(x, tokenize='porter trigram')",
        "CREATE VIRTUAL TABLE \"a b\" USING fts5(x, tokenize='trigram')",
        "CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram'",
    ] {
        assert_eq!(parse(sql), None, "{sql}");
    }
}

/// Gives all of this to the readers. What they make of it does not matter, but no sum may be of more than they were given.
fn harmless(stored: &Stored, arbitrary: &[u8], sql: &str) -> bool {
    let bytes: usize = stored.records.values().map(Vec::len).sum();
    let mut text = Sum::default();
    let tokens = Trigrams { folds: true }.add(1, arbitrary, &mut text).unwrap_or(text.positions);
    let segments = Structure::parse(arbitrary).map_or(0, |structure| structure.segments.len());
    let positions = stored.sum().map_or(0, |sum| sum.positions);
    let declared = Declaration::parse(sql).map_or(0, |declaration| declaration.table.len());
    let numbers = Totals::parse(arbitrary).is_ok() || tokens_of_row(arbitrary).is_ok();
    tokens == text.positions
        && segments <= arbitrary.len()
        && positions <= bytes as u64
        && declared <= sql.len()
        && (!numbers || arbitrary.len() <= 18)
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
        arbitrary in prop::collection::vec(any::<u8>(), 0..80),
        sql in ".{0,80}",
    ) {
        thread_local! {
            static STORED: Stored = table(64, &texts(2, 5)).1;
        }
        let mut stored = STORED.with(Clone::clone);
        let ids: Vec<i64> = stored.records.keys().copied().collect();
        for (record, byte, value) in changes {
            let record = stored.records.get_mut(&ids[record.index(ids.len())]).unwrap();
            let at = byte.index(record.len());
            record[at] = value;
        }
        prop_assert!(harmless(&stored, &arbitrary, &sql));
        stored.records.insert(ids[usize::from(arbitrary.first().copied().unwrap_or(0)) % ids.len()], arbitrary.clone());
        prop_assert!(harmless(&stored, &arbitrary, &sql));
    }
}
