//! What every question to a server of Chroma is asked with: a client that follows no redirect and takes no proxy to this host, and the
//! headers that say who we are.

use std::{
    error::Error,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use reqwest::{
    Client, ClientBuilder, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};

use crate::hidden;

/// Why the headers are not known. No text of it holds a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadersError {
    /// The file was not read.
    #[error("cannot read headers_file {}: {why}", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the operating system said.
        why: io::Error,
    },
    /// There is no such variable of the environment, or it is no text.
    #[error("the environment has no variable {0}, or it is no text")]
    NoVariable(String),
    /// A line is no header.
    #[error("line {line} of {place} is not of the form NAME: VALUE")]
    NoHeader {
        /// Where the line stands.
        place: String,
        /// Counted from 1.
        line: u32,
    },
}

/// A client for questions to `url`; whoever asks says how long it waits.
pub(crate) fn client(url: &str) -> ClientBuilder {
    crate::tls::install();
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .user_agent(concat!("chroma_exporter/", env!("CARGO_PKG_VERSION")));
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    if url.starts_with("http:") {
        // The authorities of the system are not read, which a host may not even have.
        builder = builder.tls_certs_only([]);
    }
    builder
}

/// The innermost cause says most: `Connection refused (os error 111)`.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut words = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source.filter(|_| words.len() < 8) {
        words.push(cause.to_string());
        source = cause.source();
    }
    words.dedup();
    words.join(": ").chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

fn is_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Reads `Name: value` lines; blank lines and those that begin with `#` are passed over. Errs when
/// the file cannot be read, or a line is no header.
pub(crate) fn read_headers(file: &Path) -> Result<HeaderMap, HeadersError> {
    let mut text = String::new();
    File::open(file)
        .and_then(|open| open.take(HEADERS_BYTES_MAX + 1).read_to_string(&mut text))
        .and_then(|read| {
            let fits = u64::try_from(read).is_ok_and(|read| read <= HEADERS_BYTES_MAX);
            if fits { Ok(()) } else { Err(io::Error::from(io::ErrorKind::FileTooLarge)) }
        })
        .map_err(|why| HeadersError::Unreadable { file: file.to_owned(), why })?;
    parse(&text).map_err(|line| HeadersError::NoHeader { place: file.display().to_string(), line })
}

/// The same out of a variable of the environment. Errs when there is none, or a line is no header.
pub(crate) fn headers_of_variable(name: &str) -> Result<HeaderMap, HeadersError> {
    let text = std::env::var(name).map_err(|_| HeadersError::NoVariable(name.to_owned()))?;
    parse(&text)
        .map_err(|line| HeadersError::NoHeader { place: format!("the variable {name}"), line })
}

/// Errs with the number of the line that is no header.
fn parse(text: &str) -> Result<HeaderMap, u32> {
    let mut headers = HeaderMap::new();
    for (number, line) in (1_u32..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
        });
        let Some((name, value)) = header else {
            return Err(number);
        };
        if !PLAIN_HEADERS.contains(&name.as_str())
            && let Ok(text) = value.to_str()
        {
            hidden::note_header(text);
        }
        headers.append(name, value);
    }
    Ok(headers)
}

/// What these say is no secret, and stands in other texts too.
const PLAIN_HEADERS: [&str; 6] =
    ["accept", "accept-encoding", "accept-language", "content-type", "host", "user-agent"];
const HEADERS_BYTES_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_line_by_line_and_a_wrong_one_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        std::fs::write(&file, "# for Chroma\n\nAuthorization: Bearer geheim\r\nX-Chroma-Token:t\n")
            .unwrap();
        let headers = read_headers(&file).unwrap();
        assert_eq!(headers["authorization"], "Bearer geheim");
        assert_eq!(headers["x-chroma-token"], "t");
        assert!(!format!("{headers:?}").contains("geheim"));
        for wrong in ["geheim", "a b: geheim", ": geheim", "ok: 1\nName: ge\u{1}heim"] {
            std::fs::write(&file, wrong).unwrap();
            let reported = read_headers(&file).unwrap_err().to_string();
            assert!(reported.contains("NAME: VALUE") && !reported.contains("heim"), "{reported}");
        }
        std::fs::write(&file, "x: 1\n".repeat(10_000)).unwrap();
        assert!(read_headers(&file).unwrap_err().to_string().contains("too large"));
        let none = read_headers(&dir.path().join("none")).unwrap_err();
        assert!(
            matches!(none, HeadersError::Unreadable { why, .. } if why.kind() == io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn only_this_host_is_asked_past_every_proxy() {
        for (url, want) in [
            ("http://127.0.0.1:8000", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:8000", true),
            ("http://localhost", true),
            ("http://localhost.example", false),
            ("http://10.0.0.1", false),
            ("nothing", false),
        ] {
            assert_eq!(is_loopback(url), want, "{url}");
        }
    }
}
