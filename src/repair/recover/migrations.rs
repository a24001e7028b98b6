//! The table `migrations`: its rows are written anew where the tables prove which migrations were applied. The texts are Chroma's own.

use std::path::Path;

use chroma_format::schema::{Applied, shipped};
use rusqlite::params;

use super::{
    Effect, Failure, rows,
    schema::{self, MIGRATIONS},
};
use crate::store::DATABASE_FILE;

/// Writes the rows that are missing or wrong. Errs without a change when the tables are those of no release.
pub(super) fn put_right(dir: &Path) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let (recorded, unknown) = schema::recorded(&connection)?;
    let mut found = schema::tables(&connection)?;
    if unknown {
        return Err(Failure::Damaged(
            "Migrations are recorded that this program does not know. Upgrade chroma_exporter."
                .to_owned(),
        ));
    }
    let is_there = found.remove("migrations").is_some();
    let Some(counts) = schema::made_by(&found, recorded)? else {
        return Err(Failure::Damaged(HALF.to_owned()));
    };
    let transaction = connection.transaction()?;
    if !is_there {
        transaction.execute_batch(MIGRATIONS)?;
    }
    // Which of the two hashes this Chroma was told to record.
    let sql = "SELECT count(*) > 0 FROM migrations WHERE length(hash) = 64";
    let long: bool = transaction.query_row(sql, [], |row| row.get(0))?;
    let mut written = 0;
    for one in shipped().filter(|one| schema::is_within(one.dir, one.version, counts)) {
        let sql = "SELECT hash, sql FROM migrations WHERE dir = ?1 AND version = ?2";
        let mut statement = transaction.prepare(sql)?;
        let mut rows = statement.query(params![one.dir.as_str(), one.version])?;
        let text =
            |value: rusqlite::types::ValueRef<'_>| value.as_str().unwrap_or_default().to_owned();
        let is_right = match rows.next()? {
            Some(row) => one.is_recorded_by(&Applied {
                dir: one.dir,
                version: one.version,
                hash: text(row.get_ref(0)?),
                sql: text(row.get_ref(1)?),
            }),
            None => false,
        };
        drop(rows);
        if !is_right {
            let hash = if long { one.sha256 } else { one.md5 };
            transaction.execute(
                "INSERT OR REPLACE INTO migrations(dir, version, filename, sql, hash) VALUES(?1, ?2, ?3, ?4, ?5)",
                params![one.dir.as_str(), one.version, one.filename, one.sql, hash],
            )?;
            written += 1;
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    let [sysdb, metadb, queue] = counts;
    let what = format!(
        "{written} rows of the table migrations were written anew: the tables are those of {sysdb}/{metadb}/{queue} migrations (sysdb/metadb/embeddings_queue)"
    );
    Ok(Effect { what, ..Effect::default() })
}

const HALF: &str = "The tables are those of no release of Chroma: a migration was cut off half-way. The finding has the command that takes it back, where there is one. Otherwise restore a backup.";

#[cfg(test)]
mod tests {
    use crate::repair::recover::{
        Outcome,
        tests::{Stand, must_be_mended, rows},
    };

    const RELEASES: [&str; 5] =
        ["chroma-0.4.24", "chroma-0.5.5", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"];

    #[test]
    fn rows_are_written_as_chroma_had_them() {
        for name in RELEASES {
            let healthy = rows(&Stand::new(name).database());
            for sql in [
                "DELETE FROM migrations",
                "DROP TABLE migrations",
                "DELETE FROM migrations WHERE dir = 'sysdb' AND version = 2",
                "DELETE FROM migrations WHERE dir = 'embeddings_queue'",
                "DELETE FROM migrations WHERE dir = 'metadb' AND version = (SELECT max(version) FROM migrations WHERE dir = 'metadb')",
                "UPDATE migrations SET hash = 'x' WHERE dir = 'sysdb' AND version = 3",
                "UPDATE migrations SET sql = sql || ' ' WHERE dir = 'metadb' AND version = 2",
            ] {
                // Indexes that are made unless they are there: the next start does that once more.
                if name == "chroma-0.6.3" && sql.contains("max(version)") {
                    continue;
                }
                let stand = Stand::broken(name, sql);
                must_be_mended(&stand, &healthy, &format!("{name}: {sql}"));
            }
        }
    }

    #[test]
    fn half_a_migration_is_left_as_it_is() {
        let sql = "ALTER TABLE segment_metadata DROP COLUMN bool_value; DELETE FROM migrations WHERE dir = 'sysdb' AND version >= 6";
        let report = Stand::broken("chroma-0.5.5", sql).dry();
        assert_eq!(report.outcome, Outcome::NotRepaired, "{report:#?}");
        assert!(report.not_done.iter().any(|one| one.why.contains("half-way")), "{report:#?}");
        let stand = Stand::new("cut-0.4.24-within");
        assert_eq!(stand.dry().outcome, Outcome::NotRepaired);
    }
}
