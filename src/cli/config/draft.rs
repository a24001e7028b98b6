//! What `config init` found, and how it is written: YAML that this program reads, with a comment where somebody has to decide.

use std::{fmt::Write, path::PathBuf};

use crate::human;

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Draft {
    pub(super) host: String,
    pub(super) at: String,
    pub(super) stores: Vec<DraftStore>,
    /// What could not be looked at, for whoever reads along.
    pub(super) notes: Vec<String>,
}

/// A directory, and what belongs to it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct DraftStore {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Who has it open: `pid 4711 (python3)`.
    pub(super) held_by: Vec<String>,
    /// Patterns, each with how many it fits.
    pub(super) backups: Vec<(String, usize)>,
    pub(super) logs: Vec<PathBuf>,
    /// Where its server listens.
    pub(super) url: Option<String>,
}

impl Draft {
    /// `2 stores`.
    pub(super) fn count(&self) -> String {
        match self.stores.len() {
            0 => "no store".to_owned(),
            1 => "1 store".to_owned(),
            more => format!("{more} stores"),
        }
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        let mut out = format!(
            "# Configuration of chroma_exporter, of what `chroma_exporter config init` found on {} at {}.\n\
             # Only what differs from the defaults is needed. To check this file:\n\
             #   chroma_exporter config check --config.file FILE\n\n",
            human::plain(&self.host),
            self.at
        );
        if self.stores.is_empty() {
            out.push_str(
                "# No directory of Chroma was found. Without any here, the program watches those that running Chromas use.\n\
                 #stores:\n#  - name: documents\n#    path: /srv/chroma\n",
            );
        } else {
            out.push_str("stores:\n");
        }
        let used = self.stores.iter().any(DraftStore::is_used);
        for (place, store) in self.stores.iter().enumerate() {
            let text = store.text(place == 0);
            if used && !store.is_used() {
                // What lies about would only be missed when somebody takes it away.
                out.push_str("  # Nobody uses this one now. Take the # away to watch it.\n");
                out.extend(text.lines().map(|line| format!("#{line}\n")));
            } else {
                out.push_str(&text);
            }
        }
        out.push_str(FURTHER);
        out
    }
}

impl DraftStore {
    fn is_used(&self) -> bool {
        !self.held_by.is_empty()
    }

    /// Its item; `with_advice` what could stand there, too.
    fn text(&self, with_advice: bool) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let mut line = |text: &str| writeln!(out, "{text}").unwrap_or_default();
        let path = self.path.to_string_lossy();
        let held = match &*self.held_by {
            [] => "nobody has it open now".to_owned(),
            held => human::plain(&format!("open in {}", held.join(", "))),
        };
        line(&format!("  - name: {}", quoted(&self.name)));
        line(&format!("    path: {} # {held}", quoted(&path)));
        if !self.backups.is_empty() {
            line("    backups:");
            for (pattern, count) in &self.backups {
                line(&format!("      - {} # {count} there now", quoted(pattern)));
            }
        } else if with_advice {
            line(
                "    # No backups were found. Name them, so that their age is watched and the newest is proven:",
            );
            line("    #backups: [/backup/chroma.backup.*]");
        }
        if with_advice {
            line("    # To let the exporter make proven backups by itself, best to another disk:");
            line("    #backup: {to: /backup, at: \"02:00 local\", keep: {last: 3, daily: 7}}");
        }
        if !self.logs.is_empty() {
            line("    logs:");
            for log in &self.logs {
                line(&format!("      - {}", quoted(&log.to_string_lossy())));
            }
        } else if with_advice {
            line("    #logs: [/var/log/chroma/*.log]");
        }
        if let Some(url) = &self.url {
            line("    # Asked every 30 seconds, which shows in its access log.");
            line(&format!("    server: {{url: {}}}", quoted(url)));
        } else if with_advice {
            line("    #server: {url: \"http://127.0.0.1:8000\"}");
        }
        out
    }
}

/// A text of YAML in double quotes, which are those of JSON. What nobody sees or what drives a terminal is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || human::hidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    write!(out, "\\u{unit:04x}").unwrap_or_default();
                }
            }
            c => out.push(c),
        }
    }
    out + "\""
}

