//! Compiles the kernel programs in `bpf/` and hands the objects to the library as `OUT_DIR/*.o`.
//!
//! The BPF target has no prebuilt `core`: it is built from source, by the first rustc on this machine that has its own
//! library sources. In order: `$EBPF_RUSTC`, rustup's nightly, the active toolchain, `/usr/bin/rustc` (Debian's `rustc-web`
//! with `rust-web-src`). `RUSTC_BOOTSTRAP=1` lets a stable compiler do it.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Binaries of `bpf/`, each one object.
const OBJECTS: [&str; 5] = ["pod", "uplink", "xdp", "sock", "bench"];

/// What cargo passes to this build script must not steer the inner build.
const SCRUBBED: [&str; 11] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "HOST",
    "OUT_DIR",
    "PROFILE",
    "RUSTC",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "TARGET",
];
const SCRUBBED_PREFIXES: [&str; 5] = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_PROFILE_", "DEP_"];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.join("../..").canonicalize()?;
    for path in ["bpf/src", "bpf/Cargo.toml", "bpf/Cargo.lock", "crates/abi/src", "crates/abi/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-env-changed=EBPF_RUSTC");
    println!("cargo::rerun-if-env-changed=BPF_LINKER");

    let out = PathBuf::from(env::var("OUT_DIR")?);
    // One directory for all profiles, so that `core` is built once: `target/bpf`.
    let target_directory =
        out.ancestors().nth(4).ok_or("OUT_DIR is not inside a target directory")?.join("bpf");
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let mut build = inner_cargo(&find_rustc()?, target)?;
    build.current_dir(root.join("bpf")).arg("--target-dir").arg(&target_directory);
    if !build.status()?.success() {
        return Err(format!("cannot build the kernel programs: {build:?}").into());
    }
    for object in OBJECTS {
        let built = target_directory.join(target).join("release").join(object);
        fs::copy(&built, out.join(format!("{object}.o")))
            .map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    }
    Ok(())
}

fn inner_cargo(rustc: &Path, target: &str) -> Result<Command, Box<dyn Error>> {
    let linker = env::var_os("BPF_LINKER").unwrap_or_else(|| "bpf-linker".into());
    let found = Command::new(&linker).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        return Err(format!("no {}: run scripts/setup", linker.display()).into());
    }
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Atomics with a result, and 32-bit jumps: every kernel since 5.12.
        "-Ctarget-cpu=v3",
    ]
    .join("\x1f");
    let mut cargo = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if SCRUBBED.contains(&&*name) || SCRUBBED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            cargo.env_remove(&*name);
        }
    }
    cargo
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args(["build", "--release", "--bins", "--locked", "--quiet"])
        .args(["-Z", "build-std=core", "--target", target]);
    Ok(cargo)
}

fn find_rustc() -> Result<PathBuf, Box<dyn Error>> {
    let rustup = |toolchain: &[&str]| {
        let output = Command::new("rustup").args(["which", "rustc"]).args(toolchain).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| PathBuf::from(path.trim()))
    };
    let candidates = [
        env::var_os("EBPF_RUSTC").map(PathBuf::from),
        rustup(&["--toolchain", "nightly"]),
        rustup(&[]),
        Some(PathBuf::from("/usr/bin/rustc")),
    ];
    let tried: Vec<PathBuf> = candidates.into_iter().flatten().collect();
    tried
        .iter()
        .find(|rustc| has_library_sources(rustc))
        .cloned()
        .ok_or_else(|| format!("no rustc with library sources among {tried:?}: run scripts/setup").into())
}

fn has_library_sources(rustc: &Path) -> bool {
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}
