//! L8 where rules could enforce: first by nobody, as on a cluster whose network-policy add-on is off; then by the add-on, which is
//! the agents' own option. Fails where who is not allowed is kept out by nobody's doing, or is not kept out by the rules.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use lab::{AgentArg, Place, status::PodInfo};
use serde_json::Value;

use super::{ALLOWED, BLOCKED, Guard, Story, got, is_enforced};
use crate::{
    bench::{Bench, Error},
    command::Line,
    compare::Exhibit,
    layers::{Found, first_node},
    normalise::Style,
};

/// How long somebody who is not to be kept out is watched.
const HOLD: Duration = Duration::from_secs(2);

const SWITCH: &str = "--network-policy";

impl Story<'_> {
    /// The same policy twice: there, and enforced.
    pub(super) fn by_rules(&self, found: &mut Found) -> Result<(), Error> {
        if is_enforced(self.bench) {
            self.bench.lab.restart_agents(self.switched("off")?)?;
        }
        let (_, before) = self.rules("without the policy", "")?;
        self.apply(found)?;
        found.exhibits.push(self.addresses()?);
        self.nobody_is_kept_out()?;
        self.requests(found, Guard::Nobody)?;
        let note = format!("{before} before the policy was applied: nobody made a rule of it.");
        let (exhibit, after) = self.rules("with the policy", &note)?;
        if before != after {
            return Err(Error::Otherwise {
                what: "rules with a policy that nobody enforces".into(),
                wanted: before.to_string(),
                found: after.to_string(),
            });
        }
        found.exhibits.push(exhibit);
        found.exhibits.push(self.turn_on()?);
        self.wait_for_policy()?;
        self.requests(found, Guard::AddOn)?;
        let (_, enforced) = self.rules("with the add-on", "")?;
        self.in_the_kernel(found)?;
        found.fact("rules_before", before);
        found.fact("rules_after", after);
        found.fact("rules_with_add_on", enforced);
        Ok(())
    }

    /// The lab's own arguments for its agents, with the switch turned.
    fn switched(&self, to: &str) -> Result<Vec<AgentArg>, Error> {
        let told = self.bench.lab.state().agent_args.iter().map(AgentArg::as_str).collect::<Vec<_>>();
        let switch = format!("{SWITCH}={to}");
        let given = without(&told, SWITCH).into_iter().chain([switch.as_str()]);
        let parsed = given.map(str::parse).collect::<Result<_, lab::Taken>>();
        parsed.map_err(|taken| Error::Missing { what: taken.to_string() })
    }

    /// Every agent again, with the add-on.
    fn turn_on(&self) -> Result<Exhibit, Error> {
        let bench = self.bench;
        let given = self.switched("on")?;
        let given = given.iter().map(|argument| format!("--agent-arg={}", argument.as_str()));
        let given = given.collect::<Vec<_>>();
        let mut words = vec!["lab", "agent", "restart", "--name", bench.lab.name().as_str()];
        words.extend(given.iter().map(String::as_str));
        let line = Line::twinplane(Place::Edge, &words, "");
        let mut exhibit = bench.twinplane("The add-on, turned on", &line, Style::Plain)?;
        exhibit.capture.r#where = "host".into();
        let capture = &mut exhibit.capture;
        if capture.exit != 0 {
            let (command, message) = (line.to_string(), capture.output.trim().to_owned());
            return Err(Error::Exit { command, exit: capture.exit, message });
        }
        capture.note =
            "From here on the same agents also write rules for policies. The object stays as it is.".into();
        Ok(exhibit)
    }

    /// The one that the policy does not allow is answered, now and for a while.
    fn nobody_is_kept_out(&self) -> Result<(), Error> {
        let begun = Instant::now();
        let series = self.series(BLOCKED, &self.subject.inside_url(), super::PROBE_LIMIT_S);
        let attempts = series.until(|_| Ok(begun.elapsed() > HOLD))?;
        let failed = attempts.iter().find(|attempt| !attempt.ok());
        failed.map_or(Ok(()), |failed| {
            Err(Error::Otherwise {
                what: format!("request of {} where no policy is enforced", BLOCKED.name),
                wanted: "an answer".into(),
                found: got(&failed.outcome),
            })
        })
    }

    /// All that a plane without identities can go by.
    fn addresses(&self) -> Result<Exhibit, Error> {
        let columns = "custom-columns=POD:.metadata.name,ROLE:.metadata.labels.role,APP:.metadata.labels.app,\
                       IP:.status.podIP";
        let words = ["-n", &self.subject.namespace, "get", "pods", "-o", columns];
        let note = "Rules compare addresses, and a pod has another one each time it is made.";
        self.bench.kubectl(super::KNOWN_BY, &words, note)
    }

    /// How many rules the first node has.
    fn rules(&self, when: &str, note: &str) -> Result<(Exhibit, usize), Error> {
        let node = first_node(self.bench);
        let line = Line::shell(Place::Node(node.clone()), "iptables-save | grep -c '^-A '");
        let exhibit = self.bench.capture(&format!("Rules of {node} {when}"), &line, Style::Plain, note)?;
        let count = exhibit.capture.output.trim().parse();
        let count = count.map_err(|_| Error::Missing { what: format!("a number of rules on {node}") })?;
        Ok((exhibit, count))
    }

    /// The rules of the pod that answered, and the set of addresses that they ask.
    fn in_the_kernel(&self, found: &mut Found) -> Result<(), Error> {
        let Self { bench, subject, .. } = self;
        for pod in subject.ready_pods(bench)? {
            let Some(ip) = pod.ip else { continue };
            let exhibit = rules_of(bench, &pod, ip)?;
            let counted = Counted::read(&exhibit.capture.output);
            if counted.allowed == 0 {
                continue;
            }
            if counted.dropped == 0 {
                return Err(Error::Otherwise {
                    what: format!("rules of {}", pod.name),
                    wanted: "dropped packets".into(),
                    found: "none".into(),
                });
            }
            let mut exhibit = exhibit;
            exhibit.capture.note = format!(
                "What was let in and what was dropped at this node's pods of the Service, -c with packets and bytes: {} and {} \
                 packets. Whose they were, no counter says.",
                counted.allowed, counted.dropped
            );
            found.exhibits.push(exhibit);
            found.exhibits.push(self.set(&pod.node, &counted.set)?);
            found.fact("packets_dropped_by_rules", counted.dropped);
            return Ok(());
        }
        Err(Error::Missing { what: "a pod whose rules have let the allowed request in".into() })
    }

    /// The addresses of whoever may.
    fn set(&self, node: &str, name: &str) -> Result<Exhibit, Error> {
        let line = Line::new(Place::Node(node.to_owned()), ["ipset", "list", name]);
        let mut exhibit = self.bench.capture("The set that they ask", &line, Style::Plain, "")?;
        let pods = self.bench.lab.pods()?;
        let is_member = |client: super::Client| {
            let ours = |pod: &&PodInfo| pod.namespace == self.subject.namespace && pod.name == client.name;
            let ip = pods.iter().find(ours).and_then(|pod| pod.ip).map(|ip| ip.to_string());
            exhibit.capture.output.lines().any(|line| Some(line.trim()) == ip.as_deref())
        };
        let (allowed, blocked) = (is_member(ALLOWED), is_member(BLOCKED));
        if !allowed || blocked {
            return Err(Error::Otherwise {
                what: format!("members of set {name}"),
                wanted: format!("{}, and not {}", ALLOWED.name, BLOCKED.name),
                found: exhibit.capture.output.trim().to_owned(),
            });
        }
        exhibit.capture.note = format!(
            "The address of {}, by which the kernel knows it: for each such pod that comes or goes, every node's set changes.",
            ALLOWED.name
        );
        Ok(exhibit)
    }
}

