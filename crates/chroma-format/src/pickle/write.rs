//! Writes `index_metadata.pickle`. Nothing is kept but a piece of some 64 KiB: the pairs are gone through once for each
//! dictionary.

use super::Family;
use crate::pieces::{Pieces, Write};

use super::{
    machine::{CLASS, MODULE},
    opcodes::{
        BINGET, BININT, BININT1, BININT2, BINUNICODE, BUILD, EMPTY_DICT, EMPTY_TUPLE, LONG_BINGET,
        LONG1, MARK, MEMOIZE, NEWOBJ, NONE, PROTO, SETITEMS, SHORT_BINUNICODE, STACK_GLOBAL, STOP,
    },
};

/// What a metadata file is to state, but for its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMetadata {
    /// For which Chroma. 1.x reads both families, 0.x its own alone.
    pub family: Family,
    /// Numbers per vector; not written for 1.x, which states none.
    pub dimensionality: u64,
    /// Labels given out so far, at least the greatest label: the next record gets the next one.
    pub total_elements_added: u64,
    /// How far the queue is in the index. Chroma before 0.5.6 keeps it here; what reads it today is only the migration of such a
    /// file. Not written for 1.x.
    pub max_seq_id: Option<u64>,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The id that the user gave.
    pub id: &'a str,
    /// The label of its element, from 1.
    pub label: u64,
    /// Its place in the queue. Chroma 0.x deletes it together with the record, and fails when there is none; 1.x keeps none.
    pub seq_id: u64,
}

/// Why a file was not written to its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError<E> {
    /// The bytes were not taken.
    #[error("it cannot be written")]
    Sink(#[source] E),
    /// A label of 0, or one above those given out.
    #[error("label {label} is none of {total} given out")]
    Label {
        /// Which.
        label: u64,
        /// Labels given out.
        total: u64,
    },
    /// A number that 63 bits do not hold.
    #[error("{found} is more than a place in the queue or a count can be")]
    Number {
        /// Which.
        found: u64,
    },
    /// An id of four gigabytes and more.
    #[error("the id of label {label} has more bytes than a length can say")]
    Id {
        /// Whose.
        label: u64,
    },
}

impl<E> From<E> for WriteError<E> {
    fn from(error: E) -> Self {
        Self::Sink(error)
    }
}

/// Writes a metadata file. Each id and each label stands in `entries` once; that is not looked at. The iterator gives the same
/// when it is cloned. Errs when `write` does, and at an entry that no file can hold; what was written before is of no use then.
pub fn write<'a, E, I>(
    facts: &NewMetadata,
    entries: I,
    write: Write<'_, E>,
) -> Result<(), WriteError<E>>
where
    I: Iterator<Item = Entry<'a>> + Clone,
{
    let mut out = Opcodes { out: Pieces::new(write), family: facts.family };
    match facts.family {
        Family::Plain => plain(&mut out, facts, entries)?,
        Family::PersistentData => object(&mut out, facts, entries)?,
    }
    out.bytes(&[STOP])?;
    Ok(out.out.finish()?)
}

/// As 1.x does: a dictionary, without a memo. Errs when the sink does, or a number or an id cannot be written so.
fn plain<'a, E>(
    out: &mut Opcodes<'_, E>,
    facts: &NewMetadata,
    entries: impl Iterator<Item = Entry<'a>> + Clone,
) -> Result<(), WriteError<E>> {
    out.bytes(&[PROTO, 3, EMPTY_DICT, MARK])?;
    out.word("dimensionality")?;
    out.bytes(&[NONE])?;
    out.word("total_elements_added")?;
    out.number(facts.total_elements_added)?;
    out.word("max_seq_id")?;
    out.bytes(&[NONE])?;
    out.word("id_to_label")?;
    out.dictionary(entries.clone(), |out, _, entry| {
        facts.check(&entry)?;
        out.text(entry.id, entry.label)?;
        out.number(entry.label)
    })?;
    out.word("label_to_id")?;
    out.dictionary(entries, |out, _, entry| {
        out.number(entry.label)?;
        out.text(entry.id, entry.label)
    })?;
    out.word("id_to_seq_id")?;
    // Nothing in it; the outer one ends.
    out.bytes(&[EMPTY_DICT, SETITEMS])
}

