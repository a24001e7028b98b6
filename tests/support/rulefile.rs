//! The rule file of the tree, read back.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

/// A recording rule has `record`, an alerting one the rest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(skip)]
    pub group: String,
    #[serde(default)]
    pub record: String,
    #[serde(default)]
    pub alert: String,
    pub expr: String,
    #[serde(default, rename = "for")]
    pub hold: String,
    #[serde(default)]
    pub keep_firing_for: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Rule {
    /// How many whole minutes it waits before it fires; less than one is none.
    pub fn hold_minutes(&self) -> u32 {
        self.hold.strip_suffix('m').map_or(0, |minutes| minutes.parse().expect("whole minutes"))
    }
}

pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("alerts/chroma.rules.yml")
}

/// Every rule, in the order of the file.
pub fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(path()).expect("alerts/chroma.rules.yml");
    let file: File = serde_saphyr::from_str(&text).expect("a rule file");
    let of = |group: Group| {
        group.rules.into_iter().map(move |rule| Rule { group: group.name.clone(), ..rule })
    };
    file.groups.into_iter().flat_map(of).collect()
}

/// The alerting ones.
pub fn alerts() -> Vec<Rule> {
    rules().into_iter().filter(|rule| !rule.alert.is_empty()).collect()
}

/// Names of the recording ones.
pub fn recorded() -> Vec<String> {
    rules().into_iter().map(|rule| rule.record).filter(|name| !name.is_empty()).collect()
}
