//! Who holds a store, where not everybody may be looked at: another user, a container, `hidepid`. Nothing of it may be called
//! well; what the kernel tells all the same is used. Real Chroma, real namespaces; needs root.

use crate::support::{self, Exporter, SOON, chroma, fixture};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

const NOBODY: u32 = 65_534;

/// A store, and the program where any user may execute it.
struct Lab {
    scratch: tempfile::TempDir,
    dir: PathBuf,
    program: PathBuf,
}

impl Lab {
    fn new(release: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = fixture(&format!("chroma-{release}"), scratch.path());
        let program = scratch.path().join("chroma_exporter");
        fs::copy(support::binary(), &program).unwrap();
        Self { scratch, dir, program }
    }

    /// `check` after these words, in a state directory that is not there.
    fn check(&self, before: &[&str], more: &[&str]) -> Output {
        let (first, rest) = before.split_first().unwrap();
        Command::new(first)
            .args(rest)
            .arg(&self.program)
            .args([
                "check",
                "--quick",
                "--color",
                "never",
                "--no-collector.disk",
                "--state.dir",
                "/nonexistent",
            ])
            .args(["--store.path", &format!("main={}", self.dir.display())])
            .args(more)
            .output()
            .unwrap()
    }

    /// What `check` says of the processes: its word for the store, the code of its exit, the findings, and what it could not
    /// find out.
    fn says(&self, before: &[&str], more: &[&str]) -> Said {
        let out = self.check(before, &[more, &["--output", "json"]].concat());
        let text = String::from_utf8(out.stdout).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&out.stderr)));
        let store = &document["stores"][0];
        let of_processes = |list: &str, field: &str| -> Vec<String> {
            let entries = store[list].as_array().unwrap().iter();
            entries
                .filter(|entry| entry["collector"] == "processes")
                .map(|entry| entry[field].as_str().unwrap().to_owned())
                .collect()
        };
        Said {
            status: store["status"].as_str().unwrap().to_owned(),
            exit: out.status.code().unwrap(),
            codes: of_processes("findings", "code"),
            problems: of_processes("problems", "problem"),
        }
    }

    /// A served page, by the program that runs after these words.
    fn serve(&self, before: &[&str]) -> Exporter {
        let (first, rest) = before.split_first().unwrap();
        let mut command = Command::new(first);
        command.args(rest).arg(&self.program);
        command.args(["--store.path", &format!("main={}", self.dir.display())]);
        command.args(["--web.listen-address", "127.0.0.1:0", "--no-collector.disk"]);
        command.args(["--state.dir", "/nonexistent"]);
        Exporter::start_command(command)
    }

    fn owned_by(&self, uid: u32) {
        let mut open = vec![self.dir.clone()];
        while let Some(path) = open.pop() {
            chown(&path, Some(uid), Some(uid)).unwrap();
            if path.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }
}

#[derive(Debug)]
struct Said {
    status: String,
    exit: i32,
    codes: Vec<String>,
    problems: Vec<String>,
}

impl Said {
    /// That it does not know who holds the store, for this reason, and calls nothing well.
    fn must_be_unknown(&self, why: &str) {
        assert_eq!((self.status.as_str(), self.exit), ("unknown", 3), "{self:?}");
        assert!(self.codes.is_empty(), "{self:?}");
        assert!(self.problems.len() == 1 && self.problems[0].contains(why), "{self:?}");
    }

    fn must_find(&self, codes: &[&str]) {
        assert_eq!(self.codes, codes, "{self:?}");
        assert!(self.problems.is_empty(), "{self:?}");
    }
}

const ROOT: [&str; 1] = ["env"];
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const ALONE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// The series that would be a false zero.
const SERIES: [&str; 4] = [
    "chroma_processes",
    "chroma_process_writers",
    "chroma_process_servers",
    "chroma_process_children",
];

fn must_tell_no_numbers(exporter: &Exporter, of_finding: bool) {
    let page = exporter.ready();
    for series in SERIES {
        assert_eq!(page.all(series, &[]).count(), 0, "{series} in\n{}", page.text);
    }
    if of_finding {
        let codes = ["second_writer", "store_replaced", "server_gone", "descriptors_low"];
        for code in codes {
            let reported = page.all("chroma_finding", &[("code", code)]).count();
            assert_eq!(reported, 0, "{code} in\n{}", page.text);
        }
    }
    let shown = support::get(exporter.address, "/").body;
    assert!(shown.contains("cannot be seen") || shown.contains("cannot see"), "{shown}");
    let status = support::get(exporter.address, "/api/v1/status").body;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["stores"][0]["status"], "unknown", "{status}");
}

#[test]
fn somebody_who_may_not_look_does_not_call_two_writers_well() {
    let lab = Lab::new("1.5.9");
    let alone = lab.says(&ROOT, &[]);
    assert_eq!((alone.status.as_str(), alone.exit), ("ok", 0), "{alone:?}");
    let _server = chroma::Server::start("1.5.9", &lab.dir);
    lab.says(&ROOT, &[]).must_find(&[]);
    lab.says(&AS_NOBODY, &[]).must_be_unknown("may not be looked at");
    let _second = chroma::Embedded::start("1.5.9", &lab.dir);
    let said = lab.says(&ROOT, &[]);
    said.must_find(&["second_writer"]);
    assert_eq!(said.exit, 2);
    lab.says(&AS_NOBODY, &[]).must_be_unknown("may not be looked at");

    let text = String::from_utf8(lab.check(&AS_NOBODY, &[]).stdout).unwrap();
    assert!(text.contains("  unknown\n\n  unknown  processes\n"), "{text}");
    assert!(text.contains("CAP_SYS_PTRACE"), "what is to be granted: {text}");
    must_tell_no_numbers(&lab.serve(&AS_NOBODY), true);
}

