//! What single words of the configuration may be, whether they stand in the file or behind a flag. Each function takes
//! the word and answers with the value or with the rule that it breaks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Component, Path, PathBuf},
};

use crate::facts::bad_value::BadValue;

/// Value of the `store` label: it stands in rules and file names, so it is kept plain. Errs with the rule.
pub(crate) fn store_name(text: &str) -> Result<&str, BadValue> {
    if (1..=NAME_CHARS_MAX).contains(&text.len()) && text.chars().all(is_name_char) {
        Ok(text)
    } else {
        Err("must be 1 to 64 of the characters A-Z a-z 0-9 _ . -".into())
    }
}

/// The name of a store that was given none: the last part of its path.
pub(crate) fn default_store_name(path: &Path) -> String {
    let last = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name: String =
        last.chars().map(|c| if is_name_char(c) { c } else { '_' }).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "root".to_owned() } else { name }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

const NAME_CHARS_MAX: usize = 64;

/// An absolute path without `..`, doubled slashes or control characters. Two spellings of one path come out the same. Errs
/// with the rule.
pub(crate) fn absolute_path(text: &str) -> Result<PathBuf, BadValue> {
    if !text.starts_with('/') {
        return Err("must be an absolute path".into());
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(BadValue::TooLong { bytes_max: PATH_BYTES_MAX });
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".into());
    }
    if Path::new(text).components().any(|part| part == Component::ParentDir) {
        // Behind a link `..` is another directory than the one it looks like.
        return Err("must not hold ..".into());
    }
    Ok(Path::new(text).components().collect())
}

/// The same for a word of the command line: a relative one is meant from `cwd`, also with `../` at its beginning. Errs with
/// the rule.
pub(crate) fn path_from(text: &str, cwd: Option<&Path>) -> Result<PathBuf, BadValue> {
    if text.is_empty() {
        return Err("must be a path".into());
    }
    if text.starts_with('/') {
        return absolute_path(text);
    }
    let cwd = cwd.ok_or("must be an absolute path: the working directory is unknown")?;
    let mut from = cwd;
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches('/');
        if let Some(below) = rest.strip_prefix("./") {
            rest = below;
        } else if rest == "." || rest == ".." || rest.starts_with("../") {
            if rest != "." {
                from = from.parent().unwrap_or(from);
            }
            rest = rest.trim_start_matches('.');
        } else {
            break;
        }
    }
    let from =
        from.to_str().ok_or("must be an absolute path: the working directory is not UTF-8")?;
    absolute_path(&format!("{from}/{rest}"))
}

const PATH_BYTES_MAX: usize = 4096;

/// Where the host's `path` is seen by this process.
pub(crate) fn below_root(rootfs: &Path, path: &Path) -> PathBuf {
    rootfs.join(path.strip_prefix("/").unwrap_or(path))
}

/// A shell pattern of backup files. Errs with the rule.
pub(crate) fn backup_pattern(text: &str) -> Result<String, BadValue> {
    if !text.starts_with('/') {
        return Err("must be an absolute pattern".into());
    }
    let pattern = absolute_path(text)?.to_string_lossy().into_owned();
    glob::Pattern::new(&pattern)?;
    Ok(pattern)
}

/// The pattern as this process must look for it.
pub(crate) fn pattern_below_root(rootfs: &Path, pattern: &str) -> String {
    if rootfs == Path::new("/") {
        pattern.to_owned()
    } else {
        format!("{}{pattern}", escaped(rootfs))
    }
}

/// The pattern as it stood in the configuration.
pub(crate) fn pattern_of_host(rootfs: &Path, pattern: &str) -> String {
    if rootfs == Path::new("/") {
        return pattern.to_owned();
    }
    pattern.strip_prefix(&escaped(rootfs)).unwrap_or(pattern).to_owned()
}

fn escaped(rootfs: &Path) -> String {
    glob::Pattern::escape(&rootfs.to_string_lossy())
}

/// Where a server is asked: `http` or `https`, without anything that could be a secret. Gives it without a slash at its
/// end. Errs with the rule.
pub(crate) fn server_url(text: &str) -> Result<String, BadValue> {
    const RULE: &str = "must be a URL such as http://127.0.0.1:8000";
    if text.len() > URL_BYTES_MAX || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err(RULE.into());
    }
    let url = reqwest::Url::parse(text)
        .map_err(|error| BadValue::Url { rule: RULE, why: error.to_string() })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(RULE.into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must be a URL such as http://127.0.0.1:8000; user and password belong into headers_file"
            .into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must be a URL such as http://127.0.0.1:8000, without ? and #".into());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

const URL_BYTES_MAX: usize = 1024;

/// The release of Chroma. Errs with the rule.
pub(crate) fn chroma_version(text: &str) -> Result<&str, BadValue> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    if text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(plain)
    {
        Ok(text)
    } else {
        Err("must be a version such as 1.5.9".into())
    }
}

