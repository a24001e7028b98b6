//! What the queue still says of vectors that an index has taken in already: rows that are not purged yet.

/// One row of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub seq_id: i64,
    /// What it does.
    pub kind: Kind,
    /// Whether it has a vector.
    pub vector: bool,
}

/// What a row does, as Chroma numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 0: adds a record; one that is there stays as it is.
    Add,
    /// 1: changes a record that is there.
    Update,
    /// 2: changes a record, or adds it.
    Upsert,
    /// 3: deletes a record.
    Delete,
}

impl Kind {
    /// What has this number; `None` for one that Chroma does not give.
    #[must_use]
    pub const fn of(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Add),
            1 => Some(Self::Update),
            2 => Some(Self::Upsert),
            3 => Some(Self::Delete),
            _ => None,
        }
    }

    /// The number that Chroma gives it.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Add => 0,
            Self::Update => 1,
            Self::Upsert => 2,
            Self::Delete => 3,
        }
    }
}

/// What the rows up to the position of the index say of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The index has the vector of the row with this number.
    Row(i64),
    /// The index has none.
    Absent,
    /// It depends on rows that are gone.
    Unknown,
}

/// Plays the `operations` of an id, in their order, up to `position`; they may be the newest of more. `whole` says that no row was ever taken out of the queue; `record` is the row of
/// the queue that the tables have the record from, when they have it.
#[must_use]
pub fn known(operations: &[Operation], position: i64, whole: bool, record: Option<i64>) -> Known {
    let mut known = if whole { Known::Absent } else { Known::Unknown };
    // Set by an update of a record of which it is not certain that it was there.
    let mut perhaps = false;
    for operation in operations.iter().filter(|operation| operation.seq_id <= position) {
        let row = Known::Row(operation.seq_id);
        known = match (operation.kind, known) {
            (Kind::Delete, _) => Known::Absent,
            (Kind::Upsert, _) | (Kind::Add, Known::Absent) | (Kind::Update, Known::Row(_))
                if operation.vector =>
            {
                row
            }
            // An addition of what is there changes nothing. The tables know whether it was this one that made the record.
            (Kind::Add, Known::Unknown) if operation.vector && record == Some(operation.seq_id) => {
                row
            }
            (Kind::Add, Known::Row(_)) if perhaps => Known::Unknown,
            (Kind::Update, Known::Unknown) if operation.vector => {
                perhaps = true;
                row
            }
            (_, known) => known,
        };
        perhaps &= operation.kind == Kind::Update || operation.kind == Kind::Add;
    }
    // An update of what is not there changes nothing: only a record that is there still had its vector changed.
    if perhaps && record.is_none() { Known::Unknown } else { known }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_queue_does_not_tell_for_certain_is_unknown() {
        use Known::{Absent, Row, Unknown};
        // add, update, upsert and delete, in capitals with a vector; the first row is 1.
        for (rows, position, whole, record, want) in [
            ("", 9, false, Some(1), Unknown),
            ("", 9, true, None, Absent),
            ("S", 9, false, Some(1), Row(1)),
            ("S", 0, false, Some(1), Unknown),
            ("SSd", 2, false, Some(1), Row(2)),
            ("Sd", 9, false, None, Absent),
            ("SU", 9, false, Some(2), Row(2)),
            ("Su", 9, false, Some(2), Row(1)),
            // Whether it made the record is known by its number, or when nothing was before it.
            ("A", 9, false, Some(1), Row(1)),
            ("A", 9, false, Some(7), Unknown),
            ("A", 9, true, Some(7), Row(1)),
            ("dA", 9, false, Some(7), Row(2)),
            ("AA", 9, true, Some(1), Row(1)),
            // An update counts when the record was there.
            ("U", 9, false, Some(1), Row(1)),
            ("U", 9, false, None, Unknown),
            ("U", 9, true, None, Absent),
            ("UA", 9, false, Some(2), Unknown),
            ("US", 9, false, None, Row(2)),
            ("Ud", 9, false, None, Absent),
        ] {
            let operations: Vec<Operation> = (1..)
                .zip(rows.chars())
                .map(|(seq_id, row)| Operation {
                    seq_id,
                    kind: match row.to_ascii_lowercase() {
                        'a' => Kind::Add,
                        'u' => Kind::Update,
                        's' => Kind::Upsert,
                        _ => Kind::Delete,
                    },
                    vector: row.is_ascii_uppercase(),
                })
                .collect();
            let found = known(&operations, position, whole, record);
            assert_eq!(found, want, "{rows} {position} {whole} {record:?}");
        }
    }
}
