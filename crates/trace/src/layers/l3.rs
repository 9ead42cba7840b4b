//! L3: the first packet of one connection through the node that received it: interfaces, then rules or counters.

use std::{collections::BTreeSet, time::Duration};

use lab::{Place, status::PodInfo};
use model::Plane;

use super::Found;
use crate::{
    bench::{Bench, Error, Watch},
    command::{Line, watch_first_segments},
    compare::Exhibit,
    counters::Counters,
    hooks::{Counting, Hooks},
    normalise::Style,
    requests::Series,
    subject::Subject,
};

/// The load balancer's hash decides which node a connection reaches: this many find the wanted one but for a chance
/// of one in 2^24.
const ATTEMPTS: usize = 24;

/// How long a packet may take from the wire to the pod.
const SETTLE: Duration = Duration::from_millis(400);

pub(super) fn capture(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let node = super::first_node(bench);
    let unseen = |source| Error::Hooks { node: node.clone(), source };
    let (_marked, _counting) = match bench.plane {
        Plane::Iptables => (Some(Mark::set(bench, subject, &node)?), None),
        Plane::Ebpf => (None, Some(Counting::start().map_err(unseen)?)),
    };
    for _ in 0..ATTEMPTS {
        if let Some(seen) = Listeners::start(bench, subject, &node)?.one_connection(bench, subject, &node)? {
            return Ok(seen);
        }
    }
    Err(Error::Missing { what: format!("a connection to {} that reaches {node}", subject.vip) })
}

/// A rule that makes the kernel report every rule its packet meets; removed when dropped.
struct Mark<'a> {
    bench: &'a Bench,
    node: &'a str,
    rule: Vec<String>,
}

impl<'a> Mark<'a> {
    fn set(bench: &'a Bench, subject: &Subject, node: &'a str) -> Result<Self, Error> {
        let (client, vip, port) =
            (bench.lab.topology().primary().client(), subject.vip, subject.port.to_string());
        let rule = format!("PREROUTING -s {client} -d {vip} -p tcp --syn --dport {port} -j TRACE");
        let mark = Self { bench, node, rule: rule.split(' ').map(str::to_owned).collect() };
        mark.run("-A").map(|()| mark)
    }

    fn run(&self, verb: &str) -> Result<(), Error> {
        let words =
            ["iptables", "-w", "-t", "raw", verb].map(str::to_owned).into_iter().chain(self.rule.clone());
        let line = Line::new(Place::Node(self.node.to_owned()), words);
        let output = self.bench.run(&line, Duration::from_secs(30))?;
        if output.success() {
            return Ok(());
        }
        Err(Error::Exit {
            command: line.to_string(),
            exit: output.exit,
            message: output.stderr.trim().to_owned(),
        })
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.run("-D") {
            eprintln!("warning: {error}");
        }
    }
}

/// Everything that listens while one connection is made.
struct Listeners {
    interfaces: (Line, Watch),
    rules: Option<(Line, Watch)>,
    pods: Vec<(PodInfo, Line, Watch)>,
    before: Counters,
    hooks: Hooks,
}

impl Listeners {
    fn start(bench: &Bench, subject: &Subject, node: &str) -> Result<Self, Error> {
        let ports = BTreeSet::from([subject.port, subject.target_port]).into_iter().collect::<Vec<_>>();
        let start = |line: Line| bench.watch(&line).map(|watch| (line, watch));
        let at = Place::Node(node.to_owned());
        let interfaces = start(watch_first_segments(at.clone(), "any", &ports))?;
        let rules = match bench.plane {
            Plane::Iptables => {
                let script = "xtables-monitor --trace | grep --line-buffered TRACE:";
                Some(start(Line::shell(at, script))?)
            }
            Plane::Ebpf => None,
        };
        let mut pods = vec![];
        for pod in subject.ready_pods(bench)? {
            let place = Place::Pod { namespace: Some(pod.namespace.clone()), name: pod.name.clone() };
            let (line, watch) = start(watch_first_segments(place, "any", &[subject.target_port]))?;
            pods.push((pod, line, watch));
        }
        Ok(Self {
            interfaces,
            rules,
            pods,
            before: Counters::read(bench, node)?,
            hooks: hooks_of(bench, node)?,
        })
    }

    /// Makes a connection and returns what was seen of it, where it came to this node.
    fn one_connection(self, bench: &Bench, subject: &Subject, node: &str) -> Result<Option<Found>, Error> {
        let series = Series::new(bench, &subject.url(), Duration::ZERO);
        let arrival = format!("> {}.{}:", subject.vip, subject.port);
        series.one()?;
        self.interfaces.1.listen(SETTLE, |heard| heard.contains(&arrival))?;
        if !self.interfaces.1.so_far().contains(&arrival) {
            return Ok(None);
        }
        for (_, _, watch) in self.pods.iter().take(1) {
            watch
                .listen(SETTLE, |_| self.pods.iter().any(|(_, _, watch)| watch.so_far().contains(" IP ")))?;
        }
        self.found(bench, node).map(Some)
    }

