//! The two servers. Each prints its address and serves until it is killed.

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use chroma_exporter::{
    clock,
    collectors::CollectError,
    config::{CollectorName, Config, Web},
    findings::Code,
    host::Host,
    http::{self, App, Limits, Listeners},
    metrics::{self, CONTENT_TYPE, Facts, Own},
    publish::{Published, Publisher},
    sample::{Desc, Observation, Reading, Snapshot, StoreReadings},
};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

/// Ten stores with as many series as a page of `node_exporter` has bytes.
const STORES: usize = 10;

static SIZES: Desc = Desc::gauge("chroma_store_allocated_bytes", "Bytes on disk by class of file.")
    .labelled(&["class"]);
static SECONDS: Desc =
    Desc::gauge("chroma_integrity_duration_seconds", "How long the check took, cached.")
        .labelled(&["check"]);
static DESCS: &[&Desc] = &[&SIZES, &SECONDS];

fn snapshot() -> Arc<Snapshot> {
    let now = clock::now();
    let stores = (0..STORES).map(|number| StoreReadings {
        firsts: std::sync::Arc::default(),
        trial: None,
        store: format!("store-{number}").into(),
        path: Path::new("/var/lib/chroma").join(number.to_string()).into(),
        readings: CollectorName::ALL.into_iter().map(|name| Arc::new(reading(name, now))).collect(),
        collectors: CollectorName::ALL.len(),
    });
    Arc::new(Snapshot { taken_at: now, stores: stores.collect() })
}

fn reading(name: CollectorName, now: clock::Timestamp) -> Reading {
    let classes = (0..8).map(|class| {
        let label = format!("{}_class_{class}", name.as_str());
        [
            SIZES.with(vec![label.clone().into()], 4096.0 * f64::from(class)),
            SECONDS.with(vec![label.into()], 0.125),
        ]
    });
    let failing = name == CollectorName::Backups;
    Reading {
        next_within: Duration::from_secs(30),
        collector: name.as_str(),
        descs: DESCS,
        observation: Observation {
            samples: classes.flatten().collect(),
            problems: failing
                .then(|| CollectError::OutOfReach("no".to_owned()))
                .into_iter()
                .collect(),
            ..Observation::default()
        },
        taken_at: now,
        duration: Duration::from_millis(3),
        last_success: Some(now),
        codes: if name == CollectorName::Disk { Code::ALL } else { &[] },
    }
}

/// Median time to encode one page, plain and gzipped.
pub(crate) fn encoding_ms() -> f64 {
    let (snapshot, own) = (snapshot(), Own::new("/metrics", clock::now()).unwrap());
    let mut times: Vec<f64> = (0..101)
        .map(|_| {
            let began = clock::ticks();
            metrics::encode(&snapshot, &own, &Facts::default(), 20_000).unwrap();
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// What both servers begin with: the first page of ten stores, and who makes the next.
struct Begun {
    publisher: Publisher,
    pages: watch::Receiver<Arc<Published>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    own: Own,
    web: Web,
}

fn begin() -> Begun {
    let web = Web { listen_addresses: vec![local()], ..Web::default() };
    let own = Own::new(&web.telemetry_path, clock::now()).unwrap();
    let config = Arc::new(Config::default());
    let host = Arc::new(Host::new(&config));
    let (_, configs) = watch::channel(config);
    let (snapshots, unseen) = watch::channel(snapshot());
    let (_, alerts) = watch::channel(Arc::default());
    let (publisher, pages) =
        Publisher::new(unseen, configs, alerts, host, own.clone(), &web.telemetry_path).unwrap();
    Begun { publisher, pages, snapshots, own, web }
}

/// The exporter's publisher and HTTP side. Snapshots come as often as ten stores make them: every page is encoded while
/// others are being fetched.
pub(crate) fn ours() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let Begun { publisher, pages, snapshots, own, web } = begin();
        let stop = CancellationToken::new();
        tokio::spawn(publisher.run(stop.clone()));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(80)).await;
                snapshots.send_replace(snapshot());
            }
        });
        let listeners = Listeners::bind(&web).unwrap();
        println!("{}", listeners.local_addrs()[0]);
        let (reload, _reloads) = mpsc::channel(1);
        http::run(
            listeners,
            App { pages, own, reload, secure: None },
            &web,
            Limits::of(&web),
            stop,
        )
        .await;
    });
}

/// The same bytes with the same headers, and nothing else.
pub(crate) fn floor() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let page = begin().pages.borrow().metrics.clone();
        let listener = TcpListener::bind(local()).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let page = page.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let gzip = request.headers().contains_key(header::ACCEPT_ENCODING);
                    let body = if gzip { &page.gzip } else { &page.identity };
                    let mut response = Response::builder()
                        .header(header::CONTENT_TYPE, CONTENT_TYPE)
                        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
                        .header(header::VARY, "Accept-Encoding");
                    if gzip {
                        response = response.header(header::CONTENT_ENCODING, "gzip");
                    }
                    let response = response.body(Full::new(body.clone())).unwrap();
                    async { Ok::<_, Infallible>(response) }
                });
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
