use std::sync::atomic::AtomicUsize;

use super::*;

fn store(name: &str) -> Arc<str> {
    Arc::from(name)
}

#[test]
fn who_is_next() {
    // devices that wait in this order, devices at work, at once → place of who may go
    for (waiting, running, at_once, want) in [
        (&[1_u64][..], &[][..], 2, Some(0)),
        (&[1, 1], &[1_u64][..], 2, None),
        (&[1, 2], &[1], 2, Some(1)),
        (&[2, 1], &[1], 2, Some(0)),
        (&[3], &[1, 2], 2, None),
        (&[1, 2], &[], 1, Some(0)),
        (&[], &[], 1, None),
    ] {
        let ticket = |number, device: &u64| Ticket {
            number,
            device: *device,
            store: store("a"),
            begun: false,
        };
        let since = clock::ticks();
        let state = State {
            waiting: (0..).zip(waiting).map(|(at, device)| ticket(at, device)).collect(),
            running: running
                .iter()
                .map(|device| Running { ticket: ticket(99, device), since })
                .collect(),
            ..State::default()
        };
        let is = next(&state, at_once, &Shares::default());
        assert_eq!(is, want, "{waiting:?} {running:?}");
    }
}

#[test]
fn who_has_had_little_is_before_who_has_had_more_and_few_of_these_begin() {
    let shares = Shares::default();
    let ticket =
        |number, name: &str, begun| Ticket { number, device: 1, store: store(name), begun };
    let more = [("large", shares.little), ("larger", shares.little * 9)];
    let had = more.map(|(name, had)| (store(name), VecDeque::from([(clock::ticks(), had)])));
    let mut state = State { had: BTreeMap::from(had), ..State::default() };
    state.waiting.push_back(ticket(0, "large", false));
    state.waiting.push_back(ticket(1, "small", false));
    state.waiting.push_back(ticket(2, "other", false));
    assert_eq!(next(&state, 1, &shares), Some(1));
    state.waiting.drain(1..);
    assert_eq!(next(&state, 1, &shares), Some(0));
    state.waiting.extend((3..7).map(|number| ticket(number, "larger", true)));
    assert_eq!(next(&state, 1, &shares), Some(3), "who has begun, and may keep a copy");
    state.waiting.pop_back();
    assert_eq!(next(&state, 1, &shares), Some(0));
}

#[test]
fn the_queue_is_counted() {
    let job_queue = JobQueue::new(2);
    assert_eq!(job_queue.jobs(), Jobs::default());
    let permit = job_queue.take(1, &store("a"), &AtomicBool::new(false)).unwrap();
    let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let tell = Arc::clone(&ended);
    // On the same device, so that it waits.
    let name = store("b");
    let wanted = Wanted { name: "b", size: Size::Large, device: 1, store: &name, stop: &stop };
    job_queue.begin(&wanted, move |permit| {
        drop(permit);
        tell.store(true, Ordering::Relaxed);
    });
    assert_eq!(job_queue.jobs(), Jobs { running: 1, waiting: 1 });
    drop(permit);
    crate::wait::wait_until("the queue to be empty", crate::wait::SOON, || {
        ended.load(Ordering::Relaxed) && job_queue.jobs() == Jobs::default()
    });
}

/// Long work of one store, with turns that are short, beside small work of fifty.
#[test]
fn fifty_are_served_while_one_that_would_never_end_goes_on_in_between() {
    let shares = Shares {
        little: Duration::from_millis(20),
        short: Duration::from_millis(1),
        long: Duration::from_millis(5),
        ..Shares::default()
    };
    let job_queue = JobQueue::with(2, shares);
    let never = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let (begun, after) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let hostile = scope.spawn(|| {
            let permit = job_queue.take(1, &store("hostile"), &never).unwrap();
            begun.store(true, Ordering::Relaxed);
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(100));
                assert!(permit.pacer().unwrap().checkpoint(&stop));
                after.fetch_add(1, Ordering::Relaxed);
            }
            permit.pacer().unwrap().paused()
        });
        crate::wait::wait_until("the long work to begin", crate::wait::SOON, || {
            begun.load(Ordering::Relaxed)
        });
        let small = |n: usize| {
            let (job_queue, never) = (&job_queue, &never);
            scope.spawn(move || {
                for _ in 0..3 {
                    drop(job_queue.take(1, &store(&n.to_string()), never).unwrap());
                }
            })
        };
        let all: Vec<_> = (0..50).map(small).collect();
        for one in all {
            one.join().unwrap();
        }
        assert!(!hostile.is_finished());
        let seen = after.load(Ordering::Relaxed);
        crate::wait::wait_until("the long work to go on", crate::wait::SOON, || {
            after.load(Ordering::Relaxed) > seen
        });
        stop.store(true, Ordering::Relaxed);
        assert!(hostile.join().unwrap() > Duration::ZERO);
    });
    let state = job_queue.shared.lock();
    assert!(state.running.is_empty() && state.waiting.is_empty());
}

