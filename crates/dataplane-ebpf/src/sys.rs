//! The bpf(2) calls that aya has no word for: maps by pinned name, whole tables at a time.
//!
//! The only module here that talks to the kernel by raw numbers; layouts are those of `union bpf_attr`
//! (`include/uapi/linux/bpf.h`).

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_UPDATE_BATCH: i32 = 26;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

/// `BPF_MAP_*_ELEM` and `BPF_MAP_GET_NEXT_KEY`.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_MAP_*_BATCH`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// `BPF_OBJ_GET` and `BPF_OBJ_PIN`.
#[repr(C)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Info {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// The first fields of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default, Debug)]
pub(crate) struct MapInfo {
    kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    flags: u32,
}

/// `BPF_LINK_CREATE`; and `BPF_LINK_UPDATE`, whose fields are the link, the program, flags and the program before.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

/// `struct bpf_link_info` of a link to a cgroup.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    cgroup: u64,
    attach_type: u32,
    end: u32,
}

fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the attributes have the layout that the command wants and live through the call; pointers in them are checked
    // by the functions below.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    let descriptor = bpf(OBJ_GET, &mut object)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = object.as_raw_fd() as u32;
    bpf(OBJ_PIN, &mut Object { path: path.as_ptr() as u64, descriptor, flags: 0 }).map(drop)
}

pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut result = MapInfo::default();
    info(map, &mut result)?;
    Ok(result)
}

fn info<T>(object: BorrowedFd<'_>, result: &mut T) -> io::Result<()> {
    let mut info = Info {
        descriptor: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(result) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut info).map(drop)
}

/// Attaches a program to a cgroup, beside others there (a link implies `BPF_F_ALLOW_MULTI`, `cgroup_bpf_link_attach`).
pub(crate) fn link_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: u32,
) -> io::Result<OwnedFd> {
    let (program, target) = (program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32);
    let descriptor = bpf(LINK_CREATE, &mut Link { program, target, kind, flags: 0 })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Puts `program` in the place of the link's.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    bpf(LINK_UPDATE, &mut Link { program: link, target: program, kind: 0, flags: 0 }).map(drop)
}

/// Takes a link's program off at once; without it, the end of its last descriptor or pin does, a little later.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &mut (link.as_raw_fd() as u32)).map(drop)
}

/// The number of the cgroup that a link leads to: its folder's inode. 0 once the cgroup is gone.
pub(crate) fn cgroup_of_link(link: BorrowedFd<'_>) -> io::Result<u64> {
    let mut result = LinkInfo::default();
    info(link, &mut result)?;
    Ok(result.cgroup)
}

fn element<K, V>(map: BorrowedFd<'_>, key: *const K, value: *const V) -> Element {
    Element { map: map.as_raw_fd() as u32, padding: 0, key: key as u64, value: value as u64, flags: 0 }
}

/// `value` has room for what the map holds.
pub(crate) fn lookup<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut [V]) -> io::Result<bool> {
    present(bpf(MAP_LOOKUP_ELEM, &mut element(map, key, value.as_mut_ptr())))
}

pub(crate) fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    bpf(MAP_UPDATE_ELEM, &mut element(map, key, value)).map(drop)
}

/// Writes a row of a map that has one value for each CPU; `values` are as many.
pub(crate) fn update_each<K, V>(map: BorrowedFd<'_>, key: &K, values: &[V]) -> io::Result<()> {
    bpf(MAP_UPDATE_ELEM, &mut element(map, key, values.as_ptr())).map(drop)
}

/// False where there was none.
pub(crate) fn delete<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    present(bpf(MAP_DELETE_ELEM, &mut element(map, key, std::ptr::null::<u8>())))
}

/// False at the end. `None` starts.
pub(crate) fn next_key<K>(map: BorrowedFd<'_>, key: Option<&K>, next: &mut K) -> io::Result<bool> {
    let key = key.map_or(std::ptr::null(), std::ptr::from_ref);
    present(bpf(MAP_GET_NEXT_KEY, &mut element(map, key, next)))
}

fn present(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads rows into `keys` and `values`, of equal length; `cursor` goes on where the last call stopped (`None`: start).
/// Returns how many, and whether there are more.
pub(crate) fn lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    cursor: &mut Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, bool)> {
    let mut next = 0u32;
    let mut batch = Batch {
        in_batch: cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor) as u64),
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    let more = present(bpf(MAP_LOOKUP_BATCH, &mut batch))?;
    *cursor = Some(next);
    Ok((batch.count as usize, more))
}

/// Writes rows in order; returns how many were written before the kernel refused one.
pub(crate) fn update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> (usize, io::Result<()>) {
    let mut batch = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    let result = bpf(MAP_UPDATE_BATCH, &mut batch).map(drop);
    // Where the kernel does not know the command it leaves the count alone.
    let written = if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
        0
    } else {
        batch.count as usize
    };
    (written, result)
}

/// Kernels before 5.11 count maps against the locked-memory limit.
pub(crate) fn raise_memory_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid limit. Where it is not permitted, loading says so.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}
