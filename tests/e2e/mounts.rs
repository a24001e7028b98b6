//! Real mounts: tmpfs, overlay, bind mounts in a namespace of their own, read-only remounts. Numbers equal `df` on each,
//! and a holder is the same process whatever path it came by.

use crate::support::{Exporter, SOON, chroma, fixture, tmpfs::Mount};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Killed when dropped.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn df(path: &Path, column: &str) -> f64 {
    let out =
        Command::new("df").args(["-B1", &format!("--output={column}")]).arg(path).output().unwrap();
    String::from_utf8(out.stdout).unwrap().lines().last().unwrap().trim().parse().unwrap()
}

fn start(scratch: &Path, dir: &Path) -> Exporter {
    let state = scratch.join("state");
    Exporter::start(&[
        "--store.path",
        &format!("main={}", dir.display()),
        "--state.dir",
        state.to_str().unwrap(),
    ])
}

fn equals_df(exporter: &Exporter, dir: &Path) {
    for (series, column) in [
        ("chroma_disk_size_bytes", "size"),
        ("chroma_disk_avail_bytes", "avail"),
        ("chroma_disk_inodes_free", "iavail"),
    ] {
        exporter.wait_page(&format!("{series} to equal df"), SOON, |page| {
            page.get(series, &[]).is_some_and(|value| value.to_bits() == df(dir, column).to_bits())
        });
    }
}

#[test]
fn a_tmpfs_is_measured_itself_and_a_read_only_remount_is_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    let mount =
        Mount::new(&scratch.path().join("tmpfs"), &["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
    let dir = fixture("chroma-1.5.9", &mount.0);
    let exporter = start(scratch.path(), &dir);
    exporter.ready();
    exporter.wait_page("the size of the tmpfs", SOON, |page| {
        page.get("chroma_disk_size_bytes", &[]) == Some(f64::from(64 << 20))
    });
    equals_df(&exporter, &dir);
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&mount.0).status().unwrap();
    assert!(status.success());
    exporter.wait_page("disk_readonly", SOON, |page| {
        page.get("chroma_disk_readonly", &[]) == Some(1.0)
            && page.findings("main").contains(&"disk_readonly".to_owned())
    });
}

#[test]
fn an_overlay_is_measured_like_df_does() {
    let scratch = tempfile::tempdir().unwrap();
    let base =
        Mount::new(&scratch.path().join("base"), &["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
    for name in ["lower", "upper", "work"] {
        fs::create_dir(base.0.join(name)).unwrap();
    }
    fixture("chroma-1.5.9", &base.0.join("lower"));
    let options =
        format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", base.0.display());
    let overlay =
        Mount::new(&scratch.path().join("merged"), &["-t", "overlay", "-o", &options, "overlay"]);
    let dir = overlay.0.join("chroma-1.5.9");
    let exporter = start(scratch.path(), &dir);
    exporter.ready();
    equals_df(&exporter, &dir);
    let holder = chroma::Embedded::start("1.5.9", &dir);
    exporter.wait_page("the holder", SOON, |page| {
        page.get("chroma_processes", &[("access", "write")]) == Some(1.0)
    });
    drop(holder);
}

#[test]
fn a_holder_behind_a_bind_mount_of_another_namespace_is_seen() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let inside = scratch.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let exporter = start(scratch.path(), &dir);
    exporter.ready();
    exporter.wait_page("no holder", SOON, |page| {
        page.get("chroma_processes", &[("access", "write")]) == Some(0.0)
    });

    // As a container does it: another mount namespace and another process namespace, the directory at another path.
    let script = format!(
        "mount --bind '{}' '{}' && exec sleep 300 3<>'{}/chroma.sqlite3'",
        dir.display(),
        inside.display(),
        inside.display()
    );
    let holder = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let holder = Kill(holder);
    exporter.wait_page("the holder", SOON, |page| {
        page.get("chroma_processes", &[("access", "write")]) == Some(1.0)
    });
    drop(holder);
    exporter.wait_page("the holder to go", SOON, |page| {
        page.get("chroma_processes", &[("access", "write")]) == Some(0.0)
    });
}
