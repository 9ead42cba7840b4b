//! Finds the line of a log that tells why something failed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// How much of a log's end is looked at, bytes.
const TAIL: usize = 64 * 1024;

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub file: PathBuf,
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.file_name().unwrap_or_default();
        write!(f, "{}: {}", name.display(), self.text)
    }
}

/// The last line that tells of an error; the last line at all where none does.
pub(crate) fn matters(file: &Path) -> Option<Line> {
    let bytes = fs::read(file).ok()?;
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]).into_owned();
    Some(Line { file: file.to_owned(), text: telling(&tail)?.to_owned() })
}

fn telling(text: &str) -> Option<&str> {
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let tells =
        |line: &&str| ["ERROR", "error:", "panicked at", "Error:"].iter().any(|word| line.contains(word));
    lines().find(tells).or_else(|| lines().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_more_telling_than_what_follows_it() {
        assert_eq!(telling("a\nerror: no BPF\nbye\n\n"), Some("error: no BPF"));
        assert_eq!(telling("INFO a\nINFO b\n"), Some("INFO b"));
        assert_eq!(telling("\n \n"), None);
    }
}
