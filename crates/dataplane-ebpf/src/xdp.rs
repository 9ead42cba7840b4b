//! XDP on the uplinks: which mode a driver takes, found by trying; links pinned and replaced without a gap.
//!
//! An acceleration of the uplink's tc programs, which stay behind it: whatever it does not do, they do.

use std::{io, os::fd::AsRawFd as _, path::PathBuf};

use aya::{
    Ebpf,
    programs::{
        Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use dataplane::{Error, Feature};

use crate::{
    links::{Device, remove_file},
    objects,
};

pub(crate) const PROGRAM: &str = "xdp_from_wire";

/// Whether packets that leave by the device they came in by are turned around before the stack sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acceleration {
    #[default]
    Off,
    /// In the driver, or in front of the stack where the driver has no XDP.
    Auto,
    /// In the driver, or not at all: opening fails.
    Native,
    /// In front of the stack, as for drivers without XDP.
    Generic,
}

impl Acceleration {
    /// What is tried, in order.
    fn modes(self) -> &'static [XdpMode] {
        match self {
            Self::Off => &[],
            Self::Auto => &[XdpMode::Driver, XdpMode::Skb],
            Self::Native => &[XdpMode::Driver],
            Self::Generic => &[XdpMode::Skb],
        }
    }
}

/// aya's refusals have no common type.
type AttachError = Box<dyn std::error::Error + Send + Sync>;

/// The program, and where it runs.
pub(crate) struct Accelerator {
    object: Ebpf,
    choice: Acceleration,
    folder: PathBuf,
    /// Device names with the mode that each took.
    attached: Vec<(String, XdpMode)>,
}

impl Accelerator {
    pub(crate) fn new(object: Ebpf, choice: Acceleration, folder: PathBuf) -> Self {
        Self { object, choice, folder, attached: vec![] }
    }

    pub(crate) fn program(&mut self) -> Result<&mut Xdp, Error> {
        objects::xdp(&mut self.object, PROGRAM)
    }

    /// Puts the program on `device`, or replaces that of a former agent, in the best mode that may be and works.
    ///
    /// # Errors
    /// No mode works, and the choice was not to take what there is.
    pub(crate) fn attach(&mut self, device: &Device) -> Result<(), Error> {
        let failed = |source: AttachError| {
            Error::new("attach program", format!("{PROGRAM} to {}", device.name), source)
        };
        let mut refusals: Vec<String> = vec![];
        for mode in self.choice.modes() {
            match self.attach_in(device, *mode) {
                Ok(()) => {
                    self.attached.retain(|(name, _)| *name != device.name);
                    self.attached.push((device.name.clone(), *mode));
                    return Ok(());
                }
                Err(error) => refusals.push(format!("{}: {error}", word(*mode))),
            }
        }
        if self.choice == Acceleration::Auto {
            tracing::warn!(device = device.name, refusals = refusals.join("; "), "no XDP: packets take tc");
            return Ok(());
        }
        Err(failed(refusals.join("; ").into()))
    }

    /// A link keeps the mode it was made in, so each mode has a pin of its own.
    fn attach_in(&mut self, device: &Device, mode: XdpMode) -> Result<(), AttachError> {
        for other in [XdpMode::Driver, XdpMode::Skb].into_iter().filter(|other| *other != mode) {
            // Two modes on one device exclude each other (`dev_xdp_attach`).
            remove_file(&pin(&self.folder, device, other))?;
        }
        let pin = pin(&self.folder, device, mode);
        let program = self.program()?;
        if let Ok(pinned) = PinnedLink::from_pin(&pin) {
            let replaced = XdpLink::try_from(FdLink::from(pinned))
                .map_err(AttachError::from)
                .and_then(|link| Ok(program.attach_to_link(link)?))
                .and_then(|id| Ok(program.take_link(id)?));
            match replaced {
                // Dropping it closes our descriptor; the pin keeps the link.
                Ok(link) => return FdLink::try_from(link).map(drop).map_err(Into::into),
                // The device went away, and its link with it.
                Err(_) => remove_file(&pin)?,
            }
        }
        let id = program.attach_to_if_index(device.index, mode)?;
        FdLink::try_from(program.take_link(id)?)?.pin(&pin)?;
        Ok(())
    }

    pub(crate) fn feature(&self) -> Feature {
        let on = self.attached.iter().map(|(name, mode)| format!("{} on {name}", word(*mode)));
        let on: Vec<_> = on.collect();
        Feature {
            name: "xdp".into(),
            available: !on.is_empty(),
            detail: if on.is_empty() { "refused by every uplink's driver".into() } else { on.join(", ") },
        }
    }
}

impl std::fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accelerator").field("attached", &self.attached).finish_non_exhaustive()
    }
}

/// What [`dataplane::PlaneStatus`] says where it is not wanted.
pub(crate) fn off() -> Feature {
    Feature { name: "xdp".into(), available: false, detail: "off by configuration".into() }
}

/// Takes the program off a device; none there is no error.
pub(crate) fn detach(folder: &std::path::Path, device: &Device) -> io::Result<()> {
    [XdpMode::Driver, XdpMode::Skb].into_iter().try_for_each(|mode| remove_file(&pin(folder, device, mode)))
}

fn pin(folder: &std::path::Path, device: &Device, mode: XdpMode) -> PathBuf {
    folder.join(format!("{}-{}-xdp{}", device.name, device.index, word(mode)))
}

/// Whether a device of this thread's network namespace is a veth; its kind is what its driver calls itself.
pub(crate) fn is_veth(name: &str) -> bool {
    /// `struct ethtool_drvinfo` (`include/uapi/linux/ethtool.h`), as far as it is read.
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    const ETHTOOL_GDRVINFO: u32 = 3;
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: all zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return false;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    let Ok(socket) =
        std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::]:0"))
    else {
        return false;
    };
    // SAFETY: the kernel writes a `struct ethtool_drvinfo`, for which there is room.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    result == 0 && info.driver.starts_with(b"veth\0")
}

fn word(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Driver => "native",
        _ => "generic",
    }
}
