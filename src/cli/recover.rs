//! `recover`: repairs a copy of a store, says what came of it, and puts it in place; or undoes that.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ValueHint;

use super::{
    Ended, Output,
    bar::{self, ProgressMode},
    interrupt, plain,
    restore::{answer, complaint, json, place_of, which_store},
    to_stderr,
};
use crate::{
    clock,
    config::{Config, Store},
    findings::command,
    format::manifest::Collection,
    host::{self, processes::ProcessTable},
    human,
    keys::rules::below_root,
    repair::{
        backup::dated,
        quarantine::Way,
        recover::{
            self, FromBackup, GoneCollection, Has, Instead, LostRecord, Outcome, Part, Report,
            StoreState,
        },
        restore::{self, Outcome as Undone, Wish},
        steps::Steps,
    },
    store::DATABASE_FILE,
};

/// What `recover` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Options {
    /// Put the repaired copy in place; without it, nothing in the store changes
    #[arg(long, conflicts_with = "undo")]
    apply: bool,

    /// Put back what was there before the last repair or restore; what is there now is kept
    #[arg(long)]
    undo: bool,

    /// Put it in place although something is lost, which is told; undo although records were written since
    #[arg(long)]
    accept_loss: bool,

    /// Also give segments whose collection is gone a new one, named after its id: where the list of collections was lost. What is left
    /// of databases that Chroma before 1.0.15 deleted comes back too, and so does every collection that only the backup has
    #[arg(long, conflicts_with = "undo")]
    adopt_orphans: bool,

    /// You know that no Chroma uses the directory, where this program cannot see it
    #[arg(long)]
    chroma_is_stopped: bool,

    /// Where the copy is made; the default is the filesystem of the store
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "undo")]
    scratch: Option<PathBuf>,

    /// A backup of this store, as `verify` takes it, or a directory of them: what is lost, and is in it in the same version, is put back.
    /// The default is the newest one that `stores[].backup` has made
    #[arg(long, value_name = "BACKUP", value_hint = ValueHint::AnyPath, conflicts_with = "undo")]
    backup: Option<PathBuf>,

    /// Write the whole report to this new file, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "undo")]
    report: Option<PathBuf>,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Recovers the one store of `config`.
pub(super) fn run(config: &Config, options: &Options) -> Ended {
    host::give_memory_back();
    let [store] = &config.stores[..] else {
        to_stderr(&which_store("recover", &config.stores));
        return Ended::Usage;
    };
    if options.apply {
        host::priority::is_waited_for();
    }
    let wish = match place_of(config, store) {
        Ok(place) => Wish {
            store: place,
            accept_loss: options.accept_loss,
            chroma_is_stopped: options.chroma_is_stopped,
            dry: !options.apply && !options.undo,
            only: None,
        },
        Err(error) => {
            to_stderr(&complaint(&error));
            return Ended::Critical;
        }
    };
    let processes = ProcessTable::new(config.procfs.clone());
    if options.undo {
        return undo(&wish, &processes, options.output);
    }
    // A report that cannot be written is told before anything is done.
    let report_file = match options.report.as_ref().map(fs::File::create_new).transpose() {
        Ok(file) => file,
        Err(error) => {
            to_stderr(&format!(
                "error: cannot write the report: {error}\nhelp: name a file that is not there yet\n"
            ));
            return Ended::Unknown;
        }
    };
    let steps = Steps::default();
    interrupt::stops(&steps);
    let mode = ProgressMode::of(options.progress, options.output == Output::Text);
    let result = bar::steps(mode, &store.name, &steps, || {
        let backups = backups(options.backup.as_deref(), store, &wish.store, &config.rootfs);
        let means = recover::Means {
            scratch: options.scratch.as_deref(),
            backups: &backups,
            adopt: options.adopt_orphans,
        };
        recover::recover(&wish, means, &processes, &steps, clock::now())
    });
    if let Some(mut file) = report_file {
        let written = std::io::Write::write_all(&mut file, json(&result).as_bytes());
        if let Err(error) = written.and_then(|()| file.sync_all()) {
            to_stderr(&format!("error: cannot write the report: {error}\n"));
        }
    }
    answer(&result, options.output, text, ended)
}

