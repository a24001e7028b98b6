//! What a key of the configuration is. [`keys!`](crate::keys::key::keys) declares a section: each key stands there once, with
//! its help, type, default and [`Kind`]. From that come the type that the program uses, its default, how the file is read and
//! printed, the flags of the command line, the example file and the reference.

use std::{
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};

use super::{
    report::{At, Place, Report},
    rules,
    section::{self, Section, shown, text},
    yaml::{Node, Scalar, ScalarKind, Value},
};
use crate::facts::{bad_value::BadValue, duration};

/// A section that [`keys!`](crate::keys::key::keys) declares.
pub(crate) trait Declared: Sized {
    /// Reads the section over its defaults. What is wrong is reported and keeps its default.
    fn read(section: &Section<'_>) -> Self;

    /// The section as a file would say it, every key written out.
    fn written(&self) -> Written;

    /// The keys in their order.
    fn keys() -> Vec<Key>;
}

/// Declares a section: `key: Type = default, kind;` with the help as a doc comment. The key is the name of the field unless
/// `as "name"` says otherwise; `where low < high` keeps two of them apart.
macro_rules! keys {
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $section:ident $(: $($derived:ident),+)? {
            $($(#[doc = $help:literal])+ $key:ident $(as $name:literal)?: $type:ty = $default:expr, $kind:expr;)+
        }
        $(where $($low:ident < $high:ident),+)?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, $($($derived),+)?)]
        $vis struct $section { $($(#[doc = $help])+ $vis $key: $type,)+ }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::keys::key::Declared for $section {
            fn read(section: &$crate::keys::section::Section<'_>) -> Self {
                let read = Self {
                    $($key: {
                        let kind: $crate::keys::key::Kind<$type> = $kind;
                        kind.read(section, $crate::keys::key::name!($key $(as $name)?)).unwrap_or_else(|| $default)
                    },)+
                };
                $($(section.less(stringify!($low), read.$low, stringify!($high), read.$high);)+)?
                read
            }

            fn written(&self) -> $crate::keys::key::Written {
                let mut keys = Vec::new();
                $({
                    let kind: $crate::keys::key::Kind<$type> = $kind;
                    keys.extend(kind.write(&self.$key).map(|value| value.named($crate::keys::key::name!($key $(as $name)?))));
                })+
                $crate::keys::key::Written::Keys(keys)
            }

            fn keys() -> Vec<$crate::keys::key::Key> {
                let default = Self::default();
                vec![$({
                    let kind: $crate::keys::key::Kind<$type> = $kind;
                    kind.key($crate::keys::key::name!($key $(as $name)?), concat!($($help),+), &default.$key)
                },)+]
            }
        }
    };
}

macro_rules! name {
    ($key:ident) => {
        stringify!($key)
    };
    ($key:ident as $name:literal) => {
        $name
    };
}

pub(crate) use {keys, name};

/// A key without its type: what help, example and reference say of it.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) help: String,
    /// As a file would say it; `None` when the key is left out.
    pub(crate) default: Option<Written>,
    pub(crate) facts: Facts,
}

/// What is declared of a key besides its name, help and default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// What it may be: `duration, 100ms to 1h`.
    pub(crate) what: String,
    /// What it is without a word in the file, where that depends on the host.
    pub(crate) otherwise: &'static str,
    /// What the example says, where that is not the default: the YAML that stands behind the key.
    pub(crate) example: &'static str,
    pub(crate) flag: Option<Flag>,
    /// The words that it may be, when there are only a few.
    pub(crate) choices: Vec<&'static str>,
    /// A change takes effect at the next start.
    pub(crate) restart: bool,
    /// The first release that has it.
    pub(crate) since: &'static str,
    /// The keys below it.
    pub(crate) below: Vec<Key>,
    /// Whether it is a list of sections.
    pub(crate) items: bool,
}

/// The flag that goes before the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Without the dashes.
    pub(crate) long: &'static str,
    /// What its value is called; empty when it takes none.
    pub(crate) value: &'static str,
    /// Whether each word adds one.
    pub(crate) repeatable: bool,
}

