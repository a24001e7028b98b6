//! The alert store: one SQLite file in the state directory that holds episodes, what every receiver has been
//! told, what is on its way, and silences. A transition and the messages that it causes are one transaction.
//!
//! Only the exporter that holds the lock of the state directory writes episodes and queues; `chroma_exporter silence`
//! writes silences beside it. WAL with `synchronous=FULL`: what was committed survives a power cut.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, params};
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Serialize, de::DeserializeOwned};
use tracing::{error, warn};

use crate::{
    alert::{
        engine::{Key, Tracked},
        outbox::{DeliveryState, Entry},
        silence::Silence,
    },
    clock::Timestamp,
    host::state::place,
};

/// Name of the file in the state directory.
pub const FILE: &str = "alerts.sqlite3";

/// An open alert store.
#[derive(Debug)]
pub struct AlertStore {
    path: PathBuf,
    connection: Connection,
}

/// Everything that was written down.
#[derive(Debug, Default)]
pub struct Kept {
    /// Alerts that were pending or firing.
    pub tracked: BTreeMap<Key, Tracked>,
    /// What each receiver knows, by its name and the episode.
    pub entries: BTreeMap<String, BTreeMap<String, Entry>>,
    /// What is on its way to each receiver.
    pub deliveries: BTreeMap<String, DeliveryState>,
}

/// One row to be written; without data it is removed.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// An alert that is pending or fires.
    Episode {
        /// Store and rule.
        key: Key,
        /// JSON of a [`Tracked`].
        data: Option<String>,
    },
    /// What a receiver knows of an episode.
    Entry {
        /// Name of the receiver.
        receiver: String,
        /// Id of the episode.
        episode: String,
        /// JSON of an [`Entry`].
        data: Option<String>,
    },
    /// What is on its way to a receiver.
    Delivery {
        /// Name of the receiver.
        receiver: String,
        /// JSON of a [`DeliveryState`].
        data: Option<String>,
    },
}

/// Why the alert store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AlertStoreError {
    /// The operating system refused.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("cannot use {}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite answered.
        source: rusqlite::Error,
    },
    /// Written by a later release, whose rows this one does not know.
    #[error("{} has form {found}, this release knows {FORM}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its form.
        found: i64,
    },
}

impl AlertStoreError {
    /// The whole chain in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// Whether it says that the file itself is damaged.
    #[must_use]
    pub fn damaged(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            _ => false,
        }
    }
}

impl AlertStore {
    /// Opens the alert store in `dir`, makes it when it is absent (mode 0600), and reads all of it. One that is damaged is set
    /// aside under a name with `now`, said as an error, and a new one begun: alerts that fire will be told again, which
    /// is better than not at all. Errs when the file cannot be used; then alerts go on from memory.
    pub fn open(dir: &Path, now: Timestamp) -> Result<(Self, Kept), AlertStoreError> {
        match Self::attempt(dir) {
            Err(problem) if problem.damaged() => {
                set_aside(dir, &problem, now)?;
                Self::attempt(dir)
            }
            result => result,
        }
    }

    /// Reads what an alert store holds that cannot be written: on a disk that is full or mounted read-only.
    #[must_use]
    pub fn peek(dir: &Path) -> Option<Kept> {
        use rusqlite::OpenFlags;
        let path = dir.join(FILE);
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(CWD, dir, directory, Mode::empty()).ok()?;
        own_files(dir, &place).ok()?;
        let plain = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let read = |connection: Connection| Self { path: path.clone(), connection }.read().ok();
        // Beside a -wal, SQLite needs a -shm, which it cannot make there; without it the file alone is read.
        Connection::open_with_flags(&path, plain).ok().and_then(read).or_else(|| {
            let text = path.to_str()?.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            let uri = format!("file:{text}?immutable=1");
            let flags = plain | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(uri, flags).ok().and_then(read)
        })
    }

    fn attempt(dir: &Path) -> Result<(Self, Kept), AlertStoreError> {
        let path = dir.join(FILE);
        let io = |source| AlertStoreError::Io { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(CWD, dir, directory, Mode::empty())
            .map_err(|errno| io(errno.into()))?;
        own_files(dir, &place)?;
        // SQLite would make it readable for others, and its -wal and -shm take over the mode of the file.
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&place, FILE, flags, mode).map_err(|errno| io(errno.into()))?;
        rustix::fs::fchmod(&file, mode).map_err(|errno| io(errno.into()))?;
        drop(file);
        let sqlite = |source| AlertStoreError::Sqlite { path: path.clone(), source };
        let connection = Connection::open(&path).map_err(sqlite)?;
        let alert_store = Self { path: path.clone(), connection };
        alert_store.prepare()?;
        let kept = alert_store.read()?;
        Ok((alert_store, kept))
    }

