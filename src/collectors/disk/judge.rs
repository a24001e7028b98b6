//! What the room on a filesystem means: findings with the levels at which they begin and, a little lower, end. Pure.

use std::collections::BTreeSet;

use crate::{
    clock::Timestamp,
    config::Disk,
    findings::{Code, Finding},
    human,
    store::space::Space,
};

/// What is known of the filesystem at a moment. What is `None` is not judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// When.
    pub(crate) now: Timestamp,
    /// Its room.
    pub(crate) space: Space,
    /// The least room of the last hour.
    pub(crate) low_water_bytes: u64,
    /// When it will be full, if it is filling.
    pub(crate) full_at: Option<Timestamp>,
    /// Whether Chroma, too, finds it read-only.
    pub(crate) readonly: Option<bool>,
    /// Length of the database; zero when there is none.
    pub(crate) database_bytes: Option<u64>,
}

/// The findings, and the codes that could be judged. `on` holds the codes that were found the time before: they end
/// only beyond a second level, so that a disk that sways around the first does not come and go.
///
/// A disk above the critical level is `disk_usage_high` as well: to end the warning at the very moment when the disk
/// gets worse would send "resolved" to people. Whoever wants one message inhibits the warning by the critical one.
pub(crate) fn judge(
    facts: &Facts,
    limits: &Disk,
    on: &BTreeSet<Code>,
) -> (Vec<Finding>, Vec<Code>) {
    let mut verdicts = Verdicts::default();
    let ratio = facts.space.used_ratio();
    usage(facts, ratio, limits, on, &mut verdicts);
    will_fill(facts, ratio, limits, on, &mut verdicts);
    inodes(&facts.space, limits, on, &mut verdicts);
    if let Some(readonly) = facts.readonly {
        verdicts.add(Code::DiskReadonly, readonly, || {
            "the filesystem takes no writes: it was mounted read-only, or the kernel stopped it after an error".to_owned()
        });
    }
    if let Some(database) = facts.database_bytes {
        let avail = facts.space.avail_bytes;
        let needed = database.saturating_mul(if on.contains(&Code::HeadroomLow) { 22 } else { 20 });
        verdicts.add(Code::HeadroomLow, avail.saturating_mul(10) < needed, || {
            format!(
                "{} available, chroma.sqlite3 has {}",
                human::bytes(avail),
                human::bytes(database)
            )
        });
    }
    (verdicts.findings, verdicts.judged)
}

#[derive(Default)]
struct Verdicts {
    findings: Vec<Finding>,
    judged: Vec<Code>,
}

impl Verdicts {
    fn add(&mut self, code: Code, found: bool, evidence: impl FnOnce() -> String) {
        self.judged.push(code);
        if found {
            self.findings.push(Finding::new(code, "", evidence()));
        }
    }
}

fn usage(facts: &Facts, ratio: Option<f64>, limits: &Disk, on: &BTreeSet<Code>, to: &mut Verdicts) {
    let levels = [
        (Code::DiskUsageHigh, limits.warn_ratio, limits.recover_ratio),
        (Code::DiskUsageCritical, limits.critical_ratio, limits.critical_ratio - CRITICAL_RECOVERY),
    ];
    for (code, begins, ends) in levels {
        let ends = ends.min(begins);
        let found =
            ratio.is_some_and(|ratio| ratio >= begins || (on.contains(&code) && ratio >= ends));
        to.add(code, found, || {
            let least = if facts.low_water_bytes < facts.space.avail_bytes {
                format!("; the least of the last hour was {}", human::bytes(facts.low_water_bytes))
            } else {
                String::new()
            };
            let below = if ratio.is_some_and(|ratio| ratio < begins) {
                format!(", ends below {}", human::ratio(ends))
            } else {
                String::new()
            };
            format!(
                "{} used, {} of {} available{least} (level {}{below})",
                human::ratio(ratio.unwrap_or(0.0)),
                human::bytes(facts.space.avail_bytes),
                human::bytes(facts.space.size_bytes),
                human::ratio(begins),
            )
        });
    }
}

/// A pace alone is noise: a disk that is half empty has time to be looked at.
fn will_fill(
    facts: &Facts,
    ratio: Option<f64>,
    limits: &Disk,
    on: &BTreeSet<Code>,
    to: &mut Verdicts,
) {
    let was = on.contains(&Code::DiskWillFill);
    let (level, within) = if was {
        (FILL_LEVEL - FILL_RECOVERY, limits.full_within + limits.full_within / 4)
    } else {
        (FILL_LEVEL, limits.full_within)
    };
    let left = facts.full_at.map(|full| full.since(facts.now));
    let found = left.is_some_and(|left| left <= within) && ratio.is_some_and(|r| r >= level);
    to.add(Code::DiskWillFill, found, || {
        format!(
            "full in {} at the present rate; {} used, {} available",
            human::span(left.unwrap_or_default()),
            human::ratio(ratio.unwrap_or(0.0)),
            human::bytes(facts.space.avail_bytes),
        )
    });
}

