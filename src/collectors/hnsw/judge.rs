//! What the looks at one segment mean: pure, so that every case stands in a table. The first thing that is wrong explains
//! what follows from it, so a segment has one finding at most.

use std::sync::Arc;

use super::{
    catalogue::{Distance, Row},
    directory::{FileStat, Folder, Part},
    moving::Lost,
    records::{Compared, Held, Replay},
    state::State,
    walk::{MetadataState, Readable, Walked},
};
use crate::{
    findings::{Code, FETCH_FROM_GIT, Finding, Severity, Template},
    format::hnsw::{Exchange, Header, HeaderError},
    human,
};

/// What the expensive look gave for one segment.
#[derive(Debug, Clone)]
pub(super) struct Deep {
    /// The state of the files that it is about.
    pub(super) stamps: [Option<FileStat>; 5],
    /// `None` when it was not asked for.
    pub(super) walked: Option<Arc<Walked>>,
    /// `None` when the tables could not be asked.
    pub(super) compared: Option<Arc<Compared>>,
}

/// What is known of one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    /// Its folder; `None` when there is none.
    pub(super) folder: Option<&'a Folder>,
    /// Its row; `None` when the database cannot be asked.
    pub(super) row: Option<&'a Row>,
    /// The newest expensive look at these very files.
    pub(super) deep: Option<&'a Deep>,
    /// What Chroma reads of the queue when there is no index to be loaded.
    pub(super) replay: Replay,
}

/// What is said of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) state: State,
    pub(super) finding: Option<Finding>,
    /// Records that lost their vectors beside what else is wrong: two writers do both.
    pub(super) loss: Option<Finding>,
}

impl Verdict {
    pub(super) const fn calm(state: State) -> Self {
        Self { state, finding: None, loss: None }
    }
}

/// A fault before it has its subject.
struct Fault {
    state: State,
    code: Code,
    evidence: String,
    severity: Option<Severity>,
    /// The records that have no vector, and how many there are.
    without: (Vec<String>, u64),
    remedy: Option<Template>,
    /// Whether the vectors that can be read are not those of the collection.
    foreign: bool,
}

impl Fault {
    /// The same with the records that have no vector.
    fn about(self, ids: &[String], missing: u64) -> Self {
        Self { without: (ids.to_vec(), missing), ..self }
    }

    fn finding(self, name: &str) -> Finding {
        let (ids, missing) = self.without;
        let finding = Finding::new(self.code, name, self.evidence).with_items_of(ids, missing);
        let finding = match self.severity {
            Some(severity) => finding.with_severity(severity),
            None => finding,
        };
        match self.remedy {
            Some(remedy) => finding.with_remedy(remedy),
            None => finding,
        }
    }
}

fn fault(state: State, code: Code, evidence: impl Into<String>) -> Fault {
    let (evidence, without) = (evidence.into(), (Vec::new(), 0));
    Fault { state, code, evidence, severity: None, without, remedy: None, foreign: false }
}

/// Judges one segment with the subject `name`, the id of the segment.
pub(super) fn judge(case: Case<'_>, name: &str) -> Verdict {
    match first_fault(&case) {
        Ok(state) => Verdict::calm(state),
        Err(mut fault) => {
            let loss = loss(&case, fault.code, name);
            if let Some(readable) = readable(&case, &fault) {
                fault.evidence.push_str(&readable);
            }
            Verdict { loss, ..verdict(fault, case.row, name) }
        }
    }
}

fn verdict(mut fault: Fault, row: Option<&Row>, name: &str) -> Verdict {
    if let Some(row) = row.filter(|row| !row.name.is_empty()) {
        let collection: String = row.name.chars().take(64).collect();
        fault.evidence = format!("collection {collection}: {}", fault.evidence);
    }
    Verdict { state: fault.state, loss: None, finding: Some(fault.finding(name)) }
}

