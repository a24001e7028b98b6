//! What two writers leave behind when one of them ends. Chroma reads an index once and then keeps it in memory: whoever had the
//! database open while another wrote works from an index that lacks those records, and loses them at its next flush. That
//! danger ends with the process, not when the other one has closed the file.
//!
//! Nobody can see who wrote a row. What can be seen is whether the queue grew while two had it open: when it did not, as
//! beside a program that only counted, nothing is to be feared.

use std::{cmp::Reverse, fmt::Write};

use serde::{Deserialize, Serialize};

use super::judge::{LISTED_MAX, list};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Remedy},
    host::processes::Holder,
    store::DATABASE_FILE,
};

/// Writers that had the database open at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Overlap {
    /// When that was first seen.
    since: Timestamp,
    /// Newest row of the queue before that, where it is known.
    before: Option<i64>,
    /// Whether two of them have it open now, as far as was seen at the last look.
    going_on: bool,
    members: Vec<Member>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    comm: String,
    server: bool,
    started: Timestamp,
    /// When it was first found to have ended.
    gone: Option<Timestamp>,
}

impl Member {
    fn of(holder: &Holder) -> Self {
        Self {
            pid: holder.pid,
            start_ticks: holder.start_ticks,
            comm: holder.comm.clone(),
            server: holder.server,
            started: holder.started,
            gone: None,
        }
    }

    fn is(&self, holder: &Holder) -> bool {
        self.pid == holder.pid && self.start_ticks == holder.start_ticks
    }

    fn named(&self) -> String {
        let kind = if self.server { "server" } else { "program" };
        format!("the {kind} {} (pid {}, started {})", self.comm, self.pid, self.started)
    }
}

/// What is known of the queue of writes.
pub(super) trait Queue {
    /// Its newest row at an earlier look, when it was looked at.
    fn earlier(&self) -> Option<i64>;
    /// Its newest row now.
    fn now(&mut self) -> Option<i64>;
}

/// The overlap after a look that found these Chromas writing. `lives` tells whether a process is still there; one whose state
/// is not known counts as alive.
pub(super) fn step(
    before: Option<&Overlap>,
    writers: &[&Holder],
    lives: impl Fn(&Member) -> bool,
    queue: &mut impl Queue,
    now: Timestamp,
) -> Option<Overlap> {
    let mut overlap = match before {
        Some(overlap) => overlap.clone(),
        None if writers.len() < 2 => return None,
        None => {
            Overlap { since: now, before: queue.earlier(), going_on: true, members: Vec::new() }
        }
    };
    for member in overlap.members.iter_mut().filter(|member| member.gone.is_none()) {
        let holds = writers.iter().any(|writer| member.is(writer));
        if !holds && !lives(member) {
            member.gone = Some(now);
        }
    }
    if writers.len() >= 2 {
        overlap.going_on = true;
        for writer in writers {
            if !overlap.members.iter().any(|member| member.is(writer)) {
                overlap.members.push(Member::of(writer));
            }
        }
    } else if std::mem::take(&mut overlap.going_on) {
        let written = match (overlap.before, queue.now()) {
            (Some(before), Some(now)) => now > before,
            // Not to know is no reason to be at ease.
            _ => true,
        };
        if !written {
            return None;
        }
    }
    // Where there are too many, the longest gone are forgotten first.
    let first = |member: &Member| (member.gone.is_none(), member.gone, Reverse(member.started));
    overlap.members.sort_by_key(first);
    let excess = overlap.members.len().saturating_sub(MEMBERS_MAX);
    overlap.members.drain(..excess);
    overlap.members.sort_by_key(|member| (member.started, member.pid));
    overlap.members.iter().any(|member| member.gone.is_none()).then_some(overlap)
}

impl Overlap {
    /// The finding for what has been left; none while two still have it open, which is told by their own names.
    pub(super) fn finding(&self) -> Option<Finding> {
        if self.going_on {
            return None;
        }
        let (gone, stay): (Vec<&Member>, Vec<&Member>) =
            self.members.iter().partition(|member| member.gone.is_some());
        let mut evidence = String::new();
        list(&mut evidence, &stay, |member| member.named());
        // Writing to a string cannot fail.
        write!(evidence, " had {DATABASE_FILE} open for writing at {} together with ", self.since)
            .unwrap_or_default();
        if gone.is_empty() {
            evidence.push_str("each other");
        }
        list(&mut evidence, &gone, |member| {
            let end = member.gone.map(|gone| format!(", which had ended by {gone}"));
            member.named() + &end.unwrap_or_default()
        });
        evidence.push_str(
            "; not restarted since: the index in its memory may lack what was written meanwhile, and its next writes lose that",
        );
        let pids: Vec<String> = stay
            .iter()
            .take(LISTED_MAX)
            .map(|member| format!("{} (pid {})", member.comm, member.pid))
            .collect();
        let remedy = Remedy::new(format!(
            "Restart {} before the next write. Then run a check: records_without_vector counts what is lost.",
            pids.join(" and ")
        ))
        .with_command(Some("chroma_exporter check {path}".to_owned()))
        .with_note("Only a new start reads what the other wrote.");
        let items = stay.iter().map(|member| member.pid.to_string());
        Some(Finding::new(Code::SecondWriter, "", evidence).with_items(items).with_remedy(remedy))
    }
}