/// A value of the file or of a flag, and its place.
type Given<'v> = At<&'v Value>;
type Read<T> = Box<dyn Fn(&Section<'_>, &'static str, Option<&Given<'_>>) -> Option<T>>;
type Write<T> = Box<dyn Fn(&T) -> Option<Written>>;

/// What a key may hold, and how that is read and written.
pub(crate) struct Kind<T> {
    facts: Facts,
    /// Reads what stands at a key; what is wrong is reported.
    read: Read<T>,
    write: Write<T>,
}

impl<T: 'static> Kind<T> {
    /// What `read` makes of the key: it reports what is wrong by itself.
    pub(crate) fn custom(
        what: impl Into<String>,
        read: impl Fn(&Section<'_>, &'static str) -> Option<T> + 'static,
        write: impl Fn(&T) -> Option<Written> + 'static,
    ) -> Self {
        Self {
            facts: Facts { what: what.into(), since: "0.1.0", ..Facts::default() },
            read: Box::new(move |section, key, _| read(section, key)),
            write: Box::new(write),
        }
    }

    /// What `read` makes of a value of the file or of a flag; it reports what is wrong by itself.
    pub(crate) fn given(
        what: impl Into<String>,
        read: impl Fn(&Section<'_>, &Given<'_>) -> Option<T> + 'static,
        write: impl Fn(&T) -> Written + 'static,
    ) -> Self {
        let kind = Self::custom(what, |_, _| None, move |value| Some(write(value)));
        Self { read: Box::new(move |section, _, given| read(section, given?)), ..kind }
    }

    /// One value; `parse` answers with the rule that it breaks.
    pub(crate) fn one(
        what: impl Into<String>,
        parse: impl Fn(&Value) -> Result<T, BadValue> + 'static,
        write: impl Fn(&T) -> Written + 'static,
    ) -> Self {
        let read = move |section: &Section<'_>, given: &Given<'_>| {
            let bad = |rule| given.place.bad(shown(given.value), rule);
            section.reported(parse(given.value).map_err(bad))
        };
        Self::given(what, read, write)
    }

    fn map<U>(
        self,
        into: impl Fn(T, Option<&Given<'_>>) -> U + 'static,
        back: impl Fn(&U) -> Option<&T> + 'static,
    ) -> Kind<U> {
        let Self { facts, read, write } = self;
        Kind {
            facts,
            read: Box::new(move |section, key, given| {
                read(section, key, given).map(|value| into(value, given))
            }),
            write: Box::new(move |value| back(value).and_then(&write)),
        }
    }

    /// One that may be left out.
    pub(crate) fn optional(self) -> Kind<Option<T>> {
        self.map(|value, _| Some(value), Option::as_ref)
    }

    /// One whose place is known.
    pub(crate) fn placed(self) -> Kind<At<T>> {
        let place = |given: Option<&Given<'_>>| given.map(|given| given.place.clone());
        let nowhere = || Place::outside("");
        self.map(
            move |value, given| At { value, place: place(given).unwrap_or_else(nowhere) },
            |at| Some(&at.value),
        )
    }

    /// One that empty text switches off.
    pub(crate) fn or_nothing(self) -> Kind<Option<T>> {
        let Self { facts, read, write } = self;
        Kind {
            facts,
            read: Box::new(move |section, key, given| match given.map(|given| given.value) {
                Some(Value::Scalar(Scalar { text, kind: ScalarKind::Text, .. }))
                    if text.is_empty() =>
                {
                    Some(None)
                }
                _ => read(section, key, given).map(Some),
            }),
            write: Box::new(move |value| match value {
                Some(value) => write(value),
                None => Some(Written::Text(String::new())),
            }),
        }
    }

    /// One that must be there: `rule` says what it is.
    pub(crate) fn required(self, rule: &'static str) -> Self {
        let read = self.read;
        let read: Read<T> = Box::new(move |section, key, given| {
            if given.is_none() {
                section.missing(key, rule);
            }
            read(section, key, given)
        });
        Self { read, ..self }
    }

    fn with_facts(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(&mut self.facts);
        self
    }

    /// One that the flag `--long VALUE` sets as well; a switch has no value.
    pub(crate) fn flag(self, long: &'static str, value: &'static str) -> Self {
        self.with_facts(|facts| facts.flag = Some(Flag { long, value, repeatable: false }))
    }

    /// A list of which each flag gives one.
    pub(crate) fn flags(self, long: &'static str, value: &'static str) -> Self {
        self.with_facts(|facts| facts.flag = Some(Flag { long, value, repeatable: true }))
    }

    /// One of which a change takes effect at the next start.
    pub(crate) fn at_start(self) -> Self {
        self.with_facts(|facts| facts.restart = true)
    }

    /// One that the example shows with this YAML instead of its default.
    pub(crate) fn example(self, yaml: &'static str) -> Self {
        self.with_facts(|facts| facts.example = yaml)
    }

    /// One whose default depends on the host.
    pub(crate) fn otherwise(self, default: &'static str) -> Self {
        self.with_facts(|facts| facts.otherwise = default)
    }

    /// One with keys below it.
    pub(crate) fn with(self, below: Vec<Key>) -> Self {
        self.with_facts(|facts| facts.below = below)
    }

    /// A list of sections with these keys.
    pub(crate) fn items(self, below: Vec<Key>) -> Self {
        self.with(below).with_facts(|facts| facts.items = true)
    }

    /// What the flag says, or else the file; `None` when neither says it, or says it wrong, which has been reported.
    pub(crate) fn read(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        let node = section.node(key);
        let given = node.map(|node| At { value: &node.value, place: section.place(key) });
        let in_file = (self.read)(section, key, given.as_ref());
        let Some((flag, words)) =
            self.facts.flag.and_then(|flag| Some((flag, section.words(flag.long)?)))
        else {
            return in_file;
        };
        let place = Place::outside(format!("--{}", flag.long));
        let value = if flag.repeatable {
            let node = |word: &String| Node { line: 0, value: section::word_of(word) };
            Value::List(words.iter().map(node).collect())
        } else {
            section::word_of(words.last()?)
        };
        (self.read)(section, key, Some(&At { value: &value, place })).or(in_file)
    }

    /// What the file says, for a key that depends on it; `None` also when that is wrong, which is reported elsewhere.
    pub(crate) fn peek(&self, section: &Section<'_>, key: &'static str) -> Option<T> {
        let report = Report::default();
        self.read(&section.aside(&report), key)
    }

    /// The value as a file would say it; `None` when it is left out.
    pub(crate) fn write(&self, value: &T) -> Option<Written> {
        (self.write)(value)
    }

    /// What is said of a key of this kind.
    pub(crate) fn key(self, name: &'static str, help: &str, default: &T) -> Key {
        let default = self.write(default);
        Key { name, help: help.trim().to_owned(), default, facts: self.facts }
    }
}

/// A duration in Prometheus' syntax.
pub(crate) fn span(range: RangeInclusive<Duration>) -> Kind<Duration> {
    let what =
        format!("{} to {}", duration::format(*range.start()), duration::format(*range.end()));
    let write = |value: &Duration| Written::Text(duration::format(*value));
    Kind::one(format!("duration, {what}"), section::duration(range), write)
}

/// A number between 0 and 1.
pub(crate) fn ratio() -> Kind<f64> {
    Kind::one("ratio, 0 to 1", section::ratio, |value| Written::Number(*value))
}

/// A whole number.
pub(crate) fn count(range: RangeInclusive<usize>) -> Kind<usize> {
    let what = format!("whole number, {} to {}", range.start(), range.end());
    Kind::one(what, section::count(range), |value| Written::Count(*value as u64))
}

/// The same of bytes.
pub(crate) fn bytes(range: RangeInclusive<usize>) -> Kind<u64> {
    let what = format!("bytes, {} to {}", range.start(), range.end());
    let count = section::count(range);
    Kind::one(what, move |value| Ok(count(value)? as u64), |value| Written::Count(*value))
}

/// `true` or `false`. Its flag says `true`.
pub(crate) fn switch() -> Kind<bool> {
    Kind::one("true or false", section::flag, |value| Written::Flag(*value))
}

/// Text that `parse` judges.
pub(crate) fn word<T: Display + 'static>(
    what: &str,
    parse: impl Fn(&str) -> Result<T, BadValue> + 'static,
) -> Kind<T> {
    Kind::one(what, move |value| parse(text(value)?), |value| Written::Text(value.to_string()))
}

