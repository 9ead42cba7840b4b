//! L4: how a packet for the Service becomes one for a pod: rules tried one by one, or rows looked up.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dataplane_iptables::{
    parse::Saved,
    walk::{End, Journey, walk},
};
use lab::Place;
use model::{Plane, Protocol, oracle::Packet};

use super::Found;
use crate::{
    bench::{Bench, Error},
    command::{Line, rules_of},
    counters::Counters,
    normalise::Style,
    requests::{Series, listed},
    ruleset::{ServiceRules, walked},
    subject::{Subject, node_addresses},
};

/// Connections over which lookups are counted.
const CONNECTIONS: usize = 20;

pub(super) fn capture(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let node = super::first_node(bench);
    match bench.plane {
        Plane::Iptables => iptables(bench, subject, &node),
        Plane::Ebpf => ebpf(bench, subject, &node),
    }
}

fn iptables(bench: &Bench, subject: &Subject, node: &str) -> Result<Found, Error> {
    let everything = every_rule(node);
    let saved = Saved::parse(&bench.run(&everything, Duration::from_secs(30))?.stdout);
    let rules = ServiceRules::find(&saved, &subject.namespace, &subject.name);
    let mut found = Found::default();

    let chains = rules.chains.iter().map(|chain| chain.as_str().to_owned()).collect::<Vec<_>>();
    let probabilities = rules.probabilities();
    let note = format!(
        "{} rules: those of its own {} chains and those that lead into them. With {} endpoints, each but the last is \
         taken with the chance that makes all equal in the end: {}.",
        rules.count(),
        rules.chains.len(),
        rules.endpoints(),
        chances(&probabilities),
    );
    found.exhibits.push(bench.capture(
        "Rules of this Service",
        &rules_of(node, &chains),
        Style::Plain,
        note,
    )?);

    let journey = journey(bench, subject, node)?;
    let walk = walk(&saved, &journey);
    let end = match walk.end {
        End::Translated { to, masqueraded: true } => format!("translated to {to}, its source masqueraded"),
        End::Translated { to, masqueraded: false } => format!("translated to {to}"),
        End::Untranslated => "not translated".to_owned(),
        End::Rejected => "rejected".to_owned(),
        End::Dropped => "dropped".to_owned(),
    };
    let note = format!(
        "The first packet of a connection to {} that chance sends to the last endpoint is compared with {} rules; the \
         {} marked ones apply. It ends {end}. The connection's later packets take the answer from conntrack.",
        journey.packet.destination,
        walk.steps.len(),
        walk.matched().count(),
    );
    let title = "The way of a packet to the last endpoint";
    found.exhibits.push(bench.exhibit(title, &everything, Style::Plain, walked(&walk), 0, note));

    found.fact("rules_per_service", rules.count());
    found.fact("frontends", rules.frontends());
    found.fact("lookups_per_packet", walk.evaluated());
    found.fact("chains", rules.chains.len());
    found.fact("probabilities", probabilities);
    Ok(found)
}

fn every_rule(node: &str) -> Line {
    Line::new(Place::Node(node.to_owned()), ["iptables-save", "-c"])
}

fn ebpf(bench: &Bench, subject: &Subject, node: &str) -> Result<Found, Error> {
    let socket = bench.lab.agent_socket(node).display().to_string();
    let mut found = Found::default();
    let rows = super::rows(bench, subject, node)?;
    let kinds = rows.iter().map(|row| row.kind).collect::<BTreeSet<_>>();
    let sets = rows.iter().map(|row| &row.backends).collect::<BTreeSet<_>>();

    let list = |format: &str| {
        let words = ["service", "list", "--socket", &socket, "-o", format];
        Line::twinplane(Place::Node(node.to_owned()), &words, "")
    };
    let mut listed_rows = bench.twinplane("Rows of the service map", &list("table"), Style::Plain)?;
    listed_rows.capture.note = format!(
        "{} kinds of frontend, {} set of backends behind them. No rule names the Service: a packet's address is the key.",
        kinds.len(),
        sets.len(),
    );
    found.exhibits.push(listed_rows);

    let mut raw = bench.twinplane("The same rows, raw", &list("json"), Style::Plain)?;
    raw.capture.note = "As the agent reads them back from the kernel.".into();
    found.exhibits.push(raw);

    let lookups = Lookups::measure(bench, subject, &mut found)?;
    let saved = Saved::parse(&bench.run(&every_rule(node), Duration::from_secs(30))?.stdout);
    let rules = ServiceRules::find(&saved, &subject.namespace, &subject.name);
    found.fact("rules_per_service", rules.count());
    found.fact("frontends", kinds.len());
    found.fact("lookups_per_packet", lookups.each(lookups.lookups));
    found.fact("backend_lookups", lookups.each(lookups.backends));
    found.fact("backend_sets", sets.len());
    Ok(found)
}

