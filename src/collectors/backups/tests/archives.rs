//! Which archives are whole: cut at any length, packed in any way.

use super::*;

/// Lengths at which to cut: around every edge that matters, and many others.
fn cuts(len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..len).step_by((len / 60).max(1)).collect();
    cuts.extend((512..len).step_by(512 * (len / 512 / 60).max(1)));
    cuts.extend((1..len.min(40)).chain(len.saturating_sub(40)..len));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

#[test]
fn a_tar_that_was_cut_off_anywhere_is_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tar("-cf", &dir.path().join("a.tar"));
    assert_eq!(said("a.tar", &whole, false), Ok(whole.len() as u64));
    // GNU tar fills the last record with zeros: the end is behind the first two empty blocks after the last file.
    let data = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let end = data.next_multiple_of(512) + 1024;
    assert!(said("a.tar", &whole[..end], false).is_ok(), "busybox writes no more");
    for cut in cuts(end) {
        assert_eq!(reason(&said("a.tar", &whole[..cut], false)), Some(Reason::Damaged), "{cut}");
    }
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    assert_eq!(reason(&said("a.tar", &flipped, false)), Some(Reason::Damaged));
    // The same with a file of zeros at its end: every tail of it looks like the end of a tar.
    let mut zeros = whole[..data.next_multiple_of(512)].to_vec();
    zeros.extend(crate::format::tar::tests::header("zeros", "00000040000\0", b'0'));
    zeros.resize(zeros.len() + 16384 + 1024, 0);
    assert!(said("b.tar", &zeros, false).is_ok());
    for cut in (1..zeros.len() - 16384).rev().step_by(512).take(30) {
        assert_eq!(reason(&said("b.tar", &zeros[..cut + 8192], false)), Some(Reason::Damaged));
    }
    let empty = [0; 10_240];
    assert_eq!(reason(&said("c.tar", &empty, false)), Some(Reason::Damaged), "of nothing");
}

