//! Remedies that contradict each other. Each remedy of the catalogue is right by itself. Two of them in one store may contradict
//! each other: "start Chroma" and "upgrade it first", or "stop Chroma" and "do not stop that process before its open file is
//! saved". This table decides what comes first, once for all places that show a remedy.

use std::collections::BTreeSet;

use super::{Act, Code, Finding, Remedy, Severity};

/// The codes found in one store.
pub(crate) type Present = BTreeSet<Code>;

/// Those of the findings that count here: what is only worth knowing forbids nothing.
pub(crate) fn present<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Present {
    let count = |finding: &&Finding| finding.severity > Severity::Info;
    findings.into_iter().filter(count).map(|finding| finding.code).collect()
}

/// The remedy of a finding with this code, with what must come before it in a store that has the findings `present`.
pub(crate) fn ordered(code: Code, remedy: Remedy, present: &Present) -> Remedy {
    let acts = code.acts();
    let fits = RULES.iter().find_map(|(act, blockers, words)| {
        let blocker = blockers.iter().find(|other| **other != code && present.contains(other))?;
        acts.contains(act).then(|| (act, words.replace("{code}", blocker.as_str())))
    });
    let words = match fits {
        // To stop what does harm is never put off.
        Some((Act::Start, first)) if acts.contains(&Act::Stop) => {
            format!("{} Before the new start: {first}", remedy.words)
        }
        Some((_, first)) => format!("First {first} Then: {}", remedy.words),
        None => return remedy,
    };
    Remedy { words, ..remedy }
}

