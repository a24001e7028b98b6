//! The selectors of a PromQL expression: enough of its grammar to tell metrics from functions, keywords and labels. That an
//! expression is right as a whole is Prometheus' business.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

/// `name{label op "value", …}`, and whether a range follows and what stands directly around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<Matcher>,
    /// What stands between the brackets behind it; empty for an instant vector.
    pub range: String,
    /// The function or aggregation whose parenthesis is the innermost around it.
    pub inside: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    pub label: String,
    pub op: String,
    pub value: String,
}

/// What an expression names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    pub selectors: Vec<Selector>,
    /// Labels of `by`, `without`, `on`, `ignoring`, `group_left` and `group_right`.
    pub labels: Vec<String>,
}

/// Panics on what it does not understand, because a test that skips a selector proves nothing.
pub fn named(expr: &str) -> Named {
    let tokens = tokens(expr);
    let mut named = Named::default();
    let mut around: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let next = tokens.get(at).map(String::as_str);
        match token.as_str() {
            "(" => around.push(String::new()),
            ")" => drop(around.pop().unwrap_or_else(|| panic!("closed twice: {expr}"))),
            word if !is_word(word)
                || matches!(word, "and" | "or" | "unless" | "bool" | "offset") => {}
            "by" | "without" | "on" | "ignoring" | "group_left" | "group_right" => {
                if next == Some("(") {
                    let end = tokens[at..].iter().position(|t| t == ")").expect("ends") + at;
                    let labels = tokens[at + 1..end].iter().filter(|t| *t != ",");
                    named.labels.extend(labels.cloned());
                    at = end + 1;
                    // `sum by (x) (…)`: the parenthesis that follows is the aggregation's.
                }
            }
            word if next == Some("(") => {
                around.push(word.to_owned());
                at += 1;
            }
            // `sum by (…) (…)`, an aggregation whose labels come first.
            word if matches!(next, Some("by" | "without")) => {
                let end = tokens[at..].iter().position(|t| t == ")").expect("ends") + at;
                named.labels.extend(tokens[at + 2..end].iter().filter(|t| *t != ",").cloned());
                assert_eq!(tokens.get(end + 1).map(String::as_str), Some("("), "{expr}");
                around.push(word.to_owned());
                at = end + 2;
            }
            word => {
                let mut selector = Selector {
                    metric: word.to_owned(),
                    matchers: Vec::new(),
                    range: String::new(),
                    inside: around
                        .iter()
                        .rfind(|name| !name.is_empty())
                        .cloned()
                        .unwrap_or_default(),
                };
                if next == Some("{") {
                    at += 1;
                    while tokens[at] != "}" {
                        let [label, op, value] = [0, 1, 2].map(|n| tokens[at + n].clone());
                        let value = value.trim_matches('"').to_owned();
                        assert!(is_word(&label) && op.contains(['=', '~']), "{expr}: {label}{op}");
                        selector.matchers.push(Matcher { label, op, value });
                        at += 3;
                        if tokens[at] == "," {
                            at += 1;
                        }
                    }
                    at += 1;
                }
                if let Some(range) = tokens.get(at).and_then(|t| t.strip_prefix('[')) {
                    range.trim_end_matches(']').clone_into(&mut selector.range);
                    at += 1;
                }
                named.selectors.push(selector);
            }
        }
    }
    assert!(around.is_empty(), "left open: {expr}");
    named
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
}

fn tokens(expr: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = expr;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                continue;
            }
            '"' => {
                let mut escaped = false;
                let end = rest[1..].find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                end.unwrap_or_else(|| panic!("open string: {expr}")) + 2
            }
            '[' => rest.find(']').unwrap_or_else(|| panic!("open range: {expr}")) + 1,
            c if c.is_ascii_alphabetic() || c == '_' || c == ':' => rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
                .unwrap_or(rest.len()),
            c if c.is_ascii_digit() => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len())
            }
            '=' | '!' | '<' | '>' => 1 + usize::from(rest[1..].starts_with(['=', '~'])),
            // A variable of Grafana in the place of a number.
            '$' => {
                1 + rest[1..]
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(rest.len() - 1)
            }
            c => c.len_utf8(),
        };
        out.push(rest[..length].to_owned());
        rest = &rest[length..];
    }
    out
}
