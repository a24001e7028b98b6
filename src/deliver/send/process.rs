//! Runs a local program with a message on its standard input.
//!
//! It runs in a process group of its own, which is killed whole at the deadline or when this program gives the attempt
//! up. What it starts in the background and leaves behind after a good end lives on.

use std::{io, process::Stdio, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStderr, ChildStdin, Command},
    time::timeout,
};

use super::{SendResult, TEXT_MAX, http::NoReply, secrets::Redactor};
use crate::{
    alert::message::{Failure, Outcome},
    deliver::receivers::{Message, command},
    keys::report::looks_like_address,
};

/// Bytes of standard error that are kept; the rest is read and dropped.
const STDERR_BYTES_MAX: usize = 4_096;

/// How long what it left in the background may keep its standard error open.
const STDERR_GRACE: Duration = Duration::from_millis(200);

/// How long a killed program may take to end.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// Runs `command` once. Of our environment it gets nothing but the search path: there may be secrets in it. Errs when it
/// cannot be started, or takes too long.
pub(crate) async fn run(
    command: &command::Command,
    message: &Message<'_>,
    deadline: Duration,
) -> Result<SendResult, NoReply> {
    let Some((program, arguments)) = command.words.split_first() else {
        return Err(NoReply::config("no command is configured"));
    };
    let mut child = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    child.args(arguments).env_clear().env("PATH", path).envs(command::environment(message));
    child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    child.current_dir("/").process_group(0).kill_on_drop(true);
    let mut child =
        child.spawn().map_err(|error| NoReply::config(format!("cannot run {program}: {error}")))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let feeding = tokio::spawn(feed(child.stdin.take(), command::input(message)));
    let kept = Arc::default();
    let mut reading = tokio::spawn(read(child.stderr.take(), Arc::clone(&kept)));
    let ended = timeout(deadline, child.wait()).await;
    if matches!(ended, Ok(Ok(_))) {
        group.spare();
    } else {
        drop(group);
        // Killed, it ends at once, unless it hangs in a filesystem.
        drop(timeout(KILL_GRACE, child.wait()).await);
    }
    feeding.abort();
    drop(timeout(STDERR_GRACE, &mut reading).await);
    reading.abort();
    let mut redactor = Redactor::default();
    for word in command.words.iter().filter(|word| looks_like_address(word)) {
        redactor.hide(word);
        if let Ok(url) = reqwest::Url::parse(word) {
            redactor.hide_url(&url);
        }
    }
    let stderr = redactor.clean(&String::from_utf8_lossy(&kept.lock()), TEXT_MAX);
    let unclear = |failure| Outcome::Retry { failure, after: None, unclear: true };
    Ok(match ended {
        Err(_) => {
            let text = format!("killed after {} s. {stderr}", deadline.as_secs_f32());
            (unclear(Failure::Timeout), None, text.trim().to_owned())
        }
        Ok(Err(error)) => (unclear(Failure::Command), None, error.to_string()),
        Ok(Ok(status)) => {
            let outcome = command::judge(status.code());
            let text = if stderr.is_empty() { status.to_string() } else { stderr };
            (outcome, status.code().and_then(|code| u16::try_from(code).ok()), text)
        }
    })
}

/// A program need not read what it is given.
async fn feed(stdin: Option<ChildStdin>, body: String) {
    if let Some(mut stdin) = stdin {
        let written: io::Result<()> = stdin.write_all(body.as_bytes()).await;
        drop(written);
    }
}

async fn read(stderr: Option<ChildStderr>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut stderr) = stderr else { return };
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        let mut kept = kept.lock();
        let room = STDERR_BYTES_MAX - kept.len();
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
}

/// Kills the process group when dropped. As long as nobody waited for its first process, the number is no other group's.
struct Group(Option<Pid>);

