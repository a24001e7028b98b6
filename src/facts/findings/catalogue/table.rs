//! The table itself: one entry a finding. `catalogue!` says what an entry holds.

use super::{
    Act::{Move, Open, Rebuild, Start, Stop, Vacuum},
    Definition, DiskLevel,
    words::{
        BACKUP_COMMAND, BURST, DISK_USAGE, FROM_QUEUE, INDEX_ANEW, LAST_LINE, NOT_BEFORE,
        OR_RESTORE, PERMISSIONS_COMMAND, PERMISSIONS_NOTE, RECOVER, RECOVER_COMMAND, RESTART,
        RESTORE, RESTORE_COMMAND, TEXTS_LOST, VACUUM,
    },
};
use crate::findings::{Severity, remedy::Template};

catalogue! {
"Directory" {
    StoreMissing "store_missing" Critical {
        cause: "The persist directory does not exist or is not a directory. Chroma would silently start with an empty one.",
        words: "Mount or restore the directory before anything starts Chroma on it.",
    }
    SqliteMissing "sqlite_missing" Critical {
        cause: "chroma.sqlite3 is missing, although segment folders, a journal or a server are there. Chroma would silently start an empty database and leave the folders behind as orphans.",
        words: RESTORE,
        command: RESTORE_COMMAND,
        note: NOT_BEFORE,
        acts: [Stop],
    }
    SqliteEmpty "sqlite_empty" Critical {
        cause: "chroma.sqlite3 has no bytes. Chroma would silently start an empty database over it.",
        words: RESTORE,
        command: RESTORE_COMMAND,
        note: NOT_BEFORE,
        acts: [Stop],
    }
    SqliteNotRegular "sqlite_not_regular" Critical {
        cause: "chroma.sqlite3 is not a regular file. It is a directory, a dangling link or a device.",
        words: "Stop Chroma and see what is there in place of the file.",
        command: "ls -ld {path}/chroma.sqlite3",
        acts: [Stop],
    }
    RestoreInterrupted "restore_interrupted" Critical {
        cause: "A restore was killed, or stopped by its disk, before it came to its end. The old content and the new one are both there, but until it is finished or undone chroma.sqlite3 may be a link that no Chroma can open.",
        words: "Stop Chroma and bring the restore to its end.",
        command: "chroma_exporter restore --store.path {path}",
        note: "To have what was there before, add --undo. Delete neither the link nor the folder of the restore: the old content is in it.",
        acts: [Stop],
        hold: RESTART,
    }
    NotAStore "not_a_store" Warning {
        cause: "The directory holds no Chroma database that this program can read. It may be another directory, or one of Chroma before 0.4 (duckdb and parquet files).",
        words: "Look at what is in the directory, and check the path.",
        command: "ls -la {path}",
        note: "A directory of Chroma 0.3 must first be moved with the chroma-migrate tool.",
    }
}
"SQLite file" {
    SqliteNotADatabase "sqlite_not_a_database" Critical {
        cause: "chroma.sqlite3 does not begin with SQLite's header. The first page was overwritten, or the file is something else.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop],
    }
    SqliteHeaderDamaged "sqlite_header_damaged" Critical {
        cause: "The header of chroma.sqlite3 has values that no SQLite writes.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop],
    }
    SqliteTruncated "sqlite_truncated" Critical {
        cause: "chroma.sqlite3 is shorter than its header says. Pages at its end are gone.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop],
    }
    SqliteCorrupt "sqlite_corrupt" Critical {
        cause: "chroma.sqlite3 holds damaged bytes. SQLite's own check found them in a table, an overflow chain or the freelist, or they changed although nobody wrote them.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop, Rebuild],
    }
    SqliteIndexCorrupt "sqlite_index_corrupt" Critical {
        cause: "An index of chroma.sqlite3 is damaged or does not agree with its table. The rows themselves may be whole.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        acts: [Stop, Rebuild],
    }
    SqliteValueMismatch "sqlite_value_mismatch" Warning {
        cause: "The two copies of a document (in embedding_metadata and in the full-text table) have the same length and differ. One of them was damaged, and no check of SQLite sees that.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: "It takes the copy that an index confirms. Where none does, both are in the report, and nothing is put in place without --accept-loss. Run neither REINDEX nor a rebuild of the full-text index before that, and test the disk and the memory after it.",
        acts: [Stop, Open],
    }
    FreePagesHigh "free_pages_high" Info {
        cause: "Most of chroma.sqlite3 is free pages. Deleted rows once took this room. SQLite keeps it for new rows and gives none of it back to the disk.",
        words: "Nothing is wrong. To shrink the file, stop Chroma, make a backup, and vacuum the database.",
        command: VACUUM,
        note: "It needs twice the size of the file as free space. Never run it while a segment folder is missing or unreadable, or while there is a finding about segments.",
        acts: [Stop, Open, Vacuum],
    }
}
"Full text" {
    FtsCorrupt "fts_corrupt" Critical {
        cause: "The full-text index is damaged. The documents are stored elsewhere as well and may be whole.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: TEXTS_LOST,
        acts: [Stop, Rebuild],
    }
    FtsMissing "fts_missing" Critical {
        cause: "The full-text table embedding_fulltext_search is missing. Searches in documents fail.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: "The full text is made anew from the documents, which are whole. Nothing is lost.",
        acts: [Stop, Rebuild],
    }
    FtsCutAtNul "fts_cut_at_nul" Info {
        cause: "Documents hold the character U+0000. SQLite up to 3.46, which Chroma 1.x carries, puts only the text before it into the full-text index, so that $contains does not find what is behind it. Nothing is damaged.",
        words: "Nothing has to be mended. To find that text too, upsert the records of this list with documents without U+0000.",
        command: "chroma_exporter check --ids=fts_cut_at_nul {path}",
        note: "Do not rebuild the full-text index with a newer sqlite3: Chroma's own would then call it damaged.",
    }
    FtsLostAtUpgrade "fts_lost_at_upgrade" Warning {
        cause: "Chroma below 0.4.6 made this store. The next newer Chroma that opens it fills the full-text table by wrong numbers. $contains then finds no document or wrong ones, and Chroma 1.x refuses every addition.",
        words: "Keep a copy of the directory before the upgrade. After it, open the store once, and stop Chroma before anything is written. Then repair a copy of the store, which is put in place when nothing is lost.",
        command: RECOVER_COMMAND,
        note: "Run the command after the upgrade. Before it there is nothing to repair. The full text is made anew from the documents.",
        acts: [Stop, Rebuild],
    }
    FtsOutOfStep "fts_out_of_step" Warning {
        cause: "The full-text table does not have the documents that the records have. Searches in documents miss records or find wrong ones, and on Chroma 1.x additions may fail.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: TEXTS_LOST,
        acts: [Stop, Rebuild],
    }
}
"Journal" {
    HotJournal "hot_journal" Warning {
        cause: "A transaction was cut off (power loss, kill -9, full disk) and waits to be rolled back from the journal. Nothing is lost.",
        words: "Start Chroma on the directory. It rolls the transaction back by itself.",
        note: "Never delete chroma.sqlite3-journal: without it the database is damaged.",
        acts: [Start],
    }
    JournalForeign "journal_foreign" Critical {
        cause: "chroma.sqlite3-journal belongs to another database, or to another state of it. The next open would write its pages over this one.",
        words: "Do not open the database. Move the journal to a safe place outside the directory, then run check again.",
        command: "mv -n {path}/chroma.sqlite3-journal /var/tmp/chroma.sqlite3-journal.foreign",
    }
    WalMode "wal_mode" Warning {
        cause: "The database is in WAL mode or has a write-ahead log, which Chroma never sets. The newest rows may be only in chroma.sqlite3-wal.",
        words: "Stop Chroma. Then take the database out of WAL mode.",
        command: "sqlite3 {path}/chroma.sqlite3 'PRAGMA journal_mode=DELETE'",
        note: "Never delete the -wal file.",
        acts: [Stop, Open],
    }
}
"Schema" {
    SchemaNewerThanServer "schema_newer_than_server" Critical {
        cause: "A newer Chroma than the one that opens the directory has migrated it. The older one panics with 'range start index out of range', or (below 1.0) lacks columns. Nothing is damaged.",
        words: "Upgrade chromadb, at least to the release that the finding names.",
        command: "pip install --upgrade chromadb",
        note: "Do not delete the directory and do not undo migrations: its data is healthy.",
    }
    SchemaNewerThanExporter "schema_newer_than_exporter" Info {
        cause: "A Chroma that is newer than this program has migrated the store. That is no fault of the store. This program does not judge what is new in it.",
        words: "Upgrade chroma_exporter, so that it knows this store.",
        note: "Until then it knows the store only in part.",
    }
    MigrationMismatch "migration_mismatch" Critical {
        cause: "The table of applied migrations has a gap or a changed hash. Chroma refuses to open the database.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        acts: [Stop],
    }
    MigrationsMissing "migrations_missing" Critical {
        cause: "The table of applied migrations is missing or empty. Chroma would apply all of them again and fail.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop],
    }
    TableMissing "table_missing" Critical {
        cause: "A table that this schema version has is missing.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop],
    }
    DefaultTenantMissing "default_tenant_missing" Critical {
        cause: "The tenant default_tenant is missing. Clients get 'Could not connect to tenant default_tenant'.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        acts: [Stop],
    }
    DefaultDatabaseMissing "default_database_missing" Critical {
        cause: "The database default_database is missing. Clients get 'Database [default_database] not found'.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        acts: [Stop],
    }
    CatalogEmpty "catalog_empty" Critical {
        cause: "Segment folders with vectors are there, but the catalogue lists no collection. An empty database was started over old data.",
        words: RESTORE,
        command: RESTORE_COMMAND,
        note: "Do not delete the folders.",
        acts: [Stop],
    }
}
"Catalogue rows" {
    CollectionConfigInvalid "collection_config_invalid" Critical {
        cause: "Chroma cannot read the configuration of a collection or of the queue. One such row of a collection breaks the listing of all collections. That of the queue breaks every opening.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop],
    }
    CollectionDimensionMismatch "collection_dimension_mismatch" Critical {
        cause: "The catalogue has another dimension for a collection than its vectors have. Queries and additions are refused, or queries give nothing without an error.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: "Do not delete the segment folder.",
        acts: [Stop],
    }
    CollectionWithoutSegments "collection_without_segments" Critical {
        cause: "A collection has not exactly one metadata and one vector segment that Chroma can use. Its records and vectors may be whole, but nobody can reach them.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: "The id of a vector segment is the name of its folder. Do not delete folders, and do not delete the collection.",
        acts: [Stop],
    }
    OrphanRows "orphan_rows" Warning {
        cause: "Rows belong to nothing that the catalogue knows. Nobody can reach what they hold, and it is still on the disk.",
        words: "Keep a copy of the directory. Compare the rows of this list with a backup before you remove anything.",
        command: "chroma_exporter check --ids=orphan_rows {path}",
        note: "What Chroma left of deleted collections and databases does no harm.",
    }
}
"Queue" {
    SeqIdInvalid "seq_id_invalid" Critical {
        cause: "A segment's recorded position in the queue is past the end of the queue, or Chroma cannot read it. New writes are acknowledged and lost, or the collection cannot be used.",
        words: "Stop writing now, and keep a copy of the directory. On Chroma 1.x set the position of that segment in max_seq_id to 0. Below 1.0 set it to the newest row of its queue.",
        command: "sqlite3 -readonly {path}/chroma.sqlite3 'SELECT segment_id, typeof(seq_id), seq_id, (SELECT max(seq_id) FROM embeddings_queue) FROM max_seq_id'",
        note: "With 0, Chroma applies what is still in the queue once more, which does no harm. Never empty embeddings_queue by hand: its numbers start again at 1, and every later write is lost.",
        acts: [Stop, Open],
    }
    SeqIdMissing "seq_id_missing" Info {
        cause: "A segment has applied rows of the queue, but its position is not recorded.",
        words: "On Chroma 1.x there is nothing to do, because it records the position at the next flush. Below 1.0 put the row of max_seq_id back from a backup. Or, when the queue still has all rows of the collection, stop Chroma and move the folder of the index away. Chroma then makes it anew.",
        note: "When rows of the queue are gone, the folder is the only copy of their vectors. The runbook says how to see that.",
        acts: [Stop, Move],
    }
    QueuePoisoned "queue_poisoned" Critical {
        cause: "A row of the queue cannot be applied, and no later row is applied either. On Chroma 1.x reads of the collection, or of all collections, fail because of it.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: OR_RESTORE,
        acts: [Stop],
    }
    QueueBacklog "queue_backlog" Warning {
        cause: "A segment is further behind the queue than its sync threshold allows. The next start takes long and much memory, and nothing is purged.",
        words: "Look in the log of Chroma for errors of the flush (compaction, hnsw segment writer).",
        note: "Do not vacuum before the backlog is gone.",
        keep: BURST,
    }
    QueueNotPurged "queue_not_purged" Info {
        cause: "The queue keeps rows that all segments have applied. They take room, and deleted texts stay on the disk.",
        words: "Stop Chroma, make a backup, and vacuum the database.",
        command: VACUUM,
        note: "Never run it while there is a finding about segments. With Chroma 0.5.6 to 0.6.3 it is called chroma utils vacuum. Both ask before they begin.",
        acts: [Stop, Open, Vacuum],
    }
    IndexLag "index_lag" Warning {
        cause: "A segment does not move on while writes come in. What is written cannot be found, or the queue grows without end.",
        words: "Look in the log of Chroma for the first error of the flush. Keep a copy of the directory before a restart.",
        note: "Never delete the segment folder to make it go on.",
        keep: BURST,
    }
}
"HNSW folders" {
    SegmentMissing "segment_missing" Critical {
        cause: "The folder with the vectors of a collection is gone. Queries answer from the queue alone, without any error, and the next flush writes a small index in its place.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: FROM_QUEUE,
        acts: [Stop],
    }
    SegmentIncomplete "segment_incomplete" Critical {
        cause: "A file of a collection's index is missing or empty. Chroma cannot load the index, or starts an empty one over it without any error.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: INDEX_ANEW,
        acts: [Stop],
    }
    SegmentTruncated "segment_truncated" Critical {
        cause: "A file of a collection's index is shorter than its elements need. Loading it ends the whole server with SIGSEGV, or gives wrong vectors.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: INDEX_ANEW,
        acts: [Stop],
    }
    SegmentHeaderInvalid "segment_header_invalid" Critical {
        cause: "header.bin of a collection's index has values that no index has. Loading it ends the whole server with SIGSEGV.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: INDEX_ANEW,
        acts: [Stop],
    }
    SegmentMetadataInvalid "segment_metadata_invalid" Critical {
        cause: "index_metadata.pickle of a collection's index is cut off, damaged or not Chroma's, most often after a kill during a flush. The collection cannot be queried.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: INDEX_ANEW,
        acts: [Stop],
    }
    SegmentMetadataHostile "segment_metadata_hostile" Critical {
        cause: "index_metadata.pickle of a collection's index holds code. Chroma before 1.0 runs it at the next query, with the rights of the server.",
        words: "Stop Chroma now, and do not start it on this directory. Keep a copy of the folder that the finding names as evidence, and find out who could write there. Restore the folder from a backup that is older.",
        acts: [Stop],
    }
    SegmentInconsistent "segment_inconsistent" Critical {
        cause: "The files of a collection's index contradict each other or the database (neighbours, labels, counts, numbers that are not finite, an exchanged folder), or bytes changed although nobody wrote them. Queries crash the server or answer wrongly.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: INDEX_ANEW,
        acts: [Stop],
    }
    SegmentBloated "segment_bloated" Critical {
        cause: "A file of a collection's index is far larger than its elements need. One impossible record size in link_lists.bin makes every flush write further behind its end, until the disk is full.",
        words: "Stop Chroma before the disk is full. Then repair a copy of the store, which is put in place when nothing is lost. What was there is kept.",
        command: RECOVER_COMMAND,
        note: INDEX_ANEW,
        acts: [Stop],
    }
    SegmentBehind "segment_behind" Critical {
        cause: "The index of a collection is older than the database, as after a restore of one without the other, or each went on without the other. Records are not found by their vectors.",
        words: "Stop Chroma and keep a copy of the directory. Restore the database and the folder from the same backup. Without a backup, add the records of this list again with their vectors.",
        command: "chroma_exporter check --ids=segment_behind {path}",
        note: "Do not delete the folder: it holds the older vectors.",
        acts: [Stop],
    }
    SegmentAhead "segment_ahead" Warning {
        cause: "The index of a collection is newer than the database, as after a restore of chroma.sqlite3 alone. It holds vectors of records that the database does not know.",
        words: "Stop Chroma and keep a copy of the directory. Restore the database and the folder from the same backup.",
        note: "Do not delete the folder: it holds the vectors of the records that are known.",
        acts: [Stop],
    }
    RecordsWithoutVector "records_without_vector" Critical {
        cause: "Records are in the database, but their vectors are neither in the index nor in the queue. Two processes that write to one directory leave that, and Chroma 0.5.7 to 0.5.12 all by itself, without any error and with every count right.",
        words: "Stop all processes but one that write to the directory, and keep a copy. Then upsert the records of this list again with their embeddings.",
        command: "chroma_exporter check --ids=records_without_vector {path}",
        note: "The texts and metadata of the records are whole.",
        acts: [Stop],
    }
    RecordsUnreachable "records_unreachable" Warning {
        cause: "The vectors of some records are in the index, but no query finds them. After many deletes and updates no link of the graph leads to them. get still gives them.",
        words: RECOVER,
        command: RECOVER_COMMAND,
        note: "Nothing is lost: the same vectors get a new graph, in which searches find them. Do not delete the folder, which holds the vectors.",
        acts: [Stop],
    }
    SegmentOrphan "segment_orphan" Info {
        cause: "A folder with an index belongs to no collection any more. Chroma leaves it when a collection is deleted.",
        words: "Nothing is wrong. Make sure that the directory holds the right chroma.sqlite3 and that there is a backup. Then stop Chroma and move the folder that the finding names away.",
        note: "Leave it if collections are missing from the list.",
        acts: [Stop, Move],
    }
}
"Processes" {
    SecondWriter "second_writer" Critical {
        cause: "Two processes have the directory open for writing, or they had and one of them has not been restarted since. Each loses vectors of the other without any error.",
        words: "Stop all but one of them now. Then restart the one that stays.",
        note: "Only a new start reads what the others wrote.",
        acts: [Stop, Start],
    }
    SqliteToolOpen "sqlite_tool_open" Info {
        cause: "A SQLite tool has chroma.sqlite3 open for writing beside Chroma. It loses no vectors. Chroma cannot write while the tool has a transaction open, and the indexes do not know what it changes in the tables.",
        words: "Close the tool when it is not needed. Open the file only for reading when you want to look at it.",
        command: "sqlite3 -readonly {path}/chroma.sqlite3",
    }
    ServerGone "server_gone" Critical {
        cause: "The process that served this directory is gone, and no other has taken its place.",
        words: "Start Chroma again, unless there is a critical finding about its files. Look in its log and in the kernel's for why it ended.",
        command: "journalctl -k --grep 'oom|segfault' --since -1d",
        acts: [Start],
        hold: RESTART,
    }
    StoreReplaced "store_replaced" Critical {
        cause: "A running process holds a deleted or replaced chroma.sqlite3. Its reads answer from a file that is gone when the process ends, and its writes fail (code 1032).",
        words: "Do not stop that process before its open file is saved outside the directory. The check prints the command that saves it.",
        command: "chroma_exporter check {path}",
    }
    LockHeld "lock_held" Warning {
        cause: "A process has held a lock on chroma.sqlite3 for long. All writers wait for it without a message.",
        words: "Look at the process that the finding names. End it if it is a forgotten shell or a hung tool.",
        acts: [Stop],
        keep: LAST_LINE,
    }
    DescriptorsLow "descriptors_low" Warning {
        cause: "The process that holds the directory has nearly used up its file descriptors. The next open will fail.",
        words: "Raise the limit of the process, and restart it.",
        note: "The limit is LimitNOFILE= in a unit of systemd, and ulimit -n in a shell.",
        acts: [Stop, Start],
        keep: LAST_LINE,
    }
}
"Disk" {
    DiskUsageHigh "disk_usage_high" Warning {
        cause: "The filesystem of the directory is filling up. A full disk cuts writes off in the middle.",
        words: "Free space on the filesystem. This command shows what grew.",
        command: DISK_USAGE,
        level: Warning,
    }
    DiskUsageCritical "disk_usage_critical" Critical {
        cause: "The filesystem of the directory is nearly full. A full disk cuts writes off in the middle.",
        words: "Free space on the filesystem now, or stop Chroma before the next write fails. This command shows what grew.",
        command: DISK_USAGE,
        acts: [Stop],
        level: Critical,
    }
    DiskWillFill "disk_will_fill" Warning {
        cause: "At the rate of the last hours the filesystem of the directory will be full soon.",
        words: "Find out what grows.",
        command: DISK_USAGE,
        keep: BURST,
    }
    InodesLow "inodes_low" Warning {
        cause: "The filesystem of the directory has few inodes left. New files cannot be made although bytes are free.",
        words: "Find the many small files, and remove those that nobody needs.",
        command: "df -i {path}; du --inodes -x / | sort -n | tail",
        keep: BURST,
    }
    DiskReadonly "disk_readonly" Critical {
        cause: "The filesystem of the directory is mounted read-only. Every write fails while reads and heartbeats look healthy.",
        words: "Read in the kernel's log why that is so. Then repair the filesystem or mount it for writing again.",
        command: "dmesg | tail",
    }
    HeadroomLow "headroom_low" Warning {
        cause: "Less than twice the size of the database is free. Neither a vacuum nor a backup beside it has room.",
        words: "Free space on the filesystem, or put backups and temporary files on another one.",
        command: "df -h {path}",
        keep: BURST,
    }
    DiskRemote "disk_remote" Warning {
        cause: "The directory is on a filesystem of another host, or on one that another program provides. SQLite's locks are not reliable there. Two processes may write at once and damage the database.",
        words: "Stop Chroma and move the directory to a disk of the host that runs it. Let other hosts ask the server instead of the files.",
        command: "findmnt --target {path}",
        acts: [Stop],
    }
    DiskTemporary "disk_temporary" Warning {
        cause: "The directory is where nothing is kept: in memory, or in the layer of a container that goes away with it.",
        words: "Stop Chroma and copy the directory to a disk. For a container, mount a volume in its place.",
        command: "findmnt --target {path}",
        note: "With Docker that is docker run -v chroma-data:DIR.",
        acts: [Stop],
        hold: 900, // Tests and scripts often have a store in memory for some minutes.
    }
    StoreSynced "store_synced" Warning {
        cause: "A tool like Syncthing or Dropbox copies the files of the directory to and from other hosts while Chroma writes them. Database and index folders of different moments come together.",
        words: "Stop Chroma and take the directory out of the folder that the tool synchronises. Check the store before its next start.",
        command: "chroma_exporter check {path}",
        acts: [Stop],
    }
}
"Permissions" {
    PermissionDrift "permission_drift" Warning {
        cause: "Owner, group, mode or type of an entry differs from what was declared or learnt.",
        words: "Give owner and mode back to the entries that the finding names. If you wanted the change, declare it in the configuration.",
        command: PERMISSIONS_COMMAND,
        note: "Add the --config.file or --state.dir of the exporter, where it keeps what it learnt. The line that takes it back is printed.",
    }
    PermissionUnwritable "permission_unwritable" Critical {
        cause: "The user that Chroma runs as cannot write a file or directory that it must write.",
        words: "Give owner and mode back to the entries that the finding names.",
        command: PERMISSIONS_COMMAND,
        note: PERMISSIONS_NOTE,
    }
    PermissionWorldWritable "permission_world_writable" Warning {
        cause: "Everybody on this host may change an entry of the directory.",
        words: "Take the right to write away from everybody else.",
        command: PERMISSIONS_COMMAND,
        note: PERMISSIONS_NOTE,
    }
}
"Backups" {
    BackupMissing "backup_missing" Warning {
        cause: "There is no complete backup where one is expected.",
        words: "Make one now, and look in the log of the backup job for why it made none.",
        command: BACKUP_COMMAND,
    }
    BackupStale "backup_stale" Warning {
        cause: "The newest complete backup is older than it should be.",
        words: "Make one now, and look in the log of the backup job for why it stopped.",
        command: BACKUP_COMMAND,
    }
    BackupInvalid "backup_invalid" Critical {
        cause: "The newest backup is empty, cut off or not what its name says. It could not be restored.",
        words: "Make a new one now. Keep the older ones until the new one is checked.",
        command: BACKUP_COMMAND,
    }
    BackupIncomplete "backup_incomplete" Warning {
        cause: "The newest backup has the database without all the index folders of the store. The vectors in those folders are nowhere else, so a restore from it finds no record by its vector.",
        words: "Keep the older backups, and make one of the whole directory.",
        command: BACKUP_COMMAND,
    }
    BackupShrunk "backup_shrunk" Warning {
        cause: "The newest backup is much smaller than the one before. It may lack most of the data.",
        words: "Open it and compare it with the one before, before the older one is deleted.",
        command: "chroma_exporter verify BACKUP",
    }
    BackupUnverified "backup_unverified" Warning {
        cause: "No backup of this store was opened lately and proven to restore whole. A backup that nobody has opened may be none.",
        words: "Open the newest one. The exporter does so by itself once a week, and its log says why it could not.",
        command: "chroma_exporter verify BACKUP",
    }
    BackupFailed "backup_failed" Warning {
        cause: "The last backup that the exporter tried to make by itself failed, or what runs after it did.",
        words: "Remove what stands in the way, and make one by hand.",
        command: BACKUP_COMMAND,
    }
    BackupSameDisk "backup_same_disk" Info {
        cause: "The backups are on the same filesystem as the directory that they protect.",
        words: "Copy them to another disk or host.",
    }
}
"Server and logs" {
    ServerUnreachable "server_unreachable" Critical {
        cause: "Nothing answers at the address of the server. It is not running, hangs, or listens elsewhere.",
        words: "See whether it runs, and why it ended.",
        command: "pgrep -af chroma; journalctl -k --grep 'oom|segfault' --since -1h",
        hold: RESTART,
    }
    ServerFailing "server_failing" Critical {
        cause: "The server answers its heartbeat, which never touches the database, but fails to read from it. Clients get errors.",
        words: "Do not restart it yet. Run a check first.",
        command: "chroma_exporter check {path}",
        note: "A restart over a missing database starts an empty one.",
        hold: RESTART,
    }
    ServerElsewhere "server_elsewhere" Warning {
        cause: "The server that answers has other collections than this directory. It serves another directory, and what is written to it does not come here.",
        words: "Stop writing, and see which directory the server has open. Then start it on this directory, or put the right directory or the right server.url into the configuration.",
        command: "ls -l /proc/$(pgrep -of chroma)/fd | grep sqlite3",
        acts: [Stop, Start],
        hold: RESTART,
    }
    LogPanic "log_panic" Critical {
        cause: "The server's log reports a panic or a crash.",
        words: "Run a check of the store.",
        command: "chroma_exporter check {path}",
        note: "Upgrade chromadb if the line says 'out of range for slice of length'. Delete nothing because of it.",
        keep: LAST_LINE,
    }
    LogError "log_error" Warning {
        cause: "The server's log reports an error that concerns the data or the host.",
        words: "Read the lines around it in the log. Then run a check, which names the cause where it can.",
        command: "chroma_exporter check {path}",
        keep: LAST_LINE,
    }
}
"This program" {
    CheckOverdue "check_overdue" Warning {
        cause: "An integrity check has come to no verdict for more than twice its interval. Damage would not be noticed.",
        words: "Run the check in a quiet hour.",
        command: "chroma_exporter check {path}",
        note: "The finding says why it was given up.",
    }
    CollectorFailing "collector_failing" Warning {
        cause: "A collector cannot read what it should. What it watches is not known, and its findings neither come nor go.",
        words: "See what it could not read.",
        command: "chroma_exporter check --quick {path}",
        keep: LAST_LINE,
    }
}
}
