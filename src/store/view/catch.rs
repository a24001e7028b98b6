//! Opens every journal of a database while it has its name: inotify on the directory, a descriptor per journal. What the
//! events mean is decided in `chain`.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{
        Mode, OFlags,
        inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init},
    },
    io::Errno,
};

use super::chain::{Chain, Unproven};
use crate::{
    host::processes::FileId,
    store::database::{PlainFile, read_up_to},
};

/// A journal that is held open.
pub(super) type Journal = Arc<File>;

/// The watch over one directory.
#[derive(Debug)]
pub(super) struct Catcher<'a> {
    directory: OwnedFd,
    events: OwnedFd,
    database_name: CString,
    journal_name: CString,
    wal_name: CString,
    database: &'a PlainFile<'a>,
    chain: Mutex<Chain<Journal>>,
}

impl<'a> Catcher<'a> {
    /// Watches the directory of the database at `path`, which must be no link, and is open as `database`.
    pub(super) fn new(path: &Path, database: &'a PlainFile<'a>) -> io::Result<Self> {
        let unusable = || io::Error::other("its path has no directory and name");
        let (dir, name) = path.parent().zip(path.file_name()).ok_or_else(unusable)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(dir, flags, Mode::empty())?;
        let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let kinds = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        add_watch(&events, dir, kinds)?;
        Ok(Self {
            directory,
            events,
            database_name: with_suffix(name, "")?,
            journal_name: with_suffix(name, "-journal")?,
            wal_name: with_suffix(name, "-wal")?,
            database,
            chain: Mutex::new(Chain::new()),
        })
    }

    /// Begins anew; to be called under a SHARED lock. `false` when a transaction was cut off and waits to be rolled back, so
    /// that the file is no state of the database; `None` when the chain would have to be waited for.
    pub(super) fn begin(&self) -> io::Result<Option<bool>> {
        let Some(mut chain) = self.try_drained() else { return Ok(None) };
        chain.begin();
        if chain.current().is_some() {
            return Ok(Some(true));
        }
        let Some(opened) = self.open_journal()? else { return Ok(Some(true)) };
        // As SQLite decides it (`hasHotJournal`): a journal beside which nobody holds RESERVED is hot when it has a header.
        if self.database.writer()? {
            chain.created(Some(opened), self.counter()?);
            return Ok(Some(true));
        }
        let mut first = [0];
        let filled = read_up_to(&opened.0, &mut first, 0)? > 0 && first != [0];
        // One that nobody is writing stays unknown to the chain, and its use will break the proof. One that is gone now was
        // that of a transaction that was taken back.
        Ok(Some(!filled || opened.0.metadata()?.nlink() == 0))
    }

    /// Handles events as they come until `stop` is set.
    pub(super) fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            match self.wait(Duration::from_millis(20)) {
                Ok(()) => drop(self.drained()),
                Err(_) => return self.break_by(Unproven::EventsLost),
            }
        }
    }

    /// Waits for an event, for so long at most.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: time.min(Duration::from_millis(999)).subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Nothing can be proved any more.
    pub(super) fn break_by(&self, reason: Unproven) {
        self.lock().break_by(reason);
    }

    /// The chain, with every event taken in that has happened so far.
    pub(super) fn drained(&self) -> MutexGuard<'_, Chain<Journal>> {
        let mut chain = self.lock();
        self.drain_into(&mut chain);
        chain
    }

    /// The same, unless another thread has the chain this moment.
    pub(super) fn try_drained(&self) -> Option<MutexGuard<'_, Chain<Journal>>> {
        let mut chain = match self.chain.try_lock() {
            Ok(chain) => chain,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.drain_into(&mut chain);
        Some(chain)
    }

    /// The chain as the watch has left it. To be held for an instant only: the watch must not wait.
    pub(super) fn lock(&self) -> MutexGuard<'_, Chain<Journal>> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain_into(&self, chain: &mut Chain<Journal>) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut events = Reader::new(&self.events, &mut buffer);
        for _ in 0..EVENTS_MAX {
            match events.next() {
                Ok(event) => {
                    let (kind, name) = (event.events(), event.file_name());
                    if self.handle(chain, kind, name).is_err() {
                        chain.break_by(Unproven::Missed);
                    }
                }
                Err(Errno::WOULDBLOCK) => return,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        chain.break_by(Unproven::EventsLost);
    }

    fn handle(
        &self,
        chain: &mut Chain<Journal>,
        kind: ReadFlags,
        name: Option<&CStr>,
    ) -> io::Result<()> {
        let moved = ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        let is = |known: &CString| name == Some(known.as_c_str());
        if kind.contains(ReadFlags::QUEUE_OVERFLOW) {
            chain.break_by(Unproven::EventsLost);
        } else if kind.intersects(
            ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT,
        ) {
            chain.break_by(Unproven::Replaced);
        } else if is(&self.journal_name) {
            if kind.contains(ReadFlags::CREATE) {
                let counter = self.counter()?;
                chain.created(self.open_journal()?, counter);
            } else if kind.contains(ReadFlags::DELETE) {
                let names = chain.current().map(|journal| journal.metadata()).transpose()?;
                chain.deleted(names.map_or(1, |meta| meta.nlink()), self.counter()?);
            } else if kind.intersects(moved) {
                chain.break_by(Unproven::JournalKept);
            }
        } else if is(&self.database_name) {
            if kind.contains(ReadFlags::MODIFY) {
                chain.written();
            } else {
                chain.break_by(Unproven::Replaced);
            }
        } else if is(&self.wal_name) {
            chain.break_by(Unproven::FormChanged);
        }
        Ok(())
    }

    fn open_journal(&self) -> io::Result<Option<(Journal, FileId)>> {
        let flags =
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let name = self.journal_name.as_c_str();
        let file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        let id = FileId { device: meta.dev(), inode: meta.ino() };
        Ok(meta.is_file().then(|| (Arc::new(file), id)))
    }

    /// The change counter as the file has it this moment.
    fn counter(&self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.database.read_up_to(&mut bytes, COUNTER_AT)?;
        Ok(u32::from_be_bytes(bytes))
    }
}

fn with_suffix(name: &OsStr, suffix: &str) -> io::Result<CString> {
    Ok(CString::new([name.as_bytes(), suffix.as_bytes()].concat())?)
}

/// Where the header of a database has its change counter.
const COUNTER_AT: u64 = 24;

/// Most events that are handled in one go; the kernel itself queues 16,384 by default.
const EVENTS_MAX: u32 = 200_000;
