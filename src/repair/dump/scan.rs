//! The ids of a table whose index is damaged: row after row from the table itself, over what cannot be read.

use rusqlite::{Connection, OptionalExtension};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Ids with the numbers of their rows, in the order of the ids.
    pub(super) ids: Vec<(Vec<u8>, i64)>,
    /// Parts of the table that could not be read.
    pub(super) gaps: u64,
}

/// All ids of `segment` behind `after`. Takes memory for all of them: they come in another order than they are wanted.
pub(super) fn ids(connection: &Connection, segment: &str, after: Option<&[u8]>) -> Scan {
    let mut scan = Scan::default();
    let mut from = i64::MIN;
    loop {
        let mut last = None;
        match rows(connection, segment, after, from, &mut last, &mut scan.ids) {
            Ok(()) => break,
            Err(error) => tracing::debug!(%error, from, "A part of a table cannot be read."),
        }
        scan.gaps += 1;
        // Numbers begin with 1.
        let Some(next) = behind(connection, last.unwrap_or(from).max(0)) else { break };
        from = next;
    }
    scan.ids.sort_unstable();
    scan.ids.dedup();
    scan
}

/// The first number behind which rows can be read again; those behind `fails` cannot. `None` when there is none.
fn behind(connection: &Connection, fails: i64) -> Option<i64> {
    let readable = |number: i64| {
        let sql = "SELECT id FROM embeddings NOT INDEXED WHERE id > ?1 ORDER BY id LIMIT 1";
        connection.query_row(sql, [number], |_| Ok(())).optional().is_ok()
    };
    let (mut fails, mut step) = (fails, 1);
    let mut reads = loop {
        let next = fails.checked_add(step).filter(|_| step <= STEP_MAX)?;
        if readable(next) {
            break next;
        }
        (fails, step) = (next, step * 2);
    };
    while reads - fails > 1 {
        let middle = fails + (reads - fails) / 2;
        if readable(middle) { reads = middle } else { fails = middle }
    }
    Some(reads)
}

/// Reads until the end or an error. `last` is the number of the last row that was read.
fn rows(
    connection: &Connection,
    segment: &str,
    after: Option<&[u8]>,
    from: i64,
    last: &mut Option<i64>,
    out: &mut Vec<(Vec<u8>, i64)>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT id, segment_id, embedding_id FROM embeddings NOT INDEXED WHERE id > ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([from])?;
    while let Some(row) = rows.next()? {
        let rowid = row.get_ref(0)?.as_i64().unwrap_or_default();
        *last = Some(rowid);
        if row.get_ref(1)?.as_str() != Ok(segment) {
            continue;
        }
        let id = row.get_ref(2)?.as_bytes().unwrap_or_default();
        if after.is_none_or(|after| id > after) {
            out.push((id.to_vec(), rowid));
        }
    }
    Ok(())
}

/// More rows than that stand on no page.
const STEP_MAX: i64 = 1 << 40;
