//! Flows as connections: recorded ones from a file, or what a server of flows has. What is no first packet's way is left out:
//! answers, what a Service has not translated yet, and what was read above the transport.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead, BufReader},
    net::IpAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use flow::{
    event::{Endpoint, Flow as Seen, L4 as SeenL4, Seen as SeenAs, TcpFlags, Time},
    input::Input,
    proto::{
        flow::{DropReason, Flow, Verdict},
        observer::{
            GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes,
            observer_client::ObserverClient,
        },
    },
    request::{ObserveArgs, SelectArgs},
};
use model::{
    Protocol, Reserved,
    label_keys::{CLUSTER, NAMESPACE, NAMESPACE_LABELS, SERVICE_ACCOUNT, SOURCE},
    policy::L4,
};
use policy::{
    simulate::Recorded,
    world::{Connection, Owner, Party, World},
};

use super::super::server::Server;

type LabelMap = BTreeMap<String, String>;
/// Of a connection's ends, where they were pods: the namespace's and the pod's.
type Labels = [Option<[LabelMap; 2]>; 2];

/// A connection, and how its flows went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) dropped: u64,
    /// Let through although policies deny it; counted among those that passed, too.
    pub(super) audited: u64,
    /// Policies that flows name for denials.
    pub(super) denied_by: BTreeSet<String>,
    /// Reasons of drops.
    pub(super) reasons: BTreeSet<String>,
}

/// What flows add up to: as many entries as there are connections and labels of their ends.
#[derive(Debug, Default)]
pub(super) struct Recording {
    pub(super) seen: BTreeMap<(Connection, Labels), Tally>,
    /// Flows that say nothing about a first packet.
    pub(super) left_out: u64,
    pub(super) unreadable: u64,
}

/// How a flow went.
#[derive(Clone, Copy)]
enum Outcome {
    Passed,
    Audited,
    Dropped,
}

impl Tally {
    /// Whether a policy denied something of it, dropped or not.
    pub(super) fn is_denied(&self) -> bool {
        if self.audited > 0 {
            return true;
        }
        let policy = [DropReason::PolicyDenied, DropReason::PolicyDeny].map(|reason| reason.as_str_name());
        self.reasons.iter().any(|reason| policy.contains(&reason.as_str()))
    }
}

impl Recording {
    /// Takes in an answer of a server of flows.
    fn take(&mut self, world: &World, answer: &GetFlowsResponse) {
        let Some(ResponseTypes::Flow(flow)) = &answer.response_types else { return };
        let seen = Seen::from(&**flow);
        let outcome = match (flow.verdict(), &seen.seen) {
            (Verdict::Audit, _) => Outcome::Audited,
            // The flow that it is about is told of besides.
            (_, SeenAs::PolicyVerdict(_)) => return self.left_out += 1,
            (Verdict::Dropped, _) => Outcome::Dropped,
            (Verdict::Forwarded | Verdict::Redirected, _) => Outcome::Passed,
            // Connection tracking gives no verdict, and tells of what got through only.
            (Verdict::Unknown, SeenAs::Trace { .. }) => Outcome::Passed,
            _ => return self.left_out += 1,
        };
        let Some((connection, labels)) = first_packet(world, &seen) else {
            return self.left_out += 1;
        };
        let tally = self.seen.entry((connection, labels)).or_default();
        match outcome {
            Outcome::Passed => tally.passed += 1,
            Outcome::Audited => {
                tally.audited += 1;
                tally.denied_by.extend(denied_by(flow));
            }
            Outcome::Dropped => {
                tally.dropped += 1;
                tally.reasons.insert(flow.drop_reason_desc().as_str_name().to_owned());
                tally.denied_by.extend(denied_by(flow));
            }
        }
    }

    pub(super) fn recorded(&self) -> impl Iterator<Item = (Recorded, &Tally)> {
        self.seen.iter().map(|((connection, labels), tally)| {
            (Recorded { connection: connection.clone(), labels: labels.clone() }, tally)
        })
    }

    /// Says on stderr how much of what was read counts.
    pub(super) fn tell(&self) {
        let used: u64 = self.seen.values().map(|tally| tally.passed + tally.dropped).sum();
        eprintln!(
            "{used} flows of {} connections; left out: {} (answers, before translation, verdicts, no packets){}",
            self.seen.len(),
            self.left_out,
            if self.unreadable > 0 {
                format!("; unreadable lines: {}", self.unreadable)
            } else {
                String::new()
            },
        );
    }
}

fn denied_by(flow: &Flow) -> Vec<String> {
    let all = flow.egress_denied_by.iter().chain(&flow.ingress_denied_by);
    let name = |policy: &flow::proto::flow::Policy| match policy.namespace.as_str() {
        "" => format!("{} {}", policy.kind, policy.name),
        namespace => format!("{} {namespace}/{}", policy.kind, policy.name),
    };
    all.map(|policy| name(policy).trim().to_owned()).collect()
}