/// Processes that are remembered.
const MEMBERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    struct Rows(Option<i64>, Option<i64>);

    impl Queue for Rows {
        fn earlier(&self) -> Option<i64> {
            self.0
        }

        fn now(&mut self) -> Option<i64> {
            self.1
        }
    }

    fn holder(pid: u32) -> Holder {
        Holder {
            pid,
            comm: "python3".to_owned(),
            server: pid == 1,
            writes: true,
            uid: 0,
            gids: Vec::new(),
            started: Timestamp::from_secs(i64::from(pid)),
            start_ticks: u64::from(pid) * 100,
            descriptors: vec![3],
            open_descriptors: 9,
            children: Vec::new(),
        }
    }

    /// Plays looks of the form `holders/alive@row`: who has it open, who lives besides, the newest row; gives after each
    /// look `-` for nothing, `2` while two have it open, else the pids that must be restarted.
    fn play(looks: &str) -> String {
        let mut overlap: Option<Overlap> = None;
        let (mut earlier, mut out) = (None, Vec::new());
        for (look, at) in looks.split(' ').zip(0..) {
            let (who, row) = look.split_once('@').unwrap();
            let (holding, alive) = who.split_once('/').unwrap_or((who, ""));
            let pids = |text: &str| -> Vec<u32> {
                text.bytes().map(|digit| u32::from(digit - b'0')).collect()
            };
            let holders: Vec<Holder> = pids(holding).into_iter().map(holder).collect();
            let writers: Vec<&Holder> = holders.iter().collect();
            let alive = pids(alive);
            let row = row.parse().ok();
            overlap = step(
                overlap.as_ref(),
                &writers,
                |member| alive.contains(&member.pid),
                &mut Rows(earlier, row),
                Timestamp::from_secs(at),
            );
            earlier = row;
            // It survives being written down.
            let text = serde_json::to_string(&overlap).unwrap();
            assert_eq!(serde_json::from_str::<Option<Overlap>>(&text).unwrap(), overlap);
            out.push(match &overlap {
                None => "-".to_owned(),
                Some(overlap) if overlap.going_on => {
                    assert!(overlap.finding().is_none());
                    "2".to_owned()
                }
                Some(overlap) => {
                    let finding = overlap.finding().unwrap();
                    let stay = overlap.members.iter().filter(|member| member.gone.is_none());
                    stay.map(|member| {
                        let named = format!("python3 (pid {}", member.pid);
                        assert!(
                            finding.remedy.as_ref().unwrap().words.contains(&named),
                            "{finding:?}"
                        );
                        assert!(finding.evidence.contains(&named), "{finding:?}");
                        member.pid.to_string()
                    })
                    .collect()
                }
            });
        }
        out.join(" ")
    }

    #[test]
    fn the_danger_lasts_until_everybody_who_was_there_has_restarted() {
        for (looks, want) in [
            // Alone, and one after the other: nothing.
            ("1@5 1@9 2@9 3@9", "- - - -"),
            // A job comes, writes and goes: the server stays dangerous until it is another process.
            ("1@5 12@6 1@9 1@12 3@12", "- 2 1 1 -"),
            // The job only counted.
            ("1@5 12@5 1@5 1@9", "- 2 - -"),
            // Whether it wrote is not known: then it may have.
            ("1@5 12@5 1@- 1@9", "- 2 1 1"),
            ("12@5 1@5", "2 1"),
            // What the server writes later says nothing of the job that went without a row.
            ("1@5 12@5 12@5 1@5 1@99 12@99 1@99", "- 2 2 - - 2 -"),
            // It closed the file and lives: its index is still in its memory.
            ("1@5 12@6 1/2@7 /12@7 /2@7 3/2@8 3@8", "- 2 12 12 2 2 -"),
            // The server ends first: the other one is as dangerous.
            ("1@5 12@6 2@7 @7", "- 2 2 -"),
            // A third one beside the one that was left.
            ("1@5 12@6 1@7 13@7 1@7 @7", "- 2 1 2 1 -"),
            // Both are gone at one look.
            ("1@5 12@6 3@7", "- 2 -"),
        ] {
            assert_eq!(play(looks), want, "{looks}");
        }
    }

    #[test]
    fn the_evidence_names_everybody_and_is_bounded() {
        let all: Vec<Holder> = (1..=80).map(holder).collect();
        let writers: Vec<&Holder> = all.iter().collect();
        let now = Timestamp::from_secs(7);
        let mut rows = Rows(Some(1), Some(2));
        let both = step(None, &writers[..2], |_| true, &mut rows, now);
        let one = step(both.as_ref(), &writers[..1], |_| false, &mut rows, now).unwrap();
        assert_eq!(
            one.finding().unwrap().evidence,
            "the server python3 (pid 1, started 1970-01-01T00:00:01Z) had chroma.sqlite3 open for writing at 1970-01-01T00:00:07Z together with the program python3 (pid 2, started 1970-01-01T00:00:02Z), which had ended by 1970-01-01T00:00:07Z; not restarted since: the index in its memory may lack what was written meanwhile, and its next writes lose that"
        );
        let many = step(None, &writers, |_| true, &mut rows, now).unwrap();
        assert_eq!(many.members.len(), MEMBERS_MAX);
        let left = step(Some(&many), &writers[..1], |_| false, &mut rows, now).unwrap();
        let evidence = left.finding().unwrap().evidence;
        assert!(evidence.starts_with("the server python3 (pid 1,"), "{evidence}");
        assert!(evidence.contains("; and 59 more"), "{evidence}");
    }
}
