//! Who owns a state directory: one program at a time, as long as it runs. A lock of the kernel, which ends with its holder
//! however that ends, on the file `lock`; the file tells others who that is.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, openat},
    io::Errno,
};
use tracing::{info, warn};

use crate::clock;

/// What became of the question.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is ours as long as this is kept.
    Ours(OwnedFd),
    /// This filesystem has no locks, or none can be had: nobody knows whether another program uses the directory.
    Unknown(io::Error),
    /// Another program has it, in words.
    Held(String),
    /// What has the name of the lock is no file of ours.
    Planted(io::Error),
}

/// Makes this program the owner of `dir`. One that is just ending is waited for, no longer than `patience`.
pub(super) fn claim(dir: &OwnedFd, patience: Duration) -> Claim {
    let began = clock::ticks();
    let mut said = false;
    loop {
        let (file, writable) = match open(dir) {
            Ok(opened) => opened,
            Err(Errno::LOOP) => {
                return Claim::Planted(io::Error::other("it is a link, which is not followed"));
            }
            // The directory is as good for a lock, but where the filesystem wants to write for one.
            Err(errno) => match openat(dir, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(file) => (file, false),
                Err(_) => return Claim::Unknown(errno.into()),
            },
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_there(dir, &file) => {
                if writable && let Err(error) = sign(&file) {
                    info!(%error, "The state directory does not say whose it is.");
                }
                return Claim::Ours(file);
            }
            // Somebody has removed the file in between: the lock on it keeps nobody away.
            Ok(()) | Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK | Errno::ACCESS) => {
                let holder = holder(&file);
                if began.elapsed() >= patience {
                    return Claim::Held(holder);
                }
                if !std::mem::replace(&mut said, true) {
                    let seconds = patience.as_secs();
                    warn!(
                        holder,
                        seconds, "The state directory is in use; waiting for that to end."
                    );
                }
            }
            Err(errno) => return Claim::Unknown(errno.into()),
        }
        if began.elapsed() >= patience.max(PAUSE * 2) {
            return Claim::Unknown(io::Error::other("the file of the lock does not stay in place"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// The file of the lock, and whether it can be written: on a filesystem that is read-only, what is there takes a lock too.
/// Errs when it can be opened neither way, or is a link.
fn open(dir: &OwnedFd) -> Result<(OwnedFd, bool), Errno> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let create = flags | OFlags::RDWR | OFlags::CREATE;
    match openat(dir, NAME, create, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok((file, true)),
        Err(Errno::LOOP) => Err(Errno::LOOP),
        Err(errno) => openat(dir, NAME, flags | OFlags::RDONLY, Mode::empty())
            .map(|file| (file, false))
            .map_err(|_| errno),
    }
}

/// Whether the name of the lock, or the directory itself, is still the file that was locked.
fn is_there(dir: &OwnedFd, file: &OwnedFd) -> bool {
    let same =
        |a: &rustix::fs::Stat, b: &rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let Ok(locked) = fstat(file) else { return true };
    let named = rustix::fs::statat(dir, NAME, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    named.is_ok_and(|named| same(&named, &locked))
        || fstat(dir).is_ok_and(|itself| same(&itself, &locked))
}

/// Says in the file whose it is. Errs when it is no file of its own, or cannot be written.
fn sign(file: &OwnedFd) -> io::Result<()> {
    let stat = fstat(file)?;
    if stat.st_nlink > 1
        || rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile
    {
        return Err(io::Error::other("what is called lock is no file of its own"));
    }
    let host = rustix::system::uname();
    let text = format!(
        "process {} on {} since {}\n",
        std::process::id(),
        host.nodename().to_string_lossy(),
        clock::now()
    );
    rustix::fs::ftruncate(file, 0)?;
    File::from(file.as_fd().try_clone_to_owned()?).write_all(text.as_bytes())
}

/// Who says to have the lock.
fn holder(file: &OwnedFd) -> String {
    let mut text = String::new();
    let read = file.as_fd().try_clone_to_owned().map(File::from);
    let read = read.and_then(|file| file.take(SIGNATURE_BYTES_MAX).read_to_string(&mut text));
    let text = text.trim();
    let plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if read.is_ok() && plain && text.starts_with("process ") {
        format!("{text} (chroma_exporter)")
    } else {
        "another chroma_exporter".to_owned()
    }
}

/// Name of the file.
const NAME: &str = "lock";
/// How often the lock is tried.
const PAUSE: Duration = Duration::from_millis(20);
/// More than any holder writes.
const SIGNATURE_BYTES_MAX: u64 = 512;
