//! Socket load balancing: its programs on a cgroup, and an end for sockets whose backend is gone.
//!
//! An addition: where a kernel lacks what it needs, [`Sockets::feature`] says so, and the packet path serves everyone. Never
//! decides what a client gets.

mod cgroup;
mod close;
mod diag;
mod keep;

use std::{
    collections::BTreeSet,
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupSockAddr, ProgramError},
};
use dataplane::{Error, Feature};
use model::{ServicePortId, Snapshot};

use self::{
    cgroup::{HOOKS, Links},
    close::{Closer, Maps},
    keep::{Keep, Sweep},
};
use crate::objects;

/// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`).
const SO_NETNS_COOKIE: i32 = 71;

/// How a call that names a frontend without backends ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// With its error at once, or by packets where the kernel cannot set one.
    Auto,
    /// By packets, as on kernels before 5.18.
    ByPackets,
}

/// The part of the plane that serves sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    links: Links,
    /// Or why there is none.
    active: Result<Active, String>,
}

struct Active {
    cgroup: PathBuf,
    programs: Ebpf,
    /// A program chooses the error of a call that it refuses.
    can_fail: bool,
    keep: Arc<Mutex<Keep>>,
    /// Or why sockets to lost backends are not closed.
    closer: Result<Closer, String>,
}

impl Sockets {
    /// Attaches the programs to the cgroup, or replaces those of a former agent without a gap. Without a cgroup, takes those of
    /// a former agent off.
    pub(crate) fn open(
        cgroup: Option<&Path>,
        refusals: Refusals,
        maps: &Path,
        links: &Path,
    ) -> Result<Self, Error> {
        let links = Links::new(links);
        let Some(path) = cgroup else {
            links.remove().map_err(|source| Error::new("remove", "socket links", source))?;
            return Ok(Self { links, active: Err("no cgroup is configured".into()) });
        };
        let active = Active::open(path, refusals, maps, &links).map_err(|error| {
            let reason = crate::report::chain(&error);
            tracing::warn!(cgroup = %path.display(), reason, "no socket load balancing, packets are translated instead");
            reason
        });
        Ok(Self { links, active })
    }

    /// Takes note of `services` before they are programmed; the answer goes to [`Self::close_lost`].
    pub(crate) fn note(&self, snapshot: &Snapshot, services: &BTreeSet<ServicePortId>) -> Sweep {
        match &self.active {
            Ok(active) => {
                active.keep.lock().unwrap_or_else(PoisonError::into_inner).update(snapshot, services)
            }
            Err(_) => Sweep::default(),
        }
    }

    /// Closes sockets whose backend is gone, a little later.
    pub(crate) fn close_lost(&self, snapshot: &Snapshot, sweep: Sweep) {
        if let Ok(Active { closer: Ok(closer), .. }) = &self.active
            && !sweep.is_empty()
        {
            let namespaces = snapshot.endpoints.values().filter_map(|endpoint| endpoint.netns.clone());
            closer.submit(sweep, namespaces.collect());
        }
    }

    /// Attaches again what someone took off.
    pub(crate) fn repair(&self) -> Result<(), Error> {
        match &self.active {
            Ok(active) => self.links.attach(&active.programs, &active.cgroup),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn feature(&self) -> Feature {
        let (available, detail) = match &self.active {
            Err(reason) => (false, format!("{reason}; packets are translated instead")),
            Ok(active) => {
                let mut detail = format!("on cgroup {}", active.cgroup.display());
                if !active.can_fail {
                    detail += "; refused by packets (bpf_set_retval needs 5.18)";
                }
                if let Err(reason) = &active.closer {
                    detail += &format!("; sockets to lost backends stay open ({reason})");
                }
                (true, detail)
            }
        };
        Feature { name: "socket load balancing".into(), available, detail }
    }

    /// Takes the programs off.
    pub(crate) fn clean_up(&mut self) -> io::Result<()> {
        self.active = Err("taken down".into());
        self.links.remove()
    }
}

impl Active {
    fn open(cgroup: &Path, refusals: Refusals, maps: &Path, links: &Links) -> Result<Self, Error> {
        let failed = |what: &'static str| move |source: io::Error| Error::new("read", what, source);
        let namespace = namespace_cookie().map_err(failed("the network namespace's cookie (needs 5.14)"))?;
        // Trying is the probe.
        let (programs, can_fail) = match (refusals == Refusals::Auto).then(|| load(maps, namespace, true)) {
            Some(Ok(programs)) => (programs, true),
            Some(Err(_)) | None => (load(maps, namespace, false)?, false),
        };
        links.attach(&programs, cgroup)?;
        let maps = Maps::open(maps).map_err(failed("the socket storage"))?;
        let keep = Arc::<Mutex<Keep>>::default();
        let closer = Closer::start(maps, Arc::clone(&keep)).map_err(|error| error.to_string());
        if let Err(reason) = &closer {
            tracing::warn!(reason, "sockets to lost backends stay open");
        }
        Ok(Self { cgroup: cgroup.to_owned(), programs, can_fail, keep, closer })
    }
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Active").field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

/// The programs, loaded.
fn load(maps: &Path, namespace: u64, can_fail: bool) -> Result<Ebpf, Error> {
    let can_fail = u32::from(can_fail);
    let paths = objects::pin_paths(maps);
    let mut loader = EbpfLoader::new();
    for (map, path) in &paths {
        loader.map_pin_path(map, path.as_path());
    }
    loader.override_global("HOST_NAMESPACE", &namespace, true).override_global("CAN_FAIL", &can_fail, true);
    let mut ebpf = loader
        .load(objects::SOCK)
        .map_err(|error| Error::new("load object", "sock", objects::explain_load(error)))?;
    for (name, _) in HOOKS {
        let program = program(&mut ebpf, name)?;
        program.load().map_err(|error| Error::new("load program", name, objects::explain_program(error)))?;
    }
    Ok(ebpf)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr, Error> {
    ebpf.program_mut(name)
        .ok_or_else(|| Error::new("find program", name, "not in its object"))?
        .try_into()
        .map_err(|error: ProgramError| Error::new("find program", name, error))
}

/// The cookie of the calling thread's network namespace: a number that the kernel never gives twice.
///
/// # Errors
/// The kernel has none to tell (before 5.14), or no socket to ask by.
pub fn namespace_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The root of the cgroup v2 hierarchy, wherever it is mounted. `None`, too, where only a part of the hierarchy is visible, as
/// in a container with a cgroup namespace of its own: pods would not be below it.
pub fn cgroup_root() -> Option<PathBuf> {
    /// The root's, of every kernfs (`fs/kernfs/dir.c`).
    const ROOT_INODE: u64 = 1;
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let mut mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let target = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(target))
    });
    mounts.find(|path| path.metadata().is_ok_and(|folder| folder.ino() == ROOT_INODE))
}
