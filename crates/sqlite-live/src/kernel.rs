//! System calls that no crate in use here has, and two doors of SQLite that `rusqlite` leaves shut.
//!
//! The only room with unsafe code. None of the system calls can break what Rust promises: they are asked about the thread that
//! calls, by the number 0, or about a descriptor that is open, and take numbers or structures that live on our stack. What is
//! asked of SQLite says at its place why it is sound.
#![expect(unsafe_code, reason = "a few system calls, and two doors of SQLite; see above")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{Connection, ffi};

/// Makes the C library give memory back, which Rust and SQLite both take from it. It would keep a heap for each of many threads and
/// what each of them freed, eight times as much as is in use; work here is a few threads that mostly wait, and they share one
/// heap well. Larger pieces go back to the system when they are freed, and so does what is free at the end of the heap.
/// A thread that has a heap of its own by then keeps it. Other C libraries do so by themselves.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, GIVEN_BACK_BYTES),
        (libc::M_TRIM_THRESHOLD, GIVEN_BACK_BYTES),
    ] {
        // SAFETY: two numbers; it errs by an answer, and then all is as it was.
        unsafe { libc::mallopt(what, value) };
    }
}

#[cfg(target_env = "gnu")]
const GIVEN_BACK_BYTES: c_int = 64 * 1024;

