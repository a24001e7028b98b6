//! Loads the configuration: reads the file, the environment and the host's accounts, and hands them to the pure rooms
//! beside it. Repeating it reads everything anew, which is what a reload does.

use std::{
    env, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Config, Overrides, Receiver, alerts, keys, validate::Surroundings};
use crate::{
    deliver::receivers::list,
    format::accounts::Accounts,
    host::read::read_whole,
    keys::{
        ConfigError,
        key::Declared,
        report::{Given, Place, Report},
        section::Section,
        yaml::{self, SOURCE_BYTES_MAX},
    },
    sample::Desc,
};
use sqlite_live::links;

/// The configuration that file, flags and host give together, or every problem of it. `series` are the families that a rule of
/// the operator's own may be about. Those are the error.
pub fn load(overrides: &Overrides, series: &[&'static Desc]) -> Result<Config, Vec<ConfigError>> {
    let source = match &overrides.config_file {
        Some(file) => Some((file.as_path(), read_source(file).map_err(|problem| vec![problem])?)),
        None => None,
    };
    load_from(
        source.as_ref().map(|(file, text)| (*file, text.as_str())),
        overrides,
        series,
        &surroundings(),
    )
}

/// The same from the text of a file that was read already. Errs alike.
pub(crate) fn load_from(
    source: Option<(&Path, &str)>,
    overrides: &Overrides,
    series: &[&'static Desc],
    host: &Surroundings,
) -> Result<Config, Vec<ConfigError>> {
    let report = Report::new(Given {
        words: overrides.keys.clone(),
        cwd: host.cwd.clone(),
        ipv6: host.ipv6,
    });
    let tree = match source {
        Some((file, text)) => Some(yaml::parse(text).map_err(|error| {
            vec![Place { line: error.line, ..Place::file(file) }.wrong(error.message)]
        })?),
        None => None,
    };
    let (mut raw, receivers) = {
        let top = match (source, &tree) {
            (Some((file, _)), Some(tree)) => {
                Section::top(&report, &Arc::from(file.to_string_lossy()), tree)
            }
            _ => Section::empty(&report),
        };
        read(&top, series, &report)
    };
    raw.apply(overrides, host.cwd.as_deref(), &report);
    let (passwd, group) = if raw.needs_accounts() {
        let rootfs = &raw.path.rootfs;
        (account_file(rootfs, "etc/passwd", &report), account_file(rootfs, "etc/group", &report))
    } else {
        (Vec::new(), Vec::new())
    };
    raw.validate(host, Accounts { passwd: &passwd, group: &group }, receivers, report)
}

/// Reads every section. Those come last that need others.
pub(crate) fn read(
    top: &Section<'_>,
    series: &[&'static Desc],
    report: &Report,
) -> (keys::File, Vec<Arc<Receiver>>) {
    let mut raw = keys::File::read(top);
    raw.alerts = alerts::read(&top.below("alerts"), &raw.disk, series);
    list::hide_addresses(top, report);
    (raw, list::read(top))
}

fn read_source(file: &Path) -> Result<String, ConfigError> {
    let place = Place::file(file);
    let bytes = read_whole(file, SOURCE_BYTES_MAX as u64)
        .map_err(|error| place.wrong(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        Place { line: Some(line), ..place }.wrong("must be UTF-8")
    })
}

fn account_file(rootfs: &Path, name: &str, report: &Report) -> Vec<u8> {
    let path = rootfs.join(name);
    match read_whole(&links::placed(rootfs, path.clone()), ACCOUNT_BYTES_MAX) {
        Ok(bytes) => bytes,
        // A slim image may have none; every name is then reported as unknown.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            report.add(
                Place::outside("permissions")
                    .wrong(format!("cannot read {} for names of users: {error}", path.display())),
            );
            Vec::new()
        }
    }
}

fn surroundings() -> Surroundings {
    let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    Surroundings {
        cwd: env::current_dir().ok(),
        root: rustix::process::geteuid().is_root(),
        state_directory: text("STATE_DIRECTORY"),
        xdg_state_home: text("XDG_STATE_HOME"),
        home: text("HOME"),
        ipv6: PathBuf::from("/proc/net/if_inet6").exists(),
    }
}

/// Hosts with a hundred thousand local accounts exist.
const ACCOUNT_BYTES_MAX: u64 = 16 * 1024 * 1024;
