//! Why a word of the configuration, of a flag or of a request was refused. The place and the value that stands there belong to whoever
//! read it; this says what should stand there.

/// The rule that a value breaks. Its text is a half sentence behind the value: `must be true or false`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// A rule that is always said in these words.
    #[error("{0}")]
    Rule(&'static str),
    /// It lies outside the limits: `must be 100ms to 1h`.
    #[error("{rule} {from} to {to}")]
    Outside {
        /// What stands before the limits: `must be`, `must be a whole number from`.
        rule: &'static str,
        /// The least, written as a file would say it.
        from: String,
        /// The most.
        to: String,
    },
    /// It is no number below this.
    #[error("must be less than {0}")]
    TooLarge(u64),
    /// It is too long.
    #[error("must be at most {bytes_max} bytes long")]
    TooLong {
        /// The longest.
        bytes_max: usize,
    },
    /// It is empty, too long, or more than one line.
    #[error("must be one line of 1 to {chars_max} characters")]
    NotOneLine {
        /// The longest, in characters.
        chars_max: usize,
    },
    /// It is none of these words.
    #[error("must be {}", .0.join(", "))]
    NoneOf(Vec<&'static str>),
    /// It names something that others have and this program does not.
    #[error("is not to be had here; there are {}", .0.join(", "))]
    NotToBeHad(&'static [&'static str]),
    /// YAML takes it for something else unless it stands in quotes.
    #[error("{rule}: write \"{quoted}\"")]
    NeedsQuotes {
        /// `must be text`, `must stand in quotes`.
        rule: &'static str,
        /// What to write between the quotes.
        quoted: String,
    },
    /// It is no shell pattern.
    #[error("must be a shell pattern: {message} at position {position}")]
    Pattern {
        /// What is wrong there.
        message: &'static str,
        /// The character at which it is, from 1.
        position: usize,
    },
    /// It is no URL; `why` is the word of the parser.
    #[error("{rule}: {why}")]
    Url {
        /// What it should be.
        rule: &'static str,
        /// What the parser says.
        why: String,
    },
    /// This host knows no time zone of this name.
    #[error("{0} must be a time zone that this host knows, UTC or local")]
    TimeZone(String),
    /// There is no store of this name.
    #[error("must name a store; there is none called {0}")]
    NoStore(String),
    /// The name in `NAME=VALUE` breaks a rule.
    #[error("the name before = {0}")]
    Name(#[source] Box<BadValue>),
}

impl BadValue {
    /// It lies outside these limits.
    pub(crate) fn outside(
        rule: &'static str,
        limits: &std::ops::RangeInclusive<impl ToString>,
    ) -> Self {
        Self::Outside { rule, from: limits.start().to_string(), to: limits.end().to_string() }
    }
}

impl From<&'static str> for BadValue {
    fn from(rule: &'static str) -> Self {
        Self::Rule(rule)
    }
}

impl From<glob::PatternError> for BadValue {
    fn from(error: glob::PatternError) -> Self {
        Self::Pattern { message: error.msg, position: error.pos + 1 }
    }
}
