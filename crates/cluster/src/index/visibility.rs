//! The endpoints of this node with what may be read of their packets: told anew when either moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use model::{Endpoint, L7Visibility, PodName};

use super::Index;
use crate::{
    problem::{ObjectRef, Problem, Report},
    visibility,
};

/// What was said, by whom, and of whom it counts.
#[derive(Debug, Default)]
pub(super) struct Visibility {
    pods: BTreeMap<PodName, L7Visibility>,
    namespaces: BTreeMap<String, L7Visibility>,
    /// As they were told last.
    endpoints: BTreeMap<PodName, Arc<Endpoint>>,
}

impl Visibility {
    fn of(&self, pod: &PodName) -> L7Visibility {
        let said = self.pods.get(pod).or_else(|| self.namespaces.get(&pod.namespace));
        said.copied().unwrap_or_default()
    }
}

impl Index {
    /// Adds or replaces a pod of this node.
    pub fn set_endpoint(&mut self, mut endpoint: Endpoint) {
        self.identities.attach(&endpoint.pod, &endpoint.addresses);
        endpoint.l7 = self.visibility.of(&endpoint.pod);
        self.tell_endpoint(endpoint);
    }

    /// Forgets a pod of this node.
    pub fn remove_endpoint(&mut self, pod: &PodName) {
        self.identities.detach(pod);
        self.visibility.endpoints.remove(pod);
        self.pending.endpoints.insert(pod.clone(), None);
    }

    fn tell_endpoint(&mut self, endpoint: Endpoint) {
        let (name, endpoint) = (endpoint.pod.clone(), Arc::new(endpoint));
        self.visibility.endpoints.insert(name.clone(), Arc::clone(&endpoint));
        self.pending.endpoints.insert(name, Some(endpoint));
    }

    /// Takes in what a Pod's annotation says; what is wrong with it.
    pub(crate) fn set_pod_visibility(&mut self, name: &PodName, object: Option<&core::Pod>) -> Vec<Problem> {
        let (said, problems) = read(ObjectRef::pod(name), object.map(|object| &object.metadata));
        let before = match said {
            Some(said) => self.visibility.pods.insert(name.clone(), said),
            None => self.visibility.pods.remove(name),
        };
        if before != said {
            self.review(|pod| pod == name);
        }
        problems
    }

    /// The same for a Namespace, of which `problems` are known already.
    pub(crate) fn set_namespace_visibility(
        &mut self,
        name: &str,
        object: Option<&core::Namespace>,
        mut problems: Vec<Problem>,
    ) {
        let (said, annotated) = read(ObjectRef::namespace(name), object.map(|object| &object.metadata));
        problems.extend(annotated);
        self.note_problems(ObjectRef::namespace(name), problems);
        let before = match said {
            Some(said) => self.visibility.namespaces.insert(name.to_owned(), said),
            None => self.visibility.namespaces.remove(name),
        };
        if before != said {
            self.review(|pod| pod.namespace == name);
        }
    }

    /// Pods whose annotation is remembered.
    pub(crate) fn annotated_pods(&self) -> impl Iterator<Item = &PodName> {
        self.visibility.pods.keys()
    }

    fn review(&mut self, concerned: impl Fn(&PodName) -> bool) {
        let names: BTreeSet<PodName> =
            self.visibility.endpoints.keys().filter(|pod| concerned(pod)).cloned().collect();
        for name in names {
            let l7 = self.visibility.of(&name);
            let moved = self.visibility.endpoints.get(&name).filter(|endpoint| endpoint.l7 != l7);
            if let Some(endpoint) = moved {
                let endpoint = Endpoint { l7, ..Endpoint::clone(endpoint) };
                self.tell_endpoint(endpoint);
            }
        }
    }
}

fn read(object: ObjectRef, meta: Option<&ObjectMeta>) -> (Option<L7Visibility>, Vec<Problem>) {
    let mut report = Report::of(object);
    let said = meta.and_then(|meta| visibility::read(meta.annotations.as_ref(), &mut report));
    (said, report.finish())
}