/// As Python does for 0.x: an object of Chroma's class. Ids are remembered, so that Python has each only once in memory.
/// Errs when the sink does, or a number or an id cannot be written so.
fn object<'a, E>(
    out: &mut Opcodes<'_, E>,
    facts: &NewMetadata,
    entries: impl Iterator<Item = Entry<'a>> + Clone,
) -> Result<(), WriteError<E>> {
    out.bytes(&[PROTO, 4])?;
    for name in [MODULE, CLASS] {
        out.short(name)?;
    }
    out.bytes(&[STACK_GLOBAL, EMPTY_TUPLE, NEWOBJ, EMPTY_DICT, MARK])?;
    out.word("dimensionality")?;
    out.number(facts.dimensionality)?;
    out.word("total_elements_added")?;
    out.number(facts.total_elements_added)?;
    if let Some(position) = facts.max_seq_id {
        out.word("max_seq_id")?;
        out.number(position)?;
    }
    out.word("id_to_label")?;
    out.dictionary(entries.clone(), |out, _, entry| {
        facts.check(&entry)?;
        out.text(entry.id, entry.label)?;
        out.bytes(&[MEMOIZE])?;
        out.number(entry.label)
    })?;
    out.word("label_to_id")?;
    out.dictionary(entries.clone(), |out, place, entry| {
        out.number(entry.label)?;
        out.recall(place, entry.label)
    })?;
    out.word("id_to_seq_id")?;
    out.dictionary(entries, |out, place, entry| {
        out.recall(place, entry.label)?;
        out.number(entry.seq_id)
    })?;
    out.bytes(&[SETITEMS, BUILD])
}

impl NewMetadata {
    fn check<E>(&self, entry: &Entry<'_>) -> Result<(), WriteError<E>> {
        let total = self.total_elements_added;
        let given = (1..=total).contains(&entry.label);
        if given { Ok(()) } else { Err(WriteError::Label { label: entry.label, total }) }
    }
}

/// Opcodes as they go out.
struct Opcodes<'a, E> {
    out: Pieces<'a, E>,
    family: Family,
}

impl<E> Opcodes<'_, E> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), WriteError<E>> {
        Ok(self.out.push(bytes)?)
    }

    /// A key of Chroma's own. Errs when the sink does.
    fn word(&mut self, word: &str) -> Result<(), WriteError<E>> {
        self.text(word, 0)
    }

    /// A text of less than 256 bytes. Errs when the sink does.
    fn short(&mut self, text: &[u8]) -> Result<(), WriteError<E>> {
        self.bytes(&[SHORT_BINUNICODE, u8::try_from(text.len()).unwrap_or(0)])?;
        self.bytes(text)
    }

    fn text(&mut self, text: &str, label: u64) -> Result<(), WriteError<E>> {
        if self.family == Family::PersistentData && text.len() < 256 {
            return self.short(text.as_bytes());
        }
        let length = u32::try_from(text.len()).map_err(|_| WriteError::Id { label })?;
        self.bytes(&[BINUNICODE])?;
        self.bytes(&length.to_le_bytes())?;
        self.bytes(text.as_bytes())
    }

    fn number(&mut self, number: u64) -> Result<(), WriteError<E>> {
        let short = self.family == Family::PersistentData;
        let [a, b, c, d, ..] = number.to_le_bytes();
        match number {
            ..=0xff if short => self.bytes(&[BININT1, a]),
            ..=0xffff if short => self.bytes(&[BININT2, a, b]),
            ..=0x7fff_ffff => self.bytes(&[BININT, a, b, c, d]),
            _ => {
                i64::try_from(number).map_err(|_| WriteError::Number { found: number })?;
                self.bytes(&[LONG1, 8])?;
                self.bytes(&number.to_le_bytes())
            }
        }
    }

    /// The id that was remembered in this place. Errs when the sink does, or there are too many ids.
    fn recall(&mut self, place: u64, label: u64) -> Result<(), WriteError<E>> {
        if let Ok(place) = u8::try_from(place) {
            return self.bytes(&[BINGET, place]);
        }
        let place = u32::try_from(place).map_err(|_| WriteError::Id { label })?;
        self.bytes(&[LONG_BINGET])?;
        self.bytes(&place.to_le_bytes())
    }

    fn dictionary<'e>(
        &mut self,
        entries: impl Iterator<Item = Entry<'e>>,
        pair: impl Fn(&mut Self, u64, Entry<'e>) -> Result<(), WriteError<E>>,
    ) -> Result<(), WriteError<E>> {
        self.bytes(&[EMPTY_DICT])?;
        let mut begun = false;
        for (place, entry) in (0..).zip(entries) {
            // Python's own pickler does not keep more on its stack either.
            if place % BATCH == 0 {
                self.bytes(if begun { &[SETITEMS, MARK] } else { &[MARK] })?;
                begun = true;
            }
            pair(self, place, entry)?;
        }
        self.bytes(if begun { &[SETITEMS] } else { &[] })
    }
}

