//! From a fault to the first byte of the webhook, default settings, built as it ships; beside it Prometheus (scrape and
//! evaluation each second, `for: 0`) with Alertmanager (`group_wait: 0s`) on the same fault in the same run, when Debian's
//! packages are installed. Faults of the disk need root for a tmpfs.
//!
//! `cargo bench --bench alert [ROUNDS]`; the targets are a median of 75 ms and a maximum of 200 ms where the kernel tells of the
//! fault, 150 and 400 ms for a disk that is filled from outside the store, and 300 ms at most for a second writer.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use support::hook::{self, Hook};
use support::{Exporter, SOON, fixture, get, wait_for};

/// Something that breaks and is mended again.
struct Fault {
    name: &'static str,
    alert: &'static str,
    apply: Box<dyn FnMut()>,
    mend: Box<dyn FnMut()>,
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Tmpfs(PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(20);
    let scratch = tempfile::tempdir().unwrap();
    let disk = tmpfs(&scratch.path().join("disk"));
    let store = fixture("chroma-1.5.9", disk.as_ref().map_or(scratch.path(), |disk| &disk.0));
    mode(&store, 0o644);
    let hook = Hook::start();
    let config = scratch.path().join("config.yml");
    let text = format!(
        "state:\n  dir: {}\nstores:\n  - name: main\n    path: {}\nreceivers:\n  - name: hook\n    type: webhook\n    url: {}\n    group_interval: 0s\n",
        scratch.path().join("state").display(),
        store.display(),
        hook.url()
    );
    fs::write(&config, text).unwrap();
    let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
    exporter.ready();
    let mut faults = faults(&store);
    if let Some(disk) = &disk {
        faults.push(fill("disk past 80 %", &store));
        faults.push(fill("from outside the store", &disk.0));
    }
    println!("{:<22} {:>8} {:>8} {:>8}  ms from fault to request", "fault", "min", "median", "max");
    for fault in &mut faults {
        let mut times = Vec::new();
        for round in 0..rounds {
            // Not in step with the runs of the collectors.
            std::thread::sleep(Duration::from_millis(300 + 37 * (round % 17)));
            let at = support::now();
            (fault.apply)();
            times.push(heard(&hook, fault.alert, "firing", at));
            let at = support::now();
            (fault.mend)();
            heard(&hook, fault.alert, "resolved", at);
        }
        print(fault.name, &mut times);
    }
    drop(exporter);
    if disk.is_some() {
        peers(scratch.path(), &store, &mut fill("", &store), rounds.min(10));
    }
}

/// When the first post after `at` told this; the time from `at` to it.
fn heard(hook: &Hook, alert: &str, status: &str, at: Instant) -> Duration {
    wait_for(&format!("{alert} {status}"), SOON, || {
        hook.posts().into_iter().filter(|post| post.at > at).find_map(|post| {
            let fits = |t: &hook::ReceivedAlert| t.name == alert && t.status == status;
            post.received().iter().any(fits).then(|| post.at.duration_since(at))
        })
    })
}

fn print(name: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1e3;
    let last = times.len() - 1;
    println!("{name:<22} {:>8.1} {:>8.1} {:>8.1}", ms(0), ms(last / 2), ms(last));
}

fn mode(store: &Path, mode: u32) {
    fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(mode)).unwrap();
}

fn faults(store: &Path) -> Vec<Fault> {
    let database = store.join("chroma.sqlite3");
    let whole = fs::read(&database).unwrap();
    let aside = store.with_extension("aside");
    // Opened for the moment only: whoever keeps it open is a writer.
    let open = |path: &Path| fs::OpenOptions::new().write(true).open(path).unwrap();
    let paths: [PathBuf; 4] = std::array::from_fn(|_| database.clone());
    let [cut, grown, broken, mended] = paths;
    let (half, tail) = (whole.len() / 2, whole[whole.len() / 2..].to_vec());
    let header = whole[..16].to_vec();
    let (one, two) = (store.to_owned(), store.to_owned());
    let (from, to) = (database.clone(), aside.clone());
    let (back, there) = (aside, database.clone());
    let server = hold(&database);
    let extra = std::rc::Rc::new(std::cell::RefCell::new(None));
    let extra_again = std::rc::Rc::clone(&extra);
    vec![
        Fault {
            name: "world writable",
            alert: "ChromaPermissionWorldWritable",
            apply: Box::new(move || mode(&one, 0o646)),
            mend: Box::new(move || mode(&two, 0o644)),
        },
        Fault {
            name: "second writer",
            alert: "ChromaSecondWriter",
            apply: Box::new(move || {
                let _beside = &server;
                *extra.borrow_mut() = Some(hold(&database));
            }),
            mend: Box::new(move || drop(extra_again.borrow_mut().take())),
        },
        Fault {
            name: "truncated",
            alert: "ChromaSqliteTruncated",
            apply: Box::new(move || open(&cut).set_len(half as u64).unwrap()),
            mend: Box::new(move || open(&grown).write_all_at(&tail, half as u64).unwrap()),
        },
        Fault {
            name: "broken header",
            alert: "ChromaSqliteNotADatabase",
            apply: Box::new(move || open(&broken).write_all_at(&[0x55; 16], 0).unwrap()),
            mend: Box::new(move || open(&mended).write_all_at(&header, 0).unwrap()),
        },
        Fault {
            name: "deleted",
            alert: "ChromaSqliteMissing",
            apply: Box::new(move || fs::rename(&from, &to).unwrap()),
            mend: Box::new(move || fs::rename(&back, &there).unwrap()),
        },
    ]
}

