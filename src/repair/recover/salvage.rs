//! A database that SQLite cannot read to its end, written anew from its pages: every tree is read as far as it holds, leaves of lost
//! trees are found by what their rows look like, and rows that a damaged table lost are taken from its indexes and from the full text.
//! SQLite never opens the damaged file. What is not certain to be a live row is taken only when an index names it: a deleted record
//! must not come back. What is lost is counted and named.

pub(super) mod complete;
mod indexed;
mod lost;
mod missing;
mod model;
mod orphans;
mod trees;
mod writer;

use std::{fs, io, path::Path};

use chroma_format::{btree::Page, record::Fields};
use rusqlite::Connection;

use self::{
    model::{Entry, Table},
    trees::{Hole, Met},
    writer::Writer,
};
use super::{
    Effect, Failure, fulltext,
    pages::{Bits, Pages},
};
use crate::{human, repair::steps::Steps, store::database::beside};

/// Puts a new database in place of the one at `database`, with all that its pages still have. Errs without a change when nothing is
/// left of its schema, or when the disk does.
pub(super) fn salvage(database: &Path, steps: &Steps) -> Result<Effect, Failure> {
    let new = beside(database, ".new");
    for left in [new.clone(), beside(&new, "-journal")] {
        absent(fs::remove_file(left))?;
    }
    let Some(pages) = Pages::open(database)? else {
        return Err(Failure::Damaged(
            "No page of a database is in the file. Restore a backup.".to_owned(),
        ));
    };
    let mut connection = Connection::open(&new)?;
    let stopped = steps.clone();
    connection.progress_handler(STEPS, Some(move || stopped.stopped()))?;
    let effect = Salvage::new(&pages, &connection, steps)?.run(database)?;
    connection.close().map_err(|(_, error)| error)?;
    fs::rename(&new, database)?;
    // What was left of the journal of the old file belongs to no database any more.
    absent(fs::remove_file(beside(database, "-journal")))?;
    Ok(effect)
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The work, and what is known of the old pages.
struct Salvage<'a> {
    pages: &'a Pages,
    connection: &'a Connection,
    steps: &'a Steps,
    /// Pages of a tree.
    used: Bits,
    /// Pages of a chain of overflow pages.
    chained: Bits,
    free: Bits,
    /// Whether these are all free pages.
    free_is_known: bool,
    read: Read,
}

/// Room to read rows in.
#[derive(Default)]
struct Read {
    fields: Fields,
    record: Vec<u8>,
    page: Vec<u8>,
}

/// What was found of one table.
struct Found<'a> {
    table: &'a Table,
    /// Where rows may be missing.
    holes: Vec<Hole>,
    /// Rows that are taken only when an index names them.
    doubtful: u64,
    /// Rows that are in the new database.
    rows: u64,
    /// Rows that stood in a sound page and could not be kept: their numbers.
    refused: Vec<i64>,
    /// Whether every index of it could be read to its end; tables without one say no.
    indexes_hold: bool,
}

impl Found<'_> {
    fn is_whole(&self) -> bool {
        self.holes.is_empty() && self.doubtful == 0 && self.refused.is_empty()
    }

    fn lacks(&self, row: i64) -> bool {
        let after = self.holes.partition_point(|hole| hole.first <= row);
        let in_hole = after.checked_sub(1).and_then(|at| self.holes.get(at));
        in_hole.is_some_and(|hole| hole.has(row)) || self.refused.binary_search(&row).is_ok()
    }
}

impl Found<'_> {
    /// Takes doubtful rows of tables that have no index. A row of the queue that was purged does no harm: every segment has applied it,
    /// and none applies it again while the positions are right. Of a setting there is one. Errs when SQLite does.
    fn take_what_needs_no_name(
        &mut self,
        connection: &Connection,
        positions_hold: bool,
    ) -> Result<(), Failure> {
        let harmless = match &*self.table.name {
            "embeddings_queue" => positions_hold,
            _ => self.rows == 0 && self.doubtful == 1,
        };
        if self.table.indexes.is_empty() && self.doubtful > 0 && harmless {
            self.rows += Writer::new(connection, self.table).take_all_doubtful()?;
        }
        Ok(())
    }
}

