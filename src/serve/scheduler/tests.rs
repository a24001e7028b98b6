use std::sync::atomic::AtomicUsize;

use tokio::{sync::watch, time::timeout};

use super::{
    board::{is_news, keep_undisproved},
    report::Failing,
    workers::WORKERS,
    *,
};
use crate::{
    clock::Timestamp,
    config::{Config, Store},
    findings::Finding,
    host::Host,
    sample::Snapshot,
    wait::{SOON, wait_until},
};

const PACE: Pace = Pace {
    interval: Duration::from_secs(5),
    deadline: Duration::from_secs(30),
    wakes: Wake::NONE,
    touches_store: false,
};

#[test]
fn what_cannot_be_seen_from_here_is_no_failure() {
    use crate::host::processes::{Blind, Suspect};
    let suspect = Blind::Suspect(Suspect { pid: 7, comm: "chroma".to_owned(), server: true });
    let began = clock::ticks();
    for (blinds, other, fails, limited) in [
        (vec![Blind::Namespace], false, false, true),
        (vec![Blind::Hidden], false, false, true),
        (vec![suspect.clone()], false, true, false),
        (vec![Blind::Namespace, suspect], false, true, false),
        (vec![Blind::Hidden], true, true, false),
        (vec![], false, false, false),
    ] {
        let mut observation = observation(&[], &[], other);
        let unseen = |why| CollectError::Unseen { what: "who has it open is not known", why };
        observation.problems.splice(0..0, blinds.iter().cloned().map(unseen));
        let run = Run {
            now: Timestamp::from_secs(1_795_000_000),
            wake: Wake::NONE,
            deep: false,
            stop: Arc::default(),
        };
        let name = CollectorName::Processes;
        let reading = reading_of(name, &[], &[], observation, &run, Duration::ZERO, &PACE);
        let mut failing = Failing::default();
        let interval = Duration::from_secs(5);
        failing.note(&reading, interval, began);
        let later = began.plus(Duration::from_hours(1));
        let reported = failing.note(&reading, interval, later).is_some();
        assert_eq!((reported, reading.limited_by_place()), (fails, limited), "{blinds:?} {other}");
        assert_eq!(reading.success(), blinds.is_empty() && !other, "it is not called well");
    }
}

fn observation(codes: &[Code], judged: &[Code], failed: bool) -> Observation {
    Observation {
        findings: codes.iter().map(|code| Finding::new(*code, "", "")).collect(),
        judged: judged.to_vec(),
        problems: failed.then(|| CollectError::OutOfReach("no".to_owned())).into_iter().collect(),
        ..Observation::default()
    }
}

#[test]
fn turns_follow_events_closely_at_first_and_seldom_in_a_storm() {
    let mut storm = Storm::default();
    let mut pauses = Vec::new();
    for late in [false, false, false, false, true, false] {
        pauses.push(storm.pause().as_millis());
        storm.event(late);
    }
    pauses.push(storm.pause().as_millis());
    assert_eq!(pauses, [30, 60, 120, 150, 150, 30, 60]);
}

#[test]
fn a_collector_that_fails_for_long_is_told_until_it_reads_again() {
    let run = Run {
        now: Timestamp::from_secs(1_795_000_000),
        wake: Wake::NONE,
        deep: false,
        stop: Arc::default(),
    };
    let began = clock::ticks();
    for (interval, readings) in [
        // second:what is said; a reading of `ok` is without a problem
        (5, "0:- 15:- 60:- 61:failing 500:failing ok505:- 506:- 566:- 567:failing"),
        (60, "0:- 60:- 120:- 180:- 181:failing ok240:-"),
        (600, "0:- 600:- ok700:- 1200:- 3000:- 3001:failing"),
    ] {
        let mut failing = Failing::default();
        for step in readings.split(' ') {
            let (at, want) = step.split_once(':').unwrap();
            let failed = !at.starts_with("ok");
            let second = at.trim_start_matches("ok").parse().unwrap();
            let observation = observation(&[], &[], failed);
            let name = CollectorName::Disk;
            let reading = reading_of(name, &[], &[], observation, &run, Duration::ZERO, &PACE);
            assert!(reading.judged(Code::CollectorFailing), "{step}");
            let now = began.plus(Duration::from_secs(second));
            let found = failing.note(&reading, Duration::from_secs(interval), now);
            let said = found.as_ref().map_or("-", |found| &found.code.as_str()[10..]);
            assert_eq!(said, want, "{interval} {step}");
            assert!(found.is_none_or(|f| f.subject == "disk" && f.evidence.ends_with(": no")));
        }
    }
}

