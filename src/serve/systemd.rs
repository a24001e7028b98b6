//! What systemd is told of a running exporter (`sd_notify(3)`), and the sockets that it may have opened for it (`sd_listen_fds(3)`).
//!
//! `READY=1` when every collector has run once, `WATCHDOG=1` only while readings and pages go on, `STATUS=` with the worst finding,
//! `RELOADING=1` and `STOPPING=1`. Nothing is sent where nobody listens. A message that cannot be sent is logged once: systemd that
//! hears nothing acts by itself.

use std::{
    env, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::{self, Ticks},
    config::Config,
    hidden,
    host::kernel,
    human,
    metrics::Own,
    publish::Published,
    sample::Snapshot,
    scheduler::Board,
    status::{StoreReport, worst::worst},
};

/// What this process got from whoever started it.
#[derive(Debug, Default)]
pub(crate) struct Systemd {
    /// Where to tell how it goes.
    pub(crate) notifier: Notifier,
    /// Sockets to listen on; empty where none were asked for or passed.
    pub(crate) sockets: Vec<OwnedFd>,
}

impl Systemd {
    /// Reads the environment. To be called before anything opens a descriptor, and once.
    pub(crate) fn from_environment(wants_sockets: bool) -> Self {
        let text = |name: &str| env::var(name).ok();
        let pid = std::process::id();
        let notifier = Notifier::new(
            text("NOTIFY_SOCKET").as_deref(),
            watchdog(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), pid),
        );
        let count = given(text("LISTEN_PID").as_deref(), text("LISTEN_FDS").as_deref(), pid);
        let sockets = if wants_sockets && count > 0 {
            kernel::descriptors_of_starter(count).unwrap_or_else(|error| {
                warn!(%error, count, "The sockets that systemd should have passed are not there.");
                Vec::new()
            })
        } else {
            Vec::new()
        };
        Self { notifier, sockets }
    }
}

/// How many sockets are meant for the process `pid`. Variables that were inherited from another process say nothing about this one.
fn given(listen_pid: Option<&str>, listen_fds: Option<&str>, pid: u32) -> u8 {
    let mine = listen_pid.and_then(|text| text.parse().ok()) == Some(pid);
    let count = listen_fds.and_then(|text| text.parse().ok()).filter(|count| *count <= SOCKETS_MAX);
    if mine { count.unwrap_or(0) } else { 0 }
}

/// More than anybody configures; a number that is none must not make descriptors of others ours.
const SOCKETS_MAX: u8 = 64;

/// Within which time systemd wants to hear from the process `pid`; `None` when it does not.
fn watchdog(usec: Option<&str>, watchdog_pid: Option<&str>, pid: u32) -> Option<Duration> {
    let mine = watchdog_pid.is_none_or(|text| text.parse() == Ok(pid));
    let usec = usec?.parse().ok().filter(|usec| *usec > 0)?;
    mine.then_some(Duration::from_micros(usec))
}

/// The socket of systemd; without one every call does nothing. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notifier(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
    /// Whether `READY=1` was sent: before, the end of a reload must not say it.
    ready: AtomicBool,
    failed: AtomicBool,
}

impl Notifier {
    fn new(address: Option<&str>, watchdog: Option<Duration>) -> Self {
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        match connect(address) {
            Ok(socket) => Self(Some(Arc::new(Inner {
                socket,
                watchdog,
                ready: AtomicBool::new(false),
                failed: AtomicBool::new(false),
            }))),
            Err(error) => {
                warn!(%error, "systemd cannot be told how it goes.");
                Self::default()
            }
        }
    }

    /// The task that tells systemd how it goes; `None` when nobody listens.
    pub(crate) fn telling(
        &self,
        sources: Sources,
        configs: watch::Receiver<Arc<Config>>,
    ) -> Option<Telling> {
        self.0.as_ref()?;
        Some(Telling { notifier: self.clone(), sources, configs })
    }

    /// Says that the configuration is being loaded anew.
    pub(crate) fn reloading(&self) {
        if self.is_ready() {
            self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_micros()));
        }
    }

    /// Says that this has ended, well or not.
    pub(crate) fn reloaded(&self) {
        if self.is_ready() {
            self.send("READY=1");
        }
    }

    /// Says that the program ends.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Ending.");
    }

    fn ready(&self, status: &str) {
        if let Some(inner) = &self.0 {
            inner.ready.store(true, Ordering::Relaxed);
        }
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    fn is_ready(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.ready.load(Ordering::Relaxed))
    }

    fn send(&self, message: &str) {
        let Some(inner) = &self.0 else { return };
        match inner.socket.send(message.as_bytes()) {
            Ok(_) => inner.failed.store(false, Ordering::Relaxed),
            Err(error) if !inner.failed.swap(true, Ordering::Relaxed) => {
                warn!(%error, "systemd does not take messages.");
            }
            Err(_) => {}
        }
    }
}

