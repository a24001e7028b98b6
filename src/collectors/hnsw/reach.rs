//! Whether a search finds what is in an index. After many deletes and updates hnswlib leaves elements to which no link leads from
//! where searches go: `get` still gives them, and no query does (chroma-core/chroma#7758). Nothing in the files contradicts
//! itself then, so the links are followed from the entry point on: what they do not lead to is unreachable.
//!
//! Searches for a sample of the elements with their own vectors say whether it matters: where the product counts, a vector need not be
//! the nearest to itself. That a search misses what links lead to is no fault: among vectors that are nearly all equally far from each
//! other the index that Chroma makes anew misses as much.

use std::{fs::File, io, sync::atomic::Ordering, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    catalogue::Distance,
    directory::{Folder, Part},
    walk::{ReadMode, Refused, open, rest},
};
use crate::{
    clock,
    findings::{Code, Finding},
    format::hnsw::{Elements, Header, Reachable, Search, Space, UpperLinks},
    host::links::Place,
    human,
    store::database::read_up_to,
};

/// What the links lead to, and what searches with own vectors gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reach {
    /// Elements whose own vector was searched for.
    pub(super) tried: u64,
    /// Those that were not among what was found, although what was found is farther away.
    pub(super) unfound: u64,
    /// Elements in use.
    pub(super) live: u64,
    /// Those that no links lead to, and how many links an element has above level 0; `None` when they were not followed to the end.
    #[serde(default)]
    pub(super) unreachable: Option<(u64, u64)>,
}

impl Reach {
    /// Both: searches miss them, and no links lead there.
    pub(super) fn finding(self, name: &str) -> Option<Finding> {
        let Self { tried, unfound, live, .. } = self;
        let (unreachable, neighbours) = self.unreachable?;
        let missed = unfound as f64 / tried.max(1) as f64;
        let share = unreachable as f64 / live.max(1) as f64;
        let few = unfound < UNFOUND_MIN || unreachable < UNFOUND_MIN;
        if few || missed < MISSED_MIN || share < share_min(live, neighbours) {
            return None;
        }
        let evidence = format!(
            "no links of the graph lead to {unreachable} of {live} records ({}); a search with its own vector does not find {unfound} of {tried} records that were tried",
            human::ratio(share)
        );
        Some(Finding::new(Code::RecordsUnreachable, name, evidence))
    }
}

/// The share that no fresh index comes near to. hnswlib takes links away from elements that are far from all others when those have
/// enough nearer ones: the more elements, and the fewer links each may have, the more.
fn share_min(live: u64, neighbours: u64) -> f64 {
    let few = NEIGHBOURS / (neighbours as f64).clamp(1.0, NEIGHBOURS);
    let many = live as f64 / LIVE;
    (SHARE_MIN * (few * few * many.powf(0.75)).max(1.0)).min(SHARE_MAX)
}

/// Follows the links of a sound index, of which `deleted` elements are marked, and searches for a sample of its elements. `None` when
/// there is nothing to search, or it would take too much memory or time. Errs when the files changed or cannot be read.
pub(super) fn reach(
    root: &Place,
    folder: &Folder,
    distance: Distance,
    deleted: u64,
    mode: ReadMode<'_>,
) -> Result<Option<Reach>, Refused> {
    let readings = folder.file(Part::Level0).zip(folder.file(Part::Links));
    let Some((header, (level0, links))) = folder.sound_header().zip(readings) else {
        return Ok(None);
    };
    let live = header.elements.saturating_sub(deleted);
    if live == 0 || links.size_bytes > LINKS_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(links.size_bytes).unwrap_or_default()];
    let read = read_up_to(&open(root, folder, Part::Links, links)?, &mut bytes, 0)
        .map_err(|error| Refused::Io(Part::Links, error))?;
    if read < bytes.len() {
        return Err(Refused::Changed);
    }
    let Some(upper) = UpperLinks::parse(bytes, &header) else { return Ok(None) };
    let source = Level0::new(open(root, folder, Part::Level0, level0)?, header)?;
    let unreachable = source.unreachable(&upper, mode)?.map(|count| (count, header.neighbours));
    let mut found = Reach { tried: 0, unfound: 0, live, unreachable };
    search(source, &upper, distance, deleted > 0, mode, &mut found)?;
    Ok(Some(found).filter(|found| found.tried > 0 || unreachable.is_some()))
}

