//! Backups of a store: the newest complete one, its age, size, and how many there are. Told from a few bytes of each, not
//! from its content: whether it restores is another question. A store without patterns expects no backups, and nothing is
//! said of them.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{CollectError, Collector, Pace, Turn};
use crate::{
    clock::Timestamp,
    config::CollectorName,
    findings::{Code, Finding, Severity},
    format::{
        backup_name::date_in,
        sqlite::{HEADER_LEN, SqliteHeader},
    },
    host::walk::{Bounds, DEPTH_MAX, walk},
    sample::{Desc, Observation},
    store::{Context, DATABASE_FILE},
    watch::Wake,
};

static NEWEST: Desc = Desc::gauge(
    "chroma_backup_last_success_timestamp_seconds",
    "When the newest complete backup was made, as seconds since the epoch, cached; absent when there is none.",
);
static AGE: Desc = Desc::gauge(
    "chroma_backup_age_seconds",
    "Age of the newest complete backup, cached; absent when there is none.",
);
static SIZE: Desc = Desc::gauge(
    "chroma_backup_size_bytes",
    "Size of the newest complete backup, cached; absent when there is none.",
);
static COUNT: Desc = Desc::gauge("chroma_backups", "Complete backups that were found, cached.");
static INCOMPLETE: Desc = Desc::gauge(
    "chroma_backups_incomplete",
    "Files and directories in the place of backups that are none, by reason, cached.",
)
.labelled(&["reason"]);
static SAME_FILESYSTEM: Desc = Desc::gauge(
    "chroma_backup_same_filesystem",
    "Whether the newest complete backup lies on the filesystem of the store, cached.",
);

static DESCS: [&Desc; 6] = [&NEWEST, &AGE, &SIZE, &COUNT, &INCOMPLETE, &SAME_FILESYSTEM];

static CODES: [Code; 5] = [
    Code::BackupMissing,
    Code::BackupStale,
    Code::BackupInvalid,
    Code::BackupShrunk,
    Code::BackupSameDisk,
];

/// Why something is not a complete backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Empty,
    Growing,
    Future,
    Damaged,
    Unreadable,
}

impl Reason {
    const ALL: [Self; 5] =
        [Self::Empty, Self::Growing, Self::Future, Self::Damaged, Self::Unreadable];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Growing => "growing",
            Self::Future => "future",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One file or directory in the place of backups.
#[derive(Debug, Clone, PartialEq)]
struct Backup {
    path: PathBuf,
    directory: bool,
    taken: Timestamp,
    device: u64,
    /// Bytes when it is complete, otherwise why it is not and in which words.
    state: Result<u64, (Reason, String)>,
}

/// What the last look saw of an entry, so that one that has not changed is not read again.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    stamp: [[i64; 3]; 2],
    content: Result<u64, (Reason, String)>,
}

/// The collector.
#[derive(Debug)]
pub struct Backups {
    context: Context,
    seen: BTreeMap<PathBuf, Seen>,
    /// The directory and database of the store itself, as (device, inode), when last known.
    own: Vec<(u64, u64)>,
}

