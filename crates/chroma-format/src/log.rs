//! Lines that a Chroma server logs: which of them tell of trouble, and what of them may be shown. Read from logs of 0.6.3
//! (uvicorn: `ERROR:    [23-11-2026 21:38:01] file is not a database`) and 1.5.9 (tracing, with colours and several lines
//! per event), and from what users of all releases report.
//!
//! A line may hold whatever a client sent, so lines that quote a request are passed over, and so are those of a level below
//! a warning. What remains is foreign text all the same: nothing is concluded from it but that it was written.

use alloc::string::String;

/// What a line tells of. The order decides when a line could be several: the gravest first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// The server or the library panicked or crashed.
    Panic,
    /// The database was migrated by another release, or its migrations do not fit.
    Migration,
    /// SQLite calls the database damaged.
    Malformed,
    /// The disk is full.
    DiskFull,
    /// The device failed.
    IoError,
    /// A file may not be written, or was deleted or replaced under the server.
    Readonly,
    /// The database cannot be opened.
    CannotOpen,
    /// Somebody held a lock for too long.
    Locked,
    /// An HNSW index cannot be loaded, read or written.
    Index,
    /// The queue of writes cannot be read or applied.
    Queue,
    /// A row of the catalogue cannot be read.
    Catalogue,
    /// The default tenant or database is not found.
    Tenant,
    /// Memory ran out.
    Memory,
    /// A worker of the server was killed, mostly for its memory or because it did not answer.
    Worker,
    /// File descriptors ran out.
    Descriptors,
    /// A request ended with a status of 500 or more; releases from 1.0 on log no more of it.
    FailedRequest,
}

impl Signature {
    /// All of them, the gravest first.
    pub const ALL: [Self; 16] = [
        Self::Panic,
        Self::Migration,
        Self::Malformed,
        Self::DiskFull,
        Self::IoError,
        Self::Readonly,
        Self::CannotOpen,
        Self::Locked,
        Self::Index,
        Self::Queue,
        Self::Catalogue,
        Self::Tenant,
        Self::Memory,
        Self::Worker,
        Self::Descriptors,
        Self::FailedRequest,
    ];

    /// The word of the `signature` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Migration => "migration",
            Self::Malformed => "malformed",
            Self::DiskFull => "disk_full",
            Self::IoError => "io_error",
            Self::Readonly => "readonly",
            Self::CannotOpen => "cannot_open",
            Self::Locked => "locked",
            Self::Index => "index",
            Self::Queue => "queue",
            Self::Catalogue => "catalogue",
            Self::Tenant => "tenant",
            Self::Memory => "memory",
            Self::Worker => "worker",
            Self::Descriptors => "descriptors",
            Self::FailedRequest => "failed_request",
        }
    }

    /// Texts of which one must stand in the line, as they are written.
    const fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Panic => &[
                "panicked at",
                "PanicException",
                "Fatal Python error",
                "Segmentation fault",
                "SIGSEGV",
                "fatal runtime error: ",
                "Rust cannot catch foreign exceptions",
            ],
            Self::Migration => &[
                "out of range for slice of length",
                "Inconsistent hash",
                "Inconsistent version",
                "Unapplied migration",
                "duplicate column name: schema_str",
                "no such column: collections.topic",
                "KeyError: '_type'",
            ],
            Self::Malformed => &[
                "database disk image is malformed",
                "file is not a database",
                "vtable constructor failed",
                "(code: 11)",
                "(code: 26)",
                "(code: 267)",
                "(code: 779)",
            ],
            Self::DiskFull => {
                &["database or disk is full", "No space left on device", "(code: 13)"]
            }
            Self::IoError => &["disk I/O error", "Input/output error", "(code: 10)", "(code: 522)"],
            Self::Readonly => &[
                "attempt to write a readonly database",
                "Read-only file system",
                "(code: 8)",
                "(code: 776)",
                "(code: 1032)",
                "(code: 1544)",
            ],
            Self::CannotOpen => &["unable to open database file", "(code: 14)"],
            Self::Locked => {
                &["database is locked", "database table is locked", "(code: 5)", "(code: 6)"]
            }
            Self::Index => &[
                "Error loading hnsw index",
                "Error deserializing pickle file",
                "Error opening pickle file",
                "Error creating hnsw segment",
                "hnsw segment writer",
                "hnsw segment reader",
                "Error finding id",
                "Error getting embedding",
                "Cannot open header file",
                "Nothing found on disk",
                "Index seems to be corrupted",
                "EOFError: Ran out of input",
                "Label not found",
            ],
            Self::Queue => &[
                "Failed to pull logs from the log store",
                "Failed to apply logs to the metadata segment",
                "Error purging logs",
                "Error in compaction",
            ],
            Self::Catalogue => &["Missing field: [Missing", "Could not deserialize configuration"],
            Self::Tenant => &[
                "Tenant [default_tenant] not found",
                "Tenant default_tenant not found",
                "Could not connect to tenant default_tenant",
                "Database [default_database] not found",
                "Database default_database not found",
            ],
            Self::Memory => {
                &["Cannot allocate memory", "memory allocation of", "MemoryError", "Out of memory"]
            }
            Self::Worker => {
                &["was sent SIGKILL!", "was terminated due to signal 9", "WORKER TIMEOUT (pid:"]
            }
            Self::Descriptors => &["Too many open files"],
            Self::FailedRequest => &["Status code: 50"],
        }
    }

    fn of(text: &str) -> Option<Self> {
        let stands = |signature: &Self| signature.texts().iter().any(|part| text.contains(part));
        Self::ALL.into_iter().find(stands)
    }
}

