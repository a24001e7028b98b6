//! The series of this collector. All are cached: they are of the last look, whose age is one of them.

use super::{
    catalogue::Catalogue,
    queue::{Lag, Queue},
    records::Walk,
    tables::Facts,
};
use crate::{
    format::schema::Dir,
    sample::{Desc, Sample},
};

static COLLECTIONS: Desc = Desc::gauge("chroma_collections", "Collections (cached).");
static TENANTS: Desc = Desc::gauge("chroma_tenants", "Tenants (cached).");
static DATABASES: Desc =
    Desc::gauge("chroma_databases", "Chroma databases, the level above collections (cached).");
static RECORDS: Desc =
    Desc::gauge("chroma_records", "Records in the tables of all collections (cached).");
static COLLECTION_RECORDS: Desc = Desc::gauge(
    "chroma_collection_records",
    "Records of the largest collections, as many as limits.collections says (cached). Collections that share a name are added up.",
)
.labelled(&["collection"]);
static QUEUE_RECORDS: Desc = Desc::gauge(
    "chroma_queue_records",
    "Operations in the queue, including applied ones that were kept (cached).",
);
static QUEUE_LAG: Desc = Desc::gauge(
    "chroma_queue_lag_records",
    "Operations that the furthest segment of this scope is behind the queue (cached). Up to the sync threshold is normal for vector.",
)
.labelled(&["scope"]);
static QUEUE_BEHIND: Desc = Desc::gauge(
    "chroma_queue_segments_behind",
    "Segments of this scope that are further behind the queue than is normal (cached).",
)
.labelled(&["scope"]);
static QUEUE_OLDEST: Desc = Desc::gauge(
    "chroma_queue_oldest_timestamp_seconds",
    "When the oldest operation in the queue was written, as seconds since the epoch (cached). Deleted text is kept for as long.",
);
static QUEUE_PURGE: Desc = Desc::gauge(
    "chroma_queue_purge_enabled",
    "Whether Chroma removes applied operations from the queue by itself (cached).",
);
static MIGRATIONS: Desc = Desc::gauge(
    "chroma_migrations_applied",
    "Schema migrations that were applied, by group (cached).",
)
.labelled(&["dir"]);
static TENANT: Desc = Desc::gauge(
    "chroma_default_tenant_present",
    "Whether the tenant default_tenant exists (cached).",
);
static DATABASE: Desc = Desc::gauge(
    "chroma_default_database_present",
    "Whether the database default_database exists (cached).",
);
static OPENS: Desc = Desc::counter(
    "chroma_opens_total",
    "How often Chroma 1.0 or newer has opened the directory since it was made (cached).",
);
static FREE_PAGES: Desc =
    Desc::gauge("chroma_sqlite_free_pages", "Free pages of the database file (cached).");
static RECLAIMABLE: Desc = Desc::gauge(
    "chroma_sqlite_reclaimable_bytes",
    "Bytes that a vacuum would give back to the filesystem (cached).",
);
static DOCUMENTS: Desc = Desc::gauge(
    "chroma_documents_differing",
    "Documents whose two copies do not agree, by what is wrong (cached).",
)
.labelled(&["how"]);
static COMPARED: Desc = Desc::gauge(
    "chroma_documents_compared_timestamp_seconds",
    "When the two copies of all documents were last compared, as seconds since the epoch. 0 until the first comparison ends.",
);
static ORPHANS: Desc = Desc::gauge(
    "chroma_orphan_rows",
    "Rows that belong to nothing, by table (cached). Chroma leaves some behind when a collection is deleted, most below 1.0.",
)
.labelled(&["table"]);
static INSTALLED: Desc = Desc::gauge(
    "chroma_installed_info",
    "Release of Chroma: the configured one, or that of the packages of the process that holds the database. Always 1 (cached).",
)
.labelled(&["version"]);
pub(super) static AGE: Desc = Desc::gauge(
    "chroma_contents_age_seconds",
    "Time since the tables were last read, or known to be unchanged.",
);