/// In words, what of the vectors can be read out of a damaged index. Only of what was looked at.
fn readable(case: &Case<'_>, fault: &Fault) -> Option<String> {
    let promised = matches!(
        fault.code,
        Code::SegmentIncomplete
            | Code::SegmentTruncated
            | Code::SegmentHeaderInvalid
            | Code::SegmentMetadataInvalid
            | Code::SegmentInconsistent
            | Code::SegmentBloated
    );
    if !promised
        || fault.foreign
        || fault.severity == Some(Severity::Info)
        || fault.remedy.is_some()
    {
        return None;
    }
    let Readable { vectors, ids } = case.deep?.walked.as_deref()?.readable?;
    let name = Part::Level0.name();
    Some(match (vectors, ids) {
        (0, _) => format!("; no vector can be read out of {name}"),
        (_, Some(ids)) => {
            format!("; the vectors of {vectors} of {ids} ids can be read out of {name}")
        }
        (_, None) => format!("; {vectors} vectors can be read out of {name}"),
    })
}

/// What was lost as well, when the files contradict each other but the ids are those of the collection.
fn loss(case: &Case<'_>, code: Code, name: &str) -> Option<Finding> {
    let deep = case.deep?;
    let (compared, walked) = (deep.compared.as_deref()?, deep.walked.as_deref()?);
    let own = code == Code::SegmentInconsistent && compared.known > 0;
    let fault = tables(compared, walked).err().filter(|_| own)?;
    (fault.code == Code::RecordsWithoutVector).then(|| fault.finding(name))
}

fn first_fault(case: &Case<'_>) -> Result<State, Fault> {
    let compared = case.deep.and_then(|deep| deep.compared.as_deref());
    let walked = case.deep.and_then(|deep| deep.walked.as_deref());
    let position = case.row.and_then(|row| row.position);
    let Some(folder) = case.folder else {
        // Which of two segments holds the vectors nobody can tell; `collection_without_segments` says that there are two.
        if case.row.is_some_and(|row| row.twin) {
            return Ok(State::Missing);
        }
        return missing(case, position, compared);
    };
    if folder.unreadable {
        return Ok(State::Unreadable);
    }
    if let Some(MetadataState::Hostile(does)) = walked.map(|walked| &walked.metadata) {
        let evidence = format!("{}: {does}", Part::Metadata.name());
        return Err(fault(State::Torn, Code::SegmentMetadataHostile, evidence));
    }
    // Without this file Chroma looks at no other, and makes the index anew.
    if let Some(row) = case.row
        && folder.file(Part::Metadata).is_none()
    {
        return unloadable(case, folder, row, compared);
    }
    pointers(folder)?;
    let header = files(folder)?;
    if let Some(state) = metadata_missing(folder, header)? {
        return Ok(state);
    }
    sizes(folder, header)?;
    let Some(walked) = walked else { return Ok(State::Ok) };
    let cut_off = contents(walked, header, case.row, compared)?;
    if let Some(compared) = compared {
        tables(compared, walked)?;
        queue(&compared.held)?;
    }
    Ok(if cut_off { State::Flushing } else { State::Ok })
}

fn missing(
    case: &Case<'_>,
    position: Option<i64>,
    compared: Option<&Compared>,
) -> Result<State, Fault> {
    let compared = match (position, compared) {
        // Nothing was ever added: Chroma makes the folder with the first record.
        (_, Some(Compared { records: 0, .. })) | (None, None) => return Ok(State::Unpersisted),
        (_, Some(compared)) => compared,
        (Some(at), None) => {
            let evidence = format!("there is no such folder; it was flushed up to operation {at}");
            return Err(fault(State::Missing, Code::SegmentMissing, evidence));
        }
    };
    Err(anew(case, State::Missing, Code::SegmentMissing, "there is no such folder", compared))
}

