//! From shell patterns to names, in a stream: a directory with a hundred thousand files costs one name at a time. The
//! syntax is that of the `glob` crate, component by component; `**` stands for any folders, links excepted.

use std::{
    fs::{self, DirEntry},
    io,
    path::{Path, PathBuf},
};

use crate::{collectors::CollectError, host::links};

/// One pattern.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    pattern: String,
    /// The folder that all its names lie in or below.
    root: PathBuf,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Plain(String),
    Wild(glob::Pattern),
    /// `**`
    Deep,
}

/// How far a look goes, and who hears of what it finds.
pub(super) struct Search<'a> {
    /// Where the host's root is seen: targets of links begin there.
    pub(super) root: &'a Path,
    /// Entries that may still be looked at.
    pub(super) entries_left: usize,
    /// Whether to end early.
    pub(super) stopped: &'a dyn Fn() -> bool,
    /// Gets every name that fits; one that vanishes meanwhile may be among them.
    pub(super) found: &'a mut dyn FnMut(PathBuf),
    pub(super) problems: &'a mut Vec<CollectError>,
}

impl Search<'_> {
    /// Where `path` leads for the host.
    fn placed(&self, path: PathBuf) -> PathBuf {
        links::placed(self.root, path)
    }
}

/// The look is over before its end.
struct Ended;

impl Glob {
    /// Splits a pattern that `glob::Pattern` takes. Errs when a class spans components: `a[/]b`.
    pub(super) fn new(pattern: &str) -> Result<Self, CollectError> {
        let mut parts = Vec::new();
        for text in pattern.split('/').filter(|text| !text.is_empty() && *text != ".") {
            parts.push(match text {
                "**" => Part::Deep,
                text => match plain(text) {
                    Some(name) => Part::Plain(name),
                    None => Part::Wild(glob::Pattern::new(text).map_err(|error| {
                        CollectError::Pattern { pattern: pattern.to_owned(), why: error.msg }
                    })?),
                },
            });
        }
        let mut root = PathBuf::from(if pattern.starts_with('/') { "/" } else { "." });
        let folders = parts.iter().take(parts.len().saturating_sub(1));
        let leading = folders.map_while(|part| match part {
            Part::Plain(name) => Some(name),
            _ => None,
        });
        let mut leading_len = 0;
        for name in leading {
            root.push(name);
            leading_len += 1;
        }
        parts.drain(..leading_len);
        Ok(Self { pattern: pattern.to_owned(), root, parts })
    }

    /// The folder that all its names lie in or below.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Looks for it. Below another root than ours, what is found is told by its path without links. What cannot be read is told as a problem, and the rest goes on; a folder that is not there holds
    /// nothing.
    pub(super) fn search(&self, search: &mut Search<'_>) {
        // Whether it was stopped or reached a bound is among the problems, or known to the caller.
        drop(self.descend(&search.placed(self.root.clone()), &self.parts, 0, search));
    }

    fn descend(
        &self,
        folder: &Path,
        parts: &[Part],
        depth: usize,
        search: &mut Search<'_>,
    ) -> Result<(), Ended> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        match part {
            Part::Plain(name) => {
                let path = folder.join(name);
                if !rest.is_empty() {
                    return self.descend(&search.placed(path), rest, depth, search);
                }
                let path = search.placed(path);
                match fs::symlink_metadata(&path) {
                    Ok(_) => (search.found)(path),
                    Err(error) => tell(error, &path, search),
                }
                Ok(())
            }
            Part::Wild(pattern) => self.each(folder, search, &mut |entry, search| {
                if !pattern.matches(&entry.file_name().to_string_lossy()) {
                    return Ok(());
                }
                if rest.is_empty() {
                    let path = search.placed(entry.path());
                    (search.found)(path);
                    return Ok(());
                }
                // A link may lead to a folder; `each` tells of what is none.
                let file = entry.file_type().is_ok_and(|is| !is.is_dir() && !is.is_symlink());
                if file {
                    return Ok(());
                }
                self.descend(&search.placed(entry.path()), rest, depth, search)
            }),
            Part::Deep => {
                self.descend(folder, rest, depth, search)?;
                if depth >= DEPTH_MAX {
                    return Ok(());
                }
                self.each(folder, search, &mut |entry, search| {
                    if !entry.file_type().is_ok_and(|is| is.is_dir()) {
                        return Ok(());
                    }
                    if rest.is_empty() {
                        (search.found)(entry.path());
                    }
                    self.descend(&entry.path(), parts, depth + 1, search)
                })
            }
        }
    }

    fn each(
        &self,
        folder: &Path,
        search: &mut Search<'_>,
        visit: &mut dyn FnMut(&DirEntry, &mut Search<'_>) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                tell(error, folder, search);
                return Ok(());
            }
        };
        for entry in entries {
            if (search.stopped)() {
                return Err(Ended);
            }
            if search.entries_left == 0 {
                search
                    .problems
                    .push(CollectError::PatternTooWide { pattern: self.pattern.clone() });
                return Err(Ended);
            }
            search.entries_left -= 1;
            match entry {
                Ok(entry) => visit(&entry, search)?,
                Err(error) => {
                    // What comes after it in the folder is not known either.
                    tell(error, folder, search);
                    break;
                }
            }
        }
        Ok(())
    }
}

