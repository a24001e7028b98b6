//! The delivery of alerts: the kinds of receivers, the task that owns all alert state, and the one attempt at one receiver.

pub mod dispatch;
pub mod receivers;
pub mod send;