/// A folder without its metadata: healthy before the first flush, whatever else is in it. Errs when it is not healthy.
fn unloadable(
    case: &Case<'_>,
    folder: &Folder,
    row: &Row,
    compared: Option<&Compared>,
) -> Result<State, Fault> {
    let elements = folder.sound_header().map_or(0, |header| header.elements);
    let flushed = elements > 0 || row.position.is_some();
    let odd = if flushed {
        let name = Part::Metadata.name();
        Some(format!("{name} is missing, {elements} elements are in the index"))
    } else {
        pointers(folder).and_then(|()| files(folder)).err().map(|fault| fault.evidence)
    };
    let Some(compared) = compared else {
        return match odd {
            Some(evidence) if flushed => {
                Err(fault(State::Truncated, Code::SegmentIncomplete, evidence))
            }
            // Until the tables are compared this is all that is known.
            _ => Ok(State::Unpersisted),
        };
    };
    if compared.records == 0 {
        return Ok(State::Unpersisted);
    }
    match odd {
        Some(odd) => Err(anew(case, State::Truncated, Code::SegmentIncomplete, &odd, compared)),
        // Until then the queue is the only copy of the vectors.
        None if compared.lost(case.replay).0 > 0 && !compared.position_ahead => {
            Err(lossy(compared))
        }
        None => Ok(State::Unpersisted),
    }
}

/// An index that Chroma makes anew from the queue: what comes of it.
fn anew(case: &Case<'_>, state: State, code: Code, what: &str, compared: &Compared) -> Fault {
    let (least, most, ids) = compared.lost(case.replay);
    let records = compared.records;
    let at_risk = case.row.is_none_or(|row| row.position.is_some() && row.purged);
    let reported = match (least, most) {
        // The position stays, and what is not above it goes from the queue at the next purge.
        (0, 0) if at_risk => format!(
            "all {records} vectors are still in the queue, but the first start of Chroma may take them out of it before they are in an index again"
        ),
        (0, 0) => {
            let reported = format!(
                "all {records} vectors are still in the queue: Chroma makes the index anew from it"
            );
            let (severity, remedy) = (Some(Severity::Info), Some(MADE_ANEW));
            return Fault { severity, remedy, ..fault(state, code, format!("{what}; {reported}")) };
        }
        (least, most) if least == most => {
            format!("{most} of {records} records have no vector any more ({})", named(ids, most))
        }
        (..) => format!(
            "Chroma 1.x reads the whole queue again, 0.5.7 to 0.6.3 only its end: {} of {records} records have no vector with the one, {} with the other ({})",
            compared.anew.as_ref().map_or(compared.missing, |anew| anew.missing),
            compared.missing,
            named(ids, most)
        ),
    };
    fault(state, code, format!("{what}; {reported}")).about(ids, most)
}

/// Files that git has in place of the real ones. Errs when there are any.
fn pointers(folder: &Folder) -> Result<(), Fault> {
    let names = folder.pointers();
    if names.is_empty() {
        return Ok(());
    }
    let be = if names.len() == 1 { "is a Git LFS pointer" } else { "are Git LFS pointers" };
    let evidence = format!(
        "{} {be}: git has put a few lines of text in place of the content, which was never fetched",
        names.join(", ")
    );
    let mut found = fault(State::Truncated, Code::SegmentIncomplete, evidence);
    found.remedy = Some(FETCH_FROM_GIT);
    Err(found)
}

