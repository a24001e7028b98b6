use crate::repair::recover::{
    Outcome, Part,
    tests::{Stand, rows},
};
use crate::repair::restore::Wish;

const RELEASES: [&str; 4] = ["chroma-0.4.24", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"];

/// The rows of `articles` end with: an update, two upserts, a deletion. Those before are additions.
fn broken(name: &str, set: &str, back: u8) -> Stand {
    let sql = format!(
        "UPDATE embeddings_queue SET {set} WHERE seq_id = (SELECT max(q.seq_id) FROM embeddings_queue AS q \
         WHERE q.topic LIKE '%' || (SELECT id FROM collections WHERE name = 'articles')) - {back}"
    );
    Stand::broken(name, &sql)
}

#[test]
fn a_row_of_which_the_tables_prove_what_it_was_loses_nothing() {
    for (set, back, want) in [
        ("operation = 9", 0, "3"),
        ("operation = 9", 1, "2"),
        ("operation = 'x'", 5, "2"),
        ("encoding = 'XYZ'", 1, "2"),
        ("encoding = NULL", 1, "2"),
        ("metadata = 'garbage'", 1, "2"),
        ("metadata = '[]'", 2, "2"),
        ("operation = 9, encoding = '', metadata = '{'", 3, "2"),
    ] {
        for name in RELEASES {
            let stand = broken(name, set, back);
            let healthy = rows(&Stand::new(name).database());
            let report = stand.apply();
            assert_eq!(report.outcome, Outcome::Repaired, "{name}: {set}: {report:#?}");
            assert!(report.losses.is_empty() && report.lost_records.is_empty(), "{name}: {set}");
            let mended = rows(&stand.database());
            // Nothing but this one row is another one than before, and its vector and number are what they were.
            for (table, healthy) in &healthy {
                let new: Vec<_> =
                    mended[table].iter().filter(|row| !healthy.contains(row)).collect();
                let one = usize::from(table == "embeddings_queue" && !new.is_empty());
                assert_eq!(
                    (new.len(), mended[table].len()),
                    (one, healthy.len()),
                    "{name}: {table}"
                );
                for row in new {
                    let parts: Vec<&str> = row.split(',').collect();
                    let kind = if back == 3 && set.starts_with("operation") { "2" } else { want };
                    assert!(parts[2] == kind || set.starts_with("meta"), "{name}: {set}: {row}");
                }
            }
        }
    }
}

#[test]
fn what_nothing_proves_is_named_with_all_that_is_left_of_it() {
    for (set, back, name, part) in [
        ("vector = NULL", 5, "chroma-1.1.1", Part::Vector),
        ("vector = x'0000803f00'", 1, "chroma-1.5.9", Part::Vector),
        ("vector = x'0000803f'", 1, "chroma-0.6.3", Part::Vector),
        // An index has a vector of this record already.
        ("vector = x'0000803f'", 3, "chroma-1.5.9", Part::NewestVector),
    ] {
        let stand = broken(name, set, back);
        let before = stand.content();
        let report = stand.apply();
        assert_eq!(report.outcome, Outcome::NotAccepted, "{name}: {set}: {report:#?}");
        assert!(stand.content() == before, "{name}: {set}");
        let accepted = Wish { dry: false, accept_loss: true, ..stand.wish.clone() };
        let report = stand.run(&accepted);
        assert_eq!(report.outcome, Outcome::Repaired, "{name}: {set}: {report:#?}");
        let [lost] = &report.lost_records[..] else { panic!("{report:#?}") };
        assert_eq!((lost.part, &*lost.collection), (part, "articles"), "{report:#?}");
        assert!(lost.document.is_some() && lost.metadata.contains_key("page"), "{report:#?}");
        let [row] = &report.lost_rows[..] else { panic!("{report:#?}") };
        assert!(row.id.as_ref() == Some(&lost.id) && row.what.contains("metadata {"), "{row:#?}");
        assert!(report.losses.iter().any(|loss| loss.contains(&lost.id)), "{report:#?}");
    }
    // A row that nothing has taken in yet: what it did is not known, and its vector is in the report.
    let behind = "UPDATE max_seq_id SET seq_id = 89 WHERE seq_id = 90; \
                  UPDATE embeddings_queue SET operation = 7, id = 'new', vector = x'0000803f000000400000803f000000400000803f000000400000803f00000040', \
                  encoding = 'FLOAT32', metadata = '{\"chroma:document\":\"a text\",\"n\":1}' WHERE seq_id = 90";
    let report = Stand::broken("chroma-1.5.9", behind).dry();
    assert_eq!(report.outcome, Outcome::WouldRepair, "{report:#?}");
    let [lost] = &report.lost_records[..] else { panic!("{report:#?}") };
    assert_eq!((&*lost.id, lost.part), ("new", Part::Operation));
    assert_eq!(lost.document.as_deref(), Some("a text"));
    assert!(report.lost_rows[0].what.contains("vector [1.0,2.0,1.0"), "{report:#?}");
}
