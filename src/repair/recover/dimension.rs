//! The number of dimensions of a collection, put right from its vectors: those in its index, and those that the queue still has.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, types::ValueRef};

use super::{Effect, Failure, index, rows};
use crate::{
    format::pickle,
    repair::dump::catalogue::{self, Collection},
    store::DATABASE_FILE,
};

/// Writes the number that the vectors have into each row that says another one. Errs without a change when the vectors of such a
/// collection do not agree, or are nowhere.
pub(super) fn put_right(dir: &Path) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let transaction = connection.transaction()?;
    let mut words = Vec::new();
    for collection in catalogue::read(&transaction)? {
        let sql = "SELECT dimension FROM collections WHERE id = ?1";
        let stated = transaction.query_row(sql, [&collection.id], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Null => Stated::None,
                ValueRef::Integer(number @ 1..) => Stated::Number(number.unsigned_abs()),
                _ => Stated::Impossible,
            })
        })?;
        let (index, is_its_own) = of_index(dir, &transaction, &collection)?;
        let seen = Seen {
            stated,
            index,
            is_its_own,
            queue: of_queue(&transaction, &collection.id)?,
            has_records: collection.records > 0,
        };
        let name = &collection.name;
        let found =
            seen.judge().map_err(|why| Failure::Damaged(format!("Collection {name}: {why}.")))?;
        if let Some(number) = found {
            let sql = "UPDATE collections SET dimension = ?2 WHERE id = ?1";
            transaction.execute(sql, (&collection.id, number.cast_signed()))?;
            words.push(format!(
                "the dimension of collection {name} was set to {number}, as its vectors have"
            ));
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(Effect { what: words.join("; "), ..Effect::default() })
}

/// What the row of a collection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stated {
    None,
    Number(u64),
    /// Less than one, or no number.
    Impossible,
}

/// What is known of the vectors of a collection.
#[derive(Debug, Clone)]
struct Seen {
    stated: Stated,
    index: Option<u64>,
    /// Whether its folder has ids of this collection, as far as it has any that can be read.
    is_its_own: bool,
    /// The numbers of dimensions of all vectors in its rows of the queue.
    queue: BTreeSet<u64>,
    has_records: bool,
}

impl Seen {
    /// The number that belongs there; `None` when the right one is there. Errs with why it is not certain which one is right.
    fn judge(&self) -> Result<Option<u64>, &'static str> {
        let number = match (self.index.filter(|_| self.is_its_own), self.queue.first()) {
            (Some(index), None) => index,
            (Some(index), Some(_)) if self.queue.contains(&index) => index,
            (None, Some(queue)) if self.queue.len() == 1 => *queue,
            (_, other) if self.is_doubtful() => {
                return Err(match other {
                    Some(_) => {
                        "its vectors have several numbers of dimensions, so that it is not certain which one is right"
                    }
                    None => "none of its vectors is left that says how many dimensions they have",
                });
            }
            _ => return Ok(None),
        };
        Ok((self.stated != Stated::Number(number)).then_some(number))
    }

    /// Whether what the row says cannot stay.
    fn is_doubtful(&self) -> bool {
        match self.stated {
            Stated::None => self.has_records,
            Stated::Impossible => true,
            // One of them is right, and the others are rows that are wrong.
            Stated::Number(number) => {
                let others = self.index.into_iter().chain(self.queue.iter().copied());
                let mut others = others.peekable();
                others.peek().is_some() && !others.any(|other| other == number)
            }
        }
    }
}

fn of_index(
    dir: &Path,
    connection: &Connection,
    collection: &Collection,
) -> Result<(Option<u64>, bool), Failure> {
    let stated = index::stated_dimension(dir, collection)?;
    if stated.is_none() {
        return Ok((None, false));
    }
    let (ids, _) = index::ids_of(dir, collection)?;
    let mut own = ids.is_empty();
    let sql = "SELECT embedding_id FROM embeddings WHERE segment_id = ?1";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([&collection.records_segment])?;
    while let Some(row) = rows.next()?.filter(|_| !own) {
        own |= row.get_ref(0)?.as_bytes().is_ok_and(|id| ids.contains(&pickle::hash(id)));
    }
    Ok((stated, own))
}

