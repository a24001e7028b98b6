//! Manifests of Kubernetes and the compose file against the schemas of both.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::chroma;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether all is right, and what `tests/support/schemas.py` says.
fn schemas(kind: &str, files: &[PathBuf]) -> (bool, String) {
    let mut command = Command::new(chroma::python("schemas"));
    command.arg(root().join("tests/support/schemas.py")).arg(kind).args(files);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn manifests() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("packaging/kubernetes")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn manifests_are_what_kubernetes_takes() {
    let (right, said) = schemas("kubernetes", &manifests());
    assert!(right, "{said}");
    assert_eq!(said.trim(), "5 documents are right");
}

#[test]
fn a_word_that_kubernetes_does_not_know_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root().join("packaging/kubernetes/chroma.yaml")).unwrap();
    for (word, other) in [
        ("readOnlyRootFilesystem", "readonlyRootFilesystem"),
        ("strategy:", "strategie:"),
        ("replicas: 1", "replicas: one"),
    ] {
        let file = dir.path().join("chroma.yaml");
        assert!(text.contains(word));
        fs::write(&file, text.replace(word, other)).unwrap();
        let (right, said) = schemas("kubernetes", &[file]);
        assert!(!right, "{other}: {said}");
    }
}

#[test]
fn the_compose_file_is_what_compose_takes() {
    let file = root().join("deploy/compose.yaml");
    let (right, said) = schemas("compose", std::slice::from_ref(&file));
    assert!(right, "{said}");
    assert_eq!(said.trim(), "1 documents are right");

    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("compose.yaml");
    fs::write(&other, fs::read_to_string(&file).unwrap().replace("cap_drop", "capdrop")).unwrap();
    let (right, said) = schemas("compose", &[other]);
    assert!(!right, "{said}");
}
