//! Text of `/proc` (proc(5); `fs/proc/array.c`, `fs/proc_namespace.c` and `fs/locks.c` of Linux 6.18): one process'
//! `stat`, `statm`, `status`, `limits`, `fdinfo`, `cmdline` and `mountinfo`, and the host's `stat` and `locks`.
//!
//! The kernel wrote these, but names in them belong to whoever owns the process or the mount: `comm` may hold spaces,
//! parentheses and line ends, arguments may hold anything. Fields that are not read are not verified.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

/// A text lacks what the kernel writes there, or it was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{file} has no usable {field}")]
pub struct ProcTextError {
    /// Name of the file below `/proc/PID` or `/proc`.
    pub file: &'static str,
    /// What was looked for.
    pub field: &'static str,
}

/// `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Short name, cleaned of control characters.
    pub comm: String,
    /// One letter: `R` running, `S` sleeping, `D` waiting for a device, `T` stopped, `Z` zombie.
    pub state: u8,
    /// Parent, 0 for the first process and for kernel threads' ancestor.
    pub ppid: u32,
    /// `PF_*` of the kernel.
    pub flags: u32,
    /// CPU time in user mode, in clock ticks.
    pub user_ticks: u64,
    /// CPU time in the kernel, in clock ticks.
    pub system_ticks: u64,
    /// Start after boot, in clock ticks; with the pid it names a process for as long as the host is up.
    pub start_ticks: u64,
    /// Where the code begins; 0 or 1 when the reader may not know it.
    pub start_code: u64,
    /// Where the stack began at `execve`; 0 when the reader may not know it.
    pub start_stack: u64,
}

impl Stat {
    /// Whether it is a thread of the kernel, which holds no file.
    #[must_use]
    pub const fn kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Whether both run on the memory layout of one `execve`: one was forked from the other, or both from a third,
    /// without executing anything since. Unknown layouts are never the same.
    #[must_use]
    pub const fn same_layout(&self, other: &Self) -> bool {
        self.start_stack != 0
            && self.start_code > 1
            && self.start_stack == other.start_stack
            && self.start_code == other.start_code
    }
}

/// Reads `/proc/PID/stat`. `comm` ends at the last parenthesis, because it may hold any other. Errs when the kernel would
/// not write such a text.
pub fn parse_stat(text: &[u8]) -> Result<Stat, ProcTextError> {
    let missing = |field| ProcTextError { file: "stat", field };
    let open = text.iter().position(|b| *b == b'(').ok_or(missing("comm"))?;
    let close = text.iter().rposition(|b| *b == b')').ok_or(missing("comm"))?;
    let comm = text.get(open + 1..close).ok_or(missing("comm"))?;
    let rest: Vec<&[u8]> = words(&text[close + 1..]).take(STAT_FIELDS_AFTER_COMM).collect();
    // Numbered as in proc(5), where the state is field 3.
    let field = |number: usize, name| {
        rest.get(number - 3).and_then(|word| unsigned(word)).ok_or(missing(name))
    };
    Ok(Stat {
        comm: clean(comm),
        state: rest.first().and_then(|word| word.first()).copied().ok_or(missing("state"))?,
        ppid: field(4, "ppid")?.try_into().map_err(|_| missing("ppid"))?,
        flags: field(9, "flags")?.try_into().map_err(|_| missing("flags"))?,
        user_ticks: field(14, "utime")?,
        system_ticks: field(15, "stime")?,
        start_ticks: field(22, "starttime")?,
        start_code: field(26, "startcode")?,
        start_stack: field(28, "startstack")?,
    })
}

/// What of `/proc/PID/status` says what a process may do to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Filesystem uid, in the user namespace of the reader.
    pub uid: u32,
    /// Filesystem gid first, then the supplementary groups.
    pub gids: Vec<u32>,
    /// Effective capabilities as a bit set.
    pub capabilities: u64,
}

