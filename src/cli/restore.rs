//! `restore`: puts a backup in place, or what was there before a restore.

use std::{error::Error, path::PathBuf};

use clap::ValueHint;
use serde_json::json;

use super::{
    Ended, Output,
    bar::{self, ProgressMode},
    interrupt, plain, to_stderr, to_stdout,
};
use crate::{
    clock,
    config::{Config, Store},
    host::{self, links, processes::ProcessTable},
    human,
    repair::{
        quarantine::Way,
        restore::{self, Outcome, Report, RestoreError, Wish},
        steps::Steps,
        swap::{Settled, SwapError},
    },
};

/// What `restore` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Options {
    /// The backup to put in place; without one, only a restore that was cut off is brought to its end
    #[arg(value_name = "BACKUP", value_hint = ValueHint::AnyPath, conflicts_with = "undo")]
    backup: Option<PathBuf>,

    /// Put back what was there before the last restore; what was restored is kept
    #[arg(long)]
    undo: bool,

    /// Restore although something of the backup is lost; undo although records were written since
    #[arg(long)]
    accept_loss: bool,

    /// You know that no Chroma uses the directory, where this program cannot see it
    #[arg(long)]
    chroma_is_stopped: bool,

    /// Of several stores in the backup, the one whose path in it ends with this
    #[arg(long, value_name = "PATH", requires = "backup")]
    path: Option<String>,

    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Restores the one store of `config`.
pub(super) fn run(config: &Config, options: &Options) -> Ended {
    host::give_memory_back();
    host::priority::is_waited_for();
    let [store] = &config.stores[..] else {
        to_stderr(&which_store("restore", &config.stores));
        return Ended::Usage;
    };
    let wish = match place_of(config, store) {
        Ok(store) => Wish {
            store,
            accept_loss: options.accept_loss,
            chroma_is_stopped: options.chroma_is_stopped,
            dry: options.dry_run,
            only: options.path.clone(),
        },
        Err(error) => {
            to_stderr(&complaint(&error));
            return Ended::Critical;
        }
    };
    let processes = ProcessTable::new(config.procfs.clone());
    let steps = Steps::default();
    interrupt::stops(&steps);
    let mode = ProgressMode::of(options.progress, options.output == Output::Text);
    let result = bar::steps(mode, &store.name, &steps, || {
        let now = clock::now();
        match &options.backup {
            Some(backup) => restore::restore(backup, &wish, &processes, &steps, now),
            None if options.undo => restore::undo(&wish, &processes, now),
            None => restore::resume(&wish, &processes, now),
        }
    });
    answer(&result, options.output, text, ended)
}

/// Prints what came of it, or what went wrong and what to do.
pub(super) fn answer<T: serde::Serialize>(
    result: &Result<T, RestoreError>,
    output: Output,
    text: impl FnOnce(&T) -> String,
    ended: impl FnOnce(&T) -> Ended,
) -> Ended {
    match (result, output) {
        (Ok(report), Output::Text) => to_stdout(&text(report), ended(report)),
        (Ok(report), Output::Json) => to_stdout(&json(result), ended(report)),
        (Err(error), output) => {
            let ended = if error.is_refusal() { Ended::Unknown } else { Ended::Critical };
            to_stderr(&complaint(error));
            if output == Output::Json { to_stdout(&json(result), ended) } else { ended }
        }
    }
}

/// Why there is not one store to work on.
pub(super) fn which_store(command: &str, stores: &[std::sync::Arc<Store>]) -> String {
    let names: Vec<&str> = stores.iter().map(|store| &*store.name).collect();
    match names.len() {
        0 => format!(
            "error: {command} needs the directory of the store\nhelp: add --store.path DIR\n"
        ),
        more => format!(
            "error: {command} works on one store at a time, and there are {more}: {}\nhelp: add --store.path DIR\n",
            names.join(", ")
        ),
    }
}

/// The directory of a store on this host. Errs when it has none.
pub(super) fn place_of(config: &Config, store: &Store) -> Result<PathBuf, RestoreError> {
    let senseless = |problem: &dyn std::fmt::Display, help| RestoreError::Senseless {
        what: format!("{}: {problem}", store.path.display()),
        help,
    };
    if store.through.is_some() || links::through_process(&config.procfs, &store.seen_path).is_some()
    {
        return Err(senseless(
            &"it lies in a container and has no path on this host",
            "run this in the container, while its Chroma is stopped, or name the volume by its path on the host",
        ));
    }
    links::follow(&config.rootfs, &store.seen_path)
        .and_then(|seen| restore::place(&seen))
        .map_err(|error| senseless(&error, "make the directory above it, or correct the path"))
}

const fn ended(report: &Report) -> Ended {
    if report.losses.is_empty() { Ended::Well } else { Ended::Warning }
}

/// What went wrong, why, and what to do.
pub(super) fn complaint(error: &RestoreError) -> String {
    let mut text = format!("error: {}", plain(&error.to_string()));
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = plain(&cause.to_string());
        if !text.contains(&cause_text) {
            text.extend([": ", &*cause_text]);
        }
        source = cause.source();
    }
    if let RestoreError::Held(holds) | RestoreError::Swap(SwapError::Held(holds)) = error {
        for user in holds.users() {
            text.extend(["\n  ", &*user.to_string()]);
        }
    }
    text + "\nhelp: " + &plain(&error.hint()) + "\n"
}

