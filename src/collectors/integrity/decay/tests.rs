use std::os::unix::fs::FileExt;

use rusqlite::Connection;

use super::{subject::SEGMENT_FILES, *};
use crate::{
    clock,
    collectors::testing::{as_nobody, close, context, copy_fixture},
    findings::Code,
    host::processes::FileId,
    store::DATABASE_FILE,
};

/// A copy of a fixture and what is known of it.
struct Scene {
    dir: tempfile::TempDir,
    context: Context,
    ledger: Ledger,
    stop: AtomicBool,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_fixture("chroma-1.5.9", dir.path());
        let context = context(dir.path());
        Self { dir, context, ledger: Ledger::default(), stop: AtomicBool::new(false) }
    }

    /// An hour from now, in the same boot: everything is quiet, and everything is read.
    fn mode(&self) -> PassMode<'_> {
        PassMode {
            now: clock::now().plus(Duration::from_hours(1)),
            all: true,
            again_after: None,
            boot: Some("boot"),
            ended_in: None,
            learn: true,
            stop: &self.stop,
        }
    }

    fn pass(&mut self) -> Passed {
        let mut ledger = self.ledger.clone();
        let passed = pass(&self.context, &mut ledger, &self.mode());
        self.ledger = ledger;
        assert!(passed.problem.is_none(), "{passed:?}");
        passed
    }

    fn path(&self, part: &str) -> PathBuf {
        if part == DATABASE_FILE {
            return self.dir.path().join(part);
        }
        let subjects = subjects(&self.context).unwrap().list;
        let folder = subjects.iter().find(|subject| !subject.is_database()).unwrap();
        self.dir.path().join(&folder.name).join(part)
    }

    /// Flips a bit of a file as a disk would: what is known of its state goes on to be so.
    fn rot(&mut self, path: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        self.untouched(path);
    }

    /// Makes the ledger believe that nobody wrote to `path`: the inode's times cannot be set back.
    fn untouched(&mut self, path: &Path) {
        for subject in subjects(&self.context).unwrap().list {
            let Some(group) = self.ledger.groups.get_mut(&subject.name) else { continue };
            for seen in &subject.files {
                let mine =
                    self.context.store.seen_path.join(&subject.name).join(subject.file(seen));
                let is_it = mine == path || subject.is_database() && path.ends_with(DATABASE_FILE);
                if let Some(known) = group.files.iter_mut().find(|k| k.part == seen.part && is_it) {
                    let hashes = known.hashes().to_vec();
                    *known = Known::new(seen.part, seen.state, known.region_log2, hashes);
                }
            }
        }
    }
}

#[test]
fn a_bit_that_flips_is_found_in_every_file_and_told_until_the_file_is_written() {
    for part in SEGMENT_FILES.into_iter().chain([DATABASE_FILE]) {
        let mut scene = Scene::new();
        let first = scene.pass();
        assert!(first.findings.is_empty() && first.total_bytes > 100_000, "{first:?}");
        assert_eq!(first.known_bytes, first.total_bytes);
        let path = scene.path(part);
        // The last byte: of a vector, an id, a page that no table may use.
        let last = fs::metadata(&path).unwrap().len() - 1;
        scene.rot(&path, last);
        // On a machine that is busy a pass leaves out what would hold a lock for too long.
        let mut passes = (0..100).map(|_| scene.pass().findings);
        let said = passes.find(|said| !said.is_empty()).unwrap_or_default();
        let code = match part {
            DATABASE_FILE => Code::SqliteCorrupt,
            _ => Code::SegmentInconsistent,
        };
        assert_eq!(said.iter().map(|f| f.code).collect::<Vec<_>>(), [code], "{part}");
        assert!(said[0].evidence.contains("nobody wrote them: 1 of "), "{}", said[0].evidence);
        assert!(said[0].evidence.contains("gave the same"), "{}", said[0].evidence);
        assert!(path.to_string_lossy().contains(&said[0].subject));
        let remedy = said[0].remedy.clone().unwrap().text();
        assert!(remedy.contains(part) && remedy.contains("verified backup"), "{remedy}");

        // Told in every pass, also in one that reads nothing.
        let mode = PassMode { all: false, ..scene.mode() };
        let mut ledger = scene.ledger.clone();
        assert_eq!(pass(&scene.context, &mut ledger, &mode).findings, said, "{part}");
        // And when the right bytes come back by themselves.
        scene.rot(&path, last);
        let again = scene.pass().findings;
        assert!(again[0].evidence.ends_with("the fault comes and goes"), "{again:?}");
        // Until somebody puts the file back.
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert_eq!(scene.pass().findings, [], "{part}");
    }
}