impl Group {
    fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone already, which is as good.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, deliver::receivers::samples};

    async fn run_words(words: &[&str], deadline: Duration) -> Result<SendResult, NoReply> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let notification = &samples::disk();
        let repeat_interval = Duration::from_hours(4);
        let message =
            Message { receiver: "r", repeat_interval, notification, now: notification.at };
        run(&command::Command { words }, &message, deadline).await
    }

    async fn shell(script: &str, deadline: Duration) -> SendResult {
        run_words(&["/bin/sh", "-c", script], deadline).await.unwrap()
    }

    #[tokio::test]
    async fn exit_codes_have_their_outcomes() {
        let retry = Outcome::Retry { failure: Failure::Command, after: None, unclear: false };
        let refused = Outcome::Rejected { failure: Failure::Command };
        for (script, outcome, status, text) in [
            ("cat >/dev/null", Outcome::Delivered, Some(0), "exit status: 0"),
            ("exit 0", Outcome::Delivered, Some(0), "exit status: 0"),
            ("printf 'no\\n\\033[2Jroom' >&2; exit 75", retry.clone(), Some(75), "no [2Jroom"),
            ("exit 65", refused, Some(65), "exit status: 65"),
            ("kill -9 $$", retry.clone(), None, "signal: 9 (SIGKILL)"),
            ("exec 2>&-; exit 1", retry, Some(1), "exit status: 1"),
        ] {
            let said = shell(script, Duration::from_secs(20)).await;
            assert_eq!(said, (outcome, status, text.to_owned()), "{script}");
        }
        let none = run_words(&["/no/such"], Duration::MAX).await;
        assert_eq!(none.unwrap_err().failure, Failure::Config);
    }

    #[tokio::test]
    async fn it_gets_the_message_and_a_bare_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!("{{ cat; echo; env | sort; }} > '{}'", out.display());
        assert_eq!(shell(&script, Duration::from_secs(20)).await.0, Outcome::Delivered);
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.starts_with("{\"receiver\":\"r\","), "{text}");
        assert!(text.contains("CHROMA_STORE=docs\n") && text.contains("CHROMA_STATUS=firing\n"));
        for line in text.lines().skip(1) {
            let known = ["CHROMA_", "PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="];
            assert!(known.iter().any(|name| line.starts_with(name)), "{line}");
        }
    }

    #[tokio::test]
    async fn it_is_killed_at_its_deadline_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script =
            format!("sleep 300 & echo $! $$ > '{}'; echo waiting >&2; wait", pids.display());
        let mut child = None;
        for seconds in [1, 10, 100] {
            let (outcome, status, text) = shell(&script, Duration::from_secs(seconds)).await;
            let want = Outcome::Retry { failure: Failure::Timeout, after: None, unclear: true };
            assert_eq!((outcome, status), (want, None));
            // On a machine that stands still it may be killed before it has come to its first word.
            if text.ends_with("waiting") {
                assert_eq!(text, format!("killed after {seconds} s. waiting"));
                child = Some(std::fs::read_to_string(&pids).unwrap());
                break;
            }
        }
        let child = child.expect("it says something");
        let child = child.split(' ').next().unwrap().to_owned();
        let gone = || {
            // A killed child that nobody has waited for yet is a zombie.
            std::fs::read_to_string(format!("/proc/{child}/stat"))
                .map_or(true, |s| s.contains(") Z "))
        };
        let began = clock::ticks();
        while !gone() {
            assert!(began.elapsed() < Duration::from_mins(1), "{child} outlived its deadline");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn a_flood_on_standard_error_and_a_child_left_behind_hold_nothing_up() {
        // The child ends with the pipe from which it reads, long after the deadline if nobody closes that.
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let kept = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        let script = format!(
            "exec 3<'{}'; cat <&3 & exec 3<&-; head -c 5000000 /dev/zero | tr '\\0' x >&2; exit 1",
            pipe.display()
        );
        let (outcome, _, text) = shell(&script, Duration::from_mins(1)).await;
        assert!(matches!(outcome, Outcome::Retry { failure: Failure::Command, .. }), "{outcome:?}");
        assert!(text.starts_with("xxx") && text.chars().count() <= TEXT_MAX + 1, "{text}");
        drop(kept);
    }
}
