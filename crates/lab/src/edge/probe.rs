//! One health-check request: real HTTP from a socket inside the edge's namespace.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use netns::NetNs;
use tokio::net::TcpSocket;

use super::ProbeAnswer;

/// More of a body says nothing about health.
const BODY_LIMIT: usize = 4096;

/// Asks `http://target path` once; returns the answer and how long it took.
///
/// Never fails: what goes wrong is the answer.
pub(super) async fn probe(
    namespace: &NetNs,
    target: SocketAddr,
    path: &str,
    timeout: Duration,
) -> (ProbeAnswer, Duration) {
    let start = Instant::now();
    let answer = match tokio::time::timeout(timeout, request(namespace, target, path)).await {
        Ok(Ok((status, body))) => ProbeAnswer::Http { status, body },
        Ok(Err(error)) => ProbeAnswer::Failed { error: chain(error.as_ref()) },
        Err(_) => ProbeAnswer::Failed { error: format!("no answer within {} ms", timeout.as_millis()) },
    };
    (answer, start.elapsed())
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn request(namespace: &NetNs, target: SocketAddr, path: &str) -> Result<(u16, String), BoxError> {
    let socket = namespace.run(|| match target {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    })??;
    let stream = socket.connect(target).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", target.to_string())
        .header("user-agent", "GoogleHC/1.0")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
