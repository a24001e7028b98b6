//! How the content of a store is to be exchanged: what stands in its directory, who has it mounted, and what follows from that.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Component, Path, PathBuf},
};

use chroma_format::{sqlite::is_suffix, uuid::is_segment_name};

use super::{
    super::quarantine::{self, Place, Quarantine, Way},
    SwapError, discard, exchange,
};
use crate::{format::proc::Mount, host::processes::mounts, store::DATABASE_FILE};

/// What would be done, and with what.
#[derive(Debug)]
pub struct Plan {
    pub(super) quarantine: Quarantine,
    reason: Option<String>,
}

impl Plan {
    /// How the content is exchanged.
    #[must_use]
    pub const fn way(&self) -> Way {
        self.quarantine.record.way
    }

    /// Why not in one call.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The folder that it works in.
    #[must_use]
    pub const fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Nothing is done; what was staged goes away. Errs when the disk does.
    pub fn discard(self) -> io::Result<()> {
        discard(self.quarantine)
    }
}

/// Looks at the place and says how what is staged in `quarantine` would be exchanged with what is in the store. Changes
/// nothing, but for what is staged, which goes away when this errs. `own` are the mounts of this process, `others` those of
/// all. Errs when it may not be exchanged, with the reason.
pub fn plan(
    mut quarantine: Quarantine,
    own: &[Mount],
    others: &[(u32, Vec<Mount>)],
) -> Result<Plan, SwapError> {
    match inspect(&mut quarantine, own, others) {
        Ok(reason) => Ok(Plan { quarantine, reason }),
        Err(error) => {
            // What is left is named by the next run.
            drop(discard(quarantine));
            Err(error)
        }
    }
}

/// How the content of a store would be exchanged, and why not in one call. Changes nothing. Errs when it may not be exchanged,
/// with the reason.
pub fn preview(
    store: &Path,
    own: &[Mount],
    others: &[(u32, Vec<Mount>)],
) -> Result<(Way, Option<String>), SwapError> {
    let before = || SwapError::before(store);
    let place = Place::of(store).map_err(before())?;
    let seen = Contents::inspect(store, Path::new("")).map_err(before())?;
    let bound = bound(store, own, others);
    decide(&Facts { store, inside: place.is_inside(), seen: &seen, bound })
}

fn inspect(
    quarantine: &mut Quarantine,
    own: &[Mount],
    others: &[(u32, Vec<Mount>)],
) -> Result<Option<String>, SwapError> {
    let store = quarantine.record.store.clone();
    let before = || SwapError::before(&store);
    let seen = Contents::inspect(&store, &quarantine.path).map_err(before())?;
    let facts = Facts {
        inside: quarantine.inside,
        bound: bound(&store, own, others),
        seen: &seen,
        store: &store,
    };
    let (way, reason) = decide(&facts)?;
    let incoming = names(&quarantine.incoming()).map_err(before())?;
    let record = &mut quarantine.record;
    record.way = way;
    record.had_database = seen.database;
    record.out.clone_from(&seen.chroma);
    record.kept.clone_from(&seen.kept);
    record.into = incoming.into_iter().filter(|name| name != DATABASE_FILE).collect();
    Ok(reason)
}

/// What stands in the directory of a store.
#[derive(Debug, Default)]
struct Contents {
    exists: bool,
    database: bool,
    /// Something that is no file stands in place of the database.
    no_file: Option<&'static str>,
    /// Chroma's entries, the database apart.
    chroma: Vec<String>,
    /// Entries of others.
    kept: Vec<String>,
    /// There are more of those, whose names cannot be written down.
    unwritable: bool,
    /// Entries that something is mounted on.
    mounted: Vec<String>,
}

impl Contents {
    fn inspect(store: &Path, working: &Path) -> io::Result<Self> {
        let mut seen = Self::default();
        let entries = match fs::read_dir(store) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(seen),
            entries => entries?,
        };
        seen.exists = true;
        for entry in entries {
            let entry = entry?;
            let named = entry.file_name();
            if entry.path() == working {
                continue;
            }
            let Some(name) = named.to_str() else {
                seen.unwritable = true;
                continue;
            };
            if quarantine::is_mount_point(&entry.path())? {
                seen.mounted.push(name.to_owned());
            }
            let kind = entry.file_type()?;
            if name == DATABASE_FILE {
                seen.database = true;
                seen.no_file = if kind.is_file() {
                    None
                } else if kind.is_symlink() {
                    Some("a link")
                } else {
                    Some("no file")
                };
            } else if is_chromas(&named) {
                seen.chroma.push(name.to_owned());
            } else {
                seen.kept.push(name.to_owned());
            }
        }
        seen.chroma.sort_unstable();
        seen.kept.sort_unstable();
        Ok(seen)
    }
}

