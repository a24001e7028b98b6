//! The loop that waits, for every test of this program, also those in `src/`: bounded, and it says what it waited for and what
//! it saw last.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::time::{Duration, Instant};

/// Longest wait for anything that should take a moment: also where the machine is slow, has other work, or stands still for
/// some seconds. Only a test that fails waits for so long.
pub const SOON: Duration = Duration::from_mins(2);

/// Tests measure real time.
#[allow(clippy::disallowed_methods, reason = "a test waits in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// A wait that has begun.
struct Wait<'a> {
    what: &'a str,
    bound: Duration,
    began: Instant,
}

impl<'a> Wait<'a> {
    fn new(what: &'a str, bound: Duration) -> Self {
        Self { what, bound, began: now() }
    }

    /// Panics when it has lasted for too long.
    fn goes_on(&self, seen: &str) {
        let Self { what, bound, began } = self;
        assert!(began.elapsed() < *bound, "waited {bound:?} in vain for {what}; at last: {seen}");
    }
}

/// Waits until `look` gives something, at most `bound`; otherwise it says what it saw.
pub fn wait<T>(what: &str, bound: Duration, look: impl FnMut() -> Result<T, String>) -> T {
    wait_every(Duration::from_millis(20), what, bound, look)
}

/// The same with another pause between two looks.
pub fn wait_every<T>(
    pause: Duration,
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let wait = Wait::new(what, bound);
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => wait.goes_on(&seen),
        }
        std::thread::sleep(pause);
    }
}

/// The same for what is only there or not.
pub fn wait_for<T>(what: &str, bound: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    wait(what, bound, || ready().ok_or_else(|| "nothing".to_owned()))
}

/// The same for what becomes true.
pub fn wait_until(what: &str, bound: Duration, mut is: impl FnMut() -> bool) {
    wait_for(what, bound, || is().then_some(()));
}

/// The same within a runtime.
pub async fn wait_within<T>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let wait = Wait::new(what, bound);
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) => wait.goes_on(&seen),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
