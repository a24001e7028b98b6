//! Asks the server of a store, where its address is given: a heartbeat, its version, the default tenant, and how many
//! collections there are, and holds that against the directory. The heartbeat alone says nothing of the data: it stays well with the database damaged or gone.
//! Nor do reads say all: a server whose database was deleted goes on reading from the deleted file, which `processes`
//! tells as `store_replaced`.

mod ask;
mod compare;
mod judge;

use std::time::Duration;

pub(crate) use self::ask::know_secrets;
use self::{
    ask::{Api, Asked, Asker, Asking, NotAsked, Probe},
    compare::{Listed, Other},
};
use super::{CollectError, Collector, Pace, Run};
use crate::{
    clock::{self, Timestamp},
    config::{CollectorName, Config, ServerProbe, Store},
    facts::wake::Wake,
    findings::{Code, Finding},
    format::api,
    sample::{Desc, Observation},
    store::Context,
};

static UP: Desc = Desc::gauge(
    "chroma_server_up",
    "Whether the server answers its heartbeat (cached). Absent when it could not be asked.",
);
static SUCCESS: Desc = Desc::gauge(
    "chroma_server_probe_success",
    "Whether the server answered this question with status 200 (cached).",
)
.labelled(&["probe"]);
static DURATION: Desc = Desc::gauge(
    "chroma_server_probe_duration_seconds",
    "Time until the server answered this question, or the wait was given up (cached).",
)
.labelled(&["probe"]);
static STATUS: Desc = Desc::gauge(
    "chroma_server_probe_status",
    "HTTP status of the answer to this question (cached). Absent without an answer.",
)
.labelled(&["probe"]);
static INFO: Desc = Desc::gauge(
    "chroma_server_info",
    "Version that the server reports (cached). Releases from 1.0 on all report 1.0.0.",
)
.labelled(&["version", "api"]);
static COLLECTIONS: Desc = Desc::gauge(
    "chroma_server_collections",
    "Collections of default_database as the server counts them (cached).",
);

pub(super) static DESCS: [&Desc; 6] = [&UP, &SUCCESS, &DURATION, &STATUS, &INFO, &COLLECTIONS];

static CODES: [Code; 3] = [Code::ServerUnreachable, Code::ServerFailing, Code::ServerElsewhere];

/// Whether the server of one store answers, and agrees with its directory.
#[derive(Debug)]
pub struct Server {
    context: Context,
    /// The form of the API that answered last.
    api: Option<Api>,
    /// The version, and when it was asked for.
    version: Option<(Timestamp, String)>,
    /// What the newest comparison with the directory said.
    elsewhere: Option<Elsewhere>,
    /// When databases that are not the default one were last compared.
    others_at: Option<Timestamp>,
    /// It did not answer when it was last asked.
    down: bool,
}

/// The server has something else than the directory.
#[derive(Debug)]
struct Elsewhere {
    finding: Finding,
    /// In a database that is not the default one.
    other: bool,
}

impl Server {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            api: None,
            version: None,
            elsewhere: None,
            others_at: None,
            down: false,
        }
    }

    /// Asks all that is due, on this thread. Errs when nothing could be asked.
    fn ask(&self, probe: &ServerProbe, now: Timestamp) -> Result<Asking, NotAsked> {
        let due = self.version.as_ref().is_none_or(|(at, _)| now.since(*at) >= VERSION_INTERVAL);
        on_this_thread(probe, async |asker| asker.ask(self.api, due).await)
    }

    /// Holds what the server counts against what the directory lists. Both are asked twice when they differ, so that a
    /// collection which is made or deleted in between is no difference.
    fn compare(&mut self, probe: &ServerProbe, asking: &Asking, served: u64, run: &Run) {
        let listed = || compare::listed(&self.context, &run.stop);
        let Some(first) = listed() else { return };
        if first.collections == served {
            self.elsewhere = self.elsewhere.take().filter(|elsewhere| elsewhere.other);
            self.compare_others(probe, asking.api, &first, run);
            return;
        }
        let again = on_this_thread(probe, async |asker| asker.read_again(asking.api).await);
        let again = again.ok().and_then(|asked| counted(&asked));
        if again == Some(served) && listed().as_ref() == Some(&first) {
            let finding = compare::elsewhere(&self.context, &probe.url, served, &first, None);
            self.elsewhere = Some(Elsewhere { finding, other: false });
        }
    }

    /// The same for databases that are not the default one: now and then, for each is a question to the server.
    fn compare_others(&mut self, probe: &ServerProbe, api: Api, listed: &Listed, run: &Run) {
        let recent = |at: &Timestamp| run.now.since(*at) < OTHERS_INTERVAL;
        if self.elsewhere.is_none() && self.others_at.as_ref().is_some_and(recent) {
            return;
        }
        self.others_at = Some(run.now);
        // The first that differs twice, and whether all could be compared.
        let differing = on_this_thread(probe, async |asker| {
            let count = async |other: &Other| {
                counted(&asker.count_of(api, &other.tenant, &other.database).await?)
            };
            let (began, mut all) = (clock::ticks(), true);
            for other in &listed.others {
                // A server that is slow has other work.
                if run.stopped() || began.elapsed() >= probe.timeout / 2 {
                    return (None, false);
                }
                match count(other).await {
                    Some(served) if served == other.collections => {}
                    Some(served) => {
                        tokio::time::sleep(ask::AGAIN_AFTER).await;
                        if count(other).await == Some(served) {
                            return (Some((other, served)), all);
                        }
                        all = false;
                    }
                    // A server that may not be asked, or a name that no address of it can hold.
                    None => all = false,
                }
            }
            (None, all)
        });
        match differing {
            Ok((Some((other, served)), _)) => {
                let still = compare::listed(&self.context, &run.stop);
                if still.as_ref() == Some(listed) {
                    let url = &probe.url;
                    let finding =
                        compare::elsewhere(&self.context, url, served, listed, Some(other));
                    self.elsewhere = Some(Elsewhere { finding, other: true });
                }
            }
            Ok((None, true)) => self.elsewhere = None,
            // What was found before stays until it can be compared again.
            Ok((None, false)) | Err(_) => {}
        }
    }

    fn remember(&mut self, asking: &Asking, up: Option<bool>, now: Timestamp) {
        self.down = up == Some(false);
        if up == Some(true) {
            self.api = Some(asking.api);
        } else {
            self.version = None; // another one may come in its place
        }
        if let Some(Asked { answer: Ok(answer), .. }) = asking.of(Probe::Version) {
            self.version = api::version(&answer.body).map(|version| (now, version));
        }
    }
}

