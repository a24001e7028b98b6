//! Rows of the tables: schema, catalogue, queue, documents; and what is odd and healthy.

use super::{ALL, Fault, NEWEST, V4, V6, V11, V15, broken, file, segments, sql};

const CONFIG: &[&str] = &["collection_config_invalid"];
const DIMENSION: &[&str] = &["collection_dimension_mismatch"];
const SEGMENTS: &[&str] = &["collection_without_segments"];
const ORPHANS: &[&str] = &["orphan_rows"];
const HIDDEN: &[&str] = &["orphan_rows critical"];
const LEFT: &[&str] = &["orphan_rows info"];
/// What Chroma below 1.0.15 leaves of a deleted collection.
const DELETED: &[&str] = &["orphan_rows info", "segment_orphan"];
const INVALID: &[&str] = &["seq_id_invalid"];
/// What only the queue had is gone with it.
const EMPTIED: &[&str] = &["segment_behind", "segment_behind", "seq_id_invalid"];
const POISON: &[&str] = &["queue_poisoned"];
const STEP: &[&str] = &["fts_out_of_step"];
const VALUE: &[&str] = &["sqlite_value_mismatch"];
const MISMATCH: &[&str] = &["migration_mismatch"];
const TABLE: &[&str] = &["table_missing"];
/// The full-text index as it was, beside rows of its content that are gone: SQLite's own check tells such an index apart.
const BOTH: &[&str] = &["fts_corrupt", "fts_out_of_step"];

