//! Whether every transaction since a moment is known by its journal: pure, over events in the order of the kernel.
//!
//! The kernel queues "created" and "deleted" under the lock of the directory, so their order is the truth and none is
//! lost without a word. But a journal is opened by name some time after its creation was told, and by then the name may
//! belong to a later one. What is opened for the n-th creation is the n-th journal or a later one, and never an earlier
//! one than was opened before. So when each creation has given a file, and each another file than the creation before,
//! and no creation is outstanding, then by counting back from the last, each is its own. The journal before is kept open
//! while it is compared, because the number of a file is free for use again once nobody holds it.

use crate::FileId;

use super::touched::Touched;

/// Why a copy is not proven to be one state of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// A journal was gone before it could be opened.
    #[error("a journal was gone before it could be opened")]
    Missed,
    /// More finished journals than may wait.
    #[error("transactions came faster than their journals could be read")]
    TooFast,
    /// The kernel dropped events.
    #[error("file events were lost")]
    EventsLost,
    /// The database was written without a journal of its own.
    #[error("the database was written without a new journal")]
    Unjournalled,
    /// A journal that was there before was used, or one stayed after a commit.
    #[error("a journal is kept between transactions")]
    JournalKept,
    /// The change counter does not fit the journals.
    #[error("the change counter does not fit the journals that were seen")]
    Counter,
    /// A journal cannot be understood.
    #[error("a journal is not what a commit leaves behind")]
    Unclear,
    /// The file at the path was exchanged, or the directory moved.
    #[error("the file was exchanged")]
    Replaced,
    /// Its page size, form or mode changed.
    #[error("the form of the database changed")]
    FormChanged,
    /// No moment was found at which the rest could be copied within the lock budget.
    #[error("the database was never calm enough")]
    NeverCalm,
}

impl Unproven {
    /// Whether the writer was too fast: then it helps to keep it waiting for moments.
    pub(super) const fn is_haste(self) -> bool {
        match self {
            Self::Missed | Self::TooFast | Self::EventsLost | Self::Counter | Self::NeverCalm => {
                true
            }
            Self::Unjournalled
            | Self::JournalKept
            | Self::Unclear
            | Self::Replaced
            | Self::FormChanged => false,
        }
    }
}

/// A journal whose transaction has ended.
#[derive(Debug)]
pub(super) struct Finished<J> {
    pub(super) journal: J,
    counter_at_create: u32,
    counter_at_delete: u32,
    /// Whether the database was written during its life.
    pub(super) written: bool,
}

#[derive(Debug)]
struct Current<J> {
    journal: J,
    id: FileId,
    counter: u32,
    written: bool,
}

/// The journals since [`Chain::begin`].
#[derive(Debug)]
pub(super) struct Chain<J> {
    current: Option<Current<J>>,
    /// The one before, held so that its number stays taken.
    last: Option<(J, FileId)>,
    finished: Vec<Finished<J>>,
    /// Those before the last: to be closed where nobody waits, because closing frees what the file took on the disk.
    retired: Vec<J>,
    broken: Option<Unproven>,
}

impl<J: Clone> Chain<J> {
    pub(super) fn new() -> Self {
        Self { current: None, last: None, finished: Vec::new(), retired: Vec::new(), broken: None }
    }

    /// Forgets everything but a journal that has its name now. To be called while no transaction is writing.
    pub(super) fn begin(&mut self) {
        self.last = None;
        self.finished.clear();
        self.broken = None;
        if let Some(current) = &mut self.current {
            current.written = false;
        }
    }

    /// A journal was created; `opened` is what was found at its name, `counter` the change counter just before.
    pub(super) fn created(&mut self, opened: Option<(J, FileId)>, counter: u32) {
        let Some((journal, id)) = opened else { return self.break_by(Unproven::Missed) };
        if self.current.is_some() {
            return self.break_by(Unproven::JournalKept);
        }
        if self.last.as_ref().is_some_and(|(_, last)| *last == id) {
            return self.break_by(Unproven::Missed);
        }
        self.current = Some(Current { journal, id, counter, written: false });
    }

