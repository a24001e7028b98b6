//! What this process may do, in the words by which an operator can grant it.

use std::path::Path;

use super::{Blind, read_own, walk};
use crate::format::proc::{parse_stat, parse_status};

/// One thing that brings readings of other users' processes or files, or of databases under any load, and whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// Its name: a capability as systemd and container runtimes spell it, or what procfs shows.
    pub name: &'static str,
    /// Whether it is there.
    pub held: bool,
}

/// The rights of this process; those that cannot be told are left out.
pub(super) fn read(procfs: &Path) -> Vec<Right> {
    // The own status is read from the own procfs when the given one does not show this process.
    let status = read_own(procfs, "status").or_else(|| read_own(Path::new("/proc"), "status"));
    let capabilities = status
        .and_then(|text| parse_status(&text).ok())
        .map(|credentials| credentials.capabilities);
    let has = |bits: u64| capabilities.map(|set| set & bits != 0);
    // The first process exists in every namespace; `hidepid=2` hides it from whoever may not look into it.
    let visible = match rustix::fs::stat(procfs.join("1")) {
        Ok(_) => Some(true),
        Err(rustix::io::Errno::NOENT) => Some(false),
        Err(_) => None,
    };
    [
        ("cap_sys_ptrace", has(CAP_SYS_PTRACE)),
        ("cap_dac_read_search", has(CAP_DAC_READ_SEARCH | CAP_DAC_OVERRIDE)),
        ("cap_sys_nice", has(CAP_SYS_NICE)),
        ("all_processes_visible", visible),
        ("host_pid_namespace", host_namespace(procfs, visible)),
    ]
    .into_iter()
    .filter_map(|(name, held)| Some(Right { name, held: held? }))
    .collect()
}

/// Why `procfs` does not list every process of this kernel; `None` when it does.
pub(super) fn hidden(procfs: &Path) -> Option<Blind> {
    match walk::read(procfs, 1, "stat") {
        // With `hidepid=1` its files are refused, from 2 on it is not there; without, everybody may read this one.
        Err(_) => Some(Blind::Hidden),
        Ok(_) if host_namespace(procfs, Some(true)) == Some(false) => Some(Blind::Namespace),
        Ok(_) => None,
    }
}

/// Threads of the kernel are to be seen in the first namespace only, where their ancestor is process 2.
fn host_namespace(procfs: &Path, visible: Option<bool>) -> Option<bool> {
    match walk::read(procfs, 2, "stat") {
        Ok(text) => {
            let stat = parse_stat(&text).ok()?;
            Some(stat.kernel_thread() && stat.ppid == 0)
        }
        Err(_) => (visible == Some(true)).then_some(false),
    }
}

const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_NICE: u64 = 1 << 23;