#[test]
fn long_names_sparse_files_and_folders_are_stepped_over() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(120)).join("y".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    fs::copy(fixture("chroma-1.5.9-empty/chroma.sqlite3"), deep.join("chroma.sqlite3")).unwrap();
    let sparse = File::create(deep.join("data_level0.bin")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    (&sparse).write_all(b"head").unwrap();
    symlink("chroma.sqlite3", deep.join("link")).unwrap();
    for flags in [&["--format=gnu"][..], &["--format=pax"], &["--format=gnu", "-S"]] {
        let path = dir.path().join("a.tar");
        let mut tar = Command::new("tar");
        tar.args(flags).arg("-cf").arg(&path).arg("-C").arg(dir.path()).arg("x".repeat(120));
        assert!(tar.status().unwrap().success());
        let bytes = fs::read(&path).unwrap();
        assert_eq!(said("a.tar", &bytes, false), Ok(bytes.len() as u64), "{flags:?}");
        let half = &bytes[..bytes.len() / 2];
        assert_eq!(reason(&said("a.tar", half, false)), Some(Reason::Damaged), "{flags:?}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_gzipped_tar_that_was_cut_off_anywhere_is_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tar("-czf", &dir.path().join("a.tar.gz"));
    for unpack in [true, false] {
        assert_eq!(said("a.tar.gz", &whole, unpack), Ok(whole.len() as u64), "{unpack}");
    }
    for cut in cuts(whole.len()) {
        let said = said("a.tar.gz", &whole[..cut], true);
        assert_eq!(reason(&said), Some(Reason::Damaged), "{cut}");
    }
    // Whole as gzip, but what was packed is not: the disk was full, or the pipe broke.
    let tar = tar("-cf", &dir.path().join("a.tar"));
    for cut in [512, 1024, 10_240, tar.len() / 2 / 512 * 512] {
        let said = said("a.tar.gz", &gzip(&tar[..cut]), true);
        assert_eq!(reason(&said), Some(Reason::Damaged), "{cut}");
    }
    // Zeros, packed and cut off: the tail is zeros.
    let mut zeros = gzip(&tar);
    zeros.truncate(zeros.len() - 100);
    zeros.extend([0; 100]);
    for unpack in [true, false] {
        assert_eq!(reason(&said("a.tar.gz", &zeros, unpack)), Some(Reason::Damaged), "{unpack}");
    }
    let nothing = gzip(b"");
    assert_eq!(reason(&said("a.gz", &nothing, true)), Some(Reason::Empty));
}

#[test]
fn what_is_packed_without_tar_is_told_by_what_it_is() {
    let database = fs::read(fixture("chroma-1.5.9-empty/chroma.sqlite3")).unwrap();
    let packed = gzip(&database);
    assert!(said("chroma.sqlite3.20260101.gz", &packed, true).is_ok());
    let short = gzip(&database[..database.len() - 4096]);
    assert_eq!(reason(&said("chroma.sqlite3.gz", &short, true)), Some(Reason::Damaged));
    for (dump, want) in [
        ("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCOMMIT;\n", None),
        ("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nINSERT INTO t VAL", Some(Reason::Damaged)),
        ("BEGIN TRANSACTION;\nROLLBACK; -- due to errors\n", Some(Reason::Damaged)),
    ] {
        let packed = gzip(dump.as_bytes());
        assert_eq!(reason(&said("chroma.sql.gz", &packed, true)), want, "{dump}");
        assert_eq!(reason(&said("chroma.sql", dump.as_bytes(), true)), want, "{dump}");
        assert_eq!(reason(&said("chroma.sql.gz", &packed, false)), Some(Reason::Unknown));
    }
    assert!(said("notes.gz", &gzip(b"its checksum is right"), true).is_ok());
    for (name, cut, want) in [
        ("chroma.sqlite3.20260101", 0, None),
        ("chroma_20260101.db", 0, None),
        ("chroma_20260101.db", 4096, Some(Reason::Damaged)),
        ("chroma.sqlite3.bak", 4096, Some(Reason::Damaged)),
        ("chroma.tar", 0, Some(Reason::Damaged)),
    ] {
        let said = said(name, &database[..database.len() - cut], true);
        assert_eq!(reason(&said), want, "{name} {cut}");
    }
    assert_eq!(reason(&said("chroma.gpg", b"\x85\x02\x0c\x03", true)), Some(Reason::Unknown));
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn other_archives_are_told_by_their_ends() {
    let dir = tempfile::tempdir().unwrap();
    let tar = tar("-cf", &dir.path().join("a.tar"));
    let script = "import sys,lzma,bz2,zipfile\nd=sys.argv[1]\nb=open(d+'/a.tar','rb').read()\n\
        open(d+'/a.tar.xz','wb').write(lzma.compress(b))\n\
        open(d+'/a.tar.bz2','wb').write(bz2.compress(b))\n\
        z=zipfile.ZipFile(d+'/a.zip','w',zipfile.ZIP_DEFLATED); z.writestr('chroma.sqlite3',b)\n\
        z.comment=b'nightly'; z.close()";
    let made = Command::new("python3").args(["-c", script]).arg(dir.path()).status();
    assert!(made.unwrap().success());
    // Two frames of stored blocks, one that is stepped over between them.
    let mut zst = Vec::new();
    for part in tar.chunks(tar.len() / 2 + 1) {
        zst.extend([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]);
        let blocks: Vec<_> = part.chunks(100_000).collect();
        for (at, block) in blocks.iter().enumerate() {
            let header = block.len() << 3 | usize::from(at + 1 == blocks.len());
            zst.extend(&header.to_le_bytes()[..3]);
            zst.extend(*block);
        }
        zst.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    }
    fs::write(dir.path().join("a.tar.zst"), zst).unwrap();
    for name in ["a.tar.xz", "a.tar.bz2", "a.zip", "a.tar.zst"] {
        let whole = fs::read(dir.path().join(name)).unwrap();
        for unpack in [true, false] {
            assert_eq!(said(name, &whole, unpack), Ok(whole.len() as u64), "{name} {unpack}");
        }
        let without_end = name == "a.tar.zst";
        for cut in cuts(whole.len()) {
            // A zstd file that ends with a frame is a zstd file.
            let frame = without_end && (cut + 11 == whole.len());
            let said = said(name, &whole[..cut], false);
            assert!(frame || reason(&said) == Some(Reason::Damaged), "{name} {cut}: {said:?}");
        }
        assert_eq!(reason(&said(name, b"something else", false)), Some(Reason::Damaged), "{name}");
    }
}
