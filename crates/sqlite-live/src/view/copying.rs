//! One try of a copy under way: sweep over all pages, copy again what the journals name, and take back what came after.

use std::{collections::BTreeSet, fs::File, io, os::unix::fs::FileExt, time::Duration};

use super::{
    DAMAGED, Options, ViewError, WAIT_PIECE,
    catch::{Catcher, Journal},
    chain::{Finished, Ledger, Unproven},
    header_of, locked,
    plan::Plan,
    touched::{self, Touched},
    transfer::Transfer,
    wait,
};
use crate::{
    clock,
    database::SharedLock,
    priority::{Prompt, SpareDisk},
    progress::Phase,
};
use chroma_format::{journal, sqlite::SqliteHeader};

/// One try under way.
pub(super) struct Copying<'a> {
    plain: &'a File,
    catcher: &'a Catcher<'a>,
    options: &'a Options<'a>,
    form: SqliteHeader,
    plan: Plan,
    ledger: Ledger,
    transfer: Transfer<'a>,
}

/// The journals of the transactions that have ended, and the header of the database.
type Ended = (Vec<Finished<Journal>>, Option<SqliteHeader>);

impl<'a> Copying<'a> {
    /// From a database that had the header `first` and `pages` pages when `catcher` began.
    pub(super) fn new(
        plain: &'a File,
        to: &'a File,
        catcher: &'a Catcher<'a>,
        first: SqliteHeader,
        pages: u32,
        options: &'a Options<'a>,
    ) -> Self {
        Self {
            plain,
            catcher,
            options,
            form: first,
            plan: Plan::new(pages),
            ledger: Ledger::new(first.change_counter),
            transfer: Transfer::new(plain, to, first.page_bytes),
        }
    }

