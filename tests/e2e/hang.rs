//! A mount whose server is away: a real FUSE filesystem that is stopped while the exporter watches a store on it. It
//! costs one thread and gives `device_error 1`; the other store goes on as if nothing had happened.

use crate::support::{self, Exporter, SOON, fixture, hook, signal, wait_for};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A passthrough FUSE mount; unmounted when dropped.
struct Mount {
    daemon: Child,
    at: PathBuf,
    /// Where the kernel tells of its FUSE connections; mounted here because not every machine has it in its place.
    control: PathBuf,
    /// The number that the connection has there.
    device: u32,
}

impl Mount {
    fn of(source: &Path, at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let daemon = Command::new("bindfs")
            .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
            .args([source, at])
            .stderr(Stdio::null())
            .spawn()
            .expect("bindfs");
        let device =
            |path: &Path| fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::dev(&meta));
        let below = device(at.parent().unwrap()).unwrap();
        wait_for("the FUSE mount", SOON, || {
            device(at).is_ok_and(|device| device != below).then_some(())
        });
        let control = at.with_extension("control");
        fs::create_dir(&control).unwrap();
        let told =
            Command::new("mount").args(["-t", "fusectl", "none"]).arg(&control).status().unwrap();
        assert!(told.success());
        let device = rustix::fs::minor(device(at).unwrap());
        Self { daemon, at: at.to_owned(), control, device }
    }

    /// Stops the server at a moment when it has no question in hand. The kernel lets go of a process that waits for a server, but not of
    /// one whose question the server has already read: that one could not even be killed.
    fn hang(&self) {
        let daemon = self.daemon.id();
        let waiting = self.control.join(self.device.to_string()).join("waiting");
        wait_for("the server to have answered all", SOON, || {
            signal(daemon, "STOP");
            wait_for("it to stand still", SOON, || is_stopped(daemon).then_some(()));
            if fs::read_to_string(&waiting).unwrap().trim() == "0" {
                return Some(());
            }
            signal(daemon, "CONT");
            None
        });
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Killing the daemon aborts what waits for it; the lazy unmount then always succeeds.
        drop(self.daemon.kill());
        drop(self.daemon.wait());
        drop(Command::new("umount").arg("-l").args([&self.at, &self.control]).status());
    }
}

#[test]
fn a_hung_mount_costs_one_thread_and_hides_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("chroma-1.5.9", scratch.path());
    let mount = Mount::of(&source, &scratch.path().join("mounted"));
    let healthy = scratch.path().join("healthy");
    support::copy_tree(&source, &healthy);

    let state = scratch.path().join("state");
    let far = format!("far={}", mount.at.display());
    let near = format!("near={}", healthy.display());
    let exporter = Exporter::start(&[
        "--store.path",
        &far,
        "--store.path",
        &near,
        "--state.dir",
        state.to_str().unwrap(),
    ]);
    exporter.ready();
    exporter.wait_page("no error", SOON, |page| {
        page.get("chroma_disk_device_error", &[("store", "far")]) == Some(0.0)
    });

    mount.hang();
    let disk = [("store", "far"), ("collector", "disk")];
    let page = exporter.wait_page("device_error 1", SOON, |page| {
        page.get("chroma_disk_device_error", &[("store", "far")]) == Some(1.0)
    });
    assert_eq!(
        page.get("chroma_disk_avail_bytes", &[("store", "far")]),
        None,
        "an old value would pretend to be a new one"
    );
    assert!(page.value("chroma_exporter_collector_success", &disk) < 1.0);
    assert!(
        page.findings("far").iter().all(|code| !code.starts_with("sqlite")),
        "{:?}",
        page.findings("far")
    );

    // Several runs later: still one thread, and the other store is read as before.
    let last_run = |page: &support::Page| {
        page.value(
            "chroma_exporter_collector_last_run_timestamp_seconds",
            &[("store", "near"), ("collector", "disk")],
        )
    };
    let before = last_run(&exporter.page());
    exporter.wait_page("turns of the other store", SOON, |page| {
        let integrity = [("store", "near"), ("collector", "integrity")];
        last_run(page) > before + 12.0
            && page.get("chroma_exporter_collector_success", &integrity) == Some(1.0)
    });
    one_is_stuck(&exporter);

    signal(mount.daemon.id(), "CONT");
    exporter.wait_page("the store to come back", SOON, |page| {
        page.get("chroma_disk_device_error", &[("store", "far")]) == Some(0.0)
            && page.get("chroma_disk_avail_bytes", &[("store", "far")]).is_some()
    });
}

