//! The command line: which subcommand, with which flags. Flags may stand before and after the subcommand. What a command
//! found is an [`Ended`]; which exit code that is, `main` decides.

mod backup;
mod bar;
pub mod check;
pub mod completions;
pub mod config;
mod diff;
mod dump;
pub mod explain;
mod flags;
mod guard;
mod healthcheck;
mod interrupt;
mod load;
mod manual;
mod notify;
mod permissions;
mod recover;
mod restore;
mod rules;
pub mod serve;
mod silence;
mod source;
mod stats;
mod verify;
mod whole_file;
mod words;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::StringValueParser};

use crate::{
    collectors,
    config::{Config, Overrides, file},
    http::Secure,
    human::plain,
    keys::ConfigError,
    logging,
};
use flags::Flags;

/// Says in Prometheus' words whether the data of a `ChromaDB` on this host is safe.
#[derive(Debug, Parser)]
#[command(
    name = "chroma_exporter",
    version = version(),
    about = "Prometheus exporter for ChromaDB directories: is the data safe, and if not, what to do.",
    after_help = "Without --store.path and --config.file it watches the directories that running Chroma processes use.",
    args_override_self = true,
    subcommand_precedence_over_arg = true
)]
pub struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the exporter; this is what runs without a subcommand
    Serve {
        #[command(flatten)]
        flags: Flags,
    },
    /// Run every collector once and print what was found, with remedies
    ///
    /// Exit code: 0 all is well, 1 warning, 2 critical, 3 unknown.
    Check {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: check::Options,
    },
    /// Make a proven backup of a store, beside any writer, and remove those that no rule keeps
    ///
    /// It is copied as of one moment, opened and checked, packed, read back, and only then gets its name. Exit code: 0 proven, 1 made
    /// of a store that has losses, 2 not made, 3 made or not, but nobody can tell whether it restores.
    Backup {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: backup::Options,
    },
    /// Open a backup and prove that it restores: what comes back of each collection, and what does not
    ///
    /// Exit code: 0 it restores whole, 1 with losses that are told, 2 it does not restore, 3 unknown.
    Verify {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: verify::Options,
    },
    /// Print every record of a store or of a backup as a line of JSON: ids, documents, metadata, vectors
    ///
    /// It reads a copy of one moment, beside any writer, and needs no Chroma. Exit code: 0 all was read, 1 what was not is told,
    /// 2 nothing was dumped.
    Dump {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: dump::Options,
    },
    /// Compare two stores, backups or dumps, record by record: ids, documents, metadata, vectors
    ///
    /// Exit code: 0 they are the same, 1 they differ, 2 one of them could not be read.
    Diff {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: diff::Options,
    },
    /// Print what is in a store, a backup or a dump: records, documents, vectors and metadata of each collection
    ///
    /// Exit code: 0 all was read, 1 what was not is told, 2 it could not be read.
    Stats {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: stats::Options,
    },
    /// Load lines of `dump` into a running server of Chroma, and ask it afterwards whether it has them
    ///
    /// Nothing but the URL of --to is contacted. The same lines once more change nothing, so a load that was cut off is run again.
    /// Exit code: 0 all is loaded, 1 what is not is told, 2 it broke off or the server has something else, 3 refused or it cannot be
    /// told.
    Load {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: load::Options,
    },
    /// Print the runbook of a finding or of an alert; without a name, list them all
    Explain {
        /// The name of the finding or of its alert: `second_writer`, `ChromaSecondWriter`
        #[arg(value_name = "NAME", value_parser = words::findings(StringValueParser::new()), hide_possible_values = true)]
        name: Option<String>,
    },
    /// Look at a store, and become its server; a second server on the same directory is refused
    ///
    /// Exit code before the server runs: 2 refused, 3 it cannot be told, 126 or 127 the program cannot be started.
    Guard {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: guard::Options,
    },
    /// Ask the exporter that runs with the same flags whether it answers; for containers without curl
    ///
    /// Exit code: 0 it answers, 1 it does not.
    Healthcheck {
        #[command(flatten)]
        flags: Flags,
    },
    /// Check the configuration, print what it comes to, or write one of what is found on this host
    Config {
        #[command(flatten)]
        flags: Flags,
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Send a test alert through a receiver and print what it answered
    ///
    /// Exit code: 0 delivered, 1 not delivered and worth trying again, 2 refused.
    Notify {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: notify::Options,
    },
    /// Print the alert rules in force as a rule file for Prometheus
    Rules {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: rules::Options,
    },
    /// Show what of a store has another owner, group or mode than it should; --apply mends it, --undo takes that back
    ///
    /// Exit code: 0 nothing differs or it was mended, 1 it differs, 3 it cannot be told or was refused.
    Permissions {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: permissions::Options,
    },
    /// Put a proven backup in place; what was there is kept, and --undo puts it back
    ///
    /// Nobody may use the store meanwhile. Exit code: 0 done, 1 done with losses that are told, 2 not done, 3 refused or it cannot
    /// be told.
    Restore {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: restore::Options,
    },
    /// Repair a store: a copy is repaired and measured, and put in place with --apply; what was there is kept
    ///
    /// Nobody may use the store meanwhile. Exit code: 0 nothing to do or whole, 1 repaired with losses that are told, 2 not repaired, 3
    /// refused or it cannot be told.
    Recover {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: recover::Options,
    },
    /// Hold alerts back for a while
    Silence {
        #[command(flatten)]
        flags: Flags,
        #[command(subcommand)]
        action: silence::Action,
    },
    /// Print the script that completes our commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages of all commands, for packages
    Manual {
        /// A directory that is there, such as /usr/local/share/man/man1
        #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        dir: std::path::PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every mistake in the configuration, with its line; exit code 78 when there is one
    Check {
        #[command(flatten)]
        flags: Flags,
    },
    /// Print the configuration that file and flags give, as YAML
    Print {
        #[command(flatten)]
        flags: Flags,
    },
    /// Find stores, backups and logs on this host, and write a configuration with comments to begin with
    Init {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: config::init::Options,
    },
}

/// What a command prints: text for people, JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ended {
    /// It did what it should, and found nothing wrong.
    Well,
    /// `check` found a warning and nothing worse; `backup` made one with losses.
    Warning,
    /// `check` found something critical; `backup` made none.
    Critical,
    /// It could not find out.
    Unknown,
    /// The words of the command line are wrong.
    Usage,
    /// The configuration is wrong.
    Misconfigured,
    /// The answer could not be written.
    Unwritten,
    /// `serve` ended by itself with this code.
    Served(ExitCode),
}

