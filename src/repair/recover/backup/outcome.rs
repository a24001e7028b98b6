//! What is not lost any more once a backup has given what it has, and what still is.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    super::{LostRecord, Part, Report, index::INDEX, lost},
    Damage, FromBackup, Named,
    plan::{Lost, Plan},
    rule::Relation,
};
use crate::{human, repair::dump::catalogue::Collection};

/// The records of a collection that are said to have lost something.
pub(super) fn lost(report: &Report, damage: &Damage, name: &str) -> Lost {
    let mut out = Lost::default();
    for one in report.lost_records.iter().filter(|one| one.collection == name) {
        out.all.insert(one.id.clone());
        if of_tables(one.part) {
            out.metadata.insert(one.id.clone());
        }
    }
    let documents = report.lost_documents.iter().filter(|one| one.collection == name);
    let rows = report.lost_rows.iter().filter(|one| one.collection.as_deref() == Some(name));
    for id in documents.map(|one| Some(&one.id)).chain(rows.map(|one| one.id.as_ref())).flatten() {
        out.all.insert(id.clone());
        out.metadata.insert(id.clone());
    }
    let operations = damage.operations.iter().filter(|(collection, _)| collection == name);
    out.operations = operations.map(|(_, id)| id.clone()).collect();
    out
}

/// What came of it.
pub(super) struct Outcome<'a> {
    pub(super) all: &'a [(Collection, Plan)],
    /// Collection and id of the records that got a vector.
    pub(super) got: &'a HashSet<(String, String)>,
    pub(super) damage: &'a Damage,
    /// Records that the backup has not in their version.
    pub(super) newer: usize,
    /// Whether the queue has every row since the backup.
    pub(super) covered: bool,
}

/// Takes out of `report` and `losses` what is not lost any more, and says in `from` of what the backup has another version.
pub(super) fn report(
    from: &mut FromBackup,
    report: &mut Report,
    losses: &mut Vec<String>,
    outcome: &Outcome<'_>,
) {
    let mut relations: BTreeMap<&str, BTreeMap<&str, Relation>> = BTreeMap::new();
    for (collection, plan) in outcome.all {
        let of = relations.entry(&collection.name).or_default();
        of.extend(plan.relations.iter().map(|(id, relation)| (&**id, *relation)));
    }
    let related = |collection: &str, id: &str| relations.get(collection)?.get(id).copied();
    let whole = |collection: &str, id: &str| {
        matches!(related(collection, id), Some(Relation::Same | Relation::Gone))
    };
    report.lost_documents.retain(|one| !whole(&one.collection, &one.id));
    report.lost_records.retain(|one| match one.part {
        Part::Operation => true,
        part if of_tables(part) => !whole(&one.collection, &one.id),
        _ => !outcome.got.contains(&(one.collection.clone(), one.id.clone())),
    });
    report.lost_rows.retain(|one| {
        let of_metadata = METADATA.contains(&&*one.table);
        if !of_metadata && one.table != RECORDS {
            return true;
        }
        match (&one.collection, &one.id) {
            (Some(collection), Some(id)) => !whole(collection, id),
            // Of every record all is known that the tables had.
            _ => !of_metadata || outcome.newer > 0,
        }
    });
    let mut since = Vec::new();
    for (collection, plan) in outcome.all {
        since.extend(plan.lost_since.iter().map(|id| LostRecord {
            collection: collection.name.clone(),
            id: id.clone(),
            part: Part::Record,
            document: None,
            metadata: BTreeMap::new(),
        }));
    }
    let lost_since = since.len();
    lost::add_once(&mut report.lost_records, since);
    words(report, losses, outcome, lost_since);
    name_versions(from, report, outcome, &related);
}