/// Reads line after line of one log.
#[derive(Debug, Default)]
pub struct Scanner {
    /// How many lines there were of each signature, in the order of [`Signature::ALL`].
    pub counts: [u64; Signature::ALL.len()],
    /// The newest line of each, cleaned and without what looks like a secret.
    pub newest: [Option<String>; Signature::ALL.len()],
    /// The line before was a panic whose message stands in this one.
    message_follows: bool,
}

impl Scanner {
    /// What follows comes from another file.
    pub fn begin_file(&mut self) {
        self.message_follows = false;
    }

    /// Reads one line without its end; only the first [`LINE_BYTES_MAX`] bytes are looked at.
    pub fn line(&mut self, line: &[u8]) {
        let text = plain(&line[..line.len().min(LINE_BYTES_MAX)]);
        let text = text.trim();
        if core::mem::take(&mut self.message_follows)
            && let Some(panic) = &mut self.newest[0]
        {
            panic.push(' ');
            panic.push_str(&shown(text));
        }
        if text.is_empty() || quotes_request(text) {
            return;
        }
        let signature = if is_child_died(text) {
            Signature::Worker
        } else if is_quiet(text) {
            return;
        } else if let Some(signature) = Signature::of(text) {
            signature
        } else {
            return;
        };
        // Rust writes the place of a panic in one line and its message in the next.
        self.message_follows = signature == Signature::Panic && text.ends_with(':');
        let index = signature as usize;
        self.counts[index] += 1;
        self.newest[index] = Some(shown(text));
    }

    /// Whether no line told of anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }
}

/// A log line as text: valid UTF-8, without colours and other control sequences.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // ECMA-48: parameters, then one byte from @ to ~. What is cut off at the end is dropped with it.
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    chars.find(|c| ('@'..='~').contains(c));
                }
            }
            c if c.is_control() => out.push(' '),
            // They turn the direction of what follows them.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c => out.push(c),
        }
    }
    out
}

