//! Whether a backup restores, and what of it: it is opened in scratch, proven like any copy, and compared with its own manifest.
//! Nothing that a manifest says is believed.

mod chroma;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

pub use self::chroma::{Answer, Python};
use super::{
    proof::{self, Loss, ProofError, Proven},
    steps::Steps,
    unpack::{self, Opened},
};
use crate::{
    clock::{self, Timestamp},
    facts::error::chain,
    findings::Finding,
    format::manifest::{Collection, Manifest, Proof, Restores},
    human,
};

/// How a backup is verified.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How it is opened.
    pub unpack: unpack::Options,
    /// Which Chroma is asked too; `None`: none is.
    pub chroma: Option<Python>,
    /// How long that may take; `None`: ten minutes.
    pub chroma_deadline: Option<Duration>,
}

/// What was found out about one backup.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The file or directory.
    pub backup: PathBuf,
    /// What it was: `tar`, `zstd`, `directory`; `None` when it could not be opened.
    pub form: Option<&'static str>,
    /// The verdict.
    pub restores: Restores,
    /// Of what moment it is, as far as that is known.
    pub moment: Option<Timestamp>,
    /// Bytes of all files in it.
    pub bytes: u64,
    /// What comes back of each collection.
    pub collections: Vec<Collection>,
    /// Which releases of Chroma open it.
    pub opened_by: Option<String>,
    /// What does not come back, or why nothing can be said.
    pub losses: Vec<Loss>,
    /// What was done or left out on the way, a sentence each.
    pub notes: Vec<String>,
    /// Everything that the checks found.
    pub findings: Vec<Finding>,
    /// How it was proven; `None` when it came to no proof.
    pub proof: Option<Proof>,
    /// What it says of itself.
    pub manifest: Option<Manifest>,
    /// What a real Chroma said.
    pub chroma: Option<Answer>,
    /// How long all of it took.
    pub took: Duration,
}

impl Verified {
    /// All live records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.sum(|collection| collection.records)
    }

    /// All records with a vector.
    #[must_use]
    pub fn vectors(&self) -> u64 {
        self.sum(|collection| collection.vectors)
    }

    /// All records with a document.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.sum(|collection| collection.documents)
    }

    fn sum(&self, of: impl Fn(&Collection) -> u64) -> u64 {
        self.collections.iter().map(of).fold(0, u64::saturating_add)
    }
}

/// Opens and proves `backup`. What goes wrong on the way is part of the answer. The scratch directory is gone afterwards.
#[must_use]
pub fn run(backup: &Path, options: &Options, steps: &Steps, now: Timestamp) -> Verified {
    match unpack::open(backup, &options.unpack, steps) {
        Ok(opened) => prove_opened(backup, &opened, options, steps, now),
        Err(error) => {
            let loss = Loss { collection: None, words: error.chain() };
            nothing(backup, error.restores(), loss)
        }
    }
}

/// Proves what was opened: for whoever goes on with the directory.
#[must_use]
pub fn prove_opened(
    backup: &Path,
    opened: &Opened,
    options: &Options,
    steps: &Steps,
    now: Timestamp,
) -> Verified {
    let began = clock::ticks();
    let proven = match proof::prove(&opened.dir, steps, now) {
        Ok(proven) => proven,
        Err(error @ (ProofError::Unreadable { .. } | ProofError::Stopped)) => {
            let loss = Loss { collection: None, words: chain(&error) };
            return nothing(backup, Restores::Unknown, loss);
        }
    };
    let Proven { proof, collections, opened_by, findings, losses } = proven;
    let mut restores = proof.restores;
    let mut reported: Vec<Loss> = opened
        .damage
        .iter()
        .map(|words| Loss { collection: None, words: words.clone() })
        .chain(opened.manifest.iter().flat_map(|manifest| differences(manifest, &collections)))
        .collect();
    if !reported.is_empty() && restores == Restores::Whole {
        restores = Restores::WithLosses;
    }
    reported.extend(losses);
    let mut chroma = None;
    if let Some(python) = &options.chroma
        && restores != Restores::Not
    {
        let answer = asked(python, opened, &collections, options, steps);
        restores = worse(restores, answer.restores);
        reported.extend(answer.losses.iter().cloned());
        chroma = Some(answer);
    }
    Verified {
        backup: backup.to_owned(),
        form: Some(opened.form),
        restores,
        moment: opened.moment,
        bytes: opened.bytes,
        collections,
        opened_by,
        losses: reported,
        notes: opened.notes.clone(),
        findings,
        proof: Some(proof),
        manifest: opened.manifest.clone(),
        chroma,
        took: began.elapsed(),
    }
}