/// An absolute path.
pub(crate) fn path() -> Kind<PathBuf> {
    let parse = |value: &Value| rules::absolute_path(text(value)?);
    Kind::one("absolute path", parse, |path| Written::path(path))
}

/// The same; that of a flag may be meant from the working directory.
pub(crate) fn path_from_here() -> Kind<PathBuf> {
    let read = |section: &Section<'_>, given: &Given<'_>| {
        let parse = |text: &str| match given.place.file {
            Some(_) => rules::absolute_path(text),
            None => rules::path_from(text, section.cwd()),
        };
        let bad = |rule| given.place.bad(shown(given.value), rule);
        section.reported(text(given.value).and_then(parse).map_err(bad))
    };
    Kind::given("absolute path", read, |path| Written::path(path))
}

/// One of a few words.
pub(crate) fn choice<T: Copy + 'static>(
    choices: &'static [T],
    name: fn(T) -> &'static str,
) -> Kind<T> {
    let words: Vec<&'static str> = choices.iter().map(|choice| name(*choice)).collect();
    let write = move |value: &T| Written::Text(name(*value).to_owned());
    Kind::one(words.join(", "), section::choice(choices, name), write)
        .with_facts(|facts| facts.choices = words)
}

/// Permission bits.
pub(crate) fn mode() -> Kind<u32> {
    let write = |mode: &u32| Written::Text(format!("{mode:04o}"));
    Kind::one("octal digits in quotes", section::mode, write)
}