/// A process that has the database open for writing.
fn hold(database: &Path) -> Killed {
    let script = "exec 3<>\"$1\"; exec sleep 600";
    let child = Command::new("sh").args(["-c", script, "sh"]).arg(database).spawn().unwrap();
    Killed(child)
}

/// Fills the filesystem of the store with a file in `dir`.
fn fill(name: &'static str, dir: &Path) -> Fault {
    let (filler, again) = (dir.join("filler"), dir.join("filler"));
    Fault {
        name,
        alert: "ChromaDiskUsageHigh",
        apply: Box::new(move || fs::write(&filler, vec![1; 16_500_000]).unwrap()),
        mend: Box::new(move || fs::remove_file(&again).unwrap()),
    }
}

fn tmpfs(at: &Path) -> Option<Tmpfs> {
    fs::create_dir_all(at).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=20m", "tmpfs"])
        .arg(at)
        .stderr(Stdio::null())
        .status();
    let mounted = mount.is_ok_and(|status| status.success());
    if !mounted {
        println!("no tmpfs here, so nothing of disks");
    }
    mounted.then(|| Tmpfs(at.to_owned()))
}

/// The same fault of the disk by way of Prometheus and Alertmanager.
fn peers(scratch: &Path, store: &Path, fault: &mut Fault, rounds: u64) {
    let installed = ["prometheus", "prometheus-alertmanager"].iter().all(|program| {
        Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    if !installed {
        println!(
            "prometheus and prometheus-alertmanager are not installed, so nothing to compare with"
        );
        return;
    }
    let hook = Hook::start();
    let exporter = Exporter::start(&[
        "--store.path".to_owned(),
        format!("main={}", store.display()),
        "--state.dir".to_owned(),
        String::new(),
    ]);
    exporter.ready();
    let (prometheus, alertmanager) = (free_address(), free_address());
    let write = |name: &str, text: String| {
        let file = scratch.join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let rules = write(
        "rules.yml",
        format!(
            "groups:\n- name: g\n  interval: 1s\n  rules:\n  - alert: {}\n    expr: chroma_disk_used_ratio >= 0.8\n",
            fault.alert
        ),
    );
    let config = write(
        "prometheus.yml",
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\nalerting:\n  alertmanagers:\n  - static_configs: [{{targets: ['{alertmanager}']}}]\nscrape_configs:\n- job_name: c\n  static_configs: [{{targets: ['{}']}}]\n",
            exporter.address
        ),
    );
    let routes = write(
        "alertmanager.yml",
        format!(
            "route: {{receiver: h, group_by: [alertname], group_wait: 0s, group_interval: 1s}}\nreceivers:\n- name: h\n  webhook_configs: [{{url: '{}'}}]\n",
            hook.url()
        ),
    );
    let start = |program: &str, args: &[String]| {
        let mut command = Command::new(program);
        Killed(command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    let _alertmanager = start(
        "prometheus-alertmanager",
        &[
            format!("--config.file={routes}"),
            format!("--storage.path={}", scratch.join("am").display()),
            format!("--web.listen-address={alertmanager}"),
            "--cluster.listen-address=".to_owned(),
        ],
    );
    let _prometheus = start(
        "prometheus",
        &[
            format!("--config.file={config}"),
            format!("--storage.tsdb.path={}", scratch.join("tsdb").display()),
            format!("--web.listen-address={prometheus}"),
        ],
    );
    for address in [prometheus, alertmanager] {
        wait_for("the peers to listen", SOON, || std::net::TcpStream::connect(address).ok());
    }
    wait_for("Prometheus to be ready", SOON, || {
        (get(prometheus, "/-/ready").status == 200).then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    let mut times = Vec::new();
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(300 + 137 * (round % 7)));
        let at = support::now();
        (fault.apply)();
        times.push(heard(&hook, fault.alert, "firing", at));
        let at = support::now();
        (fault.mend)();
        heard(&hook, fault.alert, "resolved", at);
    }
    print("the same, by peers", &mut times);
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
