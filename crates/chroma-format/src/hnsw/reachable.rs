//! Which elements the links lead to, from the entry point on and down through all levels. A search follows links: it never finds an
//! element that none leads to, and finds the others, at the latest with a larger `ef`.

use alloc::{vec, vec::Vec};

use super::{
    Header,
    search::{UpperLinks, neighbours},
};

/// Follows the links of one index. Three bits are kept of each element.
#[derive(Debug)]
pub struct Reachable {
    elements: u32,
    links_bytes: usize,
    /// Links lead to it.
    reached: Bits,
    /// Its own links were followed.
    followed: Bits,
    /// It is marked as deleted: searches go through it, and do not give it.
    deleted: Bits,
    waiting: u64,
}

impl Reachable {
    /// Follows the links above level 0. `None` when the elements are more than links can name.
    #[must_use]
    pub fn new(header: &Header, upper: &UpperLinks) -> Option<Self> {
        let elements = u32::try_from(header.elements).ok()?;
        let links_bytes = usize::try_from(4 + 8 * header.neighbours).ok()?;
        let bits = || Bits(vec![0; elements.div_ceil(64) as usize]);
        let mut new = Self {
            elements,
            links_bytes,
            reached: bits(),
            followed: bits(),
            deleted: bits(),
            waiting: 0,
        };
        let mut all = Vec::new();
        if new.reach(header.entry_point) {
            all.push(header.entry_point);
        }
        for level in (1..=usize::try_from(header.levels()).ok()?).rev() {
            // A search comes down from any of those that it could be at.
            let mut at = 0;
            while let Some(from) = all.get(at).copied() {
                at += 1;
                for to in upper.of(from, level) {
                    if new.reach(to) {
                        all.push(to);
                    }
                }
            }
        }
        Some(new)
    }

    /// How many bytes an element begins with that are to be given to [`Self::follow`].
    #[must_use]
    pub const fn links_bytes(&self) -> usize {
        self.links_bytes
    }

    /// Takes in how the element at `index` begins. Follows its links when others lead to it, once, and says which elements were not
    /// known to be reached before.
    pub fn follow(&mut self, index: u32, start: &[u8], mut new: impl FnMut(u32)) {
        let Some(links) = start.get(..self.links_bytes).filter(|_| index < self.elements) else {
            return;
        };
        if links[2] & 1 != 0 {
            self.deleted.set(index);
        }
        if !self.reached.has(index) || !self.followed.set(index) {
            return;
        }
        self.waiting -= 1;
        for to in neighbours(links) {
            if self.reach(to) {
                new(to);
            }
        }
    }

    /// How many are reached and were not followed.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Which these are.
    pub fn all_waiting(&self) -> impl Iterator<Item = u32> {
        let all = self.reached.0.iter().zip(&self.followed.0);
        each(all.map(|(reached, followed)| reached & !followed))
    }

    /// How many no links lead to, of those that are not deleted. Every element was to be given to [`Self::follow`] once, and those that
    /// waited until none does.
    #[must_use]
    pub fn unreachable(&self) -> u64 {
        let all = self.reached.0.iter().zip(&self.deleted.0);
        each(all.map(|(reached, deleted)| !(reached | deleted)))
            .filter(|index| *index < self.elements)
            .map(|_| 1)
            .sum()
    }

    /// Whether that is news.
    fn reach(&mut self, index: u32) -> bool {
        let is_new = index < self.elements && self.reached.set(index);
        self.waiting += u64::from(is_new);
        is_new
    }
}

/// A bit for each element.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, index: u32) -> bool {
        self.0[index as usize / 64] & (1 << (index % 64)) != 0
    }

    /// Whether it was not set before.
    fn set(&mut self, index: u32) -> bool {
        let word = &mut self.0[index as usize / 64];
        let before = *word;
        *word |= 1 << (index % 64);
        *word != before
    }
}

/// The numbers of the bits that are set.
fn each(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
    (0_u32..).zip(words).flat_map(|(at, word)| {
        (0..64)
            .filter(move |bit| word & (1 << bit) != 0)
            .map(move |bit| at.saturating_mul(64) + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index of `links.len()` elements with two neighbours at most, as bytes of `data_level0.bin` without vectors. Element 0 is the entry
    /// point; `upper` are its links at level 1.
    fn walk(links: &[&[u32]], deleted: &[u32], upper: &[u32]) -> u64 {
        let header = Header {
            max_elements: links.len() as u64,
            elements: links.len() as u64,
            element_bytes: 4 + 2 * 4 + 4 + 8,
            dimension: 1,
            max_level: i32::from(!upper.is_empty()),
            entry_point: 0,
            neighbours: 1,
        };
        let record = |ids: &[u32], room: usize| {
            let mut out = u32::try_from(ids.len()).unwrap().to_le_bytes().to_vec();
            out.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
            out.resize(4 + 4 * room, 0);
            out
        };
        let mut lists = Vec::new();
        for index in 0..links.len() {
            let level = if index == 0 && !upper.is_empty() { record(upper, 1) } else { Vec::new() };
            lists.extend(u32::try_from(level.len()).unwrap().to_le_bytes());
            lists.extend(level);
        }
        let upper = UpperLinks::parse(lists, &header).unwrap();
        let mut walk = Reachable::new(&header, &upper).unwrap();
        let start = |index: u32| {
            let mut start = record(links[index as usize], 2);
            start[2] = u8::from(deleted.contains(&index));
            start
        };
        for index in 0..u32::try_from(links.len()).unwrap() {
            walk.follow(index, &start(index), |_| ());
        }
        while walk.waiting() > 0 {
            let waiting: Vec<u32> = walk.all_waiting().collect();
            assert_eq!(waiting.len() as u64, walk.waiting());
            for index in waiting {
                walk.follow(index, &start(index), |_| ());
            }
        }
        walk.unreachable()
    }

    #[test]
    fn only_what_no_links_lead_to_is_unreachable() {
        let chain: [&[u32]; 5] = [&[3], &[0], &[1], &[4], &[2]];
        assert_eq!(walk(&chain, &[], &[]), 0, "backwards and forwards");
        let pair: [&[u32]; 5] = [&[1], &[0], &[3], &[2], &[0]];
        assert_eq!(
            walk(&pair, &[], &[]),
            3,
            "a pair that has only each other, and one that nothing has"
        );
        assert_eq!(walk(&pair, &[], &[2]), 1, "the pair is reached from above");
        assert_eq!(walk(&pair, &[4], &[2]), 0, "what is deleted is not looked for");
        let through: [&[u32]; 3] = [&[1], &[2], &[]];
        assert_eq!(walk(&through, &[1], &[]), 0, "searches go through what is deleted");
        assert_eq!(walk(&[&[7, 9]], &[], &[]), 0, "links to nothing lead nowhere");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u32::try_from(state >> 32).unwrap()
        };
        for _ in 0..500 {
            let count = noise() % 70;
            let links: Vec<Vec<u32>> =
                (0..count).map(|_| (0..noise() % 5).map(|_| noise() % 80).collect()).collect();
            let links: Vec<&[u32]> = links.iter().map(|links| &links[..]).collect();
            let upper = [noise() % 80];
            assert!(
                walk(&links, &[noise() % 80], &upper[..(noise() % 2) as usize]) <= count.into()
            );
        }
    }
}
