//! Every parser of foreign bytes, with real input for it: for the flood of damaged input in `tests/local/fuzz.rs`, and for
//! fuzzing with feedback (`fuzz/`).
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use chroma_exporter::{
    config::{self, Overrides},
    facts::duration,
    format::{
        access::AccessList,
        accounts::Accounts,
        api, archive, backup_name,
        btree::{Geometry, Page, Trunk},
        config as rows,
        hnsw::{HEADER_LEN, Header, Labels, LengthWalk, Level0Walk, LinkWalk, Pair},
        journal::{self, JournalHeader, Start},
        log::Scanner,
        parts, pickle, proc, programs, python,
        queue::Row,
        record::{Fields, Value},
        schema::{self, Applied, Dir, Family, Schema},
        sqlite::SqliteHeader,
        tar::{self, Block},
        zip,
    },
};
use rusqlite::Connection;

use super::random::Random;

/// One parser, with real input for it.
pub struct Target {
    pub name: &'static str,
    pub corpus: Vec<Vec<u8>>,
    pub parse: fn(&[u8]),
}

/// All of them.
pub fn targets() -> Vec<Target> {
    bytes_targets().into_iter().chain(text_targets()).collect()
}

const fn of(name: &'static str, corpus: Vec<Vec<u8>>, parse: fn(&[u8])) -> Target {
    Target { name, corpus, parse }
}

fn bytes_targets() -> Vec<Target> {
    vec![
        of("sqlite header", heads("chroma.sqlite3", 200), |bytes| {
            if let Ok(header) = SqliteHeader::parse(bytes) {
                seen((header.pages(), header.stated_bytes(), header.free_bytes()));
            }
        }),
        of("b-tree pages", files("chroma.sqlite3"), read_trees),
        of("journal", heads("chroma.sqlite3-journal", 20_000), walk_journal),
        of("hnsw header", files("header.bin"), |bytes| seen(Header::parse(bytes))),
        of("hnsw elements", behind_header("data_level0.bin"), walk_elements),
        of("hnsw norms", behind_header("length.bin"), walk_norms),
        of("hnsw links", behind_header("link_lists.bin"), walk_links),
        of("pickle", files("index_metadata.pickle"), read_pickle),
        of("process table", process_texts(), read_process_texts),
        of("python package", package_texts(), |bytes| {
            assert!(python::package_dirs(bytes, "chromadb").len() <= python::DIRS_MAX);
            let version = python::version_of(bytes);
            seen(version.map(schema::parse_release));
            seen(python::is_metadata_of(OsStr::new(&*lossy(bytes)), "chromadb"));
        }),
        of(
            "accounts",
            vec![b"root:x:0:0:root:/root:/bin/sh\nchroma:x:999:999::/:\n".to_vec()],
            |bytes| {
                let accounts = Accounts { passwd: bytes, group: bytes };
                if let Some(user) = accounts.user("chroma").or_else(|| accounts.user_by_id(0)) {
                    seen(accounts.groups_of(user));
                }
                seen(accounts.group_id("chroma"));
            },
        ),
        of("access list", access_lists(), |bytes| {
            if let Ok(list) = AccessList::parse(bytes) {
                seen((list.digest(), list.digest_whole()));
            }
        }),
        of("archives", archives(), read_archives),
        of("tar", vec![tar_of_fixture()], |bytes| {
            for block in bytes.as_chunks::<{ tar::BLOCK_LEN }>().0 {
                if let Block::Header(header) = Block::parse(block) {
                    seen(tar::padded(header.data_bytes));
                }
                seen(tar::sparse_map_goes_on(block));
                assert!(tar::pax_records(block).count() <= block.len());
            }
        }),
    ]
}

