//! What is printed is read back as the same configuration, and no text makes the loader panic.

use proptest::prelude::*;

use super::*;

/// Below a root of its own, so that prefixes come and go; a root without `/etc/passwd`, so that no groups are found.
const ROOTFS: &str = "/no root";

fn any_permissions() -> impl Strategy<Value = PermissionPolicy> {
    let id = || proptest::option::of(0_u32..u32::MAX);
    let mode = || proptest::option::of(0_u32..=0o7777);
    (id(), id(), mode(), mode(), id()).prop_map(
        |(uid, gid, file_mode, directory_mode, server_uid)| PermissionPolicy {
            uid,
            gid,
            file_mode,
            directory_mode,
            server_uid,
            server_gids: Vec::new(),
        },
    )
}

fn any_backups() -> impl Strategy<Value = BackupPolicy> {
    let patterns = proptest::collection::vec("/[a-z*?#' ]{1,9}", 0..3);
    (patterns, 60_000_u64..10_000_000, 1_u64..100_000_000, 0_u64..86_400_000).prop_map(
        |(patterns, warn, more, settle)| BackupPolicy {
            globs: patterns
                .iter()
                .filter_map(|pattern| rules::backup_pattern(pattern).ok())
                .map(|pattern| rules::pattern_below_root(Path::new(ROOTFS), &pattern))
                .collect(),
            warn_after: Duration::from_millis(warn),
            critical_after: Duration::from_millis(warn + more),
            settle: Duration::from_millis(settle),
            drill: Duration::from_millis(settle + warn),
        },
    )
}

fn any_backup() -> impl Strategy<Value = Option<BackupJob>> {
    let to = "/[a-z'\"#: ]{1,9}[a-z]";
    let form = proptest::sample::select(Form::ALL.to_vec());
    let counts = (1..9_usize, 0..9_usize, 0..9_usize, 0..9_usize);
    let at = proptest::sample::select(vec![None, Some("02:00"), Some("23:59 UTC")]);
    let words = proptest::collection::vec("[a-z{} ]{1,9}", 0..3);
    proptest::option::of((to, form, counts, at, words, 60_000..90_000_000_u64).prop_map(
        |(to, form, (last, daily, weekly, monthly), at, after, every)| BackupJob {
            to: rules::absolute_path(&to).unwrap(),
            form,
            keep: Keep { last, daily, weekly, monthly },
            at: at.map(|at| Daily::parse(at, |_| None).unwrap()),
            every: Duration::from_millis(every),
            after,
            after_timeout: Duration::from_millis(every / 60),
        },
    ))
}

fn any_server() -> impl Strategy<Value = Option<ServerProbe>> {
    let file = proptest::option::of("/[a-z'\"#: ]{1,9}[a-z]");
    let probe = (
        "https?://[a-z]{1,9}(:[1-9][0-9]{1,3})?(/[a-z]{1,5})?",
        file,
        100..60_000_u64,
        1_000..90_000_u64,
    );
    proptest::option::of(probe.prop_map(|(url, file, timeout, interval)| ServerProbe {
        // The usual port of a scheme is not written.
        url: rules::server_url(&url).unwrap(),
        headers_file: file.and_then(|file| rules::absolute_path(&file).ok()),
        timeout: Duration::from_millis(timeout),
        interval: Duration::from_millis(interval),
    }))
}

fn any_store() -> impl Strategy<Value = Store> {
    let path = "/var/[a-z\"'#: {}\\[\\],&*!|>%@`~é-]{1,12}"
        .prop_filter_map("a path", |text| rules::absolute_path(&text).ok());
    let version = proptest::option::of("[0-9][0-9a-z.]{0,9}");
    let logs = any_backups().prop_map(|policy| policy.globs);
    let name = "[A-Za-z0-9_.-]{1,64}";
    let backups = (any_backups(), any_backup());
    (path, name, backups, any_permissions(), logs, any_server(), version).prop_map(
        |(path, name, (backups, backup), permissions, logs, server, chroma_version)| Store {
            name: name.into(),
            seen_path: rules::below_root(Path::new(ROOTFS), &path),
            path,
            backups,
            backup,
            permissions,
            logs,
            server,
            chroma_version,
            through: None,
        },
    )
}

fn any_stores() -> impl Strategy<Value = Vec<Arc<Store>>> {
    proptest::collection::vec(any_store(), 0..4).prop_map(|mut stores| {
        stores.sort_by(|a, b| a.path.cmp(&b.path));
        stores.dedup_by(|a, b| a.path == b.path);
        stores.sort_by(|a, b| a.name.cmp(&b.name));
        stores.dedup_by(|a, b| a.name == b.name);
        stores.into_iter().map(Arc::new).collect()
    })
}

fn any_web() -> impl Strategy<Value = Web> {
    let address = (any::<std::net::IpAddr>(), any::<u16>());
    (address, 1..=100_000_usize, any::<bool>(), 100..300_000_u64).prop_map(
        |(address, max_connections, enable_lifecycle, header)| Web {
            listen_addresses: vec![address.into()],
            max_connections,
            enable_lifecycle,
            header_timeout: Duration::from_millis(header),
            allowed_hosts: vec![format!("host-{max_connections}.example.org")],
            ..Web::default()
        },
    )
}

fn any_config() -> impl Strategy<Value = Config> {
    let enabled =
        proptest::sample::subsequence(CollectorName::ALL.to_vec(), 1..=CollectorName::ALL.len());
    let level = proptest::sample::select(LogLevel::ALL.to_vec());
    let format = proptest::sample::select(LogFormat::ALL.to_vec());
    let collect = (100..3_600_000_u64).prop_map(|interval| Collect {
        interval: Duration::from_millis(interval),
        ..Collect::default()
    });
    let disk = (0.0..0.5_f64).prop_map(|ratio| Disk {
        recover_ratio: ratio,
        warn_ratio: ratio + 0.1,
        critical_ratio: ratio + 0.3,
        inodes_low_ratio: ratio,
        ..Disk::default()
    });
    let state_dir = any::<bool>().prop_map(|some| some.then(|| "/srv/state dir".into()));
    (any_stores(), enabled, any_web(), (collect, disk), state_dir, (level, format)).prop_map(
        |(stores, enabled, web, (collect, disk), state_dir, (level, format))| Config {
            stores,
            enabled: enabled.into_iter().collect(),
            collect,
            disk,
            web,
            state_dir,
            rootfs: ROOTFS.into(),
            log: Log { level, format, ..Log::default() },
            ..Config::default()
        },
    )
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(config in any_config()) {
        let text = print::to_yaml(&config).unwrap();
        prop_assert_eq!(read(&text, &Overrides::default()), Ok(config), "{}", text);
    }

    #[test]
    fn no_bytes_make_the_loader_panic(text in "\\PC{0,300}") {
        drop(read(&text, &Overrides::default()));
    }

    #[test]
    fn no_mutation_of_a_real_file_makes_the_loader_panic(at in 0..EXAMPLE.len(), cut in 0..40_usize, put in "[a-z0-9:\\-\\[\\]{}&*!|>'\"%@`#,? \n\t<é]{0,6}") {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, put.bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yml");
        fs::write(&path, bytes).unwrap();
        drop(load(&Overrides { config_file: Some(path), ..Overrides::default() }, &[]));
    }
}
