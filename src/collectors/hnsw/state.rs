//! How a segment can stand: the words of the `state` label.

/// How a segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Nothing wrong.
    Ok,
    /// Nothing was flushed yet: all its vectors are in the queue. Healthy.
    Unpersisted,
    /// A flush is under way, or was cut off and is finished from the queue at the next start. Healthy.
    Flushing,
    /// Its folder is gone.
    Missing,
    /// A file is gone, empty or too short.
    Truncated,
    /// Its files contradict themselves, each other or the database.
    Torn,
    /// A file is far larger than its content.
    Bloated,
    /// Older than the database.
    Behind,
    /// Newer than the database.
    Ahead,
    /// Whole, but without the vectors of some records.
    Lossy,
    /// Something in its folder may not be looked at: it is not known how it stands.
    Unreadable,
    /// The database does not know it.
    Orphan,
}

impl State {
    /// All states, in the order of their series.
    pub(super) const ALL: [Self; 12] = [
        Self::Ok,
        Self::Unpersisted,
        Self::Flushing,
        Self::Missing,
        Self::Truncated,
        Self::Torn,
        Self::Bloated,
        Self::Behind,
        Self::Ahead,
        Self::Lossy,
        Self::Unreadable,
        Self::Orphan,
    ];

    /// The word of the `state` label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unpersisted => "unpersisted",
            Self::Flushing => "flushing",
            Self::Missing => "missing",
            Self::Truncated => "truncated",
            Self::Torn => "torn",
            Self::Bloated => "bloated",
            Self::Behind => "behind",
            Self::Ahead => "ahead",
            Self::Lossy => "lossy",
            Self::Unreadable => "unreadable",
            Self::Orphan => "orphan",
        }
    }
}
