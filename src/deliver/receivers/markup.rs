//! From pieces of text to the markup of one kind of receiver, within a limit. Names come from disks and databases: whatever
//! they hold, they page nobody, link nowhere, and break out of no code span. Pure.

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// As it stands.
    Text(String),
    /// Emphasised.
    Strong(String),
    /// A name, a path, a series.
    Code(String),
    /// What somebody copies and runs; stands in lines of its own.
    Block(String),
    /// A link, or the text with the address when it is none that can be followed.
    Link(&'static str, String),
}

/// A line of pieces.
pub(crate) type Line = Vec<Piece>;

/// What a kind of receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Nothing.
    Plain,
    /// Slack's mrkdwn.
    Slack,
    /// Rocket.Chat's; like Slack's, without its escapes.
    RocketChat,
    /// Markdown of Mattermost and Discord.
    Markdown,
    /// HTML of e-mails; a line ends with a line feed all the same.
    Html,
}

/// Length as the strictest of them counts it: UTF-16 units.
pub(crate) fn length(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Whether a character makes text look like other text: marks of direction, and what nobody sees.
pub(crate) fn misleads(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The lines, one below the other, at most `max` long. A line that does not fit is left out whole, so that no code
/// span, link or command is cut; `…` stands for what is missing.
pub(crate) fn render(lines: &[Line], dialect: Dialect, max: usize) -> String {
    let mut out = String::new();
    let mut left_out = false;
    for line in lines.iter().filter(|line| !line.is_empty()) {
        let text = rendered(line, dialect);
        let gap = usize::from(!out.is_empty());
        // Two more for the mark of what is left out.
        if length(&out) + gap + length(&text) + 2 > max {
            left_out = true;
            continue;
        }
        if gap > 0 {
            out.push('\n');
        }
        out.push_str(&text);
    }
    if left_out && length(&out) + 2 <= max {
        out.push_str(if out.is_empty() { "…" } else { "\n…" });
    }
    out
}

/// `text` escaped, at most `max` long.
pub(crate) fn escape(text: &str, dialect: Dialect, max: usize) -> String {
    capped(text, max, |c, before, next, out| {
        let c = visible(c);
        match dialect {
            Dialect::Plain => out.push(c),
            Dialect::Slack => match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                _ => out.push(unmarked(c, before, next)),
            },
            Dialect::Html => entity(c, out),
            Dialect::RocketChat => match c {
                '[' => out.push('［'),
                ']' => out.push('］'),
                '@' | '#' => out.extend([c, '\u{200b}']),
                '<' => out.push('‹'),
                _ => out.push(unmarked(c, before, next)),
            },
            Dialect::Markdown => match c {
                '@' => out.extend([c, '\u{200b}']),
                '\\' | '`' | '*' | '_' | '~' | '[' | ']' | '<' | '>' | '#' | '|' | '!' => {
                    out.extend(['\\', c]);
                }
                _ => out.push(c),
            },
        }
    })
}

fn entity(c: char, out: &mut String) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        _ => out.push(c),
    }
}

/// Look-alikes of the characters that Slack takes for markup and knows no escape for.
fn unmarked(c: char, before: Option<char>, next: Option<char>) -> char {
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    match c {
        '`' => 'ˋ',
        '*' => '∗',
        '~' => '∼',
        // In the middle of a word, as in the names of series, it marks nothing.
        '_' if !(inside(before) && inside(next)) => '＿',
        _ => c,
    }
}

fn visible(c: char) -> char {
    match c {
        _ if c.is_control() => ' ',
        _ if misleads(c) => '\u{fffd}',
        _ => c,
    }
}

/// Text of a code span or block: only what ends it, and what lives even inside, is changed.
fn code(text: &str, dialect: Dialect, max: usize) -> String {
    capped(text, max, |c, _, _, out| match (visible(c), dialect) {
        (c, Dialect::Html) => entity(c, out),
        ('`', _) => out.push('ˋ'),
        ('&', Dialect::Slack) => out.push_str("&amp;"),
        ('<', Dialect::Slack) => out.push_str("&lt;"),
        ('>', Dialect::Slack) => out.push_str("&gt;"),
        (c, _) => out.push(c),
    })
}

