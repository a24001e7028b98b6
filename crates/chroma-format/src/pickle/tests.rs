use std::path::Path;

use proptest::prelude::*;

use super::*;

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let mut found = Vec::new();
    for store in std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()) {
        for folder in std::fs::read_dir(store).into_iter().flatten().map(|e| e.unwrap().path()) {
            if let Ok(bytes) = std::fs::read(folder.join("index_metadata.pickle")) {
                found.push((folder.display().to_string(), bytes));
            }
        }
    }
    found
}

/// One of each family: what is done with every byte of it takes time.
fn small_fixtures() -> impl Iterator<Item = (String, Vec<u8>)> {
    let mut files = fixtures();
    files.sort_by_key(|(name, bytes)| (bytes.len(), name.clone()));
    let old = files.iter().position(|(name, _)| name.contains("chroma-0.")).unwrap();
    let new = files.iter().position(|(name, _)| name.contains("chroma-1.")).unwrap();
    [files[old].clone(), files[new].clone()].into_iter()
}

fn pairs(bytes: &[u8]) -> Result<(Metadata, Vec<(u64, u64)>), PickleError> {
    let mut pairs = Vec::new();
    let read = read(bytes, Limits::default(), &mut |id, label| pairs.push((id, label)));
    match read {
        Ok(metadata) => Ok((metadata, pairs)),
        Err(ReadError::Content(error)) => Err(error),
    }
}

#[test]
fn every_real_file_is_read() {
    let files = fixtures();
    assert!(files.len() >= 14);
    for (name, bytes) in files {
        let (metadata, pairs) = pairs(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let old = name.contains("chroma-0.");
        let family = if old { Family::PersistentData } else { Family::Plain };
        let deleted = name.contains("deleted") && metadata.ids == 60;
        assert_eq!(metadata.family, family, "{name}");
        assert_eq!(metadata.ids, pairs.len() as u64, "{name}");
        assert_eq!(
            metadata.total_elements_added,
            if deleted { 90 } else { metadata.ids },
            "{name}"
        );
        assert_eq!(metadata.label_max, metadata.total_elements_added, "{name}");
        assert_eq!(metadata.dimensionality.is_some(), old, "{name}");
        let position = ["chroma-0.4", "chroma-0.5.5"].iter().any(|old| name.contains(old));
        assert_eq!(metadata.max_seq_id.is_some(), position, "{name}");
        assert!(metadata.inverse, "{name}");
        assert_eq!(metadata.bytes, bytes.len() as u64, "{name}");
        let known = [&b"articles-035"[..], b"notes-011"].map(hash);
        let label = pairs.iter().find(|(id, _)| known.contains(id)).unwrap().1;
        assert!((1..=metadata.total_elements_added).contains(&label), "{name}: {label}");
    }
}

#[test]
fn what_stands_in_front_of_a_cut_is_read_and_nothing_else() {
    for (name, bytes) in small_fixtures() {
        let (whole, pairs) = pairs(&bytes).unwrap();
        for cut in 0..=bytes.len() {
            let mut found = Vec::new();
            let mut inverse = Vec::new();
            let mut rows = Vec::new();
            let said = salvage(&bytes[..cut], Limits::default(), &mut |map, id, label| match map {
                Map::IdToLabel => found.push((id, label)),
                Map::LabelToId => inverse.push((id, label)),
                Map::IdToSeqId => rows.push((id, label)),
            });
            assert!(pairs.starts_with(&found), "{name}: {cut}");
            assert!(inverse.iter().all(|pair| pairs.contains(pair)), "{name}: {cut}");
            assert!(rows.iter().all(|(id, _)| pairs.iter().any(|pair| pair.0 == *id)), "{name}");
            assert_eq!(said.error.is_none(), cut == bytes.len(), "{name}: {cut}");
            if !found.is_empty() {
                assert_eq!(said.total_elements_added, Some(whole.total_elements_added), "{name}");
            }
            if cut == bytes.len() {
                assert_eq!((found.len(), inverse.len()), (pairs.len(), pairs.len()), "{name}");
                let kept = if name.contains("-0.") { pairs.len() } else { 0 };
                assert_eq!(rows.len(), kept, "{name}");
                assert_eq!(said.max_seq_id, whole.max_seq_id, "{name}");
                assert_eq!(said.dimensionality, whole.dimensionality, "{name}");
            }
        }
    }
}

#[test]
fn hashes_that_are_kept_do_not_change() {
    for (id, want) in [
        (&b""[..], 0x2d06_8005_38d3_94c2),
        (b"articles-035", 0x2d81_3771_300d_8097),
        (&[b'x'; 300], 0xa5d1_b460_7dc8_3554),
    ] {
        assert_eq!(hash(id), want, "{id:?}");
    }
}

/// What Python 3.11 writes for `PersistentData` with these items, batches and single items included.
fn python(ids: u32) -> Vec<u8> {
    python_with(ids, &[])
}

/// The same with more fields.
fn python_with(ids: u32, more: &[&str]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend([0x8c, u8::try_from(text.len()).unwrap()]);
        out.extend(text.as_bytes());
        out.push(0x94);
    }
    fn number(out: &mut Vec<u8>, number: u32) {
        match number {
            0..=0xff => out.extend([b'K', number.to_le_bytes()[0]]),
            0x100..=0xffff => out.extend([b'M', number.to_le_bytes()[0], number.to_le_bytes()[1]]),
            _ => {
                out.push(b'J');
                out.extend(number.to_le_bytes());
            }
        }
    }
    fn batches(out: &mut Vec<u8>, ids: u32, item: impl Fn(&mut Vec<u8>, u32)) {
        for first in (0..ids).step_by(1000) {
            let count = (ids - first).min(1000);
            out.extend((count > 1).then_some(b'('));
            (first..first + count).for_each(|id| item(out, id));
            out.push(if count > 1 { b'u' } else { b's' });
        }
    }
    let mut out = vec![0x80, 5, 0x95];
    out.extend(0_u64.to_le_bytes());
    text(&mut out, "chromadb.segment.impl.vector.local_persistent_hnsw");
    text(&mut out, "PersistentData");
    out.extend([0x93, 0x94, b')', 0x81, 0x94, b'}', 0x94, b'(']);
    text(&mut out, "dimensionality");
    number(&mut out, 384);
    text(&mut out, "total_elements_added");
    number(&mut out, ids);
    for name in more {
        text(&mut out, name);
        number(&mut out, 3);
    }
    text(&mut out, "id_to_label");
    out.extend([b'}', 0x94]);
    // Remembered so far: two names, class, object, state, three keys, this dictionary.
    let first_id = 9 + u32::try_from(more.len()).unwrap();
    batches(&mut out, ids, |out, id| {
        text(out, &format!("id-{id}"));
        number(out, id + 1);
    });
    text(&mut out, "label_to_id");
    out.extend([b'}', 0x94]);
    batches(&mut out, ids, |out, id| {
        number(out, id + 1);
        match first_id + id {
            place @ 0..=0xff => out.extend([b'h', place.to_le_bytes()[0]]),
            place => {
                out.push(b'j');
                out.extend(place.to_le_bytes());
            }
        }
    });
    text(&mut out, "id_to_seq_id");
    out.extend([b'}', 0x94]);
    out.extend(*b"ub.");
    out
}