/// Whether the first level in the line is one below a warning.
fn is_quiet(text: &str) -> bool {
    let end = text.char_indices().nth(LEVEL_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    let level =
        text[..end].split(|c: char| !c.is_ascii_alphabetic()).find(|word| LEVELS.contains(word));
    level.is_some_and(|level| QUIET.contains(&level))
}

/// Whether uvicorn tells that one of its workers ended although nobody asked it to. It calls that an INFO (0.30 and newer,
/// `supervisors/multiprocess.py`), so the line must have its form and nothing else.
fn is_child_died(text: &str) -> bool {
    let said = text.strip_prefix("INFO:").unwrap_or(text).trim_start();
    let Some(pid) = said.strip_prefix("Child process [").and_then(|s| s.strip_suffix("] died"))
    else {
        return false;
    };
    !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the line holds words that a client chose.
fn quotes_request(text: &str) -> bool {
    text.contains("http.uri") || text.contains(" HTTP/1.") || text.contains(" HTTP/2")
}

/// A line for people: short, and without the value of anything that is called like a secret.
fn shown(text: &str) -> String {
    let text = redacted(text);
    let mut out: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn redacted(text: &str) -> String {
    let lower = text.to_ascii_lowercase(); // of the same length, byte for byte
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let next = |at: usize| {
        let ends = SECRETS.iter().filter_map(|key| Some(at + lower[at..].find(key)? + key.len()));
        ends.min()
    };
    while let Some(end) = next(at) {
        let rest = &text[end..];
        let value = rest.trim_start_matches([' ', ':', '=', '"', '\'']);
        let between = &rest[..rest.len() - value.len()];
        out.push_str(&text[at..end]);
        at = end;
        let is_value =
            between.contains([':', '=']) || lower[..end].ends_with("bearer") && between == " ";
        if !is_value {
            continue; // the word itself, without a value
        }
        let word =
            |text: &str| text.find([' ', ',', '"', '\'', '}', ')', '&', ';']).unwrap_or(text.len());
        let mut length = word(value);
        if SCHEMES.iter().any(|scheme| value[..length].eq_ignore_ascii_case(scheme)) {
            let after = &value[length..];
            let credentials = after.trim_start();
            length += after.len() - credentials.len() + word(credentials);
        }
        out.push_str(between);
        out.push_str("<redacted>");
        at = end + between.len() + length;
    }
    out.push_str(&text[at..]);
    out
}

/// Longest part of a line that is looked at.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

const SHOWN_CHARS_MAX: usize = 300;
/// A level stands near the beginning, after a time and colours.
const LEVEL_CHARS_MAX: usize = 120;
const LEVELS: [&str; 8] =
    ["TRACE", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL"];
const QUIET: [&str; 3] = ["TRACE", "DEBUG", "INFO"];
const SECRETS: [&str; 9] = [
    "authorization",
    "bearer",
    "x-chroma-token",
    "token",
    "password",
    "secret",
    "api_key",
    "api-key",
    "apikey",
];
const SCHEMES: [&str; 3] = ["bearer", "basic", "token"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(lines: &[&str]) -> Scanner {
        let mut scanner = Scanner::default();
        for line in lines {
            scanner.line(line.as_bytes());
        }
        scanner
    }

    #[test]
    fn lines_of_real_servers_are_told_apart() {
        for (line, want) in [
            // 1.5.9
            (
                "  \u{1b}[2m2026-11-23T21:37:47.004610Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m  \u{1b}[31mresponse failed, \u{1b}[1;31mclassification\u{1b}[0m\u{1b}[31m: Status code: 500 Internal Server Error, \u{1b}[1;31mlatency\u{1b}[0m\u{1b}[31m: 0 ms\u{1b}[0m",
                Some("failed_request"),
            ),
            (
                "  2026-11-23T21:37:09.748879Z  INFO  tenant_name: panicked at, database_name: default_database",
                None,
            ),
            (
                "    in HTTP request with http.method: GET, http.uri: /api/v2/tenants/database%20is%20locked panicked at",
                None,
            ),
            ("sqlite3.OperationalError: database is locked", Some("locked")),
            (
                "thread 'main' panicked at rust/sqlite/src/db.rs:157:42: range start index 10 out of range for slice of length 9",
                Some("panic"),
            ),
            ("range start index 10 out of range for slice of length 9", Some("migration")),
            // 0.6.3
            ("ERROR:    [23-11-2026 21:38:01] file is not a database", Some("malformed")),
            (
                "ERROR:    [23-11-2026 21:37:56] attempt to write a readonly database",
                Some("readonly"),
            ),
            ("DEBUG:    [23-11-2026 21:37:55] Starting component SqliteDB", None),
            (
                "WARNING:  [23-11-2026 21:37:54] chroma_server_nofile cannot be set to a value greater than the current hard limit",
                None,
            ),
            ("INFO:     127.0.0.1:3 - \"GET /api/v1/x?q=panicked at HTTP/1.1\" 200", None),
            ("sqlite3.OperationalError: database or disk is full", Some("disk_full")),
            ("Error in compaction: Failed to apply logs to the metadata segment", Some("queue")),
            ("Failed to apply logs to the hnsw segment writer", Some("index")),
            (
                "error returned from database: (code: 1032) attempt to write a readonly database",
                Some("readonly"),
            ),
            ("error returned from database: (code: 1) no such table: x", None),
            (
                "ValueError: Could not connect to tenant default_tenant. Are you sure it exists?",
                Some("tenant"),
            ),
            ("NotFoundError: Tenant somebody's not found", None),
            ("OSError: [Errno 24] Too many open files", Some("descriptors")),
            ("fatal runtime error: Rust cannot catch foreign exceptions", Some("panic")),
            ("RuntimeError: Label not found", Some("index")),
            (
                "[2026-11-29 10:00:00 +0000] [7] [ERROR] Worker (pid:25) was sent SIGKILL! Perhaps out of memory?",
                Some("worker"),
            ),
            (
                "[2026-11-29 10:00:00 +0000] [7] [WARNING] Worker with pid 25 was terminated due to signal 9",
                Some("worker"),
            ),
            ("[2026-11-29 10:00:00 +0000] [7] [CRITICAL] WORKER TIMEOUT (pid:25)", Some("worker")),
            ("INFO:     Child process [25] died", Some("worker")),
            ("Child process [25] died", Some("worker")),
            ("INFO:     Child process [25] died of nothing", None),
            ("INFO:     query \"Child process [25] died\"", None),
            ("INFO:     127.0.0.1:3 - \"GET /x?q=Label not found HTTP/1.1\" 200", None),
            ("DEBUG:    fatal runtime error: x", None),
            ("", None),
        ] {
            let scanner = scan(&[line]);
            let found: Vec<_> = Signature::ALL
                .into_iter()
                .filter(|signature| scanner.counts[*signature as usize] > 0)
                .map(Signature::as_str)
                .collect();
            assert_eq!(found, want.into_iter().collect::<Vec<_>>(), "{line}");
            assert_eq!(scanner.is_empty(), want.is_none());
        }
    }

    #[test]
    fn a_panic_is_told_with_the_message_of_its_next_line() {
        let scanner = scan(&[
            "thread '<unnamed>' panicked at rust/sqlite/src/db.rs:157:42:",
            "range start index 10 out of range for slice of length 9",
            "note: run with `RUST_BACKTRACE=1`",
        ]);
        assert_eq!(
            scanner.newest[0].as_deref(),
            Some(
                "thread '<unnamed>' panicked at rust/sqlite/src/db.rs:157:42: range start index 10 out of range for slice of length 9"
            )
        );
        assert_eq!(scanner.counts[..3], [1, 1, 0]);
    }

    #[test]
    fn what_is_shown_holds_no_secret_and_no_control_character() {
        for (line, want) in [
            ("Authorization: Bearer abc.def panicked at", "Authorization: <redacted> panicked at"),
            (
                "panicked at {'x-chroma-token': 'abc', 'a': 1}",
                "panicked at {'x-chroma-token': '<redacted>', 'a': 1}",
            ),
            (
                "panicked at token=abc&x=1 password=\"q\"",
                "panicked at token=<redacted>&x=1 password=\"<redacted>\"",
            ),
            ("panicked at bearer abc", "panicked at bearer <redacted>"),
            ("panicked at invalid token", "panicked at invalid token"),
            ("panicked at \u{1b}[31mred\u{1b}]x\u{7}\u{202e}\t.\u{1b}[", "panicked at redx  ."),
        ] {
            assert_eq!(scan(&[line]).newest[0].as_deref(), Some(want), "{line:?}");
        }
        let long = format!("panicked at {}", "é".repeat(20_000));
        let shown = scan(&[&long]).newest[0].clone().unwrap();
        assert_eq!(shown.chars().count(), SHOWN_CHARS_MAX + 1);
    }

    #[test]
    fn words_are_unique_and_in_the_order_of_the_list() {
        let mut seen = std::collections::BTreeSet::new();
        for (index, signature) in Signature::ALL.into_iter().enumerate() {
            assert_eq!(signature as usize, index);
            assert!(seen.insert(signature.as_str()) && !signature.texts().is_empty());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_scanner_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8)) {
            let mut scanner = Scanner::default();
            for line in &lines {
                scanner.line(line);
            }
            for text in scanner.newest.into_iter().flatten() {
                prop_assert!(text.chars().all(|c| !c.is_control()));
            }
        }

        #[test]
        fn redaction_keeps_the_rest(text in "[a-zA-Z :=\"'é]{0,40}(token|Bearer|api_key)[ :=\"']{0,3}[a-z é]{0,20}") {
            drop(redacted(&text));
        }
    }
}