/// Reads `/proc/PID/status`. Errs when a line is missing.
pub fn parse_status(text: &[u8]) -> Result<Credentials, ProcTextError> {
    let missing = |field| ProcTextError { file: "status", field };
    // Real, effective, saved, filesystem.
    let fourth = |key| value_of(text, key).and_then(|value| words(value).nth(3).and_then(id));
    let uid = fourth(b"Uid:").ok_or(missing("Uid"))?;
    let gid = fourth(b"Gid:").ok_or(missing("Gid"))?;
    let groups = value_of(text, b"Groups:").unwrap_or_default();
    let capabilities = value_of(text, b"CapEff:")
        .and_then(|value| std::str::from_utf8(value.trim_ascii()).ok())
        .and_then(|hex| u64::from_str_radix(hex, 16).ok());
    Ok(Credentials {
        uid,
        gids: std::iter::once(gid).chain(words(groups).filter_map(id)).collect(),
        capabilities: capabilities.ok_or(missing("CapEff"))?,
    })
}

/// Resident pages in `/proc/PID/statm`. Those in `stat` are cheaper for the kernel and may lag behind by a few per CPU. Errs
/// when there is no number.
pub fn parse_resident_pages(text: &[u8]) -> Result<u64, ProcTextError> {
    let pages = words(text).nth(1).and_then(unsigned);
    pages.ok_or(ProcTextError { file: "statm", field: "resident" })
}

/// The soft limit of open files in `/proc/PID/limits`; `None` when there is no limit. Errs when the line is missing.
pub fn parse_open_files_limit(text: &[u8]) -> Result<Option<u64>, ProcTextError> {
    let missing = ProcTextError { file: "limits", field: "Max open files" };
    match value_of(text, b"Max open files").and_then(|value| words(value).next()) {
        Some(b"unlimited") => Ok(None),
        Some(word) => unsigned(word).map(Some).ok_or(missing),
        None => Err(missing),
    }
}

/// The mount through which a descriptor was opened: `mnt_id` of `/proc/PID/fdinfo/N`. Errs when the line is missing.
pub fn parse_fdinfo_mount(text: &[u8]) -> Result<u32, ProcTextError> {
    value_of(text, b"mnt_id:")
        .and_then(|value| id(value.trim_ascii()))
        .ok_or(ProcTextError { file: "fdinfo", field: "mnt_id" })
}

/// When the host was booted, in seconds since the epoch: `btime` of `/proc/stat`. The kernel computes it anew at each
/// reading, so it follows corrections of the clock and may differ by one second between two of them. Errs when the line is
/// missing.
pub fn parse_boot_time(text: &[u8]) -> Result<u64, ProcTextError> {
    value_of(text, b"btime ")
        .and_then(|value| unsigned(value.trim_ascii()))
        .ok_or(ProcTextError { file: "stat", field: "btime" })
}

/// The arguments in `/proc/PID/cmdline`, without empty ones at the end.
#[must_use]
pub fn parse_cmdline(text: &[u8]) -> Vec<&[u8]> {
    let end = text.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    text[..end].split(|b| *b == 0).take(ARGUMENTS_MAX).collect()
}

/// One line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `mnt_id`, as in `fdinfo`.
    pub id: u32,
    /// Major and minor number of the filesystem. Where volumes of one filesystem have numbers of their own (btrfs), it
    /// is not what `stat` says of a file in it.
    pub device: (u32, u32),
    /// The directory of the filesystem that is mounted.
    pub root: PathBuf,
    /// Where, below the root directory of the process.
    pub mount_point: PathBuf,
    /// Type of the filesystem: `ext4`, `tmpfs`, `nfs4`.
    pub fstype: String,
    /// What is mounted: a device, a share, or a word like `tmpfs`.
    pub source: String,
    /// This mount may not be written through; another one of the same filesystem may be.
    pub readonly_here: bool,
    /// The filesystem itself may not be written: so mounted, or stopped by the kernel after an error.
    pub readonly_everywhere: bool,
}

