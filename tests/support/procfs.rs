//! A directory with the shape of a procfs in which one Chroma server holds a database: what the collectors say of
//! processes then depends on no process of the host, and on no right of whoever runs the test.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

/// Pid of the server.
pub const SERVER: u32 = 77;

/// Seconds since the epoch at which this host was booted.
pub const BOOTED: i64 = 1_795_400_000;

/// Builds it at `at`, with a server that holds `database` open for writing and may do there what its owner may. It started
/// 100 s after the boot, has used 13.5 s of CPU time and 64 MiB of memory, and has four descriptors open of at most 1024.
pub fn build(at: &Path, database: &Path) {
    fs::create_dir(at).unwrap();
    fs::write(at.join("stat"), format!("cpu  0 0 0 0\nbtime {BOOTED}\n")).unwrap();
    fs::write(at.join("locks"), "").unwrap();
    fs::create_dir_all(at.join("sys/kernel/random")).unwrap();
    fs::write(at.join("sys/kernel/random/boot_id"), "2b9f1c52-boot\n").unwrap();

    process(at, 1, "init", 0, "/sbin/init");
    process(at, 2, "kthreadd", KERNEL_THREAD, "");
    let own = process(at, 50, "chroma_exporter", 0, "chroma_exporter serve");
    status(&own, (0, 0), u64::MAX);
    symlink("50", at.join("self")).unwrap();

    let command = format!("/usr/bin/python3 /usr/bin/chroma run --path {}", parent(database));
    let server = process(at, SERVER, "chroma", 0, &command);
    let owner = fs::metadata(database).unwrap();
    status(&server, (owner.uid(), owner.gid()), 0);
    let pages = 64 * 1024 * 1024 / rustix::param::page_size();
    fs::write(server.join("statm"), format!("{} {pages} 0 0 0 0 0\n", 2 * pages)).unwrap();
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                  Max open files            1024                 4096                 files     \n";
    fs::write(server.join("limits"), limits).unwrap();
    for descriptor in 0..3 {
        symlink("/dev/null", server.join(format!("fd/{descriptor}"))).unwrap();
    }
    symlink(database, server.join("fd/3")).unwrap();
}

fn process(at: &Path, pid: u32, comm: &str, flags: u32, arguments: &str) -> PathBuf {
    let dir = at.join(pid.to_string());
    fs::create_dir_all(dir.join("fd")).unwrap();
    fs::create_dir(dir.join("ns")).unwrap();
    let per_second = rustix::param::clock_ticks_per_second();
    let (user, system, began) = (per_second * 13, per_second / 2, per_second * 100);
    // proc_pid_stat(5): from the state to the beginning of the stack.
    let line = format!(
        "{pid} ({comm}) S 0 0 0 0 -1 {flags} 0 0 0 0 {user} {system} 0 0 20 0 1 0 {began} 0 7 0 4096 0 {pid}000\n"
    );
    fs::write(dir.join("stat"), line).unwrap();
    fs::write(dir.join("cmdline"), arguments.replace(' ', "\0")).unwrap();
    status(&dir, (0, 0), 0);
    // Each in a container of its own: which folders lead to the store on this host is not their business.
    symlink(format!("mnt:[{pid}]"), dir.join("ns/mnt")).unwrap();
    dir
}

fn status(dir: &Path, (uid, gid): (u32, u32), capabilities: u64) {
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    let (uids, gids) = (four(uid), four(gid));
    let text =
        format!("Uid:\t{uids}\nGid:\t{gids}\nGroups:\t{gid}\nCapEff:\t{capabilities:016x}\n");
    fs::write(dir.join("status"), text).unwrap();
}

fn parent(path: &Path) -> String {
    path.parent().unwrap().display().to_string()
}

/// `PF_KTHREAD` of `include/linux/sched.h`.
const KERNEL_THREAD: u32 = 0x0020_0000;
