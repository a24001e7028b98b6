//! What a builder gets from the machine: this crate knows no threads.

use alloc::vec::Vec;
use core::mem::MaybeUninit;

/// Does many things at once.
pub trait Workers {
    /// How many things are done at once.
    fn count(&self) -> usize;

    /// Calls `work` once with each number below `tasks`, and gives the results in this order. A state is used by one caller at a time.
    fn map<S: Send, R: Send>(
        &self,
        states: &mut [S],
        tasks: usize,
        work: &(impl Fn(&mut S, usize) -> R + Sync),
    ) -> Vec<R>;

    /// Is told of memory that will be read in no order.
    fn prepare<T>(&self, _memory: &mut [MaybeUninit<T>]) {}
}

/// One after the other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Workers for Alone {
    fn count(&self) -> usize {
        1
    }

    fn map<S: Send, R: Send>(
        &self,
        states: &mut [S],
        tasks: usize,
        work: &(impl Fn(&mut S, usize) -> R + Sync),
    ) -> Vec<R> {
        let Some(state) = states.first_mut() else { return Vec::new() };
        (0..tasks).map(|task| work(state, task)).collect()
    }
}
