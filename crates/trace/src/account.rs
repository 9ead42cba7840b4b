//! Whether what was captured accounts for the requests that were made: each one's connection from its first segment to both
//! sides' last, and no connection that nobody made. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::flowline::FlowLine;

/// What is known of a series of requests without looking at a single packet.
#[derive(Clone, Debug)]
pub struct Made {
    /// The client's address and port of each request, as lines print them.
    pub from: Vec<String>,
    /// Pods of the Service, as `namespace/name`, and the node of each.
    pub pods: BTreeMap<String, String>,
}

/// What the flows come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub connections: usize,
    /// Connections that one node handed to a pod on another one, with an address of its own in place of the client's.
    pub handed_on: usize,
    pub flows: usize,
}

/// What the flows do not account for. Shows the first few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gaps(Vec<String>);

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        f.write_str(&self.0.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// The steps that make a connection whole: who sends what.
const STEPS: [(&str, bool, &str); 4] = [
    ("the client's SYN", false, "SYN"),
    ("the pod's SYN, ACK", true, "SYN"),
    ("the client's FIN", false, "FIN"),
    ("the pod's FIN", true, "FIN"),
];

/// Accounts for every request by the flows, and for every flow by the requests.
///
/// # Errors
/// Everything that is missing, or too much.
pub fn account(flows: &[FlowLine], made: &Made) -> Result<Account, Gaps> {
    let mut gaps = vec![];
    let mut connections: BTreeMap<(&str, &str), Vec<&FlowLine>> = BTreeMap::new();
    for flow in flows {
        connections.entry((&flow.client.host, &flow.node)).or_default().push(flow);
    }
    // Pods, by how often another node handed a connection to them.
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for from in &made.from {
        let seen = connections.iter().filter(|((client, _), _)| client == from).collect::<Vec<_>>();
        let [((_, node), flows)] = seen[..] else {
            gaps.push(format!("request from {from}: seen by {} nodes, want one", seen.len()));
            continue;
        };
        gaps.extend(whole(from, flows, "world", made));
        let pod = flows.first().map_or("", |flow| flow.server.name());
        if made.pods.get(pod).is_some_and(|home| home != node) {
            *wanted.entry(pod).or_default() += 1;
        }
    }
    let made_from = made.from.iter().map(String::as_str).collect::<BTreeSet<_>>();
    let mut handed_on: BTreeMap<&str, usize> = BTreeMap::new();
    for ((client, node), flows) in connections.iter().filter(|((client, _), _)| !made_from.contains(client)) {
        let pod = flows.first().map_or("", |flow| flow.server.name());
        gaps.extend(whole(client, flows, "remote-node", made));
        match made.pods.get(pod) {
            Some(home) if home == node => *handed_on.entry(pod).or_default() += 1,
            _ => gaps.push(format!("connection from {client} on {node}: nobody made it")),
        }
    }
    if wanted != handed_on {
        gaps.push(format!(
            "handed on to pods on other nodes: {wanted:?} connections, arrived there: {handed_on:?}"
        ));
    }
    match gaps.is_empty() {
        true => {
            Ok(Account { connections: made.from.len(), handed_on: wanted.values().sum(), flows: flows.len() })
        }
        false => Err(Gaps(gaps)),
    }
}

/// What is missing in one connection, as one node saw it.
fn whole(client: &str, flows: &[&FlowLine], identity: &str, made: &Made) -> Vec<String> {
    let mut gaps = vec![];
    for (step, is_answer, flag) in STEPS {
        let count = flows.iter().filter(|flow| flow.is_answer == Some(is_answer) && flow.has(flag)).count();
        // A FIN that is sent again is told of again.
        if count == 0 || (flag == "SYN" && count > 1) {
            gaps.push(format!("request from {client}: {step} {count} times"));
        }
    }
    for flow in flows {
        if flow.verdict != "FORWARDED" {
            gaps.push(format!("request from {client}: verdict {}", flow.verdict));
        }
        let known = flow.client.identity.starts_with(identity)
            && flow.server.is_workload()
            && made.pods.contains_key(flow.server.name());
        if !known {
            let (client, server) = (&flow.client, &flow.server);
            gaps.push(format!(
                "{} ({}) to {} ({}): want {identity} to a pod of the Service",
                client.host, client.identity, server.host, server.identity
            ));
        }
    }
    gaps
}

/// Who was kept from whom, and by what numbers they go.
#[derive(Clone, Debug)]
pub struct Denied {
    /// The client's pod, as `namespace/name`, and its identity.
    pub client: (String, u64),
    /// The pods of the Service, and theirs.
    pub servers: (Vec<String>, u64),
}

/// Whether `flows` tell that every attempt of the one request ended at its first segment; how many drops they tell of.
///
/// # Errors
/// No drop; one of anything but a first segment, or of others; an answer.
pub fn denied(flows: &[FlowLine], denied: &Denied) -> Result<usize, Gaps> {
    let Denied { client: (client, of_client), servers: (servers, of_servers) } = denied;
    let mut gaps = vec![];
    let (of_client, of_servers) = (format!("ID:{of_client}"), format!("ID:{of_servers}"));
    let drops = flows.iter().filter(|flow| flow.verdict == "DROPPED").collect::<Vec<_>>();
    if drops.is_empty() {
        gaps.push(format!("no drop of {client}"));
    }
    for flow in &drops {
        let ends = (flow.client.name(), flow.server.name());
        let known = ends.0 == client && servers.iter().any(|server| server == ends.1);
        if !known || flow.client.identity != of_client || flow.server.identity != of_servers {
            let (client_identity, server_identity) = (&flow.client.identity, &flow.server.identity);
            gaps.push(format!(
                "drop from {} ({client_identity}) to {} ({server_identity}): want {client} ({of_client}) to a pod of the \
                 Service ({of_servers})",
                ends.0, ends.1
            ));
        }
        if !flow.has("SYN") || flow.has("ACK") {
            gaps.push(format!("drop of {client} at {:?}: want its first segment", flow.flags));
        }
    }
    let ports = drops.iter().map(|flow| flow.client.host.as_str()).collect::<BTreeSet<_>>();
    if ports.len() > 1 {
        gaps.push(format!("drops of {ports:?}: want one request's"));
    }
    if let Some(answer) = flows.iter().find(|flow| flow.is_answer == Some(true)) {
        gaps.push(format!("{} was answered: {:?}", answer.client.host, answer.flags));
    }
    if gaps.is_empty() { Ok(drops.len()) } else { Err(Gaps(gaps)) }
}

/// Requests that no line of `output` has, by the client's port as `marks` write it.
pub fn unseen(made: &[u16], output: &str, mark: impl Fn(u16) -> String) -> Vec<u16> {
    let missing = |port: &&u16| {
        let mark = mark(**port);
        !output.lines().any(|line| line.contains(&mark))
    };
    made.iter().filter(missing).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD_A: &str = "ns/web-1";
    const POD_B: &str = "ns/web-2";

    fn made(from: &[&str]) -> Made {
        Made {
            from: from.iter().map(|from| (*from).to_owned()).collect(),
            pods: [(POD_A, "node-a"), (POD_B, "node-b")].map(|(pod, node)| (pod.into(), node.into())).into(),
        }
    }

    /// A whole connection as `node` prints it.
    fn connection(node: &str, client: &str, identity: &str, pod: &str) -> Vec<String> {
        [("->", "SYN"), ("<-", "SYN, ACK"), ("->", "ACK, FIN"), ("<-", "ACK, FIN")]
            .map(|(arrow, flags)| {
                format!(
                    "Nov 23 03:55:02.934 [{node}]: {client} ({identity}) {arrow} {pod}:80 (ID:300) from-network \
                     FORWARDED (TCP Flags: {flags})"
                )
            })
            .into()
    }

    /// One request that stays on its node, and one that is handed on.
    fn both() -> Vec<String> {
        [
            connection("node-a", "198.51.100.10:1", "world-ipv4", POD_A),
            connection("node-a", "198.51.100.10:2", "world-ipv4", POD_B),
            connection("node-b", "10.128.0.11:7", "remote-node", POD_B),
        ]
        .concat()
    }

    fn judge(lines: &[String], from: &[&str]) -> Result<Account, String> {
        account(&FlowLine::all(&lines.join("\n")), &made(from)).map_err(|gaps| gaps.to_string())
    }

    const FROM: [&str; 2] = ["198.51.100.10:1", "198.51.100.10:2"];

    #[test]
    fn every_request_is_accounted_for() {
        let account = Account { connections: 2, handed_on: 1, flows: 12 };
        assert_eq!(judge(&both(), &FROM), Ok(account));
    }

    #[test]
    fn every_line_is_needed() {
        for missing in 0..both().len() {
            let mut lines = both();
            let line = lines.remove(missing);
            assert!(judge(&lines, &FROM).is_err(), "without {line}");
        }
    }

    #[test]
    fn what_nobody_made_is_too_much() {
        let error = judge(&both(), &FROM[..1]).expect_err("a request more than was made");
        assert!(error.contains("198.51.100.10:2"), "{error}");
        let handed_on = connection("node-b", "10.128.0.11:8", "remote-node", POD_B);
        let error = judge(&[both(), handed_on].concat(), &FROM).expect_err("handed on twice");
        assert!(error.contains("arrived there"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut lines = both();
        lines[3] = lines[3].replace("FORWARDED", "DROPPED");
        lines[0] = lines[0].replace("(ID:300)", "(world-ipv4)");
        lines.remove(1);
        let error = judge(&lines, &FROM).expect_err("three faults");
        for part in
            ["from 198.51.100.10:1: the pod's SYN, ACK 0 times", "verdict DROPPED", "want world to a pod"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = judge(&[], &FROM).expect_err("nothing");
        assert!(error.contains("request from 198.51.100.10:1: seen by 0 nodes"), "{error}");
    }

    const DROP: &str = "Nov 23 03:55:02.934 [node-a]: ns/other:40000 (ID:301) <> ns/web-1:80 (ID:300) Policy denied \
                        DROPPED (TCP Flags: SYN)";
    const SENT: &str = "Nov 23 03:55:02.933 [node-b]: ns/other:40000 (ID:301) -> ns/web-1:80 (ID:300) from-endpoint \
                        FORWARDED (TCP Flags: SYN)";

    fn denied(lines: &[&str]) -> Result<usize, String> {
        let client = ("ns/other".to_owned(), 301);
        let servers = (vec![POD_A.to_owned(), POD_B.to_owned()], 300);
        let flows = FlowLine::all(&lines.join("\n"));
        super::denied(&flows, &Denied { client, servers }).map_err(|gaps| gaps.to_string())
    }

    #[test]
    fn a_denied_request_ends_at_its_first_segment() {
        assert_eq!(denied(&[DROP]), Ok(1));
        // It may have left its own node before, and is sent again.
        assert_eq!(denied(&[SENT, DROP, SENT, DROP]), Ok(2));
    }

    #[test]
    fn what_else_is_told_of_a_denied_request_is_a_gap() {
        let answer = SENT.replace(" -> ", " <- ").replace("SYN", "SYN, ACK");
        let cases = [
            (vec![SENT.to_owned()], "no drop of ns/other"),
            (vec![DROP.to_owned(), answer], "was answered"),
            (vec![DROP.replace("ID:301", "world-ipv4")], "want ns/other (ID:301)"),
            (vec![DROP.replace("web-1", "db-1")], "to a pod of the Service"),
            (vec![DROP.replace("SYN", "ACK, PSH")], "want its first segment"),
            (vec![DROP.to_owned(), DROP.replace("40000", "40001")], "want one request's"),
        ];
        for (lines, gap) in cases {
            let lines = lines.iter().map(String::as_str).collect::<Vec<_>>();
            let error = denied(&lines).expect_err(gap);
            assert!(error.contains(gap), "{gap}: {error}");
        }
    }

    #[test]
    fn a_port_is_found_only_as_it_is_written() {
        let output =
            "tcp 6 119 TIME_WAIT src=198.51.100.10 dst=203.0.113.1 sport=4011 dport=80 src=10.20.0.2\n";
        let mark = |port| format!("sport={port} ");
        assert_eq!(unseen(&[4011, 401, 11], output, mark), [401, 11]);
    }
}
