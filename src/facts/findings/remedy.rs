//! What to do about a finding, in three parts: words for people, a command for a shell, a note. Nobody has to guess where the
//! command begins.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::human::{hidden, plain};

/// What to do about a finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Remedy {
    /// What to do, in short sentences. No code stands in them.
    pub words: String,
    /// What somebody copies into a shell as it stands. `None` where no command helps, or where a name in it cannot be typed.
    /// Until [`Remedy::at`] has said where the store lies, `{path}` in it stands for the persist directory.
    pub command: Option<String>,
    /// What to know before or after: when not to do it, and what it costs.
    pub note: Option<String>,
}

/// The form that files of earlier releases have: one text for all.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Parts { words: String, command: Option<String>, note: Option<String> },
}

impl From<Stored> for Remedy {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Text(words) => Self::new(words),
            Stored::Parts { words, command, note } => Self { words, command, note },
        }
    }
}

impl Remedy {
    /// One without a command.
    #[must_use]
    pub fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), command: None, note: None }
    }

    /// The same with another command.
    #[must_use]
    pub fn with_command(self, command: Option<String>) -> Self {
        Self { command, ..self }
    }

    /// The same with a note.
    #[must_use]
    pub fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }

    /// The same for the store at `path`.
    #[must_use]
    pub fn at(self, path: &Path) -> Self {
        let command = self.command.and_then(|open| command(&open, &[("path", path)]));
        Self { command, ..self }
    }

    /// Whether there is nothing to do, as for a rule of the operator's own.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.words.is_empty() && self.command.is_none()
    }

    /// All of it as one text, for those who have room for one only. The command has a line of its own.
    #[must_use]
    pub fn text(&self) -> String {
        let parts = [Some(self.words.as_str()), self.command.as_deref(), self.note.as_deref()];
        let given = parts.into_iter().flatten().filter(|part| !part.is_empty());
        given.collect::<Vec<_>>().join("\n")
    }

    /// The same with texts that drive neither a terminal nor the direction of text.
    pub(crate) fn plain(&self) -> Self {
        let some = |text: &Option<String>| text.as_deref().map(plain);
        Self { words: plain(&self.words), command: some(&self.command), note: some(&self.note) }
    }
}

/// A remedy that is known when the program is built.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// As [`Remedy::words`].
    pub words: &'static str,
    /// As [`Remedy::command`], with `{path}`; empty where no command helps.
    pub command: &'static str,
    /// As [`Remedy::note`]; empty where there is nothing to know.
    pub note: &'static str,
}

impl From<Template> for Remedy {
    fn from(template: Template) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let Template { words, command, note } = template;
        Self { words: words.to_owned(), command: some(command), note: some(note) }
    }
}

/// `template` with each `{name}` replaced by its value as one word of a shell; other braces stay. `None` when a value cannot be
/// typed.
#[must_use]
pub fn command(template: &str, values: &[(&str, &Path)]) -> Option<String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let named = values.iter().find_map(|(name, value)| {
            Some((tail[1..].strip_prefix(name)?.strip_prefix('}')?, value))
        });
        if let Some((after, value)) = named {
            out.push_str(&shell_word(value)?);
            rest = after;
        } else {
            out.push('{');
            rest = &tail[1..];
        }
    }
    out.push_str(rest);
    Some(out)
}

