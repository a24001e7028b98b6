//! The program as its operator meets it: first scrape, reload, broken stores beside whole ones, the end.

use crate::support::{self, Exporter, SOON, fixture, get, replace_file, request, wait_for};
use std::{fs, os::unix::fs::symlink, path::Path};

/// A flag and its value.
fn store(name: &str, dir: &Path) -> [String; 2] {
    ["--store.path".to_owned(), format!("{name}={}", dir.display())]
}

fn state(dir: &Path) -> [String; 2] {
    ["--state.dir".to_owned(), dir.join("state").display().to_string()]
}

#[test]
fn a_real_directory_is_scraped_within_seconds_of_the_start() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let exporter = Exporter::start(&[store("main", &dir), state(scratch.path())].concat());
    exporter.ready();
    let main = [("store", "main")];
    exporter.wait_page("what the directory holds", SOON, |page| {
        let sqlite = [main[0], ("class", "sqlite")];
        page.has("chroma_disk_size_bytes", &main, |size| size > 0.0)
            && page.has("chroma_collections", &main, |collections| collections >= 2.0)
            && page.has("chroma_store_apparent_bytes", &sqlite, |bytes| bytes > 0.0)
    });
    exporter.wait_page("the first checks", SOON, |page| {
        ["quick", "full"].iter().all(|check| {
            let ok = [("check", *check), ("state", "ok")];
            page.get("chroma_integrity_state", &ok) == Some(1.0)
        })
    });
    let head = get(exporter.address, "/metrics").head.to_lowercase();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(get(exporter.address, "/-/healthy").status, 200);
    assert_eq!(get(exporter.address, "/nothing").status, 404);
    assert_eq!(request(exporter.address, "DELETE", "/metrics").status, 405);
    assert!(get(exporter.address, "/").body.contains("href=\"metrics\""));
    assert!(exporter.stop().success());
}

#[test]
fn broken_stores_neither_delay_nor_hide_a_whole_one() {
    let scratch = tempfile::tempdir().unwrap();
    let whole = fixture("chroma-1.5.9", scratch.path());
    let file = scratch.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let garbage = scratch.path().join("garbage");
    fs::create_dir(&garbage).unwrap();
    fs::write(garbage.join("chroma.sqlite3"), vec![0xa5; 40_000]).unwrap();
    let old = scratch.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("chroma-collections.parquet"), "PAR1").unwrap();

    let args = [
        store("missing", &scratch.path().join("missing")),
        store("file", &file),
        store("empty", &empty),
        store("garbage", &garbage),
        store("old", &old),
        store("whole", &whole),
        state(scratch.path()),
    ]
    .concat();
    let exporter = Exporter::start(&args);
    exporter.ready();
    let page = exporter.wait_page("the verdict on the whole one", SOON, |page| {
        page.get(
            "chroma_integrity_state",
            &[("store", "whole"), ("check", "full"), ("state", "ok")],
        ) == Some(1.0)
    });
    for (name, code) in [
        ("missing", "store_missing"),
        ("file", "store_missing"),
        ("empty", "not_a_store"),
        ("garbage", "sqlite_not_a_database"),
        ("old", "not_a_store"),
    ] {
        assert!(
            page.findings(name).iter().any(|found| found == code),
            "{name}: {:?}",
            page.findings(name)
        );
    }
    let whole: Vec<_> =
        page.findings("whole").into_iter().filter(|code| !code.starts_with("disk_")).collect();
    assert!(whole.is_empty(), "{whole:?}");
}

#[test]
fn a_store_that_vanishes_and_comes_back_is_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let exporter = Exporter::start(&[store("main", &dir), state(scratch.path())].concat());
    exporter.ready();
    let aside = scratch.path().join("aside");
    fs::rename(&dir, &aside).unwrap();
    exporter.wait_page("store_missing", SOON, |page| {
        page.findings("main").contains(&"store_missing".to_owned())
    });
    fs::rename(&aside, &dir).unwrap();
    let page = exporter.wait_page("the store to be back", SOON, |page| {
        !page.findings("main").contains(&"store_missing".to_owned())
            && page.get("chroma_collections", &[("store", "main")]).is_some()
    });
    assert!(page.value("chroma_collections", &[("store", "main")]) >= 2.0);
}

