//! Whether somebody may hold the database whom `/proc` does not show: a process of another user, of another container. A kernel
//! that is asked for a lease on the file answers for all of them, though only whether anybody has it open for writing.

use crate::{
    clock::{self, Ticks},
    collectors::CollectError,
    host::processes::{Blind, FileId, Suspect},
    store::Context,
};

/// Who may hold the database besides those that were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unseen {
    /// Nobody: all that matter were looked into.
    Nobody,
    /// Nobody who writes: the kernel says that none has it open for writing.
    NoWriter,
    /// Somebody who writes, for none was seen and the kernel says that there is one.
    Writer(Blind),
    /// Perhaps somebody; nothing tells.
    Perhaps(Blind),
}

impl Unseen {
    /// `writers`: what the kernel says of the file; `seen`: whether a writer of it was seen.
    pub(super) fn judge(blind: Option<Blind>, writers: Option<bool>, seen: bool) -> Self {
        match (blind, writers) {
            (None, _) => Self::Nobody,
            (Some(_), Some(false)) => Self::NoWriter,
            (Some(blind), Some(true)) if !seen => Self::Writer(blind),
            (Some(blind), _) => Self::Perhaps(blind),
        }
    }

    /// Whether all who write are known.
    pub(super) const fn writers_known(&self) -> bool {
        matches!(self, Self::Nobody | Self::NoWriter)
    }

    /// Whether a server may be among them: only the command line of a process that is seen can deny that.
    pub(super) const fn maybe_server(&self) -> bool {
        match self {
            Self::Writer(Blind::Suspect(Suspect { server, .. }))
            | Self::Perhaps(Blind::Suspect(Suspect { server, .. })) => *server,
            Self::Writer(_) | Self::Perhaps(_) => true,
            Self::Nobody | Self::NoWriter => false,
        }
    }

    /// What could not be found out.
    pub(super) fn problem(&self) -> Option<CollectError> {
        let (what, why) = match self {
            Self::Writer(why) => (
                "a process that this program cannot see has chroma.sqlite3 open for writing: it is not known whether it is the only one",
                why,
            ),
            Self::Perhaps(why) => (
                "this program cannot see all processes that have chroma.sqlite3 open: it is not known whether two of them write",
                why,
            ),
            Self::Nobody | Self::NoWriter => return None,
        };
        Some(CollectError::Unseen { what, why: why.clone() })
    }
}

/// What the kernel said last of who has the file open for writing. Asking opens the file, of which the kernel tells everybody
/// who watches it, us included: asked at each such event, it would be asked without end.
#[derive(Debug, Default)]
pub(super) struct Lease {
    last: Option<(Ticks, FileId, Option<bool>)>,
}

impl Lease {
    /// Whether anybody has `file`, to which the path of the database leads, open for writing.
    pub(super) fn writers(&mut self, context: &Context, file: FileId) -> Option<bool> {
        let age_max = context.config.collect.interval / 2;
        if let Some((at, of, said)) = self.last
            && of == file
            && at.elapsed() < age_max
        {
            return said;
        }
        let at = clock::ticks();
        let said = context.database.writers().ok().flatten();
        self.last = Some((at, file, said));
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_answers_for_writers_alone() {
        let suspect = |server| Blind::Suspect(Suspect { pid: 7, comm: "x".to_owned(), server });
        for (blind, writers, seen, want, known, server) in [
            (None, None, false, Unseen::Nobody, true, false),
            (None, Some(true), false, Unseen::Nobody, true, false),
            (Some(Blind::Hidden), Some(false), false, Unseen::NoWriter, true, false),
            (
                Some(Blind::Namespace),
                Some(true),
                false,
                Unseen::Writer(Blind::Namespace),
                false,
                true,
            ),
            // One was seen; whether there is another one the lease does not tell.
            (
                Some(Blind::Namespace),
                Some(true),
                true,
                Unseen::Perhaps(Blind::Namespace),
                false,
                true,
            ),
            (Some(Blind::Hidden), None, false, Unseen::Perhaps(Blind::Hidden), false, true),
            (Some(suspect(false)), None, true, Unseen::Perhaps(suspect(false)), false, false),
            (Some(suspect(true)), None, false, Unseen::Perhaps(suspect(true)), false, true),
        ] {
            let got = Unseen::judge(blind, writers, seen);
            assert_eq!(got, want);
            assert_eq!((got.writers_known(), got.maybe_server()), (known, server), "{got:?}");
            assert_eq!(got.problem().is_none(), known, "{got:?}");
        }
    }
}
