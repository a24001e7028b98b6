//! One connection: hyper on top, below it a guard that notices when the client lets us wait too long. hyper's own header
//! timeout runs while a connection is idle too (it would cut off a scraper that comes every 15 s), and it has none for
//! a client that does not read its answer.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::{Limits, SentFrom};
use crate::clock::{self, Ticks};

/// Largest request header; also bounds what hyper buffers for a connection.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Serves requests of one client until it leaves, breaks the rules or is too slow, or until `stop`: then the answer under
/// way is finished, for at most [`Limits::drain`].
pub(super) async fn serve<S, F>(
    stream: S,
    limits: &Limits,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let pulse = Arc::new(Pulse::new());
    let service = service_fn(|request| {
        pulse.set(Phase::Answering);
        let answering = answer(request);
        let pulse = &pulse;
        async move {
            let mut response = answering.await;
            *pulse.place.lock() = response.extensions_mut().remove();
            pulse.set(Phase::Writing);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let guarded = Guarded { stream, pulse: Arc::clone(&pulse) };
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(guarded), service);
    let mut connection = pin!(connection);
    let mut stopped = pin!(stop.cancelled());
    let mut armed = pulse.deadline(limits);
    let mut timer = pin!(tokio::time::sleep_until(armed.into_std().into()));
    let mut drained_by: Option<Ticks> = None;
    poll_fn(|cx| {
        loop {
            // An error here is the client's: it left, or sent what is not HTTP (hyper has answered that).
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if drained_by.is_none() && stopped.as_mut().poll(cx).is_ready() {
                drained_by = Some(clock::ticks().plus(limits.drain));
                connection.as_mut().graceful_shutdown();
                continue;
            }
            // The timer is only ever moved when it must ring earlier, or has rung: an ordinary request costs no timer.
            let by_phase = pulse.deadline(limits);
            let deadline = drained_by.map_or(by_phase, |by| by.min(by_phase));
            if deadline < armed {
                armed = deadline;
                timer.as_mut().reset(armed.into_std().into());
            }
            ready!(timer.as_mut().poll(cx));
            if clock::ticks() >= deadline {
                return Poll::Ready(());
            }
            armed = deadline;
            timer.as_mut().reset(armed.into_std().into());
        }
    })
    .await;
}

/// What the connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The rest of a request's header; a fresh connection is here too.
    Header,
    /// Our own answer.
    Answering,
    /// The client to take it.
    Writing,
    /// The next request.
    Idle,
}

/// The phase and since when. Only one task at a time touches it, but that task moves between threads.
#[derive(Debug)]
struct Pulse {
    opened: Ticks,
    phase: AtomicU8,
    /// Nanoseconds after `opened`.
    since: AtomicU64,
    /// The place of the page that is being sent.
    place: Mutex<Option<SentFrom>>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            opened: clock::ticks(),
            phase: AtomicU8::new(Phase::Header as u8),
            since: AtomicU64::new(0),
            place: Mutex::new(None),
        }
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn set(&self, phase: Phase) {
        let since = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.since.store(since, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn deadline(&self, limits: &Limits) -> Ticks {
        let allowed = if self.is(Phase::Header) {
            limits.header
        } else if self.is(Phase::Idle) {
            limits.idle
        } else {
            limits.answer
        };
        let since = Duration::from_nanos(self.since.load(Ordering::Relaxed));
        self.opened.plus(since + allowed)
    }
}

/// The socket, telling the pulse what happens on it.
struct Guarded<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() && buf.filled().len() > before && self.pulse.is(Phase::Idle) {
            self.pulse.set(Phase::Header);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when its buffer is empty, and it puts a whole answer of ours into the buffer at once: a flush after
    /// an answer means that the kernel has all of it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.pulse.is(Phase::Writing) {
            self.pulse.set(Phase::Idle);
            drop(self.pulse.place.lock().take());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
