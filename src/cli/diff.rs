//! `diff`: what two stores, backups or dumps do not have in common.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ValueHint;
use serde_json::json;

use super::{
    Ended, Output,
    bar::{self, ProgressMode},
    interrupt, source, to_stderr, to_stdout,
};
use crate::{
    config::Config,
    facts::{bad_value::BadValue, error::chain},
    host,
    human::{self, plain},
    repair::{
        diff::{self, Difference, Differing, Ids, Wish},
        dump::Wanted,
        lines::Unread,
        steps::Steps,
    },
};

/// What `diff` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// A directory of Chroma, a backup as `verify` takes it, or lines of `dump`
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    a: PathBuf,

    /// What it is compared with; - for lines on standard input
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    b: PathBuf,

    /// Vectors are the same when their distance is at most this share of their length: 0.01 is one hundredth, 0 is exactly the same
    #[arg(long, value_name = "SHARE", default_value = "0.000001", value_parser = share)]
    epsilon: f64,

    /// Only collections of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    collection: Vec<String>,

    /// Do not compare vectors
    #[arg(long)]
    no_embeddings: bool,

    /// Where copies of stores are made that are read: a directory with room for both
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    scratch: Option<PathBuf>,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Errs with the rule.
fn share(text: &str) -> Result<f64, BadValue> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=2.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 2".into()),
    }
}

/// Compares. The answer goes to standard output.
pub(super) fn run(config: Config, options: &Options) -> Ended {
    host::give_memory_back();
    let config = Arc::new(config);
    let wanted = Wanted {
        collections: options.collection.clone(),
        embeddings: !options.no_embeddings,
        ..Wanted::default()
    };
    let steps = Steps::default();
    interrupt::stops(&steps);
    let mode = ProgressMode::of(options.progress, options.output == Output::Text);
    let result = bar::steps(mode, "diff", &steps, || {
        let open =
            |path: &Path| source::lines(&config, path, options.scratch.as_deref(), &wanted, &steps);
        let (a, notes_a) = open(&options.a)?;
        let (b, notes_b) = open(&options.b)?;
        let wish = Wish { epsilon: options.epsilon, vectors: !options.no_embeddings };
        let found = diff::run(a, b, wish, &steps)
            .map_err(|error| source::Unreadable::Lines(Box::new(error)))?;
        let named = |notes: Vec<String>, name: String| {
            notes.into_iter().map(move |note| format!("{name}: {note}"))
        };
        let notes: Vec<String> =
            named(notes_a, found.a.clone()).chain(named(notes_b, found.b.clone())).collect();
        Ok::<_, source::Unreadable>((found, notes))
    });
    match result {
        Ok((found, notes)) => {
            let text = match options.output {
                Output::Text => text(&found, &notes),
                Output::Json => document(&found, &notes),
            };
            to_stdout(&text, ended(&found))
        }
        Err(error) => {
            let error = plain(&chain(&error));
            if options.output == Output::Json {
                let value = json!({ "status": "unreadable", "error": error });
                return to_stdout(&format!("{value:#}\n"), Ended::Critical);
            }
            to_stderr(&format!("error: {error}\n"));
            Ended::Critical
        }
    }
}

/// What was not read may differ.
const fn ended(found: &Difference) -> Ended {
    if !found.is_none() {
        Ended::Warning
    } else if found.is_whole() {
        Ended::Well
    } else {
        Ended::Critical
    }
}

fn document(found: &Difference, notes: &[String]) -> String {
    let status = match ended(found) {
        Ended::Well => "same",
        Ended::Warning => "different",
        _ => "unreadable",
    };
    let mut value = json!(found);
    value["status"] = status.into();
    value["notes"] = json!(notes);
    format!("{value:#}\n")
}

fn text(found: &Difference, notes: &[String]) -> String {
    let count = |number: u64| human::count(number as f64);
    let mut lines = vec![format!("a: {}, {} records", plain(&found.a), count(found.records_a))];
    lines.push(format!("b: {}, {} records", plain(&found.b), count(found.records_b)));
    for one in &found.differing {
        lines.extend(collection(one));
    }
    let more = found.differing_collections.saturating_sub(found.differing.len() as u64);
    lines.extend((more > 0).then(|| format!("{} more collections differ", count(more))));
    if found.vectors_near > 0 {
        lines.push(format!(
            "{} vectors are near enough, at most {:.1e} of their length apart",
            count(found.vectors_near),
            found.largest_near
        ));
    }
    if found.vectors_uncompared > 0 {
        lines.push(format!(
            "{} vectors were not compared, because a dump was made without them",
            count(found.vectors_uncompared)
        ));
    }
    for (name, unread) in [("a", &found.unread_a), ("b", &found.unread_b)] {
        lines.extend(not_read(name, unread));
    }
    lines.extend(notes.iter().map(|note| format!("note: {}", plain(note))));
    lines.push(
        match ended(found) {
            Ended::Well => "They are the same.",
            Ended::Warning => "They differ.",
            _ => "Nothing differs of what could be read.",
        }
        .to_owned(),
    );
    lines.join("\n") + "\n"
}

