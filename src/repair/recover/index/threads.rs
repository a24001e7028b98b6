//! Threads that build a graph.

use std::{
    mem::MaybeUninit,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use sqlite_live::kernel;

use crate::format::hnsw::Workers;

/// As many threads as there are processors, which live as long as one batch.
#[derive(Debug)]
pub(super) struct Threads(usize);

impl Threads {
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // With one worker the graph is another one: what comes out must not depend on the machine.
        Self(processors.clamp(2, MAX))
    }
}

impl Workers for Threads {
    fn count(&self) -> usize {
        self.0
    }

    fn map<S: Send, R: Send>(
        &self,
        states: &mut [S],
        tasks: usize,
        work: &(impl Fn(&mut S, usize) -> R + Sync),
    ) -> Vec<R> {
        let next = AtomicUsize::new(0);
        let run = |state: &mut S| {
            let next = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|task| *task < tasks);
            std::iter::from_fn(next).map(|task| (task, work(state, task))).collect::<Vec<_>>()
        };
        let run = &run;
        let mut done = match states {
            [] => Vec::new(),
            [own, others @ ..] => thread::scope(|scope| {
                let others = others.iter_mut().take(tasks.saturating_sub(1));
                let others: Vec<_> = others.map(|state| scope.spawn(move || run(state))).collect();
                let mut done = run(own);
                for other in others {
                    match other.join() {
                        Ok(more) => done.extend(more),
                        Err(panic) => std::panic::resume_unwind(panic),
                    }
                }
                done
            }),
        };
        done.sort_unstable_by_key(|(task, _)| *task);
        done.into_iter().map(|(_, result)| result).collect()
    }

    fn prepare<T>(&self, memory: &mut [MaybeUninit<T>]) {
        kernel::large_pages(memory);
    }
}

/// More would wait for the memory.
const MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_and_results_are_in_order() {
        for tasks in [0, 1, 2, 1000] {
            let mut states = [0_usize; 3];
            let work = |state: &mut usize, task: usize| {
                *state += 1;
                task * 2
            };
            let results = Threads(3).map(&mut states, tasks, &work);
            assert!(results.iter().copied().eq((0..tasks).map(|task| task * 2)), "{tasks}");
            assert_eq!(states.iter().sum::<usize>(), tasks);
        }
    }
}
