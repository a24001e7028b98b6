//! The worst that is known of all stores in a few words, where there is room for one line.

use super::{Status, StoreReport};
use crate::sample::CheckState;

/// `docs: second_writer: pids 1 and 2; 1 more not ok`, and how bad that is; `None` when all of them are well. Of equals the first.
pub(crate) fn worst(reports: &[StoreReport]) -> Option<(Status, String)> {
    let worst = reports.iter().rev().max_by_key(|report| report.status)?;
    if worst.status == Status::Ok {
        return None;
    }
    let others = reports.iter().filter(|report| report.status != Status::Ok).count() - 1;
    let more = if others > 0 { format!("; {others} more not ok") } else { String::new() };
    Some((worst.status, format!("{}: {}{more}", worst.store, why(worst))))
}

fn why(report: &StoreReport) -> String {
    if report.status != Status::Unknown
        && let Some(finding) = report.findings.first()
    {
        return format!("{}: {}", finding.code.as_str(), finding.evidence);
    }
    if let Some(problem) = report.problems.first() {
        return format!("{}: {}", problem.collector, problem.problem);
    }
    let open = report.integrity.iter().find(|(_, state)| *state != CheckState::Ok);
    match open {
        Some((check, state)) => format!("{check} check {}", state.as_str()),
        None => "not every collector has run".to_owned(),
    }
}
