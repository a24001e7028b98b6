//! Memory, CPU time and limits of the few processes that hold a store: by `sysinfo` from this host's `/proc`, which is
//! the only one that it reads, and by our own parsers from any other.

use std::{
    io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::{Holder, walk};
use crate::{
    facts::error::CollectError,
    format::proc::{ProcTextError, Stat, parse_open_files_limit, parse_resident_pages, parse_stat},
};

/// Attributes of one process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attributes {
    /// Resident memory.
    pub resident_bytes: u64,
    /// CPU time since its start, all threads, user and system.
    pub cpu_seconds: f64,
    /// Most descriptors that it may have open; `None` when there is no limit or it may not be known.
    pub max_descriptors: Option<u64>,
}

/// Reads them.
#[derive(Debug)]
pub(super) struct Reader {
    procfs: PathBuf,
    /// Made at the first reading; `None` as well when `sysinfo` does not work here.
    system: Mutex<Option<System>>,
}

impl Reader {
    pub(super) fn new(procfs: PathBuf) -> Self {
        Self { procfs, system: Mutex::default() }
    }

    /// Reads what the kernel tells of a process. Errs when it has ended, or may not be looked at.
    pub(super) fn read(&self, holder: &Holder) -> Result<Attributes, CollectError> {
        // `sysinfo` takes whoever has the pid now.
        self.stat(holder)?;
        let own = self.procfs == Path::new("/proc");
        let by_sysinfo = if own { self.by_sysinfo(holder.pid) } else { None };
        by_sysinfo.map_or_else(|| self.by_text(holder), Ok)
    }

    pub(super) fn by_sysinfo(&self, pid: u32) -> Option<Attributes> {
        let mut system = self.system.lock();
        if system.is_none() {
            *system = System::new().ok();
        }
        let system = system.as_mut()?;
        let pid = Pid::from_u32(pid);
        let kind = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
        let process = system.process(pid)?;
        Some(Attributes {
            resident_bytes: process.memory(),
            cpu_seconds: process.accumulated_cpu_time() as f64 / 1000.0,
            max_descriptors: process.open_files_limit().and_then(|max| max.try_into().ok()),
        })
    }

    /// The same from the texts of `/proc` alone. Errs alike.
    pub(super) fn by_text(&self, holder: &Holder) -> Result<Attributes, CollectError> {
        let stat = self.stat(holder)?;
        let pages = parse_resident_pages(&self.text(holder, "statm")?)
            .map_err(|source| self.malformed(holder, "statm", source))?;
        let limits = self.text(holder, "limits").ok();
        let ticks = stat.user_ticks.saturating_add(stat.system_ticks);
        Ok(Attributes {
            resident_bytes: pages.saturating_mul(rustix::param::page_size() as u64),
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64,
            max_descriptors: limits.and_then(|text| parse_open_files_limit(&text).ok()?),
        })
    }

    /// Errs as well when another process got the pid.
    fn stat(&self, holder: &Holder) -> Result<Stat, CollectError> {
        let stat = parse_stat(&self.text(holder, "stat")?)
            .map_err(|source| self.malformed(holder, "stat", source))?;
        if stat.start_ticks == holder.start_ticks {
            Ok(stat)
        } else {
            Err(self.unreadable(holder, io::ErrorKind::NotFound.into()))
        }
    }

    fn text(&self, holder: &Holder, name: &str) -> Result<Vec<u8>, CollectError> {
        walk::read(&self.procfs, holder.pid, name).map_err(|source| self.unreadable(holder, source))
    }

    fn unreadable(&self, holder: &Holder, source: io::Error) -> CollectError {
        CollectError::Unreadable { path: self.procfs.join(holder.pid.to_string()), source }
    }

    fn malformed(&self, holder: &Holder, name: &str, source: ProcTextError) -> CollectError {
        let path = self.procfs.join(holder.pid.to_string()).join(name);
        CollectError::ProcText { path, source }
    }
}
