//! Indexes with more entries than their table has rows. Since 3.5x `integrity_check` no longer counts them: it looks up every
//! row in every index, but not every entry in the table. An entry too many makes a filter find records that do not match.

use rusqlite::Connection;

/// A line for each index whose entries are not as many as the rows it covers. Two scans for each index, of which
/// `integrity_check` has just read the pages. Errs when SQLite does.
pub(super) fn differences(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut lines = Vec::new();
    for (table, index, condition) in indexes(connection)? {
        let (table, name) = (quoted(&table), quoted(&index));
        let count = |how: &str| {
            let sql = format!("SELECT count(*) FROM {table} {how}{condition}");
            connection.query_row(&sql, [], |row| row.get::<_, i64>(0))
        };
        let (entries, rows) = (count(&format!("INDEXED BY {name}")), count("NOT INDEXED"));
        match (entries, rows) {
            (Ok(entries), Ok(rows)) if entries != rows => {
                lines.push(format!("{entries} entries in index {index} for {rows} rows"));
            }
            (Ok(_), Ok(_)) => {}
            (Err(error), _) | (_, Err(error)) => match error.sqlite_error_code() {
                // An index that cannot be named in a question, such as one over an expression that is gone.
                Some(rusqlite::ErrorCode::Unknown) => {}
                _ => return Err(error),
            },
        }
    }
    Ok(lines)
}

/// Table, name and condition of each index that is a tree of its own. Errs when SQLite does.
fn indexes(connection: &Connection) -> rusqlite::Result<Vec<(String, String, String)>> {
    let mut statement = connection.prepare(
        "SELECT s.tbl_name, s.name, coalesce(s.sql, '') FROM sqlite_schema s \
         JOIN sqlite_schema t ON t.name = s.tbl_name AND t.type = 'table' \
         WHERE s.type = 'index' AND s.rootpage > 0 AND upper(t.sql) NOT LIKE '%WITHOUT ROWID%' LIMIT ?1",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        let sql: String = row.get(2)?;
        Ok((row.get(0)?, row.get(1)?, condition(&sql).unwrap_or_default().to_owned()))
    };
    statement.query_map([INDEXES_MAX], row)?.collect()
}

/// ` WHERE …` of a partial index. A text with quotes may say it within a name, so it is left alone.
fn condition(sql: &str) -> Option<&str> {
    let upper = sql.to_ascii_uppercase();
    let at = upper.find(" WHERE ").or_else(|| upper.find("\nWHERE "))?;
    (!upper[..at].contains(['\'', '"', '`', '['])).then(|| &sql[at..])
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

const INDEXES_MAX: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_too_many_are_counted_and_nothing_else_is() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t(a TEXT UNIQUE, b INTEGER); \
                 CREATE INDEX part ON t(b) WHERE b IS NOT NULL; \
                 CREATE INDEX \"odd where \" ON t(b, a); \
                 CREATE TABLE w(a TEXT PRIMARY KEY, b) WITHOUT ROWID; CREATE INDEX wb ON w(b); \
                 INSERT INTO t VALUES('x', 1), ('y', NULL), ('z', 3); INSERT INTO w VALUES('x', 1)",
            )
            .unwrap();
        assert_eq!(differences(&connection).unwrap(), [""; 0]);
        // The index does not follow what is done while its definition is away.
        connection
            .execute_batch(
                "PRAGMA writable_schema=ON; \
                 CREATE TEMP TABLE keep AS SELECT * FROM sqlite_schema WHERE name='part'; \
                 DELETE FROM sqlite_schema WHERE name='part'; PRAGMA writable_schema=RESET; \
                 UPDATE t SET b=NULL WHERE a='z'; \
                 PRAGMA writable_schema=ON; \
                 INSERT INTO sqlite_schema SELECT * FROM keep; PRAGMA writable_schema=RESET",
            )
            .unwrap();
        assert_eq!(differences(&connection).unwrap(), ["2 entries in index part for 1 rows"]);
    }
}