    /// The journal that has its name now, as far as is known.
    pub(super) fn current(&self) -> Option<&J> {
        self.current.as_ref().map(|current| &current.journal)
    }

    /// Whether a journal has its name now.
    pub(super) fn under_way(&self) -> bool {
        self.current.is_some()
    }

    /// Whether so many finished journals wait to be read that it would be well to slow the writer down.
    pub(super) fn is_behind(&self) -> bool {
        self.finished.len().max(self.retired.len()) > FINISHED_MAX / 4
    }

    /// A journal was deleted; `names` is how many the current one has left, `counter` the change counter now.
    pub(super) fn deleted(&mut self, names: u64, counter: u32) {
        let Some(current) = self.current.take() else {
            return self.break_by(Unproven::JournalKept);
        };
        if names != 0 {
            // It is the next one: this one was missed.
            return self.break_by(Unproven::Missed);
        }
        let before = self.last.replace((current.journal.clone(), current.id));
        self.retired.extend(before.map(|(journal, _)| journal));
        if self.finished.len() >= FINISHED_MAX || self.retired.len() > FINISHED_MAX {
            return self.break_by(Unproven::TooFast);
        }
        self.finished.push(Finished {
            journal: current.journal,
            counter_at_create: current.counter,
            counter_at_delete: counter,
            written: current.written,
        });
    }

    /// The database was written.
    pub(super) fn written(&mut self) {
        match &mut self.current {
            Some(current) => current.written = true,
            None => self.break_by(Unproven::Unjournalled),
        }
    }

    /// Nothing can be proved any more; the first reason stays.
    pub(super) fn break_by(&mut self, reason: Unproven) {
        self.broken.get_or_insert(reason);
        self.finished.clear();
    }

    /// Takes the journals whose transactions have ended. Errs when the copy can no longer be proven.
    pub(super) fn take_finished(&mut self) -> Result<Vec<Finished<J>>, Unproven> {
        self.whole()?;
        Ok(std::mem::take(&mut self.finished))
    }

    /// Takes the journals that need not be held any more.
    pub(super) fn take_retired(&mut self) -> Vec<J> {
        std::mem::take(&mut self.retired)
    }

    /// Whether nothing has gone wrong so far. Errs with what has.
    pub(super) fn whole(&self) -> Result<(), Unproven> {
        self.broken.map_or(Ok(()), Err)
    }

    /// The same under a SHARED lock, when a journal that wrote the database cannot have its name any more. Errs alike.
    pub(super) fn whole_at_rest(&self) -> Result<(), Unproven> {
        self.whole()?;
        match &self.current {
            Some(current) if current.written => Err(Unproven::JournalKept),
            _ => Ok(()),
        }
    }
}

/// Compares the journals with the change counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ledger {
    /// What the counter must be after the transactions so far.
    pub(super) counter: u32,
    /// Transactions so far, committed and rolled back.
    pub(super) transactions: u32,
}

impl Ledger {
    pub(super) fn new(counter: u32) -> Self {
        Self { counter, transactions: 0 }
    }

    /// Takes one transaction in. Each commit must come from the very state that the one before it left: two commits that
    /// share one file because another process keeps its journals, or one that left none, cannot pass for each other. Errs
    /// when it does not.
    pub(super) fn add<J>(
        &mut self,
        finished: &Finished<J>,
        touched: &Touched,
    ) -> Result<(), Unproven> {
        self.transactions = self.transactions.saturating_add(1);
        let Some(before) = touched.counter_before else { return Ok(()) };
        // The counter grows with the last pages that a transaction writes, so both numbers may be seen at the beginning.
        let at_create = finished.counter_at_create.wrapping_sub(before);
        if before != self.counter || at_create > 1 {
            return Err(Unproven::Counter);
        }
        let rolled_back = !touched.finished || finished.counter_at_delete == before;
        if !rolled_back {
            self.counter = before.wrapping_add(1);
        }
        Ok(())
    }
}

