//! Brings a lab up, step by step; whatever fails is named by step and node, and what was made is removed.
//!
//! Runs in the user's process. What has to live on is the supervisor, which is started on the way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use model::Plane;

use crate::{
    agent_arg::AgentArg,
    build,
    edge::HealthCheckTiming,
    lab::Lab,
    log,
    manifest::{Manifest, Problem},
    plan::{IpFamilies, LabName, Routing, Topology},
    process::{ProcessId, Registry},
    ready, remove,
    state::State,
    status::{Phase, Status},
    supervisor, system,
};

/// How often a state that others change is looked at.
const POLL: Duration = Duration::from_millis(30);

/// What lab to bring up.
#[derive(Clone, Debug)]
pub struct Options {
    pub name: LabName,
    pub plane: Plane,
    /// Number of nodes, 1 to 8.
    pub nodes: u8,
    pub families: IpFamilies,
    pub routing: Routing,
    /// What every node's agent is given besides.
    pub agent_args: Vec<AgentArg>,
    /// The name the user gave, where it stands for two labs.
    pub group: Option<LabName>,
    /// Applied once the agents are ready.
    pub manifests: Vec<Manifest>,
    pub health_check: HealthCheckTiming,
    /// How long agents, and after them pods and load balancers, may take to become ready.
    pub patience: Duration,
    /// The `twinplane` binary that the lab's processes run; normally the caller's own.
    pub program: PathBuf,
}

impl Options {
    /// The defaults: two dual-stack nodes with native routing, GKE's health check, a minute's patience, nothing applied, this very program.
    pub fn new(name: LabName, plane: Plane) -> Self {
        Self {
            name,
            plane,
            nodes: 2,
            families: IpFamilies::default(),
            routing: Routing::default(),
            agent_args: vec![],
            group: None,
            manifests: vec![],
            health_check: HealthCheckTiming::default(),
            patience: Duration::from_secs(60),
            program: std::env::current_exe().unwrap_or_else(|_| "twinplane".into()),
        }
    }
}

/// Who is told how far it is, and may call it off.
pub trait Progress: Sync {
    /// `step` of `lab` begins; the one before is done.
    fn step(&self, lab: &LabName, step: &str);

    /// What the running step waits for, in words.
    fn waiting(&self, lab: &LabName, what: &str);

    /// True once the user wants no more: what was made is removed.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Which step failed, on which node, and what its log says.
#[derive(Debug, thiserror::Error)]
#[error("bring up lab {lab}: {step}{}", node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default())]
pub struct Error {
    pub lab: LabName,
    pub step: String,
    pub node: Option<String>,
    /// The line of a log that matters.
    pub log: Option<Box<log::Line>>,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// What could not be removed afterwards.
    pub left: Option<Box<remove::Error>>,
}

/// A failed step before it is put in context.
pub(crate) struct Failure {
    node: Option<String>,
    log: Option<Box<log::Line>>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { node: None, log: None, source: error.into() }
    }
}

/// A lab that is up, and what of its manifests was refused.
#[derive(Debug)]
pub struct Up {
    pub lab: Lab,
    pub problems: Vec<Problem>,
}

/// See [`Lab::up`].
pub(crate) fn up(options: &Options, progress: &dyn Progress) -> Result<Up, Error> {
    let mut run = Run { options, progress, step: String::new() };
    match run.complete() {
        Ok(up) => Ok(up),
        Err((claimed, failure)) => {
            // A name that another lab has is not this run's to remove.
            let left = if claimed { remove::remove(&options.name).err().map(Box::new) } else { None };
            let Failure { node, log, mut source } = failure;
            // An interrupt reaches the tools of the running step too: their complaints are not the reason.
            if progress.cancelled() {
                source = "interrupted".into();
            }
            Err(Error { lab: options.name.clone(), step: run.step, node, log, source, left })
        }
    }
}

struct Run<'a> {
    options: &'a Options,
    progress: &'a dyn Progress,
    step: String,
}

