use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::pickle;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let stores = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    let inside = stores.filter(|path| path.is_dir()).flat_map(|s| std::fs::read_dir(s).unwrap());
    inside.map(|e| e.unwrap().path()).filter(|path| path.join("header.bin").exists()).collect()
}

fn folder(part: &str) -> PathBuf {
    folders()
        .into_iter()
        .find(|f| f.join("index_metadata.pickle").exists() && f.to_str().unwrap().contains(part))
        .unwrap()
}

fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

fn header(folder: &Path) -> Header {
    Header::parse(&bytes(folder, "header.bin")).unwrap()
}

/// What the walk over `data_level0.bin` finds, fed in pieces of this length.
fn level0(header: Header, bytes: &[u8], piece: usize) -> (Level0Walk, Vec<Element>) {
    let mut walk = Level0Walk::new(header);
    let mut elements = Vec::new();
    bytes.chunks(piece).for_each(|piece| walk.push(piece, &mut |element| elements.push(element)));
    (walk, elements)
}

fn links(header: Header, bytes: &[u8], piece: usize) -> Problems {
    let mut walk = LinkWalk::new(header);
    bytes.chunks(piece).for_each(|piece| walk.push(piece));
    walk.finish(bytes.len() as u64);
    walk.problems().clone()
}

fn lengths(header: Header, bytes: &[u8], piece: usize) -> LengthWalk {
    let mut walk = LengthWalk::new(&header);
    bytes.chunks(piece).for_each(|piece| walk.push(piece));
    walk
}

#[test]
fn real_folders_are_whole_however_they_are_cut() {
    assert!(folders().len() >= 16);
    for folder in folders() {
        let name = folder.display();
        let header = header(&folder);
        let data = bytes(&folder, "data_level0.bin");
        for piece in [1, 7, 4096, usize::MAX] {
            let (walk, elements) = level0(header, &data, piece);
            assert!(walk.done() && walk.problems().line().is_none(), "{name} {walk:?}");
            assert_eq!(elements.len() as u64, header.elements, "{name}");
            assert_eq!(
                links(header, &bytes(&folder, "link_lists.bin"), piece).line(),
                None,
                "{name}"
            );
            let walk = lengths(header, &bytes(&folder, "length.bin"), piece);
            // Only with cosine they are lengths, and those are the folders of this dimension.
            let whole = header.dimension != 8 || walk.problems().line().is_none();
            assert!(walk.done() && whole, "{name} {walk:?}");
        }
        let Ok(metadata) = std::fs::read(folder.join("index_metadata.pickle")) else {
            assert_eq!((header.elements, header.max_level), (0, -1), "{name}");
            continue;
        };
        let mut pairs = Vec::new();
        let mut add = |id, label| pairs.push(Pair { label, id });
        let metadata = pickle::read(&metadata[..], pickle::Limits::default(), &mut add).unwrap();
        let mut labels = Labels::new(pairs, metadata.total_elements_added);
        for element in level0(header, &data, 4096).1 {
            labels.note(element);
        }
        let (found, pairs) = labels.finish();
        assert_eq!(found, LabelProblems::default(), "{name}");
        assert_eq!(pairs.len() as u64, metadata.ids);
    }
}