#[test]
fn a_second_store_comes_by_reload_and_a_bad_file_keeps_what_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) =
        (fixture("chroma-1.5.9", scratch.path()), fixture("chroma-1.1.1", scratch.path()));
    let file = scratch.path().join("config.yml");
    let with = |stores: &[(&str, &Path)]| {
        let item = |(n, p): &(&str, &Path)| format!("  - name: {n}\n    path: {}\n", p.display());
        let list = stores.iter().map(item).collect::<Vec<_>>().concat();
        format!("state:\n  dir: {}\nstores:\n{list}", scratch.path().join("state").display())
    };
    fs::write(&file, with(&[("one", &first)])).unwrap();
    let exporter =
        Exporter::start(&["--config.file", file.to_str().unwrap(), "--web.enable-lifecycle"]);
    exporter.ready();
    let successful = |page: &support::Page| {
        page.value("chroma_exporter_config_last_reload_successful", &[]) > 0.5
    };

    // By itself when an editor replaces the file.
    let next = scratch.path().join(".config.yml.swp");
    fs::write(&next, with(&[("one", &first), ("two", &second)])).unwrap();
    fs::rename(&next, &file).unwrap();
    exporter.wait_page("the second store", SOON, |page| {
        page.get("chroma_collections", &[("store", "two")]).is_some()
    });

    // A bad file is said and changes nothing.
    replace_file(&file, "stores:\n  - nmae: x\n");
    let page = exporter.wait_page("the bad file to be said", SOON, |page| !successful(page));
    assert!(page.get("chroma_collections", &[("store", "two")]).is_some());
    let answer = request(exporter.address, "POST", "/-/reload");
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("nmae"), "{}", answer.body);

    // By a request.
    replace_file(&file, with(&[("two", &second)]));
    assert_eq!(request(exporter.address, "POST", "/-/reload").status, 200);
    exporter.wait_page("the first store to go", SOON, |page| {
        page.get("chroma_collections", &[("store", "one")]).is_none() && successful(page)
    });

    // By SIGHUP, with a file whose change no event told: the flag file system events cannot help here.
    replace_file(&file, with(&[("three", &first)]));
    exporter.signal("HUP");
    exporter.wait_page("the third store", SOON, |page| {
        page.get("chroma_collections", &[("store", "three")]).is_some()
    });
    assert!(exporter.stop().success());
}

#[test]
fn the_level_of_the_log_changes_by_reload_and_its_format_by_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let file = scratch.path().join("config.yml");
    let write = |log: &str| {
        let (state, dir) = (scratch.path().join("state"), dir.display());
        let state = state.display();
        replace_file(
            &file,
            format!(
                "log: {{{log}}}\nstate:\n  dir: {state}\nstores:\n  - name: main\n    path: {dir}\n"
            ),
        );
    };
    write("level: info");
    let exporter = Exporter::start(&["--config.file", file.to_str().unwrap()]);
    exporter.ready();
    let turns = || exporter.log().matches("Collector run done.").count();
    assert_eq!(turns(), 0, "{}", exporter.log());
    write("level: debug");
    wait_for("debug lines", SOON, || (turns() > 0).then_some(()));

    write("level: warn, format: json");
    wait_for("the format to be refused until the restart", SOON, || {
        exporter.log().contains("field=log.format").then_some(())
    });
    // Lines that were on their way still come; then there are runs of which nothing is heard.
    let last = |page: &support::Page| {
        let labels = [("collector", "disk")];
        page.value("chroma_exporter_collector_last_run_timestamp_seconds", &labels)
    };
    wait_for("a turn that is not told", SOON, || {
        let (heard, first) = (turns(), last(&exporter.page()));
        exporter.wait_page("one more turn", SOON, |page| last(page) > first);
        (turns() == heard).then_some(())
    });
}