#[rustfmt::skip]
pub(super) const CATALOGUE: &[Fault] = &[
    sql("configuration of a collection is no JSON", &[V15], CONFIG, "no JSON", "UPDATE collections SET config_json_str='garbage' WHERE name='articles'"),
    sql("configuration of a collection is empty", &[V11], CONFIG, "articles", "UPDATE collections SET config_json_str='' WHERE name='articles'"),
    sql("configuration of a collection is bytes", &[V11], CONFIG, "bytes", "UPDATE collections SET config_json_str=x'7b7d' WHERE name='articles'"),
    sql("configuration names an unknown distance", &[V15], CONFIG, "space", "UPDATE collections SET config_json_str='{\"vector_index\":{\"hnsw\":{\"space\":\"banana\"}}}' WHERE name='articles'"),
    sql("configuration without `_type`", &[V6], CONFIG, "_type", "UPDATE collections SET config_json_str='{}' WHERE name='articles'"),
    sql("all configurations are lists", &[V6], CONFIG, "notes", "UPDATE collections SET config_json_str='[]'"),
    sql("schema of a collection is no JSON", &[V15], CONFIG, "schema_str", "UPDATE collections SET schema_str='garbage' WHERE name='articles'"),
    sql("schema of a collection without a vector index", &[V15], CONFIG, "vector index", "UPDATE collections SET schema_str='{\"defaults\":{},\"keys\":{}}' WHERE name='notes'"),
    sql("id of a collection is no UUID", &[V15], CONFIG, "no UUID", "UPDATE collections SET id='banana' WHERE name='notes'; UPDATE segments SET collection='banana' WHERE collection NOT IN (SELECT id FROM collections); UPDATE embeddings_queue SET topic='persistent://default/default/banana' WHERE substr(topic,30) NOT IN (SELECT id FROM collections)"),
    sql("configuration of the queue is no JSON", &[V15], CONFIG, "does not open", "UPDATE embeddings_queue_config SET config_json_str='garbage'"),
    sql("configuration of the queue is NULL", &[V11], CONFIG, "nothing instead of a text", "UPDATE embeddings_queue_config SET config_json_str=NULL"),
    sql("another dimension than the vectors have", &[V15], DIMENSION, "vector of 8", "UPDATE collections SET dimension=9 WHERE name='articles'"),
    sql("another dimension than the vectors have, before 1.0", &[V4, V6], DIMENSION, "9 dimensions", "UPDATE collections SET dimension=9 WHERE name='articles'"),
    sql("no dimension", &[V15], DIMENSION, "without an error", "UPDATE collections SET dimension=NULL WHERE name='articles'"),
    sql("a negative dimension", &[V11], DIMENSION, "-8", "UPDATE collections SET dimension=-8 WHERE name='articles'"),
    sql("the dimension zero", &[V15], DIMENSION, "is 0", "UPDATE collections SET dimension=0 WHERE name='articles'"),
    sql("a text as dimension", &[V4], DIMENSION, "a text", "UPDATE collections SET dimension='abc' WHERE name='articles'"),
    sql("row of the vector segment gone", &[V4, V15], SEGMENTS, "no vector segment", "DELETE FROM segments WHERE id={VECTOR}"),
    sql("two metadata segments", &[V6], SEGMENTS, "2 metadata segments", "INSERT INTO segments SELECT {NEW}, type, scope, collection FROM segments WHERE id={METADATA}"),
    // Which of the two is taken is drawn by lot at each start.
    sql("two vector segments", &[V15], SEGMENTS, "2 vector segments", "INSERT INTO segments SELECT {NEW}, type, scope, collection FROM segments WHERE id={VECTOR}").by_chance(),
    sql("segment of an unknown kind", &[V15], SEGMENTS, "kind", "UPDATE segments SET type='urn:chroma:segment/vector/banana' WHERE id={VECTOR}"),
    sql("segment of an unknown scope", &[V11], SEGMENTS, "no vector segment", "UPDATE segments SET scope='BANANA' WHERE id={VECTOR}"),
    sql("row of the metadata segment gone", &[V15], &["collection_without_segments", "orphan_rows"], "86 records", "DELETE FROM segments WHERE id={METADATA}"),
    sql("a collection whose making failed, before 1.0", &[V6], &["collection_without_segments warning"], "create it again", "INSERT INTO collections(id,name,database_id,config_json_str) SELECT {NEW},'failed',database_id,config_json_str FROM collections WHERE name='notes'"),
    sql("collection of a database that is not there", &[V15], HIDDEN, "hidden", "UPDATE collections SET database_id={NEW} WHERE name='articles'"),
    sql("empty database of a tenant that is not there", &[V6], ORPHANS, "with 0 collections", "INSERT INTO databases VALUES({NEW},'other','nobody')"),
    sql("all collections in a database of a tenant that is not there", &[V15], HIDDEN, "with 2 collections", "INSERT INTO databases VALUES({NEW},'other','nobody'); UPDATE collections SET database_id={NEW}"),
    sql("segment of a collection that is not there", &[V15], LEFT, "no record is left", "INSERT INTO segments VALUES({NEW},'urn:chroma:segment/metadata/sqlite','METADATA','22222222-2222-2222-2222-222222222222')"),
    sql("row of a collection gone", NEWEST, &["orphan_rows", "orphan_rows info"], "its name is lost", "DELETE FROM collections WHERE name='articles'"),
    sql("records of a segment that is not there", &[V15], ORPHANS, "3 records", "UPDATE embeddings SET segment_id={NEW} WHERE id<=3"),
    sql("records of a segment that is not there, before 1.0", &[V6], &["orphan_rows info"], "3 records", "UPDATE embeddings SET segment_id={NEW} WHERE id<=3"),
    sql("metadata of records that are not there", &[V11], ORPHANS, "embeddings.id 1, 2", "DELETE FROM embeddings WHERE id<=2"),
    sql("metadata of a record that is not there, before 1.0", &[V4], ORPHANS, "embeddings.id 7", "DELETE FROM embeddings WHERE id=7"),
    sql("operations on a collection that is not there", &[V15], LEFT, "1 rows", "INSERT INTO embeddings_queue(operation,topic,id) VALUES(3,'persistent://default/default/22222222-2222-2222-2222-222222222222','x')"),
    file("a collection deleted by 0.6, which leaves its rows", &["0.6.3-deleted"], DELETED, |_| {}).saying("50 records belong to 1 segments"),
    file("a collection deleted by 0.6, opened by 1.5.9", &["0.6.3-deleted"], DELETED, |_| {}).opened_by(V15),
    sql("the default tenant gone", &[V15], &["default_tenant_missing"], "", "DELETE FROM tenants"),
    sql("the default database gone", &[V6, V15], &["default_database_missing"], "", "DELETE FROM databases"),
];

