//! `--web.config.file` of the built binary: TLS, certificates of clients, users, headers, rate, and what happens when its
//! files change.

use std::{fs, net::SocketAddr, path::Path, sync::Once, time::Duration};

use crate::support::{self, Exporter, SOON, now, run, wait_within};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Certificate, Client, Identity, Response};

/// An authority, and certificates that it has signed: PEM of certificate and key.
struct Pki {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        Self { authority, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn client(&self, own: Option<&(String, String)>) -> Client {
        let authority = Certificate::from_pem(self.authority.as_bytes()).unwrap();
        // A connection for each request, so that each meets what is in force.
        let builder = Client::builder().tls_certs_only([authority]).pool_max_idle_per_host(0);
        let builder = match own {
            Some((certificate, key)) => builder
                .identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap()),
            None => builder,
        };
        builder.no_proxy().timeout(SOON).build().unwrap()
    }
}

fn start(dir: &Path, web: &str) -> Exporter {
    let store = support::fixture("chroma-1.5.9-fresh", dir);
    let file = dir.join("web.yml");
    fs::write(&file, web).unwrap();
    let (store, file) = (store.to_str().unwrap(), file.to_str().unwrap());
    Exporter::start(&["--store.path", store, "--web.config.file", file, "--state.dir", ""])
}

/// What `healthcheck` ends with, and says.
fn health(exporter: &Exporter, dir: &Path) -> (Option<i32>, String) {
    let (address, web) = (exporter.address.to_string(), dir.join("web.yml"));
    let web = web.to_str().unwrap();
    let out = run(&["healthcheck", "--web.listen-address", &address, "--web.config.file", web]);
    (out.status.code(), String::from_utf8([out.stdout, out.stderr].concat()).unwrap())
}

async fn get(client: &Client, address: SocketAddr, path: &str) -> reqwest::Result<Response> {
    client.get(format!("https://{address}{path}")).send().await
}

