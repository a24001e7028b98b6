//! What came of opening a backup.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, format::manifest::Restores};

/// What is known of a backup that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// What it would bring back.
    pub restores: Restores,
    /// When it was opened.
    pub at: Timestamp,
    /// How long that took, in seconds.
    pub seconds: f64,
    /// Records in it.
    pub records: u64,
    /// What is missing, in words.
    pub losses: Vec<String>,
}
