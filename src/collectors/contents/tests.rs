use std::{path::Path, sync::Arc};

use rusqlite::Connection;

use super::{catalogue::Scope, *};
use crate::{
    collectors::testing::{as_nobody, close, context, copy_fixture},
    config::Store,
    findings::Severity,
    sample::Reading,
    scheduler,
};

fn contents(dir: &Path) -> (Contents, Context) {
    let context = context(dir);
    (Contents::new(&context), context)
}

fn fixture(name: &str, to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::copy(from.join("chroma.sqlite3"), to.join("chroma.sqlite3")).unwrap();
}

#[test]
fn what_was_given_up_is_a_problem_and_what_a_writer_keeps_out_when_no_turn_follows() {
    use QueryError::{Aborted, Busy, HotJournal};
    let dir = tempfile::tempdir().unwrap();
    let (mut contents, _) = contents(dir.path());
    let began = Timestamp::from_secs(1_795_000_000);
    contents.first_try = Some(began);
    let slow = || Aborted(Abort::Deadline(Duration::from_millis(250)));
    for (error, partial, deep, minutes, reported) in [
        (None, false, true, 0, false),
        (None, true, true, 0, true),
        (None, true, false, 0, true),
        (Some(slow()), false, true, 0, true),
        (Some(slow()), false, false, 0, true),
        (Some(Busy), false, true, 0, true),
        (Some(Busy), false, false, 0, false), // the next turn asks again
        (Some(Busy), false, false, 11, true), // for a while
        (Some(HotJournal), false, true, 0, false), // a finding of its own
    ] {
        let case = format!("{error:?} {partial} {deep} {minutes}");
        (contents.unread, contents.partial) = (error, partial);
        let now = began.plus(Duration::from_mins(minutes));
        let run = Run { now, wake: Wake::NONE, deep, stop: std::sync::Arc::default() };
        let problem = contents.not_known(&run).map(|problem| problem.chain());
        assert_eq!(problem.is_some(), reported, "{case}: {problem:?}");
    }
}

/// Runs until everything was walked over: one does for a small store, unless the machine has other work.
fn whole(contents: &mut Contents, context: &Context) -> Reading {
    let began = clock::ticks();
    loop {
        let reading = scheduler::run_once(contents, context, false, Arc::default());
        if reading.codes.len() == CODES.len() {
            return reading;
        }
        let late = began.elapsed() > Duration::from_mins(1);
        assert!(!late, "the walk never ends: {:?}", reading.observation.problems);
    }
}

#[test]
fn lists_in_the_queue_are_told_to_releases_that_cannot_read_them() {
    for (release, want) in [("1.5.9", None), ("1.4.1", Some("for \"articles\"")), ("1.1.1", None)] {
        let dir = tempfile::tempdir().unwrap();
        fixture("chroma-1.5.9", dir.path());
        let (_, known) = contents(dir.path());
        let store = Store { chroma_version: Some(release.to_owned()), ..(*known.store).clone() };
        let context = Context::new(&known.config, &Arc::new(store), &known.host);
        let mut contents = Contents::new(&context);
        let reading = whole(&mut contents, &context);
        let findings = reading.observation.findings;
        let reported: Vec<&str> =
            findings.iter().map(|finding| finding.evidence.as_str()).collect();
        assert_eq!(reported.len(), want.iter().len(), "{release}: {reported:?}");
        assert!(
            reported.iter().zip(want).all(|(reported, want)| reported.contains(want)),
            "{reported:?}"
        );
    }
}

#[test]
fn records_of_a_deleted_collection_are_no_loss_unless_a_collection_lacks_its_own() {
    let deleted = "DELETE FROM embeddings_queue; DELETE FROM segments WHERE collection IN (SELECT id FROM collections WHERE name='notes'); \
                   DELETE FROM collections WHERE name='notes'; UPDATE max_seq_id SET seq_id=zeroblob(8);";
    let failed = "INSERT INTO collections(id,name,database_id) SELECT '11111111-1111-1111-1111-111111111111','new',database_id FROM collections LIMIT 1;";
    let dimensioned = "UPDATE collections SET dimension=8 WHERE name='new';";
    for (more, want) in [
        (vec![deleted], Severity::Info),
        (vec![deleted, failed], Severity::Info), // it never had a record
        (vec![deleted, failed, dimensioned], Severity::Warning),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fixture("chroma-0.6.3", dir.path());
        let database = Connection::open(dir.path().join("chroma.sqlite3")).unwrap();
        database.pragma_update(None, "foreign_keys", false).unwrap();
        database.execute_batch(&more.concat()).unwrap();
        drop(database);
        let (mut contents, context) = contents(dir.path());
        let reading = whole(&mut contents, &context);
        let findings = &reading.observation.findings;
        let reported =
            findings.iter().find(|f| f.code == Code::OrphanRows && f.subject == "embeddings");
        assert_eq!(reported.map(|finding| finding.severity), Some(want), "{more:?}: {findings:?}");
    }
}