#[rustfmt::skip]
pub(super) const QUEUE: &[Fault] = &[
    sql("position of the index ahead of the queue", &[V15], INVALID, "ahead", "UPDATE max_seq_id SET seq_id=100000 WHERE segment_id={VECTOR}"),
    sql("position of the records ahead of the queue", &[V6], INVALID, "ahead", "UPDATE max_seq_id SET seq_id=100000 WHERE segment_id={METADATA}"),
    sql("position of the records ahead of the queue, as bytes", &[V4], INVALID, "ahead", "UPDATE max_seq_id SET seq_id=x'0000000000ffffff' WHERE segment_id={METADATA}"),
    // Common advice against a large file; every later write is lost without a word.
    sql("queue emptied by hand", &[V15], EMPTIED, "newest row 0", "DELETE FROM embeddings_queue"),
    sql("queue emptied by hand, before 1.0", &[V4], EMPTIED, "acknowledged and lost", "DELETE FROM embeddings_queue"),
    sql("queue emptied by hand before the first flush", &["1.5.9-fresh"], &["records_without_vector", "records_without_vector", "seq_id_invalid"], "25 of 25 records", "DELETE FROM embeddings_queue"),
    sql("position of the index as bytes", &[V15], INVALID, "it is bytes", "UPDATE max_seq_id SET seq_id=x'0000000000000050' WHERE segment_id={VECTOR}"),
    sql("position of the records is a text", &[V11, V6], INVALID, "a text", "UPDATE max_seq_id SET seq_id='abc' WHERE segment_id={METADATA}"),
    sql("position of the records is negative", &[V11], INVALID, "negative", "UPDATE max_seq_id SET seq_id=-3 WHERE segment_id={METADATA}"),
    sql("position of the records is a number where bytes belong", &[V4], INVALID, "eight bytes", "UPDATE max_seq_id SET seq_id=80 WHERE segment_id={METADATA}"),
    file("positions as bytes: 0.6 wrote after 1.x had opened the store", &["1.5.9-blob-positions"], INVALID, |_| {}).saying("it is bytes"),
    sql("no position of the index", &[V15], &["seq_id_missing"], "articles", "DELETE FROM max_seq_id WHERE segment_id={VECTOR}"),
    sql("no position of the records", &[V11], &["seq_id_missing"], "no metadata", "DELETE FROM max_seq_id WHERE segment_id={METADATA}"),
    sql("no position of the index, before 1.0", &[V6], &["seq_id_missing critical"], "queries fail", "DELETE FROM max_seq_id WHERE segment_id={VECTOR}"),
    sql("unknown operation", &[V6, V15], POISON, "operation", "UPDATE embeddings_queue SET operation=9 WHERE seq_id={LAST}"),
    sql("unknown encoding of a vector", &[V15], POISON, "encoding", "UPDATE embeddings_queue SET encoding='XYZ' WHERE seq_id={LAST}-1"),
    sql("no encoding of a vector", &[V4], POISON, "encoding", "UPDATE embeddings_queue SET encoding=NULL WHERE seq_id={LAST}-1"),
    sql("addition without a vector", &[V11], POISON, "without a vector", "UPDATE embeddings_queue SET vector=NULL WHERE seq_id={LAST}-5"),
    sql("vector cut within a number", &[V15], POISON, "within a number", "UPDATE embeddings_queue SET vector=x'0000803f00' WHERE seq_id={LAST}-1"),
    sql("metadata of an operation are no JSON", &[V15], POISON, "no JSON", "UPDATE embeddings_queue SET metadata='garbage' WHERE seq_id={LAST}-1"),
    sql("metadata of an operation have a map as value", &[V11], POISON, "plain value", "UPDATE embeddings_queue SET metadata='{\"a\":{\"b\":1}}' WHERE seq_id={LAST}-1"),
    sql("vector of one number", &[V15], POISON, "not found by its vector", "UPDATE embeddings_queue SET vector=x'0000803f' WHERE seq_id={LAST}-1"),
    sql("12,000 operations that nothing has applied", &[V15], &["queue_backlog"], "metadata segment of \"articles\" is 12000 operations behind", "{MORE}"),
    sql("12,000 operations that all have applied", &[V15], &["queue_not_purged", "segment_behind", "segment_behind"], "although automatically_purge is on", "{MORE} UPDATE max_seq_id SET seq_id=(SELECT max(seq_id) FROM embeddings_queue)"),
];

