//! Where a store lies, with real mounts and processes in namespaces of their own: a container's directory that has the path
//! of another store, links below another root, containers that start anew, directories that come and go, filesystems
//! that do not keep what is written.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::{self, Exporter, SOON, chroma, fixture, get, label, wait_for};
use serde_json::Value;

/// Killed when dropped.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A process in a mount namespace of its own, as a container has it: a tmpfs lies over `at`, and `copied` is in it.
struct Container {
    _child: Kill,
    pid: u32,
}

impl Container {
    /// It holds the database at `below`, a path below `at`.
    fn start(at: &Path, below: &str, copied: &Path) -> Self {
        Self::start_with(&mut Command::new("unshare"), at, below, copied)
    }

    fn start_with(unshare: &mut Command, at: &Path, below: &str, copied: &Path) -> Self {
        let script = "mount -t tmpfs none \"$0\" && mkdir -p \"$0/$1\" && cp -a \"$2/.\" \"$0/$1/\" \
            && exec 3<>\"$0/$1/chroma.sqlite3\" && echo ready && read end";
        let mut child = unshare
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .args([at.as_os_str(), below.as_ref(), copied.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "needs root");
        let pid = child.id();
        Self { _child: Kill(child), pid }
    }

    /// How this host sees a path of the container.
    fn seen(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.pid)).join(path.strip_prefix("/").unwrap())
    }
}

/// Overwrites the pages after the first, as a disk that lies does.
fn damage(database: &Path) {
    let file = fs::OpenOptions::new().write(true).open(database).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    for page in 1..pages.min(40) {
        file.write_all_at(&[0xa5; 4096], page * 4096).unwrap();
    }
}

/// The document of `check` about one directory.
fn check(args: &[&str]) -> Value {
    let mut all = vec!["check", "--output", "json", "--state.dir", ""];
    all.extend(args);
    let output = support::run(&all);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn check_at(path: &Path) -> Value {
    check(&["--store.path", path.to_str().unwrap()])
}

/// What is corrupt, and what could not be looked at.
fn verdict(document: &Value) -> (bool, Vec<String>) {
    let store = &document["stores"][0];
    let findings = store["findings"].as_array().unwrap();
    let corrupt = findings.iter().any(|finding| {
        let code = finding["code"].as_str().unwrap();
        code.starts_with("sqlite_") && finding["severity"] == "critical"
    });
    let states = store["integrity"].as_object().unwrap();
    let unknown = states
        .iter()
        .filter(|(_, state)| !["ok", "corrupt"].contains(&state.as_str().unwrap()))
        .filter(|(check, _)| *check != "decay")
        .map(|(check, state)| format!("{check}: {state}"));
    (corrupt, unknown.collect())
}

fn checked(path: &Path) -> (bool, Vec<String>) {
    let document = check_at(path);
    let verdict = verdict(&document);
    assert!(verdict.1.is_empty(), "{}: {document:#}", path.display());
    verdict
}

#[test]
fn a_container_with_the_path_of_another_store_is_judged_by_its_own_file() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let host = fixture("chroma-1.5.9", &root);
    let seed = fixture("chroma-0.6.3", &root);
    let whole = Container::start(&host, "", &seed);
    let through = whole.seen(&host);
    assert!(!checked(&through).0 && !checked(&host).0, "both are whole");
    // One damaged, both ways round.
    damage(&host.join("chroma.sqlite3"));
    assert!(checked(&host).0, "the host's is damaged");
    assert!(!checked(&through).0, "the container's is whole");
    drop(whole);
    let host = fixture("chroma-1.1.1", &root);
    damage(&seed.join("chroma.sqlite3"));
    let broken = Container::start(&host, "", &seed);
    let through = broken.seen(&host);
    assert!(checked(&through).0, "the container's is damaged");
    assert!(!checked(&host).0, "the host's is whole");
    // The same of a running exporter, which looks at both at once.
    let exporter = Exporter::start(&[
        "--store.path",
        &format!("inner={}", through.display()),
        "--store.path",
        &format!("host={}", host.display()),
        "--state.dir",
        "",
    ]);
    exporter.wait_page("the quick checks of both", SOON, |page| {
        let state = |store, state| {
            let labels = [("store", store), ("check", "quick"), ("state", state)];
            page.has("chroma_integrity_state", &labels, |value| value > 0.0)
        };
        state("inner", "corrupt") && state("host", "ok")
    });
}