/// A state disk that needs seconds for an answer while the program starts: what it was told before is waited for.
#[test]
fn a_slow_state_disk_at_the_start_doubles_no_alert() {
    const OPEN: &str = "ChromaPermissionWorldWritable";
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let set_open = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(store.join("chroma.sqlite3"), mode).unwrap();
    };
    set_open(0o644);
    let disk = scratch.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = Mount::of(&disk, &scratch.path().join("slow"));
    let hook = hook::Hook::start();
    let config = scratch.path().join("config.yml");
    let text = format!(
        "state:\n  dir: {}\nstores:\n  - name: main\n    path: {}\nreceivers:\n  - name: hook\n    type: webhook\n    url: {}\n    group_interval: 0s\n",
        mount.at.join("state").display(),
        store.display(),
        hook.url()
    );
    fs::write(&config, text).unwrap();
    let start = || Exporter::start(&["--config.file", config.to_str().unwrap()]);
    let exporter = start();
    exporter.ready();
    set_open(0o646);
    let firing = ("chroma_alert_firing", [("alert", OPEN)]);
    exporter.wait_page("the alert, told and noted", SOON, |page| {
        page.get(firing.0, &firing.1) == Some(1.0)
            && hook.count("main", OPEN, "firing") == 1
            && page.get("chroma_exporter_notification_queue_length", &[]) == Some(0.0)
            && page.get("chroma_exporter_alert_state_persistent", &[]) == Some(1.0)
    });
    drop(exporter); // killed

    mount.hang();
    let daemon = mount.daemon.id();
    let goes_on = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(8));
        signal(daemon, "CONT");
    });
    let exporter = start();
    goes_on.join().unwrap();
    exporter.wait_page("the alert after the restart", SOON, |page| {
        page.get(firing.0, &firing.1) == Some(1.0)
            && page.get("chroma_exporter_alert_state_persistent", &[]) == Some(1.0)
    });
    set_open(0o644);
    wait_for("its end", SOON, || (hook.count("main", OPEN, "resolved") == 1).then_some(()));
    assert_eq!(hook.count("main", OPEN, "firing"), 1, "{}", exporter.log());
}

#[test]
fn check_says_which_store_hangs_and_all_about_the_others() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("chroma-1.5.9", scratch.path());
    let mount = Mount::of(&source, &scratch.path().join("mounted"));
    mount.hang();
    let far = format!("--store.path=far={}", mount.at.display());
    let near = format!("--store.path=near={}", source.display());

    let output = support::run(&["check", "--state.dir=", "--output=json", &far, &near]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = |store: usize| document["stores"][store]["problems"].as_array().unwrap();
    assert!(
        problems(0).iter().any(|p| p["problem"].as_str().unwrap().contains("has not answered")),
        "{document:#}"
    );
    assert_eq!(document["stores"][0]["integrity"], serde_json::json!({}), "nothing is made up");
    assert_eq!(problems(1).len(), 0, "{document:#}");
    assert!(output.status.code().unwrap() > 0, "a store that hangs is not well");
}

#[test]
fn with_a_hung_mount_the_program_still_ends_within_its_grace() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("chroma-1.5.9", scratch.path());
    let mount = Mount::of(&source, &scratch.path().join("mounted"));
    let exporter =
        Exporter::start(&["--state.dir", "", "--store.path", mount.at.to_str().unwrap()]);
    exporter.ready();
    mount.hang();
    exporter.wait_page("device_error 1", SOON, |page| {
        page.get("chroma_disk_device_error", &[]) == Some(1.0)
    });
    // The mount never answers: to end at all is to wait for it no longer than the grace.
    assert!(exporter.stop().success());
}

