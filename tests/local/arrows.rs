//! The map of ARCHITECTURE.md, enforced: a room uses itself and the rooms below it, and no other, and no files use each other in a
//! circle.

use std::{
    collections::{BTreeMap, BTreeSet},
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

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// Place of the room of a path such as `crate::keys::section::Section`.
fn room(path: &str) -> Option<usize> {
    let second = SECOND_NAMES.iter().find(|(_, names)| names.contains(&first(path)));
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

/// Everything that the file of `module` names of the program, with its line.
fn named(text: &str, module: &str) -> Vec<(usize, String)> {
    let code = code(text);
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut out = Vec::new();
    for (at, found) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        // The second word of `super::super::` belongs to the first.
        if code[..at].ends_with(word) {
            continue;
        }
        let (mut rest, mut above) = (&code[at..], module.split("::").collect::<Vec<_>>());
        if found == "crate::" {
            (rest, above) = (&rest[found.len()..], Vec::new());
        }
        while let Some(more) = rest.strip_prefix("super::") {
            above.pop();
            rest = more;
        }
        let above: String = above.iter().flat_map(|part| [*part, "::"]).collect();
        let (path, more) = rest.split_at(rest.find(|c| !word(c)).unwrap_or(rest.len()));
        let (path, mut here) = (above + path, Vec::new());
        if more.starts_with('{') {
            paths(more, &path, &mut here);
        } else {
            here.push(path);
        }
        let line = code[..at].matches('\n').count() + 1;
        out.extend(here.into_iter().map(|path| (line, path)));
    }
    out
}

/// The files of the program by their modules, without tests.
fn modules() -> BTreeMap<String, PathBuf> {
    let mut all = Vec::new();
    files(&src(), &mut all);
    let module = |file: PathBuf| {
        let place = file.strip_prefix(src()).unwrap().with_extension("");
        let module = place.to_str().unwrap().replace('/', "::").replace("::mod", "");
        let is_test = module.ends_with("tests") || module.contains("tests::");
        (!is_test).then_some((module, file))
    };
    all.into_iter().filter_map(module).collect()
}

#[test]
fn no_room_uses_one_above_it() {
    let (mut wrong, mut seen) = (Vec::new(), BTreeMap::<usize, usize>::new());
    for (module, file) in modules() {
        let here = room(&module).unwrap_or_else(|| panic!("{module} is in no room"));
        for (line, path) in named(&fs::read_to_string(&file).unwrap(), &module) {
            if NO_ROOMS.contains(&first(&path)) {
                continue;
            }
            let there = room(&path).unwrap_or_else(|| panic!("{}:{line}: {path}", file.display()));
            *seen.entry(there).or_default() += 1;
            if there > here {
                wrong.push(format!(
                    "{}:{line}: {} uses crate::{path}, which is in {} above it",
                    file.display(),
                    ROOMS[here].0,
                    ROOMS[there].0
                ));
            }
        }
    }
    assert!(seen.len() > 10, "few rooms are used at all: {seen:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Removes what is in no circle from `uses`: what uses nothing that is left, and what nothing that is left uses.
fn circles<'a>(uses: &mut BTreeMap<&'a str, BTreeMap<&'a str, usize>>) {
    loop {
        let size =
            |uses: &BTreeMap<_, BTreeMap<_, _>>| uses.values().map(BTreeMap::len).sum::<usize>();
        let before = size(uses);
        let wanted: BTreeSet<&str> = uses.values().flat_map(BTreeMap::keys).copied().collect();
        uses.retain(|module, others| !others.is_empty() && wanted.contains(module));
        let left: BTreeSet<&str> = uses.keys().copied().collect();
        for others in uses.values_mut() {
            others.retain(|other, _| left.contains(other));
        }
        if size(uses) == before {
            return;
        }
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let modules = modules();
    let texts: Vec<(&str, String)> =
        modules.iter().map(|(name, file)| (&**name, fs::read_to_string(file).unwrap())).collect();
    // The file that a path leads into: the longest module that it begins with.
    let file_of = |path: &str| {
        let mut path = match SECOND_NAMES.iter().find(|(_, names)| names.contains(&first(path))) {
            Some((room, _)) => format!("{room}::{path}"),
            None => path.to_owned(),
        };
        loop {
            if let Some((module, _)) = modules.get_key_value(&path) {
                return Some(module.as_str());
            }
            path.truncate(path.rfind("::")?);
        }
    };
    // A module and those in it are one house: it names them, and they what they share.
    let within = |one: &str, other: &str| one.starts_with(&format!("{other}::"));
    let mut uses: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (module, text) in &texts {
        for (line, path) in named(text, module) {
            let Some(other) = file_of(&path) else { continue };
            if other != *module && !within(module, other) && !within(other, module) {
                uses.entry(module).or_default().entry(other).or_insert(line);
            }
        }
    }
    assert!(uses.len() > 100, "few files use others: {}", uses.len());
    circles(&mut uses);
    let shown: Vec<String> = uses
        .iter()
        .flat_map(|(module, others)| others.iter().map(move |(other, line)| (module, other, line)))
        .map(|(module, other, line)| format!("{}:{line}: uses {other}", modules[*module].display()))
        .collect();
    assert!(shown.is_empty(), "files in circles:\n{}", shown.join("\n"));
}

#[test]
fn circles_are_found_and_what_leads_to_them_is_not() {
    let mut uses: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (one, other) in [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("e", "d")] {
        uses.entry(one).or_default().insert(other, 1);
    }
    circles(&mut uses);
    assert_eq!(uses, [("b", [("c", 1)].into()), ("c", [("b", 1)].into())].into());
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
    let text = text.replace("#[cfg(test)]", "use super::super::{q, r::s};\n#[cfg(test)]");
    let found: Vec<(usize, String)> = named(&text, "x::y::z");
    let want = [
        (1, "a::b"),
        (1, "a::c::d"),
        (1, "f"),
        (5, "h::i"),
        (6, "k::l"),
        (6, "k::m"),
        (7, "x::q"),
        (7, "x::r::s"),
    ];
    assert_eq!(found, want.map(|(line, path)| (line, path.to_owned())));
}
