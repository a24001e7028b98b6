//! The runbooks, one page for each code of the catalogue, as they stand in `runbooks/`. They are part of the program, so that
//! `explain` has them on a host without a network.

macro_rules! pages {
    ($($subject:literal: $($code:ident),+;)*) => {
        /// Subjects in the order of the catalogue, each with its codes and their pages.
        pub const SUBJECTS: &[(&str, &[(&str, &str)])] = &[
            $(($subject, &[
                $((stringify!($code), include_str!(concat!("../runbooks/", stringify!($code), ".md")))),+
            ])),*
        ];
    };
}

pages! {
    "Directory": store_missing, sqlite_missing, sqlite_empty, sqlite_not_regular, not_a_store, store_replaced;
    "SQLite file": sqlite_not_a_database, sqlite_header_damaged, sqlite_truncated, sqlite_corrupt, sqlite_index_corrupt, sqlite_value_mismatch, free_pages_high;
    "Full text": fts_corrupt, fts_missing, fts_cut_at_nul, fts_lost_at_upgrade, fts_out_of_step;
    "Journal": hot_journal, journal_foreign, wal_mode;
    "Schema": schema_newer_than_server, schema_newer_than_exporter, migration_mismatch, migrations_missing, table_missing, default_tenant_missing, default_database_missing, catalog_empty;
    "Catalogue rows": collection_config_invalid, collection_dimension_mismatch, collection_without_segments, orphan_rows;
    "Queue": seq_id_invalid, seq_id_missing, queue_poisoned, queue_backlog, queue_not_purged, index_lag;
    "HNSW folders": segment_missing, segment_incomplete, segment_truncated, segment_header_invalid, segment_metadata_invalid, segment_metadata_hostile, segment_inconsistent, segment_bloated, segment_behind, segment_ahead, records_without_vector, records_unreachable, segment_orphan;
    "Processes": second_writer, sqlite_tool_open, server_gone, lock_held, descriptors_low;
    "Disk": disk_usage_high, disk_usage_critical, disk_will_fill, inodes_low, disk_readonly, headroom_low, disk_remote, disk_temporary, store_synced;
    "Permissions": permission_drift, permission_unwritable, permission_world_writable;
    "Backups": backup_missing, backup_stale, backup_invalid, backup_incomplete, backup_shrunk, backup_same_disk;
    "Server and logs": server_unreachable, server_failing, server_elsewhere, log_panic, log_error;
    "This program": check_overdue, collector_failing;
}

/// One section for each alert that only Prometheus can give of this program; no finding, so none of [`all`].
pub const EXPORTER: &str = include_str!("../runbooks/exporter.md");

/// The page of `code`, in Markdown.
#[must_use]
pub fn page(code: &str) -> Option<&'static str> {
    all().find(|(known, _)| *known == code).map(|(_, page)| page)
}

/// Every code and its page.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    SUBJECTS.iter().flat_map(|(_, pages)| pages.iter().copied())
}

/// The alerts of [`EXPORTER`], each with what its section says.
pub fn exporter_alerts() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXPORTER.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::findings::Code;

    const HEADINGS: [&str; 5] = ["Meaning", "Impact", "Diagnosis", "Mitigation", "What not to do"];

    fn directory() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks")
    }

    #[test]
    fn every_code_has_a_page_and_every_page_a_code() {
        for code in Code::ALL {
            assert!(
                page(code.as_str()).is_some(),
                "write runbooks/{0}.md and name {0} in src/runbooks.rs and runbooks/README.md",
                code.as_str()
            );
        }
        let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let mut seen = BTreeSet::new();
        for (code, _) in all() {
            assert!(seen.insert(code), "{code} stands twice");
            assert!(codes.contains(code), "{code} is no finding");
        }
        for entry in fs::read_dir(directory()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let code = name.strip_suffix(".md").unwrap_or_else(|| panic!("{name} is no page"));
            let other = ["README", "exporter"].contains(&code);
            assert!(other || seen.contains(code), "{name} is not part of the program");
        }
    }

    #[test]
    fn every_page_is_of_one_form_and_agrees_with_the_catalogue() {
        for (code, page) in all() {
            let mut lines = page.lines();
            assert_eq!(lines.next(), Some(format!("# {code}").as_str()));
            let known = Code::ALL.iter().find(|known| known.as_str() == code);
            let severity = lines.nth(1).unwrap();
            let want = known.map(|known| format!("Severity: {}. ", known.severity().as_str()));
            assert!(severity.starts_with(&want.unwrap_or_default()), "{code}: {severity}");
            let headings: Vec<&str> =
                page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(headings, HEADINGS, "{code}");
            for (heading, part) in HEADINGS.iter().zip(page.split("\n## ").skip(1)) {
                let text = part.strip_prefix(heading).unwrap_or_default().trim();
                assert!(text.len() > 5, "{code}: nothing under {heading}");
            }
            assert_eq!(page.matches("```").count() % 2, 0, "{code}: a fence is open");
            assert!(page.lines().all(|line| line.trim_end() == line), "{code}: space at an end");
        }
    }

    #[test]
    fn the_index_lists_every_page_once_and_pages_name_only_codes_that_have_one() {
        let index = fs::read_to_string(directory().join("README.md")).unwrap();
        for (code, page) in all() {
            let severity = page.lines().nth(2).unwrap();
            let severity = severity["Severity: ".len()..].split('.').next().unwrap();
            let row = format!("| [`{code}`]({code}.md) | {severity} | ");
            assert_eq!(index.matches(&row).count(), 1, "{row}");
        }
        assert_eq!(index.matches(".md) |").count(), all().count());
        let mut codes: BTreeSet<&str> = all().map(|(code, _)| code).collect();
        codes.extend(["sqlite_master", "disk_full"]); // a table, a signature of the log
        let alike = |word: &str| {
            [
                "store_",
                "sqlite_",
                "fts_",
                "segment_",
                "disk_",
                "backup_",
                "permission_",
                "log_",
                "server_",
            ]
            .iter()
            .any(|subject| word.starts_with(subject))
        };
        for (code, page) in all() {
            let outside_blocks = page.split("```").step_by(2);
            for word in outside_blocks.flat_map(|text| text.split('`').skip(1).step_by(2)) {
                assert!(!alike(word) || codes.contains(word), "{code} names {word}");
            }
        }
    }
}