impl<'a> Salvage<'a> {
    fn new(
        pages: &'a Pages,
        connection: &'a Connection,
        steps: &'a Steps,
    ) -> Result<Self, Failure> {
        let (free, free_is_known) = pages.free()?;
        let none = Bits::new(pages.count);
        let (used, chained) = (none.clone(), none);
        let read = Read::default();
        Ok(Self { pages, connection, steps, used, chained, free, free_is_known, read })
    }

    fn run(mut self, database: &Path) -> Result<Effect, Failure> {
        let page_bytes = self.pages.geometry.page_bytes as u64;
        let bytes = u64::from(self.pages.count).saturating_mul(page_bytes);
        self.steps.begin("reading the database page by page", Some(bytes));
        let (mut entries, holes) = model::entries(&mut self)?;
        if holes {
            missing::add(&self, &mut entries)?;
        }
        model::judge(&entries, holes)?;
        let tables = model::tables(&entries)?;
        self.connection.execute_batch(&format!(
            "PRAGMA trusted_schema=OFF; PRAGMA foreign_keys=OFF; PRAGMA mmap_size=0; PRAGMA cache_size=-32768; \
             PRAGMA page_size={page_bytes}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN",
        ))?;
        let mut all = Vec::new();
        for table in tables.iter().filter(|table| !fulltext::is_part(&table.name)) {
            model::create(self.connection, &table.entry, "CREATE TABLE ")?;
            all.push(self.table(table, &tables)?);
        }
        let searched =
            fulltext::table(entries.iter().map(|entry| (&*entry.name, entry.sql.as_deref())));
        let mut text_holds = searched.is_some();
        if let Some(sql) = searched {
            model::create_full_text(self.connection, sql)?;
            for table in tables.iter().filter(|table| fulltext::is_part(&table.name)) {
                text_holds &= self.part_of_full_text(table, &tables)?;
            }
        }
        orphans::take(&mut self, &mut all)?;
        let positions = |found: &Found<'_>| found.table.name == "max_seq_id" && !found.is_whole();
        let positions_hold = !all.iter().any(positions);
        for found in all.iter_mut().filter(|found| !found.is_whole()) {
            self.ask_indexes(found)?;
            found.take_what_needs_no_name(self.connection, positions_hold)?;
        }
        let mut effect = Effect::default();
        let store = database.parent().unwrap_or(database);
        let with_text = searched.is_some();
        let put = complete::complete(self.connection, store, &all, with_text, &mut effect.gone)?;
        let mut document_lost = lost::tell(self.connection, &mut effect, &all)?;
        document_lost |= lost::strays(self.connection, &mut effect, &all)?;
        indexed::put_back(self.connection, store, &mut effect, &all)?;
        lost::keep_the_last_number(self.connection, &all)?;
        let rows = human::count(all.iter().map(|found| found.rows).sum::<u64>() as f64);
        let put = match human::count(put as f64) {
            put if put == "0" => String::new(),
            put => format!(", {put} rows were put together from indexes and the full text"),
        };
        effect.what = format!(
            "{rows} rows of {} tables were read page by page and written into a new database{put}",
            all.len()
        );
        self.full_text(&mut effect, searched, text_holds && !document_lost)?;
        for kind in ["index", "view", "trigger"] {
            let of = |entry: &&Entry| entry.kind == kind && entry.sql.is_some();
            for entry in entries.iter().filter(of) {
                model::create(self.connection, entry, "CREATE ")?;
            }
        }
        let header = self.pages.header.as_ref();
        let user_version = header.map_or(0, |header| header.user_version.cast_signed());
        let application = header.map_or(0, |header| header.application_id.cast_signed());
        self.connection.execute_batch(&format!(
            "PRAGMA user_version={user_version}; PRAGMA application_id={application}; COMMIT"
        ))?;
        Ok(effect)
    }

