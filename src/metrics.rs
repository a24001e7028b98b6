//! The metrics page: one immutable snapshot and the program's own counters in, ready bytes out. Nothing here reads a
//! file, opens a socket or asks the time; what it needs to know of this process comes as [`Facts`].
//!
//! Format: Prometheus text 0.0.4, <https://prometheus.io/docs/instrumenting/exposition_formats/>. The `prometheus` crate
//! carries registry, counters and encoding. Families of a snapshot are built anew for every page, so a label that
//! vanished vanishes; nothing but the program's own counters outlives a page.

mod alerts;
mod bound;
mod families;
mod own;
mod readings;

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use prometheus::Registry;

pub use own::{Facts, Own, ProcessUsage, Rejection, Route};

use self::readings::Readings;
use crate::sample::{Desc, Snapshot};

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One page as it goes over the wire; cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Page {
    /// The text itself.
    pub identity: Bytes,
    /// The same, gzipped.
    pub gzip: Bytes,
    /// Series of collectors that were left out to stay below the bound.
    pub dropped_series: usize,
}

/// Encodes everything that `snapshot` and `facts` hold into one page of at most `series_max` series, the program's own
/// not counted. What must never be missing (findings, health of the collectors, information about the stores) is
/// written whatever the bound says. Errs when the `prometheus` crate refuses a family.
pub fn encode(
    snapshot: &Snapshot,
    own: &Own,
    facts: &Facts,
    series_max: usize,
) -> prometheus::Result<Page> {
    let readings = Readings::new(snapshot, Some((own, facts)), series_max);
    let dropped_series = readings.dropped_series();
    let registry = Registry::new();
    own.register(&registry)?;
    let mut identity = Vec::new();
    readings.families().encode(registry.gather(), &mut identity)?;
    identity.shrink_to_fit();
    let mut gzip = gzip(&identity)?;
    gzip.shrink_to_fit();
    Ok(Page { identity: identity.into(), gzip: gzip.into(), dropped_series })
}

/// The page of one look, for whoever collects files: without counters, and without what a running exporter tells of itself. Its
/// `process_…` families would meet those of the program that reads the file. Errs when the `prometheus` crate refuses a family.
pub fn encode_once(snapshot: &Snapshot, series_max: usize) -> prometheus::Result<String> {
    let mut page = Vec::new();
    Readings::new(snapshot, None, series_max).families().encode(Vec::new(), &mut page)?;
    String::from_utf8(page).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// Every family that is not a collector's, for the lint and the documentation.
#[must_use]
pub fn descs() -> Vec<&'static Desc> {
    [readings::DESCS, own::DESCS, alerts::DESCS].concat()
}

/// Packs a page. Errs when the encoder does.
pub(crate) fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    // Pages are made far more often than they are fetched, so speed counts for more than the last few per cent.
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}
