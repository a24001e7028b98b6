//! `backup`: a proven copy of each store, now.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::ValueHint;
use serde_json::{Value, json};

use super::{
    Ended, Output,
    bar::{self, ProgressMode},
    check,
    flags::store_flag,
    interrupt, to_stderr, to_stdout,
};
use crate::{
    clock,
    config::{Config, Store, StoreFlag},
    facts::error::chain,
    format::manifest::Restores,
    host::{self, Host},
    human::{self, plain},
    repair::{
        backup::{
            self, BackupError, Done, Order,
            after::{After, DEADLINE},
            names::Form,
        },
        retention::Keep,
        steps::Steps,
    },
    store::Context,
};

/// What `backup` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// Directories to back up: those with chroma.sqlite3
    #[arg(value_name = "[NAME=]DIR", value_parser = store_flag, value_hint = ValueHint::DirPath)]
    pub(super) dirs: Vec<StoreFlag>,

    /// Directory that the backups go into; it must exist. Without it, each store is backed up as its configuration says
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    to: Option<PathBuf>,

    /// One packed file, or a directory that shares unchanged files with the backup before
    #[arg(long, value_name = "FORM", default_value = "archive", requires = "to")]
    form: FormWord,

    /// Proven backups to keep: the newest ones
    #[arg(long, value_name = "N", default_value_t = Keep::default().last, requires = "to")]
    keep_last: usize,

    /// The newest of each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 0, requires = "to")]
    keep_daily: usize,

    /// The newest of each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t = 0, requires = "to")]
    keep_weekly: usize,

    /// The newest of each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t = 0, requires = "to")]
    keep_monthly: usize,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,

    /// Seconds after which the program of --after is ended
    #[arg(long, value_name = "SECONDS", default_value_t = DEADLINE.as_secs(), requires = "to")]
    after_deadline: u64,

    /// Program to run for each proven backup, without a shell; takes all words that follow, so it comes last. {path},
    /// {manifest} and {sha256} stand for those of the backup
    #[arg(long, value_name = "PROGRAM ARG", num_args = 1.., allow_hyphen_values = true, requires = "to")]
    after: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormWord {
    Archive,
    Directory,
}

impl Options {
    /// What the flags ask for; `None` when they do not say where to.
    fn order(&self) -> Option<Order> {
        Some(Order {
            to: self.to.clone()?,
            form: match self.form {
                FormWord::Archive => Form::Archive,
                FormWord::Directory => Form::Directory,
            },
            keep: Keep {
                last: self.keep_last,
                daily: self.keep_daily,
                weekly: self.keep_weekly,
                monthly: self.keep_monthly,
            },
            after: (!self.after.is_empty()).then(|| After {
                words: self.after.clone(),
                deadline: Duration::from_secs(self.after_deadline),
            }),
        })
    }
}

/// What became of one store.
struct StoreResult<'a> {
    store: &'a Store,
    result: Result<Done, BackupError>,
}

/// Backs up the stores of `config`, or those that are found, one after the other.
pub(super) fn run(config: Config, options: &Options) -> Ended {
    host::give_memory_back();
    let config = Arc::new(config);
    let stores = match check::stores(&config) {
        Ok(stores) if !stores.is_empty() => stores,
        Ok(_) => return nothing(options, "there is no store: name its directory"),
        Err(problem) => return nothing(options, &problem.to_string()),
    };
    let host = Arc::new(Host::read_only(&config));
    let mut orders = Vec::new();
    for store in &stores {
        let job = || Some(Order::of_job(store.backup.as_ref()?, &config.rootfs));
        let Some(order) = options.order().or_else(job) else {
            to_stderr(&format!(
                "error: where the backup of {} is to go is not known\nhelp: add --to DIR, or stores[].backup to the configuration\n",
                plain(&store.name)
            ));
            return Ended::Usage;
        };
        orders.push(order);
    }
    let steps = Steps::default();
    interrupt::stops(&steps);
    let mode = ProgressMode::of(options.progress, options.output == Output::Text);
    let mut all = Vec::new();
    for (store, order) in stores.iter().zip(&orders) {
        let context = Context::new(&config, store, &host);
        let result = bar::steps(mode, &store.name, &steps, || {
            backup::run(order, &context, &steps, clock::now())
        });
        all.push(StoreResult { store, result });
    }
    let text = match options.output {
        Output::Text => all.iter().map(StoreResult::text).collect(),
        Output::Json => document(&all),
    };
    to_stdout(&text, ended(&all))
}

