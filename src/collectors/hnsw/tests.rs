use std::{
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{atomic::AtomicBool, mpsc::channel},
};

use super::{
    judge::{Case, judge},
    records::Replay,
    samples::{DELETED_ELEMENTS, ELEMENTS, SEGMENTS, WITHOUT_VECTOR},
    state::State,
    *,
};
use crate::{
    collectors::testing::{as_nobody, context, context_below, copy_fixture, patient},
    config::Config,
    format::{hnsw::LabelProblems, pickle},
    host::{
        Host,
        job_queue::{Size, Wanted},
    },
    sample::Sample,
    scheduler,
    wait::{SOON, wait},
};

/// A collector over a copy of a fixture.
fn segments(fixture: &str, dir: &Path) -> (Hnsw, Context) {
    copy_fixture(fixture, dir);
    let context = context(dir);
    (Hnsw::new(&context), context)
}

fn value(observation: &Observation, desc: &'static Desc, label: Option<&str>) -> Option<f64> {
    let wanted = |sample: &&Sample| {
        sample.desc == desc && label.is_none_or(|label| sample.values.iter().any(|v| v == label))
    };
    observation.samples.iter().find(wanted).map(|sample| sample.value)
}

fn header_of(dir: &Path, elements: u64) -> PathBuf {
    let folders = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.get(20..28) == Some(&elements.to_le_bytes())
    };
    folders.map(|folder| folder.join("header.bin")).find(wanted).unwrap()
}

#[test]
fn an_orphan_stays_one_while_the_database_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, _) = segments("chroma-1.5.9-deleted", dir.path());
    let database = rusqlite::Connection::open(dir.path().join("chroma.sqlite3")).unwrap();
    let mut orphans = |deep| {
        let now = clock::now();
        let seen = segments.collect(&Run { now, wake: Wake::NAMES, deep, stop: Arc::default() });
        let found = seen.findings.iter().filter(|finding| finding.code == Code::SegmentOrphan);
        (found.count(), value(&seen, &SEGMENTS, Some("orphan")))
    };
    assert_eq!(orphans(true), (1, Some(1.0)));
    // What the database said is old from now on, and it cannot be asked again.
    database.execute_batch("DELETE FROM acquire_write; BEGIN EXCLUSIVE").unwrap();
    assert_eq!(orphans(false), (1, Some(1.0)));
    // A folder that is new may be one that it knows.
    let folder = dir.path().join("00000000-0000-4000-8000-000000000000");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("header.bin"), [0; 100]).unwrap();
    assert_eq!(orphans(false), (1, Some(1.0)));
    database.execute_batch("COMMIT").unwrap();
    assert_eq!(orphans(false), (1, Some(2.0)));
}

#[test]
fn a_walk_that_has_no_end_in_time_is_left_out_of_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    copy_fixture("chroma-1.5.9", dir.path());
    let context = context(dir.path());
    let host = Arc::new(Host::read_only(&*context.config));
    let context = Context { host, ..context };
    let left_out = || {
        let mut segments = Hnsw::new(&context);
        scheduler::run_once(&mut segments, &context, false, Arc::default()).observation.left_out
    };
    // On a busy machine there is not always time enough.
    assert!((0..100).any(|_| !left_out().contains(&WALK)));
    // Others have all places of the disk until they are told to go.
    let device = std::fs::metadata(dir.path()).unwrap().dev();
    let stop = Arc::new(AtomicBool::new(false));
    let (store, size) = ("other".into(), Size::Small);
    let wanted = Wanted { name: "other", size, device, store: &store, stop: &stop };
    let places: Vec<_> = (0..4)
        .map(|_| {
            let (has_it, began) = channel();
            let (ends, end) = channel::<()>();
            context.host.job_queue.begin(&wanted, move |permit| {
                has_it.send(()).unwrap();
                drop((end.recv(), permit));
            });
            began.recv().unwrap();
            ends
        })
        .collect();
    assert!(left_out().contains(&WALK));
    drop(places);
}

