//! A walk over the rows of all records, in slices by their key, with the place kept between runs and restarts: whether the
//! two copies of each document agree, whether the full-text table has every document and no other, and which rows belong
//! to nothing.
//!
//! Chroma writes a document twice in one transaction, into `embedding_metadata` (key `chroma:document`) and into the
//! content table of the full-text index, under the same key. Each slice is one read transaction, so a writer can make no
//! difference. Two copies of one length that differ are silent damage (a flipped bit, a page of another file): no check of
//! SQLite sees it in a table that has no index over it. Copies of different length were written at different times.

mod slice;

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use self::slice::Parts;
use super::{
    ask::Asker,
    catalogue::{Catalogue, Scope},
    tally::{Cases, Tally},
};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Severity, Template},
    format::schema::Family,
    host::processes::FileId,
    store::database::QueryError,
};

/// What one whole walk saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WholeWalk {
    /// Rows of `embeddings`.
    pub(super) records: u64,
    /// Of one length, but not the same; by record.
    pub(super) changed: Cases,
    /// Of different lengths.
    pub(super) other: Cases,
    /// The full-text table has them at the number of their metadata row, as the third migration of Chroma's records puts them.
    #[serde(default)]
    pub(super) by_rowid: Cases,
    /// Documents that the full-text table has not.
    pub(super) missing: Cases,
    /// Documents with U+0000 and text behind it, by the id of their record: the index has only what stands before.
    #[serde(default)]
    pub(super) cut_at_nul: Cases,
    /// The same: the index has all of it.
    #[serde(default)]
    pub(super) whole_with_nul: Cases,
    /// Texts in the full-text table for records without a document.
    pub(super) stale: Cases,
    /// Texts in the full-text table for records that are gone.
    pub(super) leftover: u64,
    /// Records whose metadata are there, and they are not.
    pub(super) headless: Cases,
    /// The same for lists; Chroma 1.5.9 leaves those of deleted collections behind.
    pub(super) lists: u64,
    /// Records by segment, of segments that the catalogue had not; of a walk under way they may be in the next catalogue.
    pub(super) homeless: BTreeMap<String, u64>,
    /// Those of them with a position in `max_seq_id`: they were segments once.
    #[serde(default)]
    pub(super) deleted: BTreeSet<String>,
    /// Records by segment, of those that the catalogue has: no more of them than of those.
    #[serde(default)]
    pub(super) by_segment: BTreeMap<String, u64>,
}

/// The walk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Walk {
    file: Option<FileId>,
    /// Records up to this one have been seen.
    at: i64,
    under_way: Option<WholeWalk>,
    /// The last whole walk, and when it ended.
    pub(super) done: Option<(Timestamp, WholeWalk)>,
}

impl Walk {
    /// Forgets what is about another file.
    pub(super) fn about(&mut self, file: FileId) {
        if self.file != Some(file) {
            *self = Self { file: Some(file), ..Self::default() };
        }
    }

    /// Whether a walk is under way or, with the last one longer ago than `interval`, shall begin.
    pub(super) fn due(&self, now: Timestamp, interval: std::time::Duration) -> bool {
        let old = |(at, _): &(Timestamp, WholeWalk)| *at > now || now.since(*at) >= interval;
        self.under_way.is_some() || self.done.as_ref().is_none_or(old)
    }

    /// Whether one was begun and has not come to its end.
    pub(super) const fn under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins at the first record again.
    pub(super) fn start_over(&mut self) {
        self.under_way = None;
    }

    /// Goes on as far as the budget allows; says whether the end was reached. Errs when SQLite does.
    pub(super) fn go_on(
        &mut self,
        asker: &mut Asker<'_, '_>,
        catalogue: &Catalogue,
        now: Timestamp,
    ) -> Result<bool, QueryError> {
        if self.under_way.is_none() {
            self.at = i64::MIN;
        }
        let Some(parts) = Parts::of(catalogue) else {
            self.done = Some((now, WholeWalk::default()));
            return Ok(true);
        };
        let known: BTreeSet<&str> = catalogue.segments.iter().map(|s| s.id.as_str()).collect();
        let mut under_way = self.under_way.take().unwrap_or_default();
        loop {
            let after = self.at;
            let slice = match asker.slice(|c, rows| parts.read(c, after, rows)) {
                Ok(Some(slice)) => slice,
                other => {
                    self.under_way = Some(under_way);
                    return other.map(|_| false);
                }
            };
            under_way.add(slice.seen, &known);
            self.at = slice.upto;
            if slice.upto == i64::MAX {
                // Some may have been made or deleted since the catalogue was read.
                let confirmed =
                    asker.ask(|c| still_homeless(c, catalogue, under_way.homeless.keys()));
                match confirmed {
                    Ok(Some(confirmed)) => {
                        under_way.homeless.retain(|segment, _| confirmed.contains_key(segment));
                        let were = confirmed.into_iter().filter(|(_, position)| *position);
                        under_way.deleted = were.map(|(segment, _)| segment).collect();
                    }
                    // It took too long: nothing is said to be found, and nothing not to be, until it is answered.
                    other => {
                        self.under_way = Some(under_way);
                        return other.map(|_| false);
                    }
                }
                self.done = Some((now, under_way));
                return Ok(true);
            }
        }
    }

