//! One store in depth: is it safe, why not, and what was before.

use serde_json::json;

use super::{
    model::{
        Dashboard,
        Item::{self, Folded, Panel as P, Row},
        Panel, read_by,
    },
    shared::{VERDICT, VERDICTS, findings},
};

pub fn dashboard() -> Dashboard {
    let parts = [
        verdict(),
        read_by("disk", disk()),
        read_by("integrity", integrity()),
        read_by("contents", records()),
        read_by("contents", queue()),
        read_by("processes", processes()),
        read_by("descriptors", descriptors()),
        read_by("permissions", permissions()),
        read_by("backups", backups()),
        read_by("server", server()),
        deliveries(),
        collectors(),
    ];
    Dashboard {
        uid: "chroma-store",
        title: "Chroma / Store",
        description: "One Chroma store in depth: whether it is safe, why not, and what to do; below that disk and integrity, and folded away records and vectors, queue, processes, permissions, backups, server and deliveries.",
        others: &[("All stores", "chroma-fleet")],
        one: true,
        items: parts.into_iter().flatten().collect(),
    }
}

fn verdict() -> Vec<Item> {
    vec![
        P(Panel::number(
            "Verdict",
            "none",
            "The worst of the chosen stores: unsafe with a critical finding, not known when a collector fails or the store is not watched any more.",
        )
        .size(6, 5)
        .now(&format!("max({VERDICT})"))
        .levels("purple", &[])
        .words(VERDICTS)
        .nothing("NOT KNOWN")),
        P(Panel::number("Critical", "none", "Critical findings that are there: data is lost or at stake now.")
            .size(3, 5)
            .now("sum(chroma_finding{STORE, severity=\"critical\"})")
            .levels("green", &[(1.0, "red")])
            .nothing("not known")),
        P(Panel::number("Warnings", "none", "Warnings that are there: act, not now.")
            .size(3, 5)
            .now("sum(chroma_finding{STORE, severity=\"warning\"})")
            .levels("green", &[(1.0, "orange")])
            .nothing("not known")),
        P(Panel::number("Collectors failing", "none", "Collectors that cannot read what they should: what they watch is not known.")
            .size(3, 5)
            .now("sum(1 - chroma_exporter_collector_success{STORE})")
            .levels("green", &[(1.0, "purple")])
            .nothing("not known")),
        P(Panel::number("Age of readings", "s", "How long ago the oldest page of the exporters was put together. Seconds are normal.")
            .size(3, 5)
            .now("max(time() - chroma_exporter_snapshot_timestamp_seconds{HOST})")
            .levels("green", &[(60.0, "orange"), (300.0, "red")])
            .nothing("no answer")),
        P(Panel::number("Disk used", "percentunit", "Used share of the filesystem as df shows it. Warning at 80 %, critical at 90 %.")
            .size(3, 5)
            .now("max(chroma_disk_used_ratio{STORE})")
            .levels("green", &[(0.8, "orange"), (0.9, "red")])
            .nothing("not known")),
        P(Panel::number("Without vector", "none", "Records that no search by vector finds. 0 in every healthy store.")
            .size(3, 5)
            .now("sum(chroma_records_without_vector{STORE})")
            .levels("green", &[(1.0, "red")])
            .nothing("not known")),
        P(findings().size(24, 8)),
        P(Panel::states(
            "Findings over time",
            "When each finding was there, by severity. A gap is time in which it was not there or not known.",
        )
        .size(24, 7)
        .ask(
            "max by (instance, store, code) (\n    3 * (chroma_finding{STORE, severity=\"critical\"} == 1)\n  or\n    2 * (chroma_finding{STORE, severity=\"warning\"} == 1)\n  or\n    (chroma_finding{STORE, severity=\"info\"} == 1)\n)",
            "{{instance}} {{store}} {{code}}",
        )
        .words(&[(1, "info", "blue"), (2, "warning", "orange"), (3, "critical", "red")])
        .nothing("No findings")),
        P(Panel::table(
            "Where it is",
            "none",
            "Directory, mount and installed Chroma of each chosen store, with the labels of node_exporter for its filesystem.",
        )
        .size(24, 5)
        .now("max by (job, instance, store, path) (chroma_store_info{STORE})")
        .now("max by (job, instance, store, device, fstype, mountpoint) (chroma_disk_info{STORE})")
        .now("max by (job, instance, store, version) (chroma_installed_info{STORE})")
        .columns(
            &[
                ("store", "store"),
                ("instance", "instance"),
                ("path", "Directory"),
                ("version", "Chroma"),
                ("mountpoint", "Mount"),
                ("device", "Device"),
                ("fstype", "Filesystem"),
            ],
            &["Time", "job", "Value #A", "Value #B", "Value #C"],
            &[("store", false)],
        )
        .nothing("No exporter tells of such a store")),
    ]
}

