//! The program, killed or refused at each call that moves something.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Output},
};

use super::binary;

/// The program under `strace`: the `at`th call of this kind fails, or kills it (`signal=KILL`, `error=EIO`). What it is to do is
/// added.
pub fn injected(call: &str, what: &str, at: usize) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
    command.arg("-e").arg(format!("inject={call}:{what}:when={at}")).arg(binary());
    command
}

pub fn was_killed(out: &Output) -> bool {
    match (out.status.signal(), out.status.code()) {
        (Some(9), _) | (_, Some(137)) => true,
        (_, Some(0)) => false,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&out.stderr)),
    }
}

/// Every call that moves, makes or removes a name. `strace` counts each by itself.
pub const CALLS: [&str; 11] = [
    "?rename",
    "?renameat",
    "renameat2",
    "?link",
    "linkat",
    "symlinkat",
    "?unlink",
    "unlinkat",
    "?rmdir",
    "?mkdir",
    "mkdirat",
];
