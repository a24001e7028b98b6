//! `check`: every collector once over every store, the findings with their remedies, and one word for a monitoring
//! system. It stands beside a running exporter without disturbing it: it reads the exporter's state and writes nothing.

mod progress;
mod report;
pub(super) mod runner;

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ValueHint;

use super::{
    Ended, bar::ProgressMode, flags::store_flag, plain, to_stderr, to_stdout, whole_file, words,
};
use crate::{
    alert::builtin,
    clock,
    collectors::CollectError,
    config::{Config, Store, StoreFlag},
    discover,
    facts::bad_value::BadValue,
    findings::Code,
    firsts::{self, Firsts},
    host::{self, Host},
    metrics,
    sample::{Snapshot, StoreReadings},
    status::Status,
    store,
};
use report::{Report, Style};
use runner::{CollectorRun, Depth};

/// What `check` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Options {
    /// Directories to check: those with chroma.sqlite3
    #[arg(value_name = "[NAME=]DIR", value_parser = store_flag, value_hint = ValueHint::DirPath)]
    pub(super) dirs: Vec<StoreFlag>,

    /// Skip what reads everything: SQLite's full check, documents and vectors; what was skipped is named
    #[arg(long)]
    quick: bool,

    /// Run SQLite's own `integrity_check` too, on a copy of each database, and say whether it agrees; this takes much longer
    #[arg(long, conflicts_with = "quick")]
    paranoid: bool,

    /// Read whole files too, which is the default
    #[arg(long, hide = true, conflicts_with = "quick")]
    deep: bool,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// Print only the ids that the findings are about (records, rows, entries), one per line; with CODE only those of that
    /// finding. What they are is printed to standard error
    #[arg(long, value_name = "CODE", num_args = 0..=1, require_equals = true, default_missing_value = ALL,
        value_parser = words::findings(code_or_all), hide_possible_values = true, conflicts_with = "output")]
    ids: Option<Ids>,

    /// What to print: text for people, JSON for programs, series for a *.prom file that `node_exporter` collects, a line for nagios
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Format,

    /// Write it to FILE, in one step and readable for everybody, and print nothing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "ids")]
    to: Option<PathBuf>,

    /// Print nothing when all is well, so that cron sends no mail
    #[arg(long, conflicts_with = "ids")]
    quiet: bool,

    /// Colour the text; auto does so on a terminal, unless `NO_COLOR` is set
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Prometheus,
    Nagios,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

/// Checks the stores of `config`, or those that are found, and prints the report.
pub(super) fn run(config: Config, options: &Options) -> Ended {
    host::give_memory_back();
    let mut report = Report::default();
    let mut seen = Snapshot { taken_at: clock::now(), stores: Vec::new() };
    let config = Arc::new(config);
    match stores(&config) {
        Ok(stores) if stores.is_empty() => {
            report.add_problem(&CollectError::NoStore);
        }
        Ok(mut stores) => {
            let max = config.limits.discovered_stores;
            if config.stores.is_empty() && stores.len() > max {
                report.add_problem(&CollectError::TooManyStores { found: stores.len(), max });
                stores.truncate(max);
            }
            let host = Arc::new(Host::read_only(&config));
            let mode = ProgressMode::of(options.progress, options.output == Format::Text);
            let runs = progress::shown(mode, stores.len(), |running| {
                let depth = match options {
                    Options { quick: true, .. } => Depth::Quick,
                    Options { paranoid: true, .. } => Depth::Paranoid,
                    _ => Depth::Full,
                };
                runner::run_all(&config, &stores, &host, depth, running)
            });
            for (store, runs) in stores.iter().zip(runs) {
                let firsts = host.state.load(firsts::KIND, &store.path).unwrap_or_default();
                report.add_store(store, &runs, &firsts);
                seen.stores.push(readings(store, runs, firsts));
            }
        }
        Err(problem) => report.add_problem(&problem),
    }
    seen.taken_at = clock::now();
    let text = match (&options.ids, options.output) {
        (Some(Ids(code)), _) => {
            let ids = report.ids(*code);
            to_stderr(&ids.err);
            ids.out
        }
        (None, Format::Text) => report.text(style(options.color)),
        (None, Format::Json) => report.json(),
        (None, Format::Nagios) => report.nagios(&config, &seen),
        (None, Format::Prometheus) => match metrics::encode_once(&seen, config.limits.series) {
            Ok(page) => page,
            Err(error) => {
                to_stderr(&format!("error: the series cannot be written: {error}\n"));
                return Ended::Unwritten;
            }
        },
    };
    if matches!(options.output, Format::Json | Format::Prometheus) && report.stores.is_empty() {
        // The document says it too, and series cannot; whoever runs it by hand need not read JSON for that.
        for problem in &report.problems {
            to_stderr(&format!("{}\n", problem.problem));
        }
    }
    let ended = match report.status {
        Status::Ok => Ended::Well,
        Status::Warning => Ended::Warning,
        Status::Critical => Ended::Critical,
        Status::Unknown => Ended::Unknown,
    };
    match &options.to {
        Some(file) => written(file, &text, ended),
        None if options.quiet && ended == Ended::Well => ended,
        None => to_stdout(&text, ended),
    }
}

/// The looks at one store as a running exporter has them.
fn readings(store: &Store, runs: Vec<CollectorRun>, firsts: Firsts) -> StoreReadings {
    StoreReadings {
        store: Arc::clone(&store.name),
        path: store.path.as_path().into(),
        collectors: runs.len(),
        readings: runs.into_iter().map(|run_all| Arc::new(run_all.into_reading())).collect(),
        firsts: Arc::new(firsts),
        trial: None,
    }
}

/// Writes the answer to `file`.
fn written(file: &Path, text: &str, ended: Ended) -> Ended {
    match whole_file::write(file, text.as_bytes()) {
        Ok(()) => ended,
        Err(error) => {
            let file = plain(&file.to_string_lossy());
            to_stderr(&format!("error: cannot write {file}: {error}\n"));
            Ended::Unwritten
        }
    }
}

/// The stores that are configured; without any, the directories that running Chroma processes hold. Errs when `/proc` cannot be read.
pub(super) fn stores(config: &Config) -> Result<Vec<Arc<Store>>, CollectError> {
    if !config.stores.is_empty() {
        return Ok(config
            .stores
            .iter()
            .map(|store| store::placed(store, &config.rootfs))
            .collect());
    }
    let found = discover::stores(&config.procfs, &config.rootfs)?;
    Ok(found.into_iter().map(Arc::new).collect())
}

/// How the text is written: with colours where they are wanted (<https://no-color.org>), and wrapped on a terminal only,
/// so that a line of a file can be searched for.
fn style(colour: Colour) -> Style {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let colours = match colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
        }
    };
    let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col.into());
    Style { colours, width: terminal.then(|| columns.filter(|columns| *columns > 0)).flatten() }
}

/// Of which findings the items are wanted; `None` for all.
#[derive(Debug, Clone, Copy)]
struct Ids(Option<Code>);

fn code_or_all(text: &str) -> Result<Ids, BadValue> {
    if text == ALL {
        return Ok(Ids(None));
    }
    let meant = builtin::key(text);
    let code = Code::ALL.iter().find(|code| builtin::key(code.as_str()) == meant);
    code.map(|code| Ids(Some(*code)))
        .ok_or(BadValue::Rule("no finding has this code; `chroma_exporter explain` lists them"))
}

const ALL: &str = "all";
