//! How many file descriptors the processes that hold a store have open, and how many they may have. At the limit the next
//! open of a server fails, and a flush stops half way.
//!
//! Asked are those that write or serve. They have `chroma.sqlite3` of the store open, or one that was deleted from its path.
//! One that was moved away is not followed: that takes a memory of what the path led to, which `processes` keeps. Each of them
//! is judged; the series are those of the one that is nearest to its limit, for a label with the pid would be another series
//! after each restart.

use std::{fs, io, path::Path};

use super::{CollectError, Collector, Pace, Run};
use crate::{
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::{Code, Finding},
    host::processes::{FileId, Holder, walk::ended},
    sample::{Desc, Observation},
    store::{Context, database::Stamp},
};

static OPEN: Desc = Desc::gauge(
    "chroma_process_open_fds",
    "Open file descriptors of the process nearest to its limit, among those seen to hold chroma.sqlite3 for writing.",
);
static MAX: Desc = Desc::gauge(
    "chroma_process_max_fds",
    "Most file descriptors that the process of chroma_process_open_fds may open. Absent when it has no limit.",
);

pub(super) static DESCS: [&Desc; 2] = [&OPEN, &MAX];

static CODES: [Code; 1] = [Code::DescriptorsLow];

/// File descriptors of the processes that hold one store.
#[derive(Debug)]
pub struct Descriptors {
    context: Context,
}

impl Descriptors {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self { context: context.clone() }
    }

    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::NONE,
            touches_store: true,
        }
    }

    /// Who writes to the store or serves it, and whether nobody else may. Errs when the path or `/proc` cannot be read.
    fn holders(&self) -> Result<(Vec<Holder>, bool), CollectError> {
        let context = &self.context;
        let path = context.database.real_path();
        let current = file_at(&path)?;
        // Where the database is gone, what was deleted lay on the device of what is left of its path.
        let device = current.map(|file| file.device).or_else(|| device_of(&path));
        let (mut files, devices) = (Vec::from_iter(current), Vec::from_iter(device));
        let table = &context.host.processes;
        let max_age = context.config.collect.interval / 2;
        let mut walk = table.walk(&files, &devices, max_age)?;
        let deleted = context.deleted_databases(&walk, &files);
        if !deleted.is_empty() {
            files.extend(deleted);
            walk = table.walk(&files, &devices, max_age)?;
        }
        let found = files.iter().flat_map(|file| walk.holders(*file).to_vec()).collect();
        Ok((at_work(found), table.blind(&walk).is_none()))
    }

    fn read(&self, out: &mut Observation) -> Result<(), CollectError> {
        let (holders, all_seen) = self.holders()?;
        let mut known = Vec::new();
        for holder in holders.iter().take(HOLDERS_MAX) {
            match self.context.host.processes.attributes(holder) {
                Ok(attributes) => known.push((holder, attributes.max_descriptors)),
                Err(CollectError::Unreadable { source, .. }) if ended(&source) => {}
                Err(problem) => out.problems.push(problem),
            }
        }
        out.findings.extend(known.iter().filter_map(|(holder, max)| low(holder, *max)));
        if let Some((holder, max)) = nearest(&known) {
            out.samples.push(OPEN.sample(holder.open_descriptors as f64));
            out.samples.extend(max.map(|max| MAX.sample(max as f64)));
        }
        // Who is unseen `processes` says; of those nothing is known here.
        if !all_seen || holders.len() > HOLDERS_MAX {
            out.unjudged.push(Code::DescriptorsLow);
        }
        Ok(())
    }
}

impl Collector for Descriptors {
    fn name(&self) -> CollectorName {
        CollectorName::Descriptors
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        &CODES
    }

    fn pace(&self) -> Pace {
        Self::at_rest(&self.context.config, &self.context.store)
    }

    fn collect(&mut self, _: &Run) -> Observation {
        let mut out = Observation::default();
        if let Err(problem) = self.read(&mut out) {
            out.problems.push(problem);
        }
        out
    }
}

/// The file that `path` leads to; `None` when it leads to nothing, or to something that is no file. Errs when it cannot be looked at.
fn file_at(path: &Path) -> Result<Option<FileId>, CollectError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.is_file().then(|| Stamp::of(&meta).id)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(source) => Err(CollectError::Unreadable { path: path.to_owned(), source }),
    }
}

/// The device of the directory of `path`, or of the one above when that is gone too.
fn device_of(path: &Path) -> Option<u64> {
    let device = |dir| Some(Stamp::of(&fs::metadata(dir).ok()?).id.device);
    path.ancestors().skip(1).take(2).find_map(device)
}