#[rustfmt::skip]
pub(super) const DOCUMENTS: &[Fault] = &[
    sql("one letter of a text changed in one of its two places", &[V4, V15], VALUE, "embeddings.id 3", "UPDATE embedding_metadata SET string_value=replace(string_value,'a','e') WHERE key='chroma:document' AND id=3"),
    sql("two texts replaced in one of their two places", &[V6], STEP, "another text: 2 records, embeddings.id 3, 4", "UPDATE embedding_metadata SET string_value='banana' WHERE key='chroma:document' AND id IN (3,4)"),
    sql("five texts not in the full-text table", &[V15], STEP, "not in the full-text table: 5 records", "DELETE FROM embedding_fulltext_search WHERE rowid<=5"),
    sql("one text not in the full-text table", &[V4], STEP, "not in the full-text table", "DELETE FROM embedding_fulltext_search WHERE rowid=5"),
    sql("a text in the full-text table only", &[V11], STEP, "has no document", "DELETE FROM embedding_metadata WHERE key='chroma:document' AND id=4"),
    sql("a text in the full-text table at the place of the next record", &[V15], &["fts_out_of_step critical"], "additions fail", "INSERT INTO embedding_fulltext_search(rowid,string_value) VALUES((SELECT max(id)+1 FROM embeddings),'stale')"),
    sql("made before 0.4.6, and not upgraded yet", &[V4], &["fts_lost_at_upgrade"], "rows of its metadata have another number", BEFORE_FULL_TEXT),
    Fault { opened_by: Some(V6), ..sql("made before 0.4.6, and upgraded to 0.6", &[V4], &["fts_lost_at_upgrade"], "", BEFORE_FULL_TEXT) },
    Fault { opened_by: Some(V15), ..sql("made before 0.4.6, and upgraded to 1.5", &[V4], &["fts_lost_at_upgrade"], "", BEFORE_FULL_TEXT) },
    sql("made before 0.4.6, without metadata: the upgrade does no harm", &[V4], &[], "", BEFORE_FULL_TEXT_PLAIN),
    sql("full-text table as the upgrade from before 0.4.6 fills it", &[V4, V6], STEP, "put the document at a wrong number", BY_ROWID),
    sql("full-text table as the upgrade from before 0.4.6 fills it, 1.x", &[V11, V15], &["fts_out_of_step", "fts_out_of_step critical"], "put the document at a wrong number", BY_ROWID),
    sql("a document with U+0000", ALL, &["fts_cut_at_nul"], "1 record, articles-002", NUL),
    sql("a document with U+0000 beside a damaged index", &[V6, V15], &["fts_corrupt", "fts_cut_at_nul"], "inverted index", NUL_BESIDE_DAMAGE),
    sql("a document with U+0000, indexed by a newer SQLite", &[V11, V15], &["fts_cut_at_nul warning"], "a newer SQLite than 3.46 wrote it", NUL_OF_NEWER),
    sql("a document with U+0000, indexed by a newer SQLite, before 1.0", &[V4, V6], &["fts_cut_at_nul"], "a newer SQLite than 3.46 wrote it", NUL_OF_NEWER),
    sql("a row of the full-text content gone beneath its index", &[V15], BOTH, "not in the full-text table", "DELETE FROM embedding_fulltext_search_content WHERE id=5"),
];

/// What 0.4.0 to 0.4.3 make: no full-text table that is looked up by number, no truth values.
const BEFORE_FULL_TEXT: &str = "DROP TABLE embedding_fulltext_search; CREATE VIRTUAL TABLE embedding_fulltext USING fts5(id, string_value); \
    INSERT INTO embedding_fulltext(id, string_value) SELECT id, string_value FROM embedding_metadata WHERE key='chroma:document'; \
    ALTER TABLE embedding_metadata DROP COLUMN bool_value; DELETE FROM migrations WHERE dir='metadb' AND version>1";
/// Each record has one row of metadata, under its own number.
const BEFORE_FULL_TEXT_PLAIN: &str = "DROP TABLE embedding_fulltext_search; CREATE VIRTUAL TABLE embedding_fulltext USING fts5(id, string_value); \
    DELETE FROM embedding_metadata WHERE key<>'chroma:document'; UPDATE embedding_metadata SET rowid=-id; UPDATE embedding_metadata SET rowid=id; \
    ALTER TABLE embedding_metadata DROP COLUMN bool_value; DELETE FROM migrations WHERE dir='metadb' AND version>1";
