use proptest::prelude::*;

use super::*;

/// A database of the newest family, with rows whose texts are not at hand replaced by what they must hash to.
fn newest() -> Schema {
    let mut schema = Schema { applied: Some(Vec::new()), ..Schema::default() };
    for migration in MIGRATIONS {
        for mark in migration.marks.iter().copied() {
            let (table, column) = match mark {
                Table(table) | FullText(table) => (table, None),
                Column(table, column) => (table, Some((column, "TEXT"))),
                Integer(table, column) => (table, Some((column, "INTEGER"))),
                NoColumn(..) => continue,
            };
            let columns = schema.tables.entry(table.to_owned()).or_default();
            columns.extend(column.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
        }
    }
    schema
}

fn record(schema: &mut Schema, dir: Dir, versions: &[i64]) {
    let rows = schema.applied.get_or_insert_default();
    rows.extend(versions.iter().map(|version| Applied {
        dir,
        version: *version,
        hash: "x".to_owned(),
        sql: String::new(),
    }));
}

/// The faults without those of the texts, which [`record`] leaves empty.
fn faults(sysdb: &[i64], metadb: &[i64], change: impl FnOnce(&mut Schema)) -> Vec<Fault> {
    let mut schema = newest();
    record(&mut schema, Dir::Sysdb, sysdb);
    record(&mut schema, Dir::Metadb, metadb);
    record(&mut schema, Dir::EmbeddingsQueue, &[1, 2]);
    change(&mut schema);
    schema.faults().into_iter().filter(|fault| !matches!(fault, Fault::Changed { .. })).collect()
}

const SYSDB: &[i64] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const METADB: &[i64] = &[1, 2, 3, 4, 5, 6];

#[test]
fn a_whole_schema_has_no_fault_and_a_newer_one_neither() {
    assert_eq!(faults(SYSDB, METADB, |_| ()), []);
    assert_eq!(faults(&[SYSDB, &[11, 12]].concat(), METADB, |_| ()), []);
    let drop_newest = |schema: &mut Schema| {
        schema.tables.remove("embedding_metadata_array");
    };
    assert_eq!(faults(SYSDB, &METADB[..5], drop_newest), [], "as chroma 1.4 leaves it");
}

#[test]
fn each_contradiction_is_named() {
    use Dir::{Metadb, Sysdb};
    let schema_str = Column("collections", "schema_str");
    assert_eq!(
        faults(&SYSDB[..9], METADB, |_| ()),
        [Fault::NotRecorded { dir: Sysdb, version: 10, mark: schema_str }]
    );
    assert_eq!(
        faults(&[1, 2, 3, 4, 6, 7, 8, 9, 10], METADB, |_| ()),
        [Fault::Gap { dir: Sysdb, version: 5 }]
    );
    assert_eq!(
        faults(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12], METADB, |_| ()),
        [Fault::Gap { dir: Sysdb, version: 11 }]
    );
    assert!(faults(SYSDB, &[], |_| ()).contains(&Fault::Gap { dir: Metadb, version: 1 }));
    let mark = FullText("embedding_fulltext_search");
    let without_fts = |schema: &mut Schema| drop(schema.tables.remove("embedding_fulltext_search"));
    assert_eq!(
        faults(SYSDB, METADB, without_fts),
        [Fault::MarkMissing { dir: Metadb, version: 3, mark }]
    );
    // A missing table is told once, not once per column that it should have.
    let without_collections = |schema: &mut Schema| drop(schema.tables.remove("collections"));
    assert_eq!(
        faults(SYSDB, METADB, without_collections),
        [Fault::MarkMissing { dir: Sysdb, version: 1, mark: Table("collections") }]
    );
    let mut empty = newest();
    assert_eq!(empty.faults(), BTreeSet::from([Fault::NoMigrations]));
    empty.applied = None;
    assert_eq!(empty.faults(), BTreeSet::from([Fault::NoMigrationsTable]));
}