#[test]
fn what_is_known_of_a_folder_that_may_not_be_looked_into_stays_and_the_rest_is_read() {
    let mut scene = Scene::new();
    close(scene.dir.path(), false);
    scene.pass();
    let (before, folder) = (scene.ledger.groups.len(), scene.path("header.bin"));
    close(folder.parent().unwrap(), true);
    let (scene, passed, after) = as_nobody(move || {
        let mut ledger = scene.ledger.clone();
        let passed = pass(&scene.context, &mut ledger, &scene.mode());
        (scene, passed, ledger.groups.len())
    });
    close(folder.parent().unwrap(), false);
    let told = passed.problem.map(|problem| problem.chain()).unwrap_or_default();
    assert!(told.contains("ermission denied"), "{told}");
    assert_eq!(before, after, "nothing is forgotten");
    assert!(passed.known_bytes > 100_000, "the database and the other folder were read");
    drop(scene);
}

#[test]
fn whoever_writes_ends_what_was_known_without_an_alarm() {
    type Act = fn(&Scene);
    let acts: [(&str, Act); 7] = [
        ("a commit", |scene| write_sql(scene, "CREATE TABLE more(x); INSERT INTO more VALUES(1)")),
        ("a vacuum", |scene| write_sql(scene, "VACUUM")),
        ("a transaction that is rolled back after its pages were spilled", |scene| {
            write_sql(
                scene,
                "PRAGMA cache_size=1; PRAGMA cache_spill=1; BEGIN; CREATE TABLE big(x); \
                 INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) \
                 SELECT randomblob(4000) FROM n; ROLLBACK",
            );
        }),
        ("a restore that keeps the times: another inode", |scene| {
            let path = scene.path("data_level0.bin");
            let copy = path.with_extension("copy");
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&copy, bytes).unwrap();
            keep_times(&path, &copy);
            fs::rename(&copy, &path).unwrap();
        }),
        ("cp -p over the same file: another ctime", |scene| {
            let path = scene.path("data_level0.bin");
            let times = fs::metadata(&path).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(times.modified().unwrap()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), times.modified().unwrap());
        }),
        ("a flush that makes a file longer", |scene| {
            let path = scene.path("length.bin");
            let mut bytes = fs::read(&path).unwrap();
            bytes.resize(bytes.len() + 100_000, 7);
            fs::write(&path, bytes).unwrap();
        }),
        ("a collection that is deleted", |scene| {
            fs::remove_dir_all(scene.path("header.bin").parent().unwrap()).unwrap();
        }),
    ];
    for (what, act) in acts {
        let mut scene = Scene::new();
        scene.pass();
        act(&scene);
        // Written a moment ago: nothing is noted yet, and what did not change is still guarded.
        let mode = PassMode { now: clock::now(), ..scene.mode() };
        let mut ledger = scene.ledger.clone();
        let soon = pass(&scene.context, &mut ledger, &mode);
        assert_eq!(soon.findings, [], "{what}");
        assert!(soon.known_bytes <= soon.total_bytes, "{what}");
        assert_eq!(soon.unsettled, soon.known_bytes < soon.total_bytes, "{what}");
        scene.ledger = ledger;
        for _ in 0..2 {
            let later = scene.pass();
            assert_eq!(later.findings, [], "{what}");
            assert_eq!((later.known_bytes, later.unsettled), (later.total_bytes, false), "{what}");
        }
    }
}

fn write_sql(scene: &Scene, sql: &str) {
    Connection::open(scene.path(DATABASE_FILE)).unwrap().execute_batch(sql).unwrap();
}

fn keep_times(from: &Path, to: &Path) {
    let times = fs::metadata(from).unwrap();
    let file = File::options().write(true).open(to).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
}

