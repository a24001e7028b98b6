//! What an index says as a whole: newer segments take the place of older ones, row by row.

use alloc::vec::Vec;

use super::{Segment, Source, Sum, Unrecognised, sum::Row, trigram::term_of, varint_small};

/// Walks over all `segments`, the newest first, to the sum of all positions that are in force. Errs when a page cannot be
/// read, or is not as FTS5 writes it.
pub fn sum_of_index<S: Source>(mut segments: Vec<Segment<S>>) -> Result<Sum, S::Error> {
    let mut sum = Sum::default();
    let mut live = Vec::new();
    for (place, segment) in segments.iter_mut().enumerate() {
        if segment.next_term()? {
            live.push(place);
        }
    }
    // Those that stand at the least term, by age, the newest first.
    let mut least: Vec<usize> = Vec::new();
    while let Some(term) = live.iter().map(|place| segments[*place].term()).min() {
        least.clear();
        least.extend(live.iter().filter(|place| segments[**place].term() == term));
        let key = term_of(term)?;
        rows(&mut segments, &least, key, &mut sum)?;
        let mut ended = false;
        for place in &least {
            if !segments[*place].next_term()? {
                live.retain(|other| other != place);
                ended = true;
            }
        }
        if ended && live.is_empty() {
            break;
        }
    }
    Ok(sum)
}

/// Adds the rows of one term, which stands in the segments `places`. Errs when the source does, or a segment is unlike FTS5's.
fn rows<S: Source>(
    segments: &mut [Segment<S>],
    places: &[usize],
    term: u64,
    sum: &mut Sum,
) -> Result<(), S::Error> {
    let mut open: Vec<usize> = places.to_vec();
    while let Some(&newest) = open.iter().min_by_key(|place| segments[**place].rowid()) {
        let rowid = segments[newest].rowid();
        // Older ones say something of the same row: no longer in force.
        let mut next_other = None;
        let mut failed = None;
        open.retain(|place| {
            let segment = &mut segments[*place];
            let mut goes_on = true;
            if segment.rowid() == rowid && *place != newest {
                goes_on = segment.next_row().unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                });
            }
            if goes_on && *place != newest {
                let rowid = segment.rowid();
                next_other = Some(next_other.map_or(rowid, |other: i64| other.min(rowid)));
            }
            goes_on
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if !run(&mut segments[newest], term, next_other, sum)? {
            open.retain(|place| *place != newest);
        }
    }
    Ok(())
}

/// Adds the row at hand and those after it up to the row `until`, where another segment goes on; `false` when there is none
/// after them. Segments mostly hold rows of their own, so this goes on for long. Errs when the source does, or a segment is unlike FTS5's.
fn run<S: Source>(
    segment: &mut Segment<S>,
    term: u64,
    until: Option<i64>,
    sum: &mut Sum,
) -> Result<bool, S::Error> {
    loop {
        add(segment.rowid(), segment.positions(), term, sum)?;
        segment.pass_rows(until, |rowid, positions| add(rowid, positions, term, sum))?;
        if !segment.next_row()? {
            return Ok(false);
        }
        if until.is_some_and(|until| segment.rowid() >= until) {
            return Ok(true);
        }
    }
}

/// Adds the positions of a row. Errs when they are unlike those of a table with one column.
#[inline]
fn add(rowid: i64, positions: &[u8], term: u64, sum: &mut Sum) -> Result<(), Unrecognised> {
    let mut row = Row::new(rowid);
    let (mut at, mut position) = (0, 0_u32);
    while let Some(byte) = positions.get(at) {
        let value = if *byte < 0x80 {
            at += 1;
            u32::from(*byte)
        } else {
            varint_small(positions, &mut at)?
        };
        // 0 and 1 are no distances; 1 announces another column.
        let delta = value.checked_sub(2).ok_or(Unrecognised("another column"))?;
        if delta == 0 && position > 0 {
            return Err(Unrecognised("a position that stands twice"));
        }
        position = position.checked_add(delta).ok_or(Unrecognised("a position too large"))?;
        row.forward(delta);
        sum.add(row, term);
    }
    Ok(())
}
