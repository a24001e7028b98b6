//! From descriptors to holders: what each process is, and which of them only inherited what they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::{
    FileId, Holder,
    walk::{self, KernelThreads},
};
use crate::{
    clock::{Ticks, Timestamp},
    format::{
        proc::{Credentials, Stat, parse_boot_time, parse_cmdline, parse_stat, parse_status},
        programs::{is_chroma_server, is_spawned_worker},
    },
};

/// A descriptor of a file that somebody asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub(super) pid: u32,
    pub(super) descriptor: u32,
    pub(super) file: FileId,
    pub(super) writes: bool,
}

/// What one walk leaves to the next.
#[derive(Debug, Default)]
pub(super) struct LastWalk {
    pub(super) kernel_threads: KernelThreads,
    /// Whether a process is a server, by pid, start and the stack of its last `execve`.
    servers: BTreeMap<(u32, u64, u64), bool>,
    /// When the host was booted, and when that was read.
    boot: Option<(Ticks, u64)>,
}

/// What a walk over all processes found.
pub(super) struct Found<'a> {
    /// The files that somebody asked for.
    pub(super) files: &'a [FileId],
    /// Who has them open.
    pub(super) hits: &'a [Hit],
    /// How many descriptors each of those has.
    pub(super) open_descriptors: &'a BTreeMap<u32, u64>,
}

/// The holders of each file, oldest first, and the pids that could not be read although they hold something. `own` is this
/// program: a child of it that is on its way from fork to exec holds what this program holds, and is nobody else.
pub(super) fn build(
    procfs: &Path,
    now: Ticks,
    own: Option<u32>,
    found: &Found<'_>,
    memory: &mut LastWalk,
) -> (BTreeMap<FileId, Arc<[Holder]>>, Vec<u32>) {
    let &Found { files, hits, open_descriptors } = found;
    let mut family = Family { procfs, stats: BTreeMap::new() };
    let own = own.and_then(|pid| family.stat(pid).cloned());
    let mut lost = Vec::new();
    let mut known = BTreeMap::new();
    let pids: BTreeSet<u32> = hits.iter().map(|hit| hit.pid).collect();
    let boot_secs = if pids.is_empty() { 0 } else { boot_secs(procfs, now, memory) };
    let mut servers = BTreeMap::new();
    for pid in pids {
        match person(procfs, pid, &mut family, memory) {
            Ok((stat, ..)) if own.as_ref().is_some_and(|own| stat.same_layout(own)) => {}
            Ok((stat, credentials, server)) => {
                servers.insert((pid, stat.start_ticks, stat.start_stack), server);
                known.insert(pid, (stat, credentials, server));
            }
            Err(Lost::Ended) => {}
            Err(Lost::Unreadable) => lost.push(pid),
        }
    }
    memory.servers = servers;

    let mut out = BTreeMap::new();
    for file in files {
        let mut held: BTreeMap<u32, Vec<Hit>> = BTreeMap::new();
        for hit in hits.iter().filter(|hit| hit.file == *file && known.contains_key(&hit.pid)) {
            held.entry(hit.pid).or_default().push(*hit);
        }
        let heirs = family.heirs(&held);
        let mut holders: Vec<Holder> = held
            .iter()
            .filter(|(pid, _)| !heirs.contains_key(*pid))
            .map(|(pid, own)| {
                let (stat, credentials, server) = &known[pid];
                Holder {
                    pid: *pid,
                    comm: stat.comm.clone(),
                    server: *server,
                    writes: own.iter().any(|hit| hit.writes),
                    uid: credentials.uid,
                    gids: credentials.gids.clone(),
                    started: started(boot_secs, stat.start_ticks),
                    start_ticks: stat.start_ticks,
                    descriptors: own.iter().map(|hit| hit.descriptor).collect(),
                    open_descriptors: open_descriptors.get(pid).copied().unwrap_or_default(),
                    children: heirs.iter().filter(|(_, of)| *of == pid).map(|(c, _)| *c).collect(),
                }
            })
            .collect();
        holders.sort_by_key(|holder| (holder.start_ticks, holder.pid));
        out.insert(*file, holders.into());
    }
    (out, lost)
}

enum Lost {
    Ended,
    Unreadable,
}

fn person(
    procfs: &Path,
    pid: u32,
    family: &mut Family<'_>,
    memory: &LastWalk,
) -> Result<(Stat, Credentials, bool), Lost> {
    let stat = family.stat(pid).cloned().ok_or(Lost::Ended)?;
    let status = walk::read(procfs, pid, "status")
        .map_err(|error| if walk::ended(&error) { Lost::Ended } else { Lost::Unreadable })?;
    let credentials = parse_status(&status).map_err(|_| Lost::Unreadable)?;
    let known = memory.servers.get(&(pid, stat.start_ticks, stat.start_stack));
    let server = known.copied().unwrap_or_else(|| serves(procfs, pid, &stat, family));
    Ok((stat, credentials, server))
}

