//! Expensive work for a store beside its collectors: it waits for its turn among all of them, and ends early when nobody waits for it.

use std::{fs, os::unix::fs::MetadataExt};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    host::job_queue::{Size, Wanted},
    repair::steps::Steps,
    store::Context,
};

/// Waits for a turn, and for the end of `work`. When this is dropped, its steps say that it is to stop.
pub(super) async fn when_permitted(
    context: &Context,
    name: &'static str,
    work: impl FnOnce(&Steps) + Send + 'static,
) {
    let steps = Steps::default();
    let _told = StopOnDrop(steps.clone());
    let (done, ended) = oneshot::channel::<()>();
    let flag = steps.flag();
    let device = device(context).await;
    let wanted =
        Wanted { size: Size::Large, device, store: &context.store.name, name, stop: &flag };
    context.host.job_queue.begin(&wanted, move |permit| {
        if permit.is_ok() {
            work(&steps);
        }
        drop(done);
    });
    // It ends with the work, however that ends.
    ended.await.unwrap_or_default();
}

/// The device of the store, as far as it answers: other expensive work on it waits.
async fn device(context: &Context) -> u64 {
    let path = context.store.seen_path.clone();
    let asked = tokio::task::spawn_blocking(move || fs::metadata(path).map(|meta| meta.dev()));
    match timeout(context.config.collect.device_timeout, asked).await {
        Ok(Ok(Ok(device))) => device,
        _ => 0,
    }
}

/// Nobody waits for work that is told to stop.
struct StopOnDrop(Steps);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