/// A socket whose other end is the one at `address`: a path, or a name in the abstract namespace behind `@`. Errs for other kinds,
/// and when nobody is there.
fn connect(address: &str) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if address.starts_with('/') => SocketAddr::from_pathname(address)?,
        None => return Err(io::Error::other("NOTIFY_SOCKET is neither a path nor an @name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read holds nothing up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What the messages are made of.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The pages of the moment.
    pub(crate) pages: watch::Receiver<Arc<Published>>,
    /// Where readings arrive.
    pub(crate) board: Board,
    /// Whether the newest configuration is in force.
    pub(crate) own: Own,
}

/// Tells systemd how it goes.
#[derive(Debug)]
pub(crate) struct Telling {
    notifier: Notifier,
    sources: Sources,
    configs: watch::Receiver<Arc<Config>>,
}

impl Telling {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let watchdog = self.notifier.0.as_ref().and_then(|inner| inner.watchdog);
        let pause = PAUSE.min(watchdog.map_or(PAUSE, |within| within / 4));
        let mut proof = Proof::begin(clock::ticks(), self.sources.board.readings());
        let mut pages = self.sources.pages;
        let mut before: Option<Arc<Published>> = None;
        let (mut said, mut held_back) = (String::new(), false);
        self.notifier.send("STATUS=Reading for the first time.");
        loop {
            let page = Arc::clone(&pages.borrow_and_update());
            let has_page = before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &page));
            let now = clock::ticks();
            proof.note(now, self.sources.board.readings(), has_page);
            if page.ready && has_page {
                let status = status(&page.snapshot, self.sources.own.reload_problems().is_some());
                if !self.notifier.is_ready() {
                    self.notifier.ready(&status);
                } else if status != said {
                    self.notifier.send(&format!("STATUS={status}"));
                }
                said = status;
            }
            before = Some(Arc::clone(&page));
            let bounds = Bounds::of(&self.configs.borrow());
            let fails = proof.fails(now, bounds, page.snapshot.stores.is_empty());
            match fails {
                None if page.ready => self.notifier.send("WATCHDOG=1"),
                // Many stores, or a disk that is slow, take longer than systemd waits by itself.
                None => {
                    self.notifier.send(&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
                }
                Some(what) if !held_back => {
                    warn!(what, "Readings do not go on; systemd is not told that they do.");
                }
                Some(_) => {}
            }
            if fails.is_none() && held_back {
                info!("Readings go on again.");
            }
            held_back = fails.is_some();
            tokio::select! {
                () = stop.cancelled() => return,
                // Who waits for the start waits no longer than needed.
                Ok(()) = pages.changed(), if !page.ready => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Between two messages, where the watchdog does not want them more often.
const PAUSE: Duration = Duration::from_secs(5);

/// By how much each message before the first readings moves the end of systemd's patience.
const EXTENSION: Duration = Duration::from_mins(1);

/// How long nothing new may come.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    readings: Duration,
    pages: Duration,
}

impl Bounds {
    /// Two intervals, and a turn that takes as long as it may. A collector that hangs is told at least every deadline, so a
    /// filesystem that does not answer is no reason to start the program anew.
    fn of(config: &Config) -> Self {
        let interval = config.collect.interval;
        Self {
            readings: interval.max(config.collect.deadline) * 2 + SLACK,
            pages: interval * 2 + SLACK,
        }
    }
}

/// A host may be busy for so long.
const SLACK: Duration = Duration::from_mins(1);

/// When readings and pages came last.
#[derive(Debug)]
struct Proof {
    readings: u64,
    reading_at: Ticks,
    page_at: Ticks,
}

impl Proof {
    const fn begin(now: Ticks, readings: u64) -> Self {
        Self { readings, reading_at: now, page_at: now }
    }

    fn note(&mut self, now: Ticks, readings: u64, has_page: bool) {
        if readings != self.readings {
            (self.readings, self.reading_at) = (readings, now);
        }
        if has_page {
            self.page_at = now;
        }
    }

    /// What does not go on; `None` when all does. Without a store there is nothing to read.
    fn fails(&self, now: Ticks, bounds: Bounds, no_store: bool) -> Option<&'static str> {
        if now.since(self.page_at) > bounds.pages {
            return Some("no page was made");
        }
        (!no_store && now.since(self.reading_at) > bounds.readings)
            .then_some("no collector was run")
    }
}

/// One line: how many stores, and the worst that is known. Names from the disk drive no terminal, and no secret is shown.
fn status(snapshot: &Snapshot, refused: bool) -> String {
    let reports: Vec<StoreReport> = snapshot
        .stores
        .iter()
        .map(|store| {
            let seen = store.readings.iter().map(|r| (r.collector, &r.observation));
            StoreReport::new(&store.store, &store.path, seen, 0, &store.firsts)
        })
        .collect();
    let stores = match reports.len() {
        0 => return with_refused("No store is watched.".to_owned(), refused),
        1 => "1 store".to_owned(),
        more => format!("{more} stores"),
    };
    let text = match worst(&reports) {
        None => format!("{stores}, all ok."),
        Some((status, what)) => format!("{stores}. {}: {what}", status.as_str()),
    };
    with_refused(text, refused)
}

fn with_refused(text: String, refused: bool) -> String {
    let text = if refused {
        format!("The configuration was refused, the one before stays in force. {text}")
    } else {
        text
    };
    let text = human::plain(&hidden::shown(&text));
    // One line of a terminal or two; systemd takes 4096 bytes at most.
    match text.char_indices().nth(STATUS_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

const STATUS_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        findings::{Code, Finding},
        sample::{Observation, StoreReadings},
    };

    #[test]
    fn variables_that_are_meant_for_another_process_are_left_alone() {
        for (pid, fds, want) in [
            (Some("7"), Some("2"), 2),
            (Some("8"), Some("2"), 0),
            (None, Some("2"), 0),
            (Some("7"), None, 0),
            (Some("7"), Some("-1"), 0),
            (Some("7"), Some("65"), 0),
            (Some("7"), Some("99999999999"), 0),
        ] {
            assert_eq!(given(pid, fds, 7), want, "{pid:?} {fds:?}");
        }
        for (usec, pid, want) in [
            (Some("2000000"), None, Some(2)),
            (Some("2000000"), Some("7"), Some(2)),
            (Some("2000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, None, None),
        ] {
            assert_eq!(watchdog(usec, pid, 7), want.map(Duration::from_secs), "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn the_watchdog_hears_nothing_when_readings_or_pages_stand_still() {
        let bounds = Bounds::of(&Config::default());
        let start = clock::ticks();
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        let mut proof = Proof::begin(start, 0);
        assert_eq!(proof.fails(at(60), bounds, false), None);
        // Pages go on, and no collector ends a turn.
        proof.note(at(130), 0, true);
        assert_eq!(proof.fails(at(130), bounds, false), Some("no collector was run"));
        assert_eq!(proof.fails(at(130), bounds, true), None, "nothing is to be read");
        // Readings go on, and nobody makes a page.
        proof.note(at(140), 5, false);
        assert_eq!(proof.fails(at(140), bounds, false), None);
        proof.note(at(210), 6, false);
        assert_eq!(proof.fails(at(210), bounds, false), Some("no page was made"));
        proof.note(at(211), 6, true);
        assert_eq!(proof.fails(at(211), bounds, false), None);
    }

    fn snapshot(stores: &[(&str, Vec<Finding>)]) -> Snapshot {
        let readings = |(name, findings): &(&str, Vec<Finding>)| {
            let seen = Observation { findings: findings.clone(), ..Observation::default() };
            StoreReadings::of_one(name, "/srv", "integrity", seen)
        };
        let stores = stores.iter().map(readings).collect();
        Snapshot { taken_at: Timestamp::from_secs(0), stores }
    }

    #[test]
    fn the_status_is_one_line_with_the_worst_finding() {
        let found = |code, evidence: &str| vec![Finding::new(code, "", evidence)];
        let line = |stores: &[(&str, Vec<Finding>)], refused| status(&snapshot(stores), refused);
        assert_eq!(line(&[], false), "No store is watched.");
        assert_eq!(line(&[("docs", vec![])], false), "1 store, all ok.");
        let two = [
            ("a", found(Code::HotJournal, "a journal")),
            ("b", found(Code::SecondWriter, "pids 1\nand 2")),
            ("c", vec![]),
        ];
        assert_eq!(
            line(&two, false),
            "3 stores. critical: b: second_writer: pids 1 and 2; 1 more not ok"
        );
        assert!(line(&two, true).starts_with("The configuration was refused, "));
        let long = line(&[("a", found(Code::SqliteCorrupt, &"x".repeat(900)))], false);
        assert_eq!(long.chars().count(), STATUS_CHARS_MAX + 1);
    }
}