#[test]
fn an_index_that_may_not_be_looked_at_is_a_problem_and_not_absent() {
    // Without its position Chroma 0.6 needs the index to have been flushed before: that is told from its files.
    for closed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        copy_fixture("chroma-0.6.3", dir.path());
        close(dir.path(), false);
        let database = Connection::open(dir.path().join("chroma.sqlite3")).unwrap();
        database
            .execute_batch(
                "DELETE FROM max_seq_id WHERE segment_id IN (SELECT id FROM segments WHERE scope='VECTOR')",
            )
            .unwrap();
        drop(database);
        let (mut contents, context) = contents(dir.path());
        let folders = || {
            let all = std::fs::read_dir(dir.path()).unwrap();
            all.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
        };
        folders().for_each(|folder| {
            age(&folder.join("index_metadata.pickle"));
            close(&folder, closed);
        });
        let seen = as_nobody(move || whole(&mut contents, &context).observation);
        folders().for_each(|folder| close(&folder, false));
        let missing = seen.findings.iter().any(|f| f.code == Code::SeqIdMissing);
        assert_eq!(missing, !closed, "{:?}", seen.findings);
        let refused = seen.problems.iter().map(CollectError::chain);
        let refused: Vec<_> = refused.filter(|said| said.contains("ermission")).collect();
        assert_eq!(refused.is_empty(), !closed, "{refused:?}");
    }
}

/// Sets the time of the last change of a file back by an hour.
fn age(path: &std::path::Path) {
    let at = std::fs::metadata(path).unwrap().modified().unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(at - Duration::from_hours(1)).unwrap();
}

#[test]
fn every_family_of_releases_is_counted() {
    for (name, sysdb) in [
        ("chroma-0.4.24", 4),
        ("chroma-0.5.5", 7),
        ("chroma-0.6.3", 9),
        ("chroma-1.1.1", 9),
        ("chroma-1.5.9", 10),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fixture(name, dir.path());
        let truth = Connection::open(dir.path().join("chroma.sqlite3")).unwrap();
        let records: i64 =
            truth.query_row("SELECT count(*) FROM embeddings", [], |row| row.get(0)).unwrap();
        drop(truth);
        let (mut contents, context) = contents(dir.path());
        let reading = whole(&mut contents, &context);
        assert!(reading.success(), "{name}: {:?}", reading.observation.problems);
        let (facts, catalogue) = (&contents.facts, contents.catalogue.as_ref().unwrap());
        assert_eq!((catalogue.collections.len(), facts.records), (2, Some(records)), "{name}");
        assert_eq!((facts.tenant, facts.database), (Some(true), Some(true)), "{name}");
        assert_eq!(catalogue.counts[0], sysdb, "{name}");
        let lag = &contents.queue.as_ref().unwrap().lag;
        assert_eq!(lag.get(&Scope::Metadata), Some(&0), "{name}");
        let oldest = ["chroma-0.4.24", "chroma-0.5.5"].contains(&name);
        let vector = (!oldest).then_some(&10);
        assert_eq!(lag.get(&Scope::Vector), vector, "{name}");
        assert_eq!(reading.observation.findings, [], "{name}");
    }
}

#[test]
fn what_was_given_up_is_asked_again_although_the_file_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    fixture("chroma-1.5.9", dir.path());
    let (mut contents, context) = contents(dir.path());
    whole(&mut contents, &context);
    (contents.partial, contents.queue, contents.tried) = (true, None, None);
    whole(&mut contents, &context);
    assert!(!contents.partial && contents.queue.is_some());
}

#[test]
fn an_unchanged_file_is_not_opened_again_and_a_missing_one_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    fixture("chroma-1.5.9-fresh", dir.path());
    let (mut contents, context) = contents(dir.path());
    assert!(whole(&mut contents, &context).success());
    let queue = contents.queue.as_ref().unwrap();
    assert!(queue.lag[&Scope::Vector] > 0, "nothing was flushed yet");
    let tried = contents.tried;
    let reading = scheduler::run_once(&mut contents, &context, false, Arc::default());
    assert!(reading.success() && contents.tried == tried);
    std::fs::remove_file(dir.path().join("chroma.sqlite3")).unwrap();
    let reading = scheduler::run_once(&mut contents, &context, false, Arc::default());
    assert!(!reading.success());
    assert!(reading.observation.samples.is_empty(), "old numbers would pass for present ones");
}
