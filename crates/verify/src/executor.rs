//! The executors: each takes a case and a tally, and returns the first difference.

use std::collections::BTreeMap;

use anyhow::Context as _;
use model::{
    Plane, ServicePortId, Snapshot,
    oracle::{Choice, Outcome},
};
use scenarios::places::Node;

use crate::{
    compare::{Coverage, Difference, Oracle, Seen, compare, compare_reference},
    probe::{Probe, probes},
    reference,
    state::{Case, Follower},
    tally::Tally,
    test_run::TestRun,
    walk::Rules,
};

/// What stopped a check.
#[derive(Debug)]
pub enum Stop {
    Difference(Difference),
    /// The executor itself failed: nothing is known of the case.
    Error(anyhow::Error),
}

impl From<Difference> for Stop {
    fn from(difference: Difference) -> Self {
        Self::Difference(difference)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

/// Something that a case can be put to.
pub trait Executor {
    /// As differences and the summary name it.
    fn name(&self) -> &'static str;

    /// Compares every probe of `case`.
    ///
    /// # Errors
    /// The first difference, or why nothing could be compared.
    fn check(&mut self, case: &Case, tally: &mut Tally) -> Result<(), Stop>;

    /// Whether a case takes seconds: few are put to it, and few smaller ones are tried of one that differs.
    fn is_slow(&self) -> bool {
        false
    }
}

/// The source port of packets that nobody remembers.
const PORT: u16 = 40_000;
const NO_DEVICE: &str = "passes no device: settled at the socket";

/// `cluster` and the oracle against the objects read naively; and a state that is stepped to against one that is listed.
#[derive(Debug)]
pub struct Model;

impl Executor for Model {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn check(&mut self, case: &Case, tally: &mut Tally) -> Result<(), Stop> {
        for node in Node::ALL {
            let snapshot = case.snapshot(node);
            if let Some(before) = &case.before {
                let stepped = stepped(case, node, before);
                same_services(&stepped, &snapshot, node)?;
            }
            for probe in probes(case) {
                let packet = probe.packet(PORT);
                let wanted = reference::forward(case, node, &packet);
                tally.count(compare_reference((&probe, &packet, &snapshot), &wanted))?;
            }
        }
        Ok(())
    }
}

fn stepped(case: &Case, node: Node, before: &crate::state::Objects) -> Snapshot {
    let mut follower = Follower::new(node, case.node_ports.clone(), vec![]);
    follower.list(before);
    follower.step(before, &case.objects);
    follower.snapshot().clone()
}

fn same_services(stepped: &Snapshot, listed: &Snapshot, node: Node) -> Result<(), Difference> {
    let all = |snapshot: &Snapshot| -> BTreeMap<ServicePortId, String> {
        snapshot.services.iter().map(|(id, service)| (id.clone(), format!("{service:?}"))).collect()
    };
    let (stepped, listed) = (all(stepped), all(listed));
    let mut ids = stepped.keys().chain(listed.keys());
    let none = || "none".to_owned();
    match ids.find(|id| stepped.get(id) != listed.get(id)) {
        None => Ok(()),
        Some(id) => Err(Difference {
            executor: "oracle",
            probe: format!("{id} at {}, stepped to", node.name()),
            wanted: listed.get(id).cloned().unwrap_or_else(none),
            got: stepped.get(id).cloned().unwrap_or_else(none),
        }),
    }
}

/// The iptables plane's rules, walked.
#[derive(Debug)]
pub struct Walker {
    pub oracle: Oracle,
}

impl Executor for Walker {
    fn name(&self) -> &'static str {
        "iptables walk"
    }

    fn check(&mut self, case: &Case, tally: &mut Tally) -> Result<(), Stop> {
        let snapshot = case.snapshot(Node::A);
        let rules = Rules::of(&snapshot, Node::A).map_err(|refused| not_programmed(self.name(), refused))?;
        for probe in probes(case) {
            let packet = probe.packet(PORT);
            let got = (rules.seen(&packet, &snapshot), Coverage::All);
            let by = (Plane::Iptables, self.name());
            tally.count(compare(by, (&probe, &packet, &snapshot), got, self.oracle))?;
        }
        Ok(())
    }
}

/// The eBPF plane's programs, run.
#[derive(Debug)]
pub struct Programs {
    pub run: TestRun,
    pub oracle: Oracle,
}

impl Executor for Programs {
    fn name(&self) -> &'static str {
        "ebpf test run"
    }

    fn check(&mut self, case: &Case, tally: &mut Tally) -> Result<(), Stop> {
        self.run.clear()?;
        let mut follower = Follower::new(Node::A, case.node_ports.clone(), self.run.endpoints());
        if let Some(before) = &case.before {
            follower.list(before);
            self.program(follower.snapshot())?;
            follower.step(before, &case.objects);
        } else {
            follower.list(&case.objects);
        }
        let snapshot = follower.snapshot();
        self.program(snapshot)?;
        if let Some(drifted) = self.run.drift()?.first() {
            let wanted = "nothing to repair".to_owned();
            let probe = "the maps".to_owned();
            return Err(Difference { executor: self.name(), probe, wanted, got: drifted.clone() }.into());
        }
        let asked = self.asked(case, snapshot, tally);
        for (probe, packet, got) in self.run.seen(&asked)? {
            let got = affinity_kept(&packet, snapshot, got);
            let by = (Plane::Ebpf, self.name());
            let verdict = compare(by, (&probe, &packet, snapshot), (got, Coverage::Some), self.oracle);
            tally.count(verdict)?;
        }
        Ok(())
    }
}

impl Programs {
    fn asked(&self, case: &Case, snapshot: &Snapshot, tally: &mut Tally) -> Vec<Probe> {
        let mut asked = vec![];
        for probe in probes(case) {
            if probe.is_own() && (probe.is_to_own_address() || self.returns(&probe, snapshot)) {
                tally.leave_out(NO_DEVICE);
            } else {
                asked.push(probe);
            }
        }
        asked
    }

    /// Whether a process of the node has the node itself as its only backend.
    fn returns(&self, probe: &Probe, snapshot: &Snapshot) -> bool {
        let own = |choice: &Choice| snapshot.node.addresses.contains(&choice.backend.ip());
        match (self.oracle)(&probe.packet(PORT), snapshot) {
            Outcome::Forwarded { choices } => choices.iter().all(own),
            _ => false,
        }
    }

    fn program(&mut self, snapshot: &Snapshot) -> Result<(), Stop> {
        let refused = self.run.program(snapshot).context("program the eBPF plane")?;
        match refused.first_key_value() {
            Some((id, reason)) => Err(not_programmed(self.name(), format!("{id}: {reason}")).into()),
            None => Ok(()),
        }
    }
}

pub(crate) fn not_programmed(executor: &'static str, got: String) -> Difference {
    Difference { executor, probe: "programming".to_owned(), wanted: "every service port".to_owned(), got }
}

/// Seconds that no run of a few packets takes.
const LONG_AFFINITY: u32 = 600;

/// A client that is remembered has one backend only.
fn affinity_kept(packet: &model::oracle::Packet, snapshot: &Snapshot, got: Seen) -> Seen {
    let service = model::oracle::addressed(packet, snapshot).map(|(service, _)| service);
    let remembers = service.and_then(|service| service.affinity_seconds).is_some_and(|s| s >= LONG_AFFINITY);
    match got {
        Seen::To(ways) if remembers && ways.len() > 1 => {
            Seen::Other(format!("no affinity: {}", Seen::To(ways)))
        }
        got => got,
    }
}
