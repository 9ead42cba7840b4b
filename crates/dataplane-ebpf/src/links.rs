//! Programs on devices: attached once, replaced atomically by the next agent, forwarding while there is none.
//!
//! tcx links are pinned by device name and index. Where the kernel has no tcx, or the configuration says so, programs are
//! clsact filters of a fixed priority and handle, which stay by themselves.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use dataplane::{Error, Feature};

use crate::{objects, xdp};

/// Ours among the filters of a device.
const PRIORITY: u16 = 0x7450;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// aya's refusals have no common type.
type AttachError = Box<dyn std::error::Error + Send + Sync>;

/// How programs are put on devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// tcx, or clsact where the kernel has none.
    Auto,
    /// clsact, as on kernels before 6.6.
    Clsact,
}

/// What is used, once known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Tcx,
    Clsact,
}

/// A device by both its names: an index is never used twice in a namespace, a name may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) index: u32,
}

/// Ingress and egress program of one kind of device.
pub(crate) type Pair = [(&'static str, TcAttachType); 2];
pub(crate) const POD: Pair = [("from_pod", TcAttachType::Ingress), ("to_pod", TcAttachType::Egress)];
pub(crate) const UPLINK: Pair = [("from_wire", TcAttachType::Ingress), ("to_wire", TcAttachType::Egress)];

/// An uplink that other nodes send whole packets through.
pub(crate) const TUNNEL: Pair = [("from_tunnel", TcAttachType::Ingress), ("to_wire", TcAttachType::Egress)];

#[derive(Debug)]
pub(crate) struct Links {
    folder: PathBuf,
    mode: Option<Mode>,
    forced: bool,
}

impl Links {
    pub(crate) fn new(folder: PathBuf, attach: Attach) -> Self {
        let forced = attach == Attach::Clsact;
        Self { folder, mode: forced.then_some(Mode::Clsact), forced }
    }

    /// Puts both programs on `device`, or replaces those of a former agent without a gap.
    pub(crate) fn attach(&mut self, ebpf: &mut Ebpf, pair: &Pair, device: &Device) -> Result<(), Error> {
        let found = index(&device.name);
        if found != Some(device.index) {
            let now = found.map_or("gone".to_owned(), |index| format!("number {index} now"));
            let what = format!("interface {} is {now}", device.name);
            return Err(Error::new(
                "attach programs to",
                format!("{} ({})", device.name, device.index),
                what,
            ));
        }
        for (program, direction) in pair {
            let classifier = objects::classifier(ebpf, program)?;
            self.attach_one(classifier, device, *direction).map_err(|source| {
                Error::new("attach program", format!("{program} to {}", device.name), source)
            })?;
        }
        Ok(())
    }

    fn attach_one(
        &mut self,
        program: &mut SchedClassifier,
        device: &Device,
        direction: TcAttachType,
    ) -> Result<(), AttachError> {
        let pin = self.pin(device, direction);
        if self.mode != Some(Mode::Clsact) {
            match attach_tcx(program, device, direction, &pin) {
                Ok(()) => {
                    if self.mode.is_none() {
                        self.mode = Some(Mode::Tcx);
                    }
                    // A former agent may have used the other way; two programs would handle a packet twice.
                    detach_clsact(device, direction);
                    return Ok(());
                }
                Err(error) if self.mode.is_some() => return Err(error),
                Err(error) => {
                    tracing::info!(device = device.name, %error, "no tcx, using clsact");
                    self.mode = Some(Mode::Clsact);
                }
            }
        }
        attach_clsact(program, device, direction)?;
        remove_file(&pin)?;
        Ok(())
    }

    fn pin(&self, device: &Device, direction: TcAttachType) -> PathBuf {
        let direction = if direction == TcAttachType::Ingress { "ingress" } else { "egress" };
        // A device name has no slash (`dev_valid_name`).
        self.folder.join(format!("{}-{}-{direction}", device.name, device.index))
    }

    /// Takes our programs off a device that may be gone already.
    pub(crate) fn detach(&self, device: &Device) -> io::Result<()> {
        xdp::detach(&self.folder, device)?;
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            remove_file(&self.pin(device, direction))?;
            if index(&device.name) == Some(device.index) {
                detach_clsact(device, direction);
            }
        }
        Ok(())
    }

    /// Takes our programs off every device that is not in `keep`; those of devices that are gone leave only a pin.
    pub(crate) fn retain(&self, keep: &BTreeSet<Device>) -> io::Result<()> {
        for device in self.pinned()? {
            if !keep.contains(&device) {
                self.detach(&device)?;
            }
        }
        Ok(())
    }

    fn pinned(&self) -> io::Result<BTreeSet<Device>> {
        let names =
            fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.iter().filter_map(|name| device_of(name)).collect())
    }

    pub(crate) fn feature(&self) -> Feature {
        let (available, detail) = match self.mode {
            None => (true, "no program attached yet"),
            Some(Mode::Tcx) => (true, "programs attached by pinned links"),
            Some(Mode::Clsact) if self.forced => (false, "not used by configuration, using clsact"),
            Some(Mode::Clsact) => (false, "tcx needs 6.6, using clsact"),
        };
        Feature { name: "tcx".into(), available, detail: detail.into() }
    }
}

