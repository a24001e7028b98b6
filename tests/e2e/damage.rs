//! Stores that are broken in ways that no table lists, repaired, and held to the truth by real Chroma (`tests/support/damage.py`).
//!
//! A few each time; `DAMAGES=500 DAMAGED_FROM=1000 cargo test --features e2e --test e2e damage:: -- --nocapture` tries as many others.
//! For 0.4.24 and 1.1.1 give the script to their Python.

use std::{path::Path, process::Command};

use crate::support::chroma;

fn number(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn tried(release: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (first, count) = (number("DAMAGED_FROM", 0), number("DAMAGES", 3));
    let mut python = Command::new(chroma::python(release));
    python.args(["-B", "-W", "ignore"]).arg(here.join("tests/support/damage.py"));
    python.arg(env!("CARGO_BIN_EXE_chroma_exporter")).args([first, count].map(|n| n.to_string()));
    let out = python.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    println!("{said}");
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn what_is_broken_anyhow_is_repaired_or_named_with_1_5() {
    tried("1.5.9");
}

#[test]
fn what_is_broken_anyhow_is_repaired_or_named_with_0_6() {
    tried("0.6.3");
}
