//! Reads a tree of YAML section by section. A value of the wrong kind or out of range becomes a problem and the reading
//! goes on; keys that nobody asked for and keys that stand twice become problems when the section ends.

use std::{
    cell::{Cell, RefCell},
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::{
    report::{At, ConfigError, Place, Report, joined},
    yaml::{Key, Node, Scalar, ScalarKind, Value},
};
use crate::facts::{bad_value::BadValue, duration};

/// One mapping of the file. Dropping it reports the keys that nobody asked for.
pub(crate) struct Section<'n> {
    report: &'n Report,
    file: Option<Arc<str>>,
    /// Where the section begins.
    line: Option<u64>,
    /// Keys that lead here, `stores[0].backups`; empty at the top.
    path: String,
    entries: Vec<(&'n Key, &'n Node)>,
    asked: RefCell<Vec<&'static str>>,
    /// Whether keys that nobody asked for are none of our business.
    any_key: Cell<bool>,
}

impl<'n> Section<'n> {
    /// Where nothing is written: there is no file, or the section is not in it.
    pub(crate) fn empty(report: &'n Report) -> Self {
        Self::over(report, None, None, String::new(), &[])
    }

    /// The whole file.
    pub(crate) fn top(report: &'n Report, file: &Arc<str>, node: &'n Node) -> Self {
        let file = Some(Arc::clone(file));
        let place = Place { file: file.clone(), line: Some(node.line), field: String::new() };
        let entries =
            entries(node).unwrap_or_else(|| {
                report.add(place.wrong(format!(
                    "{}: must be keys and values such as stores:",
                    shown(&node.value)
                )));
                &[]
            });
        Self::over(report, file, Some(node.line), String::new(), entries)
    }

    fn over(
        report: &'n Report,
        file: Option<Arc<str>>,
        line: Option<u64>,
        path: String,
        all: &'n [(Key, Node)],
    ) -> Self {
        let mut entries: Vec<(&Key, &Node)> = Vec::new();
        let mut lines = std::collections::BTreeMap::new();
        for (key, node) in all {
            if let Some(first) = lines.get(key.text.as_str()) {
                let place = Place {
                    file: file.clone(),
                    line: Some(key.line),
                    field: joined(&path, &key.text),
                };
                report.add(place.wrong(format!("stands twice, first in line {first}")));
            } else {
                lines.insert(key.text.as_str(), key.line);
                entries.push((key, node));
            }
        }
        Self {
            report,
            file,
            line,
            path,
            entries,
            asked: RefCell::default(),
            any_key: Cell::default(),
        }
    }

    /// Where `key` stands, or would stand.
    pub(crate) fn place(&self, key: &'static str) -> Place {
        let line =
            self.entries.iter().find(|(k, _)| k.text == key).map(|(k, node)| match node.value {
                // A value in a line below its key is meant itself; a block of them by its key.
                Value::Scalar(_) => node.line,
                _ => k.line,
            });
        self.at(line, key)
    }

