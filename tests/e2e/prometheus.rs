//! Real Chroma under load, the exporter, and a real Prometheus that scrapes it: what PromQL answers is held against what
//! `df`, `stat`, `pgrep`, `ps` and `sqlite3` say.

use crate::support::{Exporter, SOON, chroma, prometheus::Prometheus};
use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A small filesystem of its own, so that nobody else changes its numbers; unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, mebibytes: u32) -> Self {
        fs::create_dir(at).unwrap();
        let size = format!("size={mebibytes}m");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs needs root");
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn scraping(target: SocketAddr, dir: &Path) -> Prometheus {
    let config = format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  - job_name: chroma\n    static_configs:\n      - targets: ['{target}']\n"
    );
    Prometheus::start(&config, dir)
}

fn output(program: &str, args: &[&str]) -> String {
    let out =
        Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn number(program: &str, args: &[&str]) -> f64 {
    let text = output(program, args);
    text.lines()
        .last()
        .unwrap_or_default()
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{program} {args:?}: {text}"))
}

/// Waits until the query gives what the host says, which is asked anew each time: a server that has nothing to do still tidies
/// up now and then.
fn agrees(prometheus: &Prometheus, query: &str, tolerance: f64, truth: impl Fn() -> f64) {
    prometheus.wait(query, |value| near(value, truth(), tolerance));
}

fn near(value: f64, truth: f64, tolerance: f64) -> bool {
    (value - truth).abs() <= tolerance
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn prometheus_sees_what_the_host_says() {
    let scratch = tempfile::tempdir().unwrap();
    let tmpfs = Tmpfs::mount(&scratch.path().join("disk"), 256);
    let dir = tmpfs.0.join("store");
    fs::create_dir(&dir).unwrap();
    let server = chroma::Server::start("1.5.9", &dir);
    let load = server.start_load(20);

    let backups = scratch.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let config = scratch.path().join("config.yml");
    let text = format!(
        "state:\n  dir: {}\nstores:\n  - name: main\n    path: {}\n    backups: [\"{}/chroma_db.backup.*\"]\ncollect:\n  interval: 1s\n  \
         contents_interval: 1s\n  backups_interval: 1s\n",
        scratch.path().join("state").display(),
        dir.display(),
        backups.display()
    );
    fs::write(&config, text).unwrap();
    let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
    let prometheus = scraping(exporter.address, scratch.path());
    prometheus.wait("up{job=\"chroma\"}", |up| up > 0.5);
    let ledger = load.wait_with_output().unwrap();
    assert!(ledger.status.success());

    // Everything is quiet now: numbers must be equal, not near.
    let path = dir.to_str().unwrap();
    let database = dir.join("chroma.sqlite3");
    let database = database.to_str().unwrap();
    for (series, column) in [
        ("chroma_disk_size_bytes", "size"),
        ("chroma_disk_avail_bytes", "avail"),
        ("chroma_disk_inodes_free", "iavail"),
    ] {
        let column = format!("--output={column}");
        agrees(&prometheus, series, 0.0, || number("df", &["-B1", &column, path]));
    }
    agrees(&prometheus, "ceil(chroma_disk_used_ratio * 100)", 0.0, || {
        let percent = output("df", &["--output=pcent", path]);
        percent.lines().last().unwrap().trim().trim_end_matches('%').parse().unwrap()
    });
    let of_sqlite = "chroma_store_apparent_bytes{class=\"sqlite\"}";
    agrees(&prometheus, of_sqlite, 0.0, || number("stat", &["-c", "%s", database]));
    let sum = format!("find {path} -type f -printf '%s\\n' | awk '{{s+=$1}} END {{print s}}'");
    agrees(&prometheus, "sum(chroma_store_apparent_bytes)", 0.0, || number("sh", &["-c", &sum]));
    for (series, query) in [
        ("chroma_records", "SELECT count(*) FROM embeddings"),
        ("chroma_collections", "SELECT count(*) FROM collections"),
        ("chroma_queue_records", "SELECT count(*) FROM embeddings_queue"),
        (
            "chroma_migrations_applied{dir=\"sysdb\"}",
            "SELECT count(*) FROM migrations WHERE dir='sysdb'",
        ),
    ] {
        agrees(&prometheus, series, 0.0, || number("sqlite3", &["-readonly", database, query]));
    }

    // Who holds it.
    let holders = number("pgrep", &["-c", "-f", &format!("chroma run .*--path {path}$")]);
    prometheus.wait("chroma_processes{access=\"write\"}", |value| near(value, holders, 0.0));
    let pid = server.child.id().to_string();
    prometheus.wait("chroma_process_resident_memory_bytes", |value| {
        near(value, number("ps", &["-o", "rss=", "-p", &pid]) * 1024.0, value * 0.1)
    });
    let started = number("date", &["+%s", "-d", &output("ps", &["-o", "lstart=", "-p", &pid])]);
    prometheus.wait("chroma_process_start_timestamp_seconds", |value| near(value, started, 2.0));
    let list = format!("ls /proc/{pid}/fd | wc -l");
    agrees(&prometheus, "chroma_process_open_fds", 3.0, || number("sh", &["-c", &list]));

    // A backup as the usual cron line makes it.
    let day = output("date", &["-d", "12 hours ago", "+%Y%m%d"]);
    let archive = backups.join(format!("chroma_db.backup.{day}.tar.gz"));
    let status = Command::new("tar")
        .arg("-czf")
        .arg(&archive)
        .arg("-C")
        .arg(&tmpfs.0)
        .arg("store")
        .status()
        .unwrap();
    assert!(status.success());
    let yesterday =
        Command::new("touch").args(["-d", "12 hours ago"]).arg(&archive).status().unwrap();
    assert!(yesterday.success());
    let moment = number("stat", &["-c", "%Y", archive.to_str().unwrap()]);
    prometheus
        .wait("chroma_backup_last_success_timestamp_seconds", |value| near(value, moment, 1.0));
    prometheus.wait("chroma_backup_age_seconds", |value| near(value, 12.0 * 3600.0, 600.0));

    // The page is what promtool wants.
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(exporter.page().text.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    assert!(
        verdict.status.success() && verdict.stdout.is_empty() && verdict.stderr.is_empty(),
        "{verdict:?}"
    );

    // A second writer; it ends with the last of both, for each has an index of its own in memory.
    let finding = |code: &str| format!("max(chroma_finding{{code=\"{code}\"}})");
    prometheus.wait(&finding("second_writer"), |value| near(value, 0.0, 0.0));
    let second = chroma::Embedded::start("1.5.9", &dir);
    prometheus.wait(&finding("second_writer"), |value| near(value, 1.0, 0.0));
    drop(second);
    drop(server);
    prometheus.wait(&finding("second_writer"), |value| near(value, 0.0, 0.0));
    prometheus.wait(&finding("server_gone"), |value| near(value, 1.0, 0.0));

    // The disk fills past 80 %.
    fs::write(tmpfs.0.join("ballast"), vec![1; 215 * 1024 * 1024]).unwrap();
    prometheus.wait("chroma_disk_used_ratio", |value| value >= 0.8);
    prometheus.wait(&finding("disk_usage_high"), |value| near(value, 1.0, 0.0));
    fs::remove_file(tmpfs.0.join("ballast")).unwrap();
    prometheus.wait(&finding("disk_usage_high"), |value| near(value, 0.0, 0.0));
    assert!(exporter.stop().success());
}

#[test]
fn with_no_argument_the_directory_of_a_running_chroma_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("found-by-itself");
    fs::create_dir(&dir).unwrap();
    let server = chroma::Server::start("1.5.9", &dir);
    let state = scratch.path().join("state");
    // The state directory is the one setting: the default one may belong to an exporter of this host.
    let exporter = Exporter::start(&["--state.dir", state.to_str().unwrap()]);
    exporter.wait_page("the directory", SOON, |page| {
        page.get("chroma_processes", &[("store", "found-by-itself"), ("access", "write")])
            == Some(1.0)
            && page
                .has("chroma_disk_size_bytes", &[("store", "found-by-itself")], |size| size > 0.0)
    });
    drop(server);
}
