//! What is said of the indexes in numbers.

use std::collections::BTreeMap;

use super::{Hnsw, directory::Folder, orphans::Orphans, reach::Reach, state::State};
use crate::sample::{Desc, Sample};

pub(super) static SEGMENTS: Desc = Desc::gauge(
    "chroma_hnsw_segments",
    "Indexes by state. unpersisted and flushing are healthy. States that only a full walk can see are cached.",
)
.labelled(&["state"]);
pub(super) static ELEMENTS: Desc = Desc::gauge(
    "chroma_hnsw_elements",
    "Elements of all indexes as their headers state them, including those marked as deleted.",
);
static MAX_ELEMENTS: Desc = Desc::gauge(
    "chroma_hnsw_max_elements",
    "Elements that all indexes have room for, as their headers state.",
);
pub(super) static DELETED_ELEMENTS: Desc = Desc::gauge(
    "chroma_hnsw_deleted_elements",
    "Elements of all indexes that are marked as deleted (cached).",
);
pub(super) static WITHOUT_VECTOR: Desc = Desc::gauge(
    "chroma_records_without_vector",
    "Records whose vector is neither in the index nor in the queue (cached). 0 in every healthy store.",
);
static UNFOUND: Desc = Desc::gauge(
    "chroma_hnsw_unfound_ratio",
    "Share of index elements that a search with their own vector does not find, from a sample at the last full walk (cached). High where vectors are nearly all equally far from each other, which is no fault.",
);
static UNREACHABLE: Desc = Desc::gauge(
    "chroma_hnsw_unreachable_ratio",
    "Share of index elements that no links lead to, so that no search finds them, as of the last full walk (cached). Some hundredths are normal.",
);
static ORPHAN_FOLDERS: Desc = Desc::gauge(
    "chroma_hnsw_orphan_folders",
    "Index folders that no collection uses any more, by whether a process holds them open.",
)
.labelled(&["held"]);
static ORPHAN_BYTES: Desc = Desc::gauge(
    "chroma_hnsw_orphan_bytes",
    "Bytes on disk of index folders that no collection uses any more, by whether a process holds them open.",
)
.labelled(&["held"]);
static WALK_TIMESTAMP: Desc = Desc::gauge(
    "chroma_hnsw_walk_timestamp_seconds",
    "When the index that has waited longest was last read in full, as seconds since the epoch.",
);
static COMPARED_TIMESTAMP: Desc = Desc::gauge(
    "chroma_hnsw_compared_timestamp_seconds",
    "When the records were last compared with all indexes, as seconds since the epoch.",
);
static DEEP_DURATION: Desc = Desc::gauge(
    "chroma_hnsw_walk_duration_seconds",
    "How long the last walk over the indexes and the comparison with the records took (cached).",
);

pub(in crate::collectors) static DESCS: [&Desc; 12] = [
    &SEGMENTS,
    &ELEMENTS,
    &MAX_ELEMENTS,
    &DELETED_ELEMENTS,
    &WITHOUT_VECTOR,
    &UNFOUND,
    &UNREACHABLE,
    &ORPHAN_FOLDERS,
    &ORPHAN_BYTES,
    &WALK_TIMESTAMP,
    &COMPARED_TIMESTAMP,
    &DEEP_DURATION,
];

impl Hnsw {
    pub(super) fn samples(
        &self,
        states: &BTreeMap<State, u64>,
        orphans: Option<&Orphans>,
    ) -> Vec<Sample> {
        let mut out = Vec::new();
        let asked = self.catalogue.is_some();
        for state in State::ALL {
            let count = match state {
                State::Orphan => orphans.map(Orphans::count),
                _ => Some(states.get(&state).copied().unwrap_or(0)),
            };
            // Without the catalogue nobody knows which folders are missed, or which belong to nobody.
            if let Some(count) = count.filter(|_| asked || state != State::Missing) {
                out.push(SEGMENTS.with(vec![state.as_str().into()], count as f64));
            }
        }
        let subjects = self.subjects();
        if let Some(directory) = &self.directory {
            let headers = || {
                let folders = subjects.iter().filter_map(|(uuid, _)| directory.folders.get(uuid));
                folders.filter_map(Folder::sound_header)
            };
            out.push(ELEMENTS.sample(headers().map(|h| h.elements as f64).sum()));
            out.push(MAX_ELEMENTS.sample(headers().map(|h| h.max_elements as f64).sum()));
        }
        let known = || subjects.iter().map(|(uuid, _)| self.known.get(uuid));
        let walked: Option<Vec<_>> = known().map(|known| known?.walked).collect();
        if let Some(walked) = walked {
            out.push(DELETED_ELEMENTS.sample(walked.iter().map(|(_, n)| *n as f64).sum()));
            let oldest = walked.iter().map(|(at, _)| *at).min();
            out.extend(oldest.map(|at| WALK_TIMESTAMP.sample(at.as_secs_f64())));
        }
        if asked && let Some((at, _)) = self.compared {
            let without: Option<u64> = known().map(|known| known?.without_vector).sum();
            if let Some(without) = without {
                out.push(WITHOUT_VECTOR.sample(without as f64));
                out.push(COMPARED_TIMESTAMP.sample(at.as_secs_f64()));
            }
        }
        let unfound = self
            .share_of(|reach| (reach.tried > 0).then(|| reach.unfound as f64 / reach.tried as f64));
        out.extend(unfound.map(|share| UNFOUND.sample(share)));
        let unreachable = self.share_of(|reach| {
            let (unreachable, _) = reach.unreachable?;
            Some(unreachable as f64 / reach.live.max(1) as f64)
        });
        out.extend(unreachable.map(|share| UNREACHABLE.sample(share)));
        out.extend(self.last_deep.map(|(_, took)| DEEP_DURATION.sample(took.as_secs_f64())));
        if let Some(orphans) = orphans {
            for (held, count, bytes) in orphans.by_held() {
                out.push(ORPHAN_FOLDERS.with(vec![held.into()], count as f64));
                out.push(ORPHAN_BYTES.with(vec![held.into()], bytes as f64));
            }
        }
        out
    }

    /// Over all indexes with an element; `None` while it is not known of one of them.
    fn share_of(&self, share: impl Fn(&Reach) -> Option<f64>) -> Option<f64> {
        let directory = self.directory.as_ref()?;
        let (mut sum, mut live) = (0.0, 0.0);
        for (uuid, _) in self.subjects() {
            let header = directory.folders.get(&uuid).and_then(Folder::sound_header);
            if header.is_none_or(|header| header.elements == 0) {
                continue;
            }
            let reach = self.known.get(&uuid)?.reach?;
            sum += share(&reach)? * reach.live as f64;
            live += reach.live as f64;
        }
        (live > 0.0).then(|| sum / live)
    }
}