#[test]
fn a_server_opens_what_is_not_newer_than_it() {
    for (release, counts, want) in [
        ("1.1.1", [10, 6, 2], false), // the panic of the issues
        ("1.1.1", [9, 5, 2], true),
        ("1.2.1", [10, 5, 2], false),
        ("1.2.2", [11, 6, 2], true), // passes over what it does not know
        ("1.5.9", [10, 6, 2], true),
        ("0.6.3", [9, 5, 2], false),
        ("0.6.3", [9, 4, 2], true),
        ("0.4.24", [4, 3, 1], true),
        ("0.4.24", [9, 4, 2], false),
        ("0.5.0", [7, 3, 1], true), // two columns more, for which it never asks
        ("0.5.3", [7, 3, 1], true),
        ("0.5.3", [9, 4, 2], false),
        ("0.4.24", [5, 3, 1], false),
        ("0.4.13", [3, 3, 1], true),
        ("0.4.5", [3, 3, 1], false),
        ("0.5.4", [7, 3, 1], true),
        ("0.5.6", [9, 4, 2], true),
        ("2.0.0", [99, 99, 99], true),
    ] {
        assert_eq!(opens(parse_release(release).unwrap(), counts), want, "{release} {counts:?}");
    }
    assert_eq!(lowest_that_opens([10, 6, 2]), (1, 2, 2));
    assert_eq!(lowest_that_opens([9, 5, 2]), (1, 0, 0));
    assert_eq!(lowest_that_opens([99, 6, 2]), (1, 2, 2));
    assert_eq!(lowest_that_opens([4, 3, 1]), (0, 4, 15));
    assert_eq!(lowest_that_opens([7, 3, 1]), (0, 5, 0));
    assert_eq!(lowest_that_knows([7, 3, 1]), Some((0, 5, 4)));
    assert_eq!(lowest_that_knows([10, 6, 2]), Some((1, 5, 0)));
    assert_eq!(lowest_that_knows([3, 2, 1]), Some((0, 4, 4)));
    for (counts, family) in [
        ([3, 1, 1], Family::Oldest),
        ([7, 3, 1], Family::Oldest),
        ([9, 4, 2], Family::Python),
        ([9, 5, 2], Family::Rust),
        ([10, 6, 2], Family::Rust),
        ([11, 6, 2], Family::Unknown),
    ] {
        assert_eq!(Family::of(counts), family, "{counts:?}");
    }
}

#[test]
fn a_skew_names_the_release_that_opens_it() {
    for (release, counts, want) in [
        (
            "1.1.1",
            [10, 6, 2],
            Some(
                "Chroma 1.1.1 serves a directory with 10/6/2 migrations; 1.2.2 is the lowest release that opens it, 1.5.0 the lowest that knows all of it",
            ),
        ),
        (
            "0.6.3",
            [9, 5, 2],
            Some(
                "Chroma 0.6.3 serves a directory with 9/5/2 migrations; 1.0.0 is the lowest release that opens it",
            ),
        ),
        ("1.5.9", [10, 6, 2], None),
        ("latest", [10, 6, 2], None),
    ] {
        assert_eq!(skew(release, counts).as_deref(), want, "{release}");
    }
}

#[test]
fn releases_are_read_as_people_write_them() {
    for (text, want) in [
        ("1.5.9", Some((1, 5, 9))),
        (" v0.6.3 ", Some((0, 6, 3))),
        ("1.5", Some((1, 5, 0))),
        ("1.5.9.dev3", Some((1, 5, 9))),
        ("latest", None),
        ("1.x", None),
        ("", None),
    ] {
        assert_eq!(parse_release(text), want, "{text:?}");
    }
}

proptest! {
    #[test]
    fn no_rows_make_it_panic(rows in proptest::collection::vec((0_usize..3, any::<i64>(), ".*", ".*"), 0..20)) {
        let applied = rows.into_iter().map(|(dir, version, hash, sql)| Applied { dir: Dir::ALL[dir], version, hash, sql });
        let schema = Schema { applied: Some(applied.collect()), ..newest() };
        prop_assert!(!schema.faults().is_empty());
        let _ = (opens((1, 0, 0), schema.counts()), lowest_that_opens(schema.counts()));
    }
}
