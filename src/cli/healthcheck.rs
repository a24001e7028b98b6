//! `healthcheck`: asks the exporter that runs with the same flags whether it answers. An image that holds nothing but the program has no
//! curl for that.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use reqwest::StatusCode;

use super::{Ended, to_stderr, to_stdout};
use crate::{
    config::Config,
    host::asking::{self, chain},
    http::Secure,
};

/// Shorter than what a container engine gives a check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `healthcheck`. Well when the exporter answers; else a warning, whose exit code (1) is the one that Docker reads as unhealthy.
pub(super) fn run(config: &Config, secure: Option<&Secure>) -> Ended {
    match ask(config, secure) {
        Ok(said) => to_stdout(&format!("{said}\n"), Ended::Well),
        Err(problem) => {
            to_stderr(&format!("error: {problem}\n"));
            Ended::Warning
        }
    }
}

fn ask(config: &Config, secure: Option<&Secure>) -> Result<String, String> {
    let address = asked(&config.web.listen_addresses)?;
    let encrypted = secure.is_some_and(Secure::encrypts);
    let scheme = if encrypted { "https" } else { "http" };
    let url = format!("{scheme}://{address}/-/healthy");
    // Nothing secret is sent, and nothing but life is asked for. The certificate has the name by which others know this server.
    let client = asking::client(&url)
        .timeout(TIMEOUT)
        .no_proxy()
        .tls_certs_only([])
        .tls_danger_accept_invalid_certs(encrypted)
        .build()
        .map_err(|error| format!("cannot prepare the request: {}", chain(&error)))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the request: {error}"))?;
    match runtime.block_on(async { client.get(&url).send().await }) {
        Ok(answer) => judge(&url, answer.status()),
        Err(error) => {
            let why = chain(&error.without_url());
            Err(format!(
                "no answer from {url}: {why}\nhelp: give healthcheck the --web.listen-address, --web.config.file or --config.file that the exporter runs with"
            ))
        }
    }
}

/// An exporter that wants to know who asks, or not so often, is alive. Errs when another program answers, or it is not well.
fn judge(url: &str, status: StatusCode) -> Result<String, String> {
    match status {
        StatusCode::OK | StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => {
            Ok(format!("{url} answers with {}", status.as_u16()))
        }
        _ => Err(format!("{url} answers with {}, expected 200", status.as_u16())),
    }
}

/// Where an exporter that listens on these is reached from here. Errs when there is no address, or its port is not known.
fn asked(addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
    let mut address = *addresses.first().ok_or("no address to ask is configured")?;
    if address.port() == 0 {
        return Err("the system chose the port; give --web.listen-address with the one of the line \"Listening.\" in the log".to_owned());
    }
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_where_the_exporter_is_reached() {
        for (listens, asked_at) in [
            ("127.0.0.1:18000", "127.0.0.1:18000"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.7:1", "192.0.2.7:1"),
        ] {
            let listens = [listens.parse().unwrap()];
            assert_eq!(asked(&listens), Ok(asked_at.parse().unwrap()), "{listens:?}");
        }
        assert!(asked(&["127.0.0.1:0".parse().unwrap()]).is_err());
        assert!(asked(&[]).is_err());
    }

    #[test]
    fn only_an_exporter_that_works_is_healthy() {
        for (status, healthy) in
            [(200, true), (401, true), (429, true), (404, false), (500, false), (503, false)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(judge("http://127.0.0.1:1/-/healthy", status).is_ok(), healthy, "{status}");
        }
    }
}