/// The answer when no store is known.
fn nothing(options: &Options, why: &str) -> Ended {
    let text = match options.output {
        Output::Text => format!("no backup was made: {why}\n"),
        Output::Json => {
            let none = json!({"status": status(Ended::Critical), "error": why, "backups": []});
            format!("{none:#}\n")
        }
    };
    to_stdout(&text, Ended::Critical)
}

fn document(all: &[StoreResult<'_>]) -> String {
    let backups: Vec<Value> = all.iter().map(StoreResult::json).collect();
    format!("{:#}\n", json!({"status": status(ended(all)), "backups": backups}))
}

/// The worst of all: one that was not made before one of which nothing is known.
fn ended(all: &[StoreResult<'_>]) -> Ended {
    let worst = all.iter().map(StoreResult::ended).max_by_key(|ended| match ended {
        Ended::Critical => 3,
        Ended::Unknown => 2,
        Ended::Warning => 1,
        _ => 0,
    });
    worst.unwrap_or(Ended::Well)
}

const fn status(ended: Ended) -> &'static str {
    match ended {
        Ended::Well => "proven",
        Ended::Warning => "with_losses",
        Ended::Unknown => "unknown",
        _ => "not_made",
    }
}

impl StoreResult<'_> {
    fn ended(&self) -> Ended {
        match &self.result {
            Ok(done) => match done.restores() {
                Restores::Whole => Ended::Well,
                Restores::WithLosses | Restores::Not => Ended::Warning,
                Restores::Unknown => Ended::Unknown,
            },
            Err(BackupError::Proof(_)) => Ended::Unknown,
            Err(_) => Ended::Critical,
        }
    }

    fn text(&self) -> String {
        let name = &self.store.name;
        let mut lines = Vec::new();
        match &self.result {
            Err(error) => {
                lines.push(format!("{name}: no backup was made: {}", chain(error)));
                lines.push(format!("  help: {}", error.hint()));
            }
            Ok(done) => {
                let verdict = match done.restores() {
                    Restores::Whole => "proven: it restores whole",
                    Restores::WithLosses => "not proven: it would not bring back everything",
                    Restores::Not => "not proven: Chroma would not open it",
                    Restores::Unknown => "not proven: not everything could be looked at",
                };
                let (records, collections) =
                    (done.manifest.records(), done.manifest.collections.len());
                lines.push(format!("{name}: {verdict}"));
                lines.push(format!("  {}", done.path.display()));
                lines.push(format!(
                    "  {} records in {}, {}, made in {}",
                    human::count(records as f64),
                    counted(collections, "collection"),
                    human::bytes(done.bytes),
                    human::span(done.took.max(Duration::from_secs(1)))
                ));
                lines.extend(done.losses.iter().map(|loss| format!("  missing: {loss}")));
                lines.extend(done.notes.iter().map(|note| format!("  note: {note}")));
                if !done.is_proven() {
                    lines.push(
                        "  it is kept, counts as none, and nothing was removed for it; `chroma_exporter check` says what is wrong with the store"
                            .to_owned(),
                    );
                }
                lines.extend(done.pruned.iter().map(|name| format!("  removed: {name}")));
                lines.extend(
                    done.unpruned.iter().map(|why| format!("  could not remove old ones: {why}")),
                );
                if let Some(ran) = &done.after {
                    lines.push(format!("  the program after it: {}", ran.ended));
                    if !ran.is_well() {
                        lines.extend(ran.said.lines().map(|line| format!("    {line}")));
                    }
                }
            }
        }
        lines.into_iter().map(|line| plain(&line) + "\n").collect()
    }

    fn json(&self) -> Value {
        let mut out = json!({
            "store": &*self.store.name,
            "path": self.store.path.to_string_lossy(),
            "status": status(self.ended()),
        });
        let more = match &self.result {
            Err(error) => json!({"error": chain(error), "hint": error.hint()}),
            Ok(done) => json!({
                "backup": done.path.to_string_lossy(),
                "form": done.form.as_str(),
                "moment": done.manifest.moment.to_string(),
                "bytes": done.bytes,
                "sha256": done.sha256,
                "records": done.manifest.records(),
                "collections": done.manifest.collections.len(),
                "files_shared": done.shared,
                "losses": done.losses,
                "notes": done.notes,
                "pruned": done.pruned,
                "prune_error": done.unpruned,
                "tries": done.tries,
                "longest_lock_seconds": done.held.as_secs_f64(),
                "seconds": done.took.as_secs_f64(),
                "after": done.after.as_ref().map(|ran| json!({
                    "exit_code": ran.code,
                    "ended": ran.ended,
                    "output": ran.said,
                    "seconds": ran.took.as_secs_f64(),
                })),
            }),
        };
        if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
            out.extend(more);
        }
        out
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