/// Reads lines of JSON, as `observe -o json` and exports write them; "-" is standard input.
pub(super) fn read(world: &World, path: &Path) -> anyhow::Result<Recording> {
    let shown = path.display();
    let file: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(path).with_context(|| format!("open {shown}"))?)),
    };
    let mut input = Input::new(&GetFlowsRequest::default())?;
    let mut recording = Recording::default();
    for (number, line) in file.lines().enumerate() {
        let line = line.with_context(|| format!("read {shown}"))?;
        if line.trim().is_empty() {
            continue;
        }
        match input.take(&line) {
            Ok(Some(answer)) => recording.take(world, &answer),
            Ok(None) => {}
            Err(error) => {
                recording.unreadable += 1;
                if recording.unreadable == 1 {
                    eprintln!("{shown}: line {}: {:#}", number + 1, anyhow::Error::from(error));
                }
            }
        }
    }
    input.finish().for_each(|answer| recording.take(world, &answer));
    Ok(recording)
}

/// Asks a server for all flows that it has, or those since a time.
pub(super) fn ask(world: &World, server: &Server, since: Option<&str>) -> anyhow::Result<Recording> {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Time(i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX));
    let select =
        SelectArgs { all: since.is_none(), since: since.map(str::to_owned), ..SelectArgs::default() };
    let mut request = ObserveArgs { select, ..ObserveArgs::default() }.request(now)?;
    // Labels are wanted, too.
    request.field_mask = None;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = ObserverClient::new(server.connect().await?.0);
        let failed = |status: tonic::Status| {
            anyhow::anyhow!("ask for flows: {:?}: {}", status.code(), status.message())
        };
        let mut answers = client.get_flows(request).await.map_err(failed)?.into_inner();
        let mut recording = Recording::default();
        while let Some(answer) = answers.message().await.map_err(failed)? {
            recording.take(world, &answer);
        }
        Ok(recording)
    })
}

/// The connection that a flow belongs to, as policies are asked about it; `None`: they are not asked about this.
fn first_packet(world: &World, flow: &Seen) -> Option<(Connection, Labels)> {
    if matches!(flow.seen, SeenAs::Socket { .. } | SeenAs::L7(_)) || flow.is_reply == Some(true) {
        return None;
    }
    let is_known = flow.is_reply.is_some();
    let l4 = match flow.l4 {
        SeenL4::Tcp { destination, flags, .. } => {
            let opens = flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK);
            (is_known || opens).then_some(L4::Port(Protocol::Tcp, destination))
        }
        SeenL4::Udp { destination, .. } => is_known.then_some(L4::Port(Protocol::Udp, destination)),
        SeenL4::Sctp { destination, .. } => is_known.then_some(L4::Port(Protocol::Sctp, destination)),
        // Echo requests (RFC 792, RFC 4443); errors and answers belong to others' flows.
        SeenL4::IcmpV4 { kind: 8, .. } | SeenL4::IcmpV6 { kind: 128, .. } => Some(L4::Other),
        SeenL4::IcmpV4 { .. } | SeenL4::IcmpV6 { .. } | SeenL4::Unknown | SeenL4::Vrrp | SeenL4::Igmp => None,
    };
    // A drop has no direction yet where it is the first packet.
    let l4 = l4.or_else(|| dropped_l4(flow))?;
    let ip = flow.ip.as_ref()?;
    if flow.destination.pod.is_empty() && flow.destination_service.is_some() {
        return None;
    }
    let source = party(world, &flow.source, ip.source, &flow.node.name);
    let destination = party(world, &flow.destination, ip.destination, &flow.node.name);
    let labels = [&flow.source, &flow.destination].map(|end| labels(end));
    Some((Connection { source, destination, l4 }, labels))
}

/// What policies drop is never an answer.
fn dropped_l4(flow: &Seen) -> Option<L4> {
    match (&flow.seen, flow.l4) {
        (SeenAs::Drop(_), SeenL4::Udp { destination, .. }) => Some(L4::Port(Protocol::Udp, destination)),
        (SeenAs::Drop(_), SeenL4::Sctp { destination, .. }) => Some(L4::Port(Protocol::Sctp, destination)),
        _ => None,
    }
}

/// Whoever it was then.
fn party(world: &World, end: &Endpoint, address: IpAddr, node: &str) -> Party {
    let is = |all: &[Reserved]| all.iter().any(|reserved| reserved.id().get() == end.identity);
    let owner = if !end.pod.is_empty() {
        Owner::Pod(model::PodName { namespace: end.namespace.clone(), name: end.pod.clone() })
    } else if is(&[Reserved::Host]) {
        // "cluster/node" where the cluster has a name of its own.
        Owner::Node(node.rsplit('/').next().unwrap_or(node).to_owned())
    } else if is(&[Reserved::World, Reserved::WorldIpv4, Reserved::WorldIpv6]) {
        Owner::Outside
    } else {
        world.owner(address).unwrap_or(Owner::Outside)
    };
    Party { owner, address }
}

