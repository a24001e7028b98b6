//! Bytes that are ready to be served, plain and gzipped, with what tells one from the next.

use bytes::Bytes;

use crate::metrics;

/// One page as it goes over the wire; cloning shares the bytes.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// The text itself.
    pub identity: Bytes,
    /// The same, gzipped.
    pub gzip: Bytes,
    /// The entity tag, weak because both forms share it: `W/"18c0f2-7"`.
    pub etag: Bytes,
}

impl Body {
    /// `text` under a tag that no other page of this program has or had. Errs when it cannot be packed.
    pub(super) fn new(text: String, tag: &str) -> std::io::Result<Self> {
        let gzip = metrics::gzip(text.as_bytes())?;
        let etag = format!("W/\"{tag}\"");
        Ok(Self { identity: text.into(), gzip: gzip.into(), etag: etag.into() })
    }
}
