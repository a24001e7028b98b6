//! The map of ARCHITECTURE.md, enforced: a room uses itself and the rooms below it, and no other.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The rooms from the ground up, each with what belongs to it: modules of `src/`, the longest name that fits counts.
const ROOMS: [(&str, &[&str]); 15] = [
    ("format", &["format"]),
    ("facts", &["facts"]),
    ("host", &["host", "tls"]),
    ("alert", &["alert"]),
    ("keys", &["keys"]),
    ("receivers", &["deliver::receivers"]),
    ("config", &["config"]),
    ("store", &["store"]),
    ("collectors", &["collectors"]),
    ("repair", &["repair"]),
    ("metrics", &["metrics"]),
    ("deliver", &["deliver"]),
    ("serve", &["serve"]),
    ("cli", &["cli"]),
    ("main", &["lib", "main"]),
];

/// What `lib.rs` gives a second name.
const SECOND_NAMES: [(&str, &[&str]); 2] = [
    ("facts", &["findings", "firsts", "hidden", "human", "runbooks", "sample"]),
    (
        "serve",
        &[
            "discover",
            "fleet",
            "history",
            "http",
            "logging",
            "publish",
            "scheduler",
            "status",
            "watch",
        ],
    ),
];

/// Names of `lib.rs` that are no rooms: of the crates beside, and of the program itself.
const NO_ROOMS: [&str; 5] = ["REVISION", "VERSION", "clock", "progress", "wait"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// Place of the room of a path such as `crate::keys::section::Section`.
fn room(path: &str) -> Option<usize> {
    let first = path.split("::").next()?;
    let second = SECOND_NAMES.iter().find(|(_, names)| names.contains(&first));
    let path = second.map_or(path.to_owned(), |(room, _)| format!("{room}::{path}"));
    let fits = |module: &&str| path == **module || path.starts_with(&format!("{module}::"));
    ROOMS
        .iter()
        .enumerate()
        .filter_map(|(at, (_, modules))| {
            modules.iter().filter(|module| fits(module)).map(|module| (module.len(), at)).max()
        })
        .max()
        .map(|(_, at)| at)
}

/// The code without comments, strings and unit tests, as long as before.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if next == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else {
            0
        };
        let (blank, more) = rest.split_at(skipped);
        out.extend(blank.chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = more;
        if skipped == 0 {
            out.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    if let Some(tests) = out.find("#[cfg(test)]\nmod tests {") {
        out.truncate(tests);
    }
    out
}

/// The paths of a `{a::b, c::{d, e}}`, with all that stands before it, and the length of the text that they took.
fn paths(text: &str, before: &str, out: &mut Vec<String>) -> usize {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut at = 1;
    loop {
        let rest = &text[at..];
        let skipped = rest.find(|c: char| word(c) || c == '{' || c == '}').unwrap_or(rest.len());
        at += skipped;
        let rest = &text[at..];
        match rest.chars().next() {
            Some('}') => return at + 1,
            Some('{') => at += paths(rest, before, out),
            Some(_) => {
                let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
                let path = format!("{before}{}", &rest[..length]);
                at += length;
                if text[at..].starts_with('{') {
                    at += paths(&text[at..], &path, out);
                } else {
                    out.push(path);
                }
                // What is renamed has its path before.
                if let Some(more) = text[at..].strip_prefix(" as ") {
                    at += 4 + more.find(|c| !word(c)).unwrap_or(more.len());
                }
            }
            None => return at,
        }
    }
}

/// Everything that a file names of the program, with its line.
fn named(text: &str) -> Vec<(usize, String)> {
    let code = code(text);
    let mut out = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let mut here = Vec::new();
        if rest.starts_with('{') {
            paths(rest, "", &mut here);
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let (path, more) = rest.split_at(end.unwrap_or(rest.len()));
            if more.starts_with('{') {
                paths(more, path, &mut here);
            } else {
                here.push(path.to_owned());
            }
        }
        let line = code[..at].matches('\n').count() + 1;
        out.extend(here.into_iter().map(|path| (line, path)));
    }
    out
}

#[test]
fn no_room_uses_one_above_it() {
    let (mut all, mut wrong, mut seen) = (Vec::new(), Vec::new(), BTreeMap::<usize, usize>::new());
    files(&src(), &mut all);
    for file in &all {
        let place = file.strip_prefix(src()).unwrap().with_extension("");
        let module = place.to_str().unwrap().replace('/', "::").replace("::mod", "");
        if module.ends_with("tests") || module.contains("tests::") {
            continue;
        }
        let here = room(&module).unwrap_or_else(|| panic!("{module} is in no room"));
        for (line, path) in named(&fs::read_to_string(file).unwrap()) {
            let first = path.split("::").next().unwrap();
            if NO_ROOMS.contains(&first) {
                continue;
            }
            let there = room(&path).unwrap_or_else(|| panic!("{}:{line}: {path}", file.display()));
            *seen.entry(there).or_default() += 1;
            if there > here {
                wrong.push(format!(
                    "src/{}.rs:{line}: {} uses crate::{path}, which is in {} above it",
                    place.display(),
                    ROOMS[here].0,
                    ROOMS[there].0
                ));
            }
        }
    }
    assert!(seen.len() > 10, "few rooms are used at all: {seen:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_shows_the_rooms_in_their_order() {
    let map = fs::read_to_string(src().join("../ARCHITECTURE.md")).unwrap();
    let rows: Vec<&str> = map.lines().filter_map(|line| line.strip_prefix("| **")).collect();
    let shown: Vec<&str> = rows.iter().map(|row| row.split("**").next().unwrap()).collect();
    let wanted: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).collect();
    assert_eq!(shown, wanted);
}

#[test]
fn uses_are_read_as_the_compiler_reads_them() {
    let text = "use crate::{\n    a::{b, c::d as e},\n    f, // crate::no\n};\nfn g() { crate::h::i(\"crate::no\"); }\n\
        use crate::k::{l, m};\n#[cfg(test)]\nmod tests {\n    use crate::no;\n}\n";
    let found: Vec<(usize, String)> = named(text);
    let want = [(1, "a::b"), (1, "a::c::d"), (1, "f"), (5, "h::i"), (6, "k::l"), (6, "k::m")];
    assert_eq!(found, want.map(|(line, path)| (line, path.to_owned())));
}