fn inodes(space: &Space, limits: &Disk, on: &BTreeSet<Code>, to: &mut Verdicts) {
    if space.inodes == 0 {
        to.judged.push(Code::InodesLow); // no limit, so never few
        return;
    }
    let free = space.inodes_free.min(space.inodes);
    let ratio = free as f64 / space.inodes as f64;
    let was = on.contains(&Code::InodesLow);
    let level = limits.inodes_low_ratio * if was { 1.2 } else { 1.0 };
    to.add(Code::InodesLow, ratio < level, || {
        format!("{} of the inodes are free: {free} of {}", human::ratio(ratio), space.inodes)
    });
}

/// The critical level ends so much below where it begins.
const CRITICAL_RECOVERY: f64 = 0.05;

/// A filesystem that is less used than this will not be full soon, whatever the pace.
const FILL_LEVEL: f64 = 0.60;

/// That level, too, ends a little lower.
const FILL_RECOVERY: f64 = 0.05;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn facts(used_percent: u64) -> Facts {
        let space = Space {
            size_bytes: 100 * GIB,
            free_bytes: (100 - used_percent) * GIB,
            avail_bytes: (100 - used_percent) * GIB,
            inodes: 1000,
            inodes_free: 900,
            readonly: false,
        };
        Facts {
            now: Timestamp::from_secs(1_000_000),
            space,
            low_water_bytes: space.avail_bytes,
            full_at: None,
            readonly: Some(false),
            database_bytes: Some(0),
        }
    }

    /// Judges one after the other, each knowing what was found before.
    fn play(timeline: impl IntoIterator<Item = Facts>) -> Vec<Vec<&'static str>> {
        let mut on = BTreeSet::new();
        let mut all = Vec::new();
        for facts in timeline {
            let (findings, judged) = judge(&facts, &Disk::default(), &on);
            assert_eq!(judged.len(), 6);
            on = findings.iter().map(|f| f.code).collect();
            all.push(findings.iter().map(|f| f.code.as_str()).collect());
        }
        all
    }

    #[test]
    fn usage_begins_at_a_level_and_ends_below_a_lower_one() {
        let (high, both) =
            (vec!["disk_usage_high"], vec!["disk_usage_high", "disk_usage_critical"]);
        let played = play([79, 80, 76, 75, 74, 79, 90, 86, 85, 84, 74, 100].map(facts));
        let none = Vec::new();
        let want =
            [&none, &high, &high, &high, &none, &none, &both, &both, &both, &high, &none, &both];
        assert_eq!(played.iter().collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_pace_counts_only_on_a_disk_that_is_more_than_half_full() {
        let hours = |used, left| Facts {
            full_at: Some(facts(used).now.plus(Duration::from_hours(left))),
            ..facts(used)
        };
        let played = play([
            hours(59, 5),
            hours(60, 25),
            hours(60, 24),
            hours(56, 30),
            hours(54, 5),
            hours(60, 24),
            facts(60),
        ]);
        let found: Vec<bool> = played.iter().map(|codes| codes == &["disk_will_fill"]).collect();
        assert_eq!(found, [false, false, true, true, false, true, false]);
    }

    #[test]
    fn inodes_headroom_and_read_only() {
        let inodes = |inodes, inodes_free| Facts {
            space: Space { inodes, inodes_free, ..facts(10).space },
            ..facts(10)
        };
        let low = play([inodes(1000, 50), inodes(1000, 49), inodes(1000, 59), inodes(1000, 60)]);
        assert_eq!(low.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 1, 0]);
        assert_eq!(play([inodes(0, 0), inodes(10, u64::MAX)]), [[""; 0]; 2], "no limit");

        let headroom = |avail: u64| Facts {
            space: Space { avail_bytes: avail, ..facts(10).space },
            database_bytes: Some(10 * GIB),
            ..facts(10)
        };
        let low = play([20, 19, 21, 22].map(|gib| headroom(gib * GIB)));
        assert_eq!(low.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 1, 0]);
        assert_eq!(play([Facts { readonly: Some(true), ..facts(10) }]), [["disk_readonly"]]);
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let unknown = Facts { readonly: None, database_bytes: None, ..facts(95) };
        let (findings, judged) = judge(&unknown, &Disk::default(), &BTreeSet::new());
        assert_eq!(findings.len(), 2);
        assert!(!judged.contains(&Code::DiskReadonly) && !judged.contains(&Code::HeadroomLow));
    }

    #[test]
    fn evidence_carries_the_numbers_of_the_case() {
        let low = Facts { low_water_bytes: 3 * GIB, ..facts(93) };
        let (findings, _) = judge(&low, &Disk::default(), &BTreeSet::new());
        assert_eq!(
            findings[1].evidence,
            "93.0 % used, 7.5 GB of 107.4 GB available; the least of the last hour was 3.2 GB (level 90.0 %)"
        );
        let (findings, _) = judge(&facts(76), &Disk::default(), &[Code::DiskUsageHigh].into());
        assert_eq!(
            findings[0].evidence,
            "76.0 % used, 25.8 GB of 107.4 GB available (level 80.0 %, ends below 75.0 %)"
        );
    }
}
