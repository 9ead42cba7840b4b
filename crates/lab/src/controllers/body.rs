//! Large response bodies: the files behind `/body/<n>M`, and their content as a function of the offset.
//!
//! Any byte can be recomputed, so a client can tell a shifted, doubled or swapped block from an intact one.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

/// Served sizes, in MiB.
pub(super) const SIZES: [u64; 3] = [1, 10, 100];
pub(super) const MIB: u64 = 1 << 20;

/// Where the files of a lab are, one for all its pods.
pub(super) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("body")
}

/// Writes the files that are missing.
pub(super) async fn provide(directory: PathBuf) {
    let shown = directory.display().to_string();
    let written = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&directory)?;
        SIZES.iter().try_for_each(|size| write(&directory, *size))
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(directory = shown, %error, "write bodies"),
        Err(error) => tracing::warn!(directory = shown, %error, "write bodies"),
    }
}

/// A file appears under its name only when it is whole.
fn write(directory: &Path, mebibytes: u64) -> io::Result<()> {
    let path = directory.join(format!("{mebibytes}M"));
    if path.metadata().is_ok_and(|meta| meta.len() == mebibytes * MIB) {
        return Ok(());
    }
    let partial = directory.join(format!(".{mebibytes}M"));
    let mut file = BufWriter::with_capacity(1 << 16, File::create(&partial)?);
    for index in 0..mebibytes * MIB / 8 {
        file.write_all(&word(index).to_le_bytes())?;
    }
    file.into_inner()?.sync_data()?;
    fs::rename(partial, path)
}

/// The bytes at `offset..offset + len`, both multiples of 8.
pub(super) fn block(offset: u64, len: usize) -> Vec<u8> {
    (0..len as u64 / 8).flat_map(|index| word(offset / 8 + index).to_le_bytes()).collect()
}

/// splitmix64 of the word's index.
fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_content_its_offsets_say() {
        let directory = tempfile::tempdir().expect("directory");
        write(directory.path(), 1).expect("write");
        let bytes = fs::read(directory.path().join("1M")).expect("read");
        assert_eq!(bytes.len() as u64, MIB);
        assert_eq!(bytes[4096..8192], block(4096, 4096));
        assert_ne!(bytes[..4096], bytes[4096..8192]);
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1, "no partial file is left");
    }
}