fn serves(procfs: &Path, pid: u32, stat: &Stat, family: &mut Family<'_>) -> bool {
    // The command line lies in the memory of the process; while that waits for a device, so would we.
    if stat.state == b'D' {
        return stat.comm == "chroma";
    }
    let Ok(text) = walk::read(procfs, pid, "cmdline") else { return false };
    let arguments = parse_cmdline(&text);
    if !is_spawned_worker(&arguments) {
        return is_chroma_server(&arguments);
    }
    match family.stat(stat.ppid).map(|parent| parent.state) {
        None | Some(b'D') => false,
        Some(_) => walk::read(procfs, stat.ppid, "cmdline")
            .is_ok_and(|text| is_chroma_server(&parse_cmdline(&text))),
    }
}

/// Who descends from whom.
struct Family<'a> {
    procfs: &'a Path,
    stats: BTreeMap<u32, Option<Stat>>,
}

impl Family<'_> {
    fn stat(&mut self, pid: u32) -> Option<&Stat> {
        let procfs = self.procfs;
        self.stats
            .entry(pid)
            .or_insert_with(|| parse_stat(&walk::read(procfs, pid, "stat").ok()?).ok())
            .as_ref()
    }

    /// Which holders only inherited what they hold, and from whom. An heir was forked from its ancestor (any number of
    /// generations back) without executing anything since, and has the file under no number that the ancestor has not:
    /// a child that opened the database itself is a holder of its own. Siblings are never joined: workers that each
    /// opened it after the fork look the same, and are just the second writers that matter.
    fn heirs(&mut self, held: &BTreeMap<u32, Vec<Hit>>) -> BTreeMap<u32, u32> {
        let mut heirs = BTreeMap::new();
        for (pid, own) in held {
            let Some(stat) = self.stat(*pid).cloned() else { continue };
            let mut ancestor = stat.ppid;
            for _ in 0..GENERATIONS_MAX {
                let Some(above) = self.stat(ancestor) else { break };
                let next = above.ppid;
                if let Some(theirs) = held.get(&ancestor)
                    && stat.same_layout(above)
                    && own.iter().all(|o| theirs.iter().any(|t| t.descriptor == o.descriptor))
                {
                    heirs.insert(*pid, ancestor);
                }
                ancestor = next;
            }
        }
        heirs
    }
}

fn boot_secs(procfs: &Path, now: Ticks, memory: &mut LastWalk) -> u64 {
    if let Some((read, secs)) = memory.boot
        && now.since(read) < BOOT_AGE_MAX
    {
        return secs;
    }
    let text = walk::read_text(&procfs.join("stat"));
    let secs = text.ok().and_then(|text| parse_boot_time(&text).ok());
    let before = memory.boot.map(|(_, secs)| secs);
    // The kernel rounds it anew at each reading; a start time that moves by that would look like a restart.
    let secs = match (secs, before) {
        (Some(secs), Some(before)) if secs.abs_diff(before) <= 1 => before,
        (secs, before) => secs.or(before).unwrap_or(0),
    };
    memory.boot = Some((now, secs));
    secs
}

fn started(boot_secs: u64, ticks: u64) -> Timestamp {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let secs = boot_secs.saturating_add(ticks / per_second);
    let nanos = (ticks % per_second).saturating_mul(1_000_000_000) / per_second;
    Timestamp::from_parts(
        i64::try_from(secs).unwrap_or(i64::MAX),
        i64::try_from(nanos).unwrap_or(0),
    )
}

/// Longest line of ancestors that is followed.
const GENERATIONS_MAX: usize = 128;
/// A correction of the host's clock moves the time of boot; it is noticed within this time.
const BOOT_AGE_MAX: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A process in a procfs of the test, whose code and stack begin at `layout`.
    fn process(procfs: &Path, pid: u32, parent: u32, layout: u64) {
        let dir = procfs.join(pid.to_string());
        fs::create_dir(&dir).unwrap();
        let mut fields = vec!["0".to_owned(); 52];
        fields[..4].clone_from_slice(&[
            pid.to_string(),
            "(exporter)".to_owned(),
            "S".to_owned(),
            parent.to_string(),
        ]);
        (fields[25], fields[27]) = (layout.to_string(), layout.to_string());
        fs::write(dir.join("stat"), fields.join(" ")).unwrap();
        fs::write(
            dir.join("status"),
            "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0\nCapEff:\t0\n",
        )
        .unwrap();
        fs::write(dir.join("cmdline"), "exporter\0").unwrap();
    }

    #[test]
    fn a_child_of_this_program_that_has_executed_nothing_yet_is_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, parent, layout) in [(10, 1, 4096), (11, 10, 4096), (12, 10, 8192)] {
            process(dir.path(), pid, parent, layout);
        }
        let file = FileId { device: 1, inode: 2 };
        let hits = [11, 12].map(|pid| Hit { pid, descriptor: 3, file, writes: true });
        let open_descriptors = BTreeMap::new();
        let found = Found { files: &[file], hits: &hits, open_descriptors: &open_descriptors };
        for (own, holders) in [(Some(10), vec![12]), (None, vec![11, 12])] {
            let mut memory = LastWalk::default();
            let (held, lost) = build(dir.path(), crate::clock::ticks(), own, &found, &mut memory);
            let pids: Vec<u32> = held[&file].iter().map(|holder| holder.pid).collect();
            assert_eq!((pids, lost), (holders, Vec::new()), "{own:?}");
        }
    }
}
