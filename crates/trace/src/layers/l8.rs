//! L8: a NetworkPolicy for the Service's pods, and the same request from a pod that it allows and from one that it does not.
//! Fails where what was seen is not what the plane's agents were asked for. What it makes it removes again.

mod identity;

use std::time::{Duration, Instant};

use lab::{Place, status::PodInfo};
use model::Plane;
use serde_json::{Value, json};

use super::{Found, first_node};
use crate::{
    attempt::{Attempt, Outcome},
    bench::{Bench, Error, until},
    command::{Line, request},
    compare::Exhibit,
    normalise::Style,
    requests::{CLIENT_LIMIT_S, Series, listed},
    subject::{Subject, url},
};

const ALLOWED: Client = Client { name: "client-allowed", role: "frontend" };
const BLOCKED: Client = Client { name: "client-blocked", role: "other" };

/// How long pods, identities, policies and flows may take to arrive.
const SETTLE: Duration = Duration::from_secs(20);

/// How long a request waits that only asks whether a policy has arrived.
const PROBE_LIMIT_S: u64 = 1;

/// How long somebody who is not to be kept out is watched.
const HOLD: Duration = Duration::from_secs(2);

/// curl's exit status where nobody answered in time (curl(1), EXIT CODES).
const TIMED_OUT: i32 = 28;

pub(super) fn capture(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let story = Story { bench, subject, policy: format!("{}-allow-frontend", subject.name) };
    story.refuse_to_replace()?;
    let told = story.tell();
    let removed = story.remove();
    told.and_then(|found| removed.map(|()| found))
}

/// A pod that asks.
#[derive(Clone, Copy, Debug)]
struct Client {
    name: &'static str,
    role: &'static str,
}

impl Client {
    fn place(self, subject: &Subject) -> Place {
        Place::Pod { namespace: Some(subject.namespace.clone()), name: self.name.to_owned() }
    }
}

struct Story<'a> {
    bench: &'a Bench,
    subject: &'a Subject,
    /// The policy's name.
    policy: String,
}