    /// What the last whole walk found, and what the one under way found that it had not.
    pub(super) fn findings(&self, catalogue: &Catalogue) -> Vec<Finding> {
        let of = |seen: &WholeWalk| seen.findings(catalogue);
        let mut findings = self.done.as_ref().map(|(_, seen)| of(seen)).unwrap_or_default();
        findings.extend(self.done.iter().filter_map(|(_, seen)| seen.homeless(catalogue)));
        let new = self.under_way.as_ref().map(of).unwrap_or_default();
        for finding in new {
            if !findings.iter().any(|f| f.code == finding.code && f.subject == finding.subject) {
                findings.push(finding);
            }
        }
        findings
    }
}

impl WholeWalk {
    fn add(&mut self, slice: Self, known: &BTreeSet<&str>) {
        self.records = self.records.saturating_add(slice.records);
        self.leftover = self.leftover.saturating_add(slice.leftover);
        self.lists = self.lists.saturating_add(slice.lists);
        for (cases, more) in [
            (&mut self.changed, slice.changed),
            (&mut self.other, slice.other),
            (&mut self.by_rowid, slice.by_rowid),
            (&mut self.missing, slice.missing),
            (&mut self.stale, slice.stale),
            (&mut self.headless, slice.headless),
            (&mut self.cut_at_nul, slice.cut_at_nul),
            (&mut self.whole_with_nul, slice.whole_with_nul),
        ] {
            cases.merge(more);
        }
        for (segment, records) in slice.homeless {
            if known.contains(segment.as_str()) {
                *self.by_segment.entry(segment).or_default() += records;
            } else if self.homeless.len() < HOMELESS_MAX {
                *self.homeless.entry(segment).or_default() += records;
            }
        }
    }

    /// The `most` collections with the most records, by name. Those of one name in several databases count as one. One that
    /// had no records is left out: it may have been made, and filled, since.
    pub(super) fn largest(&self, catalogue: &Catalogue, most: usize) -> Vec<(String, u64)> {
        let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
        for segment in catalogue.segments.iter().filter(|s| s.scope == Some(Scope::Metadata)) {
            let collection = catalogue.collections.get(&segment.collection);
            let (Some(collection), Some(records)) = (collection, self.by_segment.get(&segment.id))
            else {
                continue;
            };
            let name: String = collection.name.chars().take(NAME_CHARS_MAX).collect();
            let sum = by_name.entry(name).or_default();
            *sum = sum.saturating_add(*records);
        }
        let mut all: Vec<(String, u64)> = by_name.into_iter().collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.truncate(most);
        all
    }

    fn findings(&self, catalogue: &Catalogue) -> Vec<Finding> {
        let mut tally = Tally::default();
        let records = |cases: &Cases| {
            let s = if cases.count == 1 { "" } else { "s" };
            format!("{} record{s}, embeddings.id {}", cases.count, cases.words(", "))
        };
        let mut add = |code, subject, cases: &Cases, what: &str| {
            if cases.count > 0 {
                let words = || format!("{what}: {}", records(cases));
                tally.add_about(code, code.severity(), subject, words, cases.clone());
            }
        };
        let text = "the two copies of the document have the same length and differ";
        add(Code::SqliteValueMismatch, "embedding_metadata", &self.changed, text);
        let table = FULLTEXT;
        let text = "the document is not in the full-text table";
        add(Code::FtsOutOfStep, table, &self.missing, text);
        let text = "the full-text table has another text";
        add(Code::FtsOutOfStep, table, &self.other, text);
        let text = "the upgrade from Chroma below 0.4.6 put the document at a wrong number of the full-text table";
        add(Code::FtsOutOfStep, table, &self.by_rowid, text);
        let text = "the full-text table has a text and the record has no document";
        add(Code::FtsOutOfStep, table, &self.stale, text);
        let text = "metadata without their record";
        add(Code::OrphanRows, "embedding_metadata", &self.headless, text);
        let mut findings = tally.into_findings();
        findings.extend(self.beyond_nul(catalogue));
        findings
    }

