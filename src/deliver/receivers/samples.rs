//! Messages for the tests of every kind of receiver: what operators will see most, and what an enemy would name things. The
//! words are those of the catalogue at some time; golden files should not change with every sentence of it.

use proptest::prelude::*;

use crate::{
    alert::{
        builtin,
        message::{Alert, Notification, Number, Reason},
    },
    clock::Timestamp,
    findings::{Code, Remedy, Severity},
};

/// Mon, 23 Nov 2026 08:57:54 UTC.
const NOW: i64 = 1_795_424_274;

pub(crate) fn all() -> Vec<(&'static str, Notification)> {
    let one = |reason, alert: Alert| notification(reason, vec![alert]);
    let ended = |mut alert: Alert| {
        alert.ended = Some(Timestamp::from_secs(NOW));
        alert
    };
    let several = vec![
        corrupt(),
        usage(),
        of(DRIFT, Severity::Warning, "2 entries: owner of chroma.sqlite3 is root, was chroma"),
        of(STALE, Severity::Warning, "chroma_db.backup.20261121 is 1 d 6 h old"),
        ended(of(WRITERS, Severity::Critical, "python (pid 4711) and uvicorn (pid 815)")),
    ];
    let repaired = Alert {
        done: "repaired: the indexes were made anew, 2026-11-23 08:57 UTC. The old content is in /srv/chroma.quarantine.20261123_085741.".to_owned(),
        ..ended(corrupt())
    };
    let tried = Alert {
        tried:
            "The repair was tried on a copy at 2026-11-23 08:56 UTC: nothing is lost. It took 12 s."
                .to_owned(),
        ..corrupt()
    };
    let mut flaps = ended(usage());
    flaps.merged = 3;
    let mut known = corrupt();
    known.known = true;
    let mixed = notification(Reason::Resolved, vec![known, flaps]);
    let mut storm = Vec::new();
    for index in 0..14 {
        let severity = if index % 3 == 0 { Severity::Critical } else { Severity::Warning };
        let mut alert = of(FULL, severity, "92.0 % used");
        alert.store = format!("store-{index:02}");
        alert.path = format!("/srv/chroma/{index:02}");
        storm.push(alert);
    }
    storm[3].store = "store-00".to_owned();
    let mut storm = notification(Reason::Firing, storm);
    storm.group = "all".to_owned();
    storm.left_out = 7;
    let test = Alert {
        name: "ChromaTest".to_owned(),
        summary: "A test message; nothing is wrong".to_owned(),
        severity: Severity::Info,
        evidence: String::new(),
        reading: None,
        cause: String::new(),
        code: String::new(),
        items: 0,
        remedy: Remedy::default(),
        runbook: String::new(),
        ..usage()
    };
    let test = one(Reason::Test, test);
    let mut hostile = corrupt();
    hostile.store = "docs".to_owned();
    hostile.path = "/srv/`<!channel>` @everyone *x*".to_owned();
    hostile.evidence = "collection \"<!channel>\" <@U123> `rm -rf /` *bold* [x](https://evil.example) @here \u{202e}gpj".to_owned();
    vec![
        ("disk", disk()),
        ("corrupt", one(Reason::Firing, corrupt())),
        (
            "escalated",
            one(Reason::Escalated, of(FULL, Severity::Critical, "91.3 % of /dev/sda1 used")),
        ),
        ("tried", one(Reason::Tried, tried)),
        ("reminder", one(Reason::Reminder, corrupt())),
        ("resolved", one(Reason::Resolved, ended(usage()))),
        ("repaired", one(Reason::Resolved, repaired)),
        ("several", notification(Reason::Firing, several)),
        ("mixed", mixed),
        ("storm", storm),
        ("test", test),
        ("hostile", one(Reason::Firing, hostile)),
    ]
}

/// One alert over a number.
pub(crate) fn disk() -> Notification {
    notification(Reason::Firing, vec![usage()])
}

fn notification(reason: Reason, alerts: Vec<Alert>) -> Notification {
    Notification {
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        group: "store=docs".to_owned(),
        reason,
        at: Timestamp::from_secs(NOW),
        host: "db-1".to_owned(),
        external_url: "https://db-1.example.org:18000".to_owned(),
        alerts,
        left_out: 0,
    }
}

fn usage() -> Alert {
    Alert {
        reading: Some(Number {
            series: "chroma_disk_used_ratio".to_owned(),
            value: 0.873,
            comparison: ">=".to_owned(),
            threshold: 0.8,
        }),
        labels: [("team".to_owned(), "search".to_owned())].into(),
        ..of(USAGE, Severity::Warning, "2.5 GB of 20.0 GB left on /srv (ext4)")
    }
}

fn corrupt() -> Alert {
    of(CORRUPT, Severity::Critical, "row 17 missing from index embeddings_by_seq")
}

/// As a finding of the catalogue is told: name of the rule, cause, words and command of the remedy.
type CatalogueText = (&'static str, &'static str, &'static str, &'static str);

