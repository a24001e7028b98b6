//! The alert hooks against the world: a real small filesystem that fills, a real database that breaks, a real second
//! Chroma, kills at random points, hundreds of stores at once.
#![allow(clippy::float_cmp, reason = "states are 0 and 1")]

use crate::support::{
    self, Exporter, SOON, chroma, fixture,
    hook::{Hook, Reply},
    random::Random,
    wait_for,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const OPEN: &str = "ChromaPermissionWorldWritable";

/// A mounted tmpfs; unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        let args = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        let status = Command::new("mount").args(args).arg(at).status().unwrap();
        assert!(status.success(), "mount tmpfs {} (needs root)", at.display());
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn write_config(scratch: &Path, stores: &[(String, PathBuf)], rest: &str) -> String {
    let mut text = format!("state:\n  dir: {}\nstores:\n", scratch.join("state").display());
    for (name, path) in stores {
        text.push_str(
            &format_args!("  - name: {name}\n    path: {}\n", path.display()).to_string(),
        );
    }
    let file = scratch.join("config.yml");
    fs::write(&file, text + rest).unwrap();
    file.to_str().unwrap().to_owned()
}

fn receiver(name: &str, hook: &Hook, more: &str) -> String {
    format!("  - name: {name}\n    type: webhook\n    url: {}\n{more}", hook.url())
}

fn wait_told(hook: &Hook, store: &str, name: &str, status: &str) {
    wait_for(&format!("{name} of {store} {status}"), SOON, || {
        (hook.count(store, name, status) > 0).then_some(())
    });
}

#[test]
fn a_disk_that_fills_past_80_per_cent_is_told_and_its_recovery_too() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = Tmpfs::new(&scratch.path().join("disk"), "20m");
    let store = fixture("chroma-1.5.9", &disk.0);
    set_open(&store, false);
    let hook = Hook::start();
    let config = write_config(
        scratch.path(),
        &[("main".to_owned(), store.clone())],
        &format!("receivers:\n{}", receiver("hook", &hook, "    group_interval: 0s\n")),
    );
    let exporter = Exporter::start(&["--config.file", &config]);
    exporter.ready();
    // Inside the directory, as Chroma itself would: a file event wakes the reading.
    let filler = store.join("filler");
    fs::write(&filler, vec![1; 16_500_000]).unwrap();
    wait_told(&hook, "main", "ChromaDiskUsageHigh", "firing");
    // The hook does not wait for the page.
    exporter.wait_page("a disk that is 80 to 90 % full", SOON, |page| {
        page.has("chroma_disk_used_ratio", &[], |ratio| (0.8..0.9).contains(&ratio))
    });
    assert_eq!(hook.count("main", "ChromaDiskUsageCritical", "firing"), 0);
    // Cut, not written anew: an empty file in between would be a recovery.
    fs::OpenOptions::new().write(true).open(&filler).unwrap().set_len(15_700_000).unwrap();
    exporter.wait_page("a disk that is 75 to 80 % full", SOON, |page| {
        page.has("chroma_disk_used_ratio", &[], |ratio| (0.75..0.8).contains(&ratio))
    });
    // What began later has come: an end of the other alert would have been there before it.
    set_open(&store, true);
    wait_told(&hook, "main", "ChromaPermissionWorldWritable", "firing");
    assert_eq!(hook.count("main", "ChromaDiskUsageHigh", "resolved"), 0, "not below 75 %");
    fs::remove_file(&filler).unwrap();
    wait_told(&hook, "main", "ChromaDiskUsageHigh", "resolved");
    assert_eq!(hook.count("main", "ChromaDiskUsageHigh", "firing"), 1);
}

/// Nothing happens in the directory, and no run comes within the hour.
#[test]
fn a_disk_that_others_fill_is_told_although_nothing_happens_in_the_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = Tmpfs::new(&scratch.path().join("disk"), "20m");
    let store = fixture("chroma-1.5.9", &disk.0);
    let hook = Hook::start();
    let rest = format!(
        "collect:\n  interval: 1h\nreceivers:\n{}",
        receiver("hook", &hook, "    group_interval: 0s\n")
    );
    let config = write_config(scratch.path(), &[("main".to_owned(), store)], &rest);
    let exporter = Exporter::start(&["--config.file", &config]);
    exporter.ready();
    let filler = disk.0.join("filler");
    fs::write(&filler, vec![1; 16_500_000]).unwrap();
    wait_told(&hook, "main", "ChromaDiskUsageHigh", "firing");
    fs::remove_file(&filler).unwrap();
    wait_told(&hook, "main", "ChromaDiskUsageHigh", "resolved");
}