/// Reads `/proc/PID/mountinfo`, in the order of mounting. Lines that make no sense are left out.
#[must_use]
pub fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(mount).take(MOUNTS_MAX).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = id(fields.next()?)?;
    let _parent = fields.next()?;
    let device = device(fields.next()?, 10)?;
    let (root, mount_point) = (unescape(fields.next()?), unescape(fields.next()?));
    let options = fields.next()?;
    // Any number of fields, then a lone dash.
    fields.find(|field| *field == b"-")?;
    let text = |field| unescape(field).to_string_lossy().into_owned();
    let (fstype, source) = (text(fields.next()?), text(fields.next()?));
    let of_filesystem = fields.next()?;
    let has = |options: &[u8], word: &[u8]| options.split(|b| *b == b',').any(|o| o == word);
    Some(Mount {
        id,
        device,
        root,
        mount_point,
        fstype,
        source,
        readonly_here: has(options, b"ro"),
        // Since Linux 6.14 ext4 leaves the flag alone after an error and says this word instead.
        readonly_everywhere: has(of_filesystem, b"ro") || has(of_filesystem, b"emergency_ro"),
    })
}

/// Space, tab, line end, backslash and `#` stand as three octal digits after a backslash.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'\\')
            .then(|| after.first_chunk::<3>())
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// One lock of `/proc/locks` that is held, not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who holds it; `None` for locks of an open file description, which belong to no process.
    pub pid: Option<u32>,
    /// Shared locks stop writers; exclusive ones stop everybody.
    pub exclusive: bool,
    /// Major and minor number of the filesystem, as in [`Mount::device`].
    pub device: (u32, u32),
    /// The file.
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

/// Reads the POSIX locks of `/proc/locks`, whether of a process or of an open file description; `flock` locks and
/// leases are not of SQLite's business.
pub fn parse_locks(text: &[u8]) -> impl Iterator<Item = Lock> {
    text.split(|b| *b == b'\n').filter_map(lock)
}

fn lock(line: &[u8]) -> Option<Lock> {
    let mut fields = words(line).skip(1); // the ordinal
    if !matches!(fields.next()?, b"POSIX" | b"OFDLCK") {
        return None; // FLOCK, LEASE, DELEG, or "->" for one who waits
    }
    let _advisory = fields.next()?;
    let exclusive = match fields.next()? {
        b"WRITE" => true,
        b"READ" => false,
        _ => return None,
    };
    let pid = id(fields.next()?).filter(|pid| *pid != 0); // -1 for open file descriptions
    let place = fields.next()?;
    let colon = place.iter().rposition(|b| *b == b':')?;
    let end = |word: &[u8]| if word == b"EOF" { Some(u64::MAX) } else { unsigned(word) };
    Some(Lock {
        pid,
        exclusive,
        device: device(&place[..colon], 16)?,
        inode: unsigned(&place[colon + 1..])?,
        start: unsigned(fields.next()?)?,
        end: end(fields.next()?)?,
    })
}

/// Two numbers with a colon between: `8:1`, or `fe:00` in `/proc/locks`.
fn device(text: &[u8], radix: u32) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((u32::from_str_radix(major, radix).ok()?, u32::from_str_radix(minor, radix).ok()?))
}

/// The rest of the first line that begins with `key`.
fn value_of<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(key))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn unsigned(word: &[u8]) -> Option<u64> {
    // `parse` alone would take a sign.
    let digits = word.first().is_some_and(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(word).ok()?.parse().ok()).flatten()
}

fn id(word: &[u8]) -> Option<u32> {
    unsigned(word)?.try_into().ok()
}

