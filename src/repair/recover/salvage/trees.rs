//! Trees of a damaged database: rows of a table with the places where rows are missing, and entries of an index. A page is taken for
//! what a page above it says only when it is that: of the right kind, with rows between those before and after it, and not used
//! twice. What is lost of a tree costs nothing else of it.

use std::io;

use chroma_format::btree::{Cell, Kind, Page};

use super::super::pages::{Bits, Pages};

/// Rows of a table that a damaged page had, or may have had: those with numbers from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub first: i64,
    pub last: i64,
}

impl Hole {
    /// All rows.
    pub(super) const ALL: Self = Self { first: i64::MIN, last: i64::MAX };

    pub(super) const fn has(&self, row: i64) -> bool {
        self.first <= row && row <= self.last
    }
}

/// What is met in a tree of a table, in the order of its rows.
pub(super) enum Met<'a> {
    /// A row. It is `sure` when its page is as SQLite writes it; otherwise the page is damaged, and the row may be what was left of
    /// a deleted one.
    Row { cell: Cell<'a>, sure: bool },
    /// A page cannot be read.
    Hole(Hole),
}

/// Reads the tree of a table that begins at page `begin`. Its pages are put into `used`; one that is there already is of another
/// tree, and so is a leaf that `is_foreign`. Errs when the file cannot be read, or when `visit` does.
pub(super) fn table<E: From<io::Error>>(
    pages: &Pages,
    begin: u32,
    used: &mut Bits,
    mut is_foreign: impl FnMut(&Page<'_>) -> bool,
    mut visit: impl FnMut(Met<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut room, mut extents) = (Vec::new(), Vec::new());
    let mut stack = vec![(begin, Hole::ALL, 0)];
    while let Some((number, range, depth)) = stack.pop() {
        if range.first > range.last {
            continue;
        }
        if depth > DEPTH_MAX || number == 0 || number > pages.count || !used.insert(number) {
            visit(Met::Hole(range))?;
            continue;
        }
        pages.read(number, &mut room)?;
        match Page::parse(&room, number, pages.geometry, &mut extents) {
            Ok(page) if page.kind == Kind::TableInterior => {
                if let Some(children) = children(&page, range) {
                    let below = children.into_iter().rev();
                    stack.extend(below.map(|(page, of)| (page, of, depth + 1)));
                } else {
                    used.remove(number);
                    visit(Met::Hole(range))?;
                }
            }
            Ok(page)
                if page.kind == Kind::TableLeaf && in_order(&page, range) && !is_foreign(&page) =>
            {
                for nth in 0..page.cells {
                    if let Ok(cell) = page.cell(nth) {
                        visit(Met::Row { cell, sure: true })?;
                    }
                }
            }
            // Of another tree, or of another place in this one.
            Ok(_) => {
                used.remove(number);
                visit(Met::Hole(range))?;
            }
            Err(_) => {
                let mut next = range.first;
                for cell in Page::remains(&room, number, pages.geometry, &mut extents) {
                    if next <= cell.rowid && cell.rowid <= range.last {
                        next = cell.rowid.saturating_add(1);
                        visit(Met::Row { cell, sure: false })?;
                    }
                }
                visit(Met::Hole(range))?;
            }
        }
    }
    Ok(())
}

/// The children of a page, with the rows that each may have; `None` when they are not in order.
fn children(page: &Page<'_>, range: Hole) -> Option<Vec<(u32, Hole)>> {
    let mut children = Vec::with_capacity(page.cells + 1);
    let mut first = range.first;
    for nth in 0..page.cells {
        let cell = page.cell(nth).ok()?;
        if cell.rowid < first || cell.rowid > range.last {
            return None;
        }
        children.push((cell.child, Hole { first, last: cell.rowid }));
        first = cell.rowid.checked_add(1)?;
    }
    children.push((page.right, Hole { first, last: range.last }));
    Some(children)
}

/// Whether the rows of a leaf are those that its place in the tree may have.
fn in_order(page: &Page<'_>, range: Hole) -> bool {
    let mut first = Some(range.first);
    (0..page.cells).all(|nth| match (page.cell(nth), first) {
        (Ok(cell), Some(least)) if least <= cell.rowid && cell.rowid <= range.last => {
            first = cell.rowid.checked_add(1);
            true
        }
        _ => false,
    })
}

/// The rows of a leaf: the first and the last one. `None` when it has none, or when they are not in order.
pub(super) fn range(page: &Page<'_>) -> Option<Hole> {
    let last = page.cells.checked_sub(1)?;
    let (first, last) = (page.cell(0).ok()?.rowid, page.cell(last).ok()?.rowid);
    let range = Hole { first, last };
    in_order(page, range).then_some(range)
}

/// Reads the tree of an index that begins at page `begin`, in no order. Says whether every page of it could be read. Errs when the
/// file cannot be read, or when `visit` does.
pub(super) fn index<E: From<io::Error>>(
    pages: &Pages,
    begin: u32,
    used: &mut Bits,
    mut visit: impl FnMut(Cell<'_>) -> Result<(), E>,
) -> Result<bool, E> {
    let (mut room, mut extents) = (Vec::new(), Vec::new());
    let (mut stack, mut whole) = (vec![begin], true);
    while let Some(number) = stack.pop() {
        if number == 0 || number > pages.count || !used.insert(number) {
            whole = false;
            continue;
        }
        pages.read(number, &mut room)?;
        let page = match Page::parse(&room, number, pages.geometry, &mut extents) {
            Ok(page) if matches!(page.kind, Kind::IndexInterior | Kind::IndexLeaf) => page,
            _ => {
                used.remove(number);
                whole = false;
                continue;
            }
        };
        if page.kind == Kind::IndexInterior {
            stack.push(page.right);
        }
        for nth in 0..page.cells {
            match page.cell(nth) {
                Ok(cell) => {
                    if page.kind == Kind::IndexInterior {
                        stack.push(cell.child);
                    }
                    visit(cell)?;
                }
                Err(_) => whole = false,
            }
        }
    }
    Ok(whole)
}

/// As SQLite's `BTCURSOR_MAX_DEPTH`.
const DEPTH_MAX: usize = 20;
