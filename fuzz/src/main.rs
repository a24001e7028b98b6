//! Fuzzing with feedback: libFuzzer with one of the parsers, or with the second checker against SQLite. `run` builds this with
//! the counters that the feedback comes from.
//!
//! `$FUZZ_TARGET` names the target; `$FUZZ_SEEDS` is a directory for real input, from which mutation begins. Without a target the
//! names of all are printed.
#![no_main]

mod checker;
#[path = "../../tests/support/parsers.rs"]
mod parsers;
#[path = "../../tests/support/random.rs"]
mod random;

use std::{fs, path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;

use self::parsers::Target;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: choose(),
    |data: &[u8]| {
        (TARGET.get().expect("chosen before").parse)(data);
    }
);

fn choose() {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let mut targets = parsers::targets();
    targets.push(checker::target());
    let Some(at) = targets.iter().position(|target| name(target) == wanted) else {
        for target in &targets {
            println!("{}", name(target));
        }
        std::process::exit(i32::from(!wanted.is_empty()));
    };
    let target = targets.swap_remove(at);
    if let Some(dir) = std::env::var_os("FUZZ_SEEDS") {
        for (at, seed) in target.corpus.iter().enumerate() {
            fs::write(Path::new(&dir).join(format!("seed-{at}")), seed).expect("a seed");
        }
    }
    let chosen = TARGET.set(target).is_ok();
    assert!(chosen, "libFuzzer begins once");
}

/// As one word.
fn name(target: &Target) -> String {
    target.name.replace(' ', "-")
}
