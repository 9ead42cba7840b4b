//! One address family's rules: what is programmed, what changes, and what the kernel really has.
//!
//! Never talks to the kernel but through [`Rules`]; the tests pass a fake that refuses what the kernel refuses.

mod clean;
mod converge;
mod text;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{Changed, Family, ServicePort, ServicePortId, Snapshot};

use crate::{
    counts::Counts,
    kernel::{Refusal, Rules},
    names::ChainName,
    parse::Saved,
    render::{LARGE_CLUSTER_ENDPOINTS, Options, Portal, Renderer, ServiceRules, has_host_ports, reachable},
};

pub(crate) use write::Failed;

/// The rules of one family in one namespace.
#[derive(Debug)]
pub(crate) struct FamilyRules<R> {
    family: Family,
    kernel: R,
    options: Options,
    programmed: BTreeMap<ServicePortId, Programmed>,
    /// Endpoints of all programmed services: decides about comments.
    endpoints: usize,
    comments: bool,
    /// Chains that nothing leads to any more.
    stale: BTreeSet<ChainName>,
    /// What rules had counted before they were rewritten, in this run or an earlier one.
    counts: Counts,
    /// The kernel is known to have what `programmed` says.
    in_step: bool,
}

/// What the kernel was given for one service.
#[derive(Clone, Debug)]
struct Programmed {
    service: Arc<ServicePort>,
    /// Its lines in the shared chains, by [`Portal`]; each ends with a newline.
    portals: [Box<str>; Portal::ALL.len()],
    chains: Vec<ChainName>,
}

/// What is to become of one service.
#[derive(Debug)]
struct Next {
    programmed: Programmed,
    /// Rules of its own chains, if these are to be written.
    rules: Option<Vec<Vec<String>>>,
}

/// Services that change; `None` removes.
type Delta = BTreeMap<ServicePortId, Option<Next>>;

impl<R: Rules> FamilyRules<R> {
    pub(crate) fn new(family: Family, kernel: R, options: Options) -> Self {
        Self {
            counts: Counts::resume(kernel.kept()),
            family,
            kernel,
            options,
            programmed: BTreeMap::new(),
            endpoints: 0,
            comments: true,
            stale: BTreeSet::new(),
            in_step: false,
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Whether rules of endpoints carry comments now.
    pub(crate) fn comments(&self) -> bool {
        self.comments
    }

    pub(crate) fn options(&self) -> Options {
        self.options
    }

    /// The rules as the kernel has them.
    pub(crate) fn kernel(&self) -> &R {
        &self.kernel
    }

    /// What the rules in `saved`, and those they replaced, have counted.
    pub(crate) fn counts(&self, saved: &Saved) -> Counts {
        let mut counts = self.counts.clone();
        counts.add(saved, |_| true);
        counts
    }

    /// What the kernel was given for a service.
    pub(crate) fn service(&self, id: &ServicePortId) -> Option<&Arc<ServicePort>> {
        self.programmed.get(id).map(|programmed| &programmed.service)
    }

    /// Programs what changed, or everything where the kernel's state is not known.
    ///
    /// # Errors
    /// Nothing could be programmed.
    pub(crate) fn apply(&mut self, snapshot: &Snapshot, changed: &Changed) -> Result<Failed, Refusal> {
        if self.in_step && !changed.node {
            match self.apply_changed(snapshot, changed) {
                Ok(Some(failed)) => return Ok(failed),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(family = ?self.family, %error, "partial restore failed, writing all")
                }
            }
        }
        self.converge(snapshot).map(|(failed, _)| failed)
    }

    /// `None` where the change reaches more than the services it names: crossing the size of a large cluster, the
    /// first host port and the last.
    fn apply_changed(&mut self, snapshot: &Snapshot, changed: &Changed) -> Result<Option<Failed>, Refusal> {
        let renderer = self.renderer(snapshot);
        if renderer.host_ports != has_host_ports(self.programmed.keys(), self.family) {
            return Ok(None);
        }
        let mut delta = Delta::new();
        let mut failed = Failed::new();
        let mut endpoints = self.endpoints;
        for id in changed.services.iter().filter(|id| id.family == self.family) {
            let old = self.programmed.get(id);
            endpoints -= old.map_or(0, |old| reachable(&old.service).len());
            match snapshot.services.get(id) {
                Some(service) => {
                    endpoints += reachable(service).len();
                    if old.is_some_and(|old| Arc::ptr_eq(&old.service, service) || old.service == *service) {
                        continue;
                    }
                    match renderer.service(service) {
                        Ok(rules) => {
                            delta.insert(id.clone(), Some(Next::new(service, &rules)));
                        }
                        Err(refused) => {
                            failed.insert(id.clone(), refused.into());
                        }
                    }
                }
                None if old.is_some() => {
                    delta.insert(id.clone(), None);
                }
                None => {}
            }
        }
        if (endpoints > LARGE_CLUSTER_ENDPOINTS) == self.comments {
            return Ok(None);
        }
        self.write(delta, &renderer)?;
        Ok(Some(failed))
    }

    fn renderer<'a>(&self, snapshot: &'a Snapshot) -> Renderer<'a> {
        let comments = self.comments;
        Renderer { comments, ..Renderer::new(snapshot, self.family, self.options) }
    }
}

impl Next {
    fn new(service: &Arc<ServicePort>, rules: &ServiceRules) -> Self {
        let lines = |rules: &Vec<crate::rule::Rule>| {
            rules.iter().map(|rule| format!("{rule}\n")).collect::<String>().into_boxed_str()
        };
        let programmed = Programmed {
            service: Arc::clone(service),
            portals: std::array::from_fn(|portal| lines(&rules.portals[portal])),
            chains: rules.chains.iter().map(|(name, _)| name.clone()).collect(),
        };
        let text = rules.chains.iter().map(|(_, rules)| rules.iter().map(ToString::to_string).collect());
        Self { programmed, rules: Some(text.collect()) }
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