#[test]
fn a_broken_database_and_a_second_chroma_are_told_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let broken = fixture("chroma-1.5.9", scratch.path());
    let busy = scratch.path().join("busy");
    fs::create_dir(&busy).unwrap();
    let mut server = chroma::Server::start("1.5.9", &busy);
    let hook = Hook::start();
    let config = write_config(
        scratch.path(),
        &[("broken".to_owned(), broken.clone()), ("busy".to_owned(), busy.clone())],
        &format!("receivers:\n{}", receiver("hook", &hook, "    group_interval: 0s\n")),
    );
    let exporter = Exporter::start(&["--config.file", &config]);
    exporter.ready();
    let database = broken.join("chroma.sqlite3");
    let whole = fs::read(&database).unwrap();
    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    wait_told(&hook, "broken", "ChromaSqliteTruncated", "firing");
    fs::write(&database, &whole).unwrap();
    wait_told(&hook, "broken", "ChromaSqliteTruncated", "resolved");

    let second = chroma::Embedded::start("1.5.9", &busy);
    wait_told(&hook, "busy", "ChromaSecondWriter", "firing");
    // It has written: the server knows nothing of that before it starts anew.
    drop(second);
    let left = || {
        let status = support::get(exporter.address, "/api/v1/status").body;
        status.contains("not restarted since").then_some(())
    };
    wait_for("the writer that has left to be told", SOON, left);
    assert_eq!(hook.count("busy", "ChromaSecondWriter", "resolved"), 0);
    server.end();
    server.start_again(&busy);
    wait_told(&hook, "busy", "ChromaSecondWriter", "resolved");
}

#[test]
fn a_full_state_disk_loses_no_alert() {
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    set_open(&store, false);
    let state = Tmpfs::new(&scratch.path().join("state"), "1m");
    let hook = Hook::start();
    let config = write_config(
        scratch.path(),
        &[("main".to_owned(), store.clone())],
        &format!("receivers:\n{}", receiver("hook", &hook, "    group_interval: 0s\n")),
    );
    let exporter = Exporter::start(&["--config.file", &config]);
    exporter.ready();
    let filler = state.0.join("filler");
    drop(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=4096"])
            .arg(format!("of={}", filler.display()))
            .output(),
    );
    set_open(&store, true);
    wait_told(&hook, "main", OPEN, "firing");
    exporter.wait_page("the page to say that nothing is kept", SOON, |page| {
        page.has("chroma_exporter_alert_state_persistent", &[], |kept| kept == 0.0)
    });
    fs::remove_file(&filler).unwrap();
    exporter.wait_page("the state to be written again", SOON, |page| {
        page.has("chroma_exporter_alert_state_persistent", &[], |kept| kept == 1.0)
    });
    // What happened meanwhile is in the alert store: a restart tells nothing twice.
    drop(exporter);
    let exporter = Exporter::start(&["--config.file", &config]);
    exporter.ready();
    exporter.wait_page("the alert after the restart", SOON, |page| {
        page.get("chroma_alert_firing", &[("alert", OPEN)]) == Some(1.0)
    });
    assert_eq!(hook.count("main", OPEN, "firing"), 1);
    set_open(&store, false);
    wait_told(&hook, "main", OPEN, "resolved");
}