/// Runs the command that `args` (with the name of the program) ask for.
pub fn run(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Ended {
    let matched = command().try_get_matches_from(args);
    let cli = match matched.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(reported) => {
            let written = reported.print();
            // Help and version were asked for and go to standard output.
            return if reported.use_stderr() { Ended::Usage } else { answer(written, Ended::Well) };
        }
    };
    let before = cli.flags;
    match cli.command {
        None => with_config(before.into(), serve),
        Some(Command::Serve { flags }) => with_config(before.and(flags).into(), serve),
        Some(Command::Check { flags, options }) => {
            let named = Flags::of_stores(options.dirs.clone());
            quietly(before.and(flags).and(named), |config| check::run(config, &options))
        }
        Some(Command::Backup { flags, options }) => {
            let named = Flags::of_stores(options.dirs.clone());
            quietly(before.and(flags).and(named), |config| backup::run(config, &options))
        }
        Some(Command::Verify { flags, options }) => {
            quietly(before.and(flags), |config| verify::run(&config, &options))
        }
        Some(Command::Dump { flags, options }) => {
            quietly(before.and(flags), |config| dump::run(config, &options))
        }
        Some(Command::Diff { flags, options }) => {
            quietly(before.and(flags), |config| diff::run(config, &options))
        }
        Some(Command::Stats { flags, options }) => {
            quietly(before.and(flags), |config| stats::run(config, &options))
        }
        Some(Command::Load { flags, options }) => {
            quietly(before.and(flags), |_| load::run(options))
        }
        Some(Command::Config { flags, command }) => {
            let before = before.and(flags);
            match command {
                ConfigCommand::Check { flags } => {
                    with_config(before.and(flags).into(), |config, overrides| {
                        with_secure(config, |_, _| config::check(&overrides))
                    })
                }
                ConfigCommand::Print { flags } => {
                    with_config(before.and(flags).into(), |config, _| config::print(&config))
                }
                ConfigCommand::Init { flags, options } => {
                    let named = Flags::of_stores(options.dirs.clone());
                    with_config(before.and(flags).and(named).into(), |config, overrides| {
                        quiet_log(&config, &overrides);
                        config::init::run(&config, &options)
                    })
                }
            }
        }
        Some(Command::Guard { flags, options }) => {
            quietly(before.and(flags), |config| guard::run(&config.into(), &options))
        }
        Some(Command::Healthcheck { flags }) => {
            with_config(before.and(flags).into(), |config, overrides| {
                quiet_log(&config, &overrides);
                with_secure(config, |config, secure| healthcheck::run(&config, secure.as_ref()))
            })
        }
        Some(Command::Explain { name }) => explain::run(name.as_deref()),
        Some(Command::Notify { flags, options }) => {
            quietly(before.and(flags), |config| notify::run(&config, &options))
        }
        Some(Command::Permissions { flags, options }) => {
            quietly(before.and(flags), |config| permissions::run(&config.into(), &options))
        }
        Some(Command::Restore { flags, options }) => {
            quietly(before.and(flags), |config| restore::run(&config, &options))
        }
        Some(Command::Recover { flags, options }) => {
            quietly(before.and(flags), |config| recover::run(&config, &options))
        }
        Some(Command::Rules { flags, options }) => {
            with_config(before.and(flags).into(), |config, _| rules::run(&config, &options))
        }
        Some(Command::Silence { flags, action }) => {
            with_config(before.and(flags).and(action.flags()).into(), |config, overrides| {
                quiet_log(&config, &overrides);
                silence::run(&config, action)
            })
        }
        Some(Command::Completions { shell }) => completions::run(shell),
        Some(Command::Manual { dir }) => manual::run(&dir),
    }
}

