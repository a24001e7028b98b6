//! Finds the command in a remedy, so that it can stand in a line of its own and be copied.

/// The command at the end of a remedy.
#[derive(Debug, PartialEq)]
pub(crate) struct Command<'a> {
    pub(crate) text: &'a str,
    /// What stands behind it in parentheses.
    pub(crate) note: &'a str,
}

/// A remedy is a sentence, or a sentence that ends in `: ` and a command, which a note or further sentences may follow.
pub(crate) fn split_command(remedy: &str) -> (String, Option<Command<'_>>) {
    for (at, _) in remedy.match_indices(": ") {
        let rest = &remedy[at + 2..];
        let first = rest.split(' ').next().unwrap_or_default();
        if COMMANDS.contains(&first) {
            let (text, note) = rest.split_at(command_len(rest));
            let note = note.trim_start_matches(['.', ' ']);
            return (remedy[..=at].to_owned(), Some(Command { text, note }));
        }
    }
    (remedy.to_owned(), None)
}

/// Where the command at the beginning of `text` ends: before a parenthesis or the end of the sentence, outside of quotes.
fn command_len(text: &str) -> usize {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None => {
                let after = &text[at + c.len_utf8()..];
                let sentence = after.is_empty()
                    || after
                        .strip_prefix(' ')
                        .is_some_and(|next| next.starts_with(char::is_uppercase));
                if c == ' ' && after.starts_with('(') || c == '.' && sentence {
                    return at;
                }
            }
            Some(_) => {}
        }
    }
    text.len()
}

const COMMANDS: [&str; 16] = [
    "sqlite3",
    "cp",
    "mv",
    "ls",
    "du",
    "df",
    "chown",
    "chmod",
    "chroma",
    "chroma_exporter",
    "dmesg",
    "find",
    "findmnt",
    "journalctl",
    "pgrep",
    "pip",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::findings::Code;

    #[test]
    fn commands_stand_alone_and_prose_stays_prose() {
        let of = |remedy: &str| {
            let (words, command) = split_command(remedy);
            let command = command.map(|c| (c.text.to_owned(), c.note.to_owned()));
            (words, command)
        };
        assert_eq!(of("Stop it: now."), ("Stop it: now.".to_owned(), None));
        for code in Code::ALL {
            let remedy = code.remedy(Path::new("/srv/a b"));
            let (words, command) = of(&remedy);
            let Some((text, note)) = command else { continue };
            assert!(!text.ends_with(['.', ' ', ':', ';', ',']), "{code:?}: {text}");
            let lost = remedy.len() - words.len() - text.len() - note.len();
            assert!(lost <= 3 && remedy.ends_with(&note), "{code:?}: {remedy}");
        }
        let tenant = of(&Code::DefaultTenantMissing.remedy(Path::new("/c")));
        let sql = "sqlite3 /c/chroma.sqlite3 \"INSERT INTO tenants(id) VALUES('default_tenant')\"";
        assert_eq!(tenant.1, Some((sql.to_owned(), String::new())));
        let saved = of("Save it: cp /proc/PID/fd/N x (PID and N as found).");
        assert_eq!(saved.1, Some(("cp /proc/PID/fd/N x".into(), "(PID and N as found).".into())));
    }
}