#[test]
fn a_state_disk_that_is_read_only_at_a_restart_doubles_nothing_and_loses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let stores: Vec<(String, PathBuf)> = ["one", "two", "three"]
        .iter()
        .map(|name| {
            let dir = scratch.path().join(name);
            fs::create_dir(&dir).unwrap();
            ((*name).to_owned(), fixture("chroma-1.5.9", &dir))
        })
        .collect();
    for (_, dir) in &stores {
        set_open(dir, false);
    }
    let state = Tmpfs::new(&scratch.path().join("state"), "4m");
    let remount = |how: &str| {
        let status =
            Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&state.0).status();
        assert!(status.unwrap().success());
    };
    let hook = Hook::start();
    let config = write_config(
        scratch.path(),
        &stores,
        &format!(
            "receivers:\n{}",
            receiver("hook", &hook, "    group_interval: 0s\n    timeout: 2s\n")
        ),
    );
    let start = || {
        let exporter = Exporter::start(&["--config.file", &config]);
        exporter.ready();
        exporter
    };
    let delivered = |exporter: &Exporter, store: &str| {
        exporter.wait_page("an empty queue", SOON, |page| {
            page.get("chroma_alert_firing", &[("store", store), ("alert", OPEN)]) == Some(1.0)
                && page
                    .has("chroma_exporter_notification_queue_length", &[], |length| length == 0.0)
        })
    };
    let exporter = start();
    set_open(&stores[0].1, true);
    set_open(&stores[1].1, true);
    wait_told(&hook, "one", OPEN, "firing");
    wait_told(&hook, "two", OPEN, "firing");
    delivered(&exporter, "one");
    delivered(&exporter, "two");
    // One more is on its way when the program is killed: nobody knows whether it arrived.
    hook.answer(Reply::Reset);
    set_open(&stores[2].1, true);
    let on_its_way = |hook: &Hook| {
        let posts = hook.posts();
        let post =
            posts.into_iter().find(|post| post.received().iter().any(|t| t.store == "three"));
        post.map(|post| post.headers["webhook-id"].clone())
    };
    let id = wait_for("the attempt", SOON, || on_its_way(&hook));
    exporter.wait_page("a failed attempt", SOON, |page| {
        let failed = "chroma_exporter_notifications_failed_total";
        page.all(failed, &[("receiver", "hook")]).any(|(_, count)| count > 0.0)
    });
    drop(exporter);
    remount("ro");
    hook.answer(Reply::Say(200, "", "ok"));
    // One of them is mended while nobody looks.
    set_open(&stores[1].1, false);

    let exporter = start();
    wait_told(&hook, "two", OPEN, "resolved");
    wait_told(&hook, "three", OPEN, "firing");
    let again = hook
        .posts()
        .into_iter()
        .rfind(|p| p.taken && p.received().iter().any(|t| t.store == "three"));
    assert!(
        hook.posts().iter().any(|post| post.taken && post.headers["webhook-id"] == id),
        "the same id as before the restart: {again:?}"
    );
    exporter.wait_page("the page to say that nothing is kept", SOON, |page| {
        page.get("chroma_exporter_alert_state_persistent", &[]) == Some(0.0)
            && page.get("chroma_exporter_state_persistent", &[]) == Some(0.0)
    });
    assert!(exporter.log().contains("State directory cannot be written"), "{}", exporter.log());
    assert_eq!(hook.count("one", OPEN, "firing"), 1);

    // It can be written again, and then it is: the next restart knows all of it.
    remount("rw");
    exporter.wait_page("the state to be written again", SOON, |page| {
        page.get("chroma_exporter_alert_state_persistent", &[]) == Some(1.0)
    });
    drop(exporter);
    let exporter = start();
    set_open(&stores[0].1, false);
    set_open(&stores[2].1, false);
    wait_told(&hook, "one", OPEN, "resolved");
    wait_told(&hook, "three", OPEN, "resolved");
    for (name, _) in &stores {
        for status in ["firing", "resolved"] {
            assert_eq!(hook.count(name, OPEN, status), 1, "{name} {status}; {}", exporter.log());
        }
    }
}

/// Everything of a file or directory that could be changed through a link to it.
fn facts(path: &Path) -> (Vec<u8>, u32, u32, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::symlink_metadata(path).unwrap();
    let bytes = if meta.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    (bytes, meta.mode(), meta.uid(), meta.mtime_nsec(), meta.ctime_nsec())
}

