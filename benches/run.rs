//! What one run of each collector costs on an idle store: CPU time of this process over many runs, from a real
//! directory of Chroma. Prints a table; the target is 2 ms for all collectors of a store together.
//!
//! `cargo bench --bench run [DIR]`

mod support;

use std::{path::PathBuf, sync::Arc};

use chroma_exporter::{
    collectors,
    config::{BackupPolicy, Config, Store},
    host::Host,
    scheduler,
    store::Context,
};
use support::cpu_seconds;

const RUNS: u32 = 1000;

fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9"),
        PathBuf::from,
    );
    let config = Arc::new(Config::default());
    let store = Arc::new(Store {
        backups: BackupPolicy::daily(vec![format!("{}/none*", dir.display())]),
        ..Store::new("bench", dir)
    });
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    println!("{:<12} {:>14}", "collector", "CPU ms a run");
    let mut all = 0.0;
    for mut collector in collectors::registry(&context) {
        // The first runs learn, check and fill caches.
        for _ in 0..5 {
            drop(scheduler::run_once(&mut *collector, &context, false, Arc::default()));
        }
        let before = cpu_seconds();
        for _ in 0..RUNS {
            drop(scheduler::run_once(&mut *collector, &context, false, Arc::default()));
        }
        let cost = (cpu_seconds() - before) * 1000.0 / f64::from(RUNS);
        all += cost;
        println!("{:<12} {cost:>14.3}", collector.name().as_str());
    }
    println!("{:<12} {all:>14.3}   target 2.000, ratio {:.2}", "all", all / 2.0);
}