/// The files that every folder has, and the header. Errs when one is missing, empty or damaged.
fn files(folder: &Folder) -> Result<Header, Fault> {
    let incomplete = |part: Part, what: &str| {
        fault(State::Truncated, Code::SegmentIncomplete, format!("{} {what}", part.name()))
    };
    for part in [Part::Header, Part::Level0, Part::Lengths, Part::Links] {
        match folder.file(part) {
            None => return Err(incomplete(part, "is missing")),
            Some(file) if !file.regular => return Err(incomplete(part, "is no regular file")),
            // Without levels there are no links.
            Some(file) if file.size_bytes == 0 && part != Part::Links => {
                return Err(incomplete(part, "has no bytes"));
            }
            Some(_) => {}
        }
    }
    let header = match folder.header {
        Some(Ok(header)) => header,
        Some(Err(error @ HeaderError::Truncated { .. })) => {
            let evidence = format!("{}: {error}", Part::Header.name());
            return Err(fault(State::Truncated, Code::SegmentTruncated, evidence));
        }
        Some(Err(error)) => {
            let evidence = format!("{}: {error}", Part::Header.name());
            return Err(fault(State::Torn, Code::SegmentHeaderInvalid, evidence));
        }
        // It could not be read, which is a problem of its own.
        None => return Err(incomplete(Part::Header, "could not be read")),
    };
    let links = folder.file(Part::Links).map_or(0, |file| file.size_bytes);
    if links == 0 && header.elements > 0 {
        let evidence = format!("has no bytes, there are {} elements", header.elements);
        return Err(incomplete(Part::Links, &evidence));
    }
    Ok(header)
}

/// The metadata of a folder of which the database says nothing, or that is there and is no such file. Errs when it should be there.
fn metadata_missing(folder: &Folder, header: Header) -> Result<Option<State>, Fault> {
    let name = Part::Metadata.name();
    let what = match folder.file(Part::Metadata) {
        Some(file) if file.regular && file.size_bytes > 0 => return Ok(None),
        Some(file) if file.regular => "has no bytes",
        Some(_) => "is no regular file",
        None if header.elements == 0 => return Ok(Some(State::Unpersisted)),
        None => "is missing",
    };
    let evidence = format!("{name} {what}, {} elements are in the index", header.elements);
    Err(fault(State::Truncated, Code::SegmentIncomplete, evidence))
}

/// Lengths against what the header states. Errs when they do not fit.
fn sizes(folder: &Folder, header: Header) -> Result<(), Fault> {
    let size = |part| folder.file(part).map_or(0, |file| file.size_bytes);
    for (part, least) in [
        (Part::Level0, header.level0_bytes()),
        (Part::Lengths, header.lengths_bytes()),
        (Part::Links, header.links_bytes_min()),
    ] {
        if size(part) < least {
            let evidence = format!(
                "{} has {}, {} elements take at least {}",
                part.name(),
                human::exact_bytes(size(part)),
                header.elements,
                human::exact_bytes(least)
            );
            return Err(fault(State::Truncated, Code::SegmentTruncated, evidence));
        }
    }
    // Room that an index once had stays in the file: for 10,000 elements in 1.0, and more with a large
    // `hnsw:resize_factor` before it.
    let room = header.max_elements.saturating_mul(16).max(20_000);
    for (part, most) in [
        (Part::Level0, room.saturating_mul(header.element_bytes)),
        (Part::Lengths, room.saturating_mul(4)),
        (Part::Links, header.links_bytes_max()),
    ] {
        if size(part) > most.saturating_add(SLACK_BYTES) {
            let allocated = folder.file(part).map_or(0, |file| file.allocated_bytes);
            let evidence = format!(
                "{} has {} ({} on disk), {} elements take at most {}",
                part.name(),
                human::bytes(size(part)),
                human::bytes(allocated),
                header.elements,
                human::bytes(most)
            );
            return Err(fault(State::Bloated, Code::SegmentBloated, evidence));
        }
    }
    Ok(())
}

