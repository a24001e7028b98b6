//! `check` against real directories of Chroma, each broken in one way: exactly the expected findings come out and nothing
//! else, the directory is left as it was, and the published matrix (`tests/faults.md`) says what happens.

use crate::support::{
    self,
    faults::{self, Matrix, codes_cell},
};
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

#[test]
fn every_fault_is_told_by_its_name_and_nothing_else_is() {
    let published = Matrix::read();
    let cases = faults::cases();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((class, fault, base)) =
                    cases.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let scratch = tempfile::tempdir().unwrap();
                    let dir = fault.strike(base, scratch.path());
                    let sqlite = faults::sqlite_says(&dir);
                    let said = faults::check(&dir, fault.config);
                    let say = |what: String| {
                        let case =
                            format!("{class}: {}, {base}: {what}\n{}", fault.what, said.evidence);
                        wrong.lock().unwrap().push(case);
                    };
                    if said.codes != fault.codes {
                        say(format!("{:?} instead of {:?}", said.codes, fault.codes));
                    }
                    if !said.evidence.contains(fault.words) {
                        say(format!("the evidence lacks {:?}", fault.words));
                    }
                    match published.get(class, fault.what, base) {
                        None => say("not in tests/faults.md".to_owned()),
                        Some(row)
                            if row.codes != codes_cell(fault.codes) || row.sqlite != sqlite =>
                        {
                            say(format!("tests/faults.md has {row:?}, SQLite says {sqlite:?}"));
                        }
                        Some(_) => {}
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_matrix_has_every_fault_once_and_no_other() {
    let cases: Vec<_> =
        faults::cases().iter().map(|(class, fault, base)| (*class, fault.what, *base)).collect();
    let unique: BTreeSet<_> = cases.iter().collect();
    assert_eq!(unique.len(), cases.len(), "two faults share a name");
    assert!(cases.len() > 200);
    for ((class, what, base), _) in &Matrix::read().rows {
        let known = cases.contains(&(class, what, base)) || class == faults::LIVE;
        assert!(known, "tests/faults.md has {class}: {what}, {base}");
    }
}

#[test]
fn a_writer_at_work_is_no_damage() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = support::fixture("chroma-1.5.9", scratch.path());
    // A transaction that is open for as long as the check runs, and one page longer than the header says.
    let writer = faults::database(&dir);
    writer
        .execute_batch("BEGIN IMMEDIATE; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(100000))")
        .unwrap();
    let codes = faults::check(&dir, "").codes;
    let alarms: Vec<_> =
        codes.iter().filter(|code| code.starts_with("sqlite") || code.starts_with("fts")).collect();
    assert!(alarms.is_empty(), "{codes:?}");
    drop(writer);
}