/// Searches for a sample of the elements, and says in `found` what came of it when these were enough to say something.
/// Errs when the files cannot be read, or it was stopped.
fn search(
    source: Level0,
    upper: &UpperLinks,
    distance: Distance,
    deletions: bool,
    mode: ReadMode<'_>,
    found: &mut Reach,
) -> Result<(), Refused> {
    let header = source.header;
    let space = match distance {
        Distance::L2 => Space::L2,
        Distance::Cosine | Distance::Product => Space::Product,
        Distance::Unknown => return Ok(()),
    };
    let Ok(elements) = u32::try_from(header.elements) else { return Ok(()) };
    let Some(mut search) = Search::new(header, space, upper, source) else { return Ok(()) };
    let began = clock::ticks();
    let (mut tried, mut unfound) = (0, 0);
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
        let near = search.nearest(&own.vector, EF, deletions)?;
        rest(mode, worked.elapsed());
        if near.iter().any(|(_, other)| *other == index) {
            tried += 1;
            continue;
        }
        // As many as were asked for and none farther: vectors that are equal, or longer ones where the product counts.
        let distance = space.distance(&own.vector, &own.vector);
        let full = near.len() == EF && near.last().is_some_and(|(last, _)| *last <= distance);
        if !full {
            tried += 1;
            unfound += 1;
        }
    }
    if tried >= TRIED_MIN.min(found.live) {
        (found.tried, found.unfound) = (tried, unfound);
    }
    Ok(())
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
    /// All of it, where it is small: each search reads some hundred elements, and most of them were read by others before it.
    whole: Vec<u8>,
}

impl Level0 {
    /// Errs when the file cannot be read.
    fn new(file: File, header: Header) -> Result<Self, Refused> {
        let mut all = Self { file, header, whole: Vec::new() };
        let bytes = header.elements.saturating_mul(header.element_bytes);
        if let Ok(bytes) = usize::try_from(bytes)
            && bytes <= WHOLE_BYTES_MAX
        {
            let mut whole = vec![0; bytes];
            all.read_at(0, &mut whole)?;
            all.whole = whole;
        }
        Ok(all)
    }

