//! What the API server's state lacks, as far as this node has to see to it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::{SignedDuration, Timestamp},
};
use model::{IdentityId, Labels, PodName};

use super::{Choice, EndpointStatus, Identities, TwinplaneEndpoint, policy::published};
use crate::index::Judgement;

/// How long an identity must be unused before it is removed: much longer than any watch lags behind, because a node that
/// begins to use it calls its collection off.
pub(crate) const GRACE: SignedDuration = SignedDuration::from_mins(10);

/// How long an identity must be seen unused before it is marked: whoever made it, or called its collection off, needs a
/// moment to publish an endpoint.
const IDLE: SignedDuration = SignedDuration::from_mins(1);

/// A write to the API server. All are conditional: what another node did first makes it void, and the watch tells what is
/// to be wished for then.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// Give these labels this number, unless it is taken.
    Create { id: IdentityId, labels: Labels },
    /// Call the collection of an identity off, if it is still at this version.
    Keep { id: IdentityId, version: String },
    /// Note since when nobody uses an identity, if it is still at this version.
    Mark { id: IdentityId, version: String, since: Timestamp },
    /// Remove an identity, if it is still at this version.
    Remove { id: IdentityId, version: String },
    /// Tell of a pod: create the object, or replace it at this version.
    Publish { endpoint: Box<TwinplaneEndpoint>, replaces: Option<String> },
    /// Remove an endpoint, if it is still at this version.
    Withdraw { pod: PodName, version: String },
    /// Say in a ClusterNetworkPolicy's status whether it is enforced as it is written, besides what `others` say there, if it is
    /// still at this version.
    Judge { policy: String, version: String, others: Vec<Condition>, judgement: Box<Judgement> },
}

impl Identities {
    /// Everything that is to be written now. `nodes`: of the cluster, in order of name. `None`: the same as at the last call,
    /// unless `again`.
    pub(crate) fn take_wishes(&mut self, nodes: &[&str], now: Timestamp, again: bool) -> Option<Vec<Wish>> {
        self.settle();
        if !std::mem::take(&mut self.stirred) && !again {
            return None;
        }
        let mut wishes = self.of_numbers();
        wishes.extend(self.of_endpoints());
        wishes.extend(self.of_garbage(nodes, now));
        Some(wishes)
    }

    fn of_numbers(&self) -> Vec<Wish> {
        let all: BTreeSet<&Labels> = self.attached.values().filter_map(|pod| pod.labels.as_deref()).collect();
        let wish = |labels: &Labels| match self.numbers.choose(labels) {
            Choice::Create(id) => Some(Wish::Create { id, labels: labels.clone() }),
            Choice::Keep(id) => Some(Wish::Keep { id, version: self.numbers.get(id)?.version.clone() }),
            Choice::Use(_) | Choice::Exhausted => None,
        };
        all.into_iter().filter_map(wish).collect()
    }

    fn of_endpoints(&self) -> Vec<Wish> {
        let mut wishes = vec![];
        for (name, attached) in &self.attached {
            let Some((uid, identity)) = &attached.identity else { continue };
            let status = EndpointStatus {
                node: self.node.clone(),
                identity: *identity,
                addresses: attached.addresses.iter().map(ToString::to_string).collect(),
                ports: self.pods.get(name).map(|pod| published(&pod.ports)).unwrap_or_default(),
            };
            let published = self.published.get(name);
            if published.is_none_or(|there| there.status != status || there.pod_uid.as_ref() != Some(uid)) {
                let endpoint = Box::new(TwinplaneEndpoint::new(name, uid, status));
                let replaces = published.map(|there| there.version.clone());
                wishes.push(Wish::Publish { endpoint, replaces });
            }
        }
        let ours = self.published.iter().filter(|(_, there)| there.status.node == self.node);
        let gone = ours.filter(|(name, _)| self.attached_known && !self.attached.contains_key(name));
        wishes.extend(
            gone.map(|(name, there)| Wish::Withdraw { pod: name.clone(), version: there.version.clone() }),
        );
        wishes
    }

    /// Each identity is one node's to collect; where two nodes disagree about the nodes there are, one of them is late.
    fn of_garbage(&mut self, nodes: &[&str], now: Timestamp) -> Vec<Wish> {
        let before = std::mem::take(&mut self.idle);
        let Some(place) = nodes.iter().position(|node| *node == self.node) else { return vec![] };
        let needed: BTreeSet<IdentityId> =
            self.attached.values().filter_map(|pod| self.needed(pod)).collect();
        let unused = self.numbers.iter().filter(|(id, _)| {
            id.get() as usize % nodes.len() == place && !self.users.contains_key(id) && !needed.contains(id)
        });
        let (mut idle, mut wishes) = (BTreeMap::new(), vec![]);
        for (id, known) in unused {
            let version = known.version.clone();
            // Whatever is written to it is a sign of life.
            let since = before.get(&id).filter(|(seen, _)| *seen == version).map_or(now, |(_, since)| *since);
            match known.unused_since {
                None if now.duration_since(since) >= IDLE => {
                    wishes.push(Wish::Mark { id, version, since: now })
                }
                Some(marked) if now.duration_since(marked) >= GRACE => {
                    wishes.push(Wish::Remove { id, version })
                }
                _ => _ = idle.insert(id, (version, since)),
            }
        }
        self.idle = idle;
        wishes
    }

    fn needed(&self, pod: &super::Attached) -> Option<IdentityId> {
        match self.numbers.choose(pod.labels.as_deref()?) {
            Choice::Use(id) | Choice::Keep(id) => Some(id),
            Choice::Create(_) | Choice::Exhausted => None,
        }
    }
}
