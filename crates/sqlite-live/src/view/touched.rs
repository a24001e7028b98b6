//! What one transaction may have changed, read from its finished rollback journal. Pure: bytes come through a closure.
//!
//! The records name the pages that were overwritten, with their old content. Two kinds of pages are written without a
//! record: those beyond the size before the transaction, and leaves of the freelist that are taken into use, whose old
//! content nobody needs (`PAGER_GET_NOCONTENT` in SQLite's `allocateBtreePage`). The numbers of the leaves stand in the
//! old content of their trunk page, which is recorded, as is page 1, where the list begins. This holds without
//! auto-vacuum only, because with it leaves are also taken from the middle of the list.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use chroma_format::{
    journal::{HEADER_LEN, JournalHeader, Record},
    sqlite::SqliteHeader,
};

/// What a transaction may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Touched {
    /// Pages that existed before, each once, ascending.
    pub(super) pages: Vec<u32>,
    /// Size of the database in pages before the transaction: everything beyond may be new.
    pub(super) initial_pages: u32,
    /// The change counter before the transaction, where page 1 is recorded: it is for every transaction that was committed.
    pub(super) counter_before: Option<u32>,
    /// Where in the journal the old content of each recorded page stands.
    pub(super) records: BTreeMap<u32, u64>,
    /// Those of `pages` that were leaves of the freelist before, as far as it is recorded.
    pub(super) leaves: BTreeSet<u32>,
    /// Whether every segment was synced. A transaction that left one unfinished was rolled back, and the pages of that
    /// segment were never written.
    pub(super) finished: bool,
}

/// Why a journal does not tell what its transaction changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unclear {
    /// It cannot be read.
    #[error("a journal cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not what a commit that deletes its journal leaves behind.
    #[error("a journal {0}")]
    Form(&'static str),
}

/// Reads the journal of `len` bytes over a database with pages of `page_bytes`. `read` fills the buffer from an offset
/// and answers `false` when the file ends before. Takes 16 bytes of memory per record, of which `records_max` are
/// accepted. Errs when `read` does, and for a journal that does not say which pages it holds.
pub(super) fn read(
    len: u64,
    page_bytes: u32,
    records_max: usize,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<bool>,
) -> Result<Touched, Unclear> {
    let mut head = [0; HEADER_LEN];
    if !read(0, &mut head)? {
        return Err(Unclear::Form("is shorter than its header"));
    }
    let first = JournalHeader::parse(&head).ok_or(Unclear::Form("has no header"))?;
    if first.page_bytes != Some(page_bytes) {
        return Err(Unclear::Form("has another page size"));
    }
    let (records, finished) = records(&first, len, page_bytes, records_max, &mut read)?;
    let mut content = vec![0; page_bytes as usize];
    let mut old = |page: u32| -> Result<Option<Vec<u8>>, Unclear> {
        let Some(at) = records.get(&page) else { return Ok(None) };
        if !read(*at, &mut content)? {
            return Err(Unclear::Form("became shorter"));
        }
        Ok(Some(content.clone()))
    };
    let Some(page_one) = old(1)? else {
        // Whoever takes or frees pages or commits has written page 1 before.
        return Ok(Touched {
            pages: records.keys().copied().collect(),
            initial_pages: first.initial_pages,
            counter_before: None,
            records,
            leaves: BTreeSet::new(),
            finished,
        });
    };
    let header = SqliteHeader::parse(&page_one)
        .map_err(|_| Unclear::Form("has a page 1 that begins no database"))?;
    if header.auto_vacuum {
        return Err(Unclear::Form("is of a database with auto_vacuum"));
    }
    if header.page_bytes != page_bytes || header.wal {
        return Err(Unclear::Form("is of a database of another form"));
    }
    let mut leaves = BTreeSet::new();
    let mut trunk = header.freelist_trunk;
    // Each step visits a recorded page; a ring ends at the bound.
    for _ in 0..=records.len() {
        let Some(content) = (trunk != 0).then(|| old(trunk)).transpose()?.flatten() else { break };
        let (next, named) = trunk_page(&content);
        leaves.extend(named.filter(|leaf| (1..=first.initial_pages).contains(leaf)));
        if records.len() + leaves.len() > records_max {
            return Err(Unclear::Form("names too many pages"));
        }
        trunk = next;
    }
    let mut pages: Vec<u32> = records.keys().chain(&leaves).copied().collect();
    pages.sort_unstable();
    pages.dedup();
    Ok(Touched {
        pages,
        initial_pages: first.initial_pages,
        counter_before: Some(header.change_counter),
        records,
        leaves,
        finished,
    })
}

