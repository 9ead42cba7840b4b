//! The built-in echo server: HTTP and UDP answers that name the pod, the node and the client address seen.
//!
//! What the images `twinplane/echo` and `agnhost` run in a lab. Paths are those of agnhost's `netexec`.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::body;

/// Ports to serve on, and the names to answer with.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// TCP port for HTTP, all addresses of both families; may be repeated
    #[arg(long = "port")]
    pub ports: Vec<u16>,
    /// UDP port; may be repeated
    #[arg(long = "udp-port")]
    pub udp_ports: Vec<u16>,
    #[arg(long, env = "POD_NAME", default_value = "unknown")]
    pub pod: String,
    #[arg(long, env = "NODE_NAME", default_value = "unknown")]
    pub node: String,
}

#[derive(Debug)]
struct Names {
    pod: String,
    node: String,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// A port cannot be bound.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: Args) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let names = Arc::new(Names { pod: args.pod, node: args.node });
    for port in args.udp_ports {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
        tokio::spawn(answer_datagrams(socket, Arc::clone(&names)));
    }
    for port in args.ports {
        let listener = listen(port)?;
        let app = router(Arc::clone(&names)).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(1024)
}

fn router(names: Arc<Names>) -> Router {
    Router::new()
        .route("/", get(whole))
        .route("/hostname", get(|State(names): State<Arc<Names>>| async move { names.pod.clone() }))
        .route(
            "/clientip",
            get(|ConnectInfo(client): ConnectInfo<SocketAddr>| async move { plain(client).to_string() }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/echo", get(echo))
        .route("/body/{size}", get(large))
        .with_state(names)
}

async fn whole(State(names): State<Arc<Names>>, ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    line(&names, client)
}

#[derive(serde::Deserialize)]
struct Message {
    #[serde(default)]
    msg: String,
}

async fn echo(Query(message): Query<Message>) -> String {
    message.msg
}

/// `/body/<n>M`: computed, never held in memory.
async fn large(Path(size): Path<String>) -> Response {
    let Some(mebibytes) = size.strip_suffix('M').and_then(|number| number.parse::<u64>().ok()) else {
        return (StatusCode::NOT_FOUND, "want /body/<n>M\n").into_response();
    };
    const BLOCK: u64 = 1 << 16;
    let blocks = (0..mebibytes * body::MIB / BLOCK)
        .map(|index| Ok::<_, io::Error>(Bytes::from(body::block(index * BLOCK, BLOCK as usize))));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, (mebibytes * body::MIB).to_string()),
    ];
    (headers, Body::from_stream(futures::stream::iter(blocks))).into_response()
}

async fn answer_datagrams(socket: UdpSocket, names: Arc<Names>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error belongs to one datagram (ICMP about an earlier answer): the next may be fine.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = answer(&buffer[..len], &names, client);
        if let Err(error) = socket.send_to(&answer, client).await {
            tracing::debug!(%client, %error, "answer datagram");
        }
    }
}

/// agnhost's commands; anything else gets the line that HTTP gives.
fn answer(request: &[u8], names: &Names, client: SocketAddr) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    match text.trim_end() {
        "hostname" => names.pod.clone().into_bytes(),
        "clientip" => plain(client).to_string().into_bytes(),
        command => match command.strip_prefix("echo ") {
            Some(words) => words.as_bytes().to_vec(),
            None => line(names, client).into_bytes(),
        },
    }
}

fn line(names: &Names, client: SocketAddr) -> String {
    format!("pod={} node={} client={}\n", names.pod, names.node, plain(client).ip())
}

/// IPv4 clients of a dual-stack socket as IPv4.
fn plain(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Arc<Names> {
        Arc::new(Names { pod: "p".to_owned(), node: "n".to_owned() })
    }

    #[test]
    fn datagram_commands_are_agnhosts() {
        let client: SocketAddr = "[::ffff:10.0.0.9]:5000".parse().expect("address");
        let ask = |text: &str| String::from_utf8(answer(text.as_bytes(), &names(), client)).expect("text");
        assert_eq!(ask("hostname"), "p");
        assert_eq!(ask("clientip\n"), "10.0.0.9:5000");
        assert_eq!(ask("echo a b"), "a b");
        assert_eq!(ask("?"), "pod=p node=n client=10.0.0.9\n");
    }

    #[tokio::test]
    async fn http_names_the_client_and_serves_whole_bodies() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let app = router(names()).into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let ask = async |path: &str| {
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("send");
            let mut answer = vec![];
            stream.read_to_end(&mut answer).await.expect("read");
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("headers");
            answer.split_off(end + 4)
        };
        assert_eq!(ask("/").await, b"pod=p node=n client=127.0.0.1\n");
        assert_eq!(ask("/echo?msg=hi").await, b"hi");
        assert_eq!(ask("/body/1M").await, body::block(0, body::MIB as usize));
        server.abort();
    }
}