    /// Reads `key` with `parse`, which answers with the rule that the value breaks. `None` when it is absent or wrong.
    pub(crate) fn read<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, BadValue>,
    ) -> Option<At<T>> {
        let node = self.node(key)?;
        let place = self.place(key);
        match parse(&node.value) {
            Ok(value) => Some(At { value, place }),
            Err(rule) => {
                self.report.add(place.bad(shown(&node.value), rule));
                None
            }
        }
    }

    /// The section `key`; one without anything below it is empty.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'n>> {
        let node = self.node(key)?;
        self.section_of(node, joined(&self.path, key), &self.place(key))
    }

    /// The same; one that is not there, or is none, is empty.
    pub(crate) fn below(&self, key: &'static str) -> Section<'n> {
        self.section(key).unwrap_or_else(|| {
            let path = joined(&self.path, key);
            Section::over(self.report, self.file.clone(), self.line, path, &[])
        })
    }

    /// The items of the list `key`, each with its place `key[n]`. No items when it is absent, empty or not a list; those
    /// beyond `max` are left out and reported.
    pub(crate) fn list(&self, key: &'static str, max: usize) -> Vec<At<&'n Node>> {
        let Some(node) = self.node(key) else { return Vec::new() };
        self.items(&node.value, &self.place(key), max)
    }

    /// The items of a list that stands at `place`.
    pub(crate) fn items<'v>(
        &self,
        value: &'v Value,
        place: &Place,
        max: usize,
    ) -> Vec<At<&'v Node>> {
        let items: &[Node] = match value {
            Value::List(items) => items,
            Value::Scalar(Scalar { kind: ScalarKind::Nothing, .. }) => &[],
            other => {
                self.report.add(
                    place.bad(shown(other), "must be a list: one item per line, each after a dash"),
                );
                &[]
            }
        };
        if items.len() > max {
            self.report
                .add(place.bad(format!("{} items", items.len()), format!("must be at most {max}")));
        }
        let at = |(index, node): (usize, &'v Node)| {
            // Words of a flag have no number.
            let field = match place.file {
                Some(_) => format!("{}[{index}]", place.field),
                None => place.field.clone(),
            };
            let line = place.file.is_some().then_some(node.line);
            At { value: node, place: Place { file: place.file.clone(), line, field } }
        };
        items.iter().take(max).enumerate().map(at).collect()
    }

    /// The entries of the mapping `key`, whose names are the operator's own, each with its place `key.name`. Those beyond
    /// `max` are left out and reported.
    pub(crate) fn pairs(&self, key: &'static str, max: usize) -> Vec<(String, At<&'n Node>)> {
        let Some(below) = self.section(key) else { return Vec::new() };
        below.ignore_rest();
        if below.entries.len() > max {
            let found = format!("{} entries", below.entries.len());
            self.add(self.place(key).bad(found, format!("must be at most {max}")));
        }
        let entries = below.entries.iter().take(max);
        entries
            .map(|(key, node)| {
                self.report.asked(&below.path, &key.text);
                let place = below.at(Some(node.line), &key.text);
                (key.text.clone(), At { value: *node, place })
            })
            .collect()
    }

    /// Takes every key that nobody asked for as it is: nobody can say which are right.
    pub(crate) fn ignore_rest(&self) {
        self.any_key.set(true);
    }

    /// The same section for a look at a key that another one depends on: `report` is thrown away, for what is wrong is reported
    /// where the key is read itself.
    pub(crate) fn aside<'s>(&self, report: &'s Report) -> Section<'s>
    where
        'n: 's,
    {
        Section {
            report,
            file: None,
            line: self.line,
            path: self.path.clone(),
            entries: self.entries.clone(),
            asked: RefCell::default(),
            any_key: Cell::new(true),
        }
    }

    /// Whether a list without items stands at `key`.
    pub(crate) fn is_empty_list(&self, key: &'static str) -> bool {
        match self.node(key).map(|node| &node.value) {
            Some(Value::List(items)) => items.is_empty(),
            Some(Value::Scalar(Scalar { kind: ScalarKind::Nothing, .. })) => true,
            _ => false,
        }
    }

    /// A section that is the item of a list.
    pub(crate) fn item(&self, item: &At<&'n Node>) -> Option<Section<'n>> {
        self.section_of(item.value, item.place.field.clone(), &item.place)
    }

    /// What stands at `key`, whatever it is.
    pub(crate) fn node(&self, key: &'static str) -> Option<&'n Node> {
        self.report.asked(&self.path, key);
        self.asked.borrow_mut().push(key);
        self.entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| *node)
    }

    /// Reports `low_key` unless its value is less than that of `high_key`; each may be a default.
    pub(crate) fn less<T: Quantity>(
        &self,
        low_key: &'static str,
        low: T,
        high_key: &'static str,
        high: T,
    ) {
        if low >= high {
            let mut place = self.place(low_key);
            place.line = place.line.or(self.place(high_key).line);
            let rule = format!("must be less than {high_key}, which is {}", high.written());
            self.add(place.bad(low.written(), rule));
        }
    }

    /// Reports that `key` is not there; `rule` says what it is.
    pub(crate) fn missing(&self, key: &'static str, rule: &str) {
        self.add(ConfigError { line: self.line, ..self.place(key).wrong(rule) });
    }

    /// What `read` gave; its problem is reported.
    pub(crate) fn reported<T>(&self, read: Result<T, ConfigError>) -> Option<T> {
        read.map_err(|problem| self.add(problem)).ok()
    }

    /// What `parse` makes of the word of a list; the rule that it breaks is reported.
    pub(crate) fn judged<T>(
        &self,
        item: &At<&Node>,
        parse: impl FnOnce(&str) -> Result<T, BadValue>,
    ) -> Option<T> {
        let value = &item.value.value;
        self.reported(
            text(value).and_then(parse).map_err(|rule| item.place.bad(shown(value), rule)),
        )
    }

    /// The words that the flag `long` was given.
    pub(crate) fn words(&self, long: &str) -> Option<&'n [String]> {
        self.report.given.words.get(long).map(Vec::as_slice)
    }

    /// The directory that relative paths of flags are meant from.
    pub(crate) fn cwd(&self) -> Option<&'n Path> {
        self.report.given.cwd.as_deref()
    }

    /// Whether sockets can be IPv6.
    pub(crate) fn ipv6(&self) -> bool {
        self.report.given.ipv6
    }

    /// Adds a problem.
    pub(crate) fn add(&self, problem: ConfigError) {
        self.report.add(problem);
    }

    fn section_of(&self, node: &'n Node, path: String, place: &Place) -> Option<Section<'n>> {
        let Some(entries) = entries(node) else {
            self.report
                .add(place.bad(shown(&node.value), "must be keys and values, indented below it"));
            return None;
        };
        Some(Section::over(self.report, self.file.clone(), place.line, path, entries))
    }

    fn at(&self, line: Option<u64>, key: &str) -> Place {
        Place { file: self.file.clone(), line, field: joined(&self.path, key) }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        if self.any_key.get() {
            return;
        }
        let asked = self.asked.borrow();
        for (key, _) in &self.entries {
            if !asked.contains(&key.text.as_str()) {
                self.report.unknown(self.at(Some(key.line), &key.text), &self.path, &key.text);
            }
        }
    }
}

