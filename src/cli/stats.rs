//! `stats`: what is in a store that somebody else made.

use std::{path::PathBuf, sync::Arc};

use clap::ValueHint;
use serde_json::json;

use super::{
    Ended, Output,
    bar::{self, ProgressMode},
    interrupt, source, to_stderr, to_stdout,
};
use crate::{
    config::Config,
    facts::error::chain,
    host,
    human::{self, plain},
    repair::{
        dump::Wanted,
        stats::{self, Collected, Key, Number, Stats, Vectors},
        steps::Steps,
    },
};

/// What `stats` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// A directory of Chroma, a backup as `verify` takes it, or lines of `dump` (- for standard input); otherwise the store of
    /// --store.path, or the one that is found
    #[arg(value_name = "DIR|BACKUP|DUMP", value_hint = ValueHint::AnyPath)]
    of: Option<PathBuf>,

    /// Only collections of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    collection: Vec<String>,

    /// Where the copy is made that is read: a directory with room for it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    scratch: Option<PathBuf>,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Reads all of it. The answer goes to standard output.
pub(super) fn run(config: Config, options: &Options) -> Ended {
    host::give_memory_back();
    let config = Arc::new(config);
    let of = match &options.of {
        Some(of) => of.clone(),
        None => match source::of(&config, None) {
            Ok(source::Source::Store(store)) => store.seen_path.clone(),
            Ok(source::Source::Backup(path)) => path,
            Err(error) => {
                to_stderr(&format!("error: {}\nhelp: name its directory\n", plain(&chain(&error))));
                return Ended::Usage;
            }
        },
    };
    let wanted =
        Wanted { collections: options.collection.clone(), embeddings: true, ..Wanted::default() };
    let steps = Steps::default();
    interrupt::stops(&steps);
    let mode = ProgressMode::of(options.progress, options.output == Output::Text);
    let result = bar::steps(mode, "stats", &steps, || {
        let (lines, notes) =
            source::lines(&config, &of, options.scratch.as_deref(), &wanted, &steps)?;
        let stats = stats::run(lines, &steps)
            .map_err(|error| source::Unreadable::Lines(Box::new(error)))?;
        Ok::<_, source::Unreadable>((stats, notes))
    });
    match result {
        Ok((stats, notes)) => {
            let ended = if stats.unread.count == 0 { Ended::Well } else { Ended::Warning };
            let text = match options.output {
                Output::Text => text(&stats, &notes),
                Output::Json => {
                    let mut value = json!(stats);
                    value["notes"] = json!(notes);
                    format!("{value:#}\n")
                }
            };
            to_stdout(&text, ended)
        }
        Err(error) => {
            to_stderr(&format!("error: {}\n", plain(&chain(&error))));
            Ended::Critical
        }
    }
}

fn count(number: u64) -> String {
    human::count(number as f64)
}

/// An estimate says that it is one.
fn about(number: Number) -> String {
    let about = if number.estimated { "about " } else { "" };
    format!("{about}{}", count(number.count))
}

fn text(stats: &Stats, notes: &[String]) -> String {
    let records: u64 = stats.collections.iter().map(|one| one.records).sum();
    let collections = count(stats.collections.len() as u64);
    let mut lines = vec![format!(
        "{}: {} records in {collections} collections",
        plain(&stats.of),
        count(records)
    )];
    for one in &stats.collections {
        lines.push(String::new());
        lines.extend(collection(one));
    }
    let told = stats.unread.told.iter().take(LISTED_MAX);
    lines.extend(told.map(|why| format!("not read: {}", plain(why))));
    let more = stats.unread.count.saturating_sub(stats.unread.told.len().min(LISTED_MAX) as u64);
    lines.extend((more > 0).then(|| format!("not read: {} more", count(more))));
    lines.extend(notes.iter().map(|note| format!("note: {}", plain(note))));
    lines.join("\n") + "\n"
}

