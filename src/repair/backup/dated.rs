//! The newest backups of a store: in directories that an operator names, and where the configuration has them made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::names;
use crate::{clock::Timestamp, format::backup_name::date_in};

/// Whatever has a date in its name in the directories `named`, and the backups that the program makes in a directory of the store at a
/// place: there may be some of other stores. Newest first, as many as are worth trying.
pub(crate) fn newest(named: &[PathBuf], made: Option<(&Path, &Path)>) -> Vec<PathBuf> {
    let mut found: Vec<_> = named.iter().flat_map(|dir| list(dir, date_in)).collect();
    if let Some((dir, place)) = made
        && let Some(directory) = place.file_name().and_then(|name| name.to_str())
    {
        found.extend(list(dir, |name| names::parse(name, directory).map(|(moment, _)| moment)));
    }
    found.sort();
    found.dedup();
    found.reverse();
    found.into_iter().map(|(_, path)| path).take(TRIED_MAX).collect()
}

fn list(dir: &Path, moment: impl Fn(&str) -> Option<Timestamp>) -> Vec<(Timestamp, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dated = entries.take(ENTRIES_MAX).filter_map(Result::ok).filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str().filter(|name| !name.starts_with('.'))?;
        Some((moment(name)?, entry.path()))
    });
    dated.collect()
}

/// A store that needs an older one is better looked after by somebody.
const TRIED_MAX: usize = 5;
const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_partial_ones_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let name = |day: u32| format!("chroma.backup.202611{day:02}_020000.tar.zst");
        for day in [3, 1, 2, 5, 4, 6] {
            fs::write(scratch.path().join(name(day)), "").unwrap();
        }
        fs::write(scratch.path().join(format!(".{}", name(7))), "").unwrap();
        fs::write(scratch.path().join("notes.txt"), "").unwrap();
        let dirs = [scratch.path().join("none"), scratch.path().to_owned()];
        let want: Vec<PathBuf> = (2..=6).rev().map(|day| scratch.path().join(name(day))).collect();
        assert_eq!(newest(&dirs, None), want);
    }

    #[test]
    fn backups_of_another_store_in_the_same_place_are_not_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path();
        for name in ["docs.backup.20261101_020000.tar.zst", "shop.backup.20261102_020000.tar.zst"] {
            fs::write(to.join(name), "").unwrap();
        }
        let found = newest(&[], Some((to, Path::new("/srv/docs"))));
        assert_eq!(found, [to.join("docs.backup.20261101_020000.tar.zst")]);
    }
}
