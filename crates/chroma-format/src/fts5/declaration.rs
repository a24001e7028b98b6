//! The statement that made a full-text table.

use alloc::{borrow::ToOwned, string::String, vec::Vec};

use super::Trigrams;

/// A full-text table of the form that is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its name.
    pub table: String,
    /// How its texts become terms.
    pub tokenizer: Trigrams,
}

impl Declaration {
    /// Reads `CREATE VIRTUAL TABLE … USING fts5(column, tokenize='trigram …')` as it stands in the schema; `None` for
    /// everything with another option or column, or spelled in a way that Chroma does not.
    #[must_use]
    pub fn parse(sql: &str) -> Option<Self> {
        let (head, tail) = sql.split_once('(')?;
        let arguments = tail.trim_end().strip_suffix(')')?;
        let words: Vec<&str> = head.split_ascii_whitespace().collect();
        let known = words.len() == HEAD.len()
            && words
                .iter()
                .zip(HEAD)
                .all(|(word, known)| known.is_empty() || word.eq_ignore_ascii_case(known));
        if !known {
            return None;
        }
        let table = name_of(words[HEAD_NAME])?;
        let (column, option) = arguments.split_once(',')?;
        name_of(column.trim())?;
        let (key, value) = option.split_once('=')?;
        if !key.trim().eq_ignore_ascii_case("tokenize") {
            return None;
        }
        let value = value.trim();
        let unquote = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
        let words: Vec<&str> =
            unquote('\'').or_else(|| unquote('"'))?.split_ascii_whitespace().collect();
        let folds = match words.as_slice() {
            ["trigram"] | ["trigram", "case_sensitive", "0"] => true,
            ["trigram", "case_sensitive", "1"] => false,
            _ => return None,
        };
        Some(Self { table: table.to_owned(), tokenizer: Trigrams { folds } })
    }
}

/// A name of letters, digits and underlines, with or without quotes.
fn name_of(word: &str) -> Option<&str> {
    let quoted = |quote| word.strip_prefix(quote)?.strip_suffix(quote);
    let name = quoted('"').or_else(|| quoted('\'')).unwrap_or(word);
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (plain && !name.is_empty()).then_some(name)
}

/// What stands before the arguments; the name at [`HEAD_NAME`].
const HEAD: [&str; 6] = ["CREATE", "VIRTUAL", "TABLE", "", "USING", "fts5"];
const HEAD_NAME: usize = 3;
