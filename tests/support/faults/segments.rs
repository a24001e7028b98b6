//! Folders of indexes.

use std::{fs, path::Path};

use super::{
    ALL, Fault, NEWEST, PURGED, V4, V6, V11, V15, articles, cut, database, exchange, file, folder,
    overwrite, replace,
};
use crate::support::copy_tree;

/// Where the element stands and how long each is: 8 numbers, and 16 neighbours above level 0.
const ELEMENT: u64 = 4 + 4 * 32 + 4 * 8 + 8;

const HOSTILE: &[u8] = b"cposix\nsystem\n(X\x04\x00\x00\x00truetR.";

#[rustfmt::skip]
pub(super) const FOLDERS: &[Fault] = &[
    file("header missing", ALL, &["segment_incomplete"], |d| fs::remove_file(articles(d, "header.bin")).unwrap()),
    file("header empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "header.bin"), 0)),
    file("header is a directory", NEWEST, &["segment_incomplete"], |d| {
        fs::remove_file(articles(d, "header.bin")).unwrap();
        fs::create_dir(articles(d, "header.bin")).unwrap();
    }),
    file("header cut", ALL, &["segment_truncated"], |d| cut(&articles(d, "header.bin"), 40)),
    file("header zeroed", NEWEST, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 0, &[0; 100])).saying("the vectors of 80 of 80 ids can be read out"),
    file("header of another version", NEWEST, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 0, &[2])),
    file("more elements than room", ALL, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 20, &1_000_000_u64.to_le_bytes())),
    file("entry point nowhere", ALL, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 56, &80_u32.to_le_bytes())),
    file("other number of neighbours", NEWEST, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 60, &8_u64.to_le_bytes())),
    file("another level", NEWEST, &["segment_inconsistent"], |d| overwrite(&articles(d, "header.bin"), 52, &3_i32.to_le_bytes())),
    file("one element less", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "header.bin"), 20, &79_u64.to_le_bytes())),
    file("elements missing", NEWEST, &["segment_incomplete"], |d| fs::remove_file(articles(d, "data_level0.bin")).unwrap()),
    file("elements empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "data_level0.bin"), 0)),
    file("elements cut", ALL, &["segment_truncated"], |d| cut(&articles(d, "data_level0.bin"), 10 * ELEMENT + 7)).saying("the vectors of 10 of 80 ids can be read out"),
    file("neighbour nowhere", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT + 4, &[0xff; 4])),
    file("too many neighbours", NEWEST, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT, &[0xff])),
    file("label of another element", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 6 * ELEMENT - 8, &9_u64.to_le_bytes())).by_chance(),
    file("label never given out", NEWEST, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 6 * ELEMENT - 8, &999_u64.to_le_bytes())),
    file("labels of two elements exchanged", &[V4, V6], &["segment_inconsistent"], exchange_elements),
    file("labels of two ids exchanged in the metadata", &[V4, V11, V15], &["segment_inconsistent"], exchange_ids),
    file("number that is none", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 6 * ELEMENT - 12, &f32::NAN.to_le_bytes())).by_chance(),
    file("marked as deleted", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT + 2, &[1])).by_chance(),
    file("no longer marked as deleted", &["1.5.9-deleted"], &["segment_inconsistent", "segment_orphan"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT + 2, &[0])),
    file("norms missing", NEWEST, &["segment_incomplete"], |d| fs::remove_file(articles(d, "length.bin")).unwrap()),
    file("norms empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "length.bin"), 0)),
    file("norms cut", ALL, &["segment_truncated"], |d| cut(&articles(d, "length.bin"), 160)),
    file("infinite norm", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "length.bin"), 40, &f32::INFINITY.to_le_bytes())),
    file("links missing", NEWEST, &["segment_incomplete"], |d| fs::remove_file(articles(d, "link_lists.bin")).unwrap()),
    file("links empty", ALL, &["segment_incomplete"], |d| cut(&articles(d, "link_lists.bin"), 0)),
    file("links cut", ALL, &["segment_truncated"], |d| {
        let file = articles(d, "link_lists.bin");
        cut(&file, fs::metadata(&file).unwrap().len() - 1);
    }),
    file("links cut below their lengths", NEWEST, &["segment_truncated"], |d| cut(&articles(d, "link_lists.bin"), 100)),
    file("impossible length of links", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "link_lists.bin"), 0, &[1, 2, 3, 4])),
    file("bytes behind the links", NEWEST, &["segment_inconsistent"], |d| {
        let file = articles(d, "link_lists.bin");
        cut(&file, fs::metadata(&file).unwrap().len() + 8);
    }),
    file("links without end", ALL, &["segment_bloated"], |d| cut(&articles(d, "link_lists.bin"), 1 << 40)),
    file("elements without end", NEWEST, &["segment_bloated"], |d| cut(&articles(d, "data_level0.bin"), 1 << 40)),
    file("metadata missing", PURGED, &["segment_incomplete"], |d| fs::remove_file(articles(d, "index_metadata.pickle")).unwrap()),
    file("metadata missing, all vectors still in the queue", &[V4], &["segment_incomplete info"], |d| fs::remove_file(articles(d, "index_metadata.pickle")).unwrap()).saying("all 86 vectors are still in the queue"),
    file("metadata empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "index_metadata.pickle"), 0)),
    file("metadata cut", ALL, &["segment_metadata_invalid"], |d| cut(&articles(d, "index_metadata.pickle"), 700)),
    file("metadata are text", NEWEST, &["segment_metadata_invalid"], |d| fs::write(articles(d, "index_metadata.pickle"), "hello").unwrap()),
    file("metadata call code", ALL, &["segment_metadata_hostile"], |d| fs::write(articles(d, "index_metadata.pickle"), HOSTILE).unwrap()),
    file("metadata call code, header cut", NEWEST, &["segment_metadata_hostile"], |d| {
        fs::write(articles(d, "index_metadata.pickle"), HOSTILE).unwrap();
        cut(&articles(d, "header.bin"), 40);
    }),
    file("one map of the metadata differs", NEWEST, &["segment_metadata_invalid"], |d| {
        let file = articles(d, "index_metadata.pickle");
        let mut from = b"articles-020J\x15".to_vec();
        let mut to = from.clone();
        to[13] = 0x16;
        from.extend([0; 3]);
        to.extend([0; 3]);
        replace(&file, &from, &to);
    }),
    file("metadata exchanged", ALL, &["segment_inconsistent", "segment_inconsistent"], |d| {
        let name = "index_metadata.pickle";
        exchange(&articles(d, name), &folder(d, "notes").join(name));
    }),
    file("folders exchanged", ALL, &["segment_inconsistent", "segment_inconsistent"], |d| {
        exchange(&folder(d, "articles"), &folder(d, "notes"));
    }),
    file("folder of another store", ALL, &["segment_inconsistent"], |d| {
        replace(&articles(d, "index_metadata.pickle"), b"articles-", b"artifact-");
    }),
    file("folder missing", &[V11, V15], &["segment_missing"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()).saying("77 of 86 records have no vector any more"),
    file("folder missing, nobody knows which Chroma opens it", &[V6], &["segment_missing"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()).saying("77 of 86 records have no vector with the one, 78 with the other"),
    file("folder missing, before 1.0", &[V6], &["segment_missing"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()).configured("chroma_version: 0.6.3").saying("78 of 86 records have no vector any more"),
    file("folder missing, opened by 1.x next", &[V6], &["segment_missing"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()).configured("chroma_version: 1.5.9").opened_by(V15).saying("77 of 86 records have no vector any more"),
    file("folder missing, all vectors still in the queue", &[V4], &["segment_missing info"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()).saying("all 86 vectors are still in the queue"),
    file("folder empty, all vectors still in the queue", &[V4], &["segment_incomplete info"], |d| {
        fs::remove_dir_all(folder(d, "articles")).unwrap();
        fs::create_dir(folder(d, "articles")).unwrap();
    }).saying("all 86 vectors are still in the queue"),
    file("both folders exchanged for those of another store", PURGED, &["segment_missing", "segment_missing"], exchange_folders)
        .saying("2 folders with an index are here that the database does not know"),
    file("both folders exchanged for those of another store, all vectors still in the queue", &[V4], &["segment_missing warning", "segment_missing warning"], exchange_folders)
        .saying("2 folders with an index are here that the database does not know"),
    file("folder empty", PURGED, &["segment_incomplete"], |d| {
        fs::remove_dir_all(folder(d, "articles")).unwrap();
        fs::create_dir(folder(d, "articles")).unwrap();
    }),
    file("folder with its name in capitals", NEWEST, &["segment_missing"], |d| {
        let folder = folder(d, "articles");
        let name = folder.file_name().unwrap().to_str().unwrap().to_uppercase();
        fs::rename(&folder, folder.with_file_name(name)).unwrap();
    }),
    file("folder of nobody", ALL, &["segment_orphan"], |d| {
        copy_tree(&folder(d, "articles"), &d.join("3f2504e0-4f89-41d3-9a0c-0305e82c3301"));
    }),
    file("database newer than folder", PURGED, &["segment_behind"], advance_database),
    file("database older than folder", ALL, &["segment_ahead"], rewind_database).saying("every record has its vector (articles-0"),
    file("elements that no link leads to", ALL, &["records_unreachable"], unlink_elements).saying("of 80 records that were tried"),
    file("a record that only the tables have", ALL, &["records_without_vector"], rename_record).saying("1 of 86 records"),
    file("unpersisted folder missing", &["1.5.9-fresh"], &["segment_missing info"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()).saying("all 25 vectors are still in the queue"),
    file("unpersisted folder without its header", &["1.5.9-fresh"], &["segment_incomplete info"], |d| fs::remove_file(articles(d, "header.bin")).unwrap()).saying("all 25 vectors are still in the queue"),
    file("header of an unpersisted folder of zeros", &["1.5.9-fresh"], &["segment_incomplete info"], |d| overwrite(&articles(d, "header.bin"), 0, &[0; 100])).saying("all 25 vectors are still in the queue"),
    file("elements of zeros", NEWEST, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 0, &vec![0; usize::try_from(80 * ELEMENT).unwrap()])).saying("no vector can be read out of data_level0.bin"),
    file("Git LFS pointers in place of the index", ALL, &["segment_incomplete"], |d| {
        for name in ["header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle"] {
            point(&articles(d, name));
        }
    }).saying("are Git LFS pointers"),
    file("Git LFS pointer in place of the metadata", NEWEST, &["segment_incomplete"], |d| point(&articles(d, "index_metadata.pickle"))).saying("index_metadata.pickle is a Git LFS pointer"),
    file("Git LFS pointers in place of an unpersisted index", &["1.5.9-fresh"], &["segment_incomplete info"], |d| {
        for name in ["header.bin", "data_level0.bin", "length.bin"] {
            point(&articles(d, name));
        }
    }).saying("all 25 vectors are still in the queue"),
    file("database and folder went apart", PURGED, &["segment_behind"], |d| {
        rewind_database(d);
        let sql = "INSERT INTO embeddings(segment_id, embedding_id, seq_id) \
                   SELECT segment_id, 'nobody', seq_id FROM embeddings WHERE embedding_id = 'articles-020'";
        assert_eq!(database(d).execute(sql, []).unwrap(), 1);
    }).saying("folder and database do not agree any more: 1 of 60 records have no vector"),
];

/// What git has in place of a file whose content was not fetched.
pub(super) fn point(file: &Path) {
    let size = fs::metadata(file).unwrap().len();
    let text = "version https://git-lfs.github.com/spec/v1\noid sha256:";
    fs::write(file, format!("{text}{}\nsize {size}\n", "4d".repeat(32))).unwrap();
}

/// The database as it would be with everything flushed and purged, beside folders that are older.
fn advance_database(dir: &Path) {
    let database = database(dir);
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection \
               WHERE s.scope = 'VECTOR' AND c.name = 'articles'";
    let segment: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
    let old = dir.to_str().unwrap().contains("chroma-0.");
    let position = if old { "x'000000000000005a'" } else { "90" };
    database
        .execute_batch(&format!(
            "UPDATE max_seq_id SET seq_id = {position} WHERE segment_id = '{segment}'; \
             DELETE FROM embeddings_queue WHERE seq_id < 90"
        ))
        .unwrap();
}

/// The database as it was before the last twenty flushed records, beside folders that are newer.
fn rewind_database(dir: &Path) {
    let database = database(dir);
    let newer =
        "SELECT id FROM embeddings WHERE embedding_id >= 'articles-060' AND embedding_id < 'b'";
    let array = "SELECT count(*) FROM sqlite_schema WHERE name = 'embedding_metadata_array'";
    let array: i64 = database.query_row(array, [], |row| row.get(0)).unwrap();
    if array > 0 {
        database
            .execute_batch(&format!("DELETE FROM embedding_metadata_array WHERE id IN ({newer})"))
            .unwrap();
    }
    database
        .execute_batch(&format!(
            "DELETE FROM embedding_fulltext_search WHERE rowid IN ({newer}); \
             DELETE FROM embedding_metadata WHERE id IN ({newer}); \
             DELETE FROM embeddings WHERE id IN ({newer}); \
             DELETE FROM embeddings_queue WHERE seq_id < 90 AND seq_id > 60"
        ))
        .unwrap();
}

/// Turns every link to the elements 40 to 59 to one that is no such element, so that the graph is sound and lacks them.
fn unlink_elements(dir: &Path) {
    let header = fs::read(articles(dir, "header.bin")).unwrap();
    let entry = u32::from_le_bytes(header[56..60].try_into().unwrap());
    let lost = if (40..60).contains(&entry) { 10..30 } else { 40..60 };
    let turn = |ids: &mut [u8]| {
        for id in ids.chunks_exact_mut(4) {
            if lost.contains(&u32::from_le_bytes((*id).try_into().unwrap())) {
                id.copy_from_slice(&entry.to_le_bytes());
            }
        }
    };
    let (elements, links) = (articles(dir, "data_level0.bin"), articles(dir, "link_lists.bin"));
    let mut bytes = fs::read(&elements).unwrap();
    for element in bytes.chunks_exact_mut(usize::try_from(ELEMENT).unwrap()).take(80) {
        turn(&mut element[4..4 + 4 * 32]);
    }
    fs::write(&elements, bytes).unwrap();
    let mut bytes = fs::read(&links).unwrap();
    let mut at = 0;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let end = at + 4 + usize::try_from(length).unwrap();
        for level in bytes[at + 4..end].chunks_exact_mut(4 + 4 * 16) {
            turn(&mut level[4..]);
        }
        at = end;
    }
    fs::write(&links, bytes).unwrap();
}

/// The folders under names that the database does not know.
fn exchange_folders(dir: &Path) {
    for (name, stranger) in [
        ("articles", "3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
        ("notes", "3f2504e0-4f89-41d3-9a0c-0305e82c3302"),
    ] {
        fs::rename(folder(dir, name), dir.join(stranger)).unwrap();
    }
}

fn rename_record(dir: &Path) {
    let sql = "UPDATE embeddings SET embedding_id = 'nobody' WHERE embedding_id = 'articles-020'";
    assert_eq!(database(dir).execute(sql, []).unwrap(), 1);
}

/// Two elements that have each other's label: every count agrees, and two ids have each other's vector.
pub(super) fn exchange_elements(dir: &Path) {
    let file = articles(dir, "data_level0.bin");
    let bytes = fs::read(&file).unwrap();
    let end = |at: u64| usize::try_from((at + 1) * ELEMENT).unwrap();
    let label = |at| bytes[end(at) - 8..end(at)].to_vec();
    overwrite(&file, 6 * ELEMENT - 8, &label(60));
    overwrite(&file, 61 * ELEMENT - 8, &label(5));
}

/// Two ids with each other's label. Each stands three times in the file: `id_to_label`, `label_to_id`, `id_to_seq_id`.
pub(super) fn exchange_ids(dir: &Path) {
    let (a, b) = (b"articles-005".as_slice(), b"articles-060".as_slice());
    let file = articles(dir, "index_metadata.pickle");
    replace(&file, a, b"articles-xxx");
    replace(&file, b, a);
    replace(&file, b"articles-xxx", b);
}
