//! How long fifty healthy stores take to get their checks, alone and beside a store that would take for ever: the ratio of both.
//! The target is 2. What would take for ever here is a reading that never ends, with the turns and shares of the program.
//!
//! `cargo bench --bench neighbours`

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chroma_exporter::{
    clock, collectors,
    config::{Config, Store},
    host::{
        Host,
        job_queue::{Size, Wanted},
    },
    scheduler,
    store::Context,
};

const STORES: usize = 50;

fn main() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
    let scratch = tempfile::tempdir().expect("a directory");
    let dirs: Vec<PathBuf> = (0..STORES).map(|n| scratch.path().join(n.to_string())).collect();
    for dir in &dirs {
        copy(&fixture, dir);
    }
    let alone = checked(&dirs, false);
    let beside = checked(&dirs, true);
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!("{STORES} stores alone     {:>8.2} s", alone.as_secs_f64());
    println!(
        "beside endless work  {:>8.2} s   ratio {ratio:.2}, target 2.00",
        beside.as_secs_f64()
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("entries").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// How long all stores take until each was checked in full.
fn checked(dirs: &[PathBuf], beside: bool) -> Duration {
    let config = Arc::new(Config::default());
    let host = Arc::new(Host::new(&config));
    let stop = Arc::new(AtomicBool::new(false));
    if beside {
        work_without_end(&host, &dirs[0], &stop);
    }
    std::thread::scope(|scope| {
        let began = clock::ticks();
        let all: Vec<_> = dirs
            .iter()
            .enumerate()
            .map(|(n, dir)| {
                let store = Arc::new(Store::new(format!("healthy{n}"), dir));
                let context = Context::new(&config, &store, &host);
                scope.spawn(move || {
                    for mut collector in collectors::registry(&context) {
                        if collector.name().as_str() == "integrity" {
                            drop(scheduler::run_once(
                                &mut *collector,
                                &context,
                                true,
                                Arc::default(),
                            ));
                        }
                    }
                })
            })
            .collect();
        for one in all {
            one.join().expect("no panic");
        }
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        took
    })
}

/// Work that would never end has its turn on the filesystem of `dir` when this comes back.
fn work_without_end(host: &Host, dir: &Path, stop: &Arc<AtomicBool>) {
    let device = std::fs::metadata(dir).expect("there").dev();
    let (store, stopped) = ("endless".into(), Arc::clone(stop));
    let wanted = Wanted { name: "endless", size: Size::Large, device, store: &store, stop };
    let (begins, begun) = std::sync::mpsc::channel();
    host.job_queue.begin(&wanted, move |permit| {
        let pacer = permit.expect("a turn").pacer().expect("it may have to pause");
        begins.send(()).expect("somebody waits");
        while !stopped.load(Ordering::Relaxed) && pacer.checkpoint(&stopped) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    begun.recv().expect("its turn");
}
