//! A thread that closes sockets, so that programming waits for none of it.
//!
//! It goes through the network namespaces of the node and its pods, asks each for the sockets that were given a backend, and
//! closes those whose backend is gone. Sockets that reached a backend by themselves are never touched.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use abi::{Be16, DatagramKey, DatagramPeer, Socket, V4, V6, datagram_side};
use model::Protocol;
use nix::sched::{CloneFlags, setns};

use super::{
    diag::{Diag, Found},
    keep::{Keep, Sweep},
};
use crate::{family::MapNames, sys, table::Table};

/// A dump is repeated when the kernel says that it is not whole.
const ATTEMPTS: u32 = 3;

/// Where the programs keep what sockets asked for, of one family.
#[derive(Debug)]
struct FamilyMaps<A> {
    sockets: OwnedFd,
    /// The kernel's number of `sockets`.
    id: u32,
    datagrams: Table<DatagramKey<A>, DatagramPeer<A>>,
}

/// Of both.
#[derive(Debug)]
pub(super) struct Maps {
    v4: FamilyMaps<V4>,
    v6: FamilyMaps<V6>,
}

impl Maps {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self { v4: FamilyMaps::open(folder)?, v6: FamilyMaps::open(folder)? })
    }

    /// Frontend and backend of a socket, where it has any.
    fn translation(&self, found: &Found) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        match found.peer().ip() {
            IpAddr::V4(_) => self.v4.translation(found),
            IpAddr::V6(_) => self.v6.translation(found),
        }
    }
}

impl<A: MapNames> FamilyMaps<A> {
    fn open(folder: &Path) -> io::Result<Self> {
        let sockets = sys::open_pinned(&folder.join(A::SOCKETS))?;
        let id = sys::map_info(sockets.as_fd())?.id;
        Ok(Self { sockets, id, datagrams: Table::open(folder, A::DATAGRAMS)? })
    }

    fn translation(&self, found: &Found) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        let at = |address: A, port: Be16| SocketAddr::new(address.to_ip(), port.get());
        let peer = found.peer();
        if found.is_datagram() {
            let key = DatagramKey {
                socket: found.cookie(),
                address: A::from_ip(peer.ip()).unwrap_or_default(),
                port: Be16::new(peer.port()),
                side: datagram_side::BACKEND,
            };
            return Ok(self.datagrams.get(&key)?.map(|frontend| (at(frontend.address, frontend.port), peer)));
        }
        let Some(bytes) = found.storage(self.id).filter(|bytes| bytes.len() >= size_of::<Socket<A>>()) else {
            return Ok(None);
        };
        // SAFETY: long enough, and any bytes are a valid value.
        let socket = unsafe { bytes.as_ptr().cast::<Socket<A>>().read_unaligned() };
        let backend = at(socket.backend, socket.backend_port);
        Ok((backend == peer).then(|| (at(socket.frontend, socket.frontend_port), backend)))
    }
}

struct Job {
    sweep: Sweep,
    namespaces: Vec<PathBuf>,
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Closer {
    jobs: Sender<Job>,
}

impl Closer {
    /// Starts it in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel cannot close sockets.
    pub(super) fn start(maps: Maps, keep: Arc<Mutex<Keep>>) -> io::Result<Self> {
        Diag::open()?.probe()?;
        let (jobs, received) = mpsc::channel();
        let own = File::open("/proc/thread-self/ns/net")?;
        thread::Builder::new()
            .name("socket closer".into())
            .spawn(move || work(&maps, &keep, &own, &received))?;
        Ok(Self { jobs })
    }

    /// Sweeps the node's namespace and those at these paths.
    pub(super) fn submit(&self, sweep: Sweep, namespaces: Vec<PathBuf>) {
        // The thread ends with its sender only.
        let _ = self.jobs.send(Job { sweep, namespaces });
    }
}

fn work(maps: &Maps, keep: &Mutex<Keep>, own: &File, jobs: &Receiver<Job>) {
    while let Ok(mut job) = jobs.recv() {
        // Changes that came meanwhile are served by one round.
        while let Ok(next) = jobs.try_recv() {
            job.sweep.merge(next.sweep);
            job.namespaces = next.namespaces;
        }
        let mut closed = sweep_logged(maps, keep, &job.sweep, "the node");
        for path in &job.namespaces {
            // A pod that is gone has no sockets either.
            let Ok(namespace) = File::open(path) else { continue };
            match setns(namespace, CloneFlags::CLONE_NEWNET) {
                Ok(()) => closed += sweep_logged(maps, keep, &job.sweep, &path.display().to_string()),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot enter network namespace")
                }
            }
        }
        if let Err(error) = setns(own, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot return to the node's network namespace, sockets are closed no more");
            return;
        }
        if closed > 0 {
            tracing::info!(closed, "closed sockets whose backend is gone");
        }
    }
}

fn sweep_logged(maps: &Maps, keep: &Mutex<Keep>, sweep: &Sweep, place: &str) -> usize {
    run(maps, keep, sweep).unwrap_or_else(|error| {
        tracing::warn!(place, %error, "sockets to lost backends may stay open");
        0
    })
}

/// Closes sockets of the thread's namespace whose backend is gone; returns how many.
fn run(maps: &Maps, keep: &Mutex<Keep>, sweep: &Sweep) -> io::Result<usize> {
    let mut diag = Diag::open()?;
    let storages = [maps.v4.sockets.as_fd(), maps.v6.sockets.as_fd()];
    let mut closed = 0;
    for protocol in sweep.protocols() {
        // An IPv6 socket may be connected to an IPv4 address.
        for family in [libc::AF_INET, libc::AF_INET6] {
            for found in dump(&mut diag, family as u8, protocol, &storages)? {
                let Some((frontend, backend)) = maps.translation(&found)? else { continue };
                // A panic elsewhere left the table whole: it is only ever replaced by entry.
                let keep = keep.lock().unwrap_or_else(PoisonError::into_inner);
                if keep.condemns(sweep, protocol, frontend, backend) && diag.destroy(&found)? {
                    closed += 1;
                }
            }
        }
    }
    Ok(closed)
}

fn dump(
    diag: &mut Diag,
    family: u8,
    protocol: Protocol,
    storages: &[std::os::fd::BorrowedFd<'_>],
) -> io::Result<Vec<Found>> {
    let mut attempt = 1;
    loop {
        match diag.dump(family, protocol.number(), storages) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}
