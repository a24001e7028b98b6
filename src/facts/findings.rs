//! Findings: what is wrong with one store, with its evidence. What is known of each kind stands in `catalogue`.

mod catalogue;
pub(crate) mod conflicts;
pub mod order;
mod remedy;

use serde::{Deserialize, Serialize};

pub use self::{
    catalogue::{Act, Code, DiskLevel, FETCH_FROM_GIT},
    remedy::{Remedy, Template, command},
};
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
    /// What to do in this case, where that is another thing than the catalogue says, or where the command can name what it is about.
    pub remedy: Option<Remedy>,
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

    /// The same with what to do in this case.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<Remedy>) -> Self {
        let remedy = remedy.into();
        let words = clean(&remedy.words);
        let note = remedy.note.as_deref().map(clean);
        Self { remedy: Some(Remedy { words, note, ..remedy }), ..self }
    }

    /// The same with the remedy of the catalogue, but for its command.
    #[must_use]
    pub fn with_command(self, command: Option<String>) -> Self {
        let remedy = Remedy::from(self.code.template());
        self.with_remedy(remedy.with_command(command))
    }

    /// The same with the moment at which it began.
    #[must_use]
    pub fn with_since(self, at: Timestamp) -> Self {
        Self { since: Some(at), ..self }
    }

    /// What to do about it in the store at `path`.
    #[must_use]
    pub fn remedy(&self, path: &std::path::Path) -> Remedy {
        self.remedy.clone().unwrap_or_else(|| self.code.template().into()).at(path)
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

#[cfg(test)]
mod tests {
    use super::*;

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
