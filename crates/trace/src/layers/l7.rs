//! L7: one client's requests as the observers report them, or as they can be put together from conntrack and tcpdump.
//! Fails where what was captured does not account for the requests that were made.

use std::{net::SocketAddr, time::Duration};

use jiff::Timestamp;
use lab::Place;
use model::Plane;

use super::Found;
use crate::{
    account::{Account, Made, account, unseen},
    bench::{Bench, Error, until},
    command::{Line, request_several, tracked_connections, watch_ends},
    compare::Exhibit,
    flowline::FlowLine,
    normalise::Style,
    requests::CLIENT_LIMIT_S,
    subject::Subject,
};

/// Enough that every node is likely to get some, few enough to be read line by line.
const REQUESTS: usize = 6;

/// A node's interface towards everyone else.
const UPLINK: &str = "eth0";

/// How long a flow may take from a node's kernel to whoever follows it.
const SETTLE: Duration = Duration::from_secs(15);

/// How long something that should not come is waited for.
const QUIET: Duration = Duration::from_millis(500);

pub(super) fn capture(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    match bench.plane {
        Plane::Iptables => by_hand(bench, subject),
        Plane::Ebpf => observed(bench, subject),
    }
}

/// Requests that were made and answered.
struct Requests {
    shown: Exhibit,
    /// The client's end of each.
    from: Vec<SocketAddr>,
}

impl Requests {
    fn make(bench: &Bench, subject: &Subject) -> Result<Self, Error> {
        let line = request_several(&subject.url(), REQUESTS, CLIENT_LIMIT_S);
        let note = "Each with the client's own address and port, by which it can be found again below.";
        let shown = bench.capture("One client's requests", &line, Style::Plain, note)?;
        let answered = |row: &str| row.strip_suffix(" 200")?.parse().ok();
        let from = shown.capture.output.lines().filter_map(answered).collect::<Vec<_>>();
        match from.len() {
            REQUESTS => Ok(Self { shown, from }),
            answered => Err(Error::Unaccounted {
                by: line.to_string(),
                gaps: format!("{answered} of {REQUESTS} answered"),
            }),
        }
    }

    fn ports(&self) -> Vec<u16> {
        self.from.iter().map(SocketAddr::port).collect()
    }
}

fn observed(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let mut found = Found::default();
    health(bench, &mut found)?;
    let line = follow(bench, subject, &Timestamp::now().to_string());
    let watch = bench.follow(&line)?;
    let requests = Requests::make(bench, subject)?;
    let made = made(bench, subject, &requests)?;
    watch.listen(SETTLE, |said| account(&FlowLine::all(said), &made).is_ok())?;
    let whole = watch.so_far();
    watch.listen(QUIET, |said| said.len() > whole.len())?;
    let heard = watch.interrupt();
    let missing = |gaps: String| Error::Unaccounted { by: line.to_string(), gaps };
    let sum = account(&FlowLine::all(&heard.said), &made).map_err(|gaps| missing(gaps.to_string()))?;
    let coverage = heard.told.lines().find(|told| told.starts_with("flows: ")).unwrap_or_default();
    if !coverage.contains("none lost") {
        return Err(missing(format!("want a word that none was lost, got {:?}", heard.told.trim())));
    }
    found.exhibits.push(requests.shown);
    let shown = format!("{}{coverage}\n", heard.said);
    found.exhibits.push(bench.exhibit(
        "The same requests, as they happened",
        &line,
        Style::Plain,
        shown,
        0,
        in_words(sum),
    ));
    if let Some(one) = requests.from.first() {
        found.exhibits.push(in_full(bench, subject, one)?);
        let of_one = heard.said.lines().filter(|line| line.contains(&one.to_string()));
        found.told.extend(of_one.map(str::to_owned));
    }
    found.told.push(format!(
        "{} requests made, {} connections seen from SYN to FIN in both directions, {} of them on two nodes; none lost",
        made.from.len(),
        sum.connections,
        sum.handed_on,
    ));
    facts(&mut found, &heard.said, &made, sum.connections);
    found.fact("handed_on", sum.handed_on);
    Ok(found)
}

