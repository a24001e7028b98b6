//! What a cheap look means: pure, so that every case stands in a table. A state that may be of this moment only, such as
//! a file that is growing under a commit, is never called damage: it is `busy`, and the caller looks again.

use super::look::{DatabaseLook, JournalLook, Look, PageOne, Refused};
use crate::{
    clock::Timestamp,
    collectors::CollectError,
    findings::{Code, Finding, Severity},
    format::{
        journal::{JournalHeader, Start},
        lfs,
        sqlite::{HeaderError, SqliteHeader},
    },
    sample::CheckState,
    store::{DATABASE_FILE, database::Stamp},
};

/// What is known besides the look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Background {
    pub(super) now: Timestamp,
    /// There was a database before, or a process holds one.
    pub(super) was_there: bool,
}

/// What one check of the cheap tier says.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) state: CheckState,
    pub(super) findings: Vec<Finding>,
    pub(super) problem: Option<CollectError>,
}

/// What both say, and what stands in the way of asking SQLite.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) header: Verdict,
    pub(super) journal: Verdict,
    pub(super) database: Option<(Stamp, Option<SqliteHeader>)>,
    pub(super) obstacle: Option<Obstacle>,
}

/// Why SQLite is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is no file that it could open.
    NoFile,
    /// An interrupted transaction must be rolled back first.
    HotJournal,
    /// It would make files in the directory.
    Wal,
}

impl Obstacle {
    /// What a check is that cannot be run because of it.
    pub(super) const fn state(self) -> CheckState {
        match self {
            Self::NoFile => CheckState::Unreadable,
            Self::HotJournal | Self::Wal => CheckState::Unknown,
        }
    }
}

impl Verdict {
    fn state(state: CheckState) -> Self {
        Self { state, findings: Vec::new(), problem: None }
    }

    fn found(state: CheckState, finding: Finding) -> Self {
        Self { state, findings: vec![finding], problem: None }
    }
}

impl Judged {
    /// Whether nothing needs a second look before it is said.
    pub(super) fn calm(&self) -> bool {
        [&self.header, &self.journal].into_iter().all(|verdict| {
            verdict.state != CheckState::Busy
                && verdict.findings.iter().all(|finding| finding.code == Code::WalMode)
        })
    }

    /// Whether the operating system gave what was asked for.
    pub(super) fn readable(&self) -> bool {
        [&self.header, &self.journal].into_iter().all(|v| v.state != CheckState::Unreadable)
    }

    /// Whether two looks say the same.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let same = |a: &Verdict, b: &Verdict| {
            a.state == b.state && a.state != CheckState::Busy && a.findings == b.findings
        };
        same(&self.header, &other.header) && same(&self.journal, &other.journal)
    }
}

/// Judges `look`. What it finds is to be said only when a second look, with the same stamps, says the same.
pub(super) fn judge(look: Look, background: Background) -> Judged {
    let Look { stamps, database, journal, writer } = look;
    let no_file = |header| Judged {
        header,
        journal: Verdict::state(CheckState::Unknown),
        database: None,
        obstacle: Some(Obstacle::NoFile),
    };
    let (stamp, head) = match database {
        DatabaseLook::File(stamp, head) => (stamp, head),
        other => return no_file(judge_absence(other, background)),
    };
    let parsed = SqliteHeader::parse(head.as_bytes());
    let file = File { stamp, head: head.as_bytes(), parsed };
    let (journal, rollback) = judge_journal(&file, journal, writer);
    let wal_bytes = stamps.wal.map(|wal| wal.size_bytes);
    let header = judge_header(&file, rollback, writer, wal_bytes);
    let obstacle = match (rollback, parsed) {
        (Rollback::No, Ok(header)) if header.wal => Some(Obstacle::Wal),
        (Rollback::No, _) => None,
        (Rollback::Pending { .. }, _) => Some(Obstacle::HotJournal),
    };
    Judged { header, journal, database: Some((stamp, parsed.ok())), obstacle }
}

struct File<'a> {
    stamp: Stamp,
    head: &'a [u8],
    parsed: Result<SqliteHeader, HeaderError>,
}

/// Whether the next open for writing will change the file first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rollback {
    No,
    /// With `page_one`, the header too.
    Pending {
        page_one: bool,
    },
}