fn disk() -> Vec<Item> {
    vec![
        Row("Disk"),
        P(Panel::curves("Disk used over time", "percentunit", "Used share of the filesystem as df shows it. Warning at 80 %, critical at 90 %.")
            .ask("chroma_disk_used_ratio{STORE}", "{{instance}} {{store}}")
            .marks(&[(0.8, "orange"), (0.9, "red")])
            .size(9, 8)),
        P(Panel::number("Disk full", "dateTimeFromNow", "When the filesystem will be full at the pace of the last hours; nothing while it is not filling.")
            .now("1000 * min(chroma_disk_full_timestamp_seconds{STORE})")
            .levels("orange", &[])
            .nothing("not filling")
            .size(3, 8)),
        P(Panel::curves(
            "Room and database",
            "bytes",
            "Bytes that are free, the least of the last hour, and the size of the database: a vacuum or a backup beside it needs twice that.",
        )
        .ask("chroma_disk_avail_bytes{STORE}", "{{instance}} {{store}} free")
        .ask("chroma_disk_avail_low_water_bytes{STORE}", "{{instance}} {{store}} least of the hour")
        .ask("chroma_store_apparent_bytes{STORE, class=\"sqlite\"}", "{{instance}} {{store}} database")
        .size(12, 8)),
        P(Panel::areas("Bytes on disk", "bytes", "What the persist directory takes on disk, by what it is for.")
            .ask("chroma_store_allocated_bytes{STORE}", "{{instance}} {{store}} {{class}}")),
        P(Panel::curves(
            "Growth per day",
            "bytes",
            "Bytes on disk that the persist directory gains in a day at the pace of the last day; below zero it shrinks. Shorter after the exporter was new: what was read so far counts.",
        )
        .ask("86400 * sum by (job, instance, store) (deriv(chroma_store_allocated_bytes{STORE}[1d]))", "{{instance}} {{store}}")
        .signed()),
        P(Panel::curves(
            "Bytes that are in no file",
            "bytes",
            "Free pages of the database, which a vacuum gives back; deleted files that a process keeps open; folders of deleted collections.",
        )
        .ask("chroma_sqlite_reclaimable_bytes{STORE}", "{{instance}} {{store}} free pages")
        .ask("chroma_store_deleted_open_bytes{STORE}", "{{instance}} {{store}} deleted and open")
        .ask("sum by (job, instance, store) (chroma_hnsw_orphan_bytes{STORE})", "{{instance}} {{store}} orphans")),
        P(Panel::curves("Inodes free", "percentunit", "Share of the inodes that is free; nothing where the filesystem has no limit. Warning below 5 %.")
            .ask("chroma_disk_inodes_free{STORE} / chroma_disk_inodes{STORE}", "{{instance}} {{store}}")
            .nothing("no limit")),
        P(Panel::states("Filesystem", "Whether the filesystem is read-only for the server, or fails or does not answer in time.")
            .ask("max by (instance, store) (chroma_finding{STORE, code=\"disk_readonly\"} or 2 * chroma_disk_device_error{STORE})", "{{instance}} {{store}}")
            .words(&[(0, "writable", "green"), (1, "read-only", "red"), (2, "does not answer", "purple")])
            .size(24, 5)),
    ]
}