impl Backups {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self { context: context.clone(), seen: BTreeMap::new(), own: Vec::new() }
    }

    fn look(&mut self, turn: &Turn, problems: &mut Vec<CollectError>) -> Vec<Backup> {
        let mut paths = Vec::new();
        for pattern in &self.context.store.backups.globs {
            // The configuration refuses patterns that are none.
            let Ok(found) = glob::glob(pattern) else { continue };
            for entry in found {
                match entry {
                    Ok(path) => paths.push(path),
                    Err(error) => {
                        let path = error.path().to_owned();
                        problems.push(CollectError::Unreadable { path, source: error.into() });
                    }
                }
                if paths.len() > BACKUPS_MAX || turn.stopped() {
                    let (path, what) = (PathBuf::from(pattern), "backups");
                    problems.push(CollectError::TooMany { path, what, bound: BACKUPS_MAX });
                    break;
                }
            }
        }
        paths.sort();
        paths.dedup();
        self.seen.retain(|path, _| paths.binary_search(path).is_ok());
        paths.iter().filter_map(|path| self.judge(path, turn)).collect()
    }

    /// `None` for what vanished meanwhile.
    fn judge(&mut self, path: &Path, turn: &Turn) -> Option<Backup> {
        let unreadable = |error: &io::Error| {
            let (taken, words) = (Timestamp::from_secs(0), error.to_string());
            let state = Err((Reason::Unreadable, words));
            Some(Backup { path: path.into(), directory: false, taken, device: 0, state })
        };
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return unreadable(&error),
        };
        let database = meta.is_dir().then(|| database_in(path)).flatten();
        // The store is no backup of itself, and neither is a hard link to its database. Opening it here would be worse than
        // wrong: the close would drop the lock of a check of this process.
        let is_own = |meta: &Metadata| self.own.contains(&(meta.dev(), meta.ino()));
        if is_own(&meta)
            || database.as_ref().is_some_and(|(_, meta)| is_own(meta))
            || beside_a_backup(path)
        {
            return None;
        }
        let changed = changed(&meta, database.as_ref().map(|(_, meta)| meta));
        let taken = taken(path, changed);
        let state = self.state(path, &meta, database.as_ref(), changed, taken, turn);
        Some(Backup {
            path: path.into(),
            directory: meta.is_dir(),
            taken,
            device: meta.dev(),
            state,
        })
    }

    fn state(
        &mut self,
        path: &Path,
        meta: &Metadata,
        database: Option<&(PathBuf, Metadata)>,
        changed: Timestamp,
        taken: Timestamp,
        turn: &Turn,
    ) -> Result<u64, (Reason, String)> {
        let no = |reason, words: &str| Err((reason, words.to_owned()));
        let (now, settle) = (turn.now, self.context.store.backups.settle);
        if changed > now.plus(FUTURE_SLACK) || taken > now.plus(NAME_SLACK) {
            return no(Reason::Future, "it is dated in the future");
        }
        if now.since(changed) < settle {
            return no(Reason::Growing, "it changed a moment ago and may still be growing");
        }
        let stamp = stamp(meta, database.map(|(_, meta)| meta));
        if let Some(seen) = self.seen.get(path).filter(|seen| seen.stamp == stamp) {
            return seen.content.clone();
        }
        let content = if meta.is_dir() {
            directory_content(path, database, self.context.config.collect.entries_max)
        } else {
            archive_content(path, meta)
        };
        self.seen.insert(path.into(), Seen { stamp, content: content.clone() });
        content
    }

    fn findings(
        &self,
        backups: &[Backup],
        now: Timestamp,
        store_device: Option<u64>,
    ) -> Vec<Finding> {
        let policy = &self.context.store.backups;
        let mut findings = Vec::new();
        // A backup under way is neither a success nor a failure, and the future proves nothing.
        let newest_judged = backups
            .iter()
            .filter(|b| {
                !matches!(b.state, Err((Reason::Growing | Reason::Future | Reason::Unreadable, _)))
            })
            .max_by_key(|b| b.taken);
        if let Some(Backup { path, state: Err((_, words)), .. }) = newest_judged {
            let evidence = format!("the newest backup {} is not complete: {words}", path.display());
            findings.push(Finding::new(Code::BackupInvalid, name_of(path), evidence));
        }
        let Some(newest) = newest_complete(backups) else {
            let evidence =
                format!("{} entries fit the patterns, none is a complete backup", backups.len());
            findings.push(Finding::new(Code::BackupMissing, "", evidence));
            return findings;
        };
        let age = now.since(newest.taken);
        if age > policy.warn_after {
            let severity =
                if age > policy.critical_after { Severity::Critical } else { Severity::Warning };
            let hours = age.as_secs() / 3600;
            let evidence = format!(
                "the newest complete backup {} is {hours} h old, the limit is {} h",
                newest.path.display(),
                policy.warn_after.as_secs() / 3600
            );
            findings.push(Finding::new(Code::BackupStale, "", evidence).with_severity(severity));
        }
        if let Some((size, usual)) = shrunk(backups, newest) {
            let evidence =
                format!("the newest backup has {size} bytes, those before it had {usual}");
            findings.push(Finding::new(Code::BackupShrunk, name_of(&newest.path), evidence));
        }
        if store_device == Some(newest.device) {
            let evidence = format!("{} lies on the filesystem of the store", newest.path.display());
            findings.push(Finding::new(Code::BackupSameDisk, "", evidence));
        }
        findings
    }
}

impl Collector for Backups {
    fn name(&self) -> CollectorName {
        CollectorName::Backups
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        if self.context.store.backups.globs.is_empty() { &[] } else { &CODES }
    }

    fn pace(&self) -> Pace {
        let collect = &self.context.config.collect;
        Pace {
            interval: collect.backups_interval,
            deadline: collect.deadline,
            wakes: Wake::NONE,
            touches_store: false, // backups should lie elsewhere, and are looked at when the store hangs, too
        }
    }