    /// What is said of documents with U+0000: that the text behind it is not found, or, when a newer SQLite than Chroma's wrote
    /// it into the index, that Chroma's calls the index damaged. Measured on 0.6.3 with SQLite 3.40, where an upsert of such a
    /// record fails, and on 1.5.9, where it leaves entries behind. Python may bring a newer one to Chroma below 1.0.
    fn beyond_nul(&self, catalogue: &Catalogue) -> Option<Finding> {
        let (cut, whole) = (&self.cut_at_nul, &self.whole_with_nul);
        if cut.count + whole.count == 0 {
            return None;
        }
        let of = |cases: &Cases| {
            let s = if cases.count == 1 { "" } else { "s" };
            format!("{} record{s}, {}", cases.count, cases.words(", "))
        };
        let mut evidence = Vec::new();
        if cut.count > 0 {
            evidence.push(format!("$contains does not find what follows U+0000: {}", of(cut)));
        }
        if whole.count > 0 {
            evidence.push(format!(
                "the index goes on after U+0000: a newer SQLite than 3.46 wrote it; an older one calls it malformed, and fails or leaves entries behind when these records change: {}",
                of(whole)
            ));
        }
        let finding = Finding::new(Code::FtsCutAtNul, FULLTEXT, evidence.join("; "))
            .with_items_of(cut.listed.iter().chain(&whole.listed), cut.count + whole.count);
        if whole.count == 0 || catalogue.family != Family::Rust {
            return Some(finding);
        }
        let finding = finding.with_severity(Severity::Warning);
        Some(finding.with_remedy(REBUILD))
    }

    /// Records whose segment is not there. Chroma before 1.0.15 leaves them behind when a collection is deleted, with their
    /// documents and mostly with the position of the segment; no later release takes them away. They are no such remains
    /// while a collection lacks its segment.
    fn homeless(&self, catalogue: &Catalogue) -> Option<Finding> {
        if self.homeless.is_empty() {
            return None;
        }
        let (segments, rows) = (self.homeless.len(), self.homeless.values().sum::<u64>());
        let old = matches!(catalogue.family, Family::Oldest | Family::Python);
        let deleted = old || self.deleted.len() == segments;
        let (severity, why) = if deleted && !catalogue.lacks_records_segment() {
            (Severity::Info, "; Chroma before 1.0.15 leaves those of deleted collections behind")
        } else {
            (Severity::Warning, "")
        };
        let evidence =
            format!("{rows} records belong to {segments} segments that are not there{why}");
        let finding = Finding::new(Code::OrphanRows, "embeddings", evidence);
        Some(finding.with_severity(severity).with_items(self.homeless.keys()))
    }
}

