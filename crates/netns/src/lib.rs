//! Named Linux network namespaces: create, open, run code or commands inside, remove.
//!
//! Namespaces are the ones `ip netns` knows (`/run/netns/NAME`), so that a user can look into them.
//! `setns` moves one thread: [`NetNs::run`] uses a thread of its own, so that no caller is ever left elsewhere.

mod group;

pub use group::ThreadGroup;

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where `ip netns` keeps its names (iproute2 `include/namespace.h`).
const DIRECTORY: &str = "/run/netns";

/// A namespace operation that failed: verb and namespace; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("{operation} network namespace {name}")]
pub struct Error {
    pub operation: &'static str,
    pub name: String,
    #[source]
    pub source: io::Error,
}

/// A handle on a named network namespace. Dropping it changes nothing; see [`Owned`].
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

/// A namespace that is removed when this is dropped, on panic too.
#[derive(Debug)]
pub struct Owned(NetNs);

impl NetNs {
    /// Creates the namespace `name`, loopback up.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken; the kernel's own refusal otherwise (root is needed).
    pub fn create(name: &str) -> Result<Self, Error> {
        let failed = |source| Error { operation: "create", name: name.to_owned(), source };
        prepare_directory().map_err(failed)?;
        let path = path_of(name);
        File::create_new(&path).map_err(failed)?;
        // A thread's own namespace is pinned under the name; the thread then ends and takes nothing with it.
        let pinned = on_a_thread(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            bring_loopback_up()?;
            Ok(mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
        });
        if let Err(error) = pinned {
            let _ = fs::remove_file(&path);
            return Err(failed(error));
        }
        Self::open(name)
    }

    /// Opens an existing namespace.
    ///
    /// # Errors
    /// `NotFound` where there is none of that name.
    pub fn open(name: &str) -> Result<Self, Error> {
        let file = File::open(path_of(name)).map_err(|source| Error {
            operation: "open",
            name: name.to_owned(),
            source,
        })?;
        Ok(Self { name: name.to_owned(), file })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/run/netns/NAME`, as the CNI plugin's `CNI_NETNS` wants it.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a thread inside the namespace and returns its value. Sockets made there stay there.
    ///
    /// # Errors
    /// The kernel refuses to enter the namespace.
    ///
    /// # Panics
    /// As `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_a_thread(|| setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| work())).map_err(|errno| Error {
            operation: "enter",
            name: self.name.clone(),
            source: errno.into(),
        })
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.confine(&mut command);
        command
    }

    /// Makes `command` run inside the namespace. The handle must outlive the spawn.
    pub fn confine(&self, command: &mut Command) {
        let fd = self.file.as_raw_fd();
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe; the descriptor is
        // open in the child because close-on-exec acts at exec.
        unsafe {
            command.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
    }

    /// Removes the name; the kernel frees the namespace when its last process and socket are gone.
    ///
    /// # Errors
    /// The kernel's refusal. A name that is gone already is no error.
    pub fn remove(name: &str) -> Result<(), Error> {
        let failed = |source| Error { operation: "remove", name: name.to_owned(), source };
        let path = path_of(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// The names that start with `prefix`, sorted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(prefix: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries?,
        };
        let names = entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.retain(|name| name.starts_with(prefix));
        names.sort();
        Ok(names)
    }
}

impl Owned {
    /// Creates a namespace that lives as long as this value.
    ///
    /// # Errors
    /// As [`NetNs::create`].
    pub fn create(name: &str) -> Result<Self, Error> {
        NetNs::create(name).map(Self)
    }
}

impl std::ops::Deref for Owned {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = NetNs::remove(&self.0.name) {
            eprintln!("{error}: {}", error.source);
        }
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes the directory a shared mount once, as `ip netns add` does, so that removals reach every mount namespace.
///
/// Under a lock: two first users would otherwise stack two mounts, and one would lose its names.
fn prepare_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let _lock = Flock::lock(File::open("/run")?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let mount_here = |source, flags| mount(source, DIRECTORY, None::<&str>, flags, None::<&str>);
    if mount_here(None, MsFlags::MS_SHARED | MsFlags::MS_REC).is_err() {
        mount_here(Some(DIRECTORY), MsFlags::MS_BIND | MsFlags::MS_REC)?;
        mount_here(None, MsFlags::MS_SHARED | MsFlags::MS_REC)?;
    }
    Ok(())
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// `ip link set lo up`, by ioctl (netdevice(7)).
fn bring_loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives through the call and names an interface that every namespace has.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn unique(tag: &str) -> String {
        format!("tp-{}-{tag}", std::process::id())
    }

    #[test]
    fn a_namespace_has_its_own_loopback_and_goes_with_its_owner() {
        let name = unique("own");
        let namespace = Owned::create(&name).expect("create");
        let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").expect("bind")).expect("enter");
        let address = listener.local_addr().expect("address");
        assert!(TcpStream::connect(address).is_err(), "the listener must not be in this thread's namespace");
        namespace.run(|| TcpStream::connect(address).expect("connect inside")).expect("enter");
        assert_eq!(NetNs::list(&name).expect("list"), std::slice::from_ref(&name));
        drop(namespace);
        assert_eq!(NetNs::list(&name).expect("list"), [""; 0]);
    }

    #[test]
    fn a_taken_name_is_refused_and_kept() {
        let name = unique("taken");
        let _first = Owned::create(&name).expect("create");
        let error = NetNs::create(&name).expect_err("taken");
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        NetNs::open(&name).expect("still there");
    }

    #[test]
    fn a_command_runs_inside() {
        let namespace = Owned::create(&unique("cmd")).expect("create");
        let output = namespace.command("cat").arg("/proc/self/net/dev").output().expect("run");
        let interfaces = String::from_utf8_lossy(&output.stdout).lines().filter(|l| l.contains(':')).count();
        assert_eq!(interfaces, 1, "only lo");
    }

    #[test]
    fn a_panic_inside_reaches_the_caller_and_the_namespace_is_removed() {
        let name = unique("panic");
        let caught = std::panic::catch_unwind(|| {
            let namespace = Owned::create(&name).expect("create");
            namespace.run(|| panic!("inside")).expect("enter");
        });
        assert!(caught.is_err());
        assert_eq!(NetNs::list(&name).expect("list"), [""; 0]);
    }
}
