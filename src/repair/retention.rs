//! Which of the proven backups are kept: the newest ones, and the newest of each of the last days, weeks and months that have
//! one. Pure. Backups that were not proven count for nothing, and the last proven one is never let go.

use std::collections::BTreeSet;

use jiff::{civil::Date, tz::TimeZone};

pub use crate::config::Keep;

use crate::clock::Timestamp;

/// A backup in the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its name there.
    pub name: String,
    /// The moment that it shows.
    pub moment: Timestamp,
    /// Whether its manifest says that it was proven whole.
    pub proven: bool,
}

/// The names of those that may go, oldest first. Of the ones that were not proven only those may go that are older than every
/// proven one that stays: until then they may hold what no other holds.
#[must_use]
pub fn surplus<'a>(backups: &'a [Known], keep: &Keep) -> Vec<&'a str> {
    let mut proven: Vec<&Known> = backups.iter().filter(|backup| backup.proven).collect();
    proven.sort_by_key(|backup| std::cmp::Reverse((backup.moment, &backup.name)));
    let mut stays: BTreeSet<&str> =
        proven.iter().take(keep.last.max(1)).map(|backup| backup.name.as_str()).collect();
    let rules: [(usize, Period); 3] =
        [(keep.daily, |day| day), (keep.weekly, monday), (keep.monthly, Date::first_of_month)];
    for (count, period) in rules {
        let mut seen = BTreeSet::new();
        for backup in &proven {
            if seen.len() >= count {
                break;
            }
            if seen.insert(period(day_of(backup.moment))) {
                stays.insert(&backup.name);
            }
        }
    }
    let oldest = proven
        .iter()
        .filter(|backup| stays.contains(backup.name.as_str()))
        .map(|backup| backup.moment)
        .min();
    let goes = |backup: &&Known| match oldest {
        Some(oldest) if !backup.proven => backup.moment < oldest,
        Some(_) => !stays.contains(backup.name.as_str()),
        None => false,
    };
    let mut goes: Vec<&Known> = backups.iter().filter(goes).collect();
    goes.sort_by_key(|backup| (backup.moment, &backup.name));
    goes.into_iter().map(|backup| backup.name.as_str()).collect()
}

/// The first day of the period that a day is in.
type Period = fn(Date) -> Date;

/// The day in UTC; the first of all for what no calendar has.
fn day_of(moment: Timestamp) -> Date {
    jiff::Timestamp::from_second(moment.as_secs())
        .map_or(Date::MIN, |at| at.to_zoned(TimeZone::UTC).date())
}