    fn prepare(&self) -> Result<(), AlertStoreError> {
        let sqlite = |source| self.error(source);
        self.connection.busy_timeout(BUSY).map_err(sqlite)?;
        let form: i64 = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(sqlite)?;
        if form > FORM {
            return Err(AlertStoreError::Newer { path: self.path.clone(), found: form });
        }
        // Cheap at this size, and a damaged page must be found before rows are trusted.
        let check: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(sqlite)?;
        if check != "ok" {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(self.error(rusqlite::Error::SqliteFailure(code, Some(check))));
        }
        self.connection
            .execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")
            .map_err(sqlite)?;
        if form == FORM {
            return Ok(()); // on a full disk, what is there can be read
        }
        self.connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 BEGIN IMMEDIATE;
                 CREATE TABLE IF NOT EXISTS episode(
                     store TEXT NOT NULL, rule TEXT NOT NULL, data TEXT NOT NULL,
                     PRIMARY KEY(store, rule)) WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS entry(
                     receiver TEXT NOT NULL, episode TEXT NOT NULL, data TEXT NOT NULL,
                     PRIMARY KEY(receiver, episode)) WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS road(
                     receiver TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS silence(
                     id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
                 PRAGMA user_version = 1;
                 COMMIT;",
            )
            .map_err(sqlite)
    }

    fn read(&self) -> Result<Kept, AlertStoreError> {
        let mut kept = Kept::default();
        self.each("SELECT store, rule, data FROM episode", |row| {
            let key: Key = (row.get::<_, String>(0)?.into(), row.get::<_, String>(1)?.into());
            if let Some(tracked) = self.parse(&row.get::<_, String>(2)?) {
                kept.tracked.insert(key, tracked);
            }
            Ok(())
        })?;
        self.each("SELECT receiver, episode, data FROM entry", |row| {
            if let Some(entry) = self.parse(&row.get::<_, String>(2)?) {
                kept.entries.entry(row.get(0)?).or_default().insert(row.get(1)?, entry);
            }
            Ok(())
        })?;
        self.each("SELECT receiver, data FROM road", |row| {
            if let Some(delivery) = self.parse(&row.get::<_, String>(1)?) {
                kept.deliveries.insert(row.get(0)?, delivery);
            }
            Ok(())
        })?;
        Ok(kept)
    }

    /// Writes `rows` in one transaction: all of them or none. With `anew`, everything but the silences is removed
    /// before, so that the alert store holds exactly `rows`. Errs when SQLite does.
    pub fn write(&mut self, rows: &[Row], anew: bool) -> Result<(), AlertStoreError> {
        let path = self.path.clone();
        let sqlite = |source| AlertStoreError::Sqlite { path: path.clone(), source };
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(sqlite)?;
        if anew {
            transaction
                .execute_batch("DELETE FROM episode; DELETE FROM entry; DELETE FROM road;")
                .map_err(sqlite)?;
        }
        for row in rows {
            row.write(&transaction).map_err(sqlite)?;
        }
        transaction.commit().map_err(sqlite)
    }

    /// A number that changes when another program wrote to the alert store. Errs when SQLite does.
    pub fn data_version(&self) -> Result<i64, AlertStoreError> {
        self.connection
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(|source| self.error(source))
    }

    /// Every silence, those that have ended included. Errs when SQLite does.
    pub fn silences(&self) -> Result<Vec<Silence>, AlertStoreError> {
        let mut silences = Vec::new();
        self.each("SELECT data FROM silence ORDER BY id LIMIT 10000", |row| {
            silences.extend(self.parse::<Silence>(&row.get::<_, String>(0)?));
            Ok(())
        })?;
        Ok(silences)
    }

    /// Writes a silence down; one with the same id is replaced. Errs when SQLite does.
    pub fn put_silence(&self, silence: &Silence) -> Result<(), AlertStoreError> {
        let data = json(silence);
        self.connection
            .execute("INSERT OR REPLACE INTO silence VALUES(?1, ?2)", params![silence.id, data])
            .map(drop)
            .map_err(|source| self.error(source))
    }

    /// Removes the silences that ended before `moment`. Errs when SQLite does.
    pub fn forget_silences(&self, moment: Timestamp) -> Result<(), AlertStoreError> {
        for silence in self.silences()?.iter().filter(|silence| silence.until < moment) {
            self.connection
                .execute("DELETE FROM silence WHERE id = ?1", [&silence.id])
                .map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    fn each(
        &self,
        query: &str,
        mut take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), AlertStoreError> {
        let run = || {
            let mut statement = self.connection.prepare(query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                take(row)?;
            }
            Ok(())
        };
        let mut run = run;
        run().map_err(|source| self.error(source))
    }

    /// A row that cannot be understood is passed over: one of them must not silence the rest.
    fn parse<T: DeserializeOwned>(&self, data: &str) -> Option<T> {
        serde_json::from_str(data)
            .inspect_err(|error| {
                warn!(path = %self.path.display(), %error, "A row of the alert state is not understood and passed over.");
            })
            .ok()
    }

    fn error(&self, source: rusqlite::Error) -> AlertStoreError {
        AlertStoreError::Sqlite { path: self.path.clone(), source }
    }
}

impl Row {
    fn write(&self, to: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Episode { key: (store, rule), data: Some(data) } => to
                .prepare("INSERT OR REPLACE INTO episode VALUES(?1, ?2, ?3)")?
                .execute(params![&**store, &**rule, data]),
            Self::Episode { key: (store, rule), data: None } => to
                .prepare("DELETE FROM episode WHERE store = ?1 AND rule = ?2")?
                .execute(params![&**store, &**rule]),
            Self::Entry { receiver, episode, data: Some(data) } => to
                .prepare("INSERT OR REPLACE INTO entry VALUES(?1, ?2, ?3)")?
                .execute(params![receiver, episode, data]),
            Self::Entry { receiver, episode, data: None } => to
                .prepare("DELETE FROM entry WHERE receiver = ?1 AND episode = ?2")?
                .execute(params![receiver, episode]),
            Self::Delivery { receiver, data: Some(data) } => to
                .prepare("INSERT OR REPLACE INTO road VALUES(?1, ?2)")?
                .execute(params![receiver, data]),
            Self::Delivery { receiver, data: None } => {
                to.prepare("DELETE FROM road WHERE receiver = ?1")?.execute([receiver])
            }
        }
        .map(drop)
    }
}

/// What is written is plain data with string keys, which JSON always takes.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// SQLite opens these by their names, and would follow a link that somebody has put there. Errs when one is a link or no file of its own.
fn own_files(dir: &Path, place: &std::os::fd::OwnedFd) -> Result<(), AlertStoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let name = format!("{FILE}{suffix}");
        place::expect_own_file(place, OsStr::new(&name))
            .map_err(|source| AlertStoreError::Io { path: dir.join(&name), source })?;
    }
    Ok(())
}

