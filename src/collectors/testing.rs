//! What tests of collectors share.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

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

/// The same for a host whose root is seen at `rootfs`.
pub(super) fn context_below(rootfs: &Path, path: &str) -> Context {
    let config = Config { collect: patient(), rootfs: rootfs.to_owned(), ..Config::default() };
    let config = Arc::new(config);
    let seen_path = rootfs.join(path.trim_start_matches('/'));
    let store = Arc::new(Store { seen_path, ..Store::new("main", path) });
    Context::new(&config, &store, &Arc::new(Host::new(&config)))
}

/// What `work` gives to a user who may read only what all may: on a thread of its own, which becomes `nobody` when this is root.
pub(super) fn as_nobody<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            let nobody = Some(rustix::fs::Uid::from_raw(65_534));
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        work()
    });
    thread.join().unwrap()
}

/// Mode of what [`as_nobody`] may not look at, whoever runs the tests.
pub(super) fn close(path: &Path, closed: bool) {
    let mode = match (closed, rustix::process::geteuid().is_root(), path.is_dir()) {
        (false, ..) => 0o755,
        (true, false, _) => 0o000,
        (true, true, true) => 0o700,
        (true, true, false) => 0o600,
    };
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
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