#[test]
fn pythons_batches_and_single_items_are_read() {
    for ids in [0, 1, 2, 999, 1000, 1001, 66_000] {
        let (metadata, pairs) = pairs(&python(ids)).unwrap_or_else(|e| panic!("{ids}: {e}"));
        assert_eq!((metadata.ids, metadata.total_elements_added), (ids.into(), ids.into()));
        assert_eq!(metadata.dimensionality, Some(384));
        assert!(metadata.inverse);
        assert!(
            ids == 0
                || pairs.last() == Some(&(hash(format!("id-{}", ids - 1).as_bytes()), ids.into()))
        );
    }
}

#[test]
fn fields_of_other_releases_are_passed_over_and_none_of_chromas_may_lack() {
    // 0.5.5 has these two.
    let more = ["total_elements_updated", "total_invalid_operations"];
    let (metadata, _) = pairs(&python_with(40, &more)).unwrap();
    assert_eq!((metadata.ids, metadata.total_elements_added), (40, 40));
    assert!(metadata.inverse);
    for name in
        ["dimensionality", "total_elements_added", "id_to_label", "label_to_id", "id_to_seq_id"]
    {
        let mut bytes = python(3);
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
        bytes[at] ^= 1;
        assert!(pairs(&bytes).is_err(), "{name}");
    }
}

