//! Endurance: an exporter with fifty stores that change, break and are mended, a configuration that is loaded anew, and receivers that fail.
//! Every alert is told to both of them, and its end too; memory, threads and descriptors stay what they are.
//!
//! It takes five minutes, and its name lets it begin early among the others. `tests/soak SECONDS` goes on for as long as one likes, and shows the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::support::{
    self, Exporter, SOON, copy_tree, faults, fixture,
    hook::{Hook, Reply},
    random::Random,
    wait,
};

const STORES: usize = 50;
/// So many of them are broken at a time.
const BROKEN: usize = 20;
const SECONDS: u64 = 300;
/// Receivers, each below a path of its own.
const RECEIVERS: [&str; 2] = ["one", "two"];

/// What is done to a store, and the alert that tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Mode,
    Tenant,
    Index,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Mode, Self::Tenant, Self::Index];

    const fn alert(self) -> &'static str {
        match self {
            Self::Mode => "ChromaPermissionWorldWritable",
            Self::Tenant => "ChromaDefaultTenantMissing",
            Self::Index => "ChromaSegmentTruncated",
        }
    }

    fn strike(self, dir: &Path) {
        match self {
            Self::Mode => set_mode(dir, 0o646),
            Self::Tenant => faults::execute(dir, "DELETE FROM tenants"),
            Self::Index => faults::cut(&faults::articles(dir, "data_level0.bin"), 1000),
        }
    }

    fn mend(self, dir: &Path, healthy: &Path) {
        match self {
            Self::Mode => set_mode(dir, 0o644),
            Self::Tenant => {
                faults::execute(dir, "INSERT INTO tenants(id) VALUES('default_tenant')");
            }
            Self::Index => {
                let [from, to] = [healthy, dir].map(|dir| faults::articles(dir, "data_level0.bin"));
                fs::copy(from, to).unwrap();
            }
        }
    }
}

fn set_mode(dir: &Path, mode: u32) {
    fs::set_permissions(dir.join("chroma.sqlite3"), fs::Permissions::from_mode(mode)).unwrap();
}

struct Store {
    name: String,
    dir: PathBuf,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Whole,
    /// Since when, and whether it is mended.
    Broken {
        fault: Fault,
        since: Instant,
        mended: bool,
    },
}

struct Soak {
    scratch: tempfile::TempDir,
    healthy: PathBuf,
    stores: Vec<Store>,
    hook: Hook,
    dice: Random,
    /// How many messages came, and how many of them were taken.
    posts: usize,
    taken: usize,
    /// When the episodes began that were told, by receiver, store, alert and status.
    reported: BTreeMap<(String, String, String, String), BTreeSet<String>>,
    /// All that was told of an alert of a store, for whoever reads why the test failed.
    stories: BTreeMap<(String, String), Vec<(Instant, String)>>,
    /// How often something was broken.
    broken: usize,
    reloads: u64,
}

