//! What kinds of file events there were.

use std::{fmt, ops::BitOr};

/// A set of kinds of file events.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Wake(u8);

impl Wake {
    /// Nothing happened.
    pub const NONE: Self = Self(0);
    /// Bytes of the database or a segment changed.
    pub const DATA: Self = Self(1);
    /// An entry appeared, vanished or was renamed.
    pub const NAMES: Self = Self(2);
    /// Owner or mode of an entry changed.
    pub const ATTRIBUTES: Self = Self(4);
    /// Somebody opened the database, or closed it who could write to it.
    pub const OPENED: Self = Self(8);
    /// The journal came, changed or went.
    pub const JOURNAL: Self = Self(16);
    /// Events were lost, or the directory itself was exchanged: look at everything.
    pub const RESCAN: Self = Self(32);
    /// The filesystem became fuller or emptier.
    pub const SPACE: Self = Self(64);

    /// As a number of [`Self::from_bits`].
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set of [`Self::bits`].
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether the sets share a kind.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is any besides `other`.
    #[must_use]
    pub const fn beyond(self, other: Self) -> bool {
        self.0 & !other.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Wake {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["data", "names", "attributes", "opened", "journal", "rescan", "space"];
        f.debug_set()
            .entries(
                names
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| self.0 & (1 << bit) != 0)
                    .map(|(_, n)| n),
            )
            .finish()
    }
}