/// Arguments without a switch and its value, given in one argument or two.
fn without<'a>(arguments: &[&'a str], switch: &str) -> Vec<&'a str> {
    let mut rest = vec![];
    let mut all = arguments.iter();
    while let Some(argument) = all.next() {
        if *argument == switch {
            all.next();
        } else if argument.split('=').next() != Some(switch) {
            rest.push(*argument);
        }
    }
    rest
}

/// The rules that judge what goes to a pod, and the chain that they lead to.
fn rules_of(bench: &Bench, pod: &PodInfo, ip: IpAddr) -> Result<Exhibit, Error> {
    let place = Place::Node(pod.node.clone());
    let program = if ip.is_ipv4() { "iptables" } else { "ip6tables" };
    let route = Line::new(place.clone(), ["ip", "-json", "route", "get", &ip.to_string()]);
    let output = bench.run(&route, Duration::from_secs(10))?.stdout;
    let routes: Value = serde_json::from_str(&output)
        .map_err(|source| Error::Answer { command: route.to_string(), source })?;
    let missing = |what: &str| Error::Missing { what: format!("{what} of {}", pod.name) };
    let interface = routes[0]["dev"].as_str().ok_or_else(|| missing("the interface"))?;
    let all = Line::new(place.clone(), [program, "-t", "mangle", "-S"]);
    let all = bench.run(&all, Duration::from_secs(10))?.stdout;
    let chain = chain_to(&all, interface).ok_or_else(|| missing("the chain"))?;
    let script = format!("{program} -t mangle -v -S | grep -E -- ' {interface} |-A {chain} '");
    let line = Line::shell(place, script);
    bench.capture(super::IN_KERNEL, &line, Style::Plain, "")
}