impl Soak {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture("chroma-1.5.9", &scratch.path().join("healthy"));
        let stores = (0..STORES).map(|nth| {
            let (name, dir) = (format!("s{nth}"), scratch.path().join(format!("s{nth}")));
            copy_tree(&healthy, &dir);
            set_mode(&dir, 0o644);
            Store { name, dir, state: State::Whole }
        });
        let stores = stores.collect();
        let (hook, dice) = (Hook::start(), Random(7));
        let soak = Self {
            scratch,
            healthy,
            stores,
            hook,
            dice,
            posts: 0,
            taken: 0,
            reported: BTreeMap::new(),
            stories: BTreeMap::new(),
            broken: 0,
            reloads: 0,
        };
        soak.configure();
        soak
    }

    fn config(&self) -> PathBuf {
        self.scratch.path().join("config.yml")
    }

    /// Every other time with another interval, so that there is something new in it.
    fn configure(&self) {
        let state = self.scratch.path().join("state");
        let mut text = format!(
            "state:\n  dir: {}\ncollect:\n  interval: {}\nintegrity:\n  try_repairs: false\nreceivers:\n",
            state.display(),
            ["1s", "2s"][usize::try_from(self.reloads % 2).unwrap()],
        );
        for name in RECEIVERS {
            let url = format!("http://{}/{name}", self.hook.address);
            writeln!(
                text,
                "  - {{name: {name}, type: webhook, url: '{url}', timeout: 2s, group_interval: 0s}}"
            )
            .unwrap();
        }
        text.push_str("stores:\n");
        for store in &self.stores {
            writeln!(text, "  - {{name: {}, path: {}}}", store.name, store.dir.display()).unwrap();
        }
        fs::write(self.config(), text).unwrap();
    }

    /// A third of what is asked is answered so that it has to be asked again.
    fn go_mad(&self) {
        let dice = Mutex::new(Random(11));
        self.hook.answer_by(move |_| match dice.lock().unwrap().below(18) {
            0 => Reply::Hang(Duration::from_secs(3)),
            1 => Reply::Reset,
            2 => Reply::Say(429, "Retry-After: 1\r\n", "rate_limited"),
            3 => Reply::Say(500, "", "no"),
            4 => Reply::Say(503, "Retry-After: 1\r\n", "later"),
            5 => Reply::Garbage,
            _ => Reply::Say(200, "", "ok"),
        });
    }

    /// Writes down what was told since the last time.
    fn listen(&mut self) {
        for post in self.hook.posts_from(self.posts) {
            self.posts += 1;
            if post.taken {
                self.taken += 1;
                for reported in post.received() {
                    let line =
                        format!("{} {} since {}", post.path, reported.status, reported.starts_at);
                    let story = self.stories.entry((reported.store.clone(), reported.name.clone()));
                    story.or_default().push((post.at, line));
                    let of = (post.path.clone(), reported.store, reported.name, reported.status);
                    self.reported.entry(of).or_default().insert(reported.starts_at);
                }
            }
        }
    }

    /// Whether each receiver takes an alert for firing: the newest episode that it was told of has no end.
    fn beliefs(&self, store: &str, alert: &str) -> [bool; RECEIVERS.len()] {
        RECEIVERS.map(|name| {
            let newest = |status: &str| {
                let of =
                    (format!("/{name}"), store.to_owned(), alert.to_owned(), status.to_owned());
                self.reported.get(&of).and_then(|episodes| episodes.last())
            };
            newest("firing") > newest("resolved")
        })
    }

    /// Breaks one, mends what was told, changes one, and now and then loads the configuration anew.
    fn turn(&mut self, exporter: &Exporter) {
        self.go_on_with_all();
        let broken =
            self.stores.iter().filter(|store| !matches!(store.state, State::Whole)).count();
        let nth = self.dice.place(STORES);
        if broken < BROKEN && matches!(self.stores[nth].state, State::Whole) {
            let fault = Fault::ALL[self.dice.place(Fault::ALL.len())];
            fault.strike(&self.stores[nth].dir);
            let store = &mut self.stores[nth];
            store.state = State::Broken { fault, since: support::now(), mended: false };
            self.broken += 1;
        }
        let nth = self.dice.place(STORES);
        faults::execute(&self.stores[nth].dir, "UPDATE collections SET name = name");
        if self.dice.below(20) == 0 {
            self.reloads += 1;
            self.configure();
            exporter.signal("HUP");
        }
    }

    fn go_on_with_all(&mut self) {
        self.listen();
        for nth in 0..STORES {
            self.go_on(nth);
        }
    }

    /// Mends a store when its alert was told, and takes it for whole when the end was.
    fn go_on(&mut self, nth: usize) {
        let store = &self.stores[nth];
        let State::Broken { fault, since, mended } = store.state else { return };
        let beliefs = self.beliefs(&store.name, fault.alert());
        let history = || -> String {
            let now = support::now();
            let all = self.stories.get(&(store.name.clone(), fault.alert().to_owned()));
            let line = |(at, line): &(Instant, String)| {
                format!("\n{:6.1} s ago: {line}", now.saturating_duration_since(*at).as_secs_f64())
            };
            all.into_iter().flatten().map(line).collect()
        };
        if beliefs.contains(&mended) {
            assert!(
                since.elapsed() < SOON * 2,
                "{}: {fault:?}, mended: {mended}; told as firing to {RECEIVERS:?}: {beliefs:?} after {:?}{}",
                store.name,
                SOON * 2,
                history()
            );
            return;
        }
        if !mended {
            fault.mend(&store.dir, &self.healthy);
        }
        self.stores[nth].state = if mended {
            State::Whole
        } else {
            State::Broken { fault, since: support::now(), mended: true }
        };
    }
}

