//! The texts of Chroma's migrations, byte for byte as its wheels have them: a database whose schema is lost is made anew with
//! them. They are Chroma's own (Apache-2.0).

use super::{Applied, Dir};

/// A migration as Chroma ships it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    /// Its directory.
    pub dir: Dir,
    /// Its number, from 1.
    pub version: i64,
    /// The name of its file, as the column `filename` has it.
    pub filename: &'static str,
    /// What is run.
    pub sql: &'static str,
    /// The MD5 of `sql`, which is what Chroma records unless it is told otherwise.
    pub md5: &'static str,
    /// Its SHA-256, for a Chroma that is told to record that.
    pub sha256: &'static str,
}

impl Shipped {
    /// Whether a row of the table `migrations` records it as Chroma does.
    #[must_use]
    pub fn is_recorded_by(&self, row: &Applied) -> bool {
        (row.dir, row.version) == (self.dir, self.version)
            && (row.hash == self.md5 || row.hash == self.sha256)
            && row.sql == self.sql
    }
}

/// All of 0.4.1 to 1.5.9, by directory and number.
pub fn shipped() -> impl Iterator<Item = Shipped> {
    SHIPPED.iter().map(|(dir, version, filename, sql)| {
        let known = super::MIGRATIONS.iter().find(|one| one.dir == *dir && one.version == *version);
        let text = known.and_then(|one| one.texts.first());
        let (md5, sha256) = text.map_or(("", ""), |text| (text.md5, text.sha256));
        Shipped { dir: *dir, version: *version, filename, sql, md5, sha256 }
    })
}

macro_rules! shipped {
    ($($dir:ident $folder:literal $version:literal $name:literal),* $(,)?) => {
        const SHIPPED: &[(Dir, i64, &str, &str)] = &[$((
            Dir::$dir,
            $version,
            $name,
            include_str!(concat!("shipped/", $folder, "/", $name)),
        )),*];
    };
}

shipped! {
    Sysdb "sysdb" 1 "00001-collections.sqlite.sql",
    Sysdb "sysdb" 2 "00002-segments.sqlite.sql",
    Sysdb "sysdb" 3 "00003-collection-dimension.sqlite.sql",
    Sysdb "sysdb" 4 "00004-tenants-databases.sqlite.sql",
    Sysdb "sysdb" 5 "00005-remove-topic.sqlite.sql",
    Sysdb "sysdb" 6 "00006-collection-segment-metadata.sqlite.sql",
    Sysdb "sysdb" 7 "00007-collection-config.sqlite.sql",
    Sysdb "sysdb" 8 "00008-maintenance-log.sqlite.sql",
    Sysdb "sysdb" 9 "00009-segment-collection-not-null.sqlite.sql",
    Sysdb "sysdb" 10 "00010-collection-schema.sqlite.sql",
    Metadb "metadb" 1 "00001-embedding-metadata.sqlite.sql",
    Metadb "metadb" 2 "00002-embedding-metadata.sqlite.sql",
    Metadb "metadb" 3 "00003-full-text-tokenize.sqlite.sql",
    Metadb "metadb" 4 "00004-metadata-indices.sqlite.sql",
    Metadb "metadb" 5 "00005-max-seq-id-int.sqlite.sql",
    Metadb "metadb" 6 "00006-metadata-array-support.sqlite.sql",
    EmbeddingsQueue "embeddings_queue" 1 "00001-embeddings.sqlite.sql",
    EmbeddingsQueue "embeddings_queue" 2 "00002-embeddings-queue-config.sqlite.sql",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::MIGRATIONS;

    #[test]
    fn every_text_is_the_one_whose_hash_is_known() {
        let mut count = 0;
        for one in shipped() {
            let known = MIGRATIONS
                .iter()
                .find(|known| (known.dir, known.version) == (one.dir, one.version));
            for hash in [one.md5, one.sha256] {
                let row = Applied {
                    dir: one.dir,
                    version: one.version,
                    hash: hash.into(),
                    sql: one.sql.into(),
                };
                assert!(known.unwrap().texts[0].is(&row), "{one:?}");
                assert!(one.is_recorded_by(&row));
            }
            assert!(one.filename.starts_with(&format!("{:05}-", one.version)), "{one:?}");
            count += 1;
        }
        assert_eq!(count, MIGRATIONS.len());
    }
}
