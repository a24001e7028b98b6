//! A fresh folder of an index, written whole.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{
    format::{
        hnsw::Graph,
        parts::INDEX_FILES,
        pickle::{self, Entry, NewMetadata},
    },
    repair::recover::Failure,
};

/// Writes the five files of an index to the new folder `to`. Errs when the disk does, or an id cannot be written.
pub(super) fn write(
    to: &Path,
    graph: &Graph,
    metadata: &NewMetadata,
    entries: &[Entry<'_>],
) -> Result<(), Failure> {
    fs::create_dir(to)?;
    let [header, elements, lengths, links, ids] = INDEX_FILES;
    let file = |name: &str, fill: &mut dyn FnMut(&mut BufWriter<File>) -> io::Result<()>| {
        let mut file = BufWriter::new(File::create_new(to.join(name))?);
        fill(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    };
    file(header, &mut |file| file.write_all(&graph.header()))?;
    file(elements, &mut |file| graph.level0(&mut |piece| file.write_all(piece)))?;
    file(lengths, &mut |file| graph.lengths(&mut |piece| file.write_all(piece)))?;
    file(links, &mut |file| graph.links(&mut |piece| file.write_all(piece)))?;
    let mut refused = None;
    file(ids, &mut |file| {
        let all = entries.iter().copied();
        match pickle::write(metadata, all, &mut |piece| file.write_all(piece)) {
            Ok(()) => Ok(()),
            Err(pickle::WriteError::Sink(error)) => Err(error),
            Err(error) => {
                refused =
                    Some(Failure::Damaged(format!("The list of ids cannot be written: {error}.")));
                Ok(())
            }
        }
    })?;
    refused.map_or(Ok(()), Err)
}