/// Whether an entry is Chroma's, the database apart: folders of segments, and what SQLite keeps beside the database.
fn is_chromas(name: &OsStr) -> bool {
    is_segment_name(name.as_encoded_bytes())
        || name.to_str().is_some_and(|name| {
            name.strip_prefix(DATABASE_FILE).is_some_and(|end| is_suffix(end.as_bytes()))
        })
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_str().ok_or_else(|| io::Error::other("a name that is no text"))?;
        if name != exchange::MARKER {
            out.push(name.to_owned());
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// What decides how content is exchanged.
struct Facts<'a> {
    store: &'a Path,
    inside: bool,
    seen: &'a Contents,
    bound: Bound,
}

/// Whether processes have the store mounted by itself, or a part of it.
#[derive(Debug, PartialEq, Eq)]
enum Bound {
    No,
    /// Process and where.
    Whole(u32, PathBuf),
    /// Process, where, and which entry.
    Part(u32, PathBuf, String),
}

fn bound(store: &Path, own: &[Mount], others: &[(u32, Vec<Mount>)]) -> Bound {
    let Some(place) = mounts::place(own, store) else { return Bound::No };
    let mut found = Bound::No;
    for (pid, mount) in others.iter().flat_map(|(pid, all)| all.iter().map(move |m| (pid, m))) {
        if mount.device != place.device {
            continue;
        }
        let Ok(below) = mount.root.strip_prefix(&place.path) else { continue };
        let at = mount.mount_point.clone();
        match below.components().next().map(Component::as_os_str) {
            None => found = Bound::Whole(*pid, at),
            Some(name) if name == DATABASE_FILE || is_chromas(name) => {
                return Bound::Part(*pid, at, name.to_string_lossy().into_owned());
            }
            Some(_) => {}
        }
    }
    found
}

/// How content is exchanged, and why not in one call. Errs when there is no way that is safe.
fn decide(facts: &Facts<'_>) -> Result<(Way, Option<String>), SwapError> {
    let Facts { store, inside, seen, bound } = facts;
    let refused =
        |what: String, help: &str| Err(SwapError::Refused { what, help: help.to_owned() });
    if let Some(is) = seen.no_file {
        return refused(
            format!("{} is {is}", store.join(DATABASE_FILE).display()),
            "put the database itself there, or restore into the directory that the link leads to",
        );
    }
    if let Bound::Part(pid, at, name) = bound {
        return refused(
            format!(
                "process {pid} has {name} of {} mounted by itself, at {}: it would go on seeing the old one",
                store.display(),
                at.display()
            ),
            "stop the container that has this mount, then run this again; let containers mount the whole directory",
        );
    }
    let fixed = |name: &&String| name.as_str() == DATABASE_FILE || is_chromas(OsStr::new(name));
    if let Some(name) = seen.mounted.iter().find(fixed) {
        return refused(
            format!(
                "something is mounted on {}, which cannot be moved",
                store.join(name).display()
            ),
            "unmount it and put its content into the directory, then run this again",
        );
    }
    if !seen.exists {
        return Ok((Way::Fresh, None));
    }
    let reason = if *inside {
        "the directory is a mount point, or the one above it may not be written to".to_owned()
    } else if let Bound::Whole(pid, at) = bound {
        format!("process {pid} has the directory mounted at {}", at.display())
    } else if let Some(name) = seen.mounted.first() {
        format!("something is mounted on {name} in it")
    } else if seen.unwritable {
        "it holds files whose names are no text".to_owned()
    } else {
        return Ok((Way::Directory, None));
    };
    Ok((Way::Files, Some(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::proc::parse_mountinfo;

    const SEGMENT: &str = "11f4c994-921f-420d-b9b5-cbe3dd08f50d";

    #[test]
    fn the_way_is_chosen_by_what_the_place_allows() {
        let store = Path::new("/srv/chroma");
        let own = parse_mountinfo(b"1 0 254:0 / / rw - ext4 /dev/vda rw\n");
        let other = |line: &str| vec![(7, parse_mountinfo(line.as_bytes()))];
        let way = |inside, seen: &Contents, others: &[(u32, Vec<Mount>)]| {
            let facts = Facts { store, inside, seen, bound: bound(store, &own, others) };
            decide(&facts)
        };
        let seen = Contents { exists: true, database: true, ..Contents::default() };
        let elsewhere = other("9 8 254:1 /srv/chroma /data rw - ext4 /dev/vdb rw\n");
        assert_eq!(way(false, &seen, &elsewhere).unwrap(), (Way::Directory, None));
        assert_eq!(way(false, &Contents::default(), &[]).unwrap(), (Way::Fresh, None));
        for (inside, seen, others, word) in [
            (true, Contents { exists: true, ..Contents::default() }, vec![], "mount point"),
            (
                false,
                Contents { exists: true, ..Contents::default() },
                other("9 8 254:0 /srv/chroma /data rw - ext4 /dev/vda rw\n"),
                "process 7 has the directory mounted at /data",
            ),
            (
                false,
                Contents {
                    exists: true,
                    mounted: vec!["backups".to_owned()],
                    ..Contents::default()
                },
                vec![],
                "mounted on backups",
            ),
            (
                false,
                Contents { exists: true, unwritable: true, ..Contents::default() },
                vec![],
                "no text",
            ),
        ] {
            let (way, reason) = way(inside, &seen, &others).unwrap();
            assert_eq!(way, Way::Files);
            assert!(reason.unwrap().contains(word), "{word}");
        }
        for (seen, others, word) in [
            (
                Contents { exists: true, ..Contents::default() },
                other("9 8 254:0 /srv/chroma/chroma.sqlite3 /data/c.db rw - ext4 /dev/vda rw\n"),
                "process 7 has chroma.sqlite3 of /srv/chroma mounted by itself",
            ),
            (
                Contents { exists: true, mounted: vec![SEGMENT.to_owned()], ..Contents::default() },
                vec![],
                "something is mounted on /srv/chroma/11f4c994",
            ),
        ] {
            let reported = way(false, &seen, &others).unwrap_err().to_string();
            assert!(reported.contains(word), "{reported}");
        }
        let part = other("9 8 254:0 /srv/chroma/notes /x rw - ext4 /dev/vda rw\n");
        assert_eq!(way(false, &seen, &part).unwrap(), (Way::Directory, None), "not Chroma's");
    }
}
