//! A value that must not be seen: where it stands, never what it says. Reading it is the business of the receiver, at every
//! send, so that a rotated secret counts at once.

pub(crate) use crate::facts::hidden::SHOWN;

use std::{fmt, path::PathBuf};

/// Where a secret stands. `Debug` and `Display` tell the place; of one that stands in the configuration itself they say
/// `<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) Source);

/// The four places of a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the configuration.
    Inline(String),
    /// A file, read at each use.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
    /// A file of this name in `$CREDENTIALS_DIRECTORY`, which systemd fills.
    Credential(String),
}

/// What a key is that must be given and is not: the configuration is refused then.
impl Default for Secret {
    fn default() -> Self {
        Self::inline("")
    }
}

impl Secret {
    /// One that stands in the configuration itself.
    #[must_use]
    pub fn inline(text: impl Into<String>) -> Self {
        Self(Source::Inline(text.into()))
    }

    /// One in a file of its own.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Inline(_) => f.write_str(SHOWN),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Env(name) => write!(f, "environment {name}"),
            Source::Credential(name) => write!(f, "credential {name}"),
        }
    }
}