fn clean(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .chars()
        .take(COMM_CHARS_MAX)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

const PF_KTHREAD: u32 = 0x0020_0000;
/// The last field that is read is the 28th; the first after `comm` is the third.
const STAT_FIELDS_AFTER_COMM: usize = 28 - 2;
/// The kernel keeps 15 bytes, of kernel threads' workers 63.
const COMM_CHARS_MAX: usize = 64;
const ARGUMENTS_MAX: usize = 4096;
/// The kernel's own bound per namespace is 100,000 (`fs.mount-max`).
const MOUNTS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::programs::{is_chroma_server, is_spawned_worker, may_embed_chroma};

    const STAT: &str = "21704 (chroma) S 21699 21699 16768 0 -1 4194304 99 0 0 0 250 31 0 0 20 0 9 0 265233 3133440 383 \
        18446744073709551615 93978539364352 93978539384233 140729703277744 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 \
        93978539400240 93978539401856 93979437346816 140729703279320 140729703279340 140729703279340 140729703280619 0\n";

    #[test]
    fn stat_is_read_whatever_the_name() {
        let stat = parse_stat(STAT.as_bytes()).unwrap();
        assert_eq!((stat.ppid, stat.state, stat.start_ticks), (21699, b'S', 265_233));
        assert_eq!((stat.user_ticks, stat.system_ticks), (250, 31));
        assert_eq!((stat.start_code, stat.start_stack), (93_978_539_364_352, 140_729_703_277_744));
        assert!(!stat.kernel_thread() && stat.same_layout(&stat));
        for (name, want) in [
            ("a) R 1 (b", "a) R 1 (b"),
            ("x\ny", "x?y"),
            ("", ""),
            ("((", "(("),
            ("\u{1b}[2J", "?[2J"),
        ] {
            let text = STAT.replace("(chroma)", &format!("({name})"));
            let stat = parse_stat(text.as_bytes()).unwrap();
            assert_eq!((stat.comm.as_str(), stat.ppid), (want, 21699), "{name:?}");
        }
        for cut in 0..STAT.find(" 140729703277744").unwrap() {
            assert!(parse_stat(&STAT.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_layout_that_may_not_be_known_is_nobodys() {
        // What an unprivileged reader sees.
        let hidden = STAT.replace("140729703277744", "0").replace("93978539364352", "1");
        let hidden = parse_stat(hidden.as_bytes()).unwrap();
        assert!(!hidden.same_layout(&hidden));
        let kernel = parse_stat(
            b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 1 0 0 20 0 1 0 3 0 0 1 0 0 0 0",
        )
        .unwrap();
        assert!(kernel.kernel_thread());
    }

    #[test]
    fn status_gives_the_ids_that_files_are_judged_by() {
        let text = b"Name:\tUid: 9 9 9 9\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 24 27 \nCapEff:\t0000000000080004\n";
        let want = Credentials { uid: 1003, gids: vec![8, 4, 24, 27], capabilities: 0x80004 };
        assert_eq!(parse_status(text), Ok(want));
        let none = b"Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \nCapEff:\tffffffffffffffff\n";
        assert_eq!(parse_status(none).unwrap().gids, [0]);
        assert_eq!(parse_status(b"Uid:\t0\t0\t0").unwrap_err().field, "Uid");
    }

    #[test]
    fn limits_memory_mounts_of_descriptors_and_boot_time() {
        let limits =
            b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(parse_open_files_limit(limits), Ok(Some(1024)));
        assert_eq!(parse_open_files_limit(b"Max open files unlimited unlimited files"), Ok(None));
        assert!(parse_open_files_limit(b"Max open files -1").is_err());
        assert!(parse_open_files_limit(b"").is_err());
        assert_eq!(
            parse_fdinfo_mount(b"pos:\t0\nflags:\t02100002\nmnt_id:\t27\nino:\t5\n"),
            Ok(27)
        );
        assert!(parse_fdinfo_mount(b"pos:\t0\n").is_err());
        assert_eq!(parse_resident_pages(b"765 383 100 5 0 90 0\n"), Ok(383));
        assert!(parse_resident_pages(b"765").is_err() && parse_resident_pages(b"1 -3").is_err());
        assert_eq!(parse_boot_time(b"cpu 1 2\nbtime 1795424274\n"), Ok(1_795_424_274));
    }

    #[test]
    fn mounts_keep_their_odd_names() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            nonsense\n\
            99 27 254:1 /vol\\040a\\134b\\011 /mnt/x\\012y rw shared:1 - ext4 /dev/vda1 rw\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].id, mounts[0].device), (22, (0, 21)));
        assert_eq!(mounts[1].root, PathBuf::from("/vol a\\b\t"));
        assert_eq!(mounts[1].mount_point, PathBuf::from("/mnt/x\ny"));
        assert_eq!(unescape(b"\\999\\04"), PathBuf::from("\\999\\04"), "no octal digits");
    }

    #[test]
    fn a_mount_that_may_not_be_written_is_told_from_a_filesystem_that_may_not() {
        let text = b"97 28 8:17 /sub /a ro,relatime - ext4 /dev/sdb1 rw\n\
            98 28 8:33 / /b rw shared:3 master:4 propagate_from:2 - ext4 /dev/sdc1 rw,emergency_ro\n\
            99 28 0:50 / /c rw - nfs4 server:/export\\040x ro,vers=4.2,addr=10.0.0.1\n\
            100 28 0:51 / /d rw,root=/ro - tmpfs  rw,errors=remount-ro\n";
        let said: Vec<_> = parse_mountinfo(text)
            .into_iter()
            .map(|m| (m.fstype, m.source, m.readonly_here, m.readonly_everywhere))
            .collect();
        let row = |fstype: &str, source: &str, here, everywhere| {
            (fstype.to_owned(), source.to_owned(), here, everywhere)
        };
        assert_eq!(
            said,
            [
                row("ext4", "/dev/sdb1", true, false),
                row("ext4", "/dev/sdc1", false, true),
                row("nfs4", "server:/export x", false, true),
                row("tmpfs", "", false, false),
            ]
        );
    }

    #[test]
    fn locks_that_are_held_are_told_from_those_that_are_waited_for() {
        let text = b"1: POSIX  ADVISORY  READ 21708 fe:00:10010732 1073741826 1073742335\n\
            1: -> POSIX  ADVISORY  WRITE 21709 fe:00:10010732 1073741826 1073742335\n\
            2: FLOCK  ADVISORY  WRITE 11184 fe:00:5628648 0 EOF\n\
            3: OFDLCK ADVISORY  WRITE -1 08:11:77 0 EOF\n\
            4: POSIX  ADVISORY  WRITE 5 <none>:0 0 EOF\n";
        let locks: Vec<Lock> = parse_locks(text).collect();
        assert_eq!(locks.len(), 2, "{locks:?}");
        assert_eq!(
            (locks[0].pid, locks[0].exclusive, locks[0].device),
            (Some(21708), false, (0xfe, 0))
        );
        assert_eq!(
            (locks[0].inode, locks[0].start, locks[0].end),
            (10_010_732, 1_073_741_826, 1_073_742_335)
        );
        assert_eq!((locks[1].pid, locks[1].exclusive, locks[1].end), (None, true, u64::MAX));
        assert_eq!(locks[1].device, (8, 17));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            read_all(&text);
        }

        #[test]
        fn no_text_that_looks_like_the_kernels_makes_a_parser_panic(
            text in "[0-9a-f:()\\\\ \n\tRWSUidGPOXLMEF_-]{0,300}"
        ) {
            for prefix in ["", "Uid:", "Groups:", "Max open files", "mnt_id:", "1: POSIX ADVISORY READ ", "1 (x) "] {
                read_all(format!("{prefix}{text}").as_bytes());
            }
        }
    }

    fn read_all(text: &[u8]) {
        drop((parse_stat(text), parse_status(text), parse_open_files_limit(text)));
        drop((parse_fdinfo_mount(text), parse_boot_time(text), parse_mountinfo(text)));
        let arguments = parse_cmdline(text);
        assert!(!(arguments.is_empty() && is_chroma_server(&arguments)));
        assert!(!(arguments.is_empty() && is_spawned_worker(&arguments)));
        assert!(!(arguments.is_empty() && may_embed_chroma("", &arguments)));
        assert!(text.len() >= 3 || parse_resident_pages(text).is_err());
        parse_locks(text).for_each(drop);
    }
}
