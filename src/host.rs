//! What all stores of this host share: the process table and the state directory.

pub(crate) mod asking;
pub mod job_queue;
pub mod processes;
pub(crate) mod read;
pub mod state;
pub mod walk;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

pub use sqlite_live::priority;
pub(crate) use sqlite_live::{kernel, links};

/// Makes the C library give memory back that is free. To be called at the beginning.
pub fn give_memory_back() {
    kernel::give_memory_back();
}

/// Where a program sees its host.
#[derive(Debug, Clone)]
pub struct Places {
    /// The procfs of the host.
    pub procfs: PathBuf,
    /// The state directory; none when nothing is to be kept.
    pub state_dir: Option<PathBuf>,
}

/// One per program.
#[derive(Debug)]
pub struct Host {
    /// Who holds which file.
    pub processes: processes::ProcessTable,
    /// What must survive a restart.
    pub state: state::StateDir,
    /// This boot of the host, when it is known.
    pub boot: Option<String>,
    /// The boot during which an exporter with this state ended in order last, unless it was started anew since.
    pub ended_in: Option<String>,
    /// Whole-file checks take turns: two at once on one disk would only make both slower and the host's neighbours with them.
    pub job_queue: job_queue::JobQueue,
    /// Stores whose file events are (not) being received.
    watched: Mutex<BTreeMap<Arc<str>, bool>>,
}

impl Host {
    /// The host for a program that watches: the owner of its state directory. Errs when that cannot be, so that it must not
    /// start. Waits for one that is just ending.
    pub fn claim(places: impl Into<Places>) -> Result<Self, state::Refused> {
        let places = places.into();
        let state = state::StateDir::claim(places.state_dir.clone(), state::PATIENCE)?;
        Ok(Self::with_state(&places, state))
    }

    /// The host for a program whose state directory does not answer.
    #[must_use]
    pub fn without_state(places: impl Into<Places>) -> Self {
        Self::with_state(&places.into(), state::StateDir::memory())
    }

    /// The host as it is seen at `places`; without a state directory where that cannot be had.
    #[must_use]
    pub fn new(places: impl Into<Places>) -> Self {
        let places = places.into();
        let state = state::StateDir::open(places.state_dir.clone());
        Self::with_state(&places, state)
    }

    /// The host for a program that runs beside an exporter: it knows what that one keeps, and writes nothing.
    #[must_use]
    pub fn read_only(places: impl Into<Places>) -> Self {
        let places = places.into();
        let state = state::StateDir::read_only(places.state_dir.clone());
        Self::with_state(&places, state)
    }

    fn with_state(places: &Places, state: state::StateDir) -> Self {
        let boot = std::fs::read_to_string(places.procfs.join("sys/kernel/random/boot_id"));
        let ended_in: Option<String> = state.load(END_KIND, Path::new("/")).unwrap_or_default();
        if ended_in.is_some() {
            // From here on only another end in order may say so.
            state.save(END_KIND, Path::new("/"), &None::<String>);
        }
        let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            processes: processes::ProcessTable::new(places.procfs.clone()),
            state,
            boot: boot.ok().map(|id| id.trim().to_owned()),
            ended_in,
            job_queue: job_queue::JobQueue::new(at_once),
            watched: Mutex::default(),
        }
    }

    /// Notes that the program ends because it was told to. When the host goes down in order so does the program, and then
    /// everything that was written has come to the disk, times of change included.
    pub fn end_in_order(&self) {
        self.state.save(END_KIND, Path::new("/"), &self.boot);
    }

    /// Notes whether file events of `store` are being received.
    pub fn note_watch(&self, store: &Arc<str>, works: bool) {
        self.watched.lock().insert(Arc::clone(store), works);
    }

    /// Forgets a store that is no longer watched.
    pub fn forget_watch(&self, store: &str) {
        self.watched.lock().remove(store);
    }

    /// Whether file events of each store are being received.
    #[must_use]
    pub fn watched(&self) -> BTreeMap<Arc<str>, bool> {
        self.watched.lock().clone()
    }
}

/// The document about the last end in order.
const END_KIND: &str = "end";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_in_order_is_known_at_the_next_start_and_not_at_the_one_after() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { procfs: "/proc".into(), state_dir: Some(dir.path().join("state")) };
        let boot = Host::new(places.clone()).boot;
        assert!(boot.is_some());
        assert_eq!(
            Host::new(places.clone()).ended_in,
            None,
            "a program that was killed says nothing"
        );
        Host::new(places.clone()).end_in_order();
        for _ in 0..2 {
            assert_eq!(
                Host::read_only(places.clone()).ended_in,
                boot,
                "who only reads changes nothing"
            );
        }
        assert_eq!(Host::new(places.clone()).ended_in, boot);
        assert_eq!(Host::new(places.clone()).ended_in, None);
    }
}
