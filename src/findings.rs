//! The closed catalogue of findings: code, severity, cause in one sentence, remedy in one command, runbook. Collectors
//! attach the evidence; nobody else writes remedies, so that `check`, the page and a message say the same.

pub mod order;

use serde::{Deserialize, Serialize, Serializer};

use crate::clock::Timestamp;

/// How much is at stake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Act, not now.
    Warning,
    /// Data is lost or at stake now.
    Critical,
}

impl Severity {
    /// The word of the `severity` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One entry found in one store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Which entry of the catalogue.
    pub code: Code,
    /// As the catalogue says, unless the evidence makes it graver or lighter.
    pub severity: Severity,
    /// What it is about: a file relative to the store, a table, a mount; empty for the store as a whole.
    pub subject: String,
    /// One sentence with the numbers of this case.
    pub evidence: String,
    /// The command with the numbers of this case, where the one of the catalogue would leave them to the reader.
    pub remedy: Option<String>,
    /// All that it is about, one each: ids of records, rows, entries of the directory. What the remedy acts on when it says
    /// "named here". At most [`ITEMS_MAX`] and [`ITEMS_BYTES_MAX`] bytes; `items_total` says how many there are.
    pub items: Vec<String>,
    /// How many there are, as far as it is known; more than `items` when those were bounded.
    pub items_total: u64,
    /// Since when it is there, where the evidence says so; what runs for long also knows when it first saw it (`Firsts`).
    #[serde(skip)]
    pub since: Option<Timestamp>,
    /// Taken over from the run before because the last one failed: it was neither seen nor disproved now.
    #[serde(skip)]
    pub kept: bool,
}

impl Finding {
    /// A finding with the severity of the catalogue. `evidence` is one sentence without a full stop; it may carry names
    /// from disk, which are cleaned of control characters and cut at [`EVIDENCE_CHARS_MAX`].
    #[must_use]
    pub fn new(code: Code, subject: impl Into<String>, evidence: impl AsRef<str>) -> Self {
        Self {
            code,
            severity: code.severity(),
            subject: clean(&subject.into()),
            evidence: clean(evidence.as_ref()),
            remedy: None,
            items: Vec::new(),
            items_total: 0,
            since: None,
            kept: false,
        }
    }

    /// The same with all that it is about, so that somebody can act on each. What does not fit the bounds is counted only.
    /// Control characters of an item are written as escapes (`\\n`, `\\u{1b}`), so that each is one line.
    #[must_use]
    pub fn with_items<T: AsRef<str>>(self, items: impl IntoIterator<Item = T>) -> Self {
        self.with_items_of(items, 0)
    }

    /// The same where more are known to exist than could be listed: `total` is counted elsewhere.
    #[must_use]
    pub fn with_items_of<T: AsRef<str>>(
        mut self,
        items: impl IntoIterator<Item = T>,
        total: u64,
    ) -> Self {
        let (mut bytes, mut count, mut full) = (0, 0, false);
        self.items.clear();
        for item in items {
            count += 1;
            let item = line_of(item.as_ref());
            bytes += item.len();
            // The list is a beginning: a short item behind one that had no room would look as if none was left out.
            full |= self.items.len() >= ITEMS_MAX || bytes > ITEMS_BYTES_MAX;
            if !full {
                self.items.push(item);
            }
        }
        self.items_total = total.max(count);
        self
    }

    /// The same with a command that names what this case is about; `{path}` stands for the persist directory.
    #[must_use]
    pub fn with_remedy(self, remedy: impl AsRef<str>) -> Self {
        Self { remedy: Some(clean(remedy.as_ref())), ..self }
    }

    /// The same with the moment at which it began.
    #[must_use]
    pub fn with_since(self, at: Timestamp) -> Self {
        Self { since: Some(at), ..self }
    }

    /// What to do about it in the store at `path`.
    #[must_use]
    pub fn remedy(&self, path: &std::path::Path) -> String {
        match &self.remedy {
            Some(remedy) => with_path(remedy, path),
            None => self.code.remedy(path),
        }
    }

    /// The same with another severity.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }
}

/// Longest evidence or subject, in characters.
pub const EVIDENCE_CHARS_MAX: usize = 600;