/// Asks again until the answer suits.
async fn until(
    what: &str,
    client: &Client,
    address: SocketAddr,
    suits: impl Fn(reqwest::Result<u16>) -> bool,
) {
    wait_within(what, SOON, async || {
        let answer = get(client, address, "/metrics").await;
        let answer = answer.map(|answer| answer.status().as_u16());
        let seen = format!("{answer:?}");
        if suits(answer) { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn until_page(
    what: &str,
    client: &Client,
    address: SocketAddr,
    suits: impl Fn(&support::Page) -> bool,
) {
    wait_within(what, SOON, async || {
        let text = get(client, address, "/metrics").await.unwrap().text().await.unwrap();
        if suits(&support::Page::parse(&text)) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn tls_serves_the_certificate_of_the_moment_and_a_bad_one_changes_nothing() {
    let (dir, pki, other) = (tempfile::tempdir().unwrap(), Pki::new(), Pki::new());
    let write = |(certificate, key): &(String, String)| {
        support::replace_file(&dir.path().join("server.key"), key);
        support::replace_file(&dir.path().join("server.crt"), certificate);
    };
    write(&pki.issue("127.0.0.1"));
    let web = "tls_server_config: {cert_file: server.crt, key_file: server.key}\nhttp_server_config:\n  headers:\n    \
               Strict-Transport-Security: max-age=60\n    X-Frame-Options: deny\n";
    let exporter = start(dir.path(), web);
    let (ours, others) = (pki.client(None), other.client(None));
    let answer = get(&ours, exporter.address, "/metrics").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=60");
    assert_eq!(answer.headers()["x-frame-options"], "deny");
    assert!(answer.text().await.unwrap().contains("chroma_exporter_build_info"));
    assert!(get(&others, exporter.address, "/metrics").await.is_err(), "signed by somebody else");
    assert_eq!(health(&exporter, dir.path()).0, Some(0), "whoever signed it");
    // Plain HTTP gets no answer, and says so to nobody but itself.
    let plain = ours.get(format!("http://{}/metrics", exporter.address)).send().await;
    assert!(plain.is_err());

    // Renewed by another authority.
    write(&other.issue("127.0.0.1"));
    until("the new certificate", &others, exporter.address, |answer| answer.is_ok()).await;
    assert!(get(&ours, exporter.address, "/metrics").await.is_err());
    // A key that does not fit is told, and the one before stays.
    let key = KeyPair::generate().unwrap().serialize_pem();
    support::replace_file(&dir.path().join("server.key"), key);
    support::wait_for("the complaint", SOON, || {
        exporter.log().contains("Web configuration problem").then_some(())
    });
    // What the program tells of itself is encoded anew at every interval.
    until_page("the rejections", &others, exporter.address, |page| {
        page.value("chroma_exporter_http_requests_rejected_total", &[("reason", "tls")]) >= 3.0
    })
    .await;
}

#[tokio::test]
async fn only_clients_with_an_allowed_certificate_are_answered() {
    let (dir, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let (certificate, key) = pki.issue("127.0.0.1");
    fs::write(dir.path().join("ca.crt"), &pki.authority).unwrap();
    let indented = |pem: &str| pem.trim().replace('\n', "\n    ");
    let web = format!(
        "tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n  client_auth_type: RequireAndVerifyClientCert\n  \
         client_ca_file: ca.crt\n  client_allowed_sans: [prometheus.example.org, 127.0.0.9]\n  min_version: TLS13\n",
        indented(&certificate),
        indented(&key)
    );
    let exporter = start(dir.path(), &web);
    let stranger = Pki::new().issue("prometheus.example.org");
    for (own, allowed) in [
        (Some(pki.issue("prometheus.example.org")), true),
        (Some(pki.issue("127.0.0.9")), true),
        (Some(pki.issue("grafana.example.org")), false),
        (Some(stranger), false),
        (None, false),
    ] {
        let answer = get(&pki.client(own.as_ref()), exporter.address, "/-/healthy").await;
        assert_eq!(answer.is_ok_and(|answer| answer.status() == 200), allowed, "{own:?}");
    }
    let (code, said) = health(&exporter, dir.path());
    assert!(code == Some(1) && said.contains("no answer from https://127.0.0.1:"), "{said}");
    assert!(!exporter.log().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn users_are_asked_for_their_password_and_changes_count_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let web = |password: &str| {
        format!("basic_auth_users:\n  alice: {}\n", bcrypt::hash(password, 4).unwrap())
    };
    let exporter = start(dir.path(), &web("sesame"));
    let client = Client::builder().no_proxy().timeout(SOON).build();
    let client = {
        Pki::new().client(None);
        client
    }
    .unwrap();
    let ask = async |path: &str, who: Option<(&str, &str)>| {
        let request = client.get(format!("http://{}{path}", exporter.address));
        let request = match who {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        request.send().await.unwrap()
    };
    for path in ["/", "/metrics", "/-/healthy", "/-/ready", "/nowhere"] {
        let answer = ask(path, None).await;
        assert_eq!(answer.status(), 401, "{path}");
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        assert_eq!(ask(path, Some(("alice", "x"))).await.status(), 401, "{path}");
        assert_ne!(ask(path, Some(("alice", "sesame"))).await.status(), 401, "{path}");
    }
    // It is alive, and that is all that is asked.
    let (code, said) = health(&exporter, dir.path());
    assert!(code == Some(0) && said.ends_with("/-/healthy answers with 401\n"), "{said}");
    support::replace_file(&dir.path().join("web.yml"), web("other"));
    wait_within("the new password to count", SOON, async || {
        let status = ask("/metrics", Some(("alice", "other"))).await.status();
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(ask("/metrics", Some(("alice", "sesame"))).await.status(), 401);
    assert!(!exporter.log().contains("$2"), "hashes are secrets: {}", exporter.log());

    // What a full disk or an editor leaves of the file takes no password away.
    let rate = "rate_limit: {interval: 1h, burst: 2}\n";
    for less in ["", "# nothing\n", rate] {
        let reported = exporter.log().matches("has no basic_auth_users any more").count();
        support::replace_file(&dir.path().join("web.yml"), less);
        wait_within(&format!("a word about {less:?}"), SOON, async || {
            let log = exporter.log();
            let now = log.matches("has no basic_auth_users any more").count();
            if now == reported { Err(log) } else { Ok(()) }
        })
        .await;
        assert_eq!(ask("/metrics", None).await.status(), 401, "{less:?}");
    }

    support::replace_file(&dir.path().join("web.yml"), format!("{}{rate}", web("other")));
    let began = now();
    while ask("/metrics", None).await.status() != 429 {
        assert!(began.elapsed() < SOON, "the rate is not limited");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_is_wrong_is_told_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yml");
    let named = file.to_str().unwrap();
    for (content, reported) in [
        (
            "tls_server_config: {cert_file: no.crt, key_file: no.key}\n",
            "no.crt: cannot be read: No such file",
        ),
        (
            "tls_server_config: {cert_file: web.yml, key_file: web.yml}\n",
            "holds no certificate in PEM",
        ),
        (
            "basic_auth_users: {alice: secret-word}\n",
            "web.yml:1: basic_auth_users.alice: must be a bcrypt hash",
        ),
        ("tls: {}\n", "web.yml:1: tls: unknown key"),
    ] {
        fs::write(&file, content).unwrap();
        for words in [&["config", "check"][..], &["serve"], &[]] {
            let out = run(&[words, &["--web.config.file", named]].concat());
            let stderr = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(78), "{words:?} {content} {stderr}");
            assert!(stderr.contains(reported), "{reported} in {stderr}");
            assert!(!stderr.contains("secret-word"), "{stderr}");
        }
    }
    let out = run(&["config", "check", "--web.config.file", "/nowhere/web.yml"]);
    assert_eq!(out.status.code(), Some(78));
}
