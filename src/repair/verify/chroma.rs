//! Asks a real Chroma what it makes of a copy, in a child process: loading a damaged index ends the process that does it, and that is an
//! answer too. The copy is thrown away afterwards, because every opening writes to it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    format::manifest::{Collection, Restores},
    repair::{proof::Loss, steps::Steps},
};

/// Which interpreter is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Python {
    /// That of a running Chroma, or else `python3`.
    Auto,
    /// This one.
    At(PathBuf),
}

/// What a real Chroma answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The interpreter.
    pub python: String,
    /// Its release of chromadb; absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Collections that came back with all records, all vectors, and found by them.
    pub whole: u64,
    /// What it means.
    pub restores: Restores,
    #[serde(skip)]
    pub(super) losses: Vec<Loss>,
}

#[derive(Debug, Deserialize)]
struct Line {
    step: String,
    id: Option<String>,
    version: Option<String>,
    error: Option<String>,
    count: Option<u64>,
    records: Option<u64>,
    vectors: Option<u64>,
    searched: Option<u64>,
    own: Option<u64>,
}

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    Signal(i32),
    Code(i32),
    Deadline,
    Stopped,
}

/// Asks about the copy in `dir`, which it may change.
pub(super) fn ask(
    python: &Python,
    dir: &Path,
    collections: &[Collection],
    deadline: Duration,
    steps: &Steps,
) -> Answer {
    steps.begin("asking Chroma", None);
    let python = match python {
        Python::At(python) => python.clone(),
        Python::Auto => interpreter().unwrap_or_else(|| "python3".into()),
    };
    match run(&python, dir, collections, deadline, steps) {
        Ok((lines, end)) => judge(&python, &lines, end, collections),
        Err(error) => unknown(&python, format!("{} cannot be run: {error}", python.display())),
    }
}

fn unknown(python: &Path, words: String) -> Answer {
    Answer {
        python: python.display().to_string(),
        version: None,
        whole: 0,
        restores: Restores::Unknown,
        losses: vec![Loss { collection: None, words }],
    }
}

fn run(
    python: &Path,
    dir: &Path,
    collections: &[Collection],
    deadline: Duration,
    steps: &Steps,
) -> std::io::Result<(Vec<Line>, End)> {
    let mut child = Command::new(python)
        .args(["-W", "ignore", "-c", SCRIPT])
        .arg(dir)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let group = Group(&mut child);
    let reported = serde_json::to_vec(collections)?;
    if let Some(mut stdin) = group.0.stdin.take() {
        // One that ends at once says why on its own.
        drop(stdin.write_all(&reported));
    }
    let (send, receive) = mpsc::channel();
    let stdout = group.0.stdout.take();
    thread::Builder::new().name("chroma".to_owned()).spawn(move || {
        let Some(stdout) = stdout else { return };
        let mut reader = BufReader::new(stdout.take(ANSWER_MAX));
        let mut text = Vec::new();
        while matches!(reader.read_until(b'\n', &mut text), Ok(read) if read > 0) {
            if let Ok(line) = serde_json::from_slice::<Line>(&text)
                && send.send(line).is_err()
            {
                return;
            }
            text.clear();
        }
    })?;
    let (began, mut lines) = (clock::ticks(), Vec::new());
    let end = loop {
        match receive.recv_timeout(PACE) {
            Ok(line) => lines.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break None,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if steps.stopped() {
            break Some(End::Stopped);
        }
        if began.elapsed() > deadline {
            break Some(End::Deadline);
        }
    };
    let end = if let Some(end) = end {
        end
    } else {
        let status = group.0.wait()?;
        match (status.signal(), status.code()) {
            (Some(signal), _) => End::Signal(signal),
            (None, Some(0)) => End::Well,
            (None, code) => End::Code(code.unwrap_or(-1)),
        }
    };
    Ok((lines, end))
}

/// Kills what is left of the child, and of what it started.
struct Group<'a>(&'a mut Child);

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(pid, Signal::KILL).unwrap_or_default();
        }
        drop(self.0.wait());
    }
}

/// What the lines mean. What a real Chroma does counts more than what it should do.
fn judge(python: &Path, lines: &[Line], end: End, collections: &[Collection]) -> Answer {
    let version = lines.iter().find_map(|line| line.version.clone());
    let Some(release) = &version else {
        let why = lines.iter().find_map(|line| line.error.clone());
        let why = why.unwrap_or_else(|| "it said nothing".to_owned());
        return unknown(python, format!("{} has no chromadb: {why}", python.display()));
    };
    let name = |id: &str| collections.iter().find(|c| c.id == id).map(|c| c.name.clone());
    let (mut losses, mut whole, mut failed) = (Vec::new(), 0, 0);
    let mut last: BTreeMap<&str, &Line> = BTreeMap::new();
    for line in lines {
        if let Some(id) = &line.id {
            last.insert(id, line);
        }
    }
    for collection in collections {
        let mut say = |words: String| {
            let words = format!("Chroma {release} {words}");
            losses.push(Loss { collection: Some(collection.name.clone()), words });
        };
        match last.get(collection.id.as_str()) {
            Some(line) if line.step == "done" => {
                let of = |count: Option<u64>| count.unwrap_or(0);
                let (records, own) = (collection.records, of(line.own));
                if of(line.count) == records
                    && of(line.records) == records
                    && of(line.vectors) == records
                    && enough(own, of(line.searched))
                {
                    whole += 1;
                }
                if of(line.count) != records {
                    say(format!("counts {} records, {records} are in the tables", of(line.count)));
                }
                if of(line.vectors) < records {
                    say(format!("gives {} of {records} vectors", of(line.vectors)));
                }
                if !enough(own, of(line.searched)) {
                    say(format!("finds {own} of {} by their own vector", of(line.searched)));
                }
            }
            Some(line) if line.step == "failed" => {
                failed += 1;
                say(format!("fails: {}", line.error.as_deref().unwrap_or("it does not say why")));
            }
            _ => {}
        }
    }
    let at = lines.iter().rev().find_map(|line| Some((line.id.as_deref()?, line.step.as_str())));
    let ended = |how: String| {
        let what = at.map_or("opening", |(_, step)| match step {
            "count" => "counting",
            "get" => "reading the vectors",
            "query" => "searching",
            _ => "opening",
        });
        let words = format!("Chroma {release} {how} while {what}");
        Loss { collection: at.and_then(|(id, _)| name(id)), words }
    };
    let restores = match end {
        End::Signal(signal) => {
            losses.push(ended(format!("was ended by signal {signal}")));
            Restores::Not
        }
        End::Code(code) => {
            losses.push(ended(format!("ended with code {code}")));
            Restores::Not
        }
        End::Deadline => {
            losses.push(ended("gave no answer in time".to_owned()));
            Restores::Unknown
        }
        End::Stopped => Restores::Unknown,
        End::Well if failed > 0 && failed == collections.len() => Restores::Not,
        End::Well if losses.is_empty() => Restores::Whole,
        End::Well => Restores::WithLosses,
    };
    Answer { python: python.display().to_string(), version, whole, restores, losses }
}

