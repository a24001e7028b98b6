//! What `recover` does about each finding: one closed table. What it cannot do has a sentence that says what helps instead.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::findings::Code;

/// What can be done to a copy, in the order in which it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A transaction that was cut off is rolled back; a journal of another database is put aside.
    Journal,
    /// Of two copies of a document that differ, the one that an index confirms is written over the other.
    Documents,
    /// Every table is copied into a new database, with new indexes; where SQLite cannot read the old one, page by page.
    Reload,
    /// Rows of the table of migrations are written anew.
    Migrations,
    /// Tables that are gone are made anew.
    Tables,
    /// The full text is made anew from the documents. That happens in a new database too.
    FullText,
    /// Rows that every store has, and positions.
    Rows,
    /// Collections of which only the segments are left get a row again. No finding asks for it by itself: Chroma before 1.0.15 leaves the
    /// same when a database is deleted.
    Collections,
    /// Rows of segments are put back.
    Segments,
    /// Settings of a collection or of the queue that Chroma cannot read.
    Settings,
    /// The number of dimensions of a collection is taken from its vectors.
    Dimension,
    /// Rows of the queue that Chroma cannot apply are mended.
    Queue,
    /// Indexes are written anew from what their folders and the queue hold.
    Index,
    /// What the store has lost is taken from a backup.
    Backup,
}

impl Action {
    /// All that findings lead to, in their order.
    pub const ALL: [Self; 13] = [
        Self::Journal,
        Self::Documents,
        Self::Reload,
        Self::Migrations,
        Self::Tables,
        Self::FullText,
        Self::Rows,
        Self::Collections,
        Self::Segments,
        Self::Settings,
        Self::Dimension,
        Self::Queue,
        Self::Index,
    ];

    /// What a progress bar says meanwhile.
    pub(super) const fn step(self) -> &'static str {
        match self {
            Self::Journal => "settling the journal",
            Self::Documents => "comparing documents",
            Self::Reload | Self::FullText => "writing the database anew",
            Self::Migrations | Self::Tables => "making tables anew",
            Self::Rows | Self::Collections | Self::Segments | Self::Settings | Self::Dimension => {
                "putting rows right"
            }
            Self::Queue => "mending the queue",
            Self::Index => "reading the index",
            Self::Backup => "reading the backup",
        }
    }

    /// Whether both are one piece of work.
    pub(super) const fn is_with(self, other: Self) -> bool {
        matches!((self, other), (Self::Reload, Self::FullText))
    }
}

/// What a finding comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is repaired on the copy.
    Repair(Action),
    /// It is not: a sentence that says why, and what helps.
    Otherwise(&'static str),
}

/// What is to be done about the findings of one store.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// In their order.
    pub actions: BTreeSet<Action>,
    codes: Vec<(Code, Answer)>,
}

impl Choice {
    /// The findings that these actions are for.
    pub(super) fn codes_of(&self, actions: &[Action]) -> Vec<Code> {
        let of = |(code, answer): &(Code, Answer)| match answer {
            Answer::Repair(action) if actions.contains(action) => Some(*code),
            _ => None,
        };
        self.codes.iter().filter_map(of).collect()
    }

    /// Does this about a finding for which there is nothing to do otherwise.
    pub(super) fn repair(&mut self, code: Code, action: Action) {
        for (_, answer) in self.codes.iter_mut().filter(|(of, _)| *of == code) {
            *answer = Answer::Repair(action);
            self.actions.insert(action);
        }
    }

    /// The findings that nothing is done about.
    pub(super) fn others<'a, T: 'a>(
        &'a self,
        tell: impl Fn(Code, &'static str) -> T + 'a,
    ) -> impl Iterator<Item = T> + 'a {
        self.codes.iter().filter_map(move |(code, answer)| match answer {
            Answer::Otherwise(why) => Some(tell(*code, why)),
            Answer::Repair(_) => None,
        })
    }
}

