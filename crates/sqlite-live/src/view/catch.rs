//! Opens every journal of a database while it has its name: inotify on the directory, a descriptor per journal. What the
//! events mean is decided in `chain`.

use std::{
    ffi::{CString, OsStr},
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
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{
        Mode, OFlags,
        inotify::{CreateFlags, Event, ReadFlags, Reader, WatchFlags, add_watch, init},
    },
    io::Errno,
};

use super::chain::{Chain, Unproven};
use crate::{
    FileId, clock,
    database::{PlainFile, read_up_to},
};
use chroma_format::sqlite::{JOURNAL_SUFFIX, WAL_SUFFIX};

/// A journal that is held open.
pub(super) type Journal = Arc<File>;

/// The watch over one directory.
#[derive(Debug)]
pub(super) struct Catcher<'a> {
    directory: OwnedFd,
    /// Everything that happens, in its order.
    events: OwnedFd,
    /// Journals that come and go, and nothing else: it wakes those who watch. What a transaction writes would wake them
    /// hundreds of times for nothing.
    alarm: OwnedFd,
    /// How often it went off.
    alarms: AtomicU64,
    /// How many of these are known from `events`.
    taken: AtomicU64,
    /// The watch on the database itself; that on its directory does not tell of writes, because those to the journal are
    /// many and say nothing.
    on_database: i32,
    database_name: CString,
    journal_name: CString,
    wal_name: CString,
    database: &'a PlainFile<'a>,
    // A lock of the standard library: the thread that watches may have a higher priority than all others. With parking_lot it
    // could wait for an idle thread that holds a part of the table which all its locks share.
    chain: Mutex<Chain<Journal>>,
    /// Whether a journal had its name when events were last handled.
    under_way: AtomicBool,
    /// Who waits for the end of a transaction: the thread that made this.
    waiter: Thread,
}

impl<'a> Catcher<'a> {
    /// Watches the directory of the database at `path`, which must be no link, and is open as `database`. Errs when the
    /// kernel does not watch it.
    pub(super) fn new(path: &Path, database: &'a PlainFile<'a>) -> io::Result<Self> {
        let unusable = || io::Error::other("its path has no directory and name");
        let (dir, name) = path.parent().zip(path.file_name()).ok_or_else(unusable)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(dir, flags, Mode::empty())?;
        let kinds = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watch = || -> io::Result<OwnedFd> {
            let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            add_watch(&watch, dir, kinds)?;
            Ok(watch)
        };
        let (events, alarm) = (watch()?, watch()?);
        let on_database = add_watch(&events, path, WatchFlags::MODIFY | WatchFlags::DONT_FOLLOW)?;
        // Whatever takes its place from now on is told by the directory.
        let meta = std::fs::symlink_metadata(path)?;
        let is = database.metadata()?;
        if (meta.dev(), meta.ino()) != (is.dev(), is.ino()) {
            return Err(io::Error::other("the database was exchanged this moment"));
        }
        Ok(Self {
            directory,
            events,
            alarm,
            alarms: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            on_database,
            database_name: with_suffix(name, "")?,
            journal_name: with_suffix(name, JOURNAL_SUFFIX)?,
            wal_name: with_suffix(name, WAL_SUFFIX)?,
            database,
            chain: Mutex::new(Chain::new()),
            under_way: AtomicBool::new(false),
            waiter: std::thread::current(),
        })
    }

    /// Begins anew; to be called under a SHARED lock. `false` when a transaction was cut off and waits to be rolled back, so
    /// that the file is no state of the database; `None` when the chain would have to be waited for. Errs when a file cannot
    /// be read.
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

    /// Handles events as they come until `stop` is set. Several threads may do this at a time.
    pub(super) fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            if self.wait(IDLE).is_err() {
                return self.break_by(Unproven::EventsLost);
            }
            self.follow();
        }
    }

    /// Waits until a journal comes or goes, for so long at most. Errs when the kernel does not wait.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: time.min(Duration::from_millis(999)).subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.alarm, PollFlags::IN)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut alarm = Reader::new(&self.alarm, &mut buffer);
        for _ in 0..EVENTS_MAX {
            match alarm.next() {
                Ok(_) => drop(self.alarms.fetch_add(1, Ordering::AcqRel)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Handles what the alarm was about. Neither does this thread sleep while another handles events nor before all of them
    /// are there: where it came before the writer on the writer's own processor, that has to wait for it.
    fn follow(&self) {
        let began = clock::ticks();
        loop {
            drop(self.try_drained());
            let alarms = self.alarms.load(Ordering::Acquire);
            if self.taken.load(Ordering::Acquire) >= alarms {
                return;
            }
            if began.elapsed() >= FOLLOW_MAX {
                // The kernel may have made one of several alike.
                drop(self.drained());
                self.taken.fetch_max(alarms, Ordering::AcqRel);
                return;
            }
            std::hint::spin_loop();
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
        self.handle_all(chain);
        let under_way = chain.under_way();
        if self.under_way.swap(under_way, Ordering::AcqRel) && !under_way {
            self.waiter.unpark();
        }
    }

    /// Waits until no transaction is under way, for so long at most. For the thread that made this.
    pub(super) fn wait_for_pause(&self, time: Duration) {
        let began = clock::ticks();
        while self.under_way.load(Ordering::Acquire) {
            let left = time.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }

    fn handle_all(&self, chain: &mut Chain<Journal>) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut events = Reader::new(&self.events, &mut buffer);
        for _ in 0..EVENTS_MAX {
            match events.next() {
                Ok(event) => {
                    if event.wd() != self.on_database {
                        self.taken.fetch_add(1, Ordering::AcqRel);
                    }
                    let handled = self.handle(chain, &event);
                    if handled.is_err() {
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

    fn handle(&self, chain: &mut Chain<Journal>, event: &Event<'_>) -> io::Result<()> {
        let (kind, name) = (event.events(), event.file_name());
        let moved = ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        let is = |known: &CString| name == Some(known.as_c_str());
        if kind.contains(ReadFlags::QUEUE_OVERFLOW) {
            chain.break_by(Unproven::EventsLost);
        } else if event.wd() == self.on_database {
            if kind.contains(ReadFlags::MODIFY) {
                chain.written();
            } else {
                chain.break_by(Unproven::Replaced);
            }
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
            chain.break_by(Unproven::Replaced);
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

    /// The change counter as the file has it this moment. Errs when it cannot be read.
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

/// Longest sleep of the watch while no event comes.
pub(super) const IDLE: Duration = Duration::from_millis(20);
/// Longest time for which a thread stays awake for the rest of the events.
const FOLLOW_MAX: Duration = Duration::from_millis(2);
/// Most events that are handled in one go; the kernel itself queues 16,384 by default.
const EVENTS_MAX: u32 = 200_000;
