//! `load`: lines of `dump` into a running server of Chroma.

use std::{io, path::PathBuf};

use clap::{ArgGroup, ValueHint};
use reqwest::Url;
use serde_json::json;

use super::{
    Ended, Output,
    bar::{self, ProgressMode},
    interrupt, source, to_stderr, to_stdout,
};
use crate::{
    facts::bad_value::BadValue,
    host::{self, asking},
    human::{self, plain},
    repair::{
        load::{self, LoadError, Loaded, Patience, Wish},
        steps::Steps,
    },
    store::DATABASE_FILE,
};

/// What `load` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
#[command(group = ArgGroup::new("who").args(["headers_file", "headers_env"]))]
pub(super) struct Options {
    /// The lines, as `dump` writes them, also packed by zstd or gzip; - for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    from: PathBuf,

    /// The address of the server, such as `http://127.0.0.1:8000`
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, value_parser = url)]
    to: Url,

    /// Give a collection another name; may be given several times
    #[arg(long, value_name = "OLD=NEW", value_parser = rename)]
    rename: Vec<(String, String)>,

    /// Only collections of this name, as the lines have it; may be given several times
    #[arg(long, value_name = "NAME")]
    collection: Vec<String>,

    /// Put records into collections that are there; one with the same id is changed to what the lines say
    #[arg(long)]
    merge: bool,

    /// Keep in this file how far the load is, and go on from there when it was cut off. It is removed at the end
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    resume: Option<PathBuf>,

    /// Read all lines, ask the server what it has, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Send the headers of this file, one NAME: VALUE per line: Authorization: Bearer …
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    headers_file: Option<PathBuf>,

    /// The same out of this variable of the environment
    #[arg(long, value_name = "VARIABLE")]
    headers_env: Option<String>,

    /// Show progress on standard error; the default on a terminal, except with JSON
    #[arg(long)]
    progress: bool,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Errs with the rule.
fn url(text: &str) -> Result<Url, BadValue> {
    const RULE: &str = "must be a URL such as http://127.0.0.1:8000";
    let url = Url::parse(text).map_err(|_| RULE)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(RULE.into());
    }
    // Every user of this host sees the command line.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password: give --headers-file".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end with the port, or with the path in front of /api".into());
    }
    Ok(url)
}

/// Errs with the rule.
fn rename(text: &str) -> Result<(String, String), BadValue> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err("must be of the form OLD=NEW".into()),
    }
}

/// Loads. The answer goes to standard output.
pub(super) fn run(options: Options) -> Ended {
    host::give_memory_back();
    let headers = match (&options.headers_file, &options.headers_env) {
        (Some(file), _) => asking::read_headers(file),
        (None, Some(variable)) => asking::headers_of_variable(variable),
        (None, None) => Ok(reqwest::header::HeaderMap::new()),
    };
    let headers = match headers {
        Ok(headers) => headers,
        Err(error) => {
            to_stderr(&format!("error: {error}\n"));
            return Ended::Usage;
        }
    };
    let beside = options.resume.as_deref().and_then(|path| std::path::absolute(path).ok());
    if beside.is_some_and(|path| path.parent().is_some_and(|dir| dir.join(DATABASE_FILE).exists()))
    {
        to_stderr("error: --resume must not name a file in a directory of Chroma\n");
        return Ended::Usage;
    }
    let wish = Wish {
        from: Some(options.from).filter(|from| from.as_os_str() != "-"),
        to: options.to,
        headers,
        rename: options.rename,
        collections: options.collection,
        merge: options.merge,
        dry_run: options.dry_run,
        resume: options.resume,
        patience: Patience::default(),
    };
    if wish.from.is_none() && io::IsTerminal::is_terminal(&io::stdin()) {
        to_stderr("note: the lines are read from the terminal\n");
    }
    let steps = Steps::default();
    interrupt::stops(&steps);
    let people = options.output == Output::Text;
    let mode = ProgressMode::of(options.progress, people);
    let result = bar::steps(mode, "load", &steps, || load::run(&wish, &steps));
    let ended = ended(&result);
    match (&result, options.output) {
        (_, Output::Json) => to_stdout(&document(&result), ended),
        (Ok(loaded), Output::Text) => to_stdout(&text(loaded, wish.resume.is_some()), ended),
        (Err(error), Output::Text) => {
            let hint = error.hint().map(|hint| format!("help: {hint}\n")).unwrap_or_default();
            to_stderr(&format!("error: {}\n{hint}", said(error)));
            ended
        }
    }
}

fn said(error: &LoadError) -> String {
    plain(&crate::facts::error::chain(error))
}

fn ended(result: &Result<Loaded, LoadError>) -> Ended {
    match result {
        Err(LoadError::There(_) | LoadError::Twice(_) | LoadError::Resume { .. }) => Ended::Unknown,
        Err(LoadError::Read { .. } | LoadError::Server { .. }) => Ended::Critical,
        Ok(loaded) if loaded.broken_off.is_some() || !loaded.differing.is_empty() => {
            Ended::Critical
        }
        Ok(loaded) if !loaded.unproven.is_empty() => Ended::Unknown,
        Ok(loaded) if loaded.lost > 0 => Ended::Warning,
        Ok(_) => Ended::Well,
    }
}

