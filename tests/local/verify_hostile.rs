//! Archives that somebody made to do harm, or that chance has: each gets a clear answer, nothing is written outside scratch, and memory
//! stays bounded.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use chroma_exporter::{
    clock,
    format::manifest::Restores,
    repair::{
        steps::Steps,
        verify::{self, Options, Verified},
    },
};
use flate2::{Compression, Crc, write::DeflateEncoder, write::GzEncoder};

use super::verify::{pack, tree};
use crate::support::{fixture, own_process, random::Random};

const ID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const BLOCK: usize = 512;

/// A header and its data, filled to whole blocks.
fn entry(name: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut out = header(name, kind, data.len() as u64, "");
    out.extend(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    if size < 1 << 33 {
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[136..148].copy_from_slice(b"14000000000\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

/// `times` times `piece`, packed without ever being there as a whole.
fn zst_of(first: &[u8], piece: &[u8], times: usize) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.write_all(first).unwrap();
    for _ in 0..times {
        out.write_all(piece).unwrap();
    }
    out.finish().unwrap()
}

/// How an entry of a zip lies.
#[derive(Clone, Copy)]
struct Lie {
    method: u16,
    flags: u16,
    crc: u32,
    bytes: i64,
    offset: u32,
    mode: u32,
}

const HONEST: Lie = Lie { method: 8, flags: 0, crc: 0, bytes: 0, offset: 0, mode: 0o100_644 };

fn zip(entries: &[(&str, &[u8], Lie)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data, lie) in entries {
        let mut crc = Crc::new();
        crc.update(data);
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(data).unwrap();
        let packed = packed.finish().unwrap();
        let offset = u32::try_from(out.len()).unwrap() + lie.offset;
        let bytes = u32::try_from(i64::try_from(data.len()).unwrap() + lie.bytes).unwrap();
        let mut common = lie.flags.to_le_bytes().to_vec();
        common.extend(lie.method.to_le_bytes());
        common.extend([0; 4]);
        common.extend((crc.sum() ^ lie.crc).to_le_bytes());
        common.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        common.extend(bytes.to_le_bytes());
        common.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        common.extend([0; 2]);
        out.extend(b"PK\x03\x04\x14\0");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(packed);
        directory.extend(b"PK\x01\x02\x14\x03\x14\0");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((lie.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, len) = (out.len(), directory.len());
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([0; 4]);
    out.extend(u32::try_from(len).unwrap().to_le_bytes());
    out.extend(u32::try_from(at).unwrap().to_le_bytes());
    out.extend([0; 2]);
    out
}

/// One archive: what it is, what is in it, what may be said of it, and a word of the answer.
struct Case {
    what: &'static str,
    bytes: Vec<u8>,
    restores: &'static [Restores],
    words: &'static str,
}

const NOT: &[Restores] = &[Restores::Not];
const UNKNOWN: &[Restores] = &[Restores::Unknown];
const BAD: &[Restores] = &[Restores::Not, Restores::Unknown];
const LOSS: &[Restores] = &[Restores::WithLosses, Restores::Not];
const ANY: &[Restores] = &[Restores::Whole, Restores::WithLosses];

fn case(
    what: &'static str,
    bytes: Vec<u8>,
    restores: &'static [Restores],
    words: &'static str,
) -> Case {
    Case { what, bytes, restores, words }
}

fn names(database: &[u8]) -> Vec<Case> {
    let file = |name: &str| entry(name, b'0', database);
    let linked = |kind, link| tar(&[header("chroma.sqlite3", kind, 0, link)]);
    let missing = "no chroma.sqlite3 is in it";
    vec![
        case("a name that leads out", tar(&[file("../chroma.sqlite3")]), NOT, missing),
        case("a name that leads out later", tar(&[file("a/../../chroma.sqlite3")]), NOT, missing),
        case(
            "one that leads out beside a good one",
            tar(&[file("../../etc/chroma.sqlite3"), file("chroma.sqlite3")]),
            LOSS,
            "lead out of the archive",
        ),
        case("an absolute name", tar(&[file("/tmp/verify-hostile-evil/chroma.sqlite3")]), ANY, ""),
        case("a name with a backslash", tar(&[file("a\\chroma.sqlite3")]), NOT, missing),
        case("a name that drives a terminal", tar(&[file("\x1b[2J\n/chroma.sqlite3")]), ANY, ""),
        case(
            "names that differ only in case",
            tar(&[file("CHROMA.SQLITE3"), file("Chroma.sqlite3")]),
            NOT,
            missing,
        ),
        case(
            "a folder in upper case",
            tar(&[
                file("chroma.sqlite3"),
                entry(&format!("{}/header.bin", ID.to_uppercase()), b'0', b"x"),
            ]),
            ANY,
            "",
        ),
        case("a link to a file", linked(b'2', "/etc/passwd"), NOT, "no regular file"),
        case("another name of a file", linked(b'1', "/etc/passwd"), NOT, "another name of a file"),
        case("a character device", linked(b'3', ""), NOT, "no regular file"),
        case("a block device", linked(b'4', ""), NOT, "no regular file"),
        case("a pipe", linked(b'6', ""), NOT, "no regular file"),
        case("a directory of its name", linked(b'5', ""), NOT, "no regular file"),
        case(
            "a link in place of a folder",
            tar(&[
                header(ID, b'2', 0, "/tmp"),
                entry(&format!("{ID}/header.bin"), b'0', b"x"),
                file("chroma.sqlite3"),
            ]),
            ANY,
            "",
        ),
        case(
            "a link in place of the directory",
            tar(&[header("srv", b'2', 0, "../.."), file("srv/chroma.sqlite3")]),
            ANY,
            "",
        ),
        case(
            "a database twice, the second one garbage",
            tar(&[file("chroma.sqlite3"), entry("chroma.sqlite3", b'0', b"garbage")]),
            NOT,
            "twice",
        ),
        case(
            "stores in a hundred places",
            tar(&(0..100).map(|n| file(&format!("{n}/chroma.sqlite3"))).collect::<Vec<_>>()),
            BAD,
            "more than 64 places",
        ),
    ]
}

fn sizes(database: &[u8]) -> Vec<Case> {
    let lies = |size| tar(&[header("chroma.sqlite3", b'0', size, ""), database.to_vec()]);
    let records =
        |text: &str| entry("pax", b'x', format!("{} {text}\n", text.len() + 4).as_bytes());
    let file = entry("chroma.sqlite3", b'0', database);
    let folders: Vec<Vec<u8>> = (0..21_000_u128)
        .map(|n| {
            let id = format!("{n:032x}");
            let id = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
            header(&format!("{id}/link_lists.bin"), b'0', 0, "")
        })
        .collect();
    let links = format!("{ID}/link_lists.bin");
    vec![
        case("a size of 4 EiB", lies(1 << 62), UNKNOWN, "has room for"),
        case("a size of all bits", lies(u64::MAX), BAD, ""),
        case("a size of 1 TiB", lies(1 << 40), BAD, ""),
        case(
            "a size in a pax record",
            tar(&[records("size=1000000000000000000"), file.clone()]),
            BAD,
            "",
        ),
        case(
            "a name of 10 GiB",
            tar(&[header("././@LongLink", b'L', 10 << 30, ""), file.clone()]),
            NOT,
            "cut off",
        ),
        case(
            "a pax header of 1 GiB",
            tar(&[header("pax", b'x', 1 << 30, ""), file.clone()]),
            NOT,
            "cut off",
        ),
        case(
            "a sparse file of GNU",
            tar(&[header("chroma.sqlite3", b'S', database.len() as u64, ""), database.to_vec()]),
            UNKNOWN,
            "tar --sparse",
        ),
        case(
            "a sparse file of pax",
            tar(&[records("GNU.sparse.major=1"), file.clone()]),
            UNKNOWN,
            "tar --sparse",
        ),
        case("21,000 folders", gz(&tar(&folders)), NOT, "more than 20000 folders"),
        case(
            "a million entries",
            zst_of(&[], &header("x", b'0', 0, ""), 1_000_000),
            NOT,
            "no chroma.sqlite3",
        ),
        case(
            "a million entries and one that counts",
            [zst_of(&[], &header("x", b'0', 0, ""), 1_000_000), zst(&tar(&[file]))].concat(),
            ANY,
            "",
        ),
        case(
            "zeros without end",
            zst_of(&header(&links, b'0', 9 << 30, ""), &vec![0; 64 << 20], 144),
            NOT,
            "are zeros",
        ),
        case(
            "a database of one letter",
            zst_of(&header("chroma.sqlite3", b'0', 512 << 20, ""), &vec![b'A'; 1 << 20], 513),
            NOT,
            "",
        ),
        case(
            "a manifest of 60 MB",
            zst_of(&header("manifest.json", b'0', 60 << 20, ""), &vec![b'['; 1 << 20], 61),
            NOT,
            "",
        ),
    ]
}

fn packed(database: &[u8]) -> Vec<Case> {
    let good = tar(&[entry("chroma.sqlite3", b'0', database)]);
    let mut window = b"\x28\xb5\x2f\xfd\x00\xa8".to_vec();
    window.extend([0x01, 0, 0]);
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    let mut random = Random(7);
    let noise: Vec<u8> = (0..100_000).map(|_| random.byte()).collect();
    let mut flipped = gz(&good);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    vec![
        case("no byte", Vec::new(), NOT, "it has no bytes"),
        case("zeros", vec![0; 100_000], NOT, "begins with zeros"),
        case("noise", noise, NOT, "does not begin as"),
        case("a text", b"hello, this is no archive".to_vec(), NOT, "does not begin as"),
        case("gzip in gzip", gz(&gz(&good)), UNKNOWN, "once more"),
        case(
            "a zip in zstd",
            zst(&zip(&[("chroma.sqlite3", database, HONEST)])),
            UNKNOWN,
            "once more",
        ),
        case("a window of 2 GiB", window, UNKNOWN, "too much memory"),
        case("half a gzip", half(gz(&good)), LOSS, "cut off"),
        case("half a zstd", half(zst(&good)), BAD, ""),
        case("half a tar", half(good), NOT, "cut off within chroma.sqlite3"),
        case("a header that is damaged", checksum, BAD, ""),
        case("a bit of the middle of a gzip", flipped, &[Restores::Not, Restores::WithLosses], ""),
    ]
}

fn zips(database: &[u8]) -> Vec<Case> {
    let one = |lie| zip(&[("chroma.sqlite3", database, lie)]);
    let good = one(HONEST);
    let mut many = good.clone();
    many.truncate(many.len() - 22);
    let at = u32::try_from(many.len()).unwrap();
    let mut line = b"PK\x01\x02\x14\x03\x14\0".to_vec();
    line.resize(46, 0);
    line[28] = 1;
    line.push(b'x');
    for _ in 0..1_000_000 {
        many.extend(&line);
    }
    let len = u32::try_from(many.len()).unwrap() - at;
    many.extend(b"PK\x05\x06\0\0\0\0\0\0\0\0");
    many.extend(len.to_le_bytes());
    many.extend(at.to_le_bytes());
    many.extend([0; 2]);
    vec![
        case("a zip", good.clone(), ANY, ""),
        case("a zip without its end", good[..good.len() - 30].to_vec(), NOT, "cut off"),
        case("a zip with a wrong checksum", one(Lie { crc: 1, ..HONEST }), LOSS, "checksum"),
        case(
            "a zip whose content is elsewhere",
            one(Lie { offset: 1 << 30, ..HONEST }),
            NOT,
            "leads nowhere",
        ),
        case("a zip whose content is longer", one(Lie { bytes: -4096, ..HONEST }), LOSS, ""),
        case(
            "a zip whose content is shorter",
            one(Lie { bytes: 1 << 20, ..HONEST }),
            LOSS,
            "cut off",
        ),
        case("a zip that is encrypted", one(Lie { flags: 1, ..HONEST }), UNKNOWN, "encrypted"),
        case(
            "a zip of a method that nobody knows",
            one(Lie { method: 97, ..HONEST }),
            UNKNOWN,
            "method 97",
        ),
        case("a zip with a link", one(Lie { mode: 0o120_777, ..HONEST }), NOT, "no regular file"),
        case(
            "a zip that leads out",
            zip(&[("../chroma.sqlite3", database, HONEST)]),
            NOT,
            "no chroma.sqlite3",
        ),
        case("a zip with a million entries", many, NOT, "no chroma.sqlite3"),
        case("a zip of zeros", zip(&[("chroma.sqlite3", &vec![0; 256 << 20], HONEST)]), NOT, ""),
    ]
}

fn answer(backup: &Path) -> Verified {
    verify::run(backup, &Options::default(), &Steps::default(), clock::now())
}

/// `VmHWM`, the most memory since it was reset, or `VmRSS`.
fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn hostile_archives_get_an_answer_and_nothing_else() {
    if !own_process::is_mine("verify_hostile::hostile_archives_get_an_answer_and_nothing_else") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9-empty", place.path());
    let database = fs::read(dir.join("chroma.sqlite3")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let backups = place.path().join("a/b/c");
    fs::create_dir_all(&backups).unwrap();
    let mut count = 0;
    for cases in [names, sizes, packed, zips] {
        for Case { what, bytes, restores, words } in cases(&database) {
            let path = backups.join("backup");
            fs::write(&path, &bytes).unwrap();
            drop(bytes);
            let before = tree(place.path());
            fs::write("/proc/self/clear_refs", "5").unwrap();
            let without = status_kib("VmRSS");
            let verified = answer(&path);
            let peak = status_kib("VmHWM").saturating_sub(without);
            let reported: Vec<String> = verified.losses.iter().map(ToString::to_string).collect();
            let reported = reported.join("; ");
            println!("{what}: {:?}, {} MiB: {reported}", verified.restores, peak / 1024);
            assert!(
                restores.contains(&verified.restores),
                "{what}: {:?} {reported}",
                verified.restores
            );
            assert!(reported.contains(words), "{what}: {reported}");
            assert_eq!(tree(place.path()), before, "{what}: something was written, or left");
            assert!(peak <= PEAK_KIB_MAX, "{what}: {peak} KiB");
            count += 1;
        }
    }
    assert!(!Path::new("/tmp/verify-hostile-evil").exists());
    assert!(count >= 40, "{count}");
}

/// The program itself takes 10 MiB, and 64 MiB are the most. This test program has all archives of a kind in memory.
const PEAK_KIB_MAX: u64 = 54 * 1024;

#[test]
fn a_journal_that_names_another_file_is_not_played() {
    let place = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9-hot-journal", place.path());
    let victim = place.path().join("victim");
    fs::write(&victim, "dear").unwrap();
    let name = victim.to_str().unwrap().as_bytes();
    let mut journal = fs::read(dir.join("chroma.sqlite3-journal")).unwrap();
    journal.extend((0x4000_0000_u32 / 4096 + 1).to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    let sum: u32 = name.iter().map(|byte| u32::from(*byte)).sum();
    journal.extend(sum.to_be_bytes());
    journal.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(dir.join("chroma.sqlite3-journal"), journal).unwrap();
    for backup in [dir.clone(), pack(&dir, "tar")] {
        let verified = answer(&backup);
        assert_ne!(verified.restores, Restores::Whole);
        let reported: Vec<String> = verified.losses.iter().map(ToString::to_string).collect();
        assert!(reported.iter().any(|words| words.contains("names another file")), "{reported:?}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "dear");
    }
}

/// Bytes of a header of xz that ask for a dictionary of 4 GiB.
#[test]
fn a_dictionary_that_is_too_large_is_refused_before_it_is_made() {
    let place = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", place.path());
    let path: PathBuf = pack(&dir, "tar.xz");
    let mut bytes = fs::read(&path).unwrap();
    let len = (usize::from(bytes[12]) + 1) * 4;
    let at = bytes[12..12 + len].windows(2).position(|pair| pair == [0x21, 1]).unwrap() + 12;
    bytes[at + 2] = 40;
    let mut crc = Crc::new();
    crc.update(&bytes[12..12 + len - 4]);
    bytes[12 + len - 4..12 + len].copy_from_slice(&crc.sum().to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let verified = answer(&path);
    assert_eq!(verified.restores, Restores::Unknown, "{:?}", verified.losses);
    assert!(verified.losses[0].words.contains("too much memory"), "{:?}", verified.losses);
}
