//! Reads secrets where they stand, at every send, and takes them out of whatever is shown.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use tracing::warn;

use crate::{
    hidden,
    keys::{
        Secret,
        secret::{SHOWN, Source},
    },
};

/// A secret cannot be had. Says where it should stand, never what was read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret in {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was read is no secret.
    #[error("the secret in {place} {rule}")]
    Unusable {
        /// Where it stands.
        place: String,
        /// What it should be.
        rule: &'static str,
    },
}

/// Files that were warned of, so that each is told once.
#[derive(Debug, Default)]
pub(crate) struct Warned(Mutex<BTreeSet<PathBuf>>);

/// Largest file of a secret.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// Reads `secret` anew: one line, white space around it dropped. Blocks. Errs when it is not there, empty, or longer than a
/// line.
pub(crate) fn read(secret: &Secret, warned: &Warned) -> Result<String, SecretError> {
    let (place, text) = match &secret.0 {
        Source::Inline(text) => (SHOWN.to_owned(), text.clone()),
        Source::File(path) => (path.display().to_string(), from_file(path, Some(warned))?),
        Source::Env(name) => {
            let place = format!("the environment variable {name}");
            let Ok(text) = std::env::var(name) else {
                return Err(SecretError::Unusable { place, rule: "is not set" });
            };
            (place, text)
        }
        Source::Credential(name) => {
            let Some(dir) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
                let place = format!("the credential {name}");
                let rule = "cannot be found: systemd has set no $CREDENTIALS_DIRECTORY";
                return Err(SecretError::Unusable { place, rule });
            };
            let path = Path::new(&dir).join(name);
            // systemd makes them readable for the service alone, by an ACL that looks like a group's right.
            (path.display().to_string(), from_file(&path, None)?)
        }
    };
    let text = text.trim();
    let rule = match text {
        "" => "must not be empty",
        _ if text.chars().any(char::is_control) => "must be one line of text",
        _ => {
            hidden::note(text);
            return Ok(text.to_owned());
        }
    };
    Err(SecretError::Unusable { place, rule })
}

fn from_file(path: &Path, warned: Option<&Warned>) -> Result<String, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let unusable = |rule| SecretError::Unusable { place: path.display().to_string(), rule };
    // A pipe without a writer would be waited for.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(unusable("must be a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(unusable("must be at most 16 KiB"));
    }
    if let Some(Warned(reported)) = warned.filter(|_| facts.mode() & 0o077 != 0)
        && reported.lock().insert(path.to_owned())
    {
        warn!(path = %path.display(), mode = format!("{:04o}", facts.mode() & 0o7777),
            "A file with a secret can be read by others than its owner.");
    }
    String::from_utf8(bytes).map_err(|_| unusable("must be UTF-8"))
}

/// Takes secrets out of what servers and commands answer.
#[derive(Clone, Default)]
pub(crate) struct Redactor {
    /// Longest first, so that no part of one is left over when it holds another.
    words: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

/// Parts of a URL that are shorter say nothing.
const PART_BYTES_MIN: usize = 6;

impl Redactor {
    /// Never shows this word.
    pub(crate) fn hide(&mut self, word: &str) {
        if word.is_empty() || self.words.iter().any(|known| known == word) {
            return;
        }
        // As it stands, and as others write it down.
        for form in hidden::forms(word) {
            if form == word || form.len() >= PART_BYTES_MIN {
                self.words.push(form);
            }
        }
        self.words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    }

    /// Never shows what a proxy is told of who we are.
    pub(crate) fn hide_credentials(&mut self, url: &reqwest::Url) {
        let Some(password) = url.password() else { return };
        for form in hidden::forms(password) {
            self.hide(&form);
            for user in hidden::forms(url.username()) {
                // What is sent is made of both without the escapes of the URL; `hide` knows its base64.
                self.hide(&format!("{user}:{form}"));
            }
        }
    }

