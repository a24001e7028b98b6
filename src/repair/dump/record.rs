//! A record without its vector.

use serde_json::Value;

use super::Metadata;

/// What the tables have of a record.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::repair) struct Record {
    pub(in crate::repair) document: Option<String>,
    pub(in crate::repair) uri: Option<String>,
    pub(in crate::repair) metadata: Metadata,
}

impl Record {
    /// Sets one key; `null` takes it away.
    pub(in crate::repair) fn set(&mut self, key: String, value: Value) {
        let text = |value: Value| value.as_str().map(str::to_owned);
        match key.as_str() {
            "chroma:document" => self.document = text(value),
            "chroma:uri" => self.uri = text(value),
            _ if value.is_null() => drop(self.metadata.remove(&key)),
            _ => drop(self.metadata.insert(key, value)),
        }
    }
}