/// Lookups over a number of connections, from the datapath's counters on all nodes.
struct Lookups {
    lookups: u64,
    backends: u64,
    connections: u64,
}

impl Lookups {
    fn measure(bench: &Bench, subject: &Subject, found: &mut Found) -> Result<Self, Error> {
        let nodes = bench.lab.topology().nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
        let read = || nodes.iter().map(|node| Counters::read(bench, node)).collect::<Result<Vec<_>, _>>();
        let before = read()?;
        let series = Series::new(bench, &subject.url(), Duration::ZERO);
        let attempts = series.take(CONNECTIONS)?;
        let after = read()?;
        let sum =
            |name| after.iter().zip(&before).map(|(after, before)| after.since(before, name)).sum::<u64>();
        let lookups = sum("slow_frontend_lookups");
        let connections = attempts.iter().filter(|attempt| attempt.ok()).count() as u64;
        let mut text = listed(&attempts);
        for ((node, after), before) in nodes.iter().zip(&after).zip(&before) {
            text.push_str(&format!("\n{node}\n{}", after.moved_since(before)));
        }
        let backends = sum("slow_backend_lookups");
        let note = format!(
            "{connections} connections made {lookups} lookups in the frontend map and {backends} for a backend, on both \
             nodes together. {} packets of known flows were forwarded by one lookup in the connection table. The \
             counters hold the nodes' own traffic too.",
            sum("forwarded_established"),
        );
        found.exhibits.push(bench.exhibit(
            "Lookups, counted by the datapath",
            &series.line,
            Style::Plain,
            text,
            0,
            note,
        ));
        found.fact("packets_by_one_lookup", sum("forwarded_established"));
        Ok(Self { lookups, backends, connections })
    }

    /// A share of every connection, to two decimals.
    fn each(&self, lookups: u64) -> f64 {
        (lookups as f64 / self.connections.max(1) as f64 * 100.0).round() / 100.0
    }
}

fn journey(bench: &Bench, subject: &Subject, node: &str) -> Result<Journey, Error> {
    let mut addresses = subject.ready_pods(bench)?.into_iter().filter_map(|pod| pod.ip).collect::<Vec<_>>();
    addresses.sort();
    let last = addresses.pop().ok_or_else(|| Error::Missing { what: "an endpoint".into() })?;
    let mut local: BTreeSet<IpAddr> = node_addresses(bench, node)?.into_iter().collect();
    // The load balancer does not rewrite: its address is the node's own (see lab::edge).
    local.insert(subject.vip);
    Ok(Journey {
        packet: Packet {
            source: SocketAddr::new(bench.lab.topology().primary().client(), 40_000),
            destination: SocketAddr::new(subject.vip, subject.port),
            protocol: Protocol::Tcp,
        },
        endpoint: SocketAddr::new(last, subject.target_port),
        remembered: None,
        local,
    })
}

/// `0.333, 0.500`
fn chances(probabilities: &[f64]) -> String {
    match probabilities {
        [] => "none, there is only one".to_owned(),
        several => several.iter().map(|chance| format!("{chance:.3}")).collect::<Vec<_>>().join(", "),
    }
}