fn of_queue(connection: &Connection, id: &str) -> Result<BTreeSet<u64>, Failure> {
    let sql = "SELECT DISTINCT octet_length(vector) FROM embeddings_queue WHERE typeof(vector) = 'blob' \
               AND encoding IN ('FLOAT32', 'INT32') AND operation IN (0, 1, 2) AND substr(topic, -length(?1)) = ?1";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([id], |row| row.get::<_, i64>(0))?;
    let mut out = BTreeSet::new();
    for bytes in rows {
        let bytes = bytes?.unsigned_abs();
        out.extend((bytes > 0 && bytes.is_multiple_of(4)).then_some(bytes / 4));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::recover::{
        Outcome,
        tests::{Stand, must_be_mended, rows},
    };

    #[test]
    fn a_number_is_taken_from_vectors_that_agree() {
        let number = |seen: &Seen| seen.judge().map_err(|_| ());
        for (stated, index, queue, want) in [
            (Stated::Number(8), Some(8), &[8][..], Ok(None)),
            (Stated::Number(9), Some(8), &[8], Ok(Some(8))),
            (Stated::Number(9), Some(8), &[], Ok(Some(8))),
            (Stated::Number(9), None, &[8], Ok(Some(8))),
            (Stated::None, Some(8), &[1, 8], Ok(Some(8))),
            (Stated::Impossible, None, &[8], Ok(Some(8))),
            // One row that is wrong is no proof.
            (Stated::Number(8), None, &[1, 8], Ok(None)),
            (Stated::Number(9), None, &[1, 8], Err(())),
            (Stated::Number(9), Some(8), &[7], Err(())),
            (Stated::Impossible, None, &[], Err(())),
            (Stated::Number(9), None, &[], Ok(None)),
        ] {
            let queue = queue.iter().copied().collect();
            let seen = Seen { stated, index, is_its_own: true, queue, has_records: true };
            assert_eq!(number(&seen), want, "{seen:?}");
        }
        let foreign = Seen {
            stated: Stated::Number(12),
            index: Some(8),
            is_its_own: false,
            queue: BTreeSet::new(),
            has_records: true,
        };
        assert_eq!(number(&foreign), Err(()), "the folder of another collection proves nothing");
        let empty = Seen { stated: Stated::None, index: None, has_records: false, ..foreign };
        assert_eq!(number(&empty), Ok(None));
    }

    #[test]
    fn a_row_gets_the_dimension_that_its_vectors_have() {
        for (name, value) in [
            ("chroma-0.4.24", "'abc'"),
            ("chroma-0.4.24", "9"),
            ("chroma-0.6.3", "9"),
            ("chroma-1.1.1", "-8"),
            ("chroma-1.5.9", "NULL"),
            ("chroma-1.5.9", "0"),
            ("chroma-1.5.9", "9"),
        ] {
            let healthy = rows(&Stand::new(name).database());
            let sql = format!("UPDATE collections SET dimension = {value} WHERE name = 'articles'");
            must_be_mended(&Stand::broken(name, &sql), &healthy, &format!("{name}: {value}"));
        }
        // A folder that was never flushed says nothing; all vectors are in the queue.
        let healthy = rows(&Stand::new("chroma-1.5.9-fresh").database());
        let stand = Stand::broken("chroma-1.5.9-fresh", "UPDATE collections SET dimension = 9");
        must_be_mended(&stand, &healthy, "fresh");
        let sql = "UPDATE collections SET dimension = 9; UPDATE embeddings_queue SET vector = NULL, encoding = NULL, operation = 1";
        let report = Stand::broken("chroma-1.5.9-fresh", sql).dry();
        assert_ne!(report.outcome, Outcome::WouldRepair, "{report:#?}");
    }
}