/// The Monday of its week.
fn monday(day: Date) -> Date {
    let since = i32::from(day.weekday().to_monday_zero_offset());
    day.checked_sub(jiff::Span::new().days(since)).unwrap_or(day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    /// 2026-11-30, a Monday.
    const NOW: i64 = 1_796_004_000 - 1_796_004_000 % DAY;

    fn known(name: &str, at: i64, proven: bool) -> Known {
        Known { name: name.to_owned(), moment: Timestamp::from_secs(at), proven }
    }

    /// One a day at noon, the newest first: `d0`, `d1`, …
    fn days(count: i64) -> Vec<Known> {
        (0..count).map(|n| known(&format!("d{n}"), NOW + 12 * HOUR - n * DAY, true)).collect()
    }

    fn kept(backups: &[Known], keep: &Keep) -> Vec<String> {
        let goes = surplus(backups, keep);
        let stays = backups.iter().filter(|backup| !goes.contains(&backup.name.as_str()));
        stays.map(|backup| backup.name.clone()).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_period() {
        let none = Keep { last: 0, daily: 0, weekly: 0, monthly: 0 };
        let backups = days(70);
        for (keep, want) in [
            (Keep::default(), "d0 d1 d2"),
            (none, "d0"), // never the last one
            (Keep { daily: 3, ..none }, "d0 d1 d2"),
            // Mondays are d0, d7, d14: the newest of a week is the Sunday after.
            (Keep { weekly: 3, ..none }, "d0 d1 d8"),
            // The last of October is d30, of September d61.
            (Keep { monthly: 3, ..none }, "d0 d30 d61"),
            (Keep { last: 2, daily: 3, weekly: 2, monthly: 2 }, "d0 d1 d2 d30"),
            (Keep { last: 1000, ..none }, "d0 d69"),
        ] {
            let kept = kept(&backups, &keep);
            let shown =
                if kept.len() > 10 { vec![kept[0].clone(), kept[69].clone()] } else { kept };
            assert_eq!(shown.join(" "), want, "{keep:?}");
        }
    }

    #[test]
    fn several_of_a_day_leave_the_newest_and_days_without_one_do_not_count() {
        let at = |name: &str, day: i64, hour: i64| known(name, NOW - day * DAY + hour * HOUR, true);
        let backups = [at("a", 0, 2), at("b", 0, 8), at("c", 5, 2), at("d", 5, 23), at("e", 9, 1)];
        let keep = Keep { last: 0, daily: 2, weekly: 0, monthly: 0 };
        assert_eq!(kept(&backups, &keep).join(" "), "b d");
        assert_eq!(surplus(&backups, &keep), ["e", "c", "a"], "the oldest first");
    }

    #[test]
    fn what_is_not_proven_keeps_nothing_out_and_stays_while_it_may_be_the_only_one() {
        let keep = Keep { last: 2, ..Keep::default() };
        let day = |name, n: i64, proven| known(name, NOW - n * DAY, proven);
        for (backups, want) in [
            (vec![day("a", 3, false), day("b", 2, false), day("c", 1, false)], ""),
            (vec![day("a", 3, false), day("b", 2, true), day("c", 1, false)], "a"),
            (
                vec![day("a", 9, true), day("b", 8, true), day("c", 7, true), day("d", 1, false)],
                "a",
            ),
            (vec![day("a", 3, false), day("b", 4, true), day("c", 1, true)], ""),
            (vec![day("only", 900, true)], ""),
            (vec![], ""),
        ] {
            assert_eq!(surplus(&backups, &keep).join(" "), want, "{backups:?}");
        }
    }

    proptest! {
        #[test]
        fn a_proven_one_always_stays_and_so_does_the_newest(
            list in prop::collection::vec((0_i64..400, any::<bool>()), 0..40),
            last in 0_usize..5, daily in 0_usize..5, weekly in 0_usize..5, monthly in 0_usize..5,
        ) {
            let backups: Vec<Known> = list
                .iter()
                .enumerate()
                .map(|(n, (hours, proven))| known(&format!("{n}"), NOW - hours * 7 * HOUR, *proven))
                .collect();
            let keep = Keep { last, daily, weekly, monthly };
            let goes: BTreeSet<&str> = surplus(&backups, &keep).into_iter().collect();
            let proven: Vec<&Known> = backups.iter().filter(|backup| backup.proven).collect();
            let stay = proven.iter().filter(|backup| !goes.contains(backup.name.as_str()));
            let (stay, newest) = (stay.collect::<Vec<_>>(), proven.iter().map(|one| one.moment).max());
            prop_assert!(stay.iter().any(|one| Some(one.moment) == newest) || proven.is_empty());
            prop_assert!(stay.len() >= proven.len().min(last.max(1)));
            prop_assert!(stay.len() <= last.max(1) + daily + weekly + monthly);
            // Asked again of what stayed, nothing more goes.
            let rest: Vec<Known> = backups.iter().filter(|one| !goes.contains(one.name.as_str())).cloned().collect();
            prop_assert!(surplus(&rest, &keep).is_empty());
        }

        #[test]
        fn no_moment_makes_it_panic(secs in any::<i64>()) {
            let keep = Keep { last: 1, daily: 1, weekly: 1, monthly: 1 };
            let backups = [known("a", secs, true), known("b", 0, true)];
            prop_assert!(surplus(&backups, &keep).len() < 2);
        }
    }
}