    /// Bytes read of the database so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.transfer.bytes
    }

    /// Transactions that have ended since it began.
    pub(super) fn transactions(&self) -> u32 {
        self.ledger.transactions
    }

    /// Copies every page once, and takes in the journals that come. Reads while nobody writes, as far as that gives half the
    /// rate: what a commit feels of a copy is that both use one memory. Errs when a page cannot be read or written, or the
    /// copy can no longer be proven.
    pub(super) fn sweep(&mut self) -> Result<(), ViewError> {
        let page_bytes = u64::from(self.form.page_bytes);
        let progress = self.options.progress;
        let _spare = SpareDisk::new();
        progress.begin(Phase::Copying, u64::from(self.form.pages().unwrap_or(0)) * page_bytes);
        while let Some(run) = self.plan.sweep(self.transfer.pages_max()) {
            self.transfer.pages(run)?;
            progress.add(u64::from(run.count) * page_bytes);
            self.pause()?;
            let patience = self.transfer.pace(self.options.rate_bytes_max / 2);
            self.catcher.wait_for_pause(patience.min(WAIT_PIECE));
        }
        Ok(())
    }

    /// Waits as the rate of reading demands, and takes in the journals that come meanwhile.
    /// Errs when a journal cannot be read, or it was stopped.
    fn pause(&mut self) -> Result<(), ViewError> {
        loop {
            self.take_in()?;
            let left = self.transfer.pace(self.options.rate_bytes_max);
            if left.is_zero() {
                return wait(left, self.options.stop);
            }
            wait(left.min(WAIT_PIECE), self.options.stop)?;
        }
    }

    /// Brings the copy to the state that the last transaction left which is known by then. The lock is held for the moment
    /// only in which it is noted which transactions have ended; what those since then have changed is in their journals as
    /// it was before. Errs alike.
    pub(super) fn finish(
        &mut self,
        lock: &mut SharedLock<'_>,
    ) -> Result<(SqliteHeader, u32), ViewError> {
        let (began, options) = (clock::ticks(), self.options);
        while began.elapsed() < FINISH_MAX {
            self.catch_up()?;
            let counter = self.ledger.counter;
            let (finished, now) = locked(lock, options, |_| self.at_rest())?;
            let now = now.ok_or(DAMAGED)?;
            if let Some(end) = self.settle(counter, &finished, &now)? {
                return Ok(end);
            }
            wait(Duration::ZERO, options.stop)?;
        }
        Err(Unproven::NeverCalm.into())
    }

    /// Copies again what the transactions so far have changed. Takes in no other after it has begun with the last pages,
    /// so that at the end every page is right but for those that later transactions have touched.
    /// Errs when it cannot be copied, or it was stopped.
    fn catch_up(&mut self) -> Result<(), ViewError> {
        for round in 0..=CATCH_UPS_MAX {
            self.take_in()?;
            let runs = self.plan.take(self.pages_now()?);
            let pages: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
            let last = pages <= FEW_PAGES || round == CATCH_UPS_MAX;
            for run in runs {
                self.transfer.pages(run)?;
                if !last {
                    self.pause()?;
                }
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    /// What has ended by now, and the header; to be asked under the lock. `None` when the chain would have to be waited for.
    /// Errs when a journal or the header cannot be read.
    fn at_rest(&self) -> Result<Option<Ended>, ViewError> {
        let Some(mut chain) = self.catcher.try_drained() else { return Ok(None) };
        chain.whole_at_rest()?;
        let finished = chain.take_finished()?;
        drop(chain);
        Ok(Some((finished, header_of(self.plain)?)))
    }

    /// Makes the copy the state with the change counter `counter`, after which only the transactions of `finished` ended.
    /// `None` when what they have overwritten is not all in their journals; then they are to be copied, too.
    /// Errs when the form of the database changed, or it cannot be read or written.
    fn settle(
        &mut self,
        counter: u32,
        finished: &[Finished<Journal>],
        now: &SqliteHeader,
    ) -> Result<Option<(SqliteHeader, u32)>, ViewError> {
        let mut later = Vec::with_capacity(finished.len());
        let mut records = 0;
        for finished in finished {
            if let Some(touched) = self.add(finished)? {
                records += touched.records.len();
                // Too many for our memory: they are copied instead.
                if records <= UNDONE_MAX {
                    later.push((&finished.journal, touched));
                }
            }
        }
        let pages_now = now.pages().ok_or(Unproven::FormChanged)?;
        if form_of(now) != form_of(&self.form) {
            return Err(Unproven::FormChanged.into());
        }
        if now.change_counter != self.ledger.counter {
            return Err(Unproven::Counter.into());
        }
        let undoable = touched::undoable(later.iter().map(|(_, touched)| touched), pages_now);
        let Some(pages) = undoable.filter(|_| records <= UNDONE_MAX) else { return Ok(None) };
        let mut undone = BTreeSet::new();
        for (journal, touched) in &later {
            for (page, at) in touched.records.range(..=pages) {
                if undone.insert(*page) {
                    self.transfer.old(journal, *at, *page)?;
                }
            }
        }
        let header = header_of(self.transfer.to)?.ok_or(DAMAGED)?;
        if header.change_counter != counter
            || header.pages() != Some(pages)
            || form_of(&header) != form_of(&self.form)
        {
            return Err(Unproven::Counter.into());
        }
        Ok(Some((header, pages)))
    }

    fn take_in(&mut self) -> Result<(), ViewError> {
        let (finished, retired) = {
            // Put aside here, it would keep the watch waiting.
            let _prompt = Prompt::new();
            // Handling events is left to the watch: a thread of lower priority that is put aside here would stop it.
            let mut chain = self.catcher.lock();
            (chain.take_finished()?, chain.take_retired())
        };
        // Closed here and not while the chain is locked, because the watch would wait.
        drop(retired);
        finished.iter().try_for_each(|finished| self.add(finished).map(drop))
    }

    /// Takes a transaction in that has ended, and tells what it has touched, if it has written at all.
    /// Errs when its journal cannot be read.
    fn add(&mut self, finished: &Finished<Journal>) -> Result<Option<Touched>, ViewError> {
        let touched = read_journal(finished, self.form.page_bytes)?;
        if let Some(touched) = &touched {
            self.ledger.add(finished, touched)?;
            self.plan.touched(touched);
        }
        Ok(touched)
    }

    fn pages_now(&self) -> io::Result<u32> {
        let pages = self.plain.metadata()?.len() / u64::from(self.form.page_bytes);
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }
}

/// What must stay the same while a copy is made.
fn form_of(header: &SqliteHeader) -> (u32, bool, u8, bool) {
    (header.page_bytes, header.wal, header.reserved_bytes, header.auto_vacuum)
}

/// What a transaction has touched; `None` when it ended before anything was written to the database. Errs when it cannot be read.
fn read_journal(
    finished: &Finished<Journal>,
    page_bytes: u32,
) -> Result<Option<Touched>, ViewError> {
    let file: &File = &finished.journal;
    let len = file.metadata()?.len();
    let read = |at: u64, buffer: &mut [u8]| match file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    if !finished.written {
        let mut head = [0; journal::HEADER_LEN];
        let there = read(0, &mut head)?;
        // The header is filled at the sync that must come before the first write to the database.
        if !there || matches!(journal::Start::parse(&head), journal::Start::Zeroed) {
            return Ok(None);
        }
    }
    match touched::read(len, page_bytes, RECORDS_MAX, read) {
        Ok(touched) => Ok(Some(touched)),
        Err(error) => {
            tracing::debug!(%error, "A journal does not tell what its transaction changed.");
            Err(Unproven::Unclear.into())
        }
    }
}

/// For how long the end is tried.
const FINISH_MAX: Duration = Duration::from_secs(20);
/// How often changed pages are copied again before the end is tried all the same, and how many are few.
const CATCH_UPS_MAX: u32 = 16;
const FEW_PAGES: u64 = 256;
/// Most records of one journal: 2 GiB of pages, 16 MiB of memory.
const RECORDS_MAX: usize = 500_000;
/// Most records that are put back in the end.
const UNDONE_MAX: usize = 100_000;