#[test]
fn a_container_whose_path_the_host_does_not_have_is_read_all_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let seed = fixture("chroma-1.5.9", &root);
    let empty = root.join("empty");
    fs::create_dir(&empty).unwrap();
    // A process namespace of its own as well: the pid is another one inside.
    let container = Container::start(&empty, "srv/data", &seed);
    assert!(!checked(&container.seen(&empty.join("srv/data"))).0);
    // A link that is absolute begins at the root of the container.
    let inside = container.seen(&empty);
    let target = empty.join("srv/data/chroma.sqlite3");
    fs::create_dir(inside.join("linked")).unwrap();
    symlink(&target, inside.join("linked/chroma.sqlite3")).unwrap();
    let document = check_at(&inside.join("linked"));
    let (corrupt, unknown) = verdict(&document);
    assert!(!corrupt && unknown.is_empty(), "{document:#}");
    let codes = document.to_string();
    assert!(!codes.contains("sqlite_not_a_file") && !codes.contains("sqlite_missing"), "{codes}");
}

#[test]
fn a_segment_folder_that_is_an_absolute_link_lies_in_the_container_too() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let seed = fixture("chroma-1.5.9", &root);
    let at = root.join("at");
    fs::create_dir(&at).unwrap();
    let container = Container::start(&at, "data", &seed);
    let inside = container.seen(&at);
    let folder = fs::read_dir(&seed).unwrap().map(|entry| entry.unwrap().file_name());
    let folder = folder.into_iter().find(|name| seed.join(name).is_dir()).unwrap();
    // The same path leads to one folder in the container and to another one on the host.
    let target = Path::new("elsewhere").join(&folder);
    fs::create_dir(inside.join("elsewhere")).unwrap();
    fs::rename(inside.join("data").join(&folder), inside.join(&target)).unwrap();
    symlink(at.join(&target), inside.join("data").join(&folder)).unwrap();
    fs::create_dir_all(at.join("elsewhere")).unwrap();
    support::copy_tree(&seed.join(&folder), &at.join(&target));
    let reported = || {
        let document = check_at(&inside.join("data"));
        let findings = document["stores"][0]["findings"].as_array().unwrap().clone();
        let codes =
            findings.into_iter().map(|finding| finding["code"].as_str().unwrap().to_owned());
        codes.filter(|code| code.starts_with("segment_")).collect::<Vec<_>>()
    };
    let cut = |root: &Path| {
        let file = root.join(&target).join("data_level0.bin");
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(100).unwrap();
    };
    cut(&at);
    assert_eq!(reported(), [""; 0], "the host's is cut, the container's is whole");
    cut(&inside);
    support::copy_tree(&seed.join(&folder), &at.join(&target));
    assert_eq!(reported(), ["segment_truncated"], "the container's is cut, the host's is whole");
}

#[test]
fn below_another_root_absolute_links_begin_there() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let rootfs = root.join("host");
    fs::create_dir_all(rootfs.join("mnt/big")).unwrap();
    fs::create_dir_all(rootfs.join("var/backups")).unwrap();
    // The same path, as this process sees it, is another store, and a broken one.
    let outside = tempfile::Builder::new().prefix("chroma-outside").tempdir_in("/tmp").unwrap();
    let target = outside.path().join("chroma-1.5.9");
    fixture("chroma-1.5.9", outside.path());
    damage(&target.join("chroma.sqlite3"));
    let inside = rootfs.join(target.parent().unwrap().strip_prefix("/").unwrap());
    fs::create_dir_all(&inside).unwrap();
    fixture("chroma-1.5.9", &inside);
    symlink(&target, rootfs.join("mnt/big/chroma")).unwrap();
    fs::create_dir(rootfs.join("mnt/file")).unwrap();
    symlink(target.join("chroma.sqlite3"), rootfs.join("mnt/file/chroma.sqlite3")).unwrap();
    let at = |path: &str| check(&["--path.rootfs", rootfs.to_str().unwrap(), "--store.path", path]);
    for path in ["/mnt/big/chroma", "/mnt/file"] {
        let document = at(path);
        let (corrupt, unknown) = verdict(&document);
        assert!(!corrupt && unknown.is_empty(), "{path}: {document:#}");
    }
    // And the other way round.
    damage(&inside.join("chroma-1.5.9/chroma.sqlite3"));
    for path in ["/mnt/big/chroma", "/mnt/file"] {
        let document = at(path);
        assert!(verdict(&document).0, "{path}: {document:#}");
    }
    // Patterns of backups: a folder that is a link, and a file that is one.
    let copies = rootfs.join("srv/copies");
    fs::create_dir_all(&copies).unwrap();
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9/chroma.sqlite3"),
        copies.join("chroma_20260101_010101.sqlite3"),
    )
    .unwrap();
    symlink("/srv/copies", rootfs.join("var/backups/all")).unwrap();
    symlink(
        "/srv/copies/chroma_20260101_010101.sqlite3",
        rootfs.join("var/backups/latest.sqlite3"),
    )
    .unwrap();
    let store = rootfs.join("srv/store");
    support::copy_tree(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9"),
        &store,
    );
    for pattern in ["/var/backups/all/*.sqlite3", "/var/backups/latest.sqlite3", "/var/backups/l*"]
    {
        let config = root.join("config.yml");
        let text = format!(
            "stores:\n  - name: main\n    path: /srv/store\n    backups: ['{pattern}']\n\
             path:\n  rootfs: {}\nstate:\n  dir: ''\n",
            rootfs.display()
        );
        fs::write(&config, text).unwrap();
        let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
        exporter.wait_page(&format!("the backup behind {pattern}"), SOON, |page| {
            // A database alone: found, read, and told to be without its vectors.
            let reason = [("reason", "without_vectors")];
            page.has("chroma_backups_incomplete", &reason, |count| count > 0.0)
        });
    }
}

