//! Which agent a command asks: the one that is named, else the lab's first node, else this machine's.

use std::{
    collections::BTreeSet,
    fmt, fs,
    future::Future,
    path::{Path, PathBuf},
};

use agent::client::{Client, DEFAULT_SOCKET, Error};

/// Where labs keep their agents' sockets: `<lab>/<node>/agent.sock`.
const LABS: &str = "/run/twinplane/lab";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Target {
    /// The agent's socket [default: the only lab's first node, else /run/twinplane/agent.sock]
    #[arg(long, env = "TWINPLANE_SOCKET", value_name = "PATH", conflicts_with_all = ["lab", "node"])]
    socket: Option<PathBuf>,
    /// The lab whose agent is asked
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    /// The node of the lab whose agent is asked [default: the first]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

/// An agent of a lab.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LabAgent {
    lab: String,
    node: String,
    socket: PathBuf,
}

/// No agent can be told from what was given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("no agent of {0} is there\n\nrunning labs: twinplane lab list")]
    None(String),
    #[error("several labs are running: {0}\n\nchoose one with --lab NAME")]
    Several(String),
}

impl Target {
    /// Asks the agent and waits for its answer.
    pub(crate) fn ask<T, F>(&self, question: impl FnOnce(Client) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        wait(question(Client::new(self.announce(&lab_agents(Path::new(LABS)))?)))
    }

    /// The agent that is asked, without saying which.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.find(&lab_agents(Path::new(LABS)))?))
    }

    /// The agent of `node`: the one at the named socket, or that node's of the same lab, else this machine's.
    pub(crate) fn of_node(&self, node: &str) -> anyhow::Result<Client> {
        let socket = self.find(&lab_agents(Path::new(LABS)))?;
        let beside = lab_folder(&socket).map(|lab| lab.join(node).join("agent.sock"));
        Ok(Client::new(beside.filter(|_| self.socket.is_none()).unwrap_or(socket)))
    }

    /// How the lab's API server is reached, where the agent that is asked is a lab's.
    pub(crate) fn kubeconfig(&self) -> anyhow::Result<Option<PathBuf>> {
        let socket = self.find(&lab_agents(Path::new(LABS)))?;
        Ok(lab_folder(&socket).map(|lab| lab.join("kubeconfig")).filter(|path| path.exists()))
    }

    /// Where flows are served: by the lab's relay, unless a node or an agent is named; else beside the agent's socket.
    pub(crate) fn observer(&self) -> Result<PathBuf, Unclear> {
        self.find_observer(Path::new(LABS))
    }

    fn find_observer(&self, labs: &Path) -> Result<PathBuf, Unclear> {
        let agents = lab_agents(labs);
        if self.socket.is_none() && self.node.is_none() {
            let relays = names(labs).into_iter().filter(|lab| relay_socket(labs, lab).exists());
            let running: BTreeSet<String> =
                relays.chain(agents.iter().map(|agent| agent.lab.clone())).collect();
            let fitting: Vec<_> = running
                .into_iter()
                .filter(|lab| self.lab.as_ref().is_none_or(|wanted| wanted == lab))
                .collect();
            match &fitting[..] {
                [lab] if relay_socket(labs, lab).exists() => {
                    eprintln!("relay of lab {lab}");
                    return Ok(relay_socket(labs, lab));
                }
                [] | [_] => {}
                several => return Err(Unclear::Several(several.join(", "))),
            }
        }
        Ok(self.announce(&agents)?.with_file_name("observer.sock"))
    }

    fn find(&self, agents: &[LabAgent]) -> Result<PathBuf, Unclear> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let asked = self.lab.is_some() || self.node.is_some();
        let fits = |agent: &&LabAgent| {
            self.lab.as_ref().is_none_or(|lab| agent.lab == *lab)
                && self.node.as_ref().is_none_or(|node| agent.node == *node)
        };
        let fitting: Vec<_> = agents.iter().filter(fits).collect();
        let Some(first) = fitting.first() else {
            return if asked { Err(Unclear::None(self.to_string())) } else { Ok(DEFAULT_SOCKET.into()) };
        };
        let mut labs: Vec<_> = fitting.iter().map(|agent| agent.lab.as_str()).collect();
        labs.dedup();
        if labs.len() > 1 {
            return Err(Unclear::Several(labs.join(", ")));
        }
        Ok(first.socket.clone())
    }

    /// [`Self::find`], saying which agent of a lab it is where none was named.
    fn announce(&self, agents: &[LabAgent]) -> Result<PathBuf, Unclear> {
        let socket = self.find(agents)?;
        let chosen = agents.iter().find(|agent| agent.socket == socket);
        if let Some(LabAgent { lab, node, .. }) =
            chosen.filter(|_| self.socket.is_none() && self.node.is_none())
        {
            eprintln!("node {node} of lab {lab}");
        }
        Ok(socket)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.lab, &self.node) {
            (Some(lab), Some(node)) => write!(f, "node {node} of lab {lab}"),
            (Some(lab), None) => write!(f, "lab {lab}"),
            (None, Some(node)) => write!(f, "node {node} of any lab"),
            (None, None) => f.write_str("any lab"),
        }
    }
}