/// The size of the database before the first of these transactions, when the state of that moment can be had from the state
/// after them, of `pages_after` pages, by putting back the first record of each page. It cannot when one of them
/// has cut the file, or has overwritten a page without a record that was in use in that state: a transaction frees a page
/// without touching it, and the next one takes it from the freelist.
pub(super) fn undoable<'a>(
    transactions: impl Iterator<Item = &'a Touched>,
    pages_after: u32,
) -> Option<u32> {
    let mut pages = None;
    let mut size = 0;
    // Free in that state, or recorded since.
    let mut known: BTreeSet<u32> = BTreeSet::new();
    for touched in transactions {
        let first = *pages.get_or_insert(touched.initial_pages);
        if touched.initial_pages < size {
            return None;
        }
        if size == 0 {
            // Its freelist is that of the state itself.
            known.extend(&touched.leaves);
        }
        size = touched.initial_pages;
        if touched.leaves.iter().any(|leaf| *leaf <= first && !known.contains(leaf)) {
            return None;
        }
        known.extend(touched.records.keys());
    }
    let pages = pages.unwrap_or(pages_after);
    (size <= pages_after).then_some(pages)
}

/// Where the old content of each recorded page stands, and whether all segments were synced. Strict: every record is there
/// with its checksum, and nothing follows the last one but headers of empty segments, or a segment whose header is still
/// zero. What two transactions have used one after the other does not pass, or is told by its page 1. Errs when one is not.
fn records(
    first: &JournalHeader,
    len: u64,
    page_bytes: u32,
    records_max: usize,
    read: &mut impl FnMut(u64, &mut [u8]) -> io::Result<bool>,
) -> Result<(BTreeMap<u32, u64>, bool), Unclear> {
    let (sector, page_len) = (u64::from(first.sector_bytes), u64::from(page_bytes));
    let record_len = page_len + 8;
    let mut found = BTreeMap::new();
    let mut whole = vec![0; usize::try_from(record_len).unwrap_or(usize::MAX)];
    let (mut header, mut at) = (*first, sector);
    let mut segments: usize = 0;
    loop {
        segments += 1;
        let left = len.saturating_sub(at);
        let count = header.records.map_or(left / record_len, u64::from);
        if count > left / record_len {
            return Err(Unclear::Form("is shorter than it says"));
        }
        for _ in 0..count {
            if found.len() >= records_max {
                return Err(Unclear::Form("has too many records"));
            }
            if !read(at, &mut whole)? {
                return Err(Unclear::Form("became shorter"));
            }
            let (number, rest) = whole.split_at(4);
            let (content, sum) = rest.split_at(rest.len() - 4);
            let page = u32_at(number, 0);
            let record = Record { page, content_at: at + 4, nonce: header.nonce };
            if page == 0 || !record.holds(content, [sum[0], sum[1], sum[2], sum[3]]) {
                return Err(Unclear::Form("has a record whose checksum does not hold"));
            }
            // The first record of a page has its content before the transaction; a page is recorded once.
            found.entry(page).or_insert(record.content_at);
            at += record_len;
        }
        if at == len {
            return Ok((found, true));
        }
        let next = at.next_multiple_of(sector);
        let mut head = [0; HEADER_LEN];
        if segments > records_max || next.saturating_add(sector) > len || !read(next, &mut head)? {
            return Err(Unclear::Form("ends in the middle of a segment"));
        }
        // Magic and count are written at the sync (`writeJournalHdr`).
        if head[..12] == [0; 12] {
            return Ok((found, false));
        }
        header = JournalHeader::parse(&head)
            .filter(|next| next.initial_pages == first.initial_pages)
            .ok_or(Unclear::Form("has something after its last record"))?;
        at = next + sector;
    }
}

