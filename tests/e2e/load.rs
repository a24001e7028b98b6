//! Lines of `dump` into servers of real Chroma, and out again.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    dump::{COSINE_STEPS, apart},
    support::{SOON, binary, chroma, signal, wait_for},
};

fn made(version: &str, dir: &Path) {
    let status = chroma::script(version).arg("everything").arg(dir).status().unwrap();
    assert!(status.success(), "{version}");
}

fn run(arguments: &[impl AsRef<OsStr>]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn reported(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// The lines of a store.
fn dump(dir: &Path, scratch: &Path) -> Vec<u8> {
    let out = run(&[
        "dump",
        "--state.dir",
        "",
        "--scratch",
        scratch.to_str().unwrap(),
        dir.to_str().unwrap(),
    ]);
    assert!(out.status.success(), "{}", reported(&out));
    out.stdout
}

fn load(server: &chroma::Server, lines: &Path, more: &[&str]) -> Output {
    load_to(server.port, lines, more)
}

pub(crate) fn load_to(port: u16, lines: &Path, more: &[&str]) -> Output {
    let to = format!("http://127.0.0.1:{port}");
    let mut arguments = vec!["load", lines.to_str().unwrap(), "--to", &to];
    arguments.extend(more);
    run(&arguments)
}

pub(crate) fn report(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", reported(out)))
}

pub(crate) fn values(lines: &[u8]) -> Vec<Value> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// What a server keeps: without lists before 1.5, and with the settings of the index in its own form.
fn kept(lines: &[u8], lists: bool) -> Vec<Value> {
    let mut values = values(lines);
    for value in &mut values {
        if value.get("collection").is_some() {
            value["configuration"] = Value::Null;
            if let Some(metadata) = value["metadata"].as_object_mut() {
                metadata.retain(|key, _| !key.starts_with("hnsw:"));
            }
        } else if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.retain(|_, value| lists || !value.is_array());
        }
    }
    values
}

/// Line by line. With the space cosine, Chroma makes unit vectors and multiplies them again, which costs the last digit.
fn same(one: &[Value], two: &[Value], about: &str) {
    assert_eq!(one.len(), two.len(), "{about}");
    let mut cosine = false;
    for (one, two) in one.iter().zip(two) {
        if one.get("collection").is_some() {
            cosine = one["space"] == "cosine";
        }
        let (mut one, mut two) = (one.clone(), two.clone());
        if cosine && one.get("id").is_some() {
            let apart = apart(&one["embedding"].take(), &two["embedding"].take());
            assert!(apart <= COSINE_STEPS, "{about}: {} is {apart} steps apart", one["id"]);
        }
        assert_eq!(one, two, "{about}");
    }
}

/// The bytes themselves, where vectors are kept as they are.
fn same_bytes(one: &[u8], two: &[u8]) {
    let lines = |lines: &[u8]| -> Vec<String> {
        let mut cosine = false;
        let keep = |line: &&str| {
            if line.starts_with("{\"collection\"") {
                cosine = line.contains("\"space\":\"cosine\",\"dimension\"");
            }
            !cosine
        };
        String::from_utf8_lossy(lines).lines().filter(keep).map(str::to_owned).collect()
    };
    let (one, two) = (lines(one), lines(two));
    assert!(one.len() > 150, "{}", one.len());
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(&two) {
        assert_eq!(one, two);
    }
}

/// A file of that many records of 8 numbers, in order, and what each is.
pub(crate) fn many(path: &Path, records: usize) {
    let mut out = std::io::BufWriter::new(fs::File::create(path).unwrap());
    writeln!(out, "{}", json!({"collection": "many", "space": "l2", "dimension": 8})).unwrap();
    for number in 0..records {
        let vector: Vec<f64> = (0..8)
            .map(|at| f64::from(u32::try_from((number * 7 + at * 13) % 101).unwrap()) / 8.0)
            .collect();
        let line = json!({"id": format!("r{number:06}"), "document": format!("document {number}"), "metadata": {"n": number}, "embedding": vector});
        writeln!(out, "{line}").unwrap();
    }
}

pub(crate) struct Stand {
    scratch: tempfile::TempDir,
    pub(crate) server: chroma::Server,
}

impl Stand {
    pub(crate) fn new(version: &'static str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("target");
        fs::create_dir(&dir).unwrap();
        let server = chroma::Server::start(version, &dir);
        Self { scratch, server }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// What is in the server's directory, once it is ended.
    pub(crate) fn dumped(&mut self) -> Vec<u8> {
        self.server.end();
        dump(&self.path("target"), self.scratch.path())
    }
}

#[test]
fn what_is_dumped_and_loaded_gives_the_same_lines_again() {
    for (from, to) in [
        ("0.4.24", "1.5.9"),
        ("0.6.3", "1.5.9"),
        ("1.1.1", "1.5.9"),
        ("1.5.9", "1.5.9"),
        ("1.5.9", "1.1.1"),
        ("1.5.9", "0.6.3"),
        ("0.4.24", "0.6.3"),
        ("0.6.3", "0.4.24"), // over /api/v1
    ] {
        let mut stand = Stand::new(to);
        let store = stand.path("store");
        made(from, &store);
        let lines = dump(&store, stand.scratch.path());
        let file = stand.path("lines.jsonl");
        fs::write(&file, &lines).unwrap();
        let out = load(&stand.server, &file, &["--output", "json"]);
        // Lists came with 1.5; servers before it do not keep them, and that is told.
        let lists = from == "1.5.9" && to != "1.5.9";
        let report = report(&out);
        let want = if lists { ("loaded_with_losses", 1) } else { ("loaded", 0) };
        assert_eq!(report["status"], want.0, "{from} to {to}: {report:#}");
        assert_eq!(out.status.code(), Some(want.1), "{from} to {to}");
        for collection in report["collections"].as_array().unwrap() {
            assert_eq!(collection["compared"], 50, "{from} to {to}: {report:#}");
            assert_eq!(collection["after"], collection["records"]);
        }
        let again = stand.dumped();
        if from == to {
            same_bytes(&lines, &again);
        }
        // As docs/move.md has it.
        let target = stand.path("target");
        let out = run(&[
            "diff",
            file.to_str().unwrap(),
            target.to_str().unwrap(),
            "--state.dir",
            "",
            "--scratch",
            stand.scratch.path().to_str().unwrap(),
            "--output",
            "json",
        ]);
        assert_eq!(out.status.code(), Some(i32::from(lists)), "{from} to {to}: {}", reported(&out));
        for differing in self::report(&out)["differing"].as_array().unwrap() {
            assert_eq!(differing["settings"], json!([]), "{from} to {to}: {differing:#}");
        }
        same(&kept(&lines, !lists), &kept(&again, !lists), &format!("{from} to {to}"));
        // The index is what it was, whatever form its settings have.
        let settings = values(&again);
        let first = settings.iter().find(|line| line["collection"] == "second").unwrap();
        assert_eq!(first["space"], "cosine", "{from} to {to}");
        let text = first.to_string();
        assert!(text.contains("sync_threshold\":40"), "{from} to {to}: {text}");
    }
}

#[test]
fn what_is_rare_arrives_and_what_a_server_does_not_take_is_told() {
    let mut stand = Stand::new("1.5.9");
    let store = stand.path("store");
    let made = chroma::script("0.6.3").arg("strange").arg(&store).output().unwrap();
    assert!(made.status.success(), "{}", reported(&made));
    let out = run(&[
        "dump",
        "--state.dir",
        "",
        "--scratch",
        stand.scratch.path().to_str().unwrap(),
        store.to_str().unwrap(),
    ]);
    let file = stand.path("lines.jsonl");
    fs::write(&file, &out.stdout).unwrap();
    let report = report(&load(&stand.server, &file, &["--output", "json"]));
    assert_eq!(report["status"], "loaded_with_losses", "{report:#}");
    let losses = report["losses"].to_string();
    for id in ["empty key", "no end"] {
        assert!(losses.contains(&format!("(record {id})")), "{losses}");
    }
    assert_eq!(report["lost"], 2, "{report:#}");
    let wanted = values(&out.stdout).into_iter().skip(1);
    let wanted: Vec<Value> =
        wanted.filter(|line| line["id"] != "empty key" && line["id"] != "no end").collect();
    same(&wanted, &values(&stand.dumped())[1..], "rare");
}

/// The words of a load that keeps how far it is in `progress`.
fn resumable(stand: &Stand, file: &Path, progress: &Path) -> Vec<String> {
    let to = format!("http://127.0.0.1:{}", stand.server.port);
    let (file, progress) = (file.to_str().unwrap(), progress.to_str().unwrap());
    ["load", file, "--to", &to, "--resume", progress, "--output", "json"].map(str::to_owned).into()
}

/// A load that has sent its first records.
fn begun(arguments: &[String], progress: &Path) -> Child {
    let child = Command::new(binary()).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the first records to be loaded", SOON, || {
        let text = fs::read_to_string(progress).ok()?;
        serde_json::from_str::<Value>(&text).ok()?["line"].as_u64().filter(|line| *line > 4)
    });
    child
}

