//! The runbooks as HTML. They are written in a small part of Markdown: headings, paragraphs, lists, fenced blocks and code in
//! backticks; everything else is text. They are rendered when they are asked for: nothing in them changes.

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
           further, what to do and what not to.</p>\n");
    for (subject, pages) in runbooks::SUBJECTS {
        h.raw("<h2>").raw(subject).raw("</h2>\n<ul class=\"list\">\n");
        for (code, _) in *pages {
            let severity = severity(code);
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
    let known = Code::ALL.iter().find(|known| known.as_str() == code);
    known.map_or("info", |known| known.severity().as_str())
}

/// What a line begins.
enum Line<'a> {
    Blank,
    Heading(usize, &'a str),
    Fence,
    Item { ordered: bool, text: &'a str },
    Text(&'a str),
}

fn line(line: &str) -> Line<'_> {
    let text = line.trim();
    if text.is_empty() {
        Line::Blank
    } else if text.starts_with("```") {
        Line::Fence
    } else if let Some(heading) = text.strip_prefix("### ") {
        Line::Heading(3, heading)
    } else if let Some(heading) = text.strip_prefix("## ") {
        Line::Heading(2, heading)
    } else if let Some(heading) = text.strip_prefix("# ") {
        Line::Heading(1, heading)
    } else if let Some(item) = text.strip_prefix("- ") {
        Line::Item { ordered: false, text: item }
    } else if let Some((number, item)) = text.split_once(". ")
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        Line::Item { ordered: true, text: item }
    } else {
        Line::Text(text)
    }
}

/// What is open while lines come.
#[derive(Default)]
struct Open {
    /// The lines of a paragraph or of an item.
    text: String,
    list: Option<bool>,
}

impl Open {
    fn flush(&mut self, h: &mut Html) {
        if self.text.is_empty() {
            return;
        }
        h.raw(if self.list.is_some() { "<li>" } else { "<p>" });
        inline(h, &std::mem::take(&mut self.text));
        h.raw(if self.list.is_some() { "</li>\n" } else { "</p>\n" });
    }

    fn end(&mut self, h: &mut Html) {
        self.flush(h);
        if let Some(ordered) = self.list.take() {
            h.raw(if ordered { "</ol>\n" } else { "</ul>\n" });
        }
    }

    fn push(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(text);
    }
}

fn blocks(h: &mut Html, text: &str) {
    let mut open = Open::default();
    let mut lines = text.lines();
    let mut code_blocks = 0;
    while let Some(this) = lines.next() {
        match line(this) {
            Line::Blank => open.end(h),
            Line::Heading(level, heading) => {
                open.end(h);
                // Alerts link to their sections.
                if heading.starts_with("Chroma")
                    && heading.bytes().all(|b| b.is_ascii_alphanumeric())
                {
                    h.raw("<h2 id=\"").text(&heading.to_lowercase()).raw("\">");
                } else {
                    h.raw(["<h1>", "<h2>", "<h3>"][level - 1]);
                }
                inline(h, heading);
                h.raw(["</h1>\n", "</h2>\n", "</h3>\n"][level - 1]);
            }
            Line::Fence => {
                open.end(h);
                code_blocks += 1;
                let code: Vec<&str> = lines
                    .by_ref()
                    .take_while(|line| !line.trim_start().starts_with("```"))
                    .collect();
                fenced(h, &code, code_blocks);
            }
            Line::Item { ordered, text } => {
                open.flush(h);
                if open.list != Some(ordered) {
                    open.end(h);
                    h.raw(if ordered { "<ol>\n" } else { "<ul>\n" });
                    open.list = Some(ordered);
                }
                open.push(text);
            }
            Line::Text(text) => open.push(text),
        }
    }
    open.end(h);
}

fn fenced(h: &mut Html, lines: &[&str], number: usize) {
    let id = number.to_string();
    h.raw("<div class=\"cmd\"><pre><code id=\"c").text(&id).raw("\">");
    for (place, line) in lines.iter().enumerate() {
        h.raw(if place > 0 { "\n" } else { "" }).text(line);
    }
    h.raw("</code></pre>");
    copy_button(h, &id, |h| {
        h.raw(" block ").show(number);
    });
    h.raw("</div>\n");
}

/// Text with code in backticks.
pub(super) fn inline(h: &mut Html, text: &str) {
    let mut code = false;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`') {
        h.text(before);
        // One without a partner is text.
        if !code && !after.contains('`') {
            h.raw("`");
        } else {
            h.raw(if code { "</code>" } else { "<code>" });
            code = !code;
        }
        rest = after;
    }
    h.text(rest);
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
            ("- a\n- b\n1. c", "<ul><li>a</li><li>b</li></ul><ol><li>c</li></ol>"),
            ("a ` b <i>", "<p>a ` b &lt;i&gt;</p>"),
            ("`a` and `<b>`", "<p><code>a</code> and <code>&lt;b&gt;</code></p>"),
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
            for tag in ["p", "li", "ol", "ul", "code", "pre", "h2"] {
                let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
                let opened =
                    body.matches(&open).count() + body.matches(&format!("<{tag} ")).count();
                assert_eq!(opened, body.matches(&close).count(), "{code}: {tag}");
            }
        }
        assert_eq!(page("hot_journal.md"), page("hot_journal"));
        for unknown in ["", ".md", "nothing", "../Cargo.toml", "HOT_JOURNAL", "<script>"] {
            assert_eq!(page(unknown), None, "{unknown}");
        }
    }
}
