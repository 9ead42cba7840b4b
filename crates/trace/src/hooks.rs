//! The eBPF programs on a node's interfaces and how often the kernel ran each, read from the kernel itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    os::fd::OwnedFd,
};

use aya::{
    programs::{SchedClassifier, TcAttachType},
    sys::{Stats, enable_stats},
};
use netns::NetNs;

/// Programs by name: the hooks each is attached to, and its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks(BTreeMap<String, Program>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Program {
    /// `eth0 ingress`
    attached: BTreeSet<String>,
    runs: u64,
}

/// As long as it lives, the kernel counts runs (`BPF_ENABLE_STATS`).
#[derive(Debug)]
pub struct Counting {
    _descriptor: OwnedFd,
}

impl Counting {
    /// # Errors
    /// The kernel is older than 5.8, or root is missing.
    pub fn start() -> io::Result<Self> {
        let _descriptor = enable_stats(Stats::RunTime).map_err(|error| error.io_error)?;
        Ok(Self { _descriptor })
    }
}

impl Hooks {
    /// The programs attached by tcx to the interfaces of `namespace`; empty on kernels without tcx.
    ///
    /// # Errors
    /// The namespace or its list of interfaces cannot be read.
    pub fn read(namespace: &NetNs) -> io::Result<Self> {
        namespace.run(Self::here).map_err(|error| error.source)?
    }

    fn here() -> io::Result<Self> {
        let mut hooks = Self::default();
        let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
        let interfaces = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
        for interface in interfaces {
            for (attach, direction) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")]
            {
                let Ok((_, programs)) = SchedClassifier::query_tcx(interface, attach) else { continue };
                for program in programs {
                    let name = program.name_as_str().unwrap_or("?").to_owned();
                    let entry = hooks.0.entry(name).or_default();
                    if entry.attached.insert(format!("{interface} {direction}")) {
                        entry.runs = entry.runs.max(program.run_count());
                    }
                }
            }
        }
        Ok(hooks)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Programs that ran since `before`.
    pub fn ran_since(&self, before: &Self) -> usize {
        self.0.keys().filter(|name| self.runs_since(before, name) > 0).count()
    }

    /// One line per program: runs since `before`, and where it hangs.
    pub fn table(&self, before: &Self) -> String {
        let mut text = format!("{:<12} {:>5}  {}\n", "PROGRAM", "RUNS", "ATTACHED TO");
        for (name, program) in &self.0 {
            let hooks = program.attached.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "{name:<12} {:>5}  {hooks}", format!("+{}", self.runs_since(before, name)));
        }
        text
    }

    fn runs_since(&self, before: &Self, name: &str) -> u64 {
        let runs = |hooks: &Self| hooks.0.get(name).map_or(0, |program| program.runs);
        runs(self).saturating_sub(runs(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(programs: &[(&str, &[&str], u64)]) -> Hooks {
        let program = |(name, attached, runs): &(&str, &[&str], u64)| {
            let attached = attached.iter().map(|hook| (*hook).to_owned()).collect();
            ((*name).to_owned(), Program { attached, runs: *runs })
        };
        Hooks(programs.iter().map(program).collect())
    }

    #[test]
    fn runs_are_told_by_program_with_its_hooks() {
        let before = hooks(&[("from_wire", &["eth0 ingress"], 40), ("to_pod", &["veth1 egress"], 7)]);
        let after =
            hooks(&[("from_wire", &["eth0 ingress"], 46), ("to_pod", &["veth1 egress", "veth2 egress"], 7)]);
        assert_eq!(after.ran_since(&before), 1);
        assert_eq!(
            after.table(&before),
            "PROGRAM       RUNS  ATTACHED TO\n\
             from_wire       +6  eth0 ingress\n\
             to_pod          +0  veth1 egress, veth2 egress\n"
        );
    }

    #[test]
    fn a_namespace_without_programs_has_none() {
        let namespace = netns::Owned::create(&format!("tp-{}-hooks", std::process::id())).expect("create");
        assert!(Hooks::read(&namespace).expect("read").is_empty());
    }
}
