//! What is known of each kind of receiver: its keys in the configuration, its payload, and what its answers mean. Pure.

pub(crate) mod after;
pub(crate) mod alertmanager;
pub(crate) mod compatible;
pub mod list;
pub(crate) mod markup;
pub(crate) mod pagerduty;
pub(crate) mod print;
pub(crate) mod slack;
pub(crate) mod webhook;
pub(crate) mod words;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
pub(crate) mod samples;
