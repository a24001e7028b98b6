//! Chroma's migrations: which exist, since which release, what each leaves behind in the schema, and what of a database
//! contradicts them. Hashes and texts are those of the `.sql` files in the wheels of chromadb 0.4.0 to 1.5.9. Migrations
//! that are not known here are those of a newer Chroma and are never a fault.

use alloc::{format, string::String, vec::Vec};

use alloc::collections::{BTreeMap, BTreeSet};
use core::fmt;

use super::hash::{FNV_START, fnv1a};

mod shipped;
mod start;

pub use shipped::{Shipped, shipped};
pub use start::{NextStart, is_repeatable};

/// A directory of migrations, as the column `dir` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// Tenants, databases, collections, segments.
    Sysdb,
    /// Records and their metadata.
    Metadb,
    /// The queue between the two.
    EmbeddingsQueue,
}

impl Dir {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sysdb, Self::Metadb, Self::EmbeddingsQueue];

    /// The value of the column `dir`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sysdb => "sysdb",
            Self::Metadb => "metadb",
            Self::EmbeddingsQueue => "embeddings_queue",
        }
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row of the table `migrations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its directory.
    pub dir: Dir,
    /// Its number, from 1.
    pub version: i64,
    /// MD5 or SHA-256 of `sql`, in hexadecimal.
    pub hash: String,
    /// The text that was run.
    pub sql: String,
}

/// What of a schema matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// The rows of `migrations`; `None` when there is no such table.
    pub applied: Option<Vec<Applied>>,
    /// Columns, with their declared types in capitals, of each table, views left out.
    pub tables: BTreeMap<String, Vec<(String, String)>>,
}

/// What contradicts the migrations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// There is no table `migrations`.
    NoMigrationsTable,
    /// It has no row.
    NoMigrations,
    /// A number below the highest one is not there, or a whole directory has no row.
    Gap {
        /// Which.
        dir: Dir,
        /// The first number that is missing.
        version: i64,
    },
    /// Hash or text is not the one that Chroma knows.
    Changed {
        /// Which.
        dir: Dir,
        /// Its number.
        version: i64,
    },
    /// The schema bears the mark of a migration that is not recorded; Chroma would run it again and fail.
    NotRecorded {
        /// Which.
        dir: Dir,
        /// Its number.
        version: i64,
        /// What it left behind.
        mark: Mark,
    },
    /// A recorded migration left something behind that is not there.
    MarkMissing {
        /// Which.
        dir: Dir,
        /// Its number.
        version: i64,
        /// What is missing.
        mark: Mark,
    },
}

/// What a migration leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A table.
    Table(&'static str),
    /// The full-text table.
    FullText(&'static str),
    /// A column of a table that older migrations made.
    Column(&'static str, &'static str),
    /// A column that is an integer from then on.
    Integer(&'static str, &'static str),
    /// A column that is gone from then on.
    NoColumn(&'static str, &'static str),
}

impl Mark {
    /// Whether the schema bears it; `None` when its table is missing and so nothing can be said.
    fn borne_by(self, schema: &Schema) -> Option<bool> {
        let column = |table: &str, column: &str| {
            Some(schema.tables.get(table)?.iter().find(|(name, _)| name == column))
        };
        match self {
            Self::Table(name) | Self::FullText(name) => Some(schema.tables.contains_key(name)),
            Self::Column(table, name) => Some(column(table, name)?.is_some()),
            Self::Integer(table, name) => column(table, name)?.map(|(_, kind)| kind == "INTEGER"),
            Self::NoColumn(table, name) => Some(column(table, name)?.is_none()),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => write!(f, "table {name}"),
            Self::FullText(name) => write!(f, "full-text table {name}"),
            Self::Column(table, name) => write!(f, "column {table}.{name}"),
            Self::Integer(table, name) => write!(f, "integer column {table}.{name}"),
            Self::NoColumn(table, name) => write!(f, "dropped column {table}.{name}"),
        }
    }
}

impl Schema {
    /// How many migrations of each directory are recorded, in the order of [`Dir::ALL`].
    #[must_use]
    pub fn counts(&self) -> [u32; 3] {
        let rows = self.applied.as_deref().unwrap_or_default();
        Dir::ALL.map(|dir| {
            u32::try_from(rows.iter().filter(|row| row.dir == dir).count()).unwrap_or(u32::MAX)
        })
    }

    /// Whether any table of Chroma's is there.
    #[must_use]
    pub fn is_chroma(&self) -> bool {
        let ours = |mark: &Mark| matches!(mark, Mark::Table(name) | Mark::FullText(name) if self.tables.contains_key(*name));
        self.applied.is_some() || MIGRATIONS.iter().flat_map(|m| m.marks).any(ours)
    }

    /// Tables that are gone beside `migrations`, when others are there: as after a `reset()` of Chroma 1.x that was cut off. It drops
    /// each table in a transaction of its own, `migrations` first (measured on 1.5.9 with a kill at each commit).
    #[must_use]
    pub fn dropped(&self) -> Vec<&'static str> {
        if self.applied.is_some() {
            return Vec::new();
        }
        let there = |table: &&&str| self.tables.contains_key(**table);
        if SINCE_TENANTS.iter().filter(there).count() == 0 {
            return Vec::new();
        }
        SINCE_TENANTS.iter().filter(|table| !there(table)).copied().collect()
    }

    /// Everything that contradicts the migrations, each once.
    #[must_use]
    pub fn faults(&self) -> BTreeSet<Fault> {
        let Some(rows) = &self.applied else { return BTreeSet::from([Fault::NoMigrationsTable]) };
        if rows.is_empty() {
            return BTreeSet::from([Fault::NoMigrations]);
        }
        Dir::ALL.into_iter().flat_map(|dir| self.faults_of(dir, rows)).collect()
    }

    fn faults_of(&self, dir: Dir, rows: &[Applied]) -> Vec<Fault> {
        let rows: Vec<&Applied> = rows.iter().filter(|row| row.dir == dir).collect();
        let recorded: BTreeSet<i64> = rows.iter().map(|row| row.version).collect();
        let highest = recorded.last().copied().unwrap_or(0);
        let mut faults = Vec::new();
        // The first number that is missing; a directory without a row lacks its first one.
        if let Some(version) = (1..=highest.max(1))
            .zip(recorded.iter().map(Some).chain([None]))
            .find_map(|(n, row)| (row != Some(&n)).then_some(n))
        {
            faults.push(Fault::Gap { dir, version });
        }
        for migration in MIGRATIONS.iter().filter(|migration| migration.dir == dir) {
            let version = migration.version;
            if let Some(row) = rows.iter().find(|row| row.version == version)
                && !migration.texts.iter().any(|text| text.is(row))
            {
                faults.push(Fault::Changed { dir, version });
            }
            for mark in migration.marks.iter().copied() {
                match mark.borne_by(self) {
                    Some(false) if recorded.contains(&version) => {
                        faults.push(Fault::MarkMissing { dir, version, mark });
                    }
                    Some(true) if version > highest => {
                        faults.push(Fault::NotRecorded { dir, version, mark });
                    }
                    _ => {}
                }
            }
        }
        faults
    }
}

/// Which Chroma opened a database last, as far as it decides what the rows must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Below 0.5.7: the position of a vector segment stands in its pickle, and the queue is never purged.
    Oldest,
    /// 0.5.7 to 0.6.3: positions in `max_seq_id`, as eight bytes.
    Python,
    /// 1.0 and newer: positions are integers.
    Rust,
    /// Newer than all releases that are known here: only what holds for every Chroma is judged.
    Unknown,
}

impl Family {
    /// Of a database in which `counts` migrations are recorded.
    #[must_use]
    pub fn of(counts: [u32; 3]) -> Self {
        let [_, metadb, queue] = counts;
        match () {
            () if lowest_that_knows(counts).is_none() => Self::Unknown,
            () if metadb >= 5 => Self::Rust,
            () if queue >= 2 => Self::Python,
            () => Self::Oldest,
        }
    }
}

/// A release of Chroma: major, minor, patch.
pub type Release = (u32, u32, u32);

/// Reads `1.5.9`, `v1.5.9`, `1.5` and `1.5.9.dev3`; `None` for what does not begin like a version.
#[must_use]
pub fn parse_release(text: &str) -> Option<Release> {
    let mut parts = text.trim().trim_start_matches('v').split(['.', '-', '+', ' ']);
    let major = parts.next()?.parse().ok()?;
    let mut next = || parts.next().map_or(Some(0), |part| part.parse().ok());
    Some((major, next()?, next()?))
}

/// Whether a server of `release` can open a database in which `counts` migrations are recorded, and answer all questions.
/// Chroma below 1.0 does not look for migrations that it does not know and then lacks a column, or gives no answer
/// to queries (0.5.1 on a directory of 0.6.3).
#[must_use]
pub fn opens(release: Release, counts: [u32; 3]) -> bool {
    release >= TOLERANT || family_of(release).is_none_or(|family| fits(counts, family.opens))
}

/// Which releases open a database in which `counts` migrations are recorded, in words for people: from the lowest to the newest
/// that is known. `None` when no release that is known has all of its migrations.
#[must_use]
pub fn opened_by(counts: [u32; 3]) -> Option<String> {
    let (knows, newest) = (lowest_that_knows(counts)?, FAMILIES.last()?.last);
    let lowest = lowest_that_opens(counts);
    let note = if knows == lowest {
        String::new()
    } else {
        format!("; {} is the lowest that knows all of its migrations", written(knows))
    };
    Some(format!("chromadb {} to {}{note}", written(lowest), written(newest)))
}

/// The newest release that is known here, and how many migrations of each directory it has.
#[must_use]
pub fn newest_known() -> (String, [u32; 3]) {
    FAMILIES.last().map(|family| (written(family.last), family.counts)).unwrap_or_default()
}

/// The lowest release known to open a database in which `counts` migrations are recorded.
#[must_use]
pub fn lowest_that_opens(counts: [u32; 3]) -> Release {
    let known = FAMILIES.iter().find(|family| fits(counts, family.opens));
    known.map_or(TOLERANT, |family| family.first.min(TOLERANT))
}

/// The lowest release that knows every migration of a database in which `counts` are recorded; `None` when none of those
/// known here does.
#[must_use]
pub fn lowest_that_knows(counts: [u32; 3]) -> Option<Release> {
    FAMILIES.iter().find(|family| fits(counts, family.counts)).map(|family| family.first)
}

/// How many migrations of each directory the releases have that are known here, the oldest first.
#[must_use]
pub fn known_counts() -> impl DoubleEndedIterator<Item = [u32; 3]> {
    FAMILIES.iter().map(|family| family.counts)
}

/// Why a server of `release` cannot open a database in which `counts` migrations are recorded, and which can; `None` when
/// it can. `release` is a version as people write it; one that is none gives `None`.
#[must_use]
pub fn skew(release: &str, counts: [u32; 3]) -> Option<String> {
    if opens(parse_release(release)?, counts) {
        return None;
    }
    let ([sysdb, metadb, queue], opens) = (counts, lowest_that_opens(counts));
    let knows = match lowest_that_knows(counts) {
        Some(knows) if knows != opens => {
            format!(", {} the lowest that knows all of it", written(knows))
        }
        _ => String::new(),
    };
    Some(format!(
        "Chroma {release} serves a directory with {sysdb}/{metadb}/{queue} migrations; {} is the lowest release that opens it{knows}",
        written(opens)
    ))
}

/// Why a server of `release` fails at a queue with operations on `collection` that have lists as metadata; `None` when it
/// does not. Releases that pass over the newer schema read none of these rows, and no later one of the collection.
#[must_use]
pub fn lists_skew(release: &str, collection: &str) -> Option<String> {
    (parse_release(release)? < LISTS).then(|| {
        format!(
            "Chroma {release} serves a directory whose queue has lists as metadata for \"{collection}\": reads of that collection fail; {} is the lowest release that reads them",
            written(LISTS)
        )
    })
}

fn written((major, minor, patch): Release) -> String {
    format!("{major}.{minor}.{patch}")
}

fn fits(counts: [u32; 3], known: [u32; 3]) -> bool {
    counts.iter().zip(known).all(|(is, max)| *is <= max)
}

/// Those that `release` belongs to, or the next ones where that is not known for sure; `None` for releases after the last
/// one known here.
fn family_of(release: Release) -> Option<&'static Releases> {
    FAMILIES.iter().find(|family| release <= family.last)
}

/// From this release on a newer schema is passed over instead of a panic.
const TOLERANT: Release = (1, 2, 2);

/// From this release on metadata may be lists.
const LISTS: Release = (1, 5, 0);

/// Releases with the same migrations. A release between `last` of one and `first` of the next was never published; it is
/// taken for the newer ones, which gives no false alarm.
struct Releases {
    first: Release,
    last: Release,
    counts: [u32; 3],
    /// The newest migrations with which they work all the same: 0.5.0 lacks two columns of later releases, and never asks
    /// for them.
    opens: [u32; 3],
}

impl Releases {
    const fn new(first: Release, last: Release, counts: [u32; 3]) -> Self {
        Self { first, last, counts, opens: counts }
    }

    const fn opening(mut self, opens: [u32; 3]) -> Self {
        self.opens = opens;
        self
    }
}

/// Read from the wheels: every release from 0.4.0 to 0.5.5 at which a count changes and its neighbours, 0.4.24, 0.6.3, and
/// 26 releases from 1.0.0 to 1.5.9 by the databases that they make.
const FAMILIES: &[Releases] = &[
    Releases::new((0, 4, 0), (0, 4, 3), [3, 1, 1]),
    Releases::new((0, 4, 4), (0, 4, 5), [3, 2, 1]),
    Releases::new((0, 4, 6), (0, 4, 14), [3, 3, 1]),
    Releases::new((0, 4, 15), (0, 4, 24), [4, 3, 1]),
    Releases::new((0, 5, 0), (0, 5, 0), [5, 3, 1]).opening([7, 3, 1]),
    Releases::new((0, 5, 1), (0, 5, 3), [6, 3, 1]).opening([7, 3, 1]),
    Releases::new((0, 5, 4), (0, 5, 5), [7, 3, 1]),
    Releases::new((0, 5, 7), (0, 6, 3), [9, 4, 2]),
    Releases::new((1, 0, 0), (1, 2, 2), [9, 5, 2]),
    Releases::new((1, 3, 0), (1, 4, 1), [10, 5, 2]),
    Releases::new((1, 5, 0), (1, 5, 9), [10, 6, 2]),
];

/// Tables of every release since 0.4.15.
const SINCE_TENANTS: [&str; 11] = [
    "collection_metadata",
    "segment_metadata",
    "tenants",
    "databases",
    "collections",
    "segments",
    "embeddings",
    "embedding_metadata",
    "max_seq_id",
    "embedding_fulltext_search",
    "embeddings_queue",
];

struct Migration {
    dir: Dir,
    version: i64,
    texts: &'static [Text],
    marks: &'static [Mark],
}

/// A text of a migration, by the hashes that Chroma records and one that needs no library.
struct Text {
    md5: &'static str,
    sha256: &'static str,
    fnv1a: u64,
}

impl Text {
    fn is(&self, row: &Applied) -> bool {
        (row.hash == self.md5 || row.hash == self.sha256)
            && fnv1a(FNV_START, row.sql.bytes()) == self.fnv1a
    }
}

macro_rules! migrations {
    ($($dir:ident $version:literal $([$md5:literal $sha256:literal $fnv1a:literal])+ => $marks:expr;)*) => {
        const MIGRATIONS: &[Migration] = &[$(Migration {
            dir: Dir::$dir,
            version: $version,
            texts: &[$(Text { md5: $md5, sha256: $sha256, fnv1a: $fnv1a }),+],
            marks: &$marks,
        }),*];
    };
}

use Mark::{Column, FullText, Integer, NoColumn, Table};

migrations! {
    Sysdb 1 ["38352d725ad1c16074fac420b22b4633" "dfa5720fb290880c9a7abac9262024cd32da703a312471b5d64eb29613a055bd" 0x4d21_c98c_493c_afb8]
        => [Table("collections"), Table("collection_metadata")];
    Sysdb 2 ["2913cb6a503055a95f625448037e8912" "e459a7f668f9c9a38562e92211feeccc4549d5a04aca2972397291496d564a1c" 0x3eb2_e442_8164_04c1]
        => [Table("segments"), Table("segment_metadata")];
    Sysdb 3 ["42d22d0574d31d419c2a0e7f625c93aa" "465c9dd473bf084e6acddcfd15c2587ecaf325b3043af49aaec87e4006bde8f3" 0x3af4_853c_d450_08b6]
        => [Column("collections", "dimension")];
    Sysdb 4 ["048867ce8fcdefe4023c7110e4433591" "0da5897ebd71a72ee540c1011265671f5ef6eb21da9eaaa1e58408d8a0480dc3" 0xb5f6_4dbd_4568_7a39]
        => [Table("tenants"), Table("databases"), Column("collections", "database_id")];
    Sysdb 5 ["b1367c826b8fba5f96f27befdc1d42d2" "60a348031c4bcf98d611ca6362fa8b754cc854463ba65258aab366327a237343" 0x4e56_df94_4776_d992]
        => [NoColumn("collections", "topic")];
    Sysdb 6 ["4eea7468935bf25d4604a0fed2366116" "5768db7d49f555920dacc7012f173cfdd2eb4c3f71af910d3fd653661105a694" 0xbac8_be24_3679_abc7]
        => [Column("collection_metadata", "bool_value")];
    Sysdb 7 ["1c7e63bba346a42a18b6ab7f1c989bed" "e787b736706f173e9b279505e0e7027f57a27031dfe7668a167677030715d5b9" 0x9dd6_38cf_5e51_629e]
        => [Column("collections", "config_json_str")];
    Sysdb 8 ["0a0e7e93111a01789addf64961c6127c" "66ad31eefddd3070be27963a053319f0fe9003e5dd1f38b50c42e2ed970812ad" 0xe660_96ca_46ad_1c25]
        => [Table("maintenance_log")];
    Sysdb 9 ["054355aef9e63702bf54ea29e61563f1" "b5564781c2b24dfdc79024a2e8f17ad9830127cc9b43876d9428757c093bc99e" 0x38b3_0f0b_46f6_d67c]
        => [];
    Sysdb 10 ["5c3a5ac4b79df76799b4721827ed5e1d" "38b8b08790d290caff0043129e71e983cb15c4cb0980773d8bb39d5855c1d5d6" 0x8f98_2b56_0a95_f4bf]
        => [Column("collections", "schema_str")];
    // The second text is that of 0.4.0, changed a day later; no newer Chroma opens a database with it.
    Metadb 1 ["2b4cf52c4bb2676e21d6860a4409f856" "0e7477e62bd40830f28f9986f0703597817877503044324efe8c9ecc85392845" 0x872f_cc63_b871_228b]
        ["70f0dbf83da2f428f30d78b7d994cbbb" "d54f21e5694c25e999dc529fe5fb140b4f239f0dba3cf87db7016ffd0f125c3f" 0xb970_9777_e678_e5c1]
        => [Table("embeddings"), Table("embedding_metadata"), Table("max_seq_id")];
    Metadb 2 ["12a570f7121b3a8ce750a2a7c36da20f" "337de70bb89c42bf01747642fbe9310f8ce38635ab50f2ce82ee98ac664e759b" 0x2571_eab3_d181_a50c]
        => [Column("embedding_metadata", "bool_value")];
    Metadb 3 ["f97ad6334aeaa8f419f01110b648b97a" "13fd5839823c8f1e236431c2f716a0aef02c5bfd80c35c15963496924ea8dda4" 0x0ab0_67fb_48fa_d425]
        => [FullText("embedding_fulltext_search")];
    Metadb 4 ["fb36603a45ee2cd0254cef3ef86585e8" "46e874a3bf99ae95611fd8f781b9aecccc8979dc4e06c91e86a6b56dac378443" 0x1cee_365a_3fcd_1f8d]
        => [];
    Metadb 5 ["0e9de46758761b373ce682925edcc326" "363f44b68fcda609e239e1e23263d655a0439a490394da3d690279939a716e45" 0x9db4_0f48_4c82_7864]
        => [Integer("max_seq_id", "seq_id")];
    Metadb 6 ["e026f01ea92c1baa1493f4ad5ca7cfe7" "352340cb5ffe1d2e2a44b3d6d2651128933f8f16479c7220692b52a19c9ad985" 0xee01_444d_d8a4_8c41]
        => [Table("embedding_metadata_array")];
    EmbeddingsQueue 1 ["d3755dfd232be8e8301f4d7fcfb3a486" "fbcbdac621c6bdebe561ae0bd3eac840737af822f4edc0d567b94e2066eecf28" 0x2e74_8416_880e_2f55]
        => [Table("embeddings_queue")];
    EmbeddingsQueue 2 ["8fbfe4ffb3e57f1d8bfdc58510a82e85" "788fe9b405526821be2f4e305da3891724871859a2ea8f48c1f8182745658fd9" 0x7c9c_401f_0cdf_7d22]
        => [Table("embeddings_queue_config")];
}

#[cfg(test)]
mod tests;