/// An act, the findings that something else must come before, and what that is. The first rule that fits is used, so what cannot
/// be undone comes first.
const RULES: &[(Act, &[Code], &str)] = &[
    (
        Act::Stop,
        &[Code::StoreReplaced],
        "save the open file as {code} says: the process that holds it has the only copy, and it is gone when that process ends.",
    ),
    (
        Act::Start,
        &[Code::StoreReplaced],
        "save the open file as {code} says: it is gone when the process that holds it ends.",
    ),
    (
        Act::Start,
        &[Code::SegmentMetadataHostile],
        "replace the folder as {code} says: a start may run the code in it.",
    ),
    (
        Act::Start,
        &[
            Code::StoreMissing,
            Code::SqliteMissing,
            Code::SqliteEmpty,
            Code::SqliteNotRegular,
            Code::NotAStore,
            Code::CatalogEmpty,
        ],
        "do what {code} says: a start now would begin an empty database, or go on with one.",
    ),
    (
        Act::Start,
        &[Code::JournalForeign],
        "do what {code} says: the next open would write the wrong journal over the database.",
    ),
    (
        Act::Open,
        &[Code::JournalForeign],
        "do what {code} says: the next open would write the wrong journal over the database.",
    ),
    (
        Act::Start,
        &[Code::SchemaNewerThanServer],
        "upgrade chromadb as {code} says: the installed release cannot open this directory.",
    ),
    (
        Act::Start,
        &[
            Code::RestoreInterrupted,
            Code::SqliteNotADatabase,
            Code::SqliteHeaderDamaged,
            Code::SqliteTruncated,
            Code::SqliteCorrupt,
            Code::SqliteIndexCorrupt,
            Code::WalMode,
            Code::MigrationMismatch,
            Code::MigrationsMissing,
            Code::TableMissing,
            Code::SeqIdInvalid,
            Code::SegmentMissing,
            Code::SegmentIncomplete,
            Code::SegmentTruncated,
            Code::SegmentHeaderInvalid,
            Code::SegmentMetadataInvalid,
            Code::SegmentInconsistent,
            Code::SegmentBloated,
            Code::SegmentBehind,
            Code::SegmentAhead,
            Code::DiskReadonly,
            Code::DiskUsageCritical,
            Code::PermissionUnwritable,
        ],
        "do what {code} says: an earlier start would make it worse, or fail.",
    ),
    (
        Act::Vacuum,
        &[
            Code::SegmentMissing,
            Code::SegmentIncomplete,
            Code::SegmentTruncated,
            Code::SegmentHeaderInvalid,
            Code::SegmentMetadataInvalid,
            Code::SegmentMetadataHostile,
            Code::SegmentInconsistent,
            Code::SegmentBloated,
            Code::SegmentBehind,
            Code::SegmentAhead,
            Code::RecordsWithoutVector,
            Code::SeqIdInvalid,
            Code::QueuePoisoned,
            Code::QueueBacklog,
            Code::IndexLag,
            Code::SqliteCorrupt,
            Code::SqliteTruncated,
            Code::SecondWriter,
        ],
        "do what {code} says: until then the queue may be the only place of some vectors.",
    ),
    (
        Act::Move,
        &[
            Code::SqliteMissing,
            Code::SqliteEmpty,
            Code::CatalogEmpty,
            Code::TableMissing,
            Code::CollectionWithoutSegments,
            Code::SegmentMissing,
            Code::SegmentInconsistent,
            Code::SegmentBehind,
            Code::SegmentAhead,
            Code::SqliteCorrupt,
            Code::SqliteTruncated,
        ],
        "do what {code} says: until then that folder may be the one you need.",
    ),
    (
        Act::Rebuild,
        &[Code::SqliteValueMismatch],
        "do what {code} says: an index that is made anew makes the damaged text the only one.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(code: Code, present: &[Code]) -> String {
        let present: Present = present.iter().copied().chain([code]).collect();
        ordered(code, Remedy::new(code.template().words), &present).words
    }

    #[test]
    fn what_must_come_first_is_said_first() {
        use Code as C;
        for (code, present, first) in [
            (C::ServerGone, &[][..], None),
            (C::ServerGone, &[C::HotJournal, C::BackupStale], None),
            (
                C::ServerGone,
                &[C::SchemaNewerThanServer],
                Some("upgrade chromadb as schema_newer_than_server says"),
            ),
            (
                C::ServerGone,
                &[C::SchemaNewerThanServer, C::SqliteMissing],
                Some("do what sqlite_missing says: a start now would begin an empty"),
            ),
            (C::HotJournal, &[C::SqliteEmpty], Some("do what sqlite_empty says")),
            (
                C::ServerGone,
                &[C::JournalForeign],
                Some("do what journal_foreign says: the next open"),
            ),
            (C::SeqIdInvalid, &[C::JournalForeign], Some("do what journal_foreign says")),
            (
                C::ServerGone,
                &[C::SegmentMetadataHostile, C::SegmentMissing],
                Some("replace the folder as segment_metadata_hostile"),
            ),
            (
                C::SqliteMissing,
                &[C::StoreReplaced],
                Some("save the open file as store_replaced says"),
            ),
            (
                C::SecondWriter,
                &[C::StoreReplaced],
                Some("save the open file as store_replaced says"),
            ),
            (C::StoreReplaced, &[C::SqliteMissing], None),
            (
                C::QueueNotPurged,
                &[C::SegmentMissing],
                Some("do what segment_missing says: until then the queue"),
            ),
            (
                C::SegmentOrphan,
                &[C::CatalogEmpty],
                Some("do what catalog_empty says: until then that folder"),
            ),
            (
                C::FtsOutOfStep,
                &[C::SqliteValueMismatch],
                Some("do what sqlite_value_mismatch says"),
            ),
        ] {
            let (got, remedy) = (reported(code, present), code.template().words);
            match first {
                None => assert_eq!(got, remedy, "{code:?} beside {present:?}"),
                Some(first) => {
                    assert!(got.starts_with(&format!("First {first}")), "{code:?}: {got}");
                    assert!(got.ends_with(&format!(" Then: {remedy}")), "{code:?}: {got}");
                }
            }
        }
        let doubled = reported(C::SecondWriter, &[C::SchemaNewerThanServer]);
        assert!(doubled.starts_with("Stop all but one of them now"), "not put off: {doubled}");
        assert!(doubled.contains(" Before the new start: upgrade chromadb as"), "{doubled}");
    }

    #[test]
    fn what_is_merely_worth_knowing_forbids_nothing() {
        let missing = Finding::new(Code::SegmentMissing, "", "never flushed");
        assert!(present([&missing]).contains(&Code::SegmentMissing));
        assert!(present([&missing.with_severity(Severity::Info)]).is_empty());
    }

    #[test]
    fn no_finding_waits_for_one_that_waits_for_it() {
        let waits = |code: Code, other: Code| reported(code, &[other]) != code.template().words;
        for code in Code::ALL {
            for other in Code::ALL {
                assert!(
                    !(waits(*code, *other) && waits(*other, *code)),
                    "{code:?} and {other:?} wait for each other"
                );
            }
        }
    }
}
