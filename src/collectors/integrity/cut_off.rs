//! Restores that were cut off: what they left beside the store or in it, and that nobody works on any more.

use std::{path::Path, time::Duration};

use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Severity},
    sample::Restored,
    store::{
        DATABASE_FILE,
        restores::{self, Found, Origin, State},
    },
};

/// The link alone, where the folder of the restore cannot be read.
pub(super) fn gate() -> Finding {
    let evidence = format!(
        "{DATABASE_FILE} is the link that a restore leaves when it is cut off: no Chroma can open it"
    );
    Finding::new(Code::RestoreInterrupted, DATABASE_FILE, evidence)
}

/// What restores of a store have left.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Left {
    /// What was cut off.
    pub(super) findings: Vec<Finding>,
    /// What came to its end, the newest first.
    pub(super) done: Vec<Restored>,
}

/// What restores of the store in `dir` have left.
pub(super) fn find(dir: &Path, now: Timestamp) -> Left {
    let found = restores::seen(dir);
    let done = found.iter().filter_map(done).take(DONE_MAX).collect();
    Left { findings: cut_off(dir, found, now), done }
}

fn done(found: &Found) -> Option<Restored> {
    let record = &found.record;
    let undone = record.state == State::Undone;
    if found.is_unfinished() || record.undo && !undone {
        return None;
    }
    // As the host of the store calls it, whatever root it is seen through.
    let above = if found.inside { Some(&*record.store) } else { record.store.parent() };
    Some(Restored {
        at: record.changed,
        what: match record.came {
            Origin::Backup => format!("restored from {}", record.backup),
            Origin::Repair if record.done.is_empty() => "repaired".to_owned(),
            Origin::Repair => format!("repaired: {}", record.done.join("; ")),
            Origin::Nothing => "begun anew, empty".to_owned(),
        },
        kept: above.unwrap_or(Path::new("/")).join(found.path.file_name()?),
        undone,
        undoable: !undone && record.had_database,
    })
}

fn cut_off(dir: &Path, mut found: Vec<Found>, now: Timestamp) -> Vec<Finding> {
    let left = |found: &Found| found.is_unfinished() && is_left(found, now);
    found.retain(left);
    if found.is_empty() {
        return Vec::new();
    }
    // One that begins at this moment has its folder before it has its lock.
    std::thread::sleep(PAUSE);
    let mut again = restores::seen(dir);
    again.retain(|one| left(one) && found.iter().any(|before| before.record == one.record));
    let gate = restores::is_gate(&dir.join(DATABASE_FILE));
    again.iter().map(|one| finding(one, gate)).collect()
}

/// Whether nobody works on it. Where locks cannot be asked for, only one that is old is.
fn is_left(found: &Found, now: Timestamp) -> bool {
    found.is_at_work().map_or(now.since(found.record.changed) > OLD, |at_work| !at_work)
}

fn finding(found: &Found, gate: bool) -> Finding {
    let record = &found.record;
    let what = if record.undo { "the undo of a restore" } else { "a restore" };
    let (backup, began) = (&record.backup, record.began);
    let name = found.path.file_name().unwrap_or_default().to_string_lossy();
    let place = if found.inside { "in" } else { "beside" };
    let (severity, how) = match record.state {
        State::Swapping if gate => (
            Severity::Critical,
            format!(
                "while files were exchanged: {DATABASE_FILE} is a link that no Chroma can open, and what was there is in"
            ),
        ),
        State::Swapping => (
            Severity::Warning,
            "while the content was exchanged. What belongs to it is in".to_owned(),
        ),
        State::Staging => {
            (Severity::Info, "before it changed the store. Its copy takes room in".to_owned())
        }
        State::Restored | State::Undone => {
            (Severity::Info, "after everything was in place. What was there is in".to_owned())
        }
    };
    let evidence = format!(
        "{what} from {backup}, begun at {began}, was cut off {how} {name}, {place} the directory"
    );
    Finding::new(Code::RestoreInterrupted, name, evidence).with_severity(severity)
}

/// Restores that are told of.
const DONE_MAX: usize = 20;
const PAUSE: Duration = Duration::from_millis(250);
const OLD: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_796_004_100);

    /// The folder of a restore.
    fn leave(path: &Path, store: &Path, state: &str) {
        fs::create_dir_all(path).unwrap();
        let record = serde_json::json!({
            "format": 1, "by": "chroma_exporter", "state": state, "store": store, "backup": "/b/x.tar",
            "began": "2026-11-30T02:00:00Z", "changed": "2026-11-30T02:00:01Z",
        });
        fs::write(path.join("restore.json"), record.to_string()).unwrap();
    }

    #[test]
    fn what_is_told_follows_from_how_far_it_came() {
        for (name, state, gate, want) in [
            (".chroma.restore.1", "staging", false, Some((Severity::Info, "takes room"))),
            (
                ".chroma.restore.1",
                "swapping",
                false,
                Some((Severity::Warning, "beside the directory")),
            ),
            (
                "chroma/.chroma_exporter.restore.1",
                "swapping",
                true,
                Some((Severity::Critical, "in the directory")),
            ),
            (".chroma.restore.1", "restored", false, Some((Severity::Info, "in place"))),
            ("chroma.quarantine.1", "restored", false, None),
            (".other.restore.1", "staging", false, None),
        ] {
            let scratch = tempfile::tempdir().unwrap();
            let store = scratch.path().join("chroma");
            fs::create_dir(&store).unwrap();
            // Where the restore ran, the store had another path.
            leave(&scratch.path().join(name), Path::new("/data/chroma"), state);
            if gate {
                symlink(".", store.join(DATABASE_FILE)).unwrap();
            }
            let Left { findings: found, done } = find(&store, NOW);
            assert_eq!(done.len(), usize::from(name == "chroma.quarantine.1"), "{name} {state}");
            if let [done] = &done[..] {
                assert_eq!(done.kept, Path::new("/data").join(name), "as where the restore ran");
                assert!(!done.undone && !done.undoable, "there was no database: {done:?}");
            }
            let reported =
                found.first().map(|finding| (finding.severity, finding.evidence.as_str()));
            match (reported, want) {
                (None, None) => {}
                (Some((severity, words)), Some((as_grave, part))) => {
                    assert_eq!(severity, as_grave, "{name} {state}");
                    assert!(words.contains(part), "{name} {state}: {words}");
                }
                other => panic!("{name} {state}: {other:?}"),
            }
        }
    }

    #[test]
    fn one_that_is_at_work_is_not_told() {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("chroma");
        let folder = scratch.path().join(".chroma.restore.1");
        leave(&folder, &store, "swapping");
        let lock = fs::File::open(&folder).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(find(&store, NOW), Left::default());
        drop(lock);
        assert_eq!(find(&store, NOW).findings.len(), 1);
    }
}
