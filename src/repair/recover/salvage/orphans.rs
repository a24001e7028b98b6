//! Leaves of tables that no page leads to any more. One is taken for the table whose lost rows it has by their numbers, and whose
//! columns it has. A page that the list of free pages names is never looked at: what stands there was deleted. When that list cannot be
//! trusted, an index has to name the rows.

use chroma_format::btree::{Kind, Page};

use super::{
    Failure, Found, Read, Salvage, missing,
    model::Table,
    trees::{self, Hole},
    writer::Writer,
};

/// Finds the leaves for all tables that lack rows. Errs when the file cannot be read, SQLite does, or the steps were stopped.
pub(super) fn take(salvage: &mut Salvage<'_>, all: &mut [Found<'_>]) -> Result<(), Failure> {
    if all.iter().all(|found| found.holes.is_empty()) {
        return Ok(());
    }
    // Those that may be of several tables come last: what is known by then tells whose they are, or one of the tables has its rows.
    let mut later = Vec::new();
    let mut room = Vec::new();
    for number in 2..=salvage.pages.count {
        if salvage.used.contains(number)
            || salvage.chained.contains(number)
            || salvage.free.contains(number)
        {
            continue;
        }
        salvage.go_on()?;
        if !page(salvage, all, (number, &mut room), When::First)? {
            later.push(number);
        }
    }
    for when in [When::Later, When::Last] {
        let mut left = Vec::new();
        for number in later {
            if !page(salvage, all, (number, &mut room), when)? {
                left.push(number);
            }
        }
        later = left;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    First,
    Later,
    Last,
}

/// Takes the rows of a page, which is read into `room`, if it is a leaf that a table lacks. Says no when several do and nothing tells which, but at last.
/// Errs when SQLite or the disk does.
fn page(
    salvage: &mut Salvage<'_>,
    all: &mut [Found<'_>],
    (number, room): (u32, &mut Vec<u8>),
    when: When,
) -> Result<bool, Failure> {
    let mut extents = Vec::new();
    salvage.pages.read(number, room)?;
    let geometry = salvage.pages.geometry;
    let Ok(page) = Page::parse(room, number, geometry, &mut extents) else { return Ok(true) };
    let Some(range) = trees::range(&page).filter(|_| page.kind == Kind::TableLeaf) else {
        return Ok(true);
    };
    let fitting = |found: &&mut Found<'_>| {
        let hole = found.holes.iter().any(|hole| hole.has(range.first) && hole.has(range.last));
        hole && !found.table.without_rowid && fits(&page, found, &mut salvage.read)
    };
    let mut fitting: Vec<&mut Found<'_>> = all.iter_mut().filter(fitting).collect();
    if fitting.len() > 1 && salvage.free_is_known {
        if when == When::First {
            return Ok(false);
        }
        let tables: Vec<&Table> = fitting.iter().map(|found| found.table).collect();
        if let Some(nth) = missing::whose(salvage, &page, &tables)? {
            fitting = vec![fitting.swap_remove(nth)];
        } else if when == When::Later {
            return Ok(false);
        }
    }
    let sure = salvage.free_is_known && fitting.len() == 1;
    for found in &mut fitting {
        leaf(salvage, &page, found, sure)?;
        if sure {
            found.holes = without(&found.holes, range);
        }
    }
    if sure {
        salvage.used.insert(number);
    }
    Ok(true)
}

/// Whether all rows of a page are as those of a table.
fn fits(page: &Page<'_>, found: &Found<'_>, read: &mut Read) -> bool {
    (0..page.cells).all(|nth| {
        page.cell(nth).is_ok_and(|cell| {
            read.fields.read(cell.local, cell.payload_bytes) == Ok(true)
                && found.table.fits(&read.fields, cell.local)
                && (found.table.name != "embeddings_queue_config" || says(cell.local, QUEUE_CONFIG))
        })
    })
}

fn says(local: &[u8], word: &[u8]) -> bool {
    local.windows(word.len()).any(|part| part == word)
}

fn leaf(
    salvage: &mut Salvage<'_>,
    page: &Page<'_>,
    found: &mut Found<'_>,
    sure: bool,
) -> Result<(), Failure> {
    let mut writer = Writer::new(salvage.connection, found.table);
    // A page that is not sure claims nothing.
    let mut own = (!sure).then(|| salvage.chained.clone());
    for nth in 0..page.cells {
        let Ok(cell) = page.cell(nth) else { continue };
        let Salvage { pages, chained, read, .. } = &mut *salvage;
        let Read { fields, record, page } = read;
        let chained = own.as_mut().unwrap_or(chained);
        let readable = pages.payload(&cell, chained, record, page)?
            && fields.read(record, record.len()) == Ok(true)
            && found.table.may_have(fields, record);
        match (readable, sure) {
            (true, true) if writer.row(cell.rowid, fields, record)? => found.rows += 1,
            (_, true) => found.refused.push(cell.rowid),
            (true, false) => {
                writer.doubtful(cell.rowid, fields, record)?;
                found.doubtful += 1;
            }
            (false, false) => {}
        }
    }
    found.refused.sort_unstable();
    Ok(())
}

/// What is left of holes when these rows are found.
fn without(holes: &[Hole], found: Hole) -> Vec<Hole> {
    let mut left = Vec::with_capacity(holes.len() + 1);
    for hole in holes {
        if found.last < hole.first || hole.last < found.first {
            left.push(*hole);
            continue;
        }
        if hole.first < found.first {
            left.push(Hole { first: hole.first, last: found.first - 1 });
        }
        if found.last < hole.last {
            left.push(Hole { first: found.last + 1, last: hole.last });
        }
    }
    left
}

/// What Chroma writes into the settings of the queue; a document could be in their place otherwise.
const QUEUE_CONFIG: &[u8] = b"EmbeddingsQueueConfigurationInternal";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_of_a_hole_is_no_hole() {
        let hole = |first, last| Hole { first, last };
        for (holes, found, want) in [
            (vec![Hole::ALL], hole(3, 5), vec![hole(i64::MIN, 2), hole(6, i64::MAX)]),
            (vec![hole(3, 5)], hole(3, 5), vec![]),
            (vec![hole(1, 9), hole(20, 30)], hole(5, 9), vec![hole(1, 4), hole(20, 30)]),
            (vec![hole(1, 9)], hole(10, 12), vec![hole(1, 9)]),
            (vec![Hole::ALL], Hole::ALL, vec![]),
        ] {
            assert_eq!(without(&holes, found), want);
        }
    }
}
