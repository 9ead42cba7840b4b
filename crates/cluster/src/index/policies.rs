//! Network policies within the index: what is known of pods, identities and policies goes to the compiler, once all of it was
//! listed; what comes of it goes with the other updates.
//!
//! A pod of this node has no policy, and so gets and sends nothing, before its identity is known.

use std::collections::BTreeMap;

use k8s_openapi::api::{core::v1 as core, networking::v1::NetworkPolicy};
use model::{
    PodName,
    policy::{PolicyKind, PolicyName},
};
use policy::{
    compile::{Compiler, ContainerPorts, FirstNumbers},
    read::{self, Reading},
    v1alpha2::ClusterNetworkPolicy,
};

use super::Index;
use crate::{
    kinds::{Key, Kind, POLICY_KINDS},
    problem::{ObjectRef, Problem},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Policies {
    compiler: Compiler,
    /// Named ports of this node's pods.
    ports: BTreeMap<PodName, ContainerPorts>,
    /// Pods whose ports moved.
    moved: Vec<PodName>,
}

impl Index {
    /// Compiles network policies, with numbers from `first` on. To be called before anything is observed.
    pub fn enforce_policies(&mut self, first: FirstNumbers) {
        let compiler = Compiler::new(first);
        self.policies = Some(Policies { compiler, ports: BTreeMap::new(), moved: vec![] });
    }

    /// Whether all is known that a pod of this node needs before its first packet; of a pod that is not attached: yes.
    pub fn is_settled(&self, pod: &PodName) -> bool {
        let Some(policies) = &self.policies else { return true };
        !self.identities.is_attached(pod) || policies.compiler.table().endpoints.contains_key(pod)
    }

    /// Whether every object was listed that policies depend on.
    pub fn policies_known(&self) -> bool {
        self.identities_known()
            && self.identities.is_attached_known()
            && POLICY_KINDS.iter().all(|kind| self.listings.complete.contains(kind))
    }

    pub(crate) fn set_pod_ports(&mut self, name: &PodName, object: Option<&core::Pod>) {
        let Some(policies) = &mut self.policies else { return };
        let ports = object.and_then(|object| object.spec.as_ref()).map(read::container_ports);
        let before = match ports.clone() {
            Some(ports) => policies.ports.insert(name.clone(), ports),
            None => policies.ports.remove(name),
        };
        if before != ports {
            self.identities.set_ports(name, ports.unwrap_or_default());
            policies.moved.push(name.clone());
        }
    }

    pub(crate) fn set_network_policy(&mut self, key: &Key, object: Option<&NetworkPolicy>) {
        let reading = object.map(|object| read::network_policy(object, None));
        self.set_policy(PolicyKind::NetworkPolicy, key, reading);
    }

    pub(crate) fn set_cluster_network_policy(&mut self, key: &Key, object: Option<&ClusterNetworkPolicy>) {
        let reading = object.map(|object| read::cluster_network_policy(object, None));
        self.set_policy(PolicyKind::ClusterNetworkPolicy, key, reading);
    }

    fn set_policy(&mut self, kind: PolicyKind, (namespace, name): &Key, reading: Option<Reading>) {
        let policy = PolicyName { kind, namespace: namespace.clone(), name: name.clone() };
        let object = object_of(&policy);
        let problems = reading.iter().flat_map(|reading| &reading.problems);
        let problems = problems.map(|problem| Problem {
            object: object.clone(),
            field: problem.field.clone(),
            reason: problem.reason.clone(),
        });
        let problems = problems.collect();
        self.note_problems(object, problems);
        let Some(policies) = &mut self.policies else { return };
        match reading {
            Some(reading) => policies.compiler.set_policy(reading.policy),
            None => policies.compiler.remove_policy(&policy),
        }
    }

    /// The policies that are known, of one kind.
    pub(crate) fn policies_of(&self, kind: PolicyKind) -> impl Iterator<Item = Key> {
        let all = self.policies.iter().flat_map(|policies| policies.compiler.policies());
        let of_kind = all.filter(move |policy| policy.name.kind == kind);
        of_kind.map(|policy| (policy.name.namespace.clone(), policy.name.name.clone()))
    }

    /// Tells the compiler what moved, and takes what comes of it.
    pub(super) fn update_policies(&mut self) {
        if !self.policies_known() {
            return;
        }
        let Some(policies) = &mut self.policies else { return };
        let (mut pods, identities) = self.identities.take_moved_for_policies();
        pods.extend(policies.moved.drain(..));
        for id in identities {
            policies.compiler.set_identity(id, self.identities.labels_of_identity(id));
        }
        for pod in pods {
            let known = self.identities.policy_pod(&pod);
            policies.compiler.set_pod(&pod, known);
        }
        self.pending.policy.merge(policies.compiler.take_update());
    }
}

fn object_of(policy: &PolicyName) -> ObjectRef {
    let kind = match policy.kind {
        PolicyKind::NetworkPolicy => <NetworkPolicy as Kind>::KIND,
        PolicyKind::ClusterNetworkPolicy => <ClusterNetworkPolicy as Kind>::KIND,
    };
    ObjectRef { kind, namespace: policy.namespace.clone(), name: policy.name.clone() }
}
