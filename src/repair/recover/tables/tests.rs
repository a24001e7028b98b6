use crate::repair::{
    recover::{
        Outcome, Part,
        tests::{Stand, must_be_mended, rows},
    },
    restore::Wish,
};

#[test]
fn what_other_tables_say_too_is_put_back_whole() {
    let all = ["chroma-0.4.24", "chroma-0.5.5", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"];
    for (name, tables) in [
        (
            all[0],
            &["segment_metadata", "tenants", "databases", "segments", "embedding_metadata"][..],
        ),
        (all[1], &["segment_metadata", "segments", "embedding_metadata"]),
        (
            all[2],
            &[
                "segment_metadata",
                "embeddings_queue_config",
                "maintenance_log",
                "segments",
                "tenants",
            ],
        ),
        (all[3], &["segment_metadata", "embeddings_queue_config", "segments", "databases"]),
        (
            all[4],
            &[
                "segment_metadata",
                "embeddings_queue_config",
                "maintenance_log",
                "segments",
                "tenants",
                "databases",
            ],
        ),
    ] {
        let healthy = rows(&Stand::new(name).database());
        for table in tables {
            let stand = Stand::broken(name, &format!("DROP TABLE {table}"));
            must_be_mended(&stand, &healthy, &format!("{name}: {table}"));
        }
        let stand = Stand::broken(name, "DROP TABLE segment_metadata; DROP TABLE migrations");
        must_be_mended(&stand, &healthy, &format!("{name}: with the migrations"));
    }
}

#[test]
fn positions_are_none_that_is_ahead_of_what_was_applied() {
    for name in ["chroma-0.4.24", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let stand = Stand::broken(name, "DROP TABLE max_seq_id");
        let report = stand.apply();
        assert_eq!(report.outcome, Outcome::Repaired, "{name}: {report:#?}");
        assert!(report.losses.is_empty(), "{name}: {report:#?}");
        let mut healthy = rows(&Stand::new(name).database());
        let mut mended = rows(&stand.database());
        let was = healthy.remove("max_seq_id").unwrap();
        let is = mended.remove("max_seq_id").unwrap();
        assert!(healthy == mended, "{name}");
        let at = |rows: &[String], row: &String| {
            let segment = row.split(',').next().unwrap().to_owned();
            rows.iter().find(|row| row.starts_with(&segment)).cloned()
        };
        for row in &is {
            assert!(at(&was, row).is_some_and(|was| *row <= was), "{name}: {row}");
        }
        assert_eq!(is.is_empty(), name >= "chroma-1", "{name}: {is:?}");
    }
}

#[test]
fn what_is_lost_is_told_and_needs_a_word() {
    for (name, table, records) in [
        ("chroma-0.6.3", "collection_metadata", 0),
        ("chroma-1.5.9", "collection_metadata", 0),
        ("chroma-1.5.9", "embeddings_queue", 19),
        ("chroma-1.5.9", "embedding_metadata_array", 0),
        ("chroma-1.1.1", "embedding_metadata", 118),
    ] {
        let stand = Stand::broken(name, &format!("DROP TABLE {table}"));
        let before = stand.content();
        let report = stand.apply();
        assert_eq!(report.outcome, Outcome::NotAccepted, "{name}: {table}: {report:#?}");
        assert!(!report.losses.is_empty() && stand.content() == before, "{name}: {table}");
        let report = stand.run(&Wish { dry: false, accept_loss: true, ..stand.wish.clone() });
        assert_eq!(report.outcome, Outcome::Repaired, "{name}: {table}: {report:#?}");
        assert_eq!(report.lost_records.len(), records, "{name}: {table}: {report:#?}");
        let of_queue = table == "embeddings_queue";
        let with_document = report.lost_records.iter().filter(|one| one.document.is_some()).count();
        assert!(with_document * 10 >= report.lost_records.len() * 9, "{name}: {table}");
        let parts = report.lost_records.iter().map(|one| one.part);
        assert!(parts.into_iter().all(|part| of_queue || part == Part::Metadata), "{name}");
        let (mut healthy, mut mended) =
            (rows(&Stand::new(name).database()), rows(&stand.database()));
        let (was, is) = (healthy.remove(table).unwrap(), mended.remove(table).unwrap());
        assert!(healthy == mended, "{name}: {table}");
        let others = is.iter().filter(|row| !was.contains(row)).count();
        // The row that keeps the number of the newest one.
        assert_eq!(others, usize::from(table == "embeddings_queue"), "{name}: {table}: {is:#?}");
        if table == "collection_metadata" && name < "chroma-1" {
            assert_eq!(was, is, "settings of indexes stand twice");
        }
    }
}

#[test]
fn collections_get_other_names_when_their_table_is_gone() {
    for name in ["chroma-0.4.24", "chroma-0.5.5", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let healthy = Stand::new(name).dry().before.collections;
        let report = Stand::broken(name, "DROP TABLE collections").dry();
        assert_eq!(report.outcome, Outcome::WouldRepair, "{name}: {report:#?}");
        let mut found = report.after.unwrap().collections;
        assert_eq!(found.len(), healthy.len(), "{name}");
        for was in healthy {
            let is = found.iter_mut().find(|is| is.id == was.id).unwrap();
            assert!(is.name.starts_with("recovered-"), "{name}: {is:?}");
            is.name.clone_from(&was.name);
            assert_eq!(*is, was, "{name}");
        }
    }
}

#[test]
fn nothing_is_made_where_names_are_lost() {
    let report = Stand::broken("chroma-1.5.9", "DROP TABLE embeddings").dry();
    assert_eq!(report.outcome, Outcome::NotRepaired, "{report:#?}");
    assert!(report.not_done.iter().any(|one| one.why.contains("embeddings")), "{report:#?}");
    // A database of one's own has a name that is nowhere else.
    let sql = "INSERT INTO databases VALUES('11111111-1111-1111-1111-111111111111', 'books', 'default_tenant'); \
               UPDATE collections SET database_id = '11111111-1111-1111-1111-111111111111' WHERE name = 'notes'; DROP TABLE databases";
    let report = Stand::broken("chroma-1.5.9", sql).dry();
    assert_eq!(report.outcome, Outcome::NotRepaired, "{report:#?}");
    assert!(
        report.not_done.iter().any(|one| one.why.contains("names of the databases")),
        "{report:#?}"
    );
}
