//! Every parser of foreign bytes against a flood of damaged ones: real files of the fixtures and of this host, cut at every
//! length, and mutated by bits, bytes, cuts, splices and extreme numbers. No panic, no endless loop, no memory beyond a
//! bound. It is what fuzzing does without its feedback (`fuzz/`), in seconds; `FUZZ_ROUNDS=1000000
//! FUZZ_SEED=7 cargo test --release --test local fuzz::` searches for longer.
//!
//! The parsers run in a process of their own, whose address space and processor time the kernel bounds
//! ([`own_process`]).

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use chroma_exporter::format::hnsw::Header;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::support::{
    fixture, own_process,
    parsers::{Target, here, paths, targets},
    random::Random,
    run,
};

/// Changes an input in one to four ways.
fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            bytes.extend_from_slice(other);
            continue;
        }
        let at = random.place(bytes.len());
        let end = (at + random.place(64) + 1).min(bytes.len());
        match random.below(10) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                for _ in 0..=random.below(8) {
                    bytes.splice(at..at, part.iter().copied());
                }
            }
            5 => {
                let from = random.place(other.len().max(1)).min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 | 7 => {
                // Numbers at the edges of their types, in both orders of bytes.
                let number = EDGES[random.place(EDGES.len())];
                let width = [1, 2, 4, 8][random.place(4)];
                let little = number.to_le_bytes();
                let mut part = little[..width].to_vec();
                if random.below(2) == 0 {
                    part.reverse();
                }
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, part);
            }
            8 => bytes[at..end].fill(if random.below(2) == 0 { 0 } else { 0xff }),
            _ => {
                let word = WORDS[random.place(WORDS.len())];
                bytes.splice(at..end, word.bytes());
            }
        }
        bytes.truncate(INPUT_MAX);
    }
    bytes
}

const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    1 << 40,
];
const WORDS: [&str; 12] = [
    "18446744073709551616",
    "-1",
    "1e999",
    "null",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":",
    "\u{0}",
    "é",
    "\n",
    "  - ",
    "\"",
    "&a *a",
];
const INPUT_MAX: usize = 1 << 17;

/// Where an input of `len` bytes is cut: everywhere in its first and last KiB, and around every `step` in between.
fn cuts(len: usize, step: usize) -> Vec<usize> {
    let edge = |at: &usize| *at <= 1024 || *at + 1024 >= len || (*at + 1) % step <= 2;
    (0..len).filter(edge).collect()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Bounds what this process may take; what breaks a bound ends it.
fn bound_myself() {
    let bound = |resource, most: u64| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).unwrap();
    };
    // The corpus and the test harness take some 60 MB of it.
    bound(Resource::As, 512 << 20);
    bound(Resource::Cpu, 600);
    bound(Resource::Core, 0);
    std::panic::set_hook(Box::new(|_| {}));
}

/// Gives one input to one parser; says which, when that fails. What kills the process outright is known by the line
/// before.
fn try_one(target: &Target, what: &str, input: &[u8]) {
    let parse = AssertUnwindSafe(|| (target.parse)(input));
    if let Err(panic) = catch_unwind(parse) {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let path = std::env::temp_dir().join(format!("fuzz-{}", target.name.replace(' ', "-")));
        fs::write(&path, input).unwrap();
        println!("{}: {what}: {said:?}; the input is in {}", target.name, path.display());
        std::io::stdout().flush().unwrap();
        std::process::exit(3);
    }
}

#[test]
fn mutated_input_makes_no_parser_panic_hang_or_hoard() {
    if !own_process::is_mine("fuzz::mutated_input_makes_no_parser_panic_hang_or_hoard") {
        return;
    }
    let targets = targets();
    bound_myself();
    let (rounds, seed) = (number("FUZZ_ROUNDS", 2000), number("FUZZ_SEED", 1));
    for target in &targets {
        println!("{}, seed {seed}", target.name);
        let mut random = Random(seed * 0x9e37_79b9 + target.name.len() as u64 + 1);
        for round in 0..rounds {
            let input = &target.corpus[random.place(target.corpus.len())];
            let other = &target.corpus[random.place(target.corpus.len())];
            let input = mutate(input, other, &mut random);
            try_one(target, &format!("round {round}"), &input);
        }
    }
}

#[test]
fn input_cut_at_every_length_makes_no_parser_panic_hang_or_hoard() {
    if !own_process::is_mine("fuzz::input_cut_at_every_length_makes_no_parser_panic_hang_or_hoard")
    {
        return;
    }
    let targets = targets();
    bound_myself();
    for target in &targets {
        println!("{}", target.name);
        let step = match target.name {
            "hnsw elements" | "pickle" => 172,
            "hnsw links" | "hnsw norms" => 68,
            "tar" => 65_536,
            _ => 512,
        };
        for (at, input) in target.corpus.iter().enumerate() {
            for length in cuts(input.len(), step) {
                try_one(target, &format!("input {at} cut to {length} bytes"), &input[..length]);
            }
        }
    }
}

#[test]
fn the_program_survives_every_cut_file_and_tells_of_it() {
    let mut looks = 0;
    for name in ["chroma-1.5.9", "chroma-0.6.3"] {
        let whole = here("tests/fixtures").join(name);
        let folder = paths("header.bin").into_iter().find(|path| path.starts_with(&whole)).unwrap();
        let folder = folder.parent().unwrap().strip_prefix(&whole).unwrap().to_owned();
        for file in [
            "header.bin",
            "data_level0.bin",
            "length.bin",
            "link_lists.bin",
            "index_metadata.pickle",
            "",
        ] {
            let file =
                if file.is_empty() { PathBuf::from("chroma.sqlite3") } else { folder.join(file) };
            let len = fs::metadata(whole.join(&file)).unwrap().len();
            for cut in [0, 1, len / 3, len / 2 + 1, len - 1] {
                let scratch = tempfile::tempdir().unwrap();
                let dir = fixture(name, scratch.path());
                fs::File::options()
                    .write(true)
                    .open(dir.join(&file))
                    .unwrap()
                    .set_len(cut)
                    .unwrap();
                let path = dir.to_str().unwrap();
                let out =
                    run(&["check", "--output", "json", "--state.dir", "", "--store.path", path]);
                let case = format!("{name}/{} cut to {cut} of {len} bytes", file.display());
                let text = String::from_utf8_lossy(&out.stdout);
                let document: serde_json::Value = serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("{case}: {error}: {text}"));
                let complaint = [&text, &*String::from_utf8_lossy(&out.stderr)].concat();
                assert!(!complaint.contains("panic"), "{case}: {complaint}");
                // What lies behind the last element is room for more; its loss means nothing.
                let head = fs::read(whole.join(file.with_file_name("header.bin")));
                let header = head.ok().and_then(|head| Header::parse(&head).ok());
                let needed =
                    header.map_or(len, |header| match file.file_name().and_then(OsStr::to_str) {
                        Some("data_level0.bin") => header.level0_bytes(),
                        Some("length.bin") => header.lengths_bytes(),
                        _ => len,
                    });
                let room = cut >= needed;
                assert!(room || document["status"] == "critical", "{case}: {text}");
                looks += 1;
            }
        }
    }
    assert_eq!(looks, 60);
}