/// Those that write or serve, oldest first and each once, though it may hold several of the files. One that only reads harms
/// no store when it can open no more.
fn at_work(mut holders: Vec<Holder>) -> Vec<Holder> {
    holders.retain(|holder| holder.writes || holder.server);
    holders.sort_by_key(|holder| (holder.start_ticks, holder.pid));
    holders.dedup_by(|one, other| one.is(other));
    holders
}

/// The process that has used up the largest part of what it may; where none has a limit, the oldest.
fn nearest<'a>(known: &[(&'a Holder, Option<u64>)]) -> Option<(&'a Holder, Option<u64>)> {
    // Without a division: a limit may be 0.
    let nearer = |one: &(&Holder, Option<u64>), other: &(&Holder, Option<u64>)| {
        let product = |open: &Holder, max| u128::from(open.open_descriptors) * u128::from(max);
        match (one.1, other.1) {
            (Some(max), Some(other_max)) => product(one.0, other_max) > product(other.0, max),
            (max, other_max) => max.is_some() && other_max.is_none(),
        }
    };
    known.iter().copied().reduce(|best, next| if nearer(&next, &best) { next } else { best })
}

/// Nine tenths of the limit used.
fn low(holder: &Holder, max: Option<u64>) -> Option<Finding> {
    let (open, max) = (holder.open_descriptors, max?);
    (u128::from(open) * 10 >= u128::from(max) * 9).then(|| {
        let Holder { comm, pid, .. } = holder;
        let evidence = format!("{comm} (pid {pid}) has {open} of at most {max} open");
        Finding::new(Code::DescriptorsLow, "", evidence)
    })
}

