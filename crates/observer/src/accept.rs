//! Connections that came with a valid certificate. Handshakes run beside each other, each for a limited time, so that one
//! that hangs delays nobody. Never hands on a connection before its handshake is done.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::tls::Certificates;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HANDSHAKES: usize = 256;
/// The most refusals that are remembered as logged.
const MAX_LOGGED: usize = 1024;

/// A connection whose peer showed a certificate.
#[derive(Debug)]
pub(crate) struct Secured(Box<TlsStream<TcpStream>>);

/// Accepts until the stream is dropped.
pub(crate) fn incoming(
    listener: TcpListener,
    certificates: Arc<Certificates>,
) -> impl Stream<Item = io::Result<Secured>> {
    let (send, receive) = mpsc::channel(16);
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let logged = Arc::new(Logged::default());
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = send.closed() => return,
            };
            let Ok((stream, from)) = accepted else {
                // No file descriptor, most likely: one is free again soon.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let acceptor = TlsAcceptor::from(certificates.current().server);
            let (send, logged) = (send.clone(), Arc::clone(&logged));
            tokio::spawn(async move {
                match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    // The server has gone if nobody receives.
                    Ok(Ok(stream)) => drop(send.send(Ok(Secured(Box::new(stream)))).await),
                    Ok(Err(error)) => logged.refusal(from, &error.to_string()),
                    Err(_) => logged.refusal(from, "the handshake took too long"),
                }
                drop(permit);
            });
        }
    });
    ReceiverStream::new(receive)
}

/// What was logged already: one line per address and reason.
#[derive(Debug, Default)]
struct Logged(Mutex<BTreeSet<(IpAddr, String)>>);

impl Logged {
    fn refusal(&self, from: SocketAddr, reason: &str) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MAX_LOGGED && logged.insert((from.ip(), reason.to_owned())) {
            tracing::warn!(from = %from.ip(), reason, "connection refused; the same is not logged again");
        }
    }
}

impl Connected for Secured {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
