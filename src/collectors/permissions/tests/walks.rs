//! When a store is walked over, in which slices, and what is not reached.

use super::*;

#[test]
fn a_folder_that_may_not_be_read_is_a_problem_and_the_rest_goes_on() {
    let mut stand = Stand::new();
    set_mode(&stand.path(SEGMENTS[0]), 0o700);
    if is_root() {
        for entry in walkdir(stand.scratch.path()) {
            chown(entry, Some(4_321), Some(4_321)).unwrap();
        }
        chown(stand.path(SEGMENTS[0]), Some(4_322), Some(4_322)).unwrap();
    } else {
        set_mode(&stand.path(SEGMENTS[0]), 0o000);
    }
    let stand = std::thread::spawn(move || {
        if is_root() {
            let user = Some(Uid::from_raw(4_321));
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        }
        let first = stand.whole(Wake::NONE);
        assert_eq!(first.problems.len(), 1, "{:?}", first.problems);
        assert!(first.problems[0].chain().contains(SEGMENTS[0]));
        assert_eq!(value(&first, &ENTRIES, &[]), Some((ENTRIES_MADE - 5) as f64));
        assert!(first.judged.contains(&Code::PermissionDrift));
        set_mode(&stand.path(SEGMENTS[1]).join("header.bin"), 0o600);
        let seen = stand.whole(Wake::RESCAN);
        assert_eq!(drift(&seen), "mode=1");
        stand
    })
    .join()
    .unwrap();
    let mut stand = stand;
    // What comes into sight later is not new.
    set_mode(&stand.path(SEGMENTS[0]), 0o700);
    set_mode(&stand.path(SEGMENTS[0]).join("header.bin"), 0o755);
    let seen = stand.observe();
    assert_eq!(seen.problems.len(), 0);
    assert_eq!(drift(&seen), if is_root() { "mode=1" } else { "mode=2" });
}

#[test]
fn more_entries_than_the_bound_are_a_problem() {
    let mut stand = Stand::new();
    stand.config.limits.entries = 10;
    stand.restart();
    let seen = stand.observe();
    assert!(matches!(&seen.problems[..], [CollectError::TooMany { bound: 10, .. }]));
    assert_eq!(drift(&seen), "");
}

/// A walk that would exceed its share of a core goes on in the next runs.
#[test]
fn a_large_store_is_walked_in_slices_between_which_the_core_is_seen() {
    let mut stand = Stand::new();
    for folder in 0..40 {
        let folder = stand.path(&format!("{folder:08}-0000-4000-8000-000000000000"));
        make_segment(&folder);
    }
    let total = (ENTRIES_MADE + 40 * 6) as f64;
    let slice = |stand: &mut Stand, wake: Wake| {
        stand.collector.allowance = Duration::from_micros(1);
        stand.collector.allowed_at = None;
        stand.run(wake, false)
    };
    let to_the_end = |stand: &mut Stand| {
        for runs in 0..10_000 {
            let seen = slice(stand, Wake::NONE);
            if stand.collector.scan.is_none() {
                return (runs, seen);
            }
            assert_eq!(stand.collector.pace().interval, SLICE_PAUSE);
        }
        panic!("the walk never ends");
    };
    let first = slice(&mut stand, Wake::NONE);
    assert_eq!(value(&first, &ENTRIES, &[]), None, "not known before the first walk has ended");
    let (runs, seen) = to_the_end(&mut stand);
    assert!(runs > 40, "{runs}");
    assert_eq!(value(&seen, &ENTRIES, &[]), Some(total));

    // Events come while a walk is under way: the core is seen in the same run, and another walk follows.
    slice(&mut stand, Wake::RESCAN);
    assert!(stand.collector.scan.is_some());
    set_mode(&stand.path(DATABASE), 0o600);
    assert_eq!(drift(&slice(&mut stand, Wake::ATTRIBUTES)), "mode=1");
    set_mode(&stand.path(SEGMENTS[1]), 0o700);
    stand.collector.last_top = None;
    assert_eq!(drift(&slice(&mut stand, Wake::ATTRIBUTES)), "mode=2", "so is the top");
    set_mode(&stand.path(SEGMENTS[1]).join("header.bin"), 0o600);
    slice(&mut stand, Wake::ATTRIBUTES);
    to_the_end(&mut stand);
    assert!(stand.collector.owed);
    std::thread::sleep(stand.collector.last.as_ref().unwrap().work * WOKEN_REST);
    let (_, seen) = to_the_end(&mut stand);
    assert_eq!(drift(&seen), "mode=3");
    assert!(!stand.collector.owed);
}

#[test]
fn walks_are_due_by_events_by_interval_and_by_overflow() {
    let mut stand = Stand::new();
    stand.whole(Wake::NONE);
    let header = stand.path(SEGMENTS[0]).join("header.bin");
    set_mode(&header, 0o600);
    // As if it had been expensive: nothing but its interval, or lost events, brings the next one.
    stand.collector.last.as_mut().unwrap().work = Duration::from_hours(1);
    assert_eq!(drift(&stand.whole(Wake::ATTRIBUTES)), "");
    assert_eq!(stand.collector.pace().interval, stand.config.collect.interval);
    assert_eq!(drift(&stand.whole(Wake::RESCAN)), "mode=1");
    set_mode(&header, 0o644);
    stand.collector.last.as_mut().unwrap().work = Duration::from_hours(1);
    assert_eq!(drift(&stand.whole(Wake::NONE)), "mode=1");
    stand.config.collect.permissions_interval = Duration::ZERO;
    stand.restart();
    stand.whole(Wake::NONE);
    stand.collector.last.as_mut().unwrap().work = Duration::from_hours(1);
    set_mode(&header, 0o600);
    assert_eq!(drift(&stand.whole(Wake::NONE)), "mode=1");
    // As if it had cost nothing: it is due at once.
    stand.config.collect.permissions_interval = Duration::from_hours(1);
    stand.restart();
    stand.whole(Wake::NONE);
    stand.collector.last.as_mut().unwrap().work = Duration::ZERO;
    set_mode(&header, 0o644);
    assert_eq!(drift(&stand.whole(Wake::ATTRIBUTES)), "");
}

#[test]
fn a_turn_that_is_stopped_leaves_what_was_known() {
    let mut stand = Stand::new();
    stand.observe();
    set_mode(&stand.path(SEGMENTS[0]), 0o700);
    let run = Run {
        now: Timestamp::from_secs(2_000),
        wake: Wake::NONE,
        deep: true,
        stop: Arc::new(AtomicBool::new(true)),
    };
    let stopped = stand.collector.collect(&run);
    assert_eq!(drift(&stopped), "");
    assert_eq!(value(&stopped, &WALK_TIMESTAMP, &[]), Some(1_005.0), "its age shows");
    assert_eq!(drift(&stand.observe()), "mode=1");
}
