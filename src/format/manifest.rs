//! The manifest of a backup: `manifest.json`, the first entry of an archive, or a file in the directory form. It says of what
//! moment the backup is, what is in it, and how that was proven. A manifest is foreign bytes like any other: whoever restores
//! proves again, and believes none of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Its name in an archive and in a directory.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The version of the form. A reader takes this one and older ones.
pub const FORMAT: u32 = 1;

/// Longer ones are refused: a file per segment and a line per collection, for more of them than Chroma bears.
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// Program and version that made it.
    pub made_by: String,
    /// Name of the host, as far as it was known.
    pub host: String,
    /// The persist directory that it is a copy of.
    pub store: String,
    /// The moment that the copy shows.
    #[serde(with = "rfc3339")]
    pub moment: Timestamp,
    /// Which releases of Chroma open it, in words; absent when the migrations do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_by: Option<String>,
    /// Every file but the manifest, in the order of their paths.
    pub files: Vec<File>,
    /// Every collection, in the order of their ids.
    pub collections: Vec<Collection>,
    /// How it was proven; absent when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Below the persist directory, with slashes.
    pub path: String,
    /// Length, holes included.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal digits.
    pub sha256: String,
}

/// A collection, and what of it would come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its tenant.
    pub tenant: String,
    /// Its database.
    pub database: String,
    /// `l2`, `cosine` or `ip`; absent when the configuration does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Numbers per vector; absent before the first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<u64>,
    /// Live records.
    pub records: u64,
    /// Records with a document.
    pub documents: u64,
    /// Records whose vector is in the index folder or in the queue.
    pub vectors: u64,
    /// Rows of the queue that the index has not taken in.
    pub queued: u64,
}

/// What would come back of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restores {
    /// Everything that it should hold.
    Whole,
    /// Something is missing, and it is told what.
    WithLosses,
    /// Nothing that Chroma would open.
    Not,
    /// Not everything could be looked at.
    Unknown,
}

/// How a backup was proven: opened, and looked at by every check that reads whole files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// What came of it.
    pub restores: Restores,
    /// When.
    #[serde(with = "rfc3339")]
    pub moment: Timestamp,
    /// Program and version.
    pub by: String,
    /// The state of every check that was made: `{"full": "ok", …}`.
    pub checks: BTreeMap<String, String>,
    /// Codes of what was found, warnings and worse.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub findings: BTreeSet<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Manifest {
    /// Reads `manifest.json`. Errs for what is no manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if found > BYTES_MAX {
            return Err(ManifestError::TooLong { found });
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.format > FORMAT {
            return Err(ManifestError::Newer { found: manifest.format });
        }
        Ok(manifest)
    }

    /// As it is written.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Keys are strings and numbers are finite, so that nothing can fail.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Whether it was proven to restore whole.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.restores == Restores::Whole)
    }

    /// All live records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.collections.iter().map(|collection| collection.records).fold(0, u64::saturating_add)
    }

    /// Length of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }
}

/// Why a manifest is none.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than any that was written.
    #[error("it has {found} bytes, {BYTES_MAX} are the most")]
    TooLong {
        /// Its length.
        found: u64,
    },
    /// No JSON of this form.
    #[error("it is no manifest: {0}")]
    Form(#[from] serde_json::Error),
    /// Written by a later release.
    #[error("its format is {found}, {FORMAT} is known: a newer chroma_exporter made it")]
    Newer {
        /// Its format.
        found: u32,
    },
}

/// Moments as RFC 3339 in UTC.
pub(crate) mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::clock::Timestamp;

    /// Writes a moment as RFC 3339. Errs when the serializer does.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(
        moment: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(moment)
    }

    /// Reads it. Errs for other text.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Timestamp::from_secs(moment.as_second()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            made_by: "chroma_exporter 0.1.0".to_owned(),
            host: "db1".to_owned(),
            store: "/srv/chroma".to_owned(),
            moment: Timestamp::from_secs(1_796_004_000),
            opened_by: None,
            files: vec![File {
                path: "chroma.sqlite3".to_owned(),
                bytes: 4096,
                sha256: "00".repeat(32),
            }],
            collections: Vec::new(),
            proof: Some(Proof {
                restores: Restores::Whole,
                moment: Timestamp::from_secs(1_796_004_002),
                by: "chroma_exporter 0.1.0".to_owned(),
                checks: BTreeMap::from([("full".to_owned(), "ok".to_owned())]),
                findings: BTreeSet::new(),
                seconds: 1.5,
            }),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = manifest();
        let text = written.to_json();
        assert_eq!(Manifest::parse(&text).unwrap(), written);
        assert!(written.is_proven());
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(r#""moment": "2026-11-30T"#), "{text}");
        assert!(text.contains(r#""restores": "whole""#), "{text}");
    }

    #[test]
    fn what_a_later_release_wrote_is_refused_with_its_number() {
        let text = Manifest { format: FORMAT + 1, ..manifest() }.to_json();
        assert!(matches!(Manifest::parse(&text), Err(ManifestError::Newer { found: 2 })));
    }

    #[test]
    fn what_is_no_manifest_is_told_so() {
        let mut text = manifest().to_json();
        text.truncate(100);
        assert!(matches!(Manifest::parse(&text), Err(ManifestError::Form(_))));
        assert!(matches!(Manifest::parse(b"{}"), Err(ManifestError::Form(_))));
    }
}
