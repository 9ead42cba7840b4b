//! `twinplane policy get`: what the kernel allows and denies at a pod.

use std::process::ExitCode;

use agent::wire::{PolicyRow, PolicyView};
use model::{
    PodName,
    policy::{Action, Direction, Mode, Peer},
};

use super::{
    super::{
        output::{Output, columns},
        target::{Target, wait},
    },
    ends::End,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As namespace/pod, pod (in namespace "default") or 10.20.0.3
    #[arg(value_name = "ENDPOINT")]
    endpoint: End,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// Exit 1 where there is no such endpoint.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let client = args.target.client()?;
    let endpoints = wait(client.cluster_endpoints())?;
    let is = |pod: &PodName, addresses: &[std::net::IpAddr]| match &args.endpoint {
        End::Address(address) => addresses.contains(address),
        End::Pod(name) => pod == name,
    };
    let Some(found) = endpoints.into_iter().find(|endpoint| is(&endpoint.pod, &endpoint.addresses)) else {
        match &args.endpoint {
            End::Address(address) => eprintln!("endpoint {address}: not found"),
            End::Pod(name) => eprintln!("endpoint {name}: not found"),
        }
        return Ok(ExitCode::FAILURE);
    };
    let client = args.target.of_node(&found.node)?;
    let view = wait(client.policy(&found.pod))?;
    args.output.write(&view, table)?;
    Ok(ExitCode::SUCCESS)
}

fn table(view: &PolicyView) -> String {
    let state = match view.mode {
        None => "the kernel has nothing for it yet: it gets and sends nothing",
        Some(Mode::Audit) => "audit: what is denied is told of, and let through",
        Some(Mode::Enforce) if view.rows.is_empty() => "no policy: everything is allowed",
        Some(Mode::Enforce) => "enforced",
    };
    let titles = ["ACTION", "DIRECTION", "TIER", "PEER", "PORT", "BYTES", "PACKETS", "RULE"];
    let mut text = format!("{}: {state}\n", view.pod);
    if !view.rows.is_empty() {
        text += &columns(&titles, view.rows.iter().map(cells));
    }
    text
}

fn cells(row: &PolicyRow) -> Vec<String> {
    let direction = match row.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let action = match row.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
    };
    vec![
        action.to_owned(),
        direction.to_owned(),
        format!("{:?}", row.tier),
        peer(row),
        port(row),
        row.bytes.to_string(),
        row.packets.to_string(),
        row.rule.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string),
    ]
}

fn peer(row: &PolicyRow) -> String {
    match (row.peer, &row.labels[..]) {
        (Peer::Anyone, _) => "anyone".to_owned(),
        (Peer::Pods, _) => "all pods".to_owned(),
        (Peer::Identity(id), []) => id.to_string(),
        (Peer::Identity(_), labels) => labels.join("\n"),
    }
}

fn port(row: &PolicyRow) -> String {
    match (row.protocol, row.ports) {
        (None, _) => "any".to_owned(),
        (Some(protocol), [0, u16::MAX]) => format!("any/{protocol}"),
        (Some(protocol), [first, last]) if first == last => format!("{first}/{protocol}"),
        (Some(protocol), [first, last]) => format!("{first}-{last}/{protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use model::{
        IdentityId, Protocol,
        policy::{PolicyKind, PolicyName, RuleRef, Tier},
    };

    use super::*;

    #[test]
    fn rows_name_peer_port_counts_and_rule() {
        let policy =
            PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "shop".into(), name: "web".into() };
        let rule = RuleRef { policy, direction: Direction::Ingress, rule: Some(1), name: None, line: None };
        let row = PolicyRow {
            action: Action::Allow,
            direction: Direction::Ingress,
            tier: Tier::NetworkPolicy,
            peer: Peer::Identity(IdentityId::from_raw(300)),
            labels: vec!["k8s:app=front".into(), "k8s:role=a".into()],
            protocol: Some(Protocol::Tcp),
            ports: [80, 81],
            packets: 2,
            bytes: 120,
            rule: Some(rule),
        };
        let default = PolicyRow {
            action: Action::Deny,
            peer: Peer::Anyone,
            labels: vec![],
            protocol: None,
            ports: [0, u16::MAX],
            rule: None,
            ..row.clone()
        };
        let pod = PodName { namespace: "shop".into(), name: "web".into() };
        let view = PolicyView { pod, mode: Some(Mode::Enforce), rows: vec![row, default] };
        let text = table(&view);
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "shop/web: enforced",
                "ACTION DIRECTION TIER PEER PORT BYTES PACKETS RULE",
                "allow ingress NetworkPolicy k8s:app=front 80-81/TCP 120 2 NetworkPolicy shop/web ingress[1]",
                "k8s:role=a",
                "deny ingress NetworkPolicy anyone any 120 2 unknown",
            ]
        );
        let missing = PolicyView { mode: None, rows: vec![], ..view };
        assert!(table(&missing).contains("gets and sends nothing"));
    }
}