/// Every agent of every lab that has a socket, in order of lab and node.
fn lab_agents(labs: &Path) -> Vec<LabAgent> {
    let mut agents = vec![];
    for lab in names(labs) {
        for node in names(&labs.join(&lab)) {
            let socket = labs.join(&lab).join(&node).join("agent.sock");
            if socket.exists() {
                agents.push(LabAgent { lab: lab.clone(), node, socket });
            }
        }
    }
    agents.sort();
    agents
}

/// The folder of the lab that an agent's socket belongs to.
fn lab_folder(socket: &Path) -> Option<&Path> {
    let lab = socket.parent()?.parent()?;
    lab.starts_with(LABS).then_some(lab)
}

fn relay_socket(labs: &Path, lab: &str) -> PathBuf {
    labs.join(lab).join("relay.sock")
}

/// What a directory holds; nothing where it is none or may not be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// An agent's answer.
pub(crate) fn wait<T>(answer: impl Future<Output = Result<T, Error>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(answer).map_err(with_hint)
}

fn with_hint(error: Error) -> anyhow::Error {
    let hint = match error.is_absent() {
        true => {
            "\n\nis an agent running here? ask another one with --socket PATH, or a lab's with --lab NAME"
        }
        false => "",
    };
    anyhow::anyhow!("{error}: {}{hint}", error.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents() -> Vec<LabAgent> {
        [("ebpf", "node-a"), ("ebpf", "node-b"), ("iptables", "node-a")]
            .map(|(lab, node)| LabAgent {
                lab: lab.into(),
                node: node.into(),
                socket: format!("{LABS}/{lab}/{node}/agent.sock").into(),
            })
            .into()
    }

    fn find(lab: Option<&str>, node: Option<&str>, agents: &[LabAgent]) -> Result<String, Unclear> {
        let target = Target { socket: None, lab: lab.map(Into::into), node: node.map(Into::into) };
        target.find(agents).map(|socket| socket.display().to_string())
    }

    #[test]
    fn without_labs_it_is_this_machines_agent() {
        assert_eq!(find(None, None, &[]), Ok(DEFAULT_SOCKET.into()));
    }

    #[test]
    fn the_only_labs_first_node_is_the_default() {
        let only = &agents()[..2];
        assert_eq!(find(None, None, only), Ok(format!("{LABS}/ebpf/node-a/agent.sock")));
        assert_eq!(find(None, Some("node-b"), only), Ok(format!("{LABS}/ebpf/node-b/agent.sock")));
    }

    #[test]
    fn among_several_labs_one_must_be_named() {
        let error = find(None, None, &agents()).expect_err("unclear");
        assert_eq!(error, Unclear::Several("ebpf, iptables".into()));
        assert_eq!(find(Some("iptables"), None, &agents()), Ok(format!("{LABS}/iptables/node-a/agent.sock")));
        assert_eq!(find(None, Some("node-b"), &agents()), Ok(format!("{LABS}/ebpf/node-b/agent.sock")));
    }

    #[test]
    fn what_is_named_but_not_there_is_an_error_never_another_agent() {
        assert_eq!(find(Some("x"), None, &agents()), Err(Unclear::None("lab x".into())));
        assert_eq!(find(None, Some("node-z"), &[]), Err(Unclear::None("node node-z of any lab".into())));
        let socket = Target { socket: Some("/x.sock".into()), lab: None, node: None };
        assert_eq!(socket.find(&agents()), Ok("/x.sock".into()));
    }

    #[test]
    fn sockets_of_labs_are_found_in_order() {
        let directory = tempfile::tempdir().expect("directory");
        for path in ["b/node-a", "a/node-b", "a/node-a", "a/logs"] {
            fs::create_dir_all(directory.path().join(path)).expect("create");
        }
        for path in ["b/node-a", "a/node-b", "a/node-a"] {
            fs::write(directory.path().join(path).join("agent.sock"), "").expect("write");
        }
        let found: Vec<_> =
            lab_agents(directory.path()).into_iter().map(|a| format!("{}/{}", a.lab, a.node)).collect();
        assert_eq!(found, ["a/node-a", "a/node-b", "b/node-a"]);
    }

    #[test]
    fn flows_are_asked_of_the_labs_relay_unless_a_node_is_named() {
        let directory = tempfile::tempdir().expect("directory");
        let labs = directory.path();
        for lab in ["a", "b"] {
            fs::create_dir_all(labs.join(lab).join("node-a")).expect("create");
            fs::write(labs.join(lab).join("node-a/agent.sock"), "").expect("write");
        }
        fs::write(labs.join("a/relay.sock"), "").expect("write");
        let find = |lab: Option<&str>, node: Option<&str>| {
            let target = Target { socket: None, lab: lab.map(Into::into), node: node.map(Into::into) };
            let found = target.find_observer(labs)?;
            Ok(found.strip_prefix(labs).unwrap_or(&found).display().to_string())
        };
        assert_eq!(find(Some("a"), None), Ok("a/relay.sock".into()));
        assert_eq!(find(Some("a"), Some("node-a")), Ok("a/node-a/observer.sock".into()));
        assert_eq!(find(Some("b"), None), Ok("b/node-a/observer.sock".into()));
        assert_eq!(find(None, None), Err(Unclear::Several("a, b".into())));
        fs::remove_file(labs.join("a/node-a/agent.sock")).expect("remove");
        assert_eq!(find(Some("a"), None), Ok("a/relay.sock".into()), "no agent runs");
    }
}
