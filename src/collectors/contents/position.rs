//! How far a segment has applied the queue, as each family of Chroma writes it: eight bytes, most significant first, below
//! 1.0, integers from then on. In a form that it does not expect, Chroma gives an error for every use of the collection.

use super::ask::Cell;
use crate::format::schema::Family;

/// How far a segment has applied the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Position {
    At(i64),
    /// There is no row, or it says nothing.
    Missing,
    /// In a form that says nothing here.
    Opaque,
    /// Chroma cannot read it; why.
    Bad(String),
}

impl Position {
    /// Reads what `max_seq_id` holds, as a Chroma of `family` does.
    pub(super) fn of(cell: &Cell, family: Family) -> Self {
        let bad = |cell: &Cell| Self::Bad(format!("it is {}", cell.kind()));
        match (cell, family) {
            (Cell::Null, _) => Self::Missing,
            (Cell::Integer(..0), Family::Rust) => Self::Bad("it is negative".to_owned()),
            (Cell::Integer(_), Family::Oldest) => {
                Self::Bad("it is an integer where Chroma 0.4 reads eight bytes".to_owned())
            }
            (Cell::Integer(position), _) => Self::At(*position),
            (Cell::Blob(bytes), Family::Oldest | Family::Python) => match bytes.len() {
                8 => big_endian(bytes).map_or(Self::Opaque, Self::At),
                24 => Self::Opaque,
                n => Self::Bad(format!("it has {n} bytes instead of eight")),
            },
            (_, Family::Unknown) => Self::Opaque,
            (cell, _) => bad(cell),
        }
    }

    /// The row, when it is known.
    pub(super) const fn at(&self) -> Option<i64> {
        match self {
            Self::At(position) => Some(*position),
            _ => None,
        }
    }
}

fn big_endian(bytes: &[u8]) -> Option<i64> {
    i64::try_from(u64::from_be_bytes(bytes.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_each_family_writes_them() {
        let eight = |n: u64| Cell::Blob(n.to_be_bytes().to_vec());
        let bad = |cell: &Cell, family| matches!(Position::of(cell, family), Position::Bad(_));
        assert_eq!(Position::of(&eight(258), Family::Oldest), Position::At(258));
        assert_eq!(Position::of(&eight(258), Family::Python), Position::At(258));
        assert_eq!(Position::of(&Cell::Integer(7), Family::Python), Position::At(7));
        assert_eq!(Position::of(&Cell::Integer(7), Family::Rust), Position::At(7));
        assert_eq!(Position::of(&Cell::Null, Family::Rust), Position::Missing);
        assert_eq!(Position::of(&eight(u64::MAX), Family::Python), Position::Opaque);
        assert_eq!(Position::of(&eight(1), Family::Unknown), Position::Opaque);
        assert!(bad(&eight(1), Family::Rust) && bad(&Cell::Integer(-1), Family::Rust));
        assert!(
            bad(&Cell::Integer(1), Family::Oldest) && bad(&Cell::Blob(vec![1]), Family::Python)
        );
        assert!(bad(&Cell::Text("abc".to_owned()), Family::Python));
    }
}
