//! A strict reader of the Prometheus text format 0.0.4 and the rules of `promtool check metrics`, for tests. What
//! Prometheus would let pass and we never write (blank lines, timestamps, a family in two pieces, values that are not
//! finite) is a failure too.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod lint;

use std::collections::BTreeSet;

/// A family with all its series, as they stand on the page.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub kind: String,
    pub series: Vec<Series>,
}

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Series {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a page; the error names the line.
pub fn parse(page: &str) -> Result<Vec<Family>, String> {
    if !page.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut families: Vec<Family> = Vec::new();
    let mut seen = BTreeSet::new();
    for (number, line) in page.split_terminator('\n').enumerate() {
        read_line(line, &mut families, &mut seen)
            .map_err(|problem| format!("line {}: {problem}: {line}", number + 1))?;
    }
    if let Some(empty) = families.iter().find(|f| f.series.is_empty() || f.kind.is_empty()) {
        return Err(format!("{} has no type or no series", empty.name));
    }
    Ok(families)
}

/// The family of a name.
pub fn family<'a>(families: &'a [Family], name: &str) -> Option<&'a Family> {
    families.iter().find(|family| family.name == name)
}

/// The value of the one series of a family that has these labels among its own.
pub fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let found: Vec<&Series> = family(families, name)?
        .series
        .iter()
        .filter(|series| labels.iter().all(|(key, value)| series.label(key) == Some(*value)))
        .collect();
    assert!(found.len() < 2, "{name} {labels:?} is not one series: {found:?}");
    found.first().map(|series| series.value)
}

fn read_line(
    line: &str,
    families: &mut Vec<Family>,
    seen: &mut BTreeSet<String>,
) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').ok_or("help without text")?;
        is_name(name, true)?;
        if families.iter().any(|family| family.name == name) {
            return Err("the family stands twice".to_owned());
        }
        families.push(Family {
            name: name.to_owned(),
            help: unescape(help, false)?,
            kind: String::new(),
            series: Vec::new(),
        });
        return Ok(());
    }
    let family = families.last_mut().ok_or("a line before the first help")?;
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (name, kind) = rest.split_once(' ').ok_or("type without a word")?;
        if name != family.name || !family.kind.is_empty() || !family.series.is_empty() {
            return Err("the type does not follow its help".to_owned());
        }
        if !["gauge", "counter"].contains(&kind) {
            return Err("a type that we do not have".to_owned());
        }
        kind.clone_into(&mut family.kind);
        return Ok(());
    }
    let rest = line.strip_prefix(&family.name).ok_or("a series outside its family")?;
    if family.kind.is_empty() {
        return Err("a series before its type".to_owned());
    }
    let (labels, value) = read_labels(rest)?;
    let value = value.strip_prefix(' ').ok_or("no space before the value")?;
    if value.contains(' ') {
        return Err("more than a value".to_owned());
    }
    let number: f64 = value.parse().map_err(|_| "not a number")?;
    if !number.is_finite() {
        return Err("not a finite number".to_owned());
    }
    if !seen.insert(format!("{} {labels:?}", family.name)) {
        return Err("the series stands twice".to_owned());
    }
    family.series.push(Series { labels, value: number });
    Ok(())
}

type Labels = Vec<(String, String)>;

fn read_labels(rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    let Some(mut rest) = rest.strip_prefix('{') else { return Ok((labels, rest)) };
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        is_name(name, false)?;
        if labels.iter().any(|(known, _)| known == name) {
            return Err("a label that stands twice".to_owned());
        }
        let end = end_of_value(after).ok_or("a value without an end")?;
        labels.push((name.to_owned(), unescape(&after[..end], true)?));
        rest = &after[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = rest.strip_prefix(',').ok_or("neither comma nor brace")?;
    }
}

fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str, quoted: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some('n') => out.push('\n'),
                Some('"') if quoted => out.push('"'),
                other => return Err(format!("an escape that there is not: {other:?}")),
            },
            '\0' => return Err("a NUL, where Prometheus stops reading".to_owned()),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn is_name(name: &str, colon: bool) -> Result<(), String> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':');
    let rest = |c: char| first(c) || c.is_ascii_digit();
    if name.starts_with(first) && name.chars().all(rest) {
        Ok(())
    } else {
        Err(format!("not a name: {name:?}"))
    }
}
