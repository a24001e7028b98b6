//! What was learnt of the entries of a store: for each its type, mode, owner, group and access list. Eight bytes an
//! entry: a hash of its path and the number of its shape, because a million entries have a handful of shapes.
//!
//! Nothing of it is tied to an inode: a store that was restored with the same modes is as it was.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    clock::Timestamp,
    format::access::{Identity, TYPE_DIRECTORY, TYPE_MASK, TYPE_SYMLINK},
    host::walk::Meta,
};

/// What of an entry must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Type and mode as in `st_mode`.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) list: List,
}

/// The access list of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum List {
    /// Not looked at.
    Unread,
    /// There is none.
    None,
    /// A digest of what it grants beyond the mode.
    Digest(u64),
}

impl Shape {
    pub(super) fn of(meta: &Meta, list: List) -> Self {
        Self { mode: meta.mode, uid: meta.uid, gid: meta.gid, list }
    }

    pub(super) const fn file_type(&self) -> u16 {
        self.mode & TYPE_MASK
    }

    pub(super) const fn permissions(&self) -> u16 {
        self.mode & !TYPE_MASK
    }

    pub(super) const fn is_directory(&self) -> bool {
        self.file_type() == TYPE_DIRECTORY
    }

    /// The mode of a link says nothing.
    pub(super) const fn is_link(&self) -> bool {
        self.file_type() == TYPE_SYMLINK
    }
}

/// What is known of one store.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Baseline {
    /// When the first look at the whole store ended; `None` while everything is being learnt.
    pub(super) learnt_at: Option<Timestamp>,
    /// Whether parts of it could not be seen then, so that an unknown entry need not be a new one.
    pub(super) partial: bool,
    /// Owners that entries of Chroma had when they were learnt.
    pub(super) owners: BTreeSet<u32>,
    /// Their groups.
    pub(super) groups: BTreeSet<u32>,
    /// Whether any of them has an access list, so that new ones may inherit it.
    pub(super) lists: bool,
    /// The user that Chroma ran as when one was first seen: what it creates is no drift.
    pub(super) creator: Option<Identity>,
    shapes: Vec<Shape>,
    entries: Entries,
    /// Whether anything was learnt or forgotten since it was saved last.
    #[serde(skip)]
    pub(super) changed: bool,
}

/// Whether a place in the table was seen by the present walk.
const SEEN: u64 = 1 << SHAPE_BITS;
const SHAPE_BITS: u32 = 10;
/// The rest is hash.
const HASH_SHIFT: u32 = SHAPE_BITS + 1;
/// More kinds of entries than this are not told apart.
const SHAPES_MAX: usize = 1 << SHAPE_BITS;
/// Owners and groups that are remembered; no Chroma has more than a few.
const OWNERS_MAX: usize = 256;

impl Baseline {
    /// What was learnt of the entry whose path has this hash; notes that it is there.
    pub(super) fn find(&mut self, hash: u64) -> Option<Shape> {
        let entry = self.entries.find(hash)?;
        *entry |= SEEN;
        let number = usize::try_from(*entry & (SEEN - 1)).ok()?;
        self.shapes.get(number).copied()
    }

    /// Learns the shape of an entry, or learns it anew.
    pub(super) fn learn(&mut self, hash: u64, shape: Shape) {
        let number = match self.shapes.iter().position(|known| *known == shape) {
            Some(number) => number,
            None if self.shapes.len() < SHAPES_MAX => {
                self.shapes.push(shape);
                self.shapes.len() - 1
            }
            None => return, // a directory with a thousand kinds of owners is not Chroma's
        };
        self.entries.put(hash, SEEN | number as u64);
        self.changed = true;
    }

    /// Learns who owns what Chroma makes.
    pub(super) fn learn_owner(&mut self, shape: &Shape) {
        self.lists |= matches!(shape.list, List::Digest(_));
        if self.owners.len() < OWNERS_MAX && self.groups.len() < OWNERS_MAX {
            self.owners.insert(shape.uid);
            self.groups.insert(shape.gid);
        }
    }

