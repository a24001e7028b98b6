//! Logs: one line per event on standard error, logfmt or JSON, from the configured level up. A panic is logged like any
//! other event, so that it reaches whoever reads the log.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic::PanicHookInfo,
    sync::OnceLock,
};

use tracing::{error, level_filters::LevelFilter, subscriber};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan,
    reload,
};

use crate::{
    config::{Log, LogFormat, LogLevel, PartLevels},
    hidden, human,
};

/// Begins to log. The first call decides the format; a repeated one only changes the level.
pub fn init(log: Log) {
    let (filter, handle) = reload::Layer::new(targets(log));
    if FILTER.set(handle).is_err() {
        return set_level(log);
    }
    let subscriber = Registry::default().with(filter).with(lines(log.format, StandardError));
    // It errs only when a subscriber was set already, and FILTER was not.
    if subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// Logs from another level up, after a reload.
pub fn set_level(log: Log) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(targets(log))
    {
        error!(%error, "Level of the log cannot be changed.");
    }
}

static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Libraries are heard from warnings up only: their debug lines would bury ours. The longest name of a part that fits decides.
fn targets(log: Log) -> Targets {
    const OURS: &str = env!("CARGO_CRATE_NAME");
    let PartLevels { collectors, deliver, host, http, repair } = log.levels;
    let ours = filter(log.level);
    let parts = [
        ("collectors", collectors),
        ("store", collectors),
        ("deliver", deliver),
        ("alert", deliver),
        ("host", host),
        ("serve::http", http),
        ("repair", repair),
        ("serve::backups", repair),
    ];
    let parts = parts.into_iter().filter_map(|(part, level)| Some((part, filter(level?))));
    Targets::new()
        .with_target(OURS, ours)
        .with_targets(parts.map(|(part, level)| (format!("{OURS}::{part}"), level)))
        // A crate of this tree, and no library of others.
        .with_target("sqlite_live", collectors.map_or(ours, filter))
        .with_default(ours.min(LevelFilter::WARN))
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn lines<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A failed write is not reported: where, when standard error is gone? The library would try, and panic.
    match format {
        LogFormat::Logfmt => tracing_logfmt::builder()
            .with_timestamp(true)
            .with_level(true)
            .with_target(true)
            .with_span_name(false)
            .with_span_path(false)
            .layer()
            .with_writer(writer)
            .log_internal_errors(false)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .log_internal_errors(false)
            .boxed(),
    }
}

/// Standard error without secrets, and with escapes for what neither format escapes: control characters (DEL and U+0080 to
/// U+009F), which some terminals obey, and marks of direction and characters that nobody sees, which make a name look like
/// another. Names from disk stand in the log.
#[derive(Debug, Clone, Copy)]
struct StandardError;

impl MakeWriter<'_> for StandardError {
    type Writer = Cleaned<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        Cleaned(io::stderr())
    }
}

struct Cleaned<W>(W);

