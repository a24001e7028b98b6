//! An SMTP server on loopback that speaks as real ones do, over STARTTLS, TLS or neither, and misbehaves where it is told to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// What it does instead of its usual reply.
#[derive(Debug, Clone)]
pub enum Act {
    /// These bytes.
    Says(Vec<u8>),
    /// Nothing, for ever.
    Hangs,
    /// It ends the connection.
    Drops,
}

/// How the connection is encrypted.
#[derive(Clone)]
pub enum Security {
    None,
    StartTls(Arc<ServerConfig>),
    Tls(Arc<ServerConfig>),
}

/// What came over one connection.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Every command line, with `(TLS)` before those that were encrypted.
    pub commands: Vec<String>,
    /// The message as it was sent, without the dots of the transport.
    pub message: Option<String>,
}

pub struct Smtp {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Smtp {
    /// `acts` stand in for the replies to the lines that begin so, to `GREETING`, and to the `MESSAGE`.
    pub async fn start(security: Security, acts: Vec<(&'static str, Act)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (all, acts, security) = (Arc::clone(&all), acts.clone(), security.clone());
                tokio::spawn(async move {
                    let index = all.lock().unwrap().len();
                    all.lock().unwrap().push(Seen::default());
                    let talk = Talk { acts, all, index };
                    talk.over(stream, security).await;
                });
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

struct Talk {
    acts: Vec<(&'static str, Act)>,
    all: Arc<Mutex<Vec<Seen>>>,
    index: usize,
}

impl Talk {
    async fn over(&self, stream: TcpStream, security: Security) {
        match security {
            Security::None => drop(self.exchange(stream, true, false, "").await),
            Security::Tls(config) => {
                if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                    self.exchange(stream, true, false, "(TLS) ").await;
                }
            }
            Security::StartTls(config) => {
                let Some(stream) = self.exchange(stream, true, true, "").await else { return };
                if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                    self.exchange(stream, false, false, "(TLS) ").await;
                }
            }
        }
    }

    /// Until the end; hands the stream back when TLS begins.
    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        greets: bool,
        offers_tls: bool,
        mark: &str,
    ) -> Option<S> {
        let mut stream = BufReader::new(stream);
        if greets {
            self.reply(&mut stream, "GREETING", "220 test ESMTP\r\n").await?;
        }
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_owned();
            self.note(|seen| seen.commands.push(format!("{mark}{line}")));
            let capabilities = if offers_tls {
                "250-test\r\n250-8BITMIME\r\n250 STARTTLS\r\n"
            } else {
                "250-test\r\n250 AUTH PLAIN LOGIN\r\n"
            };
            let usual = match line.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" => capabilities,
                "STARTTLS" if offers_tls => {
                    self.reply(&mut stream, &line, "220 go on\r\n").await?;
                    return Some(stream.into_inner());
                }
                "AUTH" => "235 2.7.0 welcome\r\n",
                "MAIL" | "RCPT" => "250 2.1.0 ok\r\n",
                "DATA" => "354 go on\r\n",
                "QUIT" => "221 bye\r\n",
                _ => "500 what?\r\n",
            };
            self.reply(&mut stream, &line, usual).await?;
            if line == "DATA" && !self.acts.iter().any(|(at, _)| *at == "DATA") {
                let mut message = String::new();
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.ok()? == 0 {
                        return None;
                    }
                    if line == ".\r\n" {
                        break;
                    }
                    message.push_str(line.strip_prefix('.').unwrap_or(&line));
                }
                self.note(|seen| seen.message = Some(message));
                self.reply(&mut stream, "MESSAGE", "250 2.0.0 queued as 1A2B\r\n").await?;
            }
        }
    }

    fn note(&self, put: impl FnOnce(&mut Seen)) {
        put(&mut self.all.lock().unwrap()[self.index]);
    }

    async fn reply<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        at: &str,
        usual: &str,
    ) -> Option<()> {
        let act = self.acts.iter().find(|(line, _)| at.starts_with(line)).map(|(_, act)| act);
        let says = match act {
            None => usual.as_bytes(),
            Some(Act::Says(bytes)) => bytes,
            Some(Act::Drops) => return None,
            Some(Act::Hangs) => std::future::pending().await,
        };
        stream.write_all(says).await.ok()?;
        stream.flush().await.ok()
    }
}