/// Asks the kernel for large pages behind memory that is about to be read in no order: most of such a read is else finding the page. What
/// the kernel makes of it is its own affair.
pub fn large_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let page = rustix::param::page_size();
    let all = memory.as_mut_ptr_range();
    let (start, end) = (all.start.addr().next_multiple_of(page), all.end.addr() / page * page);
    if start < end {
        let first = all.start.cast::<c_void>().with_addr(start);
        // SAFETY: whole pages that are borrowed by us alone, and what stands in them stays as it is.
        unsafe { libc::madvise(first, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Lets the disk begin with these bytes of a file, and waits for none of them. What the kernel makes of it is its own affair: a sync that
/// comes later has less left to do.
pub fn begin_writing(file: BorrowedFd<'_>, start: u64, len: u64) {
    let (Ok(start), Ok(len)) = (start.try_into(), len.try_into()) else { return };
    // SAFETY: an open descriptor and three numbers.
    unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Takes over the `count` descriptors from 3 on that whoever started this program has opened for it (`sd_listen_fds(3)`). They are
/// closed in programs that this one starts. To be called before anything else opens a descriptor. Errs when one of them is not open,
/// and when they were taken before.
pub fn descriptors_of_starter(count: u8) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the descriptors were taken over before"));
    }
    let numbers = 3..3 + libc::c_int::from(count);
    // All are looked at before one is owned: an owner closes its descriptor.
    for number in numbers.clone() {
        // SAFETY: numbers; the kernel refuses one that is no descriptor.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: they are open, whoever started the program gave them to it, and nobody else takes them: this happens once.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// The class in which the disk serves this thread. Errs when the kernel refuses.
pub(super) fn set_disk_class(class: libc::c_int) -> io::Result<()> {
    // SAFETY: three numbers, no memory.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How this thread is scheduled. Errs when the kernel does not answer.
pub(super) fn scheduling() -> io::Result<(libc::c_int, libc::sched_param)> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: a number.
    let policy = unsafe { libc::sched_getscheduler(0) };
    // SAFETY: the kernel writes one `sched_param` to where one is.
    let result = unsafe { libc::sched_getparam(0, &raw mut param) };
    if policy < 0 || result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((policy, param))
}

/// Says how this thread is scheduled from now on. Errs when the kernel refuses.
pub(super) fn set_scheduling(policy: libc::c_int, param: libc::sched_param) -> io::Result<()> {
    // SAFETY: the kernel reads one `sched_param`, which lives until the call is over.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How long a turn of this thread on a processor is, in nanoseconds; zero is what is usual. Errs when the kernel refuses.
pub(super) fn set_slice(nanos: u64) -> io::Result<()> {
    // Its niceness is set by the same call, and must stay. The number 0 is this thread.
    let nice = rustix::process::getpriority_process(None)?;
    let size = size_of::<libc::sched_attr>();
    let attr = libc::sched_attr {
        size: u32::try_from(size).map_err(io::Error::other)?,
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: nanos,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of `attr`, which has as many and lives until the call is over.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many pages of memory the page cache has of a stretch of a file; `len` 0 is to its end. Reads nothing. Linux 6.5 and
/// later, of a file that is ours or that we may write. Errs elsewhere.
pub fn cached_pages(file: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<u64> {
    let range = [start, len];
    // Pages that are there, and four other numbers (`struct cachestat`).
    let mut answer = [0_u64; 5];
    // SAFETY: the kernel reads two numbers and writes five, to where as many are.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), answer.as_mut_ptr(), 0)
    };
    if result == 0 { Ok(answer[0]) } else { Err(io::Error::last_os_error()) }
}

/// Whether any process of this kernel, in whatever namespace, has a file open for writing: while one has, the kernel gives no
/// read lease. A lease that was given is given back at once; whoever opens the file for writing in between waits those
/// microseconds. `file` must be open for reading alone. Errs without the right: the owner's, root's or `CAP_LEASE`.
pub fn is_open_for_writing(file: BorrowedFd<'_>) -> io::Result<bool> {
    let given = take_read_lease(file)?;
    if given {
        set_lease(file, libc::F_UNLCK)?;
    }
    Ok(!given)
}

/// Takes a read lease on a file that is open for reading alone: until the descriptor is closed, whoever opens the file for
/// writing waits, though no longer than `/proc/sys/fs/lease-break-time`. `false` when somebody has it open for writing. Errs
/// without the right: the owner's, root's or `CAP_LEASE`.
pub(super) fn take_read_lease(file: BorrowedFd<'_>) -> io::Result<bool> {
    // Whoever has to wait for a lease makes the kernel send its holder a signal: SIGIO, which would end this program, unless
    // another one is named. SIGURG does nothing. The kernel forgets the name with the lease.
    lease_call(file, F_SETSIG, libc::SIGURG)?;
    match set_lease(file, libc::F_RDLCK) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a read lease on this descriptor stands unchallenged: nobody waits for the file, and the kernel has not taken it back.
/// Errs when the kernel or the filesystem knows no leases.
pub(super) fn read_lease_stands(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(lease_call(file, libc::F_GETLEASE, 0)? == libc::F_RDLCK)
}

fn set_lease(file: BorrowedFd<'_>, kind: c_int) -> io::Result<()> {
    lease_call(file, libc::F_SETLEASE, kind).map(drop)
}

fn lease_call(file: BorrowedFd<'_>, operation: c_int, value: c_int) -> io::Result<c_int> {
    // SAFETY: three numbers, no memory.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), operation, value) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// The name of a layer of SQLite between it and the files, which opens a path as it is given. The usual one (`unix`, of which
/// this is a copy) turns links into text first, also those of `/proc` that stand for a place without a path of ours, and
/// would then open another file. Errs when SQLite has no such layer.
pub fn paths_as_given() -> io::Result<&'static CStr> {
    static LAYER: OnceLock<Option<Layer>> = OnceLock::new();
    match LAYER.get_or_init(Layer::register) {
        Some(_) => Ok(AS_GIVEN),
        None => Err(io::Error::other("SQLite does not take a layer for files")),
    }
}

/// A layer that SQLite knows; it is never taken away.
struct Layer;

impl Layer {
    fn register() -> Option<Self> {
        // SAFETY: a text that ends in NUL. What comes back is null or one of SQLite's own structures, which live as long as the
        // program; its `pNext`, which another registration might write, is not kept, and nobody else registers any.
        let usual = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()).as_ref() }?;
        keep_owners_and_modes(usual)?;
        let copy = ffi::sqlite3_vfs {
            pNext: std::ptr::null_mut(),
            zName: AS_GIVEN.as_ptr(),
            xFullPathname: Some(as_given),
            xDelete: Some(delete_nothing),
            ..*usual
        };
        // SAFETY: the structure is complete, and lives for ever because it is leaked. The functions in it are those of `unix`,
        // which take from the structure only what was copied.
        let result = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(copy)), 0) };
        (result == ffi::SQLITE_OK).then_some(Self)
    }
}

/// As root, SQLite gives a journal that it opens the owner of its database, and one without bytes its mode, also when it opens it
/// for reading. Files that are watched are not ours to change, so both calls do nothing from now on, in the whole program.
fn keep_owners_and_modes(usual: &ffi::sqlite3_vfs) -> Option<()> {
    unsafe extern "C" fn fchown(_file: c_int, _user: libc::uid_t, _group: libc::gid_t) -> c_int {
        0
    }
    unsafe extern "C" fn fchmod(_file: c_int, _mode: libc::mode_t) -> c_int {
        0
    }
    type Call = unsafe extern "C" fn();
    // SAFETY: functions are stored as pointers to one type and called by SQLite as what they are (`os_unix.c`, `osFchown` and
    // `osFchmod`).
    let calls = unsafe {
        [
            (c"fchown", std::mem::transmute::<*const (), Call>(fchown as *const ())),
            (c"fchmod", std::mem::transmute::<*const (), Call>(fchmod as *const ())),
        ]
    };
    let set = usual.xSetSystemCall?;
    calls.into_iter().try_for_each(|(name, call)| {
        // SAFETY: the layer is not looked at by the function, and the name ends in NUL. The table that is written is read by
        // connections of other threads, as one pointer, and both its values do no harm.
        let result = unsafe { set(std::ptr::null_mut(), name.as_ptr(), Some(call)) };
        (result == ffi::SQLITE_OK).then_some(())
    })
}

/// SQLite's `xDelete`: nothing beside a database that is watched is deleted, whatever SQLite takes it for.
unsafe extern "C" fn delete_nothing(
    _layer: *mut ffi::sqlite3_vfs,
    _path: *const c_char,
    _sync: c_int,
) -> c_int {
    ffi::SQLITE_IOERR_DELETE
}

/// SQLite's `xFullPathname`: says that an absolute path is one already.
///
/// # Safety
/// For SQLite alone: `path` must end in NUL, and `out` have room for `room` bytes.
unsafe extern "C" fn as_given(
    _layer: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: it ends in NUL, as SQLite promises.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes_with_nul();
    let fits = usize::try_from(room).is_ok_and(|room| path.len() <= room);
    if !fits || path.first() != Some(&b'/') {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: `out` has room for `room` bytes, which are no fewer, and is another place than the text that SQLite keeps.
    unsafe { std::ptr::copy_nonoverlapping(path.as_ptr().cast(), out, path.len()) };
    ffi::SQLITE_OK
}

/// Device and inode of the file that SQLite really has open as the database of `connection`, which was opened by the layer
/// [`paths_as_given`]. Errs when SQLite does not tell.
pub fn opened_by_sqlite(connection: &Connection) -> io::Result<(u64, u64)> {
    let mut file: *mut UnixFile = std::ptr::null_mut();
    // SAFETY: the handle is open as long as the connection is borrowed, and the control writes one pointer to where one is.
    let result = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        )
    };
    // SAFETY: SQLite's structure for an open file lives as long as the connection, nobody else uses a connection that is
    // borrowed here, and it begins with what `UnixFile` has.
    let seen = unsafe { file.as_ref() }.filter(|_| result == ffi::SQLITE_OK);
    let unknown = || io::Error::other("SQLite does not say which file it has opened");
    let seen = seen.ok_or_else(unknown)?;
    // SAFETY: as above; the layer is ours, which lives for ever.
    let name = unsafe { seen.layer.as_ref() }.ok_or_else(unknown)?.zName;
    if !std::ptr::eq(name, AS_GIVEN.as_ptr()) {
        return Err(unknown());
    }
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a number, which the kernel refuses if it is no descriptor, and room for what it writes.
    if unsafe { libc::fstat(seen.descriptor, stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written all of it.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino))
}

/// The beginning of `struct unixFile` in `os_unix.c` of the SQLite that is built in. A test holds it.
#[repr(C)]
struct UnixFile {
    methods: *const c_void,
    layer: *const ffi::sqlite3_vfs,
    inode: *const c_void,
    descriptor: c_int,
}

const AS_GIVEN: &CStr = c"as-given";

/// `asm-generic/unistd.h`; the same on all architectures but Alpha.
const SYS_CACHESTAT: libc::c_long = 451;
/// `linux/ioprio.h`: the target is a thread; no class of its own, and the class that is served when nobody else asks.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
pub(super) const IOPRIO_NONE: libc::c_int = 0;
pub(super) const IOPRIO_IDLE: libc::c_int = 3 << 13;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use rusqlite::OpenFlags;

    use super::*;

    #[test]
    fn sqlite_neither_changes_owners_nor_modes_nor_deletes_what_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        // What a journal that was cut to nothing looks like, of another mode than the database.
        let journal = dir.path().join("database-journal");
        std::fs::write(&journal, "").unwrap();
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode(0o640)).unwrap();
        std::fs::set_permissions(&journal, mode(0o600)).unwrap();
        let before = std::fs::metadata(&journal).unwrap();
        let layer = paths_as_given().unwrap();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags_and_vfs(&path, flags, layer).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
        let after = std::fs::metadata(&journal).unwrap();
        assert_eq!((after.mode(), after.ctime_nsec()), (before.mode(), before.ctime_nsec()));
        // With the right to write it would be deleted at the next lock.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        let writer = Connection::open_with_flags_and_vfs(&path, flags, layer).unwrap();
        drop(writer.execute_batch("INSERT INTO t VALUES(1)"));
        drop(writer);
        assert!(journal.exists());
    }

    #[test]
    fn sqlite_opens_the_path_that_is_given_and_says_which_file_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        let place = std::fs::File::open(dir.path()).unwrap();
        let given = format!("/proc/self/fd/{}/database", place.as_raw_fd());
        let open = |path: &str, layer: &CStr| {
            Connection::open_with_flags_and_vfs(path, OpenFlags::SQLITE_OPEN_READ_ONLY, layer)
        };
        let layer = paths_as_given().unwrap();
        let connection = open(&given, layer).unwrap();
        assert_eq!(connection.path(), Some(&*given), "not turned into text");
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(opened_by_sqlite(&connection).unwrap(), (meta.dev(), meta.ino()));
        // The file is what counts, whatever its name leads to by now.
        std::fs::rename(&path, dir.path().join("away")).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(opened_by_sqlite(&connection).unwrap(), (meta.dev(), meta.ino()));
        let other = open(&given, c"unix").unwrap();
        assert_ne!(other.path(), Some(&*given));
        assert!(opened_by_sqlite(&other).is_err(), "another layer");
        symlink("away", dir.path().join("link")).unwrap();
        let link = given.replace("database", "link");
        assert!(open(&link, layer).is_err(), "a link is followed before, or not at all");
        assert!(open("away", layer).is_err(), "a path that is not whole");
        assert!(open(&format!("/{}", "x".repeat(5000)), layer).is_err());
    }
}
