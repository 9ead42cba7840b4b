//! Whether the kernels of a cluster agree with what follows from its objects. Asks agents; judges nothing.

use std::sync::Arc;

use agent::wire::{PolicyDecision, PolicyQuestion};
use model::{
    PolicyTable,
    policy::{Basis, Direction, L4, Mode, Verdict},
};
use policy::{
    explain::{Agreement, agreement},
    oracle::{self, Walk},
    world::{Connection, World},
};
use serde::Serialize;

use super::super::target::{Target, wait};

/// What one direction's kernel says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kernel {
    pub(super) direction: Direction,
    pub(super) node: String,
    /// `None`: it could not be asked.
    pub(super) agrees: Option<bool>,
    pub(super) decision: Option<PolicyDecision>,
    /// In words: what differs, or why it could not be asked.
    pub(super) detail: String,
}

/// Asks the node of each end that is a pod.
pub(super) fn ask(world: &World, connection: &Connection, target: &Target) -> Vec<Kernel> {
    // Kernels have no lines.
    let mut plain = world.clone();
    plain.drop_lines();
    let Ok(judged) = oracle::judge(&plain, connection) else { return vec![] };
    let walks = [judged.egress, judged.ingress].into_iter().flatten();
    walks.map(|walk| ask_one(&plain, connection, &walk, target)).collect()
}

fn ask_one(world: &World, connection: &Connection, walk: &Walk, target: &Target) -> Kernel {
    let node = world.pods.get(&walk.subject).map(|pod| pod.node.clone()).unwrap_or_default();
    let answer = target.of_node(&node).and_then(|client| {
        let question = question(connection, walk);
        wait(async move { client.policy_decision(&question).await })
    });
    let (agrees, decision, detail) = match answer {
        Ok(told) => {
            let differs = compare(walk, &told);
            let detail = differs.clone().unwrap_or_else(|| "agrees".to_owned());
            (Some(differs.is_none()), Some(told), detail)
        }
        Err(error) => {
            let text = format!("{error:#}");
            (None, None, format!("not asked: {}", text.lines().next().unwrap_or_default()))
        }
    };
    Kernel { direction: walk.direction, node, agrees, decision, detail }
}

fn question(connection: &Connection, walk: &Walk) -> PolicyQuestion {
    let peer = match walk.direction {
        Direction::Ingress => &connection.source,
        Direction::Egress => &connection.destination,
    };
    let (protocol, port) = match connection.l4 {
        L4::Port(protocol, port) => (Some(protocol), port),
        L4::Other => (None, 0),
    };
    PolicyQuestion {
        namespace: walk.subject.namespace.clone(),
        pod: walk.subject.name.clone(),
        direction: walk.direction,
        peer: peer.address,
        protocol,
        port,
        loopback: connection.source.address == connection.destination.address,
    }
}

/// What differs.
fn compare(walk: &Walk, told: &PolicyDecision) -> Option<String> {
    let mut table = PolicyTable::default();
    if let (Basis::Rule(_, id) | Basis::Isolated(id), Some(rule)) = (told.decision.basis, &told.rule) {
        table.rules.insert(id, Arc::new(rule.clone()));
    }
    match agreement(walk, &table, told.decision) {
        Agreement::Same
            if walk.verdict == Verdict::Deny && told.mode.is_some_and(|mode| mode != walk.mode) =>
        {
            let does = if walk.mode == Mode::Audit { "drops it" } else { "lets it through, audited" };
            Some(format!("DIFFERS: {does}"))
        }
        Agreement::Same => None,
        Agreement::Differs { enforced } => {
            let verdict = policy::explain::said(enforced.verdict);
            let ground = match (&told.rule, enforced.basis) {
                (Some(rule), _) => rule.to_string(),
                (None, Basis::Unknown) => "it has no policy of the pod".to_owned(),
                (None, basis) => format!("{basis:?}"),
            };
            Some(format!("DIFFERS: {verdict}: {ground} (peer has identity {} there)", told.identity))
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{
        IdentityId,
        policy::{Decision, RuleId, RuleRef, Tier},
    };
    use policy::manifest;

    use super::*;

    const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: a, containers: []}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  ingress:
    - ports: [{port: 80}]
";

    #[test]
    fn a_kernel_that_decides_otherwise_or_for_another_reason_differs() {
        let mut world = World::default();
        assert_eq!(manifest::read(&mut world, "x.yaml", OBJECTS), []);
        world.drop_lines();
        let party = |text: &str| world.party(text.parse().expect("address")).expect("a party");
        let l4 = L4::Port(model::Protocol::Tcp, 80);
        let connection = Connection { source: party("192.0.2.1"), destination: party("10.0.0.1"), l4 };
        let walk = oracle::judge(&world, &connection).expect("decided").ingress.expect("a pod");
        let asked = question(&connection, &walk);
        assert_eq!((asked.pod.as_str(), asked.peer.to_string()), ("web", "192.0.2.1".into()));
        let policy::oracle::Ground::Rule(_, rule) = walk.ground.clone() else { panic!("{:?}", walk.ground) };
        let told = |verdict, basis, rule: Option<RuleRef>| PolicyDecision {
            decision: Decision { verdict, basis },
            rule,
            identity: IdentityId::from_raw(2),
            mode: Some(Mode::Enforce),
        };
        let basis = Basis::Rule(Tier::NetworkPolicy, RuleId(5));
        assert_eq!(compare(&walk, &told(Verdict::Allow, basis, Some(rule.clone()))), None);
        let other = RuleRef { rule: Some(4), ..rule.clone() };
        let isolates = RuleRef { rule: None, ..rule.clone() };
        for (verdict, basis, rule) in [
            (Verdict::Deny, Basis::Isolated(RuleId(7)), Some(RuleRef { rule: None, ..rule })),
            (Verdict::Allow, basis, Some(other)),
            (Verdict::Allow, basis, None),
            (Verdict::Deny, Basis::Unknown, None),
        ] {
            let said = compare(&walk, &told(verdict, basis, rule));
            assert!(said.as_ref().is_some_and(|said| said.starts_with("DIFFERS")), "{said:?}");
        }
        let isolated = Connection { l4: L4::Port(model::Protocol::Tcp, 81), ..connection };
        let walk = oracle::judge(&world, &isolated).expect("decided").ingress.expect("a pod");
        let basis = Basis::Isolated(RuleId(7));
        let denied = told(Verdict::Deny, basis, Some(isolates));
        assert_eq!(compare(&walk, &denied), None);
        let audited = PolicyDecision { mode: Some(Mode::Audit), ..denied };
        assert_eq!(compare(&walk, &audited).as_deref(), Some("DIFFERS: lets it through, audited"));
    }
}
