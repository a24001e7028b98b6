//! The program that runs after a backup: restic, rclone, whatever takes it elsewhere. Without a shell, with a deadline, and with a
//! bounded memory of what it says. It gets the environment of this program, because that is where such programs have their
//! passwords.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{clock, repair::steps::Steps};

/// What is run, and for how long at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// The program and its arguments. `{path}`, `{manifest}` and `{sha256}` stand for those of the backup.
    pub words: Vec<String>,
    /// It is ended when it takes longer.
    pub deadline: Duration,
}

/// The deadline that nobody has set.
pub const DEADLINE: Duration = Duration::from_hours(6);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; `None` when it did not end by itself, or never began.
    pub code: Option<i32>,
    /// How it ended, in words.
    pub ended: String,
    /// The end of what it said, on standard output and error.
    pub said: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// Whether it says that all went well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.code == Some(0)
    }
}

/// What the words in braces stand for.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// `{path}`: the backup.
    pub path: &'a str,
    /// `{manifest}`: a file with its manifest.
    pub manifest: &'a str,
    /// `{sha256}`: of the archive, or of the manifest of a directory.
    pub sha256: &'a str,
}

impl About<'_> {
    /// One word with what it is about. What is put in is never looked at again.
    fn put_in(self, word: &str) -> String {
        let mut out = String::new();
        let mut rest = word;
        'word: while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            for (name, value) in
                [("{path}", self.path), ("{manifest}", self.manifest), ("{sha256}", self.sha256)]
            {
                if let Some(after) = rest.strip_prefix(name) {
                    out.push_str(value);
                    rest = after;
                    continue 'word;
                }
            }
            out.push('{');
            rest = &rest[1..];
        }
        out + rest
    }
}

/// Runs the program once. Whatever it does is no failure of the backup.
#[must_use]
pub fn run(after: &After, about: About<'_>, steps: &Steps) -> Ran {
    steps.begin("running the program after it", None);
    let began = clock::ticks();
    let words: Vec<String> = after.words.iter().map(|word| about.put_in(word)).collect();
    let not_run =
        |ended: String| Ran { code: None, ended, said: String::new(), took: Duration::ZERO };
    let Some((program, arguments)) = words.split_first() else {
        return not_run("no program is named".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return not_run(format!("cannot run {program}: {error}")),
    };
    let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
    let readers = [
        child.stdout.take().map(|out| read(out, Arc::clone(&kept))),
        child.stderr.take().map(|err| read(err, Arc::clone(&kept))),
    ];
    let ended = wait(&mut child, after.deadline, steps);
    // What it left behind in the background may hold its output for ever.
    let since = clock::ticks();
    let reading = || readers.iter().flatten().any(|reader| !reader.is_finished());
    while reading() && since.elapsed() < OUTPUT_GRACE {
        std::thread::sleep(POLL_INTERVAL);
    }
    let (code, ended) = match ended {
        Ok(Some(status)) => (status.code(), status.to_string()),
        Ok(None) => (None, "ended by us: it was told to stop, or took too long".to_owned()),
        Err(error) => (None, error.to_string()),
    };
    let said = String::from_utf8_lossy(&kept.lock()).trim().to_owned();
    Ran { code, ended, said, took: began.elapsed() }
}

/// `None`: it was ended. Errs when the system does not say.
fn wait(child: &mut Child, deadline: Duration, steps: &Steps) -> io::Result<Option<ExitStatus>> {
    let began = clock::ticks();
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let tell = |signal| {
        if let Some(group) = group {
            // It may be gone already, which is as good.
            let _gone = kill_process_group(group, signal);
        }
    };
    while began.elapsed() < deadline && !steps.stopped() {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    // A program such as restic takes its lock away when it is asked.
    tell(Signal::TERM);
    let asked = clock::ticks();
    while asked.elapsed() < TERM_GRACE {
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    tell(Signal::KILL);
    child.wait().map(|_| None)
}

/// Reads all that is said, so that nobody waits for a full pipe, and keeps the end of it.
fn read(mut from: impl Read + Send + 'static, kept: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            let mut kept = kept.lock();
            kept.extend_from_slice(&chunk[..count]);
            let surplus = kept.len().saturating_sub(SAID_BYTES_MAX);
            kept.drain(..surplus);
        }
    })
}

const SAID_BYTES_MAX: usize = 4096;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const TERM_GRACE: Duration = Duration::from_secs(10);
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> =
        About { path: "/b/{sha256} $(id)", manifest: "/b/m.json", sha256: "ab12" };

    fn run_words(words: &[&str], deadline: Duration, steps: &Steps) -> Ran {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        run(&After { words, deadline }, ABOUT, steps)
    }

    #[test]
    fn words_in_braces_are_put_in_once_and_no_shell_sees_them() {
        for (word, want) in [
            ("{path}", "/b/{sha256} $(id)"),
            ("tag={sha256},{manifest}", "tag=ab12,/b/m.json"),
            ("{other} {", "{other} {"),
            ("{{path}}", "{/b/{sha256} $(id)}"),
            ("", ""),
        ] {
            assert_eq!(ABOUT.put_in(word), want);
        }
        let ran = run_words(&["echo", "{path}"], DEADLINE, &Steps::default());
        assert_eq!((ran.code, ran.said.as_str()), (Some(0), "/b/{sha256} $(id)"));
        assert!(ran.is_well());
    }

    #[test]
    fn how_it_ended_is_told() {
        let steps = Steps::default();
        let ran = run_words(&["sh", "-c", "echo no room >&2; exit 7"], DEADLINE, &steps);
        assert_eq!((ran.code, ran.said.as_str()), (Some(7), "no room"));
        assert!(ran.ended.contains('7') && !ran.is_well(), "{}", ran.ended);
        let ran = run_words(&["/no/such/program"], DEADLINE, &steps);
        assert!(ran.code.is_none() && ran.ended.contains("/no/such/program"), "{}", ran.ended);
        assert!(run_words(&[], DEADLINE, &steps).code.is_none());
    }

    #[test]
    fn a_flood_of_words_is_cut_to_its_end_and_nobody_waits_for_ever() {
        let steps = Steps::default();
        let flood = "yes x | head -c 3000000; echo the end";
        let ran = run_words(&["sh", "-c", flood], DEADLINE, &steps);
        assert!(ran.said.len() <= SAID_BYTES_MAX && ran.said.ends_with("the end"), "{}", ran.said);
        let ran =
            run_words(&["sh", "-c", "echo begun; sleep 600"], Duration::from_millis(300), &steps);
        assert_eq!((ran.code, ran.said.as_str()), (None, "begun"));
        steps.stop();
        let ran = run_words(&["sleep", "600"], DEADLINE, &steps);
        assert!(ran.code.is_none() && ran.ended.contains("told to stop"), "{}", ran.ended);
    }
}
