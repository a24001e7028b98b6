//! Segments that stand still while rows for them come in. A server that was killed leaves segments behind the queue too; they
//! catch up at its start, and nobody writes before that.

use std::{collections::BTreeMap, time::Duration};

use super::{queue::Lag, tally::Tally};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding},
};

/// A segment that stands still while rows for it come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Still {
    position: Option<i64>,
    /// The newest row when it was first seen at this position.
    newest: i64,
    since: Timestamp,
}

/// Takes in how far the segments are now, and names those that have stood still for [`STILL_FOR`] while writes went on.
pub(super) fn judge_still(
    still: &mut BTreeMap<String, Still>,
    now: Timestamp,
    segments: &[Lag],
) -> Vec<Finding> {
    still.retain(|id, _| segments.iter().any(|lag| lag.segment == *id));
    let mut tally = Tally::default();
    for lag in segments {
        let begin = Still { position: lag.position, newest: lag.newest, since: now };
        if lag.behind <= lag.behind_max {
            still.remove(&lag.segment);
            continue;
        }
        let seen = still.entry(lag.segment.clone()).or_insert(begin);
        if seen.position != lag.position || seen.since > now {
            *seen = begin;
        }
        if lag.newest > seen.newest && now.since(seen.since) >= STILL_FOR {
            let words = || {
                format!(
                    "{} segment of \"{}\" has stayed at row {} for {} s while rows up to {} came in; {} wait",
                    lag.scope.as_str(),
                    lag.collection,
                    lag.position.unwrap_or(0),
                    now.since(seen.since).as_secs(),
                    lag.newest,
                    lag.behind
                )
            };
            tally.add(Code::IndexLag, "max_seq_id", words);
        }
    }
    tally.into_findings()
}

/// Flushes of large indexes take minutes.
const STILL_FOR: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::contents::catalogue::Scope;

    #[test]
    fn a_segment_stands_still_only_while_writes_go_on() {
        // minute:position/newest/behind → the minutes at which it is named; more than 0 behind is not normal.
        for (looks, want) in [
            ("0:5/9/4 5:5/10/5 10:5/11/6", vec![10]),
            ("0:5/9/4 10:5/9/4 20:5/9/4", vec![]), // nobody writes: a killed server, replayed at its start
            ("0:5/9/4 5:6/10/4 10:6/11/5 15:6/12/6", vec![15]),
            ("0:5/9/4 5:10/10/0 10:10/12/2 15:10/13/3", vec![]),
        ] {
            let mut still = BTreeMap::new();
            let mut named = Vec::new();
            for read in looks.split(' ') {
                let (minute, rest) = read.split_once(':').unwrap();
                let n: Vec<i64> = rest.split('/').map(|n| n.parse().unwrap()).collect();
                let lag = Lag {
                    segment: "s".to_owned(),
                    collection: "c".to_owned(),
                    scope: Scope::Metadata,
                    position: Some(n[0]),
                    newest: n[1],
                    behind: u64::try_from(n[2]).unwrap(),
                    behind_max: 0,
                };
                let minute: i64 = minute.parse().unwrap();
                if !judge_still(&mut still, Timestamp::from_secs(minute * 60), &[lag]).is_empty() {
                    named.push(minute);
                }
            }
            assert_eq!(named, want, "{looks}");
        }
    }
}
