//! Payloads against golden files. `UPDATE_GOLDEN=1 cargo test --lib receivers` rewrites them.

use std::{fs, path::Path};

use serde_json::Value;

/// Holds `value` against `tests/golden/receivers/KIND-NAME.json`.
pub(crate) fn holds(kind: &str, name: &str, value: &Value) {
    let text = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
    holds_text(kind, &format!("{name}.json"), &text);
}

/// Holds `text` against `tests/golden/receivers/KIND-FILE`.
pub(crate) fn holds_text(kind: &str, file: &str, text: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/receivers");
    let path = dir.join(format!("{kind}-{file}"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(&dir).unwrap();
        fs::write(&path, text).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == want, "{} differs; now it is\n{text}", path.display());
}