/// How the relay and its nodes are before there is anything to see: every one of them has to be there.
fn health(bench: &Bench, found: &mut Found) -> Result<(), Error> {
    let lab = bench.lab.name().as_str();
    let ask = |what| Line::twinplane(Place::Edge, &["observe", what, "--lab", lab], "");
    let nodes = bench.lab.topology().nodes.len();
    let connected = format!("Connected Nodes: {nodes}/{nodes}\n");
    let (mut status, rate) = until(&format!("a healthy relay with {nodes} nodes"), SETTLE, || {
        let status = bench.twinplane("The relay, before any of this", &ask("status"), Style::Plain)?;
        let said = &status.capture.output;
        let rate = said.lines().find_map(|line| line.strip_prefix("Flows/s: ")?.parse::<f64>().ok());
        let ready = said.contains("): Ok\n") && said.contains(&connected);
        Ok(rate.filter(|_| ready).map(|rate| (status, rate)))
    })?;
    status.capture.note = format!(
        "One place to ask for all nodes. It reaches every node, and {rate} flows a second were told of on average in \
         the last minute."
    );
    let mut list = bench.twinplane("Its nodes", &ask("nodes"), Style::Plain)?;
    list.capture.note = "Each node keeps its last flows itself; the relay keeps none.".into();
    found.exhibits.extend([status, list]);
    found.fact("nodes_connected", nodes);
    found.fact("flows_before", rate);
    Ok(())
}

/// Everything from and to the pods, but what their own node asks them for their health.
fn follow(bench: &Bench, subject: &Subject, since: &str) -> Line {
    let pods = subject.namespaced_deployment();
    let from = ["observe", "--lab", bench.lab.name().as_str(), "--follow", "--since", since];
    let selected = ["--print-node-name", "--to-pod", &pods, "--not", "--identity", "host"];
    Line::twinplane(Place::Edge, &[&from[..], &selected].concat(), "")
}