/// The command line as it is read. The help of each subcommand shows only the flags that change what it does.
fn command() -> clap::Command {
    const READING: [&str; 6] =
        ["store.", "backup.", "web.", "collector.", "no-collector.", "path."];
    let but = |kept: &[&'static str], more: &[&'static str]| -> Vec<&'static str> {
        READING
            .into_iter()
            .filter(|prefix| !kept.contains(prefix))
            .chain(more.iter().copied())
            .collect()
    };
    let hidden = |command, prefixes: Vec<&str>| flags::hidden(command, &prefixes);
    Cli::command()
        .mut_subcommand("backup", |command| hidden(command, but(&["store.", "path."], &["state."])))
        .mut_subcommand("dump", |command| hidden(command, but(&["store.", "path."], &[])))
        .mut_subcommand("diff", |command| hidden(command, but(&["path."], &[])))
        .mut_subcommand("stats", |command| hidden(command, but(&["store.", "path."], &[])))
        .mut_subcommand("load", |command| hidden(command, but(&[], &["state."])))
        .mut_subcommand("check", |command| hidden(command, vec!["web."]))
        .mut_subcommand("verify", |command| hidden(command, but(&["store."], &[])))
        .mut_subcommand("guard", |command| {
            hidden(command, but(&["store.", "path.", "collector.", "no-collector."], &[]))
        })
        .mut_subcommand("healthcheck", |command| hidden(command, but(&["web."], &["state."])))
        .mut_subcommand("notify", |command| hidden(command, but(&["store."], &["state."])))
        .mut_subcommand("permissions", |command| hidden(command, but(&["store.", "path."], &[])))
        .mut_subcommand("restore", |command| {
            hidden(command, but(&["store.", "path."], &["state."]))
        })
        .mut_subcommand("recover", |command| {
            hidden(command, but(&["store.", "path."], &["state."]))
        })
        .mut_subcommand("rules", |command| hidden(command, but(&[], &["state.", "log."])))
        .mut_subcommand("silence", |command| hidden(command, but(&[], &["log."])))
}

/// For commands that print what they found.
fn quietly(flags: Flags, run: impl FnOnce(Config) -> Ended) -> Ended {
    with_config(flags.into(), |config, overrides| {
        quiet_log(&config, &overrides);
        run(config)
    })
}

/// For commands that print what they found: log lines in between would only be in the way.
fn quiet_log(config: &Config, overrides: &Overrides) {
    let mut log = config.log;
    if !overrides.keys.contains_key("log.level") {
        log.level = log.level.min(crate::config::LogLevel::Warn);
    }
    logging::init(log);
}

fn serve(config: Config, overrides: Overrides) -> Ended {
    with_secure(config, |config, secure| {
        logging::init(config.log);
        Ended::Served(serve::run(config, overrides, secure))
    })
}

/// Loads what `--web.config.file` names and goes on with it, or tells all that is wrong with it.
fn with_secure(config: Config, run: impl FnOnce(Config, Option<Secure>) -> Ended) -> Ended {
    match config.web.config_file.as_deref().map(Secure::load).transpose() {
        Ok(secure) => run(config, secure),
        Err(problems) => {
            complain(&problems);
            Ended::Misconfigured
        }
    }
}

/// Loads the configuration and goes on with it, or tells all that is wrong with it.
fn with_config(overrides: Overrides, run: impl FnOnce(Config, Overrides) -> Ended) -> Ended {
    match file::load(&overrides, &collectors::families()) {
        Ok(config) => run(config, overrides),
        Err(problems) => {
            complain(&problems);
            Ended::Misconfigured
        }
    }
}

fn complain(problems: &[ConfigError]) {
    for problem in problems {
        to_stderr(&format!("{problem}\n"));
    }
}

/// Writes to standard error; when that is gone there is nobody left to tell.
fn to_stderr(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}

/// Writes the answer of a command to standard output.
fn to_stdout(text: &str, ended: Ended) -> Ended {
    let mut stdout = io::stdout().lock();
    answer(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()), ended)
}

/// A reader that has seen enough (`| head`) is no failure.
fn answer(written: io::Result<()>, ended: Ended) -> Ended {
    match written {
        Ok(()) => ended,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ended,
        Err(error) => {
            to_stderr(&format!("error: cannot write the answer: {error}\n"));
            Ended::Unwritten
        }
    }
}

fn version() -> String {
    // A debug build cannot say more: see build.rs.
    let debug = if cfg!(debug_assertions) { ", debug build" } else { "" };
    format!("{} (revision {}{debug})", crate::VERSION, crate::REVISION)
}