/// Where a packet to an interface goes to be judged.
fn chain_to<'a>(rules: &'a str, interface: &str) -> Option<&'a str> {
    let out = format!(" -o {interface} -j ");
    rules.lines().filter(|rule| !rule.contains(" -i ")).find_map(|rule| Some(rule.split_once(&out)?.1.trim()))
}

/// What rules with their counters (`iptables -v -S`) say.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    /// The set of whom the first of them lets in.
    set: String,
    /// Packets.
    allowed: u64,
    dropped: u64,
}

impl Counted {
    fn read(rules: &str) -> Self {
        let packets = |rule: &str| {
            let count = rule.split_once(" -c ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            count.unwrap_or(0)
        };
        let sum = |which: &dyn Fn(&&str) -> bool| rules.lines().filter(which).map(packets).sum();
        let set = rules.lines().find_map(|rule| rule.split_once("--match-set ")?.1.split(' ').next());
        Self {
            set: set.unwrap_or_default().to_owned(),
            allowed: sum(&|rule| rule.contains("--match-set ")),
            dropped: sum(&|rule| rule.ends_with("-j DROP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_goes_with_its_value() {
        let given = ["--xdp=auto", "--network-policy", "off", "--flows=on", "--network-policy=on"];
        assert_eq!(without(&given, SWITCH), ["--xdp=auto", "--flows=on"]);
    }

    #[test]
    fn a_pods_chain_is_found_by_its_interface() {
        let rules = "-A TWINPLANE-POLICY -i tp1 -o tp1 -j RETURN\n-A TWINPLANE-POLICY -o tp12 -j OTHER\n\
                     -A TWINPLANE-POLICY -o tp1 -j TP-POL-A\n";
        assert_eq!(chain_to(rules, "tp1"), Some("TP-POL-A"));
        assert_eq!(chain_to(rules, "tp2"), None);
    }

    #[test]
    fn counters_are_read_by_what_their_rules_do() {
        let rules = "-A T -i tp1 -o tp1 -c 9 540 -j RETURN\n-A T -o tp1 -c 5 300 -j TP-POL-A\n\
                     -A TP-POL-A -m set --match-set tp4-i-2 src -m comment --comment \"a b\" -c 1 60 -j RETURN\n\
                     -A TP-POL-A -m comment --comment c -c 4 240 -j DROP\n";
        let wanted = Counted { set: "tp4-i-2".into(), allowed: 1, dropped: 4 };
        assert_eq!(Counted::read(rules), wanted);
    }
}