const BATCH: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write as _};

    use super::*;
    use crate::pickle::{self, Limits, hash};

    fn facts(family: Family, total: u64) -> NewMetadata {
        NewMetadata { family, dimensionality: 384, total_elements_added: total, max_seq_id: None }
    }

    fn written(facts: &NewMetadata, entries: &[Entry<'_>]) -> Result<Vec<u8>, WriteError<()>> {
        let mut bytes = Vec::new();
        let mut take = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        write(facts, entries.iter().copied(), &mut take).map(|()| bytes)
    }

    /// Ids of many lengths, some of them with letters of more than a byte.
    fn ids(count: u64) -> Vec<String> {
        (0..count)
            .map(|n| format!("ü{n}-{}", "x".repeat(usize::try_from(n % 400).unwrap())))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for family in [Family::Plain, Family::PersistentData] {
            for count in [0, 1, 255, 257, 3001, 70_001] {
                let ids = ids(count);
                // Labels that are far apart, and in no order.
                let label = |n: u64| n * 7919 % 70_003 * 60_000 + 1;
                let entries: Vec<Entry<'_>> = (0..)
                    .zip(&ids)
                    .map(|(n, id)| Entry { id, label: label(n), seq_id: n << 30 })
                    .collect();
                let total = 70_003 * 60_000;
                let facts = NewMetadata { max_seq_id: Some(1 << 40), ..facts(family, total) };
                let bytes = written(&facts, &entries).unwrap();
                let mut found = BTreeMap::new();
                let read = pickle::read(&bytes[..], Limits::default(), &mut |id, label| {
                    assert_eq!(found.insert(id, label), None);
                });
                let read = read.unwrap();
                let want = entries.iter().map(|entry| (hash(entry.id.as_bytes()), entry.label));
                assert_eq!(found, want.collect(), "{family:?} {count}");
                let old = family == Family::PersistentData;
                assert_eq!(read.family, family);
                assert_eq!(
                    (read.ids, read.total_elements_added, read.inverse),
                    (count, total, true)
                );
                assert_eq!(read.dimensionality, old.then_some(384));
                assert_eq!(read.max_seq_id, old.then_some(1 << 40));
                assert_eq!(read.bytes, bytes.len() as u64);
            }
        }
    }

    #[test]
    fn it_is_what_chroma_writes() {
        let entry = |id, label, seq_id| Entry { id, label, seq_id };
        let bytes =
            written(&facts(Family::Plain, 2), &[entry("b", 2, 9), entry("a", 1, 8)]).unwrap();
        let mut shown = String::new();
        for byte in bytes {
            write!(shown, "{}", byte.escape_ascii()).unwrap();
        }
        assert_eq!(
            shown,
            "\\x80\\x03}(\
             X\\x0e\\x00\\x00\\x00dimensionalityN\
             X\\x14\\x00\\x00\\x00total_elements_addedJ\\x02\\x00\\x00\\x00\
             X\\n\\x00\\x00\\x00max_seq_idN\
             X\\x0b\\x00\\x00\\x00id_to_label}(\
             X\\x01\\x00\\x00\\x00bJ\\x02\\x00\\x00\\x00X\\x01\\x00\\x00\\x00aJ\\x01\\x00\\x00\\x00u\
             X\\x0b\\x00\\x00\\x00label_to_id}(\
             J\\x02\\x00\\x00\\x00X\\x01\\x00\\x00\\x00bJ\\x01\\x00\\x00\\x00X\\x01\\x00\\x00\\x00au\
             X\\x0c\\x00\\x00\\x00id_to_seq_id}u."
        );
    }

    #[test]
    fn numbers_that_no_file_holds_are_refused() {
        let entry = |label, seq_id| Entry { id: "a", label, seq_id };
        for family in [Family::Plain, Family::PersistentData] {
            for label in [0, 3, u64::MAX] {
                let found = written(&facts(family, 2), &[entry(label, 1)]);
                assert_eq!(found, Err(WriteError::Label { label, total: 2 }));
            }
            let found = written(&facts(family, u64::MAX), &[entry(1, 1)]);
            assert_eq!(found, Err(WriteError::Number { found: u64::MAX }));
            let found = write(&facts(family, 2), [entry(1, 1)].into_iter(), &mut |_| Err("full"));
            assert_eq!(found, Err(WriteError::Sink("full")));
        }
        let found = written(&facts(Family::PersistentData, 2), &[entry(1, 1 << 63)]);
        assert_eq!(found, Err(WriteError::Number { found: 1 << 63 }));
    }
}
