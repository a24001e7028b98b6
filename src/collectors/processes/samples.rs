//! The series of the collector.

use super::unseen::Unseen;
use crate::{
    host::processes::Holder,
    sample::{Desc, Sample},
};

pub(super) static PROCESSES: Desc = Desc::gauge(
    "chroma_processes",
    "Processes that hold chroma.sqlite3, by how they opened it. Absent when others may hold it unseen.",
)
.labelled(&["access"]);
pub(super) static WRITERS: Desc = Desc::gauge(
    "chroma_process_writers",
    "Processes that hold chroma.sqlite3 open for writing. Child processes that only inherited it count as their parent. Absent when others may hold it unseen.",
);
pub(super) static SERVERS: Desc = Desc::gauge(
    "chroma_process_servers",
    "Chroma servers that hold chroma.sqlite3. Absent when others may hold it unseen.",
);
pub(super) static DISCOVERED: Desc = Desc::gauge(
    "chroma_store_discovered",
    "1 when the directory was found by itself and is watched while a process holds it, 0 when it is configured.",
);
pub(super) static CHILDREN: Desc = Desc::gauge(
    "chroma_process_children",
    "Child processes that only inherited chroma.sqlite3 from a process that holds it.",
);
pub(super) static UNREADABLE: Desc = Desc::gauge(
    "chroma_processes_unreadable",
    "Processes of the host whose open files could not be looked at. Each may hold this store. Absent when the list of processes is not complete.",
);
pub(super) static RESIDENT: Desc = Desc::gauge(
    "chroma_process_resident_memory_bytes",
    "Resident memory of the server, or of the first writer when there is no server.",
);
pub(super) static CPU: Desc = Desc::counter(
    "chroma_process_cpu_seconds_total",
    "CPU time of the server since it started, or of the first writer when there is no server.",
);
pub(super) static STARTED: Desc = Desc::gauge(
    "chroma_process_start_timestamp_seconds",
    "When the server started, or the first writer when there is no server.",
);
pub(super) static LOCK_SECONDS: Desc = Desc::gauge(
    "chroma_process_lock_seconds",
    "How long a process other than the server has held a lock on chroma.sqlite3 without a break.",
);
pub(super) static CAPABILITY: Desc = Desc::gauge(
    "chroma_exporter_capability",
    "Whether this program has the Linux capability that it needs to look into processes of other users and containers.",
)
.labelled(&["capability"]);

pub(in crate::collectors) static DESCS: [&Desc; 11] = [
    &DISCOVERED,
    &PROCESSES,
    &WRITERS,
    &SERVERS,
    &CHILDREN,
    &UNREADABLE,
    &RESIDENT,
    &CPU,
    &STARTED,
    &LOCK_SECONDS,
    &CAPABILITY,
];

/// How many hold it. A number that somebody unseen may belong to is left out. `unreadable` is not known where not even all
/// processes are listed.
pub(super) fn counts(
    holders: &[Holder],
    unreadable: Option<usize>,
    unseen: &Unseen,
) -> Vec<Sample> {
    let count = |test: &dyn Fn(&&Holder) -> bool| holders.iter().filter(test).count() as f64;
    let mut out = Vec::new();
    out.extend(unreadable.map(|unreadable| UNREADABLE.sample(unreadable as f64)));
    if unseen.writers_known() {
        let writers = count(&|holder| holder.writes);
        out.push(PROCESSES.with(vec!["write".into()], writers));
        out.push(WRITERS.sample(writers));
        out.push(SERVERS.sample(count(&|holder| holder.server)));
    }
    if *unseen == Unseen::Nobody {
        out.push(PROCESSES.with(vec!["read".into()], count(&|holder| !holder.writes)));
        let children: usize = holders.iter().map(|holder| holder.children.len()).sum();
        out.push(CHILDREN.sample(children as f64));
    }
    out
}