/// The third migration of the records, word by word.
const BY_ROWID: &str = "DELETE FROM embedding_fulltext_search; \
    INSERT INTO embedding_fulltext_search (rowid, string_value) SELECT rowid, string_value FROM embedding_metadata";

/// As SQLite up to 3.46 leaves it, which all releases have: the index ends before the U+0000.
const NUL: &str = "UPDATE embedding_fulltext_search SET string_value='captured' WHERE rowid=3; \
    UPDATE embedding_fulltext_search_content SET c0='captured'||char(0)||'output' WHERE id=3; \
    UPDATE embedding_metadata SET string_value='captured'||char(0)||'output' WHERE id=3 AND key='chroma:document'";
const NUL_BESIDE_DAMAGE: &str = "UPDATE embedding_fulltext_search SET string_value='captured' WHERE rowid=3; \
    UPDATE embedding_fulltext_search_content SET c0='captured'||char(0)||'output' WHERE id=3; \
    UPDATE embedding_metadata SET string_value='captured'||char(0)||'output' WHERE id=3 AND key='chroma:document'; \
    UPDATE embedding_fulltext_search_data SET block=x'ff00ff00ff00ff00' WHERE id>10";
const NUL_OF_NEWER: &str = "UPDATE embedding_fulltext_search SET string_value='captured'||char(0)||'output' WHERE rowid=3; \
    UPDATE embedding_metadata SET string_value='captured'||char(0)||'output' WHERE id=3 AND key='chroma:document'";

/// In the order in which Chroma 1.5.9 drops them.
const HALF_A_RESET: &str = "DROP TABLE migrations; DROP TABLE acquire_write; DROP TABLE collection_metadata; DROP TABLE segment_metadata; \
    DROP TABLE tenants; DROP TABLE databases; DROP TABLE collections; DROP TABLE maintenance_log; DROP TABLE segments";

#[rustfmt::skip]
pub(super) const SCHEMA: &[Fault] = &[
    Fault { config: "chroma_version: 1.1.1", opened_by: Some(V11), ..sql("migrated by a newer Chroma than the one that opens it", &[V15], &["schema_newer_than_server"], "1.2.2 is the lowest release that opens it", "") },
    Fault { config: "chroma_version: 0.6.3", opened_by: Some(V6), ..sql("migrated from 0.6 to 1.x and opened by 0.6", &[V11], &["schema_newer_than_server"], "", "") },
    sql("hash of a migration changed", &[V15], MISMATCH, "sysdb 3", "UPDATE migrations SET hash='x' WHERE dir='sysdb' AND version=3"),
    sql("text of a migration changed", &[V4], MISMATCH, "metadb 2", "UPDATE migrations SET sql=sql||' ' WHERE dir='metadb' AND version=2"),
    sql("newest migration of the records not written down", &[V15], MISMATCH, "metadb 6", "DELETE FROM migrations WHERE dir='metadb' AND version=6"),
    // Chroma 1.1.1 opens it, runs the migration again and loses every later write.
    sql("newest migration of the records not written down, 1.1", &[V11], MISMATCH, "metadb 5", "DELETE FROM migrations WHERE dir='metadb' AND version=5"),
    sql("newest migration of the queue not written down", &[V6], MISMATCH, "embeddings_queue 2", "DELETE FROM migrations WHERE dir='embeddings_queue' AND version=2"),
    sql("a hole in the migrations", &[V6, V15], MISMATCH, "sysdb 4", "DELETE FROM migrations WHERE dir='sysdb' AND version=4"),
    sql("migrations of the queue gone", &[V15], MISMATCH, "embeddings_queue 1", "DELETE FROM migrations WHERE dir='embeddings_queue'"),
    file("first start of 0.4 killed between two migrations", NEWEST, &["migration_mismatch info"], |d| broken::instead(d, "cut-0.4.24-between")).saying("the next start goes on"),
    file("first start of 0.4 killed within a migration", NEWEST, MISMATCH, |d| broken::instead(d, "cut-0.4.24-within")).saying("duplicate column name: dimension"),
    sql("no migration written down", &[V4, V15], &["migrations_missing"], "no row", "DELETE FROM migrations"),
    sql("a reset that was cut off at the third table", &[V11, V15], &["migrations_missing"], "after a reset()", "DROP TABLE migrations; DROP TABLE acquire_write; DROP TABLE collection_metadata"),
    sql("a reset that was cut off among the tables of the records", NEWEST, &["migrations_missing", "orphan_rows info"], "after a reset()", HALF_A_RESET),
    sql("table migrations gone", &[V15], &["migrations_missing"], "", "DROP TABLE migrations"),
    sql("table embedding_metadata_array gone", &[V15], TABLE, "embedding_metadata_array", "DROP TABLE embedding_metadata_array"),
    sql("table embeddings_queue gone", &[V15], TABLE, "embeddings_queue", "DROP TABLE embeddings_queue"),
    sql("table max_seq_id gone", &[V11], TABLE, "max_seq_id", "DROP TABLE max_seq_id"),
    sql("table embeddings_queue_config gone", &[V11], TABLE, "embeddings_queue_config", "DROP TABLE embeddings_queue_config"),
    sql("table segment_metadata gone", &[V6], TABLE, "segment_metadata", "DROP TABLE segment_metadata"),
    sql("table collection_metadata gone", &[V6, V15], TABLE, "collection_metadata", "DROP TABLE collection_metadata"),
    sql("table embedding_metadata gone", &[V4], TABLE, "embedding_metadata", "DROP TABLE embedding_metadata"),
];

