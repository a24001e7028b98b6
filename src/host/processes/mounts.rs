//! Where a path lies in its filesystem, whoever mounted which part of it where: what a container calls
//! `/data/chroma.sqlite3` and the host `/srv/chroma/chroma.sqlite3` is one place.

use std::path::{Path, PathBuf};

use crate::format::proc::Mount;

/// A filesystem and a path from its own root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) device: (u32, u32),
    pub(crate) path: PathBuf,
}

/// The place of `path`, absolute and without links, for a process with these mounts.
pub(crate) fn place(mounts: &[Mount], path: &Path) -> Option<Place> {
    // Of mounts on one point the last one is seen.
    let depth = |mount: &&Mount| mount.mount_point.components().count();
    let mount = mounts.iter().filter(|m| path.starts_with(&m.mount_point)).max_by_key(depth)?;
    inner(mount, path)
}

/// The place of `path` on the mount with this id.
pub(crate) fn place_on(mounts: &[Mount], id: u32, path: &Path) -> Option<Place> {
    inner(mounts.iter().find(|mount| mount.id == id)?, path)
}

fn inner(mount: &Mount, path: &Path) -> Option<Place> {
    let rest = path.strip_prefix(&mount.mount_point).ok()?;
    Some(Place { device: mount.device, path: join(&mount.root, rest) })
}

/// The paths by which a process with these mounts might reach `place`; another mount may lie over any of them.
pub(crate) fn paths_to<'a>(
    mounts: &'a [Mount],
    place: &'a Place,
) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.iter().filter(|mount| mount.device == place.device).filter_map(|mount| {
        let rest = place.path.strip_prefix(&mount.root).ok()?;
        Some(join(&mount.mount_point, rest))
    })
}

/// `join` alone would add a slash for an empty rest.
fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::proc::parse_mountinfo;

    const HOST: &[u8] = b"1 0 254:0 / / rw - ext4 /dev/vda rw\n\
        2 1 254:1 / /srv rw - ext4 /dev/vdb rw\n\
        3 1 0:50 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n\
        4 1 254:1 /old /srv rw - ext4 /dev/vdb rw\n";
    const CONTAINER: &[u8] = b"10 9 0:50 / / rw - overlay overlay rw\n\
        11 10 254:1 /chroma /data rw - ext4 /dev/vdb rw\n\
        12 10 254:1 /chroma/one.db /file rw - ext4 /dev/vdb rw\n";

    #[test]
    fn one_place_has_a_path_in_each_namespace() {
        let (host, container) = (parse_mountinfo(HOST), parse_mountinfo(CONTAINER));
        let seen = |path: &str| place(&container, Path::new(path)).unwrap();
        let data = seen("/data/chroma.sqlite3");
        assert_eq!(data, Place { device: (254, 1), path: "/chroma/chroma.sqlite3".into() });
        assert_eq!(place_on(&container, 11, Path::new("/data/chroma.sqlite3")), Some(data.clone()));
        assert_eq!(place_on(&container, 11, Path::new("/database")), None);
        assert_eq!(place_on(&container, 99, Path::new("/data")), None);
        let paths: Vec<PathBuf> = paths_to(&host, &data).collect();
        assert_eq!(paths, [Path::new("/srv/chroma/chroma.sqlite3")]);
        let paths: Vec<PathBuf> = paths_to(&host, &seen("/app/x")).collect();
        assert_eq!(paths, [Path::new("/var/lib/docker/overlay2/x/merged/app/x")]);
        assert_eq!(seen("/file").path, Path::new("/chroma/one.db"));
        assert_eq!(seen("/").path, Path::new("/"));
        assert_eq!(
            place(&host, Path::new("/srv/a")).unwrap().path,
            Path::new("/old/a"),
            "the later mount lies over the earlier one"
        );
        assert_eq!(place(&[], Path::new("/a")), None);
    }
}