fn text_targets() -> Vec<Target> {
    vec![
        of("log", logs(), |bytes| {
            let mut scanner = Scanner::default();
            scanner.begin_file();
            bytes.split(|byte| *byte == b'\n').for_each(|line| scanner.line(line));
            assert!(scanner.is_empty() || scanner.counts.iter().sum::<u64>() > 0);
        }),
        of("api answers", answers(), |bytes| {
            seen((api::count(bytes), api::is_heartbeat(bytes)));
            assert!(api::version(bytes).is_none_or(|version| version.len() < 1000));
            assert!(api::message(bytes).len() < 10_000);
        }),
        of(
            "collection configurations",
            texts("SELECT config_json_str FROM collections"),
            |bytes| {
                for family in [Family::Oldest, Family::Python, Family::Rust, Family::Unknown] {
                    seen(rows::judge_config(&lossy(bytes), family));
                }
            },
        ),
        of("collection schemas", texts("SELECT schema_str FROM collections"), |bytes| {
            seen(rows::judge_schema(&lossy(bytes)));
        }),
        of(
            "queue configurations",
            texts("SELECT config_json_str FROM embeddings_queue_config"),
            |bytes| {
                seen(rows::judge_queue_config(&lossy(bytes)));
            },
        ),
        of("queue rows", texts("SELECT metadata FROM embeddings_queue"), |bytes| {
            let text = lossy(bytes);
            for family in [Family::Oldest, Family::Python, Family::Rust, Family::Unknown] {
                let row = Row {
                    operation: Some(i64::from(bytes.len() % 5 == 0)),
                    vector_bytes: Some(bytes.len() as u64),
                    encoding: Some(if bytes.len() % 2 == 0 { "FLOAT32" } else { &text }),
                    metadata: Some(&text),
                };
                assert!(row.fault(family).is_none_or(|fault| !fault.is_empty()));
            }
        }),
        of(
            "migrations",
            texts("SELECT dir || '|' || version || '|' || hash || '|' || sql FROM migrations"),
            |bytes| {
                let text = lossy(bytes);
                let applied = text.lines().filter_map(|line| {
                    let mut parts = line.splitn(4, '|');
                    let dir = Dir::ALL
                        .into_iter()
                        .find(|dir| Some(dir.as_str()) == parts.clone().next())?;
                    let version = parts.nth(1)?.parse().ok()?;
                    let (hash, sql) = (parts.next()?.to_owned(), parts.next()?.to_owned());
                    Some(Applied { dir, version, hash, sql })
                });
                let schema = Schema { applied: Some(applied.collect()), ..Schema::default() };
                seen(schema.faults());
                seen(schema::skew(&text, schema.counts()));
            },
        ),
        of(
            "backup names",
            vec![
                b"chroma_db.backup.2026-11-26T07-35.tar.gz".to_vec(),
                b"chroma-20261126.zip".to_vec(),
                b"1795000000.tar".to_vec(),
            ],
            |bytes| {
                seen(backup_name::date_in(&lossy(bytes)));
                seen(archive::ArchiveKind::of_name(&lossy(bytes)));
            },
        ),
        of("durations", vec![b"1h30m".to_vec(), b"250ms".to_vec(), b"1d".to_vec()], |bytes| {
            if let Some(duration) = duration::parse(&lossy(bytes)) {
                assert_eq!(duration::parse(&duration::format(duration)), Some(duration));
            }
        }),
        of(
            "configuration",
            vec![fs::read(here("chroma_exporter.example.yml")).unwrap()],
            read_configuration,
        ),
    ]
}

/// A result that was had is all that is asked for.
fn seen<T>(_: T) {}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

pub fn here(path: &str) -> PathBuf {
    // Of the program, or of a package in a folder of it.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().map(|dir| dir.join(path)).find(|path| path.exists()).unwrap()
}

/// Every file of this name in the fixtures.
pub fn paths(name: &str) -> Vec<PathBuf> {
    fn below(dir: &Path, name: &str, out: &mut Vec<PathBuf>) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                below(&path, name, out);
            } else if path.file_name() == Some(OsStr::new(name)) {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    below(&here("tests/fixtures"), name, &mut out);
    out.sort();
    assert!(!out.is_empty(), "{name}");
    out
}

fn files(name: &str) -> Vec<Vec<u8>> {
    paths(name).iter().map(|path| fs::read(path).unwrap()).collect()
}

fn heads(name: &str, bytes_max: usize) -> Vec<Vec<u8>> {
    files(name)
        .into_iter()
        .map(|mut bytes| {
            bytes.truncate(bytes_max);
            bytes
        })
        .collect()
}

/// The header of a folder, and behind it another of its files.
fn behind_header(name: &str) -> Vec<Vec<u8>> {
    let both = |path: PathBuf| {
        let mut bytes = fs::read(path.with_file_name("header.bin")).unwrap();
        assert_eq!(bytes.len(), HEADER_LEN);
        bytes.extend(fs::read(path).unwrap());
        bytes
    };
    paths(name).into_iter().map(both).collect()
}

/// Texts that a question to the fixtures gives, one input per fixture; a release may lack the column.
fn texts(sql: &str) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for path in paths("chroma.sqlite3") {
        let scratch = tempfile::tempdir().unwrap();
        let copy = scratch.path().join("chroma.sqlite3");
        fs::copy(path, &copy).unwrap();
        let database = Connection::open(copy).unwrap();
        let Ok(mut statement) = database.prepare(sql) else { continue };
        let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0)).unwrap();
        let found: Vec<String> = rows.filter_map(|row| row.ok().flatten()).collect();
        out.extend(found.first().map(|first| first.clone().into_bytes()));
        out.push(found.join("\n").into_bytes());
    }
    assert!(out.iter().any(|text| !text.is_empty()), "{sql}");
    out
}

