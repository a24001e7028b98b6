use std::time::Duration;

use super::*;
use crate::{
    alert::{
        builtin,
        rule::{Comparison, Level},
    },
    collectors::CollectError,
    facts::trial::{Came, Trial},
    findings::{Finding, Severity},
    sample::{Desc, Observation, Restored},
};

static USED: Desc = Desc::gauge("chroma_disk_used_ratio", "");
static ROWS: Desc = Desc::gauge("chroma_rows", "").labelled(&["table"]);

static DESCS: &[&Desc] = &[&USED, &ROWS];

/// One store with one collector that answers for the disk ratio and two codes.
struct Host {
    engine: Engine,
    readings: Vec<Arc<Reading>>,
}

impl Host {
    fn new(rules: Vec<Rule>) -> Self {
        Self { engine: Engine::new(rules, "", BTreeMap::new()), readings: Vec::new() }
    }

    fn builtin() -> Self {
        Self::new(builtin::rules(&builtin::USUAL))
    }

    fn read(&mut self, observation: Observation) {
        self.readings = vec![Arc::new(Reading {
            next_within: Duration::from_secs(30),
            collector: "disk",
            descs: DESCS,
            codes: &[Code::SecondWriter, Code::BackupStale],
            observation,
            taken_at: Timestamp::from_secs(0),
            duration: Duration::ZERO,
            last_success: None,
        })];
    }

    fn at(&mut self, secs: i64) -> Vec<String> {
        let snapshot = Snapshot {
            taken_at: Timestamp::from_secs(secs),
            stores: vec![StoreReadings {
                firsts: std::sync::Arc::default(),
                trial: None,
                store: "a".into(),
                path: Path::new("/a").into(),
                readings: self.readings.clone(),
                collectors: 1,
            }],
        };
        let now = Timestamp::from_secs(secs);
        let events = words(&self.engine.evaluate(&snapshot, now).events);
        assert!(self.engine.evaluate(&snapshot, now).events.is_empty(), "repeated at {secs}");
        events
    }
}

fn words(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            Event::Fired(alert) => format!("fired {} {}", alert.name, alert.severity.as_str()),
            Event::Escalated(a) => format!("escalated {} {}", a.name, a.severity.as_str()),
            Event::Tried(alert) => format!("tried {}", alert.name),
            Event::Resolved(alert) => format!("resolved {}", alert.name),
        })
        .collect()
}

fn used(ratio: f64) -> Observation {
    Observation { samples: vec![USED.sample(ratio)], ..Observation::default() }
}

fn failed() -> Observation {
    let problems = vec![CollectError::OutOfReach("no".to_owned())];
    Observation { problems, ..Observation::default() }
}

fn found(findings: Vec<Finding>) -> Observation {
    Observation { findings, ..Observation::default() }
}

#[test]
fn the_disk_fires_at_80_per_cent_and_recovers_below_75_only() {
    let mut host = Host::builtin();
    let mut story = Vec::new();
    for (secs, ratio) in
        [0.799, 0.80, 0.79, 0.75, 0.90, 0.86, 0.849, 0.76, 0.7499].into_iter().enumerate()
    {
        host.read(used(ratio));
        for word in host.at(i64::try_from(secs).unwrap()) {
            story.push(format!("{ratio} {word}"));
        }
    }
    assert_eq!(
        story,
        [
            "0.8 fired ChromaDiskUsageHigh warning",
            "0.9 fired ChromaDiskUsageCritical critical",
            "0.849 resolved ChromaDiskUsageCritical",
            "0.7499 resolved ChromaDiskUsageHigh"
        ]
    );
}

#[test]
fn a_failed_reading_neither_fires_nor_resolves() {
    let mut host = Host::builtin();
    assert!(host.at(0).is_empty(), "nothing read yet");
    host.read(failed());
    assert!(host.at(1).is_empty());
    host.read(used(f64::NAN));
    assert!(host.at(2).is_empty());
    host.read(used(0.85));
    assert_eq!(host.at(3).len(), 1);
    host.read(failed());
    assert!(host.at(4).is_empty(), "still fires");
    host.read(used(f64::NAN));
    assert!(host.at(5).is_empty(), "still fires");
    host.read(used(0.1));
    assert_eq!(host.at(6), ["resolved ChromaDiskUsageHigh"]);
}

#[test]
fn a_finding_that_was_only_kept_does_not_fire_and_what_was_judged_resolves() {
    let mut host = Host::builtin();
    let kept = Finding { kept: true, ..Finding::new(Code::SecondWriter, "", "two") };
    host.read(Observation { findings: vec![kept.clone()], ..failed() });
    assert!(host.at(0).is_empty());
    host.read(found(vec![Finding::new(Code::SecondWriter, "", "two")]));
    assert_eq!(host.at(1), ["fired ChromaSecondWriter critical"]);
    host.read(Observation { findings: vec![kept], ..failed() });
    assert!(host.at(2).is_empty());
    host.read(Observation { judged: vec![Code::SecondWriter], ..failed() });
    assert_eq!(host.at(3), ["resolved ChromaSecondWriter"]);
}