/// What is said in words: what rows of tables were about is known record by record now.
fn words(report: &Report, losses: &mut Vec<String>, outcome: &Outcome<'_>, lost_since: usize) {
    let answered = |table: &str| {
        METADATA.contains(&table) || table == INDEX || table == RECORDS && outcome.covered
    };
    let old: BTreeSet<&str> = outcome
        .damage
        .words
        .iter()
        .filter(|(table, _)| answered(table))
        .map(|(_, words)| &**words)
        .collect();
    losses.retain(|loss| !old.contains(&**loss));
    let mut say = |count: usize, what: &str| {
        if count > 0 {
            losses.push(format!("{} {what}", human::count(count as f64)));
        }
    };
    let rows = |table: &str| report.lost_rows.iter().filter(|one| one.table == table).count();
    let parts = |part: Part| report.lost_records.iter().filter(|one| one.part == part).count();
    if outcome.damage.of(&METADATA) {
        say(rows(METADATA[0]), "rows of the table embedding_metadata");
        say(rows(METADATA[1]), "rows of the table embedding_metadata_array");
        say(
            parts(Part::AllMetadata),
            "records without document and metadata, which the backup has not in this version",
        );
        say(
            report.lost_documents.len(),
            "documents of which two copies differ, or that only the full text has",
        );
        say(
            outcome.newer,
            "records that the backup has not in this version: whether rows that nothing names were theirs is not known",
        );
    }
    if outcome.covered && outcome.damage.of(&[RECORDS]) {
        say(rows(RECORDS), "rows of the table embeddings");
        say(lost_since, "records that were made after the backup");
    }
    if outcome.damage.of(&[INDEX]) {
        say(parts(Part::NewestVector), "vectors that may be older than their records");
        say(parts(Part::Length), "lengths of vectors");
    }
}

fn name_versions(
    from: &mut FromBackup,
    report: &Report,
    outcome: &Outcome<'_>,
    related: &dyn Fn(&str, &str) -> Option<Relation>,
) {
    let mut older: BTreeSet<(&str, &str)> = BTreeSet::new();
    let records = report.lost_records.iter().map(|one| (&*one.collection, &*one.id));
    let documents = report.lost_documents.iter().map(|one| (&*one.collection, &*one.id));
    let rows = report.lost_rows.iter();
    let rows = rows.filter_map(|one| one.collection.as_deref().zip(one.id.as_deref()));
    for (collection, id) in records.chain(documents).chain(rows) {
        if matches!(related(collection, id), Some(Relation::Older | Relation::Unknown)) {
            older.insert((collection, id));
        }
    }
    let mut uncertain = Vec::new();
    for (collection, plan) in outcome.all {
        for (id, relation) in &plan.absent {
            if *relation == Relation::Older {
                older.insert((&collection.name, id));
            } else {
                uncertain.push((&*collection.name, &**id));
            }
        }
    }
    let named = |(collection, id): (&str, &str)| Named {
        collection: collection.to_owned(),
        id: id.to_owned(),
    };
    let is_uncertain: HashSet<(&str, &str)> = uncertain.iter().copied().collect();
    older.retain(|one| !is_uncertain.contains(one));
    from.older = older.into_iter().map(named).collect();
    from.uncertain = uncertain.into_iter().map(named).collect();
}

/// A collection has another name now.
pub(super) fn rename(from: &mut FromBackup, report: &mut Report, before: &str, now: &str) {
    let given = from.collections.iter_mut().map(|one| &mut one.collection);
    let named = from.older.iter_mut().chain(&mut from.uncertain).map(|one| &mut one.collection);
    let records = report.lost_records.iter_mut().map(|one| &mut one.collection);
    let documents = report.lost_documents.iter_mut().map(|one| &mut one.collection);
    let rows = report.lost_rows.iter_mut().filter_map(|one| one.collection.as_mut());
    for name in given.chain(named).chain(records).chain(documents).chain(rows) {
        if name == before {
            now.clone_into(name);
        }
    }
}

/// Whether it is a part that stands in the tables.
const fn of_tables(part: Part) -> bool {
    matches!(part, Part::Metadata | Part::AllMetadata | Part::Record)
}

const METADATA: [&str; 2] = ["embedding_metadata", "embedding_metadata_array"];
const RECORDS: &str = "embeddings";