pub(super) fn json<T: serde::Serialize>(result: &Result<T, RestoreError>) -> String {
    let document = match result {
        Ok(report) => json!({"status": "ok", "report": report}),
        Err(error) => {
            let users = match error {
                RestoreError::Held(holds) | RestoreError::Swap(SwapError::Held(holds)) => {
                    holds.users()
                }
                _ => &[],
            };
            let status = if error.is_refusal() { "refused" } else { "failed" };
            json!({"status": status, "error": error.to_string(), "help": error.hint(), "held_by": users})
        }
    };
    format!("{document:#}\n")
}

fn text(report: &Report) -> String {
    let store = plain(&report.store.to_string_lossy());
    let backup = plain(&report.backup);
    let moment = report.moment.map(|at| format!(", as it was at {}", human::moment(at)));
    let moment = moment.unwrap_or_default();
    let mut lines = Vec::new();
    for (path, how) in &report.settled {
        let what = match how {
            Settled::Discarded => "had not begun to change the store, and was cleaned up",
            Settled::Finished => "was brought to its end",
            Settled::GoneBack => "was undone",
        };
        let path = plain(&path.to_string_lossy());
        lines.push(format!("A restore that was cut off {what}: {path}"));
    }
    lines.push(match report.outcome {
        Outcome::Restored => format!("{store}: restored from {backup}{moment}"),
        Outcome::Finished => {
            format!("{store}: restored from {backup}, by the run that was cut off")
        }
        Outcome::Undone => format!("{store}: as it was before the restore from {backup}"),
        Outcome::Cleaned => format!("{store}: as it was"),
        Outcome::WouldRestore => {
            format!("{store}: would be restored from {backup}, after it was proven to restore")
        }
        Outcome::WouldUndo => {
            format!("{store}: would be as it was before the restore from {backup}")
        }
    });
    let count = |number: u64| human::count(number as f64);
    lines.extend(report.collections.iter().map(|one| {
        let (records, vectors) = (count(one.records), count(one.vectors));
        format!("  {}  {records} records, {vectors} with vectors", plain(&one.name))
    }));
    lines.extend(report.losses.iter().map(|loss| format!("  lost: {}", plain(loss))));
    lines.extend(report.notes.iter().map(|note| format!("Note: {}.", plain(note))));
    if let Some(opened_by) = &report.opened_by {
        lines.push(format!("It is opened by Chroma {}.", plain(opened_by)));
    }
    if let (Way::Files, Some(reason)) = (report.way, &report.reason) {
        lines.push(format!("Files are exchanged one by one: {}.", plain(reason)));
    }
    let kept = report.quarantine.as_ref().map(|path| plain(&path.to_string_lossy()));
    match (report.outcome, kept) {
        (Outcome::Restored | Outcome::Finished, Some(kept)) => {
            lines.push(format!("The old content is in {kept}. Delete it when all is well."));
            lines.push(format!("To undo: chroma_exporter restore --undo --store.path {store}"));
        }
        (Outcome::Undone, Some(kept)) => {
            lines.push(format!("What was restored is in {kept}. Delete it when all is well."));
        }
        _ => {}
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::{
        holders::{Holds, User},
        quarantine::Came,
    };

    fn report() -> Report {
        Report {
            outcome: Outcome::Restored,
            store: "/srv/chroma".into(),
            backup: "/backup/a.tar.zst".to_owned(),
            quarantine: Some("/srv/chroma.quarantine.20261130_020000".into()),
            way: Way::Files,
            reason: Some("the directory is a mount point".to_owned()),
            collections: vec![Came {
                name: "do\u{1b}cs".to_owned(),
                records: 41_233,
                vectors: 41_000,
            }],
            losses: Vec::new(),
            notes: Vec::new(),
            moment: Some(clock::Timestamp::from_secs(1_796_004_000)),
            opened_by: Some("1.0 or later".to_owned()),
            settled: vec![("/srv/.chroma.restore.1".into(), Settled::Discarded)],
        }
    }

    #[test]
    fn what_was_done_is_told_with_the_line_that_undoes_it() {
        let text = text(&report());
        assert_eq!(
            text,
            "A restore that was cut off had not begun to change the store, and was cleaned up: /srv/.chroma.restore.1\n\
             /srv/chroma: restored from /backup/a.tar.zst, as it was at 2026-11-30 02:00 UTC\n  do\\u{1b}cs  41,233 records, 41,000 with vectors\n\
             It is opened by Chroma 1.0 or later.\nFiles are exchanged one by one: the directory is a mount point.\n\
             The old content is in /srv/chroma.quarantine.20261130_020000. Delete it when all is well.\n\
             To undo: chroma_exporter restore --undo --store.path /srv/chroma\n"
        );
        assert_eq!(ended(&report()), Ended::Well);
        let lossy = Report { losses: vec!["x".to_owned()], ..report() };
        assert_eq!(ended(&lossy), Ended::Warning);
    }

    #[test]
    fn who_holds_the_store_is_told_with_what_to_do() {
        let user = |pid, command: &str| User { pid, command: command.to_owned() };
        let error = RestoreError::Held(Holds::Held {
            database: "/srv/chroma/chroma.sqlite3".into(),
            users: vec![user(7, "chroma run"), user(8, "python3 app.py")],
        });
        assert_eq!(
            complaint(&error),
            "error: process 7 (chroma run) has /srv/chroma/chroma.sqlite3 open, and one more process\n  process 7 (chroma run)\n  \
             process 8 (python3 app.py)\n\
             help: stop it the way it was started (systemctl stop, docker stop, pm2 stop), or with: kill 7 8\n"
        );
        let document: serde_json::Value =
            serde_json::from_str(&json::<Report>(&Err(error))).unwrap();
        assert_eq!(document["held_by"][1]["pid"], 8);
        assert_eq!(document["status"], "refused");
    }
}
