//! Runs `iptables-save` and `iptables-restore`.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use model::Family;

use super::{
    Refusal, Rules,
    account::{self, Count},
};
use crate::{parse::Saved, ruleset::Table};

/// Seconds to wait for another program's lock on the rules, as kube-proxy does.
const LOCK_SECONDS: &str = "5";

/// The programs of one family, found by `PATH`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Programs {
    family: Family,
}

impl Programs {
    pub(crate) const fn new(family: Family) -> Self {
        Self { family }
    }

    /// Begins the names of counters that hold counts of rules that are no more. No rule uses them.
    const fn ledger(self) -> &'static str {
        match self.family {
            Family::V4 => "tp4_",
            Family::V6 => "tp6_",
        }
    }

    fn name(self, tool: &str) -> String {
        match self.family {
            Family::V4 => format!("iptables{tool}"),
            Family::V6 => format!("ip6tables{tool}"),
        }
    }
}

impl Rules for Programs {
    fn save(&self, table: Option<Table>) -> Result<Saved, Refusal> {
        let program = self.name("-save");
        let mut command = Command::new(&program);
        command.arg("-c");
        if let Some(table) = table {
            command.args(["-t", table.as_str()]);
        }
        let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_run(&program, &error))?;
        if !output.status.success() {
            return Err(refusal(program, &output.stderr));
        }
        Ok(Saved::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    fn restore(&mut self, text: &str) -> Result<(), Refusal> {
        let program = self.name("-restore");
        let mut child = Command::new(&program)
            .args(["--noflush", "-w", LOCK_SECONDS])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| cannot_run(&program, &error))?;
        let input = child.stdin.take();
        // Its errors are a few lines, which fit the pipe while this writes; a broken pipe shows in the exit status.
        let written = input.map(|mut input| input.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(|error| cannot_run(&program, &error))?;
        if !output.status.success() {
            return Err(refusal(program, &output.stderr));
        }
        written.transpose().map(|_| ()).map_err(|error| cannot_run(&program, &error))
    }

    fn kept(&self) -> Vec<Count> {
        let prefix = self.ledger();
        let own = |count: Count| Some(Count { name: count.name.strip_prefix(prefix)?.to_owned(), ..count });
        account::all().unwrap_or_default().into_iter().filter_map(own).collect()
    }

    fn keep(&mut self, counts: &[Count]) {
        for count in counts {
            let named = Count { name: format!("{}{}", self.ledger(), count.name), ..count.clone() };
            if let Err(error) = account::set(&named) {
                tracing::debug!(%error, name = named.name, "cannot keep a count beyond a restart");
            }
        }
    }

    fn forget(&mut self) {
        for count in self.kept() {
            if let Err(error) = account::remove(&format!("{}{}", self.ledger(), count.name)) {
                tracing::debug!(%error, name = count.name, "cannot remove a count");
            }
        }
    }
}

/// The version line of the family's program: `iptables v1.8.9 (nf_tables)`.
pub(crate) fn version(family: Family) -> Result<String, Refusal> {
    let program = Programs::new(family).name("");
    let output =
        Command::new(&program).arg("--version").output().map_err(|error| cannot_run(&program, &error))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cannot_run(program: &str, error: &std::io::Error) -> Refusal {
    Refusal { program: program.to_owned(), problem: error.to_string(), line: None }
}

fn refusal(program: String, stderr: &[u8]) -> Refusal {
    let problem = String::from_utf8_lossy(stderr).trim().to_owned();
    Refusal { line: line_of(&problem), program, problem }
}

/// Both variants name the line: "line 5: RULE_APPEND failed", "Error occurred at line: 5", "line 5 failed".
fn line_of(problem: &str) -> Option<usize> {
    let numbers = problem.match_indices("line").filter_map(|(at, word)| {
        let rest = problem[at + word.len()..].trim_start_matches([':', ' ']);
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    numbers.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_line_is_found_in_both_variants_words() {
        for (problem, line) in [
            ("line 5: RULE_APPEND failed (No such file or directory): rule in chain T", Some(5)),
            (
                "iptables-restore v1.8.9 (nf_tables): Comment must be shorter\nError occurred at line: 12\nTry",
                Some(12),
            ),
            ("iptables-restore: line 7 failed", Some(7)),
            ("Another app is currently holding the xtables lock", None),
        ] {
            assert_eq!(line_of(problem), line, "{problem}");
        }
    }
}