impl Server {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, store: &Store) -> Pace {
        let probe = store.server.as_ref();
        Pace {
            interval: probe
                .map_or(super::NOTHING_TO_DO.max(collect.interval), |probe| probe.interval),
            // Every question may take its full time, some of them twice.
            deadline: probe
                .map_or(collect.deadline, |probe| collect.deadline.max(probe.timeout * 12)),
            wakes: Wake::NONE,
            touches_store: false,
        }
    }
}

impl Collector for Server {
    fn name(&self) -> CollectorName {
        CollectorName::Server
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        if self.context.store.server.is_some() { &CODES } else { &[] }
    }

    fn pace(&self) -> Pace {
        let rest = Self::at_rest(&self.context.config, &self.context.store);
        let interval = if self.down { rest.interval.min(AGAIN_DOWN) } else { rest.interval };
        Pace { interval, ..rest }
    }

    fn collect(&mut self, run: &Run) -> Observation {
        let mut out = Observation::default();
        let Some(probe) = self.context.store.server.clone() else { return out };
        let asking = match self.ask(&probe, run.now) {
            Ok(asking) => asking,
            Err(why) => {
                let why = why.to_string();
                out.problems.push(CollectError::NotAsked { url: probe.url.clone(), why });
                return out;
            }
        };
        let verdict = judge::judge(&probe.url, &asking);
        self.remember(&asking, verdict.up, run.now);
        out.samples.extend(verdict.up.map(|up| UP.sample(f64::from(u8::from(up)))));
        for Asked { probe, took, answer } in &asking.asked {
            let label = || vec![probe.as_str().into()];
            let status = answer.as_ref().ok().map(|answer| answer.status);
            out.samples.push(SUCCESS.with(label(), f64::from(u8::from(status == Some(200)))));
            out.samples.push(DURATION.with(label(), took.as_secs_f64()));
            out.samples.extend(status.map(|status| STATUS.with(label(), f64::from(status))));
        }
        if let Some((_, version)) = &self.version {
            out.samples
                .push(INFO.with(vec![version.clone().into(), asking.api.as_str().into()], 1.0));
        }
        let count = asking.of(Probe::Read).and_then(counted);
        out.samples.extend(count.map(|count| COLLECTIONS.sample(count as f64)));
        match count {
            Some(count) => self.compare(&probe, &asking, count, run),
            // Another one may come in its place.
            None if verdict.up == Some(false) => self.elsewhere = None,
            None => {}
        }
        out.findings = verdict.findings;
        out.findings.extend(self.elsewhere.as_ref().map(|elsewhere| elsewhere.finding.clone()));
        out.problems = verdict.problems;
        out.judged = verdict.judged;
        out
    }
}

/// Runs `questions` to the server. Errs when nothing could be asked.
fn on_this_thread<T>(
    probe: &ServerProbe,
    questions: impl AsyncFnOnce(&Asker) -> T,
) -> Result<T, NotAsked> {
    let asker = Asker::new(probe)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NotAsked::Runtime)?;
    let answers = runtime.block_on(questions(&asker));
    // A name that is still being looked up must not hold up the run.
    runtime.shutdown_background();
    Ok(answers)
}

/// The number in an answer to [`Probe::Read`].
fn counted(asked: &Asked) -> Option<u64> {
    let answer = asked.answer.as_ref().ok().filter(|answer| answer.status == 200)?;
    api::count(&answer.body)
}

/// It changes with a restart only, which the heartbeat nearly always notices.
const VERSION_INTERVAL: Duration = Duration::from_mins(10);

/// How often databases that are not the default one are compared.
const OTHERS_INTERVAL: Duration = Duration::from_mins(10);

/// How soon a server that did not answer is asked again: several times within the hold of the alert, so that a restart which one
/// question fell into is over before anybody is told.
const AGAIN_DOWN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
