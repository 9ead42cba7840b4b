//! L8 where the plane enforces by identity: the numbers, the drop with its policy, the allow-list with its counters.
//!
//! Fails where what the relay and the kernel tell does not account for the two requests.

use jiff::Timestamp;
use lab::Place;
use serde_json::Value;

use super::{ALLOWED, BLOCKED, Client, Guard, SETTLE, Story};
use crate::{
    account::{Denied, denied},
    bench::{Bench, Error, until},
    command::Line,
    compare::Exhibit,
    flowline::FlowLine,
    layers::Found,
    normalise::Style,
};

impl Story<'_> {
    /// Who is who, who was let in and by which entry, who was not and by which policy.
    pub(super) fn by_identity(&self, found: &mut Found) -> Result<(), Error> {
        let Self { bench, subject, .. } = self;
        self.wait_for_policy()?;
        let who = self.identities(found)?;
        let since = Timestamp::now().to_string();
        self.requests(found, Guard::Identities)?;
        self.drops(found, &since, &who)?;
        let served_by = self.served_by(found, &since)?;
        let pods = subject.ready_pods(bench)?;
        let pod = pods.iter().find(|pod| format!("{}/{}", pod.namespace, pod.name) == served_by);
        let pod = pod.ok_or_else(|| Error::Missing { what: format!("pod {served_by}, which answered") })?;
        self.allow_list(found, &pod.name, &pod.node)?;
        found.exhibits.push(self.explanation(&pod.name)?);
        Ok(())
    }

    /// Endpoints with identities: the Service's pods share one, each client has its own.
    fn identities(&self, found: &mut Found) -> Result<Denied, Error> {
        let Self { bench, subject, .. } = self;
        let namespace = subject.namespace.as_str();
        let columns = "custom-columns=POD:.metadata.name,IDENTITY:.status.identity,IP:.status.addresses[0]";
        let words = ["-n", namespace, "get", "twinplaneendpoints", "-o", columns];
        let pods = subject.ready_pods(bench)?;
        let (mut exhibit, (servers, (allowed, blocked))) = until("every pod's identity", SETTLE, || {
            let exhibit = bench.kubectl(super::KNOWN_BY, &words, "")?;
            let identity = |pod: &str| identity_of(&exhibit.capture.output, pod);
            let servers = pods.iter().map(|pod| identity(&pod.name)).collect::<Option<Vec<_>>>();
            let all = servers.zip(identity(ALLOWED.name).zip(identity(BLOCKED.name)));
            Ok(all.map(|of| (exhibit, of)))
        })?;
        let first = servers.first().copied().unwrap_or_default();
        if servers.iter().any(|server| *server != first)
            || [allowed, blocked].contains(&first)
            || allowed == blocked
        {
            return Err(Error::Otherwise {
                what: "identities".into(),
                wanted: "one of the Service's pods, and one of each client".into(),
                found: format!("{servers:?}, {allowed} and {blocked}"),
            });
        }
        exhibit.capture.note = format!(
            "A number for each set of labels: the Service's {} pods share {first}, the clients have {allowed} and \
             {blocked}. A pod that comes back with another address keeps its number.",
            servers.len()
        );
        found.exhibits.push(exhibit);
        found.fact("identities_told", servers.len() + 2);
        let name = |pod: &str| format!("{namespace}/{pod}");
        let servers = pods.iter().map(|pod| name(&pod.name)).collect();
        Ok(Denied { client: (name(BLOCKED.name), blocked), servers: (servers, first) })
    }

    /// What the relay tells of a client since then.
    fn flows_of(&self, client: Client, since: &str, more: &[&str]) -> Line {
        let pod = format!("{}/{}", self.subject.namespace, client.name);
        let asked = ["observe", "--lab", self.bench.lab.name().as_str(), "--since", since];
        Line::twinplane(Place::Edge, &[&asked[..], more, &["--from-pod", &pod]].concat(), "")
    }

    /// The drop as the relay reports it, and one of them in full, with the policy that decided.
    fn drops(&self, found: &mut Found, since: &str, who: &Denied) -> Result<(), Error> {
        let Self { bench, .. } = self;
        let all = self.flows_of(BLOCKED, since, &["--print-node-name"]);
        let of_drops = self.flows_of(BLOCKED, since, &["--print-node-name", "--verdict", "DROPPED"]);
        let seen = |line: &Line| bench.twinplane("The drop, as the relay reports it", line, Style::Plain);
        let whole = |exhibit: &Exhibit| denied(&FlowLine::all(&exhibit.capture.output), who);
        // The last word comes with the last attempt's; an answer would be there by then.
        let told =
            until("the drop to be told of", SETTLE, || Ok(whole(&seen(&of_drops)?).is_ok().then_some(())));
        let unaccounted = |gaps: String| Error::Unaccounted { by: of_drops.to_string(), gaps };
        whole(&seen(&all)?).map_err(|gaps| unaccounted(gaps.to_string()))?;
        told?;
        let mut exhibit = seen(&of_drops)?;
        let drops = whole(&exhibit).map_err(|gaps| unaccounted(gaps.to_string()))?;
        exhibit.capture.note = format!(
            "{} (identity {}) to the Service's pods ({}): the policy's verdict, and the drop, at the first segment, each of the \
             {drops} times it was sent. No answer was ever told of: the handshake never began, which is why the client hung.",
            BLOCKED.name, who.client.1, who.servers.1
        );
        // The verdict comes before the drop that it is about.
        let drop = exhibit.capture.output.lines().find(|line| line.contains(" DROPPED "));
        found.told.extend(drop.map(str::to_owned));
        found.exhibits.push(exhibit);
        found.fact("drops_told", drops);
        found.exhibits.push(self.drop_in_full(since)?);
        Ok(())
    }

    fn drop_in_full(&self, since: &str) -> Result<Exhibit, Error> {
        let fields = "verdict,drop_reason_desc,source.identity,source.pod_name,destination.identity,\
                      destination.pod_name,ingress_denied_by";
        let more = ["--type", "drop", "-o", "json", "--field-mask", fields];
        let line = self.flows_of(BLOCKED, since, &more);
        let Line { place, argv } = line;
        let script =
            argv.last().map_or_else(String::new, |script| format!("{script} | head -n 1 | jq .flow"));
        let line = Line::shell(place, script);
        let mut exhibit = self.bench.twinplane("One of these drops, with its policy", &line, Style::Plain)?;
        let flow: Value = serde_json::from_str(&exhibit.capture.output)
            .map_err(|source| Error::Answer { command: line.to_string(), source })?;
        let by = &flow["ingress_denied_by"][0];
        if by["name"] != self.policy.as_str() || by["namespace"] != self.subject.namespace.as_str() {
            let gaps = format!("want ingress_denied_by {}, got {by}", self.policy);
            return Err(Error::Unaccounted { by: line.to_string(), gaps });
        }
        exhibit.capture.note =
            format!("ingress_denied_by names the policy that isolates the pod: {}.", self.policy);
        Ok(exhibit)
    }

    /// The pod that answered who is allowed, as `namespace/name`.
    fn served_by(&self, found: &mut Found, since: &str) -> Result<String, Error> {
        let servers = self.subject.namespaced_deployment();
        let line = self.flows_of(ALLOWED, since, &["--print-node-name", "--to-pod", &servers]);
        let (mut exhibit, pod) = until("the allowed request to be told of", SETTLE, || {
            let exhibit = self.bench.twinplane("The allowed request", &line, Style::Plain)?;
            let flows = FlowLine::all(&exhibit.capture.output);
            // What the socket was translated to is told of, too: neither forwarded nor dropped.
            let dropped = flows.iter().any(|flow| flow.verdict == "DROPPED");
            let is_answer = |flow: &&FlowLine| {
                flow.is_answer == Some(true) && flow.has("SYN") && flow.verdict == "FORWARDED"
            };
            let answer = flows.iter().find(is_answer).filter(|_| !dropped);
            let judged = exhibit.capture.output.contains(" INGRESS ALLOWED ");
            let pod = answer.filter(|_| judged).map(|flow| flow.server.name().to_owned());
            Ok(pod.map(|pod| (exhibit, pod)))
        })?;
        exhibit.capture.note = format!(
            "{} reaches {pod}, which the policy's verdict allowed by who it is (L3), and is answered.",
            ALLOWED.name
        );
        found.exhibits.push(exhibit);
        Ok(pod)
    }

    /// The allow-list of the pod that answered, as the kernel has it.
    fn allow_list(&self, found: &mut Found, pod: &str, node: &str) -> Result<(), Error> {
        let Self { bench, subject, .. } = self;
        let entries = entries(bench, &subject.namespace, pod, node)?;
        let label = |role: &str| format!("k8s:role={role}");
        let of = |role: &'static str| entries.iter().filter(move |entry| entry.labels.contains(&label(role)));
        let packets = of(ALLOWED.role).map(|entry| entry.packets).sum::<u64>();
        let wrong = of(BLOCKED.role).count();
        if packets == 0 || wrong != 0 {
            return Err(Error::Otherwise {
                what: format!("allow-list of {pod}"),
                wanted: format!(
                    "packets of role={} counted, and no entry of role={}",
                    ALLOWED.role, BLOCKED.role
                ),
                found: format!("{packets} packets, {wrong} entries"),
            });
        }
        let name = format!("{}/{pod}", subject.namespace);
        let words = ["policy", "get", &name, "--lab", bench.lab.name().as_str(), "--node", node];
        let line = Line::twinplane(Place::Node(node.to_owned()), &words, "");
        let mut exhibit = bench.twinplane(super::IN_KERNEL, &line, Style::Plain)?;
        if exhibit.capture.exit != 0 {
            let (exit, message) = (exhibit.capture.exit, exhibit.capture.output.trim().to_owned());
            return Err(Error::Exit { command: line.to_string(), exit, message });
        }
        let bytes = of(ALLOWED.role).map(|entry| entry.bytes).sum::<u64>();
        exhibit.capture.note = format!(
            "role={} has an entry, and its request counted there: packets that opened flows, {packets} of {bytes} bytes. role={} \
             has none, and falls through to what the policy denies by isolating the pod.",
            ALLOWED.role, BLOCKED.role
        );
        found.exhibits.push(exhibit);
        found.fact("entries", entries.len());
        found.fact("entry_packets", packets);
        Ok(())
    }

    /// Why, to the line of the manifest, and whether the kernels of both nodes would decide so.
    fn explanation(&self, pod: &str) -> Result<Exhibit, Error> {
        let Self { bench, subject, .. } = self;
        let [from, to] = [BLOCKED.name, pod].map(|name| format!("{}/{name}", subject.namespace));
        let (port, file) = (subject.target_port.to_string(), super::file(&self.policy));
        let asked = ["policy", "explain", &from, &to, &port, "-f", &file, "--lab", bench.lab.name().as_str()];
        let line = Line::twinplane(Place::Edge, &asked, "");
        let title = "Why, to the line";
        let mut exhibit = bench.twinplane_in(self.folder.path(), title, &line, Style::Plain)?;
        exhibit.capture.r#where = "host".into();
        let said = &exhibit.capture.output;
        let agreeing =
            said.lines().filter(|line| line.starts_with("kernel of ") && line.ends_with(": agrees"));
        // Exit status 1 is its "denied".
        if exhibit.capture.exit != 1 || !said.contains(&format!("({file}:")) || agreeing.count() != 2 {
            let gaps = format!("want denied, a line of {file}, and two kernels that agree, got {said}");
            return Err(Error::Unaccounted { by: line.to_string(), gaps });
        }
        exhibit.capture.note = format!(
            "No rule allows it; the nearest is named with its line in {file}, and what it asks for that {} lacks. The \
             kernels were asked what they would decide, and agree. Exit status 1 is its word for denied.",
            BLOCKED.name
        );
        Ok(exhibit)
    }
}