fn set_aside(dir: &Path, problem: &AlertStoreError, now: Timestamp) -> Result<(), AlertStoreError> {
    let aside = dir.join(format!("{FILE}.damaged-{}", now.as_secs()));
    for suffix in ["-wal", "-shm", ""] {
        let from = dir.join(format!("{FILE}{suffix}"));
        let mut to = aside.clone().into_os_string();
        to.push(suffix);
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(AlertStoreError::Io { path: from, source }),
        }
    }
    error!(
        aside = %aside.display(), problem = %problem.chain(),
        "The alert state is damaged; set aside, starting anew. Alerts that fire are told again, and the end of those that ended meanwhile is not."
    );
    Ok(())
}

/// The form of the tables that this release writes.
const FORM: i64 = 1;

/// `silence` and the exporter write for milliseconds.
const BUSY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(name: &str) -> Entry {
        let text = format!(
            r#"{{"alert":{{"name":"{name}","severity":"critical","store":"a","path":"/a","summary":"","evidence":"","count":1,"reading":null,"cause":"","remedy":"","runbook":"","labels":{{}},"since":5,"ended":null,"episode":"e"}},"told":null,"queued_at":5}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn row(episode: &str, entry: Option<&Entry>) -> Row {
        let data = entry.map(json);
        Row::Entry { receiver: "ops".to_owned(), episode: episode.to_owned(), data }
    }

    const NOW: Timestamp = Timestamp::from_secs(7);

    #[test]
    fn what_was_written_is_read_again_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut alert_store, kept) = AlertStore::open(&dir.path().join("state"), NOW).unwrap();
        assert!(kept.tracked.is_empty() && kept.entries.is_empty());
        let (one, two) = (entry("X"), entry("Y"));
        alert_store.write(&[row("1", Some(&one)), row("2", Some(&two))], false).unwrap();
        alert_store.write(&[row("1", None)], false).unwrap();
        let delivery = DeliveryState { tries: 3, ..DeliveryState::default() };
        alert_store
            .write(
                &[Row::Delivery { receiver: "ops".to_owned(), data: Some(json(&delivery)) }],
                false,
            )
            .unwrap();
        for name in fs::read_dir(dir.path().join("state")).unwrap() {
            let mode = name.unwrap().metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);
        }
        drop(alert_store);
        let (mut alert_store, kept) = AlertStore::open(&dir.path().join("state"), NOW).unwrap();
        assert_eq!(kept.entries["ops"], BTreeMap::from([("2".to_owned(), two)]));
        assert_eq!(kept.deliveries["ops"], delivery);
        alert_store.write(&[row("9", Some(&one))], true).unwrap();
        assert_eq!(alert_store.read().unwrap().entries["ops"].len(), 1);
        assert!(alert_store.read().unwrap().deliveries.is_empty());
    }

    #[test]
    fn a_damaged_book_is_set_aside_whatever_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (mut alert_store, _) = AlertStore::open(dir.path(), NOW).unwrap();
        let rows: Vec<Row> = (0..500).map(|n| row(&n.to_string(), Some(&entry("X")))).collect();
        alert_store.write(&rows, false).unwrap();
        drop(alert_store);
        let whole = fs::read(&path).unwrap();
        assert!(whole.len() > 50_000);
        let mut pages = whole.clone();
        pages[4096..].fill(0xAA);
        for (name, bytes) in
            [("noise", vec![0x55; 8192]), ("pages", pages), ("cut", whole[..6000].to_vec())]
        {
            fs::write(&path, bytes).unwrap();
            let (_, kept) =
                AlertStore::open(dir.path(), NOW).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(kept.entries.is_empty(), "{name}");
            assert!(dir.path().join(format!("{FILE}.damaged-7")).exists(), "{name}");
            fs::remove_file(dir.path().join(format!("{FILE}.damaged-7"))).unwrap();
        }
        // An empty file is what a crash between making and filling it leaves.
        fs::write(&path, b"").unwrap();
        AlertStore::open(dir.path(), NOW).unwrap();
        assert!(!dir.path().join(format!("{FILE}.damaged-7")).exists());
    }

    #[test]
    fn a_book_of_a_later_release_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (alert_store, _) = AlertStore::open(dir.path(), NOW).unwrap();
        alert_store.connection.execute_batch("PRAGMA user_version = 2").unwrap();
        drop(alert_store);
        assert!(matches!(
            AlertStore::open(dir.path(), NOW),
            Err(AlertStoreError::Newer { found: 2, .. })
        ));
    }

    #[test]
    fn one_row_that_is_not_understood_does_not_silence_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (mut alert_store, _) = AlertStore::open(dir.path(), NOW).unwrap();
        let bad = Row::Entry {
            receiver: "ops".to_owned(),
            episode: "1".to_owned(),
            data: Some("{\"alert\":7}".to_owned()),
        };
        alert_store.write(&[bad, row("2", Some(&entry("X")))], false).unwrap();
        drop(alert_store);
        let (_, kept) = AlertStore::open(dir.path(), NOW).unwrap();
        assert_eq!(kept.entries["ops"].len(), 1);
    }

    #[test]
    fn silences_are_seen_across_connections_and_forgotten_when_long_over() {
        let dir = tempfile::tempdir().unwrap();
        let (serve, _) = AlertStore::open(dir.path(), NOW).unwrap();
        let (command, _) = AlertStore::open(dir.path(), NOW).unwrap();
        let before = serve.data_version().unwrap();
        let silence = Silence {
            id: "0a".to_owned(),
            store: "a*".to_owned(),
            alert: String::new(),
            since: NOW,
            until: Timestamp::from_secs(100),
            comment: "work".to_owned(),
            by: String::new(),
        };
        command.put_silence(&silence).unwrap();
        assert_ne!(serve.data_version().unwrap(), before);
        assert_eq!(serve.silences().unwrap(), [silence]);
        serve.forget_silences(Timestamp::from_secs(100)).unwrap();
        assert_eq!(serve.silences().unwrap().len(), 1);
        serve.forget_silences(Timestamp::from_secs(101)).unwrap();
        assert!(command.silences().unwrap().is_empty());
    }
}
