//! The closed catalogue: all that is known of each finding stands in its one entry. Collectors attach the evidence. Terminal,
//! page, messages, rules, dashboards and the index of the runbooks all take their words from here.
//!
//! A new finding is an entry in this table, a page in `runbooks/` and a fault that shows it.

use serde::{Serialize, Serializer};

use super::{
    Severity,
    remedy::{Remedy, Template},
};

/// All that is known of a finding before it is found.
#[derive(Debug)]
struct Definition {
    code: &'static str,
    severity: Severity,
    subject: &'static str,
    cause: &'static str,
    remedy: Template,
    acts: &'static [Act],
    hold_secs: u64,
    keep_secs: u64,
    level: Option<DiskLevel>,
    runbook: &'static str,
}

/// What a remedy makes people do that another finding may forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Start Chroma, or start it anew.
    Start,
    /// Stop Chroma, or a process that holds the store.
    Stop,
    /// Open the database with a tool that writes.
    Open,
    /// Give up what the queue still holds.
    Vacuum,
    /// Move folders of vectors away.
    Move,
    /// Make an index anew from a text that may be the damaged one.
    Rebuild,
}

/// Which level of the used share of the disk a finding is about. Its alert watches the series instead of the finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskLevel {
    /// The lower one.
    Warning,
    /// The upper one.
    Critical,
}

macro_rules! or {
    ($default:expr) => {
        $default
    };
    ($default:expr, $given:expr) => {
        $given
    };
}

/// One entry a finding: its variant, code and severity, then
/// - `cause`: what is the matter and what comes of it, in one or two sentences;
/// - `words`, `command`, `note`: the [`Remedy`]; `{path}` in a command stands for the persist directory;
/// - `acts`: what the remedy makes people do, for the order of remedies that contradict each other;
/// - `hold`, `keep`: seconds of `for` and of `keep_firing_for` of its alert. Nearly all collectors look twice before they say a
///   thing, so that their word is enough; these are for what can come and go within a restart or a burst of work;
/// - `level`: for an alert over the used share of the disk.
macro_rules! catalogue {
    ($($subject:literal {
        $($variant:ident $code:literal $severity:ident {
            cause: $cause:literal,
            words: $words:expr,
            $(command: $command:expr,)?
            $(note: $note:expr,)?
            $(acts: $acts:expr,)?
            $(hold: $hold:expr,)?
            $(keep: $keep:expr,)?
            $(level: $level:ident,)?
        })*
    })*) => {
        /// A code of the catalogue.
        #[expect(clippy::doc_markdown, reason = "the causes are shown to people as they stand")]
        #[allow(rustdoc::broken_intra_doc_links, reason = "a cause may quote brackets, which are no links")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[doc = $cause] $variant,)*)* }

        impl Code {
            /// Every code, in the order of the catalogue.
            pub const ALL: &[Self] = &[$($(Self::$variant,)*)*];
        }

        pub(super) const CATALOGUE: &[Definition] = &[$($(Definition {
            code: $code,
            severity: Severity::$severity,
            subject: $subject,
            cause: $cause,
            remedy: Template {
                words: $words,
                command: or!("" $(, $command)?),
                note: or!("" $(, $note)?),
            },
            acts: or!(&[] $(, &$acts)?),
            hold_secs: or!(0 $(, $hold)?),
            keep_secs: or!(0 $(, $keep)?),
            level: or!(None $(, Some(DiskLevel::$level))?),
            runbook: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/runbooks/", $code, ".md")),
        },)*)*];
    };
}

// Below the macro that they need.
mod table;
mod words;

use self::table::CATALOGUE;
pub use self::{table::Code, words::FETCH_FROM_GIT};

impl Code {
    const fn definition(self) -> &'static Definition {
        // The catalogue has every code, in the order in which the language counts them.
        &CATALOGUE[self as usize]
    }

    /// The code of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// The word of the `code` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.definition().code
    }

    /// Severity unless the evidence says otherwise.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.definition().severity
    }

    /// What it is about, as headings name it: `Full text`.
    #[must_use]
    pub const fn subject(self) -> &'static str {
        self.definition().subject
    }

    /// What is the matter and what comes of it, in one or two sentences.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        self.definition().cause
    }

    /// What to do, before it is known in which store.
    #[must_use]
    pub const fn template(self) -> Template {
        self.definition().remedy
    }

    /// What to do about it in the store at `path`.
    #[must_use]
    pub fn remedy(self, path: &std::path::Path) -> Remedy {
        Remedy::from(self.template()).at(path)
    }

    /// What the remedy makes people do.
    #[must_use]
    pub const fn acts(self) -> &'static [Act] {
        self.definition().acts
    }

    /// Seconds that it must be there before its alert fires.
    #[must_use]
    pub const fn hold_secs(self) -> u64 {
        self.definition().hold_secs
    }

    /// Seconds that it must be gone before its alert ends.
    #[must_use]
    pub const fn keep_secs(self) -> u64 {
        self.definition().keep_secs
    }

    /// The level that its alert watches instead of the finding.
    #[must_use]
    pub const fn level(self) -> Option<DiskLevel> {
        self.definition().level
    }

    /// Path of the runbook in this repository.
    #[must_use]
    pub fn runbook(self) -> String {
        format!("runbooks/{}.md", self.as_str())
    }

    /// The runbook, in Markdown.
    #[must_use]
    pub const fn runbook_page(self) -> &'static str {
        self.definition().runbook
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Act::{Move, Open, Rebuild, Start, Stop, Vacuum},
        *,
    };

    #[test]
    fn codes_are_unique_words_and_texts_are_whole_sentences() {
        let mut seen = std::collections::BTreeSet::new();
        for (place, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, place);
            assert!(seen.insert(code.as_str()), "{code:?}");
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code:?}");
            assert!(code.cause().ends_with('.') && !code.cause().contains(';'), "{code:?}");
        }
        assert_eq!(Code::parse("sqlite"), None);
    }

    /// A remedy that is added or changed must not be forgotten when remedies contradict each other.
    #[test]
    fn an_entry_says_what_its_remedy_makes_people_do() {
        for code in Code::ALL {
            let Template { words, command, .. } = code.template();
            let does = |text: &str, signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
            let says = |act| code.acts().contains(&act);
            let starts =
                does(words, &["Start Chroma", "restart the one", "restart it.", "Then start"]);
            assert_eq!(starts, says(Start), "{code:?} starts Chroma: {words}");
            let stops = does(
                words,
                &[
                    "Stop Chroma",
                    "stop Chroma",
                    "Stop all",
                    "Stop writing",
                    "End it if",
                    "and restart it",
                ],
            );
            assert_eq!(stops, says(Stop), "{code:?} stops Chroma: {words}");
            let opens = does(command, &["sqlite3 {path}", "chroma vacuum"]);
            assert!(!opens || says(Open), "{code:?} opens the database: {command}");
            assert_eq!(does(command, &["vacuum"]), says(Vacuum), "{code:?} vacuums: {command}");
            assert_eq!(does(words, &["move the folder"]), says(Move), "{code:?} moves: {words}");
            let rebuilds = does(command, &["REINDEX", "CREATE VIRTUAL TABLE"]);
            // `recover` makes anew what is wrong, which is more than its command says.
            let recovers = does(command, &["chroma_exporter recover"]);
            assert!(
                recovers || rebuilds == says(Rebuild),
                "{code:?} makes an index anew: {command}"
            );
        }
    }
}
