use std::{collections::BTreeSet, ops::ControlFlow};

use proptest::prelude::*;

use crate::hnsw::{
    Alone, BuildError, Builder, Elements, Graph, Header, LengthWalk, Level0Walk, LinkWalk, Metric,
    Options, Read, Search, UpperLinks, Workers,
};

fn options(dimension: usize, metric: Metric) -> Options {
    Options { dimension, metric, neighbours: 16, ef_construction: 100, seed: 100 }
}

/// Numbers between -1 and 1.
fn noise(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let upper = i16::from_ne_bytes(u16::try_from(*state >> 48).unwrap().to_ne_bytes());
    f32::from(upper) / 32_768.0
}

fn vectors(count: usize, dimension: usize) -> Vec<Vec<f32>> {
    let mut state = 1;
    (0..count).map(|_| (0..dimension).map(|_| noise(&mut state)).collect()).collect()
}

/// What several threads would do, one after the other.
struct Several(usize);

impl Workers for Several {
    fn count(&self) -> usize {
        self.0
    }

    fn map<S: Send, R: Send>(
        &self,
        states: &mut [S],
        tasks: usize,
        work: &(impl Fn(&mut S, usize) -> R + Sync),
    ) -> Vec<R> {
        let mut done: Vec<(usize, R)> = Vec::new();
        for (first, state) in states.iter_mut().enumerate() {
            // Not in order.
            let own = (0..tasks).rev().filter(|task| task % self.0 == first);
            done.extend(own.map(|task| (task, work(state, task))));
        }
        done.sort_by_key(|(task, _)| *task);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

fn built(options: Options, vectors: &[Vec<f32>]) -> Graph {
    built_by(Alone, options, vectors)
}

fn built_by(workers: impl Workers, options: Options, vectors: &[Vec<f32>]) -> Graph {
    let mut builder = Builder::with(options, vectors.len(), workers).unwrap();
    let labelled = (1..).zip(vectors.iter().map(Vec::as_slice));
    builder.extend(labelled, &mut |_| ControlFlow::Continue(())).unwrap();
    builder.finish()
}

type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), ()>;

/// The files of an index.
struct Files {
    header: Header,
    level0: Vec<u8>,
    lengths: Vec<u8>,
    links: Vec<u8>,
}

fn files(graph: &Graph) -> Files {
    let gather = |part: &dyn Fn(Take<'_>) -> Result<(), ()>| {
        let mut bytes = Vec::new();
        let mut take = |piece: &[u8]| {
            assert!(piece.len() < 1 << 20, "a file goes out in pieces");
            bytes.extend_from_slice(piece);
            Ok(())
        };
        part(&mut take).unwrap();
        bytes
    };
    Files {
        header: Header::parse(&graph.header()).unwrap(),
        level0: gather(&|write| graph.level0(write)),
        lengths: gather(&|write| graph.lengths(write)),
        links: gather(&|write| graph.links(write)),
    }
}

impl Files {
    /// What the walks find wrong.
    fn problems(&self) -> Vec<String> {
        let mut level0 = Level0Walk::new(self.header);
        level0.push(&self.level0, &mut |element| assert!(!element.deleted));
        let mut links = LinkWalk::new(self.header);
        links.push(&self.links);
        links.finish(self.links.len() as u64);
        let mut lengths = LengthWalk::new(&self.header);
        lengths.push(&self.lengths);
        assert!(level0.done() && links.done() && lengths.done());
        assert_eq!(self.level0.len() as u64, self.header.level0_bytes());
        assert_eq!(self.lengths.len() as u64, self.header.lengths_bytes());
        let all = [level0.problems(), links.problems(), lengths.problems()];
        all.iter().filter_map(|problems| problems.line()).collect()
    }

    fn norms(&self) -> Vec<f32> {
        self.lengths.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn links(&self) -> UpperLinks {
        UpperLinks::parse(self.links.clone(), &self.header).unwrap()
    }

    /// Elements that paths along links of one level lead to from where a search begins, and how many bear links there.
    fn reached(&self, level: usize) -> (usize, usize) {
        let size = usize::try_from(self.header.element_bytes).unwrap();
        let mut at = 0;
        let lists: Vec<Option<Vec<u32>>> = (0..self.level0.len() / size)
            .map(|index| {
                let word = |at: &[u8]| u32::from_le_bytes(*at.first_chunk().unwrap());
                let length = word(&self.links[at..]) as usize;
                let record = &self.links[at + 4..at + 4 + length];
                at += 4 + length;
                let level_bytes = usize::try_from(self.header.level_bytes()).unwrap();
                let list = if level == 0 {
                    &self.level0[index * size..]
                } else {
                    record.chunks(level_bytes).nth(level - 1)?
                };
                let ids = list[4..].chunks(4).take(word(list) as usize);
                Some(ids.map(word).collect())
            })
            .collect();
        let (mut seen, mut waiting) = (BTreeSet::new(), vec![self.header.entry_point]);
        while let Some(index) = waiting.pop() {
            if seen.insert(index) {
                waiting.extend(lists[index as usize].as_ref().expect("links stay on their level"));
            }
        }
        (seen.len(), lists.iter().flatten().count())
    }
}

struct Bytes<'a>(&'a [u8]);

impl Elements for Bytes<'_> {
    type Error = ();

