//! What this process itself uses of the host.

use std::fs;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::{clock::Timestamp, metrics::ProcessUsage};

/// This process as the host's `/proc` shows it.
#[derive(Debug)]
pub(super) struct OwnProcess {
    system: System,
    pid: Pid,
}

impl OwnProcess {
    /// `None` where there is no `/proc`, or where it is that of another pid namespace and would show us a stranger.
    pub(super) fn new() -> Option<Self> {
        let pid = std::process::id();
        let link = fs::read_link("/proc/self").ok()?;
        if link.to_str() != Some(pid.to_string().as_str()) {
            return None;
        }
        Some(Self { system: System::new().ok()?, pid: Pid::from_u32(pid) })
    }

    /// The present use. What cannot be read is left out.
    pub(super) fn read(&mut self) -> Option<ProcessUsage> {
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), true, what);
        let process = self.system.process(self.pid)?;
        let count = |n: Option<usize>| n.and_then(|n| u64::try_from(n).ok());
        Some(ProcessUsage {
            cpu_seconds: process.accumulated_cpu_time() as f64 / 1000.0,
            resident_bytes: process.memory(),
            virtual_bytes: process.virtual_memory(),
            open_fds: count(process.open_files()),
            max_fds: count(process.open_files_limit()),
            started: Timestamp::from_secs(i64::try_from(process.start_time()).ok()?),
            threads: count(fs::read_dir("/proc/self/task").ok().map(Iterator::count)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn this_process_is_what_the_kernel_says() {
        // Other tests of this binary run meanwhile, so sizes are near, not equal; and one may take or give much just now.
        let near = |a: u64, b: u64| a.abs_diff(b) <= a.max(b) / 2;
        let usage_now = || {
            let usage = OwnProcess::new().unwrap().read().unwrap();
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let bytes = |key: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
            };
            let fits = near(usage.resident_bytes, bytes("VmRSS:"))
                && near(usage.virtual_bytes, bytes("VmSize:"));
            fits.then_some(usage)
        };
        let usage = (0..20).find_map(|_| usage_now()).expect("what the kernel says");
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(usage.max_fds, limit);
        assert!(usage.open_fds.unwrap() >= 3, "{usage:?}");
        assert!(usage.threads.unwrap() >= 1, "{usage:?}");
        assert!(usage.started <= clock::now(), "{usage:?}");
        let age = clock::now().since(usage.started).as_secs();
        assert!(age < 24 * 3600, "started {age} s ago");
    }

    #[test]
    fn processor_time_grows() {
        let mut own = OwnProcess::new().unwrap();
        let first = own.read().unwrap().cpu_seconds;
        let began = clock::ticks();
        let mut later = first;
        while later <= first && began.elapsed().as_secs() < 30 {
            std::hint::black_box((0..1_000_000_u64).map(std::hint::black_box).sum::<u64>());
            later = own.read().unwrap().cpu_seconds;
        }
        assert!(later > first, "{later} after {first}");
    }
}
