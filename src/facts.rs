//! Plain facts that all rooms speak of: findings with their remedies, samples, spans of time, texts for people.

pub mod bad_value;
pub mod blind;
pub mod duration;
pub mod error;
pub mod findings;
pub mod firsts;
pub(crate) mod hidden;
pub(crate) mod human;
pub mod runbooks;
pub mod sample;
pub mod trial;
pub mod wake;
pub mod window;
