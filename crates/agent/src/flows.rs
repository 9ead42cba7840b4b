//! Takes what the datapath tells of flows, stores it with names, and serves it. What a record means is `flow`'s, how it is
//! asked for is `observer`'s.
//!
//! An idle node's first record is taken at once; under load the agent looks [`PAUSE`] after it was through: the kernel wakes
//! only a reader that has read everything, so that wake-ups follow time, not flows.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cluster::{CLUSTER_NAME, News};
use flow::{
    directory::{Directory, Moved, Pod},
    event::{Node, Time},
    feed::Feed,
    metrics::KernelEvents,
    record::{Decoder, Losses},
    ring::Capacity,
};
use model::{Endpoint, PodName, Update};
use netns::NetNs;
use nix::time::ClockId;
use observer::{
    export::Running,
    names::peer_name,
    node::{self, Identity},
    tls::Files,
};
use prometheus_client::registry::Registry;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::Instant,
};

use crate::{
    controller::Nodes,
    export::{self, Export},
    serving::{self, ended},
    source::{Clocks, Source, Taken},
};

/// Where flows are served unless it is said otherwise.
pub const OBSERVER_SOCKET: &str = "/run/twinplane/observer.sock";

/// After everything was taken: a ring of 7,281 records is full only where more than 700,000 are told of in a second.
const PAUSE: Duration = Duration::from_millis(10);
/// Records stored in one go, readers being woken once.
const BATCH: usize = 256;
/// How often losses are looked for while there are records.
const LOSSES_EVERY: Duration = Duration::from_secs(1);

/// Where flows are served, and how many are kept.
#[derive(Clone, Debug)]
pub struct Observer {
    pub socket: Option<PathBuf>,
    /// Without certificates a loopback address. Its port is taken to be every node's.
    pub bind: Option<SocketAddr>,
    /// For `bind`: what is shown to clients, and whose certificates they have to show.
    pub certificates: Option<Files>,
    pub capacity: Capacity,
    pub export: Option<Export>,
}

impl Default for Observer {
    /// Nowhere.
    fn default() -> Self {
        Self { socket: None, bind: None, certificates: None, capacity: Capacity::DEFAULT, export: None }
    }
}

/// Who is who: written as it moves, read by whoever names flows.
#[derive(Clone, Debug)]
pub(crate) struct SharedDirectory(Arc<RwLock<Directory>>);

impl SharedDirectory {
    fn new() -> Self {
        Self(Arc::new(RwLock::new(Directory::new(CLUSTER_NAME))))
    }

    /// Takes in what moved.
    pub(crate) fn learn(&self, update: Option<&Update>, news: News) {
        if update.is_none() && news.is_empty() {
            return;
        }
        let pod = |view: cluster::EndpointView| Pod {
            identity: view.identity.get(),
            addresses: view.addresses,
            workloads: vec![],
        };
        let moved = Moved {
            identities: news.identities.into_iter().map(|(id, labels)| (id.get(), labels)).collect(),
            pods: news.endpoints.into_iter().map(|(name, view)| (name, view.map(pod))).collect(),
            namespaces: update.map(namespaces).unwrap_or_default(),
        };
        let mut directory = self.0.write().unwrap_or_else(PoisonError::into_inner);
        directory.learn(moved);
        if let Some(update) = update {
            directory.update(update);
        }
    }
}

/// The network namespaces of pods that moved, as the kernel numbers them. One that cannot be entered is that of a pod which is
/// going: its calls are then nobody's.
fn namespaces(update: &Update) -> BTreeMap<PodName, Option<u64>> {
    let cookie = |endpoint: &Arc<Endpoint>| {
        let namespace = NetNs::open(&endpoint.netns.as_ref()?.display().to_string()).ok()?;
        namespace.run(dataplane_ebpf::namespace_cookie).ok()?.ok()
    };
    let of = |(pod, endpoint): (&PodName, &Option<Arc<Endpoint>>)| {
        (pod.clone(), endpoint.as_ref().and_then(cookie))
    };
    update.endpoints.iter().map(of).collect()
}

/// A part of the agent that runs until it fails.
pub(crate) type Part = Pin<Box<dyn Future<Output = anyhow::Error> + Send>>;

/// Everything that is needed to serve flows, listening already.
pub(crate) struct Flows {
    directory: SharedDirectory,
    parts: Vec<Part>,
    metrics: Registry,
    export: Option<Running>,
}

impl Flows {
    pub(crate) fn directory(&self) -> SharedDirectory {
        self.directory.clone()
    }

