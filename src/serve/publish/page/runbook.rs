//! The runbooks as HTML. They are read by a parser of `CommonMark`; what it finds becomes markup of ours, so that nothing else ever
//! does. They are rendered when they are asked for: nothing in them changes.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::{copy_button, head, markup::Html, tail};
use crate::{findings::Code, runbooks, status::Status};

/// The page of `code`, or that of the alerts about the exporter; `.md` at its end is taken off, because documents name the
/// files. `None` when there is none.
#[must_use]
pub fn page(code: &str) -> Option<String> {
    let code = code.strip_suffix(".md").unwrap_or(code);
    let exporter = ("exporter", runbooks::EXPORTER);
    let (code, text) = runbooks::all().chain([exporter]).find(|(known, _)| *known == code)?;
    let severity = severity(code);
    let status = match severity {
        "critical" => Status::Critical,
        "warning" => Status::Warning,
        _ => Status::Ok,
    };
    let mut h = Html::default();
    head(&mut h, status, &format!("{code} – runbook of chroma_exporter"));
    h.raw("<body>\n<a class=\"skip\" href=\"#text\">Skip to the text</a>\n");
    h.raw("<header class=\"brand\"><nav aria-label=\"Pages\"><a href=\"../\">Status</a> <a href=\"./\">All runbooks</a></nav></header>\n");
    h.raw("<main class=\"doc\" id=\"text\">\n");
    blocks(&mut h, text);
    h.raw("</main>\n");
    tail(&mut h);
    Some(h.into_string())
}

/// All of them by subject.
#[must_use]
pub fn index() -> String {
    let mut h = Html::default();
    head(&mut h, Status::Ok, "Runbooks of chroma_exporter");
    h.raw("<body>\n<header class=\"brand\"><nav aria-label=\"Pages\"><a href=\"../\">Status</a></nav></header>\n");
    h.raw("<main class=\"doc\">\n<h1>Runbooks</h1>\n<p>One page for each finding: what it means, what it does to the data, how to look \
           further, what to do and what not to do.</p>\n");
    for (subject, codes) in runbooks::subjects() {
        h.raw("<h2>").raw(subject).raw("</h2>\n<ul class=\"list\">\n");
        for code in codes {
            let (severity, code) = (code.severity().as_str(), code.as_str());
            h.raw("<li><span class=\"chip ")
                .raw(severity)
                .raw("\">")
                .raw(severity)
                .raw("</span> <a href=\"")
                .raw(code);
            h.raw("\">").raw(code).raw("</a></li>\n");
        }
        h.raw("</ul>\n");
    }
    h.raw("<h2>Alerts about the exporter</h2>\n<ul class=\"list\">\n<li><a href=\"exporter\">exporter</a></li>\n</ul>\n");
    h.raw("</main>\n");
    tail(&mut h);
    h.into_string()
}

fn severity(code: &str) -> &'static str {
    Code::parse(code).map_or("info", |code| code.severity().as_str())
}

/// The page as HTML. Of Markdown everything that `CommonMark` and its tables have; HTML in it is text, because only literals of
/// this program become markup.
fn blocks(h: &mut Html, text: &str) {
    let mut code_blocks = 0;
    // The text of a fenced block, while it is open; the plain text of a heading, whose markup waits for it.
    let mut fence: Option<String> = None;
    let mut heading: Option<(HeadingLevel, Html, String)> = None;
    let mut in_head = false;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        if let Some(code) = &mut fence {
            match event {
                Event::Text(text) => code.push_str(&text),
                Event::End(TagEnd::CodeBlock) => {
                    code_blocks += 1;
                    fenced(h, code.trim_end_matches('\n'), code_blocks);
                    fence = None;
                }
                _ => {}
            }
            continue;
        }
        match event {
            Event::Start(Tag::CodeBlock(_)) => fence = Some(String::new()),
            Event::Start(Tag::Heading { level, .. }) => {
                heading = Some((level, Html::default(), String::new()));
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some((level, words, text)) = heading.take() {
                    heading_of(h, level, &words, &text);
                }
            }
            Event::Start(Tag::TableHead) => {
                in_head = true;
                h.raw("<thead><tr>");
            }
            Event::End(TagEnd::TableHead) => {
                in_head = false;
                h.raw("</tr></thead>\n<tbody>\n");
            }
            Event::Start(Tag::TableCell) => {
                h.raw(if in_head { "<th scope=\"col\">" } else { "<td>" });
            }
            Event::End(TagEnd::TableCell) => drop(h.raw(if in_head { "</th>" } else { "</td>" })),
            event => {
                let to = match &mut heading {
                    Some((_, words, text)) => {
                        if let Event::Text(part) | Event::Code(part) = &event {
                            text.push_str(part);
                        }
                        words
                    }
                    None => &mut *h,
                };
                piece(to, &event);
            }
        }
    }
}