/// Those of `segments` that have records and are not in the catalogue, and whether their position is. Errs when SQLite does.
fn still_homeless<'a>(
    connection: &Connection,
    catalogue: &Catalogue,
    segments: impl Iterator<Item = &'a String>,
) -> rusqlite::Result<BTreeMap<String, bool>> {
    // That the table is gone is a finding of its own; then nothing has a home.
    if !catalogue.tables.contains("segments") {
        return Ok(BTreeMap::new());
    }
    let position = if catalogue.tables.contains("max_seq_id") {
        "EXISTS(SELECT 1 FROM max_seq_id WHERE segment_id=?1)"
    } else {
        "0"
    };
    let sql = format!(
        "SELECT EXISTS(SELECT 1 FROM embeddings WHERE segment_id=?1) \
         AND NOT EXISTS(SELECT 1 FROM segments WHERE id=?1), {position}"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut out = BTreeMap::new();
    for segment in segments {
        let (homeless, position) =
            statement.query_row([segment], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if homeless {
            out.insert(segment.clone(), position);
        }
    }
    Ok(out)
}

const REBUILD: Template = Template {
    words: "Do this before these records change. Stop Chroma and keep a copy of the directory. Then rebuild the full-text index with an sqlite3 from 3.34 to 3.46.",
    command: "sqlite3 {path}/chroma.sqlite3 \"INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES('rebuild')\"",
    note: "sqlite3 --version says which one it is.",
};
const FULLTEXT: &str = "embedding_fulltext_search";
/// Where FTS5 keeps the texts themselves.
pub(super) const CONTENT: &str = "embedding_fulltext_search_content";
const HOMELESS_MAX: usize = 10_000;
/// What a label shows of a name; Chroma takes up to 512.
const NAME_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc, time::Duration};

    use super::{
        slice::{differing, headless},
        *,
    };
    use crate::{
        collectors::{Run, testing::patient},
        facts::wake::Wake,
        store::database::Database,
    };

    fn copy(to: &Path) -> Database {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = to.join("chroma.sqlite3");
        std::fs::copy(from.join("tests/fixtures/chroma-1.5.9/chroma.sqlite3"), &path).unwrap();
        Database::new(path)
    }

    fn run() -> Run {
        let now = Timestamp::from_secs(1000);
        Run { now, wake: Wake::RESCAN, deep: false, stop: Arc::default() }
    }

    #[test]
    fn no_slice_reads_more_than_its_records() {
        let dir = tempfile::tempdir().unwrap();
        let database = copy(dir.path());
        let connection = Connection::open(database.path()).unwrap();
        let mut asked = vec![differing(true), headless("embedding_metadata")];
        asked.push(headless("embedding_metadata_array"));
        for sql in asked {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> = statement
                .query_map((1, 2), |row| row.get(3))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            for step in &plan {
                let bounded = ["id=?", "rowid=?", "id>? AND id<?", "rowid>? AND rowid<?"];
                let narrow = bounded.iter().any(|bound| step.contains(bound));
                assert!(narrow || step.contains("SUBQUERY"), "{sql}: {plan:?}");
            }
        }
    }

    #[test]
    fn a_walk_goes_on_where_it_was_after_any_pause() {
        let dir = tempfile::tempdir().unwrap();
        let database = copy(dir.path());
        let change = "UPDATE embedding_metadata SET string_value='x' WHERE key='chroma:document' AND id IN (2, 130)";
        Connection::open(database.path()).unwrap().execute_batch(change).unwrap();
        let (run, collect) = (run(), patient());
        let mut connection = database.connect().unwrap();
        let mut asker = Asker::new(&mut connection, &run, collect.statement_deadline);
        asker.slices_for(Duration::from_mins(1));
        let catalogue = Catalogue::read(&mut asker).unwrap().unwrap();
        let parts = Parts::of(&catalogue).unwrap();
        let whole = parts.read_all(&mut asker, &catalogue, 1_000_000);
        assert_eq!((whole.records, whole.other.count), (136, 2));
        let mut collections = whole.largest(&catalogue, 9);
        assert_eq!(collections, [("articles".to_owned(), 86), ("notes".to_owned(), 50)]);
        collections.pop();
        assert_eq!(whole.largest(&catalogue, 1), collections);
        assert_eq!(whole.largest(&catalogue, 0), []);
        for rows in [1, 2, 7, 50] {
            assert_eq!(parts.read_all(&mut asker, &catalogue, rows), whole, "{rows} rows");
        }

        // No budget: nothing is read, and nothing is said to have been.
        let mut walk = Walk::default();
        asker.slices_for(Duration::ZERO);
        assert!(!walk.go_on(&mut asker, &catalogue, run.now).unwrap());
        assert!(walk.under_way() && walk.done.is_none() && walk.findings(&catalogue).is_empty());
        // A restart in between.
        let text = serde_json::to_string(&walk).unwrap();
        let mut walk: Walk = serde_json::from_str(&text).unwrap();
        asker.slices_for(Duration::from_mins(1));
        assert!(walk.go_on(&mut asker, &catalogue, run.now).unwrap());
        assert_eq!(walk.done, Some((run.now, whole)));
        assert_eq!(walk.findings(&catalogue).len(), 1);
        assert!(!walk.due(run.now, Duration::from_secs(10)));
        assert!(walk.due(run.now.plus(Duration::from_secs(10)), Duration::from_secs(10)));

        // What was found is about that file, and no other.
        walk.about(FileId { device: 1, inode: 2 });
        assert!(walk.findings(&catalogue).is_empty());
    }

    impl Parts {
        /// All records in slices of so many rows.
        fn read_all(
            self,
            asker: &mut Asker<'_, '_>,
            catalogue: &Catalogue,
            rows: u32,
        ) -> WholeWalk {
            let known = catalogue.segments.iter().map(|segment| segment.id.as_str()).collect();
            let (mut seen, mut after) = (WholeWalk::default(), i64::MIN);
            while after < i64::MAX {
                let slice = asker.slice(|c, _| self.read(c, after, rows)).unwrap().unwrap();
                assert!(slice.upto > after);
                after = slice.upto;
                seen.add(slice.seen, &known);
            }
            seen
        }
    }
}