    /// What is to be run beside each other, what is to be shown, and what is to be finished at the end.
    pub(crate) fn into_parts(self) -> (Vec<Part>, Registry, Option<Running>) {
        (self.parts, self.metrics, self.export)
    }
}

/// Listens where `settings` say.
pub(crate) async fn open(
    node: &str,
    settings: &Observer,
    source: Source,
    nodes: watch::Receiver<Option<Arc<Nodes>>>,
) -> anyhow::Result<Flows> {
    let mut metrics = Registry::default();
    let mut feed = Feed::new(settings.capacity);
    feed.register(&mut metrics);
    let name = peer_name(node, CLUSTER_NAME);
    let version = concat!("twinplane ", env!("CARGO_PKG_VERSION")).to_owned();
    let server = node::Node::new(Identity { name: name.clone(), version }, feed.readers());
    let directory = SharedDirectory::new();
    let mut parts = serving::open(server, settings, nodes).await?;
    let name_of = Box::new(|index| {
        let name = nix::net::if_::if_indextoname(index).ok()?;
        Some(name.to_string_lossy().into_owned())
    });
    let start = |settings| export::start(settings, name.clone(), feed.readers().0, &mut metrics);
    let export = settings.export.as_ref().map(start).transpose()?;
    let node = Arc::new(Node { name, labels: vec![] });
    let decoder = Decoder::new(node, name_of, fastrand::u64(..));
    let counts = KernelEvents::new(&mut metrics);
    let losses = Losses::default();
    let mut pump = Pump { source, feed, directory: directory.clone(), decoder, losses, counts };
    parts.push(Box::pin(async move { ended("flows", pump.run().await) }));
    Ok(Flows { directory, parts, metrics, export })
}

/// From the kernel's ring to the node's.
struct Pump {
    source: Source,
    feed: Feed,
    directory: SharedDirectory,
    decoder: Decoder,
    losses: Losses,
    counts: KernelEvents,
}

impl Pump {
    async fn run(&mut self) -> io::Result<()> {
        let register = |descriptor: OwnedFd| {
            // SAFETY: the descriptor is owned by what is registered, and always the same.
            unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
        };
        let waiting = self.source.descriptors()?.into_iter().map(register).collect::<Result<Vec<_>, _>>()?;
        // Before anything else: what was lost while nobody looked.
        let mut look_for_losses = Some(Instant::now());
        loop {
            let taken = self.take()?;
            if look_for_losses.is_some_and(|due| due <= Instant::now()) {
                self.tell_losses();
                look_for_losses = None;
            }
            if taken > 0 {
                look_for_losses.get_or_insert_with(|| Instant::now() + LOSSES_EVERY);
            }
            match taken {
                BATCH => tokio::task::yield_now().await,
                1.. => tokio::time::sleep(PAUSE).await,
                0 => {
                    let due = look_for_losses.unwrap_or_else(Instant::now);
                    tokio::select! {
                        ready = readable(&waiting) => ready?,
                        () = tokio::time::sleep_until(due), if look_for_losses.is_some() => {}
                    }
                }
            }
        }
    }

    /// Stores the next records; how many there were, at most [`BATCH`].
    fn take(&mut self) -> io::Result<usize> {
        let clocks = Clocks { now: now(), boot: boot() };
        let (mut taken, mut unknown, mut batch) = (0, 0, vec![]);
        let directory = self.directory.0.read().unwrap_or_else(PoisonError::into_inner);
        while taken < BATCH
            && let Some(record) = self.source.take(&mut self.decoder, &directory, clocks, &mut batch)?
        {
            taken += 1;
            match record {
                Taken::Read => {}
                Taken::Unreadable => unknown += 1,
            }
        }
        drop(directory);
        batch.extend(Losses::unreadable(unknown, self.decoder.not_before(now())));
        if !batch.is_empty() {
            self.feed.append(batch);
        }
        Ok(taken)
    }

    fn tell_losses(&mut self) {
        let now = self.decoder.not_before(now());
        self.feed.append(self.source.losses(&mut self.losses, &self.counts, now));
    }
}

/// Waits until one of them is readable again.
async fn readable(waiting: &[AsyncFd<OwnedFd>]) -> io::Result<()> {
    let ready = waiting.iter().map(|descriptor| Box::pin(descriptor.readable()));
    futures::future::select_all(ready).await.0?.clear_ready();
    Ok(())
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// When the clock of the records began.
fn boot() -> Time {
    let up = nix::time::clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Time(now().0.saturating_sub(i64::try_from(up.as_nanos()).unwrap_or(i64::MAX)))
}