/// An entry that allows something to a pod.
struct Entry {
    /// Of the peer's identity, as `k8s:role=frontend`.
    labels: Vec<String>,
    packets: u64,
    bytes: u64,
}

/// What `node`'s kernel lets in to `pod`, by its agent's local API.
fn entries(bench: &Bench, namespace: &str, pod: &str, node: &str) -> Result<Vec<Entry>, Error> {
    let path = format!("/v1/policy?namespace={namespace}&pod={pod}");
    let answer: Value = serde_json::from_slice(&bench.lab.agent_get(node, &path)?)
        .map_err(|source| Error::Answer { command: format!("GET {path} of {node}"), source })?;
    let rows = answer["rows"].as_array().into_iter().flatten();
    let allows = rows.filter(|row| row["direction"] == "ingress" && row["action"] == "Allow");
    let labels = |row: &Value| {
        let labels = row["labels"].as_array().into_iter().flatten();
        labels.filter_map(|label| label.as_str().map(str::to_owned)).collect()
    };
    let count = |row: &Value, of: &str| row[of].as_u64().unwrap_or(0);
    let entry = |row: &Value| Entry {
        labels: labels(row),
        packets: count(row, "packets"),
        bytes: count(row, "bytes"),
    };
    Ok(allows.map(entry).collect())
}

/// The identity that a row of `POD IDENTITY IP` gives a pod; none yet is 0 or absent.
fn identity_of(table: &str, pod: &str) -> Option<u64> {
    table.lines().find_map(|row| {
        let mut columns = row.split_whitespace();
        let identity = columns.next().filter(|name| *name == pod).and(columns.next())?;
        identity.parse().ok().filter(|identity| *identity != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_found_by_its_pod_once_there_is_one() {
        let table = "POD        IDENTITY   IP\nweb-1   18565      10.20.1.12\nweb-12   7001   10.20.1.13\nnew   0   <none>\n";
        assert_eq!(identity_of(table, "web-1"), Some(18565));
        assert_eq!(identity_of(table, "web-12"), Some(7001));
        assert_eq!(identity_of(table, "new"), None);
        assert_eq!(identity_of(table, "web"), None);
    }
}