    /// How many elements no links lead to, of those that are not deleted. `None` when following them takes too long.
    /// Errs when the files cannot be read, or it was stopped.
    fn unreachable(&self, upper: &UpperLinks, mode: ReadMode<'_>) -> Result<Option<u64>, Refused> {
        let Some(mut walk) = Reachable::new(&self.header, upper) else { return Ok(None) };
        let Ok(element_bytes) = usize::try_from(self.header.element_bytes) else { return Ok(None) };
        let began = clock::ticks();
        let is_over = || began.elapsed() >= TIME_MAX;
        // From the beginning to the end while that is worth it: each time one in sixteen is followed at least, most of them in the first.
        let piece = (PIECE_BYTES / element_bytes).max(1);
        let mut buffer = vec![0; piece * element_bytes];
        let mut first = true;
        while std::mem::take(&mut first) || walk.waiting() > self.header.elements / 16 {
            for from in (0..self.header.elements).step_by(piece) {
                if mode.stop.load(Ordering::Relaxed) {
                    return Err(Refused::Stopped);
                }
                if is_over() {
                    return Ok(None);
                }
                let worked = clock::ticks();
                let count = (self.header.elements - from).min(piece as u64);
                let bytes = &mut buffer[..usize::try_from(count).unwrap_or(piece) * element_bytes];
                self.read_at(from * self.header.element_bytes, bytes)?;
                for (index, element) in (from..).zip(bytes.chunks_exact(element_bytes)) {
                    walk.follow(u32::try_from(index).unwrap_or(u32::MAX), element, |_| ());
                }
                rest(mode, worked.elapsed());
            }
        }
        // The rest one by one.
        let mut waiting: Vec<u32> = walk.all_waiting().collect();
        let mut start = vec![0; walk.links_bytes()];
        let mut worked = clock::ticks();
        while let Some(index) = waiting.pop() {
            self.read_at(u64::from(index) * self.header.element_bytes, &mut start)?;
            walk.follow(index, &start, |new| waiting.push(new));
            if waiting.len().is_multiple_of(256) {
                if mode.stop.load(Ordering::Relaxed) {
                    return Err(Refused::Stopped);
                }
                if is_over() {
                    return Ok(None);
                }
                rest(mode, worked.elapsed());
                worked = clock::ticks();
            }
        }
        Ok(Some(walk.unreachable()))
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), Refused> {
        let held = usize::try_from(at).ok().and_then(|at| self.whole.get(at..at + into.len()));
        if let Some(held) = held {
            into.copy_from_slice(held);
            return Ok(());
        }
        match read_up_to(&self.file, into, at) {
            Ok(read) if read == into.len() => Ok(()),
            Ok(_) => Err(Refused::Changed), // it was cut meanwhile
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refused::Changed),
            Err(error) => Err(Refused::Io(Part::Level0, error)),
        }
    }
}

impl Elements for Level0 {
    type Error = Refused;

    fn read(&mut self, index: u32, into: &mut [u8]) -> Result<(), Refused> {
        self.read_at(u64::from(index) * self.header.element_bytes, into)
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
/// Held in memory: of 5,000 vectors of 384 numbers.
const WHOLE_BYTES_MAX: usize = 8 << 20;
/// Read at once.
const PIECE_BYTES: usize = 1 << 20;
const UNFOUND_MIN: u64 = 5;
/// What updates leave in a healthy index is less.
const MISSED_MIN: f64 = 0.1;
/// Three times what fresh indexes of hnswlib have of the worst vectors, random ones of 384 numbers whose length counts, with 16 links: 0.7 %
/// of 5,000, 1.8 % of 20,000, 5.9 % of 100,000; of 20,000 with 32, 12, 8 and 5 links 0.3 %, 3.7 %, 7.1 % and 19 %. After an update of
/// every record 9 % of 5,000 are unreachable. Of vectors in clusters, as models make them, it is 0 % and 0.4 %.
const SHARE_MIN: f64 = 0.05;
const SHARE_MAX: f64 = 0.5;
const LIVE: f64 = 20_000.0;
const NEIGHBOURS: f64 = 16.0;

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
    fn what_a_healthy_index_has_is_no_finding() {
        for (unreachable, live, neighbours, reported) in [
            (0, 1000, 16, false),
            (49, 1000, 16, false),
            (50, 1000, 16, true),
            (50, 1000, 64, true),
            (5900, 100_000, 16, false),
            (17_000, 100_000, 16, true),
            (3831, 20_000, 5, false),
            (375, 3000, 5, true),
            (500_000, 1_000_000, 16, true),
            (4, 20, 16, false),
            (5, 20, 16, true),
        ] {
            let of = |unfound| Reach {
                tried: 400,
                unfound,
                live,
                unreachable: Some((unreachable, neighbours)),
            };
            let case = format!("{unreachable} of {live}, {neighbours} links");
            assert_eq!(of(40).finding("segment").is_some(), reported, "{case}");
            assert!(of(39).finding("segment").is_none(), "{case}: searches find them");
        }
        let reach = Reach { tried: 400, unfound: 390, live: 1000, unreachable: None };
        assert!(reach.finding("segment").is_none(), "they were not followed to the end");
    }
}
