//! What the exporter does for the backups of a store by itself: it makes them at their time (`stores[].backup`), and once in a
//! while opens the newest one, whoever made it (`backups.drill`). One store at a time, in turn with other expensive work. What came of
//! it is written down, and the collector of backups tells it.

mod plan;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::plan::{Known, Work, next};
use super::work::when_permitted;
use crate::{
    clock::{self, Timestamp},
    collectors::backups::ledger::{Ledger, Newest, Proof, Run},
    config::BackupJob,
    facts::error::chain,
    format::manifest::Restores,
    repair::{
        backup::{self, Done, Order},
        steps::Steps,
        unpack,
        verify::{self, Verified},
    },
    store::Context,
};

/// Held by whoever makes or opens a backup, or tries a repair on a copy.
pub(crate) type Gate = Arc<Semaphore>;

/// Nobody holds it yet.
pub(crate) fn gate() -> Gate {
    Arc::new(Semaphore::new(1))
}

/// Makes and opens backups of one store until `stop`. What is under way then ends soon and leaves nothing half done.
pub(crate) async fn run(context: Context, gate: Gate, stop: CancellationToken) {
    stop.run_until_cancelled(run_loop(&context, &gate)).await;
}

async fn run_loop(context: &Context, gate: &Gate) {
    let store = &context.store;
    if store.backup.is_none() && (store.backups.globs.is_empty() || store.backups.drill.is_zero()) {
        return;
    }
    let started = clock::now();
    loop {
        // Whoever looks holds the gate, so that a thousand stores look one after the other.
        let Ok(held) = gate.acquire().await else { return };
        let asked = context.clone();
        let next = tokio::task::spawn_blocking(move || next_work(&asked, started)).await;
        let wait = match next {
            Ok(Some((due, work))) => {
                let wait = due.since(clock::now());
                if wait.is_zero() {
                    let at = context.clone();
                    when_permitted(context, "backup", move |steps| carry_out(&at, work, steps))
                        .await;
                }
                wait.clamp(RETRY_SOON, RETRY_AFTER)
            }
            _ => RETRY_AFTER,
        };
        drop(held);
        sleep(wait).await;
    }
}

/// What is next, and when, by what was written down.
fn next_work(context: &Context, started: Timestamp) -> Option<(Timestamp, Work)> {
    let (state, store) = (&context.host.state, &context.store);
    let known = Known {
        job: store.backup.as_ref(),
        drill: store.backups.drill,
        ledger: &Ledger::load(state, &store.subject()),
        newest: Newest::load(state, &store.subject()),
        started,
    };
    next(&known)
}

fn carry_out(context: &Context, work: Work, steps: &Steps) {
    let store = &context.store;
    let mut ledger = Ledger::load(&context.host.state, &store.subject());
    match work {
        Work::Backup(job) => make(context, &job, steps, &mut ledger),
        Work::Drill(newest) => drill(context, &newest, steps, &mut ledger),
    }
    // What was only stopped has not failed.
    if !steps.stopped() {
        ledger.save(&context.host.state, &store.subject());
    }
}

fn make(context: &Context, job: &BackupJob, steps: &Steps, ledger: &mut Ledger) {
    let (name, began) = (&context.store.name, clock::now());
    let order = Order::of_job(job, &context.config.rootfs);
    let result = backup::run(&order, context, steps, began);
    if steps.stopped() {
        return;
    }
    let fault = match &result {
        Ok(done) => what_is_wrong(done),
        Err(error) => chain(error),
    };
    let failing_since = (!fault.is_empty()).then(|| {
        let before = ledger.job.as_ref().and_then(|run| run.failing_since);
        before.unwrap_or(began)
    });
    let after_exit = result.as_ref().ok().and_then(|done| done.after.as_ref()?.code);
    let path = result.as_ref().ok().map(|done| done.path.clone());
    let shown = path.as_ref().map(|path| tracing::field::display(path.display()));
    if fault.is_empty() {
        let records = result.as_ref().map_or(0, |done| done.manifest.records());
        info!(store = %name, path = shown, records, "Backup made and proven.");
    } else {
        warn!(store = %name, path = shown, fault, "The backup failed.");
    }
    if let Ok(done) = &result
        && let Some(stated) = &done.manifest.proof
        && let Ok(made) = Newest::at(&done.path, began)
    {
        let proof = Proof {
            restores: stated.restores,
            at: stated.moment,
            seconds: stated.seconds,
            records: done.manifest.records(),
            losses: done.losses.iter().take(LOSSES_MAX).cloned().collect(),
        };
        ledger.note(&made, proof);
    }
    ledger.job = Some(Run { began, ended: clock::now(), path, fault, failing_since, after_exit });
}

/// Empty when nothing is.
fn what_is_wrong(done: &Done) -> String {
    if !done.is_proven() {
        let losses: Vec<&str> = done.losses.iter().take(LISTED_MAX).map(String::as_str).collect();
        let what = match done.restores() {
            Restores::Unknown => "it could not be told whether it restores",
            _ => "it was made, but it does not restore whole",
        };
        return format!("{what}: {}", losses.join(", "));
    }
    match done.after.as_ref().filter(|ran| !ran.is_well()) {
        Some(ran) => {
            let last = ran.said.lines().rev().find(|line| !line.trim().is_empty());
            format!("the program after it {}: {}", ran.ended, last.unwrap_or("it said nothing"))
        }
        None => String::new(),
    }
}

fn drill(context: &Context, newest: &Newest, steps: &Steps, ledger: &mut Ledger) {
    let now = clock::now();
    let stores = context.config.stores.iter().map(|store| store.seen_path.clone()).collect();
    let fallback = context.config.integrity.scratch_dir.clone();
    let options = verify::Options {
        unpack: unpack::Options {
            fallback: fallback.or_else(|| context.host.state.dir().map(Into::into)),
            stores,
            ..unpack::Options::default()
        },
        ..verify::Options::default()
    };
    let verified = verify::run(&newest.path, &options, steps, now);
    if steps.stopped() {
        return;
    }
    let Verified { restores, took, .. } = verified;
    let records = verified.records();
    let path = newest.path.display();
    if restores == Restores::Whole {
        info!(store = %context.store.name, %path, records, seconds = took.as_secs_f64(), "The newest backup was opened and restores whole.");
    } else {
        warn!(store = %context.store.name, %path, ?restores, losses = ?verified.losses, "The newest backup was opened and does not restore whole.");
    }
    let losses = verified.losses.into_iter().map(|loss| loss.words).take(LOSSES_MAX).collect();
    let proof = Proof { restores, at: now, seconds: took.as_secs_f64(), records, losses };
    ledger.note(newest, proof);
}

/// What has just ended may have made something else due.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// The collector may have found another backup by then.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// So many losses are written down, and so many told in a sentence.
const LOSSES_MAX: usize = 1000;
const LISTED_MAX: usize = 5;
