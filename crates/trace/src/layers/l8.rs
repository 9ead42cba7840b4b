//! L8: a NetworkPolicy for the Service's pods, and the same request from a pod that it allows and from one that it does not.
//! Fails where what was seen is not what the plane's agents were asked for. What it makes it removes again.

mod identity;
mod rules;

use std::{fs, io, time::Duration};

use lab::{Lab, Place, status::PodInfo};
use model::Plane;
use serde_json::{Value, json};

use tempfile::TempDir;

use super::Found;
use crate::{
    attempt::{Attempt, Outcome},
    bench::{Bench, Error, until},
    command::{Line, request},
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

/// Titles that both planes' captures have, so that they stand side by side.
const KNOWN_BY: &str = "What the pods are known by";
const IN_KERNEL: &str = "The allow-list, as the kernel has it";

/// curl's exit status where nobody answered in time (curl(1), EXIT CODES).
const TIMED_OUT: i32 = 28;

pub(super) fn capture(bench: &Bench, subject: &Subject) -> Result<Found, Error> {
    let name = format!("{}-allow-frontend", subject.name);
    let story = Story { bench, subject, folder: written(&name, &policy(subject, &name))?, policy: name };
    story.refuse_to_replace()?;
    let told = story.tell();
    let removed = story.remove();
    told.and_then(|found| removed.map(|()| found))
}

/// A folder with a manifest.
fn written(name: &str, manifest: &str) -> Result<TempDir, Error> {
    let write = || {
        let folder = TempDir::new()?;
        fs::write(folder.path().join(file(name)), manifest)?;
        io::Result::Ok(folder)
    };
    write().map_err(|source| Error::Write { what: file(name), source })
}

/// What the manifest of a policy is called.
fn file(policy: &str) -> String {
    format!("{policy}.yaml")
}

/// A pod that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Where its manifest is.
    folder: TempDir,
}

/// Who keeps out whom a policy does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Nobody,
    /// The eBPF plane.
    Identities,
    /// The iptables plane, asked to.
    AddOn,
}

impl Story<'_> {
    fn tell(&self) -> Result<Found, Error> {
        self.make_clients()?;
        let mut found = Found::default();
        match self.bench.plane {
            Plane::Iptables => self.by_rules(&mut found)?,
            Plane::Ebpf if is_enforced(self.bench) => {
                self.apply(&mut found)?;
                self.by_identity(&mut found)?;
            }
            Plane::Ebpf => {
                let what =
                    "network policies that are enforced (the lab's agents were given --network-policy off)";
                return Err(Error::Missing { what: what.into() });
            }
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
        let (found, now) = (self.bench.lab.state(), Lab::open(self.bench.lab.name())?);
        if now.state().agent_args != found.agent_args {
            now.restart_agents(found.agent_args.clone())?;
        }
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

    /// The policy as written, as applied, and as the API has it.
    fn apply(&self, found: &mut Found) -> Result<(), Error> {
        let Self { bench, subject, folder, policy } = self;
        let (folder, file) = (folder.path(), file(policy));
        let line = Line::new(Place::Client, ["cat", "-n", &file]);
        let mut written = bench.twinplane_in(folder, "The policy", &line, Style::Plain)?;
        written.capture.r#where = "host".into();
        written.capture.note =
            format!("Pods of the Service accept who has the label role={}, and nobody else.", ALLOWED.role);
        let applied = bench.kubectl_in(folder, "It is applied", &["apply", "-f", &file], "")?;
        if applied.capture.exit != 0 {
            let (command, message) = (applied.capture.command, applied.capture.output.trim().to_owned());
            return Err(Error::Exit { command, exit: applied.capture.exit, message });
        }
        let describe = ["-n", &subject.namespace, "describe", "networkpolicy", policy];
        let note = "The API takes it, whether anything enforces it or not.";
        let object = bench.kubectl("The object", &describe, note)?;
        found.exhibits.extend([written, applied, object]);
        Ok(())
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
    fn requests(&self, found: &mut Found, guard: Guard) -> Result<(), Error> {
        let url = self.subject.inside_url();
        for (client, fact) in [(ALLOWED, "frontend_got"), (BLOCKED, "other_got")] {
            let kept_out = client == BLOCKED && guard != Guard::Nobody;
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
            let note = match (kept_out, client == BLOCKED) {
                (true, _) => format!(
                    "Nobody told the client: it waited {CLIENT_LIMIT_S} s, its own limit. The request gives no hint as to why."
                ),
                (false, true) => "Answered: nothing between the two pods asks who it is.".into(),
                (false, false) => "Answered, as the policy allows.".into(),
            };
            let (title, fact) = match guard {
                Guard::AddOn => (
                    format!("With the add-on: a request from role={}", client.role),
                    format!("{fact}_with_add_on"),
                ),
                Guard::Nobody | Guard::Identities => {
                    (format!("A request from role={}", client.role), fact.to_owned())
                }
            };
            let rows = listed(&[attempt]);
            found.exhibits.push(self.bench.exhibit(&title, &series.line, Style::Requests, rows, 0, note));
            found.fact(&fact, got);
        }
        Ok(())
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

/// The Service's pods accept who has the role, and nobody else: a manifest, as one would write it.
fn policy(subject: &Subject, name: &str) -> String {
    let labels = subject.selector.as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("      {key}: {}\n", plain(value))).collect::<String>();
    format!(
        "apiVersion: networking.k8s.io/v1\n\
         kind: NetworkPolicy\n\
         metadata:\n  \
           name: {name}\n  \
           namespace: {}\n\
         spec:\n  \
           podSelector:\n    \
             matchLabels:\n\
         {labels}  \
           policyTypes: [Ingress]\n  \
           ingress:\n    \
             - from:\n        \
                 - podSelector:\n            \
                     matchLabels:\n              \
                       role: {}\n",
        subject.namespace, ALLOWED.role
    )
}

/// A label's value, in quotes where YAML would take it for something else than a text.
fn plain(value: &Value) -> String {
    // YAML 1.1, bool and null: what kubectl's parser still reads as such.
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let is_plain = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && !WORDS.contains(&text.to_ascii_lowercase().as_str())
    };
    value.as_str().filter(is_plain).map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_quoted_where_yaml_would_read_something_else() {
        for (value, written) in [("nginx", "nginx"), ("No", "\"No\""), ("1", "\"1\""), ("", "\"\"")] {
            assert_eq!(plain(&json!(value)), written);
        }
    }

    #[test]
    fn a_switch_is_read_in_one_argument_or_two_and_the_last_counts() {
        assert_eq!(told_to_enforce(&["--xdp=auto"]), None);
        assert_eq!(told_to_enforce(&["--network-policy=on"]), Some(true));
        assert_eq!(told_to_enforce(&["--network-policy", "on", "--xdp=auto"]), Some(true));
        assert_eq!(told_to_enforce(&["--network-policy=on", "--network-policy=off"]), Some(false));
    }
}