#[test]
fn a_load_that_is_killed_goes_on() {
    let mut stand = Stand::new("1.5.9");
    let file = stand.path("many.jsonl");
    many(&file, 40_000);
    // What was finished before is not asked about as if nothing had been sent.
    let first = [
        r#"{"collection":"first","space":"l2"}"#,
        r#"{"id":"a","embedding":[1,2]}"#,
        r#"{"id":"b","embedding":[1,2]}"#,
    ];
    let lines = first.join("\n") + "\n" + &fs::read_to_string(&file).unwrap();
    fs::write(&file, lines).unwrap();
    let progress = stand.path("progress");
    let arguments = resumable(&stand, &file, &progress);
    let mut child = begun(&arguments, &progress);
    child.kill().unwrap();
    child.wait().unwrap();
    // Whoever has no such file is told how to go on.
    let out = load(&stand.server, &file, &[]);
    assert_eq!(out.status.code(), Some(3), "{}", reported(&out));
    assert!(
        reported(&out).contains("already: first, many") && reported(&out).contains("--merge"),
        "{}",
        reported(&out)
    );
    // Other lines are not taken for these.
    let other = stand.path("other.jsonl");
    fs::write(&other, fs::read_to_string(&file).unwrap().replace("document 1", "document x"))
        .unwrap();
    let out = load(&stand.server, &other, &["--resume", progress.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(3), "{}", reported(&out));
    assert!(reported(&out).contains("the lines are others"), "{}", reported(&out));
    let out = run(&arguments);
    let report = report(&out);
    assert_eq!(report["status"], "loaded", "{report:#}");
    assert!(
        report["notes"][0].as_str().unwrap().starts_with("it goes on behind line "),
        "{report:#}"
    );
    for (collection, records) in report["collections"].as_array().unwrap().iter().zip([2, 40_000]) {
        assert_eq!(
            (&collection["records"], &collection["after"], &collection["made"]),
            (&json!(records), &json!(records), &json!(true))
        );
    }
    assert!(!progress.exists());
    // The same once more changes nothing.
    let out = load(&stand.server, &file, &["--merge", "--output", "json"]);
    assert_eq!(self::report(&out)["status"], "loaded", "{}", reported(&out));
    let lines = stand.dumped();
    let records = |lines: &[u8]| -> Vec<Value> {
        values(lines).into_iter().filter(|line| line.get("id").is_some()).collect()
    };
    let wanted = records(&fs::read(&file).unwrap());
    let found = records(&lines);
    assert_eq!((found.len(), &found[1]["id"]), (40_002, &json!("b")));
    same(&found[2..], &wanted[2..], "killed");
}

#[test]
fn a_server_that_is_restarted_meanwhile_is_waited_for() {
    let mut stand = Stand::new("1.5.9");
    let file = stand.path("many.jsonl");
    many(&file, 30_000);
    let progress = stand.path("progress");
    let child = begun(&resumable(&stand, &file, &progress), &progress);
    signal(stand.server.child.id(), "KILL");
    stand.server.child.wait().unwrap();
    let dir = stand.path("target");
    stand.server.start_again(&dir);
    let out = child.wait_with_output().unwrap();
    let report = report(&out);
    assert_eq!(report["status"], "loaded", "{report:#}");
    assert_eq!(report["collections"][0]["after"], 30_000);
}

#[test]
fn bad_lines_are_told_and_cost_no_others() {
    let mut stand = Stand::new("1.5.9");
    let file = stand.path("bad.jsonl");
    let lines = [
        r#"{"id":"early","embedding":[1,2]}"#,
        r#"{"collection":"docs","space":"cosine"}"#,
        r#"{"id":"a","document":"first","embedding":[1,2]}"#,
        r#"{"id":"b","embedding":[1,"x"]}"#,
        r#"{"id":"c","embedding":[1,2,3]}"#,
        r#"{"id":"d","embedding":null}"#,
        r#"{"id":"e","metadata":{"k":{"a":1}},"embedding":[1,2]}"#,
        "no line",
        r#"{"id":"f","document":"last","metadata":{"n":1},"embedding":[3,4]}"#,
        r#"{"collection":"no name for a collection!"}"#,
        r#"{"id":"g","embedding":[3,4]}"#,
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let out = load(&stand.server, &file, &["--output", "json"]);
    let report = report(&out);
    assert_eq!(
        (out.status.code(), &report["status"]),
        (Some(1), &json!("loaded_with_losses")),
        "{report:#}"
    );
    let losses: Vec<&str> =
        report["losses"].as_array().unwrap().iter().map(|loss| loss.as_str().unwrap()).collect();
    for (loss, begins) in losses.iter().zip([
        "line 1 (record early): no line before it begins a collection",
        "line 4: embedding[1]: expected a number, found a text",
        "line 5 (record c): embedding: it has 3 numbers, and the collection has 2",
        "line 6 (record d): embedding: it has none",
        "line 7: metadata.k: ",
        "line 8: it is no JSON: ",
        "line 10: collection no name for a collection!: the server refuses: ",
    ]) {
        assert!(loss.starts_with(begins), "{loss}, not {begins}");
    }
    assert_eq!((losses.len(), &report["lost"]), (7, &json!(8)), "{report:#}");
    assert_eq!(report["collections"][0]["after"], 2);
    let records: Vec<Value> =
        values(&stand.dumped()).into_iter().filter(|line| line.get("id").is_some()).collect();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1]["document"], "last");
}