#[test]
fn root_follows_no_link_that_is_planted_in_a_state_directory() {
    use std::os::unix::fs::{MetadataExt, chown, symlink};
    const OTHER: u32 = 12_345;
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let hook = Hook::start();
    let config = write_config(
        scratch.path(),
        &[("main".to_owned(), store.clone())],
        &format!("receivers:\n{}", receiver("hook", &hook, "    group_interval: 0s\n")),
    );
    let (state, victims) = (scratch.path().join("state"), scratch.path().join("victims"));
    for dir in [&state, &victims] {
        fs::create_dir(dir).unwrap();
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&state, Some(OTHER), Some(OTHER)).unwrap();
    let victim = victims.join("victim");
    fs::write(&victim, "").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).unwrap();
    let book =
        ["alerts.sqlite3", "alerts.sqlite3-wal", "alerts.sqlite3-shm", "alerts.sqlite3-journal"];
    let plant = |names: &[&str]| {
        for name in names {
            drop(fs::remove_file(state.join(name)));
            // One to a file that is there, and one to where none is.
            let target = if name.len() % 2 == 0 { victim.clone() } else { victims.join(name) };
            symlink(target, state.join(name)).unwrap();
        }
    };
    let before = (facts(&victim), facts(&victims));
    let untouched = |after: &str| {
        assert_eq!((facts(&victim), facts(&victims)), before, "{after}");
    };
    plant(&book);
    plant(&["lock", "trial.tmp"]);

    // It is somebody else's: the program says so and does not start.
    let serve = || support::run(&["--config.file", &config, "--web.listen-address", "127.0.0.1:0"]);
    let refused = serve();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("belongs to the user 12345") && said.contains("chown"), "{said}");
    untouched("serve in the directory of another user");
    // Reading beside it is nobody's harm.
    support::run(&["check", "--quick", "--config.file", &config]);
    untouched("check beside it");

    // `silence` becomes that user, in that directory alone.
    let silence = |args: &[&str]| {
        let mut all = vec!["silence", "--config.file", &config];
        all.extend(args);
        let out = support::run(&all);
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8(text).unwrap())
    };
    let add = ["add", "--store", "main", "--for", "1h", "--comment", "moving"];
    for name in book {
        for other in book {
            drop(fs::remove_file(state.join(other)));
        }
        plant(&[name]);
        let (well, said) = silence(&add);
        assert!(!well && said.contains("is a link"), "{name}: {said}");
        untouched(name);
    }
    drop(fs::remove_file(state.join(book[3])));
    let (well, said) = silence(&add);
    assert!(well, "{said}");
    let made = fs::metadata(state.join(book[0])).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (OTHER, 0o600), "for the exporter of that user");
    assert!(silence(&["list"]).1.contains("moving"));
    untouched("silence");

    // Given to root with all that lies in it.
    chown(&state, Some(0), Some(0)).unwrap();
    let refused = String::from_utf8(serve().stderr).unwrap();
    assert!(refused.contains("lock: it is a link"), "{refused}");
    fs::remove_file(state.join("lock")).unwrap();
    for name in book {
        plant(&[name]);
        let exporter = Exporter::start(&["--config.file", &config]);
        exporter.ready();
        exporter.wait_page("the page to say that nothing is kept", SOON, |page| {
            page.has("chroma_exporter_alert_state_persistent", &[], |kept| kept == 0.0)
        });
        assert!(exporter.log().contains("is a link"), "{}", exporter.log());
        assert!(exporter.stop().success());
        fs::remove_file(state.join(name)).unwrap();
        untouched(name);
    }
}

fn set_open(store: &Path, open: bool) {
    let mode = if open { 0o646 } else { 0o644 };
    fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(mode)).unwrap();
}

/// Many stores that hold no more than the collector under test looks at.
fn many(scratch: &Path, count: usize) -> Vec<(String, PathBuf)> {
    (0..count)
        .map(|n| {
            let dir = scratch.join(format!("s{n}"));
            fs::create_dir(&dir).unwrap();
            let from = Path::new(env!("CARGO_MANIFEST_DIR"));
            fs::copy(
                from.join("tests/fixtures/chroma-1.5.9/chroma.sqlite3"),
                dir.join("chroma.sqlite3"),
            )
            .unwrap();
            set_open(&dir, false);
            (format!("s{n}"), dir)
        })
        .collect()
}

const ONLY_PERMISSIONS: &str = "collectors:\n  disk: false\n  integrity: false\n  contents: false\n  processes: false\n  backups: false\n";