fn process_texts() -> Vec<Vec<u8>> {
    let names = ["stat", "status", "limits", "mountinfo", "statm", "cmdline", "fdinfo/0"];
    let own = names.iter().map(|name| fs::read(format!("/proc/self/{name}")).unwrap());
    let global = ["/proc/locks", "/proc/stat"].iter().map(|path| fs::read(path).unwrap());
    let lock = b"1: POSIX  ADVISORY  WRITE 4711 fe:00:1234 1073741824 1073742335\n".to_vec();
    own.chain(global).chain([lock]).collect()
}

fn read_process_texts(bytes: &[u8]) {
    seen(proc::parse_stat(bytes));
    seen(proc::parse_status(bytes));
    seen(proc::parse_resident_pages(bytes));
    seen(proc::parse_open_files_limit(bytes));
    seen(proc::parse_fdinfo_mount(bytes));
    seen(proc::parse_boot_time(bytes));
    seen(proc::parse_mountinfo(bytes));
    assert!(proc::parse_locks(bytes).count() <= bytes.len());
    let arguments = proc::parse_cmdline(bytes);
    seen(programs::is_chroma_server(&arguments));
    seen(programs::may_embed_chroma("python3", &arguments));
    seen(programs::is_spawned_worker(&arguments));
}

fn package_texts() -> Vec<Vec<u8>> {
    let library = b"7f00-7f01 r-xp 00000000 fe:00 12 /opt/venv/lib/python3.11/site-packages/chromadb_rust_bindings/x.so\n";
    let metadata =
        b"Metadata-Version: 2.1\nName: chromadb\nVersion: 1.5.9\nSummary: x\n\nVersion: 0\n";
    vec![
        library.to_vec(),
        metadata.to_vec(),
        b"chromadb-1.5.9.dist-info".to_vec(),
        fs::read("/proc/self/maps").unwrap(),
    ]
}