/// What the walk found in the files. Gives whether a flush did not come to its end. Errs when it is no index that Chroma writes.
fn contents(
    walked: &Walked,
    header: Header,
    row: Option<&Row>,
    compared: Option<&Compared>,
) -> Result<bool, Fault> {
    let torn = |evidence: String| fault(State::Torn, Code::SegmentInconsistent, evidence);
    let invalid = |evidence: &str| {
        let evidence = format!("{}: {evidence}", Part::Metadata.name());
        fault(State::Torn, Code::SegmentMetadataInvalid, evidence)
    };
    let metadata = match &walked.metadata {
        MetadataState::Sound(metadata) => metadata,
        MetadataState::Invalid(what) => return Err(invalid(what)),
        MetadataState::Absent | MetadataState::Hostile(_) => return Ok(false),
    };
    if !metadata.inverse {
        return Err(invalid("id_to_label and label_to_id do not agree"));
    }
    // Norms mean something with cosine distance only; elsewhere the file holds what was in memory, numbers or not.
    let norms = row.is_some_and(|row| row.distance == Distance::Cosine);
    let mut damage = walked.damage.iter().filter(|(part, _)| norms || *part != Part::Lengths);
    if let Some((part, line)) = damage.next() {
        let evidence = format!("{}: {line}", part.name());
        let cut = walked.cut && *part == Part::Links;
        let truncated = |evidence| fault(State::Truncated, Code::SegmentTruncated, evidence);
        return Err(if cut { truncated(evidence) } else { torn(evidence) });
    }
    let dimension = header.dimension;
    // With the ids of the collection it is the catalogue that is wrong, and the vectors in the queue tell so.
    let own = compared.is_some_and(|compared| compared.known > 0 && compared.pending_adds > 0);
    let reported = |stated: &u64| *stated == dimension || *stated == 0 || own;
    if let Some(stated) = row.and_then(|row| row.dimension).filter(|stated| !reported(stated)) {
        return Err(torn(format!(
            "its vectors have {dimension} numbers, those of the collection {stated}: it may be the folder of another one"
        )));
    }
    if let Some(stated) = metadata.dimensionality.filter(|stated| *stated != dimension) {
        return Err(torn(format!(
            "its vectors have {dimension} numbers, its metadata say {stated}"
        )));
    }
    if metadata.label_max > metadata.total_elements_added {
        return Err(torn(format!(
            "label {} was given out, but only {} elements were added",
            metadata.label_max, metadata.total_elements_added
        )));
    }
    let labels = &walked.labels;
    if labels.contradict() {
        let example = labels.example.as_deref().unwrap_or_default();
        return Err(torn(format!(
            "ids and elements do not fit ({} ids without one, {} elements without an id, {} labels twice): {example}",
            labels.without_element, labels.nameless, labels.twice
        )));
    }
    if let Some((Exchange { places: [a, b], numbers: [x, y] }, more)) = labels.exchanged {
        let more = if more > 0 { format!(" (and {more} more pairs)") } else { String::new() };
        return Err(torn(format!(
            "elements {a} and {b} have each other's label, {x} and {y}{more}: all others are in the order of their labels"
        )));
    }
    // What a flush wrote that did not come to its end is still in the queue.
    let Some(compared) = compared else {
        return Ok(labels.above_total > 0 || labels.marked_count > 0);
    };
    if labels.above_total > compared.pending_adds {
        return Err(torn(format!(
            "{} elements have labels that were never given out, {} additions are in the queue",
            labels.above_total, compared.pending_adds
        )));
    }
    let unexplained =
        labels.marked.iter().filter(|id| !compared.pending_deletes.contains(id)).count();
    if unexplained > 0 {
        return Err(torn(format!("{unexplained} elements of ids in use are marked as deleted")));
    }
    Ok(labels.above_total > 0 || labels.marked_count > 0)
}

