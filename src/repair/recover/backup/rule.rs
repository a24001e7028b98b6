//! Whether a record of a backup is the one that the store has, or had when it broke. Every change of a record gives it the number of
//! another row of the queue, also one of its metadata alone: measured with Chroma 0.4.24, 0.5.5, 0.6.3, 1.1.1 and 1.5.9. So the same number
//! is the same version.

use super::super::index::subject::Version;
use crate::repair::dump::tail::Kind;

/// What the backup has of a record, beside the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// The version that the store has.
    Same,
    /// A version that was changed since.
    Older,
    /// The store has lost it, and nothing was done to it since.
    Gone,
    /// The store has it not, because it was deleted since.
    Deleted,
    /// It may have been changed or deleted since.
    Unknown,
    /// The store has a version that the backup would have too if it were of this store.
    Foreign,
}

/// What the store says of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The row of the queue that it is from.
    pub(super) version: Version,
    /// What the queue has done to it since the backup; `None` when rows of the queue since then are not there any more.
    pub(super) since: Option<&'a [Kind]>,
}

/// Compares a record that the backup has from row `backup` of the queue, of which it knows nothing behind row `newest`.
pub(super) fn relation(backup: i64, newest: i64, seen: Seen<'_>) -> Relation {
    match (seen.version, seen.since) {
        (Version::Row(version), _) if version == backup => Relation::Same,
        (Version::Row(version), _) if version > newest => Relation::Older,
        (Version::Row(_), _) => Relation::Foreign,
        (_, None) => Relation::Unknown,
        (Version::Unknown, Some([])) => Relation::Same,
        (Version::Absent, Some([])) => Relation::Gone,
        (Version::Unknown, Some(_)) => Relation::Older,
        (Version::Absent, Some(since)) if is_there_after(true, since) => Relation::Older,
        (Version::Absent, Some(_)) => Relation::Deleted,
    }
}

/// Whether a record is there after these, which was there before or not.
pub(super) fn is_there_after(before: bool, kinds: &[Kind]) -> bool {
    kinds.iter().fold(before, |there, kind| match kind {
        Kind::Delete => false,
        Kind::Add | Kind::Upsert => true,
        Kind::Update => there,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_version_is_given_and_only_what_was_not_deleted_comes_back() {
        use Kind::{Add, Delete, Update, Upsert};
        use Relation::{Deleted, Foreign, Gone, Older, Same};
        use Version::{Absent, Row};
        // The backup has the record from row 7, and knows the queue up to row 10.
        for (version, since, want) in [
            (Row(7), None, Same),
            (Row(7), Some(&[][..]), Same),
            // An addition of what is there changes nothing.
            (Row(7), Some(&[Add]), Same),
            (Row(11), None, Older),
            (Row(11), Some(&[Update]), Older),
            (Row(9), None, Foreign),
            (Row(3), Some(&[]), Foreign),
            (Version::Unknown, None, Relation::Unknown),
            (Version::Unknown, Some(&[]), Same),
            (Version::Unknown, Some(&[Update]), Older),
            (Absent, None, Relation::Unknown),
            (Absent, Some(&[]), Gone),
            (Absent, Some(&[Delete]), Deleted),
            (Absent, Some(&[Update, Delete]), Deleted),
            (Absent, Some(&[Delete, Update]), Deleted),
            (Absent, Some(&[Delete, Upsert]), Older),
            (Absent, Some(&[Delete, Add, Delete]), Deleted),
            (Absent, Some(&[Update]), Older),
        ] {
            assert_eq!(relation(7, 10, Seen { version, since }), want, "{version:?} {since:?}");
        }
    }
}
