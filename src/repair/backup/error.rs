//! Why there is no backup, and what to do.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::super::{moment::MomentError, proof::ProofError};
use crate::{human, store::view::ViewError};

/// Why there is no backup. Nothing is left of it, and no other was touched.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is no directory, or may not be written to.
    #[error("cannot use {} for backups", .path.display())]
    Destination {
        /// The destination.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Chroma's own directory is no place for its backup.
    #[error("{} lies in the directory {}, which is to be backed up", .to.display(), .store.display())]
    Inside {
        /// The destination.
        to: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// Another backup is being made there.
    #[error("another backup is being made in {}, waited {}", .to.display(), human::span(*.waited))]
    Locked {
        /// The destination.
        to: PathBuf,
        /// For how long.
        waited: Duration,
    },
    /// The filesystem of the destination would be too full.
    #[error(
        "not enough room in {}: up to {} are needed, {} are free, and it would be {} full ({} are allowed)",
        .to.display(), human::bytes(*.need_bytes), human::bytes(*.avail_bytes), human::ratio(*.after),
        human::ratio(*.used_ratio_max)
    )]
    NoRoom {
        /// The destination.
        to: PathBuf,
        /// What may be needed while it is made.
        need_bytes: u64,
        /// What is free.
        avail_bytes: u64,
        /// How full it would be.
        after: f64,
        /// How full it may be.
        used_ratio_max: f64,
    },
    /// It filled up all the same.
    #[error("the filesystem of {} is full: nothing is left of the backup", .to.display())]
    Full {
        /// The destination.
        to: PathBuf,
    },
    /// There is no consistent copy.
    #[error(transparent)]
    Moment(MomentError),
    /// It could not be looked at.
    #[error("the copy could not be proven")]
    Proof(#[source] ProofError),
    /// It could not be written.
    #[error("cannot write the backup in {}", .to.display())]
    Write {
        /// The destination.
        to: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Nobody wants it any more.
    #[error("stopped: nothing is left of the backup")]
    Stopped,
}

impl BackupError {
    /// What to do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Destination { .. } => {
                "name a directory that exists, and that this user may write to; is its disk mounted?"
            }
            Self::Inside { .. } => "name a directory outside of it, best on another disk",
            Self::Locked { .. } => {
                "wait for the other backup to end, or give each store a directory of its own"
            }
            Self::NoRoom { .. } => {
                "make room, keep fewer backups, or name a directory on another disk"
            }
            Self::Full { .. } => "make room, or name a directory on another disk",
            Self::Moment(MomentError::NoDatabase { .. }) => {
                "name the directory that holds chroma.sqlite3; `chroma_exporter check` shows those that are in use"
            }
            Self::Moment(MomentError::Moving { .. }) => "try again when Chroma writes less",
            Self::Moment(_) => {
                "run `chroma_exporter check` on the directory, which says what is wrong with it"
            }
            Self::Proof(_) => "look at the cause above, and try again",
            Self::Write { .. } => {
                "look at the cause above; the disk of the destination may be at fault"
            }
            Self::Stopped => "run it again",
        }
    }

    pub(super) fn write(to: &Path, source: io::Error) -> Self {
        let to = to.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { to },
            io::ErrorKind::Interrupted => Self::Stopped,
            _ => Self::Write { to, source },
        }
    }

    pub(super) fn moment(to: &Path, error: MomentError) -> Self {
        match error {
            MomentError::Stopped | MomentError::Database(ViewError::Stopped) => Self::Stopped,
            MomentError::File { source, .. } | MomentError::Database(ViewError::Io(source))
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::Interrupted
                ) =>
            {
                Self::write(to, source)
            }
            other => Self::Moment(other),
        }
    }
}
