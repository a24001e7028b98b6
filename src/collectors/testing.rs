//! What tests of collectors share.

use std::{fs, path::Path, sync::Arc, time::Duration};

use crate::{
    config::{Collect, Config, Store},
    host::Host,
    store::Context,
};

/// The store at `dir`, of which nothing more is known.
pub(super) fn context(dir: &Path) -> Context {
    let config = Arc::new(Config { collect: patient(), ..Config::default() });
    let host = Arc::new(Host::new(&config));
    Context::new(&config, &Arc::new(Store::new("main", dir)), &host)
}

/// A host that is busy, or stands still for a moment, is no reason to give a statement or a filesystem up.
pub(super) fn patient() -> Collect {
    Collect {
        device_timeout: Duration::from_secs(30),
        deadline: Duration::from_mins(2),
        statement_deadline: Duration::from_mins(1),
        ..Collect::default()
    }
}

/// Copies a store of the fixtures to `to`, which may be there.
pub(super) fn copy_fixture(name: &str, to: &Path) {
    copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name), to);
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
