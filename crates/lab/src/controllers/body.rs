//! Large response bodies: the files behind `/body/<n>M`, and their content as a function of the offset.
//!
//! Any byte can be recomputed, so a client can tell a shifted, doubled or swapped block from an intact one. Most of
//! a file is a hole: a lab's files may be in memory, and 100 MiB of them then take 6.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Served sizes, in MiB.
pub(super) const SIZES: [u64; 3] = [1, 10, 100];
pub(super) const MIB: u64 = 1 << 20;

/// Each stretch starts with this many random bytes, a page; the rest is zero.
const MARK: u64 = 4 << 10;
const STRETCH: u64 = 64 << 10;

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
    let file = File::create(&partial)?;
    for start in (0..mebibytes * MIB).step_by(STRETCH as usize) {
        file.write_all_at(&block(start, MARK as usize), start)?;
    }
    file.set_len(mebibytes * MIB)?;
    fs::rename(partial, path)
}

/// The bytes at `offset..offset + len`, both multiples of 8.
pub(super) fn block(offset: u64, len: usize) -> Vec<u8> {
    (0..len as u64 / 8).flat_map(|index| word(offset / 8 + index).to_le_bytes()).collect()
}

/// The word at `8 * index`: splitmix64 of the index within a mark, else zero.
fn word(index: u64) -> u64 {
    if index * 8 % STRETCH >= MARK {
        return 0;
    }
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
        assert_eq!(bytes, block(0, bytes.len()));
        assert_ne!(bytes[..4096], bytes[65_536..65_536 + 4096], "no two marks are alike");
        assert_eq!(block(65_536 - 8, 16)[8..], bytes[65_536..65_536 + 8]);
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1, "no partial file is left");
    }
}
