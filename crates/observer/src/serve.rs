//! Where services listen: a unix socket, loopback, or anywhere with certificates. Never listens in plain text outside
//! the machine.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use flow::proto::{
    FILE_DESCRIPTOR_SET,
    observer::observer_server::{Observer, ObserverServer},
    peer::peer_server::PeerServer,
};
use futures::StreamExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{accept, names::HEALTH_SERVICE, peers::Peers, relay::Relay, tls::Certificates};

/// The largest request, in bytes: a filter list is small.
const MAX_REQUEST: usize = 1 << 20;
/// Streams per connection: a relay asks for all its clients on one.
const MAX_STREAMS: u32 = 4096;
/// A client that does not answer a ping is gone.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Why a server could not listen or went down.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("listen on {0} without certificates: only loopback addresses are served in plain text")]
    NotLoopback(SocketAddr),
    #[error("listen on {0}")]
    Tcp(SocketAddr, #[source] io::Error),
    #[error("listen on unix socket {}", .0.display())]
    Unix(PathBuf, #[source] io::Error),
    #[error("serve gRPC")]
    Serve(#[source] tonic::transport::Error),
    #[error("make the reflection service")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// Observer, peers, health and reflection of a node.
pub async fn node_routes(node: impl Observer, peers: Peers) -> Result<Routes, ServeError> {
    let (health, routes) = routes(node, peers)?;
    health.set_service_status(HEALTH_SERVICE, ServingStatus::Serving).await;
    Ok(routes)
}

/// Observer, peers, health and reflection of a relay. It is healthy while it is connected to any node; "", the process
/// itself, always.
pub async fn relay_routes(relay: Relay) -> Result<Routes, ServeError> {
    let mut connected = relay.is_connected();
    let peers = relay.peers();
    let (health, routes) = routes(relay, peers)?;
    health.set_service_status(HEALTH_SERVICE, ServingStatus::NotServing).await;
    tokio::spawn(async move {
        while let Some(connected) = connected.next().await {
            let status = if connected { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status(HEALTH_SERVICE, status).await;
        }
    });
    Ok(routes)
}

/// The health of "" is reported by the reporter itself.
fn routes(observer: impl Observer, peers: Peers) -> Result<(HealthReporter, Routes), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let observer = ObserverServer::new(observer).max_decoding_message_size(MAX_REQUEST);
    let peers = PeerServer::new(peers).max_decoding_message_size(MAX_REQUEST);
    let routes = Routes::new(observer)
        .add_service(peers)
        .add_service(health_service)
        .add_service(reflection().build_v1alpha().map_err(ServeError::Reflection)?)
        .add_service(reflection().build_v1().map_err(ServeError::Reflection)?);
    Ok((health, routes))
}

/// A server with the limits that all listeners share.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(16 * 1024)
}

/// A socket for the machine's root and its group, mode 0660; replaces what an earlier server left.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    let bind = || {
        // Bound under another name, so that it is never there with other rights.
        let mut made = path.as_os_str().to_owned();
        made.push(".new");
        match std::fs::remove_file(&made) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&made)?;
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o660))?;
        std::fs::rename(&made, path)?;
        Ok(listener)
    };
    bind().map_err(|error| ServeError::Unix(path.to_owned(), error))
}

/// Serves on a unix socket until `stop` is done.
pub async fn unix(
    listener: UnixListener,
    routes: Routes,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let incoming = UnixListenerStream::new(listener);
    server().add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await.map_err(ServeError::Serve)
}

/// A listener in plain text, on loopback only.
pub async fn bind_loopback(address: SocketAddr) -> Result<TcpListener, ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|error| ServeError::Tcp(address, error))
}

/// Serves in plain text until `stop` is done.
pub async fn loopback(
    listener: TcpListener,
    routes: Routes,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let incoming = TcpListenerStream::new(listener);
    server().add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await.map_err(ServeError::Serve)
}

/// A listener for [`tls`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Tcp(address, error))
}

/// Serves clients with a valid certificate until `stop` is done.
pub async fn tls(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    routes: Routes,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let incoming = accept::incoming(listener, certificates);
    server().add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await.map_err(ServeError::Serve)
}