const USAGE: CatalogueText = (
    "ChromaDiskUsageHigh",
    "The filesystem of the directory is filling up; a full disk cuts writes off in the middle.",
    "Free space on it. This command shows what grew.",
    "du -xh --max-depth=2 /srv/chroma | sort -h | tail",
);
const FULL: CatalogueText = (
    "ChromaDiskUsageCritical",
    "The filesystem of the directory is nearly full; a full disk cuts writes off in the middle.",
    "Free space on it now, or stop Chroma before the next write fails.",
    "",
);
const CORRUPT: CatalogueText = (
    "ChromaSqliteIndexCorrupt",
    "An index of chroma.sqlite3 is damaged or does not agree with its table; the rows themselves may be whole.",
    "Stop Chroma and keep a copy of the directory. Then make the indexes anew.",
    "sqlite3 /srv/chroma/chroma.sqlite3 REINDEX",
);
const DRIFT: CatalogueText = (
    "ChromaPermissionDrift",
    "Owner, group, mode or type of an entry differs from what was declared or learnt.",
    "Give owner and mode back. If you wanted the change, declare it in the configuration.",
    "chown 999:999 /srv/chroma/chroma.sqlite3",
);
const STALE: CatalogueText = (
    "ChromaBackupStale",
    "The newest complete backup is older than it should be.",
    "Make one now, and look in the log of the backup job for why it stopped.",
    "",
);
const WRITERS: CatalogueText = (
    "ChromaSecondWriter",
    "Two processes hold the directory open for writing; each loses vectors of the other without any error.",
    "Stop all but one of them now. Then restart the one that stays.",
    "",
);

fn of((name, cause, words, command): CatalogueText, severity: Severity, evidence: &str) -> Alert {
    Alert {
        name: name.to_owned(),
        severity,
        store: "docs".to_owned(),
        path: "/srv/chroma".to_owned(),
        summary: cause.split([';', ':']).next().unwrap_or(cause).to_owned(),
        evidence: evidence.to_owned(),
        count: if name == DRIFT.0 { 2 } else { 1 },
        reading: None,
        cause: cause.to_owned(),
        code: code_of(name),
        items: if name == DRIFT.0 { 40 } else { 0 },
        remedy: Remedy {
            words: words.to_owned(),
            command: (!command.is_empty()).then(|| command.to_owned()),
            note: (name == CORRUPT.0).then(|| "If it says malformed, see the runbook.".to_owned()),
        },
        runbook: format!("https://example.org/runbooks/{name}.md"),
        labels: std::collections::BTreeMap::new(),
        since: Timestamp::from_secs(NOW - 7_500),
        ended: None,
        episode: "00112233445566aa".to_owned(),
        known: false,
        merged: 0,
        done: String::new(),
        tried: String::new(),
        stands_since: None,
    }
}

fn code_of(name: &str) -> String {
    let code = Code::ALL.iter().find(|code| builtin::name(**code) == name);
    code.map(|code| code.as_str().to_owned()).unwrap_or_default()
}

fn any_text() -> impl Strategy<Value = String> {
    // Up to what findings may carry, of everything that some receiver takes for markup.
    prop_oneof![
        "[<>&`*_~@!#|\\[\\]()\\\\/:. a-z\"'\n\r\t]{0,300}",
        "\\PC{0,80}",
        Just("<!channel>".repeat(60)),
        Just("&".repeat(601)),
        Just("\u{1F600}".repeat(601)),
        Just(String::new()),
    ]
}

fn any_alert() -> impl Strategy<Value = Alert> {
    let texts = proptest::collection::vec(any_text(), 12);
    (texts, 0..3_usize, any::<bool>(), any::<f64>(), any::<bool>(), any::<bool>()).prop_map(
        |(mut texts, severity, ended, value, numbered, known)| {
            let mut text = || texts.pop().unwrap_or_default();
            Alert {
                name: text(),
                severity: [Severity::Info, Severity::Warning, Severity::Critical][severity],
                store: text(),
                path: text(),
                summary: text(),
                evidence: text(),
                cause: text(),
                code: text(),
                items: 7,
                remedy: Remedy { words: text(), command: Some(text()), note: Some(text()) },
                runbook: format!("https://{}", text()),
                labels: [("a".to_owned(), text())].into(),
                known,
                ended: ended.then(|| Timestamp::from_secs(NOW)),
                reading: numbered.then(|| Number {
                    series: "chroma_x_ratio{a=\"`<!here>`\"}".to_owned(),
                    value,
                    comparison: ">".to_owned(),
                    threshold: 1.0,
                }),
                ..usage()
            }
        },
    )
}

/// Runs `test` on messages with names that nobody should choose, of one store and of many.
pub(crate) fn hostile(test: impl Fn(&Notification)) {
    let strategy = (proptest::collection::vec(any_alert(), 1..40), any::<bool>(), any_text());
    proptest!(ProptestConfig::with_cases(64), |((mut alerts, one_store, host) in strategy)| {
        if one_store {
            let store = alerts[0].store.clone();
            for alert in &mut alerts {
                alert.store.clone_from(&store);
            }
        }
        test(&Notification { host, ..notification(Reason::Firing, alerts) });
    });
}
