//! Whether a search finds what is in an index. After many deletes and updates hnswlib leaves elements to which no link leads from
//! where searches go: `get` still gives them, and no query does (chroma-core/chroma#7758). Nothing in the files contradicts
//! itself then, so the only way to see it is to search: for a sample of the elements, with their own vectors, as hnswlib would.

use std::{fs::File, io, sync::atomic::Ordering, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    catalogue::Distance,
    look::{Folder, Part},
    walk::{ReadMode, Refused, open, rest},
};
use crate::{
    clock,
    findings::{Code, Finding},
    format::hnsw::{Elements, Header, Search, Space, UpperLinks},
    host::links::Place,
    human,
    store::database::read_up_to,
};

/// What searches with own vectors gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reach {
    /// Elements whose own vector was searched for.
    pub(super) tried: u64,
    /// Those that were not among what was found, although what was found is farther away.
    pub(super) unfound: u64,
    /// Elements in use.
    pub(super) live: u64,
}

impl Reach {
    /// More than what a healthy index shows after updates.
    pub(super) fn finding(self, name: &str) -> Option<Finding> {
        let Self { tried, unfound, live } = self;
        let share = unfound as f64 / tried.max(1) as f64;
        (unfound >= UNFOUND_MIN && share >= SHARE_MIN).then(|| {
            let evidence = format!(
                "a search with its own vector does not find {unfound} of {tried} records that were tried ({}), the index has {live}",
                human::ratio(share)
            );
            Finding::new(Code::RecordsUnreachable, name, evidence)
        })
    }
}

/// Searches for a sample of the elements of a sound index, of which `deleted` are marked. `None` when there is nothing to search,
/// or it would take too much memory or time. Errs when the files changed or cannot be read.
pub(super) fn reach(
    root: &Place,
    folder: &Folder,
    distance: Distance,
    deleted: u64,
    mode: ReadMode<'_>,
) -> Result<Option<Reach>, Refused> {
    let space = match distance {
        Distance::L2 => Space::L2,
        Distance::Cosine | Distance::Product => Space::Product,
        Distance::Unknown => return Ok(None),
    };
    let looks = folder.file(Part::Level0).zip(folder.file(Part::Links));
    let Some((header, (level0, links))) = folder.sound_header().zip(looks) else {
        return Ok(None);
    };
    let live = header.elements.saturating_sub(deleted);
    let (Ok(elements), true) =
        (u32::try_from(header.elements), live > 0 && links.size_bytes <= LINKS_BYTES_MAX)
    else {
        return Ok(None);
    };
    let mut bytes = vec![0; usize::try_from(links.size_bytes).unwrap_or_default()];
    let read = read_up_to(&open(root, folder, Part::Links, links)?, &mut bytes, 0)
        .map_err(|error| Refused::Io(Part::Links, error))?;
    if read < bytes.len() {
        return Err(Refused::Changed);
    }
    let Some(upper) = UpperLinks::parse(bytes, &header) else { return Ok(None) };
    let source = Level0 { file: open(root, folder, Part::Level0, level0)?, header };
    let Some(mut search) = Search::new(header, space, &upper, source) else { return Ok(None) };
    let began = clock::ticks();
    let mut found = Reach { tried: 0, unfound: 0, live };
    for index in sample(elements) {
        if mode.stop.load(Ordering::Relaxed) {
            return Err(Refused::Stopped);
        }
        if began.elapsed() >= TIME_MAX || search.reads() >= READS_MAX {
            break;
        }
        let worked = clock::ticks();
        let own = search.element(index)?;
        if own.deleted {
            continue;
        }
        let near = search.nearest(&own.vector, EF, deleted > 0)?;
        rest(mode, worked.elapsed());
        if near.iter().any(|(_, other)| *other == index) {
            found.tried += 1;
            continue;
        }
        // As many as were asked for and none farther: vectors that are equal, or longer ones where the product counts.
        let distance = space.distance(&own.vector, &own.vector);
        let full = near.len() == EF && near.last().is_some_and(|(last, _)| *last <= distance);
        if !full {
            found.tried += 1;
            found.unfound += 1;
        }
    }
    let enough = found.tried >= TRIED_MIN.min(live);
    Ok(enough.then_some(found).filter(|found| found.tried > 0))
}

/// Elements spread over the index, the same ones each time: all when they are few.
fn sample(elements: u32) -> impl Iterator<Item = u32> {
    let count = elements.min(SAMPLE);
    (0..count).map(move |at| {
        let from = |at: u32| u64::from(elements) * u64::from(at) / u64::from(count);
        let (start, end) = (from(at), from(at + 1));
        // Not at regular distances: batches of additions are regular too.
        let place = u64::from(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        u32::try_from(start + place % (end - start).max(1)).unwrap_or(0)
    })
}

/// The elements of an index that was looked at.
struct Level0 {
    file: File,
    header: Header,
}

impl Elements for Level0 {
    type Error = Refused;

    fn read(&mut self, index: u32, into: &mut [u8]) -> Result<(), Refused> {
        let at = u64::from(index) * self.header.element_bytes;
        match read_up_to(&self.file, into, at) {
            Ok(read) if read == into.len() => Ok(()),
            Ok(_) => Err(Refused::Changed), // it was cut meanwhile
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refused::Changed),
            Err(error) => Err(Refused::Io(Part::Level0, error)),
        }
    }
}

/// Elements that are searched for: what is one in ten is seen as one in ten, give or take two in a hundred.
const SAMPLE: u32 = 400;
/// Fewer say nothing, unless there are no more.
const TRIED_MIN: u64 = 50;
/// How many a search finds: Chroma's `ef_search` since 0.6, and ten times what it gives unless asked for more.
const EF: usize = 100;
/// Links above level 0 are held in memory: of seven million elements by default.
const LINKS_BYTES_MAX: u64 = 64 << 20;
/// From a slow disk each element is a seek.
const TIME_MAX: Duration = Duration::from_secs(20);
const READS_MAX: u64 = 4_000_000;
const UNFOUND_MIN: u64 = 5;
const SHARE_MIN: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_elements_and_all_differ() {
        for elements in [1, 2, 399, 400, 401, 1000, 65_537, u32::MAX] {
            let all: Vec<u32> = sample(elements).collect();
            assert_eq!(all.len(), elements.min(SAMPLE) as usize);
            assert!(all.windows(2).all(|two| two[0] < two[1]), "{elements}");
            assert!(all.last().is_some_and(|last| *last < elements), "{elements}");
        }
    }

    #[test]
    fn what_updates_leave_in_a_healthy_index_is_no_finding() {
        for (tried, unfound, told) in
            [(400, 0, false), (400, 39, false), (400, 40, true), (20, 4, false), (20, 5, true)]
        {
            let finding = Reach { tried, unfound, live: 1000 }.finding("segment");
            assert_eq!(finding.is_some(), told, "{unfound} of {tried}");
        }
    }
}
