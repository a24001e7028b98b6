use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use proptest::prelude::{Just, ProptestConfig, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::{
    alert::{
        message::{Alert, Failure},
        outbox::Counts,
        report::{AlertReport, ReceiverReport},
        silence::Silence,
    },
    collectors::CollectError,
    findings::{Code, Finding, Remedy, Severity},
    history::{History, POINTS, STEP},
    sample::{CheckState, Desc, Observation, Reading, Restored, Snapshot, StoreReadings},
    status::figures::Figures,
};

const NOW: Timestamp = Timestamp::from_secs(1_795_424_274);

static USED: Desc = Desc::gauge("chroma_disk_used_ratio", "x");
static RECORDS: Desc = Desc::gauge("chroma_records", "x");
static WRITERS: Desc = Desc::gauge("chroma_process_writers", "x");
static BACKUPS: Desc = Desc::gauge("chroma_backups", "x");
static BACKUP_AGE: Desc = Desc::gauge("chroma_backup_age_seconds", "x");
static DRIFT: Desc = Desc::gauge("chroma_permission_drift", "x").labelled(&["kind"]);

fn store(name: &str, path: &str, findings: Vec<Finding>) -> StoreReadings {
    let observation = Observation {
        samples: vec![
            USED.sample(0.437),
            RECORDS.sample(12_345.0),
            WRITERS.sample(1.0),
            BACKUPS.sample(3.0),
            BACKUP_AGE.sample(7_261.0),
            DRIFT.with(vec!["mode".into()], 0.0),
        ],
        findings,
        checks: ["header", "journal", "schema", "quick", "full"]
            .map(|c| (c, CheckState::Ok))
            .into(),
        opened_by: Some("chromadb 1.0.0 to 1.5.9".to_owned()),
        ..Observation::default()
    };
    let reading = Reading {
        next_within: Duration::from_secs(30),
        collector: "integrity",
        descs: &[],
        observation,
        taken_at: NOW,
        duration: Duration::from_millis(5),
        last_success: Some(NOW),
        codes: &[],
    };
    StoreReadings {
        firsts: std::sync::Arc::default(),
        trial: None,
        store: name.into(),
        path: Path::new(path).into(),
        readings: vec![Arc::new(reading)],
        collectors: 1,
    }
}

fn live(stores: Vec<StoreReadings>, report: &AlertReport, history: &History) -> Live {
    let figures = stores.iter().map(Figures::of).collect();
    Live::new("db1", &Snapshot { taken_at: NOW, stores }, figures, report, history)
}

fn page(stores: Vec<StoreReadings>) -> String {
    shown(&live(stores, &AlertReport::default(), &History::default()))
}

fn shown(live: &Live) -> String {
    render(live, "/metrics", Duration::from_secs(75))
}

fn alert(name: &str, store: &str) -> Alert {
    Alert {
        name: name.to_owned(),
        severity: Severity::Critical,
        store: store.to_owned(),
        path: "/srv".to_owned(),
        summary: "What is the matter".to_owned(),
        evidence: String::new(),
        count: 1,
        reading: None,
        cause: String::new(),
        code: String::new(),
        items: 0,
        remedy: Remedy::default(),
        runbook: String::new(),
        labels: BTreeMap::new(),
        since: NOW.minus(Duration::from_mins(12)),
        ended: None,
        episode: "0".to_owned(),
        known: false,
        merged: 0,
        done: String::new(),
        tried: String::new(),
        stands_since: None,
    }
}

/// What stands in the visible part: everything between the tags.
fn words(html: &str) -> String {
    let body = html.split("<body").nth(1).unwrap().split("<script>").next().unwrap();
    let body = body.split_once('>').unwrap().1;
    let text: Vec<&str> =
        body.split('<').map(|part| part.split_once('>').map_or(part, |p| p.1)).collect();
    text.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn restores_are_told_with_the_line_that_undoes_the_last_one() {
    let restored = |hours: u64, undone: bool| Restored {
        at: NOW.minus(Duration::from_hours(hours)),
        what: format!("restored from /b/<{hours}>.tar.zst"),
        kept: format!("/srv/docs.quarantine.{hours}").into(),
        undone,
        undoable: !undone,
    };
    let mut one = store("docs", "/srv/docs it", Vec::new());
    let mut reading = Arc::into_inner(one.readings.remove(0)).unwrap();
    assert!(!page(vec![store("docs", "/srv/docs", Vec::new())]).contains("Last restore or repair"));
    reading.observation.restores = vec![restored(1, true), restored(3, false), restored(30, false)];
    one.readings.push(Arc::new(reading));
    let live = live(vec![one], &AlertReport::default(), &History::default());
    let text = words(&shown(&live));
    assert!(text.contains("Last restore or repair 1 h ago"), "{text}");
    assert!(text.contains("UTC, undone: restored from /b/&lt;1&gt;.tar.zst"), "{text}");
    assert!(text.contains("the old content is in /srv/docs.quarantine.3 "), "{text}");
    let undo = "to undo: chroma_exporter restore --undo --store.path &#39;/srv/docs it&#39;";
    assert_eq!(text.matches("to undo: ").count(), 1, "{text}");
    assert!(text.find(undo) > text.find("quarantine.3"), "{text}");
    assert!(text.find(undo) < text.find("quarantine.30"), "{text}");
    let document = serde_json::to_value(&live).unwrap();
    let reported = &document["stores"][0]["restores"];
    assert_eq!(reported[1]["kept"], "/srv/docs.quarantine.3");
    assert!(reported[0].get("undo").is_none() && reported[1].get("undo").is_some(), "{reported}");
}

#[test]
fn the_verdict_is_the_first_thing_that_is_said() {
    use Code::{BackupSameDisk as Info, BackupStale as Warning, DiskReadonly as Critical};
    let ok = |name: &str| store(name, "/srv", Vec::new());
    let bad = |name: &str, code| store(name, "/srv", vec![Finding::new(code, "", "x")]);
    let blind = |name: &str| StoreReadings { collectors: 2, ..ok(name) };
    for (stores, verdict, title) in [
        (vec![], "No store is being watched", "no store"),
        (vec![ok("a")], "a is healthy", "ok"),
        (vec![ok("a"), bad("b", Info)], "All 2 stores are healthy", "ok"),
        (vec![blind("a")], "a is not known to be healthy", "1 unknown"),
        (vec![ok("a"), blind("b")], "1 of 2 stores is not known to be healthy", "1 unknown"),
        (vec![bad("a", Warning), blind("b")], "1 of 2 stores needs attention", "1 warning"),
        (
            vec![bad("a", Warning), bad("b", Critical), bad("c", Critical)],
            "2 of 3 stores need action now",
            "2 critical",
        ),
    ] {
        let page = page(stores);
        assert!(page.contains(&format!("<h1>{verdict}</h1>")), "{verdict}: {page}");
        assert!(page.contains(&format!("<title>{title} – Chroma on db1</title>")), "{title}");
    }
}

#[test]
fn the_most_urgent_store_stands_first_with_what_to_do() {
    let disk = Finding::new(Code::DiskUsageHigh, "/srv", "83.4 % are used");
    let mut kept = Finding::new(Code::HotJournal, "chroma.sqlite3-journal", "it is there");
    kept.kept = true;
    let page = page(vec![
        store("well", "/srv/well", Vec::new()),
        store("ill", "/srv/my ill", vec![disk.clone(), disk, kept]),
    ]);
    assert!(page.find(">ill<") < page.find(">well<"));
    let text = words(&page);
    for want in [
        "warning disk_usage_high The filesystem of the directory is filling up. A full disk cuts writes off in the middle.",
        "Found /srv: 83.4 % are used /srv: 83.4 % are used Do Free space on the filesystem. This command shows what grew. du -xh",
        "du -xh --max-depth=2 &#39;/srv/my ill&#39; | sort -h | tail Copy the command for disk_usage_high in ill",
        "Beware Do not delete anything in DIR to make room.",
        "it is there (from an earlier reading; it cannot be read now)",
        "Disk used 43.7 % Records 12,345 opened by chromadb 1.0.0 to 1.5.9 Integrity checks all ok",
        "Newest backup 2 h 1 min old 3 complete Held by one process Permissions as they should be",
        "well /srv/well disk 43.7 % · 12,345 records · backup 2 h 1 min old",
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    assert!(page.contains("href=\"runbooks/hot_journal\""));
}

#[test]
fn at_night_the_page_says_which_stores_and_what_to_begin_with() {
    let lost = Finding::new(Code::RecordsWithoutVector, "5a1c", "700 of 800 records")
        .with_items((0..700).map(|n| n.to_string()))
        .with_since(NOW.minus(Duration::from_hours(3)));
    let writers = Finding::new(Code::SecondWriter, "", "2 processes hold it");
    let stale = Finding::new(Code::BackupStale, "", "it is 3 d old");
    let mut unwatched = store("bare", "/srv/bare", Vec::new());
    let readings = Arc::get_mut(&mut unwatched.readings[0]).unwrap();
    readings.observation.samples.retain(|sample| !sample.desc.name.starts_with("chroma_backup"));
    let live = live(
        vec![
            store("late", "/srv/late", vec![stale]),
            store("my docs", "/srv/docs", vec![lost, writers]),
            unwatched,
        ],
        &AlertReport::default(),
        &History::default(),
    );
    let live =
        live.with_refused(Some((NOW.minus(Duration::from_mins(9)), "a = 1: b\nc <d>".to_owned())));
    let page = shown(&live);
    let text = words(&page);
    for want in [
        "1 of 3 stores needs action now 1 critical · 1 warning · 1 ok critical my docs : second_writer and 1 more. \
         Do this first: Stop all but one of them now",
        "warning late : backup_stale",
        "The newest configuration is not in force: it was refused 9 min ago, and the previous one stays in force. a = 1: b c &lt;d&gt;",
        "Begin with second_writer : it may be the cause of what is below it.",
        "5a1c: 700 of 800 records since 2026-11-23 05:57:54 UTC, 3 h ago All 700 as JSON ; \
         chroma_exporter check --ids=records_without_vector",
        "Newest backup not watched no backups are configured here",
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    assert!(
        page.contains(
            "href=\"api/v1/status/items?code=records_without_vector&amp;store=my%20docs\""
        )
    );
    let link = page.split("href=\"#s").nth(1).unwrap().split('"').next().unwrap();
    assert!(page.contains(&format!("id=\"s{link}\"")), "it leads to the store");
    let document = serde_json::to_value(&live).unwrap();
    let docs = &document["stores"][1];
    assert_eq!(docs["findings"][0]["code"], "second_writer");
    assert_eq!(docs["do_first"], docs["findings"][0]["remedy"]);
    assert_eq!(docs["findings"][1]["since"], "2026-11-23T05:57:54Z");
    assert_eq!(docs["findings"][1]["items_total"], 700);
    assert_eq!(docs["findings"][1]["items"].as_array().unwrap().len(), 10);
    assert_eq!(document["configuration_refused"]["problems"][1], "c <d>");
}

#[test]
fn what_cannot_be_read_is_told_once_for_all_whom_it_stops() {
    let mut ill = store("ill", "/srv", Vec::new());
    ill.readings = ["disk", "hnsw"]
        .map(|collector| {
            Arc::new(Reading {
                next_within: Duration::from_secs(30),
                collector,
                descs: &[],
                observation: Observation {
                    problems: vec![CollectError::OutOfReach("gone\u{202e}".to_owned())],
                    ..Observation::default()
                },
                taken_at: NOW,
                duration: Duration::ZERO,
                last_success: None,
                codes: &[],
            })
        })
        .into();
    let text = words(&page(vec![ill]));
    assert!(text.contains("unknown disk, hnsw These collectors cannot read"), "{text}");
    assert_eq!(text.matches("gone\\u{202e}").count(), 1, "{text}");
}

#[test]
fn alerts_silences_and_receivers_are_shown() {
    let silence = Silence {
        id: "0a1b2c3d".to_owned(),
        store: String::new(),
        alert: "ChromaDisk*".to_owned(),
        since: NOW,
        until: NOW.plus(Duration::from_mins(90)),
        comment: "a & b".to_owned(),
        by: "ops".to_owned(),
    };
    let receiver = ReceiverReport {
        kind: "slack",
        counts: Counts {
            attempts: 7,
            failed: [(Failure::Connect, 4)].into(),
            dead_letters: 2,
            last_success: None,
        },
        queued: 3,
        oldest: Some(NOW.minus(Duration::from_mins(5))),
        failure: Some((NOW.minus(Duration::from_mins(2)), "connection refused <x>".to_owned())),
    };
    let report = AlertReport {
        firing: vec![alert("ChromaDiskReadonly", "a"), alert("ChromaX", "b")],
        pending: vec![alert("ChromaY", "a")],
        silences: vec![silence],
        receivers: [("team".to_owned(), receiver)].into(),
        ..AlertReport::default()
    };
    let live = live(vec![store("a", "/a", Vec::new())], &report, &History::default());
    let text = words(&shown(&live));
    for want in [
        "2 alerts fire , 1 pending, 1 silenced · 3 alerts wait for team (connection refused &lt;x&gt;)",
        "critical firing ChromaDiskReadonly silenced by 0a1b2c3d a What is the matter 2026-11-23 08:45:54 UTC 12 min ago",
        "critical pending ChromaY",
        "0a1b2c3d * ChromaDisk* 2026-11-23 10:27:54 UTC 1 h 30 min left ops a &amp; b",
        "Alerts are kept in memory only",
        "team slack 3 the oldest 5 min ago none since the start 4 of 7 no connection: 4 2 min ago: connection refused &lt;x&gt;",
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    let document = serde_json::to_value(&live).unwrap();
    assert_eq!(document["alerts"][0]["silenced_by"][0], "0a1b2c3d");
    assert_eq!(document["alerts"][2]["state"], "pending");
    assert_eq!(document["receivers"][0]["oldest"], "2026-11-23T08:52:54Z");
    assert_eq!(document["receivers"][0]["last_success"], serde_json::Value::Null);
}

#[test]
fn the_last_hours_are_drawn_and_told() {
    let (mut history, name) = (History::default(), Arc::from("a"));
    for point in 0..4_u32 {
        let at = NOW.minus(STEP * (3 - point));
        history.note(at, [(&name, [Some(0.4 + 0.1 * f64::from(point)), Some(5.0), None, None])]);
    }
    let live = live(vec![store("a", "/a", Vec::new())], &AlertReport::default(), &history);
    let page = shown(&live);
    assert!(
        page.contains("aria-label=\"Disk used, last 8 min: from 40.0 % to 70.0 %, now 70.0 %\""),
        "{page}"
    );
    assert!(words(&page).contains("Records 12,345 last 8 min: steady"));
    assert!(!page.contains("Age of the newest backup"), "nothing is known of it");
    let document = serde_json::to_value(&live).unwrap();
    let history = &document["stores"][0]["history"];
    assert_eq!(history["disk_used_ratio"], serde_json::json!([0.4, 0.5, 0.6, 0.7]));
    assert_eq!(history["backup_age_seconds"], serde_json::json!([null, null, null, null]));
    assert_eq!(history["step_seconds"], STEP.as_secs());
}

#[test]
fn many_stores_stay_a_page_that_a_browser_takes() {
    let (mut history, names) = (History::default(), (0..1_200).map(|n| format!("s{n}")));
    let names: Vec<Arc<str>> = names.map(Into::into).collect();
    for point in 0..u32::try_from(POINTS).unwrap() {
        let at = NOW.minus(STEP * (u32::try_from(POINTS).unwrap() - point));
        let value = Some(f64::from(point % 7) / 7.0);
        history.note(
            at,
            names.iter().map(|name| (name, [value, value.map(|v| v * 1e6), value, value])),
        );
    }
    let long = "x".repeat(600);
    let findings: Vec<Finding> = Code::ALL
        .iter()
        .flat_map(|code| (0..9).map(|n| Finding::new(*code, format!("file {n}"), &long)))
        .collect();
    // The others are as bad and say less, so that the test is quick.
    let some = |place| if place < 2 * BODIES_MAX { &findings[..] } else { &findings[..1] };
    let stores = names.iter().enumerate();
    let stores = stores.map(|(place, name)| store(name, "/srv", some(place).to_vec())).collect();
    let live = live(stores, &AlertReport::default(), &history);
    let page = shown(&live);
    assert!(page.len() < 6_000_000, "{}", page.len());
    assert_eq!(page.matches("<details").count(), BODIES_MAX);
    assert_eq!(page.matches(" data-part open>").count(), OPEN_MAX);
    assert_eq!(page.matches("<h3>").count(), ROWS_MAX);
    assert!(words(&page).contains("… and 200 more that are no worse"));
    let healthy: Vec<StoreReadings> =
        names[..200].iter().map(|n| store(n, "/srv", Vec::new())).collect();
    let page = self::page(healthy);
    assert!(page.len() < 400_000 && !page.contains(" open>"), "{}", page.len());
    assert_eq!(page.matches("<h3>").count(), 200);
}

#[test]
fn the_policy_names_the_style_and_the_script_of_the_page() {
    let sum = |text: &str| {
        let mut sum =
            Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        sum.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let out = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
        let byte = |at| u8::from_str_radix(&out[at..at + 2], 16).unwrap();
        BASE64_STANDARD.encode((0..64).step_by(2).map(byte).collect::<Vec<u8>>())
    };
    for page in [page(vec![]), runbook_index(), runbook_page("hot_journal").unwrap()] {
        for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
            let between = |from: &str, to: &str| {
                page.split_once(from).unwrap().1.split_once(to).unwrap().0.to_owned()
            };
            let text = between(&format!("<{tag}>"), &format!("</{tag}>"));
            let want = format!("{directive} 'sha256-{}';", sum(&text));
            assert!(CONTENT_SECURITY_POLICY.contains(&want), "{want}");
            assert_eq!(page.matches(&format!("<{tag}")).count(), 1, "{tag}");
        }
        // The policy would refuse them, and nothing else on the page may need them.
        for refused in [
            " style=",
            " onclick",
            " onload",
            "<img",
            "<iframe",
            "http-equiv",
            "src=",
            "@import",
            "url(",
        ] {
            assert!(!page.contains(refused), "{refused}");
        }
    }
    assert!(!CONTENT_SECURITY_POLICY.contains("unsafe"));
}

/// The tags of a page as a browser takes them, each with the names of its attributes; the script and the style are skipped.
fn tags(html: &str) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once('<') {
        let (mut names, mut name, mut quoted, mut end) = (Vec::new(), String::new(), false, 0);
        for (at, c) in after.char_indices() {
            end = at;
            match c {
                '"' => quoted = !quoted,
                '>' if !quoted => break,
                ' ' | '=' | '/' if !quoted => names.push(std::mem::take(&mut name)),
                c if !quoted => name.push(c),
                _ => {}
            }
        }
        names.push(name);
        names.retain(|name| !name.is_empty());
        rest = &after[end..];
        for raw in ["script", "style"] {
            if names.first().is_some_and(|name| name == raw) {
                rest = rest.split_once(&format!("</{raw}>")).unwrap().1;
            }
        }
        out.push(names);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_name_from_anywhere_leaves_a_live_tag(
        before in prop_oneof![
            ".*",
            Just("</script>".to_owned()),
            Just("</code></pre></style></title>".to_owned()),
            Just("x: sqlite3 \"".to_owned()),
            Just("\" autofocus='".to_owned()),
            Just("<!-- ]]> <b ".to_owned()),
            Just("\u{202e}\u{0}\u{1b}[0m\u{2066}\u{200b}\u{2028}".to_owned()),
        ],
        after in ".*",
    ) {
        let text = format!("{before}<zzz onclick=1>{after}");
        let finding = Finding::new(Code::PermissionDrift, &text, &text)
            .with_remedy(Remedy::new(&text).with_command(Some(text.clone())).with_note(&text));
        let mut hostile = alert(&text, &text);
        (hostile.summary, hostile.evidence) = (text.clone(), text.clone());
        let silence = Silence {
            id: text.clone(),
            store: text.clone(),
            alert: text.clone(),
            since: NOW,
            until: NOW,
            comment: text.clone(),
            by: text.clone(),
        };
        let report = AlertReport {
            firing: vec![hostile.clone()],
            pending: vec![hostile],
            silences: vec![silence],
            receivers: [(text.clone(), ReceiverReport::default())].into(),
            ..AlertReport::default()
        };
        let stores = vec![store(&text, &format!("/{text}"), vec![finding])];
        let figures = stores.iter().map(Figures::of).collect();
        let snapshot = Snapshot { taken_at: NOW, stores };
        let live = Live::new(&text, &snapshot, figures, &report, &History::default());
        let page = render(&live, &format!("/{text}"), Duration::from_secs(75));
        let json = serde_json::to_string(&live).unwrap();

        prop_assert!(page.matches("&lt;zzz onclick=1&gt;").count() > 15, "{}", page);
        let tags = tags(&page);
        for tag in &tags {
            prop_assert!(!tag[0].starts_with("zzz") && !tag.iter().any(|name| name == "onclick"), "{:?}", tag);
        }
        let count = |name: &str| tags.iter().filter(|tag| tag[0] == name).count();
        prop_assert_eq!((count("script"), count("style"), count("title")), (1, 1, 2));
        for name in ["div", "section", "details", "dl", "dd", "table", "td", "p", "a", "h1", "h3"] {
            let closing = tags.iter().filter(|tag| tag.first().is_some_and(|n| n == name)).count();
            let opening = page.matches(&format!("<{name}>")).count() + page.matches(&format!("<{name} ")).count();
            // Names of closing tags lose their slash, so each pair counts twice.
            prop_assert_eq!(closing, 2 * opening, "{}", name);
        }
        prop_assert!(page.chars().chain(json.chars()).all(|c| c == '\n' || !c.is_control()));
        for hidden in ['\u{202a}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{2028}'] {
            prop_assert!(!page.contains(hidden) && !json.contains(hidden));
        }
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(document["stores"].as_array().map(Vec::len), Some(1));
    }
}