/// As flows spell them: [`model::label_keys`].
fn labels(end: &Endpoint) -> Option<[LabelMap; 2]> {
    if end.pod.is_empty() || end.labels.is_empty() {
        return None;
    }
    let mut sorted = [LabelMap::new(), LabelMap::new()];
    for label in end.labels.iter() {
        let full = format!("{}:{}", label.source, label.key);
        if [NAMESPACE, SERVICE_ACCOUNT, CLUSTER].contains(&full.as_str()) {
            continue;
        }
        let of_namespace = full.strip_prefix(NAMESPACE_LABELS).map(|key| (0, key));
        let of_pod = || full.strip_prefix(SOURCE).map(|key| (1, key));
        if let Some((place, key)) = of_namespace.or_else(of_pod) {
            sorted[place].insert(key.to_owned(), label.value.clone());
        }
    }
    Some(sorted)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{io::Write as _, path::PathBuf};

    use super::*;

    /// A flow from `front` to `web`, as `observe -o json` prints it.
    pub(crate) fn line(verdict: &str, port: u16, role: &str) -> String {
        let drop = match verdict {
            "AUDIT" => {
                r#""event_type":{"type":5},"is_reply":false,"ingress_denied_by":[{"name":"web","namespace":"shop","kind":"NetworkPolicy"}],"#
            }
            "DROPPED" => {
                r#""drop_reason_desc":"POLICY_DENIED","event_type":{"type":1},"ingress_denied_by":[{"name":"web","namespace":"shop","kind":"NetworkPolicy"}],"#
            }
            _ => r#""event_type":{"type":4},"is_reply":false,"#,
        };
        format!(
            r#"{{"flow":{{"time":"2026-11-23T10:00:00Z","verdict":"{verdict}",{drop}"IP":{{"source":"10.0.1.2","destination":"10.0.1.1","ipVersion":"IPv4"}},"l4":{{"TCP":{{"source_port":40000,"destination_port":{port},"flags":{{"SYN":true}}}}}},"source":{{"identity":300,"namespace":"shop","pod_name":"front","labels":["k8s:role={role}","k8s:io.kubernetes.pod.namespace=shop","k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop"]}},"destination":{{"identity":301,"namespace":"shop","pod_name":"web","labels":["k8s:app=web"]}},"Type":"L3_L4","node_name":"node-a"}},"node_name":"node-a"}}"#
        )
    }

    pub(crate) fn file(folder: &tempfile::TempDir, lines: &[String]) -> PathBuf {
        let path = folder.path().join("flows.json");
        let mut file = File::create(&path).expect("create");
        lines.iter().for_each(|line| writeln!(file, "{line}").expect("write"));
        path
    }

    #[test]
    fn connections_have_the_labels_of_then_and_answers_are_none() {
        let folder = tempfile::tempdir().expect("folder");
        let reply = line("FORWARDED", 40000, "x").replace(r#""is_reply":false"#, r#""is_reply":true"#);
        let lines = [
            line("FORWARDED", 80, "frontend"),
            line("FORWARDED", 80, "frontend"),
            line("DROPPED", 81, "other"),
            // As the iptables plane has it.
            line("VERDICT_UNKNOWN", 80, "frontend"),
            line("FORWARDED", 82, "other"),
            line("AUDIT", 82, "other"),
            // The verdict of the drop above.
            line("DROPPED", 81, "other").replace(r#"{"type":1}"#, r#"{"type":5}"#),
            reply,
            "no JSON".to_owned(),
        ];
        let recording = read(&World::default(), &file(&folder, &lines)).expect("read");
        assert_eq!((recording.seen.len(), recording.left_out, recording.unreadable), (3, 2, 1));
        let all: Vec<_> = recording.recorded().collect();
        let (passed, tally) = &all[0];
        assert_eq!(passed.connection.l4, L4::Port(Protocol::Tcp, 80));
        assert_eq!((tally.passed, tally.dropped), (3, 0));
        let [of_namespace, of_pod] = passed.labels[0].clone().expect("a pod");
        assert_eq!(of_pod, [("role".to_owned(), "frontend".to_owned())].into());
        assert_eq!(of_namespace, [("kubernetes.io/metadata.name".to_owned(), "shop".to_owned())].into());
        let (_, tally) = &all[1];
        assert_eq!((tally.passed, tally.dropped), (0, 1));
        assert_eq!(tally.denied_by, ["NetworkPolicy shop/web".to_owned()].into());
        assert_eq!(tally.reasons, ["POLICY_DENIED".to_owned()].into());
        let (_, tally) = &all[2];
        assert_eq!((tally.passed, tally.dropped, tally.audited, tally.is_denied()), (1, 0, 1, true));
    }
}
