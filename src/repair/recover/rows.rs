//! Rows that every store has, and positions in the queue that cannot be right.

use std::{collections::BTreeMap, path::Path};

use chroma_format::schema::{Dir, Family};
use rusqlite::{Connection, OptionalExtension, types::ValueRef};

use super::{Effect, Failure, positions};
use crate::findings::Code;

/// Puts right what `codes` are about, in the database of a copy. Inserts the default tenant and the default database where they are missing, and sets positions that are ahead of the queue, or
/// that Chroma cannot read, to 0: Chroma then applies what is in the queue once more, which does no harm.
/// Errs when a position is wrong that nothing proves, and when SQLite does.
pub(super) fn put_right(database: &Path, codes: &[Code]) -> Result<Effect, Failure> {
    let mut connection = open(database)?;
    let transaction = connection.transaction()?;
    let mut what = Vec::new();
    let tenant = "SELECT 1 FROM tenants WHERE id = 'default_tenant'";
    let found = |code| codes.contains(&code);
    let (no_tenant, no_database) =
        (found(Code::DefaultTenantMissing), found(Code::DefaultDatabaseMissing));
    if (no_tenant || no_database) && is_missing(&transaction, tenant)? {
        transaction.execute("INSERT INTO tenants(id) VALUES('default_tenant')", [])?;
        what.push("the tenant default_tenant was inserted".to_owned());
    }
    let sql =
        "SELECT 1 FROM databases WHERE name = 'default_database' AND tenant_id = 'default_tenant'";
    if no_database && is_missing(&transaction, sql)? {
        let sql = "INSERT INTO databases(id, name, tenant_id) \
                   VALUES('00000000-0000-0000-0000-000000000000', 'default_database', 'default_tenant')";
        transaction.execute(sql, [])?;
        what.push("the database default_database was inserted".to_owned());
    }
    if found(Code::SeqIdInvalid) {
        if family(&transaction)? != Family::Rust {
            return Err(Failure::Damaged(
                "A position in max_seq_id is wrong. Before Chroma 1.0 it is not known which rows of the queue were applied. The runbook of seq_id_invalid shows what to do by hand.".to_owned(),
            ));
        }
        let wrong =
            transaction.execute(&format!("UPDATE max_seq_id SET seq_id = 0 {WRONG}"), [])?;
        what.push(format!("{wrong} positions in the queue were set to 0"));
    }
    if found(Code::SeqIdMissing) {
        let dir = database.parent().unwrap_or(database);
        let put = positions::put_back(&transaction, dir)?;
        what.push(format!(
            "{put} positions in the queue were taken from the records and from the index"
        ));
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(Effect { what: what.join("; "), ..Effect::default() })
}

fn is_missing(connection: &Connection, sql: &str) -> rusqlite::Result<bool> {
    Ok(connection.query_row(sql, [], |_| Ok(())).optional()?.is_none())
}

/// Opens the database of a copy to change rows of it. What its schema would run is not run, and rows go in any order.
/// Errs when SQLite does.
pub(super) fn open(database: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(database)?;
    connection.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA foreign_keys=OFF;")?;
    Ok(connection)
}

/// Which releases of Chroma wrote the database last. Errs when this program does not know what `what` of it is like, in words
/// such as `queue is`.
pub(super) fn known_family(connection: &Connection, what: &str) -> Result<Family, Failure> {
    match family(connection)? {
        Family::Unknown => Err(Failure::Damaged(format!(
            "This Chroma is newer than this program, which does not know what its {what} like. Upgrade chroma_exporter."
        ))),
        known => Ok(known),
    }
}

/// Which releases of Chroma wrote the database last. Errs when SQLite does.
pub(super) fn family(connection: &Connection) -> rusqlite::Result<Family> {
    let mut counts = BTreeMap::new();
    let mut statement = connection.prepare("SELECT dir, count(*) FROM migrations GROUP BY dir")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        counts.insert(row.get::<_, String>(0)?, row.get::<_, u32>(1)?);
    }
    Ok(Family::of(Dir::ALL.map(|dir| counts.get(dir.as_str()).copied().unwrap_or(0))))
}

/// Names of the collection and of the record with this number in `embeddings`, as far as they are known. Errs when SQLite does.
pub(super) fn whose(
    connection: &Connection,
    number: i64,
) -> rusqlite::Result<(Option<String>, Option<String>)> {
    let sql = "SELECT c.name, e.embedding_id FROM main.embeddings AS e \
         LEFT JOIN main.segments AS s ON s.id = e.segment_id LEFT JOIN main.collections AS c ON c.id = s.collection WHERE e.id = ?1";
    let found = connection
        .query_row(sql, [number], |row| Ok((shown(row.get_ref(0)?), shown(row.get_ref(1)?))));
    Ok(found.optional()?.unwrap_or_default())
}

/// A value for people; `None` when there is none.
pub(super) fn shown(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(integer) => Some(integer.to_string()),
        ValueRef::Real(real) => Some(real.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => Some(format!("{} bytes", blob.len())),
    }
}

/// As a Chroma from 1.0 on reads them.
const WRONG: &str = "WHERE typeof(seq_id) NOT IN ('integer', 'null') OR seq_id < 0 \
                     OR seq_id > (SELECT coalesce(max(seq_id), 0) FROM embeddings_queue)";
