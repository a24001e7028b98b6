//! What is wrong with a configuration: every problem of it, each with its place, so that an operator mends the file
//! one time, not five.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::secret::SHOWN;
use crate::{format::words, human};

/// One problem: `chroma_exporter.yml:12: collect.interval = 1ms: must be 100ms to 1h`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file as the operator named it; `None` when a flag, the environment or a default is meant.
    pub file: Option<Arc<str>>,
    /// Line in the file, from 1.
    pub line: Option<u64>,
    /// The key with its sections, or the flag; empty when the file as a whole is meant.
    pub field: String,
    /// What stands there; `None` when the problem is the key itself.
    pub value: Option<String>,
    /// What should stand there.
    pub rule: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", printable(file))?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.field.is_empty() {
            f.write_str(&printable(&self.field))?;
            if let Some(value) = &self.value {
                write!(f, " = {}", printable(value))?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&printable(&self.rule))
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: Option<u64>,
    pub(crate) field: String,
}

impl Place {
    /// A flag of the command line, a variable of the environment, or the key that a default stands for.
    pub(crate) fn outside(field: impl Into<String>) -> Self {
        Self { file: None, line: None, field: field.into() }
    }

    /// The file as a whole.
    pub(crate) fn file(file: &Path) -> Self {
        Self { file: Some(file.to_string_lossy().into()), line: None, field: String::new() }
    }

    pub(crate) fn bad(&self, value: impl fmt::Display, rule: impl fmt::Display) -> ConfigError {
        ConfigError { value: Some(value.to_string()), ..self.wrong(rule) }
    }

