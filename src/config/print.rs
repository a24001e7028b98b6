//! The effective configuration as YAML that reads back to the same [`Config`], except that a secret that stands in the file
//! itself is printed as `<secret>`.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    BackupPolicy, CollectorName, Config, Receiver, Store,
    keys::{Account, File, Paths, RawPermissions, RawStore, State},
};
use crate::keys::{
    key::{Declared, Written},
    report::{At, Place},
    rules,
};

/// `config` as a file would say it, every key written out. Errs only when a path is not UTF-8, which no configuration
/// that was loaded has.
pub fn to_yaml(config: &Config) -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(&Document(written(config), &config.receivers))
}

struct Document<'a>(Written, &'a [Arc<Receiver>]);

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(None)?;
        if let Written::Keys(keys) = &self.0 {
            for (key, value) in keys {
                map.serialize_entry(key, value)?;
            }
        }
        let receivers: Vec<_> = self.1.iter().map(|receiver| receiver.written()).collect();
        map.serialize_entry("receivers", &receivers)?;
        map.end()
    }
}

/// `config` as a file would say it, without the receivers.
pub(crate) fn written(config: &Config) -> Written {
    let on = |name: CollectorName| (name, config.enabled.contains(&name));
    let file = File {
        stores: config.stores.iter().map(|one| at(store(one, config))).collect(),
        collectors: CollectorName::ALL.map(on).into(),
        collect: config.collect.clone(),
        integrity: config.integrity.clone(),
        disk: config.disk.clone(),
        web: config.web.clone(),
        state: State { dir: Some(at(config.state_dir.clone())) },
        path: Paths { procfs: config.procfs.clone(), rootfs: config.rootfs.clone() },
        limits: config.limits.clone(),
        log: config.log,
        alerts: config.alerts.clone(),
    };
    file.written()
}

fn store(store: &Store, config: &Config) -> RawStore {
    let policy = &store.permissions;
    let account = |id: Option<u32>| id.map(|id| at(Account::Id(id)));
    let patterns = |globs: &[String]| {
        globs.iter().map(|glob| rules::pattern_of_host(&config.rootfs, glob)).collect()
    };
    RawStore {
        name: Some(at(store.name.to_string())),
        path: Some(at(store.path.clone())),
        backups: BackupPolicy { globs: patterns(&store.backups.globs), ..store.backups.clone() },
        backup: store.backup.clone(),
        permissions: RawPermissions {
            owner: account(policy.uid),
            group: account(policy.gid),
            file_mode: policy.file_mode,
            directory_mode: policy.directory_mode,
            server_user: account(policy.server_uid),
        },
        logs: patterns(&store.logs),
        server: store.server.clone(),
        chroma_version: store.chroma_version.clone(),
    }
}

fn at<T>(value: T) -> At<T> {
    At { value, place: Place::outside("") }
}