/// Twenty stores break and heal again and again, each step held until the receiver has heard of it, while the program is
/// killed at random moments and the receiver answers badly now and then.
#[test]
fn kills_at_random_points_lose_nothing_and_double_nothing() {
    const STORES: usize = 20;
    const ROUNDS: usize = 10;
    let scratch = tempfile::tempdir().unwrap();
    let stores = many(scratch.path(), STORES);
    let hook = Arc::new(Hook::start());
    let config = write_config(
        scratch.path(),
        &stores,
        &format!(
            "{ONLY_PERMISSIONS}collect:\n  interval: 200ms\nreceivers:\n{}",
            receiver("hook", &hook, "    group_interval: 0s\n    timeout: 2s\n")
        ),
    );
    // A first quiet run learns the permissions.
    let exporter = Exporter::start(&["--config.file", &config]);
    exporter.ready();
    assert!(exporter.stop().success());

    let done = Arc::new(AtomicBool::new(false));
    let toggles: Vec<_> = stores
        .iter()
        .cloned()
        .map(|(name, dir)| {
            let (hook, name) = (Arc::clone(&hook), name.clone());
            std::thread::spawn(move || {
                for round in 1..=ROUNDS {
                    for (open, status) in [(true, "firing"), (false, "resolved")] {
                        set_open(&dir, open);
                        let what = format!("{name} round {round} {status}");
                        wait_for(&what, Duration::from_mins(4), || {
                            (hook.count(&name, OPEN, status) >= round).then_some(())
                        });
                    }
                }
            })
        })
        .collect();
    let killer = {
        let (done, hook, config) = (Arc::clone(&done), Arc::clone(&hook), config.clone());
        std::thread::spawn(move || {
            let mut dice = Random(0x9e37_79b9_7f4a_7c15);
            let mut kills = 0;
            let mut log = String::new();
            while !done.load(Ordering::Relaxed) {
                let exporter = Exporter::start(&["--config.file", &config]);
                let mood = match dice.below(6) {
                    0 => Reply::Reset,
                    1 => Reply::Say(503, "", "no"),
                    _ => Reply::Say(200, "", "ok"),
                };
                // Every third life lasts until something was told in it, or a slow machine would never come to that.
                let useful = kills % 3 == 2;
                let before = hook.posts().len();
                hook.answer(if useful { Reply::Say(200, "", "ok") } else { mood });
                std::thread::sleep(Duration::from_millis(100 + dice.below(1300)));
                while useful && hook.posts().len() == before && !done.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                log = exporter.log();
                drop(exporter);
                kills += 1;
                hook.answer(Reply::Say(200, "", "ok"));
            }
            (kills, log)
        })
    };
    let failed: Vec<_> = toggles.into_iter().filter_map(|toggle| toggle.join().err()).collect();
    done.store(true, Ordering::Relaxed);
    let (kills, log) = killer.join().unwrap();
    assert!(failed.is_empty(), "{} stores lost an alert after {kills} kills; {log}", failed.len());

    // The ledger: one id has one text; each episode fires and ends under one id each, the end after the firing.
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut order: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for post in hook.posts() {
        let id = post.headers["webhook-id"].clone();
        let before = texts.entry(id.clone()).or_insert_with(|| post.text.clone());
        assert_eq!(*before, post.text, "one id, two texts");
        for reported in post.received().into_iter().filter(|reported| reported.name == OPEN) {
            let key = (reported.store.clone(), reported.starts_at.clone());
            // An alert that stands beside the news of its group is no second telling.
            if seen.insert((key.clone(), reported.status.clone())) {
                order.entry(key).or_default().push(reported.status);
            }
        }
    }
    assert!(order.len() >= STORES * ROUNDS, "{} episodes", order.len());
    for (key, statuses) in &order {
        assert_eq!(statuses, &["firing", "resolved"], "{key:?} after {kills} kills");
    }
    println!("{} episodes, {} posts, {kills} kills", order.len(), hook.posts().len());
}

#[test]
fn two_hundred_stores_that_flap_stay_bounded_and_a_dead_receiver_delays_no_other() {
    const STORES: usize = 200;
    let scratch = tempfile::tempdir().unwrap();
    let stores = many(scratch.path(), STORES);
    let (well, dead) = (Hook::start(), Hook::start());
    dead.answer(Reply::Hang(Duration::from_mins(20)));
    let config = write_config(
        scratch.path(),
        &stores,
        &format!(
            "{ONLY_PERMISSIONS}collect:\n  interval: 1s\nreceivers:\n{}{}",
            receiver("well", &well, ""),
            receiver("dead", &dead, "    timeout: 2m\n")
        ),
    );
    let exporter = Exporter::start(&["--config.file", &config]);
    exporter.ready();
    let began = support::now();
    let mut open = true;
    for (_, dir) in &stores {
        set_open(dir, open);
    }
    wait_for("a message beside a receiver that hangs", SOON, || {
        (!well.posts().is_empty()).then_some(())
    });
    let failed = [("receiver", "dead")];
    let page = exporter.page();
    let failed = page.all("chroma_exporter_notifications_failed_total", &failed);
    assert_eq!(failed.map(|(_, count)| count).sum::<f64>(), 0.0, "that one was not waited for");
    while began.elapsed() < Duration::from_secs(40) {
        open = !open;
        for (_, dir) in &stores {
            set_open(dir, open);
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    let (posts, lasted) = (well.posts(), began.elapsed());
    assert!(!posts.is_empty(), "a message");
    // However many stores flap, at most so many messages a second.
    let most = 1.5 * lasted.as_secs_f64();
    assert!((posts.len() as f64) < most, "{} messages in {lasted:?}", posts.len());
    for (_, dir) in &stores {
        set_open(dir, false);
    }
    for (name, _) in &stores {
        wait_for(&format!("the end of {name}"), 2 * SOON, || {
            (well.count(name, OPEN, "resolved") > 0).then_some(())
        });
    }
    let page = exporter.page();
    assert!(page.value("chroma_exporter_notification_queue_length", &[("receiver", "dead")]) > 0.0);
    let memory = page.value("process_resident_memory_bytes", &[]);
    assert!(memory < 500e6, "{memory} bytes resident");
    println!("{} messages, {memory} bytes resident", well.posts().len());
}