/// One flow with all that its line leaves out, the frontend among it.
fn in_full(bench: &Bench, subject: &Subject, from: &SocketAddr) -> Result<Exhibit, Error> {
    let (ip, port) = (from.ip().to_string(), from.port().to_string());
    let fields = "time,verdict,IP,l4,source.identity,source.labels,destination.identity,destination.pod_name,\
                  destination_service,event_type,traffic_direction,is_reply,interface,node_name";
    let asked =
        ["observe", "--lab", bench.lab.name().as_str(), "--all", "-o", "json", "--field-mask", fields];
    let wanted = ["--from-ip", &ip, "--from-port", &port, "--tcp-flags", "syn", "--no-answers"];
    let line = Line::twinplane(Place::Edge, &[&asked[..], &wanted].concat(), "");
    let mut flow = bench.twinplane("One of these flows, with its frontend", &line, Style::Plain)?;
    let Subject { name, namespace, vip, port, .. } = subject;
    let frontend = format!(r#""destination_service":{{"name":"{name}","namespace":"{namespace}"}}"#);
    let said = flow.capture.output.trim();
    if !said.contains(&frontend) {
        return Err(Error::Unaccounted { by: line.to_string(), gaps: format!("no {frontend} in {said:?}") });
    }
    flow.capture.note = format!(
        "The client asked for {vip}:{port}. The flow names the pod that it got and, as destination_service, what it \
         asked for; where the packet left with another source address, that is source_xlated."
    );
    Ok(flow)
}

/// What is known without looking at packets.
fn made(bench: &Bench, subject: &Subject, requests: &Requests) -> Result<Made, Error> {
    let pods = subject.ready_pods(bench)?.into_iter();
    let pods = pods.map(|pod| (format!("{}/{}", pod.namespace, pod.name), pod.node));
    Ok(Made { from: requests.from.iter().map(SocketAddr::to_string).collect(), pods: pods.collect() })
}

fn in_words(sum: Account) -> String {
    let Account { connections, handed_on, flows } = sum;
    format!(
        "{flows} flows. Each of the {connections} connections is there from its SYN to both sides' FIN, with who talked to \
         whom, what became of the packet and which way it went; {handed_on} were handed on to a pod on another node, \
         which sees remote-node as the source because the first node put its own address there. Counted against the \
         requests made: none is missing, none too many."
    )
}

/// The same requests on a plane that tells of no flows: connection tracking and the wire, node by node.
fn by_hand(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let nodes = bench.lab.topology().nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    let wires = nodes.iter().map(|node| {
        let ports = [subject.port, subject.target_port];
        let line = watch_ends(Place::Node(node.clone()), UPLINK, &ports);
        Ok((bench.watch(&line)?, line))
    });
    let wires = wires.collect::<Result<Vec<_>, Error>>()?;
    let requests = Requests::make(bench, subject)?;
    let (ports, made) = (requests.ports(), made(bench, subject, &requests)?);
    let client = bench.lab.topology().primary().client();
    let on_the_wire = |port: u16| format!(" {client}.{port} > ");
    let so_far = || wires.iter().map(|(watch, _)| watch.so_far()).collect::<String>();
    if let Some((watch, _)) = wires.first() {
        let last = |text: &str| {
            let fins = text.lines().filter(|line| line.contains("Flags [F")).collect::<Vec<_>>().join("\n");
            unseen(&ports, &fins, on_the_wire).is_empty()
        };
        watch.listen(SETTLE, |_| last(&so_far()))?;
    }
    let mut found = Found::default();
    found.exhibits.push(requests.shown);
    let mut tracked = String::new();
    for node in &nodes {
        let line = tracked_connections(node, client, &ports);
        let note = format!(
            "What connection tracking of {node} remembers of these client ports, which have to be known first. A line has \
             both directions' addresses and the state."
        );
        let exhibit = bench.capture(&format!("Connection tracking of {node}"), &line, Style::Plain, note)?;
        tracked.push_str(&exhibit.capture.output);
        found.exhibits.push(exhibit);
    }
    let mut heard = String::new();
    for (watch, line) in wires {
        let text = watch.stop();
        heard.push_str(&text);
        let title = format!("First and last segments on the wire of {}", line.place);
        let note = "Nothing joins these lines to those of connection tracking but addresses and ports.";
        found.exhibits.push(bench.exhibit(&title, &line, Style::Wire, text, 0, note));
    }
    for (by, text, mark) in [
        ("conntrack", &tracked, &(|port| format!("sport={port} ")) as &dyn Fn(u16) -> String),
        ("tcpdump", &heard, &on_the_wire),
    ] {
        let missing = unseen(&ports, text, mark);
        if !missing.is_empty() {
            let gaps = format!("nothing of the client's ports {missing:?}");
            return Err(Error::Unaccounted { by: by.into(), gaps });
        }
    }
    facts(&mut found, &format!("{tracked}{heard}"), &made, ports.len());
    Ok(found)
}

/// What both planes are asked.
fn facts(found: &mut Found, lines: &str, made: &Made, connections: usize) {
    let count = |said: &dyn Fn(&str) -> bool| lines.lines().filter(|line| said(line)).count();
    let pods =
        made.pods.keys().filter_map(|pod| pod.split_once('/')).map(|(_, name)| name).collect::<Vec<_>>();
    let flow = |line: &str| line.parse::<FlowLine>().ok();
    found.fact("requests_made", made.from.len());
    found.fact("connections_found", connections);
    found.fact("lines_captured", count(&|line| !line.trim().is_empty()));
    found.fact("lines_naming_a_pod", count(&|line| pods.iter().any(|pod| line.contains(pod))));
    found.fact("lines_with_identities", count(&|line| flow(line).is_some()));
    found.fact(
        "lines_with_a_verdict",
        count(&|line| flow(line).is_some_and(|flow| flow.verdict == "FORWARDED")),
    );
}
