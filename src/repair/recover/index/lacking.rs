//! Records whose vector is neither in the index of their collection nor in a row of the queue that Chroma has still to apply to it.

use std::{
    collections::BTreeSet,
    ops::ControlFlow::{self, Break, Continue},
    path::Path,
};

use rusqlite::Connection;

use super::{
    applied, folder_of,
    ids::Ids,
    opened, read_ids,
    subject::{Subject, subjects},
};
use crate::{
    format::{
        queue::Known,
        uuid::{Uuid, parse_uuid},
    },
    repair::{
        dump::{
            catalogue::{self, Asker, Collection},
            tail::{self, Where},
        },
        recover::{Failure, LostRecord, Part, rows},
    },
};

/// Those of the collections with these ids. Errs when SQLite does, or a folder cannot be read.
pub(in crate::repair::recover) fn named(
    dir: &Path,
    of: &BTreeSet<&str>,
) -> Result<Vec<LostRecord>, Failure> {
    let connection = opened(dir)?;
    let mut asker = Asker::new(&connection)?;
    let mut out = Vec::new();
    let is_wanted = |collection: &Collection| of.contains(&*collection.id);
    each(dir, &connection, is_wanted, |collection, subject, _| {
        out.push(subject.lost(collection, Part::Vector, &mut asker)?);
        Ok(Continue(()))
    })?;
    Ok(out)
}

/// Whether the queue still has the vector of one of them, in a row that the index of one of these segments ought to have taken in: then
/// it only has to be written there. Errs when SQLite does, or a folder cannot be read.
pub(in crate::repair::recover) fn is_in_queue(
    dir: &Path,
    segments: &BTreeSet<Uuid>,
) -> Result<bool, Failure> {
    let connection = opened(dir)?;
    let mut asker = Asker::new(&connection)?;
    let mut found = false;
    let is_wanted = |collection: &Collection| {
        let segment = collection.vectors_segment.as_ref();
        segment.and_then(|id| parse_uuid(id.as_bytes())).is_some_and(|id| segments.contains(&id))
    };
    each(dir, &connection, is_wanted, |_, _, known| {
        found = match known {
            Known::Row(row) => asker.vector(row)?.is_some_and(|vector| !vector.is_empty()),
            Known::Absent | Known::Unknown => false,
        };
        Ok(if found { Break(()) } else { Continue(()) })
    })?;
    Ok(found)
}

/// Tells `then` each, with what the queue says of its vector, until it has enough. Errs as that does, when SQLite does, or a folder
/// cannot be read.
fn each(
    dir: &Path,
    connection: &Connection,
    is_wanted: impl Fn(&Collection) -> bool,
    mut then: impl FnMut(&Collection, &Subject, Known) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    let family = rows::family(connection)?;
    for collection in catalogue::read(connection)?.iter().filter(|one| is_wanted(one)) {
        let ids = match folder_of(dir, collection)? {
            Some(folder) => read_ids(&folder, collection)?,
            None => Ids::default(),
        };
        let position = applied(family, collection, &ids);
        for subject in subjects(connection, collection)? {
            let in_index = ids.labels.contains_key(&subject.hash);
            let place =
                tail::vector_of(in_index, &subject.operations, position.unwrap_or(i64::MIN));
            if place == Where::Nowhere
                && subject.is_there(collection.records_position)
                && then(collection, &subject, subject.known(position, family))?.is_break()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use super::*;
    use crate::{
        format::{
            parts::INDEX_FILES,
            pickle::{self, Entry, Family, NewMetadata},
        },
        repair::{
            recover::{Outcome, Report, tests::Stand},
            restore::Wish,
        },
    };

    /// A record of a collection whose index has forgotten it.
    struct Forgotten {
        collection: Collection,
        id: String,
    }

    /// Takes a record out of the list of ids of its index.
    fn forget(stand: &Stand) -> Forgotten {
        let connection = opened(&stand.wish.store).unwrap();
        let collection = catalogue::read(&connection).unwrap().remove(0);
        let folder = folder_of(&stand.wish.store, &collection).unwrap().unwrap();
        let ids = read_ids(&folder, &collection).unwrap();
        let all: Vec<(String, u64)> = subjects(&connection, &collection)
            .unwrap()
            .into_iter()
            .filter_map(|one| {
                Some((String::from_utf8(one.id).unwrap(), *ids.labels.get(&one.hash)?))
            })
            .collect();
        let ((id, _), rest) = all.split_first().unwrap();
        let entries = rest.iter().map(|(id, label)| Entry { id, label: *label, seq_id: *label });
        let facts = NewMetadata {
            family: Family::PersistentData,
            dimensionality: collection.dimension.unwrap(),
            total_elements_added: ids.total(),
            max_seq_id: ids.position.and_then(|at| at.try_into().ok()),
        };
        let mut bytes = Vec::new();
        pickle::write(&facts, entries, &mut |piece| io::Write::write_all(&mut bytes, piece))
            .unwrap();
        fs::write(folder.join(INDEX_FILES[4]), bytes).unwrap();
        Forgotten { id: id.clone(), collection }
    }

    fn execute(stand: &Stand, sql: &str) {
        Connection::open(stand.database()).unwrap().execute_batch(sql).unwrap();
    }

    fn accepted(stand: &Stand) -> Report {
        stand.run(&Wish { dry: false, accept_loss: true, ..stand.wish.clone() })
    }

    #[test]
    fn a_vector_that_the_queue_still_has_is_put_into_the_index_and_no_other_is_promised() {
        let stand = Stand::new("chroma-0.4.24");
        let Forgotten { collection, id } = forget(&stand);
        let of =
            format!("FROM embeddings_queue WHERE id = '{id}' AND topic LIKE '%{}'", collection.id);
        execute(&stand, &format!("CREATE TABLE aside AS SELECT * {of}; DELETE {of}"));

        // With the queue as it is, nothing has it: the index is whole without it.
        let report = accepted(&stand);
        assert_eq!(report.lost_records.len(), 1, "{report:#?}");
        let segment = parse_uuid(collection.vectors_segment.as_ref().unwrap().as_bytes()).unwrap();
        let segments = BTreeSet::from([segment]);
        assert!(!is_in_queue(&stand.wish.store, &segments).unwrap());
        let report = stand.run(&stand.wish);
        assert_eq!(report.outcome, Outcome::NotRepaired, "{report:#?}");
        assert_eq!(report.not_done[0].code, "records_without_vector", "{report:#?}");

        execute(&stand, "INSERT INTO embeddings_queue SELECT * FROM aside; DROP TABLE aside");
        assert!(is_in_queue(&stand.wish.store, &segments).unwrap());
        let report = stand.apply();
        assert_eq!(report.outcome, Outcome::Repaired, "{report:#?}");
        assert!(report.losses.is_empty() && report.lost_records.is_empty(), "{report:#?}");
        let after = report.after.unwrap();
        assert!(after.findings.is_empty(), "{:?}", after.findings);
    }
}