/// What Chroma deletes with the database of `articles`, from 1.0.15 on: all but the rows and the folder of its segments.
const DELETE_DATABASE: &str = "DELETE FROM embedding_fulltext_search WHERE rowid IN (SELECT id FROM embeddings WHERE segment_id={METADATA}); \
    DELETE FROM embedding_metadata WHERE id IN (SELECT id FROM embeddings WHERE segment_id={METADATA}); \
    DELETE FROM embedding_metadata_array WHERE id IN (SELECT id FROM embeddings WHERE segment_id={METADATA}); \
    DELETE FROM embeddings WHERE segment_id={METADATA}; DELETE FROM max_seq_id WHERE segment_id IN ({METADATA}, {VECTOR}); \
    DELETE FROM embeddings_queue WHERE topic LIKE '%'||{articles}; \
    DELETE FROM collection_metadata WHERE collection_id={articles}; DELETE FROM collections WHERE name='articles'";

#[rustfmt::skip]
pub(super) const HEALTHY: &[Fault] = &[
    file("as Chroma wrote it", ALL, &[], |_| {}),
    file("no collection yet", &["1.5.9-empty"], &[], |_| {}),
    file("fewer records than the sync threshold: indexes without elements and metadata", &["1.5.9-fresh"], &[], |_| {}),
    file("deleted records in the index, folder of a deleted collection", &["1.5.9-deleted"], &["segment_orphan"], |_| {}),
    // With counts of updates and invalid operations in the metadata, and still so after any later release below 1.0.
    file("as Chroma 0.5.5 wrote it, opened by 1.5.9", &["0.5.5"], &[], |_| {}).opened_by(V15),
    // 1.0 made room for 10,000 elements, and more when that was not enough; later releases write the header for fewer.
    file("room for more elements than the header says", NEWEST, &[], |dir| {
        super::cut(&super::articles(dir, "data_level0.bin"), 12_000 * 172);
        super::cut(&super::articles(dir, "length.bin"), 12_000 * 4);
        super::age(dir);
    }),
    sql("a collection deleted by Chroma before 1.0.15", &[V11], &["orphan_rows info", "segment_orphan"], "before 1.0.15", "DELETE FROM embeddings_queue WHERE topic LIKE '%'||{articles}; DELETE FROM segments WHERE collection={articles}; DELETE FROM collection_metadata WHERE collection_id={articles}; DELETE FROM collections WHERE name='articles'"),
    sql("a database deleted with its collection by Chroma", NEWEST, &["orphan_rows info", "segment_orphan"], "no record is left", DELETE_DATABASE),
    sql("a collection without a record", NEWEST, &[], "", "INSERT INTO collections(id,name,database_id,config_json_str) VALUES({NEW},'empty','00000000-0000-0000-0000-000000000000','{}'); INSERT INTO segments VALUES('33333333-3333-3333-3333-333333333333','urn:chroma:segment/metadata/sqlite','METADATA',{NEW}), ('44444444-4444-4444-4444-444444444444','urn:chroma:segment/vector/hnsw-local-persisted','VECTOR',{NEW})"),
    sql("tenants and databases of one's own", &[V11], &[], "", "INSERT INTO tenants VALUES('acme'); INSERT INTO databases VALUES({NEW},'books','acme'); UPDATE collections SET database_id={NEW} WHERE name='notes'"),
    sql("the default database under another id", NEWEST, &[], "", "UPDATE databases SET id={NEW}; UPDATE collections SET database_id={NEW}"),
    sql("configuration in the form of 0.6", NEWEST, &[], "", "UPDATE collections SET config_json_str='{\"_type\":\"CollectionConfigurationInternal\",\"hnsw_configuration\":{}}'"),
    sql("no configuration in 0.6", &[V6], &[], "", "UPDATE collections SET config_json_str=NULL"),
    sql("no configuration of the queue", NEWEST, &[], "", "DELETE FROM embeddings_queue_config"),
    sql("purging switched off", NEWEST, &[], "", "UPDATE embeddings_queue_config SET config_json_str='{\"automatically_purge\":false}'"),
    sql("position of the records behind the queue: applied at the next start", &[V6, V15], &[], "", "UPDATE max_seq_id SET seq_id=82 WHERE segment_id={METADATA}"),
    sql("position of a segment that is not there", NEWEST, &[], "", "INSERT INTO max_seq_id VALUES({NEW},5)"),
    sql("what 0.6 leaves of a deleted collection", &[V6], &[], "", "INSERT INTO collection_metadata(collection_id,key) VALUES({NEW},'a'); INSERT INTO max_seq_id VALUES({NEW},x'0000000000000005')"),
    sql("an index and a table of somebody else", NEWEST, &[], "", "CREATE INDEX mine ON embeddings(seq_id); CREATE TABLE theirs(x)"),
    sql("a newer Chroma than any that is known", NEWEST, &["schema_newer_than_exporter"], "11/6/2", "INSERT INTO migrations VALUES('sysdb',11,'00011-x.sqlite.sql','x','x'); UPDATE segments SET type='urn:chroma:segment/vector/new' WHERE id={VECTOR}; UPDATE collections SET config_json_str='{\"vector_index\":{\"new\":{},\"hnsw\":{}}}'"),
    file("folder of an index behind a link", NEWEST, &[], |dir| {
        let folder = super::folder(dir, "articles");
        let elsewhere = dir.with_file_name("elsewhere");
        std::fs::rename(&folder, &elsewhere).unwrap();
        std::os::unix::fs::symlink(elsewhere, folder).unwrap();
    }),
    file("database behind a link", NEWEST, &[], |dir| {
        let elsewhere = dir.with_file_name("elsewhere.sqlite3");
        std::fs::rename(dir.join("chroma.sqlite3"), &elsewhere).unwrap();
        std::os::unix::fs::symlink(elsewhere, dir.join("chroma.sqlite3")).unwrap();
    }),
    file("foreign files and folders beside it", NEWEST, &[], |dir| {
        std::fs::write(dir.join("README.txt"), "notes").unwrap();
        std::fs::create_dir(dir.join("lost+found")).unwrap();
        std::fs::create_dir(dir.join("backup")).unwrap();
        std::fs::write(dir.join("backup/header.bin"), "x").unwrap();
    }),
];

/// What neither SQLite nor the program notices, and why.
#[rustfmt::skip]
pub(super) const BLIND: &[Fault] = &[
    // What the collection was made with stands nowhere else; Chroma goes on with its defaults.
    sql("configuration of a collection gone: it was made with cosine distance", NEWEST, &[], "", "UPDATE collections SET schema_str=NULL, config_json_str=NULL WHERE name='articles'"),
    // 1.x puts the elements of a batch in any order, so that no order is broken.
    file("labels of two elements exchanged, 1.x", &[V11, V15], &[], segments::exchange_elements),
    // 0.x gives labels to the ids of a batch in any order. 0.4 has all vectors in its queue, which tell it.
    file("labels of two ids exchanged in the metadata, 0.6", &[V6], &[], segments::exchange_ids),
    sql("a bit of a vector in the queue flipped", NEWEST, &[], "", "UPDATE embeddings_queue SET vector=x'0000803e'||substr(vector,5) WHERE seq_id={LAST}-5"),
];
