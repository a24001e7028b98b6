//! The delivery of alerts: the task that owns all alert state, and a room for each kind of receiver.

pub mod dispatch;
pub mod receivers;
