//! How a value of the configuration is declared, read and printed, with the place of every mistake. Which keys there are is the
//! business of `config` and of the receivers.

pub(crate) mod key;
pub(crate) mod report;
pub(crate) mod rules;
pub(crate) mod secret;
pub(crate) mod section;
pub(crate) mod target;
pub(crate) mod yaml;

pub use report::ConfigError;
pub use rules::Listen;
pub use secret::Secret;
