//! The status page in a real browser: every state of it drawn and kept as a picture, usable by keyboard and screen reader, live,
//! and quiet in the console. Pictures go to `target/page/`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::support::{
    Exporter, ROOMY, SOON,
    browser::{Browser, ENTER, TAB},
    fixture, free_port, get, run, wait_for,
};
use serde_json::json;

/// One browser at a time is enough for two cores.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("page")
        .join(format!("{name}.png"))
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/")
}

/// An exporter over the stores of a configuration, once everything has been looked at. How full the disk of this machine is
/// makes no difference.
fn exporter(scratch: &Path, stores: &str, more: &str) -> Exporter {
    exporter_with(scratch, "1s", stores, more, &[])
}

/// The same with another interval, and more flags.
fn exporter_with(
    scratch: &Path,
    interval: &str,
    stores: &str,
    more: &str,
    flags: &[&str],
) -> Exporter {
    let file = scratch.join("config.yml");
    fs::write(
        &file,
        format!("stores:\n{stores}\ncollect:\n  interval: {interval}\n{ROOMY}alerts:\n  host: db1\n{more}"),
    )
    .unwrap();
    let state = format!("--state.dir={}", scratch.join("state").display());
    let words = [&["--config.file", file.to_str().unwrap(), &state], flags].concat();
    let exporter = Exporter::start(&words);
    exporter.ready();
    wait_for("a page of all of it", SOON, || {
        (!get(exporter.address, "/").body.contains("the first look is under way")).then_some(())
    });
    exporter
}

fn entry(name: &str, path: &Path, more: &str) -> String {
    format!("  - name: {name}\n    path: {}\n{more}", json!(path))
}

