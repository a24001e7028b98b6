//! `notify`: sends a test alert through a receiver and prints what it answered, so that nobody learns at three in the
//! morning that a webhook was mistyped.

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;

use super::{Ended, plain, to_stderr, to_stdout};
use crate::{
    alert::{
        builtin,
        message::{Alert, Notification, Number, Outcome, Reason},
    },
    clock::{self, Timestamp},
    config::Config,
    deliver::dispatch::manager,
    deliver::send::{Answer, Sender},
    findings::{Code, Severity},
};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Name of the receiver in the configuration
    receiver: String,

    /// Print the message and send nothing
    #[arg(long)]
    dry_run: bool,

    /// Send the end of the test alert
    #[arg(long)]
    resolved: bool,
}

/// Runs `notify`. Well when the receiver took it, a warning when it may later, critical when it refused.
pub(super) fn run(config: &Config, options: &Options) -> Ended {
    let wanted = config.receivers.iter().find(|r| *r.name == options.receiver);
    let Some(wanted) = wanted else {
        let names: Vec<&str> = config.receivers.iter().map(|r| &*r.name).collect();
        let known = match names.as_slice() {
            [] => "the configuration has no receivers".to_owned(),
            names => format!("there are {}", names.join(", ")),
        };
        let receiver = plain(&options.receiver);
        to_stderr(&format!("error: no receiver is called {receiver}; {known}\n"));
        return Ended::Usage;
    };
    let now = clock::now();
    let notification = test_notification(config, options.resolved, now);
    let receiver = Sender::new(Arc::clone(wanted));
    if options.dry_run {
        let payload = receiver.payload(&notification, now);
        return to_stdout(&payload.to_string(), Ended::Well);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            to_stderr(&format!("error: cannot start the runtime: {error}\n"));
            return Ended::Unknown;
        }
    };
    let answer = runtime.block_on(receiver.send(&notification, now));
    let (text, ended) = describe(&wanted.name, wanted.word(), &answer);
    to_stdout(&text, ended)
}

/// `ops (slack): delivered in 0.21 s, it answered 200 ok`
fn describe(name: &str, kind: &str, answer: &Answer) -> (String, Ended) {
    let (verdict, ended) = match &answer.outcome {
        Outcome::Delivered => ("delivered".to_owned(), Ended::Well),
        Outcome::Retry { failure, .. } => (
            format!("not delivered ({}), it would be tried again", failure.words()),
            Ended::Warning,
        ),
        Outcome::Rejected { failure } => {
            (format!("refused ({}), it would not be tried again", failure.words()), Ended::Critical)
        }
    };
    let seconds = answer.took.as_secs_f64();
    let status = answer.status.map(|status| format!("{status} ")).unwrap_or_default();
    let said = format!("{status}{}", plain(answer.text.trim()));
    let said = match said.trim() {
        "" => String::new(),
        said => format!(", the answer was: {said}"),
    };
    (format!("{name} ({kind}): {verdict} after {seconds:.2} s{said}\n"), ended)
}

/// An alert as the first store would give it, marked as a test wherever a person or a machine looks.
fn test_notification(config: &Config, resolved: bool, now: Timestamp) -> Notification {
    let code = Code::DiskUsageHigh;
    let store = config.stores.first();
    let path = store.map_or_else(|| "/var/lib/chroma".into(), |store| store.path.clone());
    let name = store.map_or("test", |store| &*store.name);
    let about = manager::about(config);
    let runbook = match manager::runbooks(config, &about) {
        "" => String::new(),
        base => format!("{base}/{}", code.runbook()),
    };
    let alert = Alert {
        name: "ChromaTest".to_owned(),
        severity: Severity::Warning,
        store: name.to_owned(),
        path: path.to_string_lossy().into_owned(),
        summary: format!("Test, nothing is wrong: {}", builtin::title(code)),
        evidence: "This is a test of chroma_exporter notify".to_owned(),
        count: 1,
        reading: Some(Number {
            series: "chroma_disk_used_ratio".to_owned(),
            value: 0.83,
            comparison: ">=".to_owned(),
            threshold: config.disk.warn_ratio,
        }),
        cause: code.cause().to_owned(),
        code: code.as_str().to_owned(),
        items: 0,
        remedy: code.remedy(&path),
        runbook,
        labels: BTreeMap::from([("test".to_owned(), "true".to_owned())]),
        since: now,
        ended: resolved.then_some(now),
        episode: format!("{:016x}", now.as_nanos()),
        known: false,
        merged: 0,
        done: String::new(),
        tried: String::new(),
        stands_since: None,
    };
    Notification {
        id: format!("{:032x}", now.as_nanos()),
        group: format!("store={name}"),
        reason: Reason::Test,
        at: now,
        host: about.host,
        external_url: about.external_url,
        alerts: vec![alert],
        left_out: 0,
    }
}