impl Story<'_> {
    fn tell(&self) -> Result<Found, Error> {
        let Self { bench, subject, .. } = self;
        self.make_clients()?;
        let enforced = is_enforced(bench);
        let mut found = Found::default();
        let before = (bench.plane == Plane::Iptables).then(|| self.rules("before")).transpose()?;
        bench.create(&policy(subject, &self.policy))?;
        found.exhibits.push(self.as_applied()?);
        match (bench.plane, enforced) {
            (Plane::Ebpf, true) => self.by_identity(&mut found)?,
            // What enforces here is rules about addresses: they are shown as they are, and no drop has a name.
            (Plane::Iptables, true) => {
                self.wait_for_policy()?;
                self.requests(&mut found, true)?;
            }
            (_, false) => self.by_nobody(&mut found)?,
        }
        if let Some((rules, count)) = before {
            let (after, grown) = self.rules("after")?;
            if !enforced && grown != count {
                return Err(Error::Otherwise {
                    what: "rules with a policy that nobody enforces".into(),
                    wanted: count.to_string(),
                    found: grown.to_string(),
                });
            }
            found.exhibits.extend([rules, after]);
            found.fact("rules_before", count);
            found.fact("rules_after", grown);
        }
        Ok(found)
    }

    fn objects(&self) -> [String; 3] {
        let pod = |client: Client| format!("pod/{}", client.name);
        [pod(ALLOWED), pod(BLOCKED), format!("networkpolicy/{}", self.policy)]
    }

    /// What is there already is somebody else's.
    fn refuse_to_replace(&self) -> Result<(), Error> {
        let objects = self.objects();
        let mut words = vec!["-n", &self.subject.namespace, "get", "--ignore-not-found", "-o", "name"];
        words.extend(objects.iter().map(String::as_str));
        match self.bench.order(&words)?.trim() {
            "" => Ok(()),
            taken => Err(Error::Taken { what: taken.lines().collect::<Vec<_>>().join(", ") }),
        }
    }

    /// Also after the user has called it off.
    fn remove(&self) -> Result<(), Error> {
        let objects = self.objects();
        let mut words = vec!["-n", &self.subject.namespace, "delete", "--ignore-not-found"];
        words.extend(objects.iter().map(String::as_str));
        let output = self.bench.lab.kubectl(&words)?;
        if output.success() {
            return Ok(());
        }
        let command = format!("kubectl {}", words.join(" "));
        Err(Error::Exit { command, exit: output.exit, message: output.stderr.trim().to_owned() })
    }

    /// Both clients, each of which is answered: what keeps one from it later is the policy.
    fn make_clients(&self) -> Result<(), Error> {
        let Self { bench, subject, .. } = self;
        let clients = [ALLOWED, BLOCKED];
        let pods = clients.map(|client| pod(&subject.namespace, client));
        bench.create(&json!({"apiVersion": "v1", "kind": "List", "items": pods}))?;
        for client in clients {
            until(&format!("pod {} to be answered", client.name), SETTLE, || {
                let ours = |pod: &PodInfo| {
                    pod.ready && pod.namespace == subject.namespace && pod.name == client.name
                };
                if !bench.lab.pods()?.iter().any(ours) {
                    return Ok(None);
                }
                let answered = self.ask(client, &subject.inside_url(), PROBE_LIMIT_S)?.ok();
                Ok(answered.then_some(()))
            })?;
        }
        Ok(())
    }

    fn as_applied(&self) -> Result<Exhibit, Error> {
        let namespace = &self.subject.namespace;
        let words = ["-n", namespace, "get", "networkpolicy", &self.policy, "-o", "yaml"];
        let note = match is_enforced(self.bench) {
            true => format!(
                "Pods of the Service accept who has the label role={}, and nobody else.",
                ALLOWED.role
            ),
            false => "The same object. The API accepts it whether anything enforces it or not.".into(),
        };
        self.bench.kubectl("The policy as applied", &words, note)
    }

    /// How many rules the first node has.
    fn rules(&self, when: &str) -> Result<(Exhibit, usize), Error> {
        let node = first_node(self.bench);
        let line = Line::shell(Place::Node(node.clone()), "iptables-save | grep -c '^-A '");
        let note = match when {
            "before" => "",
            _ => "The policy's part is the difference to those before.",
        };
        let exhibit = self.bench.capture(&format!("Rules of {node} {when} it"), &line, Style::Plain, note)?;
        let count = exhibit.capture.output.trim().parse();
        let count = count.map_err(|_| Error::Missing { what: format!("a number of rules on {node}") })?;
        Ok((exhibit, count))
    }

    /// One request.
    fn ask(&self, client: Client, url: &str, limit_s: u64) -> Result<Attempt, Error> {
        self.series(client, url, limit_s).one()
    }

    fn series(&self, client: Client, url: &str, limit_s: u64) -> Series<'_> {
        let line = Line { place: client.place(self.subject), ..request(url, limit_s) };
        Series { line, ..Series::new(self.bench, url, Duration::from_millis(250)) }
    }

    /// Until no pod of the Service answers who is not allowed: every node has the policy then.
    fn wait_for_policy(&self) -> Result<(), Error> {
        let Self { bench, subject, .. } = self;
        for pod in subject.ready_pods(bench)? {
            let Some(ip) = pod.ip else { continue };
            let url = url(ip, subject.target_port);
            until(&format!("the policy to reach {}", pod.node), SETTLE, || {
                let attempt = self.ask(BLOCKED, &url, PROBE_LIMIT_S)?;
                Ok((attempt.outcome == Outcome::Failed { exit: TIMED_OUT }).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The same request from both. Fails where one is answered that is to be kept out, or the other way round.
    fn requests(&self, found: &mut Found, enforced: bool) -> Result<(), Error> {
        let url = self.subject.inside_url();
        for (client, fact, kept_out) in [(ALLOWED, "frontend_got", false), (BLOCKED, "other_got", enforced)] {
            let series = self.series(client, &url, CLIENT_LIMIT_S);
            let attempt = series.one()?;
            let as_wanted = match kept_out {
                true => attempt.outcome == Outcome::Failed { exit: TIMED_OUT },
                false => attempt.ok(),
            };
            let got = got(&attempt.outcome);
            if !as_wanted {
                return Err(Error::Otherwise {
                    what: format!("request of {} to {url}", client.name),
                    wanted: if kept_out { "no answer" } else { "an answer" }.into(),
                    found: got,
                });
            }
            let note = match (kept_out, client.role == BLOCKED.role) {
                (true, _) => format!(
                    "Nobody told the client: it waited {CLIENT_LIMIT_S} s, its own limit. The request gives no hint as to why."
                ),
                (false, true) => "Answered: nothing between the two pods asks who it is.".into(),
                (false, false) => "Answered, as the policy allows.".into(),
            };
            let title = format!("A request from role={}", client.role);
            let rows = listed(&[attempt]);
            found.exhibits.push(self.bench.exhibit(&title, &series.line, Style::Requests, rows, 0, note));
            found.fact(fact, got);
        }
        Ok(())
    }

    /// A plane that was not asked to enforce: the one that the policy does not allow is answered, now and for a while.
    fn by_nobody(&self, found: &mut Found) -> Result<(), Error> {
        let Self { bench, subject, .. } = self;
        if bench.plane == Plane::Ebpf {
            let what =
                "network policies that are enforced (the lab's agents were given --network-policy off)";
            return Err(Error::Missing { what: what.into() });
        }
        found.exhibits.push(self.addresses()?);
        let begun = Instant::now();
        let series = self.series(BLOCKED, &subject.inside_url(), PROBE_LIMIT_S);
        let attempts = series.until(|_| Ok(begun.elapsed() > HOLD))?;
        if let Some(failed) = attempts.iter().find(|attempt| !attempt.ok()) {
            return Err(Error::Otherwise {
                what: format!("request of {} where no policy is enforced", BLOCKED.name),
                wanted: "an answer".into(),
                found: got(&failed.outcome),
            });
        }
        self.requests(found, false)
    }

    /// All that a plane without identities can go by.
    fn addresses(&self) -> Result<Exhibit, Error> {
        let columns = "custom-columns=POD:.metadata.name,ROLE:.metadata.labels.role,APP:.metadata.labels.app,\
                       IP:.status.podIP";
        let words = ["-n", &self.subject.namespace, "get", "pods", "-o", columns];
        let note = "What could enforce it here has addresses to go by, which change with every pod.";
        self.bench.kubectl("Pods and their addresses", &words, note)
    }
}

/// Whether the lab's agents enforce policies: as they were told, else as their plane does by itself.
fn is_enforced(bench: &Bench) -> bool {
    let told = bench.lab.state().agent_args.iter().map(lab::AgentArg::as_str).collect::<Vec<_>>();
    told_to_enforce(&told).unwrap_or(bench.plane == Plane::Ebpf)
}

/// What `--network-policy` says, in one argument or two.
fn told_to_enforce(arguments: &[&str]) -> Option<bool> {
    let ours = |argument: &&str| argument.split('=').next() == Some("--network-policy");
    let at = arguments.iter().rposition(ours)?;
    let value = arguments[at].split_once('=').map(|(_, value)| value);
    value.or_else(|| arguments.get(at + 1).copied()).map(|value| value == "on")
}

/// In a word or two, as a fact.
fn got(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered { status, .. } => status.to_string(),
        Outcome::Failed { exit: TIMED_OUT } => "no answer".into(),
        Outcome::Failed { exit } => format!("an error (curl: {exit})"),
    }
}

fn pod(namespace: &str, client: Client) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": client.name, "namespace": namespace, "labels": {"role": client.role}},
        "spec": {"containers": [{"name": "client", "image": "twinplane/echo"}]},
    })
}

/// The Service's pods accept who has the role, and nobody else.
fn policy(subject: &Subject, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": subject.namespace},
        "spec": {
            "podSelector": {"matchLabels": subject.selector},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": ALLOWED.role}}}]}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_read_in_one_argument_or_two_and_the_last_counts() {
        assert_eq!(told_to_enforce(&["--xdp=auto"]), None);
        assert_eq!(told_to_enforce(&["--network-policy=on"]), Some(true));
        assert_eq!(told_to_enforce(&["--network-policy", "on", "--xdp=auto"]), Some(true));
        assert_eq!(told_to_enforce(&["--network-policy=on", "--network-policy=off"]), Some(false));
    }
}
