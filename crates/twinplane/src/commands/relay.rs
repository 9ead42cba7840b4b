//! `twinplane relay`: the flows of all nodes in one place, as Hubble's relay serves them. Arguments and signals; the rest is
//! `observer`'s.

use std::{future::pending, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use agent::cli::{Bind, SocketPath};
use anyhow::Context as _;
use observer::{
    connect::Target,
    metrics,
    names::{DEFAULT_CLUSTER, peer_service},
    node::Identity,
    relay::{Config, Relay, Retry},
    serve,
    tls::{Certificates, Files},
};
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// Serve the flows of all nodes, merged by time
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who names the nodes: a node's address as ADDRESS:PORT, or unix:///PATH; given several times, the first that answers
    #[arg(
        long = "peer-service",
        value_name = "ADDRESS",
        default_value = "unix:///run/twinplane/observer.sock"
    )]
    peer_services: Vec<String>,
    /// The cluster's name in certificates of nodes
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CLUSTER)]
    cluster: String,
    /// Address that flows are served on: with certificates any, without only a loopback one, in plain text; "none" for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4245")]
    bind: Bind,
    /// Unix socket that flows are served on (0660); "none" for none
    #[arg(long, value_name = "PATH", default_value = "/run/twinplane/relay.sock")]
    socket: SocketPath,
    /// Certificate that is shown to clients and to nodes (PEM, with what leads to its authority), read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authority whose certificates clients and nodes have to show
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// The longest wait before a node or peer service that cannot be reached is tried again, as 30s or 500ms
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lab::cli::duration)]
    retry_timeout: Duration,
    /// Loopback address that /metrics is served on; "none" for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9966")]
    metrics_bind: Bind,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Certificates cannot be used, or an address or socket not be listened on.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run_until_told(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn run_until_told(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    let certificates = args.certificates()?;
    let relay = Relay::start(args.config(certificates.clone()));
    let mut tasks = listen(&args, relay, certificates).await?;
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => Err(ended.unwrap_or_else(anyhow::Error::from)),
    };
    tasks.shutdown().await;
    if let Some(socket) = &args.socket.0 {
        let _ = std::fs::remove_file(socket);
    }
    ended
}

/// Listens everywhere, or fails; the tasks serve until they fail.
async fn listen(
    args: &Args,
    relay: Relay,
    certificates: Option<Arc<Certificates>>,
) -> anyhow::Result<JoinSet<anyhow::Error>> {
    let routes = serve::relay_routes(relay.clone()).await?;
    let mut tasks = JoinSet::new();
    if let Some(path) = &args.socket.0 {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let serving = serve::unix(serve::bind_unix(path)?, routes.clone(), pending());
        tasks.spawn(async move { ended("socket", serving.await) });
    }
    match (args.bind.0, certificates) {
        (Some(address), Some(certificates)) => {
            let serving = serve::tls(serve::bind(address).await?, certificates, routes, pending());
            tasks.spawn(async move { ended("listener", serving.await) });
        }
        (Some(address), None) => {
            let serving = serve::loopback(serve::bind_loopback(address).await?, routes, pending());
            tasks.spawn(async move { ended("listener", serving.await) });
        }
        (None, _) => {}
    }
    if let Some(address) = args.metrics_bind.0 {
        let mut registry = Registry::default();
        relay.register(&mut registry);
        flow::metrics::register_build(&mut registry, "relay");
        let serving = metrics::serve(serve::bind_loopback(address).await?, registry);
        tasks.spawn(async move { ended("metrics", serving.await) });
    }
    Ok(tasks)
}

/// An error, because nothing ends while the relay runs.
fn ended(
    what: &'static str,
    result: Result<(), impl std::error::Error + Send + Sync + 'static>,
) -> anyhow::Error {
    match result {
        Ok(()) => anyhow::anyhow!("{what}: ended unexpectedly"),
        Err(error) => anyhow::Error::from(error).context(what),
    }
}

impl Args {
    fn certificates(&self) -> anyhow::Result<Option<Arc<Certificates>>> {
        let (Some(certificate), Some(key), Some(authority)) = (&self.tls_cert, &self.tls_key, &self.tls_ca)
        else {
            return Ok(None);
        };
        let files =
            Files { certificate: certificate.clone(), key: key.clone(), authority: authority.clone() };
        Ok(Some(Certificates::load(files)?))
    }

    fn config(&self, certificates: Option<Arc<Certificates>>) -> Config {
        let tls = certificates.is_some();
        let service = |address: &String| Target {
            address: address.clone(),
            server_name: (tls && !address.starts_with("unix://")).then(|| peer_service(&self.cluster)),
        };
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Config {
            identity: Identity {
                name: name.trim().to_owned(),
                version: concat!("twinplane ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            peer_services: self.peer_services.iter().map(service).collect(),
            certificates,
            retry: Retry { longest: self.retry_timeout, ..Retry::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every option has one row in the document, and every row is an option's.
    #[test]
    fn every_option_is_documented_once() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/relay.md");
        let document = std::fs::read_to_string(path).expect("the document");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `--"));
        let name =
            |row: &str| row.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().map(str::to_owned);
        let mut documented: Vec<_> = rows.filter_map(name).collect();
        documented.sort();
        let command = <Args as clap::Args>::augment_args(clap::Command::new("relay"));
        let mut options: Vec<_> =
            command.get_arguments().filter_map(|option| option.get_long().map(str::to_owned)).collect();
        options.sort();
        assert_eq!(documented, options);
    }
}