/// Ids against the records of the tables. Errs when they do not fit.
fn tables(compared: &Compared, walked: &Walked) -> Result<(), Fault> {
    let MetadataState::Sound(metadata) = &walked.metadata else { return Ok(()) };
    let Compared { records, missing, known, strays, .. } = *compared;
    if strays > 0 && strays == metadata.ids && records > 0 {
        let evidence = format!(
            "none of its {strays} ids is a record of the collection: it is the folder of another one"
        );
        return Err(fault(State::Torn, Code::SegmentInconsistent, evidence));
    }
    if strays > 0 && compared.strays_last && missing > 0 && !compared.position_ahead {
        let evidence = format!(
            "folder and database do not agree any more: {missing} of {records} records have no vector ({}), and the newest {strays} ids of the folder are no records of the database",
            named(&compared.ids, missing)
        );
        let behind = fault(State::Behind, Code::SegmentBehind, evidence);
        return Err(behind.about(&compared.ids, missing));
    }
    if strays > 0 && compared.strays_last {
        let evidence = format!(
            "its newest {strays} ids are no records of the database, {known} older ones are; every record has its vector{}",
            match &*compared.stray_ids {
                [] => String::new(),
                ids => format!(" ({})", named(ids, strays)),
            }
        );
        let ahead = fault(State::Ahead, Code::SegmentAhead, evidence);
        return Err(ahead.about(&compared.stray_ids, strays));
    }
    let exchanged = compared.exchanged.filter(|_| missing == 0);
    if let Some(Exchange { places: [x, y], numbers: [a, b] }) = exchanged {
        let evidence = format!(
            "two records (embeddings.id {a} and {b}) have each other's label, in places {x} and {y}: all others have labels in \
             the order in which they were added"
        );
        return Err(fault(State::Torn, Code::SegmentInconsistent, evidence));
    }
    // A position that no queue ever reached hides what is in the queue; `seq_id_invalid` tells it.
    if missing == 0 || compared.position_ahead {
        return Ok(());
    }
    if known > 0 && compared.missing_last {
        let evidence = format!(
            "the newest {missing} of {records} records have no vector, all older ones have: the folder is older than the database ({})",
            named(&compared.ids, missing)
        );
        let behind = fault(State::Behind, Code::SegmentBehind, evidence);
        return Err(behind.about(&compared.ids, missing));
    }
    Err(lossy(compared))
}

/// Vectors against those that the queue still has. Errs when they are others.
fn queue(held: &Held) -> Result<(), Fault> {
    let Held { compared, vectors, lengths } = held;
    let (part, ids, what) = if vectors.is_empty() {
        (Part::Lengths, lengths, "length")
    } else {
        (Part::Level0, vectors, "vector")
    };
    if ids.is_empty() {
        return Ok(());
    }
    let evidence = format!(
        "of {} of {compared} ids whose vector the queue still has, {} has another {what} ({}): it is the file of another index, or of another time",
        ids.len(),
        part.name(),
        named(ids, ids.len() as u64)
    );
    let torn = fault(State::Torn, Code::SegmentInconsistent, evidence);
    Err(Fault { foreign: true, ..torn })
}

/// Judges a segment of which nothing is known but that it has lost vectors while Chroma writes to it.
pub(super) fn judge_lost(lost: &Lost, row: Option<&Row>, name: &str) -> Verdict {
    let Lost { records, missing, ids } = lost;
    verdict(lossy_of(*missing, *records, ids), row, name)
}

fn lossy(compared: &Compared) -> Fault {
    let Compared { missing, records, ids, .. } = compared;
    lossy_of(*missing, *records, ids)
}

fn lossy_of(missing: u64, records: u64, ids: &[String]) -> Fault {
    let evidence = format!(
        "{missing} of {records} records are in the tables, but neither in the index nor in the queue ({})",
        named(ids, missing)
    );
    fault(State::Lossy, Code::RecordsWithoutVector, evidence).about(ids, missing)
}

/// The first few ids, and how many there are besides.
fn named(ids: &[String], total: u64) -> String {
    let short = |id: &String| id.chars().take(64).collect::<String>();
    let mut words: Vec<String> = ids.iter().take(NAMED_MAX).map(short).collect();
    let more = total.saturating_sub(words.len() as u64);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join(", ")
}

/// Ids in the evidence; the finding carries all.
const NAMED_MAX: usize = 3;

/// For an index that loses nothing.
const MADE_ANEW: Template = Template {
    words: "Nothing is lost. Start Chroma: it makes the index anew from the queue.",
    command: "",
    note: "Do not run chroma vacuum and do not empty the queue before that: it is the only copy of these vectors.",
};

/// A file may be so much longer than it needs to be.
const SLACK_BYTES: u64 = 1 << 20;
