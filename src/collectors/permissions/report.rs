//! What a look came to, in words: evidence that names entries, what they are and what they were, and the command that
//! mends the first of them.

use std::path::{Path, PathBuf};

use super::{
    Last,
    baseline::Shape,
    judge::{DriftKind, Drifted, Refused, Tally},
    scan::Missed,
};
use crate::{
    clock::Timestamp,
    collectors::CollectError,
    findings::{Code, Finding},
    format::access::{Refusal, TYPE_DIRECTORY, mode_text},
    store::Context,
};

/// Room that is left for the command behind the examples.
const EXAMPLES_CHARS_MAX: usize = 400;

/// Entries in the evidence; the finding carries all.
const EXAMPLES_MAX: usize = 5;

/// The findings of a look at the store at `path`.
pub(super) fn findings(
    total: &Tally,
    path: &Path,
    first_seen: &[Option<Timestamp>; 5],
    guessed: bool,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if total.drifted > 0 {
        found.push(drift(total, path, first_seen));
    }
    if total.unwritable > 0 {
        found.push(unwritable(total, path, guessed));
    }
    if total.world_writable > 0 {
        let examples = total
            .world_writable_examples
            .iter()
            .map(|(entry, is)| format!("{} is {}", name(entry), words(is)));
        let list = listed(total.world_writable, examples);
        let evidence =
            format!("{}: {list}", count(total.world_writable, "may be changed by everybody"));
        let entries = total.world_writable_examples.iter().map(|(entry, _)| item(entry));
        let finding = Finding::new(Code::PermissionWorldWritable, "", evidence);
        let finding = finding.with_items_of(entries, total.world_writable);
        let named = total.world_writable_examples.iter().map(|(entry, _)| entry.as_slice());
        found.push(match typed(path, named, total.world_writable) {
            Some(named) => finding.with_command(Some(format!("chmod o-w {named}"))),
            None => finding,
        });
    }
    found
}

fn drift(total: &Tally, path: &Path, first_seen: &[Option<Timestamp>; 5]) -> Finding {
    let examples = total.drifted_examples.iter().map(|Drifted { path, is, was, kinds }| {
        let list = if kinds[DriftKind::List as usize] {
            " with another access list (getfacl)"
        } else {
            ""
        };
        format!("{} is {}{list}, was {}", name(path), words(is), words(was))
    });
    let evidence = [
        count(total.drifted, "not as before"),
        first_seen
            .iter()
            .flatten()
            .min()
            .map_or_else(String::new, |at| format!(", first seen {at}")),
        format!(": {}", listed(total.drifted, examples)),
    ];
    let entries = total.drifted_examples.iter().map(|drifted| item(&drifted.path));
    let finding = Finding::new(Code::PermissionDrift, "", evidence.concat())
        .with_items_of(entries, total.drifted);
    let finding = match first_seen.iter().flatten().min() {
        Some(at) => finding.with_since(*at),
        None => finding,
    };
    // Of many, all are mended by the command of the catalogue.
    match mend_all(total, path) {
        Some(command) => finding.with_command(Some(command)),
        None => finding,
    }
}

/// The commands that make every entry what it was, when they are few and fit on a line.
fn mend_all(total: &Tally, path: &Path) -> Option<String> {
    let drifted = &total.drifted_examples;
    if total.drifted > EXAMPLES_MAX as u64 || drifted.len() as u64 != total.drifted {
        return None;
    }
    let commands: Vec<String> = drifted.iter().map(|one| mend(path, one)).collect::<Option<_>>()?;
    let commands = commands.join(" && ");
    (commands.len() <= EXAMPLES_CHARS_MAX).then_some(commands)
}

fn unwritable(total: &Tally, path: &Path, guessed: bool) -> Finding {
    let examples = total.refused_examples.iter().map(|Refused { path, is, refusal, .. }| {
        format!("{} is {}: {}", name(path), words(is), refusal.as_str())
    });
    let list = listed(total.unwritable, examples);
    let entries = plural(total.unwritable);
    let Some(refused) = total.refused_examples.first() else {
        return Finding::new(Code::PermissionUnwritable, "", format!("{entries} cannot be used"));
    };
    let Refused { server, .. } = refused;
    let groups: Vec<String> = server.gids.iter().take(5).map(u32::to_string).collect();
    let who = if guessed {
        format!(
            "no process was seen that serves this directory; most of it belongs to uid {}, who cannot use {entries} as Chroma must, as after a command that ran as another user (sudo)",
            server.uid
        )
    } else {
        format!(
            "uid {} (groups {}) cannot use {entries} as Chroma must",
            server.uid,
            groups.join(" ")
        )
    };
    let command = give_back(total, path);
    let items = total.refused_examples.iter().map(|refused| item(&refused.path));
    let finding = Finding::new(Code::PermissionUnwritable, "", format!("{who}: {list}"))
        .with_items_of(items, total.unwritable);
    match command {
        Some(command) => finding.with_command(Some(command)),
        None => finding,
    }
}

