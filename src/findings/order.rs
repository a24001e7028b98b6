//! In which order findings are told: the gravest first, and what brought others about above them, so that whoever begins at
//! the top begins at the cause. The table is the one place that says what leads to what; text, document, page and messages
//! all ask it.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{Code, Severity};

/// What a code can bring about, or whose remedy it would undo or make worse. Only what comes next: the rest follows.
const fn leads_to(code: Code) -> &'static [Code] {
    use Code::*;
    match code {
        // The process holds the only good copy: it must be saved before anything that says "stop Chroma".
        StoreReplaced => &[
            SecondWriter,
            StoreMissing,
            SqliteMissing,
            SqliteEmpty,
            SqliteCorrupt,
            SqliteHeaderDamaged,
            CatalogEmpty,
            JournalForeign,
            RecordsWithoutVector,
            SegmentMissing,
            SegmentIncomplete,
            SegmentInconsistent,
            SegmentBehind,
            SegmentAhead,
            SchemaNewerThanServer,
            ServerFailing,
            LogError,
        ],
        // Each overwrites files of the other; what they leave depends on who flushed last.
        SecondWriter => &[
            RecordsWithoutVector,
            SegmentIncomplete,
            SegmentTruncated,
            SegmentHeaderInvalid,
            SegmentMetadataInvalid,
            SegmentInconsistent,
            SegmentBehind,
            SegmentAhead,
            SeqIdInvalid,
            LockHeld,
        ],
        // A damaged or foreign directory or file.
        StoreMissing => &[
            SqliteMissing,
            SegmentMissing,
            CatalogEmpty,
            BackupShrunk,
            ServerFailing,
            ServerUnreachable,
            LogError,
            CollectorFailing,
        ],
        SqliteMissing | SqliteEmpty | SqliteNotRegular => {
            &[CatalogEmpty, SegmentOrphan, BackupShrunk, ServerFailing, LogError, CollectorFailing]
        }
        CatalogEmpty => &[SegmentOrphan, OrphanRows, BackupShrunk],
        JournalForeign => &[
            SqliteCorrupt,
            SqliteIndexCorrupt,
            SqliteTruncated,
            SqliteHeaderDamaged,
            FtsCorrupt,
            MigrationsMissing,
        ],
        SqliteNotADatabase | SqliteHeaderDamaged | SqliteTruncated => {
            &[SqliteCorrupt, SqliteIndexCorrupt, MigrationsMissing, TableMissing, FtsMissing]
        }
        SqliteCorrupt => &[
            SqliteIndexCorrupt,
            FtsCorrupt,
            FtsOutOfStep,
            OrphanRows,
            BackupInvalid,
            ServerFailing,
            LogPanic,
            LogError,
            CollectorFailing,
        ],
        SqliteIndexCorrupt => &[OrphanRows, ServerFailing, LogError],
        FtsCorrupt | FtsMissing => &[FtsOutOfStep, ServerFailing, LogError],
        HotJournal => &[CheckOverdue],
        MigrationsMissing => &[MigrationMismatch, TableMissing, ServerFailing, LogError],
        SchemaNewerThanServer | MigrationMismatch | TableMissing => {
            &[ServerFailing, LogPanic, LogError]
        }
        DefaultTenantMissing | DefaultDatabaseMissing | CollectionConfigInvalid => {
            &[ServerFailing, LogError]
        }
        CollectionWithoutSegments => &[OrphanRows, SegmentOrphan, LogError],
        CollectionDimensionMismatch => &[QueuePoisoned, LogError],
        // A queue that stands still.
        QueuePoisoned => &[IndexLag, QueueBacklog, QueueNotPurged, ServerFailing, LogError],
        SeqIdInvalid => &[RecordsWithoutVector, IndexLag, QueueBacklog, QueueNotPurged],
        IndexLag => &[QueueBacklog],
        QueueBacklog => &[QueueNotPurged],
        // An index that cannot be loaded: its vectors are missed, no flush comes to its end, and it takes the server down.
        SegmentMissing
        | SegmentIncomplete
        | SegmentTruncated
        | SegmentHeaderInvalid
        | SegmentMetadataInvalid
        | SegmentInconsistent => {
            &[RecordsWithoutVector, IndexLag, QueueBacklog, LogPanic, LogError]
        }
        SegmentMetadataHostile => &[SegmentMetadataInvalid, SegmentInconsistent],
        SegmentBloated => &[DiskUsageCritical, DiskUsageHigh, DiskWillFill, HeadroomLow],
        // The disk and who may write to it.
        DiskReadonly => &[
            PermissionUnwritable,
            HotJournal,
            IndexLag,
            QueueBacklog,
            BackupStale,
            ServerFailing,
            LogError,
        ],
        DiskUsageCritical => &[
            DiskUsageHigh,
            DiskWillFill,
            HeadroomLow,
            HotJournal,
            SqliteTruncated,
            SegmentTruncated,
            SegmentIncomplete,
            BackupInvalid,
            IndexLag,
            ServerFailing,
            LogPanic,
            LogError,
        ],
        DiskUsageHigh => &[DiskWillFill, HeadroomLow],
        InodesLow => &[HotJournal, BackupInvalid, LogError],
        PermissionDrift => &[PermissionUnwritable, PermissionWorldWritable],
        PermissionUnwritable => &[HotJournal, IndexLag, QueueBacklog, ServerFailing, LogError],
        // Processes.
        LockHeld => &[IndexLag, QueueBacklog, CheckOverdue, ServerFailing, LogError],
        DescriptorsLow => &[ServerFailing, LogError],
        ServerFailing => &[LogError],
        LogPanic => &[ServerGone],
        ServerGone => &[ServerUnreachable],
        CollectorFailing => &[CheckOverdue],
        BackupInvalid | BackupIncomplete => &[BackupMissing, BackupStale, BackupShrunk],
        _ => &[],
    }
}