fn access_lists() -> Vec<Vec<u8>> {
    let entry = |tag: u16, bits: u16, id: u32| {
        [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let list = [
        entry(1, 6, u32::MAX),
        entry(2, 4, 1000),
        entry(4, 4, u32::MAX),
        entry(8, 6, 33),
        entry(16, 6, u32::MAX),
        entry(32, 0, u32::MAX),
    ];
    vec![[&2_u32.to_le_bytes()[..], &list.concat()].concat()]
}

fn tar_of_fixture() -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(["-c", "-C"]).arg(here("tests/fixtures")).arg("chroma-1.5.9");
    command.output().unwrap().stdout
}

fn archives() -> Vec<Vec<u8>> {
    let packed = |program: &str| {
        let path = here("tests/fixtures/README.md");
        Command::new(program)
            .arg("-c")
            .arg(path)
            .stderr(Stdio::null())
            .output()
            .map(|out| out.stdout)
    };
    let mut out: Vec<Vec<u8>> =
        ["gzip", "bzip2", "xz", "zstd"].iter().filter_map(|program| packed(program).ok()).collect();
    let mut zip = b"PK\x05\x06".to_vec();
    zip.extend([0; 18]);
    out.push(zip);
    out.push(vec![0x28, 0xb5, 0x2f, 0xfd, 0x24, 5, 41, 0, 0, b'h', b'e', b'l', b'l', b'o']);
    out
}

fn read_archives(bytes: &[u8]) {
    seen(archive::ArchiveKind::of_bytes(bytes));
    if let Some(tail) = bytes.last_chunk::<4>() {
        seen(archive::GzipEnd::parse(*tail, bytes.len() as u64));
    }
    seen(archive::ends_xz(bytes, |part| part.iter().fold(0, |sum, byte| sum ^ u32::from(*byte))));
    seen((archive::ends_bzip2(bytes), zip::end(bytes), zip::end_of_zip64(bytes)));
    assert!(zip::entries(bytes).count() <= bytes.len());
    if let Some(head) = bytes.first_chunk::<{ zip::FILE_LEN }>() {
        seen((zip::file_lengths(head), zip::file(head, bytes, bytes)));
    }
    seen(bytes.first_chunk::<{ zip::LOCAL_LEN }>().and_then(zip::content_at));
    if let parts::Named::Of(place) = parts::Named::parse(bytes) {
        assert!(!place.path.contains("..") && !place.path.starts_with('/'));
    }
    seen(archive::ZstdFrame::parse(bytes));
    if let Some(block) = bytes.first_chunk::<3>() {
        seen(archive::zstd_block(*block));
    }
    let range =
        archive::tail_range(bytes.len() as u64, usize::from(bytes.first().copied().unwrap_or(0)));
    assert!(range.end == bytes.len() as u64 && range.start <= range.end);
}

fn logs() -> Vec<Vec<u8>> {
    let lines = "thread 'main' panicked at rust/sqlite/src/db.rs:157:42:\nrange start index 10 out of range for slice of length 9\n\
        \u{1b}[31mERROR\u{1b}[0m chromadb.api: (code: 11) database disk image is malformed\n\
        INFO:     127.0.0.1:5000 - \"POST /api/v2/tenants HTTP/1.1\" 200\n\
        {\"level\":\"error\",\"message\":\"(code: 1032) attempt to write a readonly database\"}\n";
    vec![lines.as_bytes().to_vec()]
}

fn answers() -> Vec<Vec<u8>> {
    [
        "{\"nanosecond heartbeat\":1795000000000000000}",
        "\"1.5.9\"",
        "330",
        "{\"error\":\"InternalError\",\"message\":\"x\"}",
        "{\"detail\":[{\"msg\":\"y\"}]}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// Hands `bytes` on in pieces whose lengths depend on them.
fn pieces(bytes: &[u8], mut push: impl FnMut(&[u8])) {
    let mut rest = bytes;
    let mut random = Random(bytes.len() as u64 * 2 + 1);
    while !rest.is_empty() {
        let most = if random.below(4) == 0 { 7 } else { 5000 };
        let wanted = 1 + random.below(most);
        let (piece, more) = rest.split_at(usize::try_from(wanted).unwrap().min(rest.len()));
        push(piece);
        rest = more;
    }
}

fn with_header(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEADER_LEN)?;
    Some((Header::parse(head).ok()?, rest))
}

fn walk_elements(bytes: &[u8]) {
    let Some((header, rest)) = with_header(bytes) else { return };
    let pairs: Vec<Pair> =
        (1..200).map(|label| Pair { label: label % 190, id: label * 7 }).collect();
    let mut labels = Labels::new(pairs, header.elements);
    let mut walk = Level0Walk::new(header);
    pieces(rest, |piece| walk.push(piece, &mut |element| labels.note(element)));
    assert!(walk.seen() <= header.elements && walk.deleted() <= walk.seen());
    seen((walk.problems().line(), labels.finish()));
}

fn walk_norms(bytes: &[u8]) {
    let Some((header, rest)) = with_header(bytes) else { return };
    let mut walk = LengthWalk::new(&header);
    pieces(rest, |piece| walk.push(piece));
    seen(walk.problems().line());
}

fn walk_links(bytes: &[u8]) {
    let Some((header, rest)) = with_header(bytes) else { return };
    let mut walk = LinkWalk::new(header);
    pieces(rest, |piece| walk.push(piece));
    walk.finish(rest.len() as u64);
    seen(walk.problems().line());
}

fn read_pickle(bytes: &[u8]) {
    let mut pairs = 0_u64;
    let found = pickle::read(bytes, pickle::Limits::default(), &mut |_, _| pairs += 1);
    if let Ok(found) = found {
        assert!(found.ids <= pairs && found.bytes <= bytes.len() as u64);
    }
}

fn read_trees(bytes: &[u8]) {
    let geometry = Geometry { page_bytes: 4096, usable: 4096 };
    let (mut extents, mut fields) = (Vec::new(), Fields::default());
    for (number, bytes) in (1..).zip(bytes.chunks(geometry.page_bytes)) {
        seen(Trunk::parse(bytes, geometry).map(|trunk| trunk.leaves().count()));
        let Ok(page) = Page::parse(bytes, number, geometry, &mut extents) else { continue };
        for nth in 0..page.cells {
            let cell = page.cell(nth).unwrap();
            assert!(cell.local.len() <= cell.payload_bytes);
            let read = fields.read(cell.local, cell.payload_bytes);
            for nth in 0..if read == Ok(true) { fields.len() } else { 0 } {
                let value = fields.value(cell.local, nth);
                seen(value.map(|value| value.map(|value| value.compare(&Value::Null))));
            }
        }
    }
}

fn walk_journal(bytes: &[u8]) {
    let Start::Hot(first) = Start::parse(bytes) else { return };
    let read = |at: u64, buffer: &mut [u8]| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let Some(part) = at.checked_add(buffer.len()).and_then(|end| bytes.get(at..end)) else {
            return Ok::<bool, Infallible>(false);
        };
        buffer.copy_from_slice(part);
        Ok(true)
    };
    let visit = |record: journal::Record| {
        seen(record.holds(&bytes[..bytes.len().min(4096)], [0; 4]));
        Ok(std::ops::ControlFlow::Continue(()))
    };
    journal::walk(&first, bytes.len() as u64, 4096, 10_000, read, visit).unwrap();
    seen(JournalHeader::parse(bytes));
}

fn read_configuration(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("fuzz-{}.yml", std::process::id()));
    fs::write(&path, bytes).unwrap();
    let overrides = Overrides { config_file: Some(path.clone()), ..Overrides::default() };
    if let Err(problems) = config::file::load(&overrides, &chroma_exporter::collectors::families())
    {
        assert!(!problems.is_empty());
        assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
    }
    fs::remove_file(path).unwrap();
}