/// Cuts a file to half of its length.
fn halve(file: &Path) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Looks at the page as different people do. Nothing may be wrong with it for any of them.
fn look(browser: &Browser, name: &str, address: SocketAddr) {
    // The page before may have asked an exporter that has ended.
    browser.open("about:blank");
    browser.console();
    for (view, width, dark) in
        [("light", 1100, false), ("dark", 1100, true), ("narrow", 320, false)]
    {
        browser.view(width, dark);
        browser.open(&url(address));
        let shown = format!("{name}-{view}");
        browser.picture(&picture(&shown), 6_000);

        let violations = browser.axe();

        assert!(violations.is_empty(), "{shown}: {violations:#?}");
        let wide = browser.run("return document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64() <= Some(0), "{shown} is {wide} pixels too wide");
    }
    // Long enough for the page to ask for itself.
    browser.run("window.dispatchEvent(new Event('x')); document.dispatchEvent(new Event('visibilitychange'))");
    browser.wait(
        "an answer",
        "return performance.getEntriesByType('resource').some((e) => e.initiatorType === 'fetch')",
    );
    assert_eq!(browser.console(), Vec::<String>::new(), "{name}");
}

#[test]
fn every_state_is_drawn_and_is_good_for_everybody() {
    let _alone = alone();
    let browser = Browser::start();

    let scratch = tempfile::tempdir().unwrap();
    let nothing = Exporter::start(&["--path.procfs", scratch.path().to_str().unwrap()]);
    look(&browser, "no-stores", nothing.address);
    assert!(browser.text().contains("No store is being watched"));
    drop(nothing);

    let scratch = tempfile::tempdir().unwrap();
    let well = fixture("chroma-1.5.9", scratch.path());
    let backup = scratch.path().join("main.tar");
    assert!(
        std::process::Command::new("tar")
            .arg("-cf")
            .arg(&backup)
            .arg("-C")
            .arg(&well)
            .arg(".")
            .status()
            .unwrap()
            .success()
    );
    let more = format!("    backups: {{patterns: [{}], settle: 0s}}\n", json!(backup));
    let healthy = exporter(scratch.path(), &entry("main", &well, &more), "");
    wait_for("health", SOON, || {
        get(healthy.address, "/").body.contains("main is healthy").then_some(())
    });
    look(&browser, "healthy", healthy.address);
    drop(healthy);

    let scratch = tempfile::tempdir().unwrap();
    let broken = broken(scratch.path());
    look(&browser, "broken", broken.address);
    let text = browser.text();
    for want in [
        "2 of 5 stores need action now",
        "2 critical · 1 warning · 1 unknown · 1 ok",
        "sqlite_truncated",
        "Beware",
        "hot_journal",
        "segment_truncated",
        "<img src=x onerror=hostile=1>",
        "cannot read what",
        "silenced by",
        "moving house",
        "Failed attempts",
        "webhook",
        "nobody",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    assert_eq!(browser.run("return window.hostile ?? null"), json!(null));
    drop(broken);

    let scratch = tempfile::tempdir().unwrap();
    let one = fixture("chroma-1.5.9-fresh", scratch.path());
    let stores: String = (0..200)
        .map(|n| {
            let path = scratch.path().join(format!("data-{n}"));
            if n % 50 != 7 {
                fs::create_dir(&path).unwrap();
                fs::copy(one.join("chroma.sqlite3"), path.join("chroma.sqlite3")).unwrap();
            }
            entry(&format!("store-{n:03}"), &path, "")
        })
        .collect();
    let collectors = "collectors: {integrity: false, hnsw: false, contents: false, permissions: false, backups: false}\n";
    // What fails for a minute, and for three intervals, is a finding; here it is to stay unknown, however long this takes.
    let many = exporter_with(scratch.path(), "10m", &stores, collectors, &[]);
    look(&browser, "many", many.address);
    assert!(browser.text().contains("4 of 200 stores are not known to be healthy"));
    assert_eq!(browser.run("return document.querySelectorAll('.store').length"), json!(200));
}

/// Stores with one of everything, one of which something is not known, alerts, a silence and a receiver where nobody answers.
fn broken(scratch: &Path) -> Exporter {
    let mut made = [
        "chroma-1.5.9",
        "chroma-1.1.1",
        "chroma-1.5.9-hot-journal",
        "chroma-0.6.3",
        "chroma-1.5.9-deleted",
    ]
    .map(|name| fixture(name, scratch))
    .into_iter();
    let (docs, wiki, tickets, notes, mail) = (
        made.next().unwrap(),
        made.next().unwrap(),
        made.next().unwrap(),
        made.next().unwrap(),
        made.next().unwrap(),
    );
    halve(&wiki.join("chroma.sqlite3"));
    let database = rusqlite::Connection::open(docs.join("chroma.sqlite3")).unwrap();
    database
        .execute("UPDATE collections SET name = '<img src=x onerror=hostile=1>' || id", [])
        .unwrap();
    database.close().unwrap();
    for folder in
        fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        halve(&folder.join("header.bin"));
    }
    let absent = scratch.join("absent");
    let none = format!("    backups: [{}]\n", json!(scratch.join("none-*.tar.gz")));
    let stores: String = [
        entry("notes", &notes, ""),
        entry("docs", &docs, &none),
        entry("wiki", &wiki, ""),
        entry("tickets", &tickets, ""),
        // What its server says is not known: the headers that it wants cannot be read. It is asked so rarely that this is no
        // finding yet, however long the browser takes.
        entry(
            "mail",
            &mail,
            &format!(
                "    server: {{url: \"http://127.0.0.1:1\", headers_file: {}, interval: 10m}}\n",
                json!(absent)
            ),
        ),
    ]
    .concat();
    let receivers = "  rules:\n    - name: ManyRecords\n      series: chroma_records\n      comparison: \">\"\n      threshold: 1\n      for: 1h\n      severity: warning\n      summary: There are many records\n\
                     receivers:\n  - name: team\n    type: webhook\n    url: http://127.0.0.1:1/x\n  - name: log\n    type: command\n    command: [\"/bin/true\"]\n";
    let exporter = exporter(scratch, &stores, receivers);
    let config = scratch.join("config.yml");
    let state = scratch.join("state");
    let silence = [
        "silence",
        "--config.file",
        config.to_str().unwrap(),
        "--state.dir",
        state.to_str().unwrap(),
        "add",
        "--store",
        "ticket*",
        "--for",
        "2h",
        "--comment",
        "moving house",
    ];
    let added = run(&silence);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    for reported in [
        "segment_truncated",
        "sqlite_truncated",
        "hot_journal",
        "1 unknown</b>",
        "1 ok</b>",
        "silenced by",
        "pending<br>",
    ] {
        wait_for(reported, SOON, || {
            get(exporter.address, "/").body.contains(reported).then_some(())
        });
    }
    exporter
}

#[test]
fn an_open_page_follows_what_happens() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let (one, two) =
        (fixture("chroma-1.5.9", scratch.path()), fixture("chroma-1.1.1", scratch.path()));
    let stores = entry("one", &one, "") + &entry("two", &two, "");
    // One that nobody else takes while the program is away, and that a browser which asks meanwhile does not get itself.
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listen = format!("--web.listen-address={address}");
    let exporter = exporter_with(scratch.path(), "1s", &stores, "", &[&listen]);
    wait_for("health", SOON, || {
        get(address, "/").body.contains("All 2 stores are healthy").then_some(())
    });
    let browser = Browser::start();
    browser.open(&url(address));
    browser.wait(
        "health",
        "return document.querySelector('h1').textContent === 'All 2 stores are healthy'",
    );
    // What a person did stays: a closed store, the place of the focus, the page itself.
    browser.run("window.mark = 1; const s = document.querySelectorAll('details summary')[0]; s.click(); s.focus(); window.focused = s.id");

    halve(&two.join("chroma.sqlite3"));
    browser.wait(
        "the damage",
        "return document.querySelector('h1').textContent === '1 of 2 stores needs action now'",
    );
    let state = browser.run(
        "return {mark: window.mark, first: document.querySelector('.store h3').textContent,
           open: [...document.querySelectorAll('details')].map((d) => d.open), kept: document.activeElement.id === window.focused,
           said: document.getElementById('say').textContent, title: document.title,
           icon: document.querySelector('link[rel=icon]').href.includes('c4161f')}",
    );
    let want = json!({
        "mark": 1, "first": "two", "open": [true, false], "kept": true,
        "said": "1 of 2 stores needs action now. 1 critical · 1 ok", "title": "1 critical – Chroma on db1", "icon": true,
    });
    assert_eq!(state, want);
    assert_eq!(browser.console(), Vec::<String>::new());

    let config = scratch.path().join("config.yml");
    assert!(exporter.stop().success());
    browser.wait("the loss to be said", "return document.getElementById('live').textContent.startsWith('Connection lost: stale since ')");
    assert_eq!(browser.run("return document.getElementById('live').hidden"), json!(false));
    browser.picture(&picture("connection-lost"), 900);
    browser.console(); // the browser itself tells of connections that are refused

    let state = format!("--state.dir={}", scratch.path().join("state").display());
    let exporter = Exporter::start(&["--config.file", config.to_str().unwrap(), &state, &listen]);
    exporter.ready();
    browser.run("document.dispatchEvent(new Event('visibilitychange'))");
    browser.wait("the connection", "return document.getElementById('live').hidden");
    assert_eq!(browser.run("return window.mark"), json!(1), "the page was not loaded anew");
}