/// The backups that may have what is lost, the best one first.
fn backups(named: Option<&Path>, store: &Store, place: &Path, rootfs: &Path) -> Vec<PathBuf> {
    match named {
        // A backup in the form of a directory has a database.
        Some(named) if named.is_dir() && !named.join(DATABASE_FILE).exists() => {
            let found = dated::newest(&[named.to_owned()], None);
            // What nobody recognises is refused with the reason.
            if found.is_empty() { vec![named.to_owned()] } else { found }
        }
        Some(named) => vec![named.to_owned()],
        None => {
            let to = store.backup.as_ref().map(|job| below_root(rootfs, &job.to));
            dated::newest(&[], to.as_deref().map(|to| (to, place)))
        }
    }
}

fn undo(wish: &Wish, processes: &ProcessTable, output: Output) -> Ended {
    let result = restore::undo(wish, processes, clock::now());
    let text = |report: &restore::Report| {
        let store = plain(&report.store.to_string_lossy());
        let mut lines = vec![match report.outcome {
            Undone::Undone => format!("{store}: as it was before"),
            _ => format!("{store}: as it was"),
        }];
        if let Some(kept) = &report.quarantine {
            let kept = plain(&kept.to_string_lossy());
            lines.push(format!("What was there is in {kept}. Delete it when all is well."));
        }
        lines.join("\n") + "\n"
    };
    answer(&result, output, text, |_| Ended::Well)
}

const fn ended(report: &Report) -> Ended {
    match report.outcome {
        Outcome::NothingToDo => Ended::Well,
        Outcome::WouldRepair | Outcome::Repaired if report.losses.is_empty() => Ended::Well,
        Outcome::WouldRepair | Outcome::Repaired => Ended::Warning,
        Outcome::NotRepaired => Ended::Critical,
        Outcome::NotAccepted | Outcome::CannotTell => Ended::Unknown,
    }
}

fn text(report: &Report) -> String {
    let store = plain(&report.store.to_string_lossy());
    let mut lines = Vec::new();
    for (path, _) in &report.settled {
        let path = plain(&path.to_string_lossy());
        lines.push(format!("An exchange that was cut off was brought to its end: {path}"));
    }
    lines.push(match report.outcome {
        Outcome::NothingToDo => format!("{store}: nothing to do"),
        Outcome::WouldRepair if report.losses.is_empty() => {
            format!("{store}: a copy was repaired, and nothing is lost. The store is as it was.")
        }
        Outcome::WouldRepair => {
            format!("{store}: a copy was repaired, with losses. The store is as it was.")
        }
        Outcome::Repaired => format!("{store}: repaired"),
        Outcome::NotAccepted => {
            format!("{store}: a copy was repaired, but something is lost. The store is as it was.")
        }
        Outcome::NotRepaired => format!("{store}: not repaired. The store is as it was."),
        Outcome::CannotTell => {
            format!("{store}: not everything could be looked at. The store is as it was.")
        }
    });
    if let Some(holds) = &report.beside {
        let holds = plain(holds);
        lines.push(format!("  a copy of one moment was tried: {holds}; --apply needs it stopped"));
    }
    lines.extend(
        report
            .before
            .findings
            .iter()
            .map(|one| format!("  found: {}: {}", one.code, plain(&one.evidence))),
    );
    lines.extend(report.done.iter().map(|one| format!("  done: {}", plain(&one.what))));
    lines.extend(
        report.not_done.iter().map(|one| format!("  not done: {}: {}", one.code, plain(&one.why))),
    );
    if let Some(after) = &report.after {
        lines.extend(
            after
                .findings
                .iter()
                .map(|one| format!("  still found: {}: {}", one.code, plain(&one.evidence))),
        );
        lines.extend(counts(&report.before, after));
    }
    let named = |loss: &String| format!("  lost or damaged: {}", plain(loss));
    if report.outcome != Outcome::NothingToDo {
        lines.extend(report.losses.iter().map(named));
    }
    lines.extend(lost_records(&report.lost_records));
    lines.extend(report.from_backup.iter().flat_map(from_backup));
    lines.extend(report.from_backup.iter().flat_map(|from| instead(from, &report.store)));
    lines.extend(report.gone_collections.iter().filter_map(gone_collection));
    if let (Way::Files, Some(reason)) = (report.way, &report.reason) {
        lines.push(format!("Files are exchanged one by one: {}.", plain(reason)));
    }
    let line = |words: &str, more: &str| {
        let template = format!("chroma_exporter recover --store.path {{path}} {more}");
        let line = command(&template, &[("path", &report.store)]);
        line.map(|line| format!("{words}: {line}"))
    };
    let accept = if report.losses.is_empty() { "--apply" } else { "--apply --accept-loss" };
    if matches!(report.outcome, Outcome::WouldRepair | Outcome::NotAccepted)
        && !report.losses.is_empty()
        && report.from_backup.is_none()
    {
        lines.push("A backup may still have what is lost: add --backup with its path.".to_owned());
    }
    match (report.outcome, &report.quarantine) {
        (Outcome::Repaired, Some(kept)) => {
            let kept = plain(&kept.to_string_lossy());
            lines.push(format!("The old content is in {kept}. Delete it when all is well."));
            lines.extend(line("To undo", "--undo"));
        }
        (Outcome::WouldRepair, _) => lines.extend(line("To put it in place", accept)),
        (Outcome::NotAccepted, _) => lines.extend(line("To put it in place all the same", accept)),
        _ => {}
    }
    lines.join("\n") + "\n"
}