#[test]
fn headers_that_hnswlib_would_die_of_are_refused() {
    let good = bytes(&folder("chroma-1.5.9/"), "header.bin");
    assert_eq!(good.len(), HEADER_LEN);
    for (at, value, says) in [
        (VERSION, &2_u32.to_le_bytes()[..], "version is 2"),
        (OFFSET_LEVEL0, &1_u64.to_le_bytes(), "offsetLevel0"),
        (ELEMENTS, &1_000_000_u64.to_le_bytes(), "exceed the stated maximum"),
        (MAX_ELEMENTS, &u64::MAX.to_le_bytes(), "more than ids can name"),
        (ELEMENT_BYTES, &1_u64.to_le_bytes(), "size_data_per_element"),
        (LABEL_OFFSET, &0_u64.to_le_bytes(), "label_offset"),
        (LABEL_OFFSET, &u64::MAX.to_le_bytes(), "label_offset"),
        (DATA_OFFSET, &0_u64.to_le_bytes(), "offsetData"),
        (MAX_LEVEL, &(-1_i32).to_le_bytes(), "maximum level -1"),
        (MAX_LEVEL, &1000_i32.to_le_bytes(), "maximum level 1000"),
        (ENTRY_POINT, &u32::MAX.to_le_bytes(), "entry point"),
        (MAX_M, &0_u64.to_le_bytes(), "maxM"),
        (MAX_M0, &u64::MAX.to_le_bytes(), "maxM"),
        (M, &3_u64.to_le_bytes(), "maxM"),
        (MULT, &f64::NAN.to_le_bytes(), "multiplier"),
        (MULT, &7.0_f64.to_le_bytes(), "multiplier"),
        (EF_CONSTRUCTION, &0_u64.to_le_bytes(), "ef_construction"),
    ] {
        let mut bad = good.clone();
        bad[at..at + value.len()].copy_from_slice(value);
        let error = Header::parse(&bad).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for length in 0..HEADER_LEN {
        let found = Header::parse(&good[..length]);
        assert_eq!(found, Err(HeaderError::Truncated { found: length }));
    }
}

#[test]
fn damage_in_the_elements_is_told() {
    let folder = folder("chroma-1.1.1");
    let (header, good) = (header(&folder), bytes(&folder, "data_level0.bin"));
    let size = usize::try_from(header.element_bytes).unwrap();
    let vector = usize::try_from(4 + 8 * header.neighbours).unwrap();
    for (at, value, says) in [
        (3 * size, &[0xff, 0x7f][..], "element 3 states 32767 neighbours"),
        (5 * size + 4, &[0xff; 4], "element 5 has the neighbour 4294967295"),
        (7 * size + vector, &f32::NAN.to_le_bytes(), "element 7 has a number that is not finite"),
        (8 * size + vector + 4, &f32::INFINITY.to_le_bytes(), "element 8"),
    ] {
        let mut bad = good.clone();
        bad[at..at + value.len()].copy_from_slice(value);
        let (walk, _) = level0(header, &bad, 100);
        assert!(walk.problems().line().unwrap().contains(says), "{walk:?}");
        assert_eq!(walk.problems().count(), 1);
    }
    let (walk, _) = level0(header, &good[..=size * 9], 100);
    assert_eq!((walk.done(), walk.seen()), (false, 9));
}

#[test]
fn damage_in_links_and_norms_is_told() {
    let folder = folder("chroma-1.5.9/c2");
    let header = header(&folder);
    let good = bytes(&folder, "link_lists.bin");
    let with = |at: usize, value: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + value.len()].copy_from_slice(value);
        links(header, &bad, 64).line().unwrap()
    };
    assert!(with(0, &123_456_789_u32.to_le_bytes()).contains("element 0 states 123456789 bytes"));
    assert!(with(0, &1_u32.to_le_bytes()).contains("states 1 bytes"));
    let first =
        good.as_chunks::<4>().0.iter().position(|n| u32::from_le_bytes(*n) > 0).unwrap() * 4;
    assert!(with(first + 4, &[0xff, 0xff]).contains("states 65535 links"));
    assert!(with(first + 8, &[0xff; 4]).contains("linked to 4294967295"));
    assert!(
        links(header, &good[..good.len() - 1], 64).line().unwrap().contains("ends in the links")
    );
    let longer = [&good[..], &[0; 8]].concat();
    assert!(links(header, &longer, 64).line().unwrap().contains("records take"));
    let other = Header { max_level: header.max_level + 1, ..header };
    assert!(links(other, &good, 64).line().unwrap().contains("the header states level"));

    let good = bytes(&folder, "length.bin");
    let mut bad = good.clone();
    bad[8..12].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    assert!(lengths(header, &bad, 3).problems().line().unwrap().contains("norm of element 2"));
    bad[8..12].copy_from_slice(&(-1.5_f32).to_le_bytes());
    assert!(lengths(header, &bad, 3).problems().line().unwrap().contains("element 2 is negative"));
    for (norm, sound) in [(4e-23, true), (3e-23, false), (0.0, true), (1e19, true), (2e19, false)] {
        bad[8..12].copy_from_slice(&f32::to_le_bytes(norm));
        assert_eq!(lengths(header, &bad, 3).problems().line().is_none(), sound, "{norm}");
    }
    assert!(!lengths(header, &good[..100], 64).done());
}

