//! Serves what [`crate::health`] answers: a port per Service that asks for one, and the proxy's own.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::FutureExt as _;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use model::{Family, Port, ServiceName};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use crate::{
    controller::Controller,
    events::Notice,
    health::{self, Answer, Check, Checks, FamilyProgress, Proxy},
    metrics::Metrics,
    worker::Worker,
};

/// A listener that could not be opened is tried again this often, and with every change.
const RETRY: Duration = Duration::from_secs(10);
/// A client that does not finish its request is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How the proxy is, asked anew for every answer.
#[derive(Clone)]
pub(crate) struct Probe {
    pub(crate) controller: Controller,
    pub(crate) worker: Worker,
}

impl Probe {
    pub(crate) fn proxy(&self) -> Proxy {
        let progress = self.worker.progress();
        let ago = |at: Instant| SystemTime::now().checked_sub(at.elapsed());
        let of = |family| FamilyProgress {
            updated: progress
                .updated
                .get(&family)
                .copied()
                .and_then(ago)
                .and_then(|at| Timestamp::try_from(at).ok()),
            waited: progress.pending_since.get(&family).map(Instant::elapsed),
        };
        let addresses = self.controller.node_config().map(|node| node.addresses).unwrap_or_default();
        Proxy {
            now: Timestamp::now(),
            families: addresses.into_iter().map(Family::of).map(|family| (family, of(family))).collect(),
            node_eligible: self.controller.node_eligible(),
        }
    }
}

/// Serves `/healthz` and `/livez` on `listener`, for ever.
pub(crate) async fn serve_proxy(listener: TcpListener, probe: Probe, metrics: Metrics) {
    let answer = move |path: &str| match path {
        "/healthz" => {
            let answer = probe.proxy().healthz();
            metrics.answered_healthz(answer.status);
            answer
        }
        "/livez" => {
            let answer = probe.proxy().livez();
            metrics.answered_livez(answer.status);
            answer
        }
        _ => health::not_found(),
    };
    serve(listener, Arc::new(answer)).await;
}

/// Keeps a listener open for every Service that asks for one. Ends when nobody tells of changes any more.
pub(crate) async fn serve_services(
    mut checks: watch::Receiver<Checks>,
    probe: Probe,
    notices: mpsc::Sender<Notice>,
) {
    let mut open: BTreeMap<ServiceName, Open> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let current = checks.borrow_and_update().clone();
        let wanted: BTreeMap<&ServiceName, Check> = current.all().collect();
        let open_before = open.len();
        open.retain(|name, listener| {
            let same = |check: &Check| check.port == listener.port && current.addresses == listener.addresses;
            let keep = wanted.get(name).is_some_and(same);
            if !keep {
                listener.task.abort();
                tracing::info!(service = %name, port = listener.port.get(), "health check closed");
            }
            keep
        });
        // A port is free when its task has ended, and another Service may want it right now.
        for _ in open.len()..open_before {
            tasks.join_next().await;
        }
        let mut failed = false;
        for (name, check) in &wanted {
            if let Some(listener) = open.get(*name) {
                listener.endpoints.send_replace(check.endpoints);
                continue;
            }
            match listen(check.port, current.addresses.as_deref()) {
                Ok(sockets) => {
                    tracing::info!(service = %name, port = check.port.get(), "health check opened");
                    let mut listener = start(&mut tasks, sockets, (name, check), probe.clone());
                    listener.addresses.clone_from(&current.addresses);
                    open.insert((*name).clone(), listener);
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(service = %name, port = check.port.get(), %error, "cannot open the health check");
                    // Where too many wait, the log still tells.
                    let _ = notices.try_send(Notice::health_check_failed(name, check.port, &error));
                }
            }
        }
        let changed = checks.changed();
        if failed {
            // Nothing changed in time: tried again all the same.
            if let Ok(Err(_)) = tokio::time::timeout(RETRY, changed).await {
                return;
            }
        } else if changed.await.is_err() {
            return;
        }
    }
}

/// An open health-check port.
struct Open {
    port: Port,
    addresses: Option<Vec<IpAddr>>,
    endpoints: watch::Sender<usize>,
    task: AbortHandle,
}

fn start(
    tasks: &mut JoinSet<()>,
    sockets: Vec<TcpListener>,
    (name, check): (&ServiceName, &Check),
    probe: Probe,
) -> Open {
    let (sender, endpoints) = watch::channel(check.endpoints);
    let name = name.clone();
    let answer = move |_: &str| health::of_service(&name, *endpoints.borrow(), probe.proxy().is_healthy());
    let answerer: Arc<Answerer> = Arc::new(answer);
    let serving = sockets.into_iter().map(move |socket| serve(socket, Arc::clone(&answerer)));
    let task = tasks.spawn(futures::future::join_all(serving).map(drop));
    Open { port: check.port, addresses: None, endpoints: sender, task }
}

/// On `addresses`; without any given on all of both families, or of IPv4 where there is no IPv6.
fn listen(port: Port, addresses: Option<&[IpAddr]>) -> io::Result<Vec<TcpListener>> {
    let at = |address: SocketAddr| -> io::Result<TcpListener> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    if let Some(addresses) = addresses {
        // An external address may be the provider's alone, and on no interface.
        let elsewhere = |opened: &io::Result<_>| {
            opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
        };
        let opened = addresses.iter().map(|address| at((*address, port.get()).into()));
        return opened.filter(|opened| !elsewhere(opened)).collect();
    }
    let any = at((Ipv6Addr::UNSPECIFIED, port.get()).into()).or_else(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => at((Ipv4Addr::UNSPECIFIED, port.get()).into()),
        _ => Err(error),
    });
    Ok(vec![any?])
}

type Answerer = dyn Fn(&str) -> Answer + Send + Sync;

/// Answers every connection; all of them end with this future.
async fn serve(listener: TcpListener, answerer: Arc<Answerer>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => _ = connections.spawn(serve_connection(stream, Arc::clone(&answerer))),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a health check");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream, answerer: Arc<Answerer>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answerer(request.uri().path());
        async move { Ok::<_, Infallible>(response(answer)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "health check broke off");
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut builder = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(answer.body.into())).unwrap_or_default()
}
