//! The rule file in the tree is what the program prints; `UPDATE_GOLDEN=1` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, path::Path};

#[test]
fn the_rule_file_in_the_tree_is_what_the_program_prints() {
    let out = support::run(&["rules", "--state.dir", ""]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let printed = String::from_utf8(out.stdout).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/chroma.rules.yml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &printed).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == printed,
        "alerts/chroma.rules.yml is not what `rules` prints; UPDATE_GOLDEN=1 writes it anew"
    );
}