/// The command that lets the server's user write: owner and mode of each entry, when they are few, and otherwise our own command.
/// Where no command helps, as for what lies above the directory, it shows them.
fn give_back(total: &Tally, path: &Path) -> Option<String> {
    let refused = &total.refused_examples;
    let server = &refused.first()?.server;
    let mendable = |refused: &Refused| {
        matches!(refused.refusal, Refusal::Mode | Refusal::List) && !refused.path.starts_with(b"/")
    };
    if !refused.iter().all(|refused| mendable(refused) && refused.server == *server) {
        return Some(format!("ls -la {}", shell_word(path)?));
    }
    let owner = match server.gids.first() {
        Some(gid) => format!("{}:{gid}", server.uid),
        None => server.uid.to_string(),
    };
    let entries = |wanted: &dyn Fn(&Refused) -> bool| {
        let chosen: Vec<&[u8]> =
            refused.iter().filter(|one| wanted(one)).map(|one| one.path.as_slice()).collect();
        let count = chosen.len() as u64;
        typed(path, chosen.into_iter(), count)
    };
    let foreign = |one: &Refused| one.is.uid != server.uid;
    let locked = |one: &Refused| {
        let needed = if one.is.file_type() == TYPE_DIRECTORY { 0o300 } else { 0o600 };
        one.is.mode & needed != needed
    };
    if refused.len() as u64 == total.unwritable
        && let (Some(foreign), Some(locked)) = (entries(&foreign), entries(&locked))
    {
        // What belongs to the user may still be locked against it.
        let chown = (!foreign.is_empty()).then(|| format!("chown {owner} {foreign}"));
        let chmod = (!locked.is_empty()).then(|| format!("chmod u+rwX {locked}"));
        let commands: Vec<String> = chown.into_iter().chain(chmod).collect();
        return (!commands.is_empty()).then(|| commands.join(" && "));
    }
    let dir = shell_word(path)?;
    Some(format!("chroma_exporter permissions --store.path {dir} --server-user {owner} --apply"))
}

/// Entries as a shell takes them, to be typed behind a command; `None` when these are not all, or too many, or not safe to type.
fn typed<'a>(path: &Path, entries: impl Iterator<Item = &'a [u8]>, total: u64) -> Option<String> {
    if total > EXAMPLES_MAX as u64 {
        return None;
    }
    let words: Vec<String> =
        entries.map(|entry| shell_word(&below(path, entry))).collect::<Option<_>>()?;
    let words = words.join(" ");
    (words.len() <= EXAMPLES_CHARS_MAX).then_some(words)
}

/// What the walk could not look at.
pub(super) fn problems(total: &Tally, last: Option<&Last>, context: &Context) -> Vec<CollectError> {
    let path = &context.store.path;
    let missed = last.map_or(&[][..], |last| &last.problems).iter().map(|missed| match missed {
        Missed::Entry(problem) => CollectError::Unreadable {
            path: below(path, &problem.path),
            source: problem.errno.into(),
        },
        Missed::More(more) => CollectError::MoreUnreadable { path: path.clone(), more: *more },
        Missed::Rest => CollectError::TooMany {
            path: path.clone(),
            what: "entries",
            bound: context.config.limits.entries,
        },
        Missed::Deep(folders) => CollectError::TooDeep { path: path.clone(), folders: *folders },
    });
    let lists = total.problems.iter().map(|(entry, reason)| CollectError::AccessList {
        entry: name(entry),
        why: reason.clone(),
    });
    missed.chain(lists).collect()
}

/// Up to some entries, as many as there is room for, and how many there are besides.
fn listed(total: u64, examples: impl Iterator<Item = String>) -> String {
    let (mut said, mut chars) = (Vec::new(), 0);
    for example in examples.take(EXAMPLES_MAX) {
        chars += example.chars().count();
        if !said.is_empty() && chars > EXAMPLES_CHARS_MAX {
            break;
        }
        said.push(example);
    }
    let more = total.saturating_sub(said.len() as u64);
    if more > 0 {
        said.push(format!("and {more} more"));
    }
    said.join("; ")
}

fn count(number: u64, what: &str) -> String {
    let verb = match (what.starts_with("may "), number) {
        (true, _) => "",
        (false, 1) => "is ",
        (false, _) => "are ",
    };
    format!("{} {verb}{what}", plural(number))
}

fn plural(number: u64) -> String {
    format!("{number} {}", if number == 1 { "entry" } else { "entries" })
}

/// `-rw-r--r-- 1000:1000`.
fn words(shape: &Shape) -> String {
    format!("{} {}:{}", mode_text(shape.mode), shape.uid, shape.gid)
}

/// An entry as a command below the directory takes it.
fn item(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

/// An entry as a person may read it, whatever bytes its name has; never long.
pub(super) fn name(path: &[u8]) -> String {
    if path.is_empty() {
        return "the directory itself".to_owned();
    }
    let text = String::from_utf8_lossy(path);
    let mut out: String = text.chars().take(NAME_CHARS_MAX).map(visible).collect();
    if text.chars().nth(NAME_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn visible(c: char) -> char {
    if c.is_control() { '?' } else { c }
}

/// A folder of a segment, a slash and the longest of Chroma's names fit.
const NAME_CHARS_MAX: usize = 80;

/// The commands that make an entry what it was; `None` when no command does, or when its name is not safe to type.
fn mend(store: &Path, Drifted { path, is, was, kinds }: &Drifted) -> Option<String> {
    let target = shell_word(&below(store, path))?;
    let mut commands = Vec::new();
    let [owner, group, mode, kind, _] = *kinds;
    if kind {
        return None;
    }
    let link = if is.is_link() { "-h " } else { "" };
    if owner || group {
        commands.push(format!("chown {link}{}:{} {target}", was.uid, was.gid));
    }
    // chown takes setuid and setgid away, so it comes first and the mode after it.
    if mode || (!commands.is_empty() && was.mode & 0o6000 != 0) {
        commands.push(format!("chmod {:04o} {target}", was.permissions()));
    }
    (!commands.is_empty()).then(|| commands.join(" && "))
}

pub(super) fn below(store: &Path, path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    if path.is_empty() { store.to_owned() } else { store.join(std::ffi::OsStr::from_bytes(path)) }
}

/// A path that a shell takes as it stands. Names from disk may hold commands; one that would have to be quoted is not
/// offered for typing.
fn shell_word(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'+');
    (text.len() <= 200 && text.bytes().all(plain)).then(|| text.to_owned())
}
