//! The built-in rules: one for each entry of the catalogue, named after it. The disk is watched by its level, so that a
//! threshold can be retuned here without changing what `check` finds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::rule::{Comparison, Level, On, Rule};
use crate::{config::Disk, findings::Code};

/// Every built-in rule, in the order of the catalogue.
#[must_use]
pub fn rules(levels: &Disk) -> Vec<Rule> {
    Code::ALL.iter().map(|code| rule(*code, levels)).collect()
}

fn rule(code: Code, levels: &Disk) -> Rule {
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
    let on = match code {
        Code::DiskUsageHigh => disk(levels.warn_ratio, levels.recover_ratio),
        Code::DiskUsageCritical => {
            disk(levels.critical_ratio, levels.critical_ratio - CRITICAL_RECOVERY)
        }
        _ => On::Finding(code),
    };
    let severity = matches!(on, On::Series(_)).then(|| code.severity());
    let (hold, keep) = patience(code);
    Rule {
        name: name(code).into(),
        on,
        severity,
        hold: Duration::from_secs(hold),
        keep_firing_for: Duration::from_secs(keep),
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

/// Seconds of `for` and of `keep_firing_for`. Nearly all collectors look twice before they say a thing, so their word is
/// enough; these can come and go within a restart or a burst of work.
fn patience(code: Code) -> (u64, u64) {
    match code.as_str() {
        "server_gone" | "server_unreachable" | "server_failing" | "server_elsewhere" => (15, 0),
        "lock_held" | "descriptors_low" | "log_error" | "log_panic" | "collector_failing" => {
            (0, 60)
        }
        "disk_will_fill" | "headroom_low" | "inodes_low" | "queue_backlog" | "index_lag" => {
            (0, 300)
        }
        // Tests and scripts often have a store in memory for some minutes.
        "disk_temporary" => (900, 0),
        _ => (0, 0),
    }
}

const DISK_USED: &str = "chroma_disk_used_ratio";

/// The critical level of the disk ends so much below where it begins.
const CRITICAL_RECOVERY: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_rule_with_a_name_of_its_own() {
        let rules = rules(&Disk::default());
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