/// What is to be done when these findings stand together.
#[must_use]
pub fn choose(codes: &BTreeSet<Code>) -> Choice {
    let mut choice = Choice::default();
    let journal = codes.iter().any(|code| answer(*code) == Answer::Repair(Action::Journal));
    for code in codes {
        let answer = match answer(*code) {
            Answer::Repair(action) if action != Action::Journal => {
                if codes.contains(&Code::WalMode) {
                    Answer::Otherwise(IN_WAL_MODE)
                } else if journal {
                    // Nothing is known of the database before its journal is settled.
                    continue;
                } else {
                    answer(*code)
                }
            }
            answer => answer,
        };
        if let Answer::Repair(action) = answer {
            choice.actions.insert(action);
        }
        choice.codes.push((*code, answer));
    }
    choice
}

/// The table.
#[must_use]
#[expect(clippy::too_many_lines, reason = "one line for each finding")]
pub const fn answer(code: Code) -> Answer {
    use Answer::{Otherwise, Repair};
    match code {
        Code::HotJournal | Code::JournalForeign => Repair(Action::Journal),
        Code::SqliteCorrupt
        | Code::SqliteIndexCorrupt
        | Code::SqliteNotADatabase
        | Code::SqliteHeaderDamaged
        | Code::SqliteTruncated => Repair(Action::Reload),
        Code::FtsCorrupt | Code::FtsMissing | Code::FtsOutOfStep => Repair(Action::FullText),
        Code::DefaultTenantMissing
        | Code::DefaultDatabaseMissing
        | Code::SeqIdInvalid
        | Code::SeqIdMissing => Repair(Action::Rows),
        Code::StoreMissing => {
            Otherwise("There is nothing to repair. Mount the directory, or restore a backup.")
        }
        Code::SqliteMissing | Code::SqliteEmpty => Otherwise(
            "There is no database to repair. Restore a backup. Keep the folders: they hold vectors.",
        ),
        Code::SqliteNotRegular => Otherwise(
            "Something else stands in place of the database. Put the file there, then run this again.",
        ),
        Code::RestoreInterrupted => Otherwise(
            "A restore was cut off. Bring it to its end with restore --store.path, then run this again.",
        ),
        Code::NotAStore => Otherwise("This is no store of Chroma 0.4 or newer. Check the path."),
        Code::SqliteValueMismatch => Repair(Action::Documents),
        Code::FtsLostAtUpgrade => Otherwise(
            "Nothing is wrong before the upgrade. After it, open the store once and run this again.",
        ),
        Code::WalMode => Otherwise(IN_WAL_MODE),
        Code::SchemaNewerThanServer => Otherwise("Nothing is damaged. Upgrade chromadb."),
        Code::SchemaNewerThanExporter => Otherwise("Nothing is damaged. Upgrade chroma_exporter."),
        Code::MigrationMismatch | Code::MigrationsMissing => Repair(Action::Migrations),
        Code::TableMissing => Repair(Action::Tables),
        Code::CatalogEmpty => Otherwise(
            "The names of the collections are in no file any more. Restore a backup. Keep the folders: they hold vectors.",
        ),
        Code::CollectionDimensionMismatch => Repair(Action::Dimension),
        Code::CollectionWithoutSegments => Repair(Action::Segments),
        Code::CollectionConfigInvalid => Repair(Action::Settings),
        Code::QueuePoisoned => Repair(Action::Queue),
        Code::SegmentMissing
        | Code::SegmentIncomplete
        | Code::SegmentTruncated
        | Code::SegmentHeaderInvalid
        | Code::SegmentMetadataInvalid
        | Code::SegmentInconsistent
        | Code::SegmentBloated
        | Code::RecordsUnreachable => Repair(Action::Index),
        Code::SegmentMetadataHostile => Otherwise(
            "A file of the index holds code. Nothing is to be kept of that folder: restore it from an older backup.",
        ),
        Code::SegmentBehind | Code::SegmentAhead => Otherwise(
            "Index and database are of different moments. Restore both from one backup, or upsert the records of `check --ids` again.",
        ),
        Code::RecordsWithoutVector => Otherwise(
            "The vectors of these records are neither in the index nor in the queue. Upsert the records of `check --ids` again with their vectors.",
        ),
        Code::FreePagesHigh
        | Code::FtsCutAtNul
        | Code::QueueBacklog
        | Code::QueueNotPurged
        | Code::IndexLag
        | Code::SegmentOrphan => {
            Otherwise("The files need no repair. The runbook says what to do, if anything.")
        }
        Code::OrphanRows => Otherwise(
            "What Chroma left of deleted collections does no harm. Metadata without their record are of records that somebody deleted from the table: a backup may have them. If collections are missing, `recover --adopt-orphans` gives each its records back, under a new name.",
        ),
        Code::StoreReplaced => Otherwise(
            "The process that runs holds the only copy. Save that first, as `check` prints it.",
        ),
        Code::SecondWriter
        | Code::SqliteToolOpen
        | Code::ServerGone
        | Code::LockHeld
        | Code::DescriptorsLow => {
            Otherwise("That is about processes, not about files. The runbook says what to do.")
        }
        Code::DiskUsageHigh
        | Code::DiskUsageCritical
        | Code::DiskWillFill
        | Code::InodesLow
        | Code::DiskReadonly
        | Code::HeadroomLow
        | Code::DiskRemote
        | Code::DiskTemporary
        | Code::StoreSynced => {
            Otherwise("That is about the disk. Make it sound first: no repair helps before.")
        }
        Code::PermissionDrift | Code::PermissionUnwritable | Code::PermissionWorldWritable => {
            Otherwise("That is about owner and mode of files. The runbook says how to set them.")
        }
        Code::BackupMissing
        | Code::BackupStale
        | Code::BackupInvalid
        | Code::BackupIncomplete
        | Code::BackupShrunk
        | Code::BackupSameDisk
        | Code::BackupUnverified
        | Code::BackupFailed => Otherwise("That is about a backup. Make a new one."),
        Code::ServerUnreachable | Code::ServerFailing | Code::ServerElsewhere => Otherwise(
            "That is about the server. Run `check`: it says whether the files are the cause.",
        ),
        Code::LogPanic | Code::LogError => Otherwise(
            "That is what a log says. Run `check`: it says whether the files are the cause.",
        ),
        Code::CheckOverdue | Code::CollectorFailing => {
            Otherwise("Something could not be looked at. Nothing is repaired by guess.")
        }
    }
}

