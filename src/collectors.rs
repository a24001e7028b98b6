//! The collectors: each reads one subject of one store and yields an [`Observation`]. One room each; a new one is its room, its
//! `mod` here, and one line in the list of `config/collector.rs`, from which the table below is made.
//!
//! A collector runs on a blocking thread that it owns while it runs; the scheduler gives it a deadline, never a second
//! thread. It must not write, lock for long or delete under the persist directory.

pub mod backups;
pub mod contents;
pub mod descriptors;
pub mod disk;
pub mod hnsw;
pub mod integrity;
pub mod logs;
pub mod permissions;
pub mod processes;
mod rhythm;
pub mod server;
#[cfg(test)]
mod testing;

use std::{sync::Arc, time::Duration};

pub use crate::facts::error::CollectError;
use crate::{
    clock::Timestamp,
    config::{self, CollectorName, Config, Store},
    facts::wake::Wake,
    findings::Code,
    sample::{Desc, Observation},
    store::Context,
};

/// Reads one subject of one store, again and again.
pub trait Collector: Send {
    /// Which one it is; also the `collector` label.
    fn name(&self) -> CollectorName;

    /// Every family that it may yield.
    fn descs(&self) -> &'static [&'static Desc];

    /// Every finding that it may yield.
    fn codes(&self) -> &'static [Code];

    /// How often it runs, for how long at most, and what wakes it. At this moment: it may be in more of a hurry than
    /// [`at_rest`], never in less.
    fn pace(&self) -> Pace;

    /// One run. Never panics on foreign bytes, whatever they are; what cannot be read becomes a problem in the
    /// observation and the rest goes on.
    fn collect(&mut self, run: &Run) -> Observation;
}

/// When a collector runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time between the beginnings of two runs that nothing woke.
    pub interval: Duration,
    /// A run that takes longer is reported as failed; its thread is left alone and no second one starts.
    pub deadline: Duration,
    /// File events that bring the next run forward.
    pub wakes: Wake,
    /// Whether it touches the filesystem of the store, and so must not start while that does not answer.
    pub touches_store: bool,
}

impl Pace {
    /// The longest time from the end of a run to that of the next one, when nothing goes wrong.
    #[must_use]
    pub fn turnaround(&self) -> Duration {
        self.interval.max(self.deadline)
    }
}

/// What a collector is told at the beginning of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The moment of the run.
    pub now: Timestamp,
    /// The file events since the run before; empty when the clock woke it.
    pub wake: Wake,
    /// `check` without `--quick`: run everything that is due on a schedule now.
    pub deep: bool,
    /// Set when the run should come to an end early: shutdown, reload, deadline passed.
    pub stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Run {
    /// Whether the run should come to an end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Every collector of a store that is switched on, in the order in which `check` prints them.
#[must_use]
pub fn registry(context: &Context) -> Vec<Box<dyn Collector>> {
    context.config.enabled.iter().map(|name| build(*name, context)).collect()
}

macro_rules! table {
    ($($name:ident $room:ident $about:literal;)+) => {
        /// Every family of every collector.
        #[must_use]
        pub fn families() -> Vec<&'static Desc> {
            [$(&$room::DESCS[..]),+].concat()
        }

        /// How often `name` runs over `store` while nothing hurries it. Nobody else works that out: whoever must know how old a
        /// reading may grow asks here, or asks the reading.
        #[must_use]
        pub fn at_rest(name: CollectorName, config: &Config, store: &Store) -> Pace {
            match name {
                $(CollectorName::$name => $room::$name::at_rest(config, store),)+
            }
        }

        /// One collector of a store.
        #[must_use]
        pub fn build(name: CollectorName, context: &Context) -> Box<dyn Collector> {
            match name {
                $(CollectorName::$name => Box::new($room::$name::new(context)),)+
            }
        }
    };
}
config::collector::collectors!(table);

/// The longest time from one run to the next of any collector that is switched on, over any store of `config` or one that is
/// found without it.
#[must_use]
pub fn slowest(config: &Config) -> Duration {
    let found = Store::new("found", "/");
    let stores = config.stores.iter().map(AsRef::as_ref).chain([&found]);
    let rests = stores.flat_map(|store| {
        config.enabled.iter().map(move |name| at_rest(*name, config, store).turnaround())
    });
    rests.max().unwrap_or_default()
}

/// Sleeps in pieces. A machine that stands still for a while uses up one of them only, so that whoever works on the store has
/// the rest of the time to come to an end.
fn pause(time: Duration) {
    for _ in 0..PAUSE_PIECES {
        std::thread::sleep(time / PAUSE_PIECES);
    }
}

const PAUSE_PIECES: u32 = 10;

/// Time between two runs of a collector that the configuration gives nothing to look at.
const NOTHING_TO_DO: Duration = Duration::from_mins(1);