/// The next trunk page and the leaves of this one, as many as fit.
fn trunk_page(content: &[u8]) -> (u32, impl Iterator<Item = u32>) {
    let count = u32_at(content, 4) as usize;
    let leaves = content.as_chunks::<4>().0.iter().skip(2).take(count);
    (u32_at(content, 0), leaves.map(|leaf| u32::from_be_bytes(*leaf)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt, path::Path};

    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn read_bytes(bytes: &[u8], page_bytes: u32) -> Result<Touched, Unclear> {
        super::read(bytes.len() as u64, page_bytes, 10_000, |at, buffer| {
            let at = usize::try_from(at).unwrap();
            let Some(source) = bytes.get(at..at.saturating_add(buffer.len())) else {
                return Ok(false);
            };
            buffer.copy_from_slice(source);
            Ok(true)
        })
    }

    /// Opens the journal inside a transaction of real SQLite and gives its bytes after the commit.
    fn journal_of(dir: &Path, setup: &str, transaction: &str) -> Vec<u8> {
        let path = dir.join("t.sqlite3");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(setup).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection.execute_batch(transaction).unwrap();
        let journal = File::open(dir.join("t.sqlite3-journal")).unwrap();
        connection.execute_batch("COMMIT").unwrap();
        let mut bytes = vec![0; usize::try_from(journal.metadata().unwrap().len()).unwrap()];
        journal.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    const TABLE: &str = "CREATE TABLE t(x); INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) \
         SELECT randomblob(1000) FROM n;";

    /// Every page that differs between two states of a database is named, or lies beyond the size before.
    fn assert_names_all(dir: &Path, transaction: &str, setup: &str) -> (Touched, usize) {
        let path = dir.join("t.sqlite3");
        drop(journal_of(dir, setup, "UPDATE t SET x=1 WHERE rowid=1"));
        let before = std::fs::read(&path).unwrap();
        let touched = read_bytes(&journal_of(dir, "", transaction), 4096).unwrap();
        let after = std::fs::read(&path).unwrap();
        assert_eq!(touched.initial_pages as usize, before.len() / 4096);
        let changed = before.chunks(4096).zip(after.chunks(4096)).enumerate();
        let mut count = 0;
        for (index, _) in changed.filter(|(_, (before, after))| before != after) {
            let page = u32::try_from(index + 1).unwrap();
            assert!(touched.pages.contains(&page), "page {page} in {transaction}");
            count += 1;
        }
        (touched, count)
    }

    #[test]
    fn every_changed_page_is_named_also_when_taken_from_the_freelist() {
        let fill = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) SELECT randomblob(2500) FROM n";
        let dir = tempfile::tempdir().unwrap();
        let setup = format!("{TABLE} DELETE FROM t WHERE rowid>20;");
        let (touched, changes) = assert_names_all(dir.path(), fill, &setup);
        assert!(changes > 90, "{changes} pages were taken from the freelist");
        assert_eq!(touched.counter_before, Some(4), "create, insert, delete, update came before");
    }

    #[test]
    fn a_transaction_that_spills_has_many_segments_and_all_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let setup = format!("{TABLE} PRAGMA cache_size=10; PRAGMA cache_spill=1;");
        let path = dir.path().join("t.sqlite3");
        let bytes = {
            let connection = Connection::open(&path).unwrap();
            connection.execute_batch(&setup).unwrap();
            connection.execute_batch("BEGIN; UPDATE t SET x=randomblob(1000)").unwrap();
            let journal = File::open(dir.path().join("t.sqlite3-journal")).unwrap();
            connection.execute_batch("COMMIT").unwrap();
            let mut bytes = vec![0; usize::try_from(journal.metadata().unwrap().len()).unwrap()];
            journal.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let touched = read_bytes(&bytes, 4096).unwrap();
        assert!(touched.pages.len() > 120, "{}", touched.pages.len());
        for cut in [1, 512, 4104, bytes.len() / 2, bytes.len() - 28] {
            assert!(read_bytes(&bytes[..bytes.len() - cut], 4096).is_err(), "{cut} bytes less");
        }
        assert!(matches!(read_bytes(&bytes, 8192), Err(Unclear::Form(_))));
        let mut flipped = bytes.clone();
        flipped[512 + 4 + 4096 - 200] ^= 1;
        assert!(read_bytes(&flipped, 4096).is_err(), "a checksum that does not hold");
        let mut unsynced = bytes;
        unsynced[..12].fill(0);
        assert!(read_bytes(&unsynced, 4096).is_err());
    }

    #[test]
    fn a_state_is_had_from_later_ones_only_when_all_that_was_overwritten_is_recorded() {
        let touched = |initial_pages, records: &[u32], leaves: &[u32]| Touched {
            pages: Vec::new(),
            initial_pages,
            counter_before: None,
            records: records.iter().map(|page| (*page, 0)).collect(),
            leaves: leaves.iter().copied().collect(),
            finished: true,
        };
        for (transactions, after, want) in [
            (vec![], 9, Some(9)),
            (vec![touched(9, &[1, 3], &[4, 5])], 12, Some(9)),
            (vec![touched(9, &[1], &[])], 8, None), // cut
            (vec![touched(9, &[1], &[]), touched(8, &[1], &[])], 9, None),
            // The second takes pages that were free before the first, that the first recorded, or that are new.
            (vec![touched(9, &[1, 3], &[4]), touched(11, &[1], &[3, 4, 10])], 11, Some(9)),
            // Or one that the first has freed.
            (vec![touched(9, &[1, 3], &[4]), touched(9, &[1], &[4, 5])], 9, None),
            (vec![touched(9, &[], &[]), touched(9, &[1], &[4])], 9, None),
        ] {
            assert_eq!(undoable(transactions.iter(), after), want, "{transactions:?}");
        }
    }

    #[test]
    fn old_content_puts_a_state_back() {
        let fill = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) SELECT randomblob(2500) FROM n; \
                    UPDATE t SET x=2 WHERE rowid<5";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sqlite3");
        drop(journal_of(
            dir.path(),
            &format!("{TABLE} DELETE FROM t WHERE rowid>20;"),
            "UPDATE t SET x=1 WHERE rowid=1",
        ));
        let ask = |path: &Path| -> (i64, String) {
            let connection = Connection::open(path).unwrap();
            let sql = "SELECT count(*), group_concat(hex(x)) FROM t";
            connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        let before = ask(&path);
        let journal = journal_of(dir.path(), "", fill);
        assert_ne!(ask(&path), before);
        let touched = read_bytes(&journal, 4096).unwrap();
        assert!(!touched.leaves.is_empty());
        let pages = u32::try_from(std::fs::metadata(&path).unwrap().len() / 4096).unwrap();
        assert_eq!(undoable([&touched].into_iter(), pages), Some(touched.initial_pages));
        let database = File::options().write(true).open(&path).unwrap();
        for (page, at) in &touched.records {
            let at = usize::try_from(*at).unwrap();
            database.write_all_at(&journal[at..at + 4096], u64::from(page - 1) * 4096).unwrap();
        }
        database.set_len(u64::from(touched.initial_pages) * 4096).unwrap();
        assert_eq!(ask(&path), before);
        let said: String = Connection::open(&path)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(said, "ok");
    }

    #[test]
    fn a_database_with_auto_vacuum_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let setup = format!("PRAGMA auto_vacuum=FULL; {TABLE}");
        let bytes = journal_of(dir.path(), &setup, "DELETE FROM t WHERE rowid<100");
        assert!(
            matches!(read_bytes(&bytes, 4096), Err(Unclear::Form(why)) if why.contains("auto_vacuum"))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            records in any::<u32>(),
            tail in proptest::collection::vec(any::<u8>(), 0..4096),
        ) {
            let mut bytes = chroma_format::journal::MAGIC.to_vec();
            for value in [records % 8, 17, 46, 512, 512] {
                bytes.extend(u32::to_be_bytes(value));
            }
            bytes.resize(512, 0);
            bytes.extend(&tail);
            prop_assert!(read_bytes(&bytes, 512).is_err());
            prop_assert!(read_bytes(&tail, 512).is_err());
        }
    }
}
