//! YAML text to a tree whose every node knows its line. The tree keeps what people wrote (`1.10` stays `1.10`, repeated
//! keys stay), so that one wrong value hides no other; what the values mean is read by [`section`](super::section).
//! Bounded against hostile text: depth, nodes, aliases, and what aliases grow to.

use std::fmt;

use super::{report::looks_like_address, secret::SHOWN};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    DefaultMessageFormatter, DuplicateKeyPolicy, Error, Location, MessageFormatter,
    NonFiniteFloatPolicy, Spanned,
};

/// One value and its line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// From 1; where it is used, when it comes from an anchor.
    pub(crate) line: u64,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping. Ours are all text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) line: u64,
    pub(crate) text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar {
    /// As it stands in the file, without quotes and escapes.
    pub(crate) text: String,
    pub(crate) kind: ScalarKind,
    /// Whether it stands in quotes.
    pub(crate) quoted: bool,
}

/// What YAML 1.2 takes a scalar for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ScalarKind {
    Nothing,
    Flag(bool),
    Number,
    Text,
}

/// Why there is no tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: Option<u64>,
    pub(crate) message: String,
}

/// The tree of `source`. Empty text is [`ScalarKind::Nothing`]. Errs with the line of what is no YAML, or more than a
/// configuration needs.
pub(crate) fn parse(source: &str) -> Result<Node, SyntaxError> {
    if source.len() > SOURCE_BYTES_MAX {
        let message = format!("must not be larger than {} KiB", SOURCE_BYTES_MAX / 1024);
        return Err(SyntaxError { line: None, message });
    }
    let tree: Spanned<Parsed> = serde_saphyr::from_str_with_options(source, options())
        .map_err(|error| syntax_error(&error))?;
    Ok(node(tree, source))
}

/// Largest configuration file.
pub(crate) const SOURCE_BYTES_MAX: usize = 1024 * 1024;

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            flow_nesting_limit: 16,
            max_documents: 1,
            max_nodes: 100_000,
            max_events: 300_000,
            max_anchors: 1_000,
            max_aliases: 1_000,
            max_recorded_anchor_events: 100_000,
            max_recorded_anchor_bytes: 4 * SOURCE_BYTES_MAX,
            max_merge_keys: 1_000,
            max_total_scalar_bytes: 4 * SOURCE_BYTES_MAX,
            // Hundreds of stores may share one anchor; what they grow to is bounded above.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // All of them reach the tree, so that each is reported with its line.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        leading_zero_numbers_as_strings: true,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn syntax_error(mut error: &Error) -> SyntaxError {
    let line = error.location().map(|at| at.line()).filter(|line| *line > 0);
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } =
        error
    {
        error = inner;
    }
    let message = match error {
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } => {
            "too large, too deep or too many aliases for a configuration".to_owned()
        }
        _ => {
            let reported = DefaultMessageFormatter.format_message(error);
            // Without a tree nobody knows in which section a text stands.
            let word = |word| if looks_like_address(word) { SHOWN } else { word };
            let reported: Vec<&str> = reported.split(' ').map(word).collect();
            format!("is not YAML: {}", reported.join(" "))
        }
    };
    SyntaxError { line, message }
}

/// The tree as serde hands it over: numbers have lost their text, which [`node`] takes from the source again.
enum Parsed {
    Nothing,
    Flag(bool),
    Number,
    Text(String),
    List(Vec<Spanned<Parsed>>),
    Mapping(Vec<(Spanned<Parsed>, Spanned<Parsed>)>),
}

fn node(parsed: Spanned<Parsed>, source: &str) -> Node {
    let written = source_text(&parsed.defined, source);
    let scalar = |text: &str, kind| {
        // Block text (`|`, `>`) counts as quoted: nobody writes it by mistake.
        let quoted = kind == ScalarKind::Text
            && (written.starts_with(['"', '\'']) || written.contains('\n'));
        Value::Scalar(Scalar { text: text.to_owned(), kind, quoted })
    };
    let value = match parsed.value {
        Parsed::Nothing => scalar(written, ScalarKind::Nothing),
        Parsed::Flag(flag) => scalar(written, ScalarKind::Flag(flag)),
        Parsed::Number => scalar(written, ScalarKind::Number),
        Parsed::Text(text) => scalar(&text, ScalarKind::Text),
        Parsed::List(items) => {
            Value::List(items.into_iter().map(|item| node(item, source)).collect())
        }
        Parsed::Mapping(entries) => Value::Mapping(
            entries
                .into_iter()
                .map(|(key, value)| (key_of(key, source), node(value, source)))
                .collect(),
        ),
    };
    Node { line: parsed.referenced.line(), value }
}

fn key_of(key: Spanned<Parsed>, source: &str) -> Key {
    let Node { line, value } = node(key, source);
    let text = match value {
        Value::Scalar(scalar) => scalar.text,
        Value::List(_) | Value::Mapping(_) => "(a key that is not text)".to_owned(),
    };
    Key { line, text }
}

