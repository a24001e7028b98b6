//! Out of file descriptors. In a process of its own, because the limit holds for all of it.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::FileExt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chroma_exporter::{
    clock::{self, Timestamp},
    config::Web,
    http::{self, App, Limits, Listeners},
    metrics::{Own, Page},
    publish::{Body, Published},
    sample::Snapshot,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpSocket,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::support::{SOON, own_process};

fn get(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
        .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Processor time of this process in seconds, from a descriptor that is open already.
fn spent_seconds(stat: &File) -> f64 {
    let mut bytes = [0; 4096];
    let length = stat.read_at(&mut bytes, 0).unwrap();
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

#[test]
fn the_server_outlives_a_time_without_descriptors() {
    if !own_process::is_mine("http_descriptors::the_server_outlives_a_time_without_descriptors") {
        return;
    }
    let web =
        Web { listen_addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Web::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let listeners = Listeners::bind(&web).unwrap();
    let address = listeners.local_addrs()[0];
    let page = Page { identity: Bytes::new(), gzip: Bytes::new(), dropped_series: 0 };
    let (_pages, pages) = watch::channel(Arc::new(Published {
        metrics: page,
        index: Body::default(),
        status: Body::default(),
        snapshot: Arc::new(Snapshot { taken_at: Timestamp::from_secs(0), stores: Vec::new() }),
        ready: true,
    }));
    let (reload, _reloads) = mpsc::channel(1);
    let own = Own::new("/metrics", Timestamp::from_secs(0)).unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let server = runtime.spawn(async move {
        let app = App { pages, own, reload, secure: None };
        http::run(listeners, app, &web, Limits::of(&web), stopped).await;
    });
    assert!(get(&mut TcpStream::connect(address).unwrap()).starts_with("HTTP/1.1 200 "));

    // The kernel completes connections by itself; taking one is what needs a descriptor. Clients have theirs before.
    let stat = File::open("/proc/self/stat").unwrap();
    let clients: Vec<TcpSocket> = (0..4).map(|_| TcpSocket::new_v4().unwrap()).collect();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: before.maximum }).unwrap();
    let mut fillers: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        fillers.push(file);
    }
    let waiting: Vec<TcpStream> = clients
        .into_iter()
        .map(|client| {
            let connected = runtime.block_on(client.connect(address)).unwrap();
            let stream = connected.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream
        })
        .collect();
    let (spent, began) = (spent_seconds(&stat), clock::ticks());
    std::thread::sleep(Duration::from_secs(1));
    let share = (spent_seconds(&stat) - spent) / began.elapsed().as_secs_f64();
    assert!(share < 0.5, "a loop that cannot accept takes {share} of a core");
    assert!(!server.is_finished());

    drop(fillers);
    for mut client in waiting {
        assert!(get(&mut client).starts_with("HTTP/1.1 200 "), "those who waited are served");
    }
    stop.cancel();
    runtime.block_on(async { tokio::time::timeout(SOON, server).await }).unwrap().unwrap();
}
