//! The programs' links to a cgroup: pinned, replaced atomically, beside whatever else is attached there.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use aya::Ebpf;
use dataplane::Error;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::sys;

/// The programs, and where they are attached: `enum bpf_attach_type` (`include/uapi/linux/bpf.h`).
pub(super) const HOOKS: [(&str, u32); 8] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// The pinned links. A device's name in a pin is followed by its number: no pin of a device looks like these.
#[derive(Debug)]
pub(super) struct Links {
    folder: PathBuf,
}

impl Links {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn pin(&self, hook: &str) -> PathBuf {
        self.folder.join(format!("sock-{hook}"))
    }

    /// Attaches every program to the cgroup at `path`, or puts it in the place of a former agent's.
    ///
    /// Hooks that restore come first: no socket is translated by a program whose answers would show it.
    pub(super) fn attach(&self, programs: &Ebpf, path: &Path) -> Result<(), Error> {
        let failed = |source: io::Error| Error::new("open cgroup", path.display().to_string(), source);
        let cgroup = File::open(path).map_err(failed)?;
        if !statfs(path).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Err(failed(io::Error::other("not a folder of a cgroup v2 hierarchy")));
        }
        let id = cgroup.metadata().map_err(failed)?.ino();
        for (hook, kind) in HOOKS.into_iter().rev() {
            let program = programs.program(hook).and_then(|program| program.fd().ok());
            let program = program.ok_or_else(|| Error::new("find program", hook, "not loaded"))?;
            self.attach_one(program.as_fd(), (cgroup.as_fd(), id), (hook, kind)).map_err(|source| {
                Error::new("attach program", format!("{hook} to cgroup {}", path.display()), source)
            })?;
        }
        Ok(())
    }

    fn attach_one(
        &self,
        program: BorrowedFd<'_>,
        (cgroup, id): (BorrowedFd<'_>, u64),
        (hook, kind): (&str, u32),
    ) -> io::Result<()> {
        let pin = self.pin(hook);
        if let Ok(link) = sys::open_pinned(&pin) {
            // One of another cgroup, or of one that is gone, is no use.
            if sys::cgroup_of_link(link.as_fd())? == id {
                return sys::update_link(link.as_fd(), program);
            }
            fs::remove_file(&pin)?;
        }
        sys::pin(sys::link_to_cgroup(program, cgroup, kind)?.as_fd(), &pin)
    }

    /// Takes every program off; what is not there is fine.
    pub(super) fn remove(&self) -> io::Result<()> {
        for (hook, _) in HOOKS {
            let pin = self.pin(hook);
            if let Ok(link) = sys::open_pinned(&pin) {
                // Kernels before 5.9 know no such call; there, its end takes it off.
                let _ = sys::detach_link(link.as_fd());
            }
            match fs::remove_file(pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