fn judge_absence(look: DatabaseLook, background: Background) -> Verdict {
    use CheckState::{Busy, Corrupt, Unreadable};
    let unreadable = |code, evidence: String| {
        let subject = if code == Code::SqliteNotRegular { DATABASE_FILE } else { "" };
        Verdict::found(Unreadable, Finding::new(code, subject, evidence))
    };
    match look {
        DatabaseLook::NoDirectory(what) => unreadable(Code::StoreMissing, format!("it is {what}")),
        DatabaseLook::NotRegular(what) => {
            unreadable(Code::SqliteNotRegular, format!("it is {what}"))
        }
        DatabaseLook::Missing(remains) if remains.folders > 0 || background.was_there => {
            let before = if background.was_there { "; a database was there before" } else { "" };
            let evidence = format!("there is no {DATABASE_FILE}; {}{before}", remains.describe());
            unreadable(Code::SqliteMissing, evidence)
        }
        DatabaseLook::Missing(remains) => {
            let what = match (remains.ancient, remains.entries) {
                (true, _) => "it holds files of Chroma 0.3 or older".to_owned(),
                (false, 0) => "it is empty".to_owned(),
                (false, entries) => format!("it holds {entries} entries, none of them Chroma's"),
            };
            unreadable(Code::NotAStore, what)
        }
        // SQLite makes a new database as an empty file and fills it a moment later.
        DatabaseLook::Empty(stamp, remains)
            if remains.folders == 0
                && background.now.since(stamp.modified).as_secs() < YOUNG_SECS =>
        {
            Verdict::state(Busy)
        }
        DatabaseLook::Empty(_, remains) => {
            let evidence = format!("{DATABASE_FILE} has no bytes; {}", remains.describe());
            Verdict::found(Corrupt, Finding::new(Code::SqliteEmpty, DATABASE_FILE, evidence))
        }
        DatabaseLook::Refused(refused) => refused_verdict(refused),
        DatabaseLook::File(..) => Verdict::state(CheckState::Unknown),
    }
}

fn refused_verdict(refused: Refused) -> Verdict {
    Verdict { problem: Some(refused.into_problem()), ..Verdict::state(CheckState::Unreadable) }
}

fn judge_header(
    file: &File<'_>,
    rollback: Rollback,
    writer: bool,
    wal_bytes: Option<u64>,
) -> Verdict {
    use CheckState::{Busy, Corrupt, Ok as Fine, Unknown};
    let corrupt = |code, evidence: String| {
        Verdict::found(Corrupt, Finding::new(code, DATABASE_FILE, evidence))
    };
    let size = file.stamp.size_bytes;
    let header = match file.parsed {
        // The journal holds page 1: what stands there now will be overwritten.
        Err(_) if rollback == (Rollback::Pending { page_one: true }) => {
            return Verdict::state(Unknown);
        }
        Err(HeaderError::Magic) => {
            if lfs::Pointer::parse(file.head).is_some() {
                let evidence = format!(
                    "it is a Git LFS pointer: git has put {size} bytes of text in place of the database, which was never fetched"
                );
                let finding = Finding::new(Code::SqliteNotADatabase, DATABASE_FILE, evidence);
                return Verdict::found(Corrupt, finding.with_remedy(lfs::FETCH));
            }
            return corrupt(
                Code::SqliteNotADatabase,
                format!("its {size} bytes begin with {}", hex(file.head)),
            );
        }
        Err(HeaderError::Truncated { found }) => {
            return corrupt(Code::SqliteTruncated, format!("{found} bytes are left of it"));
        }
        Err(error) => return corrupt(Code::SqliteHeaderDamaged, error.to_string()),
        Ok(header) => header,
    };
    let stated = header.stated_bytes().unwrap_or(0);
    if size < stated && !header.wal {
        // A commit writes page 1 first and what it appends last; a rollback cuts and fills the file as well.
        if writer {
            return Verdict::state(Busy);
        }
        if rollback != Rollback::No {
            return Verdict::state(Unknown);
        }
        let evidence = format!(
            "it has {size} bytes, its header states {} pages of {} bytes, {stated} bytes in all",
            header.pages_stated, header.page_bytes
        );
        return corrupt(Code::SqliteTruncated, evidence);
    }
    // Longer than stated is no damage: SQLite goes by the header and uses the rest when it grows.
    if header.wal {
        let rows = match wal_bytes {
            None | Some(0) => "there is no -wal file with rows beside it".to_owned(),
            Some(bytes) => format!("{bytes} bytes are in {DATABASE_FILE}-wal"),
        };
        return Verdict::found(Fine, Finding::new(Code::WalMode, DATABASE_FILE, rows));
    }
    Verdict::state(Fine)
}

