//! What of one collection a backup gives back. Nothing is written.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rusqlite::Connection;

use super::{
    super::{
        Failure,
        index::{
            gifts::{Gift, Places},
            subject::{Subject, Version, subjects},
        },
    },
    Backup,
    rule::{Relation, Seen, is_there_after, relation},
};
use crate::repair::{
    dump::{
        Index,
        catalogue::{Asker, Collection},
        record::Record,
        tail::{self, Kind, Where},
    },
    steps::Steps,
};

/// The broken store, as far as it is repaired.
#[expect(clippy::struct_excessive_bools, reason = "each is known by itself")]
pub(super) struct Store<'a> {
    pub(super) connection: &'a Connection,
    /// Whether rows of its metadata are lost.
    pub(super) lost_metadata: bool,
    /// Whether rows of its records are lost.
    pub(super) lost_records: bool,
    /// Whether the queue has every row since the backup.
    pub(super) covered: bool,
    /// Numbers that several records have: an earlier repair did not know them, and took that of a neighbour.
    pub(super) repeated: HashSet<i64>,
    /// Whether the collections that are planned are gone as a whole, and are to come back as the backup has them.
    pub(super) is_gone: bool,
}

/// Records of one collection, by name, that are said to have lost something.
#[derive(Default)]
pub(super) struct Lost {
    /// Anything.
    pub(super) all: BTreeSet<String>,
    /// Document or metadata.
    pub(super) metadata: BTreeSet<String>,
    /// What was done to them last is not known.
    pub(super) operations: BTreeSet<String>,
}

/// What comes of one collection.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) places: Places,
    pub(super) fills: Vec<Fill>,
    /// Records of which the store has another version or none, and all that have lost something.
    pub(super) relations: BTreeMap<String, Relation>,
    /// Records of the store that the backup has not in this version.
    pub(super) newer: usize,
    /// Records that the store has not, although nothing says that they were deleted.
    pub(super) absent: Vec<(String, Relation)>,
    /// Records that the queue made since the backup, and that the tables have lost.
    pub(super) lost_since: Vec<String>,
}

/// A record that is written into the tables.
pub(super) struct Fill {
    pub(super) id: String,
    /// Its number in the store; `None` when it is gone.
    pub(super) row: Option<i64>,
    /// The row of the queue that it is from.
    pub(super) version: i64,
    pub(super) record: Source,
}

/// Where the backup has document and metadata of a record.
pub(super) struct Source {
    row: Option<i64>,
    /// What is to be applied to that.
    operations: Vec<(i64, Kind)>,
}

impl Source {
    fn of(subject: &Subject, position: i64) -> Self {
        let newer = subject.operations.iter().filter(|one| one.seq_id > position);
        Self {
            row: subject.row.map(|row| row.rowid),
            operations: newer.map(|one| (one.seq_id, one.kind)).collect(),
        }
    }

    /// Reads it; `None` when there is no such record, or it has a number that is none. Errs when SQLite does.
    pub(super) fn read(&self, asker: &mut Asker<'_>) -> rusqlite::Result<Option<Record>> {
        drop(asker.take_infinite());
        let mut record = self.row.map(|row| asker.record(row)).transpose()?;
        for (row, kind) in &self.operations {
            record = tail::applied(record, *kind, || asker.queued(*row))?;
        }
        Ok(record.filter(|_| asker.take_infinite().is_empty()))
    }
}

impl Store<'_> {
    /// What a record is from. A number that an earlier repair made up says nothing.
    fn version(&self, subject: &Subject, collection: &Collection) -> Version {
        match subject.version(collection.records_position) {
            Version::Row(row) if row <= 0 || self.repeated.contains(&row) => Version::Unknown,
            version => version,
        }
    }
}

/// What the queue has done to a record behind a row.
fn since(subject: &Subject, row: i64) -> Vec<Kind> {
    subject.operations.iter().filter(|one| one.seq_id > row).map(|one| one.kind).collect()
}

