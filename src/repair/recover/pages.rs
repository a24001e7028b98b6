//! The pages of a database that SQLite may refuse to read: by number, and the payload of a row over its overflow pages. Nothing is
//! taken for granted: a page may be missing, cut off, or used twice.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use chroma_format::{
    btree::{Cell, Geometry, Kind, Page, Trunk},
    sqlite::{HEADER_LEN, SqliteHeader},
};

use crate::store::database::open_bytes;

/// A database, page by page.
#[derive(Debug)]
pub(super) struct Pages {
    file: File,
    pub geometry: Geometry,
    /// How many there are. The last one may be cut off.
    pub count: u32,
    /// Pages that the header says and the file has not.
    pub missing: u32,
    /// What the first page begins with; `None` when that is no header of SQLite.
    pub header: Option<SqliteHeader>,
}

/// A set of pages: one bit each.
#[derive(Debug, Clone)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// The empty set, for the pages 1 to `count`.
    pub(super) fn new(count: u32) -> Self {
        Self(vec![0; count as usize / 64 + 1])
    }

    /// Puts a page in. Says whether it was not yet there; one that the set is not for never is.
    pub(super) fn insert(&mut self, page: u32) -> bool {
        let Some(word) = self.0.get_mut(page as usize / 64) else { return false };
        let bit = 1 << (page % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes a page out.
    pub(super) fn remove(&mut self, page: u32) {
        if let Some(word) = self.0.get_mut(page as usize / 64) {
            *word &= !(1 << (page % 64));
        }
    }

    pub(super) fn contains(&self, page: u32) -> bool {
        self.0.get(page as usize / 64).is_some_and(|word| word & 1 << (page % 64) != 0)
    }
}

impl Pages {
    /// Errs when the file cannot be read; `None` when no page of a database is in it.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = open_bytes(path)?;
        let bytes = file.metadata()?.len();
        let mut head = [0; HEADER_LEN];
        let header = match file.read_exact_at(&mut head, 0) {
            Ok(()) => SqliteHeader::parse(&head).ok(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        let geometry = match &header {
            Some(header) => {
                let page_bytes = header.page_bytes as usize;
                Geometry { page_bytes, usable: page_bytes - usize::from(header.reserved_bytes) }
            }
            None => match guess(&file, bytes)? {
                Some(geometry) => geometry,
                None => return Ok(None),
            },
        };
        let whole = bytes.div_ceil(geometry.page_bytes as u64);
        let count = u32::try_from(whole).unwrap_or(u32::MAX);
        let stated = header.as_ref().and_then(SqliteHeader::pages);
        let missing = stated.map_or(0, |stated| stated.saturating_sub(count));
        // What stands behind the last page belongs to no database.
        let count = stated.map_or(count, |stated| stated.min(count));
        Ok(Some(Self { file, geometry, count, missing, header }))
    }

    /// Reads a page into `into`: fewer bytes than a page has when it is cut off, none when it is not there.
    /// Errs when the file cannot be read.
    pub(super) fn read(&self, number: u32, into: &mut Vec<u8>) -> io::Result<()> {
        if !(1..=self.count).contains(&number) {
            into.clear();
            return Ok(());
        }
        read(&self.file, u64::from(number - 1), self.geometry.page_bytes, into)
    }

    /// Reads the whole payload of a cell into `into`. `false` when its chain of overflow pages does not hold: a page is missing, has
    /// another use, or is all zeroes, which no part of a text and hardly one of a vector is. `chained` are the pages that were read
    /// so, and `room` is for one of them. Errs when the file cannot be read.
    pub(super) fn payload(
        &self,
        cell: &Cell<'_>,
        chained: &mut Bits,
        into: &mut Vec<u8>,
        room: &mut Vec<u8>,
    ) -> io::Result<bool> {
        into.clear();
        into.extend_from_slice(cell.local);
        let (mut next, mut rest) = (cell.overflow, cell.payload_bytes - cell.local.len());
        if rest.div_ceil(self.geometry.overflow_bytes()) > self.count as usize {
            return Ok(false);
        }
        let mut chain = Vec::new();
        while rest > 0 {
            self.read(next, room)?;
            let taken = rest.min(self.geometry.overflow_bytes());
            let holds = match room.get(4..4 + taken) {
                Some(_) if room.iter().all(|byte| *byte == 0) => false,
                Some(part) if chained.insert(next) => {
                    chain.push(next);
                    into.extend_from_slice(part);
                    rest -= taken;
                    next = u32::from_be_bytes([room[0], room[1], room[2], room[3]]);
                    (rest == 0) == (next == 0)
                }
                _ => false,
            };
            if !holds {
                for page in chain {
                    chained.remove(page);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The free pages, and whether the list of them holds: every page of it was read, and there are as many as the header says.
    /// Errs when the file cannot be read.
    pub(super) fn free(&self) -> io::Result<(Bits, bool)> {
        let mut free = Bits::new(self.count);
        let Some(header) = &self.header else { return Ok((free, false)) };
        let (mut next, mut count) = (header.freelist_trunk, 0_u32);
        let mut room = Vec::new();
        while next != 0 {
            self.read(next, &mut room)?;
            let Ok(trunk) = Trunk::parse(&room, self.geometry) else { return Ok((free, false)) };
            // One that leads to a table or an index is none.
            if is_in_a_tree(&room, next, self.geometry) || !free.insert(next) {
                return Ok((free, false));
            }
            count = count.saturating_add(1);
            for leaf in trunk.leaves() {
                if !(2..=self.count.saturating_add(self.missing)).contains(&leaf) {
                    return Ok((free, false));
                }
                if leaf <= self.count && !free.insert(leaf) {
                    return Ok((free, false));
                }
                count = count.saturating_add(1);
            }
            next = trunk.next;
        }
        Ok((free, count == header.freelist_pages))
    }
}

fn is_in_a_tree(bytes: &[u8], number: u32, geometry: Geometry) -> bool {
    Page::parse(bytes, number, geometry, &mut Vec::new()).is_ok_and(|page| {
        page.cells > 0 || matches!(page.kind, Kind::TableInterior | Kind::IndexInterior)
    })
}

fn read(file: &File, page: u64, page_bytes: usize, into: &mut Vec<u8>) -> io::Result<()> {
    into.resize(page_bytes, 0);
    let mut done = 0;
    while done < page_bytes {
        match file.read_at(&mut into[done..], page * page_bytes as u64 + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into.truncate(done);
    Ok(())
}

/// The size of a page, when the header does not say it: that with which most pages are read without a doubt. Looks at
/// [`SAMPLES`] places of the file. Errs when the disk does.
fn guess(file: &File, bytes: u64) -> io::Result<Option<Geometry>> {
    let (mut best, mut most) = (None, 0);
    let (mut room, mut extents) = (Vec::new(), Vec::new());
    for power in PAGE_SIZES {
        let page_bytes = 1_usize << power;
        let geometry = Geometry { page_bytes, usable: page_bytes };
        let pages = bytes / page_bytes as u64;
        let mut fit = 0;
        for page in (1..pages).step_by(usize::try_from(pages / SAMPLES).unwrap_or(0).max(1)) {
            read(file, page, page_bytes, &mut room)?;
            fit += u32::from(Page::parse(&room, 2, geometry, &mut extents).is_ok());
        }
        if fit > most {
            (best, most) = (Some(geometry), fit);
        }
    }
    Ok(best)
}

/// Chroma's first, which wins where two fit as well.
const PAGE_SIZES: [u32; 8] = [12, 9, 10, 11, 13, 14, 15, 16];
const SAMPLES: u64 = 256;

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn database(page_bytes: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("database");
        let connection = Connection::open(&path).unwrap();
        let sql = format!(
            "PRAGMA page_size={page_bytes}; CREATE TABLE a(v); \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO a SELECT 'row '||i FROM n; \
             CREATE TABLE b(v); INSERT INTO b VALUES(hex(zeroblob(400000))); DROP TABLE b"
        );
        connection.execute_batch(&sql).unwrap();
        (scratch, path)
    }

    #[test]
    fn the_size_of_a_page_is_found_without_the_header() {
        for page_bytes in [512, 4096, 16_384] {
            let (_scratch, path) = database(page_bytes);
            let healthy = Pages::open(&path).unwrap().unwrap();
            let (free, whole) = healthy.free().unwrap();
            let free = (1..=healthy.count).filter(|page| free.contains(*page)).count();
            assert!(whole && free > 20, "{page_bytes}: {free}");
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[0; 100], 0).unwrap();
            let broken = Pages::open(&path).unwrap().unwrap();
            assert_eq!(broken.geometry, healthy.geometry);
            assert_eq!((broken.count, broken.header), (healthy.count, None));
            assert!(!broken.free().unwrap().1);
        }
        let (scratch, _) = database(4096);
        for (name, bytes) in [("empty", &b""[..]), ("text", b"<html>504</html>")] {
            let path = scratch.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert!(Pages::open(&path).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn a_list_of_free_pages_that_cannot_be_right_is_told() {
        for (at, bytes) in [
            (32, 2_u32.to_be_bytes()), // a page of a table
            (32, 1_000_000_u32.to_be_bytes()),
            (36, 3_u32.to_be_bytes()),
        ] {
            let (_scratch, path) = database(4096);
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&bytes, at).unwrap();
            let pages = Pages::open(&path).unwrap();
            assert!(pages.is_none_or(|pages| !pages.free().unwrap().1), "{at}");
        }
    }
}
