//! Numbers that one short question each gives.

use rusqlite::Connection;

use super::{
    ask::{Asker, first},
    catalogue::Catalogue,
    records::CONTENT,
};
use crate::{
    findings::{Code, Finding, Severity},
    format::schema::Family,
    store::database::QueryError,
};

/// What one look gave; what a release has no table for, or what took too long, is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) records: Option<i64>,
    pub(super) tenant: Option<bool>,
    pub(super) database: Option<bool>,
    /// Free pages, their bytes, and those of the whole file.
    pub(super) free: Option<(u32, u64, u64)>,
    /// How often Chroma 1.x has opened the directory.
    pub(super) opens: Option<i64>,
    /// The largest key of the full-text table, and that of the records.
    keys: Option<(i64, i64)>,
    /// Rows of metadata whose own number is not that of their record, in a store whose full text is still to be made anew.
    misplaced: Option<i64>,
}

impl Facts {
    /// Asks for all of them. What took too long stays as it was. Errs when SQLite does for another reason.
    pub(super) fn read(
        &mut self,
        asker: &mut Asker<'_, '_>,
        catalogue: &Catalogue,
    ) -> Result<(), QueryError> {
        let has = |table: &str| catalogue.tables.contains(table);
        if let Some((tenant, database, opens)) = asker.ask(|c| {
            Ok((
                exists(c, has("tenants"), "tenants", "id='default_tenant'")?,
                exists(c, has("databases"), "databases", "name='default_database'")?,
                largest(c, has("acquire_write"), "acquire_write")?,
            ))
        })? {
            (self.tenant, self.database, self.opens) = (tenant, database, opens);
        }
        self.keys = None;
        if has("embeddings") && has(CONTENT) {
            let keys = asker.ask(|c| {
                Ok((
                    largest(c, true, CONTENT)?.unwrap_or(0),
                    largest(c, true, "embeddings")?.unwrap_or(0),
                ))
            })?;
            self.keys = keys;
        }
        self.misplaced = None;
        if catalogue.full_text_to_come() {
            let sql = "SELECT count(*) FROM embedding_metadata WHERE rowid <> id";
            self.misplaced = asker.ask(|c| c.query_row(sql, [], |row| row.get(0)))?;
        }
        self.records = None;
        if has("embeddings") {
            let sql = "SELECT count(*) FROM embeddings";
            self.records = asker.ask(|c| c.query_row(sql, [], |row| row.get(0)))?;
        }
        Ok(())
    }

    /// A record gets the key after the largest one; Chroma 1.x inserts its text under the same key and fails when one is
    /// there, with everything else that was to be written (measured on 1.1.1 and 1.5.9; older ones pass over it).
    pub(super) fn key_taken(&self, family: Family) -> Option<Finding> {
        let (fulltext, records) = self.keys.filter(|_| family == Family::Rust)?;
        (fulltext > records).then(|| {
            let evidence = format!(
                "it has a row {fulltext}, above the last record {records}: additions fail when they come to it, for all collections"
            );
            Finding::new(Code::FtsOutOfStep, "embedding_fulltext_search", evidence)
                .with_severity(Severity::Critical)
        })
    }
}

impl Facts {
    /// The third migration of Chroma's records (0.4.6) fills the full-text table by the numbers of the rows of
    /// `embedding_metadata` and looks it up by those of the records. Measured with a store of 0.4.3, opened by 0.4.24, 0.6.3,
    /// 1.1.1 and 1.5.9: two wrong records of nine are found, and both of 1.x refuse additions.
    pub(super) fn upgrade_trap(&self) -> Option<Finding> {
        let rows = self.misplaced.filter(|rows| *rows > 0)?;
        let evidence = format!(
            "Chroma below 0.4.6 made this store, and {rows} rows of its metadata have another number than their record"
        );
        let finding = Finding::new(Code::FtsLostAtUpgrade, "embedding_metadata", evidence);
        Some(finding)
    }
}

/// The names are constants of this file. Errs when SQLite does.
fn exists(
    connection: &Connection,
    there: bool,
    table: &str,
    condition: &str,
) -> rusqlite::Result<Option<bool>> {
    if !there {
        return Ok(None);
    }
    let sql = format!("SELECT EXISTS(SELECT 1 FROM {table} WHERE {condition})");
    connection.query_row(&sql, [], |row| row.get(0)).map(Some)
}

fn largest(connection: &Connection, there: bool, table: &str) -> rusqlite::Result<Option<i64>> {
    if !there {
        return Ok(None);
    }
    let cell = first(connection, &format!("SELECT max(id) FROM {table}"))?;
    Ok(cell.and_then(|cell| cell.integer()))
}
