//! File events of a store, whatever becomes of its directory.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{DEVICE_ANSWER_AGE_MAX, Workers};
use crate::{
    store::Context,
    watch::{StoreWatch, Wake, WakeSlot, Watches},
};

/// Keeps file events coming: the watch ends with the directory that it was set on, so it is set again when the path
/// leads to another one.
pub(super) async fn keep_watching(
    context: Context,
    watches: Arc<Watches>,
    workers: Workers,
    slots: Vec<Arc<WakeSlot>>,
    stop: CancellationToken,
) {
    let mut current: Option<Watched> = None;
    let mut said = false;
    let context = Arc::new(context);
    while !stop.is_cancelled() {
        let had = current.as_ref().map(|watched| watched.id);
        let ready =
            context.device.ready(DEVICE_ANSWER_AGE_MAX, context.config.collect.device_timeout);
        if stop.run_until_cancelled(ready).await.is_none() {
            break;
        }
        let (context_, watches_, slots_) =
            (Arc::clone(&context), Arc::clone(&watches), slots.clone());
        let before = current.take();
        let found = workers.run(move || rewatch(&context_, &watches_, slots_, before));
        // A filesystem that hangs has this thread; the watch ends with it.
        let Some(Some(found)) = stop.run_until_cancelled(found).await else { return };
        match found {
            Ok(found) => current = found,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    warn!(store = %context.store.name, %error, "File events are not to be had; readings come at their interval only.");
                }
            }
        }
        if let Some(Watched { id, .. }) = &current
            && had != Some(*id)
        {
            said = false;
            for slot in &slots {
                slot.add(Wake::RESCAN);
            }
        }
        context.host.note_watch(&context.store.name, current.is_some());
        let pause = tokio::time::sleep(context.config.collect.interval);
        if stop.run_until_cancelled(pause).await.is_none() {
            break;
        }
    }
    if let Some(Watched { watch, .. }) = current {
        // Nobody waits for it: the filesystem may hang.
        drop(tokio::task::spawn_blocking(move || watch.end()));
    }
}

/// A watch and the directory that it was set on.
struct Watched {
    watch: StoreWatch,
    /// Device and inode.
    id: (u64, u64),
}

/// The watch of the directory that the path leads to now: the one from before where that is the same; `None` when there is
/// no directory, or its filesystem does not answer. Errs when the watch cannot be made.
fn rewatch(
    context: &Context,
    watches: &Watches,
    slots: Vec<Arc<WakeSlot>>,
    before: Option<Watched>,
) -> notify::Result<Option<Watched>> {
    use std::os::unix::fs::MetadataExt;
    let timeout = context.config.collect.device_timeout;
    if context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, timeout).is_err() {
        return Ok(None);
    }
    let id = std::fs::metadata(&context.store.seen_path).ok().map(|meta| (meta.dev(), meta.ino()));
    let before = match before {
        Some(before) if Some(before.id) == id => return Ok(Some(before)),
        before => before,
    };
    if let Some(Watched { watch, .. }) = before {
        watch.end();
    }
    let Some(id) = id else { return Ok(None) };
    let watch = watches.start(&context.store.seen_path, id.0, slots)?;
    Ok(Some(Watched { watch, id }))
}
