//! The published matrix of faults, `tests/faults.md`: what real Chroma releases do with each broken directory is measured
//! anew, beside what SQLite and the program say. `UPDATE_FAULTS=1 cargo test --features e2e --test e2e faults::` writes it;
//! `UPDATE_FAULTS=new` asks Chroma only of the faults that have no line yet.

use crate::support::{
    chroma,
    faults::{self, Fault, LIVE, Matrix, Row, codes_cell},
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
};

/// A Chroma that looks at one directory after the other.
pub(crate) struct Prober {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Prober {
    pub(crate) fn start(release: &str) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(chroma::python(release))
            .args(["-W", "ignore"])
            .arg(here.join("tests/support/probe.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        Self { child, to, from }
    }

    pub(crate) fn ask(&mut self, base: &Path, dir: &Path) -> String {
        writeln!(self.to, "{}\t{}", base.display(), dir.display()).unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {line:?} of {}", dir.display()));
        answer["said"].as_str().unwrap().to_owned()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

type Case = (&'static str, &'static Fault, &'static str);

/// What Chroma says of each case that is `wanted`, by its place in the table. Two releases work side by side.
fn measure(cases: &[Case], wanted: impl Fn(&Case) -> bool) -> BTreeMap<usize, String> {
    let mut by_release: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, (_, fault, base)) in cases.iter().enumerate().filter(|(_, case)| wanted(case)) {
        by_release.entry(fault.release(base)).or_default().push(at);
    }
    let mut work: Vec<(&str, Vec<usize>)> = by_release.into_iter().collect();
    work.sort_by_key(|(_, cases)| cases.len());
    let (work, said) = (Mutex::new(work), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((release, places)) = work.lock().unwrap().pop() else { return };
                    let mut prober = Prober::start(release);
                    for at in places {
                        let (class, fault, base) = &cases[at];
                        let scratch = tempfile::tempdir().unwrap();
                        let dir = fault.strike(base, scratch.path());
                        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
                        let whole = fixtures.join(format!("chroma-{base}"));
                        let answer = prober.ask(&whole, &dir);
                        println!("{class}: {}, {base}: {answer}", fault.what);
                        said.lock().unwrap().insert(at, answer);
                    }
                }
            });
        }
    });
    said.into_inner().unwrap()
}

#[test]
fn chroma_does_what_the_matrix_says() {
    let cases = faults::cases();
    let published = Matrix::read();
    let update = std::env::var_os("UPDATE_FAULTS");
    let line = |(class, fault, base): &Case| published.get(class, fault.what, base);
    let known =
        |case: &Case| update.as_ref().is_some_and(|how| how == "new") && line(case).is_some();
    let mut said = measure(&cases, |case| !known(case));
    for (at, case) in cases.iter().enumerate().filter(|(_, case)| known(case)) {
        let chroma = line(case).map_or("", |row| row.chroma.as_str());
        said.insert(at, chroma.strip_prefix(BY_CHANCE).unwrap_or(chroma).to_owned());
    }
    assert_eq!(said.len(), cases.len());
    if update.is_some() {
        write(&cases, &said);
        return;
    }
    let mut wrong = Vec::new();
    for (at, (class, fault, base)) in cases.iter().enumerate() {
        let row = published.get(class, fault.what, base);
        let want = row.map_or("", |row| row.chroma.as_str());
        if !fault.chance && lasting(want) != lasting(&said[&at]) {
            wrong.push(format!(
                "{class}: {}, {base}: {:?}, published is {want:?}",
                fault.what, said[&at]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What of an answer is the same in every run. Whether a store opens and what is listed is; what comes of a damaged graph
/// is drawn by lot, so of the rest it counts only that something is wrong.
fn lasting(said: &str) -> &str {
    let certain = ["all right", "open: ", "lists ", "list, ", "list: "];
    if certain.iter().any(|start| said.starts_with(start)) { said } else { "something is wrong" }
}

/// Before what another run may give otherwise.
const BY_CHANCE: &str = "by chance: ";

fn write(cases: &[Case], said: &BTreeMap<usize, String>) {
    let mut matrix = Matrix::default();
    for (at, (class, fault, base)) in cases.iter().enumerate() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        let sqlite = faults::sqlite_says(&dir);
        let chroma =
            if fault.chance { format!("{BY_CHANCE}{}", said[&at]) } else { said[&at].clone() };
        let codes = codes_cell(fault.codes);
        matrix.rows.push((
            ((*class).to_owned(), fault.what.to_owned(), (*base).to_owned()),
            Row { sqlite, chroma, codes },
        ));
    }
    matrix.rows.extend(Matrix::read().rows.into_iter().filter(|((class, ..), _)| class == LIVE));
    matrix.write();
}