    /// Learns who runs Chroma, once: another user later is a change, not a habit.
    pub(super) fn learn_creator(&mut self, server: Option<&Identity>) {
        if self.creator.is_none()
            && let Some(server) = server
        {
            self.owners.insert(server.uid);
            self.groups.extend(server.gids.iter().take(OWNERS_MAX));
            self.creator = Some(server.clone());
            self.changed = true;
        }
    }

    /// A look at the whole store begins.
    pub(super) fn begin(&mut self) {
        self.entries.clear_seen();
    }

    /// A look at the whole store has ended and seen everything: what was not there is forgotten, so that the table does
    /// not grow with every collection that ever was. `keep` are hashes that stay.
    pub(super) fn forget_unseen(&mut self, keep: &[u64]) {
        for hash in keep {
            if let Some(entry) = self.entries.find(*hash) {
                *entry |= SEEN;
            }
        }
        self.changed |= self.entries.retain_seen();
    }

    /// Number of entries that are known.
    pub(super) fn len(&self) -> usize {
        self.entries.shards.iter().map(Vec::len).sum()
    }
}

/// A set of numbers, sorted within shards by the first bits of the hash: an insertion moves little, growth copies
/// little, and no place stays empty as in a hash table.
struct Entries {
    shards: Vec<Vec<u64>>,
}

const SHARD_BITS: u32 = 10;

impl Default for Entries {
    fn default() -> Self {
        Self { shards: vec![Vec::new(); 1 << SHARD_BITS] }
    }
}

impl Entries {
    fn place(&self, hash: u64) -> (usize, Result<usize, usize>) {
        let shard = usize::try_from(hash >> (u64::BITS - SHARD_BITS)).unwrap_or(0);
        let found = self.shards[shard]
            .binary_search_by_key(&(hash >> HASH_SHIFT), |entry| entry >> HASH_SHIFT);
        (shard, found)
    }

    fn find(&mut self, hash: u64) -> Option<&mut u64> {
        let (shard, found) = self.place(hash);
        found.ok().map(|at| &mut self.shards[shard][at])
    }

    fn put(&mut self, hash: u64, low: u64) {
        let entry = hash >> HASH_SHIFT << HASH_SHIFT | low;
        let (shard, found) = self.place(hash);
        let shard = &mut self.shards[shard];
        match found {
            Ok(at) => shard[at] = entry,
            Err(at) => {
                if shard.len() == shard.capacity() {
                    // Doubling would waste half of what a million entries may take.
                    shard.reserve_exact(shard.len() / 8 + 2);
                }
                shard.insert(at, entry);
            }
        }
    }

    fn clear_seen(&mut self) {
        for entry in self.shards.iter_mut().flatten() {
            *entry &= !SEEN;
        }
    }

    /// Whether any was not seen, and has gone.
    fn retain_seen(&mut self) -> bool {
        let mut forgotten = false;
        for shard in &mut self.shards {
            let before = shard.len();
            shard.retain(|entry| entry & SEEN != 0);
            if shard.len() < before {
                forgotten = true;
                shard.shrink_to(shard.len() + shard.len() / 8);
            }
        }
        forgotten
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.shards.iter().map(Vec::len).sum::<usize>())
    }
}

