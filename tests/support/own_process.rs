//! Tests that need a process to themselves, because what they change holds for all of it: limits, the environment.

use std::process::{Command, Stdio};

const ALONE: &str = "TEST_HAS_ITS_OWN_PROCESS";

/// True in the process that belongs to `test` (its full name, `module::function`). Anywhere else it starts that process, waits
/// for it, passes on how it ended, and answers false: there is nothing left to do.
pub fn is_mine(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    run(test, &[]);
    false
}

/// Runs `test` of this binary in a process of its own, with these variables besides.
pub fn run(test: &str, environment: &[(&str, &str)]) {
    let out = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("a process");
    let said = [&out.stdout[..], &out.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    let shown: String = said.chars().skip(said.chars().count().saturating_sub(4000)).collect();
    // No test has a name that is not right, and none of none fails.
    assert!(out.status.success() && said.contains("1 passed"), "{test}, {}:\n{shown}", out.status);
}
