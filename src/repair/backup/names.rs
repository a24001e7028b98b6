//! The names of backups, and of what is on its way to be one or to be gone. All others in a destination belong to somebody else.

use jiff::{civil::DateTime, tz::TimeZone};

pub use crate::config::Form;

use crate::clock::Timestamp;

/// How the name of a backup of this form ends.
const fn suffix(form: Form) -> &'static str {
    match form {
        Form::Archive => ".tar.zst",
        Form::Directory => "",
    }
}

/// `chroma.backup.20261130_020000.tar.zst`: of a directory `chroma`, at a moment in UTC.
#[must_use]
pub fn name_of(directory: &str, moment: Timestamp, form: Form) -> String {
    // Years that do not have four digits are no moments of a backup.
    let at = jiff::Timestamp::from_second(moment.as_secs()).unwrap_or_default();
    let at = at.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S").to_string();
    format!("{directory}{MIDDLE}{at}{}", suffix(form))
}

/// The moment and the form of a backup of `directory` with this name; `None` for any other name.
#[must_use]
pub fn parse(name: &str, directory: &str) -> Option<(Timestamp, Form)> {
    let rest = name.strip_prefix(directory)?.strip_prefix(MIDDLE)?;
    let (stamp, suffix) = rest.split_at_checked(STAMP_LEN)?;
    let form = Form::ALL.into_iter().find(|form| self::suffix(*form) == suffix)?;
    let digits =
        |(at, byte): (usize, u8)| if at == 8 { byte == b'_' } else { byte.is_ascii_digit() };
    if !stamp.bytes().enumerate().all(digits) {
        return None;
    }
    let number = |from: usize, to: usize| stamp.get(from..to)?.parse::<i16>().ok();
    let part = |from: usize, to: usize| i8::try_from(number(from, to)?).ok();
    let moment = DateTime::new(
        number(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(9, 11)?,
        part(11, 13)?,
        part(13, 15)?,
        0,
    );
    let moment = moment.ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some((Timestamp::from_secs(moment.as_second()), form))
}

/// The hidden name of a backup that is not whole yet.
#[must_use]
pub fn partial(name: &str) -> String {
    format!(".{name}{PARTIAL}")
}

/// The hidden name of a backup that is being removed.
#[must_use]
pub fn removed(name: &str) -> String {
    format!(".{name}{REMOVED}")
}

/// Whether this is what a run that was killed has left of a backup of `directory`, made or removed.
#[must_use]
pub fn is_left(name: &str, directory: &str) -> bool {
    let Some(name) = name.strip_prefix('.') else { return false };
    let inner = name.strip_suffix(PARTIAL).or_else(|| name.strip_suffix(REMOVED));
    inner.is_some_and(|inner| parse(inner, directory).is_some())
}

const MIDDLE: &str = ".backup.";
const STAMP_LEN: usize = "20261130_020000".len();
const PARTIAL: &str = ".partial";
const REMOVED: &str = ".removed";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::backup_name::date_in;

    #[test]
    fn a_name_says_of_what_and_when_and_the_collector_of_backups_reads_it() {
        let moment = Timestamp::from_secs(1_796_004_061);
        for (form, want) in [
            (Form::Archive, "chroma.backup.20261130_010101.tar.zst"),
            (Form::Directory, "chroma.backup.20261130_010101"),
        ] {
            let name = name_of("chroma", Timestamp::from_secs(1_796_000_461), form);
            assert_eq!(name, want);
            assert_eq!(parse(&name, "chroma"), Some((Timestamp::from_secs(1_796_000_461), form)));
            assert_eq!(date_in(&name), Some(Timestamp::from_secs(1_796_000_461)));
        }
        assert_ne!(name_of("a", moment, Form::Archive), name_of("b", moment, Form::Archive));
    }

    #[test]
    fn names_of_others_are_nobodys_business() {
        for name in [
            "chroma.backup.20261130.tar.zst",
            "chroma.backup.20261130_010101.tar.gz",
            "chroma.backup.20261130_010101.tar.zst.old",
            "chroma.backup.20261330_010101",
            "chroma.backup.20261130-010101",
            "chroma.backup.+0261130_010101",
            "chroma_db.backup.20261130_010101",
            "backup.20261130_010101",
            ".chroma.backup.20261130_010101",
            "chroma.backup.2026113é_01010",
            "",
        ] {
            assert_eq!(parse(name, "chroma"), None, "{name}");
        }
        let name = "chroma.backup.20261130_010101.tar.zst";
        for (left, want) in [
            (partial(name), true),
            (removed(name), true),
            (partial("other.backup.20261130_010101"), false),
            (partial("chroma"), false),
            (name.to_owned(), false),
            (format!(".{name}"), false),
        ] {
            assert_eq!(is_left(&left, "chroma"), want, "{left}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_is_read_back(secs in 0_i64..250_000_000_000, directory in "[a-z._ é-]{0,12}") {
            let moment = Timestamp::from_secs(secs);
            for form in [Form::Archive, Form::Directory] {
                let name = name_of(&directory, moment, form);
                // A clock holds no moment beyond the year 2262.
                let moment = Timestamp::from_secs(moment.as_secs());
                prop_assert_eq!(parse(&name, &directory), Some((moment, form)));
                prop_assert!(is_left(&partial(&name), &directory) && is_left(&removed(&name), &directory));
            }
        }

        #[test]
        fn no_name_makes_it_panic(name in ".*", directory in ".*") {
            std::hint::black_box((parse(&name, &directory), is_left(&name, &directory)));
        }
    }
}
