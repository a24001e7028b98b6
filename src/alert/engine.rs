//! Which alerts stand where. One owner keeps an [`Engine`] and feeds it every snapshot; what changes comes back as events,
//! and what must survive a restart as rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    message::Alert,
    rule::{Found, On, Rule, judge},
    step::{Condition, State, Transition, step},
};
use crate::{
    clock::Timestamp,
    findings::{Code, conflicts},
    human,
    sample::{HEALTH, Reading, Snapshot, StoreReadings},
};

/// A store that has been gone from the snapshots for this long is watched no more, and its alerts end.
pub const FORGET_AFTER: Duration = Duration::from_mins(15);

/// Store and rule.
pub type Key = (Arc<str>, Arc<str>);

/// An alert that is pending or fires; inactive ones are not kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tracked {
    /// Where it stands.
    pub state: State,
    /// What was said of it last.
    pub alert: Alert,
}

/// What changed for whoever must be told. The alert is as it stands now.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An episode began.
    Fired(Alert),
    /// It is graver than before.
    Escalated(Alert),
    /// Its repair was tried on a copy.
    Tried(Alert),
    /// It ended.
    Resolved(Alert),
}

/// What a run of [`Engine::evaluate`] gave.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// In the order of stores and rules.
    pub events: Vec<Event>,
    /// The keys whose state must be written down anew; one that is no longer tracked is to be removed.
    pub touched: BTreeSet<Key>,
}

/// Whether one of them is about how runs of collectors fare.
fn are_of_runs(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| match &rule.on {
        On::Finding(_) => false,
        On::Series(level) => HEALTH.iter().any(|desc| desc.name == &*level.series),
    })
}

fn says_the_same(a: &Arc<Reading>, b: &Arc<Reading>) -> bool {
    Arc::ptr_eq(a, b) || a.observation.says_the_same(&b.observation)
}

/// All rules over all stores.
#[derive(Debug, Default)]
pub struct Engine {
    rules: Vec<Rule>,
    runbooks: String,
    tracked: BTreeMap<Key, Tracked>,
    /// The readings that were judged last. Most snapshots differ from the one before in one reading of one store.
    judged: BTreeMap<Arc<str>, Vec<Arc<Reading>>>,
    absent: BTreeMap<Arc<str>, Timestamp>,
    /// Whether a rule is about how runs of collectors fare, which differs in each run.
    of_runs: bool,
}

impl Engine {
    /// `tracked` is what was written down before a restart; `runbooks` is what links to runbooks begin with; empty
    /// for none.
    #[must_use]
    pub fn new(rules: Vec<Rule>, runbooks: &str, tracked: BTreeMap<Key, Tracked>) -> Self {
        let of_runs = are_of_runs(&rules);
        Self { rules, runbooks: runbooks.to_owned(), tracked, of_runs, ..Self::default() }
    }

    /// Takes in what was written down before a restart and comes late. An alert that is tracked by now stays as it is.
    pub fn resume(&mut self, tracked: BTreeMap<Key, Tracked>) {
        for (key, tracked) in tracked {
            self.tracked.entry(key).or_insert(tracked);
        }
        self.judged.clear();
    }