fn source_text<'s>(at: &Location, source: &'s str) -> &'s str {
    let span = at.span();
    let range = span.byte_offset().zip(span.byte_len()).and_then(|(offset, len)| {
        let start = usize::try_from(offset).ok()?;
        Some(start..start.checked_add(usize::try_from(len).ok()?)?)
    });
    range.and_then(|range| source.get(range)).unwrap_or_default()
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Nothing)
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Nothing)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Parsed, E> {
        Ok(Parsed::Flag(flag))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Parsed, E> {
        Ok(Parsed::Number)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Parsed, E> {
        Ok(Parsed::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Parsed, E> {
        Ok(Parsed::Number)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Parsed, E> {
        Ok(Parsed::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Parsed, E> {
        Ok(Parsed::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Parsed, E> {
        Ok(Parsed::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Parsed::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parsed, A::Error> {
        let mut mapping = Vec::new();
        while let Some(key) = entries.next_key()? {
            mapping.push((key, entries.next_value()?));
        }
        Ok(Parsed::Mapping(mapping))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tree as `line:value` words.
    fn shown(node: &Node) -> String {
        let line = node.line;
        match &node.value {
            Value::Scalar(Scalar { text, kind, quoted }) => {
                format!("{line}:{kind:?}{}{text}", if *quoted { "\"" } else { " " })
            }
            Value::List(items) => {
                format!("{line}:[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "))
            }
            Value::Mapping(entries) => {
                let entry = |(key, node): &(Key, Node)| {
                    format!("{}@{} {}", key.text, key.line, shown(node))
                };
                format!("{line}:{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
        }
    }

    #[test]
    fn values_keep_their_text_their_quotes_and_their_line() {
        for (source, want) in [
            ("", "1:Nothing "),
            ("# nothing\n", "2:Nothing "),
            ("\u{feff}a: 1", "1:{a@1 1:Number 1}"),
            (
                "a: 1.10\nb: 0644\nc: '0644'",
                "1:{a@1 1:Number 1.10, b@2 2:Text 0644, c@3 3:Text\"0644}",
            ),
            ("a: yes\nb: true\nc:\n", "1:{a@1 1:Text yes, b@2 2:Flag(true) true, c@3 3:Nothing }"),
            ("a: 1\na: 2", "1:{a@1 1:Number 1, a@2 2:Number 2}"),
            ("- x\n-\n  - .nan\n", "1:[1:Text x, 3:[3:Number .nan]]"),
            ("a: &x 1.50\nb:\n  - *x", "1:{a@1 1:Number 1.50, b@2 3:[3:Number 1.50]}"),
            ("5: |\n  two\n  lines\n", "1:{5@1 2:Text\"two\nlines\n}"),
            ("? [1]\n: 2", "1:{(a key that is not text)@1 2:Number 2}"),
        ] {
            assert_eq!(parse(source).map(|node| shown(&node)), Ok(want.to_owned()), "{source:?}");
        }
    }

    #[test]
    fn text_that_is_not_one_yaml_document_is_refused_with_its_line() {
        for (source, line) in [
            ("a: [\n", 1),
            ("a: 1\nb: c: d\n", 2),
            ("a: 1\n---\nb: 2\n", 2),
            ("a: 'open\n", 1),
            ("\n\na: *nowhere", 3),
            ("a: &a [*a]", 1),
            ("a: \u{7}", 1),
            ("a: !!int x", 1),
        ] {
            let error = parse(source).unwrap_err();
            assert_eq!(error.line, Some(line), "{source:?} {}", error.message);
        }
    }

    #[test]
    fn hostile_yaml_is_refused_before_it_grows() {
        let each = |range: std::ops::Range<usize>, line: fn(usize) -> String| -> String {
            range.map(line).collect::<Vec<_>>().concat()
        };
        let laughs = each(1..10, |n| {
            format!("l{n}: &l{n} [{}]\n", vec![format!("*l{}", n - 1); 10].join(","))
        });
        let merges =
            each(1..31, |n| format!("m{n}: &m{n}\n  <<: [*m{0}, *m{0}]\n  k{n}: 1\n", n - 1));
        for (name, source) in [
            ("billion laughs", format!("l0: &l0 [lol]\n{laughs}")),
            ("merge keys", format!("m0: &m0 {{a: 1}}\n{merges}")),
            ("flow depth", "[".repeat(50_000)),
            ("closed flow depth", format!("{}{}", "[".repeat(200), "]".repeat(200))),
            ("block depth", each(0..200, |n| format!("{}-\n", " ".repeat(n)))),
            ("mapping depth", each(0..200, |n| format!("{}a:\n", " ".repeat(n)))),
            ("nodes", "- x\n".repeat(200_000)),
            ("size", "#".repeat(SOURCE_BYTES_MAX + 1)),
            ("text", format!("- &x {}\n{}", "y".repeat(900_000), "- *x\n".repeat(900))),
            ("anchors", each(0..5_000, |n| format!("- &a{n} x\n"))),
        ] {
            let error = parse(&source).expect_err(name);
            assert!(
                error.message.starts_with("too ")
                    || error.message.starts_with("must not be larger")
                    || error.message.contains("depth")
                    || error.message.contains("nesting")
                    || error.message.contains("limit"),
                "{name}: {}",
                error.message
            );
        }
    }

    #[test]
    fn a_megabyte_of_one_scalar_or_comment_is_read() {
        assert!(parse(&format!("# {}\na: 1", "x".repeat(900_000))).is_ok());
        assert!(parse(&format!("a: {}", "x".repeat(900_000))).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(source in "\\PC{0,200}|[a-z:\\-\\[\\]{}&*!|>'\"%@`#,? \n\t0-9<]{0,200}") {
            drop(parse(&source));
        }
    }
}
