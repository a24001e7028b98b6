//! What the server's own log tells: lines of a closed list of signatures, counted once each however the files are rotated,
//! and said for a while after the last of them. Only regular files are read, and never changed. Lines carry no time that
//! could be trusted, so the moment of a line is the moment at which it was read.

mod tail;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::tail::Tail;
use super::{Collector, Pace, Run, server};
use crate::{
    clock::Timestamp,
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::{Code, Finding},
    format::log::{Scanner, Signature},
    hidden,
    sample::{Desc, Observation},
    store::Context,
};

static LINES: Desc = Desc::counter(
    "chroma_log_signature_total",
    "Lines of the server's log that tell of trouble, by kind of trouble. Absent when no log is configured.",
)
.labelled(&["signature"]);
static FILES: Desc = Desc::gauge("chroma_log_files", "Log files that are followed.");
static UNREAD: Desc = Desc::gauge(
    "chroma_log_unread_bytes",
    "Bytes of the log that are still to be read. Each run reads a limited part.",
);

pub(super) static DESCS: [&Desc; 3] = [&LINES, &FILES, &UNREAD];

static CODES: [Code; 2] = [Code::LogPanic, Code::LogError];

/// What the log of one store's server tells.
#[derive(Debug)]
pub struct Logs {
    context: Context,
    /// Loaded at the first run.
    memory: Option<SavedLogs>,
    /// When it was last written down.
    saved: Option<Timestamp>,
}

/// What must survive a restart of this program. Counts and positions are kept together, so that no line counts twice.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedLogs {
    tail: Tail,
    noted: Vec<Noted>,
}

/// The lines of one signature.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noted {
    signature: Signature,
    total: u64,
    /// The lines that came without a longer break than the hold.
    lately: u64,
    since: Timestamp,
    last: Timestamp,
    /// Name of the file and the newest line.
    file: String,
    line: String,
}

impl Logs {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self { context: context.clone(), memory: None, saved: None }
    }

    fn load(&self) -> SavedLogs {
        self.context.host.state.load(STATE_KIND, &self.context.store.subject()).unwrap_or_default()
    }
}

impl SavedLogs {
    fn note(&mut self, scanner: Scanner, file: &str, now: Timestamp) {
        let seen = Signature::ALL.into_iter().zip(scanner.counts).zip(scanner.newest);
        for ((signature, count), line) in seen {
            let (1.., Some(line)) = (count, line) else { continue };
            let index = self.noted.iter().position(|noted| noted.signature == signature);
            let index = index.unwrap_or_else(|| {
                let (file, line) = (String::new(), String::new());
                let (total, lately) = (0, 0);
                self.noted.push(Noted {
                    signature,
                    total,
                    lately,
                    since: now,
                    last: now,
                    file,
                    line,
                });
                self.noted.len() - 1
            });
            let noted = &mut self.noted[index];
            if !noted.holds(now) {
                noted.lately = 0;
                noted.since = now;
            }
            noted.total = noted.total.saturating_add(count);
            noted.lately = noted.lately.saturating_add(count);
            noted.last = now;
            file.clone_into(&mut noted.file);
            // The server may have written down what it was sent.
            noted.line = hidden::shown_cut(&line).into_owned();
        }
    }

    fn total(&self, signature: Signature) -> u64 {
        self.noted.iter().find(|noted| noted.signature == signature).map_or(0, |noted| noted.total)
    }
}

impl Noted {
    const fn code(&self) -> Code {
        match self.signature {
            Signature::Panic => Code::LogPanic,
            _ => Code::LogError,
        }
    }

    /// Whether it is still said.
    fn holds(&self, now: Timestamp) -> bool {
        let hold = if self.code() == Code::LogPanic { PANIC_HOLD } else { ERROR_HOLD };
        now.since(self.last) < hold
    }

    fn finding(&self) -> Finding {
        let Self { lately, since, last, file, line, .. } = self;
        let evidence = if *lately == 1 {
            format!("at {last} in {file}: {line}")
        } else {
            format!("{lately} lines since {since}, the last at {last} in {file}: {line}")
        };
        Finding::new(self.code(), self.signature.as_str(), evidence)
    }
}

impl Logs {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, store: &Store) -> Pace {
        let inside = store.seen_path.to_string_lossy();
        Pace {
            interval: match &*store.logs {
                [] => super::NOTHING_TO_DO.max(collect.interval),
                _ => collect.interval,
            },
            deadline: collect.deadline,
            wakes: Wake::NONE,
            touches_store: store.logs.iter().any(|log| log.starts_with(&*inside)),
        }
    }
}

impl Collector for Logs {
    fn name(&self) -> CollectorName {
        CollectorName::Logs
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        if self.context.store.logs.is_empty() { &[] } else { &CODES }
    }

    fn pace(&self) -> Pace {
        Self::at_rest(&self.context.config, &self.context.store)
    }

    fn collect(&mut self, run: &Run) -> Observation {
        let mut out = Observation::default();
        if self.context.store.logs.is_empty() {
            return out;
        }
        if self.memory.is_none()
            && let Some(probe) = &self.context.store.server
        {
            server::know_secrets(probe);
        }
        let mut memory = self.memory.take().unwrap_or_else(|| self.load());
        let shape = memory.tail.shape();
        let mut scanner = Scanner::default();
        let root = &self.context.config.rootfs;
        let appended = memory.tail.read(&self.context.store.logs, root, run, &mut scanner);
        let counted = !scanner.is_empty();
        let file = appended.noted_in.as_ref().and_then(|path| path.file_name());
        memory.note(scanner, &file.unwrap_or_default().to_string_lossy(), run.now);

        for signature in Signature::ALL {
            let total = memory.total(signature) as f64;
            out.samples.push(LINES.with(vec![signature.as_str().into()], total));
        }
        out.samples.push(FILES.sample(memory.tail.count() as f64));
        out.samples.push(UNREAD.sample(memory.tail.unread_bytes() as f64));
        let mut reported: Vec<&Noted> =
            memory.noted.iter().filter(|noted| noted.holds(run.now)).collect();
        reported.sort_by_key(|noted| noted.signature);
        out.findings.extend(reported.into_iter().map(Noted::finding));
        out.problems = appended.problems;

        // Lines without a signature may be read twice after a crash and count nothing, so their positions can wait.
        let waited = self.saved.is_none_or(|saved| run.now.since(saved) >= SAVE_INTERVAL);
        if counted || waited || memory.tail.shape() != shape {
            self.context.host.state.save(STATE_KIND, &self.context.store.subject(), &memory);
            self.saved = Some(run.now);
        }
        self.memory = Some(memory);
        out
    }
}

const STATE_KIND: &str = "logs";
/// A panic is said for this long after the last one: long enough to be seen by whoever looks once an hour.
const PANIC_HOLD: Duration = Duration::from_hours(1);
/// Other lines repeat as long as their cause is there.
const ERROR_HOLD: Duration = Duration::from_mins(15);
const SAVE_INTERVAL: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
