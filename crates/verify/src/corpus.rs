//! Case files: reading one or a folder of them, and putting each to every executor.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};

use crate::{
    executor::{Executor, Stop},
    run::{Outcome, with_difference},
    state::Case,
};

/// The cases at `path`, by file, in order of name.
///
/// # Errors
/// Nothing can be read there, or it is no case; says which file and why.
pub fn read(path: &Path) -> anyhow::Result<Vec<(PathBuf, Case)>> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
        files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
    }
    let case = |file: PathBuf| {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let case = Case::from_yaml(&text).map_err(|why| anyhow!("read {}: {why}", file.display()))?;
        Ok((file, case))
    };
    files.into_iter().map(case).collect()
}

/// Puts every case to every executor. What differs is kept as it is: it is small already.
///
/// # Errors
/// An executor failed by itself.
pub fn replay(
    cases: &[(PathBuf, Case)],
    executors: &mut [Box<dyn Executor>],
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    for (file, case) in cases {
        for executor in &mut *executors {
            match outcome.check(&mut **executor, case) {
                Ok(()) => {}
                Err(Stop::Error(error)) => return Err(error.context(file.display().to_string())),
                Err(Stop::Difference(difference)) => {
                    let case = Case { about: file.display().to_string(), ..case.clone() };
                    outcome.differences.push(with_difference((case, difference), 0));
                }
            }
        }
    }
    Ok(())
}
