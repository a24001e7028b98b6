//! What packages install beside the program.

use std::fs;

use crate::support::run;

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["manual", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let root = page("chroma_exporter.1");
    assert!(root.contains(".TH chroma_exporter 1"), "{root}");
    for (name, says) in [
        ("chroma_exporter-check.1", "nagios"),
        ("chroma_exporter-backup.1", "keep"),
        ("chroma_exporter-config-init.1", "Find stores"),
        ("chroma_exporter-silence-add.1", "comment"),
    ] {
        assert!(page(name).contains(says), "{name}");
    }
    // As many as the help lists, and those below them.
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let listed = help.split("Commands:\n").nth(1).unwrap().lines();
    let listed: Vec<&str> = listed
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(listed.len() > 15, "{help}");
    for name in listed {
        assert!(dir.path().join(format!("chroma_exporter-{name}.1")).exists(), "{name}");
    }
    let nowhere = run(&["manual", "/nowhere"]);
    assert_eq!(nowhere.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/nowhere"), "{nowhere:?}");
}
