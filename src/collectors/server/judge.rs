//! What the answers of a server mean. Functions of values.

use super::ask::{Answer, Asked, Asking, Probe, Silence};
use crate::{
    collectors::CollectError,
    findings::{Code, Finding},
    format::api,
};

/// The verdict of one run.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Whether the server is up, when that is known.
    pub(super) up: Option<bool>,
    pub(super) findings: Vec<Finding>,
    pub(super) problems: Vec<CollectError>,
    /// Codes that were judged, whatever the problems.
    pub(super) judged: Vec<Code>,
}

/// Judges what the server at `url` answered.
pub(super) fn judge(url: &str, asking: &Asking) -> Verdict {
    let mut verdict = Verdict::default();
    let not_asked = |why: &str| CollectError::NotAsked { url: url.to_owned(), why: why.to_owned() };
    let Some(heartbeat) = asking.of(Probe::Heartbeat) else { return verdict };
    match &heartbeat.answer {
        Err(Silence::Ours(words)) => verdict.problems.push(not_asked(words)),
        Err(Silence::Server(words)) => {
            verdict.up = Some(false);
            verdict.judged = vec![Code::ServerUnreachable];
            let evidence = format!("{url} does not answer: {words}");
            verdict.findings.push(Finding::new(Code::ServerUnreachable, "", evidence));
        }
        Ok(Answer { status: 200, body }) if api::is_heartbeat(body) => {
            verdict.up = Some(true);
            verdict.judged = vec![Code::ServerUnreachable];
            judge_reads(url, asking, &mut verdict);
        }
        Ok(Answer { status: status @ 500.., body }) => {
            verdict.up = Some(false);
            verdict.judged = vec![Code::ServerUnreachable];
            let evidence = format!("its heartbeat gives {status}: {}", api::message(body));
            verdict.findings.push(Finding::new(Code::ServerFailing, "heartbeat", evidence));
        }
        Ok(Answer { status: status @ (401 | 403), .. }) => {
            verdict
                .problems
                .push(CollectError::Credentials { url: url.to_owned(), status: *status });
        }
        Ok(Answer { status, .. }) => {
            verdict.problems.push(CollectError::NotChroma { url: url.to_owned(), status: *status });
        }
    }
    verdict
}

fn judge_reads(url: &str, asking: &Asking, verdict: &mut Verdict) {
    let mut failing = Vec::new();
    for asked in &asking.asked {
        let Asked { probe: probe @ (Probe::Tenant | Probe::Read), answer, .. } = asked else {
            continue;
        };
        let what = match probe {
            Probe::Tenant => "reading default_tenant",
            _ => "counting the collections",
        };
        match answer {
            Ok(Answer { status: 200, .. }) => {}
            Ok(Answer { status: status @ 500.., body }) => {
                failing.push(format!("{what} gives {status}: {}", api::message(body)));
            }
            // A route that is not there answers 404 too, with other words.
            Ok(Answer { status: 404, body }) if api::message(body).contains("default_") => {
                failing.push(format!("{what} gives 404: {}", api::message(body)));
            }
            Ok(Answer { status: status @ (401 | 403), .. }) => verdict
                .problems
                .push(CollectError::Credentials { url: url.to_owned(), status: *status }),
            Ok(Answer { status, .. }) => verdict.problems.push(CollectError::OddAnswer {
                url: url.to_owned(),
                what,
                status: *status,
            }),
            Err(Silence::Server(words)) => failing.push(format!("{what}: {words}")),
            Err(Silence::Ours(words)) => verdict
                .problems
                .push(CollectError::NotAsked { url: url.to_owned(), why: words.clone() }),
        }
    }
    if verdict.problems.is_empty() || !failing.is_empty() {
        verdict.judged.push(Code::ServerFailing);
    }
    if !failing.is_empty() {
        let evidence = format!("its heartbeat answers, but {}", failing.join("; "));
        verdict.findings.push(Finding::new(Code::ServerFailing, "", evidence));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::ask::Api, *};

    fn asked(probe: Probe, status: u16, body: &str) -> Asked {
        let answer = Ok(Answer { status, body: body.as_bytes().to_vec() });
        Asked { probe, took: Duration::ZERO, answer }
    }

    fn silent(probe: Probe, why: Silence) -> Asked {
        Asked { probe, took: Duration::ZERO, answer: Err(why) }
    }

    #[test]
    fn each_answer_has_its_meaning() {
        use Probe::{Heartbeat, Read, Tenant};
        const ALIVE: &str = "{\"nanosecond heartbeat\":1}";
        const DAMAGED: &str =
            "{\"error\":\"InternalError\",\"message\":\"(code: 26) file is not a database\"}";
        let alive = || asked(Heartbeat, 200, ALIVE);
        let fine = || asked(Tenant, 200, "{}");
        let slow = || Silence::Server("no answer in time".to_owned());
        let unreachable = Some((Code::ServerUnreachable, "http://h does not answer: refused"));
        let failing = |words| Some((Code::ServerFailing, words));
        for (asked, up, want, problems) in [
            (vec![alive(), fine(), asked(Read, 200, "2")], Some(true), None, 0),
            (
                vec![silent(Heartbeat, Silence::Server("refused".into()))],
                Some(false),
                unreachable,
                0,
            ),
            (vec![silent(Heartbeat, Silence::Ours("dns error".into()))], None, None, 1),
            (
                vec![asked(Heartbeat, 503, "busy")],
                Some(false),
                failing("its heartbeat gives 503: busy"),
                0,
            ),
            (vec![asked(Heartbeat, 401, "")], None, None, 1),
            (vec![asked(Heartbeat, 302, "")], None, None, 1),
            (vec![asked(Heartbeat, 200, "<html>")], None, None, 1),
            (
                vec![alive(), fine(), asked(Read, 500, DAMAGED)],
                Some(true),
                failing(
                    "its heartbeat answers, but counting the collections gives 500: (code: 26) file is not a database",
                ),
                0,
            ),
            (
                vec![alive(), silent(Tenant, slow()), asked(Read, 200, "2")],
                Some(true),
                failing("its heartbeat answers, but reading default_tenant: no answer in time"),
                0,
            ),
            (
                vec![
                    alive(),
                    asked(Tenant, 404, "{\"message\":\"Tenant [default_tenant] not found\"}"),
                ],
                Some(true),
                failing(
                    "its heartbeat answers, but reading default_tenant gives 404: Tenant [default_tenant] not found",
                ),
                0,
            ),
            (vec![alive(), asked(Tenant, 404, "{\"detail\":\"Not Found\"}")], Some(true), None, 1),
            (vec![alive(), asked(Tenant, 403, ""), asked(Read, 403, "")], Some(true), None, 2),
        ] {
            let verdict = judge("http://h", &Asking { api: Api::V2, asked: asked.clone() });
            let found: Vec<_> =
                verdict.findings.iter().map(|f| (f.code, f.evidence.as_str())).collect();
            assert_eq!(found, Vec::from_iter(want), "{asked:?}");
            assert_eq!((verdict.up, verdict.problems.len()), (up, problems), "{asked:?}");
            let judged = verdict.judged.contains(&Code::ServerFailing);
            assert!(!judged || up == Some(true), "a server that was not asked is not acquitted");
        }
    }
}
