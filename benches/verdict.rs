//! What the deep verdict of a whole database costs, against what SQLite takes for the same: `quick_check` of the `sqlite3`
//! shell, which never looks at the full text, and both pragmas of the SQLite in this program, which do. All on the same
//! database in one run, in turn. The database is the one that `benches/integrity.rs` builds.
//!
//! `cargo bench --bench verdict -- PATH [ROUNDS] [cold]`: cold takes the database out of the page cache before each.

mod support;

use std::{fs::File, path::Path, process::Command, sync::atomic::AtomicBool, time::Duration};

use chroma_exporter::{
    clock,
    collectors::integrity::checks::pages,
    progress::Progress,
    store::{
        database::{Database, Limits},
        pagecache,
        view::{self, Options, Places},
    },
};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Advice, fadvise};
use support::{cpu_seconds, status_kib};

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let path = args.next().expect("the path of a database");
    let path = Path::new(&path);
    let words: Vec<String> = args.collect();
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(3);
    let cold = words.iter().any(|word| word == "cold");
    let mut rows: Vec<(&str, Vec<Cost>)> = Vec::new();
    for _ in 0..rounds {
        for (name, work) in WAYS {
            if cold {
                forget(path);
            }
            let (began, cpu) = (clock::ticks(), cpu_seconds());
            work(path);
            let cost = Cost { wall: began.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu };
            match rows.iter_mut().find(|(known, _)| *known == name) {
                Some((_, costs)) => costs.push(cost),
                None => rows.push((name, vec![cost])),
            }
        }
    }
    println!(
        "{:<34} {:>8} {:>8} {:>14} {:>14}",
        "", "wall s", "CPU s", "× quick 3.40", "× full bundled"
    );
    let walls: Vec<f64> = rows.iter().map(|(_, costs)| median(costs, |cost| cost.wall)).collect();
    for ((name, costs), wall) in rows.iter().zip(&walls) {
        println!(
            "{name:<34} {wall:>8.2} {:>8.2} {:>14.2} {:>14.2}",
            median(costs, |cost| cost.cpu),
            wall / walls[0],
            wall / walls[1]
        );
    }
    println!("peak memory of this process {:.1} MiB, target 64", status_kib("VmHWM") / 1024.0);
}

struct Cost {
    wall: f64,
    cpu: f64,
}

type Way = (&'static str, fn(&Path));

/// The first two are what the others are measured by.
const WAYS: [Way; 9] = [
    ("sqlite3 shell, quick_check", |path| shell(path)),
    ("bundled, integrity_check", |path| bundled(path, "integrity_check")),
    ("bundled, quick_check", |path| bundled(path, "quick_check")),
    ("ours, trees alone", |path| trees(path, false)),
    ("ours, trees and index entries", |path| trees(path, true)),
    ("ours, quick, in the file", |path| in_file(path, "quick_check")),
    ("ours, full, in the file", |path| in_file(path, "integrity_check")),
    ("ours, quick, with the copy", |path| on_copy(path, "quick_check")),
    ("ours, full, with the copy", |path| on_copy(path, "integrity_check")),
];

/// Takes a file out of the page cache.
fn forget(path: &Path) {
    let file = File::open(path).expect("database");
    // What is not on the disk yet stays.
    file.sync_all().expect("sync");
    fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
}

fn shell(path: &Path) {
    let out =
        Command::new("sqlite3").arg(path).arg("PRAGMA quick_check").output().expect("sqlite3");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "ok");
}

fn bundled(path: &Path, pragma: &str) {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("database");
    connection
        .execute_batch("PRAGMA cell_size_check=ON; PRAGMA cache_size=-8192")
        .expect("options");
    let said: String =
        connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).expect("answer");
    assert_eq!(said, "ok");
}

fn trees(path: &Path, entries: bool) {
    let database = Database::new(path.to_owned());
    let file = database.open_plain().expect("database");
    let _brought = bring(&file);
    let mut reader = database.connect().expect("connection");
    let stop = AtomicBool::new(false);
    let known = sqlite_live::verdict::trees_alone(&mut reader, entries, &limits(&stop))
        .result
        .expect("an answer");
    assert!(known, "SQLite would have to be asked");
}

/// As the collector does before it checks in the file.
fn bring(file: &File) -> pagecache::Brought<'_> {
    let mode = pagecache::ReadMode {
        rate_bytes_max: u64::MAX,
        time_max: Duration::from_mins(10),
        stop: &AtomicBool::new(false),
        progress: &Progress::default(),
    };
    pagecache::bring(file, &mode)
}

fn in_file(path: &Path, pragma: &str) {
    let database = Database::new(path.to_owned());
    let file = database.open_plain().expect("database");
    let _brought = bring(&file);
    let readers =
        [database.connect().expect("connection"), database.connect().expect("connection")];
    let stop = AtomicBool::new(false);
    let verdict = pages::whole(readers, pragma, &limits(&stop), &Progress::default())
        .result
        .expect("a verdict");
    assert!(verdict.findings.is_empty(), "{:?}", verdict.findings);
}

fn on_copy(path: &Path, pragma: &str) {
    let database = Database::new(path.to_owned());
    let dir = path.parent().and_then(Path::parent).expect("a directory above that of the database");
    let places = Places {
        configured: Some(dir.to_owned()),
        fallback: Vec::new(),
        watched_ratio_max: 1.0,
        other_ratio_max: 1.0,
        name: None,
    };
    let stop = AtomicBool::new(false);
    let options = Options {
        places: &places,
        rate_bytes_max: u64::MAX,
        lock_hold_max: Duration::from_millis(10),
        time_max: Duration::from_mins(1),
        stop: &stop,
        progress: &Progress::default(),
    };
    let began = clock::ticks();
    let mut view = view::take(&database, &options).expect("a view");
    println!("  copied in {:.2} s", began.elapsed().as_secs_f64());
    let verdict = pages::whole(view.readers(), pragma, &limits(&stop), &Progress::default())
        .result
        .expect("a verdict");
    assert!(verdict.findings.is_empty(), "{:?}", verdict.findings);
}

fn limits(stop: &AtomicBool) -> Limits<'_> {
    let long = Duration::from_mins(10);
    Limits { hold: long, hold_unwaited: long, stop, progress: None }
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