/// A list of words.
pub(crate) fn list(
    what: &str,
    max: usize,
    parse: impl Fn(&str) -> Result<String, BadValue> + 'static,
) -> Kind<Vec<String>> {
    let read = move |section: &Section<'_>, key| {
        section.node(key)?;
        Some(section::texts(section, key, max, &parse))
    };
    Kind::custom(format!("list of {what}, at most {max}"), read, |items: &Vec<String>| {
        Some(Written::list(items))
    })
}

/// A section of its own, whose keys are read even when it is not there: flags may say them.
pub(crate) fn section<T: Declared + 'static>() -> Kind<T> {
    let read = |section: &Section<'_>, key| Some(T::read(&section.below(key)));
    Kind::custom("section", read, |value| Some(value.written())).with(T::keys())
}

/// The same for one that means something by being there.
pub(crate) fn part<T: Declared + 'static>() -> Kind<Option<T>> {
    let read = |section: &Section<'_>, key| section.section(key).map(|below| Some(T::read(&below)));
    let write = |value: &Option<T>| value.as_ref().map(Declared::written);
    Kind::custom("section", read, write).with(T::keys())
}

/// A list of sections of which nobody asks where they stand.
pub(crate) fn plain_items<T: Declared + 'static>(max: usize) -> Kind<Vec<T>> {
    let read = move |section: &Section<'_>, key| {
        let items = section.list(key, max);
        Some(items.iter().filter_map(|item| Some(T::read(&section.item(item)?))).collect())
    };
    let write = |items: &Vec<T>| Some(Written::List(items.iter().map(Declared::written).collect()));
    Kind::custom(format!("list of sections, at most {max}"), read, write).items(T::keys())
}

/// A list of sections.
pub(crate) fn items<T: Declared + 'static>(max: usize) -> Kind<Vec<At<T>>> {
    let read = move |section: &Section<'_>, key| {
        let items = section.list(key, max);
        let read = |item: &At<&Node>| {
            Some(At { value: T::read(&section.item(item)?), place: item.place.clone() })
        };
        Some(items.iter().filter_map(read).collect())
    };
    let write = |items: &Vec<At<T>>| {
        Some(Written::List(items.iter().map(|item| item.value.written()).collect()))
    };
    Kind::custom(format!("list of sections, at most {max}"), read, write).items(T::keys())
}

/// A value as a file would say it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Written {
    Flag(bool),
    Count(u64),
    Number(f64),
    Text(String),
    List(Vec<Written>),
    Keys(Vec<(&'static str, Written)>),
    /// Keys that are the operator's own.
    Map(Vec<(String, Written)>),
    /// What stands at another key than the declared one, as the file of a secret does.
    Elsewhere(&'static str, Box<Written>),
}

impl Written {
    pub(crate) fn path(path: &Path) -> Self {
        Self::Text(path.to_string_lossy().into_owned())
    }

    pub(crate) fn list(items: &[String]) -> Self {
        Self::List(items.iter().cloned().map(Self::Text).collect())
    }

    /// The key that it stands at, which is `name` unless it says otherwise.
    pub(crate) fn named(self, name: &'static str) -> (&'static str, Self) {
        match self {
            Self::Elsewhere(other, value) => (other, *value),
            value => (name, value),
        }
    }

    /// The keys of a section.
    pub(crate) fn into_keys(self) -> Vec<(&'static str, Self)> {
        if let Self::Keys(keys) = self { keys } else { Vec::new() }
    }

    /// For a line of help: as it stands in a file, lists without their brackets.
    pub(crate) fn in_one_line(&self) -> String {
        match self {
            Self::Flag(value) => value.to_string(),
            Self::Count(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(value) => value.clone(),
            Self::List(items) => items.iter().map(Self::in_one_line).collect::<Vec<_>>().join(", "),
            Self::Elsewhere(_, value) => value.in_one_line(),
            Self::Keys(_) | Self::Map(_) => String::new(),
        }
    }

    /// What stands at `section.key`.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |written, key| match written {
            Self::Keys(keys) => keys.iter().find(|(name, _)| *name == key).map(|(_, value)| value),
            _ => None,
        })
    }
}

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(value) => to.serialize_bool(*value),
            Self::Count(value) => to.serialize_u64(*value),
            Self::Number(value) => to.serialize_f64(*value),
            Self::Text(value) => to.serialize_str(value),
            Self::List(items) => to.collect_seq(items),
            Self::Keys(keys) => to.collect_map(keys.iter().map(|(key, value)| (key, value))),
            Self::Map(keys) => to.collect_map(keys.iter().map(|(key, value)| (key, value))),
            Self::Elsewhere(_, value) => value.serialize(to),
        }
    }
}