/// The first records that have lost something, and where all of them are.
fn lost_records(lost: &[LostRecord]) -> Vec<String> {
    let what = |record: &LostRecord| match record.part {
        Part::Vector => "its vector",
        Part::NewestVector => "its newest vector",
        Part::Metadata => "its newest document and metadata",
        Part::AllMetadata => "its document and metadata, if it had any",
        Part::Record => "all of it",
        Part::Operation => "what was done to it last",
        Part::Length => "the length of its vector",
    };
    let line = |record: &LostRecord| {
        let (collection, id) = (plain(&record.collection), plain(&record.id));
        format!("  lost: {}, record {id} of collection {collection}", what(record))
    };
    let mut lines: Vec<String> = lost.iter().take(NAMED_MAX).map(line).collect();
    if lost.len() > NAMED_MAX {
        let all = human::count(lost.len() as f64);
        lines.push(format!("  … {all} records in all; --report FILE writes each of them"));
    }
    lines
}

/// What a backup has in place of a store that is beyond repair, what it has not, and how it is put there.
fn instead(from: &FromBackup, store: &Path) -> Vec<String> {
    let Some(Instead { has, newer_total, unknown_folders, unreadable_folders, .. }) = &from.instead
    else {
        return Vec::new();
    };
    let number = |number: u64| human::count(number as f64);
    let mut lines = vec!["  the backup has:".to_owned()];
    let of = |one: &Has| format!("    {}  {} records", plain(&one.collection), number(one.records));
    lines.extend(has.iter().map(of));
    let moment = from.moment.as_deref().unwrap_or("it was made");
    lines.push(format!("  it has nothing that was written after {moment}"));
    if *newer_total > 0 {
        lines.push(format!(
            "  the indexes of the store have the vectors of {} records that the backup has not; their documents and metadata are lost, and some may have been deleted. --report FILE names them, under from_backup",
            number(*newer_total)
        ));
    }
    for (folders, what) in [
        (unknown_folders, "belongs to no collection of the backup"),
        (unreadable_folders, "has ids that cannot be read"),
    ] {
        lines.extend(
            folders.iter().take(NAMED_MAX).map(|one| format!("  the folder {} {what}", plain(one))),
        );
    }
    let template = "chroma_exporter restore {backup} --store.path {path}";
    let line = command(template, &[("backup", &from.backup), ("path", store)]);
    lines.extend(
        line.map(|line| {
            format!("  To put the backup in its place; the old content is kept: {line}")
        }),
    );
    lines
}

