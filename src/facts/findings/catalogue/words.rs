//! Sentences, commands and times that several findings share.

use crate::findings::remedy::Template;

/// What to do about files that git has replaced with pointers of Git LFS.
pub const FETCH_FROM_GIT: Template = Template {
    words: "The content is not lost. Stop Chroma, run git lfs pull in the clone that these files came from, and put the real files in their place.",
    command: "",
    note: NOT_BEFORE,
};

pub(super) const NOT_BEFORE: &str = "Do not start Chroma before that.";
pub(super) const RESTORE: &str = "Stop Chroma and put the newest backup back that restores. What is there now is moved aside, not deleted.";
pub(super) const RESTORE_COMMAND: &str = "chroma_exporter restore BACKUP --store.path {path}";
/// For what `recover` repairs without a loss.
pub(super) const RECOVER: &str = "Stop Chroma. Then repair a copy of the store, which is put in place when nothing is lost. What was there is kept.";
/// For what may be lost in part.
pub(super) const OR_RESTORE: &str = "Do not start Chroma before that. What is lost is named, and then nothing is put in place: compare with the newest backup. To take the repaired copy all the same, add --accept-loss.";
pub(super) const RECOVER_COMMAND: &str = "chroma_exporter recover --store.path {path} --apply";
pub(super) const PERMISSIONS_COMMAND: &str =
    "chroma_exporter permissions --store.path {path} --apply";
pub(super) const PERMISSIONS_NOTE: &str = "It changes nothing else, and prints the line that takes it back. Without --apply it only shows what differs.";
pub(super) const BACKUP_COMMAND: &str = "chroma_exporter backup {path} --to DIR";
/// For the index of a collection, whose vectors may be lost in part.
pub(super) const INDEX_ANEW: &str = "Do not start Chroma before that, and do not delete the folder. The index is written anew with the vectors that the folder and the queue still hold. Records whose vector is lost are named, with document and metadata, and then nothing is put in place: compare with the newest backup. Or add --accept-loss, and upsert these records with new embeddings.";
pub(super) const FROM_QUEUE: &str = "Do not start Chroma before that, and never run chroma vacuum now. The index is written anew with the vectors that the queue still holds. Records whose vector is lost are named, with document and metadata, and then nothing is put in place: compare with the newest backup. Or add --accept-loss, and upsert these records with new embeddings.";
pub(super) const VACUUM: &str = "chroma vacuum --path {path}";
pub(super) const TEXTS_LOST: &str = "The full text is made anew from the documents. A text that only the full text still has is named, and then nothing is put in place: compare with the newest backup.";
pub(super) const DISK_USAGE: &str = "du -xh --max-depth=2 {path} | sort -h | tail";

/// Seconds that a server may take to start again.
pub(super) const RESTART: u64 = 15;
/// Seconds after which what comes in bursts has ended.
pub(super) const BURST: u64 = 300;
/// Seconds after which what shows up now and then has ended.
pub(super) const LAST_LINE: u64 = 60;