    pub(crate) fn wrong(&self, rule: impl fmt::Display) -> ConfigError {
        ConfigError {
            file: self.file.clone(),
            line: self.line,
            field: self.field.clone(),
            value: None,
            rule: rule.to_string(),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// Collects problems. Shared by everything that reads one configuration.
#[derive(Debug, Default)]
pub(crate) struct Report {
    inner: RefCell<Inner>,
    pub(crate) given: Given,
}

/// What goes before the file, and what that depends on.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// The words of each flag that stands for a key, by its name without the dashes.
    pub(crate) words: BTreeMap<String, Vec<String>>,
    /// The working directory, which relative paths of flags are meant from.
    pub(crate) cwd: Option<PathBuf>,
    /// Whether sockets can be IPv6.
    pub(crate) ipv6: bool,
}

#[derive(Debug, Default)]
struct Inner {
    problems: Vec<ConfigError>,
    /// Problems beyond [`PROBLEMS_MAX`].
    untold: usize,
    /// Every key that anybody asked for, with its sections; items of lists are `[]`.
    asked: BTreeSet<String>,
    /// What stands below `receivers` and looks like an address: whoever has it may write there, so it is shown nowhere, in
    /// whichever place it was put.
    addresses: BTreeSet<String>,
    /// Keys that nobody asked for: where, section, key.
    unknown: Vec<(Place, String, String)>,
}

impl Report {
    pub(crate) fn new(given: Given) -> Self {
        Self { given, ..Self::default() }
    }

    pub(crate) fn add(&self, problem: ConfigError) {
        let mut inner = self.inner.borrow_mut();
        if inner.problems.len() < PROBLEMS_MAX {
            inner.problems.push(problem);
        } else {
            inner.untold += 1;
        }
    }

    /// Notes that `section` has a key `key`.
    pub(crate) fn asked(&self, section: &str, key: &str) {
        let path = joined(&without_indices(section), key);
        self.inner.borrow_mut().asked.insert(path);
    }

    /// Notes a key that nobody asked for.
    pub(crate) fn unknown(&self, place: Place, section: &str, key: &str) {
        let mut inner = self.inner.borrow_mut();
        if inner.unknown.len() < PROBLEMS_MAX {
            inner.unknown.push((place, without_indices(section), key.to_owned()));
        } else {
            inner.untold += 1;
        }
    }

    /// Notes a text of the list of receivers.
    pub(crate) fn hide(&self, text: &str) {
        if looks_like_address(text) {
            self.inner.borrow_mut().addresses.insert(text.to_owned());
        }
    }

    /// Every key that anybody asked for.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        self.inner.borrow().asked.clone()
    }

    /// All problems in the order of the file; those without a line last.
    pub(crate) fn into_problems(self) -> Vec<ConfigError> {
        let Inner { mut problems, untold, asked, addresses, unknown } = self.inner.into_inner();
        for (place, section, key) in unknown {
            problems.push(place.wrong(suggestion(&section, &key, &asked)));
        }
        for problem in &mut problems {
            hide_addresses(problem, &addresses);
        }
        problems.sort_by_key(|problem| problem.line.unwrap_or(u64::MAX));
        let untold = untold + problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        if untold > 0 {
            let file = problems.iter().find_map(|problem| problem.file.clone());
            let place = Place { file, line: None, field: String::new() };
            problems.push(place.wrong(format!("and {untold} more problems")));
        }
        problems
    }
}

fn hide_addresses(problem: &mut ConfigError, addresses: &BTreeSet<String>) {
    // The longest first: one may hold another.
    let mut addresses: Vec<&String> = addresses.iter().collect();
    addresses.sort_by_key(|address| std::cmp::Reverse(address.len()));
    let texts = [Some(&mut problem.field), Some(&mut problem.rule), problem.value.as_mut()];
    for text in texts.into_iter().flatten() {
        for address in &addresses {
            if text.contains(address.as_str()) {
                *text = text.replace(address.as_str(), SHOWN);
            }
        }
    }
    // A header in the place of the file that it belongs into, and what stands where only secrets do.
    let name = |part: &'_ str| part.split('[').next().unwrap_or(part).to_owned();
    let parts: Vec<String> = problem.field.split('.').map(name).collect();
    let below = |section: &str| parts.iter().skip(1).any(|part| part == section);
    let secret = match parts.first().map(String::as_str) {
        Some("receivers") => {
            (below("basic_auth") || below("headers"))
                && parts.last().is_some_and(|key| key != "name" && key != "username")
        }
        first => first == Some("basic_auth_users"),
    };
    let header = problem.field.ends_with("headers_file")
        && problem.value.as_ref().is_some_and(|value| value.contains([':', ' ']));
    if problem.value.as_ref().is_some_and(|value| !value.starts_with('(')) && (secret || header) {
        problem.value = Some(SHOWN.to_owned());
    }
    // A value that was cut is no longer what was noted.
    if problem.field.split(['.', '[']).next() == Some("receivers")
        && problem.value.as_deref().is_some_and(looks_like_address)
    {
        problem.value = Some(SHOWN.to_owned());
    }
}

/// Whether a text has an address in it: with a scheme, or a host with a path behind it.
pub(crate) fn looks_like_address(text: &str) -> bool {
    text.contains("://")
        || text.split(|c: char| c.is_whitespace() || "\"'<>(),=".contains(c)).any(|word| {
            let (host, path) = word.split_once('/').unwrap_or((word, ""));
            let host = host.rsplit('@').next().unwrap_or(host);
            let name = host.split(':').next().unwrap_or(host);
            path.len() >= ADDRESS_PATH_MIN
                && name.contains('.')
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        })
}

/// What to say of the unknown `key` of `section`.
fn suggestion(section: &str, key: &str, asked: &BTreeSet<String>) -> String {
    let meant = key.trim().to_lowercase().replace('-', "_");
    let split = |path: &str| -> (String, String) {
        let (section, leaf) = path.rsplit_once('.').unwrap_or(("", path));
        (section.to_owned(), leaf.to_owned())
    };
    let here: Vec<String> = asked
        .iter()
        .map(|path| split(path))
        .filter(|(of, _)| of == section)
        .map(|(_, leaf)| leaf)
        .collect();
    let near = here
        .iter()
        .filter_map(|known| Some((words::distance(&meant, known)?, known)))
        .filter(|(changes, known)| *changes <= (known.chars().count() / 3).max(1))
        .min();
    if near.as_ref().is_some_and(|(_, known)| *known == key) {
        return "has no meaning here: only others of this list have it".to_owned();
    }
    if let Some((_, known)) = near {
        return format!("unknown key; did you mean {known}?");
    }
    if let Some(elsewhere) = asked.iter().find(|path| split(path).1 == meant) {
        return format!("unknown key here; did you mean {elsewhere}?");
    }
    format!("unknown key; known here: {}", here.join(", "))
}

/// `section.key`, or the key alone at the top.
pub(crate) fn joined(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// `stores[3].backups` as `stores[].backups`.
fn without_indices(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            let keep = !inside || *c == ']';
            inside = *c == '[' || (inside && *c != ']');
            keep
        })
        .collect()
}

/// Text of a file or flag for one line of a terminal: no control characters, not endless.
fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(VALUE_CHARS_MAX)
        .map(|c| if c.is_control() || human::hidden(c) { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(VALUE_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

/// A file with more problems than this is not a configuration of ours.
const PROBLEMS_MAX: usize = 100;

const VALUE_CHARS_MAX: usize = 400;

/// A path of fewer bytes holds no secret.
const ADDRESS_PATH_MIN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_named_and_else_the_place_or_the_choice() {
        let asked: BTreeSet<String> =
            ["collect", "collect.interval", "collect.deadline", "web", "stores[].path"]
                .map(str::to_owned)
                .into();
        for (section, key, want) in [
            ("collect", "intervall", "unknown key; did you mean interval?"),
            ("collect", "Interval", "unknown key; did you mean interval?"),
            ("collect", "itnerval", "unknown key; did you mean interval?"),
            ("", "colect", "unknown key; did you mean collect?"),
            ("", "interval", "unknown key here; did you mean collect.interval?"),
            ("", "path", "unknown key here; did you mean stores[].path?"),
            ("collect", "colour", "unknown key; known here: deadline, interval"),
            ("", &"x".repeat(5000), "unknown key; known here: collect, web"),
        ] {
            assert_eq!(suggestion(section, key, &asked), want, "{section} {key:.20}");
        }
    }

    #[test]
    fn a_problem_reads_file_line_field_value_rule() {
        let place =
            Place { file: Some("a.yml".into()), line: Some(12), field: "collect.interval".into() };
        assert_eq!(
            place.bad("1ms", "must be 100ms to 1h").to_string(),
            "a.yml:12: collect.interval = 1ms: must be 100ms to 1h"
        );
        assert_eq!(
            Place::outside("--state.dir").bad("x", "must be absolute").to_string(),
            "--state.dir = x: must be absolute"
        );
        assert_eq!(
            Place::file(Path::new("a.yml")).wrong("cannot be read").to_string(),
            "a.yml: cannot be read"
        );
        let forged = place.bad("x\n\u{1b}[2Jok", "no").to_string();
        assert!(forged.chars().all(|c| !c.is_control()), "{forged}");
    }

    #[test]
    fn the_report_is_in_the_order_of_the_file_and_bounded() {
        let report = Report::default();
        for line in (1..=PROBLEMS_MAX as u64 + 50).rev() {
            report.add(Place { file: None, line: Some(line), field: "x".into() }.wrong("bad"));
        }
        report.unknown(Place { file: None, line: Some(1), field: "y".into() }, "", "y");
        let problems = report.into_problems();
        assert_eq!(problems.len(), PROBLEMS_MAX + 1);
        assert_eq!(problems[0].field, "y");
        assert!(problems.is_sorted_by_key(|p| p.line.unwrap_or(u64::MAX)));
        assert_eq!(problems[PROBLEMS_MAX].rule, "and 51 more problems");
    }

    #[test]
    fn what_looks_like_an_address_is_known_as_one() {
        for (text, want) in [
            ("https://hooks.slack.com/services/T0/B0/x", true),
            ("hooks.slack.com/services/T0/B0/xxxx", true),
            ("url hooks.slack.com:443/services/T0/B0", true),
            ("me:pw@example.org/services/T0", true),
            ("slack", false),
            ("secrets/slack.url", false),
            ("/etc/chroma_exporter/slack.url", false),
            ("./conf.d/secrets/slack.url", false),
            ("30s", false),
            ("a.b/c", false),
        ] {
            assert_eq!(looks_like_address(text), want, "{text}");
        }
    }

    #[test]
    fn indices_are_taken_out_of_paths() {
        assert_eq!(
            without_indices("stores[12].backups.patterns[0]"),
            "stores[].backups.patterns[]"
        );
        assert_eq!(without_indices("web"), "web");
    }
}