    /// Ends every listener and says what each heard.
    fn found(self, bench: &Bench, node: &str) -> Result<Found, Error> {
        let (after, hooks) = (Counters::read(bench, node)?, hooks_of(bench, node)?);
        let mut found = Found::default();
        let (line, watch) = self.interfaces;
        let crossed = watch.stop();
        let interfaces = interfaces(&crossed);
        let note = format!(
            "The connection's first packet, wherever an interface of {node} let it be seen: {}.",
            interfaces.join(", then ")
        );
        found.exhibits.push(bench.exhibit("Interfaces it crossed", &line, Style::Wire, crossed, 0, note));
        found.fact("interface_crossings", interfaces.len());
        match self.rules {
            Some((line, watch)) => applied(bench, &line, watch.stop(), &mut found),
            None => {
                if !hooks.is_empty() {
                    found.exhibits.push(runs(bench, node, &hooks, &self.hooks));
                }
                found.exhibits.push(moved(bench, node, &after, &self.before));
                found.fact("ebpf_programs_run", hooks.ran_since(&self.hooks));
            }
        }
        for (pod, line, watch) in self.pods {
            let heard = watch.stop();
            if heard.contains(" IP ") {
                let note = format!("The same packet, as {} on {} received it.", pod.name, pod.node);
                found.exhibits.push(bench.exhibit("In the pod", &line, Style::Wire, heard, 0, note));
            }
        }
        Ok(found)
    }
}

/// Rules that the kernel reported.
fn applied(bench: &Bench, line: &Line, trace: String, found: &mut Found) {
    let hooks = hooks(&trace);
    let applied = trace.lines().filter(|line| line.contains(":rule:") && !line.contains(" raw:")).count();
    let note =
        format!("Besides the rule that asks for this trace, {applied} applied to it: {}.", hooks.join(", "));
    let title = "Rules that applied, hook by hook";
    found.exhibits.push(bench.exhibit(title, line, Style::Plain, trace, 0, note));
    found.fact("rules_applied", applied);
    found.fact("netfilter_hooks", hooks.len());
}

fn hooks_of(bench: &Bench, node: &str) -> Result<Hooks, Error> {
    let namespace = bench.lab.namespace(&Place::Node(node.to_owned()))?;
    Hooks::read(&namespace).map_err(|source| Error::Hooks { node: node.to_owned(), source })
}

/// Programs by hook.
fn runs(bench: &Bench, node: &str, after: &Hooks, before: &Hooks) -> Exhibit {
    let calls = "# bpf(2): BPF_ENABLE_STATS; per interface BPF_PROG_QUERY; run_cnt of every program found";
    let line = Line::shell(Place::Node(node.to_owned()), calls);
    let note = format!(
        "Asked of the kernel before and after the whole connection: {} programs ran, on the node's own interface and \
         on the pods' ends.",
        after.ran_since(before),
    );
    bench.exhibit("Programs that ran, hook by hook", &line, Style::Plain, after.table(before), 0, note)
}

/// What the programs decided.
fn moved(bench: &Bench, node: &str, after: &Counters, before: &Counters) -> Exhibit {
    let socket = bench.lab.agent_socket(node).display().to_string();
    let words = ["twinplane", "status", "--socket", &socket, "-o", "json"];
    let line = Line::new(Place::Node(node.to_owned()), words);
    let note = format!(
        "The datapath's own counters before and after the connection. Packets of new flows: {}; of known ones, by one \
         lookup: {}.",
        after.since(before, "forwarded_new"),
        after.since(before, "forwarded_established"),
    );
    bench.exhibit("Counters that moved", &line, Style::Plain, after.moved_since(before), 0, note)
}

/// `eth0 in`, `veth1 out`, … in order, from `tcpdump -i any`: time, interface, direction.
fn interfaces(dump: &str) -> Vec<String> {
    let crossing = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some(format!("{} {}", words.next()?, words.next()?.to_lowercase()))
    };
    dump.lines().filter(|line| line.contains(" IP")).filter_map(crossing).collect()
}

/// Table and built-in chain of every trace line, in order, each once: `nat PREROUTING`.
fn hooks(trace: &str) -> Vec<String> {
    let mut hooks: Vec<String> = vec![];
    for line in trace.lines() {
        let mut place =
            line.split_whitespace().find(|word| word.matches(':').count() >= 2).unwrap_or("").split(':');
        let (Some(table), Some(chain)) = (place.next(), place.next()) else { continue };
        let hook = format!("{table} {chain}");
        let built_in = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&chain);
        // The raw table holds only the rule that asks for the trace.
        if built_in && table != "raw" && !hooks.contains(&hook) {
            hooks.push(hook);
        }
    }
    hooks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_from_a_dump() {
        let dump = "05:50:01.1 eth0  In  IP 198.51.100.10.40312 > 203.0.113.1.80: tcp 0\n\
                    05:50:01.2 veth1 Out IP 10.20.0.1.1024 > 10.20.0.5.80: tcp 0\n";
        assert_eq!(interfaces(dump), ["eth0 in", "veth1 out"]);
    }

    #[test]
    fn hooks_are_read_from_a_kernels_trace() {
        let trace = " TRACE: 2 87bd72f7 raw:PREROUTING:rule:0x2:CONTINUE  -4 -t raw -A PREROUTING -j TRACE\n \
                     TRACE: 2 87bd72f7 raw:PREROUTING:policy:ACCEPT \n \
                     TRACE: 2 87bd72f7 nat:PREROUTING:rule:0x2:JUMP:KUBE-SERVICES  -4 -t nat -A PREROUTING\n \
                     TRACE: 2 87bd72f7 nat:KUBE-SERVICES:rule:0x5:ACCEPT  -4 -t nat -A KUBE-SERVICES\n";
        assert_eq!(hooks(trace), ["nat PREROUTING"]);
    }
}