#[test]
fn after_a_crash_of_the_host_nothing_is_compared_and_after_an_end_in_order_everything() {
    for (boot, ended_in, want) in [
        ("boot", None, 1),
        ("next", None, 0),         // times of change may have been lost
        ("next", Some("boot"), 1), // they were written out
        ("next", Some("an older one"), 0),
    ] {
        let mut scene = Scene::new();
        scene.pass();
        let path = scene.path("data_level0.bin");
        scene.rot(&path, 100);
        let mode = PassMode { boot: Some(boot), ended_in, ..scene.mode() };
        let mut ledger = scene.ledger.clone();
        let passed = pass(&scene.context, &mut ledger, &mode);
        assert_eq!(passed.findings.len(), want, "{boot} {ended_in:?}");
        assert_eq!(passed.known_bytes, passed.total_bytes);
        // What was told is not forgotten by a crash.
        let mode = PassMode { boot: Some("later"), ended_in: None, ..scene.mode() };
        assert_eq!(pass(&scene.context, &mut ledger, &mode).findings.len(), want);
    }
}

#[test]
fn who_only_reads_compares_and_learns_nothing() {
    let mut scene = Scene::new();
    let reader = |scene: &Scene, ledger: &mut Ledger| {
        pass(&scene.context, ledger, &PassMode { learn: false, ..scene.mode() })
    };
    let mut nothing = Ledger::default();
    let passed = reader(&scene, &mut nothing);
    assert_eq!((passed.findings.len(), passed.known_bytes), (0, 0));
    assert!(nothing.groups.is_empty());
    scene.pass();
    let path = scene.path(DATABASE_FILE);
    scene.rot(&path, 5000);
    let mut ledger = scene.ledger.clone();
    assert_eq!(reader(&scene, &mut ledger).findings.len(), 1);
}

#[test]
fn a_pass_that_nobody_wants_any_more_keeps_what_is_known() {
    let mut scene = Scene::new();
    scene.pass();
    let before = scene.ledger.clone();
    scene.stop.store(true, Ordering::Relaxed);
    let passed = scene.pass();
    assert_eq!((passed.findings.len(), passed.unfinished), (0, Some("stopped")));
    assert_eq!(scene.ledger, before);
}

#[test]
fn what_is_read_when() {
    let at = |secs: u64| Timestamp::from_secs(1_795_000_000).plus(Duration::from_secs(secs));
    let subject = |name: &str, changed: u64| {
        let id = FileId { device: 1, inode: 2 };
        let (modified, changed) = (at(0), at(changed));
        let stamp = Stamp { id, size_bytes: 10, modified, changed };
        Subject { name: name.to_owned(), files: vec![FileState { part: 0, stamp, state: 7 }] }
    };
    let known = |good: u64| Group {
        good: at(good),
        files: vec![Known::new(0, 7, 16, vec![1])],
        told: Vec::new(),
    };
    let (database, segment) = (subject(DATABASE_FILE, 100), subject("folder", 100));
    let hour = Some(Duration::from_hours(1));
    let stop = AtomicBool::new(false);
    for (what, subject, group, now, all, again_after, learn, want) in [
        ("a new database, just written", &database, None, 104, false, hour, true, Decision::Wait),
        ("quiet", &database, None, 105, false, hour, true, Decision::Read),
        (
            "quiet, but nobody would keep it",
            &database,
            None,
            105,
            false,
            hour,
            false,
            Decision::Rest,
        ),
        ("a new segment", &segment, None, 159, true, hour, true, Decision::Wait),
        ("quiet", &segment, None, 160, false, None, true, Decision::Read),
        ("a time in the future", &segment, None, 50, false, hour, true, Decision::Wait),
        ("known", &segment, Some(known(200)), 300, false, hour, true, Decision::Rest),
        ("known for long", &segment, Some(known(200)), 3800, false, hour, true, Decision::Read),
        (
            "known for long, outside the window",
            &segment,
            Some(known(200)),
            3800,
            false,
            None,
            true,
            Decision::Rest,
        ),
        ("asked for", &segment, Some(known(200)), 201, true, None, false, Decision::Read),
        (
            "read in the future: the clock went back",
            &segment,
            Some(known(900)),
            300,
            false,
            hour,
            true,
            Decision::Read,
        ),
    ] {
        let mode = PassMode {
            now: at(now),
            all,
            again_after,
            boot: None,
            ended_in: None,
            learn,
            stop: &stop,
        };
        assert_eq!(decide(subject, group.as_ref(), &mode), want, "{what}");
    }
}
