//! Tries the repair of a broken store on a copy, so that its alert says what that would bring back. `recover` without `--apply`
//! does the work, as a process of its own: what it needs in memory is bounded, and is no memory of the exporter.

mod child;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{backups::Gate, scheduler::Board, work::when_permitted};
use crate::{
    clock::{self, Timestamp},
    facts::trial::{self, Came, Trial},
    findings::{Code, Severity},
    host::links,
    repair::recover::table::{Answer, answer},
    sample::StoreReadings,
    store::Context,
};

/// Tries repairs of one store until `stop`. What is under way then ends soon and leaves nothing.
pub(crate) async fn run(context: Context, board: Board, gate: Gate, stop: CancellationToken) {
    stop.run_until_cancelled(run_loop(&context, &board, &gate)).await;
}

async fn run_loop(context: &Context, board: &Board, gate: &Gate) {
    let config = &context.config;
    let in_container = links::through_process(&config.procfs, &context.store.seen_path).is_some();
    if !config.integrity.try_repairs || context.store.through.is_some() || in_container {
        return;
    }
    let (name, host) = (&*context.store.name, &context.host);
    let subject: PathBuf = context.store.subject().into();
    let kept = {
        let (host, subject) = (Arc::clone(host), subject.clone());
        tokio::task::spawn_blocking(move || host.state.load::<Trial>(KEPT, &subject)).await
    };
    board.tried(name, kept.ok().flatten().map(Arc::new));
    let mut wanted: Option<(BTreeSet<Code>, Timestamp)> = None;
    loop {
        sleep(POLL_INTERVAL).await;
        let Some(readings) = board.readings_of(name) else { continue };
        let Some(codes) = to_repair(&readings) else { continue };
        if codes.is_empty() {
            wanted = None;
            board.tried(name, None);
            continue;
        }
        let now = clock::now();
        if wanted.as_ref().is_none_or(|(known, _)| *known != codes) {
            wanted = Some((codes.clone(), now));
        }
        let since = wanted.as_ref().map_or(now, |(_, since)| *since);
        if now.since(since) < SETTLED || !is_due(readings.trial.as_deref(), &codes, now) {
            continue;
        }
        let Ok(_held) = gate.acquire().await else { return };
        let (board, at, host) = (board.clone(), context.clone(), Arc::clone(host));
        let subject = subject.clone();
        when_permitted(context, "trial", move |steps| {
            let (began, ticks) = (clock::now(), clock::ticks());
            let came = child::run(&at, &steps.flag());
            if steps.stopped() {
                return;
            }
            let seconds = ticks.elapsed().as_secs_f64();
            let codes = trial::names(codes);
            let trial = Trial { at: began, seconds, codes, came };
            info!(store = %at.store.name, result = trial.words(), "Repair tried on a copy.");
            host.state.save(KEPT, &subject, &trial);
            board.tried(&at.store.name, Some(Arc::new(trial)));
        })
        .await;
    }
}

/// The findings that `recover` repairs, when one of them is critical; `None` as long as not everything was looked at.
fn to_repair(store: &StoreReadings) -> Option<BTreeSet<Code>> {
    if store.readings.len() < store.collectors {
        return None;
    }
    let findings = store.readings.iter().flat_map(|reading| &reading.observation.findings);
    let mut critical = false;
    let mut codes = BTreeSet::new();
    for finding in findings.filter(|finding| finding.severity >= Severity::Warning) {
        if matches!(answer(finding.code), Answer::Repair(_)) {
            critical |= finding.severity == Severity::Critical;
            codes.insert(finding.code);
        }
    }
    Some(if critical { codes } else { BTreeSet::new() })
}

/// Whether it is to be tried now, when it was tried last as `last` says. What is found since then asks for another try.
fn is_due(last: Option<&Trial>, codes: &BTreeSet<Code>, now: Timestamp) -> bool {
    let Some(last) = last else { return true };
    let new = codes.iter().any(|code| !last.is_about(code.as_str()));
    let patience = match last.came {
        Came::Untried { .. } => TRY_AGAIN,
        _ if new => TRY_NEW,
        _ => TRY_ANEW,
    };
    now < last.at || now.since(last.at) >= patience
}

/// The document of the state directory.
const KEPT: &str = "trial";
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// What breaks shows one finding after the other.
const SETTLED: Duration = Duration::from_secs(10);
/// After one that could not be made; after one that did not know of all that is found; after any other.
const TRY_AGAIN: Duration = Duration::from_hours(1);
const TRY_NEW: Duration = Duration::from_mins(5);
const TRY_ANEW: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{findings::Finding, sample::Observation};

    #[test]
    fn what_is_critical_and_can_be_repaired_is_tried() {
        let found = |findings: &[(Code, Severity)]| {
            let findings = findings.iter().map(|(code, severity)| Finding {
                severity: *severity,
                ..Finding::new(*code, "", "seen")
            });
            let observation =
                Observation { findings: findings.collect(), ..Observation::default() };
            to_repair(&StoreReadings::of_one("a", "/a", "integrity", observation))
        };
        let (critical, warning) = (Severity::Critical, Severity::Warning);
        for (findings, want) in [
            (vec![], vec![]),
            // Chroma mends that by itself.
            (vec![(Code::HotJournal, warning)], vec![]),
            (vec![(Code::SecondWriter, critical)], vec![]),
            (
                vec![(Code::FtsCorrupt, critical), (Code::FtsOutOfStep, warning)],
                vec![Code::FtsCorrupt, Code::FtsOutOfStep],
            ),
        ] {
            let reported = found(&findings).unwrap();
            assert_eq!(reported, want.into_iter().collect(), "{findings:?}");
        }
        let incomplete = StoreReadings {
            collectors: 2,
            ..StoreReadings::of_one("a", "/a", "integrity", Observation::default())
        };
        assert_eq!(to_repair(&incomplete), None, "not everything was looked at");
    }

    #[test]
    fn a_trial_is_made_once_and_again_when_more_is_found() {
        let at = |seconds: i64| Timestamp::from_secs(1_000_000 + seconds);
        let last = |came, codes: &[Code]| {
            let codes = trial::names(codes.iter().copied());
            Some(Trial { at: at(0), seconds: 1.0, codes, came })
        };
        let untried = Came::Untried { why: String::new() };
        for (last, seconds, want) in [
            (None, 0, true),
            (last(Came::Whole, &[Code::FtsCorrupt]), 3600, false),
            (last(Came::Whole, &[Code::FtsCorrupt]), 86_400, true),
            (last(Came::Whole, &[Code::SqliteCorrupt]), 60, false),
            (last(Came::Whole, &[Code::SqliteCorrupt]), 300, true),
            (last(untried.clone(), &[Code::FtsCorrupt]), 600, false),
            (last(untried, &[Code::FtsCorrupt]), 3600, true),
            // A clock that was set back.
            (last(Came::Whole, &[Code::FtsCorrupt]), -60, true),
        ] {
            let codes = BTreeSet::from([Code::FtsCorrupt]);
            assert_eq!(is_due(last.as_ref(), &codes, at(seconds)), want, "{last:?} {seconds}");
        }
    }
}