fn read_at(second: i64, observation: Observation) -> Reading {
    let run = Run {
        now: Timestamp::from_secs(second),
        wake: Wake::NONE,
        deep: false,
        stop: Arc::default(),
    };
    reading_of(CollectorName::Disk, &[], &[], observation, &run, Duration::ZERO, &PACE)
}

#[test]
fn news_is_what_was_found_and_what_could_be_read_and_no_number_or_time() {
    use Code::{DiskUsageHigh as High, HeadroomLow as Headroom};
    let before = read_at(0, observation(&[High], &[], false));
    let graver = Observation {
        findings: vec![Finding {
            severity: crate::findings::Severity::Critical,
            ..Finding::new(High, "", "")
        }],
        ..Observation::default()
    };
    let words = Observation {
        findings: vec![Finding::new(High, "", "81 % used")],
        ..Observation::default()
    };
    let unjudged = Observation { unjudged: vec![Headroom], ..observation(&[High], &[], false) };
    for (now, news) in [
        (observation(&[High], &[], false), false),
        (words, false),
        (observation(&[High, Headroom], &[], false), true),
        (observation(&[Headroom], &[], false), true),
        (observation(&[], &[], false), true),
        (observation(&[High], &[], true), true),
        (observation(&[High], &[Headroom], false), true),
        (graver, true),
        (unjudged, true),
    ] {
        let now = read_at(5, now);
        assert_eq!(is_news(&before, &now), news, "{now:?}");
    }
}

#[test]
fn what_is_no_news_is_published_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let config = Arc::new(Config::default());
    let store = Arc::new(Store::new("main", dir.path()));
    let board = Board::default();
    board.add(&Context::new(&config, &store, &Arc::new(Host::new(&config))));
    let nothing = Snapshot { taken_at: Timestamp::from_secs(0), stores: Vec::new() };
    let (to, seen) = watch::channel(Arc::new(nothing));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let stop = CancellationToken::new();
    let publishing = runtime.spawn(board.clone().publish(to, stop.clone()));
    for second in [1, 2, 3] {
        let reading = read_at(second, Observation::default());
        board.put("main", CollectorName::Disk, reading, second == 3);
        wait_until("a snapshot with the reading", SOON, || {
            let snapshot = Arc::clone(&seen.borrow());
            let mut readings = snapshot.stores.iter().flat_map(|store| &store.readings);
            readings.any(|reading| reading.taken_at == Timestamp::from_secs(second))
        });
    }
    stop.cancel();
    let ended = runtime.block_on(async { timeout(SOON, publishing).await });
    ended.expect("it ends when told").unwrap();
}

/// Takes as long as it is told to.
struct Patient {
    go: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Collector for Patient {
    fn name(&self) -> CollectorName {
        CollectorName::Server
    }

    fn descs(&self) -> &'static [&'static crate::sample::Desc] {
        &[]
    }

    fn codes(&self) -> &'static [Code] {
        &[]
    }

    fn pace(&self) -> Pace {
        let (interval, deadline) = (Duration::from_secs(1), SOON);
        Pace { interval, deadline, wakes: Wake::NONE, touches_store: false }
    }

    fn collect(&mut self, _: &Run) -> Observation {
        self.running.fetch_add(1, Ordering::SeqCst);
        while !self.go.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.ended.fetch_add(1, Ordering::SeqCst);
        Observation::default()
    }
}