const FURTHER: &str = r"
# Who is told. A secret may stand in a file of its own; `chroma_exporter notify team --config.file FILE` sends a test.
#receivers:
#  - name: team
#    type: slack            # or mattermost, discord, ntfy, pagerduty, email, webhook, alertmanager, heartbeat, ...
#    url_file: /etc/chroma_exporter/slack_url
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collectors,
        config::{Overrides, file},
    };

    fn full() -> Draft {
        Draft {
            host: "db-1".into(),
            at: "2026-11-30T10:00:00Z".into(),
            stores: vec![
                DraftStore {
                    name: "chroma".into(),
                    path: "/srv/chroma".into(),
                    held_by: vec!["pid 7 (chroma)".into()],
                    backups: vec![("/backup/chroma_db.backup.*".into(), 7)],
                    logs: vec!["/root/.pm2/logs/chroma-error.log".into()],
                    url: Some("http://127.0.0.1:8000".into()),
                },
                DraftStore {
                    name: "odd".into(),
                    path: "/srv/a \"b\": #\u{202e}\\c # x".into(),
                    ..DraftStore::default()
                },
            ],
            notes: Vec::new(),
        }
    }

    fn load(text: &str) -> crate::config::Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yml");
        std::fs::write(&path, text).unwrap();
        let overrides = Overrides { config_file: Some(path), ..Overrides::default() };
        file::load(&overrides, &collectors::families()).unwrap_or_else(|problems| {
            panic!("{problems:?}\n{text}");
        })
    }

    #[test]
    fn what_nobody_uses_is_written_to_be_uncommented() {
        let mut draft = full();
        let text = draft.text();
        assert_eq!(load(&text).stores.len(), 1);
        assert!(text.contains("\n#  - name: \"odd\"\n#    path: "), "{text}");
        for store in &mut draft.stores {
            store.held_by.clear();
        }
        assert_eq!(load(&draft.text()).stores.len(), 2, "of a host on which no Chroma runs");
    }

    #[test]
    fn what_is_written_reads_back_whatever_the_names_are() {
        let mut draft = full();
        draft.stores[1].held_by.push("pid 8 (a\u{1b}\nb)".into());
        let config = load(&draft.text());
        assert_eq!(config.stores.len(), 2);
        for (store, drafted) in config.stores.iter().zip(&draft.stores) {
            assert_eq!((&*store.name, &store.path), (&*drafted.name, &drafted.path));
        }
        let first = &config.stores[0];
        assert_eq!(first.backups.globs, ["/backup/chroma_db.backup.*"]);
        assert_eq!(first.logs, ["/root/.pm2/logs/chroma-error.log"]);
        assert_eq!(first.server.as_ref().unwrap().url, "http://127.0.0.1:8000");
        let text = draft.text();
        assert!(text.contains("# open in pid 7 (chroma)\n"), "{text}");
        assert!(
            text.chars().all(|c| c == '\n' || !(c.is_control() || human::hidden(c))),
            "{text:?}"
        );
        let none = Draft { stores: Vec::new(), ..draft };
        assert!(load(&none.text()).stores.is_empty());
        assert_eq!(none.count(), "no store");
    }

    #[test]
    fn each_line_to_be_uncommented_is_one_that_the_program_takes() {
        let mut draft = full();
        draft.stores.truncate(1);
        draft.stores[0].backups.clear();
        draft.stores[0].logs.clear();
        draft.stores[0].url = None;
        let prose = |line: &str| {
            ["To ", "No ", "Only", "Conf", "Who", "  chroma"]
                .iter()
                .any(|begin| line.starts_with(begin))
        };
        let uncommented = |line: &str| -> Option<String> {
            let indent = line.len() - line.trim_start().len();
            let Some(rest) = line.trim_start().strip_prefix('#') else {
                return Some(line.to_owned());
            };
            let reported = prose(rest.strip_prefix(' ').unwrap_or(rest));
            (!reported).then(|| " ".repeat(indent) + rest)
        };
        let text = draft.text();
        let text: Vec<String> = text.lines().filter_map(uncommented).collect();
        let text = text.join("\n") + "\n";
        let config = load(&text);
        let store = &config.stores[0];
        assert!(store.backup.is_some() && store.server.is_some(), "{text}");
        assert!(!store.logs.is_empty() && !store.backups.globs.is_empty(), "{text}");
        assert_eq!(config.receivers.len(), 1, "{text}");
    }
}
