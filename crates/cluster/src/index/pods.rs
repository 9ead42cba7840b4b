//! Host ports of this node's pods.

use model::{PodName, ServicePort};

use super::Index;
use crate::{
    host_port::Pod,
    owner::Owner,
    problem::{ObjectRef, Problem},
};

impl Index {
    /// `annotated` is what is wrong with its annotations.
    pub(crate) fn set_pod(
        &mut self,
        name: &PodName,
        read: Option<(Pod, Vec<Problem>)>,
        annotated: Vec<Problem>,
    ) {
        let (pod, mut problems) = read.map_or((None, vec![]), |(pod, problems)| (Some(pod), problems));
        problems.extend(annotated);
        self.note_problems(ObjectRef::pod(name), problems);
        if self.pods.get(name) == pod.as_ref() {
            return;
        }
        // A pod that was made anew under its name is another one.
        if let Some(before) = self.pods.remove(name) {
            self.claim(before.owner, Default::default());
        }
        if let Some(pod) = pod {
            self.claim(pod.owner.clone(), pod.claims());
            self.pods.insert(name.clone(), pod);
        }
    }

    pub(super) fn compile_pod(&self, owner: &Owner, name: &PodName) -> (Vec<ServicePort>, Vec<Problem>) {
        let Some(pod) = self.pods.get(name).filter(|pod| pod.owner == *owner) else {
            return Default::default();
        };
        let addresses = self.node_config.as_ref().map_or(&[][..], |node| &node.addresses);
        pod.compile(|claim| self.claims.host_port_places(owner, claim, addresses))
    }
}