/// A store, and the board that knows it.
fn watched(dir: &std::path::Path) -> (Context, Board) {
    let config = Arc::new(Config::default());
    let store = Arc::new(Store::new("main", dir));
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let board = Board::default();
    board.add(&context);
    (context, board)
}

fn has_read(board: &Board) -> bool {
    let snapshot = board.snapshot(Timestamp::from_secs(0));
    snapshot.stores.iter().any(|store| !store.readings.is_empty())
}

#[test]
fn turns_that_do_not_end_hold_up_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let (context, board) = watched(dir.path());
    let workers = Workers::default();
    let (stop, running) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
    let start = |go: &Arc<AtomicBool>, board: &Board| {
        let (go, running) = (Arc::clone(go), Arc::clone(&running));
        let collector = Box::new(Patient { go, running, ended: Arc::default() });
        let life = CollectorLife {
            context: context.clone(),
            board: board.clone(),
            slot: WakeSlot::new(Wake::NONE),
            workers: workers.clone(),
            phase: Duration::ZERO,
        };
        tokio::spawn(life.run(collector, stop.clone()))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let (stuck, free) = (Arc::default(), Arc::new(AtomicBool::new(true)));
    let lives = runtime.block_on(async {
        let mut lives: Vec<_> =
            (0..=2 * WORKERS).map(|_| start(&stuck, &Board::default())).collect();
        lives.push(start(&free, &board));
        lives
    });
    wait_until("all that are stuck, and the one that is not", SOON, || {
        let read = has_read(&board);
        running.load(Ordering::SeqCst) > 2 * WORKERS && read
    });
    stop.cancel();
    runtime.block_on(async {
        for life in lives {
            timeout(SOON, life).await.expect("a life that ends at once").unwrap();
        }
    });
    stuck.store(true, Ordering::SeqCst);
}

#[test]
fn one_that_wants_to_run_again_soon_is_not_put_off_to_its_place_among_others() {
    let dir = tempfile::tempdir().unwrap();
    let (context, board) = watched(dir.path());
    let (stop, ended) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
    let go = Arc::new(AtomicBool::new(true));
    let collector = Patient { go, running: Arc::default(), ended: Arc::clone(&ended) };
    let life = CollectorLife {
        context,
        board,
        slot: WakeSlot::new(Wake::NONE),
        workers: Workers::default(),
        phase: Duration::from_hours(1),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let life = runtime.spawn(life.run(Box::new(collector), stop.clone()));
    wait_until("a second run", SOON, || ended.load(Ordering::SeqCst) > 1);
    stop.cancel();
    runtime.block_on(life).unwrap();
}

#[test]
fn a_failed_run_disproves_only_what_it_could_judge() {
    use Code::{DiskUsageHigh as High, HeadroomLow as Headroom};
    for (before, judged, found, want) in [
        (&[High, Headroom][..], &[][..], &[][..], &[High, Headroom][..]),
        (&[High, Headroom], &[High], &[], &[Headroom]),
        (&[High], &[High], &[High], &[High]),
        (&[High], &[], &[High, Headroom], &[High, Headroom]),
    ] {
        let mut failed = observation(found, judged, true);
        keep_undisproved(&mut failed, &observation(before, &[], false).findings);
        let codes: Vec<Code> = failed.findings.iter().map(|f| f.code).collect();
        assert_eq!(codes, want, "{before:?} {judged:?}");
    }
    let mut well = Observation { unjudged: vec![High], ..observation(&[], &[], false) };
    keep_undisproved(&mut well, &observation(&[High, Headroom], &[], false).findings);
    let codes: Vec<Code> = well.findings.iter().map(|f| f.code).collect();
    assert_eq!(codes, [High], "a run that went well disproves what it could look at");
}