fn entries(node: &Node) -> Option<&[(Key, Node)]> {
    match &node.value {
        Value::Mapping(entries) => Some(entries),
        Value::Scalar(Scalar { kind: ScalarKind::Nothing, .. }) => Some(&[]),
        _ => None,
    }
}

/// What can be compared and written as in the file.
pub(crate) trait Quantity: PartialOrd + Copy {
    fn written(self) -> String;
}

impl Quantity for f64 {
    fn written(self) -> String {
        self.to_string()
    }
}

impl Quantity for Duration {
    fn written(self) -> String {
        duration::format(self)
    }
}

/// A word of the command line as if it stood in a file.
pub(crate) fn word_of(text: &str) -> Value {
    let kind = match text {
        "true" => ScalarKind::Flag(true),
        "false" => ScalarKind::Flag(false),
        text if text.parse::<f64>().is_ok() => ScalarKind::Number,
        _ => ScalarKind::Text,
    };
    Value::Scalar(Scalar { text: text.to_owned(), kind, quoted: false })
}

/// A value as a message shows it.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Scalar(Scalar { kind: ScalarKind::Nothing, .. }) => "(nothing)".to_owned(),
        Value::Scalar(scalar) if scalar.text.is_empty() => "\"\"".to_owned(),
        Value::Scalar(scalar) => scalar.text.chars().take(SHOWN_CHARS_MAX).collect(),
        Value::List(_) => "(a list)".to_owned(),
        Value::Mapping(_) => "(keys and values)".to_owned(),
    }
}

const SHOWN_CHARS_MAX: usize = 80;

/// A duration in Prometheus' syntax. Errs when it is none, or out of range.
pub(crate) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&Value) -> Result<Duration, BadValue> {
    let limits = duration::format(*range.start())..=duration::format(*range.end());
    move |value| match word(value).map(|scalar| duration::parse(&scalar.text)) {
        Some(Some(duration)) if range.contains(&duration) => Ok(duration),
        Some(Some(_)) => Err(BadValue::outside("must be", &limits)),
        _ => Err(BadValue::outside("must be a duration such as 30s or 1h30m,", &limits)),
    }
}

/// A number between 0 and 1. Errs with the rule.
pub(crate) fn ratio(value: &Value) -> Result<f64, BadValue> {
    word(value)
        .filter(|scalar| scalar.kind == ScalarKind::Number)
        .and_then(|scalar| scalar.text.parse::<f64>().ok())
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or(BadValue::Rule("must be a ratio from 0 to 1, such as 0.8"))
}

/// A whole number. Errs when it is none, or out of range.
pub(crate) fn count(range: RangeInclusive<usize>) -> impl Fn(&Value) -> Result<usize, BadValue> {
    move |value| {
        word(value)
            .filter(|scalar| scalar.kind == ScalarKind::Number)
            .and_then(|scalar| scalar.text.replace('_', "").parse().ok())
            .filter(|count| range.contains(count))
            .ok_or_else(|| BadValue::outside("must be a whole number from", &range))
    }
}

/// `true` or `false`. Errs with the rule.
pub(crate) fn flag(value: &Value) -> Result<bool, BadValue> {
    match word(value) {
        Some(Scalar { kind: ScalarKind::Flag(flag), .. }) => Ok(*flag),
        _ => Err("must be true or false".into()),
    }
}

/// Text, also such as YAML takes for a number: nobody should have to quote a version. Errs with the rule.
pub(crate) fn text(value: &Value) -> Result<&str, BadValue> {
    match word(value) {
        Some(Scalar { kind: ScalarKind::Text | ScalarKind::Number, text, .. }) => Ok(text),
        Some(Scalar { kind: ScalarKind::Flag(_), text, .. }) => {
            Err(BadValue::NeedsQuotes { rule: "must be text", quoted: text.clone() })
        }
        _ => Err("must be text".into()),
    }
}

