//! The built-in rules: one for each entry of the catalogue, named after it. The disk is watched by its level, so that a
//! threshold can be retuned here without changing what `check` finds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::rule::{Comparison, Level, On, Rule};
use crate::findings::{Code, DiskLevel};

/// At which used shares of the disk its alerts begin and end, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiskLevels {
    /// The warning begins here.
    pub warn_ratio: f64,
    /// The warning ends below this.
    pub recover_ratio: f64,
    /// The critical alert begins here, and ends [`CRITICAL_RECOVERY`] below.
    pub critical_ratio: f64,
}

/// Every built-in rule, in the order of the catalogue.
#[must_use]
pub fn rules(levels: &DiskLevels) -> Vec<Rule> {
    Code::ALL.iter().map(|code| rule(*code, levels)).collect()
}

fn rule(code: Code, levels: &DiskLevels) -> Rule {
    let disk = |threshold, recover| {
        On::Series(Level {
            series: DISK_USED.into(),
            labels: BTreeMap::new(),
            comparison: Comparison::GreaterOrEqual,
            threshold,
            recover: Some(recover),
            code: Some(code),
        })
    };
    let on = match code.level() {
        Some(DiskLevel::Warning) => disk(levels.warn_ratio, levels.recover_ratio),
        Some(DiskLevel::Critical) => {
            disk(levels.critical_ratio, levels.critical_ratio - CRITICAL_RECOVERY)
        }
        None => On::Finding(code),
    };
    let severity = matches!(on, On::Series(_)).then(|| code.severity());
    Rule {
        name: name(code).into(),
        on,
        severity,
        hold: Duration::from_secs(code.hold_secs()),
        keep_firing_for: Duration::from_secs(code.keep_secs()),
        labels: BTreeMap::new(),
        summary: title(code),
    }
}

/// `ChromaDiskUsageHigh` for `disk_usage_high`.
#[must_use]
pub fn name(code: Code) -> String {
    let mut name = String::from("Chroma");
    for word in code.as_str().split('_') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

/// What a word for a finding or for its alert comes to, however it is written: `secondwriter` for `second_writer`,
/// `ChromaSecondWriter` and `Second-Writer`.
#[must_use]
pub fn key(word: &str) -> String {
    let key: String = word
        .chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    key.strip_prefix("chroma").map(str::to_owned).unwrap_or(key)
}

/// `Disk usage high`, `SQLite index corrupt`: the words of the code as a person reads them.
#[must_use]
pub fn title(code: Code) -> Arc<str> {
    let mut words = code.as_str().split('_');
    let first = match words.next().unwrap_or_default() {
        "sqlite" => "SQLite".to_owned(),
        "fts" => "Full-text index".to_owned(),
        "wal" => "WAL".to_owned(),
        word => {
            let mut letters = word.chars();
            let mut text: String =
                letters.next().map(|c| c.to_ascii_uppercase()).into_iter().collect();
            text.push_str(letters.as_str());
            text
        }
    };
    words.fold(first, |text, word| text + " " + word).into()
}

const DISK_USED: &str = "chroma_disk_used_ratio";

/// The critical level of the disk ends so much below where it begins.
pub const CRITICAL_RECOVERY: f64 = 0.05;

/// Levels for tests.
#[cfg(test)]
pub(crate) const USUAL: DiskLevels =
    DiskLevels { warn_ratio: 0.8, recover_ratio: 0.75, critical_ratio: 0.9 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_rule_with_a_name_of_its_own() {
        let rules = rules(&USUAL);
        let names: std::collections::BTreeSet<&str> =
            rules.iter().map(|rule| &*rule.name).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(names.contains("ChromaDiskUsageHigh") && names.contains("ChromaSecondWriter"));
        assert_eq!(&*title(Code::SqliteIndexCorrupt), "SQLite index corrupt");
        let keys: std::collections::BTreeSet<String> =
            Code::ALL.iter().map(|code| key(code.as_str())).collect();
        assert_eq!(keys.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| key(&name(*code)) == key(code.as_str())));
        for rule in rules {
            if let On::Series(level) = rule.on {
                assert!(level.recover.is_some_and(|recover| recover < level.threshold));
            }
        }
    }
}