/// Most finished journals that wait to be read, each an open file.
const FINISHED_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(inode: u64) -> FileId {
        FileId { device: 1, inode }
    }

    /// Plays a story: `c7` a creation at which file 7 was opened, `c-` one at which none was, `d` a deletion of a file
    /// without other names, `d!` one that still has its name, `w` a write to the database, `b` the begin.
    fn play(story: &str) -> Result<usize, Unproven> {
        let mut chain = Chain::new();
        for word in story.split(' ') {
            match word.split_at(1) {
                ("c", "-") => chain.created(None, 0),
                ("c", file) => {
                    let file: u64 = file.parse().unwrap();
                    chain.created(Some((file, id(file))), 0);
                }
                ("d", "!") => chain.deleted(1, 0),
                ("d", _) => chain.deleted(0, 0),
                ("w", _) => chain.written(),
                ("b", _) => chain.begin(),
                _ => unreachable!("{word}"),
            }
        }
        chain.whole_at_rest()?;
        Ok(chain.take_finished().unwrap().len())
    }

    #[test]
    fn every_journal_is_its_own_or_nothing_is_proved() {
        for (story, want) in [
            ("b c1 w d c2 w d", Ok(2)),
            ("b c1 w d c1 w d", Err(Unproven::Missed)), // the first creation found the second journal
            ("b c2 w d! c2 w d", Err(Unproven::Missed)),
            ("b c- w d", Err(Unproven::Missed)),
            ("b c1 w d c2 d c1 w d", Ok(3)), // numbers of files are used again
            ("b w", Err(Unproven::Unjournalled)),
            ("b c1 w d w", Err(Unproven::Unjournalled)),
            ("b d", Err(Unproven::JournalKept)),
            ("b c1 c2", Err(Unproven::JournalKept)),
            ("b c1 w", Err(Unproven::JournalKept)), // committed by truncation
            ("b c1", Ok(0)),                        // a writer that has only begun
            ("w c1 w b d", Ok(1)),                  // before the begin anything may happen
        ] {
            assert_eq!(play(story), want, "{story}");
        }
        let many = format!("b{}", " c1 w d c2 w d".repeat(FINISHED_MAX / 2 + 1));
        assert_eq!(play(&many), Err(Unproven::TooFast));
    }

    #[test]
    fn the_counter_must_grow_by_one_from_state_to_state() {
        let finished = |counter_at_create, counter_at_delete| Finished {
            journal: (),
            counter_at_create,
            counter_at_delete,
            written: true,
        };
        let touched = |counter_before, finished| Touched {
            pages: Vec::new(),
            initial_pages: 9,
            counter_before,
            records: std::collections::BTreeMap::new(),
            leaves: std::collections::BTreeSet::new(),
            finished,
        };
        // At creation, at deletion, in the journal, all segments synced: the counter that is expected afterwards.
        for (create, delete, before, synced, want) in [
            (7, 8, Some(7), true, Ok(8)),
            (8, 8, Some(7), true, Ok(8)), // seen late
            (7, 9, Some(7), true, Ok(8)), // and the next one is under way
            (7, 7, Some(7), true, Ok(7)), // rolled back
            (7, 8, Some(7), false, Ok(7)),
            (7, 7, None, true, Ok(7)),
            (8, 9, Some(8), true, Err(Unproven::Counter)), // one was missed
            (6, 8, Some(7), true, Err(Unproven::Counter)), // used by two transactions
            (7, 8, Some(6), true, Err(Unproven::Counter)),
        ] {
            let mut ledger = Ledger::new(7);
            let said = ledger.add(&finished(create, delete), &touched(before, synced));
            assert_eq!(
                said.map(|()| ledger.counter),
                want,
                "{create} {delete} {before:?} {synced}"
            );
        }
        let mut ledger = Ledger::new(u32::MAX);
        ledger.add(&finished(u32::MAX, 0), &touched(Some(u32::MAX), true)).unwrap();
        assert_eq!(ledger, Ledger { counter: 0, transactions: 1 });
    }
}