/// Alerts link to their sections.
fn heading_of(h: &mut Html, level: HeadingLevel, words: &Html, text: &str) {
    if text.starts_with("Chroma") && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        h.raw("<h2 id=\"").text(&text.to_lowercase()).raw("\">").add(words).raw("</h2>\n");
        return;
    }
    let [open, close] = match level {
        HeadingLevel::H1 => ["<h1>", "</h1>\n"],
        HeadingLevel::H2 => ["<h2>", "</h2>\n"],
        HeadingLevel::H3 => ["<h3>", "</h3>\n"],
        HeadingLevel::H4 | HeadingLevel::H5 | HeadingLevel::H6 => ["<h4>", "</h4>\n"],
    };
    h.raw(open).add(words).raw(close);
}

/// What is markup wherever it stands.
fn piece(h: &mut Html, event: &Event<'_>) {
    match event {
        Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => drop(h.text(text)),
        Event::Code(text) => drop(h.raw("<code>").text(text).raw("</code>")),
        Event::SoftBreak => drop(h.raw(" ")),
        Event::HardBreak => drop(h.raw("<br>\n")),
        Event::Rule => drop(h.raw("<hr>\n")),
        Event::Start(Tag::Link { dest_url, .. }) => match place(dest_url) {
            Some(place) => drop(h.raw("<a href=\"").text(place).raw("\">")),
            None => drop(h.raw("<a>")),
        },
        Event::Start(tag) => drop(h.raw(opening(tag))),
        Event::End(tag) => drop(h.raw(closing(*tag))),
        // Not asked for, so that they do not come: footnotes, formulas, boxes to tick.
        Event::FootnoteReference(_)
        | Event::InlineMath(_)
        | Event::DisplayMath(_)
        | Event::TaskListMarker(_) => {}
    }
}

/// Where a link of a runbook leads: another one, a place in this page, or a page of the web. Nothing else is followed.
fn place(url: &str) -> Option<&str> {
    let web = url.starts_with("https://") || url.starts_with("http://");
    let ours = url.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.#-".contains(&b));
    (web || ours).then_some(url)
}

const fn opening(tag: &Tag<'_>) -> &'static str {
    match tag {
        Tag::Paragraph => "<p>",
        Tag::BlockQuote(_) => "<blockquote>\n",
        Tag::List(Some(_)) => "<ol>\n",
        Tag::List(None) => "<ul>\n",
        Tag::Item => "<li>",
        Tag::Emphasis => "<em>",
        Tag::Strong => "<strong>",
        Tag::Table(_) => "<div class=\"scroll\" tabindex=\"0\"><table>\n",
        Tag::TableRow => "<tr>",
        _ => "",
    }
}

const fn closing(tag: TagEnd) -> &'static str {
    match tag {
        TagEnd::Paragraph => "</p>\n",
        TagEnd::BlockQuote(_) => "</blockquote>\n",
        TagEnd::List(true) => "</ol>\n",
        TagEnd::List(false) => "</ul>\n",
        TagEnd::Item => "</li>\n",
        TagEnd::Emphasis => "</em>",
        TagEnd::Strong => "</strong>",
        TagEnd::Link => "</a>",
        TagEnd::Table => "</tbody></table></div>\n",
        TagEnd::TableRow => "</tr>\n",
        _ => "",
    }
}

fn fenced(h: &mut Html, code: &str, number: usize) {
    let id = number.to_string();
    h.raw("<div class=\"cmd\"><pre><code id=\"c").text(&id).raw("\">");
    for (place, line) in code.split('\n').enumerate() {
        h.raw(if place > 0 { "\n" } else { "" }).text(line);
    }
    h.raw("</code></pre>");
    copy_button(h, &id, |h| {
        h.raw(" block ").show(number);
    });
    h.raw("</div>\n");
}