    fn collect(&mut self, turn: &Turn) -> Observation {
        let mut out = Observation::default();
        if self.context.store.backups.globs.is_empty() {
            return out;
        }
        let answers = self.context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, Duration::ZERO).is_ok()
            || self.context.device.ask(self.context.config.collect.device_timeout).is_ok();
        if answers {
            let ids = [self.context.store.seen_path.as_path(), self.context.database.path()];
            let known = ids.into_iter().filter_map(|path| fs::metadata(path).ok());
            self.own = known.map(|meta| (meta.dev(), meta.ino())).collect();
        }
        let backups = self.look(turn, &mut out.problems);
        let store_device = answers
            .then(|| fs::metadata(&self.context.store.seen_path).ok())
            .flatten()
            .map(|meta| meta.dev());
        if let Some(newest) = newest_complete(&backups) {
            out.samples.push(NEWEST.sample(newest.taken.as_secs_f64()));
            out.samples.push(AGE.sample(turn.now.since(newest.taken).as_secs_f64()));
            out.samples.extend(newest.state.as_ref().ok().map(|size| SIZE.sample(*size as f64)));
            let same = store_device.map(|device| f64::from(u8::from(device == newest.device)));
            out.samples.extend(same.map(|same| SAME_FILESYSTEM.sample(same)));
        }
        let complete = backups.iter().filter(|backup| backup.state.is_ok()).count();
        out.samples.push(COUNT.sample(complete as f64));
        for reason in Reason::ALL {
            let count = backups
                .iter()
                .filter(|b| matches!(&b.state, Err((why, _)) if *why == reason))
                .count();
            out.samples.push(INCOMPLETE.with(vec![reason.as_str().into()], count as f64));
        }
        for backup in backups.iter().filter(|b| matches!(b.state, Err((Reason::Unreadable, _)))) {
            let source = io::Error::other("see the permissions of the backups");
            out.problems.push(CollectError::Unreadable { path: backup.path.clone(), source });
        }
        out.findings = self.findings(&backups, turn.now, store_device);
        out
    }
}

fn newest_complete(backups: &[Backup]) -> Option<&Backup> {
    backups.iter().filter(|backup| backup.state.is_ok()).max_by_key(|backup| backup.taken)
}

/// The newest size and the usual one, when the newest has less than half of it. Archives are held against archives.
fn shrunk(backups: &[Backup], newest: &Backup) -> Option<(u64, u64)> {
    let size = *newest.state.as_ref().ok()?;
    let mut before: Vec<u64> = backups
        .iter()
        .filter(|b| b.directory == newest.directory && b.path != newest.path)
        .filter_map(|b| b.state.as_ref().ok().copied())
        .collect();
    before.sort_unstable();
    let usual = *before.get(before.len() / 2)?;
    (size < usual / 2).then_some((size, usual))
}

/// When an entry was last written. For a directory it is the change time: copies that keep times (`cp -a`, `rsync -a`)
/// give a fresh backup of an idle store an old modification time.
fn changed(meta: &Metadata, database: Option<&Metadata>) -> Timestamp {
    let change = |meta: &Metadata| Timestamp::from_parts(meta.ctime(), meta.ctime_nsec());
    if meta.is_dir() {
        database.map_or_else(|| change(meta), |database| change(meta).max(change(database)))
    } else {
        Timestamp::from_parts(meta.mtime(), meta.mtime_nsec())
    }
}

/// When the data were copied. A date in the name that is far from the time of the file decides: a backup that was copied
/// or touched later is as old as what is in it.
fn taken(path: &Path, changed: Timestamp) -> Timestamp {
    match path.file_name().and_then(|name| date_in(&name.to_string_lossy())) {
        Some(date) if date.since(changed) > NAME_SLACK || changed.since(date) > NAME_SLACK => date,
        _ => changed,
    }
}

fn stamp(meta: &Metadata, database: Option<&Metadata>) -> [[i64; 3]; 2] {
    let of = |meta: &Metadata| [meta.ctime(), meta.ctime_nsec(), meta.size().cast_signed()];
    [of(meta), database.map_or([0; 3], of)]
}

/// The database of a copied directory: in it, or in the one folder in it.
fn database_in(directory: &Path) -> Option<(PathBuf, Metadata)> {
    let at = |dir: &Path| {
        let path = dir.join(DATABASE_FILE);
        let meta = fs::symlink_metadata(&path).ok()?;
        Some((path, meta))
    };
    at(directory).or_else(|| {
        let inner = fs::read_dir(directory).ok()?.take(INNER_MAX).filter_map(Result::ok);
        inner
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .find_map(|entry| at(&entry.path()))
    })
}

