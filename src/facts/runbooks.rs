//! The runbooks, one page for each code of the catalogue, as they stand in `runbooks/`. They are part of the program, so that
//! `explain` has them on a host without a network.

use crate::findings::Code;

/// Subjects in the order of the catalogue, each with its codes.
pub fn subjects() -> impl Iterator<Item = (&'static str, &'static [Code])> {
    Code::ALL
        .chunk_by(|code, next| code.subject() == next.subject())
        .filter_map(|codes| Some((codes.first()?.subject(), codes)))
}

/// One section for each alert that only Prometheus can give of this program; no finding, so none of [`all`].
pub const EXPORTER: &str = include_str!("../../runbooks/exporter.md");

/// Every code and its page, in Markdown.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    Code::ALL.iter().map(|code| (code.as_str(), code.runbook_page()))
}

/// The alerts of [`EXPORTER`], each with what its section says.
pub fn exporter_alerts() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXPORTER.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    const HEADINGS: [&str; 5] = ["Meaning", "Impact", "Diagnosis", "Mitigation", "What not to do"];

    fn directory() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks")
    }

    #[test]
    fn every_page_belongs_to_a_code() {
        for entry in fs::read_dir(directory()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let code = name.strip_suffix(".md").unwrap_or_else(|| panic!("{name} is no page"));
            let other = ["README", "exporter"].contains(&code);
            assert!(other || Code::parse(code).is_some(), "{name} belongs to no finding");
        }
    }

    #[test]
    fn a_subject_stands_in_one_place() {
        let mut seen = BTreeSet::new();
        assert!(subjects().all(|(subject, _)| seen.insert(subject)));
        assert_eq!(subjects().map(|(_, codes)| codes.len()).sum::<usize>(), Code::ALL.len());
    }

    #[test]
    fn every_page_is_of_one_form_and_agrees_with_the_catalogue() {
        for (code, page) in all() {
            let mut lines = page.lines();
            assert_eq!(lines.next(), Some(format!("# {code}").as_str()));
            let severity = lines.nth(1).unwrap();
            let want = Code::parse(code).unwrap().severity().as_str();
            assert!(severity.starts_with(&format!("Severity: {want}. ")), "{code}: {severity}");
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

    /// What a page says of its code in one sentence: the first of its meaning.
    fn meaning(page: &str) -> String {
        let (_, text) = page.split_once("\n## Meaning\n\n").unwrap();
        let paragraph = text.split("\n\n").next().unwrap().replace('\n', " ");
        let end = paragraph.find(". ").map_or(paragraph.len(), |at| at + 1);
        paragraph[..end].to_owned()
    }

    /// `UPDATE_GOLDEN=1` writes it anew.
    #[test]
    fn the_index_is_made_from_the_catalogue_and_the_pages() {
        let file = directory().join("README.md");
        let kept = fs::read_to_string(&file).unwrap();
        let (head, _) = kept.split_once("\n## ").unwrap();
        let mut index = head.to_owned();
        for (subject, codes) in subjects() {
            let table = "| code | severity | meaning |\n|---|---|---|";
            index.extend(["\n## ", subject, "\n\n", table, "\n"]);
            for code in codes {
                let (name, severity) = (code.as_str(), code.severity().as_str());
                let meaning = meaning(code.runbook_page());
                let row = format!("| [`{name}`]({name}.md) | {severity} | {meaning} |\n");
                index.push_str(&row);
            }
        }
        index.push_str(
            "\n## Alerts about the exporter\n\nWhat only Prometheus can say of this program, such as that it is gone: [exporter](exporter.md).\n",
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &index).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap();
        assert!(kept == index, "runbooks/README.md: UPDATE_GOLDEN=1 writes it anew");
    }

    #[test]
    fn pages_name_only_codes_that_have_one() {
        let mut codes: BTreeSet<&str> = all().map(|(code, _)| code).collect();
        // Two tables, a signature of the log.
        codes.extend(["sqlite_master", "segment_metadata", "disk_full"]);
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