/// The text of one or more paragraphs as one line: it stands in a place of its own.
pub(super) fn inline(h: &mut Html, text: &str) {
    let mut first = true;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Paragraph | Tag::Item) => {
                h.raw(if first { "" } else { " " });
                first = false;
            }
            // Links are relative to a page that this is not.
            Event::Start(Tag::List(_) | Tag::CodeBlock(_) | Tag::Link { .. })
            | Event::End(
                TagEnd::Paragraph
                | TagEnd::Item
                | TagEnd::List(_)
                | TagEnd::CodeBlock
                | TagEnd::Link,
            ) => {}
            event => piece(h, &event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut h = Html::default();
        blocks(&mut h, text);
        h.into_string().replace('\n', "")
    }

    #[test]
    fn the_markdown_of_runbooks_becomes_html() {
        for (text, want) in [
            ("# a_b\n\nSeverity: x.", "<h1>a_b</h1><p>Severity: x.</p>"),
            ("one\ntwo\n\nthree", "<p>one two</p><p>three</p>"),
            ("1. a `b`\n   c\n2. d\n\ne", "<ol><li>a <code>b</code> c</li><li>d</li></ol><p>e</p>"),
            ("- a\n- b\n\n1. c", "<ul><li>a</li><li>b</li></ul><ol><li>c</li></ol>"),
            ("a ` b <i>", "<p>a ` b &lt;i&gt;</p>"),
            ("`a` and `<b>`", "<p><code>a</code> and <code>&lt;b&gt;</code></p>"),
            ("*a* **b** seq_id_x \\*", "<p><em>a</em> <strong>b</strong> seq_id_x *</p>"),
            (
                "[`wal`](wal_mode.md) [x](https://x/?a=1&b)",
                "<p><a href=\"wal_mode.md\"><code>wal</code></a> <a href=\"https://x/?a=1&amp;b\">x</a></p>",
            ),
            ("[x](javascript:alert(1)) <script>", "<p><a>x</a> &lt;script&gt;</p>"),
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            (
                "| a | b |\n|---|---|\n| `c` | d |",
                "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">a</th><th scope=\"col\">b</th></tr></thead>\
                 <tbody><tr><td><code>c</code></td><td>d</td></tr></tbody></table></div>",
            ),
            (
                "## ChromaWatchdog\n\n## Chroma is\n\n#### x",
                "<h2 id=\"chromawatchdog\">ChromaWatchdog</h2><h2>Chroma is</h2><h4>x</h4>",
            ),
            ("> a\n\n---", "<blockquote><p>a</p></blockquote><hr>"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
        let code = shown("```sh\na <b>\n  c\n```\nend");
        assert!(
            code.starts_with(
                "<div class=\"cmd\"><pre><code id=\"c1\">a &lt;b&gt;  c</code></pre><button"
            ),
            "{code}"
        );
        assert!(code.ends_with("</button></div><p>end</p>"), "{code}");
    }

    #[test]
    fn every_runbook_is_served_and_leaves_no_mark_behind() {
        let index = index();
        for (code, text) in runbooks::all() {
            let page = page(code).unwrap();
            assert!(index.contains(&format!("href=\"{code}\">{code}</a>")), "{code}");
            assert!(page.contains(&format!("<h1>{code}</h1>")), "{code}");
            let body = page.split("<main").nth(1).unwrap().split("</main>").next().unwrap();
            assert_eq!(body.matches("<pre>").count() * 2, text.matches("```").count(), "{code}");
            assert!(!body.contains("```") && !body.contains("## "), "{code}");
            // What was meant as markup became some: outside of code no mark is left.
            let mut outside = String::new();
            for part in body.split("<code").enumerate().map(|(n, part)| {
                if n == 0 { part } else { part.split_once("</code>").map_or("", |p| p.1) }
            }) {
                outside.push_str(part);
            }
            for mark in ["*", "`", "](", "|"] {
                assert!(!outside.contains(mark), "{code}: {mark} in {outside}");
            }
            for tag in ["p", "li", "ol", "ul", "code", "pre", "h2"] {
                let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
                let opened =
                    body.matches(&open).count() + body.matches(&format!("<{tag} ")).count();
                assert_eq!(opened, body.matches(&close).count(), "{code}: {tag}");
            }
        }
        // Links lead to pages that are there.
        for (code, _) in runbooks::all() {
            for link in page(code).unwrap().split("<main").nth(1).unwrap().split("href=\"").skip(1)
            {
                let to = link.split('"').next().unwrap().split('#').next().unwrap();
                assert!(
                    to.starts_with("https://") || to.is_empty() || page(to).is_some(),
                    "{code}: {to}"
                );
            }
        }
        assert_eq!(page("hot_journal.md"), page("hot_journal"));
        for unknown in ["", ".md", "nothing", "../Cargo.toml", "HOT_JOURNAL", "<script>"] {
            assert_eq!(page(unknown), None, "{unknown}");
        }
    }
}