#[test]
fn a_hung_mount_of_backups_costs_their_collector_one_thread_and_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let copies = scratch.path().join("copies");
    let backup = copies.join("store.1");
    support::copy_tree(&store, &backup);
    let copy = backup.join("chroma.sqlite3");
    let hour_ago = fs::metadata(&copy).unwrap().modified().unwrap() - Duration::from_hours(1);
    let times = fs::FileTimes::new().set_modified(hour_ago);
    fs::File::options().write(true).open(&copy).unwrap().set_times(times).unwrap();
    let mount = Mount::of(&copies, &scratch.path().join("mounted"));
    let config = scratch.path().join("exporter.yaml");
    let yaml = format!(
        "stores:\n  - name: main\n    path: {}\n    backups: [\"{}/store.*\", \"{}/none*\"]\ncollect:\n  backups_interval: 1s\n",
        store.display(),
        mount.at.display(),
        scratch.path().display()
    );
    fs::write(&config, yaml).unwrap();
    let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
    let success = |page: &support::Page, collector| {
        page.get("chroma_exporter_collector_success", &[("collector", collector)])
    };
    exporter.ready();
    let page =
        exporter.wait_page("the backup", SOON, |page| page.get("chroma_backups", &[]) == Some(1.0));
    assert!(page.findings("main").iter().all(|code| code != "backup_missing"), "{}", page.text);

    mount.hang();
    let page = exporter.wait_page("the backups to be out of reach", SOON, |page| {
        success(page, "backups") == Some(0.0)
    });
    assert_eq!(page.get("chroma_backups", &[]), None, "not known is not zero");
    let runs = |page: &support::Page, collector| {
        let name = "chroma_exporter_collector_last_run_timestamp_seconds";
        page.value(name, &[("collector", collector)])
    };
    let (disk, backups) = (runs(&page, "disk"), runs(&page, "backups"));
    let page = exporter.wait_page("several turns, and that the others go well", SOON, |page| {
        runs(page, "disk") > disk + 9.0
            && runs(page, "backups") > backups + 9.0
            && ["disk", "integrity", "contents", "processes", "permissions"]
                .iter()
                .all(|collector| success(page, collector) == Some(1.0))
    });
    let said = page.findings("main");
    assert!(
        ["backup_missing", "backup_stale", "backup_invalid"]
            .iter()
            .all(|c| !said.contains(&(*c).to_owned())),
        "a backup that cannot be reached is not gone: {said:?}"
    );
    one_is_stuck(&exporter);
    wait_for("the log to say it", SOON, || {
        exporter.log().contains("has not answered").then_some(())
    });

    signal(mount.daemon.id(), "CONT");
    exporter.wait_page("the backups to come back", SOON, |page| {
        success(page, "backups") == Some(1.0) && page.get("chroma_backups", &[]) == Some(1.0)
    });
}

/// At most one thread waits for the mount. One that waits for another disk is through in a moment, those stay.
fn one_is_stuck(exporter: &Exporter) {
    let pid = exporter.pid();
    wait_for("no more than one thread to be stuck", SOON, || {
        (threads_in_state(pid, 'D') + blocked_questions(pid) <= 1).then_some(())
    });
}

fn is_stopped(pid: u32) -> bool {
    let all = thread_stats(pid).len();
    threads_in_state(pid, 'T') == all
}

fn threads_in_state(pid: u32, state: char) -> usize {
    thread_stats(pid)
        .iter()
        .filter(|stat| {
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(state))
        })
        .count()
}

/// Threads that wait for `statvfs` show as sleeping in FUSE.
fn blocked_questions(pid: u32) -> usize {
    thread_stats(pid)
        .iter()
        .filter(|stat| stat.contains("(statvfs)") && stat.contains(") S"))
        .count()
}

fn thread_stats(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok()).collect()
}
