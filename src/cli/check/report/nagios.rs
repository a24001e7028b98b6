//! One line for Nagios, Icinga and their kin, as the Monitoring Plugins guidelines have it: a word, a text, a bar, and figures with
//! their limits. The exit codes of `check` are those of plugins already.

use std::fmt::Write;

use super::Report;
use crate::{
    config::{Config, Store},
    hidden, human,
    sample::Snapshot,
    status::{Status, figures::Figures, worst::worst},
};

impl Report {
    /// The line and its end. `seen` has the same stores; `config` the limits.
    pub(in crate::cli) fn nagios(&self, config: &Config, seen: &Snapshot) -> String {
        let text = match (worst(&self.stores), self.problems.first()) {
            (Some((_, what)), _) => what,
            (None, Some(problem)) => problem.problem.clone(),
            (None, None) if self.stores.len() == 1 => "1 store is well".to_owned(),
            (None, None) => format!("{} stores are well", self.stores.len()),
        };
        let figures: String = seen
            .stores
            .iter()
            .take(STORES_MAX)
            .map(|store| {
                let policy = config.stores.iter().find(|known| known.name == store.store);
                figures(&store.store, &Figures::of(store), config, policy.map(|store| &**store))
            })
            .collect();
        let line = format!("CHROMA {} - {}", word(self.status), one_line(&text));
        if figures.is_empty() { line + "\n" } else { format!("{line} |{figures}\n") }
    }
}

const fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "OK",
        Status::Warning => "WARNING",
        Status::Critical => "CRITICAL",
        Status::Unknown => "UNKNOWN",
    }
}

/// A bar would begin the figures. Names from the disk drive no terminal, and no secret is shown.
fn one_line(text: &str) -> String {
    let text = human::plain(&hidden::shown(text)).replace('|', "/");
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What is known of one store, each with a space before it: `'label'=value[unit];[warning];[critical];[least];[most]`.
fn figures(name: &str, known: &Figures, config: &Config, store: Option<&Store>) -> String {
    let mut out = String::new();
    let mut figure = |what: &str, value: Option<f64>, rest: &str| {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            write!(out, " '{name}_{what}'={}{rest}", (value * 10.0).round() / 10.0)
                .unwrap_or_default();
        }
    };
    let percent = |ratio: f64| (ratio * 1000.0).round() / 10.0;
    let (warn, critical) = (percent(config.disk.warn_ratio), percent(config.disk.critical_ratio));
    let used = known.get("chroma_disk_used_ratio").map(|ratio| ratio * 100.0);
    figure("disk_used", used, &format!("%;{warn};{critical};0;100"));
    figure("size", known.get("chroma_store_apparent_bytes"), "B;;;0");
    figure("records", known.get("chroma_records"), ";;;0");
    figure("without_vector", known.get("chroma_records_without_vector"), ";;0;0");
    let age = known.get("chroma_backup_age_seconds").map(f64::round);
    let limits = store.map(|store| {
        let policy = &store.backups;
        format!("{};{}", policy.warn_after.as_secs(), policy.critical_after.as_secs())
    });
    figure("backup_age", age, &format!("s;{};0", limits.unwrap_or_else(|| ";".to_owned())));
    out
}

/// Agents cut what is longer: NRPE at 1 KB in old releases, 64 KB in new ones.
const TEXT_CHARS_MAX: usize = 300;
const STORES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cli::check::runner::CollectorRun,
        clock::Timestamp,
        collectors::CollectError,
        config::CollectorName,
        findings::{Code, Finding},
        firsts::Firsts,
        sample::{Desc, Observation, StoreReadings},
    };

    static USED: Desc = Desc::gauge("chroma_disk_used_ratio", "Used.");
    static AGE: Desc = Desc::gauge("chroma_backup_age_seconds", "Age.");
    static RECORDS: Desc = Desc::gauge("chroma_records", "Records.");

    fn line(stores: &[(&str, Vec<Finding>)]) -> String {
        let mut report = Report::default();
        let mut config = Config::default();
        let mut seen = Snapshot { taken_at: Timestamp::from_secs(0), stores: Vec::new() };
        for (name, findings) in stores {
            let observation = || Observation {
                findings: findings.clone(),
                samples: vec![USED.sample(0.8312), AGE.sample(3600.4), RECORDS.sample(3e9)],
                ..Observation::default()
            };
            let store = Store::new(*name, "/srv");
            let run = CollectorRun::of(CollectorName::Disk, observation());
            report.add_store(&store, &[run], &Firsts::default());
            seen.stores.push(StoreReadings::of_one(name, "/srv", "disk", observation()));
            config.stores.push(Arc::new(store));
        }
        report.nagios(&config, &seen)
    }

    #[test]
    fn one_line_says_the_worst_and_gives_figures_with_their_limits() {
        assert_eq!(
            line(&[("docs", vec![])]),
            "CHROMA OK - 1 store is well | 'docs_disk_used'=83.1%;80;90;0;100 'docs_records'=3000000000;;;0 \
             'docs_backup_age'=3600s;93600;180000;0\n"
        );
        let finding = Finding::new(Code::SecondWriter, "", "a|b\nc");
        let said = line(&[("a", vec![]), ("b", vec![finding])]);
        assert!(
            said.starts_with("CHROMA CRITICAL - b: second_writer: a/b c | 'a_disk_used'="),
            "{said}"
        );
        assert_eq!((said.matches('|').count(), said.matches('\n').count()), (1, 1));
        let long = line(&[("a", vec![Finding::new(Code::HotJournal, "", "x".repeat(599))])]);
        let (text, _) = long.split_once(" | ").unwrap();
        assert!(
            text.starts_with("CHROMA WARNING - a: hot_journal: xx") && text.ends_with('…'),
            "{long}"
        );
        let many: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
        let many: Vec<(&str, Vec<Finding>)> = many.iter().map(|name| (&**name, vec![])).collect();
        assert!(line(&many).starts_with("CHROMA OK - 30 stores are well |"));
        assert!(!line(&many).contains("'s20_"), "bounded");
    }

    #[test]
    fn nothing_known_is_not_well() {
        let mut report = Report::default();
        report.add_problem(&CollectError::OutOfReach("no store".to_owned()));
        let seen = Snapshot { taken_at: Timestamp::from_secs(0), stores: Vec::new() };
        assert_eq!(report.nagios(&Config::default(), &seen), "CHROMA UNKNOWN - no store\n");
    }
}