#[test]
fn labels_that_do_not_fit_are_told_apart() {
    let element = |index, label, deleted| Element { index, label, deleted };
    let pairs = || (1..=4).map(|label| Pair { label, id: 100 + label }).collect::<Vec<_>>();
    let play = |elements: &[Element]| {
        let mut labels = Labels::new(pairs(), 5);
        for element in elements {
            labels.note(*element);
        }
        labels.finish().0
    };
    let all: Vec<Element> = (0..4).map(|index| element(index, index + 1, false)).collect();
    assert_eq!(play(&all), LabelProblems::default());
    assert_eq!(play(&all[1..]).without_element, 1);
    assert_eq!(play(&[&all[..], &[element(4, 1, false)]].concat()).twice, 1);
    assert_eq!(play(&[&all[..], &[element(4, 5, false)]].concat()).nameless, 1);
    assert_eq!(play(&[&all[..], &[element(4, 6, false)]].concat()).above_total, 1);
    assert_eq!(play(&[&all[..], &[element(4, 5, true)]].concat()), LabelProblems::default());
    let twice = play(&[&all[..], &[element(4, 5, true), element(5, 5, true)]].concat());
    assert_eq!(twice.twice, 1);
    let mut marked = all.clone();
    marked[2].deleted = true;
    let found = play(&marked);
    assert_eq!((found.marked_count, found.marked.as_slice()), (1, &[103][..]));
    assert!(!found.contradict() && play(&all[1..]).contradict());
}

#[test]
fn every_cut_of_every_file_ends_quietly() {
    for folder in folders() {
        let header = header(&folder);
        for name in ["data_level0.bin", "link_lists.bin", "length.bin"] {
            let whole = bytes(&folder, name);
            let step = (whole.len() / 60).max(1);
            for length in (0..whole.len()).step_by(step) {
                let (walk, _) = level0(header, &whole[..length], 999);
                assert!(walk.seen() <= header.elements);
                drop(links(header, &whole[..length], 999));
                drop(lengths(header, &whole[..length], 999));
            }
        }
    }
}

#[test]
fn no_flipped_bit_of_a_header_makes_a_walk_panic() {
    let folder = folder("chroma-1.5.9/");
    let (data, list) = (bytes(&folder, "data_level0.bin"), bytes(&folder, "link_lists.bin"));
    let good = bytes(&folder, "header.bin");
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(header) = Header::parse(&flipped) {
                drop(level0(header, &data, 500));
                drop(links(header, &list, 500));
                drop(lengths(header, &list, 500));
            }
        }
    }
}

proptest! {
    #[test]
    fn the_first_neighbour_that_is_no_element_is_found(
        elements in prop_oneof![1_u64..9, (1_u64 << 31) - 3..(1 << 31) + 3, (1_u64 << 32) - 3..1 << 32],
        ids in proptest::collection::vec(
            prop_oneof![0_u32..9, (1_u32 << 31) - 4..(1 << 31) + 4, u32::MAX - 4..=u32::MAX],
            0..20,
        ),
    ) {
        let want = ids.iter().copied().find(|id| u64::from(*id) >= elements);
        prop_assert_eq!(level0::beyond(ids.iter().copied(), elements), want);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        elements in 0_u64..20,
        neighbours in 1_u64..4,
        dimension in 1_u64..5,
        max_level in -1_i32..4,
        piece in 1_usize..80,
    ) {
        prop_assert!(Header::parse(&bytes).is_ok() <= (bytes.len() >= HEADER_LEN));
        let header = Header {
            max_elements: 100,
            elements,
            element_bytes: 4 + 8 * neighbours + 4 * dimension + 8,
            dimension,
            max_level,
            entry_point: 0,
            neighbours,
        };
        drop(level0(header, &bytes, piece));
        // The pieces do not change what is found.
        prop_assert_eq!(links(header, &bytes, piece), links(header, &bytes, usize::MAX));
        prop_assert_eq!(lengths(header, &bytes, piece).problems().line(), lengths(header, &bytes, usize::MAX).problems().line());
    }
}