#[test]
fn every_family_is_counted() {
    for (name, states, elements, deleted) in [
        ("chroma-0.4.24", [2.0, 0.0, 0.0], 120.0, 0.0),
        ("chroma-0.5.5", [2.0, 0.0, 0.0], 120.0, 0.0),
        ("chroma-0.6.3", [2.0, 0.0, 0.0], 120.0, 0.0),
        ("chroma-1.1.1", [2.0, 0.0, 0.0], 120.0, 0.0),
        ("chroma-1.5.9", [2.0, 0.0, 0.0], 120.0, 0.0),
        ("chroma-1.5.9-fresh", [0.0, 2.0, 0.0], 0.0, 0.0),
        ("chroma-1.5.9-deleted", [1.0, 0.0, 1.0], 90.0, 30.0),
        ("chroma-1.5.9-empty", [0.0, 0.0, 0.0], 0.0, 0.0),
    ] {
        for deep in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (mut segments, context) = segments(name, dir.path());
            let reading = scheduler::run_once(&mut segments, &context, deep, Arc::default());
            let seen = &reading.observation;
            assert!(reading.success(), "{name}: {:?}", seen.problems);
            for (state, want) in ["ok", "unpersisted", "orphan"].into_iter().zip(states) {
                assert_eq!(value(seen, &SEGMENTS, Some(state)), Some(want), "{name} {state}");
            }
            assert_eq!(value(seen, &ELEMENTS, None), Some(elements), "{name}");
            if deep {
                assert_eq!(value(seen, &DELETED_ELEMENTS, None), Some(deleted), "{name}");
                assert_eq!(value(seen, &WITHOUT_VECTOR, None), Some(0.0), "{name}");
            }
        }
    }
}

/// Runs the collector until an observation is as wanted.
fn run_until(
    segments: &mut Hnsw,
    context: &Context,
    what: &str,
    wanted: impl Fn(&Observation) -> bool,
) -> Observation {
    wait(what, SOON, || {
        let seen = scheduler::run_once(segments, context, false, Arc::default()).observation;
        if wanted(&seen) { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
}

#[test]
fn what_looks_torn_for_a_moment_is_a_flush_and_what_stays_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, context) = segments("chroma-1.5.9", dir.path());
    let sound = |seen: &Observation| value(seen, &SEGMENTS, Some("ok")) == Some(2.0);
    run_until(&mut segments, &context, "health", |seen| {
        sound(seen) && value(seen, &WITHOUT_VECTOR, None) == Some(0.0)
    });
    let path = header_of(dir.path(), 80);
    let good = std::fs::read(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(40).unwrap();
    let seen = scheduler::run_once(&mut segments, &context, false, Arc::default()).observation;
    assert_eq!(seen.findings, [], "one reading is no proof");
    assert_eq!(value(&seen, &SEGMENTS, Some("flushing")), Some(1.0));
    file.write_all_at(&good, 0).unwrap();
    run_until(&mut segments, &context, "the end of the flush", sound);
    file.set_len(40).unwrap();
    let reported =
        |seen: &Observation| seen.findings.iter().any(|f| f.code == Code::SegmentTruncated);
    let seen = run_until(&mut segments, &context, "the finding", reported);
    assert_eq!(value(&seen, &SEGMENTS, Some("truncated")), Some(1.0));
    file.write_all_at(&good, 0).unwrap();
    run_until(&mut segments, &context, "the end of the finding", |seen| {
        seen.findings.is_empty() && sound(seen)
    });
}

#[test]
fn a_finding_stays_while_its_files_are_not_walked_over_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, context) = segments("chroma-1.5.9", dir.path());
    let path = header_of(dir.path(), 80).with_file_name("data_level0.bin");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 4], 4).unwrap();
    let reported =
        |seen: &Observation| seen.findings.iter().any(|f| f.code == Code::SegmentInconsistent);
    run_until(&mut segments, &context, "the finding", reported);
    // A flush writes other parts of the file: it is not quiet, so nobody has looked at its bytes.
    file.write_all_at(&[0xff; 4], 4).unwrap();
    let seen = scheduler::run_once(&mut segments, &context, false, Arc::default()).observation;
    assert!(reported(&seen), "{seen:?}");
}

#[test]
fn without_a_database_the_folders_are_judged_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, context) = segments("chroma-1.5.9", dir.path());
    std::fs::remove_file(dir.path().join("chroma.sqlite3")).unwrap();
    let reading = scheduler::run_once(&mut segments, &context, true, Arc::default());
    let seen = &reading.observation;
    assert!(!reading.success() && seen.findings.is_empty(), "{seen:?}");
    assert_eq!(value(seen, &SEGMENTS, Some("ok")), Some(2.0));
    assert_eq!(value(seen, &SEGMENTS, Some("missing")), None);
    assert_eq!(value(seen, &SEGMENTS, Some("orphan")), None);
    assert_eq!(value(seen, &WITHOUT_VECTOR, None), None);
    std::fs::File::options()
        .write(true)
        .open(header_of(dir.path(), 80))
        .unwrap()
        .set_len(9)
        .unwrap();
    let seen = scheduler::run_once(&mut Hnsw::new(&context), &context, true, Arc::default());
    let codes: Vec<_> = seen.observation.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::SegmentTruncated]);
}

