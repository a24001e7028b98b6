//! All b-trees of a database, the list of free pages and every overflow chain, read without SQLite: that each page has one
//! use, that rows are in order and have the values which their table demands, and, in depth, that each index has an entry for
//! every row and no other. The last is told from sums over both, where the pragma looks up each row in each index, and two
//! trees are read side by side. Like `fulltext`, it only ever says that all is well, or that SQLite must be asked.

mod shape;
mod walk;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use rusqlite::Connection;

pub(super) use self::shape::{Shape, shape};
use self::{
    shape::Tree,
    walk::{Pages, Walker},
};
use crate::progress::Progress;
use chroma_format::{
    record::Entries,
    sqlite::{HEADER_LEN, SqliteHeader},
    unrecognised::Unrecognised,
};

/// Why it cannot be said that all is well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Doubt {
    /// In the tree that begins at this page; 0 outside of trees.
    #[error("{1} (tree {0})")]
    Unrecognised(u32, Unrecognised),
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Query(#[from] rusqlite::Error),
    /// The statement was interrupted.
    #[error("given up")]
    GivenUp,
}

impl From<Unrecognised> for Doubt {
    fn from(reason: Unrecognised) -> Self {
        Self::Unrecognised(0, reason)
    }
}

/// Reads all trees of `shape` in `file`, within a transaction of `connection`, which is asked whether it was interrupted. With
/// `entries`, indexes are compared with their tables. Errs when anything is not as it should be: SQLite must be asked then.
pub(super) fn read(
    connection: &Connection,
    file: &File,
    shape: &Shape,
    entries: bool,
    progress: &Progress,
) -> Result<u32, Doubt> {
    // Takes the lock, and says how long the database is.
    let pages: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let mut head = [0; HEADER_LEN];
    file.read_exact_at(&mut head, 0)?;
    let header = SqliteHeader::parse(&head).map_err(|_| Unrecognised("a header that is none"))?;
    if header.auto_vacuum || header.incremental_vacuum || header.encoding != UTF_8 {
        return Err(Unrecognised("a form that is not known").into());
    }
    let stop = AtomicBool::new(false);
    let pages = Pages::new(file, &header, pages, &stop, progress);
    pages.free_list(&header)?;
    let trees = shape.trees();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut walker = Walker::new(&pages, entries);
        let mut sums = Vec::new();
        while let Some(tree) = trees.get(next.fetch_add(1, Ordering::Relaxed)) {
            match walker.tree(*tree) {
                Ok(sum) => sums.push((tree.root(), sum)),
                Err(doubt) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(doubt);
                }
            }
        }
        Ok(sums)
    };
    let both = thread::scope(|scope| {
        let spawn = |()| thread::Builder::new().name("trees".to_owned()).spawn_scoped(scope, work);
        let both = [(); 2].map(spawn);
        // A connection may be asked on its own thread only.
        while both.iter().flatten().any(|thread| !thread.is_finished()) {
            if connection.is_interrupted() {
                stop.store(true, Ordering::Relaxed);
            }
            thread::sleep(POLL_INTERVAL);
        }
        both.map(|thread| thread.map(thread::ScopedJoinHandle::join))
    });
    if connection.is_interrupted() {
        return Err(Doubt::GivenUp);
    }
    let (mut sums, mut doubts) = (Vec::new(), Vec::new());
    for one in both {
        match one?.map_err(|_| io::Error::other("a thread panicked"))? {
            Ok(more) => sums.extend(more),
            Err(doubt) => doubts.push(doubt),
        }
    }
    // One of two made the other give up.
    doubts.sort_by_key(|doubt| matches!(doubt, Doubt::GivenUp));
    if let Some(doubt) = doubts.into_iter().next() {
        return Err(doubt);
    }
    pages.all_met()?;
    if entries {
        agree(&trees, &sums)?;
    }
    Ok(pages.count())
}

/// Compares what the tables say of their indexes with what the indexes say. Errs when they differ.
fn agree(trees: &[Tree<'_>], sums: &[(u32, Vec<Entries>)]) -> Result<(), Doubt> {
    let of = |root: u32| sums.iter().find(|(of, _)| *of == root).map_or(&[][..], |(_, sums)| sums);
    for tree in trees {
        let Tree::Table(table) = tree else { continue };
        for (index, sum) in table.indexes.iter().zip(of(table.root)) {
            if of(index.root) != [*sum] {
                return Err(Doubt::Unrecognised(
                    index.root,
                    Unrecognised("other entries than its table has rows"),
                ));
            }
        }
    }
    Ok(())
}

/// UTF-8 in the header of a database.
const UTF_8: u32 = 1;
/// How soon an interrupt is seen.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