/// What `put` makes of each character, cut before the limit at a whole one.
fn capped(
    text: &str,
    max: usize,
    put: impl Fn(char, Option<char>, Option<char>, &mut String),
) -> String {
    let mut out = String::new();
    let mut one = String::new();
    let mut used = 0;
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        one.clear();
        put(c, before, chars.peek().copied(), &mut one);
        let room = max - usize::from(chars.peek().is_some()).min(max);
        if used + length(&one) > room {
            if used < max {
                out.push('…');
            }
            break;
        }
        used += length(&one);
        out.push_str(&one);
        before = Some(c);
    }
    out
}

fn rendered(line: &Line, dialect: Dialect) -> String {
    let mut out = String::new();
    for piece in line {
        match piece {
            Piece::Text(text) => out.push_str(&escape(text, dialect, PIECE_MAX)),
            Piece::Strong(text) => {
                let (open, close) = match dialect {
                    Dialect::Plain => ("", ""),
                    Dialect::Slack | Dialect::RocketChat => ("*", "*"),
                    Dialect::Markdown => ("**", "**"),
                    Dialect::Html => ("<b>", "</b>"),
                };
                out.extend([open, escape(text.trim(), dialect, PIECE_MAX).as_str(), close]);
            }
            Piece::Code(text) => {
                let text = code(text.trim(), dialect, PIECE_MAX);
                let (open, close) = match dialect {
                    Dialect::Plain => ("", ""),
                    _ if text.is_empty() => ("", ""),
                    Dialect::Html => ("<code>", "</code>"),
                    Dialect::Slack | Dialect::RocketChat | Dialect::Markdown => ("`", "`"),
                };
                out.extend([open, text.as_str(), close]);
            }
            Piece::Block(text) => {
                let whole = code(text.trim(), dialect, usize::MAX);
                // Half a command is another command.
                let text = if length(&whole) > PIECE_MAX { ELSEWHERE.to_owned() } else { whole };
                let (open, close) = match dialect {
                    Dialect::Plain => ("\n    ", ""),
                    Dialect::Slack => ("\n```", "```"),
                    Dialect::RocketChat | Dialect::Markdown => ("\n```\n", "\n```"),
                    Dialect::Html => ("\n<code>", "</code>"),
                };
                out.extend([
                    if out.is_empty() { open.trim_start_matches('\n') } else { open },
                    text.as_str(),
                    close,
                ]);
            }
            Piece::Link(text, url) => out.push_str(&link(text, url, dialect)),
        }
    }
    out
}

/// Whether it is an address of the web that needs no escape in any markup.
pub(crate) fn is_link(url: &str) -> bool {
    let web = url.starts_with("https://") || url.starts_with("http://");
    let plain = |c: char| {
        c.is_ascii_graphic()
            && !matches!(c, '<' | '>' | '|' | '"' | '\\' | '`' | '(' | ')' | '[' | ']')
    };
    web && url.len() <= PIECE_MAX && url.chars().all(plain)
}

fn link(text: &str, url: &str, dialect: Dialect) -> String {
    if !is_link(url) {
        return format!("{text}: {}", rendered(&vec![Piece::Code(url.to_owned())], dialect));
    }
    match dialect {
        Dialect::Plain => format!("{text}: {url}"),
        Dialect::Slack => format!("<{}|{text}>", url.replace('&', "&amp;")),
        Dialect::RocketChat | Dialect::Markdown => format!("[{text}]({url})"),
        Dialect::Html => format!("<a href=\"{}\">{text}</a>", url.replace('&', "&amp;")),
    }
}

/// Prints the command that has no room in a message.
const ELSEWHERE: &str = "chroma_exporter check";