    /// Errs when nobody waits for the work any more.
    fn go_on(&self) -> Result<(), Failure> {
        if self.steps.stopped() {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        Ok(())
    }

    /// Copies the rows of a table as far as its tree holds. Errs when SQLite or the disk does, or the work was stopped.
    fn table<'t>(&mut self, table: &'t Table, tables: &[Table]) -> Result<Found<'t>, Failure> {
        let (mut rows, mut doubtful) = (0, 0);
        let (mut holes, mut refused) = (Vec::new(), Vec::new());
        let mut writer = Writer::new(self.connection, table);
        let Self { pages, used, chained, read, steps, .. } = self;
        let mut visit = |met: Met<'_>| -> Result<(), Failure> {
            let (cell, sure) = match met {
                Met::Hole(hole) => {
                    holes.push(hole);
                    return Ok(());
                }
                Met::Row { cell, sure } => (cell, sure),
            };
            if steps.stopped() {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            steps.add(cell.payload_bytes as u64);
            let Read { fields, record, page } = read;
            let readable = pages.payload(&cell, chained, record, page)?
                && fields.read(record, record.len()) == Ok(true)
                && table.may_have(fields, record)
                && (sure || table.fits(fields, record));
            let kept = match (readable, sure) {
                (true, true) => writer.row(cell.rowid, fields, record)?,
                (true, false) => {
                    writer.doubtful(cell.rowid, fields, record)?;
                    doubtful += 1;
                    return Ok(());
                }
                (false, _) => false,
            };
            if kept {
                rows += 1;
            } else {
                refused.push(cell.rowid);
            }
            Ok(())
        };
        if table.without_rowid {
            let mut nth = 0;
            let whole = trees::index(pages, table.root, used, |mut cell| {
                nth += 1;
                cell.rowid = nth;
                visit(Met::Row { cell, sure: true })
            })?;
            if !whole {
                visit(Met::Hole(Hole::ALL))?;
            }
        } else {
            let mut fields = Fields::default();
            let foreign = |page: &Page<'_>| model::is_foreign(page, table, tables, &mut fields);
            trees::table(pages, table.root, used, foreign, visit)?;
        }
        drop(writer);
        refused.sort_unstable();
        Ok(Found { table, holes, doubtful, rows, refused, indexes_hold: false })
    }

    /// Copies a table of the full text. Says whether all of it is there. Errs when SQLite or the disk does.
    fn part_of_full_text(&mut self, table: &Table, tables: &[Table]) -> Result<bool, Failure> {
        self.connection.execute(&format!("DELETE FROM main.\"{}\"", table.name), [])?;
        Ok(self.table(table, tables)?.is_whole())
    }

    /// Reads every index of a table of which rows are missing, keeps what they say of these rows, and takes the doubtful ones that
    /// they name. Errs when SQLite or the disk does, or the work was stopped.
    fn ask_indexes(&mut self, found: &mut Found<'_>) -> Result<(), Failure> {
        let table = found.table;
        found.indexes_hold = !table.indexes.is_empty();
        let mut writer = Writer::new(self.connection, table);
        for index in &table.indexes {
            self.go_on()?;
            let Self { pages, used, chained, read, steps, .. } = self;
            let Read { fields, record, page } = read;
            let mut entries_hold = true;
            let whole = trees::index(pages, index.root, used, |cell| -> Result<(), Failure> {
                steps.add(cell.payload_bytes as u64);
                let whole = pages.payload(&cell, chained, record, page)?
                    && fields.read(record, record.len()) == Ok(true);
                let row = whole.then(|| model::row_of(fields, record, index)).flatten();
                match row {
                    Some(row) if found.lacks(row) => writer.named(row, index, fields, record)?,
                    Some(_) => {}
                    None => entries_hold = false,
                }
                Ok(())
            })?;
            found.indexes_hold &= whole && entries_hold;
        }
        found.rows += writer.take_doubtful()?;
        Ok(())
    }

    /// Keeps the full text when all of it is there, and no document is lost; makes it anew from the documents otherwise. Errs when SQLite does.
    fn full_text(
        &self,
        effect: &mut Effect,
        sql: Option<&str>,
        holds: bool,
    ) -> Result<(), Failure> {
        let Some(sql) = sql else { return Ok(()) };
        if holds {
            effect.what.push_str(", with the full text as it was");
            return Ok(());
        }
        self.connection.execute_batch("DROP TABLE main.embedding_fulltext_search")?;
        effect.what.push_str(&fulltext::make(self.connection, Some(sql), true)?);
        Ok(())
    }
}

/// How often SQLite asks whether it should go on, in its own steps.
const STEPS: i32 = 10_000;

#[cfg(test)]
mod tests;