    fn read(&mut self, index: u32, into: &mut [u8]) -> Result<(), ()> {
        let at = index as usize * into.len();
        into.copy_from_slice(self.0.get(at..at + into.len()).ok_or(())?);
        Ok(())
    }
}

#[test]
fn our_own_readers_read_what_was_written() {
    for metric in [Metric::L2, Metric::Product, Metric::Cosine] {
        for count in [0, 1, 2, 40, 700] {
            let vectors = vectors(count, 24);
            let files = files(&built(options(24, metric), &vectors));
            let case = format!("{metric:?}, {count} elements");
            assert_eq!(files.problems(), Vec::<String>::new(), "{case}");
            assert_eq!((files.header.elements, files.header.dimension), (count as u64, 24));
            assert_eq!(files.header.neighbours, 16);
            let upper = files.links();
            let bytes = Bytes(&files.level0);
            let mut search = Search::new(files.header, metric.space(), &upper, bytes).unwrap();
            for (index, (vector, norm)) in (0..).zip(vectors.iter().zip(files.norms())) {
                let Read { label, deleted, vector: found } = search.element(index).unwrap();
                assert_eq!((label, deleted), (u64::from(index) + 1, false), "{case}");
                if metric == Metric::Cosine {
                    for (found, given) in found.iter().zip(vector) {
                        assert!((found * norm - given).abs() < 1e-6, "{case}");
                    }
                } else {
                    assert_eq!((&found, norm), (vector, 0.0), "{case}");
                }
            }
        }
    }
}

#[test]
fn every_level_is_connected() {
    for (neighbours, metric) in [(16, Metric::L2), (16, Metric::Cosine), (8, Metric::L2)] {
        let options = Options { neighbours, ef_construction: 50, ..options(8, metric) };
        let vectors = vectors(1000, 8);
        let graphs = [built(options, &vectors), built_by(Several(2), options, &vectors)];
        for files in graphs.iter().map(files) {
            assert!(files.header.max_level >= 1, "{neighbours}");
            for level in 0..=usize::try_from(files.header.max_level).unwrap() {
                let (reached, there) = files.reached(level);
                let case = format!("level {level} with {neighbours} neighbours, {metric:?}");
                assert_eq!(reached, there, "{case}");
                assert!(level > 0 || there == 1000);
            }
        }
    }
}

/// How many of the ten nearest, of all that there are, searches with these `ef` find: in hundredths.
fn recalls(workers: impl Workers, metric: Metric, efs: [usize; 3]) -> [usize; 3] {
    let (stored, queries) = (vectors(2000, 32), &vectors(2100, 32)[2000..]);
    let files = files(&built_by(workers, options(32, metric), &stored));
    let upper = files.links();
    let bytes = Bytes(&files.level0);
    let mut search = Search::new(files.header, metric.space(), &upper, bytes).unwrap();
    let all: Vec<Vec<f32>> = (0..2000).map(|index| search.element(index).unwrap().vector).collect();
    let mut right = [0; 3];
    for query in queries {
        let distances = all.iter().map(|vector| metric.space().distance(query, vector));
        let mut near: Vec<(f32, u32)> = distances.zip(0..).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (right, ef) in right.iter_mut().zip(efs) {
            let found = search.nearest(query, ef, false).unwrap();
            *right += near[..10].iter().filter(|one| found[..10].contains(one)).count();
        }
    }
    right.map(|right| right / 10)
}

#[test]
fn searches_find_what_looking_at_all_finds() {
    for metric in [Metric::L2, Metric::Cosine] {
        let efs = [10, 30, 100];
        let [alone, together] = [recalls(Alone, metric, efs), recalls(Several(3), metric, efs)];
        for recalls in [alone, together] {
            assert!(recalls[0] < recalls[1] && recalls[1] < recalls[2], "{metric:?}: {recalls:?}");
            assert!(recalls[2] >= 95, "{metric:?}: {recalls:?}");
        }
        let worse = alone.iter().zip(together).any(|(alone, together)| together + 1 < *alone);
        assert!(!worse, "{metric:?}: {alone:?}, {together:?}");
    }
}

