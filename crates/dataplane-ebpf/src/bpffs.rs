//! The folder that keeps maps and links: on a bpf file system, mounted where there is none.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use abi::ABI_VERSION;
use dataplane::Error;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where every distribution mounts it.
const STANDARD: &str = "/sys/fs/bpf";
/// Marks mounts of ours in `/proc/mounts`.
const SOURCE: &str = "twinplane";

/// The pins of one node.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes `root` a folder on a bpf file system, with this version's folders inside.
    pub(crate) fn prepare(root: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::new("prepare pin folder", root.display().to_string(), source);
        if root.starts_with(STANDARD) && !is_bpffs(Path::new(STANDARD)) {
            mount_at(Path::new(STANDARD), "bpf").map_err(failed)?;
        }
        fs::create_dir_all(root).map_err(failed)?;
        if !is_bpffs(root) {
            mount_at(root, SOURCE).map_err(failed)?;
        }
        let pins = Self { root: root.to_owned() };
        fs::create_dir_all(pins.maps()).map_err(failed)?;
        fs::create_dir_all(pins.links()).map_err(failed)?;
        Ok(pins)
    }

    /// `<root>/v<ABI_VERSION>`: two versions of the ABI share no map.
    fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// The same for all versions: a new one's programs replace the old one's, and never run beside them.
    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Removes the maps of other versions, once no program uses them; names those versions.
    pub(crate) fn remove_other_versions(&self) -> io::Result<Vec<String>> {
        let mut removed = vec![];
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_version = name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
            if is_version && path != self.version() {
                fs::remove_dir_all(&path)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Removes the folders, and the mount if it is ours. Collects every error.
    pub(crate) fn remove(&self) -> Vec<io::Error> {
        let mut errors = vec![];
        let mut keep = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => errors.push(error),
            _ => {}
        };
        for folder in [self.maps(), self.links()] {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                keep(fs::remove_file(entry.path()));
            }
            keep(fs::remove_dir(&folder));
        }
        keep(fs::remove_dir(self.version()));
        if is_our_mount(&self.root) {
            keep(umount2(&self.root, MntFlags::MNT_DETACH).map_err(io::Error::from));
        }
        // Another version's pins, or the user's own folder, may keep it: that is no error.
        let _ = fs::remove_dir(&self.root);
        errors
    }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_at(path: &Path, source: &str) -> io::Result<()> {
    mount(Some(source), path, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(io::Error::from)
}

fn is_our_mount(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.next() == Some(SOURCE) && fields.next().is_some_and(|target| Path::new(target) == path)
    })
}
