//! The pages for people: links lead somewhere, paths that they name exist, printed commands are accepted, and the reference of
//! the metrics is what the program exports. `UPDATE_GOLDEN=1 cargo test --test local docs::` writes that reference anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use chroma_exporter::{
    collectors,
    config::{Config, Store},
    host::Host,
    metrics,
    sample::{Desc, SeriesKind},
    store::Context,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown page of the tree, by its path from the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let name = entry.file_name().into_string().unwrap();
            // What is no part of the source: builds, environments, the repository itself.
            let other = name == "target" || name == ".git" || name == ".venv";
            if entry.file_type().unwrap().is_dir() && !other {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.insert(path, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    assert!(pages.contains_key(Path::new("README.md")));
    pages
}

/// A page without its fenced blocks.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// The words in backticks.
fn code_spans(page: &str) -> Vec<String> {
    prose(page).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The anchor that a forge makes of a heading.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut broken = Vec::new();
    let mut links = 0;
    for (path, page) in &pages {
        let folder = path.parent().unwrap();
        for link in prose(page).split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let (file, heading) = link.0.split_once('#').unwrap_or((link.0, ""));
            if file.contains("://") {
                continue;
            }
            links += 1;
            let target = root().join(folder).join(file);
            if !file.is_empty() && !target.exists() {
                broken.push(format!("{}: {}", path.display(), link.0));
                continue;
            }
            let known = |text: &str| {
                text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)
            };
            let text = if file.is_empty() {
                page.clone()
            } else {
                fs::read_to_string(&target).unwrap_or_default()
            };
            if !heading.is_empty() && !known(&text) {
                broken.push(format!("{}: {} has no such heading", path.display(), link.0));
            }
        }
    }
    assert!(links > 100, "{links}");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Every file of the source, by its path from the root.
fn files() -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut folders: Vec<PathBuf> =
        ["src", "crates", "tests", "benches"].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries.map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            let name = entry.file_name();
            if entry.file_type().unwrap().is_dir() && name != ".venv" && name != "target" {
                folders.push(path);
            } else {
                files.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    files
}