impl Run<'_> {
    /// The flag of the error tells whether the lab's name was taken.
    fn complete(&mut self) -> Result<Up, (bool, Failure)> {
        let state = self.claim().map_err(|failure| (false, failure))?;
        self.make(state).map_err(|failure| (true, failure))
    }

    fn claim(&mut self) -> Result<State, Failure> {
        self.begin("check this machine")?;
        let Options { name, plane, nodes, families, routing, agent_args, group, health_check, .. } =
            self.options;
        let mut topology = Topology::with_families(name.clone(), *plane, *nodes, *families)?;
        topology.routing = *routing;
        system::check(*plane)?;
        let mut state = State::new(topology, group.clone(), *health_check, system::cgroup_mount());
        state.agent_args.clone_from(agent_args);
        state.claim()?;
        Ok(state)
    }

    fn make(&mut self, state: State) -> Result<Up, Failure> {
        self.begin("make namespaces and links")?;
        build::build(&state)?;
        self.begin("start the supervisor")?;
        let supervisor = start_supervisor(&self.options.program, &state)?;
        let lab = Lab::from_state(state);
        self.follow(&lab, supervisor)?;
        self.begin("start agents")?;
        self.wait(&lab, supervisor, || ready::agents(&lab))?;
        let problems = self.apply(&lab)?;
        self.begin("start pods and load balancers")?;
        self.wait(&lab, supervisor, || ready::workloads(&lab))?;
        self.begin("program nodes")?;
        self.wait(&lab, supervisor, || ready::nodes(&lab))?;
        Ok(Up { lab, problems })
    }

    /// Waits until the supervisor runs everything, telling its steps as ours.
    fn follow(&mut self, lab: &Lab, supervisor: ProcessId) -> Result<(), Failure> {
        let deadline = Instant::now() + self.options.patience;
        loop {
            match lab.status().map(|status| status.phase) {
                Ok(Phase::Running) => return Ok(()),
                Ok(Phase::Failed { step, message }) => {
                    self.step = step;
                    return Err(self.with_log(lab, "supervisor", message));
                }
                Ok(Phase::Starting { step }) if step != self.step => self.begin(&step)?,
                Ok(Phase::Starting { .. }) | Err(_) => {}
            }
            self.pause(lab, supervisor, deadline, "the supervisor")?;
        }
    }

    /// Waits until `pending` says that nothing is.
    fn wait(
        &self,
        lab: &Lab,
        supervisor: ProcessId,
        pending: impl Fn() -> Result<Option<String>, Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.options.patience;
        while let Some(what) = pending()? {
            self.progress.waiting(lab.name(), &what);
            if let Some(failure) = hopeless(lab, &lab.status()?) {
                return Err(failure);
            }
            self.pause(lab, supervisor, deadline, &what)?;
        }
        Ok(())
    }

    fn apply(&mut self, lab: &Lab) -> Result<Vec<Problem>, Failure> {
        if self.options.manifests.is_empty() {
            return Ok(vec![]);
        }
        self.begin("apply manifests")?;
        Ok(lab.apply(&self.options.manifests)?.problems)
    }

    fn begin(&mut self, step: &str) -> Result<(), Failure> {
        step.clone_into(&mut self.step);
        self.progress.step(&self.options.name, step);
        self.stop_if_cancelled()
    }

    fn pause(&self, lab: &Lab, supervisor: ProcessId, deadline: Instant, what: &str) -> Result<(), Failure> {
        self.stop_if_cancelled()?;
        if !supervisor.is_alive() {
            return Err(self.with_log(lab, "supervisor", "the supervisor ended"));
        }
        if Instant::now() >= deadline {
            let seconds = self.options.patience.as_secs();
            let message = format!("not done within {seconds} s: waiting for {what}");
            return Err(match ready::warning(lab) {
                Some(warning) => format!("{message} ({warning})").into(),
                None => message.into(),
            });
        }
        thread::sleep(POLL);
        Ok(())
    }

    fn stop_if_cancelled(&self) -> Result<(), Failure> {
        if self.progress.cancelled() { Err("interrupted".into()) } else { Ok(()) }
    }

    fn with_log(&self, lab: &Lab, what: &str, message: impl Into<String>) -> Failure {
        Failure { log: log::matters(&lab.paths().log(what)).map(Box::new), ..message.into().into() }
    }
}

/// An agent, or a relay, that ends again and again will not become ready.
fn hopeless(lab: &Lab, status: &Status) -> Option<Failure> {
    const CHANCES: u32 = 3;
    if let Some(relay) = status.relay.as_ref().map(|relay| &relay.process)
        && !relay.ready
        && relay.restarts >= CHANCES
    {
        let exit = relay.last_exit.as_deref().unwrap_or("unknown");
        let log = log::matters(&lab.paths().log("relay")).map(Box::new);
        return Some(Failure { log, ..format!("the relay ended {CHANCES} times, last with {exit}").into() });
    }
    let node = status.nodes.iter().find(|node| !node.agent.ready && node.agent.restarts >= CHANCES)?;
    let exit = node.agent.last_exit.as_deref().unwrap_or("unknown");
    let failure = Failure::from(format!("the agent ended {CHANCES} times, last with {exit}"));
    let log = log::matters(&lab.paths().agent_log(&node.name)).map(Box::new);
    Some(Failure { node: Some(node.name.clone()), log, ..failure })
}

/// Starts the supervisor, which makes itself independent of this process.
fn start_supervisor(program: &Path, state: &State) -> Result<ProcessId, Failure> {
    let paths = state.paths();
    let log = fs::File::create(paths.log("supervisor"))?;
    let mut command = Command::new(program);
    command.args(["lab", "supervise", "--name", state.topology.name.as_str()]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    supervisor::quiet_environment(&mut command);
    let child = command.spawn().map_err(|error| format!("run {}: {error}", program.display()))?;
    Ok(Registry::new(paths.processes()).record(supervisor::ROLE, child.id())?)
}
