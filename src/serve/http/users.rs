//! Who may ask: basic authentication against bcrypt hashes, and the token bucket over all requests.
//!
//! A hash takes a tenth of a second of a processor, so whoever sends passwords could take all of them. All are therefore
//! verified on one thread that does nothing else, one at a time, and always awaited: also those of users that do not exist.
//! When many wait, names that exist and names that do not take turns, and the newest of each is first: whoever gave up waiting
//! is not worked for.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::header::{AUTHORIZATION, HeaderMap};
use parking_lot::{Condvar, Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use tokio::{sync::oneshot, time::timeout};

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

/// Verifies passwords, and remembers those that it has verified: a scraper sends the same one each time.
#[derive(Debug, Default)]
pub(super) struct BasicAuth {
    known: Mutex<Known>,
    /// Made with the first password.
    verifier: Mutex<Option<Verifier>>,
}

/// SHA-256 of user, hash and password.
type Fingerprint = [u8; 32];

#[derive(Debug, Default)]
struct Known {
    /// The last good one of each user: as many as there are users.
    good: BTreeMap<String, Fingerprint>,
    /// The last bad ones, which never push out a good one.
    bad: VecDeque<Fingerprint>,
}

impl BasicAuth {
    /// Whether the credentials in `headers` are those of one of `users`, of whom there is at least one.
    pub(super) async fn admit(&self, users: &Users, headers: &HeaderMap) -> Admission {
        let Some((user, password)) = credentials(headers) else { return Admission::Refused };
        let Some((hash, is_user)) = hash_for(users, &user) else { return Admission::Refused };
        let seen = seen(&user, hash, &password);
        if let Some(known) = self.known().admission(&user, &seen) {
            return known;
        }
        let Some(verdict) = self.ask(Job::of(password, hash.to_owned()), is_user) else {
            return Admission::Busy;
        };
        let Ok(Ok(fits)) = timeout(WAIT_MAX, verdict).await else { return Admission::Busy };
        let good = is_user && fits;
        self.known().note(user, seen, good);
        if good { Admission::Granted } else { Admission::Refused }
    }

    /// Puts a password in line; `None` when there is no thread to be had.
    fn ask(
        &self,
        (job, verdict): (Job, oneshot::Receiver<bool>),
        is_user: bool,
    ) -> Option<oneshot::Receiver<bool>> {
        let mut verifier = self.verifier.lock();
        if verifier.is_none() {
            *verifier = Verifier::start().ok();
        }
        verifier.as_ref()?.line.add(job, is_user);
        Some(verdict)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

/// The hash that a password of `user` is verified against, and whether there is such a user. For any other name it is the hash
/// of a user that the name chooses, so that the time does not tell which users there are, also when their costs differ.
fn hash_for<'a>(users: &'a Users, user: &str) -> Option<(&'a str, bool)> {
    if let Some(hash) = users.get(user) {
        return Some((hash, true));
    }
    let chosen = u64::from_le_bytes(*Sha256::digest(user.as_bytes()).first_chunk()?);
    let place = usize::try_from(chosen % users.len().max(1) as u64).ok()?;
    users.values().nth(place).map(|hash| (hash.as_str(), false))
}

/// A password that waits for its verdict.
#[derive(Debug)]
struct Job {
    password: Vec<u8>,
    hash: String,
    verdict: oneshot::Sender<bool>,
}

impl Job {
    fn of(password: Vec<u8>, hash: String) -> (Self, oneshot::Receiver<bool>) {
        let (verdict, receiver) = oneshot::channel();
        (Self { password, hash, verdict }, receiver)
    }
}

/// The thread that verifies. It ends when this is dropped.
#[derive(Debug)]
struct Verifier {
    line: Arc<Line>,
}

impl Verifier {
    fn start() -> std::io::Result<Self> {
        let line = Arc::new(Line::default());
        let of_thread = Arc::clone(&line);
        thread::Builder::new().name("passwords".to_owned()).spawn(move || {
            while let Some(job) = of_thread.next() {
                let fits = bcrypt::verify(job.password, &job.hash).unwrap_or(false);
                // Nobody may be waiting any more.
                let _unheard = job.verdict.send(fits);
            }
        })?;
        Ok(Self { line })
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.line.waiting().closed = true;
        self.line.changed.notify_all();
    }
}

/// Passwords that wait, those of users and those of nobody.
#[derive(Debug, Default)]
struct Line {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    users: VecDeque<Job>,
    others: VecDeque<Job>,
    /// Whether a user came last, so that the others are next where both wait.
    user_last: bool,
    closed: bool,
}

impl Line {
    /// The newest is first. The oldest goes unanswered when there are too many, and so is told to try again.
    fn add(&self, job: Job, is_user: bool) {
        let mut waiting = self.waiting();
        let line = if is_user { &mut waiting.users } else { &mut waiting.others };
        line.truncate(WAITING_MAX - 1);
        line.push_front(job);
        self.changed.notify_one();
    }

    /// Waits for a password whose sender still waits; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting();
        loop {
            if waiting.closed {
                return None;
            }
            match waiting.take() {
                Some(job) if job.verdict.is_closed() => {}
                Some(job) => return Some(job),
                None => self.changed.wait(&mut waiting),
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Job> {
        self.user_last = !self.user_last;
        let (first, second) = if self.user_last {
            (&mut self.users, &mut self.others)
        } else {
            (&mut self.others, &mut self.users)
        };
        first.pop_front().or_else(|| second.pop_front())
    }
}

impl Known {
    fn admission(&self, user: &str, seen: &Fingerprint) -> Option<Admission> {
        if self.good.get(user) == Some(seen) {
            return Some(Admission::Granted);
        }
        self.bad.contains(seen).then_some(Admission::Refused)
    }

    fn note(&mut self, user: String, seen: Fingerprint, good: bool) {
        if good {
            self.good.insert(user, seen);
            return;
        }
        self.bad.truncate(BAD_MAX - 1);
        self.bad.push_front(seen);
    }
}

fn seen(user: &str, hash: &str, password: &[u8]) -> Fingerprint {
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
        let mut state = self.state.lock();
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
/// Passwords of users, and as many of others, that wait at most.
const WAITING_MAX: usize = 64;
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
        let basic_auth = BasicAuth::default();
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
                assert_eq!(basic_auth.admit(&users, &headers).await, want, "{headers:?}");
            }
        }
        // A password that was changed is no longer good, although it was seen to be.
        let changed: Users = [("alice".to_owned(), bcrypt::hash("other", 4).unwrap())].into();
        let admitted = basic_auth.admit(&changed, &basic("alice", "open:sesame")).await;
        assert_eq!(admitted, Admission::Refused);
        for guess in 0..2 * BAD_MAX {
            basic_auth.known().note(
                "alice".to_owned(),
                seen("alice", &guess.to_string(), b""),
                false,
            );
        }
        assert_eq!(basic_auth.known().bad.len(), BAD_MAX);
    }

    #[test]
    fn a_name_that_is_no_user_has_the_hash_of_one_and_always_the_same() {
        let users: Users = (0..4).map(|n| (format!("user{n}"), format!("hash{n}"))).collect();
        assert_eq!(hash_for(&users, "user2"), Some(("hash2", true)));
        let mut chosen = std::collections::BTreeSet::new();
        for n in 0..100 {
            let (hash, is_user) = hash_for(&users, &format!("nobody{n}")).unwrap();
            assert!(!is_user);
            assert_eq!(hash_for(&users, &format!("nobody{n}")), Some((hash, false)));
            chosen.insert(hash);
        }
        assert_eq!(chosen.len(), 4);
        assert_eq!(hash_for(&Users::new(), "user2"), None);
    }

    #[test]
    fn users_and_others_take_turns_the_newest_first_and_who_left_is_passed_over() {
        let line = Line::default();
        let mut receivers = Vec::new();
        let mut add = |name: &str, is_user| {
            let (job, verdict) = Job::of(name.as_bytes().to_vec(), String::new());
            line.add(job, is_user);
            receivers.push((name.to_owned(), verdict));
        };
        for n in 0..3 {
            add(&format!("other{n}"), false);
        }
        for n in 0..2 {
            add(&format!("user{n}"), true);
        }
        receivers.retain(|(name, _)| name != "other1");
        let got: Vec<String> =
            (0..4).map(|_| String::from_utf8(line.next().unwrap().password).unwrap()).collect();
        assert_eq!(got, ["user1", "other2", "user0", "other0"]);
        line.waiting().closed = true;
        assert!(line.next().is_none());
    }

    #[test]
    fn no_more_than_a_bounded_number_waits() {
        let line = Line::default();
        let receivers: Vec<_> = (0..3 * WAITING_MAX)
            .map(|n| {
                let (job, verdict) = Job::of(n.to_le_bytes().to_vec(), String::new());
                line.add(job, false);
                verdict
            })
            .collect();
        assert_eq!(line.waiting().others.len(), WAITING_MAX);
        let mut unanswered = receivers.into_iter();
        assert!(unanswered.next().unwrap().blocking_recv().is_err(), "the oldest is told at once");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_of_strangers_makes_one_thread_and_a_right_user_gets_in() {
        let users: Users = [("alice".to_owned(), bcrypt::hash("sesame", 6).unwrap())].into();
        let (users, auth) = (Arc::new(users), Arc::new(BasicAuth::default()));
        let mut strangers = tokio::task::JoinSet::new();
        for n in 0..500 {
            let (users, auth) = (Arc::clone(&users), Arc::clone(&auth));
            strangers.spawn(async move { auth.admit(&users, &basic(&format!("u{n}"), "x")).await });
        }
        assert_eq!(auth.admit(&users, &basic("alice", "sesame")).await, Admission::Granted);
        let threads = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
            let name = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|comm| comm.trim() == "passwords")
        });
        assert!(threads.count() <= 3, "one for each test of this file at most");
        while let Some(answer) = strangers.join_next().await {
            assert_ne!(answer.unwrap(), Admission::Granted);
        }
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
