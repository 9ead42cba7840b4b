//! Connections to observers: plain text or TLS with a certificate of one's own, TCP or a unix socket. Never retries.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::tls::Certificates;

/// Who to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `address:port`, `name:port` or `unix:///path`.
    pub address: String,
    /// The name in its certificate; `None`: plain text.
    pub server_name: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to {0}: not an address")]
    Address(String),
    #[error("connect to {0}: {1:?} is not a server name")]
    ServerName(String, String),
    #[error("connect to {0}: it wants TLS and there is no certificate to show")]
    NoCertificate(String),
    #[error("connect to {0}: it speaks plain text, outside this machine")]
    PlainText(String),
    #[error("connect to {0}")]
    Transport(String, #[source] tonic::transport::Error),
}

const TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What one stream may have on its way.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Room for all streams that a relay has on one connection: a client that stops reading must not stop another's stream.
const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects, with a certificate where the target has one.
///
/// Whoever has certificates speaks plain text only within the machine.
pub async fn connect(
    target: &Target,
    certificates: Option<&Arc<Certificates>>,
) -> Result<Channel, ConnectError> {
    let address = target.address.clone();
    let tls = match (&target.server_name, certificates) {
        (Some(name), Some(certificates)) => {
            let parsed = ServerName::try_from(name.clone())
                .map_err(|_| ConnectError::ServerName(address.clone(), name.clone()))?;
            Some((parsed, Arc::clone(certificates)))
        }
        (Some(_), None) => return Err(ConnectError::NoCertificate(address)),
        (None, Some(_)) if !is_local(&address) => return Err(ConnectError::PlainText(address)),
        (None, _) => None,
    };
    let unix = address.strip_prefix("unix://").map(str::to_owned);
    let authority = if unix.is_some() { "localhost" } else { address.as_str() };
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|_| ConnectError::Address(address.clone()))?
        .connect_timeout(TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let to = address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, unix, address) = (tls.clone(), unix.clone(), address.clone());
        async move { open(&address, unix, tls).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| ConnectError::Transport(to, error))
}

async fn open(
    address: &str,
    unix: Option<String>,
    tls: Option<(ServerName<'static>, Arc<Certificates>)>,
) -> io::Result<Box<dyn Stream>> {
    let stream: Box<dyn Stream> = match unix {
        Some(path) => Box::new(UnixStream::connect(path).await?),
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
    };
    Ok(match tls {
        Some((name, certificates)) => {
            Box::new(TlsConnector::from(certificates.current().client).connect(name, stream).await?)
        }
        None => stream,
    })
}

fn is_local(address: &str) -> bool {
    address.starts_with("unix://")
        || address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}
