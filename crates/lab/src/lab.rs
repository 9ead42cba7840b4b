//! A handle on a running lab: run commands in it, read what it tells, take it down. Blocking; needs no runtime.
//!
//! Holds nothing open: a lab lives on when its handle goes.

use std::{
    fs::OpenOptions,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::{List, api::core::v1::Pod};
use netns::NetNs;
use serde::de::DeserializeOwned;

use crate::{
    agent_arg::AgentArg,
    edge::EdgeStatus,
    exec::{self, Output},
    http,
    manifest::{self, Manifest},
    paths::Paths,
    plan::{LabName, Place, Topology},
    remove,
    state::{self, State},
    status::{PodInfo, Status},
    up::{self, Options, Progress, Up},
};

/// How long the supervisor and the agents have to answer: they answer from memory.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an agent has to end or to start.
const AGENT: Duration = Duration::from_secs(30);

/// A running lab.
#[derive(Clone, Debug)]
pub struct Lab {
    state: State,
    paths: Paths,
}

/// Why a lab did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("ask the supervisor of lab {lab} for {what} (does it run? see twinplane lab status)")]
    Supervisor {
        lab: LabName,
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("ask the agent of {node} for {what}")]
    Agent {
        node: String,
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("ask the API of lab {lab} for {what}")]
    Api {
        lab: LabName,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("find {place} in lab {lab}: want client, edge, a node ({nodes}) or a pod{}", hint(.pods))]
    NoSuchPlace { lab: LabName, place: Place, nodes: String, pods: Vec<String> },
    #[error("find pod {name}: it is in several namespaces ({}); say namespace/name", .namespaces.join(", "))]
    AmbiguousPod { name: String, namespaces: Vec<String> },
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    #[error("run {command:?} in {place}")]
    Run {
        command: String,
        place: Place,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whoever was asked lives, but did not answer in time.
    pub(crate) fn is_late(&self) -> bool {
        let (Self::Supervisor { source, .. } | Self::Agent { source, .. } | Self::Api { source, .. }) = self
        else {
            return false;
        };
        // A socket whose patience ends says either (socket(7), SO_RCVTIMEO).
        matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    }
}

impl Lab {
    /// Brings a lab up; returns when pods are ready, addresses assigned and nodes programmed.
    ///
    /// # Errors
    /// Which step failed, on which node, and the log line that matters. Everything made is removed then. A refused
    /// manifest is no failure: see [`Up::problems`].
    pub fn up(options: &Options, progress: &dyn Progress) -> Result<Up, up::Error> {
        up::up(options, progress)
    }

    /// Opens a lab that was brought up before, by whomever.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: &LabName) -> Result<Self, Error> {
        Ok(Self::from_state(State::load(name)?))
    }

    pub(crate) fn from_state(state: State) -> Self {
        Self { paths: state.paths(), state }
    }

    pub fn name(&self) -> &LabName {
        &self.state.topology.name
    }

    pub fn topology(&self) -> &Topology {
        &self.state.topology
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The network namespace of a place.
    ///
    /// # Errors
    /// No such place, or its namespace is gone.
    pub fn namespace(&self, place: &Place) -> Result<NetNs, Error> {
        self.locate(place).map(|(namespace, _)| namespace)
    }

    /// The network namespace of a place, and the node that it is on.
    fn locate(&self, place: &Place) -> Result<(NetNs, Option<String>), Error> {
        let (name, node) = match place {
            Place::Client => (self.topology().client_namespace(), None),
            Place::Edge => (self.topology().edge_namespace(), None),
            Place::Node(node) => match self.topology().node(node) {
                Some(node) => (node.namespace.clone(), Some(node.name.clone())),
                None => return Err(self.no_such_place(place, &[])),
            },
            Place::Pod { namespace, name } => {
                let pod = self.pod(place, namespace.as_deref(), name)?;
                (pod.netns, Some(pod.node))
            }
        };
        Ok((NetNs::open(&name)?, node))
    }

    /// A program of this host, to be run inside a place: in its network namespace, and in its node's cgroup.
    ///
    /// # Errors
    /// No such place, or its namespace or cgroup is gone.
    pub fn command(&self, place: &Place, program: &str) -> Result<Command, Error> {
        let (namespace, node) = self.locate(place)?;
        let mut command = namespace.command(program);
        let cgroup = node.and_then(|node| self.state.node_cgroup(&node));
        let failed = |source| Error::Run { command: program.to_owned(), place: place.clone(), source };
        let members = |folder: PathBuf| OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
        let cgroup = cgroup.map(members).transpose().map_err(failed)?;
        // SAFETY: between fork and exec only write(2) is called, which is async-signal-safe; both descriptors are open in the
        // child because close-on-exec acts at exec.
        unsafe {
            command.pre_exec(move || {
                // Held for as long as the command: it enters by this descriptor.
                let _ = &namespace;
                match &cgroup {
                    Some(cgroup) => io::Write::write_all(&mut &*cgroup, b"0"),
                    None => Ok(()),
                }
            });
        }
        Ok(command)
    }

    /// Runs a program of this host inside a place, to its end or `timeout`.
    ///
    /// # Errors
    /// No such place, or the program cannot be started. A program that fails is no error.
    pub fn exec(&self, place: &Place, argv: &[&str], timeout: Duration) -> Result<Output, Error> {
        let (program, arguments) = argv.split_first().unwrap_or((&"true", &[]));
        let mut command = self.command(place, program)?;
        command.args(arguments);
        exec::run(command, timeout).map_err(|source| Error::Run {
            command: argv.join(" "),
            place: place.clone(),
            source,
        })
    }

    /// A `kubectl` that talks to this lab and shares no cache with any other cluster.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.paths.kubeconfig());
        command.arg("--cache-dir").arg(self.paths.kubectl_cache());
        command
    }

    /// Runs `kubectl` to its end, at most a minute.
    ///
    /// # Errors
    /// It cannot be started. A `kubectl` that fails is no error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output, Error> {
        self.kubectl_in(Path::new("."), arguments)
    }

    /// As [`Self::kubectl`], started in `folder`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn kubectl_in(&self, folder: &Path, arguments: &[&str]) -> Result<Output, Error> {
        let mut command = self.kubectl_command();
        command.args(arguments).current_dir(folder);
        exec::run(command, Duration::from_secs(60)).map_err(|source| Error::Run {
            command: format!("kubectl {}", arguments.join(" ")),
            place: Place::Client,
            source,
        })
    }

    /// Applies manifests through the API; what is valid is applied whatever happens to the rest.
    ///
    /// # Errors
    /// The API cannot be reached at all. Refused objects are in the report.
    pub fn apply(&self, manifests: &[Manifest]) -> Result<manifest::Report, manifest::ApplyError> {
        manifest::apply(&self.paths.kubeconfig(), manifests)
    }

    /// How the supervisor and the agents are.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn status(&self) -> Result<Status, Error> {
        self.ask("/v1/status")
    }

    /// Forwarding rules, target pools, health.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn edge_status(&self) -> Result<EdgeStatus, Error> {
        self.ask("/v1/edge")
    }

    /// The pods that have a node, by namespace and name.
    ///
    /// # Errors
    /// The API does not answer.
    pub fn pods(&self) -> Result<Vec<PodInfo>, Error> {
        let failed = |source| Error::Api { lab: self.name().clone(), what: "pods", source };
        let api = self.status()?.api.ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
        let body = http::get_tcp(api, "/api/v1/pods", ANSWER).and_then(http::Response::success);
        let list: List<Pod> = serde_json::from_slice(&body.map_err(failed)?).map_err(|e| failed(e.into()))?;
        let mut pods: Vec<_> = list.items.iter().filter_map(|pod| self.pod_info(pod)).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(pods)
    }

    /// Where the agent of a node listens.
    pub fn agent_socket(&self, node: &str) -> PathBuf {
        self.paths.agent_socket(node)
    }

    /// Asks a node's agent on its local API.
    ///
    /// # Errors
    /// It does not answer, or not with success.
    pub fn agent_get(&self, node: &str, path: &str) -> Result<Vec<u8>, Error> {
        http::get_unix(&self.agent_socket(node), path, ANSWER)
            .and_then(http::Response::success)
            .map_err(|source| Error::Agent { node: node.to_owned(), what: path.to_owned(), source })
    }

    /// Ends a node's agent, or starts it again; returns once it has ended, or answers.
    ///
    /// # Errors
    /// There is no such node, it takes too long, or what is started ends again.
    pub fn run_agent(&self, node: &str, runs: bool) -> Result<(), Error> {
        let what = if runs { "start" } else { "stop" };
        let path = format!("/v1/nodes/{node}/agent/{what}");
        let failed = |source| Error::Supervisor { lab: self.name().clone(), what: path.clone(), source };
        let restarts = || -> Result<_, Error> {
            let nodes = self.status()?.nodes;
            Ok(nodes.into_iter().find(|it| it.name == node).map_or(0, |node| node.agent.restarts))
        };
        let before = restarts()?;
        let answer = http::post_unix(&self.paths.supervisor_socket(), &path, ANSWER);
        answer.and_then(http::Response::success).map_err(failed)?;
        let deadline = Instant::now() + AGENT;
        loop {
            let status = self.status()?;
            let agent = status.nodes.iter().find(|it| it.name == node).map(|node| &node.agent);
            if agent.is_some_and(|agent| if runs { agent.ready && !agent.stopped } else { agent.stopped }) {
                return Ok(());
            }
            if let Some(agent) = agent.filter(|agent| runs && agent.restarts > before) {
                let exit = agent.last_exit.as_deref().unwrap_or_default();
                let log = self.paths.agent_log(node);
                return Err(failed(io::Error::other(format!("it ended: {exit} (see {})", log.display()))));
            }
            if Instant::now() >= deadline {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends every agent and starts it again with these arguments instead of those of before; returns once all answer.
    ///
    /// # Errors
    /// As [`Self::run_agent`], of the first node that fails; the lab's state cannot be written.
    pub fn restart_agents(&self, arguments: Vec<AgentArg>) -> Result<(), Error> {
        let mut state = State::load(self.name())?;
        state.agent_args = arguments;
        state.store()?;
        for node in &self.topology().nodes {
            self.run_agent(&node.name, false)?;
            self.run_agent(&node.name, true)?;
        }
        Ok(())
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// Everything that could not be removed.
    pub fn down(self) -> Result<remove::Removed, remove::Error> {
        remove::remove(self.name())
    }

    fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let failed = |source| Error::Supervisor { lab: self.name().clone(), what: path.to_owned(), source };
        let answer = http::get_unix(&self.paths.supervisor_socket(), path, ANSWER);
        let body = answer.and_then(http::Response::success).map_err(failed)?;
        serde_json::from_slice(&body).map_err(|error| failed(error.into()))
    }

    fn pod_info(&self, pod: &Pod) -> Option<PodInfo> {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        Some(PodInfo {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            node: pod.spec.as_ref()?.node_name.clone()?,
            ip: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
            netns: self.topology().pod_namespace(pod.metadata.uid.as_ref()?),
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        })
    }

    fn pod(&self, place: &Place, namespace: Option<&str>, name: &str) -> Result<PodInfo, Error> {
        let pods = self.pods()?;
        let wanted = |pod: &&PodInfo| pod.name == name && namespace.is_none_or(|n| n == pod.namespace);
        match &pods.iter().filter(wanted).collect::<Vec<_>>()[..] {
            [pod] => Ok((*pod).clone()),
            [] => Err(self.no_such_place(place, &pods)),
            several => Err(Error::AmbiguousPod {
                name: name.to_owned(),
                namespaces: several.iter().map(|pod| pod.namespace.clone()).collect(),
            }),
        }
    }

    fn no_such_place(&self, place: &Place, pods: &[PodInfo]) -> Error {
        Error::NoSuchPlace {
            lab: self.name().clone(),
            place: place.clone(),
            nodes: self.topology().nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", "),
            pods: pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect(),
        }
    }
}

fn hint(pods: &[String]) -> String {
    if pods.is_empty() { String::new() } else { format!(" ({})", pods.join(", ")) }
}