#[test]
fn two_that_are_long_change_places_and_all_threads_of_one_pause() {
    let short = Duration::from_millis(1);
    let shares = Shares { little: Duration::ZERO, short, long: short, ..Shares::default() };
    let job_queue = JobQueue::with(1, shares);
    let stop = AtomicBool::new(false);
    let at_work = AtomicUsize::new(0);
    let met: [AtomicUsize; 2] = Default::default();
    std::thread::scope(|scope| {
        for (n, mine) in met.iter().enumerate() {
            let (job_queue, stop, at_work) = (&job_queue, &stop, &at_work);
            scope.spawn(move || {
                let permit = job_queue.take(1, &store(&n.to_string()), stop).unwrap();
                std::thread::scope(|scope| {
                    for _ in 0..2 {
                        scope.spawn(|| {
                            while !stop.load(Ordering::Relaxed) {
                                assert!(permit.pacer().unwrap().checkpoint(stop));
                                mine.fetch_add(1, Ordering::Relaxed);
                                at_work.store(n, Ordering::Relaxed);
                                std::thread::sleep(Duration::from_micros(50));
                            }
                        });
                    }
                });
            });
        }
        let mut changes = 0;
        let mut last = at_work.load(Ordering::Relaxed);
        crate::wait::wait_until("both to work in turns", crate::wait::SOON, || {
            let now = at_work.load(Ordering::Relaxed);
            changes += usize::from(now != last);
            last = now;
            changes > 6
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(met.iter().all(|mine| mine.load(Ordering::Relaxed) > 0));
}

#[test]
fn what_a_store_may_have_in_a_day_is_bounded() {
    let shares = Shares { day_max: Duration::from_millis(5), ..Shares::default() };
    let job_queue = JobQueue::with(1, shares);
    let stop = AtomicBool::new(false);
    let permit = job_queue.take(1, &store("a"), &stop).unwrap();
    crate::wait::wait_until("the end of its share", crate::wait::SOON, || {
        std::thread::sleep(Duration::from_millis(1));
        !permit.pacer().unwrap().checkpoint(&stop)
    });
    assert!(permit.pacer().unwrap().is_used_up());
    drop(permit);
    assert!(job_queue.used_up("a") && !job_queue.used_up("b"));
}

#[test]
fn every_one_of_many_gets_its_turn_and_no_two_work_on_one_disk() {
    let job_queue = JobQueue::new(2);
    let stop = AtomicBool::new(false);
    let at_work: [AtomicUsize; 3] = Default::default();
    let all = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..60_usize {
            let (job_queue, stop, at_work, all) = (&job_queue, &stop, &at_work, &all);
            scope.spawn(move || {
                let permit = job_queue.take(n as u64 % 3, &store(&n.to_string()), stop).unwrap();
                assert_eq!(at_work[n % 3].fetch_add(1, Ordering::SeqCst), 0);
                assert!(all.fetch_add(1, Ordering::SeqCst) < 2);
                std::thread::sleep(Duration::from_millis(1));
                at_work[n % 3].fetch_sub(1, Ordering::SeqCst);
                all.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
            });
        }
    });
    let state = job_queue.shared.lock();
    assert!(state.running.is_empty() && state.waiting.is_empty());
}

#[test]
fn who_is_told_to_stop_leaves_the_queue() {
    let job_queue = JobQueue::new(4);
    let go = AtomicBool::new(false);
    let mine = job_queue.take(7, &store("a"), &go).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| job_queue.take(7, &store("b"), &stop).is_none());
        crate::wait::wait_until("it to wait", crate::wait::SOON, || {
            !job_queue.shared.lock().waiting.is_empty()
        });
        // Another disk is nobody's business.
        assert!(job_queue.take(8, &store("c"), &go).is_some());
        stop.store(true, Ordering::Relaxed);
        assert!(first.join().unwrap());
    });
    drop(mine);
    assert!(job_queue.take(7, &store("a"), &go).is_some());
}

