//! System calls that no crate in use here has.
//!
//! The only room with unsafe code. None of these calls can break what Rust promises: they are asked about the thread that calls,
//! by the number 0, or about a descriptor that is open, and take numbers or structures that live on our stack.
#![expect(unsafe_code, reason = "a few system calls; see above")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// The class in which the disk serves this thread.
pub(super) fn set_disk_class(class: libc::c_int) -> io::Result<()> {
    // SAFETY: three numbers, no memory.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How this thread is scheduled.
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

/// Says how this thread is scheduled from now on.
pub(super) fn set_scheduling(policy: libc::c_int, param: libc::sched_param) -> io::Result<()> {
    // SAFETY: the kernel reads one `sched_param`, which lives until the call is over.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How long a turn of this thread on a processor is, in nanoseconds; zero is what is usual.
pub(super) fn set_turns(nanos: u64) -> io::Result<()> {
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
/// later, of a file that is ours or that we may write.
pub(crate) fn cached_pages(file: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<u64> {
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
pub(crate) fn is_open_for_writing(file: BorrowedFd<'_>) -> io::Result<bool> {
    let call = |operation, value: libc::c_int| {
        // SAFETY: three numbers, no memory.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), operation, value) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // Whoever has to wait for a lease makes the kernel send its holder a signal: SIGIO, which would end this program, unless
    // another one is named. SIGURG does nothing. The kernel forgets the name with the lease.
    call(F_SETSIG, libc::SIGURG)?;
    match call(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => call(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

/// `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;
/// `asm-generic/unistd.h`; the same on all architectures but Alpha.
const SYS_CACHESTAT: libc::c_long = 451;
/// `linux/ioprio.h`: the target is a thread; no class of its own, and the class that is served when nobody else asks.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
pub(super) const IOPRIO_NONE: libc::c_int = 0;
pub(super) const IOPRIO_IDLE: libc::c_int = 3 << 13;
