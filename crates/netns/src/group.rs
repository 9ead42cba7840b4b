//! Threads of this process in a cgroup (v2) of their own: what is attached to it meets their sockets and nobody else's.
//!
//! A socket belongs to the cgroup of the thread that made it, for good.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// A threaded cgroup (kernel `Documentation/admin-guide/cgroup-v2.rst`, "Threads"), removed when this is dropped.
#[derive(Debug)]
pub struct ThreadGroup(PathBuf);

impl ThreadGroup {
    /// Creates the group `name` below this process's own.
    ///
    /// # Errors
    /// No cgroup v2 hierarchy is mounted, or the kernel refuses: the process's own group must not have controllers enabled
    /// for others below it, unless it is the root.
    pub fn create(name: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let target = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(target))
        });
        let mount = mount.ok_or_else(|| io::Error::other("no cgroup v2 hierarchy is mounted"))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let group = Self(mount.join(own).join(name));
        fs::create_dir(&group.0)?;
        fs::write(group.0.join("cgroup.type"), "threaded")?;
        Ok(group)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves the calling thread in, for the rest of its life.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn join(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.threads"), "0")
    }
}

impl Drop for ThreadGroup {
    fn drop(&mut self) {
        // A thread that was joined leaves its group a moment later.
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.0) {
            if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > deadline {
                eprintln!("remove {}: {error}", self.0.display());
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups_of_this_thread() -> String {
        fs::read_to_string("/proc/thread-self/cgroup").expect("cgroups")
    }

    #[test]
    fn a_thread_joins_alone_and_the_group_goes_with_its_owner() {
        let name = format!("tp-{}-group", std::process::id());
        let group = ThreadGroup::create(&name).expect("create");
        let inside = thread::scope(|scope| {
            let joined = scope.spawn(|| group.join().map(|()| groups_of_this_thread()));
            joined.join().expect("no panic").expect("join")
        });
        assert!(inside.contains(&name), "{inside}");
        assert!(!groups_of_this_thread().contains(&name));
        let path = group.path().to_owned();
        drop(group);
        assert!(!path.exists());
    }
}