#[test]
fn a_file_that_a_page_of_the_map_names_is_there() {
    let files = files();
    let mut missing = Vec::new();
    for (path, page) in pages() {
        let of_the_map = path.starts_with("docs/design")
            || ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
                .iter()
                .any(|name| path == Path::new(name));
        if !of_the_map {
            continue;
        }
        for word in code_spans(&page) {
            // `NAME` stands for what the reader puts in.
            let a_path = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if !a_path || word.contains("NAME") || word.contains("CODE") {
                continue;
            }
            let top = word.split('/').next().unwrap();
            let ours = word.contains('/') && !top.is_empty() && root().join(top).is_dir();
            let there = if ours {
                root().join(&word).exists()
            } else if Path::new(&word).extension().is_some_and(|it| it == "rs") {
                files.iter().any(|file| file.ends_with(&format!("/{word}")))
            } else {
                true
            };
            // What tests/run makes.
            let made = word.starts_with("tests/.venv") || word.starts_with("target/");
            if !there && !made {
                missing.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The words of a line of shell, without its comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            ('#', None) if word.is_empty() => break,
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            (c, _) => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Every printed command line is taken apart by the program itself: the help that is asked for at its end comes only when
/// it knows everything before.
#[test]
fn every_printed_command_is_accepted() {
    let mut refused = Vec::new();
    let mut commands = 0;
    for (path, page) in pages() {
        // The fenced blocks of shell commands.
        for block in page.split("```").skip(1).step_by(2).filter(|block| block.starts_with("sh\n"))
        {
            for line in block.lines() {
                let words = words(line);
                let arguments = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["chroma_exporter", ref rest @ ..] => rest.to_vec(),
                    // Examples are programs of their own.
                    ["cargo", "run", ref rest @ ..] if !rest.contains(&"--example") => {
                        rest.iter().skip_while(|word| **word != "--").skip(1).copied().collect()
                    }
                    _ => continue,
                };
                commands += 1;
                // They take all words that follow.
                let end = arguments.iter().position(|word| ["--after", "--"].contains(word));
                let known = &arguments[..end.unwrap_or(arguments.len())];
                let out = Command::new(env!("CARGO_BIN_EXE_chroma_exporter"))
                    .args(known)
                    .arg("--help")
                    .output()
                    .unwrap();
                if !out.status.success() {
                    let said = String::from_utf8_lossy(&out.stderr);
                    refused.push(format!("{}: {line}\n{said}", path.display()));
                }
            }
        }
    }
    assert!(commands > 15, "{commands}");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// A function that others may call from another file: `pub`, `pub(crate)`, `pub(super)`.
fn is_function_for_others(code: &str) -> bool {
    let Some(rest) = code.strip_prefix("pub") else { return false };
    let rest = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, rest)) => rest,
        None => rest,
    };
    [" fn ", " async fn ", " const fn "].iter().any(|word| rest.starts_with(word))
}

#[test]
fn every_function_for_other_rooms_says_when_it_errs() {
    let (mut fallible, mut silent) = (0, Vec::new());
    let sources = files().into_iter().filter(|file| {
        let of_us = file.starts_with("src/") || file.contains("/src/");
        let of_rust = Path::new(file).extension().is_some_and(|extension| extension == "rs");
        of_us && of_rust && !file.contains("tests")
    });
    for file in sources {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let (mut doc, mut of_trait) = (String::new(), false);
        for (at, line) in text.split_inclusive('\n').scan(0, |end, line| {
            *end += line.len();
            Some((*end - line.len(), line))
        }) {
            let code = line.trim_start();
            if line.starts_with("impl") {
                of_trait = line.contains(" for ");
            }
            if code.starts_with("///") || code.starts_with("#[") {
                doc.push_str(code);
                continue;
            }
            let signature = text[at..].split(['{', ';']).next().unwrap_or_default();
            let returns = signature.rsplit("-> ").next().unwrap_or_default();
            let can_err = returns.starts_with("Result<") || returns.contains("::Result<");
            if is_function_for_others(code) && can_err && !of_trait {
                fallible += 1;
                let says = ["Err", "err", "refuse", "fail", "cannot"]
                    .iter()
                    .any(|word| doc.contains(word));
                if !says {
                    silent.push(format!("{file}: {}", code.trim_end()));
                }
            }
            doc.clear();
        }
    }
    assert!(fallible > 400, "{fallible}");
    assert!(silent.is_empty(), "these do not say when they err:\n{}", silent.join("\n"));
}

#[test]
fn every_bench_has_its_row() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let (page, just) = (read("CONTRIBUTING.md"), read("justfile"));
    let listed = just.lines().find(|line| line.starts_with("# Measure: ")).unwrap();
    let manifest = read("Cargo.toml");
    let benches = manifest.split("[[bench]]").skip(1).map(|bench| bench.split('"').nth(1).unwrap());
    for bench in benches {
        assert!(page.contains(&format!("| `{bench}` |")), "{bench} in CONTRIBUTING.md");
        assert!(
            listed.split(' ').any(|word| word.trim_matches([',', '.']) == bench),
            "{bench}: {listed}"
        );
    }
}

#[test]
fn every_collector_has_its_row() {
    let page = fs::read_to_string(root().join("docs/collectors.md")).unwrap();
    for (name, _) in described() {
        assert!(page.contains(&format!("\n| `{name}` | ")), "docs/collectors.md lacks {name}");
    }
}

/// The families of each collector, by its name, in the order of the registry.
fn described() -> Vec<(&'static str, Vec<&'static Desc>)> {
    let config = Arc::new(Config::default());
    let store = Arc::new(Store::new("s", Path::new("/nowhere")));
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    collectors::registry(&context)
        .iter()
        .map(|collector| (collector.name().as_str(), collector.descs().to_vec()))
        .collect()
}

#[test]
fn the_reference_of_the_metrics_is_what_is_exported() {
    let mut page = String::from(
        "# Metrics\n\n\
         This page is made from the program: `UPDATE_GOLDEN=1 cargo test --test local docs::` writes it. [What is\n\
         measured](collectors.md) explains the collectors. Every metric of a collector also has the label `store`. A value that is not\n\
         known is left out; it is never 0. \"Cached\" means that the reading may be older than the last run of its collector.\n",
    );
    let stores = described().into_iter().map(|(name, descs)| (format!("`{name}`"), descs));
    for (name, mut descs) in stores.chain([("The exporter itself".to_owned(), metrics::descs())]) {
        descs.sort_by_key(|desc| desc.name);
        write!(page, "\n## {name}\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")
            .unwrap();
        for Desc { name, help, kind, labels } in descs {
            let kind = if *kind == SeriesKind::Counter { "counter" } else { "gauge" };
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let help = help.replace('|', "\\|").replace('*', "\\*").replace('<', "\\<");
            writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
        }
    }
    let file = root().join("docs/metrics.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let have = fs::read_to_string(&file).unwrap_or_default();
    assert!(have == page, "docs/metrics.md: UPDATE_GOLDEN=1 cargo test --test local docs::");
}
