//! Where a copy goes: a file without a name, in a directory that has room for it and is not the one we watch. It vanishes
//! with its last descriptor, also when the program is killed. A copy that somebody wants to keep has a name from the beginning,
//! and loses it when nothing came of it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use crate::{database::bound, space::Space};

/// Directories that may take a copy, in the order in which they are asked.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// What the operator named; then no other is taken.
    pub configured: Option<PathBuf>,
    /// Others, such as the state directory.
    pub fallback: Vec<PathBuf>,
    /// The used ratio that the filesystem of the database must stay below.
    pub watched_ratio_max: f64,
    /// The used ratio that another filesystem must stay below.
    pub other_ratio_max: f64,
    /// The name that the copy has, for who wants to keep it ([`super::View::keep`]); none usually.
    pub name: Option<OsString>,
}

/// No directory can take the copy: each that was asked, and why.
#[derive(Debug, thiserror::Error)]
#[error("no place for a copy: {}", reasons(.0))]
pub struct NoRoom(pub Vec<(PathBuf, Unfit)>);

fn reasons(all: &[(PathBuf, Unfit)]) -> String {
    if all.is_empty() {
        return "no directory is known that may take a copy".to_owned();
    }
    let all = all.iter().map(|(dir, why)| format!("{}: {why}", dir.display()));
    all.collect::<Vec<_>>().join("; ")
}

/// Why a directory cannot take the copy.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// SQLite did not open the file.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Nothing is written where it is watched.
    #[error("it lies in the watched directory")]
    Watched,
    /// A copy would take the memory of the programs of this host.
    #[error("it lies in memory")]
    InMemory,
    /// The copy would leave too little room.
    #[error("a copy of {need_mb} MB would fill it to {percent_after:.0} %, {free_mb} MB are free")]
    Full {
        /// Size of the copy.
        need_mb: u64,
        /// Used part of the filesystem with the copy, as `df` counts it.
        percent_after: f64,
        /// What is free now.
        free_mb: u64,
    },
}

/// An empty file for a copy, and SQLite's connections to it: two, because no other can be made once it has no name.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) file: File,
    pub(super) connections: [Connection; 2],
    /// Removed when it goes: see [`Scratch::keep`].
    named: Option<PathBuf>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = &self.named
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!(%error, "A copy that nobody wants stays.");
        }
    }
}

impl Places {
    /// A file for `need_bytes` of a copy of the database at `watched`. Errs with the reason for each place.
    pub(super) fn make(&self, watched: &Path, need_bytes: u64) -> Result<Scratch, NoRoom> {
        let mut reasons = Vec::new();
        let chosen = self.configured.is_some();
        for dir in self.configured.iter().chain(self.fallback.iter().filter(|_| !chosen)) {
            match self.make_in(dir, watched, need_bytes, chosen) {
                Ok(scratch) => return Ok(scratch),
                Err(reason) => reasons.push((dir.clone(), reason)),
            }
        }
        Err(NoRoom(reasons))
    }

    fn make_in(
        &self,
        dir: &Path,
        watched: &Path,
        need_bytes: u64,
        chosen: bool,
    ) -> Result<Scratch, Unfit> {
        let dir = fs::canonicalize(dir)?;
        let store = watched.parent().unwrap_or(watched);
        let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
        let store = id(store)?;
        // By what they are: the same directory may have many paths.
        if dir.ancestors().any(|above| id(above).is_ok_and(|id| id == store)) {
            return Err(Unfit::Watched);
        }
        let vfs = rustix::fs::statvfs(&dir).map_err(io::Error::from)?;
        let kind = rustix::fs::statfs(&dir).map_err(io::Error::from)?.f_type;
        if !chosen && i128::from(kind) == i128::from(TMPFS_MAGIC) {
            return Err(Unfit::InMemory);
        }
        let space = Space::of(&vfs);
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        let same = device(&dir)? == device(watched)?;
        let ratio_max = if same { self.watched_ratio_max } else { self.other_ratio_max };
        fits(&space, need_bytes, ratio_max)?;
        match &self.name {
            Some(name) => make_named(dir.join(name)),
            None => make_file(&dir),
        }
    }
}

/// Whether `need` bytes more leave the used ratio of a filesystem, as `df` counts it, below `ratio_max`. Errs when they do not.
fn fits(space: &Space, need: u64, ratio_max: f64) -> Result<(), Unfit> {
    let used = space.size_bytes.saturating_sub(space.free_bytes);
    let whole = used.saturating_add(space.avail_bytes);
    let after = used.saturating_add(need) as f64 / whole.max(1) as f64;
    if need > space.avail_bytes || after >= ratio_max {
        let [need_mb, free_mb] = [need, space.avail_bytes].map(|bytes| bytes.div_ceil(1_000_000));
        return Err(Unfit::Full { need_mb, percent_after: after * 100.0, free_mb });
    }
    Ok(())
}

