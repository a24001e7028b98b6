//! As whom Chroma runs: declared, or seen of the processes that hold the database, or remembered of those that did. And
//! what of this program's view of the filesystem is theirs too.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    format::{access::Identity, proc::parse_status},
    host::{
        links,
        processes::{FileId, Holder},
        read::read_beginning,
    },
    store::Context,
};

/// One user that Chroma runs as.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Server {
    pub(super) identity: Identity,
    /// Whether it sees the mounts that the path of the store leads through; `None` when it was declared and not seen yet. A
    /// container has mounts of its own: neither the folders above the directory nor a read-only mount of ours matter.
    pub(super) our_mounts: Option<bool>,
    /// Whether one holds the database open for writing now.
    #[serde(skip)]
    pub(super) writes: bool,
}

/// For whom access is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Users {
    /// As whom Chroma runs; empty when that is not known.
    pub(super) servers: Vec<Server>,
    /// Whether the filesystem is read-only for them.
    pub(super) readonly: bool,
    /// Whether no process was ever seen, so that they are who owns most of the store.
    pub(super) guessed: bool,
}

/// Finds them out.
#[derive(Debug)]
pub(super) struct Servers {
    context: Context,
    /// The last that were seen, for the time when nobody holds the database.
    pub(super) seen: Vec<Server>,
}

impl Servers {
    pub(super) fn new(context: &Context, seen: Vec<Server>) -> Self {
        Self { context: context.clone(), seen }
    }

    /// The users that Chroma runs as, those of the processes that hold `database` first of all. Empty when none is known.
    pub(super) fn find(
        &mut self,
        database: Option<FileId>,
        owner: (u32, u32),
        now: Timestamp,
    ) -> Vec<Server> {
        let (holding, settled) =
            database.map_or((Vec::new(), false), |file| self.holding(file, owner, now));
        let policy = &self.context.store.permissions;
        if let Some(uid) = policy.server_uid {
            let identity = Identity { uid, gids: policy.server_gids.clone(), overrides: uid == 0 };
            let same: Vec<&Server> = holding.iter().filter(|s| s.identity.uid == uid).collect();
            let remembered = self.seen.iter().find(|s| s.identity.uid == uid);
            let declared = Server {
                our_mounts: same.first().copied().or(remembered).and_then(|s| s.our_mounts),
                writes: same.iter().any(|s| s.writes),
                identity,
            };
            if settled {
                self.seen = holding;
            }
            return vec![declared];
        }
        if settled {
            self.seen.clone_from(&holding);
        }
        if settled || self.seen.is_empty() {
            return holding;
        }
        self.seen.iter().map(|s| Server { writes: false, ..s.clone() }).collect()
    }

    /// The users of the processes that hold the database, and whether they are Chroma for certain: a server, or a program
    /// that has held it for a while. A shell that somebody opened for a moment is not who must be able to write.
    fn holding(&self, file: FileId, owner: (u32, u32), now: Timestamp) -> (Vec<Server>, bool) {
        // What cannot be read here is told by the collector of processes; what was known goes on to hold.
        let max_age = self.context.config.collect.interval.max(HOLDERS_AGE_MAX);
        let Ok(holders) = self.context.host.processes.holders(file, max_age) else {
            return (Vec::new(), false);
        };
        let old = |h: &Holder| now.since(h.started) >= SETTLED_AFTER;
        let mut chosen: Vec<&Holder> = holders.iter().filter(|h| h.server).collect();
        if chosen.is_empty() {
            chosen = holders.iter().filter(|h| h.writes && old(h)).collect();
        }
        let settled = !chosen.is_empty();
        if !settled {
            chosen = holders.iter().filter(|h| h.writes).collect();
        }
        let mut servers: Vec<Server> =
            chosen.into_iter().take(HOLDERS_MAX).map(|h| self.server(h, owner)).collect();
        servers.sort_unstable();
        servers.dedup_by(|one, other| {
            let same = one.identity == other.identity && one.our_mounts == other.our_mounts;
            other.writes |= same && one.writes;
            same
        });
        (servers, settled)
    }

    fn server(&self, holder: &Holder, owner: (u32, u32)) -> Server {
        let process = self.context.config.procfs.join(holder.pid.to_string());
        Server {
            identity: Identity {
                uid: holder.uid,
                gids: holder.gids.clone(),
                overrides: overrides(&process, holder.uid, owner),
            },
            // One that may not be looked into must not be judged by folders that it may never see.
            our_mounts: Some(self.sees_our_mounts(&process).unwrap_or(false)),
            writes: holder.writes,
        }
    }

    /// Whether a process sees the mounts that the path of the store leads through.
    fn sees_our_mounts(&self, process: &Path) -> Option<bool> {
        Some(mounts_of(process)? == self.our_mounts()?)
    }

    /// The namespace that the path of the store belongs to: ours, that of the process through which it leads, or that of the
    /// host when its root is seen elsewhere.
    fn our_mounts(&self) -> Option<OsString> {
        let config = &self.context.config;
        if let Some((pid, _)) =
            links::through_process(&config.procfs, &self.context.store.seen_path)
        {
            return mounts_of(&config.procfs.join(pid.to_string()));
        }
        if config.rootfs == Path::new("/") {
            mounts_of(Path::new("/proc/self"))
        } else {
            mounts_of(&config.procfs.join("1"))
        }
    }