/// All that `code` leads to, by however many steps.
fn follows(code: Code) -> BTreeSet<Code> {
    let (mut all, mut open) = (BTreeSet::new(), vec![code]);
    while let Some(next) = open.pop() {
        open.extend(leads_to(next).iter().filter(|effect| all.insert(**effect)));
    }
    all
}

/// The places of `findings` in the order in which they are told. A cause is as urgent as the gravest of what it brought
/// about, and stands above it; the gravest stand first; equals keep their order, those that explain most first. A finding that
/// is lighter than the catalogue says brought nothing about: a SQLite shell beside Chroma loses no vectors.
#[must_use]
pub fn order(findings: &[(Code, Severity)]) -> Vec<usize> {
    let effects: Vec<Vec<usize>> = findings
        .iter()
        .map(|(code, severity)| {
            if *severity < code.severity() || *severity == Severity::Info {
                return Vec::new();
            }
            let follows = follows(*code);
            let others = findings.iter().enumerate();
            others.filter(|(_, (other, _))| follows.contains(other)).map(|(at, _)| at).collect()
        })
        .collect();
    let urgency: Vec<Severity> = findings
        .iter()
        .zip(&effects)
        .map(|((_, own), effects)| {
            effects.iter().map(|at| findings[*at].1).fold(*own, std::cmp::max)
        })
        .collect();
    // How many stand above it: more for an effect than for each of its causes, because all follows from all above.
    let mut above = vec![0_usize; findings.len()];
    for effects in &effects {
        effects.iter().for_each(|at| above[*at] += 1);
    }
    let mut places: Vec<usize> = (0..findings.len()).collect();
    places.sort_by_key(|at| (Reverse(urgency[*at]), above[*at], Reverse(effects[*at].len())));
    places
}

/// Puts `items` into the order in which their findings are told.
pub(crate) fn sort_by_cause<T>(items: Vec<T>, of: impl Fn(&T) -> (Code, Severity)) -> Vec<T> {
    let codes: Vec<(Code, Severity)> = items.iter().map(of).collect();
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    order(&codes).into_iter().filter_map(|at| items[at].take()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(findings: &[(Code, Severity)]) -> Vec<&'static str> {
        order(findings).into_iter().map(|at| findings[at].0.as_str()).collect()
    }

    #[test]
    fn nothing_brings_itself_about() {
        for code in Code::ALL {
            assert!(!follows(*code).contains(code), "{code:?}");
        }
    }

    #[test]
    fn a_cause_stands_above_what_it_brought_about() {
        use Code::*;
        let usual = |codes: &[Code]| codes.iter().map(|c| (*c, c.severity())).collect::<Vec<_>>();
        for (codes, want) in [
            (
                &[RecordsWithoutVector, SegmentBehind, SecondWriter][..],
                &["second_writer", "records_without_vector", "segment_behind"][..],
            ),
            (
                &[SegmentInconsistent, RecordsWithoutVector, SecondWriter],
                &["second_writer", "segment_inconsistent", "records_without_vector"],
            ),
            (&[LogError, LogPanic, DiskReadonly], &["disk_readonly", "log_panic", "log_error"]),
            (
                &[LogPanic, ServerGone, SegmentTruncated],
                &["segment_truncated", "log_panic", "server_gone"],
            ),
            // A warning that explains a critical one goes with it; one that explains nothing stays below.
            (
                &[HeadroomLow, PermissionUnwritable, PermissionDrift],
                &["permission_drift", "permission_unwritable", "headroom_low"],
            ),
            (
                &[SqliteCorrupt, SecondWriter, StoreReplaced],
                &["store_replaced", "sqlite_corrupt", "second_writer"],
            ),
            (
                &[SegmentMissing, FtsOutOfStep, BackupSameDisk, SqliteCorrupt],
                &["sqlite_corrupt", "segment_missing", "fts_out_of_step", "backup_same_disk"],
            ),
            (&[], &[]),
        ] {
            assert_eq!(told(&usual(codes)), want);
        }
        // A shell that only reads is a warning and loses nothing.
        let shell = [(SecondWriter, Severity::Warning), (RecordsWithoutVector, Severity::Critical)];
        assert_eq!(told(&shell), ["records_without_vector", "second_writer"]);
    }

    proptest! {
        #[test]
        fn severity_decides_between_what_is_unrelated_and_the_cause_between_the_rest(
            picks in proptest::collection::vec((0..Code::ALL.len(), 0..3_u8), 0..30)
        ) {
            let severity = |n| [Severity::Info, Severity::Warning, Severity::Critical][usize::from(n)];
            let findings: Vec<_> = picks.iter().map(|(at, n)| (Code::ALL[*at], severity(*n))).collect();
            let places = order(&findings);
            let mut sorted = places.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..findings.len()).collect::<Vec<_>>());
            let brought = |a: usize, b: usize| {
                let (code, severity) = findings[a];
                severity >= code.severity() && severity > Severity::Info && follows(code).contains(&findings[b].0)
            };
            for (n, b) in places.iter().enumerate() {
                for a in &places[..n] {
                    prop_assert!(!brought(*b, *a), "{:?} above {:?}", findings[*a], findings[*b]);
                    let explains = places.iter().any(|c| brought(*a, *c) && findings[*c].1 >= findings[*b].1);
                    prop_assert!(findings[*a].1 >= findings[*b].1 || explains);
                }
            }
        }
    }
}