/// No piece of a message is longer, escapes included.
const PIECE_MAX: usize = 700;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Dialect; 5] =
        [Dialect::Plain, Dialect::Slack, Dialect::RocketChat, Dialect::Markdown, Dialect::Html];

    #[test]
    fn names_page_nobody_and_mark_nothing() {
        for (text, slack, markdown) in [
            ("<!channel>", "&lt;!channel&gt;", "\\<\\!channel\\>"),
            (
                "<@U123> & <http://x|y>",
                "&lt;@U123&gt; &amp; &lt;http://x|y&gt;",
                "\\<@\u{200b}U123\\> & \\<http://x\\|y\\>",
            ),
            ("@channel", "@channel", "@\u{200b}channel"),
            ("*a* _b_ ~c~ `d`", "∗a∗ ＿b＿ ∼c∼ ˋdˋ", "\\*a\\* \\_b\\_ \\~c\\~ \\`d\\`"),
            ("chroma_disk_used_ratio", "chroma_disk_used_ratio", "chroma\\_disk\\_used\\_ratio"),
            ("a\nb\u{202e}c", "a b\u{fffd}c", "a b\u{fffd}c"),
        ] {
            assert_eq!(escape(text, Dialect::Slack, 100), slack);
            assert_eq!(escape(text, Dialect::Markdown, 100), markdown);
            assert!(!escape(text, Dialect::Plain, 100).contains('\n'));
        }
        let name = vec![Piece::Code("a`<!here>```b".into())];
        assert_eq!(
            render(std::slice::from_ref(&name), Dialect::Slack, 100),
            "`aˋ&lt;!here&gt;ˋˋˋb`"
        );
        assert_eq!(render(&[name], Dialect::Markdown, 100), "`aˋ<!here>ˋˋˋb`");
    }

    #[test]
    fn links_lead_where_the_operator_said_and_nowhere_else() {
        for (url, slack, markdown) in [
            (
                "https://x/y?a=1&b=2",
                "<https://x/y?a=1&amp;b=2|Runbook>",
                "[Runbook](https://x/y?a=1&b=2)",
            ),
            ("runbooks/a.md", "Runbook: `runbooks/a.md`", "Runbook: `runbooks/a.md`"),
            (
                "javascript:alert(1)",
                "Runbook: `javascript:alert(1)`",
                "Runbook: `javascript:alert(1)`",
            ),
            (
                "https://x/>|<!here>",
                "Runbook: `https://x/&gt;|&lt;!here&gt;`",
                "Runbook: `https://x/>|<!here>`",
            ),
        ] {
            let line = [vec![Piece::Link("Runbook", url.into())]];
            assert_eq!(render(&line, Dialect::Slack, 200), slack);
            assert_eq!(render(&line, Dialect::Markdown, 200), markdown);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let lines = [
            vec![Piece::Text("first".into())],
            vec![Piece::Block("x".repeat(50))],
            vec![Piece::Text("last".into())],
        ];
        assert_eq!(render(&lines, Dialect::Slack, 20), "first\nlast\n…");
        let long = [vec![Piece::Block("x".repeat(PIECE_MAX + 1))]];
        assert_eq!(render(&long, Dialect::Slack, 9999), "```chroma_exporter check```");
        assert_eq!(escape("&&&", Dialect::Slack, 11), "&amp;&amp;…");
        assert_eq!(escape("&&", Dialect::Slack, 10), "&amp;&amp;");
        assert_eq!(escape("abc", Dialect::Plain, 3), "abc");
        assert_eq!(escape("abcd", Dialect::Plain, 3), "ab…");
    }

    proptest! {
        #[test]
        fn limits_hold_for_any_text(text in "\\PC{0,80}|[<>&`*_~@!|\\[\\]()\u{1F600}\n]{0,80}", max in 0_usize..60) {
            for dialect in ALL {
                prop_assert!(length(&escape(&text, dialect, max)) <= max);
                let lines = [vec![Piece::Strong(text.clone()), Piece::Code(text.clone())], vec![Piece::Block(text.clone())]];
                let out = render(&lines, dialect, max);
                prop_assert!(length(&out) <= max, "{out}");
                if dialect == Dialect::Slack {
                    prop_assert!(!out.contains("<!") && !out.contains("<@"), "{}", out);
                    prop_assert!(!out.contains('<') && !out.contains('>'), "{}", out);
                }
            }
        }
    }
}
