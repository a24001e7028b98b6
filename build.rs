//! Notes the git revision that the program is built from, for `--version`, the status page and `chroma_exporter_build_info`.
//!
//! What `CHROMA_EXPORTER_REVISION` says counts. Otherwise it is read from `.git` beside this file, without the program git,
//! which images for building may lack, or from the note that `cargo package` leaves; a tree without either is built all the
//! same. Debug builds do not ask: each commit would compile all of this package again, its tests included.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let given = env::var(VARIABLE).is_ok_and(|revision| !revision.is_empty());
    if given || env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return;
    }
    let root = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let found = Found::at(&root);
    for file in &found.files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    if let Some(revision) = found.revision {
        println!("cargo::rustc-env={VARIABLE}={revision}");
    }
}

const VARIABLE: &str = "CHROMA_EXPORTER_REVISION";

/// The revision of a tree, and the files that change when another one is checked out or committed. All of them exist: one
/// that does not would make cargo build anew each time.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) revision: Option<String>,
    pub(crate) files: Vec<PathBuf>,
}

impl Found {
    /// Looks at `root`, and at no directory above it: a tree unpacked inside another repository is none of its commits.
    pub(crate) fn at(root: &Path) -> Self {
        let packaged = root.join(".cargo_vcs_info.json");
        match git_dir(root) {
            Some(git) => Self::in_repository(&git),
            None => Self { revision: noted(&read(&packaged)), files: existing([packaged]) },
        }
    }

    fn in_repository(git: &Path) -> Self {
        // What the worktrees of a repository share lies elsewhere.
        let common = match read(&git.join("commondir")).trim() {
            "" => git.to_owned(),
            common => git.join(common),
        };
        let (head, packed) = (read(&git.join("HEAD")), common.join("packed-refs"));
        let mut files = vec![git.join("HEAD"), git.join("logs/HEAD")];
        let revision = match head.trim().strip_prefix("ref: ") {
            None => hash(&head),
            Some(branch) => {
                let loose = common.join(branch);
                let found = hash(&read(&loose)).or_else(|| in_packed(&read(&packed), branch));
                files.extend([loose, packed]);
                found
            }
        };
        Self { revision, files: existing(files) }
    }
}

/// `.git`, or where that file of a worktree leads.
fn git_dir(root: &Path) -> Option<PathBuf> {
    let dot = root.join(".git");
    if dot.is_dir() {
        return Some(dot);
    }
    let link = read(&dot);
    let path = root.join(link.trim().strip_prefix("gitdir: ")?);
    path.is_dir().then_some(path)
}

/// The line `HASH BRANCH` of `packed-refs`.
fn in_packed(text: &str, branch: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_suffix(branch)?.strip_suffix(' ').and_then(hash))
}

/// `{"git": {"sha1": "HASH"}}`
fn noted(text: &str) -> Option<String> {
    text.split_once("\"sha1\"")?.1.split('"').nth(1).and_then(hash)
}

fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    let good = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| text.to_owned())
}

fn existing(files: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    files.into_iter().filter(|file| file.is_file()).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}