/// Items of one finding that are listed: a person can act on so many with a script, and they take a few megabytes.
pub const ITEMS_MAX: usize = 100_000;

/// All items of one finding together.
pub const ITEMS_BYTES_MAX: usize = 8 << 20;

/// Longest item, in characters. Chroma bounds no id; a longer one is no name that somebody gave.
const ITEM_CHARS_MAX: usize = 2_000;

/// An item as one line of text.
fn line_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(ITEM_CHARS_MAX));
    for c in text.chars().take(ITEM_CHARS_MAX) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if text.chars().nth(ITEM_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn clean(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(EVIDENCE_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(EVIDENCE_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

/// Puts the path into a remedy.
fn with_path(remedy: &str, path: &std::path::Path) -> String {
    remedy.replace("{path}", &shell_word(&clean(&path.to_string_lossy())))
}

/// A path as a shell takes it for one word.
pub(crate) fn shell_word(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%:,=".contains(c);
    if path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

/// Where the runbooks stand in this repository.
const RUNBOOK_BASE: &str = "runbooks/";

macro_rules! catalogue {
    ($($variant:ident $code:literal $severity:ident: $cause:literal => $remedy:literal;)*) => {
        /// A code of the catalogue.
        #[expect(clippy::doc_markdown, reason = "the causes are shown to people as they stand")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $cause] $variant,)* }

        impl Code {
            /// Every code, in the order of the catalogue.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word of the `code` label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Severity unless the evidence says otherwise.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// The cause, in one sentence.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }

            /// What to do: one command or one sentence; `{path}` stands for the persist directory.
            #[must_use]
            pub const fn remedy_template(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

catalogue! {
    // directory
    StoreMissing "store_missing" Critical: "The persist directory does not exist or is not a directory; Chroma would silently start an empty one."
        => "Mount or restore {path} before anything starts Chroma on it.";
    SqliteMissing "sqlite_missing" Critical: "There is no chroma.sqlite3 although segment folders, a journal or a server are there; Chroma would silently start an empty one and leave the folders as orphans."
        => "Stop Chroma, keep {path} as it is, and put the newest verified backup of chroma.sqlite3 back; do not start Chroma first.";
    SqliteEmpty "sqlite_empty" Critical: "chroma.sqlite3 has no bytes; Chroma would silently start an empty database over it."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup back; do not start Chroma first.";
    SqliteNotRegular "sqlite_not_regular" Critical: "chroma.sqlite3 is not a regular file (a directory, a dangling link or a device)."
        => "Stop Chroma and look at it with: ls -l {path}/chroma.sqlite3";
    NotAStore "not_a_store" Warning: "The directory holds no Chroma database that this program can read; it may be another directory, or one of Chroma before 0.4 (duckdb and parquet files)."
        => "Check the path; a directory of Chroma 0.3 must first be moved with the chroma-migrate tool.";
    // SQLite file
    SqliteNotADatabase "sqlite_not_a_database" Critical: "chroma.sqlite3 does not begin with SQLite's header: the first page was overwritten or the file is something else."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup back.";
    SqliteHeaderDamaged "sqlite_header_damaged" Critical: "The header of chroma.sqlite3 states values that no SQLite writes."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup back.";
    SqliteTruncated "sqlite_truncated" Critical: "chroma.sqlite3 is shorter than its header says: pages at its end are gone."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup back; do not let Chroma write to it.";
    SqliteCorrupt "sqlite_corrupt" Critical: "chroma.sqlite3 holds damaged bytes: SQLite's own check found them in a table, an overflow chain or the freelist, or they changed although nobody wrote them."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup back. Without one, save the rows that can be read into a new file: sqlite3 {path}/chroma.sqlite3 .dump | sed 's/^ROLLBACK; -- due to errors$/COMMIT;/' | sqlite3 /var/tmp/chroma.sqlite3.rescued (what stood on the damaged pages is lost: compare the number of rows of each table, and run check over the new file, before it takes the place of the old one; not .recover of Debian 12, which leaves an empty file)";
    SqliteIndexCorrupt "sqlite_index_corrupt" Critical: "An index of chroma.sqlite3 is damaged or does not agree with its table; the rows themselves may be whole."
        => "Stop Chroma, keep a copy of {path}, then: sqlite3 {path}/chroma.sqlite3 REINDEX (when that says malformed, the page of sqlite_corrupt in the runbooks tells how to write the rows to a new file)";
    SqliteValueMismatch "sqlite_value_mismatch" Warning: "The two copies of a document (in embedding_metadata and in the full-text table) have one length and differ: one was damaged in silence, which no check of SQLite sees."
        => "Look at both and put the right one in the place of the other: sqlite3 {path}/chroma.sqlite3 \"SELECT m.string_value, f.c0 FROM embedding_metadata m JOIN embedding_fulltext_search_content f ON f.id=m.id WHERE m.key='chroma:document' AND m.id=N\". Neither REINDEX nor rebuild before that: they make the damage permanent. Then test disk and memory.";
    FreePagesHigh "free_pages_high" Info: "Most of chroma.sqlite3 is free pages: room that deleted rows once took, which SQLite keeps and no delete gives back to the disk."
        => "Nothing is wrong. To shrink the file: with Chroma stopped, a backup made, twice its size free and no finding about segments: chroma vacuum --path {path}. Never while a segment folder is missing or unreadable.";
    // full text
    FtsCorrupt "fts_corrupt" Critical: "The full-text index is damaged; documents themselves stand elsewhere and may be whole."
        => "Stop Chroma, keep a copy of {path}, then make the table anew from embedding_metadata: sqlite3 {path}/chroma.sqlite3 \"BEGIN; DROP TABLE embedding_fulltext_search; CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram'); INSERT INTO embedding_fulltext_search(rowid, string_value) SELECT id, string_value FROM embedding_metadata WHERE key='chroma:document'; COMMIT\" (with another finding about this database, mend that first; when DROP fails, see the runbook)";
    FtsMissing "fts_missing" Critical: "The full-text table embedding_fulltext_search is missing: searches in documents fail."
        => "Stop Chroma, keep a copy of {path}, then create it again and fill it from embedding_metadata: sqlite3 {path}/chroma.sqlite3 \"BEGIN; CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram'); INSERT INTO embedding_fulltext_search(rowid, string_value) SELECT id, string_value FROM embedding_metadata WHERE key='chroma:document'; COMMIT\"";
    FtsCutAtNul "fts_cut_at_nul" Info: "Documents hold the character U+0000. SQLite up to 3.46, which Chroma 1.x carries, puts only the text before it into the full-text index, so that $contains does not find what stands behind it. Nothing is damaged."
        => "Nothing has to be mended. To find that text too, upsert the records named here with documents without U+0000. Do not rebuild the full-text index with a newer sqlite3: Chroma's own would then call it damaged.";
    FtsLostAtUpgrade "fts_lost_at_upgrade" Warning: "Chroma below 0.4.6 made this store. The next newer Chroma that opens it fills the full-text table by wrong numbers: $contains then finds no document or wrong ones, and Chroma 1.x refuses every addition."
        => "Before the upgrade keep a copy of {path}. After it, open the store once, stop Chroma before anything is written, and make the table anew: sqlite3 {path}/chroma.sqlite3 \"BEGIN; DROP TABLE embedding_fulltext_search; CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram'); INSERT INTO embedding_fulltext_search(rowid, string_value) SELECT id, string_value FROM embedding_metadata WHERE key='chroma:document'; COMMIT\"";
    FtsOutOfStep "fts_out_of_step" Warning: "The full-text table does not have the documents that the records have: searches in documents miss records or find wrong ones, and on Chroma 1.x additions may fail."
        => "Stop Chroma, keep a copy of {path}, then make the table anew: sqlite3 {path}/chroma.sqlite3 \"BEGIN; DROP TABLE embedding_fulltext_search; CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram'); INSERT INTO embedding_fulltext_search(rowid, string_value) SELECT id, string_value FROM embedding_metadata WHERE key='chroma:document'; COMMIT\" (its own command 'rebuild' does not mend this)";
    // journal
    HotJournal "hot_journal" Warning: "A transaction was cut off (power loss, kill -9, full disk) and is waiting to be rolled back from the journal; nothing is lost."
        => "Start Chroma on {path}: it rolls back by itself. Never delete chroma.sqlite3-journal: without it the database is damaged.";
    JournalForeign "journal_foreign" Critical: "chroma.sqlite3-journal belongs to another database or another state of it; the next open would play it over this one."
        => "Do not open the database. Move chroma.sqlite3-journal out of {path} into a safe place, then run check again.";
    WalMode "wal_mode" Warning: "The database has a write-ahead log or is in WAL mode, which Chroma never sets: newest rows may live only in chroma.sqlite3-wal."
        => "Stop Chroma, never delete the -wal file, then: sqlite3 {path}/chroma.sqlite3 'PRAGMA journal_mode=DELETE'";
    // schema
    SchemaNewerThanServer "schema_newer_than_server" Critical: "The directory was migrated by a newer Chroma than the one that opens it, which then panics with 'range start index out of range', or (below 1.0) lacks columns. Nothing is damaged."
        => "Upgrade chromadb (pip install --upgrade chromadb) at least to the release named in the evidence. Do not delete {path} and do not undo migrations: its data is healthy.";
    SchemaNewerThanExporter "schema_newer_than_exporter" Info: "A Chroma that is newer than this program has migrated the store. Nothing is wrong with it for that; what is new in it is not judged."
        => "Upgrade chroma_exporter, so that it knows this store. Judge what it says of it meanwhile as of a store that it knows only in part.";
    MigrationMismatch "migration_mismatch" Critical: "The table of applied migrations has a gap or a changed hash; Chroma refuses to open the database."
        => "Stop Chroma, keep a copy of {path}, and compare the migrations table with a healthy database of the same Chroma version.";
    MigrationsMissing "migrations_missing" Critical: "The table of applied migrations is missing or empty; Chroma would apply all of them again and fail."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup back.";
    TableMissing "table_missing" Critical: "A table that this schema version has is missing."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup back.";
    DefaultTenantMissing "default_tenant_missing" Critical: "The tenant default_tenant is missing: clients get 'Could not connect to tenant default_tenant'."
        => "Stop Chroma, keep a copy of {path}, then: sqlite3 {path}/chroma.sqlite3 \"INSERT INTO tenants(id) VALUES('default_tenant')\"";
    DefaultDatabaseMissing "default_database_missing" Critical: "The database default_database is missing: clients get 'Database [default_database] not found'."
        => "Stop Chroma, keep a copy of {path}, then: sqlite3 {path}/chroma.sqlite3 \"INSERT INTO databases(id,name,tenant_id) VALUES('00000000-0000-0000-0000-000000000000','default_database','default_tenant')\"";
    CatalogEmpty "catalog_empty" Critical: "Segment folders with vectors are there, but the catalogue lists no collection: an empty database was started over old data."
        => "Stop Chroma, keep a copy of {path}, and put the newest verified backup of chroma.sqlite3 back; do not delete the folders.";
    // catalogue rows
    CollectionConfigInvalid "collection_config_invalid" Critical: "Chroma cannot read the configuration of a collection or of the queue; one such row breaks the listing of all collections, one for the queue every opening."
        => "Stop Chroma, keep a copy of {path}, and put back the text of that row from a backup, or that of a like collection: sqlite3 {path}/chroma.sqlite3 \"SELECT id, name, config_json_str FROM collections\". Do not delete the collection: its data are whole.";
    CollectionDimensionMismatch "collection_dimension_mismatch" Critical: "The dimension that the catalogue states is not the one of the vectors: queries and additions are refused, or queries give nothing without an error."
        => "Stop Chroma, keep a copy of {path}, and write the dimension that the vectors have (check names it) into collections.dimension of that collection. Do not delete the segment folder. When other vectors than those of the collection are in its folder (segment_inconsistent), put the right folder back instead.";
    CollectionWithoutSegments "collection_without_segments" Critical: "A collection has not exactly one metadata and one vector segment that Chroma can use; its records and vectors may be whole and are out of reach."
        => "Stop Chroma, keep a copy of {path}, and put the rows of the table segments back from a backup; the id of a vector segment is the name of its folder. Do not delete folders, nor the collection unless the evidence says that it never had a record.";
    OrphanRows "orphan_rows" Warning: "Rows belong to nothing that the catalogue knows: what they hold is out of reach, and still on the disk."
        => "Keep a copy of {path} and compare with a backup before anything is removed; what Chroma left of deleted collections and databases does no harm.";
    // queue
    SeqIdInvalid "seq_id_invalid" Critical: "A segment's recorded position in the queue is past the end of the queue, or Chroma cannot read it. New writes are acknowledged and lost, or the collection cannot be used."
        => "Stop writing now. Keep a copy of {path}, then set seq_id of that segment in max_seq_id to 0 on Chroma 1.x (what is still in the queue is applied again, which does no harm), below 1.0 to the newest row of its queue. Never empty embeddings_queue by hand: its numbers start again at 1, and every later write is lost.";
    SeqIdMissing "seq_id_missing" Info: "A segment has applied rows of the queue, and its place is not written down."
        => "Nothing to do on Chroma 1.x, which writes it at the next flush; below 1.0 put the row of max_seq_id back from a backup.";
    QueuePoisoned "queue_poisoned" Critical: "A row of the queue cannot be applied; no later row is either, and on Chroma 1.x reads of the collection, or of all, fail with it."
        => "Stop Chroma, keep a copy of {path}, save the row named in the evidence (sqlite3 {path}/chroma.sqlite3 \"SELECT quote(id), quote(metadata) FROM embeddings_queue WHERE seq_id=N\"), delete that one row and upsert the record again with its vector. Never empty the whole queue: it holds vectors that are nowhere else.";
    QueueBacklog "queue_backlog" Warning: "A segment is further behind the queue than its sync threshold allows: the next start takes long and much memory, and nothing is purged."
        => "Look in the log of Chroma for errors of the flush (compaction, hnsw segment writer); do not vacuum before it is gone.";
    QueueNotPurged "queue_not_purged" Info: "The queue keeps rows that all segments have applied: it takes room, and deleted texts stay on the disk."
        => "With Chroma stopped, a backup made and no finding about segments: chroma vacuum --path {path} (0.5.6 to 0.6.3: chroma utils vacuum --path {path}; both ask before they begin)";
    IndexLag "index_lag" Warning: "A segment stands still while writes go on: what is written cannot be found, or grows the queue without end."
        => "Look in the log of Chroma for the first error of the flush, and keep a copy of {path} before a restart; never delete the segment folder to make it go on.";
    // HNSW folders
    SegmentMissing "segment_missing" Critical: "The folder of a collection's vectors is gone; queries answer from the queue alone, without any error, and the next flush writes a small index in its place."
        => "Stop Chroma, keep a copy of {path}, and put the folder named here back from the newest verified backup. Never run chroma vacuum now: the queue may be the only copy of the vectors.";
    SegmentIncomplete "segment_incomplete" Critical: "A file of a collection's index is missing or empty: Chroma cannot load the index, or starts an empty one over it without any error."
        => "Stop Chroma, keep a copy of {path}, and put the whole folder named here back from the newest verified backup. Do not delete the folder: the evidence says what can still be read out of it. Never run chroma vacuum now.";
    SegmentTruncated "segment_truncated" Critical: "A file of a collection's index is shorter than its elements need; loading it ends the whole server with SIGSEGV, or gives wrong vectors."
        => "Stop Chroma, keep a copy of {path}, and put the whole folder named here back from the newest verified backup. Do not delete the folder: the evidence says how many vectors can still be read out of it.";
    SegmentHeaderInvalid "segment_header_invalid" Critical: "header.bin of a collection's index states values that no index has; loading it ends the whole server with SIGSEGV."
        => "Stop Chroma, keep a copy of {path}, and put the whole folder named here back from the newest verified backup. Do not delete the folder: the evidence says how many vectors can still be read out of it.";
    SegmentMetadataInvalid "segment_metadata_invalid" Critical: "index_metadata.pickle of a collection's index is cut off, damaged or not Chroma's, most often after a kill during a flush; the collection cannot be queried."
        => "Stop Chroma, keep a copy of {path}, and put the whole folder named here back from the newest verified backup. Do not delete the pickle: the collection would open again with an empty index.";
    SegmentMetadataHostile "segment_metadata_hostile" Critical: "index_metadata.pickle of a collection's index holds code; Chroma before 1.0 runs it at the next query, with the rights of the server."
        => "Stop Chroma now and do not start it on {path}. Keep a copy of the folder named here as evidence, find out who could write there, and restore the folder from a backup that is older.";
    SegmentInconsistent "segment_inconsistent" Critical: "The files of a collection's index contradict each other or the database (neighbours, labels, counts, numbers that are not finite, an exchanged folder), or bytes changed although nobody wrote them; queries crash the server or answer wrongly."
        => "Stop Chroma, keep a copy of {path}, and put the whole folder named here back from the newest verified backup. Do not delete the folder: the evidence says how many vectors can still be read out of it.";
    SegmentBloated "segment_bloated" Critical: "A file of a collection's index is far larger than its elements need: one impossible record size in link_lists.bin makes every flush write further behind its end, until the disk is full."
        => "Stop Chroma before the disk is full, keep a copy of {path} with cp --sparse=always, and put the whole folder named here back from the newest verified backup. Do not delete the folder: the evidence says how many vectors can still be read out of it.";
    SegmentBehind "segment_behind" Critical: "The index of a collection is older than the database, as after a restore of one without the other, or the two went apart: records are not found by their vectors."
        => "Stop Chroma, keep a copy of {path}, and restore database and folder from the same backup; without one, add the records named here again with their vectors. Do not delete the folder: it holds the older vectors.";
    SegmentAhead "segment_ahead" Warning: "The index of a collection is newer than the database, as after a restore of chroma.sqlite3 alone: it holds vectors of records that the database does not know."
        => "Stop Chroma, keep a copy of {path}, and restore database and folder from the same backup. Do not delete the folder: it holds the vectors of the records that are known.";
    RecordsWithoutVector "records_without_vector" Critical: "Records are in the database, but their vectors are neither in the index nor in the queue; that is what two processes writing to one directory leave, without any error and with every count right."
        => "Stop all processes but one that write to {path} (check names them), keep a copy, then upsert the records named here again with their embeddings; their texts and metadata are whole.";
    RecordsUnreachable "records_unreachable" Warning: "Records whose vectors are in the index are not found by any query: after many deletes and updates no link of the graph leads to them, while get still gives them."
        => "Nothing is lost. Make a new collection and copy every record into it with its embedding (get with include embeddings, documents and metadatas, then add), then use that one. Do not delete the folder: it holds the vectors.";
    SegmentOrphan "segment_orphan" Info: "A folder with an index belongs to no collection any more: Chroma leaves it when a collection is deleted."
        => "Nothing is wrong. When you are sure that {path} holds the right chroma.sqlite3 and a backup is there, stop Chroma and move the folder named here away; do not if collections are missing from the list.";
    // processes
    SecondWriter "second_writer" Critical: "Two processes have the directory open for writing, or had and one of them has not been restarted since; each loses vectors of the other without any error."
        => "Stop all but one of them now, then restart the one that stays: only a new start reads what the others wrote.";
    SqliteToolOpen "sqlite_tool_open" Info: "A SQLite tool has chroma.sqlite3 open for writing beside Chroma. It takes no vectors away; while it has a transaction open Chroma cannot write, and what it changes in the tables the indexes do not know."
        => "Close it when it is not needed, and only look through it: sqlite3 -readonly {path}/chroma.sqlite3";
    ServerGone "server_gone" Critical: "The process that served this directory is gone and no other has taken its place."
        => "Start Chroma again when nothing critical about its files stands beside this, and look in its log and in the kernel's (journalctl -k) for why it ended.";
    StoreReplaced "store_replaced" Critical: "A running process holds a deleted or replaced chroma.sqlite3: its reads answer from a file that goes when it ends, and its writes fail (code 1032)."
        => "Do not stop that process before its open file is saved outside {path}: cp /proc/PID/fd/N /var/tmp/chroma.sqlite3.saved (PID and N as found).";
    LockHeld "lock_held" Warning: "A process holds a lock on chroma.sqlite3 for long; all writers wait for it in silence."
        => "Look at the process named in the evidence, and end it if it is a forgotten shell or a hung tool.";
    DescriptorsLow "descriptors_low" Warning: "The process that holds the directory has nearly used up its file descriptors; the next open fails."
        => "Raise its limit (LimitNOFILE= or ulimit -n) and restart it.";
    // disk
    DiskUsageHigh "disk_usage_high" Warning: "The filesystem of the directory is filling up; a full disk cuts writes off in the middle."
        => "Free space on it; see what grew with: du -xh --max-depth=2 {path} | sort -h | tail";
    DiskUsageCritical "disk_usage_critical" Critical: "The filesystem of the directory is nearly full; a full disk cuts writes off in the middle."
        => "Free space on it now, or stop Chroma before the next write fails.";
    DiskWillFill "disk_will_fill" Warning: "At the pace of the last hours the filesystem of the directory will be full soon."
        => "Find what grows with: du -xh --max-depth=2 {path} | sort -h | tail";
    InodesLow "inodes_low" Warning: "The filesystem of the directory has few inodes left; new files cannot be made although bytes are free."
        => "Find the many small files with: df -i {path}; du --inodes -x / | sort -n | tail";
    DiskReadonly "disk_readonly" Critical: "The filesystem of the directory is mounted read-only: every write fails while reads and heartbeats look healthy."
        => "Remount or repair the filesystem when the kernel's log has said why: dmesg | tail";
    HeadroomLow "headroom_low" Warning: "Less than twice the size of the database is free: neither a vacuum nor a backup beside it has room."
        => "Free space on the filesystem of {path}, or put backups and temporary files on another one.";
    DiskRemote "disk_remote" Warning: "The directory lies on a filesystem of another host, or one that is handed through by another program: SQLite's locks are not reliable there, so that two processes may write at once and damage the database."
        => "Stop Chroma and move the directory to a disk of the host that runs it; other hosts ask the server instead of the files.";
    DiskTemporary "disk_temporary" Warning: "The directory lies where nothing is kept: in memory, or in the layer of a container that goes away with it."
        => "Put the directory on a disk: for a container on a volume, docker run -v chroma-data:DIR; stop Chroma and copy {path} there first.";
    StoreSynced "store_synced" Warning: "A tool like Syncthing or Dropbox copies the files of the directory to and from other hosts while Chroma writes them: database and index folders of different moments come together."
        => "Stop Chroma, take {path} out of the folder that the tool keeps in step, and check the store before it is started again: chroma_exporter check --store.path {path}";
    // permissions
    PermissionDrift "permission_drift" Warning: "Owner, group, mode or type of an entry differs from what was declared or learnt."
        => "Mend it with chown and chmod as shown in the evidence; if the change was wanted, declare it in the configuration.";
    PermissionUnwritable "permission_unwritable" Critical: "The user that Chroma runs as cannot write a file or directory that it must write."
        => "Give owner and mode back to the entries that the evidence names, by its command. The directory itself must be writable too, for the journal.";
    PermissionWorldWritable "permission_world_writable" Warning: "Everybody on this host may change an entry of the directory."
        => "Take the right away from each entry that is named: chmod o-w ENTRY (find them all with: find {path} -maxdepth 2 -perm -o+w -ls)";
    // backups
    BackupMissing "backup_missing" Warning: "No complete backup is to be found where one is expected."
        => "Make one now, and look in the log of the backup job for why it made none.";
    BackupStale "backup_stale" Warning: "The newest complete backup is older than it should be."
        => "Make one now, and look in the log of the backup job for why it stopped.";
    BackupInvalid "backup_invalid" Critical: "The newest backup is empty, cut off or not what its name says; it would not restore."
        => "Make a new one now and keep the older ones until it is proved.";
    BackupIncomplete "backup_incomplete" Warning: "The newest backup has the database without all the index folders that the store has: the vectors in those are nowhere else, so that what is restored from it finds no record by its vector."
        => "Keep the older backups, and back up the whole directory: chroma.sqlite3 first (sqlite3 {path}/chroma.sqlite3 '.backup COPY'), then every folder beside it.";
    BackupShrunk "backup_shrunk" Warning: "The newest backup is much smaller than the one before: it may lack most of the data."
        => "Open it and compare with the one before, before the older one is pruned.";
    BackupSameDisk "backup_same_disk" Info: "The backups lie on the same filesystem as the directory they protect."
        => "Copy them to another disk or host.";
    // server, logs
    ServerUnreachable "server_unreachable" Critical: "Nothing answers at the address of the server: it is not running, hangs, or listens elsewhere."
        => "See whether it runs and why it ended: pgrep -af chroma; journalctl -k --grep 'oom|segfault' --since -1h";
    ServerFailing "server_failing" Critical: "The server answers its heartbeat, which never touches the database, but fails to read from it: clients get errors."
        => "Do not restart it yet: run chroma_exporter check first, because a restart over a missing database starts an empty one.";
    ServerElsewhere "server_elsewhere" Warning: "The server that answers has other collections than this directory: it serves another directory, and what is written to it does not come here."
        => "Stop writing, and see which directory the server has open: ls -l /proc/$(pgrep -of chroma)/fd | grep sqlite3. Then start it on {path}, or name the right directory or server.url in the configuration.";
    LogPanic "log_panic" Critical: "The server's log tells of a panic or a crash."
        => "Run chroma_exporter check, and upgrade chromadb if the line says 'out of range for slice of length'; delete nothing for it.";
    LogError "log_error" Warning: "The server's log tells of an error that concerns the data or the host."
        => "Read the lines around it in the log, then run chroma_exporter check, which tells the cause where it can.";
    // ourselves
    CheckOverdue "check_overdue" Warning: "An integrity check has come to no verdict for more than twice its interval: damage would not be noticed."
        => "Run it in a quiet hour with: chroma_exporter check --store.path {path} (why it was given up stands in the evidence)";
    CollectorFailing "collector_failing" Warning: "A collector cannot read what it should: what it watches is not known, and findings of it neither come nor go."
        => "See what it could not read in the evidence, or with: chroma_exporter check --quick --store.path {path}";
}

impl Code {
    /// Path of the runbook in this repository.
    #[must_use]
    pub fn runbook(self) -> String {
        format!("{RUNBOOK_BASE}{}.md", self.as_str())
    }

    /// What to do about it in the store at `path`.
    #[must_use]
    pub fn remedy(self, path: &std::path::Path) -> String {
        with_path(self.remedy_template(), path)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words_and_every_remedy_says_something() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code:?}");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code:?}");
            assert!(code.cause().ends_with('.') && code.remedy_template().len() > 20, "{code:?}");
        }
    }

    #[test]
    fn a_remedy_can_be_pasted_whatever_the_path_is_called() {
        for (path, want) in [
            ("/srv/chroma", "/srv/chroma/chroma.sqlite3"),
            ("/srv/my data", "'/srv/my data'/chroma.sqlite3"),
            ("/srv/o'x; rm -rf", "'/srv/o'\\''x; rm -rf'/chroma.sqlite3"),
        ] {
            let remedy = Code::SqliteIndexCorrupt.remedy(std::path::Path::new(path));
            assert!(remedy.contains(&format!("sqlite3 {want} REINDEX")), "{remedy}");
        }
    }

    #[test]
    fn names_from_disk_cannot_forge_lines() {
        let finding = Finding::new(Code::PermissionDrift, "a\nb", "x\u{1b}[31m".repeat(400));
        assert_eq!(finding.subject, "a b");
        assert!(finding.evidence.chars().all(|c| !c.is_control()));
        assert_eq!(finding.evidence.chars().count(), EVIDENCE_CHARS_MAX + 1);
        let finding = finding.with_items(["a", "b\nc\u{1b}"]);
        assert_eq!(
            (&finding.items[..], finding.items_total),
            (&["a", r"b\nc\u{1b}"].map(str::to_owned)[..], 2)
        );
    }

    #[test]
    fn a_list_is_bounded_and_says_how_many_there_are() {
        let of = |items: Vec<String>, total| {
            let finding = Finding::new(Code::OrphanRows, "", "").with_items_of(items, total);
            (finding.items.len(), finding.items_total)
        };
        let many: Vec<String> = (0..=ITEMS_MAX).map(|n| n.to_string()).collect();
        assert_eq!(of(many, 0), (ITEMS_MAX, ITEMS_MAX as u64 + 1));
        assert_eq!(of(vec!["a".to_owned()], 700), (1, 700));
        // The list ends where it had no more room: nothing behind the gap is named.
        let long = vec!["é".repeat(ITEM_CHARS_MAX + 9); 2_500];
        let room = ITEMS_BYTES_MAX / (2 * ITEM_CHARS_MAX + '…'.len_utf8());
        assert_eq!(of(long.into_iter().chain(["z".to_owned()]).collect(), 0), (room, 2_501));
    }
}
