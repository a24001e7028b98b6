//! The program `chroma_exporter`: arguments in, exit code out.
fn main() {}
