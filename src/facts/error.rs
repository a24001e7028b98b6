//! Why a reading failed.

use std::{borrow::Cow, io, path::PathBuf, sync::Arc, time::Duration};

use sqlite_live::database::QueryError;

use super::{blind::Blind, duration, hidden};
use crate::format::proc::ProcTextError;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The operating system refused.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// What was to be read.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// The filesystem has not answered within the deadline.
    #[error("the filesystem of {} has not answered for {} s", .path.display(), .waited.as_secs())]
    Hung {
        /// The persist directory.
        path: PathBuf,
        /// How long the oldest question has been waiting.
        waited: Duration,
    },
    /// The run did not come to an end within its deadline; its thread is still at work.
    #[error("the run has taken more than {} s and goes on", .deadline.as_secs())]
    Overdue {
        /// The deadline of the collector.
        deadline: Duration,
    },
    /// SQLite refused.
    #[error("cannot query {}", .path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite answered.
        source: rusqlite::Error,
    },
    /// More entries than the configured bound.
    #[error("{} has more than {bound} {what}; the rest was not looked at", .path.display())]
    TooMany {
        /// Where.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// Who holds the database could not be seen in full.
    #[error("{what}: {why}")]
    Unseen {
        /// What is known and what is not.
        what: &'static str,
        /// Why.
        why: Blind,
    },
    /// Nothing is to be said of the store any more: the next look for processes ends it.
    #[error("{0}")]
    OutOfReach(String),
    /// A collector panicked; the others go on.
    #[error("the collector panicked: {0}")]
    Panicked(String),
    /// SQLite was not asked, or gave no answer, for a reason that is not its own.
    #[error("cannot query {}", .path.display())]
    Query {
        /// The database.
        path: PathBuf,
        /// Why.
        source: QueryError,
    },
    /// The tables of the database gave no answer, or not a whole one.
    #[error("the tables of {} were not read, or not in full: {why}", .path.display())]
    Tables {
        /// The database.
        path: PathBuf,
        /// Why, with all causes.
        why: String,
    },
    /// A run that reads everything did not come to its end in its time.
    #[error("there was not enough time to read {what} to their end")]
    Unfinished {
        /// What was to be read.
        what: &'static str,
    },
    /// Expensive checks of a store have taken as long as they may within a day.
    #[error(
        "{what} not checked to the end: the expensive checks of this store have taken {} within a day, which is their limit",
        duration::format(*.day_max)
    )]
    UsedUp {
        /// What was to be checked, and its verb: `the indexes were`.
        what: &'static str,
        /// The limit.
        day_max: Duration,
    },
    /// Files changed at each reading, so that nothing can be said of them.
    #[error("{what} changed during each reading")]
    Changing {
        /// What.
        what: String,
    },
    /// No thread was to be had.
    #[error("cannot start a thread for {what}")]
    NoThread {
        /// The work.
        what: &'static str,
        /// What the operating system answered.
        source: io::Error,
    },
    /// What should be procfs is none.
    #[error("{} lists no process; it is no procfs", .path.display())]
    NoProcfs {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file in procfs has another form than those of Linux.
    #[error("cannot understand {}", .path.display())]
    ProcText {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ProcTextError,
    },
    /// The processes could not be looked at, and what they would have told is missing.
    #[error("the processes could not be looked at: {why}")]
    Processes {
        /// Why, with all causes.
        why: String,
    },
    /// More entries than those that were named cannot be read.
    #[error("{more} more entries of {} cannot be read", .path.display())]
    MoreUnreadable {
        /// The persist directory.
        path: PathBuf,
        /// How many.
        more: u64,
    },
    /// Folders below those that Chroma makes.
    #[error("{folders} folders of {} lie deeper than any of Chroma's and were not entered", .path.display())]
    TooDeep {
        /// The persist directory.
        path: PathBuf,
        /// How many.
        folders: u64,
    },
    /// The access list of an entry is not known.
    #[error("cannot read the access list of {entry}: {why}")]
    AccessList {
        /// The entry, as it may be shown.
        entry: String,
        /// Why.
        why: String,
    },
    /// The server could not be asked, for a reason on our side.
    #[error("cannot ask the server {url}: {why}")]
    NotAsked {
        /// Where it was to be asked.
        url: String,
        /// Why, without secrets.
        why: String,
    },
    /// The server wants to know who asks.
    #[error("the server {url} asks for credentials: its answer is {status}")]
    Credentials {
        /// Where it was asked.
        url: String,
        /// The HTTP status, 401 or 403.
        status: u16,
    },
    /// What answers is something else than Chroma.
    #[error(
        "what answers at {url} is not a Chroma server: its heartbeat gives {status} and no time"
    )]
    NotChroma {
        /// Where it was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server answers in a way that says neither that it works nor that it fails.
    #[error("the server {url} cannot be judged: {what} gives {status}, not 200")]
    OddAnswer {
        /// Where it was asked.
        url: String,
        /// What was asked.
        what: &'static str,
        /// The HTTP status.
        status: u16,
    },
    /// No log file has a name of the pattern.
    #[error("no log file fits {pattern}")]
    NoLog {
        /// The pattern of the configuration.
        pattern: String,
    },
    /// A pattern of backups that cannot be looked for.
    #[error("the pattern {pattern} cannot be looked for: {why}")]
    Pattern {
        /// The pattern of the configuration.
        pattern: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A pattern of backups that leads through too much.
    #[error("the pattern {pattern} leads through more entries than limits.entries")]
    PatternTooWide {
        /// The pattern of the configuration.
        pattern: String,
    },
    /// A backup that is proved neither complete nor broken.
    #[error("cannot tell whether {} is complete: {why}", .path.display())]
    Backup {
        /// The backup.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is nothing to look at.
    #[error(
        "no store was named, and no running Chroma process was found; processes of other users are found by root only"
    )]
    NoStore,
    /// More directories are in use than the configured bound.
    #[error("{found} directories are in use and {max} were looked at")]
    TooManyStores {
        /// How many are in use.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// What an earlier run met with. It stays until the same work is done again.
    #[error(transparent)]
    Kept(Arc<CollectError>),
    /// Another of these, in whose text something stood that is never shown.
    #[error("{text}")]
    Hidden {
        /// The whole chain, without it.
        text: String,
        /// What an operator can do about it.
        hint: &'static str,
    },
}

impl CollectError {
    /// What an operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run the exporter as a user in the group of the directory, or with CAP_DAC_READ_SEARCH"
            }
            Self::Unreadable { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                "check the path in the configuration, and that the filesystem is mounted"
            }
            Self::Unreadable { .. } => "look in the kernel's log (dmesg) for errors of the device",
            Self::Hung { .. } => {
                "look at the mount: a network or FUSE filesystem whose server is away"
            }
            Self::Overdue { .. } => "wait, or raise the deadline if the directory is large",
            Self::Sqlite { .. } => "nothing to do if Chroma was writing: it is tried again",
            Self::TooMany { .. } => {
                "raise the bound in the configuration if the directory is meant to be so large"
            }
            Self::Unseen { why, .. } => why.hint(),
            Self::OutOfReach(_) => "nothing to do: it is watched no more within half a minute",
            Self::Panicked(_) => {
                "this is a fault of chroma_exporter: please report it with the log"
            }
            Self::Query { source, .. } => match source {
                QueryError::NoLocks(_) => "run the exporter on the host that has the disk",
                QueryError::Wal => "find out which program set WAL mode: Chroma does not",
                QueryError::Empty => "check that the path is the directory that Chroma writes to",
                QueryError::OtherFile { .. } => {
                    "check links and mounts on the path: they lead to another file at each look"
                }
                QueryError::Unjudged(_) => "nothing to do for the rest: it is judged without this",
                _ => "nothing to do if Chroma was writing: it is tried again",
            },
            Self::Tables { .. } => {
                "nothing to do if Chroma was writing: it is tried again; or run check when Chroma writes less"
            }
            Self::Unfinished { .. } => "raise collect.check_deadline",
            Self::UsedUp { .. } => "nothing to do: it goes on a day after the checks began",
            Self::Changing { .. } => "run check again when Chroma writes less",
            Self::NoThread { .. } => {
                "look at the limits of memory and threads of the exporter (TasksMax and MemoryMax of its unit, ulimit -u)"
            }
            Self::NoProcfs { .. } => "check --path.procfs: it must be the /proc of the host",
            Self::ProcText { .. } => {
                "this kernel writes another form than we know: please report it with the message and `uname -r`"
            }
            Self::Processes { .. } => {
                "check that --path.procfs is the /proc of the host and can be read"
            }
            Self::MoreUnreadable { .. } => {
                "run the exporter as a user in the group of the directory, or with CAP_DAC_READ_SEARCH"
            }
            Self::TooDeep { .. } => "find out who made them: Chroma's directories have two levels",
            Self::AccessList { .. } => {
                "look at it with getfacl, as the user that the exporter runs as"
            }
            Self::NotAsked { .. } => "check server.url and server.headers_file of the store",
            Self::Credentials { .. } => "put the header that carries them into headers_file",
            Self::NotChroma { .. } => "check server.url of the store",
            Self::OddAnswer { .. } => {
                "check server.url of the store, and whether a proxy answers in the place of Chroma"
            }
            Self::NoLog { .. } => {
                "check the pattern in the configuration, and where Chroma logs to"
            }
            Self::Pattern { .. } => "write the pattern without a slash between [ and ]",
            Self::PatternTooWide { .. } => "narrow the pattern, or raise limits.entries",
            Self::Backup { .. } => "make sure of it by hand, or make another backup",
            Self::NoStore => "name one with --store.path DIR, or in the file of --config.file FILE",
            Self::TooManyStores { .. } => {
                "name those that matter, or raise limits.discovered_stores"
            }
            Self::Kept(problem) => problem.hint(),
            Self::Hidden { hint, .. } => hint,
        }
    }

    /// Whether it lies in the place that this program runs in, and stays as long as that does: a PID namespace of its own, a
    /// procfs that hides. Nothing has failed then; who was not seen is unknown all the same.
    #[must_use]
    pub fn by_place(&self) -> bool {
        match self {
            Self::Unseen { why, .. } => matches!(why, Blind::Namespace | Blind::Hidden),
            Self::Kept(problem) => problem.by_place(),
            _ => false,
        }
    }

    /// Takes out what is never shown, wherever in the chain it stands.
    pub(crate) fn hide_secrets(&mut self) {
        if let Cow::Owned(text) = hidden::shown(&self.chain()) {
            *self = Self::Hidden { text, hint: self.hint() };
        }
    }

    /// The whole chain in one line: `cannot read x: Permission denied`.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// What went wrong and why, with all causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_says_what_it_said_at_first_and_what_to_do() {
        for first in [
            CollectError::Unreadable {
                path: "/srv".into(),
                source: io::ErrorKind::PermissionDenied.into(),
            },
            CollectError::of_query(
                QueryError::NoLocks(io::Error::other("ENOLCK")),
                std::path::Path::new("/srv/chroma.sqlite3"),
            ),
            CollectError::Unseen { what: "w", why: Blind::Namespace },
        ] {
            let want = (first.chain(), first.hint(), first.by_place());
            let kept = CollectError::Kept(Arc::new(first));
            assert_eq!((kept.chain(), kept.hint(), kept.by_place()), want);
        }
    }

    #[test]
    fn the_cause_of_a_refused_query_is_in_its_line() {
        let path = std::path::Path::new("/srv/chroma.sqlite3");
        let refused = CollectError::of_query(QueryError::Wal, path);
        assert_eq!(
            refused.chain(),
            format!("cannot query {}: {}", path.display(), QueryError::Wal)
        );
        let locks = QueryError::NoLocks(io::Error::other("ENOLCK"));
        let want = format!("cannot query {}: {}", path.display(), locks.chain());
        assert_eq!(CollectError::of_query(locks, path).chain(), want);
    }

    #[test]
    fn a_secret_is_taken_out_of_every_part_of_a_problem() {
        hidden::note("only-in-this-test-of-problems");
        let secret = || "only-in-this-test-of-problems".to_owned();
        for mut problem in [
            CollectError::Unreadable {
                path: "/srv".into(),
                source: io::Error::other(format!("told {}", secret())),
            },
            CollectError::NotAsked { url: "http://h".to_owned(), why: secret() },
            CollectError::Kept(Arc::new(CollectError::OutOfReach(secret()))),
        ] {
            let hint = problem.hint();
            problem.hide_secrets();
            assert!(!problem.chain().contains(&secret()), "{problem:?}");
            assert!(problem.chain().contains("<secret>"), "{problem:?}");
            assert_eq!(problem.hint(), hint);
        }
    }
}
