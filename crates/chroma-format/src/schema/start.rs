//! What the next start of a Chroma does with a database whose migrations were cut off. Chroma below 1.0 brings each statement
//! of a migration to its end by itself, so that a kill leaves the first of them without the row that records the migration;
//! every release then tries it again, and fails at what is there (measured by killing the first start of 0.4.24 at each
//! commit). Releases from 1.0 on apply all of them in one transaction.

use super::{Dir, Fault, MIGRATIONS, Mark, Schema};

/// What the next start does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStart {
    /// It applies what is missing.
    GoesOn,
    /// It fails at something that is there already.
    Fails(Dir, i64, Mark),
}

impl Schema {
    /// What the next start does with a database whose first start was cut off: whole directories of migrations have no row.
    /// `None` for any other.
    #[must_use]
    pub fn cut_first_start(&self) -> Option<NextStart> {
        let without_row = |dir: Dir| {
            let rows = self.applied.as_deref().unwrap_or_default();
            rows.iter().all(|row| row.dir != dir)
        };
        self.applied.as_ref()?;
        let faults = self.faults();
        let cut = |fault: &Fault| match fault {
            Fault::NoMigrations => true,
            Fault::Gap { dir, version: 1 } => without_row(*dir),
            Fault::NotRecorded { dir, version, .. } => {
                without_row(*dir) || is_repeatable(*dir, *version)
            }
            _ => false,
        };
        if faults.is_empty() || !faults.iter().all(cut) {
            return None;
        }
        // It is made to take the place of `segments`, and its migration does not pass over it.
        let half_made = ["segments_temp", "segments"];
        if half_made.iter().all(|table| self.tables.contains_key(*table)) {
            return Some(NextStart::Fails(Dir::Sysdb, 9, Mark::Table("segments_temp")));
        }
        // The order in which they are applied.
        let dirs = [Dir::EmbeddingsQueue, Dir::Sysdb, Dir::Metadb];
        let unapplied = dirs.into_iter().filter(|dir| without_row(*dir));
        let in_the_way = unapplied
            .flat_map(|dir| MIGRATIONS.iter().filter(move |migration| migration.dir == dir))
            .flat_map(|migration| migration.marks.iter().map(move |mark| (migration, *mark)))
            .find(|(_, mark)| !mark.repeatable() && mark.borne_by(self) == Some(true));
        Some(match in_the_way {
            None => NextStart::GoesOn,
            Some((migration, mark)) => NextStart::Fails(migration.dir, migration.version, mark),
        })
    }
}

/// Whether a migration does no harm when it is done again after it was cut off: what it makes it makes unless it is there.
#[must_use]
pub fn is_repeatable(dir: Dir, version: i64) -> bool {
    (dir, version) == (Dir::Sysdb, 4)
}

impl Mark {
    /// Whether its migration passes over it when it is there: `CREATE TABLE IF NOT EXISTS`. What is said of a table that is
    /// not there, or of a column that is gone, is nothing to fail at.
    fn repeatable(self) -> bool {
        match self {
            Self::Table(name) => matches!(name, "tenants" | "databases"),
            Self::FullText(_) | Self::Column(..) => false,
            Self::Integer(..) | Self::NoColumn(..) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_recorded_migration_it_depends_on_what_is_there() {
        for (tables, want) in [
            (&["migrations"][..], Some(NextStart::GoesOn)),
            (&["migrations", "acquire_write", "tenants"], Some(NextStart::GoesOn)),
            (
                &["migrations", "segments", "segments_temp"],
                Some(NextStart::Fails(Dir::Sysdb, 9, Mark::Table("segments_temp"))),
            ),
            (
                &["migrations", "embeddings_queue"],
                Some(NextStart::Fails(Dir::EmbeddingsQueue, 1, Mark::Table("embeddings_queue"))),
            ),
            (
                &["migrations", "segments"],
                Some(NextStart::Fails(Dir::Sysdb, 2, Mark::Table("segments"))),
            ),
        ] {
            let tables = tables.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
            let schema = Schema { applied: Some(Vec::new()), tables };
            assert_eq!(schema.cut_first_start(), want, "{:?}", schema.tables);
        }
        assert_eq!(Schema::default().cut_first_start(), None, "there is no table for them");
    }
}
