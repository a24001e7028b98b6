//! What a cheap look means: pure, so that every case stands in a table. A state that may be of this moment only, such as
//! a file that is growing under a commit, is never called damage: it is `busy`, and the caller looks again.

use super::cut_off;
use super::inspection::{
    DatabaseState, Inspection, JournalState, PageOne, Refused, WalState, Writer,
};
use crate::{
    clock::Timestamp,
    collectors::CollectError,
    findings::{Code, FETCH_FROM_GIT, Finding, Severity},
    format::{
        journal::{JournalHeader, Start},
        lfs,
        sqlite::{HeaderError, JOURNAL_SUFFIX, SqliteHeader},
    },
    human,
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
    /// Why it is another state than ok, where no finding says it.
    pub(super) why: Option<String>,
}

/// What both say, and what stands in the way of asking SQLite.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) header: Verdict,
    pub(super) journal: Verdict,
    pub(super) database: Option<(Stamp, Option<SqliteHeader>)>,
    pub(super) obstacle: Option<Obstacle>,
    /// Whether somebody was writing: what was judged beside him is not true without him, although no byte has changed.
    pub(super) writing: bool,
}

/// Why SQLite is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is no file that it could open.
    NoFile,
    /// An interrupted transaction must be rolled back first.
    HotJournal,
}

impl Obstacle {
    /// What a check is that cannot be run because of it.
    pub(super) const fn state(self) -> CheckState {
        match self {
            Self::NoFile => CheckState::Unreadable,
            Self::HotJournal => CheckState::Unknown,
        }
    }

    /// Why, in words.
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::NoFile => "there is no database that could be checked",
            Self::HotJournal => "the transaction that was cut off must be rolled back first",
        }
    }
}

impl Verdict {
    fn fine() -> Self {
        Self { state: CheckState::Ok, findings: Vec::new(), problem: None, why: None }
    }

    /// Nothing can be said, because of `why`.
    fn open(state: CheckState, why: impl Into<String>) -> Self {
        Self { state, why: Some(why.into()), ..Self::fine() }
    }

    fn found(state: CheckState, finding: Finding) -> Self {
        Self { state, findings: vec![finding], ..Self::fine() }
    }