#[test]
fn the_end_says_what_was_put_in_place_of_the_store_meanwhile() {
    let restored = |at: i64, undone: bool| Restored {
        at: Timestamp::from_secs(at),
        what: format!("repaired: what was done at {at}"),
        kept: "/a.quarantine.1".into(),
        undone,
        undoable: !undone,
    };
    for (restores, want) in [
        (vec![], ""),
        // Before it began, and one that was taken back.
        (vec![restored(4, false), restored(9, true)], ""),
        (
            vec![restored(4, false), restored(6, false), restored(7, false)],
            "repaired: what was done at 7, 1970-01-01 00:00 UTC. The old content is in /a.quarantine.1.",
        ),
    ] {
        let mut host = Host::builtin();
        host.read(found(vec![Finding::new(Code::SecondWriter, "", "two")]));
        assert_eq!(host.at(5), ["fired ChromaSecondWriter critical"]);
        host.read(Observation { restores, ..Observation::default() });
        let readings = host.readings.clone();
        let stores = vec![StoreReadings {
            firsts: Arc::default(),
            trial: None,
            store: "a".into(),
            path: Path::new("/a").into(),
            readings,
            collectors: 1,
        }];
        let now = Timestamp::from_secs(10);
        let ended = host.engine.evaluate(&Snapshot { taken_at: now, stores }, now).events;
        assert!(matches!(&ended[..], [Event::Resolved(alert)] if alert.done == want), "{ended:?}");
    }
}

#[test]
fn what_came_of_a_trial_is_told_once_with_the_alert_that_it_is_for() {
    let mut host = Host::builtin();
    let at = |seconds| Timestamp::from_secs(seconds);
    let trial = |code: Code| Trial {
        at: at(3),
        seconds: 1.0,
        codes: vec![code.as_str().to_owned()],
        came: Came::Whole,
    };
    let mut evaluate = |trial: Option<Trial>, seconds| {
        host.read(found(vec![Finding::new(Code::SecondWriter, "", "two")]));
        let store = StoreReadings {
            trial: trial.map(Arc::new),
            readings: host.readings.clone(),
            ..StoreReadings::of_one("a", "/a", "integrity", Observation::default())
        };
        let snapshot = Snapshot { taken_at: at(seconds), stores: vec![store] };
        words(&host.engine.evaluate(&snapshot, at(seconds)).events)
    };
    assert_eq!(evaluate(None, 1), ["fired ChromaSecondWriter critical"]);
    assert!(evaluate(Some(trial(Code::SegmentMissing)), 2).is_empty(), "it is for another finding");
    assert_eq!(evaluate(Some(trial(Code::SecondWriter)), 3), ["tried ChromaSecondWriter"]);
    assert!(evaluate(Some(trial(Code::SecondWriter)), 4).is_empty(), "it was told");
    let alert = host.engine.firing().next().unwrap();
    assert!(alert.tried.contains("nothing is lost"), "{}", alert.tried);
}

#[test]
fn a_graver_finding_escalates_the_same_episode() {
    let mut host = Host::builtin();
    let stale = || Finding::new(Code::BackupStale, "x", "27 h");
    host.read(found(vec![stale()]));
    assert_eq!(host.at(1), ["fired ChromaBackupStale warning"]);
    let before = host.engine.firing().next().unwrap().episode.clone();
    host.read(found(vec![stale(), stale().with_severity(Severity::Critical)]));
    assert_eq!(host.at(2), ["escalated ChromaBackupStale critical"]);
    let alert = host.engine.firing().next().unwrap().clone();
    assert_eq!((alert.episode, alert.count, &*alert.evidence), (before, 2, "x: 27 h"));
    host.read(found(vec![]));
    assert_eq!(host.at(3), ["resolved ChromaBackupStale"]);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut host = Host::builtin();
    host.read(used(0.85));
    host.at(0);
    let text = serde_json::to_string(&host.engine.tracked().values().collect::<Vec<_>>()).unwrap();
    let tracked: Vec<Tracked> = serde_json::from_str(&text).unwrap();
    let tracked =
        tracked.into_iter().map(|t| ((&*t.alert.store).into(), (&*t.alert.name).into(), t));
    let tracked = tracked.map(|(store, rule, t)| ((store, rule), t)).collect();
    host.engine = Engine::new(builtin::rules(&builtin::USUAL), "", tracked);
    host.readings.clear();
    assert!(host.at(1).is_empty(), "nothing read yet, nothing resolved");
    host.read(used(0.85));
    assert!(host.at(2).is_empty(), "not fired twice");
    host.read(used(0.1));
    assert_eq!(host.at(3), ["resolved ChromaDiskUsageHigh"]);
}

