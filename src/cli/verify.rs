//! `verify`: whether a backup restores, and what of it.

use std::{path::PathBuf, time::Duration};

use clap::ValueHint;
use serde::Serialize;

use super::{
    Ended, Output,
    bar::{self, ProgressMode},
    interrupt, to_stdout,
};
use crate::{
    clock::{self, Timestamp},
    config::Config,
    format::manifest::{Collection, Restores},
    host, human,
    repair::{
        steps::Steps,
        unpack,
        verify::{self, Document, Python, Verified},
    },
};

/// What `verify` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// Backups to look into: archives (tar, also packed by gzip, bzip2, xz or zstd; zip), a copy of chroma.sqlite3, or directories
    #[arg(value_name = "BACKUP", required = true, value_hint = ValueHint::AnyPath)]
    backups: Vec<PathBuf>,

    /// Of several stores in one backup, look at the one whose path ends with this
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    /// Also open a copy with a real Chroma, and ask it for every record and every vector: the Python that has chromadb, or auto
    /// for that of the running server or else `python3`
    #[arg(long, value_name = "PYTHON")]
    chroma: Option<PathBuf>,

    /// How long that Chroma may take for one backup, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "chroma",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    chroma_deadline: u64,

    /// Where backups are unpacked: a directory with room for them; otherwise beside the backup or in the state directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    scratch: Option<PathBuf>,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    restores: Restores,
    backups: Vec<Document<'a>>,
}

/// Verifies each backup, and prints what came of it.
pub(super) fn run(config: &Config, options: &Options) -> Ended {
    host::give_memory_back();
    let real = |path: &PathBuf| path.canonicalize().ok();
    let how = verify::Options {
        unpack: unpack::Options {
            scratch: options.scratch.clone(),
            fallback: config.state_dir.as_ref().map(|dir| dir.join("tmp")),
            only: options.path.clone(),
            stores: config.stores.iter().filter_map(|store| real(&store.seen_path)).collect(),
            copy: false,
        },
        chroma: options.chroma.as_ref().map(|python| match python.to_str() {
            Some("auto") => Python::Auto,
            _ => Python::At(python.clone()),
        }),
        chroma_deadline: Some(Duration::from_secs(options.chroma_deadline)),
    };
    let now = clock::now();
    let mode = ProgressMode::of(options.progress, options.output == Output::Text);
    let steps = Steps::default();
    interrupt::stops(&steps);
    let verified: Vec<Verified> = options
        .backups
        .iter()
        .map(|backup| {
            let about = human::plain(&backup.display().to_string());
            bar::steps(mode, &about, &steps, || verify::run(backup, &how, &steps, now))
        })
        .collect();
    let restores = verified.iter().map(|one| one.restores).fold(Restores::Whole, verify::worse);
    let text = match options.output {
        Output::Text => {
            let texts: Vec<String> = verified.iter().map(|one| text(one, now)).collect();
            texts.join("\n")
        }
        Output::Json => {
            let backups = verified.iter().map(|one| one.document(now)).collect();
            // Keys are strings and numbers are finite, so that nothing can fail.
            serde_json::to_string_pretty(&Report { restores, backups }).unwrap_or_default() + "\n"
        }
    };
    let ended = match restores {
        Restores::Whole => Ended::Well,
        Restores::WithLosses => Ended::Warning,
        Restores::Not => Ended::Critical,
        Restores::Unknown => Ended::Unknown,
    };
    to_stdout(&text, ended)
}

/// For people.
fn text(verified: &Verified, now: Timestamp) -> String {
    let word = match verified.restores {
        Restores::Whole => "restores whole",
        Restores::WithLosses => "restores with losses",
        Restores::Not => "does not restore",
        Restores::Unknown => "cannot tell",
    };
    let name = human::plain(&verified.backup.display().to_string());
    let mut lines = vec![format!("{name}: {word}")];
    let mut about = Vec::new();
    if let Some(moment) = verified.moment {
        about.push(match now.since(moment) {
            age if age.is_zero() => format!("of {}", human::moment(moment)),
            age => format!("of {}, {} old", human::moment(moment), human::span(age)),
        });
    }
    if let Some(form) = verified.form {
        about.push(format!("{form} with {}", human::bytes(verified.bytes)));
    }
    about.extend(verified.opened_by.as_ref().map(|by| format!("opened by {by}")));
    if !about.is_empty() {
        lines.push(format!("  {}", about.join("; ")));
    }
    if !verified.collections.is_empty() {
        lines.push(String::new());
        lines.extend(table(verified));
    } else if verified.restores == Restores::Whole {
        // That of a store over which an empty one was started looks like this.
        lines.push("  No collection is in it.".to_owned());
    }
    if !verified.losses.is_empty() {
        lines.push(String::new());
        lines.push(match verified.restores {
            Restores::Unknown => "  Why nothing can be said:".to_owned(),
            _ => "  What does not come back:".to_owned(),
        });
        let reported = verified.losses.iter().take(LOSSES_MAX);
        lines.extend(reported.map(|loss| format!("  - {}", human::plain(&loss.to_string()))));
        let more = verified.losses.len().saturating_sub(LOSSES_MAX);
        lines.extend((more > 0).then(|| format!("  - and {more} more; --output json has all")));
    }
    if let Some(answer) = &verified.chroma
        && let Some(version) = &answer.version
    {
        lines.push(String::new());
        lines.push(format!(
            "  Chroma {version} gave {} of {} collections back whole.",
            answer.whole,
            verified.collections.len()
        ));
    }
    if !verified.notes.is_empty() {
        lines.push(String::new());
        lines.extend(verified.notes.iter().map(|note| format!("  Note: {}.", human::plain(note))));
    }
    lines.join("\n") + "\n"
}

