//! What is to be done about one row of the queue that Chroma cannot apply. What such a row still says is kept where the tables, the
//! index or later rows prove it. A row is never taken out: Chroma numbers new rows by the newest one, and a number that falls is given
//! twice. What is left of it then is an update that changes nothing.

use crate::repair::dump::tail::{Kind, Operation};

/// A row that cannot be applied, and what is known of its record.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) seq_id: i64,
    /// `None` when it is none that Chroma knows.
    pub(super) kind: Option<Kind>,
    pub(super) vector: Vector,
    /// Whether its metadata can be read; none are none that cannot.
    pub(super) metadata_reads: bool,
    /// Whether the tables have taken the row in.
    pub(super) in_tables: bool,
    /// Whether the index has.
    pub(super) in_index: bool,
    /// The row of the queue that the tables have the record from; `None` when there is no such record.
    pub(super) record: Option<i64>,
    /// Whether the index has a vector under this id.
    pub(super) indexed: bool,
    /// The other rows of this id that can be applied, in their order. One has a vector when it can be read.
    pub(super) others: &'a [Operation],
}

/// The vector of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vector {
    None,
    /// It cannot be read, or belongs to no record of this collection.
    Bad,
    Good,
}

/// What the row is from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) kind: Kind,
    pub(super) vector: Mended,
    pub(super) keeps_metadata: bool,
    pub(super) lost: Option<Lost>,
}

/// The vector of a row that was mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mended {
    Kept,
    /// That of a later row, which replaces this one anyway.
    Of(i64),
    Dropped,
}

/// What nothing proves any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// What the row did.
    Operation,
    /// The record that it made.
    Record,
    /// Its vector: there is none of this record any more.
    Vector,
    /// Its vector: the record keeps an older one.
    NewestVector,
    /// Document and metadata that it brought.
    Metadata,
}

/// An update that changes nothing.
const NOTHING: Verdict =
    Verdict { kind: Kind::Update, vector: Mended::Dropped, keeps_metadata: false, lost: None };

