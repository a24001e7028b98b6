//! What is kept of the bytes of a store: a hash for each region of each file, and which state of the file it is about. A
//! region has at least 64 KiB and is larger in a large store, so that the document stays below some four megabytes.

use std::{collections::BTreeMap, hash::Hasher};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use twox_hash::XxHash3_64;

use crate::{clock::Timestamp, store::database::Stamp};

/// What survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::collectors::integrity) struct Ledger {
    /// The boot of the host under which it was written last.
    pub(super) boot: Option<String>,
    /// By the name of the database or of a segment's folder.
    pub(super) groups: BTreeMap<String, Group>,
}

/// Files that are written together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Group {
    /// When all of them were last read and were as they should be.
    #[serde(rename = "g")]
    pub(super) good: Timestamp,
    #[serde(rename = "f")]
    pub(super) files: Vec<Known>,
    /// What changed by itself, until somebody writes the file.
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) told: Vec<ProvenDamage>,
}

/// One file as it was read. Names are short because a store may have ten thousand of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Which of the files of the group.
    #[serde(rename = "p")]
    pub(super) part: usize,
    /// Size of a region as a power of two.
    #[serde(rename = "r")]
    pub(super) region_log2: u32,
    /// The state that it is about, then one hash for each region.
    #[serde(rename = "h", serialize_with = "pack", deserialize_with = "unpack")]
    words: Vec<u64>,
}

/// Damage that was proved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ProvenDamage {
    pub(super) part: usize,
    /// The last reading before it that was good.
    pub(super) good: Timestamp,
    pub(super) found: Timestamp,
    /// Offsets of the first regions that changed.
    pub(super) offsets: Vec<u64>,
    /// How many did, of how many.
    pub(super) regions: u64,
    pub(super) of: u64,
    pub(super) region_bytes: u64,
    pub(super) how: Readings,
    /// A later reading gave the good bytes again.
    pub(super) came_back: bool,
}

/// What the readings of a region that changed said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Readings {
    /// Past the page cache, from the device itself.
    pub(super) direct: bool,
    /// Whether the second one gave the same bytes as the first.
    pub(super) agree: bool,
    /// Whether the page cache still has the good bytes.
    pub(super) cache_good: bool,
}

impl Known {
    pub(super) fn new(part: usize, state: u64, region_log2: u32, hashes: Vec<u64>) -> Self {
        let mut words = hashes;
        words.insert(0, state);
        Self { part, region_log2, words }
    }

    pub(super) fn state(&self) -> Option<u64> {
        self.words.first().copied()
    }

    pub(super) fn hashes(&self) -> &[u64] {
        self.words.get(1..).unwrap_or_default()
    }

    pub(super) const fn region_bytes(&self) -> u64 {
        1 << if self.region_log2 < 63 { self.region_log2 } else { 63 }
    }

    /// Numbers of the regions in which `now` differs; all of them when there are more or fewer.
    pub(super) fn differing(&self, now: &[u64]) -> Vec<usize> {
        let was = self.hashes();
        let count = was.len().max(now.len());
        (0..count).filter(|at| was.get(*at) != now.get(*at)).collect()
    }
}

/// A number for the state of a file: another one as soon as anybody has written to it or put another in its place.
/// Devices do not count, because they may have other numbers after a restart of the host. `counter` is SQLite's.
pub(super) fn state_of(stamp: &Stamp, counter: Option<u32>) -> u64 {
    let mut hash = XxHash3_64::new();
    for word in [
        stamp.id.inode,
        stamp.size_bytes,
        stamp.modified.as_nanos().cast_unsigned(),
        stamp.changed.as_nanos().cast_unsigned(),
        counter.map_or(u64::MAX, u64::from),
        HASHED_AS,
    ] {
        hash.write(&word.to_le_bytes());
    }
    hash.finish()
}

/// The size of regions, as a power of two, for a store of so many bytes.
pub(super) fn region_log2(total_bytes: u64) -> u32 {
    let mut log2 = REGION_LOG2_MIN;
    while total_bytes >> log2 > REGIONS_MAX / 2 {
        log2 += 1;
    }
    log2
}

