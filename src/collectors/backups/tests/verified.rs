//! Which backups are proven to restore: by their manifest, by the drill, or not at all.

use super::*;

/// A manifest as a backup of ours has it.
fn manifest(restores: Restores, at: i64) -> Vec<u8> {
    let proof = crate::format::manifest::Proof {
        restores,
        moment: Timestamp::from_secs(at),
        by: "chroma_exporter".to_owned(),
        checks: BTreeMap::new(),
        findings: BTreeSet::new(),
        seconds: 2.5,
    };
    let collection = crate::format::manifest::Collection {
        id: "c".to_owned(),
        name: "c".to_owned(),
        tenant: "default_tenant".to_owned(),
        database: "default_database".to_owned(),
        space: None,
        dimension: None,
        records: 7,
        documents: 7,
        vectors: 7,
        queued: 0,
    };
    let manifest = crate::format::manifest::Manifest {
        format: 1,
        made_by: "chroma_exporter".to_owned(),
        host: "h".to_owned(),
        store: "/srv/chroma".to_owned(),
        moment: Timestamp::from_secs(at),
        opened_by: None,
        files: Vec::new(),
        collections: vec![collection],
        proof: Some(proof),
    };
    manifest.to_json()
}

fn unverified(seen: &Observation) -> Option<(Severity, &str)> {
    let finding = seen.findings.iter().find(|f| f.code == Code::BackupUnverified)?;
    Some((finding.severity, &finding.evidence))
}

#[test]
fn a_backup_that_nobody_opened_is_told_when_the_drill_had_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma_db.backup.*");
    archive(dir.path(), "chroma_db.backup.tar.gz", NOW - 3600);
    let (seen, _) = observe(&mut collector, NOW);
    assert_eq!(unverified(&seen), None, "it is about to be opened");
    assert_eq!(value(&seen, &proven::PROVEN_COUNT), Some(0.0));
    assert_eq!(value(&seen, &proven::PROVEN), None);
    let (later, _) = observe(&mut collector, NOW + 27 * 3600);
    let (severity, evidence) = unverified(&later).unwrap();
    assert_eq!(severity, Severity::Warning);
    assert!(evidence.ends_with("chroma_db.backup.tar.gz was never opened"), "{evidence}");
}

#[test]
fn a_manifest_says_how_a_backup_was_proven_in_a_directory_and_in_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("chroma.backup.20261118");
    fs::create_dir(&copy).unwrap();
    fs::copy(fixture("chroma-1.5.9-empty/chroma.sqlite3"), copy.join("chroma.sqlite3")).unwrap();
    let at = NOW - 3600;
    fs::write(copy.join("manifest.json"), manifest(Restores::Whole, at)).unwrap();
    touch(&copy.join("chroma.sqlite3"), at);
    let packed = dir.path().join("chroma.backup.tar.zst");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(dir.path().join("x.tar")).arg("-C").arg(&copy);
    assert!(tar.args(["manifest.json", "chroma.sqlite3"]).status().unwrap().success());
    let bytes = fs::read(dir.path().join("x.tar")).unwrap();
    fs::write(&packed, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
    fs::remove_file(dir.path().join("x.tar")).unwrap();
    for pattern in ["chroma.backup.20261118", "chroma.backup.tar.zst"] {
        let mut collector = backups(dir.path(), pattern);
        // All of it was written a moment ago, whatever its times say.
        let now = clock::now().plus(Duration::from_mins(1)).as_secs();
        let (seen, _) = observe(&mut collector, now);
        assert_eq!(value(&seen, &proven::PROVEN_COUNT), Some(1.0), "{pattern}");
        assert_eq!(value(&seen, &proven::PROVEN_RECORDS), Some(7.0), "{pattern}");
        assert_eq!(value(&seen, &proven::PROOF_SECONDS), Some(2.5), "{pattern}");
        assert_eq!(value(&seen, &proven::PROOF), Some(at as f64), "{pattern}");
    }
    fs::write(copy.join("manifest.json"), manifest(Restores::Not, at)).unwrap();
    let mut collector = backups(dir.path(), "chroma.backup.20261118");
    let now = clock::now().plus(Duration::from_mins(1)).as_secs();
    let (seen, codes) = observe(&mut collector, now);
    assert_eq!(codes, ["backup_invalid", "backup_missing"], "{:?}", seen.findings);
}