/// A sound folder with its looks, of which `change` makes a case.
fn verdict(change: impl FnOnce(&mut Row, &mut Compared, &mut LabelProblems)) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, context) = segments("chroma-1.5.9", dir.path());
    drop(scheduler::run_once(&mut segments, &context, true, Arc::default()));
    let (uuid, row) = segments
        .subjects()
        .into_iter()
        .find(|(uuid, _)| {
            let folder = segments
                .directory
                .as_ref()
                .and_then(|directory| directory.folders.get(uuid))
                .unwrap();
            folder.sound_header().unwrap().elements == 80
        })
        .unwrap();
    let folder =
        segments.directory.as_ref().and_then(|directory| directory.folders.get(&uuid)).unwrap();
    let mut deep = segments.known[&uuid].deep.clone().unwrap();
    let mut row = row.unwrap();
    let mut compared = Compared::clone(deep.compared.as_ref().unwrap());
    let mut walked = walk::Walked::clone(deep.walked.as_ref().unwrap());
    assert_eq!((compared.records, compared.known, compared.missing), (86, 79, 0));
    assert_eq!((compared.pending_adds, compared.pending_deletes.len()), (8, 1));
    change(&mut row, &mut compared, &mut walked.labels);
    deep.compared = Some(Arc::new(compared));
    deep.walked = Some(Arc::new(walked));
    let case =
        Case { folder: Some(folder), row: Some(&row), deep: Some(&deep), replay: Replay::Whole };
    judge(case, "segment")
}

#[test]
fn what_the_queue_explains_is_a_flush_that_was_cut_off() {
    let said = |verdict: &Verdict| verdict.finding.as_ref().map(|finding| finding.code);
    let deleted = pickle::hash(b"articles-010");
    for (above, marked, want) in [
        (0, None, (State::Ok, None)),
        (8, None, (State::Flushing, None)),
        (9, None, (State::Torn, Some(Code::SegmentInconsistent))),
        (0, Some(deleted), (State::Flushing, None)),
        (0, Some(1), (State::Torn, Some(Code::SegmentInconsistent))),
    ] {
        let verdict = verdict(|_, _, labels| {
            labels.above_total = above;
            labels.marked = marked.into_iter().collect();
            labels.marked_count = labels.marked.len() as u64;
        });
        assert_eq!((verdict.state, said(&verdict)), want, "{above} {marked:?}");
    }
}

#[test]
fn records_and_ids_that_do_not_meet_are_told_by_their_cause() {
    use Code::{RecordsWithoutVector, SegmentAhead, SegmentBehind, SegmentInconsistent};
    type Change = fn(&mut Row, &mut Compared);
    let cases: [(&str, Change, Option<Code>); 10] = [
        ("nothing", |_, _| {}, None),
        ("lost here and there", |_, c| c.missing = 5, Some(RecordsWithoutVector)),
        ("the newest lost", |_, c| (c.missing, c.missing_last) = (5, true), Some(SegmentBehind)),
        (
            "a position that the queue never had",
            |_, c| (c.missing, c.position_ahead) = (5, true),
            None,
        ),
        ("newer ids", |_, c| (c.strays, c.strays_last) = (5, true), Some(SegmentAhead)),
        (
            "newer ids, and records without a vector",
            |_, c| (c.strays, c.strays_last, c.missing) = (5, true, 5),
            Some(SegmentBehind),
        ),
        ("an old id that nobody has", |_, c| (c.strays, c.strays_last) = (1, false), None),
        (
            "other ids",
            |_, c| (c.strays, c.known, c.missing) = (80, 0, 86),
            Some(SegmentInconsistent),
        ),
        (
            "other vectors, which no vector in the queue contradicts",
            |row, c| (row.dimension, c.pending_adds) = (Some(9), 0),
            Some(SegmentInconsistent),
        ),
        ("own ids, and vectors in the queue that tell it", |row, _| row.dimension = Some(9), None),
    ];
    for (what, change, want) in cases {
        let verdict = verdict(|row, compared, _| change(row, compared));
        assert_eq!(verdict.finding.map(|finding| finding.code), want, "{what}");
    }
}