#[test]
fn what_calls_code_is_hostile_and_told_by_its_name() {
    let mut in_state = python(3);
    let at = in_state.iter().position(|b| *b == b'(').unwrap() + 1;
    in_state.splice(at..at, *b"cos\nsystem\n(Xid\0\0\0tR");
    for (bytes, says) in [
        (&b"cposix\nsystem\n(X\x02\0\0\0idtR."[..], "imports posix.system"),
        (
            b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
            "imports posix.system",
        ),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "imports builtins.eval"),
        (b"(X\x02\0\0\0idios\nsystem\n.", "by a call"),
        (b"\x80\x02\x82\x01.", "extension registry"),
        (b"}R.", "REDUCE"),
        (b"}}b.", ""),
        (&in_state, "imports os.system"),
    ] {
        let error = pairs(bytes).unwrap_err();
        if says.is_empty() {
            assert!(!matches!(error, PickleError::Hostile { .. }), "{error}");
            continue;
        }
        assert!(matches!(&error, PickleError::Hostile { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn foreign_files_are_refused() {
    for (bytes, says) in [
        (&b""[..], "ends after 0 bytes"),
        (b".", "without its values"),
        (b"}.", "id_to_label or label_to_id"),
        (b"\x80\x09}.", "protocol 9"),
        (b"N.", "another value"),
        (b"K\x01K\x02.", "another value"),
        (b"}}.", "another place"),
        (b"}(K\x01K\x02u.", "a pair of a number and a number"),
        (b"h\x05.", "memo place 5"),
        (b"r\xff\xff\xff\xff.", "nothing to remember"),
        (b"Nr\xff\xff\xff\xff.", "out of order"),
        (b"X\xff\xff\xff\xff.", "bytes in a string"),
        (b"\x8a\xff.", "bytes in an integer"),
        (b"((((((((((.", "levels"),
        (&[b'N'; 1000], "values on the stack"),
        (&[b'c'; 5000], "bytes in a line"),
    ] {
        let error = pairs(bytes).unwrap_err().to_string();
        assert!(error.contains(says), "{bytes:?}: {error}");
    }
    let (_, mut bytes) = fixtures().remove(0);
    bytes.push(b'.');
    assert!(pairs(&bytes).unwrap_err().to_string().contains("behind its end"));
    let limits = Limits { bytes_max: 50, ..Limits::default() };
    let error = read(&bytes[..], limits, &mut |_, _| {}).unwrap_err();
    assert!(
        matches!(error, ReadError::Content(PickleError::TooMuch { what: "bytes", .. })),
        "{error:?}"
    );
    let limits = Limits { memo_max: 5, ..Limits::default() };
    let error = read(&python(3)[..], limits, &mut |_, _| {}).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Content(PickleError::TooMuch { what: "values to remember", .. })
        ),
        "{error:?}"
    );
}

#[test]
fn every_cut_is_noticed() {
    for (name, bytes) in small_fixtures() {
        for length in 0..bytes.len() {
            let error = pairs(&bytes[..length]).unwrap_err();
            let at_its_end = matches!(error, PickleError::Truncated { at } if at == length as u64);
            assert!(at_its_end, "{name} {length}: {error}");
        }
    }
}

#[test]
fn no_flipped_bit_makes_it_panic_or_call_code_unseen() {
    for (_, bytes) in small_fixtures() {
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                drop(pairs(&flipped));
            }
        }
    }
}

#[test]
fn maps_that_are_not_inverse_are_told() {
    let bytes = python(3);
    let at = bytes.iter().rposition(|b| *b == b'h').unwrap();
    let mut swapped = bytes;
    swapped[at + 1] -= 1;
    assert!(!pairs(&swapped).unwrap().0.inverse);
}

proptest! {
    #[test]
    fn short_reads_and_long_strings_change_nothing(
        lengths in proptest::collection::vec(0_usize..3 * BUFFER_BYTES, 0..6),
        step in 1_usize..2 * BUFFER_BYTES,
    ) {
        struct Steps<'a>(&'a [u8], usize);
        impl Source for Steps<'_> {
            type Error = Infallible;

            fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
                let most = buffer.len().min(self.1);
                self.0.read(&mut buffer[..most])
            }
        }
        let ids: Vec<Vec<u8>> = lengths.iter().map(|length| vec![b'x'; *length]).collect();
        let mut bytes = b"\x80\x03}(X\x0e\0\0\0dimensionalityNX\x14\0\0\0total_elements_addedK\x09X\x0b\0\0\0label_to_id}".to_vec();
        bytes.extend(b"X\x0b\0\0\0id_to_label}(");
        for id in &ids {
            bytes.push(b'X');
            bytes.extend(u32::try_from(id.len()).unwrap().to_le_bytes());
            bytes.extend(id);
            bytes.extend(b"K\x07");
        }
        bytes.extend(b"uu.");
        let mut found = Vec::new();
        let limits = Limits::default();
        let metadata = read(Steps(&bytes, step), limits, &mut |id, label| found.push((id, label)));
        prop_assert_eq!(metadata.unwrap().bytes, bytes.len() as u64);
        let want: Vec<(u64, u64)> = ids.iter().map(|id| (hash(id), 7)).collect();
        prop_assert_eq!(found, want);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        drop(pairs(&bytes));
    }

    #[test]
    fn arbitrary_opcodes_never_panic(
        ops in proptest::collection::vec(
            proptest::sample::select(b"(.JKMNRXbchijoqrsu}\x80)\x81\x82\x8a\x8c\x8d\x92\x93\x94\x95\x01\x00".to_vec()),
            0..400,
        )
    ) {
        drop(pairs(&ops));
    }
}