    /// Never shows this URL, nor the parts of it that may be the secret.
    pub(crate) fn hide_url(&mut self, url: &reqwest::Url) {
        self.hide(url.as_str());
        if url.path().len() >= PART_BYTES_MIN {
            self.hide(url.path());
        }
        let query = url.query().unwrap_or_default();
        let parts = url.path().split('/').chain(query.split(['&', '=']));
        for part in parts.chain(url.password()).filter(|part| part.len() >= PART_BYTES_MIN) {
            // What every webhook of this kind has is no secret, and answers may speak of it.
            if !matches!(part, "services" | "webhooks" | "enqueue" | "alerts") {
                self.hide(part);
            }
        }
    }

    /// `text` without secrets and control characters, at most `max` characters.
    pub(crate) fn clean(&self, text: &str, max: usize) -> String {
        let mut text = hidden::shown_without(text, &self.words).into_owned();
        // What was cut off in the middle of one begins with it all the same.
        if let Some(at) = hidden::begun_at_end(&self.words, &text) {
            text.truncate(at);
            text.push_str(SHOWN);
        }
        let mut out = String::new();
        let mut space = false;
        let mut count = 0;
        for c in text.trim().chars() {
            if c.is_control() || c.is_whitespace() || crate::deliver::receivers::markup::misleads(c)
            {
                space = true;
                continue;
            }
            if count >= max {
                out.push('…');
                break;
            }
            if std::mem::take(&mut space) && !out.is_empty() {
                out.push(' ');
                count += 1;
            }
            out.push(c);
            count += 1;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn files_are_read_anew_trimmed_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let large = "x".repeat(16 * 1024 + 1);
        let warned = Warned::default();
        let said = || read(&Secret::file(&path), &warned).map_err(|error| error.to_string());
        assert!(said().unwrap_err().starts_with("cannot read the secret in /"));
        for (bytes, want) in [
            (&b" canary\n"[..], Ok("canary")),
            (b"other", Ok("other")),
            (b" \n", Err("must not be empty")),
            (b"canary\nmore", Err("must be one line of text")),
            (b"canary\xff", Err("must be UTF-8")),
            (large.as_bytes(), Err("must be at most 16 KiB")),
        ] {
            fs::write(&path, bytes).unwrap();
            match (said(), want) {
                (Ok(text), Ok(want)) => assert_eq!(text, want),
                (Err(text), Err(want)) => {
                    assert!(text.ends_with(want) && !text.contains("canary"), "{text}");
                }
                (found, want) => panic!("{found:?}, not {want:?}"),
            }
        }
        assert!(read(&Secret::file(dir.path()), &warned).is_err(), "a directory");
    }

    #[test]
    fn a_file_that_others_can_read_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "x").unwrap();
        let warned = Warned::default();
        let reported = |mode: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(read(&Secret::file(&path), &warned).is_ok());
            warned.0.lock().len()
        };
        assert_eq!(
            [reported(0o600), reported(0o400), reported(0o640), reported(0o644)],
            [0, 0, 1, 1]
        );
    }

    #[test]
    fn answers_are_shown_without_secrets_and_control_characters() {
        let mut redactor = Redactor::default();
        redactor.hide("canary");
        redactor.hide("canary-long");
        let url = "https://hooks.example/services/T0/B000000000/cAnAry?token=abcdefg&x=1";
        redactor.hide_url(&reqwest::Url::parse(url).unwrap());
        // One that another part of the program has read.
        hidden::note("hooked");
        redactor.hide("hooked-longer");
        for (text, want) in [
            ("no canary-long here, canary", "no <secret> here, <secret>"),
            ("hooked-longer, hooked", "<secret>, <secret>"),
            ("gone: /services/T0/B000000000/cAnAry", "gone: <secret>"),
            ("B000000000 and abcdefg", "<secret> and <secret>"),
            ("a\r\nlevel=error\u{1b}[2J\u{202e}x", "a level=error [2J x"),
            ("services are down", "services are down"),
            ("", ""),
        ] {
            assert_eq!(redactor.clean(text, 100), want);
        }
        assert_eq!(redactor.clean(&"x".repeat(200), 10), format!("{}…", "x".repeat(10)));
    }
}
