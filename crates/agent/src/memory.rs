//! How the process keeps memory that it has freed. Never decides what is kept in use.

/// What more than this at the end of the heap is given back, in bytes. Setting it also fixes the size from which a block
/// is mapped by itself (mallopt(3)), so that lists of a whole cluster go back to the kernel when they have been read.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 128 << 10;

/// Makes the allocator hold little beyond what is in use: the first list of a large cluster takes several times the memory
/// of what is kept of it, on several threads, and glibc would keep that in a heap for each.
///
/// To be called before any other thread runs.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: takes numbers only; an option that this glibc does not know changes nothing and answers 0.
        if unsafe { libc::mallopt(option, value) } == 0 {
            tracing::debug!(option, value, "mallopt refused");
        }
    }
}
