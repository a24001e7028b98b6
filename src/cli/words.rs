//! Words of a closed list that a shell completes, in places where other words are welcome too.

use clap::{
    Arg, Command,
    builder::{PossibleValue, TypedValueParser},
};

use crate::{alert::builtin, findings::Code};

/// A list of words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    codes: bool,
}

/// The codes of the catalogue and the names of their alerts.
pub(super) const FINDINGS: Words = Words { codes: true };

/// The names of the built-in alerts.
const ALERTS: Words = Words { codes: false };

impl Words {
    /// Each word.
    pub(super) fn all(self) -> impl Iterator<Item = String> {
        let codes =
            Code::ALL.iter().filter(move |_| self.codes).map(|code| code.as_str().to_owned());
        codes.chain(Code::ALL.iter().map(|code| builtin::name(*code)))
    }
}

/// Takes what `inner` takes, and tells the shell of `words`.
#[derive(Debug, Clone)]
pub(super) struct Suggesting<P> {
    words: Words,
    inner: P,
}

impl<P: TypedValueParser> TypedValueParser for Suggesting<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Self::Value, clap::Error> {
        self.inner.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.all().map(PossibleValue::new)))
    }
}

/// What `inner` takes; the shell completes codes and names of alerts.
pub(super) fn findings<P: TypedValueParser>(inner: P) -> Suggesting<P> {
    Suggesting { words: FINDINGS, inner }
}

/// What `inner` takes; the shell completes names of alerts.
pub(super) fn alerts<P: TypedValueParser>(inner: P) -> Suggesting<P> {
    Suggesting { words: ALERTS, inner }
}
