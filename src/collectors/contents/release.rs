//! Which Chroma would open this directory next: the one that the operator names, or the one that is installed where the
//! process that holds the database has its packages. After that process has ended, the same place is asked again: that is
//! how a downgrade shows before the next start, and how a server that panics at each start is told from damage.

use std::{path::Path, time::Duration};

use crate::{
    clock::Timestamp,
    host::processes::{
        FileId, Holder, is_sqlite_tool,
        release::{Installed, installed_in},
    },
    store::Context,
};

/// What was learnt of the server.
#[derive(Debug, Default)]
pub(in crate::collectors) struct Server {
    loaded: bool,
    installed: Option<Installed>,
    /// When that was asked, and of which process.
    asked: Option<(Timestamp, Option<Holder>)>,
}

impl Server {
    /// The release that serves the database `file` or would; `None` when that is not known.
    pub(in crate::collectors) fn release(
        &mut self,
        context: &Context,
        file: FileId,
        now: Timestamp,
    ) -> Option<String> {
        if let Some(configured) = &context.store.chroma_version {
            return Some(configured.clone());
        }
        let (state, subject) = (&context.host.state, &context.store.subject());
        if !std::mem::replace(&mut self.loaded, true) {
            self.installed = state.load(STATE_KIND, subject);
        }
        // Not to know who holds it is no reason to forget.
        let holders = context.host.processes.holders(file, HOLDERS_AGE_MAX).ok();
        let holder = holders.and_then(|holders| server_of(&holders).cloned());
        let fresh = self.asked.as_ref().is_some_and(|(at, of)| {
            let same = match (of, &holder) {
                (Some(of), Some(holder)) => of.is(holder),
                (of, holder) => of.is_none() && holder.is_none(),
            };
            same && *at <= now && now.since(*at) < ASK_EVERY
        });
        if !fresh {
            let learnt = match &holder {
                Some(holder) => context.host.processes.installed(holder),
                None => self.installed.take().and_then(again),
            };
            self.asked = Some((now, holder));
            if learnt.is_some() && learnt != self.installed {
                state.save(STATE_KIND, subject, &learnt);
            }
            self.installed = learnt;
        }
        self.installed.as_ref().map(|installed| installed.version.clone())
    }
}

/// The holder that is the Chroma: a server before a program that embeds it; of several the oldest.
fn server_of(holders: &[Holder]) -> Option<&Holder> {
    let chromas = || holders.iter().filter(|holder| holder.writes && !is_sqlite_tool(&holder.comm));
    chromas().find(|holder| holder.server).or_else(|| chromas().next())
}

/// What is installed now where it was before.
fn again(before: Installed) -> Option<Installed> {
    let version = before.packages.as_deref().and_then(|path: &Path| installed_in(path))?;
    Some(Installed { version, ..before })
}

const STATE_KIND: &str = "installed";
/// A change of what is installed is noticed within this time.
const ASK_EVERY: Duration = Duration::from_mins(1);
const HOLDERS_AGE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::{
        config::{Config, Store},
        host::Host,
    };

    fn install(packages: &Path, version: &str) {
        drop(fs::remove_dir_all(packages));
        let info = packages.join(format!("chromadb-{version}.dist-info"));
        fs::create_dir_all(&info).unwrap();
        fs::write(info.join("METADATA"), format!("Version: {version}\n")).unwrap();
    }

    #[test]
    fn what_was_learnt_is_asked_again_after_the_server_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let packages = dir.path().join("site-packages");
        install(&packages, "1.5.9");
        let config =
            Arc::new(Config { state_dir: Some(dir.path().join("state")), ..Config::default() });
        let store = |chroma_version: Option<&str>| {
            Arc::new(Store {
                chroma_version: chroma_version.map(str::to_owned),
                ..Store::new("main", dir.path())
            })
        };
        let host = Arc::new(Host::new(&config));
        let learnt = Installed { version: "1.5.9".to_owned(), packages: Some(packages.clone()) };
        host.state.save(STATE_KIND, dir.path(), &learnt);
        let context = Context::new(&config, &store(None), &host);
        let nobody = FileId { device: u64::MAX, inode: 1 };
        let at = Timestamp::from_secs;
        let mut server = Server::default();
        assert_eq!(server.release(&context, nobody, at(100)).as_deref(), Some("1.5.9"));
        install(&packages, "1.1.1");
        assert_eq!(server.release(&context, nobody, at(130)).as_deref(), Some("1.5.9"));
        assert_eq!(server.release(&context, nobody, at(161)).as_deref(), Some("1.1.1"));
        fs::remove_dir_all(&packages).unwrap();
        assert_eq!(server.release(&context, nobody, at(300)), None);
        let context = Context::new(&config, &store(Some("1.0")), &host);
        assert_eq!(server.release(&context, nobody, at(301)).as_deref(), Some("1.0"));
    }
}