/// A process namespace whose `/proc` is mounted in `at`, so that nothing else of this host is found.
struct Host {
    _child: Kill,
    procfs: PathBuf,
    at: PathBuf,
}

impl Host {
    fn new(at: &Path) -> Self {
        let procfs = at.join("proc");
        fs::create_dir(&procfs).unwrap();
        let script = "mount -t proc proc \"$0\" && echo ready && exec sleep 3600";
        let mut child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sh", "-c", script])
            .arg(&procfs)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "needs root");
        Self { _child: Kill(child), procfs, at: at.to_owned() }
    }

    /// Begins a command in it.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--pid={}", self.procfs.join("1/ns/pid").display()));
        command
    }

    fn watch(&self, state: &Path) -> Exporter {
        Exporter::start(&[
            "--path.procfs",
            self.procfs.to_str().unwrap(),
            "--state.dir",
            state.to_str().unwrap(),
        ])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.at.join("proc")).status());
    }
}

/// The stores on the page with their paths.
fn stores(page: &support::Page) -> Vec<(String, String)> {
    let rows = page.all("chroma_store_info", &[]);
    rows.map(|(series, _)| (label(series, "store"), label(series, "path"))).collect()
}

#[test]
fn a_container_that_starts_anew_keeps_its_name_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let host = Host::new(&root);
    let seed = fixture("chroma-1.5.9", &root);
    let mnt = root.join("mnt");
    fs::create_dir(&mnt).unwrap();
    let start = || Container::start_with(host.enter().arg("unshare"), &mnt, "data", &seed);
    let first = start();
    let exporter = host.watch(&root.join("state"));
    let found = |page: &support::Page| stores(page);
    let page = exporter.wait_page("the container's store", SOON, |page| found(page).len() == 1);
    let (name, path) = found(&page).remove(0);
    assert_eq!(name, "data", "{path}");
    assert!(path.contains("/root/") && path.ends_with("/mnt/data"), "{path}");
    exporter.wait_page("its quick check", SOON, |page| {
        let labels = [("store", "data"), ("check", "quick"), ("state", "ok")];
        page.has("chroma_integrity_state", &labels, |value| value > 0.0)
    });
    drop(first);
    let reported = |page: &support::Page| -> Vec<String> {
        let mut codes = page.findings("data");
        codes.retain(|code| code != "collector_failing" && !code.starts_with("disk_"));
        codes
    };
    exporter.wait_page("the store to end with its process", SOON, |page| {
        assert_eq!(reported(page), [""; 0], "nothing is said of what is out of reach");
        found(page).is_empty()
    });
    let again = start();
    let page =
        exporter.wait_page("the store of the new process", SOON, |page| found(page).len() == 1);
    assert_eq!(found(&page)[0].0, "data", "the same name");
    assert_ne!(found(&page)[0].1, path, "another process");
    let other = start();
    let page = exporter.wait_page("a second container", SOON, |page| found(page).len() == 2);
    let names: Vec<String> = found(&page).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["data", "data-2"]);
    // Names outlive the program, also when the one that had the first is not there.
    assert!(exporter.stop().success());
    drop(again);
    let exporter = host.watch(&root.join("state"));
    let page = exporter.wait_page("the second container", SOON, |page| found(page).len() == 1);
    assert!(["data", "data-2"].contains(&&*found(&page)[0].0), "{:?}", found(&page));
    drop(other);
    let alerts = get(exporter.address, "/api/v1/status").body;
    assert!(!alerts.contains("\"store_missing\""), "{alerts}");
}