fn directory_content(
    path: &Path,
    database: Option<&(PathBuf, Metadata)>,
    entries_max: usize,
) -> Result<u64, (Reason, String)> {
    let Some((database, meta)) = database else {
        return Err((Reason::Damaged, format!("there is no {DATABASE_FILE} in it")));
    };
    if !meta.is_file() {
        return Err((Reason::Damaged, format!("its {DATABASE_FILE} is not a regular file")));
    }
    database_content(database, meta.size())?;
    let mut bytes = 0_u64;
    let bounds = Bounds { entries_max, depth_max: DEPTH_MAX };
    let walked = walk(path, bounds, &mut |visit| {
        if let Ok(entry) = visit
            && !entry.meta.is_directory()
        {
            bytes = bytes.saturating_add(entry.meta.size_bytes);
        }
        std::ops::ControlFlow::Continue(())
    });
    walked.map(|_| bytes).map_err(|error| (Reason::Unreadable, error.to_string()))
}

fn archive_content(path: &Path, meta: &Metadata) -> Result<u64, (Reason, String)> {
    let damaged = |words: &str| Err((Reason::Damaged, words.to_owned()));
    if !meta.is_file() {
        return damaged("it is neither a file nor a directory");
    }
    let size = meta.size();
    if size == 0 {
        return Err((Reason::Empty, "it has no bytes".to_owned()));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let head = read_at(path, 0, HEAD_LEN)?;
    if ends(&[".gz", ".tgz"]) {
        if !head.starts_with(&[0x1f, 0x8b]) {
            return damaged("it does not begin like a gzip file");
        }
        // The last four bytes of gzip are the length of what was packed. Of a tar that is a multiple of 512; of a file that
        // was cut off they are some bytes of the middle, which are that in one of 512 cases.
        let tail = read_at(path, size.saturating_sub(4), 4)?;
        let length = <[u8; 4]>::try_from(tail.as_slice()).map_or(1, u32::from_le_bytes);
        if size < GZIP_MIN || (ends(&[".tar.gz", ".tgz"]) && !length.is_multiple_of(512)) {
            return damaged("it is cut off: its end is not the end of a packed tar");
        }
    } else if ends(&[".tar"]) {
        let tail = read_at(path, size.saturating_sub(1024), 1024)?;
        if !size.is_multiple_of(512) || tail.len() < 1024 || tail.iter().any(|byte| *byte != 0) {
            return damaged("it is cut off: a tar ends with 1024 zero bytes");
        }
    } else if ends(&[".zst"]) {
        if !head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return damaged("it does not begin like a zstd file");
        }
    } else if ends(&[".zip"]) {
        if !head.starts_with(b"PK") {
            return damaged("it does not begin like a zip file");
        }
    } else if ends(&[".sqlite3", ".sqlite", ".db"]) {
        database_content(path, size)?;
    }
    Ok(size)
}

/// A database whose header is sound and whose pages are all there.
fn database_content(path: &Path, size: u64) -> Result<(), (Reason, String)> {
    if size == 0 {
        return Err((Reason::Empty, "its database has no bytes".to_owned()));
    }
    match SqliteHeader::parse(&read_at(path, 0, HEADER_LEN)?) {
        Err(error) => Err((Reason::Damaged, format!("its database has no sound header: {error}"))),
        Ok(header) => match header.stated_bytes() {
            Some(stated) if size < stated => {
                Err((Reason::Damaged, format!("its database is cut off: {size} of {stated} bytes")))
            }
            _ => Ok(()),
        },
    }
}