fn judge_journal(file: &File<'_>, journal: JournalLook, writer: bool) -> (Verdict, Rollback) {
    let plain = |state| (Verdict::state(state), Rollback::No);
    let (stamp, start, page_one) = match journal {
        JournalLook::Absent => return plain(CheckState::Ok),
        JournalLook::Refused(refused) => return (refused_verdict(refused), Rollback::No),
        JournalLook::File { stamp, start, page_one } => (stamp, start, page_one),
    };
    let subject = format!("{DATABASE_FILE}-journal");
    let pending = Rollback::Pending { page_one: matches!(page_one, PageOne::Found(_)) };
    match start {
        Start::Empty | Start::Zeroed => plain(CheckState::Ok),
        // It belongs to a transaction that is under way.
        Start::Hot(_) | Start::Unusable if writer => plain(CheckState::Ok),
        Start::Hot(header) => {
            if let Some(reason) = foreign(file, &header, page_one) {
                let evidence = format!("{reason}; the journal was last written {}", stamp.modified);
                let finding = Finding::new(Code::JournalForeign, subject, evidence);
                return (Verdict::found(CheckState::Corrupt, finding), pending);
            }
            let pages = header.records.map_or("all its".to_owned(), |count| count.to_string());
            let evidence = format!(
                "no process is writing, and a journal of {} bytes with {pages} pages to put back is there, last \
                 written {}; the database had {} pages before that transaction",
                stamp.size_bytes, stamp.modified, header.initial_pages
            );
            // SQLite counts pages in the header only when they are in the file: fewer mean that it was cut afterwards.
            let stated = header.records.zip(header.page_bytes).map(|(records, page_bytes)| {
                u64::from(header.sector_bytes) + u64::from(records) * (u64::from(page_bytes) + 8)
            });
            let finding = match stated.filter(|stated| *stated > stamp.size_bytes) {
                Some(stated) => {
                    let cut = format!(
                        "{evidence}; it was cut off, {stated} bytes were written, so that not all can be put back"
                    );
                    Finding::new(Code::HotJournal, subject, cut).with_severity(Severity::Critical)
                }
                None => Finding::new(Code::HotJournal, subject, evidence),
            };
            (Verdict::found(CheckState::Unknown, finding), pending)
        }
        Start::Unusable => {
            let evidence = format!(
                "no process is writing, and a journal of {} bytes is there whose header is damaged: SQLite would drop \
                 it without putting anything back",
                stamp.size_bytes
            );
            let finding = Finding::new(Code::HotJournal, subject, evidence);
            let verdict =
                Verdict::found(CheckState::Unknown, finding.with_severity(Severity::Critical));
            (verdict, Rollback::Pending { page_one: false })
        }
    }
}

/// Why a hot journal cannot belong to this state of this database; `None` when it can. Strict on the safe side: whoever
/// takes away a journal that does belong destroys the database.
fn foreign(file: &File<'_>, journal: &JournalHeader, page_one: PageOne) -> Option<String> {
    // Page 1 as it was before the transaction says most; without a header there is nothing to compare it with.
    let now = file.parsed.ok()?;
    let before = match page_one {
        PageOne::Found(head) => Some(SqliteHeader::parse(&head).ok()?),
        PageOne::Absent => None,
        PageOne::Unknown => return None,
    };
    let Some(before) = before else {
        // Page 1 was not touched, so its numbers are those from before the transaction.
        if let Some(page_bytes) = journal.page_bytes
            && page_bytes != now.page_bytes
        {
            return Some(format!(
                "it holds pages of {page_bytes} bytes, the database has pages of {}",
                now.page_bytes
            ));
        }
        let stated = now.pages()?;
        let in_file = file.stamp.size_bytes.div_ceil(u64::from(now.page_bytes));
        let possible = u64::from(stated)..=in_file.max(u64::from(stated));
        let initial = journal.initial_pages;
        return (!possible.contains(&u64::from(initial))).then(|| {
            format!(
                "it is of a database of {initial} pages, this one states {stated} and has {in_file}"
            )
        });
    };
    // A transaction adds one to the change counter when it writes page 1, at its end.
    let step = now.change_counter.wrapping_sub(before.change_counter);
    if step > 1 {
        return Some(format!(
            "it is of change counter {}, the database has {}",
            before.change_counter, now.change_counter
        ));
    }
    let other_kind = (before.page_bytes, before.encoding, before.application_id)
        != (now.page_bytes, now.encoding, now.application_id)
        && before.schema_cookie != 0;
    (other_kind || now.schema_cookie < before.schema_cookie).then(|| {
        format!(
            "it is of a database with pages of {} bytes and schema version {}, this one has {} and {}",
            before.page_bytes, before.schema_cookie, now.page_bytes, now.schema_cookie
        )
    })
}

fn hex(head: &[u8]) -> String {
    head.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// A file that was made less than this ago may still be on its way.
pub(super) const YOUNG_SECS: u64 = 10;
