//! Folders that no collection has any more. Chroma leaves the folder of a collection that is deleted; a server may hold its
//! files open until it ends.

use std::time::Duration;

use super::directory::{Folder, Part};
use crate::{
    findings::{Code, Finding},
    format::uuid::Uuid,
    human,
    store::Context,
};

/// The folders that the database does not know.
#[derive(Debug)]
pub(super) struct Orphans {
    folders: Vec<(String, u64, Held)>,
    /// Whether the database lists any collection: when it lists none, the folders may be all that is left.
    collections: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    By(u32),
    Nobody,
    Unknown,
}

impl Orphans {
    /// Those of `folders` with an index. `None` when it is not `sure` that the database does not know them, and there are some.
    pub(super) fn among<'f>(
        context: &Context,
        folders: impl Iterator<Item = (&'f Uuid, &'f Folder)>,
        sure: bool,
        collections: u64,
    ) -> Option<Self> {
        let folders: Vec<&Folder> =
            folders.map(|(_, folder)| folder).filter(|f| f.file(Part::Header).is_some()).collect();
        if !sure && !folders.is_empty() {
            return None;
        }
        let held = held(context, &folders);
        let facts = folders.iter().zip(held);
        Some(Self {
            folders: facts.map(|(f, held)| (f.name.clone(), f.allocated_bytes, held)).collect(),
            collections: collections > 0,
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.folders.len() as u64
    }

    /// Number and bytes, by whether a process holds them.
    pub(super) fn by_held(&self) -> [(&'static str, u64, u64); 3] {
        let mut sums = [("yes", 0, 0), ("no", 0, 0), ("unknown", 0, 0)];
        for (_, bytes, held) in &self.folders {
            let at = match held {
                Held::By(_) => 0,
                Held::Nobody => 1,
                Held::Unknown => 2,
            };
            sums[at].1 += 1;
            sums[at].2 = bytes.saturating_add(sums[at].2);
        }
        sums
    }

    pub(super) fn finding(&self) -> Option<Finding> {
        let (first, ..) = self.folders.first().filter(|_| self.collections)?;
        let bytes =
            self.folders.iter().fold(0_u64, |sum, (_, bytes, _)| sum.saturating_add(*bytes));
        let size = human::bytes(bytes);
        let by = self.folders.iter().find_map(|(_, _, held)| match held {
            Held::By(pid) => Some(*pid),
            Held::Nobody | Held::Unknown => None,
        });
        let held =
            by.map_or(String::new(), |pid| format!("; process {pid} holds it open until it ends"));
        let (subject, evidence) = match self.folders.len() {
            1 => (first.as_str(), format!("it takes {size} on disk{held}")),
            count => {
                let names: Vec<&str> =
                    self.folders.iter().take(NAMES_MAX).map(|(name, ..)| name.as_str()).collect();
                let more = if count > names.len() { ", …" } else { "" };
                let list = names.join(", ");
                ("", format!("{count} folders take {size} on disk: {list}{more}{held}"))
            }
        };
        let names = self.folders.iter().map(|(name, ..)| name);
        Some(Finding::new(Code::SegmentOrphan, subject, evidence).with_items(names))
    }
}

fn held(context: &Context, folders: &[&Folder]) -> Vec<Held> {
    let files: Vec<_> =
        folders.iter().take(ASKED_MAX).filter_map(|f| Some(f.file(Part::Header)?.id)).collect();
    let table = &context.host.processes;
    let Some(walk) = Some(&files)
        .filter(|files| !files.is_empty())
        .and_then(|files| table.walk(files, &[], AGE_MAX).ok())
    else {
        return vec![Held::Unknown; folders.len()];
    };
    let hidden = table.blind(&walk).is_some();
    let mut held: Vec<Held> = files
        .iter()
        .map(|file| match walk.holders(*file).first() {
            Some(holder) => Held::By(holder.pid),
            None if hidden => Held::Unknown,
            None => Held::Nobody,
        })
        .collect();
    held.resize(folders.len(), Held::Unknown);
    held
}

/// Folders that the process table is asked for.
const ASKED_MAX: usize = 64;

/// Names in the evidence.
const NAMES_MAX: usize = 5;

const AGE_MAX: Duration = Duration::from_mins(1);