impl<W: Write> Write for Cleaned<W> {
    /// Gets whole lines from the formatters.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let misleads = |c: char| c != '\n' && (c.is_control() || human::hidden(c));
        match str::from_utf8(line) {
            Err(_) => self.0.write_all(line)?,
            Ok(text) => {
                let text = hidden::shown(text);
                if text.contains(misleads) {
                    // As JSON escapes it, and logfmt too.
                    let escape = |unit: &mut u16| format!("\\u{unit:04x}");
                    let write = |c: char| -> String {
                        if misleads(c) {
                            c.encode_utf16(&mut [0; 2]).iter_mut().map(escape).collect()
                        } else {
                            c.to_string()
                        }
                    };
                    let text: String = text.chars().map(write).collect();
                    self.0.write_all(text.as_bytes())?;
                } else {
                    self.0.write_all(text.as_bytes())?;
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    error!(thread = thread.name(), at, panic = panic_text(panic.payload()), backtrace, "Panicked.");
}

/// What a panic said, cut at `PANIC_CHARS_MAX`: it may quote what was being read.
#[must_use]
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(PANIC_CHARS_MAX).collect()
}

const PANIC_CHARS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Sink {
        type Writer = Cleaned<Self>;

        fn make_writer(&self) -> Self::Writer {
            Cleaned(self.clone())
        }
    }

    fn logged(log: Log, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let layers = Registry::default().with(targets(log)).with(lines(log.format, sink.clone()));
        subscriber::with_default(layers, events);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_part_may_be_louder_or_quieter_than_the_rest() {
        let levels = PartLevels {
            collectors: Some(LogLevel::Warn),
            deliver: Some(LogLevel::Debug),
            http: Some(LogLevel::Error),
            ..PartLevels::default()
        };
        let log = Log { level: LogLevel::Info, levels, ..Log::default() };
        let text = logged(log, || {
            debug!(target: "chroma_exporter::deliver::send", "a");
            debug!(target: "chroma_exporter::alert::outbox", "b");
            info!(target: "chroma_exporter::collectors::disk", "not 1");
            warn!(target: "chroma_exporter::serve::http", "not 2");
            info!(target: "chroma_exporter::serve::fleet", "c");
            warn!(target: "sqlite_live::view", "d");
            info!(target: "sqlite_live::view", "not 3");
            info!(target: "hyper_util::client", "not 4");
        });
        let said: Vec<&str> =
            text.lines().map(|line| line.rsplit_once("message=").unwrap().1).collect();
        assert_eq!(said, ["a", "b", "c", "d"], "{text}");
    }

    #[test]
    fn a_line_holds_time_level_target_and_fields() {
        let logfmt = logged(Log::default(), || warn!(store = "docs", bytes = 5, "Filling up."));
        assert!(logfmt.starts_with("ts=20"), "{logfmt}");
        let rest = logfmt.split_once(' ').unwrap().1;
        let want = "level=warn target=chroma_exporter::serve::logging::tests message=\"Filling up.\" store=docs bytes=5\n";
        assert_eq!(rest, want);

        let json = Log { format: LogFormat::Json, ..Log::default() };
        let line = logged(json, || warn!(store = "docs", "Filling up."));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&line["level"], &line["store"], &line["message"]),
            (&"WARN".into(), &"docs".into(), &"Filling up.".into())
        );
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn names_from_disk_cannot_forge_lines_or_drive_the_terminal() {
        let name =
            "x\nlevel=error \u{1b}[2J\u{9b}2J\u{7f} \u{202e}gpj.exe\u{2066}\u{200b}\u{e0041}";
        hidden::note("the-word-of-a-log");
        for format in LogFormat::ALL {
            let log = Log { format, ..Log::default() };
            let text = logged(log, || warn!(path = %name, said = "the-word-of-a-log", "Odd."));
            // In quotes, logfmt escapes some of them by itself.
            let own = "\\u{202e}gpj.exe\\u{2066}\\u{200b}\\u{e0041}";
            let ours = "\\u202egpj.exe\\u2066\\u200b\\udb40\\udc41";
            assert!(text.contains(ours) || text.contains(own), "{text}");
            let bare = logged(log, || warn!(path = %"/x\u{202e}y\u{200b}", "Odd."));
            assert!(
                bare.contains("/x\\u202ey\\u200b") || bare.contains("/x\\u{202e}y\\u{200b}"),
                "{bare}"
            );
            assert!(text.chars().all(|c| !human::hidden(c)), "{text:?}");
            assert!(!text.contains("the-word") && text.contains("<secret>"), "{text}");
            if format == LogFormat::Json {
                let line: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(line["path"], name);
            }
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.trim_end().chars().all(|c| !c.is_control()), "{text:?}");
        }
    }

    #[test]
    fn the_level_holds_for_us_and_libraries_whisper() {
        let events = || {
            debug!("ours");
            info!("ours");
            info!(target: "hyper", "theirs");
            warn!(target: "hyper", "theirs");
        };
        for (level, ours, theirs) in [
            (LogLevel::Error, 0, 0),
            (LogLevel::Warn, 0, 1),
            (LogLevel::Info, 1, 1),
            (LogLevel::Debug, 2, 1),
            (LogLevel::Trace, 2, 1),
        ] {
            let text = logged(Log { level, ..Log::default() }, events);
            assert_eq!(
                (text.matches("ours").count(), text.matches("theirs").count()),
                (ours, theirs),
                "{level:?}"
            );
        }
    }

    #[test]
    fn a_panic_says_what_it_has_to_say_and_no_more() {
        assert_eq!(panic_text(&"static"), "static");
        assert_eq!(panic_text(&"owned".to_owned()), "owned");
        assert_eq!(panic_text(&5), "no message");
        assert_eq!(panic_text(&"x".repeat(9000)).len(), PANIC_CHARS_MAX);
    }
}
