//! How fast a scrape is, against a floor: a bare hyper server that returns the same ready bytes. Both run as processes
//! of their own, in one run, in turns, floor against floor first, so that what differs is the server and not the day.
//!
//! `cargo bench --bench scrape [-- SECONDS]`: how long each server is asked at a time; 1 if not given. Targets: p50 at
//! most 1.2 times and p99 at most twice the floor, at least 0.8 times its requests per second, resident memory under 256
//! connections at most 1.5 times that of the idle process.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that cannot run should say where and stop"
)]

mod load;
mod servers;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use load::Measured;

/// How often the servers take turns.
const ROUNDS: usize = 7;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match arguments.next().as_deref() {
        Some("floor") => servers::floor(),
        Some("ours") => servers::ours(),
        seconds => {
            let seconds = seconds.map_or(1.0, |text| text.parse().expect("seconds"));
            compare(Duration::from_secs_f64(seconds));
        }
    }
}

fn compare(run: Duration) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    memory(&runtime);
    println!("encoding one page: {:.2} ms\n", servers::encoding_ms());
    let servers = [Server::start("floor"), Server::start("floor"), Server::start("ours")];
    println!(
        "{:5} {:>5} {:>6} | {:>8} {:>8} {:>9} | {:>5} {:>5} {:>5} | {:>5} {:>5} {:>5}",
        "",
        "conns",
        "bytes",
        "p50 µs",
        "p99 µs",
        "req/s",
        "p50",
        "p99",
        "req/s",
        "p50",
        "p99",
        "req/s"
    );
    println!("{:59} | {:^17} | {:^17}", "ours", "ours / floor", "floor / floor");
    for connections in [1, 32, 256] {
        for gzip in [false, true] {
            let mut turns: [Vec<Measured>; 3] = [const { Vec::new() }; 3];
            for round in 0..=ROUNDS {
                for place in 0..servers.len() {
                    let which = (place + round) % servers.len();
                    let address = servers[which].address;
                    let measured = runtime.block_on(load::run(address, connections, gzip, run));
                    // The first round warms up caches and branch predictors.
                    if round > 0 {
                        turns[which].push(measured);
                    }
                }
            }
            report(connections, gzip, &turns);
        }
    }
}

fn memory(runtime: &tokio::runtime::Runtime) {
    for name in ["floor", "ours"] {
        let server = Server::start(name);
        // Some pages later, so that everything that is kept has been allocated.
        std::thread::sleep(Duration::from_secs(3));
        let idle = server.resident_mib();
        let crowd = runtime.block_on(load::connect(server.address, 256));
        let full = server.resident_mib();
        drop(crowd);
        println!(
            "{name}: {idle:.1} MiB idle, {full:.1} MiB with 256 connections ({:.2}×)",
            full / idle
        );
    }
}

fn report(connections: usize, gzip: bool, turns: &[Vec<Measured>; 3]) {
    let [floor, again, ours] = turns;
    let of = |turns: &[Measured], what: fn(&Measured) -> f64| median(turns.iter().map(what));
    let ratio = |a: &[Measured], b: &[Measured], what| of(a, what) / of(b, what);
    let [p50, p99, rate]: [fn(&Measured) -> f64; 3] =
        [|m| m.p50_us, |m| m.p99_us, |m| m.requests_per_second];
    println!(
        "{:5} {connections:>5} {:>6} | {:>8.0} {:>8.0} {:>9.0} | {:>5.2} {:>5.2} {:>5.2} | {:>5.2} {:>5.2} {:>5.2}",
        if gzip { "gzip" } else { "plain" },
        ours[0].body_bytes,
        of(ours, p50),
        of(ours, p99),
        of(ours, rate),
        ratio(ours, floor, p50),
        ratio(ours, floor, p99),
        ratio(ours, floor, rate),
        ratio(again, floor, p50),
        ratio(again, floor, p99),
        ratio(again, floor, rate),
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A server in a process of its own; ends with this one.
struct Server {
    address: SocketAddr,
    child: Child,
}

impl Server {
    fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { address: line.trim().parse().unwrap(), child }
    }

    fn resident_mib(&self) -> f64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
