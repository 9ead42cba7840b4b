//! What the kernel enforces at a pod, and what it would decide: read back from its tables, named by the agent. Decides nothing
//! by itself: [`PolicyTable::decide`] does, on what was read.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Query, State},
};
use cluster::Index;
use dataplane::Enforced;
use model::{
    IdentityId, PodName, PolicyTable,
    policy::{Action, Basis, Direction, L4, L4Match, Peer, PeerAddress, Question, RuleId, Tier},
};
use serde::Deserialize;

use super::{Answer, Context};
use crate::wire::{Failure, FailureKind, PolicyDecision, PolicyQuestion, PolicyRow, PolicyView};

#[derive(Deserialize)]
pub(super) struct Of {
    namespace: String,
    pod: String,
}

pub(super) async fn get(State(context): State<Context>, Query(of): Query<Of>) -> Answer<PolicyView> {
    let pod = PodName { namespace: of.namespace, name: of.pod };
    let enforced = enforced(&context, &pod).await?;
    let identities = context.controller.ask(Index::identity_views).await?;
    let labels = identities.into_iter().map(|view| (view.id, view.labels)).collect();
    Ok(Json(view(&pod, &enforced, &labels)))
}

pub(super) async fn decide(
    State(context): State<Context>,
    Json(asked): Json<PolicyQuestion>,
) -> Answer<PolicyDecision> {
    let pod = PodName { namespace: asked.namespace.clone(), name: asked.pod.clone() };
    let enforced = enforced(&context, &pod).await?;
    let peer = asked.peer;
    let identity = context.worker.ask(move |reconciler| reconciler.plane().identity_of(peer)).await??;
    // An address that the kernel does not have is nobody's to it (`bpf/src/identity.rs`).
    let identity = identity.unwrap_or_default();
    Ok(Json(decision(enforced.deciding(peer), &pod, &asked, identity)))
}

fn decision(
    table: &PolicyTable,
    pod: &PodName,
    asked: &PolicyQuestion,
    identity: IdentityId,
) -> PolicyDecision {
    let longest = table.prefixes.iter().filter(|(net, _)| net.contains(&asked.peer));
    let prefix = longest.max_by_key(|(net, _)| net.prefix_len()).map(|(_, id)| *id);
    let decision = table.decide(&Question {
        endpoint: pod,
        direction: asked.direction,
        peer: PeerAddress { identity, prefix },
        l4: asked.protocol.map_or(L4::Other, |protocol| L4::Port(protocol, asked.port)),
        loopback: asked.loopback,
    });
    let rule = match decision.basis {
        Basis::Rule(_, rule) | Basis::Isolated(rule) => table.rules.get(&rule),
        Basis::LocalNode | Basis::Itself | Basis::Default | Basis::Unknown => None,
    };
    let mode = table.endpoints.get(pod).map(|policy| policy.mode);
    PolicyDecision { decision, rule: rule.map(|rule| (**rule).clone()), identity, mode }
}

async fn enforced(context: &Context, pod: &PodName) -> Result<Enforced, Failure> {
    let name = pod.clone();
    let (is_here, enforced) = context
        .worker
        .ask(move |reconciler| {
            let wanted = reconciler.wanted();
            (wanted.endpoints.contains_key(&name), reconciler.plane().enforced(&name, &wanted.policy))
        })
        .await?;
    let failure = |kind, message| Failure { kind, message };
    if !is_here {
        return Err(failure(FailureKind::NotFound, format!("pod {pod}: not on node {}", context.node)));
    }
    enforced?.ok_or_else(|| {
        let message = format!("node {}: its dataplane enforces no policies", context.node);
        failure(FailureKind::NotFound, message)
    })
}

fn view(pod: &PodName, enforced: &Enforced, labels: &BTreeMap<IdentityId, Vec<String>>) -> PolicyView {
    let table = &enforced.table;
    let policy = table.endpoints.get(pod).copied().unwrap_or_default();
    let mut rows = vec![];
    for direction in Direction::ALL {
        for tier in Tier::ALL {
            let Some(list) = policy.direction(direction).list(tier) else { continue };
            for (key, ports) in table.peers.iter().filter(|(key, _)| key.list == list) {
                let said = table.ports.get(ports).into_iter().flat_map(|ports| ports.iter());
                rows.extend(said.map(|(l4, said)| {
                    let labels = labels_of(table, key.peer, labels);
                    let of = (direction, tier, key.peer, said.action);
                    row(enforced, of, labels, *l4, Some(said.rule))
                }));
            }
            if tier == Tier::NetworkPolicy {
                let isolation = table.lists.get(&list).and_then(|list| list.isolation);
                let of = (direction, tier, Peer::Anyone, Action::Deny);
                rows.push(row(enforced, of, vec![], L4Match::Any, isolation));
            }
        }
    }
    let mode = table.endpoints.get(pod).map(|policy| policy.mode);
    PolicyView { pod: pod.clone(), mode, rows }
}

