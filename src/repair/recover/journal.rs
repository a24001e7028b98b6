//! A journal beside the copy: of a transaction that was cut off, or of another database.

use std::{fs, path::Path};

use super::{Effect, Failure};
use crate::{
    repair::{proof, unpack},
    store::{DATABASE_FILE, database::beside},
};

/// Rolls back what was cut off, as the next start of Chroma would. A journal of another database is never played: it stays with the
/// old content. Errs when the journal names another file, or cannot be played or removed.
pub(super) fn settle(dir: &Path) -> Result<Effect, Failure> {
    let database = dir.join(DATABASE_FILE);
    let journal = beside(&database, "-journal");
    if unpack::names_another(&journal) {
        return Err(Failure::Damaged(
            "The journal beside the database names another file, which Chroma's never do. It was not played.".to_owned(),
        ));
    }
    let what = if proof::is_foreign(dir) {
        fs::remove_file(&journal)?;
        "the journal of another database was left out; it stays with the old content"
    } else {
        unpack::play(&database)?;
        "a transaction that was cut off was rolled back, as the next start of Chroma does"
    };
    Ok(Effect { what: what.to_owned(), ..Effect::default() })
}