/// One string of hexadecimal digits per shard: neither side ever holds the whole text.
impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Shard<'a>(&'a [u64]);
        impl fmt::Display for Shard<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|entry| write!(f, "{:016x}", entry & !SEEN))
            }
        }
        impl Serialize for Shard<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        let filled = self.shards.iter().filter(|shard| !shard.is_empty());
        serializer.collect_seq(filled.map(|shard| Shard(shard)))
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "strings of sixteen hexadecimal digits an entry")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(shard) = seq.next_element::<String>()? {
                    let (numbers, rest) = shard.as_bytes().as_chunks::<16>();
                    if !rest.is_empty() {
                        return Err(de::Error::invalid_length(shard.len(), &self));
                    }
                    for number in numbers {
                        let number = std::str::from_utf8(number)
                            .ok()
                            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                            .ok_or_else(|| de::Error::custom("not hexadecimal"))?;
                        entries.put(number, number & (SEEN - 1));
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::hash::path_hash;

    fn shape(mode: u16) -> Shape {
        Shape { mode, uid: 1, gid: 2, list: List::None }
    }

    #[test]
    fn what_was_learnt_is_found_and_survives_being_written() {
        let mut baseline =
            Baseline { learnt_at: Some(Timestamp::from_secs(5)), ..Baseline::default() };
        let hash = |number: u16| path_hash(&number.to_le_bytes());
        for number in 0..3_000 {
            baseline.learn(hash(number), shape(number % 7));
        }
        baseline.learn(hash(9), shape(0o7777));
        baseline.learn_creator(Some(&Identity { uid: 8, gids: vec![9, 10], overrides: false }));
        baseline.learn_creator(Some(&Identity { uid: 11, gids: vec![11], overrides: false }));
        let text = serde_json::to_string(&baseline).unwrap();
        let mut read: Baseline = serde_json::from_str(&text).unwrap();
        assert_eq!((read.len(), read.learnt_at), (3_000, baseline.learnt_at));
        for number in 0..3_000 {
            let expected = if number == 9 { shape(0o7777) } else { shape(number % 7) };
            assert_eq!(read.find(hash(number)), Some(expected));
        }
        assert_eq!(read.find(hash(3_000)), None);
        assert_eq!(read.owners, BTreeSet::from([8]), "the second creator is no habit");
        assert_eq!(read.groups, BTreeSet::from([9, 10]));
    }

    #[test]
    fn what_a_whole_look_did_not_see_is_forgotten() {
        let mut baseline = Baseline::default();
        for hash in [1 << 60, 2 << 60, 3 << 60] {
            baseline.learn(hash, shape(1));
        }
        baseline.begin();
        assert!(baseline.find(1 << 60).is_some());
        baseline.forget_unseen(&[3 << 60]);
        assert_eq!(baseline.len(), 2);
        assert_eq!(baseline.find(2 << 60), None);
        assert_eq!(baseline.find(3 << 60), Some(shape(1)));
    }

    #[test]
    fn a_thousand_kinds_are_told_apart_and_more_are_not_learnt() {
        let mut baseline = Baseline::default();
        for number in 0..2_000_u16 {
            baseline.learn(path_hash(&number.to_le_bytes()), shape(number));
        }
        assert_eq!(baseline.len(), SHAPES_MAX);
        assert_eq!(baseline.find(path_hash(&77_u16.to_le_bytes())), Some(shape(77)));
    }

    #[test]
    fn a_million_entries_take_less_than_twelve_bytes_each() {
        let mut baseline = Baseline::default();
        for number in 0..1_000_000_u32 {
            baseline.learn(path_hash(&number.to_le_bytes()), shape(1));
        }
        let bytes: usize = baseline.entries.shards.iter().map(|s| s.capacity() * 8).sum();
        assert!(bytes < 12_000_000, "{bytes}");
    }

    #[test]
    fn a_damaged_document_is_an_error() {
        let whole = serde_json::to_string(&{
            let mut baseline = Baseline::default();
            baseline.learn(7 << 50, shape(1));
            baseline
        })
        .unwrap();
        assert!(serde_json::from_str::<Baseline>(&whole).is_ok());
        for (from, to) in [("[\"00", "[\"0"), ("[\"00", "[\"zz"), ("[\"00", "[\"é")] {
            let damaged = whole.replacen(from, to, 1);
            assert_ne!(damaged, whole);
            assert!(serde_json::from_str::<Baseline>(&damaged).is_err(), "{damaged}");
        }
        // A number of a shape that is not there: as good as unknown.
        let mut shapeless: Baseline =
            serde_json::from_str(&whole.replace("0000\"]", "03ff\"]")).unwrap();
        assert_eq!(shapeless.find(7 << 50), None);
    }
}