fn integrity() -> Vec<Item> {
    vec![
        Row("Integrity"),
        P(Panel::states("State of each check", "What the newest run of each check said. Busy is not corrupt, and unknown is not healthy.")
            .ask(
                "max by (instance, store, check) (\n    4 * chroma_integrity_state{STORE, state=\"corrupt\"}\n  or\n    3 * chroma_integrity_state{STORE, state=\"unreadable\"}\n  or\n    2 * chroma_integrity_state{STORE, state=\"unknown\"}\n  or\n    chroma_integrity_state{STORE, state=\"busy\"}\n)",
                "{{instance}} {{store}} {{check}}",
            )
            .words(&[(0, "ok", "green"), (1, "busy", "blue"), (2, "unknown", "purple"), (3, "unreadable", "orange"), (4, "corrupt", "red")])),
        P(Panel::curves("Time since a check ended well", "s", "How long ago each check last ended without finding anything: what broke since then may not be seen yet.")
            .ask("time() - (chroma_integrity_last_ok_timestamp_seconds{STORE} > 0)", "{{instance}} {{store}} {{check}}")),
        P(Panel::curves("Duration of checks", "s", "How long the newest run of each check took.")
            .ask("chroma_integrity_duration_seconds{STORE}", "{{instance}} {{store}} {{check}}")
            .size(6, 8)),
        P(Panel::curves("Longest lock of a check", "s", "How long the newest run of each check held a shared lock at most: no writer waited longer for it.")
            .ask("chroma_integrity_lock_hold_seconds{STORE}", "{{instance}} {{store}} {{check}}")
            .size(6, 8)),
        P(Panel::curves("Covered by checks", "percentunit", "How much of what there is the newest run of each check could judge; decay: bytes whose present state is known by their hashes, which a store that is written all the time never has in full.")
            .ask("chroma_integrity_coverage_ratio{STORE}", "{{instance}} {{store}} {{check}}")
            .size(6, 8)),
        P(Panel::table("Next checks", "s", "When each check is due next, and how long that is from now; below zero it is due and waits for its turn or its hours.")
            .now("1000 * min by (instance, store, check) (chroma_integrity_next_due_timestamp_seconds{STORE})")
            .now("min by (instance, store, check) (chroma_integrity_next_due_timestamp_seconds{STORE} - time())")
            .columns(
                &[("store", "store"), ("instance", "instance"), ("check", "Check"), ("Value #B", "Time left"), ("Value #A", "Due")],
                &["Time"],
                &[("Time left", false)],
            )
            .field("Due", &[("unit", json!("dateTimeAsLocal"))])
            .size(6, 8)),
    ]
}

fn records() -> Vec<Item> {
    vec![
        Folded("Records and vectors"),
        P(Panel::curves(
            "Records against vectors",
            "none",
            "Records in the tables; elements of the indexes that are not deleted; operations that wait in the queue for the index. Indexes and queue together hold the records.",
        )
        .ask("chroma_records{STORE}", "{{instance}} {{store}} records")
        .ask("chroma_hnsw_elements{STORE} - chroma_hnsw_deleted_elements{STORE}", "{{instance}} {{store}} vectors in indexes")
        .ask("chroma_queue_lag_records{STORE, scope=\"vector\"}", "{{instance}} {{store}} waiting")),
        P(Panel::curves("Records without a vector", "none", "Records whose vector is neither in the index nor in the queue: what a second writer leaves. 0 in every healthy store.")
            .ask("chroma_records_without_vector{STORE}", "{{instance}} {{store}}")
            .marks(&[(1.0, "red")])),
        P(Panel::areas("Indexes by state", "none", "Indexes of collections by how they stand. ok, unpersisted and flushing are healthy; orphan is left of a deleted collection.")
            .ask("sum by (instance, store, state) (chroma_hnsw_segments{STORE})", "{{instance}} {{store}} {{state}}")),
        P(Panel::curves(
            "Records per day",
            "none",
            "Records that the store gains in a day at the pace of the last day; below zero more are deleted than added.",
        )
        .ask("86400 * deriv(chroma_records{STORE}[1d])", "{{instance}} {{store}}")
        .signed()),
        P(Panel::table(
            "Largest collections",
            "none",
            "The collections with the most records (20 of each store unless limits.collections says otherwise), as the last whole walk over the records counted them, and what they gained in a day since the week before.",
        )
        .now("max by (instance, store, collection) (chroma_collection_records{STORE})")
        .now("86400 * max by (instance, store, collection) (deriv(chroma_collection_records{STORE}[1w]))")
        .columns(
            &[("collection", "Collection"), ("store", "store"), ("instance", "instance"), ("Value #A", "Records"), ("Value #B", "Per day")],
            &["Time"],
            &[("Records", true)],
        )
        .nothing("No walk over the records has ended yet, or limits.collections is 0")
        .size(12, 8)),
        P(Panel::curves(
            "Documents that differ",
            "none",
            "Documents whose two copies do not agree, by what is wrong, and rows that belong to nothing, as the last whole walk found them.",
        )
        .ask("chroma_documents_differing{STORE}", "{{instance}} {{store}} {{how}}")
        .ask("sum by (instance, store) (chroma_orphan_rows{STORE})", "{{instance}} {{store}} rows of nothing")),
    ]
}

