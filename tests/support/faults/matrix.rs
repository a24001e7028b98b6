//! The published matrix: a table for each class in `tests/faults.md`.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

/// One line, for one or more fixtures that fare alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    pub sqlite: String,
    pub chroma: String,
    pub codes: String,
}

/// What was said of each class, fault and fixture, in the order of the table.
#[derive(Debug, Default)]
pub struct Matrix {
    pub rows: Vec<((String, String, String), Row)>,
}

pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/faults.md")
}

/// Codes as the file has them.
pub fn codes_cell(codes: &[impl AsRef<str>]) -> String {
    let each = |code: &str| match code.split_once(' ') {
        Some((code, severity)) => format!("`{code}` ({severity})"),
        None => format!("`{code}`"),
    };
    let mut counted: Vec<(String, usize)> = Vec::new();
    for code in codes {
        let code = each(code.as_ref());
        match counted.last_mut() {
            Some((last, count)) if *last == code => *count += 1,
            _ => counted.push((code, 1)),
        }
    }
    let times = |(code, count): (String, usize)| {
        if count > 1 { format!("{count} × {code}") } else { code }
    };
    let cell = counted.into_iter().map(times).collect::<Vec<_>>().join(", ");
    if cell.is_empty() { "–".to_owned() } else { cell }
}

impl Matrix {
    /// Reads the file.
    pub fn read() -> Self {
        let text = fs::read_to_string(path()).unwrap_or_default();
        let mut matrix = Self::default();
        let mut class = String::new();
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                title.clone_into(&mut class);
            }
            let line = line.replace("\\|", "\u{1}");
            let cells: Vec<String> = line
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().replace('\u{1}', "|"))
                .collect();
            let [what, bases, sqlite, chroma, codes] = &cells[..] else { continue };
            if what == "fault" || what.starts_with("---") {
                continue;
            }
            let row = Row { sqlite: sqlite.clone(), chroma: chroma.clone(), codes: codes.clone() };
            for base in bases.split(", ") {
                matrix.rows.push(((class.clone(), what.clone(), base.to_owned()), row.clone()));
            }
        }
        matrix
    }

    pub fn get(&self, class: &str, what: &str, base: &str) -> Option<&Row> {
        let wanted = (class, what, base);
        self.rows
            .iter()
            .find(|((a, b, c), _)| (a.as_str(), b.as_str(), c.as_str()) == wanted)
            .map(|(_, row)| row)
    }

    /// Writes the file anew.
    pub fn write(&self) {
        let mut text = HEAD.to_owned();
        let mut class = "";
        let mut done = BTreeSet::new();
        for (key, row) in &self.rows {
            let (of, what, _) = key;
            if of != class {
                class = of;
                write!(text, "\n## {class}\n\n{TITLES}").unwrap();
            }
            // Fixtures that fare alike share a line.
            if !done.insert((of, what, row_key(row))) {
                continue;
            }
            let alike: Vec<&str> = self
                .rows
                .iter()
                .filter(|((c, w, _), other)| c == of && w == what && other == row)
                .map(|((_, _, base), _)| base.as_str())
                .collect();
            let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
            writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                cell(what),
                alike.join(", "),
                cell(&row.sqlite),
                cell(&row.chroma),
                row.codes
            )
            .unwrap();
        }
        fs::write(path(), text).unwrap();
    }
}

fn row_key(row: &Row) -> (&str, &str, &str) {
    (&row.sqlite, &row.chroma, &row.codes)
}

const TITLES: &str = "| fault | made with | SQLite's own check | Chroma | chroma_exporter |\n|---|---|---|---|---|\n";

const HEAD: &str = "\
# Faults, and who notices them

Each line is a real Chroma directory that was broken in one way, and what three looked at it and said: SQLite
(`PRAGMA integrity_check` of the release that is built in), Chroma itself, and `chroma_exporter check`. Nothing here is
written by hand: `tests/local/faults.rs` holds the program and SQLite to it, `tests/e2e/faults.rs` Chroma, and a line that no
longer holds fails the tests. What a broken index does to Chroma varies from run to run, because its graph is drawn by lot:
of that the tests hold whether anything is wrong, and what else Chroma says word for word. `UPDATE_FAULTS=1 cargo test --features e2e --test e2e faults::` writes the file anew.

*Made with* is the release of Chroma that wrote the directory (`tests/fixtures`), and that was then asked: it opened it,
counted and read every record of both collections (`articles` with 86, `notes` with 50), read every vector back, searched
with each of them and for a text of each, added 60 records to each collection, and looked for them. \"all right\" means
that everything was there; what is said without the word *error* came without any. `–` in the last column: no finding, as
it should be. Findings about the filesystem that the tests happen to run on are left out.
";
