//! The kernel programs: fits them to the running kernel, loads them, tells plainly what a kernel lacks.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use dataplane::{Error, Feature};

use crate::{
    btf::{BitField, KernelTypes},
    sys, tables,
};

static POD: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod.o"));
static UPLINK: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/uplink.o"));
static XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp.o"));
pub(crate) static SOCK: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sock.o"));
static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"));

const KFUNC: &str = "bpf_cast_to_kern_ctx";

/// One object per hook point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Pod,
    Uplink,
    /// Whether frames go back by a redirect, for devices that do not take `XDP_TX`.
    Xdp {
        by_redirect: bool,
    },
    Bench,
}

impl Object {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Pod => POD,
            Self::Uplink => UPLINK,
            Self::Xdp { .. } => XDP,
            Self::Bench => BENCH,
        }
    }

    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &["from_pod", "to_pod", "clock", "identify"],
            Self::Uplink => &["from_wire", "to_wire", "from_tunnel"],
            Self::Xdp { .. } => &["xdp_from_wire"],
            Self::Bench => {
                &["empty", "restore", "from_pod", "from_wire", "xdp_empty", "xdp_restore", "xdp_from_wire"]
            }
        }
    }
}

/// How the programs learn a packet's checksum state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// By the kfunc where the kernel has it, else by helper calls.
    Auto,
    /// By helper calls, as on kernels before 6.2.
    ByHelper,
}

/// What was found of the kernel's checksum state, and what the programs are told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summed {
    known: Option<(u32, BitField)>,
}

impl Summed {
    pub(crate) fn find(choice: Checksums) -> Self {
        let known = match choice {
            Checksums::ByHelper => None,
            Checksums::Auto => KernelTypes::of_running_kernel()
                .and_then(|types| Some((types.function(KFUNC)?, types.bit_field("sk_buff", "ip_summed")?))),
        };
        Self { known }
    }

    pub(crate) fn feature(self) -> Feature {
        Feature {
            name: "checksum state".into(),
            available: self.known.is_some(),
            detail: match self.known {
                Some(_) => format!("read through {KFUNC}"),
                None => format!("{KFUNC} missing (needs 6.2 and BTF), using checksum helpers"),
            },
        }
    }

    /// Turns the made-up helper call into a call of the kfunc, or into a no-op that is never reached.
    fn patch(self, object: &[u8]) -> Vec<u8> {
        /// `BPF_JMP | BPF_CALL`, and `BPF_ALU64 | BPF_MOV | BPF_K`.
        const CALL: u8 = 0x85;
        const MOVE: u8 = 0xb7;
        /// `BPF_PSEUDO_KFUNC_CALL` as the source register, the upper half of the byte on little-endian machines.
        const KFUNC_CALL: u8 = if cfg!(target_endian = "little") { 2 << 4 } else { 2 };
        let mut made_up = [CALL, 0, 0, 0, 0, 0, 0, 0];
        made_up[4..].copy_from_slice(&abi::CAST_TO_KERN_CTX.to_ne_bytes());
        let mut patched = object.to_vec();
        // Sections that hold instructions are aligned to eight bytes.
        for instruction in patched.chunks_exact_mut(8).filter(|instruction| **instruction == made_up) {
            match self.known {
                Some((function, _)) => {
                    instruction[1] = KFUNC_CALL;
                    instruction[4..].copy_from_slice(&function.to_ne_bytes());
                }
                None => {
                    instruction[0] = MOVE;
                    instruction[4..].fill(0);
                }
            }
        }
        patched
    }
}