#[test]
fn a_restart_neither_ends_nor_begins_anything_and_reads_no_index_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (first, context) = segments("chroma-1.5.9", &dir.path().join("store"));
    drop(first);
    let start = || {
        let state_dir = Some(dir.path().join("state"));
        let config = Arc::new(Config { state_dir, collect: patient(), ..Config::default() });
        let host = Arc::new(Host::new(&config));
        let context = Context::new(&config, &context.store, &host);
        (Hnsw::new(&context), context)
    };
    let path = header_of(&dir.path().join("store"), 80).with_file_name("data_level0.bin");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 4], 4).unwrap();
    let reported = |seen: &Observation| {
        let torn = seen.findings.iter().find(|f| f.code == Code::SegmentInconsistent);
        torn.map(|finding| finding.evidence.clone())
    };
    let (mut before, context) = start();
    let seen = run_until(&mut before, &context, "the finding", |seen| {
        reported(seen).is_some() && value(seen, &WITHOUT_VECTOR, None).is_some()
    });
    let (evidence, lost) = (reported(&seen), value(&seen, &WITHOUT_VECTOR, None));
    drop((before, context));

    for _ in 0..2 {
        let (mut after, context) = start();
        let seen = scheduler::run_once(&mut after, &context, false, Arc::default()).observation;
        assert_eq!(reported(&seen), evidence, "in the first turn");
        assert_eq!(value(&seen, &WITHOUT_VECTOR, None), lost);
        assert_eq!(value(&seen, &SEGMENTS, Some("torn")), Some(1.0));
        assert_eq!(after.deep_runs, 0, "nobody wrote the files");
        assert!(after.job.is_none());
    }
    // Mended while nobody looked: told until that is known, and not for longer.
    std::fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/chroma-1.5.9")
            .join(path.strip_prefix(dir.path().join("store")).unwrap()),
        &path,
    )
    .unwrap();
    let (mut after, context) = start();
    let seen = scheduler::run_once(&mut after, &context, false, Arc::default()).observation;
    assert!(reported(&seen).is_some(), "not looked at yet");
    run_until(&mut after, &context, "the end of the finding", |seen| reported(seen).is_none());
    drop((after, context));
    let (mut newest, context) = start();
    let seen = scheduler::run_once(&mut newest, &context, false, Arc::default()).observation;
    assert_eq!(reported(&seen), None);
}

#[test]
fn a_server_that_flushes_all_the_time_is_never_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, context) = segments("chroma-1.5.9", dir.path());
    let level0 = header_of(dir.path(), 80).with_file_name("data_level0.bin");
    let whole = std::fs::read(&level0).unwrap();
    let mut codes = || {
        let codes: Vec<Code> = scheduler::run_once(&mut segments, &context, false, Arc::default())
            .observation
            .findings
            .iter()
            .map(|finding| finding.code)
            .collect();
        std::thread::sleep(Duration::from_millis(120));
        codes
    };
    assert_eq!(codes(), []);
    // The header is written first: for a moment the elements are too few for it, another time and place at each flush.
    for round in 0..12 {
        std::fs::write(&level0, &whole[..5000 - 8 * round]).unwrap();
        assert_eq!(codes(), [], "round {round}");
        std::fs::write(&level0, &whole).unwrap();
        assert_eq!(codes(), [], "round {round}");
    }
    // The same file in the same state is damage, and ends with the next flush, before anything is quiet.
    std::fs::write(&level0, &whole[..4000]).unwrap();
    let mut rounds = 0;
    while codes() != [Code::SegmentTruncated] {
        rounds += 1;
        assert!(rounds < 100, "waited for the finding");
    }
    std::fs::write(&level0, &whole).unwrap();
    assert_eq!(codes(), []);
}

#[test]
fn a_folder_that_is_an_absolute_link_lies_below_the_root_of_its_host() {
    for inside_is_whole in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let rootfs = root.join("host");
        let store = rootfs.join("srv/store");
        copy_fixture("chroma-1.5.9", &store);
        // The link has one target here and another one there.
        let folder = header_of(&store, 80).parent().unwrap().to_owned();
        let here = root.join("segments");
        let there = rootfs.join(here.strip_prefix("/").unwrap());
        std::fs::create_dir_all(there.parent().unwrap()).unwrap();
        std::fs::rename(&folder, &there).unwrap();
        std::fs::create_dir(&here).unwrap();
        for file in std::fs::read_dir(&there).unwrap().map(|file| file.unwrap()) {
            std::fs::copy(file.path(), here.join(file.file_name())).unwrap();
        }
        std::os::unix::fs::symlink(&here, &folder).unwrap();
        let broken = if inside_is_whole { &here } else { &there };
        std::fs::File::options()
            .write(true)
            .open(broken.join("data_level0.bin"))
            .unwrap()
            .set_len(100)
            .unwrap();
        let context = context_below(&rootfs, "/srv/store");
        let mut segments = Hnsw::new(&context);
        let reading = scheduler::run_once(&mut segments, &context, true, Arc::default());
        assert!(reading.success(), "{:?}", reading.observation.problems);
        let codes: Vec<Code> = reading.observation.findings.iter().map(|f| f.code).collect();
        let want = if inside_is_whole { &[][..] } else { &[Code::SegmentTruncated] };
        assert_eq!(codes, want, "inside is whole: {inside_is_whole}");
    }
}

