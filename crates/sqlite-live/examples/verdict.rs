//! Copies a live database and checks the copy: `cargo run --release --example verdict -- DATABASE`.

use std::{env, error::Error, fs, sync::atomic::AtomicBool, time::Duration};

use sqlite_live::{
    database::{Database, Limits},
    progress::Progress,
    verdict,
    view::{self, Options, Places},
};

fn main() -> Result<(), Box<dyn Error>> {
    let path = fs::canonicalize(env::args().nth(1).ok_or("usage: verdict DATABASE")?)?;
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    let places = Places {
        configured: Some(env::temp_dir()),
        fallback: Vec::new(),
        watched_ratio_max: 0.9,
        other_ratio_max: 0.9,
        name: None,
    };
    let options = Options {
        places: &places,
        rate_bytes_max: 1 << 30,
        lock_hold_max: Duration::from_millis(10),
        time_max: Duration::from_mins(10),
        stop: &stop,
        progress: &progress,
    };
    let mut view = view::take(&Database::new(path), &options)?;
    println!("{} pages, longest lock {:?}", view.pages(), view.cost().held);

    let long = Duration::from_hours(1);
    let limits = Limits { hold: long, hold_unwaited: long, stop: &stop, progress: None };
    let verdict = verdict::whole(&mut view.readers(), verdict::FULL, &limits, &progress).result?;
    match &verdict.lines[..] {
        [] => println!("ok"),
        lines => println!("{}", lines.join("\n")),
    }
    Ok(())
}
