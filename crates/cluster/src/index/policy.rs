//! Policies within the index: what the compiler is told of, and what it answers.
//!
//! Nothing is answered before all that a policy depends on was listed once: an agent that starts must not take a policy that
//! it has not heard of yet for one that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::networking::v1::NetworkPolicy, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use model::{
    PodName,
    policy::{Mode, PolicyKind, PolicyName},
};
use policy::{
    compile::{Compiler, FirstNumbers, Pod},
    read::{self, POLICY_ANNOTATION, Reading},
    v1alpha2::ClusterNetworkPolicy,
};

use super::{Index, judgements::AllTold};
use crate::{
    kinds::{Key, Kind},
    problem::{ObjectRef, Problem, Report},
};

/// Kinds without which no policy is compiled.
const POLICY_KINDS: [&str; 2] = [NetworkPolicy::KIND, ClusterNetworkPolicy::KIND];

/// What was told, besides what the compiler knows.
#[derive(Debug, Default)]
pub(super) struct Policies {
    compiler: Compiler,
    names: BTreeSet<PolicyName>,
    pods: BTreeMap<PodName, Mode>,
    namespaces: BTreeMap<String, Mode>,
    /// Pods wait for theirs.
    pub(super) enforced: bool,
    /// What is said of ClusterNetworkPolicies.
    pub(super) told: AllTold,
    /// Something of it, or of what is to be said, moved.
    pub(super) stirred: bool,
}

impl Policies {
    fn mode(&self, pod: &PodName) -> Mode {
        let said = self.pods.get(pod).or_else(|| self.namespaces.get(&pod.namespace));
        said.copied().unwrap_or_default()
    }
}

impl Index {
    /// Policies are enforced by the numbers from `first` on. To be called before anything is observed.
    pub fn enforce_policies(&mut self, first: FirstNumbers) {
        (self.policies.compiler, self.policies.enforced) = (Compiler::new(first), true);
    }

    /// Whether all is told that a pod of this node needs before its first packet; of one that is not attached: yes.
    pub fn is_settled(&self, pod: &PodName) -> bool {
        let is_told = || self.policies.compiler.table().endpoints.contains_key(pod);
        !self.policies.enforced || !self.identities.is_attached(pod) || is_told()
    }

    /// Whether all is known that policies depend on. Nothing else waits for it.
    pub fn policies_known(&self) -> bool {
        self.identities_known() && POLICY_KINDS.iter().all(|kind| self.listings.complete.contains(kind))
    }

    pub(super) fn update_policy(&mut self) {
        if !self.policies_known() {
            return;
        }
        let (pods, identities) = self.identities.take_policy_news();
        for id in identities {
            self.policies.compiler.set_identity(id, self.identities.labels_of_identity(id).as_deref());
        }
        for name in pods {
            let pod = self
                .identities
                .pod_of_policy(&name)
                .map(|pod| Pod { local: pod.local.map(|_| self.policies.mode(&name)), ..pod });
            self.policies.compiler.set_pod(&name, pod);
        }
        self.pending.policy.merge(self.policies.compiler.take_update());
    }

    /// Takes in a policy of either kind.
    pub(crate) fn set_policy(&mut self, reading: Reading) {
        let Reading { policy, problems } = reading;
        let object = object(&policy.name);
        let problem = |problem: policy::Problem| Problem {
            object: object.clone(),
            field: problem.field,
            reason: problem.reason,
        };
        let problems = problems.into_iter().map(problem).collect();
        self.note_problems(object.clone(), problems);
        self.policies.names.insert(policy.name.clone());
        self.policies.compiler.set_policy(policy);
    }

    /// Takes in the end of a policy.
    pub(crate) fn remove_policy(&mut self, kind: PolicyKind, (namespace, name): &Key) {
        let name = PolicyName { kind, namespace: namespace.clone(), name: name.clone() };
        self.note_problems(object(&name), vec![]);
        self.policies.names.remove(&name);
        self.policies.compiler.remove_policy(&name);
    }

    pub(crate) fn policies(&self, kind: PolicyKind) -> BTreeSet<Key> {
        let of_kind = self.policies.names.iter().filter(|name| name.kind == kind);
        of_kind.map(|name| (name.namespace.clone(), name.name.clone())).collect()
    }

    /// Takes in what a Pod's annotation says; what is wrong with it.
    pub(crate) fn set_pod_mode(&mut self, name: &PodName, meta: Option<&ObjectMeta>) -> Vec<Problem> {
        let (said, problems) = mode_of(ObjectRef::pod(name), meta);
        let before = match said {
            Some(said) => self.policies.pods.insert(name.clone(), said),
            None => self.policies.pods.remove(name),
        };
        if before != said {
            self.identities.note_for_policy(|pod| pod == name);
        }
        problems
    }

    /// The same for a Namespace.
    pub(crate) fn set_namespace_mode(&mut self, name: &str, meta: Option<&ObjectMeta>) -> Vec<Problem> {
        let (said, problems) = mode_of(ObjectRef::namespace(name), meta);
        let before = match said {
            Some(said) => self.policies.namespaces.insert(name.to_owned(), said),
            None => self.policies.namespaces.remove(name),
        };
        if before != said {
            self.identities.note_for_policy(|pod| pod.namespace == name);
        }
        problems
    }

    /// Pods whose annotation is remembered.
    pub(crate) fn pods_with_mode(&self) -> impl Iterator<Item = &PodName> {
        self.policies.pods.keys()
    }
}

fn object(name: &PolicyName) -> ObjectRef {
    ObjectRef { kind: kind(name.kind), namespace: name.namespace.clone(), name: name.name.clone() }
}

pub(super) fn kind(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::NetworkPolicy => NetworkPolicy::KIND,
        PolicyKind::ClusterNetworkPolicy => ClusterNetworkPolicy::KIND,
    }
}

/// A word that is none of the two is reported, and enforces.
fn mode_of(object: ObjectRef, meta: Option<&ObjectMeta>) -> (Option<Mode>, Vec<Problem>) {
    let mut report = Report::of(object);
    let said = read::mode(meta.and_then(|meta| meta.annotations.as_ref())).map(|said| {
        let field = || format!("metadata.annotations[{POLICY_ANNOTATION}]");
        report.take(field, said).unwrap_or_default()
    });
    (said, report.finish())
}