/// Threads of this program that have this name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| {
        // It may have ended meanwhile.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    });
    names.filter(|is| is.trim() == name).count()
}

fn wanted<'a>(
    name: &'static str,
    size: Size,
    device: u64,
    store: &'a Arc<str>,
    stop: &'a Arc<AtomicBool>,
) -> Wanted<'a> {
    Wanted { name, size, device, store, stop }
}

#[test]
fn work_that_waits_has_no_thread_and_each_begins_once() {
    for (name, size, at_once) in
        [("large-waits", Size::Large, 1), ("small-waits", Size::Small, small::ON_A_DEVICE)]
    {
        let job_queue = JobQueue::new(2);
        let (stop, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (at_work, most, done) = (
            Arc::<AtomicUsize>::default(),
            Arc::<AtomicUsize>::default(),
            Arc::<AtomicUsize>::default(),
        );
        for n in 0..500 {
            let store = store(&n.to_string());
            let (go, at_work) = (Arc::clone(&go), Arc::clone(&at_work));
            let (most, done) = (Arc::clone(&most), Arc::clone(&done));
            job_queue.begin(&wanted(name, size, 7, &store, &stop), move |permit| {
                let permit = permit.unwrap();
                most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                while !go.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                at_work.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        crate::wait::wait_until("the first to begin", crate::wait::SOON, || {
            at_work.load(Ordering::SeqCst) == at_once
        });
        assert_eq!(threads(name), at_once);
        go.store(true, Ordering::Relaxed);
        crate::wait::wait_until("all to be done", crate::wait::SOON, || {
            done.load(Ordering::SeqCst) == 500
        });
        assert_eq!(most.load(Ordering::SeqCst), at_once);
        crate::wait::wait_until("an empty list", crate::wait::SOON, || {
            !job_queue.shared.lock().list.is_attended()
        });
    }
}

#[test]
fn work_that_is_told_to_stop_is_told_so_and_nobody_behind_it_waits_longer() {
    let job_queue = JobQueue::new(4);
    let never = AtomicBool::new(false);
    let mine = job_queue.take(7, &store("a"), &never).unwrap();
    let (sender, said) = std::sync::mpsc::channel();
    let stops: Vec<_> = (0..3).map(|_| Arc::new(AtomicBool::new(false))).collect();
    for (n, stop) in stops.iter().enumerate() {
        let sender = sender.clone();
        job_queue.begin(&wanted("told", Size::Large, 7, &store("b"), stop), move |permit| {
            let stopped = matches!(permit, Err(NoPermit::Stopped));
            sender.send((n, stopped)).unwrap();
        });
    }
    stops[0].store(true, Ordering::Relaxed);
    assert_eq!(said.recv_timeout(crate::wait::SOON), Ok((0, true)));
    drop(mine);
    for n in [1, 2] {
        assert_eq!(said.recv_timeout(crate::wait::SOON), Ok((n, false)));
    }
}

#[test]
fn small_work_that_hangs_counts_for_its_own_device_alone() {
    let (job_queue, stop) = (JobQueue::new(1), Arc::new(AtomicBool::new(false)));
    let go = Arc::new(AtomicBool::new(false));
    let begun = Arc::<AtomicUsize>::default();
    let all = store("all");
    for device in 0..10 {
        for _ in 0..10 {
            let (go, begun) = (Arc::clone(&go), Arc::clone(&begun));
            job_queue.begin(&wanted("hangs", Size::Small, device, &all, &stop), move |permit| {
                begun.fetch_add(1, Ordering::SeqCst);
                while !go.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                drop(permit);
            });
        }
    }
    crate::wait::wait_until("each device to hang", crate::wait::SOON, || {
        begun.load(Ordering::SeqCst) == 10 * small::ON_A_DEVICE
    });
    let (sender, said) = std::sync::mpsc::channel();
    job_queue.begin(&wanted("works", Size::Small, 99, &all, &stop), move |permit| {
        sender.send(permit.is_ok()).unwrap();
    });
    assert_eq!(said.recv_timeout(crate::wait::SOON), Ok(true));
    assert_eq!(begun.load(Ordering::SeqCst), 10 * small::ON_A_DEVICE);
    go.store(true, Ordering::Relaxed);
    crate::wait::wait_until("the others", crate::wait::SOON, || {
        begun.load(Ordering::SeqCst) == 100
    });
}