/// A path as a shell takes it for one word, whatever it is called. `None` when it holds what cannot be typed or shown as it
/// is: bytes that are no UTF-8, control characters, characters that nobody sees, the backtick, which ends code in a chat, and
/// `{path}`, which would be taken for the name of a value.
pub(crate) fn shell_word(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    if text.chars().any(|c| c.is_control() || hidden(c) || c == '`') || text.contains("{path}") {
        return None;
    }
    let safe = |c: char| c.is_alphanumeric() || "/._-+@%:,=".contains(c);
    Some(if !text.is_empty() && text.chars().all(safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::unix::ffi::OsStrExt,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::findings::Code;

    #[test]
    fn a_name_is_one_word_to_a_shell_whatever_it_is() {
        for (path, want) in [
            ("/srv/chroma", Some("ls /srv/chroma/x")),
            ("/srv/my data", Some("ls '/srv/my data'/x")),
            ("/srv/o'x; rm -rf", Some("ls '/srv/o'\\''x; rm -rf'/x")),
            ("/srv/$(reboot)", Some("ls '/srv/$(reboot)'/x")),
            ("/srv/{to}", Some("ls '/srv/{to}'/x")),
            ("/srv/{path}", None),
            ("", Some("ls ''/x")),
            ("/srv/a\nb", None),
            ("/srv/`a`", None),
            ("/srv/\u{202e}gpj", None),
        ] {
            assert_eq!(command("ls {path}/x", &[("path", Path::new(path))]).as_deref(), want);
            // The shell agrees.
            if want.is_some() {
                let echo = command("printf %s {path}", &[("path", Path::new(path))]).unwrap();
                let out = Command::new("sh").args(["-c", &echo]).output().unwrap();
                assert_eq!(String::from_utf8(out.stdout).unwrap(), path);
            }
        }
        assert_eq!(shell_word(Path::new(OsStr::from_bytes(b"/srv/\xff"))), None);
        // What is no name of a value stays: find has braces of its own.
        let two = [("path", Path::new("{to}")), ("to", Path::new("b"))];
        assert_eq!(
            command("find {path} -exec mv {} {to} +", &two).unwrap(),
            "find '{to}' -exec mv {} b +"
        );
    }

    #[test]
    fn what_an_earlier_release_wrote_is_read() {
        let read = |text| serde_json::from_str::<Remedy>(text).unwrap();
        assert_eq!(read("\"Stop it.\""), Remedy::new("Stop it."));
        let whole = Remedy::new("Do.").with_command(Some("ls".to_owned())).with_note("Once.");
        assert_eq!(read(&serde_json::to_string(&whole).unwrap()), whole);
        assert_eq!(whole.text(), "Do.\nls\nOnce.");
    }

    /// What no command helps with: one folder is put back by hand, and how Chroma is started is not ours to know.
    const NO_COMMAND: &[Code] = &[
        Code::StoreMissing,
        Code::HotJournal,
        Code::SchemaNewerThanExporter,
        Code::SeqIdMissing,
        Code::QueueBacklog,
        Code::IndexLag,
        Code::SegmentMetadataHostile,
        Code::SegmentAhead,
        Code::SegmentOrphan,
        Code::SecondWriter,
        Code::LockHeld,
        Code::DescriptorsLow,
        Code::BackupSameDisk,
    ];

    #[test]
    fn a_command_is_one_to_a_shell_and_words_hold_no_code() {
        for code in Code::ALL {
            let Remedy { words, command, note } = code.remedy(Path::new("/srv/a path"));
            assert_eq!(command.is_none(), NO_COMMAND.contains(code), "{code:?}: {command:?}");
            for text in [Some(&words), note.as_ref()].into_iter().flatten() {
                assert!(text.ends_with('.') && !text.contains("{path}"), "{code:?}: {text}");
                assert!(text.starts_with(char::is_uppercase), "{code:?}: {text}");
            }
            for sign in ["`", "/", "{", "}", "\"", "$", " -", "|", "&&", ": ", "sqlite3 "] {
                let words = words.replace("chroma.sqlite3", "");
                assert!(!words.contains(sign), "{code:?} has code among its words: {words}");
            }
            if let Some(command) = command {
                is_command(&command, &format!("{code:?}"));
            }
        }
    }

    /// Whether a shell takes it, it begins with a program or a path, and nothing of it reads like a sentence.
    pub(crate) fn is_command(command: &str, of: &str) {
        let sh = Command::new("sh").args(["-n", "-c", command]).stderr(Stdio::null()).status();
        assert!(sh.unwrap().success(), "{of}: {command}");
        let first = command.split(' ').next().unwrap();
        let program = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-./".contains(&b);
        assert!(!first.is_empty() && first.bytes().all(program), "{of}: {first}");
        assert!(!command.ends_with(['.', ' ', ':', ';', ',']), "{of}: {command}");
        for prose in [" (", ". ", "; then ", " then: ", "PID", "ENTRY", " the ", " with: "] {
            let outside: String = command.split(['"', '\'']).step_by(2).collect();
            assert!(!outside.contains(prose), "{of}: {command}");
        }
    }
}