/// Processes that are looked at in one run.
const HOLDERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        path::PathBuf,
        sync::{Arc, atomic::AtomicBool},
        time::Duration,
    };

    use super::*;
    use crate::{
        clock::Timestamp,
        config::Collect,
        host::{
            Host,
            processes::tests::{Fake, Running},
        },
        store::DATABASE_FILE,
    };

    fn holder(pid: u32, open_descriptors: u64) -> Holder {
        Holder {
            pid,
            comm: "chroma".to_owned(),
            server: true,
            writes: true,
            uid: 0,
            gids: Vec::new(),
            started: Timestamp::from_secs(0),
            start_ticks: 1,
            descriptors: vec![3],
            open_descriptors,
            children: Vec::new(),
        }
    }

    #[test]
    fn few_descriptors_left_are_said() {
        for (open, max, want) in [
            (899, Some(1000), false),
            (900, Some(1000), true),
            (1000, Some(1000), true),
            (u64::MAX, None, false),
            (u64::MAX, Some(u64::MAX), true),
            (0, Some(0), true),
        ] {
            assert_eq!(low(&holder(7, open), max).is_some(), want, "{open} of {max:?}");
        }
        let evidence = low(&holder(7, 9), Some(10)).unwrap().evidence;
        assert_eq!(evidence, "chroma (pid 7) has 9 of at most 10 open");
    }

    #[test]
    fn a_process_counts_once_and_readers_not_at_all() {
        let reader = |pid| Holder { server: false, writes: false, ..holder(pid, 1) };
        let writer = |pid| Holder { server: false, ..holder(pid, 1) };
        let got = at_work(vec![reader(1), reader(4), writer(4), holder(3, 1), writer(4)]);
        assert_eq!(got.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn the_one_nearest_to_its_limit_is_told() {
        let reported = |all: &[(u64, Option<u64>)]| {
            let holders: Vec<Holder> = all.iter().map(|(open, _)| holder(7, *open)).collect();
            let known: Vec<_> = holders.iter().zip(all).map(|(h, (_, max))| (h, *max)).collect();
            nearest(&known).map(|(holder, max)| (holder.open_descriptors, max))
        };
        assert_eq!(reported(&[]), None);
        for (all, want) in [
            (&[(90, Some(1000)), (50, Some(100)), (400, None)][..], (50, Some(100))),
            (&[(400, None), (1, Some(1000))], (1, Some(1000))),
            (&[(4, None), (400, None)], (4, None)),
            (&[(9, Some(10)), (1, Some(0))], (1, Some(0))),
            (&[(u64::MAX, Some(u64::MAX)), (1, Some(2))], (u64::MAX, Some(u64::MAX))),
            (&[(1, Some(2)), (2, Some(4))], (1, Some(2))),
        ] {
            assert_eq!(reported(all), Some(want), "{all:?}");
        }
    }

    /// A store in a directory of its own.
    struct Lab {
        _dir: tempfile::TempDir,
        database: PathBuf,
        collector: Descriptors,
    }

    impl Lab {
        fn new(procfs: &Path) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = dir.path().canonicalize().unwrap().join("store");
            fs::create_dir(&store).unwrap();
            let database = store.join(DATABASE_FILE);
            fs::write(&database, "x").unwrap();
            let collect = Collect { interval: Duration::ZERO, ..Collect::default() };
            let config = Arc::new(Config { procfs: procfs.into(), collect, ..Config::default() });
            let store = Arc::new(Store::new("main", store));
            let host = Arc::new(Host::new(&config));
            let collector = Descriptors::new(&Context::new(&config, &store, &host));
            Self { _dir: dir, database, collector }
        }

        fn run(&mut self) -> Observation {
            self.collector.context.host.processes.rested();
            self.collector.collect(&Run {
                now: Timestamp::from_secs(0),
                wake: Wake::NONE,
                deep: false,
                stop: Arc::new(AtomicBool::new(false)),
            })
        }
    }

    /// What the series says.
    fn of(observation: &Observation, desc: &Desc) -> Option<f64> {
        observation.samples.iter().find(|s| s.desc == desc).map(|s| s.value)
    }

    fn pids(lab: &Lab) -> Vec<u32> {
        lab.collector.context.host.processes.rested();
        let (holders, _) = lab.collector.holders().unwrap();
        let mut pids: Vec<u32> = holders.iter().map(|holder| holder.pid).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn who_writes_is_measured_also_to_a_deleted_file() {
        let mut lab = Lab::new(Path::new("/proc"));
        let _reader = Running::shell("<", &lab.database);
        assert!(lab.run().samples.is_empty(), "nobody writes");
        let old = Running::shell("<>", &lab.database);
        let open = fs::read_dir(format!("/proc/{}/fd", old.pid())).unwrap().count() as f64;
        let seen = lab.run();
        assert!(seen.problems.is_empty() && seen.findings.is_empty(), "{seen:?}");
        assert_eq!(of(&seen, &OPEN), Some(open), "{seen:?}");
        assert!(of(&seen, &MAX).is_none_or(|max| max >= open), "{seen:?}");
        fs::remove_file(&lab.database).unwrap();
        assert_eq!(pids(&lab), [old.pid()], "the path leads to nothing");
        fs::write(&lab.database, "restored").unwrap();
        let new = Running::shell("<>", &lab.database);
        let mut both = [old.pid(), new.pid()];
        both.sort_unstable();
        assert_eq!(pids(&lab), both);
        fs::remove_dir_all(lab.database.parent().unwrap()).unwrap();
        assert_eq!(pids(&lab), both, "the directory is gone too");
    }

    #[test]
    fn what_cannot_be_looked_into_is_not_called_well() {
        let fake = Fake::new();
        let mut lab = Lab::new(fake.dir.path());
        for (pid, comm, flags) in [(1, "init", 0), (2, "kthreadd", 0x0020_0000)] {
            fs::create_dir(fake.process(pid, comm, flags, "").join("fd")).unwrap();
        }
        let process = fake.process(100, "chroma", 0, "/usr/bin/chroma run");
        let limits = |max| {
            fs::write(process.join("statm"), "9 7\n").unwrap();
            fs::write(process.join("limits"), format!("Max open files {max} {max} files\n"))
                .unwrap();
        };
        limits(100);
        fs::create_dir(process.join("fd")).unwrap();
        symlink(&lab.database, process.join("fd/9")).unwrap();
        let well = lab.run();
        assert!(well.disproves(Code::DescriptorsLow), "{well:?}");
        assert_eq!((of(&well, &OPEN), of(&well, &MAX)), (Some(1.0), Some(100.0)));
        limits(1);
        let low = lab.run();
        assert_eq!(low.findings.len(), 1, "{low:?}");

        fs::rename(process.join("fd"), process.join("hidden")).unwrap();
        fs::write(process.join("fd"), "").unwrap();
        let hidden = lab.run();
        assert!(hidden.samples.is_empty() && hidden.findings.is_empty(), "{hidden:?}");
        assert!(!hidden.disproves(Code::DescriptorsLow), "its descriptors are not known");

        let mut none = Lab::new(&fake.dir.path().join("none"));
        let blind = none.run();
        assert!(blind.samples.is_empty() && blind.problems.len() == 1, "{blind:?}");
    }
}
