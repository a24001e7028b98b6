//! One row of `embeddings_queue`, as Chroma reads it when it applies the row: what makes it fail there, with every later
//! row of every collection behind it. Each rule was measured on 0.4.24, 0.6.3, 1.1.1 and 1.5.9.

use serde_json::Value;

use super::schema::Family;

mod known;

pub use known::{Kind, Known, Operation, known};

/// What of a row matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// 0 add, 1 update, 2 upsert, 3 delete; `None` when it is no integer.
    pub operation: Option<i64>,
    /// Length of the vector in bytes; `None` when there is none.
    pub vector_bytes: Option<u64>,
    /// How the vector is written.
    pub encoding: Option<&'a str>,
    /// JSON; `None` when there is none, or when it was too long to look at.
    pub metadata: Option<&'a str>,
}

impl Row<'_> {
    /// Why Chroma cannot apply the row, in words that quote nothing of it; `None` when nothing is known against it.
    #[must_use]
    pub fn fault(&self, family: Family) -> Option<&'static str> {
        let operation = match self.operation {
            Some(operation @ 0..=3) => operation,
            _ if family == Family::Unknown => return None,
            _ => return Some("its operation is none of add, update, upsert and delete"),
        };
        match (self.vector_bytes, self.encoding) {
            (None, _) if operation == ADD && family == Family::Rust => {
                return Some("it adds a record without a vector");
            }
            (Some(_), None) => return Some("its vector has no encoding"),
            (Some(_), Some(encoding)) if !ENCODINGS.contains(&encoding) => {
                return Some("its vector has an encoding that Chroma does not know");
            }
            (Some(bytes), Some(_)) if bytes % ELEMENT_BYTES != 0 => {
                return Some("its vector ends within a number");
            }
            _ => {}
        }
        self.metadata.and_then(|text| metadata_fault(text, family))
    }

    /// Whether a value of its metadata is a list, which only Chroma 1.5.0 and newer read.
    #[must_use]
    pub fn has_lists(&self) -> bool {
        let Some(text) = self.metadata.filter(|text| text.contains(":[") || text.contains(": ["))
        else {
            return false;
        };
        let value = serde_json::from_str::<Value>(text).unwrap_or_default();
        value.as_object().is_some_and(|metadata| metadata.values().any(Value::is_array))
    }

    /// Numbers in the vector; `None` when there is none, or it ends within a number.
    #[must_use]
    pub fn dimension(&self) -> Option<u64> {
        let bytes = self.vector_bytes?;
        (bytes % ELEMENT_BYTES == 0).then_some(bytes / ELEMENT_BYTES)
    }
}

fn metadata_fault(text: &str, family: Family) -> Option<&'static str> {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return Some("its metadata are no JSON");
    };
    let Some(metadata) = value.as_object() else {
        // Python writes `null` for none.
        return (!value.is_null()).then_some("its metadata are no JSON object");
    };
    // A sparse vector is an object that says what it is.
    let nested = |value: &Value| value.as_object().is_some_and(|map| !map.contains_key("#type"));
    (family == Family::Rust && metadata.values().any(nested))
        .then_some("its metadata hold an object where Chroma takes a plain value")
}

const ADD: i64 = 0;
const ENCODINGS: [&str; 2] = ["FLOAT32", "INT32"];
const ELEMENT_BYTES: u64 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEALTHY: Row<'static> = Row {
        operation: Some(0),
        vector_bytes: Some(32),
        encoding: Some("FLOAT32"),
        metadata: Some(r#"{"page":1,"tags":["a"],"chroma:document":"x"}"#),
    };

    #[test]
    fn rows_that_stop_chroma_are_told() {
        let nested = Some(r#"{"a":{"b":1}}"#);
        for (row, want) in [
            (HEALTHY, ""),
            (Row { metadata: None, ..HEALTHY }, ""),
            (Row { metadata: Some("null"), ..HEALTHY }, ""),
            (Row { metadata: Some(r##"{"s":{"#type":"sparse_vector"}}"##), ..HEALTHY }, ""),
            (Row { operation: Some(3), vector_bytes: None, encoding: None, ..HEALTHY }, ""),
            (Row { operation: Some(1), vector_bytes: None, encoding: None, ..HEALTHY }, ""),
            (Row { operation: Some(9), ..HEALTHY }, "operation"),
            (Row { operation: None, ..HEALTHY }, "operation"),
            (Row { vector_bytes: None, ..HEALTHY }, "without a vector"),
            (Row { vector_bytes: Some(33), ..HEALTHY }, "within a number"),
            (Row { encoding: None, ..HEALTHY }, "no encoding"),
            (Row { encoding: Some("XYZ"), ..HEALTHY }, "does not know"),
            (Row { metadata: Some("garbage"), ..HEALTHY }, "no JSON"),
            (Row { metadata: Some("[]"), ..HEALTHY }, "no JSON object"),
            (Row { metadata: nested, ..HEALTHY }, "plain value"),
        ] {
            let fault = row.fault(Family::Rust).unwrap_or_default();
            assert!(
                fault.contains(want) && fault.is_empty() == want.is_empty(),
                "{row:?}: {fault}"
            );
        }
        assert_eq!(Row { metadata: nested, ..HEALTHY }.fault(Family::Python), None);
        assert_eq!(Row { operation: Some(4), ..HEALTHY }.fault(Family::Unknown), None);
        assert_eq!(HEALTHY.dimension(), Some(8));
        let row = |metadata| Row { metadata, ..HEALTHY };
        assert!(HEALTHY.has_lists() && row(Some(r#"{"tags": ["a"]}"#)).has_lists());
        for text in [r#"{"a":"x:[1]"}"#, r#"{"a":1}"#, "[[1]]", "{:["] {
            assert!(!row(Some(text)).has_lists(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_row_makes_it_panic(operation: Option<i64>, vector_bytes: Option<u64>, encoding: Option<String>, metadata: Option<String>) {
            let row = Row { operation, vector_bytes, encoding: encoding.as_deref(), metadata: metadata.as_deref() };
            for family in [Family::Oldest, Family::Python, Family::Rust, Family::Unknown] {
                prop_assert!(row.fault(family).is_none_or(|fault| !fault.is_empty()));
            }
            prop_assert!(row.dimension().is_none_or(|n| n.checked_mul(4) == vector_bytes));
        }
    }
}
