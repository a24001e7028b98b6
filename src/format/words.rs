//! How far words are from each other, for "did you mean".

/// Changes (insertion, deletion, replacement, exchange of neighbours) that make `b` of `a`; `None` when `a` is longer than
/// any word of ours.
pub(crate) fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(WORD_CHARS_MAX + 1).collect(), b.chars().collect());
    if a.len() > WORD_CHARS_MAX {
        return None;
    }
    let mut before = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let mut best =
                (row[j] + usize::from(a[i] != b[j])).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                let exchanged: &Vec<usize> = &before;
                best = best.min(exchanged[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied()
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
