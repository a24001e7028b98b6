//! A copy of a database that nobody is writing, where SQLite may not be asked in the file itself: beside a `-wal` it would
//! make files in the directory, and without locks it could read in the middle of a transaction. The committed frames of the
//! log are put into the copy, as SQLite would play them.
//!
//! That nothing was written meanwhile is told from `stat` alone: the same files with the same times before and after, all of
//! them older than a filesystem's clock is coarse, and no journal. Whoever sees nobody hold the file and finds that, has the
//! state that a reader would see.

use std::{fs, io, os::unix::fs::FileExt, path::Path, time::Duration};

use super::{Cost, DAMAGED, Options, View, ViewError, growth, header_of, wait};
use crate::{
    clock,
    database::{Abort, Database, QueryError, Stamp, beside, open_bytes, read_up_to},
    holes::Holes,
    progress::Phase,
};
use chroma_format::{
    sqlite::{JOURNAL_SUFFIX, WAL_SUFFIX},
    wal::{self, WalHeader},
};

/// Copies the database with its log. Errs when it has a journal with bytes that are not zero, when it was written to a
/// moment ago, or while it was copied.
pub fn take_still(database: &Database, options: &Options<'_>) -> Result<View, ViewError> {
    let path = database.real_path();
    let before = stamps(&path)?;
    let now = clock::now();
    if before.iter().flatten().any(|stamp| now.since(stamp.modified) < QUIET) {
        return Err(ViewError::Unsuited("it was written to a moment ago"));
    }
    if has_journal(&path)? {
        return Err(QueryError::HotJournal.into());
    }
    let plain = database.open_plain()?;
    let size = Stamp::of(&plain.metadata()?).size_bytes;
    let header = header_of(&plain)?.ok_or(DAMAGED)?;
    let log = Log::open(&path, options)?;
    let page_bytes = u64::from(header.page_bytes);
    let pages = match &log {
        Some(log) if log.page_bytes == header.page_bytes => log.pages,
        Some(_) => return Err(ViewError::Unsuited("its log has pages of another size")),
        None => header.pages().unwrap_or(u32::try_from(size / page_bytes).unwrap_or(u32::MAX)),
    };
    let bytes = u64::from(pages) * page_bytes;
    let scratch =
        options.places.make(&path, bytes.max(size) + bytes / 8 + growth(options, bytes))?;
    options.progress.begin(Phase::Copying, size);
    let (began, mut buffer, mut at) = (clock::ticks(), vec![0; CHUNK_BYTES], 0);
    let mut holes = Holes::of(&plain);
    let mut moved = 0;
    loop {
        // The copy has a hole in the same place.
        let data = holes.data_from(at);
        options.progress.add(data.saturating_sub(at));
        at = data;
        let read = read_up_to(&plain, &mut buffer, at)?;
        if read == 0 {
            break;
        }
        scratch.file.write_all_at(&buffer[..read], at)?;
        at += read as u64;
        options.progress.add(read as u64);
        moved += read as u64;
        if !options.progress.checkpoint(options.stop) {
            return Err(QueryError::Aborted(Abort::UsedUp).into());
        }
        let due = Duration::from_secs_f64(moved as f64 / options.rate_bytes_max.max(1) as f64);
        wait(due.saturating_sub(began.elapsed()), options.stop)?;
    }
    if let Some(log) = &log {
        let mut page = vec![0; header.page_bytes as usize];
        for (number, content_at) in &log.frames {
            log.file.read_exact_at(&mut page, *content_at)?;
            scratch.file.write_all_at(&page, u64::from(number - 1) * page_bytes)?;
            wait(Duration::ZERO, options.stop)?;
        }
    }
    scratch.file.set_len(bytes)?;
    // The copy has no log: to be read as one without.
    scratch.file.write_all_at(&[1, 1], 18)?;
    if stamps(&path)? != before || Stamp::of(&plain.metadata()?).id != id_of(&before) {
        return Err(ViewError::Unsuited("it was written to while it was copied"));
    }
    let header = header_of(&scratch.file)?.ok_or(DAMAGED)?;
    scratch.ready(pages, header.schema_cookie).map_err(QueryError::from)?;
    let cost = Cost { tries: 1, bytes_read: moved, ..Cost::default() };
    Ok(View { scratch, header, pages, cost })
}

/// What of the log belongs to transactions that were brought to their end.
struct Log {
    file: fs::File,
    page_bytes: u32,
    pages: u32,
    /// Pages and where they stand, in the order in which they were written.
    frames: Vec<(u32, u64)>,
}