fn collection(one: &Collected) -> Vec<String> {
    let name = source::called(&one.tenant, &one.database, &one.name);
    let mut head = vec![format!("{name}: {} records", count(one.records))];
    head.extend(one.dimension.map(|dimension| format!("{} numbers each", count(dimension))));
    head.extend(one.space.as_ref().map(|space| format!("space {}", plain(space))));
    let mut lines = vec![head.join(", ")];
    match (&one.first_added, &one.last_added) {
        (Some(first), Some(last)) if first != last => {
            lines.push(format!("  added      {} to {} UTC", plain(first), plain(last)));
        }
        (Some(first), _) => lines.push(format!("  added      {} UTC", plain(first))),
        (None, _) => {}
    }
    let documents = &one.documents;
    let mut line = vec![format!("  documents  {}", count(documents.count))];
    if documents.count > 0 {
        line.push(human::bytes(documents.bytes));
        line.push(format!("the longest {}", human::bytes(documents.longest)));
        line.push(format!("{} are copies of another one", about(documents.copies)));
    }
    lines.push(line.join(", "));
    lines.push(vectors(one.vectors.as_ref()));
    if let Some(bytes) = one.index_bytes {
        lines.push(format!("  index      {}", human::bytes(bytes)));
    }
    if !one.keys.is_empty() {
        lines.push(format!("  metadata   {}", human::bytes(one.metadata_bytes)));
        lines.extend(one.keys.iter().map(|key| format!("    {}", described(key))));
    }
    if one.more_keys {
        lines.push("    more keys, which were not counted".to_owned());
    }
    lines
}

fn vectors(vectors: Option<&Vectors>) -> String {
    let Some(of) = vectors else { return "  vectors    the dump was made without them".to_owned() };
    let mut line = vec![format!("  vectors    {}", count(of.count)), human::bytes(of.bytes)];
    if of.missing > 0 {
        line.push(format!("{} records have none", count(of.missing)));
    }
    if let (Some(min), Some(mean), Some(max)) = (of.length_min, of.length_mean, of.length_max) {
        line.push(format!("lengths {min:.4} to {max:.4}, mean {mean:.4}"));
    }
    if of.count > 0 {
        line.push(format!("{} are copies of another one", about(of.copies)));
    }
    if of.zeros > 0 {
        line.push(format!("{} are zero", count(of.zeros)));
    }
    if of.other_dimension > 0 {
        line.push(format!("{} have another dimension", count(of.other_dimension)));
    }
    line.join(", ")
}

/// `page: integer in 41,233 records, 312 different values, 1 to 312`.
fn described(key: &Key) -> String {
    let kinds: Vec<String> = match key.types.len() {
        1 => key.types.keys().map(|kind| (*kind).to_owned()).collect(),
        _ => key.types.iter().map(|(kind, of)| format!("{} {kind}", count(*of))).collect(),
    };
    let range = key.min.zip(key.max).map(|(min, max)| format!(", {min} to {max}"));
    format!(
        "{}: {} in {} records, {} different values{}",
        plain(&key.name),
        kinds.join(", "),
        count(key.records),
        about(key.values),
        range.unwrap_or_default()
    )
}

const LISTED_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::stats::Documents;

    #[test]
    fn a_store_is_told_in_a_few_lines() {
        let key = Key {
            name: "pa\u{1b}ge".to_owned(),
            records: 3,
            types: [("integer", 2), ("number", 1)].into(),
            values: Number { count: 1_200, estimated: true },
            min: Some(-3.0),
            max: Some(2.5),
        };
        let one = Collected {
            tenant: "default_tenant".to_owned(),
            database: "default_database".to_owned(),
            name: "docs".to_owned(),
            space: Some("cosine".to_owned()),
            dimension: Some(384),
            records: 1_200,
            documents: Documents { count: 2, bytes: 1_500, longest: 800, ..Documents::default() },
            vectors: Some(Vectors {
                count: 1_199,
                missing: 1,
                bytes: 4_000,
                length_min: Some(0.5),
                length_mean: Some(0.75),
                length_max: Some(1.0),
                zeros: 2,
                ..Vectors::default()
            }),
            metadata_bytes: 300,
            keys: vec![key],
            index_bytes: Some(5_000),
            first_added: Some("2026-01-01 00:00:00".to_owned()),
            last_added: Some("2026-02-01 00:00:00".to_owned()),
            ..Collected::default()
        };
        let stats =
            Stats { of: "/srv/chroma".to_owned(), collections: vec![one], ..Stats::default() };
        assert_eq!(
            text(&stats, &[]),
            "/srv/chroma: 1,200 records in 1 collections\n\n\
             docs: 1,200 records, 384 numbers each, space cosine\n  \
             added      2026-01-01 00:00:00 to 2026-02-01 00:00:00 UTC\n  \
             documents  2, 1.5 kB, the longest 800 bytes, 0 are copies of another one\n  \
             vectors    1,199, 4.0 kB, 1 records have none, lengths 0.5000 to 1.0000, mean 0.7500, 0 are copies of another one, 2 are zero\n  \
             index      5.0 kB\n  \
             metadata   300 bytes\n    \
             pa\\u{1b}ge: 2 integer, 1 number in 3 records, about 1,200 different values, -3 to 2.5\n"
        );
    }
}
