//! (landing from the processes branch)
/// (landing)
pub fn stores(
    _: &std::path::Path,
    _: &std::path::Path,
    _: usize,
) -> Result<Vec<crate::config::Store>, crate::collectors::CollectError> {
    Ok(vec![])
}
