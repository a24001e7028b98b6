//! The effective configuration as YAML that reads back to the same [`Config`], except that a secret that stands in the file
//! itself is printed as `<secret>`.

mod alerts;

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::Serialize;

use super::{BackupPolicy, CollectorName, Config, PermissionPolicy, ServerProbe, Store, rules};
use crate::{
    deliver::receivers,
    format::{duration, window::Window},
};

/// `config` as a file would say it, every key written out. Errs only when a path is not UTF-8, which no configuration
/// that was loaded has.
pub fn to_yaml(config: &Config) -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(&printed(config))
}

#[derive(Serialize)]
struct Printed<'a> {
    stores: Vec<PrintedStore<'a>>,
    collectors: BTreeMap<&'static str, bool>,
    collect: PrintedCollect,
    integrity: PrintedIntegrity<'a>,
    disk: PrintedDisk,
    web: PrintedWeb<'a>,
    state: PrintedState<'a>,
    path: PrintedPath<'a>,
    limits: PrintedLimits,
    log: PrintedLog,
    alerts: alerts::Printed<'a>,
    receivers: Vec<receivers::keys::Printed>,
}

#[derive(Serialize)]
struct PrintedStore<'a> {
    name: &'a str,
    path: &'a Path,
    backups: PrintedBackups,
    permissions: PrintedPermissions,
    logs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<PrintedServer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chroma_version: Option<&'a str>,
}

#[derive(Serialize)]
struct PrintedBackups {
    patterns: Vec<String>,
    warn_after: String,
    critical_after: String,
    settle: String,
}

#[derive(Serialize)]
struct PrintedPermissions {
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_user: Option<u32>,
}

/// The file of headers is named; what stands in it is not.
#[derive(Serialize)]
struct PrintedServer<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers_file: Option<&'a Path>,
    timeout: String,
    interval: String,
}

#[derive(Serialize)]
struct PrintedCollect {
    interval: String,
    deadline: String,
    device_timeout: String,
    quick_check_interval: String,
    full_check_interval: String,
    check_deadline: String,
    check_window: String,
    statement_deadline: String,
    contents_interval: String,
    permissions_interval: String,
    backups_interval: String,
}

#[derive(Serialize)]
struct PrintedIntegrity<'a> {
    scratch_dir: &'a Path,
    read_rate_bytes_max: u64,
}

#[derive(Serialize)]
struct PrintedDisk {
    warn_ratio: f64,
    recover_ratio: f64,
    critical_ratio: f64,
    inodes_low_ratio: f64,
    full_within: String,
}

#[derive(Serialize)]
struct PrintedWeb<'a> {
    listen_addresses: Vec<String>,
    telemetry_path: &'a str,
    enable_lifecycle: bool,
    max_connections: usize,
    header_timeout: String,
    allowed_hosts: &'a [String],
    config_file: &'a Path,
}

#[derive(Serialize)]
struct PrintedState<'a> {
    dir: &'a Path,
}

#[derive(Serialize)]
struct PrintedPath<'a> {
    procfs: &'a Path,
    rootfs: &'a Path,
}

#[derive(Serialize)]
struct PrintedLimits {
    series: usize,
    entries: usize,
    discovered_stores: usize,
    collections: usize,
}

#[derive(Serialize)]
struct PrintedLog {
    level: &'static str,
    format: &'static str,
}

fn printed(config: &Config) -> Printed<'_> {
    let written = |time: Duration| duration::format(time);
    let collect = &config.collect;
    Printed {
        stores: config.stores.iter().map(|store| printed_store(store, &config.rootfs)).collect(),
        collectors: CollectorName::ALL
            .map(|name| (name.as_str(), config.enabled.contains(&name)))
            .into(),
        collect: PrintedCollect {
            interval: written(collect.interval),
            deadline: written(collect.deadline),
            device_timeout: written(collect.device_timeout),
            quick_check_interval: written(collect.quick_check_interval),
            full_check_interval: written(collect.full_check_interval),
            check_deadline: written(collect.check_deadline),
            check_window: collect.check_window.as_ref().map_or("", Window::as_str).to_owned(),
            statement_deadline: written(collect.statement_deadline),
            contents_interval: written(collect.contents_interval),
            permissions_interval: written(collect.permissions_interval),
            backups_interval: written(collect.backups_interval),
        },
        integrity: PrintedIntegrity {
            scratch_dir: config.integrity.scratch_dir.as_deref().unwrap_or(Path::new("")),
            read_rate_bytes_max: config.integrity.read_rate_bytes_max,
        },
        disk: PrintedDisk {
            warn_ratio: config.disk.warn_ratio,
            recover_ratio: config.disk.recover_ratio,
            critical_ratio: config.disk.critical_ratio,
            inodes_low_ratio: config.disk.inodes_low_ratio,
            full_within: written(config.disk.full_within),
        },
        web: PrintedWeb {
            listen_addresses: config.web.listen_addresses.iter().map(ToString::to_string).collect(),
            telemetry_path: &config.web.telemetry_path,
            enable_lifecycle: config.web.enable_lifecycle,
            max_connections: config.web.max_connections,
            header_timeout: written(config.web.header_timeout),
            allowed_hosts: &config.web.allowed_hosts,
            config_file: config.web.config_file.as_deref().unwrap_or(Path::new("")),
        },
        state: PrintedState { dir: config.state_dir.as_deref().unwrap_or(Path::new("")) },
        path: PrintedPath { procfs: &config.procfs, rootfs: &config.rootfs },
        limits: PrintedLimits {
            series: config.limits.series,
            entries: config.limits.entries,
            discovered_stores: config.limits.discovered_stores,
            collections: config.limits.collections,
        },
        log: PrintedLog { level: config.log.level.as_str(), format: config.log.format.as_str() },
        alerts: alerts::Printed::new(&config.alerts),
        receivers: config.receivers.iter().map(|r| r.printed()).collect(),
    }
}

fn printed_store<'a>(store: &'a Store, rootfs: &Path) -> PrintedStore<'a> {
    let BackupPolicy { globs, warn_after, critical_after, settle } = &store.backups;
    let PermissionPolicy { uid, gid, file_mode, directory_mode, server_uid, server_gids: _ } =
        store.permissions.clone();
    let octal = |mode: Option<u32>| mode.map(|mode| format!("{mode:04o}"));
    PrintedStore {
        name: &store.name,
        path: &store.path,
        backups: PrintedBackups {
            patterns: globs.iter().map(|glob| rules::pattern_of_host(rootfs, glob)).collect(),
            warn_after: duration::format(*warn_after),
            critical_after: duration::format(*critical_after),
            settle: duration::format(*settle),
        },
        permissions: PrintedPermissions {
            owner: uid,
            group: gid,
            file_mode: octal(file_mode),
            directory_mode: octal(directory_mode),
            server_user: server_uid,
        },
        logs: store.logs.iter().map(|glob| rules::pattern_of_host(rootfs, glob)).collect(),
        server: store.server.as_ref().map(
            |ServerProbe { url, headers_file, timeout, interval }| PrintedServer {
                url,
                headers_file: headers_file.as_deref(),
                timeout: duration::format(*timeout),
                interval: duration::format(*interval),
            },
        ),
        chroma_version: store.chroma_version.as_deref(),
    }
}