/// Path of the metrics page. Errs with the rule.
pub(crate) fn telemetry_path(text: &str) -> Result<&str, BadValue> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-' | '~');
    if !text.starts_with('/') || text.len() > 256 || !text.chars().all(plain) {
        return Err("must start with / and hold only A-Z a-z 0-9 / _ . - ~".into());
    }
    let taken = |route: &str| text == route || text.starts_with(&format!("{route}/"));
    if text == "/" || text.starts_with("//") || taken("/-") || taken("/api") {
        return Err(
            "must be another path than /, /-/... and /api/..., which this program answers itself"
                .into(),
        );
    }
    Ok(text)
}

/// A name of this server, without a port. Errs with the rule.
pub(crate) fn host_name(text: &str) -> Result<String, BadValue> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.is_empty() || text.len() > 253 || !text.chars().all(plain) {
        return Err("must be the name of a host such as chroma.example.org, without a port".into());
    }
    Ok(text.to_ascii_lowercase())
}

/// An address to listen on. What stands before the port may be missing: then every interface is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// One address.
    At(SocketAddr),
    /// This port of every interface.
    Everywhere(u16),
}

impl Listen {
    /// Reads `127.0.0.1:18000`, `[::1]:18000`, `localhost:18000` or `:18000`. Other names are refused: which address they
    /// mean may change, and asking for it may take long. Errs with the rule.
    pub fn parse(text: &str) -> Result<Self, BadValue> {
        const RULE: &str =
            "must be ADDRESS:PORT, such as 127.0.0.1:18000, [::1]:18000, localhost:18000 or :18000";
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        if text.parse::<IpAddr>().is_ok() || text == "localhost" {
            return Err("must be ADDRESS:PORT, such as 127.0.0.1:18000, [::1]:18000, localhost:18000 or :18000: the port is missing".into());
        }
        let (host, port) = text.rsplit_once(':').ok_or(RULE)?;
        let port =
            Some(port).filter(|port| port.bytes().all(|b| b.is_ascii_digit())).ok_or(RULE)?;
        let port = port.parse().map_err(|_| RULE)?;
        match host {
            "" => Ok(Self::Everywhere(port)),
            "localhost" => Ok(Self::At((Ipv4Addr::LOCALHOST, port).into())),
            _ => Err(RULE.into()),
        }
    }

