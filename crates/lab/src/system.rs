//! What a lab needs of the machine: root, tools, the BPF file system, a cgroup v2 hierarchy.
//!
//! Says plainly what is missing before anything is made.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use model::Plane;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::command;

const BPFFS: &str = "/sys/fs/bpf";

/// How often a race with labs that go may be lost in a row.
const RACES: usize = 16;

/// Why this machine cannot run a lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a lab needs root: it makes network namespaces (try sudo)")]
    NotRoot,
    #[error("a lab needs {}: not found in PATH (try make setup)", .0.join(", "))]
    MissingTools(Vec<&'static str>),
    #[error(
        "the ebpf dataplane needs a kernel with the bpf system call (CONFIG_BPF_SYSCALL): this one has none"
    )]
    NoBpf,
    #[error("mount the BPF file system at {BPFFS}")]
    Bpffs(#[source] io::Error),
    #[error("the kernel refuses network namespaces (CONFIG_NET_NS)")]
    NoNamespaces,
}

/// Checks everything that can be checked without changing anything but the BPF file system's mount.
///
/// # Errors
/// The first thing that is missing, in words for the user.
pub fn check(plane: Plane) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Err(Error::NoNamespaces);
    }
    let mut tools = vec!["ip", "ethtool", "iptables", "iptables-restore", "nginx", "kubectl"];
    if plane == Plane::Iptables {
        tools.extend(["iptables-save", "conntrack"]);
    }
    tools.retain(|tool| command::find(tool).is_none());
    if !tools.is_empty() {
        return Err(Error::MissingTools(tools));
    }
    if plane == Plane::Ebpf {
        // The knob exists exactly where the system call does (kernel/bpf/syscall.c).
        if !Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists() {
            return Err(Error::NoBpf);
        }
        mount_bpffs().map_err(Error::Bpffs)?;
    }
    Ok(())
}

/// The first cgroup v2 mount, wherever the distribution puts it.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let of_type = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let target = fields.next()?.to_owned();
        (fields.next()? == "cgroup2").then(|| PathBuf::from(target))
    };
    mounts.lines().find_map(of_type)
}

/// Ends every process of a cgroup and of those below it (kernel 5.14 and newer; silently nothing before).
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn kill_cgroup(group: &Path) -> io::Result<()> {
    match fs::write(group.join("cgroup.kill"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a cgroup and those below it, which must be empty of processes.
///
/// # Errors
/// The kernel's refusal. One that is gone is no error.
pub(crate) fn remove_cgroup(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn mount_bpffs() -> io::Result<()> {
    if statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    Ok(mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?)
}

/// Runs `make`, which makes something inside a folder that labs share, and that folder first.
///
/// The last lab to go takes the shared folders with it, maybe between two steps of `make`: it runs again then.
pub(crate) fn in_shared_folder<T>(make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..RACES {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    make()
}
