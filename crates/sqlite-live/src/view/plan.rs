//! Which pages of the copy are not yet those of the database: pure bookkeeping over page numbers.
//!
//! A page is right in the copy when it was copied after the last transaction that may have changed it had ended. Pages
//! beyond the sweep need no note: the sweep will come by. Pages beyond the size that the database had before a
//! transaction are all taken to be changed by it, whether it grew the file or the file was cut before and grew again.

use std::collections::BTreeMap;

use super::touched::Touched;

/// What is still to be copied.
#[derive(Debug)]
pub(super) struct Plan {
    /// Pages 1 to this one were copied once.
    swept: u32,
    /// Size of the database in pages when the sweep began; the sweep ends there.
    target: u32,
    /// Swept pages to copy again.
    again: Pages,
    /// All pages from here on are to be copied again.
    grown_from: u32,
}

/// Pages in a row: the first, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Plan {
    /// For a database of `pages` pages of which nothing is copied yet.
    pub(super) fn new(pages: u32) -> Self {
        Self {
            swept: 0,
            target: pages,
            again: Pages::default(),
            grown_from: pages.saturating_add(1),
        }
    }

    /// The next pages of the sweep, at most `max`; `None` when it is through.
    pub(super) fn sweep(&mut self, max: u32) -> Option<Run> {
        let count = (self.target - self.swept).min(max);
        let run = Run { first: self.swept + 1, count };
        self.swept += count;
        (count > 0).then_some(run)
    }

    /// Notes a transaction that has ended.
    pub(super) fn touched(&mut self, touched: &Touched) {
        // Those that grew after the sweep had begun were copied apart from it.
        let coming = self.swept + 1..=self.target;
        for page in touched.pages.iter().filter(|page| !coming.contains(page)) {
            self.again.insert(*page);
        }
        self.grown_from = self.grown_from.min(touched.initial_pages.saturating_add(1));
    }

    /// Takes all that is to be copied again, as runs in ascending order, for a database of `pages` pages now.
    pub(super) fn take(&mut self, pages: u32) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for page in std::mem::take(&mut self.again).ascending() {
            if page > pages || page >= self.grown_from {
                break;
            }
            match runs.last_mut() {
                Some(run) if run.first + run.count == page => run.count += 1,
                _ => runs.push(Run { first: page, count: 1 }),
            }
        }
        if pages >= self.grown_from {
            runs.push(Run { first: self.grown_from, count: pages - self.grown_from + 1 });
        }
        // What is beyond `pages` now can only come back by growing.
        self.grown_from = pages.saturating_add(1);
        self.target = self.target.min(pages);
        self.swept = self.swept.min(pages);
        runs
    }
}

/// A set of page numbers. A bit for each in chunks that are there only when they hold one, so that neither few pages of a
/// huge database nor all pages of a large one take much memory: 36 MiB for a tebibyte of pages of 4 KiB, all of them.
#[derive(Debug, Default)]
struct Pages {
    chunks: BTreeMap<u32, Box<[u64; CHUNK_WORDS as usize]>>,
}

impl Pages {
    fn insert(&mut self, page: u32) {
        let chunk = self.chunks.entry(page / CHUNK).or_insert_with(|| Box::new([0; _]));
        chunk[(page % CHUNK / 64) as usize] |= 1 << (page % 64);
    }

    fn ascending(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().flat_map(|(chunk, words)| {
            (0..).zip(words.iter()).flat_map(move |(number, word)| {
                let (first, mut left) = (chunk * CHUNK + 64 * number, *word);
                std::iter::from_fn(move || {
                    let bit = (left != 0).then(|| left.trailing_zeros())?;
                    left &= left - 1;
                    Some(first + bit)
                })
            })
        })
    }
}

/// Pages of a chunk, and its words.
const CHUNK: u32 = CHUNK_WORDS * 64;
const CHUNK_WORDS: u32 = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn touched(pages: &[u32], initial_pages: u32) -> Touched {
        Touched {
            pages: pages.to_vec(),
            initial_pages,
            counter_before: None,
            records: BTreeMap::new(),
            leaves: std::collections::BTreeSet::new(),
            finished: true,
        }
    }

    fn run(first: u32, count: u32) -> Run {
        Run { first, count }
    }

    #[test]
    fn a_set_of_pages_is_in_order_and_has_each_once() {
        let mut pages = Pages::default();
        let numbers = [u32::MAX, 1, 64, 63, 4095, 4096, 70_000, 64, u32::MAX];
        for page in numbers {
            pages.insert(page);
        }
        let found: Vec<u32> = pages.ascending().collect();
        assert_eq!(found, [1, 63, 64, 4095, 4096, 70_000, u32::MAX]);
    }

    #[test]
    fn only_swept_pages_are_copied_again_and_growth_is_never_forgotten() {
        let mut plan = Plan::new(10);
        assert_eq!(plan.sweep(4), Some(run(1, 4)));
        plan.touched(&touched(&[1, 2, 4, 7], 10));
        assert_eq!(plan.take(12), [run(1, 2), run(4, 1), run(11, 2)]);
        assert_eq!(plan.take(12), []);
        assert_eq!(plan.sweep(100), Some(run(5, 6)));
        assert_eq!(plan.sweep(100), None);
        plan.touched(&touched(&[11], 12));
        assert_eq!(plan.take(12), [run(11, 1)], "it grew beside the sweep");
        // A vacuum cut the file, and it grew again over the same pages.
        plan.touched(&touched(&[3, 12], 12));
        assert_eq!(plan.take(6), [run(3, 1)]);
        plan.touched(&touched(&[1], 6));
        assert_eq!(plan.take(9), [run(1, 1), run(7, 3)]);
    }

    proptest! {
        /// A model of a file whose pages hold the number of the transaction that wrote them last.
        #[test]
        fn the_copy_ends_equal(
            steps in proptest::collection::vec((any::<u8>(), 1_u32..40, proptest::collection::vec(1_u32..40, 0..6)), 1..40),
        ) {
            let mut file: Vec<u32> = vec![0; 20];
            let mut copy: Vec<u32> = Vec::new();
            let mut plan = Plan::new(20);
            let put = |copy: &mut Vec<u32>, file: &[u32], run: Run| {
                for page in run.first..run.first + run.count {
                    let at = page as usize - 1;
                    if copy.len() <= at { copy.resize(at + 1, u32::MAX); }
                    if let Some(content) = file.get(at) { copy[at] = *content; }
                }
            };
            for (number, (kind, size, pages)) in (1_u32..).zip(steps) {
                match kind % 3 {
                    0 => {
                        let initial = u32::try_from(file.len()).unwrap();
                        let named: Vec<u32> = pages.into_iter().filter(|page| *page <= initial).collect();
                        for page in &named { file[*page as usize - 1] = number; }
                        file.resize(size as usize, number);
                        plan.touched(&touched(&named, initial));
                    }
                    1 => if let Some(run) = plan.sweep(size) { put(&mut copy, &file, run) },
                    _ => {
                        let pages = u32::try_from(file.len()).unwrap();
                        for run in plan.take(pages) { put(&mut copy, &file, run) }
                    }
                }
            }
            while let Some(run) = plan.sweep(7) { put(&mut copy, &file, run) }
            for run in plan.take(u32::try_from(file.len()).unwrap()) { put(&mut copy, &file, run) }
            copy.truncate(file.len());
            prop_assert_eq!(copy, file);
        }
    }
}