/// Loads an object: its maps pinned under, or taken from, `maps`; its programs into the kernel.
pub(crate) fn load(
    object: Object,
    maps: &Path,
    sizes: &[(&'static str, u32)],
    summed: Summed,
) -> Result<Ebpf, Error> {
    let name = || format!("{object:?}").to_lowercase();
    let mut loader = EbpfLoader::new();
    let paths = pin_paths(maps);
    for (map, path) in &paths {
        loader.map_pin_path(map, path.as_path());
    }
    for (map, rows) in sizes {
        loader.map_max_entries(map, *rows);
    }
    let BitField { byte, shift } = summed.known.map_or(BitField { byte: 0, shift: 0 }, |(_, field)| field);
    loader.override_global("IP_SUMMED_OFFSET", &byte, true).override_global("IP_SUMMED_SHIFT", &shift, true);
    let by_redirect = u32::from(object == Object::Xdp { by_redirect: true });
    loader.override_global("BACK_BY_REDIRECT", &by_redirect, false);
    let mut ebpf = loader
        .load(&summed.patch(object.bytes()))
        .map_err(|error| Error::new("load object", name(), explain_load(error)))?;
    for program in object.programs() {
        let loaded = match ebpf.program_mut(program) {
            Some(Program::SchedClassifier(classifier)) => classifier.load(),
            Some(Program::Xdp(xdp)) => xdp.load(),
            _ => return Err(missing(program)),
        };
        loaded.map_err(|error| Error::new("load program", *program, explain_program(error)))?;
    }
    Ok(ebpf)
}

/// Where each shared map is pinned.
pub(crate) fn pin_paths(maps: &Path) -> Vec<(&'static str, PathBuf)> {
    tables::pinned_names().map(|map| (map, maps.join(map))).collect()
}

pub(crate) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error: ProgramError| Error::new("find program", name, error))
}

pub(crate) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, Error> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error: ProgramError| Error::new("find program", name, error))
}

fn missing(program: &str) -> Error {
    Error::new("find program", program, "not in its object")
}

/// Removes pinned tables of another size than wanted: a map cannot be resized. Returns what was removed.
pub(crate) fn discard_resized(maps: &Path, sizes: &[(&'static str, u32)]) -> Vec<&'static str> {
    let resized = |(name, rows): &&(&'static str, u32)| {
        let Ok(map) = sys::open_pinned(&maps.join(name)) else { return false };
        let other = sys::map_info(map.as_fd()).is_ok_and(|info| info.max_entries != *rows);
        other && std::fs::remove_file(maps.join(name)).is_ok()
    };
    sizes.iter().filter(resized).map(|(name, _)| *name).collect()
}

/// Jiffies per second: the time between two looks at the clock that entries are stamped with.
pub(crate) fn measure_hz(pod: &mut Ebpf) -> Result<u32, Error> {
    /// `CONFIG_HZ` choices of the architectures that have one (`kernel/Kconfig.hz`, alpha, MIPS).
    const CHOICES: [u32; 8] = [24, 48, 100, 128, 250, 256, 300, 1000];
    /// Ten ticks of the slowest common clock.
    const WINDOW: Duration = Duration::from_millis(100);
    let clock = classifier(pod, "clock")?;
    let failed = |error: ProgramError| Error::new("run program", "clock", error);
    let packet = [0u8; 64];
    let look = || {
        let options = TestRunOptions { data_in: Some(&packet), ..Default::default() };
        clock.test_run(options).map(|run| (run.return_value, Instant::now())).map_err(failed)
    };
    let (first, start) = look()?;
    std::thread::sleep(WINDOW);
    let (last, end) = look()?;
    let measured = f64::from(last.wrapping_sub(first)) / (end - start).as_secs_f64();
    let distance = |hz: &u32| (f64::from(*hz) / measured).ln().abs();
    Ok(CHOICES.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(250))
}

/// A refusal in words that name what is missing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("not permitted: needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Permission(#[source] io::Error),
    #[error("the kernel has no bpf system call (CONFIG_BPF_SYSCALL)")]
    NoBpf(#[source] io::Error),
    #[error("the kernel's verifier refused it (5.15 is the oldest kernel supported)")]
    Verifier(#[source] Box<ProgramError>),
    #[error("the kernel refused it")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

pub(crate) fn explain_load(error: EbpfError) -> Refusal {
    let code = match &error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => io_error.raw_os_error(),
        EbpfError::MapError(MapError::SyscallError(call)) => call.io_error.raw_os_error(),
        _ => None,
    };
    match code {
        Some(libc::EPERM | libc::EACCES) => Refusal::Permission(io::Error::from_raw_os_error(libc::EPERM)),
        Some(libc::ENOSYS) => Refusal::NoBpf(io::Error::from_raw_os_error(libc::ENOSYS)),
        _ => Refusal::Other(error.into()),
    }
}

pub(crate) fn explain_program(error: ProgramError) -> Refusal {
    match error {
        ProgramError::LoadError { ref io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            Refusal::Permission(io::Error::from_raw_os_error(libc::EPERM))
        }
        error => Refusal::Verifier(Box::new(error)),
    }
}