fn row(
    enforced: &Enforced,
    (direction, tier, peer, action): (Direction, Tier, Peer, Action),
    labels: Vec<String>,
    l4: L4Match,
    rule: Option<RuleId>,
) -> PolicyRow {
    let count = rule.and_then(|rule| enforced.counts.get(&rule)).copied().unwrap_or_default();
    let name = rule.and_then(|rule| enforced.table.rules.get(&rule));
    let (protocol, ports) = match l4 {
        L4Match::Any => (None, [0, u16::MAX]),
        L4Match::Ports(protocol, ports) => (Some(protocol), [ports.first(), ports.last()]),
    };
    PolicyRow {
        action,
        direction,
        tier,
        peer,
        labels,
        protocol,
        ports,
        packets: count.packets,
        bytes: count.bytes,
        rule: name.map(|name| (**name).clone()),
    }
}

fn labels_of(table: &PolicyTable, peer: Peer, labels: &BTreeMap<IdentityId, Vec<String>>) -> Vec<String> {
    match peer {
        Peer::Identity(id) if id.is_local() => {
            let named = table.prefixes.iter().filter(|(_, of)| **of == id);
            named.map(|(net, _)| format!("cidr:{net}")).collect()
        }
        Peer::Identity(id) => labels.get(&id).cloned().unwrap_or_default(),
        Peer::Pods | Peer::Anyone => vec![],
    }
}

#[cfg(test)]
mod tests {
    use dataplane::RuleTraffic;
    use model::{
        Protocol, Reserved,
        policy::{
            DirectionPolicy, EndpointPolicy, ListId, Mode, PeerKey, PolicyKind, PolicyName, PortAction,
            PortMap, PortPrefix, PortsId, Rank, RuleList, RuleRef, Verdict,
        },
    };

    use super::*;

    fn pod() -> PodName {
        PodName { namespace: "shop".into(), name: "web".into() }
    }

    fn rule(index: Option<usize>) -> std::sync::Arc<RuleRef> {
        let policy =
            PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "shop".into(), name: "web".into() };
        RuleRef { policy, direction: Direction::Ingress, rule: index, name: None, line: None }.into()
    }

    /// Isolated: identity 300 and a prefix get TCP 80.
    fn enforced() -> Enforced {
        let mut table = PolicyTable::default();
        let ingress = DirectionPolicy { network_policy: Some(ListId(1)), ..DirectionPolicy::default() };
        table.endpoints.insert(pod(), EndpointPolicy { ingress, ..EndpointPolicy::default() });
        let isolation = Some(RuleId(7));
        let list = RuleList { direction: Direction::Ingress, tier: Tier::NetworkPolicy, isolation };
        table.lists.insert(ListId(1), list);
        let prefix = IdentityId::local(0);
        table.prefixes.insert("192.0.2.0/24".parse().expect("prefix"), prefix);
        let allow = PortAction { rank: Rank(0), action: Action::Allow, rule: RuleId(5) };
        let l4 = L4Match::Ports(Protocol::Tcp, PortPrefix::one(80));
        table.ports.insert(PortsId(1), PortMap::new([(l4, allow)]).into());
        for id in [IdentityId::from_raw(300), prefix] {
            table.peers.insert(PeerKey { list: ListId(1), peer: Peer::Identity(id) }, PortsId(1));
        }
        table.rules = [(RuleId(5), rule(Some(0))), (RuleId(7), rule(None))].into();
        let counts = [(RuleId(5), RuleTraffic { packets: 2, bytes: 120 })].into();
        Enforced { table, counts, ..Enforced::default() }
    }

    #[test]
    fn rows_have_labels_counts_and_end_with_what_isolation_denies() {
        let labels = [(IdentityId::from_raw(300), vec!["k8s:app=front".to_owned()])].into();
        let view = view(&pod(), &enforced(), &labels);
        let shown: Vec<_> =
            view.rows.iter().map(|row| (row.action, row.labels.join(","), row.packets)).collect();
        let expected = [
            (Action::Allow, "k8s:app=front".to_owned(), 2),
            (Action::Allow, "cidr:192.0.2.0/24".to_owned(), 2),
            (Action::Deny, String::new(), 0),
        ];
        assert_eq!(shown, expected);
        assert_eq!(view.mode, Some(Mode::Enforce));
        assert_eq!((view.rows[0].protocol, view.rows[0].ports), (Some(Protocol::Tcp), [80, 80]));
        assert_eq!(view.rows[2].rule.as_ref().and_then(|rule| rule.rule), None);
    }

    #[test]
    fn a_decision_is_the_tables_by_identity_and_longest_prefix() {
        let ask = |peer: &str, port, identity| {
            let asked = PolicyQuestion {
                namespace: "shop".into(),
                pod: "web".into(),
                direction: Direction::Ingress,
                peer: peer.parse().expect("address"),
                protocol: Some(Protocol::Tcp),
                port,
                loopback: false,
            };
            decision(&enforced().table, &pod(), &asked, identity)
        };
        let world = Reserved::World.id();
        let by_identity = ask("10.20.0.3", 80, IdentityId::from_raw(300));
        assert_eq!(by_identity.rule.and_then(|rule| rule.rule), Some(0));
        assert_eq!(ask("192.0.2.9", 80, world).decision.verdict, Verdict::Allow);
        assert_eq!(ask("192.0.2.9", 81, world).decision.basis, Basis::Isolated(RuleId(7)));
        assert_eq!(ask("192.0.3.9", 80, world).decision.verdict, Verdict::Deny);
        assert_eq!(ask("10.20.0.1", 80, Reserved::Host.id()).decision.basis, Basis::LocalNode);
    }
}
