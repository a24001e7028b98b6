//! The revision that a release build notes is the one that git itself names, in every form a checkout has.

#[allow(dead_code, reason = "its main is cargo's to call")]
#[path = "../../build.rs"]
mod build;

use std::{fs, path::Path, process::Command};

use build::Found;

fn git(dir: &Path, words: &[&str]) -> String {
    let out = Command::new("git")
        .args([
            "-c",
            "user.name=n",
            "-c",
            "user.email=e",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(words)
        .current_dir(dir)
        // The settings of this machine are none of its business.
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// What is noted is what git says; gives the state of the files that cargo watches.
fn agrees(dir: &Path, form: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let found = Found::at(dir);
    assert_eq!(found.revision, Some(git(dir, &["rev-parse", "HEAD"])), "{form}");
    found.files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

#[test]
fn every_form_of_a_checkout_is_read_and_a_move_of_head_is_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, tree) = (scratch.path().join("repository"), scratch.path().join("worktree"));
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "--quiet"]);
    assert_eq!(Found::at(&dir).revision, None, "nothing was committed");
    let commit = |at: &Path| git(at, &["commit", "--quiet", "--allow-empty", "-m", "m"]);
    commit(&dir);
    let first = agrees(&dir, "a branch");
    commit(&dir);
    assert_ne!(agrees(&dir, "a branch that moved"), first);
    git(&dir, &["pack-refs", "--all"]);
    let packed = agrees(&dir, "a packed branch");
    commit(&dir);
    assert_ne!(agrees(&dir, "a packed branch that moved"), packed);
    git(&dir, &["checkout", "--quiet", "-b", "deep/er/branch"]);
    agrees(&dir, "a branch with slashes");
    git(&dir, &["checkout", "--quiet", "--detach", "HEAD~1"]);
    agrees(&dir, "no branch");
    git(&dir, &["worktree", "add", "--quiet", "-b", "other", tree.to_str().unwrap()]);
    commit(&tree);
    agrees(&tree, "a worktree");
    git(&dir, &["pack-refs", "--all"]);
    agrees(&tree, "a worktree with a packed branch");
    // Unpacked inside a repository, it is none of its commits.
    let inside = dir.join("inside");
    fs::create_dir(&inside).unwrap();
    assert_eq!(Found::at(&inside).revision, None);
}

#[test]
fn a_tree_without_git_is_built_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join(".cargo_vcs_info.json");
    let found = || Found::at(dir.path());
    assert!(found().revision.is_none() && found().files.is_empty());
    let hash = "0123456789abcdef0123456789abcdef01234567";
    fs::write(&note, format!("{{\n  \"git\": {{\n    \"sha1\": \"{hash}\"\n  }}\n}}")).unwrap();
    assert_eq!((found().revision.as_deref(), found().files), (Some(hash), vec![note]));
    for broken in ["", "gitdir: /nowhere", "gitdir: ."] {
        fs::write(dir.path().join(".git"), broken).unwrap();
        let revision = found().revision;
        assert!(revision.is_none() || revision.as_deref() == Some(hash), "{broken}");
    }
    fs::remove_file(dir.path().join(".git")).unwrap();
    fs::create_dir(dir.path().join(".git")).unwrap();
    for head in ["", "ref: ", "ref: refs/heads/main", "deadbeef", "\u{1b}"] {
        fs::write(dir.path().join(".git/HEAD"), head).unwrap();
        assert_eq!(found().revision, None, "{head}");
    }
}
