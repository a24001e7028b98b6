//! The example file and the page of all keys, made from the declarations. `UPDATE_GOLDEN=1 cargo test --lib config` writes
//! `chroma_exporter.example.yml` and `docs/configuration.md` anew.

use std::fmt::Write;

use super::{keys, web_file};
use crate::{
    deliver::receivers,
    keys::key::{Key, Written},
};

/// The example file.
#[must_use]
pub fn example() -> String {
    let mut out = EXAMPLE_HEAD.to_owned();
    for section in &keys::all() {
        out.push('\n');
        for line in wrapped(&section.help, 125) {
            _ = writeln!(out, "# {line}");
        }
        entry(section, "", "", &mut out);
    }
    out.push('\n');
    out.push_str(RECEIVERS);
    out
}

/// One key with what stands below it. `dash` stands before the first key of an item.
fn entry(key: &Key, indent: &str, dash: &str, out: &mut String) {
    let below = format!("{indent}  ");
    let items = key.facts.items && key.facts.example.is_empty();
    let value = if key.facts.below.is_empty() { format!(" {}", shown(key)) } else { String::new() };
    let line = format!("{indent}{dash}{}:{value}", key.name);
    // A section has said its help above.
    let said = indent.is_empty() && dash.is_empty();
    let help = if said { String::new() } else { comment(key) };
    let room = WIDTH.saturating_sub(line.len().max(COLUMN));
    let mut lines = wrapped(&help, room.max(ROOM_MIN)).into_iter();
    let first = lines.next().map_or_else(String::new, |first| format!(" # {first}"));
    _ = writeln!(out, "{}", format!("{line:<COLUMN$}{first}").trim_end());
    for more in lines {
        _ = writeln!(out, "{:COLUMN$} # {more}", "");
    }
    if !key.facts.below.is_empty() && !key.facts.example.is_empty() {
        for line in key.facts.example.lines() {
            _ = writeln!(out, "{below}{line}");
        }
        return;
    }
    let below = if dash.is_empty() { below } else { format!("{below}  ") };
    for (index, key) in key.facts.below.iter().enumerate() {
        match (items, index) {
            (true, 0) => entry(key, &below, "- ", out),
            (true, _) => entry(key, &format!("{below}  "), "", out),
            (false, _) => entry(key, &below, "", out),
        }
    }
}

/// The help without its last full stop, and the words that the key may be.
fn comment(key: &Key) -> String {
    let help = key.help.trim_end_matches('.');
    match &*key.facts.choices {
        [] => help.to_owned(),
        choices => format!("{help}: {}", choices.join(", ")),
    }
}

/// What stands behind a key in the example.
fn shown(key: &Key) -> String {
    match &key.default {
        _ if !key.facts.example.is_empty() => key.facts.example.to_owned(),
        Some(default) => in_flow(default),
        None => String::new(),
    }
}

