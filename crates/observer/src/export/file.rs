//! The file of an export: whole lines are appended to it, and it is put aside when it is long or old. Only ever holds whole
//! lines once it is open: half a line, left by a crash or a full disk, is taken away.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Rotation,
    state::{self, State, with_suffix},
};

/// A line is looked for in so many last bytes; a file without one is not an export's, and is only added to.
const LONGEST_LINE: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    rotation: Rotation,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    /// Of whole lines.
    bytes: u64,
    /// Seconds since 1970.
    begun: u64,
}

impl Sink {
    pub(super) fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self { path, rotation, open: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Opens the file where it ends, or ended when `before` was noted, which is of the same ring: what came later was never
    /// noted, and is written again.
    pub(super) fn resume(&mut self, before: Option<&State>) -> io::Result<()> {
        let mut open = self.opened()?;
        if let Some(before) = before.filter(|before| before.inode == open.inode && before.bytes < open.bytes)
        {
            open.file.set_len(before.bytes)?;
            open.bytes = before.bytes;
        }
        self.open = Some(open);
        Ok(())
    }

    /// Opens the file if it is not, or not under its name any more; true: it was opened.
    pub(super) fn reopen(&mut self) -> io::Result<bool> {
        let is_there = |open: &Open| fs::metadata(&self.path).is_ok_and(|meta| meta.ino() == open.inode);
        if self.open.as_ref().is_some_and(is_there) {
            return Ok(false);
        }
        self.open = None;
        self.open = Some(self.opened()?);
        Ok(true)
    }

    fn opened(&self) -> io::Result<Open> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            // Who talked to whom is nobody else's business.
            .mode(0o600)
            // A FIFO without a reader is an error, not a wait.
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let bytes = whole_lines(&mut file, meta.len())?;
        let begun = match state::load(&self.path)? {
            Some(state) if state.inode == meta.ino() && bytes > 0 => state.begun,
            _ if bytes > 0 => seconds(meta.modified()?),
            _ => seconds(SystemTime::now()),
        };
        Ok(Open { file, inode: meta.ino(), bytes, begun })
    }

    /// Would so many more bytes be too many for the file?
    pub(super) fn is_too_much(&self, bytes: usize) -> bool {
        let has = self.open.as_ref().map_or(0, |open| open.bytes);
        has.saturating_add(bytes as u64) > self.rotation.bytes
    }

    /// Is the file to be put aside before so many bytes are added at `now`?
    pub(super) fn is_due(&self, bytes: usize, now: SystemTime) -> bool {
        let Some(open) = self.open.as_ref().filter(|open| open.bytes > 0) else { return false };
        let age = seconds(now).saturating_sub(open.begun);
        self.is_too_much(bytes) || self.rotation.age.is_some_and(|most| age >= most.as_secs())
    }

    /// Puts the file aside.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let name = |number: u32| with_suffix(&self.path, &format!(".{number}"));
        for number in (1..self.rotation.files).rev() {
            if_there(fs::rename(name(number), name(number + 1)))?;
        }
        if_there(match self.rotation.files {
            0 => fs::remove_file(&self.path),
            _ => fs::rename(&self.path, name(1)),
        })?;
        self.open = None;
        Ok(())
    }

    /// Appends whole lines to an open file, all or none.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotConnected.into()) };
        let written = open.file.write_all(lines);
        match written {
            Ok(()) => open.bytes += lines.len() as u64,
            // A part of them may be there.
            Err(_) => open.file.set_len(open.bytes)?,
        }
        written
    }

    /// Notes how far the file is: all before `state.next` is written.
    pub(super) fn note(&self, state: &State) -> io::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let now = State { inode: open.inode, bytes: open.bytes, begun: open.begun, ..state.clone() };
        state::save(&self.path, &now)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Cuts off half a line at the end of a file; how long it is then.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let start = length.saturating_sub(LONGEST_LINE);
    let mut end = vec![];
    file.seek(SeekFrom::Start(start))?;
    file.read_to_end(&mut end)?;
    match end.iter().rposition(|byte| *byte == b'\n') {
        Some(last) if last + 1 == end.len() => Ok(length),
        Some(last) => {
            let length = start + last as u64 + 1;
            file.set_len(length)?;
            Ok(length)
        }
        None if start == 0 => {
            file.set_len(0)?;
            Ok(0)
        }
        None => {
            file.write_all(b"\n")?;
            Ok(length + 1)
        }
    }
}