#[test]
fn the_owner_of_the_file_learns_from_the_kernel_that_nobody_writes() {
    let lab = Lab::new("1.5.9");
    // Something that may be a Chroma for all that can be seen.
    let mut suspect = Command::new(chroma::python("1.5.9"))
        .args(["-c", "print('ready', flush=True); input()"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(suspect.stdout.as_mut().unwrap(), &mut ready).unwrap();
    lab.says(&AS_NOBODY, &[]).must_be_unknown("may not be looked at");
    lab.owned_by(NOBODY);
    let said = lab.says(&AS_NOBODY, &[]);
    said.must_find(&[]);
    assert_eq!((said.status.as_str(), said.exit), ("ok", 0), "{said:?}");
    let _server = chroma::Server::start("1.5.9", &lab.dir);
    lab.says(&AS_NOBODY, &[]).must_be_unknown("a process that this program cannot see has");
    suspect.kill().unwrap();
    suspect.wait().unwrap();
}

#[test]
fn who_is_in_a_container_does_not_take_it_for_the_host() {
    let lab = Lab::new("0.6.3");
    let said = lab.says(&ALONE, &[]);
    said.must_find(&[]);
    assert_eq!(said.exit, 0, "nobody has it open: {said:?}");

    let _one = chroma::Embedded::start("0.6.3", &lab.dir);
    let _two = chroma::Embedded::start("0.6.3", &lab.dir);
    lab.says(&ALONE, &[]).must_be_unknown("the processes of this container alone");
    let exporter = lab.serve(&ALONE);
    must_tell_no_numbers(&exporter, true);
    drop(exporter);

    // With the host's procfs it sees both.
    let host = lab.scratch.path().join("proc");
    fs::create_dir(&host).unwrap();
    let bind = format!("mount --rbind /proc '{}' && exec \"$0\" \"$@\"", host.display());
    let before = ["unshare", "--mount", "sh", "-c", &bind];
    let before = [&before[..], &ALONE].concat();
    let said = lab.says(&before, &["--path.procfs", host.to_str().unwrap()]);
    said.must_find(&["second_writer"]);
}

#[test]
fn where_processes_are_hidden_none_is_called_absent() {
    let lab = Lab::new("1.5.9");
    let _server = chroma::Server::start("1.5.9", &lab.dir);
    for hidepid in ["1", "2"] {
        let mount = format!("mount -t proc -o hidepid={hidepid} proc /proc && exec \"$0\" \"$@\"");
        let before = ["unshare", "--mount", "sh", "-c", &mount];
        lab.says(&[&before[..], &ROOT].concat(), &[]).must_find(&[]);
        let said = lab.says(&[&before[..], &AS_NOBODY].concat(), &[]);
        said.must_be_unknown("/proc hides the processes of other users");
    }
}

#[test]
fn the_danger_after_a_second_writer_outlives_it_and_a_restart_of_ours() {
    for release in ["1.5.9", "0.6.3"] {
        let lab = Lab::new(release);
        let state = lab.scratch.path().join("state");
        let store = format!("main={}", lab.dir.display());
        let args = ["--store.path", &store, "--state.dir", state.to_str().unwrap()];
        let exporter = Exporter::start(&args);
        exporter.ready();
        let app = chroma::Embedded::start(release, &lab.dir);
        exporter.wait_page("the program that stays", SOON, |page| {
            page.get("chroma_process_writers", &[]) == Some(1.0)
        });
        let second = |page: &support::Page| page.findings("main").contains(&"second_writer".into());
        let job = chroma::Embedded::start(release, &lab.dir);
        exporter.wait_page("both", SOON, second);
        let job_pid = job.0.id();
        job.end();
        let one = |page: &support::Page| page.get("chroma_process_writers", &[]) == Some(1.0);
        let page = exporter.wait_page("one of them", SOON, one);
        assert!(second(&page), "{release}: it ends with the second one\n{}", page.text);
        exporter.stop();

        let exporter = Exporter::start(&args);
        let page = exporter.ready();
        assert!(one(&page) && second(&page), "{release}: it was forgotten\n{}", page.text);
        let status = support::get(exporter.address, "/api/v1/status").body;
        for part in
            [format!("(pid {job_pid}, "), format!("(pid {}) before the next write", app.0.id())]
        {
            assert!(status.contains(&part), "{part} in {status}");
        }
        drop(app);
        exporter.wait_page("the end of both", SOON, |page| !second(page));
        let again = chroma::Embedded::start(release, &lab.dir);
        let page = exporter.wait_page("the new one", SOON, one);
        assert!(!second(&page), "{release}: a new process has read everything");
        drop(again);
    }
}