#[test]
fn what_the_exporter_has_opened_itself_counts_as_long_as_the_bytes_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = Arc::new(Config { state_dir: Some(state.path().to_owned()), ..Config::default() });
    let policy = BackupPolicy::daily(vec![dir.path().join("*.gz").to_string_lossy().into_owned()]);
    let store =
        Arc::new(Store { backups: policy, ..Store::new("main", fixture("chroma-1.5.9-empty")) });
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let mut collector = Backups::new(&context);
    let path = archive(dir.path(), "a.tar.gz", NOW - 3600);
    observe(&mut collector, NOW);
    let newest = Newest::load(&context.host.state, &store.path).unwrap();
    assert_eq!((&newest.path, newest.since), (&path, Timestamp::from_secs(NOW)));
    let mut ledger = Ledger::default();
    let proof = |restores, losses: &[&str]| ledger::Proof {
        restores,
        at: Timestamp::from_secs(NOW),
        seconds: 1.0,
        records: 3,
        losses: losses.iter().map(|loss| (*loss).to_owned()).collect(),
    };
    ledger.note(&newest, proof(Restores::Whole, &[]));
    ledger.save(&context.host.state, &store.path);
    let (seen, _) = observe(&mut collector, NOW + 60);
    assert_eq!(unverified(&seen), None);
    assert_eq!(value(&seen, &proven::PROVEN_RECORDS), Some(3.0));
    let (seen, _) = observe(&mut collector, NOW + 9 * 86_400);
    let (severity, evidence) = unverified(&seen).unwrap();
    assert!(evidence.starts_with("no backup was opened for 9 days"), "{evidence}");
    assert_eq!(severity, Severity::Warning);

    ledger.note(&newest, proof(Restores::WithLosses, &["docs: 2 records have no vector"]));
    ledger.save(&context.host.state, &store.path);
    let (seen, _) = observe(&mut collector, NOW + 120);
    let (_, evidence) = unverified(&seen).unwrap();
    assert!(
        evidence.ends_with("restores with losses: docs: 2 records have no vector"),
        "{evidence}"
    );
    ledger.note(&newest, proof(Restores::Not, &["its database is cut off"]));
    ledger.save(&context.host.state, &store.path);
    assert_eq!(observe(&mut collector, NOW + 180).1, ["backup_invalid", "backup_missing"]);

    touch(&path, NOW - 1800);
    let (seen, codes) = observe(&mut collector, NOW + 240);
    assert_eq!(codes, [""; 0], "another file than the one that was opened: {:?}", seen.findings);
}

#[test]
fn a_backup_of_the_exporter_that_failed_is_told_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = Arc::new(Config { state_dir: Some(state.path().to_owned()), ..Config::default() });
    let job = crate::config::BackupJob { to: dir.path().to_owned(), ..Default::default() };
    let store =
        Arc::new(Store { backup: Some(job), ..Store::new("main", fixture("chroma-1.5.9-empty")) });
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let mut ledger = Ledger {
        job: Some(ledger::Run {
            began: Timestamp::from_secs(NOW),
            ended: Timestamp::from_secs(NOW + 5),
            path: None,
            fault: "not enough room".to_owned(),
            failing_since: Some(Timestamp::from_secs(NOW - 60)),
            after_exit: Some(3),
        }),
        ..Ledger::default()
    };
    ledger.save(&context.host.state, &store.path);
    let mut collector = Backups::new(&context);
    let (seen, codes) = observe(&mut collector, NOW + 10);
    assert_eq!(codes, ["backup_missing", "backup_failed"], "its own place is looked at");
    assert!(seen.findings[1].evidence.contains("not enough room"));
    assert_eq!(value(&seen, &proven::JOB_SUCCESS), Some(0.0));
    assert_eq!(value(&seen, &proven::JOB_SECONDS), Some(5.0));
    assert_eq!(value(&seen, &proven::AFTER_EXIT), Some(3.0));
    if let Some(run) = &mut ledger.job {
        run.fault.clear();
    }
    ledger.save(&context.host.state, &store.path);
    let (seen, codes) = observe(&mut collector, NOW + 20);
    assert_eq!((codes, value(&seen, &proven::JOB_SUCCESS)), (vec!["backup_missing"], Some(1.0)));
}