impl Log {
    /// `None` when there is none, or nothing in it that SQLite would play. Errs when it cannot be read, is too long, or it was stopped.
    fn open(database: &Path, options: &Options<'_>) -> Result<Option<Self>, ViewError> {
        let file = match open_bytes(&beside(database, WAL_SUFFIX)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut head = [0; wal::HEADER_LEN];
        let read = read_up_to(&file, &mut head, 0)?;
        let Some(header) = WalHeader::parse(&head[..read]) else { return Ok(None) };
        let mut frames = Vec::new();
        let read = |at: u64, buffer: &mut [u8]| {
            if options.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Ok(false);
            }
            read_up_to(&file, buffer, at).map(|read| read == buffer.len())
        };
        let committed = wal::walk(&header, FRAMES_MAX, read, |more| {
            frames.extend(more.iter().map(|frame| (frame.page, frame.content_at)));
            Ok(())
        })?;
        wait(Duration::ZERO, options.stop)?;
        if !committed.whole {
            return Err(ViewError::Unsuited("its log is too long"));
        }
        let page_bytes = header.page_bytes;
        let pages = committed.pages;
        Ok((committed.transactions > 0).then_some(Self { file, page_bytes, pages, frames }))
    }
}

/// What `stat` says of the database, its journal and its log. Errs when one cannot be looked at; an absent one has none.
fn stamps(database: &Path) -> io::Result<[Option<Stamp>; 3]> {
    let of = |path: &Path| match fs::metadata(path) {
        Ok(meta) => Ok(Some(Stamp::of(&meta))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    Ok([of(database)?, of(&beside(database, JOURNAL_SUFFIX))?, of(&beside(database, WAL_SUFFIX))?])
}

fn id_of(stamps: &[Option<Stamp>; 3]) -> crate::FileId {
    stamps[0].map_or(crate::FileId { device: 0, inode: 0 }, |stamp| stamp.id)
}

/// Whether SQLite would look into a journal before it reads: one with a first byte that is not zero.
/// Errs when it cannot be read; an absent one is none.
fn has_journal(database: &Path) -> io::Result<bool> {
    let file = match open_bytes(&beside(database, JOURNAL_SUFFIX)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut first = [0];
    Ok(read_up_to(&file, &mut first, 0)? == 1 && first != [0])
}

/// What was written longer ago shows in the times of any filesystem when it is written again.
const QUIET: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 1 << 20;
/// Most frames of a log that are put into a copy: 8 GiB of pages.
const FRAMES_MAX: u32 = 2 << 20;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use rusqlite::Connection;

    use super::*;
    use crate::{progress::Progress, view::Places};

    fn take(database: &Path, room: &Path) -> Result<View, ViewError> {
        let places = Places {
            configured: Some(room.to_owned()),
            fallback: Vec::new(),
            watched_ratio_max: 1.0,
            other_ratio_max: 1.0,
            name: None,
        };
        let options = Options {
            places: &places,
            rate_bytes_max: u64::MAX,
            lock_hold_max: Duration::from_millis(10),
            time_max: Duration::from_mins(1),
            stop: &AtomicBool::new(false),
            progress: &Progress::default(),
        };
        take_still(&Database::new(database.to_owned()), &options)
    }

    fn age(dir: &Path) {
        let long_ago = std::time::UNIX_EPOCH + Duration::from_hours(400_000);
        for entry in fs::read_dir(dir).unwrap() {
            let file = fs::File::open(entry.unwrap().path()).unwrap();
            file.set_modified(long_ago).unwrap();
        }
    }

    #[test]
    fn what_stands_in_the_log_alone_is_in_the_copy_and_nothing_is_made_beside_it() {
        for bytes_of_mode in [[2, 2], [1, 1]] {
            let scratch = tempfile::tempdir().unwrap();
            let (store, saved) = (scratch.path().join("store"), scratch.path().join("saved"));
            let room = scratch.path().join("room");
            for dir in [&store, &saved, &room] {
                fs::create_dir(dir).unwrap();
            }
            let path = store.join("chroma.sqlite3");
            let writer = Connection::open(&path).unwrap();
            writer
                .execute_batch(
                    "CREATE TABLE t(x); PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; \
                     INSERT INTO t VALUES('in the log'), (zeroblob(20000))",
                )
                .unwrap();
            for name in ["chroma.sqlite3", "chroma.sqlite3-wal"] {
                fs::copy(store.join(name), saved.join(name)).unwrap();
            }
            drop(writer);
            let path = saved.join("chroma.sqlite3");
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&bytes_of_mode, 18).unwrap();
            let young = take(&path, &room).map(|_| ()).unwrap_err();
            assert!(young.to_string().contains("a moment ago"), "{young}");
            age(&saved);
            let mut view = take(&path, &room).unwrap();
            let stop = AtomicBool::new(false);
            let rows = |connection: &Connection| {
                connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            };
            let count: i64 = view.within(Duration::from_mins(1), &stop, rows).result.unwrap();
            assert_eq!(count, 2, "{bytes_of_mode:?}");
            assert_eq!(fs::read_dir(&saved).unwrap().count(), 2, "a file was made beside it");
            fs::write(saved.join("chroma.sqlite3-journal"), b"hot").unwrap();
            age(&saved);
            let hot = take(&path, &room).map(|_| ()).unwrap_err();
            assert!(matches!(hot, ViewError::Query(QueryError::HotJournal)), "{hot}");
        }
    }
}
