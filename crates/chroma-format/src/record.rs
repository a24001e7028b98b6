//! Records: section 2.1 of <https://www.sqlite.org/fileformat2.html>. What a table or an index holds for one row.

use alloc::vec::Vec;

use core::{cmp::Ordering, hash::Hasher};

use twox_hash::XxHash3_64;

use super::{
    hash::{SEEDS, fold},
    unrecognised::{Unrecognised, varint},
};

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Also of a row id that is a column.
    Null,
    /// A whole number.
    Integer(i64),
    /// Never NaN.
    Real(f64),
    /// Bytes that are meant as UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

/// Where the values of a record stand in it. Made once and used for one record after the other.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    fields: Vec<Field>,
    header_len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    serial_type: u64,
    start: usize,
    len: usize,
    /// The hash of all of it, when only its first bytes are kept.
    digest: Option<u64>,
}

/// Takes a record in piece by piece, and keeps of each value that is longer than [`KEPT_BYTES`] the first bytes and a hash.
pub struct Shortening {
    fields: Vec<Field>,
    nth: usize,
    /// Bytes of the record so far.
    at: usize,
    hash: XxHash3_64,
}

impl Fields {
    /// Reads the header of a record of `len` bytes, of which `bytes` are the first. `Ok(false)` when these are too few. Errs
    /// for a header that SQLite would not write.
    pub fn read(&mut self, bytes: &[u8], len: usize) -> Result<bool, Unrecognised> {
        self.fields.clear();
        let mut at = 0;
        let header_len = varint(bytes, &mut at)?;
        self.header_len = usize::try_from(header_len)
            .ok()
            .filter(|header| (at..=len).contains(header))
            .ok_or(Unrecognised("a record with a header of no length"))?;
        let Some(header) = bytes.get(..self.header_len) else { return Ok(false) };
        let mut start = self.header_len;
        while at < header.len() {
            let serial_type = varint(header, &mut at)?;
            let len = match serial_type {
                0 | 8 | 9 => 0,
                1..=4 => serial_type,
                5 => 6,
                6 | 7 => 8,
                10 | 11 => return Err(Unrecognised("a value of no type")),
                _ => (serial_type - 12) / 2,
            };
            let len = usize::try_from(len).map_err(|_| Unrecognised("a value that is too long"))?;
            self.fields.push(Field { serial_type, start, len, digest: None });
            start = start.checked_add(len).ok_or(Unrecognised("a value that is too long"))?;
        }
        if start == len { Ok(true) } else { Err(Unrecognised("a record of another length")) }
    }

    /// Begins to take in the record whose header was read. Its pieces go to [`Shortening::take`], and then
    /// [`Self::shortened`] makes these the fields of what was kept.
    #[must_use]
    pub fn shorten(&self) -> Shortening {
        let (fields, hash) = (self.fields.clone(), XxHash3_64::new());
        Shortening { fields, nth: 0, at: 0, hash }
    }

    /// From now on these are the fields of the bytes that were kept.
    pub fn shortened(&mut self, shortening: Shortening) {
        self.fields = shortening.fields;
        let mut start = self.header_len;
        for field in &mut self.fields {
            field.start = start;
            start += field.len;
        }
    }

    /// The hash of the value `nth`, when only its first bytes were kept.
    #[must_use]
    pub fn digest(&self, nth: usize) -> Option<u64> {
        self.fields.get(nth).and_then(|field| field.digest)
    }

    /// The order of the value `nth` of two records, whose fields these are. `None` when what was kept of them does not tell.
    /// Errs when one of them is no record that SQLite would write.
    pub fn order(
        (fields, record): (&Self, &[u8]),
        (others, other): (&Self, &[u8]),
        nth: usize,
    ) -> Result<Option<Ordering>, Unrecognised> {
        let value = fields.value(record, nth)?.unwrap_or(Value::Null);
        let order = value.compare(&others.value(other, nth)?.unwrap_or(Value::Null));
        Ok(match (order, fields.digest(nth), others.digest(nth)) {
            (Ordering::Equal, Some(one), Some(another)) => (one == another).then_some(order),
            // It is longer.
            (Ordering::Equal, Some(_), None) => Some(Ordering::Greater),
            (Ordering::Equal, None, Some(_)) => Some(Ordering::Less),
            _ => Some(order),
        })
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether the value `nth` is NULL; `None` when the record has no such value.
    #[must_use]
    pub fn is_null(&self, nth: usize) -> Option<bool> {
        self.fields.get(nth).map(|field| field.serial_type == 0)
    }

    /// Whether the value `nth` is a text; `None` when the record has no such value.
    #[must_use]
    pub fn is_text(&self, nth: usize) -> Option<bool> {
        self.fields.get(nth).map(|field| field.serial_type >= 13 && field.serial_type % 2 == 1)
    }

    /// Whether the value `nth` is a number; `None` when the record has no such value.
    #[must_use]
    pub fn is_number(&self, nth: usize) -> Option<bool> {
        self.fields.get(nth).map(|field| (1..=9).contains(&field.serial_type))
    }

    /// Bytes from the beginning of the record to the end of the value `nth`, 0 when it has no such value.
    #[must_use]
    pub fn end(&self, nth: usize) -> usize {
        self.fields.get(nth).map_or(0, |field| field.start + field.len)
    }

    /// The value `nth` of `record`, which must be the one that was read; `None` when it has no such value. Errs when it does
    /// not lie within the record.
    pub fn value<'a>(
        &self,
        record: &'a [u8],
        nth: usize,
    ) -> Result<Option<Value<'a>>, Unrecognised> {
        let Some(field) = self.fields.get(nth) else { return Ok(None) };
        let bytes = record
            .get(field.start..field.start + field.len)
            .ok_or(Unrecognised("a value beyond its record"))?;
        Ok(Some(match field.serial_type {
            0 => Value::Null,
            1..=6 => Value::Integer(integer(bytes)),
            7 => match f64::from_bits(integer(bytes).cast_unsigned()) {
                real if real.is_nan() => return Err(Unrecognised("a number that is none")),
                real => Value::Real(real),
            },
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            other if other % 2 == 0 => Value::Blob(bytes),
            _ => Value::Text(bytes),
        }))
    }
}

