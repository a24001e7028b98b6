//! `recover` as a child: it yields to everybody, may use a part of the memory that is free, and is the first to go when memory is
//! short.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::Deserialize;
use sysinfo::System;

use crate::{
    clock,
    facts::trial::Came,
    host::priority::{Quiet, quietly},
    human,
    keys::rules::below_root,
    repair::{
        backup::{self, dated},
        recover,
    },
    store::{Context, space::Space},
};

/// Tries it, until `stop` is set.
pub(super) fn run(context: &Context, stop: &AtomicBool) -> Came {
    let untried = |why: String| Came::Untried { why };
    let place = place(context);
    if let Err(why) = has_room(context, &place) {
        return untried(why);
    }
    let deadline = context.config.collect.check_deadline;
    // A child yields as the thread does that starts it.
    let tried = quietly(Quiet::Idle, stop, |stop| follow(context, &place, deadline, stop));
    match tried.and_then(|tried| tried) {
        Ok(said) => parse(&said).unwrap_or_else(untried),
        Err(error) => untried(error.to_string()),
    }
}

/// Where the copy goes: the place of other copies.
fn place(context: &Context) -> PathBuf {
    let scratch = context.config.integrity.scratch_dir.clone();
    let place = scratch.or_else(|| context.host.state.dir().map(Into::into));
    place.unwrap_or_else(std::env::temp_dir)
}

/// No trial fills a disk beyond its alert level. Errs with the reason when there is no room.
fn has_room(context: &Context, place: &Path) -> Result<(), String> {
    let cannot = |at: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", at.display());
    let store = &context.store.seen_path;
    let need = recover::needed_bytes(store).map_err(|error| cannot(store, &error))?;
    let vfs = rustix::fs::statvfs(place).map_err(|error| cannot(place, &error))?;
    let after = Space::of(&vfs).used_ratio_with(need).unwrap_or(f64::INFINITY);
    if after < context.config.disk.warn_ratio {
        return Ok(());
    }
    Err(format!("{} has no room for a copy with {}", place.display(), human::bytes(need)))
}

/// Starts it, and gives what it said. Errs when it cannot be started, took too long, was killed or stopped.
fn follow(
    context: &Context,
    place: &Path,
    deadline: Duration,
    stop: &AtomicBool,
) -> io::Result<Vec<u8>> {
    let began = clock::ticks();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["recover", "--output", "json"]);
    if let Some(backup) = newest_backup(context) {
        command.arg("--backup").arg(backup);
    }
    let mut child = command
        .arg("--scratch")
        .arg(place)
        .arg("--store.path")
        .arg(&context.store.seen_path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    bound(&child);
    let said = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let read = said.map(|said| said.take(SAID_MAX).read_to_end(&mut text));
        read.transpose().map(|_| text)
    });
    let why = loop {
        if let Some(status) = child.try_wait()? {
            // By a signal: what it said is of no use.
            break status
                .code()
                .is_none()
                .then(|| "it was killed; when memory is short, it is the first to go".to_owned());
        }
        if stop.load(Ordering::Relaxed) {
            break Some("stopped".to_owned());
        }
        if began.elapsed() > deadline {
            break Some(format!("it took longer than {}", human::span(deadline)));
        }
        thread::sleep(WAIT);
    };
    if why.is_some() {
        // It may have ended by itself.
        drop(child.kill());
        child.wait()?;
    }
    let said =
        reader.join().unwrap_or_else(|_| Err(io::Error::other("its answer was not read")))?;
    why.map_or(Ok(said), |why| Err(io::Error::other(why)))
}

/// The newest proven backup that the configuration has made of the store: by hand, the command would take it too. One that is made of
/// the broken store has what that has.
fn newest_backup(context: &Context) -> Option<PathBuf> {
    let store = &context.store;
    let to = below_root(&context.config.rootfs, &store.backup.as_ref()?.to);
    let proven = |path: &PathBuf| backup::manifest(path).is_some_and(|one| one.is_proven());
    dated::newest(&[], Some((&to, &store.path))).into_iter().find(proven)
}

/// What cannot be bounded is not worth an error: the limits are a precaution.
fn bound(child: &Child) {
    let (pid, id) = (Pid::from_child(child), child.id());
    let free = System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.available_memory()
    });
    let most = (free / 2).max(MEMORY_MIN);
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    if let Err(error) = prlimit(Some(pid), Resource::Data, limit) {
        tracing::debug!(%error, "The memory of a trial has no limit.");
    }
    if let Err(error) = fs::write(format!("/proc/{id}/oom_score_adj"), "1000") {
        tracing::debug!(%error, "A trial is not the first to go when memory is short.");
    }
}

/// What `recover --output json` says, as far as it matters here.
#[derive(Deserialize)]
struct Document {
    report: Option<Report>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Report {
    outcome: String,
    losses: Vec<String>,
    not_done: Vec<NotDone>,
}

#[derive(Deserialize)]
struct NotDone {
    code: String,
    why: String,
}

/// Errs with the reason why nothing is known.
fn parse(said: &[u8]) -> Result<Came, String> {
    let said: Document = serde_json::from_slice(said).map_err(|_| {
        "it ended without a report; it may have needed more memory than is free".to_owned()
    })?;
    let Some(report) = said.report else {
        return Err(said.error.unwrap_or_else(|| "it gave no reason".to_owned()));
    };
    let why = || {
        let reported = report.not_done.iter().map(|one| format!("{}: {}", one.code, one.why));
        let mut reported: Vec<String> = reported.take(LISTED_MAX).collect();
        if reported.is_empty() {
            reported.extend(report.losses.iter().take(LISTED_MAX).cloned());
        }
        reported.join(" ")
    };
    match report.outcome.as_str() {
        "would_repair" if report.losses.is_empty() => Ok(Came::Whole),
        "would_repair" => {
            let first = report.losses.iter().take(LISTED_MAX).cloned().collect();
            Ok(Came::WithLosses { first, count: report.losses.len() })
        }
        "not_repaired" => Ok(Came::NotRepaired { why: why() }),
        "nothing_to_do" => Err("the copy is whole: what was found may be over by now".to_owned()),
        _ => Err(format!("not everything of the copy could be looked at. {}", why())),
    }
}

const WAIT: Duration = Duration::from_millis(50);
/// A report names every record that is lost.
const SAID_MAX: u64 = 64 << 20;
/// So many losses or reasons are told.
const LISTED_MAX: usize = 3;
const MEMORY_MIN: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_recover_is_read_and_anything_else_is_no_result() {
        let report = |outcome: &str, losses: &[&str]| {
            let report = serde_json::json!({
                "outcome": outcome, "losses": losses, "lost_records": [{"id": "a"}],
                "not_done": [{"code": "wal_mode", "why": "No."}],
            });
            parse(serde_json::json!({"status": "ok", "report": report}).to_string().as_bytes())
        };
        assert_eq!(report("would_repair", &[]), Ok(Came::Whole));
        let lossy = report("would_repair", &["a", "b", "c", "d"]);
        let first = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(lossy, Ok(Came::WithLosses { first, count: 4 }));
        let why = "wal_mode: No.".to_owned();
        assert_eq!(report("not_repaired", &["a"]), Ok(Came::NotRepaired { why }));
        assert!(report("nothing_to_do", &[]).is_err());
        assert!(report("cannot_tell", &[]).unwrap_err().ends_with("looked at. wal_mode: No."));
        let refused = br#"{"status": "refused", "error": "somebody has it", "help": "stop it"}"#;
        assert_eq!(parse(refused), Err("somebody has it".to_owned()));
        assert!(parse(b"").unwrap_err().contains("memory"));
    }
}
