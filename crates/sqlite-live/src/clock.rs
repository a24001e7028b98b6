//! The only place that asks the time. Everything else takes `now` as an argument, so that a test can stand at any
//! moment it likes.
#![expect(clippy::disallowed_methods, reason = "this is the one module that may ask the time")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment of the wall clock: nanoseconds since the Unix epoch, UTC. It can jump; never subtract two of them to
/// learn how long something took (that is [`Ticks`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A moment from whole seconds since the epoch; saturates at the ends of the range (years 1677 and 2262).
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(NANOS))
    }

    /// A moment as `stat` tells it: seconds and nanoseconds since the epoch; saturates.
    #[must_use]
    pub const fn from_parts(secs: i64, nanos: i64) -> Self {
        Self(secs.saturating_mul(NANOS).saturating_add(nanos))
    }

    /// Seconds since the epoch, as Prometheus wants them.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(NANOS)
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// RFC 3339 in UTC with all digits that count, for machines: `2026-11-23T08:57:54.25Z`.
    #[must_use]
    pub fn precise(self) -> String {
        jiff::Timestamp::from_nanosecond(self.0.into())
            .map_or_else(|_| self.to_string(), |moment| moment.to_string())
    }

    /// Time from `earlier` to here; zero when the clock stepped back in between.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This moment moved later; saturates.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// This moment moved earlier; saturates.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// RFC 3339 in UTC with whole seconds: `2026-11-23T08:57:54Z`.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_second(self.as_secs()) {
            Ok(moment) => write!(f, "{moment}"),
            Err(_) => write!(f, "@{}", self.as_secs()),
        }
    }
}

/// A reading of the monotonic clock, for durations and deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(Instant);

impl Ticks {
    /// Time passed since this reading.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Time from `earlier` to here; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// This reading moved later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0 + by)
    }

    /// The same moment for timers.
    #[must_use]
    pub const fn into_std(self) -> Instant {
        self.0
    }
}

/// The present moment of the wall clock.
#[must_use]
pub fn now() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)),
        Err(before) => {
            Timestamp(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n))
        }
    }
}

/// The present reading of the monotonic clock.
#[must_use]
pub fn ticks() -> Ticks {
    Ticks(Instant::now())
}

/// Microseconds of the clock that systemd means by `MONOTONIC_USEC`.
#[must_use]
pub fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |number, scale| u64::try_from(number).unwrap_or(0).saturating_mul(scale);
    part(now.tv_sec, 1_000_000).saturating_add(part(now.tv_nsec, 1) / 1_000)
}

/// Processor time that the calling thread has used so far: what its work costs others, also on a host so busy that the
/// work itself takes long.
#[must_use]
pub fn thread_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let secs = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::from_secs(secs) + Duration::from_nanos(u64::try_from(used.tv_nsec).unwrap_or(0))
}

const NANOS: i64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_steps_back_gives_zero_not_a_panic() {
        let (early, late) = (Timestamp::from_secs(10), Timestamp::from_secs(20));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.since(early), Duration::from_secs(10));
        assert_eq!(Timestamp::from_secs(i64::MAX).plus(Duration::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp::from_secs(i64::MIN).minus(Duration::MAX), Timestamp(i64::MIN));
    }

    #[test]
    fn moments_print_as_rfc_3339() {
        assert_eq!(Timestamp::from_secs(1_795_424_274).to_string(), "2026-11-23T08:57:54Z");
        assert_eq!(
            Timestamp::from_parts(1_795_424_274, 250_000_001).precise(),
            "2026-11-23T08:57:54.250000001Z"
        );
        assert_eq!(Timestamp::from_parts(-1, 500_000_000).as_secs(), -1);
    }
}