/// What a process holds at a moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    /// Memory in MiB, threads, open descriptors.
    figures: [f64; 3],
}

const FIGURES: [&str; 3] = ["MiB of memory", "threads", "descriptors"];
/// By how much a figure of the last quarter may be above that of the second: a share, and so many. Threads that read come and go with the
/// work; there are at most some sixty.
const ABOVE: [(f64, f64); 3] = [(0.1, 8.0), (0.1, 24.0), (0.1, 8.0)];

fn sample(exporter: &Exporter, seconds: f64) -> Sample {
    let [resident, threads] = ["VmRSS:", "Threads:"].map(|field| exporter.status(field) as f64);
    let open = fs::read_dir(format!("/proc/{}/fd", exporter.pid())).unwrap().count();
    Sample { seconds, figures: [resident / 1024.0, threads, open as f64] }
}

/// The middle one of a figure in a part of the samples: a check that runs holds more for a moment.
fn median(samples: &[Sample], figure: usize) -> f64 {
    let mut all: Vec<f64> = samples.iter().map(|one| one.figures[figure]).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// By least squares, in an hour.
fn slope(samples: &[Sample], figure: usize) -> f64 {
    let count = samples.len() as f64;
    let mean = |value: fn(&Sample, usize) -> f64| {
        samples.iter().map(|one| value(one, figure)).sum::<f64>() / count
    };
    let (time, value) = (mean(|one, _| one.seconds), mean(|one, figure| one.figures[figure]));
    let both: f64 =
        samples.iter().map(|one| (one.seconds - time) * (one.figures[figure] - value)).sum();
    let square: f64 = samples.iter().map(|one| (one.seconds - time).powi(2)).sum();
    both / square * 3600.0
}

#[test]
fn nothing_grows_and_no_alert_is_lost() {
    let wanted = std::env::var("CHROMA_SOAK_SECONDS").ok().map(|text| text.parse().unwrap());
    let lasts = Duration::from_secs(wanted.unwrap_or(SECONDS));
    let mut soak = Soak::new();
    let exporter = Exporter::start(&["--config.file", soak.config().to_str().unwrap()]);
    exporter.wait_full_checks(STORES, SOON * 5);
    soak.go_mad();
    let began = support::now();
    let mut samples = Vec::new();
    while began.elapsed() < lasts {
        soak.turn(&exporter);
        samples.push(sample(&exporter, began.elapsed().as_secs_f64()));
        std::thread::sleep(Duration::from_millis(500));
    }
    soak.hook.answer(Reply::Say(200, "", "ok"));
    wait("every alert and its end to be told", SOON * 2, || {
        soak.go_on_with_all();
        let open = soak.stores.iter().filter(|store| !matches!(store.state, State::Whole));
        let open: Vec<String> =
            open.map(|store| format!("{}: {:?}", store.name, store.state)).collect();
        if open.is_empty() { Ok(()) } else { Err(open.join(", ")) }
    });
    let broken = soak.broken;
    println!(
        "{} s, {broken} faults, {} messages of which {} were taken, {} reloads",
        lasts.as_secs(),
        soak.posts,
        soak.taken,
        soak.reloads
    );
    let quarter = samples.len() / 4;
    let mut grown = Vec::new();
    for (figure, name) in FIGURES.iter().enumerate() {
        let before = median(&samples[quarter..2 * quarter], figure);
        let after = median(&samples[3 * quarter..], figure);
        let line = format!(
            "{name}: {before:.1} in the second quarter, {after:.1} in the last, {:+.2} an hour",
            slope(&samples[quarter..], figure)
        );
        println!("{line}");
        let (share, more) = ABOVE[figure];
        if after > before * (1.0 + share) + more {
            grown.push(line);
        }
    }
    assert!(broken > 0 && grown.is_empty(), "{broken} faults; {}", grown.join("; "));
}