/// What comes back of each collection: the largest ones, and all together.
fn table(verified: &Verified) -> Vec<String> {
    let mut shown: Vec<&Collection> = verified.collections.iter().collect();
    shown.sort_by(|a, b| b.records.cmp(&a.records).then_with(|| a.name.cmp(&b.name)));
    let rows = shown.iter().take(ROWS_MAX).map(|collection| {
        let name: String = human::plain(&collection.name).chars().take(NAME_MAX).collect();
        let place = (collection.tenant.as_str(), collection.database.as_str());
        let name = match place {
            ("default_tenant", "default_database") => name,
            (tenant, database) => {
                format!("{} ({})", name, human::plain(&format!("{tenant}/{database}")))
            }
        };
        [name, count(collection.records), count(collection.documents), count(collection.vectors)]
    });
    let mut rows: Vec<[String; 4]> = rows.collect();
    rows.insert(0, ["collection", "records", "documents", "vectors"].map(str::to_owned));
    let left = shown.len().saturating_sub(ROWS_MAX);
    if shown.len() > 1 {
        let name = match left {
            0 => "together".to_owned(),
            left => format!("together, with {left} more"),
        };
        let sums = [verified.records(), verified.documents(), verified.vectors()].map(count);
        let [records, documents, vectors] = sums;
        rows.push([name, records, documents, vectors]);
    }
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    rows.iter()
        .map(|[name, records, documents, vectors]| {
            format!(
                "  {name:<0$}  {records:>1$}  {documents:>2$}  {vectors:>3$}",
                widths[0], widths[1], widths[2], widths[3]
            )
        })
        .collect()
}

fn count(number: u64) -> String {
    human::count(number as f64)
}

const ROWS_MAX: usize = 30;
const NAME_MAX: usize = 60;
const LOSSES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::proof::Loss;

    fn verified() -> Verified {
        let collection = |name: &str, records: u64, vectors: u64| Collection {
            id: name.to_owned(),
            name: name.to_owned(),
            tenant: "default_tenant".to_owned(),
            database: "default_database".to_owned(),
            space: Some("l2".to_owned()),
            dimension: Some(8),
            records,
            documents: records,
            vectors,
            queued: 0,
        };
        Verified {
            backup: "/backup/chroma.tar.zst".into(),
            form: Some("zstd"),
            restores: Restores::WithLosses,
            moment: Some(Timestamp::from_secs(1_796_004_000)),
            bytes: 12_000_000,
            collections: vec![collection("articles", 41_233, 41_233), collection("notes", 50, 38)],
            opened_by: Some("chromadb 1.5.0 to 1.5.9".to_owned()),
            losses: vec![Loss {
                collection: Some("notes".to_owned()),
                words: "12 of 50 records have no vector".to_owned(),
            }],
            notes: vec!["a transaction was rolled back".to_owned()],
            findings: Vec::new(),
            proof: None,
            manifest: None,
            chroma: None,
            took: Duration::from_secs(2),
        }
    }

    #[test]
    fn the_text_says_what_comes_back_and_what_does_not() {
        let now = Timestamp::from_secs(1_796_004_000 + 3 * 3600);
        assert_eq!(
            text(&verified(), now),
            "/backup/chroma.tar.zst: restores with losses\n  \
             of 2026-11-30 02:00 UTC, 3 h old; zstd with 12.0 MB; opened by chromadb 1.5.0 to 1.5.9\n\n  \
             collection  records  documents  vectors\n  \
             articles     41,233     41,233   41,233\n  \
             notes            50         50       38\n  \
             together     41,283     41,283   41,271\n\n  \
             What does not come back:\n  \
             - collection notes: 12 of 50 records have no vector\n\n  \
             Note: a transaction was rolled back.\n"
        );
    }

    #[test]
    fn the_document_has_all_of_it() {
        let verified = verified();
        let now = Timestamp::from_secs(1_796_004_000 + 3 * 3600);
        let document = serde_json::to_value(verified.document(now)).unwrap();
        assert_eq!(document["restores"], "with_losses");
        assert_eq!((&document["records"], &document["vectors"]), (&41_283.into(), &41_271.into()));
        assert_eq!(document["age_seconds"], 10_800);
        assert_eq!(document["losses"][0]["collection"], "notes");
        assert_eq!(document["collections"][1]["vectors"], 38);
    }

    #[test]
    fn names_from_a_backup_cannot_drive_a_terminal() {
        let mut verified = verified();
        verified.collections[0].name = "a\u{1b}[31m\nb".to_owned();
        verified.losses[0].words = "x\u{1b}[2J".to_owned();
        let text = text(&verified, Timestamp::from_secs(0));
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