fn read_at(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, (Reason, String)> {
    let mut bytes = vec![0; len];
    let read = File::open(path).and_then(|file| file.read_at(&mut bytes, offset));
    let read = read.map_err(|error| (Reason::Unreadable, error.to_string()))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// What lies beside backups and is none: checksums, signatures, logs, files on their way.
fn beside_a_backup(path: &Path) -> bool {
    const ENDINGS: [&str; 10] =
        [".sha256", ".sha512", ".sha1", ".md5", ".asc", ".sig", ".log", ".txt", ".tmp", ".part"];
    let name = name_of(path).to_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Clocks of two hosts may differ by so much.
const FUTURE_SLACK: Duration = Duration::from_mins(1);
/// A name and the time of its file may differ by time zones and the time that a backup takes.
const NAME_SLACK: Duration = Duration::from_hours(26);
/// Most backups that are looked at.
const BACKUPS_MAX: usize = 10_000;
/// Most entries of a copied directory among which its inner folder is looked for.
const INNER_MAX: usize = 100;
const HEAD_LEN: usize = 16;
/// Header and trailer of gzip.
const GZIP_MIN: u64 = 18;
const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::{fs::FileTimes, process::Command, sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        config::{BackupPolicy, Config, PermissionPolicy, Store},
        host::Host,
    };

    const NOW: i64 = 1_795_000_000;

    fn backups(dir: &Path, pattern: &str) -> Backups {
        let config = Arc::new(Config::default());
        let store = Arc::new(Store {
            name: "main".into(),
            path: dir.into(),
            seen_path: dir.into(),
            backups: BackupPolicy::daily(vec![dir.join(pattern).to_string_lossy().into_owned()]),
            permissions: PermissionPolicy::default(),
            chroma_version: None,
        });
        Backups::new(&Context::new(&config, &store, &Arc::new(Host::new(&config))))
    }

    fn look(collector: &mut Backups, now: i64) -> (Observation, Vec<&'static str>) {
        let turn = Turn {
            now: Timestamp::from_secs(now),
            wake: Wake::NONE,
            deep: false,
            stop: Arc::default(),
        };
        let seen = collector.collect(&turn);
        let mut codes: Vec<_> = seen.findings.iter().map(|f| f.code.as_str()).collect();
        codes.retain(|code| *code != "backup_same_disk");
        (seen, codes)
    }

    fn value(seen: &Observation, desc: &Desc) -> Option<f64> {
        seen.samples.iter().find(|s| s.desc == desc).map(|s| s.value)
    }

    fn incomplete(seen: &Observation, reason: &str) -> f64 {
        seen.samples.iter().find(|s| s.desc == &INCOMPLETE && s.values[0] == reason).unwrap().value
    }

    fn touch(path: &Path, at: i64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap());
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_times(FileTimes::new().set_modified(time))
            .unwrap();
    }

    /// A real archive of a real store, as cron makes it.
    fn archive(dir: &Path, name: &str, at: i64) -> PathBuf {
        let path = dir.join(name);
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let status = Command::new("tar")
            .arg("-czf")
            .arg(&path)
            .arg("-C")
            .arg(fixtures)
            .arg("chroma-1.5.9-empty")
            .status();
        assert!(status.unwrap().success());
        touch(&path, at);
        path
    }

    #[test]
    fn the_newest_complete_archive_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut collector = backups(dir.path(), "chroma_db.backup.*");
        assert_eq!(look(&mut collector, NOW).1, ["backup_missing"]);
        archive(dir.path(), "chroma_db.backup.20261117.tar.gz", NOW - 30 * 3600);
        let newest = archive(dir.path(), "chroma_db.backup.20261118.tar.gz", NOW - 6 * 3600);
        let (seen, codes) = look(&mut collector, NOW);
        assert_eq!(codes, [""; 0]);
        assert_eq!(value(&seen, &NEWEST), Some((NOW - 6 * 3600) as f64));
        assert_eq!(value(&seen, &AGE), Some(6.0 * 3600.0));
        assert_eq!(value(&seen, &COUNT), Some(2.0));
        assert_eq!(value(&seen, &SIZE), Some(newest.metadata().unwrap().len() as f64));

        let (later, codes) = look(&mut collector, NOW + 21 * 3600);
        assert_eq!((codes, later.findings[0].severity), (vec!["backup_stale"], Severity::Warning));
        let (later, codes) = look(&mut collector, NOW + 45 * 3600);
        assert_eq!((codes, later.findings[0].severity), (vec!["backup_stale"], Severity::Critical));
    }

    #[test]
    fn growing_empty_cut_off_and_future_ones_are_no_success() {
        let dir = tempfile::tempdir().unwrap();
        let mut collector = backups(dir.path(), "chroma_db.backup.*");
        let good = archive(dir.path(), "chroma_db.backup.20261117.tar.gz", NOW - 20 * 3600);
        let bytes = fs::read(&good).unwrap();
        let (good_at, other) =
            ((NOW - 20 * 3600) as f64, dir.path().join("chroma_db.backup.20261118.tar.gz"));
        for (content, at, reason, want) in [
            (&bytes[..], NOW - 3, "growing", &[][..]),
            (&bytes[..0], NOW - 3600, "empty", &["backup_invalid"]),
            (&bytes[..bytes.len() / 2], NOW - 3600, "damaged", &["backup_invalid"]),
            (b"not a gzip file at all", NOW - 3600, "damaged", &["backup_invalid"]),
            (&bytes[..], NOW + 3600, "future", &[]),
        ] {
            fs::write(&other, content).unwrap();
            touch(&other, at);
            let (seen, codes) = look(&mut collector, NOW);
            assert_eq!(codes, want, "{reason}");
            assert!((incomplete(&seen, reason) - 1.0).abs() < f64::EPSILON, "{reason}");
            assert_eq!(value(&seen, &NEWEST), Some(good_at), "{reason}");
        }
        fs::remove_file(&other).unwrap();
        let future = archive(dir.path(), "chroma_db.backup.20990101.tar.gz", NOW - 3600);
        assert!((incomplete(&look(&mut collector, NOW).0, "future") - 1.0).abs() < f64::EPSILON);
        fs::remove_file(future).unwrap();
        // A copy made today of an archive from last year is a year old.
        archive(dir.path(), "chroma_db.backup.20251101.tar.gz", NOW - 60);
        assert_eq!(value(&look(&mut collector, NOW).0, &NEWEST), Some(good_at));
    }

    #[test]
    fn a_copied_directory_is_judged_by_its_database() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("chroma_db.backup.copy");
        fs::create_dir(&copy).unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/chroma-1.5.9-empty/chroma.sqlite3");
        let database = copy.join("chroma.sqlite3");
        fs::copy(fixture, &database).unwrap();
        // An idle store copied with its times: years old by mtime, made a moment ago in truth.
        touch(&database, NOW - 400 * 86_400);
        let made = changed(&fs::metadata(&copy).unwrap(), fs::metadata(&database).ok().as_ref());
        let now = made.as_secs() + 3600;
        let mut collector = backups(dir.path(), "chroma_db.backup.*");
        let (seen, codes) = look(&mut collector, now);
        assert_eq!((codes, value(&seen, &COUNT)), (vec![], Some(1.0)));
        assert!(value(&seen, &AGE).unwrap() <= 3601.0);

        let whole = fs::read(&database).unwrap();
        fs::write(&database, &whole[..whole.len() - 8192]).unwrap();
        let (seen, codes) = look(&mut collector, now);
        assert_eq!(codes, ["backup_invalid", "backup_missing"]);
        assert!((incomplete(&seen, "damaged") - 1.0).abs() < f64::EPSILON);
        fs::remove_file(&database).unwrap();
        assert_eq!(look(&mut collector, now).1, ["backup_invalid", "backup_missing"]);
    }

    #[test]
    fn a_backup_that_lost_most_of_its_data_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (name, size, at) in
            [("a.zst", 9000, 50_000), ("b.zst", 9500, 40_000), ("c.zst", 3000, 30_000)]
        {
            let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd];
            bytes.resize(size, 1);
            fs::write(dir.path().join(name), bytes).unwrap();
            touch(&dir.path().join(name), NOW - at);
        }
        assert_eq!(look(&mut backups(dir.path(), "*.zst"), NOW).1, ["backup_shrunk"]);
    }

    #[test]
    fn the_store_itself_and_checksums_are_no_backups() {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/chroma-1.5.9-empty/chroma.sqlite3");
        fs::copy(fixture, dir.path().join("chroma.sqlite3")).unwrap();
        fs::hard_link(dir.path().join("chroma.sqlite3"), dir.path().join("linked.sqlite3"))
            .unwrap();
        fs::write(dir.path().join("old.tar.gz.sha256"), "0123  old.tar.gz").unwrap();
        for pattern in ["", "*"] {
            let (seen, codes) = look(&mut backups(dir.path(), pattern), NOW * 2);
            assert_eq!(
                (codes, value(&seen, &COUNT)),
                (vec!["backup_missing"], Some(0.0)),
                "{pattern:?}"
            );
        }
    }

    #[test]
    fn without_patterns_nothing_is_expected() {
        let dir = tempfile::tempdir().unwrap();
        let mut collector = backups(dir.path(), "*");
        let mut store = (*collector.context.store).clone();
        store.backups.globs.clear();
        collector.context.store = Arc::new(store);
        let (seen, codes) = look(&mut collector, NOW);
        assert!(seen.samples.is_empty() && codes.is_empty() && collector.codes().is_empty());
    }
}