    /// Whether the filesystem at `root`, which `statvfs` calls read-only, is so for `servers` too. A sandbox or a container
    /// of ours may have it mounted read-only while the server writes.
    pub(super) fn readonly_for(&self, servers: &[Server], mount_id: Option<u64>) -> bool {
        if superblock_readonly(mount_id) == Some(true) {
            return true;
        }
        if servers.iter().any(|s| s.writes) {
            return false;
        }
        let host = mounts_of(&self.context.config.procfs.join("1"));
        let ours_are_the_hosts = host.is_some() && host == mounts_of(Path::new("/proc/self"));
        ours_are_the_hosts && servers.iter().all(|s| s.our_mounts != Some(false))
    }

    /// The folders that lead to the directory, outermost first, as far as `servers` must go through them.
    pub(super) fn parents(&self, servers: &[Server]) -> Vec<PathBuf> {
        if servers.is_empty() || servers.iter().any(|s| s.our_mounts == Some(false)) {
            return Vec::new();
        }
        let below = &self.context.config.rootfs;
        let Ok(path) = links::follow(below, &self.context.store.seen_path) else {
            return Vec::new();
        };
        // One that leads through another process is below its root.
        let through = links::through_process(&self.context.config.procfs, &path);
        let root = through.and_then(|(_, inner)| {
            let depth = inner.components().count().saturating_sub(1);
            path.ancestors().nth(depth)
        });
        let below = root.unwrap_or(below);
        let mut parents: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .take_while(|p| p.starts_with(below))
            .map(Path::to_owned)
            .collect();
        parents.reverse();
        parents
    }
}

/// Whether modes and access lists do not count for the process: it has `CAP_DAC_OVERRIDE` over what `owner` owns. In a user
/// namespace of its own the capability reaches only owners that the namespace knows.
fn overrides(process: &Path, uid: u32, owner: (u32, u32)) -> bool {
    let capable = read(&process.join("status"))
        .and_then(|status| parse_status(status.as_bytes()).ok())
        .map_or(uid == 0, |found| found.capabilities & CAP_DAC_OVERRIDE != 0);
    capable
        && maps(&process.join("uid_map"), owner.0).unwrap_or(true)
        && maps(&process.join("gid_map"), owner.1).unwrap_or(true)
}

/// Whether a map of ids (`user_namespaces(7)`) has `id` among those outside.
fn maps(path: &Path, id: u32) -> Option<bool> {
    let text = read(path)?;
    Some(text.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<u32>);
        match (words.next(), words.next(), words.next()) {
            (Some(Ok(_)), Some(Ok(outside)), Some(Ok(count))) => {
                id.checked_sub(outside).is_some_and(|offset| offset < count)
            }
            _ => false,
        }
    }))
}

/// Names the mount namespace of a process; `None` when it may not be seen.
fn mounts_of(process: &Path) -> Option<OsString> {
    std::fs::read_link(process.join("ns/mnt")).ok().map(PathBuf::into_os_string)
}

/// Whether the whole filesystem of the mount is read-only, not only our mount of it.
fn superblock_readonly(mount_id: Option<u64>) -> Option<bool> {
    let text = read(Path::new("/proc/self/mountinfo"))?;
    superblock_option_ro(&text, mount_id?)
}

/// Reads a text of mountinfo, as `proc_pid_mountinfo(5)` describes it: the options of the superblock are the last field.
fn superblock_option_ro(mountinfo: &str, mount_id: u64) -> Option<bool> {
    let mut lines = mountinfo.lines().map(|line| line.split(' '));
    let mut fields = lines.find(|line| line.clone().next() == Some(&mount_id.to_string()))?;
    Some(fields.next_back()?.split(',').any(|option| option == "ro"))
}

/// A text of `/proc`, cut at a bound.
fn read(path: &Path) -> Option<String> {
    let text = read_beginning(path, PROC_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Bit 1 of `include/uapi/linux/capability.h`.
const CAP_DAC_OVERRIDE: u64 = 1 << 1;

const PROC_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Who holds the database changes seldom, and the collector of processes asks as often.
const HOLDERS_AGE_MAX: Duration = Duration::from_secs(5);

/// A program that is no Chroma server counts as one when it has run for so long.
const SETTLED_AFTER: Duration = Duration::from_mins(1);

/// More processes than this are not looked at one by one.
const HOLDERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_the_superblock_are_told_from_those_of_the_mount() {
        let text = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,errors=remount-ro\n\
                    22 21 8:1 /srv /data\\040x ro,nosuid shared:5 - ext4 /dev/sda1 rw\n\
                    23 21 8:2 / /cold ro - ext4 /dev/sdb1 ro,noatime\n\
                    24\n\n";
        for (id, answer) in
            [(21, Some(false)), (22, Some(false)), (23, Some(true)), (24, Some(false)), (25, None)]
        {
            assert_eq!(superblock_option_ro(text, id), answer, "{id}");
        }
    }

    #[test]
    fn capabilities_reach_only_owners_that_the_namespace_maps() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let me = |uid, owner| overrides(dir.path(), uid, (owner, owner));
        assert!(me(0, 5) && !me(1000, 5), "nothing can be read: root is root");
        let status = |capabilities: &str| {
            write("status", &format!("Uid:\t7 7 7 7\nGid:\t7 7 7 7\nCapEff:\t{capabilities}\n"));
        };
        status("00000000a80425fb");
        assert!(me(1000, 5));
        write("uid_map", "         0     100000      65536\n");
        write("gid_map", "         0     100000      65536\n");
        assert!(me(1000, 100_000) && me(1000, 165_535));
        assert!(!me(1000, 99_999) && !me(1000, 165_536));
        write("uid_map", "0 0 4294967295");
        write("gid_map", "0 0 4294967295");
        assert!(me(0, 4_294_967_294));
        status("0000000000000000");
        assert!(!me(0, 5), "root without the capability");
        status("zz");
        assert!(me(0, 5) && !me(1, 5));
    }
}
