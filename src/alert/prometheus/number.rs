//! The numbers behind a finding, which its 0 or 1 does not tell: asked of Prometheus when the alert is put into words.

use crate::findings::Code;

/// A question and the words for each series that it gives; none gives no words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    /// PromQL; `AT` stands for the matchers of the store.
    query: &'static str,
    /// One sentence as a template, with `.Value` and `.Labels`.
    words: &'static str,
}

impl Number {
    /// As part of a description that has `$at`.
    pub(super) fn template(&self) -> String {
        // Go reads the query between quotes, and printf in it a `%`.
        let query = self.query.replace('"', "\\\"").replace('%', "%%").replace("AT", "%[1]s");
        format!("{{{{ range query (printf \"{query}\" $at) }}}} {}{{{{ end }}}}", self.words)
    }
}

const INDEXES: &str = "Indexes that are {{ .Labels.state }}: {{ .Value }}.";

/// The number of a code; none where the finding itself is all there is.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) const fn of(code: Code) -> Option<Number> {
    let (query, words) = match code {
        Code::SecondWriter => {
            ("chroma_process_writers{AT} > 1", "{{ .Value }} processes hold it open for writing.")
        }
        Code::ServerGone | Code::StoreReplaced => (
            r#"chroma_processes{access="write",AT}"#,
            "{{ .Value }} processes hold chroma.sqlite3 open for writing.",
        ),
        Code::LockHeld => (
            "chroma_process_lock_seconds{AT}",
            "The lock has been held for {{ .Value | humanizeDuration }}.",
        ),
        Code::DescriptorsLow => (
            "chroma_process_open_fds{AT} / chroma_process_max_fds{AT}",
            "{{ .Value | humanizePercentage }} are used up.",
        ),
        Code::SqliteNotADatabase
        | Code::SqliteHeaderDamaged
        | Code::SqliteTruncated
        | Code::SqliteCorrupt
        | Code::SqliteIndexCorrupt
        | Code::FtsCorrupt
        | Code::JournalForeign
        | Code::MigrationMismatch
        | Code::MigrationsMissing
        | Code::TableMissing => (
            r#"chroma_integrity_state{state="corrupt",AT} == 1"#,
            "The check {{ .Labels.check }} says corrupt.",
        ),
        Code::CheckOverdue => (
            "time() - chroma_integrity_last_ok_timestamp_seconds{AT}",
            "The check {{ .Labels.check }} last ended well {{ .Value | humanizeDuration }} ago.",
        ),
        Code::CollectorFailing => (
            "chroma_exporter_collector_success{AT} == 0",
            "The collector {{ .Labels.collector }} fails.",
        ),
        Code::SchemaNewerThanServer => {
            ("chroma_installed_info{AT}", "Installed is chromadb {{ .Labels.version }}.")
        }
        Code::SqliteValueMismatch => (
            r#"chroma_documents_differing{how="changed",AT} > 0"#,
            "{{ .Value }} documents differ.",
        ),
        Code::FtsOutOfStep => (
            r#"chroma_documents_differing{how!="changed",AT} > 0"#,
            "{{ .Value }} documents: {{ .Labels.how }}.",
        ),
        Code::OrphanRows => {
            ("chroma_orphan_rows{AT} > 0", "{{ .Value }} rows in {{ .Labels.table }}.")
        }
        Code::QueueBacklog | Code::IndexLag => (
            r#"topk(3, chroma_queue_lag_records{scope="vector",AT} > 0)"#,
            "{{ .Value }} operations behind.",
        ),
        Code::RecordsUnreachable => (
            "chroma_hnsw_unreachable_ratio{AT}",
            "No links lead to {{ .Value | humanizePercentage }} of all elements.",
        ),
        Code::FreePagesHigh => (
            "chroma_sqlite_reclaimable_bytes{AT}",
            "A vacuum would give back {{ .Value | humanize }}B.",
        ),
        Code::QueueNotPurged => ("chroma_queue_records{AT}", "{{ .Value }} rows are in the queue."),
        Code::RecordsWithoutVector => {
            ("sum(chroma_records_without_vector{AT}) > 0", "{{ .Value }} records have no vector.")
        }
        // Each counts what it is about: another alert tells of the others.
        Code::SegmentMissing => (r#"chroma_hnsw_segments{state="missing",AT} > 0"#, INDEXES),
        Code::SegmentIncomplete | Code::SegmentTruncated => {
            (r#"chroma_hnsw_segments{state="truncated",AT} > 0"#, INDEXES)
        }
        Code::SegmentHeaderInvalid
        | Code::SegmentMetadataInvalid
        | Code::SegmentMetadataHostile
        | Code::SegmentInconsistent => (r#"chroma_hnsw_segments{state="torn",AT} > 0"#, INDEXES),
        Code::SegmentBloated => (r#"chroma_hnsw_segments{state="bloated",AT} > 0"#, INDEXES),
        Code::SegmentBehind => (r#"chroma_hnsw_segments{state="behind",AT} > 0"#, INDEXES),
        Code::SegmentAhead => (r#"chroma_hnsw_segments{state="ahead",AT} > 0"#, INDEXES),
        Code::SegmentOrphan => {
            ("sum(chroma_hnsw_orphan_bytes{AT})", "They take {{ .Value | humanize }}B.")
        }
        Code::DiskWillFill => (
            "chroma_disk_full_timestamp_seconds{AT} - time()",
            "It will be full in {{ .Value | humanizeDuration }}.",
        ),
        Code::InodesLow => (
            "chroma_disk_inodes_free{AT} / chroma_disk_inodes{AT}",
            "{{ .Value | humanizePercentage }} are left.",
        ),
        Code::HeadroomLow | Code::DiskUsageHigh | Code::DiskUsageCritical => {
            ("chroma_disk_avail_bytes{AT}", "{{ .Value | humanize }}B are free.")
        }
        Code::PermissionDrift => (
            "chroma_permission_drift{AT} > 0",
            "{{ .Value }} entries differ in {{ .Labels.kind }}.",
        ),
        Code::PermissionUnwritable => {
            ("sum(chroma_permission_unwritable{AT}) > 0", "{{ .Value }} entries.")
        }
        Code::PermissionWorldWritable => {
            ("sum(chroma_permission_world_writable{AT}) > 0", "{{ .Value }} entries.")
        }
        Code::BackupMissing | Code::BackupInvalid | Code::BackupIncomplete => (
            "chroma_backups_incomplete{AT} > 0",
            "In the place of backups, {{ .Labels.reason }}: {{ .Value }}.",
        ),
        Code::BackupStale => {
            ("chroma_backup_age_seconds{AT}", "It is {{ .Value | humanizeDuration }} old.")
        }
        Code::BackupShrunk => ("chroma_backup_size_bytes{AT}", "It has {{ .Value | humanize }}B."),
        Code::ServerUnreachable | Code::ServerFailing => {
            ("chroma_server_probe_success{AT} == 0", "The probe {{ .Labels.probe }} fails.")
        }
        Code::LogPanic | Code::LogError => (
            "increase(chroma_log_signature_total{AT}[1h]) > 0",
            "{{ .Labels.signature }}: {{ .Value | humanize }} lines in the last hour.",
        ),
        _ => return None,
    };
    Some(Number { query, words })
}
