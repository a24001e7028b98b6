//! How far words are from each other, for "did you mean".

/// Changes (insertion, deletion, replacement, exchange of neighbours) that make `b` of `a`; `None` when `a` is longer than
/// any word of ours.
pub(crate) fn distance(a: &str, b: &str) -> Option<usize> {
    (a.chars().count() <= WORD_CHARS_MAX).then(|| strsim::osa_distance(a, b))
}

/// Those of `known` that somebody may have meant who wrote `meant`, the nearest first, six at most. Both are told apart by
/// `key` of them.
pub(crate) fn nearest<'a>(
    meant: &str,
    known: impl Iterator<Item = &'a str>,
    key: impl Fn(&str) -> String,
) -> Vec<&'a str> {
    let meant = key(meant);
    let mut near: Vec<(usize, &str)> = known
        .filter_map(|word| {
            let known = key(word);
            let changes = distance(&meant, &known)?;
            let alike = changes <= known.len() / 3;
            let part = meant.len() > 2 && (known.contains(&meant) || meant.contains(&known));
            let rank = if known.starts_with(&meant) { 0 } else { 1 + changes };
            (alike || part).then_some((rank, word))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().take(NEAR_MAX).map(|(_, word)| word).collect()
}

const NEAR_MAX: usize = 6;

const WORD_CHARS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted() {
        for (a, b, want) in [
            ("", "", Some(0)),
            ("abc", "abc", Some(0)),
            ("abc", "ab", Some(1)),
            ("ab", "abc", Some(1)),
            ("abc", "axc", Some(1)),
            ("abc", "acb", Some(1)),
            ("abc", "xyz", Some(3)),
            (&"x".repeat(41), "x", None),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}
