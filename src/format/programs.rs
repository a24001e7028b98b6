//! Which programs are Chroma, or may embed it, by their command lines. Arguments may hold anything: they are what the owner of
//! the process wrote there.

/// Whether a command line starts a Chroma server: `chroma run` (of Python or standalone), `python -m chromadb.cli.cli
/// run`, or any ASGI server with `chromadb.app:app`, also when it has retitled itself.
#[must_use]
pub fn is_chroma_server(arguments: &[&[u8]]) -> bool {
    if arguments.iter().any(|argument| contains(argument, b"chromadb.app:")) {
        return true;
    }
    let Some((first, rest)) = arguments.split_first() else { return false };
    let (program, rest) = if starts_with_name(first, b"python") || starts_with_name(first, b"pypy")
    {
        match script(rest) {
            Some(found) => found,
            None => return false,
        }
    } else {
        (*first, rest)
    };
    // Only what is executed counts: a directory called chroma among the arguments of another program does not.
    let chroma = base_name(program) == b"chroma" || program == b"chromadb.cli.cli";
    chroma && rest.contains(&b"run".as_slice())
}

/// Short name of this program. The kernel keeps 15 bytes of a name, which is just enough for ours.
pub const OWN_COMM: &str = "chroma_exporter";

/// Whether a program may embed Chroma, which is a Python package first of all. Programs of the distribution do not, and many
/// hosts have some in Python that run all the time (`networkd-dispatcher`, `fail2ban-server`).
#[must_use]
pub fn may_embed_chroma(comm: &str, arguments: &[&[u8]]) -> bool {
    if comm == OWN_COMM {
        return false;
    }
    let names = |name: &[u8]| PYTHON_PROGRAMS.iter().any(|program| contains(name, program));
    let system = |path: &[u8]| {
        SYSTEM_PROGRAMS.iter().any(|dir| path.starts_with(dir)) && !contains(path, b"-packages/")
    };
    if let Some((first, rest)) = arguments.split_first()
        && contains(base_name(first), b"python")
        && let Some((script, _)) = script(rest)
        && system(script)
    {
        return names(base_name(script));
    }
    names(comm.as_bytes()) || arguments.iter().take(2).any(|argument| names(base_name(argument)))
}

/// Whether a command line is of a worker that multiprocessing started by its `spawn` method: its arguments say nothing
/// of what it does, those of its parent do.
#[must_use]
pub fn is_spawned_worker(arguments: &[&[u8]]) -> bool {
    arguments.contains(&b"--multiprocessing-fork".as_slice())
}

/// The script or module that an interpreter runs, and the arguments that follow it.
fn script<'a, 'b>(arguments: &'b [&'a [u8]]) -> Option<(&'a [u8], &'b [&'a [u8]])> {
    let mut rest = arguments;
    while let Some((argument, after)) = rest.split_first() {
        rest = after;
        match *argument {
            b"-m" => return after.split_first().map(|(module, after)| (*module, after)),
            b"-c" => return None,
            b"-W" | b"-X" => rest = after.get(1..).unwrap_or_default(),
            option if option.starts_with(b"-") => {}
            script => return Some((script, after)),
        }
    }
    None
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

fn starts_with_name(path: &[u8], name: &[u8]) -> bool {
    base_name(path).starts_with(name)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Also those that a distribution has as programs of its own and which run what others wrote.
const PYTHON_PROGRAMS: [&[u8]; 13] = [
    b"python",
    b"pypy",
    b"chroma",
    b"uvicorn",
    b"gunicorn",
    b"hypercorn",
    b"uwsgi",
    b"celery",
    b"jupyter",
    b"flask",
    b"django",
    b"streamlit",
    b"airflow",
];
/// Where distributions have their programs; what `pip` installs goes elsewhere.
const SYSTEM_PROGRAMS: [&[u8]; 5] =
    [b"/usr/bin/", b"/usr/sbin/", b"/usr/lib/", b"/usr/libexec/", b"/usr/share/"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::proc::parse_cmdline;

    #[test]
    fn servers_are_told_from_programs_that_embed_chroma() {
        for (line, server) in [
            ("/usr/bin/python3.11 /venv/bin/chroma run --path /data --port 8000", true),
            ("/venv/bin/python -u -X utf8 -W ignore /venv/bin/chroma run", true),
            ("python -m chromadb.cli.cli run --path x", true),
            ("/usr/local/bin/chroma run /config.yaml", true),
            ("chroma run", true),
            (
                "/venv/bin/python /venv/bin/uvicorn chromadb.app:app --workers 1 --host 0.0.0.0",
                true,
            ),
            ("uvicorn --host 0.0.0.0 chromadb.app:app", true),
            ("gunicorn: worker [chromadb.app:app]", true),
            ("/venv/bin/python /venv/bin/chroma vacuum --path /data", false),
            ("chroma utils vacuum", false),
            ("python ingest.py --into /data/chroma run", false),
            ("python -c run chroma run", false),
            ("vim chroma run", false),
            ("python", false),
            ("python -m", false),
            ("python -X", false),
            ("", false),
        ] {
            let text = line.replace(' ', "\0") + "\0";
            assert_eq!(is_chroma_server(&parse_cmdline(text.as_bytes())), server, "{line}");
        }
        let worker = b"/venv/bin/python\0-c\0from multiprocessing.spawn import spawn_main; spawn_main()\0--multiprocessing-fork\0";
        assert!(
            is_spawned_worker(&parse_cmdline(worker)) && !is_chroma_server(&parse_cmdline(worker))
        );
    }

    #[test]
    fn programs_of_python_may_embed_chroma() {
        for (comm, line, may) in [
            ("python3", "/usr/bin/python3 app.py", true),
            ("app", "/opt/app/bin/python3.11 -m app", true),
            ("gunicorn: maste", "gunicorn: master [app]", true),
            ("celery", "", true),
            ("sh", "/bin/sh /usr/bin/jupyter-lab", true),
            ("systemd", "/sbin/init", false),
            ("chroma_exporter", "/usr/bin/chroma_exporter serve", false),
            ("bash", "bash -c python app.py", false),
            ("fail2ban-server", "/usr/bin/python3 /usr/bin/fail2ban-server -xf start", false),
            ("firewalld", "/usr/bin/python3 -s /usr/sbin/firewalld --nofork", false),
            ("gunicorn", "/usr/bin/python3 /usr/bin/gunicorn app:app", true),
            ("python3", "python3 /usr/lib/python3/site-packages/tool/main.py", true),
            ("python3", "/usr/bin/python3 /usr/local/bin/tool", true),
            ("python3", "/usr/bin/python3 -c x /usr/bin/tool", true),
        ] {
            let text = line.replace(' ', "\0");
            assert_eq!(
                may_embed_chroma(comm, &parse_cmdline(text.as_bytes())),
                may,
                "{comm} {line}"
            );
        }
    }
}