fn device_of(pin: &str) -> Option<Device> {
    let (rest, _direction) = pin.rsplit_once('-')?;
    let (name, index) = rest.rsplit_once('-')?;
    Some(Device { name: name.to_owned(), index: index.parse().ok()? })
}

fn attach_tcx(
    program: &mut SchedClassifier,
    device: &Device,
    direction: TcAttachType,
    pin: &Path,
) -> Result<(), AttachError> {
    if let Ok(pinned) = PinnedLink::from_pin(pin) {
        let replaced = SchedClassifierLink::try_from(FdLink::from(pinned))
            .map_err(AttachError::from)
            .and_then(|link| Ok(program.attach_to_link(link)?))
            .and_then(|id| Ok(program.take_link(id)?));
        match replaced {
            // Dropping it closes our descriptor; the pin keeps the link.
            Ok(link) => return drop_descriptor(link),
            // The device went away, and its link with it.
            Err(_) => remove_file(pin)?,
        }
    }
    let options = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
    let id = program.attach_with_options(&device.name, direction, options)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    link.pin(pin)?;
    Ok(())
}

fn drop_descriptor(link: SchedClassifierLink) -> Result<(), AttachError> {
    FdLink::try_from(link).map(drop).map_err(Into::into)
}

fn attach_clsact(
    program: &mut SchedClassifier,
    device: &Device,
    direction: TcAttachType,
) -> Result<(), AttachError> {
    // It may be there already, ours or another's.
    let _ = tc::qdisc_add_clsact(&device.name);
    let former = SchedClassifierLink::attached(&device.name, direction, PRIORITY, HANDLE, None)?;
    let id = match program.attach_to_link(former) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(&device.name, direction, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping it would take the filter off.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// No filter of ours there is no error.
fn detach_clsact(device: &Device, direction: TcAttachType) {
    use aya::programs::Link as _;
    if let Ok(link) = SchedClassifierLink::attached(&device.name, direction, PRIORITY, HANDLE, None) {
        let _ = link.detach();
    }
}

/// The index of a device of this thread's network namespace.
pub(crate) fn index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a valid C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_names_its_device() {
        let links = Links::new(PathBuf::from("/x"), Attach::Auto);
        let device = Device { name: "tp-a-1".into(), index: 12 };
        let pin = links.pin(&device, TcAttachType::Egress);
        assert_eq!(pin, PathBuf::from("/x/tp-a-1-12-egress"));
        assert_eq!(device_of("tp-a-1-12-egress"), Some(device));
        assert_eq!(device_of("something"), None);
    }
}