fn make_file(dir: &Path) -> Result<Scratch, Unfit> {
    for _ in 0..NAMES_MAX {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let path = dir.join(format!(".chroma_exporter-copy-{:016x}", u64::from_ne_bytes(random)));
        let file = match create(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error.into()),
        };
        // SQLite opens the file at once and reads it at the first statement. The descriptors keep it; its name must not
        // outlive us.
        let connections = (open_copy(&path), open_copy(&path));
        fs::remove_file(&path)?;
        return Ok(Scratch { file, connections: [connections.0?, connections.1?], named: None });
    }
    Err(io::Error::other("no free name for a copy was found").into())
}

fn make_named(path: PathBuf) -> Result<Scratch, Unfit> {
    let file = create(&path)?;
    match (open_copy(&path), open_copy(&path)) {
        (Ok(one), Ok(other)) => Ok(Scratch { file, connections: [one, other], named: Some(path) }),
        (Err(error), _) | (_, Err(error)) => {
            fs::remove_file(&path)?;
            Err(error.into())
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// A connection that takes no locks: the file is ours alone. Errs when SQLite does.
fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    use std::fmt::Write as _;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            write!(uri, "%{byte:02x}").expect("a string takes all");
        }
    }
    // Not `immutable`, by which SQLite takes the size that the file has at the open for its last.
    uri.push_str("?nolock=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

impl Scratch {
    /// The copy keeps its name.
    pub(super) fn keep(mut self) {
        self.named = None;
    }

    /// Makes the connections ready once the file holds `pages` pages with this schema cookie. Not before:
    /// some of these statements read the file. Errs when SQLite does.
    pub(super) fn ready(&self, pages: u32, schema_cookie: u32) -> rusqlite::Result<()> {
        self.connections.iter().try_for_each(|connection| ready(connection, pages, schema_cookie))
    }
}

fn ready(connection: &Connection, pages: u32, schema_cookie: u32) -> rusqlite::Result<()> {
    bound(connection)?;
    connection.execute_batch(
        "PRAGMA query_only=ON; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; \
         PRAGMA temp_store=MEMORY; PRAGMA cache_size=-8192;",
    )?;
    let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let seen = (ask("PRAGMA page_count")?, ask("PRAGMA schema_version")?);
    // A check of anything but these pages would be worse than none.
    if seen != (pages.into(), schema_cookie.cast_signed().into()) {
        return Err(rusqlite::Error::InvalidQuery);
    }
    Ok(())
}

const TMPFS_MAGIC: u32 = 0x0102_1994;

const NAMES_MAX: u32 = 8;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn places(dir: &Path) -> Places {
        Places {
            configured: Some(dir.to_owned()),
            fallback: Vec::new(),
            watched_ratio_max: 1.0,
            other_ratio_max: 1.0,
            name: None,
        }
    }

    #[test]
    fn a_copy_has_no_name_and_can_be_read_by_sqlite() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("with space?and#hash%41");
        let store = dir.path().join("store");
        fs::create_dir(&odd).unwrap();
        fs::create_dir(&store).unwrap();
        let database = store.join("chroma.sqlite3");
        Connection::open(&database)
            .unwrap()
            .execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(7)")
            .unwrap();
        let scratch = places(&odd).make(&database, 1 << 20).unwrap();
        assert_eq!(fs::read_dir(&odd).unwrap().count(), 0);
        let bytes = fs::read(&database).unwrap();
        scratch.file.write_all_at(&bytes, 0).unwrap();
        assert!(scratch.ready(3, 1).is_err(), "another size than was said");
        scratch.ready(2, 1).unwrap();
        let x: i64 =
            scratch.connections[1].query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(x, 7);
        let inside = places(&store).make(&database, 1).unwrap_err().to_string();
        assert!(inside.contains("watched directory"), "{inside}");
        assert!(places(&odd).make(&database, u64::MAX).is_err());
    }

    #[test]
    fn a_copy_that_is_kept_has_its_name_and_one_that_is_not_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let (store, room) = (dir.path().join("store"), dir.path().join("room"));
        fs::create_dir(&store).unwrap();
        fs::create_dir(&room).unwrap();
        let database = store.join("chroma.sqlite3");
        let named = Places { name: Some("copy".into()), ..places(&room) };
        fs::write(&database, "x").unwrap();
        drop(named.make(&database, 1).unwrap());
        assert_eq!(fs::read_dir(&room).unwrap().count(), 0);
        let scratch = named.make(&database, 1).unwrap();
        assert!(named.make(&database, 1).is_err(), "never over something else");
        scratch.file.write_all_at(b"kept", 0).unwrap();
        scratch.keep();
        assert_eq!(fs::read(room.join("copy")).unwrap(), b"kept");
    }

    #[test]
    fn a_filesystem_stays_below_its_ratio() {
        let space = Space {
            size_bytes: 1000,
            free_bytes: 500,
            avail_bytes: 400,
            inodes: 0,
            inodes_free: 0,
            readonly: false,
        };
        // 500 used of 900 that can be used.
        assert!(fits(&space, 219, 0.8).is_ok());
        assert!(fits(&space, 220, 0.8).is_err());
        assert!(fits(&space, 401, 2.0).is_err());
    }
}
