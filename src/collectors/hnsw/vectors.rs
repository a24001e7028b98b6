//! How many vectors of each collection would come back, after a run that read everything: for whoever proves a copy.

use super::{Hnsw, judge::Deep, walk::MetadataState};
use crate::{clock::Timestamp, findings::Code, format::uuid::Uuid};

/// The vectors of one collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vectors {
    /// Its segment with vectors.
    pub(crate) segment: Uuid,
    /// Records of which neither the index nor the queue has a vector, where both could be read. With the release of Chroma that
    /// brings back the fewest.
    pub(crate) without: Option<u64>,
    /// Vectors that the queue still holds for the index, whatever the index is like.
    pub(crate) pending: u64,
    /// How far the queue is in the index.
    pub(crate) position: Option<i64>,
}

impl Hnsw {
    /// What the last run knew of each collection, by its id.
    pub(crate) fn vectors(&mut self, now: Timestamp) -> Vec<(String, Vectors)> {
        let subjects = self.subjects();
        let replay = self.replay(&subjects, now);
        let of = |(uuid, row): (Uuid, Option<super::Row>)| {
            let row = row?;
            let known = self.known.get(&uuid);
            let deep = known.and_then(|known| known.deep.as_ref());
            let compared = deep.and_then(|deep| deep.compared.as_deref());
            let said = known.and_then(|known| known.said.as_ref()?.finding.as_ref());
            // An index that is made anew from the queue was compared with that.
            let anew = compared.is_some_and(|compared| compared.anew.is_some());
            let refused = said.is_some_and(|finding| !anew && is_refused(finding.code));
            let without = compared.filter(|_| !refused).map(|compared| compared.lost(replay).1);
            let vectors = Vectors {
                segment: uuid,
                without,
                pending: compared.map_or(0, |compared| compared.pending_adds),
                position: row.position.or_else(|| position(deep?)),
            };
            Some((row.collection, vectors))
        };
        subjects.into_iter().filter_map(of).collect()
    }
}

/// Whether Chroma gets no vector out of an index of which this was said: it refuses to load it, or ends while it does.
const fn is_refused(code: Code) -> bool {
    matches!(
        code,
        Code::SegmentIncomplete
            | Code::SegmentTruncated
            | Code::SegmentHeaderInvalid
            | Code::SegmentMetadataInvalid
            | Code::SegmentMetadataHostile
    )
}

/// Before 0.5 the metadata says how far the queue is in an index.
fn position(deep: &Deep) -> Option<i64> {
    match &deep.walked.as_ref()?.metadata {
        MetadataState::Sound(metadata) => metadata.max_seq_id.and_then(|at| i64::try_from(at).ok()),
        _ => None,
    }
}
