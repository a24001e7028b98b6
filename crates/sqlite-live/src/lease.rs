//! A read lease on a database: the kernel gives one only while no process, in whatever namespace, has the file open for writing,
//! and whoever wants to open it for writing waits until the lease is given back. Nothing is written. SQLite opens for writing
//! whatever it may write, so that a Chroma that is idle counts too.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

use crate::{database::is_remote, kernel};

/// What the kernel says about those who write to a file.
#[derive(Debug)]
pub enum Writers {
    /// There are none, and as long as the lease is held there will be none.
    None(Lease),
    /// Somebody has it open for writing.
    Some,
    /// It cannot say, for this reason.
    Unknown(NoLease),
}

/// Why the kernel cannot say who writes.
#[derive(Debug, thiserror::Error)]
pub enum NoLease {
    /// Another host may write to it too, by another way than this kernel.
    #[error("it is on a network filesystem, where programs of other hosts can write to it")]
    Remote,
    /// Not ours, and we are not root.
    #[error("only root and its owner may ask the kernel who has it open")]
    Right,
    /// The filesystem has no leases.
    #[error("the kernel does not say who has it open: {0}")]
    Other(#[source] io::Error),
}

/// A lease that is held until this is dropped. The kernel takes it back by itself when somebody has waited for the time in
/// `/proc/sys/fs/lease-break-time`, 45 seconds by default.
#[derive(Debug)]
pub struct Lease {
    file: File,
}

impl Lease {
    /// Asks for the lease on the file at `path`. Errs when it cannot be opened; links are not followed.
    pub fn take(path: &Path) -> io::Result<Writers> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if is_remote(&file)? {
            return Ok(Writers::Unknown(NoLease::Remote));
        }
        Ok(match kernel::take_read_lease(file.as_fd()) {
            Ok(true) => Writers::None(Self { file }),
            Ok(false) => Writers::Some,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Writers::Unknown(NoLease::Right)
            }
            Err(error) => Writers::Unknown(NoLease::Other(error)),
        })
    }

    /// Whether nobody has come to write since it was given: whoever has waits now, or has waited long enough to be let in. Errs
    /// when the kernel does not say.
    pub fn stands(&self) -> io::Result<bool> {
        kernel::read_lease_stands(self.file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command, thread};

    use super::*;
    use crate::wait::{SOON, wait_for, wait_until};

    /// Until what other tests start has given up what it inherited.
    fn lease(path: &Path) -> Lease {
        wait_for("a lease on a file that nobody writes to", SOON, || match Lease::take(path) {
            Ok(Writers::None(lease)) => Some(lease),
            _ => None,
        })
    }

    #[test]
    fn whoever_writes_is_seen_and_whoever_reads_is_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database");
        fs::write(&path, "x").unwrap();
        let reader = File::open(&path).unwrap();
        drop(lease(&path));
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(matches!(Lease::take(&path).unwrap(), Writers::Some));
        drop(writer);
        drop((lease(&path), reader));
        assert!(Lease::take(&dir.path().join("none")).is_err());
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(Lease::take(&dir.path().join("link")).is_err(), "another file");
    }

    #[test]
    fn who_comes_to_write_waits_and_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database");
        fs::write(&path, "x").unwrap();
        let held = lease(&path);
        assert!(held.stands().unwrap());
        let mut other =
            Command::new("sh").args(["-c", "echo more >> \"$0\""]).arg(&path).spawn().unwrap();
        wait_until("the other one to come", SOON, || !held.stands().unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"x", "it waits");
        let away = dir.path().join("away");
        thread::scope(|scope| {
            // To rename what is leased waits for nobody.
            scope.spawn(|| fs::rename(&path, &away).unwrap());
        });
        drop(held);
        assert!(other.wait().unwrap().success());
        assert_eq!(fs::read(&away).unwrap(), b"xmore\n", "it had its file already");
    }
}
