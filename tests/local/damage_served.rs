//! What `check` finds in its one deep run, `serve` finds too in its cheap ones, and nothing else: every fault of the table that
//! needs no configuration, done to what the newest Chroma wrote, all at once and each in a store of its own.

use crate::support::{Exporter, SOON, faults, wait_every};
use std::{fs, time::Duration};

#[test]
fn a_running_exporter_comes_to_what_check_says_of_every_fault() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("config.yml");
    fs::write(&config, "collect: {interval: 1s, contents_interval: 1s, device_timeout: 20s}\n")
        .unwrap();
    let state = scratch.path().join("state");
    let mut words: Vec<String> = [("--config.file", &config), ("--state.dir", &state)]
        .iter()
        .flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()])
        .collect();
    let mut cases = faults::cases();
    cases.retain(|(_, fault, base)| *base == faults::V15 && fault.config.is_empty());
    for (at, (_, fault, base)) in cases.iter().enumerate() {
        let own = scratch.path().join(at.to_string());
        fs::create_dir(&own).unwrap();
        let dir = fault.strike(base, &own);
        words.extend(["--store.path".to_owned(), format!("{at}={}", dir.display())]);
    }
    let exporter = Exporter::start(&words);
    let pause = Duration::from_millis(200);
    wait_every(pause, "what check says of every fault", 5 * SOON, || {
        let page = exporter.page();
        let reported = |at: usize| {
            let mut codes = page.findings(&at.to_string());
            codes.retain(|code| !faults::HOST.iter().any(|host| code.starts_with(host)));
            // Comes in addition where something could not be read for a minute, which depends on how long all this takes.
            codes.retain(|code| code != "collector_failing");
            codes.dedup(); // one for each subject
            codes
        };
        let wrong: Vec<String> = (0..cases.len())
            .filter_map(|at| {
                let (class, fault, _) = cases[at];
                let mut want: Vec<&str> =
                    fault.codes.iter().filter_map(|code| code.split(' ').next()).collect();
                want.dedup();
                let reported = reported(at);
                (reported != want)
                    .then(|| format!("{class}: {}: {reported:?} instead of {want:?}", fault.what))
            })
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!("{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n")))
    });
    assert!(exporter.stop().success());
}