/// An index finds nearly all of its vectors, and never has to find all: updates leave some that no link leads to.
const fn enough(own: u64, searched: u64) -> bool {
    own.saturating_mul(100) >= searched.saturating_mul(95)
}

/// The interpreter of a Chroma that runs on this host.
fn interpreter() -> Option<PathBuf> {
    let mut found = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = words.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let program = words.next()?.into_owned();
        let chroma = words.any(|word| word.ends_with("/chroma") || word.starts_with("chromadb."));
        let python = Path::new(&program).file_name()?.to_str()?.starts_with("python");
        (chroma && python && Path::new(&program).is_absolute()).then(|| PathBuf::from(program))
    });
    found.next()
}

const SCRIPT: &str = include_str!("ask.py");
const PACE: Duration = Duration::from_millis(50);
/// A few hundred bytes for each collection.
const ANSWER_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(id: &str, records: u64) -> Collection {
        Collection {
            id: id.to_owned(),
            name: format!("name of {id}"),
            tenant: "default_tenant".to_owned(),
            database: "default_database".to_owned(),
            space: Some("l2".to_owned()),
            dimension: Some(8),
            records,
            documents: records,
            vectors: records,
            queued: 0,
        }
    }

    fn answer(lines: &[&str], end: End) -> (Restores, String) {
        let lines: Vec<Line> =
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let answer = judge(Path::new("python3"), &lines, end, &[collection("a", 100)]);
        let words: Vec<String> = answer.losses.iter().map(ToString::to_string).collect();
        (answer.restores, words.join("; "))
    }

    #[test]
    fn what_chroma_says_and_how_it_ends_are_answers() {
        let version = r#"{"step":"version","version":"1.5.9"}"#;
        let done = |count: u64, vectors: u64, own: u64| {
            format!(
                r#"{{"step":"done","id":"a","count":{count},"records":100,"vectors":{vectors},"searched":100,"own":{own}}}"#
            )
        };
        let (restores, words) = answer(&[version, &done(100, 100, 95)], End::Well);
        assert_eq!((restores, words.as_str()), (Restores::Whole, ""));
        for (line, end, want, reported) in [
            (done(99, 100, 100), End::Well, Restores::WithLosses, "counts 99 records, 100"),
            (done(100, 40, 100), End::Well, Restores::WithLosses, "gives 40 of 100 vectors"),
            (done(100, 100, 94), End::Well, Restores::WithLosses, "finds 94 of 100 by"),
            (
                r#"{"step":"failed","id":"a","error":"InternalError: x"}"#.to_owned(),
                End::Well,
                Restores::Not,
                "fails: InternalError",
            ),
            (
                r#"{"step":"count","id":"a"}"#.to_owned(),
                End::Signal(11),
                Restores::Not,
                "was ended by signal 11 while counting",
            ),
            (
                r#"{"step":"query","id":"a"}"#.to_owned(),
                End::Deadline,
                Restores::Unknown,
                "no answer in time while searching",
            ),
        ] {
            let (restores, words) = answer(&[version, &line], end);
            assert_eq!(restores, want, "{line}: {words}");
            assert!(words.contains(reported) && words.contains("name of a"), "{words}");
        }
        let (restores, words) =
            answer(&[r#"{"step":"import","error":"ModuleNotFoundError: x"}"#], End::Well);
        assert_eq!(restores, Restores::Unknown);
        assert!(words.contains("has no chromadb: ModuleNotFoundError"), "{words}");
    }

    #[test]
    fn what_cannot_be_run_is_unknown_and_what_hangs_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let steps = Steps::default();
        let gone = Python::At(dir.path().join("gone"));
        let answer = ask(&gone, dir.path(), &[], Duration::from_secs(30), &steps);
        assert_eq!(answer.restores, Restores::Unknown);
        // A program that takes the words of an interpreter and never answers.
        let script = dir.path().join("hangs");
        std::fs::write(&script, "#!/bin/sh\nsleep 600\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let hangs = Python::At(script);
        let answer = ask(&hangs, dir.path(), &[], Duration::from_millis(50), &steps);
        assert_eq!(answer.restores, Restores::Unknown, "{answer:?}");
    }
}
