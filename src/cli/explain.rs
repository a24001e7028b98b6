//! `explain`: the runbook of a finding, from the program itself; without a code, every code by subject.

use super::{Ended, plain, to_stderr, to_stdout};
use crate::{findings::Code, format::words, runbooks};

/// Prints the page of `code`, or the list of codes.
pub(super) fn run(code: Option<&str>) -> Ended {
    let Some(code) = code else { return to_stdout(&list(), Ended::Well) };
    if let Some(page) = runbooks::page(&normal(code)) {
        return to_stdout(page, Ended::Well);
    }
    to_stderr(&unknown(code));
    Ended::Usage
}

/// Codes may be written as the operator likes: `Sqlite-Missing`, or as a link.
fn normal(code: &str) -> String {
    let last = code.rsplit('/').next().unwrap_or(code);
    last.trim().trim_end_matches(".md").to_ascii_lowercase().replace('-', "_")
}

fn list() -> String {
    let mut out = String::from("chroma_exporter explain CODE prints the page of one of these:\n");
    for (subject, pages) in runbooks::SUBJECTS {
        out.extend(["\n", subject, "\n"]);
        for (code, _) in *pages {
            let known = Code::ALL.iter().find(|known| known.as_str() == *code);
            let severity = known.map_or("", |known| known.severity().as_str());
            out.push_str(format!("  {code:<30} {severity}").trim_end());
            out.push('\n');
        }
    }
    out
}

fn unknown(code: &str) -> String {
    let meant = normal(code);
    let mut near: Vec<(usize, &str)> = runbooks::all()
        .filter_map(|(known, _)| {
            let changes = words::distance(&meant, known)?;
            let alike = changes <= known.len() / 3;
            let part = meant.len() > 2 && (known.contains(&meant) || meant.contains(known));
            let rank = if known.starts_with(&meant) { 0 } else { 1 + changes };
            (alike || part).then_some((rank, known))
        })
        .collect();
    near.sort_unstable();
    let near: Vec<&str> = near.into_iter().take(NEAR_MAX).map(|(_, code)| code).collect();
    let code: String = plain(code).chars().take(80).collect();
    if near.is_empty() {
        format!(
            "error: no finding is called {code}\nhelp: chroma_exporter explain lists them all\n"
        )
    } else {
        format!("error: no finding is called {code}\nhelp: did you mean {}?\n", near.join(", "))
    }
}

const NEAR_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_named() {
        for (word, want) in [
            ("store_replacd", "did you mean store_replaced?"),
            ("segment", "did you mean segment_ahead, segment_behind, "),
            ("tenant", "did you mean default_tenant_missing?"),
            ("zzz", "explain lists them all"),
            ("\u{1b}[2J", "explain lists them all"),
            (&"x".repeat(9000), "explain lists them all"),
        ] {
            let told = unknown(word);
            assert!(told.contains(want), "{word:.20}: {told}");
            assert!(told.len() < 400 && !told.contains('\u{1b}'), "{told}");
        }
    }

    #[test]
    fn codes_may_be_written_in_other_ways() {
        for word in ["hot_journal", "HOT-JOURNAL", "runbooks/hot_journal.md", " hot_journal "] {
            assert!(runbooks::page(&normal(word)).is_some(), "{word}");
        }
        let list = list();
        assert!(Code::ALL.iter().all(|code| list.contains(&format!("  {} ", code.as_str()))));
    }
}