fn in_flow(value: &Written) -> String {
    match value {
        Written::List(items) => {
            format!("[{}]", items.iter().map(in_flow).collect::<Vec<_>>().join(", "))
        }
        value => serde_saphyr::to_string(value).unwrap_or_default().trim_end().to_owned(),
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The page of all keys.
#[must_use]
pub fn page() -> String {
    let mut out = PAGE_HEAD.to_owned();
    for section in &keys::all() {
        table(section, section.name, &mut out);
    }
    out.push_str(PAGE_END);
    for (title, keys) in receivers::list::all_keys() {
        _ = write!(out, "\n### {title}\n\n");
        rows(&keys, &mut out);
        for key in keys.iter().filter(|key| !key.facts.below.is_empty()) {
            _ = write!(out, "\n#### `{}`: {}\n\n", key.name, key.help);
            rows(&key.facts.below, &mut out);
        }
    }
    _ = write!(out, "{WEB_HEAD}");
    rows(&web_file::all_keys(), &mut out);
    for section in web_file::all_keys().iter().filter(|key| !key.facts.below.is_empty()) {
        table(section, section.name, &mut out);
    }
    out
}

fn table(section: &Key, path: &str, out: &mut String) {
    let path = if section.facts.items { format!("{path}[]") } else { path.to_owned() };
    _ = write!(out, "\n## `{path}`\n\n{}\n\n", section.help);
    rows(&section.facts.below, out);
    for key in section.facts.below.iter().filter(|key| !key.facts.below.is_empty()) {
        table(key, &format!("{path}.{}", key.name), out);
    }
}

fn rows(keys: &[Key], out: &mut String) {
    let flags = keys.iter().any(|key| key.facts.flag.is_some());
    let (head, line) = if flags { ("Flag | ", "---|") } else { ("", "") };
    _ = writeln!(out, "| Key | What it may be | Default | {head}Since | What it does |");
    _ = writeln!(out, "|---|---|---|{line}---|---|");
    for key in keys {
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let default = match &key.default {
            _ if !key.facts.below.is_empty() => String::new(),
            Some(Written::Text(text)) if text.is_empty() => "`\"\"`".to_owned(),
            Some(default) => code(&in_flow(default)),
            None => key.facts.otherwise.to_owned(),
        };
        let flag = key.facts.flag.as_ref().map_or_else(String::new, |flag| {
            let repeatable = if flag.repeatable { ", repeatable" } else { "" };
            format!("`{}`{repeatable}", format!("--{} {}", flag.long, flag.value).trim_end())
        });
        let restart =
            if key.facts.restart { " A change takes effect at the next start." } else { "" };
        let what = key.facts.what.clone();
        let does = format!("{}{restart}", key.help);
        let mut cells = vec![code(key.name), what, default, key.facts.since.to_owned(), does];
        if flags {
            cells.insert(3, flag);
        }
        let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        _ = writeln!(out, "| {} |", cells.join(" | "));
    }
}

/// What the example says of receivers.
const RECEIVERS: &str = include_str!("../deliver/receivers/example.yml");

const COLUMN: usize = 30;
const WIDTH: usize = 150;
/// Behind the longest values comments are not broken into single words.
const ROOM_MIN: usize = 60;

const EXAMPLE_HEAD: &str = "\
# Configuration of chroma_exporter: every key there is. What stands here is the default, except below stores, alerts and receivers.
# Check a file with:  chroma_exporter config check --config.file chroma_exporter.yml
#
# Durations are written as in Prometheus: 250ms, 30s, 1h30m, 1d. Flags of the command line override the file.
# The program reads the file again on SIGHUP and when it changes. An invalid file is rejected, and the running configuration stays.
";

const PAGE_HEAD: &str = "\
# Configuration

<!-- Made from the declarations in src/config: UPDATE_GOLDEN=1 cargo test --lib config -->

The program needs no configuration: it finds the stores of running Chroma processes. A file is given with
`--config.file FILE`; [chroma_exporter.example.yml](../chroma_exporter.example.yml) shows every key.

- `chroma_exporter config check` reports every mistake in the configuration, with its line.
- `chroma_exporter config print` prints the configuration that file and flags give.
- A flag overrides the key beside it in these tables.
- The program reads the file again on `SIGHUP` and when it changes. An invalid file is rejected, the running configuration
  stays, and `chroma_exporter_config_last_reload_successful` drops to 0.
- Durations are written as in Prometheus: `250ms`, `30s`, `1h30m`, `1d`.

`--store.path [NAME=]DIR` and `--backup.pattern [NAME=]PATTERN` name stores and their backups on the command line.
`--collector.NAME`, `--no-collector.NAME` and `--collector.disable-defaults` switch collectors.
";

const PAGE_END: &str = "
## `receivers[]`

Who gets the alerts. [chroma_exporter.example.yml](../chroma_exporter.example.yml) shows every kind.

A secret has four keys, of which one is given: `KEY` itself, `KEY_file` (a file, read anew at each send), `KEY_env` (a
variable of the environment) or `KEY_credential` (a name that systemd's `LoadCredential=` gave it).
";

const WEB_HEAD: &str = "
## The file of `--web.config.file`

TLS, users, headers and a limit, in the form that Prometheus' own exporters share. The program reads it again when it changes.

";

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_example_and_the_page_are_what_the_declarations_make() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, made) in
            [("chroma_exporter.example.yml", example()), ("docs/configuration.md", page())]
        {
            let file = root.join(name);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&file, &made).unwrap();
            }
            let kept = fs::read_to_string(&file).unwrap_or_default();
            assert!(
                kept == made,
                "{name} is not what the declarations make; UPDATE_GOLDEN=1 writes it anew"
            );
        }
    }
}