fn not_read(name: &str, unread: &Unread) -> Vec<String> {
    let told = unread.told.iter().take(LISTED_MAX);
    let mut lines: Vec<String> =
        told.map(|why| format!("not read of {name}: {}", plain(why))).collect();
    let more = unread.count.saturating_sub(lines.len() as u64);
    lines.extend((more > 0).then(|| format!("not read of {name}: {more} more")));
    lines
}

fn collection(one: &Differing) -> Vec<String> {
    let count = |number: u64| human::count(number as f64);
    let name = source::called(&one.tenant, &one.database, &one.name);
    if let Some(only) = one.only_in {
        let records = if only == "a" { one.records_a } else { one.records_b };
        return vec![format!("{name}: only in {only}, {} records", count(records))];
    }
    let mut lines = vec![format!(
        "{name}: {} records in a, {} in b",
        count(one.records_a),
        count(one.records_b)
    )];
    lines.extend(one.settings.iter().map(|setting| format!("  {}", plain(setting))));
    for (what, ids) in [
        ("only in a", &one.only_a),
        ("only in b", &one.only_b),
        ("another document", &one.documents),
        ("other metadata", &one.metadata),
        ("another vector", &one.vectors),
    ] {
        lines.extend(some(what, ids));
    }
    lines
}

fn some(what: &str, ids: &Ids) -> Option<String> {
    if ids.count == 0 {
        return None;
    }
    let shown: Vec<String> = ids.first.iter().take(IDS_MAX).map(|id| plain(id)).collect();
    let more = ids.count.saturating_sub(shown.len() as u64);
    let more =
        if more > 0 { format!("; and {}", human::count(more as f64)) } else { String::new() };
    Some(format!("  {}, {what}: {}{more}", human::count(ids.count as f64), shown.join("; ")))
}

const IDS_MAX: usize = 5;
const LISTED_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_and_is_the_exit_code() {
        let ids = |count: u64, first: &[&str]| Ids {
            count,
            first: first.iter().map(|id| (*id).to_owned()).collect(),
        };
        let same = Difference {
            a: "/one".to_owned(),
            b: "/two".to_owned(),
            records_a: 1_200,
            records_b: 1_200,
            ..Difference::default()
        };
        assert_eq!(
            text(&same, &[]),
            "a: /one, 1,200 records\nb: /two, 1,200 records\nThey are the same.\n"
        );
        let unread = Unread { count: 2, told: vec!["line 7: it is no JSON".to_owned()] };
        let partly = Difference { unread_b: unread, ..same.clone() };
        assert!(text(&partly, &[]).ends_with(
            "not read of b: line 7: it is no JSON\nnot read of b: 1 more\nNothing differs of what could be read.\n"
        ));
        let one = Differing {
            tenant: "t".to_owned(),
            database: "d".to_owned(),
            name: "do\u{1b}cs".to_owned(),
            records_a: 3,
            records_b: 2,
            settings: vec!["space: l2 and ip".to_owned()],
            only_a: ids(7, &["1", "2", "3", "4", "5", "6", "7"]),
            vectors: ids(1, &["9: 1.0e-3 apart"]),
            ..Differing::default()
        };
        let lone = Differing { only_in: Some("b"), records_b: 4, ..one.clone() };
        let other =
            Difference { differing: vec![one, lone], differing_collections: 2, ..partly.clone() };
        let said = text(&other, &[]);
        assert!(said.contains("t/d/do\\u{1b}cs: 3 records in a, 2 in b\n  space: l2 and ip\n  7, only in a: 1; 2; 3; 4; 5; and 2\n  1, another vector: 9: 1.0e-3 apart\n"), "{said}");
        assert!(
            said.contains("t/d/do\\u{1b}cs: only in b, 4 records\n")
                && said.ends_with("They differ.\n"),
            "{said}"
        );
        for (found, want, status) in [
            (same, Ended::Well, "same"),
            (partly, Ended::Critical, "unreadable"),
            (other, Ended::Warning, "different"),
        ] {
            assert_eq!(ended(&found), want);
            let value: serde_json::Value = serde_json::from_str(&document(&found, &[])).unwrap();
            assert_eq!(value["status"], status);
        }
        assert!(share("0.5").is_ok() && share("-1").is_err() && share("x").is_err());
    }
}