fn queue() -> Vec<Item> {
    vec![
        Folded("Queue"),
        P(Panel::curves("Rows in the queue", "none", "Operations in the queue, those kept after they were applied included.")
            .ask("chroma_queue_records{STORE}", "{{instance}} {{store}}")
            .size(8, 8)),
        P(Panel::curves("Lag", "none", "Operations that the furthest segment is behind the queue. Up to the sync threshold (1000) is normal for vector.")
            .ask("chroma_queue_lag_records{STORE}", "{{instance}} {{store}} {{scope}}")
            .size(8, 8)),
        P(Panel::curves("Segments behind", "none", "Segments that are further behind the queue than is normal.")
            .ask("chroma_queue_segments_behind{STORE}", "{{instance}} {{store}} {{scope}}")
            .marks(&[(1.0, "orange")])
            .size(8, 8)),
    ]
}

fn processes() -> Vec<Item> {
    vec![
        Folded("Who holds it"),
        P(Panel::curves("Processes that write", "none", "Processes that hold chroma.sqlite3 open for writing. Two lose vectors of each other.")
            .ask("chroma_process_writers{STORE}", "{{instance}} {{store}} writers")
            .ask("chroma_processes{STORE, access=\"read\"}", "{{instance}} {{store}} readers")
            .marks(&[(2.0, "red")])
            .size(8, 8)),
        P(Panel::curves("Lock held by another", "s", "For how long another process than the server has been seen holding a lock: all writers wait for it in silence.")
            .ask("chroma_process_lock_seconds{STORE}", "{{instance}} {{store}}")
            .size(8, 8)),
        P(Panel::curves("Server up for", "s", "Time since the server, or else the first writer, started. A saw is a server that restarts.")
            .ask("time() - chroma_process_start_timestamp_seconds{STORE}", "{{instance}} {{store}}")
            .nothing("nobody holds it")
            .size(8, 8)),
        P(Panel::curves("Memory", "bytes", "Resident memory of the server, or else of the first writer.")
            .ask("chroma_process_resident_memory_bytes{STORE}", "{{instance}} {{store}}")
            .nothing("nobody holds it")
            .size(8, 8)),
        P(Panel::curves("CPU", "percentunit", "Share of one core that the server, or else the first writer, uses.")
            .ask("rate(chroma_process_cpu_seconds_total{STORE}[$__rate_interval])", "{{instance}} {{store}}")
            .nothing("nobody holds it")
            .size(8, 8)),
    ]
}