    /// Something is at work on the file all the while.
    pub(super) fn make_busy(&mut self) {
        *self = Self::open(CheckState::Busy, "it was written to during every reading");
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

/// Judges `inspection`. What it finds is to be said only when a second look, with the same stamps, says the same.
pub(super) fn judge(inspection: Inspection, background: Background) -> Judged {
    let Inspection { stamps: _, database, journal, wal, writer } = inspection;
    let (stamp, head) = match database {
        DatabaseState::File(stamp, head) => (stamp, head),
        other => return judge_absence(other, &journal, &wal, background),
    };
    let parsed = SqliteHeader::parse(head.as_bytes());
    let file = File { stamp, head: head.as_bytes(), parsed };
    let (journal, rollback) = judge_journal(&file, journal, &writer);
    let mut header = judge_header(&file, rollback, &writer);
    judge_wal(&file, wal, &mut header);
    let obstacle = (rollback != Rollback::No).then_some(Obstacle::HotJournal);
    let writing = matches!(writer, Writer::Yes);
    Judged { header, journal, database: Some((stamp, parsed.ok())), obstacle, writing }
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

/// What it means that no database is there, or none with bytes.
fn judge_absence(
    state: DatabaseState,
    journal: &JournalState,
    wal: &WalState,
    background: Background,
) -> Judged {
    use CheckState::{Busy, Corrupt, Unreadable};
    let unreadable = |code, evidence: String| {
        let subject = if code == Code::SqliteNotRegular { DATABASE_FILE } else { "" };
        Verdict::found(Unreadable, Finding::new(code, subject, evidence))
    };
    let beside = beside(journal, wal);
    let header = match state {
        DatabaseState::NoDirectory(what) => unreadable(Code::StoreMissing, format!("it is {what}")),
        DatabaseState::NotRegular(what) => {
            unreadable(Code::SqliteNotRegular, format!("it is {what}"))
        }
        DatabaseState::Gate { at_work: true } => {
            Verdict::open(Busy, "a restore is exchanging its files")
        }
        DatabaseState::Gate { at_work: false } => Verdict::found(Unreadable, cut_off::gate()),
        DatabaseState::Missing(remains)
            if remains.folders + remains.torn > 0 || beside.is_some() || background.was_there =>
        {
            let before = if background.was_there { "; a database was there before" } else { "" };
            let beside = beside.map(|what| format!("; {what}")).unwrap_or_default();
            let evidence =
                format!("there is no {DATABASE_FILE}; {}{beside}{before}", remains.describe());
            unreadable(Code::SqliteMissing, evidence)
        }
        DatabaseState::Missing(remains) => {
            let what = match (remains.ancient, remains.entries) {
                (true, _) => "it holds files of Chroma 0.3 or older".to_owned(),
                (false, 0) => "it is empty".to_owned(),
                (false, entries) => format!("it holds {entries} entries, none of them Chroma's"),
            };
            unreadable(Code::NotAStore, what)
        }
        // SQLite makes a new database as an empty file and fills it a moment later.
        DatabaseState::Empty(stamp, remains)
            if remains.folders == 0
                && background.now.since(stamp.modified).as_secs() < YOUNG_SECS =>
        {
            Verdict::open(Busy, "the file was made a moment ago and has no bytes yet")
        }
        DatabaseState::Empty(_, ref remains)
            if remains.with_vectors.is_empty()
                && !background.was_there
                && let Some(stamp) = first_transaction(journal) =>
        {
            return Judged {
                header: Verdict::open(CheckState::Unknown, Obstacle::HotJournal.why()),
                journal: cut_first_transaction(stamp),
                database: None,
                obstacle: Some(Obstacle::HotJournal),
                writing: false,
            };
        }
        DatabaseState::Empty(_, remains) => {
            let mut evidence = format!("{DATABASE_FILE} has no bytes; {}", remains.describe());
            if let JournalState::File { start: Start::Hot(header), .. } = journal
                && header.initial_pages > 0
            {
                evidence = format!(
                    "{evidence}; a journal of a database of {} pages is beside it, which the next start deletes: keep a copy of it",
                    header.initial_pages
                );
            }
            Verdict::found(Corrupt, Finding::new(Code::SqliteEmpty, DATABASE_FILE, evidence))
        }
        DatabaseState::Refused(refused) => refused_verdict(refused),
        DatabaseState::File(..) => Verdict::open(CheckState::Unknown, "it was not read"),
    };
    let journal = Verdict::open(CheckState::Unknown, Obstacle::NoFile.why());
    let obstacle = Some(Obstacle::NoFile);
    Judged { header, journal, database: None, obstacle, writing: false }
}

/// What of a database lies there although it is not, in words.
fn beside(journal: &JournalState, wal: &WalState) -> Option<String> {
    let journal = match journal {
        JournalState::File { stamp, .. } => {
            Some(format!("{DATABASE_FILE}{JOURNAL_SUFFIX} of {} bytes is there", stamp.size_bytes))
        }
        _ => None,
    };
    let wal = match wal {
        WalState::Log { stamp, .. } | WalState::Unusable(stamp) => {
            Some(format!("{DATABASE_FILE}-wal of {} bytes is there", stamp.size_bytes))
        }
        _ => None,
    };
    let both: Vec<String> = journal.into_iter().chain(wal).collect();
    (!both.is_empty()).then(|| both.join("; "))
}

/// The journal of a transaction that was to make the database; `None` for any other.
fn first_transaction(journal: &JournalState) -> Option<Stamp> {
    let JournalState::File { stamp, start, unsynced_pages, .. } = journal else { return None };
    let is_first = match start {
        Start::Empty => true,
        Start::Zeroed => *unsynced_pages == Some(0),
        Start::Hot(header) => header.initial_pages == 0,
        Start::Unusable => false,
    };
    is_first.then_some(*stamp)
}

/// Nothing was in the database yet, and the next start begins anew.
fn cut_first_transaction(journal: Stamp) -> Verdict {
    let evidence = format!(
        "the first start of Chroma was cut off in its first transaction, last written {}; nothing was stored in the \
         database yet",
        journal.modified
    );
    let subject = format!("{DATABASE_FILE}{JOURNAL_SUFFIX}");
    Verdict::found(CheckState::Unknown, Finding::new(Code::HotJournal, subject, evidence))
}

fn refused_verdict(refused: Refused) -> Verdict {
    Verdict {
        state: CheckState::Unreadable,
        problem: Some(refused.into_problem()),
        ..Verdict::fine()
    }
}

fn judge_header(file: &File<'_>, rollback: Rollback, writer: &Writer) -> Verdict {
    use CheckState::{Busy, Corrupt, Unknown};
    let corrupt = |code, evidence: String| {
        Verdict::found(Corrupt, Finding::new(code, DATABASE_FILE, evidence))
    };
    let size = file.stamp.size_bytes;
    let header = match file.parsed {
        // The journal holds page 1: what stands there now will be overwritten.
        Err(_) if rollback == (Rollback::Pending { page_one: true }) => {
            return Verdict::open(Unknown, Obstacle::HotJournal.why());
        }
        Err(HeaderError::Magic) => {
            if lfs::Pointer::parse(file.head).is_some() {
                let evidence = format!(
                    "it is a Git LFS pointer: git put {size} bytes of text in place of the database, which was never fetched"
                );
                let finding = Finding::new(Code::SqliteNotADatabase, DATABASE_FILE, evidence);
                return Verdict::found(Corrupt, finding.with_remedy(FETCH_FROM_GIT));
            }
            return corrupt(
                Code::SqliteNotADatabase,
                format!(
                    "its {} begin with {}",
                    human::bytes(size),
                    human::hex(&file.head[..file.head.len().min(8)])
                ),
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
        match writer {
            Writer::Yes => return Verdict::open(Busy, "a process is writing to it"),
            Writer::Unknown(error) => return Verdict::open(Unknown, no_locks(error)),
            Writer::No => {}
        }
        if rollback != Rollback::No {
            return Verdict::open(Unknown, Obstacle::HotJournal.why());
        }
        let evidence = format!(
            "it has {}, its header states {} pages of {} bytes, {} in all",
            human::exact_bytes(size),
            header.pages_stated,
            header.page_bytes,
            human::exact_bytes(stated)
        );
        return corrupt(Code::SqliteTruncated, evidence);
    }
    // Longer than stated is no damage: SQLite goes by the header and uses the rest when it grows.
    Verdict::fine()
}

/// Adds what the log means. SQLite plays it whatever the header says of the mode.
fn judge_wal(file: &File<'_>, wal: WalState, header: &mut Verdict) {
    let Ok(parsed) = file.parsed else { return };
    let mode = if parsed.wal {
        ""
    } else {
        "; its header says that it is not in WAL mode, and SQLite plays the log all the same"
    };
    let words = match wal {
        WalState::Refused(refused) => {
            if header.findings.is_empty() && header.problem.is_none() {
                *header = refused_verdict(refused);
            }
            return;
        }
        WalState::Log { committed, page_bytes, .. } if committed.transactions > 0 => {
            let at_least = if committed.whole { "" } else { "at least " };
            let size = if page_bytes == parsed.page_bytes {
                String::new()
            } else {
                format!(" of {page_bytes} bytes, where the database has {}", parsed.page_bytes)
            };
            format!(
                "{at_least}{} transactions with {} pages{size} are in {DATABASE_FILE}-wal: a copy of {DATABASE_FILE} alone does \
                 not have the newest of them{mode}",
                committed.transactions, committed.frames
            )
        }
        WalState::Log { committed, stamp, .. } if !committed.whole => format!(
            "{DATABASE_FILE}-wal of {} is too long to be read in full, and SQLite applies what was committed \
             in it{mode}",
            human::bytes(stamp.size_bytes)
        ),
        _ if !parsed.wal => return,
        WalState::Absent => "there is no -wal file with rows beside it".to_owned(),
        WalState::Log { stamp, .. } | WalState::Unusable(stamp) => format!(
            "{DATABASE_FILE}-wal has {}, and no committed transaction",
            human::bytes(stamp.size_bytes)
        ),
    };
    header.findings.push(Finding::new(Code::WalMode, DATABASE_FILE, words));
}

fn no_locks(error: &std::io::Error) -> String {
    format!(
        "it is not known whether a process is writing, because the filesystem gives no locks: {error}"
    )
}

fn judge_journal(file: &File<'_>, journal: JournalState, writer: &Writer) -> (Verdict, Rollback) {
    let (stamp, start, page_one) = match &journal {
        JournalState::Absent => return (Verdict::fine(), Rollback::No),
        JournalState::Refused(_) => {
            let JournalState::Refused(refused) = journal else {
                return (Verdict::fine(), Rollback::No);
            };
            return (refused_verdict(refused), Rollback::No);
        }
        JournalState::File { stamp, start, page_one, .. } => (*stamp, *start, *page_one),
    };
    let subject = format!("{DATABASE_FILE}{JOURNAL_SUFFIX}");
    let pending = Rollback::Pending { page_one: matches!(page_one, PageOne::Found(_)) };
    match (start, writer) {
        // It is nothing to SQLite, or belongs to a transaction that is under way.
        (Start::Empty | Start::Zeroed, _) | (_, Writer::Yes) => {
            return (Verdict::fine(), Rollback::No);
        }
        (Start::Hot(_) | Start::Unusable, Writer::Unknown(error)) => {
            return (Verdict::open(CheckState::Unknown, no_locks(error)), pending);
        }
        _ => {}
    }
    match start {
        Start::Hot(header) if header.initial_pages == 0 => {
            judge_first_transaction(file, stamp, subject)
        }
        Start::Hot(header) => {
            if let Some(reason) = foreign(file, &header, page_one) {
                let evidence = format!("{reason}; the journal was last written {}", stamp.modified);
                let finding = Finding::new(Code::JournalForeign, subject, evidence);
                return (Verdict::found(CheckState::Corrupt, finding), pending);
            }
            let pages = header.records.map_or("all its".to_owned(), |count| count.to_string());
            let evidence = format!(
                "no process is writing, and a journal of {} with {pages} pages to put back is there, last \
                 written {}; the database had {} pages before that transaction",
                human::bytes(stamp.size_bytes),
                stamp.modified,
                header.initial_pages
            );
            // SQLite counts pages in the header only when they are in the file: fewer mean that it was cut afterwards.
            let stated = header.records.zip(header.page_bytes).map(|(records, page_bytes)| {
                u64::from(header.sector_bytes) + u64::from(records) * (u64::from(page_bytes) + 8)
            });
            let finding = match stated.filter(|stated| *stated > stamp.size_bytes) {
                Some(stated) => {
                    let cut = format!(
                        "{evidence}; it was cut off, {} were written, so that not all can be put back",
                        human::exact_bytes(stated)
                    );
                    Finding::new(Code::HotJournal, subject, cut).with_severity(Severity::Critical)
                }
                None => Finding::new(Code::HotJournal, subject, evidence),
            };
            (Verdict::found(CheckState::Unknown, finding), pending)
        }
        Start::Unusable => {
            let evidence = format!(
                "no process is writing, and a journal of {} is there whose header is damaged: SQLite would drop \
                 it without putting anything back",
                human::bytes(stamp.size_bytes)
            );
            let finding = Finding::new(Code::HotJournal, subject, evidence);
            let verdict =
                Verdict::found(CheckState::Unknown, finding.with_severity(Severity::Critical));
            (verdict, Rollback::Pending { page_one: false })
        }
        Start::Empty | Start::Zeroed => (Verdict::fine(), Rollback::No),
    }
}

/// A journal of a database that had no page before: to play it back empties the file. That is as it should be when the file
/// is what that transaction was about to make, and the worst that a journal can do to any other.
fn judge_first_transaction(file: &File<'_>, stamp: Stamp, subject: String) -> (Verdict, Rollback) {
    let fresh = match file.parsed {
        Ok(header) => {
            header.change_counter <= 1
                && header.schema_cookie <= FIRST_SCHEMA_MAX
                && header.pages_stated <= FIRST_PAGES_MAX
        }
        // Page 1 was not written yet.
        Err(_) => {
            file.head.iter().all(|byte| *byte == 0)
                && file.stamp.size_bytes <= u64::from(FIRST_PAGES_MAX) * 4096
        }
    };
    if fresh {
        return (cut_first_transaction(stamp), Rollback::Pending { page_one: true });
    }
    let what = match file.parsed {
        Ok(header) => format!(
            "the database has change counter {} and {} pages",
            header.change_counter, header.pages_stated
        ),
        Err(_) => format!("the file has {} bytes", file.stamp.size_bytes),
    };
    let evidence = format!(
        "it is of the first transaction of a new database, and {what}: to play it back would empty the database; the \
         journal was last written {}",
        stamp.modified
    );
    let finding = Finding::new(Code::JournalForeign, subject, evidence);
    (Verdict::found(CheckState::Corrupt, finding), Rollback::Pending { page_one: false })
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

/// A file that was made less than this ago may still be on its way.
pub(super) const YOUNG_SECS: u64 = 10;

/// What the first transaction of Chroma makes at most: one table (0.4.24, 0.6.3, 1.1.1 and 1.5.9 make three pages). The
/// schema counts every table that was ever made, also after a VACUUM and in a database that was put in again from SQL.
const FIRST_SCHEMA_MAX: u32 = 1;
const FIRST_PAGES_MAX: u32 = 16;