#[test]
fn what_may_not_be_read_is_told_as_that_and_never_as_damage() {
    let root = rustix::process::geteuid().is_root();
    // Root reads everything; whoever owns the files may open them again.
    let closed = if root { 0o700 } else { 0o000 };
    for (what, part, mode) in [
        ("the folder", None, closed),
        ("a folder that lists its names only", None, if root { 0o704 } else { 0o400 }),
        ("the header", Some("header.bin"), closed & 0o600),
        ("the elements", Some("data_level0.bin"), closed & 0o600),
        ("the metadata", Some("index_metadata.pickle"), closed & 0o600),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
        };
        open(dir.path(), 0o755);
        let (mut segments, context) = segments("chroma-1.5.9", dir.path());
        let header = header_of(dir.path(), 80);
        let path = match part {
            Some(part) => header.with_file_name(part),
            None => header.parent().unwrap().to_owned(),
        };
        open(&path, mode);
        let seen = as_nobody(move || {
            scheduler::run_once(&mut segments, &context, true, Arc::default()).observation
        });
        open(&path, 0o755);
        assert_eq!(seen.findings, [], "{what}");
        assert_eq!(value(&seen, &SEGMENTS, Some("unreadable")), Some(1.0), "{what}");
        assert_eq!(value(&seen, &SEGMENTS, Some("ok")), Some(1.0), "{what}");
        assert_eq!(value(&seen, &WITHOUT_VECTOR, None), None, "{what}: nobody knows");
        let reported =
            seen.problems.iter().any(|problem| problem.chain().contains("ermission denied"));
        assert!(reported, "{what}: {:?}", seen.problems);
    }
}

#[test]
fn ids_that_the_database_does_not_know_are_named() {
    for name in ["chroma-0.6.3", "chroma-1.5.9"] {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, context) = segments(name, dir.path());
        let newer =
            "SELECT id FROM embeddings WHERE embedding_id >= 'articles-060' AND embedding_id < 'b'";
        let database = rusqlite::Connection::open(dir.path().join("chroma.sqlite3")).unwrap();
        database
            .execute_batch(&format!(
                "PRAGMA foreign_keys=OFF; DELETE FROM embedding_metadata WHERE id IN ({newer}); DELETE FROM embeddings WHERE id IN ({newer}); \
                 DELETE FROM embeddings_queue WHERE seq_id < 90 AND seq_id > 60"
            ))
            .unwrap();
        drop(database);
        let reading = scheduler::run_once(&mut segments, &context, true, Arc::default());
        let findings = &reading.observation.findings;
        let ahead = findings.iter().find(|finding| finding.code == Code::SegmentAhead);
        let ahead = ahead.unwrap_or_else(|| panic!("{name}: {findings:?}"));
        let mut ids = ahead.items.clone();
        ids.sort();
        assert_eq!(ids.len() as u64, ahead.items_total, "{name}");
        assert_eq!(ids.first().map(String::as_str), Some("articles-060"), "{name}: {ids:?}");
        assert!(ids.iter().all(|id| id.starts_with("articles-0")), "{name}: {ids:?}");
        assert!(ahead.evidence.contains("(articles-0"), "{name}: {}", ahead.evidence);
    }
}

/// Blocks of a large file that was just written are given to it seconds later. With them in the comparison, what was found in an
/// index was forgotten, and said only minutes later.
#[test]
fn the_room_on_the_disk_does_not_make_it_another_file() {
    let dir = tempfile::tempdir().unwrap();
    copy_fixture("chroma-1.5.9", dir.path());
    let place = crate::host::links::Place::own(dir.path());
    let directory = Directory::take(&place, usize::MAX, None).unwrap();
    let file = directory.folders.values().next().unwrap().file(directory::Part::Level0).unwrap();
    let mut later = file;
    later.allocated_bytes += 4096;
    assert_eq!(file, later);
    later.size_bytes += 1;
    assert_ne!(file, later);
}