#[test]
fn a_config_map_volume_is_followed_through_its_links() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let volume = scratch.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let version = |number: u32, name: &str| {
        let data = volume.join(format!("..{number}"));
        fs::create_dir(&data).unwrap();
        let text = format!(
            "state:\n  dir: {}\nstores:\n  - name: {name}\n    path: {}\n",
            scratch.path().join("state").display(),
            dir.display()
        );
        fs::write(data.join("config.yml"), text).unwrap();
        let link = volume.join("..data_tmp");
        symlink(format!("..{number}"), &link).unwrap();
        fs::rename(&link, volume.join("..data")).unwrap();
    };
    version(1, "before");
    symlink("..data/config.yml", volume.join("config.yml")).unwrap();
    let exporter = Exporter::start(&["--config.file", volume.join("config.yml").to_str().unwrap()]);
    exporter.ready();
    version(2, "after");
    exporter.wait_page("the new version", SOON, |page| {
        page.get("chroma_collections", &[("store", "after")]).is_some()
    });
}

#[test]
fn reload_over_http_is_refused_unless_switched_on() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let exporter = Exporter::start(&[store("main", &dir), state(scratch.path())].concat());
    assert_eq!(request(exporter.address, "POST", "/-/reload").status, 403);
}

#[test]
fn two_hundred_stores_are_served_and_end_in_time() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9-fresh", scratch.path());
    let mut args = state(scratch.path()).to_vec();
    for number in 0..200 {
        let copy = scratch.path().join(format!("s{number}"));
        support::copy_tree(&dir, &copy);
        args.extend(store(&format!("s{number}"), &copy));
    }
    let exporter = Exporter::start(&args);
    wait_for("all stores", 2 * SOON, || {
        (get(exporter.address, "/-/ready").status == 200).then_some(())
    });
    exporter.wait_page("each of them", SOON, |page| {
        page.all("chroma_disk_size_bytes", &[]).count() == 200
    });
    assert!(exporter.stop().success());
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_and_nothing_else_is_lost() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let occupied = scratch.path().join("occupied");
    fs::write(&occupied, "a file where the directory should be").unwrap();
    let args = [
        store("main", &dir),
        ["--state.dir".to_owned(), occupied.join("state").display().to_string()],
    ]
    .concat();
    let exporter = Exporter::start(&args);
    exporter.ready();
    exporter.wait_page("the loss, and what the directory holds", SOON, |page| {
        page.has("chroma_exporter_state_persistent", &[], |kept| kept < 0.5)
            && page.has("chroma_exporter_state_write_errors_total", &[], |errors| errors > 0.0)
            && page.has("chroma_collections", &[("store", "main")], |count| count >= 2.0)
    });
    wait_for("the log to say it", SOON, || {
        exporter.log().contains("State directory cannot be used").then_some(())
    });
}

#[test]
fn a_directory_of_ten_thousand_files_is_fine() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    for folder in 0..100 {
        let folder = dir.join(format!("extra-{folder}"));
        fs::create_dir(&folder).unwrap();
        for file in 0..100 {
            fs::write(folder.join(format!("{file}")), "x").unwrap();
        }
    }
    let exporter = Exporter::start(&[store("main", &dir), state(scratch.path())].concat());
    exporter.ready();
    exporter.wait_page("all of them", SOON, |page| {
        let other = [("store", "main"), ("class", "other")];
        let permissions = [("collector", "permissions")];
        page.has("chroma_store_apparent_bytes", &other, |bytes| bytes >= 10_000.0)
            && page.has("chroma_exporter_collector_success", &permissions, |well| well > 0.5)
    });
}

#[test]
fn several_addresses_and_ipv6_are_listened_on() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let mut args = [store("main", &dir), state(scratch.path())].concat();
    args.extend(["--web.listen-address".to_owned(), "[::1]:0".to_owned()]);
    let exporter = Exporter::start(&args);
    let second = wait_for("the second address", SOON, || {
        exporter.log().lines().filter(|l| l.contains("Listening")).find_map(|line| {
            let text = line
                .split("address=")
                .nth(1)?
                .trim_matches('"')
                .split(['"', ' '])
                .next()?
                .to_owned();
            text.parse::<std::net::SocketAddr>().ok().filter(std::net::SocketAddr::is_ipv6)
        })
    });
    assert_eq!(get(second, "/-/healthy").status, 200);
}
