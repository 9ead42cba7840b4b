//! A test's own namespaces and pins, gone when it ends, also by panic.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::mount::{MntFlags, umount2};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// No other test, and no other run, has this name.
pub(crate) fn unique(tag: &str) -> String {
    format!("tpe{}-{}-{tag}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A folder for pins, not on a bpf file system yet.
pub(crate) struct PinFolder(PathBuf);

impl PinFolder {
    pub(crate) fn new() -> Self {
        Self(std::env::temp_dir().join(unique("pins")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        // After a clean-up there is nothing; after a panic the mount takes all pins with it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

pub(crate) fn namespace(tag: &str) -> netns::Owned {
    netns::Owned::create(&unique(tag)).expect("namespaces need root")
}

/// Runs lines of `ip -batch`, inside a namespace.
pub(crate) fn ip(space: &netns::NetNs, lines: &str) {
    let mut command = space.command("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().expect("ip starts");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("ip reads");
    let status = child.wait().expect("ip ends");
    assert!(status.success(), "ip -batch in {}: {status}\n{lines}", space.name());
}

/// Runs a command inside a namespace and returns what it printed.
pub(crate) fn run(space: &netns::NetNs, program: &str, arguments: &[&str]) -> String {
    let output = space.command(program).args(arguments).output().expect(program);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?} in {}: {out}{err}", space.name());
    out.into_owned()
}

/// Makes the namespace a router of both families.
pub(crate) fn forward(space: &netns::NetNs) {
    space
        .run(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").expect(path);
            }
        })
        .expect("enter");
}

/// Of an interface in this thread's namespace.
pub(crate) fn ifindex(name: &str) -> u32 {
    let text = std::ffi::CString::new(name).expect("name");
    // SAFETY: a valid C string.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    assert_ne!(index, 0, "no interface {name}");
    index
}