impl core::fmt::Debug for Shortening {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shortening").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Shortening {
    /// The next bytes of the record. What is to be kept of them goes to `kept`.
    pub fn take(&mut self, mut piece: &[u8], kept: &mut Vec<u8>) {
        while !piece.is_empty() {
            let Some(field) = self.fields.get_mut(self.nth) else { return };
            if self.at < field.start {
                // The header.
                let (header, rest) = piece.split_at((field.start - self.at).min(piece.len()));
                kept.extend_from_slice(header);
                (self.at, piece) = (self.at + header.len(), rest);
                continue;
            }
            let done = self.at - field.start;
            let (now, rest) = piece.split_at((field.len - done).min(piece.len()));
            if field.len <= KEPT_BYTES {
                kept.extend_from_slice(now);
            } else {
                kept.extend_from_slice(&now[..KEPT_BYTES.saturating_sub(done).min(now.len())]);
                self.hash.write(now);
            }
            (self.at, piece) = (self.at + now.len(), rest);
            if done + now.len() == field.len {
                if field.len > KEPT_BYTES {
                    field.digest = Some(core::mem::take(&mut self.hash).finish());
                    // Fields stand one behind the other; their places are counted anew at the end.
                    field.len = KEPT_BYTES;
                }
                self.nth += 1;
            }
        }
    }
}

/// So much is kept of a value that is longer.
pub const KEPT_BYTES: usize = 64 << 10;

/// A number of up to eight bytes, big-endian, with a sign.
fn integer(bytes: &[u8]) -> i64 {
    let first = bytes.first().map_or(0, |byte| i64::from(byte.cast_signed()));
    bytes.iter().skip(1).fold(first, |number, byte| number << 8 | i64::from(*byte))
}

impl Value<'_> {
    /// The order of the collation BINARY.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => compare_reals(*a, *b),
            (Self::Integer(a), Self::Real(b)) => compare_numbers(*a, *b),
            (Self::Real(a), Self::Integer(b)) => compare_numbers(*b, *a).reverse(),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a.cmp(b),
            _ => self.class().cmp(&other.class()),
        }
    }

    const fn class(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 1,
            Self::Text(_) => 2,
            Self::Blob(_) => 3,
        }
    }

    /// A column of reals stores whole numbers as integers where that is shorter.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "only whole numbers far from the ends")]
    pub fn as_in_column_of_reals(self) -> Self {
        match self {
            Self::Real(real) if real - libm::trunc(real) == 0.0 && real.abs() < WHOLE_MAX => {
                Self::Integer(real as i64)
            }
            other => other,
        }
    }
}

/// An integer and a real, exactly.
#[expect(clippy::cast_possible_truncation, reason = "within the range that was asked for")]
fn compare_numbers(integer: i64, real: f64) -> Ordering {
    if real < -TWO_TO_63 {
        Ordering::Greater
    } else if real >= TWO_TO_63 {
        Ordering::Less
    } else {
        let whole = integer.cmp(&(libm::trunc(real) as i64));
        whole.then_with(|| compare_reals(0.0, real - libm::trunc(real)))
    }
}

/// Neither is NaN.
fn compare_reals(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
/// All whole numbers below are exact (2^52).
const WHOLE_MAX: f64 = 4_503_599_627_370_496.0;

/// How many entries there are, and a sum over a hash of each, which does not depend on their order. Two sets of entries that
/// differ have the same sum by chance only, one in 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entries {
    /// How many.
    pub count: u64,
    hash: u64,
}

impl Entries {
    /// Takes in one more.
    #[inline]
    pub fn add(&mut self, entry: Entry) {
        self.count += 1;
        self.hash = self.hash.wrapping_add(entry.0);
    }
}

/// The hash of one entry: its values in their order.
#[derive(Debug, Clone, Copy)]
pub struct Entry(u64);