#[test]
fn a_record_that_the_server_refuses_is_found_in_its_batch() {
    let stand = Stand::new("1.1.1");
    let file = stand.path("long.jsonl");
    many(&file, 900);
    // More than a server takes in one request.
    let long = json!({"id": "long", "document": "x".repeat(45 << 20), "embedding": [1, 2, 3, 4, 5, 6, 7, 8]});
    let mut text = fs::read_to_string(&file).unwrap();
    let last = json!({"id": "z", "embedding": [1, 2, 3, 4, 5, 6, 7, 8]});
    text += &[long.to_string(), last.to_string()].join("\n");
    fs::write(&file, text).unwrap();
    let report = report(&load(&stand.server, &file, &["--output", "json"]));
    assert_eq!(report["status"], "loaded_with_losses", "{report:#}");
    assert!(
        report["losses"][0]
            .as_str()
            .unwrap()
            .starts_with("line 902 (record long): the server refuses: "),
        "{report:#}"
    );
    assert_eq!((&report["lost"], &report["collections"][0]["after"]), (&json!(1), &json!(901)));
}

#[test]
fn two_stores_become_one() {
    let mut stand = Stand::new("1.5.9");
    let (one, two) = (stand.path("one.jsonl"), stand.path("two.jsonl.gz"));
    many(&one, 300);
    let lines = [
        r#"{"collection":"many","tenant":"a tenant","database":"other","space":"ip","dimension":8,"metadata":{"of":2.5}}"#,
        r#"{"id":"r1","embedding":[1,2,3,4,5,6,7,8]}"#,
        r#"{"collection":"many","space":"l2","dimension":8}"#,
        r#"{"id":"r000001","document":"changed","metadata":{"m":2},"embedding":[1,2,3,4,5,6,7,8]}"#,
        r#"{"id":"r000002","embedding":[8,7,6,5,4,3,2,1]}"#,
        r#"{"id":"x","embedding":[1,2,3,4,5,6,7,8]}"#,
    ];
    let mut gzip =
        flate2::write::GzEncoder::new(fs::File::create(&two).unwrap(), flate2::Compression::fast());
    gzip.write_all(lines.join("\n").as_bytes()).unwrap();
    gzip.finish().unwrap();
    // Asked before, nothing is changed.
    let out = load(&stand.server, &one, &["--dry-run"]);
    assert!(out.status.success(), "{}", reported(&out));
    assert_eq!(reported(&out), "many: would be made, 300 records would be loaded\n");
    assert!(load(&stand.server, &one, &[]).status.success());
    // One that is there is refused before anything is changed.
    let out = load(&stand.server, &two, &[]);
    assert_eq!(out.status.code(), Some(3), "{}", reported(&out));
    let out = load(
        &stand.server,
        &two,
        &["--rename", "many=more", "--collection", "many", "--output", "json"],
    );
    assert_eq!(report(&out)["status"], "loaded", "{}", reported(&out));
    let out = load(&stand.server, &two, &["--merge", "--output", "json"]);
    let merged = report(&out);
    assert_eq!(merged["status"], "loaded", "{merged:#}");
    assert_eq!(
        (&merged["collections"][1]["before"], &merged["collections"][1]["after"]),
        (&json!(300), &json!(301))
    );
    // Two collections of one file into one that is made for them.
    let both = [
        r#"{"collection":"left","space":"l2"}"#,
        r#"{"id":"a","document":"left","embedding":[1,2]}"#,
        r#"{"id":"b","document":"left","embedding":[1,2]}"#,
        r#"{"collection":"right","space":"l2"}"#,
        r#"{"id":"b","document":"right","embedding":[1,2]}"#,
        r#"{"id":"c","document":"right","embedding":[1,2]}"#,
    ];
    let file = stand.path("both.jsonl");
    fs::write(&file, both.join("\n")).unwrap();
    let out = load(&stand.server, &file, &["--rename", "left=right"]);
    assert_eq!(out.status.code(), Some(3), "{}", reported(&out));
    let words = ["--rename", "left=right", "--merge", "--output", "json"];
    let out = load(&stand.server, &file, &words);
    let joined = report(&out);
    assert_eq!(joined["status"], "loaded", "{joined:#}");
    for (number, part) in [(true, 0, 2), (false, 2, 3)].into_iter().enumerate() {
        let reported = &joined["collections"][number];
        let reported = (&reported["made"], &reported["before"], &reported["after"]);
        assert_eq!(reported, (&json!(part.0), &json!(part.1), &json!(part.2)), "{joined:#}");
    }
    let lines = values(&stand.dumped());
    let documents: Vec<&Value> = {
        let begins = lines.iter().position(|line| line["collection"] == "right").unwrap();
        lines[begins + 1..].iter().map(|line| &line["document"]).collect()
    };
    assert_eq!(documents, ["left", "right", "right"]);
    let names: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            Some(format!(
                "{}/{}/{}",
                line["tenant"].as_str()?,
                line["database"].as_str()?,
                line["collection"].as_str()?
            ))
        })
        .collect();
    assert_eq!(
        names,
        [
            "a tenant/other/many",
            "a tenant/other/more",
            "default_tenant/default_database/many",
            "default_tenant/default_database/more",
            "default_tenant/default_database/right"
        ]
    );
    let changed = lines.iter().find(|line| line["document"] == "changed").unwrap();
    // As docs/move.md has it: keys that only the server had stay.
    assert_eq!(changed["id"], "r000001");
    assert_eq!(changed["metadata"], json!({"m": 2, "n": 1}));
    let bare =
        lines.iter().rfind(|line| line["id"] == "r000002" && line["metadata"]["n"] == 2).unwrap();
    assert_eq!(bare["document"], "document 2");
    assert_eq!(bare["embedding"], json!([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]));
}

#[test]
fn nothing_but_the_server_that_is_named_is_asked_and_no_secret_is_told() {
    let stand = Stand::new("1.5.9");
    let file = stand.path("one.jsonl");
    many(&file, 1);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let read = std::io::Read::read(&mut stream, &mut request).unwrap();
        let body = r#"{"message":"no: Bearer canary-of-a-load"}"#;
        write!(
            stream,
            "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let out = Command::new(binary())
        .args(["load", file.to_str().unwrap(), "--to", &to, "--headers-env", "WHO"])
        .env("WHO", "Authorization: Bearer canary-of-a-load")
        .output()
        .unwrap();
    let request = server.join().unwrap();
    assert!(request.to_lowercase().contains("authorization: bearer canary-of-a-load"), "{request}");
    assert_eq!(out.status.code(), Some(2), "{}", reported(&out));
    assert!(
        reported(&out).contains("<secret>") && !reported(&out).contains("canary"),
        "{}",
        reported(&out)
    );
    let out = run(&["load", file.to_str().unwrap(), "--to", "http://me:canary@127.0.0.1:1"]);
    assert_eq!(out.status.code(), Some(64), "{}", reported(&out));
}
