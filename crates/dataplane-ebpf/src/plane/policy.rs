//! Who may talk to whom, at this node's pods.

use std::collections::BTreeMap;

use dataplane::{Enforced, Error, Key};
use model::{
    PodName, PolicyTable, Snapshot,
    policy::{PolicyChanged, RuleId},
};

use super::EbpfDataplane;
use crate::policies::FirstNumbers;

impl EbpfDataplane {
    /// Programs what `changed` names; returns what failed.
    pub(super) fn apply_policy(
        &mut self,
        snapshot: &Snapshot,
        changed: &PolicyChanged,
    ) -> BTreeMap<Key, Error> {
        if !self.policy {
            return BTreeMap::new();
        }
        let interface =
            |(name, endpoint): (&PodName, &std::sync::Arc<model::Endpoint>)| (name.clone(), endpoint.ifindex);
        let interfaces = snapshot.endpoints.iter().map(interface).collect();
        let refused = self.policies.apply(&snapshot.policy, changed, &interfaces);
        let mut failed = BTreeMap::new();
        for pod in refused.endpoints {
            let error = Error::new("program policy of", pod.to_string(), "it has no place in a table yet");
            failed.insert(Key::Endpoint(pod), error);
        }
        failed.extend(refused.error.map(|error| (Key::Policy, error)));
        failed
    }

    /// Whether the programs ask about policies now.
    pub(super) fn is_enforcing(&self) -> Result<bool, Error> {
        Ok(self.tables.config()?.policy != 0)
    }

    /// See [`dataplane::Dataplane::enforced`].
    pub(super) fn kernel_policy(
        &self,
        endpoint: &PodName,
        wanted: &PolicyTable,
    ) -> Result<Option<Enforced>, Error> {
        if !self.is_enforcing()? {
            return Ok(None);
        }
        let read = self.policies.enforced(endpoint, wanted);
        read.map(Some).map_err(|source| Error::new("read policy of", endpoint.to_string(), source))
    }

    /// The first numbers that a table of policies may give: an earlier agent's may still be in the kernel.
    pub fn first_numbers(&self) -> FirstNumbers {
        self.policies.first_numbers()
    }

    /// Packets and bytes that a rule decided about: those that opened flows, were the first after a change, or were denied.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn rule_count(&self, rule: RuleId) -> Result<(u64, u64), Error> {
        let count = self.policies.rules.count(rule);
        let count = count.map_err(|source| Error::new("read counts of rule", rule.0.to_string(), source))?;
        Ok((count.packets, count.bytes))
    }
}