    /// Puts other rules into force; the next evaluation looks at every store.
    pub fn set_rules(&mut self, rules: Vec<Rule>, runbooks: &str) {
        self.of_runs = are_of_runs(&rules);
        self.rules = rules;
        runbooks.clone_into(&mut self.runbooks);
        self.judged.clear();
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// All alerts that are pending or fire.
    #[must_use]
    pub fn tracked(&self) -> &BTreeMap<Key, Tracked> {
        &self.tracked
    }

    /// The alerts that fire.
    pub fn firing(&self) -> impl Iterator<Item = &Alert> {
        self.tracked.values().filter(|t| t.state.firing()).map(|t| &t.alert)
    }

    /// Whether time alone can change something: a hold or a `keep_firing_for` is running, or a store is gone.
    #[must_use]
    pub fn waits_for_time(&self) -> bool {
        !self.absent.is_empty()
            || self.tracked.iter().any(|((_, name), tracked)| match tracked.state {
                State::Pending { .. } => true,
                State::Firing { .. } => self
                    .rules
                    .iter()
                    .any(|rule| rule.name == *name && !rule.keep_firing_for.is_zero()),
                State::Inactive => false,
            })
    }

    /// Judges `snapshot`. A repeated call with the same arguments changes nothing.
    pub fn evaluate(&mut self, snapshot: &Snapshot, now: Timestamp) -> Evaluated {
        let mut out = Evaluated::default();
        for store in &snapshot.stores {
            self.absent.remove(&store.store);
            let timed = self.tracked.range(first_of(&store.store)..).next();
            let timed = timed.is_some_and(|((name, _), _)| *name == store.store);
            let before = self.judged.get(&store.store).map_or(&[][..], Vec::as_slice);
            let pairs = || before.iter().zip(&store.readings);
            let as_many = before.len() == store.readings.len() && !before.is_empty();
            if as_many && !timed && pairs().all(|(a, b)| Arc::ptr_eq(a, b)) {
                continue;
            }
            let same = as_many && !timed && !self.of_runs;
            let same = same && pairs().all(|(a, b)| says_the_same(a, b));
            // Those before are let go.
            self.judged.insert(Arc::clone(&store.store), store.readings.clone());
            if same {
                continue;
            }
            for place in 0..self.rules.len() {
                self.advance(place, store, now, &mut out);
            }
        }
        self.end_what_is_gone(snapshot, now, &mut out);
        out
    }

    fn advance(
        &mut self,
        place: usize,
        store: &StoreReadings,
        now: Timestamp,
        out: &mut Evaluated,
    ) {
        let rule = &self.rules[place];
        let key: Key = (Arc::clone(&store.store), Arc::clone(&rule.name));
        let was = self.tracked.get(&key).map_or(State::Inactive, |tracked| tracked.state);
        let (condition, found) = judge(rule, store, was.firing());
        let (state, transition) = step((rule.hold, rule.keep_firing_for), condition, was, now);
        if state == State::Inactive && was == State::Inactive {
            return;
        }
        if transition == Some(Transition::Resolved) || state == State::Inactive {
            if let Some(tracked) = self.tracked.remove(&key)
                && transition == Some(Transition::Resolved)
            {
                let of_content = matches!(rule.on, On::Finding(_));
                let done = done_since(store, &tracked.alert).filter(|_| of_content);
                let done = done.unwrap_or_default();
                out.events.push(Event::Resolved(Alert { ended: Some(now), done, ..tracked.alert }));
            }
            out.touched.insert(key);
            return;
        }
        let before = self.tracked.get(&key).map(|tracked| tracked.alert.severity);
        let tried_before = self.tracked.get(&key).is_some_and(|t| !t.alert.tried.is_empty());
        if let Some(found) = found.filter(|_| condition == Condition::Bad) {
            let since = match state {
                State::Pending { since } | State::Firing { since, .. } => since,
                State::Inactive => now,
            };
            let alert = self.alert(rule, store, found, since);
            let severity = alert.severity;
            match transition {
                Some(Transition::Fired) => out.events.push(Event::Fired(alert.clone())),
                _ if state.firing() && before.is_some_and(|before| before < severity) => {
                    out.events.push(Event::Escalated(alert.clone()));
                }
                _ if state.firing() && !tried_before && !alert.tried.is_empty() => {
                    out.events.push(Event::Tried(alert.clone()));
                }
                _ => {}
            }
            let changed = std::mem::discriminant(&state) != std::mem::discriminant(&was)
                || before != Some(severity)
                || tried_before == alert.tried.is_empty();
            if changed {
                out.touched.insert(key.clone());
            }
            self.tracked.insert(key, Tracked { state, alert });
        } else if let Some(tracked) = self.tracked.get_mut(&key) {
            tracked.state = state;
        }
    }

    fn alert(&self, rule: &Rule, store: &StoreReadings, found: Found, since: Timestamp) -> Alert {
        let code = match &rule.on {
            On::Finding(code) => Some(*code),
            On::Series(level) => level.code,
        };
        let path: &Path = &store.path;
        // A path alone leads nowhere from a message.
        let runbook = |code: Code| match &*self.runbooks {
            "" => String::new(),
            base => format!("{base}/{}", code.runbook()),
        };
        let present = || {
            conflicts::present(
                store.readings.iter().flat_map(|reading| &reading.observation.findings),
            )
        };
        let remedy = |code: Code| {
            let alone = found.remedy.unwrap_or_else(|| code.template().into()).at(path);
            conflicts::ordered(code, alone, &present())
        };
        Alert {
            name: rule.name.to_string(),
            severity: found.severity,
            store: store.store.to_string(),
            path: path.to_string_lossy().into_owned(),
            summary: rule.summary.to_string(),
            evidence: found.evidence,
            count: found.count,
            reading: found.number,
            cause: code.map(|code| code.cause().to_owned()).unwrap_or_default(),
            code: code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
            items: found.items,
            remedy: code.map(remedy).unwrap_or_default(),
            runbook: code.map(runbook).unwrap_or_default(),
            labels: rule.labels.clone(),
            since,
            stands_since: found.stands_since,
            ended: None,
            done: String::new(),
            tried: code.and_then(|code| tried(store, code)).unwrap_or_default(),
            episode: episode(&store.store, &rule.name, since),
            known: false,
            merged: 0,
        }
    }

    /// Ends what a change of the configuration left behind, and what is about stores that are watched no more.
    fn end_what_is_gone(&mut self, snapshot: &Snapshot, now: Timestamp, out: &mut Evaluated) {
        let stores: BTreeSet<&str> = snapshot.stores.iter().map(|store| &*store.store).collect();
        self.judged.retain(|store, _| stores.contains(&**store));
        let rules: BTreeSet<&str> = self.rules.iter().map(|rule| &*rule.name).collect();
        let mut gone = Vec::new();
        for key in self.tracked.keys() {
            let (store, rule) = (&key.0, &*key.1);
            let store_gone = !stores.contains(&**store) && {
                let since = self.absent.entry(Arc::clone(store)).or_insert(now);
                *since = (*since).min(now);
                now.since(*since) >= FORGET_AFTER
            };
            if store_gone || !rules.contains(rule) {
                gone.push(key.clone());
            }
        }
        for key in gone {
            if let Some(tracked) = self.tracked.remove(&key) {
                if tracked.state.firing() {
                    let mut alert = Alert { ended: Some(now), ..tracked.alert };
                    if !stores.contains(&*key.0) {
                        // Nobody has seen that it is over.
                        NOT_WATCHED.clone_into(&mut alert.evidence);
                    }
                    out.events.push(Event::Resolved(alert));
                }
                out.touched.insert(key);
            }
        }
        let tracked = &self.tracked;
        self.absent.retain(|store, _| {
            !stores.contains(&**store) && tracked.keys().any(|(name, _)| name == store)
        });
    }
}

/// What came of trying the repair of a finding with this code on a copy.
fn tried(store: &StoreReadings, code: Code) -> Option<String> {
    let trial = store.trial.as_ref().filter(|trial| trial.is_about(code.as_str()))?;
    Some(trial.words())
}

/// What was put in place of the store since what the alert tells was first there.
fn done_since(store: &StoreReadings, alert: &Alert) -> Option<String> {
    let since = alert.stands_since.map_or(alert.since, |stands| stands.min(alert.since));
    let restores = store.readings.iter().flat_map(|reading| &reading.observation.restores);
    let last = restores.filter(|one| !one.undone && one.at >= since).max_by_key(|one| one.at)?;
    let (what, at, kept) = (&last.what, human::moment(last.at), last.kept.display());
    Some(human::plain(&format!("{what}, {at}. The old content is in {kept}.")))
}

/// What is said of an alert that ends with its store.
const NOT_WATCHED: &str = "the store is not watched any more; whether this is over is not known";

/// Less than every key of the store.
fn first_of(store: &Arc<str>) -> Key {
    (Arc::clone(store), "".into())
}

/// Identifies an episode for good: the same store and rule do not begin twice in one nanosecond.
fn episode(store: &str, rule: &str, since: Timestamp) -> String {
    let mut hash = Sha256::new();
    for part in [store.as_bytes(), b"\0", rule.as_bytes(), b"\0"] {
        hash.update(part);
    }
    hash.update(since.as_nanos().to_le_bytes());
    human::hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests;
