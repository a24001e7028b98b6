//! What a benchmark measures of its own process.
#![allow(dead_code, reason = "each benchmark uses its own part")]

pub(crate) mod programs;

use std::fs::{read_to_string, write};

/// Processor time of this process with all its threads, and of its children that have ended, in seconds; the kernel counts
/// in steps of ten milliseconds.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = read_to_string("/proc/self/stat").expect("own process");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(4);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// A line of `/proc/self/status` in KiB: `VmHWM`, the most memory since [`forget_peak`], or `VmRSS`.
pub(crate) fn status_kib(field: &str) -> f64 {
    let status = read_to_string("/proc/self/status").expect("own process");
    let line = status.lines().find(|line| line.starts_with(field)).expect("a field of its own");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Begins anew with the most memory.
pub(crate) fn forget_peak() {
    write("/proc/self/clear_refs", "5").expect("own process");
}

/// Bytes that this process has read, of files in memory too.
pub(crate) fn bytes_read() -> f64 {
    let io = read_to_string("/proc/self/io").expect("own process");
    let line =
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a field of its own");
    line.parse().expect("a number")
}