/// For programs.
fn document(result: &Result<Loaded, LoadError>) -> String {
    let value = match result {
        Err(error) => {
            let status = if ended(result) == Ended::Unknown { "refused" } else { "failed" };
            json!({ "status": status, "error": said(error), "help": error.hint() })
        }
        Ok(loaded) => {
            let status = match ended(result) {
                Ended::Well => "loaded",
                Ended::Warning => "loaded_with_losses",
                Ended::Unknown => "unproven",
                _ if loaded.broken_off.is_some() => "broken_off",
                _ => "differs",
            };
            let mut value = json!(loaded);
            value["status"] = status.into();
            value
        }
    };
    format!("{value:#}\n")
}

/// For people.
fn text(loaded: &Loaded, resumable: bool) -> String {
    let count = |number: u64| human::count(number as f64);
    let mut lines = Vec::new();
    for one in &loaded.collections {
        let name = source::called(&one.tenant, &one.database, &one.name);
        let verb = match (loaded.dry_run, one.made) {
            (true, true) => "would be made",
            (true, false) => "is there",
            (false, true) => "made",
            (false, false) => "was there",
        };
        let loads = if loaded.dry_run { "would be loaded" } else { "loaded" };
        let some = |number: u64, text: String| if number > 0 { text } else { String::new() };
        lines.push(format!(
            "{name}: {verb}, {} records {loads}{}{}{}{}",
            count(one.records),
            some(one.lost, format!(", {} not", count(one.lost))),
            some(one.before, format!(", {} were there", count(one.before))),
            one.after.map(|after| format!("; it has {}", count(after))).unwrap_or_default(),
            some(one.compared, format!("; {} read back, as they were sent", count(one.compared))),
        ));
    }
    if loaded.collections.is_empty() && loaded.broken_off.is_none() {
        lines.push("no collection was loaded: no line begins one".to_owned());
    }
    let told = loaded.losses.iter().take(LISTED_MAX);
    lines.extend(told.map(|loss| format!("not loaded: {}", plain(loss))));
    let shown = loaded.losses.len().min(LISTED_MAX) as u64;
    let more = loaded.lost.saturating_sub(shown);
    lines.extend((more > 0).then(|| format!("not loaded: {} more lines", count(more))));
    lines.extend(loaded.differing.iter().map(|what| format!("differs: {}", plain(what))));
    lines.extend(loaded.unproven.iter().map(|what| format!("not proven: {}", plain(what))));
    lines.extend(loaded.notes.iter().map(|note| format!("note: {}", plain(note))));
    if let Some(why) = &loaded.broken_off {
        lines.push(format!("It broke off: {}", plain(why)));
        lines.push(
            if resumable {
                "Run the same command again: it goes on."
            } else {
                "Run it again with --merge: lines that are loaded change nothing."
            }
            .to_owned(),
        );
    }
    lines.join("\n") + "\n"
}

const LISTED_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::load::Collected;

    #[test]
    fn where_it_goes_is_a_server_and_nothing_else() {
        for (text, ok) in [
            ("http://127.0.0.1:8000", true),
            ("https://chroma.example/base/", true),
            ("http://me:word@127.0.0.1:8000", false),
            ("http://127.0.0.1:8000/?token=x", false),
            ("127.0.0.1:8000", false),
            ("ftp://host", false),
        ] {
            assert_eq!(url(text).is_ok(), ok, "{text}");
        }
        assert_eq!(rename("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(rename("a").is_err() && rename("=b").is_err() && rename("a=").is_err());
    }

    #[test]
    fn what_came_of_it_is_told_and_is_the_exit_code() {
        let one = Collected {
            tenant: "default_tenant".to_owned(),
            database: "default_database".to_owned(),
            name: "do\u{1b}cs".to_owned(),
            made: true,
            records: 1_200,
            lost: 1,
            before: 0,
            after: Some(1_200),
            compared: 50,
        };
        let well = Loaded { collections: vec![one], ..Loaded::default() };
        let lossy =
            Loaded { lost: 1, losses: vec!["line 7: id: it is empty".to_owned()], ..well.clone() };
        assert_eq!(
            text(&lossy, false),
            "do\\u{1b}cs: made, 1,200 records loaded, 1 not; it has 1,200; 50 read back, as they were sent\nnot loaded: line 7: id: it is empty\n"
        );
        let said = |loaded: &Loaded| {
            let value: serde_json::Value =
                serde_json::from_str(&document(&Ok(loaded.clone()))).unwrap();
            value["status"].as_str().unwrap().to_owned()
        };
        for (loaded, status, want) in [
            (well.clone(), "loaded", Ended::Well),
            (lossy.clone(), "loaded_with_losses", Ended::Warning),
            (
                Loaded { unproven: vec!["x".to_owned()], ..lossy.clone() },
                "unproven",
                Ended::Unknown,
            ),
            (
                Loaded { differing: vec!["x".to_owned()], ..lossy.clone() },
                "differs",
                Ended::Critical,
            ),
            (Loaded { broken_off: Some("x".to_owned()), ..lossy }, "broken_off", Ended::Critical),
        ] {
            assert_eq!((said(&loaded), ended(&Ok(loaded))), (status.to_owned(), want));
        }
        assert_eq!(ended(&Err(LoadError::There(vec!["a".to_owned()]))), Ended::Unknown);
        let broken = Loaded { broken_off: Some("stopped".to_owned()), ..well };
        assert!(
            text(&broken, false).ends_with("with --merge: lines that are loaded change nothing.\n")
        );
        assert!(text(&broken, true).ends_with("the same command again: it goes on.\n"));
    }
}