impl Case<'_> {
    pub(super) fn judge(&self) -> Verdict {
        let verdict = match self.kind.map_or_else(|| self.proven_kind(), Ok) {
            Err(verdict) => verdict,
            Ok(kind) => self.judge_vector(kind),
        };
        if self.metadata_reads || !verdict.keeps_metadata {
            return verdict;
        }
        // The tables have what they say.
        let brings = !self.in_tables && verdict.kind != Kind::Delete;
        let lost = verdict.lost.or(brings.then_some(Lost::Metadata));
        Verdict { keeps_metadata: false, lost, ..verdict }
    }

    fn later(&self) -> impl Iterator<Item = &Operation> {
        self.others.iter().filter(|other| other.seq_id > self.seq_id)
    }

    /// The first later row that decides alone what the vector is.
    fn decides(&self) -> Option<&Operation> {
        let brings = |other: &&Operation| other.vector && other.kind != Kind::Add;
        self.later().find(|other| other.kind == Kind::Delete || brings(other))
    }

    /// Which operation the row was, by what the tables have made of it. Errs with what becomes of the row when that is not certain.
    fn proven_kind(&self) -> Result<Kind, Verdict> {
        let unknown = Verdict { lost: Some(Lost::Operation), ..NOTHING };
        if !self.in_tables {
            return Err(unknown);
        }
        let Some(written_by) = self.record else {
            // It ends without a record either way.
            return Ok(Kind::Delete);
        };
        if written_by == self.seq_id {
            let brings = self.vector != Vector::None;
            return Ok(if brings { Kind::Upsert } else { Kind::Update });
        }
        if written_by < self.seq_id {
            // It changed nothing: an addition of what was there.
            return Err(NOTHING);
        }
        let made_later =
            self.later().any(|other| other.seq_id == written_by && other.kind == Kind::Add);
        match (made_later, self.decides(), self.vector) {
            (true, ..) => Ok(Kind::Delete),
            (false, Some(_), _) | (false, None, Vector::None) => Err(NOTHING),
            (false, None, _) => Err(unknown),
        }
    }

    fn judge_vector(&self, kind: Kind) -> Verdict {
        let kept = Verdict { kind, vector: Mended::Kept, keeps_metadata: true, lost: None };
        let without = Verdict { kind: Kind::Update, vector: Mended::Dropped, ..kept };
        match (kind, self.vector) {
            (Kind::Delete, _) => return Verdict { vector: Mended::Dropped, ..kept },
            (Kind::Add, Vector::None) | (_, Vector::Bad) => {}
            (_, Vector::None | Vector::Good) => return kept,
        }
        match self.decides() {
            Some(later) if later.kind == Kind::Delete => return without,
            Some(later) => return Verdict { vector: Mended::Of(later.seq_id), ..kept },
            None => {}
        }
        if self.in_index && self.indexed {
            return without;
        }
        let lost = if self.has_older() { Lost::NewestVector } else { Lost::Vector };
        match (self.in_tables, self.record) {
            (true, None) => without,
            // An addition of what was there changes nothing.
            (true, Some(written_by)) if kind == Kind::Add && written_by < self.seq_id => NOTHING,
            (_, Some(_)) => Verdict { lost: Some(lost), ..without },
            (false, None) if kind == Kind::Update && self.others.is_empty() => NOTHING,
            (false, None) => Verdict { lost: Some(Lost::Record), ..NOTHING },
        }
    }

    /// Whether the record has a vector without this row.
    fn has_older(&self) -> bool {
        let earlier = self.others.iter().filter(|other| other.seq_id < self.seq_id);
        earlier.fold(self.indexed, |there, other| match other.kind {
            Kind::Delete => false,
            Kind::Add | Kind::Upsert => there || other.vector,
            Kind::Update => there,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `5S` is an upsert in row 5 with a vector, `5s` one without.
    fn operations(text: &str) -> Vec<Operation> {
        let one = |word: &str| {
            let (number, letter) = word.split_at(word.len() - 1);
            let letter = letter.chars().next().unwrap();
            let kind = match letter.to_ascii_lowercase() {
                'a' => Kind::Add,
                'u' => Kind::Update,
                's' => Kind::Upsert,
                _ => Kind::Delete,
            };
            Operation { seq_id: number.parse().unwrap(), kind, vector: letter.is_uppercase() }
        };
        text.split_whitespace().map(one).collect()
    }

    #[test]
    fn what_the_store_proves_is_kept_and_the_rest_is_told() {
        use Vector::{Bad, Good, None as Without};
        let (add, update, upsert, delete) =
            (Some(Kind::Add), Some(Kind::Update), Some(Kind::Upsert), Some(Kind::Delete));
        let tables = (true, false);
        let nobody = (false, false);
        // The row is number 5.
        for (kind, vector, metadata_reads, (in_tables, in_index), record, indexed, others, want) in [
            // An unknown operation, by what the tables made of it.
            (None, Good, true, tables, Some(5), false, "", "upsert kept"),
            (None, Without, true, tables, Some(5), true, "", "update kept"),
            (None, Good, true, tables, None, true, "", "delete dropped"),
            (None, Without, true, tables, None, false, "3A 7d", "delete dropped"),
            (None, Good, true, tables, Some(4), true, "4S", "nothing"),
            (None, Good, true, tables, Some(7), false, "7A", "delete dropped"),
            (None, Good, true, tables, Some(7), false, "7U", "nothing"),
            (None, Good, true, tables, Some(7), false, "7u", "nothing, Operation"),
            (None, Without, true, tables, Some(7), true, "7u", "nothing"),
            (None, Good, true, nobody, None, false, "", "nothing, Operation"),
            (None, Bad, true, tables, Some(5), false, "", "update dropped, Vector"),
            (None, Bad, true, tables, Some(5), true, "", "update dropped, NewestVector"),
            // A vector that cannot be read.
            (add, Bad, true, tables, Some(5), false, "", "update dropped, Vector"),
            (add, Without, true, tables, Some(5), false, "", "update dropped, Vector"),
            (add, Bad, true, tables, Some(3), true, "", "nothing"),
            (upsert, Bad, true, tables, Some(5), true, "", "update dropped, NewestVector"),
            (upsert, Bad, true, tables, Some(5), true, "4d", "update dropped, Vector"),
            (update, Bad, true, tables, Some(5), false, "3A", "update dropped, NewestVector"),
            (add, Bad, true, tables, Some(7), false, "7U", "add of 7"),
            (add, Bad, true, tables, None, false, "7d", "update dropped"),
            (upsert, Bad, true, (true, true), Some(5), true, "", "update dropped"),
            (add, Bad, true, nobody, None, false, "", "nothing, Record"),
            (upsert, Bad, true, nobody, Some(3), true, "", "update dropped, NewestVector"),
            (update, Bad, true, nobody, None, false, "", "nothing"),
            (delete, Bad, true, tables, None, false, "", "delete dropped"),
            // Metadata that cannot be read.
            (add, Good, false, tables, Some(5), false, "", "add kept, no metadata"),
            (add, Good, false, nobody, None, false, "", "add kept, no metadata, Metadata"),
            (
                update,
                Bad,
                false,
                nobody,
                Some(2),
                true,
                "",
                "update dropped, no metadata, NewestVector",
            ),
            (delete, Without, false, nobody, Some(2), true, "", "delete dropped, no metadata"),
            (None, Good, false, tables, Some(5), false, "", "upsert kept, no metadata"),
        ] {
            let others = operations(others);
            let case = Case {
                seq_id: 5,
                kind,
                vector,
                metadata_reads,
                in_tables,
                in_index,
                record,
                indexed,
                others: &others,
            };
            let verdict = case.judge();
            let mut said = match verdict.vector {
                Mended::Kept => format!("{:?} kept", verdict.kind),
                Mended::Dropped => format!("{:?} dropped", verdict.kind),
                Mended::Of(row) => format!("{:?} of {row}", verdict.kind),
            }
            .to_lowercase();
            if verdict == (Verdict { lost: verdict.lost, ..NOTHING }) && !want.contains("no meta") {
                "nothing".clone_into(&mut said);
            } else if !verdict.keeps_metadata {
                said.push_str(", no metadata");
            }
            if let Some(lost) = verdict.lost {
                said = format!("{said}, {lost:?}");
            }
            assert_eq!(said, want, "{case:?}");
        }
    }
}
