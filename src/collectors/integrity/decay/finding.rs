//! What is said of decay.

use std::path::Path;

use super::{
    ledger::{Group, ProvenDamage, Readings},
    subject::file_name,
};
use crate::{
    findings::{Code, Finding, Remedy, command},
    human,
    store::DATABASE_FILE,
};

/// What is said of a group; one finding, whatever the number of its files.
pub(super) fn finding(name: &str, group: &Group) -> Option<Finding> {
    let database = name == DATABASE_FILE;
    let told = group.told.first()?;
    let file = file_name(database, told.part);
    let mut evidence = evidence(told, database);
    if !database {
        evidence = format!("{file}: {evidence}");
    }
    if group.told.len() > 1 {
        evidence = format!("{evidence}; {} more of its files changed too", group.told.len() - 1);
    }
    let code = if database { Code::SqliteCorrupt } else { Code::SegmentInconsistent };
    let path = if database { file.to_owned() } else { format!("{name}/{file}") };
    Some(Finding::new(code, name, evidence).with_remedy(remedy(&path, told, database)))
}

fn evidence(told: &ProvenDamage, database: bool) -> String {
    let offsets: Vec<String> = told.offsets.iter().map(u64::to_string).collect();
    let more = if told.regions > told.offsets.len() as u64 { ", …" } else { "" };
    let counter = if database { "change counter, " } else { "" };
    let mut text = format!(
        "bytes changed although nobody wrote them: {} of {} regions of {} differ from the last good reading at {} ({counter}\
         size, inode and times of change are the same), from byte {}{more}; found at {}",
        told.regions,
        told.of,
        human::bytes(told.region_bytes),
        told.good,
        offsets.join(", "),
        told.found
    );
    let Readings { direct, agree, cache_good } = told.how;
    let way = if direct { "past the page cache" } else { "through the page cache" };
    let said = if agree { "the same" } else { "other wrong bytes each time: memory or cable" };
    text.extend(["; two readings ", way, " gave ", said]);
    if cache_good {
        text.push_str("; the page cache still has the good bytes");
    }
    if told.came_back {
        text.push_str("; in between a reading was good again: the fault comes and goes");
    }
    text
}

fn remedy(path: &str, told: &ProvenDamage, database: bool) -> Remedy {
    let kernel = "journalctl -k --grep 'I/O error|EDAC|MCE'";
    let (first, command, logs) = if told.how.cache_good {
        let words = "Copy the file elsewhere now, before anything is restarted: the copy still gets the good bytes. ";
        let copy = command("cp -p {path}/{file} /var/tmp/", &[("file", Path::new(path))]);
        (words, copy, format!("Read the kernel's log with {kernel}. "))
    } else {
        ("", Some(kernel.to_owned()), String::new())
    };
    let whole = if database { path.to_owned() } else { "the whole folder".to_owned() };
    Remedy::new(format!(
        "{first}Stop Chroma before it writes {path} anew, and keep a copy of it. Put {whole} back from a verified backup of the time before. Then look at the disk and the memory."
    ))
    .with_command(command)
    .with_note(format!("{logs}Test the disk with smartctl -a and the memory with memtester."))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn the_evidence_says_what_was_read_how() {
        let at = Timestamp::from_secs(1_795_000_000);
        let told = |how, came_back| ProvenDamage {
            part: 0,
            good: at,
            found: at.plus(Duration::from_hours(1)),
            offsets: vec![0, 65_536],
            regions: 3,
            of: 100,
            region_bytes: 65_536,
            how,
            came_back,
        };
        let how = Readings { direct: true, agree: true, cache_good: true };
        let text = evidence(&told(how, false), true);
        assert_eq!(
            text,
            "bytes changed although nobody wrote them: 3 of 100 regions of 65.5 kB differ from the last good reading at \
         2026-11-18T11:06:40Z (change counter, size, inode and times of change are the same), from byte 0, 65536, …; found at \
         2026-11-18T12:06:40Z; two readings past the page cache gave the same; the page cache still has the good bytes"
        );
        let copy = remedy("f", &told(how, false), true).command.unwrap();
        assert_eq!(copy, "cp -p {path}/f /var/tmp/");
        let how = Readings { direct: false, agree: false, cache_good: false };
        let text = evidence(&told(how, true), false);
        assert!(!text.contains("change counter"), "{text}");
        assert!(text.contains("through the page cache gave other wrong bytes each time"), "{text}");
        assert!(text.ends_with("the fault comes and goes"), "{text}");
        assert!(text.len() < crate::findings::EVIDENCE_CHARS_MAX);
    }
}
