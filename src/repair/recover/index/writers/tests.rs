use super::*;
use crate::format::hnsw::{Builder, Options};

fn named(all: &[(u64, i64)]) -> Vec<Named> {
    all.iter().map(|(label, seq_id)| Named { label: *label, seq_id: *seq_id }).collect()
}

#[test]
fn the_last_flush_certainly_wrote_the_newest_labels() {
    for (all, position, flush, in_order, want) in [
        (&[][..], 100, 10, true, &[][..]),
        (&[(1, 88), (2, 91), (3, 95), (4, 100), (5, 101)], 100, 10, true, &[2, 3, 4][..]),
        // One was changed later: when its element was written is not known.
        (&[(1, 91), (2, 99), (3, 95), (4, 97)], 100, 10, true, &[1, 3, 4]),
        // Behind a record that is older, nothing counts.
        (&[(1, 95), (2, 90), (3, 96)], 100, 10, true, &[3]),
        // The ids of a batch come in any order, and half as many rows as were flushed are certain.
        (&[(1, 20), (2, 90), (3, 30), (4, 80), (5, 95)], 100, 4, false, &[2, 5]),
        (&[(1, 99), (2, 90), (3, 30), (4, 80), (5, 95)], 100, 4, false, &[5]),
    ] {
        let found = newest(&named(all), position, flush, in_order);
        assert_eq!(found, want.iter().copied().collect(), "{all:?}");
    }
}

#[test]
fn a_row_made_a_record_when_no_other_row_can_have_done_so() {
    for (all, others, want) in [
        (&[][..], &[][..], &[][..]),
        (&[(1, 1), (2, 2), (3, 3)][..], &[], &[][..]),
        // Row 2 is that of a record which this index does not have.
        (&[(1, 1), (2, 3)], &[2], &[]),
        // Of row 2 nothing is known: it made the second, the third, or one that is gone.
        (&[(1, 1), (2, 3), (3, 4)], &[], &[2]),
        // The first was changed by row 5: row 1 made it.
        (&[(1, 5), (2, 2), (3, 3), (4, 4)], &[], &[1]),
        (&[(1, 4), (2, 5), (3, 6)], &[], &[1, 2, 3]),
        (&[(1, 3), (2, 4), (3, 5)], &[], &[1, 2]),
        // What no queue gives.
        (&[(1, 2), (2, 1), (3, i64::MAX)], &[], &[2, 3]),
    ] {
        let all = named(all);
        let seq_ids = all.iter().map(|one| one.seq_id).chain(others.iter().copied()).collect();
        assert_eq!(perhaps_older(&all, &seq_ids), want.iter().copied().collect(), "{all:?}");
    }
}

#[test]
fn what_is_in_the_order_of_its_distances_is_told_from_what_came_later() {
    for (links, want) in [
        (&[][..], 0),
        (&[5, 3, 9], 2),
        (&[5, 3, 9, 11, 20], 2),
        (&[5, 3, 9, 4], 4),
        (&[1, 2, 3], 0),
        (&[9, 9], 2),
    ] {
        assert_eq!(ordered(links), want, "{links:?}");
    }
    for (numbers, want) in [
        ("", ""),
        ("9 8 8 1", "yyyy"),
        ("9 3 8 7 1", "ynyyy"),
        ("1 9 8 7", "nyyy"),
        ("9 8 20 7", "yyny"),
    ] {
        let numbers: Vec<f32> = numbers.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let said: String =
            falling(&numbers).iter().map(|fits| if *fits { 'y' } else { 'n' }).collect();
        assert_eq!(said, want, "{numbers:?}");
    }
}

#[test]
fn a_label_counts_where_one_element_alone_is_certain() {
    let bearers = [(1, 10), (2, 20), (2, 21), (3, 30), (3, 31), (4, 40)];
    let found = by_label(bearers.into_iter(), &[10, 20, 30, 31].into_iter().collect());
    assert_eq!(found, [(1, 10), (2, 20)].into_iter().collect());
}

/// Links, vector and label of an element.
type Element = (Vec<u32>, Vec<f32>, u64);

struct Memory(Vec<Element>);