fn tell(source: io::Error, path: &Path, search: &mut Search<'_>) {
    let nothing_there =
        matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    if !nothing_there && search.problems.len() < PROBLEMS_MAX {
        search.problems.push(CollectError::Unreadable { path: path.to_owned(), source });
    }
}

/// The name that a component stands for, when it is only one: `[*]` is an escaped asterisk.
fn plain(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' | '?' => return None,
            '[' => {
                let (escaped, close) = (rest.next()?, rest.next()?);
                if close != ']' || escaped == '!' {
                    return None;
                }
                name.push(escaped);
            }
            c => name.push(c),
        }
    }
    Some(name)
}

/// How deep `**` goes.
const DEPTH_MAX: usize = 32;
/// More say no more.
const PROBLEMS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn search(pattern: &str, entries_left: usize) -> (Vec<String>, usize) {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        Glob::new(pattern).unwrap().search(&mut Search {
            root: Path::new("/"),
            entries_left,
            stopped: &|| false,
            found: &mut |path| found.push(path.to_string_lossy().into_owned()),
            problems: &mut problems,
        });
        found.sort();
        (found, problems.len())
    }

    #[test]
    fn it_finds_what_the_glob_crate_finds() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "a.tar.gz",
            "b.tar",
            ".hidden.tar",
            "x/one/c.tar",
            "x/two/c.tar",
            "y/c.tar",
            "[q]/d.tar",
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
        let base = dir.path().to_str().unwrap();
        for pattern in [
            "*",
            "*.tar",
            "?.tar*",
            "[ab].tar*",
            "x/*",
            "x/*/c.tar",
            "*/*/c.tar",
            "a.tar.gz",
            "none",
            "none/*",
            "[!x]/c.tar",
            "a.tar.gz/*",
            "[[]q]/*",
            "**/c.tar",
            "x/**/c.tar",
            "link/one/*",
        ] {
            let pattern = format!("{base}/{pattern}");
            let mut want: Vec<_> = glob::glob(&pattern)
                .unwrap()
                .map(|path| path.unwrap().to_string_lossy().into_owned())
                .collect();
            // A link below `**` may lead in a circle.
            want.retain(|path| !pattern.contains("**") || !path.contains("/link/"));
            want.sort();
            let (mut found, problems) = search(&pattern, 1000);
            found.dedup();
            assert_eq!((found, problems), (want, 0), "{pattern}");
        }
    }

    #[test]
    fn roots_are_the_folders_that_are_named() {
        for (pattern, want) in [
            ("/srv/backups/chroma.*.tar.gz", "/srv/backups"),
            ("/srv/backups/chroma.tar", "/srv/backups"),
            ("/srv/*/chroma.tar", "/srv"),
            ("/*", "/"),
            ("/srv/a[*]b/x*", "/srv/a*b"),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().root(), Path::new(want), "{pattern}");
        }
        assert!(Glob::new("/a[/]b").is_err());
    }

    #[test]
    fn a_bound_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..20 {
            fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        let (found, problems) = search(&format!("{}/*", dir.path().display()), 10);
        assert_eq!((found.len(), problems), (10, 1));
    }
}