/// A real Chroma gets a copy of its own: it writes to what it opens.
fn asked(
    python: &Python,
    opened: &Opened,
    collections: &[Collection],
    options: &Options,
    steps: &Steps,
) -> Answer {
    let copy = unpack::Options { copy: true, ..options.unpack.clone() };
    match unpack::open(&opened.dir, &copy, steps) {
        Ok(copy) => {
            let deadline = options.chroma_deadline.unwrap_or(CHROMA_DEADLINE);
            chroma::ask(python, &copy.dir, collections, deadline, steps)
        }
        Err(error) => Answer {
            python: String::new(),
            version: None,
            whole: 0,
            restores: Restores::Unknown,
            losses: vec![Loss {
                collection: None,
                words: format!("there is no copy for Chroma: {}", error.chain()),
            }],
        },
    }
}

fn nothing(backup: &Path, restores: Restores, loss: Loss) -> Verified {
    Verified {
        backup: backup.to_owned(),
        form: None,
        restores,
        moment: None,
        bytes: 0,
        collections: Vec::new(),
        opened_by: None,
        losses: vec![loss],
        notes: Vec::new(),
        findings: Vec::new(),
        proof: None,
        manifest: None,
        chroma: None,
        took: Duration::ZERO,
    }
}

/// What of the collections of the manifest did not come out.
fn differences(manifest: &Manifest, collections: &[Collection]) -> Vec<Loss> {
    let mut out = Vec::new();
    for stated in &manifest.collections {
        let mut say = |words: String| {
            out.push(Loss { collection: Some(human::plain(&stated.name)), words });
        };
        let Some(found) = collections.iter().find(|collection| collection.id == stated.id) else {
            say("it is in the manifest and not in the backup".to_owned());
            continue;
        };
        for (what, found, stated) in [
            ("records", found.records, stated.records),
            ("documents", found.documents, stated.documents),
            ("vectors", found.vectors, stated.vectors),
        ] {
            if found != stated {
                say(format!("it has {found} {what}, the manifest says {stated}"));
            }
        }
    }
    out
}

/// The one of two verdicts that promises less.
#[must_use]
pub fn worse(a: Restores, b: Restores) -> Restores {
    if rank(a) >= rank(b) { a } else { b }
}

const fn rank(restores: Restores) -> u8 {
    match restores {
        Restores::Whole => 0,
        Restores::WithLosses => 1,
        Restores::Unknown => 2,
        Restores::Not => 3,
    }
}

/// As a program reads it.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    backup: String,
    restores: Restores,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    bytes: u64,
    records: u64,
    documents: u64,
    vectors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_by: Option<&'a str>,
    collections: &'a [Collection],
    losses: Vec<LossDocument<'a>>,
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<&'a Proof>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chroma: Option<&'a Answer>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct LossDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<&'a str>,
    words: &'a str,
}

impl Verified {
    /// As a program reads it.
    #[must_use]
    pub fn document(&self, now: Timestamp) -> Document<'_> {
        Document {
            backup: self.backup.display().to_string(),
            restores: self.restores,
            form: self.form,
            moment: self.moment.map(|moment| moment.to_string()),
            age_seconds: self.moment.map(|moment| now.since(moment).as_secs()),
            bytes: self.bytes,
            records: self.records(),
            documents: self.documents(),
            vectors: self.vectors(),
            opened_by: self.opened_by.as_deref(),
            collections: &self.collections,
            losses: self
                .losses
                .iter()
                .map(|loss| LossDocument {
                    collection: loss.collection.as_deref(),
                    words: &loss.words,
                })
                .collect(),
            notes: &self.notes,
            proof: self.proof.as_ref(),
            chroma: self.chroma.as_ref(),
            seconds: self.took.as_secs_f64(),
        }
    }
}

/// Opening takes a second, asking for every vector some minutes for a million.
const CHROMA_DEADLINE: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_that_promises_less_wins() {
        use Restores::{Not, Unknown, Whole, WithLosses};
        for (a, b, want) in [
            (Whole, Whole, Whole),
            (Whole, WithLosses, WithLosses),
            (WithLosses, Unknown, Unknown),
            (Not, Unknown, Not),
        ] {
            assert_eq!(worse(a, b), want);
            assert_eq!(worse(b, a), want);
        }
    }
}