#[test]
fn a_temporary_directory_ends_with_its_process_and_a_server_that_went_is_missed() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    // On this host itself: in a namespace of its own nobody can say that a process is gone.
    let (short, kept) = (root.join("short"), root.join("kept"));
    for dir in [&short, &kept] {
        support::copy_tree(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9"),
            dir,
        );
    }
    let script = {
        let script = "exec 3<>\"$0/chroma.sqlite3\"; echo ready; read end";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&short);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Kill(child)
    };
    let server = {
        let port = support::free_port().to_string();
        let mut command = Command::new(chroma::python("1.5.9").with_file_name("chroma"));
        command.args(["run", "--host", "127.0.0.1", "--port", &port, "--path"]).arg(&kept);
        command.current_dir(&root).stdin(Stdio::piped()).stdout(Stdio::null());
        Kill(command.stderr(Stdio::null()).spawn().unwrap())
    };
    let exporter = Exporter::start(&["--state.dir", root.join("state").to_str().unwrap()]);
    let names = |page: &support::Page| -> Vec<String> {
        // Other tests have stores of their own.
        let mut stores = stores(page);
        stores.retain(|(_, path)| Path::new(path).starts_with(&root));
        stores.into_iter().map(|(name, _)| name).collect()
    };
    exporter.wait_page("both stores", SOON, |page| names(page) == ["kept", "short"]);
    exporter.wait_page("the server", SOON, |page| {
        page.has("chroma_process_servers", &[("store", "kept")], |count| count > 0.0)
    });
    // As a temporary directory of Python goes: first the files, and a moment later the process.
    fs::remove_dir_all(&short).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    drop(script);
    drop(server);
    exporter.wait_page("the temporary one to end", SOON, |page| names(page) == ["kept"]);
    exporter.wait_page("the server to be missed", SOON, |page| {
        page.findings("kept").contains(&"server_gone".to_owned())
    });
    wait_for("the log to say both", SOON, || {
        let log = exporter.log();
        (log.contains("watched no more") && log.contains("it is watched for 24 h")).then_some(())
    });
    // The document is made beside the page, at a pace of its own.
    let path = short.to_str().unwrap();
    wait_for("the document to forget the temporary one", SOON, || {
        let body = get(exporter.address, "/api/v1/status").body;
        (!body.contains(&format!("\"path\":\"{path}\""))).then_some(())
    });
}

#[test]
fn a_filesystem_that_does_not_keep_what_is_written_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let seed = fixture("chroma-1.5.9", &root);
    let codes = |path: &Path| -> Vec<String> {
        let document = check_at(path);
        let findings = document["stores"][0]["findings"].as_array().unwrap().iter();
        let reported = findings.map(|f| format!("{}: {}", f["code"], f["evidence"]));
        reported
            .filter(|reported| reported.contains("disk_") && !reported.contains("disk_usage"))
            .collect()
    };
    assert_eq!(codes(&seed), [""; 0], "a disk of the host");
    let mnt = root.join("mnt");
    fs::create_dir(&mnt).unwrap();
    let container = Container::start(&mnt, "data", &seed);
    let reported = codes(&container.seen(&mnt.join("data")));
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(
        reported[0].contains("disk_temporary") && reported[0].contains("in a container"),
        "{reported:?}"
    );
    // The layer of a container, as this host sees it where Docker mounts it.
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    let at = |name: &str| root.join(name).display().to_string();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let merged = root.join("merged");
    let mount = |merged: &Path| {
        let mut command = Command::new("mount");
        command.args(["-t", "overlay", "-o", &options, "overlay"]).arg(merged).status().unwrap()
    };
    assert!(mount(&merged).success(), "mount (needs root)");
    support::copy_tree(&seed, &merged.join("data"));
    let reported = codes(&merged.join("data"));
    drop(Command::new("umount").arg("-l").arg(&merged).status());
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(reported[0].contains("the layer of a container"), "{reported:?}");
}
