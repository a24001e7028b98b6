//! Where the store is that was meant, when the path that was given is none: a file of a store, a folder of a segment, the
//! folder above, a name that is nearly right.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    findings::{Code, Finding, Remedy, command},
    format::{hnsw, words},
    host::links,
    store::{DATABASE_FILE, database::kind_of},
};

/// What is around a path that is no store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Nearby {
    /// What it is itself, where that can be said better.
    what: Option<String>,
    /// Stores above or below it, the nearest ones first.
    stores: Vec<PathBuf>,
    /// Stores beside it whose names are nearly the same.
    alike: Vec<PathBuf>,
}

impl Nearby {
    /// Looks one level up, two down, and beside `seen`, as which this process sees `shown`; absolute links begin at `root`.
    pub(super) fn of(root: &Path, seen: &Path, shown: &Path) -> Self {
        let mut nearby = Self { what: what(root, seen), ..Self::default() };
        // A file in the folder of a segment is two levels below its store.
        let above = seen.ancestors().zip(shown.ancestors()).skip(1).take(2);
        nearby
            .stores
            .extend(above.filter(|(seen, _)| is_store(root, seen)).map(|(_, shown)| shown.into()));
        if nearby.stores.is_empty() {
            nearby.stores = below(root, seen, shown);
        }
        if nearby.stores.is_empty() {
            nearby.alike = beside(root, seen, shown);
        }
        nearby
    }

    /// Adds to a finding what is known, and the command that looks at the right place.
    pub(super) fn add_to(&self, finding: Finding) -> Finding {
        if !matches!(finding.code, Code::StoreMissing | Code::NotAStore) {
            return finding;
        }
        let mut evidence = self.what.clone().unwrap_or_else(|| finding.evidence.clone());
        let (stores, remedy) = match (&self.stores[..], &self.alike[..]) {
            ([], []) => (None, None),
            ([store], _) => (
                Some(format!("the store is {}", store.display())),
                Some((store, "Name that directory instead.")),
            ),
            ([store, ..], _) => {
                let list = list(&self.stores);
                (
                    Some(format!("stores are {list}")),
                    Some((store, "Name one of these directories instead, each store by itself.")),
                )
            }
            ([], [store, ..]) => {
                let list = list(&self.alike);
                (
                    Some(format!("beside it is {list}")),
                    Some((store, "See whether that is the directory that you meant.")),
                )
            }
        };
        if let Some(stores) = stores {
            evidence = format!("{evidence}; {stores}");
        }
        let reported =
            Finding::new(finding.code, finding.subject, evidence).with_severity(finding.severity);
        match remedy {
            Some((store, words)) => {
                let command = command("chroma_exporter check {store}", &[("store", store)]);
                reported.with_remedy(Remedy::new(words).with_command(command))
            }
            None => reported,
        }
    }
}