pub(in crate::collectors) static DESCS: [&Desc; 21] = [
    &COLLECTIONS,
    &TENANTS,
    &DATABASES,
    &RECORDS,
    &COLLECTION_RECORDS,
    &QUEUE_RECORDS,
    &QUEUE_LAG,
    &QUEUE_BEHIND,
    &QUEUE_OLDEST,
    &QUEUE_PURGE,
    &MIGRATIONS,
    &TENANT,
    &DATABASE,
    &OPENS,
    &FREE_PAGES,
    &RECLAIMABLE,
    &DOCUMENTS,
    &COMPARED,
    &ORPHANS,
    &INSTALLED,
    &AGE,
];
/// Of the small questions.
pub(super) fn of_facts(facts: &Facts) -> Vec<Sample> {
    let mut out = Vec::new();
    for (desc, value) in [
        (&RECORDS, facts.records),
        (&TENANT, facts.tenant.map(i64::from)),
        (&DATABASE, facts.database.map(i64::from)),
        (&OPENS, facts.opens),
    ] {
        out.extend(value.map(|value| desc.sample(value as f64)));
    }
    if let Some((pages, bytes, _)) = facts.free {
        out.extend([FREE_PAGES.sample(f64::from(pages)), RECLAIMABLE.sample(bytes as f64)]);
    }
    out
}

/// Of the catalogue.
pub(super) fn of_catalogue(catalogue: &Catalogue) -> Vec<Sample> {
    let mut out = Vec::new();
    if catalogue.tables.contains("collections") && !catalogue.cut {
        out.push(COLLECTIONS.sample(catalogue.collections.len() as f64));
    }
    out.extend(catalogue.tenants.as_ref().map(|ids| TENANTS.sample(ids.len() as f64)));
    out.extend(catalogue.databases.as_ref().map(|ids| DATABASES.sample(ids.len() as f64)));
    out.extend(catalogue.purge.map(|on| QUEUE_PURGE.sample(f64::from(u8::from(on)))));
    if catalogue.tables.contains("migrations") {
        out.extend(
            Dir::ALL
                .into_iter()
                .zip(catalogue.counts)
                .map(|(dir, count)| MIGRATIONS.with(vec![dir.as_str().into()], count.into())),
        );
    }
    out
}

/// Of the queue.
pub(super) fn of_queue(queue: &Queue) -> Vec<Sample> {
    let mut out = vec![QUEUE_RECORDS.sample(queue.rows as f64)];
    out.extend(queue.oldest_at.map(|at| QUEUE_OLDEST.sample(at as f64)));
    for (scope, lag) in &queue.lag {
        let label = || vec![scope.as_str().into()];
        let behind = |lag: &&Lag| lag.scope == *scope && lag.behind > lag.behind_max;
        out.push(QUEUE_LAG.with(label(), *lag as f64));
        out.push(QUEUE_BEHIND.with(label(), queue.segments.iter().filter(behind).count() as f64));
    }
    out.push(ORPHANS.with(vec!["embeddings_queue".into()], queue.homeless as f64));
    out
}

/// Of the walk over the records.
pub(super) fn of_walk(walk: &Walk) -> Vec<Sample> {
    let Some((at, seen)) = &walk.done else { return vec![COMPARED.sample(0.0)] };
    let mut out = vec![COMPARED.sample(at.as_secs_f64())];
    for (how, count) in [
        ("changed", seen.changed.count),
        ("other", seen.other.count.saturating_add(seen.by_rowid.count)),
        ("missing", seen.missing.count),
        ("stale", seen.stale.count),
    ] {
        out.push(DOCUMENTS.with(vec![how.into()], count as f64));
    }
    for (table, rows) in [
        ("embeddings", seen.homeless.values().sum::<u64>()),
        ("embedding_metadata", seen.headless.count),
        ("embedding_metadata_array", seen.lists),
        ("embedding_fulltext_search", seen.leftover),
    ] {
        out.push(ORPHANS.with(vec![table.into()], rows as f64));
    }
    out
}

/// Of the `most` largest collections. What a state of an older program did not count is not known.
pub(super) fn of_collections(walk: &Walk, catalogue: &Catalogue, most: usize) -> Vec<Sample> {
    let Some((_, seen)) = &walk.done else { return Vec::new() };
    if seen.records > 0 && seen.by_segment.is_empty() {
        return Vec::new();
    }
    let sample =
        |(name, records): (String, u64)| COLLECTION_RECORDS.with(vec![name.into()], records as f64);
    seen.largest(catalogue, most).into_iter().map(sample).collect()
}

/// Of the release that serves the directory, or would.
pub(super) fn of_release(release: Option<&String>) -> Option<Sample> {
    release.map(|version| INSTALLED.with(vec![version.clone().into()], 1.0))
}