/// They stand below the heading of the processes.
fn descriptors() -> Vec<Item> {
    vec![P(Panel::curves(
        "File descriptors",
        "percentunit",
        "Share of its file descriptors that the process has open that is nearest to its limit, of those that hold the directory for writing.",
    )
    .ask(
        "chroma_process_open_fds{STORE} / chroma_process_max_fds{STORE}",
        "{{instance}} {{store}}",
    )
    .marks(&[(0.9, "orange")])
    .nothing("nobody holds it")
    .size(8, 8))]
}

fn permissions() -> Vec<Item> {
    vec![
        Folded("Permissions"),
        P(Panel::curves("Drift", "none", "Entries whose owner, group, mode, type or access list differs from what was declared or learnt.")
            .ask("chroma_permission_drift{STORE}", "{{instance}} {{store}} {{kind}}")
            .marks(&[(1.0, "orange")])),
        P(Panel::curves("Entries that are wrong", "none", "Entries that the server must write and cannot, and entries that everybody may change.")
            .ask("chroma_permission_unwritable{STORE}", "{{instance}} {{store}} cannot be written")
            .ask("chroma_permission_world_writable{STORE}", "{{instance}} {{store}} everybody may write")
            .marks(&[(1.0, "red")])),
    ]
}

fn backups() -> Vec<Item> {
    vec![
        Folded("Backups"),
        P(Panel::curves("Age of the newest backup", "s", "Age of the newest complete backup, and of the newest that was opened and proven to restore. Warning at 26 hours, critical at 50.")
            .ask("time() - chroma_backup_last_success_timestamp_seconds{STORE}", "{{instance}} {{store}}")
            .ask("time() - chroma_backup_proven_timestamp_seconds{STORE}", "{{instance}} {{store}} proven")
            .marks(&[(93_600.0, "orange"), (180_000.0, "red")])
            .nothing("No backups are watched, or there is none")
            .size(8, 8)),
        P(Panel::curves("Size of the newest backup", "bytes", "A backup that is suddenly small lacks most of the data.")
            .ask("chroma_backup_size_bytes{STORE}", "{{instance}} {{store}}")
            .nothing("No backups are watched, or there is none")
            .size(8, 8)),
        P(Panel::areas("Backups", "none", "Complete ones among the 500 newest, and what stands in their place and is none, by reason.")
            .ask("chroma_backups{STORE}", "{{instance}} {{store}} complete")
            .ask("chroma_backups_proven{STORE}", "{{instance}} {{store}} proven to restore")
            .ask("chroma_backups_incomplete{STORE} > 0", "{{instance}} {{store}} {{reason}}")
            .nothing("No backups are watched")
            .size(8, 8)),
        P(Panel::curves("Records in the newest proven backup", "none", "Records of the store, and of the newest backup that was proven to restore. A gap that stays is data that no backup has.")
            .ask("chroma_records{STORE}", "{{instance}} {{store}}")
            .ask("chroma_backup_proven_records{STORE}", "{{instance}} {{store}} in the backup")
            .size(8, 8)),
        P(Panel::curves("Last proof of a backup", "s", "Time since a backup was opened last to see whether it restores. The exporter does it once a week.")
            .ask("time() - chroma_backup_last_proof_timestamp_seconds{STORE}", "{{instance}} {{store}}")
            .marks(&[(691_200.0, "orange")])
            .nothing("No backup was opened yet")
            .size(8, 8)),
        P(Panel::curves("Backups that the exporter makes", "s", "How long making and proving took, and what opening the newest took. Failed: 1 while the last one failed.")
            .ask("chroma_backup_job_last_run_duration_seconds{STORE}", "{{instance}} {{store}} made")
            .ask("chroma_backup_last_proof_duration_seconds{STORE}", "{{instance}} {{store}} opened")
            .ask("1 - chroma_backup_job_success{STORE}", "{{instance}} {{store}} failed")
            .nothing("The exporter makes no backups by itself")
            .size(8, 8)),
    ]
}