/// Compares a collection of the store with that of the backup. Errs when the two are not of one history.
pub(super) fn plan(
    store: &Store<'_>,
    collection: &Collection,
    backup: &Backup,
    mine: &Collection,
    lost: &Lost,
    steps: &Steps,
) -> Result<Plan, Failure> {
    let index = Index::open(backup.dir(), mine)
        .map_err(|error| Failure::Damaged(format!("the index of {}: {error}", mine.name)))?;
    let from = index.as_ref().map_or(i64::MIN, |index| index.position);
    let ours = subjects(store.connection, collection)?;
    let theirs = subjects(&backup.connection, mine)?;
    let (mut our_asker, mut their_asker) =
        (Asker::new(store.connection)?, Asker::new(&backup.connection)?);
    let mut plan = Plan::default();
    let foreign = |id: &[u8]| {
        Failure::Damaged(format!(
            "it is of another history: of record {} of collection {} it has something else under the same number",
            String::from_utf8_lossy(id),
            collection.name
        ))
    };
    let mut there = HashSet::new();
    for subject in &theirs {
        if steps.stopped() {
            return Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into());
        }
        let Version::Row(version) = subject.version(mine.records_position) else { continue };
        let Ok(id) = std::str::from_utf8(&subject.id) else { continue };
        let our = ours.binary_search_by(|our| our.id.cmp(&subject.id)).ok().map(|at| &ours[at]);
        let since = our.map_or_else(Vec::new, |our| since(our, backup.newest));
        let seen = Seen {
            version: our.map_or(Version::Absent, |our| store.version(our, collection)),
            since: store.covered.then_some(&since[..]),
        };
        there.insert(subject.hash);
        let related = match relation(version, backup.newest, seen) {
            Relation::Foreign => return Err(foreign(&subject.id)),
            _ if lost.operations.contains(id) => Relation::Unknown,
            Relation::Unknown if store.is_gone => Relation::Gone,
            related => related,
        };
        if seen.version != Version::Absent && related != Relation::Same {
            plan.newer += 1;
        }
        let source = Source::of(subject, mine.records_position);
        let row = our.and_then(|our| our.row).map(|row| row.rowid);
        let is = our.map(|our| Source::of(our, collection.records_position));
        let named = lost.metadata.contains(id);
        let content = Content { is: is.as_ref(), was: &source, named };
        let found = content.compare(related, store, (&mut our_asker, &mut their_asker))?;
        let Some((related, is_filled)) = found else { return Err(foreign(&subject.id)) };
        if is_filled {
            plan.fills.push(Fill { id: id.to_owned(), row, version, record: source });
        }
        if related != Relation::Same || lost.all.contains(id) {
            plan.relations.insert(id.to_owned(), related);
        }
        if seen.version == Version::Absent
            && store.lost_records
            && matches!(related, Relation::Unknown | Relation::Older)
        {
            plan.absent.push((id.to_owned(), related));
        }
        if !matches!(related, Relation::Same | Relation::Gone) {
            continue;
        }
        let element = index.as_ref().and_then(|index| index.find(id));
        let gift = match tail::vector_of(element.is_some(), &subject.operations, from) {
            Where::Index => element.map(Gift::Index),
            Where::Queue(row) => Some(Gift::Queue(row)),
            Where::Nowhere => None,
        };
        plan.places.of.extend(gift.map(|gift| (subject.hash, gift)));
    }
    for our in ours.iter().filter(|our| !there.contains(&our.hash)) {
        match store.version(our, collection) {
            Version::Row(version) if version <= backup.newest => return Err(foreign(&our.id)),
            Version::Row(_) | Version::Unknown => plan.newer += 1,
            Version::Absent if store.covered => {
                if is_there_after(false, &since(our, backup.newest)) {
                    plan.lost_since.push(String::from_utf8_lossy(&our.id).into_owned());
                }
            }
            Version::Absent => {}
        }
    }
    plan.places.index = index;
    Ok(plan)
}

/// Document and metadata of a record in the store and in the backup.
struct Content<'a> {
    is: Option<&'a Source>,
    was: &'a Source,
    /// Whether it is said to have lost something of them.
    named: bool,
}

impl Content<'_> {
    /// What the record is now that its content is known, and whether it is to be written; `None` when the two are of different histories.
    /// Errs when SQLite does.
    fn compare(
        &self,
        related: Relation,
        store: &Store<'_>,
        (ours, theirs): (&mut Asker<'_>, &mut Asker<'_>),
    ) -> Result<Option<(Relation, bool)>, Failure> {
        if !matches!(related, Relation::Same | Relation::Gone) {
            return Ok(Some((related, false)));
        }
        // A number that JSON has not would be lost on the way.
        let Some(was) = self.was.read(theirs)? else {
            return Ok(Some((Relation::Unknown, false)));
        };
        if related == Relation::Gone {
            // Where no row of the tables is lost, a record that nothing deleted is there.
            return Ok((store.lost_records || store.is_gone).then_some((related, true)));
        }
        let Some(is) = self.is.map(|is| is.read(ours)).transpose()?.flatten() else {
            return Ok(Some((Relation::Unknown, false)));
        };
        let explained = self.named || store.lost_metadata && is_part(&is, &was);
        Ok((is == was || explained).then_some((related, is != was)))
    }
}

/// Whether `all` has everything of `part`: what is missing was lost.
fn is_part(part: &Record, all: &Record) -> bool {
    let text = |part: &Option<String>, all: &Option<String>| part.is_none() || part == all;
    text(&part.document, &all.document)
        && text(&part.uri, &all.uri)
        && part.metadata.iter().all(|(key, value)| match (value, all.metadata.get(key)) {
            (serde_json::Value::Array(part), Some(serde_json::Value::Array(all))) => {
                part.iter().all(|one| all.contains(one))
            }
            (value, all) => all == Some(value),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_lost_something_is_a_part_of_what_it_was() {
        let record = |document: Option<&str>, metadata: serde_json::Value| Record {
            document: document.map(str::to_owned),
            uri: None,
            metadata: metadata.as_object().cloned().unwrap_or_default().into_iter().collect(),
        };
        let all = record(Some("text"), json!({"a": 1, "b": "x", "l": [1, 2]}));
        for (part, want) in [
            (record(None, json!({})), true),
            (record(Some("text"), json!({"b": "x"})), true),
            (record(None, json!({"l": [2]})), true),
            (record(Some("other"), json!({})), false),
            (record(None, json!({"a": 2})), false),
            (record(None, json!({"a": 1.0})), false),
            (record(None, json!({"new": 1})), false),
            (record(None, json!({"l": [3]})), false),
        ] {
            assert_eq!(is_part(&part, &all), want, "{part:?}");
        }
    }
}