/// What a backup gave back, and what of it may be wanted besides.
fn from_backup(from: &FromBackup) -> Vec<String> {
    let number = |number: usize| human::count(number as f64);
    let backup = plain(&from.backup.to_string_lossy());
    let of = from.moment.as_ref().map_or_else(String::new, |moment| format!(", of {moment}"));
    if let Some(why) = &from.refused {
        return vec![format!("  not used: the backup {backup}{of}: {}", plain(why))];
    }
    let mut lines = vec![format!("  from the backup {backup}{of}:")];
    if from.collections.is_empty() {
        lines.push("    nothing: it has none of it in the version of the store".to_owned());
    }
    lines.extend(from.collections.iter().map(|one| {
        format!(
            "    {}  {} records that were gone, document and metadata of {}, vectors of {}",
            plain(&one.collection),
            number(one.records),
            number(one.metadata),
            number(one.vectors)
        )
    }));
    if !from.older.is_empty() {
        lines.push(format!(
            "  {} records that have lost something stand in the backup in a version that was, or may have been, changed since: nothing was taken of them",
            number(from.older.len())
        ));
    }
    if !from.uncertain.is_empty() {
        lines.push(format!(
            "  {} records are in the backup and not in the store: deleted since, or lost. They were not put back",
            number(from.uncertain.len())
        ));
    }
    if from.older.len() + from.uncertain.len() > 0 {
        lines.push("  --report FILE writes each of them, under from_backup. To put some of them back as the backup has them, write their ids to ids.txt, then:".to_owned());
        let template = "chroma_exporter dump {backup} --ids ids.txt --to records.jsonl";
        let dump = command(template, &[("backup", &from.backup)]);
        lines.extend(dump.map(|line| format!("    {line}")));
        lines.push("    chroma_exporter load records.jsonl --merge --to URL".to_owned());
    }
    lines
}

/// A collection that only a backup has.
fn gone_collection(gone: &GoneCollection) -> Option<String> {
    if gone.is_back {
        return None;
    }
    let of = gone.moment.as_ref().map_or_else(String::new, |moment| format!(" of {moment}"));
    let why = gone.why_not.as_ref().map_or_else(
        || "deleted since, or lost. --adopt-orphans brings it back as the backup has it".to_owned(),
        |why| format!("it cannot come back: {}", plain(why)),
    );
    Some(format!(
        "  only in the backup{of}: the collection {} with {} records: {why}",
        plain(&gone.name),
        human::count(gone.records as f64)
    ))
}

/// Records that are named on a terminal.
const NAMED_MAX: usize = 10;