fn server() -> Vec<Item> {
    vec![
        Folded("Server and its log"),
        P(Panel::states("Release of Chroma", "Which release of Chroma is installed where the process that holds the store has its packages, over time.")
            .ask("max by (instance, store, version) (chroma_installed_info{STORE})", "{{instance}} {{store}} {{version}}")
            .words(&[(1, "in use", "blue")])
            .nothing("Not known: nothing held the store since the exporter started, or it may not look into that process")
            .size(24, 5)),
        P(Panel::states("Questions to the server", "Whether the server answers each question: the heartbeat never touches the database, the others do.")
            .ask("max by (instance, store, probe) (chroma_server_probe_success{STORE})", "{{instance}} {{store}} {{probe}}")
            .words(&[(0, "fails", "red"), (1, "answers", "green")])
            .nothing("No server is configured")
            .size(8, 8)),
        P(Panel::curves("Time to answer", "s", "How long the server took for each question.")
            .ask("chroma_server_probe_duration_seconds{STORE}", "{{instance}} {{store}} {{probe}}")
            .nothing("No server is configured")
            .size(8, 8)),
        P(Panel::curves("Trouble in the log", "none", "Lines of the server's log that tell of trouble, by what they tell.")
            .ask("increase(chroma_log_signature_total{STORE}[$__rate_interval])", "{{instance}} {{store}} {{signature}}")
            .nothing("No log is configured")
            .size(8, 8)),
    ]
}

fn deliveries() -> Vec<Item> {
    vec![
        Folded("Deliveries of the exporter's own hooks"),
        P(Panel::curves("Alerts that wait", "none", "Alerts that wait to be told to a receiver.")
            .ask("chroma_exporter_notification_queue_length{HOST}", "{{instance}} {{receiver}}")
            .marks(&[(1.0, "orange")])
            .nothing("No receivers are configured")
            .size(8, 8)),
        P(Panel::curves("Attempts", "cps", "Attempts to send, and those that failed, by reason.")
            .ask("sum by (receiver) (rate(chroma_exporter_notifications_total{HOST}[$__rate_interval]))", "{{receiver}}")
            .ask("sum by (receiver, reason) (rate(chroma_exporter_notifications_failed_total{HOST}[$__rate_interval])) > 0", "{{receiver}} failed: {{reason}}")
            .nothing("No receivers are configured")
            .size(8, 8)),
        P(Panel::table("Alerts of the hooks that fire", "none", "What the exporter's own alerts say of the chosen stores, silenced ones included.")
            .now("chroma_alert_firing{STORE} == 1")
            .columns(
                &[("severity", "Severity"), ("alert", "Alert"), ("store", "store"), ("instance", "instance")],
                &["Time", "job", "Value", "__name__"],
                &[("Severity", false)],
            )
            .nothing("None")
            .size(8, 8)),
    ]
}

fn collectors() -> Vec<Item> {
    vec![
        Folded("Collectors"),
        P(Panel::states("Collectors", "Whether the last run of each collector could read all that it should.")
            .ask("max by (instance, store, collector) (chroma_exporter_collector_success{STORE})", "{{instance}} {{store}} {{collector}}")
            .words(&[(0, "fails", "purple"), (1, "works", "green")])
            .nothing("No exporter tells of such a store")),
        P(Panel::curves("Duration of collectors", "s", "How long the last run of each collector took.")
            .ask("chroma_exporter_collector_duration_seconds{STORE}", "{{instance}} {{store}} {{collector}}")
            .nothing("No exporter tells of such a store")),
        P(Panel::table(
            "What the exporter may not see",
            "none",
            "Capabilities that the exporter lacks to look into processes of other users and containers; nothing when it has all.",
        )
        .now("max by (instance, store, capability) (chroma_exporter_capability{STORE}) == 0")
        .columns(&[("store", "store"), ("instance", "instance"), ("capability", "Lacks")], &["Time", "Value"], &[("store", false)])
        .nothing("Nothing")
        .size(12, 6)),
        P(Panel::states("File events", "Whether changes of the store are seen at once or at the interval only.")
            .ask("chroma_exporter_watch{STORE}", "{{instance}} {{store}}")
            .words(&[(0, "at the interval", "orange"), (1, "at once", "green")])
            .nothing("No exporter tells of such a store")
            .size(12, 6)),
    ]
}