#[test]
fn what_is_watched_no_more_ends() {
    let mut host = Host::builtin();
    host.read(used(0.95));
    assert_eq!(host.at(0).len(), 2);
    // A rule that was switched off.
    let mut rules = builtin::rules(&builtin::USUAL);
    rules.retain(|rule| &*rule.name != "ChromaDiskUsageCritical");
    host.engine.set_rules(rules, "");
    assert_eq!(host.at(1), ["resolved ChromaDiskUsageCritical"]);
    // A store that was taken away, not one that is only late after a restart.
    let gone = Snapshot { taken_at: Timestamp::from_secs(2), stores: Vec::new() };
    let mut at = |secs| words(&host.engine.evaluate(&gone, Timestamp::from_secs(secs)).events);
    assert!(at(2).is_empty() && at(2 + 14 * 60).is_empty());
    assert_eq!(at(2 + 15 * 60), ["resolved ChromaDiskUsageHigh"]);
    assert!(!host.engine.waits_for_time());
}

#[test]
fn a_rule_over_any_series_takes_the_worst_sample_with_its_labels() {
    let rule = |labels: &[(&str, &str)], comparison| Rule {
        name: "Rows".into(),
        on: On::Series(Level {
            series: "chroma_rows".into(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            comparison,
            threshold: 10.0,
            recover: None,
            code: None,
        }),
        severity: Some(Severity::Info),
        hold: Duration::ZERO,
        keep_firing_for: Duration::ZERO,
        labels: BTreeMap::new(),
        summary: "Many rows".into(),
    };
    let rows = |values: &[(&'static str, f64)]| Observation {
        samples: values.iter().map(|(t, v)| ROWS.with(vec![(*t).into()], *v)).collect(),
        ..Observation::default()
    };
    for (labels, comparison, values, want) in [
        (&[][..], Comparison::Greater, &[("a", 11.0), ("b", 12.0)][..], Some(("b", 12.0, 2))),
        (&[], Comparison::Less, &[("a", 9.0), ("b", 1.0)], Some(("b", 1.0, 2))),
        (&[("table", "a")], Comparison::Greater, &[("a", 11.0), ("b", 12.0)], Some(("a", 11.0, 1))),
        (&[("table", "c")], Comparison::Greater, &[("a", 11.0)], None),
        (&[], Comparison::Greater, &[("a", 10.0)], None),
        (&[], Comparison::GreaterOrEqual, &[("a", 10.0)], Some(("a", 10.0, 1))),
        (&[], Comparison::NotEqual, &[("a", 10.0)], None),
        (&[], Comparison::Equal, &[("a", f64::NAN)], None),
    ] {
        let mut host = Host::new(vec![rule(labels, comparison)]);
        host.read(rows(values));
        host.at(0);
        let got = host.engine.firing().next().map(|alert| {
            let number = alert.reading.clone().unwrap();
            (number.series, number.value, alert.count)
        });
        let want =
            want.map(|(t, value, count)| (format!("chroma_rows{{table=\"{t}\"}}"), value, count));
        assert_eq!(got, want, "{values:?}");
    }
}

#[test]
fn health_of_a_collector_can_be_watched_too() {
    let rule = Rule {
        name: "Failing".into(),
        on: On::Series(Level {
            series: "chroma_exporter_collector_success".into(),
            labels: BTreeMap::new(),
            comparison: Comparison::Equal,
            threshold: 0.0,
            recover: None,
            code: None,
        }),
        severity: Some(Severity::Warning),
        hold: Duration::from_mins(1),
        keep_firing_for: Duration::ZERO,
        labels: BTreeMap::new(),
        summary: "A collector fails".into(),
    };
    let mut host = Host::new(vec![rule]);
    host.read(failed());
    assert!(host.at(0).is_empty() && host.engine.waits_for_time());
    assert!(host.at(59).is_empty());
    assert_eq!(host.at(60), ["fired Failing warning"]);
    host.read(used(0.1));
    assert_eq!(host.at(61), ["resolved Failing"]);
}

#[test]
fn how_long_a_run_took_is_judged_although_it_read_the_same() {
    let rule = Rule {
        name: "Slow".into(),
        on: On::Series(Level {
            series: "chroma_exporter_collector_duration_seconds".into(),
            labels: BTreeMap::new(),
            comparison: Comparison::Greater,
            threshold: 5.0,
            recover: None,
            code: None,
        }),
        severity: Some(Severity::Warning),
        hold: Duration::ZERO,
        keep_firing_for: Duration::ZERO,
        labels: BTreeMap::new(),
        summary: "A collector is slow".into(),
    };
    let mut host = Host::builtin();
    for rules in [false, true] {
        if rules {
            host.engine.set_rules(vec![rule.clone()], "");
        }
        host.read(used(0.1));
        assert!(host.at(0).is_empty());
        host.read(used(0.1));
        Arc::get_mut(&mut host.readings[0]).unwrap().duration = Duration::from_secs(6);
        let reported = host.at(1);
        assert_eq!(
            reported,
            if rules { vec!["fired Slow warning".to_owned()] } else { Vec::new() }
        );
    }
}

#[test]
fn what_was_judged_as_the_same_is_not_held_on_to() {
    let mut host = Host::builtin();
    host.read(used(0.1));
    host.at(0);
    let before = Arc::clone(&host.readings[0]);
    host.read(used(0.1));
    host.at(1);
    assert_eq!(Arc::strong_count(&before), 1, "only this test has it");
    host.read(used(0.85));
    assert_eq!(host.at(2), ["fired ChromaDiskUsageHigh warning"]);
}
