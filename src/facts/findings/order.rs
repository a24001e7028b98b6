//! In which order findings are told: the gravest first, and what brought others about above them, so that whoever begins at
//! the top begins at the cause. The table is the one place that says what leads to what; text, document, page and messages
//! all ask it.
#![allow(clippy::enum_glob_use, reason = "a table of codes")]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use super::{Code, Severity};

/// What a code can bring about, or whose remedy it would undo or make worse. Only what comes next: the rest follows.
#[expect(clippy::too_many_lines, reason = "a table")]
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
        // What it names as missing or odd is put right by the end of the restore.
        RestoreInterrupted => &[
            StoreMissing,
            SqliteMissing,
            SqliteNotRegular,
            SegmentMissing,
            SegmentOrphan,
            ServerFailing,
            ServerUnreachable,
            LogError,
            CollectorFailing,
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
        HotJournal | CollectorFailing => &[CheckOverdue],
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
        BackupInvalid | BackupIncomplete => {
            &[BackupMissing, BackupStale, BackupShrunk, BackupUnverified]
        }
        BackupFailed => &[BackupMissing, BackupStale, BackupUnverified],
        _ => &[],
    }
}

/// All that each code leads to, by however many steps; in the order of the catalogue.
static FOLLOWS: LazyLock<Vec<BTreeSet<Code>>> = LazyLock::new(|| {
    let all = |code: &Code| {
        let (mut all, mut open) = (BTreeSet::new(), vec![*code]);
        while let Some(next) = open.pop() {
            open.extend(leads_to(next).iter().filter(|effect| all.insert(**effect)));
        }
        all
    };
    Code::ALL.iter().map(all).collect()
});

fn follows(code: Code) -> &'static BTreeSet<Code> {
    // The catalogue lists every code, in the order in which the language counts them.
    &FOLLOWS[code as usize]
}

/// Whether it may have brought others about. One that is lighter than the catalogue says did not: a SQLite shell beside Chroma
/// loses no vectors.
fn active(code: Code, severity: Severity) -> bool {
    severity >= code.severity() && severity > Severity::Info
}

/// What is there of one code.
#[derive(Default)]
struct Present {
    gravest: Option<Severity>,
    count: usize,
    active: usize,
}

/// The places of `findings` in the order in which they are told. A cause is as urgent as the gravest of what it brought
/// about, and stands above it; the gravest stand first; among equals those that explain most, then those that came first.
#[must_use]
pub fn order(findings: &[(Code, Severity)]) -> Vec<usize> {
    let mut present: BTreeMap<Code, Present> = BTreeMap::new();
    for (code, severity) in findings {
        let of = present.entry(*code).or_default();
        of.gravest = of.gravest.max(Some(*severity));
        of.count += 1;
        of.active += usize::from(active(*code, *severity));
    }
    let mut keys: BTreeMap<(Code, Severity), _> = BTreeMap::new();
    for (code, severity) in findings {
        keys.entry((*code, *severity)).or_insert_with(|| {
            let follows = if active(*code, *severity) { Some(follows(*code)) } else { None };
            let effects = follows.into_iter().flatten().filter_map(|effect| present.get(effect));
            let (mut urgency, mut explained) = (*severity, 0);
            for effect in effects {
                urgency = effect.gravest.map_or(urgency, |gravest| gravest.max(urgency));
                explained += effect.count;
            }
            // More for an effect than for each of its causes, because it follows from all that those follow from.
            let causes = present.iter().filter(|(cause, _)| self::follows(**cause).contains(code));
            let above: usize = causes.map(|(_, of)| of.active).sum();
            (Reverse(urgency), above, Reverse(explained))
        });
    }
    let mut places: Vec<usize> = (0..findings.len()).collect();
    places.sort_by_key(|at| keys.get(&findings[*at]));
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

    fn reported(findings: &[(Code, Severity)]) -> Vec<&'static str> {
        order(findings).into_iter().map(|at| findings[at].0.as_str()).collect()
    }

    #[test]
    fn nothing_brings_itself_about() {
        for (place, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, place);
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
            assert_eq!(reported(&usual(codes)), want);
        }
        // A shell that only reads is a warning and loses nothing.
        let shell = [(SecondWriter, Severity::Warning), (RecordsWithoutVector, Severity::Critical)];
        assert_eq!(reported(&shell), ["records_without_vector", "second_writer"]);
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
                active(code, severity) && follows(code).contains(&findings[b].0)
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