fn list(stores: &[PathBuf]) -> String {
    let shown: Vec<_> =
        stores.iter().take(SHOWN_MAX).map(|store| store.display().to_string()).collect();
    let more = if stores.len() > SHOWN_MAX { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn is_store(root: &Path, dir: &Path) -> bool {
    fs::metadata(links::placed(root, dir.join(DATABASE_FILE))).is_ok_and(|meta| meta.is_file())
}

/// What lies at the path, when it is neither a store nor just anything.
fn what(root: &Path, seen: &Path) -> Option<String> {
    let meta = fs::metadata(seen).ok()?;
    if !meta.is_dir() {
        let name = seen.file_name()?.to_string_lossy();
        let kind = if name == DATABASE_FILE { "the database itself" } else { kind_of(&meta) };
        return Some(format!("it is {kind}, not the directory of a store"));
    }
    let index = [hnsw::HEADER_FILE, hnsw::LEVEL0_FILE]
        .iter()
        .all(|file| links::placed(root, seen.join(file)).is_file());
    index.then(|| "it is the folder of a segment, not the directory of its store".to_owned())
}

/// Stores in the folders of `seen`, or else in the folders of those.
fn below(root: &Path, seen: &Path, shown: &Path) -> Vec<PathBuf> {
    let mut left = ENTRIES_MAX;
    let mut level = vec![(seen.to_owned(), shown.to_owned())];
    for _ in 0..2 {
        level =
            level.iter().flat_map(|(seen, shown)| folders(root, seen, shown, &mut left)).collect();
        let mut stores: Vec<_> = level
            .iter()
            .filter(|(seen, _)| is_store(root, seen))
            .map(|(_, shown)| shown.clone())
            .collect();
        if !stores.is_empty() {
            stores.sort();
            return stores;
        }
    }
    Vec::new()
}

/// Stores in the same folder with nearly the same name, the nearest first.
fn beside(root: &Path, seen: &Path, shown: &Path) -> Vec<PathBuf> {
    let (Some(name), Some(parent), Some(shown_parent)) =
        (shown.file_name(), seen.parent(), shown.parent())
    else {
        return Vec::new();
    };
    let name = name.to_string_lossy().to_lowercase();
    let near = |path: &Path| {
        let other = path.file_name()?.to_string_lossy().to_lowercase();
        let changes = words::distance(&name, &other)?;
        (changes <= 1 + other.chars().count() / 4).then_some(changes)
    };
    let mut found: Vec<_> = folders(root, parent, shown_parent, &mut ENTRIES_MAX.clone())
        .into_iter()
        .filter(|(seen, _)| is_store(root, seen))
        .filter_map(|(_, shown)| Some((near(&shown)?, shown)))
        .collect();
    found.sort();
    found.into_iter().map(|(_, shown)| shown).filter(|path| path != shown).collect()
}

/// The folders in `seen`; links are followed. What cannot be read has none.
fn folders(root: &Path, seen: &Path, shown: &Path, left: &mut usize) -> Vec<(PathBuf, PathBuf)> {
    let Ok(entries) = fs::read_dir(seen) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.take(*left).flatten() {
        *left = left.saturating_sub(1);
        let file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let path = links::placed(root, entry.path());
        if !file && path.is_dir() {
            found.push((path, shown.join(entry.file_name())));
        }
    }
    found
}

/// Most entries that are looked at below a path.
const ENTRIES_MAX: usize = 2000;
/// More say no more.
const SHOWN_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

    /// `store`, `other/deep/store` and `empty` in a directory.
    fn host() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for store in ["app/chroma", "other/deep/store"] {
            let store = dir.path().join(store);
            fs::create_dir_all(store.join(SEGMENT)).unwrap();
            fs::write(store.join("chroma.sqlite3"), "x").unwrap();
            for file in ["header.bin", "data_level0.bin"] {
                fs::write(store.join(SEGMENT).join(file), "x").unwrap();
            }
        }
        fs::create_dir_all(dir.path().join("app/empty")).unwrap();
        dir
    }

    fn said(path: &str, code: Code) -> (String, Remedy) {
        let dir = host();
        let nearby =
            Nearby::of(Path::new("/"), &dir.path().join(path), &Path::new("/srv").join(path));
        let finding = nearby.add_to(Finding::new(code, "", "nothing is there"));
        let remedy = finding.remedy(Path::new("/srv"));
        (finding.evidence, remedy)
    }

    #[test]
    fn the_directory_that_is_meant_is_named_with_the_command() {
        let database = "it is the database itself, not the directory of a store";
        let file = "it is a regular file, not the directory of a store";
        let segment = "it is the folder of a segment, not the directory of its store";
        for (path, what, wanted) in [
            ("app/chroma/chroma.sqlite3", database, "the store is /srv/app/chroma"),
            (&format!("app/chroma/{SEGMENT}"), segment, "the store is /srv/app/chroma"),
            (&format!("app/chroma/{SEGMENT}/header.bin"), file, "the store is /srv/app/chroma"),
            ("app", "nothing is there", "the store is /srv/app/chroma"),
            ("other", "nothing is there", "the store is /srv/other/deep/store"),
            ("app/chroma/none", "nothing is there", "the store is /srv/app/chroma"),
            ("app/chrome", "nothing is there", "beside it is /srv/app/chroma"),
            ("app/Chroma", "nothing is there", "beside it is /srv/app/chroma"),
        ] {
            let (evidence, remedy) = said(path, Code::StoreMissing);
            assert_eq!(evidence, format!("{what}; {wanted}"), "{path}");
            let store = wanted.rsplit(' ').next().unwrap();
            assert_eq!(remedy.command, Some(format!("chroma_exporter check {store}")));
        }
        let (evidence, _) = said("", Code::NotAStore);
        assert_eq!(evidence, "nothing is there; the store is /srv/app/chroma");
    }

    #[test]
    fn nothing_is_made_up() {
        for path in ["app/empty", "app/elsewhere", "none/at/all"] {
            let (evidence, remedy) = said(path, Code::NotAStore);
            assert_eq!(evidence, "nothing is there", "{path}");
            assert_eq!(remedy, Code::NotAStore.remedy(Path::new("/srv")), "{path}");
        }
        let (evidence, _) = said("app/chroma/chroma.sqlite3", Code::SqliteEmpty);
        assert_eq!(evidence, "nothing is there", "another finding is left alone");
    }

    #[test]
    fn several_stores_are_named_and_a_name_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        for store in ["my data", "b", "c", "d", "e"] {
            fs::create_dir(dir.path().join(store)).unwrap();
            fs::write(dir.path().join(store).join("chroma.sqlite3"), "x").unwrap();
        }
        let finding = Finding::new(Code::NotAStore, "", "x");
        let reported =
            Nearby::of(Path::new("/"), dir.path(), Path::new("/srv")).add_to(finding.clone());
        assert_eq!(reported.evidence, "x; stores are /srv/b, /srv/c, /srv/d, /srv/e, …");
        for store in ["b", "c", "d", "e"] {
            fs::remove_dir_all(dir.path().join(store)).unwrap();
        }
        let reported = Nearby::of(Path::new("/"), dir.path(), Path::new("/srv")).add_to(finding);
        let command = reported.remedy.unwrap().command;
        assert_eq!(command.as_deref(), Some("chroma_exporter check '/srv/my data'"));
    }
}