const IN_WAL_MODE: &str = "The newest rows may be in the -wal file. Take the database out of WAL mode as the runbook of wal_mode shows, then run this again.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity;

    #[test]
    fn every_critical_finding_has_an_action_or_a_sentence() {
        let mut used = BTreeSet::new();
        for code in Code::ALL {
            match answer(*code) {
                Answer::Repair(action) => {
                    used.insert(action);
                }
                Answer::Otherwise(why) => {
                    assert!(why.ends_with('.') && why.starts_with(char::is_uppercase), "{code:?}");
                    if code.severity() == Severity::Critical {
                        assert_ne!(answer(Code::QueueBacklog), Answer::Otherwise(why), "{code:?}");
                    }
                }
            }
        }
        let asked = |action: &Action| *action != Action::Collections;
        assert_eq!(
            used.into_iter().collect::<Vec<_>>(),
            Action::ALL.into_iter().filter(asked).collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_the_next_repair_needs_comes_first() {
        use Code::{
            DefaultTenantMissing, FtsCorrupt, HotJournal, RecordsWithoutVector,
            SegmentInconsistent, SqliteIndexCorrupt, SqliteValueMismatch, WalMode,
        };
        let chosen = |codes: &[Code]| {
            let choice = choose(&codes.iter().copied().collect());
            choice.actions.into_iter().collect::<Vec<_>>()
        };
        for (codes, want) in [
            (&[][..], &[][..]),
            (&[FtsCorrupt, SqliteIndexCorrupt], &[Action::Reload, Action::FullText]),
            (&[DefaultTenantMissing, FtsCorrupt], &[Action::FullText, Action::Rows]),
            // Nothing else is known before the journal is settled.
            (&[FtsCorrupt, HotJournal], &[Action::Journal]),
            // Before what makes one of two copies the only one.
            (&[SqliteIndexCorrupt, SqliteValueMismatch], &[Action::Documents, Action::Reload]),
            (&[FtsCorrupt, WalMode], &[]),
            // What two writers left: what is certain is put back, the rest is named.
            (&[RecordsWithoutVector, SegmentInconsistent], &[Action::Index]),
        ] {
            assert_eq!(chosen(codes), want, "{codes:?}");
        }
    }
}