#[test]
fn a_command_is_copied_by_keyboard_and_a_page_without_its_script_is_whole() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let database = rusqlite::Connection::open(store.join("chroma.sqlite3")).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM tenants").unwrap();
    database.close().unwrap();
    let exporter = exporter(scratch.path(), &entry("main", &store, ""), "");
    wait_for("the finding", SOON, || {
        get(exporter.address, "/").body.contains("default_tenant_missing").then_some(())
    });
    let browser = Browser::start();
    let origin = format!("http://{}", exporter.address);
    let allowed =
        json!({"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]});
    browser.devtools("Browser.grantPermissions", &allowed);
    browser.open(&url(exporter.address));

    let mut order = Vec::new();
    for _ in 0..40 {
        browser.key(TAB);
        let name = browser.run("const e = document.activeElement; return e.className === 'copy' ? 'copy' : e.textContent.slice(0, 20)");
        order.push(name.as_str().unwrap().to_owned());
        if order.last().unwrap() == "copy" {
            break;
        }
    }
    assert_eq!(order.first().map(String::as_str), Some("Skip to the stores"));
    assert_eq!(order.last().map(String::as_str), Some("copy"), "{order:?}");
    let name = browser.run("return document.activeElement.textContent");
    assert_eq!(name, json!("Copy the command for default_tenant_missing in main"));
    let ring = browser.run("return getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(ring, json!("solid"), "the focus is seen");
    browser.key(ENTER);
    browser.wait("the copy", "return document.getElementById('say').textContent === 'Copied.'");
    let copied =
        browser.run_until_done("navigator.clipboard.readText().then(done, (e) => done('' + e))");
    let command = copied.as_str().unwrap();
    assert_eq!(
        command,
        format!("chroma_exporter recover --store.path {} --apply", store.display())
    );
    assert_eq!(
        browser.run("return document.activeElement.className"),
        json!("copy"),
        "the focus stays"
    );
    browser.wait("the label", "return document.activeElement.firstChild.data === 'Copy'");

    // The runbook is a page of its own, as good as this one.
    browser.run("document.querySelector('a[href^=\"runbooks/default\"]').click()");
    browser.wait(
        "the runbook",
        "return document.querySelector('h1')?.textContent === 'default_tenant_missing'",
    );
    assert_eq!(browser.axe(), Vec::<String>::new());
    browser.picture(&picture("runbook"), 3_000);
    browser.open(&format!("{origin}/runbooks/"));
    assert_eq!(browser.axe(), Vec::<String>::new());
    assert_eq!(browser.console(), Vec::<String>::new());

    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    browser.open(&url(exporter.address));
    let text = browser.text();
    for want in [
        "main needs action now",
        "default_tenant_missing",
        "chroma_exporter recover",
        "reload the page",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    assert_eq!(
        browser.run("return getComputedStyle(document.querySelector('.copy')).display"),
        json!("none")
    );
    browser.picture(&picture("without-script"), 2_000);
}