    /// The socket. A host without IPv6 cannot open `[::]`, and one with it answers IPv4 there too.
    #[must_use]
    pub fn address(self, ipv6: bool) -> SocketAddr {
        match self {
            Self::At(at) => at,
            Self::Everywhere(port) if ipv6 => (Ipv6Addr::UNSPECIFIED, port).into(),
            Self::Everywhere(port) => (Ipv4Addr::UNSPECIFIED, port).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_are_urls_without_secrets() {
        for (text, want) in [
            ("http://127.0.0.1:8000", Some("http://127.0.0.1:8000")),
            ("http://localhost:8000/", Some("http://localhost:8000")),
            ("HTTPS://Chroma.example/base//", Some("https://chroma.example/base")),
            ("http://[::1]:8000", Some("http://[::1]:8000")),
            ("http://user:secret@h", None),
            ("http://user@h", None),
            ("http://h/?token=x", None),
            ("http://h/#x", None),
            ("127.0.0.1:8000", None),
            ("localhost:8000", None),
            ("ftp://h", None),
            ("unix:/run/x", None),
            ("http://", None),
            ("http://h:99999", None),
            ("http://a b", None),
            ("", None),
        ] {
            assert_eq!(server_url(text).ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn store_names_are_plain_and_made_from_the_path() {
        for (path, want) in
            [("/srv/chroma", "chroma"), ("/", "root"), ("/srv/my data (ü)", "my_data____")]
        {
            assert_eq!(default_store_name(Path::new(path)), want);
        }
        assert!(store_name("a.b-C_9").is_ok());
        for bad in ["", "a b", "ä", "a/b", "a\"", &"x".repeat(65)] {
            assert!(store_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_come_out_in_one_spelling() {
        for (text, want) in [
            ("/srv/chroma", Some("/srv/chroma")),
            ("/srv//chroma/./", Some("/srv/chroma")),
            ("/", Some("/")),
            ("/srv/..", None),
            ("srv", None),
            ("", None),
            ("/srv\n/x", None),
            ("/srv/..data", Some("/srv/..data")),
        ] {
            assert_eq!(absolute_path(text).ok().as_deref(), want.map(Path::new), "{text:?}");
        }
        for (text, want) in [
            (".", "/home/a"),
            ("./", "/home/a"),
            ("data", "/home/a/data"),
            ("./data/", "/home/a/data"),
            ("..", "/home"),
            ("../b", "/home/b"),
            (".././/../../b", "/b"),
            ("...", "/home/a/..."),
            (".hidden", "/home/a/.hidden"),
            ("/abs", "/abs"),
        ] {
            assert_eq!(path_from(text, Some(Path::new("/home/a"))), Ok(want.into()), "{text:?}");
        }
        assert!(path_from("link/../x", Some(Path::new("/"))).is_err());
        assert!(path_from("", Some(Path::new("/"))).is_err());
        assert!(path_from("x", None).is_err());
    }

    #[test]
    fn the_host_is_looked_for_below_its_root() {
        assert_eq!(below_root(Path::new("/host"), Path::new("/srv")), Path::new("/host/srv"));
        assert_eq!(below_root(Path::new("/"), Path::new("/srv")), Path::new("/srv"));
        for rootfs in ["/", "/host", "/odd[1]*"] {
            let seen = pattern_below_root(Path::new(rootfs), "/b/*.gz");
            assert_eq!(pattern_of_host(Path::new(rootfs), &seen), "/b/*.gz");
            let file = below_root(Path::new(rootfs), Path::new("/b/x.gz"));
            assert!(glob::Pattern::new(&seen).unwrap().matches_path(&file), "{seen}");
        }
    }

    #[test]
    fn addresses_are_read_as_exporters_do() {
        let at = |text: &str| Listen::parse(text).map(|listen| listen.address(true).to_string());
        for (text, want) in [
            (":18000", "[::]:18000"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:18000", "[::1]:18000"),
            ("localhost:9", "127.0.0.1:9"),
            ("0.0.0.0:65535", "0.0.0.0:65535"),
        ] {
            assert_eq!(at(text), Ok(want.to_owned()), "{text}");
        }
        assert_eq!(Listen::parse(":18000").unwrap().address(false).to_string(), "0.0.0.0:18000");
        for bad in [
            "",
            "18000",
            "localhost",
            "127.0.0.1",
            "::1",
            "example.org:80",
            ":65536",
            ":",
            ":+1",
            "[::1]",
            "a:b",
        ] {
            assert!(Listen::parse(bad).is_err(), "{bad}");
        }
        assert!(
            Listen::parse("127.0.0.1").unwrap_err().to_string().ends_with("the port is missing")
        );
    }

    #[test]
    fn the_metrics_page_leaves_the_other_routes_alone() {
        for good in ["/metrics", "/a/b", "/-metrics", "/apix"] {
            assert!(telemetry_path(good).is_ok(), "{good}");
        }
        for bad in [
            "", "metrics", "/", "//", "//x", "/-", "/-/ready", "/api", "/api/v1", "/a?b", "/a b",
            "/ä", "/a%20", "/a\n",
        ] {
            assert!(telemetry_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_and_patterns_are_checked() {
        for (text, ok) in [
            ("1.5.9", true),
            ("0.6", true),
            ("1.0.0rc1", true),
            ("latest", false),
            ("", false),
            ("1 2", false),
        ] {
            assert_eq!(chroma_version(text).is_ok(), ok, "{text}");
        }
        assert_eq!(backup_pattern("/b//chroma_*.tar.gz"), Ok("/b/chroma_*.tar.gz".to_owned()));
        for bad in ["b/*", "/b/[", "/b/***", "/b/../x*"] {
            assert!(backup_pattern(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_word_makes_a_rule_panic(text in "\\PC{0,40}|[/.:\\[\\]*?0-9a-z~-]{0,40}") {
            drop((backup_pattern(&text), Listen::parse(&text)));
            drop((chroma_version(&text), telemetry_path(&text)));
            prop_assert!(store_name(&default_store_name(Path::new(&text))).is_ok());
            if let Ok(path) = path_from(&text, Some(Path::new("/home/a"))) {
                prop_assert_eq!(absolute_path(path.to_str().unwrap()), Ok(path));
            }
        }
    }
}
