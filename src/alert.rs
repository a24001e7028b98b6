//! The alert hooks: from a snapshot to what is told to whom. Rules are data, every decision is a pure function of a
//! snapshot, the state before and `now`; nothing here asks the time, touches the disk or the network.

pub mod builtin;
pub mod engine;
pub mod message;
pub mod outbox;
pub mod prometheus;
pub mod report;
pub mod rule;
pub mod silence;
pub mod step;