impl Places for Memory {
    fn count(&self) -> u64 {
        self.0.len() as u64
    }

    fn neighbours(&self, place: u64) -> io::Result<Vec<u32>> {
        Ok(self.0[usize::try_from(place).unwrap()].0.clone())
    }

    fn vector(&self, place: u64) -> io::Result<Vec<f32>> {
        Ok(self.0[usize::try_from(place).unwrap()].1.clone())
    }
}

const DIMENSION: usize = 12;

/// The vector of a record, in one of some clusters.
fn vector(record: u64) -> Vec<f32> {
    let mut state = record.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let middle = (record / 20 % 5) as f32;
    (0..DIMENSION).map(|_| middle + next()).collect()
}

/// What is in the memory of a process that has added these records.
fn memory(records: &[u64], metric: Metric) -> Vec<Element> {
    let options =
        Options { dimension: DIMENSION, metric, neighbours: 16, ef_construction: 100, seed: 100 };
    let mut builder = Builder::new(options, records.len()).unwrap();
    for (label, record) in (1..).zip(records) {
        builder.push(label, &vector(*record)).unwrap();
    }
    let mut bytes = Vec::new();
    let write = &mut |piece: &[u8]| -> Result<(), ()> {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    builder.finish().level0(write).unwrap();
    let element = |bytes: &[u8]| -> Element {
        let (links, rest) = bytes.split_at(4 + 4 * 32);
        let (numbers, label) = rest.split_at(4 * DIMENSION);
        let words = links.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let count = usize::from(u16::from_le_bytes([links[0], links[1]]));
        let numbers = numbers.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
        let label = u64::from_le_bytes(label.try_into().unwrap());
        (words.skip(1).take(count).collect(), numbers.collect(), label)
    };
    bytes.chunks_exact(4 + 4 * 32 + 4 * DIMENSION + 8).map(element).collect()
}

#[test]
fn no_vector_of_the_other_process_is_taken() {
    // Without a norm few elements are neighbours, always the same ones.
    for (metric, least) in [(Metric::L2, 60), (Metric::Cosine, 60), (Metric::Product, 0)] {
        let shared = 0..300;
        let one: Vec<u64> = shared.clone().chain(10_000..10_500).collect();
        let other: Vec<u64> = shared.chain(20_000..20_550).collect();
        let flushed = 100;
        let (before, now) = (memory(&one[..one.len() - flushed], metric), memory(&one, metric));
        // The other one has overwritten everything; then the one writes what has changed in it.
        let mut file = memory(&other, metric);
        for (place, element) in now.iter().enumerate() {
            if before.get(place) != Some(element) {
                file[place] = element.clone();
            }
        }
        file.truncate(now.len());
        let wrong = (0..now.len()).filter(|place| file[*place].1 != now[*place].1).count();
        let last: Vec<u64> = (now.len() - flushed..now.len()).map(|place| place as u64).collect();
        let found = of_last(&Memory(file.clone()), metric, &last, &Steps::default()).unwrap();
        for place in &found {
            let place = usize::try_from(*place).unwrap();
            assert_eq!(file[place].1, now[place].1, "{metric:?}: {place} has another's vector");
        }
        println!("{metric:?}: {} of {} are taken, {wrong} are wrong", found.len(), now.len());
        let taken = found.len();
        assert!(wrong > 100 && taken >= least, "{metric:?}: {wrong} wrong, {taken} taken");
        // Nothing is begun with: nothing is certain.
        assert!(of_last(&Memory(file), metric, &[], &Steps::default()).unwrap().is_empty());
    }
}

#[test]
fn in_an_index_of_one_process_nearly_everything_is_certain() {
    let records: Vec<u64> = (0..400).collect();
    let memory = Memory(memory(&records, Metric::L2));
    let last: Vec<u64> = (200..400).collect();
    let found = of_last(&memory, Metric::L2, &last, &Steps::default()).unwrap();
    assert!(found.len() > 300, "{}", found.len());
    let steps = Steps::default();
    steps.stop();
    assert!(of_last(&memory, Metric::L2, &last, &steps).is_err());
}
