//! Who may ask: basic authentication against bcrypt hashes, and the token bucket over all requests.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, time::timeout};

use crate::{clock::Ticks, config::web_file::Rate};

/// Hashes by user.
pub(super) type Users = BTreeMap<String, String>;

/// What became of a request's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    Refused,
    /// Others' passwords are being looked at and there was no time for this one.
    Busy,
}

/// Remembers passwords that were looked at: a hash takes a tenth of a second of a processor, and a scraper sends the same one
/// each time.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    known: Mutex<Known>,
    /// One at a time, so that guessing costs one processor at most.
    turn: Semaphore,
}

/// SHA-256 of user, hash and password.
type Seen = [u8; 32];

#[derive(Debug, Default)]
struct Known {
    /// The last good one of each user: as many as there are users.
    good: BTreeMap<String, Seen>,
    /// The last bad ones, which never push out a good one.
    bad: VecDeque<Seen>,
}

impl Default for Doorkeeper {
    fn default() -> Self {
        Self { known: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Doorkeeper {
    /// Whether the credentials in `headers` are those of one of `users`, of whom there is at least one.
    pub(super) async fn admit(&self, users: &Users, headers: &HeaderMap) -> Admission {
        let Some((user, password)) = credentials(headers) else { return Admission::Refused };
        // An unknown user costs as much as a known one, so that the time does not tell which there are.
        let (hash, is_user) = match users.get(&user) {
            Some(hash) => (hash, true),
            None => match users.values().next() {
                Some(hash) => (hash, false),
                None => return Admission::Refused,
            },
        };
        let seen = seen(&user, hash, &password);
        if let Some(known) = self.known().look(&user, &seen) {
            return known;
        }
        let Ok(Ok(_turn)) = timeout(WAIT_MAX, self.turn.acquire()).await else {
            return Admission::Busy;
        };
        // Whoever had the turn may have asked the same.
        if let Some(known) = self.known().look(&user, &seen) {
            return known;
        }
        let hash = hash.clone();
        let fits = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash));
        let good = is_user && matches!(fits.await, Ok(Ok(true)));
        self.known().note(user, seen, good);
        if good { Admission::Granted } else { Admission::Refused }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn look(&self, user: &str, seen: &Seen) -> Option<Admission> {
        if self.good.get(user) == Some(seen) {
            return Some(Admission::Granted);
        }
        self.bad.contains(seen).then_some(Admission::Refused)
    }

    fn note(&mut self, user: String, seen: Seen, good: bool) {
        if good {
            self.good.insert(user, seen);
            return;
        }
        self.bad.truncate(BAD_MAX - 1);
        self.bad.push_front(seen);
    }
}

fn seen(user: &str, hash: &str, password: &[u8]) -> Seen {
    let mut digest = Sha256::new();
    for part in [user.as_bytes(), hash.as_bytes(), password] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// User and password of `Authorization: Basic …` (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = text.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(text[..colon].to_vec()).ok()?;
    Some((user, text[colon + 1..].to_vec()))
}

/// The token bucket of `rate_limit`.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    state: Mutex<Option<(Ticks, f64)>>,
}

impl Bucket {
    /// Whether one more request goes through at `now`.
    pub(super) fn take(&self, rate: Rate, now: Ticks) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = f64::from(rate.burst);
        let tokens = state.map_or(full, |(at, tokens)| {
            full.min(tokens + now.since(at).as_secs_f64() / rate.interval.as_secs_f64())
        });
        let granted = tokens >= 1.0;
        *state = Some((now, if granted { tokens - 1.0 } else { tokens }));
        granted
    }
}

/// How long a password waits for others'.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Bad ones that are remembered.
const BAD_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::clock;

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        headers
    }

    fn basic(user: &str, password: &str) -> HeaderMap {
        with(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    }

    #[tokio::test]
    async fn only_who_knows_the_password_comes_in() {
        let users: Users = [("alice", "open:sesame"), ("bob", "")]
            .map(|(user, password)| (user.to_owned(), bcrypt::hash(password, 4).unwrap()))
            .into();
        let doorkeeper = Doorkeeper::default();
        for _ in 0..2 {
            for (headers, want) in [
                (basic("alice", "open:sesame"), Admission::Granted),
                (basic("bob", ""), Admission::Granted),
                (basic("alice", "open"), Admission::Refused),
                (basic("bob", "open:sesame"), Admission::Refused),
                (basic("carol", "open:sesame"), Admission::Refused),
                (basic("", ""), Admission::Refused),
                (with("Bearer abc"), Admission::Refused),
                (with("Basic ***"), Admission::Refused),
                (with("Basic"), Admission::Refused),
                (HeaderMap::new(), Admission::Refused),
            ] {
                assert_eq!(doorkeeper.admit(&users, &headers).await, want, "{headers:?}");
            }
        }
        // A password that was changed is no longer good, although it was seen to be.
        let changed: Users = [("alice".to_owned(), bcrypt::hash("other", 4).unwrap())].into();
        let admitted = doorkeeper.admit(&changed, &basic("alice", "open:sesame")).await;
        assert_eq!(admitted, Admission::Refused);
        for guess in 0..2 * BAD_MAX {
            doorkeeper.known().note(
                "alice".to_owned(),
                seen("alice", &guess.to_string(), b""),
                false,
            );
        }
        assert_eq!(doorkeeper.known().bad.len(), BAD_MAX);
    }

    #[test]
    fn the_bucket_lets_a_burst_through_and_then_one_each_interval() {
        let rate = Rate { interval: Duration::from_secs(1), burst: 3 };
        let (bucket, began) = (Bucket::default(), clock::ticks());
        let at = |ms| began.plus(Duration::from_millis(ms));
        let taken = [0, 0, 0, 0, 500, 1000, 1000, 9000, 9000, 9000, 9000];
        let granted: Vec<bool> = taken.map(|ms| bucket.take(rate, at(ms))).to_vec();
        let want = [true, true, true, false, false, true, false, true, true, true, false];
        assert_eq!(granted, want);
    }
}
