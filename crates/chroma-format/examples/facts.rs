//! What the files of a Chroma directory say of themselves: `cargo run --example facts -- DIRECTORY`.

use std::{env, error::Error, fs, path::Path};

use chroma_format::{hnsw, pickle, sqlite};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args().nth(1).ok_or("usage: facts DIRECTORY")?;
    let database = fs::read(Path::new(&dir).join("chroma.sqlite3"))?;
    let header = sqlite::SqliteHeader::parse(&database)?;
    println!(
        "chroma.sqlite3: pages of {} bytes, {} free",
        header.page_bytes, header.freelist_pages
    );

    for folder in fs::read_dir(&dir)? {
        let folder = folder?.path();
        let Ok(bytes) = fs::read(folder.join("header.bin")) else { continue };
        match hnsw::Header::parse(&bytes) {
            Ok(header) => println!("{}: {} elements", folder.display(), header.elements),
            Err(error) => println!("{}: {error}", folder.display()),
        }
        let Ok(bytes) = fs::read(folder.join("index_metadata.pickle")) else { continue };
        match pickle::read(&bytes[..], pickle::Limits::default(), &mut |_id, _label| {}) {
            Ok(metadata) => println!("  {} ids, written by {:?}", metadata.ids, metadata.family),
            Err(pickle::ReadError::Content(error)) => println!("  index_metadata.pickle: {error}"),
        }
    }
    Ok(())
}