#[test]
fn the_graph_does_not_depend_on_how_many_build_it() {
    // Enough for batches of more than one.
    let vectors = vectors(1000, 16);
    let (files, other) = (
        files(&built_by(Several(2), options(16, Metric::L2), &vectors)),
        files(&built_by(Several(5), options(16, Metric::L2), &vectors)),
    );
    assert!(files.level0 == other.level0 && files.links == other.links);
    assert_eq!(files.problems(), Vec::<String>::new());
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let good = options(3, Metric::Cosine);
    for (bad, elements, says) in [
        (Options { dimension: 0, ..good }, 1, "the dimension is 0"),
        (Options { dimension: usize::MAX, ..good }, 1, "the dimension is"),
        (Options { neighbours: 1, ..good }, 1, "neighbours is 1, 2 to 10000"),
        (Options { neighbours: 10_001, ..good }, 1, "neighbours is 10001"),
        (Options { ef_construction: 0, ..good }, 1, "ef_construction is 0"),
        (good, usize::MAX, "number of elements is"),
        (Options { dimension: 1 << 20, ..good }, u32::MAX as usize - 1, "no memory for 4294967294"),
    ] {
        let found = Builder::new(bad, elements).unwrap_err().to_string();
        assert!(found.contains(says), "{found}");
    }
    assert_eq!(options(384, Metric::L2).memory_bytes(100_000), Some(188_200_000));
    assert_eq!(good.memory_bytes(u64::MAX), None);
    assert_eq!(Options { neighbours: usize::MAX, ..good }.memory_bytes(1), None);
    let mut builder = Builder::new(good, 2).unwrap();
    builder.push(7, &[1.0, 2.0, 2.0]).unwrap();
    for (label, vector, want) in [
        (8, &[1.0; 2][..], BuildError::Dimension { label: 8, found: 2, wanted: 3 }),
        (8, &[1.0, f32::NAN, 1.0], BuildError::NotFinite { label: 8 }),
        (8, &[1.0, f32::NEG_INFINITY, 1.0], BuildError::NotFinite { label: 8 }),
        (8, &[f32::MAX; 3], BuildError::NotFinite { label: 8 }),
        (7, &[1.0; 3], BuildError::Label { label: 7 }),
        (0, &[1.0; 3], BuildError::Label { label: 0 }),
    ] {
        assert_eq!(builder.push(label, vector), Err(want));
    }
    let stored = builder.push_stored(8, &[0.6, 0.8, 0.0], f32::NAN);
    assert_eq!(stored, Err(BuildError::NotFinite { label: 8 }));
    builder.push_stored(8, &[0.6, 0.8, 0.0], 5.0).unwrap();
    assert_eq!(builder.push(9, &[1.0; 3]), Err(BuildError::Full { room: 2 }));
    let files = files(&builder.finish());
    assert_eq!((files.problems(), files.norms()), (Vec::new(), vec![3.0, 5.0]));
}

#[test]
fn whoever_watches_can_stop() {
    let vectors = vectors(5, 3);
    let mut builder = Builder::new(options(3, Metric::L2), 5).unwrap();
    let mut seen = Vec::new();
    let labelled = (1..).zip(vectors.iter().map(Vec::as_slice));
    let result = builder.extend(labelled, &mut |elements| {
        seen.push(elements);
        if elements == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((result, seen), (Err(BuildError::Stopped { elements: 3 }), vec![1, 2, 3]));
    assert_eq!(files(&builder.finish()).problems(), Vec::<String>::new());
}

#[test]
fn a_sink_that_is_full_ends_the_writing() {
    let graph = built(options(3, Metric::L2), &vectors(5, 3));
    assert_eq!(graph.level0(&mut |_| Err("full")), Err("full"));
    assert_eq!(graph.lengths(&mut |_| Err("full")), Err("full"));
    assert_eq!(graph.links(&mut |_| Err("full")), Err("full"));
}

#[test]
fn a_sixteenth_of_the_elements_of_a_level_is_on_the_next() {
    let options = Options { ef_construction: 1, ..options(1, Metric::L2) };
    let files = files(&built(options, &vec![vec![0.0]; 5000]));
    let counts: Vec<usize> = (0..4).map(|level| files.reached(level).1).collect();
    // As chroma-hnswlib 0.7.6 has them with the same seed.
    assert_eq!(counts, [5000, 321, 13, 1]);
    assert_eq!(files.header.max_level, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_vectors_the_files_are_whole(
        numbers in proptest::collection::vec(
            prop_oneof![Just(0.0), Just(f32::MAX), Just(-f32::MAX), Just(f32::MIN_POSITIVE), -1.0_f32..1.0],
            0..400,
        ),
        dimension in 1_usize..6,
        neighbours in 2_usize..6,
        ef_construction in 1_usize..20,
        seed in any::<u32>(),
        metric in prop_oneof![Just(Metric::L2), Just(Metric::Product), Just(Metric::Cosine)],
    ) {
        let options = Options { dimension, metric, neighbours, ef_construction, seed };
        let vectors: Vec<&[f32]> = numbers.chunks_exact(dimension).collect();
        let mut builder = Builder::new(options, vectors.len()).unwrap();
        let mut taken = 0;
        for (label, vector) in (1..).zip(vectors) {
            match builder.push(label, vector) {
                Ok(()) => taken += 1,
                Err(error) => prop_assert_eq!(error, BuildError::NotFinite { label }),
            }
        }
        prop_assert!(taken == builder.len() && (metric == Metric::Cosine || taken == numbers.len() / dimension));
        let files = files(&builder.finish());
        prop_assert_eq!(files.problems(), Vec::<String>::new());
    }
}