/// What each collection has, and had.
fn counts(before: &StoreState, after: &StoreState) -> Vec<String> {
    let number = |number: u64| human::count(number as f64);
    let line = |is: &Collection| {
        let was = before.collections.iter().find(|was| was.id == is.id);
        let of = |now: u64, was: Option<u64>| match was {
            Some(was) if was != now => format!("{} (was {})", number(now), number(was)),
            _ => number(now),
        };
        format!(
            "  {}  {} records, {} with documents, {} with vectors",
            plain(&is.name),
            of(is.records, was.map(|was| was.records)),
            of(is.documents, was.map(|was| was.documents)),
            of(is.vectors, was.map(|was| was.vectors)),
        )
    };
    after.collections.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::manifest::Restores,
        repair::recover::{Done, Given, Named, NotDone, Reported, table::Action},
    };

    fn report() -> Report {
        let collection = |records| Collection {
            id: "1".to_owned(),
            name: "do\u{1b}cs".to_owned(),
            tenant: "t".to_owned(),
            database: "d".to_owned(),
            space: None,
            dimension: None,
            records,
            documents: 7,
            vectors: records,
            queued: 0,
        };
        let state = |restores, records| StoreState {
            restores,
            findings: Vec::new(),
            collections: vec![collection(records)],
        };
        Report {
            outcome: Outcome::Repaired,
            store: "/srv/my chroma".into(),
            beside: None,
            before: StoreState {
                findings: vec![Reported { code: "fts_corrupt", evidence: "seen".to_owned() }],
                ..state(Restores::WithLosses, 41_000)
            },
            after: Some(state(Restores::Whole, 41_233)),
            done: vec![Done { action: Action::FullText, what: "made".to_owned() }],
            not_done: vec![NotDone { code: "wal_mode", why: "No.".to_owned() }],
            losses: Vec::new(),
            lost_documents: Vec::new(),
            lost_records: Vec::new(),
            lost_rows: Vec::new(),
            gone_collections: Vec::new(),
            from_backup: None,
            quarantine: Some("/srv/my chroma.quarantine.1".into()),
            way: Way::Directory,
            reason: None,
            settled: Vec::new(),
        }
    }

    #[test]
    fn what_was_done_is_told_with_its_numbers_and_the_line_that_undoes_it() {
        assert_eq!(
            text(&report()),
            "/srv/my chroma: repaired\n  found: fts_corrupt: seen\n  done: made\n  not done: wal_mode: No.\n  \
             do\\u{1b}cs  41,233 (was 41,000) records, 7 with documents, 41,233 (was 41,000) with vectors\n\
             The old content is in /srv/my chroma.quarantine.1. Delete it when all is well.\n\
             To undo: chroma_exporter recover --store.path '/srv/my chroma' --undo\n"
        );
    }

    #[test]
    fn what_a_backup_gave_is_told_and_what_it_has_besides() {
        let from = FromBackup {
            backup: "/b/x.tar".into(),
            moment: Some("2026-11-30T02:00:00Z".to_owned()),
            ..FromBackup::default()
        };
        let refused = FromBackup { refused: Some("No.".to_owned()), ..from.clone() };
        assert_eq!(
            from_backup(&refused),
            ["  not used: the backup /b/x.tar, of 2026-11-30T02:00:00Z: No."]
        );
        let named = |id: &str| Named { collection: "docs".to_owned(), id: id.to_owned() };
        let given =
            Given { collection: "docs".to_owned(), records: 1, metadata: 2_000, vectors: 3 };
        let from = FromBackup {
            collections: vec![given],
            older: vec![named("a")],
            uncertain: vec![named("b"), named("c")],
            ..from
        };
        let lines = from_backup(&from).join("\n");
        for part in [
            "    docs  1 records that were gone, document and metadata of 2,000, vectors of 3\n",
            "  1 records that have lost something",
            "  2 records are in the backup and not in the store: deleted since, or lost.",
            "    chroma_exporter dump /b/x.tar --ids ids.txt --to records.jsonl\n",
        ] {
            assert!(lines.contains(part), "{lines}");
        }
    }

    #[test]
    fn the_exit_code_says_what_came_of_it() {
        for (outcome, losses, want) in [
            (Outcome::NothingToDo, 0, Ended::Well),
            (Outcome::WouldRepair, 0, Ended::Well),
            (Outcome::WouldRepair, 1, Ended::Warning),
            (Outcome::Repaired, 0, Ended::Well),
            (Outcome::Repaired, 1, Ended::Warning),
            (Outcome::NotAccepted, 1, Ended::Unknown),
            (Outcome::NotRepaired, 1, Ended::Critical),
            (Outcome::CannotTell, 1, Ended::Unknown),
        ] {
            let losses = vec!["x".to_owned(); losses];
            assert_eq!(ended(&Report { outcome, losses, ..report() }), want, "{outcome:?}");
        }
        let lossy = Report { losses: vec!["a record".to_owned()], ..report() };
        let record = |n: u8| LostRecord {
            collection: "do\u{1b}cs".to_owned(),
            id: format!("r{n}"),
            part: Part::Vector,
            document: None,
            metadata: std::collections::BTreeMap::new(),
        };
        let many = lost_records(&(0..12).map(record).collect::<Vec<_>>());
        assert_eq!(many.len(), 11);
        assert_eq!(many[9], "  lost: its vector, record r9 of collection do\\u{1b}cs");
        assert_eq!(many[10], "  … 12 records in all; --report FILE writes each of them");
        assert_eq!(lost_records(&[record(3)]).len(), 1);
        let lossy = text(&Report { outcome: Outcome::WouldRepair, ..lossy });
        assert!(lossy.contains("\n  lost or damaged: a record\n"), "{lossy}");
        assert!(lossy.ends_with("--apply --accept-loss\n"), "{lossy}");
    }
}