fn pack<S: Serializer>(words: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
}

fn unpack<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
    let (words, rest) = bytes.as_chunks::<8>();
    if words.is_empty() || !rest.is_empty() {
        return Err(D::Error::custom("no whole number of hashes"));
    }
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// Another number for each way in which regions are hashed, so that hashes of another way are of another state.
const HASHED_AS: u64 = 2;
/// 64 KiB.
pub(super) const REGION_LOG2_MIN: u32 = 16;
/// Hashes of a store, at most: 1.4 MB of text. Half of them for the files that there are, because those that were read
/// when the store was smaller have smaller regions.
const REGIONS_MAX: u64 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::processes::FileId;

    #[test]
    fn a_ledger_of_the_largest_store_stays_small_and_comes_back() {
        let mut ledger = Ledger { boot: Some("b".repeat(36)), ..Ledger::default() };
        let at = Timestamp::from_secs(1_795_000_000);
        let group = |files| Group { good: at, files, told: Vec::new() };
        for n in 0..super::super::GROUPS_MAX {
            let files = (0..5)
                .map(|part| Known::new(part, u64::MAX - n as u64, 16, vec![u64::MAX]))
                .collect();
            ledger.groups.insert(format!("{n:036x}"), group(files));
        }
        let most = usize::try_from(REGIONS_MAX).unwrap();
        ledger
            .groups
            .insert("x".to_owned(), group(vec![Known::new(0, 1, 16, vec![u64::MAX; most])]));
        let text = serde_json::to_string(&ledger).unwrap();
        assert!(text.len() < 4_300_000, "{}", text.len());
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
        assert!(serde_json::from_str::<Known>(r#"{"p":0,"r":16,"h":"AAAA"}"#).is_err());
        assert!(serde_json::from_str::<Known>(r#"{"p":0,"r":16,"h":""}"#).is_err());
    }

    #[test]
    fn regions_grow_with_the_store() {
        for (bytes, log2) in
            [(0, 16), (1 << 30, 16), (4 << 30, 16), (8 << 30, 17), (1 << 40, 24), (u64::MAX, 48)]
        {
            assert_eq!(region_log2(bytes), log2, "{bytes}");
            assert!(bytes >> log2 <= REGIONS_MAX / 2);
        }
    }

    #[test]
    fn whatever_a_writer_changes_makes_another_state() {
        let at = |secs| Timestamp::from_secs(secs);
        let stamp = Stamp {
            id: FileId { device: 1, inode: 2 },
            size_bytes: 3,
            modified: at(4),
            changed: at(5),
        };
        let first = state_of(&stamp, Some(6));
        let inode = Stamp { id: FileId { device: 1, inode: 9 }, ..stamp };
        for (what, other, counter) in [
            ("the counter", stamp, Some(7)),
            ("no counter", stamp, None),
            ("the inode", inode, Some(6)),
            ("the size", Stamp { size_bytes: 9, ..stamp }, Some(6)),
            ("mtime", Stamp { modified: at(9), ..stamp }, Some(6)),
            ("ctime: cp -p into the same file", Stamp { changed: at(9), ..stamp }, Some(6)),
        ] {
            assert_ne!(state_of(&other, counter), first, "{what}");
        }
        let device = Stamp { id: FileId { device: 9, inode: 2 }, ..stamp };
        assert_eq!(state_of(&device, Some(6)), first, "the number of a device after a restart");
    }

    #[test]
    fn regions_that_differ_are_named() {
        let known = Known::new(0, 1, 16, vec![10, 20, 30]);
        assert_eq!(known.differing(&[10, 20, 30]), [0; 0]);
        assert_eq!(known.differing(&[10, 21, 30]), [1]);
        assert_eq!(known.differing(&[10, 20]), [2]);
        assert_eq!((known.state(), known.region_bytes()), (Some(1), 65_536));
    }
}