/// The items of a list of words; those that are wrong are reported.
pub(crate) fn texts<T>(
    section: &Section<'_>,
    key: &'static str,
    max: usize,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Vec<T> {
    let items = section.list(key, max);
    items.iter().filter_map(|item| section.judged(item, &parse)).collect()
}

/// One of `choices`. Errs when it is none of them.
pub(crate) fn choice<T: Copy>(
    choices: &[T],
    name: impl Fn(T) -> &'static str,
) -> impl Fn(&Value) -> Result<T, BadValue> {
    move |value| {
        let text = text(value)?;
        let found = choices.iter().copied().find(|choice| name(*choice) == text);
        found.ok_or_else(|| BadValue::NoneOf(choices.iter().map(|choice| name(*choice)).collect()))
    }
}

/// Permission bits. YAML 1.1 reads 0644 as octal and 1.2 as decimal, so they must stand in quotes. Errs with the rule.
pub(crate) fn mode(value: &Value) -> Result<u32, BadValue> {
    let word = word(value).ok_or(BadValue::Rule(MODE_RULE))?;
    let digits = word.text.strip_prefix("0o").unwrap_or(&word.text);
    let octal =
        (3..=5).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o7777 && word.quoted => Ok(mode),
        Ok(mode) if octal && mode <= 0o7777 => {
            let quoted = format!("{mode:04o}");
            Err(BadValue::NeedsQuotes { rule: "must stand in quotes", quoted })
        }
        _ => Err(MODE_RULE.into()),
    }
}

const MODE_RULE: &str = "must be octal digits in quotes, such as \"0640\"";

fn word(value: &Value) -> Option<&Scalar> {
    match value {
        Value::Scalar(scalar) if scalar.kind != ScalarKind::Nothing => Some(scalar),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::yaml;

    fn value(source: &str) -> Value {
        yaml::parse(source).unwrap().value
    }

    #[test]
    fn values_of_each_kind_are_read_and_the_rule_is_told() {
        let second = Duration::from_secs(1);
        let interval = duration(Duration::from_millis(100)..=Duration::from_hours(1));
        let read = |source: &str| interval(&value(source));
        assert_eq!(read("1s"), Ok(second));
        assert_eq!(read("'1s'"), Ok(second));
        assert_eq!(read("1ms"), Err(BadValue::outside("must be", &("100ms"..="1h"))));
        for wrong in ["5", "5.0", "1 s", "", "[1s]", "true", "1h30"] {
            assert_eq!(
                read(wrong),
                Err(BadValue::outside(
                    "must be a duration such as 30s or 1h30m,",
                    &("100ms"..="1h")
                )),
                "{wrong}"
            );
        }

        for (source, want) in [
            ("0.8", Some(0.8)),
            ("1", Some(1.0)),
            ("0", Some(0.0)),
            ("8e-1", Some(0.8)),
            ("1.01", None),
            ("-0.1", None),
            (".nan", None),
            (".inf", None),
            ("80%", None),
            ("'0.8'", None),
            ("", None),
        ] {
            assert_eq!(ratio(&value(source)).ok(), want, "{source}");
        }
        for (source, want) in [
            ("1", Some(1)),
            ("1_0", Some(10)),
            ("0", None),
            ("11", None),
            ("1.0", None),
            ("'1'", None),
            ("-1", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(count(1..=10)(&value(source)).ok(), want, "{source}");
        }
        for (source, want) in [
            ("true", Some(true)),
            ("false", Some(false)),
            ("yes", None),
            ("'true'", None),
            ("1", None),
        ] {
            assert_eq!(flag(&value(source)).ok(), want, "{source}");
        }
        for (source, want) in [
            ("a", Ok("a")),
            ("1.10", Ok("1.10")),
            ("'x y'", Ok("x y")),
            ("", Err("must be text")),
            ("true", Err("must be text: write \"true\"")),
            ("[a]", Err("must be text")),
        ] {
            assert_eq!(
                text(&value(source)).map_err(|rule| rule.to_string()),
                want.map_err(str::to_owned),
                "{source}"
            );
        }
    }

    #[test]
    fn modes_must_stand_in_quotes_and_the_rule_says_what_to_write() {
        for (source, want) in [
            ("'0644'", Ok(0o644)),
            ("\"750\"", Ok(0o750)),
            ("'2770'", Ok(0o2770)),
            ("'0o640'", Ok(0o640)),
            ("0644", Err("must stand in quotes: write \"0644\"")),
            ("644", Err("must stand in quotes: write \"0644\"")),
            ("0o644", Err("must stand in quotes: write \"0644\"")),
            ("'0888'", Err(MODE_RULE)),
            ("'10000'", Err(MODE_RULE)),
            ("'77'", Err(MODE_RULE)),
            ("'+644'", Err(MODE_RULE)),
            ("rw-r--r--", Err(MODE_RULE)),
            ("", Err(MODE_RULE)),
        ] {
            assert_eq!(
                mode(&value(source)).map_err(|rule| rule.to_string()),
                want.map_err(str::to_owned),
                "{source}"
            );
        }
    }
}
