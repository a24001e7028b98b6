//! The secrets that this program has read, so that whatever it shows can be searched for them: a server may say back what it
//! was sent, in an answer, in its own log or in the name of something. They are kept in memory, as the program needs them
//! anyway, and never shown.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine};
use parking_lot::RwLock;

/// What stands for a secret wherever one is shown.
pub(crate) const SHOWN: &str = "<secret>";

/// Longest first, so that no part of one is left over when it holds another.
static WORDS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Notes that this word is never shown, however it is written. One that is so short that texts have it by chance is left out.
pub(crate) fn note(word: &str) {
    if word.len() < WORD_BYTES_MIN {
        return;
    }
    let known = |words: &[String]| words.iter().any(|known| known == word);
    if known(&WORDS.read()) {
        return;
    }
    let mut words = WORDS.write();
    for form in forms(word) {
        // A file that is exchanged all the time must not fill the memory: then the oldest are given up.
        if form.len() >= WORD_BYTES_MIN && !words.contains(&form) {
            if words.len() >= WORDS_MAX {
                words.pop();
            }
            words.push(form);
        }
    }
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
}

/// Notes the value of a header that says who we are: the whole of it, and what stands behind the scheme.
pub(crate) fn note_header(value: &str) {
    note(value);
    let Some((scheme, credentials)) = value.split_once(' ') else { return };
    note(credentials.trim());
    if scheme.eq_ignore_ascii_case("basic")
        && let Ok(plain) = BASE64_STANDARD.decode(credentials.trim())
        && let Ok(plain) = String::from_utf8(plain)
    {
        note(&plain);
        if let Some((_, password)) = plain.split_once(':') {
            note(password);
        }
    }
}

/// `text` with `<secret>` in the place of each word that is never shown.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    shown_without(text, &[])
}

/// The same, and `more` words are not shown either. All of them together are taken longest first: of one that begins with another, the
/// rest would be left over.
pub(crate) fn shown_without<'t>(text: &'t str, more: &[String]) -> Cow<'t, str> {
    let known = WORDS.read();
    let mut words: Vec<&String> = known.iter().chain(more).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut out = Cow::Borrowed(text);
    for word in words {
        if out.contains(word.as_str()) {
            out = Cow::Owned(out.replace(word.as_str(), SHOWN));
        }
    }
    out
}

/// The same for a text that may have been cut: at its end the beginning of a word is no more shown than the whole.
pub(crate) fn shown_cut(text: &str) -> Cow<'_, str> {
    let mut out = shown(text);
    let words = WORDS.read();
    if let Some(at) = begun_at_end(&words, &out) {
        let out = out.to_mut();
        out.truncate(at);
        out.push_str(SHOWN);
    }
    out
}

/// Where the end of `text` is the beginning of one of the words.
pub(crate) fn begun_at_end(words: &[String], text: &str) -> Option<usize> {
    let begun = |word: &String| {
        let begins = word.char_indices().map(|(at, _)| at).filter(|at| *at >= WORD_BYTES_MIN);
        begins.rev().find(|at| text.ends_with(&word[..*at]))
    };
    words.iter().filter_map(begun).max().map(|length| text.len() - length)
}

/// A word as it may be written elsewhere: within JSON or a quoted field, in a URL, and in base64.
pub(crate) fn forms(word: &str) -> Vec<String> {
    let mut forms = vec![word.to_owned(), BASE64_STANDARD.encode(word)];
    let quoted = serde_json::to_string(word).unwrap_or_default();
    forms.extend(
        quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map(str::to_owned),
    );
    let percent = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    forms.push(word.bytes().map(percent).collect());
    forms.extend(percent_decoded(word));
    forms.sort();
    forms.dedup();
    forms
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| str::from_utf8(two).ok());
        let decoded = digits
            .filter(|_| *first == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

/// A shorter one would take the place of other words.
const WORD_BYTES_MIN: usize = 6;
const WORDS_MAX: usize = 4_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_not_shown_in_any_of_its_forms() {
        note("geheim \"7/x\"");
        note("short");
        note_header("Basic dXNlcjphbm90aGVyLW9uZQ=="); // user:another-one
        note_header("Bearer token-of-a-server");
        for (text, want) in [
            ("a geheim \"7/x\" b", "a <secret> b"),
            ("{\"a\":\"geheim \\\"7/x\\\"\"}", "{\"a\":\"<secret>\"}"),
            ("?t=geheim%20%227%2Fx%22&u", "?t=<secret>&u"),
            ("Z2VoZWltICI3L3gi", "<secret>"),
            ("short words stay", "short words stay"),
            ("dXNlcjphbm90aGVyLW9uZQ==", "<secret>"),
            ("said another-one", "said <secret>"),
            ("Bearer token-of-a-server!", "<secret>!"),
            ("got token-of-a-server", "got <secret>"),
        ] {
            assert_eq!(shown(text), want);
        }
        assert_eq!(shown_cut("cut: token-of-a-s"), "cut: <secret>");
        assert_eq!(shown_cut("cut: token"), "cut: token", "too short to say anything");
        assert!(forms("a%3Ab%zz%2").contains(&"a:b%zz%2".to_owned()));
    }
}