impl Default for Entry {
    fn default() -> Self {
        Self(SEEDS[0])
    }
}

impl Entry {
    /// The same with one value more.
    #[must_use]
    #[inline]
    pub fn with(self, value: &Value<'_>) -> Self {
        let (class, word) = match value {
            Value::Null => (0, 0),
            Value::Integer(integer) => (1, integer.cast_unsigned()),
            Value::Real(real) => (2, real.to_bits()),
            Value::Text(bytes) => (3, XxHash3_64::oneshot(bytes)),
            Value::Blob(bytes) => (4, XxHash3_64::oneshot(bytes)),
        };
        self.and(class, word)
    }

    /// The same for a text or bytes of which `value` has the first alone, when `digest` is the hash of all.
    #[must_use]
    pub fn with_all(self, value: &Value<'_>, digest: Option<u64>) -> Self {
        let Some(digest) = digest else { return self.with(value) };
        self.and(if matches!(value, Value::Blob(_)) { 4 } else { 3 }, digest)
    }

    #[inline]
    fn and(self, class: u64, word: u64) -> Self {
        Self(fold(fold(self.0 ^ word, SEEDS[1]) ^ class, SEEDS[2]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of texts and bytes.
    fn record(values: &[(bool, Vec<u8>)]) -> Vec<u8> {
        let varint = |mut number: u64| {
            let mut bytes = vec![u8::try_from(number & 0x7f).unwrap()];
            while number > 0x7f {
                number >>= 7;
                bytes.insert(0, u8::try_from(number & 0x7f).unwrap() | 0x80);
            }
            bytes
        };
        let types: Vec<u8> = values
            .iter()
            .flat_map(|(text, bytes)| varint(bytes.len() as u64 * 2 + 12 + u64::from(*text)))
            .collect();
        let mut record = vec![u8::try_from(types.len() + 1).unwrap()];
        record.extend(types);
        for (_, bytes) in values {
            record.extend_from_slice(bytes);
        }
        record
    }

    fn shortened(record: &[u8], pieces: usize) -> (Fields, Vec<u8>) {
        let mut fields = Fields::default();
        assert!(fields.read(&record[..200.min(record.len())], record.len()).unwrap());
        let (mut shortening, mut kept) = (fields.shorten(), Vec::new());
        record.chunks(pieces).for_each(|piece| shortening.take(piece, &mut kept));
        fields.shortened(shortening);
        (fields, kept)
    }

    #[test]
    fn a_record_that_was_shortened_says_the_same_of_itself() {
        let text = |len: usize, end: u8| {
            let mut bytes = vec![b'x'; len];
            bytes.push(end);
            bytes
        };
        let values = [
            (true, b"key".to_vec()),
            (true, text(300_000, b'a')),
            (false, Vec::new()),
            (false, text(KEPT_BYTES - 1, b'b')),
            (false, text(KEPT_BYTES, b'c')),
            (true, b"end".to_vec()),
        ];
        let whole = record(&values);
        let mut fields = Fields::default();
        assert!(fields.read(&whole, whole.len()).unwrap());
        for pieces in [1000, 4092, 70_000, whole.len()] {
            let (short, kept) = shortened(&whole, pieces);
            assert!(kept.len() < 3 * KEPT_BYTES + 100);
            for (nth, (_, bytes)) in values.iter().enumerate() {
                let long = bytes.len() > KEPT_BYTES;
                assert_eq!(short.digest(nth).is_some(), long, "{nth}");
                let value = |fields: &Fields, record: &[u8]| {
                    let value = fields.value(record, nth).unwrap().unwrap();
                    Entry::default().with_all(&value, fields.digest(nth)).0
                };
                assert_eq!(value(&short, &kept), value(&fields, &whole), "{nth}, {pieces}");
            }
        }
    }

    #[test]
    fn the_order_of_long_values_is_told_or_not_known() {
        let one = |bytes: Vec<u8>| shortened(&record(&[(true, bytes)]), 5000);
        let long = |first: u8, end: u8| [vec![first; KEPT_BYTES], vec![end; 9]].concat();
        for (a, b, want) in [
            (long(b'a', b'z'), long(b'b', b'a'), Some(Ordering::Less)),
            (long(b'a', b'z'), long(b'a', b'z'), Some(Ordering::Equal)),
            (long(b'a', b'z'), long(b'a', b'y'), None),
            (long(b'a', b'z'), b"a".to_vec(), Some(Ordering::Greater)),
            (long(b'a', b'z'), vec![b'a'; KEPT_BYTES], Some(Ordering::Greater)),
            (vec![b'a'; KEPT_BYTES], long(b'a', b'z'), Some(Ordering::Less)),
            (b"b".to_vec(), long(b'a', b'z'), Some(Ordering::Greater)),
        ] {
            let (a, b) = (one(a), one(b));
            assert_eq!(Fields::order((&a.0, &a.1), (&b.0, &b.1), 0).unwrap(), want);
        }
    }
}
