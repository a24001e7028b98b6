//! The rules of `promtool check metrics` (`promlint` of `client_golang`), and those of this project: what a reader of a
//! metric may rely on without looking it up.

/// A family as far as the rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct Metric<'a> {
    pub name: &'a str,
    pub help: &'a str,
    pub counter: bool,
    pub labels: &'a [&'a str],
}

/// Every rule that the family breaks.
pub fn problems(metric: Metric<'_>) -> Vec<String> {
    let mut problems = promlint(metric);
    problems.extend(house(metric));
    problems
}

fn promlint(metric: Metric<'_>) -> Vec<String> {
    let Metric { name, help, counter, labels } = metric;
    let words: Vec<&str> = name.split('_').collect();
    let lower = name.to_lowercase();
    let has_word =
        |word: &str| lower.contains(&format!("_{word}_")) || lower.ends_with(&format!("_{word}"));
    let mut problems = Vec::new();
    let mut rule = |broken: bool, text: String| {
        if broken {
            problems.push(format!("{name}: {text}"));
        }
    };
    rule(help.is_empty(), "no help".to_owned());
    rule(counter && !name.ends_with("_total"), "a counter ends in _total".to_owned());
    rule(!counter && name.ends_with("_total"), "only a counter ends in _total".to_owned());
    // promlint looks at the first unit of a name only; here every word counts.
    for word in &words {
        if let Some(base) = base_unit(word) {
            rule(base != *word, format!("base unit {base} instead of {word}"));
        }
    }
    for kind in ["counter", "gauge", "summary", "histogram", "gauge_histogram"] {
        rule(has_word(kind), format!("the type {kind} in the name"));
    }
    for unit in ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"] {
        rule(has_word(unit), format!("the abbreviated unit {unit}"));
    }
    for suffix in ["_bucket", "_count", "_sum"] {
        rule(name.ends_with(suffix), format!("{suffix} belongs to histograms"));
    }
    rule(name.contains(':'), "a colon belongs to recording rules".to_owned());
    rule(camel_case(name), "camelCase".to_owned());
    for label in labels {
        rule(["le", "quantile"].contains(label), format!("the reserved label {label}"));
        rule(camel_case(label), format!("camelCase in the label {label}"));
    }
    problems
}

fn house(metric: Metric<'_>) -> Vec<String> {
    let Metric { name, help, labels, .. } = metric;
    let mut problems = Vec::new();
    let mut rule = |broken: bool, text: &str| {
        if broken {
            problems.push(format!("{name}: {text}"));
        }
    };
    let ours = name.starts_with("chroma_");
    rule(!ours && !name.starts_with("process_"), "neither chroma_ nor process_");
    rule(
        !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()),
        "not snake_case",
    );
    rule(!help.ends_with('.'), "the help is not a sentence");
    rule(help.contains('\n'), "the help is more than a line");
    rule(
        name.contains("timestamp") && !name.ends_with("_timestamp_seconds"),
        "a moment ends in _timestamp_seconds",
    );
    rule(name.contains("percent") || name.ends_with("_pct"), "ratios, not percentages");
    for label in labels {
        rule(
            *label == "path" && !name.ends_with("_info") && !name.contains("_http_"),
            "a path outside an _info family",
        );
        rule(
            ["type", "error", "message", "pid"].contains(label),
            "a label that is unbounded or says nothing",
        );
        rule(["job", "instance"].contains(label), "a label that Prometheus gives itself");
        rule(label.starts_with("__"), "a label that Prometheus keeps for itself");
    }
    let mut unique: Vec<_> = labels.to_vec();
    unique.sort_unstable();
    unique.dedup();
    rule(unique.len() != labels.len(), "a label twice");
    problems
}

/// The base unit of a word that is a unit.
fn base_unit(word: &str) -> Option<&'static str> {
    const PREFIXES: &[&str] = &[
        "pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi", "mega",
        "mibi", "mebi", "giga", "gibi", "tera", "tebi", "peta", "pebi",
    ];
    const UNITS: &[(&str, &[&str])] = &[
        ("seconds", &["seconds", "minutes", "hours", "days", "weeks"]),
        ("bytes", &["bytes", "bits"]),
        ("celsius", &["celsius", "fahrenheit", "rankine"]),
        ("kelvin", &["kelvin", "kelvins"]),
        ("meters", &["meters", "inches", "yards", "miles"]),
        ("metres", &["metres"]),
        ("grams", &["grams", "pounds", "ounces"]),
        ("joules", &["joules", "calories"]),
        ("volts", &["volts"]),
        ("amperes", &["amperes"]),
    ];
    let plain =
        |word: &str| UNITS.iter().find(|(_, words)| words.contains(&word)).map(|(base, _)| *base);
    plain(word).or_else(|| PREFIXES.iter().find_map(|prefix| plain(word.strip_prefix(prefix)?)))
}

fn camel_case(name: &str) -> bool {
    name.as_bytes().windows(2).any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase())
}
